"""Whether what was captured is what the model computes: a few rows of its own output against those that follow from the capture.

A mask that was misread, an argument that was not seen, a head that reads another's keys: each changes the context of a row by
about its own size, where right ones differ by what rounding costs. Rounding shifts each logit by its own amount; what that does
to a context follows from its weights and values: ``sum over keys of (w e |v - context|)^2``, as errors of keys don't add up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from attnviz.attention.inputs import Inputs
from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.base.devices import dtype_name
from attnviz.engine.products import rounds

EVERY = 64
"""Of the steps of a ``generate``, each so many-th is checked."""

DROPOUT = "dropout is on; model.eval() turns it off"
"""Why the output of a model in training says nothing of its weights."""

_ROWS, _ITEMS = 4, 4
"""So many rows of a call where its mask changes or at random, besides the first and the last; so many batch items."""

_SLACK = 5.0
"""How often what rounding is expected to cost a right capture may be off by: errors of one key's logit in many heads add up."""

_CELLS = 1 << 22
"""Numbers that are looked at together."""

_TF32, _BF16 = 2.0**-11, 2.0**-8


@dataclass(frozen=True, eq=False)
class Sample:
    """Some rows of what an attention function gave.

    Args:
        rows: which queries of the call, (r,), ascending.
        items: which batch items, (b,).
        output: (b, H, r, D_v), or (b, r, E) where it is projected already.
        projection: the weight and bias that project the heads' context, where ``output`` is.
    """

    rows: Tensor
    items: Tensor
    output: Tensor
    projection: tuple[Tensor, Tensor | None] | None = None

    def moved(self, origins: Tensor | None) -> Sample | None:
        """The same of the items that go back to those it is of, (B,); None where there are none."""
        if origins is None:
            return self
        found = [(n, (origins == item).nonzero().flatten()) for n, item in enumerate(self.items.tolist())]
        kept = [(n, int(items[0])) for n, items in found if len(items)]
        if not kept:
            return None
        at, items = (torch.tensor(part) for part in zip(*kept, strict=True))
        return replace(self, items=items, output=self.output[at.to(self.output.device)])

    def first(self, T: int) -> Sample | None:
        """What it says of the first ``T`` queries."""
        kept = self.rows < T
        if bool(kept.all()):
            return self
        if not bool(kept.any()):
            return None
        rows = kept.nonzero().flatten().to(self.output.device)
        return replace(self, rows=self.rows[kept], output=self.output.index_select(-2, rows))


@dataclass(frozen=True, eq=False)
class Output:
    """What an attention function gave for one call.

    Args:
        context: (B, H, T, D_v), or (B, T, E) where it is projected already; None where it isn't known.
        projection: as in :class:`Sample`.
        unchecked: why it can't be held against the capture; None where it can.
    """

    context: Tensor | None = None
    projection: tuple[Tensor, Tensor | None] | None = None
    unchecked: str | None = None

    def sample(self, changes: Sequence[int] = ()) -> Sample | None:
        """The first row, the last, where the mask changes, and some at random."""
        if self.context is None:
            return None
        B, T = self.context.shape[0], self.context.shape[-2]
        random = Random(T)  # the process's own stays as it is
        some = [random.randrange(T) for _ in range(_ROWS)]
        rows = sorted({0, T - 1, *[t for t in changes if t < T][:_ROWS], *some[: max(2, _ROWS - len(changes))]})
        items = sorted({0, B - 1, *(random.randrange(B) for _ in range(_ITEMS - 2))})
        at, of = torch.tensor(rows), torch.tensor(items)
        device = self.context.device
        output = self.context.detach().index_select(-2, at.to(device))  # rows first: they are few
        output = output if len(items) == B else output[of.to(device)]
        return Sample(at, of, output, self.projection)


