"""Which query sees which key: patterns as values that compose with ``|`` and ``&``.

A pattern says two things. ``visible(t, s, item)`` is its definition, elementwise. ``reach(item)`` bounds where
that can be True (a band of offsets and a set of keys), so that the engine touches only those keys. The engine, figures
and tables know nothing else of a pattern: a new one is one small class, here or anywhere. With a ``name`` it is known to
the command line, to every function that takes a pattern, and to dumps; its fields are its settings.

    Local(256) | GlobalKeys() | GlobalQueries()      Longformer, arXiv:2004.05150
    Local(256) & Causal()                            a causal sliding window, as in Mistral
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from attnviz.attention.reach import Reach
from attnviz.base.errors import InputError


class Item(Protocol):
    """What a pattern asks of a batch item; indices are those of its queries and keys."""

    @property
    def source(self) -> str:
        """What errors call the inputs."""

    @property
    def batch(self) -> int:
        """The batch item's index."""

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """(B, H, T, S)."""

    @property
    def offset(self) -> int | None:
        """The key at a query's position is ``t + offset``, for every query; None where no one number says it.

        Raises:
            InputError: keys are of another sequence.
        """

    @property
    def global_positions(self) -> Tensor:
        """Indices of the global keys, ascending, (G,)."""

    @property
    def global_queries(self) -> Tensor:
        """Indices of the queries whose key is global, ascending, (R,)."""

    def query_position(self, t: Tensor) -> Tensor:
        """Where queries stand in their sequence."""

    def key_position(self, s: Tensor) -> Tensor:
        """Where keys stand in their sequence."""


PATTERNS: dict[str, type[Pattern]] = {}
"""The patterns that have a name, by it."""


class Pattern(ABC):
    """A set of visible (query, key) pairs. Softmax of a query runs over exactly the keys it sees."""

    name: ClassVar[str | None] = None
    """What the command line and dumps call it; its fields, of plain types, are its settings there."""

    global_queries: bool = False
    """Whether global tokens, as queries, see by their own rule and with their own projections."""

    limits: bool = False
    """Whether it says what is hidden more than what is seen: in ``a & b`` the other side gives the reasons."""

    def __init_subclass__(cls) -> None:
        if cls.name is not None:
            PATTERNS[cls.name] = cls

    def of_head(self, head: int) -> Pattern:
        """The pattern as one head sees it; heads differ in a mask of one's own alone."""
        return self

    @property
    def reason(self) -> str:
        """Why a query sees a key by this pattern, in a word or two, for legends."""
        return str(self)

    def reasons(self) -> list[tuple[str, Pattern]]:
        """The parts whose union this pattern is, each with its reason; ``|`` has several, and ``&`` narrows each.

        >>> [reason for reason, _ in (longformer(4) & Causal()).reasons()]
        ['window', 'global key', 'global query']
        """
        return [(self.reason, self)]

    @abstractmethod
    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        """Whether query ``t`` sees key ``s``: bool, the broadcast shape of the two position tensors."""

    @abstractmethod
    def reach(self, item: Item) -> Reach:
        """Where :meth:`visible` can be True, rows of global queries apart. Raises InputError for unfit inputs."""

    def __or__(self, other: Pattern) -> Pattern:
        return Either(self, other)

    def __and__(self, other: Pattern) -> Pattern:
        return Both(self, other)


@dataclass(frozen=True)
class GlobalKeys(Pattern):
    """Every query sees the global keys."""

    name = "global"
    reason = "global key"

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        return torch.isin(s, item.global_positions.to(s.device)).expand(np.broadcast_shapes(t.shape, s.shape))

    def reach(self, item: Item) -> Reach:
        return Reach(band=False, keys=item.global_positions)

    def __str__(self) -> str:
        return "global"


@dataclass(frozen=True)
class GlobalQueries(Pattern):
    """Global tokens, as queries, see every key, by ``q_global`` and ``k_global`` where there are such.

    A query is global where the key at its position is.
    """

    name = "global-queries"
    reason = "global query"
    global_queries = True

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        return torch.isin(t, item.global_queries.to(t.device)).expand(np.broadcast_shapes(t.shape, s.shape))

    def reach(self, item: Item) -> Reach:
        _ = item.global_queries  # raises where there can be none
        return Reach(band=False)

    def __str__(self) -> str:
        return "global queries"


@dataclass(frozen=True)
class Full(Pattern):
    """Every query sees every key."""

    name = "full"

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        return torch.ones(np.broadcast_shapes(t.shape, s.shape), dtype=torch.bool, device=s.device)

    def reach(self, item: Item) -> Reach:
        return Reach()

    def __str__(self) -> str:
        return "full"


@dataclass(frozen=True)
class Causal(Pattern):
    """A query sees itself and what came before: ``p(s) <= p(t)``, by default ``s <= t + S - T``."""

    name = "causal"
    limits = True

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        return item.key_position(s) <= item.query_position(t)

    def reach(self, item: Item) -> Reach:
        offset = item.offset
        return Reach(band_exact=False) if offset is None else Reach(high=offset)

    def __str__(self) -> str:
        return "causal"


