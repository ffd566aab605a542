"""From inputs to a picture in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import matplotlib as mpl
import torch

from attnviz.attention.inputs import AttentionInputs
from attnviz.attention.patterns import Pattern
from attnviz.base.errors import InputError
from attnviz.base.selections import parse_token
from attnviz.base.types import Progress
from attnviz.captures.run import Run
from attnviz.compare.maps import compare_maps
from attnviz.engine.ranks import Ranks
from attnviz.maps.layers import Layers, overview_rows
from attnviz.maps.map import AttentionMap, attention_map
from attnviz.maps.marginals import marginals
from attnviz.maps.reasons import reason_map
from attnviz.show.figures.cells import most_cells
from attnviz.show.figures.detail import detail
from attnviz.show.figures.difference import comparison_inches, difference_figure
from attnviz.show.figures.heatmap import heads_grid, heatmap, panel_inches
from attnviz.show.figures.outline import outline
from attnviz.show.figures.overview import overview_figure, panel_pixels
from attnviz.show.figures.scales import ScaleOptions
from attnviz.show.figures.strip import strip, strips

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class MapOptions(TypedDict, total=False):
    """What to compute: the keyword arguments of :func:`attnviz.attention_map`."""

    batch: int
    values: str
    reduce: str
    pixels: int
    queries: range | None
    keys: range | None
    device: str | torch.device | None
    dtype: str | torch.dtype | None
    memory: int | None
    progress: Progress | None
    ranks: Ranks | None


class Look(ScaleOptions, total=False):
    """How to draw: the keyword arguments of :func:`attnviz.heatmap`."""

    annot: bool
    title: str | None
    caption: str | None
    width: float | None


class PlotOptions(MapOptions, Look):
    """What to compute and how to draw it."""


def plot(
    inputs: AttentionInputs,
    head: int = 0,
    pattern: Pattern | None = None,
    *,
    ax: Axes | None = None,
    pattern_outline: bool = False,
    **options: Unpack[PlotOptions],
) -> Axes:
    """Draws one head's heatmap.

    Args:
        inputs, head, pattern: as in :func:`attnviz.attention_map`.
        ax: the Axes to draw into; None makes a figure.
        pattern_outline: whether to draw the edges of the pattern over the map, in the colors of its parts.
        options: keyword arguments of :func:`attnviz.attention_map` (``batch``, ``values``, ``reduce``, ``pixels``,
            ``queries``, ``keys``, ``device``, ``dtype``) and of :func:`attnviz.heatmap` (``norm``,
            ``robust``, ``vmin``, ``vmax``, ``cmap``, ``annot``, ``title``,
            ``caption``, ``width``).

    Returns:
        The Axes drawn into.

    Raises:
        InputError: as those two.

    >>> import attnviz
    >>> attnviz.plot(attnviz.synthesize(), head=3, cmap="viridis").get_title()
    'head 3'
    """
    what, look = _split(options)
    shown = attention_map(inputs, head, pattern, **what)
    ax = heatmap(shown, ax, **look)
    if pattern_outline:
        same = {name: what[name] for name in ("batch", "queries") if name in what}
        finest = max(shown.cells.shape)
        outline(reason_map(inputs, pattern, pixels=finest, keys=_columns(shown), **same), ax, legend=True)
    return ax


def plot_detail(
    inputs: AttentionInputs,
    head: int = 0,
    pattern: Pattern | None = None,
    *,
    ax: Axes | None = None,
    **options: Unpack[PlotOptions],
) -> Axes:
    """Draws one head's heatmap with the attention each key receives above it and each query's entropy beside it.

    Args:
        inputs, head, pattern, ax, options: as in :func:`plot`.

    Returns:
        The Axes of the map; those of its sides are its ``child_axes``.

    Raises:
        InputError: as :func:`plot`.

    >>> import attnviz
    >>> ax = attnviz.plot_detail(attnviz.synthesize(), head=3)
    >>> [side.get_xlabel() or side.get_ylabel() for side in ax.child_axes]
    ['weight\\nreceived', 'entropy\\n(nats)']
    """
    what, look = _split(options)
    sides = {name: what[name] for name in ("batch", "queries", "keys", "device", "dtype", "progress") if name in what}
    shown = attention_map(inputs, head, pattern, **what)
    return detail(shown, marginals(inputs, head, pattern, **sides), ax, **look)


def plot_strip(
    inputs: AttentionInputs,
    query: int | str,
    heads: int | Sequence[int] = 0,
    pattern: Pattern | None = None,
    *,
    ax: Axes | None = None,
    **options: Unpack[PlotOptions],
) -> Axes | Figure:
    """Draws the tokens of a text in reading order, each shaded by the weight that one query gives it.

    Args:
        inputs, pattern, ax: as in :func:`plot`.
        query: the query's position, or its token or word.
        heads: a query head, or several for a strip each, one above the other with one color scale.
        options: as in :func:`plot`, ``queries``, ``pixels``, ``reduce`` and ``annot`` apart.

    Returns:
        The Axes drawn into, or the figure of several heads.

    Raises:
        InputError: as :func:`plot`; a query that is not there; more tokens than anyone reads.

    >>> import attnviz
    >>> attnviz.plot_strip(attnviz.synthesize(), query=4, heads=3).get_title(loc="left")
    'head 3 · what query 4 (t4) sees'
    """
    what, look = _split(options)
    if isinstance(query, str):
        item = inputs.item(what.get("batch", 0))
        query = parse_token(query, item.T, item.query_tokens, option="query", noun="query", source=inputs.source)[-1]
    what |= {"queries": range(query, query + 1), "pixels": inputs.S, "every_key": True}
    if isinstance(heads, int):
        return strip(attention_map(inputs, heads, pattern, **what), ax, **look)
    return strips([attention_map(inputs, head, pattern, **what) for head in heads], **look)


def plot_comparison(
    a: AttentionInputs,
    b: AttentionInputs,
    heads: Sequence[int] | None = None,
    pattern: Pattern | None = None,
    b_pattern: Pattern | None = None,
    **options: Unpack[PlotOptions],
) -> Figure:
    """Draws two maps of each head on one color scale, and their difference: A, B and A - B side by side.

    Args:
        a, b, pattern, b_pattern: as in :func:`attnviz.compare_maps`.
        heads: the query heads, a row each; None is all.
        options: as in :func:`plot`, ``annot`` apart.

    Returns:
        The figure.

    Raises:
        InputError: as :func:`plot`; inputs of different sizes.

    >>> import attnviz
    >>> figure = attnviz.plot_comparison(attnviz.synthesize(), attnviz.synthesize(seed=1), heads=[3])
    >>> figure.axes[2].get_title()
    'A − B'
    """
    what, look = _split(options)
    chosen = range(a.H) if heads is None else heads
    what["pixels"] = _pixels(what, comparison_inches(_size(a, what), look.get("width")))
    return difference_figure([compare_maps(a, b, head, pattern, b_pattern, **what) for head in chosen], **look)


def plot_heads(
    inputs: AttentionInputs,
    heads: Sequence[int] | None = None,
    pattern: Pattern | None = None,
    **options: Unpack[PlotOptions],
) -> Figure:
    """Draws a grid of heads with one color scale.

    Args:
        inputs, pattern: as in :func:`attnviz.attention_map`.
        heads: the query heads; None is all.
        options: as in :func:`plot`; ``pixels`` is as many as a panel has.

    Returns:
        The figure.

    Raises:
        InputError: as :func:`plot`.
    """
    what, look = _split(options)
    chosen = range(inputs.H) if heads is None else heads
    what["pixels"] = _pixels(what, panel_inches(_size(inputs, what), len(chosen), look.get("width")))
    return heads_grid([attention_map(inputs, head, pattern, **what) for head in chosen], **look)


def plot_overview(
    source: str | Path | Run | AttentionInputs | Sequence[AttentionInputs],
    pattern: Pattern | None = None,
    *,
    layers: Sequence[int | str] | None = None,
    heads: Sequence[int] | None = None,
    ax: Axes | None = None,
    each: bool = False,
    **options: Unpack[PlotOptions],
) -> Axes:
    """Draws a whole model at a glance: layers down, heads across, a small map each.

    Args:
        source: a dump's path, what :func:`attnviz.capture` gave, or inputs: of one layer, or of several in order. One
            layer is in memory at a time.
        pattern: which query sees which key; None is each layer's own, else the global keys.
        layers: the labels of layers, in the order wanted; None is all.
        heads: the query heads of each layer; None is all.
        ax: the Axes to draw into; None makes a figure.
        each: whether each panel has a color scale of its own; otherwise all share one.
        options: as in :func:`plot`, ``queries``, ``keys`` and ``annot`` apart; ``pixels`` is as many as a panel has.

    Returns:
        The Axes drawn into: panel (layer, head) is around x = head, y = layer.

    Raises:
        InputError: as :func:`plot`; a layer that is not there.

    >>> import attnviz
    >>> attnviz.plot_overview([attnviz.synthesize(seed=seed) for seed in range(3)]).get_title()
    '3 layers, 24 heads'
    """
    what, look = _split(options)
    chosen = Layers(source, layers)
    across = len(heads) if heads is not None else next(iter(chosen))[1].H
    if ax is None:
        pixels = panel_pixels(len(chosen), across, mpl.rcParams["figure.dpi"], options.get("width"))
    else:
        size = ax.get_window_extent().size  # before the color bar takes its part
        pixels = most_cells((size[0] / across, size[1] / len(chosen)), 1)
    what["pixels"] = min(what.get("pixels", 1024), pixels)
    return overview_figure(overview_rows(chosen, pattern, heads=heads, **what), ax, each=each, **look)


def _columns(shown: AttentionMap) -> range:
    """The keys of a map that has a column for each. Raises InputError for one of global keys alone."""
    if not isinstance(shown.keys, range):
        raise InputError(
            f"the columns of this map are the keys of the {shown.pattern} pattern alone, all visible: there is no edge to "
            f"draw; choose another pattern"
        )
    return shown.keys


def _size(inputs: AttentionInputs, what: dict[str, Any]) -> tuple[int, int]:
    """How many queries and keys are shown."""
    return len(what.get("queries") or range(inputs.T)), len(what.get("keys") or range(inputs.S))


def _pixels(what: dict[str, Any], inches: tuple[float, float]) -> int:
    """The most cells a side of a panel: more than it has pixels would take time and memory, and show no more."""
    return int(min(what.get("pixels", 1024), most_cells(inches, mpl.rcParams["figure.dpi"])))


def _split(options: PlotOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    given = dict(options)
    return {name: given.pop(name) for name in MapOptions.__annotations__ if name in given}, given
