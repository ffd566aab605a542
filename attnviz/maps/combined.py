"""One map of several heads, their mean or the largest of them: exact, also where a cell stands for several pairs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from attnviz.attention.inputs import AttentionInputs
from attnviz.attention.patterns import Pattern
from attnviz.base.errors import InputError
from attnviz.base.types import Progress
from attnviz.engine.request import Request, asks
from attnviz.maps.map import AttentionMap, map_of

HOWS: dict[str, str] = {"mean": "mass", "max": "max"}
"""How heads are combined, and the only reduction that it is exact with: a mean of sums is the sum of the mean, and
the largest of the largest is the largest, but the mean of the largest is not the largest mean."""


@asks("batch", "values", "pixels", "queries", "keys", "device", "dtype", "memory")
def combined_map(
    inputs: AttentionInputs,
    how: str = "mean",
    heads: Iterable[int] | None = None,
    pattern: Pattern | str | None = None,
    *,
    reduce: str | None = None,
    progress: Progress | None = None,
    **what: Any,
) -> AttentionMap:
    """The mean of several heads' maps, or the largest value of any of them, exact, in at most ``pixels`` cells a side.

    One head is in memory at a time.

    Args:
        inputs, pattern, progress, what: as in :func:`attnviz.attention_map`.
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
    # Logits have no mass; where nothing is reduced, max of one value is that value.
    exact = "max" if what.get("values") == "logits" else HOWS[how]
    return combined(Request(inputs, pattern, heads, reduce=reduce or exact, **what), how, progress=progress)


def combined(request: Request, how: str, *, progress: Progress | None = None) -> AttentionMap:
    """The heads of a request as one map."""
    if not request.chosen:
        raise InputError(f"{request.inputs.source}: the {how} of no heads; name one or more of {request.inputs.H}")
    whole: AttentionMap | None = None
    for head in request.chosen:
        shown = map_of(request, head, progress=progress)
        if whole is None:
            _check_exact(shown, how)
            whole = replace(shown, combined=how, heads=request.chosen)
        elif how == "mean":
            np.add(whole.cells, shown.cells, out=whole.cells)
        else:
            np.fmax(whole.cells, shown.cells, out=whole.cells)
    assert whole is not None
    if how == "mean":
        np.divide(whole.cells, len(request.chosen), out=whole.cells)
    return whole


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
