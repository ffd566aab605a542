"""Color scales that tell the truth: from values to colors, one scale for all maps of a figure.

A :class:`ColorScale` is what is asked for; :meth:`ColorScale.fit` makes a :class:`FittedScale` of it and of the maps
to draw, which figures share between their panels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from matplotlib.colors import FuncNorm, LogNorm, Normalize, PowerNorm, SymLogNorm, TwoSlopeNorm

from attnviz.errors import InputError
from attnviz.figures.style import colormap

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

    from attnviz.maps import AttentionMap

Values = np.ndarray[Any, np.dtype[np.floating[Any]]]

NORMS = ("linear", "log", "power", "rank", "row")
"""How values become colors."""

LABELS = {"weights": "weight (softmax)", "logits": "logit (before softmax)"}
"""What each kind of value measures, as color bars say it."""

ROBUST = {"weights": (0.0, 99.0), "other": (2.0, 98.0)}
"""Percentiles of the visible cells at which a robust scale ends."""

DECADES = 6
"""A log scale's most, below its top: beyond, weights are as good as 0."""

_SYMMETRIC_DECADES = 4


class ScaleOptions(TypedDict, total=False):
    """The fields of :class:`ColorScale`, as keyword arguments of figures."""

    norm: str
    robust: bool
    vmin: float | None
    vmax: float | None
    cmap: str | Colormap | None


@dataclass(frozen=True)
class ColorScale:
    """How values become colors.

    Args:
        norm: ``linear``; ``log``, of weights, or symmetric around 0 of differences; ``power``, the square root, which
            lifts small values; ``rank``, equal shares of the visible cells in equal steps of the palette; ``row``,
            each row relative to its own largest value (logits: their distance below it).
        robust: end the scale at the 99th percentile of the visible cells (logits: the 2nd and the 98th), so that a
            few extreme ones do not take it all. The color bar's arrow says that there is more.
        vmin, vmax: the ends of the scale; None starts weights at 0 and balances other values around 0.
        cmap: a palette of matplotlib or seaborn; None is sequential for weights, diverging for other values.

    Raises:
        InputError: no such norm, or ends that a norm has no use for.

    >>> import attnviz
    >>> shown = attnviz.attention_map(attnviz.synthesize(), head=3)
    >>> ColorScale(norm="log").fit([shown]).label
    'weight (softmax), log'
    """

    norm: str = "linear"
    robust: bool = False
    vmin: float | None = None
    vmax: float | None = None
    cmap: str | Colormap | None = None

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise InputError(f"--norm {self.norm!r} is not one of {', '.join(NORMS)}")
        if self.norm == "rank" and (self.robust or self.vmin is not None or self.vmax is not None):
            raise InputError(
                "--norm rank colors cells by their order, which has no ends to move; leave --robust, --vmin and --vmax out"
            )
        if self.robust and self.vmin is not None and self.vmax is not None:
            raise InputError("--robust finds the ends of the scale, and --vmin and --vmax are given; leave it out")
        if self.norm == "log" and self.vmin is not None and self.vmin <= 0:
            raise InputError(
                f"--vmin {self.vmin:g}: a log scale starts above 0; leave it out, or choose another --norm"
            )

    def fit(self, maps: Sequence[AttentionMap], label: str | None = None) -> FittedScale:
        """The scale for ``maps``, all of the same kind of values.

        Args:
            maps: what is drawn with it.
            label: what the values measure, with its unit; None says it for weights and logits.

        Raises:
            InputError: an empty scale, no such palette, or a log scale of logits.
        """
        return self.fit_cells([shown.cells for shown in maps], maps[0].values, label)

    def fit_cells(self, cells: Sequence[Values], values: str, label: str | None = None) -> FittedScale:
        """As :meth:`fit`, of arrays of ``values`` (``weights``, ``logits`` or ``difference``), blank where NaN."""
        if self.norm == "log" and values == "logits":
            raise InputError(
                "--norm log: logits are logarithms of weights already (up to a constant a row); "
                "choose linear, power, rank or row, or --values weights"
            )
        return _Fitter(self, values, cells).fitted(LABELS.get(values, values) if label is None else label)

    @property
    def settled(self) -> bool:
        """Whether anything but the palette is asked for."""
        return self.norm != "linear" or self.robust or self.vmax is not None


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
        cells = _of_rows(cells, self.values) if self.asked.norm == "row" else cells
        if isinstance(self.norm, LogNorm):  # 0 is visible: below the floor, not blank
            cells = np.where(cells <= 0, np.finfo(np.float64).tiny, cells)
        return np.ma.masked_invalid(cells)


