"""Softmax weights carried through to the context: each query's mean of the values it attends to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attnviz.attention.inputs import Inputs
from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.attention.reduced import check_whole
from attnviz.engine.attention import Attention
from attnviz.engine.products import multiply, rounds
from attnviz.engine.request import Request, asks


@asks("batch", "device", "dtype", derived=False)
def context(
    inputs: Inputs,
    pattern: Pattern | str | None = None,
    *,
    heads: Iterable[int] | None = None,
    **what: Any,
) -> Tensor:
    """The sum over visible keys of weight times value, for each query of a batch item.

    Weights are never kept: a block of rows at a time or, where the pattern allows it, in torch's fused kernel.
    Rows of global queries use ``v_global`` where it is given.

    Args:
        inputs: queries, keys, values and masks; or weights that were given, with values.
        pattern: which query sees which key; None is the inputs' own, else the global keys.
        heads: the query heads, in the order wanted; None is all of them.
        what: ``batch``, ``device``, ``dtype``, as in :func:`attnviz.score`.

    Returns:
        (n heads, T, D_v), in the inputs' dtype or, for half types, float32; NaN where a query sees nothing.

    Raises:
        InputError: there is no v; otherwise as :func:`attnviz.score`.

    >>> import attnviz
    >>> tuple(attnviz.context(attnviz.synthesize(heads=2, tokens=8)).shape)
    (2, 8, 64)
    """
    check_whole(inputs)
    request = Request(inputs, pattern, heads, **what)
    item, own = request.item, request.attention.pattern
    with torch.no_grad(), torch.autocast(item.device.type, enabled=False):
        first = item.value(request.chosen[0] if request.chosen else 0)
        shape = (len(request.chosen), item.T, first.shape[-1])
        out = torch.empty(shape, dtype=item.compute_dtype, device=item.device)
        for n, head in enumerate(request.chosen):
            if request.attention.softmaxed and _fused(item, own):
                out[n] = _attend(item, head, causal=own.reach(item).high is not None)
            else:
                _stream(request.attention, head, out[n])
    return out


def _fused(item: AttentionItem, pattern: Pattern) -> bool:
    """Whether torch's own kernel computes just this: nothing hidden but the future, no modifier beyond the scale."""
    inputs = item.products
    plain = all(extra is None for extra in (inputs.softcap, inputs.bias, inputs.alibi_slopes, inputs.sinks))
    # torch aligns its causal mask to the first key, the spec to the last.
    reach = pattern.reach(item)
    causal = reach.high == 0 and item.T == item.S
    whole = reach.plain and not pattern.global_queries and reach.low is None and (causal or reach.high is None)
    # Off the CPU torch has no fused kernel for float64, and would make the map.
    there = item.device.type == "cpu" or item.compute_dtype != torch.float64
    there = there and not rounds(item.device)
    return plain and whole and there and item.key_padding is None and item.query_padding is None


def _attend(item: AttentionItem, head: int, *, causal: bool) -> Tensor:
    q, k, v = (t.to(item.compute_dtype)[None, None] for t in (item.query(head), item.key(head), item.value(head)))
    return scaled_dot_product_attention(q, k, v, is_causal=causal, scale=item.scale)[0, 0]


def _stream(attention: Attention, head: int, out: Tensor) -> None:
    item = attention.item
    values = item.value(head)  # (S, D_v)
    of_global = item.value(head, for_global=True) if attention.pattern.global_queries else values
    for block in attention.blocks(head):
        seen = (of_global if block.for_global else values)[block.keys].to(item.compute_dtype)  # (n, D_v)
        # A product over no keys at all would be 0, not the NaN of a query that sees nothing.
        out[block.rows] = multiply(block.values, seen) if len(seen) else torch.nan
