"""What a head does, in numbers: entropy, where its weight goes, how far it looks.

A statistic is one function, and :func:`statistic` makes it known: to the command line, its help, tables, exports, snapshots and figures.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.derived import SomeInputs
from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.attention.reduced import ReducedMaps
from attnviz.base.errors import InputError
from attnviz.base.types import Label, Progress
from attnviz.engine.attention import Attention
from attnviz.engine.blocks import Block
from attnviz.engine.products import multiply
from attnviz.engine.request import Request, ask_for_weights, asks
from attnviz.measures.statistic import STATISTICS, HeadKeys, QueryBlock, Statistic, Values, statistic
from attnviz.measures.tags import tag_of

__all__ = [
    "STATISTICS",
    "HeadKeys",
    "HeadStatistics",
    "QueryBlock",
    "Statistic",
    "Values",
    "head_statistics",
    "statistic",
]


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
    return block.tops, block.all


@statistic()
def global_mass(block: QueryBlock) -> Values:
    """Weight on global keys."""
    item = block.item
    mask = item.inputs.global_mask if item is not None and item.has_global else None
    if item is None or mask is None:
        return None
    return block.mass(mask[item.batch].to(block.keys.device)[block.keys]), block.all


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
    return block.before(0)


@statistic()
def previous_mass(block: QueryBlock) -> Values:
    """Weight on the position before the query's, over the queries that see it."""
    return block.before(1)


@statistic()
def next_mass(block: QueryBlock) -> Values:
    """Weight on the position after the query's, over the queries that see it."""
    return block.before(-1)


@statistic()
def local_mass(block: QueryBlock) -> Values:
    """Weight on the nearest positions, up to 4 to each side, the query's own among them."""
    return block.near


@statistic()
def duplicate(block: QueryBlock) -> Values:
    """Weight on earlier keys that hold the query's token, over the queries that see one."""
    return block.on_same_token("duplicate")


@statistic()
def induction(block: QueryBlock) -> Values:
    """Weight on keys that stand right after an earlier holding of the query's token, over the queries that see one."""
    return block.on_same_token("induction")


@statistic(unit="logit", how="max")
def max_logit(block: QueryBlock) -> Values:
    """The largest logit of any query and key that it sees."""
    return None if block.largest_logits is None else (block.largest_logits, block.all)


@statistic(unit="norm")
def mean_q_norm(block: QueryBlock) -> Values:
    """The mean length of the query vectors of queries that see a key."""
    return None if block.norms is None else (block.norms, block.all)


@statistic(unit="norm", how="max")
def max_q_norm(block: QueryBlock) -> Values:
    """The largest length of a query vector of a query that sees a key."""
    return None if block.norms is None else (block.norms, block.all)


@statistic(unit="norm", of="keys")
def mean_k_norm(keys: HeadKeys) -> Values:
    """The mean length of the key vectors of keys that are not padding."""
    return None if keys.norms is None else (keys.norms, keys.exist)


@statistic(unit="norm", how="max", of="keys")
def max_k_norm(keys: HeadKeys) -> Values:
    """The largest length of a key vector of a key that is not padding."""
    return None if keys.norms is None else (keys.norms, keys.exist)


_FEW_CELLS = 1 << 14
"""Cells whose distances are made one by one: fewer than it pays to be clever about."""


def _distance(weights: Tensor, rows: Tensor, keys: Tensor) -> Tensor:
    """The sum of weight times |t - s| over the keys of each query, (b,).

    In a small block, as it stands there. In others keys before every row of the block, or behind every row, are as far from a
    row as from the block's nearest row and that row's own way on top: three products of a matrix and a vector, where nothing
    cancels. Only the keys among the rows need a distance each.
    """
    if weights.numel() <= _FEW_CELLS:
        return (keys - rows[:, None]).abs_().to(weights.dtype).mul_(weights).sum(1)
    low, high = rows.amin(), rows.amax()
    before, behind = keys < low, keys > high
    among = ~(before | behind)
    far = torch.where(before, low - keys, torch.where(behind, keys - high, 0)).to(weights.dtype)
    sides = torch.stack([far, before.to(far.dtype), behind.to(far.dtype)])  # (3, n)
    whole = multiply(sides, weights.T)  # (3, b): five times as fast as (b, 3)
    total = whole[0] + whole[1] * (rows - low) + whole[2] * (high - rows)
    columns = among.nonzero()[:, 0]
    if len(columns):
        first, last = int(columns[0]), int(columns[-1])
        near = slice(first, last + 1) if last - first + 1 == len(columns) else columns
        places = (keys[near] - low).to(weights.dtype)
        away = places - (rows - low).to(weights.dtype)[:, None]
        total += away.abs_().mul_(weights[:, near]).sum(1)
    return total


@dataclass(frozen=True)
class HeadStatistics:
    """One head's statistics, over the queries that have one; None where no query does, or the inputs say nothing."""

    head: int
    queries: int
    """How many queries see a key."""
    values: Mapping[str, float | None] = field(default_factory=dict)
    """Each statistic by its name."""
    layer: Label | None = None
    batch: int | None = None
    """The batch item, of several."""
    left_out: float | None = None
    """The share of the weight that lies on keys which were hidden; None where none were."""

    @property
    def tag(self) -> str:
        """What the head is in a word, by :data:`attnviz.measures.tags.TAGS`."""
        return tag_of(self.values)[0]

    @property
    def tag_score(self) -> float | None:
        """The statistic that gave the tag; None of ``mixed``."""
        return tag_of(self.values)[1]

    def columns(self) -> dict[str, list[Any]]:
        """One row, for tables and frames: layer, head, how many queries see a key, each statistic, tag and its score."""
        whose = {"layer": self.layer, "head": self.head, "queries": self.queries}
        said = {**whose, **self.values, "tag": self.tag, "tag_score": self.tag_score}
        said |= {} if self.left_out is None else {"left_out": self.left_out}
        return {name: [value] for name, value in said.items()}

    def __getattr__(self, name: str) -> float | None:
        """A statistic, by its name."""
        values = self.__dict__.get("values", {})
        if name not in values:
            raise AttributeError(f"{type(self).__name__} has no statistic {name!r}")
        number: float | None = values[name]
        return number


