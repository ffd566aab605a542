"""Mistakes in which tensor is read, and in how it lies in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations

import torch
from torch import Tensor

from attnviz.compare.faults.fault import TILES, Case, Fault
from attnviz.compare.faults.terms import terms_of
from attnviz.compare.faults.way import compute
from attnviz.compare.faults.work import Change, Variant, Work, clean
from attnviz.compare.rounding import FIXED


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


def _tensors(case: Case) -> str:
    """Those that take part in a case's numbers."""
    return "qkv" if case.reads_values and case.inputs.v is not None else "qk"


class Channels(Fault):
    """Channels of q, k or v in another order, or not all of them."""

    name = "channels"

    def variants(self, case: Case) -> Iterator[Variant]:
        for name in _tensors(case):
            size = getattr(case.inputs, name).shape[-1]
            for said, order in _orders(size).items():
                yield self.variant(f"the channels of {name} {said}", "tensors", _reordered(name, order))
        D = case.inputs.D
        for kept in dict.fromkeys(D - (D % tile or tile) for tile in TILES if tile < D):
            yield self._cut(kept, D)

    def fitted(self, case: Case) -> Iterator[Variant]:
        """So many of the first, of q and k; those of v that the context has."""
        D = case.inputs.D
        if case.what == "context":
            there = case.given(case.batch, case.head, torch.tensor(case.rows)).nan_to_num().ne(0).any(0)
            kept = int(there.nonzero().max()) + 1 if bool(there.any()) else 0
            if 0 < kept < len(there):
                yield self._values(kept, len(there))
        if (terms := terms_of(case)) is None or terms.of_gradient or case.inputs.softcap is not None:
            return
        work = terms.product
        parts = (work.q[:, None, :] * work.k[None] * work.scale).cumsum(2)
        off = [terms.off(terms.all(each=terms.each(parts[..., n] + terms.added))) for n in range(D - 1)]
        found = terms.nearest(torch.stack(off)) if off else None
        if found is not None:
            yield self._cut(found + 1, D)

    def _cut(self, kept: int, D: int) -> Variant:
        def change(work: Work) -> None:
            work.q = work.q * (torch.arange(D) < kept)
            work.undone = lambda made, work: made if work.what == "dv" else made * (torch.arange(D) < kept)

        return self.variant(f"the first {kept} of {D} channels of q and k alone", "tensors", change)

    def _values(self, kept: int, D: int) -> Variant:
        def change(work: Work) -> None:
            work.v = None if work.v is None else work.v * (torch.arange(D) < kept)

        return self.variant(f"the first {kept} of {D} channels of v alone", "tensors", change)


def _orders(size: int) -> dict[str, Tensor]:
    """Orders that channels are found in, of which none is another's or no order at all."""
    index = torch.arange(size)
    found = {"in reverse": index.flip(0)}
    for by in (1, -1):
        found[f"{by:+d} off"] = index.roll(by)
    if size % 2 == 0:
        found["with their halves exchanged"] = index.roll(size // 2)
        found["with neighbors exchanged"] = index ^ 1
        found["with the even before the odd: interleaved pairs read as halves"] = torch.cat([index[::2], index[1::2]])
        found["with halves interleaved: halves read as pairs"] = index.reshape(2, -1).T.flatten()
    seen: set[tuple[int, ...]] = {tuple(index.tolist())}
    return {name: order for name, order in found.items() if not _known(tuple(order.tolist()), seen)}


def _known(order: tuple[int, ...], seen: set[tuple[int, ...]]) -> bool:
    known = order in seen
    seen.add(order)
    return known


def _reordered(name: str, order: Tensor) -> Change:
    """Reads each channel of a tensor from another one; its gradient goes back to where it was read."""

    def change(work: Work) -> None:
        tensor = getattr(work, name)
        setattr(work, name, None if tensor is None else tensor[:, order])
        if work.what == f"d{name}":
            work.undone = lambda made, work: made[:, order.argsort()]

    return change


class LaidOut(Fault):
    """A tensor that is read as if it lay in memory in another way: heads, rows and channels in another order."""

    name = "memory layout"

    def variants(self, case: Case) -> Iterator[Variant]:
        for name in _tensors(case):
            _, heads, rows, channels = getattr(case.inputs, name).shape
            row = "T" if name == "q" else "S"
            sizes = dict(zip(("H", row, "D"), (heads, rows, channels), strict=True))
            orders = set()
            for to in permutations(range(3)):
                for written in (True, False):
                    index = _index((heads, rows, channels), to, written=written)
                    key = tuple(index.flatten()[: 1 << 12].tolist())
                    if to == (0, 1, 2) or key in orders or bool((index.flatten().diff() == 1).all()):
                        continue
                    orders.add(key)
                    natural, other = ", ".join(sizes), ", ".join(list(sizes)[axis] for axis in to)
                    lies, read = (other, natural) if written else (natural, other)
                    yield self._of(f"{name} that lies as ({lies}) read as ({read})", name, index)

    def _of(self, said: str, name: str, index: Tensor) -> Variant:
        read: dict[int, Tensor] = {}
        undone: dict[int, Tensor] = {}

        def change(work: Work) -> None:
            if getattr(work.inputs, name) is None or work.projections:
                return
            if work.batch not in read:
                read[work.batch] = clean(getattr(work.inputs, name)[work.batch]).flatten()[index]
            if name == "q":
                work.q = read[work.batch][work.head][work.rows]
            else:
                setattr(work, name, read[work.batch][work.key_head if name == "k" else work.value_head])
            if work.what == f"d{name}":
                work.undone = back

        def back(made: Tensor, work: Work) -> Tensor:
            """What its gradient is where it lies: every head's is there."""
            if work.batch not in undone:
                undone[work.batch] = torch.zeros(index.numel(), dtype=torch.float64)
                for head in range(len(index)):
                    every = replace(work, head=head, rows=torch.arange(index.shape[1]), undone=None, sources=None)
                    whole = compute(every, (self.variant("", "tensors", alone),), FIXED).out
                    undone[work.batch][index[head]] = whole
            return undone[work.batch].reshape(index.shape)[work.head][work.rows]

        def alone(work: Work) -> None:
            change(work)
            work.undone = None

        return self.variant(said, "tensors", change)


def _index(shape: tuple[int, int, int], to: tuple[int, ...], *, written: bool) -> Tensor:
    """Which number each place has, (H, N, D): ``written`` in the order ``to`` and read as it is, or the other way round."""
    natural = torch.arange(shape[0] * shape[1] * shape[2]).reshape(shape)
    if written:
        return natural.permute(to).reshape(shape)
    return natural.reshape([shape[axis] for axis in to]).permute([to.index(axis) for axis in range(3)])
