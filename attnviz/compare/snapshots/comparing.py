"""A later snapshot against a stored one: settings, tokens, cells and statistics, each where both know it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from attnviz.base.bins import of_bin
from attnviz.base.devices import DTYPES
from attnviz.base.labels import quoted, same_label
from attnviz.base.types import Cells
from attnviz.compare.rounding import FIXED, Tolerance, check_can_fail
from attnviz.compare.snapshots.difference import (
    CellDifference,
    SnapshotDifference,
    StatisticDifference,
    listed,
    span_of,
)
from attnviz.compare.snapshots.snapshot import VERSION, HeadSnapshot, Snapshot
from attnviz.compare.snapshots.version1 import CHANGED
from attnviz.maps.map import AttentionMap
from attnviz.measures.statistics import STATISTICS

_OF_WEIGHTS_ALONE = ("entropy", "max_weight")
"""Statistics that need neither positions nor which of the keys with a weight of 0 are hidden."""


def compare_snapshots(stored: Snapshot, now: Snapshot, tolerance: Tolerance | None = None) -> SnapshotDifference:
    """Holds a snapshot against the one that was stored.

    Args:
        stored: the reference, of which ``rtol`` is a part.
        now: the later one.
        tolerance: how far cells may be apart; None is what the stored one says, and of a tensor, which knows little of its
            logits, what either says.

    Raises:
        InputError: a tolerance that zeros meet.
    """
    allowed = _allowed(stored, now) if tolerance is None else tolerance
    cells: list[CellDifference] = []
    statistics: list[StatisticDifference] = []
    for before, after in _heads_of_both(stored, now):
        for reduction in before.cells:
            held = _held(stored, now, before, after, reduction, allowed)
            found = None if held is None else _worst(stored, before.head, reduction, held, allowed)
            cells += [] if found is None else [found]
        statistics += _statistics_apart(stored, now, before, after, allowed)
    # Blank on one side is worse than any number.
    cells.sort(key=lambda found: -abs(np.nan_to_num(found.a - found.b, nan=np.inf)))
    difference = SnapshotDifference(stored, now, allowed, _settings_apart(stored, now), cells, statistics)
    if tolerance is not None and difference.within:
        largest = [np.nanmax(np.abs(grid), initial=0.0) for one in stored.heads for grid in one.cells.values()]
        check_can_fail(tolerance, float(max(largest, default=0.0)), "cell")
    return difference


def _allowed(stored: Snapshot, now: Snapshot) -> Tolerance:
    if stored.knows_hidden or stored.rule is None or now.rule is None:
        return stored.tolerance
    return Tolerance(max(stored.rule.atol, now.rule.atol), max(stored.rule.rtol, now.rule.rtol))


def difference_maps(found: SnapshotDifference, most: int = 4) -> list[tuple[AttentionMap, AttentionMap, AttentionMap]]:
    """Stored, now and stored − now of the heads that differ most, as :func:`difference_figure` draws them.

    A weight on a key that one side hides is held against 0; a logit has nothing to be held against, and is blank there.

    Args:
        found: what sets two snapshots apart.
        most: how many heads.

    Returns:
        A row a head; none where the two have no cells in common.
    """
    stored, now = found.stored, found.now
    common = [name for name in stored.reductions if name in now.reductions]
    pairs = {before.head: (before, after) for before, after in _heads_of_both(stored, now)}
    if not common or not pairs:
        return []
    reduction = found.cells[0].reduction if found.cells else common[0]
    before, after = stored.maps("stored", reduction), now.maps("now", reduction)
    order = dict.fromkeys([each.head for each in found.cells] + [each.head for each in found.statistics])
    heads = [head for head in order or before if head in before and head in after and head in pairs]
    rows = []
    for head in heads[:most]:
        held = _held(stored, now, *pairs[head], reduction, found.tolerance)
        if held is None:
            return []
        a, b = held.a, held.b
        if stored.settings["values"] == "weights":
            a, b = np.nan_to_num(a), np.nan_to_num(b)
        cells = np.where(held.seen, a - b, np.nan)
        rows.append(
            (before[head], after[head], replace(before[head], cells=cells, values="difference", pattern="stored − now"))
        )
    return rows


def _heads_of_both(stored: Snapshot, now: Snapshot) -> Iterator[tuple[HeadSnapshot, HeadSnapshot]]:
    """The heads that both keep; none where the two are not of the same queries and keys."""
    if (stored.queries, tuple(stored.keys)) != (now.queries, tuple(now.keys)):
        return
    later = {one.head: one for one in now.heads}
    for before in stored.heads:
        if before.head in later:
            yield before, later[before.head]


@dataclass(frozen=True)
class _Held:
    """One head's cells of both, as they are held against each other."""

    a: Cells  # (P, P') NaN is not visible
    b: Cells
    seen: NDArray[np.bool_]  # (P, P') the cells that count: either side sees something there, and both can say it