@dataclass(frozen=True)
class Difference:
    """How far a capture's context is from the model's own.

    Args:
        found: the relative difference of the row that is farthest apart for its rounding, |ours - theirs| / |theirs|.
        allowed: what rounding explains there.
        batch, query: where.
        head: the query head; None where heads are projected together.
        dtype: what it is rounded to.
    """

    found: float
    allowed: float
    batch: int
    head: int | None
    query: int
    dtype: str

    @property
    def holds(self) -> bool:
        """Whether rounding explains the difference."""
        return self.found <= self.allowed

    def __str__(self) -> str:
        head = "" if self.head is None else f", head {self.head}"
        return (
            f"its context and the model's own are {self.found:.2g} apart (relative; batch item {self.batch}{head}, query "
            f"{self.query}), and rounding to {self.dtype} explains {self.allowed:.2g}"
        )


def difference(inputs: Inputs, samples: Sequence[tuple[int, Sample]]) -> Difference | None:
    """The row whose context is farthest from the model's own, for what rounding explains; None where no row sees a key.

    Args:
        inputs: what was captured, with v.
        samples: rows of the model's own output, each with the row of the first query of its call.
    """
    worst: Difference | None = None
    for start, sample in samples:
        for n, batch in enumerate(sample.items.tolist()):
            found = _of_item(inputs.item(batch), sample.rows + start, sample, sample.output[n])
            if found is not None and (worst is None or _excess(found) > _excess(worst)):
                worst = found
    return worst


def _excess(one: Difference) -> float:
    return math.inf if math.isnan(one.found) else one.found / one.allowed


def _of_item(item: AttentionItem, rows: Tensor, sample: Sample, output: Tensor) -> Difference | None:
    """The row of a batch item that is farthest apart for its rounding, at first by what it takes to round a context alone."""
    unit = max(_unit(dtype, item.device) for dtype in (item.dtype, output.dtype))
    seen = _Seen(item, rows)
    found = _farthest(item, seen, sample, output, unit, errors=False)
    return found if found is None or found.holds else _farthest(item, seen, sample, output, unit, errors=True)


def _farthest(
    item: AttentionItem, seen: _Seen, sample: Sample, output: Tensor, unit: float, *, errors: bool
) -> Difference | None:
    """That row; ``errors``: whether what the rounding of logits costs is counted, which takes most of the work."""
    theirs, rows = output.double(), seen.rows
    ours, variance, sees = _contexts(item, seen, unit, errors=errors)  # (H, r, D_v), (H, r), (H, r)
    if sample.projection is not None:
        ours, variance = _projected(ours, variance, sample.projection)
        sees = sees.any(0)  # (r,)
    size = torch.linalg.vector_norm(theirs, dim=-1)
    own = torch.maximum(size, torch.linalg.vector_norm(ours, dim=-1))
    off = torch.linalg.vector_norm(ours - theirs, dim=-1)
    allowed = (4 * unit + 32 * 2.0**-24) * own + torch.finfo(torch.float32).tiny
    allowed = allowed if variance is None else allowed + _SLACK * variance.sqrt()
    sees = sees & size.isfinite()  # a model may make NaN of padding, and carry it on
    excess = torch.where(sees, (off / allowed).nan_to_num(nan=math.inf), -1.0).flatten()
    place = int(excess.argmax())
    if float(excess[place]) < 0:
        return None
    found, most, scale = torch.stack([off, allowed, own]).flatten(1)[:, place].tolist()
    head, row = divmod(place, sees.shape[-1])
    return Difference(
        found=found / (scale or 1.0),
        allowed=most / (scale or 1.0),
        batch=item.batch,
        head=None if sample.projection is not None else head,
        query=int(rows[row]),
        dtype=dtype_name(output.dtype if _unit(output.dtype, item.device) >= unit else item.dtype),
    )


