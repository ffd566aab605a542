"""From inputs to a picture in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import matplotlib as mpl
import torch

from attnviz.attention import AttentionInputs
from attnviz.captures import Run
from attnviz.figures.heatmap import heads_grid, heatmap, most_pixels
from attnviz.figures.overview import overview_figure, panel_pixels, panel_room
from attnviz.figures.scales import ScaleOptions
from attnviz.maps import attention_map
from attnviz.overviews import Layers, overview_rows
from attnviz.patterns import Pattern
from attnviz.reductions import Progress, Reduced

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
    reduce_with: Callable[..., Reduced]


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
    **options: Unpack[PlotOptions],
) -> Axes:
    """Draws one head's heatmap.

    Args:
        inputs, head, pattern: as in :func:`attnviz.attention_map`.
        ax: the Axes to draw into; None makes a figure.
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
    # More cells than the Axes have pixels would fall between them; the color scale takes its part too.
    room = most_pixels(1, mpl.rcParams["figure.dpi"]) if ax is None else int(0.8 * min(ax.get_window_extent().size))
    what["pixels"] = max(1, min(what.get("pixels", 1024), room))
    return heatmap(attention_map(inputs, head, pattern, **what), ax, **look)


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
    what["pixels"] = min(what.get("pixels", 1024), most_pixels(len(chosen), mpl.rcParams["figure.dpi"]))
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
        pixels = panel_room(ax, len(chosen), across)
    what["pixels"] = min(what.get("pixels", 1024), pixels)
    return overview_figure(overview_rows(chosen, pattern, heads=heads, **what), ax, each=each, **look)


def _split(options: PlotOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    given = dict(options)
    return {name: given.pop(name) for name in MapOptions.__annotations__ if name in given}, given
