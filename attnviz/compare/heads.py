"""How far two attention maps are apart: a kernel's output against the exact formula, or one setting against another.

Both sides are walked block by block, so that maps of any length can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from attnviz.attention.inputs import AttentionInputs
from attnviz.attention.patterns import Pattern
from attnviz.base.bins import bin_edges
from attnviz.base.devices import dtype_name
from attnviz.base.errors import InputError
from attnviz.base.labels import labels_of_both
from attnviz.base.types import Cells, Positions
from attnviz.engine.blocks import stepped
from attnviz.engine.reducer import reduce_block
from attnviz.engine.request import Request
from attnviz.maps.map import AttentionMap

_BLOCK_CELLS = 1 << 20


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


class Side(Protocol):
    """One side of a comparison, (H, T, S)."""

    name: str
    H: int
    T: int
    S: int
    step: int | None
    """The step its blocks of rows want; None takes any."""

    def apart(self) -> Tensor:
        """Query positions to be asked for by themselves, (R,)."""

    def head(self, head: int) -> Callable[[range | Tensor], tuple[Tensor, Tensor, Tensor]]:
        """What gives one head's block: rows to key positions (n,), values (b, n), seen (b, n) bool."""


class Computed:
    """The exact map of inputs under a pattern."""

    def __init__(
        self,
        inputs: AttentionInputs,
        pattern: Pattern | None = None,
        *,
        batch: int = 0,
        values: str = "weights",
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        settings: Sequence[str] = (),
    ) -> None:
        """``settings``: what else to say of this side in its name."""
        request = Request(inputs, pattern, batch=batch, values=values, device=device, dtype=dtype)
        self.attention, self.values = request.attention, values
        self.pattern, self.item = self.attention.pattern, self.attention.item
        self.reach = self.pattern.reach(self.item)
        which = [] if self.item.batch_shown is None else [f"batch item {self.item.batch}"]
        said = (str(self.pattern), dtype_name(self.item.dtype), self.item.device.type, *which, *settings)
        self.name = f"{inputs.source} ({', '.join(said)})"
        self.H, self.T, self.S = inputs.H, inputs.T, inputs.S
        self.step: int | None = self.reach.step if self.reach.band else None

    def apart(self) -> Tensor:
        """Rows of global queries."""
        return self.item.global_queries.cpu() if self.pattern.global_queries else torch.empty(0, dtype=torch.int64)

    def head(self, head: int) -> Callable[[range | Tensor], tuple[Tensor, Tensor, Tensor]]:
        """Blocks of one head."""
        rows_of_head = self.attention.rows(head)

        def block(rows: range | Tensor) -> tuple[Tensor, Tensor, Tensor]:
            found = rows_of_head.read(rows, weights=self.values == "weights")
            return found.keys, found.values, found.seen

        return block


class Given:
    """Weights or logits that something else computed, (H, T, C), whose C columns are the given key positions."""

    step: int | None = None

    def __init__(
        self, tensor: Tensor, positions: Sequence[int] | None, S: int | None, name: str, *, values: str = "weights"
    ) -> None:
        if tensor.ndim == 4 and tensor.shape[0] == 1:
            tensor = tensor[0]
        if tensor.ndim != 3 or not tensor.is_floating_point():
            raise InputError(
                f"{name}: has shape {tuple(tensor.shape)} and dtype {dtype_name(tensor.dtype)}, "
                f"wanted weights or scores (H, T, S) of a floating dtype"
            )
        self.tensor, self.name = tensor, name
        # A weight of 0 does not say whether the key was visible; the other side does.
        self.unseen = 0.0 if values == "weights" else -math.inf
        self.H, self.T, C = tensor.shape
        self.S = S or C
        if C == self.S:
            self.keys = torch.arange(C)
        elif positions is not None and len(positions) == C:
            self.keys = torch.tensor(list(positions))
        else:
            shared = "" if positions is None else f" or {len(positions)}, the pattern's global keys"
            raise InputError(
                f"{name}: has {C} columns, shape {tuple(tensor.shape)}; wanted {self.S}, a key position each{shared}"
            )

    def apart(self) -> Tensor:
        """No row wants to be apart."""
        return torch.empty(0, dtype=torch.int64)

    def head(self, head: int) -> Callable[[range | Tensor], tuple[Tensor, Tensor, Tensor]]:
        """Blocks of one head."""

        def block(rows: range | Tensor) -> tuple[Tensor, Tensor, Tensor]:
            part = (
                self.tensor[head, rows.start : rows.stop : rows.step]
                if isinstance(rows, range)
                else self.tensor[head, rows]
            )
            values = part.double()
            blank = torch.isnan(values).all(1, keepdim=True)  # a query that sees nothing; any other NaN is a fault
            return self.keys, values, (values != self.unseen) & ~blank

        return block


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
    for name, left, right in (("heads", a.H, b.H), ("queries", a.T, b.T), ("keys", a.S, b.S)):
        if left != right:
            raise InputError(
                f"{a.name} has {left} {name} but {b.name} has {right}; as (H, T, S): {(a.H, a.T, a.S)} and {(b.H, b.T, b.S)}"
            )
    for name, tolerance in (("atol", atol), ("rtol", rtol)):
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise InputError(f"--{name} {tolerance:g}: a tolerance is a finite number, 0 or more")
    chosen = range(a.H) if heads is None else heads
    for head in chosen:
        if not 0 <= head < a.H:
            raise InputError(f"{a.name}: head {head} is out of range; there are {a.H} (0 to {a.H - 1})")
    rows: list[HeadDifference] = []
    pictures = []
    with torch.no_grad():
        for head in chosen:
            total = _Total(a, b, head, values, atol, rtol, top_k, pixels)
            for block in _row_groups(a, b):
                total.add(block)
                if progress is not None:
                    progress(len(block))
            rows.append(total.result())
            if pixels is not None:
                pictures.append(total.pictures())
    return Difference(rows, a.name, b.name, values, atol, rtol, top_k, pictures)


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
    block_of_a, block_of_b = a.head(head), b.head(head)
    with torch.no_grad():
        for rows in _row_groups(a, b, range(int(row_edges[0]), int(row_edges[-1]))):
            keys, (x, seen_by_a), (y, seen_by_b) = _aligned(block_of_a(rows), block_of_b(rows), values)
            positions = torch.arange(rows.start, rows.stop, rows.step) if isinstance(rows, range) else rows
            shown = (keys >= int(column_edges[0])) & (keys < int(column_edges[-1]))
            apart = (x - y)[:, shown]
            both = (seen_by_a | seen_by_b)[:, shown] & torch.isfinite(apart)
            if bool(shown.any()):
                for cells, part in ((above, apart), (below, -apart)):
                    picture = torch.where(both, part, -torch.inf).numpy()
                    reduce_block(cells, picture, positions.numpy(), keys[shown].numpy(), row_edges, column_edges)
            if progress is not None:
                progress(len(positions))
    return _furthest(above, below)


