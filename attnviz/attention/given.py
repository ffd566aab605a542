"""Weights that something else computed, in place of queries and keys, checked once, here."""

from __future__ import annotations

from dataclasses import dataclass

from attnviz.attention.arrays import as_tensor
from attnviz.attention.call import GivenCall
from attnviz.attention.checks import checked_given
from attnviz.attention.inputs import MASKS, Inputs, as_labels
from attnviz.attention.names import pattern_of
from attnviz.attention.patterns import Full


@dataclass(frozen=True)
class AttentionWeights(GivenCall, Inputs):
    """Attention weights that something else computed, for a batch: what a model returned, or attributions.

    They are shown, compared, reduced and measured as they are: a row sums to 1, to less (sinks, dropped keys) or to
    anything, and nothing is normalized. Every view takes them in place of :class:`attnviz.AttentionInputs`; what needs
    q and k says so. An array may be a tensor, numpy's, or of any library that speaks DLPack (JAX). One of rank 3 is one
    batch item. Nothing is copied. Shapes and masks are checked on construction; rows when they are read.

    Args:
        weights: (B, H, T, S) or (H, T, S), a floating dtype. A row wholly NaN is of a query that sees nothing.
        logits: scores before softmax, of the shape of the weights, -inf where a key is hidden; optional.
        v: values, (B, H_kv, S, D_v), optional: what the context is made of.
        w_o: the output projection, a part a head, (H, D_v, d_model), optional.
        residual_norms: (B, T, 2), as in :class:`attnviz.AttentionInputs`.
        global_mask: (B, S) bool, True where the key position is a global token.
        key_padding_mask: (B, S) bool, True where the key exists.
        query_padding_mask: (B, T) bool, True where the query exists; what stands in the rows of others is nothing.
        tokens: B sequences of S tokens, or S tokens where there is one batch item.
        query_tokens: B sequences of T tokens, likewise, where they are not those of the keys at the queries' positions.
        token_form, word_ids, query_word_ids, special_tokens, query_special_tokens: as in :class:`attnviz.AttentionInputs`.
        cross: whether keys are of another sequence than queries.
        query_positions, key_positions: where each stands in its sequence, as in :class:`attnviz.AttentionInputs`.
        pattern: which query sees which key, as a pattern or by name; None is every key. A weight other than 0 on a pair
            that it hides is an error.
        source: what errors and titles call the weights.
        layer: which layer of a model this is, where it is one of several.

    Raises:
        InputError: a shape, dtype or mask is not as above.

    >>> import torch
    >>> given = AttentionWeights(torch.eye(4).expand(2, 4, 4), tokens=["a", "b", "c", "d"])
    >>> given.weights.shape, str(given.pattern)
    (torch.Size([1, 2, 4, 4]), 'full')
    """

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        for name in (*("weights", "logits", "v", "w_o", "residual_norms"), *MASKS):
            if getattr(self, name) is not None or name == "weights":
                put(name, as_tensor(getattr(self, name), f"{self.source}: {name}"))
        for name in ("tokens", "query_tokens"):
            put(name, as_labels(getattr(self, name)))
        put("pattern", pattern_of(self.pattern) or Full())
        for name, value in checked_given(self).items():
            put(name, value)
