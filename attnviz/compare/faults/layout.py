"""Mistakes in which tensor, head, row or key is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from attnviz.attention.patterns import Local
from attnviz.compare.faults.fault import MOST_MATCHED, Case, Fault, leaves
from attnviz.compare.faults.masks import TILES
from attnviz.compare.faults.way import compute
from attnviz.compare.faults.work import Change, Variant, Work, clean

_HEADS = 64
"""Heads that are tried in place of another, at most."""


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


def _moved(head: Callable[[int], int] | None = None, batch: Callable[[int], int] | None = None) -> Change:
    def change(work: Work) -> None:
        work.head = work.head if head is None else head(work.head)
        work.batch = work.batch if batch is None else batch(work.batch)

    return change


def _always(number: int) -> Callable[[int], int]:
    return lambda _: number


def _shifted(by: int, size: int) -> Callable[[Tensor], Tensor]:
    return lambda index: (index + by).clamp(0, size - 1)


class HeadsSwapped(Fault):
    """The numbers of another head."""

    name = "heads swapped"
    of_sums = True

    def variants(self, case: Case) -> Iterator[Variant]:
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
        for head in range(min(H, _HEADS)):
            if head != case.head:
                yield self.variant(f"the numbers of head {head}", "place", _moved(head=_always(head)))


class BatchSwapped(Fault):
    """The numbers, or the keys, of another batch item."""

    name = "batch items swapped"
    of_sums = True

    def variants(self, case: Case) -> Iterator[Variant]:
        B = case.inputs.B
        for other in range(min(B, _HEADS)):
            if other == case.batch:
                continue
            yield self.variant(f"the numbers of batch item {other}", "place", _moved(batch=_always(other)))

            def keys(work: Work, other: int = other, names: str = "kv") -> None:
                for name in names:
                    tensor = getattr(work.inputs, name)
                    if tensor is not None:
                        setattr(work, name, clean(tensor[other, work.key_head]))

            yield self.variant(f"k and v of batch item {other}", "tensors", keys)
            if case.reads_values:
                for name in "kv":

                    def one(work: Work, other: int = other, name: str = name) -> None:
                        setattr(work, name, clean(getattr(work.inputs, name)[other, work.key_head]))

                    yield self.variant(f"{name} of batch item {other}", "tensors", one)


class RowsShifted(Fault):
    """Rows that hold another query's numbers, by a rule."""

    name = "rows shifted"

    def variants(self, case: Case) -> Iterator[Variant]:
        T, H = case.length, case.heads
        rules: dict[str, Callable[[Tensor], Tensor]] = {"queries in reverse": lambda t: T - 1 - t}
        for by in (1, -1, 2, -2):
            rules[f"query t{by:+d} in the row of query t"] = _shifted(by, T)
        for tile in TILES:
            if 2 * tile <= T:
                rules[f"tiles of {tile} queries swapped in pairs"] = partial(_swapped, tile=tile, size=T)
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


def _swapped(index: Tensor, tile: int, size: int) -> Tensor:
    other = (index // tile ^ 1) * tile + index % tile
    return torch.where(other < size, other, index)


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


class KeysMoved(Fault):
    """Keys and values in another order than the mask takes them in."""

    name = "keys in another order"

    def variants(self, case: Case) -> Iterator[Variant]:
        S = case.inputs.S
        rules: dict[str, Callable[[Tensor], Tensor]] = {"keys in reverse": lambda s: S - 1 - s}
        for by in (1, -1):
            rules[f"key s{by:+d} in the place of key s"] = _shifted(by, S)
        for tile in TILES:
            if 2 * tile <= S:
                rules[f"pages of {tile} keys swapped in pairs"] = partial(_swapped, tile=tile, size=S)
        for name, rule in rules.items():

            def change(work: Work, rule: Callable[[Tensor], Tensor] = rule) -> None:
                work.key_of = rule(torch.arange(S)).expand(work.distance.shape)

            yield self.variant(name, "tensors", change)
            for field in "kv" if case.what == "context" else "":

                def one(work: Work, rule: Callable[[Tensor], Tensor] = rule, field: str = field) -> None:
                    setattr(work, field, getattr(work, field)[rule(torch.arange(S))])

                yield self.variant(f"{name} of {field} alone", "tensors", one)


class StaleKeys(Fault):
    """A ring buffer read before it is written: the query's own key is the one that was there a turn before."""

    name = "stale keys of a ring buffer"

    def variants(self, case: Case) -> Iterator[Variant]:
        if case.item.cross:
            return
        widths = [part.window * part.dilation for part in leaves(case.pattern) if isinstance(part, Local)]
        sizes = {size for w in widths for size in (w, w + 1, 2 * w, 2 * w + 1)} | {16, 32, 64, 128, 256, 512, 1024}
        for size in sorted(size for size in sizes if 0 < size < case.inputs.S):

            def unwritten(work: Work, size: int = size) -> None:
                keys = torch.arange(work.item.S).expand(work.distance.shape).clone()
                own = (work.distance == 0) & (keys >= size)
                work.key_of = torch.where(own, keys - size, keys)

            def overwritten(work: Work, size: int = size) -> None:
                keys = torch.arange(work.item.S).expand(work.distance.shape).clone()
                turns = torch.div(-work.distance, size, rounding_mode="floor").clamp(min=0).long()
                work.key_of = keys + turns * size

            yield self.variant(
                f"the query's own key not yet written in a ring of {size}: that of {size} before", "tensors", unwritten
            )
            yield self.variant(f"a ring of {size} keys, written over: key s + {size} for key s", "tensors", overwritten)

        def zeros(work: Work) -> None:
            own = work.distance == 0
            work.logits = work.logits.masked_fill(own, 0.0)

        yield self.variant("the query's own key not yet written: zeros", "product", zeros)


class TensorsSwapped(Fault):
    """One tensor in the place of another."""

    name = "tensors swapped"

    def variants(self, case: Case) -> Iterator[Variant]:
        inputs = case.inputs
        if inputs.T == inputs.S and inputs.H_kv == inputs.H:

            def turned(work: Work) -> None:
                q, k = (clean(getattr(work.inputs, name)[work.batch, work.head]) for name in "qk")
                work.q, work.k = k[work.rows], q

            yield self.variant("q and k swapped: scores transposed", "tensors", turned)
        if not case.reads_values or inputs.v is None:
            return
        if inputs.v.shape[-1] == inputs.D:

            def keys(work: Work) -> None:
                work.v = work.k

            yield self.variant("k in the place of v", "tensors", keys)

            def values(work: Work) -> None:
                if work.v is not None:
                    work.k = work.v

            yield self.variant("v in the place of k", "tensors", values)


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
