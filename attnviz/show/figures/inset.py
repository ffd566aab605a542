"""A part of a long map at full resolution, beside or in the map: what print is too coarse for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.patches import Rectangle

from attnviz.show.figures.bars import frame, without_ticks
from attnviz.show.figures.captions import cell_said
from attnviz.show.figures.cells import CellImage
from attnviz.show.figures.layout import points, wrapped
from attnviz.show.figures.scales import FittedScale

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from attnviz.maps.map import AttentionMap

_SHARE = 0.42  # of the map's side, where it has room in itself
_BESIDE = 0.27  # of the figure's width, where it has not
_GAP = 4 / 72


def has_corner(shown: AttentionMap) -> bool:
    """Whether the upper right quarter of a map is not visible, as of a causal one: there is room for an inset."""
    rows, columns = shown.cells.shape
    corner = shown.cells[: max(1, rows // 2), columns // 2 + 1 :]
    return bool(corner.size and np.isnan(corner[: rows // 2 - 1]).all())


def inset_room(shown: AttentionMap, width: float) -> float:
    """Inches that an inset takes to the right of a map, in a figure of this width."""
    return 0.0 if has_corner(shown) else width * _BESIDE


def inset_said(part: AttentionMap) -> str:
    """What an inset shows, for captions: ``inset: queries 10–33 × keys 4–27, a cell each``."""
    queries, keys = (f"{positions[0]}–{positions[-1]}" for positions in (part.queries, part.keys))
    return f"inset: queries {queries} × keys {keys}, a cell each"


def draw_inset(shown: AttentionMap, part: AttentionMap, ax: Axes, scale: FittedScale, room: float) -> Axes:
    """Draws a part of a map that is drawn already in ``ax``, on the same color scale, with a line to where it is.

    Args:
        shown: the map.
        part: some of its queries and keys, a cell each.
        ax: the map's Axes.
        scale: the map's.
        room: inches to the right of them, as :func:`inset_room` says.

    Returns:
        The inset's Axes.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    box, (wide, tall) = ax.get_position(), figure.get_size_inches()
    across, down = float(box.width * wide), float(box.height * tall)
    corner = room == 0.0
    side = min(across, down) * _SHARE if corner else min(room - _GAP, down)
    size = 0.8 * points("xtick.labelsize")
    name = wrapped(f"queries {part.queries[0]}–{part.queries[-1]} × keys {part.keys[0]}–{part.keys[-1]}", side, size)
    edge = 0.03 if corner else 0.0
    left = across - side - edge if corner else across + _GAP
    inset = ax.inset_axes((left / across, 1 - (side + edge) / down, side / across, side / down))
    names = lambda row, column: cell_said(part, row, column)  # noqa: E731
    CellImage(
        inset, scale.cells(part.cells), cmap=scale.cmap, norm=scale.norm, hatch=True, names=names, below=scale.below
    )
    without_ticks(inset)
    frame(inset)
    ink = mpl.rcParams["axes.labelcolor"]
    for spine in inset.spines.values():
        spine.set_edgecolor(ink)
    inset.text(
        0.5,
        -1.5 / 72 / side,
        "\n".join(name),
        transform=inset.transAxes,
        ha="center",
        va="top",
        fontsize=size,
        color=ink,
        parse_math=False,
        linespacing=1.05,
        bbox={"facecolor": mpl.rcParams["axes.facecolor"], "edgecolor": "none", "pad": 0.6} if corner else None,
    )
    first = shown.queries.start
    columns = [shown.keys.index(part.keys[0]), shown.keys.index(part.keys[-1])]
    rows = [part.queries[0] - first, part.queries[-1] - first]
    low, high = (columns[0] - 0.5, rows[0] - 0.5), (columns[1] + 0.5, rows[1] + 0.5)
    where = Rectangle(low, high[0] - low[0], high[1] - low[1], fill=False, edgecolor=ink, linewidth=0.5)
    ax.add_patch(where)
    for corner_of in ((0, 0), (0, 1)) if left > across / 2 else ((0, 0), (1, 0)):
        ax.annotate(
            "",
            corner_of,
            ((low[0], high[0])[1], (low[1], high[1])[1 - corner_of[1]]),
            xycoords=inset.transAxes,
            textcoords=ax.transData,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": ink, "shrinkA": 0, "shrinkB": 0},
            annotation_clip=False,
        )
    return inset
