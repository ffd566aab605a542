"""Mistakes in how far a query sees: causal masks, windows, dilations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from attnviz.attention.patterns import Causal, Full, Item, Local, Pattern
from attnviz.compare.faults.fault import TILES, Case, Fault
from attnviz.compare.faults.rules import Ruled, distance, instead, leaves, parts_of, rewritten
from attnviz.compare.faults.terms import Runs, terms_of
from attnviz.compare.faults.work import Variant


class Band:
    """How far keys are from queries in a pattern, and which other bounds give the numbers of the kernel."""

    def __init__(self, case: Case) -> None:
        parts = list(leaves(case.pattern))
        windows = [part for part in parts if isinstance(part, Local)]
        self.case, self.window = case, windows[0] if len(windows) == 1 else None
        self.causal = any(isinstance(part, Causal) for part in parts)
        self.step = 1 if self.window is None else self.window.dilation
        self.width = math.inf if self.window is None else self.window.window * self.step
        self.low, self.high = -self.width, 0.0 if self.causal else self.width
        self.terms = None if len(windows) > 1 or case.item.cross else terms_of(case)

    def under(self, low: float, high: float) -> Pattern:
        """The pattern with other bounds."""

        def seen(t: Tensor, s: Tensor, item: Item) -> Tensor:
            far = distance(t, s, item)
            return (far >= low) & (far <= high) & (far % self.step == 0)

        return self._with(Ruled(seen))

    def _with(self, other: Pattern) -> Pattern:
        """The pattern with another in the place of what says how far."""
        if self.window is None and not self.causal:
            return self.case.pattern & other

        def changed(part: Pattern) -> Pattern:
            own = isinstance(part, Causal if self.window is None else Local)
            return other if own else Full() if isinstance(part, Causal) else part

        return rewritten(self.case.pattern, changed)

    @cached_property
    def runs(self) -> Runs | None:
        """Sums over keys by distance, of those that bounds hide or show."""
        if self.terms is None:
            return None
        shown = []
        for pattern in (self.under(-math.inf, math.inf), self._with(Ruled(lambda t, s, item: (s < 0) & (t < 0)))):
            shown.append(self.terms.shown(lambda work, pattern=pattern: setattr(work, "pattern", pattern)))  # type: ignore[misc]
        return Runs.of(self.terms, self.terms.before.distance, shown[0] - shown[1], shown[1])

    def nearest(self, ends: Callable[[float], tuple[float, float]]) -> tuple[float, float] | None:
        """The bounds that are nearest to the kernel's, of those that distances give, the nearest to what is meant first."""
        runs = self.runs
        if runs is None:
            return None
        far = runs.terms.before.distance
        most = int(max(far.max(), -far.min())) + 1
        listed = sorted((ends(x) for x in range(-most, most + 1)), key=self._moved)
        # What reaches beyond every key has no end.
        listed = [both for both in (ends(-math.inf), ends(math.inf)) if not any(map(math.isnan, both))] + listed
        found = runs.nearest(*zip(*listed, strict=True))
        return None if found == (self.low, self.high) else found

    def _moved(self, ends: tuple[float, float]) -> float:
        """How far two bounds are from those that are meant."""
        low, high = ends
        return sum(abs(a - b) for a, b in ((low, self.low), (high, self.high)) if math.isfinite(a - b))

    def beside(self) -> tuple[float, float] | None:
        """Bounds that are both near those that are meant, each moved by itself."""
        runs = self.runs
        if runs is None:
            return None
        moves = [by * self.step for by in range(-_BESIDE, _BESIDE + 1)]
        ends = [(self.low + a, self.high + b) for a in moves for b in moves]
        return runs.nearest(*zip(*sorted(ends, key=self._moved), strict=True))

    def said(self, low: float, high: float) -> str:
        """What is seen within two bounds, and what is meant."""
        return f"keys from {_bound(low)} to {_bound(high)} seen, not from {_bound(self.low)} to {_bound(self.high)}"

    @classmethod
    def of(cls, case: Case) -> Band:
        """That of a case, which is made once."""
        key = "band", case.batch, case.head, case.beside
        if key not in case.known:
            case.known[key] = cls(case)
        found: Band = case.known[key]
        return found


