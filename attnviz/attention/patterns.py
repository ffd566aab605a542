"""Which query sees which key: patterns as values that compose with ``|`` and ``&``.

A pattern says two things. ``visible(t, s, item)`` is its definition, elementwise. ``reach(item)`` bounds where
that can be True (a band of offsets and a set of keys), so that the engine touches only those keys. The engine, figures
and tables know nothing else of a pattern: a new one is one small class, here or anywhere. With a ``name`` it is known to
the command line, to every function that takes a pattern, and to dumps; its fields are its settings.

    Local(256) | GlobalKeys() | GlobalQueries()      Longformer, arXiv:2004.05150
    Local(256) & Causal()                            a causal sliding window, as in Mistral
    Documents() & Causal()                           texts packed into one row
    Chunked(8192) & Causal()                         Llama 4
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attnviz.attention.order import Causal, Chunked, Documents, Local, Prefix
from attnviz.attention.pairs import Blocks, Masked, MaskMod
from attnviz.attention.pattern import PATTERNS, Both, Either, Item, Pattern
from attnviz.attention.reach import Reach

__all__ = [
    "PATTERNS",
    "Blocks",
    "Both",
    "Causal",
    "Chunked",
    "Documents",
    "Either",
    "Full",
    "GlobalKeys",
    "GlobalQueries",
    "Item",
    "Local",
    "MaskMod",
    "Masked",
    "Pattern",
    "Prefix",
    "longformer",
]


@dataclass(frozen=True)
class GlobalKeys(Pattern):
    """Every query sees the global keys.

    >>> import attnviz
    >>> attnviz.score(attnviz.synthesize(), attnviz.GlobalKeys(), heads=[0]).positions.tolist()
    [0, 3, 7]
    """

    name = "global"
    reason = "global key"

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        return torch.isin(s, item.global_positions.to(s.device)).expand(np.broadcast_shapes(t.shape, s.shape))

    def reach(self, item: Item) -> Reach:
        return Reach(band=False, keys=item.global_positions)

    def __str__(self) -> str:
        return "global"


@dataclass(frozen=True)
class GlobalQueries(Pattern):
    """Global tokens, as queries, see every key, by ``q_global`` and ``k_global`` where there are such.

    A query is global where the key at its position is.

    >>> import attnviz
    >>> pattern = attnviz.Local(1) | attnviz.GlobalQueries()
    >>> attnviz.score(attnviz.synthesize(), pattern, heads=[0]).global_queries.tolist()
    [0, 3, 7]
    """

    name = "global-queries"
    reason = "global query"
    global_queries = True

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        return torch.isin(t, item.global_queries.to(t.device)).expand(np.broadcast_shapes(t.shape, s.shape))

    def reach(self, item: Item) -> Reach:
        _ = item.global_queries  # raises where there can be none
        return Reach(band=False)

    def __str__(self) -> str:
        return "global queries"


@dataclass(frozen=True)
class Full(Pattern):
    """Every query sees every key.

    >>> import attnviz
    >>> attnviz.score(attnviz.synthesize(), attnviz.Full(), heads=[0]).weights.shape
    torch.Size([1, 10, 10])
    """

    name = "full"

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        return torch.ones(np.broadcast_shapes(t.shape, s.shape), dtype=torch.bool, device=s.device)

    def reach(self, item: Item) -> Reach:
        return Reach()

    def __str__(self) -> str:
        return "full"


def longformer(window: int, dilation: int = 1) -> Pattern:
    """Longformer's attention: a window, global keys and global queries in one joint softmax.

    >>> import attnviz
    >>> attnviz.longformer(2) == attnviz.Local(2) | attnviz.GlobalKeys() | attnviz.GlobalQueries()
    True
    """
    return Local(window, dilation) | GlobalKeys() | GlobalQueries()
