"""Gradients of a kernel against those of the exact formula, streamed over rows: nothing of the size of the map is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attnviz.attention.inputs import AttentionInputs
from attnviz.base.errors import InputError
from attnviz.compare.outputs import exact_attention, held, logit_rows, plain_attention, rounded
from attnviz.compare.places import Places
from attnviz.compare.report import HeadCheck
from attnviz.compare.rounding import Rounding, Rule, check_can_fail
from attnviz.engine.attention import Attention
from attnviz.engine.softmax import softmax_
from attnviz.engine.visibility import HIDDEN

GRADIENTS = ("dq", "dk", "dv")
"""The gradients that are checked: of queries, keys and values."""

OF_KEYS = ("dk", "dv")
"""Those that have a row a key."""


@dataclass(frozen=True)
class Gradients:
    """The gradients of one query head, in float64 on the CPU."""

    dq: Tensor  # (T, D), NaN in the row of a query that sees nothing
    dk: Tensor  # (S, D)
    dv: Tensor  # (S, D_v)
    squares: dict[str, Tensor]  # of each, of the same shape: the sum of the squares of what it is a sum of


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
    made[0][:] = torch.nan
    squares = [torch.zeros_like(tensor) for tensor in (q, k, v)]
    cap = item.softcap()
    for block in logit_rows(attention, head, None):
        rows, keys = block.rows, block.keys
        if not len(keys):
            continue
        slope = None
        if cap is not None:  # of the product before what is added to it
            slope = 1 - torch.tanh(q[rows] @ k[keys].T * item.scale / cap) ** 2
        p = rounded(softmax_(rounded(block.logits, dtype), item.sink(head)).nan_to_num(), dtype)
        s = rounded(g[rows] @ v[keys].T, dtype)
        delta = (p * s).sum(1, keepdim=True)
        d = p * (s - delta)
        d = rounded(d if slope is None else d * slope, dtype)
        made[0][rows] = (d @ k[keys] * item.scale).masked_fill((block.logits == HIDDEN).all(1, keepdim=True), torch.nan)
        made[1].index_add_(0, keys, d.T @ q[rows] * item.scale)
        made[2].index_add_(0, keys, p.T @ g[rows])
        drag = p * (s.abs() + delta.abs()) * item.scale
        drag = (drag if slope is None else drag * slope) ** 2
        squares[0][rows] = drag @ k[keys] ** 2
        squares[1].index_add_(0, keys, drag.T @ q[rows] ** 2)
        squares[2].index_add_(0, keys, (p**2).T @ g[rows] ** 2)
    dq, dk, dv = (rounded(part, dtype).double().cpu() for part in made)
    return Gradients(dq, dk, dv, {name: part.double().cpu() for name, part in zip(GRADIENTS, squares, strict=True)})


@dataclass(frozen=True)
class Flow:
    """The gradients of every head, each made once.

    Args:
        inputs: what the kernel was given.
        grad: (B, H, T, D_v), the gradient of the context.

    Raises:
        InputError: numbers that are none, or that are of queries that don't exist.
    """

    inputs: AttentionInputs
    grad: Tensor
    _made: dict[tuple[int, int, str | None], Gradients] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for batch in range(self.inputs.B):
            exists = self.inputs.item(batch).query_padding
            there = self.grad[batch] if exists is None else self.grad[batch][:, exists.to(self.grad.device)]
            if not bool(torch.isfinite(there).all()):
                raise InputError(
                    f"{self.inputs.source}: grad of batch item {batch} holds NaN or Inf; is it the right one?"
                )

    def of(self, name: str, batch: int, heads: Sequence[int], dtype: str | None = None) -> tuple[Tensor, Tensor]:
        """One gradient, summed over query heads, and the root of the sum of the squares of its terms, (n, C) both."""
        each = [self._of_head(batch, head, dtype) for head in heads]
        total = torch.stack([getattr(one, name) for one in each]).sum(0)
        return rounded(total, dtype), torch.stack([one.squares[name] for one in each]).sum(0).sqrt()

    def _of_head(self, batch: int, head: int, dtype: str | None) -> Gradients:
        place = batch, head, dtype
        if place not in self._made:
            attention = (exact_attention if dtype is None else plain_attention)(self.inputs, batch)
            exists, grad = attention.item.query_padding, self.grad[batch, head]
            grad = grad if exists is None else grad.masked_fill(~exists.to(grad.device)[:, None], 0.0)
            self._made[place] = gradients(attention, head, grad, dtype)
        return self._made[place]

    def check_padding(self, name: str) -> None:
        """Raises InputError where sums over queries would depend on whether a kernel computes those that don't exist."""
        for batch in range(self.inputs.B):
            exists = self.inputs.item(batch).query_padding
            if exists is not None and bool((self.grad[batch][:, ~exists.to(self.grad.device)] != 0).any()):
                raise InputError(
                    f"{self.inputs.source}: grad of batch item {batch} is not 0 in rows of queries that are padding, which "
                    f"{name} may be a sum over or not; set it to 0 there, or give query_padding_mask, which queries exist"
                )


def check_gradients(
    name: str,
    actual: Tensor,
    flow: Flow,
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
        flow: what makes the exact ones.
        rule: how far they may be off.
        rows: the queries, or keys, to look at; None is all. Those of keys are over all queries.
        heads, batches: which query heads and batch items.

    Raises:
        InputError: the gradient of the context is of queries that don't exist, too.
    """
    inputs = flow.inputs
    group = inputs.H // inputs.H_kv
    own = list(heads) if name == "dq" else sorted({head // group for head in heads})
    if name != "dq":
        flow.check_padding(name)
    for batch in batches:
        item = inputs.item(batch)
        for head in own:
            queries = [head] if name == "dq" else range(head * group, (head + 1) * group)
            exact, size = flow.of(name, batch, queries)
            at = torch.arange(len(exact)) if rows is None else rows
            plain = None
            if isinstance(rule, Rounding):
                plain, _ = flow.of(name, batch, queries, rule.dtype)
                allowed = rule.of_contexts(exact, plain, max(inputs.T * group, inputs.S), size)[at]
                plain = plain[at]
            else:
                allowed = rule.of_rows(exact)[at]
            given = actual[batch, head].detach().cpu().double()[at]
            places = Places(len(actual[batch, head]), inputs.S, item)
            found = held(name, given, exact[at], allowed, (batch, head), at, places, plain)
            if found.within:
                check_can_fail(rule, float(exact.nan_to_num().abs().max()), name)
            yield found
