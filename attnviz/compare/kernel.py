"""A kernel's output against the exact formula: weights, scores over the global keys, contexts, denominators or gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.inputs import AttentionInputs, Inputs
from attnviz.attention.patterns import GlobalKeys, Pattern
from attnviz.base.devices import dtype_name
from attnviz.base.errors import InputError
from attnviz.base.types import Progress
from attnviz.compare.gradients import GRADIENTS, OF_KEYS, Flow, check_gradients
from attnviz.compare.handed import Outputs, check_shape, outputs_of
from attnviz.compare.heads import Difference, HeadDifference, compare, side_labels
from attnviz.compare.outputs import exact_attention, held, reference
from attnviz.compare.pairs import is_computed
from attnviz.compare.places import Places
from attnviz.compare.report import Finding, HeadCheck, Number, Report
from attnviz.compare.rounding import Rule, check_can_fail, explicit, rule_of
from attnviz.compare.sides import Exact, Given, Side
from attnviz.engine.request import Request


@dataclass(frozen=True)
class Asked:
    """How outputs are to be checked.

    Args:
        atol, rtol: as ``|actual - exact| <= atol + rtol * |exact|``, what isn't given being 0; None of both: what rounding costs.
        rows: how many queries of each head to look at; None is all.
        heads, batches: which; None is all.
        seed: of the rows that are drawn.
        explain: whether to search for what is wrong.
        progress: called with the number of rows done.
    """

    atol: float | None = None
    rtol: float | None = None
    rows: int | None = None
    heads: Sequence[int] | None = None
    batches: Sequence[int] | None = None
    seed: int = 0
    explain: bool = True
    progress: Progress | None = field(default=None, compare=False)


def assert_attention_close(
    actual: Tensor | None,
    q: Tensor | AttentionInputs,
    k: Tensor | None = None,
    mask: Tensor | None = None,
    v: Tensor | None = None,
    *,
    pattern: Pattern | str | None = None,
    window: int | None = None,
    values: str = "weights",
    lse: Tensor | None = None,
    grad: Tensor | None = None,
    dq: Tensor | None = None,
    dk: Tensor | None = None,
    dv: Tensor | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    rows: int | None = None,
    tokens: Sequence[str] | Sequence[Sequence[str]] | None = None,
    layout: str = "bhtd",
    **settings: Any,
) -> None:
    """Asserts that a kernel's output is what the exact formula gives, computed in float64 from the same inputs.

    Args:
        actual: without ``v`` weights, (B, H, T, S), or (B, H, T, G) over the global keys; with ``v`` the context,
            (B, H, T, D_v), in ``layout``. A batch of one may leave B out. The exact side is streamed: where ``actual``
            is a context nothing of the size T x S is made. Rows of padded queries are left out. None: ``lse`` or gradients
            alone.
        q, k, v: what the kernel was given, (B, H, T, D), (B, H_kv, S, D) and (B, H_kv, S, D_v); or AttentionInputs in the
            place of q, which hold them all.
        mask: bool, True where there is something to see: (T, S) or (B, T, S) which query sees which key; (S,) or
            (B, S) the global keys.
        pattern: which query sees which key, as a pattern or by name (``causal``, ``local`` with ``window``, ...); None is
            what the mask says, else every key.
        window: keys to each side, for local patterns by name.
        values: what ``actual`` holds without ``v``: ``weights``, or ``logits``, -inf where a key is hidden.
        lse: (B, H, T) the logarithm of each query's sum of exponentials, which FlexAttention and flash attention give: it
            checks every denominator.
        grad: (B, H, T, D_v) in ``layout``, the gradient of the context, which ``dq``, ``dk`` and ``dv`` are made of; each of
            them as q, k and v.
        atol, rtol: as ``|actual - exact| <= atol + rtol * |exact|``, what isn't given being 0; None of both: what rounding
            to the coarser dtype of ``actual`` and ``q`` costs (:mod:`attnviz.compare.rounding`).
        rows: how many queries of each head to look at, drawn at random; None is all. The message says how likely that is to
            miss a fault.
        tokens: labels of the S keys, for the message.
        layout: the order of dimensions of q, k, v, of a context and of gradients: ``bhtd``, ``bthd``, ``htd`` or ``thd``.
        settings: other fields of :class:`attnviz.AttentionInputs`: ``scale``, ``softcap``, ``key_padding_mask``, ...; for
            sequences end to end ``cu_seqlens_q`` and ``cu_seqlens_k``, (B + 1,) where each begins, q, k, v, context and gradients
            being (total, H, D), lse (H, total); for keys in pages ``block_table``, (B, n), and ``cache_seqlens``, (B,), k and v
            being (pages, page size, H_kv, D). Each sequence's queries are its last ones.

    Raises:
        AssertionError: a number is further off than it may be; names batch item, head, query and key, where the
            differences lie, and what the kernel computed instead.
        InputError: shapes that do not fit, a tolerance that zeros meet, or as AttentionInputs.

    >>> import torch, attnviz
    >>> q, k, v = torch.randn(3, 1, 2, 16, 8)
    >>> out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    >>> attnviz.assert_attention_close(out, q, k, v=v, pattern="causal")
    """
    __tracebackhide__ = True
    kept: dict[str, Any] = {
        "lse": lse,
        "grad": grad,
        "dq": dq,
        "dk": dk,
        "dv": dv,
        "atol": atol,
        "rtol": rtol,
        "rows": rows,
    }
    call = {"pattern": pattern, "window": window, "values": values, "tokens": tokens, "layout": layout, **settings}
    _, report = checked(actual, q, k, mask, v, **kept, **call)
    if not report.within:
        raise AssertionError(report.message())


def checked(
    *arguments: Tensor | AttentionInputs | None,
    atol: float | None = None,
    rtol: float | None = None,
    rows: int | None = None,
    **options: Any,
) -> tuple[Outputs, Report]:
    """What a kernel gave and what is found of it, by the arguments of :func:`assert_attention_close`."""
    beside = {name: options.pop(name, None) for name in ("lse", "grad", "dq", "dk", "dv")}
    outputs = outputs_of(*arguments, given=beside, **options)  # type: ignore[arg-type]
    return outputs, check_kernel(outputs, Asked(atol, rtol, rows))


def check_kernel(outputs: Outputs, asked: Asked | None = None) -> Report:
    """Holds what a kernel gave against the exact formula, streamed, and says what is wrong.

    Args:
        outputs: what it gave, and its inputs.
        asked: how to check; None is everything, by what rounding costs.

    Raises:
        InputError: shapes that do not fit, a tolerance that zeros meet, or nothing to check.
    """
    asked = asked or Asked()
    inputs, given = outputs.inputs, outputs.given()
    if not given:
        raise InputError(f"{inputs.source}: nothing to check; give weights, a context, lse or gradients")
    for name, tensor in given.items():
        check_shape(name, tensor, inputs)
    rules = {name: explicit(asked.atol, asked.rtol) or _rule(name, tensor, inputs) for name, tensor in given.items()}
    checker = _Checker(outputs, asked, rules)
    with torch.no_grad():
        heads = [head for name in given for head in checker.check(name)]
    _check_compared(outputs, heads, given)
    findings: list[Finding] = []
    if asked.explain and isinstance(inputs, AttentionInputs) and not all(head.within for head in heads):
        findings = _findings(outputs, heads, rules)
    dtypes = list(dict.fromkeys(dtype_name(tensor.dtype) for tensor in given.values()))
    own = dtype_name(inputs.dtype)
    said = ", ".join(dtypes) + ("" if dtypes == [own] else f" of {own} inputs")
    labels = {b: side_labels(Exact(Request(inputs, batch=b))) for b in range(inputs.B)} if inputs.tokens else None
    return Report(
        str(inputs.pattern or GlobalKeys()), said, rules, heads, tuple(findings), labels, inputs.B, checker.note
    )


def _check_compared(outputs: Outputs, heads: list[HeadCheck], names: Iterable[str]) -> None:
    """Raises InputError where nothing of an output was compared: that no query sees a key is no agreement."""
    for name in names:
        if not any(head.numbers or head.beyond for head in heads if head.what == name):
            inputs = outputs.inputs
            raise InputError(
                f"{inputs.source}: no query that is looked at sees a key ({inputs.pattern or GlobalKeys()}), so no {name} is "
                f"compared; is the mask inverted? True is visible"
            )


def _rule(name: str, tensor: Tensor, inputs: Inputs) -> Rule:
    # A denominator is kept in float32, whatever the inputs are, and is as exact as that.
    return rule_of(dtype_name(tensor.dtype), *(() if name == "lse" else (dtype_name(inputs.dtype),)))


def _findings(outputs: Outputs, heads: list[HeadCheck], rules: dict[str, Rule]) -> list[Finding]:
    from attnviz.compare.faults.search import search

    assert isinstance(outputs.inputs, AttentionInputs)
    found: list[Finding] = []
    wrong_of = {
        name: sorted((head for head in heads if head.what == name and not head.within), key=lambda head: -head.off)
        for name in outputs.given()
    }
    for name, tensor in outputs.given().items():
        wrong = wrong_of[name]
        if not wrong or (
            found and name in GRADIENTS
        ):  # what makes one output wrong makes the others that follow from it
            continue
        actual = tensor.unsqueeze(-1) if name == "lse" else tensor
        columns = None
        if name in ("weights", "logits") and tensor.shape[-1] != outputs.inputs.S:
            columns = _shared_columns(outputs.inputs)
            if columns is None:
                continue
        found += search(outputs.inputs, name, actual, rules[name], wrong, columns, outputs.grad)
    return list(dict.fromkeys(found))


def _shared_columns(inputs: AttentionInputs) -> tuple[int, ...] | None:
    """The global keys that the columns of a kernel's scores are of; None where items differ in them."""
    each = {tuple(Exact(Request(inputs, batch=b)).shared_keys or ()) for b in range(inputs.B)}
    return each.pop() if len(each) == 1 else None


