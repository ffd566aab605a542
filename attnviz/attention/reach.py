"""Where a pattern can make keys visible: a band of keys around the query, bounds of each query's own, blocks, and shared keys."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from attnviz.base.types import Positions

BlockFlags = np.ndarray[tuple[int, int], np.dtype[np.bool_]]


@dataclass(frozen=True, eq=False)
class Table:
    """Blocks of queries and keys by index: no pair outside the blocks that are True is visible.

    Args:
        blocks: (n_q, n_k) bool.
        queries, keys: how many there are to a block.
    """

    blocks: BlockFlags
    queries: int
    keys: int

    def runs(self, rows: range) -> list[tuple[int, int]]:
        """The runs of key indices that lie in a block of some of ``rows``: first and last + 1 of each, ascending."""
        edges = np.flatnonzero(np.diff(self._of(rows).any(0), prepend=False, append=False)) * self.keys
        return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]

    def within(self, rows: range, keys: range) -> BlockFlags:
        """The blocks that a rectangle of pairs touches."""
        return self._of(rows)[:, keys[0] // self.keys : keys[-1] // self.keys + 1]

    def pairs(self, rows: range, keys: range) -> BlockFlags:
        """Whether each pair of a rectangle lies in a block, (len(rows), len(keys))."""
        t, s = (np.arange(each.start, each.stop, each.step) for each in (rows, keys))
        return self.blocks[np.ix_(t // self.queries, s // self.keys)]

    def cuts(self, rows: range) -> list[int]:
        """The key indices where what some of ``rows`` see by blocks may change."""
        changes = np.diff(self._of(rows), axis=1).any(0)
        return [int(block + 1) * self.keys for block in np.flatnonzero(changes)]

    def _of(self, rows: range) -> BlockFlags:
        if rows.step >= self.queries:
            return self.blocks[np.arange(rows.start, rows.stop, rows.step) // self.queries]
        return self.blocks[rows[0] // self.queries : rows[-1] // self.queries + 1]


@dataclass(frozen=True, eq=False)
class Reach:
    """A bound on what a pattern makes visible: a band of offsets ``s - t``, and key indices every query may see.

    Offsets are of indices, not of positions: a pattern that speaks of positions shifts its band by the item's
    :attr:`~attnviz.attention.item.AttentionItem.offset`. The band is ``low <= s - t <= high`` where ``step`` divides
    ``s - t - phase``; None leaves a side open, and ``band=False`` is no band. Of the band a query reaches no more than
    the keys ``first[t] <= s < stop[t]``, where these are given, and those in the blocks of ``table``. ``band_exact`` and
    ``keys_exact`` promise that all of that part is visible, which saves the engine a mask; save the keys that are True in
    ``without``, which no query sees.
    """

    low: int | None = None
    high: int | None = None
    step: int = 1
    phase: int = 0
    band: bool = True
    band_exact: bool = True
    keys: Tensor | None = None  # (g,) ascending
    keys_exact: bool = True
    first: Positions | None = None  # (T,)
    stop: Positions | None = None  # (T,)
    table: Table | None = None
    without: Tensor | None = None  # (S,) bool, on the CPU

    @property
    def plain(self) -> bool:
        """Whether it is one band without gaps, all of it visible, and nothing besides: what two numbers say."""
        bare = self.first is None and self.stop is None and self.table is None and self.keys is None
        return self.band and self.band_exact and self.step == 1 and bare and self.without is None

    @property
    def open(self) -> bool:
        """Whether the band has an open side, so that it can hold any number of keys."""
        return self.band and None in self._ends

    def offsets(self) -> range:
        """The band's offsets ``s - t``, ascending, as far as any query reaches; the band must be closed."""
        if not self.band:
            return range(0)
        low, high = self._ends
        assert low is not None
        assert high is not None
        found = range(self._from(low), high + 1, self.step)
        return found or range(self.phase, self.phase + 1)  # a column where nothing is

    def width(self, T: int, S: int) -> int:
        """How many keys of the band a query reaches, about."""
        if self.open and self.table is None:
            return S
        if self.table is not None:
            return max(1, int(self.table.blocks.mean() * S))
        if self.first is None or self.stop is None:
            return len(self.offsets())
        return max(1, min(len(self.offsets()), int((self.stop - self.first).clip(min=0).mean())))

    def spans(self, rows: range, S: int) -> list[range]:
        """The band's key indices for the query indices ``rows``, whose step is the band's: runs within 0 to S - 1, ascending."""
        if not self.band:
            return []
        residue = (rows[0] + self.phase) % self.step
        start = residue if self.low is None else rows[0] + self._from(self.low)
        stop = S if self.high is None else min(S, rows[-1] + self.high + 1)
        start = max(start, residue)
        span = range(start, max(start, stop), self.step)
        first, last = self._own(rows)
        span = _part(span, 0 if first is None else int(first.min()), S if last is None else int(last.max()))
        runs = [(0, S)] if self.table is None else self.table.runs(rows)
        return [part for run in runs if (part := _part(span, *run))]

    def meets(self, rows: range, keys: range) -> bool:
        """Whether some pair of a rectangle may be in the band."""
        low, high = keys[0] - rows[-1], keys[-1] - rows[0]
        above, below = self.high is not None and low > self.high, self.low is not None and high < self.low
        if not self.band or above or below:
            return False
        first, stop = self._own(rows)
        if (first is not None and first.min() > keys[-1]) or (stop is not None and stop.max() <= keys[0]):
            return False
        return self.table is None or bool(self.table.within(rows, keys).any())

    def covers(self, rows: range, keys: range) -> bool:
        """Whether every pair of a rectangle, in steps of the band, is in it."""
        low, high = keys[0] - rows[-1], keys[-1] - rows[0]
        inside = (self.low is None or low >= self.low) and (self.high is None or high <= self.high)
        if not self.band or not inside or self.without is not None:
            return False
        first, stop = self._own(rows)
        if (first is not None and first.max() > keys[0]) or (stop is not None and stop.min() <= keys[-1]):
            return False
        return self.table is None or bool(self.table.within(rows, keys).all())

    def cuts(self, rows: range) -> set[int]:
        """The key indices where, for some of ``rows``, the band begins or has ended."""
        if not self.band:
            return set()
        found = set() if self.table is None else {*self.table.cuts(rows)}
        if self.low is not None:
            found |= {rows[0] + self.low, rows[-1] + self.low}
        if self.high is not None:
            found |= {rows[0] + self.high + 1, rows[-1] + self.high + 1}
        for own in self._own(rows):
            if own is not None:
                found |= {int(own.min()), int(own.max())}
        return found

    def hull(self) -> Reach:
        """A band in steps of 1 that holds this reach, its shared keys among the rest."""
        return self if self.step == 1 and self.keys is None else Reach(band_exact=False)

    def __or__(self, other: Reach) -> Reach:
        if self.without is not None or other.without is not None:  # what one hides the other may show
            return self._inexact() | other._inexact()
        keys, keys_exact = _union(self.keys, other.keys), self.keys_exact and other.keys_exact
        if not (self.band and other.band):
            one = self if self.band else other
            return one._with_keys(keys, keys_exact)
        low = None if self.low is None or other.low is None else min(self.low, other.low)
        high = None if self.high is None or other.high is None else max(self.high, other.high)
        # The hull of two bands is all visible only where they touch, in the same steps; of bounds and blocks it is not known.
        apart = any(
            a.high is not None and b.low is not None and b.low > a.high + 1 for a, b in ((self, other), (other, self))
        )
        same = self._residue == other._residue
        bare = all(one.first is None and one.stop is None and one.table is None for one in (self, other))
        exact = self.band_exact and other.band_exact and same and not apart and bare
        step, phase = self._residue if same else (1, 0)
        first = None if self.first is None or other.first is None else np.minimum(self.first, other.first)
        stop = None if self.stop is None or other.stop is None else np.maximum(self.stop, other.stop)
        return Reach(low, high, step, phase, True, exact, keys, keys_exact, first, stop, _either(self, other))

    def __and__(self, other: Reach) -> Reach:
        keys = _union(self.keys, other.keys)
        nothing = Reach(band=False, keys=keys, keys_exact=False)
        if not (self.band and other.band):
            return nothing
        low = max((bound for bound in (self.low, other.low) if bound is not None), default=None)
        high = min((bound for bound in (self.high, other.high) if bound is not None), default=None)
        if low is not None and high is not None and low > high:
            return nothing
        one, wider = (self, other) if self.step >= other.step else (other, self)
        same = one.step % wider.step == 0 and (one.phase - wider.phase) % wider.step == 0
        table, all_of_it = _both(self.table, other.table)
        exact = self.band_exact and other.band_exact and same and all_of_it
        without = _where(self.without, other.without)
        first, stop = _most(self.first, other.first, np.maximum), _most(self.stop, other.stop, np.minimum)
        return Reach(low, high, one.step, one.phase, True, exact, keys, keys is None, first, stop, table, without)

    def _inexact(self) -> Reach:
        """The same without a promise."""
        return replace(self, band_exact=False, keys_exact=False, without=None)

    def _with_keys(self, keys: Tensor | None, exact: bool) -> Reach:
        band = (self.low, self.high, self.step, self.phase, self.band, self.band_exact)
        return Reach(*band, keys, exact, self.first, self.stop, self.table)

    @property
    def _residue(self) -> tuple[int, int]:
        return self.step, self.phase % self.step

    @cached_property
    def _ends(self) -> tuple[int | None, int | None]:
        """The least and the largest offset of any query, as far as the band and the queries' own bounds say."""
        low, high = self.low, self.high
        if self.first is not None:
            least = int((self.first - np.arange(len(self.first))).min())
            low = least if low is None else max(low, least)
        if self.stop is not None:
            most = int((self.stop - 1 - np.arange(len(self.stop))).max())
            high = most if high is None else min(high, most)
        return low, high

    def _own(self, rows: range) -> tuple[Positions | None, Positions | None]:
        """The bounds of some queries' own, where there are such."""
        first, stop = (
            None if bounds is None else bounds[rows.start : rows.stop : rows.step] for bounds in (self.first, self.stop)
        )
        return first, stop

    def _from(self, low: int) -> int:
        """The first offset of the band's own steps that is not below ``low``."""
        return low + (self.phase - low) % self.step


