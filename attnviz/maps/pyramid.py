"""A map at every zoom: levels of 256 x 256 tiles, from one tile of the whole map down to single weights.

Level 0 is the whole map in one tile; each level halves the cells, and the last has a cell a weight. One pass over
the map (:meth:`Pyramid.of`) makes an overview and keeps each query's softmax denominator. Coarser levels come
from the overview, finer tiles from q and k of the rows and keys they show, when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from attnviz.attention.derived import SomeInputs
from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.base.errors import InputError, not_one_of
from attnviz.base.selections import checked_range
from attnviz.base.types import Cells, Positions, Progress
from attnviz.engine.attention import Attention
from attnviz.engine.reducer import REDUCTIONS
from attnviz.engine.request import GROUPED, ask_for_weights, asks, check_heads
from attnviz.engine.tiles import TileSize

TILE = 256
"""Cells along each side of a tile."""

OVERVIEW = 2048
"""The most cells along a side of what one pass keeps."""


@dataclass(frozen=True)
class Overview:
    """What the one pass over a head keeps."""

    max: Cells  # (P, P') float32, NaN where nothing is visible
    mass: Cells  # (P, P') float32
    counts: Positions  # (P,) queries that see anything
    denominators: Tensor  # (T, 2), as attnviz.engine.reducer.Reduced has them
    _coarser: dict[tuple[int, str], tuple[Cells, Positions]] = field(default_factory=dict, repr=False)

    def halved(self, times: int, reduce: str) -> tuple[Cells, Positions]:
        """The cells of the level ``times`` coarser, and how many queries of each row see anything."""
        if not times:
            return (self.max if reduce == "max" else self.mass), self.counts
        if (times, reduce) not in self._coarser:
            self._coarser[times, reduce] = halve(*self.halved(times - 1, reduce), reduce)
        return self._coarser[times, reduce]

    @property
    def nbytes(self) -> int:
        """Memory that this holds, about; the coarser levels are a third of the finest."""
        finest = self.max.nbytes + self.mass.nbytes
        return finest * 5 // 3 + self.counts.nbytes + self.denominators.nbytes


@dataclass(frozen=True)
class Pyramid:
    """Tiles of the maps of one batch item, made when they are asked for.

    >>> import attnviz
    >>> pyramid = attnviz.Pyramid.of(attnviz.synthesize(heads=1, tokens=600), pattern=attnviz.Full())
    >>> pyramid.levels, pyramid.grid(2), pyramid.tile(0, 2, 2, 0).shape
    (3, (3, 3), (256, 256))
    """

    attention: Attention
    memory: int | None = None
    _overviews: dict[int, Overview] = field(default_factory=dict, repr=False)

    @classmethod
    @asks("batch", "values", *GROUPED, "device", "dtype", "memory", arrays=False)
    def of(cls, inputs: SomeInputs, pattern: Pattern | str | None = None, **what: Any) -> Pyramid:
        """The pyramid of a batch item; nothing is computed yet.

        Args:
            inputs: queries, keys and masks.
            pattern: which query sees which key; None is the inputs' own, else the global keys.
            what: ``batch``, ``values``, ``merge``, ``spans``, ``query_spans``, ``hide``, ``renormalize``, ``device``, ``dtype``, ``memory``, as in :func:`attnviz.attention_map`.
        """
        request = ask_for_weights(inputs, pattern, **what)
        return cls(request.attention, request.memory)

    @property
    def item(self) -> AttentionItem:
        """Whose maps these are."""
        return self.attention.item

    @property
    def levels(self) -> int:
        """How many levels there are; the last, ``levels - 1``, has a cell a weight."""
        longest = max(self.item.T, self.item.S)
        return 1 + max(0, (-(-longest // TILE) - 1).bit_length())

    def cell(self, level: int) -> int:
        """Queries, and keys, to a cell of ``level``.

        Raises:
            InputError: there is no such level.
        """
        if not 0 <= level < self.levels:
            raise InputError(f"level {level} is out of range; there are {self.levels} (0 to {self.levels - 1})")
        return 1 << (self.levels - 1 - level)

    def grid(self, level: int) -> tuple[int, int]:
        """Rows and columns of tiles at ``level``."""
        side = TILE * self.cell(level)
        return -(-self.item.T // side), -(-self.item.S // side)

    def tile(self, head: int, level: int, row: int, column: int, *, reduce: str = "max") -> Cells:
        """One tile: 256 x 256 float32 cells, NaN where nothing is visible or the map has ended.

        The first tile of a head makes the one pass over its map, where :meth:`prepare` has not.

        Args:
            head: the query head.
            level: 0 is the whole map, ``levels - 1`` single weights.
            row, column: which tile, as :meth:`grid` counts them.
            reduce: ``max`` or ``mass``.

        Raises:
            InputError: a head, level or tile that is not there, or no such reduction.
        """
        if reduce not in REDUCTIONS:
            raise not_one_of("reduce", reduce, REDUCTIONS)
        size, (rows, columns) = self.cell(level), self.grid(level)
        if not (0 <= row < rows and 0 <= column < columns):
            raise InputError(f"tile ({row}, {column}) is outside level {level}, which has {rows} x {columns} tiles")
        overview = self.prepare(head)
        if level <= self.overview_level:
            cells, _ = overview.halved(self.overview_level - level, reduce)
            part = cells[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        else:
            first = _edges(row * TILE * size, self.item.T, size, TILE)
            across = _edges(column * TILE * size, self.item.S, size, TILE)
            known = overview.denominators[int(first[0]) : int(first[-1])]
            found = self.attention.cells(
                head,
                first,
                across,
                reductions=(reduce,),
                denominators=known,
                memory=self.memory,
            )
            made = found.max if reduce == "max" else found.mass
            assert made is not None
            part = made
        tile = np.full((TILE, TILE), np.nan, dtype=np.float32)
        tile[: part.shape[0], : part.shape[1]] = part
        return tile

    def check_memory(self) -> None:
        """Raises InputError where ``memory`` is too small for a head's one pass."""
        self._tile_size()

    def _tile_size(self) -> TileSize:
        size = self.cell(self.overview_level)
        cells = (-(-self.item.T // size), -(-self.item.S // size))
        pattern = self.attention.pattern
        return TileSize.fitting(
            self.item, cells, reductions=len(REDUCTIONS), memory=self.memory, pattern=pattern, otherwise=""
        )

    def prepare(self, head: int, progress: Progress | None = None) -> Overview:
        """Makes the one pass over a head's map, once, and keeps what came of it.

        Args:
            head: the query head.
            progress: called with the number of rows done, as they are.
        """
        check_heads(self.item.inputs, [head])
        if head not in self._overviews:
            size = self.cell(self.overview_level)
            found = self.attention.cells(
                head,
                _edges(0, self.item.T, size),
                _edges(0, self.item.S, size),
                reductions=REDUCTIONS,
                memory=self.memory,
                tile=self._tile_size(),
                progress=progress,
            )
            assert found.max is not None
            assert found.mass is not None
            self._overviews[head] = Overview(
                found.max.astype(np.float32), found.mass.astype(np.float32), found.counts, found.denominators
            )
        return self._overviews[head]

    def prepared(self, head: int) -> Overview | None:
        """What the one pass over a head kept; None where it was not made, or was forgotten."""
        return self._overviews.get(head)

    def forget(self, head: int) -> None:
        """Frees what the one pass over a head kept; the next tile of the head makes the pass anew."""
        self._overviews.pop(head, None)

    def rectangle(self, head: int, queries: range, keys: range, *, values: str = "weights") -> Cells:
        """Single weights or logits, (len(queries), len(keys)) float32, whether the one pass was made or not.

        Args:
            head: the query head.
            queries, keys: the positions.
            values: ``weights``, NaN where a query does not see the key, or ``logits``, -inf there.

        Raises:
            InputError: a head or positions that are not there.
        """
        check_heads(self.item.inputs, [head])
        for name, positions, size in (("queries", queries, self.item.T), ("keys", keys, self.item.S)):
            checked_range(positions, size, name, self.item.inputs.source)
        overview = self.prepared(head) if values == "weights" else None
        found = self.attention.cells(
            head,
            _edges(queries.start, queries.stop, 1),
            _edges(keys.start, keys.stop, 1),
            values=values,
            denominators=None if overview is None else overview.denominators[queries.start : queries.stop],
            memory=self.memory,
        )
        assert found.max is not None
        cells = found.max.astype(np.float32)
        return np.nan_to_num(cells, nan=-np.inf, neginf=-np.inf) if values == "logits" else cells

    @property
    def overview_level(self) -> int:
        """The finest level whose cells the one pass keeps."""
        longest, most = max(self.item.T, self.item.S), self.attention.finest or max(OVERVIEW, TILE)
        return max(level for level in range(self.levels) if -(-longest // self.cell(level)) <= most)


def halve(cells: Cells, counts: Positions, reduce: str) -> tuple[Cells, Positions]:
    """Cells twice as large each way: max of max, mass of mass. An odd end stands alone.

    Args:
        cells: (P, P'), NaN where nothing is visible.
        counts: (P,) how many queries of each row ``mass`` averages over.
        reduce: ``max`` or ``mass``.
    """
    ends = [(0, size % 2) for size in cells.shape]
    even = np.pad(counts, ends[0])
    together = even[0::2] + even[1::2]
    if reduce == "max":
        return _fours(np.pad(cells, ends, constant_values=np.nan), np.fmax), together
    blank = _fours(np.pad(np.isnan(cells), ends, constant_values=True), np.logical_and)
    sums = _fours(np.pad(np.nan_to_num(cells) * counts[:, None], ends), np.add)
    return np.where(blank, np.nan, sums / np.maximum(together, 1)[:, None]), together


def _fours(values: Cells, combine: Callable[[Any, Any], Any]) -> Cells:
    """Each square of four values, combined. Much faster than numpy's ``reduceat`` for so short runs."""
    rows = combine(values[0::2], values[1::2])
    combined: Cells = combine(rows[:, 0::2], rows[:, 1::2])
    return combined


def _edges(start: int, end: int, size: int, most: int | None = None) -> Positions:
    """Edges of cells of ``size`` positions from ``start``, the last cut at ``end``; ``most`` cells at the most."""
    stop = end if most is None else min(end, start + size * most)
    return np.append(np.arange(start, stop, size, dtype=np.int64), stop)
