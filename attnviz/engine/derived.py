"""Attentions that are made of others: the mean or the largest of heads or layers, rollout, norm-weighted.

Each is read as any attention is: rows of a head, blocks, cells. One member is read at a time, and nothing of T x S is made.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnviz.attention.call import Call
from attnviz.attention.given import AttentionWeights
from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Full, Masked, Pattern
from attnviz.attention.reach import Reach
from attnviz.base.devices import dtype_name
from attnviz.base.errors import InputError
from attnviz.base.selections import checked_range
from attnviz.base.types import Cells, Positions, Progress
from attnviz.engine.attention import Attention, Rows, rows_together
from attnviz.engine.blocks import Block, SeenRows, rows_per_block
from attnviz.engine.given import no_logits
from attnviz.engine.reducer import Reduced, Wanted, ones
from attnviz.engine.softmax import BLANK
from attnviz.engine.tiles import segment, segments
from attnviz.engine.visibility import to_positions
from attnviz.engine.whole import GivenCells

Member = tuple[Attention, int]
"""An attention and a head of it."""

_MOST_QUERIES = 2048
"""Queries whose cells are kept each by itself, where members differ in what they hide."""

_BLOCK_CELLS = 1 << 20
"""Cells of a block of rows that are read over every key."""

_VECTOR_CELLS = 1 << 23
"""Numbers of the row vectors that go through all layers together: 64 MiB of float64."""

_VECTOR_BYTES = 40
"""What a number of them takes on its way: two of float64, and what is reached."""

_VALUES = 4096
"""Values whose lengths are taken at once."""

_OUTPUT_CELLS = 1 << 22
"""Numbers of values times an output projection that are made at once."""


@dataclass(frozen=True, eq=False)
class PartsPattern(Pattern):
    """What any of several attentions makes visible, each by its own pattern, masks and positions."""

    parts: tuple[tuple[Pattern, AttentionItem], ...]

    @classmethod
    def of(cls, parts: Sequence[Attention], heads: Sequence[int] | None = None) -> PartsPattern:
        """That of some attentions, or of some heads of one."""
        if heads is None:
            return cls(tuple((part.pattern, part.item) for part in parts))
        own = {id(one): one for one in (parts[0].pattern.of_head(head) for head in heads)}  # most have one for all
        return cls(tuple((one, parts[0].item) for one in own.values()))

    @property
    def global_queries(self) -> bool:  # type: ignore[override]
        return any(pattern.global_queries for pattern, _ in self.parts)

    def of_head(self, head: int) -> PartsPattern:
        return PartsPattern(tuple((pattern.of_head(head), item) for pattern, item in self.parts))

    def reasons(self) -> list[tuple[str, Pattern]]:
        found: dict[str, list[tuple[Pattern, AttentionItem]]] = {}
        for pattern, item in self.parts:
            for reason, part in pattern.reasons():
                found.setdefault(reason, []).append((part, item))
        return [(reason, PartsPattern(tuple(parts))) for reason, parts in found.items()]

    def visible(self, t: Tensor, s: Tensor, item: Any) -> Tensor:
        return reduce(torch.logical_or, (pattern.visible(t, s, own) for pattern, own in self.parts))

    def reach(self, item: Any) -> Reach:
        return reduce(or_, (pattern.reach(own) for pattern, own in self.parts))

    def __str__(self) -> str:
        return " + ".join(dict.fromkeys(str(pattern) for pattern, _ in self.parts))


class Derived(Attention):
    """What attentions made of others have in common: cells out of blocks."""

    softmaxed = False
    said: str

    def __init__(self, item: AttentionItem, pattern: Pattern, parts: Sequence[Attention]) -> None:
        self.item, self.pattern, self.parts = item, pattern, tuple(parts)

    @property
    def given(self) -> bool:
        return any(part.given for part in self.parts)

    @property
    def pattern_name(self) -> str:
        names = dict.fromkeys(part.pattern_name for part in self.parts)
        return " + ".join(names)

    @property
    def knows_hidden(self) -> bool:
        return all(part.knows_hidden for part in self.parts)

    @property
    def caveat(self) -> str | None:
        return next((part.caveat for part in self.parts if part.caveat is not None), None)

    @property
    def name(self) -> str:
        said = (self.said, self.pattern_name, dtype_name(self.item.dtype), self.item.device.type)
        return f"{self.item.source} ({', '.join(one for one in said if one)})"

    def blocks(
        self, head: int, *, queries: range | None = None, weights: bool = True, sums: bool = False
    ) -> Iterator[Block]:
        if not weights:
            raise self.no_logits()
        return self._blocks(head, range(self.item.T) if queries is None else queries)

    @abstractmethod
    def _blocks(self, head: int, queries: range, most: int | None = None) -> Iterator[Block]:
        """Blocks of weights of some queries, of at most so many rows where that is said."""

    def reduced(self, head: int, row_edges: Positions, column_edges: Positions, wanted: Wanted) -> Reduced:
        if wanted.logits:
            raise self.no_logits()
        tile = wanted.tile_of(self.item, row_edges, column_edges)
        most = None if wanted.memory is None else max(1, tile.rows * tile.keys // self.item.S)
        grid = GivenCells(row_edges, column_edges, wanted.reductions)
        with torch.no_grad(), torch.autocast(self.item.device.type, enabled=False):
            for block in self._blocks(head, range(int(row_edges[0]), int(row_edges[-1])), most):
                grid.add_block(block)
                wanted.told(len(block.rows))
        return grid.result(wanted.denominators)

    def no_logits(self) -> InputError:
        """The error of asking what is made of weights for logits."""
        return no_logits(self.item)

    def _block(self, rows: range | Tensor, found: SeenRows) -> Block:
        """A block of rows that were read."""
        item = self.item
        values = found.values.to(device=item.device, dtype=item.compute_dtype)
        seen = found.seen if self.knows_hidden else self._existing(found)
        seen = seen.to(item.device)
        at = to_positions(rows, item.device)
        return Block(at, found.keys.to(item.device), values, seen.sum(1), 0, seen=seen)

    def _existing(self, found: SeenRows) -> Tensor:
        """Every key that exists, (b, n) bool, of rows that aren't blank: what is seen where nobody says which keys are."""
        there = ~torch.isnan(found.values).all(1, keepdim=True)
        padding = self.item.key_padding
        return there.expand(found.values.shape) if padding is None else there & padding.cpu()[found.keys]


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
        of_batch = isinstance(value, Tensor) or name in _OF_BATCH
        own[name] = value[part] if of_batch and value is not None else value
    pattern: Pattern = Masked(visible.cpu()) if attention.knows_hidden else Full()
    return AttentionWeights(weights, **{**own, "pattern": pattern}), pattern


