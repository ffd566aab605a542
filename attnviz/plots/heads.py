"""Figures of numbers of heads: a statistic of every head of a model, and curves by distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attnviz.base.errors import InputError, not_one_of
from attnviz.measures.curves import HeadCurves
from attnviz.measures.statistics import STATISTICS, HeadStatistics
from attnviz.plots.look import COLORS, Look
from attnviz.plots.taking import looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = tuple(name for name in COLORS if name != "marks")  # of numbers, none is marked


@looks("width", *_COLORS, of="head_statistics")
def plot_statistics(
    rows: Sequence[HeadStatistics],
    statistic: str = "entropy",
    *,
    by_layer: bool = False,
    ax: Axes | None = None,
    title: str | None = None,
    caption: str | None = None,
    **look: Any,
) -> Axes:
    """Draws one statistic of every head: layers down and heads across, or a line a head by layer.

    Args:
        rows: as :func:`attnviz.head_statistics` gives them, of one layer or of several in one list.
        statistic: one of :data:`attnviz.measures.statistics.STATISTICS`.
        by_layer: layers across, a line a head, and their mean.
        ax: the Axes to draw into; None makes a figure.
        title: None says which statistic.
        caption: what is written under the figure.
        look: how it looks.

    Returns:
        The Axes drawn into.

    Raises:
        InputError: no rows; a statistic that is not there; colors of lines.

    >>> import attnviz
    >>> rows = attnviz.head_statistics(attnviz.synthesize(), "causal")
    >>> plot_statistics(rows, "sink_mass").get_title()
    'sink mass'
    """
    from attnviz.show.figures.lines import lines_figure
    from attnviz.show.figures.statistics import statistics_figure
    from attnviz.show.figures.style import showing

    rows = list(rows)
    if not rows:
        raise InputError("there are no rows of statistics; take them from attnviz.head_statistics(inputs)")
    if statistic not in STATISTICS:
        raise not_one_of("statistic", statistic, STATISTICS)
    asked = Look(**look)
    how: dict[str, Any] = {"title": title, "caption": caption, "width": asked.inches}
    if by_layer:
        for name in look:
            if name in _COLORS:
                raise InputError(f"{name}: lines have no color scale; leave it out")
        found = lines_figure(rows, statistic, ax, **how)
    else:
        found = statistics_figure(rows, statistic, ax, **how, **asked.colors)
    return found if ax is not None else showing(found)


@looks("width", of="head_curves")
def plot_curves(
    found: Sequence[HeadCurves],
    curve: str = "windows",
    *,
    ax: Axes | None = None,
    title: str | None = None,
    caption: str | None = None,
    **look: Any,
) -> Axes | Figure:
    """Draws the weight of heads by distance, or what windows of each width keep: a line a head, a panel a layer.

    Args:
        found: as :func:`attnviz.head_curves` gives them, of one layer or of several in one list.
        curve: ``windows`` or ``distance``.
        ax: the Axes to draw into, for one layer; None makes a figure.
        title: None says which curve.
        caption: what is written under the figure.
        look: how it looks.

    Returns:
        The Axes drawn into, or the figure.

    Raises:
        InputError: no curves, or none of this name; several layers into Axes that were given.

    >>> import attnviz
    >>> figure = plot_curves(attnviz.head_curves(attnviz.synthesize(), "causal"), "distance")
    >>> figure.texts[0].get_text(), len(figure.axes[0].lines)
    ('distance, positions', 9)
    """
    from attnviz.show.figures.curves import CURVES, curves_figure
    from attnviz.show.figures.style import showing

    found = list(found)
    if not found:
        raise InputError("there are no curves; take them from attnviz.head_curves(inputs)")
    if curve not in CURVES:
        raise not_one_of("curve", curve, CURVES)
    if ax is not None and len({one.layer for one in found}) > 1:
        raise InputError("several layers have a panel each, in a figure of their own; leave ax out")
    drawn = curves_figure(found, curve, ax, title=title, caption=caption, width=Look(**look).inches)
    return drawn if ax is not None else showing(drawn)
