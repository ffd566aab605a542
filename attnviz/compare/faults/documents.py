"""Mistakes in which keys are of a query's text: documents and padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.call import OF_TOKENS
from attnviz.attention.patterns import Documents, Full, Pattern
from attnviz.compare.faults.fault import MOST_TRIED, Case, Fault
from attnviz.compare.faults.rules import Ruled, rewritten
from attnviz.compare.faults.terms import Runs, terms_of
from attnviz.compare.faults.work import Variant, Work


class PaddingSeen(Fault):
    """Padded keys seen, or the other side's hidden."""

    name = "padding"

    def variants(self, case: Case) -> Iterator[Variant]:
        padding = case.inputs.key_padding_mask
        if padding is None:
            return
        every = torch.ones(case.inputs.B, case.inputs.T, dtype=torch.bool, device=case.inputs.q.device)
        yield self.of_inputs("key_padding_mask left out", key_padding_mask=None, query_padding_mask=every)
        yield self.of_inputs("key_padding_mask inverted", key_padding_mask=~padding, query_padding_mask=every)
        for n in range(min(len(padding), MOST_TRIED)):
            of_item = padding[n].expand_as(padding)
            yield self.of_inputs(f"the padding of batch item {n}", key_padding_mask=of_item, query_padding_mask=every)
        flipped = padding.flip(1)
        yield self.of_inputs("padding on the other side", key_padding_mask=flipped, query_padding_mask=every)
        for by in (-1, 1):
            moved = padding.roll(by, 1)
            yield self.of_inputs(
                f"padding {'early' if by < 0 else 'late'} by one",
                key_padding_mask=moved,
                query_padding_mask=every,
            )

    def fitted(self, case: Case) -> Iterator[Variant]:
        terms, padding = terms_of(case), case.inputs.key_padding_mask
        if terms is None or padding is None:
            return
        every = torch.ones(case.inputs.B, case.inputs.T, dtype=torch.bool, device=padding.device)
        index = torch.arange(case.inputs.S)

        def unpadded(work: Work) -> None:
            work.inputs = replace(work.inputs, key_padding_mask=None, query_padding_mask=every)
            work.known = {}

        runs = Runs.of(terms, index.expand(terms.seen.shape), terms.shown(unpadded))
        found = runs.nearest([0.0] * case.inputs.S, [float(n) for n in range(case.inputs.S)])
        if found is not None:
            last = int(found[1])
            kept = (index <= last).expand_as(padding).to(padding.device)
            own = int(padding[case.batch].sum())
            yield self.of_inputs(f"{last + 1:,} keys, not {own:,}", key_padding_mask=kept, query_padding_mask=every)


