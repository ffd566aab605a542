"""Writes inputs as dumps, and says in their metadata what tensors don't."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnviz.base.errors import InputError
from attnviz.base.writing import as_path
from attnviz.sources.files import write_tensors
from attnviz.sources.format1 import has_moved_window, hid_a_key
from attnviz.sources.naming import prefix_of, split
from attnviz.sources.reduced import SCHEMA, maps_metadata, tensors_of_maps
from attnviz.sources.roles import FORMAT_VERSION, LABELS, MASK, ROLES, SETTINGS

if TYPE_CHECKING:
    from torch import Tensor

    from attnviz.attention.inputs import Inputs


def save(path: str | Path, inputs: Inputs | Sequence[Inputs]) -> None:
    """Writes inputs as a dump that :func:`load` reads back; the format is the suffix's.

    Args:
        path: the file.
        inputs: those of one call, or of several layers: each by its own ``layer``, or by its place where it has none.

    Raises:
        InputError: an unknown suffix, a dtype the format cannot hold, a path that cannot be written, or two layers of one name.

    >>> import attnviz, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     attnviz.save(f"{folder}/run.npz", [attnviz.synthesize(seed=seed) for seed in range(2)])
    ...     attnviz.load(f"{folder}/run.npz", layer=1).H
    8
    """
    path = as_path(path)
    if isinstance(inputs, Iterator):
        inputs = list(inputs)
    if not isinstance(inputs, Sequence):
        said = dump_metadata(layer_metadata(inputs), version=format_of(inputs))
        write_tensors(path, tensors_of(inputs), said)
        return
    tensors: dict[str, Tensor] = {}
    layers: dict[str, dict[str, Any]] = {}
    for place, one in enumerate(inputs):
        label = str(place if one.layer is None else one.layer)
        if label in layers:
            raise InputError(f"{path}: two layers are called {label}; give each a layer of its own (layer=)")
        if split(label)[1] < 0:
            raise InputError(f"{path}: layer {label!r} can't be saved; a layer is a number, or KIND.number")
        prefix = prefix_of(label)
        tensors |= {prefix + role: tensor for role, tensor in tensors_of(one).items()}
        layers[label] = layer_metadata(one)
    if not layers:
        raise InputError(f"{path}: there are no layers to save; give the inputs of one or more")
    write_tensors(as_path(path), tensors, dump_metadata({}, {}, layers, version=max(map(format_of, inputs))))


def tensors_of(inputs: Inputs) -> dict[str, Tensor]:
    """The tensors of a dump of these inputs, by role.

    Raises:
        InputError: a pattern that can't be saved.
    """
    if hasattr(inputs, "grids"):
        return tensors_of_maps(inputs)
    if hasattr(inputs, "parts"):
        raise InputError(
            f"{inputs.source}: is made of several maps and can't be saved as inputs; save what it is made of"
        )
    found = {role: getattr(inputs, role, None) for role in ROLES}
    _, masks = _saved_pattern(inputs)
    if _is_bare_mask(inputs):
        found[MASK] = masks[0]
    else:
        found |= {f"{MASK}.{n}": mask for n, mask in enumerate(masks)}
    return {role: tensor for role, tensor in found.items() if tensor is not None}


def layer_metadata(inputs: Inputs) -> dict[str, Any]:
    """What a dump's metadata says of these inputs: numbers, labels and the pattern."""
    said = {name: getattr(inputs, name, None) for name in (*SETTINGS, *LABELS)}
    said["token_form"] = None if inputs.token_form == "plain" else inputs.token_form
    said["cross"] = True if inputs.cross else None
    said["rotary"] = rotary.said if (rotary := getattr(inputs, "rotary", None)) is not None else None
    if hasattr(inputs, "grids"):
        said["maps"] = maps_metadata(inputs)
    else:
        said["pattern"] = None if _is_bare_mask(inputs) else _saved_pattern(inputs)[0]
    return {name: value for name, value in said.items() if value is not None}


def dump_metadata(
    whole: Mapping[str, Any],
    groups: Mapping[str, Mapping[str, Any]] | None = None,
    layers: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    version: int = FORMAT_VERSION,
) -> dict[str, Any]:
    """A dump's metadata.

    Args:
        whole: what holds for the whole file, as :func:`layer_metadata` gives it.
        groups: what holds for the layers of a kind (``"cross"``).
        layers: what holds for a layer, by its label (``"5"``, ``"cross.5"``).
        version: the format that it needs, the largest :func:`format_of` its layers.
    """
    metadata: dict[str, Any] = {"format": version, "layout": "bhtd", **whole, **(groups or {})}
    if "maps" in whole or any("maps" in one for one in (layers or {}).values()):
        metadata["schema"] = SCHEMA
    return metadata | ({"layers": dict(layers)} if layers else {})


def format_of(inputs: Inputs) -> int:
    """The format that a dump of these inputs needs: 1 where that has words for all of it, with the same meaning."""
    from attnviz.attention.names import NAMES

    if hasattr(inputs, "grids"):
        return FORMAT_VERSION
    said, masks = _saved_pattern(inputs)
    bias = getattr(inputs, "bias", None)
    new = (
        hasattr(inputs, "weights"),
        getattr(inputs, "w_o", None) is not None,
        getattr(inputs, "residual_norms", None) is not None,
        not layer_metadata(inputs).keys().isdisjoint(LABELS[2:]),
        inputs.cross,
        inputs.query_positions is not None,
        inputs.key_positions is not None,
        inputs.documents is not None,
        said is not None and said.get("name", NAMES[0]) not in NAMES,
        not set(said or ()) <= {"name", "window", "dilation", "causal", "mask"},
        any(mask.ndim > 3 for mask in masks),
        has_moved_window(inputs),
        bias is not None and bool(hid_a_key(bias).any()),
    )
    return FORMAT_VERSION if any(new) else 1


def _is_bare_mask(inputs: Inputs) -> bool:
    """Whether the pattern is a mask of pairs that is read back as one, whatever the sizes."""
    from attnviz.attention.patterns import Masked

    own = inputs.pattern
    if not isinstance(own, Masked) or own.mask.shape[-2] != inputs.T:
        return False
    return own.mask.ndim > 2 or not inputs.B == inputs.T > 1


def _saved_pattern(inputs: Inputs) -> tuple[dict[str, Any] | None, list[Tensor]]:
    """What metadata says of the inputs' own pattern, and the masks that it holds."""
    from attnviz.attention.names import description

    masks: list[Tensor] = []
    if inputs.pattern is None:
        return None, masks
    try:
        return description(inputs.pattern, masks), masks
    except InputError as error:
        raise InputError(f"{inputs.source}: {error}") from error
