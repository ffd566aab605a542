"""The edges of a pattern over a map: where its window, its global keys and its global queries begin and end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from attnviz.maps.reasons import ReasonMap
from attnviz.show.figures.layout import EDGE, grow, line, points, width_of
from attnviz.show.scale.colors import reason_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Mask = np.ndarray[tuple[int, int], np.dtype[np.bool_]]
Segments = np.ndarray[Any, np.dtype[np.floating[Any]]]  # (n, 2, 2)

_THICKEST, _THINNEST = 1.2, 0.3  # points
_THIN = 4.0
"""Points across below which a key's column or a query's row is marked at the map's edge: lines would cover it."""

_MOSTLY = 0.5  # of a column, from where it is a key of all queries


def outline(reasons: ReasonMap, ax: Axes, *, legend: bool = False) -> Axes:
    """Draws the edges of each part of a pattern over a map that is drawn already.

    Each part has the color it has in :func:`~attnviz.show.figures.pattern.pattern_figure`. Columns and rows too thin for
    lines, such as a global key among 100,000, are marked by triangles at the map's edge, which cover nothing.

    Args:
        reasons: who may see whom and why, of the queries and keys that the map shows.
        ax: the map's Axes.
        legend: whether to name the colors above the map.

    Returns:
        ``ax``.
    """
    rows, columns = reasons.cells.shape
    down, across = reasons.cell_size
    figure = ax.get_figure(root=True)
    assert figure is not None
    box, size = ax.get_position(), figure.get_size_inches()
    cell_width = box.width * float(size[0]) * 72 / columns  # points
    cell_height = box.height * float(size[1]) * 72 / rows
    width = float(np.clip(0.15 * min(cell_width, cell_height), _THINNEST, _THICKEST))
    for index, color in enumerate(reason_colors(reasons.reasons).values()):
        mask = (reasons.cells >> index & 1).astype(bool)
        mask, thin_columns = _without_thin(mask, cell_width)
        turned, thin_rows = _without_thin(mask.T, cell_height)
        segments = edges(turned.T) * (across, down) - 0.5
        halo = [withStroke(linewidth=2.2 * width, foreground="white")] if width > 2 * _THINNEST else []
        ax.add_collection(
            LineCollection(list(segments), colors=[color], linewidths=width, capstyle="projecting", path_effects=halo),
            autolim=False,
        )
        _mark(ax, (thin_columns + 0.5) * across - 0.5, color, top=True)
        _mark(ax, (thin_rows + 0.5) * down - 0.5, color, top=False)
    if legend:
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), **_legend(reasons))
        ax.set_title(ax.get_title(), pad=20)  # above it
    return ax


def outline_legend(reasons: ReasonMap, figure: Figure) -> None:
    """Names the colors of outlines above a figure whose places are computed, in room of its own."""
    # Taken from the map, it would leave fewer pixels than the map has cells.
    high, size = float(figure.get_figheight()), points("axes.labelsize")
    names, inches = list(reason_colors(reasons.reasons)), float(figure.get_figwidth()) - 2 * EDGE
    each = max(width_of(name, size) for name in names) + 3.5 * size / 72
    columns = max(1, min(len(names), int(inches / each)))
    room = 1.45 * line("axes.labelsize", math.ceil(len(names) / columns)) + 0.04
    grow(figure, above=room)
    figure.legend(
        loc="upper left",
        bbox_to_anchor=(EDGE / figure.get_figwidth(), 1 - EDGE / (high + room)),
        borderaxespad=0,
        **(_legend(reasons) | {"ncols": columns}),
    )


def edges(mask: Mask) -> Segments:
    """The borders between cells that are in ``mask`` and cells that are not, as few straight lines as they take.

    Args:
        mask: (P, P').

    Returns:
        (n, 2, 2): the ends of each line as (column, row), counted in cells from the upper left corner. The frame of
        the map itself is none.

    >>> edges(np.array([[True, False], [True, False]])).tolist()
    [[[1.0, 0.0], [1.0, 2.0]]]
    """
    upright = _runs(mask[:, 1:] != mask[:, :-1])  # (n, 3): border, first row, row after the last
    level = _runs((mask[1:] != mask[:-1]).T)
    ends = [
        np.stack([upright[:, [0, 1]], upright[:, [0, 2]]], axis=1),
        np.stack([level[:, [1, 0]], level[:, [2, 0]]], axis=1),
    ]
    found: Segments = np.concatenate(ends).astype(np.float64)
    return found


def _runs(borders: Mask) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Runs down each column of borders, (n, 3): the column's border, the first row, the row after the last."""
    padded = np.pad(borders, ((1, 1), (0, 0))).astype(np.int8)
    change = np.diff(padded, axis=0).T  # (borders, rows + 1)
    border, first = np.nonzero(change == 1)
    _, stop = np.nonzero(change == -1)
    return np.stack([border + 1, first, stop], axis=1)


def _without_thin(mask: Mask, cell: float) -> tuple[Mask, Segments]:
    """A mask without the runs of columns that most rows have and that are too thin to outline, and their middles.

    Args:
        mask: (P, P').
        cell: points across of one column.
    """
    shares = mask.mean(axis=0)
    padded = np.pad(shares > _MOSTLY, 1).astype(np.int8)
    firsts, stops = np.flatnonzero(np.diff(padded) == 1), np.flatnonzero(np.diff(padded) == -1)
    thin = (stops - firsts) * cell < _THIN
    if not thin.any():
        return mask, np.empty(0)
    mask = mask.copy()
    for first, stop in zip(firsts[thin], stops[thin], strict=True):
        mask[:, first:stop] = False
    return mask, (firsts[thin] + stops[thin] - 1) / 2


def _mark(ax: Axes, at: Segments, color: Any, *, top: bool) -> None:
    """Triangles outside the map's upper or right edge that point at columns or rows."""
    if not len(at):
        return
    ends = np.ones(len(at))
    transform = ax.get_xaxis_transform() if top else ax.get_yaxis_transform()
    x, y = (at, ends) if top else (ends, at)
    # The middle of the marker is half its size beyond the edge, so that its tip touches.
    ax.plot(
        x,
        y,
        linestyle="",
        marker=_tip(top=top),
        markersize=7,
        markeredgewidth=0,
        color=color,
        transform=transform,
        clip_on=False,
        scalex=False,
        scaley=False,
    )


def _tip(*, top: bool) -> Any:
    """A triangle whose tip is the point it marks, below it or to its left."""
    corners: Sequence[tuple[float, float]] = [(0, 0), (-0.5, 1), (0.5, 1)] if top else [(0, 0), (1, 0.5), (1, -0.5)]
    return [*corners, corners[0]]


def _legend(reasons: ReasonMap) -> dict[str, Any]:
    colors = reason_colors(reasons.reasons)
    handles = [Line2D([], [], color=color, linewidth=1.5) for color in colors.values()]
    return {
        "handles": handles,
        "labels": list(colors),
        "ncols": len(colors),
        "frameon": False,
        "handlelength": 1.2,
        "fontsize": mpl.rcParams["axes.labelsize"],
    }
