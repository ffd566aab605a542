"""What a pattern is: a set of visible pairs, and a bound on where they are; ``|`` and ``&`` compose them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from attnviz.attention.reach import Reach
from attnviz.base.types import Positions


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

    @property
    def own_keys(self) -> Positions | None:
        """The index where the key at each query's position would stand, (T,); None where no index follows from a position."""

    @property
    def document_bounds(self) -> tuple[Positions, Positions, bool] | None:
        """The first and the last + 1 key of each query's document, and whether all between are of it."""

    def together(self, t: Tensor, s: Tensor) -> Tensor | None:
        """Whether queries and keys are of one document; None where there are no documents."""

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
        if (name := vars(cls).get("name")) is not None:  # one that is inherited is the other class's still
            PATTERNS[name] = cls

    def of_head(self, head: int) -> Pattern:
        """The pattern as one head sees it; heads differ in masks and blocks of one's own."""
        return self

    @property
    def reason(self) -> str:
        """Why a query sees a key by this pattern, in a word or two, for legends."""
        return str(self)

    def reasons(self) -> list[tuple[str, Pattern]]:
        """The parts whose union this pattern is, each with its reason; ``|`` has several, and ``&`` narrows each.

        >>> import attnviz
        >>> [reason for reason, _ in (attnviz.longformer(4) & attnviz.Causal()).reasons()]
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
