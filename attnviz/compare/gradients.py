"""Gradients of a kernel against those of the exact formula, streamed over rows: nothing of the size of the map is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attnviz.attention.inputs import AttentionInputs
from attnviz.base.errors import InputError
from attnviz.compare.outputs import exact_attention, held, plain_attention, rounded, value_rows
from attnviz.compare.places import Places
from attnviz.compare.report import HeadCheck
from attnviz.compare.rounding import Rounding, Rule, check_can_fail
from attnviz.engine.attention import Attention
from attnviz.engine.softmax import softmax_

GRADIENTS = ("dq", "dk", "dv")
"""The gradients that are checked: of queries, keys and values."""


@dataclass(frozen=True)
class Gradients:
    """The gradients of one query head, in float64 on the CPU."""

    dq: Tensor  # (T, D)
    dk: Tensor  # (S, D)
    dv: Tensor  # (S, D_v)


def gradients(attention: Attention, head: int, grad: Tensor, dtype: str | None = None) -> Gradients:
    """What a gradient of the context makes of q, k and v, each result rounded to ``dtype`` where one is given.

    With ``p`` the weights and ``g`` the gradient: ``dv = p' g``; with ``s = g v'``, a logit's is ``p (s - sum p s)``, times the
    softcap's own, and ``dq`` and ``dk`` are its products with k and q, times the scale.

    Args:
        attention: whose.
        head: the query head.
        grad: (T, D_v), the gradient of its context.
        dtype: what results are rounded to.

    Raises:
        InputError: global queries, whose projections have gradients of their own.
    """
    item = attention.item
    if attention.pattern.global_queries:
        raise InputError(f"{item.source}: gradients of patterns with global queries are not checked; leave them out")
    with torch.no_grad():
        return _streamed(attention, head, grad, dtype)


def _streamed(attention: Attention, head: int, grad: Tensor, dtype: str | None) -> Gradients:
    item = attention.item
    wide = item.compute_dtype
    q, k, v = (tensor.to(wide) for tensor in (item.query(head), item.key(head), item.value(head)))
    g = grad.to(item.device, wide)
    made = [torch.zeros_like(tensor) for tensor in (q, k, v)]
    cap = item.softcap()
    for block in value_rows(attention, head, None):
        rows, keys = block.rows, block.keys
        if not len(keys):
            continue
        slope = None
        if cap is not None:  # of the product before what is added to it
            slope = 1 - torch.tanh(q[rows] @ k[keys].T * item.scale / cap) ** 2
        p = rounded(softmax_(rounded(block.values, dtype), item.sink(head)).nan_to_num(), dtype)
        s = rounded(g[rows] @ v[keys].T, dtype)
        d = p * (s - (p * s).sum(1, keepdim=True))
        d = rounded(d if slope is None else d * slope, dtype)
        made[0][rows] = d @ k[keys] * item.scale
        made[1].index_add_(0, keys, d.T @ q[rows] * item.scale)
        made[2].index_add_(0, keys, p.T @ g[rows])
    return Gradients(*(rounded(part, dtype).double().cpu() for part in made))


def check_gradients(
    name: str,
    actual: Tensor,
    inputs: AttentionInputs,
    grad: Tensor | None,
    rule: Rule,
    rows: Tensor | None,
    *,
    heads: Sequence[int],
    batches: Sequence[int],
) -> Iterator[HeadCheck]:
    """Holds one gradient of each head against the exact one; dk and dv of each key head, summed over its queries' heads.

    Args:
        name: ``dq``, ``dk`` or ``dv``.
        actual: (B, H, T, D), (B, H_kv, S, D) or (B, H_kv, S, D_v).
        inputs: what the kernel was given.
        grad: (B, H, T, D_v), the gradient of the context.
        rule: how far they may be off.
        rows: the queries, or keys, to look at; None is all. Those of keys are over all queries.
        heads, batches: which query heads and batch items.

    Raises:
        InputError: there is no gradient of the context, or no v.
    """
    if grad is None:
        raise InputError(f"{inputs.source}: {name} is made of the gradient of the context; give it too (grad)")
    group = inputs.H // inputs.H_kv
    own = list(heads) if name == "dq" else sorted({head // group for head in heads})
    for batch in batches:
        exact_of, plain_of = exact_attention(inputs, batch), plain_attention(inputs, batch)
        for head in own:
            queries = [head] if name == "dq" else range(head * group, (head + 1) * group)
            exact = _summed(name, exact_of, queries, grad[batch], None)
            at = torch.arange(len(exact)) if rows is None else rows[rows < len(exact)]
            plain = None
            if isinstance(rule, Rounding):
                plain = _summed(name, plain_of, queries, grad[batch], rule.dtype)
                allowed = rule.of_contexts(exact, plain, max(inputs.T * group, inputs.S))[at]
                plain = plain[at]
            else:
                allowed = (rule.atol + rule.rtol * exact.abs())[at]
            given = actual[batch, head].detach().cpu().double()[at]
            places = Places(len(actual[batch, head]), inputs.S, exact_of.item)
            found = held(name, given, exact[at], allowed, (batch, head), at, places, plain)
            if found.within:
                check_can_fail(rule, float(exact.abs().max()), name)
            yield found


def _summed(name: str, attention: Attention, heads: Sequence[int], grad: Tensor, dtype: str | None) -> Tensor:
    total = sum(getattr(gradients(attention, head, grad[head], dtype), name) for head in heads)
    assert isinstance(total, Tensor)
    return total
