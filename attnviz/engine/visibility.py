"""Which keys of a block of rows are visible: what a pattern and padding hide, in blocks of logits."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.attention.reach import Reach
from attnviz.base.types import Positions

HIDDEN = float("-inf")
"""The logit of a key that is not visible."""


_FEW_CELLS = 1 << 14
"""Cells that are no tile yet."""


class Visibility:
    """What the rows of one head see: the keys that all share, a band around each, and what is hidden of both."""

    def __init__(self, item: AttentionItem, pattern: Pattern, reach: Reach, *, for_global: bool = False) -> None:
        self.item, self.pattern, self.reach, self.for_global = item, pattern, reach, for_global
        self.keys = reach.keys
        self.g = 0 if reach.keys is None else len(reach.keys)  # how many keys every row shares
        keys, rows = item.key_padding, item.query_padding
        hidden = None if keys is None else ~keys
        if reach.without is not None:
            without = reach.without.to(item.device)
            hidden = without if hidden is None else hidden | without
        self.hidden_keys = hidden  # (S,)
        self.hidden_queries = None if rows is None else ~rows  # (T,)

    def spans(self, rows: range | Tensor) -> list[range]:
        """The keys of the band that a block of rows can see, in runs."""
        return self.reach.spans(rows, self.item.S) if isinstance(rows, range) else [range(self.item.S)]

    def columns(self, rows: range | Tensor) -> Tensor:
        """The key of each column of a block's logits, shared keys before those of the band, (g + span,)."""
        spans = [to_positions(span, self.item.device) for span in self.spans(rows)]
        shared = torch.empty(0, dtype=torch.int64, device=self.item.device) if self.keys is None else self.keys
        return torch.cat([shared, *spans])

    def hides(self, rows: range | Tensor, keys: range | Tensor) -> bool:
        """Whether some cell of a tile may be hidden."""
        if self.hidden_keys is not None or self.hidden_queries is not None:
            return True
        if not len(keys):
            return False
        if not isinstance(keys, range):
            return not self.reach.keys_exact
        if not self.reach.band_exact or not isinstance(rows, range) or self.keys is not None:
            return True
        return not self.reach.covers(rows, keys)

    @property
    def band_alone(self) -> bool:
        """Whether a query sees exactly the keys of one band without gaps: no shared keys, no padding, no other rules."""
        padded = self.hidden_keys is not None or self.hidden_queries is not None
        return self.reach.plain and not padded and not self.pattern.global_queries

    def band_meets(
        self, first_rows: Positions, last_rows: Positions, first_keys: Positions, last_keys: Positions
    ) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        """Whether some query of each run of queries sees some key of each run of keys, (p, m); see :attr:`band_alone`."""
        meets = np.ones((len(first_rows), len(first_keys)), dtype=bool)
        if self.reach.high is not None:
            meets &= first_keys <= (last_rows + self.reach.high)[:, None]
        if self.reach.low is not None:
            meets &= last_keys >= (first_rows + self.reach.low)[:, None]
        return meets

    def band_seen(self, rows: range, span: range) -> tuple[Tensor, Tensor]:
        """Which keys of a span each query of a block sees, (b, n) bool, and how many, (b,); see :attr:`band_alone`."""
        seen = torch.ones(len(rows), len(span), dtype=torch.bool, device=self.item.device)
        t = to_positions(rows, self.item.device)
        first, stop, start = torch.zeros_like(t), torch.full_like(t, len(span)), span.start - rows.start
        if self.reach.high is not None:
            seen.tril_(self.reach.high - start)
            stop = (t + (self.reach.high + 1 - span.start)).clamp(0, len(span))
        if self.reach.low is not None:
            seen.triu_(self.reach.low - start)
            first = (t + (self.reach.low - span.start)).clamp(0, len(span))
        return seen, (stop - first).clamp(min=0)

    def hidden(self, rows: range | Tensor) -> Tensor:
        """Which of ``rows`` are padding, (len(rows),) bool."""
        if self.hidden_queries is None:
            return torch.zeros(len(rows), dtype=torch.bool, device=self.item.device)
        return rows_of(self.hidden_queries, rows)

    def hide_(self, logits: Tensor, rows: range | Tensor, keys: range | Tensor, *, exact: bool) -> None:
        """Hides what the pattern and padding hide of a block of logits.

        Args:
            logits: (len(rows), len(keys)), changed in place.
            rows, keys: the queries and the keys they are of.
            exact: whether the pattern is known to hide nothing here.
        """
        if not exact:
            queries, s = to_positions(rows, logits.device)[:, None], to_positions(keys, logits.device)[None, :]
            # In parts, where they are large: a pattern makes several tensors of 64-bit integers on its way, no larger together
            # than a tile.
            size = max(-(-len(rows) // 8), _FEW_CELLS // max(len(keys), 1))
            for t, part in zip(queries.split(size), logits.split(size), strict=True):
                part.masked_fill_(~self.pattern.visible(t, s, self.item), HIDDEN)
        if self.hidden_keys is not None:
            logits.masked_fill_(rows_of(self.hidden_keys, keys), HIDDEN)
        if self.hidden_queries is not None:
            logits.masked_fill_(rows_of(self.hidden_queries, rows)[:, None], HIDDEN)

    def hide_band_(self, logits: Tensor, rows: range | Tensor, span: range) -> None:
        """Hides what the band hides of a run of its keys: its corners, or what the pattern says."""
        if self.reach.band_exact and isinstance(rows, range):
            _hide_corners(logits, rows, span, self.reach)
            self.hide_own_(logits, rows, span)
        self.hide_(logits, rows, span, exact=self.reach.band_exact)
        self.hide_shared_(logits, span)

    def hide_own_(self, logits: Tensor, rows: range, span: range) -> None:
        """Hides what lies outside each query's own bounds in the band, and outside its blocks."""
        first, stop = self.reach.first, self.reach.stop
        if first is not None:
            own = first[rows.start : rows.stop : rows.step]
            self._hide_beyond_(logits, own, span, slice(0, bisect_left(span, int(own.max()))), torch.lt)
        if stop is not None:
            own = stop[rows.start : rows.stop : rows.step]
            self._hide_beyond_(logits, own, span, slice(bisect_left(span, int(own.min())), len(span)), torch.ge)
        table = self.reach.table
        if table is not None and not table.within(rows, span).all():
            logits.masked_fill_(torch.from_numpy(~table.pairs(rows, span)).to(logits.device), HIDDEN)

    @staticmethod
    def _hide_beyond_(
        logits: Tensor, own: Positions, span: range, columns: slice, beyond: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        """Hides the keys that are ``beyond`` each query's own bound among some columns, where any can be."""
        if columns.start < columns.stop:
            keys = to_positions(span[columns], logits.device).to(torch.int32)
            bounds = torch.from_numpy(own).to(logits.device, torch.int32)
            logits[:, columns].masked_fill_(beyond(keys, bounds[:, None]), HIDDEN)

    def hide_shared_(self, banded: Tensor, span: range) -> None:
        """Hides the shared keys in the band, so that each counts once."""
        if self.keys is not None:
            banded[:, torch.isin(to_positions(span, banded.device), self.keys)] = HIDDEN


def rows_of(tensor: Tensor, rows: range | Tensor) -> Tensor:
    """The rows of a tensor that ``rows`` names."""
    return tensor[rows.start : rows.stop : rows.step] if isinstance(rows, range) else tensor[rows]


def to_positions(rows: range | Tensor, device: torch.device) -> Tensor:
    """Indices as a tensor."""
    return torch.arange(rows.start, rows.stop, rows.step, device=device) if isinstance(rows, range) else rows


def _hide_corners(logits: Tensor, rows: range, span: range, reach: Reach) -> None:
    """Hide what lies outside the band in a block of logits: only its two corners can, so only they are touched.

    Row i and column j are ``start + (j - i) * step`` apart, so a corner is a triangle of the block.
    """
    b, n, start = len(rows), len(span), span.start - rows[0]
    if reach.high is not None:
        most = (reach.high - start) // reach.step  # visible while j - i <= most
        first = min(max(most + 1, 0), n)
        _hide_triangle(logits[:, first:], most + 1 - first, above=True)
    if reach.low is not None:
        least = -((start - reach.low) // reach.step)  # visible while j - i >= least
        stop = min(max(least + b - 1, 0), n)
        _hide_triangle(logits[:, :stop], least, above=False)


def _hide_triangle(logits: Tensor, diagonal: int, *, above: bool) -> None:
    """Hides the part where column - row >= ``diagonal``, or else the part below it."""
    if not logits.numel():
        return
    if logits.stride(0) < logits.stride(1):  # keys down in memory: so is the mask, which is read with it
        logits, diagonal, above = logits.T, 1 - diagonal, not above
    logits += _triangle(*logits.shape, diagonal, above, logits.dtype, logits.device)


@lru_cache(maxsize=2)  # the corners of one block, which are those of the next
def _triangle(rows: int, columns: int, diagonal: int, above: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """-inf in the triangle and 0 elsewhere: adding it takes a fifth of the time of ``masked_fill_``."""
    hidden = torch.full((rows, columns), HIDDEN, dtype=dtype, device=device)
    return hidden.triu_(diagonal) if above else hidden.tril_(diagonal - 1)
