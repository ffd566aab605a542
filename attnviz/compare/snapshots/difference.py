"""What sets a later snapshot apart from a stored one, and how it is said."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attnviz.base.labels import quoted
from attnviz.compare.rounding import Tolerance
from attnviz.compare.snapshots.snapshot import VERSION, Snapshot


@dataclass(frozen=True)
class CellDifference:
    """The cell of a head where two snapshots are furthest apart, beyond what they may be."""

    head: int
    reduction: str
    queries: range
    """The query positions of its row."""
    keys: Sequence[int]
    """The key positions of its column."""
    a: float
    """What was stored; NaN is not visible."""
    b: float
    """What is now."""
    allowed: float
    beyond: int
    """How many of the head's cells are beyond what they may be."""
    cells: int
    """How many cells of the head either side sees."""


@dataclass(frozen=True)
class StatisticDifference:
    """A statistic of a head that is not what it was."""

    head: int
    name: str
    a: float | None
    b: float | None


@dataclass(frozen=True)
class SnapshotDifference:
    """What sets a later snapshot apart from a stored one."""

    stored: Snapshot
    now: Snapshot
    tolerance: Tolerance
    settings: list[str]
    """A line for each setting that is not what it was."""
    cells: list[CellDifference]
    """The worst cell of each head and reduction with a cell beyond the tolerance, the worst first."""
    statistics: list[StatisticDifference]

    @property
    def within(self) -> bool:
        """Whether nothing is beyond the tolerance and every setting is as it was."""
        return not (self.settings or self.cells or self.statistics)

    def report(self, most: int = 6, *, where: tuple[int, int, float] | None = None) -> str:
        """What differs, a line each: settings, then heads with query, key, tokens and both values, then statistics.

        Args:
            most: how many heads and statistics to name; the rest is counted.
            where: the pair with the largest value of the worst cell: :func:`locate`.
        """
        dtype = self.stored.settings.get("dtype", "float32")
        if self.within:
            return f"within tolerance ({self.tolerance}, for {dtype})"
        lines = [f"BEYOND tolerance ({self.tolerance}, for {dtype})", *(f"  {line}" for line in self.settings)]
        for found in self.cells[:most]:
            lines.append(f"  {self._cell(found)}")
            if where is not None and found is self.cells[0]:
                lines.append(f"    the largest there is now query {where[0]} → key {where[1]}, {where[2]:.6g}")
        lines += _more(len(self.cells) - most, "map", "maps")
        return "\n".join([*lines, *self._statistics(most)])

    @property
    def note(self) -> str | None:
        """What is to be said of the versions of the two."""
        if self.stored.version == self.now.version == VERSION:
            if self.stored.rule is not None:
                return None
            return "without a rule of its own, and held by what its dtype allowed; write it again for today's (docs/snapshots.md)"
        if self.stored.version == self.now.version:
            return (
                f"of version {self.stored.version}, and compared by that version's definitions; "
                f"write it again for today's (docs/snapshots.md)"
            )
        return (
            f"of version {self.stored.version}, and held against version {self.now.version}: "
            f"statistics that mean something else now are not compared"
        )

    def _statistics(self, most: int) -> Iterator[str]:
        """A line a head whose statistics differ, heads with the worst cells first."""
        changed: dict[int, list[StatisticDifference]] = {}
        for one in self.statistics:
            changed.setdefault(one.head, []).append(one)
        order = [found.head for found in self.cells]
        heads = sorted(changed, key=lambda head: order.index(head) if head in order else len(order))
        for head in heads[:most]:
            texts = [f"{one.name} was {_text(one.a)}, is {_text(one.b)}" for one in changed[head]]
            more = [f"{len(texts) - 3} more"] if len(texts) > 3 else []
            yield f"  head {head}, statistics: {'; '.join(texts[:3] + more)}"
        yield from _more(len(heads) - most, "head's statistics", "heads' statistics")

    def _cell(self, found: CellDifference) -> str:
        stored = self.stored
        name = {"max": "max of weights", "mass": "mass"}.get(found.reduction, found.reduction)
        if stored.settings["values"] == "logits":
            name = {"max": "max of logits"}.get(found.reduction, found.reduction)
        query = _position("query", "queries", found.queries, stored.queries, stored.query_tokens)
        key = _position("key", "keys", found.keys, stored.keys, stored.key_tokens)
        was, now = ("not visible" if math.isnan(value) else f"{value:.6g}" for value in (found.a, found.b))
        apart = abs(found.a - found.b)
        how_far = "" if math.isnan(apart) else f": apart by {apart:.3g}, allowed {found.allowed:.3g}"
        return (
            f"head {found.head}, {name}: {found.beyond} of {found.cells} cells; the worst is {query} → {key}, "
            f"was {was}, is {now}{how_far}"
        )


def _position(one: str, many: str, here: Sequence[int], whole: Sequence[int], tokens: Sequence[str] | None) -> str:
    if len(here) > 1:
        return f"{many} {span_of(here)}"
    token = "" if tokens is None else f" {quoted(tokens[whole.index(here[0])])}"
    return f"{one} {here[0]}{token}"


def span_of(positions: Sequence[int]) -> str:
    """Positions in words."""
    if isinstance(positions, range) or len(positions) > 8:
        return f"{positions[0]} to {positions[-1]}"
    return ", ".join(map(str, positions))


def listed(numbers: Sequence[int]) -> str:
    """The first of some numbers, and how many there are."""
    return ", ".join(map(str, numbers[:12])) + (f", … ({len(numbers)})" if len(numbers) > 12 else "")


def _more(count: int, one: str, many: str) -> list[str]:
    return [] if count <= 0 else [f"  and {count} more {one if count == 1 else many}"]


def _text(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"
