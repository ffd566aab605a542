"""The formula on one query and one key: every number on the way from q and k to the context, as values.

What the numbers mean is told in :mod:`attnviz.show.lessons`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from attnviz.attention.inputs import Inputs
from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.attention.taken import takes_arrays
from attnviz.base.devices import dtype_name
from attnviz.base.errors import InputError
from attnviz.base.registry import shown
from attnviz.base.selections import parse_token
from attnviz.engine.attention import Computed
from attnviz.engine.blocks import blocks
from attnviz.engine.request import Request
from attnviz.engine.softmax import softmax_

COMPONENTS = 4
"""How many of the D_v numbers of each value an explanation keeps."""


@dataclass(frozen=True)
class Term:
    """One dimension's part in the dot product."""

    dimension: int
    q: float
    k: float
    product: float


@dataclass(frozen=True)
class Step:
    """One step from the dot product to the logit: the number it brings in, and what comes out."""

    kind: Literal["scale", "softcap", "bias", "alibi"]
    by: float
    result: float
    apart: int | None = None
    """How far query and key are apart, where that counts."""


@dataclass(frozen=True)
class Key:
    """One key that the query sees, and its way through the softmax."""

    position: int
    number: int | None
    """n of ``Global #n``, where keys are counted."""
    token: str | None
    logit: float
    shifted: float
    """``logit - max``."""
    exp: float
    """``exp(logit - max)``."""
    weight: float
    value: tuple[float, ...] = ()
    """The first :data:`COMPONENTS` numbers of its v."""


@dataclass(frozen=True)
class Measure:
    """What a factor on the dot products does to a whole head: over every query and each key it sees."""

    scale: float
    pairs: int
    """How many (query, key) there are."""
    variance: float
    """Of the logits, over the pairs."""
    entropy: float
    """Of a query's weights, in nats; the mean over queries, as the next two."""
    entropy_share: float | None
    """Entropy / log(visible keys), over the queries that see several; None where there are none."""
    gradient: float
    """Frobenius norm of the softmax's Jacobian, ``diag(w) - w w^T``."""


@dataclass(frozen=True)
class Excerpt:
    """Some queries and keys of the head, those explained among them."""

    queries: tuple[int, ...]
    query_tokens: tuple[str, ...] | None
    keys: tuple[int, ...]
    """Positions, which are all G global keys where there are few."""
    logits: tuple[tuple[float, ...], ...]
    """A row a query: -inf of a key that it does not see."""


@dataclass(frozen=True)
class Explanation:
    """Every number on the way from one query and one key to the context. Letters are those of the formula.

    >>> import attnviz
    >>> found = attnviz.explain(attnviz.synthesize(), head=2, query=5, key=1)
    >>> round(found.dot * found.scale, 4) == round(found.key.logit, 4), found.G
    (True, 3)
    """

    source: str
    pattern: str
    dtype: str
    """What the arithmetic ran in."""
    batch: int
    head: int
    kv_head: int
    query: int
    query_token: str | None
    key: Key
    B: int
    H: int
    H_kv: int
    T: int
    S: int
    D: int
    D_v: int | None
    """None where the inputs have no v."""
    positions: tuple[int, ...] | None
    """Of the G global keys, where the pattern is made of them alone and keys are counted; else None."""
    for_global: bool
    """Whether the query is a global token that sees by a rule of its own."""
    own_projections: bool
    """Whether q, k and v of this row are ``q_global``, ``k_global`` and ``v_global``."""
    terms: tuple[Term, ...]
    """D of them, the largest ``|product|`` first."""
    dot: float
    scale: float
    steps: tuple[Step, ...]
    """From the dot product to the logit: the scale, then the modifiers that there are."""
    keys: tuple[Key, ...]
    """Every key that the query sees, by position."""
    peak: float
    """The largest logit of the row, the sink's among them."""
    total: float
    """The sum of ``exp(logit - peak)``, the sink's among them."""
    sink: float | None
    """The logit of the head's attention sink."""
    measures: tuple[Measure, ...]
    """By the scale in use, by 1 (no scale) and, where it is another, by 1 / sqrt(D)."""
    excerpt: Excerpt
    context: tuple[float, ...] | None
    """(D_v,), the sum of weight times v; None where the inputs have no v."""

    @property
    def G(self) -> int | None:
        """Global keys, where keys are counted."""
        return None if self.positions is None else len(self.positions)

    @property
    def textbook(self) -> bool:
        """Whether the scale is ``1 / sqrt(D)``."""
        return _same(self.scale, 1 / math.sqrt(self.D))

    @property
    def plain(self) -> bool:
        """Whether a logit is the scaled dot product and nothing more."""
        return len(self.steps) == 1

    def _repr_markdown_(self) -> str:
        return shown(self)


