"""Softmax weights carried through to the context: each query's mean of the values it attends to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attnviz.attention.inputs import AttentionInputs, AttentionItem
from attnviz.attention.patterns import Causal, Full, GlobalKeys, Pattern
from attnviz.base.devices import parse_device, parse_dtype
from attnviz.engine.scores import blocks, check_heads


def context(
    inputs: AttentionInputs,
    pattern: Pattern | None = None,
    *,
    batch: int = 0,
    heads: Sequence[int] | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Tensor:
    """The sum over visible keys of weight times value, for each query of a batch item.

    Weights are never kept: a block of rows at a time or, where the pattern allows it, in torch's fused kernel.
    Rows of global queries use ``v_global`` where it is given.

    Args:
        inputs: queries, keys, values and masks.
        pattern: which query sees which key; None is the inputs' own, else the global keys.
        batch: the batch item.
        heads: the query heads, in the order wanted; None is all of them.
        device, dtype: as in :func:`attnviz.score`.

    Returns:
        (n heads, T, D_v), in the inputs' dtype or, for half types, float32; NaN where a query sees nothing.

    Raises:
        InputError: there is no v; otherwise as :func:`attnviz.score`.

    >>> import attnviz
    >>> tuple(attnviz.context(attnviz.synthesize(heads=2, tokens=8)).shape)
    (2, 8, 64)
    """
    heads = check_heads(inputs, heads)
    pattern = pattern or inputs.pattern or GlobalKeys()
    where = inputs.q.device if device is None else parse_device(device)
    item = inputs.item(batch, device=where, dtype=parse_dtype(dtype))
    with torch.no_grad(), torch.autocast(item.device.type, enabled=False):
        first = item.value(heads[0]) if heads else item.value(0)
        out = torch.empty(len(heads), item.T, first.shape[-1], dtype=item.compute_dtype, device=item.device)
        for n, head in enumerate(heads):
            if _fused(item, pattern):
                out[n] = _attend(item, head, causal=isinstance(pattern, Causal))
            else:
                _stream(item, pattern, head, out[n])
    return out


def _fused(item: AttentionItem, pattern: Pattern) -> bool:
    """Whether torch's own kernel computes just this: nothing hidden but the future, no modifier beyond the scale."""
    inputs = item.inputs
    plain = all(extra is None for extra in (inputs.softcap, inputs.bias, inputs.alibi_slopes, inputs.sinks))
    # torch aligns its causal mask to the first key, the spec to the last.
    whole = isinstance(pattern, Full) or (isinstance(pattern, Causal) and item.T == item.S)
    # Off the CPU torch has no fused kernel for float64, and would make the map.
    there = item.device.type == "cpu" or item.compute_dtype != torch.float64
    return plain and whole and there and item.key_padding is None


def _attend(item: AttentionItem, head: int, *, causal: bool) -> Tensor:
    q, k, v = (t.to(item.compute_dtype)[None, None] for t in (item.query(head), item.key(head), item.value(head)))
    return scaled_dot_product_attention(q, k, v, is_causal=causal, scale=item.scale)[0, 0]


def _stream(item: AttentionItem, pattern: Pattern, head: int, out: Tensor) -> None:
    values = item.value(head).to(item.compute_dtype)  # (S, D_v)
    of_global = item.value(head, for_global=True).to(item.compute_dtype) if pattern.global_queries else values
    for block in blocks(item, pattern, head):
        seen = (of_global if block.for_global else values)[block.keys]  # (n, D_v)
        # A product over no keys at all would be 0, not the NaN of a query that sees nothing.
        out[block.rows] = block.values @ seen if len(seen) else torch.nan
