"""Maps side by side as matplotlib alone draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


def draw(maps: Sequence[np.ndarray], size: tuple[float, float], path: str | Path) -> None:
    """A square grid of ``imshow``, a title above each, in a figure of this size in inches."""
    side = math.ceil(math.sqrt(len(maps)))
    figure = Figure(figsize=size)
    for n, (ax, cells) in enumerate(zip(figure.subplots(side, side).flat, maps, strict=False)):
        ax.imshow(cells)
        ax.set_title(f"head {n}")
    figure.savefig(path, dpi=150)
