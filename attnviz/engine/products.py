"""Matrix products in the precision of what is multiplied, whatever the switches of the process say."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rounds(device: torch.device) -> bool:
    """Whether the process lets float32 products on a device round what they multiply, to TF32 or bfloat16."""
    backend: Any = {"cuda": torch.backends.cuda, "cpu": torch.backends.mkldnn}.get(device.type)
    if backend is None:
        return False
    precision = getattr(getattr(backend, "matmul", None), "fp32_precision", None)
    if precision is None:  # before PyTorch 2.9
        return torch.get_float32_matmul_precision() != "highest"
    return precision not in ("none", "ieee")


def multiply(a: Tensor, b: Tensor, *, scale: float = 1.0, out: Tensor | None = None) -> Tensor:
    """``a @ b * scale``.

    Where the process lets float32 products round, this one runs in float64: the switch is the whole process's, so that to
    turn it off and on again would reach into other threads.

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
