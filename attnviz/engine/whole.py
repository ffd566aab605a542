"""Attentions whose rows come whole, every key at once: their blocks and cells, and the grid that rows are reduced into."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from attnviz.base.types import Positions
from attnviz.engine.attention import Attention
from attnviz.engine.blocks import Block, SeenRows, rows_per_block, stepped
from attnviz.engine.reducer import Reduced, Wanted, cells_at, row_groups
from attnviz.engine.softmax import Sums
from attnviz.engine.tiles import TileSize, segment, segments
from attnviz.engine.visibility import to_positions


class BlockRows(Protocol):
    """The rows of one head, each over every key."""

    step: int | None
    apart: Tensor

    def span(self, rows: range | Tensor) -> range:
        """The keys that :meth:`block` has values of: every one that any of some queries may see."""

    def block(self, rows: range | Tensor, *, weights: bool = True) -> tuple[Tensor, Tensor | None, Tensor]:
        """Some queries over the n keys of their span.

        Args:
            rows: b query indices.
            weights: whether to give weights; otherwise logits.

        Returns:
            The values, (b, n): a hidden key has weight 0, or a logit of -inf; a query that sees nothing is NaN, or -inf
            throughout. Whether each query sees each key, (b, n) bool; None where all do. How many it sees, (b,).
        """

    def read(self, rows: range | Tensor, *, weights: bool = True) -> SeenRows:
        """As :meth:`attnviz.engine.attention.Rows.read`."""


class WholeRows(Attention):
    """An attention that is read in whole rows, and not made of products and a softmax."""

    softmaxed = False

    @property
    def has_logits(self) -> bool:
        """Whether logits came with the weights."""
        return False

    @abstractmethod
    def whole_rows(self, head: int, memory: int | None = None) -> BlockRows:
        """One head's rows; ``memory``: bytes that reading them may take, None is no bound."""

    def rows(self, head: int, queries: range | None = None) -> BlockRows:
        return self.whole_rows(head)

    def blocks(
        self, head: int, *, queries: range | None = None, weights: bool = True, sums: bool = False
    ) -> Iterator[Block]:
        item, own = self.item, self.whole_rows(head)
        with_logits = sums and self.has_logits
        for rows in stepped(range(item.T) if queries is None else queries, rows_per_block(item.S, least=1)):
            values, seen, visible = own.block(rows, weights=weights)
            told = None
            if weights and with_logits:
                largest = own.block(rows, weights=False)[0].amax(1)
                told = Sums(largest, values.amax(1), torch.special.entr(values).sum(1))
            keys = to_positions(own.span(rows), item.device)
            yield Block(to_positions(rows, item.device), keys, values, visible, 0, seen=seen, sums=told)

    def reduced(self, head: int, row_edges: Positions, column_edges: Positions, wanted: Wanted) -> Reduced:
        return self.reduced_rows(self.whole_rows(head, wanted.memory), row_edges, column_edges, wanted)

    def reduced_rows(self, own: BlockRows, row_edges: Positions, column_edges: Positions, wanted: Wanted) -> Reduced:
        """The rows of a head, reduced to cells."""
        tile = wanted.tile_of(self.item, row_edges, column_edges)
        grid = GivenCells(row_edges, column_edges, wanted.reductions)
        with torch.no_grad():
            for group in row_groups(row_edges, tile.rows):
                for rows, keys in _fitting(group, own, tile):
                    at = torch.arange(rows.start, rows.stop, device=self.item.device)
                    grid.add(at, keys, *own.block(rows, weights=not wanted.logits))
                    wanted.told(len(rows))
        return grid.result(wanted.denominators)


def _fitting(rows: range, own: BlockRows, tile: TileSize) -> Iterator[tuple[range, range]]:
    """A run of queries in halves, until what each spans fits a tile; with the keys that it spans."""
    keys = own.span(rows)
    if len(rows) * len(keys) <= tile.rows * tile.keys or len(rows) == 1:
        yield rows, keys
    else:
        middle = len(rows) // 2
        for half in (rows[:middle], rows[middle:]):
            yield from _fitting(half, own, tile)


