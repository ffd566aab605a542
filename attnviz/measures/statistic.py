"""What a statistic is: a number of each query, or of each key, made one of a head; and what a block of queries tells it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from attnviz.attention.item import AttentionItem
from attnviz.base.errors import InputError, is_memory
from attnviz.engine.blocks import Block
from attnviz.measures.tokens import SameTokens

Values = tuple[Tensor, Tensor] | None
"""Each query's value, (b,), and whether it has one, (b,) bool; None where the inputs say nothing of it."""


NEAR = 4
"""How many positions to each side are near, for ``local_mass``."""


@dataclass(frozen=True)
class Statistic:
    """A number of each query, made one of the head: the mean over the queries that have one, or the largest of them."""

    name: str
    about: str
    """What it is, for tables, help and docs."""
    function: Callable[[Any], Values]
    unit: str = "weight"
    """What it is counted in: ``weight``, ``nats``, ``share``, ``tokens``, ``logit``, ``norm``."""
    how: str = "mean"
    """``mean`` or ``max``."""
    of: str = "queries"
    """What it is of: ``queries``, a block of them at a time, or ``keys``, all of a head's."""

    @property
    def in_tokens(self) -> bool:
        """Whether it counts tokens, so that it is as large as the sequence and not a share."""
        return self.unit == "tokens"

    def of_queries(self, block: QueryBlock) -> Values:
        """What it is of a block of queries; None of keys alone."""
        return self.function(block) if self.of == "queries" else None


STATISTICS: dict[str, Statistic] = {}
"""Each statistic by its name, in the order of tables."""

_AnyStatistic = TypeVar("_AnyStatistic", bound=Callable[..., Values])


def statistic(
    *, unit: str = "weight", how: str = "mean", of: str = "queries"
) -> Callable[[_AnyStatistic], _AnyStatistic]:
    """Makes a function of a block of queries a statistic: its name is the function's, what it is its docstring's.

    Args:
        unit: what it is counted in: ``weight``, ``nats``, ``share`` (of its most), ``tokens``, ``logit`` or ``norm``.
        how: whether a head's is the ``mean`` over its queries or the largest, ``max``.
        of: ``queries``, where it takes a :class:`QueryBlock`; ``keys``, where it takes :class:`HeadKeys`.
    """

    def known(function: _AnyStatistic) -> _AnyStatistic:
        name, about = function.__name__, " ".join((function.__doc__ or "").split()).removesuffix(".")
        STATISTICS[name] = Statistic(name, about, function, unit, how, of)
        return function

    return known


def own_statistic(function: Any, name: str, said: str, known: Mapping[str, Statistic]) -> str:
    """Makes a function of the user's own a statistic, and gives its name.

    Args:
        function: takes a :class:`QueryBlock` and gives values; it may carry the decorator :func:`statistic` already.
        name: what it is called in the user's file.
        said: what errors call it.
        known: the statistics there were before.

    Raises:
        InputError: it is no function, or has the name of a statistic that there is; when it is asked, what it raises, or
            gives that is no value of each query.
    """
    if not callable(function):
        raise InputError(f"{said}: {name} is a {type(function).__name__}, wanted a function of a block of queries")
    name = getattr(function, "__name__", name)
    if name in known:
        raise InputError(f"{said}: there is a statistic {name} already; call yours otherwise")
    if name not in STATISTICS:
        statistic()(function)

    def checked(block: Any) -> Values:
        try:
            found = function(block)
        except InputError:
            raise
        except Exception as error:  # whatever a function of the user's raises, said in one line
            if is_memory(error):
                raise
            first = str(error).partition("\n")[0]
            raise InputError(f"{said}: fails with {type(error).__name__}: {first}") from error
        if found is None:
            return None
        size = (len(block.rows),) if isinstance(block, QueryBlock) else (block.item.S,)
        if not (isinstance(found, tuple) and len(found) == 2 and all(isinstance(one, Tensor) for one in found)):
            raise InputError(
                f"{said}: gives {type(found).__name__}, wanted two tensors: values, and whether there is one"
            )
        values, there = found
        if tuple(values.shape) != size or tuple(there.shape) != size or there.dtype != torch.bool:
            raise InputError(
                f"{said}: gives shapes {tuple(values.shape)} and {tuple(there.shape)}, wanted {size} of values, and as many bools"
            )
        return values, there

    STATISTICS[name] = replace(STATISTICS[name], function=checked)
    return name


