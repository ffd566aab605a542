"""Mistakes in which key a query sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from attnviz.attention.patterns import (
    Both,
    Causal,
    Chunked,
    Either,
    Full,
    GlobalKeys,
    Item,
    Local,
    Masked,
    MaskMod,
    Pattern,
    Prefix,
)
from attnviz.compare.faults.fault import Case, Fault, Read, Ruled, leaves, rewritten, without
from attnviz.compare.faults.terms import Runs, least, terms_of
from attnviz.compare.faults.work import Change, Variant, Work

TILES = (8, 16, 24, 32, 48, 64, 80, 96, 128, 192, 256, 512)
"""Keys or queries that a kernel takes together."""


def _windows(case: Case) -> list[Local]:
    return [part for part in leaves(case.pattern) if isinstance(part, Local)]


def _instead(pattern: Pattern, part: Pattern, other: Pattern) -> Pattern:
    """The pattern with another in the place of one of its parts."""
    return rewritten(pattern, lambda one: other if one == part else one)


def _with(case: Case, window: Local, other: Pattern) -> Pattern:
    return _instead(case.pattern, window, other)


def _far(t: Tensor, s: Tensor, item: Item) -> Tensor:
    return item.key_position(s) - item.query_position(t)


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
            far = _far(t, s, item)
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
        key = "band", case.batch, case.head
        if key not in case.known:
            case.known[key] = cls(case)
        found: Band = case.known[key]
        return found


def _bound(end: float) -> str:
    if math.isinf(end):
        return "the first" if end < 0 else "the last"
    return f"{abs(end):,.0f} {'after' if end > 0 else 'before'} the query" if end else "the query's own"


_BESIDE = 8
"""Steps that both ends of a window are moved by at once."""


class MaskLeftOut(Fault):
    """No mask at all."""

    name = "mask left out"

    def variants(self, case: Case) -> Iterator[Variant]:
        if not isinstance(case.pattern, Full):
            yield self.under("pattern='full': is the mask left out?", Full(), "--pattern full")


class CausalInstead(Fault):
    """A causal mask where none is meant, or in place of what is."""

    name = "causal in its place"

    def variants(self, case: Case) -> Iterator[Variant]:
        if case.item.cross or case.pattern == Causal():
            return
        yield self.under("pattern='causal'", Causal(), "--pattern causal")
        if not isinstance(case.pattern, Full) and not any(isinstance(part, Causal) for part in leaves(case.pattern)):
            yield self.under(f"{case.pattern}, and the future hidden", case.pattern & Causal(), "--causal")


class CausalOffByOne(Fault):
    """The diagonal is hidden, or one key of the future seen."""

    name = "causal off by one"

    def variants(self, case: Case) -> Iterator[Variant]:
        if not any(isinstance(part, Causal) for part in leaves(case.pattern)):
            return
        rules = {
            "a causal mask without the query's own key": lambda t, s, item: _far(t, s, item) < 0,
            "a causal mask that sees one key of the future": lambda t, s, item: _far(t, s, item) <= 1,
            "a causal mask the wrong way round: the past is hidden": lambda t, s, item: _far(t, s, item) >= 0,
        }
        for name, rule in rules.items():
            yield self.under(name, _instead(case.pattern, Causal(), Ruled(rule)))

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
        for ends in dict.fromkeys(both for both in found if both is not None):
            yield self.under(band.said(*ends), band.under(*ends))


class AlignedToFirst(Fault):
    """Order counted from the first key, where the queries are the last positions."""

    name = "aligned to the first key"

    def variants(self, case: Case) -> Iterator[Variant]:
        if case.item.cross or case.item.offset == 0:
            return

        def aligned(part: Pattern) -> Pattern:
            if isinstance(part, Causal):
                return Ruled(lambda t, s, item: s <= t)
            if isinstance(part, Local):
                width, step = part.window * part.dilation, part.dilation
                return Ruled(lambda t, s, item: ((s - t).abs() <= width) & ((s - t) % step == 0))
            if isinstance(part, Chunked):
                size = part.size
                return Ruled(lambda t, s, item: t // size == s // size)
            if isinstance(part, Prefix):
                n = part.of(case.item)
                return Ruled(lambda t, s, item: (s <= t) | (s < n))
            return part

        if any(isinstance(part, (Causal, Local, Chunked, Prefix)) for part in leaves(case.pattern)):
            noun = "a causal mask" if case.pattern == Causal() else "the pattern"
            yield self.under(f"{noun} aligned to the first key, not to the last", rewritten(case.pattern, aligned))


class WindowSize(Fault):
    """A window one too narrow or too wide, or of a width that counts something else."""

    name = "window of another size"

    def variants(self, case: Case) -> Iterator[Variant]:
        for window in _windows(case):
            w, d = window.window, window.dilation
            sizes = {w - 1: "", w + 1: "", w // 2: ": is it the width of both sides?", 2 * w: ": is it of each side?"}
            sizes |= {(w - 1) // 2: ": is it the width of both sides?", 2 * w + 1: "", w - 2: "", w + 2: ""}
            for size, hint in sizes.items():
                if size >= 0 and size != w:
                    yield self.under(
                        f"a window of {size}, not {w}{hint}", _with(case, window, Local(size, d)), f"--window {size}"
                    )

    def fitted(self, case: Case) -> Iterator[Variant]:
        band = Band.of(case)
        if band.window is None:
            return
        found = band.nearest(lambda x: (-x, min(x, band.high)))
        size = -1 if found is None or math.isinf(found[0]) else int(-found[0]) // band.step
        if size >= 0:
            other = _with(case, band.window, Local(size, band.step))
            yield self.under(f"a window of {size}, not {band.window.window}", other, f"--window {size}")


class WindowSides(Fault):
    """A window to one side alone, or without one of its edges."""

    name = "window of other sides"

    def variants(self, case: Case) -> Iterator[Variant]:
        for window in _windows(case):
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
                    far = _far(t, s, item)
                    return (far >= low) & (far <= high) & (far % d == 0)

                yield self.under(name, _with(case, window, Ruled(rule)))

    def fitted(self, case: Case) -> Iterator[Variant]:
        band = Band.of(case)
        if band.window is None:
            return
        found = [band.nearest(lambda x: (band.low, x)), band.nearest(lambda x: (x, band.high)), band.beside()]
        found += [band.nearest(lambda x: (x, 0.0)), band.nearest(lambda x: (0.0, x))]
        found += [band.nearest(lambda x: (band.low + x, band.high + x))]
        for reach in dict.fromkeys(both for both in found if both is not None):
            yield self.under(band.said(*reach), band.under(*reach))


class Dilation(Fault):
    """A dilation left out, of another size or phase, or a window that is not as wide as it makes it."""

    name = "dilation"

    def variants(self, case: Case) -> Iterator[Variant]:
        for window in _windows(case):
            w, d = window.window, window.dilation
            if d == 1:
                continue
            yield self.under("the dilation left out", _with(case, window, Local(w)), "--dilation 1")
            yield self.under("the gaps of the dilation filled", _with(case, window, Local(w * d)))
            for other in (d - 1, d + 1):
                if other > 1:
                    yield self.under(
                        f"a dilation of {other}, not {d}", _with(case, window, Local(w, other)), f"--dilation {other}"
                    )

            def near(t: Tensor, s: Tensor, item: Item, w: int = w, d: int = d) -> Tensor:
                far = _far(t, s, item)
                return (far.abs() <= w) & (far % d == 0)

            yield self.under("a window that the dilation does not widen", _with(case, window, Ruled(near)))
            for phase in range(1, min(d, 8)):

                def shifted(t: Tensor, s: Tensor, item: Item, w: int = w, d: int = d, phase: int = phase) -> Tensor:
                    far = _far(t, s, item)
                    return (far.abs() <= w * d) & (far % d == phase)

                yield self.under(f"a dilation {phase} off in phase", _with(case, window, Ruled(shifted)))

            def from_first(t: Tensor, s: Tensor, item: Item, w: int = w, d: int = d) -> Tensor:
                return (_far(t, s, item).abs() <= w * d) & (s % d == 0)

            yield self.under("a dilation counted from key 0", _with(case, window, Ruled(from_first)))


class MaskInverted(Fault):
    """True and False of the mask swapped."""

    name = "mask inverted"

    def variants(self, case: Case) -> Iterator[Variant]:
        def inverted(part: Pattern) -> Pattern:
            return Read(part, lambda part, t, s, item: ~part.visible(t, s, item))

        if isinstance(case.pattern, Full):
            return
        yield self.under("the mask inverted: True hides", inverted(case.pattern))
        if any(isinstance(part, Masked) for part in leaves(case.pattern)) and not isinstance(case.pattern, Masked):
            own = rewritten(case.pattern, lambda part: inverted(part) if isinstance(part, Masked) else part)
            yield self.under("the own mask inverted: True hides", own)


class MaskTransposed(Fault):
    """A mask read by key and query, not by query and key."""

    name = "mask transposed"

    def variants(self, case: Case) -> Iterator[Variant]:
        if case.inputs.T != case.inputs.S:
            return
        for part in leaves(case.pattern):
            if isinstance(part, (Masked, MaskMod)):
                turned = Read(part, lambda part, t, s, item: part.visible(s, t, item))
                yield self.under("the mask transposed", _instead(case.pattern, part, turned))


class PartLeftOut(Fault):
    """A part of the pattern left out: the documents, the global keys, the window."""

    name = "part of the pattern left out"

    def variants(self, case: Case) -> Iterator[Variant]:
        for rest, part in without(case.pattern):
            yield self.under(f"{part} left out of the pattern", rest)


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


class Projections(Fault):
    """Rows of global queries by the projections of plain ones, or the other way round."""

    name = "projections of global queries"

    def variants(self, case: Case) -> Iterator[Variant]:
        if not case.pattern.global_queries or case.inputs.q_global is None:
            return

        def taking(names: str, of_global: bool) -> Change:
            def change(work: Work) -> None:
                if work.for_global != of_global:
                    return
                suffix = "" if of_global else "_global"
                for name in names:
                    tensor = getattr(work.inputs, f"{name}{suffix}")
                    if tensor is not None:
                        tensor = tensor[work.batch, work.head if name == "q" else work.key_head].cpu().double()
                        setattr(work, name, tensor[work.rows] if name == "q" else tensor)

            return change

        for names in ("qkv", "q", "k", "v", "kv", "qk"):
            listed = ", ".join(names)
            yield self.variant(f"{listed} of plain queries for global queries", "tensors", taking(names, True))
        yield self.variant("q, k, v of global queries for plain queries", "tensors", taking("qkv", False))


class PaddingSeen(Fault):
    """Padded keys seen, or the other side's hidden."""

    name = "padding"

    def variants(self, case: Case) -> Iterator[Variant]:
        padding = case.inputs.key_padding_mask
        if padding is None:
            return
        every = torch.ones(case.inputs.B, case.inputs.T, dtype=torch.bool, device=case.inputs.q.device)
        yield _of_inputs(self, "key_padding_mask left out", key_padding_mask=None, query_padding_mask=every)
        yield _of_inputs(self, "key_padding_mask inverted", key_padding_mask=~padding, query_padding_mask=every)
        for n in range(min(len(padding), 16)):
            of_item = padding[n].expand_as(padding)
            yield _of_inputs(self, f"the padding of batch item {n}", key_padding_mask=of_item, query_padding_mask=every)
        flipped = padding.flip(1)
        yield _of_inputs(self, "padding on the other side", key_padding_mask=flipped, query_padding_mask=every)
        for by in (-1, 1):
            moved = padding.roll(by, 1)
            yield _of_inputs(
                self,
                f"padding {'early' if by < 0 else 'late'} by one",
                key_padding_mask=moved,
                query_padding_mask=every,
            )

    def fitted(self, case: Case) -> Iterator[Variant]:
        terms, padding = terms_of(case), case.inputs.key_padding_mask
        if terms is None or padding is None:
            return
        every = torch.ones(case.inputs.B, case.inputs.T, dtype=torch.bool, device=padding.device)
        index = torch.arange(case.inputs.S)

        def unpadded(work: Work) -> None:
            work.inputs = replace(work.inputs, key_padding_mask=None, query_padding_mask=every)
            work.known = {}

        runs = Runs.of(terms, index.expand(terms.seen.shape), terms.shown(unpadded))
        found = runs.nearest([0.0] * case.inputs.S, [float(n) for n in range(case.inputs.S)])
        if found is not None:
            last = int(found[1])
            kept = (index <= last).expand_as(padding).to(padding.device)
            own = int(padding[case.batch].sum())
            yield _of_inputs(self, f"{last + 1:,} keys, not {own:,}", key_padding_mask=kept, query_padding_mask=every)