class GivenCells:
    """The cells while weights come in that need no softmax."""

    def __init__(self, row_edges: Positions, column_edges: Positions, reductions: Sequence[str]) -> None:
        self.row_edges, self.column_edges, self.reductions = row_edges, column_edges, reductions
        shape = (len(row_edges) - 1, len(column_edges) - 1)
        self.max, self.sums = np.full(shape, -np.inf), np.zeros(shape)
        self.seen = np.zeros(shape, dtype=bool)
        self.counts = np.zeros(shape[0], dtype=np.int64)
        # What a query's weights are divided by: 1, or NaN where it sees nothing.
        self.denominators = torch.full((int(row_edges[-1] - row_edges[0]), 2), torch.nan, dtype=torch.float64)

    def add(self, rows: Tensor, keys: range | Tensor, values: Tensor, seen: Tensor | None, visible: Tensor) -> None:
        """Takes in queries, (b,) ascending, over keys, (n,) ascending, as :meth:`GivenRows.block` has them."""
        at = self._count(rows, visible)
        if len(at):
            self._take(at, keys, *_seeing(values, seen, visible))

    def add_block(self, block: Block) -> None:
        """Takes in a block: its shared keys and the run of its band, as each ascends by itself."""
        at = self._count(block.rows, block.visible)
        if not len(at):
            return
        values, seen = _seeing(block.values, block.seen, block.visible)
        for part in (slice(0, block.shared), slice(block.shared, None)):
            if len(block.keys[part]):
                self._take(at, block.keys[part], values[:, part], None if seen is None else seen[:, part])

    def _count(self, rows: Tensor, visible: Tensor) -> Tensor:
        """The queries that see a key, which are counted."""
        at = rows[visible > 0].cpu()
        if len(at):
            self.denominators[at - int(self.row_edges[0])] = torch.tensor([0.0, 1.0], dtype=torch.float64)
            bins, cuts = segments(at, self.row_edges)
            self.counts[bins] += cuts[1:] - cuts[:-1]
        return at

    def _take(self, at: Tensor, keys: range | Tensor, values: Tensor, seen: Tensor | None) -> None:
        """Queries that see a key, over ascending keys, into the cells that they fall into."""
        bins, cuts = segments(at, self.row_edges)
        across, columns = segments(keys, self.column_edges)
        if not len(across):
            return
        first, last = int(columns[0]), int(columns[-1])
        values, columns, where = values[:, first:last], columns - first, cells_at(bins, across)
        if seen is None:
            self.seen[where] = True
        else:
            seen = seen[:, first:last]
            there = segment(segment(seen.to(values.dtype), columns, "max", dim=1), cuts, "max")
            self.seen[where] |= there.cpu().numpy() > 0
        if "max" in self.reductions:
            # A hidden key is 0 here, which is more than nothing only among weights below 0.
            signed = seen is not None and bool((values < 0).any())
            shown = values.masked_fill(~seen, -torch.inf) if signed and seen is not None else values
            top = segment(segment(shown, columns, "max", dim=1), cuts, "max")
            self.max[where] = np.maximum(self.max[where], top.cpu().numpy())
        if "mass" in self.reductions:
            self.sums[where] += segment(segment(values, columns, "sum", dim=1).double(), cuts, "sum").cpu().numpy()

    def result(self, denominators: Tensor | None) -> Reduced:
        """The cells of what came in."""
        largest, mass = (np.where(self.seen, cells, np.nan) for cells in (self.max, self.sums))
        return Reduced(
            largest if "max" in self.reductions else None,
            mass / np.maximum(self.counts, 1)[:, None] if "mass" in self.reductions else None,
            self.counts,
            self.denominators if denominators is None else denominators,
        )


def _seeing(values: Tensor, seen: Tensor | None, visible: Tensor) -> tuple[Tensor, Tensor | None]:
    """The rows of queries that see a key."""
    sees = visible > 0
    if bool(sees.all()):
        return values, seen
    return values[sees], None if seen is None else seen[sees]
