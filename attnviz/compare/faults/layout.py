"""Mistakes in which tensor, head, row or key is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from attnviz.attention.patterns import Local
from attnviz.compare.faults.fault import MOST_MATCHED, Case, Fault, leaves
from attnviz.compare.faults.masks import TILES
from attnviz.compare.faults.terms import Terms, terms_of
from attnviz.compare.faults.way import compute
from attnviz.compare.faults.work import Change, Variant, Work, clean
from attnviz.compare.rounding import FIXED

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
        if H > 1:
            order = Order(case, range(H), lambda work: work.head, self, "place", _to_head)
            yield self.variant(f"heads in another order: {order.said('head')}", "place", order.change)
        if H > 1 and not case.of_keys:
            order = Order(case, range(H), lambda work: work.head, self, "tensors", _query_of)
            yield self.variant(f"q's heads in another order: {order.said('head')}", "tensors", order.change)


def _to_head(work: Work, head: int) -> None:
    work.head = head


def _query_of(work: Work, head: int) -> None:
    work.q = work.tensor("q", work.batch, head)[work.rows]


class BatchSwapped(Fault):
    """The numbers, or the keys, of another batch item."""

    name = "batch items swapped"
    of_sums = True

    def variants(self, case: Case) -> Iterator[Variant]:
        B = case.inputs.B
        if B > 1:
            order = Order(case, range(B), lambda work: work.batch, self, "place", _to_item)
            yield self.variant(f"batch items in another order: {order.said('item')}", "place", order.change)
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
            yield self._of(name, "kv", rule)
            for fields in "kv" if case.what == "context" else "":
                yield self._of(name, fields, rule)

    def fitted(self, case: Case) -> Iterator[Variant]:
        if (terms := terms_of(case)) is None:
            return
        for fields in ("kv", "k", "v") if case.what == "context" else ("kv",):
            for name, index in self._nearest(terms, fields):
                yield self._of(name, fields, index)

    def _of(self, name: str, fields: str, rule: Callable[[Tensor], Tensor]) -> Variant:
        """Other keys in the place of k and v, or of one of them."""

        def change(work: Work) -> None:
            keys = rule(torch.arange(work.item.S))
            if fields == "kv":
                work.key_of = keys.expand(work.distance.shape)
            else:
                setattr(work, fields, getattr(work, fields)[keys])

        return self.variant(name if fields == "kv" else f"{name} of {fields} alone", "tensors", change)

    def _nearest(self, terms: Terms, fields: str) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """Keys moved by any number, and any two pages exchanged, as is nearest to the kernel's rows."""
        moved = Moved(terms, fields)
        S = terms.before.item.S
        for name, rule in (("key s{:+d}", _shifted), ("key s{:+d}, round the end,", _rolled)):
            moves = [by for size in (*range(1, _MOVES), *TILES) for by in (size, -size) if size < S]
            found = moved.nearest([rule(by, S)(torch.arange(S)) for by in moves])
            if found is not None:
                yield f"{name.format(moves[found])} in the place of key s", rule(moves[found], S)
        for tile in TILES:
            if 2 * tile <= S <= _PAGES * tile:
                pages = moved.exchanged(tile)
                if pages is not None:
                    name = "pages {} and {} of {} keys exchanged"
                    yield name.format(*pages, tile), partial(_exchanged, pages=pages, tile=tile)


_MOVES = 17
"""Keys that others are moved by, fewer than so many, or a tile."""

_PAGES = 64
"""Pages any two of which may have been exchanged."""


def _rolled(by: int, size: int) -> Callable[[Tensor], Tensor]:
    return lambda index: (index + by) % size


