"""Mistakes in the mask as a whole, and in what hiding does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from attnviz.attention.patterns import Causal, Chunked, Full, Local, Masked, MaskMod, Pattern, Prefix
from attnviz.compare.faults.fault import MOST_TRIED, Case, Fault
from attnviz.compare.faults.numbers import number_of
from attnviz.compare.faults.rules import Read, Ruled, instead, leaves, parts_of, rewritten, without
from attnviz.compare.faults.way import scored
from attnviz.compare.faults.work import Variant, Work


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
                yield self.under("the mask transposed", instead(case.pattern, part, turned))


class PartLeftOut(Fault):
    """A part of the pattern left out: the documents, the global keys, the window."""

    name = "part of the pattern left out"

    def variants(self, case: Case) -> Iterator[Variant]:
        for rest, part in without(case.pattern):
            yield self.under(f"{part} left out of the pattern", rest)


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
            total = torch.logsumexp(scored(work), 1, keepdim=True)
            own = torch.logsumexp(work.logits, 1, keepdim=True)
            work.weights = seen * torch.exp(own - total)

        yield self.variant("keys hidden after the softmax, not before", "weights", after)

    def fitted(self, case: Case) -> Iterator[Variant]:
        """A mask of numbers that are added, which hide nothing."""

        def less(by: float) -> Variant:
            def change(work: Work) -> None:
                work.logits = work.logits - by * (work.count == 0)
                work.count = torch.where(work.count == 0, 1.0, work.count)

            hint = ": is a mask of 0 and 1 added to scores?" if by == 1 else ""
            return self.variant(f"hidden keys seen, with a logit that is {by:.6g} less{hint}", "mask", change)

        found = number_of(case, less, [0.01, 0.1, *range(1, 30)], (1.0, 100.0, 1000.0))
        if found is not None:
            yield less(found)


class MaskMoved(Fault):
    """A mask of one's own read one off, at another query, or of another head or batch item."""

    name = "mask of another place"

    def variants(self, case: Case) -> Iterator[Variant]:
        for part in parts_of(case.pattern, Masked):
            for by in (1, -1):
                for dim, noun in ((-1, "keys"), (-2, "queries")):
                    moved = replace(part, mask=part.mask.roll(by, dim))
                    yield self.under(f"the mask's {noun} {by:+d} off", instead(case.pattern, part, moved))
            first = replace(part, mask=part.mask[..., :1, :].expand_as(part.mask))
            yield self.under("the mask's first row for every query", instead(case.pattern, part, first))
            dims = {3: ((-3, "batch item"),), 4: ((-3, "head"), (-4, "batch item"))}.get(part.mask.ndim, ())
            for dim, noun in dims:
                for n in range(min(part.mask.shape[dim], MOST_TRIED) if part.mask.shape[dim] > 1 else 0):
                    other = replace(part, mask=part.mask.narrow(dim, n, 1).expand_as(part.mask))
                    yield self.under(f"the mask of {noun} {n}", instead(case.pattern, part, other))
        for mod in parts_of(case.pattern, MaskMod):
            yield from self._of_function(case, mod)

    def _of_function(self, case: Case, part: MaskMod) -> Iterator[Variant]:
        T, S = case.inputs.T, case.inputs.S

        def by(change: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]) -> Pattern:
            def function(*at: Tensor) -> Tensor:
                b, h, t, s = change(*at)
                return part.function(b, h, t.clamp(0, T - 1), s.clamp(0, S - 1))

            return instead(case.pattern, part, replace(part, function=function))

        found = {
            "a mask_mod whose q_idx is 1 too high": by(lambda b, h, t, s: (b, h, t + 1, s)),
            "a mask_mod whose kv_idx is 1 too high": by(lambda b, h, t, s: (b, h, t, s + 1)),
            "a mask_mod of batch item 0": by(lambda b, h, t, s: (b * 0, h, t, s)),
            "a mask_mod of head 0": by(lambda b, h, t, s: (b, h * 0, t, s)),
        }
        for offset in (S - T, T - S) if S != T else ():

            def moved(b: Tensor, h: Tensor, t: Tensor, s: Tensor, by: int = offset) -> tuple[Tensor, ...]:
                return b, h, t + by, s

            found[f"a mask_mod whose q_idx is {offset:+d} off: an index for a position?"] = by(moved)
        for name, pattern in found.items():
            yield self.under(name, pattern)


class Aligned(Fault):
    """A chunk or a window that begins at the query's index, where it stands elsewhere: places told by index."""

    name = "places by index"

    def variants(self, case: Case) -> Iterator[Variant]:
        inputs = case.inputs
        if inputs.query_positions is None and inputs.key_positions is None:
            return

        yield self.of_inputs("positions left out: order by index", query_positions=None, key_positions=None)
        if inputs.query_positions is not None and inputs.key_positions is not None:
            for name in ("query_positions", "key_positions"):
                yield self.of_inputs(f"{name} left out", **{name: None})
