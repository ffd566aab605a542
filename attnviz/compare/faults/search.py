"""The search: which mistake, or which two, explain the numbers of a kernel within rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.inputs import AttentionInputs
from attnviz.attention.patterns import GlobalKeys
from attnviz.base.errors import InputError
from attnviz.compare.faults import backward, kinds  # noqa: F401 (kinds makes all known)
from attnviz.compare.faults.fault import FAULTS, Case
from attnviz.compare.faults.way import Made, compute
from attnviz.compare.faults.work import Variant
from attnviz.compare.gradients import GRADIENTS
from attnviz.compare.report import Finding, HeadCheck
from attnviz.compare.rounding import Rule, Tolerance

_FEW = 2
"""Rows that most hypotheses fail on."""

_WRONG, _RIGHT = 8, 4
"""Rows of a head that a hypothesis is tried on: those that are wrong, and those that are not, which it must leave so."""

_VERIFIED = 1 << 24
"""Cells of maps that what is left is held against."""

_SUMMED = 1 << 20
"""Cells of maps up to which every hypothesis is tried for rows of keys (dk, dv), each of which sums over all of them."""

_NEAREST = 8
"""Hypotheses that are tried with each other one: those that bring the numbers nearest."""

_READ = 1 << 13
"""Keys of all hypotheses beside which others are read from rows."""

_NOISE = 0.16
"""The share of the squares of what rounding allows that two hypotheses together may be off by, on average: what fits by chance is
anywhere within."""

_UNABLE = (InputError, IndexError, RuntimeError, ValueError)
"""What is raised where a hypothesis can't be asked of these inputs: their shapes don't fit it."""

_ANY = Tolerance(math.inf, 0.0)

_LEFT = 0.2
"""The share of the squared differences that a hypothesis may leave."""

_EQUAL = 1e-13
"""How near hypotheses are, of the size of the numbers, that only float64 tells apart."""

_NAMED = 4
"""Hypotheses with equal numbers that are named."""


def search(
    inputs: AttentionInputs,
    what: str,
    actual: Tensor,
    rule: Rule,
    heads: Sequence[HeadCheck],
    columns: tuple[int, ...] | None = None,
    grad: Tensor | None = None,
) -> tuple[Finding, ...]:
    """What explains the heads that are wrong.

    Args:
        inputs: what the kernel was given, with the pattern that it should have.
        what: ``weights``, ``logits``, ``context``, ``lse``, ``dq``, ``dk`` or ``dv``.
        actual: (B, H, T, C) what it gave; (B, H_kv, S, C) of keys.
        rule: how far right numbers may be off.
        heads: the heads that are wrong, the furthest off first.
        columns: the keys of given weights; None is all.
        grad: (B, H, T, D_v) the gradient of the context, of gradients.

    Returns:
        The findings, those with equal numbers one after another; none where nothing explains a head.
    """
    found: list[Finding] = []
    left = list(heads)
    for _ in range(3):  # heads may be wrong in ways of their own
        if not left:
            break
        one = left[0]
        case = Case(
            inputs,
            inputs.pattern or GlobalKeys(),
            one.batch,
            one.head,
            what,
            actual,
            rule,
            _spread(sorted(one.wrong), _WRONG),
            one.rows_beyond / max(one.rows, 1)
            if what not in ("weights", "logits")
            else len(one.wrong) / max(one.rows, 1),
            columns,
            grad,
        )
        names, explained = _explained(case, left)
        if not names:
            break
        found += names
        left = [head for head in left if (head.batch, head.head) not in explained]
    return tuple(found)


@dataclass(frozen=True)
class _Fit:
    """How well some variants explain some rows."""

    variants: tuple[Variant, ...]
    off: float
    """The largest ``|kernel - hypothesis|``."""
    square: float
    """The mean of its square."""
    allowed: float = 0.0
    """The mean of the square of what it may be."""


def _explained(case: Case, heads: Sequence[HeadCheck]) -> tuple[list[Finding], set[tuple[int, int]]]:
    """The findings for a head, and which of the wrong heads they explain."""
    wrong = torch.tensor(case.rows)
    if bool(torch.isnan(case.given(case.batch, case.head, wrong)).any(1).all()):  # which no mistake here gives
        return [], set()
    own = next(head for head in heads if (head.batch, head.head) == (case.batch, case.head))
    right = _right_rows(case, own)
    singles = list(_singles(case, 0))
    nearest = cache(lambda: _by_nearness(case, singles, wrong))
    tried: tuple[Callable[[], Iterable[tuple[Variant, ...]]], ...] = (
        lambda: [(one,) for one in singles],
        lambda: _backward_alone(case, singles),
        lambda: [(one,) for one in _singles(case, 1)],
        lambda: _pairs(nearest()),
        lambda: _with_fitted(case, nearest()),
        lambda: [(one,) for one in _singles(case, 2)],
    )
    for hypotheses in tried:
        candidates = _fitting(case, hypotheses(), wrong)
        whole = [fit for fit in candidates if _agrees(case, fit.variants, case.batch, case.head, right) is not None]
        for some, scope in ((whole, "all"), (candidates, "wrong")):
            most = max(1.2 * _least(some), _alike(case, wrong))
            best = [fit for fit in sorted(some, key=lambda fit: fit.square) if fit.square <= most]
            verified = [(fit, _verified(case, fit.variants, heads, scope)) for fit in best]
            kept = [(fit, held) for fit, held in verified if held is not None]
            if kept:  # what explains more heads is nearer to what is wrong with all of them
                most_heads = max(len(held[0]) for _, held in kept)
                kept = [(fit, held) for fit, held in kept if len(held[0]) == most_heads]
                held = kept[0][1]
                return [
                    _finding([fit.variants for fit, _ in islice(_of_each_kind(kept), _NAMED)], held[1], held[2], scope)
                ], held[0]
    return [], set()


def _alike(case: Case, rows: Tensor) -> float:
    """A square of differences that float64 alone makes: what is nearer than that is equal."""
    given = case.given(case.batch, case.head, rows)
    given = given[torch.isfinite(given)]
    return float((given**2).mean()) * _EQUAL**2 if given.numel() else 0.0


def _least(fits: Iterable[_Fit]) -> float:
    return min((fit.square for fit in fits), default=0.0) + 1e-300


def _singles(case: Case, late: int) -> Iterator[Variant]:
    long = _cells(case) > _SUMMED
    for fault in FAULTS:
        if fault.late == late and (fault.of_sums or not long):
            yield from fault.variants(case)
            if case.what in GRADIENTS:
                yield from (backward.of_context(case, one) for one in fault.moves(replace(case, what="context")))
        if late == 1:
            yield from _able(fault.fitted(case))


def _able(variants: Iterator[Variant]) -> Iterator[Variant]:
    """Variants, as far as they can be read out of these numbers: what a search trips over says nothing of the kernel."""
    with suppress(*_UNABLE):
        yield from variants


def _cells(case: Case) -> int:
    """The cells that a hypothesis computes beside the rows that it is tried on."""
    inputs = case.inputs
    return inputs.T * inputs.S * (inputs.H // inputs.H_kv) if case.of_keys else 0


def _backward_alone(case: Case, singles: Sequence[Variant]) -> Iterator[tuple[Variant, Variant]]:
    """What may be wrong with scores and masks, wrong in the backward pass alone."""
    if case.what not in GRADIENTS:
        return
    alone = backward.BackwardAlone().alone(case)
    for one in singles:
        if one.step in ("settings", "tensors", "product", "cap", "mask"):
            yield one, alone


def _fitting(case: Case, hypotheses: Iterable[tuple[Variant, ...]], wrong: Tensor) -> list[_Fit]:
    """The hypotheses that explain the rows that are wrong."""
    few = wrong[:: max(1, len(wrong) // _FEW)][:_FEW]
    found = []
    exact = _agrees(replace(case, rule=_ANY), (), case.batch, case.head, wrong)
    unexplained = math.inf if exact is None else exact.square
    for variants in hypotheses:
        if not case.of_keys and _agrees(case, variants, case.batch, case.head, few) is None:
            continue
        fit = _agrees(case, variants, case.batch, case.head, wrong)
        # What is within rounding of numbers that are hardly beyond it explains nothing yet.
        if fit is None or (fit.square > _LEFT * unexplained and not any(one.rule for one in variants)):
            continue
        if len(variants) == 1 or fit.square <= _NOISE * fit.allowed:
            found.append(fit)
    return found


def _by_nearness(case: Case, singles: Sequence[Variant], wrong: Tensor) -> list[Variant]:
    """What changes the numbers at all, and may go with something else: first what explains most rows, and is likest on the rest."""
    if _cells(case) > _SUMMED >> 8:
        return []
    given, exact = case.given(case.batch, case.head, wrong), _made(case, (), wrong)
    able: list[tuple[int, float, int, Variant]] = []
    for n, one in enumerate(singles):
        made = None if one.fault in ("rows not written", "constant factor") else _made(case, (one,), wrong)
        if made is None or exact is None or made.out.shape != given.shape:
            continue
        if torch.equal(made.out.nan_to_num(), exact.out.nan_to_num()):
            continue
        explained = int(((made.out - given).abs() <= made.allowed).all(1).sum())
        able.append((-explained, -_likeness(made.out, given), n, one))
    return [one for *_, one in sorted(able, key=lambda each: each[:3])]


def _likeness(a: Tensor, b: Tensor) -> float:
    """The cosine between numbers: what makes all of them small is near to none."""
    a, b = (numbers.nan_to_num(posinf=0.0, neginf=0.0).flatten() for numbers in (a, b))
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def _pairs(nearest: Sequence[Variant]) -> Iterator[tuple[Variant, Variant]]:
    """Combinations of two kinds, one of them of the nearest."""
    for place, first in enumerate(nearest[:_NEAREST]):
        for second in nearest[place + 1 :]:
            if first.fault != second.fault:
                yield first, second


def _with_fitted(case: Case, nearest: Sequence[Variant]) -> Iterator[tuple[Variant, Variant]]:
    """One of the nearest, and what is read from the rows that it leaves."""
    if case.of_keys:
        return
    for first in nearest[: max(2, min(_NEAREST, _READ // case.inputs.S))]:
        if first.step in ("settings", "tensors", "product", "cap", "mask"):
            left = replace(case, beside=(first,))
            for fault in FAULTS:
                yield from ((first, second) for second in _able(fault.fitted(left)) if second.fault != first.fault)


def _made(case: Case, variants: tuple[Variant, ...], rows: Tensor, at: tuple[int, int] | None = None) -> Made | None:
    """Rows that variants make, of the case's head or of another batch item's and head; None where they can't."""
    batch, head = (case.batch, case.head) if at is None else at
    try:
        return compute(case.work(batch, head, rows), variants, case.rule)
    except _UNABLE:
        return None


