"""Curves of heads: the weight at each distance, and what windows of each width keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from attnviz.base.words import count, in_place
from attnviz.measures.curves import HeadCurves
from attnviz.show.figures.heatmap import write_caption
from attnviz.show.figures.style import colormap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

CURVES = ("distance", "windows")
"""What there is to draw."""

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
    if ax is not None:
        _panel(ax, list(found), kind, named=True)
        ax.set_title(title, parse_math=False)
        return ax
    across = min(len(layers), _ACROSS)
    down = math.ceil(len(layers) / across)
    size = (2.6 * across + 1.4, 2.2 * down + 0.5) if len(layers) > 1 else (5.2, 3.6)
    if width is not None:
        size = (width, size[1] * width / size[0])
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for panel, layer in zip(panels.flat, layers, strict=False):
        own = [one for one in found if one.layer == layer]
        _panel(panel, own, kind, named=panel is panels.flat[len(layers) - 1])
        if len(layers) > 1:
            panel.set_title(f"layer {layer}", parse_math=False)
    for panel in panels.flat[len(layers) :]:
        panel.set_visible(False)
    for panel in panels.flat:
        panel.label_outer()
    figure.suptitle(title, parse_math=False)
    if caption is not None:
        write_caption(panels[-1, 0], caption)
    return figure


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


def _panel(ax: Axes, found: Sequence[HeadCurves], kind: str, *, named: bool) -> None:
    """The lines of one layer's heads."""
    curves = [points_of(one, kind) for one in found]
    palette = colormap(None, "weights")
    for n, (one, (x, y)) in enumerate(zip(found, curves, strict=True)):
        color = palette(0.3 + 0.65 * n / max(len(found) - 1, 1))
        ax.plot(
            x, y, color=color, linewidth=1, label=f"head {one.head}", marker="o" if len(x) <= 24 else None, markersize=2
        )
    if len(found) > 1:
        x, mean = _mean(curves)
        ax.plot(x, mean, color=ax.xaxis.label.get_color(), linewidth=1.6, linestyle=(0, (4, 2)), label="their mean")
    _axes(ax, kind)
    if named:
        handles, labels = ax.get_legend_handles_labels()
        few = slice(None) if len(found) <= _NAMED else slice(-1, None)
        ax.legend(handles[few], labels[few], fontsize="small", frameon=False, loc="best")


def _axes(ax: Axes, kind: str) -> None:
    ax.set_xscale("function", functions=(lambda x: np.log2(np.maximum(x, 0) + 1), lambda x: 2**x - 1))
    if kind == "windows":
        ax.set_ylim(0, 1.03 * max(1.0, ax.dataLim.y1))
        ax.set_xlabel("window, positions to each side")
        ax.set_ylabel("weight kept")
    else:
        drawn = [np.asarray(own.get_ydata(), dtype=np.float64) for own in ax.get_lines()]
        least, most = min(y.min(initial=np.inf) for y in drawn), max(y.max(initial=0) for y in drawn)
        if 0 < least < most / 100:  # a sink and what is left beside it
            ax.set_yscale("log")
        else:
            ax.set_ylim(bottom=min(0, ax.dataLim.y0))
        ax.set_xlabel("distance, positions")
        ax.set_ylabel("weight of a pair")
    last = max(ax.dataLim.x1, 1)
    steps = [
        0 if kind == "distance" else 1,
        *(2**n for n in range(0 if kind == "distance" else 1, int(np.log2(last)) + 1)),
    ]
    few = steps[:: max(1, math.ceil(len(steps) / 8))]
    ax.set_xticks(few)
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
