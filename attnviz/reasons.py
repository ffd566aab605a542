"""Why a query may see a key: the parts of a pattern that make each pair visible, in as many cells as a picture shows.

Query bin i covers the queries ``floor(i*T/P) .. floor((i+1)*T/P) - 1``, key bins likewise, as in
:mod:`attnviz.maps`. A cell has every reason that any of its pairs has. Blocks of queries stream through; nothing of
the size of the map is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnviz.attention import AttentionInputs, AttentionItem
from attnviz.errors import InputError
from attnviz.maps import attention_map, checked_range
from attnviz.patterns import GlobalKeys, Pattern, Reach
from attnviz.reductions import Cells, bin_edges

SEVERAL = "several"
"""What a pair or a cell with more than one reason is called."""

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


def reason_map(
    inputs: AttentionInputs,
    pattern: Pattern | None = None,
    *,
    head: int | None = None,
    batch: int = 0,
    reduce: str = "max",
    pixels: int = 1024,
    queries: range | None = None,
    keys: range | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> ReasonMap:
    """Which query may see which key and why, exact, in at most ``pixels`` x ``pixels`` cells.

    Args:
        inputs: sizes, global mask, padding and labels; q and k only where ``head`` is given.
        pattern: which query sees which key; None is the inputs' own, else the global keys.
        head: the query head whose weights to give along; None is the pattern alone.
        batch: the batch item.
        reduce: what a cell holds of several weights: ``max`` or ``mass``.
        pixels: the most cells along each side.
        queries, keys: the positions to show; None is all.
        device, dtype: of the weights, as in :func:`attnviz.score`.

    Raises:
        InputError: as :func:`attnviz.attention_map`.

    >>> import attnviz
    >>> from attnviz.patterns import longformer
    >>> reason_map(attnviz.synthesize(), longformer(1)).counts
    {'window': 15, 'global key': 16, 'global query': 16, 'several': 19}
    """
    if pixels < 1:
        raise InputError(f"a picture has at least 1 cell a side; pixels is {pixels}")
    pattern = pattern or inputs.pattern or GlobalKeys()
    item = inputs.item(batch, device=torch.device("cpu"))
    queries = checked_range(queries, item.T, "queries", inputs.source)
    keys = checked_range(keys, item.S, "keys", inputs.source)
    reach = pattern.reach(item)
    cells, pairs = _union_of_reasons(item, pattern, queries, keys, pixels)
    weights = None
    if head is not None:
        drawn = pattern if reach.band or pattern.global_queries else _EveryKey(pattern)
        what: dict[str, Any] = {"batch": batch, "reduce": reduce, "device": device, "dtype": dtype}
        weights = attention_map(inputs, head, drawn, pixels=pixels, queries=queries, keys=keys, **what).cells
    return ReasonMap(
        tuple(reason for reason, _ in pattern.reasons()),
        cells,
        pairs,
        queries,
        keys,
        item.query_labels(queries),
        item.key_labels(keys),
        str(pattern),
        weights,
        head,
        reduce,
    )


def _union_of_reasons(
    item: AttentionItem, pattern: Pattern, queries: range, keys: range, pixels: int
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.integer[Any]]], dict[int, int]]:
    """The cells of a picture, (P, P'), and how many pairs have each set of reasons."""
    parts = [part for _, part in pattern.reasons()]
    row_edges = bin_edges(queries, min(len(queries), pixels))
    column_starts = bin_edges(keys, min(len(keys), pixels))[:-1] - keys.start
    cells = np.zeros((len(row_edges) - 1, len(column_starts)), dtype=np.int64)
    pairs = np.zeros(1 << len(parts), dtype=np.int64)
    size = max(1, _BLOCK_PAIRS // len(keys))
    for start in range(queries.start, queries.stop, size):
        rows = range(start, min(start + size, queries.stop))
        bits = _reasons(item, parts, rows, keys).numpy()  # (b, S)
        pairs += np.bincount(bits.ravel(), minlength=len(pairs))
        row_bins = np.searchsorted(row_edges, rows, side="right") - 1
        starts = np.flatnonzero(np.diff(row_bins, prepend=-1))
        block = np.bitwise_or.reduceat(bits, starts, axis=0)
        cells[row_bins[starts]] |= np.bitwise_or.reduceat(block, column_starts, axis=1)
    return cells, {int(bits): int(pairs[bits]) for bits in np.flatnonzero(pairs)}


def _reasons(item: AttentionItem, parts: Sequence[Pattern], rows: range, keys: range) -> Tensor:
    """The reasons of each pair of a block, as bits, (len(rows), len(keys)); asks only where a part reaches."""
    bits = torch.zeros((len(rows), len(keys)), dtype=torch.uint8 if len(parts) <= 8 else torch.int32)
    t = torch.arange(rows.start, rows.stop)[:, None]  # (b, 1)
    s = torch.arange(keys.start, keys.stop)[None, :]  # (1, S)

    def ask(index: int, at: slice | Tensor, columns: slice | Tensor) -> None:
        bits[at, columns] |= parts[index].visible(t[at], s[:, columns], item).to(bits.dtype) << index

    for index, part in enumerate(parts):
        reach = part.reach(item)
        if reach.band:
            first = 0 if reach.low is None else rows[0] + reach.low - keys.start
            stop = len(keys) if reach.high is None else rows[-1] + reach.high + 1 - keys.start
            ask(index, slice(None), slice(max(first, 0), max(stop, 0)))
        if reach.keys is not None:
            ask(index, slice(None), reach.keys[(reach.keys >= keys.start) & (reach.keys < keys.stop)] - keys.start)
        if part.global_queries:  # these see past the part's reach
            ask(index, torch.isin(t[:, 0], item.global_positions), slice(None))
    if item.key_padding is not None:
        bits *= item.key_padding[s]
    if item.query_padding is not None:
        bits *= item.query_padding[t]
    return bits


@dataclass(frozen=True)
class _EveryKey(Pattern):
    """A pattern of shared keys alone, in a map with a column for each key position: its band has one diagonal."""

    pattern: Pattern

    def visible(self, t: Tensor, s: Tensor, item: AttentionItem) -> Tensor:
        return self.pattern.visible(t, s, item)

    def reach(self, item: AttentionItem) -> Reach:
        return self.pattern.reach(item) | Reach(low=0, high=0, band_exact=False)
