"""Heatmaps of attention: one head into given Axes, or a grid of heads with one color scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from attnviz.base.errors import InputError
from attnviz.maps.map import AttentionMap, cell_words, grid_name
from attnviz.show.figures.bars import Bar, colorbar, frame
from attnviz.show.figures.captions import cell_said
from attnviz.show.figures.cells import CellImage
from attnviz.show.figures.inset import draw_inset, inset_room
from attnviz.show.figures.layout import (
    EDGE,
    LINE,
    SMALLEST,
    Around,
    Sheet,
    caption_lines,
    fitted_to,
    is_strip,
    label_axis,
    line,
    place,
    points,
    ticks_of,
    title_pad,
    width_of,
    wrapped,
    write,
)
from attnviz.show.figures.marks import draw_marks, find_marks, marks_height
from attnviz.show.figures.scales import ColorScale, FittedScale, ScaleOptions
from attnviz.show.figures.style import showing
from attnviz.show.scale.colors import is_dark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

_NARROW = 0.55
"""Inches across of a panel that has no room for more than a number above it."""

_BESIDE_ON_PAPER = 1.1
"""Inches that labels and the color scale take beside panels, about."""

_GAP = 0.08

_LEAST_INCHES = 0.3
"""A panel narrower than this shows nothing."""

_SENTENCE = 16  # tokens that have a label each where that can be
_LEAST_BESIDE = 0.9  # inches of panels that a color bar stands beside; beside fewer it has no room for its label

_LEAST_LETTERS = 3.5  # points of numbers in cells

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
    marks: bool = True,
    part: AttentionMap | None = None,
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
        marks: whether a column that takes most of the weight, and lone peaks of a long map, are marked, and what is below
            0 is dashed where its colors have the grays of what is above.
        part: some of its queries and keys at full resolution, which an inset shows.
        colors: the fields of :class:`~attnviz.show.figures.scales.ColorScale`: ``norm``, ``robust``, ``vmin``, ``vmax``,
            ``cmap``.

    Returns:
        The Axes drawn into.

    Raises:
        InputError: as :meth:`~attnviz.show.figures.scales.ColorScale.fit`, or too many cells to annotate.

    >>> import attnviz
    >>> attnviz.heatmap(attnviz.attention_map(attnviz.synthesize(), head=3), norm="log").get_title()
    'head 3'
    """
    if not isinstance(shown, AttentionMap):
        raise InputError(
            f"heatmap draws an AttentionMap (attnviz.attention_map), not {type(shown).__name__}; attnviz.plot draws inputs and "
            f"arrays"
        )
    fitted = ColorScale(**colors).fit([shown]).marked(marks and not annot)
    if ax is None:
        room = 0.0 if part is None else inset_room(shown, panel_inches(shown.size, 1)[0] if width is None else width)
        (own,) = sheet_of(
            [shown],
            fitted,
            [shown.name if title is None else title],
            annot=annot,
            scale=scale,
            caption=caption,
            width=width,
            marks=marks,
            sides=(0.0, room, 0.0),
        )
        if part is not None:
            draw_inset(shown, part, own, fitted, room)
        return showing(own)
    image = draw(shown, ax, fitted, annot=annot)
    found = [find_marks(shown)] if marks else []
    ax.set_title(shown.name if title is None else title, parse_math=False, pad=6 + 72 * marks_height(found))
    for mark in found:
        draw_marks(shown, mark, ax)
    if scale:
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
    marks: bool = True,
    names: Sequence[tuple[str, str]] | None = None,
    **colors: Unpack[ScaleOptions],
) -> Figure:
    """Small multiples of several heads, sharing one color scale.

    Args:
        maps: of the same values and shape, one a head.
        annot, caption, width, colors: as in :func:`heatmap`.
        title: above the grid; None says which values.
        names: what stands over each map, and in fewer letters; None is which head it is.

    Raises:
        InputError: as :func:`heatmap`.
    """
    fitted = ColorScale(**colors).fit(maps).marked(marks and not annot)
    above = (grid_name(maps) if title is None else title) + cell_note(maps[0])
    shorts = None if names is None else [short for _, short in names]
    long = [shown.heads_name for shown in maps] if names is None else [name for name, _ in names]
    how: dict[str, Any] = {"annot": annot, "caption": caption, "width": width, "marks": marks}
    axes = sheet_of(maps, fitted, long, above=above, shorts=shorts, **how)
    figure = axes[0].get_figure(root=True)
    assert figure is not None
    return showing(figure)


