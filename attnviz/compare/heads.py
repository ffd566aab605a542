"""How far two attention maps are apart: a kernel's output against the exact formula, or one setting against another.

Both sides are walked block by block, so that maps of any length can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attnviz.base.bins import bin_edges
from attnviz.base.errors import InputError
from attnviz.base.labels import labels_of_both
from attnviz.base.selections import checked_range
from attnviz.base.types import Cells, Positions
from attnviz.compare.pairs import Bounds, Pair, is_computed, pairs, rule_of_sides
from attnviz.compare.places import Places
from attnviz.compare.rounding import Rounding, Rule, check_can_fail, explicit
from attnviz.compare.sides import Exact, Side, check_groups
from attnviz.engine.reducer import reduce_block
from attnviz.maps.map import AttentionMap


@dataclass(frozen=True)
class Cell:
    """A pair of both maps."""

    query: int
    key: int
    a: float
    b: float
    allowed: float
    """How far the two may be apart."""


@dataclass(frozen=True)
class WorstRow:
    """The query whose weights are furthest apart as a distribution, against what they may be."""

    query: int
    total_variation: float
    allowed: float


@dataclass(frozen=True)
class HeadDifference:
    """How far two maps of one head are apart, over the (query, key) pairs that either side sees.

    Divergences are those of a query's weights, in nats, averaged over queries; None for logits.
    """

    head: int
    max_abs: float
    mean_abs: float
    total_variation: float | None
    js_divergence: float | None
    top_k_agreement: float
    """Share of queries whose top-k keys are the same on both sides (ties within the tolerance count as the same)."""
    worst: Cell | None
    """The furthest apart, of those that are beyond what they may be where some are."""
    beyond: int
    """Pairs further apart than they may be, or where one side has no number: a hidden key's logit, NaN."""
    pairs: int
    """Pairs that either side sees."""
    first: Cell | None = None
    """The first pair that is beyond: of the lowest query, the lowest key."""
    rows_beyond: int = 0
    """Queries whose total variation is more than it may be."""
    worst_row: WorstRow | None = None
    where: tuple[str, ...] = ()
    """Where the pairs that are beyond lie, in words; none where that is everywhere."""
    wrong: tuple[int, ...] = ()
    """Queries with something beyond, the first 4096."""

    @property
    def within(self) -> bool:
        """Whether nothing is beyond what it may be."""
        return not (self.beyond or self.rows_beyond)


@dataclass(frozen=True)
class Difference:
    """The comparison of two sides, and the pictures of it where they were asked for."""

    heads: list[HeadDifference]
    a: str
    b: str
    values: str
    rule: Rule
    top_k: int
    pictures: list[tuple[AttentionMap, AttentionMap, AttentionMap]]
    """A, B and A - B of each head."""
    queries: range | None = None
    """The queries that were compared, where they are a part."""
    keys: range | None = None
    """The keys, likewise."""

    @property
    def part(self) -> dict[str, range]:
        """What was compared, where it is a part."""
        return {name: one for name, one in (("queries", self.queries), ("keys", self.keys)) if one is not None}

    @property
    def within(self) -> bool:
        """Whether every pair and every query of every head is within the tolerance."""
        return all(head.within for head in self.heads)


