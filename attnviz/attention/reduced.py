"""Maps that were reduced while a model ran, in place of queries and keys: cells, softmax denominators and statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attnviz.attention.inputs import Inputs
from attnviz.attention.pattern import Item, Pattern
from attnviz.attention.reach import Reach
from attnviz.base.bins import bin_edges
from attnviz.base.errors import InputError
from attnviz.base.types import Cells, Positions

LEAST = 256
"""The fewest cells a side that are kept: those of one tile of a page."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The cells of every head of every batch item, by both reductions.

    Args:
        rows, columns: their edges, (P + 1,) and (P' + 1,).
        max, mass: (B, H, P, P'), NaN where nothing is visible.
        seeing: (B, H, P) int64, how many queries of each row of cells see anything: what ``mass`` is an average over.
    """

    rows: Positions
    columns: Positions
    max: Tensor
    mass: Tensor
    seeing: Tensor

    def holds(self, rows: Positions, columns: Positions) -> bool:
        """Whether cells between these edges are made of whole cells of this one."""
        return bool(np.isin(rows, self.rows).all() and np.isin(columns, self.columns).all())

    def between(self, batch: int, head: int, rows: Positions, columns: Positions) -> tuple[Cells, Cells, Positions]:
        """``max``, ``mass`` and ``seeing`` of one head in the larger cells between some of its edges."""
        down, across = np.searchsorted(self.rows, rows), np.searchsorted(self.columns, columns)
        part = (slice(down[0], down[-1]), slice(across[0], across[-1]))
        down, across = down - down[0], across - across[0]
        largest, mass = (one[batch, head].double().numpy()[part] for one in (self.max, self.mass))
        seeing = self.seeing[batch, head].numpy()[part[0]]

        def joined(how: np.ufunc, cells: Cells) -> Cells:
            found: Cells = how.reduceat(how.reduceat(cells, down[:-1], axis=0), across[:-1], axis=1)
            return found

        blank = joined(np.logical_and, np.isnan(mass))
        together = np.add.reduceat(seeing, down[:-1])
        sums = joined(np.add, np.nan_to_num(mass) * seeing[:, None])
        mass = np.where(blank, np.nan, sums / np.maximum(together, 1)[:, None])
        return joined(np.fmax, largest), mass, together

    def to(self, rows: Positions, columns: Positions) -> Grid:
        """All heads in the larger cells between some of its edges, as float32."""
        B, H = self.max.shape[:2]
        parts = [[self.between(batch, head, rows, columns) for head in range(H)] for batch in range(B)]
        largest, mass, seeing = (
            torch.from_numpy(np.stack([np.stack([one[n] for one in item]) for item in parts])) for n in range(3)
        )
        return Grid(rows, columns, largest.float(), mass.float(), seeing)


def grid_edges(T: int, S: int, pixels: int) -> list[tuple[Positions, Positions]]:
    """The edges of the cells that are kept: those of pictures, and those of a page's tiles where they are others.

    Pictures are cut evenly, so that half as many cells are joined from these; a page's cells double in size from a cell
    a weight on.

    >>> [[edges.tolist() for edges in grid] for grid in grid_edges(5, 5, 4)]
    [[[0, 1, 2, 3, 5], [0, 1, 2, 3, 5]], [[0, 2, 4, 5], [0, 2, 4, 5]]]
    """
    pictures = tuple(bin_edges(range(size), min(size, pixels)) for size in (T, S))
    cell = 1
    while -(-max(T, S) // cell) > pixels:
        cell *= 2
    tiles = tuple(np.append(np.arange(0, size, cell, dtype=np.int64), size) for size in (T, S))
    same = all(np.array_equal(a, b) for a, b in zip(pictures, tiles, strict=True))
    return [(pictures[0], pictures[1])] if same else [(pictures[0], pictures[1]), (tiles[0], tiles[1])]


@dataclass(frozen=True)
class Named(Pattern):
    """A pattern of which the name alone is known; which pairs it hides shows in the cells."""

    said: str

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        raise InputError(f"{item.source}: {WITHOUT}")

    def reach(self, item: Item) -> Reach:
        return Reach()

    def __str__(self) -> str:
        return self.said


WITHOUT = (
    "holds maps that were reduced while the model ran, and this needs the q and k that they were made of; capture the model "
    "without --maps"
)
"""What an error says where single weights, or q and k, are asked for."""


def check_whole(inputs: Inputs) -> None:
    """Raises InputError for maps that were reduced: what is asked for is made of single weights."""
    if isinstance(inputs, ReducedMaps):
        raise InputError(f"{inputs.source}: {WITHOUT}")


@dataclass(frozen=True)
class ReducedMaps(Inputs):
    """The maps of a call's heads, reduced while the model ran; every view takes them that needs no single weight.

    A picture has as many cells as are kept, or fewer; a page zooms in to these.

    Args:
        grids: the cells, as :func:`grid_edges` has them.
        log_sum_exp: the logarithm of each query's softmax denominator, (B, H, T) float64, NaN where it sees nothing; 0 of
            weights that a model computed by itself.
        statistics: the statistics of each head of each batch item, by name, ``queries`` among them.
        pixels: the most cells along each side.
        of: the dtype that q and k had.
    """

    grids: tuple[Grid, ...]
    log_sum_exp: Tensor
    statistics: tuple[tuple[Mapping[str, float | None], ...], ...]
    pixels: int
    of: torch.dtype = torch.float32

    @property
    def main(self) -> Tensor:
        return self.log_sum_exp

    @property
    def dtype(self) -> torch.dtype:
        return self.of

    @property
    def S(self) -> int:
        return int(self.grids[0].columns[-1])

    @property
    def H_kv(self) -> int:
        return self.H

    @property
    def without_products(self) -> str:
        return WITHOUT
