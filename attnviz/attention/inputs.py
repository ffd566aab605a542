"""The inputs of one attention call: queries, keys, values, masks and labels, checked once, here."""

from __future__ import annotations

from dataclasses import KW_ONLY, InitVar, dataclass
from typing import Any

import torch

from attnviz.attention.arrays import as_tensor, plain
from attnviz.attention.call import AttentionCall, Call
from attnviz.attention.checks import checked
from attnviz.attention.item import AttentionItem
from attnviz.base.errors import InputError
from attnviz.base.registry import shown


class Inputs(Call):
    """What every view takes: an attention that is computed or given, read an item at a time."""

    def item(
        self, batch: int = 0, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> AttentionItem:
        """Batch item ``batch``, its arithmetic on ``device`` and its inputs rounded to ``dtype`` first.

        Raises:
            InputError: there is no such item.
        """
        if not 0 <= batch < self.B:
            raise InputError(
                f"{self.source}: batch item {batch} is out of range; there are {self.B} (0 to {self.B - 1})"
            )
        return AttentionItem(self, batch, device or self.device, dtype or self.dtype)

    def _repr_html_(self) -> str:
        return shown(self)


MASKS = (
    *("global_mask", "key_padding_mask", "query_padding_mask"),
    *("query_positions", "key_positions"),
)
"""Flags and numbers of positions that any attention may have, given as arrays of another library, or as lists."""

_ARRAYS = (
    *("q", "k", "v", "w_o", "residual_norms", "q_global", "k_global", "v_global", "bias", "alibi_slopes", "sinks"),
    *("documents", "query_documents", *MASKS),
)
"""All that may be given so of an attention that is computed."""


def as_labels(labels: Any) -> Any:
    """Labels as lists of them, one a batch item: a list of strings alone is of one.

    >>> as_labels(["a", "b"]), as_labels([["a"], ["b"]])
    ([['a', 'b']], [['a'], ['b']])
    """
    if isinstance(labels, torch.Tensor):  # which holds no strings: refused as such
        return labels
    labels = labels.tolist() if hasattr(labels, "tolist") else labels
    if isinstance(labels, list | tuple):
        labels = [item.tolist() if hasattr(item, "tolist") else item for item in labels]
    flat = isinstance(labels, list | tuple) and len(labels) > 0 and all(isinstance(label, str) for label in labels)
    return [list(labels)] if flat else labels


@dataclass(frozen=True)
class AttentionInputs(AttentionCall, Inputs):
    """What goes into one attention call, for a batch.

    Shapes use B batch, H query heads, H_kv key heads (a divisor of H: grouped-query attention), T query
    positions, S key positions, D head_dim. Tensors of rank 3 (masks of rank 1) are one batch item and gain a
    batch dimension of 1. An array may be a tensor, numpy's, of any library that speaks DLPack (JAX), or nested lists. No
    tensor is copied. Shapes, dtypes and masks are checked on construction; each head
    is checked for NaN and Inf when it is first used.

    Args:
        q: queries, (B, H, T, D), a floating dtype.
        k: keys, (B, H_kv, S, D), the dtype of ``q``.
        v: values, (B, H_kv, S, D_v), optional.
        w_o: the output projection, a part a head, (H, D_v, d_model): what values become by it; the dtype of ``v``.
        residual_norms: (B, T, 2), for each query the length of the residual, and of what the layer's attention adds to it:
            how ``rollout`` by ``norms`` weighs the two.
        global_mask: (B, S) bool, True where the key position is a global token.
        key_padding_mask: (B, S) bool, True where the key exists.
        query_padding_mask: (B, T) bool, True where the query exists; None: as the key at the query's position, and
            True where there is none.
        q_global, k_global, v_global: Longformer's separate projections for global queries, as q, k, v.
        tokens: B sequences of S tokens as their tokenizer has them, one a key position; or S tokens of one batch item.
        query_tokens: B sequences of T tokens, where they are not those of the keys at the queries' positions.
        token_form: how the tokenizer writes tokens, which says how they are read: ``plain``, ``byte-level``,
            ``sentencepiece`` or ``wordpiece``.
        word_ids, query_word_ids: B sequences, the number of each token's word, None where it is of none.
        special_tokens, query_special_tokens: B sequences of the positions of special tokens.
        scale: factor on the dot products; None is 1 / sqrt(D).
        softcap: c, where scores become ``c * tanh(score / c)`` before masks and softmax (Gemma 2).
        bias: added to the scores before softmax; (H, T, S) or (B, H, T, S), sizes of 1 broadcast; -inf hides a key.
        alibi_slopes: (H,); ``-slope * |p(t) - p(s)|`` is added to the scores (ALiBi, arXiv:2108.12409).
        sinks: (H,) logits that take part in each softmax's denominator and in nothing else (gpt-oss).
        rotary: how q and k were turned by their positions before they were given (``attnviz.Rotary``), for views that show
            which pairs of dimensions make a score; no number depends on it.
        cross: whether keys are of another sequence than queries: there is no order then, and nothing that needs one.
        query_positions, key_positions: where each stands in its sequence, (T,) and (S,), or (B, T) and (B, S), whole
            numbers. None: keys stand at 0 to S - 1, and queries at the last T of them, ``p(t) = t + S - T``.
        documents: which packed document each key is of, (S,) or (B, S), whole numbers: patterns of order stay within one,
            and positions may start anew in each.
        query_documents: likewise for queries, (T,) or (B, T); None: as the key at the query's position, and none where
            there is no such key.
        pattern: which query sees which key where a call names no other, as a pattern, by name, or as FlexAttention's
            ``BlockMask`` or ``mask_mod``; None is the global keys.
        source: what errors and titles call these inputs.
        layer: which layer of a model this is, where it is one of several: ``5``, ``"cross.5"``.
        layout: the order of the dimensions given: ``bhtd``, ``bthd``, ``htd`` or ``thd``.

    Raises:
        InputError: a shape, dtype or mask is not as above.

    >>> inputs = AttentionInputs(torch.ones(2, 4, 8), torch.ones(2, 4, 8), global_mask=torch.arange(4) == 1)
    >>> inputs.q.shape, inputs.global_mask.shape
    (torch.Size([1, 2, 4, 8]), torch.Size([1, 4]))
    """

    _: KW_ONLY
    layout: InitVar[str] = "bhtd"

    def __post_init__(self, layout: str) -> None:
        for name in _ARRAYS:
            value = getattr(self, name)
            if value is not None or name in ("q", "k"):
                read = plain if isinstance(value, torch.Tensor) else as_tensor  # a tensor keeps its history
                object.__setattr__(self, name, read(value, f"{self.source}: {name}"))
        for name in ("tokens", "query_tokens"):
            object.__setattr__(self, name, as_labels(getattr(self, name)))
        for name, value in checked(self, layout).items():
            object.__setattr__(self, name, value)
