"""Where in a map differences lie: on a diagonal, in some columns, in some rows, or in the same rows of each tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from attnviz.attention.item import AttentionItem

_TILES = (16, 32, 64, 128, 256)
"""Rows that a kernel takes together."""

_MOST = 0.9
"""The share of what stands out that a place must hold to be named."""


class Places:
    """What differs in one head, counted by distance, key and query while blocks come in: O(T + S) numbers."""

    def __init__(
        self, T: int, S: int, item: AttentionItem | None, asked: int | None = None, *, of_keys: bool = False
    ) -> None:
        """``asked``: how many of the T rows are compared; None is all. ``of_keys``: whether rows are keys, as dk's are."""
        self.one, self.many = ("key", "keys") if of_keys else ("query", "queries")
        self.T, self.S, self.item, self.asked = T, S, item, T if asked is None else asked
        self.ordered = item is None or not item.cross
        self.rows = torch.zeros(T, dtype=torch.bool)
        self.columns = torch.zeros(S, dtype=torch.int64)
        self.distances: dict[int, int] = {}
        self.peaks = 0

    def add_rows(self, rows: Tensor) -> None:
        """Takes in queries that differ somewhere."""
        self.rows[rows] = True

    def add(self, rows: Tensor, keys: Tensor, apart: Tensor, beyond: Tensor) -> None:
        """Takes in a block.

        Args:
            rows, keys: indices, (b,) and (n,).
            apart: (b, n) how far each pair is apart.
            beyond: (b, n) bool, whether that is beyond the tolerance.
        """
        some = beyond.any(1)
        if not bool(some.any()):
            return
        self.add_rows(rows[some])
        apart = torch.where(beyond, apart.nan_to_num(nan=torch.inf), -1.0)[some]
        # What renormalizes a row moves all of it a little: what stands out is what moved most.
        most = apart.amax(1, keepdim=True)
        peak = apart >= torch.where(torch.isinf(most), most, most / 2)
        at, column = peak.nonzero(as_tuple=True)
        keys, rows = keys[column], rows[some][at]
        self.columns += torch.bincount(keys, minlength=self.S)
        self.peaks += len(keys)
        if self.ordered:
            far, counts = torch.unique((self._position(keys) - self._of_query(rows)).abs(), return_counts=True)
            for distance, count in zip(far.tolist(), counts.tolist(), strict=True):
                self.distances[distance] = self.distances.get(distance, 0) + count

    def _position(self, keys: Tensor) -> Tensor:
        return keys if self.item is None else self.item.key_position(keys)

    def _of_query(self, rows: Tensor) -> Tensor:
        return rows + (self.S - self.T) if self.item is None else self.item.query_position(rows)

    def described(self) -> tuple[str, ...]:
        """The places that hold nearly all of what differs, in words; none where it lies everywhere."""
        return (*self._diagonals(), *self._keys(), *self._queries())

    def _diagonals(self) -> Iterator[str]:
        found = sorted(self.distances.items(), key=lambda pair: -pair[1])[:2]
        for many in (1, 2):
            held = sum(count for _, count in found[:many])
            if self.peaks > 2 and held >= _MOST * self.peaks and len(self.distances) >= many and self.S > 4:
                diagonals = " and ".join(f"{distance:,}" for distance in sorted(d for d, _ in found[:many]))
                yield f"at |p(t) - p(s)| = {diagonals}"
                return

    def _keys(self) -> Iterator[str]:
        counts, order = self.columns.sort(descending=True, stable=True)
        for many in (1, 2, 3, 4, 6, 8):
            if many < self.S / 4 and self.peaks > 2 and int(counts[:many].sum()) >= _MOST * self.peaks:
                keys = sorted(order[: int((counts[:many] > 0).sum())].tolist())
                yield ("key " if len(keys) == 1 else "keys ") + ", ".join(f"{key:,}" for key in keys)
                return

    def _queries(self) -> Iterator[str]:
        wrong = self.rows.nonzero().flatten().tolist()
        if not wrong or len(wrong) == self.asked:
            return
        for tile in _TILES if len(wrong) > 1 else ():
            within = sorted({row % tile for row in wrong})
            whole = len(wrong) == sum(row % tile in within for row in range(self.T))
            if 2 * tile <= self.T and len(within) < tile and whole and _is_run(within) and wrong[-1] - wrong[0] >= tile:
                if within[-1] == tile - 1:
                    yield f"the last {self._count(len(within))} of each {tile}"
                elif within[0] == 0:
                    yield f"the first {self._count(len(within))} of each {tile}"
                else:
                    yield f"{self.many} {within[0]} to {within[-1]} of each {tile}"
                return
        if _is_run(wrong):
            yield f"{self.one} {wrong[0]:,}" if len(wrong) == 1 else f"{self.many} {wrong[0]:,} to {wrong[-1]:,}"

    def _count(self, number: int) -> str:
        return self.one if number == 1 else f"{number} {self.many}"


def _is_run(numbers: Sequence[int]) -> bool:
    return numbers[-1] - numbers[0] == len(numbers) - 1
