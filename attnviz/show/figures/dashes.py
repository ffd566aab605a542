"""Dashes over what is below 0: in gray, a palette that goes both ways from its middle has each shade twice.

A cell has a dash of its own, as a minus, where it has room for one. Smaller ones have lines over the regions that they
make, as what is not visible has stripes; a lone one differs in color alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.path import Path
from matplotlib.transforms import Affine2D, Bbox

from attnviz.show.figures.vectors import APART, REGION, THICK, Array, Picture, inside, opened, runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from attnviz.show.figures.scales import FittedScale

_OWN = 1.5
"""Points both ways of a cell that has a dash of its own."""

_LONG, _LONGEST = 0.5, 5.0  # of the cell, and points
_LEAST_PIXELS = 3  # both ways of a cell that has a dash of its own, and what is beside it
_REGION_PIXELS = 4  # both ways of a region that has lines
DASHES = (0.0, (5.0, 3.0))
"""The style of lines that stand for what is below 0, in points."""

_LIGHT, _DARK = 0.75, 0.6  # how much of a dash is white, on what is dark; and black, on what is light
_MIDDLE = 115  # of 255: what is darker has light dashes


def dashed(colors: Array) -> Array:
    """The colors of dashes over these, (..., RGBA) uint8: lighter than what is dark, darker than what is light."""
    base = colors[..., :3].astype(np.float32)
    dark = _is_dark(colors)[..., None]
    ink = np.where(dark, base + (255 - base) * _LIGHT, base * (1 - _DARK))
    return np.concatenate([np.rint(ink).astype(np.uint8), colors[..., 3:]], axis=-1)


def _is_dark(colors: Array) -> Array:
    found: Array = colors[..., :3] @ np.array([0.299, 0.587, 0.114], dtype=np.float32) < _MIDDLE
    return found


def dash_pixels(painted: Array, below: Array, shape: tuple[int, int], size: tuple[int, int], first: tuple[int, int],
                point: float) -> None:  # fmt: skip
    """Dashes on the pixels that are seen of an image.

    Args:
        painted: the colors of these pixels, (rows, columns, RGBA) uint8.
        below: which of them are of cells below 0.
        shape: rows and columns of the image's cells.
        size: its pixels down and across.
        first: the row and the column of the first pixel that is seen.
        point: how many pixels a point has.
    """
    thick = max(1, round(THICK * point))
    down, across = (
        (np.arange(start, start + seen), pixels, cells)
        for start, seen, pixels, cells in zip(first, below.shape, size, shape, strict=True)
    )
    if min(pixels / cells for pixels, cells in zip(size, shape, strict=True)) >= max(_LEAST_PIXELS, _OWN * point):
        long = max(1, round(min(_LONG * size[1] / shape[1], _LONGEST * point)))
        where = below & _in_middle(*down, thick)[:, None] & _in_middle(*across, long)
    else:
        lines = down[0] % max(_REGION_PIXELS, round(APART * point)) < thick
        on, off = (max(1, round(points * point)) for points in DASHES[1])
        where = opened(below, _REGION_PIXELS, _REGION_PIXELS) & lines[:, None] & (across[0] % (on + off) < on)
    painted[where] = dashed(painted[where])


def _in_middle(at: Array, pixels: int, cells: int, long: int) -> Array:
    """Which pixels are among the ``long`` ones in the middle of their cell."""
    cell = ((2 * at + 1) * cells - 1) // (2 * pixels)
    first = np.floor((cell + 0.5) * pixels / cells - long / 2 + 0.5)
    found: Array = (at >= first) & (at < first + long)
    return found


def draw_dashes(renderer: Any, gc: Any, picture: Picture, clip: Bbox) -> None:
    """Dashes of a map in a PDF or an SVG."""
    if picture.below is None or not picture.below.any():
        return
    down, across = picture.edges
    seen = picture.below & np.outer(inside(down, clip.y0, clip.y1), inside(across, clip.x0, clip.x1))
    tall, wide = abs(down[1] - down[0]), abs(across[1] - across[0])
    own = min(tall, wide) >= _OWN
    if not own:
        seen = opened(seen, *(max(1, math.ceil(REGION / max(side, 1e-6))) for side in (tall, wide)))
        line = np.floor(np.abs(down[:-1] - down[0]) / APART).astype(int)
        seen[1:][line[1:] == line[:-1]] = False  # a line each so many points
    dark = _is_dark(picture.colors)
    for which, ink, share in ((seen & dark, 1.0, _LIGHT), (seen & ~dark, 0.0, _DARK)):
        ends = _own_ends(which, down, across) if own else _run_ends(which, down, across)
        if not len(ends):
            continue
        ours = renderer.new_gc()
        ours.copy_properties(gc)
        ours.set_alpha(share)
        ours.set_linewidth(min(THICK, tall / 3) if own else THICK)
        if not own:
            ours.set_dashes(*DASHES)
        ours.set_foreground((ink, ink, ink, share), isRGBA=True)
        renderer.draw_path(ours, Path(ends.reshape(-1, 2), np.tile([1, 2], len(ends))), Affine2D())
        ours.restore()


def _own_ends(which: Array, down: Array, across: Array) -> Array:
    """The ends of a dash in the middle of each cell: (n, 2, 2)."""
    rows, columns = np.nonzero(which)
    x, y = (across[columns] + across[columns + 1]) / 2, (down[rows] + down[rows + 1]) / 2
    half = min(_LONG * abs(across[1] - across[0]), _LONGEST) / 2
    return np.stack([np.stack([x - half, y], axis=-1), np.stack([x + half, y], axis=-1)], axis=1)


def _run_ends(which: Array, down: Array, across: Array) -> Array:
    """The ends of lines through cells beside each other: (n, 2, 2)."""
    middles = (down[:-1] + down[1:]) / 2
    found = [
        ((across[first], y), (across[stop], y))
        for y, line in zip(middles, which, strict=True)
        if line.any()
        for first, stop in runs(line)
    ]
    return np.array(found, dtype=float).reshape(-1, 2, 2)


def dash_bar(ax: Axes, scale: FittedScale, inches: float, *, lying: bool) -> None:
    """Dashes on the part of a color bar that is below 0, where a map has them: what they mean.

    Args:
        ax: the bar's.
        scale: what it shows.
        inches: how long it is.
        lying: whether it lies.
    """
    if not scale.dashed:
        return
    step = (1.6 * _LONGEST if lying else APART) / 72 / inches
    at = np.arange(step / 2, scale.dashed_until, step)
    colors = dashed(np.asarray(scale.cmap(at, bytes=True))) / 255
    middle = np.full_like(at, 0.5)
    x, y = (at, middle) if lying else (middle, at)
    ax.scatter(x, y, s=(0.8 * _LONGEST) ** 2, c=colors, marker="_", linewidths=THICK, transform=ax.transAxes)