@asks("batch", "values", "queries", "device", "dtype")
def head_statistics(
    inputs: SomeInputs,
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
        what: ``batch``, ``device``, ``dtype``, as in :func:`attnviz.score`; ``queries``, those that count, None is all.

    Raises:
        InputError: as :func:`attnviz.score`.

    >>> import attnviz
    >>> attnviz.head_statistics(attnviz.synthesize(heads=1), attnviz.Local(0))[0].diagonal_mass
    1.0
    """
    return statistics_of_request(ask_for_weights(inputs, pattern, heads, **what), layer=layer, progress=progress)


def statistics_of_request(
    request: Request, *, layer: Label | None = None, progress: Progress | None = None
) -> list[HeadStatistics]:
    """The statistics of each head of a request, over its queries."""
    attention = request.attention
    kept = [kept_statistics(attention, head, request.queries, layer=layer) for head in request.chosen]
    if all(kept):
        return [one for one in kept if one is not None]
    with torch.no_grad(), torch.autocast(attention.item.device.type, enabled=False):
        found = [
            statistics_of(
                attention.blocks(head, queries=request.queries, sums=True),
                head,
                attention.item,
                layer=layer,
                progress=progress,
            )
            for head in request.chosen
        ]
        return [replace(one, left_out=attention.left_out(one.head, request.queries)) for one in found]


def kept_statistics(
    attention: Attention, head: int, queries: range | None = None, *, layer: Label | None = None
) -> HeadStatistics | None:
    """A head's statistics where they were made with its reduced map; None where weights are there to make them of.

    Raises:
        InputError: of some of the queries.
    """
    item = attention.item
    if not isinstance(item.inputs, ReducedMaps):
        return None
    if queries is not None and queries != range(item.T):
        raise InputError(f"{item.source}: {item.inputs.without_products}")
    found = dict(item.inputs.statistics[item.batch][head])
    seen = int(found.pop("queries", None) or 0)
    values = {name: found.get(name) for name in STATISTICS}
    return HeadStatistics(head, seen, values, item.inputs.layer if layer is None else layer, item.batch_shown)


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
    totals = _Totals()
    queries = 0
    for block in seeing_blocks(weights, head, item, progress):
        queries += len(block.rows)
        totals.add({name: one.of_queries(block) for name, one in STATISTICS.items()}, len(block.rows))
    if item is not None:
        keys = HeadKeys(item, head)
        totals.add({name: one.function(keys) for name, one in STATISTICS.items() if one.of == "keys"}, item.S)
    values = totals.made()
    if item is None:
        return HeadStatistics(head, queries, values, layer)
    return HeadStatistics(head, queries, values, item.inputs.layer if layer is None else layer, item.batch_shown)


def seeing_blocks(
    weights: Iterable[Block], head: int, item: AttentionItem | None, progress: Progress | None
) -> Iterator[QueryBlock]:
    """The queries of each block that see a key, where there are such."""
    for block in weights:
        seeing = QueryBlock(block, item, head)
        if len(seeing.rows):
            yield seeing
        if progress is not None:
            progress(len(block.rows))


_ROWS = 4096
"""Queries whose values are added up together."""


class _Totals:
    """Statistics while blocks come in."""

    def __init__(self) -> None:
        self._sum: dict[str, float] = defaultdict(float)
        self._count: dict[str, int] = defaultdict(int)
        self._largest: dict[str, float] = {}
        self._waiting: dict[tuple[str, ...], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        self._rows = 0

    def add(self, values: Mapping[str, Values], rows: int) -> None:
        """Takes in the values that so many queries, or keys, have: copies, as a block's memory is used again."""
        known = {name: found for name, found in values.items() if found is not None}
        if known:
            numbers, there = (torch.stack(each) for each in zip(*known.values(), strict=True))  # (statistics, b)
            self._waiting[(*known,)].append((numbers, there))
        self._rows += rows
        if self._rows >= _ROWS:
            self._add_up()

    def _add_up(self) -> None:
        """Adds up what came in since the last time: many queries at once, for blocks can be small."""
        for names, found in self._waiting.items():
            numbers, there = (
                (torch.cat(each, dim=1) for each in zip(*found, strict=True)) if len(found) > 1 else found[0]
            )
            sums, counts = torch.where(there, numbers, 0).sum(1, dtype=torch.float64).tolist(), there.sum(1).tolist()
            largest = torch.where(there, numbers, -torch.inf).amax(1).tolist()
            for name, one, count, most in zip(names, sums, counts, largest, strict=True):
                self._sum[name] += one
                self._count[name] += count
                self._largest[name] = max(self._largest.get(name, -math.inf), most)
        self._waiting.clear()
        self._rows = 0

    def made(self) -> dict[str, float | None]:
        """Each statistic: the mean, or the largest; None of none."""
        self._add_up()
        found: dict[str, float | None] = dict.fromkeys(STATISTICS)
        for name, count in self._count.items():
            if count:
                found[name] = self._largest[name] if STATISTICS[name].how == "max" else self._sum[name] / count
        return found
