"""An attention derived from another's weights: keys hidden, rows renormalized, keys of a group added, queries averaged.

Nothing of the size of the map is made: the other attention is asked for cells that are groups (a sum over keys, a mean over
the queries that see anything), or for the rows of a few queries where what is hidden differs from query to query.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnviz.attention.inputs import AttentionInputs
from attnviz.attention.item import AttentionItem
from attnviz.attention.merged import MergedInputs
from attnviz.attention.pattern import Item, Pattern
from attnviz.attention.reach import Reach
from attnviz.base.devices import dtype_name
from attnviz.base.runs import runs
from attnviz.base.types import Cells, Positions
from attnviz.engine.attention import Attention, Computed
from attnviz.engine.blocks import SeenRows
from attnviz.engine.softmax import BLANK
from attnviz.engine.visibility import to_positions
from attnviz.engine.whole import WholeRows

_CELLS = 1 << 21
"""Cells of the rows that are in work at once."""


@dataclass(frozen=True)
class _Kept(Pattern):
    """All keys but those that are hidden."""

    hidden: tuple[int, ...]
    limits = True

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        kept = ~torch.isin(s, torch.tensor(self.hidden, device=s.device))
        return kept.expand(np.broadcast_shapes(t.shape, s.shape))

    def reach(self, item: Item) -> Reach:
        return Reach(band_exact=False)


class Merged(WholeRows):
    """What :class:`attnviz.attention.merged.MergedInputs` say of the weights of another attention."""

    def __init__(self, item: AttentionItem, pattern: Pattern, whole: Attention) -> None:
        """``whole`` is the attention whose weights are taken."""
        assert isinstance(item.inputs, MergedInputs)
        self.item, self.pattern, self.whole, self.made = item, pattern, whole, item.inputs
        self.base, self.hidden = whole, self.made.hidden
        inputs = whole.item.inputs
        if self.made.renormalized and isinstance(whole, Computed) and isinstance(inputs, AttentionInputs):
            # Softmax over the rest is the rest made to sum to 1, and no rest is too small for it.
            kept = whole.pattern & _Kept(self.hidden) if self.hidden else whole.pattern
            item = replace(whole.item, inputs=replace(inputs, sinks=None))
            self.base, self.hidden = Computed(item, kept), ()

    @property
    def name(self) -> str:
        said = (self.pattern_name, dtype_name(self.whole.item.dtype), self.item.device.type)
        return f"{self.item.source} ({', '.join(said)})"

    @property
    def pattern_name(self) -> str:
        return ", ".join([self.whole.pattern_name, *self.made.said])

    @property
    def given(self) -> bool:
        return self.whole.given

    @property
    def measured(self) -> str | None:
        return self.whole.measured

    def head_name(self, head: int) -> str | None:
        return self.whole.head_name(head)

    @property
    def knows_hidden(self) -> bool:
        return self.whole.knows_hidden

    @property
    def caveat(self) -> str | None:
        return self.whole.caveat

    def left_out(self, head: int, queries: range | None = None) -> float | None:
        hidden = np.asarray(self.made.hidden, dtype=np.int64)
        if not len(hidden):
            return None
        edges = self.made.queries.edges
        rows = range(self.item.T) if queries is None else queries
        # One row of cells, and a column for each run of hidden keys and for each run between.
        cuts = np.flatnonzero(np.diff(hidden) > 1)
        starts, stops = hidden[[0, *(cuts + 1)]], hidden[[*cuts, len(hidden) - 1]] + 1
        columns = np.unique(np.concatenate([starts, stops]))
        with torch.no_grad(), torch.autocast(self.item.device.type, enabled=False):
            found = self.whole.cells(
                head, np.asarray([edges[rows.start], edges[rows.stop]]), columns, reductions=("mass",)
            )
        assert found.mass is not None
        if not found.counts[0]:
            return None
        return float(np.nan_to_num(found.mass[0][np.isin(columns[:-1], starts)]).sum())

    def whole_rows(self, head: int, memory: int | None = None) -> MergedRows:
        return MergedRows(self, head, memory)


class MergedRows:
    """The rows of one head, each a group of queries over every group of keys."""

    step: int | None = None

    def __init__(self, attention: Merged, head: int, memory: int | None = None) -> None:
        self.attention, self.head, self.memory = attention, head, memory
        self.item, made = attention.item, attention.made
        self.apart = torch.empty(0, dtype=torch.int64)
        self.queries = np.asarray(made.queries.edges)
        keys, hidden = np.asarray(made.keys.edges), np.asarray(attention.hidden, dtype=np.int64)
        self.by_query = bool(len(hidden)) or (made.renormalized and not isinstance(attention.base, Computed))
        # Where hidden keys lie in a group, its columns are cut around them; what a query sees of keys that no group has counts too.
        ends = np.asarray([0, attention.whole.item.S])[: 2 * self.by_query]
        self.columns = np.unique(np.concatenate([keys, ends, hidden, hidden + 1]))
        starts = self.columns[:-1]
        self.kept = ~np.isin(starts, hidden)
        self.group = np.where(starts < keys[-1], np.searchsorted(keys, starts, side="right") - 1, -1)

    def span(self, rows: range | Tensor) -> range:
        """As :meth:`attnviz.engine.whole.BlockRows.span`: the groups that the queries of some groups reach."""
        whole, every = self.attention.whole, range(self.item.S)
        if self.by_query or not isinstance(rows, range) or rows.step != 1 or not len(rows):
            return every
        reach = whole.pattern.reach(whole.item)
        if not reach.band or reach.keys is not None or whole.pattern.global_queries or reach.step != 1:
            return every
        queries = range(int(self.queries[rows.start]), int(self.queries[rows.stop]))
        spans = reach.spans(queries, whole.item.S)
        if not spans:
            return every[:1]
        edges = self.columns
        first = int(np.searchsorted(edges, min(span.start for span in spans), side="right")) - 1
        stop = int(np.searchsorted(edges, max(span.stop for span in spans), side="left"))
        return range(max(first, 0), max(min(stop, self.item.S), max(first, 0) + 1))

    def block(self, rows: range | Tensor, *, weights: bool = True) -> tuple[Tensor, Tensor | None, Tensor]:
        """As :meth:`attnviz.engine.whole.BlockRows.block`."""
        assert weights, "what is merged has no logits"
        keys = self.span(rows)
        found = [self._run(run, keys) for run in runs(rows if isinstance(rows, range) else rows.tolist()) or [range(0)]]
        values, seen = (torch.cat([one[n] for one in found]) if len(found) > 1 else found[0][n] for n in range(2))
        visible = torch.count_nonzero(seen, dim=1)
        values[visible == 0] = BLANK
        return tuple(part.to(self.item.device) for part in (values, seen, visible))  # type: ignore[return-value]

    def read(self, rows: range | Tensor, *, weights: bool = True) -> SeenRows:
        """As :meth:`attnviz.engine.attention.Rows.read`; of weights without a pattern, a weight of 0 says no key is seen."""
        values, seen, _ = self.block(rows, weights=weights)
        if not self.attention.knows_hidden or seen is None:
            seen = (values != 0) & ~torch.isnan(values)
        return SeenRows(to_positions(self.span(rows), torch.device("cpu")), values.cpu().double(), seen.cpu())

    def _run(self, groups: range, keys: range) -> tuple[Tensor, Tensor]:
        """A run of groups of queries over some groups of keys: the weights, 0 where none is seen, and what is seen."""
        dtype = self.item.compute_dtype
        if not self.by_query:
            columns = self.columns[keys.start : keys.stop + 1]
            size, parts = self._size(len(columns)), []
            for start in range(groups.start, groups.stop, size):
                mass = self._mass(self.queries[start : min(start + size, groups.stop) + 1], columns)
                parts.append(torch.from_numpy(mass).to(dtype))  # keys down in memory, as they come
            none = torch.empty(0, len(keys), dtype=dtype)
            made = parts[0] if len(parts) == 1 else torch.cat([none, *parts])
            hidden = torch.isnan(made)
            return made.masked_fill_(hidden, 0), hidden.logical_not_()
        shape = len(groups), self.item.S
        values, seen = np.zeros(shape), np.zeros(shape, dtype=bool)
        counts = np.zeros(len(groups))
        for queries in self._parts(groups):
            weights, sees, any_key = self._queries(queries)
            group = (
                np.searchsorted(self.queries, np.arange(queries.start, queries.stop), side="right") - 1 - groups.start
            )
            first = np.flatnonzero(np.diff(group, prepend=-1))
            at = group[first]
            values[at] += np.add.reduceat(weights, first, axis=0)
            seen[at] |= np.logical_or.reduceat(sees, first, axis=0)
            counts[at] += np.add.reduceat(any_key, first, dtype=np.int64)
        return torch.from_numpy(values / np.maximum(counts, 1)[:, None]).to(dtype), torch.from_numpy(seen)

    def _queries(self, part: range) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        """A run of queries, each by itself, over every group of keys: hidden keys out, the rest renormalized where asked.

        The weights, what is seen, and whether each query sees anything that is not hidden.
        """
        cells = self._cells(np.arange(part.start, part.stop + 1))[:, self.kept]
        sees = ~np.isnan(cells)
        weights = np.where(sees, cells, 0)
        if self.attention.made.renormalized:
            rest = weights.sum(1)
            sees &= (rest != 0)[:, None]
            weights = np.where(sees, weights / np.where(rest == 0, 1, rest)[:, None], 0)
        shape = len(weights), self.item.S
        found, seen = np.zeros(shape), np.zeros(shape, dtype=bool)
        any_key: NDArray[np.bool_] = np.any(sees, axis=1)
        group = self.group[self.kept]
        weights, sees, group = weights[:, group >= 0], sees[:, group >= 0], group[group >= 0]
        if not len(group):
            return found, seen, any_key
        first = np.flatnonzero(np.diff(group, prepend=-1))
        found[:, group[first]] = np.add.reduceat(weights, first, axis=1)
        seen[:, group[first]] = np.logical_or.reduceat(sees, first, axis=1)
        return found, seen, any_key

    def _cells(self, row_edges: Positions) -> NDArray[np.float64]:
        return self._mass(row_edges, self.columns).astype(np.float64, copy=False)

    def _mass(self, row_edges: Positions, columns: Positions) -> Cells:
        """The mass of cells of rows over columns, NaN where none is seen."""
        found = self.attention.base.cells(self.head, row_edges, columns, reductions=("mass",), memory=self.memory)
        assert found.mass is not None
        return found.mass

    def _parts(self, groups: range) -> Iterator[range]:
        """The queries of some groups, in runs of as many as are in work at once."""
        size = self._size(len(self.columns))
        first, stop = int(self.queries[groups.start]), int(self.queries[groups.stop])
        for start in range(first, stop, size):
            yield range(start, min(start + size, stop))

    def _size(self, columns: int) -> int:
        """How many rows of so many columns are in work at once."""
        cells = _CELLS if self.memory is None else min(_CELLS, self.memory // 64)
        return max(1, cells // columns)
