"""A statistic of every head of a model: layers down, heads across."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attnviz.base.words import in_place
from attnviz.measures.statistics import STATISTICS, HeadStatistics
from attnviz.show.figures.cells import CellImage
from attnviz.show.figures.style import colormap
from attnviz.show.scale.colors import is_dark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap


def statistics_figure(
    rows: Sequence[HeadStatistics],
    statistic: str = "entropy",
    ax: Axes | None = None,
    *,
    cmap: str | Colormap | None = None,
) -> Axes:
    """Draws one statistic of every head.

    Args:
        rows: statistics of heads, of one layer or several.
        statistic: one of :data:`attnviz.measures.statistics.STATISTICS`.
        ax: the Axes to draw into; None makes a figure.
        cmap: a palette of matplotlib or seaborn.

    Returns:
        The Axes drawn into.
    """
    layers = sorted({row.layer for row in rows}, key=_order)
    heads = sorted({row.head for row in rows})
    cells = np.full((len(layers), len(heads)), np.nan)
    for row in rows:
        value = getattr(row, statistic)
        if value is not None:
            cells[layers.index(row.layer), heads.index(row.head)] = value
    if ax is None:
        size = (min(max(len(heads) * 0.42, 2.5), 11) + 1.4, min(max(len(layers) * 0.42, 0.8), 9) + 1.1)
        ax = Figure(figsize=size, layout="constrained").add_subplot()
    image = CellImage(ax, np.ma.masked_invalid(cells), cmap=colormap(cmap, "weights"))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    ax.xaxis.set_major_formatter(lambda x, _: f"{heads[round(x)]}" if 0 <= round(x) < len(heads) else "")
    ax.yaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    ax.yaxis.set_major_formatter(lambda y, _: _name(layers[round(y)]) if 0 <= round(y) < len(layers) else "")
    if layers == [None]:
        ax.set_yticks([])
    ax.set_xlabel("head")
    ax.set_ylabel("layer" if layers != [None] else "")
    ax.set_title(in_place(statistic.replace("_", " "), None, _item(rows)))
    figure = ax.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(image, ax=ax, pad=0.02)
    bar.set_label(_unit(statistic))
    bar.outline.set_visible(False)
    if cells.size <= 256:
        for (y, x), value in np.ndenumerate(cells):
            if np.isfinite(value):
                red, green, blue, _ = image.cmap(image.norm(value))
                color = "white" if is_dark((red, green, blue)) else "black"
                ax.text(x, y, f"{value:.3g}", ha="center", va="center", fontsize=6, color=color)
    return ax


def _item(rows: Sequence[HeadStatistics]) -> int | None:
    """The batch item, where it is one of several."""
    items = {row.batch for row in rows}
    return items.pop() if len(items) == 1 else None


def _order(layer: int | str | None) -> tuple[str, int]:
    kind, _, number = ("-1" if layer is None else str(layer)).rpartition(".")
    return kind, int(number)


def _name(layer: int | str | None) -> str:
    return "" if layer is None else f"{layer}"


def _unit(statistic: str) -> str:
    unit = STATISTICS[statistic].unit
    return "share of the most" if unit == "share" else unit
