"""What the numbers of a snapshot of version 1 mean: what is taken to be held against one is made by these definitions.

Windows, distances and what a query's own key is count from ``t`` in place of ``t + S - T``; a query is padding where its key
is, only where T = S; ``diagonal_mass`` and ``previous_mass`` are means over every query that sees a key, be it that one or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Both, Either, Item, Local, Pattern
from attnviz.attention.reach import Reach
from attnviz.compare.rounding import Tolerance
from attnviz.engine.blocks import Block
from attnviz.engine.request import Request
from attnviz.measures.statistics import STATISTICS, HeadStatistics, QueryBlock, statistics_of

TOLERANCES = {
    "float64": Tolerance(1e-9, 1e-9),
    "float32": Tolerance(1e-5, 1e-5),
    "float16": Tolerance(1e-3, 1e-3),
    "bfloat16": Tolerance(1e-2, 1e-2),
}
"""How far apart weights of a dtype could be, before files said their own rule; logits ten times as far."""

CHANGED = ("distance", "diagonal_mass", "previous_mass")
"""The statistics that mean something else since."""

_OVER_ALL = ("diagonal_mass", "previous_mass")


@dataclass(frozen=True)
class _FromIndex(Local):
    """A window around the key of the query's own index."""

    name = None  # type: ignore[assignment]

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        distance = s - t
        return (distance.abs() <= self.window * self.dilation) & (distance % self.dilation == 0)

    def reach(self, item: Item) -> Reach:
        width = self.window * self.dilation
        return Reach(-width, width, self.dilation)


def request_of(request: Request) -> Request:
    """The request whose maps are those of version 1."""
    inputs = request.inputs
    if inputs.T == inputs.S:
        return request
    if inputs.key_padding_mask is not None and inputs.query_padding_mask is None:
        every = torch.ones(inputs.B, inputs.T, dtype=torch.bool, device=inputs.device)
        inputs = replace(inputs, query_padding_mask=every)
    return request.but(inputs=inputs, pattern=_from_index(request.attention.pattern))


def _from_index(pattern: Pattern) -> Pattern:
    if isinstance(pattern, Local):
        return _FromIndex(pattern.window, pattern.dilation)
    if isinstance(pattern, (Either, Both)):
        return replace(pattern, left=_from_index(pattern.left), right=_from_index(pattern.right))
    return pattern


def statistics(weights: Iterable[Block], head: int, item: AttentionItem | None) -> HeadStatistics:
    """The statistics of one head whose weights come block by block, every query once."""
    if item is not None and item.T != item.S:
        inputs = replace(item.inputs, query_positions=torch.arange(item.T), key_positions=None)
        item = AttentionItem(inputs, item.batch, item.device, item.dtype)
    sums = dict.fromkeys(_OVER_ALL, 0.0)

    def watched() -> Iterator[Block]:
        for block in weights:
            seeing = QueryBlock(block, item)
            for name in sums if len(seeing.rows) else ():
                found = STATISTICS[name].of_queries(seeing)
                sums[name] += 0.0 if found is None else float(found[0].sum(dtype=torch.float64))
            yield block

    described = statistics_of(watched(), head, item)
    over_all = {name: total / described.queries if described.queries else None for name, total in sums.items()}
    return replace(described, values={**described.values, **over_all})
