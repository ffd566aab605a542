"""Mistakes in which head, or which batch item, is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations

import torch

from attnviz.compare.faults.fault import Case, Fault
from attnviz.compare.faults.way import compute
from attnviz.compare.faults.work import Change, Variant, Work, clean
from attnviz.compare.gradients import GRADIENTS
from attnviz.compare.rounding import FIXED

_HEADS, _PAIRS = 64, 8
"""Heads that are tried in place of another, at most, and of which any two are exchanged."""


class KeyHeads(Fault):
    """Query heads that read other key heads: interleaved where they are grouped."""

    name = "grouped-query heads"

    def variants(self, case: Case) -> Iterator[Variant]:
        H, H_kv = case.inputs.H, case.inputs.H_kv
        if H_kv == 1:
            return
        rules: dict[str, Callable[[int], int]] = {
            f"key head h % {H_kv}, not h // {H // H_kv}: interleaved, not grouped": lambda h: h % H_kv,
            "the first key head for every head": lambda h: 0,
            "the last key head for every head": lambda h: H_kv - 1,
            "key heads in reverse": lambda h: H_kv - 1 - h // (H // H_kv),
            "the next key head": lambda h: (h // (H // H_kv) + 1) % H_kv,
        }
        which = {"": ("key_head", "value_head"), " of v alone": ("value_head",), " of k alone": ("key_head",)}
        for name, rule in rules.items():
            for whose, fields in which.items():
                if not case.reads_values and fields != ("key_head", "value_head"):
                    continue
                if "interleaved" in name and H_kv == H:
                    continue

                def change(work: Work, rule: Callable[[int], int] = rule, fields: tuple[str, ...] = fields) -> None:
                    for field in fields:
                        setattr(work, field, rule(work.head))

                yield self.variant(f"{name}{whose}", "settings", change)
        for whose, fields in which.items():
            if case.reads_values or len(fields) == 2:
                yield self._in_another_order(case, whose, fields)

    def _in_another_order(self, case: Case, whose: str, fields: tuple[str, ...]) -> Variant:
        """Each head reads the key head whose numbers its rows are nearest to."""

        def read(work: Work, key_head: int) -> None:
            for field in fields:
                setattr(work, field, key_head)

        order = Order(case, range(case.inputs.H_kv), lambda work: work.head, self, "settings", read)
        return self.variant(f"key heads{whose} in another order: {order.said('head')}", "settings", order.change)


class Order:
    """Which of several things each head's, or item's, rows are nearest to: found for each when it is asked for."""

    def __init__(
        self,
        case: Case,
        choices: Sequence[int],
        place: Callable[[Work], int],
        fault: Fault,
        step: str,
        read: Callable[[Work, int], None],
    ) -> None:
        """``place``: which it is of; ``read``: makes rows of one of the choices, as a change of ``step``."""
        self.case, self.choices, self.place, self.fault, self.step, self.read = case, choices, place, fault, step, read
        self.found: dict[tuple[int, int], int] = {}

    def change(self, work: Work) -> None:
        """Takes the rows from where they are nearest."""
        self.read(work, self._nearest(work.batch, work.head))

    def said(self, noun: str) -> str:
        """Where the rows of the case are from."""
        case = self.case
        own = self.place(case.work(case.batch, case.head, torch.tensor(case.rows)))
        return f"{noun} {own} reads {self._nearest(case.batch, case.head)}"

    def _nearest(self, batch: int, head: int) -> int:
        if (batch, head) not in self.found:
            case, rows = self.case, torch.tensor(self.case.rows[:_FEW])
            given = case.given(batch, head, rows)
            off = []
            for choice in self.choices[:_HEADS]:
                one = self.fault.variant("", self.step, partial(_swap, self.read, choice))
                made = compute(case.work(batch, head, rows), (one,), FIXED).out
                off.append(
                    float((made - given).nan_to_num().square().mean()) if made.shape == given.shape else math.inf
                )
            self.found[batch, head] = self.choices[off.index(min(off))]
        return self.found[batch, head]


def _swap(read: Callable[[Work, int], None], choice: int, work: Work) -> None:
    read(work, choice)


_FEW = 3
"""Rows by which heads are told apart."""


def _moved(head: Callable[[int], int] | None = None, batch: Callable[[int], int] | None = None) -> Change:
    def change(work: Work) -> None:
        work.head = work.head if head is None else head(work.head)
        work.batch = work.batch if batch is None else batch(work.batch)

    return change


def _read(to: dict[int, int], number: int) -> int:
    return to.get(number, number)


def _always(number: int) -> Callable[[int], int]:
    return lambda _: number


class HeadsSwapped(Fault):
    """The numbers of another head."""

    name = "heads swapped"
    of_sums = True

    def moves(self, case: Case) -> Iterator[Variant]:
        H = case.heads
        rules: dict[str, Callable[[int], int]] = {
            "heads in reverse": lambda h: H - 1 - h,
            "heads swapped in pairs": lambda h: h ^ 1 if (h ^ 1) < H else h,
            "the next head's numbers": lambda h: (h + 1) % H,
            "the head before's numbers": lambda h: (h - 1) % H,
            "the first head's numbers for every head": lambda h: 0,
        }
        for name, rule in rules.items() if H > 1 else ():
            yield self.variant(name, "place", _moved(head=rule))
        for one, other in combinations(range(H if 2 < H <= _PAIRS else 0), 2):
            to = {one: other, other: one}
            yield self.variant(f"heads {one} and {other} exchanged", "place", _moved(head=partial(_read, to)))

    def variants(self, case: Case) -> Iterator[Variant]:
        yield from self.moves(case)
        H = case.heads
        if H > 1:
            order = Order(case, range(H), lambda work: work.head, self, "place", _to_head)
            yield self.variant(f"heads in another order: {order.said('head')}", "place", order.change)
        if case.what in GRADIENTS and H > 1 and H == case.inputs.H:
            order = Order(case, range(H), lambda work: work.head, self, "tensors", _gradient_of)
            yield self.variant(f"heads of the context in another order: {order.said('head')}", "tensors", order.change)
        if H > 1 and not case.of_keys:
            order = Order(case, range(H), lambda work: work.head, self, "tensors", _query_of)
            yield self.variant(f"q's heads in another order: {order.said('head')}", "tensors", order.change)


def _to_head(work: Work, head: int) -> None:
    work.head = head


def _gradient_of(work: Work, head: int) -> None:
    if work.grad is not None:
        work.g = clean(work.grad[work.batch, head])[work.rows]


def _query_of(work: Work, head: int) -> None:
    work.q = work.tensor("q", work.batch, head)[work.rows]


class BatchSwapped(Fault):
    """The numbers, or the keys, of another batch item."""

    name = "batch items swapped"
    of_sums = True

    def moves(self, case: Case) -> Iterator[Variant]:
        B = case.inputs.B
        if B > 1:
            yield self.variant("batch items in reverse", "place", _moved(batch=lambda b: B - 1 - b))
        for other in range(min(B, _HEADS)):
            if other != case.batch:
                yield self.variant(f"the numbers of batch item {other}", "place", _moved(batch=_always(other)))

    def variants(self, case: Case) -> Iterator[Variant]:
        yield from self.moves(case)
        B = case.inputs.B
        if B > 1:
            order = Order(case, range(B), lambda work: work.batch, self, "place", _to_item)
            yield self.variant(f"batch items in another order: {order.said('item')}", "place", order.change)
        for other in range(min(B, _HEADS)):
            if other == case.batch:
                continue

            def keys(work: Work, other: int = other, names: str = "kv") -> None:
                for name in names:
                    tensor = getattr(work.inputs, name)
                    if tensor is not None:
                        setattr(work, name, clean(tensor[other, work.key_head]))

            yield self.variant(f"k and v of batch item {other}", "tensors", keys)

            def queries(work: Work, other: int = other) -> None:
                work.q = work.tensor("q", other, work.head)[work.rows]

            if not case.of_keys:
                yield self.variant(f"q of batch item {other}", "tensors", queries)
            if case.reads_values:
                for name in "kv":

                    def one(work: Work, other: int = other, name: str = name) -> None:
                        setattr(work, name, clean(getattr(work.inputs, name)[other, work.key_head]))

                    yield self.variant(f"{name} of batch item {other}", "tensors", one)


def _to_item(work: Work, batch: int) -> None:
    work.batch = batch
