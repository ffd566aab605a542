"""Where the queries and keys of one batch item stand: in their sequence, among documents, among padding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from attnviz.attention.call import Call
from attnviz.base.errors import InputError
from attnviz.base.types import Positions


@dataclass(frozen=True)
class Standing:
    """One batch item of an attention, whatever its numbers are: what patterns ask of it."""

    inputs: Call
    batch: int
    device: torch.device

    @property
    def source(self) -> str:
        """What errors and titles call the inputs."""
        return self.inputs.source

    @property
    def T(self) -> int:
        """Query positions."""
        return self.inputs.T

    @property
    def S(self) -> int:
        """Key positions."""
        return self.inputs.S

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """(B, H, T, S)."""
        return self.inputs.B, self.inputs.H, self.T, self.S

    # Where a query stands: every rule about order or distance asks here.

    @property
    def cross(self) -> bool:
        """Whether keys are of another sequence, so that there is no order between queries and keys."""
        return self.inputs.cross

    @cached_property
    def offset(self) -> int | None:
        """The key at the position of query ``t`` has index ``t + offset``; None where no one number says it of all.

        An index below 0, or from S on, says that no key stands there.

        Raises:
            InputError: keys are of another sequence.
        """
        if self.cross:
            raise InputError(
                f"{self.source}: keys are of another sequence (cross), which has no order; choose a pattern without one "
                f"(--pattern full or global)"
            )
        queries, keys = self._query_positions, self._key_positions
        if queries is None and keys is None:
            return self.S - self.T
        if self.documents is not None:
            own = self.own_keys
            if own is None:
                return None
            steps = np.unique((own - np.arange(self.T))[self.documents[0] >= 0])
            return int(steps[0]) if len(steps) == 1 else None
        queries, keys = (
            self.query_position(torch.arange(self.T)),
            torch.arange(self.S) if keys is None else keys,
        )
        steady = bool((queries.diff() == 1).all()) and bool((keys.diff() == 1).all())
        return int(queries[0] - keys[0]) if steady else None

    def query_position(self, t: Tensor) -> Tensor:
        """``p(t)``: where queries stand in their sequence, for any shape of indices."""
        if self._query_positions is not None:
            return self._query_positions.to(t.device)[t]
        if self._key_positions is not None:  # the last T keys
            return self._key_positions.to(t.device)[t + (self.S - self.T)]
        return t + (self.S - self.T)

    def key_position(self, s: Tensor) -> Tensor:
        """``p(s)``: where keys stand in their sequence, for any shape of indices."""
        return s if self._key_positions is None else self._key_positions.to(s.device)[s]

    def key_at(self, t: Tensor, before: int | Tensor = 0) -> Tensor:
        """The index of the key that stands ``before`` positions before each query; -1 where none does.

        Args:
            t: query indices.
            before: how many positions, of any shape that broadcasts with ``t``.
        """
        offset = self.offset
        if offset is not None:
            found = t + (offset - before)
            found = found.masked_fill((found < 0) | (found >= self.S), -1)
            together = self.together(t, found.clamp(min=0))
            return found if together is None else torch.where(together, found, -1)
        documents = None if self.documents is None else self.documents[0]
        wanted = (self.query_position(t) - before).cpu().numpy()
        own = self._places.at(wanted, None if documents is None else documents[t.cpu().numpy()])
        return torch.from_numpy(own).to(t.device)

    def key_before(self, s: Positions) -> Positions:
        """The index of the key that stands one position before each key, in its document; -1 where none does."""
        documents = None if self.documents is None else self.documents[1][s]
        wanted = self.key_position(torch.from_numpy(s)).numpy() - 1
        return self._places.at(wanted, documents)

    @cached_property
    def farthest(self) -> float:
        """The largest distance between a query and a key."""
        queries, keys = self.query_position(torch.arange(self.T)), self.key_position(torch.arange(self.S))
        return float(max(queries.max() - keys.min(), keys.max() - queries.min()))

    @cached_property
    def _places(self) -> _Places:
        """Where the keys that exist stand."""
        return _Places.of(self, self._present)

    def first_keys(self, t: Tensor) -> Tensor:
        """The index of the existing key that stands first in each query's document, or in all; -1 where there is none."""
        if self.documents is None:
            return torch.full_like(t, self._first_key)
        first = torch.from_numpy(np.append(self._firsts, -1)).to(t.device)
        return first[torch.from_numpy(self.documents[0]).to(t.device)[t]]

    @cached_property
    def key_ranks(self) -> Tensor:
        """How many existing keys of its document stand before each key, (S,); S for one that doesn't exist."""
        exists, ranks = self._present, np.full(self.S, self.S)
        documents = np.zeros(self.S, dtype=np.int64) if self.documents is None else self.documents[1]
        order = exists[np.lexsort((self.key_position(torch.from_numpy(exists)).numpy(), documents[exists]))]
        _, begin, which = np.unique(documents[order], return_index=True, return_inverse=True)
        ranks[order] = np.arange(len(order)) - begin[which]
        return torch.from_numpy(ranks)

    @cached_property
    def _first_key(self) -> int:
        exists = self._present
        return int(exists[self.key_position(torch.from_numpy(exists)).argmin()]) if len(exists) else -1

    @cached_property
    def _firsts(self) -> Positions:
        """The existing key that stands first in each document, by its rank; -1 where there is none."""
        assert self.documents is not None
        exists, documents = self._present, self.documents[1]
        order = exists[np.lexsort((self.key_position(torch.from_numpy(exists)).numpy(), documents[exists]))]
        found = np.full(int(documents.max(initial=-1)) + 1, -1)
        ranks, where = np.unique(documents[order], return_index=True)
        found[ranks] = order[where]
        return found

    # Which document: packed sequences share one row, and what has an order stays within each.

    def together(self, t: Tensor, s: Tensor) -> Tensor | None:
        """Whether queries and keys are of one document, for any indices that broadcast; None where there are no documents."""
        if self.documents is None:
            return None
        queries, keys = (torch.from_numpy(ranks).to(s.device) for ranks in self.documents)
        return queries[t] == keys[s]

    @cached_property
    def document_bounds(self) -> tuple[Positions, Positions, bool] | None:
        """The first and the last + 1 key of each query's document, (T,), S and 0 where it is of none; None without documents.

        The last says whether every existing key between is of that document.
        """
        if self.documents is None:
            return None
        (queries, keys), exists = self.documents, self._present
        first, stop = np.full(keys.max() + 2, self.S), np.zeros(keys.max() + 2, dtype=np.int64)
        np.minimum.at(first, keys[exists], exists)
        np.maximum.at(stop, keys[exists], exists + 1)
        changes = np.count_nonzero(np.diff(keys[exists]))
        whole = changes + 1 == len(np.unique(keys[exists])) if len(exists) else True
        return first[queries], stop[queries], whole

    @cached_property
    def own_keys(self) -> Positions | None:
        """The index where the key at each query's position stands or would stand, (T,), anything where a query is of no document.

        None where keys do not ascend in steps of 1 within a document, so that no index follows from a position.
        """
        exists, S = self._present, self.S
        positions = self.query_position(torch.arange(self.T)).numpy()
        shift = self.key_position(torch.arange(S)).numpy() - np.arange(S)  # of a key's position against its index
        if self.documents is None:
            steady = len(exists) > 0 and bool((shift[exists] == shift[exists[0]]).all())
            return positions - shift[exists[0]] if steady else None
        bounds = self.document_bounds
        assert bounds is not None
        if not bounds[2] or not len(exists):
            return None
        (queries, keys), of_document = self.documents, np.zeros(len(self._firsts) + 1, dtype=np.int64)
        of_document[keys[exists]] = shift[exists]
        if (of_document[keys[exists]] != shift[exists]).any():
            return None
        return positions - of_document[queries]

    @cached_property
    def documents(self) -> tuple[Positions, Positions] | None:
        """The document of each query and of each key by its rank, (T,) and (S,); -1 where a query is of none of the keys'."""
        given = self.inputs.documents
        if given is None:
            return None
        numbers, keys = np.unique(given[self.batch].cpu().numpy(), return_inverse=True)
        own = self.inputs.query_documents
        if own is not None:
            wanted = own[self.batch].cpu().numpy()
            place = np.searchsorted(numbers, wanted).clip(max=len(numbers) - 1)
            return np.where(numbers[place] == wanted, place, -1), keys
        if self.cross:
            raise InputError(
                f"{self.source}: documents are given for keys of another sequence (cross), and no query stands among "
                f"them; give query_documents too"
            )
        at = self._own_index()
        return np.where(at >= 0, keys[at], -1), keys

    def _own_index(self) -> Positions:
        """The index of the key at each query's position, (T,), -1 where there is none; said before documents are.

        It is the key of the query's own index, among the last T, where that stands there, else the only one that does.
        """
        t = np.arange(self.T)
        index = t + (self.S - self.T)
        index = np.where(index >= 0, index, -1)
        if self._query_positions is None:
            return index
        wanted = self._query_positions.numpy()
        keys = self.key_position(torch.arange(self.S)).numpy()
        itself = (index >= 0) & (keys[index] == wanted)
        places = _Places(keys[self._present], self._present)
        several = (places.count(wanted) > 1) & ~itself
        if several.any():
            first = int(several.argmax())
            raise InputError(
                f"{self.source}: query {first} of batch item {self.batch} stands at position {wanted[first]}, as keys of "
                f"several documents do; say which is its own with query_documents"
            )
        padded = _Places(keys, np.arange(self.S)).at(wanted)
        only = places.at(wanted)
        return np.where(itself, index, np.where(only >= 0, only, padded))

    @cached_property
    def _present(self) -> Positions:
        """Indices of the keys that exist, ascending."""
        return np.arange(self.S) if self.key_padding is None else self.key_padding.cpu().nonzero().flatten().numpy()

    @cached_property
    def _query_positions(self) -> Tensor | None:
        positions = self.inputs.query_positions
        return None if positions is None else positions[self.batch].cpu()

    @cached_property
    def _key_positions(self) -> Tensor | None:
        positions = self.inputs.key_positions
        return None if positions is None else positions[self.batch].cpu()

    # What exists, and what is global.

    @cached_property
    def global_positions(self) -> Tensor:
        """Indices of the global keys, ascending, (G,).

        Raises:
            InputError: there is no global mask, or it selects nothing for this item.
        """
        if self.inputs.global_mask is None:
            raise InputError(
                f"{self.source}: there is no global_mask; name one (--mask NAME), give positions (--global 0,3,7), "
                "or say another pattern: --pattern causal, or full"
            )
        positions = self.inputs.global_mask[self.batch].nonzero().flatten()
        if not len(positions):
            raise InputError(
                f"{self.source}: global_mask of batch item {self.batch} selects nothing (no True among {self.S} "
                f"positions); give positions (--global 0,3,7)"
            )
        return positions.to(self.device)

    @cached_property
    def has_global(self) -> bool:
        """Whether there are global keys."""
        mask = self.inputs.global_mask
        return mask is not None and bool(mask[self.batch].any())

    @cached_property
    def global_queries(self) -> Tensor:
        """Indices of the queries whose key, the one at their position, is global, ascending, (R,).

        Raises:
            InputError: as :attr:`global_positions`; keys are of another sequence.
        """
        at = self.key_at(torch.arange(self.T))
        return torch.isin(at, self.global_positions.cpu()).nonzero().flatten().to(self.device)

    @cached_property
    def key_padding(self) -> Tensor | None:
        """(S,) bool, True where the key exists; None where every key does."""
        mask = self.inputs.key_padding_mask
        if mask is None or bool(mask[self.batch].all()):
            return None
        return mask[self.batch].to(self.device)

    @cached_property
    def query_padding(self) -> Tensor | None:
        """(T,) bool, True where the query exists: by default where the key at its position does; None where all do."""
        mask = self.inputs.query_padding_mask
        if mask is not None:
            return None if bool(mask[self.batch].all()) else mask[self.batch].to(self.device)
        keys = self.inputs.key_padding_mask
        if keys is None or self.cross:
            return None
        at = self._any_key_at()
        exists = torch.where(at >= 0, keys[self.batch].cpu()[at.clamp(min=0)], True)
        return None if bool(exists.all()) else exists.to(self.device)

    @cached_property
    def keys_of_queries(self) -> list[int]:
        """The index of the key at each query's position, be it padding; -1 where there is none."""
        return [int(s) for s in self._any_key_at().tolist()]

    def _any_key_at(self) -> Tensor:
        """The index of the key at each query's position, be it padding, (T,); -1 where there is none."""
        t = torch.arange(self.T)
        offset = self.offset
        if offset is not None:
            return self.key_at(t)
        existing = self.key_at(t)
        documents = None if self.documents is None else self.documents[0]
        padded = _Places.of(self, np.arange(self.S)).at(self.query_position(t).numpy(), documents)
        return torch.where(existing >= 0, existing, torch.from_numpy(padded))


