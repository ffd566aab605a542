"""A map held against float64: sampled rows, and whole rows of cells, by a way of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.base.errors import InputError
from attnviz.base.types import Cells, Positions
from attnviz.engine.attention import Attention, Computed
from attnviz.engine.request import Request
from attnviz.maps.map import AttentionMap

_TOGETHER = 16
"""Queries of a sample that stand side by side: they meet the keys together."""

_CELLS = 1 << 21
"""Numbers of a tensor that is in work, in float64."""

_ROWS = 64
"""Queries of a row of cells that meet the keys together."""


@dataclass(frozen=True)
class Verified:
    """How far a map was found from float64: the largest differences.

    Args:
        rows: how many queries were sampled.
        log_sum_exp: of the logarithm of their softmax denominators.
        cells: of each of these rows reduced to the map's columns.
        above: how far such a row is above what the map holds for it; 0 where it is nowhere.
        whole_rows: rows of cells that were made of all their queries.
        whole: of these cells.
        tolerance: what rounding explains, of a number up to 1.
    """

    rows: int
    log_sum_exp: float
    cells: float
    above: float
    whole_rows: tuple[int, ...]
    whole: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether rounding explains all of it."""
        return max(self.log_sum_exp, self.cells, self.above, self.whole) <= self.tolerance

    def __str__(self) -> str:
        return (
            f"{self.rows:,} rows against float64: log-sum-exp within {self.log_sum_exp:.1g}, cells within {self.cells:.1g}, none "
            f"above the map by more than {self.above:.1g}; {len(self.whole_rows)} whole rows of cells within {self.whole:.1g}"
        )


def verify(request: Request, shown: AttentionMap, rows: int, *, seed: int = 0) -> Verified:
    """Holds the map of a head of a request against float64.

    Args:
        request: what the map was made of, with the bins that it has.
        shown: the map.
        rows: how many queries to sample, first and last among them.
        seed: says which.

    Raises:
        InputError: the map is not of the weights of one head's queries and keys.

    >>> import attnviz
    >>> from attnviz.engine.request import ask
    >>> request = ask(attnviz.synthesize(), "causal", 3)
    >>> verify(request, attnviz.attention_map(request.inputs, 3, "causal"), 5).holds
    True
    """
    alone = request.alone()
    edges, attention = alone.edges(), alone.attention
    shape = tuple(len(one) - 1 for one in edges)
    if not isinstance(attention, Computed) or shown.combined or shown.values != "weights" or shown.cells.shape != shape:
        raise InputError(
            f"{request.inputs.source}: what is verified is a map of the weights of one head, of queries and keys; leave "
            f"--verify out"
        )
    off = _Off(attention, shown, edges)
    with torch.no_grad(), torch.autocast(attention.item.device.type, enabled=False):
        return off.found(rows, np.random.default_rng(seed), request.memory)