def _bound(end: float) -> str:
    if math.isinf(end):
        return "the first" if end < 0 else "the last"
    return f"{abs(end):,.0f} {'after' if end > 0 else 'before'} the query" if end else "the query's own"


def _each(fault: Fault, band: Band, found: Iterable[tuple[float, float] | None]) -> Iterator[Variant]:
    """The mistake of each pair of bounds that were found, once."""
    for ends in dict.fromkeys(both for both in found if both is not None):
        yield fault.under(band.said(*ends), band.under(*ends))


_BESIDE = 8
"""Steps that both ends of a window are moved by at once."""


class CausalOffByOne(Fault):
    """The diagonal is hidden, or one key of the future seen."""

    name = "causal off by one"

    def variants(self, case: Case) -> Iterator[Variant]:
        if not any(isinstance(part, Causal) for part in leaves(case.pattern)):
            return
        rules = {
            "a causal mask without the query's own key": lambda t, s, item: distance(t, s, item) < 0,
            "a causal mask that sees one key of the future": lambda t, s, item: distance(t, s, item) <= 1,
            "a causal mask the wrong way round: the past is hidden": lambda t, s, item: distance(t, s, item) >= 0,
        }
        for name, rule in rules.items():
            yield self.under(name, instead(case.pattern, Causal(), Ruled(rule)))

    def fitted(self, case: Case) -> Iterator[Variant]:
        band = Band.of(case)
        found = None if band.window or not band.causal else band.nearest(lambda x: (band.low, x))
        if found is not None and abs(found[1]) != 1:
            yield self.under(band.said(*found), band.under(*found))


class WindowInstead(Fault):
    """A window where none is meant."""

    name = "window in its place"

    def variants(self, case: Case) -> Iterator[Variant]:
        return iter(())

    def fitted(self, case: Case) -> Iterator[Variant]:
        band = Band.of(case)
        if band.window is not None:
            return
        found = [band.nearest(lambda x: (x, band.high)), band.nearest(lambda x: (-x, x))]
        found += [band.nearest(lambda x: (x, 0.0)), band.nearest(lambda x: (0.0, x))]
        yield from _each(self, band, found)


