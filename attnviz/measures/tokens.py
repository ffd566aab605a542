"""Which keys hold a query's own token, or stand after it: for the roles of heads that copy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from attnviz.attention.item import AttentionItem
from attnviz.base.types import Positions

_PAIRS = 1 << 20  # of queries and keys that are looked at together

_Index = tuple[int, Positions, Positions]


class SameTokens:
    """Pairs of queries and keys by their tokens, in two roles, listed and never as a matrix.

    ``duplicate``: keys before the query that hold its token. ``induction``: keys not after the query whose predecessor
    holds its token. Both within the query's document.
    """

    def __init__(self, item: AttentionItem) -> None:
        """``item`` has tokens, and an order."""
        numbers: dict[str, int] = {}
        tokens = item.inputs.tokens
        assert tokens is not None
        keys = np.array([numbers.setdefault(token, len(numbers)) for token in tokens[item.batch]])
        t, every = torch.arange(item.T), np.arange(item.S)
        own = item.inputs.query_tokens
        if own is not None:
            queries = np.array([numbers.setdefault(token, len(numbers)) for token in own[item.batch]])
        else:
            at = np.array(item.keys_of_queries)
            queries = np.where(at >= 0, keys[at], -1)
        before = item.key_before(every)
        after = np.where(before >= 0, keys[before], -1)
        exists = np.ones(item.S, dtype=bool) if item.key_padding is None else item.key_padding.cpu().numpy()
        documents = item.documents or (np.zeros(item.T, dtype=np.int64), np.zeros(item.S, dtype=np.int64))
        places = item.query_position(t).numpy(), item.key_position(torch.from_numpy(every)).numpy()
        self._roles = {
            "duplicate": _Listed(queries, np.where(exists, keys, -1), documents, places, "left"),
            "induction": _Listed(queries, np.where(exists, after, -1), documents, places, "right"),
        }

    @classmethod
    def of(cls, item: AttentionItem | None) -> SameTokens | None:
        """Those of an item; None where it has no tokens, or no order. They are kept with it: all heads have the same."""
        if item is None or item.cross or item.inputs.tokens is None:
            return None
        kept: SameTokens = vars(item).get(cls.__name__) or vars(item).setdefault(cls.__name__, cls(item))
        return kept

    def pairs(self, role: str, rows: Positions) -> Iterator[_Index]:
        """The pairs of some queries, in parts: the place in ``rows`` where a part begins, each pair's place in it, and its key."""
        listed = self._roles[role]
        counts = (listed.stop - listed.start)[rows]
        ends = np.cumsum(counts)
        first = 0
        while first < len(rows):
            done = ends[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(ends, done + _PAIRS, "right")))
            own = counts[first:last]
            if own.any():
                place = np.repeat(np.arange(len(own)), own)
                within = np.arange(len(place)) - np.repeat(np.cumsum(own) - own, own)
                yield first, place, listed.order[listed.start[rows[first:last]][place] + within]
            first = last


class _Listed:
    """Keys by document, token and position, and of each query the run of them that it is asked of."""

    def __init__(
        self,
        queries: Positions,
        keys: Positions,
        documents: tuple[Positions, Positions],
        places: tuple[Positions, Positions],
        side: str,
    ) -> None:
        """``queries`` and ``keys`` are numbers of tokens, -1 for none; ``side`` is ``right`` where a key at a query's position counts."""
        index = np.flatnonzero(keys >= 0)
        steps = np.unique(places[1])
        many, size = max(int(keys.max(initial=0)), int(queries.max(initial=0))) + 1, len(steps) + 1

        def group(document: Positions, token: Positions) -> Positions:
            return (document * many + token) * size

        code = group(documents[1][index], keys[index]) + np.searchsorted(steps, places[1][index])
        sort = np.argsort(code, kind="stable")
        self.order, code = index[sort], code[sort]
        wanted = group(documents[0], queries)
        self.start = np.searchsorted(code, wanted)
        reached = np.searchsorted(steps, places[0], side)  # type: ignore[call-overload]
        self.stop = np.searchsorted(code, wanted + reached)
        nowhere = (queries < 0) | (documents[0] < 0)
        self.stop = np.where(nowhere, self.start, np.maximum(self.stop, self.start))
