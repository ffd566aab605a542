"""What every view asks: rows, blocks and cells of a head of *an attention*, however it is made.

A view (a map, tiles, statistics, a comparison, a page) asks here and never looks at q and k. A maker is one class:
:class:`Computed`, the formula over q and k under a pattern, or :class:`attnviz.engine.given.Given`, weights as they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.base.bins import bin_edges
from attnviz.base.devices import dtype_name
from attnviz.base.errors import InputError
from attnviz.base.runs import runs
from attnviz.base.selections import checked_range
from attnviz.base.types import Positions
from attnviz.engine.blocks import Block, HeadRows, SeenRows, blocks, stepped
from attnviz.engine.reducer import Reduced, Wanted, reduce_map
from attnviz.engine.visibility import to_positions

_APART_CELLS = 1 << 20
"""Cells of a block of rows that stand apart, each over every key."""


class Rows(Protocol):
    """One head's rows, for whoever reads several heads or sides along each other."""

    @property
    def step(self) -> int | None:
        """The step that a range of rows must have to be read fast; None takes any."""

    @property
    def apart(self) -> Tensor:
        """Queries that are read by themselves, ascending, (R,)."""

    def read(self, rows: range | Tensor, *, weights: bool = True) -> SeenRows:
        """Any queries over every key that they may see, each key once."""


def rows_together(sides: Sequence[Rows], queries: range, size: int, S: int) -> Iterator[range | Tensor]:
    """Blocks of about ``size`` rows that suit all sides: ranges, and rows that one of them reads by themselves."""
    steps = {side.step for side in sides if side.step is not None}
    step = steps.pop() if len(steps) == 1 else 1
    apart = torch.unique(torch.cat([side.apart.cpu() for side in sides]))
    apart = apart[(apart >= queries.start) & (apart < queries.stop)]
    for rows in stepped(queries, size, step):
        if len(apart) and bool(torch.isin(to_positions(rows, apart.device), apart).any()):
            # Whole runs between the rows that stand apart keep the blocks cheap.
            without = set(apart.tolist())
            yield from runs((row for row in rows if row not in without), rows.step)
        else:
            yield rows
    if len(apart):
        yield from apart.split(max(16, min(size, _APART_CELLS // S)))


class Attention(ABC):
    """One batch item's attention."""

    item: AttentionItem
    """Sizes, positions, labels and padding."""

    pattern: Pattern
    """Which query sees which key."""

    softmaxed: bool = True
    """Whether weights are the softmax of logits, so that logits say it all."""

    @property
    def pattern_name(self) -> str:
        """What titles call the pattern."""
        return str(self.pattern)

    @property
    def given(self) -> bool:
        """Whether titles say that its weights were given."""
        return False

    @property
    def measured(self) -> str | None:
        """What its values measure, where that is not weight alone; None is weight."""
        return None

    def head_name(self, head: int) -> str | None:
        """What titles call a head that is made of others; None is its number."""
        return None

    @property
    def knows_hidden(self) -> bool:
        """Whether it says which keys a query sees, so that a weight of 0 is no hidden key."""
        return True

    @property
    def caveat(self) -> str | None:
        """What to say where numbers depend on how many keys are visible, and that isn't known; None where it is."""
        return None

    def left_out(self, head: int, queries: range | None = None) -> float | None:
        """The weight on keys that were hidden from it, the mean over the queries that see any; None where none were hidden."""
        return None

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is, for titles of comparisons: source, pattern, dtype and device."""

    @abstractmethod
    def rows(self, head: int, queries: range | None = None) -> Rows:
        """One head's rows; ``queries``: those that will be asked for, None meaning all."""

    @abstractmethod
    def blocks(
        self, head: int, *, queries: range | None = None, weights: bool = True, sums: bool = False
    ) -> Iterator[Block]:
        """One head block by block, every query once: weights, or logits.

        Args:
            head: the head.
            queries: those that are wanted; None is all.
            weights: whether the values are weights.
            sums: whether each query's largest logit, and the entropy of its weights, are wanted beside them.
        """

    def cells(self, head: int, row_edges: Positions, column_edges: Positions, **wanted: Any) -> Reduced:
        """One head reduced to cells.

        Args:
            head: the head.
            row_edges, column_edges: the bins, as :func:`attnviz.engine.reducer.reduce_map` has them.
            wanted: the fields of :class:`attnviz.engine.reducer.Wanted`.
        """
        return self.reduced(head, row_edges, column_edges, Wanted(**wanted))

    def cells_of(
        self, heads: Sequence[int], row_edges: Positions, column_edges: Positions, **wanted: Any
    ) -> list[Reduced]:
        """Several heads reduced to cells, as :meth:`cells`, without their denominators; processes that share the work share all of it."""
        asked = Wanted(**wanted)
        return [self.reduced(head, row_edges, column_edges, asked).alone() for head in heads]

    @abstractmethod
    def reduced(self, head: int, row_edges: Positions, column_edges: Positions, wanted: Wanted) -> Reduced:
        """As :meth:`cells`, for makers of attentions: what they override, and hand on."""

    @property
    def finest(self) -> int | None:
        """The most cells along a side that it can be reduced to; None is a cell a weight."""
        return None

    def edges(self, rows: range, columns: Sequence[int], down: int, across: int) -> tuple[Positions, Positions]:
        """The bins of a picture of some queries and keys, ``down`` and ``across`` of them at most."""
        return bin_edges(rows, min(len(rows), down)), bin_edges(columns, min(len(columns), across))

    def columns(self, keys: range | None = None) -> Sequence[int]:
        """The keys that are columns of a map: of a pattern of shared keys alone those among them, else all.

        Args:
            keys: the indices to show; None is all.

        Raises:
            InputError: indices out of range, or none that the pattern shares.
        """
        inside, source = checked_range(keys, self.item.S, "keys", self.item.source), self.item.source
        reach = self.pattern.reach(self.item)
        if reach.band or reach.keys is None or self.pattern.global_queries:
            return inside
        shown = tuple(position for position in reach.keys.tolist() if position in inside)
        if not shown:
            raise InputError(f"{source}: no global key lies in keys {inside.start}:{inside.stop}; widen it")
        return shown


class Computed(Attention):
    """The formula over q and k, under a pattern."""

    def __init__(self, item: AttentionItem, pattern: Pattern) -> None:
        self.item, self.pattern = item, pattern

    @property
    def name(self) -> str:
        said = (str(self.pattern), dtype_name(self.item.dtype), self.item.device.type)
        return f"{self.item.source} ({', '.join(said)})"

    def rows(self, head: int, queries: range | None = None) -> HeadRows:
        return HeadRows(self.item, self.pattern, head, queries=queries)

    def blocks(
        self, head: int, *, queries: range | None = None, weights: bool = True, sums: bool = False
    ) -> Iterator[Block]:
        return blocks(self.item, self.pattern, head, queries=queries, weights=weights, sums=sums)

    def reduced(self, head: int, row_edges: Positions, column_edges: Positions, wanted: Wanted) -> Reduced:
        return reduce_map(self.item, self.pattern, head, row_edges, column_edges, wanted)
