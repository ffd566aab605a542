"""Right attention kernels of every kind, as people write them: what a check must never call wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention


def sdpa(backend: SDPBackend) -> Callable[[Tensor, Tensor, Tensor, bool], Tensor]:
    def run(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, is_causal=causal)

    return run


def flex(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    import warnings

    from torch.nn.attention.flex_attention import flex_attention

    def modified(score: Tensor, b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return torch.where(t >= s, score, -torch.inf) if causal else score

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is slow without torch.compile
        return flex_attention(q, k, v, score_mod=modified)


def plain_weights(q: Tensor, k: Tensor, causal: bool) -> Tensor:
    """Each step in the dtype of the inputs, as eager code has it."""
    x = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if causal:
        x = x.masked_fill(torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device).triu(1), -torch.inf)
    return x.softmax(-1)


def plain(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    return plain_weights(q, k, causal) @ v


def scaled_first(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """q scaled in its dtype, softmax in float32: transformers' eager attention."""
    x = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if causal:
        x = x + torch.full(x.shape[-2:], torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device).triu(1)
    return x.float().softmax(-1).to(q.dtype) @ v


def online(tile: int, *, half: bool) -> Callable[[Tensor, Tensor, Tensor, bool], Tensor]:
    """Flash attention's way: tiles of keys, a running maximum and sum; ``half``: weights go into the product in the inputs' dtype."""

    def run(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        wide = torch.float64 if q.dtype == torch.float64 else torch.float32
        T, S = q.shape[-2], k.shape[-2]
        peak = q.new_full((*q.shape[:-1], 1), -math.inf, dtype=wide)
        total, out = torch.zeros_like(peak), q.new_zeros((*q.shape[:-1], v.shape[-1]), dtype=wide)
        for first in range(0, S, tile):
            x = q.to(wide) @ k[..., first : first + tile, :].to(wide).transpose(-1, -2) * q.shape[-1] ** -0.5
            if causal:
                keys = torch.arange(first, min(first + tile, S), device=q.device)
                x = x.masked_fill(keys > torch.arange(T, device=q.device)[:, None] + (S - T), -math.inf)
            now = torch.maximum(peak, x.amax(-1, keepdim=True))
            safe = now.masked_fill(torch.isinf(now), 0.0)
            p, again = torch.exp(x - safe), torch.exp(peak - safe)
            total = total * again + p.sum(-1, keepdim=True)
            p = p.to(q.dtype).to(wide) if half else p
            out, peak = out * again + p @ v[..., first : first + tile, :].to(wide), now
        return (out / total).to(q.dtype)

    return run


CONTEXTS: dict[str, Callable[[Tensor, Tensor, Tensor, bool], Tensor]] = {
    "sdpa math": sdpa(SDPBackend.MATH),
    "sdpa flash": sdpa(SDPBackend.FLASH_ATTENTION),
    "flex": flex,
    "plain": plain,
    "scaled first": scaled_first,
    "online, 64": online(64, half=False),
    "online, 16, half weights": online(16, half=True),
    "online, 128, half weights": online(128, half=True),
}

WEIGHTS: dict[str, Callable[[Tensor, Tensor, bool], Tensor]] = {
    "plain": plain_weights,
    "float32 softmax": lambda q, k, causal: plain_weights(q.float(), k.float(), causal).to(q.dtype),
}
