"""Mistakes in which keys are of a query's text: documents and padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from attnviz.attention.patterns import Documents, Full, Pattern
from attnviz.compare.faults.fault import MOST_TRIED, Case, Fault
from attnviz.compare.faults.rules import rewritten
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
        rest = rewritten(case.pattern, lambda part: Full() if isinstance(part, Documents) else part)
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

    def _of(
        self, case: Case, name: str, documents: Tensor | None, queries: Tensor | None, pattern: Pattern | None = None
    ) -> Variant:
        def change(work: Work) -> None:
            work.inputs = replace(work.inputs, documents=documents, query_documents=queries)
            work.pattern = pattern or work.pattern

        return self.variant(name, "settings", change)


def _shifted(documents: Tensor, by: int) -> Tensor:
    """Documents whose bounds are moved by one, those at the ends of the row left where they are."""
    moved = documents.roll(by, 1)
    moved[:, 0 if by > 0 else -1] = documents[:, 0 if by > 0 else -1]
    return moved
