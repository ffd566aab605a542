"""What is kept of a layer in place of its q and k: reduced maps, softmax denominators and statistics."""

from __future__ import annotations

from dataclasses import fields
from functools import reduce
from typing import Any

import numpy as np
import torch

from attnviz.attention.call import Call
from attnviz.attention.inputs import Inputs
from attnviz.attention.reduced import LEAST, Grid, Named, ReducedMaps, grid_edges
from attnviz.base.errors import InputError
from attnviz.engine.reducer import REDUCTIONS
from attnviz.engine.request import Request, ask
from attnviz.measures.statistics import statistics_of_request


def check_pixels(pixels: int) -> int:
    """How many cells a side are kept. Raises InputError for a number that pictures and tiles can't be made of."""
    if pixels < LEAST or pixels & (pixels - 1):
        raise InputError(
            f"{pixels} cells a side: reduced maps have a power of two, {LEAST} or more; take 256, 512 or 1024"
        )
    return pixels


def reduced(inputs: Inputs, pixels: int = LEAST) -> ReducedMaps:
    """The maps of every head of every batch item in cells, by both reductions, and what else is read of them.

    One pass over each map makes its cells, and one its statistics; nothing of T x S is made.

    Args:
        inputs: queries, keys and masks, or weights that were given.
        pixels: the most cells along each side, a power of two, 256 or more.

    Raises:
        InputError: another number of cells; as :func:`attnviz.attention_map`.

    >>> import attnviz
    >>> from dataclasses import replace
    >>> maps = reduced(replace(attnviz.synthesize(heads=2, tokens=600), pattern=attnviz.Causal()))
    >>> attnviz.attention_map(maps, head=1, pixels=64).cells.shape, maps.grids[0].max.shape
    ((64, 64), torch.Size([1, 2, 256, 256]))
    """
    edges = grid_edges(inputs.T, inputs.S, check_pixels(pixels))
    rows, columns = (reduce(np.union1d, (grid[n] for grid in edges)) for n in range(2))
    requests = [ask(inputs, batch=batch) for batch in range(inputs.B)]
    found = [[_head(one, head, rows, columns) for head in range(inputs.H)] for one in requests]
    largest, mass, seeing, peaks = (
        torch.stack([torch.stack([one[n] for one in item]) for item in found]) for n in range(4)
    )
    whole = Grid(rows, columns, largest, mass, seeing)
    statistics = [[{"queries": one.queries, **one.values} for one in statistics_of_request(item)] for item in requests]
    kept: dict[str, Any] = {one.name: getattr(inputs, one.name) for one in fields(Call) if one.init}
    kept = {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in kept.items()}
    kept["pattern"] = Named(requests[0].attention.pattern_name)
    return ReducedMaps(
        tuple(whole.to(*grid) for grid in edges), peaks, tuple(map(tuple, statistics)), pixels, inputs.dtype, **kept
    )


def _head(
    request: Request, head: int, rows: np.ndarray[Any, Any], columns: np.ndarray[Any, Any]
) -> tuple[torch.Tensor, ...]:
    """A head's cells by both reductions, how many queries of each row see anything, and their log-sum-exp."""
    with torch.no_grad(), torch.autocast(request.item.device.type, enabled=False):
        made = request.attention.cells(head, rows, columns, reductions=REDUCTIONS)
    assert made.max is not None
    assert made.mass is not None
    parts = (made.max, made.mass, made.counts)
    return (*map(torch.from_numpy, parts), made.log_sum_exp.cpu())
