"""Masks as libraries write them: flags of pairs or of padding, integers, or numbers to add to the scores.

The shape says what a mask speaks of, and a shape that may be two things is refused with both named.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from attnviz.attention.additive import seen_and_added
from attnviz.attention.call import AttentionCall
from attnviz.attention.checks import unexpanded
from attnviz.attention.patterns import Full, Masked
from attnviz.base.devices import DTYPES, dtype_name, is_real, whole
from attnviz.base.errors import InputError

if TYPE_CHECKING:
    from attnviz.attention.inputs import Inputs

OfInputs = TypeVar("OfInputs", bound="Inputs")


@dataclass(frozen=True)
class ReadMask:
    """What a mask says.

    Args:
        seen: which query sees which key, (T, S), (B, T, S) or (B, H, T, S) bool with sizes of 1 that broadcast; None is all.
        padding: which keys exist, (B, S) bool; None is all.
        bias: what it adds to the scores besides, (B | 1, H | 1, T | 1, S); None is nothing.
    """

    seen: Tensor | None = None
    padding: Tensor | None = None
    bias: Tensor | None = None


def read_mask(
    mask: Tensor, sizes: tuple[int, int, int, int], *, name: str, source: str, pairs_first: bool = False
) -> ReadMask:
    """What a mask says, whichever library wrote it.

    Args:
        mask: bool or integers 0 and 1, where True and 1 are seen, or numbers to add to the scores, of which -1e4 and less
            hide; of pairs, (T, S), (B, T, S), (B, 1, T, S), (B, H, T, S), or of padding, (B, S), (B, 1, 1, S).
        sizes: (B, H, T, S) of the inputs.
        name, source: what errors call the mask and the inputs.
        pairs_first: whether rank 2 is (T, S) wherever it fits, as in dumps of format 1.

    Raises:
        InputError: a shape that fits none of these, or two; numbers that are none of these.

    >>> read_mask(torch.tensor([[1, 1, 0]]), (1, 2, 3, 3), name="attention_mask", source="dump").padding.tolist()
    [[True, True, False]]
    """
    what = f"{source}: {name}"
    mask = unexpanded(mask, range(mask.ndim - 2))  # of items and heads
    integers = not mask.is_floating_point() and mask.dtype != torch.bool
    seen, added = _seen(mask, what)
    if not _of_padding(seen, sizes, what, integers=integers, pairs_first=pairs_first):
        if added is not None and added.ndim < 4:
            added = added.reshape(-1, 1, *added.shape[-2:])
        return ReadMask(seen, None, added)
    rows = seen.reshape(-1, sizes[3]).expand(sizes[0], -1)
    bias = None if added is None else added.reshape(-1, 1, 1, sizes[3])
    return ReadMask(None, None if bool(rows.all()) else rows, bias)


def with_mask(
    inputs: OfInputs, mask: Tensor, *, name: str = "mask", pairs_first: bool = False, and_own: bool = False
) -> OfInputs:
    """The same inputs with a mask as a library wrote it: as their pattern, or as padding, and a bias of what it adds.

    Args:
        inputs: queries and keys, or weights, which have in them already what a mask adds.
        mask: as :func:`read_mask` takes it.
        name: what errors call it.
        pairs_first: whether rank 2 is (T, S) wherever it fits.
        and_own: whether a pattern that the inputs have limits what a mask of pairs shows; otherwise it takes its place.

    Raises:
        InputError: as :func:`read_mask`; numbers to add where there is a bias already.

    >>> import attnviz
    >>> padded = with_mask(attnviz.synthesize(tokens=4), torch.tensor([[1, 1, 0, 1]]))
    >>> padded.key_padding_mask.tolist(), str(padded.pattern)
    ([[True, True, False, True]], 'None')
    """
    sizes = (inputs.B, inputs.H, inputs.T, inputs.S)
    read = read_mask(mask, sizes, name=name, source=inputs.source, pairs_first=pairs_first)
    found = inputs
    if read.bias is not None and isinstance(inputs, AttentionCall):
        if inputs.bias is not None:
            raise InputError(
                f"{inputs.source}: {name} holds numbers that neither hide a key nor are 0, and there is a bias too; "
                f"give one bias"
            )
        found = replace(found, bias=read.bias)
    if read.padding is not None:
        own = inputs.key_padding_mask
        found = replace(found, key_padding_mask=read.padding if own is None else own & read.padding.to(own.device))
    if read.seen is not None:
        pattern = Masked(read.seen)
        return replace(found, pattern=pattern & inputs.pattern if and_own and inputs.pattern is not None else pattern)
    if found.pattern is None and found.global_mask is None:
        found = replace(found, pattern=Full())
    return found


def _seen(mask: Tensor, what: str) -> tuple[Tensor, Tensor | None]:
    """Where a mask shows something, bool, and what it adds besides."""
    if mask.dtype == torch.bool:
        return mask, None
    if not mask.is_floating_point():
        numbers = whole(mask)
        if numbers is None or bool(((numbers != 0) & (numbers != 1)).any()):
            raise InputError(
                f"{what} has dtype {dtype_name(mask.dtype)} and holds other numbers than 0 and 1; wanted bool, 0 and 1, or "
                f"floating numbers to add to the scores"
            )
        return numbers != 0, None
    if not is_real(mask):
        raise InputError(
            f"{what} has dtype {dtype_name(mask.dtype)}, wanted bool, 0 and 1, or one of {', '.join(DTYPES)}"
        )
    wrong = torch.isnan(mask) | (mask == torch.inf)
    if bool(wrong.any()):
        raise InputError(
            f"{what} has {int(wrong.sum())} values that are NaN or +inf, first at index {tuple(wrong.nonzero()[0].tolist())}; "
            f"what hides a key is -inf or -1e4 and less"
        )
    if bool(((mask == 0) | (mask == 1)).all()) and bool((mask == 1).any()):
        raise InputError(
            f"{what} holds 0 and 1 as {dtype_name(mask.dtype)}: as numbers to add to the scores they hide nothing, as flags "
            f"1 is seen; save it as bool for flags, or give what is added as bias"
        )
    return seen_and_added(mask)


def _of_padding(
    mask: Tensor, sizes: tuple[int, int, int, int], what: str, *, integers: bool, pairs_first: bool
) -> bool:
    """Whether a mask is of padding, and not of pairs. Raises InputError where its shape is neither, or may be both."""
    (B, H, T, S), shape = sizes, tuple(mask.shape)
    fits = all(n in (1, full) for n, full in zip(shape[::-1], (S, T, H, B), strict=False)) and shape[-1:] == (S,)
    if mask.ndim == 3:
        fits = all(n in (1, full) for n, full in zip(shape, (B, T, S), strict=True))
    if mask.ndim in (3, 4) and fits:
        return T > 1 and shape[-2] == 1 and (mask.ndim == 3 or shape[1] == 1)
    of_pairs, of_keys = shape in ((T, S), (T, 1)), shape in ((B, S), (1, S), (S,))
    if of_pairs and of_keys and B > 1 and T > 1 and not integers and not pairs_first:
        raise InputError(
            f"{what} has shape {shape}, which may be (T, S), which query sees which key, or (B, S), which keys exist, as "
            f"B = T = {B}; save it as (1, T, S) for the one, as (B, 1, 1, S) or as integers for the other"
        )
    if of_keys and (integers or not of_pairs) and not (pairs_first and of_pairs):
        return True
    if of_pairs:
        return False
    per_head = "; one a head is (1, H, T, S)" if shape == (H, T, S) else ""
    raise InputError(
        f"{what} has shape {shape}, wanted (T, S) = {T, S}, (B, T, S), (B, 1, T, S) or (B, H, T, S) = {sizes} of pairs, or "
        f"(B, S) = {B, S} or (B, 1, 1, S) of padding{per_head}"
    )
