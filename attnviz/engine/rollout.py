"""Attention followed through the layers (arXiv:2005.00928)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Full
from attnviz.base.errors import InputError
from attnviz.base.selections import checked_range
from attnviz.base.types import Positions
from attnviz.engine.attention import Attention
from attnviz.engine.blocks import Block, SeenRows
from attnviz.engine.combined import Combined
from attnviz.engine.derived import Derived
from attnviz.engine.norms import Normed
from attnviz.engine.reducer import Reduced, Wanted, ones
from attnviz.engine.tiles import segment, segments
from attnviz.engine.visibility import to_positions

_VECTOR_CELLS = 1 << 23
"""Numbers of the row vectors that go through all layers together: 64 MiB of float64."""

_VECTOR_BYTES = 40
"""What a number of them takes on its way: two of float64, and what is reached."""


class Rollout(Derived):
    """Attention followed through the layers (arXiv:2005.00928): ``R = (A_L / 2 + I / 2) ... (A_1 / 2 + I / 2)``.

    ``A_l`` is the mean of a layer's heads; a row that is blank counts as that of the identity; nothing is renormalized. Row
    vectors go down from the top layer: a query, or the mean of those of a row of cells.

    Of layers whose numbers are ``norms``, ``R = ((1 - r_L) A_L + r_L I) ...``: ``A_l`` has the sum of the heads as shares of its row,
    and ``r_l`` is, for each query, the residual's share of the lengths of both (arXiv:2109.07152).
    """

    said = "rollout"

    def __init__(self, item: AttentionItem, parts: Sequence[Attention]) -> None:
        """``parts``: the layers, the first one first."""
        super().__init__(item, Full(), parts)
        self.layers = [_Step(part) for part in parts]

    def head_name(self, head: int) -> str:
        return "all heads"

    def columns(self, keys: range | None = None) -> Sequence[int]:
        return checked_range(keys, self.item.S, "keys", self.item.source)

    def rows(self, head: int, queries: range | None = None) -> _RolloutRows:
        return _RolloutRows(self)

    def _blocks(self, head: int, queries: range, most: int | None = None) -> Iterator[Block]:
        own, size = self.rows(head), max(1, _VECTOR_CELLS // self.item.S)
        for rows in _chunks(queries, size if most is None else min(size, most)):
            yield self._block(rows, own.read(rows))

    def reduced(self, head: int, row_edges: Positions, column_edges: Positions, wanted: Wanted) -> Reduced:
        sizes = np.diff(row_edges)
        if "max" in wanted.reductions and (sizes > 1).any():
            raise InputError(
                f"{self.item.source}: a row of cells is of {int(sizes.max())} queries, and rollout follows their mean through "
                f"the layers, not the largest of each; choose --reduce mass, or few queries with --queries A:B"
            )
        if not (sizes > 1).any():
            return super().reduced(head, row_edges, column_edges, wanted)
        if wanted.logits:
            raise self.no_logits()
        wanted.tile_of(self.item, row_edges, column_edges)  # raises where memory is too little
        return self._mass(row_edges, column_edges, wanted)

    def _mass(self, row_edges: Positions, column_edges: Positions, wanted: Wanted) -> Reduced:
        """The mean of the queries of each row of cells, followed down, and summed over the keys of each."""
        exists = self._exist(torch.arange(int(row_edges[0]), int(row_edges[-1])))
        rows = row_edges - row_edges[0]
        counts = np.add.reduceat(exists.numpy(), rows[:-1], dtype=np.int64)
        mass = np.full((len(counts), len(column_edges) - 1), np.nan)
        memory = wanted.memory
        cells = _VECTOR_CELLS if memory is None else min(_VECTOR_CELLS, memory // _VECTOR_BYTES)
        for bins in _chunks(range(len(counts)), max(1, cells // self.item.S)):
            start = torch.zeros(len(bins), self.item.S, dtype=torch.float64)
            for n, place in enumerate(bins):
                of_bin = torch.arange(int(row_edges[place]), int(row_edges[place + 1]))
                start[n, of_bin[exists[of_bin - int(row_edges[0])]]] = 1 / max(int(counts[place]), 1)
            values, seen = self.follow(start)
            inside = slice(int(column_edges[0]), int(column_edges[-1]))
            found, cuts = segments(range(self.item.S)[inside], column_edges)
            sums = segment(values[:, inside].contiguous(), cuts, "sum", dim=1)
            there = segment(seen[:, inside].double(), cuts, "max", dim=1) > 0
            mass[bins.start : bins.stop, found] = torch.where(there, sums, torch.nan).numpy()
            wanted.told(int(row_edges[bins.stop] - row_edges[bins.start]))
        mass[counts == 0] = np.nan
        return Reduced(None, mass, counts, ones(exists))

    def follow(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Row vectors through all layers, from the top one down.

        Args:
            vectors: (m, T) float64, on the CPU.

        Returns:
            (m, S) what they become, and whether there is a way to each key, (m, S) bool.
        """
        seen = vectors != 0
        for layer in reversed(self.layers):
            vectors, seen = self._through(layer, vectors, seen)
        return vectors, seen

    def _through(self, layer: _Step, vectors: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """One layer: a part of each weight stays where it is, the rest goes where its query looks."""
        found, reached = vectors * layer.stays, seen.clone()
        there = seen.any(0).nonzero().flatten()
        if not len(there):
            return found, reached
        queries = range(int(there[0]), int(there[-1]) + 1)
        heads = layer.heads
        own = heads.rows(0, queries)
        for rows in own.groups(queries):
            read = own.read(rows)
            at, values = to_positions(rows, torch.device("cpu")), layer.shares(read.values)
            blank = torch.isnan(values).all(1)
            goes = vectors[:, at] * (1 - layer.stays[at])
            found[:, at[blank]] += goes[:, blank]
            ways = (read.seen if heads.knows_hidden else heads._existing(read))[~blank]
            at = at[~blank]
            found[:, read.keys] += goes[:, ~blank] @ values[~blank]
            reached[:, read.keys] |= seen[:, at].float() @ ways.float() > 0
        return found, reached

    def _exist(self, queries: Tensor) -> Tensor:
        """Which of some queries are no padding."""
        padding = self.item.query_padding
        return torch.ones(len(queries), dtype=torch.bool) if padding is None else padding.cpu()[queries]


class _Step:
    """One layer on the way: the mean of its heads, and how much of each query stays where it is."""

    def __init__(self, part: Attention) -> None:
        self.heads = Combined(part.item, [part], "mean", range(part.item.inputs.H))
        self.normed = part if isinstance(part, Normed) else None
        self.stays = torch.tensor(0.5, dtype=torch.float64).expand(part.item.T)  # (T,)
        if isinstance(part, Normed):
            self.stays = _residual_shares(part.parts[0].item)

    def shares(self, values: Tensor) -> Tensor:
        """Rows as they are; lengths as shares of their row, blank where they are all 0."""
        return values if self.normed is None else self.normed.as_shares(values, None)[0]


def _residual_shares(item: AttentionItem) -> Tensor:
    """The residual's share of what a layer gives on, (T,) float64; where both are 0, all.

    Raises:
        InputError: the inputs don't say it.
    """
    norms: Tensor | None = getattr(item.inputs, "residual_norms", None)
    if norms is None:
        raise InputError(
            f"{item.source}: rollout by norms weighs a layer against its residual by residual_norms, (B, T, 2), which "
            f"capture keeps where it sees them; this has none; leave --values norms out"
        )
    residual, added = norms[item.batch].double().cpu().unbind(-1)
    shares = torch.where(residual + added == 0, 1.0, residual / (residual + added))
    exists = torch.ones(item.T, dtype=torch.bool) if item.query_padding is None else item.query_padding.cpu()
    shares = torch.where(exists, shares, 1.0)
    if not bool(shares.isfinite().all()):
        first = int((~shares.isfinite()).nonzero()[0])
        raise InputError(f"{item.source}: residual_norms of query {first} are NaN or Inf; fix what wrote them")
    return shares


class _RolloutRows:
    """Rows of the rollout, each followed through all layers."""

    step: int | None = None

    def __init__(self, attention: Rollout) -> None:
        self.attention, self.apart = attention, torch.empty(0, dtype=torch.int64)

    def read(self, rows: range | Tensor, *, weights: bool = True) -> SeenRows:
        """Any queries over every key, on the CPU in float64."""
        if not weights:
            raise self.attention.no_logits()
        at, S = to_positions(rows, torch.device("cpu")), self.attention.item.S
        exists = self.attention._exist(at)
        start = torch.zeros(len(at), S, dtype=torch.float64)
        start[torch.arange(len(at)), at] = 1
        values, seen = self.attention.follow(start)
        if not self.attention.knows_hidden:
            seen = values != 0
        values[~exists], seen[~exists] = torch.nan, False
        return SeenRows(torch.arange(S), values, seen)


def _chunks(rows: range, size: int) -> Iterator[range]:
    for start in range(rows.start, rows.stop, size):
        yield range(start, min(start + size, rows.stop))