def sheet_of(
    maps: Sequence[AttentionMap],
    fitted: FittedScale,
    names: Sequence[str],
    *,
    above: str | None = None,
    shorts: Sequence[str] | None = None,
    annot: bool = False,
    scale: bool = True,
    caption: str | None = None,
    width: float | None = None,
    sides: tuple[float, float, float] = (0.0, 0.0, 0.0),
    marks: bool = False,
) -> list[Axes]:
    """A figure of maps of one size, the Axes of each, all places computed.

    Args:
        maps: to draw.
        fitted: their scale.
        names: a title for each.
        shorts: their titles where there is little room; None is the head's number.
        above: the title of them all.
        annot, caption, width: as in :func:`heatmap`.
        scale: whether there is a color bar.
        marks: as in :func:`heatmap`.
        sides: inches that something else takes to the left of a single map at least, to the right of it, and above it.
    """
    first, single = maps[0], len(maps) == 1
    figure = Figure(figsize=(6, 6))
    axes = [figure.add_axes((0, 0, 1, 1), label=f"panel {n}") for n in range(len(maps))]
    blank = any(bool(np.isnan(shown.cells).any()) for shown in maps)
    marked = [find_marks(shown) for shown in maps] if marks else []
    sides = (*sides[:2], sides[2] + marks_height(marked))
    plan = _Plan(first, len(maps), width, sides, Bar(figure, fitted, blank=blank) if scale else None)
    found, where = plan.found()
    title = [] if above is None else wrapped(above, found.size[0] - 2 * EDGE, points("figure.titlesize"))
    said = caption_lines(caption, found.size[0])
    lower = found.around.bottom
    found = found.with_room(title, said)
    if single:  # whose title may be of several lines, of which the plan has one
        more = line("axes.titlesize", len(_title_lines(found, names[0])) - 1)
        found = replace(found, around=replace(found.around, top=found.around.top + more))
    figure.set_size_inches(found.size)
    tiny = found.panel[0] < _NARROW
    names = panel_names(found, names, [f"{shown.head}" for shown in maps] if shorts is None else shorts)
    for n, (ax, shown, name) in enumerate(zip(axes, maps, names, strict=True)):
        place(ax, found.box(n), found.size)
        left, lowest = found.is_left(n), found.is_lowest(n)
        if tiny:  # one panel says where things are, for all
            left = lowest = left and lowest
        draw(shown, ax, fitted, annot=annot, x_labels=lowest, y_labels=left, names=single)
        write_title(ax, found, n, name, 72 * sides[2])
    for ax, shown, mark in zip(axes, maps, marked, strict=False):
        draw_marks(shown, mark, ax)
    if not single:
        _name_axes(figure, found, first)
    if plan.bar is not None:
        _place_bar(plan, found, where, lower)
    write_above(figure, title)
    write_below(figure, said)
    return axes


