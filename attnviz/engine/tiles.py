"""A block of queries against every key it can see, a tile at a time: product, exp, reduce, forget.

A tile is what a cache holds. Tiles lie transposed (keys down, queries across), so that every reduction over keys adds whole rows
of memory.

Exp is taken as a power of two, whose exponents the product makes: a logit times log2(e), less something that the softmax
denominator has as well. Where ``|q| max |k|``, the Cauchy-Schwarz bound, says that no power can overflow or vanish, nothing
is subtracted; else that bound is, which is exact all the same; and where it is so far above the largest logit that powers
could vanish, the block is done again with a running maximum (online softmax, arXiv:1805.02867).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.base.errors import InputError
from attnviz.base.types import Positions
from attnviz.engine.head import RowScorer
from attnviz.engine.products import PLAIN, Queries, operator_for

LOG2_E = 1 / math.log(2)
_LEAST_TOTAL = 1e-17  # a sum of powers below this says that the bound is more than 56 above the largest exponent
_MODEST = 60.0
"""Up to this magnitude of exponents, sums of any number of powers hold, and products of such a sum and a power."""


@dataclass(frozen=True)
class TileSize:
    """How much of a map is in work at once: ``rows`` queries against ``keys`` keys, and the operator that multiplies them."""

    rows: int
    keys: int
    operator: str = PLAIN

    @classmethod
    def fitting(
        cls,
        item: AttentionItem,
        cells: tuple[int, int],
        *,
        reductions: int = 1,
        memory: int | None = None,
        pattern: Pattern | None = None,
        queries: int | None = None,
        otherwise: str = ", or make the picture smaller (--pixels)",
    ) -> TileSize:
        """The tile that suits the device, smaller where ``memory`` asks for it.

        Args:
            item: says the device, the dtype and the number of keys.
            cells: (P, P') of the picture, which is part of the working set.
            reductions: how many reductions are made at once.
            memory: bytes that the picture and the tiles may take, beside the inputs; None is no bound.
            pattern: whose shared keys are copied, where products of queries and keys are made.
            queries: how many are shown; None is all.
            otherwise: what else helps, for the error.

        Raises:
            InputError: not even one row fits; says the least that does.
        """
        bytes_each = torch.finfo(item.compute_dtype).bits // 8
        # Small enough for a cache, large enough that starting each step costs little; an accelerator wants more at once.
        rows, keys = (768, 2048) if item.device.type == "cpu" else (2048, 16384)
        operator = (
            PLAIN
            if item.given
            else operator_for(item.device, item.compute_dtype, (item.T if queries is None else queries) * item.S)
        )
        if memory is None:
            return cls(rows, keys, operator)

        D = 0 if item.given else item.products.D
        shared = None if pattern is None else pattern.reach(item).keys
        copied = 0 if shared is None else len(shared) * D * bytes_each
        widened = D * bytes_each if item.dtype != item.compute_dtype else 0  # of a query or a key of a half type

        def taken(rows: int, keys: int) -> int:
            vectors = copied + widened * (rows + keys + keys // 8)
            picture = cells[0] * cells[1] * (1 + 8 * (reductions + 1))
            block = rows * cells[1] * bytes_each * (2 * reductions + 1)
            # A tile, an eighth larger to end between bins; what hides or modifies it; and a triangle that is kept.
            return vectors + picture + block + 3 * rows * (keys + keys // 8) * bytes_each

        keys = min(keys, item.S)
        while taken(rows, keys) > memory and (rows > 1 or keys > 64):
            # Rows first: a product of few rows is slower, one of few keys much slower.
            rows, keys = (rows // 2, keys) if rows > 16 or keys <= 64 else (rows, keys // 2)
        if taken(rows, keys) > memory:
            raise InputError(
                f"--memory {memory:,} bytes is too small for one row of a picture of {cells[0]} x {cells[1]} cells; "
                f"the least that works is {taken(rows, keys):,}{otherwise}"
            )
        return cls(rows, keys, operator)


@dataclass(frozen=True)
class Asked:
    """What is asked of the tiles of a map."""

    column_edges: Positions
    max: bool
    mass: bool
    logits: bool
    """Whether cells hold logits: their largest, and no exp of anything."""
    known: bool
    """Whether the denominators are known, so that keys which are not shown matter to nothing."""
    tile: TileSize

    @property
    def lone_max(self) -> bool:
        """Whether nothing needs exp of each weight."""
        return self.known and not self.mass


@dataclass
class Part:
    """What one tile gives to a block of b queries, b' with those that fill it up: values relative to ``2 ** peak``."""

    bins: Positions  # (m,) ascending
    top: Tensor | None  # (m, b') the largest
    mass: Tensor | None  # (m, b') the sum
    seen: Tensor | None  # (m, b') bool; None where the band says it, or all is visible
    band: tuple[Positions, Positions] | None  # (m,) first and last key of each bin, where the band alone hides
    peak: Tensor  # (b',)


class BlockTiles:
    """The tiles of one block.

    After :meth:`run`: ``parts``, what each tile gave; ``peak``, (b',), the power of two that the sum is relative to; ``total``,
    (b',), the sum of powers; ``sure``, whether each query is known to see something, by a sum that is not too small.
    """

    def __init__(
        self, asked: Asked, scorer: RowScorer, rows: range | Tensor, q: Tensor, fixed: Tensor | None, shelf: Shelf
    ) -> None:
        """``q`` is (b', D), ``rows`` its first b; ``fixed``, (b',), what to subtract before exp, in :func:`unit_for`: None keeps a running maximum."""
        self.asked, self.scorer, self.rows, self.running, self.shelf = asked, scorer, rows, fixed is None, shelf
        self.peak = q.new_full((len(q),), -torch.inf) if fixed is None else fixed
        # What nothing is subtracted from is known to be modest, so that no power vanishes.
        self.raw = fixed is not None and not bool(fixed.any())
        self.least = 0.0 if self.raw else _LEAST_TOTAL
        self.unit = 1.0 if asked.logits else unit_for(q.dtype, raw=self.raw)
        self.q = Queries(q, self.unit, None if self.raw else fixed, asked.tile.operator)
        self.total = q.new_zeros(len(q))
        self.parts: list[Part] = []
        self.sure = False

    def run(self) -> BlockTiles:
        """Goes through every tile, or stops at one that says that the bound is too high."""
        for keys in key_tiles(self.asked, self.scorer, self.rows):
            bins, cuts = segments(keys, self.asked.column_edges)
            if not len(bins) and (self.asked.known or self.asked.logits):
                continue
            if not self._tile(keys, bins, cuts):
                break
        return self

    @property
    def enough(self) -> Tensor:
        """Which rows have a sum that is not too small, or are padding, (b,)."""
        return (self.total[: len(self.rows)] > self.least) | self.scorer.sees.hidden(self.rows)

    def _tile(self, keys: range | Tensor, bins: Positions, cuts: Positions) -> bool:
        """Takes in a tile; False where the bound turned out to be too high."""
        asked, shown = self.asked, len(bins) > 0
        # (n, b'), contiguous; or logits, where these are asked for
        exponents = self.scorer.tile(self.q, self.rows, keys).T
        hidden = self.scorer.hides(self.rows, keys)
        band = None
        if hidden and self.scorer.band_alone and isinstance(keys, range):
            band = cuts[:-1] + keys.start, cuts[1:] + (keys.start - 1)
        unknown = hidden and band is None
        early = shown and (unknown or asked.lone_max or asked.logits or (asked.max and self.running))
        highest = self._segment(exponents, cuts, "max") if early else None  # (m, b')
        seen = highest > -torch.inf if highest is not None and unknown else None
        if asked.logits:
            self.total += torch.isfinite(exponents).any(0)
            self.parts.append(Part(bins, highest, None, seen, band, self.peak))
            return True
        if self.running:
            self._subtract_(exponents, highest)
        if highest is not None:
            self._power_(highest)
        if asked.lone_max and highest is not None:
            self.parts.append(Part(bins, highest, None, seen, band, self.relative))
            return True
        powers = self._power_(exponents)
        mass = self._segment(powers, cuts, "sum") if shown and asked.mass else None
        if not asked.known:
            whole = mass is not None and cuts[0] == 0 and cuts[-1] == len(powers)
            self.total += mass.sum(0) if whole and mass is not None else powers.sum(0)
        if not self.running and not asked.known and not hidden and not self.sure:
            self.sure = self.raw or bool((self.total > self.least).all())
            if not self.sure:
                return False  # all see this tile and some get nothing: too high for the other tiles too
        if shown:
            if asked.max and highest is None:
                highest = self._segment(powers, cuts, "max")
            self.parts.append(Part(bins, highest if asked.max else None, mass, seen, band, self.relative))
        return True

    @property
    def relative(self) -> Tensor:
        """What the powers of the last tile are relative to, (b',); 0 where a row has seen nothing yet."""
        return self.peak.clamp(min=torch.finfo(self.peak.dtype).min / 4) if self.running else self.peak

    def _subtract_(self, exponents: Tensor, highest: Tensor | None) -> None:
        """Takes a tile's exponents into the running maximum, and subtracts that from them and from their largest."""
        before, self.peak = self.peak, torch.maximum(self.peak, exponents.amax(0))
        safe = self.relative
        self.total *= self._power_(before - safe)
        exponents.sub_(safe)
        if highest is not None:
            highest.sub_(safe)

    def _power_(self, logits: Tensor) -> Tensor:
        """exp of logits in this block's unit, in place."""
        return power_(logits, self.unit)

    def _segment(self, values: Tensor, cuts: Positions, how: str) -> Tensor:
        return segment(values, cuts, how, out=self.shelf.take(len(cuts) - 1, values.shape[1]))


def unit_for(dtype: torch.dtype, *, raw: bool) -> float:
    """In what logits come from the product before exp: log2(e), so that they are exponents of 2, or 1.

    Args:
        dtype: what products run in. In float64 a peak that is turned from one unit to the other and back is another one.
        raw: whether nothing is subtracted from them, so that the peak is 0.
    """
    return LOG2_E if raw or dtype == torch.float32 else 1.0


def power_(logits: Tensor, unit: float) -> Tensor:
    """exp of logits times ``unit``, in place.

    As a power of two: on a CPU it costs half of exp, and no more where a logit is -inf or far below the peak,
    where exp costs 3 to 40 times as much.
    """
    return (logits if unit == LOG2_E else logits.mul_(LOG2_E)).exp2_()


def fixed_peak(scorer: RowScorer, q: Tensor) -> Tensor | None:
    """What to subtract from logits of queries, (b', D), that are yet to be made, (b',), in :func:`unit_for`.

    0 where nothing needs to be; None where nothing but a running maximum will do.
    """
    bound = scorer.bound(q)
    if bound is None:
        return None
    sink = 0.0 if scorer.sink is None else abs(scorer.sink)
    if max(float(bound.amax()), sink) * LOG2_E <= _MODEST:
        return torch.zeros_like(bound)
    return bound * unit_for(q.dtype, raw=False)


def known_peak(known: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Denominators that are known, (b, 2), as what to subtract before exp in :func:`unit_for`, and a sum of powers, (b,) each.

    Args:
        known: as :class:`attnviz.engine.reducer.Reduced` has them; NaN where a query sees nothing.
        dtype: what products run in.
    """
    given = known[:, 0] * unit_for(dtype, raw=not bool(known[:, 0].any()))
    rounded = given.to(dtype)
    # What the peak loses in this dtype, the sum takes, save what it lost when it became a natural logarithm.
    lost = given - rounded.double()
    lost = torch.where(lost.abs() > given.abs() * 2**-50, lost, 0)
    return rounded, (known[:, 1] * torch.exp2(lost)).to(dtype)


class Shelf:
    """Memory for what the tiles of a block give, which the next block uses again: new memory costs as much as filling it."""

    def __init__(self, like: Tensor) -> None:
        """``like``: of the dtype and on the device that memory is wanted."""
        self._chunks, self._at, self._used = [like.new_empty(0)], 0, 0

    def take(self, m: int, b: int) -> Tensor:
        """Memory of (m, b), not written."""
        size = m * b
        while self._used + size > self._chunks[self._at].numel():
            self._at, self._used = self._at + 1, 0
            if self._at == len(self._chunks):
                # As much again as there is: a causal map's blocks each need more than the one before.
                held = sum(chunk.numel() for chunk in self._chunks)
                self._chunks.append(self._chunks[0].new_empty(max(size, held)))
        first, self._used = self._used, self._used + size
        return self._chunks[self._at][first : self._used].view(m, b)

    def clear(self) -> None:
        """Takes all of it back."""
        self._at = self._used = 0


def key_tiles(asked: Asked, scorer: RowScorer, rows: range | Tensor) -> Iterator[range | Tensor]:
    """The keys that a block of rows can see, in even runs of about a tile's: shared keys first, then the band's.

    A tile holds whole bins where bins are small, since a cut through one costs more than an odd tile.
    """
    size, edges = asked.tile.keys, asked.column_edges
    if scorer.sees.keys is not None:
        yield from scorer.sees.keys.split(size)
    for span in scorer.sees.spans(rows):
        if asked.known or asked.logits:  # no denominator needs the keys that are not shown
            span = span[bisect_left(span, edges[0]) : bisect_left(span, edges[-1])]
        yield from _evenly(span, size, edges)


def _evenly(span: range, size: int, edges: Positions) -> Iterator[range]:
    """A run of keys in even parts of about ``size``, which end between bins where that is near."""
    tiles, start = -(-len(span) // size), 0
    for n in range(1, tiles):
        even = len(span) * n // tiles
        at = bisect_left(edges, span[even])
        stop = bisect_left(span, edges[at]) if at < len(edges) else even
        if not even <= stop <= even + size // 8:
            stop = even
        yield span[start:stop]
        start = stop
    if start < len(span):
        yield span[start:]


def segments(keys: range | Tensor, edges: Positions) -> tuple[Positions, Positions]:
    """Which m bins ascending keys fall into, and the m + 1 indices of ``keys`` that cut them into these bins."""
    if not isinstance(keys, range):
        return _runs(keys.cpu().numpy(), edges)
    if keys.step != 1:
        return _runs(np.arange(keys.start, keys.stop, keys.step), edges)
    first, last = bisect_right(edges, keys[0]) - 1, bisect_left(edges, keys.stop)
    first, last = max(first, 0), min(last, len(edges) - 1)
    cuts = edges[first : last + 1] - keys.start
    if len(cuts) > 1:
        cuts[0], cuts[-1] = max(cuts[0], 0), min(cuts[-1], len(keys))
    return np.arange(first, last), cuts


def _runs(positions: Positions, edges: Positions) -> tuple[Positions, Positions]:
    """As :func:`segments`, for positions in an array."""
    cuts = np.searchsorted(positions, edges)
    filled = np.flatnonzero(cuts[1:] > cuts[:-1])
    return filled, np.append(cuts[filled], cuts[-1])


def segment(values: Tensor, cuts: Positions, how: str, *, dim: int = 0, out: Tensor | None = None) -> Tensor:
    """Reduces one dimension of (n, b) over the m segments of it between m + 1 ``cuts``; ``out``, (m, b), takes what dim 0 gives."""
    lengths = cuts[1:] - cuts[:-1]
    m, width = len(lengths), int(lengths[0])
    used = values.narrow(dim, int(cuts[0]), int(cuts[-1] - cuts[0]))
    if used.shape[dim] == m:
        return used.clone() if out is None else out.copy_(used)
    if (lengths == width).all():
        if how == "max" and dim == 1:
            return torch.nn.functional.max_pool1d(used, width)  # a quarter of the time of amax
        grouped: Tensor = used.unflatten(dim, (m, width))
        return torch.amax(grouped, dim + 1, out=out) if how == "max" else torch.sum(grouped, dim + 1, out=out)
    # PyTorch adds these up as fast as even segments, of whole rows or of all columns: columns beyond the cuts go into
    # one more segment.
    if dim == 1:
        used, lengths = values, np.array([*lengths, values.shape[1] - cuts[-1]])
    segments = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)).to(values.device)
    index = segments.unsqueeze(1 - dim).expand_as(used)
    start, reduce = (-torch.inf, "amax") if how == "max" else (0.0, "sum")
    if out is None:
        shape = list(values.shape)
        shape[dim] = len(lengths)
        out = values.new_empty(shape)
    return out.fill_(start).scatter_reduce_(dim, index, used, reduce).narrow(dim, 0, m)
