"""Two maps and what lies between them: A, B and A - B side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

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

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    scale, between = asked.fit(both).marked(marks), _between(pictures, asked).marked(marks)
    figure = Figure(figsize=(6, 6))
    axes = [figure.add_axes((0, 0, 1, 1), label=f"panel {n}") for n in range(3 * len(pictures))]
    bars = (
        Bar(figure, scale, blank=any(np.isnan(shown.cells).any() for shown in both)),
        Bar(figure, between, blank=False),
    )
    found_marks = [find_marks(shown) for shown in both] if marks else []
    plan = _Plan(pictures, bars, marks_height(found_marks))
    found = fitted_to(width, plan.sheet)
    above = [] if title is None else wrapped(title, found.size[0] - 2 * EDGE, points("figure.titlesize"))
    said = caption_lines(caption, found.size[0])
    found = found.with_room(above, said)
    figure.set_size_inches(found.size)
    for n, (ax, shown) in enumerate(zip(axes, (shown for row in pictures for shown in row), strict=True)):
        row, column = divmod(n, 3)
        place(ax, found.box(n), found.size)
        colored = scale if column < 2 else between
        draw(shown, ax, colored, x_labels=found.is_lowest(n), y_labels=column == 0, names=False)
        if found_marks and column < 2:
            draw_marks(shown, found_marks[2 * row + column], ax)
    plan.write(figure, axes, found)
    write_above(figure, above)
    write_below(figure, said)
    return figure


@dataclass(frozen=True)
class _Plan:
    """What decides where the panels of a comparison stand, and what is written around them.

    Args:
        pictures: A, B and A - B of each head.
        bars: the color bar of A and B, and that of A - B.
        marked: inches above panels that marks take.
    """

    pictures: Sequence[tuple[AttentionMap, AttentionMap, AttentionMap]]
    bars: tuple[Bar, Bar]
    marked: float

    def sheet(self, across: float | None) -> Sheet:
        """The places of panels of this width; None is what the maps want."""
        first = self.pictures[0][0]
        own = comparison_inches(first.size)
        panel = own if across is None else scaled(first.size, own, across)
        queries = ticks_of(first.queries, first.query_labels, panel[1], horizontal=False)
        room, beyond = self._below(panel[0])
        high = max(text.count("\n") + 1 for text in self._headings(panel[0])[0])
        around = Around(
            left=EDGE + line("axes.labelsize", 2) + 6 / 72 + queries.room,
            right=max(EDGE, beyond),
            top=EDGE + line("axes.titlesize", high) + 4 / 72,
            bottom=EDGE + room + max(bar.depth_in(panel[0]) for bar in self.bars),
            above=self.marked,
            gap=max(_GAP, 2 * beyond + 3 / 72),
        )
        return Sheet(3 * len(self.pictures), 3, panel, around)

    def write(self, figure: Figure, axes: Sequence[Axes], sheet: Sheet) -> None:
        """What each side and each head is, what rows and columns are, and the color bars."""
        headings, size = self._headings(sheet.panel[0])
        for ax, heading in zip(axes, headings, strict=False):
            ax.set_title(heading, y=1.0, pad=4 + 72 * self.marked, fontsize=size, parse_math=False)
        for ax, (shown, *_) in zip(axes[::3], self.pictures, strict=True):
            name = in_place(shown.heads_name, None, shown.batch)  # sides say their layers
            ax.set_ylabel(f"{name}\nquery", labelpad=3)
        a, b, c = (sheet.box(n + sheet.count - 3) for n in range(3))
        room, _ = self._below(sheet.panel[0])
        lines, color = self._keys_said(sheet.panel[0]), mpl.rcParams["axes.labelcolor"]
        below = a[1] - room + line("axes.labelsize", len(lines))
        write(figure, b[0] + b[2] / 2, below, "\n".join(lines), "axes.labelsize", ha="center", va="top", color=color)
        for bar, left, right in ((self.bars[0], a, b), (self.bars[1], c, c)):
            bar.lies((left[0], 0.0, right[0] + right[2] - left[0], left[1]), room, middle=False)

    def _below(self, panel: float) -> tuple[float, float]:
        """Inches that keys and what they are take below panels of this width, and beyond their sides."""
        # Of all three: where a token is another one in B, A - B has both.
        keys = [ticks_of(shown.keys, shown.key_labels, panel, horizontal=True) for shown in self.pictures[-1]]
        room = max(ticks.room for ticks in keys) + 3 / 72 + line("axes.labelsize", len(self._keys_said(panel)))
        return room, max(ticks.beyond for ticks in keys)

    def _keys_said(self, panel: float) -> list[str]:
        first = self.pictures[0][0]
        noun = ("key" if isinstance(first.keys, range) else "global key") + cell_note(first)
        return wrapped(noun, 3 * panel, points("axes.labelsize"))

    def _headings(self, panel: float) -> tuple[list[str], float]:
        """What stands over each column, and the points of its letters."""
        row = self.pictures[0]
        size = min(size_for(shown.pattern, panel - 0.02, "axes.titlesize") for shown in row)
        sides = zip(("A\n", "B\n", ""), row, strict=True)
        return [side + "\n".join(wrapped(shown.pattern, panel - 0.02, size)) for side, shown in sides], size
