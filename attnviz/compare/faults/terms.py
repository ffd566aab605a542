"""What each key adds to some rows that are wrong: what a mistake's numbers are, of all that they may be, is read from it.

A context is a quotient of two sums over keys. So is a query's gradient, of four: with ``e`` a key's exponential, ``s = g v'`` and
``A, B`` the sums of ``e`` and ``e s``, it is the sum of ``e s k / A - (B / A) e k / A``, times the scale.

How wide a window was, which keys a tile left out: many sets of keys are held against the rows at once, and the nearest becomes a
hypothesis like any other, which has all other rows to explain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attnviz.base.errors import InputError
from attnviz.compare.faults.fault import HALF, Case
from attnviz.compare.faults.way import compute, visible
from attnviz.compare.faults.work import Variant, Work
from attnviz.compare.rounding import FIXED

_CHANNELS = 4
"""Sums of channels that rows are compared by: a wrong set of keys hits none of them by chance."""


@dataclass(frozen=True)
class Terms:
    """Some wrong rows of one head, taken apart by key."""

    product: Work
    """The rows as they are when queries and keys are multiplied, ..."""
    before: Work
    """... and just before keys are hidden, which of them are being in ``count``."""
    values: Tensor  # (S, C) what weights are summed up with; keys, of a query's gradient
    given: Tensor  # (n, C) what the kernel's rows are, summed up so; (n, 1) denominators

    @property
    def rows(self) -> Tensor:
        """Their queries, (n,)."""
        return self.before.rows

    @property
    def read(self) -> Tensor:
        """The logits before a bias or slope is added, (n, S)."""
        cap = self.before.softcap
        return self.product.logits if cap is None else torch.tanh(self.product.logits / cap) * cap

    @property
    def added(self) -> Tensor:
        """What a bias or slope adds to them, (n, S)."""
        return self.before.logits - self.read

    @property
    def by_key(self) -> bool:
        """Whether what is summed up is a key's own; weights stay in the key's place."""
        return self.before.what == "context"

    @property
    def seen(self) -> Tensor:
        """How often each key counts, (n, S)."""
        return self.before.count

    @property
    def peak(self) -> Tensor:
        """What exponentials are taken without, (n, 1)."""
        return self.before.logits.amax(1, keepdim=True)

    @property
    def of_gradient(self) -> bool:
        """Whether the rows are a query's gradient."""
        return self.before.what == "dq"

    def each(self, logits: Tensor | None = None, values: Tensor | None = None) -> Tensor:
        """What a key adds to a row, were it seen, (n, S, W): to its sums, and to its denominator, which is the last."""
        terms = torch.exp((self.before.logits if logits is None else logits) - self.peak)[..., None]
        values = self.values if values is None else values
        if not self.of_gradient:
            return torch.cat([terms * values, terms], -1)
        pull, bend = self.before.pull[..., None], self.before.bend
        values = values * self.before.scale * (1.0 if bend is None else bend[..., None])
        return torch.cat([terms * pull * values, terms * values, terms * pull, terms], -1)

    def apart(self, sums: Tensor) -> Tensor:
        """How far rows of such sums, (n, ..., W), are from the kernel's, (n, ..., C)."""
        total, ones = sums[..., -1:], (1,) * (sums.ndim - 2)
        if isinstance(self._sink, Tensor):
            total = total + self._sink.reshape(-1, *ones, 1)
        if self.before.what == "lse":
            made = total.log() + self.peak.reshape(-1, *ones, 1)
        elif self.of_gradient:
            pulled, plain = sums[..., :-2].chunk(2, -1)
            made = pulled / total - sums[..., -2:-1] / total * plain / total
        else:
            made = sums[..., :-1] / total
        return made - self.given.reshape(len(self.given), *ones, -1)

    @property
    def _sink(self) -> Tensor | float:
        """What the sink adds to denominators, (n, 1)."""
        sink = self.before.sink
        return 0.0 if sink is None else torch.exp(sink - self.peak)

    def left(self, sums: Tensor) -> Tensor:
        """What is linear in sums of keys, (n, ..., W), and together :attr:`wanted` where they are the kernel's, (n, ..., C)."""
        if self.before.what == "lse":
            return sums
        return sums[..., :-1] - self.given.reshape(len(self.given), *(1,) * (sums.ndim - 2), -1) * sums[..., -1:]

    @property
    def wanted(self) -> Tensor:
        """What :meth:`left` of all sums is in the kernel's rows, (n, C)."""
        if self.before.what == "lse":
            return torch.exp(self.given - self.peak) - self._sink
        return self.given * self._sink

    def off(self, sums: Tensor) -> Tensor:
        """The square of that, of all rows, (...); inf where one sees no key."""
        return (self.apart(sums) ** 2).sum(-1).sum(0).nan_to_num(nan=torch.inf)

    def all(self, seen: Tensor | None = None, each: Tensor | None = None) -> Tensor:
        """The sums over the keys that are seen, (n, W)."""
        return torch.einsum("ns,nsc->nc", self.seen if seen is None else seen, self.each() if each is None else each)

    def nearest(self, off: Tensor) -> int | None:
        """The first of many squares that is least; None where it explains too little to be tried."""
        if not off.numel():
            return None
        unexplained, least = float(self.off(self.all())), float(off.min())
        if not least < HALF * unexplained:
            return None
        return int((off <= least * (1 + 1e-6) + 1e-24).nonzero()[0])

    def shown(self, change: Callable[[Work], None]) -> Tensor:
        """Which keys are seen, (n, S) as numbers, where settings are others."""
        work = replace(self.before)
        change(work)
        return visible(work).double()


