"""Attention whose weights were seen and whose queries and keys were not: the calls of a layer, and what they amount to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.additive import HIDDEN
from attnviz.attention.given import AttentionWeights
from attnviz.attention.patterns import Full
from attnviz.captures.heard import Heard, Kept, Memo
from attnviz.captures.masks import Mask, Step, Visibility, read


@dataclass(frozen=True, eq=False)
class Weighed:
    """What one call of a model's own attention computed.

    Args:
        weights: (B, H, T, S), before dropout.
        logits: what the softmax was given, likewise; None where the weights were changed after it.
        v: values, (B, H_kv, S, D_v); None where they aren't known.
        cross: whether keys are of another sequence.
        kept: what the cache held before the call; None where that isn't known.
        mask: what was hidden, where the call said it; None: as the logits say.
        unread: as in :class:`~attnviz.captures.calls.Call`.
    """

    weights: Tensor
    logits: Tensor | None
    v: Tensor | None
    cross: bool = False
    kept: Kept | None = None
    mask: Mask | None = None
    unread: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[int, int, int]:
        """B, H and T."""
        B, H, T, _ = self.weights.shape
        return B, H, T


@dataclass(eq=False)
class WeighedLayer(Heard[Weighed]):
    """The calls of one layer whose weights are known, that belong together."""

    def add(self, call: Weighed, forward_pass: int, *, begins: int | None = None, copy: bool = True) -> int | None:
        """Takes in a call: as the next step where its keys go on from the last, else in place of what there was."""
        row = self._joint(call, begins)
        T, S = call.weights.shape[2:]
        if row is None:
            self.anew()
        else:
            self.cut(row)
        mask = Mask(_seen(call))
        own = replace(
            call,
            weights=_own(call.weights, copy=copy),
            logits=None if call.logits is None else _own(call.logits, copy=copy),
            v=None if call.v is None else _own(call.v, copy=copy),
        )
        self.keep(own, Step(mask, row or 0, T, S, S), forward_pass)
        return row

    def inputs(
        self, *, source: str, tokens: Mapping[str, Any] | None = None, memo: Memo | None = None, whole: bool = True
    ) -> AttentionWeights:
        """The layer's calls as the weights of one."""
        S = self.calls[-1].weights.shape[3]
        weights = torch.cat([self.placed(n, _wide(call.weights, S, 0.0)) for n, call in enumerate(self.calls)], dim=2)
        logits = None
        if all(call.logits is not None for call in self.calls):
            parts = [call.logits for call in self.calls if call.logits is not None]
            wide = [self.placed(n, _wide(part, S, -torch.inf)) for n, part in enumerate(parts)]
            logits = torch.cat(wide, dim=2).to(weights.dtype)
            logits = logits.masked_fill(logits <= HIDDEN, -torch.inf)
        v = self.calls[-1].v
        v = None if v is None else self.placed(len(self.calls) - 1, v)
        visibility = self._visibility(S, weights)
        padding = visibility.key_padding_mask
        return AttentionWeights(
            weights,
            logits=logits,
            v=None if v is None else v.to(weights.dtype),
            w_o=self.projection(v) if whole else None,
            residual_norms=self.residual_norms,
            key_padding_mask=None if padding is None else padding.expand(len(weights), S),
            cross=self.calls[0].cross,
            pattern=visibility.pattern,
            source=source,
            layer=self.label,
            **(tokens or {}),
        )

    def first_of(self, call: Weighed, T: int, more: int) -> Weighed:
        """A call without the last of its queries, and as many keys."""
        S = call.weights.shape[3] - more
        return replace(
            call,
            weights=call.weights[:, :, :T, :S],
            logits=None if call.logits is None else call.logits[:, :, :T, :S],
            v=None if call.v is None else call.v[:, :, :S],
            mask=None if call.mask is None else call.mask.part(T, S),
        )

    def _joint(self, call: Weighed, begins: int | None) -> int | None:
        if not self.calls or self.calls[-1].sizes[:2] != call.sizes[:2]:
            return None
        T, S = call.weights.shape[2:]
        rows, end = self.steps[-1].start + self.steps[-1].T, self.steps[-1].end
        if call.cross:
            return begins if begins and end == S else None
        past = S - T if call.kept is None else call.kept.past
        row = rows - (end - past)
        return row if T < S and 0 < row <= rows and past == S - T else None

    def _visibility(self, S: int, weights: Tensor) -> Visibility:
        """What the logits hid, where that is what the weights show."""
        steps = self.places
        if any(step.mask.visible is None for step in steps):
            return Visibility(Full())
        return read(steps, S, cross=self.calls[0].cross)


def _seen(call: Weighed) -> Tensor | None:
    """Which keys a call shows, by its mask or its logits; None where these don't say it."""
    T, S = call.weights.shape[2:]
    if call.mask is not None:
        seen = call.mask.rows(range(T), T, S).to(call.weights.device)
    elif call.logits is not None:
        seen = call.logits > HIDDEN
    else:
        return None
    hidden = (call.weights != 0) & ~seen & seen.any(-1, keepdim=True)
    if bool(hidden.any()):
        return None
    same = bool((seen == seen[:, :1]).all())
    return seen[:, :1] if same else seen


def _own(tensor: Tensor, *, copy: bool) -> Tensor:
    return tensor.detach().clone() if copy else tensor.detach()


def _wide(part: Tensor, S: int, empty: float) -> Tensor:
    """A step's rows over the keys of all."""
    more = S - part.shape[3]
    return part if not more else torch.nn.functional.pad(part, (0, more), value=empty)
