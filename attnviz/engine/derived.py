"""What attentions that are made of others have in common: their pattern, their rows out of blocks, their cells.

Each is read as any attention is: rows of a head, blocks, cells. One member is read at a time, and nothing of T x S is made.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.attention.reach import Reach
from attnviz.base.devices import dtype_name
from attnviz.base.errors import InputError
from attnviz.base.types import Positions
from attnviz.engine.attention import Attention
from attnviz.engine.blocks import Block, SeenRows
from attnviz.engine.given import no_logits
from attnviz.engine.reducer import Reduced, Wanted
from attnviz.engine.visibility import to_positions
from attnviz.engine.whole import GivenCells


@dataclass(frozen=True, eq=False)
class PartsPattern(Pattern):
    """What any of several attentions makes visible, each by its own pattern, masks and positions."""

    parts: tuple[tuple[Pattern, AttentionItem], ...]

    @classmethod
    def of(cls, parts: Sequence[Attention], heads: Sequence[int] | None = None) -> PartsPattern:
        """That of some attentions, or of some heads of one."""
        if heads is None:
            return cls(tuple((part.pattern, part.item) for part in parts))
        own = {id(one): one for one in (parts[0].pattern.of_head(head) for head in heads)}  # most have one for all
        return cls(tuple((one, parts[0].item) for one in own.values()))

    @property
    def global_queries(self) -> bool:  # type: ignore[override]
        return any(pattern.global_queries for pattern, _ in self.parts)

    def of_head(self, head: int) -> PartsPattern:
        return PartsPattern(tuple((pattern.of_head(head), item) for pattern, item in self.parts))

    def reasons(self) -> list[tuple[str, Pattern]]:
        found: dict[str, list[tuple[Pattern, AttentionItem]]] = {}
        for pattern, item in self.parts:
            for reason, part in pattern.reasons():
                found.setdefault(reason, []).append((part, item))
        return [(reason, PartsPattern(tuple(parts))) for reason, parts in found.items()]

    def visible(self, t: Tensor, s: Tensor, item: Any) -> Tensor:
        return reduce(torch.logical_or, (pattern.visible(t, s, own) for pattern, own in self.parts))

    def reach(self, item: Any) -> Reach:
        return reduce(or_, (pattern.reach(own) for pattern, own in self.parts))

    def __str__(self) -> str:
        return " + ".join(dict.fromkeys(str(pattern) for pattern, _ in self.parts))


class Derived(Attention):
    """What attentions made of others have in common: cells out of blocks."""

    softmaxed = False
    said: str

    def __init__(self, item: AttentionItem, pattern: Pattern, parts: Sequence[Attention]) -> None:
        self.item, self.pattern, self.parts = item, pattern, tuple(parts)

    @property
    def given(self) -> bool:
        return any(part.given for part in self.parts)

    @property
    def pattern_name(self) -> str:
        names = dict.fromkeys(part.pattern_name for part in self.parts)
        return " + ".join(names)

    @property
    def knows_hidden(self) -> bool:
        return all(part.knows_hidden for part in self.parts)

    @property
    def caveat(self) -> str | None:
        return next((part.caveat for part in self.parts if part.caveat is not None), None)

    @property
    def name(self) -> str:
        said = (self.said, self.pattern_name, dtype_name(self.item.dtype), self.item.device.type)
        return f"{self.item.source} ({', '.join(one for one in said if one)})"

    def blocks(
        self, head: int, *, queries: range | None = None, weights: bool = True, sums: bool = False
    ) -> Iterator[Block]:
        if not weights:
            raise self.no_logits()
        return self._blocks(head, range(self.item.T) if queries is None else queries)

    @abstractmethod
    def _blocks(self, head: int, queries: range, most: int | None = None) -> Iterator[Block]:
        """Blocks of weights of some queries, of at most so many rows where that is said."""

    def reduced(self, head: int, row_edges: Positions, column_edges: Positions, wanted: Wanted) -> Reduced:
        if wanted.logits:
            raise self.no_logits()
        tile = wanted.tile_of(self.item, row_edges, column_edges)
        most = None if wanted.memory is None else max(1, tile.rows * tile.keys // self.item.S)
        grid = GivenCells(row_edges, column_edges, wanted.reductions)
        with torch.no_grad(), torch.autocast(self.item.device.type, enabled=False):
            for block in self._blocks(head, range(int(row_edges[0]), int(row_edges[-1])), most):
                grid.add_block(block)
                wanted.told(len(block.rows))
        return grid.result(wanted.denominators)

    def no_logits(self) -> InputError:
        """The error of asking what is made of weights for logits."""
        return no_logits(self.item)

    def _block(self, rows: range | Tensor, found: SeenRows) -> Block:
        """A block of rows that were read."""
        item = self.item
        values = found.values.to(device=item.device, dtype=item.compute_dtype)
        seen = found.seen if self.knows_hidden else self._existing(found)
        seen = seen.to(item.device)
        at = to_positions(rows, item.device)
        return Block(at, found.keys.to(item.device), values, seen.sum(1), 0, seen=seen)

    def _existing(self, found: SeenRows) -> Tensor:
        """Every key that exists, (b, n) bool, of rows that aren't blank: what is seen where nobody says which keys are."""
        there = ~torch.isnan(found.values).all(1, keepdim=True)
        padding = self.item.key_padding
        return there.expand(found.values.shape) if padding is None else there & padding.cpu()[found.keys]
