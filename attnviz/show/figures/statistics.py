"""A statistic of every head of a model: layers down, heads across."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from attnviz.base.words import in_place
from attnviz.measures.statistics import STATISTICS, HeadStatistics
from attnviz.show.figures.bars import Bar, colorbar, frame
from attnviz.show.figures.cells import CellImage
from attnviz.show.figures.heatmap import letters
from attnviz.show.figures.layout import EDGE, LINE, STEPS, Around, Sheet, line, place, points, ticks_of, width_of
from attnviz.show.figures.scales import ColorScale, FittedScale
from attnviz.show.scale.colors import is_dark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colors import Colormap

    from attnviz.show.scale.scaling import Values

_CELL, _MOST_INCHES = 0.34, 9.0  # inches of a cell, and of all of them


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
    names = [_name(layer) for layer in layers]
    scale = ColorScale(cmap=cmap).fit_cells(
        [cells], "weights" if np.nanmin(cells, initial=0) >= 0 else "logits", _unit(statistic)
    )
    title = in_place(statistic.replace("_", " "), None, _item(rows))
    given = ax is not None
    if ax is None:
        ax = _sheet(cells, heads, names, scale, title)
    image = CellImage(ax, scale.cells(cells), cmap=scale.cmap, norm=scale.norm, hatch=True)
    frame(ax)
    ax.grid(False)
    _label(ax.xaxis, [f"{head}" for head in heads])
    _label(ax.yaxis, names)
    ax.set_xlabel("head", labelpad=3)
    if layers == [None]:
        ax.set_yticks([])
    else:
        ax.set_ylabel("layer", labelpad=3)
    if given:
        ax.set_title(title)
        colorbar(image, [ax], scale)
    if cells.size <= 256:
        _annotate(ax, cells, scale)
    return ax


def _sheet(cells: Values, heads: Sequence[int], names: Sequence[str], scale: FittedScale, title: str) -> Axes:
    """The Axes of a figure of a fitting size, with its color bar."""
    figure = Figure(figsize=(6, 6))
    ax = figure.add_axes((0, 0, 1, 1), label="panel 0")
    bar = Bar(figure, scale, blank=bool(np.isnan(cells).any()))
    rows, columns = cells.shape
    each = min(_CELL, _MOST_INCHES / max(rows, columns))
    panel = max(each * columns, 1.5), max(each * rows, 0.3)
    tall = max(panel[1], 0.9)  # of the bar, beside a single layer too
    keys = ticks_of(heads, None, panel[0], horizontal=True)
    queries = ticks_of(range(len(names)), None, panel[1], horizontal=False)
    widest = max(width_of(name, points("ytick.labelsize")) for name in names)
    beyond = tall - panel[1]
    around = Around(
        left=EDGE + (line("axes.labelsize") + 6 / 72 if any(names) else 0) + queries.room - queries.beyond + widest,
        right=bar.room(tall) + EDGE,
        top=EDGE + line("axes.titlesize") + 5 / 72,
        bottom=max(EDGE + keys.room + 3 / 72 + line("axes.labelsize"), bar.below + beyond),
    )
    found = Sheet(1, 1, panel, around)
    figure.set_size_inches(found.size)
    box = found.box(0)
    place(ax, box, found.size)
    ax.set_title(title, pad=4)
    bar.beside(box[0] + box[2], box[1] - beyond, tall)
    return ax


def _label(axis: Axis, names: Sequence[str]) -> None:
    """A label at each cell, or as many as have room."""
    figure = axis.axes.get_figure(root=True)
    assert figure is not None
    box, horizontal = axis.axes.get_position(), axis is axis.axes.xaxis
    inches = box.width * figure.get_figwidth() if horizontal else box.height * figure.get_figheight()
    size = points("xtick.labelsize")
    each = max(map(partial(width_of, size=size), names)) + 3 / 72 if horizontal else LINE * size / 72
    stride = next(step for step in STEPS if step * inches / len(names) >= each or step >= len(names))
    axis.set_ticks(range(0, len(names), stride), labels=names[::stride])


def _annotate(ax: Axes, cells: Values, scale: FittedScale) -> None:
    """Each number in its cell, in letters that fit it; none where they would be too small to read."""
    texts = {at: f"{value:.2g}" for at, value in np.ndenumerate(cells) if np.isfinite(value)}
    if not texts:
        return
    size = letters(ax, cells.shape, texts.values())
    if size < 4:
        return
    for (y, x), text in texts.items():
        red, green, blue, _ = scale.cmap(float(scale.norm(cells[y, x])))
        color = "white" if is_dark((red, green, blue)) else "black"
        ax.text(x, y, text, ha="center", va="center", fontsize=size, color=color)


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
