"""Which share of a span's weight goes to which span: what the queries of each group give to the keys of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from attnviz.attention.derived import SomeInputs
from attnviz.attention.patterns import Pattern
from attnviz.base.errors import InputError
from attnviz.base.runs import repeated
from attnviz.base.types import Cells, Label, Progress
from attnviz.base.words import percent
from attnviz.engine.request import Request, ask_for_weights, asks
from attnviz.measures.rows import Column

MOST_PAIRS = 1 << 20
"""Pairs of groups of a head: more are a map, and no table."""


@dataclass(frozen=True)
class WeightShares:
    """What each group of queries of a head gives to each group of keys.

    Args:
        head: which head.
        queries, keys: (n,) and (m,) indices of the groups.
        weights: (n, m) float64: the sum over the keys of a group, the mean over the queries of one that see anything; NaN
            where none sees any.
        query_labels, key_labels: what they are called, where that is known.
        layer, batch: which layer and batch item, where there are several.
    """

    head: int
    queries: Column
    keys: Column
    weights: Cells
    query_labels: Sequence[str] | None = None
    key_labels: Sequence[str] | None = None
    layer: Label | None = None
    batch: int | None = None

    def columns(self) -> dict[str, list[Any]]:
        """A row a pair of groups that is seen, for tables and frames: layer, head, query, key, their labels, the weight."""
        rows, columns = np.nonzero(~np.isnan(self.weights))
        n = len(rows)
        found: dict[str, list[Any]] = {"layer": [self.layer] * n, "head": [self.head] * n}
        found["query"] = self.queries[rows].tolist()
        if self.query_labels is not None:
            found["query_token"] = [self.query_labels[row] for row in rows.tolist()]
        found["key"] = self.keys[columns].tolist()
        if self.key_labels is not None:
            found["key_token"] = [self.key_labels[column] for column in columns.tolist()]
        return found | {"weight": self.weights[rows, columns].tolist()}

    def by_key(self) -> dict[str, list[Any]]:
        """A row a group of queries and a column a group of keys, in percent, for people; None where no key is seen."""
        n = len(self.queries)
        found: dict[str, list[Any]] = {"layer": [self.layer] * n, "head": [self.head] * n}
        found["query"] = self.queries.tolist() if self.query_labels is None else list(self.query_labels)
        labels = [f"{key}" for key in self.keys] if self.key_labels is None else list(self.key_labels)
        twice = set(repeated(labels))
        for key, label, column in zip(self.keys.tolist(), labels, self.weights.T, strict=True):
            name = f"{label} ({key})" if label in found or label in twice else label
            found[name] = [None if np.isnan(weight) else percent(weight) for weight in column.tolist()]
        return found


@asks("batch", "queries", "keys", "device", "dtype")
def weight_shares(
    inputs: SomeInputs,
    pattern: Pattern | str | None = None,
    *,
    heads: Iterable[int] | None = None,
    progress: Progress | None = None,
    **what: Any,
) -> list[WeightShares]:
    """Which share of its weight each span or word gives to each.

    Args:
        inputs, pattern, heads, progress: as :func:`attnviz.head_statistics`.
        what: ``spans``, ``query_spans`` or ``merge``, what they are; ``hide``, ``renormalize``, ``batch``, ``queries``, ``keys``, ``device``,
            ``dtype``, as in :func:`attnviz.attention_map`.

    Raises:
        InputError: as :func:`attnviz.attention_map`; more pairs than a table has.

    >>> import attnviz
    >>> spans = "system:0-2,document:3-7,answer:8-9"
    >>> found = weight_shares(attnviz.synthesize(heads=1), "causal", spans=spans)[0]
    >>> found.key_labels, found.weights.shape, round(float(found.weights[2].sum()), 6)
    (['system', 'document', 'answer'], (3, 3), 1.0)
    """
    return shares_of(ask_for_weights(inputs, pattern, heads, every_key=True, **what), progress=progress)


def shares_of(request: Request, *, progress: Progress | None = None) -> list[WeightShares]:
    """The shares of each head of a request."""
    item, rows, keys = request.item, request.rows, request.keys
    assert keys is not None
    if len(rows) * len(keys) > MOST_PAIRS:
        raise InputError(
            f"{item.source}: a table of {len(rows):,} x {len(keys):,} shares is too large to read; name spans (--spans), or see it "
            f"as a map (attnviz plot)"
        )
    edges = [np.arange(part.start, part.stop + 1) for part in (rows, keys)]
    found = []
    with torch.no_grad(), torch.autocast(item.device.type, enabled=False):
        for head in request.chosen:
            cells = request.attention.cells(head, edges[0], edges[1], reductions=("mass",), progress=progress)
            assert cells.mass is not None
            labels = item.query_labels(rows), item.key_labels(keys)
            whose = {"layer": item.inputs.layer, "batch": item.batch_shown}
            found.append(WeightShares(head, edges[0][:-1], edges[1][:-1], cells.mass, *labels, **whose))  # type: ignore[arg-type]
    return found
