"""Matrix products in the precision of what is multiplied, whatever the switches of the process say; which operator makes them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

PLAIN, LINEAR = "addmm", "linear"
"""The operators that multiply queries and keys: ``torch.addmm``, and oneDNN's own, which PyTorch's compiled models call."""

_LEAST_PAIRS = 1 << 26
"""Maps of fewer pairs are done before it has paid to find out which operator is faster."""

_CLEARLY = 0.8
"""What the other operator may take of the time of ``addmm`` to be chosen: less than a busy moment makes of it."""

_TRIED: dict[str, bool] = {}
"""Whether a processor's float32 products round under a setting, as far as that has come up."""


def rounds(device: torch.device) -> bool:
    """Whether float32 products on a device round what they multiply, to TF32 or bfloat16: the process lets them, and they do."""
    said = _allowed(device)
    if said is None:
        return False
    if device.type != "cpu":
        return True
    if said not in _TRIED:
        found = _rounds_now()
        if _allowed(device) != said:  # another thread has turned the switch meanwhile
            return True
        _TRIED[said] = found
    return _TRIED[said]


def _allowed(device: torch.device) -> str | None:
    """What the process lets float32 products on a device be rounded to; None is nothing."""
    if device.type not in ("cuda", "cpu"):
        return None
    precision = getattr(_products_of(device.type), "fp32_precision", None)
    if precision is None:  # before PyTorch 2.9
        precision = torch.get_float32_matmul_precision()
    return None if precision in ("none", "ieee", "highest") else str(precision)


@cache
def _products_of(device_type: str) -> Any:
    """What holds the switch of a kind of device, where this PyTorch has one: found by name, which takes its time."""
    return getattr({"cuda": torch.backends.cuda, "cpu": torch.backends.mkldnn}[device_type], "matmul", None)


def _rounds_now() -> bool:
    """Whether this processor rounds float32 products under the setting of the moment: many have no instruction that does."""
    exact = torch.full((128, 128), 1 + 2.0**-12)  # neither bfloat16 nor TF32 holds it
    made = [exact @ exact, *([_linear()(exact, exact, None, "none", [], "")] if has_linear() else [])]
    return any(bool((one - 128 * (1 + 2.0**-12) ** 2).abs().max() > 1e-3) for one in made)


def multiply(a: Tensor, b: Tensor, *, scale: float = 1.0, out: Tensor | None = None) -> Tensor:
    """``a @ b * scale``.

    Where float32 products would round, this one runs in float64: the switch is the whole process's, so that to turn it off
    and on again would reach into other threads.

    Args:
        a, b: (n, D) and (D, m), or (D,) and (D, m); of one floating-point dtype.
        scale: a factor on the product.
        out: (n, m), written in full; None makes it.
    """
    if a.dtype == torch.float32 and rounds(a.device):
        product = (a.double() @ b.double()).mul_(scale)
        return product.float() if out is None else out.copy_(product)
    if out is None:
        made: Tensor = a @ b
        return made if scale == 1 else made.mul_(scale)
    # alpha carries the scale through the product; beta=0 ignores what out held.
    return torch.addmm(out, a, b, beta=0, alpha=scale, out=out)


@dataclass(frozen=True)
class Queries:
    """A block of queries, (b, D), and what becomes of its logits: ``logit * unit - less``.

    ``less`` is (b,), or None where there is nothing to take away; ``operator`` is :data:`PLAIN` or :data:`LINEAR`.
    """

    values: Tensor
    unit: float = 1.0
    less: Tensor | None = None
    operator: str = PLAIN

    def __len__(self) -> int:
        return len(self.values)

    def logits(self, keys: Tensor, scale: float, memory: Tensor) -> Tensor:
        """``keys @ values.T * scale``, before anything becomes of them: (n, b), in ``memory`` of that shape."""
        return multiply(keys, self.values.T, scale=scale, out=memory)

    def finished_(self, logits: Tensor) -> Tensor:
        """What becomes of logits, (n, b), in place."""
        if self.unit != 1:
            logits.mul_(self.unit)
        return logits if self.less is None else logits.sub_(self.less)

    def exponents(self, keys: Tensor, scale: float, memory: Callable[[], Tensor]) -> Tensor:
        """Both at once, (n, b): in memory that is asked for, or in new memory where the operator takes none."""
        q = self.values
        if self.operator == LINEAR and q.dtype == torch.float32 and q.device.type == "cpu" and not rounds(q.device):
            less = None if self.less is None else -self.less
            made: Tensor = _linear()(keys, q * (scale * self.unit), less, "none", [], "")
            return made
        made = self.logits(keys, scale * self.unit, memory())
        return made if self.less is None else made.sub_(self.less)


def operator_for(device: torch.device, dtype: torch.dtype, pairs: int) -> str:
    """The operator that multiplies the tiles of a map of so many pairs of queries and keys."""
    if device.type != "cpu" or dtype != torch.float32 or pairs < _LEAST_PAIRS:
        return PLAIN
    return _faster()


def has_linear() -> bool:
    """Whether this build of PyTorch has oneDNN's operator."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _linear() -> Any:
    return torch.ops.mkldnn._linear_pointwise


@cache
def _faster() -> str:
    """Which operator is the faster one, and no less exact: found out once in a process, in some milliseconds.

    Only a clear gain counts, so that a process finds what the one before it did.
    """
    if not has_linear() or _allowed(torch.device("cpu")) is not None:
        return PLAIN
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(n, 64, generator=generator) for n in (768, 1024))
    out = torch.empty(len(k), len(q))
    calls = {name: partial(Queries(q, operator=name).exponents, k, 0.125, lambda: out) for name in (PLAIN, LINEAR)}
    exact = (k.double() @ q.double().T) * 0.125
    off = {name: float((call() - exact).abs().max()) for name, call in calls.items()}
    if off[LINEAR] > off[PLAIN]:
        return PLAIN
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(5):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            least[name] = min(least[name], time.perf_counter() - start)
    return LINEAR if least[LINEAR] < _CLEARLY * least[PLAIN] else PLAIN
