"""One head's logits, a block of rows at a time: products of its queries and keys, modified, and hidden where not visible."""

from __future__ import annotations

import torch
from torch import Tensor

from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.attention.reach import Reach
from attnviz.engine.products import Queries, multiply
from attnviz.engine.visibility import HIDDEN, Visibility, rows_of, to_positions

_TOGETHER = 2048
"""Keys that a processor multiplies at once, which is a fifth faster than many more; and those of a half type that are made larger."""

_WIDENED = 8192
"""Keys of a half type that an accelerator makes larger at once."""


_NOTHING = torch.empty(0)


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
        self.item, self.head, self.for_global = item, head, for_global
        self.scale, self.wide = item.scale, item.compute_dtype
        self.sees = Visibility(item, pattern.of_head(head), reach, for_global=for_global)
        self._memory = self._wide = _NOTHING
        self.queries = range(item.T) if queries is None else queries
        self.q = item.query(head, self.queries, for_global=for_global)  # (T', D)
        k = item.key(head, for_global=for_global)  # (S, D)
        item.check_products(head, self.queries, for_global=for_global)
        if reach.keys is not None:
            self.k_keys = k.index_select(0, reach.keys.to(k.device)).to(self.wide) * self.scale  # (g, D)
        if reach.band:
            self.k = k  # (S, D); of a half type, what is multiplied is made larger run by run
        self.sink, self.slope, self.softcap = item.sink(head), item.slope(head), item.softcap()
        self.bias, self.bias_hides = item.bias(head), item.bias_hides(head)  # (T, S)

    def query(self, rows: range | Tensor) -> Tensor:
        """Queries of a block, (b, D), in the dtype that products run in."""
        if isinstance(rows, range) and rows == self.queries:
            return self.q.to(self.wide)
        first = self.queries.start
        local = range(rows.start - first, rows.stop - first, rows.step) if isinstance(rows, range) else rows - first
        return rows_of(self.q, local).to(self.wide)

    def bound(self, q: Tensor) -> Tensor | None:
        """A number not below any logit of each query of (b, D), (b,): ``|q| max |k|`` times scale; None where a bias may exceed it."""
        if self.bias is not None or (self.slope is not None and self.slope < 0):
            return None
        longest = self.item.longest_key(self.head, for_global=self.for_global)
        # A hair above, for the rounding of the products.
        bound: Tensor = torch.linalg.vector_norm(q, dim=1) * (longest * self.scale * (1 + 1e-4))
        return bound if self.softcap is None else bound.clamp(max=self.softcap)

    def hides(self, rows: range | Tensor, keys: range | Tensor) -> bool:
        """Whether some cell of a tile may be hidden."""
        return self.bias_hides or self.sees.hides(rows, keys)

    @property
    def band_alone(self) -> bool:
        """Whether a query sees exactly the keys of one band without gaps."""
        return self.sees.band_alone and not self.bias_hides

    def logits(self, rows: range | Tensor, out: Tensor) -> Tensor:
        """Logits of ``rows`` over the shared keys, then over the span of their band.

        A shared key that lies in the span is hidden there, so that it counts once.

        Args:
            rows: query indices: a range in the reach's own step or, where the reach is open, any.
            out: (len(rows), g + len(span)); written in full and returned.
        """
        q, g = self.query(rows), self.sees.g  # (b, D)
        if self.sees.keys is not None:
            self._shared(q, rows, out[:, :g], self.sees.keys)
        self._runs(q, rows, self.sees.spans(rows), out[:, g:])
        return out

    def tile(self, q: Queries, rows: range | Tensor, keys: range | Tensor) -> Tensor:
        """What becomes of the logits of a block of rows over a run of the keys, in memory that may be used again.

        Args:
            q: b' queries, and what becomes of their logits; those beyond the rows are for nothing but the size of the block.
            rows: b <= b' query indices.
            keys: n key indices: a run of the span, or some of the shared keys.

        Returns:
            (b', n), the transpose of a contiguous tensor: reductions over keys run fast.
        """
        if isinstance(keys, range):
            k, scale = self._band_keys(keys), self.scale
        else:
            k, scale = self._shared_keys(keys), 1.0

        def memory() -> Tensor:
            cells = len(q) * len(keys)
            if self._memory.numel() < cells:
                self._memory = k.new_empty(cells)
            return self._memory[:cells].view(len(keys), len(q))

        if self._modifies:
            out = q.logits(k, scale, memory())
            self._modify(out.T[: len(rows)], rows, keys)
            q.finished_(out)
        else:
            out = q.exponents(k, scale, memory)
        self._hide_(out.T[: len(rows)], rows, keys)
        return out.T

    def fill(self, rows: range | Tensor, out: Tensor) -> None:
        """Logits of ``rows`` over all keys, or over the shared keys where there is no band.

        Args:
            rows: query indices.
            out: (len(rows), S) or, without a band, (len(rows), g); written in full.
        """
        if not self.sees.reach.band:
            self.logits(rows, out)
            return
        spans, q = self.sees.spans(rows), self.query(rows)
        before = 0
        for span in spans:
            out[:, before : span.start] = HIDDEN
            self._band(q, rows, span, out[:, span.start : span.stop])
            before = span.stop
        out[:, before:] = HIDDEN

    def banded(self, rows: range, out: Tensor) -> None:
        """Logits of ``rows`` over the shared keys, then over the band, a column an offset.

        A shared key that lies in the band is hidden there, so that it counts once.

        Args:
            rows: query indices, in the step of the pattern.
            out: (len(rows), g + number of offsets); written in full.
        """
        q, sees = self.query(rows), self.sees  # (b, D)
        if sees.keys is not None:
            self._shared(q, rows, out[:, : sees.g], sees.keys)
        offsets, step, b = sees.reach.offsets(), sees.reach.step, len(rows)
        # One product of the block against every key that any of its rows reaches, (b, b + offsets - 1); the band
        # is its skewed view, where a column follows the query.
        first, width = rows[0] + offsets[0], b + len(offsets) - 1
        spans = sees.spans(rows)
        scratch = out.new_empty((b, width))
        if sum(map(len, spans)) < width:
            scratch.fill_(HIDDEN)
        for span in spans:
            left = (span.start - first) // step
            inside = scratch[:, left : left + len(span)]
            self._product(q, span, inside)
            self._modify(inside, rows, span)
            if sees.reach.band_exact:
                sees.hide_own_(inside, rows, span)
            sees.hide_(inside, rows, span, exact=sees.reach.band_exact)
            sees.hide_shared_(inside, span)
        out[:, sees.g :] = scratch.as_strided((b, len(offsets)), (width + 1, 1))

    def _shared(self, q: Tensor, rows: range | Tensor, out: Tensor, keys: Tensor) -> None:
        """Logits over shared keys: all of them, or a run of them."""
        multiply(q, self._shared_keys(keys).T, out=out)
        self._modify(out, rows, keys)
        self._hide_(out, rows, keys)

    def _runs(self, q: Tensor, rows: range | Tensor, spans: list[range], out: Tensor) -> None:
        """Logits over runs of the band, one after another."""
        at = 0
        for span in spans:
            self._band(q, rows, span, out[:, at : at + len(span)])
            at += len(span)

    def _band(self, q: Tensor, rows: range | Tensor, span: range, out: Tensor) -> None:
        """Logits over a run of the band's span."""
        if not span:
            return
        self._product(q, span, out)
        self._modify(out, rows, span)
        self._hide_(out, rows, span)

    def _product(self, q: Tensor, span: range, out: Tensor) -> None:
        size = _TOGETHER
        if out.device.type != "cpu":
            size = len(span) if self.k.dtype == self.wide else _WIDENED
        for start in range(0, len(span), size):
            part = span[start : start + size]
            multiply(q, self._band_keys(part).T, scale=self.scale, out=out[:, start : start + len(part)])

    def _band_keys(self, span: range) -> Tensor:
        """Keys of a run of the band, (n, D), in the dtype that products run in: of a half type, in memory that the next run uses again."""
        k, wide = self.k[span.start : span.stop : span.step], self.wide
        if k.dtype == wide:
            return k
        if self._wide.numel() < k.numel():
            self._wide = torch.empty(k.numel(), dtype=wide, device=k.device)
        return self._wide[: k.numel()].view(k.shape).copy_(k)

    def _shared_keys(self, keys: Tensor) -> Tensor:
        """Shared keys, all of them or a run of them, (n, D), times the scale."""
        assert self.sees.keys is not None
        return self.k_keys if len(keys) == self.sees.g else self.k_keys[torch.isin(self.sees.keys, keys)]

    def _hide_(self, logits: Tensor, rows: range | Tensor, keys: range | Tensor) -> None:
        """Hides what is not visible of a run of the band, or of shared keys."""
        if isinstance(keys, range):
            self.sees.hide_band_(logits, rows, keys)
        else:
            self.sees.hide_(logits, rows, keys, exact=self.sees.reach.keys_exact)

    @property
    def _modifies(self) -> bool:
        """Whether logits are more than products of queries and keys."""
        return self.softcap is not None or self.bias is not None or self.slope is not None

    def _modify(self, logits: Tensor, rows: range | Tensor, keys: range | Tensor) -> None:
        """The score modifiers, in the order models apply them: softcap, then bias and ALiBi."""
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        if self.bias is not None:
            logits += rows_of(rows_of(self.bias, rows).T, keys).T
        if self.slope is not None:
            # In the dtype of the logits: distances up to 2**24 are exact, and a tile of integers would be twice as large.
            t = self.item.query_position(to_positions(rows, logits.device))[:, None]
            s = self.item.key_position(to_positions(keys, logits.device))
            t, s = (positions.sub(s[:1]).to(logits.dtype) for positions in (t, s))
            logits.sub_((t - s).abs_(), alpha=self.slope)
