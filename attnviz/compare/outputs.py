"""What a kernel hands over row by row: contexts and the logarithms of its denominators, exact, plain, and held against each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from attnviz.attention.inputs import Inputs
from attnviz.base.devices import DTYPES
from attnviz.compare.places import Places
from attnviz.compare.report import HeadCheck, Number
from attnviz.compare.rounding import Rounding, Rule, Sizes
from attnviz.engine.attention import Attention
from attnviz.engine.products import multiply
from attnviz.engine.request import Request
from attnviz.engine.softmax import softmax_
from attnviz.engine.visibility import HIDDEN

_CELLS = 1 << 20
"""Cells of a block of rows that are read by themselves."""


@dataclass(frozen=True)
class ValueRows:
    """Logits, or weights that were given, of some queries over the keys that any of them may see."""

    rows: Tensor  # (b,) query indices
    keys: Tensor  # (n,)
    values: Tensor  # (b, n), a logit of -inf or a weight of 0 where a key is hidden
    for_global: bool  # whether they are rows of global queries, with projections of their own


def exact_attention(inputs: Inputs, batch: int) -> Attention:
    """The attention of one batch item in float64."""
    # MPS has no float64.
    device = "cpu" if inputs.device.type == "mps" else str(inputs.device)
    return Request(inputs, batch=batch, device=device, dtype=torch.float64).attention


def plain_attention(inputs: Inputs, batch: int) -> Attention:
    """The attention of one batch item whose products are accumulated in float32."""
    wide = inputs.dtype == torch.float64
    return Request(inputs, batch=batch, device=inputs.device, dtype=torch.float32 if wide else None).attention


def value_rows(attention: Attention, head: int, rows: Tensor | None, *, weights: bool = False) -> Iterator[ValueRows]:
    """Logits of one head, or weights, block by block; ``rows``: of some queries alone."""
    item = attention.item
    if rows is None:
        for block in attention.blocks(head, weights=weights):
            yield ValueRows(block.rows, block.keys, block.values, block.for_global)
        return
    own = attention.rows(head)
    apart = torch.isin(rows, own.apart.cpu())
    for some, for_global in ((rows[~apart], False), (rows[apart], True)):
        for part in some.split(max(1, _CELLS // item.S)) if len(some) else ():
            found = own.read(part, weights=weights)
            values = found.values.to(item.device, item.compute_dtype)
            yield ValueRows(part.to(item.device), found.keys.to(item.device), values, for_global)


def contexts(attention: Attention, head: int, rows: Tensor | None = None, dtype: str | None = None) -> Tensor:
    """The context of one head, each result rounded to ``dtype`` where one is given.

    Args:
        attention: whose.
        head: the query head.
        rows: query indices, ascending; None is all.
        dtype: what logits, weights and the context are rounded to.

    Returns:
        (n rows, D_v) in float64, on the CPU; NaN where a query sees nothing.
    """
    return _contexts(attention, head, rows, dtype, None)[0]


def _contexts(
    attention: Attention, head: int, rows: Tensor | None, dtype: str | None, rule: Rounding | None
) -> tuple[Tensor, Tensor]:
    """Contexts, (n, D_v), and with a rule how far the errors of logits may take each element, (n, D_v)."""
    item = attention.item
    values = {False: item.value(head).to(item.compute_dtype)}
    if attention.pattern.global_queries:
        values[True] = item.value(head, for_global=True).to(item.compute_dtype)
    at = torch.arange(item.T) if rows is None else rows
    out = torch.full((len(at), values[False].shape[1]), torch.nan, dtype=torch.float64)
    strays = torch.zeros_like(out)
    sizes = None if rule is None or not attention.softmaxed else Sizes.of(item, head)  # given weights have no logits
    for block in value_rows(attention, head, rows, weights=not attention.softmaxed):
        if not len(block.keys):
            continue
        place, v = torch.searchsorted(at, block.rows.cpu()), values[block.for_global][block.keys]
        error = None
        if rule is not None and sizes is not None:
            error = rule.of_logits(block.values, sizes.at(block.rows.cpu()).to(block.values.device))
        weights = rounded(block.values, dtype)
        if attention.softmaxed:
            weights = rounded(softmax_(weights, item.sink(head)), dtype)
        made = rounded(multiply(weights, v), dtype)
        out[place] = made.double().cpu()
        if error is not None:
            strays[place] = _strays(weights.nan_to_num(), error, v, made.nan_to_num()).cpu()
    return out, strays


def _strays(weights: Tensor, error: Tensor, v: Tensor, context: Tensor) -> Tensor:
    """The root of the sum of the squares of what the errors of a row's logits do to its context, (n, D_v): ``w e (v - context)``."""
    squares = (weights * error).square_()
    spread = squares @ v**2 - 2 * context * (squares @ v) + context**2 * squares.sum(1, keepdim=True)
    return spread.clamp(min=0).sqrt()


