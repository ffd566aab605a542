"""Inputs out of a Python call's own arguments: q, k, and a mask of whichever kind its shape says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.inputs import AttentionInputs
from attnviz.attention.masks import with_mask
from attnviz.attention.names import windowed
from attnviz.attention.patterns import Full, Pattern
from attnviz.base.errors import InputError


def inputs_of(
    q: Tensor,
    k: Tensor,
    mask: Tensor | None = None,
    v: Tensor | None = None,
    *,
    pattern: Pattern | str | None = None,
    window: int | None = None,
    tokens: Sequence[str] | Sequence[Sequence[str]] | None = None,
    **settings: Any,
) -> AttentionInputs:
    """The inputs of a call, with the pattern that it asks for.

    Args:
        q, k, v: (B, H, T, D), (B, H_kv, S, D), (B, H_kv, S, D_v), or without B.
        mask: which query sees which key, (T, S), (B, T, S), (B, 1, T, S) or (B, H, T, S), or which keys exist,
            (B, 1, 1, S): bool, integers 0 and 1, or numbers to add to the scores. Of (S,) or (B, S), integers (a tokenizer's
            ``attention_mask``) and numbers to add say which keys exist, and bool the global keys, as everywhere in attnviz.
        pattern: which query sees which key, as a pattern or by name (``causal``, ``local``, ...); None is what the mask
            says, else every key.
        window: keys to each side, for local patterns by name.
        tokens: S labels, or a list of them for each batch item.
        settings: other fields of :class:`attnviz.AttentionInputs`: ``scale``, ``softcap``, ``bias``, ``layout``, ...

    Raises:
        InputError: a mask whose shape fits none of these, or both kinds; otherwise as AttentionInputs.

    >>> q = torch.ones(2, 4, 8)
    >>> str(inputs_of(q, q).pattern), str(inputs_of(q, q, torch.ones(4, 4, dtype=torch.bool)).pattern)
    ('full', 'own mask')
    """
    if tokens is not None and all(isinstance(token, str) for token in tokens):
        tokens = [tokens]  # type: ignore[list-item]
    bare = AttentionInputs(q, k, v, tokens=tokens, **settings)
    pattern = windowed(pattern, window)
    if mask is not None and _of_global_keys(bare, mask):
        if settings.get("global_mask") is not None:
            raise InputError(f"{bare.source}: mask and global_mask both name the global keys; give one")
        settings["global_mask"], mask = mask, None
    if mask is None and pattern is None and settings.get("global_mask") is None and settings.get("pattern") is None:
        pattern = Full()
    if pattern is not None:
        settings["pattern"] = pattern
    found = AttentionInputs(q, k, v, tokens=tokens, **settings)
    return found if mask is None else with_mask(found, mask, and_own=pattern is not None)


def _of_global_keys(bare: AttentionInputs, mask: Tensor) -> bool:
    """Whether a mask names the global keys: flags of keys, as everywhere in attnviz. Raises InputError where it may be of pairs."""
    shape, pairs, keys = tuple(mask.shape), (bare.T, bare.S), (bare.B, bare.S)
    of_keys = shape == keys or (shape == keys[1:] and bare.B == 1)
    if mask.dtype != torch.bool or not of_keys:
        return False
    if shape == pairs:
        raise InputError(
            f"{bare.source}: mask of shape {shape} may be (T, S) or (B, S); say which: pattern=Masked(mask) or "
            f"global_mask=mask"
        )
    return True
