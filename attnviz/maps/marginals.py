"""What stands at the sides of a map: the attention each key receives, and the entropy of each query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from attnviz.attention.derived import SomeInputs
from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.base.bins import bin_cuts
from attnviz.base.types import Progress
from attnviz.engine.attention import Attention
from attnviz.engine.blocks import Block
from attnviz.engine.request import Request, ask_for_weights, asks

Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True)
class Marginals:
    """A number for each key and each query of a map, exact whatever its length.

    Args:
        received: (len(keys),) the mean weight on a key, over the queries shown that see it; NaN where none does.
        entropy: (len(queries),) the entropy in nats of a query's weights on all the keys it sees, also those that are
            not shown; NaN where it sees nothing, or where a weight that was given is negative.
        queries, keys: the positions they are of.

    >>> import attnviz
    >>> attnviz.marginals(attnviz.synthesize(), head=3, pattern="causal").received.round(2).tolist()[:3]
    [0.32, 0.28, 0.18]
    """

    received: Numbers
    entropy: Numbers
    queries: range
    keys: Sequence[int]


@asks("batch", "values", "queries", "keys", "device", "dtype")
def marginals(
    inputs: SomeInputs,
    head: int,
    pattern: Pattern | str | None = None,
    *,
    progress: Progress | None = None,
    **what: Any,
) -> Marginals:
    """The attention that each key receives and the entropy of each query, in one pass over blocks of rows.

    Args:
        inputs, head, pattern, what: as in :func:`attnviz.attention_map`.
        progress: called with the number of rows done, as they are.

    Raises:
        InputError: as :func:`attnviz.attention_map`.

    >>> import attnviz
    >>> sides = attnviz.marginals(attnviz.synthesize(), 0, attnviz.Local(0))
    >>> sides.received.tolist() == [1.0] * 10, sides.entropy.tolist() == [0.0] * 10
    (True, True)
    """
    return marginals_of(ask_for_weights(inputs, pattern, head, **what), progress=progress)


class Sides(NamedTuple):
    """A number for each key and each query of a head, NaN where there is none."""

    received: Numbers  # (S,) the mean weight on a key, over the queries that see it
    entropy: Numbers  # (T,) of a query's weights, in nats
    largest: Numbers  # (T,) a query's largest weight


def sides_of(attention: Attention, head: int, *, progress: Progress | None = None) -> Sides:
    """The sides of a head's whole map, in one pass."""
    return _sides(attention, head, None, progress)


def marginals_of(request: Request, head: int | None = None, *, progress: Progress | None = None) -> Marginals:
    """The sides of the map of a head of a request; None is its first."""
    head = request.chosen[0] if head is None else head
    attention, queries = request.attention, request.rows
    means, entropy, _ = _sides(attention, head, queries, progress)
    shown = request.columns
    return Marginals(means[np.asarray(shown)], entropy[queries.start : queries.stop], queries, shown)


def _sides(attention: Attention, head: int, queries: range | None, progress: Progress | None) -> Sides:
    """Of some queries, None meaning all."""
    sums = SideSums(attention.item)
    with torch.no_grad(), torch.autocast(attention.item.device.type, enabled=False):
        for block in attention.blocks(head, queries=queries, sums=True):
            sums.add(block)
            if progress is not None:
                progress(len(block.rows))
    return sums.made


class SideSums:
    """The sides of a head's map, as its blocks of weights come in, each query once."""

    def __init__(self, item: AttentionItem) -> None:
        self._sums = torch.zeros(item.S, dtype=torch.float64, device=item.device)
        self._seen = torch.zeros(item.S, dtype=torch.int64, device=item.device)
        self._each = torch.full((2, item.T), torch.nan, dtype=torch.float64, device=item.device)  # entropy, largest

    def add(self, block: Block) -> None:
        """Takes in a block, with each query's entropy where that was asked for."""
        sees, entropy, weights = block.visible > 0, block.entropies, block.values
        told = torch.stack([torch.where(entropy > -torch.inf, entropy, torch.nan), block.tops])
        self._each[:, block.rows] = torch.where(sees, told, torch.nan).double()
        there = weights if bool(sees.all()) else weights[sees]
        self._sums.index_add_(0, block.keys, there.sum(0, dtype=torch.float64))
        self._seen.index_add_(0, block.keys, block.seeing)

    @property
    def made(self) -> Sides:
        """The sides of what came in."""
        entropy, largest = self._each.cpu().numpy()
        return Sides(torch.where(self._seen > 0, self._sums / self._seen, torch.nan).cpu().numpy(), entropy, largest)


def of_cells(numbers: Numbers, cells: int) -> np.ndarray[tuple[int, int], np.dtype[np.floating[Any]]]:
    """Least, mean and largest of the numbers that each of ``cells`` cells stands for, (3, cells); NaN where all are."""
    edges = bin_cuts(len(numbers), cells)
    there = np.isfinite(numbers)
    counts = np.add.reduceat(there.astype(np.float64), edges[:-1])
    blank = counts == 0
    least = np.minimum.reduceat(np.where(there, numbers, np.inf), edges[:-1])
    most = np.maximum.reduceat(np.where(there, numbers, -np.inf), edges[:-1])
    mean = np.add.reduceat(np.where(there, numbers, 0.0), edges[:-1]) / np.maximum(counts, 1)
    found: np.ndarray[Any, Any] = np.where(blank, np.nan, [least, mean, most])
    return found
