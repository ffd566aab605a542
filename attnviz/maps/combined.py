"""One map of several heads, their mean or the largest of them: exact, also where a cell stands for several pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from attnviz.attention.inputs import AttentionInputs
from attnviz.base.errors import InputError
from attnviz.engine.reducer import Progress, Reduced, reduce_map
from attnviz.maps.map import AttentionMap, attention_map

if TYPE_CHECKING:
    from attnviz.attention.patterns import Pattern

HOWS: dict[str, str] = {"mean": "mass", "max": "max"}
"""How heads are combined, and the only reduction that it is exact with: a mean of sums is the sum of the mean, and
the largest of the largest is the largest, but the mean of the largest is not the largest mean."""


def combined_map(
    inputs: AttentionInputs,
    how: str = "mean",
    heads: Sequence[int] | None = None,
    pattern: Pattern | None = None,
    *,
    batch: int = 0,
    values: str = "weights",
    reduce: str | None = None,
    pixels: int = 1024,
    queries: range | None = None,
    keys: range | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
    reduce_with: Callable[..., Reduced] = reduce_map,
) -> AttentionMap:
    """The mean of several heads' maps, or the largest value of any of them, exact, in at most ``pixels`` cells a side.

    One head is in memory at a time.

    Args:
        inputs, pattern, batch, values, pixels, queries, keys, device, dtype, memory, progress, reduce_with: as in
            :func:`attnviz.attention_map`.
        how: ``mean`` or ``max``.
        heads: the query heads; None is all.
        reduce: what a cell of a larger map holds. None is the one that ``how`` is exact with: ``mass`` of a mean
            (a row of cells still sums to 1), ``max`` of a max.

    Raises:
        InputError: as :func:`attnviz.attention_map`; a reduction that ``how`` is not exact with, on a map that is
            larger than its picture.

    >>> import attnviz
    >>> shown = attnviz.combined_map(attnviz.synthesize(), "mean", heads=[0, 3])
    >>> shown.name, shown.cells.sum(axis=1).round(6).tolist() == [1.0] * 10
    ('mean of heads 0, 3', True)
    """
    if how not in HOWS:
        raise InputError(f"heads are combined as {how!r}; write one of {', '.join(HOWS)}")
    chosen = tuple(range(inputs.H)) if heads is None else tuple(heads)
    if not chosen:
        raise InputError(f"{inputs.source}: the {how} of no heads; name one or more of {inputs.H}")
    # Logits have no mass; where nothing is reduced, max of one value is that value.
    exact = "max" if values == "logits" else HOWS[how]
    combined: AttentionMap | None = None
    for head in chosen:
        shown = attention_map(
            inputs,
            head,
            pattern,
            batch=batch,
            values=values,
            reduce=reduce or exact,
            pixels=pixels,
            queries=queries,
            keys=keys,
            device=device,
            dtype=dtype,
            memory=memory,
            progress=progress,
            reduce_with=reduce_with,
        )
        if combined is None:
            _check_exact(shown, how)
            combined = replace(shown, combined=how, heads=chosen)
        elif how == "mean":
            np.add(combined.cells, shown.cells, out=combined.cells)
        else:
            np.fmax(combined.cells, shown.cells, out=combined.cells)
    assert combined is not None
    if how == "mean":
        np.divide(combined.cells, len(chosen), out=combined.cells)
    return combined


def _check_exact(shown: AttentionMap, how: str) -> None:
    """Raises InputError where cells of ``shown`` cannot be combined without being wrong."""
    if not shown.reduced or shown.reduce == HOWS[how]:
        return
    rows, columns = (f"{size:.4g}" for size in shown.cell_size)
    if shown.values == "logits":
        raise InputError(
            f"--{how} of logits: a cell here is the largest of {rows} x {columns} logits, and the {how} of those is "
            f"none of the {how}; show a part with --queries and --keys, or take --values weights"
        )
    raise InputError(
        f"--{how} with --reduce {shown.reduce}: a cell here is the {shown.reduce} of {rows} x {columns} weights, and the "
        f"{how} of those over heads is not the {shown.reduce} of the {how}; choose --reduce {HOWS[how]}"
    )
