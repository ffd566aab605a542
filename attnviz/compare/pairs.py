"""Two sides read along each other: the same queries over the keys of both, and how far each pair may be apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeGuard

import torch
from torch import Tensor

from attnviz.base.devices import dtype_name
from attnviz.compare.rounding import Rounding, Rule, Sizes, rule_of
from attnviz.compare.sides import BLOCK_CELLS, Exact, Side, aligned
from attnviz.engine.attention import Rows, rows_together
from attnviz.engine.blocks import SeenRows
from attnviz.engine.softmax import softmax_
from attnviz.engine.visibility import to_positions


@dataclass(frozen=True)
class Pair:
    """The same queries of both sides, over the keys that either may see."""

    queries: Tensor  # (b,) indices, ascending
    keys: Tensor  # (n,) indices, ascending
    a: Tensor  # (b, n) float64: a weight on a key that is not seen is 0, a logit of it -inf
    b: Tensor
    seen_by_a: Tensor  # (b, n) bool
    seen_by_b: Tensor
    compared: Tensor  # (b,) bool: the queries whose numbers mean something on both sides
    logits: Tensor | None = None  # (b, n) float64 of the side that is computed, b before a, where they are asked for
    asked: Tensor | None = None  # (n,) bool: the keys that are compared; None is all

    @cached_property
    def seen(self) -> Tensor:
        """The pairs that either side sees, of the queries and keys that are compared, (b, n) bool."""
        seen = (self.seen_by_a | self.seen_by_b) & self.compared[:, None]
        return seen if self.asked is None else seen & self.asked

    @cached_property
    def both(self) -> Tensor:
        """Those that both sides have a number for, (b, n) bool."""
        return self.seen & torch.isfinite(self.a) & torch.isfinite(self.b)


def pairs(
    a: Side,
    b: Side,
    head: int,
    values: str,
    queries: range | Tensor,
    progress: Callable[[int], None] | None,
    *,
    keys: range | None = None,
    logits: bool = False,
) -> Iterator[Pair]:
    """One head of both sides, block by block, each query once.

    ``keys``: those that are compared, None meaning all; ``logits``: with those of the side that is computed.
    """
    weights = values == "weights"
    run = queries if isinstance(queries, range) else None
    rows_of_a, rows_of_b = a.rows(head, run), b.rows(head, run)
    from_logits = _from_logits(a, b) if logits and weights else []
    some = queries.split(max(16, BLOCK_CELLS // a.S)) if isinstance(queries, Tensor) else ()
    size = max(16, min(1024, BLOCK_CELLS // a.S))
    for rows in some or rows_together((rows_of_a, rows_of_b), run or range(a.T), size, a.S):
        read_a, before_a = _read(a, rows_of_a, rows, head, weights, from_logits)
        read_b, before_b = _read(b, rows_of_b, rows, head, weights, from_logits)
        x, y = aligned(read_a, read_b, weights)
        positions = to_positions(rows, torch.device("cpu"))
        compared = torch.ones(len(positions), dtype=torch.bool)
        if a.knows_hidden != b.knows_hidden:
            # What a library puts in the row of a query that sees nothing (0, NaN, a uniform row) is compared with nothing.
            compared = (x if a.knows_hidden else y).seen.any(1)
        if len(x.keys):
            before = before_b or before_a
            of_pairs = None if before is None else before.over(x.keys, False).values
            asked = None if keys is None else (x.keys >= keys.start) & (x.keys < keys.stop)
            yield Pair(positions, x.keys, x.values, y.values, x.seen, y.seen, compared, of_pairs, asked)
        if progress is not None:
            progress(len(positions))


def _from_logits(a: Side, b: Side) -> list[Side]:
    """The sides whose weights are made of the logits that are read: the reference, b before a, and the other where it is
    computed alike, so that what is the same differs by nothing."""
    computed = [side for side in (b, a) if is_computed(side)]
    return [side for side in computed if side.dtype == computed[0].dtype]


def _read(
    side: Side, own: Rows, rows: range | Tensor, head: int, weights: bool, from_logits: Sequence[Side]
) -> tuple[SeenRows, SeenRows | None]:
    """Rows of a side and, where its weights are made of them, their logits."""
    if side not in from_logits or side.item is None:
        return own.read(rows, weights=weights), None
    logits = own.read(rows, weights=False)
    made = softmax_(logits.values.clone(), side.item.sink(head))
    return SeenRows(logits.keys, made, logits.seen), logits


class Bounds:
    """How far the pairs of one head may be apart, block by block."""

    def __init__(self, rule: Rule, values: str, exact: Exact | None, head: int) -> None:
        self.rule, self.values = rule, values
        self.sizes = None if exact is None or not isinstance(rule, Rounding) else Sizes.of(exact.attention.item, head)

    def of(self, rows: Tensor, exact: Tensor, logits: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Those of a block.

        Args:
            rows: (b,) query indices.
            exact: (b, n) the numbers of the reference.
            logits: (b, n) those that weights are made of; None where nobody knows them.

        Returns:
            (b, n) of pairs, and (b,) of rows of weights in total variation, where the rule has a bound for them.
        """
        if not isinstance(self.rule, Rounding):
            return self.rule.atol + self.rule.rtol * exact.abs(), None
        if self.values == "logits":
            logits = exact
        elif logits is None:
            logits = exact.nan_to_num().clamp(min=0).log()
        sizes = Sizes.guessed(logits) if self.sizes is None else self.sizes.at(rows)
        error = self.rule.of_logits(logits, sizes)
        return (
            (error, None) if self.values == "logits" else self.rule.of_weights(exact.nan_to_num(), error, len(exact[0]))
        )


def is_computed(side: Side) -> TypeGuard[Exact]:
    """Whether a side is the exact attention of queries and keys."""
    return isinstance(side, Exact) and side.computed


def rule_of_sides(a: Side, b: Side) -> Rule:
    """The rule of two sides: that of their coarsest dtype, and of that of the inputs of a kernel's output."""
    dtypes = [dtype_name(side.dtype) for side in (a, b)]
    computed = [side for side in (a, b) if is_computed(side)]
    if len(computed) == 1:
        dtypes.append(dtype_name(computed[0].inputs.dtype))
    exact = any(side.dtype == torch.float64 for side in computed)
    return rule_of(*dtypes, sides=1 if exact else 2)
