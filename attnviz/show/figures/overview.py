"""A whole model at a glance: layers down, heads across, a small map each.

All panels are one image, painted as it is drawn, so that thousands of heads are drawn as quickly as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.ticker import FixedLocator, FuncFormatter

from attnviz.base.words import count, in_place
from attnviz.maps.map import cell_words, place_of
from attnviz.show.figures.bars import FRAME, Bar, colorbar
from attnviz.show.figures.captions import cell_said
from attnviz.show.figures.cells import Extent, Painted, Piece, PixelImage, Pixels, hatch_colors
from attnviz.show.figures.heatmap import grid_columns, write_below, write_caption
from attnviz.show.figures.layout import EDGE, LINE, caption_lines, line, place, points, width_of, wrapped
from attnviz.show.figures.marks import draw_rings, draw_tips, find_marks, is_fine
from attnviz.show.figures.scales import ColorScale, FittedScale, ScaleOptions
from attnviz.show.figures.vectors import Array, is_vector

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from attnviz.maps.layers import OverviewRow
    from attnviz.maps.map import AttentionMap

_MOST_WIDE, _MOST_TALL = 12.0, 10.0  # inches of all panels together, while each can keep its least
_LARGEST, _LEAST = 1.1, 0.16  # inches of one panel
_MOST = 40.0  # inches of all panels, whatever becomes of each
_GAP = 1 / 12  # of a panel, where its frame is too
_LEAST_MARKED = 24.0  # points across of a panel that has room for marks

_AROUND = 0.9  # inches beside all panels, at the least
_RIBBON = 6  # heads of a single layer that stand in one row; more are wrapped


def table_size(layers: int, heads: int, width: float | None = None) -> tuple[int, int]:
    """How many panels there are down and across: the many heads of a single layer go on in the next row.

    >>> table_size(4, 12), table_size(1, 12)
    ((4, 12), (3, 4))
    """
    if layers > 1 or heads <= _RIBBON:
        return layers, heads
    columns = grid_columns((1, 1), heads, width)
    return math.ceil(heads / columns), columns


def panel_pixels(layers: int, heads: int, dpi: float, width: float | None = None) -> int:
    """Pixels along a side of each panel at the most, which is as many cells as it can show.

    Args:
        layers, heads: of the model.
        dpi: dots per inch.
        width: inches across of the figure; None is what the panels need.
    """
    slot = _slot_pixels(table_size(layers, heads, width), dpi, None if width is None else width - _AROUND)
    return slot - _gap(slot)


def _slot_pixels(table: tuple[int, int], dpi: float, across: float | None) -> int:
    """Pixels from panel to panel; ``across``: inches that all panels have beside each other, None is what they need."""
    down, wide = table
    inches = max(min(_LEAST, _MOST / max(table)), min(_LARGEST, _MOST_WIDE / wide, _MOST_TALL / down))
    return max(4, int((inches if across is None else across / wide) * dpi))


@dataclass(frozen=True)
class _Table:
    """The maps in rows, with what rows and columns are called."""

    rows: Sequence[Sequence[AttentionMap | None]]
    down: Sequence[str]
    across: Sequence[str]
    axes: tuple[str, str]

    @classmethod
    def of(cls, rows: Sequence[OverviewRow], width: float | None, *, wrap: bool) -> _Table:
        heads = sorted({shown.head for row in rows for shown in row.maps})
        by_head = [{shown.head: shown for shown in row.maps} for row in rows]
        down, columns = table_size(len(rows), len(heads), width) if wrap else (len(rows), len(heads))
        note = _cell_note([shown for row in rows for shown in row.maps])
        if down == len(rows):
            names = ["" if row.layer is None else f"{row.layer}" for row in rows]
            table = [[row.get(head) for head in heads] for row in by_head]
            return cls(table, names, [f"{head}" for head in heads], ("layer" if any(names) else "", "head" + note))
        firsts = range(0, len(heads), columns)
        table = [[by_head[0].get(head) for head in heads[first : first + columns]] for first in firsts]
        table[-1] += [None] * (columns - len(table[-1]))
        lasts = [heads[min(first + columns, len(heads)) - 1] for first in firsts]
        names = [f"{heads[first]}–{last}" for first, last in zip(firsts, lasts, strict=True)]
        return cls(table, names, [""] * columns, ("heads", note.strip()))


def overview_figure(
    rows: Sequence[OverviewRow],
    ax: Axes | None = None,
    *,
    each: bool = False,
    dpi: float | None = None,
    title: str | None = None,
    caption: str | None = None,
    width: float | None = None,
    marks: bool = True,
    **colors: Unpack[ScaleOptions],
) -> Axes:
    """Draws the maps of every head of every layer, layers down and heads across.

    Args:
        rows: a row a layer; layers may have different heads, and maps different sizes.
        ax: the Axes to draw into; None makes a figure where, at ``dpi``, each panel is a whole number of pixels.
        each: whether each panel has a color scale of its own; otherwise all share one.
        dpi: dots per inch that the figure will be saved at; None is matplotlib's ``figure.dpi``.
        title: above the panels; None says how many heads there are.
        caption, width, marks: as in :func:`attnviz.heatmap`.
        colors: the fields of :class:`~attnviz.show.figures.scales.ColorScale`.

    Returns:
        The Axes drawn into: panel ``(layer, head)`` is around ``x = head's column``, ``y = layer's row``. In a figure of
        its own, the heads of a single layer go on in the next row, where they are many.

    Raises:
        InputError: as :meth:`~attnviz.show.figures.scales.ColorScale.fit`.
    """
    table = _Table.of(rows, width, wrap=ax is None)
    dpi = mpl.rcParams["figure.dpi"] if dpi is None else dpi
    maps = [shown for row in rows for shown in row.maps]
    scale = ColorScale(**colors)
    fitted = scale.fit(maps).marked(marks)
    shown_by = _each_by_its_own(fitted) if each else fitted
    title = _title(rows) if title is None else title
    blank = any(bool(np.isnan(shown.cells).any()) for shown in maps)
    given = ax is not None
    if ax is None:
        ax = _sheet(table, shown_by, dpi, title, caption, width, blank=blank)
    panels = [
        [None if shown is None else (shown, scale.fit([shown]).marked(marks) if each else fitted) for shown in row]
        for row in table.rows
    ]
    _Mosaic(ax, panels)
    _label(ax.xaxis, table.across)
    _label(ax.yaxis, table.down)
    ax.tick_params(length=0)
    ax.grid(False)  # whatever the style says: lines would lie over the panels
    ax.set_ylabel(table.axes[0], labelpad=3)
    if marks:
        _draw_marks(table, ax)
    if given:
        ax.set_title(title, parse_math=False)
        ax.set_xlabel(table.axes[1], labelpad=3)
        colorbar(ScalarMappable(shown_by.norm, shown_by.cmap), [ax], shown_by)
        if caption is not None:
            write_caption(ax, caption)
    return ax


def _title(rows: Sequence[OverviewRow]) -> str:
    maps = [shown for row in rows for shown in row.maps]
    said = ", given" if all(shown.given for shown in maps) else ""
    return in_place(f"{count(len(rows), 'layer')}, {count(len(maps), 'head')}{said}", None, place_of(maps)[1])


def _each_by_its_own(fitted: FittedScale) -> FittedScale:
    """What the color bar shows where each panel has a scale of its own."""
    label = f"{fitted.label}, each panel by its own: from its least, 0, to its most, 1"
    return replace(fitted, norm=Normalize(0, 1), label=label, ticks=(0.0, 1.0), extend="neither")


def _sheet(
    table: _Table,
    fitted: FittedScale,
    dpi: float,
    title: str,
    caption: str | None,
    width: float | None,
    *,
    blank: bool,
) -> Axes:
    """The Axes of a figure in which, at ``dpi``, each panel is a whole number of pixels."""
    figure = Figure(figsize=(6, 6), dpi=dpi)
    ax = figure.add_axes((0, 0, 1, 1), label="overview")
    bar = Bar(figure, fitted, blank=blank)
    down, across = len(table.rows), len(table.rows[0])
    widest = max(width_of(name, points("ytick.labelsize")) for name in table.down)
    label = line("axes.labelsize") + 3 / 72
    left = EDGE + (label if table.axes[0] else 0.0) + widest + 4 / 72 + points("ytick.labelsize") / 144
    least = 1.0 if blank else 0.9  # inches of a color bar

    def slot(room: float) -> float:
        inside = None if width is None else max(width - left - room, 0.05)
        return _slot_pixels((down, across), dpi, inside) / dpi

    def room(tall: float) -> float:
        return bar.room(max(tall, least)) + EDGE

    side = slot(_AROUND)
    for _ in range(
        3 if width is not None else 1
    ):  # the bar is as high as the panels, and they are as wide as it leaves
        side = slot(room(side * down))
    wide, tall = side * across, side * down
    right = room(tall)
    size_across = left + max(wide, 0.6) + right if width is None else width
    named = max((width_of(name, points("xtick.labelsize")) for name in table.across), default=0.0)
    middle = left + wide / 2
    above = wrapped(title, 2 * (min(middle, size_across - middle) - EDGE), points("axes.titlesize"))
    said = caption_lines(caption, size_across)
    below = wrapped(table.axes[1], 2 * (min(middle, size_across - middle) - EDGE), points("axes.labelsize"))
    ax.set_xlabel("\n".join(below), labelpad=3)
    bottom = (
        EDGE + (line("xtick.labelsize") + 4 / 72 if named else 3 / 72) + line("axes.labelsize", len(below)) + 3 / 72
    )
    over = (width_of(table.axes[0], points("axes.labelsize")) - tall) / 2  # of what is written along few rows
    bottom = max(bottom, bar.below + max(tall, least) - tall + points("ytick.labelsize") / 144, EDGE + over)
    words = line("figure.labelsize", len(said)) + 0.08 if said else 0.0
    top = EDGE + max(over, line("axes.titlesize", len(above)) + 5 / 72)
    size = (_whole(size_across, dpi), _whole(words + bottom + tall + top, dpi))
    figure.set_size_inches(size)
    box = (_whole(left, dpi), _whole(size[1] - top - tall, dpi), wide, tall)
    place(ax, box, size)
    ax.set_title("\n".join(above), y=1.0, pad=5, parse_math=False)
    high = max(tall, least)
    bar.beside(box[0] + wide, box[1] + tall - high, high)
    write_below(figure, said)
    return ax


def _draw_marks(table: _Table, ax: Axes) -> None:
    """A triangle over each panel's column that takes most, and rings around its lone peaks: where there is room."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    side = 72 * float(ax.get_position().width * figure.get_figwidth()) / len(table.rows[0])  # points
    if side < _LEAST_MARKED:
        return
    half, tips, sides, rings = 0.5 - _GAP / 2, [], [], []
    for y, row in enumerate(table.rows):
        for x, shown in enumerate(row):
            marks = None if shown is None else find_marks(shown)
            if shown is None or marks is None:
                continue
            rows, columns = shown.cells.shape
            if marks.sink is not None:
                tips.append((x - half + 2 * half * (marks.sink.column + 0.5) / columns, y - half))
            if marks.row is not None:
                sides.append((x + half, y - half + 2 * half * (marks.row.row + 0.5) / rows))
            if is_fine(side * 2 * half / max(rows, columns)):
                rings += [
                    (x - half + 2 * half * (column + 0.5) / columns, y - half + 2 * half * (row_ + 0.5) / rows)
                    for row_, column in marks.peaks
                ]
    draw_tips(ax, tips, min(side * _GAP, 4.5))
    draw_tips(ax, sides, min(side * _GAP, 3.5), aside=True)
    draw_rings(ax, rings, min(7.0, 0.1 * side))


