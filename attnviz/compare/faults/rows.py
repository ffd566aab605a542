"""Mistakes in which row holds a query's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from attnviz.compare.faults.backward import of_context
from attnviz.compare.faults.fault import MOST_MATCHED, TILES, Case, Fault
from attnviz.compare.faults.orders import shifted, swapped
from attnviz.compare.faults.way import compute
from attnviz.compare.faults.work import Variant, Work, clean
from attnviz.compare.gradients import GRADIENTS
from attnviz.compare.rounding import FIXED


class RowsShifted(Fault):
    """Rows that hold another query's numbers, by a rule."""

    name = "rows shifted"

    def variants(self, case: Case) -> Iterator[Variant]:
        return self.moves(case)

    def moves(self, case: Case) -> Iterator[Variant]:
        T, H = case.length, case.heads
        rules: dict[str, Callable[[Tensor], Tensor]] = {"queries in reverse": lambda t: T - 1 - t}
        for by in (1, -1, 2, -2):
            rules[f"query t{by:+d} in the row of query t"] = shifted(by, T)
        for tile in TILES:
            if 2 * tile <= T:
                rules[f"tiles of {tile} queries swapped in pairs"] = partial(swapped, tile=tile, size=T)
        for name, rule in rules.items():

            def change(work: Work, rule: Callable[[Tensor], Tensor] = rule) -> None:
                work.rows = rule(work.rows)

            yield self.variant(name, "place", change)
        if H > 1 and T > 1:

            def reshaped(work: Work) -> None:
                flat = work.head * T + work.rows  # what a tensor (T, H, ...) has there
                work.sources = [
                    (work.batch, head, flat[flat % H == head] // H, (flat % H == head).nonzero().flatten())
                    for head in torch.unique(flat % H).tolist()
                ]

            def read_back(work: Work) -> None:
                flat = work.rows * H + work.head
                work.sources = [
                    (work.batch, head, flat[flat // T == head] % T, (flat // T == head).nonzero().flatten())
                    for head in torch.unique(flat // T).tolist()
                ]

            yield self.variant("(T, H, ...) in memory read as (H, T, ...): transpose before reshape", "place", reshaped)
            yield self.variant(
                "(H, T, ...) in memory read as (T, H, ...): transpose before reshape", "place", read_back
            )


class RowsPermuted(Fault):
    """Rows in an order that a table of pages got wrong: each holds the numbers of some other query."""

    name = "rows permuted"
    late = 1

    def variants(self, case: Case) -> Iterator[Variant]:
        if case.what in GRADIENTS:
            yield from self._of_context(case)
        T = case.length
        given = case.given(case.batch, case.head, torch.tensor(case.rows))
        if (
            case.inputs.T * case.inputs.S > MOST_MATCHED or T < 2 or given.shape[1] < 4
        ):  # a few numbers are near some row by chance
            return
        found = _nearest(given, case.exact)
        pairs = ", ".join(
            f"{row} holds {other}" for row, other in list(zip(case.rows, found.tolist(), strict=True))[:3]
        )
        exact: dict[tuple[int, int], Tensor] = {(case.batch, case.head): case.exact}

        def change(work: Work) -> None:
            place = work.batch, work.head
            if place not in exact:
                every = case.work(*place, torch.arange(T))
                exact[place] = compute(every, (), case.rule).out
            work.rows = _nearest(case.given(*place, work.rows), exact[place])

        yield self.variant(f"rows permuted, as by a wrong page table: row {pairs}", "place", change)

    def _of_context(self, case: Case) -> Iterator[Variant]:
        """Rows of the context: what flows back to a query, or to keys, is of another one."""
        if case.what == "dq":
            yield from self._by_row(case)
        else:
            yield from self._by_page(case)

    def _by_row(self, case: Case) -> Iterator[Variant]:
        """Each query's gradient is made of the context's of the query that gives the nearest."""
        T, C = case.inputs.T, case.inputs.D
        if T * T * case.inputs.S > MOST_MATCHED or T < 2 or C < 4:
            return
        found: dict[tuple[int, int, int], int] = {}

        def source(batch: int, head: int, row: int) -> int:
            if (batch, head, row) not in found:
                one = self.variant("", "tensors", partial(_of_every, batch, head))
                made = compute(case.work(batch, head, torch.full((T,), row)), (one,), FIXED).out
                found[batch, head, row] = int(_nearest(case.given(batch, head, torch.tensor([row])), made))
            return found[batch, head, row]

        def change(work: Work) -> None:
            if work.grad is not None:
                order = torch.tensor([source(work.batch, work.head, row) for row in work.rows.tolist()])
                work.g = clean(work.grad[work.batch, work.head])[order]

        yield self.variant("rows of the context permuted, as by a wrong page table", "tensors", change)

    def _by_page(self, case: Case) -> Iterator[Variant]:
        """Pages of the context in the order of which sums over queries are made."""
        T, S = case.inputs.T, case.inputs.S
        if T * S * case.inputs.H // case.inputs.H_kv > _PAGED:
            return
        given = case.given(case.batch, case.head, torch.arange(case.length))
        for pages in (n for n in range(2, _PAGES + 1) if T % n == 0):
            order = _pages_of(case, given, pages)
            if order is not None:
                rows = torch.arange(T).reshape(pages, -1)[order].flatten()
                one = self.variant(f"pages of {T // pages} rows permuted: {order}", "place", partial(_from, rows))
                yield of_context(case, one)


_PAGED, _PAGES = 1 << 14, 8
"""Cells of maps, and pages, up to which the order of pages is read from sums over queries."""


def _from(rows: Tensor, work: Work) -> None:
    work.rows = rows[work.rows]


def _of_every(batch: int, head: int, work: Work) -> None:
    """A row for every query whose gradient it may have been made of."""
    if work.grad is not None:
        work.g = clean(work.grad[batch, head])


def _pages_of(case: Case, given: Tensor, pages: int) -> list[int] | None:
    """The page that each page of the context was, by least squares: sums are linear in what flows back; None where in no other order."""
    assert case.grad is not None
    whole = torch.stack([clean(case.grad[case.batch, head]) for head in range(case.inputs.H)])
    whole = whole.reshape(case.inputs.H, pages, -1, whole.shape[-1])
    parts = []
    for held in range(pages):
        for page in range(pages):
            grad = torch.zeros((case.inputs.B, *whole.shape), dtype=torch.float64)
            grad[case.batch, :, page] = whole[:, held]
            work = case.work(case.batch, case.head, torch.arange(case.length))
            work.grad = grad.flatten(2, 3)
            parts.append(compute(work, (), FIXED).out.flatten())
    shares = torch.linalg.lstsq(torch.stack(parts, 1), given.flatten()[:, None]).solution.reshape(pages, pages)
    order = shares.argmax(1)
    exact = torch.zeros_like(shares).scatter_(1, order[:, None], 1.0)
    if bool(((shares - exact).abs() > _SURE).any()) or len(order.unique()) < pages or bool((order.diff() == 1).all()):
        return None
    found: list[int] = order.tolist()
    return found


_SURE = 0.25
"""How far a page's share may be from all or nothing."""


def _nearest(given: Tensor, exact: Tensor) -> Tensor:
    """The row of ``exact`` that is nearest to each of ``given``, (n,)."""
    return torch.cdist(given.nan_to_num(posinf=0.0, neginf=0.0), exact.nan_to_num(posinf=0.0, neginf=0.0)).argmin(1)


class Transposed(Fault):
    """Weights or logits by key and query, not by query and key."""

    name = "map transposed"

    def variants(self, case: Case) -> Iterator[Variant]:
        T, S = case.inputs.T, case.inputs.S
        if case.what not in ("weights", "logits") or T != S or T * S > MOST_MATCHED:
            return
        whole: dict[tuple[int, int], Tensor] = {}

        def change(work: Work) -> None:
            place = work.batch, work.head
            if place not in whole:
                every = Work(work.inputs, work.pattern, *place, torch.arange(T), work.what)
                whole[place] = compute(every, (), case.rule).out
            work.out = whole[place].T[work.rows]

        yield self.variant("the map transposed: keys by queries", "output", change)