def _of_inputs(fault: Fault, name: str, **values: object) -> Variant:
    def change(work: Work) -> None:
        work.inputs = replace(work.inputs, **values)  # type: ignore[arg-type]

    return fault.variant(name, "settings", change)


class HiddenKeysCount(Fault):
    """Hidden keys take part in the softmax after all: as logits of 0, or before they are hidden."""

    name = "hidden keys in the softmax"

    def variants(self, case: Case) -> Iterator[Variant]:
        def as_zero(work: Work) -> None:
            work.bent((work.count > 0).double())
            work.logits = work.logits.masked_fill(work.count == 0, 0.0)
            work.count = torch.ones_like(work.count)

        yield self.variant("hidden logits of 0 in place of -inf", "mask", as_zero)

        def after(work: Work) -> None:
            # What the softmax over every key gives, with hidden keys set to 0 and nothing made up for them.
            seen = work.weights
            total = torch.logsumexp(_unmasked(work), 1, keepdim=True)
            own = torch.logsumexp(work.logits, 1, keepdim=True)
            work.weights = seen * torch.exp(own - total)

        yield self.variant("keys hidden after the softmax, not before", "weights", after)

    def fitted(self, case: Case) -> Iterator[Variant]:
        """A mask of numbers that are added, which hide nothing."""
        terms = terms_of(case)
        if terms is None or bool((terms.seen > 0).all()):
            return
        hidden = (terms.seen == 0).double()

        def logits(less: float) -> Tensor:
            return terms.before.logits - less * hidden

        found = least(
            terms,
            lambda less: terms.apart(terms.all(terms.seen + hidden, terms.each(logits(less)))),
            [0.01, 0.1, *range(1, 30)],
            (1.0, 100.0, 1000.0),
        )
        if found is None:
            return

        def change(work: Work) -> None:
            work.logits = work.logits - found * (work.count == 0)
            work.count = torch.where(work.count == 0, 1.0, work.count)

        name = f"hidden keys seen, with a logit that is {found:.6g} less"
        hint = ": is a mask of 0 and 1 added to scores?" if found == 1 else ""
        yield self.variant(f"{name}{hint}", "mask", change)


