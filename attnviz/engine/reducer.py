"""Maps reduced to a grid of cells while they stream: exact, near the speed of the matrix product, never T x S.

Query bin i covers the positions ``edges[i] <= t < edges[i + 1]``, key bins likewise. Two reductions:

- ``max``: the largest value of a cell, so that a lone bright key never vanishes;
- ``mass``: for each query the sum of its weights over the cell's keys, averaged over the cell's queries that see
  anything, so that a row of cells still sums to 1.

A block of queries meets its keys a tile at a time, a tile being what a cache holds: product, exp, reduce, forget.
Tiles lie transposed (keys down, queries across), so that every reduction over keys adds whole rows of memory.

Softmax subtracts something not below the row's largest logit before exp. The Cauchy-Schwarz bound ``|q| max |k|``
costs nothing and is exact all the same; where it is so far above the largest logit that exp could vanish, the block
is done again with a running maximum (online softmax, arXiv:1805.02867).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnviz.attention.inputs import AttentionItem
from attnviz.attention.patterns import Pattern, Reach
from attnviz.base.errors import InputError
from attnviz.engine.scores import Positions as Positions
from attnviz.engine.scores import RowScorer, row_blocks, to_positions

Cells = np.ndarray[tuple[int, int], np.dtype[np.floating[Any]]]
Progress = Callable[[int], None]
"""Called with the number of query rows just done."""

REDUCTIONS = ("max", "mass")

_LOG2_E = 1 / math.log(2)
_LEAST_TOTAL = 1e-17  # a sum of exp below this says that the bound is more than 39 above the largest logit


@dataclass(frozen=True)
class TileSize:
    """How much of a map is in work at once: ``rows`` queries against ``keys`` keys."""

    rows: int
    keys: int

    @classmethod
    def fitting(
        cls,
        item: AttentionItem,
        cells: tuple[int, int],
        *,
        reductions: int = 1,
        memory: int | None = None,
        otherwise: str = ", or make the picture smaller (--pixels)",
    ) -> TileSize:
        """The tile that suits the device, smaller where ``memory`` asks for it.

        Args:
            item: says the device, the dtype and the number of keys.
            cells: (P, P') of the picture, which is part of the working set.
            reductions: how many reductions are made at once.
            memory: bytes that the picture and the tiles may take, beside the inputs; None is no bound.
            otherwise: what else helps, for the error.

        Raises:
            InputError: not even one row fits; says the least that does.
        """
        bytes_each = torch.finfo(item.compute_dtype).bits // 8
        # Small enough for a cache, large enough that starting each step costs little; an accelerator wants more at once.
        rows, keys = (768, 2048) if item.device.type == "cpu" else (2048, 16384)
        if memory is None:
            return cls(rows, keys)

        def taken(rows: int, keys: int) -> int:
            picture = cells[0] * cells[1] * (1 + 8 * (reductions + 1))
            block = rows * cells[1] * bytes_each * (2 * reductions + 1)
            # A tile, an eighth larger to end between bins; what hides or modifies it; and a triangle that is kept.
            return picture + block + 3 * rows * (keys + keys // 8) * bytes_each

        keys = min(keys, item.S)
        while taken(rows, keys) > memory and (rows > 1 or keys > 64):
            # Rows first: a product of few rows is slower, one of few keys much slower.
            rows, keys = (rows // 2, keys) if rows > 16 or keys <= 64 else (rows, keys // 2)
        if taken(rows, keys) > memory:
            raise InputError(
                f"--memory {memory:,} bytes is too small for one row of a picture of {cells[0]} x {cells[1]} cells; "
                f"the least that works is {taken(rows, keys):,}{otherwise}"
            )
        return cls(rows, keys)


@dataclass(frozen=True)
class Reduced:
    """A map reduced to P x P' cells; NaN where no query of a cell sees a key of it."""

    max: Cells | None
    mass: Cells | None
    counts: Positions
    """(P,) how many queries of each row of cells see anything: what ``mass`` is an average over."""
    log_sum_exp: Tensor
    """(T',) log of the softmax denominator of each query between the first and last edge; NaN where it sees nothing."""


def bin_edges(positions: Sequence[int], bins: int) -> Positions:
    """The ``bins + 1`` edges that cut ascending positions evenly: bin i is ``edges[i] <= position < edges[i + 1]``."""
    cuts = np.arange(bins + 1, dtype=np.int64) * len(positions) // bins
    if isinstance(positions, range):
        return cuts + positions.start
    return np.append(np.asarray(positions, dtype=np.int64)[cuts[:-1]], positions[-1] + 1)


def reduce_map(
    item: AttentionItem,
    pattern: Pattern,
    head: int,
    row_edges: Positions,
    column_edges: Positions,
    *,
    reductions: Sequence[str] = ("max",),
    values: str = "weights",
    log_sum_exp: Tensor | None = None,
    memory: int | None = None,
    tile: TileSize | None = None,
    progress: Progress | None = None,
) -> Reduced:
    """Reduces the map of one head to cells.

    Args:
        item: the batch item.
        pattern: which query sees which key.
        head: the query head.
        row_edges: (P + 1,) ascending query positions.
        column_edges: (P' + 1,) ascending key positions; softmax runs over all visible keys all the same.
        reductions: which of ``max`` and ``mass`` to make.
        values: ``weights``, or ``logits`` for ``max`` alone.
        log_sum_exp: the log of each query's softmax denominator where it is known, (T',); keys outside the edges
            are then left alone.
        memory: bytes that the picture and the tiles may take, beside the inputs; None is no bound.
        tile: how much of the map is in work at once, where that is settled already.
        progress: called with the number of rows done, as they are.

    Raises:
        InputError: ``memory`` is too small for one row, or the device has too little.
    """
    cells = (len(row_edges) - 1, len(column_edges) - 1)
    tile = tile or TileSize.fitting(item, cells, reductions=len(reductions), memory=memory)
    grid = _Grid(item, row_edges, column_edges, tuple(reductions), values, log_sum_exp, tile)
    try:
        with torch.no_grad(), torch.autocast(item.device.type, enabled=False):
            for block, scorer in _passes(item, pattern, head, row_edges, tile.rows):
                grid.add(block, scorer)
                if progress is not None and not scorer.for_global:
                    progress(len(block))
    except torch.OutOfMemoryError as error:
        bound = "no --memory was given: give one" if memory is None else f"--memory was {memory:,} bytes: lower it"
        raise InputError(f"{item.device}: out of memory with tiles of {tile.rows} x {tile.keys}; {bound}") from error
    return grid.result()


def reduce_block(
    cells: Cells, values: Cells, rows: Positions, keys: Positions, row_edges: Positions, column_edges: Positions
) -> None:
    """Takes a block of values into the cells they fall into, keeping the largest.

    Args:
        cells: (P, P'), changed in place; -inf where nothing came yet.
        values: (b, n), -inf where there is nothing.
        rows, keys: ascending positions of the rows and columns of ``values``, (b,) and (n,).
        row_edges, column_edges: the bins, as :func:`bin_edges` cuts them.
    """
    across = np.searchsorted(column_edges, keys, side="right") - 1
    starts = np.flatnonzero(np.diff(across, prepend=-1))
    reduced = np.maximum.reduceat(values, starts, axis=1)
    down = np.searchsorted(row_edges, rows, side="right") - 1
    first = np.flatnonzero(np.diff(down, prepend=-1))
    reduced = np.maximum.reduceat(reduced, first, axis=0)
    at = np.ix_(down[first], across[starts])
    cells[at] = np.maximum(cells[at], reduced)


def row_groups(row_edges: Positions, size: int) -> Iterator[range]:
    """Runs of queries to be done together: whole bins up to about ``size`` rows, or parts of a bin that is larger.

    They depend on the edges alone, so that a picture made in shares of whole bins has the same bits as one made at once.
    """
    start, last = int(row_edges[0]), int(row_edges[-1])
    while start < last:
        edge = int(row_edges[bisect_right(row_edges, start + size) - 1])
        if edge <= start:  # a bin larger than that
            edge = int(row_edges[bisect_right(row_edges, start)])
            while edge - start > size:
                yield range(start, start + size)
                start += size
        yield range(start, edge)
        start = edge


def _passes(
    item: AttentionItem, pattern: Pattern, head: int, row_edges: Positions, size: int
) -> Iterator[tuple[range | Tensor, RowScorer]]:
    """Blocks of queries, each with what scores it: rows of global queries by their own rule."""
    reach = pattern.reach(item)
    queries = range(int(row_edges[0]), int(row_edges[-1]))
    scorer = RowScorer(item, pattern, reach, head, queries=queries)
    own = None
    if pattern.global_queries:
        own = RowScorer(item, pattern, Reach(band_exact=False), head, queries=queries, for_global=True)
    for group in row_groups(row_edges, size * reach.step):
        for rows in row_blocks(group, size, reach.step):
            yield rows, scorer
        if own is not None:
            apart = item.global_positions
            apart = apart[(apart >= group.start) & (apart < group.stop)]
            if len(apart):
                yield apart, own


@dataclass
class _Part:
    """What one tile gives to a block of b queries, b' with those that fill it up: values relative to ``exp(peak)``."""

    bins: Positions  # (m,) ascending
    top: Tensor | None  # (m, b') the largest
    mass: Tensor | None  # (m, b') the sum
    seen: Tensor | None  # (m, b') bool; None where the band says it, or all is visible
    band: tuple[Positions, Positions] | None  # (m,) first and last key of each bin, where the band alone hides
    peak: Tensor  # (b',)


class _Grid:
    """The cells while blocks of rows come in."""

    def __init__(
        self,
        item: AttentionItem,
        row_edges: Positions,
        column_edges: Positions,
        reductions: tuple[str, ...],
        values: str,
        log_sum_exp: Tensor | None,
        tile: TileSize,
    ) -> None:
        self.row_edges, self.column_edges, self.values, self.tile = row_edges, column_edges, values, tile
        self.wants_max, self.wants_mass = "max" in reductions, "mass" in reductions
        shape = (len(row_edges) - 1, len(column_edges) - 1)
        # Keys down in memory, like the tiles.
        self.max = np.full(shape[::-1], -np.inf).T
        self.sums = np.zeros(shape[::-1] if self.wants_mass else (0, 0)).T
        self.counts = np.zeros(shape[0], dtype=np.int64)
        self.seen = np.zeros(shape[::-1], dtype=bool).T
        self.known = log_sum_exp
        size = int(row_edges[-1] - row_edges[0])
        self.log_sum_exp = torch.full((size,), torch.nan, dtype=item.compute_dtype, device=item.device)

    def add(self, rows: range | Tensor, scorer: RowScorer) -> None:
        """Takes in every visible key of a block of rows."""
        first = int(self.row_edges[0])
        if isinstance(rows, range):
            local: slice | Tensor = slice(rows.start - first, rows.stop - first, rows.step)
        else:
            local = rows - first
        b, q, counts = len(rows), scorer.query(rows), scorer.counts(rows)
        # Products and reductions of a number of queries that 16 does not divide take up to twice as long: 0 fills it up.
        extra = -b % 16 if b >= 64 else 0
        q = torch.nn.functional.pad(q, (0, 0, 0, extra))  # (b', D), b' >= b
        if self.known is not None:
            peak = torch.nn.functional.pad(self.known[local].to(q.device), (0, extra))
            parts, _, _, _ = self._tiles(q, rows, scorer, peak)
            self._take(rows, scorer, parts, peak, torch.ones_like(peak), _both(~torch.isnan(peak[:b]), counts))
            return
        # Each block decides for itself, so that ranks with a share of the blocks get the bits of one process.
        bound = scorer.bound(q) if self.values == "weights" else None
        if bound is not None:
            parts, peak, total, sure = self._tiles(q, rows, scorer, bound)
        if bound is None or not (sure or bool(((total[:b] > _LEAST_TOTAL) | scorer.hidden(rows)).all())):
            parts, peak, total, sure = self._tiles(q, rows, scorer, None)
        sees = None if sure else total[:b] > 0
        if scorer.sink is not None:
            before, peak = peak, peak.clamp(min=scorer.sink)
            total = total * torch.exp(before - peak) + torch.exp(scorer.sink - peak)
        lse = (peak + torch.log(total))[:b]
        if sees is not None:
            lse.masked_fill_(~sees, torch.nan)
        self.log_sum_exp[local] = lse if counts is None else torch.where(counts, lse, self.log_sum_exp[local])
        self._take(rows, scorer, parts, peak, total, _both(sees, counts))

    def _tiles(
        self, q: Tensor, rows: range | Tensor, scorer: RowScorer, fixed: Tensor | None
    ) -> tuple[list[_Part], Tensor, Tensor, bool]:
        """Every tile of a block: what each gives, the exponent they are relative to, (b',), and the sum of exp, (b',).

        ``q`` is (b', D), ``rows`` its first b. ``fixed``, where given, is what to subtract from logits before exp;
        None keeps a running maximum. No sum is made where the denominators are known. Last, whether each query is
        sure to see something, by a sum that is not too small.
        """
        peak = q.new_full((len(q),), -torch.inf) if fixed is None else fixed
        total = q.new_zeros(len(q))
        parts: list[_Part] = []
        sure = False
        for keys in self._key_tiles(rows, scorer):
            bins, cuts = _segments(keys, self.column_edges)
            shown = len(bins) > 0
            if not shown and (self.known is not None or self.values == "logits"):
                continue
            logits = scorer.tile(q, rows, keys).T  # (n, b'), contiguous
            hidden = scorer.hides(rows, keys)
            seen, band = None, None
            if hidden and scorer.band_alone and isinstance(keys, range):
                band = cuts[:-1] + keys.start, cuts[1:] + (keys.start - 1)
            unknown = hidden and band is None
            lone_max = self.known is not None and not self.wants_mass  # nothing needs exp of each weight
            early = shown and (unknown or lone_max or self.values == "logits" or (self.wants_max and fixed is None))
            highest = _segment(logits, cuts, "max") if early else None  # (m, b')
            if highest is not None and unknown:
                seen = highest > -torch.inf
            if self.values == "logits":
                total += torch.isfinite(logits).any(0)
                parts.append(_Part(bins, highest, None, seen, band, peak))
                continue
            if fixed is None:
                before, peak = peak, torch.maximum(peak, logits.amax(0))
                safe = peak.clamp(min=torch.finfo(q.dtype).min / 2)
                total *= torch.exp(before - safe)
            else:
                safe = peak
            if lone_max and highest is not None:
                _exp_(highest, safe)
                parts.append(_Part(bins, highest, None, seen, band, safe))
                continue
            _exp_(logits, safe)
            mass = _segment(logits, cuts, "sum") if shown and self.wants_mass else None
            if self.known is None:
                whole = mass is not None and cuts[0] == 0 and cuts[-1] == len(logits)
                total += mass.sum(0) if whole and mass is not None else logits.sum(0)
            if fixed is not None and self.known is None and not hidden and not sure:
                sure = bool((total > _LEAST_TOTAL).all())
                if not sure:
                    break  # all see this tile and some get nothing: the bound is too high, for the other tiles too
            if shown:
                if not self.wants_max:
                    highest = None
                elif highest is not None:
                    _exp_(highest, safe)
                else:
                    highest = _segment(logits, cuts, "max")
                parts.append(_Part(bins, highest, mass, seen, band, safe))
        return parts, peak, total, sure

    def _key_tiles(self, rows: range | Tensor, scorer: RowScorer) -> Iterator[range | Tensor]:
        """The keys that a block of rows can see, in even runs of about a tile's: shared keys first, then the band's.

        A tile holds whole bins where bins are small, since a cut through one costs more than an odd tile.
        """
        size, edges = self.tile.keys, self.column_edges
        if scorer.keys is not None:
            yield from scorer.keys.split(size)
        span = scorer.span(rows)
        if self.known is not None or self.values == "logits":  # no denominator needs the keys that are not shown
            span = span[bisect_left(span, edges[0]) : bisect_left(span, edges[-1])]
        tiles, start = -(-len(span) // size), 0
        for n in range(1, tiles):
            even = len(span) * n // tiles
            at = bisect_left(edges, span[even])
            stop = bisect_left(span, edges[at]) if at < len(edges) else even
            if not even <= stop <= even + size // 8:
                stop = even
            yield span[start:stop]
            start = stop
        if start < len(span):
            yield span[start:]

    def _take(
        self,
        rows: range | Tensor,
        scorer: RowScorer,
        parts: list[_Part],
        peak: Tensor,
        total: Tensor,
        keep: Tensor | None,
    ) -> None:
        """A block's parts, now that the denominators are known, into the cells; ``keep``, (b,): which rows count."""
        kept: Tensor | None = None
        if keep is not None and not bool(keep.all()):
            kept = torch.nonzero(keep)[:, 0]
            rows = to_positions(rows, total.device)[kept]
        if not len(rows):
            return
        at, cuts = _segments(rows, self.row_edges)

        def by_row(part: Tensor, how: str) -> Cells:
            """(m, b') of a tile to (rows of cells, m)."""
            return _segment(part if kept is None else part[:, kept], cuts, how, dim=1).T.cpu().numpy()

        first = int(rows[0])  # a band without gaps has rows without gaps
        inverse = 1 / total
        for part in parts:
            where = _where(at, part.bins)
            if part.seen is not None:
                self.seen[where] |= by_row(part.seen.to(total.dtype), "max") > 0
            elif part.band is not None:
                self.seen[where] |= scorer.band_meets(first + cuts[:-1], first + cuts[1:] - 1, *part.band)
            else:
                self.seen[where] = True
            factor = inverse if part.peak is peak else torch.exp(part.peak - peak) * inverse
            if part.top is not None:
                top = part.top if self.values == "logits" else part.top.mul_(factor)
                self.max[where] = np.maximum(self.max[where], by_row(top, "max"))
            if part.mass is not None:
                self.sums[where] += by_row(part.mass.mul_(factor), "sum")
        self.counts[at] += cuts[1:] - cuts[:-1]

    def result(self) -> Reduced:
        """The cells of what came in."""
        blank = ~self.seen
        for cells in (self.max, self.sums)[: 1 + self.wants_mass]:
            np.copyto(cells, np.nan, where=blank)
        self.sums /= np.maximum(self.counts, 1)[:, None] if self.wants_mass else 1
        return Reduced(
            self.max if self.wants_max else None,
            self.sums if self.wants_mass else None,
            self.counts,
            self.log_sum_exp if self.known is None else self.known,
        )


def _both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Where both are true, None meaning everywhere."""
    return b if a is None else a if b is None else a & b


def _segments(keys: range | Tensor, edges: Positions) -> tuple[Positions, Positions]:
    """Which m bins ascending keys fall into, and the m + 1 indices of ``keys`` that cut them into these bins."""
    if not isinstance(keys, range):
        return _runs(keys.cpu().numpy(), edges)
    if keys.step != 1:
        return _runs(np.arange(keys.start, keys.stop, keys.step), edges)
    first, last = bisect_right(edges, keys[0]) - 1, bisect_left(edges, keys.stop)
    first, last = max(first, 0), min(last, len(edges) - 1)
    cuts = edges[first : last + 1] - keys.start
    if len(cuts) > 1:
        cuts[0], cuts[-1] = max(cuts[0], 0), min(cuts[-1], len(keys))
    return np.arange(first, last), cuts


def _runs(positions: Positions, edges: Positions) -> tuple[Positions, Positions]:
    """As :func:`_segments`, for positions in an array."""
    cuts = np.searchsorted(positions, edges)
    filled = np.flatnonzero(cuts[1:] > cuts[:-1])
    return filled, np.append(cuts[filled], cuts[-1])


def _segment(values: Tensor, cuts: Positions, how: str, *, dim: int = 0) -> Tensor:
    """Reduces one dimension of (n, b) over the m segments of it between m + 1 ``cuts``."""
    lengths = cuts[1:] - cuts[:-1]
    m, width = len(lengths), int(lengths[0])
    used = values.narrow(dim, int(cuts[0]), int(cuts[-1] - cuts[0]))
    if used.shape[dim] == m:
        return used.clone()
    if (lengths == width).all():
        if how == "max" and dim == 1:
            return torch.nn.functional.max_pool1d(used, width)  # a quarter of the time of amax
        grouped: Tensor = used.unflatten(dim, (m, width))
        return grouped.amax(dim + 1) if how == "max" else grouped.sum(dim + 1)
    # PyTorch adds these up as fast as even segments, of whole rows or of all columns: columns beyond the cuts go into
    # one more segment.
    if dim == 1:
        used, lengths = values, np.array([*lengths, values.shape[1] - cuts[-1]])
    segments = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)).to(values.device)
    index = segments.unsqueeze(1 - dim).expand_as(used)
    shape = list(values.shape)
    shape[dim] = len(lengths)
    start, reduce = (-torch.inf, "amax") if how == "max" else (0.0, "sum")
    return values.new_full(shape, start).scatter_reduce_(dim, index, used, reduce).narrow(dim, 0, m)


def _exp_(logits: Tensor, peak: Tensor) -> None:
    """``exp(logits - peak)`` in place, for (n, b) and (b,).

    As a power of two: on a CPU it costs half of exp, and no more where a logit is -inf or far below the peak,
    where exp costs 3 to 40 times as much.
    """
    torch.add(peak * -_LOG2_E, logits, alpha=_LOG2_E, out=logits)
    logits.exp2_()


def _where(rows: Positions, columns: Positions) -> tuple[Any, ...]:
    """The index of a rectangle of cells: slices, which numpy reads much faster, where it has no gaps."""
    if rows[-1] - rows[0] + 1 == len(rows) and columns[-1] - columns[0] + 1 == len(columns):
        return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return np.ix_(rows, columns)
