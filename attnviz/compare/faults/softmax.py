"""Mistakes in what the softmax makes of the logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from attnviz.compare.faults.fault import MOST_MATCHED, TILES, Case, Fault
from attnviz.compare.faults.numbers import number_of
from attnviz.compare.faults.way import capped, compute, flow_back
from attnviz.compare.faults.work import Change, Variant, Work
from attnviz.compare.gradients import GRADIENTS
from attnviz.compare.rounding import FIXED


class Sink(Fault):
    """An attention sink left out, counted as a key, or of another head."""

    name = "attention sink"

    def variants(self, case: Case) -> Iterator[Variant]:
        sinks = case.inputs.sinks
        if sinks is None:
            return
        own = float(sinks[case.head])
        yield self.having("the sink left out of the denominator", sink=None)
        made: dict[str, Callable[[float], float]] = {
            "the sink's logit of the wrong sign": lambda sink: -sink,
            "the sink twice": lambda sink: sink + math.log(2),
            "the sink's logit scaled": lambda sink: sink * case.item.scale,
            "the sink as a power of 2, beside powers of e": lambda sink: sink * math.log(2),
            "the sink's logit times log2(e), beside powers of e": lambda sink: sink * math.log2(math.e),
        }
        for name, rule in made.items():

            def other(work: Work, rule: Callable[[float], float] = rule) -> None:
                work.sink = None if work.sink is None else rule(work.sink)

            yield self.variant(name, "settings", other)

        places: dict[str, Callable[[Work], Tensor]] = {
            "key 0": lambda work: torch.arange(work.item.S) == 0,
            "the last key": lambda work: torch.arange(work.item.S) == work.item.S - 1,
            "the query's own": lambda work: work.distance == 0,
        }
        for name, place in places.items():
            yield self._counted(case, f"the sink counted as a key: its weight goes to {name}", place)

        def wrong_end(work: Work) -> None:
            sink = 1 - work.weights.sum(1, keepdim=True)
            work.weights = torch.cat([work.weights[:, 1:], sink], 1)

        yield self.variant(
            "the sink counted as the last key, and the first left out: cut at the wrong end", "weights", wrong_end
        )

        def in_place(work: Work) -> None:
            work.logits[:, 0] = work.sink or 0.0
            work.sink = None

        yield self.variant("the sink in the place of key 0's logit", "mask", in_place)

        def unshifted(work: Work) -> None:
            peak = work.logits.masked_fill(work.count == 0, -torch.inf).amax(1, keepdim=True)
            total = torch.logsumexp(work.logits + torch.log(work.count), 1, keepdim=True)
            shares = work.count * torch.exp(work.logits - total)
            work.weights = shares / (1 + torch.exp((work.sink or 0.0) + peak - total))

        yield self.variant("the sink not shifted by the row's largest logit, as the keys are", "weights", unshifted)

        def not_exponential(work: Work) -> None:
            total = torch.logsumexp(work.logits, 1, keepdim=True)
            work.weights = torch.exp(work.logits - total)
            work.weights = work.weights / (1 + (work.sink or 0.0) * torch.exp(-total))

        yield self.variant("the sink added as it is, not as exp(sink)", "weights", not_exponential)
        for head in range(min(len(sinks), 64)):
            if head != case.head and float(sinks[head]) != own:
                yield self.having(f"the sink of head {head}", sink=float(sinks[head]))

    def _counted(self, case: Case, name: str, place: Callable[[Work], Tensor]) -> Variant:
        """Its weight beside a key's own; ``place``: (n, S) or (S,) which key."""

        def change(work: Work) -> None:
            work.weights = work.weights + place(work) * (1 - work.weights.sum(1, keepdim=True))

        def back(work: Work) -> None:
            own = work.weights
            change(work)
            work.weights, counted = own, work.weights
            work.flow = flow_back(work, (counted * work.pull).sum(1, keepdim=True))
            work.weights = counted

        return self.variant(name, "gradient", back) if case.what in GRADIENTS else self.variant(name, "weights", change)

    def fitted(self, case: Case) -> Iterator[Variant]:
        if case.inputs.sinks is None:
            return
        own = [float(case.inputs.sinks[head]) for head in case.query_heads]
        tried = [own[0] + n for n in range(-20, 21)]
        other = number_of(case, lambda sink: self.having("", sink=sink), tried, (0.0, 1.0))
        if other is not None:
            meant = ", ".join(f"{sink:.6g}" for sink in dict.fromkeys(own))
            yield self.having(f"a sink of {other:.6g}, not {meant}", sink=other)


