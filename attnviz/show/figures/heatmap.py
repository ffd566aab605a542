"""Heatmaps of attention: one head into given Axes, or a grid of heads with one color scale."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Unpack

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from attnviz.base.errors import InputError
from attnviz.base.labels import one_line
from attnviz.maps.map import AttentionMap, cell_words, grid_name
from attnviz.show.figures.cells import CellImage
from attnviz.show.figures.scales import ColorScale, FittedScale, ScaleOptions
from attnviz.show.scale.colors import is_dark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.cm import ScalarMappable
    from matplotlib.colorbar import Colorbar
    from matplotlib.image import AxesImage

_NARROW = 0.55
"""Inches across of a panel that has no room for more than a number above it."""

_BESIDE = 1.6
"""Inches that labels and the color scale take beside panels."""

_BESIDE_ON_PAPER = 1.15
"""And in letters of the size of print."""

_GAP = 0.08

_TINY_TITLE = 5.5  # points

_LEAST_INCHES = 0.3
"""A panel narrower than this shows nothing."""

_MOST_THINNED = 20  # labels on an axis that cannot show them all: more say no more, and take longer to draw

MOST_ANNOTATED = 400
"""Cells beyond which numbers in cells are unreadable."""


def heatmap(
    shown: AttentionMap,
    ax: Axes | None = None,
    *,
    annot: bool = False,
    scale: bool = True,
    title: str | None = None,
    caption: str | None = None,
    width: float | None = None,
    **colors: Unpack[ScaleOptions],
) -> Axes:
    """Draws one head's map.

    Args:
        shown: the map.
        ax: the Axes to draw into; None makes a figure of a fitting size.
        annot: write each value into its cell.
        scale: whether to draw the color scale beside the map.
        title: None says which head.
        caption: under the figure, such as :func:`attnviz.show.figures.captions.caption` says it.
        width: inches across of the figure that this makes; None is what the map needs.
        colors: the fields of :class:`~attnviz.show.figures.scales.ColorScale`: ``norm``, ``robust``, ``vmin``, ``vmax``,
            ``cmap``.

    Returns:
        The Axes drawn into.

    Raises:
        InputError: as :meth:`~attnviz.show.figures.scales.ColorScale.fit`, or too many cells to annotate.
    """
    if ax is None:
        ax = Figure(figsize=figure_size([shown], width), layout="constrained").add_subplot()
    fitted = ColorScale(**colors).fit([shown])
    image = draw(shown, ax, fitted, annot=annot)
    ax.set_title(shown.name if title is None else title)
    if scale:
        figure = ax.get_figure()
        assert figure is not None
        colorbar(image, [ax], fitted)
    if caption is not None:
        write_caption(ax, caption)
    return ax


def heads_grid(
    maps: Sequence[AttentionMap],
    *,
    annot: bool = False,
    title: str | None = None,
    caption: str | None = None,
    width: float | None = None,
    **colors: Unpack[ScaleOptions],
) -> Figure:
    """Small multiples of several heads, sharing one color scale.

    Args:
        maps: of the same values and shape, one a head.
        annot, caption, width, colors: as in :func:`heatmap`.
        title: above the grid; None says which values.

    Raises:
        InputError: as :func:`heatmap`.
    """
    columns = grid_columns(maps[0].size, len(maps), width)
    rows = math.ceil(len(maps) / columns)
    figure = Figure(figsize=figure_size(maps, width), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    tiny = panel_inches(maps[0].size, len(maps), width)[0] < _NARROW
    fitted = ColorScale(**colors).fit(maps)
    image = None
    for index, ax in enumerate(grid.flat):
        if index >= len(maps):
            ax.remove()
            continue
        shown = maps[index]
        left, bottom = index % columns == 0, index + columns >= len(maps)
        if tiny:  # one panel says where things are, for all
            left = bottom = left and bottom
        image = draw(shown, ax, fitted, annot=annot, x_labels=bottom, y_labels=left, cell_size=False)
        if tiny:
            ax.set_title(f"{shown.head}", pad=2, size=_TINY_TITLE)
        else:
            ax.set_title(shown.heads_name, pad=3)
    assert image is not None
    colorbar(image, [ax for ax in grid.flat if ax.figure is not None], fitted)
    figure.suptitle((title if title is not None else grid_name(maps)) + cell_note(maps[0]))
    if caption is not None:
        write_caption(grid[0, 0], caption)
    return figure


def draw(
    shown: AttentionMap,
    ax: Axes,
    scale: FittedScale,
    *,
    annot: bool = False,
    x_labels: bool = True,
    y_labels: bool = True,
    cell_size: bool = True,
) -> AxesImage:
    """The cells and the axes of a map on a scale that panels may share, without title or color bar.

    Args:
        shown: the map.
        ax: the Axes to draw into.
        scale: of colors, which panels may share.
        annot: write each value into its cell.
        x_labels, y_labels: whether to label the axis; without, it has no ticks either.
        cell_size: whether the x axis says what a cell stands for.
    """
    T, S = len(shown.queries), len(shown.keys)
    extent = (-0.5, S - 0.5, T - 0.5, -0.5)
    cells = scale.cells(shown.cells)
    image = CellImage(ax, cells, extent, cmap=scale.cmap, norm=scale.norm, both_ways=scale.values == "difference")
    if annot:
        _annotate(shown, ax, scale)
    ax.grid(False)  # whatever the style says: lines would lie over the cells
    if x_labels:
        label_axis(ax.xaxis, shown.keys, shown.key_labels, visible=True)
        noun = "key" if isinstance(shown.keys, range) else "global key"
        ax.set_xlabel(noun + (cell_note(shown) if cell_size else ""))
    else:
        ax.xaxis.set_visible(False)  # not set_xticks([]): what is not there takes no time to lay out
    if y_labels:
        label_axis(ax.yaxis, shown.queries, shown.query_labels, visible=True)
        ax.set_ylabel("query")
    else:
        ax.yaxis.set_visible(False)
    return image


def cell_note(shown: AttentionMap) -> str:
    """What a cell stands for, where it stands for several values: ``   (1 cell = 4 × 1, max)``."""
    if not shown.reduced:
        return ""
    return f"   ({cell_words(shown.cell_size)}, {shown.reduce})"


def colorbar(image: AxesImage | ScalarMappable, axes: Sequence[Axes], scale: FittedScale) -> Colorbar:
    """The color scale, as high as the Axes it serves, with its unit and its norm."""
    figure = axes[0].get_figure(root=True)
    assert figure is not None
    inches = 0.13  # its width
    width, height = figure.get_size_inches()
    boxes = [ax.get_position() for ax in axes]
    wide = (max(box.x1 for box in boxes) - min(box.x0 for box in boxes)) * width
    tall = (max(box.y1 for box in boxes) - min(box.y0 for box in boxes)) * height
    bar = figure.colorbar(
        image,
        ax=axes,
        fraction=min(0.3, 2.5 * inches / wide),
        pad=0.1 / width,
        aspect=max(tall / inches, 5),
        extend=scale.extend,
    )
    dress(bar, scale)
    return bar


def dress(bar: Colorbar, scale: FittedScale) -> None:
    """The label, the ticks and no frame of a color bar."""
    if isinstance(scale.norm, LogNorm):
        plain_log_ticks(bar)
    if scale.ticks is not None:
        bar.set_ticks(scale.ticks, labels=[f"{tick:.3g}" for tick in scale.ticks])
        bar.minorticks_off()
    bar.set_label(scale.label)
    bar.outline.set_visible(False)


def plain_log_ticks(bar: Colorbar) -> None:
    """Ticks of a log scale as plain numbers: 0.02 rather than 2 × 10⁻²; more of them over few decades."""
    decades = math.log10(bar.norm.vmax / bar.norm.vmin)  # type: ignore[operator]
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    bar.ax.yaxis.set_minor_formatter(NullFormatter())


def write_caption(ax: Axes, text: str) -> None:
    """A caption under the figure of ``ax``, in lines as wide as it."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    lines = "\n".join(caption_lines(text, figure.get_figwidth()))
    figure.supxlabel(lines, x=0.01, ha="left", multialignment="left")