class _Places:
    """Where some keys stand, to be asked which of them is at a position."""

    def __init__(self, positions: Positions, index: Positions, documents: Positions | None = None) -> None:
        """``positions`` and ``documents``, (n,), are those of the keys ``index``."""
        order = np.lexsort((positions,) if documents is None else (positions, documents))
        self.positions, self.index = positions[order], index[order]
        self.documents = None if documents is None else documents[order]

    @classmethod
    def of(cls, item: Standing, index: Positions) -> _Places:
        """The places of some keys of an item."""
        documents = None if item.documents is None else item.documents[1][index]
        return cls(item.key_position(torch.from_numpy(index)).numpy(), index, documents)

    def at(self, wanted: Positions, documents: Positions | None = None) -> Positions:
        """The key at each position wanted, of each document wanted, the first of several; -1 where there is none."""
        if not len(self.index):
            return np.full(np.shape(wanted), -1)
        if self.documents is None or documents is None:
            place = np.searchsorted(self.positions, wanted).clip(max=len(self.index) - 1)
            return np.where(self.positions[place] == wanted, self.index[place], -1)
        numbers = np.unique(self.positions)
        size = len(numbers) + 1  # one more, for a position that no key has
        rank = np.searchsorted(numbers, wanted).clip(max=len(numbers) - 1)
        there = (numbers[rank] == wanted) & (documents >= 0)
        own = self.documents * size + np.searchsorted(numbers, self.positions)
        place = np.searchsorted(own, documents * size + rank).clip(max=len(self.index) - 1)
        return np.where(there & (own[place] == documents * size + rank), self.index[place], -1)

    def count(self, wanted: Positions) -> Positions:
        """How many keys stand at each position wanted."""
        return np.searchsorted(self.positions, wanted, "right") - np.searchsorted(self.positions, wanted, "left")
