"""Figures of patterns: who may see whom, each cell colored by why, with the weights drawn over it where given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D

from attnviz.maps.map import cell_words
from attnviz.maps.reasons import SEVERAL, ReasonMap
from attnviz.show.figures.captions import number_said, pair_said
from attnviz.show.figures.cells import Extent, Piece, PixelImage, Pixels
from attnviz.show.figures.heatmap import write_above, write_below, write_caption
from attnviz.show.figures.layout import EDGE, caption_lines, grow, is_strip, label_axis, line, points, wrapped
from attnviz.show.figures.vectors import Array
from attnviz.show.scale.colors import Rgb, hidden, is_dark, mix, reason_colors, reason_tints, weight_ink

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_SQUARES = 64
"""Cells along a side up to which each is outlined and a weight is a square in it; beyond, a weight is a shade."""

_NARROW = 5.0  # inches across of a figure whose legend is below it
_GAP_INCHES, _PAD_INCHES = 0.2, 0.08


def pattern_figure(
    shown: ReasonMap,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    caption: str | None = None,
    width: float | None = None,
    full: float | None = None,
    legend: bool = True,
) -> Axes:
    """Draws which query may see which key, each cell in the color of its reason.

    Weights, where ``shown`` has them, are squares in a lighter cell whose area is the weight; on maps too fine for
    squares the cell is the darker for it, by the square root of the weight (the side of that square).

    Args:
        shown: the reasons.
        ax: the Axes to draw into; None makes a figure of a fitting size.
        title: None says the pattern and, of weights, the head.
        caption, width: as in :func:`attnviz.heatmap`.
        full: the weight that fills a cell; None is the largest shown.
        legend: whether to name the colors, to the right of the Axes.

    Returns:
        The Axes drawn into.
    """
    if ax is None:
        narrow = width is not None and width < _NARROW

        def draw(axes: Sequence[Axes]) -> None:
            inches = max(_width(axes[0]), 4.0 if width is None else 0.0 if narrow else 2.0)
            words = wrapped(_title(shown) if title is None else title, inches, points("axes.titlesize"))
            pattern_figure(shown, axes[0], title="\n".join(words), full=full, legend=legend and not narrow)

        ax = _fitted(shown, 1, draw, None if narrow else caption, width)[0]
        if narrow:
            _write_below(shown, ax, full or shown.most_weight or 1.0, caption)
        return ax
    full = full or shown.most_weight or 1.0
    T, S = len(shown.queries), len(shown.keys)
    extent = (-0.5, S - 0.5, T - 0.5, -0.5)
    aspect: Any = "auto" if is_strip((len(shown.queries), len(shown.keys))) else "equal"
    _ReasonImage(shown, full, ax, extent, aspect)
    if _outlined(shown):
        if shown.weights is not None:
            _squares(shown, ax, full)
        _outline(shown, ax)
    label_axis(ax.xaxis, shown.keys, shown.key_labels)
    label_axis(ax.yaxis, shown.queries, shown.query_labels)
    noun = "key" + (f"   ({cell_words(shown.cell_size)})" if shown.reduced else "")
    ax.set_xlabel("\n".join(wrapped(noun, max(_width(ax), 0.5), points("axes.labelsize"))))
    ax.set_ylabel("query")
    ax.set_title(_title(shown) if title is None else title, parse_math=False)
    if legend:
        names, handles = _counted(shown, full)
        ax.legend(handles, names, loc="upper left", bbox_to_anchor=(1.02, 1.0), **_LEGEND)
    if caption is not None:
        write_caption(ax, caption)
    return ax


def _counted(shown: ReasonMap, full: float) -> tuple[list[str], list[Any]]:
    """A legend's names, with how many pairs each has, and handles."""
    names, handles = _legend([shown], full)
    counts = shown.counts
    return [f"{name}\n{_pairs(counts[name], shown.total)}" if name in counts else name for name in names], handles


