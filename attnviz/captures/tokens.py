"""From token ids to tokens: what a tokenizer says of them, as it has them, and the form that it writes them in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from attnviz.base.labels import Tokens, word_ids

_PROBES: dict[str, tuple[list[str], str]] = {
    "byte-level": (["a", "\u0120\u00c3\u00a9"], "a é"),
    "sentencepiece": (["a", "\u2581b"], "a b"),
    "wordpiece": (["a", "##b"], "ab"),
}
"""Of each form, tokens and the text that a tokenizer of that form alone makes of them."""

_BACKENDS = {"ByteLevel": "byte-level", "Metaspace": "sentencepiece", "WordPiece": "wordpiece"}
"""What the parts of a tokenizer are called that read text in a form."""


class TokenReader:
    """Reads token ids with a tokenizer of transformers.

    >>> class Words:
    ...     all_special_ids = [0]
    ...     def convert_ids_to_tokens(self, ids):
    ...         return [["[CLS]", "the", "cat"][id] for id in ids]
    >>> import torch
    >>> TokenReader(Words()).read(torch.tensor([[0, 1, 2]]))
    [Tokens(raw=['[CLS]', 'the', 'cat'], form='plain', word_ids=[None, 0, 1], special=[0])]
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = _special_ids(tokenizer)
        self.form = token_form(tokenizer)
        self._known: list[tuple[Tensor, list[Tokens]]] = []  # layers of a model have tokens in common

    def read(self, ids: Tensor) -> list[Tokens]:
        """The tokens of ids, (B, S)."""
        for known, tokens in self._known:
            if known.equal(ids):
                return tokens
        found = [self._tokens(row) for row in ids.tolist()]
        self._known = [*self._known[-1:], (ids, found)]  # those of queries and of keys
        return found

    def _tokens(self, ids: list[int]) -> Tokens:
        raw = [token or "" for token in self._tokenizer.convert_ids_to_tokens(ids)]
        special = [n for n, number in enumerate(ids) if number in self._special]
        return Tokens(raw, self.form, word_ids(raw, self.form, frozenset(special)), special)


def token_fields(tokens: Sequence[Tokens] | None, query_tokens: Sequence[Tokens] | None) -> dict[str, Any]:
    """The fields of :class:`attnviz.AttentionInputs` that say which tokens keys and queries are.

    Args:
        tokens, query_tokens: of each batch item; None where they are not known.
    """
    fields: dict[str, Any] = {}
    for prefix, items in (("", tokens), ("query_", query_tokens)):
        if items is None:
            continue
        fields |= {f"{prefix}tokens": [item.raw for item in items], "token_form": items[0].form}
        if all(item.word_ids is not None for item in items):
            fields[f"{prefix}word_ids"] = [item.word_ids for item in items]
            fields[f"{prefix}special_tokens"] = [sorted(item.special) for item in items]
    return fields


def token_form(tokenizer: Any) -> str:
    """The form that a tokenizer writes its tokens in, by how it makes them text again.

    A fast tokenizer without a decoder says it by the part that cuts text into words, or by its model.
    """
    join = getattr(tokenizer, "convert_tokens_to_string", None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and backend.decoder is None:
        parts = [type(part).__name__ for part in (backend.pre_tokenizer, backend.model)]
        return next((_BACKENDS[part] for part in parts if part in _BACKENDS), "plain")
    if join is None:
        return "plain"
    for form, (tokens, text) in _PROBES.items():
        try:
            if join(tokens).strip() == text:
                return form
        except (KeyError, TypeError, ValueError, IndexError):  # a slow tokenizer's own table lacks a letter
            continue
    return "plain"


def _special_ids(tokenizer: Any) -> frozenset[int]:
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    marked = (number for number, token in added.items() if getattr(token, "special", False))
    return frozenset([*(getattr(tokenizer, "all_special_ids", None) or ()), *marked])
