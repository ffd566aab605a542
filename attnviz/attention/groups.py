"""Runs of queries and of keys that are seen as one: words, or spans that have a name."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from attnviz.attention.item import AttentionItem
from attnviz.base.errors import InputError, not_one_of
from attnviz.base.labels import Tokens
from attnviz.base.spans import SEPARATOR, Span, Spans, spans_of
from attnviz.base.types import Positions

MERGES = ("words",)
"""What tokens can be merged to by a name."""


@dataclass(frozen=True)
class Groups:
    """Runs of indices, one after another.

    Args:
        edges: (n + 1,) where each begins, and where the last ends.
        labels: what each is called, where that is known.
        special: those that are a special token.
    """

    edges: tuple[int, ...]
    labels: tuple[str, ...] | None = None
    special: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, part: range) -> Groups:
        """Some of them, neighbors."""
        labels = None if self.labels is None else self.labels[part.start : part.stop]
        special = tuple(n - part.start for n in self.special if n in part)
        return Groups(self.edges[part.start : part.stop + 1], labels, special)

    @property
    def starts(self) -> Positions:
        """(n,) the first index of each."""
        return np.asarray(self.edges[:-1], dtype=np.int64)

    def of_indices(self) -> Positions:
        """Which group each index is in."""
        found: Positions = np.repeat(np.arange(len(self)), np.diff(self.edges))
        return found


@dataclass(frozen=True)
class Merge:
    """What queries and keys of an item are merged to.

    Args:
        queries, keys: the groups.
        said: what they are called: ``words``, ``3 spans``.
    """

    queries: Groups
    keys: Groups
    said: str


def single(size: int) -> Groups:
    """Each index by itself."""
    return Groups(tuple(range(size + 1)))


def merge_of(
    item: AttentionItem, merge: str | None, spans: Spans | None, query_spans: Spans | None = None
) -> Merge | None:
    """The groups that are asked for; None where tokens stay as they are.

    Args:
        item: the batch item.
        merge: ``words``, or None.
        spans: as :func:`attnviz.base.spans.spans_of` takes them, of positions of keys, and of the queries that stand there;
            None is none.
        query_spans: likewise, of queries that are another sequence than the keys.

    Raises:
        InputError: both are asked for, or what there isn't; nothing that says what is a word; spans of queries that stand
            among the keys.
    """
    if query_spans is not None:
        _check_query_spans(item, merge)
    if merge is not None and spans is not None:
        raise InputError("--merge and --spans are two ways to see tokens as one; choose one")
    if merge is not None:
        if merge not in MERGES:
            raise not_one_of("merge", merge, MERGES)
        return _words(item)
    return None if spans is None and query_spans is None else _spans(item, spans, query_spans)


def _check_query_spans(item: AttentionItem, merge: str | None) -> None:
    """Raises InputError where queries can't have spans of their own."""
    if merge is not None:
        raise InputError("--merge and --query-spans are two ways to see tokens as one; choose one")
    if not item.cross:
        raise InputError(
            f"--query-spans: the queries of {item.source} are tokens of the same sequence as its keys; --spans is of both"
        )


def _words(item: AttentionItem) -> Merge:
    keys = _words_of(item.key_tokens, None if item.documents is None else item.documents[1])
    if keys is None:
        raise InputError(
            f"{item.source}: nothing says which tokens make a word: there are "
            f"{'no tokens' if item.key_tokens is None else 'no word_ids, and tokens in plain form have no marks'}; save them "
            f"with word_ids, or with the token_form of their tokenizer (byte-level, sentencepiece, wordpiece)"
        )
    own = None
    if item.inputs.query_tokens is not None:
        own = _words_of(item.query_tokens, None if item.documents is None else item.documents[0])
    return Merge(own or _queries_of(item, keys), keys, "words")


def _words_of(tokens: Tokens | None, documents: Positions | None) -> Groups | None:
    """The words of some tokens, none of which is in two documents; None where nothing says what is a word."""
    words = None if tokens is None else tokens.words()
    if words is None or tokens is None:
        return None
    edges = {word.start for word in words}
    if documents is not None:
        edges |= {int(place) + 1 for place in np.flatnonzero(np.diff(documents))}
    found = (*sorted(edges), len(tokens.raw))
    runs = [range(*ends) for ends in itertools.pairwise(found)]
    special = tuple(n for n, run in enumerate(runs) if run.start in tokens.special)
    return Groups(found, tuple(tokens.text(run) for run in runs), special)


