"""How far two attention maps are apart: a kernel's output against the exact formula, or one setting against another.

Both sides are walked block by block, so that maps of any length can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from attnviz.base.bins import bin_edges
from attnviz.base.errors import InputError
from attnviz.base.labels import labels_of_both
from attnviz.base.types import Cells, Positions
from attnviz.compare.sides import Side, aligned, row_groups
from attnviz.engine.reducer import reduce_block
from attnviz.engine.visibility import to_positions
from attnviz.maps.map import AttentionMap


@dataclass(frozen=True)
class Tolerance:
    """How far two numbers may be apart: ``|a - b| <= atol + rtol * |b|``."""

    atol: float
    rtol: float

    def __str__(self) -> str:
        return f"atol {self.atol:g}, rtol {self.rtol:g}"


TOLERANCES = {
    "float64": Tolerance(1e-9, 1e-9),
    "float32": Tolerance(1e-5, 1e-5),
    "float16": Tolerance(1e-3, 1e-3),
    "bfloat16": Tolerance(1e-2, 1e-2),
}
"""What weights and contexts of a dtype may be apart where both are right: a few roundings of it, at values about 1."""


@dataclass(frozen=True)
class WorstCell:
    """Where two maps are furthest apart."""

    query: int
    key: int
    a: float
    b: float


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
    worst: WorstCell | None
    beyond: int
    """Pairs where ``|a - b| > atol + rtol * |b|``, or where one side has no number: a hidden key's logit, NaN."""
    pairs: int
    """Pairs that either side sees."""


@dataclass(frozen=True)
class Difference:
    """The comparison of two sides, and the pictures of it where they were asked for."""

    heads: list[HeadDifference]
    a: str
    b: str
    values: str
    atol: float
    rtol: float
    top_k: int
    pictures: list[tuple[AttentionMap, AttentionMap, AttentionMap]]
    """A, B and A - B of each head."""

    @property
    def within(self) -> bool:
        """Whether every pair of every head is within the tolerance."""
        return all(head.beyond == 0 for head in self.heads)