def _exchanged(index: Tensor, pages: tuple[int, int], tile: int) -> Tensor:
    """The key that each is when two pages have changed places."""
    one, other = pages
    to = torch.where(index // tile == one, other, torch.where(index // tile == other, one, index // tile))
    return to * tile + index % tile


class Moved:
    """Rows whose keys, values or both are read from other places: sums over them, for many orders at once."""

    def __init__(self, terms: Terms, fields: str) -> None:
        self.terms, self.fields = terms, fields

    def each(self, index: Tensor) -> Tensor:
        """What keys add in the places of others, (n, S, C + 1): place s holds key ``index[s]``, (S,)."""
        terms = self.terms
        logits = terms.read[:, index] + terms.added if "k" in self.fields else None
        return terms.each(logits, terms.values[index] if "v" in self.fields and terms.by_key else None)

    def nearest(self, orders: Sequence[Tensor]) -> int | None:
        """Which of several orders, (S,) each, is nearest to the kernel's rows."""
        return self.terms.nearest(torch.stack([self.terms.off(self.terms.all(each=self.each(one))) for one in orders]))

    def exchanged(self, tile: int) -> tuple[int, int] | None:
        """Which two whole pages have changed places."""
        terms, S = self.terms, self.terms.before.item.S
        pages, index = S // tile, torch.arange(S)
        # What page i adds where page (i + by) stands, for each i: the sums of both places of a pair say what exchanging does.
        own = _by_page(terms.seen[..., None] * terms.each(), tile)
        moved = []
        for by in range(1, pages):
            held = _by_page(terms.seen[..., None] * self.each((index + by * tile) % (pages * tile)), tile)
            moved.append(held - own)
        change = torch.stack(moved, 1)  # (n, pages - 1, pages, C + 1), by how many pages, and the place
        pairs = [(i, j) for i in range(pages) for j in range(i + 1, pages)]
        one, other = torch.tensor(pairs).T
        sums = terms.all()[:, None] + change[:, other - one - 1, one] + change[:, pages - (other - one) - 1, other]
        found = terms.nearest(terms.off(sums))
        return None if found is None else pairs[found]


def _by_page(each: Tensor, tile: int) -> Tensor:
    """Sums over whole pages, (n, pages, C + 1), of what keys add, (n, S, C + 1)."""
    pages = each.shape[1] // tile
    return each[:, : pages * tile].reshape(len(each), pages, tile, -1).sum(2)


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
                work.key_of = _stale(work, size, 1)

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

    def fitted(self, case: Case) -> Iterator[Variant]:
        """A ring of any size whose last few keys are not yet written."""
        terms = terms_of(case)
        if terms is None or case.item.cross:
            return
        sums = _behind(terms)
        found = terms.nearest(terms.off(sums))
        if found is None:
            return
        late, size = found // (case.inputs.S - 1) + 1, found % (case.inputs.S - 1) + 1

        def change(work: Work) -> None:
            work.key_of = _stale(work, size, late)

        which = "the query's own key" if late == 1 else f"the last {late} keys"
        yield self.variant(
            f"{which} not yet written in a ring of {size}: {'that' if late == 1 else 'those'} of {size} before",
            "tensors",
            change,
        )


def _behind(terms: Terms) -> Tensor:
    """The sums of rows, (n, m, C + 1), that rings of 1 to S - 1 keys give that are 1 key behind, 2, ..."""
    S, each = terms.before.item.S, terms.each()
    rows, own = torch.arange(len(each))[:, None], (terms.before.distance == 0).double().argmax(1)[:, None]
    there = (terms.before.distance == 0).any(1)[:, None]
    sums = [terms.all()[:, None].expand(-1, S - 1, -1)]
    for late in range(min(_LATE, S - 1)):
        place = own - late
        source = place - torch.arange(1, S)
        some = (source >= 0) & there
        place, source = place.clamp(min=0), source.clamp(min=0)
        stale = torch.exp(terms.read.gather(1, source) + terms.added.gather(1, place) - terms.peak)[..., None]
        values = terms.values[source if terms.by_key else place.expand(source.shape)]
        change = torch.cat([stale * values, stale], -1) - each[rows, place]
        sums.append(sums[-1] + change * (some * terms.seen.gather(1, place))[..., None])
    return torch.cat(sums[1:], 1)


_LATE = 4
"""Keys that are not yet written, at most."""


def _stale(work: Work, size: int, late: int) -> Tensor:
    """(n, S) which key is read for each, in a ring of ``size`` that is ``late`` keys behind."""
    keys = torch.arange(work.item.S).expand(work.distance.shape).clone()
    behind = (work.distance > -late) & (work.distance <= 0) & (keys >= size)
    return torch.where(behind, keys - size, keys)


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