def _spans(item: AttentionItem, spans: Spans | None, query_spans: Spans | None) -> Merge:
    source, said = item.source, []
    if spans is None:
        labels = item.key_labels(range(item.S))
        keys = Groups(tuple(range(item.S + 1)), None if labels is None else tuple(labels))
    else:
        keys = _named(spans_of(spans, item.S, item.key_tokens, source=source), item.S)
        said = [f"{len(keys)} spans"]
    separated = isinstance(spans, str) and spans.strip().startswith(SEPARATOR) and item.query_tokens is not None
    if query_spans is None and item.cross and separated:
        query_spans = spans
    if query_spans is None:
        return Merge(_queries_of(item, keys), keys, said[0])
    whose = f"the queries of {source}"
    own = spans_of(query_spans, item.T, item.query_tokens, source=whose, option="--query-spans")
    return Merge(_named(own, item.T), keys, ", ".join([f"{len(own)} spans of queries", *said]))


def _named(spans: Sequence[Span], size: int) -> Groups:
    """The groups that spans are."""
    return Groups((*(span.positions.start for span in spans), size), tuple(span.name for span in spans))


def _queries_of(item: AttentionItem, keys: Groups) -> Groups:
    """The queries that stand in each group of keys; each by itself where there is no key, or no order."""
    if item.cross:
        labels = item.query_labels(range(item.T))
        return Groups(tuple(range(item.T + 1)), None if labels is None else tuple(labels))
    own = np.asarray(item.keys_of_queries)
    group = np.where(own >= 0, keys.of_indices()[own], -1 - np.arange(item.T))
    starts = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist()]
    labels = None if keys.labels is None else [keys.labels[g] if g >= 0 else "" for g in group[starts].tolist()]
    special = tuple(n for n, g in enumerate(group[starts].tolist()) if g in keys.special)
    return Groups((*starts, item.T), None if labels is None else tuple(labels), special)


def ranks_of(item: AttentionItem, merge: Merge) -> tuple[Positions, Positions] | None:
    """Where groups of queries and of keys stand, counted in groups; None where there is no order.

    A group of keys stands by its first key, after those of its document that stand before it; a group of queries as that of
    the key at its first query's position.
    """
    if item.cross:
        return None
    keys, starts = merge.keys, merge.keys.starts
    first = np.minimum.reduceat(item.key_position(torch.arange(item.S)).numpy(), starts)
    documents = documents_of(item, merge)
    if item.documents is not None and documents is None:
        ranks = np.arange(len(keys))  # a group of several documents: positions start anew within it
    else:
        of = np.zeros(len(keys), dtype=np.int64) if documents is None else documents[1]
        order = np.lexsort((first, of))
        _, begin, which = np.unique(of[order], return_index=True, return_inverse=True)
        ranks = np.empty(len(keys), dtype=np.int64)
        ranks[order] = np.arange(len(order)) - begin[which]
    own = np.asarray(item.keys_of_queries)[merge.queries.starts]
    found = np.where(own >= 0, ranks[keys.of_indices()[own]], -1)
    lost = np.flatnonzero(own < 0)
    if len(lost):
        positions = item.query_position(torch.from_numpy(merge.queries.starts)).numpy()[lost]
        if (positions > int(first.min())).any():  # among the keys, where none of them stands
            return None
        found[lost] = np.arange(-len(lost), 0)
    return found, ranks


def documents_of(item: AttentionItem, merge: Merge) -> tuple[Positions, Positions] | None:
    """The document of each group of queries and of keys, -1 of none; None where there are none, or a group is of several."""
    if item.documents is None:
        return None
    found = []
    for documents, groups in zip(item.documents, (merge.queries, merge.keys), strict=True):
        least, most = np.minimum.reduceat(documents, groups.starts), np.maximum.reduceat(documents, groups.starts)
        if (least != most).any():
            return None
        found.append(least)
    return found[0], found[1]


def any_of(flags: Sequence[bool] | np.ndarray[tuple[int], np.dtype[np.bool_]], groups: Groups) -> torch.Tensor:
    """Whether any index of each group has a flag, (n,) bool."""
    return torch.from_numpy(np.logical_or.reduceat(np.asarray(flags), groups.starts))