class _Off:
    """How far numbers are off, while they come in."""

    def __init__(self, attention: Attention, shown: AttentionMap, edges: tuple[Positions, Positions]) -> None:
        self.attention, self.shown, (self.row_edges, self.column_edges) = attention, shown, edges
        self.exact = ExactRows(attention.item, attention.pattern, shown.head)

    def found(self, rows: int, random: np.random.Generator, memory: int | None) -> Verified:
        """What ``rows`` sampled queries, and two rows of cells, say."""
        queries = range(int(self.row_edges[0]), int(self.row_edges[-1]))
        off = np.zeros(3)
        runs = sampled(queries, rows, random)
        for run in runs:
            off = np.maximum(off, self._run(run, memory))
        count = len(self.row_edges) - 1
        whole = tuple(sorted(int(row) for row in random.choice(count, min(2, count), replace=False)))
        most = max(self._whole(row) for row in whole)
        u = torch.finfo(self.attention.item.compute_dtype).eps / 2
        tolerance = math.expm1(8 * u * (self.exact.largest + 2)) + 64 * u
        log_sums, cells, above = (float(one) for one in off)
        return Verified(sum(map(len, runs)), log_sums, cells, above, whole, most, tolerance)

    def _run(self, run: range, memory: int | None) -> tuple[float, float, float]:
        """Some queries, each a row of cells: by the map's own way, and exactly."""
        edges = np.arange(run.start, run.stop + 1)
        reduce = self.shown.reduce
        made = self.attention.cells(self.shown.head, edges, self.column_edges, reductions=(reduce,), memory=memory)
        own = made.max if made.mass is None else made.mass
        assert own is not None
        exact, log_sums = self.exact.cells(run, self.column_edges, reduce)
        bins = np.searchsorted(self.row_edges, edges[:-1], side="right") - 1
        held = self.shown.cells[bins]
        if reduce == "mass":  # of the mean of a cell's queries, each is its share
            held = held * np.array([self._counted(bin_) for bin_ in bins])[:, None]
        # A blank of one is a blank of the other: NaN against a number is no rounding.
        relative = np.maximum(1, np.abs(log_sums))
        return (
            _apart(made.log_sum_exp.numpy() / relative, log_sums / relative),
            _apart(own, exact),
            float(max(0.0, np.nan_to_num(np.nan_to_num(own) - np.nan_to_num(held)).max())),
        )

    def _counted(self, bin_: int) -> int:
        return int(self.row_edges[bin_ + 1] - self.row_edges[bin_])

    def _whole(self, row: int) -> float:
        """A row of cells of all its queries."""
        queries = range(int(self.row_edges[row]), int(self.row_edges[row + 1]))
        top = np.full(len(self.column_edges) - 1, np.nan)
        total, seen = np.zeros_like(top), 0
        for start in range(queries.start, queries.stop, _ROWS):
            part = range(start, min(start + _ROWS, queries.stop))
            exact, log_sums = self.exact.cells(part, self.column_edges, self.shown.reduce)
            top = np.fmax(top, np.fmax.reduce(exact, axis=0))
            total += np.nansum(exact, axis=0)
            seen += int(np.isfinite(log_sums).sum())
        expected = top if self.shown.reduce == "max" else np.where(np.isnan(top), np.nan, total / max(seen, 1))
        return _apart(self.shown.cells[row], expected)


