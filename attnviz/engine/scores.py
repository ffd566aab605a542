"""The formula, exactly: logits and softmax weights of each head over the keys its pattern makes visible.

    score[h, t, s] = dot(q[h, t], k[kv(h), s]) * scale        for s in visible(t)
    weight[h, t]   = softmax of score[h, t] over visible(t)

Rows of queries go through in blocks that fit a cache, straight into the result; nothing of the size of the whole
map is made besides the result itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.derived import SomeInputs
from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.base.devices import memory_of_machine
from attnviz.base.errors import InputError
from attnviz.base.registry import shown
from attnviz.base.runs import runs
from attnviz.engine.attention import Attention
from attnviz.engine.blocks import HeadRows, RowBlock, rows_per_block
from attnviz.engine.derived import Derived
from attnviz.engine.given import no_logits
from attnviz.engine.makers import attention_of
from attnviz.engine.request import Request, ask_for_weights, asks
from attnviz.engine.softmax import BLANK, softmax_
from attnviz.engine.visibility import HIDDEN


@dataclass(frozen=True)
class AttentionScores:
    """Logits and weights of one batch item, n heads, in columns that the pattern decides.

    The first columns are the same key positions for every query (``positions``); the rest are a band of keys
    around the query (``offsets``, key position minus query position). A key that a query does not see has logit
    -inf and weight 0; a query that sees nothing has NaN weights. Where the pattern has global queries, their
    rows are NaN here and stand in ``global_scores`` and ``global_weights``.

    >>> import attnviz
    >>> found = attnviz.score(attnviz.synthesize(), heads=[3])
    >>> found.weights.shape, found.positions.tolist()
    (torch.Size([1, 10, 3]), [0, 3, 7])
    """

    item: AttentionItem
    pattern: Pattern
    heads: tuple[int, ...]  # n query heads
    positions: Tensor  # (C1,) int64 key positions
    offsets: range  # C2 offsets
    scores: Tensor | None  # (n, T, C1 + C2) logits
    weights: Tensor | None  # (n, T, C1 + C2)
    global_queries: Tensor  # (R,) int64 query positions
    global_scores: Tensor | None = None  # (n, R, S) logits
    global_weights: Tensor | None = None  # (n, R, S)
    visible: Tensor | None = None  # (n, T, C1) bool, of weights that were given, which no logits tell of
    queries: range | None = None  # the T query positions of the rows; None is all
    keys: range | None = None  # the keys that were asked for, each of which then is a column, for global queries too

    @property
    def rows(self) -> range:
        """The query positions of the rows."""
        return range(self.item.T) if self.queries is None else self.queries

    @property
    def pattern_name(self) -> str:
        """What titles call the pattern."""
        return attention_of(self.item, self.pattern).pattern_name

    @property
    def frame(self) -> AttentionScores:
        """All but the numbers; here they are there as well."""
        return self

    def parts(self, head: int) -> Iterator[AttentionScores]:
        """One head by itself."""
        n = self.heads.index(head)

        def own(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[n : n + 1]

        yield replace(self, heads=(head,), **{name: own(getattr(self, name)) for name in _NUMBERS})  # type: ignore[arg-type]

    @property
    def measured(self) -> str | None:
        """What the weights are, where they are not weights alone: ``weight × ‖v‖``."""
        return attention_of(self.item, self.pattern).measured

    def head_name(self, head: int) -> str:
        """What titles call a head, and what its weights are where they are not weights alone."""
        named = attention_of(self.item, self.pattern).head_name(head) or f"head {head}"
        return ", ".join(one for one in (named, self.measured) if one)

    def values(self, name: str) -> Tensor:
        """The logits (``name="logits"``) or the weights (``name="weights"``), (n, T, C1 + C2)."""
        tensor = self.scores if name == "logits" else self.weights
        if tensor is None and self.item.given:
            raise no_logits(self.item)
        assert tensor is not None, f"{name} were not computed"
        return tensor

    def global_values(self, name: str) -> Tensor:
        """The logits or the weights of global queries, (n, R, S)."""
        tensor = self.global_scores if name == "logits" else self.global_weights
        assert tensor is not None, f"{name} of global queries were not computed"
        return tensor

    def key_positions(self, query: int) -> list[int | None]:
        """The key position of each column for one query; None where the band leaves the sequence."""
        band = [query + offset for offset in self.offsets]
        return [*self.positions.tolist(), *(s if 0 <= s < self.item.S else None for s in band)]

    @property
    def numbers(self) -> dict[int, int] | None:
        """n of ``Global #n``, counted from 1, of each position; None where the columns are keys like any others."""
        shared = self.positions.tolist()
        if not self.offsets:
            shared = list(attention_of(self.item, self.pattern).columns())
        return None if len(shared) == self.item.S else {s: n for n, s in enumerate(shared, 1)}

    def seen(self, *, of_global: bool = False) -> Tensor:
        """Which keys the queries see, (n, T, C1 + C2) bool; ``of_global``: the global queries, (n, R, S)."""
        if self.visible is not None and not of_global:
            return self.visible
        logits = self.global_scores if of_global else self.scores
        if logits is None:  # of weights alone: the same rows are scored again
            with torch.no_grad(), torch.autocast(self.item.device.type, enabled=False):
                again = [self._again(run) for run in runs(self.rows)]
            parts = [one.global_scores if of_global else one.scores for one in again]
            logits = torch.cat([part for part in parts if part is not None], dim=1)
        return logits > HIDDEN

    def _again(self, queries: range) -> AttentionScores:
        """The logits of some of its rows."""
        if self.keys is None:
            return _score(self.item, self.pattern, self.heads, queries, True, False)
        return _over_keys(attention_of(self.item, self.pattern), self.heads, queries, self.keys, True, False)

    def shown(self, name: str, *, of_global: bool = False) -> Tensor:
        """Logits or weights as tables and files show them, (n, T, C1 + C2) float64 on the CPU.

        A key that a query does not see is -inf, in weights too; a query that sees nothing is NaN, in logits too.

        Args:
            name: ``logits`` or ``weights``.
            of_global: the global queries, (n, R, S).
        """
        values = (self.global_values(name) if of_global else self.values(name)).detach().cpu().double()
        seen = self.seen(of_global=of_global).cpu()
        found = values.masked_fill(~seen, HIDDEN)
        return found.masked_fill(~seen.any(2, keepdim=True), torch.nan)

    def _repr_html_(self) -> str:
        return shown(self)


