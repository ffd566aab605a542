"""A short text with an arc for each weight: from the query to the key, back above the text, forward below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

import matplotlib as mpl
import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.path import Path

from attnviz.base.errors import InputError
from attnviz.base.labels import SPACE, one_line
from attnviz.show.figures.bars import Bar
from attnviz.show.figures.dashes import DASHES
from attnviz.show.figures.heatmap import write_above, write_below
from attnviz.show.figures.layout import EDGE, LINE, SMALLEST, caption_lines, line, place, points, width_of, wrapped
from attnviz.show.figures.scales import ColorScale, ScaleOptions
from attnviz.show.figures.style import showing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from attnviz.base.types import Positions
    from attnviz.maps.map import AttentionMap

    Points = NDArray[np.float64]

MOST_TOKENS = 64
"""Tokens beyond which arcs are a tangle."""

_WIDE = 6.5  # inches of a text
_EACH = 0.42  # inches of a token, where there are few
_HIGH = 0.5  # of an arc, as a share of what it spans
_MOST_HIGH = 2.2  # inches of the highest arc
_APART = 1.2  # inches between the rows of two texts
_LONGEST, _UPRIGHT = 20, 12  # letters of a token, and of one that stands upright: all rows are as deep as the longest
_THICK, _THIN = 3.2, 0.3  # points of the largest weight, and of 0


def arcs(
    shown: AttentionMap,
    of_queries: Sequence[int] | None,
    *,
    title: str | None = None,
    caption: str | None = None,
    width: float | None = None,
    **colors: Unpack[ScaleOptions],
) -> Axes:
    """Draws a text as a row of tokens, and each weight of a head as an arc from the query to the key.

    What looks back arches above the text, what looks forward below it, and a token that sees itself has a ring. The larger the
    weight, the thicker and the stronger its arc. Where queries are of another sequence than the keys, they have a row of
    their own above, and weights are lines from row to row.

    Args:
        shown: a map with a cell for each pair.
        of_queries: the column of each query's own key, -1 where it isn't there; None: queries are of another sequence.
        title: None says which head.
        caption, width, colors: as in :func:`attnviz.heatmap`.

    Returns:
        The Axes drawn into.

    Raises:
        InputError: more tokens than arcs can be told apart of, or as :func:`attnviz.heatmap`.
    """
    check_arcs(shown)
    fitted = ColorScale(**colors).fit([shown])
    figure = Figure(figsize=(6, 6))
    ax = figure.add_axes((0, 0, 1, 1), label="arcs")
    bar = Bar(figure, fitted, blank=False)
    keys = _labels(shown.key_labels, shown.keys)
    rows = [keys] if of_queries is not None else [_labels(shown.query_labels, shown.queries), keys]
    beside = bar.room(1.0) + EDGE
    words = _Words.fitting(rows, None if width is None else width - 2 * EDGE - beside)
    cells = np.ma.filled(fitted.cells(shown.cells), np.nan)
    pairs = np.argwhere(np.isfinite(cells))
    at = np.asarray(of_queries if of_queries is not None else range(len(rows[0])))
    pairs = pairs[at[pairs[:, 0]] >= 0]
    values = cells[pairs[:, 0], pairs[:, 1]]
    paths, above, below = words.paths(at[pairs[:, 0]], pairs[:, 1])
    order = np.argsort(np.abs(values), kind="stable")  # the strongest on top
    inks = fitted.cmap(fitted.norm(values[order]))
    top = max(float(np.abs(values).max(initial=0.0)), 1e-12)
    widths = _THIN + (_THICK - _THIN) * np.abs(values[order]) / top
    drawn = PathCollection(
        [paths[n] for n in order], facecolors="none", edgecolors=inks, linewidths=widths, capstyle="round"
    )
    if fitted.below is not None:
        drawn.set(linestyles=[DASHES if low else "solid" for low in fitted.below(values[order])], capstyle="butt")
    ax.add_collection(drawn, autolim=False)
    lines = wrapped(
        shown.name if title is None else title, words.across + beside - 2 * EDGE, points("figure.titlesize")
    )
    wide = words.across + beside + 2 * EDGE
    said = caption_lines(caption, wide)
    under = line("figure.labelsize", len(said)) + 0.06 if said else 0.0
    over = line("figure.titlesize", len(lines)) + 0.06
    tall = max(above + below, 1.05)
    figure.set_size_inches(wide, over + tall + under + 2 * EDGE)
    place(ax, (EDGE, EDGE + under, words.across, tall), (wide, float(figure.get_figheight())))
    ax.set(xlim=(0, words.across), ylim=(above - tall, above), xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
    words.write(ax, arcs_below=below > words.deep + 0.05)
    own = min(tall, 1.6)
    bar.beside(EDGE + words.across, EDGE + under + tall - own, own)
    write_above(figure, lines)
    write_below(figure, said)
    return showing(ax)


@dataclass(frozen=True)
class _Words:
    """Tokens in a row, or queries in a row above the keys', in inches: level, each in the room that it needs and as much
    more as there is, else upright and evenly.

    Args:
        rows: the tokens of each.
        middles: where the middle of each token of each row is; a row that is shorter than the longest is in the middle.
        across: how wide the longest row is.
        size: of letters, in points.
        turned: whether tokens stand upright.
        deep: how high a row is.
    """

    rows: Sequence[Sequence[str]]
    middles: Sequence[Points]
    across: float
    size: float
    turned: bool
    deep: float

    @classmethod
    def fitting(cls, rows: Sequence[Sequence[str]], across: float | None) -> _Words:
        """Letters as large as fit. Raises InputError where none can be read; ``across`` None is as wide as they like."""
        size, most = points("font.size"), max(map(len, rows))
        needed = _rooms(rows, size)
        if across is None:
            across = min(_WIDE, max(2.0, *(float(np.maximum(_EACH, row + 0.02).sum()) for row in needed)))
        more, each = (across - max(float(row.sum()) for row in needed)) / most, across / most
        turned, deep = more < 0, LINE * size / 72 + 0.08
        if turned:
            rows = [[_cut(text, _UPRIGHT) for text in row] for row in rows]
            size = min(size, each * 72 / LINE)
            if size < SMALLEST:
                raise InputError(
                    f"--arcs: {most} tokens are too many for letters in {across:.1f} in; choose some with --queries and --keys, "
                    f"or a wider figure (--width page)"
                )
            deep = max(float(row.max()) for row in _rooms(rows, size)) + 0.04
        rooms = [np.full(len(row), each) if turned else row + more for row in needed]
        middles = [(across - row.sum()) / 2 + row.cumsum() - row / 2 for row in rooms]
        return cls(rows, middles, across, size, turned, deep)

    def paths(self, queries: Positions, keys: Positions) -> tuple[list[Path], float, float]:
        """From each query to its key, and how far they go above and below the first row's upper end."""
        start, end = self.middles[0][queries], self.middles[-1][keys]
        if len(self.rows) == 2:
            lines = [Path([(x, 0.0), (y, -_APART)]) for x, y in zip(start, end, strict=True)]
            return lines, self.deep, self.deep + _APART
        high = min(_HIGH, _MOST_HIGH / self.across)
        spans = high * np.where(start == end, 0.0, end - start)
        above = max(0.12, float(-spans.min(initial=0.0))) + 0.05
        below = self.deep + max(0.0, float(spans.max(initial=0.0))) + 0.05
        ring = min(0.05, 0.2 * self.across / len(self.rows[0]))
        found = [_arc(x, y, span, self.deep, ring) for x, y, span in zip(start, end, spans, strict=True)]
        return found, above, below

    def write(self, ax: Axes, *, arcs_below: bool) -> None:
        """Writes the tokens."""
        for n, row in enumerate(self.rows):
            middle = self.deep / 2 if len(self.rows) == 2 and n == 0 else -self.deep / 2 - n * _APART
            upright = "center"
            if self.turned and len(self.rows) == 1 and not arcs_below:  # they begin where arcs end
                middle, upright = -0.04, "top"
            for x, text in zip(self.middles[n], row, strict=True):
                ax.text(x, middle, text, ha="center", va=upright, fontsize=self.size,
                        rotation=90 if self.turned else 0, color=mpl.rcParams["text.color"], parse_math=False)  # fmt: skip