def _held(
    stored: Snapshot, now: Snapshot, before: HeadSnapshot, after: HeadSnapshot, reduction: str, allowed: Tolerance
) -> _Held | None:
    """The cells of a head that both know; None where one has no such cells."""
    a, b = before.cells[reduction], after.cells.get(reduction)
    if b is None or a.shape != b.shape:
        return None
    compared = np.ones((len(a), 1), dtype=bool)
    weights = stored.settings["values"] == "weights"
    if stored.knows_hidden != now.knows_hidden:
        seeing = stored.seeing(before, a), now.seeing(after, b)
        known, given = seeing if stored.knows_hidden else seeing[::-1]
        # What a library puts in the row of a query that sees nothing (0, NaN, a uniform row) is compared with nothing.
        compared = (given <= known)[:, None] & (known > 0)[:, None]
        gone = (given < known)[:, None]  # a row of NaN where there is something to see
        a, b = (a, np.where(gone, np.nan, b)) if stored.knows_hidden else (np.where(gone, np.nan, a), b)
        if weights:  # a tensor's 0, or what rounds to it, may be of a hidden key
            found = _none_where(a, b, allowed.atol), _none_where(b, a, allowed.atol)
            a, b = (np.where(gone, *pair) for pair in zip((a, b), found, strict=True))
    elif weights and not (stored.knows_hidden and min(stored.version, now.version) >= VERSION):
        a, b = _none_where(a, b, 0.0), _none_where(b, a, 0.0)
    return _Held(a, b, compared & ~(np.isnan(a) & np.isnan(b)))


def _none_where(cells: Cells, other: Cells, faint: float) -> Cells:
    """Cells, NaN where they are no more than ``faint`` and the other side's key is hidden."""
    found: Cells = np.where(np.isnan(other) & (np.abs(cells) <= faint), np.nan, cells)
    return found


def _worst(stored: Snapshot, head: int, reduction: str, held: _Held, tolerance: Tolerance) -> CellDifference | None:
    a, b = held.a, held.b
    allowed = tolerance.atol + tolerance.rtol * np.abs(np.nan_to_num(a))
    apart = np.abs(a - b)
    lost = held.seen & ~np.isfinite(apart)  # on one side only
    beyond = lost | (held.seen & (np.nan_to_num(apart) > allowed))
    if not beyond.any():
        return None
    far = np.where(lost, np.inf, np.where(beyond, np.nan_to_num(apart), -1))
    row, column = (int(i) for i in np.unravel_index(int(far.argmax()), far.shape))
    return CellDifference(
        head,
        reduction,
        of_bin(stored.queries, a.shape[0], row),
        of_bin(stored.keys, a.shape[1], column),
        float(a[row, column]),
        float(b[row, column]),
        float(allowed[row, column]),
        int(beyond.sum()),
        int(held.seen.sum()),
    )


