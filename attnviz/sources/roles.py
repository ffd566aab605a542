"""What tensors and metadata of a dump are called, and what they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from attnviz.sources.naming import LAYER
from attnviz.sources.packed import PACKED
from attnviz.sources.reduced import ROLES as MAPS

ROLES: dict[str, str] = {
    "q": "queries (B, H, T, D)",
    "k": "keys (B, H_kv, S, D)",
    "v": "values (B, H_kv, S, D)",
    "global_mask": "global key positions (B, S) bool",
    "key_padding_mask": "key positions that exist (B, S) bool",
    "query_padding_mask": "query positions that exist (B, T) bool",
    "attention_mask": "which query sees which key (T, S), (B, T, S) or (B, H, T, S), or which keys exist (B, S)",
    "q_global": "queries of global tokens (B, H, T, D)",
    "k_global": "keys for global queries (B, H_kv, S, D)",
    "v_global": "values for global queries (B, H_kv, S, D)",
    "bias": "added to the scores (H, T, S)",
    "alibi_slopes": "ALiBi slopes (H,)",
    "sinks": "attention sinks (H,)",
    "query_positions": "where queries stand (B, T)",
    "key_positions": "where keys stand (B, S)",
    "documents": "which packed document a key is of (B, S)",
    "query_documents": "which packed document a query is of (B, T)",
    "cu_seqlens_q": "where packed sequences of queries begin and end (B + 1,)",
    "cu_seqlens_k": "where packed sequences of keys begin and end (B + 1,)",
    "block_table": "which blocks of k and v are a sequence's (B, blocks)",
    "cache_seqlens": "how many keys each sequence has in its blocks (B,)",
    "weights": "attention weights that were given (B, H, T, S)",
    "logits": "scores before softmax, beside weights (B, H, T, S)",
    "w_o": "output projection, a part a head (H, D_v, d_model)",
    "residual_norms": "lengths of the residual and of what the layer adds to it (B, T, 2)",
}
"""Every role a tensor can play, and what it is."""

OF_WEIGHTS = ("weights", "logits")

OF_PRODUCTS = ("q", "k", "q_global", "k_global", "v_global", "bias", "alibi_slopes", "sinks", *PACKED)
"""Roles that weights which were given have no use for."""

SETTINGS = ("scale", "softcap")
"""Numbers that a dump's metadata can hold beside the tensors."""

LABELS = (
    "tokens",
    "query_tokens",
    "token_form",
    "word_ids",
    "query_word_ids",
    "special_tokens",
    "query_special_tokens",
)
"""What a dump's metadata can say of its tokens."""

SHARED = (*LABELS, "rotary")
"""What of that is said once for all layers of a kind; a layer that lacks it says null."""

FORMAT_VERSION = 2
"""The newest format; a dump that uses nothing format 1 lacks says 1, so that older programs read it."""

MASK = "attention_mask"

_GROUPED = re.compile(r"(?:\w+\.)?(\w+)")


def role_of(name: str) -> str | None:
    """The role that a tensor's own name gives it, layer prefix apart."""
    name = re.sub(rf"({MASK})\.\d+$", r"\1", name)  # of a pattern that holds several
    match = LAYER.fullmatch(name)
    if match:
        role = match["role"].removeprefix("tiles.")
        return role if role in ROLES or role in MAPS else None
    grouped = _GROUPED.fullmatch(name)  # what all layers of a kind share: cross.key_padding_mask
    return grouped[1] if grouped and (grouped[1] in ROLES or grouped[1] in MAPS) else None


def missing_roles(contents: Iterable[str], metadata: Mapping[str, Any] | None = None) -> list[str]:
    """What ``attnviz score`` would still need to be told: q, k and the global mask, where no tensor has that role.

    No global mask is needed where ``metadata`` names the pattern of the file or of its layers.
    """
    there = {role_of(name) for name in contents}
    if there >= {*MAPS}:
        return []
    layers = (metadata or {}).get("layers")
    described = [metadata or {}, *(layers.values() if isinstance(layers, dict) else ())]
    if "attention_mask" in there or any(isinstance(one, dict) and "pattern" in one for one in described):
        there.add("global_mask")
    if "weights" in there and "q" not in there:
        return []
    return [role for role in ("q", "k", "global_mask") if role not in there]
