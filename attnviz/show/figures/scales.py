"""Color scales that tell the truth: from values to colors, one scale for all maps of a figure.

A :class:`ColorScale` is what is asked for; :meth:`ColorScale.fit` makes a :class:`FittedScale` of it and of the maps
to draw, which figures share between their panels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from matplotlib.colors import FuncNorm, LogNorm, Normalize, PowerNorm, SymLogNorm, TwoSlopeNorm

from attnviz.show.figures.style import colormap
from attnviz.show.scale.scaling import LABELS, FittedScaling, Scaling, Values, of_rows, signed_root, signed_square

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

    from attnviz.maps.map import AttentionMap


class ScaleOptions(TypedDict, total=False):
    """The fields of :class:`ColorScale`, as keyword arguments of figures."""

    norm: str
    robust: bool
    vmin: float | None
    vmax: float | None
    cmap: str | Colormap | None


@dataclass(frozen=True)
class ColorScale(Scaling):
    """How values become colors.

    Args:
        norm, robust, vmin, vmax: as in :class:`attnviz.show.scale.scaling.Scaling`. Where values lie beyond the ends, the color
            bar has an arrow.
        cmap: a palette of matplotlib or seaborn; None is sequential for weights, diverging for other values.

    Raises:
        InputError: no such norm, or ends that a norm has no use for.

    >>> import attnviz
    >>> shown = attnviz.attention_map(attnviz.synthesize(), head=3)
    >>> ColorScale(norm="log").fit([shown]).label
    'weight (softmax), log'
    """

    cmap: str | Colormap | None = None

    def fit(self, maps: Sequence[AttentionMap], label: str | None = None) -> FittedScale:
        """The scale for ``maps``, all of the same kind of values.

        Args:
            maps: what is drawn with it.
            label: what the values measure, with its unit; None says it for weights and logits.

        Raises:
            InputError: an empty scale, no such palette, or a log scale of logits.
        """
        if label is None and maps[0].values == "weights":
            given = LABELS["given"] if any(shown.given for shown in maps) else None
            label = maps[0].measured or given
        return self.fit_cells([shown.cells for shown in maps], maps[0].values, label)

    def fit_cells(self, cells: Sequence[Values], values: str, label: str | None = None) -> FittedScale:
        """As :meth:`fit`, of arrays of ``values`` (``weights``, ``logits`` or ``difference``), blank where NaN."""
        fitted = self.fit_values(cells, values)
        values = fitted.values
        norm = _norm(fitted)
        ticks: tuple[float, ...] | None = None
        if isinstance(norm, RankNorm):
            ticks = tuple(dict.fromkeys(float(norm.inverse(share)) for share in (0, 0.25, 0.5, 0.75, 1)))
        cmap = colormap(self.cmap, "weights" if self.norm == "rank" or not fitted.signed else values)
        name = LABELS.get(values, values) if label is None else label
        return FittedScale(self, norm, cmap, name + fitted.suffix, fitted.extend, ticks, fitted.note, values)


@dataclass(frozen=True)
class FittedScale:
    """A color scale with its ends, shared by the panels of a figure.

    Args:
        asked: what it is made from.
        norm: matplotlib's, from what :meth:`cells` gives to 0 … 1.
        cmap: the palette.
        label: of the color bar: what is measured, its unit, and the norm where it is not linear.
        extend: the color bar's arrows: ``neither``, ``min``, ``max`` or ``both``.
        ticks: of the color bar, in the values' unit; None leaves them to matplotlib.
        note: the scale in words, for a caption.
    """

    asked: ColorScale
    norm: Normalize
    cmap: Colormap
    label: str
    extend: str
    ticks: tuple[float, ...] | None
    note: str
    values: str

    def cells(self, cells: Values) -> np.ma.MaskedArray[Any, Any]:
        """What to draw of a map's ``cells``, blank ones masked: the values, or what the norm makes of each row."""
        cells = of_rows(cells, self.values) if self.asked.norm == "row" else cells
        if isinstance(self.norm, LogNorm):  # 0 is visible: below the floor, not blank
            cells = np.where(cells <= 0, np.finfo(np.float64).tiny, cells)
        return np.ma.masked_invalid(cells)


class RankNorm(Normalize):
    """From a value to the share of others below it: equal shares of them in equal steps; those that tie are one.

    Args:
        knots, shares: values, ascending, and the share of each: :func:`attnviz.show.scale.scaling.rank_knots`.
    """

    def __init__(self, knots: Values, shares: Values | None) -> None:
        assert shares is not None
        self.knots, self.shares = knots, shares
        super().__init__(float(knots[0]), float(knots[-1]))

    def __call__(self, value: Any, clip: bool | None = None) -> Any:
        array = np.ma.asarray(value, dtype=np.float64)
        shares = np.interp(array.filled(np.nan), self.knots, self.shares)
        return np.ma.array(shares, mask=np.ma.getmaskarray(array))

    def inverse(self, value: Any) -> Any:
        """From a share to the value that has it."""
        return np.interp(value, self.shares, self.knots)


def _norm(fitted: FittedScaling) -> Normalize:
    """matplotlib's norm of a scale, which also finds the ticks that suit it."""
    low, high = fitted.low, fitted.high
    if fitted.knots is not None:
        return RankNorm(fitted.knots, fitted.knot_shares)
    if fitted.norm == "log":
        if fitted.values == "weights":
            return LogNorm(low, high)
        return SymLogNorm(fitted.linear_reach, vmin=low, vmax=high, base=10)
    if fitted.norm == "power":
        return (
            PowerNorm(0.5, low, high)
            if fitted.values == "weights"
            else FuncNorm((signed_root, signed_square), low, high)
        )
    return TwoSlopeNorm(0.0, low, high) if fitted.signed and low < 0 < high else Normalize(low, high)
