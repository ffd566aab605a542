"""Two maps and what lies between them: A, B and A - B side by side."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Unpack

from matplotlib.figure import Figure

from attnviz.base.words import in_place
from attnviz.maps.map import AttentionMap
from attnviz.show.figures.bars import colorbar
from attnviz.show.figures.heatmap import draw, panel_inches, write_caption
from attnviz.show.figures.scales import ColorScale, ScaleOptions

_OF_PANELS = ("rank", "row")
"""Norms of A and B that say nothing of a difference, whose sign and size matter."""


def comparison_inches(size: tuple[int, int], width: float | None = None) -> tuple[float, float]:
    """Width and height that each of three panels is laid out with.

    Args:
        size: queries and keys of each map.
        width: inches across of the figure; None is what the panels need.
    """
    across, down = panel_inches(size, 4)
    if width is not None:
        share = width / _figure_inches(across)
        across, down = across * share, down * min(1.0, share)
    return across, down


def _figure_inches(across: float) -> float:
    """Inches across of a figure whose panels have ``across``."""
    return 3 * (across + 0.3) + 2.4


def difference_figure(
    pictures: Sequence[tuple[AttentionMap, AttentionMap, AttentionMap]],
    *,
    title: str | None = None,
    caption: str | None = None,
    width: float | None = None,
    **colors: Unpack[ScaleOptions],
) -> Figure:
    """Draws A and B on one color scale and A - B on its own, balanced around 0, a row a head.

    Panels share their axes, with the labels of A - B.

    Args:
        pictures: A, B and A - B of each head, such as :func:`attnviz.compare_maps` gives them.
        title: above them; None is none.
        caption, width: as in :func:`attnviz.heatmap`.
        colors: the scale of A and B, as in :func:`attnviz.heatmap`. A - B takes ``norm`` and ``robust`` too, where
            they are not ``rank`` or ``row``.

    Raises:
        InputError: as :func:`attnviz.heatmap`.
    """
    across, down = comparison_inches(pictures[0][0].size, width)
    wide = _figure_inches(across) if width is None else width
    figure = Figure(figsize=(wide, len(pictures) * (down + 0.35) + 1.35), layout="constrained")
    grid = figure.subplots(len(pictures), 3, squeeze=False, sharex=True, sharey=True)
    both = [shown for row in pictures for shown in row[:2]]
    apart = [row[2] for row in pictures]
    asked = ColorScale(**colors)
    scale = asked.fit(both)
    norm = "linear" if asked.norm in _OF_PANELS else asked.norm
    values = both[0].values.removesuffix("s")
    between = ColorScale(norm=norm, robust=asked.robust).fit(apart, f"{apart[0].pattern}, {values}")
    image = last = None
    for n, row in enumerate(pictures):
        bottom = n == len(pictures) - 1
        for m, shown in enumerate(row):
            ax = grid[n, m]
            if m < 2:
                image = draw(shown, ax, scale, x_labels=bottom, y_labels=m == 0)
            else:
                last = draw(shown, ax, between, x_labels=bottom, y_labels=False)
            if n == 0:
                ax.set_title(("A\n", "B\n", "")[m] + fill(shown.pattern, max(16, round(across * 14))), pad=4)
        grid[n, 0].set_ylabel(f"{in_place(row[0].heads_name, None, row[0].batch)}\nquery")  # sides say their layers
    assert image is not None
    assert last is not None
    colorbar(image, list(grid[:, :2].flat), scale)
    colorbar(last, list(grid[:, 2]), between)
    if title is not None:
        figure.suptitle(title)
    if caption is not None:
        write_caption(grid[0, 0], caption)
    return figure
