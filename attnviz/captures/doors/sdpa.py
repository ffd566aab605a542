"""``torch.nn.functional.scaled_dot_product_attention``, wherever it is called from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attnviz.captures.calls import Call
from attnviz.captures.checking import DROPOUT, Output
from attnviz.captures.masks import Mask, from_tensor


def of_sdpa(
    crosses: Callable[[int, int], bool],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Call:
    """A call of torch's own function.

    Args:
        crosses: whether so many queries and keys are of two sequences.
        query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa: as torch has them.
    """
    q, k, v = (tensor.reshape(-1, *tensor.shape[-3:]) if tensor.ndim != 4 else tensor for tensor in (query, key, value))
    T, S = q.shape[2], k.shape[2]
    bias = None
    if attn_mask is not None:
        mask, bias = from_tensor(attn_mask)
    elif is_causal and S > T:  # torch aligns the first query with the first key
        k, v, mask = k[:, :, :T], v[:, :, :T], Mask(causal=True)
    elif is_causal and S < T:
        mask = Mask(torch.ones(1, 1, T, S, dtype=torch.bool, device=q.device).tril())
    else:
        mask = Mask(causal=is_causal)
    return Call(q, k, v, mask, crosses(T, S), scale=scale, bias=bias)


def sdpa_output(
    output: Tensor, query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, dropout_p: float = 0.0, **_: Any
) -> Output:
    """What torch's own function gave, (..., H, T, D_v)."""
    context = output if output.ndim == 4 else output.reshape(-1, *output.shape[-3:])
    return Output(context, unchecked=DROPOUT if dropout_p else None)
