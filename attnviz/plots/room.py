"""How many cells are worth computing for a figure: as many as its panels have pixels, as they are laid out.

More would take time and memory and show no more; fewer would be wrong. Whatever the number, drawing loses none
(:mod:`attnviz.show.figures.cells`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnviz.show.figures import difference, heatmap, overview, pattern
from attnviz.show.figures.cells import most_cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from attnviz.engine.request import Request
    from attnviz.plots.look import Look


LEAST_IN_PRINT = 0.7
"""Points a side of a cell on paper: a printer loses smaller ones."""


def panels(request: Request, count: int, look: Look, ax: Axes | None = None) -> Request:
    """A request in no more cells than each of ``count`` panels of a figure shows; in ``ax``, which may grow, in any."""
    if ax is not None:
        return request
    return _within(request, heatmap.panel_inches(_size(request), count, look.inches), look)


def comparison(request: Request, look: Look) -> Request:
    """A request in no more cells than each of the three panels of a comparison shows."""
    return _within(request, difference.comparison_inches(_size(request), look.inches), look)


def comparison_pixels(size: tuple[int, int], look: Look) -> int:
    """The most cells a side of each of the three panels of a comparison of maps of this size."""
    return most_cells(difference.comparison_inches(size, look.inches), _dots(look))


def model(layers: int, heads: int, look: Look, ax: Axes | None = None) -> int:
    """The most cells a side of each panel of an overview."""
    if ax is not None:
        width, height = ax.get_window_extent().size
        return most_cells((width / heads, height / layers), 1)
    pixels = overview.panel_pixels(layers, heads, look.dots, look.inches)
    return pixels if look.paper is None else max(1, min(pixels, int(pixels / look.dots * 72 / LEAST_IN_PRINT)))


def reasons(request: Request, count: int, look: Look) -> Request:
    """A request in no more cells than each of ``count`` pictures of patterns shows."""
    return _within(request, [pattern.most_inches(count)], look)


def _size(request: Request) -> tuple[int, int]:
    return len(request.rows), len(request.columns)


def _within(request: Request, inches: Sequence[float], look: Look) -> Request:
    return request.but(pixels=max(1, min(request.pixels, most_cells(inches, _dots(look)))))


def _dots(look: Look) -> float:
    """Cells an inch that are worth computing: as many as pixels, and on paper no smaller ones than it shows."""
    return look.dots if look.paper is None else min(look.dots, 72 / LEAST_IN_PRINT)