def _write_below(shown: ReasonMap, ax: Axes, full: float, caption: str | None) -> None:
    """The legend and the caption below a narrow figure, whose width the map has."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    (names, handles), wide = _counted(shown, full), float(figure.get_figwidth())
    lines = caption_lines(caption, wide)
    words = line("figure.labelsize", len(lines)) + 0.08 if lines else 0.0
    key = 2.75 * line("xtick.labelsize", math.ceil(len(names) / 2)) + 0.05
    grow(figure, below=words + key)
    place = (EDGE / wide, (words + key) / float(figure.get_figheight()))
    figure.legend(
        handles,
        names,
        loc="upper left",
        bbox_to_anchor=place,
        ncols=2,
        columnspacing=1.0,
        fontsize=points("xtick.labelsize"),
        **_LEGEND,
    )
    write_below(figure, lines)


def story_figure(
    maps: Sequence[ReasonMap],
    titles: Sequence[str],
    *,
    title: str | None = None,
    caption: str | None = None,
    width: float | None = None,
) -> Figure:
    """A row of patterns with one legend, each cell in the same color for the same reason in all.

    Args:
        maps: of the same queries and keys.
        titles: one above each.
        title: above the row.
        caption, width: as in :func:`attnviz.heatmap`.
    """
    full = max(shown.most_weight for shown in maps) or 1.0

    def draw(row: Sequence[Axes]) -> None:
        for ax, shown, own in zip(row, maps, titles, strict=True):
            name = f"{own}\n{_pairs(shown.visible, shown.total)}"
            words = wrapped(name, _width(ax), points("axes.titlesize"))
            pattern_figure(shown, ax, title="\n".join(words), full=full, legend=False)
            if ax is not row[0]:
                ax.set_ylabel("")
                ax.tick_params(left=False, labelleft=False)
        names, handles = _legend(maps, full)
        row[-1].legend(handles, names, loc="upper left", bbox_to_anchor=(1.04, 1.0), **_LEGEND)

    figure = _fitted(maps[0], len(maps), draw, caption, width)[0].get_figure(root=True)
    assert figure is not None
    if title is not None:
        lines = wrapped(title, float(figure.get_figwidth()) - 2 * EDGE, points("figure.titlesize"))
        grow(figure, above=line("figure.titlesize", len(lines)) + 0.06)
        write_above(figure, lines)
    return figure


def _width(ax: Axes) -> float:
    """Inches across of Axes."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return float(ax.get_position(original=True).width * figure.get_figwidth())


def _fitted(
    shown: ReasonMap, count: int, draw: Callable[[Sequence[Axes]], None], caption: str | None, width: float | None
) -> list[Axes]:
    """A row of panels with what is drawn in and around them, in a figure that just holds it: ``width`` inches across."""
    figure, row = _panels(shown, count)
    draw(row)
    _fit(figure)
    scale = 1.0
    for _ in range(3 if width is not None else 0):  # letters keep their size, so that panels change more
        assert width is not None
        inside = sum(float(ax.get_window_extent().width) for ax in row) / figure.dpi
        scale *= max((width - float(figure.get_figwidth()) + inside) / inside, 0.1)
        figure, row = _panels(shown, count, scale)
        draw(row)
        _fit(figure)
    if width is not None:
        _widen(figure, width)
    if caption is not None:
        lines = caption_lines(caption, float(figure.get_figwidth()))
        grow(figure, below=line("figure.labelsize", len(lines)) + 0.08)
        write_below(figure, lines)
    return row


def _widen(figure: Figure, width: float) -> None:
    """A figure a hair wider or narrower, with what is in it where it was."""
    before = float(figure.get_figwidth())
    for ax in figure.axes:
        box = ax.get_position(original=True)
        ax.set_position((box.x0 * before / width, box.y0, box.width * before / width, box.height))
    figure.set_figwidth(width)


_LEGEND: dict[str, Any] = {
    "handler_map": {tuple: HandlerTuple(ndivide=1)},
    "frameon": False,
    "borderaxespad": 0,
    "handlelength": 1,
    "labelspacing": 0.8,
}


def most_inches(panels: int) -> float:
    """The longest that a side of one of ``panels`` is laid out."""
    return 6.0 if panels == 1 else 3.0