_OF_BATCH = ("tokens", "query_tokens", "word_ids", "query_word_ids", "special_tokens", "query_special_tokens")


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


class Rollout(Derived):
    """Attention followed through the layers (arXiv:2005.00928): ``R = (A_L / 2 + I / 2) ... (A_1 / 2 + I / 2)``.

    ``A_l`` is the mean of a layer's heads; a row that is blank counts as that of the identity; nothing is renormalized. Row
    vectors go down from the top layer: a query, or the mean of those of a row of cells.
    """

    said = "rollout"

    def __init__(self, item: AttentionItem, parts: Sequence[Attention]) -> None:
        """``parts``: the layers, the first one first."""
        super().__init__(item, Full(), parts)
        self.layers = [Combined(part.item, [part], "mean", range(part.item.inputs.H)) for part in parts]

    def head_name(self, head: int) -> str:
        return "all heads"

    def columns(self, keys: range | None = None) -> Sequence[int]:
        return checked_range(keys, self.item.S, "keys", self.item.source)

    def rows(self, head: int, queries: range | None = None) -> _RolloutRows:
        return _RolloutRows(self)

    def _blocks(self, head: int, queries: range, most: int | None = None) -> Iterator[Block]:
        own, size = self.rows(head), max(1, _VECTOR_CELLS // self.item.S)
        for rows in _chunks(queries, size if most is None else min(size, most)):
            yield self._block(rows, own.read(rows))

    def reduced(self, head: int, row_edges: Positions, column_edges: Positions, wanted: Wanted) -> Reduced:
        sizes = np.diff(row_edges)
        if "max" in wanted.reductions and (sizes > 1).any():
            raise InputError(
                f"{self.item.source}: a row of cells is of {int(sizes.max())} queries, and rollout follows their mean through "
                f"the layers, not the largest of each; choose --reduce mass, or few queries with --queries A:B"
            )
        if not (sizes > 1).any():
            return super().reduced(head, row_edges, column_edges, wanted)
        if wanted.logits:
            raise self.no_logits()
        wanted.tile_of(self.item, row_edges, column_edges)  # raises where memory is too little
        return self._mass(row_edges, column_edges, wanted)

    def _mass(self, row_edges: Positions, column_edges: Positions, wanted: Wanted) -> Reduced:
        """The mean of the queries of each row of cells, followed down, and summed over the keys of each."""
        exists = self._exist(torch.arange(int(row_edges[0]), int(row_edges[-1])))
        rows = row_edges - row_edges[0]
        counts = np.add.reduceat(exists.numpy(), rows[:-1], dtype=np.int64)
        mass = np.full((len(counts), len(column_edges) - 1), np.nan)
        memory = wanted.memory
        cells = _VECTOR_CELLS if memory is None else min(_VECTOR_CELLS, memory // _VECTOR_BYTES)
        for bins in _chunks(range(len(counts)), max(1, cells // self.item.S)):
            start = torch.zeros(len(bins), self.item.S, dtype=torch.float64)
            for n, place in enumerate(bins):
                of_bin = torch.arange(int(row_edges[place]), int(row_edges[place + 1]))
                start[n, of_bin[exists[of_bin - int(row_edges[0])]]] = 1 / max(int(counts[place]), 1)
            values, seen = self.follow(start)
            inside = slice(int(column_edges[0]), int(column_edges[-1]))
            found, cuts = segments(range(self.item.S)[inside], column_edges)
            sums = segment(values[:, inside].contiguous(), cuts, "sum", dim=1)
            there = segment(seen[:, inside].double(), cuts, "max", dim=1) > 0
            mass[bins.start : bins.stop, found] = torch.where(there, sums, torch.nan).numpy()
            wanted.told(int(row_edges[bins.stop] - row_edges[bins.start]))
        mass[counts == 0] = np.nan
        return Reduced(None, mass, counts, ones(exists))

    def follow(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Row vectors through all layers, from the top one down.

        Args:
            vectors: (m, T) float64, on the CPU.

        Returns:
            (m, S) what they become, and whether there is a way to each key, (m, S) bool.
        """
        seen = vectors != 0
        for layer in reversed(self.layers):
            vectors, seen = self._through(layer, vectors, seen)
        return vectors, seen

    def _through(self, layer: Combined, vectors: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """One layer: half of each weight goes where its query looks, half stays where it is."""
        found, reached = vectors / 2, seen.clone()
        there = seen.any(0).nonzero().flatten()
        if not len(there):
            return found, reached
        queries = range(int(there[0]), int(there[-1]) + 1)
        own = layer.rows(0, queries)
        for rows in own.groups(queries):
            read = own.read(rows)
            at = to_positions(rows, torch.device("cpu"))
            blank = torch.isnan(read.values).all(1)
            found[:, at[blank]] += vectors[:, at[blank]] / 2
            ways = (read.seen if layer.knows_hidden else layer._existing(read))[~blank]
            at, values = at[~blank], read.values[~blank]
            found[:, read.keys] += vectors[:, at] @ values / 2
            reached[:, read.keys] |= seen[:, at].float() @ ways.float() > 0
        return found, reached

    def _exist(self, queries: Tensor) -> Tensor:
        """Which of some queries are no padding."""
        padding = self.item.query_padding
        return torch.ones(len(queries), dtype=torch.bool) if padding is None else padding.cpu()[queries]


class _RolloutRows:
    """Rows of the rollout, each followed through all layers."""

    step: int | None = None

    def __init__(self, attention: Rollout) -> None:
        self.attention, self.apart = attention, torch.empty(0, dtype=torch.int64)

    def read(self, rows: range | Tensor, *, weights: bool = True) -> SeenRows:
        """Any queries over every key, on the CPU in float64."""
        if not weights:
            raise self.attention.no_logits()
        at, S = to_positions(rows, torch.device("cpu")), self.attention.item.S
        exists = self.attention._exist(at)
        start = torch.zeros(len(at), S, dtype=torch.float64)
        start[torch.arange(len(at)), at] = 1
        values, seen = self.attention.follow(start)
        if not self.attention.knows_hidden:
            seen = values != 0
        values[~exists], seen[~exists] = torch.nan, False
        return SeenRows(torch.arange(S), values, seen)


def _chunks(rows: range, size: int) -> Iterator[range]:
    for start in range(rows.start, rows.stop, size):
        yield range(start, min(start + size, rows.stop))


class Normed(Derived):
    """Weights times the length of what each key's value adds to the context (arXiv:2004.10102).

    With ``w_o`` it is the length of what the value becomes by the head's part of the output projection. ``shares``: each
    query's numbers as shares of their sum; a sum of 0 has none, and the row is blank.
    """

    def __init__(self, item: AttentionItem, part: Attention, *, shares: bool) -> None:
        super().__init__(item, PartsPattern.of([part]), [part])
        self.shares = shares
        self._norms: dict[tuple[int, bool], Tensor] = {}

    @property
    def said(self) -> str:  # type: ignore[override]
        return "norm-shares" if self.shares else "norms"

    @property
    def measured(self) -> str:
        length = "‖v w_o‖" if _w_o(self.parts[0].item) is not None else "‖v‖"
        return f"{'share of ' if self.shares else ''}weight × {length}"

    def head_name(self, head: int) -> str | None:
        return self.parts[0].head_name(head)

    def rows(self, head: int, queries: range | None = None) -> _NormedRows:
        return _NormedRows(self, head, queries)

    def _blocks(self, head: int, queries: range, most: int | None = None) -> Iterator[Block]:
        for block in self.parts[0].blocks(head, queries=queries):
            lengths = self.norms(head, for_global=block.for_global).to(block.values)[block.keys]
            values, seen, visible = block.values * lengths, block.seen, block.visible
            if self.shares:
                values, blank = self.as_shares(values, head)
                seen = torch.ones_like(values, dtype=torch.bool) if seen is None else seen
                seen, visible = seen & ~blank[:, None], torch.where(blank, 0, visible)
            yield Block(block.rows, block.keys, values, visible, block.shared, block.for_global, seen)

    def norms(self, head: int, *, for_global: bool = False) -> Tensor:
        """The length of what each key's value adds, (S,) float64, on the CPU; ``for_global``: to global queries."""
        known = (head, for_global)
        if known not in self._norms:
            item = self.parts[0].item
            v, w_o = item.value(head, for_global=for_global), _w_o(item)
            size, out = _VALUES, None
            if w_o is not None:
                rounded = w_o.dtype if item.dtype == item.inputs.dtype else item.dtype
                out = w_o[head].to(rounded).cpu().double()  # (D_v, d_model)
                size = max(1, _OUTPUT_CELLS // out.shape[1])
            lengths = torch.empty(len(v), dtype=torch.float64)
            for part, of in zip(v.split(size), lengths.split(size), strict=True):  # in parts, as float64 is a copy
                added = part.cpu().double() if out is None else part.cpu().double() @ out
                torch.linalg.vector_norm(added, dim=1, out=of)
            self._norms[known] = lengths
        return self._norms[known]

    def as_shares(self, values: Tensor, head: int) -> tuple[Tensor, Tensor]:
        """Rows as shares of their sum, and which of them are blank, (b,).

        Raises:
            InputError: a negative number.
        """
        if bool((values < 0).any()):
            raise InputError(
                f"{self.item.source}: head {head} holds negative weights, which have no shares of a row; take --values norms"
            )
        total = values.sum(1, dtype=torch.float64)
        blank = ~(total > 0)
        shares = torch.where(blank[:, None], BLANK, values / total[:, None].to(values.dtype))
        return shares, blank


class _NormedRows:
    """The rows of one head, times the lengths of values."""

    def __init__(self, attention: Normed, head: int, queries: range | None) -> None:
        self.attention, self.head, self.own = attention, head, attention.parts[0].rows(head, queries)
        self.step, self.apart = self.own.step, self.own.apart

    def read(self, rows: range | Tensor, *, weights: bool = True) -> SeenRows:
        """Any queries over every key that they may see, on the CPU in float64."""
        if not weights:
            raise self.attention.no_logits()
        found = self.own.read(rows)
        lengths = self.attention.norms(self.head)[found.keys].expand(found.values.shape)
        if len(self.apart):
            at = to_positions(rows, torch.device("cpu"))
            of_global = self.attention.norms(self.head, for_global=True)[found.keys]
            lengths = torch.where(torch.isin(at, self.apart.cpu())[:, None], of_global, lengths)
        values, seen = found.values * lengths, found.seen
        if self.attention.shares:
            values, blank = self.attention.as_shares(values, self.head)
            seen = seen & ~blank[:, None]
        return SeenRows(found.keys, values, seen)


def _w_o(item: AttentionItem) -> Tensor | None:
    found: Tensor | None = getattr(item.inputs, "w_o", None)
    return found
