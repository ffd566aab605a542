"""Masks that libraries write as numbers to add to the scores."""

from __future__ import annotations

from torch import Tensor

HIDDEN = -1e4
"""What a library adds to hide a key is this or less: 10000, the least finite number, or infinity."""


def seen_and_added(mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """What an additive mask shows, bool, and what it adds besides; None where that is nothing.

    >>> import torch
    >>> seen, added = seen_and_added(torch.tensor([[0.0, -1e4], [0.5, 0.0]]))
    >>> seen.tolist(), added.tolist()
    ([[True, False], [True, True]], [[0.0, 0.0], [0.5, 0.0]])
    """
    hidden = mask <= HIDDEN  # NaN hides nothing: it stays, for an error to name
    if not bool(((mask != 0) & ~hidden).any()):
        return ~hidden, None
    return ~hidden, mask.masked_fill(hidden, 0)
