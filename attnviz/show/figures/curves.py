"""Curves of heads: the weight at each distance, and what windows of each width keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from attnviz.base.words import count, in_place
from attnviz.measures.curves import HeadCurves
from attnviz.show.figures.heatmap import write_above, write_below, write_caption
from attnviz.show.figures.layout import (
    EDGE,
    Around,
    Sheet,
    caption_lines,
    fitted_to,
    line,
    place,
    points,
    width_of,
    wrapped,
    write,
)
from attnviz.show.figures.lines import axes_lines
from attnviz.show.figures.style import colormap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from numpy.typing import NDArray

CURVES = ("distance", "windows")
"""What there is to draw."""

_SAID = {
    "distance": ("distance, positions", "weight of a pair"),
    "windows": ("window, positions to each side", "weight kept"),
}
"""What is below panels, and beside them."""

_MEAN = "mean of heads"
_GAP, _BELOW = 0.16, 0.16  # inches between panels, and of ticks and what is between texts below them
_LEAST = 1.6  # inches of a panel in print, with what is beside it
_HANDLE = 0.42  # inches of a piece of line and its distances, in a row of names
_NAMED = 12  # heads that a legend names; more are told apart by nobody
_ACROSS = 4  # panels in a row
_MOST_POINTS = 400  # of a curve: more is what no line shows


def curves_figure(
    found: Sequence[HeadCurves],
    kind: str = "windows",
    ax: Axes | None = None,
    *,
    title: str | None = None,
    caption: str | None = None,
    width: float | None = None,
) -> Axes | Figure:
    """Draws a line a head, a panel a layer; where there are several heads, their mean too, dashed.

    Args:
        found: the curves of heads, of one layer or several.
        kind: ``distance``, the mean weight of the pairs that are visible at each distance; ``windows``, the weight that a
            window of each width keeps with the first keys.
        ax: the Axes to draw into, for one layer; None makes a figure.
        title: None says which curve.
        caption, width: as in :func:`attnviz.heatmap`.

    Returns:
        The Axes drawn into, or the figure.
    """
    layers = list(dict.fromkeys(one.layer for one in found))
    title = _title(kind, found) if title is None else title
    logarithmic = kind == "distance" and _spread(found)
    if ax is not None:
        _panel(ax, list(found), kind, logarithmic=logarithmic)
        ax.set(xlabel=_SAID[kind][0], ylabel=_SAID[kind][1])
        names, handles = _key([ax])
        ax.legend(handles, names, fontsize="small", frameon=False, loc="best")
        ax.set_title(title, parse_math=False)
        if caption is not None:
            write_caption(ax, caption)
        return ax
    figure = Figure()
    panels = [figure.add_axes((0, 0, 1, 1), label=f"panel {n}") for n in range(len(layers))]
    for panel, layer in zip(panels, layers, strict=True):
        if panel is not panels[0]:
            panel.sharex(panels[0])
            panel.sharey(panels[0])
        _panel(panel, [one for one in found if one.layer == layer], kind, logarithmic=logarithmic)
    names, handles = _key(panels)
    columns = min(len(layers), _ACROSS if width is None else max(1, int(width / _LEAST)))
    sheet = fitted_to(width, partial(_sheet, len(layers), columns, kind, names))
    above = wrapped(title, sheet.size[0] - 2 * EDGE, points("figure.titlesize"))
    said = caption_lines(caption, sheet.size[0])
    sheet = sheet.with_room(above, said)
    figure.set_size_inches(sheet.size)
    for n, (panel, layer) in enumerate(zip(panels, layers, strict=True)):
        place(panel, sheet.box(n), sheet.size)
        panel.tick_params(labelleft=sheet.is_left(n), labelbottom=sheet.is_lowest(n))
        if len(layers) > 1:
            panel.set_title(f"layer {layer}", parse_math=False, y=1.0, pad=4)
    _ticks(panels, kind, sheet.panel[0])
    _write_around(figure, sheet, kind, names, handles, line("figure.labelsize", len(said)) + 0.08 if said else 0.0)
    write_above(figure, above)
    write_below(figure, said)
    return figure


def _sheet(layers: int, columns: int, kind: str, names: Sequence[str], across: float | None) -> Sheet:
    """Where panels stand, each so many inches across; None is a size of their own."""
    wide = (4.4 if layers == 1 else 2.0) if across is None else across
    inner = columns * wide + (columns - 1) * _GAP
    said = wrapped(_SAID[kind][0], inner, points("axes.labelsize"))
    around = Around(
        left=EDGE + line("axes.labelsize") + 0.06 + width_of("0.0000", points("ytick.labelsize")),
        right=EDGE + width_of("00,000", points("xtick.labelsize")) / 2,
        top=EDGE + 0.04,
        bottom=EDGE
        + _BELOW
        + line("xtick.labelsize")
        + line("axes.labelsize", len(said))
        + _key_inches(names, inner)[1],
        above=line("axes.titlesize") + 6 / 72 if layers > 1 else 0.0,
        gap=_GAP,
    )
    return Sheet(layers, columns, (wide, min(max(0.66 * wide, 0.9), 2.9)), around)


def _key(panels: Sequence[Axes]) -> tuple[list[str], list[Line2D]]:
    """What lines are called, and one of each; of many heads, their mean alone."""
    found: dict[str, Line2D] = {f"{own.get_label()}": own for panel in panels for own in panel.get_lines()}
    mean = found.pop(_MEAN, None)
    few = found if len(found) <= _NAMED else {}
    few |= {} if mean is None else {_MEAN: mean}
    return [*few], [*few.values()]


def _key_inches(names: Sequence[str], inner: float) -> tuple[int, float]:
    """How many names of lines stand beside each other below panels, and the inches that they take."""
    each = max((width_of(name, points("xtick.labelsize")) for name in names), default=0.0) + _HANDLE
    columns = max(1, min(len(names), int(inner / each)))
    return columns, line("xtick.labelsize", 1.15 * math.ceil(len(names) / columns)) + 0.04 if names else 0.0


def _write_around(
    figure: Figure, sheet: Sheet, kind: str, names: Sequence[str], handles: Sequence[Line2D], under: float
) -> None:
    """What the axes of all panels are, said once, and what their lines are; ``under`` inches below are the caption's."""
    (inner, tall), (left, bottom) = sheet.inner, (sheet.around.left, sheet.around.bottom)
    columns, deep = _key_inches(names, inner)
    color = mpl.rcParams["axes.labelcolor"]
    across, down = _SAID[kind]
    lines = "\n".join(wrapped(across, inner, points("axes.labelsize")))
    write(
        figure,
        left + inner / 2,
        EDGE + under + deep + 0.02,
        lines,
        "axes.labelsize",
        ha="center",
        va="bottom",
        color=color,
    )
    write(figure, EDGE, bottom + tall / 2, down, "axes.labelsize", ha="left", va="center", rotation=90, color=color)
    if names:
        figure.legend(
            handles,
            names,
            loc="upper center",
            bbox_to_anchor=((left + inner / 2) / sheet.size[0], (EDGE + under + deep) / sheet.size[1]),
            ncols=columns,
            fontsize=points("xtick.labelsize"),
            frameon=False,
            borderaxespad=0,
            borderpad=0,
            handlelength=1.6,
            columnspacing=1.0,
            labelspacing=0.15,
        )


