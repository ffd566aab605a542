"""Mistakes in global keys and queries."""

from __future__ import annotations

from collections.abc import Iterator

from attnviz.attention.patterns import GlobalKeys
from attnviz.compare.faults.fault import Case, Fault
from attnviz.compare.faults.rules import leaves
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
