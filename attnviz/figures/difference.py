"""Two maps and what lies between them: A, B and A - B side by side."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

from matplotlib.figure import Figure

from attnviz.figures.heatmap import colorbar, draw, panel_inches
from attnviz.figures.scales import ColorScale
from attnviz.maps import AttentionMap


def difference_figure(
    pictures: Sequence[tuple[AttentionMap, AttentionMap, AttentionMap]],
) -> Figure:
    """Draws A and B on one color scale and A - B on its own, a row a head.

    Args:
        pictures: A, B and A - B of each head.
    """
    width, height = panel_inches(pictures[0][0], 4)
    figure = Figure(figsize=(3 * (width + 0.3) + 2.4, len(pictures) * (height + 0.35) + 0.9), layout="constrained")
    grid = figure.subplots(len(pictures), 3, squeeze=False, sharex=True, sharey=True)
    both = [shown for row in pictures for shown in row[:2]]
    apart = [row[2] for row in pictures]
    scale = ColorScale().fit(both)
    between = ColorScale().fit(apart)
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
                ax.set_title(("A\n", "B\n", "")[m] + fill(shown.pattern, max(16, round(width * 14))), pad=4)
        grid[n, 0].set_ylabel(f"head {row[0].head}\nquery")
    assert image is not None
    assert last is not None
    colorbar(image, list(grid[:, :2].flat), scale)
    colorbar(last, list(grid[:, 2]), between)
    return figure
