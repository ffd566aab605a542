"""Cells in a PDF or an SVG: a rectangle each where they are few, one pixel of an embedded picture each where they are many.

Viewers smooth such a picture, so that a lone cell fades: there, cells that stand out are drawn as rectangles over it.

In an SVG a rectangle says what it is: ``it → tired 0.61`` is shown where the mouse rests on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.backends.backend_mixed import MixedModeRenderer
from matplotlib.collections import PatchCollection
from matplotlib.path import Path
from matplotlib.transforms import Affine2D, Bbox, TransformedPath

from attnviz.base.words import printable

Array = np.ndarray[Any, np.dtype[Any]]
Names = Callable[[int, int], str]

MOST_A_SIDE = 64
"""Cells along a side of a map that are rectangles; more are pixels of a picture."""

MOST_OF_A_FIGURE = 32 * MOST_A_SIDE**2
"""Rectangles of a figure: more would make a file that no browser opens, and all are pixels."""

_MOST_LONE = 2048  # cells of a picture that are drawn as rectangles too
_LEAST_LONE = 1.0  # points a side of such a rectangle: to 150 dots per inch, a pixel has its full color
_STANDS_OUT = 48.0  # steps of gray, of 255
_UNDER = 0.75  # points that a rectangle reaches under the next: no seam shows the page, to 96 dots per inch
REGION = 2.5
"""Points both ways that a hatched region has."""

APART, THICK = 3.6, 0.5
"""Points from stripe to stripe, and across one."""


@dataclass(frozen=True)
class Picture:
    """The cells of one map, in their place.

    Args:
        left, top, right, bottom: points from the figure's lower left corner, of the first and of the last cell's ends.
        colors: (P, P', RGBA) uint8, the first row on top.
        blank: (P, P'), which are not visible.
        hatch: the colors of stripes and edges over what is not visible, RGBA uint8; None is no hatch.
        below: (P, P'), which are dashed; None is none.
        names: what a rectangle says of itself, by row and column; None is nothing.
    """

    left: float
    top: float
    right: float
    bottom: float
    colors: Array
    blank: Array
    hatch: tuple[Array, Array] | None = None
    names: Names | None = None
    below: Array | None = None

    @property
    def edges(self) -> tuple[Array, Array]:
        """Where rows and columns begin and end: (P + 1,) and (P' + 1,)."""
        rows, columns, _ = self.colors.shape
        return np.linspace(self.top, self.bottom, rows + 1), np.linspace(self.left, self.right, columns + 1)


def is_vector(renderer: Any) -> bool:
    """Whether what is drawn goes into a PDF, an SVG or PostScript, whose units are points."""
    there = isinstance(renderer, MixedModeRenderer)
    return there and renderer.option_scale_image() and renderer.points_to_pixels(1.0) == 1.0


def draw_picture(renderer: Any, gc: Any, picture: Picture, clip: Bbox, *, rectangles: bool) -> None:
    """Draws a map's cells into a vector file; outside of ``clip`` nothing of them."""
    if rectangles and hasattr(renderer, "writer"):
        draw_rectangles(renderer, gc, *_rectangles(picture, clip))
    elif rectangles:
        draw_rectangles(renderer, gc, *_runs_of_colors(picture, clip))
    else:
        _draw_pixels(renderer, gc, picture)
    if picture.hatch is not None and picture.blank.any():
        _draw_hatch(renderer, gc, picture, clip)
    if not rectangles:  # over the lines around what is not visible, which are wider than a cell
        _draw_lone(renderer, gc, picture, clip)


def draw_rectangles(
    renderer: Any, gc: Any, boxes: Array, colors: Array, names: Iterable[str | None] | None = None
) -> None:
    """Draws rectangles.

    Args:
        renderer, gc: of matplotlib.
        boxes: (n, 4): left, bottom, right and top, in points.
        colors: (n, RGBA) uint8.
        names: what each says of itself in an SVG.
    """
    said = [None] * len(boxes) if names is None else list(names)
    writer = getattr(renderer, "writer", None)  # of an SVG
    gc.set_linewidth(0)
    gc.set_alpha(None)
    square = Path.unit_rectangle()
    for (left, bottom, right, top), color, name in zip(boxes.tolist(), colors.tolist(), said, strict=True):
        if writer is None:
            place = Affine2D.from_values(right - left, 0, 0, top - bottom, left, bottom)
            renderer.draw_path(gc, square, place, tuple(channel / 255 for channel in color))
            continue
        fill = "#" + bytes(color[:3]).hex()
        seen = {} if color[3] == 255 else {"fill-opacity": f"{color[3] / 255:.3g}"}
        places = (left, renderer.height - top, right - left, top - bottom)
        sides = dict(zip(("x", "y", "width", "height"), (f"{place:.6g}" for place in places), strict=True))
        if name is None:
            writer.element("rect", attrib={**sides, "fill": fill, **seen})
            continue
        writer.start("rect", attrib={**sides, "fill": fill, **seen})
        writer.element("title", text=printable(name))
        writer.end("rect")


def _rectangles(picture: Picture, clip: Bbox, which: Array | None = None) -> tuple[Array, Array, list[str] | None]:
    """A map's cells as :func:`draw_rectangles` takes them, row by row: all, or ``which`` of them by themselves."""
    down, across = picture.edges
    under = which is None and bool((picture.colors[..., 3] == 255).all())  # what is seen through ends where it ends
    starts_x, ends_x = _reaching(across, clip.x0, clip.x1, under=under)
    starts_y, ends_y = _reaching(down, clip.y0, clip.y1, under=under)
    rows, columns = np.meshgrid(range(len(starts_y)), range(len(starts_x)), indexing="ij")
    x = np.stack([starts_x, ends_x])[:, columns.ravel()]
    y = np.stack([starts_y, ends_y])[:, rows.ravel()]
    boxes = np.stack([x.min(0), y.min(0), x.max(0), y.max(0)], axis=1)
    seen = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    seen &= True if which is None else which.ravel()
    places = zip(rows.ravel()[seen].tolist(), columns.ravel()[seen].tolist(), strict=True)
    names = None if picture.names is None else [picture.names(*place) for place in places]
    return boxes[seen], picture.colors.reshape(-1, 4)[seen], names


def _runs_of_colors(picture: Picture, clip: Bbox) -> tuple[Array, Array]:
    """As :func:`_rectangles`, where nothing tells cells of one color apart: those beside each other are one."""
    boxes, colors, names = _rectangles(replace(picture, names=None), clip)
    assert names is None
    if not len(boxes):
        return boxes, colors
    first = np.ones(len(boxes), dtype=bool)
    first[1:] = (colors[1:] != colors[:-1]).any(axis=1) | (boxes[1:, [1, 3]] != boxes[:-1, [1, 3]]).any(axis=1)
    starts = np.flatnonzero(first)
    left, right = (most.reduceat(boxes[:, n], starts) for most, n in ((np.minimum, 0), (np.maximum, 2)))
    return np.stack([left, boxes[starts, 1], right, boxes[starts, 3]], axis=1), colors[starts]


def _reaching(edges: Array, low: float, high: float, *, under: bool) -> tuple[Array, Array]:
    """Where cells begin and end, each reaching a little ``under`` the next, which is drawn over it.

    Args:
        edges: (n + 1,), up or down.
        low, high: beyond which there is nothing.
    """
    ends = edges[1:].copy()
    if under:
        step = (edges[-1] - edges[0]) / len(ends)
        ends[:-1] += np.sign(step) * min(_UNDER, abs(step) / 2)
    return np.clip(edges[:-1], low, high), np.clip(ends, low, high)


def _lone(colors: Array) -> Array:
    """Which cells stand out from those around them: (P, P')."""
    gray = colors[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    rows, columns = gray.shape
    padded = np.pad(gray, 1, mode="edge")
    around = np.median([padded[y : y + rows, x : x + columns] for y in range(3) for x in range(3)], axis=0)
    found: Array = abs(gray - around) > _STANDS_OUT
    return found


def _draw_pixels(renderer: Any, gc: Any, picture: Picture) -> None:
    """Draws a map as an embedded picture, a pixel a cell."""
    colors = picture.colors if picture.top < picture.bottom else picture.colors[::-1]  # from the lowest row up
    colors = colors if picture.left < picture.right else colors[:, ::-1]
    left, bottom = min(picture.left, picture.right), min(picture.top, picture.bottom)
    place = Affine2D().scale(abs(picture.right - picture.left), abs(picture.top - picture.bottom))
    gc.set_alpha(1.0)
    renderer.draw_image(gc, left, bottom, np.ascontiguousarray(colors), place)


def _draw_lone(renderer: Any, gc: Any, picture: Picture, clip: Bbox) -> None:
    """Draws the cells that stand out as rectangles, which no viewer dims, whatever it makes of pictures."""
    lone = _lone(picture.colors)
    if 0 < lone.sum() <= _MOST_LONE:
        boxes, colors, _ = _rectangles(replace(picture, names=None), clip, lone)
        more = np.clip((_LEAST_LONE - (boxes[:, 2:] - boxes[:, :2])) / 2, 0, None)
        draw_rectangles(renderer, gc, boxes + np.hstack([-more, more]), colors)


def _draw_hatch(renderer: Any, gc: Any, picture: Picture, clip: Bbox) -> None:
    """Stripes over regions that are not visible, and a line where they end; lone cells differ in color alone."""
    assert picture.hatch is not None
    stripe, edge = picture.hatch
    down, across = picture.edges
    sides = [max(1, math.ceil(REGION / max(abs(edges[1] - edges[0]), 1e-6))) for edges in (down, across)]
    region = opened(picture.blank, *sides)
    region = region & np.outer(inside(down, clip.y0, clip.y1), inside(across, clip.x0, clip.x1))
    if not region.any():
        return
    boxes = [
        (across[first], down[row], across[stop], down[row + 1])
        for row, line in enumerate(region)
        for first, stop in runs(line)
    ]
    x, y = np.array(boxes)[:, [0, 2, 2, 0, 0]], np.array(boxes)[:, [1, 1, 3, 3, 1]]
    where = Path(np.stack([x, y], axis=-1).reshape(-1, 2), np.tile([1, 2, 2, 2, 79], len(boxes)))
    own = renderer.new_gc()
    own.copy_properties(gc)
    own.set_alpha(None)
    own.set_clip_path(TransformedPath(where, Affine2D()))
    own.set_linewidth(THICK)
    own.set_foreground(tuple(stripe / 255))
    renderer.draw_path(own, _stripes(where.get_extents()), Affine2D())
    own.set_linewidth(2 * THICK)  # half of it lies outside, where cells are, and is cut off
    own.set_foreground(tuple(edge / 255))
    own.set_capstyle("projecting")
    renderer.draw_path(own, _border(region, down, across), Affine2D())
    own.restore()


def inside(edges: Array, low: float, high: float) -> Array:
    """Which rows or columns between these edges have their middles between two ends."""
    middles = (edges[1:] + edges[:-1]) / 2
    return (middles > low) & (middles < high)


def runs(line: Array) -> list[tuple[int, int]]:
    """The first of each run of True, and the one after its last."""
    change = np.diff(np.pad(line, 1).astype(np.int8))
    return list(zip(np.flatnonzero(change == 1).tolist(), np.flatnonzero(change == -1).tolist(), strict=True))


def _stripes(box: Bbox) -> Path:
    """Lines from the lower left up, over a box."""
    first, last = math.floor((box.y0 - box.x1) / APART), math.ceil((box.y1 - box.x0) / APART)
    at = np.arange(first, last + 1) * APART
    ends = np.stack([np.stack([np.full_like(at, x), at + x], axis=1) for x in (box.x0, box.x1)], axis=1)
    return Path(ends.reshape(-1, 2), np.tile([1, 2], len(at)))


def _border(region: Array, down: Array, across: Array) -> Path:
    """The border of a region within its map."""
    level = [
        ((across[first], down[row + 1]), (across[stop], down[row + 1]))
        for row, line in enumerate(region[1:] != region[:-1])
        for first, stop in runs(line)
    ]
    upright = [
        ((across[column + 1], down[first]), (across[column + 1], down[stop]))
        for column, line in enumerate((region[:, 1:] != region[:, :-1]).T)
        for first, stop in runs(line)
    ]
    ends = np.array([*level, *upright], dtype=float).reshape(-1, 2)
    return Path(ends, np.tile([1, 2], len(ends) // 2))


def eroded(mask: Array, rows: int, columns: int, *, inside: bool) -> Array:
    """Where a rectangle of so many cells lies in ``mask``: around its middle; beyond the map as ``inside`` says."""
    for size in (rows, columns):  # down, then across
        before = size // 2
        padded = np.pad(mask, ((before, size - 1 - before), (0, 0)), constant_values=inside)
        found = padded[: len(mask)].copy()
        for first in range(1, size):
            found &= padded[first : first + len(mask)]
        mask = found.T
    return mask


def opened(mask: Array, rows: int, columns: int) -> Array:
    """The part of ``mask`` that rectangles of so many cells within it cover."""
    shrunk = ~eroded(mask, rows, columns, inside=False)[::-1, ::-1]
    return ~eroded(shrunk, rows, columns, inside=True)[::-1, ::-1]


class Words(PatchCollection):
    """Rectangles that say in an SVG what they are, as cells do.

    Args:
        patches: rectangles.
        names: of each.
        how: as of matplotlib's collections.
    """

    def __init__(self, patches: Sequence[Any], names: Sequence[str], **how: Any) -> None:
        super().__init__(patches, **how)
        self.names = names

    def draw(self, renderer: Any) -> None:
        if not is_vector(renderer) or not self.get_visible():
            super().draw(renderer)
            return
        gc = renderer.new_gc()
        to_points = self.get_transform()
        boxes = [to_points.transform_path(path).get_extents().extents for path in self.get_paths()]
        colors = np.rint(np.asarray(self.get_facecolor()) * 255).astype(np.uint8)
        renderer.open_group("cells")
        draw_rectangles(renderer, gc, np.array(boxes), np.broadcast_to(colors, (len(boxes), 4)), self.names)
        renderer.close_group("cells")
        gc.restore()
        self.stale = False