def denominators(attention: Attention, head: int, rule: Rule, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The logarithm of each query's sum of exponentials, and how far it may be off.

    Args:
        attention: whose, in float64.
        head: the query head.
        rule: what it may be off.
        rows: query indices, ascending; None is all.

    Returns:
        Two of (n rows,) in float64, on the CPU; -inf where a query sees nothing.
    """
    item = attention.item
    at = torch.arange(item.T) if rows is None else rows
    found, allowed = torch.full((len(at),), HIDDEN, dtype=torch.float64), torch.zeros(len(at), dtype=torch.float64)
    sizes, sink = Sizes.of(item, head), item.sink(head)
    for block in value_rows(attention, head, rows):
        place, logits = torch.searchsorted(at, block.rows.cpu()), block.values.double().cpu()
        if not logits.shape[1]:
            continue
        blank = logits.amax(1) == HIDDEN
        total = torch.logsumexp(logits, 1)
        if sink is not None:
            total = torch.logaddexp(total, torch.full_like(total, sink)).masked_fill(blank, HIDDEN)
        found[place] = total
        if isinstance(rule, Rounding):
            weights = torch.exp(logits - total[:, None]).nan_to_num()
            error = (weights * rule.of_logits(logits, sizes.at(block.rows.cpu()))).sum(1)
            allowed[place] = error + rule.of_sums(total, logits.shape[1])
        else:
            allowed[place] = rule.atol + rule.rtol * total.abs()
    return found, allowed


@dataclass(frozen=True)
class Reference:
    """What rows of an output are by the formula, and how far they may be off."""

    exact: Tensor  # (n, C), a row of NaN or -inf where a query sees nothing
    allowed: Tensor  # (n,) or (n, C)
    plain: Tensor | None = None  # (n, C) the plain computation's, of a context


def reference(what: str, inputs: Inputs, batch: int, head: int, rule: Rule, rows: Tensor | None = None) -> Reference:
    """What a head's context or log-sum-exp should be.

    Args:
        what: ``context`` or ``lse``.
        inputs: what the kernel was given.
        batch, head: which.
        rule: how far it may be off.
        rows: query indices, ascending; None is all.
    """
    attention = exact_attention(inputs, batch)
    if what == "lse":
        exact, allowed = denominators(attention, head, rule, rows)
        return Reference(exact[:, None], allowed)
    exact, strays = _contexts(attention, head, rows, None, rule if isinstance(rule, Rounding) else None)
    if not isinstance(rule, Rounding):
        return Reference(exact, rule.of_rows(exact))
    plain = contexts(plain_attention(inputs, batch), head, rows, rule.dtype)
    columns = sizes_of_columns(attention.item.value(head), attention.item.key_padding)
    if attention.pattern.global_queries:
        of_global = attention.item.value(head, for_global=True)
        columns = torch.maximum(columns, sizes_of_columns(of_global, attention.item.key_padding))
    return Reference(exact, rule.of_contexts(exact, plain, inputs.S, columns, strays=strays), plain)


def sizes_of_columns(tensor: Tensor, exists: Tensor | None) -> Tensor:
    """The root mean square of each column of a head's tensor, (C,), on the CPU."""
    there = tensor if exists is None or not bool(exists.any()) else tensor[exists]
    return there.double().square().mean(0).sqrt().cpu()


def rounded(numbers: Tensor, dtype: str | None) -> Tensor:
    """Numbers as a dtype has them, in the dtype they came in."""
    return numbers if dtype is None else numbers.to(DTYPES[dtype]).to(numbers.dtype)


def held(
    what: str,
    actual: Tensor,
    exact: Tensor,
    allowed: Tensor,
    place: tuple[int, int],
    rows: Tensor,
    places: Places,
    plain: Tensor | None = None,
) -> HeadCheck:
    """Holds rows of numbers against the exact ones.

    Args:
        what: the output.
        actual, exact: (n, C); a row of NaN in ``exact`` is compared with nothing.
        allowed: (n,) or (n, C) how far they may be apart.
        place: batch item and head.
        rows: (n,) which rows they are, ascending.
        places: what says where differences lie.
        plain: (n, C) the plain computation's.
    """
    blank = ~torch.isfinite(exact).all(1, keepdim=True)
    apart = (actual - exact).abs()
    allowed = allowed.reshape(len(allowed), -1).expand_as(exact)
    beyond = ~(apart <= allowed) & ~blank
    off = torch.where(blank, 0.0, apart.nan_to_num(nan=torch.inf, posinf=torch.inf))
    far = torch.where(beyond, off, -1.0)
    wrong = beyond.any(1)
    places.add_rows(rows[wrong])

    def number(row: int, column: int) -> Number:
        numbers = (float(tensor[row, column]) for tensor in (actual, exact, allowed))
        return Number(int(rows[row]), column, *numbers)

    worst = first = of_plain = None
    if bool(wrong.any()):
        at = divmod(int(far.argmax()), far.shape[1])
        worst, first = number(*at), number(*divmod(int(beyond.int().argmax()), far.shape[1]))
        if plain is not None:
            octave = torch.log2(exact.nan_to_num().abs().amax(1).clamp(min=torch.finfo(torch.float64).tiny)).floor()
            alike = (octave == octave[at[0]]) & ~blank[:, 0]
            of_plain = float((plain - exact).abs()[alike].max())
    order = torch.argsort(far.amax(1), descending=True, stable=True)[: int(wrong.sum())]
    return HeadCheck(
        what,
        *place,
        beyond=int(beyond.sum()),
        numbers=int((~blank).sum()) * exact.shape[1],
        rows_beyond=int(wrong.sum()),
        rows=int((~blank).sum()),
        off=float(off.max()) if off.numel() else 0.0,
        plain=of_plain,
        worst=worst,
        first=first,
        where=places.described() if int(wrong.sum()) > 1 else (),
        wrong=tuple(rows[order].tolist()[:4096]),
    )
