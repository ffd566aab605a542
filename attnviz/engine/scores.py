"""The formula, exactly: logits and softmax weights of each head over the keys its pattern makes visible.

    score[h, t, s] = dot(q[h, t], k[kv(h), s]) * scale        for s in visible(t)
    weight[h, t]   = softmax of score[h, t] over visible(t)

Rows of queries go through in blocks that fit a cache, straight into the result; nothing of the size of the whole
map is made besides the result itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from attnviz.attention.inputs import AttentionInputs, AttentionItem
from attnviz.attention.patterns import GlobalKeys, Pattern, Reach
from attnviz.base.devices import parse_device, parse_dtype
from attnviz.base.errors import InputError

Positions = np.ndarray[tuple[int], np.dtype[np.int64]]

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

    def global_values(self, name: str) -> Tensor:
        """The logits or the weights of global queries, (n, R, S)."""
        tensor = self.global_scores if name == "logits" else self.global_weights
        assert tensor is not None, f"{name} of global queries were not computed"
        return tensor

    def key_positions(self, query: int) -> list[int | None]:
        """The key position of each column for one query; None where the band leaves the sequence."""
        band = [query + offset for offset in self.offsets]
        return [*self.positions.tolist(), *(s if 0 <= s < self.item.S else None for s in band)]

    def _repr_html_(self) -> str:
        from attnviz.show.notebook import scores_html  # tables are floors above, and only a notebook asks for one

        return scores_html(self)


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
        pattern: which query sees which key; None is the inputs' own, else
            :class:`~attnviz.attention.patterns.GlobalKeys`: the global scores, (H, T, G).
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
    pattern = pattern or inputs.pattern or GlobalKeys()
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
        reach = reach.hull()
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
        for rows in row_blocks(range(item.T), _rows_per_block(columns, band=reach.band), reach.step):
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


def row_blocks(queries: range, size: int, step: int = 1) -> Iterator[range]:
    """Blocks of ``size`` query positions out of ``queries``, each in one residue class of ``step``."""
    for first in queries[:step]:
        for start in range(first, queries.stop, size * step):
            yield range(start, min(start + size * step, queries.stop), step)


def _rows_per_block(columns: int, *, band: bool = True) -> int:
    # Without a band there is no scratch memory to keep in cache, and each block costs two rounds of all threads,
    # which wait for the last one: where other programs keep a core busy, few large blocks are several times faster.
    larger = 1 if band else 4
    # A block of a band is computed over every key that any of its rows sees, rows + columns: few rows waste little.
    most = max(128, 2 * columns) if band and columns else larger * 8192
    return max(64, min(most, larger * _BLOCK_CELLS // max(columns, 1)))


@dataclass(frozen=True)
class Block:
    """Some query rows of one head over every key that any of them may see; memory that the next block reuses."""

    rows: Tensor  # (b,) query positions
    keys: Tensor  # (n,) key positions
    values: Tensor  # (b, n) weights, NaN rows where a query sees nothing; or logits, -inf where not visible
    visible: Tensor  # (b,) how many keys each query sees
    shared: int  # how many of the first columns are keys that all rows share; one may come again, hidden, in the rest
    for_global: bool  # whether these are rows of global queries


def blocks(
    item: AttentionItem, pattern: Pattern, head: int, *, queries: range | None = None, weights: bool = True
) -> Iterator[Block]:
    """One head's rows, block by block, every query once: for what is summed up and never kept whole."""
    queries = range(item.T) if queries is None else queries
    reach = pattern.reach(item)
    apart = item.global_positions if pattern.global_queries else None
    memory = torch.empty(0, dtype=item.compute_dtype, device=item.device)

    def block(scorer: RowScorer, rows: range | Tensor) -> Block:
        nonlocal memory
        keys = scorer.columns(rows)
        b, n = len(rows), len(keys)
        if memory.numel() < b * n:
            memory = memory.new_empty(b * n)
        values = scorer.logits(rows, memory[: b * n].view(b, n))
        if scorer.hides(rows, scorer.span(rows)) or scorer.hides(rows, keys[: scorer.g]):
            visible = torch.count_nonzero(values > _HIDDEN, dim=1)
        else:
            visible = torch.full((b,), n, device=item.device)
        if weights:
            softmax_(values, scorer.sink)
        return Block(to_positions(rows, item.device), keys, values, visible, scorer.g, scorer.for_global)

    scorer = RowScorer(item, pattern, reach, head)
    size = _rows_per_block(item.S if reach.open else len(reach.offsets()))
    for rows in row_blocks(queries, size, reach.step):
        found = block(scorer, rows)
        if apart is not None:
            stay = ~torch.isin(found.rows, apart)
            if not bool(stay.all()):
                found = Block(found.rows[stay], found.keys, found.values[stay], found.visible[stay], scorer.g, False)
        yield found
    if apart is not None:
        apart = apart[(apart >= queries.start) & (apart < queries.stop)]
        scorer = RowScorer(item, pattern, Reach(band_exact=False), head, for_global=True)
        for part in apart.split(_rows_per_block(item.S)) if len(apart) else ():
            yield block(scorer, part)


