"""A text as one query reads it: tokens in reading order, each shaded by the weight that the query gives it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from attnviz.base.errors import InputError
from attnviz.base.labels import one_line, position_said, spaced
from attnviz.show.figures.bars import Bar, colorbar
from attnviz.show.figures.captions import cell_said
from attnviz.show.figures.dashes import DASHES, dashed
from attnviz.show.figures.heatmap import write_above, write_below, write_caption
from attnviz.show.figures.layout import EDGE, caption_lines, line, place, points, width_of, wrapped
from attnviz.show.figures.scales import ColorScale, FittedScale, ScaleOptions
from attnviz.show.figures.vectors import Words
from attnviz.show.scale.colors import is_dark

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from attnviz.maps.map import AttentionMap

MOST_TOKENS = 4096
"""Tokens beyond which a strip is no reading."""

_WIDE = 6.5  # inches of a line of text
_LINE = 1.75  # of a line, in heights of its letters
_LONGEST = 160  # letters of a token that are shown, where a line has room for them
_BESIDE = 1.0  # inches that the color bar takes, about
_BAR_LEAST = 0.95  # inches of its height
_APART = 0.08  # inches between two texts
_GAP = 2.0  # points between tokens that a space parts


@dataclass(frozen=True)
class _Word:
    """A token in its place: points from the upper left corner."""

    text: str
    x: float
    line: int
    width: float


def strip(
    shown: AttentionMap,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    caption: str | None = None,
    width: float | None = None,
    scale: FittedScale | None = None,
    **colors: Unpack[ScaleOptions],
) -> Axes:
    """Draws the tokens of a text in lines, each shaded by the weight that one query gives it.

    The query's own token has a frame; tokens that it does not see are gray.

    Args:
        shown: a map of one query, with a column for each key.
        ax: the Axes to draw into, in lines as wide as they are now; None makes a figure as high as the text.
        title: None says which query of which head.
        caption, width: as in :func:`attnviz.heatmap`; ``width`` wraps the lines.
        scale: the color scale, where it is shared with others and drawn there; None fits one and draws it.
        colors: the fields of :class:`~attnviz.show.figures.scales.ColorScale`.

    Returns:
        The Axes drawn into.

    Raises:
        InputError: more than one query, cells of several keys, too many tokens, or as
            :meth:`~attnviz.show.figures.scales.ColorScale.fit`.
    """
    check_strip(shown)
    fitted = ColorScale(**colors).fit([shown]) if scale is None else scale
    title = _title(shown) if title is None else title
    if ax is None:
        return _sheet([shown], [title], fitted, None, caption, width, bar=scale is None)[0]
    size = points("font.size")
    figure = ax.get_figure(root=True)
    assert figure is not None
    across = ax.get_window_extent().width / figure.dpi
    _draw(shown, _wrapped(shown, size, across * 72), ax, fitted, size, across * 72)
    ax.set_title(title, loc="left", parse_math=False)
    if scale is None:
        colorbar(ScalarMappable(fitted.norm, fitted.cmap), [ax], fitted)
    if caption is not None:
        write_caption(ax, caption)
    return ax


def strips(
    maps: Sequence[AttentionMap],
    *,
    title: str | None = None,
    caption: str | None = None,
    width: float | None = None,
    **colors: Unpack[ScaleOptions],
) -> Figure:
    """A :func:`strip` a head, one above the other, with one color scale.

    Args:
        maps: of one query each.
        title: above them; None says which query.
        caption, width, colors: as in :func:`strip`.

    Raises:
        InputError: as :func:`strip`.
    """
    for shown in maps:
        check_strip(shown)
    check_tokens(len(maps[0].keys), len(maps))
    fitted = ColorScale(**colors).fit(maps)
    above = f"what {_query(maps[0])} sees" if title is None else title
    axes = _sheet(maps, [shown.name for shown in maps], fitted, above, caption, width)
    figure = axes[0].get_figure(root=True)
    assert figure is not None
    return figure


def _sheet(
    maps: Sequence[AttentionMap],
    names: Sequence[str],
    fitted: FittedScale,
    above: str | None,
    caption: str | None,
    width: float | None,
    *,
    bar: bool = True,
) -> list[Axes]:
    """The Axes of texts one above the other, each under its name, in a figure as high as they are."""
    figure, size = Figure(figsize=(6, 6)), points("font.size")
    axes = [figure.add_axes((0, 0, 1, 1), label=f"strip {n}") for n in range(len(maps))]
    beside = Bar(figure, fitted, blank=False) if bar else None

    def placed(room: float) -> tuple[float, list[_Word], float, list[list[str]], float]:
        """Inches of lines across, words, inches of each text, names, and inches of all."""
        across = (_WIDE + _BESIDE if width is None else width) - 2 * EDGE - room
        words = _wrapped(maps[0], size, across * 72)
        high = (words[-1].line + 1) * _LINE * size / 72
        titles = [wrapped(name, across, points("axes.titlesize")) for name in names]
        return across, words, high, titles, sum(high + _above(lines) for lines in titles) + _APART * (len(maps) - 1)

    across, words, high, titles, tall = placed(_BESIDE)
    if beside is not None:
        across, words, high, titles, tall = placed(beside.room(max(tall, _BAR_LEAST)) + EDGE)
    wide = _WIDE + _BESIDE if width is None else width
    lines = [] if above is None else wrapped(above, wide - 2 * EDGE, points("figure.titlesize"))
    said = caption_lines(caption, wide)
    below = line("figure.labelsize", len(said)) + 0.08 if said else 0.0
    top = line("figure.titlesize", len(lines)) + 0.06 if lines else 0.0
    number = 0.0 if beside is None else points("ytick.labelsize") / 144  # half of the bar's lowest, below it
    inside = max(tall, _BAR_LEAST + 0.06 if beside is not None else 0.2) + number
    figure.set_size_inches(wide, top + inside + below + 2 * EDGE)
    at = below + EDGE + inside
    for ax, shown, title in zip(axes, maps, titles, strict=True):
        at -= _above(title) + high
        place(ax, (EDGE, at, across, high), (wide, float(figure.get_figheight())))
        _draw(shown, words, ax, fitted, size, across * 72)
        ax.set_title("\n".join(title), loc="left", pad=2, parse_math=False)
        at -= _APART
    if beside is not None:
        own = max(_BAR_LEAST, tall)
        beside.beside(EDGE + across, below + EDGE + inside - own - 0.03, own)
    write_above(figure, lines)
    write_below(figure, said)
    return axes


def _above(title: Sequence[str]) -> float:
    return line("axes.titlesize", len(title)) + 3 / 72


def check_strip(shown: AttentionMap) -> None:
    """Raises InputError where a map is not one query's, with a cell for each token."""
    if len(shown.queries) != 1:
        raise InputError(f"a strip shows what one query sees; the map has {len(shown.queries)} queries")
    if shown.reduced:
        raise InputError(
            f"a strip writes every token, and cells of this map stand for {len(shown.keys) / shown.cells.shape[1]:.4g}; "
            f"make it with pixels={len(shown.keys)}"
        )
    check_tokens(len(shown.keys))