class Base2(Fault):
    """Powers of 2 in place of e, or a logarithm in base 2."""

    name = "base 2 for base e"

    def variants(self, case: Case) -> Iterator[Variant]:
        def power(factor: float) -> Change:
            def change(work: Work) -> None:
                work.logits = work.logits * factor
                work.bent(factor)
                if work.sink is not None:
                    work.sink *= factor

            return change

        def logarithm(factor: float) -> Change:
            def change(work: Work) -> None:
                work.out = work.out * factor

            return change

        if case.what == "lse":
            yield self.variant("a log-sum-exp in base 2", "output", logarithm(math.log2(math.e)))
            yield self.variant("a log-sum-exp scaled by log(2)", "output", logarithm(math.log(2)))
        if case.what != "logits":
            yield self.variant("2**x in place of e**x", "mask", power(math.log(2)))
            yield self.variant("log2(e) twice in the exponent", "mask", power(math.log2(math.e)))


class Logarithm(Fault):
    """A log-sum-exp that is not the whole of it: without the largest logit, or that alone."""

    name = "log-sum-exp"

    def variants(self, case: Case) -> Iterator[Variant]:
        if case.what != "lse":
            return

        def peak(work: Work) -> Tensor:
            return work.logits.amax(1, keepdim=True)

        made: dict[str, Callable[[Work], Tensor]] = {
            "the largest logit not added to the logarithm of the sum": lambda work: work.out - peak(work),
            "the largest logit alone, without the sum's logarithm": peak,
            "the largest logit added before the scale": lambda work: work.out + peak(work) * (1 / work.scale - 1),
            "the largest logit subtracted, not added": lambda work: work.out - 2 * peak(work),
            "the sum of exponentials, without its logarithm": lambda work: torch.exp(work.out),
            "the sum of exponentials of score - max": lambda work: torch.exp(work.out - peak(work)),
            "the logarithm of the largest weight": lambda work: peak(work) - work.out,
            "the log-sum-exp of the wrong sign": lambda work: -work.out,
        }
        for name, rule in made.items():

            def change(
                work: Work, rule: Callable[[Work], Tensor] = rule, relative: bool = "exponentials" in name
            ) -> None:
                work.out = rule(work)
                if relative:  # and so is what rounding costs
                    work.weights = work.weights * work.out

            yield self.variant(name, "output", change)


class WrongAxis(Fault):
    """Softmax over queries, heads or batch items in place of keys."""

    name = "softmax over the wrong axis"

    def variants(self, case: Case) -> Iterator[Variant]:
        if case.what not in ("weights", "context", *GRADIENTS) or case.inputs.T * case.inputs.S > MOST_MATCHED:
            return
        totals: dict[tuple[int, int], Tensor] = {}
        deltas: dict[tuple[int, int], Tensor] = {}

        def change(work: Work) -> None:
            place = work.batch, work.head
            if place not in totals:
                every = Work(work.inputs, work.pattern, *place, torch.arange(work.item.T), "logits")
                totals[place] = torch.logsumexp(compute(every, (), FIXED).out, 0)
            work.weights = torch.exp(work.logits - totals[place][None, :])

        def back(work: Work) -> None:
            change(work)
            place = work.batch, work.head
            if place not in deltas:
                every = case.work(*place, torch.arange(work.item.T))
                every.what = "dq"
                compute(every, (self.variant("", "gradient", total),), FIXED)
            work.flow = flow_back(work, deltas[place])

        def total(work: Work) -> None:
            change(work)
            deltas[work.batch, work.head] = (work.weights * work.pull).sum(0, keepdim=True)

        name = "softmax over queries, the wrong axis"
        yield self.variant(name, "gradient", back) if case.what in GRADIENTS else self.variant(name, "weights", change)
        yield self._across(case, "heads", lambda work: [(work.batch, head) for head in range(work.inputs.H)])
        yield self._across(case, "batch items", lambda work: [(item, work.head) for item in range(work.inputs.B)])

    def _across(self, case: Case, axis: str, places: Callable[[Work], list[tuple[int, int]]]) -> Variant:
        """Softmax of each pair over ``places``, batch items and heads."""

        def whole(work: Work) -> list[Work]:
            """The same rows of each place, as the last step before the output finds them."""
            parts: list[Work] = []
            step = "gradient" if work.what in GRADIENTS else "weights"
            for at in places(work):
                one = case.work(*at, work.rows)
                one.what = "dq" if work.what in GRADIENTS else "context" if work.v is not None else "weights"
                compute(one, (self.variant("", step, lambda part: parts.append(replace(part))),), FIXED)
            return parts

        def change(work: Work) -> None:
            parts = whole(work)
            total = torch.logsumexp(torch.stack([part.logits for part in parts]), 0)

            def weights(part: Work) -> Tensor:
                return torch.exp(part.logits - total).masked_fill(part.count == 0, 0.0)

            work.weights = weights(work)
            if work.what in GRADIENTS:
                delta = sum((weights(part) * part.pull for part in parts), torch.zeros(()))
                work.flow = flow_back(work, delta)

        step = "gradient" if case.what in GRADIENTS else "weights"
        return self.variant(f"softmax over {axis}, the wrong axis", step, change)