def check_arcs(shown: AttentionMap) -> None:
    """Raises InputError for a map of more tokens than arcs can be told apart of."""
    check_arc_tokens(len(shown.queries), len(shown.keys))


def check_arc_tokens(queries: int, keys: int) -> None:
    """As :func:`check_arcs`, before there is a map."""
    if max(queries, keys) > MOST_TOKENS:
        raise InputError(
            f"--arcs: arcs of {max(queries, keys):,} tokens are a tangle, {MOST_TOKENS} are the most; choose some with --queries and "
            f"--keys, see words with --merge words, or leave --arcs out"
        )


def _labels(labels: Sequence[str] | None, positions: Sequence[int]) -> list[str]:
    """What is written of each token."""
    if labels is None:
        return [f"{position}" for position in positions]
    return [_cut(one_line(label).strip(SPACE) or "␣", _LONGEST) for label in labels]


def _rooms(rows: Sequence[Sequence[str]], size: float) -> list[Points]:
    """Inches that each token of each row needs."""
    return [np.array([width_of(text, size) + 0.04 for text in row]) for row in rows]


def _cut(text: str, most: int) -> str:
    """A text of so many letters at the most."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _arc(x: float, y: float, span: float, deep: float, ring: float) -> Path:
    """Half an ellipse from x to y: above the row of tokens where it looks back, below where forward; a ring of its own."""
    if x == y:
        return Path.circle((x, 0.06), ring)
    level, peak = (0.0, -4 / 3 * span) if span < 0 else (-deep, -deep - 4 / 3 * span)
    return Path([(x, level), (x, peak), (y, peak), (y, level)], [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