def compare(
    a: Side,
    b: Side,
    *,
    heads: Sequence[int] | None = None,
    values: str = "weights",
    atol: float = 1e-5,
    rtol: float = 1e-5,
    top_k: int = 5,
    pixels: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Difference:
    """Compares two sides head by head.

    Args:
        a, b: the two sides; ``b`` is the reference of ``rtol``.
        heads: the heads to compare; None is all.
        values: what the sides hold, ``weights`` or ``logits``.
        atol, rtol: a pair is within the tolerance where ``|a - b| <= atol + rtol * |b|``.
        top_k: how many of each query's largest keys to compare.
        pixels: also draw maps of at most this many cells a side; None draws none.
        progress: called with the number of rows done, as they are.

    Raises:
        InputError: sides of different sizes, a head that is not there, or a tolerance that is no number.
    """
    _check(a, b, atol, rtol)
    chosen = range(a.H) if heads is None else heads
    for head in chosen:
        if not 0 <= head < a.H:
            raise InputError(f"{a.name}: head {head} is out of range; there are {a.H} (0 to {a.H - 1})")
    rows: list[HeadDifference] = []
    pictures = []
    with torch.no_grad():
        for head in chosen:
            total = _Total(a, b, head, values, Tolerance(atol, rtol), top_k)
            drawn = None if pixels is None else _Pictures(a, b, head, values, pixels)
            for pair in _pairs(a, b, head, values, range(a.T), progress):
                total.add(pair)
                if drawn is not None:
                    drawn.add(pair)
            rows.append(total.result())
            if drawn is not None:
                pictures.append(drawn.result())
    return Difference(rows, a.name, b.name, values, atol, rtol, top_k, pictures)


def _check(a: Side, b: Side, atol: float, rtol: float) -> None:
    """Raises InputError for sides of different sizes, or a tolerance that is no number."""
    for name, left, right in (("heads", a.H, b.H), ("queries", a.T, b.T), ("keys", a.S, b.S)):
        if left != right:
            raise InputError(
                f"{a.name} has {left} {name} but {b.name} has {right}; as (H, T, S): {(a.H, a.T, a.S)} and {(b.H, b.T, b.S)}"
            )
    for name, tolerance in (("atol", atol), ("rtol", rtol)):
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise InputError(f"--{name} {tolerance:g}: a tolerance is a finite number, 0 or more")


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
        for pair in _pairs(a, b, head, values, queries, progress):
            shown = (pair.keys >= int(column_edges[0])) & (pair.keys < int(column_edges[-1]))
            if not bool(shown.any()):
                continue
            apart, both = (pair.a - pair.b)[:, shown], pair.both[:, shown]
            for cells, part in ((above, apart), (below, -apart)):
                picture = torch.where(both, part, -torch.inf).numpy()
                reduce_block(cells, picture, pair.queries.numpy(), pair.keys[shown].numpy(), row_edges, column_edges)
    return _furthest(above, below)


def _furthest(above: Cells, below: Cells) -> Cells:
    """The one furthest from 0 of the largest of A - B and the largest of B - A, -inf where there is none; NaN then."""
    found: Cells = np.where(above >= below, above, -below)
    return np.where(np.isfinite(found), found, np.nan)


@dataclass(frozen=True)
class _Pair:
    """The same queries of both sides, over the keys that either may see."""

    queries: Tensor  # (b,) indices, ascending
    keys: Tensor  # (n,) indices, ascending
    a: Tensor  # (b, n) float64: a weight on a key that is not seen is 0, a logit of it -inf
    b: Tensor
    seen_by_a: Tensor  # (b, n) bool
    seen_by_b: Tensor
    compared: Tensor  # (b,) bool: the queries whose numbers mean something on both sides

    @cached_property
    def seen(self) -> Tensor:
        """The pairs that either side sees, of the queries that are compared, (b, n) bool."""
        return (self.seen_by_a | self.seen_by_b) & self.compared[:, None]

    @cached_property
    def both(self) -> Tensor:
        """Those that both sides have a number for, (b, n) bool."""
        return self.seen & torch.isfinite(self.a) & torch.isfinite(self.b)


def _pairs(
    a: Side, b: Side, head: int, values: str, queries: range, progress: Callable[[int], None] | None
) -> Iterator[_Pair]:
    """One head of both sides, block by block, each query once."""
    weights = values == "weights"
    rows_of_a, rows_of_b = a.rows(head, queries), b.rows(head, queries)
    for rows in row_groups(rows_of_a, rows_of_b, queries, a.S):
        x, y = aligned(rows_of_a.read(rows, weights=weights), rows_of_b.read(rows, weights=weights), weights)
        positions = to_positions(rows, torch.device("cpu"))
        compared = torch.ones(len(positions), dtype=torch.bool)
        if a.knows_hidden != b.knows_hidden:
            # What a library puts in the row of a query that sees nothing (0, NaN, a uniform row) is compared with nothing.
            compared = (x if a.knows_hidden else y).seen.any(1)
        if len(x.keys):
            yield _Pair(positions, x.keys, x.values, y.values, x.seen, y.seen, compared)
        if progress is not None:
            progress(len(positions))


class _Total:
    """One head's comparison while blocks come in."""

    def __init__(self, a: Side, b: Side, head: int, values: str, allowed: Tolerance, top_k: int) -> None:
        self.head, self.values, self.allowed, self.top_k = head, values, allowed, top_k
        self.max_abs = self.sum_abs = self.sum_tv = self.sum_js = 0.0
        self.queries = self.agreeing = self.divergent = self.pairs = self.lost = self.beyond = 0
        self.worst: WorstCell | None = None

    def add(self, pair: _Pair) -> None:
        """Takes in a block."""
        a, b, seen, both = pair.a, pair.b, pair.seen, pair.both
        # A pair that one side sees and the other has no number for is beyond any tolerance.
        lost = seen & ~both
        distance = torch.where(both, (a - b).abs(), 0.0)
        self.pairs += int(seen.sum())
        self.lost += int(lost.sum())
        beyond = both & (distance > self.allowed.atol + self.allowed.rtol * b.abs())
        self.beyond += int(lost.sum()) + int(beyond.sum())
        self.sum_abs += float(distance.sum())
        self._furthest(pair, lost, distance)
        sees = seen.any(1)
        if bool(sees.any()):
            self.queries += int(sees.sum())
            top_a, top_b = (torch.where(seen & torch.isfinite(side), side, -torch.inf)[sees] for side in (a, b))
            self.agreeing += int(self._top_keys_agree(top_a, top_b).sum())
        sees = both.any(1)
        if bool(sees.any()) and self.values == "weights":
            self.divergent += int(sees.sum())
            self._divergence(torch.where(both, a, 0.0)[sees], torch.where(both, b, 0.0)[sees])

    def _furthest(self, pair: _Pair, lost: Tensor, distance: Tensor) -> None:
        """Keeps the worst pair."""
        gone = bool(lost.any())
        largest = math.inf if gone else float(distance.max())
        if largest > self.max_abs or (self.worst is None and bool(pair.seen.any())):
            flat = int(lost.int().argmax() if gone else distance.masked_fill(~pair.seen, -1).argmax())
            row, column = divmod(flat, len(pair.keys))
            numbers = float(pair.a[row, column]), float(pair.b[row, column])
            self.worst = WorstCell(int(pair.queries[row]), int(pair.keys[column]), *numbers)
            self.max_abs = max(self.max_abs, largest)

    def _top_keys_agree(self, a: Tensor, b: Tensor) -> Tensor:
        """Whether each query's top keys on one side are top keys on the other, give or take the tolerance, (b,)."""
        k = min(self.top_k, a.shape[1])
        least_a, least_b = a.topk(k).values[:, -1:], b.topk(k).values[:, -1:]
        slack = self.allowed.atol + self.allowed.rtol * least_b.abs().nan_to_num(posinf=0.0)
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
        )


