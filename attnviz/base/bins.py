"""Positions cut into bins: bin ``i`` of ``n`` positions in ``bins`` covers ``floor(i*n/bins) .. floor((i+1)*n/bins) - 1``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np

from attnviz.base.types import Positions


def bin_cuts(count: int, bins: int) -> Positions:
    """The ``bins + 1`` indices that cut ``count`` things evenly.

    >>> bin_cuts(10, 4).tolist()
    [0, 2, 5, 7, 10]
    """
    return np.arange(bins + 1, dtype=np.int64) * count // bins


def bin_edges(positions: Sequence[int], bins: int) -> Positions:
    """The ``bins + 1`` edges that cut ascending positions evenly: bin i is ``edges[i] <= position < edges[i + 1]``."""
    cuts = bin_cuts(len(positions), bins)
    if isinstance(positions, range):
        return cuts + positions.start
    return np.append(np.asarray(positions, dtype=np.int64)[cuts[:-1]], positions[-1] + 1)


@overload
def of_bin(positions: range, bins: int, index: int) -> range: ...
@overload
def of_bin(positions: Sequence[int], bins: int, index: int) -> Sequence[int]: ...
def of_bin(positions: Sequence[int], bins: int, index: int) -> Sequence[int]:
    """The positions that fall into a bin, as :func:`bin_edges` cuts them."""
    return positions[index * len(positions) // bins : (index + 1) * len(positions) // bins]