def _panels(shown: ReasonMap, count: int, scale: float = 1.0) -> tuple[Figure, list[Axes]]:
    """A row of Axes of the size that ``shown`` wants, or ``scale`` times that, with no room for labels yet."""
    T, S, most = len(shown.queries), len(shown.keys), most_inches(count)
    if is_strip((len(shown.queries), len(shown.keys))):
        width, height = (min(max(0.3 * positions, 1.0), most) for positions in (S, T))
    else:
        cell = max(min(0.3 * max(T, S), most), 1.5) / max(T, S)
        width, height = cell * S, cell * T
    width, height = width * scale, height * scale
    each = width + _GAP_INCHES
    figure = Figure(figsize=(count * each, height))
    return figure, [figure.add_axes((n / count, 0, width / each / count, 1)) for n in range(count)]


def _fit(figure: Figure) -> None:
    """Makes just the room that labels and legend take around Axes, which keep their size in inches."""
    # A layout of matplotlib's would not: with square pairs, it gives room where there is some and cuts elsewhere.
    size = figure.get_size_inches()
    taken = figure.get_tightbbox()
    low, high = np.array(taken.min) - _PAD_INCHES, np.array(taken.max) + _PAD_INCHES
    places = [(ax, ax.get_position(original=True)) for ax in figure.axes]
    figure.set_size_inches(*(high - low))
    for ax, box in places:
        x, y = (box.min * size - low) / (high - low)
        width, height = box.size * size / (high - low)
        ax.set_position((x, y, width, height))


def _outlined(shown: ReasonMap) -> bool:
    return max(shown.cells.shape) <= MOST_SQUARES


class _ReasonImage(PixelImage):
    """The color of each cell, without squares.

    Where cells share a pixel, the kind that the fewest cells have stands out, and the largest weight; hidden is a pixel
    whose cells all are.
    """

    def __init__(self, shown: ReasonMap, full: float, ax: Axes, extent: Extent, aspect: Any) -> None:
        self.shown, self.reasons, self.full = shown, shown.reasons, full
        self.weights = None if _outlined(shown) else shown.weights
        self.tinted = shown.weights is not None
        kinds, counts = np.unique(shown.kinds, return_counts=True)
        self.kinds = kinds[np.lexsort((-counts, kinds >= 0))]  # from what gives way to what stands out
        self.places = np.argsort(self.kinds)[np.searchsorted(kinds, shown.kinds)]  # (P, P') indices in it
        super().__init__(ax, self._colors(shown.kinds, self.weights), extent, aspect=aspect)

    def paint(self, pixels: Pixels) -> Array:
        return self._painted(pixels)[0]

    def pieces(self) -> Iterator[Piece]:
        yield Piece(self.places.shape, self._painted, self.get_extent(), names=self._said)

    def _said(self, row: int, column: int) -> str:
        kind, weights = self.kinds[self.places[row, column]], self.shown.weights
        said = f"{pair_said(self.shown, row, column)} {[*self.reasons, SEVERAL, 'not visible'][kind]}"
        weighed = weights is not None and np.isfinite(weights[row, column])
        return f"{said} {number_said(float(weights[row, column]))}" if weighed else said  # type: ignore[index]

    def _painted(self, pixels: Pixels) -> tuple[Array, Array]:
        kinds = self.kinds[pixels.merged(self.places, np.maximum)]
        weights = None if self.weights is None else pixels.merged(self.weights)
        colors = pixels.spread(np.rint(self._colors(kinds, weights) * 255).astype(np.uint8), self.places)
        return np.dstack([colors, np.full(colors.shape[:2], 255, dtype=np.uint8)]), pixels.spread(
            kinds < 0, self.places
        )

    def _colors(self, kinds: Array, weights: Array | None) -> Array:
        """(..., 3), the darker the more weight."""
        names, blank = [*self.reasons, SEVERAL], hidden(dark=_dark())
        colors = reason_tints(names, dark=_dark()) if self.tinted else reason_colors(names, dark=_dark())
        plain = np.array([*colors.values(), blank])[kinds]  # -1 is the last
        if weights is None:
            return plain
        inks = np.array([*_inks(names), blank])[kinds]
        share = np.sqrt(np.clip(np.nan_to_num(weights) / self.full, 0, 1))[..., None]
        shaded: Array = plain + (inks - plain) * share
        return shaded