def terms_of(case: Case, rows: Tensor | None = None) -> Terms | None:
    """The wrong rows of a case, or some, taken apart; None where there is no such thing: of logits, and of the gradients of keys."""
    if case.what not in ("weights", "context", "lse", "dq"):
        return None
    if rows is not None:
        return _taken_apart(case, rows)
    key = "terms", case.batch, case.head, case.beside
    if key not in case.known:
        case.known[key] = _taken_apart(case, torch.tensor(case.rows))
    found: Terms | None = case.known[key]
    return found


def _taken_apart(case: Case, rows: Tensor) -> Terms | None:
    parts: list[Work] = []
    steps = [Variant("", "", step, lambda work: parts.append(replace(work))) for step in ("product", "mask")]
    try:
        compute(case.work(case.batch, case.head, rows), (*case.beside, *steps), FIXED)
    except (InputError, IndexError):
        return None
    # Rows of global queries have projections of their own: the more of both.
    product, before = max((parts[n : n + 2] for n in range(0, len(parts), 2)), key=lambda pair: len(pair[0].rows))
    given = case.given(case.batch, case.head, before.rows)
    kept = torch.isfinite(given).all(1) & (given != 0).any(1)  # what is 0 throughout nobody wrote
    if not bool(kept.all()):
        return None if not bool(kept.any()) else _taken_apart(case, before.rows[kept])
    if case.what == "lse":
        return Terms(product, before, torch.empty(before.item.S, 0, dtype=torch.float64), given)
    draw = torch.Generator().manual_seed(0)
    mixed = torch.randn(given.shape[1], _CHANNELS, generator=draw, dtype=torch.float64)
    if case.what == "dq":  # whose channels are those of keys, more or fewer than those of values
        return Terms(product, before, before.k @ mixed, given @ mixed)
    values = mixed if case.what == "weights" or before.v is None else before.v @ mixed
    return Terms(product, before, values, given @ mixed)


@dataclass(frozen=True)
class Runs:
    """Sums over runs of keys, in an order that each row may have its own: by distance, or by index."""

    terms: Terms
    order: Tensor  # (n, S) what keys are ordered by, ascending
    sums: Tensor  # (n, S + 1, W) over so many of the first
    whole: Tensor  # (n, W) what is in the sums whatever the run is

    @classmethod
    def of(cls, terms: Terms, order: Tensor, some: Tensor, always: Tensor | None = None) -> Runs:
        """Runs of ``some`` keys, (n, S), beside those that are ``always`` seen, (n, S)."""
        order, index = order.double().sort(dim=1, stable=True)
        each = terms.each()
        parts = (some[..., None] * each).gather(1, index[..., None].expand_as(each)).cumsum(1)
        start = torch.zeros_like(parts[:, :1])
        whole = torch.zeros_like(parts[:, 0]) if always is None else terms.all(always, each)
        return cls(terms, order.contiguous(), torch.cat([start, parts], 1), whole)

    def between(self, low: Tensor, high: Tensor) -> Tensor:
        """The sums over keys from ``low`` to ``high``, both (m,) or (n, m) and among them, (n, m, W)."""
        n = len(self.order)
        first = torch.searchsorted(self.order, low.double().expand(n, -1).contiguous())
        last = torch.searchsorted(self.order, high.double().expand(n, -1).contiguous(), right=True)
        last = torch.maximum(first, last)
        width = self.sums.shape[-1]
        ends = (self.sums.gather(1, at[..., None].expand(-1, -1, width)) for at in (last, first))
        return next(ends) - next(ends)

    def nearest(self, low: Sequence[float], high: Sequence[float]) -> tuple[float, float] | None:
        """Of several runs the one that is nearest to the kernel's rows, the first of equals."""
        found = self.place(*torch.tensor([low, high], dtype=torch.float64))
        return None if found is None else (low[found], high[found])

    def place(self, low: Tensor, high: Tensor) -> int | None:
        """Its place among them, where each row has ends of its own too, (n, m)."""
        return self.terms.nearest(self.terms.off(self.whole[:, None] + self.between(low, high)))
