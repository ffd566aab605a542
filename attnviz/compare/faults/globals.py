"""Mistakes in global keys and queries."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from attnviz.attention.patterns import Full, GlobalKeys, Item
from attnviz.compare.faults.fault import Case, Fault
from attnviz.compare.faults.rules import Ruled, distance, leaves
from attnviz.compare.faults.terms import Runs, terms_of
from attnviz.compare.faults.work import Change, Variant, Work


class GlobalKeysOff(Fault):
    """Global keys at other positions."""

    name = "other global keys"

    def variants(self, case: Case) -> Iterator[Variant]:
        if not any(isinstance(part, GlobalKeys) for part in leaves(case.pattern)):
            return
        mask = case.inputs.global_mask
        assert mask is not None
        for by in (-1, 1):
            yield self.of_inputs(f"each global key at {'+' if by > 0 else '-'}1", global_mask=mask.roll(by, 1))
        for position in case.item.global_positions.tolist()[:16]:
            less = mask.clone()
            less[case.batch, position] = False
            if bool(less[case.batch].any()):
                yield self.of_inputs(f"global key {position} left out", global_mask=less)


class FirstKeysSeen(Fault):
    """The first keys seen by every query, or by those after them, beside what it sees: as sinks are kept, or a prefix."""

    name = "first keys seen"

    def variants(self, case: Case) -> Iterator[Variant]:
        if not isinstance(case.pattern, Full):
            for count in (1, 4):
                yield from (self._of(case, count, past=past) for past in self._ways(case))

    def fitted(self, case: Case) -> Iterator[Variant]:
        if (terms := terms_of(case)) is None:
            return
        index = torch.arange(case.inputs.S)
        for past in self._ways(case):
            every = terms.shown(self._of(case, case.inputs.S, past=past).change)
            runs = Runs.of(terms, index.expand(terms.seen.shape), every - terms.seen, terms.seen)
            found = runs.place(torch.tensor([0]), index)
            if found is not None:
                yield self._of(case, found + 1, past=past)

    def _ways(self, case: Case) -> Iterator[bool]:
        """Of the past alone, where there is such, and of all."""
        yield from (False,) if case.item.cross else (True, False)

    def _of(self, case: Case, count: int, *, past: bool) -> Variant:
        def seen(t: Tensor, s: Tensor, item: Item) -> Tensor:
            first = (s < count) & (t >= 0)
            return first & (distance(t, s, item) <= 0) if past else first

        which = "the first key" if count == 1 else f"the first {count:,} keys"
        name = f"{which} seen by every query{' after' if past else ''}, as a global one is"
        return self.under(name, case.pattern | Ruled(seen, ordered=False))


class Projections(Fault):
    """Rows of global queries by the projections of plain ones, or the other way round."""

    name = "projections of global queries"

    def variants(self, case: Case) -> Iterator[Variant]:
        if not case.pattern.global_queries or case.inputs.q_global is None:
            return

        def taking(names: str, of_global: bool) -> Change:
            def change(work: Work) -> None:
                if work.for_global != of_global:
                    return
                suffix = "" if of_global else "_global"
                for name in names:
                    tensor = getattr(work.inputs, f"{name}{suffix}")
                    if tensor is not None:
                        tensor = tensor[work.batch, work.head if name == "q" else work.key_head].cpu().double()
                        setattr(work, name, tensor[work.rows] if name == "q" else tensor)

            return change

        for names in ("qkv", "q", "k", "v", "kv", "qk"):
            listed = ", ".join(names)
            yield self.variant(f"{listed} of plain queries for global queries", "tensors", taking(names, True))
        yield self.variant("q, k, v of global queries for plain queries", "tensors", taking("qkv", False))
