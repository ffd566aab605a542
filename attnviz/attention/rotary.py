"""Rotary embedding (RoPE, arXiv:2104.09864): which dimensions of a query and a key turn together, and how fast."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnviz.base.errors import InputError, not_one_of

LAYOUTS = ("halves", "interleaved")


@dataclass(frozen=True)
class Rotary:
    """How queries and keys were turned by their positions: in pairs of dimensions, each by an angle of its own a position.

    Of ``n`` pairs, ``2 * n`` dimensions turn, from ``first`` on: pair ``i`` is ``(i, i + n)`` of them in ``halves`` (Llama,
    GPT-NeoX), ``(2 * i, 2 * i + 1)`` if ``interleaved`` (GPT-J). The other dimensions don't turn.

    Args:
        layout: ``halves`` or ``interleaved``.
        frequencies: the angle of each pair, in radians a position; None where that isn't known.
        first: the first dimension that turns.

    Raises:
        InputError: another layout; frequencies that are no numbers, or none; a ``first`` below 0.

    >>> Rotary("halves", [1.0, 0.01]).pairs, Rotary("interleaved", [1.0, 0.01], first=4).pairs
    (((0, 2), (1, 3)), ((4, 5), (6, 7)))
    """

    layout: str
    frequencies: Sequence[float | None]
    first: int = 0

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise not_one_of("rotary: layout", self.layout, LAYOUTS)
        if isinstance(self.frequencies, str) or not isinstance(self.frequencies, Sequence) or not self.frequencies:
            raise InputError(
                f"rotary: frequencies is {self.frequencies!r}, wanted a number a pair of dimensions, or None"
            )
        object.__setattr__(self, "frequencies", tuple(self.frequencies))
        for one in self.frequencies:
            if one is not None and (
                isinstance(one, bool) or not isinstance(one, int | float) or not math.isfinite(one)
            ):
                raise InputError(
                    f"rotary: frequencies hold {one!r}, wanted finite numbers, in radians a position, or None"
                )
        if isinstance(self.first, bool) or not isinstance(self.first, int) or self.first < 0:
            raise InputError(f"rotary: first is {self.first!r}, wanted the index of a dimension, 0 or more")

    @property
    def end(self) -> int:
        """The dimension after the last that turns."""
        return self.first + 2 * len(self.frequencies)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The two dimensions of each pair."""
        n = len(self.frequencies)
        if self.layout == "halves":
            return tuple((self.first + i, self.first + i + n) for i in range(n))
        return tuple((self.first + 2 * i, self.first + 2 * i + 1) for i in range(n))

    @property
    def said(self) -> dict[str, Any]:
        """As metadata has it."""
        return {"layout": self.layout, "frequencies": list(self.frequencies), "first": self.first}

    @classmethod
    def of(cls, said: Any) -> Rotary:
        """What metadata says. Raises InputError for what :attr:`said` never gives."""
        if not isinstance(said, Mapping) or not {"layout", "frequencies"} <= {*said} <= {
            "layout",
            "frequencies",
            "first",
        }:
            raise InputError(f'rotary: is {said!r}, wanted {{"layout": ..., "frequencies": [...], "first": ...}}')
        return cls(**said)
