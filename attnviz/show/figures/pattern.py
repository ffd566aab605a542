"""Figures of patterns: who may see whom, each cell colored by why, with the weights drawn over it where given."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
from attnviz.show.figures.bars import NOT_VISIBLE
from attnviz.show.figures.captions import number_said, pair_said
from attnviz.show.figures.cells import Extent, Painted, Piece, PixelImage, Pixels
from attnviz.show.figures.heatmap import write_above, write_below, write_caption
from attnviz.show.figures.layout import (
    EDGE,
    LINE,
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
    width_of,
    wrapped,
)
from attnviz.show.figures.vectors import Array
from attnviz.show.scale.colors import Rgb, hidden, is_dark, mix, reason_colors, reason_tints, weight_ink

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_SQUARES = 64
"""Cells along a side up to which each is outlined and a weight is a square in it; beyond, a weight is a shade."""

_NARROW = 5.0  # inches across of a figure whose legend is below it
_MOST_STACKED = 1.7  # inches of each of several pictures under each other, which one page holds
_GAP_INCHES, _APART = 0.2, 0.1  # between pictures, and before their legend


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
        return _figure([shown], [title], full=full, legend=legend, caption=caption, width=width)[1][0]
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
    ax.set_xlabel("\n".join(_key_noun(shown, _width(ax))), labelpad=3)
    ax.set_ylabel("query", labelpad=3)
    ax.set_title(_title(shown) if title is None else title, parse_math=False)
    if legend:
        names, handles = _counted(shown, full)
        _write_key(ax, names, handles)
    if caption is not None:
        write_caption(ax, caption)
    return ax


def _counted(shown: ReasonMap, full: float) -> tuple[list[str], list[Any]]:
    """A legend's names, with how many pairs each has, and handles."""
    names, handles = _legend([shown], full)
    counts = shown.counts
    return [f"{name}\n{_pairs(counts[name], shown.total)}" if name in counts else name for name in names], handles


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
    return _figure(maps, titles, full=full, legend=True, caption=caption, width=width, above=title)[0]


def _figure(
    maps: Sequence[ReasonMap],
    titles: Sequence[str | None],
    *,
    full: float | None,
    legend: bool,
    caption: str | None,
    width: float | None,
    above: str | None = None,
) -> tuple[Figure, list[Axes]]:
    """A row of pictures with one legend: beside them, or, in a narrow figure, below pictures that stand under each other."""
    full = full or max(shown.most_weight for shown in maps) or 1.0
    names, handles = _counted(maps[0], full) if len(maps) == 1 else _legend(maps, full)
    room = width if width is not None and width < _NARROW else None
    key = _Key(names if legend else [], room)
    said = [_title(shown) if title is None else title for shown, title in zip(maps, titles, strict=True)]
    if len(maps) > 1:
        said = [f"{name}\n{_pairs(shown.visible, shown.total)}" for name, shown in zip(said, maps, strict=True)]

    def headings(sheet: Sheet) -> list[list[str]]:
        middle = sheet.around.left + sheet.panel[0] / 2
        wide = 2 * (min(middle, sheet.size[0] - middle) - EDGE) if sheet.columns == 1 else sheet.panel[0]
        return [wrapped(text, max(wide, 0.5), points("axes.titlesize")) for text in said]

    def sheet(across: float | None) -> Sheet:
        if across is not None and len(maps) > 1 and key.below:
            across = min(across, _MOST_STACKED)
        found = _sheet(maps[0], len(maps), key, across)
        over = line("axes.titlesize", max(map(len, headings(found)))) + 6 / 72
        return replace(found, around=replace(found.around, above=over))

    found = fitted_to(width, sheet)
    lines = [] if above is None else wrapped(above, found.size[0] - 2 * EDGE, points("figure.titlesize"))
    words = caption_lines(caption, found.size[0])
    found = found.with_room(lines, words)
    figure = Figure(figsize=found.size)
    row = [figure.add_axes((0, 0, 1, 1)) for _ in maps]
    for n, (ax, shown, heading) in enumerate(zip(row, maps, headings(found), strict=True)):
        place(ax, found.box(n), found.size)
        pattern_figure(shown, ax, full=full, legend=False)
        ax.set_title("\n".join(heading), y=1.0, parse_math=False)
        if not found.is_left(n):
            ax.set_ylabel("")
            ax.tick_params(left=False, labelleft=False)
        if not found.is_lowest(n):
            ax.set_xlabel("")
            ax.tick_params(bottom=False, labelbottom=False)
    if key.names and key.below:
        under = line("figure.labelsize", len(words)) + 0.08 if words else 0.0
        at = (EDGE / found.size[0], (EDGE + under + key.inches[1]) / found.size[1])
        figure.legend(
            handles,
            names,
            loc="upper left",
            bbox_to_anchor=at,
            ncols=len(key.columns),
            columnspacing=_BETWEEN,
            fontsize=key.size,
            **_LEGEND,
        )
    elif key.names:
        _write_key(row[-1], names, handles)
    write_above(figure, lines)
    write_below(figure, words)
    return figure, row


