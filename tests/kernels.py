"""Right attention kernels of every kind, as people write them: what a check must never call wrong."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from tests.faulty import Kernel as Faulty

Seen = bool | Tensor
"""True is causal, False every key, a bool tensor (T, S) which query sees which key."""
Kernel = Callable[[Tensor, Tensor, Tensor, Seen], Tensor]


def hidden(seen: Seen, T: int, S: int) -> Tensor | None:
    """(T, S) True where a key is hidden; None where none is."""
    if isinstance(seen, Tensor):
        return ~seen
    return torch.ones(T, S, dtype=torch.bool).triu(1 + S - T) if seen else None


def sdpa(backend: SDPBackend) -> Kernel:
    def run(q: Tensor, k: Tensor, v: Tensor, seen: Seen) -> Tensor:
        how = {"attn_mask": seen} if isinstance(seen, Tensor) else {"is_causal": seen}
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, **how)

    return run


def flex_with_lse(q: Tensor, k: Tensor, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    never = hidden(seen, q.shape[-2], k.shape[-2])

    def modified(score: Tensor, b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return score if never is None else torch.where(never[t, s], -torch.inf, score)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is slow without torch.compile
        return flex_attention(q, k, v, score_mod=modified, return_lse=True)


def flex(q: Tensor, k: Tensor, v: Tensor, seen: Seen) -> Tensor:
    return flex_with_lse(q, k, v, seen)[0]


def plain_weights(q: Tensor, k: Tensor, seen: Seen) -> Tensor:
    """Each step in the dtype of the inputs, as eager code has it."""
    x = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    never = hidden(seen, *x.shape[-2:])
    return (x if never is None else x.masked_fill(never, -torch.inf)).softmax(-1)


def plain(q: Tensor, k: Tensor, v: Tensor, seen: Seen) -> Tensor:
    return plain_weights(q, k, seen) @ v


def scaled_first(q: Tensor, k: Tensor, v: Tensor, seen: Seen) -> Tensor:
    """q scaled in its dtype, softmax in float32: transformers' eager attention."""
    x = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    never = hidden(seen, *x.shape[-2:])
    if never is not None:
        x = x + torch.zeros(never.shape, dtype=x.dtype).masked_fill(never, torch.finfo(x.dtype).min)
    return x.float().softmax(-1).to(q.dtype) @ v


def online_with_lse(
    q: Tensor, k: Tensor, v: Tensor, seen: Seen, tile: int = 64, *, half: bool = False
) -> tuple[Tensor, Tensor]:
    """Flash attention's way: tiles of keys, a running maximum and sum; ``half``: weights go into the product in the inputs' dtype."""
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    never = hidden(seen, q.shape[-2], k.shape[-2])
    peak = q.new_full((*q.shape[:-1], 1), -math.inf, dtype=wide)
    total, out = torch.zeros_like(peak), q.new_zeros((*q.shape[:-1], v.shape[-1]), dtype=wide)
    for first in range(0, k.shape[-2], tile):
        x = q.to(wide) @ k[..., first : first + tile, :].to(wide).transpose(-1, -2) * q.shape[-1] ** -0.5
        x = x if never is None else x.masked_fill(never[:, first : first + tile], -math.inf)
        now = torch.maximum(peak, x.amax(-1, keepdim=True))
        safe = now.masked_fill(torch.isinf(now), 0.0)
        p, again = torch.exp(x - safe), torch.exp(peak - safe)
        total = total * again + p.sum(-1, keepdim=True)
        p = p.to(q.dtype).to(wide) if half else p
        out, peak = out * again + p @ v[..., first : first + tile, :].to(wide), now
    return (out / total).to(q.dtype), (peak + total.log())[..., 0]


def online(tile: int, *, half: bool) -> Kernel:
    return lambda q, k, v, seen: online_with_lse(q, k, v, seen, tile, half=half)[0]


CONTEXTS: dict[str, Kernel] = {
    "sdpa math": sdpa(SDPBackend.MATH),
    "sdpa flash": sdpa(SDPBackend.FLASH_ATTENTION),
    "flex": flex,
    "plain": plain,
    "scaled first": scaled_first,
    "online, 64": online(64, half=False),
    "online, 16, half weights": online(16, half=True),
    "online, 128, half weights": online(128, half=True),
}

STREAMED = ("sdpa flash", "online, 64", "online, 128, half weights")
"""Those that make no map."""

WEIGHTS: dict[str, Callable[[Tensor, Tensor, Seen], Tensor]] = {
    "plain": plain_weights,
    "float32 softmax": lambda q, k, seen: plain_weights(q.float(), k.float(), seen).to(q.dtype),
}

DENOMINATORS: dict[str, Callable[[Tensor, Tensor, Tensor, Seen], tuple[Tensor, Tensor]]] = {
    "online, 64": online_with_lse,
    # PyTorch 2.6 rounds FlexAttention's scores to half types before their log-sum-exp: that kernel is wrong, and is told so.
    **({"flex": flex_with_lse} if torch.__version__ >= "2.8" else {}),
}
"""Those that give their log-sum-exp, after the context."""


def stepwise(right: Faulty, *, wide: bool) -> tuple[Tensor, Tensor]:
    """Weights and context of a right kernel of any case, each step in the dtype of its inputs; ``wide``: softmax in float32."""
    q, dtype = right.q, right.q.dtype
    k, v = (tensor[:, right.kv_heads] for tensor in (right.k, right.v))
    x = q @ k.transpose(-1, -2) * right.scale
    if right.cap is not None:
        x = torch.tanh(x / right.cap) * right.cap
    if right.bias is not None:
        x = x + right.bias.to(dtype)
    if right.slopes is not None:
        x = x - (right.slopes[:, None, None] * right.distance().abs()).to(dtype)
    x = x.masked_fill(right.count[:, None] == 0, -math.inf)
    if right.sinks is not None:
        x = torch.cat([x, right.sinks.to(dtype)[None, :, None, None].expand(*x.shape[:-1], 1)], -1)
    weights = (x.float() if wide else x).softmax(-1).to(dtype)[..., : right.S]
    return weights, weights @ v