def check_tokens(tokens: int, heads: int = 1) -> None:
    """Raises InputError where there are more tokens than anyone reads."""
    if tokens * heads > MOST_TOKENS:
        several = f" of {heads} heads" if heads > 1 else ""
        fewer = "fewer heads with --head, or " if heads > 1 else ""
        raise InputError(
            f"a strip writes every token, {MOST_TOKENS:,} at most, and there are {tokens:,}{several}; choose {fewer}a part of "
            f"them with --keys A:B"
        )


def _wrapped(shown: AttentionMap, size: float, across: float) -> list[_Word]:
    """Tokens in lines at most ``across`` points wide; a line end in a token ends the line."""
    labels = [f"{position}" for position in shown.keys] if shown.key_labels is None else shown.key_labels
    words: list[_Word] = []
    x, row = 0.0, 0
    for apart, text in spaced(labels, shown.token_form):
        gap = _GAP * 2 if apart else 0.5
        breaks = text.count("\n")
        plain = one_line(text)
        plain = plain if len(plain) <= _LONGEST else plain[: _LONGEST - 1] + "…"
        wide = 72 * width_of(plain or " ", size) + 3
        while wide > across and len(plain) > 1:  # longer than a line
            plain = plain.removesuffix("…")[:-1] + "…"
            wide = 72 * width_of(plain, size) + 3
        if words and x + gap + wide > across and x > 0:
            x, row = 0.0, row + 1
        x += gap if x > 0 else 0
        words.append(_Word(plain, x, row, wide))
        x += wide
        if breaks:
            x, row = 0.0, row + breaks
    return words


