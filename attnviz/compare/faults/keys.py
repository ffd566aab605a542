"""Mistakes in where keys and values are read from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from attnviz.attention.patterns import Local
from attnviz.compare.faults.fault import TILES, Case, Fault
from attnviz.compare.faults.orders import exchanged, paged, rolled, shifted, swapped
from attnviz.compare.faults.rules import leaves
from attnviz.compare.faults.terms import Terms, terms_of
from attnviz.compare.faults.work import Variant, Work


class KeysMoved(Fault):
    """Keys and values in another order than the mask takes them in."""

    name = "keys in another order"

    def variants(self, case: Case) -> Iterator[Variant]:
        S = case.inputs.S
        rules: dict[str, Callable[[Tensor], Tensor]] = {"keys in reverse": lambda s: S - 1 - s}
        for by in (1, -1):
            rules[f"key s{by:+d} in the place of key s"] = shifted(by, S)
        for tile in TILES:
            if 2 * tile <= S:
                rules[f"pages of {tile} keys swapped in pairs"] = partial(swapped, tile=tile, size=S)
        for name, rule in rules.items():
            yield self._of(name, "kv", rule)
            for fields in "kv" if case.what == "context" else "":
                yield self._of(name, fields, rule)

    def fitted(self, case: Case) -> Iterator[Variant]:
        if (terms := terms_of(case)) is None or terms.of_gradient:
            return
        for fields in ("kv", "k", "v") if case.what == "context" else ("kv",):
            for name, index in self._nearest(terms, fields):
                yield self._of(name, fields, index)
            if not case.beside:
                yield from self._ordered(case, fields)

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
        for name, rule in (("key s{:+d}", shifted), ("key s{:+d}, round the end,", rolled)):
            moves = [by for size in (*range(1, _MOVES), *TILES) for by in (size, -size) if size < S]
            found = moved.nearest([rule(by, S)(torch.arange(S)) for by in moves])
            if found is not None:
                yield f"{name.format(moves[found])} in the place of key s", rule(moves[found], S)
        for tile in TILES:
            if 2 * tile <= S <= _PAGES * tile:
                pages = moved.exchanged(tile)
                if pages is not None:
                    name = "pages {} and {} of {} keys exchanged"
                    yield name.format(*pages, tile), partial(exchanged, pages=pages, tile=tile)

    def _ordered(self, case: Case, fields: str) -> Iterator[Variant]:
        """Pages in any order, the largest that explain the numbers first."""
        T, S = case.inputs.T, case.inputs.S
        terms = terms_of(case, torch.linspace(0, T - 1, min(T, _TABLED)).round().long())
        if terms is None:
            return
        for tile in reversed(TILES):
            table = Moved(terms, fields).table(tile) if 3 * tile <= S < (_TABLE + 1) * tile else None
            if table is not None:
                name = f"pages of {tile} keys in the order {', '.join(map(str, table))}"
                yield self._of(name, fields, partial(paged, table=table, tile=tile))


_TABLED, _TABLE = 128, 12
"""Rows that an order of pages is read from, and the most pages."""

_MOVES = 17
"""Keys that others are moved by, fewer than so many, or a tile."""

_PAGES = 64
"""Pages any two of which may have been exchanged."""


class Moved:
    """Rows whose keys, values or both are read from other places: sums over them, for many orders at once."""

    def __init__(self, terms: Terms, fields: str) -> None:
        self.terms, self.fields = terms, fields

    def each(self, index: Tensor) -> Tensor:
        """What keys add in the places of others, (n, S, W): place s holds key ``index[s]``, (S,)."""
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
        change = torch.stack(moved, 1)  # (n, pages - 1, pages, W), by how many pages, and the place
        pairs = [(i, j) for i in range(pages) for j in range(i + 1, pages)]
        one, other = torch.tensor(pairs).T
        sums = terms.all()[:, None] + change[:, other - one - 1, one] + change[:, pages - (other - one) - 1, other]
        found = terms.nearest(terms.off(sums))
        return None if found is None else pairs[found]

    def table(self, tile: int) -> list[int] | None:
        """The page that each place holds, by least squares: sums are linear in which is where; None where in no other order."""
        terms, S = self.terms, self.terms.before.item.S
        pages, index = S // tile, torch.arange(S)
        # What each place would hold, with the page that is 0, 1, ... after its own: (n, places, pages, W).
        held = torch.stack(
            [
                _by_page(terms.seen[..., None] * self.each((index + by * tile) % (pages * tile)), tile)
                for by in range(pages)
            ],
            2,
        )
        own = terms.all()
        rest = own - held[:, :, 0].sum(1)  # of keys that are in no whole page
        left = terms.left(held) / own[:, None, None, -1:]
        wanted = (terms.wanted - terms.left(rest)) / own[:, -1:]
        each_place = torch.eye(pages, dtype=left.dtype).repeat_interleave(pages, 1)
        page = (torch.arange(pages)[:, None] + torch.arange(pages)) % pages
        each_page = (page.flatten() == torch.arange(pages)[:, None]).to(left.dtype)
        equations = torch.cat([left.permute(0, 3, 1, 2).reshape(-1, pages**2), each_place, each_page])
        ones = torch.ones(2 * pages, dtype=left.dtype)
        shares = torch.linalg.lstsq(equations, torch.cat([wanted.flatten(), ones])[:, None], driver="gelsd").solution
        found = page.gather(1, shares.reshape(pages, pages).argmax(1)[:, None])[:, 0]
        order: list[int] = found.tolist()
        return None if sorted(order) != [*range(pages)] or order == [*range(pages)] else order


def _by_page(each: Tensor, tile: int) -> Tensor:
    """Sums over whole pages, (n, pages, W), of what keys add, (n, S, W)."""
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
            if case.what == "weights":  # that may lie where the key stood that was read

                def moved(work: Work, size: int = size) -> None:
                    read = torch.zeros_like(work.count).scatter_add_(1, _stale(work, size, 1), work.count)
                    work.count = read

                yield self.variant(
                    f"the query's own key not yet written in a ring of {size}, its weight that of {size} before",
                    "mask",
                    moved,
                )

        def zeros(work: Work) -> None:
            own = work.distance == 0
            work.logits = work.logits.masked_fill(own, 0.0)

        yield self.variant("the query's own key not yet written: zeros", "product", zeros)

    def fitted(self, case: Case) -> Iterator[Variant]:
        """A ring of any size whose last few keys are not yet written."""
        terms = terms_of(case)
        if terms is None or terms.of_gradient or case.item.cross:
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
    """The sums of rows, (n, m, W), that rings of 1 to S - 1 keys give that are 1 key behind, 2, ..."""
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
