"""What one token of a vision model sees, laid over the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

import matplotlib as mpl
import numpy as np
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure

from attnviz.base.labels import position_said
from attnviz.base.words import in_place
from attnviz.maps.map import place_of
from attnviz.show.figures.bars import Bar, without_ticks
from attnviz.show.figures.captions import cell_said, number_said
from attnviz.show.figures.cells import CellImage
from attnviz.show.figures.heatmap import panel_names, write_above, write_below, write_title
from attnviz.show.figures.layout import (
    EDGE,
    Around,
    Sheet,
    caption_lines,
    fitted_to,
    line,
    place,
    points,
    wrapped,
)
from attnviz.show.figures.scales import ColorScale, FittedScale, ScaleOptions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

    from attnviz.maps.map import AttentionMap
    from attnviz.show.figures.vectors import Names

Picture = np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]
_PANEL, _GAP = 1.7, 0.1  # inches of a picture's longer side, and between two
_LEAST_BAR = 0.9  # inches of a color bar
_PICTURE = 0.55  # of a picture's contrast, beneath weights
Patches = np.ndarray[tuple[int, int], np.dtype[np.floating[Any]]]


def overlay(
    picture: Picture,
    weights: Patches,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    scale: FittedScale | None = None,
    names: Names | None = None,
    **colors: Unpack[ScaleOptions],
) -> Axes:
    """Draws a picture in gray under the weights of its patches: the more weight, the less of the picture shows.

    Args:
        picture: as the model saw it, (height, width, 3) uint8.
        weights: a weight for each patch, (rows, columns).
        ax: the Axes to draw into; None makes a figure.
        title: above the picture.
        scale: a color scale that several share; None makes one of ``colors``.
        names: what a patch says of itself in an SVG, by row and column; None is its weight.
        colors: the fields of :class:`~attnviz.show.figures.scales.ColorScale`.

    Returns:
        The Axes drawn into.
    """
    if ax is None:
        ax = Figure(figsize=(4, 4), layout="constrained").add_subplot()
    height, width, _ = picture.shape
    scale = ColorScale(**colors).fit_cells([weights], "weights") if scale is None else scale
    cells = scale.cells(weights)
    ax.imshow(faded(picture), extent=(0, width, height, 0))
    opacity = _opacity(np.clip(np.ma.filled(scale.norm(cells), 0), 0, 1))
    CellImage(
        ax,
        cells,
        (0, width, height, 0),
        aspect="equal",
        cmap=scale.cmap,
        norm=scale.norm,
        alpha=opacity,
        below=scale.below,
        names=names or (lambda row, column: f"patch {row}, {column}: {number_said(float(weights[row, column]))}"),
    )
    without_ticks(ax)
    if title is not None:
        ax.set_title(title)
    return ax


def faded(picture: Picture) -> Picture:
    """A picture in grays near the page, so that weights stand out from it."""
    page, gray = np.array(to_rgb(mpl.rcParams["axes.facecolor"])), picture.mean(axis=2, keepdims=True) / 255
    found: Picture = np.rint(255 * (page + (gray - page) * _PICTURE)).astype(np.uint8)
    return found


def _as_drawn(scale: FittedScale, picture: Picture) -> Colormap:
    """The palette as it is seen over the mean of a picture: over a blank page, what each weight has."""
    shares = np.linspace(0, 1, 256)
    cover = _opacity(shares)[:, None]
    under = faded(picture).mean(axis=(0, 1)) / 255
    return ListedColormap(scale.cmap(shares)[:, :3] * cover + under * (1 - cover))


def _opacity(shares: Patches) -> Patches:
    """How much of the picture the weights cover, by their shares of the scale."""
    return 0.1 + 0.85 * shares


def overlays(
    picture: Picture,
    maps: Sequence[AttentionMap],
    patches: tuple[int, int],
    *,
    told: str | None = None,
    titles: Sequence[str] | None = None,
    title: str | None = None,
    caption: str | None = None,
    width: float | None = None,
    **colors: Unpack[ScaleOptions],
) -> Figure:
    """Small multiples of :func:`overlay`, a head each, with one color scale.

    Args:
        picture, colors: as in :func:`overlay`.
        maps: one query's weights of each head, (1, rows * columns) cells, or laid out already.
        patches: rows and columns of patches.
        told: whose weights these are; None is the first map's query.
        titles: above each picture; None is its head.
        title: above the grid; None is what ``told`` says.
        caption, width: as in :func:`attnviz.heatmap`.
    """
    columns = min(len(maps), 6, math.ceil(math.sqrt(len(maps)) * 1.2))
    figure, scale = Figure(figsize=(6, 6)), ColorScale(**colors).fit(maps)
    bar = Bar(figure, scale, blank=False, cmap=_as_drawn(scale, picture))
    tall, wide, _ = picture.shape
    title = _title(maps, told) if title is None else title

    def sheet(across: float | None) -> Sheet:
        each = min(_PANEL, _PANEL * wide / tall) if across is None else across
        panel = each, each * tall / wide
        around = Around(EDGE, EDGE, EDGE, EDGE, above=line("axes.titlesize") + 4 / 72, gap=_GAP)
        found = Sheet(len(maps), columns, panel, around)
        high = max(found.inner[1] - around.above, _LEAST_BAR)
        right, bottom = bar.room(high) + EDGE, EDGE + high - (found.inner[1] - around.above) + 0.05
        return replace(found, around=replace(around, right=right, bottom=bottom))

    found = fitted_to(width, sheet)
    above = wrapped(title, found.size[0] - 2 * EDGE, points("figure.titlesize"))
    said = caption_lines(caption, found.size[0])
    found = found.with_room(above, said)
    figure.set_size_inches(found.size)
    names = panel_names(found, [shown.heads_name for shown in maps], [f"{shown.head}" for shown in maps])
    for n, shown in enumerate(maps):
        ax = figure.add_axes((0, 0, 1, 1), label=f"panel {n}")
        place(ax, found.box(n), found.size)
        overlay(picture, shown.cells.reshape(patches), ax, scale=scale, names=partial(_patch, shown, patches))
        write_title(ax, found, n, names[n] if titles is None else titles[n])
    upper = found.box(0)
    inside = found.inner[1] - found.around.above
    high = max(inside, _LEAST_BAR)
    bar.beside(found.around.left + found.inner[0], upper[1] + upper[3] - high, high)
    write_above(figure, above)
    write_below(figure, said)
    return figure


def _title(maps: Sequence[AttentionMap], told: str | None) -> str:
    first = maps[0]
    query = position_said("query", first.queries[0], None if first.query_labels is None else first.query_labels[0])
    return in_place(told or f"what {query} sees", *place_of(maps))


def _patch(shown: AttentionMap, patches: tuple[int, int], row: int, column: int) -> str:
    if shown.cells.shape == (1, patches[0] * patches[1]):
        return cell_said(shown, 0, row * patches[1] + column)
    return f"patch {row},{column} {number_said(float(shown.cells.reshape(patches)[row, column]))}"
