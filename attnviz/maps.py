"""Maps for pictures: the weights or logits of one head in no more cells than a picture can show.

A cell covers the queries ``floor(i*T/P) .. floor((i+1)*T/P) - 1`` and the keys likewise. ``max`` keeps the largest
value of a cell, so that a lone bright key never vanishes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from attnviz.attention import AttentionInputs
from attnviz.patterns import Pattern
from attnviz.scores import score

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


def attention_map(
    inputs: AttentionInputs,
    head: int,
    pattern: Pattern | None = None,
    *,
    batch: int = 0,
    values: str = "weights",
    pixels: int = 1024,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> AttentionMap:
    """The map of one head, exact, in at most ``pixels`` x ``pixels`` cells.

    Args:
        inputs: queries, keys and masks.
        head: the query head.
        pattern: which query sees which key; None is the global keys, one column each.
        batch: the batch item.
        values: ``weights`` or ``logits``.
        pixels: the most cells along each side.
        device, dtype: as in :func:`attnviz.score`.

    Raises:
        InputError: as :func:`attnviz.score`.

    >>> import attnviz
    >>> attnviz.attention_map(attnviz.synthesize(), head=3).cells.shape
    (10, 3)
    """
    scores = score(
        inputs,
        pattern,
        batch=batch,
        heads=[head],
        logits=values == "logits",
        weights=values == "weights",
        device=device,
        dtype=dtype,
    )
    item = scores.item
    whole = scores.values(values)[0].detach().cpu().numpy()  # (T, G)
    positions = tuple(scores.positions.tolist())
    return AttentionMap(
        reduce_max(whole, (min(item.T, pixels), min(len(positions), pixels))),
        values,
        head,
        range(item.T),
        positions,
        item.query_labels(range(item.T)),
        item.key_labels(positions),
        str(scores.pattern),
    )
