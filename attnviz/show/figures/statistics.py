"""A statistic of every head of a model: layers down, heads across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Unpack

import numpy as np
from matplotlib.figure import Figure

from attnviz.base.words import count, in_place
from attnviz.measures.statistics import STATISTICS, HeadStatistics
from attnviz.show.figures.bars import Bar, colorbar, frame
from attnviz.show.figures.captions import number_said
from attnviz.show.figures.cells import CellImage
from attnviz.show.figures.heatmap import letters, write_below, write_caption
from attnviz.show.figures.layout import (
    EDGE,
    LINE,
    STEPS,
    Around,
    Sheet,
    caption_lines,
    fitted_to,
    line,
    place,
    points,
    ticks_of,
    title_pad,
    width_of,
    wrapped,
)
from attnviz.show.figures.scales import ColorScale, FittedScale, ScaleOptions
from attnviz.show.scale.colors import is_dark
from attnviz.sources.naming import order_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from attnviz.base.types import Label
    from attnviz.show.scale.scaling import Values

_LEAST_BAR = 0.9  # inches of a color bar
_CELL, _MOST_INCHES = 0.34, 9.0  # inches of a cell, and of all of them


def statistics_figure(
    rows: Sequence[HeadStatistics],
    statistic: str = "entropy",
    ax: Axes | None = None,
    *,
    title: str | None = None,
    caption: str | None = None,
    width: float | None = None,
    **colors: Unpack[ScaleOptions],
) -> Axes:
    """Draws one statistic of every head.

    Args:
        rows: statistics of heads, of one layer or several.
        statistic: one of :data:`attnviz.measures.statistics.STATISTICS`.
        ax: the Axes to draw into; None makes a figure.
        title: None says which statistic.
        caption, width, colors: as in :func:`attnviz.heatmap`.

    Returns:
        The Axes drawn into.
    """
    cells, heads, layers = cells_of(rows, statistic)
    names = [_name(layer) for layer in layers]
    scale = _scale(cells, statistic, colors)
    title = statistic_title(rows, statistic) if title is None else title
    given = ax is not None
    if ax is None:
        ax = _sheet(cells, heads, names, scale, title, caption, width)
    image = CellImage(
        ax,
        scale.cells(cells),
        cmap=scale.cmap,
        norm=scale.norm,
        hatch=True,
        names=lambda row, column: f"{in_place(f'head {heads[column]}', layers[row])} {number_said(cells[row, column])}",
    )
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
        ax.set_title(title, parse_math=False)
        colorbar(image, [ax], scale)
        if caption is not None:
            write_caption(ax, caption)
    if cells.size > 256 or not _annotate(ax, cells, scale):
        image.below = scale.below  # numbers have a sign of their own
    return ax


def cells_of(rows: Sequence[HeadStatistics], statistic: str) -> tuple[Values, list[int], list[Label | None]]:
    """A statistic of each head of each layer, (layers, heads), NaN where there is none; the heads; the layers in their order."""
    layers = sorted({row.layer for row in rows}, key=_order)
    heads = sorted({row.head for row in rows})
    cells = np.full((len(layers), len(heads)), np.nan)
    for row in rows:
        value = getattr(row, statistic)
        if value is not None:
            cells[layers.index(row.layer), heads.index(row.head)] = value
    return cells, heads, layers


def statistic_title(rows: Sequence[HeadStatistics], statistic: str) -> str:
    """What a figure of a statistic is called."""
    return in_place(statistic.replace("_", " "), None, _item(rows))


def _scale(cells: Values, statistic: str, colors: ScaleOptions) -> FittedScale:
    values = "weights" if np.nanmin(cells, initial=0) >= 0 else "logits"
    return ColorScale(**colors).fit_cells([cells], values, unit_of(statistic))


def statistics_words(rows: Sequence[HeadStatistics], statistic: str, *, source: str, pattern: str) -> str:
    """What a figure of statistics shows, as a caption says it."""
    layers = len({row.layer for row in rows})
    heads = count(len(rows), "head") + (f" of {layers} layers" if layers > 1 else "")
    name = statistic.replace("_", " ")
    return f"{source}: {name} of {heads}, in {unit_of(statistic)}. {STATISTICS[statistic].about.rstrip('.')}. Pattern: {pattern}."


def _sheet(
    cells: Values,
    heads: Sequence[int],
    names: Sequence[str],
    scale: FittedScale,
    title: str,
    caption: str | None,
    width: float | None,
) -> Axes:
    """The Axes of a figure of a fitting size, with its color bar."""
    figure = Figure(figsize=(6, 6))
    ax = figure.add_axes((0, 0, 1, 1), label="panel 0")
    bar = Bar(figure, scale, blank=bool(np.isnan(cells).any()))
    rows, columns = cells.shape
    each = min(_CELL, _MOST_INCHES / max(rows, columns))
    widest = max(width_of(name, points("ytick.labelsize")) for name in names)

    def sheet(across: float | None) -> Sheet:
        wide = max(each * columns, 1.5) if across is None else across
        lines = min(rows * line("ytick.labelsize") * 1.02, _MOST_INCHES)  # each layer has its name
        panel = wide, max(min(rows * min(wide / columns, _CELL * 1.3), _MOST_INCHES), lines, 0.3)
        keys = ticks_of(heads, None, panel[0], horizontal=True)
        tall = max(panel[1], _LEAST_BAR)
        bottom = max(EDGE + keys.room + 3 / 72 + line("axes.labelsize"), bar.below + tall - panel[1])
        around = Around(
            left=EDGE + (line("axes.labelsize") + 6 / 72 if any(names) else 0) + 6 / 72 + widest,
            right=bar.room(tall) + EDGE,
            top=EDGE + (title_pad() + 1) / 72,
            bottom=bottom,
        )
        return Sheet(1, 1, panel, around)

    found = fitted_to(width, sheet)
    middle = found.around.left + found.inner[0] / 2
    said = caption_lines(caption, found.size[0])
    above = wrapped(title, 2 * (min(middle, found.size[0] - middle) - EDGE), points("axes.titlesize"))
    found = found.with_room([], said)
    found = replace(found, around=replace(found.around, top=found.around.top + line("axes.titlesize", len(above))))
    figure.set_size_inches(found.size)
    box = found.box(0)
    place(ax, box, found.size)
    ax.set_title("\n".join(above), y=1.0, pad=title_pad(), parse_math=False)
    tall = max(box[3], _LEAST_BAR)  # beside a single layer too
    bar.beside(box[0] + box[2], box[1] + box[3] - tall, tall)
    write_below(figure, said)
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


def _annotate(ax: Axes, cells: Values, scale: FittedScale) -> bool:
    """Each number in its cell, in letters that fit it; none where they would be too small to read, which it says."""
    texts = {at: f"{value:.2g}" for at, value in np.ndenumerate(cells) if np.isfinite(value)}
    if not texts:
        return False
    size = letters(ax, cells.shape, texts.values())
    if size < 4:
        return False
    colors = scale.cmap(scale.norm(scale.cells(cells)))  # (layers, heads, RGBA)
    for (y, x), text in texts.items():
        red, green, blue, _ = colors[y, x]
        color = "white" if is_dark((red, green, blue)) else "black"
        ax.text(x, y, text, ha="center", va="center", fontsize=size, color=color)
    return True


def _item(rows: Sequence[HeadStatistics]) -> int | None:
    """The batch item, where it is one of several."""
    items = {row.batch for row in rows}
    return items.pop() if len(items) == 1 else None


def _order(layer: int | str | None) -> tuple[int, str, int, int]:
    return order_of("-1" if layer is None else layer)


def _name(layer: int | str | None) -> str:
    return "" if layer is None else f"{layer}"


def unit_of(statistic: str) -> str:
    """What a statistic is counted in, in words."""
    unit = STATISTICS[statistic].unit
    return "share of the most" if unit == "share" else unit
