"""How the patches of a picture lie among positions: one grid, tiles of a picture and a thumbnail of it, rows that end with a token."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnviz.base.errors import InputError

_PART = re.compile(
    r"\s*(?:(?P<first>\d+)\s*:)?\s*(?:(?P<down>\d+)x(?P<across>\d+)\s*\*)?\s*(?P<rows>\d+)x(?P<columns>\d+)"
    r"\s*(?:\+(?P<ends>\d+))?\s*(?:/(?P<apart>\d+))?\s*"
)

PatchSpec = str | tuple[int, int]
"""How patches lie, as it is asked for."""

WRITTEN = "ROWSxCOLUMNS, of which the last key is the last patch, or FIRST:ROWSxCOLUMNS, like 5:2x2*24x24,2309:24x24"


@dataclass(frozen=True)
class _Grid:
    """Patches of one part of a picture, in reading order.

    Args:
        positions: (rows, columns) which position each patch has.
        place: rows and columns of such parts that make the whole picture, and which of them this is.
    """

    positions: NDArray[np.int64]
    place: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (0, 0))

    def finest(self) -> tuple[int, int]:
        """How many such patches the whole picture would have down and across."""
        (down, across), _ = self.place
        return down * self.positions.shape[0], across * self.positions.shape[1]


@dataclass(frozen=True)
class Patches:
    """The patches of a picture among positions.

    >>> patches = Patches.of("2x2", 5, source="x")
    >>> patches.span, patches.laid(np.array([0.1, 0.2, 0.3, 0.4])).tolist()
    (range(1, 5), [[0.1, 0.2], [0.3, 0.4]])
    >>> tiles = Patches.of("0:2x1*1x1,2:1x1", 3, source="x")         # two tiles, one above the other, and a thumbnail
    >>> tiles.laid(np.array([0.5, 0.1, 0.4])).round(3).tolist()
    [[0.7], [0.3]]
    """

    grids: tuple[_Grid, ...]

    @classmethod
    def of(cls, given: PatchSpec, size: int, *, source: str, noun: str = "keys") -> Patches:
        """Patches as they are written.

        Args:
            given: rows and columns, ``(24, 24)`` or ``"24x24"``, of which the last is the last position; ``"5:24x24"`` from
                position 5 on; ``"5:2x2*24x24"`` four tiles of that, one after another; ``+1`` for a token after each row of
                patches, ``/2`` for two between tiles; several with commas between lie over the same picture.
            size: how many positions there are.
            source: what the inputs are called, for the error.
            noun: what the positions are.

        Raises:
            InputError: malformed, or beyond ``size``.
        """
        text = given if isinstance(given, str) else "x".join(map(str, given))
        found: list[_Grid] = []
        for part in text.split(","):
            match = _PART.fullmatch(part)
            numbers = {} if match is None else {name: int(text) for name, text in match.groupdict().items() if text}
            sides = [numbers.get(name, 1) for name in ("rows", "columns", "down", "across")]
            if not numbers or min(sides) < 1:
                raise InputError(f"--patches {text!r}: {part.strip()!r} is no grid of patches; write {WRITTEN}")
            found += _tiles(numbers, size, text, source, noun)
        return cls(tuple(found))

    @property
    def span(self) -> range:
        """The run of positions that has all of them."""
        every = np.concatenate([grid.positions.ravel() for grid in self.grids])
        return range(int(every.min()), int(every.max()) + 1)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of cells that the picture has: those of its finest part."""
        finest = np.array([grid.finest() for grid in self.grids])
        return int(finest[:, 0].max()), int(finest[:, 1].max())

    def laid(self, weights: NDArray[np.floating]) -> NDArray[np.float64]:
        """Weights of the positions of :attr:`span`, over the picture, :attr:`shape`: a patch gives each cell its share.

        What several parts give to a cell adds up, and all that patches have is there. NaN where no part sees anything.
        """
        total, seen = np.zeros(self.shape), np.zeros(self.shape)
        for grid in self.grids:
            own = weights[grid.positions - self.span.start]
            (down, across), (row, column) = grid.place
            rows = _shares(self.shape[0], own.shape[0], down, row)
            columns = _shares(self.shape[1], own.shape[1], across, column)
            total += rows @ np.nan_to_num(own) @ columns.T
            seen += rows @ ~np.isnan(own) @ columns.T
        return np.where(seen > 0, total, np.nan)


def _tiles(numbers: dict[str, int], size: int, text: str, source: str, noun: str) -> list[_Grid]:
    """The grids of one part that is written."""
    rows, columns = numbers["rows"], numbers["columns"]
    down, across = numbers.get("down", 1), numbers.get("across", 1)
    row_length = columns + numbers.get("ends", 0)
    tile_length = rows * row_length + numbers.get("apart", 0)
    length = down * across * tile_length - numbers.get("apart", 0)
    first = numbers.get("first", size - length)
    if first < 0 or first + length > size:
        raise InputError(
            f"--patches {text}: {source} has {size} {noun}, fewer than the picture's {rows * down} x {columns * across} patches"
            + (f" from {first} on" if "first" in numbers else "")
            + f"; write {WRITTEN}"
        )
    within = np.arange(rows)[:, None] * row_length + np.arange(columns)
    return [
        _Grid(first + (row * across + column) * tile_length + within, ((down, across), (row, column)))
        for row in range(down)
        for column in range(across)
    ]


def _shares(cells: int, patches: int, parts: int, part: int) -> NDArray[np.float64]:
    """Which share of each patch of one part of several lies in each cell along a side, (cells, patches)."""
    size = 1 / (patches * parts)
    edges: Sequence[float] = (np.arange(patches + 1) / patches + part) / parts  # type: ignore[assignment]
    lines = np.arange(cells + 1) / cells
    low = np.maximum(lines[:-1, None], edges[:-1])
    high = np.minimum(lines[1:, None], edges[1:])
    found: NDArray[np.float64] = np.clip(high - low, 0, None) / size
    found[found < 1e-9] = 0  # what rounding leaves of patches that only touch
    whole: NDArray[np.float64] = np.where(np.abs(found - 1) < 1e-9, 1, found)
    return whole
