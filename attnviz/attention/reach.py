"""Where a pattern can make keys visible: a band of keys around the query, and keys that every query shares."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reach:
    """A bound on what a pattern makes visible: a band of offsets ``s - t``, and key indices every query may see.

    Offsets are of indices, not of positions: a pattern that speaks of positions shifts its band by the item's
    :attr:`~attnviz.attention.item.AttentionItem.offset`. The band is ``low <= s - t <= high`` where ``step`` divides
    ``s - t - phase``; None leaves a side open, and ``band=False`` is no band. ``band_exact`` and ``keys_exact``
    promise that all of that part is visible, which saves the engine a mask.
    """

    low: int | None = None
    high: int | None = None
    step: int = 1
    phase: int = 0
    band: bool = True
    band_exact: bool = True
    keys: Tensor | None = None  # (g,) ascending
    keys_exact: bool = True

    @property
    def open(self) -> bool:
        """Whether the band has an open side, so that it can hold any number of keys."""
        return self.band and (self.low is None or self.high is None)

    def offsets(self) -> range:
        """The band's offsets ``s - t``, ascending; the band must be closed."""
        if not self.band:
            return range(0)
        assert self.low is not None
        assert self.high is not None
        return range(self._first(self.low), self.high + 1, self.step)

    def span(self, rows: range, S: int) -> range:
        """The band's key indices for the query indices ``rows``, whose step is the band's, within 0 to S - 1."""
        if not self.band:
            return range(0, 0, self.step)
        residue = (rows[0] + self.phase) % self.step
        start = residue if self.low is None else rows[0] + self._first(self.low)
        stop = S if self.high is None else min(S, rows[-1] + self.high + 1)
        start = max(start, residue)
        return range(start, max(start, stop), self.step)

    def hull(self) -> Reach:
        """A band in steps of 1 that holds this reach, its shared keys among the rest."""
        return self if self.step == 1 and self.keys is None else Reach(band_exact=False)

    def __or__(self, other: Reach) -> Reach:
        keys, keys_exact = _union(self.keys, other.keys), self.keys_exact and other.keys_exact
        if not (self.band and other.band):
            one = self if self.band else other
            return Reach(one.low, one.high, one.step, one.phase, one.band, one.band_exact, keys, keys_exact)
        low = None if self.low is None or other.low is None else min(self.low, other.low)
        high = None if self.high is None or other.high is None else max(self.high, other.high)
        # The hull of two bands is all visible only where they touch, in the same steps.
        apart = any(
            a.high is not None and b.low is not None and b.low > a.high + 1 for a, b in ((self, other), (other, self))
        )
        same = self._residue == other._residue
        exact = self.band_exact and other.band_exact and same and not apart
        step, phase = self._residue if same else (1, 0)
        return Reach(low, high, step, phase, True, exact, keys, keys_exact)

    def __and__(self, other: Reach) -> Reach:
        keys = _union(self.keys, other.keys)
        if not (self.band and other.band):
            return Reach(band=False, keys=keys, keys_exact=False)
        low = max((bound for bound in (self.low, other.low) if bound is not None), default=None)
        high = min((bound for bound in (self.high, other.high) if bound is not None), default=None)
        if low is not None and high is not None and low > high:
            return Reach(band=False, keys=keys, keys_exact=False)
        one, wider = (self, other) if self.step >= other.step else (other, self)
        same = one.step % wider.step == 0 and (one.phase - wider.phase) % wider.step == 0
        exact = self.band_exact and other.band_exact and same
        return Reach(low, high, one.step, one.phase, True, exact, keys, keys is None)

    @property
    def _residue(self) -> tuple[int, int]:
        return self.step, self.phase % self.step

    def _first(self, low: int) -> int:
        """The first offset of the band's own steps that is not below ``low``."""
        return low + (self.phase - low) % self.step


def _union(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    union: Tensor = torch.unique(torch.cat([a, b]))
    return union
