"""Mistakes in chunks, prefixes, documents, blocks and masks of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from attnviz.attention.patterns import (
    Blocks,
    Causal,
    Chunked,
    Documents,
    Full,
    Item,
    Masked,
    MaskMod,
    Pattern,
    Prefix,
)
from attnviz.compare.faults.fault import Case, Fault, Read, Ruled, leaves, rewritten
from attnviz.compare.faults.terms import Runs, Terms, terms_of
from attnviz.compare.faults.work import Change, Variant, Work

Rule = Callable[[Tensor, Tensor, Item], Tensor]
Kind = TypeVar("Kind", bound=Pattern)

_MOST = 16
"""Documents, heads or batch items that are tried one by one."""


def _instead(case: Case, part: Pattern, other: Pattern | Rule, *, ordered: bool = True) -> Pattern:
    """The pattern with another, or a rule, in the place of one of its parts."""
    found = other if isinstance(other, Pattern) else Ruled(other, ordered=ordered)
    return rewritten(case.pattern, lambda one: found if one == part else one)


def _parts(case: Case, kind: type[Kind]) -> list[Kind]:
    """The parts of the pattern that are of a kind."""
    return [part for part in leaves(case.pattern) if isinstance(part, kind)]


class Chunks(Fault):
    """Chunks of another size or beginning, or a window in their place."""

    name = "chunks"

    def variants(self, case: Case) -> Iterator[Variant]:
        for part in _parts(case, Chunked):
            yield from self._of(case, part, part.size)

    def _of(self, case: Case, part: Pattern, c: int) -> Iterator[Variant]:
        for size in dict.fromkeys((c - 1, c + 1, c // 2, 2 * c)):
            if size > 0 and size != c:
                other = _instead(case, part, Chunked(size))
                yield self.under(f"chunks of {size}, not {c}", other, f"--pattern chunked:size={size}")
        rules: dict[str, Rule] = {
            f"a window of the last {c} in place of chunks": lambda t, s, item: (
                (_far(t, s, item) <= 0) & (_far(t, s, item) > -c)
            ),
            f"a window of {c} to each side in place of chunks": lambda t, s, item: _far(t, s, item).abs() < c,
            "a chunk that sees the one before it too": lambda t, s, item: _apart(t, s, item, c) // 2 == 0,
            "a chunk that sees every one before it": lambda t, s, item: _apart(t, s, item, c) >= 0,
            "chunks that begin one key early": lambda t, s, item: _apart(t, s, item, c, 1) == 0,
            "chunks that begin one key late": lambda t, s, item: _apart(t, s, item, c, -1) == 0,
        }
        for name, rule in rules.items():
            yield self.under(name, _instead(case, part, rule))

    def fitted(self, case: Case) -> Iterator[Variant]:
        for part in _parts(case, Chunked):
            terms = terms_of(case)
            if terms is None:
                return
            sizes, own = torch.arange(1, 2 * case.inputs.S), _own(terms)
            first = torch.div(own, sizes, rounding_mode="floor") * sizes - own
            runs = Runs.of(terms, terms.before.distance, _shown(case, terms, part, Full()))
            found = runs.place(first, first + sizes - 1)
            if found is not None:
                size = int(sizes[found])
                other = _instead(case, part, Chunked(size))
                yield self.under(f"chunks of {size}, not {part.size}", other, f"--pattern chunked:size={size}")


def _own(terms: Terms) -> Tensor:
    """Where the rows' queries stand, (n, 1)."""
    return terms.before.item.query_position(terms.rows)[:, None]


def _shown(case: Case, terms: Terms, part: Pattern, other: Pattern) -> Tensor:
    """Which keys the rows see with another pattern in the place of a part, (n, S) as numbers."""
    return terms.shown(lambda work: setattr(work, "pattern", _instead(case, part, other)))


def _far(t: Tensor, s: Tensor, item: Item) -> Tensor:
    return item.key_position(s) - item.query_position(t)


def _apart(t: Tensor, s: Tensor, item: Item, size: int, by: int = 0) -> Tensor:
    """How many chunks a key is before a query."""
    own, of_key = (
        torch.div(positions + by, size, rounding_mode="floor")
        for positions in (item.query_position(t), item.key_position(s))
    )
    return own - of_key


