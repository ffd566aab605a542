"""A block of queries against every key it can see, a tile at a time: product, exp, reduce, forget.

A tile is what a cache holds. Tiles lie transposed (keys down, queries across), so that every reduction over keys adds whole rows
of memory.

Softmax subtracts something not below the row's largest logit before exp. The Cauchy-Schwarz bound ``|q| max |k|``
costs nothing and is exact all the same; where it is so far above the largest logit that exp could vanish, the block
is done again with a running maximum (online softmax, arXiv:1805.02867).
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

_LOG2_E = 1 / math.log(2)
_LEAST_TOTAL = 1e-17  # a sum of exp below this says that the bound is more than 39 above the largest logit
_FUSED = 128.0  # up to this magnitude of what is subtracted, a fused multiply-add is as exact as the logits themselves


@dataclass(frozen=True)
class TileSize:
    """How much of a map is in work at once: ``rows`` queries against ``keys`` keys."""

    rows: int
    keys: int

    @classmethod
    def fitting(
        cls,
        item: AttentionItem,
        cells: tuple[int, int],
        *,
        reductions: int = 1,
        memory: int | None = None,
        pattern: Pattern | None = None,
        otherwise: str = ", or make the picture smaller (--pixels)",
    ) -> TileSize:
        """The tile that suits the device, smaller where ``memory`` asks for it.

        Args:
            item: says the device, the dtype and the number of keys.
            cells: (P, P') of the picture, which is part of the working set.
            reductions: how many reductions are made at once.
            memory: bytes that the picture and the tiles may take, beside the inputs; None is no bound.
            pattern: whose shared keys are copied, where products of queries and keys are made.
            otherwise: what else helps, for the error.

        Raises:
            InputError: not even one row fits; says the least that does.
        """
        bytes_each = torch.finfo(item.compute_dtype).bits // 8
        # Small enough for a cache, large enough that starting each step costs little; an accelerator wants more at once.
        rows, keys = (768, 2048) if item.device.type == "cpu" else (2048, 16384)
        if memory is None:
            return cls(rows, keys)

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
        return cls(rows, keys)


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
    keys: int
    """Keys of a tile, about."""

    @property
    def lone_max(self) -> bool:
        """Whether nothing needs exp of each weight."""
        return self.known and not self.mass


@dataclass
class Part:
    """What one tile gives to a block of b queries, b' with those that fill it up: values relative to ``exp(peak)``."""

    bins: Positions  # (m,) ascending
    top: Tensor | None  # (m, b') the largest
    mass: Tensor | None  # (m, b') the sum
    seen: Tensor | None  # (m, b') bool; None where the band says it, or all is visible
    band: tuple[Positions, Positions] | None  # (m,) first and last key of each bin, where the band alone hides
    peak: Tensor  # (b',)


class BlockTiles:
    """The tiles of one block.

    After :meth:`run`: ``parts``, what each tile gave; ``peak``, (b',), the exponent that the sum is relative to; ``total``,
    (b',), the sum of exp; ``sure``, whether each query is known to see something, by a sum that is not too small.
    """

    def __init__(self, asked: Asked, scorer: RowScorer, rows: range | Tensor, q: Tensor, fixed: Tensor | None) -> None:
        """``q`` is (b', D), ``rows`` its first b; ``fixed``, (b',), what to subtract before exp: None keeps a running maximum."""
        self.asked, self.scorer, self.rows, self.q, self.running = asked, scorer, rows, q, fixed is None
        self.peak = q.new_full((len(q),), -torch.inf) if fixed is None else fixed
        # Known denominators are another tile's: what they are subtracted from was not rounded along with them.
        self.fused = fixed is not None and not asked.known and float(fixed.abs().amax()) <= _FUSED
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
        return (self.total[: len(self.rows)] > _LEAST_TOTAL) | self.scorer.sees.hidden(self.rows)

    def _tile(self, keys: range | Tensor, bins: Positions, cuts: Positions) -> bool:
        """Takes in a tile; False where the bound turned out to be too high."""
        asked, shown = self.asked, len(bins) > 0
        logits = self.scorer.tile(self.q, self.rows, keys).T  # (n, b'), contiguous
        hidden = self.scorer.hides(self.rows, keys)
        band = None
        if hidden and self.scorer.band_alone and isinstance(keys, range):
            band = cuts[:-1] + keys.start, cuts[1:] + (keys.start - 1)
        unknown = hidden and band is None
        early = shown and (unknown or asked.lone_max or asked.logits or (asked.max and self.running))
        highest = segment(logits, cuts, "max") if early else None  # (m, b')
        seen = highest > -torch.inf if highest is not None and unknown else None
        if asked.logits:
            self.total += torch.isfinite(logits).any(0)
            self.parts.append(Part(bins, highest, None, seen, band, self.peak))
            return True
        safe = self._subtracted(logits)
        if asked.lone_max and highest is not None:
            self._exp_(highest, safe)
            self.parts.append(Part(bins, highest, None, seen, band, safe))
            return True
        self._exp_(logits, safe)
        mass = segment(logits, cuts, "sum") if shown and asked.mass else None
        if not asked.known:
            whole = mass is not None and cuts[0] == 0 and cuts[-1] == len(logits)
            self.total += mass.sum(0) if whole and mass is not None else logits.sum(0)
        if not self.running and not asked.known and not hidden and not self.sure:
            self.sure = bool((self.total > _LEAST_TOTAL).all())
            if not self.sure:
                return False  # all see this tile and some get nothing: too high for the other tiles too
        if shown:
            if not asked.max:
                highest = None
            elif highest is not None:
                self._exp_(highest, safe)
            else:
                highest = segment(logits, cuts, "max")
            self.parts.append(Part(bins, highest, mass, seen, band, safe))
        return True

    def _subtracted(self, logits: Tensor) -> Tensor:
        """What to subtract from a tile's logits before exp, (b',); a running maximum takes them in."""
        if not self.running:
            return self.peak
        before, self.peak = self.peak, torch.maximum(self.peak, logits.amax(0))
        safe = self.peak.clamp(min=torch.finfo(logits.dtype).min / 4)
        self.total *= torch.exp(before - safe)
        self.fused = float(safe.abs().amax()) <= _FUSED
        return safe

    def _exp_(self, logits: Tensor, peak: Tensor) -> None:
        """``exp(logits - peak)`` in place, for (n, b) and (b,).

        As a power of two: on a CPU it costs half of exp, and no more where a logit is -inf or far below the peak,
        where exp costs 3 to 40 times as much.
        """
        if self.fused:
            torch.add(peak * -_LOG2_E, logits, alpha=_LOG2_E, out=logits)
        else:  # the two are large, and their difference may not be: nothing is rounded before it
            logits.sub_(peak).mul_(_LOG2_E)
        logits.exp2_()


def key_tiles(asked: Asked, scorer: RowScorer, rows: range | Tensor) -> Iterator[range | Tensor]:
    """The keys that a block of rows can see, in even runs of about a tile's: shared keys first, then the band's.

    A tile holds whole bins where bins are small, since a cut through one costs more than an odd tile.
    """
    size, edges = asked.keys, asked.column_edges
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


def segment(values: Tensor, cuts: Positions, how: str, *, dim: int = 0) -> Tensor:
    """Reduces one dimension of (n, b) over the m segments of it between m + 1 ``cuts``."""
    lengths = cuts[1:] - cuts[:-1]
    m, width = len(lengths), int(lengths[0])
    used = values.narrow(dim, int(cuts[0]), int(cuts[-1] - cuts[0]))
    if used.shape[dim] == m:
        return used.clone()
    if (lengths == width).all():
        if how == "max" and dim == 1:
            return torch.nn.functional.max_pool1d(used, width)  # a quarter of the time of amax
        grouped: Tensor = used.unflatten(dim, (m, width))
        return grouped.amax(dim + 1) if how == "max" else grouped.sum(dim + 1)
    # PyTorch adds these up as fast as even segments, of whole rows or of all columns: columns beyond the cuts go into
    # one more segment.
    if dim == 1:
        used, lengths = values, np.array([*lengths, values.shape[1] - cuts[-1]])
    segments = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)).to(values.device)
    index = segments.unsqueeze(1 - dim).expand_as(used)
    shape = list(values.shape)
    shape[dim] = len(lengths)
    start, reduce = (-torch.inf, "amax") if how == "max" else (0.0, "sum")
    return values.new_full(shape, start).scatter_reduce_(dim, index, used, reduce).narrow(dim, 0, m)
