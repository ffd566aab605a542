"""What maps are made of, told from all else by a digest: for parts that are kept, and for ranks that must have read the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from attnviz.attention.call import OF_TOKENS
from attnviz.attention.derived import NORMS, DerivedInputs, with_pattern
from attnviz.attention.item import AttentionItem
from attnviz.attention.merged import MergedInputs
from attnviz.attention.patterns import GlobalKeys, Pattern
from attnviz.base.errors import InputError

_BY_ROW = ("q", "weights", "logits")
"""Fields of inputs that have a row a query in each head, and are taken row by row."""

_BY_HEAD = ("k", "k_global", "q_global", "v", "v_global", "w_o", "bias")
"""Large fields that are taken a head at a time, as far as a map is made of them."""

_UNDER = ("parts", "base")
"""Fields that are inputs themselves."""

_SAID = ("source", "layer", "pattern", "token_form", *OF_TOKENS)
"""Fields that say what the inputs are, and change no number of a map under the pattern that was asked for."""


class Identity:
    """A digest that takes in values: what each is, and all that is in it."""

    def __init__(self, source: str, *, code: bool = False) -> None:
        """``source``: what errors call it; ``code``: whether what is made of code is taken by the name of its type, and not refused."""
        self.source, self.code, self._made = source, code, hashlib.sha256()

    @property
    def bytes(self) -> bytes:
        """32 bytes of all that was taken in so far."""
        return self._made.digest()

    def take(self, *values: Any) -> Identity:
        """Takes values in.

        Raises:
            InputError: what is made of code, which can't be told from other code.
        """
        for value in values:
            self._take(value)
        return self

    def _take(self, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            self._take_tensor(value.detach())
        elif isinstance(value, np.ndarray):
            self._take_tensor(torch.from_numpy(np.ascontiguousarray(value)))
        elif is_dataclass(value) and type(value).__module__.startswith("attnviz."):
            self._made.update(type(value).__qualname__.encode())
            for field in fields(value):
                if not field.name.startswith("_"):
                    self.take(field.name, getattr(value, field.name))
        elif isinstance(value, (tuple, list)):
            self._made.update(f"{type(value).__name__} {len(value)}".encode())
            self.take(*value)
        elif isinstance(value, Mapping):
            self.take(sorted(value.items()))
        elif value is None or isinstance(value, (bool, int, float, str, range, torch.dtype, torch.device)):
            self._made.update(repr(value).encode())
        elif self.code:
            self._made.update(type(value).__qualname__.encode())
        else:
            raise InputError(
                f"{self.source}: a pattern or a setting made of code ({type(value).__name__}) can't be told from another when a "
                f"run goes on; leave --checkpoint out"
            )

    def _take_tensor(self, rows: torch.Tensor) -> None:
        """A tensor, in parts: nothing of its size is made."""
        self._made.update(repr((str(rows.dtype), tuple(rows.shape))).encode())
        size = max(1, (1 << 24) // max(1, rows[:1].numel())) if rows.ndim else 1
        for part in rows.split(size) if rows.ndim else (rows[None],):
            self._made.update(part.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)


def take_made_of(identity: Identity, item: AttentionItem, pattern: Pattern, heads: Sequence[int]) -> None:
    """All that the maps of heads are made of, save what has a row a query: :func:`take_rows` takes that."""
    inputs = item.inputs
    identity.take(type(inputs).__name__, str(item.dtype), item.sizes, item.batch, tuple(heads))
    for field in fields(inputs):
        if field.compare and field.name not in (*_BY_ROW, *_BY_HEAD, *_UNDER, *_SAID):
            identity.take(field.name, getattr(inputs, field.name))
    identity.take(*(pattern.of_head(head) for head in heads))
    for head in dict.fromkeys(item.kv_head(head) for head in heads):
        for name in ("k", "k_global") if pattern.global_queries else ("k",):
            _take_head(identity, item, name, head)


def take_rows(identity: Identity, item: AttentionItem, pattern: Pattern, head: int, rows: range) -> None:
    """What some rows of a head's map are made of, and others are not."""
    for name in (*_BY_ROW, "q_global") if pattern.global_queries else _BY_ROW:
        _take_head(identity, item, name, head, rows)
    bias = getattr(item.inputs, "bias", None)
    if bias is not None:
        whole = bias[min(item.batch, bias.shape[0] - 1), min(head, bias.shape[1] - 1)]
        identity.take(whole[rows.start : rows.stop] if len(whole) > 1 else whole)


def read_alike(item: AttentionItem, pattern: Pattern, heads: Sequence[int]) -> bytes:
    """32 bytes by which processes see that they have read the same: what maps are made of, and three rows of each.

    Each process reads the rows of its own parts alone; what a map is made of that is made of others is taken too.
    """
    identity = Identity(item.source, code=True)
    _take_alike(identity, item, pattern, heads)
    return identity.bytes


def _take_alike(identity: Identity, item: AttentionItem, pattern: Pattern, heads: Sequence[int]) -> None:
    identity.take(str(pattern))
    take_made_of(identity, item, pattern, heads)
    for head in heads:
        for row in sorted({0, item.T // 2, item.T - 1}):
            take_rows(identity, item, pattern, head, range(row, row + 1))
    for part, own, its in _under(item, pattern, heads):
        if isinstance(item.inputs, DerivedInputs) and item.inputs.how in NORMS:
            for head in its:
                _take_head(identity, part, "v", part.kv_head(head))
                identity.take(None if part.inputs.w_o is None else part.inputs.w_o[head])  # type: ignore[attr-defined]
        _take_alike(identity, part, own, its)


def _under(
    item: AttentionItem, pattern: Pattern, heads: Sequence[int]
) -> Iterator[tuple[AttentionItem, Pattern, Sequence[int]]]:
    """What an attention is made of that is made of others: items, patterns and heads."""
    inputs = item.inputs
    if isinstance(inputs, MergedInputs):
        yield inputs.under(item), inputs.own, heads
    elif isinstance(inputs, DerivedInputs):
        parts = with_pattern(inputs, pattern).parts
        for part, batch in zip(parts, inputs.items or [item.batch] * len(parts), strict=True):
            its = inputs.heads or (range(part.H) if inputs.how == "rollout" else heads)
            yield part.item(batch, device=item.device), part.pattern or GlobalKeys(), its


def _take_head(identity: Identity, item: AttentionItem, name: str, head: int, rows: range | None = None) -> None:
    """A head of a field of inputs, or rows of it, where there is one."""
    value = getattr(item.inputs, name, None)
    if value is not None:
        own = value[item.batch, head]
        identity.take(name, own if rows is None else own[rows.start : rows.stop])
