"""Softmax over what is visible, in place or with what else a row tells."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnviz.engine.visibility import HIDDEN

BLANK = float("nan")
"""The weight of a query that sees nothing."""

_SHORT = 128
"""Keys up to which one after another adds up as well as a tree."""

_FAR = -1e4
"""A logit this far below the peak has weight 0 in any dtype; 0 times it is 0, which 0 times -inf isn't."""


_CELLS = 1 << 18
"""Cells of the rows that are gone over again and again: what a core's own cache holds."""


def softmax_(logits: Tensor, sink: float | None = None) -> Tensor:
    """Softmax of the last dimension, in place; a row of -inf becomes NaN, the mark of a query that sees nothing.

    Args:
        logits: (..., C), overwritten with the weights.
        sink: a logit that adds to the denominator alone.
    """
    if sink is None and logits.is_contiguous():
        return _whole_(torch.softmax(logits, -1, out=logits))
    if not logits.shape[-1]:
        return logits
    peak = logits.amax(-1)
    blank = peak == HIDDEN
    if sink is not None:
        peak = peak.clamp(min=sink)
    return _divided_(logits.sub_(peak[..., None]).exp_(), peak, blank, sink)[0]


@dataclass(frozen=True)
class Sums:
    """What each row tells beside its weights, (b,) each."""

    largest: Tensor  # logit
    top: Tensor  # weight
    entropy: Tensor  # of the weights, in nats

    def of(self, rows: Tensor) -> Sums:
        """Those of some rows."""
        return Sums(self.largest[rows], self.top[rows], self.entropy[rows])


def softmax_and_sums_(logits: Tensor, sink: float | None = None) -> Sums:
    """As :func:`softmax_`; and what else each row tells.

    With ``z`` the logits below the row's peak and ``Z`` the sum of their exp, a row's entropy is ``log Z`` less the sum of
    weight times ``z``: no logarithm a pair, and nothing large that cancels.

    Args:
        logits: (b, n), n not 0, overwritten with the weights.
        sink: a logit that adds to the denominator alone, so that its row sums to less than 1.
    """
    parts = logits.split(max(1, _CELLS // logits.shape[1]))
    memory = torch.empty_like(parts[0])
    told = [_some_(part, sink, memory[: len(part)]) for part in parts]
    largest, top, entropy = (torch.cat(each) for each in zip(*told, strict=True)) if len(told) > 1 else told[0]
    return Sums(largest, top, entropy)


def _some_(logits: Tensor, sink: float | None, below: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same of rows that a cache holds, in memory of their size: largest logit, largest weight and entropy."""
    largest = logits.amax(1)
    blank = largest == HIDDEN
    peak = largest.masked_fill(blank, 0)
    if sink is not None:
        peak.clamp_(min=sink)
    torch.sub(logits, peak[:, None], out=below)
    if sink is None:
        weights = _whole_(torch.softmax(logits, -1, out=logits))
        top = weights.amax(1)
        logs = -top.log()  # the largest weight is exp(0) / Z
    else:
        torch.exp(below, out=logits)
        mass = logits.sum(1)
        weights, total = _divided_(logits, peak, blank, sink)
        top, logs = weights.amax(1), total.log() * (mass / total)
    entropy = logs - below.clamp_(min=_FAR).mul_(weights).sum(1)
    return largest, top, entropy.clamp_(min=0).abs_()  # 0, and not -0


def _whole_(weights: Tensor) -> Tensor:
    """Weights that torch made, (..., C), by their own sum, in place.

    Its denominator adds up one key after another: beside a peak, each of 131,072 small ones is rounded the same way, and the
    weights are off by up to 1e-3 of themselves. ``sum`` adds in a tree.
    """
    return weights.div_(weights.sum(-1, keepdim=True)) if weights.shape[-1] > _SHORT else weights


def _divided_(powers: Tensor, peak: Tensor, blank: Tensor, sink: float | None) -> tuple[Tensor, Tensor]:
    """Exp of logits less their row's peak, (..., C), made weights in place; and each row's denominator."""
    total = powers.sum(-1)
    if sink is not None:
        total += torch.exp(sink - peak)
    return powers.div_(total.masked_fill(blank, BLANK)[..., None]), total
