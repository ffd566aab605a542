"""What a page shows, in words and numbers: the JSON that ``web/FORMAT.md`` lays down, apart from what is in blobs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.engine.attention import Computed
from attnviz.maps.pyramid import Pyramid
from attnviz.version import __version__

FORMAT = 1
"""The version of the page's format."""


@dataclass(frozen=True)
class PageLayer:
    """One layer of a page.

    Args:
        label: what it is called: ``"5"``, ``"cross.5"``.
        item: the batch item.
        pattern: which query sees which key.
        heads: the query heads to show, at least one.

    >>> import attnviz
    >>> layer = PageLayer("0", attnviz.synthesize().item(), attnviz.Causal(), (0, 3))
    >>> describe(layer, Labels())["heads"]
    2
    """

    label: str
    item: AttentionItem
    pattern: Pattern
    heads: tuple[int, ...]

    @property
    def kv_heads(self) -> tuple[int, ...]:
        """The key heads that the page holds: head ``i`` of the page's H reads ``kv_heads[i * K // H]``."""
        read = [self.item.kv_head(head) for head in self.heads]
        once = list(dict.fromkeys(read))
        grouped = [once[i * len(once) // len(read)] for i in range(len(read))]
        return tuple(once if grouped == read else read)  # heads picked at will: a key head for each

    @property
    def own_projections(self) -> bool:
        """Whether rows of global queries have queries and keys of their own."""
        return self.pattern.global_queries and self.item.inputs.q_global is not None

    def of_heads(self, numbers: Tensor | None) -> list[float] | None:
        """One number a head of the page, from one a head of the layer, (H,)."""
        return None if numbers is None else [float(numbers[head]) for head in self.heads]


@dataclass
class Labels:
    """The lists of token labels of a page, each once."""

    lists: list[list[str]] = field(default_factory=list)
    _places: dict[tuple[str, ...], int] = field(default_factory=dict)

    def place(self, labels: Sequence[str] | None) -> int | None:
        """Where a list stands among :attr:`lists`; None where there are no labels."""
        if labels is None:
            return None
        key = tuple(labels)
        if key not in self._places:
            self._places[key] = len(self.lists)
            self.lists.append(list(labels))
        return self._places[key]


def describe(layer: PageLayer, labels: Labels) -> dict[str, Any]:
    """A layer's part of the description that a page of any kind has."""
    item, inputs = layer.item, layer.item.inputs
    numbered = layer.heads != tuple(range(len(layer.heads)))
    return {
        "label": layer.label,
        "heads": len(layer.heads),
        "head_labels": list(layer.heads) if numbered else None,
        "kv_heads": len(layer.kv_heads),
        "queries": item.T,
        "keys": item.S,
        "head_dim": inputs.D,
        "query_labels": labels.place(item.query_labels(range(item.T), space=" ")),
        "key_labels": labels.place(item.key_labels(range(item.S), space=" ")),
        "pattern": str(layer.pattern),
        "scale": item.scale,
        "softcap": inputs.softcap,
        "sinks": layer.of_heads(inputs.sinks),
        "alibi": layer.of_heads(inputs.alibi_slopes),
        "levels": Pyramid(Computed(item, layer.pattern)).levels,
    }


def page_name(source: str, layers: Sequence[PageLayer]) -> str:
    """What a page is called: its source and, where it is one of several, the batch item."""
    items = {layer.item.batch_shown for layer in layers} - {None}
    return f"{source}, batch item {items.pop()}" if len(items) == 1 else source


def description(source: str, mode: str, layers: Sequence[dict[str, Any]], labels: Labels) -> dict[str, Any]:
    """The whole description.

    Args:
        source: what the page is called.
        mode: ``embedded`` or ``live``.
        layers: what :func:`describe` gives of each, with blobs where embedded.
        labels: what they collected.
    """
    return {
        "format": FORMAT,
        "program": f"attnviz {__version__}",
        "source": source,
        "mode": mode,
        "labels": labels.lists,
        "layers": list(layers),
    }


def to_json(described: dict[str, Any]) -> str:
    """JSON that can stand inside a script element: no ``<``, so that no label can end the element; ASCII alone.

    >>> to_json({"labels": [["</script>"]]})
    '{"labels":[["\\\\u003c/script>"]]}'
    """
    return json.dumps(described, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


@dataclass(frozen=True)
class Visible:
    """Which query sees which key, as the page has it: a band with padding, or a bit for each pair.

    Args:
        layer: the layer.
        low, high: bounds of ``s - t``; None is open.
        band: whether the band and the padding say it all.
    """

    layer: PageLayer
    low: int | None
    high: int | None
    band: bool

    @classmethod
    def of(cls, layer: PageLayer) -> Visible:
        """A layer's, as a band where its pattern promises one.

        Raises:
            InputError: the pattern does not fit the inputs.
        """
        reach = layer.pattern.reach(layer.item)
        exact = reach.band and reach.band_exact and reach.step == 1 and reach.keys is None
        return cls(layer, reach.low, reach.high, exact and not layer.pattern.global_queries)

    def hidden(self, rows: Tensor, keys: Tensor) -> Tensor:
        """Which pairs the page hides, (b, n) bool, for query positions (b,) and key positions (n,)."""
        item, t = self.layer.item, rows[:, None]
        if self.band:
            offset = keys - t
            hidden = torch.zeros_like(offset, dtype=torch.bool)
            if self.low is not None:
                hidden |= offset < self.low
            if self.high is not None:
                hidden |= offset > self.high
        else:
            hidden = ~self.layer.pattern.visible(t, keys[None], item)
        padded_keys, padded_rows = item.key_padding, item.query_padding
        if padded_keys is not None:
            hidden = hidden | ~padded_keys[keys]
        if padded_rows is not None:
            hidden = hidden | ~padded_rows[rows][:, None]
        return hidden
