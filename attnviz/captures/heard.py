"""A layer as it is heard: calls that belong together, a forward pass or the steps of a ``generate``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from attnviz.attention.inputs import Inputs
from attnviz.base.types import Label
from attnviz.captures.checking import EVERY, Output, Sample
from attnviz.captures.masks import Step, Visibility

Memo = dict[tuple[object, ...], tuple[object, Visibility]]
"""What masks were read as, by their identities; layers share masks, and the masks are kept alive beside it."""


@dataclass(frozen=True, eq=False)
class Order:
    """How the items of a batch changed places: the beams of a search.

    Args:
        after: the forward pass after which they did.
        origins: which item each one goes on from, (n,).
        B: how many items there were before.
    """

    after: int
    origins: Tensor
    B: int


Orders = list[Order]


def origins(orders: Orders, forward_pass: int, B: int) -> Tensor | None:
    """Which item of a forward pass each of the last one's goes back to, (n,); None where they kept their places.

    >>> import torch
    >>> orders = [Order(1, torch.tensor([1, 1, 0]), 3), Order(2, torch.tensor([2, 0]), 3)]
    >>> origins(orders, 1, 3), origins(orders, 3, 3)
    (tensor([0, 1]), None)
    """
    found: Tensor | None = None
    for order in reversed(orders):
        if order.after >= forward_pass and order.B == B:
            found = order.origins if found is None else order.origins[found]
    return found


@dataclass(frozen=True)
class Kept:
    """What a cache held before a call.

    Args:
        past: positions that went by: that of the call's first query.
        first: the position of the first key that the kernel sees; caches of sliding windows drop their first keys.
    """

    past: int
    first: int = 0


class AnyCall(Protocol):
    """A call, whatever was seen of it."""

    @property
    def cross(self) -> bool:
        """Whether keys are of another sequence."""

    @property
    def sizes(self) -> tuple[int, int, int]:
        """B, H and T."""


C = TypeVar("C", bound=AnyCall)


@dataclass(eq=False)
class Heard(ABC, Generic[C]):
    """The calls of one attention layer that belong together.

    Args:
        group: which tower it is in; nothing is the main one.
        number: its index there.
        nth: which of its calls in a pass this is, from 1.
        stack: the module whose token ids its queries are.
    """

    group: str
    number: int
    stack: str
    nth: int = 1
    calls: list[C] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)  # the forward pass of each call
    samples: list[Sample | None] = field(default_factory=list)  # of each call, rows of what the model made of it
    met: list[Tensor | None] = field(default_factory=list)  # of each call, lengths of the residual and of what it adds
    unchecked: str | None = None  # why rows of what the model made say nothing
    orders: Orders = field(default_factory=list)  # of the whole run
    w_o: Tensor | None = None  # what projects the heads' context, (H, D_v, d_model)
    channels: bool = False  # whether queries and keys are channels of a head, and no tokens

    @property
    def label(self) -> Label:
        """``5``, ``"cross.5"``, or ``"5.calls.2"`` where the module runs again in a pass."""
        label: Label = f"{self.group}.{self.number}" if self.group else self.number
        return f"{label}.calls.{self.nth}" if self.nth > 1 else label

    @property
    def checks(self) -> list[tuple[int, Sample]]:
        """Rows of what the model made, each with the row of its call's first query."""
        found = []
        for n, (step, sample) in enumerate(zip(self.steps, self.samples, strict=True)):
            own = None if sample is None else sample.moved(self.origins(n))
            if own is not None:
                found.append((step.start, own))
        return found

    def origins(self, n: int) -> Tensor | None:
        """Which item of the ``n``-th call each of the last one's goes back to; None where they kept their places."""
        return origins(self.orders, self.passes[n], self.calls[n].sizes[0])

    def placed(self, n: int, tensor: Tensor) -> Tensor:
        """A tensor of the ``n``-th call, (B, ...), its items where beams have them in the end."""
        back = self.origins(n)
        return tensor if back is None else tensor.index_select(0, back.to(tensor.device))

    @property
    def places(self) -> list[Step]:
        """The calls' parts of the map, their masks of the items there are in the end."""
        found = []
        for n, step in enumerate(self.steps):
            back = self.origins(n)
            found.append(step if back is None else replace(step, mask=step.mask.of(back)))
        return found

    @abstractmethod
    def add(self, call: C, forward_pass: int, *, begins: int | None = None, copy: bool = True) -> int | None:
        """Takes in a call: as the next step where its keys go on from the last, else in place of what there was.

        Steps whose keys the cache has dropped again (tokens that were guessed and rejected) are dropped first.

        Args:
            call: the call.
            forward_pass: the forward pass it belongs to.
            begins: the row at which the queries of this pass begin, where self-attention went on; cross-attention
                can't see that by itself.
            copy: whether to keep copies of its tensors; models may write into theirs again.

        Returns:
            The row at which its queries begin, where it went on.

        Raises:
            InputError: keys that were in the cache before, and were never seen.
        """

    @abstractmethod
    def inputs(
        self, *, source: str, tokens: Mapping[str, Any] | None = None, memo: Memo | None = None, whole: bool = True
    ) -> Inputs:
        """The layer's calls as the inputs of one.

        Args:
            source: what errors call them.
            tokens: the fields that say which tokens the positions are.
            memo: what masks were read as.
            whole: whether with what projects the context, which a check has no use for.
        """

    @abstractmethod
    def first_of(self, call: C, T: int, more: int) -> C:
        """A call without all but the first ``T`` of its queries, and without the last ``more`` of its keys."""

    def made(self, output: Output) -> None:
        """Keeps some rows of what the model made of the last call: of a ``generate``, of each so many-th step."""
        if output.unchecked is not None or output.context is None:
            self.unchecked = output.unchecked or "what it gave isn't known"
            return
        step = self.steps[-1]
        if step.T > 1 or len(self.steps) % EVERY == 1:
            self.samples[-1] = output.sample(step.mask.changes(step.T, step.S))

    def project(self, w_o: Tensor | None) -> None:
        """Keeps how the context of the last call is projected."""
        self.w_o = w_o

    def take_channels(self) -> None:
        """Keeps that queries and keys are channels."""
        self.channels = True

    def meet(self, lengths: Tensor) -> None:
        """Keeps how long the residual and what is added to it are, (B, T, 2), of the last call."""
        self.met[-1] = lengths

    @property
    def residual_norms(self) -> Tensor | None:
        """These of all queries; None where they are not known of each."""
        parts = [self.placed(n, one) for n, one in enumerate(self.met) if one is not None]
        return torch.cat(parts, dim=1) if parts and len(parts) == len(self.met) else None

    def projection(self, v: Tensor | None) -> Tensor | None:
        """That, where it is of these values."""
        w_o = self.w_o
        fits = w_o is not None and v is not None and w_o.shape[1] == v.shape[3] and w_o.device == v.device
        return w_o if fits else None

    def anew(self) -> None:
        """Drops what there was."""
        self.calls, self.steps, self.passes, self.samples, self.met, self.unchecked = [], [], [], [], [], None

    def keep(self, call: C, step: Step, forward_pass: int) -> None:
        """Keeps a call as the last."""
        self.calls.append(call)
        self.steps.append(step)
        self.passes.append(forward_pass)
        self.samples.append(None)
        self.met.append(None)

    def cut(self, rows: int) -> None:
        """Drops the queries from row ``rows`` on, and their keys where they are of one sequence."""
        while self.steps[-1].start >= rows:
            del self.calls[-1], self.steps[-1], self.passes[-1], self.samples[-1], self.met[-1]
        call, step = self.calls[-1], self.steps[-1]
        T = rows - step.start
        if T == step.T:
            return
        more = 0 if call.cross else step.T - T
        mask, S = step.mask.part(T, step.S - more), step.S - more
        sample = self.samples[-1]
        self.samples[-1] = None if sample is None else sample.first(T)
        met = self.met[-1]
        self.met[-1] = None if met is None else met[:, :T]
        self.calls[-1] = self.first_of(call, T, more)
        self.steps[-1] = replace(step, mask=mask, T=T, S=S, end=step.end - more, dropped=step.dropped + step.T - T)


Hear = Callable[[str, Any], Callable[[Output], None]]
"""What is done with a call: (the name of the module that makes it, the call); and then with what the model made of it."""


class Followed(Protocol):
    """What is told of the way that a call's context goes."""

    def project(self, w_o: Tensor | None) -> None:
        """It is projected so, (H, D_v, d_model); None: it isn't, after all."""

    def take_channels(self) -> None:
        """Its rows are channels."""

    def meet(self, lengths: Tensor) -> None:
        """What it is projected to is added to a residual; their lengths, (B, T, 2)."""


Take = Callable[[str, Any], Callable[[Output], Followed | None]]
"""As :data:`Hear`, and last with what is told of the context's way; None where nobody asks for that."""
