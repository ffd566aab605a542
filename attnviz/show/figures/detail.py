"""A map with its sides: the attention each key receives on top, the entropy of each query to the right."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Unpack

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from attnviz.maps.marginals import of_cells
from attnviz.show.figures.bars import colorbar
from attnviz.show.figures.heatmap import draw, sheet_of, write_caption
from attnviz.show.figures.marks import draw_marks, find_marks, marks_height
from attnviz.show.figures.scales import ColorScale, ScaleOptions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from attnviz.maps.map import AttentionMap
    from attnviz.maps.marginals import Marginals, Numbers

_DEEP, _GAP = 0.55, 0.06  # inches of a side, and between it and the map
_LEFT = 0.65  # inches of the unit and the numbers of what is above the map
_UNITS = {"received": "weight\nreceived", "entropy": "entropy\n(nats)"}


def detail(
    shown: AttentionMap,
    sides: Marginals,
    ax: Axes | None = None,
    *,
    annot: bool = False,
    title: str | None = None,
    caption: str | None = None,
    width: float | None = None,
    marks: bool = True,
    **colors: Unpack[ScaleOptions],
) -> Axes:
    """Draws one head's map with what each key receives above it and the entropy of each query beside it.

    Where a cell stands for several keys or queries, a band spans the least and the most of theirs, and a line is
    their mean; both are exact.

    Args:
        shown: the map.
        sides: of the same queries and keys, as :func:`attnviz.marginals` gives them.
        ax: the Axes to draw the map into, which gains two of its own at its sides; None makes a figure.
        annot, title, caption, width, marks, colors: as in :func:`attnviz.heatmap`.

    Returns:
        The Axes of the map; those of the sides are its ``child_axes``, top first.

    Raises:
        InputError: as :func:`attnviz.heatmap`.
    """
    fitted, own = ColorScale(**colors).fit([shown]).marked(marks and not annot), ax is None
    found = [find_marks(shown)] if marks else []
    marked = marks_height(found)
    if ax is None:
        name = shown.name if title is None else title
        room = (_LEFT, _DEEP + _GAP, _DEEP + _GAP + marked)
        (ax,) = sheet_of([shown], fitted, [name], annot=annot, caption=caption, width=width, sides=room)
    else:
        image = draw(shown, ax, fitted, annot=annot)
        ax.apply_aspect()
    figure = ax.get_figure(root=True)
    assert figure is not None
    box, size = ax.get_position(), figure.get_size_inches()
    across, down = box.width * float(size[0]), box.height * float(size[1])
    deep = _DEEP / down, _DEEP / across  # as shares of the map
    gap = _GAP / down, _GAP / across
    top = ax.inset_axes((0, 1 + gap[0], 1, deep[0]), sharex=ax)
    right = ax.inset_axes((1 + gap[1], 0, deep[1], 1), sharey=ax)
    _draw_side(top, sides.received, shown.cells.shape[1], "vertical")
    # From 0 to what it can be, so that rounding is no landscape.
    most = math.log(max(2, len(shown.keys)))
    _draw_side(right, sides.entropy, shown.cells.shape[0], "horizontal", most)
    top.tick_params(labelbottom=False, bottom=False)
    top.set_ylabel(_UNITS["received"])
    right.tick_params(labelleft=False, left=False, top=True, labeltop=True, bottom=False, labelbottom=False)
    right.set_xlabel(_UNITS["entropy"])
    right.xaxis.set_label_position("top")  # the corner is free; below, labels of keys may reach there
    for mark in found:
        draw_marks(shown, mark, ax, above=top)
    if own:
        return ax
    pad = 6 + 72 * marked
    ax.set_title(shown.name if title is None else title, y=1 + gap[0] + deep[0], pad=pad, parse_math=False)
    colorbar(image, [ax], fitted)
    if caption is not None:
        write_caption(ax, caption)
    return ax


def _draw_side(ax: Axes, numbers: Numbers, cells: int, orientation: Any, full: float | None = None) -> None:
    """Bars of a number each, or of several, their mean as a line in the band from the least to the most."""
    ink = mpl.rcParams["axes.labelcolor"]
    edges = np.linspace(-0.5, len(numbers) - 0.5, cells + 1)
    least, mean, most = of_cells(numbers, cells)
    if cells == len(numbers):
        ax.stairs(mean, edges, orientation=orientation, fill=True, color=ink, alpha=0.75, linewidth=0)
    else:
        ax.stairs(most, edges, baseline=least, orientation=orientation, fill=True, color=ink, alpha=0.35, linewidth=0)
        ax.stairs(mean, edges, baseline=None, orientation=orientation, color=ink, linewidth=0.7)
    top = float(np.nanmax(most)) if np.isfinite(most).any() else 1.0
    top = top if full is None else max(top, full)
    upright = orientation == "vertical"
    (ax.set_ylim if upright else ax.set_xlim)(0, top * 1.04 or 1.0)
    axis = ax.yaxis if upright else ax.xaxis
    axis.set_major_locator(MaxNLocator(nbins=3 if upright else 2, min_n_ticks=1, prune="lower"))  # 0 is the edge
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g}"))
    ax.patch.set_alpha(0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.spines["bottom" if upright else "left"].set(visible=True, linewidth=0.5, color="0.6")