def _unmasked(work: Work) -> Tensor:
    logits = work.q @ work.k.T * work.scale
    if work.softcap is not None:
        logits = torch.tanh(logits / work.softcap) * work.softcap
    if work.bias is not None:
        logits = logits + work.bias.masked_fill(torch.isinf(work.bias), 0.0)
    return logits if work.slope is None else logits - work.slope * work.distance.abs()


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
            yield self.under(names[before], _instead(case.pattern, Causal(), Ruled(_by_tiles(size, before))))


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
                work.weights = work.weights * torch.sigmoid(total - torch.log(torch.tensor(float(more))))

            def again(work: Work, more: int = more) -> None:
                work.count[:, -1] *= 1 + more

            yield self.variant(f"{more} keys of zeros after the last, counted: a tile of {tile}?", "weights", zeros)
            yield self.variant(f"the last key counted {more + 1} times: a tile of {tile}?", "mask", again)


class GlobalKeysOff(Fault):
    """Global keys at other positions."""

    name = "other global keys"

    def variants(self, case: Case) -> Iterator[Variant]:
        if not any(isinstance(part, GlobalKeys) for part in leaves(case.pattern)):
            return
        mask = case.inputs.global_mask
        assert mask is not None
        for by in (-1, 1):
            yield _of_inputs(self, f"each global key at {'+' if by > 0 else '-'}1", global_mask=mask.roll(by, 1))
        for position in case.item.global_positions.tolist()[:16]:
            less = mask.clone()
            less[case.batch, position] = False
            if bool(less[case.batch].any()):
                yield _of_inputs(self, f"global key {position} left out", global_mask=less)
