"""Weight by distance, and inside windows of powers of two: how much of a head a window would keep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from attnviz.attention.derived import SomeInputs
from attnviz.attention.patterns import Pattern
from attnviz.base.errors import InputError
from attnviz.base.types import Label, Progress
from attnviz.engine.request import Request, ask_for_weights, asks
from attnviz.measures.rows import Column
from attnviz.measures.statistics import seeing_blocks

_FARTHEST = 1 << 24

FIRST = 4
"""How many of the first keys a window keeps besides, as StreamingLLM's sinks (arXiv:2309.17453)."""


@dataclass(frozen=True)
class HeadCurves:
    """One head's weight by distance.

    Args:
        head: which head.
        mass: (n,) the weight on keys ``|p(t) - p(s)|`` = 0, 1, ... positions away, the mean over queries that see a key; it
            sums to what a row does.
        weight: (n,) the mean over the pairs that are visible at this distance; NaN where none is.
        windows: 1, 2, 4, ... to the mean weight on keys no farther away than that, or among the item's first four keys.
        layer, batch: which layer and batch item, where there are several.
    """

    head: int
    mass: Column
    weight: Column
    windows: dict[int, float]
    layer: Label | None = None
    batch: int | None = None

    def by_distance(self) -> dict[str, list[Any]]:
        """A row a distance at which a pair is visible, for tables and frames."""
        at = np.flatnonzero(~np.isnan(self.weight))
        whose: dict[str, list[Any]] = {"layer": [self.layer] * len(at), "head": [self.head] * len(at)}
        return whose | {"distance": at.tolist(), "mass": self.mass[at].tolist(), "weight": self.weight[at].tolist()}

    def by_window(self) -> dict[str, list[Any]]:
        """A row a window, for tables and frames."""
        n = len(self.windows)
        whose: dict[str, list[Any]] = {"layer": [self.layer] * n, "head": [self.head] * n}
        return whose | {"window": [*self.windows], "mass": [*self.windows.values()]}


@asks("batch", "values", "queries", "device", "dtype")
def head_curves(
    inputs: SomeInputs,
    pattern: Pattern | str | None = None,
    *,
    heads: Iterable[int] | None = None,
    progress: Progress | None = None,
    **what: Any,
) -> list[HeadCurves]:
    """Each head's weight by distance, and inside windows.

    Args:
        inputs, pattern, heads, progress: as :func:`attnviz.head_statistics`.
        what: ``batch``, ``queries``, ``device``, ``dtype``, likewise.

    Raises:
        InputError: as :func:`attnviz.score`; keys of another sequence, which are at no distance.

    >>> import attnviz
    >>> found = head_curves(attnviz.synthesize(heads=1, tokens=8), attnviz.Local(2))[0]
    >>> found.mass.shape, [*found.windows], round(found.windows[2], 6)
    ((8,), [1, 2, 4, 8], 1.0)
    """
    return curves_of(ask_for_weights(inputs, pattern, heads, **what), progress=progress)


def curves_of(request: Request, *, progress: Progress | None = None) -> list[HeadCurves]:
    """The curves of each head of a request, over its queries."""
    item = request.item
    if item.cross:
        raise InputError(
            f"{item.source}: keys are of another sequence (cross), and at no distance; look at other statistics"
        )
    if item.farthest > _FARTHEST:
        raise InputError(
            f"{item.source}: positions are up to {item.farthest:,.0f} apart, and a curve by distance has a point each; look at "
            f"the statistic distance"
        )
    places = item.key_position(torch.arange(item.S, device=item.device))
    found = []
    with torch.no_grad(), torch.autocast(item.device.type, enabled=False):
        for head in request.chosen:
            total, near_first, pairs = (np.zeros(0) for _ in range(3))
            queries = 0
            for block in seeing_blocks(request.attention.blocks(head, queries=request.queries), head, item, progress):
                queries += len(block.rows)
                if not block.weights.numel():
                    continue
                away = (item.query_position(block.rows)[:, None] - places[block.keys]).abs()
                seen = block.seen
                first = block.among_first(FIRST)
                total = _added(total, away, block.weights)
                near_first = _added(near_first, away, block.weights * first)
                pairs = _added(pairs, away, seen.to(block.weights.dtype))
            size = max(map(len, (total, near_first, pairs)))
            total, near_first, pairs = (_padded(one, size) for one in (total, near_first, pairs))
            with np.errstate(invalid="ignore", divide="ignore"):
                mass, weight = total / max(queries, 1), np.where(pairs > 0, total / pairs, np.nan)
            kept = np.cumsum(total) + near_first.sum() - np.cumsum(near_first)
            widths = [1 << n for n in range(max(size - 1, 1).bit_length() + 1)]
            windows = {w: float(kept[min(w, size - 1)] / queries) for w in widths} if queries and size else {}
            found.append(HeadCurves(head, mass, weight, windows, item.inputs.layer, item.batch_shown))
    return found


def _added(sums: Column, away: torch.Tensor, values: torch.Tensor) -> Column:
    """Sums by distance, with those of a block, (b, n)."""
    block = torch.bincount(away.flatten(), weights=values.flatten().double()).cpu().numpy()
    size = max(len(sums), len(block))
    return _padded(sums, size) + _padded(block, size)


def _padded(sums: Column, size: int) -> Column:
    return np.pad(sums, (0, size - len(sums)))
