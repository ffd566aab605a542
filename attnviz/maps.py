"""Maps for pictures: the weights or logits of one head, exact, in no more cells than a picture can show.

Query bin i covers the queries ``floor(i*T/P) .. floor((i+1)*T/P) - 1``, key bins likewise. Two reductions:

- ``max``: the largest value of the cell, so that a lone bright key never vanishes;
- ``mass``: for each query the sum of its weights over the cell's keys, averaged over the cell's queries that see
  anything, so that a row of the picture still sums to 1.

Scores stream through in tiles (a block of queries against a run of keys) that fit a cache. Each row keeps a running
maximum and sum (an online softmax, arXiv:1805.02867); nothing of the size of the map is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnviz.attention import AttentionInputs, AttentionItem
from attnviz.devices import parse_device, parse_dtype
from attnviz.errors import InputError
from attnviz.patterns import GlobalKeys, Pattern, Reach
from attnviz.scores import RowScorer, check_heads, row_blocks

Cells = np.ndarray[tuple[int, int], np.dtype[np.floating[Any]]]
Edges = np.ndarray[tuple[int], np.dtype[np.int64]]
Progress = Callable[[int], None]
"""Called with the number of query rows just done."""

REDUCTIONS = ("max", "mass")

_TILE_ROWS, _TILE_KEYS = 256, 2048  # 2 MiB of float32: a core's share of cache


@dataclass(frozen=True)
class AttentionMap:
    """One head's map, ready to draw.

    Args:
        cells: (P, P') values, NaN where no query of the cell sees a key of it.
        values: ``weights`` or ``logits``.
        head: the query head.
        queries: the query positions that the rows cover.
        keys: the key positions that the columns cover: a range, or the positions of the global keys.
        query_labels: a label for each query of ``queries``, where there are labels.
        key_labels: a label for each key of ``keys``, where there are labels.
        pattern: the pattern's name.
        reduce: how a cell stands for its values, ``max`` or ``mass``.
    """

    cells: Cells
    values: str
    head: int
    queries: range
    keys: Sequence[int]
    query_labels: Sequence[str] | None = None
    key_labels: Sequence[str] | None = None
    pattern: str = "global"
    reduce: str = "max"

    @property
    def cell_size(self) -> tuple[float, float]:
        """Queries and keys to a cell."""
        rows, columns = self.cells.shape
        return len(self.queries) / rows, len(self.keys) / columns

    @property
    def reduced(self) -> bool:
        """Whether a cell stands for several values."""
        return self.cell_size != (1, 1)


def attention_map(
    inputs: AttentionInputs,
    head: int,
    pattern: Pattern | None = None,
    *,
    batch: int = 0,
    values: str = "weights",
    reduce: str = "max",
    pixels: int = 1024,
    queries: range | None = None,
    keys: range | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    progress: Progress | None = None,
) -> AttentionMap:
    """The map of one head, exact, in at most ``pixels`` x ``pixels`` cells.

    Args:
        inputs: queries, keys and masks.
        head: the query head.
        pattern: which query sees which key; None is the inputs' own, else the global keys. A pattern of shared
            keys alone has a column for each of them, other patterns a column for each key position.
        batch: the batch item.
        values: ``weights`` or ``logits``.
        reduce: what a cell holds where the map is larger than the picture: ``max`` or ``mass``.
        pixels: the most cells along each side.
        queries, keys: the positions to show; softmax still runs over every visible key. None is all.
        device, dtype: as in :func:`attnviz.score`.
        progress: called with the number of rows done, as they are.

    Raises:
        InputError: as :func:`attnviz.score`; positions out of range; ``mass`` of logits.

    >>> import attnviz
    >>> attnviz.attention_map(attnviz.synthesize(), head=3).cells.shape
    (10, 3)
    """
    check_heads(inputs, [head])
    if reduce not in REDUCTIONS:
        raise InputError(f"reduce {reduce!r} is not one of {', '.join(REDUCTIONS)}")
    if reduce == "mass" and values == "logits":
        raise InputError("mass sums weights, and logits are not weights; choose max, or values weights")
    if pixels < 1:
        raise InputError(f"a picture has at least 1 cell a side; pixels is {pixels}")
    pattern = pattern or inputs.pattern or GlobalKeys()
    where = inputs.q.device if device is None else parse_device(device)
    item = inputs.item(batch, device=where, dtype=parse_dtype(dtype))
    queries = checked_range(queries, item.T, "queries", inputs.source)
    with torch.no_grad(), torch.autocast(item.device.type, enabled=False):
        reach = pattern.reach(item)
        shared_only = not reach.band and reach.keys is not None and not pattern.global_queries
        inside = checked_range(keys, item.S, "keys", inputs.source)
        shown: Sequence[int] = inside
        if shared_only:
            shown = tuple(position for position in reach.keys.tolist() if position in inside)  # type: ignore[union-attr]
            if not shown:
                raise InputError(f"{inputs.source}: no global key lies in keys {inside.start}:{inside.stop}; widen it")
        picture = _Picture(queries, shown, min(len(queries), pixels), min(len(shown), pixels), values, reduce)
        for rows, scorer in _passes(item, pattern, reach, head, queries):
            picture.add(rows, scorer)
            if progress is not None:
                progress(len(rows))
    return AttentionMap(
        picture.cells(),
        values,
        head,
        queries,
        shown,
        item.query_labels(queries),
        item.key_labels(shown),
        str(pattern),
        reduce,
    )


def bin_edges(positions: Sequence[int], bins: int) -> Edges:
    """The ``bins + 1`` edges that cut ascending positions into bins: bin i is ``edges[i] <= position < edges[i + 1]``."""
    cuts = np.arange(bins + 1, dtype=np.int64) * len(positions) // bins
    if isinstance(positions, range):
        return cuts + positions.start
    return np.append(np.asarray(positions, dtype=np.int64)[cuts[:-1]], positions[-1] + 1)


def reduce_block(cells: Cells, values: Cells, rows: Edges, keys: Edges, row_edges: Edges, column_edges: Edges) -> None:
    """Takes a block of values into the cells they fall into, keeping the largest.

    Args:
        cells: (P, P'), changed in place; -inf where nothing came yet.
        values: (b, n), -inf where there is nothing.
        rows, keys: ascending positions of the rows and columns of ``values``, (b,) and (n,).
        row_edges, column_edges: the bins, as :func:`bin_edges` cuts them.
    """
    across = np.searchsorted(column_edges, keys, side="right") - 1
    starts = np.flatnonzero(np.diff(across, prepend=-1))
    reduced = np.maximum.reduceat(values, starts, axis=1)
    down = np.searchsorted(row_edges, rows, side="right") - 1
    first = np.flatnonzero(np.diff(down, prepend=-1))
    reduced = np.maximum.reduceat(reduced, first, axis=0)
    at = np.ix_(down[first], across[starts])
    cells[at] = np.maximum(cells[at], reduced)


def checked_range(positions: range | None, size: int, name: str, source: str) -> range:
    """``positions``, None meaning all. Raises InputError for what is not a part of 0 to ``size`` - 1."""
    if positions is None:
        return range(size)
    if positions.step != 1 or not 0 <= positions.start < positions.stop <= size:
        raise InputError(
            f"{source}: {name} {positions.start}:{positions.stop} is not a part of 0:{size}; write first:end with first < end"
        )
    return positions


def _passes(
    item: AttentionItem, pattern: Pattern, reach: Reach, head: int, queries: range
) -> list[tuple[range | Tensor, RowScorer]]:
    """Blocks of queries, each with what scores it: rows of global queries by their own rule, at the end."""
    scorer = RowScorer(item, pattern, reach, head)
    passes: list[tuple[range | Tensor, RowScorer]] = [
        (rows, scorer) for rows in row_blocks(queries, _TILE_ROWS, reach.step)
    ]
    if pattern.global_queries:
        apart = item.global_positions
        apart = apart[(apart >= queries.start) & (apart < queries.stop)]
        own = RowScorer(item, pattern, Reach(band_exact=False), head, for_global=True)
        passes += [(rows, own) for rows in apart.split(_TILE_ROWS) if len(rows)]
    return passes


class _Picture:
    """The cells of a picture while rows stream in."""

    def __init__(self, queries: range, keys: Sequence[int], P: int, columns: int, values: str, reduce: str) -> None:
        self.values, self.reduce = values, reduce
        self.row_edges, self.column_edges = bin_edges(queries, P), bin_edges(keys, columns)
        # max: the largest value, -inf where nothing is visible yet. mass: sums over rows, and how many rows.
        self.sums = np.full((P, columns), -np.inf if reduce == "max" else 0.0)
        self.rows = np.zeros((P, 1))
        self.visible = np.zeros((P, columns), dtype=bool)

    def add(self, rows: range | Tensor, scorer: RowScorer) -> None:
        """Takes in every visible key of a block of rows."""
        b = len(rows)
        device, dtype = scorer.item.device, scorer.item.compute_dtype
        peak = torch.full((b, 1), -torch.inf, dtype=dtype, device=device)  # running maximum
        total = torch.zeros((b, 1), dtype=dtype, device=device)  # running sum of exp(logit - peak)
        parts: list[tuple[Tensor, Tensor | None, Tensor | None, Tensor]] = []
        for tile in scorer.tiles(rows, _TILE_KEYS):
            logits = scorer.tile(rows, tile)  # (b, n)
            bins, starts, stop = _segments(tile, self.column_edges)
            hidden = scorer.hides(rows, tile)
            highest = None
            if len(starts) and (self.reduce == "max" or hidden):
                highest = _segment(logits, starts, stop, "max")  # (b, m)
            before, peak = peak, torch.maximum(peak, logits.amax(1, keepdim=True))
            safe = peak.clamp(min=torch.finfo(dtype).min)
            logits.sub_(safe).exp_()
            total = total * torch.exp(before - safe) + logits.sum(1, keepdim=True)
            mass = _segment(logits, starts, stop, "sum") if len(starts) and self.reduce == "mass" else None
            if len(starts):
                parts.append((torch.from_numpy(bins).to(device), highest, mass, safe))
        if scorer.sink is not None:
            before, peak = peak, peak.clamp(min=scorer.sink)
            total = total * torch.exp(before - peak) + torch.exp(scorer.sink - peak)
            total[before == -torch.inf] = 0  # the sink alone is not a key
        self._reduce_rows(rows, scorer, parts, peak + torch.log(total), total > 0)

    def _reduce_rows(
        self,
        rows: range | Tensor,
        scorer: RowScorer,
        parts: list[tuple[Tensor, Tensor | None, Tensor | None, Tensor]],
        denominator: Tensor,  # (b, 1) log-sum-exp
        sees: Tensor,  # (b, 1) bool
    ) -> None:
        shape, dtype, device = (len(rows), self.sums.shape[1]), denominator.dtype, denominator.device
        start = -torch.inf if self.reduce == "max" else 0.0
        block = torch.full(shape, start, dtype=dtype, device=device)
        visible = torch.zeros(shape, dtype=torch.bool, device=device)
        for bins, highest, mass, peak in parts:
            if highest is not None:
                visible[:, bins] |= highest > -torch.inf
            else:
                visible[:, bins] = True
            if self.reduce == "max":
                assert highest is not None
                value = highest if self.values == "logits" else torch.exp(highest - denominator)
                value = value.masked_fill(highest == -torch.inf, -torch.inf)
                block[:, bins] = torch.maximum(block[:, bins], value)
            else:
                assert mass is not None
                block[:, bins] += mass * torch.exp(peak - denominator)
        positions = np.arange(rows.start, rows.stop, rows.step) if isinstance(rows, range) else rows.cpu().numpy()
        keep = sees[:, 0].cpu().numpy() & scorer.counts(rows)
        positions = positions[keep]
        if not len(positions):
            return
        values = block.cpu().double().numpy()[keep]
        seen = visible.cpu().numpy()[keep]
        row_bins = np.searchsorted(self.row_edges, positions, side="right") - 1
        starts = np.flatnonzero(np.diff(row_bins, prepend=-1))
        at = row_bins[starts]
        self.visible[at] |= np.logical_or.reduceat(seen, starts, axis=0)
        if self.reduce == "max":
            self.sums[at] = np.maximum(self.sums[at], np.maximum.reduceat(values, starts, axis=0))
        else:
            self.sums[at] += np.add.reduceat(values, starts, axis=0)
            self.rows[at, 0] += np.diff(starts, append=len(positions))

    def cells(self) -> Cells:
        """The picture: (P, P') float64, NaN where nothing is visible."""
        with np.errstate(invalid="ignore"):
            cells = self.sums if self.reduce == "max" else self.sums / np.maximum(self.rows, 1)
            return np.where(self.visible, cells, np.nan)


def _segments(tile: range | Tensor, edges: Edges) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int]:
    """Which bins a tile's ascending keys fall into, the first column of each, and the column where the last ends."""
    if isinstance(tile, range):
        first = np.clip(-((tile.start - edges) // tile.step), 0, len(tile))
    else:
        first = np.searchsorted(tile.cpu().numpy(), edges)
    bins = np.flatnonzero(first[:-1] < first[1:])
    return bins, first[:-1][bins], int(first[-1])


def _segment(values: Tensor, starts: np.ndarray[Any, Any], stop: int, how: str) -> Tensor:
    """Reduces the columns of (b, n) in segments that begin at ``starts`` and end at ``stop``; (b, m)."""
    lengths = np.diff(starts, append=stop)
    width = int(lengths[0])
    if (lengths == width).all():
        grouped: Tensor = values[:, starts[0] : stop].unflatten(1, (len(starts), width))
        return grouped.amax(-1) if how == "max" else grouped.sum(-1)
    if values.device.type == "cpu":
        reduce: Any = np.maximum if how == "max" else np.add
        return torch.from_numpy(reduce.reduceat(values[:, :stop].numpy(), starts, axis=1))
    index = torch.from_numpy(np.repeat(np.arange(len(starts)), lengths)).to(values.device)
    used = values[:, starts[0] : stop]
    cells = values.new_full((len(values), len(starts)), -torch.inf if how == "max" else 0.0)
    return cells.index_reduce_(1, index, used, "amax") if how == "max" else cells.index_add_(1, index, used)
