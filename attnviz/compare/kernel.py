"""A kernel's output against the exact formula: weights, scores over the global keys, or the context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.inputs import AttentionInputs
from attnviz.attention.patterns import Causal, Full, Masked, Pattern
from attnviz.base.devices import dtype_name
from attnviz.base.errors import InputError
from attnviz.compare.heads import TOLERANCES, HeadDifference, Tolerance, compare, side_labels
from attnviz.compare.sides import Exact, Given
from attnviz.engine.request import Request
from attnviz.measures.context import context
from attnviz.sources.arguments import inputs_of

_MOST_HEADS = 6  # named in a message
_MOST_GUESSED = 1 << 22  # pairs of a head for which it is worth guessing what a kernel computed instead


def assert_attention_close(
    actual: Tensor,
    q: Tensor,
    k: Tensor,
    mask: Tensor | None = None,
    v: Tensor | None = None,
    *,
    pattern: Pattern | str | None = None,
    window: int | None = None,
    values: str = "weights",
    atol: float | None = None,
    rtol: float | None = None,
    tokens: Sequence[str] | Sequence[Sequence[str]] | None = None,
    layout: str = "bhtd",
    **settings: Any,
) -> None:
    """Asserts that a kernel's output is what the exact formula gives, computed in float64 from the same inputs.

    Args:
        actual: without ``v`` weights, (B, H, T, S), or (B, H, T, G) over the global keys; with ``v`` the context,
            (B, H, T, D_v), in ``layout``. A batch of one may leave B out. The exact side is streamed: where ``actual``
            is a context nothing of the size T x S is made. Rows of padded queries are left out.
        q, k, v: what the kernel was given, (B, H, T, D), (B, H_kv, S, D) and (B, H_kv, S, D_v).
        mask: bool, True where there is something to see: (T, S) or (B, T, S) which query sees which key; (S,) or
            (B, S) the global keys.
        pattern: which query sees which key, as a pattern or by name (``causal``, ``local`` with ``window``, ...); None is
            what the mask says, else every key.
        window: keys to each side, for local patterns by name.
        values: what ``actual`` holds without ``v``: ``weights``, or ``logits``, -inf where a key is hidden.
        atol, rtol: as ``|actual - exact| <= atol + rtol * |exact|``; None is what the coarser dtype of ``actual`` and
            ``q`` allows (:data:`attnviz.compare.heads.TOLERANCES`).
        tokens: labels of the S keys, for the message.
        layout: the order of dimensions of q, k, v and of a context: ``bhtd``, ``bthd``, ``htd`` or ``thd``.
        settings: other fields of :class:`attnviz.AttentionInputs`: ``scale``, ``softcap``, ``key_padding_mask``, ...

    Raises:
        AssertionError: a pair, or an element of a context, is beyond the tolerance; names batch item, head, query and
            key, and what the kernel may have computed instead.
        InputError: shapes that do not fit, or as AttentionInputs.

    >>> import torch, attnviz
    >>> q, k, v = torch.randn(3, 1, 2, 16, 8)
    >>> out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    >>> attnviz.assert_attention_close(out, q, k, v=v, pattern="causal")
    """
    __tracebackhide__ = True
    inputs = inputs_of(q, k, mask, v, pattern=pattern, window=window, tokens=tokens, layout=layout, **settings)
    allowed = _tolerance(actual, inputs, atol, rtol, 10 if v is None and values == "logits" else 1)
    check = _weights_apart if v is None else _context_apart
    given = _checked(actual, inputs, layout, values)
    lines: list[str] = []
    for batch in range(inputs.B):
        lines += check(given[batch], inputs, batch, allowed, values)
    if lines:
        dtypes = dtype_name(actual.dtype) + ("" if actual.dtype == q.dtype else f" of {dtype_name(q.dtype)} inputs")
        what = (
            f"the context ({inputs.pattern}) is not that"
            if v is not None
            else f"the {values} ({inputs.pattern}) are not those"
        )
        hint = _guess(given, inputs, allowed, values)
        raise AssertionError("\n".join([f"{what} of the exact formula: beyond {allowed}, for {dtypes}", *lines, *hint]))


def _tolerance(
    actual: Tensor, inputs: AttentionInputs, atol: float | None, rtol: float | None, factor: float
) -> Tolerance:
    names = (dtype_name(actual.dtype), dtype_name(inputs.q.dtype))
    if names[0] not in TOLERANCES:
        raise InputError(f"actual has dtype {names[0]}, wanted one of {', '.join(TOLERANCES)}")
    coarser = max((TOLERANCES[name] for name in names), key=lambda one: one.atol)
    return Tolerance(factor * coarser.atol if atol is None else atol, coarser.rtol if rtol is None else rtol)


def _checked(actual: Tensor, inputs: AttentionInputs, layout: str, values: str) -> Tensor:
    """``actual`` as (B, H, T, ...)."""
    if values not in ("weights", "logits"):
        raise InputError(f"values {values!r} is not one of weights, logits")
    shape = tuple(actual.shape)
    if inputs.v is None:
        wanted: tuple[int, ...] = (inputs.B, inputs.H, inputs.T)
        letters = "(B, H, T, S)"
    else:
        wanted, letters = (inputs.B, inputs.H, inputs.T, inputs.v.shape[-1]), "(B, H, T, D_v)"
        if layout in ("bthd", "thd"):
            actual = actual.transpose(-3, -2) if actual.ndim >= 3 else actual
    if actual.ndim == 3 and inputs.B == 1:
        actual = actual.unsqueeze(0)
    if actual.ndim != 4 or tuple(actual.shape[: len(wanted)]) != wanted:
        full = (*wanted, inputs.S) if inputs.v is None else wanted
        hint = "; for a context give v" if inputs.v is None and actual.ndim == 4 else ""
        raise InputError(f"actual has shape {shape}, wanted {letters} = {full} in layout {layout}{hint}")
    return actual.detach()


def _exact(inputs: AttentionInputs, batch: int) -> Exact:
    return Exact(Request(inputs, batch=batch, device=_exact_device(inputs), dtype=torch.float64))


def _exact_device(inputs: AttentionInputs) -> str:
    # MPS has no float64.
    return "cpu" if inputs.q.device.type == "mps" else str(inputs.q.device)


def _weights_apart(actual: Tensor, inputs: AttentionInputs, batch: int, allowed: Tolerance, values: str) -> list[str]:
    exact = _exact(inputs, batch)
    kernel = Given(actual, exact.shared_keys, inputs.S, "actual")
    found = compare(kernel, exact, values=values, atol=allowed.atol, rtol=allowed.rtol, top_k=1)
    wrong = sorted((head for head in found.heads if head.beyond), key=lambda head: -head.max_abs)
    labels = side_labels(exact)
    return _named([_of_pair(head, batch, inputs, allowed, *labels) for head in wrong], len(wrong), batch, inputs)


def _of_pair(
    found: HeadDifference,
    batch: int,
    inputs: AttentionInputs,
    allowed: Tolerance,
    query_labels: Sequence[str] | None,
    key_labels: Sequence[str] | None,
) -> str:
    worst = found.worst
    assert worst is not None, "a head with a pair beyond has a worst one"
    query, key = _labeled("query", worst.query, query_labels), _labeled("key", worst.key, key_labels)
    return (
        f"  batch {batch}, head {found.head}: {found.beyond:,} of {found.pairs:,} pairs; the worst is {query} → {key}, "
        f"{_apart(worst.a, worst.b, allowed)}"
    )


def _context_apart(actual: Tensor, inputs: AttentionInputs, batch: int, allowed: Tolerance, values: str) -> list[str]:
    exact = context(inputs, batch=batch, device=_exact_device(inputs), dtype=torch.float64)  # (H, T, D_v)
    item = inputs.item(batch)
    labels = item.query_labels(range(inputs.T))
    lines: list[tuple[float, str]] = []
    for head in range(inputs.H):
        a, b = actual[head].to(exact.device).double(), exact[head]
        # A query that sees nothing has no mean; what a kernel writes for it is compared with nothing.
        blank = torch.isnan(b).all(1, keepdim=True)
        apart = (a - b).abs()
        beyond = ~(apart <= allowed.atol + allowed.rtol * b.abs()) & ~blank
        count = int(beyond.sum())
        if not count:
            continue
        far = torch.where(beyond, apart.nan_to_num(nan=torch.inf), -1)
        query, dim = divmod(int(far.argmax()), far.shape[1])
        rows = int(beyond.any(1).sum())
        where = f"{_labeled('query', query, labels)}, dim {dim}"
        text = (
            f"  batch {batch}, head {head}: {count:,} of {beyond.numel():,} elements, of {rows:,} of {inputs.T:,} queries; "
            f"the worst is {where}, {_apart(float(a[query, dim]), float(b[query, dim]), allowed)}; "
            f"{_seen(inputs, batch, head, query)}"
        )
        lines.append((float(far.max()), text))
    lines.sort(key=lambda line: -line[0])
    return _named([line for _, line in lines], len(lines), batch, inputs)


def _seen(inputs: AttentionInputs, batch: int, head: int, query: int) -> str:
    """Which keys a query sees, and which it looks at most: where a kernel of blocks may have gone wrong."""
    row = _exact(inputs, batch).rows(head).read(torch.tensor([query]))
    visible, weights = row.keys[row.seen[0]], row.values[0]
    if not len(visible):
        return "it sees no key"
    most = int(torch.where(row.seen[0], weights, -1).argmax())
    label = _labeled("key", int(row.keys[most]), inputs.item(batch).key_labels(range(inputs.S)))
    noun = "key" if len(visible) == 1 else "keys"
    return f"it sees {len(visible):,} {noun}, {int(visible.min())} to {int(visible.max())}, {label} most ({float(weights[most]):.3g})"


def _named(lines: list[str], count: int, batch: int, inputs: AttentionInputs) -> list[str]:
    item = f" of batch item {batch}" if inputs.B > 1 else ""
    more = count - _MOST_HEADS
    return lines[:_MOST_HEADS] + ([f"  and {more} more head{'s' if more > 1 else ''}{item}"] if more > 0 else [])


def _labeled(noun: str, position: int, labels: Sequence[str] | None) -> str:
    return f"{noun} {position}" + ("" if labels is None else f" {labels[position]!r}")


def _apart(actual: float, exact: float, allowed: Tolerance) -> str:
    most = allowed.atol + allowed.rtol * abs(exact)
    return f"actual {actual:.7g}, exact {exact:.7g}: apart by {abs(actual - exact):.3g}, allowed {most:.3g}"


def _guess(actual: Tensor, inputs: AttentionInputs, allowed: Tolerance, values: str) -> list[str]:
    """A line that says what the kernel did compute, where it is one of the usual mistakes."""
    if inputs.T * inputs.S > _MOST_GUESSED:
        return []
    from dataclasses import replace

    check = _weights_apart if inputs.v is None else _context_apart
    T, S = inputs.T, inputs.S
    first_aligned = Masked(torch.ones(T, S, dtype=torch.bool).tril())
    guesses: dict[str, dict[str, Any]] = {
        "a scale of 1: is 1/sqrt(D) missing?": {"scale": 1.0},
        "the scale twice: are q or k scaled already?": {"scale": inputs.item().scale ** 2},
        "pattern='causal'": {"pattern": Causal()},
        "pattern='full': is the mask left out?": {"pattern": Full()},
        "a causal mask aligned to the first key, not to the last": {"pattern": first_aligned} if T != S else {},
        "key_padding_mask left out": {"key_padding_mask": None} if inputs.key_padding_mask is not None else {},
        "softcap left out": {"softcap": None} if inputs.softcap is not None else {},
        "bias left out": {"bias": None} if inputs.bias is not None else {},
    }
    if inputs.v is None and values == "weights":
        guesses["scores before softmax"] = {"values": "logits"}
    for name, changes in guesses.items():
        if not changes:
            continue
        kind = changes.pop("values", values)
        try:
            if not any(check(actual[b], replace(inputs, **changes), b, allowed, kind) for b in range(inputs.B)):
                return [f"  it is what the formula gives with {name}"]
        except InputError:
            continue
    return []