class RankNorm(Normalize):
    """From a value to the share of others below it: equal shares of them in equal steps; those that tie are one.

    Args:
        values: any number of finite values.
    """

    def __init__(self, values: Values) -> None:
        self.knots, counts = np.unique(values.astype(np.float64), return_counts=True)
        if not len(self.knots):
            self.knots, counts = np.zeros(1), np.ones(1, dtype=int)
        below = np.cumsum(counts) - counts
        self.shares = below / (below[-1] or 1)
        if len(self.knots) == 1:
            self.knots, self.shares = np.array([self.knots[0], self.knots[0] + 1]), np.array([0.0, 1.0])
        super().__init__(float(self.knots[0]), float(self.knots[-1]))

    def __call__(self, value: Any, clip: bool | None = None) -> Any:
        array = np.ma.asarray(value, dtype=np.float64)
        shares = np.interp(array.filled(np.nan), self.knots, self.shares)
        return np.ma.array(shares, mask=np.ma.getmaskarray(array))

    def inverse(self, value: Any) -> Any:
        """From a share to the value that has it."""
        return np.interp(value, self.shares, self.knots)


class _Fitter:
    """Finds the ends of a scale."""

    def __init__(self, asked: ColorScale, values: str, maps: Sequence[Values]) -> None:
        self.asked, self.values, self.maps = asked, values, maps

    @cached_property
    def visible(self) -> Values:
        """Every visible cell of every map, as the norm takes it."""
        of_rows = self.asked.norm == "row"
        maps = [_of_rows(cells, self.values) if of_rows else cells for cells in self.maps]
        return np.concatenate([cells[np.isfinite(cells)].astype(np.float64) for cells in maps])

    @cached_property
    def extent(self) -> tuple[float, float]:
        """The least and the greatest value."""
        return (float(self.visible.min()), float(self.visible.max())) if self.visible.size else (0.0, 0.0)

    @property
    def signed(self) -> bool:
        """Whether the scale goes both ways from 0."""
        return self.values != "weights" and not (self.values == "logits" and self.asked.norm == "row")

    def fitted(self, label: str) -> FittedScale:
        asked = self.asked
        norm = {"rank": self._rank, "log": self._log, "power": self._power}.get(asked.norm, self._linear)()
        assert norm.vmin is not None
        assert norm.vmax is not None
        ends = (float(norm.vmin), float(norm.vmax))
        ticks: tuple[float, ...] | None = None
        if isinstance(norm, RankNorm):
            ticks = tuple(dict.fromkeys(float(norm.inverse(share)) for share in (0, 0.25, 0.5, 0.75, 1)))
        cmap = colormap(asked.cmap, "weights" if asked.norm == "rank" or not self.signed else self.values)
        return FittedScale(
            asked, norm, cmap, label + self._suffix(), self._extend(ends), ticks, self._note(ends), self.values
        )

    def _suffix(self) -> str:
        if self.asked.norm == "row":
            return " below its row's largest" if self.values == "logits" else ", as a share of its row's largest"
        return {"linear": "", "log": ", log", "power": ", square root", "rank": ", by rank"}[self.asked.norm]

    def _note(self, ends: tuple[float, float]) -> str:
        norm = self.asked.norm
        if norm == "rank":
            return "colors by rank: equal shares of the cells in equal steps"
        name = {"power": "square root", "row": "row (each row by its own largest)"}.get(norm, norm)
        text = f"{name} scale from {ends[0]:.3g} to {ends[1]:.3g}"
        if self.asked.robust:
            text += " (robust: the 99th percentile)" if not self.signed else " (robust: the 2nd and 98th percentiles)"
        if norm == "log" and self.values == "weights" and self.extent[0] < ends[0]:
            text += f"; what is below {ends[0]:.3g}, 0 too, has the lowest color"
        return text

    def _extend(self, ends: tuple[float, float]) -> str:
        if self.asked.norm == "rank":
            return "neither"
        slack = 1e-6 * (ends[1] - ends[0])
        below, above = self.extent[0] < ends[0] - slack, self.extent[1] > ends[1] + slack
        if self.asked.norm == "log" and self.values == "weights":
            below = self.extent[0] < ends[0] * (1 - 1e-6)
        return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[
            below, above
        ]

    def _ends(self) -> tuple[float, float]:
        """The scale's ends: weights from 0 up, other values balanced around 0, where nothing else is asked for."""
        low, high = self.extent
        if self.asked.robust and self.visible.size:
            low, high = np.percentile(self.visible, ROBUST["other" if self.values != "weights" else "weights"])
        if self.signed:
            reach = max(abs(low), abs(high)) or max(map(abs, self.extent)) or 1.0
            low, high = -reach, reach
        elif self.values == "logits":  # below each row's largest
            low, high = low or self.extent[0] or -1.0, 0.0
        else:
            low, high = 0.0, high or self.extent[1] or 1.0
        bottom = float(low) if self.asked.vmin is None else self.asked.vmin
        top = float(high) if self.asked.vmax is None else self.asked.vmax
        return self._checked(bottom, top)

    def _checked(self, bottom: float, top: float) -> tuple[float, float]:
        if not bottom < top:
            raise InputError(f"the color scale runs from {bottom:g} to {top:g}; --vmin must be below --vmax")
        return bottom, top

    def _linear(self) -> Normalize:
        bottom, top = self._ends()
        return TwoSlopeNorm(0.0, bottom, top) if self.signed and bottom < 0 < top else Normalize(bottom, top)

    def _log(self) -> Normalize:
        if self.values != "weights":
            bottom, top = self._ends()
            return SymLogNorm(max(-bottom, top) / 10**_SYMMETRIC_DECADES, vmin=bottom, vmax=top, base=10)
        top = self._ends()[1] if self.asked.vmin is None else self.asked.vmax or self.extent[1] or 1.0
        positive = self.visible[self.visible > 0]
        floor = float(np.percentile(positive, 0.1, method="lower")) if positive.size else 0.0
        floor = min(max(floor, top / 10**DECADES), top / 10)  # a decade at the least
        bottom, top = self._checked(floor if self.asked.vmin is None else self.asked.vmin, top)
        return LogNorm(bottom, top)

    def _power(self) -> Normalize:
        bottom, top = self._ends()
        if self.values == "weights":
            return PowerNorm(0.5, bottom, top)
        return FuncNorm((_signed_root, _signed_square), bottom, top)

    def _rank(self) -> Normalize:
        return RankNorm(self.visible)


def _of_rows(cells: Values, values: str) -> Values:
    """Each row by its own largest value: as a share of it; logits, how far below it."""
    finite = np.isfinite(cells)
    if values == "logits":
        most = np.where(finite, cells, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
        return np.where(finite, cells - np.where(np.isfinite(most), most, 0), np.nan)
    most = np.where(finite, np.abs(cells), 0).max(axis=1, keepdims=True, initial=0)
    return np.where(finite, cells / np.where(most > 0, most, 1), np.nan)


def _signed_root(x: Any) -> Any:
    return np.sign(x) * np.sqrt(np.abs(x))


def _signed_square(x: Any) -> Any:
    return np.sign(x) * np.square(x)
