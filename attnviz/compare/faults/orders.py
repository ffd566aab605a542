"""Orders of rows and of keys: which one each place holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def shifted(by: int, size: int) -> Callable[[Tensor], Tensor]:
    """The one so many after it; at the end the last."""
    return lambda index: (index + by).clamp(0, size - 1)


def rolled(by: int, size: int) -> Callable[[Tensor], Tensor]:
    """The one so many after it, round the end."""
    return lambda index: (index + by) % size


def swapped(index: Tensor, tile: int, size: int) -> Tensor:
    """Tiles in pairs, each in the other's place, where there are both."""
    other = (index // tile ^ 1) * tile + index % tile
    return torch.where(other < size, other, index)


def exchanged(index: Tensor, pages: tuple[int, int], tile: int) -> Tensor:
    """Two pages that have changed places."""
    one, other = pages
    to = torch.where(index // tile == one, other, torch.where(index // tile == other, one, index // tile))
    return to * tile + index % tile


def paged(index: Tensor, table: Sequence[int], tile: int) -> Tensor:
    """Whole pages as a table has them; what is beyond it stays."""
    inside = index < len(table) * tile
    page = torch.tensor(table)[(index // tile).clamp(max=len(table) - 1)]
    return torch.where(inside, page * tile + index % tile, index)
