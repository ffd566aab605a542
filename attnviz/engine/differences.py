"""Two softmaxes over the same band, and of each cell's pairs the difference that is furthest from 0: a tile of each at a time.

Both denominators are known from the maps of the two sides, so that a tile of weights costs a product and a power.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.base.types import Cells, Positions, Progress
from attnviz.engine.attention import Attention, Computed
from attnviz.engine.blocks import HeadRows
from attnviz.engine.products import Queries
from attnviz.engine.reducer import cells_at, row_groups
from attnviz.engine.tiles import Asked, TileSize, key_tiles, known_peak, power_, segment, segments, unit_for


@dataclass(frozen=True)
class Weighed:
    """One side: a head, and the softmax denominators of the queries shown, (T', 2) as :class:`~attnviz.engine.reducer.Reduced` has them."""

    attention: Attention
    head: int
    denominators: Tensor

    @property
    def item(self) -> AttentionItem:
        """The batch item."""
        return self.attention.item

    @property
    def pattern(self) -> Pattern:
        """Which query sees which key."""
        return self.attention.pattern.of_head(self.head)


def serves(a: Weighed, b: Weighed) -> bool:
    """Whether both are products of queries and keys over one band without gaps, the same one, and nothing is padding."""
    bands = set()
    for side in (a, b):
        reach, item = side.pattern.reach(side.item), side.item
        padded = item.key_padding is not None or item.query_padding is not None
        if not isinstance(side.attention, Computed) or not reach.plain or padded or side.pattern.global_queries:
            return False
        if item.bias_hides(side.head):
            return False
        bands.add((reach.low, reach.high, item.compute_dtype, item.device))
    return len(bands) == 1


def furthest_apart(
    a: Weighed,
    b: Weighed,
    row_edges: Positions,
    column_edges: Positions,
    *,
    memory: int | None = None,
    progress: Progress | None = None,
) -> tuple[Cells, Cells]:
    """The largest of A - B, and of B - A, of each cell's pairs, (P, P') each; -inf where neither sees a pair.

    Args:
        a, b: the two sides, which :func:`serves`.
        row_edges, column_edges: the bins.
        memory: bytes that cells and tiles may take, beside the inputs; None is no bound.
        progress: called with the number of rows done, as they are.
    """
    shape = (len(row_edges) - 1, len(column_edges) - 1)
    # Two sides have a tile each.
    bound = None if memory is None else memory * 3 // 4
    tile = TileSize.fitting(a.item, shape, reductions=2, memory=bound, pattern=a.pattern)
    asked = Asked(column_edges, max=True, mass=False, logits=False, known=True, tile=tile)
    cells = np.full((2, *shape), -np.inf)
    with torch.no_grad(), torch.autocast(a.item.device.type, enabled=False):
        sides = [_Side(one, row_edges, tile) for one in (a, b)]
        for rows in row_groups(row_edges, tile.rows):
            tiles = [side.of(rows) for side in sides]
            bins, down = segments(rows, row_edges)
            scorer = sides[0].rows.scorer
            for keys in key_tiles(asked, scorer, rows):
                across, cuts = segments(keys, column_edges)
                apart = tiles[0].weights(keys).sub_(tiles[1].weights(keys))  # (n, b)
                assert isinstance(keys, range)
                ends = keys.start + cuts
                meets = scorer.sees.band_meets(
                    rows.start + down[:-1], rows.start + down[1:] - 1, ends[:-1], ends[1:] - 1
                )
                for one in cells:
                    top = segment(segment(apart, cuts, "max"), down, "max", dim=1).T.cpu().numpy()
                    where = cells_at(bins, across)
                    # A pair that neither sees is 0 here, which is further from 0 than no pair that they see.
                    one[where] = np.maximum(one[where], np.where(meets, top, -np.inf))
                    apart.neg_()
            if progress is not None:
                progress(len(rows))
    return cells[0].clip(max=1), cells[1].clip(max=1)


class _Side:
    """One side while blocks of rows come in."""

    def __init__(self, side: Weighed, row_edges: Positions, tile: TileSize) -> None:
        self.first, self.known, self.tile = int(row_edges[0]), side.denominators, tile
        queries = range(self.first, int(row_edges[-1]))
        self.rows = HeadRows(side.item, side.pattern, side.head, queries=queries)

    def of(self, rows: range) -> _Tiles:
        """What makes the tiles of some rows."""
        q = self.rows.scorer.query(rows)
        known = self.known[rows.start - self.first : rows.stop - self.first]
        peak, total = known_peak(known, q.dtype)
        blank = torch.isnan(peak)
        less = None if not bool(peak.any()) else torch.where(blank, 0, peak).to(q.device)
        unit = unit_for(q.dtype, raw=less is None)
        inverse = torch.where(blank, 0, 1 / total).to(q.device)
        return _Tiles(self, rows, Queries(q, unit, less, self.tile.operator), unit, inverse)


@dataclass(frozen=True)
class _Tiles:
    """The tiles of some rows of one side."""

    side: _Side
    rows: range
    q: Queries
    unit: float
    inverse: Tensor  # (b,) one over each row's sum of powers; 0 where it sees nothing

    def weights(self, keys: range | Tensor) -> Tensor:
        """The weights over a run of keys, (n, b), in memory that the next run uses again."""
        return power_(self.side.rows.scorer.tile(self.q, self.rows, keys).T, self.unit).mul_(self.inverse)
