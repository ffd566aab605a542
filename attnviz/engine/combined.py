"""Several heads or layers as one: the mean of their weights, or the largest of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnviz.attention.call import OF_TOKENS, Call
from attnviz.attention.given import AttentionWeights
from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Full, Masked, Pattern
from attnviz.base.types import Cells, Positions, Progress
from attnviz.engine.attention import Attention, Rows, rows_together
from attnviz.engine.blocks import Block, SeenRows, rows_per_block
from attnviz.engine.derived import Derived, PartsPattern
from attnviz.engine.reducer import Reduced, Wanted, ones

Member = tuple[Attention, int]
"""An attention and a head of it."""

_MOST_QUERIES = 2048
"""Queries whose cells are kept each by itself, where members differ in what they hide."""

_BLOCK_CELLS = 1 << 20
"""Cells of a block of rows that are read over every key."""


class Combined(Derived):
    """The mean of several attentions' weights, or the largest of them, head by head, or of some heads of one.

    Visible is the union: a key that is hidden in one counts 0 there, and a row that is blank in one is left out.
    """

    def __init__(
        self,
        item: AttentionItem,
        parts: Sequence[Attention],
        how: str,
        heads: Sequence[int] | None = None,
        noun: str = "layers",
    ) -> None:
        """``heads``: those of the one part that are combined; None: each head of all parts, which are ``noun``."""
        super().__init__(item, PartsPattern.of(parts, heads), parts)
        self.how, self.heads, self.noun = how, heads, noun

    @property
    def said(self) -> str:  # type: ignore[override]
        return f"the {self.how} of {len(self.parts) if self.heads is None else len(self.heads)} " + (
            self.noun if self.heads is None else "heads"
        )

    def head_name(self, head: int) -> str | None:
        if self.heads is None:
            return self.parts[0].head_name(head)
        listed = ", ".join(map(str, self.heads))
        return f"{self.how} of " + (f"heads {listed}" if len(self.heads) <= 4 else f"{len(self.heads)} heads")

    @property
    def measured(self) -> str | None:
        return self.parts[0].measured

    def members(self, head: int) -> list[Member]:
        """What a head is made of."""
        if self.heads is None:
            return [(part, head) for part in self.parts]
        return [(self.parts[0], one) for one in self.heads]

    def rows(self, head: int, queries: range | None = None) -> CombinedRows:
        return CombinedRows(self, head, queries)

    def _blocks(self, head: int, queries: range, most: int | None = None) -> Iterator[Block]:
        own = self.rows(head, queries)
        for rows in own.groups(queries, most):
            yield self._block(rows, own.read(rows))

    def reduced(self, head: int, row_edges: Positions, column_edges: Positions, wanted: Wanted) -> Reduced:
        reductions, members = tuple(wanted.reductions), self.members(head)
        wanted = wanted.but(progress=_slowed(wanted.progress, len(members)))
        of_members = _Cells(members, row_edges, column_edges, self.how, wanted)
        if wanted.logits:
            if not self._exact_logits(row_edges, column_edges):
                raise self.no_logits()
            return of_members.of_logits()
        if reductions == ("mass",) and self.how == "mean":
            return of_members.of_mean()
        if reductions == ("max",) and self.how == "max" and all(one.softmaxed for one, _ in members):
            return of_members.of_max()
        return super().reduced(head, row_edges, column_edges, wanted)

    def _exact_logits(self, *edges: Positions) -> bool:
        """Whether the logits of members can be combined cell by cell."""
        return self.how == "max" or all((np.diff(one) == 1).all() for one in edges)


class CombinedRows:
    """The rows of several heads as one, over the keys that any of them sees."""

    def __init__(self, attention: Combined, head: int, queries: range | None) -> None:
        self.attention = attention
        members = attention.members(head)
        self.own: list[Rows] = [one.rows(number, queries) for one, number in members]
        steps = {rows.step for rows in self.own if rows.step is not None}
        self.step = steps.pop() if len(steps) == 1 else None
        self.apart = torch.unique(torch.cat([rows.apart.cpu() for rows in self.own]))

    def groups(self, queries: range, most: int | None = None) -> Iterator[range | Tensor]:
        """Blocks of rows, at most so many, that suit all members."""
        item = self.attention.item
        width = self.attention.pattern.reach(item).width(item.T, item.S)
        size = min(1024, rows_per_block(width, least=16))
        if self.step is None or any(rows.step is None for rows in self.own):  # some of them are read over every key
            size = min(size, max(16, _BLOCK_CELLS // item.S))
        return rows_together(self.own, queries, size if most is None else min(size, most), item.S)

    def read(self, rows: range | Tensor, *, weights: bool = True) -> SeenRows:
        """Any queries over every key that any member sees, on the CPU in float64."""
        if not weights:
            raise self.attention.no_logits()
        b, mean = len(rows), self.attention.how == "mean"
        keys = torch.empty(0, dtype=torch.int64)
        total, seen = torch.zeros(b, 0, dtype=torch.float64), torch.zeros(b, 0, dtype=torch.bool)
        count = torch.zeros(b, dtype=torch.int64)  # of the members where each query sees a key
        for own in self.own:
            found = own.read(rows)
            if not torch.equal(found.keys, keys):
                every = torch.unique(torch.cat([found.keys, keys]))
                column = torch.searchsorted(every, keys)
                # A key that those before hide counts 0 in each, and nothing where none of them has the row.
                empty = torch.zeros(b, 1) if mean else torch.where(count > 0, 0.0, -torch.inf)[:, None]
                wider, known = empty.double().repeat(1, len(every)), seen.new_zeros(b, len(every))
                wider[:, column], known[:, column] = total, seen
                keys, total, seen, found = every, wider, known, found.over(every, True)
            there = ~torch.isnan(found.values).all(1)
            count += there
            seen |= found.seen & there[:, None]
            if mean:
                total += torch.where(there[:, None], found.values, 0.0)
            else:
                total = torch.where(
                    there[:, None],
                    torch.where((count > 1)[:, None], torch.maximum(total, found.values), found.values),
                    total,
                )
        if mean:
            total = total / count[:, None]
        total[count == 0] = torch.nan
        return SeenRows(keys, total, seen)


def as_given(attention: Derived, heads: Sequence[int]) -> tuple[AttentionWeights, Pattern]:
    """The weights of some heads of a batch item, made here, and the pattern of what each of their queries sees."""
    item = attention.item
    weights = torch.full((1, len(heads), item.T, item.S), torch.nan, dtype=item.compute_dtype, device=item.device)
    visible = torch.zeros(weights.shape, dtype=torch.bool, device=item.device)
    with torch.no_grad(), torch.autocast(item.device.type, enabled=False):
        for n, head in enumerate(heads):
            for block in attention.blocks(head):
                weights[0, n, block.rows], visible[0, n, block.rows] = block.over_all(item.S)
    inputs, part = item.inputs, slice(item.batch, item.batch + 1)
    own: dict[str, Any] = {field.name: getattr(inputs, field.name) for field in fields(Call) if field.init}
    for name, value in own.items():
        of_batch = isinstance(value, Tensor) or name in OF_TOKENS
        own[name] = value[part] if of_batch and value is not None else value
    pattern: Pattern = Masked(visible.cpu()) if attention.knows_hidden else Full()
    return AttentionWeights(weights, **{**own, "pattern": pattern}), pattern


class _Cells:
    """The cells of several members as one, where they can be made of the cells of each."""

    def __init__(
        self,
        members: Sequence[Member],
        row_edges: Positions,
        column_edges: Positions,
        how: str,
        wanted: Wanted,
    ) -> None:
        self.members, self.row_edges, self.column_edges = members, row_edges, column_edges
        self.how, self.wanted = how, wanted.but(denominators=None)

    def each(self) -> Iterator[tuple[Reduced, Cells]]:
        """Each member's cells of the one reduction that is asked for."""
        for attention, head in self.members:
            found = attention.reduced(head, self.row_edges, self.column_edges, self.wanted)
            cells = found.max if found.mass is None else found.mass
            assert cells is not None
            yield found, cells

    def of_logits(self) -> Reduced:
        """Logits have no mass, and one that a member hides has no mean."""
        total: Cells | None = None
        seeing = np.zeros(self.row_edges[-1] - self.row_edges[0], dtype=np.int64)
        for found, cells in self.each():
            seeing += _sees(found)
            if total is None:
                total = cells.copy()
            elif self.how == "mean":
                np.add(total, cells, out=total)
            else:
                np.fmax(total, cells, out=total)
        assert total is not None
        return self._reduced(total / len(self.members) if self.how == "mean" else total, None, seeing)

    def of_max(self) -> Reduced:
        """The largest of the largest is the largest."""
        total: Cells | None = None
        seeing = np.zeros(self.row_edges[-1] - self.row_edges[0], dtype=np.int64)
        for found, cells in self.each():
            seeing += _sees(found)
            total = cells.copy() if total is None else np.fmax(total, cells)
        return self._reduced(total, None, seeing)

    def of_mean(self) -> Reduced:
        """The mean of sums is the sum of the mean.

        Each query's mean is over the members where it sees a key; a key that it sees in one of them alone is 0 in the
        others. Where all members see with the same queries of a row of cells, or with none of them, the mean of their
        cells is the cell of their mean; elsewhere it is made query by query.
        """
        shape = (len(self.row_edges) - 1, len(self.column_edges) - 1)
        total, seen, counts = np.zeros(shape), np.zeros(shape, dtype=bool), []
        seeing = np.zeros(self.row_edges[-1] - self.row_edges[0], dtype=np.int64)
        for found, cells in self.each():
            there = ~np.isnan(cells)
            seen |= there
            np.add(total, cells, out=total, where=there)
            counts.append(found.counts)
            seeing += _sees(found)
        rows = self.row_edges - self.row_edges[0]
        any_sees = np.add.reduceat(seeing > 0, rows[:-1], dtype=np.int64)  # (P,) queries that any member sees with
        of_members = np.stack(counts)  # (members, P)
        total /= np.maximum((of_members > 0).sum(0), 1)[:, None]
        ragged = np.logical_or.reduce((of_members > 0) & (of_members < any_sees), axis=0)  # (P,)
        for bins in _runs(ragged, rows):
            total[bins] = self._query_by_query(bins, any_sees[bins], seeing)
        np.copyto(total, np.nan, where=~seen)
        return self._reduced(None, total, seeing)

    def _query_by_query(self, bins: slice, counts: Positions, seeing: Positions) -> Cells:
        """Rows of cells whose queries see in some members each."""
        edges = self.row_edges[bins.start : bins.stop + 1]
        queries = np.arange(edges[0], edges[-1] + 1)
        total = np.zeros((len(queries) - 1, len(self.column_edges) - 1))
        wanted = self.wanted.but(progress=None, tile=None)
        for attention, head in self.members:
            found = attention.reduced(head, queries, self.column_edges, wanted)
            assert found.mass is not None
            total += np.nan_to_num(found.mass)
        first = self.row_edges[0]
        total /= np.maximum(seeing[edges[0] - first : edges[-1] - first], 1)[:, None]
        summed: Cells = np.add.reduceat(total, edges[:-1] - edges[0], axis=0)
        return summed / counts[:, None]

    def _reduced(self, most: Cells | None, mass: Cells | None, seeing: Positions) -> Reduced:
        rows = self.row_edges - self.row_edges[0]
        counts = np.add.reduceat(seeing > 0, rows[:-1], dtype=np.int64)
        return Reduced(most, mass, counts, ones(torch.from_numpy(seeing > 0)))


def _sees(found: Reduced) -> NDArray[np.bool_]:
    """Whether each query sees a key, (T',)."""
    sees: NDArray[np.bool_] = ~np.isnan(found.denominators[:, 1].numpy())
    return sees


def _runs(wanted: NDArray[np.bool_], rows: Positions) -> Iterator[slice]:
    """The rows of cells that are wanted, in runs of about as many queries as are worth a picture of their own."""
    start: int | None = None
    for n, one in enumerate([*wanted.tolist(), False]):
        if start is not None and (not one or rows[n] - rows[start] >= _MOST_QUERIES):
            yield slice(start, n)
            start = None
        if one and start is None:
            start = n


def _slowed(progress: Progress | None, members: int) -> Progress | None:
    """What counts a row once all members have come by."""
    if progress is None or members == 1:
        return progress
    told, done = progress, 0

    def count(rows: int) -> None:
        nonlocal done
        before, done = done // members, done + rows
        if done // members > before:
            told(done // members - before)

    return count
