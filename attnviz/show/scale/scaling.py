"""From values to shares of a scale, 0 to 1: the mathematics of color scales, for figures and for terminals.

A :class:`Scaling` is what is asked for; :meth:`Scaling.fit_values` finds its ends in what is to be drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnviz.base.errors import InputError, not_one_of

Values = np.ndarray[Any, np.dtype[np.floating[Any]]]

NORMS = ("linear", "log", "power", "rank", "row")
"""How values become shares."""

LABELS = {"weights": "weight (softmax)", "logits": "logit (before softmax)", "given": "weight (given)"}
"""What each kind of value measures, as color bars say it."""

ROBUST = {"weights": (0.0, 99.0), "other": (2.0, 98.0)}
"""Percentiles of the visible cells at which a robust scale ends."""

DECADES = 6
"""A log scale's most, below its top: beyond, weights are as good as 0."""

SYMMETRIC_DECADES = 4
"""Of a log scale that goes both ways from 0: nearer to 0 it is linear."""


@dataclass(frozen=True)
class Scaling:
    """How values become shares of a scale.

    Args:
        norm: ``linear``; ``log``, of weights, or symmetric around 0 of differences; ``power``, the square root, which
            lifts small values; ``rank``, equal shares of the visible cells in equal steps; ``row``, each row relative to
            its own largest value (logits: their distance below it).
        robust: end the scale at the 99th percentile of the visible cells (logits: the 2nd and the 98th), so that a
            few extreme ones do not take it all.
        vmin, vmax: the ends of the scale; None starts weights at 0 and balances other values around 0.

    Raises:
        InputError: no such norm, or ends that a norm has no use for.

    >>> Scaling("power").fit_values([np.array([[0.0, 0.25, 1.0]])], "weights").shares(np.array([[0.25]]))
    array([[0.5]])
    """

    norm: str = "linear"
    robust: bool = False
    vmin: float | None = None
    vmax: float | None = None

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise not_one_of("--norm", self.norm, NORMS)
        if self.norm == "rank" and (self.robust or self.vmin is not None or self.vmax is not None):
            raise InputError(
                "--norm rank colors cells by their order, which has no ends to move; leave --robust, --vmin and --vmax out"
            )
        if self.robust and self.vmin is not None and self.vmax is not None:
            raise InputError("--robust finds the ends of the scale, and --vmin and --vmax are given; leave it out")
        for option, end in (("--vmin", self.vmin), ("--vmax", self.vmax)):
            if end is not None and not math.isfinite(end):
                raise InputError(f"{option} {end:g}: is no end of a color scale; write a number that is finite")
        if self.norm == "log" and self.vmin is not None and self.vmin <= 0:
            raise InputError(
                f"--vmin {self.vmin:g}: a log scale starts above 0; leave it out, or choose another --norm"
            )

    def fit_values(self, cells: Sequence[Values], values: str) -> FittedScaling:
        """The scale for arrays of ``values``, all on one scale.

        Args:
            cells: (P, P') each, NaN where nothing is visible.
            values: ``weights``, ``logits`` or ``difference``. Weights of which some are below 0 go both ways from it.

        Raises:
            InputError: an empty scale, or a log scale of logits.
        """
        if values == "weights" and any(bool((one < 0).any()) for one in cells):  # given, as no softmax is
            values = "given"
        if self.norm == "log" and values == "logits":
            raise InputError(
                "--norm log: logits are logarithms of weights already (up to a constant a row); "
                "choose linear, power, rank or row, or --values weights"
            )
        maps = [of_rows(one, values) if self.norm == "row" else one for one in cells]
        visible = np.concatenate([one[np.isfinite(one)].astype(np.float64) for one in maps])
        extent = (float(visible.min()), float(visible.max())) if visible.size else (0.0, 0.0)
        signed = values != "weights" and not (values == "logits" and self.norm == "row")
        if self.norm == "rank":
            knots, shares = rank_knots(visible)
            return FittedScaling(
                "rank", False, values, float(knots[0]), float(knots[-1]), extent, signed, knots, shares
            )
        low, high = (
            self._log_ends(visible, extent)
            if self._log_of_weights(values)
            else self._ends(visible, extent, values, signed)
        )
        if not low < high:
            raise InputError(f"the color scale runs from {low:g} to {high:g}; --vmin must be below --vmax")
        if not math.isfinite(high - low):
            raise InputError(
                f"the color scale runs from {low:g} to {high:g}, further than numbers reach; give ends with --vmin and --vmax"
            )
        return FittedScaling(self.norm, self.robust, values, low, high, extent, signed)

    def _log_of_weights(self, values: str) -> bool:
        return self.norm == "log" and values == "weights"

    def _ends(self, visible: Values, extent: tuple[float, float], values: str, signed: bool) -> tuple[float, float]:
        """Weights from 0 up, other values balanced around 0, where nothing else is asked for."""
        low, high = extent
        if self.robust and visible.size:
            low, high = np.percentile(visible, ROBUST["other" if values != "weights" else "weights"])
        if signed:
            reach = max(abs(low), abs(high)) or max(map(abs, extent)) or 1.0
            low, high = -reach, reach
        elif values == "logits":  # below each row's largest
            low, high = low or extent[0] or -1.0, 0.0
        else:
            low, high = 0.0, high or extent[1] or 1.0
        return float(low) if self.vmin is None else self.vmin, float(high) if self.vmax is None else self.vmax

    def _log_ends(self, visible: Values, extent: tuple[float, float]) -> tuple[float, float]:
        top = self.vmax or extent[1] or 1.0
        if self.vmin is None and self.robust and visible.size:
            top = self.vmax or float(np.percentile(visible, ROBUST["weights"][1])) or extent[1] or 1.0
        if self.vmin is not None:
            return self.vmin, top
        positive = visible[visible > 0]
        floor = float(np.percentile(positive, 0.1, method="lower")) if positive.size else 0.0
        return min(max(floor, top / 10**DECADES), top / 10), top  # a decade at the least

    @property
    def settled(self) -> bool:
        """Whether anything is asked for."""
        return self.norm != "linear" or self.robust or self.vmax is not None


