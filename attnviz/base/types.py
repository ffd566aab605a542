"""Types that many floors share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Positions = np.ndarray[tuple[int], np.dtype[np.int64]]
"""Indices or positions, (n,)."""

Cells = np.ndarray[tuple[int, int], np.dtype[np.floating[Any]]]
"""A value a cell of a picture, (P, P'); NaN where nothing is visible."""

Progress = Callable[[int], None]
"""Called with the number of query rows just done."""

Label = int | str
"""A layer: ``5``, or ``"cross.5"`` where there are layers of several kinds."""