@dataclass(frozen=True)
class _Plan:
    """What decides where the panels of a figure stand."""

    shown: AttentionMap
    count: int
    width: float | None
    sides: tuple[float, float, float]
    bar: Bar | None

    def found(self) -> tuple[Sheet, str]:
        """The places, and where the color bar is: in the ``room`` that a short row leaves, ``beside`` or ``below``."""
        bar = self.bar
        plain = fitted_to(self.width, partial(self.sheet, "room"))
        if bar is None or (plain.empty is not None and bar.fits(plain.empty, plain.around.bottom)):
            return plain, "room"
        tall = plain.inner[1] - plain.around.above
        where = "beside" if tall >= _LEAST_BESIDE or self.count == 1 else "below"
        return fitted_to(self.width, partial(self.sheet, where)), where

    def sheet(self, where: str, across: float | None) -> Sheet:
        """The places of panels of this width; None is what the maps want."""
        shown, columns = self.shown, grid_columns(self.shown.size, self.count, self.width)
        panel = _panel_inches(shown.size, self.count, self.width, columns)
        panel = panel if across is None else scaled(shown.size, panel, across)
        keys = ticks_of(shown.keys, shown.key_labels, panel[0], horizontal=True)
        queries = ticks_of(shown.queries, shown.query_labels, panel[1], horizontal=False)
        title = min(points("axes.titlesize"), 0.9 * panel[0] * 72 / 2)
        around = Around(
            left=max(EDGE + line("axes.labelsize") + 3 / 72 + queries.room, self.sides[0]),
            right=EDGE + max(keys.beyond, self.sides[1]),
            top=EDGE,
            bottom=EDGE + keys.room + 3 / 72 + line("axes.labelsize"),
            above=LINE * title / 72 + (title_pad() + 2 if self.count == 1 else 4) / 72 + self.sides[2],
            gap=_GAP if panel[0] < _NARROW else max(_GAP, 2 * keys.beyond + 3 / 72),
        )
        found = Sheet(self.count, columns, panel, around)
        if self.bar is not None and where == "beside":
            right = self.sides[1] + self.bar.room(found.inner[1] - around.above) + EDGE
            around = replace(around, right=right, bottom=max(around.bottom, self.bar.below))
        if self.bar is not None and where == "below":
            around = replace(around, bottom=around.bottom + self.bar.depth_in(found.inner[0]))
        return replace(found, around=around)


def _place_bar(plan: _Plan, sheet: Sheet, where: str, lower: float) -> None:
    """Puts the color bar where the plan wants it; ``lower``: inches below the panels, without the caption."""
    bar, last = plan.bar, sheet.box(plan.count - 1)
    assert bar is not None
    if where == "beside":
        right = sheet.around.left + sheet.inner[0] + plan.sides[1]
        bar.beside(right, last[1], sheet.inner[1] - sheet.around.above)
    elif where == "below":
        taken = lower - bar.depth_in(sheet.inner[0]) - EDGE
        bar.lies((sheet.around.left, 0.0, sheet.inner[0], last[1]), taken, middle=False)
    else:
        assert sheet.empty is not None
        bar.lies(sheet.empty, lower - EDGE)


def panel_names(sheet: Sheet, names: Sequence[str], shorts: Sequence[str]) -> Sequence[str]:
    """What stands over panels: all in fewer letters where one is wider than its panel."""
    size = points("axes.titlesize")
    fit = sheet.count == 1 or all(width_of(name, size) <= sheet.panel[0] for name in names)
    return names if fit else shorts


def write_title(ax: Axes, sheet: Sheet, n: int, name: str, above: float = 0.0) -> None:
    """The name of a panel above it, in smaller letters where it is wider than there is room."""
    size = points("axes.titlesize")
    if sheet.count == 1:
        ax.set_title("\n".join(_title_lines(sheet, name)), y=1.0, pad=title_pad() + above, parse_math=False)
        return
    size = min(size, size * sheet.panel[0] / width_of(name, size))
    ax.set_title(name, y=1.0, pad=2.5 + above, fontsize=size, parse_math=False)


def _title_lines(sheet: Sheet, name: str) -> list[str]:
    """The title of a figure's only panel, around its middle."""
    left, _, wide, _ = sheet.box(0)
    middle = left + wide / 2
    return wrapped(name, 2 * min(middle, sheet.size[0] - middle) - 2 * EDGE, points("axes.titlesize"))


