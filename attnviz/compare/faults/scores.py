"""Mistakes in the logits, and in what is added to them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from attnviz.compare.faults.fault import Case, Fault
from attnviz.compare.faults.numbers import FACTORS, number_of
from attnviz.compare.faults.way import capped, product
from attnviz.compare.faults.work import Variant, Work
from attnviz.compare.gradients import GRADIENTS


class Scale(Fault):
    """No scale, the scale twice, or that of another size than D."""

    name = "scale"

    def variants(self, case: Case) -> Iterator[Variant]:
        D, own, inputs = case.inputs.D, case.item.scale, case.inputs
        found = {
            "a scale of 1: is 1/sqrt(D) missing?": 1.0,
            "the scale twice: are q or k scaled already?": own**2,
            "a scale of 1/D, not 1/sqrt(D)": 1 / D,
            "a scale of sqrt(D): multiplied, not divided": math.sqrt(D),
            "a scale of D": float(D),
            "the default scale, 1/sqrt(D)": 1 / math.sqrt(D),
            f"the scale of {inputs.H} heads together, 1/sqrt({inputs.H * D})": 1 / math.sqrt(inputs.H * D),
            "the root of the scale: are q and k to be scaled both?": math.sqrt(abs(own)),
        }
        for multiple in (8, 16, 32, 64, 128, 256):
            padded = -(-D // multiple) * multiple
            found.setdefault(f"the scale of a padded head_dim, 1/sqrt({padded})", 1 / math.sqrt(padded))
        padded = 1 << (D - 1).bit_length()
        found.setdefault(f"the scale of a padded head_dim, 1/sqrt({padded})", 1 / math.sqrt(padded))
        if inputs.v is not None and inputs.v.shape[-1] != D:
            found["the scale of v's size, 1/sqrt(D_v)"] = 1 / math.sqrt(inputs.v.shape[-1])
        tried = [own]
        for name, scale in found.items():
            if not any(math.isclose(scale, other, rel_tol=1e-9) for other in tried):
                tried.append(scale)
                yield self.having(name, f"--scale {scale:.6g}", scale=scale)

    def fitted(self, case: Case) -> Iterator[Variant]:
        own, sizes = case.item.scale, [1 / math.sqrt(size) for size in range(1, 1025)]
        tried = [own * by for by in FACTORS] if own else []
        other = number_of(case, lambda scale: self.having("", scale=scale), tried, sizes) if tried else None
        if other is not None:
            size = 1 / other**2
            whole = other > 0 and abs(size - round(size)) < 1e-9 * size
            name = f"the scale of a size of {size:.0f}, 1/sqrt({size:.0f})" if whole else f"a scale of {other:.6g}"
            yield self.having(f"{name}, not {own:.6g}", f"--scale {other:.9g}", scale=other)


class Softcap(Fault):
    """The softcap left out, after the mask, or of other numbers."""

    name = "softcap"

    def variants(self, case: Case) -> Iterator[Variant]:
        cap = case.inputs.softcap
        if cap is None:
            return
        yield self.having("softcap left out", softcap=None)

        def after_mask(work: Work) -> None:
            work.bent((work.count > 0).double())
            work.logits = torch.where(work.count == 0, -cap, work.logits)
            work.count = torch.ones_like(work.count)

        def unscaled(work: Work) -> None:
            work.logits = torch.tanh(torch.atanh((work.logits / cap).clamp(-1 + 1e-15, 1 - 1e-15)) / work.scale) * cap
            work.logits = work.logits * work.scale

        def after_bias(work: Work) -> None:
            work.logits = torch.tanh(product(work) / cap + (work.logits - capped(work)) / cap) * cap

        def clamped(work: Work) -> None:
            work.logits = product(work).clamp(-cap, cap) + (work.logits - capped(work))

        yield self.variant("softcap after the mask: hidden keys count with -softcap", "mask", after_mask)
        if case.what in GRADIENTS:  # what flows back through a cap of another kind is not known
            return
        yield self.variant("softcap before the scale", "cap", unscaled)
        yield self.variant("softcap as a clamp, not a tanh", "mask", clamped)
        if case.inputs.bias is not None or case.inputs.alibi_slopes is not None:
            yield self.variant("softcap after the bias", "mask", after_bias)

        def divided(work: Work) -> None:
            work.logits = work.logits / cap

        yield self.variant("softcap without its factor: tanh(score / softcap)", "cap", divided)

    def fitted(self, case: Case) -> Iterator[Variant]:
        cap = case.inputs.softcap
        if cap is None:
            return
        whole, tried = [float(n) for n in range(1, 101)], [cap * by for by in FACTORS if by > 0]
        other = number_of(case, lambda other: self.having("", softcap=other), tried, whole)
        if other is not None:
            yield self.having(f"a softcap of {other:.6g}, not {cap:.6g}", f"--softcap {other:.9g}", softcap=other)


class Bias(Fault):
    """The bias left out, transposed, negative, scaled with the product, or of another head."""

    name = "bias"

    def variants(self, case: Case) -> Iterator[Variant]:
        whole = case.inputs.bias
        if whole is None:
            return

        def left_out(work: Work) -> None:
            work.bias = None

        yield self.variant("bias left out", "tensors", left_out)
        yield self.variant("the bias subtracted, not added", "cap", partial(_multiply, "bias", -1.0))
        yield self.variant("the bias twice", "cap", partial(_multiply, "bias", 2.0))
        yield self.variant("the bias before the scale", "cap", lambda work: _multiply("bias", work.scale, work))
        yield from self._other(case, whole)
        if case.inputs.T == case.inputs.S:

            def turned(work: Work) -> None:
                work.bias = _bias_of(whole, work, work.head).T[work.rows]

            yield self.variant("the bias transposed", "tensors", turned)
        for head in range(min(whole.shape[1], 64)):
            if head != case.head:

                def of_head(work: Work, head: int = head) -> None:
                    work.bias = _bias_of(whole, work, head)[work.rows]

                yield self.variant(f"the bias of head {head}", "tensors", of_head)

    def _other(self, case: Case, whole: Tensor) -> Iterator[Variant]:
        """The bias read at another place."""
        for dim, noun in ((1, "key"), (0, "query")):
            for by in (1, -1):

                def moved(work: Work, dim: int = dim, by: int = by) -> None:
                    work.bias = _bias_of(whole, work, work.head).roll(by, dim)[work.rows]

                yield self.variant(f"the bias of the {noun} {'before' if by > 0 else 'after'}", "tensors", moved)

        def first(work: Work) -> None:
            work.bias = _bias_of(whole, work, work.head)[:1].expand(len(work.rows), -1)

        yield self.variant("the bias of the first query for every query", "tensors", first)

    def fitted(self, case: Case) -> Iterator[Variant]:
        if case.inputs.bias is None or case.inputs.alibi_slopes is not None:
            return

        def times(by: float) -> Variant:
            return self.variant(f"the bias times {by:.6g}", "cap", partial(_multiply, "bias", by))

        other = number_of(case, times, FACTORS, (0.5, math.log2(math.e), math.log(2), 1 / case.item.scale))
        if other is not None:
            yield times(other)


def _multiply(field: str, factor: float, work: Work) -> None:
    """Multiplies what is added to logits, the bias or the slope, where there is such."""
    own = getattr(work, field)
    if own is not None:
        setattr(work, field, own * factor)


def _bias_of(whole: Tensor, work: Work, head: int) -> Tensor:
    item = work.item
    part = whole[min(work.batch, whole.shape[0] - 1), min(head, whole.shape[1] - 1)]
    return part.cpu().double().expand(item.T, item.S)


class Alibi(Fault):
    """ALiBi's slopes left out, of the wrong sign, from the wrong end, or of another head."""

    name = "ALiBi"

    def variants(self, case: Case) -> Iterator[Variant]:
        slopes = case.inputs.alibi_slopes
        if slopes is None:
            return
        own = float(slopes[case.head])
        yield self.having("ALiBi left out", slope=None)

        yield self.variant("ALiBi of the wrong sign: far keys gain", "cap", partial(_multiply, "slope", -1.0))
        yield self.variant("ALiBi before the scale", "cap", lambda work: _multiply("slope", work.scale, work))
        yield self.variant("ALiBi times log2(e)", "cap", partial(_multiply, "slope", math.log2(math.e)))
        offset = case.inputs.S - case.inputs.T
        for by in dict.fromkeys((offset, -offset, *(n for n in range(-_MOVED, _MOVED + 1)))):
            if by:

                def moved(work: Work, by: int = by) -> None:
                    work.distance = work.distance + by

                hint = ": counted from the first key?" if by == offset else ""
                yield self.variant(f"ALiBi's distances {by:+d} off{hint}", "tensors", moved)

        def signed(work: Work) -> None:
            if work.slope is not None:  # a key of the future gains
                work.logits = work.logits + work.slope * (work.distance.abs() + work.distance)

        yield self.variant("ALiBi by p(t) - p(s), without its absolute value", "mask", signed)
        for name, first in (("slope * p(s)", 0), ("slope * (p(s) - p of the last key)", -1)):

            def by_key(work: Work, first: int = first) -> None:
                if work.slope is not None:
                    at = work.item.key_position(torch.arange(work.item.S)).double()
                    at = at - (at[-1] if first else 0)
                    work.logits = work.logits + work.slope * (work.distance.abs() + at)

            yield self.variant(f"ALiBi by the key's position alone, {name}", "mask", by_key)

        def reverse(work: Work) -> None:
            work.slope = float(slopes[-1 - work.head])

        yield self.variant("ALiBi's slopes in reverse, the last head's first", "settings", reverse)
        for head in range(min(len(slopes), 64)):
            if head != case.head and float(slopes[head]) != own:
                yield self.having(f"the ALiBi slope of head {head}", slope=float(slopes[head]))

    def fitted(self, case: Case) -> Iterator[Variant]:
        if case.inputs.alibi_slopes is None or case.inputs.bias is not None:
            return

        def times(by: float) -> Variant:
            return self.variant(f"ALiBi's slopes times {by:.6g}", "cap", partial(_multiply, "slope", by))

        other = number_of(case, times, FACTORS, [2.0**n for n in range(-8, 9)])
        if other is not None:
            yield times(other)


_MOVED = 8
"""Keys that distances are off, at most."""