def _ticks(panels: Sequence[Axes], kind: str, inches: float) -> None:
    """Powers of 2, as many as have room below a panel."""
    last = max(1.0, *(panel.dataLim.x1 for panel in panels))
    steps = [*([0] if kind == "distance" else []), *(2**n for n in range(int(np.log2(last)) + 1))]
    each = width_of(f"{steps[-1]:,}", points("xtick.labelsize")) + 0.06
    panels[0].set_xticks(steps[:: max(1, math.ceil(len(steps) * each / inches))])


def _spread(found: Sequence[HeadCurves]) -> bool:
    """Whether weights by distance need a logarithmic scale: there is a sink, and what is left beside it."""
    drawn = [points_of(one, "distance")[1] for one in found]
    least, most = min(y.min(initial=np.inf) for y in drawn), max(y.max(initial=0) for y in drawn)
    return bool(0 < least < most / 100)


def curves_words(found: Sequence[HeadCurves], kind: str, *, source: str, pattern: str) -> str:
    """What a figure of curves shows, as a caption says it."""
    layers = len({one.layer for one in found})
    heads = count(len(found), "head") + (f" of {layers} layers" if layers > 1 else "")
    what = {
        "distance": "Mean weight of the pairs that are visible at each distance |p(t) - p(s)|",
        "windows": "Weight on keys no farther away than the window, or among the first four, the mean over queries",
    }[kind]
    return f"{source}: {heads}. {what}. Pattern: {pattern}."