@dataclass(frozen=True)
class Local(Pattern):
    """A query sees ``window`` keys to each side of its position, ``|p(s) - p(t)| <= window * dilation``, in steps of ``dilation``."""

    name = "local"
    window: int
    dilation: int = 1
    reason = "window"

    def __post_init__(self) -> None:
        if self.window < 0 or self.dilation < 1:
            raise InputError(f"a window is 0 or more and a dilation 1 or more; given {self.window} and {self.dilation}")
        if self.window * self.dilation >= 2**62:  # beyond what positions are counted in
            raise InputError(
                f"a window of {self.window} keys in steps of {self.dilation} is too wide; all is --pattern full"
            )

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        distance = item.key_position(s) - item.query_position(t)
        return (distance.abs() <= self.window * self.dilation) & (distance % self.dilation == 0)

    def reach(self, item: Item) -> Reach:
        width, offset = self.window * self.dilation, item.offset
        if offset is None:
            return Reach(band_exact=False)
        return Reach(offset - width, offset + width, self.dilation, offset)

    def __str__(self) -> str:
        return f"local, window {self.window}" + (f", dilation {self.dilation}" if self.dilation > 1 else "")


@dataclass(frozen=True, eq=False)
class Masked(Pattern):
    """A query sees what a boolean mask of the user's own says.

    Args:
        mask: bool, (T, S), (B, T, S) where batch items differ, or (B, H, T, S) where heads do; a size of 1 broadcasts.
    """

    mask: Tensor
    head: int | None = None

    def __post_init__(self) -> None:
        if self.mask.dtype != torch.bool or self.mask.ndim not in (2, 3, 4):
            raise InputError(
                f"an attention mask has dtype bool and shape (T, S), (B, T, S) or (B, H, T, S); found "
                f"{str(self.mask.dtype).removeprefix('torch.')}, {tuple(self.mask.shape)}"
            )

    def of_head(self, head: int) -> Pattern:
        return replace(self, head=head) if self.mask.ndim == 4 and self.mask.shape[1] > 1 else self

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        mask = self.mask
        if mask.ndim > 2:
            mask = mask[min(item.batch, len(mask) - 1)]
        if mask.ndim > 2:  # of heads that are asked together: what any of them sees
            mask = mask.any(0) if self.head is None else mask[min(self.head, len(mask) - 1)]
        return mask.to(s.device)[t.clamp(max=mask.shape[0] - 1), s.clamp(max=mask.shape[1] - 1)]

    def reach(self, item: Item) -> Reach:
        shape, ndim = tuple(self.mask.shape), self.mask.ndim
        B, H, T, S = item.sizes
        wanted = {2: (T, S), 3: (B, T, S), 4: (B, H, T, S)}[ndim]
        if not all(size in (1, full) for size, full in zip(shape, wanted, strict=True)):
            letters = {2: "(T, S)", 3: "(B, T, S)", 4: "(B, H, T, S)"}[ndim]
            raise InputError(f"the attention mask has shape {shape}, wanted {letters} = {wanted} of {item.source}")
        return Reach(band_exact=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Masked) and self.head == other.head and torch.equal(self.mask, other.mask)

    def __hash__(self) -> int:
        return hash((tuple(self.mask.shape), self.head))

    def __str__(self) -> str:
        return "own mask"


@dataclass(frozen=True)
class _Pair(Pattern):
    left: Pattern
    right: Pattern

    @property
    def global_queries(self) -> bool:  # type: ignore[override]
        return self.left.global_queries or self.right.global_queries

    def of_head(self, head: int) -> Pattern:
        return type(self)(self.left.of_head(head), self.right.of_head(head))


@dataclass(frozen=True)
class Either(_Pair):
    """What either pattern makes visible, each key once; written ``left | right``."""

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        return self.left.visible(t, s, item) | self.right.visible(t, s, item)

    def reach(self, item: Item) -> Reach:
        return self.left.reach(item) | self.right.reach(item)

    def reasons(self) -> list[tuple[str, Pattern]]:
        parts: dict[str, Pattern] = {}
        for reason, part in (*self.left.reasons(), *self.right.reasons()):
            parts[reason] = parts[reason] | part if reason in parts else part
        return list(parts.items())

    def __str__(self) -> str:
        return f"{self.left} + {self.right}"


@dataclass(frozen=True)
class Both(_Pair):
    """What both patterns make visible; written ``left & right``."""

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        return self.left.visible(t, s, item) & self.right.visible(t, s, item)

    def reach(self, item: Item) -> Reach:
        return self.left.reach(item) & self.right.reach(item)

    def reasons(self) -> list[tuple[str, Pattern]]:
        seen, limit = (self.right, self.left) if self.left.limits else (self.left, self.right)
        return [(reason, part & limit) for reason, part in seen.reasons()]

    def __str__(self) -> str:
        return f"{self.left}, {self.right}"


def longformer(window: int, dilation: int = 1) -> Pattern:
    """Longformer's attention: a window, global keys and global queries in one joint softmax."""
    return Local(window, dilation) | GlobalKeys() | GlobalQueries()