def explained_sides(a: Side, b: Side, found: Difference) -> tuple[Finding, ...]:
    """What explains the heads of a kernel's map that are not those of the exact one, where that is what was compared."""
    kernel, exact = (a, b) if isinstance(a, Given) else (b, a)
    if not isinstance(kernel, Given) or not is_computed(exact) or not isinstance(exact.inputs, AttentionInputs):
        return ()
    item = exact.attention.item
    wrong = [of_difference(found.values, item.batch, head, exact.T) for head in found.heads if not head.within]
    if not wrong:
        return ()
    from attnviz.compare.faults.search import search

    inputs = replace(exact.inputs, pattern=exact.attention.pattern)
    columns = None if len(kernel.keys) == kernel.S else tuple(kernel.keys.tolist())
    actual = kernel.tensor.expand(item.batch + 1, *kernel.tensor.shape)
    wrong.sort(key=lambda head: -head.off)
    return search(inputs, found.values, actual, found.rule, wrong, columns)


def drawn_rows(T: int, count: int, seed: int = 0) -> Tensor:
    """Some of T queries, ascending."""
    return torch.randperm(T, generator=torch.Generator().manual_seed(seed))[:count].sort().values


class _Checker:
    """Holds each output against the exact one."""

    def __init__(self, outputs: Outputs, asked: Asked, rules: dict[str, Rule]) -> None:
        self.outputs, self.inputs, self.asked, self.rules = outputs, outputs.inputs, asked, rules
        self.heads = range(self.inputs.H) if asked.heads is None else asked.heads
        self.batches = range(self.inputs.B) if asked.batches is None else asked.batches
        self.rows, self.keys = self._drawn(self.inputs.T), self._drawn(self.inputs.S)

    def _drawn(self, length: int) -> Tensor | None:
        """The rows to look at, of queries or of keys; None is all."""
        count = self.asked.rows
        if count is not None and count < 1:
            raise InputError(f"rows is {count}; at least 1 query of each head is looked at")
        return None if count is None or count >= length else drawn_rows(length, count, self.asked.seed)

    @cached_property
    def flow(self) -> Flow:
        """What makes the exact gradients."""
        grad = self.outputs.grad
        if grad is None:
            names = ", ".join(name for name in self.outputs.given() if name in GRADIENTS)
            raise InputError(
                f"{self.inputs.source}: {names} is made of the gradient of the context; give it too (grad)"
            )
        assert isinstance(self.inputs, AttentionInputs)  # weights that are given have no gradients
        return Flow(self.inputs, grad)

    @property
    def note(self) -> str:
        """How much was looked at, and how likely that is to miss something."""
        given = set(self.outputs.given())
        drawn = {
            "queries": self.rows if given - set(OF_KEYS) else None,
            "keys": self.keys if given & set(OF_KEYS) else None,
        }
        said = [f"{len(rows):,} of {self._length(noun):,} {noun}" for noun, rows in drawn.items() if rows is not None]
        if not said:
            return ""
        n = min(len(rows) for rows in drawn.values() if rows is not None)
        missed = ", ".join(f"{share:g} with probability {(1 - share) ** n:.2g}" for share in (0.001, 0.01, 0.1))
        return f"{' and '.join(said)} of each head; missed is a fault in a share of them of {missed}"

    def _length(self, noun: str) -> int:
        return self.inputs.T if noun == "queries" else self.inputs.S

    def check(self, name: str) -> Iterator[HeadCheck]:
        """Each head of an output."""
        if name in GRADIENTS:
            rows = self.rows if name == "dq" else self.keys
            given, at = self.outputs.given()[name], {"heads": self.heads, "batches": self.batches}
            yield from check_gradients(name, given, self.flow, self.rules[name], rows, **at)
            return
        for batch in self.batches:
            if name in ("weights", "logits"):
                yield from self._maps(name, batch)
            else:
                yield from self._rows(name, batch)

    def _maps(self, name: str, batch: int) -> Iterator[HeadCheck]:
        kernel, exact = sides_of(self.outputs, name, batch)
        rule = self.rules[name]
        found = compare(
            kernel,
            exact,
            heads=self.heads,
            values=name,
            rule=rule,
            top_k=1,
            rows=self.rows,
            progress=self.asked.progress,
        )
        rows = self.inputs.T if self.rows is None else len(self.rows)
        for head in found.heads:
            yield of_difference(name, batch, head, rows)

    def _rows(self, name: str, batch: int) -> Iterator[HeadCheck]:
        inputs, rule, given = self.inputs, self.rules[name], self.outputs.given()[name]
        rows = torch.arange(inputs.T) if self.rows is None else self.rows
        for head in self.heads:
            actual = given[batch, head][rows.to(given.device)].cpu().double().reshape(len(rows), -1)
            right = reference(name, inputs, batch, head, rule, self.rows)
            places = Places(inputs.T, inputs.S, inputs.item(batch))
            found = held(name, actual, right.exact, right.allowed, (batch, head), rows, places, right.plain)
            if found.within:
                size = torch.where(torch.isfinite(right.exact), right.exact, 0.0).abs()
                check_can_fail(rule, float(size.max()) if size.numel() else 0.0, name)
            elif name == "context" and found.worst is not None:
                found = _seeing(found, exact_attention(inputs, batch).rows(head), inputs, batch)
            if self.asked.progress is not None:
                self.asked.progress(len(rows))
            yield found


