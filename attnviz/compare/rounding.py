"""What rounding may cost: how far two right computations of one attention may be apart. Every tolerance has its home here.

A constant is no tolerance for attention: at 512 keys every weight is below bfloat16's usual 1e-2, and zeros would pass. What a
right computation may be off by follows from the numbers themselves:

- a logit, by a few roundings of its own size in the dtype (the product, the scale, what is added), and by those of a sum in
  float32, whose terms are no larger than ``|q| |k| scale``;
- a weight ``w``, relatively, by the errors of its logit and of its row's mean logit, by that of the row's sum, and by its own
  rounding: ``w (exp(e) - 1)``, and the dtype's least step where that is more;
- a row of weights as a distribution, in total variation: at most ``sqrt(sum w e^2) / 2``, half of what its weights are allowed
  one by one;
- a context, by twice what the plain computation is off (products accumulated in float32, each result rounded to the dtype), and
  2 units in the last place of the output's scale, as flash attention's own tests have it, and what sums of n numbers in float32
  differ by in another order, ``sqrt(n) 2^-24`` of that scale. Rows of one scale are judged together: the first rows of a
  causal map, which average over few keys, say nothing of the last;
- in float64, which the exact side is computed in too, by 1e-9, absolute and relative; of contexts and gradients, which may be of
  any size, relative to the largest of their head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.item import AttentionItem
from attnviz.base.devices import DTYPES
from attnviz.base.errors import InputError

ORDER = ("float64", "float32", "float16", "bfloat16")
"""The dtypes that have a rule, finest first."""

_SUMS = 2.0**-24
"""The unit roundoff of float32, which products and sums run in, whatever dtype they are of."""

_FEW = 512
"""Elements of a context that are too few for their largest error to say what an error is there."""


STRAY = 1.0
"""How often the root of the sum of the squares of what logits are off may be met."""


@dataclass(frozen=True)
class Tolerance:
    """How far two numbers may be apart: ``|a - b| <= atol + rtol * |b|``."""

    atol: float
    rtol: float
    of_scale: bool = False
    """Whether ``atol`` of contexts and gradients is relative to the largest of a head's, which may be of any size."""

    def __str__(self) -> str:
        return f"atol {self.atol:g}, rtol {self.rtol:g}"

    def of_rows(self, exact: Tensor) -> Tensor:
        """How far each element of a head's context or gradient may be off, (n, C)."""
        size = exact.nan_to_num().abs()
        largest = float(size.max()) if self.of_scale and size.numel() else 1.0
        return self.atol * largest + self.rtol * size

    @property
    def said(self) -> dict[str, Any]:
        """The rule, as JSON has it."""
        return {"atol": self.atol, "rtol": self.rtol}


