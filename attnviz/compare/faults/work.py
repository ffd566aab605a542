"""Some rows of attention while they are computed, and what may be wrong with a step of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.inputs import AttentionInputs
from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.compare.outputs import rounded

STEPS = ("place", "settings", "tensors", "product", "cap", "mask", "weights", "gradient", "output")
"""After which a fault may change what there is: where rows come from, settings, tensors, products, cap, mask, weights, what flows
back to logits, output."""


@dataclass
class Work:
    """Some rows of one head while they are computed."""

    inputs: AttentionInputs
    pattern: Pattern
    batch: int
    head: int
    rows: Tensor  # (n,) query indices; of dk and dv those of keys, and the head is a key head
    what: str  # what is wanted: weights, logits, context, lse, dq, dk or dv
    dtype: str | None = None  # what each result is rounded to; None is float64
    known: dict[tuple[object, ...], Any] = field(default_factory=dict)  # items and tensors that were made before
    sources: list[tuple[int, int, Tensor, Tensor]] | None = None
    """Where rows come from that are not all of this head: batch item, head, (m,) rows, and (m,) which of the rows they are."""
    key_head: int = 0  # the key head that the head reads
    value_head: int = 0
    for_global: bool = False  # whether these are rows of global queries
    projections: bool = False  # whether they take the global queries' projections
    scale: float = 1.0
    softcap: float | None = None
    sink: float | None = None
    slope: float | None = None
    bias: Tensor | None = None  # (n, S)
    q: Tensor = field(default_factory=lambda: torch.empty(0))  # (n, D)
    k: Tensor = field(default_factory=lambda: torch.empty(0))  # (S, D)
    v: Tensor | None = None  # (S, D_v)
    key_of: Tensor | None = None  # (n, S) the key that is read in place of each; None is that one
    distance: Tensor = field(default_factory=lambda: torch.empty(0))  # (n, S) p(s) - p(t)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))  # (n, S), before hidden keys are
    count: Tensor = field(default_factory=lambda: torch.empty(0))  # (n, S) how often each key counts: 0 is hidden
    weights: Tensor = field(default_factory=lambda: torch.empty(0))  # (n, S)
    grad: Tensor | None = None  # (B, H, T, D_v) the gradient of the context, where gradients are wanted
    g: Tensor = field(default_factory=lambda: torch.empty(0))  # (n, D_v) that of these rows
    bend: Tensor | None = None  # (n, S) what a softcap makes of a product's gradient
    flow: Tensor = field(default_factory=lambda: torch.empty(0))  # (n, S) the gradient of the products
    undone: Callable[[Tensor, Work], Tensor] | None = None
    """Makes a gradient of a tensor as it is out of that of the tensor as it was read."""
    out: Tensor = field(default_factory=lambda: torch.empty(0))  # (n, C) what is wanted

    @property
    def item(self) -> AttentionItem:
        """The batch item."""
        found: AttentionItem = self._once(("item",), lambda: self.inputs.item(self.batch, dtype=torch.float64))
        return found

    def tensor(self, name: str, batch: int, head: int) -> Tensor:
        """One head of ``q``, ``k``, ``v`` or their like, in float64 on the CPU, 0 in what padding holds in place of numbers."""
        tensor = getattr(self.inputs, name)
        found: Tensor = self._once((name, batch, head), lambda: clean(tensor[batch, head]))
        return found

    @property
    def pull(self) -> Tensor:
        """The gradient of weights, (n, S)."""
        assert self.v is not None
        pull = self.rounded(self.g @ self.v.T)
        return pull if self.key_of is None else pull.gather(1, self.key_of)

    @property
    def drag(self) -> Tensor:
        """How large the terms are that the gradient of a product is the difference of, (n, S)."""
        pull = self.pull
        drag = self.weights * (pull.abs() + (self.weights * pull).sum(1, keepdim=True).abs())
        return drag if self.bend is None else drag * self.bend.abs()

    def by_key(self, shares: Tensor) -> Tensor:
        """Numbers of pairs, (n, S), by the key that is read for each."""
        return shares if self.key_of is None else torch.zeros_like(shares).scatter_add_(1, self.key_of, shares)

    def bent(self, factor: Tensor | float) -> None:
        """Takes in what a step multiplies the gradient of products by."""
        self.bend = torch.ones_like(self.logits) * factor if self.bend is None else self.bend * factor

    def _once(self, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        place = (id(self.inputs), self.batch, *key)
        if place not in self.known:
            self.known[id(self.inputs), "held"] = self.inputs  # so that nothing else ever has their id
            self.known[place] = make()
        return self.known[place]

    def rounded(self, numbers: Tensor) -> Tensor:
        """Numbers as the plain computation keeps them."""
        return rounded(numbers, self.dtype)


Change = Callable[[Work], None]


@dataclass(frozen=True)
class Variant:
    """One thing that may be wrong."""

    fault: str
    """The kind."""
    name: str
    """What it is, in words, after "with"."""
    step: str
    """The step whose result it changes."""
    change: Change
    setting: str = ""
    """How to ask for the same: ``--window 255``; empty where no setting does."""
    rule: str | None = None
    """The dtype by whose rounding numbers agree, where that is another than the output's."""
    pattern: Pattern | None = None
    """What is in the place of the whole pattern, where something is."""


def clean(tensor: Tensor) -> Tensor:
    """A tensor in float64 on the CPU, 0 in what padding holds in place of numbers."""
    return tensor.detach().cpu().double().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