def _name_axes(figure: Figure, sheet: Sheet, shown: AttentionMap) -> None:
    """What rows and columns are, once for all panels."""
    color = mpl.rcParams["axes.labelcolor"]
    left, bottom, _, _ = sheet.box((sheet.rows - 1) * sheet.columns)
    last = sheet.box(sheet.count - 1)
    keys = ticks_of(shown.keys, shown.key_labels, sheet.panel[0], horizontal=True)
    noun = "key" if isinstance(shown.keys, range) else "global key"
    middle = (left + last[0] + last[2]) / 2
    write(figure, middle, bottom - keys.room - 3 / 72, noun, "axes.labelsize", ha="center", va="top", color=color)
    upper = sheet.box(0)
    middle = (bottom + upper[1] + upper[3]) / 2
    write(figure, EDGE, middle, "query", "axes.labelsize", rotation=90, ha="left", va="center", color=color)


def write_above(figure: Figure, lines: Sequence[str]) -> None:
    """A title's lines at the upper edge of a figure."""
    if lines:
        y = 1 - EDGE / figure.get_figheight()
        figure.suptitle("\n".join(lines), y=y, va="top", fontsize=points("figure.titlesize"), parse_math=False)


def write_below(figure: Figure, lines: Sequence[str]) -> None:
    """A caption's lines at the lower edge of a figure."""
    if lines:
        write(figure, EDGE, EDGE, "\n".join(lines), "figure.labelsize", ha="left", va="bottom", linespacing=1.1)


def draw(
    shown: AttentionMap,
    ax: Axes,
    scale: FittedScale,
    *,
    annot: bool = False,
    x_labels: bool = True,
    y_labels: bool = True,
    names: bool = True,
) -> AxesImage:
    """The cells and the axes of a map on a scale that panels may share, without title or color bar.

    Args:
        shown: the map.
        ax: the Axes to draw into.
        scale: of colors, which panels may share.
        annot: write each value into its cell.
        x_labels, y_labels: whether to label the axis; without, it has no ticks either.
        names: whether the axes that are labeled say what they are, and the x axis what a cell stands for.
    """
    T, S = len(shown.queries), len(shown.keys)
    extent = (-0.5, S - 0.5, T - 0.5, -0.5)
    cells = scale.cells(shown.cells)
    aspect = "auto" if is_strip(shown.size) else "equal"
    both_ways = scale.values == "difference"
    image = CellImage(
        ax,
        cells,
        extent,
        aspect=aspect,
        cmap=scale.cmap,
        norm=scale.norm,
        both_ways=both_ways,
        hatch=True,
        names=partial(cell_said, shown),
        below=scale.below,
    )
    frame(ax)
    if annot:
        _annotate(shown, ax, scale)
    ax.grid(False)  # whatever the style says: lines would lie over the cells
    if x_labels:
        label_axis(ax.xaxis, shown.keys, shown.key_labels)
        if names:
            noun = "key" if isinstance(shown.keys, range) else "global key"
            ax.set_xlabel(noun + cell_note(shown), labelpad=3)
    else:
        ax.xaxis.set_visible(False)  # not set_xticks([]): what is not there takes no time to lay out
    if y_labels:
        label_axis(ax.yaxis, shown.queries, shown.query_labels)
        if names:
            ax.set_ylabel("query", labelpad=3)
    else:
        ax.yaxis.set_visible(False)
    return image


def cell_note(shown: AttentionMap) -> str:
    """What a cell stands for, where it stands for several values: ``   (1 cell = 4 × 1, max)``."""
    if not shown.reduced:
        return ""
    return f"   ({cell_words(shown.cell_size)}, {shown.reduce})"


