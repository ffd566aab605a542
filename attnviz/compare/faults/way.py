"""A way to compute some rows of attention, step by step, in float64: the exact one, until faults change its steps.

The rows are few, and dense over every key. A fault changes what a step made (:class:`Work`), so that several go together. Rows
of dk and dv are keys, each a sum over every query of the heads that read it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attnviz.compare.faults.work import STEPS, Change, Variant, Work, clean
from attnviz.compare.gradients import GRADIENTS, OF_KEYS
from attnviz.compare.outputs import strays_of
from attnviz.compare.rounding import STRAY, Rounding, Rule, Sizes
from attnviz.engine.visibility import HIDDEN

_CELLS = 1 << 20
"""Cells of a block of queries that keys are summed over."""

Changes = dict[str, list[Change]]


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
    if work.what in OF_KEYS:
        return _of_keys(replace(work), changes, rule)
    out = allowed = None
    for part, index in _parts(replace(work), changes):
        plain = replace(part)  # as it is now: changes that multiply would do so twice
        _made(part, changes)
        bound = _allowed(part, plain, changes, rule)
        if out is None or allowed is None:
            out = torch.full((len(work.rows), part.out.shape[1]), torch.nan, dtype=torch.float64)
            allowed = torch.zeros_like(out)
        out[index], allowed[index] = part.out, bound
    assert out is not None
    assert allowed is not None
    return Made(out, allowed)


def _of_keys(work: Work, changes: Changes, rule: Rule) -> Made:
    """Rows of dk or dv: ``work``'s rows are keys, and its head is a key head."""
    made: list[tuple[Tensor, Made]] = []
    for part, index in placed(work, changes["place"]):
        part.out, size = _summed(part, changes)
        _apply(part, changes["output"])
        if isinstance(rule, Rounding):
            plain = replace(part, dtype=rule.dtype)
            plain.out = plain.rounded(_summed(plain, changes)[0])
            _apply(plain, changes["output"])
            allowed = _by_plain(part.out, plain.out, size, rule, max(part.item.S, part.inputs.T))
        else:
            allowed = rule.atol + rule.rtol * part.out.abs()
        made.append((index, Made(part.out, allowed)))
    order = torch.cat([index for index, _ in made]).argsort()
    return Made(*(torch.cat([getattr(one, name) for _, one in made])[order] for name in ("out", "allowed")))