@dataclass(frozen=True)
class Rounding:
    """How far numbers may be apart that right computations round to a dtype.

    Args:
        dtype: the coarser of the dtypes of the inputs and of what was computed.
        sides: how many of the two sides are rounded: 1 where the other is exact.
    """

    dtype: str
    sides: int = 1

    def __str__(self) -> str:
        return f"what rounding to {self.dtype} costs"

    @property
    def said(self) -> dict[str, Any]:
        """The rule, as JSON has it."""
        return {"rounding": self.dtype, "sides": self.sides}

    @property
    def unit(self) -> float:
        """The unit roundoff: half the distance from 1 to the next number."""
        return float(torch.finfo(DTYPES[self.dtype]).eps) / 2

    @property
    def least(self) -> float:
        """The least step: below it numbers are rounded to 0, or flushed to it."""
        info = torch.finfo(DTYPES[self.dtype])
        # Every machine has float16's smallest numbers, and few have those of the others, which no weight comes near.
        return float(info.tiny * (info.eps if self.dtype == "float16" else 1))

    def of_logits(self, logits: Tensor, sizes: Sizes) -> Tensor:
        """How far each logit may be off.

        Args:
            logits: (b, n) exact; -inf where a key is hidden, which costs nothing.
            sizes: those of the same b rows.
        """
        # What is added, or capped, hides how large the product was.
        in_dtype = self.unit * sizes.reach * (4 / math.sqrt(sizes.D) + 2 * sizes.modified)
        size = logits.abs().masked_fill_(torch.isinf(logits), 0.0).mul_(2 * self.unit * self.sides)
        return size + self.sides * (in_dtype + 4 * _SUMS * sizes.reach)

    def of_weights(self, weights: Tensor, error: Tensor, keys: int) -> tuple[Tensor, Tensor]:
        """How far each weight may be off, (b, n), and each row in total variation, (b,).

        Args:
            weights: (b, n) exact, without NaN.
            error: (b, n) what their logits may be off.
            keys: how many keys a row sums over.
        """
        shared = self.sides * (_SUMS * (4 + math.sqrt(keys)) + 2 * self.unit)
        off = weights * error
        mean = off.sum(1, keepdim=True)
        square = off.mul_(error).sum(1)
        pairs = (error + (mean + shared)).expm1_().mul_(weights).add_(self.sides * self.least)
        least = torch.clamp(weights, max=self.least).sum(1)
        rows = torch.expm1(square.sqrt()) / 2 + shared / 2 + self.sides * least
        return pairs, rows

    def of_sums(self, total: Tensor, keys: int) -> Tensor:
        """How far the logarithm of each row's sum of exponentials may be off beside its logits, (b,)."""
        size = torch.where(torch.isfinite(total), total.abs(), 0.0)
        return self.sides * (_SUMS * (4 + math.sqrt(keys)) + 2 * (self.unit + _SUMS) * size)

    def of_contexts(
        self,
        exact: Tensor,
        plain: Tensor,
        terms: int,
        columns: Tensor,
        size: Tensor | None = None,
        strays: Tensor | None = None,
    ) -> Tensor:
        """How far each element of a context may be off, (T, D_v).

        Args:
            exact: (T, D_v) one head's, NaN in the row of a query that sees nothing.
            plain: (T, D_v) the plain computation's.
            terms: how many numbers are summed up for each.
            columns: (D_v,) the size of the numbers that each column is a sum of: a channel of large values excuses no other.
            size: (T, D_v) how large they are together where they cancel, as in gradients: the root of the sum of their squares.
            strays: (T, D_v) what the errors of each row's logits make of it, as the root of the sum of their squares.
        """
        columns = columns / columns.max().clamp(min=torch.finfo(torch.float64).tiny)
        columns = columns.clamp(min=torch.finfo(torch.float64).eps)
        scale = torch.where(torch.isnan(exact), 0.0, exact / columns).abs().amax(1)
        scale = scale if size is None else torch.maximum(scale, (size / columns).amax(1))
        off = torch.where(torch.isnan(exact), 0.0, (plain - exact) / columns).abs().amax(1)
        allowed = self._of_rows(scale, off, exact.shape[1], terms)[:, None] * columns
        # Where two logits are large and near each other, a row is off by more than its like: as much as its own logits are.
        return self.sides * (allowed if strays is None else torch.maximum(allowed, STRAY * strays))

    def _of_rows(self, scale: Tensor, off: Tensor, width: int, terms: int) -> Tensor:
        """How far rows may be off, (T,), of their scale and of what the plain computation is off, judged with those of their scale."""
        least = float(torch.finfo(DTYPES[self.dtype]).tiny)
        octave = torch.floor(torch.log2(scale.clamp(min=least)))  # (T,)
        allowed, worst = torch.zeros_like(scale), 0.0
        waiting = torch.zeros_like(scale, dtype=torch.bool)
        for one in torch.unique(octave).tolist():  # ascending
            waiting |= octave == one
            worst = max(worst, float(off[waiting].max()))
            if int(waiting.sum()) * width < _FEW and one < float(octave.max()):
                continue
            allowed[waiting] = 2 * worst + (4 * self.unit + _SUMS * math.sqrt(terms)) * 2.0**one
            waiting[:] = False
        return allowed

    def of_cells(self, values: str, reach: float, D: int, keys: int) -> Tolerance:
        """How far the cells of two runs of a model may be apart, whose queries and keys are as far apart as rounding takes them.

        Args:
            values: ``weights`` or ``logits``.
            reach: a bound on the magnitude of their logits.
            D: head_dim.
            keys: how many keys a row sums over.
        """
        # Queries and keys of another machine may be off in their last place, and by what a product of the model loses.
        error = self.unit * (2 * reach + 8 * reach / math.sqrt(D)) + 20 * _SUMS * reach
        if values == "logits":
            return Tolerance(_two(error), _two(2 * self.unit))
        relative = math.expm1(min(2 * error + _SUMS * (4 + math.sqrt(keys)) + 2 * self.unit, 0.7))
        return Tolerance(_two(2 * self.unit / keys), _two(relative))