def _where(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Where either is True."""
    return other if one is None else one if other is None else one | other


def _part(span: range, start: int, stop: int) -> range:
    """What of an ascending range lies from ``start`` to ``stop`` - 1."""
    return span[bisect_left(span, start) : bisect_left(span, stop)]


def _union(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    union: Tensor = torch.unique(torch.cat([a, b]))
    return union


def _most(a: Positions | None, b: Positions | None, of: np.ufunc) -> Positions | None:
    return b if a is None else a if b is None else of(a, b)


def _both(a: Table | None, b: Table | None) -> tuple[Table | None, bool]:
    """A table that bounds what two let through, and whether that is all of it."""
    if a is None or b is None:
        return b if a is None else a, True
    if (a.queries, a.keys) != (b.queries, b.keys):
        return a, False
    return Table(a.blocks & b.blocks, a.queries, a.keys), True


def _either(a: Reach, b: Reach) -> Table | None:
    """A table that bounds what either of two reaches: of the blocks of the one that has a table, or none."""
    if a.table is None and b.table is None:
        return None
    if a.table is None or (b.table is not None and b.table.queries < a.table.queries):
        a, b = b, a
    table = a.table
    assert table is not None
    blocks = table.blocks.copy()
    every = replace(b, step=1, phase=0)
    for n in range(len(blocks)):
        rows = _within(range(n * table.queries, (n + 1) * table.queries), b)
        for span in every.spans(rows, table.keys * blocks.shape[1]):
            blocks[n, span[0] // table.keys : span[-1] // table.keys + 1] = True
    return Table(blocks, table.queries, table.keys)


def _within(rows: range, reach: Reach) -> range:
    """``rows`` without those that a reach's own bounds, or its table, have no place for."""
    known = [len(own) for own in (reach.first, reach.stop) if own is not None]
    if reach.table is not None:
        known.append(len(reach.table.blocks) * reach.table.queries)
    return range(rows.start, min([rows.stop, *known]))
