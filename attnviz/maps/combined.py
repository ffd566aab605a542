"""One map of several heads, their mean or the largest of them: exact, also where a cell stands for several pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attnviz.attention.inputs import Inputs
from attnviz.attention.patterns import Pattern
from attnviz.base.errors import InputError
from attnviz.base.types import Cells, Positions, Progress
from attnviz.engine.reducer import Reduced
from attnviz.engine.request import Request, asks
from attnviz.maps.map import AttentionMap, cells_of, map_with, reduced_of

HOWS: dict[str, str] = {"mean": "mass", "max": "max"}
"""How heads are combined, and the only reduction that it is exact with: a mean of sums is the sum of the mean, and
the largest of the largest is the largest, but the mean of the largest is not the largest mean."""

_MOST_QUERIES = 2048
"""Queries whose cells are kept each by itself, where heads differ in what they hide."""


@asks("batch", "values", "pixels", "queries", "keys", "device", "dtype", "memory")
def combined_map(
    inputs: Inputs,
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
    return combined(Request(inputs, pattern, heads, reduce=reduce or exact, **what), how, progress=progress)


def combined(request: Request, how: str, *, progress: Progress | None = None) -> AttentionMap:
    """The heads of a request as one map."""
    if not request.chosen:
        raise InputError(f"{request.inputs.source}: the {how} of no heads; name one or more of {request.inputs.H}")
    first, *others = request.chosen
    reduced = reduced_of(request, first, progress=progress)
    shown = map_with(request, first, cells_of(reduced))
    _check_exact(shown, how)
    mean = _Mean(request, reduced) if how == "mean" and request.values == "weights" else None
    for head in others:
        reduced = reduced_of(request, head, progress=progress)
        if mean is not None:
            mean.add(reduced)
        elif how == "mean":
            np.add(shown.cells, cells_of(reduced), out=shown.cells)  # a logit that one head hides has no mean
        else:
            np.fmax(shown.cells, cells_of(reduced), out=shown.cells)
    if mean is not None:
        shown = replace(shown, cells=mean.result())
    elif how == "mean":
        np.divide(shown.cells, len(request.chosen), out=shown.cells)
    return replace(shown, combined=how, heads=request.chosen)


class _Mean:
    """The mean of heads' weights while their cells come in.

    Each query's mean is over the heads where it sees a key; a key that it sees in one of them alone is 0 in the others. Where
    all heads see with the same queries of a row of cells, or with none of them, the mean of their cells is the cell of
    their mean.
    """

    def __init__(self, request: Request, first: Reduced) -> None:
        self.request, self.edges = request, request.edges()
        self.total = np.zeros_like(cells_of(first))
        self.seen = np.zeros(self.total.shape, dtype=bool)
        self.counts: list[Positions] = []  # (P,) of each head
        self.queries = np.zeros(len(first.log_sum_exp), dtype=np.int64)  # (T',) the heads where each sees a key
        self.add(first)

    def add(self, reduced: Reduced) -> None:
        """Takes in a head."""
        cells = cells_of(reduced)
        there = ~np.isnan(cells)
        self.seen |= there
        np.add(self.total, cells, out=self.total, where=there)
        self.counts.append(reduced.counts)
        self.queries += ~np.isnan(reduced.log_sum_exp.numpy())

    def result(self) -> Cells:
        """The cells of the mean."""
        rows = self.edges[0] - self.edges[0][0]
        counts = np.add.reduceat(self.queries > 0, rows[:-1], dtype=np.int64)  # (P,) queries that any head sees with
        of_heads = np.stack(self.counts)  # (heads, P)
        self.total /= np.maximum((of_heads > 0).sum(0), 1)[:, None]
        ragged = np.logical_or.reduce((of_heads > 0) & (of_heads < counts), axis=0)  # (P,)
        for bins in _runs(ragged, rows):
            self.total[bins] = self._query_by_query(bins, counts[bins])
        np.copyto(self.total, np.nan, where=~self.seen)
        return self.total

    def _query_by_query(self, bins: slice, counts: Positions) -> Cells:
        """Rows of cells whose queries see in some heads each."""
        edges = self.edges[0][bins.start : bins.stop + 1]
        queries = np.arange(edges[0], edges[-1] + 1)
        asked, total = self.request, np.zeros((len(queries) - 1, self.total.shape[1]))
        with torch.no_grad(), torch.autocast(asked.item.device.type, enabled=False):
            for head in asked.chosen:
                found = asked.attention.cells(
                    head, queries, self.edges[1], reductions=(asked.reduce,), memory=asked.memory
                )
                total += np.nan_to_num(cells_of(found))
        first = self.edges[0][0]
        total /= np.maximum(self.queries[edges[0] - first : edges[-1] - first], 1)[:, None]
        summed: Cells = np.add.reduceat(total, edges[:-1] - edges[0], axis=0)
        return summed / counts[:, None]


def _runs(wanted: NDArray[np.bool_], rows: Positions) -> Iterator[slice]:
    """The rows of cells that are wanted, in runs of about as many queries as are worth a picture of their own."""
    start: int | None = None
    for n, one in enumerate([*wanted.tolist(), False]):
        if start is not None and (not one or rows[n] - rows[start] >= _MOST_QUERIES):
            yield slice(start, n)
            start = None
        if one and start is None:
            start = n


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
