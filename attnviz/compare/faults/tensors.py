"""Mistakes in which tensor is read, and in how it lies in memory."""

from __future__ import annotations

from collections.abc import Iterator

from attnviz.compare.faults.fault import Case, Fault
from attnviz.compare.faults.work import Variant, Work, clean


class TensorsSwapped(Fault):
    """One tensor in the place of another."""

    name = "tensors swapped"

    def variants(self, case: Case) -> Iterator[Variant]:
        inputs = case.inputs
        if inputs.T == inputs.S and inputs.H_kv == inputs.H:

            def turned(work: Work) -> None:
                q, k = (clean(getattr(work.inputs, name)[work.batch, work.head]) for name in "qk")
                work.q, work.k = k[work.rows], q

            yield self.variant("q and k swapped: scores transposed", "tensors", turned)
        if not case.reads_values or inputs.v is None:
            return
        if inputs.v.shape[-1] == inputs.D:

            def keys(work: Work) -> None:
                work.v = work.k

            yield self.variant("k in the place of v", "tensors", keys)

            def values(work: Work) -> None:
                if work.v is not None:
                    work.k = work.v

            yield self.variant("v in the place of k", "tensors", values)
