"""Color bars: what the colors of a figure mean, beside its panels or in the room that a short last row leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

from attnviz.show.figures.cells import hatch_colors
from attnviz.show.figures.dashes import dash_bar
from attnviz.show.figures.layout import line, place, points, width_of, wrapped, write
from attnviz.show.figures.scales import FittedScale, RankNorm
from attnviz.show.figures.vectors import APART, THICK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

NOT_VISIBLE = "not visible"

_THICK = 0.12  # inches across a bar, and of the swatch of what is not visible
_PAD = 0.1  # between panels and bar
_LEAST = 1.0  # inches of a bar that lies
_MOST = 4.5  # inches of a bar

FRAME: dict[str, Any] = {"linewidth": 0.5, "edgecolor": "0.55"}


def frame(ax: Axes) -> None:
    """A thin frame, whatever the style says: the 0 of a scale is the page."""
    for spine in ax.spines.values():
        spine.set(visible=True, **FRAME)


def without_ticks(ax: Axes) -> None:
    """Leaves both axes out: not set_xticks([]), as what is not there takes no time to lay out."""
    ax.xaxis.set_visible(False)
    ax.yaxis.set_visible(False)


class Bar:
    """The color bar of a figure whose places are computed, with a swatch of what is not visible where there is any.

    Args:
        figure: it is added to.
        scale: what it shows.
        blank: whether something is not visible.
        label: what it measures; None is the scale's own.
        cmap: the palette as it is seen; None is the scale's own.
    """

    def __init__(
        self,
        figure: Figure,
        scale: FittedScale,
        *,
        blank: bool,
        label: str | None = None,
        cmap: Colormap | None = None,
    ) -> None:
        self.figure, self.scale, self.blank = figure, scale, blank
        self.cmap = scale.cmap if cmap is None else cmap
        self.label = scale.label if label is None else label
        self.bar = self._made(lying=False)

    def _made(self, *, lying: bool) -> Colorbar:
        mappable = ScalarMappable(self.scale.norm, self.cmap)
        ax = self.figure.add_axes((0, 0, 0.1, 0.9), label="color bar")
        orientation = "horizontal" if lying else "vertical"
        bar = self.figure.colorbar(mappable, cax=ax, extend=self.scale.extend, orientation=orientation)
        dress(bar, self.scale, label=self.label)
        return bar

    def room(self, tall: float) -> float:
        """Inches across that it takes beside panels of ``tall`` inches, its pad included."""
        own = min(tall, _MOST)
        place(self.bar.ax, (0, 0, _THICK, own), tuple(self.figure.get_size_inches()))
        self.bar.set_label("\n".join(wrapped(self.label, max(own, 0.8), points("axes.labelsize"))))
        axis = self.bar.ax.yaxis
        texts = axis.get_major_formatter().format_ticks(list(axis.get_majorticklocs()))
        # At least as much as most numbers take, so that figures of like maps have one size.
        ticks = max(width_of(text, points("ytick.labelsize")) for text in ("0.00", *texts))
        lines = line("axes.labelsize", self.bar.ax.get_ylabel().count("\n") + 1)
        bar = _THICK + _beside_ticks("ytick") + ticks + float(mpl.rcParams["axes.labelpad"]) / 72 + lines
        swatch = _THICK + 0.05 + max(width_of(word, points("xtick.labelsize")) for word in NOT_VISIBLE.split())
        return _PAD + max(bar, swatch if self.blank else 0) + 0.04

    @property
    def below(self) -> float:
        """Inches below the panels that the swatch takes."""
        return 0.1 + line("xtick.labelsize", 2) + 0.06 if self.blank else 0.06

    def beside(self, left: float, bottom: float, tall: float) -> None:
        """Stands it at ``left``, its top where panels from ``bottom`` on, ``tall`` inches, end; :meth:`room` was asked."""
        own = min(tall, _MOST)
        left += _PAD
        place(self.bar.ax, (left, bottom + tall - own, _THICK, own), tuple(self.figure.get_size_inches()))
        self._finish(own)
        if self.blank:
            self._swatch(left, bottom + tall - own - 0.1 - _THICK, NOT_VISIBLE.replace(" ", "\n"))

    def depth_in(self, inches: float) -> float:
        """Inches from top to bottom that it takes where it lies in so many across."""
        letters = _beside_ticks("xtick") + line("xtick.labelsize") + float(mpl.rcParams["axes.labelpad"]) / 72
        lines = len(wrapped(self.label, inches - 0.1, points("axes.labelsize")))
        return 0.08 + _THICK + letters + line("axes.labelsize", lines) + (0.26 if self.blank else 0)

    def fits(self, box: tuple[float, float, float, float], taken: float) -> bool:
        """Whether it can lie in a box in inches whose upper ``taken`` inches are full."""
        wide = width_of(self.label, points("axes.labelsize"))
        return box[2] - 0.3 >= max(_LEAST, wide) and box[3] - taken >= self.depth_in(box[2])

    def lies(self, box: tuple[float, float, float, float], taken: float, *, middle: bool = True) -> None:
        """Lays it in a box in inches whose upper ``taken`` inches are full; in the ``middle`` of the rest, or above."""
        wide = min(max(box[2] - 0.3, 0.8 * box[2]), _MOST / 1.5)
        left, top = box[0] + (box[2] - wide) / 2, box[1] + box[3] - taken - 0.08
        depth = self.depth_in(box[2])
        if middle:
            top -= max(0.0, (box[3] - taken - depth) / 2)
        self.bar.ax.remove()
        self.bar = self._made(lying=True)
        self.bar.set_label("\n".join(wrapped(self.label, box[2] - 0.1, points("axes.labelsize"))))
        place(self.bar.ax, (left, top - _THICK, wide, _THICK), tuple(self.figure.get_size_inches()))
        self._finish(wide)
        if self.blank:
            self._swatch(left, top + 0.08 - depth, NOT_VISIBLE)

    def _finish(self, inches: float) -> None:
        """Dashes on a bar of this length, and leaves out the ticks whose labels would touch."""
        lying = self.bar.orientation == "horizontal"
        dash_bar(self.bar.ax, self.scale, inches, lying=lying)
        axis = self.bar.ax.xaxis if lying else self.bar.ax.yaxis
        plain = points("xtick.labelsize" if lying else "ytick.labelsize")
        size = float(axis.get_tick_params().get("labelsize", plain))  # its labels would be made, to be asked
        low, high = sorted(axis.get_view_interval())
        at = [float(x) for x in axis.get_majorticklocs() if low <= x <= high]
        kept: list[float] = []
        end = -math.inf
        for x, text in zip(at, axis.get_major_formatter().format_ticks(at), strict=True):
            half, middle = (width_of(text, size) if lying else size / 72) / 2, float(self.bar.norm(x)) * inches
            if middle - half >= end + 3 / 72:
                kept.append(x)
                end = middle + half
        if len(kept) < len(at):
            axis.set_major_locator(FixedLocator(kept))

    def _swatch(self, left: float, bottom: float, text: str) -> None:
        swatch(self.figure, self.scale, left, bottom, text)


def swatch(figure: Figure, scale: FittedScale, left: float, bottom: float, text: str = NOT_VISIBLE) -> None:
    """What the look of cells that are not visible means, at a place in inches."""
    bad, inches = scale.cmap.get_bad(), figure.dpi_scale_trans
    box = Rectangle((left, bottom), _THICK, _THICK, transform=inches, facecolor=bad, label=NOT_VISIBLE, **FRAME)
    apart = APART / 72
    starts = left - bottom + np.arange(-_THICK // apart, _THICK // apart + 1) * apart  # of lines at 45 degrees
    lines = [[(bottom + start, bottom), (bottom + start + _THICK, bottom + _THICK)] for start in starts]
    stripes = LineCollection(lines, colors=[hatch_colors(bad)[0] / 255], linewidths=THICK, transform=inches)
    stripes.set_clip_path(box)
    for artist in (box, stripes):  # no Axes, which take a tenth of the time of a small figure
        figure.add_artist(artist)
    top = bottom + _THICK + (line("xtick.labelsize") - _THICK) / 2
    color = mpl.rcParams["xtick.color"]
    write(figure, left + _THICK + 0.05, top, text, "xtick.labelsize", va="top", color=color, linespacing=1.05)


def _beside_ticks(axis: str) -> float:
    """Inches of a tick and of what is between it and its label."""
    settings: dict[Any, Any] = mpl.rcParams
    return float(settings[f"{axis}.major.size"] + settings[f"{axis}.major.pad"]) / 72


def colorbar(image: AxesImage | ScalarMappable, axes: Sequence[Axes], scale: FittedScale) -> Colorbar:
    """The color scale beside Axes that were given, as high as they are, with its unit and its norm."""
    figure = axes[0].get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches()
    boxes = [ax.get_position() for ax in axes]
    wide = (max(box.x1 for box in boxes) - min(box.x0 for box in boxes)) * width
    tall = (max(box.y1 for box in boxes) - min(box.y0 for box in boxes)) * height
    bar = figure.colorbar(
        image,
        ax=axes,
        fraction=min(0.3, 2.7 * _THICK / wide),
        pad=0.1 / width,
        aspect=max(tall / _THICK, 5),
        extend=scale.extend,
    )
    dress(bar, scale)
    dash_bar(bar.ax, scale, tall, lying=False)
    return bar


def dress(bar: Colorbar, scale: FittedScale, *, label: str | None = None) -> None:
    """The label, plain ticks and the frame of a color bar."""
    # Vectors in a PDF and an SVG; each step reaches under the next, so that no seam shows the page.
    assert bar.solids is not None
    bar.solids.set(rasterized=False, edgecolor="face", linewidth=0.3)
    axis = bar.ax.xaxis if bar.orientation == "horizontal" else bar.ax.yaxis
    if isinstance(scale.norm, LogNorm):
        decades = math.log10(scale.norm.vmax / scale.norm.vmin)  # type: ignore[operator]
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)))
        axis.set_minor_formatter(NullFormatter())
    if scale.ticks is not None:
        bar.set_ticks(scale.ticks, labels=[f"{tick:.3g}" for tick in scale.ticks])
        bar.minorticks_off()
    else:
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.4g}"))
    if bar.orientation == "horizontal" and isinstance(scale.norm, RankNorm):
        axis.set_tick_params(labelsize=0.85 * points("xtick.labelsize"))
    bar.set_label(scale.label if label is None else label)
    bar.outline.set(visible=True, **FRAME)
