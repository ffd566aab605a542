"""Mistakes in which key a query sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

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
from attnviz.compare.faults.work import Change, Variant, Work

TILES = (8, 16, 32, 64, 128, 256, 512)
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


def _unmasked(work: Work) -> Tensor:
    logits = work.q @ work.k.T * work.scale
    if work.softcap is not None:
        logits = torch.tanh(logits / work.softcap) * work.softcap
    if work.bias is not None:
        logits = logits + work.bias.masked_fill(torch.isinf(work.bias), 0.0)
    return logits if work.slope is None else logits - work.slope * work.distance.abs()


class TileDropped(Fault):
    """The keys of the last tile, the tail or the first tile left out."""

    name = "tile of keys left out"

    def variants(self, case: Case) -> Iterator[Variant]:
        S = case.inputs.S
        seen: set[tuple[int, int]] = set()
        for tile in (1, *TILES):
            tail = S % tile or min(tile, S)
            for name, first, last in (
                ("the last", S - tail, S),
                ("the last whole", S - min(tile, S), S),
                ("the first", 0, min(tile, S)),
            ):
                if (first, last) in seen or last - first >= S:
                    continue
                seen.add((first, last))

                def change(work: Work, first: int = first, last: int = last) -> None:
                    work.count[:, first:last] = 0

                which = f"key {first}" if last - first == 1 else f"keys {first:,} to {last - 1:,}"
                of = "" if tile == 1 else f": {name} tile of {tile}?"
                yield self.variant(f"{which} left out{of}", "mask", change)


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
