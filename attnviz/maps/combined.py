"""One map of several heads, their mean or the largest of them: exact, also where a cell stands for several pairs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from attnviz.attention.derived import SomeInputs
from attnviz.attention.patterns import Pattern
from attnviz.base.errors import InputError
from attnviz.base.types import Progress
from attnviz.engine.request import Request, ask, asks, of_heads
from attnviz.maps.map import AttentionMap, cells_of, map_with, reduced_of

HOWS: dict[str, str] = {"mean": "mass", "max": "max"}
"""How heads are combined, and the only reduction that it is exact with: a mean of sums is the sum of the mean, and
the largest of the largest is the largest, but the mean of the largest is not the largest mean."""


@asks("batch", "values", "pixels", "queries", "keys", "device", "dtype", "memory")
def combined_map(
    inputs: SomeInputs,
    how: str = "mean",
    heads: Iterable[int] | None = None,
    pattern: Pattern | str | None = None,
    *,
    reduce: str | None = None,
    progress: Progress | None = None,
    **what: Any,
) -> AttentionMap:
    """The mean of several heads' maps, or the largest value of any of them, exact, in at most ``pixels`` cells a side.

    One head is in memory at a time. Heads may differ in what they hide: a key hidden in one counts 0 there, and the mean of
    a query is over the heads where it sees a key.

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
    return combined(ask(inputs, pattern, heads, reduce=reduce or exact, **what), how, progress=progress)


def combined(request: Request, how: str, *, progress: Progress | None = None) -> AttentionMap:
    """The heads of a request as one map."""
    if not request.chosen:
        raise InputError(f"{request.inputs.source}: the {how} of no heads; name one or more of {request.inputs.H}")
    one, first, heads = of_heads(request, how), request.chosen[0], len(request.chosen)
    rows, columns = one.edges()
    _check_exact(map_with(request, first, np.empty((len(rows) - 1, len(columns) - 1))), how)
    told = None if progress is None else lambda rows: progress(rows * heads)
    reduced = reduced_of(one, 0, progress=told)
    left_out = one.attention.left_out(0, request.rows)
    return replace(map_with(request, first, cells_of(reduced)), combined=how, heads=request.chosen, left_out=left_out)


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