def _agrees(case: Case, variants: tuple[Variant, ...], batch: int, head: int, rows: Tensor) -> _Fit | None:
    """How well variants explain rows; None where they don't."""
    if not len(rows):
        return _Fit(variants, 0.0, 0.0)
    made, given = _made(case, variants, rows, (batch, head)), case.given(batch, head, rows)
    if made is None or made.out.shape != given.shape:
        return None
    blank = torch.isnan(made.out).all(1)
    if bool(blank.all()):
        return None
    if bool(blank.any()):  # of a query that sees nothing, what a kernel has is compared with nothing
        exact = _made(case, (), rows[blank], (batch, head))
        seeing = torch.ones(int(blank.sum()), dtype=torch.bool) if exact is None else ~torch.isnan(exact.out).all(1)
        if not bool(((given[blank][seeing] == 0) | torch.isnan(given[blank][seeing])).all()):
            return None
    off = torch.where(given == made.out, 0.0, (given - made.out).abs())[~blank]
    if not bool(((off <= made.allowed[~blank]) & torch.isfinite(off)).all()):
        return None
    if not off.numel():
        return _Fit(variants, 0.0, 0.0)
    return _Fit(variants, float(off.max()), float((off**2).mean()), float((made.allowed[~blank] ** 2).mean()))