def _draw(
    shown: AttentionMap, words: Sequence[_Word], ax: Axes, fitted: FittedScale, size: float, across: float
) -> None:
    lines = words[-1].line + 1
    tall = _LINE * size
    ax.set(xlim=(0, across), ylim=(lines * tall, 0), xticks=[], yticks=[])
    ax.set_aspect("equal", anchor="NW")  # points both ways, so that boxes keep the size of their letters
    for spine in ax.spines.values():
        spine.set_visible(False)
    colors = np.asarray(fitted.cmap(fitted.norm(fitted.cells(shown.cells))))[0]  # (S, 4)
    boxes = [Rectangle((word.x, word.line * tall + 0.1 * tall), word.width, 0.8 * tall) for word in words]
    said = [cell_said(shown, 0, n) for n in range(len(words))]
    ax.add_collection(Words(boxes, said, facecolors=colors, edgecolors="none"), autolim=False)
    if fitted.below is not None:
        low = np.flatnonzero(fitted.below(fitted.cells(shown.cells))[0]).tolist()
        inks = dashed(np.rint(255 * colors[low]).astype(np.uint8)) / 255
        ends = [
            [(word.x, (word.line + 0.84) * tall), (word.x + word.width, (word.line + 0.84) * tall)]
            for word in (words[n] for n in low)
        ]
        ax.add_collection(LineCollection(ends, colors=inks, linestyles=DASHES, linewidths=0.7), autolim=False)
    seen = np.isfinite(shown.cells[0])
    for word, (red, green, blue, _), sees in zip(words, colors, seen, strict=True):
        ink = "white" if is_dark((red, green, blue)) else "black"
        ax.text(
            word.x + word.width / 2,
            (word.line + 0.5) * tall,
            word.text,
            ha="center",
            va="center_baseline",
            fontsize=size,
            color=ink if sees else "0.55",
            parse_math=False,
        )
    own = _own(shown)
    if own is not None:
        word = words[own]
        ax.add_patch(
            Rectangle(
                (word.x - 0.6, word.line * tall + 0.06 * tall),
                word.width + 1.2,
                0.88 * tall,
                fill=False,
                linewidth=1.1,
                edgecolor=mpl.rcParams["text.color"],
                clip_on=False,
            )
        )


def _own(shown: AttentionMap) -> int | None:
    """The index among the keys of the query's own token, where it is one of them: the same label at the same place."""
    query = shown.queries.start
    if shown.key_labels is None or shown.query_labels is None:
        return shown.keys.index(query) if query in shown.keys else None
    at = [n for n, position in enumerate(shown.keys) if position == query]
    return at[0] if at and shown.key_labels[at[0]] == shown.query_labels[0] else None


def _query(shown: AttentionMap) -> str:
    return position_said("query", shown.queries[0], None if shown.query_labels is None else shown.query_labels[0])


def _title(shown: AttentionMap) -> str:
    return f"{shown.name} · what {_query(shown)} sees"
