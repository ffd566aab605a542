"""The figures of a lesson: the head's map with the pair that is explained, and the row of weights that it is one of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from attnviz.base.labels import one_line
from attnviz.maps.map import AttentionMap
from attnviz.measures.explanation import Explanation, Key
from attnviz.show.figures.bars import frame
from attnviz.show.figures.heatmap import heatmap, write_below
from attnviz.show.figures.layout import EDGE, caption_lines, line, points, width_of, wrapped, write
from attnviz.show.figures.style import colormap, texts_of

_LABEL = 14  # letters of a token beside a bar


def pair_figure(
    shown: AttentionMap, e: Explanation, words: Mapping[str, str], *, title: str | None = None, **look: Any
) -> Figure:
    """The head's map, a ring around the pair.

    Args:
        shown: the map.
        e: what is explained.
        words: what the figure says, by its English words.
        title: above the map.
        look: as :func:`~attnviz.show.figures.heatmap.heatmap` takes it.
    """
    ax = heatmap(shown, title=title, **look)
    page, ink = mpl.rcParams["axes.facecolor"], mpl.rcParams["text.color"]
    ring = {"marker": "o", "markersize": 9, "markerfacecolor": "none", "markeredgecolor": ink, "markeredgewidth": 1.4}
    ax.plot(
        [list(shown.keys).index(e.key.position)],
        [e.query - shown.queries[0]],
        linestyle="none",
        clip_on=False,
        zorder=5,
        path_effects=[withStroke(linewidth=3.4, foreground=page)],
        **ring,
    )
    figure = ax.get_figure(root=True)
    assert figure is not None
    for text in texts_of(figure):
        text.set_text(words.get(text.get_text(), text.get_text()))
    return figure


def row_figure(
    e: Explanation,
    keys: Sequence[Key],
    words: Mapping[str, str],
    *,
    title: str,
    caption: str | None = None,
    width: float | None = None,
    cmap: Any = None,
) -> Figure:
    """The weights of the query's row: a bar a key, the rest as one.

    Args:
        e: what is explained.
        keys: those that have a bar each.
        words: what the figure says, by its English words.
        title: above the bars.
        caption, width, cmap: as :func:`~attnviz.show.figures.heatmap.heatmap` takes them.
    """
    palette = colormap(cmap, "weights")
    rest = [key for key in e.keys if key not in keys]
    names = [_name(key) for key in keys]
    weights = [key.weight for key in keys]
    colors = [palette(0.92 if key == e.key else 0.4) for key in keys]
    if rest:
        names.append(words.get("other {n}", "other {n}").format(n=f"{len(rest):,}"))
        weights.append(math.fsum(key.weight for key in rest))
        colors.append(palette(0.2))
    size = points("ytick.labelsize")
    across = 5.0 if width is None else width
    left = EDGE + max(width_of(name, size) for name in names) + 0.1
    said, head = caption_lines(caption, across), wrapped(title, across - 2 * EDGE, points("axes.titlesize"))
    above, below = EDGE + line("axes.titlesize", len(head)) + 0.06, 0.46 + line("figure.labelsize", len(said))
    tall = 0.21 * len(names) + 0.06
    figure = Figure(figsize=(across, above + tall + below))
    ax = figure.add_axes(
        (left / across, below / (above + tall + below), 1 - (left + 2 * EDGE) / across, tall / (above + tall + below))
    )
    ax.barh(range(len(names)), weights, color=colors, height=0.7)
    for n, weight in enumerate(weights):
        ax.text(weight, n, f" {weight:.3f}", va="center", ha="left", fontsize=size, color=mpl.rcParams["ytick.color"])
    ax.set_yticks(range(len(names)), names, parse_math=False)
    ax.set_xlim(0, max(1e-9, *weights) * 1.14)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlabel(words.get("weight (softmax)", "weight (softmax)"), labelpad=3)
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
    frame(ax)
    high = float(figure.get_figheight())
    write(figure, EDGE, high - EDGE, "\n".join(head), "axes.titlesize", va="top", ha="left")
    write_below(figure, said)
    return figure


def _name(key: Key) -> str:
    """What stands beside a key's bar."""
    name = f"{key.position}" if key.number is None else f"#{key.number}"
    if key.token is None:
        return name
    token = one_line(key.token)
    return f"{name} {token if len(token) <= _LABEL else token[: _LABEL - 1] + '…'}"
