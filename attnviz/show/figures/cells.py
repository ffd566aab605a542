"""Cells in the pixels that they get, whatever the size of the Axes is when they are drawn: none is ever lost.

matplotlib's own images take the nearest cell of each pixel, and drop whole rows and columns of a map that has more
cells than its Axes have pixels: a lone bright key vanishes. Here an image is painted as it is drawn, in exactly the
pixels it then has (of a PNG at its dots per inch, of a window that was resized, of the picture that a PDF or an SVG
embeds). Where cells are fewer, each has a pixel or more, by the nearest edge; where they are more, each goes into one
pixel, which shows the one of its cells that stands out most.

In a PDF and an SVG, cells are rectangles where they are few, and pixels of an embedded picture where they are many
(:mod:`attnviz.show.figures.vectors`). A viewer shrinks that picture to the pixels of its screen, and a pixel of a 300th
of an inch is a tenth as bright then. So there, a cell that is drawn has a 96th of an inch at the least: a pixel at 100 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.artist import allow_rasterization
from matplotlib.image import AxesImage
from matplotlib.transforms import Affine2D

from attnviz.show.figures.dashes import dash_pixels, draw_dashes
from attnviz.show.figures.vectors import (
    APART,
    MOST_A_SIDE,
    MOST_OF_A_FIGURE,
    THICK,
    Array,
    Names,
    Picture,
    draw_picture,
    eroded,
    is_vector,
    opened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Extent = tuple[float, float, float, float]  # left, right, bottom, top
Below = Callable[[Array], Array]  # from values to whether they are dashed


_SCREEN = 96.0
"""Dots per inch of a screen at 100 %, as browsers and viewers of PDF count."""


def most_cells(inches: Sequence[float], dpi: float) -> int:
    """The most cells along a side that are worth computing for a panel: as many as its longer side has pixels.

    Labels may leave it fewer when it is drawn, and more cells than pixels are never wrong.

    Args:
        inches: of the panel's sides, as its figure lays it out.
        dpi: dots per inch.
    """
    return max(1, math.ceil(max(inches) * dpi - 1e-6))


@dataclass(frozen=True)
class Pixels:
    """The part that is seen of an image of ``height`` x ``width`` pixels: these rows and columns, the first on top.

    ``point`` is how many pixels a point has.

    >>> bright = np.zeros((1, 5))
    >>> bright[0, 3] = 1
    >>> Pixels(1, 2, range(1), range(2)).paint(bright, lambda cells: cells)  # five cells in two pixels
    array([[0., 1.]])
    """

    height: int
    width: int
    rows: range
    columns: range
    point: float = 1.0

    def merged(self, cells: Array, most: np.ufunc = np.fmax) -> Array:
        """The cells that are seen, and of those that share a pixel the ``most`` of them: (seen rows, seen columns)."""
        down, across = self._shares(cells)
        return across.merged(down.merged(cells, most, 0), most, 1)

    def furthest(self, cells: Array) -> Array:
        """As :meth:`merged`: of cells that share a pixel the one furthest from 0."""
        highest, lowest = self.merged(cells), self.merged(cells, np.fmin)
        return np.where(-lowest > highest, lowest, highest)

    def stands_out(self, cells: Array, *, both_ways: bool) -> Array:
        """What is seen of cells that share a pixel: the largest, or, ``both_ways``, the one furthest from 0."""
        return self.furthest(cells) if both_ways else self.merged(cells)

    def spread(self, merged: Array, cells: Array) -> Array:
        """What :meth:`merged` gave of ``cells``, or colors of it, a value for each pixel."""
        down, across = self._shares(cells)
        return merged[down.index][:, across.index]

    def paint(
        self,
        cells: Array,
        colors: Callable[[Array], Array],
        *,
        both_ways: bool = False,
        hatch: tuple[Array, Array] | None = None,
        below: Below | None = None,
    ) -> Array:
        """A color for each pixel.

        Args:
            cells: (P, P'), NaN where nothing is visible, and so is a pixel that has no other cell.
            colors: from values to colors.
            both_ways: whether the values furthest from 0 stand out, rather than the largest.
            hatch: the colors of stripes and edges over what is not visible, as :func:`hatch_colors` gives them.
            below: which values are dashed; None is none.
        """
        merged = self.stands_out(cells, both_ways=both_ways)
        painted = self.spread(colors(merged), cells)
        blank = np.isnan(merged)
        if hatch is not None and blank.any():
            self._hatch(painted, self.spread(blank, cells), *hatch)
        if below is not None and (low := below(merged)).any():
            size, first = (self.height, self.width), (self.rows.start, self.columns.start)
            dash_pixels(painted, self.spread(low, cells), cells.shape, size, first, self.point)
        return painted

    def _hatch(self, painted: Array, blank: Array, stripe: Array, edge: Array) -> None:
        """Stripes over regions of blank pixels, and an edge where they end; on blank pixels alone."""
        region = opened(blank, _REGION, _REGION)
        apart, thick = (max(least, round(points * self.point)) for points, least in ((APART, 4), (THICK, 1)))
        line = np.arange(self.columns.start, self.columns.stop + apart - 1) % apart < thick
        # Each row is the one above, moved by 1.
        shifted = np.lib.stride_tricks.sliding_window_view(line, len(self.columns))
        painted[region & shifted[np.arange(self.rows.start, self.rows.stop) % apart]] = stripe
        inside = eroded(blank, 2 * thick + 1, 2 * thick + 1, inside=True)
        painted[region & ~inside] = edge

    def _shares(self, cells: Array) -> tuple[_Share, _Share]:
        rows, columns = cells.shape
        return _share(rows, self.height, self.rows), _share(columns, self.width, self.columns)


_REGION = 4
"""Pixels both ways that a hatched region has; what is smaller differs in color alone."""


def hatch_colors(blank: Any) -> tuple[Array, Array]:
    """Colors of stripes and of edges over the color of what is not visible: RGBA, 0 to 255."""
    base = np.asarray(blank[:3], dtype=np.float64)
    ink = 1.0 if base.mean() < 0.5 else 0.0
    stripe, edge = (np.append(base + (ink - base) * share, 1.0) for share in (0.13, 0.4))
    return np.rint(stripe * 255).astype(np.uint8), np.rint(edge * 255).astype(np.uint8)


@dataclass(frozen=True)
class _Share:
    """Which cells of an axis are seen, and where.

    Args:
        starts, stop: groups of cells that share a pixel: the first of each, and the one after the last.
        index: the group of each pixel that is seen.
    """

    starts: Array
    stop: int
    index: Array

    def merged(self, cells: Array, most: np.ufunc, axis: int) -> Array:
        first = int(self.starts[0])
        seen = cells[first : self.stop] if axis == 0 else cells[:, first : self.stop]
        if seen.shape[axis] == len(self.starts):
            return seen
        found: Array = most.reduceat(seen, self.starts - first, axis=axis)
        return found


def _share(cells: int, pixels: int, seen: range) -> _Share:
    """``cells`` in ``pixels``, of which a part is seen: edges are rounded to the nearest, in whole numbers."""
    groups = min(cells, pixels)
    # The group at each pixel's middle; on an edge the one before, as matplotlib has it, whose lines lie after the edge.
    at = ((2 * np.arange(seen.start, seen.stop) + 1) * groups - 1) // (2 * pixels)
    edges = np.arange(at[0], at[-1] + 2)
    firsts = (2 * edges * cells + groups - 1) // (2 * groups)  # the first cell whose middle is in the group
    return _Share(firsts[:-1], int(firsts[-1]), at - at[0])


class Painted(NamedTuple):
    """Of each pixel: its color, whether it is not visible, and whether it is dashed, where any may be."""

    colors: Array
    blank: Array
    below: Array | None = None


@dataclass(frozen=True)
class Piece:
    """A map of an image, as a PDF or an SVG asks for it.

    Args:
        shape: rows and columns of its cells.
        paint: what its pixels are.
        extent: left, right, bottom and top in the Axes' coordinates.
        hatch: the colors of stripes and edges over what is not visible.
        names: what a cell says of itself, by row and column.
    """

    shape: tuple[int, ...]
    paint: Callable[[Pixels], Painted]
    extent: Extent
    hatch: tuple[Array, Array] | None = None
    names: Names | None = None

    def picture(self, left: float, top: float, right: float, bottom: float) -> Picture:
        """Between these points of a page, in as many cells as a screen shows."""
        sides = (abs(bottom - top), abs(right - left))
        height, width = (
            min(count, max(1, int(side * _SCREEN / 72 + 1e-6))) for count, side in zip(self.shape, sides, strict=True)
        )
        colors, blank, below = self.paint(Pixels(height, width, range(height), range(width)))
        names = self.names if (height, width) == self.shape else None
        return Picture(left, top, right, bottom, colors, blank, self.hatch, names, below)


class PixelImage(AxesImage):
    """An image that is painted when it is drawn, in exactly the pixels it then has.

    Args:
        ax: the Axes; :meth:`add` puts it there.
        cells: what :meth:`get_array` gives.
        extent: left, right, bottom and top in the Axes' coordinates; None is half a cell around their indices.
        aspect: of the Axes.
        colors: ``norm``, ``cmap`` and ``alpha``, as of matplotlib's images.
    """

    def __init__(
        self, ax: Axes, cells: Array, extent: Extent | None = None, *, aspect: Any = "auto", **colors: Any
    ) -> None:
        super().__init__(ax, extent=extent, origin="upper", interpolation="nearest", **colors)
        self.set_data(cells)
        ax.set_aspect(aspect)
        self.set_clip_path(ax.patch)
        self.set_extent(self.get_extent())
        ax.add_image(self)

    def paint(self, pixels: Pixels) -> Array:
        """The colors of the pixels that are seen, (rows, columns, RGBA) uint8, the first row on top."""
        raise NotImplementedError

    def pieces(self) -> Iterator[Piece]:
        """What a PDF or an SVG holds: the maps that this is made of."""
        raise NotImplementedError

    @allow_rasterization  # type: ignore[untyped-decorator]
    def draw(self, renderer: Any) -> None:
        transform = self.get_transform()
        if not is_vector(renderer) or not self.get_visible() or not transform.is_affine:
            super().draw(renderer)
            return
        gc = renderer.new_gc()
        self._set_gc_clip(gc)  # type: ignore[attr-defined]  # as every artist of matplotlib does
        clip = self.get_clip_box() or self.axes.bbox
        renderer.open_group("cells", self.get_gid())
        few = self._few()
        for piece in self.pieces():
            left, right, bottom, top = piece.extent
            (x0, y0), (x1, y1) = transform.transform([(left, top), (right, bottom)])
            rectangles = few and max(piece.shape) <= MOST_A_SIDE
            picture = piece.picture(x0, y0, x1, y1)
            draw_picture(renderer, gc, picture, clip, rectangles=rectangles)
            draw_dashes(renderer, gc, picture, clip)
        renderer.close_group("cells")
        gc.restore()
        self.stale = False

    def _few(self) -> bool:
        """Whether the cells of the figure's small maps are few enough to be rectangles."""
        figure = self.get_figure(root=True)
        assert figure is not None
        images = [image for ax in figure.axes for image in ax.images if isinstance(image, PixelImage)]
        shapes = [piece.shape for image in images for piece in image.pieces() if max(piece.shape) <= MOST_A_SIDE]
        return sum(map(math.prod, shapes)) <= MOST_OF_A_FIGURE

    def can_composite(self) -> bool:
        """Whether a PDF or an SVG may merge this with other images: merged, it would be moved to whole points."""
        return False

    def make_image(self, renderer: Any, magnification: float = 1.0, unsampled: bool = False) -> Any:
        """What matplotlib draws: RGBA from the lowest row of pixels up, and where it begins."""
        transform = self.get_transform()
        if unsampled or not transform.is_affine:  # interpolation="none", or Axes that are not linear
            return super().make_image(renderer, magnification, unsampled)
        left, right, bottom, top = self.get_extent()
        ends = transform.transform([(left, top), (right, bottom)]) * magnification  # of the first cell, of the last
        clip = np.asarray((self.get_clip_box() or self.axes.bbox).get_points()) * magnification
        across = _Span.of(*ends[:, 0], *clip[:, 0], nudge=1e-8)
        down = _Span.of(*ends[:, 1], *clip[:, 1], nudge=-1e-8)
        if not across.seen or not down.seen:
            return None, 0, 0, None
        figure = self.get_figure(root=True)
        point = magnification * (figure.dpi if figure is not None else 72.0) / 72
        colors = self.paint(Pixels(down.size, across.size, down.seen, across.seen, point))
        colors = colors[:: -1 if down.turned else 1, :: -1 if across.turned else 1]
        return np.ascontiguousarray(colors), across.start / magnification, down.start / magnification, Affine2D()


@dataclass(frozen=True)
class _Span:
    """Where an image lies along an axis of the screen: whole pixels.

    Args:
        size: pixels of the whole image.
        seen: which of them are, counted from the first cell on.
        start: the lowest pixel that is seen, on the screen.
        turned: whether the last cell has the lowest pixel.
    """

    size: int
    seen: range
    start: int
    turned: bool

    @classmethod
    def of(cls, first: float, last: float, low: float, high: float, *, nudge: float) -> _Span:
        """From ``first`` to ``last`` on the screen, clipped to ``low`` to ``high``.

        Halves of pixels are rounded as matplotlib rounds them: ``nudge`` is above 0 for half up, below for half down.
        """

        def whole(at: float) -> int:
            return math.floor(at + 0.5 + nudge) if nudge > 0 else math.ceil(at - 0.5 + nudge)

        begin, end = whole(min(first, last)), whole(max(first, last))
        end = max(end, begin + 1)  # thinner than a pixel is no reason to vanish
        start, stop = max(begin, whole(low)), min(end, whole(high))
        turned = bool(first > last)
        seen = range(end - stop, end - start) if turned else range(start - begin, stop - begin)
        return cls(end - begin, seen, start, turned)


class CellImage(PixelImage):
    """A map's cells: where several share a pixel, it shows the largest, and is blank where all of them are.

    Args:
        ax, cells, extent, aspect, colors: as in :class:`PixelImage`; blank cells are masked or NaN.
        both_ways: whether the values furthest from 0 stand out, rather than the largest.
        hatch: whether regions that are not visible are hatched.
        names: what a cell says of itself in an SVG, by row and column.
        below: which values are dashed, as those below 0 are where colors in gray don't tell the sign; None is none.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure(figsize=(1, 1), dpi=100).add_axes((0, 0, 1, 1))
    >>> image = CellImage(ax, np.eye(1000)[::-1])
    >>> colors, *_ = image.make_image(None)
    >>> colors.shape, [np.unique(row, axis=0).shape[0] for row in colors[:2]]  # two colors in each row of pixels
    ((100, 100, 4), [2, 2])
    """

    def __init__(
        self,
        ax: Axes,
        cells: Array,
        extent: Extent | None = None,
        *,
        aspect: Any = "auto",
        both_ways: bool = False,
        hatch: bool = False,
        names: Names | None = None,
        below: Below | None = None,
        **colors: Any,
    ) -> None:
        super().__init__(ax, cells, extent, aspect=aspect, **colors)
        self.both_ways, self.hatch, self.names, self.below = both_ways, hatch, names, below
        self.autoscale_None()

    def paint(self, pixels: Pixels) -> Array:
        return self._painted(pixels, self._hatch, self.below)

    def pieces(self) -> Iterator[Piece]:
        cells = self._cells

        def paint(pixels: Pixels) -> Painted:
            merged = pixels.stands_out(cells, both_ways=self.both_ways)
            low = None if self.below is None else pixels.spread(self.below(merged), cells)
            return Painted(self._painted(pixels), pixels.spread(np.isnan(merged), cells), low)

        yield Piece(cells.shape, paint, self.get_extent(), self._hatch, self.names)

    @property
    def _cells(self) -> Array:
        shown = self.get_array()
        assert shown is not None
        return np.ma.filled(shown.astype(np.result_type(shown.dtype, np.float32), copy=False), np.nan)

    @property
    def _hatch(self) -> tuple[Array, Array] | None:
        return hatch_colors(self.cmap.get_bad()) if self.hatch else None

    def _painted(self, pixels: Pixels, hatch: tuple[Array, Array] | None = None, below: Below | None = None) -> Array:
        alpha: Any = self.get_alpha()
        if np.ndim(alpha):  # of each cell
            alpha = pixels.merged(np.asarray(alpha))

        def colors(merged: Array) -> Array:
            found: Array = self.to_rgba(np.ma.masked_invalid(merged, copy=False), alpha=alpha, bytes=True)
            return found

        return pixels.paint(self._cells, colors, both_ways=self.both_ways, hatch=hatch, below=below)
