"""Maps that were reduced before, as an attention: their cells, and larger ones that are made of whole ones of these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.attention.reduced import ReducedMaps
from attnviz.base.bins import bin_edges
from attnviz.base.errors import InputError
from attnviz.base.types import Positions
from attnviz.engine.attention import Attention, Rows
from attnviz.engine.blocks import Block
from attnviz.engine.reducer import Reduced, Wanted


class Stored(Attention):
    """Reduced maps, under the pattern that they were made with."""

    softmaxed = False

    def __init__(self, item: AttentionItem, pattern: Pattern) -> None:
        assert isinstance(item.inputs, ReducedMaps)
        own = item.inputs.pattern
        if str(pattern) != str(own):
            raise InputError(
                f"{item.source}: its maps were reduced under the pattern {own}, and {pattern} is asked for; leave --pattern "
                f"out, or capture the model without --maps"
            )
        self.item, self.pattern, self.maps = item, pattern, item.inputs

    @property
    def name(self) -> str:
        return f"{self.item.source} ({self.pattern}, reduced)"

    @property
    def finest(self) -> int:
        return self.maps.pixels

    def rows(self, head: int, queries: range | None = None) -> Rows:
        raise self._needs_products()

    def blocks(
        self, head: int, *, queries: range | None = None, weights: bool = True, sums: bool = False
    ) -> Iterator[Block]:
        raise self._needs_products()

    def columns(self, keys: range | None = None) -> Sequence[int]:
        return range(self.item.S) if keys is None else keys

    def edges(self, rows: range, columns: Sequence[int], down: int, across: int) -> tuple[Positions, Positions]:
        grid = self.maps.grids[0]
        return self._edges(rows, grid.rows, down, "queries"), self._edges(columns, grid.columns, across, "keys")

    def _edges(self, shown: Sequence[int], own: Positions, most: int, name: str) -> Positions:
        """The finest even bins, ``most`` of them at most, whose edges are all edges of the cells that are kept."""
        inside = int(np.count_nonzero((own > shown[0]) & (own <= shown[-1] + 1)))
        most = min(len(shown), most, max(1, inside))
        for bins in range(most, most // 2, -1):
            edges = bin_edges(shown, bins)
            if bool(np.isin(edges, own).all()):
                return edges
        cell = -(-self.item.T // (len(own) - 1)) if name == "queries" else -(-self.item.S // (len(own) - 1))
        raise InputError(
            f"{self.item.source}: --{name} {shown[0]}:{shown[-1] + 1} does not begin and end with the cells that were kept, of "
            f"about {cell} {name} each; show all of the map, or capture the model without --maps"
        )

    def reduced(self, head: int, row_edges: Positions, column_edges: Positions, wanted: Wanted) -> Reduced:
        grid = next((grid for grid in self.maps.grids if grid.holds(row_edges, column_edges)), None)
        if grid is None or wanted.logits:
            raise self._needs_products()
        largest, mass, seeing = grid.between(self.item.batch, head, row_edges, column_edges)
        peaks = self.maps.log_sum_exp[self.item.batch, head, int(row_edges[0]) : int(row_edges[-1])].double()
        wanted.told(len(peaks))
        return Reduced(
            largest if "max" in wanted.reductions else None,
            mass if "mass" in wanted.reductions else None,
            seeing,
            torch.stack([peaks, torch.where(peaks.isnan(), torch.nan, 1.0)], dim=1),
        )

    def _needs_products(self) -> InputError:
        return InputError(f"{self.item.source}: {self.item.inputs.without_products}")