@dataclass(frozen=True)
class HeadKeys:
    """The keys of a head, of which some statistics are."""

    item: AttentionItem
    head: int

    @cached_property
    def exist(self) -> Tensor:
        """(S,) bool: which keys are no padding."""
        padding = self.item.key_padding
        return torch.ones(self.item.S, dtype=torch.bool, device=self.item.device) if padding is None else padding

    @cached_property
    def norms(self) -> Tensor | None:
        """The length of each key vector, (S,); None where there are no such."""
        return norms(self.item.key(self.head), self.item) if has_vectors(self.item) else None


_TOGETHER = 4096
"""Vectors whose lengths are taken at once."""


def has_vectors(item: AttentionItem | None) -> bool:
    """Whether an item has queries and keys, and not weights alone."""
    return item is not None and not item.given


def norms(vectors: Tensor, item: AttentionItem) -> Tensor:
    """Euclidean lengths of (n, D), (n,)."""
    if vectors.shape[0] <= _TOGETHER:
        found: Tensor = torch.linalg.vector_norm(vectors, dim=1, dtype=item.compute_dtype)
        return found
    lengths = torch.empty(len(vectors), dtype=item.compute_dtype, device=vectors.device)
    # In parts, as whatever widens a half type makes a copy of it.
    for part, out in zip(vectors.split(_TOGETHER), lengths.split(_TOGETHER), strict=True):
        torch.linalg.vector_norm(part, dim=1, dtype=item.compute_dtype, out=out)
    return lengths


