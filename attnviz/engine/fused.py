"""A head's map on a GPU in one kernel: product, softmax and reduction together, never a tile in memory.

A program takes a block of queries and walks its keys once, a tile at a time. For each query it leaves, of each bin of keys,
the largest product (``max``) or the sum of exp beside the exponent that it is relative to (``mass``), in scratch memory of
(columns of cells x queries of a chunk); and the softmax denominator. A second kernel takes the scratch of each bin of
queries, now that the denominators are known, into cells. Nothing is added in an order that differs between runs.

Products are kept as the matrix units made them: scale and log2(e) come in after the subtraction of the largest, so that
nothing is rounded between large numbers. float32 inputs are split into three bfloat16 terms each, which hold all their bits;
the six products that matter are exact, and summed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from attnviz.attention.item import AttentionItem
from attnviz.attention.reach import Reach
from attnviz.base.devices import dtype_name
from attnviz.base.types import Positions
from attnviz.engine.tiles import LOG2_E

SCRATCH = 1 << 28
"""Bytes of scratch memory where nothing bounds it: enough queries to fill a large GPU."""


@dataclass(frozen=True)
class Launch:
    """How the kernel is cut for a device: ``rows`` queries a program, ``keys`` a tile, ``warps`` and pipeline ``stages``."""

    rows: int
    keys: int
    warps: int
    stages: int

    @classmethod
    def fitting(cls, item: AttentionItem) -> Launch:
        """What suits an item's dtype and its head_dim."""
        D = item.products.D
        if item.dtype == torch.float32:
            return cls(64, 64, 4, 2) if D <= 128 else cls(32, 32, 4, 2)
        return cls(128, 64, 8, 3) if D <= 128 else cls(64, 64, 4, 2)


INTERPRETED = triton.knobs.runtime.interpret
"""Whether the kernels below are interpreted, as is settled where they are defined, whatever the environment says later.

Triton's interpreter multiplies the bits of bfloat16 as integers: there, float32 holds the same numbers.
"""


def hindrance(item: AttentionItem, reach: Reach, *, values: str, global_queries: bool) -> str | None:
    """Why the kernel can't make a map, where it can't: it has one band of keys without gaps, and no term of each pair by itself."""
    inputs = item.products
    reasons = {
        f"values are {values}": values != "weights",
        f"q is {dtype_name(item.dtype)}": item.dtype not in (torch.float16, torch.bfloat16, torch.float32),
        "keys of a query are not one band": not reach.plain,
        "queries of global tokens see other keys": global_queries,
        "there is a bias": inputs.bias is not None,
        "there are slopes": inputs.alibi_slopes is not None,
        f"head_dim is {inputs.D}": inputs.D > 256,
    }
    return next((reason for reason, given in reasons.items() if given), None)


@triton.jit
def _tanh(y):  # type: ignore[no-untyped-def]
    """Within 2 units in the last place, near 0 too, where exp alone would cancel (Cephes' polynomial)."""
    z = y * y
    near = -5.70498872745e-3
    near = near * z + 2.06390887954e-2
    near = near * z - 5.37397155531e-2
    near = near * z + 1.33314422036e-1
    near = near * z - 3.33332819422e-1
    far = 1 - 2 / (tl.exp2(tl.minimum(tl.abs(y), 20.0) * 2.8853900817779268) + 1)
    return tl.where(tl.abs(y) < 0.625, near * z * y + y, tl.where(y < 0, -far, far))


# Below, as in the kernels' calls, one line holds what belongs together. What is asked of them all:
# M queries by N keys; G columns of cells in a tile, each W keys wide; PLANES terms of a number; EVEN: tiles are the keys one
# after the other; RAGGED: some tile has places without a key; PADDED: some keys don't exist; LOW, HIGH: the band has such an
# end here; CAPPED: there is a softcap; MAX, MASS, TOTAL: what to leave.
# fmt: off