def _sheet(shown: ReasonMap, count: int, key: _Key, across: float | None) -> Sheet:
    """Where pictures stand, each so many inches across; None is the size that they want. Without room for titles."""
    wide, tall = _panel_inches(shown, count)
    if across is not None:
        wide, tall = across, tall * across / wide
    keys = ticks_of(shown.keys, shown.key_labels, wide, horizontal=True)
    queries = ticks_of(shown.queries, shown.query_labels, tall, horizontal=False)
    bottom = EDGE + keys.room + 3 / 72 + line("axes.labelsize", len(_key_noun(shown, wide)))
    beside = 0.0 if key.below or not key.names else _APART + key.inches[0]
    deep = key.inches[1] + 0.05 if key.below and key.names else 0.0
    around = Around(
        left=EDGE + line("axes.labelsize") + 3 / 72 + queries.room,
        right=EDGE + max(beside, keys.beyond),
        top=EDGE,
        bottom=max(bottom + deep, key.inches[1] - tall + EDGE if beside else 0.0),
        gap=max(_GAP_INCHES, 2 * keys.beyond),
    )
    return Sheet(count, 1 if key.below else count, (wide, tall), around)


def _width(ax: Axes) -> float:
    """Inches across of Axes."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return float(ax.get_position(original=True).width * figure.get_figwidth())


def _key_noun(shown: ReasonMap, inches: float) -> list[str]:
    """What is below the keys, in lines."""
    noun = "key" + (f"   ({cell_words(shown.cell_size)})" if shown.reduced else "")
    return wrapped(noun, max(inches, 0.5), points("axes.labelsize"))


@dataclass(frozen=True)
class _Key:
    """How large a legend is.

    Args:
        names: of its colors.
        room: inches across of the figure below whose picture it lies; None is beside the picture.
    """

    names: Sequence[str]
    room: float | None

    @property
    def below(self) -> bool:
        return self.room is not None

    @property
    def size(self) -> float:
        """Points of its letters."""
        return points("xtick.labelsize" if self.below else "legend.fontsize")

    @property
    def columns(self) -> list[Sequence[str]]:
        """The names below each other: below a picture in two columns, where they have room beside each other."""
        half = -(-len(self.names) // 2)
        two = [self.names[:half], self.names[half:]]
        beside = sum(map(self._across, two)) + (_BETWEEN + 0.8) * self.size / 72
        return two if self.room is not None and two[1] and beside <= self.room - 2 * EDGE else [self.names]

    @property
    def inches(self) -> tuple[float, float]:
        """Across, with swatches, and down."""
        letters = self.size / 72
        heights = [sum((name.count("\n") + 1) * LINE + 0.8 for name in column) * letters for column in self.columns]
        return self._across(self.names) + 0.9 * letters, 1.06 * max(heights)

    def _across(self, names: Sequence[str]) -> float:
        """Inches of a column, with swatches."""
        return max((width_of(name, self.size) for name in names), default=0.0) + 1.8 * self.size / 72


def _write_key(ax: Axes, names: Sequence[str], handles: Sequence[Any]) -> None:
    """A legend to the right of Axes."""
    ax.legend(handles, names, loc="upper left", bbox_to_anchor=(1 + _APART / max(_width(ax), 0.1), 1.0), **_LEGEND)


_BETWEEN = 1.0  # columns, in heights of a letter
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


def _panel_inches(shown: ReasonMap, count: int) -> tuple[float, float]:
    """Width and height that a picture wants, of ``count`` in a row."""
    T, S, most = len(shown.queries), len(shown.keys), most_inches(count)
    if is_strip((T, S)):
        width, height = (min(max(0.3 * positions, 1.0), most) for positions in (S, T))
        return width, height
    cell = max(min(0.3 * max(T, S), most), 1.5) / max(T, S)
    return cell * S, cell * T


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
        return self._painted(pixels).colors

    def pieces(self) -> Iterator[Piece]:
        yield Piece(self.places.shape, self._painted, self.get_extent(), names=self._said)

    def _said(self, row: int, column: int) -> str:
        kind, weights = self.kinds[self.places[row, column]], self.shown.weights
        said = f"{pair_said(self.shown, row, column)} {[*self.reasons, SEVERAL, NOT_VISIBLE][kind]}"
        weighed = weights is not None and np.isfinite(weights[row, column])
        return f"{said} {number_said(float(weights[row, column]))}" if weighed else said  # type: ignore[index]

    def _painted(self, pixels: Pixels) -> Painted:
        kinds = self.kinds[pixels.merged(self.places, np.maximum)]
        weights = None if self.weights is None else pixels.merged(self.weights)
        colors = pixels.spread(np.rint(self._colors(kinds, weights) * 255).astype(np.uint8), self.places)
        opaque = np.full(colors.shape[:2], 255, dtype=np.uint8)
        return Painted(np.dstack([colors, opaque]), pixels.spread(kinds < 0, self.places))

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
    rows, columns = np.nonzero(np.nan_to_num(shown.weights) > 0)
    centers = np.stack([(columns + 0.5) * across, (rows + 0.5) * down], axis=1) - 0.5
    sides = 0.92 * np.sqrt(np.clip(shown.weights[rows, columns] / full, 0, 1))
    squares = centers[:, None] + sides[:, None, None] * corners * (across, down)  # (n, 4, 2)
    ax.add_collection(
        PolyCollection(squares, facecolors=np.array(colors)[kinds[rows, columns]], edgecolors="none"), autolim=False
    )


def _legend(maps: Sequence[ReasonMap], full: float) -> tuple[list[str], list[Any]]:
    """A swatch for each reason in any of the maps, for what is hidden where something is, and for some weights."""
    weighed = maps[0].weights is not None
    reasons = list(dict.fromkeys(reason for shown in maps for reason in shown.counts if reason != SEVERAL))
    if any(SEVERAL in shown.counts for shown in maps):
        reasons.append(SEVERAL)
    colors = (reason_tints if weighed else reason_colors)(reasons, dark=_dark())
    names = [*reasons]
    handles: list[Any] = [_swatch(color) for color in colors.values()]
    if any(bool((shown.kinds < 0).any()) for shown in maps):
        names.append(NOT_VISIBLE)
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
