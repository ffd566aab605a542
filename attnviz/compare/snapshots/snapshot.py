"""What a snapshot is: one attention call's maps, reduced, with statistics and settings, to be held against a later run's.

The formula runs in float64, whatever the dtype of the inputs, so that a snapshot says the same on every machine and
number of threads. How far a later run may be from it is what rounding costs (:mod:`attnviz.compare.rounding`), for the dtype of
the inputs and how large their logits are; a snapshot says it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnviz.base.bins import bin_edges
from attnviz.base.types import Cells, Positions
from attnviz.compare.rounding import Tolerance
from attnviz.maps.map import AttentionMap

VERSION = 2
"""Of what numbers in a snapshot mean; :mod:`attnviz.compare.snapshots.version1` has what they meant before."""

CELLS = 32
"""Cells along each side of a snapshot, at most; a map of no more positions is kept whole."""

MOST_TOKENS = 64
"""Sequences that are longer are kept without their tokens."""

DIGITS = {"float64": 10, "float32": 6, "float16": 5, "bfloat16": 4}
"""Significant digits of the numbers in a file: finer than their tolerance, which is relative. Decimals, where it wasn't."""


@dataclass(frozen=True)
class HeadSnapshot:
    """One head: its statistics by name, where it has weights, and its cells by reduction."""

    head: int
    statistics: dict[str, float | None]
    cells: dict[str, Cells]
    """``weights`` or ``logits``, a value a cell; where the map is reduced ``max``, and ``mass`` of weights. (P, P')"""
    seeing: tuple[int, ...] | None = None
    """How many queries of each row of cells see a key, (P,), of a reduced map where some see none; None where all do."""


@dataclass(frozen=True)
class Snapshot:
    """The maps of one batch item's heads in few cells, and what they were made of.

    Args:
        settings: ``values``, ``pattern``, ``dtype``, sizes, ``scale`` and the like, as JSON has them.
        queries: the query positions that the rows cover.
        keys: the key positions that the columns cover: a range, or the positions of the global keys.
        query_tokens, key_tokens: a label for each, where they are few and there are any.
        heads: the heads.
        version: by which definitions the numbers are made.
        rule: how far apart cells of a later run may be; None is what their dtype allowed, before snapshots said it.

    >>> import attnviz
    >>> kept = attnviz.take_snapshot(attnviz.synthesize(), "causal", heads=[3])
    >>> kept.settings["pattern"], len(kept.heads)
    ('causal', 1)
    """

    settings: dict[str, Any]
    queries: range
    keys: Sequence[int]
    query_tokens: Sequence[str] | None
    key_tokens: Sequence[str] | None
    heads: Sequence[HeadSnapshot]
    version: int = VERSION
    rule: Tolerance | None = None

    @property
    def dtype(self) -> str:
        """The dtype that its numbers are of."""
        name = str(self.settings.get("dtype"))
        return name if name in DIGITS else "float32"

    @property
    def tolerance(self) -> Tolerance:
        """How far apart cells of a later run may be."""
        if self.rule is not None:
            return self.rule
        from attnviz.compare.snapshots.version1 import TOLERANCES

        allowed = TOLERANCES[self.dtype]
        factor = 10 if self.settings.get("values") == "logits" else 1
        return Tolerance(factor * allowed.atol, allowed.rtol)

    @property
    def digits(self) -> int:
        """Significant digits that its numbers have in a file; decimals, without a rule."""
        return DIGITS[self.dtype]

    @property
    def knows_hidden(self) -> bool:
        """Whether it says which keys a query sees: a tensor of something else's doesn't."""
        given_whole = self.settings.get("source") == "weights" and self.settings.get("pattern") == "full"
        return self.settings.get("source") != "tensor" and not given_whole

    @property
    def reductions(self) -> list[str]:
        """The names of its heads' cells."""
        return list(dict.fromkeys(name for one in self.heads for name in one.cells))

    def seeing(self, one: HeadSnapshot, cells: Cells) -> Positions:
        """How many queries of each row of a head's cells see a key, as far as it says, (P,)."""
        if one.seeing is not None:
            return np.array(one.seeing, dtype=np.int64)
        if cells.shape == (len(self.queries), len(self.keys)):
            return np.array((~np.isnan(cells)).any(1), dtype=np.int64)
        return np.diff(bin_edges(self.queries, len(cells)))

    def maps(self, name: str, reduction: str) -> dict[int, AttentionMap]:
        """The map of each head, called ``name`` in place of its pattern."""
        return {
            one.head: AttentionMap(
                one.cells[reduction],
                str(self.settings["values"]),
                one.head,
                self.queries,
                self.keys,
                self.query_tokens,
                self.key_tokens,
                name,
                "mass" if reduction == "mass" else "max",
            )
            for one in self.heads
            if reduction in one.cells
        }