def sides_of(outputs: Outputs, what: str, batch: int) -> tuple[Given, Exact]:
    """A kernel's weights or logits of one batch item, and the exact ones."""
    exact = Exact(_exact_request(outputs.inputs, batch))
    return Given(outputs.given()[what][batch], exact.shared_keys, outputs.inputs.S, "actual"), exact


def exact_rows(outputs: Outputs, head: HeadCheck, rule: Rule) -> Tensor:
    """The exact rows of a head of a context, of denominators or of a gradient, (T, C), of keys (S, C)."""
    inputs = outputs.inputs
    if head.what not in GRADIENTS:
        right = reference(head.what, inputs, head.batch, head.head, rule)
        return right.exact.reshape(len(right.exact), -1)
    assert isinstance(inputs, AttentionInputs)
    assert outputs.grad is not None
    group = inputs.H // inputs.H_kv
    heads = [head.head] if head.what == "dq" else range(head.head * group, (head.head + 1) * group)
    return Flow(inputs, outputs.grad).of(head.what, head.batch, heads, rule=rule).made


def _exact_request(inputs: Inputs, batch: int) -> Request:
    # MPS has no float64.
    device = "cpu" if inputs.device.type == "mps" else str(inputs.device)
    return Request(inputs, batch=batch, device=device, dtype=torch.float64)


