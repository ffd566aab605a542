"""Keys that take most of a head's weight: found in the numbers, whatever the scale, for figures and terminals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attnviz.base.labels import SPACE, one_line, position_said
from attnviz.maps.map import AttentionMap

MOST = 0.5
"""The share of the weight beyond which a key is a sink."""

_TIMES_EVEN = 4  # and how many times an even share: one of two keys takes half of the weight by nature

_CLEAR = 1.5  # times the mean of a row: its largest weight, where one column can be said to lead


@dataclass(frozen=True)
class Sink:
    """A key, or the keys of one column, that takes most of a head's weight.

    Args:
        name: the map's: ``head 3``.
        keys: the positions of the column: the first and the last.
        label: the key's token, where the column is one key that has one.
        share: of the weight shown; of a map reduced by max, of the rows whose largest weight is in the column.
        exact: whether ``share`` is one of weight.
        column: of the map's cells.
    """

    name: str
    keys: tuple[int, int]
    label: str | None
    share: float
    exact: bool
    column: int = 0

    @property
    def short(self) -> str:
        """The key in few letters: ``[CLS]``, ``key 0``, ``keys 0–7``."""
        first, last = self.keys
        if self.label is not None:
            return one_line(self.label).strip(SPACE) or f"key {first}"
        return f"key {first}" if first == last else f"keys {first}–{last}"


@dataclass(frozen=True)
class Row:
    """A query, or the queries of one row, from which most keys have their largest weight.

    Args:
        name: the map's: ``head 3``.
        queries: the positions of the row: the first and the last.
        label: the query's token, where the row is one query that has one.
        share: of the keys.
        row: of the map's cells.
    """

    name: str
    queries: tuple[int, int]
    label: str | None
    share: float
    row: int

    @property
    def said(self) -> str:
        """``query 3 ([CLS])``, ``queries 0 to 7``."""
        first, last = self.queries
        return position_said("query", first, self.label) if first == last else f"queries {first} to {last}"


def find_sink(shown: AttentionMap) -> Sink | None:
    """The key that takes most of the weight shown, where there is one.

    Weights, and cells of their mass, are summed. The largest weights of a map reduced by max do not add up to
    anything; there, it is the column that holds the largest weight of most rows.

    >>> import attnviz
    >>> find_sink(attnviz.attention_map(attnviz.synthesize(), head=3)) is None
    True
    """
    rows, columns = shown.cells.shape
    finite = np.isfinite(shown.cells)
    cells = np.where(finite, shown.cells, 0)
    exact = shown.combined != "max" and (not shown.reduced or shown.reduce == "mass")
    if shown.values != "weights" or rows == 1 or not cells.any() or (cells < 0).any():
        return None
    seen = finite.any(axis=1)
    counts = finite.sum(axis=1)
    clear = (cells.max(axis=1) > _CLEAR * cells.sum(axis=1) / np.maximum(counts, 1)) | (counts == 1)
    leads = np.bincount(cells[clear].argmax(axis=1), minlength=columns) / int(seen.sum())  # share of rows, (P',)
    shares = cells.sum(axis=0) / cells.sum() if exact else leads
    most = int(shares.argmax())
    if min(shares[most], leads[most]) <= MOST or shares[most] < _TIMES_EVEN / columns:  # one query makes no sink
        return None
    first, end = most * len(shown.keys) // columns, (most + 1) * len(shown.keys) // columns
    label = shown.key_labels[first] if shown.key_labels is not None and end == first + 1 else None
    return Sink(shown.name, (shown.keys[first], shown.keys[end - 1]), label, float(shares[most]), exact, most)


_FAINT = 0.1  # of the map's largest weight, below which a row is nothing beside the rest
_LEAST_SEEN = 8  # queries that see a key, of whose weights one can be said to lead


def find_row(shown: AttentionMap) -> Row | None:
    """The query from which most keys have their largest weight, where there is one: a row that stands out.

    >>> import attnviz
    >>> find_row(attnviz.attention_map(attnviz.synthesize(), head=3)) is None
    True
    """
    rows, columns = shown.cells.shape
    finite = np.isfinite(shown.cells)
    cells = np.where(finite, shown.cells, 0)
    if shown.values != "weights" or (cells < 0).any() or rows < _LEAST_SEEN or columns < _LEAST_SEEN:
        return None
    counts = finite.sum(axis=0)
    told = counts >= min(_LEAST_SEEN, rows)
    clear = told & (cells.max(axis=0) > _CLEAR * cells.sum(axis=0) / np.maximum(counts, 1))
    if not told.any():
        return None
    leads = np.bincount(cells[:, clear].argmax(axis=0), minlength=rows) / int(told.sum())
    most = int(leads.argmax())
    if leads[most] <= MOST or leads[most] < _TIMES_EVEN / rows:
        return None
    if float(np.median(cells[most, clear])) < _FAINT * float(cells.max()):  # what is nothing beside the rest
        return None
    first, end = most * len(shown.queries) // rows, (most + 1) * len(shown.queries) // rows
    label = shown.query_labels[first] if shown.query_labels is not None and end == first + 1 else None
    return Row(shown.name, (shown.queries[first], shown.queries[end - 1]), label, float(leads[most]), most)


def row_note(maps: Sequence[AttentionMap]) -> str | None:
    """One line about the query whose row stands out, where there is one."""
    found = [row for row in map(find_row, maps) if row is not None]
    if not found:
        return None
    worst = max(found, key=lambda row: row.share)
    what = f"{percent(worst.share)} of the keys have their largest weight from {worst.said}"
    if len(maps) == 1:
        return what
    return f"in {len(found)} of {len(maps)} heads one row stands out; in {worst.name}, {what}"


def sink_note(maps: Sequence[AttentionMap]) -> str | None:
    """One line about the keys that take most of the weight, where there are any."""
    sinks = [sink for sink in map(find_sink, maps) if sink is not None]
    if not sinks:
        return None
    worst = max(sinks, key=lambda sink: sink.share)
    first, last = worst.keys
    where = position_said("key", first, worst.label) if first == last else f"keys {first} to {last}"
    if worst.exact:
        what = f"{where} {'takes' if first == last else 'take'} {percent(worst.share)} of the weight shown"
    else:
        what = f"the largest weight of {percent(worst.share)} of the rows is at {where}"
    if len(maps) == 1:
        return what
    return f"in {len(sinks)} of {len(maps)} heads one column stands out; in {worst.name}, {what}"


def percent(share: float) -> str:
    """In whole percents; what is not all is not called 100%."""
    return "over 99%" if 0.995 <= share < 1 else f"{share:.0%}"
