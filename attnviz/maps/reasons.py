"""Why a query may see a key: the parts of a pattern that make each pair visible, in as many cells as a picture shows.

Query bin i covers the queries ``floor(i*T/P) .. floor((i+1)*T/P) - 1``, key bins likewise, as in
:mod:`attnviz.maps.map`. A cell has every reason that any of its pairs has. Blocks of queries stream through; nothing of
the size of the map is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnviz.attention.derived import SomeInputs
from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.attention.reach import Reach
from attnviz.attention.reduced import check_whole
from attnviz.base.bins import bin_edges
from attnviz.base.types import Cells, Positions
from attnviz.base.words import in_place
from attnviz.engine.attention import Attention
from attnviz.engine.request import Request, ask, asks
from attnviz.maps.map import map_of


@dataclass(frozen=True)
class _Nonzero(Pattern):
    """What weights that were given without a pattern show: the keys whose weight is not 0 in any of some heads."""

    attention: Attention
    heads: tuple[int, ...]
    reason = "weight"

    def visible(self, t: Tensor, s: Tensor, item: Any) -> Tensor:
        rows, keys = t.flatten(), s.flatten()
        seen = torch.zeros(len(rows), len(keys), dtype=torch.bool)
        for head in self.heads:
            found = self.attention.rows(head).read(rows).over(torch.arange(item.S), True)
            seen |= found.seen[:, keys]
        return seen

    def reach(self, item: Any) -> Reach:
        return Reach(band_exact=False)

    def __str__(self) -> str:
        return "weights that are not 0"


ReasonCells = np.ndarray[tuple[int, int], np.dtype[np.int64]]

SEVERAL = "several"
"""What a pair or a cell with more than one reason is called."""

_BLOCK_ROWS = 256  # a band's edge crosses blocks of this many rows and keys, whose pairs are asked one by one
_BLOCK_PAIRS = 1 << 20


@dataclass(frozen=True)
class ReasonMap:
    """Who may see whom and why, ready to draw.

    Args:
        reasons: n names, one a part of the pattern.
        cells: (P, P') sets of reasons as bits: bit i is set where a pair of the cell is visible by ``reasons[i]``.
        pairs: how many of the pairs shown have exactly this set of reasons, by the set's bits; 0 is not visible.
        queries, keys: the positions that the rows and the columns cover.
        query_labels, key_labels: a label for each of them, where there are labels.
        pattern: the pattern's name.
        weights: (P, P') softmax weights of ``head``, NaN where nothing is visible; None is the pattern alone.
        head: the query head of the weights.
        reduce: how a cell stands for its weights, ``max`` or ``mass``.
    """

    reasons: tuple[str, ...]
    cells: np.ndarray[tuple[int, int], np.dtype[np.integer[Any]]]
    pairs: dict[int, int]
    queries: range
    keys: range
    query_labels: Sequence[str] | None = None
    key_labels: Sequence[str] | None = None
    pattern: str = ""
    weights: Cells | None = None
    head: int | None = None
    reduce: str = "max"
    layer: int | str | None = None
    batch: int | None = None

    @property
    def name(self) -> str:
        """Which pattern this is, and of which layer, batch item and head: ``layer 2, head 3 · causal``."""
        whose = in_place(None if self.head is None else f"head {self.head}", self.layer, self.batch)
        return f"{whose} · {self.pattern}" if whose else self.pattern

    @property
    def kinds(self) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """(P, P') the index of a cell's only reason, n where it has several, -1 where nothing is visible."""
        kinds = np.full(self.cells.shape, -1)
        for index in range(len(self.reasons)):
            kinds[self.cells == 1 << index] = index
        kinds[(self.cells & (self.cells - 1)) != 0] = len(self.reasons)
        return kinds

    @property
    def counts(self) -> dict[str, int]:
        """How many pairs are visible by each reason alone, and by several where there is such a pair or cell."""
        counts = {reason: self.pairs.get(1 << index, 0) for index, reason in enumerate(self.reasons)}
        if (self.kinds == len(self.reasons)).any():
            counts[SEVERAL] = self.visible - sum(counts.values())
        return counts

    @property
    def visible(self) -> int:
        """How many pairs are visible."""
        return self.total - self.pairs.get(0, 0)

    @property
    def total(self) -> int:
        """How many pairs there are."""
        return len(self.queries) * len(self.keys)

    @property
    def cell_size(self) -> tuple[float, float]:
        """Queries and keys to a cell."""
        rows, columns = self.cells.shape
        return len(self.queries) / rows, len(self.keys) / columns

    @property
    def reduced(self) -> bool:
        """Whether a cell stands for several pairs."""
        return self.cell_size != (1, 1)

    @property
    def most_weight(self) -> float:
        """The largest weight shown; 0 where there is none."""
        return 0.0 if self.weights is None else float(np.nan_to_num(self.weights).max())


@asks("batch", "reduce", "pixels", "queries", "keys", "device", "dtype")
def reason_map(
    inputs: SomeInputs, pattern: Pattern | str | None = None, *, head: int | None = None, **what: Any
) -> ReasonMap:
    """Which query may see which key and why, exact, in at most ``pixels`` x ``pixels`` cells.

    Args:
        inputs: sizes, global mask, padding and labels; q and k only where ``head`` is given.
        pattern: which query sees which key; None is the inputs' own, else the global keys.
        head: the query head whose weights to give along; None is the pattern alone.
        what: as in :func:`attnviz.attention_map`.

    Raises:
        InputError: as :func:`attnviz.attention_map`.

    >>> import attnviz
    >>> reason_map(attnviz.synthesize(), attnviz.longformer(1)).counts
    {'window': 15, 'global key': 16, 'global query': 16, 'several': 19}
    """
    return reasons_of(ask(inputs, pattern, head, every_key=True, **what), weights=head is not None)


def reasons_of(request: Request, *, weights: bool = False) -> ReasonMap:
    """The reasons of a request's pattern in the region it shows; ``weights``: with those of its first head.

    Of weights that were given without a pattern: which are not 0.
    """
    check_whole(request.inputs)
    item = request.inputs.item(request.batch, device=torch.device("cpu"))
    queries, keys = request.rows, request.columns
    assert isinstance(keys, range)
    head = request.chosen[0] if weights else None
    attention = request.alone().but(device="cpu").attention
    pattern = attention.pattern
    if not attention.knows_hidden:
        pattern = _Nonzero(attention, tuple(range(request.inputs.H)) if head is None else (head,))
    cells, pairs = _union_of_reasons(
        item, pattern if head is None else pattern.of_head(head), queries, keys, request.pixels
    )
    return ReasonMap(
        tuple(reason for reason, _ in pattern.reasons()),
        cells,
        pairs,
        queries,
        keys,
        item.query_labels(queries),
        item.key_labels(keys),
        str(pattern),
        map_of(request).cells if weights else None,
        head,
        request.reduce,
        item.inputs.layer,
        item.batch_shown,
    )


def _union_of_reasons(
    item: AttentionItem, pattern: Pattern, queries: range, keys: range, pixels: int
) -> tuple[ReasonCells, dict[int, int]]:
    """The cells of a picture, (P, P'), and how many pairs have each set of reasons."""
    union = _Union(item, pattern, queries, keys, pixels)
    for start in range(queries.start, queries.stop, _BLOCK_ROWS):
        union.add(range(start, min(start + _BLOCK_ROWS, queries.stop)))
    return union.cells, {int(bits): int(union.pairs[bits]) for bits in np.flatnonzero(union.pairs)}


class _Union:
    """Cells and counts while blocks of queries come in.

    Rows of global queries and columns of shared keys are asked pair by pair. Of the rest the bands alone decide: where
    the edge of none runs through a rectangle, all its pairs have the reasons of one of them, and only the rectangles
    along the edges are asked pair by pair.
    """

    def __init__(self, item: AttentionItem, pattern: Pattern, queries: range, keys: range, pixels: int) -> None:
        self.item, self.keys = item, keys
        self.parts = [part for _, part in pattern.reasons()]
        self.reaches = [part.reach(item) for part in self.parts]
        self.row_edges = bin_edges(queries, min(len(queries), pixels))
        self.column_edges = bin_edges(keys, min(len(keys), pixels))
        self.cells = np.zeros((len(self.row_edges) - 1, len(self.column_edges) - 1), dtype=np.int64)
        self.pairs = np.zeros(1 << len(self.parts), dtype=np.int64)
        self.apart = item.global_queries.numpy() if pattern.global_queries else np.empty(0, dtype=np.int64)
        shared = [reach.keys.numpy() for reach in self.reaches if reach.keys is not None]
        self.shared = np.unique(np.concatenate([*shared, np.empty(0, dtype=np.int64)]))
        self.shared = self.shared[(self.shared >= keys.start) & (self.shared < keys.stop)]
        self.every = np.arange(keys.start, keys.stop)
        alone = np.ones(len(keys), dtype=bool)
        alone[self.shared - keys.start] = False
        self.alone = self.every[alone]  # the keys that bands alone decide of
        shown = alone if item.key_padding is None else alone & item.key_padding.numpy()[keys.start : keys.stop]
        self.shown_before = np.concatenate([[0], np.cumsum(shown)])  # of the keys before each, how many are such

    def add(self, rows: range) -> None:
        """Takes in every pair of a block of queries."""
        t = np.arange(rows.start, rows.stop)
        by_itself = np.isin(t, self.apart)
        self._ask(t[by_itself], self.every)
        t = t[~by_itself]
        if not len(t):
            return
        self._ask(t, self.shared)
        cuts = {self.keys.start, self.keys.stop}
        for reach in self.reaches:
            cuts |= reach.cuts(rows)
        inside = sorted(cut for cut in cuts if self.keys.start <= cut <= self.keys.stop)
        for first, stop in pairwise(inside):
            found = [_whole(reach, rows, range(first, stop)) for reach in self.reaches]
            if None in found:
                self._ask(t, self.alone[slice(*np.searchsorted(self.alone, (first, stop)))])
            else:
                self._fill(t, first, stop, sum(1 << index for index, sees in enumerate(found) if sees))

    def _fill(self, rows: Positions, first: int, stop: int, bits: int) -> None:
        """All pairs of some queries and the keys ``first`` to ``stop`` - 1 that bands alone decide of."""
        here = len(rows) * int(np.diff(np.searchsorted(self.alone, (first, stop)))[0])
        if self.item.query_padding is not None:
            rows = rows[self.item.query_padding.numpy()[rows]]
        before = self.shown_before[np.clip(self.column_edges, first, stop) - self.keys.start]
        shown = len(rows) * int(before[-1] - before[0])
        self.pairs[bits] += shown
        self.pairs[0] += here - shown
        down = np.unique(np.searchsorted(self.row_edges, rows, side="right") - 1)
        self.cells[np.ix_(down, np.flatnonzero(np.diff(before)))] |= bits

    def _ask(self, rows: Positions, keys: Positions) -> None:
        """Every pair of some queries and keys by itself."""
        if not len(rows) or not len(keys):
            return
        across = np.searchsorted(self.column_edges, keys, side="right") - 1
        columns = np.flatnonzero(np.diff(across, prepend=-1))
        size = max(1, _BLOCK_PAIRS // len(keys))
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            bits = _reasons(self.item, self.parts, torch.from_numpy(block), torch.from_numpy(keys)).numpy()
            self.pairs += np.bincount(bits.ravel(), minlength=len(self.pairs))
            down = np.searchsorted(self.row_edges, block, side="right") - 1
            lines = np.flatnonzero(np.diff(down, prepend=-1))
            union = np.bitwise_or.reduceat(np.bitwise_or.reduceat(bits, lines, axis=0), columns, axis=1)
            self.cells[np.ix_(down[lines], across[columns])] |= union


def _whole(reach: Reach, rows: range, keys: range) -> bool | None:
    """Whether all pairs of a rectangle are in a band, or none is; None where neither can be told."""
    if not reach.meets(rows, keys):
        return False
    return True if reach.band_exact and reach.step == 1 and reach.covers(rows, keys) else None


def _reasons(item: AttentionItem, parts: Sequence[Pattern], rows: Tensor, keys: Tensor) -> Tensor:
    """The reasons of each pair of a block, as bits, (len(rows), len(keys))."""
    bits = torch.zeros((len(rows), len(keys)), dtype=torch.uint8 if len(parts) <= 8 else torch.int32)
    t, s = rows[:, None], keys[None, :]
    for index, part in enumerate(parts):
        bits |= part.visible(t, s, item).to(bits.dtype) << index
    if item.key_padding is not None:
        bits *= item.key_padding[s]
    if item.query_padding is not None:
        bits *= item.query_padding[t]
    return bits