def write_caption(ax: Axes, text: str) -> None:
    """A caption under the figure of Axes that were given, in lines as wide as it."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    lines = caption_lines(text, float(figure.get_figwidth()))
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", multialignment="left", parse_math=False)


def grid_columns(size: tuple[int, int], count: int, across: float | None = None) -> int:
    """How many of ``count`` panels stand beside each other, the last row alone being short.

    On a screen the grid has about a screen's shape; on paper it is the wider, so that few heads stand side by side.

    Args:
        size, count, across: as in :func:`panel_inches`.
    """
    wanted = 1.3 if across is None else 2.2 if across > 5 else 1.6

    def ugliness(columns: int) -> float:
        width, height = _panel_inches(size, count, across, columns)
        rows = math.ceil(count / columns)
        shape = math.log(columns * width / (rows * height) / wanted)
        # A sentence's tokens are worth a label each.
        cell = 72 * (width if across is None else (across - _BESIDE_ON_PAPER) / columns - 2 * _GAP) / size[1]
        unlabeled = 0.5 if max(size) <= _SENTENCE and cell < LINE * SMALLEST else 0.0
        return abs(shape) + (2 if count <= 16 else 4) * (rows * columns - count) / count + unlabeled

    most = count if across is None else max(1, int((across - _BESIDE_ON_PAPER) / (_LEAST_INCHES + _GAP)))
    even = {math.ceil(count / rows) for rows in range(1, count + 1)}
    return min(sorted(columns for columns in even if columns <= most), key=ugliness)


def _most_inches(count: int) -> float:
    return 6.0 if count == 1 else 3.2 if count <= 4 else 2.2 if count <= 16 else 1.5


def panel_inches(size: tuple[int, int], count: int, across: float | None = None) -> tuple[float, float]:
    """Width and height that each map's panel is laid out with, at the most, where ``count`` maps share a figure.

    Args:
        size: queries and keys of each map.
        count: of maps.
        across: inches that the figure has; None is as many as it needs.
    """
    return _panel_inches(size, count, across, grid_columns(size, count, across))


def _panel_inches(size: tuple[int, int], count: int, across: float | None, columns: int) -> tuple[float, float]:
    T, S = size
    cell, most = 0.22 if count > 1 else 0.3, _most_inches(count)
    if is_strip(size):  # never a sliver
        width, height = (min(max(side * cell, 0.9), most) for side in (1.6 * S, T))
    else:
        each = min(max(max(size) * cell, 1.2), most) / max(size)
        width, height = S * each, T * each
    if across is None:
        return width, height
    return scaled(size, (width, height), max((across - 0.5) / columns - _GAP, 0.2))


def scaled(size: tuple[int, int], panel: tuple[float, float], across: float) -> tuple[float, float]:
    """A panel of another width: of squares still, where it has squares."""
    share = across / panel[0]
    return across, panel[1] * (min(1.0, share) if is_strip(size) else share)


def _annotate(shown: AttentionMap, ax: Axes, scale: FittedScale) -> None:
    rows, columns = len(shown.queries), len(shown.keys)
    if shown.reduced or shown.cells.size > MOST_ANNOTATED:
        raise InputError(
            f"--annot: {rows} x {columns} cells are too many to read numbers in; the most is {MOST_ANNOTATED}"
        )
    texts = {at: f"{value:.2f}" for at, value in np.ndenumerate(shown.cells) if np.isfinite(value)}
    if not texts:
        return
    size = letters(ax, shown.cells.shape, texts.values())
    if size < _LEAST_LETTERS:  # .61
        texts = {at: text.replace("0.", ".", 1) for at, text in texts.items()}
        size = letters(ax, shown.cells.shape, texts.values())
    if size < _LEAST_LETTERS:
        raise InputError(
            "--annot: cells are too small to read numbers in; show fewer heads, or fewer positions with --queries and --keys"
        )
    colors = np.asarray(scale.cmap(scale.norm(scale.cells(shown.cells))))  # (P, P', RGBA)
    for (row, column), text in texts.items():
        red, green, blue, _ = colors[row, column]
        color = "white" if is_dark((red, green, blue)) else "black"
        ax.text(column, row, text, ha="center", va="center", fontsize=size, color=color)


def letters(ax: Axes, shape: tuple[int, ...], texts: Iterable[str]) -> float:
    """Points of numbers that fit the cells of Axes."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    box, (wide, tall) = ax.get_position(), figure.get_size_inches()
    across, down = 72 * box.width * wide / shape[1], 72 * box.height * tall / shape[0]
    widest = max(width_of(text, 6.5) for text in set(texts)) * 72 / 6.5  # in heights of a letter
    return float(min(6.5, 0.92 * across / widest, 0.8 * down))