def _two(number: float) -> float:
    """A number rounded up to two digits, for files that people read."""
    if not number:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(number)) - 1)
    return float(f"{math.ceil(number / step - 1e-9) * step:.2g}")


Rule = Tolerance | Rounding
"""How far numbers may be apart."""


FIXED = Tolerance(1e-9, 1e-9, of_scale=True)
"""The rule of float64."""


def rule_of(*dtypes: str, sides: int = 1) -> Rule:
    """The rule of numbers of these dtypes: that of the coarsest.

    Args:
        dtypes: names, of inputs and of what was computed.
        sides: how many sides are rounded.

    Raises:
        InputError: a dtype that has no rule.

    >>> rule_of("bfloat16", "float32"), rule_of("float64")
    (Rounding(dtype='bfloat16', sides=1), Tolerance(atol=1e-09, rtol=1e-09, of_scale=True))
    """
    for name in dtypes:
        if name not in ORDER:
            raise InputError(f"actual has dtype {name}, wanted one of {', '.join(ORDER)}")
    coarsest = max(dtypes, key=ORDER.index)
    return FIXED if coarsest == "float64" else Rounding(coarsest, sides)


def explicit(atol: float | None, rtol: float | None) -> Tolerance | None:
    """The tolerance that someone gives, where one does; what isn't given is 0.

    Raises:
        InputError: a tolerance that is no number.
    """
    if atol is None and rtol is None:
        return None
    given = Tolerance(atol or 0.0, rtol or 0.0)
    for name, number in given.said.items():
        if not (math.isfinite(number) and number >= 0):
            raise InputError(f"--{name} {number:g}: a tolerance is a finite number, 0 or more")
    return given


def check_can_fail(rule: Rule, largest: float, what: str) -> None:
    """Raises InputError where a tolerance that someone gave lets zeros pass.

    Args:
        rule: the tolerance.
        largest: the largest magnitude among the exact numbers compared.
        what: what the numbers are.
    """
    if not isinstance(rule, Tolerance) or rule.of_scale or largest > rule.atol + rule.rtol * largest:
        return
    if not largest:
        return
    name, number = ("rtol", rule.rtol) if rule.rtol >= 1 else ("atol", rule.atol)
    raise InputError(
        f"--{name} {number:g}: the largest exact {what} is {largest:.3g}, so that zeros would pass; give less than that, "
        f"or none, for what rounding costs"
    )


@dataclass(frozen=True)
class Sizes:
    """How large the products of some rows can be, which their rounding is relative to."""

    reach: Tensor  # (b, 1) a bound on |logit| before anything is added: |q| max |k| scale
    D: int
    modified: bool  # whether a softcap, a bias or a slope changes the products

    @classmethod
    def of(cls, item: AttentionItem, head: int) -> Sizes:
        """Those of every row of a head, (T, 1), on the CPU."""
        exists, reach, inputs = item.key_padding, torch.zeros(item.T, dtype=torch.float64), item.products
        for of_global in (False, True) if inputs.q_global is not None else (False,):
            q, k = item.query(head, for_global=of_global), item.key(head, for_global=of_global)
            k = k if exists is None else k[exists]
            longest = torch.linalg.vector_norm(k.double(), dim=1).amax() if len(k) else torch.tensor(0.0)
            found = torch.linalg.vector_norm(q.double(), dim=1) * longest * abs(item.scale)
            reach = torch.maximum(reach, found.cpu())
        modified = any(extra is not None for extra in (inputs.softcap, inputs.bias, inputs.alibi_slopes))
        return cls(reach[:, None], inputs.D, modified)

    @classmethod
    def guessed(cls, logits: Tensor) -> Sizes:
        """Those of rows whose queries and keys nobody knows, of what their weights say."""
        return cls(logits.abs().masked_fill(torch.isinf(logits), 0.0).amax(1, keepdim=True), 64, False)

    def to(self, device: torch.device) -> Sizes:
        """The same on a device."""
        return Sizes(self.reach.to(device), self.D, self.modified)

    def at(self, rows: Tensor) -> Sizes:
        """Those of some rows."""
        return Sizes(self.reach[rows], self.D, self.modified)
