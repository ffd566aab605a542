"""What a head does, in numbers: entropy, where its weight goes, how far it looks.

A statistic is one function, and :func:`statistic` makes it known: to the command line, its help, tables, exports, snapshots and figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from attnviz.attention.inputs import Inputs
from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.base.types import Label, Progress
from attnviz.engine.blocks import Block
from attnviz.engine.request import Request, asks

Values = tuple[Tensor, Tensor] | None
"""Each query's value, (b,), and whether it has one, (b,) bool; None where the inputs say nothing of it."""


@dataclass(frozen=True)
class Statistic:
    """A number of each query, averaged over the queries that have one."""

    name: str
    about: str
    """What it is, for tables, help and docs."""
    of_queries: Callable[[QueryBlock], Values]
    unit: str = "weight"
    """What it is counted in: ``weight``, ``nats``, ``share``, ``tokens``."""

    @property
    def in_tokens(self) -> bool:
        """Whether it counts tokens, so that it is as large as the sequence and not a share."""
        return self.unit == "tokens"


STATISTICS: dict[str, Statistic] = {}
"""Each statistic by its name, in the order of tables; a mean over the queries that have one."""


OfQueries = Callable[["QueryBlock"], Values]
_AnyStatistic = TypeVar("_AnyStatistic", bound=OfQueries)


def statistic(*, unit: str = "weight") -> Callable[[_AnyStatistic], _AnyStatistic]:
    """Makes a function of a block of queries a statistic: its name is the function's, what it is its docstring's.

    Args:
        unit: what it is counted in: ``weight``, ``nats``, ``share`` (of its most) or ``tokens``.
    """

    def known(function: _AnyStatistic) -> _AnyStatistic:
        name, about = function.__name__, " ".join((function.__doc__ or "").split()).removesuffix(".")
        STATISTICS[name] = Statistic(name, about, function, unit)
        return function

    return known


class QueryBlock:
    """The queries of a block that see a key, b of them, and what statistics ask of them."""

    def __init__(self, block: Block, item: AttentionItem | None) -> None:
        """``item`` says where queries and keys stand, and what is global and padding; None: the last T of S keys."""
        sees = block.visible > 0
        every = bool(sees.all())
        self.weights = block.values if every else block.values[sees]  # (b, n)
        self.rows = block.rows if every else block.rows[sees]  # (b,) query indices
        self.visible = block.visible if every else block.visible[sees]  # (b,) keys that each sees
        self.keys, self.item, self._block = block.keys, item, block  # (n,) key indices
        self._seen = block.seen if every or block.seen is None else block.seen[sees]  # (b, n), None where all are seen

    @cached_property
    def zero(self) -> Tensor:
        """(b,) zeros."""
        return self.weights.new_zeros(len(self.rows))

    @cached_property
    def all(self) -> Tensor:
        """(b,) True."""
        return torch.ones(len(self.rows), dtype=torch.bool, device=self.rows.device)

    @cached_property
    def entropy(self) -> Tensor:
        """The entropy of each query's weights in nats, (b,); -inf where one that was given is negative."""
        found: Tensor = torch.special.entr(self.weights).sum(1)
        return found

    @property
    def ordered(self) -> bool:
        """Whether queries and keys stand in one sequence."""
        return self.item is None or not self.item.cross

    def mass(self, where: Tensor) -> Tensor:
        """Each query's weight on the keys where ``where``, (n,) bool, is True, (b,)."""
        return self.weights[:, where].sum(1) if self.weights.numel() else self.zero

    def at(self, keys: Tensor) -> Tensor:
        """Each query's weight on one key of its own, by index, (b,); 0 where it does not see it, or it is -1."""
        if not self.weights.numel():
            return self.zero
        return self._gathered(self.weights, keys, self.zero)

    def sees_key(self, keys: Tensor) -> Tensor:
        """Whether each query sees one key of its own, by index, (b,) bool."""
        if not self.weights.numel():
            return ~self.all
        if self._seen is None:
            return torch.isin(keys, self.keys)
        return self._gathered(self._seen, keys, ~self.all)

    @cached_property
    def _columns(self) -> Tensor:
        """The column of each key, (most + 1,); -1 for a key that is none."""
        keys, shared = self.keys, self._block.shared
        column = keys.new_full((int(keys.amax()) + 1,), -1)
        column[keys[shared:]] = torch.arange(shared, len(keys), device=keys.device)
        column[keys[:shared]] = torch.arange(shared, device=keys.device)  # hidden where it comes again
        return column

    def _gathered(self, values: Tensor, keys: Tensor, otherwise: Tensor) -> Tensor:
        inside = (keys >= 0) & (keys < len(self._columns))
        found = torch.where(inside, self._columns[keys.clamp(0, len(self._columns) - 1)], -1)
        return torch.where(found >= 0, values.gather(1, found.clamp(min=0)[:, None])[:, 0], otherwise)


