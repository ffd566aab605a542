"""A kind of mistake: what there is to try of it for a case."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnviz.attention.inputs import AttentionInputs
from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.compare.faults.way import compute
from attnviz.compare.faults.work import Change, Variant, Work
from attnviz.compare.gradients import GRADIENTS, OF_KEYS
from attnviz.compare.rounding import FIXED, Rule

FAULTS: list[Fault] = []
"""Every kind, in the order in which they are tried and, where they explain numbers equally well, named."""

HALF = 0.5
"""The share of the squared differences that what is nearest may leave, to be tried at all."""

MOST_MATCHED = 1 << 22
"""Cells of a head's map up to which its rows are looked for among all others."""

MOST_TRIED = 16
"""Documents, heads or batch items that are tried one by one."""

TILES = (8, 16, 24, 32, 48, 64, 80, 96, 128, 192, 256, 512)
"""Keys or queries that a kernel takes together."""


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
    beside: tuple[Variant, ...] = ()
    """What is wrong beside what is looked for."""

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
    def query_heads(self) -> range:
        """The heads whose queries the rows are of: of keys, those that read them."""
        group = self.inputs.H // self.inputs.H_kv
        return range(self.head * group, (self.head + 1) * group) if self.of_keys else range(self.head, self.head + 1)

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

    def moves(self, case: Case) -> Iterator[Variant]:
        """What there is to try of it that takes rows from another place by a rule; of a gradient, the context's rows too."""
        return iter(())

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

        return Variant(self.name, name, "settings", change, setting, pattern=pattern)

    def having(self, said: str, setting: str = "", **values: object) -> Variant:
        """Other settings of the call: ``scale``, ``softcap``, ``sink``, ``slope``."""

        def change(work: Work) -> None:
            for name, value in values.items():
                setattr(work, name, value)

        return self.variant(said, "settings", change, setting)

    def of_inputs(self, name: str, **values: object) -> Variant:
        """Other inputs of the call."""

        def change(work: Work) -> None:
            work.inputs = replace(work.inputs, **values)  # type: ignore[arg-type]

        return self.variant(name, "settings", change)
