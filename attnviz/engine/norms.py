"""Weights times the lengths of what values add to the context (arXiv:2004.10102)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from attnviz.attention.item import AttentionItem
from attnviz.base.errors import InputError
from attnviz.engine.attention import Attention
from attnviz.engine.blocks import Block, SeenRows
from attnviz.engine.derived import Derived, PartsPattern
from attnviz.engine.softmax import BLANK
from attnviz.engine.visibility import to_positions

_VALUES = 4096
"""Values whose lengths are taken at once."""

_OUTPUT_CELLS = 1 << 22
"""Numbers of values times an output projection that are made at once."""


class Normed(Derived):
    """Weights times the length of what each key's value adds to the context (arXiv:2004.10102).

    With ``w_o`` it is the length of what the value becomes by the head's part of the output projection. ``shares``: each
    query's numbers as shares of their sum; a sum of 0 has none, and the row is blank.
    """

    def __init__(self, item: AttentionItem, part: Attention, *, shares: bool) -> None:
        super().__init__(item, PartsPattern.of([part]), [part])
        self.shares = shares
        self._norms: dict[tuple[int, bool], Tensor] = {}

    @property
    def said(self) -> str:  # type: ignore[override]
        return "norm-shares" if self.shares else "norms"

    @property
    def measured(self) -> str:
        length = "‖v w_o‖" if _w_o(self.parts[0].item) is not None else "‖v‖"
        return f"{'share of ' if self.shares else ''}weight × {length}"

    def head_name(self, head: int) -> str | None:
        return self.parts[0].head_name(head)

    def rows(self, head: int, queries: range | None = None) -> _NormedRows:
        return _NormedRows(self, head, queries)

    def _blocks(self, head: int, queries: range, most: int | None = None) -> Iterator[Block]:
        for block in self.parts[0].blocks(head, queries=queries):
            lengths = self.norms(head, for_global=block.for_global).to(block.values)[block.keys]
            values, seen, visible = block.values * lengths, block.seen, block.visible
            if self.shares:
                values, blank = self.as_shares(values, head)
                seen = torch.ones_like(values, dtype=torch.bool) if seen is None else seen
                seen, visible = seen & ~blank[:, None], torch.where(blank, 0, visible)
            yield Block(block.rows, block.keys, values, visible, block.shared, block.for_global, seen)

    def norms(self, head: int, *, for_global: bool = False) -> Tensor:
        """The length of what each key's value adds, (S,) float64, on the CPU; ``for_global``: to global queries."""
        known = (head, for_global)
        if known not in self._norms:
            item = self.parts[0].item
            v, w_o = item.value(head, for_global=for_global), _w_o(item)
            size, out = _VALUES, None
            if w_o is not None:
                rounded = w_o.dtype if item.dtype == item.inputs.dtype else item.dtype
                out = w_o[head].to(rounded).cpu().double()  # (D_v, d_model)
                size = max(1, _OUTPUT_CELLS // out.shape[1])
            lengths = torch.empty(len(v), dtype=torch.float64)
            for part, of in zip(v.split(size), lengths.split(size), strict=True):  # in parts, as float64 is a copy
                added = part.cpu().double() if out is None else part.cpu().double() @ out
                torch.linalg.vector_norm(added, dim=1, out=of)
            self._norms[known] = lengths
        return self._norms[known]

    def as_shares(self, values: Tensor, head: int | None) -> tuple[Tensor, Tensor]:
        """Rows as shares of their sum, and which of them are blank, (b,).

        Raises:
            InputError: a negative number.
        """
        if bool((values < 0).any()):
            raise InputError(
                f"{self.item.source}: {'a head' if head is None else f'head {head}'} holds negative weights, which have no shares "
                f"of a row; {'leave --values norms out' if head is None else 'take --values norms'}"
            )
        total = values.sum(1, dtype=torch.float64)
        blank = ~(total > 0)
        shares = torch.where(blank[:, None], BLANK, values / total[:, None].to(values.dtype))
        return shares, blank


class _NormedRows:
    """The rows of one head, times the lengths of values."""

    def __init__(self, attention: Normed, head: int, queries: range | None) -> None:
        self.attention, self.head, self.own = attention, head, attention.parts[0].rows(head, queries)
        self.step, self.apart = self.own.step, self.own.apart

    def read(self, rows: range | Tensor, *, weights: bool = True) -> SeenRows:
        """Any queries over every key that they may see, on the CPU in float64."""
        if not weights:
            raise self.attention.no_logits()
        found = self.own.read(rows)
        lengths = self.attention.norms(self.head)[found.keys].expand(found.values.shape)
        if len(self.apart):
            at = to_positions(rows, torch.device("cpu"))
            of_global = self.attention.norms(self.head, for_global=True)[found.keys]
            lengths = torch.where(torch.isin(at, self.apart.cpu())[:, None], of_global, lengths)
        values, seen = found.values * lengths, found.seen
        if self.attention.shares:
            values, blank = self.attention.as_shares(values, self.head)
            seen = seen & ~blank[:, None]
        return SeenRows(found.keys, values, seen)


def _w_o(item: AttentionItem) -> Tensor | None:
    found: Tensor | None = getattr(item.inputs, "w_o", None)
    return found
