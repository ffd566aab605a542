"""Mistakes in which row holds a query's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from attnviz.compare.faults.fault import MOST_MATCHED, TILES, Case, Fault
from attnviz.compare.faults.orders import shifted, swapped
from attnviz.compare.faults.way import compute
from attnviz.compare.faults.work import Variant, Work


class RowsShifted(Fault):
    """Rows that hold another query's numbers, by a rule."""

    name = "rows shifted"

    def variants(self, case: Case) -> Iterator[Variant]:
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
