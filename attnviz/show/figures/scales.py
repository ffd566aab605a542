"""Color scales that tell the truth: from values to colors, one scale for all maps of a figure.

A :class:`ColorScale` is what is asked for; :meth:`ColorScale.fit` makes a :class:`FittedScale` of it and of the maps
to draw, which figures share between their panels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
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
        dashed = fitted.signed and fitted.low < 0 and is_twofold(cmap)
        return FittedScale(self, norm, cmap, name + fitted.suffix, fitted.extend, ticks, fitted.note, values, dashed)


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
        values: what it is a scale of.
        dashed: whether what is below 0 is dashed, as in gray its colors are those of what is above.
    """

    asked: ColorScale
    norm: Normalize
    cmap: Colormap
    label: str
    extend: str
    ticks: tuple[float, ...] | None
    note: str
    values: str
    dashed: bool = False

    def marked(self, marks: bool) -> FittedScale:
        """The same, where nothing is marked without dashes."""
        return self if marks else replace(self, dashed=False)

    @property
    def below(self) -> Callable[[Values], Values] | None:
        """Which values of :meth:`cells` are dashed: those below 0 whose color is not the middle's. None where none is."""
        return self._is_below if self.dashed else None

    @property
    def dashed_until(self) -> float:
        """The share of the scale at which dashes end."""
        zero = float(self.norm(0.0)) if self.norm.vmin is not None and self.norm.vmin < 0 else 0.5
        return min(zero, 0.5 - _FAINT)

    def _is_below(self, cells: Values) -> Values:
        values = np.ma.masked_invalid(cells)
        found: Values = np.ma.filled((values < 0) & (abs(self.norm(values) - 0.5) >= _FAINT), False)
        return found

    def has_below(self, maps: Iterable[Values]) -> bool:
        """Whether something of these cells is dashed."""
        return self.dashed and any(bool(self._is_below(self.cells(cells)).any()) for cells in maps)

    def cells(self, cells: Values) -> np.ma.MaskedArray[Any, Any]:
        """What to draw of a map's ``cells``, blank ones masked: the values, or what the norm makes of each row."""
        cells = of_rows(cells, self.values) if self.asked.norm == "row" else cells
        if isinstance(self.norm, LogNorm):  # 0 is visible: below the floor, not blank
            cells = np.where(cells <= 0, np.finfo(np.float64).tiny, cells)
        return np.ma.masked_invalid(cells)


_FAINT = 0.03
"""Of a scale, from its middle: what is nearer has no color to speak of, and no dash."""


def is_twofold(cmap: Colormap) -> bool:
    """Whether a palette is darkest or lightest in its middle, so that in gray both of its halves look alike.

    >>> [name for name in ("poles", "coolwarm", "magma", "viridis") if is_twofold(colormap(name, "difference"))]
    ['poles', 'coolwarm']
    """
    low, middle, high = (0.299 * red + 0.587 * green + 0.114 * blue for red, green, blue, _ in cmap([0.0, 0.5, 1.0]))
    return bool((low - middle) * (high - middle) > 0)


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