class PrefixLength(Fault):
    """A prefix of another length, left out, or seen by other queries."""

    name = "prefix"

    def variants(self, case: Case) -> Iterator[Variant]:
        for part in _parts(case, Prefix):
            yield from self._of(case, part, part.of(case.item))

    def _of(self, case: Case, part: Prefix, n: int) -> Iterator[Variant]:
        sizes = {n - 1: "", n + 1: "", 2 * n: ""}
        if isinstance(part.n, tuple):
            sizes |= {other: f": that of batch item {b}?" for b, other in enumerate(part.n[:_MOST])}
        for size, hint in sizes.items():
            if size >= 0 and size != n:
                name = f"a prefix of {size}, not {n}{hint}"
                yield self.under(name, _instead(case, part, Prefix(size)), f"--pattern prefix:n={size}")
        yield self.under("the prefix left out: causal", _instead(case, part, Causal()))
        rules: dict[str, Rule] = {
            "the prefix alone: nothing after it": lambda t, s, item: _position(t, s, item) < n,
            "queries of the prefix that see every key": lambda t, s, item: (
                (_far(t, s, item) <= 0) | (item.query_position(t) < n)
            ),
            "a prefix without what comes before the query": lambda t, s, item: (
                (_position(t, s, item) < n) | (_far(t, s, item) == 0)
            ),
        }
        for name, rule in rules.items():
            yield self.under(name, _instead(case, part, rule))

    def fitted(self, case: Case) -> Iterator[Variant]:
        for part in _parts(case, Prefix):
            terms = terms_of(case)
            if terms is None:
                return
            always = _shown(case, terms, part, Causal())
            runs = Runs.of(terms, terms.before.distance, _shown(case, terms, part, Full()) - always, always)
            found = runs.place(torch.tensor([-torch.inf]), torch.arange(case.inputs.S + 1) - 1 - _own(terms))
            if found is not None:
                other = _instead(case, part, Prefix(found))
                yield self.under(f"a prefix of {found}, not {part.of(case.item)}", other, f"--pattern prefix:n={found}")


def _position(t: Tensor, s: Tensor, item: Item) -> Tensor:
    return item.key_position(s) + torch.zeros_like(t)


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
            for other in range(min(len(documents), _MOST)):
                if other != case.batch:
                    of_other = documents[other].expand_as(documents), own[other].expand_as(own)
                    yield self._of(case, f"the documents of batch item {other}", of_other[0], of_other[1])
        listed = torch.unique_consecutive(documents[min(case.batch, len(documents) - 1)]).tolist()
        for one, two in list(pairwise(listed))[:_MOST]:
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