@takes_arrays
def explain(
    inputs: Inputs,
    *,
    head: int = 0,
    query: int | str | None = None,
    key: int | str | None = None,
    pattern: Pattern | str | None = None,
    batch: int = 0,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Explanation:
    """The formula, followed from one query and one key to the context.

    Args:
        inputs: queries, keys, masks and, for the context, values.
        head: the query head.
        query: the query position, or its token or word; None is the one that gives the key the largest weight.
        key: where the pattern is made of global keys alone, n of ``Global #n``, counted from 1 as in the tables;
            with any other pattern, a key position; or a key's token or word. None is the one with the query's largest weight.
            None of both is the pair with the head's largest weight, of the queries that see several keys where some do.
        pattern: which query sees which key; None is the inputs' own, else the global keys.
        batch: the batch item.
        device, dtype: as in :func:`attnviz.score`.

    Raises:
        InputError: a batch item, head, query or key that is not there; a key that the query does not see; a query
            that sees none; NaN or Inf.

    >>> import attnviz
    >>> found = explain(attnviz.synthesize(), head=2, query=5, key=1)
    >>> found.key.position, round(found.dot / 8, 4) == round(found.key.logit, 4)
    (0, True)
    """
    request = Request(inputs, pattern, head, batch=batch, device=device, dtype=dtype)
    item, pattern = request.item, request.attention.pattern
    products = item.products  # raises where there is nothing to explain
    with torch.no_grad(), torch.autocast(item.device.type, enabled=False):
        reach = pattern.reach(item)
        counted = None if reach.band or reach.keys is None or pattern.global_queries else tuple(reach.keys.tolist())
        position = None if key is None else _named_key(item, pattern, key, counted)
        query = _strongest_query(item, pattern, head, position) if query is None else _checked_query(item, query)
        for_global = pattern.global_queries and query in item.global_queries.tolist()
        row = _Row.of(item, pattern, head, query)
        if position is None:
            position = row.positions[int(row.weights.argmax())]
        _check_seen(item, pattern, query, key, position, row.positions, counted)
        terms = _terms(item, head, query, position, for_global)
        dot = math.fsum(term.product for term in terms)
        v = None if products.v is None else item.value(head, for_global=for_global).cpu()
        keys = row.keys(item, counted, v)
        return Explanation(
            source=inputs.source,
            pattern=str(pattern),
            dtype=dtype_name(item.compute_dtype),
            batch=batch,
            head=head,
            kv_head=item.kv_head(head),
            query=query,
            query_token=(item.query_labels([query]) or [None])[0],  # type: ignore[list-item]
            key=keys[row.positions.index(position)],
            B=inputs.B,
            H=inputs.H,
            H_kv=inputs.H_kv,
            T=inputs.T,
            S=inputs.S,
            D=products.D,
            D_v=None if v is None else v.shape[1],
            positions=counted,
            for_global=for_global,
            own_projections=for_global and products.q_global is not None,
            terms=terms,
            dot=dot,
            scale=item.scale,
            steps=_steps(item, head, query, position, dot),
            keys=keys,
            peak=row.peak,
            total=row.total,
            sink=row.sink,
            measures=tuple(_measure(item, pattern, head, scale) for scale in _scales(item)),
            excerpt=_excerpt(item, pattern, head, query, position, row, range(item.S) if counted is None else counted),
            context=None if v is None else tuple((row.weights @ v[row.positions].double()).tolist()),
        )


@dataclass(frozen=True)
class _Row:
    """One query's softmax, over the n keys that it sees."""

    positions: list[int]
    logits: Tensor  # (n,) float64, on the CPU
    weights: Tensor  # (n,) likewise
    sink: float | None

    @classmethod
    def of(cls, item: AttentionItem, pattern: Pattern, head: int, query: int) -> _Row:
        found = blocks(item, pattern, head, queries=range(query, query + 1), weights=False)
        block = next(block for block in found if len(block.rows))
        seen = (block.values[0] > -torch.inf).nonzero().flatten()
        seen = seen[block.keys[seen].argsort()]
        if not len(seen):
            padded = item.query_padding is not None and not bool(item.query_padding[query])
            why = "it is padding" if padded else f"the pattern {pattern} shows it none"
            raise InputError(f"{item.inputs.source}: query {query} sees no key: {why}; choose another query (--query)")
        logits, sink = block.values[0, seen], _sink(item, head)
        weights = softmax_(logits.clone(), sink)
        return cls(block.keys[seen].tolist(), logits.cpu().double(), weights.cpu().double(), sink)

    @property
    def peak(self) -> float:
        return max(float(self.logits.max()), -math.inf if self.sink is None else self.sink)

    @property
    def total(self) -> float:
        own = 0.0 if self.sink is None else math.exp(self.sink - self.peak)
        return float((self.logits - self.peak).exp().sum()) + own

    def keys(self, item: AttentionItem, counted: Sequence[int] | None, v: Tensor | None) -> tuple[Key, ...]:
        n = len(self.positions)
        shifted = self.logits - self.peak
        tokens: Sequence[str | None] = item.key_labels(self.positions) or [None] * n
        numbers = {} if counted is None else {position: number for number, position in enumerate(counted, 1)}
        values = [[]] * n if v is None else v[self.positions, :COMPONENTS].double().tolist()
        columns = (self.logits.tolist(), shifted.tolist(), shifted.exp().tolist(), self.weights.tolist(), values)
        return tuple(
            Key(position, numbers.get(position), token, logit, low, exp, weight, tuple(value))
            for position, token, logit, low, exp, weight, value in zip(self.positions, tokens, *columns, strict=True)
        )


def _strongest_query(item: AttentionItem, pattern: Pattern, head: int, key: int | None) -> int:
    """The query with the largest weight on ``key``, or on any; of those that see several keys, where some do."""
    best, found = (False, -1.0), -1
    for block in blocks(item, pattern, head):
        weights = block.values.nan_to_num(nan=-1.0)
        if block.seen is not None:
            weights = weights.masked_fill(~block.seen, -1.0)
        if key is not None:
            weights = weights[:, block.keys == key]
        if not weights.numel():
            continue
        most = weights.amax(1).tolist()
        for query, sees, weight in zip(block.rows.tolist(), block.visible.tolist(), most, strict=True):
            rank = (sees > 1, weight)
            if weight >= 0 and (rank > best or (rank == best and query < found)):
                best, found = rank, query
    if found < 0:  # nobody sees it: which is said of the query that stands in the middle
        exists = range(item.T) if item.query_padding is None else item.query_padding.nonzero().flatten().tolist()
        return int(exists[len(exists) // 2]) if exists else 0
    return found


def _checked_query(item: AttentionItem, query: int | str) -> int:
    if isinstance(query, str):
        source = item.inputs.source
        return parse_token(query, item.T, item.query_tokens, option="--query", noun="query", source=source)[-1]
    if not 0 <= query < item.T:
        raise InputError(
            f"{item.inputs.source}: query {query} is out of range; there are {item.T} (0 to {item.T - 1}; --query)"
        )
    return query


def _named_key(item: AttentionItem, pattern: Pattern, key: int | str, counted: Sequence[int] | None) -> int:
    """The position of the key asked for."""
    source = item.inputs.source
    if isinstance(key, str):
        return parse_token(key, item.S, item.key_tokens, option="--key", noun="key", source=source)[-1]
    if counted is None:
        if not 0 <= key < item.S:
            raise InputError(
                f"{source}: key {key} is out of range; under the pattern {pattern} a key is a position, 0 to "
                f"{item.S - 1} (--key)"
            )
        return key
    if not 1 <= key <= len(counted):
        raise InputError(
            f"{source}: key {key} is out of range; global keys are counted from 1, and there are {len(counted)}: "
            f"Global #1 to #{len(counted)} (--key)"
        )
    return counted[key - 1]


def _check_seen(
    item: AttentionItem,
    pattern: Pattern,
    query: int,
    key: int | str | None,
    position: int,
    visible: Sequence[int],
    counted: Sequence[int] | None,
) -> None:
    """Raises InputError for a key that the query does not see."""
    if position in visible:
        return
    names = list(visible)
    if isinstance(key, str):
        name = f"{key!r} (position {position})"
    elif counted is None:
        name = f"key position {key}"
    else:
        name, names = f"Global #{key} (position {position})", [counted.index(seen) + 1 for seen in visible]
    shown = ", ".join(map(str, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    raise InputError(
        f"{item.inputs.source}: query {query} does not see {name} under the pattern {pattern}; it sees {shown} (--key)"
    )


def _excerpt(
    item: AttentionItem, pattern: Pattern, head: int, query: int, position: int, row: _Row, columns: Sequence[int]
) -> Excerpt:
    """The ends of the head's rows and columns, and what is around the pair."""
    queries = _around(item.T, query, 10)
    keys = [columns[n] for n in _around(len(columns), columns.index(position), 6)]
    rows = Computed(item, pattern).rows(head).read(torch.tensor(queries, device=item.device), weights=False)
    logits = rows.over(torch.arange(item.S), False).values[:, keys].tolist()
    own = dict(zip(row.positions, row.logits.tolist(), strict=True))  # said once: blocks of other sizes round otherwise
    logits[queries.index(query)] = [own.get(key, -math.inf) for key in keys]
    tokens = item.query_labels(queries)
    return Excerpt(tuple(queries), None if tokens is None else tuple(tokens), tuple(keys), tuple(map(tuple, logits)))


def _around(count: int, at: int, most: int = 8) -> list[int]:
    """All of some indices, or their ends and what is around one of them.

    >>> _around(100, 50)
    [0, 1, 49, 50, 51, 98, 99]
    """
    if count <= most:
        return list(range(count))
    near = range(max(at - 1, 0), min(at + 2, count))
    return sorted({0, count - 1, *near} if most < 7 else {0, 1, count - 2, count - 1, *near})


def _terms(item: AttentionItem, head: int, query: int, position: int, for_global: bool) -> tuple[Term, ...]:
    q = item.query(head, for_global=for_global)[query].cpu().double()  # (D,)
    k = item.key(head, for_global=for_global)[position].cpu().double()  # (D,)
    products = q * k  # (D,)
    order = products.abs().argsort(descending=True, stable=True).tolist()
    return tuple(Term(d, float(q[d]), float(k[d]), float(products[d])) for d in order)


def _steps(item: AttentionItem, head: int, query: int, position: int, dot: float) -> tuple[Step, ...]:
    """The engine's own order: scale, softcap, bias, ALiBi."""
    inputs = item.products
    steps = [Step("scale", item.scale, dot * item.scale)]
    if inputs.softcap is not None:
        steps.append(Step("softcap", inputs.softcap, inputs.softcap * math.tanh(steps[-1].result / inputs.softcap)))
    if inputs.bias is not None:
        bias = float(inputs.bias.expand(inputs.B, inputs.H, item.T, item.S)[item.batch, head, query, position])
        steps.append(Step("bias", bias, steps[-1].result + bias))
    if inputs.alibi_slopes is not None:
        slope, apart = float(inputs.alibi_slopes[head]), _apart(item, query, position)
        steps.append(Step("alibi", slope, steps[-1].result - slope * apart, apart))
    return tuple(steps)


def _apart(item: AttentionItem, query: int, key: int) -> int:
    """How far a query and a key are apart."""
    return abs(int(item.query_position(torch.tensor(query)) - item.key_position(torch.tensor(key))))


def _sink(item: AttentionItem, head: int) -> float | None:
    return item.sink(head)


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-6)  # files keep a scale as float32


def _scales(item: AttentionItem) -> list[float]:
    scales = [item.scale]
    for scale in (1.0, 1 / math.sqrt(item.products.D)):
        if not any(_same(scale, other) for other in scales):
            scales.append(scale)
    return scales


def _measure(item: AttentionItem, pattern: Pattern, head: int, scale: float) -> Measure:
    """One pass over the head's rows, block by block, with ``scale`` in place of the item's."""
    item = replace(item, inputs=replace(item.products, scale=scale))
    pairs, mean, squares = 0, 0.0, 0.0  # squares: the sum of squared distances from the mean
    queries = choosers = 0  # queries that see a key; those that see several
    entropy = share = gradient = 0.0  # sums over queries
    for block in blocks(item, pattern, head, weights=False):
        logits = block.values.cpu()  # (b, n)
        hidden = logits == -torch.inf
        visible = logits.shape[1] - hidden.sum(1)  # (b,)
        n = int(visible.sum())
        if not n:
            continue
        # Joins the mean and variance of two sets (Chan, Golub and LeVeque 1979).
        middle = float(logits.masked_fill(hidden, 0).sum(dtype=torch.float64)) / n
        own = float((logits - middle).masked_fill_(hidden, 0).square_().sum(dtype=torch.float64))
        squares += own + (middle - mean) ** 2 * pairs * n / (pairs + n)
        mean, pairs = mean + (middle - mean) * n / (pairs + n), pairs + n

        w = softmax_(block.values, _sink(item, head)).cpu()
        if not bool(visible.all()):
            w, visible = w[visible > 0], visible[visible > 0]
        entropies = torch.special.entr(w).sum(1).double()  # (b,)
        several = visible > 1
        entropy += float(entropies.sum())
        share += float((entropies[several] / visible[several].double().log()).sum())
        # The square of the norm of diag(w) - w w^T, w_i (1 - w_i) on the diagonal and -w_i w_j beside it, comes to
        # this. It is small for weights near 0 and 1, hence the float64.
        w = w.double()
        w2 = w.square()
        s2, s3 = w2.sum(1), torch.linalg.vecdot(w2, w)  # (b,)
        gradient += float((s2 - 2 * s3 + s2.square()).clamp(min=0).sqrt().sum())
        queries, choosers = queries + len(visible), choosers + int(several.sum())
    return Measure(
        scale=scale,
        pairs=pairs,
        variance=squares / pairs,
        entropy=entropy / queries,
        entropy_share=share / choosers if choosers else None,
        gradient=gradient / queries,
    )
