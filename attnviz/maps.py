"""Maps for pictures: the weights or logits of one head in no more cells than a picture can show.

A cell covers the queries ``floor(i*T/P) .. floor((i+1)*T/P) - 1`` and the keys likewise. ``max`` keeps the largest
value of a cell, so that a lone bright key never vanishes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnviz.scores import AttentionScores

Cells = np.ndarray[tuple[int, int], np.dtype[np.floating[Any]]]


@dataclass(frozen=True)
class AttentionMap:
    """One head's map, ready to draw.

    Args:
        cells: (P, P') values, NaN where no query of the cell sees a key of it.
        values: ``weights`` or ``logits``.
        head: the query head.
        queries: the query positions that the rows cover.
        keys: the key positions that the columns cover: a range, or the positions of the global keys.
        query_labels: a label for each query of ``queries``, where there are labels.
        key_labels: a label for each key of ``keys``, where there are labels.
        pattern: the pattern's name.
        reduction: how a cell stands for its values.
    """

    cells: Cells
    values: str
    head: int
    queries: range
    keys: Sequence[int]
    query_labels: Sequence[str] | None = None
    key_labels: Sequence[str] | None = None
    pattern: str = "global"
    reduction: str = "max"

    @property
    def cell_size(self) -> tuple[float, float]:
        """Queries and keys to a cell."""
        rows, columns = self.cells.shape
        return len(self.queries) / rows, len(self.keys) / columns

    @property
    def reduced(self) -> bool:
        """Whether a cell stands for several values."""
        return self.cell_size != (1, 1)


def bin_edges(size: int, bins: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The ``bins + 1`` edges that cut ``size`` positions into bins: bin i is ``edges[i]`` to ``edges[i + 1] - 1``."""
    return np.arange(bins + 1, dtype=np.int64) * size // bins


def reduce_max(values: Cells, shape: tuple[int, int]) -> Cells:
    """The largest value of each cell, (P, P'); NaN only where a cell has nothing else."""
    for axis, bins in enumerate(shape):
        size = values.shape[axis]
        if bins < size:
            values = np.fmax.reduceat(values, bin_edges(size, bins)[:-1], axis=axis)
    return values


def global_map(scores: AttentionScores, head: int, *, values: str = "weights", pixels: int = 1024) -> AttentionMap:
    """The map of one head over the global keys: a row a query, a column a global key.

    Args:
        scores: of the global pattern.
        head: a query head among ``scores.heads``.
        values: ``weights`` or ``logits``.
        pixels: the most cells along each side.
    """
    item = scores.item
    tensor = scores.values(values)[scores.heads.index(head)]  # (T, G)
    whole = tensor.detach().cpu().numpy()
    positions = scores.positions.tolist()
    return AttentionMap(
        reduce_max(whole, (min(item.T, pixels), min(len(positions), pixels))),
        values,
        head,
        range(item.T),
        tuple(positions),
        item.query_labels(range(item.T)),
        item.key_labels(positions),
        str(scores.pattern),
    )
