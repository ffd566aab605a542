"""Mistakes in chunks, prefixes and blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from attnviz.attention.patterns import Blocks, Causal, Chunked, Full, Item, Pattern, Prefix
from attnviz.compare.faults.fault import MOST_TRIED, Case, Fault
from attnviz.compare.faults.rules import Read, Rule, distance, instead, parts_of
from attnviz.compare.faults.terms import Runs, Terms, terms_of
from attnviz.compare.faults.work import Variant


class Chunks(Fault):
    """Chunks of another size or beginning, or a window in their place."""

    name = "chunks"

    def variants(self, case: Case) -> Iterator[Variant]:
        for part in parts_of(case.pattern, Chunked):
            yield from self._of(case, part, part.size)

    def _of(self, case: Case, part: Pattern, c: int) -> Iterator[Variant]:
        for size in dict.fromkeys((c - 1, c + 1, c // 2, 2 * c)):
            if size > 0 and size != c:
                other = instead(case.pattern, part, Chunked(size))
                yield self.under(f"chunks of {size}, not {c}", other, f"--pattern chunked:size={size}")
        rules: dict[str, Rule] = {
            f"a window of the last {c} in place of chunks": lambda t, s, item: (
                (distance(t, s, item) <= 0) & (distance(t, s, item) > -c)
            ),
            f"a window of {c} to each side in place of chunks": lambda t, s, item: distance(t, s, item).abs() < c,
            "a chunk that sees the one before it too": lambda t, s, item: _apart(t, s, item, c) // 2 == 0,
            "a chunk that sees every one before it": lambda t, s, item: _apart(t, s, item, c) >= 0,
            "chunks that begin one key early": lambda t, s, item: _apart(t, s, item, c, 1) == 0,
            "chunks that begin one key late": lambda t, s, item: _apart(t, s, item, c, -1) == 0,
        }
        for name, rule in rules.items():
            yield self.under(name, instead(case.pattern, part, rule))

    def fitted(self, case: Case) -> Iterator[Variant]:
        for part in parts_of(case.pattern, Chunked):
            terms = terms_of(case)
            if case.of_keys:  # sums over queries, of which none is read alone
                yield from (self._beginning(case, part, first) for first in range(2, min(part.size, MOST_TRIED)))
            if terms is None:
                return
            sizes, own = torch.arange(1, 2 * case.inputs.S), _own(terms)
            first = torch.div(own, sizes, rounding_mode="floor") * sizes - own
            runs = Runs.of(terms, terms.before.distance, _shown(case, terms, part, Full()))
            found = runs.place(first, first + sizes - 1)
            if found is not None:
                size = int(sizes[found])
                other = instead(case.pattern, part, Chunked(size))
                yield self.under(f"chunks of {size}, not {part.size}", other, f"--pattern chunked:size={size}")
            c, begins = part.size, torch.arange(1, part.size)
            first = torch.div(own - begins, c, rounding_mode="floor") * c + begins - own
            found = runs.place(first, first + c - 1) if c > 1 else None
            if found is not None:
                yield self._beginning(case, part, int(begins[found]))

    def _beginning(self, case: Case, part: Chunked, first: int) -> Variant:
        """Chunks that are counted from another position."""
        c = part.size

        def seen(t: Tensor, s: Tensor, item: Item) -> Tensor:
            return _apart(t, s, item, c, -first) == 0

        return self.under(
            f"chunks that begin at {first}, {first + c}, ..., not at 0", instead(case.pattern, part, seen)
        )


def _own(terms: Terms) -> Tensor:
    """Where the rows' queries stand, (n, 1)."""
    return terms.before.item.query_position(terms.rows)[:, None]


