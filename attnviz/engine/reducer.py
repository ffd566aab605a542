"""Maps reduced to a grid of cells while they stream: exact, near the speed of the matrix product, never T x S.

Query bin i covers the indices ``edges[i] <= t < edges[i + 1]``, key bins likewise. Two reductions:

- ``max``: the largest value of a cell, so that a lone bright key never vanishes;
- ``mass``: for each query the sum of its weights over the cell's keys, averaged over the cell's queries that see
  anything, so that a row of cells still sums to 1.

A block of queries meets its keys a tile at a time (:mod:`attnviz.engine.tiles`); what the tiles give goes into cells here.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.base.errors import InputError
from attnviz.base.types import Cells, Positions, Progress
from attnviz.engine.blocks import HeadRows, RowBlock
from attnviz.engine.head import RowScorer
from attnviz.engine.tiles import Asked, BlockTiles, Shelf, TileSize, fixed_peak, known_peak, power_, segment, segments
from attnviz.engine.visibility import to_positions

if TYPE_CHECKING:
    from attnviz.engine.fused import Launch

_log = logging.getLogger(__name__)  # how a map is made: --verbose says it

REDUCTIONS = ("max", "mass")


TRITON = (3, 6)
"""The lowest version of Triton whose language the kernel speaks."""


@dataclass(frozen=True)
class Reduced:
    """A map reduced to P x P' cells; NaN where no query of a cell sees a key of it."""

    max: Cells | None
    mass: Cells | None
    counts: Positions
    """(P,) how many queries of each row of cells see anything: what ``mass`` is an average over."""
    denominators: Tensor
    """(T', 2) float64, on the CPU: the softmax denominator of each query between the first and last edge, as ``peak`` and
    ``sum``: it is ``exp(peak) * sum``; NaN where the query sees nothing. Two numbers, as their logarithm alone would lose
    the sum beside a large peak. (0, 2) where they were let go."""

    def is_of(self, row_edges: Positions, column_edges: Positions, reductions: Collection[str]) -> bool:
        """Whether it has the numbers of a map of these cells: what was read from a file may be of any."""
        rows, columns = len(row_edges) - 1, len(column_edges) - 1
        for name, cells in (("max", self.max), ("mass", self.mass)):
            if (cells is not None) != (name in reductions):
                return False
            if cells is not None and not (cells.shape == (rows, columns) and cells.dtype == np.float64):
                return False
        sums = (int(row_edges[-1] - row_edges[0]), 2)
        counted = self.counts.shape == (rows,) and self.counts.dtype == np.int64
        return counted and tuple(self.denominators.shape) == sums and self.denominators.dtype == torch.float64

    def alone(self) -> Reduced:
        """The cells without the denominators, which are more than the cells where many queries are in few of them."""
        return replace(self, denominators=self.denominators[:0].clone())

    @property
    def log_sum_exp(self) -> Tensor:
        """(T',) float64: the logarithm of each denominator."""
        return self.denominators[:, 0] + self.denominators[:, 1].log()


@dataclass(frozen=True)
class Wanted:
    """What is asked of the cells of a map.

    Args:
        reductions: which of ``max`` and ``mass`` to make.
        values: ``weights``, or ``logits`` for ``max`` alone.
        denominators: each query's softmax denominator where it is known, (T', 2) as :class:`Reduced` has it; keys
            outside the edges are then left alone.
        memory: bytes that the picture and the tiles may take, beside the inputs; None is no bound.
        tile: how much of the map is in work at once, where that is settled already.
        progress: called with the number of rows done, as they are.
    """

    reductions: Sequence[str] = ("max",)
    values: str = "weights"
    denominators: Tensor | None = None
    memory: int | None = None
    tile: TileSize | None = None
    progress: Progress | None = None

    @property
    def logits(self) -> bool:
        """Whether cells hold logits."""
        return self.values == "logits"

    def but(self, **changes: Any) -> Wanted:
        """The same with some of it changed."""
        return replace(self, **changes)

    def told(self, rows: int) -> None:
        """Says that so many more rows are done."""
        if self.progress is not None:
            self.progress(rows)

    def tile_of(
        self, item: AttentionItem, row_edges: Positions, column_edges: Positions, pattern: Pattern | None = None
    ) -> TileSize:
        """The tile that is settled, or else the one that suits a map of these bins."""
        return self.tile or TileSize.fitting(
            item,
            (len(row_edges) - 1, len(column_edges) - 1),
            reductions=len(self.reductions),
            memory=self.memory,
            pattern=pattern,
            queries=int(row_edges[-1] - row_edges[0]),
        )


