"""The formula, exactly: logits and softmax weights of each head over the keys its pattern makes visible.

    score[h, t, s] = dot(q[h, t], k[kv(h), s]) * scale        for s in visible(t)
    weight[h, t]   = softmax of score[h, t] over visible(t)

Rows of queries go through in blocks that fit a cache, straight into the result; nothing of the size of the whole
map is made besides the result itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from attnviz.attention import AttentionInputs, AttentionItem
from attnviz.devices import parse_device, parse_dtype
from attnviz.errors import InputError
from attnviz.patterns import GlobalKeys, Pattern, Reach

_BLOCK_CELLS = 1 << 19  # cells of one row block: 2 MiB of float32, about a core's share of cache
_BLANK = float("nan")  # the weight of a query that sees nothing
_HIDDEN = float("-inf")  # the logit of a key that is not visible


@dataclass(frozen=True)
class AttentionScores:
    """Logits and weights of one batch item, n heads, in columns that the pattern decides.

    The first columns are the same key positions for every query (``positions``); the rest are a band of keys
    around the query (``offsets``, key position minus query position). A key that a query does not see has logit
    -inf and weight 0; a query that sees nothing has NaN weights. Where the pattern has global queries, their
    rows are NaN here and stand in ``global_scores`` and ``global_weights``.
    """

    item: AttentionItem
    pattern: Pattern
    heads: tuple[int, ...]  # n query heads
    positions: Tensor  # (C1,) int64 key positions
    offsets: range  # C2 offsets
    scores: Tensor | None  # (n, T, C1 + C2) logits
    weights: Tensor | None  # (n, T, C1 + C2)
    global_queries: Tensor  # (R,) int64 query positions
    global_scores: Tensor | None = None  # (n, R, S) logits
    global_weights: Tensor | None = None  # (n, R, S)

    def values(self, name: str) -> Tensor:
        """The logits (``name="logits"``) or the weights (``name="weights"``), (n, T, C1 + C2)."""
        tensor = self.scores if name == "logits" else self.weights
        assert tensor is not None, f"{name} were not computed"
        return tensor

    def key_positions(self, query: int) -> list[int | None]:
        """The key position of each column for one query; None where the band leaves the sequence."""
        band = [query + offset for offset in self.offsets]
        return [*self.positions.tolist(), *(s if 0 <= s < self.item.S else None for s in band)]


def score(
    inputs: AttentionInputs,
    pattern: Pattern | None = None,
    *,
    batch: int = 0,
    heads: Sequence[int] | None = None,
    logits: bool = True,
    weights: bool = True,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> AttentionScores:
    """Logits and softmax weights of a batch item.

    Args:
        inputs: queries, keys and masks.
        pattern: which query sees which key; None is :class:`~attnviz.patterns.GlobalKeys`, the global scores
            (H, T, G).
        batch: the batch item.
        heads: the query heads, in the order wanted; None is all of them.
        logits, weights: which of the two to compute; either alone needs half the memory.
        device: where to compute (``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``); None is where ``inputs`` are.
        dtype: round the inputs to this dtype first; None keeps theirs. Half types compute in float32.

    Returns:
        The results on the device they were computed on, in the inputs' dtype or, for half types, float32.

    Raises:
        InputError: a batch item, head, device or dtype that is not there; a mask that selects nothing; NaN or Inf.

    >>> import attnviz
    >>> result = attnviz.score(attnviz.synthesize(heads=2, tokens=5, global_positions=(0, 3)))
    >>> tuple(result.weights.shape), bool(result.weights.sum(-1).allclose(torch.ones(2, 5)))
    ((2, 5, 2), True)
    """
    pattern = GlobalKeys() if pattern is None else pattern
    item = inputs.item(
        batch, device=inputs.q.device if device is None else parse_device(device), dtype=parse_dtype(dtype)
    )
    heads = check_heads(inputs, heads)
    with torch.no_grad(), torch.autocast(item.device.type, enabled=False):
        return _score(item, pattern, heads, logits, weights)


def check_heads(inputs: AttentionInputs, heads: Sequence[int] | None) -> tuple[int, ...]:
    """The query heads asked for, None meaning all. Raises InputError for one that is not there."""
    if heads is None:
        return tuple(range(inputs.H))
    for head in heads:
        if not 0 <= head < inputs.H:
            raise InputError(
                f"{inputs.source}: head {head} is out of range; there are {inputs.H} (0 to {inputs.H - 1})"
            )
    return tuple(heads)


def _score(
    item: AttentionItem, pattern: Pattern, heads: tuple[int, ...], logits: bool, weights: bool
) -> AttentionScores:
    reach = pattern.reach(item)
    if reach.band and (reach.open or len(reach.offsets()) >= item.S):
        # The band can hold every key: columns are all key positions, and shared keys are among them.
        reach = (
            Reach(reach.low, reach.high, reach.step, band_exact=reach.band_exact)
            if reach.keys is None
            else Reach(band_exact=False)
        )
        positions, offsets = torch.arange(item.S), range(0)
    else:
        positions = torch.empty(0, dtype=torch.int64) if reach.keys is None else reach.keys.cpu()
        offsets = reach.offsets()

    def result(rows: int, columns: int, wanted: bool) -> Tensor | None:
        shape = (len(heads), rows, columns)
        return torch.empty(shape, dtype=item.compute_dtype, device=item.device) if wanted else None

    columns = len(positions) + len(offsets)
    scores, softmaxes = result(item.T, columns, logits), result(item.T, columns, weights)
    global_queries = item.global_positions if pattern.global_queries else torch.empty(0, dtype=torch.int64)
    global_scores = result(len(global_queries), item.S, logits and pattern.global_queries)
    global_weights = result(len(global_queries), item.S, weights and pattern.global_queries)

    for n, head in enumerate(heads):
        scorer = RowScorer(item, pattern, reach, head)
        for rows in row_blocks(item.T, columns, reach.step):
            index = slice(rows.start, rows.stop, rows.step)
            target = softmaxes if scores is None else scores
            if target is None:
                break
            out = target[n, index]
            if offsets:
                scorer.banded(rows, out)
            else:
                scorer.fill(rows, out)
            if softmaxes is not None:
                block = softmaxes[n, index]
                if scores is not None:
                    block.copy_(out)
                softmax_(block, scorer.sink)
        if pattern.global_queries:
            scorer = RowScorer(item, pattern, Reach(band_exact=False), head, for_global=True)
            size = _rows_per_block(item.S)
            for start in range(0, len(global_queries), size):
                part = slice(start, start + size)
                target = global_weights if global_scores is None else global_scores
                assert target is not None
                out = target[n, part]
                scorer.fill(global_queries[part], out)
                if global_weights is not None:
                    global_weights[n, part] = softmax_(out.clone() if logits else out, scorer.sink)
            for values in (scores, softmaxes):
                if values is not None:
                    values[n, global_queries] = _BLANK
    return AttentionScores(
        item, pattern, heads, positions, offsets, scores, softmaxes, global_queries.cpu(), global_scores, global_weights
    )


def row_blocks(T: int, columns: int, step: int = 1) -> Iterator[range]:
    """Blocks of query positions, each in one residue class of ``step``, sized for ``columns`` cells a row."""
    size = _rows_per_block(columns) * step
    for first in range(min(step, T)):
        for start in range(first, T, size):
            yield range(start, min(start + size, T), step)


def _rows_per_block(columns: int) -> int:
    return max(64, min(8192, _BLOCK_CELLS // max(columns, 1)))


class RowScorer:
    """Logits of one head, a block of query rows at a time, written into memory that the caller gives."""

    def __init__(
        self, item: AttentionItem, pattern: Pattern, reach: Reach, head: int, *, for_global: bool = False
    ) -> None:
        self.item, self.pattern, self.reach, self.head = item, pattern, reach, head
        self.q = item.query(head, for_global=for_global)  # (T, D)
        k = item.key(head, for_global=for_global)  # (S, D)
        self.keys = reach.keys
        if self.keys is not None:
            self.k_keys = k[self.keys.to(k.device)].to(item.compute_dtype) * item.scale  # (g, D)
        if reach.band:
            self.k = k.to(item.compute_dtype)  # (S, D), a view unless the inputs are of a half type
        sinks = item.inputs.sinks
        self.sink = None if sinks is None else float(sinks[head])
        bias, slopes = item.inputs.bias, item.inputs.alibi_slopes
        if bias is not None:
            bias = bias[min(item.batch, bias.shape[0] - 1), min(head, bias.shape[1] - 1)]
            self.bias: Tensor | None = bias.to(item.device).expand(item.T, item.S)
        else:
            self.bias = None
        self.slope = None if slopes is None else float(slopes[head])
        padding, queries = item.key_padding, item.query_padding
        self.hidden_keys = None if padding is None else ~padding  # (S,)
        self.hidden_queries = None if queries is None else ~queries  # (T,)

    @property
    def g(self) -> int:
        """How many key positions every row shares."""
        return 0 if self.keys is None else len(self.keys)

    def fill(self, rows: range | Tensor, out: Tensor) -> None:
        """Logits of ``rows`` over the shared keys, or over all S keys where the pattern has a band.

        Args:
            rows: query positions.
            out: (len(rows), g) or, with a band, (len(rows), S); written in full.
        """
        q = self._rows_of(self.q, rows).to(self.item.compute_dtype)  # (b, D)
        if not self.reach.band:
            if self.keys is None:
                return
            torch.mm(q, self.k_keys.T, out=out)
            self._modify(out, rows, self.keys)
            self._hide(out, rows, self.keys, exact=self.reach.keys_exact)
            return
        span = self._span(rows)
        seen = out[:, span.start : span.stop]
        if span.start:
            out[:, : span.start] = _HIDDEN
        if span.stop < out.shape[1]:
            out[:, span.stop :] = _HIDDEN
        if not span:
            return
        self._product(q, span, seen)
        keys = torch.arange(span.start, span.stop, device=out.device)
        self._modify(seen, rows, keys)
        if isinstance(rows, range) and self.reach.band_exact and self.reach.step == 1:
            _hide_corners(seen, rows, span, self.reach)
            self._hide(seen, rows, keys, exact=True)
        else:
            self._hide(seen, rows, keys, exact=False)

    def banded(self, rows: range, out: Tensor) -> None:
        """Logits of ``rows`` over the shared keys, then over the band, a column an offset.

        A shared key that lies in the band is hidden there, so that it counts once.

        Args:
            rows: query positions, in the step of the pattern.
            out: (len(rows), g + number of offsets); written in full.
        """
        q = self._rows_of(self.q, rows).to(self.item.compute_dtype)
        offsets, step, b = self.reach.offsets(), self.reach.step, len(rows)
        if self.keys is not None:
            torch.mm(q, self.k_keys.T, out=out[:, : self.g])
            self._modify(out[:, : self.g], rows, self.keys)
            self._hide(out[:, : self.g], rows, self.keys, exact=self.reach.keys_exact)
        # One product of the block against every key that any of its rows reaches, (b, b + offsets - 1); the band
        # is its skewed view, where a column follows the query.
        first = rows[0] + offsets[0]
        reached = range(first, first + (b + len(offsets) - 1) * step, step)
        span = self.reach.span(rows, self.item.S)
        scratch = (
            out.new_full((b, len(reached)), _HIDDEN) if len(span) < len(reached) else out.new_empty((b, len(reached)))
        )
        left = (span.start - first) // step
        inside = scratch[:, left : left + len(span)]
        if span:
            self._product(q, span, inside)
            keys = torch.arange(span.start, span.stop, step, device=out.device)
            self._modify(inside, rows, keys)
            self._hide(inside, rows, keys, exact=self.reach.band_exact)
            if self.keys is not None:
                inside[:, torch.isin(keys, self.keys)] = _HIDDEN
        skewed = scratch.as_strided((b, len(offsets)), (scratch.stride(0) + 1, 1))
        out[:, self.g :] = skewed

    def _span(self, rows: range | Tensor) -> range:
        if isinstance(rows, range) and self.reach.step == 1:
            return self.reach.span(rows, self.item.S)
        return range(self.item.S)

    def _product(self, q: Tensor, span: range, out: Tensor) -> None:
        k = self.k[span.start : span.stop : span.step]  # (n, D)
        # alpha carries the scale through the product; beta=0 ignores what out held.
        torch.addmm(out, q, k.T, beta=0, alpha=self.item.scale, out=out)

    def _rows_of(self, tensor: Tensor, rows: range | Tensor) -> Tensor:
        return tensor[rows.start : rows.stop : rows.step] if isinstance(rows, range) else tensor[rows]

    def _modify(self, logits: Tensor, rows: range | Tensor, keys: Tensor) -> None:
        """The score modifiers, in the order models apply them: softcap, then bias and ALiBi."""
        cap = self.item.inputs.softcap
        if cap is not None:
            logits.div_(cap).tanh_().mul_(cap)
        if self.bias is not None:
            logits += self._rows_of(self.bias, rows)[:, keys]
        if self.slope is not None:
            t = _positions(rows, logits.device)[:, None] + (self.item.S - self.item.T)
            logits -= self.slope * (t - keys).abs()

    def _hide(self, logits: Tensor, rows: range | Tensor, keys: Tensor, *, exact: bool) -> None:
        if not exact:
            t = _positions(rows, logits.device)[:, None]
            logits.masked_fill_(~self.pattern.visible(t, keys[None, :], self.item), _HIDDEN)
        if self.hidden_keys is not None:
            logits.masked_fill_(self.hidden_keys[keys], _HIDDEN)
        if self.hidden_queries is not None:
            logits.masked_fill_(self._rows_of(self.hidden_queries, rows)[:, None], _HIDDEN)


def softmax_(logits: Tensor, sink: float | None = None) -> Tensor:
    """Softmax of the last dimension, in place; a row of -inf becomes NaN, the mark of a query that sees nothing.

    Args:
        logits: (..., C), overwritten with the weights.
        sink: a logit that adds to the denominator alone.
    """
    if sink is None and logits.is_contiguous():
        return torch.softmax(logits, -1, out=logits)
    if not logits.shape[-1]:
        return logits
    peak = logits.amax(-1, keepdim=True)
    blank = peak == _HIDDEN
    if sink is not None:
        peak = peak.clamp(min=sink)
    logits.sub_(peak).exp_()
    total = logits.sum(-1, keepdim=True)
    if sink is not None:
        total += torch.exp(sink - peak)
    return logits.div_(total.masked_fill_(blank, _BLANK))


def _positions(rows: range | Tensor, device: torch.device) -> Tensor:
    return torch.arange(rows.start, rows.stop, rows.step, device=device) if isinstance(rows, range) else rows


def _hide_corners(logits: Tensor, rows: range, span: range, reach: Reach) -> None:
    """Hide what lies outside the band in a block of logits: only its two corners can, so only they are touched."""
    b = len(rows)
    if reach.high is not None:
        first = max(rows[0] + reach.high + 1 - span.start, 0)  # the first column some row must not see
        corner = logits[:, first:]
        # Row i sees columns up to i + (rows[0] + high - span.start).
        corner.masked_fill_(
            _above(b, corner.shape[1], rows[0] + reach.high + 1 - span.start - first, logits.device), _HIDDEN
        )
    if reach.low is not None:
        stop = min(max(rows[-1] + reach.low - span.start, 0), len(span))
        corner = logits[:, :stop]
        corner.masked_fill_(~_above(b, stop, rows[0] + reach.low - span.start, logits.device), _HIDDEN)


@lru_cache(maxsize=8)
def _above(rows: int, columns: int, diagonal: int, device: torch.device) -> Tensor:
    return torch.ones(rows, columns, dtype=torch.bool, device=device).triu(diagonal)