def caption_lines(text: str, inches: float) -> list[str]:
    """A caption in lines that fit a figure ``inches`` across."""
    size = FontProperties(size=mpl.rcParams["figure.labelsize"]).get_size_in_points()
    letters = int(inches * 72 / (size * 0.56))  # DejaVu Sans has some 1.8 letters to its height
    return wrap(text.replace("$", r"\$"), max(20, letters))


def grid_columns(size: tuple[int, int], count: int, across: float | None = None) -> int:
    """How many of ``count`` panels stand beside each other: about a page's shape, with few empty places.

    Args:
        size, count, across: as in :func:`panel_inches`.
    """

    def ugliness(columns: int) -> float:
        width, height = _panel_inches(size, count, across, columns)
        rows = math.ceil(count / columns)
        shape = math.log(columns * width / (rows * height) / 1.3)
        return abs(shape) + (2 if count <= 16 else 4) * (rows * columns - count) / count

    most = count if across is None else max(1, int((across - _BESIDE_ON_PAPER) / (_LEAST_INCHES + _GAP)))
    return min(range(1, min(count, most) + 1), key=ugliness)


def figure_size(maps: Sequence[AttentionMap], across: float | None = None) -> tuple[float, float]:
    """Inches for one map or a grid of them, with room for labels and the color scale; ``across`` wide where given."""
    columns = grid_columns(maps[0].size, len(maps), across)
    width, height = panel_inches(maps[0].size, len(maps), across)
    rows = math.ceil(len(maps) / columns)
    wide = columns * (width + 0.15) + _BESIDE if across is None else across
    return wide, rows * (height + 0.25) + 1.0


