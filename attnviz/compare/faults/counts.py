"""Mistakes in how often a key counts: left out, twice, or keys that are none."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from attnviz.attention.patterns import Both, Either, Pattern
from attnviz.compare.faults.fault import TILES, Case, Fault
from attnviz.compare.faults.terms import Runs, terms_of
from attnviz.compare.faults.work import Variant, Work
from attnviz.compare.gradients import GRADIENTS


class CountedTwice(Fault):
    """A key that two parts of the pattern make visible, the window and the global keys, counted once for each."""

    name = "key counted twice"

    def variants(self, case: Case) -> Iterator[Variant]:
        def own(work: Work) -> None:
            work.count = work.count * torch.where(work.distance == 0, 2.0, 1.0)

        if not case.item.cross:
            yield self.variant("the query's own key counted twice", "mask", own)
        if not any(isinstance(part, Either) for part in _inner(case.pattern)):
            return

        def change(work: Work) -> None:
            if not work.for_global:
                parts = [
                    p.visible(work.rows[:, None], torch.arange(work.item.S)[None, :], work.item)
                    for p in _either(work.pattern)
                ]
                work.count = work.count * torch.stack([part.double() for part in parts]).sum(0).clamp(min=1)

        yield self.variant(
            "each key counted once for each part of the pattern: global keys in the window twice", "mask", change
        )

    def fitted(self, case: Case) -> Iterator[Variant]:
        found = _nearest_tile(case, 1)
        if found is not None:
            yield _left_out(self, case, *found, times=2.0)


def _inner(pattern: Pattern) -> Iterator[Pattern]:
    yield pattern
    if isinstance(pattern, (Both, Either)):
        yield from _inner(pattern.left)
        yield from _inner(pattern.right)


def _either(pattern: Pattern) -> Iterator[Pattern]:
    """The parts of a union; what narrows it is in the count already."""
    if isinstance(pattern, Either):
        yield from _either(pattern.left)
        yield from _either(pattern.right)
    elif isinstance(pattern, Both) and any(isinstance(part, Either) for part in _inner(pattern)):
        side = pattern.left if any(isinstance(part, Either) for part in _inner(pattern.left)) else pattern.right
        yield from _either(side)
    else:
        yield pattern


class TileDropped(Fault):
    """Keys that are left out, or counted twice: the last tile, the tail, the first, any other, or one key."""

    name = "tile of keys left out"

    def variants(self, case: Case) -> Iterator[Variant]:
        for first, last in _ends(case.inputs.S):
            yield _left_out(self, case, first, last)

    def fitted(self, case: Case) -> Iterator[Variant]:
        found = _nearest_tile(case, -1)
        if found is not None:
            yield _left_out(self, case, *found)


def _ends(S: int) -> Iterator[tuple[int, int]]:
    """The tiles at both ends of S keys, and the key at either."""
    found = []
    for tile in (1, *TILES):
        found += [(S - (S % tile or min(tile, S)), S), (S - min(tile, S), S), (0, min(tile, S))]
    return (ends for ends in dict.fromkeys(found) if ends[1] - ends[0] < S)


def _nearest_tile(case: Case, sign: int) -> tuple[int, int] | None:
    """The keys without which, or with which twice, rows are nearest to the kernel's: at an end, in a tile, or one."""
    S, terms = case.inputs.S, terms_of(case)
    if terms is None:
        return None
    ends = [(first, S) for first in range(1, S)] + [(0, last) for last in range(1, S)]
    ends += [(first, min(first + tile, S)) for tile in (1, *TILES) for first in range(0, S, tile)]
    index = torch.arange(S).expand(terms.seen.shape)
    runs = Runs.of(terms, index, terms.seen)
    first, last = torch.tensor(ends).T
    found = terms.nearest(terms.off(terms.all()[:, None] + sign * runs.between(first, last - 1)))
    return None if found is None else ends[found]


