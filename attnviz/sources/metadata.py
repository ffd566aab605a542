"""What a dump's metadata says of a layer: labels, numbers and the pattern."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attnviz.base.errors import InputError
from attnviz.base.types import Label
from attnviz.sources import given as of_weights
from attnviz.sources.files import TensorFile
from attnviz.sources.naming import layers_of, prefix_of, split
from attnviz.sources.roles import FORMAT_VERSION, LABELS, MASK, SETTINGS

if TYPE_CHECKING:
    from torch import Tensor

    from attnviz.attention.patterns import Pattern
    from attnviz.attention.rotary import Rotary


def settings_of(main: TensorFile | None, layer: Label | None) -> dict[str, Any]:
    """What the dump's metadata says of labels and numbers: the layer's own first, then of its kind, then of all."""
    if main is None:
        return {}
    metadata = {} if of_weights.is_scores(main) else main.metadata  # what scores are of is no setting of theirs
    version = metadata.get("format", FORMAT_VERSION)
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise InputError(
            f"{main.path}: was written in dump format {version}; this attnviz reads up to {FORMAT_VERSION}; update attnviz"
        )
    layers = metadata.get("layers", {})
    of_layer = layers.get(str(layer), {}) if isinstance(layers, dict) else {}
    group = "" if layer is None else split(layer)[0]
    of_group = metadata.get(group, {}) if group else metadata
    of_group = of_group if isinstance(of_group, dict) else {}
    layout = {"layout": metadata["layout"]} if "layout" in metadata else {}
    merged = {**layout, **of_group, **(of_layer if isinstance(of_layer, dict) else {})}
    settings = {name: merged[name] for name in (*SETTINGS, *LABELS, "layout") if name in merged}
    without = merged.get("without", [])
    if not (isinstance(without, list) and _all_text(without)):
        raise InputError(f"{main.path}: its metadata gives without as {without!r}, wanted a list of roles")
    settings["without"] = without
    for name in ("pattern", "maps"):
        if name in merged:
            settings[name] = merged[name]
    if merged.get("rotary") is not None:
        settings["rotary"] = _rotary(main, merged["rotary"])
    # Layers of a kind called cross are so; what their kind has in common stands under the same word.
    said = merged.get("cross", False)
    if not isinstance(said, bool | dict):
        raise InputError(f"{main.path}: its metadata gives cross as {said!r}, wanted true or false")
    settings["format"] = version
    settings["cross"] = group.endswith("cross") or said is True
    for name in SETTINGS:
        if name in settings and not isinstance(settings[name], int | float):
            raise InputError(f"{main.path}: its metadata gives {name} as {settings[name]!r}, wanted a number")
    for name in ("tokens", "query_tokens"):
        labels = settings.get(name, [])
        if not (isinstance(labels, list) and all(isinstance(item, list) and _all_text(item) for item in labels)):
            raise InputError(f"{main.path}: its metadata gives {name} that are not lists of strings, one a batch item")
    return settings


def _rotary(main: TensorFile, said: Any) -> Rotary:
    from attnviz.attention.rotary import Rotary

    try:
        return Rotary.of(said)
    except InputError as error:
        raise InputError(f"{main.path}: its metadata's {error}") from error


def pattern_names(file: TensorFile) -> dict[Label | None, str]:
    """What the pattern of the file, or of each of its layers, is called, where its metadata says one: no mask is read.

    Raises:
        InputError: metadata that no version has.
    """
    found: dict[Label | None, str] = {}
    labels: list[Label | None] = [*layers_of(file.contents)]
    for label in labels or [None]:
        own = settings_of(file, label)
        said = own.get("pattern")
        if isinstance(maps := own.get("maps"), dict):
            found[label] = str(maps.get("pattern"))
        elif said is not None and "'mask'" in repr(said):
            found[label] = "with a mask of its own"
        elif said is not None:
            found[label] = str(own_pattern(file, "" if label is None else prefix_of(label), said))
    return found


def own_pattern(main: TensorFile | None, prefix: str, said: Any) -> Pattern:
    """The pattern that metadata describes: ``{"name": "local", "window": 256, "causal": true}``, or a composition."""
    from attnviz.attention.names import described

    assert main is not None
    masks: list[Tensor] = []
    while (name := f"{prefix}{MASK}.{len(masks)}") in main.contents:
        masks.append(main.read(name))
    known = {"name": str, "window": int, "dilation": int, "causal": bool}
    plain = isinstance(said, dict) and not {"any", "all", "mask"} & set(said)
    if not isinstance(said, dict) or (
        plain and ("name" not in said or any(not isinstance(said[key], known[key]) for key in known if key in said))
    ):
        raise InputError(
            f'{main.path}: its metadata gives the pattern as {said!r}, wanted {{"name": ..., "window": ..., "dilation": ..., "causal": ...}}'
        )
    try:
        return described(said, masks)
    except InputError as error:
        raise InputError(f"{main.path}: its metadata's pattern: {error}") from error


def _all_text(items: list[Any]) -> bool:
    return all(isinstance(item, str) for item in items)