_NUMBERS = ("scores", "weights", "global_scores", "global_weights", "visible")
"""The fields that have a number a head, query and key."""


@asks("batch", "values", "queries", "keys", "device", "dtype")
def score(
    inputs: SomeInputs,
    pattern: Pattern | str | None = None,
    *,
    heads: Iterable[int] | None = None,
    logits: bool = True,
    weights: bool = True,
    **what: Any,
) -> AttentionScores:
    """Logits and softmax weights of a batch item.

    Args:
        inputs: queries, keys and masks; or weights that were given, whose rows come as they are.
        pattern: which query sees which key; None is the inputs' own, else
            :class:`~attnviz.attention.patterns.GlobalKeys`: the global scores, (H, T, G).
        heads: the query heads, in the order wanted; None is all of them.
        logits, weights: which of the two to compute; either alone needs half the memory. Given weights without logits
            have none: :attr:`AttentionScores.scores` is None then.
        what: ``batch``, the batch item; ``queries``, the query positions of the rows; ``keys``, the key positions of the
            columns, of all that the softmax runs over; ``device``, where to compute (``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``;
            None is where ``inputs`` are); ``dtype``, what to round the inputs to first (None keeps theirs; half types
            compute in float32).

    Returns:
        The results on the device they were computed on, in the inputs' dtype or, for half types, float32.

    Raises:
        InputError: a batch item, head, device or dtype that is not there; a mask that selects nothing; NaN or Inf; more
            numbers than this machine's memory holds.

    >>> import attnviz
    >>> result = attnviz.score(attnviz.synthesize(heads=2, tokens=5, global_positions=(0, 3)))
    >>> tuple(result.weights.shape), bool(result.weights.sum(-1).allclose(torch.ones(2, 5)))
    ((2, 5, 2), True)
    """
    request = ask_for_weights(inputs, pattern, heads, **what)
    return _scored(request, request.chosen, request.rows, logits, weights)


