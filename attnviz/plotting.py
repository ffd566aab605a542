"""From inputs to a picture in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from attnviz.attention import AttentionInputs
from attnviz.figures.heatmap import heads_grid, heatmap
from attnviz.maps import attention_map
from attnviz.patterns import Pattern

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure


def plot(
    inputs: AttentionInputs,
    head: int = 0,
    pattern: Pattern | None = None,
    *,
    batch: int = 0,
    values: str = "weights",
    pixels: int = 1024,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    ax: Axes | None = None,
    cmap: str | Colormap | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    annot: bool = False,
    title: str | None = None,
) -> Axes:
    """Draws one head's heatmap.

    Args:
        inputs, head, pattern, batch, values, pixels, device, dtype: as in :func:`attnviz.attention_map`.
        ax: the Axes to draw into; None makes a figure.
        cmap, vmin, vmax, annot, title: as in :func:`attnviz.figures.heatmap.heatmap`.

    Returns:
        The Axes drawn into.

    Raises:
        InputError: as :func:`attnviz.score` and :func:`attnviz.figures.heatmap.heatmap`.

    >>> import attnviz
    >>> attnviz.plot(attnviz.synthesize(), head=3).get_title()
    'head 3'
    """
    shown = attention_map(inputs, head, pattern, batch=batch, values=values, pixels=pixels, device=device, dtype=dtype)
    return heatmap(shown, ax, cmap=cmap, vmin=vmin, vmax=vmax, annot=annot, title=title)


def plot_heads(
    inputs: AttentionInputs,
    heads: Sequence[int] | None = None,
    pattern: Pattern | None = None,
    *,
    batch: int = 0,
    values: str = "weights",
    pixels: int = 320,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    cmap: str | Colormap | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    annot: bool = False,
    title: str | None = None,
) -> Figure:
    """Draws a grid of heads with one color scale; None is every head.

    The other arguments are those of :func:`plot`.

    Returns:
        The figure.
    """
    maps = [
        attention_map(inputs, head, pattern, batch=batch, values=values, pixels=pixels, device=device, dtype=dtype)
        for head in (range(inputs.H) if heads is None else heads)
    ]
    return heads_grid(maps, cmap=cmap, vmin=vmin, vmax=vmax, annot=annot, title=title)
