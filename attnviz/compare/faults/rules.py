"""Patterns rewritten: with a rule, another pattern or nothing in the place of one of their parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from attnviz.attention.patterns import Both, Either, Full, Item, Pattern
from attnviz.attention.reach import Reach

Rule = Callable[[Tensor, Tensor, Item], Tensor]
"""Which key each query sees, by their indices and the item that says where they stand."""

Kind = TypeVar("Kind", bound=Pattern)


@dataclass(frozen=True)
class Ruled(Pattern):
    """A pattern by a rule of indices and positions, for what no pattern says."""

    rule: Callable[[Tensor, Tensor, Item], Tensor]
    ordered: bool = True
    """Whether it speaks of order, and so stays within a document."""

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        seen, together = self.rule(t, s, item), item.together(t, s) if self.ordered else None
        return seen if together is None else seen & together

    def reach(self, item: Item) -> Reach:
        return Reach(band_exact=False)


@dataclass(frozen=True)
class Read(Pattern):
    """Another pattern, of each head its own, read in another way."""

    part: Pattern
    rule: Callable[[Pattern, Tensor, Tensor, Item], Tensor]
    """What of it queries and keys see."""

    def of_head(self, head: int) -> Pattern:
        return replace(self, part=self.part.of_head(head))

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        return self.rule(self.part, t, s, item)

    def reach(self, item: Item) -> Reach:
        return Reach(band_exact=False)


def leaves(pattern: Pattern) -> Iterator[Pattern]:
    """The patterns that one is made of."""
    if isinstance(pattern, (Both, Either)):
        yield from leaves(pattern.left)
        yield from leaves(pattern.right)
    else:
        yield pattern


def parts_of(pattern: Pattern, kind: type[Kind]) -> list[Kind]:
    """The parts of a pattern that are of a kind."""
    return [part for part in leaves(pattern) if isinstance(part, kind)]


def rewritten(pattern: Pattern, change: Callable[[Pattern], Pattern]) -> Pattern:
    """The same with each of its leaves changed."""
    if isinstance(pattern, (Both, Either)):
        return replace(pattern, left=rewritten(pattern.left, change), right=rewritten(pattern.right, change))
    return change(pattern)


def instead(pattern: Pattern, part: Pattern, other: Pattern | Rule, *, ordered: bool = True) -> Pattern:
    """The pattern with another, or a rule, in the place of one of its parts."""
    found = other if isinstance(other, Pattern) else Ruled(other, ordered=ordered)
    return rewritten(pattern, lambda one: found if one == part else one)


def without(pattern: Pattern) -> Iterator[tuple[Pattern, Pattern]]:
    """The pattern without each of its parts in turn, and the part."""
    if isinstance(pattern, (Both, Either)):
        for part, rest in ((pattern.left, pattern.right), (pattern.right, pattern.left)):
            yield rest, part
        for less, part in without(pattern.left):
            if not isinstance(less, Full) and less is not pattern.left:
                yield replace(pattern, left=less), part
        for less, part in without(pattern.right):
            if not isinstance(less, Full) and less is not pattern.right:
                yield replace(pattern, right=less), part


def distance(t: Tensor, s: Tensor, item: Item) -> Tensor:
    """How far keys are after queries, by their positions."""
    return item.key_position(s) - item.query_position(t)