def _verified(
    case: Case, variants: tuple[Variant, ...], heads: Sequence[HeadCheck], scope: str
) -> tuple[set[tuple[int, int]], int, float] | None:
    """Which wrong heads variants explain, over how many rows, and how well; None where not even the first."""
    explained: set[tuple[int, int]] = set()
    count, most = 0, 0.0
    budget = max(_WRONG, _VERIFIED // case.inputs.S // len(heads))
    for head in sorted(heads, key=lambda head: (head.batch, head.head) != (case.batch, case.head)):
        rows = torch.tensor(sorted(head.wrong)) if scope == "wrong" else _seeing(case, head)
        rows = rows if case.of_keys else rows[:: max(1, -(-len(rows) // budget))]
        size = len(rows) if case.of_keys else (1 << 20) // case.inputs.S
        fits = [_agrees(case, variants, head.batch, head.head, part) for part in rows.split(max(1, size))]
        if any(fit is None for fit in fits):
            if (head.batch, head.head) == (case.batch, case.head):
                return None
            continue
        explained.add((head.batch, head.head))
        count += len(rows)
        most = max([most, *(fit.off for fit in fits if fit is not None)])
    return explained, count, most


def _seeing(case: Case, head: HeadCheck) -> Tensor:
    """The rows of a head that exist."""
    item = case.inputs.item(head.batch)
    padding = item.key_padding if case.of_keys else item.query_padding
    return torch.arange(case.length) if padding is None else padding.cpu().nonzero().flatten()


def _right_rows(case: Case, head: HeadCheck) -> Tensor:
    """Some rows of a head that are not wrong, and see a key."""
    if len(head.wrong) >= 4096:  # there may be more that are
        return torch.empty(0, dtype=torch.int64)
    rows = _seeing(case, head)
    rows = rows[~torch.isin(rows, torch.tensor(head.wrong))]
    some = torch.tensor(_spread(rows.tolist(), _RIGHT), dtype=torch.int64)
    exact = _made(case, (), some) if len(some) else None
    return some if exact is None else some[~torch.isnan(exact.out).all(1)]


def _spread(numbers: Sequence[int], count: int) -> tuple[int, ...]:
    """A few of some numbers, from the first to the last."""
    if len(numbers) <= count:
        return tuple(numbers)
    return tuple(numbers[i * (len(numbers) - 1) // (count - 1)] for i in range(count))


def _of_each_kind(kept: Sequence[tuple[_Fit, Any]]) -> Iterator[tuple[_Fit, Any]]:
    """The first of each kind of fault, of those that give the same numbers."""
    seen: set[tuple[object, ...]] = set()
    for fit, held in kept:
        kind = (*(one.fault for one in fit.variants), fit.square)
        if kind not in seen:
            seen.add(kind)
            yield fit, held


def _said(variants: tuple[Variant, ...]) -> str:
    first, *rest = (one.name for one in variants)
    return first + "".join(f", {name}" if name.startswith("in the ") else f", and {name}" for name in rest)


def _finding(equal: Sequence[tuple[Variant, ...]], rows: int, off: float, scope: str) -> Finding:
    variants = equal[0]
    settings = tuple(one.setting for one in variants if one.setting)
    asked = " ".join(settings) if len(settings) == len(variants) else "that"
    which = f"{rows:,} rows" if scope == "all" else f"{rows:,} rows that differ"
    return Finding(
        tuple(_said(each) for each in equal),
        tuple(dict.fromkeys(one.fault for each in equal for one in each)),
        f"with {asked} all {which} agree within {off:.1g}",
        settings,
    )