class WindowSize(Fault):
    """A window one too narrow or too wide, or of a width that counts something else."""

    name = "window of another size"

    def variants(self, case: Case) -> Iterator[Variant]:
        for window in parts_of(case.pattern, Local):
            w, d = window.window, window.dilation
            sizes = {w - 1: "", w + 1: "", w // 2: ": is it the width of both sides?", 2 * w: ": is it of each side?"}
            sizes |= {(w - 1) // 2: ": is it the width of both sides?", 2 * w + 1: "", w - 2: "", w + 2: ""}
            for size, hint in sizes.items():
                if size >= 0 and size != w:
                    yield self.under(
                        f"a window of {size}, not {w}{hint}",
                        instead(case.pattern, window, Local(size, d)),
                        f"--window {size}",
                    )

    def fitted(self, case: Case) -> Iterator[Variant]:
        band = Band.of(case)
        if band.window is None:
            return
        found = band.nearest(lambda x: (-x, min(x, band.high)))
        size = -1 if found is None or math.isinf(found[0]) else int(-found[0]) // band.step
        if size >= 0:
            other = instead(case.pattern, band.window, Local(size, band.step))
            yield self.under(f"a window of {size}, not {band.window.window}", other, f"--window {size}")


class WindowSides(Fault):
    """A window to one side alone, or without one of its edges."""

    name = "window of other sides"

    def variants(self, case: Case) -> Iterator[Variant]:
        for window in parts_of(case.pattern, Local):
            w, d = window.window * window.dilation, window.dilation
            ends = {
                "a window to the left alone": (-w, 0),
                "a window to the right alone": (0, w),
                "a window without its left edge": (-w + d, w),
                "a window without its right edge": (-w, w - d),
                "a window one too wide on the left": (-w - d, w),
                "a window one too wide on the right": (-w, w + d),
            }
            for name, (low, high) in ends.items():

                def rule(t: Tensor, s: Tensor, item: Item, low: int = low, high: int = high, d: int = d) -> Tensor:
                    far = distance(t, s, item)
                    return (far >= low) & (far <= high) & (far % d == 0)

                yield self.under(name, instead(case.pattern, window, Ruled(rule)))

    def fitted(self, case: Case) -> Iterator[Variant]:
        band = Band.of(case)
        if band.window is None:
            return
        found = [band.nearest(lambda x: (band.low, x)), band.nearest(lambda x: (x, band.high)), band.beside()]
        found += [band.nearest(lambda x: (x, 0.0)), band.nearest(lambda x: (0.0, x))]
        found += [band.nearest(lambda x: (band.low + x, band.high + x))]
        yield from _each(self, band, found)


class Dilation(Fault):
    """A dilation left out, of another size or phase, or a window that is not as wide as it makes it."""

    name = "dilation"

    def variants(self, case: Case) -> Iterator[Variant]:
        for window in parts_of(case.pattern, Local):
            w, d = window.window, window.dilation
            if d == 1:
                for other in (2, 3, 4):
                    dilated = instead(case.pattern, window, Local(w, other))
                    yield self.under(f"a dilation of {other}, where none is meant", dilated, f"--dilation {other}")
                continue
            yield self.under("the dilation left out", instead(case.pattern, window, Local(w)), "--dilation 1")
            yield self.under("the gaps of the dilation filled", instead(case.pattern, window, Local(w * d)))
            for other in (d - 1, d + 1):
                if other > 1:
                    yield self.under(
                        f"a dilation of {other}, not {d}",
                        instead(case.pattern, window, Local(w, other)),
                        f"--dilation {other}",
                    )

            def near(t: Tensor, s: Tensor, item: Item, w: int = w, d: int = d) -> Tensor:
                far = distance(t, s, item)
                return (far.abs() <= w) & (far % d == 0)

            yield self.under("a window that the dilation does not widen", instead(case.pattern, window, Ruled(near)))
            for phase in range(1, min(d, 8)):

                def shifted(t: Tensor, s: Tensor, item: Item, w: int = w, d: int = d, phase: int = phase) -> Tensor:
                    far = distance(t, s, item)
                    return (far.abs() <= w * d) & (far % d == phase)

                yield self.under(f"a dilation {phase} off in phase", instead(case.pattern, window, Ruled(shifted)))

            def from_first(t: Tensor, s: Tensor, item: Item, w: int = w, d: int = d) -> Tensor:
                return (distance(t, s, item).abs() <= w * d) & (s % d == 0)

            yield self.under("a dilation counted from key 0", instead(case.pattern, window, Ruled(from_first)))


class MaskByTiles(Fault):
    """A causal mask of whole tiles: in the one on the diagonal nothing is hidden, or it is left out."""

    name = "mask of whole tiles"

    def variants(self, case: Case) -> Iterator[Variant]:
        for size in TILES:
            yield from self._of(case, 0, size)
            yield from self._of(case, 1, size)

    def fitted(self, case: Case) -> Iterator[Variant]:
        for before in (0, 1):
            size = _nearest_size(Band.of(case), before)
            if size is not None:
                yield from self._of(case, before, size)

    def _of(self, case: Case, before: int, size: int) -> Iterator[Variant]:
        if any(isinstance(part, Causal) for part in leaves(case.pattern)) and size < case.inputs.S:
            names = f"the future hidden in whole tiles of {size} alone", f"the tile of {size} on the diagonal left out"
            yield self.under(names[before], instead(case.pattern, Causal(), Ruled(_by_tiles(size, before))))


def _by_tiles(size: int, before: int) -> Callable[[Tensor, Tensor, Item], Tensor]:
    """Keys of tiles that are so many before the query's own, at least."""

    def seen(t: Tensor, s: Tensor, item: Item) -> Tensor:
        own, of_key = (
            torch.div(at, size, rounding_mode="floor") for at in (item.query_position(t), item.key_position(s))
        )
        return of_key <= own - before

    return seen


def _nearest_size(band: Band, before: int) -> int | None:
    """The size of tiles with which rows are nearest to the kernel's."""
    runs = band.runs
    if runs is None or band.window is not None or not band.causal:
        return None
    sizes = torch.arange(2, runs.terms.before.item.S)
    own = runs.terms.before.item.query_position(runs.terms.rows)[:, None]
    last = (torch.div(own, sizes, rounding_mode="floor") + 1 - before) * sizes - 1
    found = runs.place(torch.tensor([-torch.inf]), last - own)
    return None if found is None else int(sizes[found])
