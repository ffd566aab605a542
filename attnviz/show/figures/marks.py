"""Marks of what a pixel can't show: a column that takes most of the weight, and lone peaks of long maps.

They stand in the margin, or around a cell, and cover none. They don't depend on the color scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np

from attnviz.show.figures.layout import LINE, points, width_of
from attnviz.show.scale.sinks import Row, Sink, find_row, find_sink, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from attnviz.maps.map import AttentionMap

_FINE = 3.0  # points of a cell, below which a lone one is easily overlooked
_MOST_RINGS = 8  # of a map: more peaks are not lone
_PEAK, _AROUND = 0.5, 0.25  # of the map's largest: a lone peak at the least, and what is around it at the most
_FEW = 16  # cells that a row sees, where each is large by nature
_NEAR = 2  # cells around a peak
_TIP = 4.5  # points of a triangle
_ASIDE = 3.5  # and of one beside a map, where the next is near


@dataclass(frozen=True)
class Marks:
    """What is marked of a map.

    Args:
        sink: the column that takes most, where one does.
        row: the row from which most keys have their largest weight, where one stands out.
        peaks: rows and columns of lone peaks.
    """

    sink: Sink | None
    row: Row | None
    peaks: tuple[tuple[int, int], ...]


def find_marks(shown: AttentionMap) -> Marks:
    """What of a map is worth a mark.

    >>> import attnviz
    >>> find_marks(attnviz.attention_map(attnviz.synthesize(), head=3))
    Marks(sink=None, row=None, peaks=())
    """
    sink = find_sink(shown)
    return Marks(sink, find_row(shown), tuple(_peaks(shown, sink)) if shown.values == "weights" else ())


def _peaks(shown: AttentionMap, sink: Sink | None) -> list[tuple[int, int]]:
    """Cells that stand out from all around them; none where they are many. A sink has its mark already."""
    cells = np.nan_to_num(shown.cells, nan=0.0)
    if sink is not None:
        cells[:, sink.column] = 0.0
    if min(cells.shape) <= 4 * _NEAR or not (top := cells.max()) > 0:
        return []
    found = []
    seen = np.isfinite(shown.cells).sum(axis=1)
    cells[seen < min(_FEW, cells.shape[1] // 2)] = 0.0  # queries that have little choice, as a causal map's first
    rows, columns = np.nonzero(cells >= _PEAK * top)
    if len(rows) > 2 * _MOST_RINGS:  # then those that have nothing beside them are no others than the rest
        return []
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        around = cells[max(0, row - _NEAR) : row + _NEAR + 1, max(0, column - _NEAR) : column + _NEAR + 1]
        lone = np.sort(around, axis=None)[-2] <= _AROUND * cells[row, column]
        if lone:
            found.append((row, column))
    return found if len(found) <= _MOST_RINGS else []


def marks_height(marks: Sequence[Marks]) -> float:
    """Inches above each panel that marks of columns take."""
    return LINE * _letters() / 72 + 2 / 72 if any(mark.sink is not None for mark in marks) else 0.0


def draw_marks(shown: AttentionMap, marks: Marks, ax: Axes, above: Axes | None = None) -> None:
    """Draws marks at a map that is drawn already, in Axes of their final size.

    Args:
        shown, marks, ax: what is drawn, and where.
        above: Axes of the same columns that stand above the map, where a column's mark stands on them.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    box, (wide, tall) = ax.get_position(), figure.get_size_inches()
    across, down = float(box.width * wide), float(box.height * tall)
    (T, S), (rows, columns) = shown.size, shown.cells.shape
    if marks.sink is not None:
        _point(above or ax, marks.sink, (marks.sink.column + 0.5) * S / columns - 0.5, S, across)
    if marks.row is not None:
        aside = ax.get_yaxis_transform()
        draw_tips(ax, [(1.0, (marks.row.row + 0.5) * T / rows - 0.5)], _ASIDE, aside=True, transform=aside)
    if marks.peaks and is_fine(72 * min(across / columns, down / rows)):
        draw_rings(ax, [((x + 0.5) * S / columns - 0.5, (y + 0.5) * T / rows - 0.5) for y, x in marks.peaks])


def is_fine(cell: float) -> bool:
    """Whether a lone cell of so many points is easily overlooked."""
    return cell < _FINE


def draw_rings(ax: Axes, places: Sequence[tuple[float, float]], size: float = 7.0) -> None:
    """Rings around lone peaks, of so many points."""
    if places:
        look = {"marker": "o", "markersize": size, "markerfacecolor": "none", "markeredgewidth": 0.6}
        _draw(ax, places, "peaks", markeredgecolor=mpl.rcParams["axes.labelcolor"], **look)


def draw_tips(
    ax: Axes, places: Sequence[tuple[float, float]], size: float = _TIP, *, aside: bool = False, **where: Any
) -> None:
    """Triangles of so many points that stand on columns and touch them; ``aside`` they point at rows, from the right."""
    tip = [(0, 0), (1, 0.5), (1, -0.5), (0, 0)] if aside else [(0, 0), (-0.5, 1), (0.5, 1), (0, 0)]
    # The middle of the marker is half its size beyond the edge, so that its tip touches.
    look = {"marker": tip, "markersize": 2 * size, "markeredgewidth": 0, "color": mpl.rcParams["axes.labelcolor"]}
    if places:
        _draw(ax, places, "row" if aside else "sink", **look, **where)


def _draw(ax: Axes, places: Sequence[tuple[float, float]], label: str, **look: Any) -> None:
    x, y = np.array(places, dtype=float).T
    ax.plot(x, y, linestyle="", clip_on=False, scalex=False, scaley=False, label=label, **look)


def _letters() -> float:
    return 0.9 * points("xtick.labelsize")


def _point(ax: Axes, sink: Sink, x: float, S: int, across: float) -> None:
    """A triangle over a column, and beside it what it takes; as much of that as there is room for."""
    color: Any = mpl.rcParams["axes.labelcolor"]
    to_edge = ax.get_xaxis_transform()
    draw_tips(ax, [(x, 1.0)], transform=to_edge)
    share, size = percent(sink.share), _letters()
    name = sink.short
    texts = [f"{name} {share}", share] if sink.exact else [f"{name} lead {share} of rows", f"{share} of rows"]
    at = (x + 0.5) / S * across  # inches from the left edge
    right = at <= across / 2
    room = (across - at if right else at) - 4 / 72
    text = next((text for text in texts if width_of(text, size) <= room), None)
    if text is not None:
        ax.annotate(
            text,
            (x, 1),
            (4 if right else -4, 1.5),
            xycoords=to_edge,
            textcoords="offset points",
            ha="left" if right else "right",
            va="bottom",
            fontsize=size,
            color=color,
            parse_math=False,
            annotation_clip=False,
        )
