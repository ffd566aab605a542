"""A whole model at a glance: layers down, heads across, a small map each.

All panels are one image, painted as it is drawn, so that thousands of heads are drawn as quickly as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from attnviz.show.figures.bars import FRAME, NOT_VISIBLE, colorbar, dress, swatch
from attnviz.show.figures.captions import cell_said
from attnviz.show.figures.cells import Array, Extent, Piece, PixelImage, Pixels, hatch_colors
from attnviz.show.figures.heatmap import write_caption
from attnviz.show.figures.layout import caption_lines
from attnviz.show.figures.scales import ColorScale, FittedScale, ScaleOptions
from attnviz.show.figures.vectors import is_vector

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from attnviz.maps.layers import OverviewRow
    from attnviz.maps.map import AttentionMap

_MOST_WIDE, _MOST_TALL = 12.0, 10.0  # inches of all panels together, while each can keep its least
_LARGEST, _LEAST = 1.1, 0.16  # inches of one panel
_MOST = 40.0  # inches of all panels, whatever becomes of each
_GAP = 1 / 12  # of a panel, where its frame is too

_LEFT, _RIGHT, _TOP, _BOTTOM = 0.35, 0.95, 0.4, 0.45  # inches around the panels
_LINE = 0.14  # of a caption, in inches


def panel_pixels(layers: int, heads: int, dpi: float, width: float | None = None) -> int:
    """Pixels along a side of each panel, as the figure is laid out, which is as many cells as it can show.

    Args:
        layers, heads: panels down and across.
        dpi: dots per inch.
        width: inches across of the figure; None is what the panels need.
    """
    inches = max(min(_LEAST, _MOST / max(heads, layers)), min(_LARGEST, _MOST_WIDE / heads, _MOST_TALL / layers))
    if width is not None:
        inches = (width - _LEFT - _RIGHT - 0.13) / heads
    slot = max(4, int(inches * dpi))
    return slot - _gap(slot)


def overview_figure(
    rows: Sequence[OverviewRow],
    ax: Axes | None = None,
    *,
    each: bool = False,
    dpi: float | None = None,
    title: str | None = None,
    caption: str | None = None,
    width: float | None = None,
    **colors: Unpack[ScaleOptions],
) -> Axes:
    """Draws the maps of every head of every layer, layers down and heads across.

    Args:
        rows: a row a layer; layers may have different heads, and maps different sizes.
        ax: the Axes to draw into; None makes a figure where, at ``dpi``, each panel is a whole number of pixels.
        each: whether each panel has a color scale of its own; otherwise all share one.
        dpi: dots per inch that the figure will be saved at; None is matplotlib's ``figure.dpi``.
        title: above the panels; None says how many heads there are.
        caption, width: as in :func:`attnviz.heatmap`.
        colors: the fields of :class:`~attnviz.show.figures.scales.ColorScale`.

    Returns:
        The Axes drawn into: panel ``(layer, head)`` is around ``x = head's column``, ``y = layer's row``.

    Raises:
        InputError: as :meth:`~attnviz.show.figures.scales.ColorScale.fit`.
    """
    heads = sorted({shown.head for row in rows for shown in row.maps})
    dpi = mpl.rcParams["figure.dpi"] if dpi is None else dpi
    names = ["" if row.layer is None else f"{row.layer}" for row in rows]
    maps = [shown for row in rows for shown in row.maps]
    given = ax is not None
    if ax is None:
        side = panel_pixels(len(rows), len(heads), dpi, width)
        slot = (side + _gap_of(side)) / dpi
        wide, tall = slot * len(heads), slot * len(rows)
        left = _LEFT + 0.065 * max(map(len, names))
        across = left + max(wide, 1.0) + _RIGHT if width is None else width
        lines = caption_lines(caption, across)
        bottom = _BOTTOM + _LINE * len(lines)
        size = (_whole(across, dpi), _whole(bottom + max(tall, 1.0) + _TOP, dpi))
        figure = Figure(figsize=size, dpi=dpi)
        ax = figure.add_axes(_share((_whole(left, dpi), _whole(size[1] - _TOP - tall, dpi), wide, tall), figure))
        if lines:
            figure.text(
                0.1 / across,
                0.08 / size[1],
                "\n".join(lines),
                fontsize=mpl.rcParams["figure.labelsize"],
                va="bottom",
                parse_math=False,
            )
    scale = ColorScale(**colors)
    fitted = scale.fit(maps)
    panels = [{shown.head: (shown, scale.fit([shown]) if each else fitted) for shown in row.maps} for row in rows]
    _Mosaic(ax, [[row.get(head) for head in heads] for row in panels])
    _label(ax.xaxis, [f"{head}" for head in heads])
    _label(ax.yaxis, names)
    ax.tick_params(length=0)
    ax.grid(False)  # whatever the style says: lines would lie over the panels
    ax.set_xlabel("head" + _cell_note(maps))
    ax.set_ylabel("layer" if any(names) else "")
    said = ", given" if all(shown.given for shown in maps) else ""
    sizes = f"{count(len(rows), 'layer')}, {count(len(maps), 'head')}{said}"
    ax.set_title(in_place(sizes, None, place_of(maps)[1]) if title is None else title, parse_math=False)
    blank = any(bool(np.isnan(shown.cells).any()) for shown in maps)
    _bar(ax, fitted, each=each, inside=not given, blank=blank)
    if given and caption is not None:
        write_caption(ax, caption)
    return ax


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
        for line, (height, rows, y) in zip(self.panels, down, strict=True):
            for panel, (width, columns, x) in zip(line, across, strict=True):
                if panel is not None and rows and columns:
                    shown, scale = panel
                    values = np.ma.filled(scale.cells(shown.cells), np.nan)
                    own = Pixels(height, width, rows, columns, pixels.point)
                    hatch = hatch_colors(scale.cmap.get_bad())
                    top, left = max(y - 1, 0), max(x - 1, 0)  # a frame, in the gap
                    if apart:
                        picture[top : y + len(rows) + 1, left : x + len(columns) + 1] = edge
                    colors = own.paint(values, _colors_of(scale), hatch=hatch)
                    picture[y : y + len(rows), x : x + len(columns)] = colors
        return picture

    def pieces(self) -> Iterator[Piece]:
        for y, line in enumerate(self.panels):
            for x, panel in enumerate(line):
                if panel is not None:
                    yield _piece(*panel, x, y)

    def draw(self, renderer: Any) -> None:
        super().draw(renderer)
        if is_vector(renderer) and self.get_visible():
            frames = [
                _piece(*panel, x, y).extent
                for y, line in enumerate(self.panels)
                for x, panel in enumerate(line)
                if panel
            ]
            _draw_frames(renderer, self, frames)


def _piece(shown: AttentionMap, scale: FittedScale, x: int, y: int) -> Piece:
    """A panel of a PDF or an SVG: half a gap from the edges of its slot."""
    values, colors = np.ma.filled(scale.cells(shown.cells), np.nan), _colors_of(scale)

    def paint(pixels: Pixels) -> tuple[Array, Array]:
        return pixels.paint(values, colors), np.isnan(pixels.merged(values))

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


def _bar(ax: Axes, fitted: FittedScale, *, each: bool, inside: bool, blank: bool) -> None:
    """The color bar: in the room that the figure keeps for it, or beside Axes that were given."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    norm = Normalize(0, 1) if each else fitted.norm
    shown = ScalarMappable(norm, fitted.cmap)
    if not inside:
        bar = colorbar(shown, [ax], fitted)
    else:
        width, height = figure.get_size_inches()
        box = ax.get_position()
        tall = min(max(box.height * height, 1.0), 4.0)
        place = (box.x1 * width + 0.12, box.y1 * height - tall, 0.13, tall)
        bar = figure.colorbar(shown, cax=figure.add_axes(_share(place, figure)), extend=fitted.extend)
        dress(bar, fitted)
        if blank:
            swatch(figure, fitted, place[0], place[1] - 0.24, NOT_VISIBLE.replace(" ", "\n"))
    if each:
        bar.set_ticks([0, 1], labels=["least", "most"])
        bar.set_label(f"{fitted.label},\neach panel by its own")


def _label(axis: Axis, names: Sequence[str]) -> None:
    """Labels at panels, as many as have room: all, or each 2nd, 4th, 5th, 8th, 10th ..."""
    figure = axis.axes.get_figure(root=True)
    assert figure is not None
    horizontal = axis is axis.axes.xaxis
    box = axis.axes.get_position()
    inches = box.width * figure.get_figwidth() if horizontal else box.height * figure.get_figheight()
    size = float(axis.get_ticklabels()[0].get_fontsize()) if axis.get_ticklabels() else 7.0
    each = size / 72 * (0.75 * max(map(len, names)) + 0.6 if horizontal else 1.3)
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


def _share(box: tuple[float, float, float, float], figure: Figure) -> tuple[float, float, float, float]:
    """A box in inches as shares of the figure."""
    width, height = figure.get_size_inches()
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height