def _shown(case: Case, terms: Terms, part: Pattern, other: Pattern) -> Tensor:
    """Which keys the rows see with another pattern in the place of a part, (n, S) as numbers."""
    return terms.shown(lambda work: setattr(work, "pattern", instead(case.pattern, part, other)))


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
        for part in parts_of(case.pattern, Prefix):
            yield from self._of(case, part, part.of(case.item))

    def _of(self, case: Case, part: Prefix, n: int) -> Iterator[Variant]:
        sizes = {n - 1: "", n + 1: "", 2 * n: ""}
        if isinstance(part.n, tuple):
            sizes |= {other: f": that of batch item {b}?" for b, other in enumerate(part.n[:MOST_TRIED])}
        for size, hint in sizes.items():
            if size >= 0 and size != n:
                name = f"a prefix of {size}, not {n}{hint}"
                yield self.under(name, instead(case.pattern, part, Prefix(size)), f"--pattern prefix:n={size}")
        yield self.under("the prefix left out: causal", instead(case.pattern, part, Causal()))
        rules: dict[str, Rule] = {
            "the prefix alone: nothing after it": lambda t, s, item: _position(t, s, item) < n,
            "queries of the prefix that see every key": lambda t, s, item: (
                (distance(t, s, item) <= 0) | (item.query_position(t) < n)
            ),
            "a prefix without what comes before the query": lambda t, s, item: (
                (_position(t, s, item) < n) | (distance(t, s, item) == 0)
            ),
        }
        for name, rule in rules.items():
            yield self.under(name, instead(case.pattern, part, rule))

    def fitted(self, case: Case) -> Iterator[Variant]:
        for part in parts_of(case.pattern, Prefix):
            terms = terms_of(case)
            if terms is None:
                return
            always = _shown(case, terms, part, Causal())
            runs = Runs.of(terms, terms.before.distance, _shown(case, terms, part, Full()) - always, always)
            found = runs.place(torch.tensor([-torch.inf]), torch.arange(case.inputs.S + 1) - 1 - _own(terms))
            if found is not None:
                other = instead(case.pattern, part, Prefix(found))
                yield self.under(f"a prefix of {found}, not {part.of(case.item)}", other, f"--pattern prefix:n={found}")


def _position(t: Tensor, s: Tensor, item: Item) -> Tensor:
    return item.key_position(s) + torch.zeros_like(t)


class BlockMatrix(Fault):
    """A matrix of blocks that is transposed, moved, of other sizes or of another head."""

    name = "blocks"

    def variants(self, case: Case) -> Iterator[Variant]:
        for part in parts_of(case.pattern, Blocks):
            matrix, size = part.matrix, part.size
            assert isinstance(size, tuple)
            for name, other in self._other(matrix).items():
                yield self.under(name, instead(case.pattern, part, replace(part, matrix=other)))
            rows, columns = size
            sizes = {f"sizes swapped: {columns} queries, {rows} keys": (columns, rows)} if rows != columns else {}
            for found in ((max(rows // 2, 1), max(columns // 2, 1)), (2 * rows, 2 * columns)):
                sizes[f"blocks of {found[0]} x {found[1]}, not {rows} x {columns}"] = found
            for name, found in sizes.items():
                if found != size:
                    yield self.under(name, instead(case.pattern, part, _resized(part, found, case)))
            offset = case.inputs.S - case.inputs.T
            if offset:

                def from_key(part: Pattern, t: Tensor, s: Tensor, item: Item, offset: int = offset) -> Tensor:
                    return part.visible(t + offset, s, item)

                yield self.under(
                    "blocks of queries counted from the first key: p(t), not t",
                    instead(case.pattern, part, Read(part, from_key)),
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
                for n in range(min(matrix.shape[dim], MOST_TRIED)):
                    found[f"the blocks of {noun} {n}"] = matrix.narrow(dim, n, 1).expand_as(matrix)
        return found


def _resized(part: Blocks, size: tuple[int, int], case: Case) -> Blocks:
    """The same matrix over blocks of another size, its last row and column for all that is beyond it."""
    matrix = part.matrix
    for dim, length, step in ((-2, case.inputs.T, size[0]), (-1, case.inputs.S, size[1])):
        index = torch.arange(-(-length // step), device=matrix.device).clamp(max=matrix.shape[dim] - 1)
        matrix = matrix.index_select(matrix.ndim + dim, index)
    return replace(part, matrix=matrix, size=size)
