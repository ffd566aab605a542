"""Weights that were given, as an attention: rows, blocks and cells of what something else computed, as they are.

No softmax, no renormalizing. One head is read at a time, whole rows of it; a file that is mapped stays on disk.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attnviz.attention.call import GivenCall
from attnviz.attention.checks import magnitude
from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Full, Pattern
from attnviz.base.devices import dtype_name
from attnviz.base.errors import InputError
from attnviz.engine.blocks import BLOCK_CELLS, SeenRows, stepped
from attnviz.engine.softmax import BLANK
from attnviz.engine.visibility import HIDDEN, to_positions
from attnviz.engine.whole import WholeRows


def no_logits(item: AttentionItem) -> InputError:
    """The error of asking weights that were given for logits that were not."""
    if not isinstance(item.inputs, GivenCall):
        return InputError(
            f"{item.source}: is made of several maps, or of weights and values, and has no logits; take --values weights"
        )
    return InputError(
        f"{item.source}: holds weights that were given, without logits, which are before softmax; give them too "
        f"(--logits NAME), or take --values weights"
    )


class GivenRows:
    """The rows of one head, each over every key, checked as they are read."""

    step: int | None = None

    def __init__(self, item: AttentionItem, pattern: Pattern, head: int) -> None:
        self.item, self.head = item, head
        self.pattern = None if isinstance(pattern, Full) else pattern.of_head(head)
        pattern.reach(item)  # raises where it doesn't fit
        self.apart = torch.empty(0, dtype=torch.int64)

    def block(self, rows: range | Tensor, *, weights: bool = True) -> tuple[Tensor, Tensor | None, Tensor]:
        """As :meth:`attnviz.engine.whole.BlockRows.block`.

        Raises:
            InputError: a number that can't be; a weight on a key that is hidden; logits that were not given.
        """
        at = to_positions(rows, self.item.device)
        values, seen = self.item.given_rows("weights", self.head, rows), self._seen(at)
        blank = self._blank(values, seen, at)
        if seen is not None:
            seen = seen & ~blank[:, None]
            values = self._without_hidden(values, seen, blank)
        elif bool(blank.any()):
            seen = (~blank)[:, None].expand(values.shape)
        visible = torch.full((len(at),), self.item.S, device=self.item.device) if seen is None else seen.sum(1)
        if weights:
            return (values if seen is None else values.masked_fill(blank[:, None], BLANK)), seen, visible
        return self._logits(rows, at, seen)

    def span(self, rows: range | Tensor) -> range:
        """As :meth:`attnviz.engine.whole.BlockRows.span`: every key."""
        return range(self.item.S)

    def read(self, rows: range | Tensor, *, weights: bool = True) -> SeenRows:
        """Any queries over every key, on the CPU in float64; without a pattern, a weight of 0 says no key is seen."""
        values, seen, _ = self.block(rows, weights=weights)
        if self.pattern is None and weights:
            seen = (values != 0) & ~torch.isnan(values)
        elif seen is None:
            seen = torch.ones_like(values, dtype=torch.bool)
        return SeenRows(torch.arange(self.item.S), values.cpu().double(), seen.cpu())

    def _seen(self, at: Tensor) -> Tensor | None:
        """What the pattern and padding show, (b, S) bool; None where that is all."""
        item, seen = self.item, None
        if self.pattern is not None:
            keys = torch.arange(item.S, device=at.device)[None]
            # In parts: a pattern makes several tensors of 64-bit integers on its way.
            parts = at[:, None].split(max(1, BLOCK_CELLS // 4 // item.S))
            pattern = self.pattern
            seen = torch.cat([pattern.visible(part, keys, item).expand(len(part), item.S) for part in parts])
        if item.key_padding is not None:
            seen = item.key_padding.expand(len(at), item.S) if seen is None else seen & item.key_padding
        if item.query_padding is not None:
            exists = item.query_padding[at][:, None]
            seen = exists.expand(len(at), item.S) if seen is None else seen & exists
        return seen

    def _blank(self, values: Tensor, seen: Tensor | None, at: Tensor) -> Tensor:
        """The queries that see nothing, (b,): wholly NaN, or all hidden, whatever stands there then.

        Raises:
            InputError: NaN or Inf in another row.
        """
        blank = torch.zeros(len(values), dtype=torch.bool, device=values.device) if seen is None else ~seen.any(1)
        if math.isfinite(magnitude(values)):
            return blank
        blank = blank | torch.isnan(values).all(1)
        wrong = ~torch.isfinite(values) & ~blank[:, None]
        if bool(wrong.any()):
            query, key = wrong.nonzero()[0].tolist()
            place = (self.item.batch, self.head, int(at[query]), key)
            raise InputError(
                f"{self.item.source}: weights has {int(wrong[query].sum())} of {wrong.shape[1]} values that are NaN or Inf "
                f"in one row, first at index {place}; a row wholly NaN is of a query that sees nothing, a part of one is "
                f"an error; fix what wrote it"
            )
        return blank

    def _without_hidden(self, values: Tensor, seen: Tensor, blank: Tensor) -> Tensor:
        """The values, where none is on a hidden key."""
        if bool(((values != 0) & ~seen & ~blank[:, None]).any()):
            self._refuse_hidden()
        return values

    def _refuse_hidden(self) -> None:
        """Raises InputError for weights on keys that are hidden: how many the head has, and the first."""
        count, first, item = 0, (0, 0), self.item
        for rows in stepped(range(item.T), max(1, BLOCK_CELLS // item.S)):
            at = to_positions(rows, item.device)
            values, seen = item.given_rows("weights", self.head, rows), self._seen(at)
            assert seen is not None
            wrong = (values != 0) & ~torch.isnan(values) & ~seen & seen.any(1)[:, None]
            if not count and bool(wrong.any()):
                query, key = wrong.nonzero()[0].tolist()
                first = (int(at[query]), key)
            count += int(wrong.sum())
        hides = "padding (key_padding_mask)" if self.pattern is None else f"the pattern {self.pattern}"
        raise InputError(
            f"{item.source}: {count:,} weight{'s are' if count != 1 else ' is'} not 0 on pairs that {hides} hides, first "
            f"at index {(item.batch, self.head, *first)}; give the pattern and the padding that they were computed with "
            f"(--pattern, --padding), or none (--pattern full)"
        )

    def _logits(self, rows: range | Tensor, at: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        item = self.item
        if getattr(item.inputs, "logits", None) is None:
            raise no_logits(item)
        values = item.given_rows("logits", self.head, rows)
        there = torch.ones_like(values, dtype=torch.bool) if seen is None else seen
        wrong = (torch.isnan(values) | (values == torch.inf)) & there
        if bool(wrong.any()):
            query, key = wrong.nonzero()[0].tolist()
            place = (item.batch, self.head, int(at[query]), key)
            raise InputError(
                f"{item.source}: logits has NaN or +Inf, first at index {place}; -Inf alone hides a key; fix what wrote it"
            )
        there = there & (values > HIDDEN)
        return values.masked_fill(~there, HIDDEN), there, there.sum(1)


class Given(WholeRows):
    """Weights that were given, under a pattern that hides none of them."""

    def __init__(self, item: AttentionItem, pattern: Pattern) -> None:
        self.item, self.pattern = item, pattern

    @property
    def name(self) -> str:
        said = (self.pattern_name, dtype_name(self.item.dtype), self.item.device.type)
        return f"{self.item.source} ({', '.join(said)})"

    @property
    def given(self) -> bool:
        return True

    @property
    def pattern_name(self) -> str:
        return "given" if isinstance(self.pattern, Full) else f"given, {self.pattern}"

    @property
    def knows_hidden(self) -> bool:
        return not isinstance(self.pattern, Full)

    @property
    def caveat(self) -> str | None:
        if self.knows_hidden:
            return None
        return (
            "no pattern came with the weights, so every key counts as visible: in entropy as a share, in diagonal and previous "
            "mass, and in the weight that a key receives; give the pattern to count by it (--pattern causal)"
        )

    @property
    def has_logits(self) -> bool:
        return getattr(self.item.inputs, "logits", None) is not None

    def whole_rows(self, head: int, memory: int | None = None) -> GivenRows:
        return GivenRows(self.item, self.pattern, head)