class NotRescaled(Fault):
    """Sums over tiles of keys that are not rescaled where a later tile has a larger logit."""

    name = "online softmax"

    def variants(self, case: Case) -> Iterator[Variant]:
        if case.what not in ("context", "lse"):
            return
        for tile in TILES:
            if tile < case.inputs.S:
                if case.what == "context":
                    yield self.variant(
                        f"the sum of values not rescaled from tile to tile of {tile} keys", "weights", _kept(tile)
                    )
                    yield self.variant(
                        f"neither sum rescaled from tile to tile of {tile} keys", "weights", _kept(tile, both=True)
                    )
                yield self.variant(
                    f"the denominator not rescaled from tile to tile of {tile} keys", "weights", _kept(tile, both=None)
                )


def _kept(tile: int, *, both: bool | None = False) -> Change:
    """Sums as they were added up, each tile by the largest logit up to it; ``both``: the denominator too, None: it alone."""

    def change(work: Work) -> None:
        peaks = torch.cummax(work.logits, 1).values
        ends = (torch.arange(work.logits.shape[1]) // tile * tile + tile - 1).clamp(max=work.logits.shape[1] - 1)
        late = peaks[:, -1:] - peaks[:, ends]
        factor = torch.where(torch.isfinite(late), torch.exp(late), 0.0)
        lost = (work.weights * factor).sum(1, keepdim=True)
        if both is None:
            work.weights = work.weights / lost
            work.logits = work.logits + torch.log(lost)
        else:
            work.weights = work.weights * factor / (lost if both else 1.0)

    return change


class NoSoftmax(Fault):
    """Scores in place of weights, exponentials without a sum, or softmax twice."""

    name = "softmax left out"

    def variants(self, case: Case) -> Iterator[Variant]:
        if case.what not in ("weights", "context"):
            return

        def scores(work: Work) -> None:
            work.weights = work.logits.masked_fill(
                torch.isinf(work.logits), 0.0 if work.what == "context" else -torch.inf
            )

        def exponentials(work: Work) -> None:
            work.weights = work.count * torch.exp(work.logits)

        def shifted(work: Work) -> None:
            work.weights = work.count * torch.exp(work.logits - work.logits.amax(1, keepdim=True))

        def twice(work: Work) -> None:
            again = torch.exp(work.weights) * (work.count > 0)
            work.weights = again / again.sum(1, keepdim=True)

        def whole(work: Work) -> None:
            again = torch.exp(work.weights)
            work.weights = again / again.sum(1, keepdim=True)

        def sigmoid(work: Work) -> None:
            work.weights = torch.sigmoid(work.logits)

        def unmasked(work: Work) -> None:
            work.weights = capped(work)

        def alike(work: Work) -> None:
            work.weights = work.count / work.count.sum(1, keepdim=True)

        yield self.variant("the same weight for each key that is seen: are q and k read?", "weights", alike)
        yield self.variant("scores before softmax", "weights", scores)
        yield self.variant("scores before softmax and mask", "weights", unmasked)
        yield self.variant("exponentials that nothing divides by their sum", "weights", exponentials)
        yield self.variant("exponentials of score - max that nothing divides by their sum", "weights", shifted)
        yield self.variant("softmax twice", "weights", twice)
        yield self.variant("softmax twice, hidden keys among the second's", "weights", whole)
        yield self.variant("sigmoid in place of softmax", "weights", sigmoid)
