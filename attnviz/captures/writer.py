"""Layers of a run going into a dump."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from attnviz.attention.inputs import Inputs
from attnviz.base.types import Label
from attnviz.captures.heard import Heard
from attnviz.sources.naming import prefix_of, split
from attnviz.sources.roles import SHARED
from attnviz.sources.saving import dump_metadata, format_of, layer_metadata, tensors_of
from attnviz.sources.streams import TensorStream

_SHARED = ("bias", "key_padding_mask", "query_padding_mask", "attention_mask", "global_mask")
"""Roles that layers mostly have in common: written once for a group of layers where they do."""


class Writer:
    """Layers going into a dump: what layers of a group have in common is written once."""

    def __init__(self, stream: TensorStream) -> None:
        self.labels: list[Label] = []
        self._stream = stream
        self._layers: dict[str, Any] = {}
        self._version = 1
        self._groups: dict[str, dict[str, Any]] = {}
        self._shared: dict[str, Tensor] = {}  # by name, what was written for a group

    def add(self, layer: Heard[Any], inputs: Inputs) -> None:
        """Writes a layer."""
        prefix = f"{layer.group}." if layer.group else ""
        own = prefix_of(layer.label)
        self.labels.append(layer.label)
        settings, tensors = layer_metadata(inputs), tensors_of(inputs)
        self._version = max(self._version, format_of(inputs))
        for role, tensor in tensors.items():
            if role not in _SHARED:
                self._stream.add(own + role, tensor)
                continue
            shared = self._shared.get(prefix + role)
            if shared is None and not any(split(label)[0] == layer.group for label in self.labels[:-1]):
                self._stream.add(prefix + role, tensor)
                self._shared[prefix + role] = tensor
            elif shared is None or not _equal(shared, tensor):
                self._stream.add(own + role, tensor)
        # What an earlier layer gave the whole group holds for this one too, unless it says otherwise.
        settings["without"] = [role for role in _SHARED if prefix + role in self._shared and role not in tensors]
        if not settings["without"]:
            del settings["without"]
        common: dict[str, Any] = {name: settings.pop(name) for name in SHARED if name in settings}
        group = self._groups.setdefault(layer.group, common)
        settings |= {name: value for name, value in common.items() if group.get(name) != value}
        settings |= {"rotary": None} if "rotary" in group and "rotary" not in common else {}
        self._layers[str(layer.label)] = settings

    def add_picture(self, picture: Tensor) -> None:
        """Writes the picture the model looked at, (height, width, 3)."""
        self._stream.add("picture", picture)

    def close(self, metadata: dict[str, Any]) -> None:
        """Writes the header."""
        groups = dict(self._groups)
        self._stream.close(dump_metadata(groups.pop("", {}), groups, self._layers, version=self._version) | metadata)

    def abandon(self) -> None:
        """Closes the file, finished or not."""
        self._stream.abandon()


def _equal(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.device == b.device and a.equal(b))