def _summed(work: Work, changes: Changes) -> tuple[Tensor, Tensor]:
    """What every query gives to some keys, (n, C), and the root of the sum of its squares."""
    keys, own = work.rows, work.head
    total, square = torch.zeros(()), torch.zeros(())
    undone: Callable[[Tensor, Work], Tensor] | None = None
    for head in range(work.inputs.H):
        for rows in torch.arange(work.inputs.T).split(max(1, _CELLS // work.inputs.S)):
            for part, _ in _parts(replace(work, head=head, rows=rows, sources=None), {**changes, "place": []}):
                if (part.key_head if work.what == "dk" else part.value_head) != own:
                    continue
                _steps(part, changes)
                left, right = (part.flow * part.scale, part.q) if work.what == "dk" else (part.weights, part.g)
                size = part.drag * abs(part.scale) if work.what == "dk" else part.weights
                left, size = (part.by_key(numbers.nan_to_num())[:, keys] for numbers in (left, size))
                total, square = total + left.T @ right, square + size.T**2 @ right**2
                undone = part.undone
    C = work.inputs.D if work.what == "dk" or work.inputs.v is None else work.inputs.v.shape[-1]
    shape = (len(keys), C)  # a head that nobody reads has zeros
    made = total.double().expand(shape).clone()
    return made if undone is None else undone(made, work), square.double().expand(shape).sqrt()


def placed(work: Work, changes: Iterable[Change]) -> Iterator[tuple[Work, Tensor]]:
    """The rows by the head that they are taken from, and which of the rows they are."""
    _apply(work, changes)
    every = torch.arange(len(work.rows))
    for batch, head, rows, index in work.sources or [(work.batch, work.head, work.rows, every)]:
        yield replace(work, batch=batch, head=head, rows=rows), index


def _parts(work: Work, changes: Changes) -> Iterator[tuple[Work, Tensor]]:
    """The rows that are computed together: of one place, and either global queries or not."""
    for part, index in placed(work, changes["place"]):
        rows, head = part.rows, part.head
        item = part.item
        part.key_head = part.value_head = item.kv_head(head)
        part.scale, part.softcap = item.scale, part.inputs.softcap
        part.sink, part.slope = item.sink(head), item.slope(head)
        for change in changes["settings"]:
            change(part)
        if not part.pattern.global_queries:
            yield part, index
            continue
        own = torch.isin(rows, item.global_queries.cpu())
        for of_global in (False, True):
            at = (own == of_global).nonzero().flatten()
            if len(at):
                yield replace(part, rows=rows[at], for_global=of_global, projections=of_global), index[at]


def _made(work: Work, changes: Changes) -> None:
    _steps(work, changes)
    work.out = _wanted(work)
    _apply(work, changes["output"])
    if work.what != "weights":  # whose own rounding the rule has already
        work.out = work.rounded(work.out)


def _steps(work: Work, changes: Changes) -> None:
    """Every step up to weights, and to what flows back to logits where gradients are wanted."""
    _tensors(work)
    _apply(work, changes["tensors"])
    work.logits = product(work)
    _apply(work, changes["product"])
    work.logits = _bent(work, work.logits)
    if work.softcap is not None:
        work.bend = 1 - (work.logits / work.softcap) ** 2
    _apply(work, changes["cap"])
    work.logits = _with_added(work, work.logits)
    work.count = visible(work).double()
    _apply(work, changes["mask"])
    work.logits = work.rounded(work.logits.masked_fill(work.count == 0, HIDDEN))
    work.weights = work.rounded(_softmax(work))
    _apply(work, changes["weights"])
    if work.what in GRADIENTS:
        work.flow = flow_back(work)
        _apply(work, changes["gradient"])


def product(work: Work) -> Tensor:
    """Queries times the keys that are read, and the scale, (n, S)."""
    made = work.q @ work.k.T * work.scale
    return made if work.key_of is None else made.gather(1, work.key_of)


def capped(work: Work) -> Tensor:
    """The same after a softcap, (n, S)."""
    return _bent(work, product(work))


def scored(work: Work) -> Tensor:
    """The logits of every key, hidden or not, (n, S)."""
    return _with_added(work, capped(work))


def _bent(work: Work, logits: Tensor) -> Tensor:
    return logits if work.softcap is None else torch.tanh(logits / work.softcap) * work.softcap


def _with_added(work: Work, logits: Tensor) -> Tensor:
    """With the bias, and ALiBi's slope."""
    if work.bias is not None:
        logits = logits + work.bias.masked_fill(torch.isinf(work.bias), 0.0)
    return logits if work.slope is None else logits - work.slope * work.distance.abs()


def flow_back(work: Work, delta: Tensor | None = None) -> Tensor:
    """The gradient of products before the scale, (n, S): ``p (dP - delta)``, times what a softcap makes of it.

    Args:
        work: rows whose weights there are.
        delta: (n, 1) the sum of ``p dP`` of each row, or (1, S) of each key; None is that of these weights' rows.
    """
    pull = work.pull
    delta = (work.weights * pull).sum(1, keepdim=True) if delta is None else delta
    flow = work.weights * (pull - delta)
    return work.rounded(flow if work.bend is None else flow * work.bend)


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
    if work.grad is not None:
        work.g = clean(work.grad[work.batch, work.head])[work.rows]
    bias = item.bias(work.head)
    work.bias = None if bias is None else bias.cpu()[work.rows].double()


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
    if work.what == "dq":
        made = work.by_key(work.flow * work.scale) @ work.k
        return made if work.undone is None else work.undone(made, work)
    return work.by_key(work.weights) @ work.v


def _allowed(work: Work, plain: Work, changes: Changes, rule: Rule) -> Tensor:
    """How far a right computation of these rows may be off, (n, C); ``plain``: the rows before they were computed."""
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
    plain.dtype = rule.dtype
    _made(plain, changes)
    assert work.v is not None
    shares, read = (work.drag * work.scale, work.k) if work.what == "dq" else (weights, work.v)
    allowed = _by_plain(work.out, plain.out, (shares.nan_to_num() ** 2 @ read**2).sqrt(), rule, keys)
    if work.what == "dq":  # of both passes
        flow = work.by_key(((work.flow * work.scale).nan_to_num() * error) ** 2)
        strays = 2 * (flow @ work.k**2).sqrt()
    else:
        strays = strays_of(work.by_key((weights * error) ** 2), work.v, work.out.nan_to_num())
    return torch.maximum(allowed, STRAY * strays)


def _by_plain(out: Tensor, plain: Tensor, size: Tensor, rule: Rounding, terms: int) -> Tensor:
    """How far sums may be off, (n, C), by what the plain computation of them is.

    Args:
        out, plain: (n, C) the exact sums, and the plain computation's.
        size: (n, C) the root of the sum of their terms' squares.
        rule: of their dtype.
        terms: how many there are to each.
    """
    scale = torch.maximum(out.abs().amax(1), size.amax(1)).nan_to_num()
    off = (plain - out).abs().amax(1).nan_to_num()
    relative = float((off / scale.clamp(min=torch.finfo(torch.float64).tiny)).max())
    # Twice what the plain computation is off, and 2 units in the last place, in rows that are few: as much again.
    return ((3 * relative + 8 * rule.unit + 2.0**-24 * math.sqrt(terms)) * scale)[:, None].expand_as(out)