def _title(kind: str, found: Sequence[HeadCurves]) -> str:
    items, layers = {one.batch for one in found}, {one.layer for one in found}
    named = {"distance": "weight by distance", "windows": "weight inside a window and on the first keys"}[kind]
    layer = layers.pop() if len(layers) == 1 else None
    return in_place(named, layer, items.pop() if len(items) == 1 else None)


def _panel(ax: Axes, found: Sequence[HeadCurves], kind: str, *, logarithmic: bool) -> None:
    """The lines of one layer's heads."""
    curves = [points_of(one, kind) for one in found]
    palette = colormap(None, "weights")
    for n, (one, (x, y)) in enumerate(zip(found, curves, strict=True)):
        color = palette(0.3 + 0.65 * n / max(len(found) - 1, 1))
        dot = "o" if len(x) <= 24 else None
        ax.plot(x, y, color=color, linewidth=1, label=f"head {one.head}", marker=dot, markersize=2)
    if len(found) > 1:
        x, mean = _mean(curves)
        ax.plot(x, mean, color=mpl.rcParams["axes.labelcolor"], linewidth=1.6, linestyle=(0, (4, 2)), label=_MEAN)
    ax.set_xscale("function", functions=(lambda x: np.log2(np.maximum(x, 0) + 1), lambda x: 2**x - 1))
    if kind == "windows":
        ax.set_ylim(0, 1.03 * max(1.0, ax.dataLim.y1))
    elif logarithmic:
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=min(0, ax.dataLim.y0))
    axes_lines(ax)
    _ticks([ax], kind, 3.0)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, place: f"{x:,.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())


def points_of(one: HeadCurves, kind: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The points of a head's line: each window, or each distance at which a pair is visible; of many, the means of neighbors."""
    if kind == "windows":
        return np.array([*one.windows], dtype=np.float64), np.array([*one.windows.values()], dtype=np.float64)
    x = np.flatnonzero(~np.isnan(one.weight))
    y = one.weight[x]
    if len(x) <= _MOST_POINTS:
        return x.astype(np.float64), y
    cuts = np.unique(np.concatenate([np.arange(64), np.geomspace(64, len(x) - 1, _MOST_POINTS - 64).astype(np.int64)]))
    sizes = np.diff(np.append(cuts, len(x)))
    return np.add.reduceat(x, cuts) / sizes, np.add.reduceat(y, cuts) / sizes


def _mean(
    curves: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean of lines, where each has a point."""
    every = np.unique(np.concatenate([x for x, _ in curves]))
    values = np.full((len(curves), len(every)), np.nan)
    for row, (x, y) in zip(values, curves, strict=True):
        row[np.searchsorted(every, x)] = y
    whole = ~np.isnan(values).any(0)
    return every[whole], values[:, whole].mean(0)