def compare(
    a: Side,
    b: Side,
    *,
    heads: Sequence[int] | None = None,
    values: str = "weights",
    atol: float | None = None,
    rtol: float | None = None,
    rule: Rule | None = None,
    queries: range | None = None,
    keys: range | None = None,
    rows: Tensor | None = None,
    top_k: int = 5,
    pixels: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Difference:
    """Compares two sides head by head.

    Args:
        a, b: the two sides; ``b`` is the reference of ``rtol``, and of rounding the one that is computed.
        heads: the heads to compare; None is all.
        values: what the sides hold, ``weights`` or ``logits``.
        atol, rtol: a pair is within the tolerance where ``|a - b| <= atol + rtol * |b|``; what isn't given is 0. None of
            both: what rounding costs (:mod:`attnviz.compare.rounding`).
        rule: how far numbers may be apart, in place of ``atol`` and ``rtol``.
        queries, keys: the part to compare; None is all. Weights stay what they are: softmax runs over every visible key.
        rows: some of the queries, ascending; None is all.
        top_k: how many of each query's largest keys to compare.
        pixels: also draw maps of at most this many cells a side; None draws none.
        progress: called with the number of rows done, as they are.

    Raises:
        InputError: sides of different sizes, a head that is not there, a tolerance that is no number or that zeros meet.
    """
    _check(a, b)
    if isinstance(a, Exact) and isinstance(b, Exact):
        check_groups(a.inputs, b.inputs)
    rule = rule or explicit(atol, rtol) or rule_of_sides(a, b)
    asked = _Part(
        checked_range(queries, a.T, "queries", a.name),
        None if keys is None else checked_range(keys, a.S, "keys", a.name),
    )
    chosen = range(a.H) if heads is None else heads
    for head in chosen:
        if not 0 <= head < a.H:
            raise InputError(f"{a.name}: head {head} is out of range; there are {a.H} (0 to {a.H - 1})")
    done: list[HeadDifference] = []
    pictures, largest = [], 0.0
    with torch.no_grad():
        for head in chosen:
            total = _Total(a, b, head, values, rule, top_k, len(asked.queries))
            drawn = None if pixels is None else _Pictures(a, b, head, values, pixels, asked)
            walked = asked.rows(rows)
            for pair in pairs(a, b, head, values, walked, progress, keys=asked.keys, logits=isinstance(rule, Rounding)):
                total.add(pair)
                if drawn is not None:
                    drawn.add(pair)
            done.append(total.result())
            largest = max(largest, total.largest)
            if drawn is not None:
                pictures.append(drawn.result())
    found = Difference(done, a.name, b.name, values, rule, top_k, pictures, queries, keys)
    if found.within:  # or there is nothing to excuse
        check_can_fail(rule, largest, values.removesuffix("s"))
    return found


@dataclass(frozen=True)
class _Part:
    """The queries and keys that are compared; keys None is all."""

    queries: range
    keys: range | None

    def rows(self, some: Tensor | None) -> range | Tensor:
        """The queries, or those that are in ``some``."""
        return self.queries if some is None else some[(some >= self.queries.start) & (some < self.queries.stop)]


def _check(a: Side, b: Side) -> None:
    """Raises InputError for sides of different sizes."""
    for name, left, right in (("heads", a.H, b.H), ("queries", a.T, b.T), ("keys", a.S, b.S)):
        if left != right:
            raise InputError(
                f"{a.name} has {left} {name} but {b.name} has {right}; as (H, T, S): {(a.H, a.T, a.S)} and {(b.H, b.T, b.S)}"
            )


def signed_cells(
    a: Side,
    b: Side,
    head: int,
    row_edges: Positions,
    column_edges: Positions,
    *,
    values: str = "weights",
    progress: Callable[[int], None] | None = None,
) -> Cells:
    """A - B of one head in cells: of each cell's pairs, the difference that is furthest from 0.

    Args:
        a, b: the two sides, of the same size.
        head: the query head.
        row_edges, column_edges: the bins, as :func:`attnviz.engine.reducer.bin_edges` cuts them.
        values: what the sides hold. A weight on a key that a side does not see is 0; a logit of it is none.
        progress: called with the number of rows done, as they are.

    Returns:
        (P, P'), NaN where there is no pair that has a difference.
    """
    shape = (len(row_edges) - 1, len(column_edges) - 1)
    above, below = np.full(shape, -np.inf), np.full(shape, -np.inf)
    queries = range(int(row_edges[0]), int(row_edges[-1]))
    with torch.no_grad():
        for pair in pairs(a, b, head, values, queries, progress):
            shown = (pair.keys >= int(column_edges[0])) & (pair.keys < int(column_edges[-1]))
            if not bool(shown.any()):
                continue
            apart, both = (pair.a - pair.b)[:, shown], pair.both[:, shown]
            for cells, part in ((above, apart), (below, -apart)):
                picture = torch.where(both, part, -torch.inf).numpy()
                reduce_block(cells, picture, pair.queries.numpy(), pair.keys[shown].numpy(), row_edges, column_edges)
    return furthest(above, below)


def furthest(above: Cells, below: Cells) -> Cells:
    """The one furthest from 0 of the largest of A - B and the largest of B - A, -inf where there is none; NaN then."""
    found: Cells = np.where(above >= below, above, -below)
    return np.where(np.isfinite(found), found, np.nan)


class _Total:
    """One head's comparison while blocks come in."""

    def __init__(self, a: Side, b: Side, head: int, values: str, rule: Rule, top_k: int, queries: int) -> None:
        self.head, self.values, self.rule, self.top_k = head, values, rule, top_k
        self.max_abs = self.sum_abs = self.sum_tv = self.sum_js = self.largest = 0.0
        self.queries = self.agreeing = self.divergent = self.pairs = self.lost = self.beyond = self.rows_beyond = 0
        self.worst: Cell | None = None
        self.first: Cell | None = None
        self.worst_row: WorstRow | None = None
        item = next((side.item for side in (b, a) if side.item is not None), None)
        self.places = Places(a.T, a.S, item, queries)
        self.bounds = Bounds(rule, values, next((side for side in (b, a) if is_computed(side)), None), head)
        self.exact_is_a = is_computed(a) and not is_computed(b)

    def add(self, pair: Pair) -> None:
        """Takes in a block."""
        a, b, seen, both = pair.a, pair.b, pair.seen, pair.both
        # A pair that one side sees and the other has no number for is beyond any tolerance.
        lost = seen & ~both
        distance = torch.where(both, (a - b).abs(), 0.0)
        allowed, of_rows = self.bounds.of(pair.queries, a if self.exact_is_a else b, pair.logits)
        self.pairs += int(seen.sum())
        self.lost += int(lost.sum())
        beyond = lost | (both & (distance > allowed))
        self.beyond += int(beyond.sum())
        self.sum_abs += float(distance.sum())
        exact = torch.where(both, a if self.exact_is_a else b, 0.0)
        self.largest = max(self.largest, float(exact.abs().max()))
        self._furthest(pair, lost, distance, allowed, beyond)
        self._first(pair, allowed, beyond)
        self.places.add(pair.queries, pair.keys, torch.where(lost, torch.inf, distance), beyond)
        sees = seen.any(1)
        if bool(sees.any()):
            self.queries += int(sees.sum())
            top_a, top_b = (torch.where(seen & torch.isfinite(side), side, -torch.inf)[sees] for side in (a, b))
            self.agreeing += int(self._top_keys_agree(top_a, top_b, allowed[sees]).sum())
        if self.values == "weights":
            self._rows(pair, of_rows)
            sees = both.any(1)
            if bool(sees.any()):
                self.divergent += int(sees.sum())
                self._divergence(torch.where(both, a, 0.0)[sees], torch.where(both, b, 0.0)[sees])

    def _cell(self, pair: Pair, row: int, column: int, allowed: Tensor) -> Cell:
        numbers = (float(side[row, column]) for side in (pair.a, pair.b, allowed))
        return Cell(int(pair.queries[row]), int(pair.keys[column]), *numbers)

    def _furthest(self, pair: Pair, lost: Tensor, distance: Tensor, allowed: Tensor, beyond: Tensor) -> None:
        """Keeps the worst pair: of those beyond, once there is one."""
        among = beyond if bool(beyond.any()) else pair.seen
        far = torch.where(lost, torch.inf, distance).masked_fill(~among, -1)
        self.max_abs = max(self.max_abs, float(torch.where(lost, torch.inf, distance).max()))
        flat = int(far.argmax())
        row, column = divmod(flat, len(pair.keys))
        most, now = float(far[row, column]), self.worst
        was = -1.0 if now is None else abs(now.a - now.b)
        was = math.inf if math.isnan(was) else was
        better = bool(beyond.any()) and self.beyond == int(beyond.sum())  # the first block with any
        if most >= 0 and (now is None or better or (most > was and (bool(beyond.any()) or not self.beyond))):
            self.worst = self._cell(pair, row, column, allowed)

    def _first(self, pair: Pair, allowed: Tensor, beyond: Tensor) -> None:
        """Keeps the first pair that is beyond; blocks come in any order."""
        rows = beyond.any(1).nonzero().flatten()
        if not len(rows):
            return
        row = int(rows[pair.queries[rows].argmin()])
        if self.first is None or int(pair.queries[row]) < self.first.query:
            self.first = self._cell(pair, row, int(beyond[row].int().argmax()), allowed)

    def _rows(self, pair: Pair, allowed: Tensor | None) -> None:
        """Holds each query's weights, as a distribution, against what they may be apart."""
        if allowed is None:
            return
        apart = torch.where(pair.both, (pair.a - pair.b).abs(), 0.0).sum(1) / 2
        beyond = apart > allowed
        self.rows_beyond += int(beyond.sum())
        self.places.add_rows(pair.queries[beyond])
        row = int((apart / allowed).nan_to_num().argmax())
        found = WorstRow(int(pair.queries[row]), float(apart[row]), float(allowed[row]))
        if self.worst_row is None or found.total_variation * self.worst_row.allowed > (
            self.worst_row.total_variation * found.allowed
        ):
            self.worst_row = found

    def _top_keys_agree(self, a: Tensor, b: Tensor, allowed: Tensor) -> Tensor:
        """Whether each query's top keys on one side are top keys on the other, give or take the tolerance, (b,)."""
        k = min(self.top_k, a.shape[1])
        least_a, (least_b, at) = a.topk(k).values[:, -1:], b.topk(k)
        slack = allowed.gather(1, at[:, -1:]).nan_to_num(posinf=0.0)
        least_b = least_b[:, -1:]
        hidden = -torch.inf
        missing_in_b = (a >= least_a) & (a > hidden) & ((b < least_b - slack) | (b == hidden))
        missing_in_a = (b >= least_b) & (b > hidden) & ((a < least_a - slack) | (a == hidden))
        agree: Tensor = ~(missing_in_a | missing_in_b).any(1)
        return agree

    def _divergence(self, a: Tensor, b: Tensor) -> None:
        a, b = a.clamp(min=0), b.clamp(min=0)
        self.sum_tv += float((a - b).abs().sum()) / 2
        middle = (a + b) / 2
        ratio = torch.xlogy(a, a / middle) + torch.xlogy(b, b / middle)
        self.sum_js += float(torch.where(middle > 0, ratio, 0.0).sum()) / 2

    def result(self) -> HeadDifference:
        """What came in."""
        divergent = max(self.divergent, 1)
        weights = self.values == "weights"
        return HeadDifference(
            self.head,
            self.max_abs,
            self.sum_abs / max(self.pairs - self.lost, 1),
            self.sum_tv / divergent if weights else None,
            max(self.sum_js / divergent, 0.0) if weights else None,
            self.agreeing / self.queries if self.queries else 1.0,
            self.worst,
            self.beyond,
            self.pairs,
            self.first,
            self.rows_beyond,
            self.worst_row,
            self.places.described(),
            tuple(self.places.rows.nonzero().flatten().tolist()[:4096]),
        )


class _Pictures:
    """A, B and A - B of one head while blocks come in; a cell of the difference holds the one that is furthest from 0."""

    def __init__(self, a: Side, b: Side, head: int, values: str, pixels: int, part: _Part) -> None:
        self.head, self.values, self.sides = head, values, (a, b)
        self.queries, self.keys, self.asked = part.queries, part.keys or range(a.S), part.keys
        self.edges = tuple(bin_edges(shown, min(len(shown), pixels)) for shown in (self.queries, self.keys))
        # The largest of A, of B, of A - B and of B - A in each cell.
        self.cells = [np.full([len(edges) - 1 for edges in self.edges], -np.inf) for _ in range(4)]

    def add(self, pair: Pair) -> None:
        """Takes in a block."""
        a, b, both, asked = pair.a, pair.b, pair.both, pair.asked
        inside = slice(None) if asked is None else asked
        keys = pair.keys[inside].numpy()
        parts = ((a, pair.seen_by_a), (b, pair.seen_by_b), (a - b, both), (b - a, both))
        for cells, (part, shown) in zip(self.cells, parts, strict=True) if len(keys) else ():
            picture = torch.where(shown & torch.isfinite(part), part, -torch.inf)[:, inside].numpy()
            reduce_block(cells, picture, pair.queries.numpy(), keys, *self.edges)

    def result(self) -> tuple[AttentionMap, AttentionMap, AttentionMap]:
        """The three maps."""
        a, b = (np.where(cells > -np.inf, cells, np.nan) for cells in self.cells[:2])

        def drawn(cells: Cells, values: str, name: str, labels: Labels) -> AttentionMap:
            of_queries, of_keys = (
                None if few is None else [few[n] for n in part]
                for few, part in zip(labels, (self.queries, self.keys), strict=True)
            )
            return AttentionMap(cells, values, self.head, self.queries, self.keys, of_queries, of_keys, pattern=name)

        of_a, of_b = map(side_labels, self.sides)
        both = labels_of_sides(of_a, of_b)
        # A tensor's positions are those of the other side, and its tokens.
        return (
            drawn(a, self.values, self.sides[0].name, both if of_a == (None, None) else of_a),
            drawn(b, self.values, self.sides[1].name, both if of_b == (None, None) else of_b),
            drawn(furthest(*self.cells[2:]), "difference", "A − B", both),
        )


Labels = tuple[Sequence[str] | None, Sequence[str] | None]
"""Of queries and of keys, as a reader expects them; None where there are none."""


def side_labels(side: Side) -> Labels:
    """The tokens of a side's queries and keys."""
    if side.item is None:
        return None, None
    return side.item.query_labels(range(side.T)), side.item.key_labels(range(side.S))


def labels_of_sides(a: Labels, b: Labels) -> Labels:
    """The tokens of both sides: ``tired / wide`` where they are not the same."""
    return labels_of_both(a[0], b[0]), labels_of_both(a[1], b[1])
