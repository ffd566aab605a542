"""One way through a head's rows: blocks of queries, rows of global queries by their own rule.

Whatever needs rows of a head (scores, cells, statistics, comparisons) goes through :func:`row_blocks`; what is summed up and never
kept whole takes :func:`blocks`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.attention.reach import Reach
from attnviz.engine.head import RowScorer
from attnviz.engine.softmax import Sums, softmax_, softmax_and_sums_
from attnviz.engine.visibility import HIDDEN, to_positions

BLOCK_CELLS = 1 << 19
"""Cells of one row block: 2 MiB of float32, about a core's share of cache."""

SUMMED_CELLS = 1 << 21
"""Cells of one row block of which many numbers are made: what each of them costs beside its cells is paid once a block."""

_LEAST_ROWS = 64
"""Fewer rows at once make each step's own cost the larger part."""


@dataclass(frozen=True)
class SeenRows:
    """Some queries over the keys that any of them may see: what is compared pair by pair, on the CPU."""

    keys: Tensor  # (n,) key indices, each once
    values: Tensor  # (b, n) float64: weights, a NaN row where a query sees nothing, or logits
    seen: Tensor  # (b, n) bool

    def over(self, keys: Tensor, weights: bool) -> SeenRows:
        """The same over ascending keys that hold these: what isn't seen has weight 0, or a logit of -inf."""
        if torch.equal(self.keys, keys):
            return self
        column = torch.searchsorted(keys, self.keys)
        empty = 0.0 if weights else HIDDEN
        values = self.values.new_full((len(self.values), len(keys)), empty)
        seen = self.seen.new_zeros(values.shape)
        values[:, column] = torch.where(self.seen, self.values, empty)
        seen[:, column] = self.seen
        values[torch.isnan(self.values).all(1)] = torch.nan
        return SeenRows(keys, values, seen)


def _read(scorer: RowScorer, rows: range | Tensor, weights: bool) -> SeenRows:
    item, keys, g = scorer.item, scorer.sees.columns(rows), scorer.sees.g
    logits = scorer.logits(rows, torch.empty(len(rows), len(keys), dtype=item.compute_dtype, device=item.device))
    seen = logits > HIDDEN
    values = softmax_(logits, scorer.sink) if weights else logits
    if g:  # a shared key comes again, hidden, in the span of the band
        once = torch.ones_like(keys, dtype=torch.bool)
        once[g:] = ~torch.isin(keys[g:], keys[:g])
        keys, values, seen = keys[once], values[:, once], seen[:, once]
    return SeenRows(keys.cpu(), values.cpu().double(), seen.cpu())


@dataclass(frozen=True)
class RowBlock:
    """Some queries, and what scores them.

    ``keep`` says which of the rows ``scorer`` speaks for, (b,) bool: rows of global queries come again, in a block of
    their own; None is all.
    """

    rows: range | Tensor
    scorer: RowScorer
    keep: Tensor | None = None