class DocumentBounds(Fault):
    """A document that sees another: all of them, those beside it, or one key over its bounds."""

    name = "documents"

    def variants(self, case: Case) -> Iterator[Variant]:
        documents, queries = case.inputs.documents, case.inputs.query_documents
        if documents is None:
            return
        rest = self._without(case)
        yield self._of(case, "documents left out: a document sees another", None, None, rest)
        own = documents if queries is None else queries
        for by in (1, -1):
            when = "late" if by > 0 else "early"
            moved = None if queries is None else _shifted(queries, by)
            yield self._of(case, f"documents that begin one key {when}", _shifted(documents, by), moved)
        if len(documents) > 1:
            for other in range(min(len(documents), MOST_TRIED)):
                if other != case.batch:
                    of_other = documents[other].expand_as(documents), own[other].expand_as(own)
                    yield self._of(case, f"the documents of batch item {other}", of_other[0], of_other[1])
        listed = torch.unique_consecutive(documents[min(case.batch, len(documents) - 1)]).tolist()
        for one, two in list(pairwise(listed))[:MOST_TRIED]:
            joined = torch.where(documents == two, one, documents)
            of_queries = None if queries is None else torch.where(queries == two, one, queries)
            yield self._of(case, f"documents {one} and {two} as one", joined, of_queries)
        rules: dict[str, Callable[[Tensor], Tensor]] = {
            "the mask of documents inverted: other documents alone are seen": lambda before: before != 0,
            "the document before seen too": lambda before: (before == 0) | (before == 1),
            "every document before seen too": lambda before: before >= 0,
            "the document after seen too": lambda before: (before == 0) | (before == -1),
            "every document after seen too": lambda before: before <= 0,
            "the document before seen in the place of the query's own": lambda before: before == 1,
            "the document after seen in the place of the query's own": lambda before: before == -1,
        }
        for name, rule in rules.items():
            yield self._seeing(name, rest, rule)

    def _seeing(self, name: str, rest: Pattern, rule: Callable[[Tensor], Tensor]) -> Variant:
        """A query sees documents by how many there are from theirs to its own."""

        def change(work: Work) -> None:
            assert work.item.documents is not None
            queries, keys = map(torch.from_numpy, work.item.documents)
            work.inputs = replace(work.inputs, documents=None, query_documents=None)
            work.pattern = rest & Ruled(lambda t, s, _: rule(queries[t] - keys[s]))

        return self.variant(name, "settings", change)

    def fitted(self, case: Case) -> Iterator[Variant]:
        """Bounds that are elsewhere, or one more."""
        terms, documents = terms_of(case), case.inputs.documents
        if documents is None or case.inputs.query_documents is not None or not (case.of_keys or terms):
            return
        bounds = _Bounds.of(documents[min(case.batch, len(documents) - 1)])
        if bounds is None or case.item.offset is None:
            return
        same = (documents == documents[min(case.batch, len(documents) - 1)]).all(1, keepdim=True)

        def beginning(said: str, starts: tuple[int, ...]) -> Variant:
            return self._of(case, said, torch.where(same, bounds.documents(starts).to(documents), documents), None)

        if terms is None:  # rows of keys are sums over queries, of which none is read alone
            yield from (beginning(*one) for one in islice(bounds.near(), _TRIED))
            return
        left_out = self._of(case, "", None, None, self._without(case))
        runs = Runs.of(terms, torch.arange(case.inputs.S).expand(terms.seen.shape), terms.shown(left_out.change))
        for made in map(list, (bounds.one_moved(), bounds.all_moved(), bounds.one_more())):
            ends = bounds.ends([starts for _, starts in made], terms.rows + case.item.offset) if made else None
            found = None if ends is None else runs.place(*ends)
            if found is not None:
                yield beginning(*made[found])

    def _without(self, case: Case) -> Pattern:
        """The pattern without what says of documents; where it stays within them, it does by the inputs."""
        return rewritten(case.pattern, lambda part: Full() if isinstance(part, Documents) else part)

    def _of(
        self, case: Case, name: str, documents: Tensor | None, queries: Tensor | None, pattern: Pattern | None = None
    ) -> Variant:
        def change(work: Work) -> None:
            work.inputs = replace(work.inputs, documents=documents, query_documents=queries)
            work.pattern = pattern or work.pattern

        return self.variant(name, "settings", change)


class SequencesTogether(Fault):
    """Sequences that lie end to end, and a kernel that takes them for one."""

    name = "sequences end to end"

    def variants(self, case: Case) -> Iterator[Variant]:
        inputs = case.inputs
        beside = (inputs.documents, inputs.bias, inputs.global_mask)
        if inputs.B == 1 or inputs.cross or case.of_keys or any(one is not None for one in beside):
            return
        items = [inputs.item(batch, dtype=torch.float64) for batch in range(inputs.B)]
        keys = [_present(item.key_padding, inputs.S) for item in items]
        queries = [_present(item.query_padding, inputs.T) for item in items]
        places = zip(items, queries, keys, strict=True)
        own = all(torch.equal(item.query_position(at), item.key_position(of)) for item, at, of in places)
        if not own or sum(map(len, keys)) > _TOGETHER:
            return
        first = torch.tensor([0, *map(len, queries)]).cumsum(0)

        def joined(tensor: Tensor, index: list[Tensor]) -> Tensor:
            return torch.cat([part[:, at.to(part.device)] for part, at in zip(tensor, index, strict=True)], 1)[None]

        def together(work: Work) -> None:
            work.rows = first[work.batch] + torch.searchsorted(queries[work.batch], work.rows.contiguous())
            work.inputs, work.batch = whole, 0
            work.grad = None if work.grad is None else joined(work.grad, queries)

        tensors: dict[str, Any] = {"q": joined(inputs.q, queries), "k": joined(inputs.k, keys)}
        tensors |= {} if inputs.v is None else {"v": joined(inputs.v, keys)}
        whole = replace(inputs, **_ALONE, **tensors)
        yield self.variant("every sequence seen as one, end to end: is cu_seqlens read?", "settings", together)


