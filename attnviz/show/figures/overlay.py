"""What one token of a vision model sees, laid over the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure

from attnviz.base.labels import one_line
from attnviz.base.words import in_place
from attnviz.maps.map import place_of
from attnviz.show.figures.bars import dress
from attnviz.show.figures.cells import CellImage
from attnviz.show.figures.heatmap import write_caption
from attnviz.show.figures.scales import ColorScale, FittedScale, ScaleOptions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

    from attnviz.maps.map import AttentionMap

Picture = np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]
_PICTURE = 0.55  # of a picture's contrast, beneath weights
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
    ax.imshow(faded(picture), extent=(0, width, height, 0))
    opacity = _opacity(np.clip(np.ma.filled(scale.norm(cells), 0), 0, 1))
    CellImage(ax, cells, (0, width, height, 0), aspect="equal", cmap=scale.cmap, norm=scale.norm, alpha=opacity)
    ax.set_xticks([])
    ax.set_yticks([])
    if title is not None:
        ax.set_title(title)
    return ax


def faded(picture: Picture) -> Picture:
    """A picture in grays near the page, so that weights stand out from it."""
    page, gray = np.array(to_rgb(mpl.rcParams["axes.facecolor"])), picture.mean(axis=2, keepdims=True) / 255
    found: Picture = np.rint(255 * (page + (gray - page) * _PICTURE)).astype(np.uint8)
    return found


def _as_drawn(scale: FittedScale) -> Colormap:
    """The palette as it is seen over the middle gray of a picture."""
    shares = np.linspace(0, 1, 256)
    cover = _opacity(shares)[:, None]
    under = faded(np.full((1, 1, 3), 128, dtype=np.uint8))[0, 0] / 255
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
        maps: one query's weights of each head, rows * columns cells.
        patches: rows and columns of patches.
        told: whose weights these are; None is the first map's query.
        titles: above each picture; None is its head.
        title: above the grid; None is what ``told`` says.
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
    for n, (ax, shown) in enumerate(zip(grid.flat, maps, strict=False)):
        ax.set_visible(True)
        weights = shown.cells.reshape(patches)
        overlay(picture, weights, ax, title=shown.heads_name if titles is None else titles[n], scale=scale)
    bar = figure.colorbar(
        ScalarMappable(scale.norm, _as_drawn(scale)),
        ax=list(grid.flat),
        fraction=0.05,
        pad=0.02,
        aspect=40,
        extend=scale.extend,
    )
    dress(bar, scale)
    first = maps[0]
    name = one_line(first.query_labels[0]) if first.query_labels else f"query {first.queries.start}"
    told = in_place(told or f"what {name} sees", *place_of(maps))
    figure.suptitle(told if title is None else title, parse_math=False)
    if caption is not None:
        write_caption(grid[0, 0], caption)
    return figure