def _outline(shown: ReasonMap, ax: Axes) -> None:
    """Lines of the page's color between cells."""
    rows, columns = shown.cells.shape
    x = np.linspace(-0.5, len(shown.keys) - 0.5, columns + 1)
    y = np.linspace(-0.5, len(shown.queries) - 0.5, rows + 1)
    lines = [[(at, y[0]), (at, y[-1])] for at in x] + [[(x[0], at), (x[-1], at)] for at in y]
    ax.add_collection(
        LineCollection(
            lines,
            colors=mpl.rcParams["axes.facecolor"],
            linewidths=1.0 if max(rows, columns) <= 32 else 0.5,
            zorder=1.5,
        ),
        autolim=False,
    )


def _squares(shown: ReasonMap, ax: Axes, full: float) -> None:
    assert shown.weights is not None
    colors = _inks([*shown.reasons, SEVERAL])
    (down, across), kinds = shown.cell_size, shown.kinds
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    squares, inks = [], []
    for (row, column), weight in np.ndenumerate(shown.weights):
        if weight > 0:
            center = ((column + 0.5) * across - 0.5, (row + 0.5) * down - 0.5)
            squares.append(center + corners * (across, down) * 0.92 * min(float(weight) / full, 1.0) ** 0.5)
            inks.append(colors[kinds[row, column]])
    ax.add_collection(PolyCollection(squares, facecolors=inks, edgecolors="none"), autolim=False)


def _legend(maps: Sequence[ReasonMap], full: float) -> tuple[list[str], list[Any]]:
    """A swatch for each reason in any of the maps, for what is hidden, and for some weights."""
    weighed = maps[0].weights is not None
    reasons = list(dict.fromkeys(reason for shown in maps for reason in shown.counts if reason != SEVERAL))
    if any(SEVERAL in shown.counts for shown in maps):
        reasons.append(SEVERAL)
    colors = (reason_tints if weighed else reason_colors)(reasons, dark=_dark())
    names = [*reasons, "not visible"]
    handles: list[Any] = [_swatch(color) for color in colors.values()]
    handles.append(_swatch(hidden(dark=_dark())))
    if weighed:
        for share in (1.0, 0.25, 0.0625):
            names.append(f"weight {full * share:.2g}")
            tint, ink = _neutral()
            if _outlined(maps[0]):
                handles.append((_swatch(tint), _swatch(ink, 0.92 * share**0.5)))
            else:
                handles.append(_swatch(mix(tint, ink, share**0.5)))
    return names, handles


def _swatch(color: Rgb, side: float = 1.0) -> Line2D:
    return Line2D([], [], linestyle="", marker="s", markersize=9 * side, color=color, markeredgewidth=0)


def _inks(reasons: Sequence[str]) -> list[Rgb]:
    """What weights are marked with, of each reason."""
    return [weight_ink(color, dark=_dark()) for color in reason_colors(reasons, dark=_dark()).values()]


def _neutral() -> tuple[Rgb, Rgb]:
    """A tint and an ink of no reason, for a legend."""
    return ((0.25,) * 3, (0.95,) * 3) if _dark() else ((0.78,) * 3, (0.1,) * 3)


def _dark() -> bool:
    """Whether the page is."""
    return is_dark(to_rgb(mpl.rcParams["axes.facecolor"]))


def _pairs(count: int, total: int) -> str:
    return f"{count:,} of {total:,} pairs ({_percent(count / total)})"


def _percent(share: float) -> str:
    """With a decimal, or as many digits as it takes to be told from 0."""
    if share >= 0.001 or not share:
        return f"{share:.1%}"
    digits = 1 - math.floor(math.log10(100 * share))
    return f"{100 * share:.{digits}f}%"


def _title(shown: ReasonMap) -> str:
    return shown.name
