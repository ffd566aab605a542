"""Softmax over what is visible, in place or with what else a row tells."""

from __future__ import annotations

import torch
from torch import Tensor

from attnviz.engine.visibility import HIDDEN

BLANK = float("nan")
"""The weight of a query that sees nothing."""

_SHORT = 128
"""Keys up to which one after another adds up as well as a tree."""

_FAR = -1e4
"""A logit this far below the peak has weight 0 in any dtype; 0 times it is 0, which 0 times -inf isn't."""


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


def softmax_and_entropy_(logits: Tensor, sink: float | None, out: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`softmax_`, into other memory; and the largest logit and the entropy of each row, (b,).

    With ``z`` the logits below the row's peak and ``Z`` the sum of their exp, a row's entropy is ``log Z`` less the sum of
    weight times ``z``: no logarithm a pair, and nothing large that cancels.

    Args:
        logits: (b, n), n not 0, overwritten with nothing of use.
        sink: a logit that adds to the denominator alone, so that its row sums to less than 1.
        out: (b, n), contiguous, takes the weights.
    """
    largest = logits.amax(1)
    blank = largest == HIDDEN
    peak = largest.masked_fill(blank, 0)
    if sink is None:
        _whole_(torch.softmax(logits.sub_(peak[:, None]), -1, out=out))
        logs = -out.amax(1).log()  # the largest weight is exp(0) / Z
    else:
        peak = peak.clamp(min=sink)
        torch.exp(logits.sub_(peak[:, None]), out=out)
        mass = out.sum(1)
        total = _divided_(out, peak, blank, sink)[1]
        logs = total.log() * (mass / total)
    entropy = logs - logits.clamp_(min=_FAR).mul_(out).sum(1)
    return largest, entropy.clamp_(min=0).abs_()  # 0, and not -0


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
