"""Attention calls as a model makes them, and what a layer's calls amount to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.inputs import AttentionInputs
from attnviz.attention.patterns import Local, Pattern, longformer
from attnviz.attention.rotary import Rotary
from attnviz.base.errors import InputError
from attnviz.captures.heard import Heard, Kept, Memo
from attnviz.captures.masks import Mask, Step, Visibility, read


@dataclass(frozen=True, eq=False)
class Call:
    """What went into one call of an attention kernel.

    Args:
        q: queries as the kernel saw them, (B, H, T, D).
        k, v: keys and values that the kernel saw, those of a cache among them, (B, H_kv, S, D); None where a cache
            held them all and the last call's are meant.
        mask: what it hid.
        cross: whether keys are of another sequence.
        past: keys that the kernel saw before the first of ``k``.
        kept: what the cache held before the call; None where that isn't known.
        scale, softcap, sinks, bias: as in :class:`attnviz.AttentionInputs`; None is none.
        window: the sliding window the model names, the query itself included.
        local: keys to each side that Longformer's queries see; with it, ``mask`` holds the padding alone.
        global_mask, q_global, k_global, v_global: as in :class:`attnviz.AttentionInputs`.
        rotary: how q and k were turned by their positions, where that was seen.
        unread: arguments that the function was given and that have no place here.
    """

    q: Tensor
    k: Tensor | None
    v: Tensor | None
    mask: Mask
    cross: bool = False
    past: int = 0
    kept: Kept | None = None
    scale: float | None = None
    softcap: float | None = None
    sinks: Tensor | None = None  # (H,)
    bias: Tensor | None = None  # (B | 1, H | 1, T, S)
    window: int | None = None
    local: int | None = None
    global_mask: Tensor | None = None  # (B, S)
    q_global: Tensor | None = None
    k_global: Tensor | None = None
    v_global: Tensor | None = None
    rotary: Rotary | None = None
    unread: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[int, int, int]:
        """B, H and T."""
        B, H, T, _ = self.q.shape
        return B, H, T


@dataclass(eq=False)
class Layer(Heard[Call]):
    """The calls of one attention layer that belong together, its queries and keys seen."""

    first: int = 0  # the position of the first key

    def add(self, call: Call, forward_pass: int, *, begins: int | None = None, copy: bool = True) -> int | None:
        row = self._joint(call, begins)
        if row is not None:
            self.cut(row)
            S, end = self.steps[-1].end, self.steps[-1].end
            if call.cross:
                call = _with(call, k=None, v=None)
            else:
                assert call.k is not None
                T = call.q.shape[2]
                S, end = call.past + call.k.shape[2], end + T
                call = _with(call, k=call.k[:, :, -T:], v=None if call.v is None else call.v[:, :, -T:])
        else:
            if call.k is None or call.past:
                raise InputError(
                    f"layer {self.label}: its cache holds {call.past or 'the'} keys that were projected before the capture "
                    f"began; begin it before the first forward pass"
                )
            self.anew()
            S = end = call.k.shape[2]
            self.first = call.kept.first if call.kept and call.kept.first + S == call.kept.past + call.q.shape[2] else 0
        step = Step(call.mask, row or 0, call.q.shape[2], S, end)
        self.keep(_owned(call) if copy else call, step, forward_pass)
        return row

    def inputs(
        self, *, source: str, tokens: Mapping[str, Any] | None = None, memo: Memo | None = None, whole: bool = True
    ) -> AttentionInputs:
        first = self.calls[0]
        q, k = self._joined("q"), self._joined("k")
        v = None if first.v is None else self._joined("v").to(q.dtype)
        S = k.shape[2]
        visibility = self._visibility(S, {} if memo is None else memo)
        padding = visibility.key_padding_mask
        if padding is not None:
            padding = padding.expand(len(q), S)
        return AttentionInputs(
            q,
            k.to(q.dtype),
            v,
            w_o=self.projection(v) if whole else None,
            residual_norms=self.residual_norms,
            global_mask=first.global_mask,
            key_padding_mask=padding,
            cross=first.cross,
            key_positions=torch.arange(self.first, self.first + S) if self.first else None,
            q_global=first.q_global,
            k_global=first.k_global,
            v_global=first.v_global,
            scale=first.scale,
            softcap=first.softcap,
            bias=self._bias(S),
            sinks=first.sinks,
            rotary=self._rotary,
            pattern=visibility.pattern,
            source=source,
            layer=self.label,
            **(tokens or {}),
        )

    @property
    def _rotary(self) -> Rotary | None:
        """How q and k were turned; None where that was not seen, or calls say different things."""
        said = {call.rotary for call in self.calls} - {None}
        return said.pop() if len(said) == 1 else None

    def _joined(self, name: str) -> Tensor:
        """What the calls have of q, k or v, along positions."""
        parts = [(n, getattr(call, name)) for n, call in enumerate(self.calls)]
        there = [self.placed(n, part) for n, part in parts if part is not None]
        return there[0] if len(there) == 1 else torch.cat(there, dim=2)

    def _joint(self, call: Call, begins: int | None) -> int | None:
        """The row at which a call's queries go on from those before; None where they don't."""
        if call.local is not None or not self.calls or self.calls[-1].q.shape[:2] != call.q.shape[:2]:
            return None
        rows, end = self.steps[-1].start + self.steps[-1].T, self.steps[-1].end
        if call.cross:
            if call.k is None:
                return rows if begins is None else begins
            return begins if call.k.shape[2] == end else None
        assert call.k is not None
        T, S = call.q.shape[2], call.k.shape[2]
        if call.past:
            row = rows - (end - call.past)
            return row if 0 < row <= rows else None
        past = end if call.kept is None else call.kept.past - self.first
        row = rows - (end - past)
        if T >= S or not 0 < row <= rows:
            return None
        return row if call.k[:, :, -T - 1].equal(self._key(past - 1)) else None

    def _key(self, index: int) -> Tensor:
        """The key of an index, (B, H_kv, D)."""
        for n, (call, step) in enumerate(zip(self.calls, self.steps, strict=True)):
            if index < step.end:
                assert call.k is not None
                return self.placed(n, call.k[:, :, index - step.end])
        raise IndexError(index)

    def first_of(self, call: Call, T: int, more: int) -> Call:
        return replace(
            call,
            q=call.q[:, :, :T],
            k=None if call.k is None else call.k[:, :, : call.k.shape[2] - more],
            v=None if call.v is None else call.v[:, :, : call.v.shape[2] - more],
            bias=None if call.bias is None else call.bias[:, :, :T, : self.steps[-1].S - more],
        )

    def _visibility(self, S: int, memo: Memo) -> Visibility:
        first = self.calls[0]
        if first.local is not None:
            pattern: Pattern = Local(first.local) if first.global_mask is None else longformer(first.local)
            padding = first.mask.padding
            return Visibility(pattern, None if padding is None or bool(padding.all()) else padding)
        steps = self.places
        masks = [step.mask for step in steps]
        key = (*map(id, masks), S, first.window, first.cross)
        if key not in memo:
            memo[key] = (masks, read(steps, S, cross=first.cross, window=first.window))
        return memo[key][1]

    def _bias(self, S: int) -> Tensor | None:
        biases = [
            call.bias if call.bias is None or len(call.bias) == 1 else self.placed(n, call.bias)
            for n, call in enumerate(self.calls)
        ]
        if len(biases) == 1:
            return biases[0]
        given = next((bias for bias in biases if bias is not None), None)
        if given is None:
            return None
        parts = []
        for bias, step in zip(biases, self.steps, strict=True):
            wide = given.new_zeros((*given.shape[:2], step.T, S))
            if bias is not None:
                wide[..., step.end - step.S : step.end] = bias
            parts.append(wide)
        return torch.cat(parts, dim=2)


def _owned(call: Call) -> Call:
    """The call with tensors of its own: models write into theirs again."""
    names = ("q", "k", "v", "q_global", "k_global", "v_global", "sinks")
    return _with(call, **{name: _copy(getattr(call, name)) for name in names})


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone(memory_format=torch.contiguous_format)


def _with(call: Call, **changes: Tensor | None) -> Call:
    return replace(call, **changes)  # type: ignore[arg-type]
