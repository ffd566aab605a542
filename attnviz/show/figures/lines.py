"""A statistic by layer, as lines: each head, and the mean of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from attnviz.measures.statistics import HeadStatistics
from attnviz.show.figures.heatmap import write_below, write_caption
from attnviz.show.figures.layout import EDGE, caption_lines, line, place, points, width_of, wrapped
from attnviz.show.figures.statistics import cells_of, statistic_title, unit_of
from attnviz.show.figures.style import colormap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDE, _TALL = 5.2, 2.6  # inches
_MOST_TICKS = 14
_LEGEND = 16  # points of what lines are, above them


def lines_figure(
    rows: Sequence[HeadStatistics],
    statistic: str = "entropy",
    ax: Axes | None = None,
    *,
    title: str | None = None,
    caption: str | None = None,
    width: float | None = None,
) -> Axes:
    """Draws one statistic of every head by layer: a thin line a head, and the mean of the heads that have it.

    Args:
        rows: statistics of heads, of one layer or several.
        statistic: one of :data:`attnviz.measures.statistics.STATISTICS`.
        ax: the Axes to draw into; None makes a figure.
        title: None says which statistic.
        caption, width: as in :func:`attnviz.heatmap`.

    Returns:
        The Axes drawn into.
    """
    cells, heads, layers = cells_of(rows, statistic)
    title = statistic_title(rows, statistic) if title is None else title
    given = ax is not None
    if ax is None:
        ax = _sheet(title, caption, width)
    palette, ink = colormap(None, "weights"), mpl.rcParams["axes.labelcolor"]
    at = np.arange(len(layers))
    faint = max(0.25, min(0.9, 8 / len(heads)))
    for values in cells.T:
        ax.plot(at, values, color=palette(0.45), alpha=faint, linewidth=0.9, marker="o", markersize=2)
    there = np.isfinite(cells)
    means = np.where(there.any(1), np.nansum(cells, axis=1) / np.maximum(there.sum(1), 1), np.nan)
    ax.plot(at, means, color=ink, linewidth=1.8, marker="o", markersize=3.5, label="mean of heads")
    ax.plot([], [], color=palette(0.45), linewidth=0.9, label="a head")
    low, high = (float(np.nanmin(cells)), float(np.nanmax(cells))) if there.any() else (0.0, 1.0)
    ax.set_ylim(min(0.0, 1.05 * low), max(1.05 * high, 1e-9))
    ax.set_xlim(-0.3, max(len(layers) - 0.7, 0.3))
    step = -(-len(layers) // _MOST_TICKS)
    ax.xaxis.set_major_locator(FixedLocator(list(range(0, len(layers), step))))
    ax.set_xticklabels(["" if one is None else f"{one}" for one in layers[::step]])
    ax.set_xlabel("layer", labelpad=3)
    ax.set_ylabel(f"{statistic.replace('_', ' ')}, {unit_of(statistic)}", labelpad=3)
    axes_lines(ax)
    ax.legend(
        fontsize="small", frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, borderaxespad=0.1
    )
    if given:
        ax.set_title(title, pad=4 + _LEGEND, parse_math=False)
        if caption is not None:
            write_caption(ax, caption)
    return ax


def axes_lines(ax: Axes) -> None:
    """The lines of axes that numbers are read off, whatever the style says."""
    for side in ("left", "bottom"):
        ax.spines[side].set(visible=True, linewidth=0.6, color="0.6")


def _sheet(title: str, caption: str | None, width: float | None) -> Axes:
    """The Axes of a figure of a fitting size."""
    wide = _WIDE if width is None else width
    figure = Figure(figsize=(wide, _TALL))
    left = EDGE + line("axes.labelsize") + 0.1 + width_of("0.000", points("ytick.labelsize"))
    middle = (left + wide - 2 * EDGE) / 2
    above = wrapped(title, 2 * (min(middle, wide - middle) - EDGE), points("axes.titlesize"))
    said = caption_lines(caption, wide)
    below = EDGE + line("axes.labelsize") + line("xtick.labelsize") + 0.12 + line("figure.labelsize", len(said))
    top = EDGE + line("axes.titlesize", len(above)) + 0.06 + _LEGEND / 72
    tall = min(_TALL, 0.62 * wide)
    figure.set_size_inches(wide, top + tall + below)
    ax = figure.add_axes((0, 0, 1, 1), label="panel 0")
    place(ax, (left, below, wide - left - 2 * EDGE, tall), (wide, top + tall + below))
    ax.set_title("\n".join(above), y=1.0, pad=4 + _LEGEND, parse_math=False)
    write_below(figure, said)
    return ax