class _Mosaic(PixelImage):
    """Panels side by side, with gaps between them through which the page shows.

    Args:
        ax: the Axes.
        panels: of each row and column the map and its scale; None where there is no panel.
    """

    def __init__(self, ax: Axes, panels: Sequence[Sequence[tuple[AttentionMap, FittedScale] | None]]) -> None:
        self.panels = panels
        super().__init__(ax, np.zeros((len(panels), len(panels[0]), 4), dtype=np.uint8))

    def paint(self, pixels: Pixels) -> Array:
        picture = np.zeros((len(pixels.rows), len(pixels.columns), 4), dtype=np.uint8)
        apart = min(pixels.height // len(self.panels), pixels.width // len(self.panels[0])) > 1
        edge = np.rint(255 * to_rgba_array(FRAME["edgecolor"])[0]).astype(np.uint8)
        down = _slots(pixels.height, len(self.panels), pixels.rows)
        across = _slots(pixels.width, len(self.panels[0]), pixels.columns)
        for row, (height, rows, y) in zip(self.panels, down, strict=True):
            for panel, (width, columns, x) in zip(row, across, strict=True):
                if panel is not None and rows and columns:
                    shown, scale = panel
                    values = np.ma.filled(scale.cells(shown.cells), np.nan)
                    own = Pixels(height, width, rows, columns, pixels.point)
                    hatch = hatch_colors(scale.cmap.get_bad())
                    top, left = max(y - 1, 0), max(x - 1, 0)  # a frame, in the gap
                    if apart:
                        picture[top : y + len(rows) + 1, left : x + len(columns) + 1] = edge
                    colors = own.paint(values, _colors_of(scale), hatch=hatch, below=scale.below)
                    picture[y : y + len(rows), x : x + len(columns)] = colors
        return picture

    def pieces(self) -> Iterator[Piece]:
        for y, row in enumerate(self.panels):
            for x, panel in enumerate(row):
                if panel is not None:
                    yield _piece(*panel, x, y)

    def draw(self, renderer: Any) -> None:
        super().draw(renderer)
        if is_vector(renderer) and self.get_visible():
            frames = [
                _piece(*panel, x, y).extent for y, row in enumerate(self.panels) for x, panel in enumerate(row) if panel
            ]
            _draw_frames(renderer, self, frames)


def _piece(shown: AttentionMap, scale: FittedScale, x: int, y: int) -> Piece:
    """A panel of a PDF or an SVG: half a gap from the edges of its slot."""
    values, colors = np.ma.filled(scale.cells(shown.cells), np.nan), _colors_of(scale)

    def paint(pixels: Pixels) -> Painted:
        merged = pixels.merged(values)
        low = None if scale.below is None else pixels.spread(scale.below(merged), values)
        return Painted(pixels.paint(values, colors), pixels.spread(np.isnan(merged), values), low)

    half = 0.5 - _GAP / 2
    extent = (x - half, x + half, y + half, y - half)
    return Piece(values.shape, paint, extent, hatch_colors(scale.cmap.get_bad()), partial(_said, shown))


def _said(shown: AttentionMap, row: int, column: int) -> str:
    return f"{in_place(shown.heads_name, shown.layer)}: {cell_said(shown, row, column)}"


def _draw_frames(renderer: Any, image: PixelImage, frames: Sequence[Extent]) -> None:
    """A thin line around each panel."""
    gc = renderer.new_gc()
    gc.set_linewidth(FRAME["linewidth"])
    gc.set_foreground(FRAME["edgecolor"])
    for left, right, bottom, top in frames:
        corners = [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]
        renderer.draw_path(gc, Path(corners, closed=True), image.get_transform())
    gc.restore()


def _colors_of(scale: FittedScale) -> Callable[[Array], Array]:
    return lambda cells: np.asarray(scale.cmap(scale.norm(np.ma.masked_invalid(cells)), bytes=True))


def _slots(pixels: int, count: int, seen: range) -> list[tuple[int, range, int]]:
    """Of each of ``count`` panels its pixels, which of them are seen, and the first's place among those that are."""
    found = []
    for n in range(count):
        begin, end = n * pixels // count, (n + 1) * pixels // count
        gap = _gap(end - begin)
        begin, end = begin + gap // 2, end - gap + gap // 2
        start, stop = max(begin, seen.start), min(end, seen.stop)
        found.append((end - begin, range(start - begin, stop - begin), start - seen.start))
    return found


def _label(axis: Axis, names: Sequence[str]) -> None:
    """Labels at panels, as many as have room: all, or each 2nd, 4th, 5th, 8th, 10th ..."""
    figure = axis.axes.get_figure(root=True)
    assert figure is not None
    horizontal = axis is axis.axes.xaxis
    box = axis.axes.get_position()
    inches = box.width * figure.get_figwidth() if horizontal else box.height * figure.get_figheight()
    size = points("xtick.labelsize" if horizontal else "ytick.labelsize")
    each = max(width_of(name, size) for name in names) + 3 / 72 if horizontal else LINE * size / 72
    steps = (step * 10**power for power in range(6) for step in (1, 2, 4, 5, 8))
    stride = next(step for step in steps if step * inches / len(names) >= each)
    axis.set_major_locator(FixedLocator(list(range(0, len(names), stride))))
    axis.set_major_formatter(FuncFormatter(lambda x, _: names[round(x)] if 0 <= round(x) < len(names) else ""))


def _cell_note(maps: Sequence[AttentionMap]) -> str:
    """What a cell holds, where panels are smaller than their maps."""
    reduced = [shown for shown in maps if shown.reduced]
    if not reduced:
        return ""
    sizes = {cell_words(shown.cell_size) for shown in reduced}
    if len(sizes) > 1 or len(reduced) < len(maps):
        return f"   (cells: {reduced[0].reduce})"
    return f"   ({sizes.pop()}, {reduced[0].reduce})"


def _gap(slot: int) -> int:
    """The gap beside a panel, of a slot of so many pixels; where the panel would be nothing else, there is none."""
    return max(0, min(max(1, round(slot * _GAP)), slot - 1))


def _gap_of(side: int) -> int:
    """The gap of the slot that has ``side`` pixels for the panel."""
    return next(gap for gap in range(1, side + 2) if _gap(side + gap) == gap)


def _whole(inches: float, dpi: float) -> float:
    """Inches that are a whole number of pixels."""
    return round(inches * dpi) / dpi
