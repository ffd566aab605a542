"""The number that a mistake has, a scale or a softcap of its own: read from some rows that are wrong.

It is the one with which they are nearest to the kernel's, by Gauss and Newton's steps; one that somebody may have meant, where it
is as near as rounding tells. It becomes a hypothesis like any other, which has all other rows to explain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attnviz.compare.faults.fault import HALF, Case
from attnviz.compare.faults.way import compute
from attnviz.compare.faults.work import Variant, Work
from attnviz.compare.rounding import FIXED

FACTORS = (-1.0, *(math.exp(n / 8) for n in range(-40, 41)))
"""How many times what is meant a number may be, to begin with."""

_STEPS = 40

_SAME = 9.0
"""How much further off, squared, a number that has a reason may be than the nearest one, of what one of the numbers is off that
make up what all are off: few do where some are larger than others, and are rounded so."""

_TOLD, _ALIKE = 2, 1e-12
"""Numbers from which another is read, at least; and how far one number may be off, squared, to be told by a reason."""

_SUMMED = 1 << 17
"""Cells of maps up to which a number is read from gradients of keys, each of which sums over all of them."""


@dataclass(frozen=True)
class _Rows:
    """Some rows that are wrong, and how they are made with a number."""

    work: Work
    beside: tuple[Variant, ...]
    given: Tensor  # (n, C) the kernel's
    variant: Callable[[float], Variant]

    @property
    def size(self) -> Tensor:
        """What rounding a row is relative to, (n, 1); 1 of denominators, whose own size says nothing."""
        size = torch.linalg.vector_norm(self.given.nan_to_num(neginf=0.0), dim=1, keepdim=True)
        return torch.ones_like(size) if self.work.what == "lse" else size.clamp(min=torch.finfo(size.dtype).tiny)

    def apart(self, x: float | None) -> Tensor:
        """How far they are from the kernel's, relative to their size, (n, C); None: without the mistake."""
        variants = self.beside if x is None else (*self.beside, self.variant(x))
        made = compute(self.work, variants, FIXED).out
        return torch.where(made == self.given, 0.0, made - self.given) / self.size

    def square(self, x: float | None) -> float:
        """The sum of the squares of that; inf where there is none."""
        found = float((self.apart(x) ** 2).sum())
        return found if math.isfinite(found) else math.inf


def number_of(
    case: Case, variant: Callable[[float], Variant], tried: Iterable[float], reasons: Sequence[float] = ()
) -> float | None:
    """The number with which the rows are nearest to the kernel's; None where none explains enough of them.

    Args:
        case: whose rows.
        variant: the mistake, by any number.
        tried: where to begin.
        reasons: numbers that somebody may have meant: one of them, where it is as near.
    """
    inputs = case.inputs
    if case.of_keys and inputs.T * inputs.S * (inputs.H // inputs.H_kv) > _SUMMED:
        return None
    wrong = torch.tensor(case.rows)
    given = case.given(case.batch, case.head, wrong)
    some = ~torch.isnan(given).any(1) & (given != 0).any(1)  # what is 0 throughout nobody wrote
    rows = _Rows(case.work(case.batch, case.head, wrong[some]), case.beside, given[some], variant)
    if rows.given.numel() < _TOLD:  # any number fits one: what somebody may have meant alone says something
        alike = _ALIKE * float(((rows.given / rows.size) ** 2).sum())
        return next((one for one in reasons if rows.square(one) <= alike), None)
    return _nearest(rows, tried, reasons)


def _nearest(rows: _Rows, tried: Iterable[float], reasons: Iterable[float]) -> float | None:
    best = min(tried, key=rows.square)
    for _ in range(_STEPS):  # Gauss and Newton's, halved while it leads away
        step = 1e-6 * abs(best) or 1e-6
        slope = (rows.apart(best + step) - rows.apart(best - step)) / (2 * step)
        size = float((slope**2).sum())
        move = -float((slope * rows.apart(best)).sum()) / size if size else 0.0
        now = rows.square(best)
        while abs(move) > 1e-13 * abs(best) and not rows.square(best + move) < now:
            move /= 2
        if not abs(move) > 1e-13 * abs(best):
            break
        best += move
    least = rows.square(best)
    if not least < HALF * rows.square(None):
        return None
    off = rows.apart(best) ** 2
    share = float((off**2).sum() / (off.sum() ** 2).clamp(min=1e-300))  # of one of them
    near = (one for one in reasons if math.isclose(one, best, rel_tol=0.01, abs_tol=0.01))
    return next((one for one in near if rows.square(one) <= (1 + _SAME * share) * least + 1e-24), best)
