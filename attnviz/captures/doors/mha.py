"""``torch.nn.functional.multi_head_attention_forward``, where ``nn.MultiheadAttention`` computes.

What goes in is projected a second time, as the model itself may never show its q and k.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attnviz.attention.additive import seen_and_added
from attnviz.base.errors import InputError
from attnviz.captures.calls import Call
from attnviz.captures.checking import DROPOUT, Output
from attnviz.captures.masks import Mask, from_tensor


def of_mha(given: dict[str, Any]) -> Call:
    """A call of ``multi_head_attention_forward``: query (T, B, E) or (T, E), masks True where hidden."""
    for name in ("bias_k", "bias_v", "static_k", "static_v"):
        if given[name] is not None:
            raise InputError(f"nn.MultiheadAttention with {name} adds keys that are no tokens; it can't be captured")
    if given["add_zero_attn"]:
        raise InputError("nn.MultiheadAttention with add_zero_attn adds a key that is no token; it can't be captured")
    q, k, v = _projected(given)
    (B, H, T, _), S = q.shape, k.shape[2]
    mask, biases = Mask(causal=given["is_causal"] and given["attn_mask"] is None), []
    if given["attn_mask"] is not None:
        own = given["attn_mask"]
        own = own.logical_not() if own.dtype == torch.bool else own
        mask, added = from_tensor(own.view(-1, H, T, S) if own.ndim == 3 else own)
        biases.append(added)
    padding = given["key_padding_mask"]
    if padding is not None:
        padding = padding.view(B, 1, 1, S)
        exists, added = (padding.logical_not(), None) if padding.dtype == torch.bool else seen_and_added(padding)
        biases.append(added)
        mask = (
            Mask(mask.visible & exists)
            if mask.visible is not None
            else Mask(causal=mask.causal, padding=exists.view(B, S))
        )
    given_biases = [bias for bias in biases if bias is not None]
    bias = sum(given_biases[1:], given_biases[0]) if given_biases else None
    return Call(q, k, v, mask, given["query"] is not given["key"], bias=bias)


def mha_output(output: Tensor, given: dict[str, Any]) -> Output:
    """What it gave, (T, B, E) or (T, E), projected."""
    unchecked = DROPOUT if given["training"] and given["dropout_p"] else None
    projected = output.unsqueeze(1) if output.ndim == 2 else output
    return Output(projected.transpose(0, 1), (given["out_proj_weight"], given["out_proj_bias"]), unchecked)


def _projected(given: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v, (B, H, L, D)."""
    sequences = [given[name] for name in ("query", "key", "value")]
    if sequences[0].ndim == 2:
        sequences = [sequence.unsqueeze(1) for sequence in sequences]
    weights = (
        [given[f"{name}_proj_weight"] for name in "qkv"]
        if given["use_separate_proj_weight"]
        else given["in_proj_weight"].chunk(3)
    )
    biases = (None,) * 3 if given["in_proj_bias"] is None else given["in_proj_bias"].chunk(3)
    q, k, v = (
        # (L, B, E) -> (B, H, L, D)
        F.linear(sequence, weight, bias).unflatten(-1, (given["num_heads"], -1)).permute(1, 2, 0, 3)
        for sequence, weight, bias in zip(sequences, weights, biases, strict=True)
    )
    return q, k, v
