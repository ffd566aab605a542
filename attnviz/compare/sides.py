"""What is held against what: the exact attention of a request, or numbers that something else computed.

A side is asked for rows of a head as any attention is (:class:`attnviz.engine.attention.Rows`), and knows nothing of comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from attnviz.attention.inputs import AttentionInputs, Inputs
from attnviz.attention.item import AttentionItem
from attnviz.attention.merged import MergedInputs
from attnviz.base.devices import DTYPES, dtype_name, is_real
from attnviz.base.errors import InputError
from attnviz.engine.attention import Computed, Rows
from attnviz.engine.blocks import SeenRows
from attnviz.engine.request import Request
from attnviz.engine.scores import AttentionScores
from attnviz.engine.visibility import HIDDEN, to_positions

BLOCK_CELLS = 1 << 20
"""Cells of a block of rows of either side."""


class Side(Protocol):
    """One side of a comparison, (H, T, S)."""

    @property
    def name(self) -> str:
        """What it is, for titles and messages."""

    @property
    def H(self) -> int:
        """Heads."""

    @property
    def T(self) -> int:
        """Queries."""

    @property
    def S(self) -> int:
        """Keys."""

    @property
    def item(self) -> AttentionItem | None:
        """What says where queries and keys stand and what they are called; None where nothing does."""

    @property
    def dtype(self) -> torch.dtype:
        """What its numbers are rounded to: of what is computed, what it is computed in."""

    @property
    def knows_hidden(self) -> bool:
        """Whether it says which keys a query sees. A tensor doesn't: its 0 is hidden or faint, and its row of padding anything."""

    def rows(self, head: int, queries: range | None = None) -> Rows:
        """One head's rows; ``queries``: those that will be asked for, None meaning all."""


class Exact:
    """The attention of a request: exact, or weights that were given."""

    def __init__(self, request: Request, settings: Sequence[str] = ()) -> None:
        """``settings``: what else to say of this side in its name."""
        self.attention, self.inputs = request.attention, request.inputs
        self.item: AttentionItem | None = self.attention.item
        which = [] if self.attention.item.batch_shown is None else [f"batch item {self.attention.item.batch}"]
        self.name = ", ".join([self.attention.name.removesuffix(")"), *which, *settings]) + ")"
        self.H, self.T, self.S = request.inputs.H, request.inputs.T, request.inputs.S
        self.computed = isinstance(request.inputs, AttentionInputs)
        inputs = request.inputs
        of_weights = inputs.result_dtype if isinstance(inputs, MergedInputs) else inputs.dtype
        self.dtype = self.attention.item.compute_dtype if self.computed else of_weights

    @property
    def knows_hidden(self) -> bool:
        """Whether it says which keys a query sees: weights that were given without a pattern don't."""
        return self.attention.knows_hidden

    @property
    def shared_keys(self) -> list[int] | None:
        """The keys that every query shares, which a kernel may give alone; None where the pattern has none."""
        keys = self.attention.pattern.reach(self.attention.item).keys
        return None if keys is None else keys.tolist()

    def rows(self, head: int, queries: range | None = None) -> Rows:
        """One head's rows."""
        return self.attention.rows(head, queries)


def check_groups(a: Inputs, b: Inputs) -> None:
    """Raises InputError for inputs whose tokens are seen as one, and not the same ones on both sides."""
    if not (isinstance(a, MergedInputs) and isinstance(b, MergedInputs)):
        return
    for noun, one, other in (("queries", a.queries, b.queries), ("keys", a.keys, b.keys)):
        if one.edges != other.edges:
            raise InputError(
                f"{', '.join(a.said)}: {len(one)} of the {noun} of {a.source} and {len(other)} of {b.source} are not of the same "
                f"tokens, which can't be compared; give both spans (--spans), or compare single tokens"
            )


class Given:
    """Numbers under test, weights or logits (H, T, C), whose C columns are the given key positions; nothing is checked.

    NaN in a part of a row is a finding here. Weights to look at are :class:`attnviz.AttentionWeights`.
    """

    knows_hidden = False
    item: AttentionItem | None = None

    def __init__(
        self, tensor: Tensor, positions: Sequence[int] | None = None, S: int | None = None, name: str = "tensor"
    ) -> None:
        if tensor.ndim == 4 and tensor.shape[0] == 1:
            tensor = tensor[0]
        if tensor.ndim != 3 or not is_real(tensor) or 0 in tensor.shape:
            raise InputError(
                f"{name}: has shape {tuple(tensor.shape)} and dtype {dtype_name(tensor.dtype)}, "
                f"wanted weights or scores (H, T, S) of {', '.join(DTYPES)}, one batch item"
            )
        self.tensor, self.name, self.dtype = tensor.detach(), name, tensor.dtype
        self.H, self.T, C = tensor.shape
        self.S = S or C
        if C == self.S:
            self.keys = torch.arange(C)
        elif positions is not None and len(positions) == C:
            self.keys = torch.tensor(list(positions))
        else:
            shared = "" if positions is None else f" or {len(positions)}, the pattern's global keys"
            raise InputError(
                f"{name}: has {C} columns, shape {tuple(tensor.shape)}; wanted {self.S}, a key position each{shared}"
            )

    def rows(self, head: int, queries: range | None = None) -> Rows:
        """One head's rows."""
        return _GivenRows(self.tensor[head], self.keys)


