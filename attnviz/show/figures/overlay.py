"""What one token of a vision model sees, laid over the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from attnviz.base.labels import one_line
from attnviz.base.words import in_place
from attnviz.maps.map import place_of
from attnviz.show.figures.cells import CellImage
from attnviz.show.figures.heatmap import write_caption
from attnviz.show.figures.scales import ColorScale, FittedScale, ScaleOptions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from attnviz.maps.map import AttentionMap

Picture = np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]
Patches = np.ndarray[tuple[int, int], np.dtype[np.floating[Any]]]


def overlay(
    picture: Picture,
    weights: Patches,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    scale: FittedScale | None = None,
    **colors: Unpack[ScaleOptions],
) -> Axes:
    """Draws a picture in gray under the weights of its patches: the more weight, the less of the picture shows.

    Args:
        picture: as the model saw it, (height, width, 3) uint8.
        weights: a weight for each patch, (rows, columns).
        ax: the Axes to draw into; None makes a figure.
        title: above the picture.
        scale: a color scale that several share; None makes one of ``colors``.
        colors: the fields of :class:`~attnviz.show.figures.scales.ColorScale`.

    Returns:
        The Axes drawn into.
    """
    if ax is None:
        ax = Figure(figsize=(4, 4), layout="constrained").add_subplot()
    height, width, _ = picture.shape
    scale = ColorScale(**colors).fit_cells([weights], "weights") if scale is None else scale
    cells = scale.cells(weights)
    gray = picture.mean(axis=2)
    ax.imshow(gray, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
    opacity = 0.1 + 0.75 * np.clip(np.ma.filled(scale.norm(cells), 0), 0, 1)
    CellImage(ax, cells, (0, width, height, 0), aspect="equal", cmap=scale.cmap, norm=scale.norm, alpha=opacity)
    ax.set_xticks([])
    ax.set_yticks([])
    if title is not None:
        ax.set_title(title)
    return ax


def overlays(
    picture: Picture,
    maps: Sequence[AttentionMap],
    patches: tuple[int, int],
    *,
    title: str | None = None,
    caption: str | None = None,
    width: float | None = None,
    **colors: Unpack[ScaleOptions],
) -> Figure:
    """Small multiples of :func:`overlay`, a head each, with one color scale.

    Args:
        picture, colors: as in :func:`overlay`.
        maps: one query's weights of each head, (1, rows * columns) cells.
        patches: rows and columns of patches.
        title: above the grid; None says whose weights these are.
        caption, width: as in :func:`attnviz.heatmap`.
    """
    columns = min(len(maps), 6, math.ceil(math.sqrt(len(maps)) * 1.2))
    rows = math.ceil(len(maps) / columns)
    size = (1.7 * columns + 1, 1.9 * rows + 0.4)
    if width is not None:
        size = (width, size[1] * (width - 1) / (size[0] - 1))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    scale = ColorScale(**colors).fit(maps)
    for ax in grid.flat:
        ax.set_visible(False)
    for ax, shown in zip(grid.flat, maps, strict=False):
        ax.set_visible(True)
        weights = shown.cells.reshape(patches)
        overlay(picture, weights, ax, title=shown.heads_name, scale=scale)
    opaque = ScalarMappable(scale.norm, scale.cmap)
    bar = figure.colorbar(
        opaque, ax=list(grid.flat), label=scale.label, fraction=0.05, pad=0.02, aspect=40, extend=scale.extend
    )
    bar.outline.set_visible(False)
    first = maps[0]
    name = one_line(first.query_labels[0]).replace("$", r"\$") if first.query_labels else f"query {first.queries.start}"
    figure.suptitle(in_place(f"what {name} sees", *place_of(maps)) if title is None else title)
    if caption is not None:
        write_caption(grid[0, 0], caption)
    return figure
