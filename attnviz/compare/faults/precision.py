"""Mistakes in precision, and in what is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from attnviz.base.devices import DTYPES
from attnviz.compare.faults.fault import Case, Fault
from attnviz.compare.faults.way import compute
from attnviz.compare.faults.work import Variant, Work
from attnviz.compare.rounding import FIXED, ORDER, Rounding

_FEW = 4

_EITHER_WAY = 4.0
"""Standard deviations that what is rounded may be off along the numbers themselves."""

_LEAST = 0.02
"""The least share of a dtype's roundoff that rounding to it leaves, where many numbers are averaged."""


def _coarser(case: Case) -> Iterator[str]:
    """The dtypes that are coarser than the rule's, finest first."""
    own = case.rule.dtype if isinstance(case.rule, Rounding) else "float64"
    yield from ORDER[ORDER.index(own) + 1 :]


def _tf32(numbers: Tensor) -> Tensor:
    """As TF32 has them: 10 bits after the point, to nearest."""
    bits = numbers.float().view(torch.int32)
    kept: Tensor = ((bits + 0x0FFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)
    return kept.double()


def _to(dtype: str) -> Callable[[Tensor], Tensor]:
    return lambda numbers: numbers.to(DTYPES[dtype]).double()


class NotWritten(Fault):
    """Rows that nobody wrote."""

    name = "rows not written"
    of_sums = True

    def variants(self, case: Case) -> Iterator[Variant]:
        def zeros(work: Work) -> None:
            work.out = torch.zeros_like(work.out)

        yield self.variant("zeros: are these rows not written?", "output", zeros)


class ConstantFactor(Fault):
    """Every number the same factor of the exact one: dropout's, a sum that is divided by twice."""

    name = "constant factor"
    late = 1  # a factor that is fitted is nearer than one that has a reason
    of_sums = True

    def variants(self, case: Case) -> Iterator[Variant]:
        yield from self._times(case, case.exact_rows)

    def fitted(self, case: Case) -> Iterator[Variant]:
        """Of what something else makes of the rows."""
        if case.beside:
            whole = case.work(case.batch, case.head, torch.tensor(case.rows))
            yield from self._times(case, compute(whole, case.beside, FIXED).out)

    def _times(self, case: Case, exact: Tensor) -> Iterator[Variant]:
        given = case.given(case.batch, case.head, torch.tensor(case.rows))
        both = torch.isfinite(given) & torch.isfinite(exact)
        if case.what == "lse" or int(both.sum()) < _FEW:  # so few that a factor fits by chance
            return
        square = float((exact[both] ** 2).sum())
        factor = float((given[both] * exact[both]).sum()) / square if square else 0.0
        if abs(factor) < 1e-6 or abs(factor - 1) < 1e-12:
            return

        def times(work: Work) -> None:
            work.out = work.out * factor

        yield self.variant(f"every number times {factor:.6g}", "output", times)


class InputsRounded(Fault):
    """Inputs or weights rounded on the way to something coarser than what is handed over."""

    name = "inputs rounded"

    def variants(self, case: Case) -> Iterator[Variant]:
        own = case.rule.dtype if isinstance(case.rule, Rounding) else "float64"
        kinds: dict[str, Callable[[Tensor], Tensor]] = {dtype: _to(dtype) for dtype in _coarser(case)}
        if own in ("float32", "float64"):
            kinds["TF32"] = _tf32
        for name, rounding in kinds.items():

            def inputs(work: Work, rounding: Callable[[Tensor], Tensor] = rounding) -> None:
                work.q, work.k = rounding(work.q), rounding(work.k)
                work.v = None if work.v is None else rounding(work.v)

            def logits(work: Work, rounding: Callable[[Tensor], Tensor] = rounding) -> None:
                work.logits = rounding(work.logits)

            def weights(work: Work, rounding: Callable[[Tensor], Tensor] = rounding) -> None:
                work.weights = rounding(work.weights)

            yield self.variant(f"inputs rounded to {name}", "tensors", inputs)
            yield self.variant(f"logits rounded to {name}", "product", logits)
            if case.what != "logits" and case.what != "lse":
                yield self.variant(f"weights rounded to {name}", "weights", weights)


class Accumulated(Fault):
    """Sums that are kept in a half type, a tile of keys at a time."""

    name = "accumulation in a half type"
    late = 2

    def variants(self, case: Case) -> Iterator[Variant]:
        if case.what != "context" or case.share < 0.2:
            return
        own = case.rule.dtype if isinstance(case.rule, Rounding) else "float64"
        for dtype in dict.fromkeys([*(d for d in (own,) if d in ("bfloat16", "float16")), *_coarser(case)]):
            if dtype not in ("bfloat16", "float16"):
                continue
            for tile in (1, 16, 32, 64, 128, 256):

                def change(work: Work, tile: int = tile, dtype: str = dtype) -> None:
                    if work.v is None:
                        return
                    total = torch.zeros_like(work.out)
                    for first in range(0, work.weights.shape[1], tile):
                        part = work.weights[:, first : first + tile] @ work.v[first : first + tile]
                        total = (total + part).to(DTYPES[dtype]).double()
                    work.out = total

                yield self.variant(f"sums over tiles of {tile} keys kept in {dtype}", "output", change)


class Coarser(Fault):
    """Numbers that are as far off as a coarser dtype's are: something on the way is rounded to it."""

    name = "rounded to a coarser dtype"
    late = 2

    def variants(self, case: Case) -> Iterator[Variant]:
        if case.share <= 0.5:
            return
        exact = case.exact_rows
        off = case.given(case.batch, case.head, torch.tensor(case.rows)) - exact
        both = torch.isfinite(off) & torch.isfinite(exact)
        exact, off = exact[both], off[both]
        size, far = (float(numbers.square().mean().sqrt()) if len(numbers) else 0.0 for numbers in (exact, off))
        along = float((exact * off).mean()) if len(off) else 0.0
        # Rounding goes either way: what makes numbers larger or smaller throughout is something else.
        if abs(along) > _EITHER_WAY * size * far / math.sqrt(max(len(off), 1)):
            return
        for dtype in _coarser(case):
            unit = float(torch.finfo(DTYPES[dtype]).eps) / 2
            if far >= _LEAST * unit * size:
                name = f"numbers rounded to {dtype} somewhere on the way"
                yield Variant(self.name, name, "output", lambda work: None, rule=dtype)