def of_difference(what: str, batch: int, found: HeadDifference, rows: int) -> HeadCheck:
    """What comparing a head's map found, as a check says it."""

    def number(cell: Any) -> Number | None:
        return None if cell is None else Number(cell.query, cell.key, cell.a, cell.b, cell.allowed)

    spread = ""
    row = found.worst_row
    if found.rows_beyond and row is not None:
        spread = (
            f"{found.rows_beyond:,} of {rows:,} queries; the worst is query {row.query}, whose weights are "
            f"{row.total_variation:.3g} apart in total variation, allowed {row.allowed:.3g}"
        )
    return HeadCheck(
        what,
        batch,
        found.head,
        beyond=found.beyond,
        numbers=found.pairs,
        rows_beyond=found.rows_beyond,
        rows=rows,
        off=found.max_abs,
        plain=None,
        worst=number(found.worst),
        first=number(found.first),
        where=found.where if found.beyond > 1 else (),
        spread=spread,
        wrong=found.wrong,
    )


def _seeing(found: HeadCheck, rows: Any, inputs: Inputs, batch: int) -> HeadCheck:
    """With which keys the worst query sees, and which it looks at most: where a kernel of blocks may have gone wrong."""
    assert found.worst is not None
    row = rows.read(torch.tensor([found.worst.query]))
    visible, weights = row.keys[row.seen[0]], row.values[0]
    if not len(visible):
        return replace(found, sees="it sees no key")
    most = int(torch.where(row.seen[0], weights, -1).argmax())
    labels = inputs.item(batch).key_labels(range(inputs.S))
    key = int(row.keys[most])
    label = f"key {key}" + ("" if labels is None else f" {labels[key]!r}")
    noun = "key" if len(visible) == 1 else "keys"
    text = f"it sees {len(visible):,} {noun}, {int(visible.min())} to {int(visible.max())}, {label} most ({float(weights[most]):.3g})"
    return replace(found, sees=text)