@dataclass(frozen=True)
class ScoreStream:
    """Scores that are computed as they are read: some queries of one head at a time, so that memory never holds all.

    Args:
        request: what is asked.
        logits, weights: which of the two to compute.
        most: bytes that a part may take; one row of queries is always made.
    """

    request: Request
    logits: bool = True
    weights: bool = True
    most: int = 64 << 20

    @cached_property
    def frame(self) -> AttentionScores:
        """All but the numbers: columns, queries, labels, and tensors of no head."""
        return replace(
            _scored(self.request, (), self.request.rows, self.logits, self.weights), heads=self.request.chosen
        )

    def some(self, head: int, queries: Sequence[int]) -> AttentionScores:
        """One head, some queries of it alone, in ascending order."""
        parts = [_scored(self.request, (head,), run, self.logits, self.weights) for run in runs(queries)]
        joined = {
            name: None if getattr(parts[0], name) is None else torch.cat([getattr(part, name) for part in parts], dim=1)
            for name in _NUMBERS
        }
        apart = torch.cat([part.global_queries for part in parts])
        return replace(parts[0], queries=tuple(queries), global_queries=apart, **joined)  # type: ignore[arg-type]

    def parts(self, head: int) -> Iterator[AttentionScores]:
        """One head, its queries in runs that follow one another."""
        frame, rows = self.frame, self.request.rows
        columns = len(frame.positions) + len(frame.offsets)
        row = max(columns, frame.item.S if len(frame.global_queries) else 1) * frame.item.compute_dtype.itemsize
        band = len(frame.offsets) > 0 or len(frame.positions) == frame.item.S
        # Whole blocks, so that each is the product that it is in one go.
        block = rows_per_block(columns, band=band) * frame.offsets.step
        size = max(self.most // (row * max(self.logits + self.weights, 1)) // block * block, block)
        for start in range(rows.start, rows.stop, size):
            queries = range(start, min(start + size, rows.stop))
            yield _scored(self.request, (head,), queries, self.logits, self.weights)


def _scored(request: Request, heads: tuple[int, ...], queries: range, logits: bool, weights: bool) -> AttentionScores:
    """The scores of some heads and queries of a request."""
    attention = request.attention
    with torch.no_grad(), torch.autocast(request.item.device.type, enabled=False):
        keys = None if request.keys == range(request.item.S) else request.keys
        if not attention.softmaxed or keys is not None:
            return _over_keys(attention, heads, queries, keys, logits, weights)
        return _score(request.item, attention.pattern, heads, queries, logits, weights)


def _check_room(item: AttentionItem, heads: int, rows: int, columns: int, tensors: int) -> None:
    """Raises InputError for more numbers than memory holds, before they are made."""
    size = heads * rows * columns * tensors * item.compute_dtype.itemsize
    if item.device.type == "cpu" and size > memory_of_machine():
        raise InputError(
            f"{item.inputs.source}: {heads} heads x {rows:,} queries x {columns:,} keys are {size / 1e9:,.0f} GB of scores, "
            f"and this machine has {memory_of_machine() / 1e9:,.0f} GB; take fewer heads (--head 0), a part of the queries "
            f"(--queries 0:1000), a narrower pattern (--window), or see all of it as a map (attnviz plot)"
        )


def _over_keys(
    attention: Attention, heads: tuple[int, ...], queries: range, keys: range | None, logits: bool, weights: bool
) -> AttentionScores:
    """Every row over the keys that are columns of a map: of weights that need no softmax, or where a part is asked for."""
    item, columns = attention.item, attention.columns(keys)
    positions = torch.tensor(list(columns), dtype=torch.int64)
    index, shape = positions.to(item.device), (len(heads), len(queries), len(positions))
    _check_room(item, *shape, logits + weights)
    there = attention.softmaxed or getattr(item.inputs, "logits", None) is not None
    if logits and not weights and isinstance(attention, Derived):
        raise attention.no_logits()
    made: dict[bool, Tensor | None] = {}
    visible = torch.zeros(shape, dtype=torch.bool, device=item.device)
    for of_weights, wanted in ((False, logits and (there or not weights)), (True, weights)):
        made[of_weights] = out = torch.empty(shape, dtype=item.compute_dtype, device=item.device) if wanted else None
        for n, head in enumerate(heads) if out is not None else ():
            for block in attention.blocks(head, queries=queries, weights=of_weights):
                assert out is not None
                rows = block.rows - queries.start
                out[n, rows], visible[n, rows] = block.over(index, item.S, weights=of_weights)
    return AttentionScores(
        item,
        attention.pattern,
        heads,
        positions,
        range(0),
        made[False],
        made[True],
        torch.empty(0, dtype=torch.int64),
        visible=visible if weights else None,
        queries=queries,
        keys=keys,
    )


def _score(
    item: AttentionItem, pattern: Pattern, heads: tuple[int, ...], queries: range, logits: bool, weights: bool
) -> AttentionScores:
    reach = pattern.reach(item)
    if reach.band and (reach.open or len(reach.offsets()) >= item.S):
        # The band can hold every key: columns are all key positions, and shared keys are among them.
        reach = reach.hull()
        positions, offsets = torch.arange(item.S), range(0)
    else:
        positions = torch.empty(0, dtype=torch.int64) if reach.keys is None else reach.keys.cpu()
        offsets = reach.offsets()
    columns = len(positions) + len(offsets)
    apart = torch.empty(0, dtype=torch.int64)
    if pattern.global_queries:
        apart = item.global_queries
        apart = apart[(apart >= queries.start) & (apart < queries.stop)]
    _check_room(item, len(heads), len(queries), columns, logits + weights)

    def results(rows: int, columns: int) -> tuple[Tensor | None, Tensor | None]:
        """Room for logits and for weights, where they are wanted."""
        made = (item.compute_dtype, item.device)
        one, other = (
            torch.empty(len(heads), rows, columns, dtype=made[0], device=made[1]) if wanted else None
            for wanted in (logits, weights)
        )
        return one, other

    plain = results(len(queries), columns)
    of_global = results(len(apart), item.S) if pattern.global_queries else (None, None)
    for n, head in enumerate(heads) if logits or weights else ():
        rows = HeadRows(item, pattern, head, queries=queries, reach=reach)
        size, done = rows_per_block(columns, band=reach.band), 0
        for block in rows.blocks([queries], size, rows_per_block(item.S)):
            if isinstance(block.rows, range):
                index = slice(block.rows.start - queries.start, block.rows.stop - queries.start, block.rows.step)
                _write(plain, n, index, block, banded=len(offsets) > 0)
            else:
                index = slice(done, done + len(block.rows))
                _write(of_global, n, index, block, banded=False)
                done = index.stop
        for values in plain if pattern.global_queries else ():
            if values is not None:
                values[n, apart - queries.start] = BLANK
    found = (item, pattern, heads, positions, offsets, *plain, apart.cpu(), *of_global)
    return AttentionScores(*found, queries=queries)


def _write(
    results: tuple[Tensor | None, Tensor | None], n: int, index: slice, block: RowBlock, *, banded: bool
) -> None:
    """Writes a block's logits, and their softmax, straight into the rows of the results."""
    logits, weights = (None if tensor is None else tensor[n, index] for tensor in results)
    first = weights if logits is None else logits
    assert first is not None
    if banded and isinstance(block.rows, range):
        block.scorer.banded(block.rows, first)
    else:
        block.scorer.fill(block.rows, first)
    if weights is not None:
        if logits is not None:
            weights.copy_(logits)
        softmax_(weights, block.scorer.sink)