@triton.jit
def _tile(  # type: ignore[no-untyped-def]
    i, keys, bins,
    BLOCK_D: tl.constexpr, N: tl.constexpr, G: tl.constexpr, W: tl.constexpr, EVEN: tl.constexpr,
):
    """The keys of a tile, (N,), which of them are its own, and where they stand in memory, (BLOCK_D, N)."""
    k_ptr, _stride_plane, stride_key, _exists_ptr = keys
    edges_ptr, first_key, last_key, columns, steps = bins
    d = tl.arange(0, BLOCK_D)
    n = tl.arange(0, N)
    if EVEN:
        start = first_key + i * N
        key = start + n
        own = key < last_key
        at = k_ptr + start.to(tl.int64) * stride_key + n[None, :] * stride_key + d[:, None]
    else:
        if G > 1:
            column = i * G + n // W
            key = tl.load(edges_ptr + column, mask=column < columns, other=0) + n % W
            own = key < tl.load(edges_ptr + column + 1, mask=column < columns, other=0)
        else:
            key = tl.load(edges_ptr + i // steps) + (i % steps) * N + n
            own = key < tl.load(edges_ptr + i // steps + 1)
        at = k_ptr + key.to(tl.int64)[None, :] * stride_key + d[:, None]
    return key, own, at


@triton.jit
def _product(queries, at, stride_plane, held, PLANES: tl.constexpr, MASKED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Queries times a tile of keys, in float32; of three terms each, the six products that are not below rounding."""
    q0, q1, q2 = queries
    k0 = tl.load(at, mask=held, other=0.0) if MASKED else tl.load(at)
    if PLANES == 1:
        x = tl.dot(q0, k0)
    else:
        second, third = at + stride_plane, at + 2 * stride_plane
        k1 = tl.load(second, mask=held, other=0.0) if MASKED else tl.load(second)
        k2 = tl.load(third, mask=held, other=0.0) if MASKED else tl.load(third)
        x = tl.dot(q2, k0)
        x = tl.dot(q0, k2, x)
        x = tl.dot(q1, k1, x)
        x = tl.dot(q1, k0, x)
        x = tl.dot(q0, k1, x)
        x = tl.dot(q0, k0, x)
    return x


@triton.jit
def _logits(  # type: ignore[no-untyped-def]
    i, queries, t, keys, bins, band, cap,
    D: tl.constexpr, BLOCK_D: tl.constexpr, N: tl.constexpr, G: tl.constexpr, W: tl.constexpr, PLANES: tl.constexpr,
    EVEN: tl.constexpr, RAGGED: tl.constexpr, PADDED: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, CAPPED: tl.constexpr,
):
    """Products of a block of queries and a tile of keys, capped, -inf where a key is not seen, (M, N)."""
    _k_ptr, stride_plane, _stride_key, exists_ptr = keys
    low, high = band
    softcap, into_cap = cap
    d = tl.arange(0, BLOCK_D)
    key, exists, at = _tile(i, keys, bins, BLOCK_D, N, G, W, EVEN)
    if RAGGED or LOW or HIGH:
        held = exists[None, :] & (d < D)[:, None]
        x = _product(queries, at, stride_plane, held, PLANES, True)
    else:
        x = _product(queries, at, stride_plane, (d < D)[:, None], PLANES, D != BLOCK_D)
    if PADDED:
        exists = exists & (tl.load(exists_ptr + key, mask=exists, other=0) != 0)
    if CAPPED:
        x = softcap * _tanh(x * into_cap)
    if LOW or HIGH:
        apart = key[None, :] - t[:, None]
        seen = exists[None, :]
        if LOW:
            seen = seen & (apart >= low)
        if HIGH:
            seen = seen & (apart <= high)
        x = tl.where(seen, x, float("-inf"))
    elif RAGGED:
        x = tl.where(exists[None, :], x, float("-inf"))
    return x


@triton.jit
def _summed(  # type: ignore[no-untyped-def]
    x, highest, peak, total, lost, mass, factor,
    M: tl.constexpr, G: tl.constexpr, W: tl.constexpr, MASS: tl.constexpr,
):
    """A tile's powers taken into the sums of a block; and, where the tile has several bins, their sums, (M, G)."""
    higher = tl.maximum(peak, highest)
    safe = tl.where(higher == float("-inf"), 0.0, higher)
    fewer = tl.exp2((peak - safe) * factor)
    x = tl.exp2((x - safe[:, None]) * factor)
    sums = x
    if MASS and G > 1:
        sums = x if W == 1 else tl.sum(tl.reshape(x, (M, G, W)), axis=2)
        here = tl.sum(sums, axis=1)
    else:
        here = tl.sum(x, axis=1)
    # Compensated (Kahan), as a row may have thousands of tiles.
    before = total * fewer
    term = here - lost * fewer
    total = before + term
    lost = (total - before) - term
    if MASS and G == 1:
        mass = mass * fewer + here
    return sums, higher, total, lost, mass


@triton.jit
def _leave_bins(  # type: ignore[no-untyped-def]
    i, tops, sums, peak, row, row_ok, columns, scratch,
    M: tl.constexpr, G: tl.constexpr, MAX: tl.constexpr, MASS: tl.constexpr,
):
    """What a tile of several bins found, into the scratch."""
    tops_ptr, sums_ptr, peaks_ptr, R = scratch
    column = i * G + tl.arange(0, G)
    place = column.to(tl.int64)[None, :] * R + row[:, None]
    inside = row_ok[:, None] & (column < columns)[None, :]
    if MAX:
        tl.store(tops_ptr + place, tops, mask=inside)
    if MASS:  # -1: the query sees none of the bin
        across = tl.zeros((M,), tl.int64) + R  # an index of a column's first query may need 64 bits
        tl.store(sums_ptr + place, tl.where(tops == float("-inf"), -1.0, sums), mask=inside)
        tl.store(peaks_ptr + i * across + row, peak, mask=row_ok)


@triton.jit
def _leave_bin(  # type: ignore[no-untyped-def]
    i, top, mass, peak, row, row_ok, steps, end, scratch, M: tl.constexpr, MAX: tl.constexpr, MASS: tl.constexpr
):
    """What a bin of several tiles has come to, into the scratch where this is its last; and what goes on to the next tile."""
    tops_ptr, sums_ptr, peaks_ptr, R = scratch
    across = tl.zeros((M,), tl.int64) + R
    # Whether the tile is its bin's last here, for each row: the interpreter's scalars are no tensors.
    full = (tl.zeros((M,), tl.int32) + i) == tl.minimum((i // steps + 1) * steps, end) - 1
    place = (i // steps) * across + row
    if MAX:
        tl.store(tops_ptr + place, top, mask=row_ok & full)
    if MASS:
        tl.store(sums_ptr + place, tl.where(top == float("-inf"), -1.0, mass), mask=row_ok & full)
        tl.store(peaks_ptr + place, peak, mask=row_ok & full)
        mass = tl.where(full, 0.0, mass)
    return tl.where(full, float("-inf"), top), mass


@triton.jit
def _walk(  # type: ignore[no-untyped-def]
    state, queries, t, row, row_ok, keys, bins, band, cap, factor, scratch, lo, hi, end,
    D: tl.constexpr, BLOCK_D: tl.constexpr, M: tl.constexpr, N: tl.constexpr, G: tl.constexpr, W: tl.constexpr,
    PLANES: tl.constexpr, EVEN: tl.constexpr, RAGGED: tl.constexpr, PADDED: tl.constexpr, LOW: tl.constexpr,
    HIGH: tl.constexpr, CAPPED: tl.constexpr, MAX: tl.constexpr, MASS: tl.constexpr, TOTAL: tl.constexpr,
):
    """Takes the tiles ``lo`` to ``hi`` into the state of a block of queries, and what bins they complete into the scratch."""
    peak, total, lost, top, mass = state
    _edges_ptr, _first_key, _last_key, columns, steps = bins
    for i in range(lo, hi):
        x = _logits(
            i, queries, t, keys, bins, band, cap,
            D, BLOCK_D, N, G, W, PLANES, EVEN, RAGGED, PADDED, LOW, HIGH, CAPPED,
        )
        if G > 1:
            tops = x if W == 1 else tl.max(tl.reshape(x, (M, G, W)), axis=2)  # (M, G)
            highest = tl.max(tops, axis=1)
        else:
            highest = tl.max(x, axis=1)
        sums = x
        if TOTAL:
            sums, peak, total, lost, mass = _summed(x, highest, peak, total, lost, mass, factor, M, G, W, MASS)
        if (MAX or MASS) and G > 1:
            _leave_bins(i, tops, sums, peak, row, row_ok, columns, scratch, M, G, MAX, MASS)
        elif MAX or MASS:
            top = tl.maximum(top, highest)
            top, mass = _leave_bin(i, top, mass, peak, row, row_ok, steps, end, scratch, M, MAX, MASS)
    return peak, total, lost, top, mass


@triton.jit(do_not_specialize=["first_query", "count", "first_key", "last_key", "columns", "low", "high", "steps"])
def _rows_kernel(  # type: ignore[no-untyped-def]
    q_ptr, k_ptr, exists_ptr, edges_ptr, ranges_ptr, tops_ptr, sums_ptr, peaks_ptr, partial_ptr,
    q_plane, stride_query, stride_plane, stride_key,
    first_query, count, R, first_key, last_key, columns, low, high, factor, softcap, into_cap, steps,
    D: tl.constexpr, BLOCK_D: tl.constexpr, M: tl.constexpr, N: tl.constexpr, G: tl.constexpr, W: tl.constexpr,
    PLANES: tl.constexpr, EVEN: tl.constexpr, RAGGED: tl.constexpr, PADDED: tl.constexpr, LOW: tl.constexpr,
    HIGH: tl.constexpr, CAPPED: tl.constexpr, MAX: tl.constexpr, MASS: tl.constexpr, TOTAL: tl.constexpr,
):
    """One block of queries over one share of its keys."""
    block = tl.num_programs(0) - 1 - tl.program_id(0)  # a causal map's longest rows first
    share = tl.program_id(1)
    row = block * M + tl.arange(0, M)
    row_ok = row < count
    t = first_query + row
    d = tl.arange(0, BLOCK_D)
    at = q_ptr + row.to(tl.int64)[:, None] * stride_query + d[None, :]
    held = row_ok[:, None] & (d < D)[None, :]
    q0 = tl.load(at, mask=held, other=0.0)
    q1 = q0
    q2 = q0
    if PLANES == 3:
        q1 = tl.load(at + q_plane, mask=held, other=0.0)
        q2 = tl.load(at + 2 * q_plane, mask=held, other=0.0)
    own = ranges_ptr + (block * tl.num_programs(1) + share) * 4
    lo = tl.load(own)
    clear = tl.load(own + 1)
    cut = tl.load(own + 2)
    hi = tl.load(own + 3)
    nothing = tl.zeros((M,), tl.float32)
    state = (nothing - float("inf"), nothing, nothing, nothing - float("inf"), nothing)
    queries, band, cap = (q0, q1, q2), (low, high), (softcap, into_cap)
    keys, bins = (k_ptr, stride_plane, stride_key, exists_ptr), (edges_ptr, first_key, last_key, columns, steps)
    scratch = (tops_ptr, sums_ptr, peaks_ptr, R)
    if LOW:
        state = _walk(
            state, queries, t, row, row_ok, keys, bins, band, cap, factor, scratch, lo, clear, hi,
            D, BLOCK_D, M, N, G, W, PLANES, EVEN, RAGGED, PADDED, LOW, HIGH, CAPPED, MAX, MASS, TOTAL,
        )
    state = _walk(
        state, queries, t, row, row_ok, keys, bins, band, cap, factor, scratch, clear, cut, hi,
        D, BLOCK_D, M, N, G, W, PLANES, EVEN, RAGGED, PADDED, False, False, CAPPED, MAX, MASS, TOTAL,
    )
    if LOW or HIGH:
        state = _walk(
            state, queries, t, row, row_ok, keys, bins, band, cap, factor, scratch, cut, hi, hi,
            D, BLOCK_D, M, N, G, W, PLANES, EVEN, RAGGED, PADDED, LOW, HIGH, CAPPED, MAX, MASS, TOTAL,
        )
    if TOTAL:
        peak, total, lost, _top, _mass = state
        out = partial_ptr + share.to(tl.int64) * 2 * R + row
        tl.store(out, peak, mask=row_ok)
        tl.store(out + R, total - lost, mask=row_ok)


# fmt: on


@triton.jit(do_not_specialize=["columns"])
def _cells_kernel(  # type: ignore[no-untyped-def]
    tops_ptr,
    sums_ptr,
    peaks_ptr,
    peak_ptr,
    inverse_ptr,
    visited_ptr,
    cuts_ptr,
    max_ptr,
    mass_ptr,
    R,
    columns,
    factor,
    M: tl.constexpr,
    G: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    MAX: tl.constexpr,
    MASS: tl.constexpr,
):
    """One bin of queries over a few columns of cells."""
    bin_ = tl.program_id(1)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.load(cuts_ptr + bin_)
    stop = tl.load(cuts_ptr + bin_ + 1)
    most = tl.zeros((COLUMNS,), tl.float32) - float("inf")
    whole = tl.zeros((COLUMNS,), tl.float32)
    any_ = tl.zeros((COLUMNS,), tl.float32) - 1.0
    for start in range(first, stop, ROWS):
        row = start + tl.arange(0, ROWS)
        counted = row < stop
        peak = tl.load(peak_ptr + row, mask=counted, other=0.0)
        inverse = tl.load(inverse_ptr + row, mask=counted, other=-1.0)  # -1: the row sees nothing
        visited = visited_ptr + row // M * 2
        from_ = tl.load(visited, mask=counted, other=0)
        to = tl.load(visited + 1, mask=counted, other=0)
        inside = (column[:, None] >= from_[None, :]) & (column[:, None] < to[None, :]) & (inverse >= 0)[None, :]
        place = column.to(tl.int64)[:, None] * R + row[None, :]
        if MAX:
            top = tl.load(tops_ptr + place, mask=inside, other=float("-inf"))
            weight = tl.minimum(tl.exp2((top - peak[None, :]) * factor) * inverse[None, :], 1.0)
            most = tl.maximum(most, tl.max(tl.where(top > float("-inf"), weight, float("-inf")), axis=1))
        if MASS:
            sum_ = tl.load(sums_ptr + place, mask=inside, other=-1.0)
            group = (column // G).to(tl.int64)[:, None] * R + row[None, :]
            of = tl.load(peaks_ptr + group, mask=inside & (sum_ >= 0), other=float("-inf"))
            share = sum_ * (tl.exp2((of - peak[None, :]) * factor) * inverse[None, :])
            whole += tl.sum(tl.where(sum_ >= 0, share, 0.0), axis=1)
            any_ = tl.maximum(any_, tl.max(sum_, axis=1))
    out = bin_.to(tl.int64) * columns + column
    if MAX:
        tl.store(max_ptr + out, most, mask=column < columns)
    if MASS:  # -1: no query of the bin sees a key of it
        tl.store(mass_ptr + out, tl.where(any_ >= 0, whole, -1.0), mask=column < columns)


@dataclass(frozen=True)
class _Tiles:
    """A run of keys cut into tiles of the kernel."""

    first: int  # key
    last: int  # key, not itself
    edges: Positions | None  # (C + 1,) of the columns of cells; None where the keys count for the denominators alone
    size: int  # keys of a tile
    per_tile: int = 1  # columns of a tile
    width: int = 0  # keys that a tile has for each column
    steps: int = 1  # tiles of a column
    even: bool = True  # whether tiles are the keys one after the other

    @classmethod
    def of(cls, first: int, last: int, edges: Positions | None, size: int) -> _Tiles:
        """The cut that wastes little: whole bins in a tile, or whole tiles in a bin."""
        if edges is None:
            return cls(first, last, None, size)
        widths = edges[1:] - edges[:-1]
        widest = int(widths.max())
        even = bool((widths[:-1] == widest).all())  # the last bin ends where the keys end
        if widest <= size // 2:
            width = triton.next_power_of_2(widest)
            return cls(first, last, edges, size, size // width, width, 1, even and width == widest)
        steps = -(-widest // size)
        return cls(first, last, edges, size, 1, size, steps, even and steps * size == widest)

    @property
    def columns(self) -> int:
        return 0 if self.edges is None else len(self.edges) - 1

    @cached_property
    def cuts(self) -> tuple[Positions, Positions]:
        """The first key of each tile and the one after its last, ascending, (n,) each."""
        if self.even:
            starts = np.arange(self.first, self.last, self.size)
            return starts, np.minimum(starts + self.size, self.last)
        assert self.edges is not None
        if self.per_tile > 1:
            starts = self.edges[: -1 : self.per_tile]
            return starts, np.append(starts[1:], self.edges[-1])
        start = (self.edges[:-1, None] + np.arange(self.steps) * self.size).ravel()
        limit = np.repeat(self.edges[1:], self.steps)
        return np.minimum(start, limit), np.minimum(start + self.size, limit)

    @property
    def shares(self) -> int:
        """How many programs walk the keys of one block of queries, so that short maps fill a GPU; by the keys alone."""
        return max(1, min(8, (1 << 16) // max(self.last - self.first, 1), len(self.cuts[0]) // 4))

    @property
    def groups(self) -> int:
        """How many exponents a query leaves for its sums."""
        return -(-self.columns // self.per_tile)

    def ranges(self, firsts: Positions, lasts: Positions, low: int | None, high: int | None) -> np.ndarray[Any, Any]:
        """Which tiles each share of each block of queries walks, (blocks, shares, 4) int32.

        The four are where it starts, where tiles begin of which all is in the band, where they end, and where it stops.

        Args:
            firsts, lasts: the first and last query of each block.
            low, high: the band.
        """
        starts, stops = self.cuts
        count, zeros = len(starts), np.zeros(len(firsts), np.int64)
        lo = zeros if low is None else np.searchsorted(stops, firsts + low, side="right")
        hi = zeros + count if high is None else np.searchsorted(starts, lasts + high, side="right")
        clear = zeros if low is None else np.searchsorted(starts, lasts + low, side="left")
        cut = zeros + count if high is None else np.searchsorted(stops, firsts + high + 1, side="right")
        # Shares are cut between bins, as what a bin holds is one program's; and at the same keys for all queries, so that
        # a query's bits don't depend on those beside it.
        bins = -(-count // self.steps)
        at = np.minimum(bins * np.arange(self.shares + 1) // self.shares * self.steps, count)[None, :]
        at = np.clip(at, lo[:, None], np.maximum(hi, lo)[:, None])
        lo, hi = at[:, :-1], at[:, 1:]
        clear = np.clip(clear[:, None], lo, hi)
        return np.stack([lo, clear, np.clip(cut[:, None], clear, hi), hi], axis=2).astype(np.int32)

    def visited(self, ranges: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The columns of which a block's programs write anything, from and to, (blocks, 2) int32."""
        lo, hi = ranges[:, 0, 0].astype(np.int64), ranges[:, -1, 3].astype(np.int64)
        first = lo // self.steps * self.per_tile
        stop = np.where(lo < hi, np.minimum(-(-hi // self.steps) * self.per_tile, self.columns), first)
        return np.stack([first, stop], axis=1).astype(np.int32)


class FusedMap:
    """The map of one head, a chunk of queries at a time."""

    def __init__(
        self,
        item: AttentionItem,
        reach: Reach,
        head: int,
        row_edges: Positions,
        column_edges: Positions,
        *,
        reductions: Sequence[str],
        denominators: Tensor | None = None,
        memory: int | None = None,
        launch: Launch | None = None,
    ) -> None:
        """As :func:`attnviz.engine.reducer.reduce_map`; what it asks is served (:func:`serves`)."""
        self.item, self.reach, self.row_edges = item, reach, row_edges
        self.max, self.mass, self.known = "max" in reductions, "mass" in reductions, denominators
        self.launch = launch or Launch.fitting(item)
        self.queries = range(int(row_edges[0]), int(row_edges[-1]))
        self.sink, self.softcap = item.sink(head), item.softcap()
        self.q = self._planes(item.query(head, self.queries))  # (planes, T', D)
        self.k = self._planes(item.key(head))  # (planes, S, D)
        item.check_products(head, self.queries)
        exists = item.key_padding
        self.exists = None if exists is None else exists.to(torch.uint8)
        # What one unit of a product is, of a logit: a cap makes logits of products at once.
        self.unit = item.scale if self.softcap is None else 1.0
        first, last = int(column_edges[0]), int(column_edges[-1])
        self.tiles = _Tiles.of(first, last, column_edges, self.launch.keys)
        outside = [] if denominators is not None else [range(first), range(last, item.S)]
        self.outside = [_Tiles.of(keys.start, keys.stop, None, self.launch.keys) for keys in outside if keys]
        self.edges = self._int32(column_edges)
        shape, device = (len(row_edges) - 1, len(column_edges) - 1), item.device
        self.tops = torch.full(shape if self.max else (0, 0), -torch.inf, device=device)
        self.sums = torch.full(shape if self.mass else (0, 0), -1.0, dtype=torch.float64, device=device)
        self.counts = torch.zeros(shape[0], dtype=torch.int64, device=device)
        self.denominators = torch.full((len(self.queries), 2), torch.nan, dtype=torch.float64, device=device)
        if denominators is not None:
            self.denominators.copy_(denominators)
        self.chunk = self._chunk(memory, shape)

    def _planes(self, tensor: Tensor) -> Tensor:
        """(n, D) to the terms that the matrix units multiply, (1 or 3, n, D)."""
        if tensor.stride(-1) != 1:
            tensor = tensor.contiguous()
        half = torch.float32 if INTERPRETED else torch.bfloat16
        if self.item.dtype != torch.float32:
            return tensor[None] if self.item.dtype == torch.float16 else tensor[None].to(half)
        terms = torch.empty(3, *tensor.shape, dtype=half, device=tensor.device)
        rest = tensor.clone()
        for term in terms:
            term.copy_(rest.bfloat16())
            rest -= term
        return terms

    def _int32(self, values: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int32)).to(self.item.device)

    def _chunk(self, memory: int | None, shape: tuple[int, int]) -> int:
        """How many queries' scratch there is room for; 0 where not even a block's."""
        each = 4 * (shape[1] * (self.max + self.mass) + self.mass * self.tiles.groups)
        picture = shape[0] * shape[1] * (4 * self.max + 8 * self.mass) * 2
        planes = 0 if self.item.dtype != torch.float32 else sum(one.numel() * 2 for one in (self.q, self.k))
        room = SCRATCH if memory is None else min(SCRATCH, memory - picture - planes)
        return max(room // each // self.launch.rows, 0) * self.launch.rows

    def add(self, rows: range) -> None:
        """Takes in a chunk of queries: whole bins, or a part of one."""
        n, M, device = len(rows), self.launch.rows, self.item.device
        R, columns = -(-n // M) * M, self.tiles.columns
        local = slice(rows.start - self.queries.start, rows.stop - self.queries.start)
        tops = torch.empty((columns, R) if self.max else (1,), device=device)
        sums = torch.empty((columns, R) if self.mass else (1,), device=device)
        peaks = torch.empty((self.tiles.groups, R) if self.mass else (1,), device=device)
        total = self.known is None
        visited, partial = self._rows(rows, self.tiles, R, tops, sums, peaks, total=total)
        partials = [partial]
        for tiles in self.outside:
            nothing = tops[:0]
            partials.append(self._rows(rows, tiles, R, nothing, nothing, nothing, total=True)[1])
        if total:
            self._finish(local, torch.cat(partials)[:, :, :n].double())
        denominators, keep = self.denominators[local], None
        hidden = self.item.query_padding
        if hidden is not None:
            keep = hidden[rows.start : rows.stop]
        peak64 = denominators[:, 0] / self.unit
        peak = peak64.float()
        # What the peak loses in float32, the sum takes.
        whole = denominators[:, 1] * torch.exp((peak64 - peak.double()) * self.unit)
        sees = ~torch.isnan(whole) if keep is None else ~torch.isnan(whole) & keep
        inverse = torch.where(sees, 1 / whole, -1.0).float()
        peak = torch.where(sees, peak, 0.0)
        self._cells(rows, R, tops, sums, peaks, peak, inverse, sees, visited)

    def _rows(
        self, rows: range, tiles: _Tiles, R: int, tops: Tensor, sums: Tensor, peaks: Tensor, *, total: bool
    ) -> tuple[np.ndarray[Any, Any], Tensor]:
        """Runs the first kernel: which columns each block visits, and each share's peaks and sums, (shares, 2, R)."""
        M, N, D = self.launch.rows, self.launch.keys, self.item.products.D
        low, high, shown = self.reach.low, self.reach.high, tiles.edges is not None
        firsts = np.arange(rows.start, rows.stop, M)
        ranges = tiles.ranges(firsts, np.minimum(firsts + M, rows.stop) - 1, low, high)
        partial = torch.empty((tiles.shares, 2, R), device=self.item.device)
        q = self.q[:, rows.start - self.queries.start :]
        even_end = (tiles.last - tiles.first) % N == 0
        _rows_kernel[(len(firsts), tiles.shares)](
            q, self.k, self.exists if self.exists is not None else q, self.edges, self._int32(ranges),
            tops, sums, peaks, partial,
            self.q.stride(0), self.q.stride(1), self.k.stride(0), self.k.stride(1),
            rows.start, len(rows), R, tiles.first, tiles.last, tiles.columns,
            low or 0, high or 0, self.unit * LOG2_E, self.softcap or 0.0, self.item.scale / (self.softcap or 1.0), tiles.steps,
            D=D, BLOCK_D=max(16, triton.next_power_of_2(D)), M=M, N=N,
            G=tiles.per_tile, W=tiles.width or N, PLANES=len(self.q),
            EVEN=tiles.even, RAGGED=not tiles.even or not even_end or self.exists is not None,
            PADDED=self.exists is not None, LOW=low is not None, HIGH=high is not None,
            CAPPED=self.softcap is not None, MAX=self.max and shown, MASS=self.mass and shown,
            TOTAL=total or (self.mass and shown),
            num_warps=self.launch.warps, num_stages=self.launch.stages,
        )  # fmt: skip
        return tiles.visited(ranges), partial

    def _finish(self, local: slice, partials: Tensor) -> None:
        """The denominators of a chunk from the peaks and sums of its shares, (shares, 2, n) float64."""
        peak = partials[:, 0].amax(0)
        sees = peak > -torch.inf
        safe = torch.where(sees, peak, 0.0)
        total = (partials[:, 1] * torch.exp((partials[:, 0] - safe) * self.unit)).sum(0)
        peak = safe * self.unit
        if self.sink is not None:
            before, peak = peak, peak.clamp(min=self.sink)
            total = total * torch.exp(before - peak) + torch.exp(self.sink - peak)
        made = torch.stack([peak, total], dim=1)
        padding = self.item.query_padding
        if padding is not None:
            sees &= padding[self.queries.start : self.queries.stop][local]
        self.denominators[local] = made.masked_fill(~sees[:, None], torch.nan)

    def _cells(
        self,
        rows: range,
        R: int,
        tops: Tensor,
        sums: Tensor,
        peaks: Tensor,
        peak: Tensor,
        inverse: Tensor,
        sees: Tensor,
        visited: np.ndarray[Any, Any],
    ) -> None:
        """Runs the second kernel."""
        edges, columns, device = self.row_edges, self.tiles.columns, self.item.device
        first = int(np.searchsorted(edges, rows.start, side="right")) - 1
        last = int(np.searchsorted(edges, rows.stop, side="left"))
        cuts = np.clip(edges[first : last + 1], rows.start, rows.stop) - rows.start
        bins, tallest = last - first, int((cuts[1:] - cuts[:-1]).max())
        largest = torch.empty((bins, columns) if self.max else (1,), device=device)
        mass = torch.empty((bins, columns) if self.mass else (1,), device=device)
        ROWS = min(128, max(triton.next_power_of_2(tallest), 1))
        COLUMNS = max(16, min(1024 // ROWS, 128))
        at = self._int32(cuts)
        _cells_kernel[(triton.cdiv(columns, COLUMNS), bins)](
            tops, sums, peaks, peak, inverse, self._int32(visited), at, largest, mass, R, columns, self.unit * LOG2_E,
            M=self.launch.rows, G=self.tiles.per_tile, ROWS=ROWS, COLUMNS=COLUMNS, MAX=self.max, MASS=self.mass,
        )  # fmt: skip
        if self.max:
            torch.maximum(self.tops[first:last], largest, out=self.tops[first:last])
        if self.mass:
            seen = mass >= 0
            have = self.sums[first:last]
            have.copy_(torch.where(seen, have.clamp(min=0) + mass.double(), have))
        up_to = torch.cat([sees.new_zeros(1, dtype=torch.int64), sees.cumsum(0)])
        self.counts[first:last] += up_to[at[1:].long()] - up_to[at[:-1].long()]

    def wait(self) -> None:
        """Returns when the device has done what it was asked."""
        if self.item.device.type == "cuda":
            torch.cuda.synchronize(self.item.device)

    def result(self) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
        """The cells of max and of mass, NaN where blank, the counts and the denominators, on the device."""
        top = self.tops.masked_fill(self.tops == -torch.inf, torch.nan) if self.max else None
        mass = None
        if self.mass:
            mass = self.sums.masked_fill(self.sums < 0, torch.nan) / self.counts.clamp(min=1)[:, None]
        return top, mass, self.counts, self.denominators
