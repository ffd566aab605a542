"""How many cells a figure has room for: the one place where kinds ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnviz.show.figures import difference, heatmap, overview, pattern

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from attnviz.engine.request import Request
    from attnviz.plots.look import Look


def panels(request: Request, count: int, look: Look, ax: Axes | None = None) -> Request:
    """A request in no more cells than each of ``count`` panels of a figure shows, or ``ax``."""
    if ax is not None:
        room = int(0.8 * min(ax.get_window_extent().size))  # the color scale takes its part too
    else:
        room = heatmap.most_pixels(count, look.dots, look.inches)
    return _within(request, room)


def comparison(request: Request, look: Look) -> Request:
    """A request in no more cells than each of the three panels of a comparison shows."""
    return _within(request, difference.panel_pixels(look.dots, look.inches))


def model(layers: int, heads: int, look: Look, ax: Axes | None = None) -> int:
    """The most cells a side of each panel of an overview."""
    if ax is not None:
        return overview.panel_room(ax, layers, heads)
    return overview.panel_pixels(layers, heads, look.dots, look.inches)


def reasons(request: Request, count: int, look: Look) -> Request:
    """A request in no more cells than each of ``count`` pictures of patterns shows."""
    return _within(request, pattern.most_pixels(count, look.dots))


def _within(request: Request, room: int) -> Request:
    return request.but(pixels=max(1, min(request.pixels, room)))