_ALONE: dict[str, Any] = dict.fromkeys(
    (
        *("key_padding_mask", "query_padding_mask", "q_global", "k_global", "v_global", "residual_norms"),
        *("query_documents", "query_positions", "key_positions", *OF_TOKENS),
    )
)
"""What is of each sequence alone."""

_TOGETHER = 1 << 16
"""Keys of all sequences together, at most."""


def _present(padding: Tensor | None, length: int) -> Tensor:
    """The indices that exist, (n,)."""
    return torch.arange(length) if padding is None else padding.cpu().nonzero().flatten()


@dataclass(frozen=True)
class _Bounds:
    """Where the documents of a row begin, one after another."""

    starts: tuple[int, ...]
    names: tuple[int, ...]
    S: int

    @classmethod
    def of(cls, documents: Tensor) -> _Bounds | None:
        """Those of (S,) documents; None where one has keys in two places."""
        names, sizes = torch.unique_consecutive(documents.cpu(), return_counts=True)
        if len(names) < 2 or len(names.unique()) < len(names):
            return None
        return cls(tuple((sizes.cumsum(0) - sizes).tolist()), tuple(names.tolist()), len(documents))

    def one_moved(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """One bound at another key; and how that is said."""
        starts, ends = self.starts, (*self.starts[1:], self.S)
        for n in range(1, min(len(starts), MOST_TRIED)):
            for at in range(starts[n - 1] + 1, ends[n]):
                if at != starts[n]:
                    name = f"document {self.names[n]} begins at key {at:,}, not at {starts[n]:,}"
                    yield name, (*starts[:n], at, *starts[n + 1 :])

    def near(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """One bound, or all of them, at a key that is not far: the nearest first."""
        moved = [*self.one_moved(), *self.all_moved()]
        yield from sorted(moved, key=lambda one: max(abs(a - b) for a, b in zip(one[1], self.starts, strict=True)))

    def all_moved(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """All of them as far."""
        starts = self.starts
        for by in range(-_MOVED, _MOVED + 1):
            if abs(by) > 1 and starts[1] + by > 0 and starts[-1] + by < self.S:
                when = f"documents that begin {abs(by)} keys {'late' if by > 0 else 'early'}"
                yield when, (0, *(start + by for start in starts[1:]))

    def one_more(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """One where none is."""
        for at in range(1, self.S):
            if at not in self.starts:
                yield f"a document that begins at key {at:,}, where none does", tuple(sorted((*self.starts, at)))

    def ends(self, made: Sequence[tuple[int, ...]], own: Tensor) -> tuple[Tensor, Tensor]:
        """The first and the last key of the documents of keys ``own``, (n,), each (n, m) for m ways to begin them."""
        most = max(map(len, made)) + 1
        starts = torch.tensor([(*one, *(self.S,) * (most - len(one))) for one in made])
        at = torch.searchsorted(starts, own.expand(len(made), -1).contiguous(), right=True)
        return starts.gather(1, at - 1).T, starts.gather(1, at).T - 1

    def documents(self, starts: tuple[int, ...]) -> Tensor:
        """The documents that begin so, (S,)."""
        return torch.searchsorted(torch.tensor(starts), torch.arange(self.S), right=True)


_MOVED = 64
"""Keys by which all documents may begin early or late."""

_TRIED = 48
"""Beginnings that are tried one by one."""


def _shifted(documents: Tensor, by: int) -> Tensor:
    """Documents whose bounds are moved by one, those at the ends of the row left where they are."""
    moved = documents.roll(by, 1)
    moved[:, 0 if by > 0 else -1] = documents[:, 0 if by > 0 else -1]
    return moved
