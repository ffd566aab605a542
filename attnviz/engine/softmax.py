"""Softmax over what is visible, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from attnviz.engine.visibility import HIDDEN

BLANK = float("nan")
"""The weight of a query that sees nothing."""


def softmax_(logits: Tensor, sink: float | None = None) -> Tensor:
    """Softmax of the last dimension, in place; a row of -inf becomes NaN, the mark of a query that sees nothing.

    Args:
        logits: (..., C), overwritten with the weights.
        sink: a logit that adds to the denominator alone.
    """
    if sink is None and logits.is_contiguous():
        return torch.softmax(logits, -1, out=logits)
    if not logits.shape[-1]:
        return logits
    peak = logits.amax(-1, keepdim=True)
    blank = peak == HIDDEN
    if sink is not None:
        peak = peak.clamp(min=sink)
    logits.sub_(peak).exp_()
    total = logits.sum(-1, keepdim=True)
    if sink is not None:
        total += torch.exp(sink - peak)
    return logits.div_(total.masked_fill_(blank, BLANK))