@statistic(unit="nats")
def entropy(block: QueryBlock) -> Values:
    """Entropy of the weights, in nats."""
    return block.entropy, block.entropy > -torch.inf


@statistic(unit="share")
def entropy_share(block: QueryBlock) -> Values:
    """Entropy as a share of log |visible keys|, its most; queries that see one key are left out."""
    several = (block.visible > 1) & (block.entropy > -torch.inf)
    most = block.visible.to(block.entropy.dtype).log()
    return torch.where(several, block.entropy / most, block.zero), several


@statistic()
def max_weight(block: QueryBlock) -> Values:
    """The largest weight."""
    return block.weights.amax(1) if block.weights.numel() else block.zero, block.all


@statistic()
def global_mass(block: QueryBlock) -> Values:
    """Weight on global keys."""
    mask = None if block.item is None else block.item.inputs.global_mask
    if mask is None or block.item is None or not bool(mask[block.item.batch].any()):
        return None
    return block.mass(mask[block.item.batch].to(block.keys.device)[block.keys]), block.all


@statistic()
def sink_mass(block: QueryBlock) -> Values:
    """Weight on the first key, of its document, that is not padding."""
    first = torch.zeros_like(block.rows) if block.item is None else block.item.first_keys(block.rows)
    return block.at(first), block.all


@statistic(unit="tokens")
def distance(block: QueryBlock) -> Values:
    """Mean |p(t) - p(s)| by weight, in tokens."""
    if not block.ordered:
        return None
    item = block.item
    rows = block.rows if item is None else item.query_position(block.rows)
    keys = block.keys if item is None else item.key_position(block.keys)
    return _distance(block.weights, rows, keys) if block.weights.numel() else block.zero, block.all


@statistic()
def diagonal_mass(block: QueryBlock) -> Values:
    """Weight on the query's own position, over the queries that see it."""
    return _at_distance(block, 0)


@statistic()
def previous_mass(block: QueryBlock) -> Values:
    """Weight on the position before the query's, over the queries that see it."""
    return _at_distance(block, 1)


def _at_distance(block: QueryBlock, before: int) -> Values:
    if not block.ordered:
        return None
    own = block.rows - before if block.item is None else block.item.key_at(block.rows, before)
    return block.at(own), block.sees_key(own)


def _distance(weights: Tensor, rows: Tensor, keys: Tensor) -> Tensor:
    """The sum of weight times |t - s| over the keys of each query, (b,).

    Keys before every row of the block, or behind every row, are as far from a row as from the block's nearest row
    and that row's own way on top: two matrix-vector products, where nothing cancels. Only the keys among the rows
    need a distance each.
    """
    low, high = rows.amin(), rows.amax()
    before, behind = keys < low, keys > high
    among = ~(before | behind)
    far = torch.where(before, low - keys, torch.where(behind, keys - high, 0)).to(weights.dtype)
    sides = torch.stack([far, before.to(far.dtype), behind.to(far.dtype)], dim=1)  # (n, 3)
    whole = weights @ sides  # (b, 3)
    total = whole[:, 0] + whole[:, 1] * (rows - low) + whole[:, 2] * (high - rows)
    if bool(among.any()):
        total += (weights[:, among] * (rows[:, None] - keys[among]).abs()).sum(1)
    return total