class RowScorer:
    """Logits of one head, a block of query rows at a time, written into memory that the caller gives."""

    def __init__(
        self,
        item: AttentionItem,
        pattern: Pattern,
        reach: Reach,
        head: int,
        *,
        queries: range | None = None,
        for_global: bool = False,
    ) -> None:
        """Reads one head: its keys and, of its queries, those of ``queries``; None is all."""
        self.item, self.pattern, self.reach, self.head = item, pattern, reach, head
        self.for_global = for_global
        self._memory = torch.empty(0)
        self.queries = range(item.T) if queries is None else queries
        self.q = item.query(head, self.queries, for_global=for_global)  # (T', D)
        k = item.key(head, for_global=for_global)  # (S, D)
        item.check_products(head, self.queries, for_global=for_global)
        self.keys = reach.keys
        if self.keys is not None:
            self.k_keys = k[self.keys.to(k.device)].to(item.compute_dtype) * item.scale  # (g, D)
        if reach.band:
            self.k = k.to(item.compute_dtype)  # (S, D), a view unless the inputs are of a half type
        sinks = item.inputs.sinks
        self.sink = None if sinks is None else float(sinks[head])
        slopes = item.inputs.alibi_slopes
        self.bias = item.bias(head)  # (T, S)
        self.slope = None if slopes is None else float(slopes[head])
        keys, rows = item.key_padding, item.query_padding
        self.hidden_keys = None if keys is None else ~keys  # (S,)
        self.hidden_queries = None if rows is None else ~rows  # (T,)

    @property
    def g(self) -> int:
        """How many key positions every row shares."""
        return 0 if self.keys is None else len(self.keys)

    def span(self, rows: range | Tensor) -> range:
        """The key positions of the band that a block of rows can see."""
        return self.reach.span(rows, self.item.S) if isinstance(rows, range) else range(self.item.S)

    def columns(self, rows: range | Tensor) -> Tensor:
        """The key position of each column that :meth:`logits` writes for ``rows``, (g + span,)."""
        span = to_positions(self.span(rows), self.item.device)
        return span if self.keys is None else torch.cat([self.keys, span])

    def logits(self, rows: range | Tensor, out: Tensor) -> Tensor:
        """Logits of ``rows`` over the shared keys, then over the span of their band.

        A shared key that lies in the span is hidden there, so that it counts once.

        Args:
            rows: query positions: a range in the reach's own step or, where the reach is open, any.
            out: (len(rows), g + len(span)); written in full and returned.
        """
        q = self.query(rows)  # (b, D)
        if self.keys is not None:
            self._shared(q, rows, out[:, : self.g], self.keys)
        self._band(q, rows, self.span(rows), out[:, self.g :])
        return out

    def query(self, rows: range | Tensor) -> Tensor:
        """Queries of a block, (b, D), in the dtype that products run in."""
        first = self.queries.start
        local = range(rows.start - first, rows.stop - first, rows.step) if isinstance(rows, range) else rows - first
        return self._rows_of(self.q, local).to(self.item.compute_dtype)

    def tile(self, q: Tensor, rows: range | Tensor, keys: range | Tensor) -> Tensor:
        """Logits of a block of rows, whose queries are ``q``, over a run of the keys, in memory that is used again.

        Args:
            q: (b', D), as :meth:`query` gives them; those beyond the rows are for nothing but the size of the block.
            rows: b <= b' query positions.
            keys: n key positions: a run of the span, or some of the shared keys.

        Returns:
            (b', n), the transpose of a contiguous tensor: reductions over keys run fast.
        """
        cells = len(q) * len(keys)
        if self._memory.numel() < cells:
            self._memory = q.new_empty(cells)
        out = self._memory[:cells].view(len(keys), len(q)).T
        if isinstance(keys, range):
            self._band(q, rows, keys, out)
        else:
            self._shared(q, rows, out, keys)
        return out

    @cached_property
    def _longest_key(self) -> float:
        k = self.item.key(self.head, for_global=self.for_global).to(self.item.compute_dtype)
        return float(torch.linalg.vector_norm(k, dim=1).amax())

    def bound(self, q: Tensor) -> Tensor | None:
        """A number not below any logit of each query of (b, D), (b,): ``|q| max |k|`` times scale; None where a bias may exceed it."""
        if self.bias is not None or (self.slope is not None and self.slope < 0):
            return None
        # A hair above, for the rounding of the products.
        bound: Tensor = torch.linalg.vector_norm(q, dim=1) * (self._longest_key * self.item.scale * (1 + 1e-4))
        cap = self.item.inputs.softcap
        return bound if cap is None else bound.clamp(max=cap)

    def hides(self, rows: range | Tensor, keys: range | Tensor) -> bool:
        """Whether some cell of a tile may be hidden."""
        if self.hidden_keys is not None or self.hidden_queries is not None:
            return True
        if not len(keys):
            return False
        if not isinstance(keys, range):
            return not self.reach.keys_exact
        if not self.reach.band_exact or not isinstance(rows, range) or self.keys is not None:
            return True
        low, high = keys[0] - rows[-1], keys[-1] - rows[0]
        return (self.reach.low is not None and low < self.reach.low) or (
            self.reach.high is not None and high > self.reach.high
        )

    @property
    def band_alone(self) -> bool:
        """Whether a query sees exactly the keys of one band without gaps: no shared keys, no padding, no other rules."""
        alone = self.reach.band and self.reach.band_exact and self.reach.step == 1 and self.keys is None
        padded = self.hidden_keys is not None or self.hidden_queries is not None
        return alone and not padded and not self.pattern.global_queries

    def band_meets(
        self, first_rows: Positions, last_rows: Positions, first_keys: Positions, last_keys: Positions
    ) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        """Whether some query of each run of queries sees some key of each run of keys, (p, m); see :attr:`band_alone`."""
        meets = np.ones((len(first_rows), len(first_keys)), dtype=bool)
        if self.reach.high is not None:
            meets &= first_keys <= (last_rows + self.reach.high)[:, None]
        if self.reach.low is not None:
            meets &= last_keys >= (first_rows + self.reach.low)[:, None]
        return meets

    def hidden(self, rows: range | Tensor) -> Tensor:
        """Which of ``rows`` are padding, (len(rows),) bool."""
        if self.hidden_queries is None:
            return torch.zeros(len(rows), dtype=torch.bool, device=self.item.device)
        return self._rows_of(self.hidden_queries, rows)

    def counts(self, rows: range | Tensor) -> Tensor | None:
        """Which of ``rows`` this scorer speaks for, (b,) bool: not those of global queries, scored apart. None is all."""
        if not self.pattern.global_queries or self.for_global:
            return None
        return ~torch.isin(to_positions(rows, self.item.device), self.item.global_positions)

    def fill(self, rows: range | Tensor, out: Tensor) -> None:
        """Logits of ``rows`` over all keys, or over the shared keys where there is no band.

        Args:
            rows: query positions.
            out: (len(rows), S) or, without a band, (len(rows), g); written in full.
        """
        if not self.reach.band:
            self.logits(rows, out)
            return
        span = self.span(rows)
        out[:, : span.start] = _HIDDEN
        out[:, span.stop :] = _HIDDEN
        self.logits(rows, out[:, span.start : span.stop])

    def banded(self, rows: range, out: Tensor) -> None:
        """Logits of ``rows`` over the shared keys, then over the band, a column an offset.

        A shared key that lies in the band is hidden there, so that it counts once.

        Args:
            rows: query positions, in the step of the pattern.
            out: (len(rows), g + number of offsets); written in full.
        """
        q = self.query(rows)  # (b, D)
        if self.keys is not None:
            self._shared(q, rows, out[:, : self.g], self.keys)
        offsets, step, b = self.reach.offsets(), self.reach.step, len(rows)
        # One product of the block against every key that any of its rows reaches, (b, b + offsets - 1); the band
        # is its skewed view, where a column follows the query.
        first, width = rows[0] + offsets[0], b + len(offsets) - 1
        span = self.span(rows)
        scratch = out.new_empty((b, width))
        if len(span) < width:
            scratch.fill_(_HIDDEN)
        left = (span.start - first) // step
        inside = scratch[:, left : left + len(span)]
        if span:
            self._product(q, span, inside)
            self._modify(inside, rows, span)
            self._hide(inside, rows, span, exact=self.reach.band_exact)
            self._hide_shared(inside, span)
        out[:, self.g :] = scratch.as_strided((b, len(offsets)), (width + 1, 1))

    def _shared(self, q: Tensor, rows: range | Tensor, out: Tensor, keys: Tensor) -> None:
        """Logits over shared keys: all of them, or a run of them."""
        assert self.keys is not None
        k_keys = self.k_keys if len(keys) == self.g else self.k_keys[torch.isin(self.keys, keys)]
        torch.mm(q, k_keys.T, out=out)
        out = out[: len(rows)]
        self._modify(out, rows, keys)
        self._hide(out, rows, keys, exact=self.reach.keys_exact)

    def _band(self, q: Tensor, rows: range | Tensor, span: range, out: Tensor) -> None:
        """Logits over a run of the band's span."""
        if not span:
            return
        self._product(q, span, out)
        out = out[: len(rows)]
        self._modify(out, rows, span)
        exact = self.reach.band_exact
        if exact and isinstance(rows, range):
            _hide_corners(out, rows, span, self.reach)
        self._hide(out, rows, span, exact=exact)
        self._hide_shared(out, span)

    def _hide_shared(self, banded: Tensor, span: range) -> None:
        if self.keys is not None:
            banded[:, torch.isin(to_positions(span, banded.device), self.keys)] = _HIDDEN

    def _product(self, q: Tensor, span: range, out: Tensor) -> None:
        k = self.k[span.start : span.stop : span.step]  # (n, D)
        # alpha carries the scale through the product; beta=0 ignores what out held.
        torch.addmm(out, q, k.T, beta=0, alpha=self.item.scale, out=out)

    def _rows_of(self, tensor: Tensor, rows: range | Tensor) -> Tensor:
        return tensor[rows.start : rows.stop : rows.step] if isinstance(rows, range) else tensor[rows]

    def _modify(self, logits: Tensor, rows: range | Tensor, keys: range | Tensor) -> None:
        """The score modifiers, in the order models apply them: softcap, then bias and ALiBi."""
        cap = self.item.inputs.softcap
        if cap is not None:
            logits.div_(cap).tanh_().mul_(cap)
        if self.bias is not None:
            logits += self._rows_of(self._rows_of(self.bias, rows).T, keys).T
        if self.slope is not None:
            # In the dtype of the logits: positions up to 2**24 are exact, and a tile of integers would be twice as large.
            t = to_positions(rows, logits.device)[:, None] + (self.item.S - self.item.T)
            distance = t.to(logits.dtype) - to_positions(keys, logits.device).to(logits.dtype)
            logits.sub_(distance.abs_(), alpha=self.slope)

    def _hide(self, logits: Tensor, rows: range | Tensor, keys: range | Tensor, *, exact: bool) -> None:
        if not exact:
            queries, s = to_positions(rows, logits.device)[:, None], to_positions(keys, logits.device)[None, :]
            # In parts: a pattern makes several tensors of 64-bit integers on its way, no larger together than a tile.
            size = -(-len(rows) // 8)
            for t, part in zip(queries.split(size), logits.split(size), strict=True):
                part.masked_fill_(~self.pattern.visible(t, s, self.item), _HIDDEN)
        if self.hidden_keys is not None:
            logits.masked_fill_(self._rows_of(self.hidden_keys, keys), _HIDDEN)
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


def to_positions(rows: range | Tensor, device: torch.device) -> Tensor:
    """Positions as a tensor."""
    return torch.arange(rows.start, rows.stop, rows.step, device=device) if isinstance(rows, range) else rows


def _hide_corners(logits: Tensor, rows: range, span: range, reach: Reach) -> None:
    """Hide what lies outside the band in a block of logits: only its two corners can, so only they are touched.

    Row i and column j are ``start + (j - i) * step`` apart, so a corner is a triangle of the block.
    """
    b, n, start = len(rows), len(span), span.start - rows[0]
    if reach.high is not None:
        most = (reach.high - start) // reach.step  # visible while j - i <= most
        first = min(max(most + 1, 0), n)
        _hide_triangle(logits[:, first:], most + 1 - first, above=True)
    if reach.low is not None:
        least = -((start - reach.low) // reach.step)  # visible while j - i >= least
        stop = min(max(least + b - 1, 0), n)
        _hide_triangle(logits[:, :stop], least, above=False)


def _hide_triangle(logits: Tensor, diagonal: int, *, above: bool) -> None:
    """Hides the part where column - row >= ``diagonal``, or else the part below it."""
    if not logits.numel():
        return
    if logits.stride(0) < logits.stride(1):  # keys down in memory: so is the mask, which is read with it
        logits, diagonal, above = logits.T, 1 - diagonal, not above
    logits += _triangle(*logits.shape, diagonal, above, logits.dtype, logits.device)


@lru_cache(maxsize=2)  # the corners of one block, which are those of the next
def _triangle(rows: int, columns: int, diagonal: int, above: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """-inf in the triangle and 0 elsewhere: adding it takes a fifth of the time of ``masked_fill_``."""
    hidden = torch.full((rows, columns), _HIDDEN, dtype=dtype, device=device)
    return hidden.triu_(diagonal) if above else hidden.tril_(diagonal - 1)
