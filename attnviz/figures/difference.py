"""Two maps and what lies between them: A, B and A - B side by side."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

from matplotlib.figure import Figure

from attnviz.figures.heatmap import colorbar, draw, panel_inches, value_range
from attnviz.figures.style import colormap, normalize
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
    first = both[0]
    norm = normalize(first.values, *value_range(both), None, None)
    between = normalize("difference", *value_range(apart), None, None)
    palette, diverging = colormap(None, first.values), colormap(None, "difference")
    image = last = None
    for n, row in enumerate(pictures):
        bottom = n == len(pictures) - 1
        for m, shown in enumerate(row):
            ax = grid[n, m]
            if m < 2:
                image = draw(shown, ax, palette, norm, x_labels=bottom, y_labels=m == 0)
            else:
                last = draw(shown, ax, diverging, between, x_labels=bottom, y_labels=False)
            if n == 0:
                ax.set_title(("A\n", "B\n", "")[m] + fill(shown.pattern, max(16, round(width * 14))), pad=4)
        grid[n, 0].set_ylabel(f"head {row[0].head}\nquery")
    assert image is not None
    assert last is not None
    colorbar(image, list(grid[:, :2].flat), first)
    colorbar(last, list(grid[:, 2]), apart[0])
    return figure