def _statistics_apart(
    stored: Snapshot, now: Snapshot, before: HeadSnapshot, after: HeadSnapshot, allowed: Tolerance
) -> Iterator[StatisticDifference]:
    """The statistics of a head that are not what they were, of those that mean the same on both sides."""
    alike = stored.settings.get("source") == now.settings.get("source")
    one_knows = stored.knows_hidden != now.knows_hidden
    if one_knows and before.statistics.get("queries") != after.statistics.get("queries"):
        return  # means over queries that one side can't tell from those that see nothing
    for name, value in before.statistics.items():
        other = after.statistics.get(name)
        if (value is None or other is None) and not (alike and _told_by_weights(name)):
            continue
        if (one_knows and name not in _OF_WEIGHTS_ALONE) or (stored.version != now.version and name in CHANGED):
            continue
        if not _near(name, value, other, allowed, stored):
            yield StatisticDifference(before.head, name, value, other)


def _told_by_weights(name: str) -> bool:
    """Whether every side tells a statistic; weights without their logits, or without q and k, tell none of these."""
    return name not in STATISTICS or STATISTICS[name].unit not in ("logit", "norm")


def _near(name: str, a: float | None, b: float | None, tolerance: Tolerance, stored: Snapshot) -> bool:
    if a is None or b is None:
        return a is b
    # Sums over many keys: ten times what a cell may be apart, and a distance adds up tokens.
    in_tokens = name in STATISTICS and STATISTICS[name].in_tokens
    # Weights near 1 are rounded to it: what is left of a row is off by a step of the dtype at 1, however little it is.
    step = 0.0 if stored.rule is None else max(torch.finfo(DTYPES[stored.dtype]).eps, FIXED.atol)
    atol = (tolerance.atol + step) * (len(stored.keys) if in_tokens else 10)
    return abs(a - b) <= atol + 10 * tolerance.rtol * abs(a)


def _settings_apart(stored: Snapshot, now: Snapshot) -> list[str]:
    lines = []
    names = dict.fromkeys([*stored.settings, *now.settings])
    if stored.settings.get("source") != now.settings.get("source"):
        # A tensor knows neither pattern nor scale: what both know is compared.
        names = dict.fromkeys(name for name in stored.settings if name in now.settings and name != "source")
    for name in names:
        a, b = stored.settings.get(name), now.settings.get(name)
        if a != b:
            was, is_ = ("nothing" if value is None else value for value in (a, b))
            lines.append(f"{name.replace('_', ' ')} was {was}, is {is_}")
    a_heads, b_heads = ([one.head for one in side.heads] for side in (stored, now))
    if a_heads != b_heads:
        lines.append(f"the heads kept were {listed(a_heads)}, are {listed(b_heads)}")
    for name, was, is_ in (("queries", stored.queries, now.queries), ("keys", stored.keys, now.keys)):
        if tuple(was) != tuple(is_):
            lines.append(f"the {name} kept were {span_of(was)}, are {span_of(is_)}")
    shapes = [{name: cells.shape for one in side.heads for name, cells in one.cells.items()} for side in (stored, now)]
    if shapes[0] != shapes[1]:
        was, is_ = (", ".join(f"{n} {s[0]} x {s[1]}" for n, s in side.items()) for side in shapes)
        lines.append(f"the cells kept were {was}, are {is_}")
    return [*lines, *_tokens_apart(stored, now, alike="source" in names)]


def _tokens_apart(stored: Snapshot, now: Snapshot, *, alike: bool) -> Iterator[str]:
    """A line for the tokens of queries and of keys that are not what they were; ``alike``: both are of one kind of source."""
    for name, labels, later in (
        ("query", stored.query_tokens, now.query_tokens),
        ("key", stored.key_tokens, now.key_tokens),
    ):
        if labels is None or later is None:
            if labels is not later and alike:
                yield f"{name} tokens were {'there' if labels else 'not there'}, are {'there' if later else 'not there'}"
            continue
        wrong = [i for i, (a, b) in enumerate(zip(labels, later, strict=False)) if not same_label(a, b)]
        if wrong:
            more = "" if len(wrong) == 1 else f", and {len(wrong) - 1} more"
            yield f"{name} token {wrong[0]} was {quoted(labels[wrong[0]])}, is {quoted(later[wrong[0]])}{more}"