class ExactRows:
    """Rows of one head in float64, pair by pair as the pattern has it: no tiles, no bounds, no bins on the way."""

    def __init__(self, item: AttentionItem, pattern: Pattern, head: int) -> None:
        self.item, self.pattern, self.head = item, pattern.of_head(head), head
        self.apart = set(item.global_queries.tolist()) if self.pattern.global_queries else set()
        self.largest = 0.0

    def cells(
        self, rows: range, edges: Positions, reduce: str
    ) -> tuple[Cells, np.ndarray[tuple[int], np.dtype[np.float64]]]:
        """Each row reduced to the bins of keys, (n, P'), NaN where it sees none of them; and its log-sum-exp, (n,)."""
        made = _LogCells(len(rows), edges, reduce)
        for start, logits in self.runs(rows):
            made.add(start, logits.numpy())
        return made.result(self.item.sink(self.head))

    def logits(self, rows: range) -> Tensor:
        """(n, S), on the CPU; -inf where a query does not see the key."""
        return torch.cat([logits for _, logits in self.runs(rows)], dim=1)

    def runs(self, rows: range) -> Iterator[tuple[int, Tensor]]:
        """The same in runs of keys: the first key of each, and its logits."""
        item, t = self.item, torch.arange(rows.start, rows.stop)
        of_global = torch.tensor([row in self.apart for row in rows])
        sides = [
            (of, item.query(self.head, rows, for_global=own).cpu().double()[of], item.key(self.head, for_global=own))
            for own, of in ((False, ~of_global), (True, of_global))
            if bool(of.any())
        ]
        size = max(1, _CELLS // max(len(rows), 2 * item.products.D))
        for start in range(0, item.S, size):
            keys = torch.arange(start, min(start + size, item.S))
            out = torch.empty(len(rows), len(keys), dtype=torch.float64)
            for of, q, k in sides:
                out[of] = self._part(q, k[start : start + size].cpu().double(), t[of], keys)
            yield start, out

    def _part(self, q: Tensor, k: Tensor, t: Tensor, s: Tensor) -> Tensor:
        item = self.item
        logits = q @ k.T * item.scale
        products = (q.abs() @ k.abs().T).max() * abs(item.scale)
        softcap, slope, bias = item.softcap(), item.slope(self.head), item.bias(self.head)
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        if bias is not None:
            logits += bias[t][:, s].cpu().double()
        if slope is not None:
            logits -= slope * (item.query_position(t)[:, None] - item.key_position(s)[None]).abs().double()
        hidden = ~self.pattern.visible(t.to(item.device)[:, None], s.to(item.device)[None], item).cpu()
        for padding, places in ((item.query_padding, t[:, None]), (item.key_padding, s[None])):
            if padding is not None:
                hidden = hidden | ~padding.cpu()[places]
        logits.masked_fill_(hidden, -torch.inf)
        self.largest = max(self.largest, float(products), float(torch.where(logits.isinf(), 0, logits).abs().max()))
        return logits


class _LogCells:
    """Rows reduced to bins of keys while runs of their logits come in: the logarithm of each cell, and of each denominator."""

    def __init__(self, rows: int, edges: Positions, reduce: str) -> None:
        self.edges, self.reduce = edges, reduce
        self.logs = np.full((rows, len(edges) - 1), -np.inf)
        self.seen = np.zeros(self.logs.shape, dtype=bool)
        self.log_sums = np.full(rows, -np.inf)

    def add(self, start: int, logits: Cells) -> None:
        """Takes in the logits of a run of keys, (n, m), from the key ``start`` on."""
        peak = logits.max(1, keepdims=True)
        peak[peak == -np.inf] = 0
        powers = np.exp(logits - peak)
        with np.errstate(divide="ignore"):
            self.log_sums = np.logaddexp(self.log_sums, peak[:, 0] + np.log(powers.sum(1)))
        inside = slice(*(min(max(int(edge) - start, 0), logits.shape[1]) for edge in (self.edges[0], self.edges[-1])))
        if inside.start == inside.stop:
            return
        first = int(np.searchsorted(self.edges, start + inside.start, side="right")) - 1
        last = int(np.searchsorted(self.edges, start + inside.stop, side="left"))
        cuts, bins = np.maximum(self.edges[first:last] - start - inside.start, 0), np.s_[:, first:last]
        self.seen[bins] |= np.logical_or.reduceat(logits[:, inside] > -np.inf, cuts, axis=1)
        if self.reduce == "max":
            self.logs[bins] = np.maximum(self.logs[bins], np.maximum.reduceat(logits[:, inside], cuts, axis=1))
            return
        with np.errstate(divide="ignore"):
            logs = np.log(np.add.reduceat(powers[:, inside], cuts, axis=1)) + peak
        self.logs[bins] = np.logaddexp(self.logs[bins], logs)

    def result(self, sink: float | None) -> tuple[Cells, np.ndarray[tuple[int], np.dtype[np.float64]]]:
        """The cells, NaN where none of a cell's keys is seen, and each row's log-sum-exp, likewise."""
        blank = self.log_sums == -np.inf
        log_sums = self.log_sums if sink is None else np.logaddexp(self.log_sums, sink)
        log_sums = np.where(blank, np.nan, log_sums)
        return np.where(self.seen, np.exp(self.logs - log_sums[:, None]), np.nan), log_sums


def sampled(queries: range, rows: int, random: np.random.Generator) -> list[range]:
    """Runs of queries, about ``rows`` in all, one in each of as many even parts; the first and the last are among them."""
    if rows >= len(queries):
        return [queries[start : start + _TOGETHER] for start in range(0, len(queries), _TOGETHER)]
    count = max(1, -(-rows // _TOGETHER))
    bounds = [len(queries) * n // count for n in range(count + 1)]
    runs = []
    for n in range(count):
        length = min(rows * (n + 1) // count - rows * n // count, bounds[n + 1] - bounds[n])
        latest = bounds[n + 1] - length
        start = bounds[n] if n == 0 else latest if n == count - 1 else int(random.integers(bounds[n], latest + 1))
        runs.append(queries[start : start + length])
    return [run for run in runs if run]


def _apart(found: Cells, exact: Cells) -> float:
    """The largest difference; infinite where one is blank and the other is not."""
    blank = np.isnan(found), np.isnan(exact)
    if (blank[0] != blank[1]).any():
        return math.inf
    return float(np.abs(np.where(blank[0], 0, found - exact)).max(initial=0))