def ones(sees: Tensor) -> Tensor:
    """What weights that need no softmax are divided by, (T', 2): 1, or NaN where a query sees nothing."""
    found = torch.tensor([[0.0, 1.0]], dtype=torch.float64).repeat(len(sees), 1)
    found[~sees] = torch.nan
    return found


def reduce_map(
    item: AttentionItem,
    pattern: Pattern,
    head: int,
    row_edges: Positions,
    column_edges: Positions,
    wanted: Wanted | None = None,
    **fields: Any,
) -> Reduced:
    """Reduces the map of one head to cells.

    Args:
        item: the batch item.
        pattern: which query sees which key.
        head: the query head.
        row_edges: (P + 1,) ascending query positions.
        column_edges: (P' + 1,) ascending key positions; softmax runs over all visible keys all the same.
        wanted: what is asked of the cells; None is what its ``fields`` say.

    Raises:
        InputError: ``memory`` is too small for one row, or the device has too little.
    """
    wanted = wanted or Wanted(**fields)
    tile = wanted.tile_of(item, row_edges, column_edges, pattern)
    if item.device.type == "cuda" and has_triton():
        made = reduce_fused(item, pattern, head, row_edges, column_edges, wanted)
        if made is not None:
            return made
    elif item.device.type == "cuda":
        _log.info("head %d: not by the fused kernel: pip install 'attnviz[triton]' brings it", head)
    _log.info("head %d: in tiles of %d queries x %d keys on %s", head, tile.rows, tile.keys, item.device)
    grid = _Grid(item, row_edges, column_edges, wanted, tile)
    try:
        with torch.no_grad(), torch.autocast(item.device.type, enabled=False):
            queries = range(int(row_edges[0]), int(row_edges[-1]))
            rows = HeadRows(item, pattern, head, queries=queries)
            for block in rows.blocks(row_groups(row_edges, tile.rows * rows.reach.step), tile.rows):
                grid.add(block)
                if not block.scorer.for_global:
                    wanted.told(len(block.rows))
    except torch.OutOfMemoryError as error:
        bound = "no --memory was given: give one"
        bound = bound if wanted.memory is None else f"--memory was {wanted.memory:,} bytes: lower it"
        raise InputError(f"{item.device}: out of memory with tiles of {tile.rows} x {tile.keys}; {bound}") from error
    return grid.result()


@cache
def has_triton() -> bool:
    """Whether Triton is there, in a version that the kernel is written for: what ``attnviz[triton]`` asks for."""
    try:
        major, minor, *_ = version("triton").split(".")
    except PackageNotFoundError:
        return False
    return (int(major), int(minor)) >= TRITON