class _Pictures:
    """A, B and A - B of one head while blocks come in; a cell of the difference holds the one that is furthest from 0."""

    def __init__(self, a: Side, b: Side, head: int, values: str, pixels: int) -> None:
        self.head, self.values, self.sides = head, values, (a, b)
        self.queries, self.keys = range(a.T), range(a.S)
        self.edges = tuple(bin_edges(shown, min(len(shown), pixels)) for shown in (self.queries, self.keys))
        # The largest of A, of B, of A - B and of B - A in each cell.
        self.cells = [np.full([len(edges) - 1 for edges in self.edges], -np.inf) for _ in range(4)]

    def add(self, pair: _Pair) -> None:
        """Takes in a block."""
        a, b, both = pair.a, pair.b, pair.both
        parts = ((a, pair.seen_by_a), (b, pair.seen_by_b), (a - b, both), (b - a, both))
        for cells, (part, shown) in zip(self.cells, parts, strict=True):
            picture = torch.where(shown & torch.isfinite(part), part, -torch.inf).numpy()
            reduce_block(cells, picture, pair.queries.numpy(), pair.keys.numpy(), *self.edges)

    def result(self) -> tuple[AttentionMap, AttentionMap, AttentionMap]:
        """The three maps."""
        a, b = (np.where(cells > -np.inf, cells, np.nan) for cells in self.cells[:2])

        def drawn(cells: Cells, values: str, name: str, labels: Labels) -> AttentionMap:
            return AttentionMap(cells, values, self.head, self.queries, self.keys, *labels, pattern=name)

        of_a, of_b = map(side_labels, self.sides)
        both = labels_of_sides(of_a, of_b)
        # A tensor's positions are those of the other side, and its tokens.
        return (
            drawn(a, self.values, self.sides[0].name, both if of_a == (None, None) else of_a),
            drawn(b, self.values, self.sides[1].name, both if of_b == (None, None) else of_b),
            drawn(_furthest(*self.cells[2:]), "difference", "A − B", both),
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
