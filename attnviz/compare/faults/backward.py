"""Mistakes in what flows back: gradients of queries, keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from attnviz.compare.faults.fault import TILES, Case, Fault
from attnviz.compare.faults.way import compute, flow_back, placed
from attnviz.compare.faults.work import Change, Variant, Work, clean
from attnviz.compare.gradients import GRADIENTS
from attnviz.compare.rounding import FIXED


class BackwardAlone(Fault):
    """What is wrong is wrong in the backward pass alone, which has outputs and denominators of a right forward one."""

    name = "backward pass"
    of_sums = True

    def variants(self, case: Case) -> Iterator[Variant]:
        return iter(())

    def alone(self, case: Case) -> Variant:
        """With another mistake: that the forward pass hasn't."""

        def change(work: Work) -> None:
            total, delta = (_right(case, work, what) for what in ("lse", "context"))
            work.weights = work.rounded(work.count * torch.exp(work.logits - total))
            work.flow = flow_back(work, (work.g * delta.nan_to_num()).sum(1, keepdim=True))

        return self.variant("in the backward pass alone", "gradient", change)


def _right(case: Case, work: Work, what: str) -> Tensor:
    """What a right forward pass gives of some rows."""
    whole = Work(case.inputs, case.pattern, work.batch, work.head, work.rows, what, known=work.known)
    return compute(whole, (), FIXED).out


def of_context(case: Case, one: Variant) -> Variant:
    """A context's rows taken from another place: their gradient goes back to where they were taken from."""
    led: list[Tensor] = []

    def change(work: Work) -> None:
        if not led:
            led.append(_led_back(case, one.change))
        work.grad = led[0]

    return replace(one, name=f"{one.name}, in the context", step="settings", change=change)


def _led_back(case: Case, change: Change) -> Tensor:
    """The gradient of the context as it is, of what its rows are when they are taken from another place, (B, H, T, D_v)."""
    assert case.grad is not None
    led = torch.zeros(case.grad.shape, dtype=torch.float64)
    for batch in range(case.inputs.B):
        for head in range(case.inputs.H):
            whole = Work(
                case.inputs, case.pattern, batch, head, torch.arange(case.inputs.T), "context", known=case.known
            )
            own = clean(case.grad[batch, head])
            for part, index in placed(whole, (change,)):
                led[part.batch, part.head].index_add_(0, part.rows, own[index])
    return led


class Flow(Fault):
    """A term or a factor of the gradient left out."""

    name = "gradient"
    of_sums = True

    def variants(self, case: Case) -> Iterator[Variant]:
        if case.what not in GRADIENTS:
            return
        if case.what != "dv":
            yield from self._of_logits(case)
        if case.of_keys:
            yield from self._of_sums(case)

        def of_head(head: int) -> Change:
            def change(work: Work) -> None:
                if work.grad is not None:
                    work.g = clean(work.grad[work.batch, head])[work.rows]

            return change

        for head in range(min(case.inputs.H, 16)) if case.inputs.H > 1 and case.inputs.H_kv == case.inputs.H else ():
            if head != case.head:
                yield self.variant(f"the gradient of the context of head {head}", "tensors", of_head(head))

    def _of_logits(self, case: Case) -> Iterator[Variant]:
        def scaled(scale: float) -> Change:
            def change(work: Work) -> None:
                work.scale = scale

            return change

        def without_delta(work: Work) -> None:
            work.flow = flow_back(work, torch.zeros_like(work.flow[:, :1]))

        def added(work: Work) -> None:
            work.flow = flow_back(work, -(work.weights * work.pull).sum(1, keepdim=True))

        def straight(work: Work) -> None:
            work.flow = work.pull * (work.count > 0)

        def unbent(work: Work) -> None:
            work.bend = None
            work.flow = flow_back(work)

        own = case.item.scale
        if own != 1:
            yield self.variant(f"{case.what} without the scale", "gradient", scaled(1.0))
            yield self.variant(f"{case.what} with the scale twice", "gradient", scaled(own**2))
            yield self.variant(f"{case.what} with the root of the scale", "gradient", scaled(abs(own) ** 0.5))
        yield self.variant("delta left out: dS = P dP", "gradient", without_delta)
        yield self.variant("delta added, not subtracted", "gradient", added)
        yield self.variant("the softmax's own gradient left out: dS = dP", "gradient", straight)
        if case.inputs.softcap is not None:
            yield self.variant("the softcap's own gradient left out", "gradient", unbent)

    def _of_sums(self, case: Case) -> Iterator[Variant]:
        inputs = case.inputs
        group = inputs.H // inputs.H_kv

        def some(seen: Tensor, of_heads: bool) -> Change:
            def change(work: Work) -> None:
                if of_heads and not bool(seen[work.head]):
                    work.flow, work.weights = torch.zeros_like(work.flow), torch.zeros_like(work.weights)
                elif not of_heads:
                    work.flow, work.weights = (part * seen[work.rows, None] for part in (work.flow, work.weights))

            return change

        heads = torch.arange(inputs.H)
        for name, place in {"first": 0, "last": group - 1}.items() if group > 1 else ():
            only = f"the {name} query head of the group alone, not their sum"
            yield self.variant(only, "gradient", some(heads % group == place, True))
        if group > 1:
            yield self.variant(
                f"the mean over the {group} query heads of a group, not their sum", "output", _times(1 / group)
            )
        rows, seen = torch.arange(inputs.T), set()
        for tile in TILES:
            tail = inputs.T % tile or min(tile, inputs.T)
            for name, first, last in (("last", inputs.T - tail, inputs.T), ("first", 0, min(tile, inputs.T))):
                if (first, last) in seen or last - first >= inputs.T:
                    continue
                seen.add((first, last))
                left = some((rows < first) | (rows >= last), False)
                yield self.variant(
                    f"queries {first:,} to {last - 1:,} left out: the {name} tile of {tile}?", "gradient", left
                )
        if inputs.v is not None and inputs.v.shape[-1] == inputs.D:
            other = "dv" if case.what == "dk" else "dk"

            def swapped(work: Work) -> None:
                work.what = other

            yield self.variant(f"{other} in the place of {case.what}", "place", swapped)


def _times(factor: float) -> Change:
    def change(work: Work) -> None:
        work.out = work.out * factor

    return change