def reduce_fused(
    item: AttentionItem,
    pattern: Pattern,
    head: int,
    row_edges: Positions,
    column_edges: Positions,
    wanted: Wanted | None = None,
    *,
    launch: Launch | None = None,
    **fields: Any,
) -> Reduced | None:
    """The same in one kernel (:mod:`attnviz.engine.fused`); None where it can't serve, or has no room to.

    Args:
        launch: how the kernel is cut; None is what suits the item. The rest is as :func:`reduce_map` has it.
    """
    from attnviz.engine.fused import FusedMap, hindrance  # triton takes a second to load, and isn't everywhere

    wanted = wanted or Wanted(**fields)
    pattern = pattern.of_head(head)
    reach = pattern.reach(item)
    reason = hindrance(item, reach, values=wanted.values, global_queries=pattern.global_queries)
    if reason is not None:
        _log.info("head %d: not by the fused kernel: %s", head, reason)
        return None
    known = wanted.denominators
    with torch.no_grad():
        fused = FusedMap(
            item,
            reach,
            head,
            row_edges,
            column_edges,
            reductions=wanted.reductions,
            denominators=known,
            memory=wanted.memory,
            launch=launch,
        )
        if not fused.chunk:
            _log.info("head %d: not by the fused kernel: memory has no room for its scratch", head)
            return None
        _log.info("head %d: by the fused kernel, %d queries at once", head, fused.chunk)
        for rows in row_groups(row_edges, fused.chunk):
            fused.add(rows)
            if wanted.progress is not None:
                fused.wait()
                wanted.told(len(rows))
        top, mass, counts, made = fused.result()
    largest, summed = (None if cells is None else cells.double().cpu().numpy() for cells in (top, mass))
    return Reduced(largest, summed, counts.cpu().numpy(), made.cpu() if known is None else known)


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
    """Runs of queries to be done together: whole bins up to about ``size`` rows, or even parts of a bin that is larger.

    They depend on the edges alone, so that a picture made in shares of whole bins has the same bits as one made at once.
    """
    start, last = int(row_edges[0]), int(row_edges[-1])
    while start < last:
        edge = int(row_edges[bisect_right(row_edges, start + size) - 1])
        if edge <= start:  # a bin larger than that
            edge = int(row_edges[bisect_right(row_edges, start)])
        length = edge - start
        parts = -(-length // size)
        for n in range(parts):
            yield range(start + length * n // parts, start + length * (n + 1) // parts)
        start = edge


class _Grid:
    """The cells while blocks of rows come in."""

    def __init__(
        self,
        item: AttentionItem,
        row_edges: Positions,
        column_edges: Positions,
        wanted: Wanted,
        tile: TileSize,
    ) -> None:
        reductions, known = wanted.reductions, wanted.denominators is not None
        self.asked = Asked(column_edges, "max" in reductions, "mass" in reductions, wanted.logits, known, tile)
        self.shelf = Shelf(torch.empty(0, dtype=item.compute_dtype, device=item.device))
        self.row_edges = row_edges
        shape = (len(row_edges) - 1, len(column_edges) - 1)
        # Keys down in memory, like the tiles.
        self.max = np.full(shape[::-1] if self.asked.max else (0, 0), -np.inf).T
        self.sums = np.zeros(shape[::-1] if self.asked.mass else (0, 0)).T
        self.counts = np.zeros(shape[0], dtype=np.int64)
        self.seen = np.zeros(shape[::-1], dtype=bool).T
        self.known = wanted.denominators
        size = int(row_edges[-1] - row_edges[0])
        self.denominators = torch.full((size, 2), torch.nan, dtype=torch.float64)

    def add(self, block: RowBlock) -> None:
        """Takes in every visible key of a block of rows."""
        rows, scorer, first = block.rows, block.scorer, int(self.row_edges[0])
        if isinstance(rows, range):
            local: slice | Tensor = slice(rows.start - first, rows.stop - first, rows.step)
        else:
            local = (rows - first).cpu()
        b, q = len(rows), scorer.query(rows)
        # Products and reductions of a number of queries that 16 does not divide take up to twice as long: 0 fills it up.
        q = torch.nn.functional.pad(q, (0, 0, 0, -b % 16 if b >= 64 else 0))  # (b', D), b' >= b
        if self.known is not None:
            self._add_known(block, q, self.known[local])
            return
        tiles = self._weighed(block, q)
        peak, total = tiles.peak, tiles.total
        sees = None if tiles.sure else total[:b] > 0
        if scorer.sink is not None:
            sink = scorer.sink * tiles.unit
            before, peak = peak, peak if tiles.raw else peak.clamp(min=sink)
            total = total * power_(before - peak, tiles.unit) + power_(sink - peak, tiles.unit)
        made = torch.stack([peak[:b], total[:b]], dim=1).cpu().double()
        made[:, 0] /= tiles.unit
        if sees is not None:
            made.masked_fill_(~sees.cpu()[:, None], torch.nan)
        keep = block.keep
        self.denominators[local] = (
            made if keep is None else torch.where(keep.cpu()[:, None], made, self.denominators[local])
        )
        self._take(rows, scorer, tiles, peak, total, _both(sees, keep))

    def _weighed(self, block: RowBlock, q: Tensor) -> BlockTiles:
        """The tiles of a block whose denominators they make."""
        # Each block decides for itself, so that ranks with a share of the blocks get the bits of one process.
        fixed = None if self.asked.logits else fixed_peak(block.scorer, q)
        if fixed is not None:
            tiles = self._tiles(block, q, fixed)
            if tiles.sure or bool(tiles.enough.all()):
                return tiles
        return self._tiles(block, q, None)

    def _tiles(self, block: RowBlock, q: Tensor, fixed: Tensor | None) -> BlockTiles:
        self.shelf.clear()
        return BlockTiles(self.asked, block.scorer, block.rows, q, fixed, self.shelf).run()

    def _add_known(self, block: RowBlock, q: Tensor, known: Tensor) -> None:
        """Takes in a block whose denominators are known, (b, 2)."""
        extra = len(q) - len(known)
        peak, total = known_peak(known, q.dtype)
        peak = torch.nn.functional.pad(peak, (0, extra)).to(q.device)
        total = torch.nn.functional.pad(total, (0, extra), value=1.0).to(q.device)
        tiles = self._tiles(block, q, peak)
        self._take(block.rows, block.scorer, tiles, peak, total, _both(~torch.isnan(peak[: len(known)]), block.keep))

    def _take(
        self,
        rows: range | Tensor,
        scorer: RowScorer,
        tiles: BlockTiles,
        peak: Tensor,
        total: Tensor,
        keep: Tensor | None,
    ) -> None:
        """What a block's tiles gave, now that the denominators are known, into the cells; ``keep``, (b,): which rows count."""
        kept: Tensor | None = None
        if keep is not None and not bool(keep.all()):
            kept = torch.nonzero(keep)[:, 0]
            rows = to_positions(rows, total.device)[kept]
        if not len(rows):
            return
        at, cuts = segments(rows, self.row_edges)

        def by_row(part: Tensor, how: str) -> Cells:
            """(m, b') of a tile to (rows of cells, m)."""
            return segment(part if kept is None else part[:, kept], cuts, how, dim=1).T.cpu().numpy()

        first = int(rows[0])  # a band without gaps has rows without gaps
        inverse = 1 / total
        for part in tiles.parts:
            where = cells_at(at, part.bins)
            if part.seen is not None:
                self.seen[where] |= by_row(part.seen.to(total.dtype), "max") > 0
            elif part.band is not None:
                self.seen[where] |= scorer.sees.band_meets(first + cuts[:-1], first + cuts[1:] - 1, *part.band)
            else:
                self.seen[where] = True
            factor = inverse if part.peak is peak else power_(part.peak - peak, tiles.unit) * inverse
            if part.top is not None:
                top = part.top if self.asked.logits else part.top.mul_(factor)
                if self.known is not None and not self.asked.logits:
                    top.clamp_(max=1)  # a denominator that other products made may be a rounding too small
                self.max[where] = np.maximum(self.max[where], by_row(top, "max"))
            if part.mass is not None:
                self.sums[where] += by_row(part.mass.mul_(factor), "sum")
        self.counts[at] += cuts[1:] - cuts[:-1]

    def result(self) -> Reduced:
        """The cells of what came in."""
        blank = ~self.seen
        for cells, wanted in ((self.max, self.asked.max), (self.sums, self.asked.mass)):
            if wanted:
                np.copyto(cells, np.nan, where=blank)
        self.sums /= np.maximum(self.counts, 1)[:, None] if self.asked.mass else 1
        return Reduced(
            self.max if self.asked.max else None,
            self.sums if self.asked.mass else None,
            self.counts,
            self.denominators if self.known is None else self.known,
        )


def _both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Where both are true, None meaning everywhere."""
    return b if a is None else a if b is None else a & b


def cells_at(rows: Positions, columns: Positions) -> tuple[Any, ...]:
    """The index of a rectangle of cells: slices, which numpy reads much faster, where it has no gaps."""
    if rows[-1] - rows[0] + 1 == len(rows) and columns[-1] - columns[0] + 1 == len(columns):
        return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return np.ix_(rows, columns)
