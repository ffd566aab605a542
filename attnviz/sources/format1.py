"""What words of dump format 1 meant that mean something else today."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from attnviz.base.errors import Note

if TYPE_CHECKING:
    from torch import Tensor

    from attnviz.attention.inputs import Inputs


def read_as_format_1(where: str, tensors: dict[str, Tensor]) -> None:
    """Gives what format 1 meant today's words, and says so."""
    import torch

    from attnviz.base.devices import is_real

    bias = tensors.get("bias")
    if bias is None or not is_real(bias):
        return
    from attnviz.attention.checks import unexpanded

    bias = unexpanded(bias)
    hid = hid_a_key(bias)
    if bool(hid.any()):
        tensors["bias"] = bias.masked_fill(hid, -torch.inf)
        _note(
            f"{where}: written in dump format 1, where a bias of {torch.finfo(bias.dtype).min / 2:.3g} or less hides a "
            f"key; {int(hid.sum())} of its numbers are read as -inf"
        )


def note_moved_windows(where: str, inputs: Inputs) -> None:
    """Says where a window of format 1 is another today."""
    if has_moved_window(inputs):
        _note(
            f"{where}: written in dump format 1, whose windows counted queries from the first key on; they are now the "
            f"last {inputs.T} of {inputs.S} positions, and see the keys around these"
        )


def has_moved_window(inputs: Inputs) -> bool:
    """Whether format 1 meant another window by the same words: it counted queries from the first key on."""
    from attnviz.attention.names import parts_of
    from attnviz.attention.patterns import Local

    own = inputs.pattern
    return inputs.T != inputs.S and own is not None and any(isinstance(part, Local) for part in parts_of(own))


def hid_a_key(bias: Tensor) -> Tensor:
    """Which finite numbers of a bias hid a key in format 1: those at or below half of its dtype's least."""
    import torch

    return bias.isfinite() & (bias <= torch.finfo(bias.dtype).min / 2)


def _note(message: str) -> None:
    warnings.warn(Note(message), stacklevel=3)
