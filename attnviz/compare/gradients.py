"""Gradients of a kernel against those of the exact formula, streamed over rows: nothing of the size of the map is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attnviz.attention.inputs import AttentionInputs
from attnviz.base.errors import InputError
from attnviz.compare.outputs import (
    ValueRows,
    exact_attention,
    held,
    plain_attention,
    rounded,
    sizes_of_columns,
    value_rows,
)
from attnviz.compare.places import Places
from attnviz.compare.report import HeadCheck
from attnviz.compare.rounding import Rounding, Rule, Sizes, check_can_fail
from attnviz.engine.attention import Attention
from attnviz.engine.softmax import softmax_
from attnviz.engine.visibility import HIDDEN

GRADIENTS = ("dq", "dk", "dv")
"""The gradients that are checked: of queries, keys and values."""

OF_KEYS = ("dk", "dv")
"""Those that have a row a key."""


@dataclass(frozen=True)
class Gradients:
    """The gradients of one query head, in float64 on the CPU; of each beside it what its errors are relative to."""

    made: dict[str, Tensor]  # dq (T, D), NaN in the row of a query that sees nothing; dk (S, D); dv (S, D_v)
    squares: dict[str, Tensor]  # the sums of the squares of what each is a sum of
    strays: dict[str, Tensor]  # the sums of the squares of what the errors of products make of each


def gradients(
    attention: Attention, head: int, grad: Tensor, dtype: str | None = None, rule: Rounding | None = None
) -> Gradients:
    """What a gradient of the context makes of q, k and v, each result rounded to ``dtype`` where one is given.

    With ``p`` the weights and ``g`` the gradient: ``dv = p' g``; with ``s = g v'``, a logit's is ``p (s - sum p s)``, times the
    softcap's own, and ``dq`` and ``dk`` are its products with k and q, times the scale.

    Args:
        attention: whose.
        head: the query head.
        grad: (T, D_v), the gradient of its context.
        dtype: what results are rounded to.
        rule: how far products may be off, where ``strays`` are wanted.

    Raises:
        InputError: global queries, whose projections have gradients of their own.
    """
    item = attention.item
    if attention.pattern.global_queries:
        raise InputError(f"{item.source}: gradients of patterns with global queries are not checked; leave them out")
    with torch.no_grad():
        way = _Backward(attention, head, grad, dtype, rule)
        for block in value_rows(attention, head, None):
            if len(block.keys):
                way.add(block)
        return way.result()


class _Backward:
    """The gradients of one head while blocks of rows come in."""

    def __init__(self, attention: Attention, head: int, grad: Tensor, dtype: str | None, rule: Rounding | None) -> None:
        self.item, self.head, self.dtype, self.rule = attention.item, head, dtype, rule
        wide = self.item.compute_dtype
        self.q, self.k, self.v = (
            tensor.to(wide) for tensor in (self.item.query(head), self.item.key(head), self.item.value(head))
        )
        self.g = grad.to(self.item.device, wide)
        zeros = [{name: torch.zeros_like(getattr(self, name[1])) for name in GRADIENTS} for _ in range(3)]
        self.made, self.squares, self.strays = zeros
        self.made["dq"][:] = torch.nan
        if rule is not None:
            self.sizes = Sizes.of(self.item, head).to(self.item.device)
            longest = torch.linalg.vector_norm(self.v, dim=1).max()
            self.pulls = Sizes(torch.linalg.vector_norm(self.g, dim=1, keepdim=True) * longest, self.v.shape[1], False)

    def add(self, block: ValueRows) -> None:
        """Takes in some rows."""
        rows, keys, dtype, scale = block.rows, block.keys, self.dtype, self.item.scale
        q, k, v, g = self.q[rows], self.k[keys], self.v[keys], self.g[rows]
        cap, slope = self.item.softcap(), None
        if cap is not None:  # of the product before what is added to it
            slope = 1 - torch.tanh(q @ k.T * scale / cap) ** 2
        logits = rounded(block.values.clone(), dtype)  # softmax is in place; block.values is asked for again
        p = rounded(softmax_(logits, self.item.sink(self.head)).nan_to_num(), dtype)
        s = rounded(g @ v.T, dtype)
        delta = (p * s).sum(1, keepdim=True)
        d = p * (s - delta)
        d = rounded(d if slope is None else d * slope, dtype)
        blank = (block.values == HIDDEN).all(1, keepdim=True)
        self.made["dq"][rows] = (d @ k * scale).masked_fill(blank, torch.nan)
        self.made["dk"].index_add_(0, keys, d.T @ q * scale)
        self.made["dv"].index_add_(0, keys, p.T @ g)
        bent = p * scale if slope is None else p * slope * scale  # what a product's gradient is, of s - delta
        drag = (bent * (s.abs() + delta.abs())) ** 2
        self._add(self.squares, rows, keys, drag, drag, p**2)
        if self.rule is not None:
            self._add_strays(block, p, s, delta, bent, self.rule)

    def _add(self, to: dict[str, Tensor], rows: Tensor, keys: Tensor, dq: Tensor, dk: Tensor, dv: Tensor) -> None:
        """Adds the products of the squares of pairs, (b, n), with those of k, q and g."""
        to["dq"][rows] = dq @ self.k[keys] ** 2
        to["dk"].index_add_(0, keys, dk.T @ self.q[rows] ** 2)
        to["dv"].index_add_(0, keys, dv.T @ self.g[rows] ** 2)

    def _add_strays(self, block: ValueRows, p: Tensor, s: Tensor, delta: Tensor, bent: Tensor, rule: Rounding) -> None:
        """What the errors of logits, of ``s`` and of ``delta`` make of each gradient."""
        rows, keys = block.rows, block.keys
        error = rule.of_logits(block.values, self.sizes.at(rows))
        of_pull = rule.of_logits(s, self.pulls.at(rows))
        own = (error * (s - delta)) ** 2 + of_pull**2  # of each pair, by itself
        # Those of a row's delta go into all of its pairs alike: what a rounded context makes of it, and what weights do.
        of_context = rule.unit**2 * (self.g[rows] ** 2 * (p @ self.v[keys]) ** 2).sum(1, keepdim=True)
        shared = (p**2 * own).sum(1, keepdim=True) + of_context
        self._add(self.strays, rows, keys, bent**2 * own, bent**2 * (own + shared), (p * error) ** 2)
        along = (p * error).sum(1, keepdim=True) * self.made["dq"][rows].nan_to_num()
        self.strays["dq"][rows] += shared * (bent @ self.k[keys]) ** 2 + along**2

    def result(self) -> Gradients:
        """What came in."""
        made = {name: rounded(part, self.dtype).double().cpu() for name, part in self.made.items()}
        squares, strays = (
            {name: part.double().cpu() for name, part in parts.items()} for parts in (self.squares, self.strays)
        )
        return Gradients(made, squares, strays)


@dataclass(frozen=True)
class Summed:
    """One gradient of a head, summed over the query heads that make it, (n, C) each."""

    made: Tensor
    size: Tensor  # the root of the sum of the squares of what it is a sum of
    strays: Tensor  # that of what the errors of products make of it


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
    _made: dict[tuple[int, int, str | None, Rule | None], Gradients] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for batch in range(self.inputs.B):
            exists = self.inputs.item(batch).query_padding
            there = self.grad[batch] if exists is None else self.grad[batch][:, exists.to(self.grad.device)]
            if not bool(torch.isfinite(there).all()):
                raise InputError(
                    f"{self.inputs.source}: grad of batch item {batch} holds NaN or Inf; is it the right one?"
                )

    def of(
        self, name: str, batch: int, heads: Sequence[int], dtype: str | None = None, rule: Rule | None = None
    ) -> Summed:
        """One gradient; ``dtype``: what results are rounded to; ``rule``: how far products may be off."""
        each = [self._of_head(batch, head, dtype, rule) for head in heads]
        made, squares, strays = (
            torch.stack([getattr(one, part)[name] for one in each]).sum(0) for part in ("made", "squares", "strays")
        )
        return Summed(rounded(made, dtype), squares.sqrt(), strays.sqrt())

    def _of_head(self, batch: int, head: int, dtype: str | None, rule: Rule | None) -> Gradients:
        place = batch, head, dtype, rule
        if place not in self._made:
            attention = (exact_attention if dtype is None else plain_attention)(self.inputs, batch)
            exists, grad = attention.item.query_padding, self.grad[batch, head]
            grad = grad if exists is None else grad.masked_fill(~exists.to(grad.device)[:, None], 0.0)
            how = rule if isinstance(rule, Rounding) else None
            self._made[place] = gradients(attention, head, grad, dtype, how)
        return self._made[place]

    def columns(self, name: str, batch: int, heads: Sequence[int]) -> Tensor:
        """The size of what each column of a gradient is a sum of, (C,): of k's, q's or grad's columns."""
        item = self.inputs.item(batch)

        def size(head: int) -> Tensor:
            if name == "dv":
                return sizes_of_columns(self.grad[batch, head], item.query_padding)
            if name == "dk":
                return sizes_of_columns(item.query(head), item.query_padding)
            return sizes_of_columns(item.key(head), item.key_padding)

        return torch.stack([size(head) for head in heads]).amax(0)

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
            right = flow.of(name, batch, queries, rule=rule)
            exact, plain = right.made, None
            at = torch.arange(len(exact)) if rows is None else rows
            if isinstance(rule, Rounding):
                plain = flow.of(name, batch, queries, rule.dtype).made
                terms = max(inputs.T * group, inputs.S)
                columns = flow.columns(name, batch, queries)
                strays = 2 * right.strays  # of both passes
                allowed = rule.of_contexts(exact, plain, terms, columns, right.size, strays)[at]
                plain = plain[at]
            else:
                allowed = rule.of_rows(exact)[at]
            given = actual[batch, head].detach().cpu().double()[at]
            places = Places(len(actual[batch, head]), inputs.S, item, of_keys=name in OF_KEYS)
            found = held(name, given, exact[at], allowed, (batch, head), at, places, plain)
            if found.within:
                check_can_fail(rule, float(exact.nan_to_num().abs().max()), name)
            yield found
