"""A way to compute some rows of attention, step by step, in float64: the exact one, until faults change its steps.

The rows are few, and dense over every key. A fault changes what a step made (:class:`Work`), so that several go together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.inputs import AttentionInputs
from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.compare.outputs import rounded
from attnviz.compare.rounding import Rounding, Rule, Sizes
from attnviz.engine.visibility import HIDDEN

STEPS = ("place", "settings", "tensors", "product", "cap", "mask", "weights", "output")
"""After which a fault may change what there is: where rows come from, settings, tensors, products, cap, mask, weights, output."""


@dataclass
class Work:
    """Some rows of one head while they are computed."""

    inputs: AttentionInputs
    pattern: Pattern
    batch: int
    head: int
    rows: Tensor  # (n,) query indices
    what: str  # what is wanted: weights, logits, context or lse
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


@dataclass(frozen=True)
class Made:
    """Rows that a way makes, and how far rounding may take a right computation of them."""

    out: Tensor  # (n, C)
    allowed: Tensor  # (n, C)


def compute(work: Work, variants: Sequence[Variant], rule: Rule) -> Made:
    """The rows of ``work`` with some things wrong, and what rounding may do to them."""
    coarser = next((one.rule for one in variants if one.rule), None)
    rule = rule if coarser is None else Rounding(coarser)
    changes = {step: [one.change for one in variants if one.step == step] for step in STEPS}
    out = allowed = None
    for part, index in _parts(replace(work), changes):
        _made(part, changes)
        bound = _allowed(part, changes, rule)
        if out is None or allowed is None:
            out = torch.full((len(work.rows), part.out.shape[1]), torch.nan, dtype=torch.float64)
            allowed = torch.zeros_like(out)
        out[index], allowed[index] = part.out, bound
    assert out is not None
    assert allowed is not None
    return Made(out, allowed)


def _parts(work: Work, changes: dict[str, list[Change]]) -> Iterator[tuple[Work, Tensor]]:
    """The rows that are computed together: of one place, and either global queries or not."""
    for change in changes["place"]:
        change(work)
    every = torch.arange(len(work.rows))
    for batch, head, rows, index in work.sources or [(work.batch, work.head, work.rows, every)]:
        part = replace(work, batch=batch, head=head, rows=rows)
        item = part.item
        part.key_head = part.value_head = item.kv_head(head)
        part.scale, part.softcap = item.scale, part.inputs.softcap
        part.sink, part.slope = item.sink(head), item.slope(head)
        for change in changes["settings"]:
            change(part)
        own = torch.zeros(len(rows), dtype=torch.bool)
        if part.pattern.global_queries:
            own = torch.isin(rows, item.global_queries.cpu())
        for of_global in (False, True):
            at = (own == of_global).nonzero().flatten()
            if len(at):
                yield replace(part, rows=rows[at], for_global=of_global, projections=of_global), index[at]


def _made(work: Work, changes: dict[str, list[Change]]) -> None:
    _tensors(work)
    _apply(work, changes["tensors"])
    work.logits = work.q @ work.k.T * work.scale
    if work.key_of is not None:
        work.logits = work.logits.gather(1, work.key_of)
    _apply(work, changes["product"])
    if work.softcap is not None:
        work.logits = torch.tanh(work.logits / work.softcap) * work.softcap
    _apply(work, changes["cap"])
    if work.bias is not None:
        work.logits = work.logits + work.bias.masked_fill(torch.isinf(work.bias), 0.0)
    if work.slope is not None:
        work.logits = work.logits - work.slope * work.distance.abs()
    work.count = visible(work).double()
    _apply(work, changes["mask"])
    work.logits = work.rounded(work.logits.masked_fill(work.count == 0, HIDDEN))
    work.weights = work.rounded(_softmax(work))
    _apply(work, changes["weights"])
    work.out = _wanted(work)
    _apply(work, changes["output"])
    if work.what != "weights":  # whose own rounding the rule has already
        work.out = work.rounded(work.out)


def _apply(work: Work, changes: Iterable[Change]) -> None:
    for change in changes:
        change(work)


def _tensors(work: Work) -> None:
    item = work.item

    def whole(name: str, head: int) -> Tensor:
        own = f"{name}_global" if work.projections and getattr(work.inputs, f"{name}_global") is not None else name
        return work.tensor(own, work.batch, head)

    work.q, work.k = whole("q", work.head)[work.rows], whole("k", work.key_head)
    work.v = None if work.inputs.v is None else whole("v", work.value_head)
    queries, keys = item.query_position(work.rows), item.key_position(torch.arange(item.S))
    work.distance = (keys[None, :] - queries[:, None]).double()
    bias = item.bias(work.head)
    work.bias = None if bias is None else bias.cpu()[work.rows].double()


def clean(tensor: Tensor) -> Tensor:
    """A tensor in float64 on the CPU, 0 in what padding holds in place of numbers."""
    return tensor.detach().cpu().double().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def visible(work: Work) -> Tensor:
    """Which keys the rows see, (n, S) bool."""
    item = work.item
    seen = work.pattern.of_head(work.head).visible(work.rows[:, None], torch.arange(item.S)[None, :], item).clone()
    if item.key_padding is not None:
        seen &= item.key_padding.cpu()
    if item.query_padding is not None:
        seen &= item.query_padding.cpu()[work.rows][:, None]
    return seen if work.bias is None else seen & (work.bias > HIDDEN)


def _softmax(work: Work) -> Tensor:
    peak = work.logits.amax(1, keepdim=True)
    peak = peak if work.sink is None else peak.clamp(min=work.sink)
    terms = work.count * torch.exp(work.logits - peak.masked_fill(torch.isinf(peak), 0.0))
    total = terms.sum(1, keepdim=True)
    total = total if work.sink is None else total + torch.exp(work.sink - peak)
    return terms / total


def _wanted(work: Work) -> Tensor:
    if work.what == "weights":
        return work.weights
    if work.what == "logits":
        return work.logits
    if work.what == "lse":
        total = torch.logsumexp(work.logits + torch.log(work.count), 1, keepdim=True)
        return total if work.sink is None else torch.logaddexp(total, torch.full_like(total, work.sink))
    assert work.v is not None
    weights = work.weights
    if work.key_of is not None:
        weights = torch.zeros_like(weights).scatter_add_(1, work.key_of, weights)
    return weights @ work.v


def _allowed(work: Work, changes: dict[str, list[Change]], rule: Rule) -> Tensor:
    """How far a right computation of these rows may be off, (n, C)."""
    if not isinstance(rule, Rounding):
        return rule.atol + rule.rtol * work.out.abs()
    longest = torch.linalg.vector_norm(work.k, dim=1).max()
    reach = torch.linalg.vector_norm(work.q, dim=1, keepdim=True) * longest * abs(work.scale)
    modified = work.softcap is not None or work.bias is not None or work.slope is not None
    sizes = Sizes(reach, work.q.shape[1], modified)
    error = rule.of_logits(work.logits, sizes)
    keys = work.logits.shape[1]
    if work.what == "logits":
        return error
    weights = work.weights.nan_to_num()
    if work.what == "weights":
        return rule.of_weights(weights, error, keys)[0]
    if work.what == "lse":
        return (weights * error).sum(1, keepdim=True) + rule.of_sums(work.out[:, 0], keys)[:, None]
    plain = replace(work, dtype=rule.dtype, inputs=work.inputs)
    _made(plain, changes)
    assert work.v is not None
    scale = torch.maximum(work.out.abs().amax(1), (weights**2 @ work.v**2).amax(1).sqrt()).nan_to_num()
    off = (plain.out - work.out).abs().amax(1).nan_to_num()
    relative = float((off / scale.clamp(min=torch.finfo(torch.float64).tiny)).max())
    # Twice what the plain computation is off, and 2 units in the last place, in rows that are few: as much again.
    return ((3 * relative + 8 * rule.unit + 2.0**-24 * math.sqrt(keys)) * scale)[:, None].expand_as(work.out)
