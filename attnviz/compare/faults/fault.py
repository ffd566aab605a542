"""A kind of mistake: what there is to try of it for a case."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnviz.attention.inputs import AttentionInputs
from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Both, Either, Full, Item, Pattern
from attnviz.attention.reach import Reach
from attnviz.compare.faults.way import compute
from attnviz.compare.faults.work import Change, Variant, Work
from attnviz.compare.gradients import GRADIENTS, OF_KEYS
from attnviz.compare.rounding import FIXED, Rule

FAULTS: list[Fault] = []
"""Every kind, in the order in which they are tried and, where they explain numbers equally well, named."""

MOST_MATCHED = 1 << 22
"""Cells of a head's map up to which its rows are looked for among all others."""


@dataclass(frozen=True)
class Case:
    """A head whose numbers are wrong."""

    inputs: AttentionInputs
    pattern: Pattern
    batch: int
    head: int
    what: str
    """``weights``, ``logits``, ``context``, ``lse``, ``dq``, ``dk`` or ``dv``."""
    actual: Tensor
    """(B, H, T, C) what the kernel gave, C of them keys in weights; dk and dv are (B, H_kv, S, C)."""
    rule: Rule
    rows: tuple[int, ...]
    """Some of its rows that are wrong."""
    share: float = 1.0
    """The share of its rows that are."""
    columns: tuple[int, ...] | None = None
    """The keys that the columns of given weights are of; None is all."""
    grad: Tensor | None = None
    """(B, H, T, D_v) the gradient of the context, where gradients are what is wrong."""
    known: dict[tuple[object, ...], Any] = field(default_factory=dict)
    """Items and tensors that were made before."""

    @property
    def item(self) -> AttentionItem:
        """The batch item."""
        return self.inputs.item(self.batch, dtype=torch.float64)

    @property
    def of_keys(self) -> bool:
        """Whether rows are of keys, and heads of keys too: dk and dv."""
        return self.what in OF_KEYS

    @property
    def reads_values(self) -> bool:
        """Whether v takes part in the numbers."""
        return self.what in ("context", *GRADIENTS)

    @property
    def heads(self) -> int:
        """How many heads there are rows of."""
        return self.inputs.H_kv if self.of_keys else self.inputs.H

    @property
    def length(self) -> int:
        """How many rows a head has."""
        return self.inputs.S if self.of_keys else self.inputs.T

    def work(self, batch: int, head: int, rows: Tensor) -> Work:
        """Rows to be computed."""
        return Work(self.inputs, self.pattern, batch, head, rows, self.what, known=self.known, grad=self.grad)

    def given(self, batch: int, head: int, rows: Tensor) -> Tensor:
        """What the kernel gave for rows, (n, C)."""
        given = self.actual[batch, head][rows.to(self.actual.device)].detach().cpu().double()
        if self.columns is None:
            return given
        whole = torch.full(
            (len(given), self.inputs.S), -torch.inf if self.what == "logits" else 0.0, dtype=torch.float64
        )
        whole[:, list(self.columns)] = given
        return whole

    @cached_property
    def exact(self) -> Tensor:
        """Every exact row of the head, (T, C)."""
        return compute(self.work(self.batch, self.head, torch.arange(self.length)), (), FIXED).out

    @cached_property
    def exact_rows(self) -> Tensor:
        """The exact numbers of :attr:`rows`, (n, C)."""
        return compute(self.work(self.batch, self.head, torch.tensor(self.rows)), (), FIXED).out


class Fault(ABC):
    """A kind of mistake."""

    name: ClassVar[str]
    """What the kind is called."""

    late: ClassVar[int] = 0
    """When it is tried: 0 first, and with another; 1 where nothing alone explains the numbers; 2 where no two do either."""

    of_sums: ClassVar[bool] = False
    """Whether it is tried of dk and dv of long inputs too, where each hypothesis costs the whole map."""

    def __init_subclass__(cls) -> None:
        FAULTS.append(cls())

    @abstractmethod
    def variants(self, case: Case) -> Iterator[Variant]:
        """What there is to try."""

    def fitted(self, case: Case) -> Iterator[Variant]:
        """What there is to try of it whose numbers are read from the rows that are wrong: where nothing else explains them."""
        return iter(())

    def variant(self, name: str, step: str, change: Change, setting: str = "") -> Variant:
        """One of them."""
        return Variant(self.name, name, step, change, setting)

    def under(self, name: str, pattern: Pattern, setting: str = "") -> Variant:
        """Another pattern."""

        def change(work: Work) -> None:
            work.pattern = pattern

        return self.variant(name, "settings", change, setting)

    def having(self, said: str, setting: str = "", **values: object) -> Variant:
        """Other settings of the call: ``scale``, ``softcap``, ``sink``, ``slope``."""

        def change(work: Work) -> None:
            for name, value in values.items():
                setattr(work, name, value)

        return self.variant(said, "settings", change, setting)


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


def rewritten(pattern: Pattern, change: Callable[[Pattern], Pattern]) -> Pattern:
    """The same with each of its leaves changed."""
    if isinstance(pattern, (Both, Either)):
        return replace(pattern, left=rewritten(pattern.left, change), right=rewritten(pattern.right, change))
    return change(pattern)


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