@dataclass(frozen=True)
class FittedScaling:
    """A scale with its ends.

    Args:
        norm, robust: as they were asked for.
        values: what it is a scale of.
        low, high: its ends, in the values' unit.
        extent: the least and the greatest value it was fitted to.
        signed: whether it goes both ways from 0.
        knots, knot_shares: of ``rank``: values, and the share of each.
    """

    norm: str
    robust: bool
    values: str
    low: float
    high: float
    extent: tuple[float, float]
    signed: bool
    knots: Values | None = None
    knot_shares: Values | None = None

    @property
    def suffix(self) -> str:
        """What a label says of the norm, after what is measured."""
        if self.norm == "row":
            return " below its row's largest" if self.values == "logits" else ", as a share of its row's largest"
        return {"linear": "", "log": ", log", "power": ", square root", "rank": ", by rank"}[self.norm]

    @property
    def note(self) -> str:
        """The scale in words."""
        if self.norm == "rank":
            return "colors by rank: equal shares of the cells in equal steps"
        name = {"power": "square root", "row": "row (each row by its own largest)"}.get(self.norm, self.norm)
        text = f"{name} scale from {self.low:.3g} to {self.high:.3g}"
        if self.robust:
            text += " (robust: the 99th percentile)" if not self.signed else " (robust: the 2nd and 98th percentiles)"
        if self.norm == "log" and self.values == "weights" and self.extent[0] < self.low:
            text += f"; what is below {self.low:.3g}, 0 too, has the lowest color"
        return text

    @property
    def extend(self) -> str:
        """Where values lie beyond the ends: ``neither``, ``min``, ``max`` or ``both``."""
        if self.norm == "rank":
            return "neither"
        slack = 1e-6 * (self.high - self.low)
        below, above = self.extent[0] < self.low - slack, self.extent[1] > self.high + slack
        if self.norm == "log" and self.values == "weights":
            below = self.extent[0] < self.low * (1 - 1e-6)
        return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[
            below, above
        ]

    @property
    def linear_reach(self) -> float:
        """Of a log scale that goes both ways: how far from 0 it is linear."""
        return max(-self.low, self.high) / 10.0**SYMMETRIC_DECADES

    def shares(self, cells: Values) -> Values:
        """Where each of a map's cells lies between the ends, 0 to 1; NaN where nothing is visible."""
        cells = of_rows(cells, self.values) if self.norm == "row" else cells
        known = np.where(np.isfinite(cells), cells, np.nan).astype(np.float64)
        if self.knots is not None and self.knot_shares is not None:
            return np.where(np.isnan(known), np.nan, np.interp(known, self.knots, self.knot_shares))
        if self.signed and self.low < 0 < self.high and self.norm in ("linear", "row"):
            known = np.where(known < 0, 0.5 - known / self.low / 2, 0.5 + known / self.high / 2)
            return known.clip(0, 1)
        low, high = self._bent(np.array([self.low, self.high]))
        bent: Values = (self._bent(known) - low) / (high - low)
        return bent.clip(0, 1)

    def value_at(self, share: float) -> float:
        """The value at a share of the scale."""
        if self.knots is not None and self.knot_shares is not None:
            return float(np.interp(share, self.knot_shares, self.knots))
        if self.signed and self.low < 0 < self.high and self.norm in ("linear", "row"):
            return 2 * (0.5 - share) * self.low if share < 0.5 else 2 * (share - 0.5) * self.high
        low, high = (float(end) for end in self._bent(np.array([self.low, self.high])))
        return self._straightened(low + share * (high - low))

    def _bent(self, x: Values) -> Values:
        """A monotone function of values in which the scale is linear."""
        if self.norm == "power":
            # From the lower end for weights, which have no sign; from 0 both ways for other values.
            return np.sqrt(np.maximum(x - self.low, 0)) if self.values == "weights" else signed_root(x)
        if self.norm != "log":
            return x
        if self.values == "weights":
            return np.log10(np.where(x > self.low, x, np.where(np.isnan(x), np.nan, self.low)))
        near, size = self.linear_reach, np.abs(x)
        far = np.log10(np.maximum(size, near) / near)
        bent = np.where(size <= near, size / near * _LINEAR_DECADES, _LINEAR_DECADES + far)
        return np.copysign(bent, x)

    def _straightened(self, y: float) -> float:
        if self.norm == "power":
            return y * y + self.low if self.values == "weights" else math.copysign(y * y, y)
        if self.norm != "log":
            return y
        if self.values == "weights":
            return float(10.0**y)
        near, size = self.linear_reach, abs(y)
        reach = near * size / _LINEAR_DECADES if size <= _LINEAR_DECADES else near * 10.0 ** (size - _LINEAR_DECADES)
        return math.copysign(float(reach), y)


