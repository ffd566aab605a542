"""Statistics query by query and key by key: a head's rows and columns, streamed once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from attnviz.attention.derived import SomeInputs
from attnviz.attention.patterns import Pattern
from attnviz.base.types import Label, Progress
from attnviz.engine.request import Request, ask_for_weights, asks
from attnviz.measures.statistic import STATISTICS
from attnviz.measures.statistics import seeing_blocks

Column = np.ndarray[tuple[int], np.dtype[Any]]


@dataclass(frozen=True)
class QueryStatistics:
    """One head's statistics, of each of its queries.

    Args:
        head: which head.
        queries: (n,) query indices.
        values: (n,) float64 of each statistic of queries by its name, NaN where a query has none.
        tokens: the queries' labels, where there are any.
        layer, batch: which layer and batch item, where there are several.
    """

    head: int
    queries: Column
    values: dict[str, Column]
    tokens: Sequence[str] | None = None
    layer: Label | None = None
    batch: int | None = None

    def columns(self) -> dict[str, list[Any]]:
        """A row a query, for tables and frames: layer, head, query, its token and its statistics, None where there is none."""
        n = len(self.queries)
        found: dict[str, list[Any]] = {
            "layer": [self.layer] * n,
            "head": [self.head] * n,
            "query": self.queries.tolist(),
        }
        if self.tokens is not None:
            found["token"] = list(self.tokens)
        return found | {name: _plain(column) for name, column in self.values.items()}


@dataclass(frozen=True)
class ReceivedWeight:
    """What each key of a head receives.

    Args:
        head: which head.
        keys: (n,) key indices.
        queries: (n,) how many queries can see the key.
        sum, largest: (n,) float64: all the weight that it receives, and the largest of one query.
        tokens: the keys' labels, where there are any.
        layer, batch: which layer and batch item, where there are several.
    """

    head: int
    keys: Column
    queries: Column
    sum: Column
    largest: Column
    tokens: Sequence[str] | None = None
    layer: Label | None = None
    batch: int | None = None

    @property
    def mean(self) -> Column:
        """(n,) the mean over the queries that can see the key; NaN where none can."""
        with np.errstate(invalid="ignore"):
            return self.sum / self.queries

    def columns(self) -> dict[str, list[Any]]:
        """A row a key, for tables and frames; None where no query sees it."""
        n, seen = len(self.keys), self.queries > 0
        found: dict[str, list[Any]] = {"layer": [self.layer] * n, "head": [self.head] * n, "key": self.keys.tolist()}
        if self.tokens is not None:
            found["token"] = list(self.tokens)
        numbers = {"sum": self.sum, "mean": self.mean, "largest": self.largest}
        found["queries"] = self.queries.tolist()
        return found | {name: _plain(np.where(seen, column, np.nan)) for name, column in numbers.items()}


@asks("batch", "values", "queries", "device", "dtype")
def query_statistics(
    inputs: SomeInputs,
    pattern: Pattern | str | None = None,
    *,
    heads: Iterable[int] | None = None,
    progress: Progress | None = None,
    **what: Any,
) -> list[QueryStatistics]:
    """The statistics of each query of each head.

    Args:
        inputs, pattern, heads, progress: as :func:`attnviz.head_statistics`.
        what: ``batch``, ``queries``, ``device``, ``dtype``, likewise.

    Raises:
        InputError: as :func:`attnviz.score`.

    >>> import attnviz
    >>> found = query_statistics(attnviz.synthesize(heads=1, tokens=3), attnviz.Local(0))[0]
    >>> found.queries.tolist(), found.values["diagonal_mass"].tolist()
    ([0, 1, 2], [1.0, 1.0, 1.0])
    """
    return by_query(ask_for_weights(inputs, pattern, heads, **what), progress=progress)


def by_query(request: Request, *, progress: Progress | None = None) -> list[QueryStatistics]:
    """The statistics of each query that a request shows."""
    item, rows = request.item, request.rows
    names = [name for name, one in STATISTICS.items() if one.of == "queries"]
    found = []
    with torch.no_grad(), torch.autocast(item.device.type, enabled=False):
        for head in request.chosen:
            values = {name: np.full(len(rows), np.nan) for name in names}
            for block in seeing_blocks(request.attention.blocks(head, queries=rows, sums=True), head, item, progress):
                at = block.rows.cpu().numpy() - rows.start
                for name in names:
                    of_block = STATISTICS[name].of_queries(block)
                    if of_block is not None:
                        numbers, there = of_block
                        values[name][at] = torch.where(there, numbers.double(), torch.nan).cpu().numpy()
            labels = item.query_labels(rows)
            found.append(
                QueryStatistics(
                    head, np.arange(rows.start, rows.stop), values, labels, item.inputs.layer, item.batch_shown
                )
            )
    return found


@asks("batch", "values", "queries", "keys", "device", "dtype")
def weight_received(
    inputs: SomeInputs,
    pattern: Pattern | str | None = None,
    *,
    heads: Iterable[int] | None = None,
    progress: Progress | None = None,
    **what: Any,
) -> list[ReceivedWeight]:
    """What each key receives in each head: the sum, the mean over the queries that can see it, the largest.

    Args:
        inputs, pattern, heads, progress: as :func:`attnviz.head_statistics`.
        what: ``batch``, ``queries``, ``device``, ``dtype``, likewise; ``keys``, those that are wanted.

    Raises:
        InputError: as :func:`attnviz.score`.

    >>> import attnviz
    >>> found = weight_received(attnviz.synthesize(heads=1, tokens=4), attnviz.Local(0))[0]
    >>> found.sum.tolist(), found.queries.tolist()
    ([1.0, 1.0, 1.0, 1.0], [1, 1, 1, 1])
    """
    return by_key(ask_for_weights(inputs, pattern, heads, every_key=True, **what), progress=progress)


def by_key(request: Request, *, progress: Progress | None = None) -> list[ReceivedWeight]:
    """What each key that a request shows receives from the queries that it shows."""
    item, rows, keys = request.item, request.rows, request.keys
    assert keys is not None
    found = []
    with torch.no_grad(), torch.autocast(item.device.type, enabled=False):
        for head in request.chosen:
            total = torch.zeros(item.S, dtype=torch.float64, device=item.device)
            largest = torch.full_like(total, -torch.inf)
            queries = torch.zeros(item.S, dtype=torch.int64, device=item.device)
            for block in seeing_blocks(request.attention.blocks(head, queries=rows), head, item, progress):
                if not block.weights.numel():
                    continue
                total.index_add_(0, block.keys, block.weights.sum(0, dtype=torch.float64))
                largest.scatter_reduce_(
                    0, block.keys, block.weights.masked_fill(~block.seen, -torch.inf).amax(0).double(), "amax"
                )
                queries.index_add_(0, block.keys, block.sees_count)
            part = slice(keys.start, keys.stop)
            seen, whole, most = (one[part].cpu().numpy() for one in (queries, total, largest))
            every, labels = np.arange(keys.start, keys.stop), item.key_labels(keys)
            whose = {"layer": item.inputs.layer, "batch": item.batch_shown}
            found.append(ReceivedWeight(head, every, seen, whole, most, labels, **whose))  # type: ignore[arg-type]
    return found


def _plain(column: Column) -> list[Any]:
    """Numbers, None for NaN."""
    return [None if np.isnan(value) else value for value in column.tolist()]