@dataclass(frozen=True)
class HeadStatistics:
    """One head's statistics: means over the queries that have one; None where no query does, or the inputs say nothing."""

    head: int
    queries: int
    """How many queries see a key."""
    values: Mapping[str, float | None] = field(default_factory=dict)
    """Each statistic by its name."""
    layer: Label | None = None
    batch: int | None = None
    """The batch item, of several."""

    def __getattr__(self, name: str) -> float | None:
        """A statistic, by its name."""
        values = self.__dict__.get("values", {})
        if name not in values:
            raise AttributeError(f"{type(self).__name__} has no statistic {name!r}")
        number: float | None = values[name]
        return number


@asks("batch", "device", "dtype")
def head_statistics(
    inputs: Inputs,
    pattern: Pattern | str | None = None,
    *,
    heads: Iterable[int] | None = None,
    layer: Label | None = None,
    progress: Progress | None = None,
    **what: Any,
) -> list[HeadStatistics]:
    """The statistics of each head of a batch item, in one pass over blocks of rows.

    Args:
        inputs: queries, keys and masks.
        pattern: which query sees which key; None is the inputs' own, else the global keys.
        heads: the query heads, in the order wanted; None is all of them.
        layer: what to call the layer in the results; None is the inputs' own.
        progress: called with the number of rows done, as they are.
        what: ``batch``, ``device``, ``dtype``, as in :func:`attnviz.score`.

    Raises:
        InputError: as :func:`attnviz.score`.

    >>> import attnviz
    >>> attnviz.head_statistics(attnviz.synthesize(heads=1), attnviz.Local(0))[0].diagonal_mass
    1.0
    """
    return statistics_of_request(Request(inputs, pattern, heads, **what), layer=layer, progress=progress)


def statistics_of_request(
    request: Request, *, layer: Label | None = None, progress: Progress | None = None
) -> list[HeadStatistics]:
    """The statistics of each head of a request, over all of its queries."""
    attention = request.attention
    with torch.no_grad(), torch.autocast(attention.item.device.type, enabled=False):
        return [
            statistics_of(attention.blocks(head), head, attention.item, layer=layer, progress=progress)
            for head in request.chosen
        ]


def statistics_of(
    weights: Iterable[Block],
    head: int,
    item: AttentionItem | None = None,
    *,
    layer: Label | None = None,
    progress: Progress | None = None,
) -> HeadStatistics:
    """The statistics of one head whose weights come block by block, every query once.

    Args:
        weights: blocks of weights.
        head: the head's index.
        item: says where queries and keys stand, which keys are global and which are padding; None: nothing of it.
        layer, progress: as in :func:`head_statistics`.
    """
    sums, counts = dict.fromkeys(STATISTICS, 0.0), dict.fromkeys(STATISTICS, 0)
    queries = 0
    for block in weights:
        seeing = QueryBlock(block, item)
        queries += len(seeing.rows)
        for name, total, count in _totals(seeing) if len(seeing.rows) else ():
            sums[name] += total
            counts[name] += count
        if progress is not None:
            progress(len(block.rows))
    values = {name: sums[name] / counts[name] if counts[name] else None for name in STATISTICS}
    if item is None:
        return HeadStatistics(head, queries, values, layer)
    return HeadStatistics(head, queries, values, item.inputs.layer if layer is None else layer, item.batch_shown)


def _totals(block: QueryBlock) -> Iterator[tuple[str, float, int]]:
    """The sum of each statistic over the queries of a block that have it, and how many these are."""
    for name, one in STATISTICS.items():
        found = one.of_queries(block)
        if found is not None:
            values, there = found
            yield name, float(torch.where(there, values, 0).sum(dtype=torch.float64)), int(there.sum())