_LINEAR_DECADES = 1 / (1 - 1 / 10)  # as long as matplotlib's SymLogNorm draws the linear part


def rank_knots(values: Values) -> tuple[Values, Values]:
    """From a value to the share of others below it: values, ascending, and the share of each; those that tie are one."""
    knots, counts = np.unique(values.astype(np.float64), return_counts=True)
    if not len(knots):
        knots, counts = np.zeros(1), np.ones(1, dtype=int)
    if len(knots) == 1:
        return np.array([knots[0], knots[0] + 1]), np.array([0.0, 1.0])
    below = np.cumsum(counts) - counts
    return knots, below / below[-1]


def of_rows(cells: Values, values: str) -> Values:
    """Each row by its own largest value: as a share of it; logits, how far below it."""
    finite = np.isfinite(cells)
    if values == "logits":
        most = np.where(finite, cells, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
        return np.where(finite, cells - np.where(np.isfinite(most), most, 0), np.nan)
    most = np.where(finite, np.abs(cells), 0).max(axis=1, keepdims=True, initial=0)
    return np.where(finite, cells / np.where(most > 0, most, 1), np.nan)


def signed_root(x: Values) -> Values:
    """The square root of the magnitude, with the sign."""
    return np.copysign(np.sqrt(np.abs(x)), x)


def signed_square(x: Values) -> Values:
    """What :func:`signed_root` undoes."""
    return np.copysign(np.square(x), x)