class HeadRows:
    """The rows of one head: plain queries by the pattern, global queries by their own rule and projections."""

    def __init__(
        self,
        item: AttentionItem,
        pattern: Pattern,
        head: int,
        *,
        queries: range | None = None,
        reach: Reach | None = None,
    ) -> None:
        """``reach``: what the pattern reaches, where the caller wants a wider one; ``queries``: those that are wanted."""
        self.item, self.pattern, self.head = item, pattern.of_head(head), head
        self.queries = range(item.T) if queries is None else queries
        self.reach = self.pattern.reach(item) if reach is None else reach

    @cached_property
    def scorer(self) -> RowScorer:
        """What scores plain queries, in blocks of the reach's own step."""
        return RowScorer(self.item, self.pattern, self.reach, self.head, queries=self.queries)

    @cached_property
    def anywhere(self) -> RowScorer:
        """What scores any plain queries, each over every key."""
        return RowScorer(self.item, self.pattern, Reach(band_exact=False), self.head, queries=self.queries)

    @cached_property
    def of_global(self) -> RowScorer:
        """What scores global queries, each over every key."""
        every = Reach(band_exact=False)
        return RowScorer(self.item, self.pattern, every, self.head, queries=self.queries, for_global=True)

    @cached_property
    def apart(self) -> Tensor:
        """The global queries among those wanted, ascending, (R,)."""
        if not self.pattern.global_queries:
            return torch.empty(0, dtype=torch.int64, device=self.item.device)
        rows = self.item.global_queries
        return rows[(rows >= self.queries.start) & (rows < self.queries.stop)]

    @property
    def step(self) -> int | None:
        """The step that blocks of rows must have to be read in one go; None takes any."""
        return self.reach.step if self.reach.band else None

    def read(self, rows: range | Tensor, *, weights: bool = True) -> SeenRows:
        """Any queries over every key that they may see, each key once, on the CPU in float64.

        Args:
            rows: query indices, be they global or not.
            weights: whether to give weights; otherwise logits.
        """
        if not isinstance(rows, range):
            rows = rows.to(self.item.device)
        elif self.step not in (None, rows.step):
            rows = to_positions(rows, self.item.device)
        plain = self.scorer if isinstance(rows, range) else self.anywhere
        found = _read(plain, rows, weights)
        if len(self.apart):
            at = to_positions(rows, self.item.device)
            own = torch.isin(at, self.apart)
            if bool(own.any()):
                found = found.over(torch.arange(self.item.S), weights)
                of_global = _read(self.of_global, at[own], weights)
                found.values[own.cpu()], found.seen[own.cpu()] = of_global.values, of_global.seen
        return found

    def blocks(self, groups: Iterable[range], size: int, size_apart: int | None = None) -> Iterator[RowBlock]:
        """Every query of ``groups`` in blocks.

        Args:
            groups: runs of queries to be done together, one after another.
            size: rows of a block.
            size_apart: rows of a block of global queries; None: those of a group are one block.
        """
        for group in groups:
            for part in self._cut(group):
                for rows in stepped(part, size, self.reach.step):
                    yield RowBlock(rows, self.scorer, self._keep(rows))
            if not self.pattern.global_queries:
                continue
            own = self.apart[(self.apart >= group.start) & (self.apart < group.stop)]
            for part in own.split(size_apart or len(own)) if len(own) else ():
                yield RowBlock(part, self.of_global)

    def _cut(self, group: range) -> Iterator[range]:
        """A group of rows in parts that see the same blocks of keys, where the pattern has blocks, or about so."""
        table = self.reach.table
        if table is None:
            yield group
            return
        size = table.queries * -(-_LEAST_ROWS // table.queries)
        for start in range(group.start // size * size, group.stop, size):
            yield range(max(start, group.start), min(start + size, group.stop))

    def _keep(self, rows: range) -> Tensor | None:
        if not self.pattern.global_queries or not len(self.apart):
            return None
        keep = ~torch.isin(to_positions(rows, self.item.device), self.apart)
        return None if bool(keep.all()) else keep


def stepped(queries: range, size: int, step: int = 1) -> Iterator[range]:
    """Blocks of ``size`` queries out of ``queries``, each in one residue class of ``step``."""
    for first in queries[:step]:
        for start in range(first, queries.stop, size * step):
            yield range(start, min(start + size * step, queries.stop), step)


def rows_per_block(columns: int, *, band: bool = True, least: int = _LEAST_ROWS, cells: int | None = None) -> int:
    """How many rows of ``columns`` columns go through together, ``cells`` in all, None being :data:`BLOCK_CELLS`, and ``least`` rows at the least."""
    # Without a band there is no scratch memory to keep in cache, and each block costs two rounds of all threads,
    # which wait for the last one: where other programs keep a core busy, few large blocks are several times faster.
    larger = 1 if band else 4
    # A block of a band is computed over every key that any of its rows sees, rows + columns: few rows waste little.
    most = max(128, 2 * columns) if band and columns else larger * 8192
    return max(least, min(most, larger * (cells or BLOCK_CELLS) // max(columns, 1)))


@dataclass(frozen=True)
class Block:
    """Some query rows of one head over every key that any of them may see; memory that the next block reuses."""

    rows: Tensor  # (b,) query indices
    keys: Tensor  # (n,) key indices
    values: Tensor  # (b, n) weights, NaN rows where a query sees nothing; or logits, -inf where not visible
    visible: Tensor  # (b,) how many keys each query sees
    shared: int  # how many of the first columns are keys that all rows share; one may come again, hidden, in the rest
    for_global: bool = False  # whether these are rows of global queries
    seen: Tensor | None = None  # (b, n) bool, whether the query sees the key; None where all do
    sums: Sums | None = None  # what else each query's row tells, where that was asked for and is known

    @cached_property
    def run(self) -> range | None:
        """The keys, where they follow one another."""
        n = len(self.keys)
        if self.shared or not n or int(self.keys[-1] - self.keys[0]) + 1 != n:
            return None
        return range(int(self.keys[0]), int(self.keys[0]) + n)

    @property
    def entropies(self) -> Tensor:
        """The entropy of each query's weights in nats, (b,); -inf where one that was given is negative."""
        return torch.special.entr(self.values).sum(1) if self.sums is None else self.sums.entropy

    @property
    def tops(self) -> Tensor:
        """The largest weight of each query, (b,); 0 where there are no columns."""
        if self.sums is not None:
            return self.sums.top
        return self.values.amax(1) if self.values.shape[1] else self.values.new_zeros(len(self.values))

    @property
    def seeing(self) -> Tensor:
        """(n,) how many of the queries see each key."""
        if self.seen is None:
            return torch.full((len(self.keys),), len(self.rows), device=self.keys.device)
        return counted(self.seen, 0)

    def over_all(self, S: int, *, weights: bool = True) -> tuple[Tensor, Tensor]:
        """The values over every key, (b, S), and which of them each query sees, (b, S) bool."""
        if len(self.keys) == S and not self.shared:
            return self.values, torch.ones_like(self.values, dtype=torch.bool) if self.seen is None else self.seen
        return self.over(torch.arange(S, device=self.values.device), S, weights=weights)

    def over(self, keys: Tensor, S: int, *, weights: bool = True) -> tuple[Tensor, Tensor]:
        """The values over some of the S keys, (b, len(keys)), and which of them each query sees, likewise bool."""
        seen = torch.ones_like(self.values, dtype=torch.bool) if self.seen is None else self.seen
        values = self.values.new_full((len(self.rows), len(keys)), 0.0 if weights else HIDDEN)
        every = torch.zeros_like(values, dtype=torch.bool)
        column = torch.full((S,), -1, device=self.keys.device)
        column[keys] = torch.arange(len(keys), device=column.device)
        # A shared key that comes again, hidden, in the band has its say first.
        for part in (slice(self.shared, None), slice(0, self.shared)):
            at = column[self.keys[part]]
            there = at >= 0
            values[:, at[there]], every[:, at[there]] = self.values[:, part][:, there], seen[:, part][:, there]
        if weights:
            values[self.visible == 0] = torch.nan
        return values, every


def blocks(
    item: AttentionItem,
    pattern: Pattern,
    head: int,
    *,
    queries: range | None = None,
    weights: bool = True,
    sums: bool = False,
) -> Iterator[Block]:
    """One head's rows, block by block, every query once: for what is summed up and never kept whole.

    The arguments are those of :meth:`attnviz.engine.attention.Attention.blocks`.
    """
    own = HeadRows(item, pattern, head, queries=queries)
    memory = torch.empty(0, dtype=item.compute_dtype, device=item.device)
    sums = sums and weights
    cells = SUMMED_CELLS if sums else BLOCK_CELLS
    size = rows_per_block(own.reach.width(item.T, item.S), cells=cells)
    for block in own.blocks([own.queries], size, rows_per_block(item.S, cells=cells)):
        sees, rows = block.scorer.sees, block.rows
        keys = sees.columns(rows)
        b, n = len(rows), len(keys)
        if memory.numel() < b * n:
            memory = memory.new_empty(b * n)
        values = block.scorer.logits(rows, memory[: b * n].view(b, n))
        seen, visible = _visible(block, keys, values)
        told = None
        if sums and n:
            told = softmax_and_sums_(values, block.scorer.sink)
        elif weights:
            softmax_(values, block.scorer.sink)
        at, keep = to_positions(rows, item.device), block.keep
        if keep is not None:
            at, values, visible = at[keep], values[keep], visible[keep]
            seen, told = None if seen is None else seen[keep], None if told is None else told.of(keep)
        yield Block(at, keys, values, visible, sees.g, sees.for_global, seen, told)


def _visible(block: RowBlock, keys: Tensor, logits: Tensor) -> tuple[Tensor | None, Tensor]:
    """Which of the keys each query of a block sees, (b, n) bool, None where all; and how many, (b,)."""
    scorer, rows, (b, n) = block.scorer, block.rows, logits.shape
    spans = scorer.sees.spans(rows)
    parts: list[range | Tensor] = [*spans, keys[: scorer.sees.g]]
    if not (scorer.bias_hides or any(scorer.sees.hides(rows, part) for part in parts)):
        return None, torch.full((b,), n, device=logits.device)
    if scorer.band_alone and isinstance(rows, range) and len(spans) == 1:
        return scorer.sees.band_seen(rows, spans[0])
    seen = logits > HIDDEN
    return seen, counted(seen, 1)


def counted(seen: Tensor, dim: int) -> Tensor:
    """How many of (b, n) bool are True along a dimension, int64.

    Added up in float32, which is exact up to 2**24 and takes a fraction of the time that PyTorch needs to count.
    """
    if seen.shape[dim] > 1 << 24:
        return torch.count_nonzero(seen, dim=dim)
    return seen.to(torch.float32).sum(dim).long()