class BlockMatrix(Fault):
    """A matrix of blocks that is transposed, moved, of other sizes or of another head."""

    name = "blocks"

    def variants(self, case: Case) -> Iterator[Variant]:
        for part in _parts(case, Blocks):
            matrix, size = part.matrix, part.size
            assert isinstance(size, tuple)
            for name, other in self._other(matrix).items():
                yield self.under(name, _instead(case, part, replace(part, matrix=other)))
            rows, columns = size
            sizes = {f"sizes swapped: {columns} queries, {rows} keys": (columns, rows)} if rows != columns else {}
            for found in ((max(rows // 2, 1), max(columns // 2, 1)), (2 * rows, 2 * columns)):
                sizes[f"blocks of {found[0]} x {found[1]}, not {rows} x {columns}"] = found
            for name, found in sizes.items():
                if found != size:
                    yield self.under(name, _instead(case, part, _resized(part, found, case)))
            offset = case.inputs.S - case.inputs.T
            if offset:

                def from_key(part: Pattern, t: Tensor, s: Tensor, item: Item, offset: int = offset) -> Tensor:
                    return part.visible(t + offset, s, item)

                yield self.under(
                    "blocks of queries counted from the first key: p(t), not t",
                    _instead(case, part, Read(part, from_key)),
                )

    def _other(self, matrix: Tensor) -> dict[str, Tensor]:
        found = {}
        if matrix.shape[-1] == matrix.shape[-2]:
            found["the matrix of blocks transposed"] = matrix.transpose(-1, -2)
        for by in (1, -1):
            found[f"blocks of keys {by:+d} off"] = matrix.roll(by, -1)
            found[f"blocks of queries {by:+d} off"] = matrix.roll(by, -2)
        for dim, noun in ((-3, "head"), (-4, "batch item")):
            if matrix.ndim >= -dim and matrix.shape[dim] > 1:
                for n in range(min(matrix.shape[dim], _MOST)):
                    found[f"the blocks of {noun} {n}"] = matrix.narrow(dim, n, 1).expand_as(matrix)
        return found


def _resized(part: Blocks, size: tuple[int, int], case: Case) -> Blocks:
    """The same matrix over blocks of another size, its last row and column for all that is beyond it."""
    matrix = part.matrix
    for dim, length, step in ((-2, case.inputs.T, size[0]), (-1, case.inputs.S, size[1])):
        index = torch.arange(-(-length // step), device=matrix.device).clamp(max=matrix.shape[dim] - 1)
        matrix = matrix.index_select(matrix.ndim + dim, index)
    return replace(part, matrix=matrix, size=size)


class MaskMoved(Fault):
    """A mask of one's own read one off, at another query, or of another head or batch item."""

    name = "mask of another place"

    def variants(self, case: Case) -> Iterator[Variant]:
        for part in _parts(case, Masked):
            for by in (1, -1):
                for dim, noun in ((-1, "keys"), (-2, "queries")):
                    moved = replace(part, mask=part.mask.roll(by, dim))
                    yield self.under(f"the mask's {noun} {by:+d} off", _instead(case, part, moved))
            first = replace(part, mask=part.mask[..., :1, :].expand_as(part.mask))
            yield self.under("the mask's first row for every query", _instead(case, part, first))
            dims = {3: ((-3, "batch item"),), 4: ((-3, "head"), (-4, "batch item"))}.get(part.mask.ndim, ())
            for dim, noun in dims:
                for n in range(min(part.mask.shape[dim], _MOST) if part.mask.shape[dim] > 1 else 0):
                    other = replace(part, mask=part.mask.narrow(dim, n, 1).expand_as(part.mask))
                    yield self.under(f"the mask of {noun} {n}", _instead(case, part, other))
        for mod in _parts(case, MaskMod):
            yield from self._of_function(case, mod)

    def _of_function(self, case: Case, part: MaskMod) -> Iterator[Variant]:
        T, S = case.inputs.T, case.inputs.S

        def by(change: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]) -> Pattern:
            def function(*at: Tensor) -> Tensor:
                b, h, t, s = change(*at)
                return part.function(b, h, t.clamp(0, T - 1), s.clamp(0, S - 1))

            return _instead(case, part, replace(part, function=function))

        found = {
            "a mask_mod whose q_idx is 1 too high": by(lambda b, h, t, s: (b, h, t + 1, s)),
            "a mask_mod whose kv_idx is 1 too high": by(lambda b, h, t, s: (b, h, t, s + 1)),
            "a mask_mod of batch item 0": by(lambda b, h, t, s: (b * 0, h, t, s)),
            "a mask_mod of head 0": by(lambda b, h, t, s: (b, h * 0, t, s)),
        }
        for offset in (S - T, T - S) if S != T else ():

            def moved(b: Tensor, h: Tensor, t: Tensor, s: Tensor, by: int = offset) -> tuple[Tensor, ...]:
                return b, h, t + by, s

            found[f"a mask_mod whose q_idx is {offset:+d} off: an index for a position?"] = by(moved)
        for name, pattern in found.items():
            yield self.under(name, pattern)


class Aligned(Fault):
    """A chunk or a window that begins at the query's index, where it stands elsewhere: places told by index."""

    name = "places by index"

    def variants(self, case: Case) -> Iterator[Variant]:
        inputs = case.inputs
        if inputs.query_positions is None and inputs.key_positions is None:
            return

        def by_index(work: Work) -> None:
            work.inputs = replace(work.inputs, query_positions=None, key_positions=None)

        yield self.variant("positions left out: order by index", "settings", by_index)
        if inputs.query_positions is not None and inputs.key_positions is not None:
            for name in ("query_positions", "key_positions"):
                yield self.variant(f"{name} left out", "settings", _without(name))


def _without(name: str) -> Change:
    def change(work: Work) -> None:
        work.inputs = replace(work.inputs, **{name: None})  # type: ignore[arg-type]

    return change