class QueryBlock:
    """The queries of a block that see a key, b of them, and what statistics ask of them."""

    def __init__(self, block: Block, item: AttentionItem | None, head: int | None = None) -> None:
        """``item`` says where queries and keys stand, and what is global and padding; None: the last T of S keys.

        ``head`` says whose queries these are, where that is known.
        """
        sees = block.visible > 0
        every = bool(sees.all())
        self._sees, self._every = sees, every
        self.weights = block.values if every else block.values[sees]  # (b, n)
        self.rows = block.rows if every else block.rows[sees]  # (b,) query indices
        self.visible = block.visible if every else block.visible[sees]  # (b,) keys that each sees
        self.keys, self.item, self._block = block.keys, item, block  # (n,) key indices
        self.head = head
        self._seen = block.seen if every or block.seen is None else block.seen[sees]  # (b, n), None where all are seen

    @cached_property
    def zero(self) -> Tensor:
        """(b,) zeros."""
        return self.weights.new_zeros(len(self.rows))

    @cached_property
    def all(self) -> Tensor:
        """(b,) True."""
        return torch.ones(len(self.rows), dtype=torch.bool, device=self.rows.device)

    @cached_property
    def entropy(self) -> Tensor:
        """The entropy of each query's weights in nats, (b,); -inf where one that was given is negative."""
        return self._block.entropies if self._every else self._block.entropies[self._sees]

    @property
    def largest_logits(self) -> Tensor | None:
        """The largest logit of each query, (b,); None where there are weights alone."""
        sums = self._block.sums
        return None if sums is None else sums.largest if self._every else sums.largest[self._sees]

    @cached_property
    def tops(self) -> Tensor:
        """The largest weight of each query, (b,)."""
        return self._block.tops if self._every else self._block.tops[self._sees]

    @property
    def ordered(self) -> bool:
        """Whether queries and keys stand in one sequence."""
        return self.item is None or not self.item.cross

    @cached_property
    def norms(self) -> Tensor | None:
        """The length of each query vector, (b,); None where there are no such."""
        if self.item is None or self.head is None or not has_vectors(self.item):
            return None
        return norms(self.item.query(self.head, for_global=self._block.for_global)[self.rows], self.item)

    @cached_property
    def seen(self) -> Tensor:
        """(b, n) bool: whether each query sees each key; one that comes twice among the columns counts once."""
        return torch.ones_like(self.weights, dtype=torch.bool) if self._seen is None else self._seen

    @property
    def sees_count(self) -> Tensor:
        """(n,) how many of the queries see each key."""
        return self._block.seeing

    def among_first(self, count: int) -> Tensor:
        """(b, n) bool: which keys are among the first so many that exist, of each query's document where there are such."""
        if self.item is None:
            return (self.keys < count).expand_as(self.weights)
        ranks = self.item.key_ranks.to(self.keys.device)[self.keys] < count
        together = self.item.together(self.rows[:, None], self.keys[None])
        return ranks.expand_as(self.weights) if together is None else ranks & together

    def mass(self, where: Tensor) -> Tensor:
        """Each query's weight on the keys where ``where``, (n,) bool, is True, (b,)."""
        return self.weights[:, where].sum(1) if self.weights.numel() else self.zero

    def at(self, keys: Tensor) -> Tensor:
        """Each query's weight on one key of its own, by index, (b,); 0 where it does not see it, or it is -1."""
        return self._on(keys)[0]

    def sees_key(self, keys: Tensor) -> Tensor:
        """Whether each query sees one key of its own, by index, (b,) bool."""
        return self._on(keys)[1]

    def before(self, places: int) -> Values:
        """Each query's weight on the key so many positions before its own, and whether it sees that; None without order."""
        if not self.ordered:
            return None
        if abs(places) > NEAR:
            return self._on(self._own(torch.tensor(places)))
        weights, sees = self._near
        return weights[:, places + NEAR], sees[:, places + NEAR]

    @property
    def near(self) -> Values:
        """Each query's weight on the nearest positions, up to ``NEAR`` to each side of its own; None without order."""
        return (self._near[0].sum(1), self.all) if self.ordered else None

    @cached_property
    def _near(self) -> tuple[Tensor, Tensor]:
        """Of the keys ``NEAR`` positions behind each query to ``NEAR`` before it, in this order, (b, 2 NEAR + 1)."""
        return self._on(self._own(torch.arange(-NEAR, NEAR + 1)))

    def _own(self, places: Tensor) -> Tensor:
        """The key so many positions before each query's own, by index, for one or (n,) places: (b,) or (b, n)."""
        places, rows = places.to(self.rows.device), self.rows[:, None] if places.dim() else self.rows
        return rows - places if self.item is None else self.item.key_at(rows, places)

    def on_same_token(self, role: str) -> Values:
        """Each query's weight on keys that stand to its token as a role says, and whether it sees such a key.

        Args:
            role: ``duplicate`` or ``induction``, as :class:`~attnviz.measures.tokens.SameTokens` has them.
        """
        tokens = SameTokens.of(self.item)
        if tokens is None:
            return None
        if not self.weights.numel():
            return self.zero, ~self.all
        total, sees = self.zero.clone(), ~self.all
        for part, *pairs in tokens.pairs(role, self.rows.cpu().numpy()):
            row, key = (torch.from_numpy(index).to(self.rows.device) for index in pairs)
            column, there = self._column(key)
            row, column = row[there] + part, column[there]
            if self._seen is not None:
                seen = self._seen[row, column]
                row, column = row[seen], column[seen]
            total.index_add_(0, row, self.weights[row, column])
            sees[row] = True
        return total, sees

    @cached_property
    def _columns(self) -> Tensor:
        """The column of each key, (most + 1,); -1 for a key that is none."""
        keys, shared = self.keys, self._block.shared
        column = keys.new_full((int(keys.amax()) + 1,), -1)
        column[keys[shared:]] = torch.arange(shared, len(keys), device=keys.device)
        column[keys[:shared]] = torch.arange(shared, device=keys.device)  # hidden where it comes again
        return column

    def _column(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """A column for each of some keys, by index, and whether it is the key's."""
        run = self._block.run
        if run is not None:
            at = keys - run.start
            column = at.clamp(0, len(run) - 1)
            return column, column == at
        at = keys.clamp(0, len(self._columns) - 1)
        column = self._columns[at]
        return column.clamp(min=0), (column >= 0) & (at == keys)

    def _on(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Each query's weight on keys of its own, by index, one or n each, and whether it sees them: (b,) or (b, n)."""
        if not self.weights.numel():
            return self.weights.new_zeros(keys.shape), torch.zeros_like(keys, dtype=torch.bool)
        column, sees = self._column(keys if keys.dim() > 1 else keys[:, None])
        if self._seen is not None:
            sees = sees & self._seen.gather(1, column)
        weights = self.weights.gather(1, column) * sees
        return weights.view_as(keys), sees.view_as(keys)