def _projected(
    ours: Tensor, variance: Tensor | None, projection: tuple[Tensor, Tensor | None]
) -> tuple[Tensor, Tensor | None]:
    """The context of all heads through a projection, (r, E), and what its error adds up to, (r,)."""
    weight, bias = (None if one is None else one.detach().double() for one in projection)
    assert weight is not None
    joined = ours.transpose(0, 1).flatten(1)  # (r, H * D_v)
    projected = F.linear(joined, weight, bias)
    return projected, None if variance is None else variance.sum(0) * float(torch.linalg.matrix_norm(weight)) ** 2


def _unit(dtype: torch.dtype, device: torch.device) -> float:
    """The unit roundoff of products in a dtype, as the process has them computed."""
    unit = float(torch.finfo(dtype).eps) / 2
    if dtype == torch.float32 and device.type != "mps":
        cuda = device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
        precision = torch.get_float32_matmul_precision()
        unit = max(unit, _BF16 if precision == "medium" else _TF32 if precision == "high" or cuda else 0.0)
    return unit


def _contexts(item: AttentionItem, seen: _Seen, unit: float, *, errors: bool) -> tuple[Tensor, Tensor | None, Tensor]:
    """The context of some rows of all heads, (H, r, D_v), its variance by rounding (H, r), and which see a key (H, r).

    Without ``errors`` there is no variance.
    """
    rows = seen.rows
    H, group = item.inputs.H, item.inputs.H // item.inputs.H_kv
    each = item.S * (item.value(0).shape[-1] + 2 * group * len(rows))
    step = group * max(1, _CELLS // each)
    contexts, variances, sees = [], [], []
    for first in range(0, H, step):
        heads = _Heads(item, range(first, min(first + step, H)), seen)
        weights, off = _given(heads, unit) if item.given else _weights(heads, unit, errors=errors)
        v = heads.of("v")  # (n, S, D_v)
        context = heads.times(weights, v)
        if seen.of_global is not None and getattr(item.inputs, "v_global", None) is not None:
            context = torch.where(seen.of_global[:, None], heads.times(weights, heads.of("v_global")), context)
        contexts.append(context)
        sees.append(weights.any(-1))
        if not errors or off is None:
            continue
        spread = (weights * off) ** 2  # (h, r, S)
        squares = heads.times(spread, (v * v).sum(-1, keepdim=True))[..., 0]
        crossed = (heads.times(spread, v) * context).sum(-1)
        variance = squares - 2 * crossed + spread.sum(-1) * (context * context).sum(-1)
        variances.append(variance.clamp(min=0))
    return torch.cat(contexts).double(), torch.cat(variances).double() if variances else None, torch.cat(sees)


def _weights(heads: _Heads, unit: float, *, errors: bool) -> tuple[Tensor, Tensor | None]:
    """Weights of some rows of some heads, (h, r, S), and how far each logit may be off; None where that isn't asked."""
    item, seen = heads.item, heads.seen
    products, at = item.products, seen.rows
    q, k = products.q[item.batch, heads.first : heads.last][:, at].to(heads.dtype), heads.of("k")
    logits = heads.times(q, k.transpose(1, 2)) * item.scale
    if products.q_global is not None and seen.of_global is not None:
        of_global = products.q_global[item.batch, heads.first : heads.last][:, at].to(heads.dtype)
        own = heads.times(of_global, heads.of("k_global").transpose(1, 2))
        logits = torch.where(seen.of_global[:, None], own * item.scale, logits)
    size = logits.abs() if errors else logits
    if products.softcap is not None:
        logits = products.softcap * torch.tanh(logits / products.softcap)
    if products.bias is not None:
        whole = products.bias[min(item.batch, len(products.bias) - 1)].expand(item.inputs.H, item.T, item.S)
        part = whole[heads.first : heads.last][:, at].to(heads.dtype)
        logits, size = logits + part, size + part.abs().masked_fill(part.isinf(), 0) if errors else size
    logits = logits.masked_fill(~seen.by(heads), -math.inf)
    if products.sinks is not None:
        sink = products.sinks.to(item.device)[heads.first : heads.last].to(heads.dtype)[:, None, None]
        weights = torch.cat([logits, sink.expand(*logits.shape[:2], 1)], dim=-1).softmax(-1)[..., :-1]
    else:
        weights = logits.softmax(-1).nan_to_num(nan=0.0)  # a row that sees nothing
    if not errors:
        return weights, None
    longest = heads.repeated(torch.linalg.vector_norm(k, dim=-1))[:, None]
    reach = torch.linalg.vector_norm(q, dim=-1, keepdim=True) * longest * abs(item.scale)
    return weights, unit * (2 + 2 * size + 4 * reach / math.sqrt(products.D)) + 2.0**-22 * reach


def _given(heads: _Heads, unit: float) -> tuple[Tensor, Tensor]:
    """Weights that were given, likewise; they are off by their own rounding alone."""
    item = heads.item
    given: Tensor = item.inputs.weights  # type: ignore[attr-defined]
    weights = given[item.batch, heads.first : heads.last][:, heads.seen.rows].to(heads.dtype)
    weights = weights.masked_fill(~heads.seen.by(heads), 0.0)
    return weights, torch.full_like(weights, 2 * unit)


class _Heads:
    """Some query heads beside each other, whole groups that share their keys: products without repeating these."""

    def __init__(self, item: AttentionItem, heads: range, seen: _Seen) -> None:
        self.item, self.seen, self.first, self.last = item, seen, heads.start, heads.stop
        self.kv = [*dict.fromkeys(map(item.kv_head, heads))]
        self.group = len(heads) // len(self.kv)
        exact = item.dtype == torch.float64 or rounds(item.device)
        self.dtype = torch.float64 if exact else torch.float32
        self.keys = seen.by(self).flatten(0, 1).any(0)  # (S,) which any of the rows sees
        self.all_keys = bool(self.keys.all())

    def of(self, name: str) -> Tensor:
        """What they read of the keys or values, (n, S, D), 0 where no row sees the key, whatever stands there."""
        part: Tensor = getattr(self.item.inputs, name)[self.item.batch, self.kv[0] : self.kv[-1] + 1].to(self.dtype)
        return part if self.all_keys else part.masked_fill(~self.keys[:, None], 0.0)

    def times(self, rows: Tensor, of_keys: Tensor) -> Tensor:
        """``rows`` (h, r, m) times what each head reads, (n, m, D): (h, r, D)."""
        n, r = len(self.kv), rows.shape[1]
        product: Tensor = rows.reshape(n, self.group * r, -1) @ of_keys
        return product.reshape(len(rows), r, -1)

    def repeated(self, of_keys: Tensor) -> Tensor:
        """What each query head reads of numbers a key, (n, S): (h, S)."""
        return of_keys.repeat_interleave(self.group, 0)


class _Seen:
    """Which keys some rows see, head by head."""

    def __init__(self, item: AttentionItem, rows: Tensor) -> None:
        self.item, self.rows = item, rows.to(item.device)
        self._shared: Tensor | None = None
        pattern = item.inputs.pattern
        assert pattern is not None  # captures name theirs
        self.pattern = pattern
        own = pattern.global_queries
        self.of_global = torch.isin(self.rows, item.global_queries.to(item.device)) if own else None  # (r,)

    def by(self, heads: _Heads) -> Tensor:
        """(h | 1, r, S) bool."""
        own = [self.pattern.of_head(head) for head in range(heads.first, heads.last)]
        if all(one is self.pattern for one in own):
            if self._shared is None:
                self._shared = self._of(self.pattern)[None]
            return self._shared
        return torch.stack([self._of(one) for one in own])

    def _of(self, pattern: Pattern) -> Tensor:
        item = self.item
        keys = torch.arange(item.S, device=self.rows.device)[None]
        seen = pattern.visible(self.rows[:, None], keys, item).expand(len(self.rows), item.S)
        if item.key_padding is not None:
            seen = seen & item.key_padding.to(seen.device)
        if item.query_padding is not None:
            seen = seen & item.query_padding.to(seen.device)[self.rows][:, None]
        return seen
