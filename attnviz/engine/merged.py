"""An attention derived from another's weights: keys hidden, rows renormalized, keys of a group added, queries averaged.

Nothing of the size of the map is made: the other attention is asked for cells that are groups (a sum over keys, a mean over
the queries that see anything), or for the rows of a few queries where what is hidden differs from query to query.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

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
from attnviz.engine.given import Given
from attnviz.engine.reducer import Reduced, Wanted, ones
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
        without = torch.zeros(item.sizes[3], dtype=torch.bool)
        without[list(self.hidden)] = True
        return Reach(without=without)


class Merged(WholeRows):
    """What :class:`attnviz.attention.merged.MergedInputs` say of the weights of another attention."""

    def __init__(self, item: AttentionItem, pattern: Pattern, whole: Attention) -> None:
        """``whole`` is the attention whose weights are taken."""
        assert isinstance(item.inputs, MergedInputs)
        self.item, self.pattern, self.whole, self.made = item, pattern, whole, item.inputs
        self.base, self.hidden = whole, self.made.hidden
        self._left: dict[tuple[int, range], Left] = {}  # what cells told of it on their way, by head and rows
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
        if (head, rows) in self._left:
            return self._left[head, rows].mean
        # One row of cells, and a column for each run of hidden keys and for each run between.
        starts, stops = self._runs
        columns = np.unique(np.concatenate([starts, stops]))
        with torch.no_grad(), torch.autocast(self.item.device.type, enabled=False):
            found = self.whole.cells(
                head, np.asarray([edges[rows.start], edges[rows.stop]]), columns, reductions=("mass",)
            )
        assert found.mass is not None
        if not found.counts[0]:
            return None
        return float(np.nan_to_num(found.mass[0][np.isin(columns[:-1], starts)]).sum())

    @property
    def _tells_beside(self) -> bool:
        """Whether what the hidden keys had is told by a look at them alone, beside rows that were renormalized without them.

        A sink may be beyond what their part of the weight is to the others'.
        """
        sinks = getattr(self.whole.item.inputs, "sinks", None)
        return self.base is not self.whole and sinks is None and 0 < len(self._runs[0]) <= _RUNS

    @cached_property
    def _runs(self) -> tuple[Positions, Positions]:
        """Where runs of hidden keys start, and where they stop."""
        hidden = np.asarray(self.made.hidden, dtype=np.int64)
        cuts = np.flatnonzero(np.diff(hidden) > 1)
        ends = [0, *(cuts + 1)][: len(hidden)], [*cuts, len(hidden) - 1][: len(hidden)]
        return hidden[ends[0]], hidden[ends[1]] + 1

    def hidden_shares(self, head: int, queries: range, known: Tensor, memory: int | None = None) -> NDArray[np.float64]:
        """The share of each query's weight that lies on the hidden keys, (T',), NaN where it sees nothing at all.

        Args:
            head: the head.
            queries: T' queries.
            known: their denominators over the keys that are kept, (T', 2).
            memory: as :class:`attnviz.engine.reducer.Wanted` has it.
        """
        starts, stops = self._runs
        columns, none = np.unique(np.concatenate([starts, stops])), torch.isnan(known[:, 1])
        known = torch.where(none[:, None], torch.tensor([0.0, 1.0], dtype=known.dtype), known)
        edges = np.arange(queries.start, queries.stop + 1)
        found = self.whole.cells(head, edges, columns, reductions=("mass",), denominators=known, memory=memory)
        assert found.mass is not None
        hidden = found.mass[:, np.isin(columns[:-1], starts)]
        blank = np.isnan(hidden).all(1)
        ratio = np.nansum(hidden, axis=1)  # to the weight of the keys that are kept, where there are such
        with np.errstate(divide="ignore"):
            share = np.where(none.numpy(), 1, 1 / (1 + 1 / ratio))
        share[blank] = np.where(none.numpy()[blank], np.nan, 0)
        return share

    def whole_rows(self, head: int, memory: int | None = None) -> MergedRows:
        return MergedRows(self, head, memory)

    def reduced(self, head: int, row_edges: Positions, column_edges: Positions, wanted: Wanted) -> Reduced:
        rows = range(int(row_edges[0]), int(row_edges[-1]))
        if not self._only_hides:
            own = self.whole_rows(head, wanted.memory)
            own.left = Left() if self._tells_beside else own.left
            found = self.reduced_rows(own, row_edges, column_edges, wanted)
            if own.left is not None:
                self._left[head, rows] = own.left
            return found
        # Keys alone are left out, or nothing is: the other attention's cells, cut around what is hidden.
        hidden = np.asarray(self.hidden, dtype=np.int64)
        hidden = hidden[(hidden >= column_edges[0]) & (hidden < column_edges[-1])]
        columns = np.unique(np.concatenate([column_edges, hidden, hidden + 1]))
        every = column_edges[0] == 0 and column_edges[-1] == self.whole.item.S
        # What is left out is a sum over the same cells: beside the largest it costs less than a way through of its own.
        tells = every and len(hidden) > 0 and wanted.memory is None and not wanted.logits and self.base is self.whole
        reductions = tuple(dict.fromkeys([*wanted.reductions, "mass"])) if tells else wanted.reductions
        with torch.no_grad():
            found = self.base.reduced(
                head, row_edges, columns, wanted.but(denominators=None, tile=None, reductions=reductions)
            )
        kept = ~np.isin(columns[:-1], hidden)
        if tells:
            self._left[head, rows] = Left().of(found, ~kept)
        elif self._tells_beside and not wanted.logits:
            shares = self.hidden_shares(head, rows, found.denominators, wanted.memory)
            self._left[head, rows] = Left().beside(shares)
        group = (np.searchsorted(column_edges, columns[:-1], side="right") - 1)[kept]
        sees = self.sees_kept(head, rows, found)
        counts = np.add.reduceat(sees, row_edges[:-1] - row_edges[0], dtype=np.int64)
        most, mass = found.max, found.mass
        if most is not None:
            most = _by_group(most[:, kept], group, len(column_edges) - 1, np.fmax)
        if mass is not None and "mass" in wanted.reductions:
            mass = _by_group(mass[:, kept], group, len(column_edges) - 1, np.add)
            mass = mass * (found.counts / np.maximum(counts, 1))[:, None]
        else:
            mass = None
        return Reduced(most, mass, counts, ones(torch.from_numpy(sees)))

    @property
    def _only_hides(self) -> bool:
        """Whether nothing but keys is left out: each token is seen by itself, and no row is renormalized after it."""
        whole, made = self.whole.item, self.made
        each = len(made.queries) == whole.T and len(made.keys) == whole.S
        return each and not self.by_query_alone

    @property
    def by_query_alone(self) -> bool:
        """Whether what is hidden can be told query by query alone: rows are renormalized, or what a query sees isn't known."""
        if not self.hidden:
            return self.made.renormalized and not isinstance(self.base, Computed)
        inputs = self.base.item.inputs
        known = isinstance(self.base, Computed | Given) and getattr(inputs, "bias", None) is None
        return self.made.renormalized or not known

    def sees_kept(self, head: int, rows: range, found: Reduced) -> NDArray[np.bool_]:
        """Whether each query sees a key that is not hidden, (len(rows),).

        Args:
            head: the head.
            rows: the queries.
            found: cells of the other attention over these queries, which say whether each sees any key.
        """
        sees: NDArray[np.bool_] = ~np.isnan(found.denominators[:, 1].numpy())
        if not self.hidden or not len(rows):
            return sees
        item = self.base.item
        there = np.ones(item.S, dtype=bool) if item.key_padding is None else item.key_padding.cpu().numpy().copy()
        there[np.asarray(self.hidden)] = False
        kept = np.flatnonzero(there)
        doubtful = sees.copy()
        if len(kept):
            # The nearest key that is kept, before or after each query's own, is seen under most patterns.
            pattern, t = self.base.pattern.of_head(head), torch.arange(rows.start, rows.stop, device=item.device)
            own = np.clip(np.arange(rows.start, rows.stop) + item.S - item.T, 0, item.S - 1)
            at = np.searchsorted(kept, own, side="right")
            for near in (np.maximum(at - 1, 0), np.minimum(at, len(kept) - 1)):
                s = torch.from_numpy(kept[near]).to(item.device)
                doubtful &= ~pattern.visible(t, s, item).cpu().numpy()
        if not doubtful.any():
            return sees
        rest = MergedRows(self, head)
        for run in runs((np.flatnonzero(doubtful) + rows.start).tolist()):
            for part in rest.parts(run):
                sees[part.start - rows.start : part.stop - rows.start] &= rest.sees_any(part)
        return sees


_RUNS = 16
"""Runs of hidden keys up to which a look at each of them, query by query, costs less than another way through all keys."""


@dataclass(frozen=True)
class Left:
    """The weight on keys that are hidden, of so many queries that see any."""

    weight: float = 0.0
    queries: int = 0

    def of(self, found: Reduced, hidden: NDArray[np.bool_]) -> Left:
        """With that of cells, and which of their columns are hidden."""
        assert found.mass is not None
        weight = float(np.nansum(found.mass[:, hidden], axis=1) @ found.counts)
        return Left(self.weight + weight, self.queries + int(found.counts.sum()))

    def beside(self, share: NDArray[np.float64]) -> Left:
        """With that of single queries, NaN of one that sees nothing."""
        return Left(self.weight + float(np.nansum(share)), self.queries + int((~np.isnan(share)).sum()))

    @property
    def mean(self) -> float | None:
        """Of a query; None of none."""
        return self.weight / self.queries if self.queries else None


class MergedRows:
    """The rows of one head, each a group of queries over every group of keys."""

    step: int | None = None

    def __init__(self, attention: Merged, head: int, memory: int | None = None) -> None:
        self.attention, self.head, self.memory = attention, head, memory
        self.item, made = attention.item, attention.made
        self.apart = torch.empty(0, dtype=torch.int64)
        self.queries, self.edges = np.asarray(made.queries.edges), np.asarray(made.keys.edges)
        self.covers = not attention.hidden or (self.edges[0] == 0 and self.edges[-1] == attention.whole.item.S)
        keys, hidden = self.edges, np.asarray(attention.hidden, dtype=np.int64)
        self.by_query = attention.by_query_alone
        # Of the rows that were read, where each is read over all the keys that it reaches.
        self.left = Left() if len(hidden) and self.covers and not self.by_query else None
        # Where hidden keys lie in a group, its columns are cut around them; what a query sees of keys that no group has counts too.
        ends = np.asarray([0, attention.whole.item.S])[: 2 * (self.by_query or len(hidden) > 0)]
        self.columns = np.unique(np.concatenate([keys, ends, hidden, hidden + 1]))
        starts = self.columns[:-1]
        self.kept = ~np.isin(starts, hidden)
        self.reach = attention.whole.pattern.reach(attention.whole.item)
        self.group = np.where(starts < keys[-1], np.searchsorted(keys, starts, side="right") - 1, -1)

    def span(self, rows: range | Tensor) -> range:
        """As :meth:`attnviz.engine.whole.BlockRows.span`: the groups that the queries of some groups reach."""
        whole, every = self.attention.whole, range(self.item.S)
        if self.by_query or not self.covers or not isinstance(rows, range) or rows.step != 1 or not len(rows):
            return every
        reach = self.reach
        if not reach.band or reach.keys is not None or whole.pattern.global_queries or reach.step != 1:
            return every
        queries = range(int(self.queries[rows.start]), int(self.queries[rows.stop]))
        spans = reach.spans(queries, whole.item.S)
        if not spans:
            return every[:1]
        edges = self.edges
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
            return self._sums(groups, keys)
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

    def _sums(self, groups: range, keys: range) -> tuple[Tensor, Tensor]:
        """Likewise, where groups need no row by itself: sums over keys that are kept, means over queries that see one."""
        ends = [int(end) for end in np.searchsorted(self.columns, self.edges[[keys.start, keys.stop]])]
        columns = self.columns if len(keys) == self.item.S else self.columns[ends[0] : ends[1] + 1]
        size, parts = self._size(len(columns)), []
        for start in range(groups.start, groups.stop, size):
            edges = self.queries[start : min(start + size, groups.stop) + 1]
            mass = self._kept_mass(edges, columns, keys) if self.attention.hidden else self._whole_mass(edges, columns)
            parts.append(torch.from_numpy(mass).to(self.item.compute_dtype))  # keys down in memory, as they come
        none = torch.empty(0, len(keys), dtype=self.item.compute_dtype)
        made = parts[0] if len(parts) == 1 else torch.cat([none, *parts])
        hidden = torch.isnan(made)
        return made.masked_fill_(hidden, 0), hidden.logical_not_()

    def _whole_mass(self, edges: Positions, columns: Positions) -> Cells:
        """The mass of groups of queries over groups of keys, of which none is hidden, or is no longer there."""
        found = self.attention.base.cells(self.head, edges, columns, reductions=("mass",), memory=self.memory)
        assert found.mass is not None
        if self.left is not None:
            queries = range(int(edges[0]), int(edges[-1]))
            shares = self.attention.hidden_shares(self.head, queries, found.denominators, self.memory)
            self.left = self.left.beside(shares)
        return found.mass

    def _kept_mass(self, edges: Positions, columns: Positions, keys: range) -> Cells:
        """The mass of groups of queries over some groups of keys without what is hidden, NaN where none is seen."""
        attention = self.attention
        found = attention.base.cells(self.head, edges, columns, reductions=("mass",), memory=self.memory)
        assert found.mass is not None
        sees = attention.sees_kept(self.head, range(int(edges[0]), int(edges[-1])), found)
        counts = np.add.reduceat(sees, edges[:-1] - edges[0], dtype=np.int64)
        first = int(np.searchsorted(self.columns, columns[0]))
        group = self.group[first : first + len(columns) - 1] - keys.start
        kept = self.kept[first : first + len(columns) - 1]
        if self.left is not None:
            self.left = self.left.of(found, ~kept)
        use = kept & (group >= 0)
        mass = _by_group(found.mass[:, use], group[use], len(keys), np.add)
        mass[counts == 0] = np.nan
        mass *= (found.counts / np.maximum(counts, 1))[:, None]
        return mass

    def sees_any(self, part: range) -> NDArray[np.bool_]:
        """Whether each of a run of queries sees a key that is not hidden."""
        cells = self._cells(np.arange(part.start, part.stop + 1))[:, self.kept]
        return np.asarray(~np.isnan(cells).all(1))

    def parts(self, queries: range) -> Iterator[range]:
        """Queries in runs of as many as are in work at once."""
        size = self._size(len(self.columns))
        for start in range(queries.start, queries.stop, size):
            yield range(start, min(start + size, queries.stop))

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
        return self.parts(range(int(self.queries[groups.start]), int(self.queries[groups.stop])))

    def _size(self, columns: int) -> int:
        """How many rows of so many columns are in work at once."""
        cells = _CELLS if self.memory is None else min(_CELLS, self.memory // 64)
        return max(1, cells // columns)


def _by_group(cells: Cells, group: Positions, groups: int, of: np.ufunc) -> Cells:
    """Columns of cells put together by their group, ascending: NaN where a group has none that is seen."""
    found = np.full((groups, len(cells)), np.nan).T  # keys down in memory, as they come
    first = np.diff(group, prepend=-1) > 0
    found[:, group[first]] = cells[:, first]
    for n in np.flatnonzero(~first):  # what is cut around hidden keys
        before, more = found[:, group[n]], cells[:, n]
        both = np.where(np.isnan(before), more, np.where(np.isnan(more), before, of(before, more)))
        found[:, group[n]] = both
    return found
