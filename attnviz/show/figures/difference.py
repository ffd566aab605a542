"""Two maps and what lies between them: A, B and A - B side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from attnviz.base.words import in_place
from attnviz.maps.map import AttentionMap
from attnviz.show.figures.bars import Bar
from attnviz.show.figures.heatmap import cell_note, draw, panel_inches, scaled, write_above, write_below
from attnviz.show.figures.layout import (
    EDGE,
    Around,
    Sheet,
    caption_lines,
    fitted_to,
    line,
    place,
    points,
    size_for,
    ticks_of,
    wrapped,
    write,
)
from attnviz.show.figures.marks import draw_marks, find_marks, marks_height
from attnviz.show.figures.scales import ColorScale, FittedScale, ScaleOptions

_OF_PANELS = ("rank", "row")
"""Norms of A and B that say nothing of a difference, whose sign and size matter."""

_GAP = 0.12


def comparison_inches(size: tuple[int, int], width: float | None = None) -> tuple[float, float]:
    """Width and height that each of three panels is laid out with, at the most.

    Args:
        size: queries and keys of each map.
        width: inches across of the figure; None is what the panels need.
    """
    panel = panel_inches(size, 4)
    return panel if width is None else scaled(size, panel, (width - 0.5) / 3 - _GAP)


def difference_words(
    pictures: Sequence[tuple[AttentionMap, AttentionMap, AttentionMap]], scale: ColorScale, *, marks: bool = True
) -> str:
    """How the third of three maps is drawn, as a caption says it, without its period; ``marks``: what is below 0 is dashed.

    >>> import attnviz
    >>> one = attnviz.synthesize()
    >>> difference_words([attnviz.compare_maps(one, attnviz.synthesize(seed=1), head=3)], ColorScale())
    'A − B on a linear scale from -0.644 to 0.644, dashed below 0'
    """
    between = _between(pictures, scale).marked(marks)
    dashed = between.has_below(row[2].cells for row in pictures)
    return f"{pictures[0][2].pattern} on a {between.note}" + (", dashed below 0" if dashed else "")


def _between(pictures: Sequence[tuple[AttentionMap, AttentionMap, AttentionMap]], asked: ColorScale) -> FittedScale:
    """The scale of differences, balanced around 0."""
    norm, values = "linear" if asked.norm in _OF_PANELS else asked.norm, pictures[0][0].values.removesuffix("s")
    apart = [row[2] for row in pictures]
    return ColorScale(norm=norm, robust=asked.robust).fit(apart, f"{apart[0].pattern}, {values}")


def difference_figure(
    pictures: Sequence[tuple[AttentionMap, AttentionMap, AttentionMap]],
    *,
    title: str | None = None,
    caption: str | None = None,
    width: float | None = None,
    marks: bool = True,
    **colors: Unpack[ScaleOptions],
) -> Figure:
    """Draws A and B on one color scale and A - B on its own, balanced around 0, a row a head.

    Panels share their axes; the color bars lie below the columns that they are of.

    Args:
        pictures: A, B and A - B of each head, such as :func:`attnviz.compare_maps` gives them.
        title: above them; None is none.
        caption, width: as in :func:`attnviz.heatmap`.
        marks: whether columns of A and B that take most of the weight, and lone peaks of long maps, are marked, and A - B is
            dashed where it is below 0.
        colors: the scale of A and B, as in :func:`attnviz.heatmap`. A - B takes ``norm`` and ``robust`` too, where
            they are not ``rank`` or ``row``.

    Raises:
        InputError: as :func:`attnviz.heatmap`.
    """
    both = [shown for row in pictures for shown in row[:2]]
    asked = ColorScale(**colors)
    scale = asked.fit(both).marked(marks)
    between = _between(pictures, asked).marked(marks)
    figure = Figure(figsize=(6, 6))
    axes = [figure.add_axes((0, 0, 1, 1), label=f"panel {n}") for n in range(3 * len(pictures))]
    bars = (
        Bar(figure, scale, blank=any(np.isnan(shown.cells).any() for shown in both)),
        Bar(figure, between, blank=False),
    )
    found_marks = [find_marks(shown) for shown in both] if marks else []
    marked = marks_height(found_marks)
    first, own = both[0], comparison_inches(both[0].size)
    names = [in_place(row[0].heads_name, None, row[0].batch) for row in pictures]  # sides say their layers

    def titles(panel: float) -> tuple[list[str], float]:
        size = min(size_for(shown.pattern, panel - 0.02, "axes.titlesize") for shown in pictures[0])
        sides = zip(("A\n", "B\n", ""), pictures[0], strict=True)
        return [side + "\n".join(wrapped(shown.pattern, panel - 0.02, size)) for side, shown in sides], size

    noun = ("key" if isinstance(first.keys, range) else "global key") + cell_note(first)

    def named(wide: float) -> list[str]:
        return wrapped(noun, wide, points("axes.labelsize"))

    def sheet(across: float | None) -> Sheet:
        panel = own if across is None else scaled(first.size, own, across)
        keys = ticks_of(first.keys, first.key_labels, panel[0], horizontal=True)
        queries = ticks_of(first.queries, first.query_labels, panel[1], horizontal=False)
        high = max(text.count("\n") + 1 for text in titles(panel[0])[0])
        around = Around(
            left=EDGE + line("axes.labelsize", 2) + 6 / 72 + queries.room,
            right=max(EDGE, keys.beyond),
            top=EDGE + line("axes.titlesize", high) + 4 / 72,
            bottom=EDGE
            + keys.room
            + 3 / 72
            + line("axes.labelsize", len(named(3 * panel[0])))
            + max(bar.depth_in(panel[0]) for bar in bars),
            above=marked,
            gap=max(_GAP, 2 * keys.beyond + 3 / 72),
        )
        return Sheet(3 * len(pictures), 3, panel, around)

    found = fitted_to(width, sheet)
    above = [] if title is None else wrapped(title, found.size[0] - 2 * EDGE, points("figure.titlesize"))
    said = caption_lines(caption, found.size[0])
    found = found.with_room(above, said)
    figure.set_size_inches(found.size)
    headings, size = titles(found.panel[0])
    for n, (ax, shown) in enumerate(zip(axes, (shown for row in pictures for shown in row), strict=True)):
        row, column = divmod(n, 3)
        place(ax, found.box(n), found.size)
        colored = scale if column < 2 else between
        draw(shown, ax, colored, x_labels=found.is_lowest(n), y_labels=column == 0, names=False)
        if row == 0:
            ax.set_title(headings[column], y=1.0, pad=4 + 72 * marked, fontsize=size, parse_math=False)
        if found_marks and column < 2:
            draw_marks(shown, found_marks[2 * row + column], ax)
        if column == 0:
            ax.set_ylabel(f"{names[row]}\nquery", labelpad=3)
    keys = ticks_of(first.keys, first.key_labels, found.panel[0], horizontal=True)
    lines = named(3 * found.panel[0])
    taken = keys.room + 3 / 72 + line("axes.labelsize", len(lines))
    a, b, c = (found.box(n + 3 * (len(pictures) - 1)) for n in range(3))
    below, color = a[1] - keys.room - 3 / 72, mpl.rcParams["axes.labelcolor"]
    write(figure, b[0] + b[2] / 2, below, "\n".join(lines), "axes.labelsize", ha="center", va="top", color=color)
    for bar, left, right in ((bars[0], a, b), (bars[1], c, c)):
        bar.lies((left[0], 0.0, right[0] + right[2] - left[0], left[1]), taken, middle=False)
    write_above(figure, above)
    write_below(figure, said)
    return figure