class _GivenRows:
    step: int | None = None

    def __init__(self, values: Tensor, keys: Tensor) -> None:
        self.values, self.keys = values, keys  # (T, C), (C,)
        self.apart = torch.empty(0, dtype=torch.int64)

    def read(self, rows: range | Tensor, *, weights: bool = True) -> SeenRows:
        """Some rows; a weight of 0 doesn't say that the query sees the key."""
        part = self.values[rows.start : rows.stop : rows.step] if isinstance(rows, range) else self.values[rows]
        values = part.cpu().double()
        blank = torch.isnan(values).all(1, keepdim=True)  # a query that sees nothing; any other NaN is a fault
        return SeenRows(self.keys, values, (values != (0.0 if weights else HIDDEN)) & ~blank)


class Scored:
    """Logits or weights of :func:`attnviz.score`, over every key position."""

    knows_hidden = True

    def __init__(self, result: AttentionScores) -> None:
        if len(result.rows) < result.item.T:
            raise InputError(
                f"{result.item.inputs.source}: these scores are of queries {result.rows.start} to {result.rows.stop - 1}; what "
                f"is compared or kept is of all {result.item.T}: score(...) without queries"
            )
        if result.keys is not None:
            raise InputError(
                f"{result.item.inputs.source}: these scores are of keys {result.keys.start} to {result.keys.stop - 1}; what is "
                f"compared or kept is of all {result.item.S}: score(...) without keys"
            )
        self.result = result
        self.item: AttentionItem | None = result.item
        self.name = result.item.source
        self.H, self.T, self.S = result.item.inputs.H, result.item.T, result.item.S
        self.dtype = result.item.compute_dtype

    def rows(self, head: int, queries: range | None = None) -> Rows:
        """The rows of one of the heads that were scored."""
        return _ScoredRows(self.result, head, queries)


class _ScoredRows:
    step: int | None = None

    def __init__(self, result: AttentionScores, head: int, queries: range | None) -> None:
        self.result, self.head, self.n = result, head, result.heads.index(head)
        self.queries = queries
        self.apart = result.global_queries.cpu()

    def read(self, rows: range | Tensor, *, weights: bool = True) -> SeenRows:
        """Some rows, as they were handed over; what is hidden is what the pattern hides."""
        result, S, name = self.result, self.result.item.S, "weights" if weights else "logits"
        at = to_positions(rows, torch.device("cpu"))
        empty = 0.0 if weights else HIDDEN
        values = torch.full((len(at), S), empty, dtype=torch.float64)
        of_global = torch.isin(at, self.apart)
        plain = at[~of_global]
        if len(plain):
            values[~of_global] = self._over_keys(result.values(name)[self.n, plain].cpu().double(), plain, empty)
        if len(plain) < len(at):
            index = torch.searchsorted(self.apart, at[of_global])
            values[of_global] = result.global_values(name)[self.n, index].cpu().double()
        seen = values > HIDDEN if not weights else self._seen(at) | (values.nan_to_num() != 0)
        if weights:
            values[~seen.any(1)] = torch.nan
        return SeenRows(torch.arange(S), values, seen)

    def _over_keys(self, given: Tensor, rows: Tensor, empty: float) -> Tensor:
        """Plain rows, (b, C1 + C2) of shared keys and a band, over every key position, (b, S)."""
        shared, offsets = self.result.positions.cpu(), torch.tensor(list(self.result.offsets), dtype=torch.int64)
        whole = given.new_full((len(rows), self.result.item.S), empty)
        band = rows[:, None] + offsets  # (b, C2)
        inside = (band >= 0) & (band < whole.shape[1])
        at = torch.arange(len(rows))[:, None].expand_as(band)
        whole[at[inside], band[inside]] = given[:, len(shared) :][inside]
        # A shared key comes again in the band, hidden: its own column has the last word.
        whole[:, shared] = given[:, : len(shared)]
        return whole

    def _seen(self, rows: Tensor) -> Tensor:
        """Which keys the queries see, (b, S): logits say it, where they were kept, else the exact rows do."""
        if self.result.scores is not None:
            return self.read(rows, weights=False).seen
        exact = Computed(self.result.item, self.result.pattern).rows(self.head, self.queries).read(rows, weights=False)
        return exact.over(torch.arange(self.result.item.S), False).seen


def aligned(a: SeenRows, b: SeenRows, weights: bool) -> tuple[SeenRows, SeenRows]:
    """The same rows of two sides over the keys of both, ascending."""
    keys = torch.unique(torch.cat([a.keys, b.keys]))
    return a.over(keys, weights), b.over(keys, weights)