def _left_out(fault: Fault, case: Case, first: int, last: int, times: float = 0.0) -> Variant:
    S = case.inputs.S

    def change(work: Work) -> None:
        work.count[:, first:last] *= times

    which = f"key {first}" if last - first == 1 else f"keys {first:,} to {last - 1:,}"
    how = "counted twice" if times else "left out"
    for tile in TILES if last - first > 1 else ():
        size, name = last - first, "the last" if last == S else "the first" if first == 0 else "a"
        if size == tile or (last == S and size == S % tile):
            name = "the last whole" if last == S and size == tile and S % tile else name
            return fault.variant(f"{which} {how}: {name} tile of {tile}?", "mask", change)
    return fault.variant(f"{which} {how}", "mask", change)


class EveryOther(Fault):
    """Every other key alone, or every so many, counted from a key or from the query; or all but those."""

    name = "every so many keys"

    def variants(self, case: Case) -> Iterator[Variant]:
        for step in range(2, _STEPS if case.what in GRADIENTS else 3):
            for first in range(step):
                yield self._of(step, first, by_distance=False)
            if not case.item.cross:
                yield self._of(step, 0, by_distance=True)

    def fitted(self, case: Case) -> Iterator[Variant]:
        if (terms := terms_of(case)) is None:
            return
        each = terms.seen[..., None] * terms.each()
        for by_distance in (False,) if case.item.cross else (False, True):
            place = (
                terms.before.distance.long() if by_distance else torch.arange(case.inputs.S).expand(terms.seen.shape)
            )
            ways = [(step, first) for step in range(2, min(_MOST_STEPS, case.inputs.S)) for first in range(step)]
            sums = torch.cat([_by_rest(each, place, step) for step in range(2, min(_MOST_STEPS, case.inputs.S))], 1)
            for sparse in (True, False):
                found = terms.nearest(terms.off(sums if sparse else terms.all()[:, None] - sums))
                if found is not None:
                    yield self._of(*ways[found], by_distance=by_distance, sparse=sparse)

    def _of(self, step: int, first: int, *, by_distance: bool, sparse: bool = True) -> Variant:
        def change(work: Work) -> None:
            place = work.distance if by_distance else torch.arange(work.item.S).expand(work.distance.shape)
            work.count = work.count * ((place % step == first) == sparse)

        which = "every other key" if step == 2 else f"every {step} keys one"
        since = f"{'the query' if by_distance else 'key 0'}{f' + {first}' if first else ''}"
        name = f"{which}, counted from {since}, {'seen alone' if sparse else 'left out'}"
        return self.variant(name, "mask", change)


_STEPS, _MOST_STEPS = 5, 33
"""Steps that are fewer: those that are tried, and those that are read from rows."""


def _by_rest(each: Tensor, place: Tensor, step: int) -> Tensor:
    """Sums of what keys add, (n, S, C), over those whose place, (n, S), leaves the same rest, (n, step, C)."""
    sums = torch.zeros(len(each), step, each.shape[2], dtype=each.dtype)
    return sums.scatter_add_(1, (place % step)[..., None].expand_as(each), each)


class OwnKeyHidden(Fault):
    """The query's own key hidden, where it is to be seen."""

    name = "own key left out"

    def variants(self, case: Case) -> Iterator[Variant]:
        def change(work: Work) -> None:
            work.count = work.count * (work.distance != 0)

        if not case.item.cross:
            yield self.variant("the query's own key left out", "mask", change)


class TailCounted(Fault):
    """The tail of the keys filled up to a whole tile, and counted: zeros, or the last key again."""

    name = "tail of keys counted"

    def variants(self, case: Case) -> Iterator[Variant]:
        S, counts = case.inputs.S, set()
        for tile in TILES:
            more = -S % tile or tile  # a tile more where the last is whole
            if more in counts:
                continue
            counts.add(more)

            def zeros(work: Work, more: int = more) -> None:
                total = torch.logsumexp(work.logits + torch.log(work.count), 1, keepdim=True)
                work.weights = work.weights * torch.sigmoid(total - math.log(more))

            def again(work: Work, more: int = more) -> None:
                work.count[:, -1] *= 1 + more

            yield self.variant(f"{more} keys of zeros after the last, counted: a tile of {tile}?", "weights", zeros)
            yield self.variant(f"the last key counted {more + 1} times: a tile of {tile}?", "mask", again)