def _most_inches(count: int) -> float:
    return 7.0 if count == 1 else 3.2 if count <= 4 else 2.2 if count <= 16 else 1.5


def panel_inches(size: tuple[int, int], count: int, across: float | None = None) -> tuple[float, float]:
    """Width and height that each map's panel is laid out with where ``count`` maps share a figure.

    Args:
        size: queries and keys of each map.
        count: of maps.
        across: inches that the figure has; None is as many as it needs.
    """
    return _panel_inches(size, count, across, grid_columns(size, count, across))


def _panel_inches(size: tuple[int, int], count: int, across: float | None, columns: int) -> tuple[float, float]:
    T, S = size
    cell = 0.22 if count > 1 else 0.34
    most = _most_inches(count)
    # Cells near square where there is room; never a sliver.
    height = min(max(T * cell, 0.9), most)
    width = min(max(S * cell * 1.6, 0.9), most)
    if across is not None:
        room = max((across - _BESIDE_ON_PAPER) / columns - _GAP, 0.2)
        height, width = height * min(1.0, room / width), room
    return width, height


def _annotate(shown: AttentionMap, ax: Axes, scale: FittedScale) -> None:
    if shown.reduced or shown.cells.size > MOST_ANNOTATED:
        rows, columns = len(shown.queries), len(shown.keys)
        raise InputError(
            f"--annot: {rows} x {columns} cells are too many to read numbers in; the most is {MOST_ANNOTATED}"
        )
    colors = np.asarray(scale.cmap(scale.norm(scale.cells(shown.cells))))  # (P, P', RGBA)
    for (row, column), value in np.ndenumerate(shown.cells):
        if np.isfinite(value):
            red, green, blue, _ = colors[row, column]
            color = "white" if is_dark((red, green, blue)) else "black"
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=color)


def label_axis(axis: Axis, positions: Sequence[int], labels: Sequence[str] | None, *, visible: bool) -> None:
    """Ticks at tokens, thinned so that no two touch; positions alone get round numbers."""
    axis.set_tick_params(labelbottom=visible, labelleft=visible)
    figure = axis.axes.get_figure(root=True)
    assert figure is not None
    box = axis.axes.get_position()
    horizontal = axis is axis.axes.xaxis
    inches = box.width * figure.get_figwidth() if horizontal else box.height * figure.get_figheight()
    size = axis.get_ticklabels()[0].get_fontsize() if axis.get_ticklabels() else 7.0
    room = inches * 72 / (float(size) * 1.35)  # labels side by side, a line's height each
    if labels is None and isinstance(positions, range):
        start = positions.start
        axis.set_major_locator(MaxNLocator(nbins=max(1, min(10, int(room / 3))), integer=True))
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{round(x) + start}" if float(x).is_integer() else ""))
        return
    texts = [f"{p}" if labels is None else label_text(p, labels[i]) for i, p in enumerate(positions)]
    stride = _stride(len(texts), room)
    at = range(0, len(texts), stride)
    axis.set_major_locator(FixedLocator(list(at)))
    axis.set_major_formatter(FuncFormatter(lambda x, _: texts[round(x)] if 0 <= round(x) < len(texts) else ""))
    if horizontal:
        widest = max((_width(texts[i]) for i in at), default=0)
        upright = widest * len(at) * 0.75 > room
        axis.set_tick_params(rotation=90 if upright else 0)


def _stride(count: int, room: float) -> int:
    """The least round step (1, 2, 5, 10, ...) that leaves each label its line, and a thinned axis at most 20."""
    need = count / max(room, 1)
    if need > 1:
        need = max(need, count / _MOST_THINNED)
    steps = (factor * 10**power for power in range(10) for factor in (1, 2, 5))
    return next(int(step) for step in steps if step >= need)


def _width(text: str) -> float:
    """Rough width in ems of a line's height."""
    return sum(1.0 if unicodedata.east_asian_width(letter) in "WF" else 0.62 for letter in text)


def label_text(position: int, token: str) -> str:
    """``5  the``: a position and its token on one line, not too long, as matplotlib draws it.

    Its dollars are no mathematics, and the position stays in front of tokens that run from right to left, which
    matplotlib 3.11 and newer put in order.
    """
    plain = one_line(token)
    plain = plain if len(plain) <= 14 else plain[:13] + "…"
    text = f"{position}  " + plain.replace("$", r"\$")
    from_right = any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in plain)
    return _LEFT_TO_RIGHT + text if from_right else text


_LEFT_TO_RIGHT = "\u200e"
