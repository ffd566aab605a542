"""How a head's map is made in parts: cut where blocks of rows end anyway, so that parts put together have the bits of the whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.base.types import Cells, Positions
from attnviz.engine.products import LINEAR, PLAIN
from attnviz.engine.reducer import Reduced, row_groups
from attnviz.engine.tiles import TileSize

PART_PAIRS = 1 << 32
"""Pairs of a part, about: seconds of a processor, which is what a killed run loses."""

PARTS_A_RANK = 8
"""Parts for each rank, where maps have fewer by their size: the ranks that are done first take what is left."""


@dataclass(frozen=True)
class Plan:
    """What ranks and runs must agree on: the tile, and where rows of cells are cut, as indices of the row edges."""

    tile: TileSize
    cuts: tuple[int, ...]

    @classmethod
    def of(
        cls,
        item: AttentionItem,
        pattern: Pattern,
        row_edges: Positions,
        tile: TileSize,
        *,
        ranks: int = 1,
        heads: int = 1,
    ) -> Plan:
        """Parts of about the same work, for so many ranks that make the maps of so many heads from one queue."""
        work = pairs(item, pattern, row_edges, tile.rows)
        count = max(work // PART_PAIRS, -(-PARTS_A_RANK * ranks // heads) if ranks > 1 else 1)
        return cls(tile, tuple(dict.fromkeys(shares(item, pattern, row_edges, tile.rows, count))))

    @classmethod
    def read(cls, text: bytes | str) -> Plan:
        """What :meth:`written` gave.

        Raises:
            ValueError: it is none of that, as of a file that anyone may have written.
        """
        try:
            said = json.loads(text)
            tile, cuts = TileSize(**said["tile"]), tuple(said["cuts"])
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError("it is no plan") from error
        sizes = (tile.rows, tile.keys)
        whole = all(type(number) is int for number in (*sizes, *cuts))
        if not (whole and min(sizes) > 0 and tile.operator in (PLAIN, LINEAR) and len(cuts) > 1):
            raise ValueError("it is no plan")
        if cuts[0] or any(last <= first for first, last in pairwise(cuts)):
            raise ValueError("its cuts do not ascend from 0")
        return cls(tile, cuts)

    def written(self) -> str:
        """The same as text."""
        tile = {"rows": self.tile.rows, "keys": self.tile.keys, "operator": self.tile.operator}
        return json.dumps({"tile": tile, "cuts": self.cuts})

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def edges(self, part: int, row_edges: Positions) -> Positions:
        """The row edges of a part."""
        return row_edges[self.cuts[part] : self.cuts[part + 1] + 1]


class Whole:
    """A map while its parts come in, in any order."""

    def __init__(
        self, plan: Plan, row_edges: Positions, columns: int, reductions: Sequence[str], *, sums: bool = True
    ) -> None:
        """``sums``: whether it has the denominators."""
        self.plan, self.row_edges, self.missing = plan, row_edges, set(range(len(plan)))
        rows = len(row_edges) - 1
        self.cells: dict[str, Cells] = {name: np.empty((rows, columns)) for name in reductions}
        self.counts = np.empty(rows, dtype=np.int64)
        self.denominators = torch.empty(int(row_edges[-1] - row_edges[0]) if sums else 0, 2, dtype=torch.float64)

    def arrays(self, part: int) -> list[torch.Tensor]:
        """Where a part's numbers go, as tensors of this memory: cells, counts and denominators."""
        first, last = self.plan.cuts[part], self.plan.cuts[part + 1]
        start, stop = (int(self.row_edges[n] - self.row_edges[0]) for n in (first, last))
        cells = [torch.from_numpy(cells[first:last]) for cells in self.cells.values()]
        counts, sums = torch.from_numpy(self.counts[first:last]), self.denominators[start:stop]
        return [*cells, counts, sums] if len(self.denominators) else [*cells, counts]

    def put(self, part: int, made: Reduced) -> None:
        """Takes a part in."""
        for place, values in zip(self.arrays(part), numbers(made), strict=True):
            place.copy_(values)
        self.missing.discard(part)

    def result(self) -> Reduced:
        """The map, once nothing is missing."""
        assert not self.missing
        return Reduced(self.cells.get("max"), self.cells.get("mass"), self.counts, self.denominators)


def numbers(made: Reduced) -> list[torch.Tensor]:
    """A part's numbers in the order of :meth:`Whole.arrays`."""
    cells = [torch.from_numpy(np.ascontiguousarray(one)) for one in (made.max, made.mass) if one is not None]
    counts = torch.from_numpy(made.counts)
    return [*cells, counts, made.denominators] if len(made.denominators) else [*cells, counts]


def pairs(item: AttentionItem, pattern: Pattern, row_edges: Positions, rows: int) -> int:
    """How many pairs of queries and keys the blocks of a map have, about."""
    return sum(work for _, work in _works(item, pattern, row_edges, rows))


def shares(item: AttentionItem, pattern: Pattern, row_edges: Positions, rows: int, size: int) -> list[int]:
    """Where to cut rows of cells into ``size`` shares of about the same work: ``size + 1`` indices of ``row_edges``.

    Cuts lie between groups of rows, as :func:`attnviz.engine.reducer.row_groups` makes them.
    """
    done = 0
    index = {int(edge): n for n, edge in enumerate(row_edges)}
    places: list[tuple[int, int]] = []
    for group, work in _works(item, pattern, row_edges, rows):
        done += work
        if group.stop in index:
            places.append((done, index[group.stop]))
    cuts = [0]
    for rank in range(1, size):
        wanted = done * rank / size
        cuts.append(max(cuts[-1], min(places, key=lambda place: abs(place[0] - wanted))[1]))
    return [*cuts, len(row_edges) - 1]


def _works(item: AttentionItem, pattern: Pattern, row_edges: Positions, rows: int) -> Iterator[tuple[range, int]]:
    """Each group of rows, and its pairs."""
    reach = pattern.reach(item)
    shared = 0 if reach.keys is None else len(reach.keys)
    for group in row_groups(row_edges, rows * reach.step):
        yield group, len(group) * (sum(map(len, reach.spans(group, item.S))) + shared)


def rows_of_parts(plan: Plan, row_edges: Positions) -> list[int]:
    """How many queries each part has."""
    return [int(row_edges[last] - row_edges[first]) for first, last in pairwise(plan.cuts)]
