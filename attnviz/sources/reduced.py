"""Reduced maps on disk, ``attnviz.maps/1``: a layer's cells, softmax denominators and statistics, in place of its q and k."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attnviz.base.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from attnviz.attention.inputs import Inputs
    from attnviz.sources.files import TensorFile

SCHEMA = "attnviz.maps/1"

PLACES = (
    "global_mask",
    "key_padding_mask",
    "query_padding_mask",
    "query_positions",
    "key_positions",
    "documents",
    "query_documents",
)
"""Roles that reduced maps have as any inputs do."""

ROLES: dict[str, str] = {
    "max": "largest weight of each cell (B, H, P, P')",
    "mass": "weight on each cell's keys, the mean over its queries (B, H, P, P')",
    "seeing": "how many queries of a row of cells see a key (B, H, P)",
    "log_sum_exp": "logarithm of each query's softmax denominator (B, H, T)",
}
"""The tensors that are a layer's own; those of a page's tiles have ``tiles.`` before their name."""


def tensors_of_maps(inputs: Inputs) -> dict[str, Tensor]:
    """The tensors of reduced maps, by role."""
    from attnviz.attention.reduced import ReducedMaps

    assert isinstance(inputs, ReducedMaps)
    found: dict[str, Tensor] = {"log_sum_exp": inputs.log_sum_exp}
    for prefix, grid in zip(("", "tiles."), inputs.grids, strict=False):
        found |= {f"{prefix}max": grid.max, f"{prefix}mass": grid.mass, f"{prefix}seeing": grid.seeing}
    return found | {name: value for name in PLACES if (value := getattr(inputs, name)) is not None}


def maps_metadata(inputs: Inputs) -> dict[str, Any]:
    """What a file's metadata says of a layer of reduced maps."""
    from attnviz.attention.reduced import ReducedMaps
    from attnviz.base.devices import dtype_name

    assert isinstance(inputs, ReducedMaps)
    return {
        "queries": inputs.T,
        "keys": inputs.S,
        "pixels": inputs.pixels,
        "pattern": str(inputs.pattern),
        "dtype": dtype_name(inputs.of),
        "statistics": [[dict(head) for head in item] for item in inputs.statistics],
    }


def read_maps(main: TensorFile, prefix: str, said: Any, fields: Mapping[str, Any]) -> Inputs:
    """A layer of reduced maps.

    Args:
        main: the file.
        prefix: what the names of the layer's tensors begin with.
        said: what the metadata says of it, as :func:`maps_metadata` gives it.
        fields: labels, the layer and the source.

    Raises:
        InputError: what the file holds is no such layer.
    """
    from attnviz.attention.reduced import Grid, Named, ReducedMaps, grid_edges
    from attnviz.base.devices import DTYPES

    try:
        T, S, pixels = (int(said[name]) for name in ("queries", "keys", "pixels"))
        pattern, of = Named(str(said["pattern"])), DTYPES[said["dtype"]]
        statistics = tuple(tuple(dict(head) for head in item) for item in said["statistics"])
        if min(T, S, pixels) < 1:
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{main.path}: what it says of {prefix or 'its '}maps is not {SCHEMA}; capture it again"
        ) from error
    peaks = main.read(f"{prefix}log_sum_exp")
    B, H = peaks.shape[:2] if peaks.ndim == 3 else (0, 0)
    _check(main, f"{prefix}log_sum_exp", peaks, (B, H, T))
    if len(statistics) != B or any(len(item) != H for item in statistics):
        raise InputError(f"{main.path}: its metadata has no statistics for each of {B} x {H} heads; capture it again")
    grids = []
    for place, (rows, columns) in zip(("", "tiles."), grid_edges(T, S, pixels), strict=False):
        parts = {}
        for name in ("max", "mass", "seeing"):
            shape = (B, H, len(rows) - 1) if name == "seeing" else (B, H, len(rows) - 1, len(columns) - 1)
            parts[name] = main.read(f"{prefix}{place}{name}")
            _check(main, f"{prefix}{place}{name}", parts[name], shape)
        grids.append(Grid(rows, columns, **parts))
    places: dict[str, Any] = {name: main.read(prefix + name) for name in PLACES if prefix + name in main.contents}
    return ReducedMaps(tuple(grids), peaks, statistics, pixels, of, pattern=pattern, **places, **fields)


def _check(main: TensorFile, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raises InputError for a tensor of another shape."""
    if tuple(tensor.shape) != shape:
        raise InputError(f"{main.path}: {name} has shape {tuple(tensor.shape)}, wanted {shape}; capture it again")
