"""A text as one query reads it: tokens in reading order, each shaded by the weight that the query gives it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle

from attnviz.base.errors import InputError
from attnviz.base.labels import SPACE, one_line, spaced
from attnviz.show.figures.bars import dress
from attnviz.show.figures.captions import cell_said
from attnviz.show.figures.heatmap import write_caption
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
_LONGEST = 48  # letters of a token that are shown
_BESIDE = 1.25  # inches that the color bar takes
_BAR_LEAST, _BAR_MOST = 0.95, 4.0  # inches of its height
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
    size = FontProperties(size=mpl.rcParams["font.size"]).get_size_in_points()
    if ax is None:
        across = _WIDE if width is None else width - _BESIDE
        words = _wrapped(shown, size, across * 72)
        tall = max((words[-1].line + 1) * _LINE * size / 72, _BAR_LEAST if scale is None else 0.2)
        figure = Figure(figsize=(across + _BESIDE, tall + (0.45 if caption is None else 0.85)), layout="constrained")
        ax = figure.add_subplot()
    else:
        box = ax.get_window_extent()
        figure_ = ax.get_figure(root=True)
        assert figure_ is not None
        across = box.width / figure_.dpi
        words = _wrapped(shown, size, across * 72)
    fitted = ColorScale(**colors).fit([shown]) if scale is None else scale
    _draw(shown, words, ax, fitted, size, across * 72)
    ax.set_title(_title(shown) if title is None else title, loc="left", parse_math=False)
    if scale is None:
        _bar([ax], fitted)
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
    size = FontProperties(size=mpl.rcParams["font.size"]).get_size_in_points()
    across = _WIDE if width is None else width - _BESIDE
    lines = _wrapped(maps[0], size, across * 72)[-1].line + 1
    tall = lines * _LINE * size / 72
    figure = Figure(figsize=(across + _BESIDE, max(len(maps) * (tall + 0.32), _BAR_LEAST) + 0.5), layout="constrained")
    grid = figure.subplots(len(maps), 1, squeeze=False)[:, 0]
    fitted = ColorScale(**colors).fit(maps)
    words = _wrapped(maps[0], size, across * 72)
    for ax, shown in zip(grid, maps, strict=True):
        _draw(shown, words, ax, fitted, size, across * 72)
        ax.set_title(shown.name, loc="left", pad=2)
    figure.suptitle(f"what {_query(maps[0])} sees" if title is None else title, parse_math=False)
    _bar(list(grid), fitted)
    if caption is not None:
        write_caption(grid[0], caption)
    return figure


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
    measure = _measure(size)
    words: list[_Word] = []
    x, line = 0.0, 0
    for apart, text in spaced(labels, shown.token_form):
        gap = _GAP * 2 if apart else 0.5
        breaks = text.count("\n")
        plain = one_line(text)
        plain = plain if len(plain) <= _LONGEST else plain[: _LONGEST - 1] + "…"
        wide = measure(plain) + 3
        if words and x + gap + wide > across and x > 0:
            x, line = 0.0, line + 1
        x += gap if x > 0 else 0
        words.append(_Word(plain, x, line, wide))
        x += wide
        if breaks:
            x, line = 0.0, line + breaks
    return words


def _measure(size: float) -> Any:
    """What gives the points across of a text in the present fonts."""
    from matplotlib.backends.backend_agg import RendererAgg

    make: Any = RendererAgg  # untyped
    renderer = make(1, 1, 72)
    font = FontProperties(size=size)
    known: dict[str, float] = {}

    def measure(text: str) -> float:
        if text not in known:
            known[text] = float(renderer.get_text_width_height_descent(text or " ", font, ismath=False)[0])
        return known[text]

    return measure


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


def _bar(axes: Sequence[Axes], fitted: FittedScale) -> None:
    """The color bar beside the first lines, however many follow."""
    figure = axes[0].get_figure(root=True)
    assert figure is not None
    tall = float(figure.get_figheight())
    bar = figure.colorbar(
        ScalarMappable(fitted.norm, fitted.cmap),
        ax=axes,
        fraction=0.05,
        pad=0.015,
        shrink=min(1.0, _BAR_MOST / tall),
        aspect=min(tall, _BAR_MOST) / 0.13,
        anchor=(0.0, 1.0),
        panchor=False,
        extend=fitted.extend,
        label=fitted.label,
    )
    dress(bar, fitted)


def _own(shown: AttentionMap) -> int | None:
    """The index among the keys of the query's own token, where it is one of them: the same label at the same place."""
    query = shown.queries.start
    if shown.key_labels is None or shown.query_labels is None:
        return shown.keys.index(query) if query in shown.keys else None
    at = [n for n, position in enumerate(shown.keys) if position == query]
    return at[0] if at and shown.key_labels[at[0]] == shown.query_labels[0] else None


def _query(shown: AttentionMap) -> str:
    position = shown.queries.start
    if shown.query_labels is None:
        return f"query {position}"
    text = one_line(shown.query_labels[0]).strip(SPACE)
    return f"query {position} ({text})"


def _title(shown: AttentionMap) -> str:
    return f"{shown.name} · what {_query(shown)} sees"