def _furthest(above: Cells, below: Cells) -> Cells:
    """The one furthest from 0 of the largest of A - B and the largest of B - A, -inf where there is none; NaN then."""
    found: Cells = np.where(above >= below, above, -below)
    return np.where(np.isfinite(found), found, np.nan)


def _row_groups(a: Side, b: Side, queries: range | None = None) -> Iterator[range | Tensor]:
    """Blocks of rows that suit both sides: ranges, and rows of global queries by themselves."""
    queries = range(a.T) if queries is None else queries
    steps = {side.step for side in (a, b) if side.step is not None}
    step = steps.pop() if len(steps) == 1 else 1
    apart = torch.unique(torch.cat([a.apart(), b.apart()]))
    size = max(16, min(1024, _BLOCK_CELLS // a.S))
    apart = apart[(apart >= queries.start) & (apart < queries.stop)]
    for rows in stepped(queries, size, step):
        positions = torch.arange(rows.start, rows.stop, rows.step)
        if len(apart) and bool(torch.isin(positions, apart).any()):
            # Whole runs between the rows that stand apart keep the blocks cheap.
            yield from _runs(rows, set(apart.tolist()))
        else:
            yield rows
    if len(apart):
        yield from apart.split(size)


def _runs(rows: range, without: set[int]) -> Iterator[range]:
    start: int | None = None
    for row in [*rows, rows[-1] + rows.step]:
        inside = row <= rows[-1] and row not in without
        if inside and start is None:
            start = row
        elif not inside and start is not None:
            yield range(start, row, rows.step)
            start = None


class _Total:
    """One head's comparison while blocks come in."""

    def __init__(
        self, a: Side, b: Side, head: int, values: str, atol: float, rtol: float, top_k: int, pixels: int | None
    ) -> None:
        self.block_of_a, self.block_of_b = a.head(head), b.head(head)
        self.head, self.values = head, values
        self.atol, self.rtol, self.top_k = atol, rtol, top_k
        self.max_abs = self.sum_abs = self.sum_tv = self.sum_js = 0.0
        self.queries = self.agreeing = self.divergent = self.pairs = self.lost = self.beyond = 0
        self.worst: WorstCell | None = None
        self.sides = (a, b)
        self.T, self.S = a.T, a.S
        self.edges = (
            None
            if pixels is None
            else (bin_edges(range(a.T), min(a.T, pixels)), bin_edges(range(a.S), min(a.S, pixels)))
        )
        shape = (0, 0) if self.edges is None else (len(self.edges[0]) - 1, len(self.edges[1]) - 1)
        # The largest of A, of B, of A - B and of B - A in each cell.
        self.cells = [np.full(shape, -np.inf) for _ in range(4)]

    def add(self, rows: range | Tensor) -> None:
        positions = torch.arange(rows.start, rows.stop, rows.step) if isinstance(rows, range) else rows
        keys, (a, seen_by_a), (b, seen_by_b) = _aligned(self.block_of_a(rows), self.block_of_b(rows), self.values)
        seen = seen_by_a | seen_by_b
        if not len(keys):
            return
        # A pair that one side sees and the other has no number for is beyond any tolerance.
        lost = seen & ~(torch.isfinite(a) & torch.isfinite(b))
        both = seen & ~lost
        distance = torch.where(both, (a - b).abs(), 0.0)
        self.pairs += int(seen.sum())
        self.lost += int(lost.sum())
        self.beyond += int(lost.sum()) + int((both & (distance > self.atol + self.rtol * b.abs())).sum())
        self.sum_abs += float(distance.sum())
        largest = float(distance.max()) if not bool(lost.any()) else math.inf
        if largest > self.max_abs or (self.worst is None and bool(seen.any())):
            flat = int(lost.int().argmax() if bool(lost.any()) else distance.masked_fill(~seen, -1).argmax())
            row, column = divmod(flat, len(keys))
            self.worst = WorstCell(int(positions[row]), int(keys[column]), float(a[row, column]), float(b[row, column]))
            self.max_abs = max(self.max_abs, largest)
        sees = seen.any(1)
        if bool(sees.any()):
            self.queries += int(sees.sum())
            top_a, top_b = (torch.where(seen & torch.isfinite(side), side, -torch.inf)[sees] for side in (a, b))
            self.agreeing += int(self._top_keys_agree(top_a, top_b).sum())
        sees = both.any(1)
        if bool(sees.any()) and self.values == "weights":
            self.divergent += int(sees.sum())
            self._divergence(torch.where(both, a, 0.0)[sees], torch.where(both, b, 0.0)[sees])
        if self.edges is not None:
            hidden = -torch.inf
            parts = ((a, seen_by_a), (b, seen_by_b), (a - b, both), (b - a, both))
            for cells, (part, shown) in zip(self.cells, parts, strict=True):
                picture = torch.where(shown & torch.isfinite(part), part, hidden).numpy()
                reduce_block(cells, picture, positions.numpy(), keys.numpy(), *self.edges)

    def _top_keys_agree(self, a: Tensor, b: Tensor) -> Tensor:
        """Whether each query's top keys on one side are top keys on the other, give or take the tolerance, (b,)."""
        k = min(self.top_k, a.shape[1])
        least_a, least_b = a.topk(k).values[:, -1:], b.topk(k).values[:, -1:]
        slack = self.atol + self.rtol * least_b.abs().nan_to_num(posinf=0.0)
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

    def pictures(self) -> tuple[AttentionMap, AttentionMap, AttentionMap]:
        """A, B and A - B; a cell of the difference holds the one that is furthest from 0."""
        a, b = (np.where(cells > -np.inf, cells, np.nan) for cells in self.cells[:2])
        signed = _furthest(*self.cells[2:])

        def drawn(cells: Cells, values: str, name: str, labels: Labels) -> AttentionMap:
            return AttentionMap(cells, values, self.head, range(self.T), range(self.S), *labels, pattern=name)

        of_a, of_b = map(side_labels, self.sides)
        both = labels_of_sides(of_a, of_b)
        # A tensor's positions are those of the other side, and its tokens.
        return (
            drawn(a, self.values, self.sides[0].name, both if of_a == (None, None) else of_a),
            drawn(b, self.values, self.sides[1].name, both if of_b == (None, None) else of_b),
            drawn(signed, "difference", "A − B", both),
        )


Labels = tuple[Sequence[str] | None, Sequence[str] | None]
"""Of queries and of keys, as a reader expects them; None where there are none."""


def side_labels(side: Side) -> Labels:
    """The tokens of a side's queries and keys."""
    if not isinstance(side, Computed):
        return None, None
    return side.item.query_labels(range(side.T)), side.item.key_labels(range(side.S))


def labels_of_sides(a: Labels, b: Labels) -> Labels:
    """The tokens of both sides: ``tired / wide`` where they are not the same."""
    return labels_of_both(a[0], b[0]), labels_of_both(a[1], b[1])


def _aligned(
    a: tuple[Tensor, Tensor, Tensor], b: tuple[Tensor, Tensor, Tensor], values: str
) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Two blocks over the keys of both: ascending keys (n,), then values and what is seen, (b, n), of each."""
    union = torch.unique(torch.cat([a[0], b[0]]))

    def spread(block: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        keys, numbers, seen = block
        if torch.equal(keys, union):
            return numbers, seen
        column = torch.searchsorted(union, keys)
        empty = 0.0 if values == "weights" else -torch.inf
        out = numbers.new_full((len(numbers), len(union)), empty)
        marks = seen.new_zeros(out.shape)
        out[:, column] = torch.where(seen, numbers, empty)
        marks[:, column] = seen
        blank = torch.isnan(numbers).all(1)
        out[blank] = torch.nan
        return out, marks

    return union, spread(a), spread(b)
