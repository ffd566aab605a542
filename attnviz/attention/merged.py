"""An attention that is derived from another's weights: keys hidden, rows renormalized, tokens seen as words or spans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.attention.groups import Groups, Merge, any_of, documents_of, merge_of, ranks_of, single
from attnviz.attention.inputs import Inputs
from attnviz.attention.item import AttentionItem
from attnviz.attention.pattern import Item, Pattern
from attnviz.attention.reach import Reach
from attnviz.base.devices import accumulation_dtype
from attnviz.base.errors import InputError
from attnviz.base.spans import Hide, Spans, hidden_of
from attnviz.base.types import Positions
from attnviz.base.words import count

_PAIRS = 1 << 22  # of queries and keys that are asked for together


@dataclass(frozen=True)
class MergedInputs(Inputs):
    """One batch item of other inputs, whose weights are taken as they are and seen otherwise.

    In this order, for each query: keys are hidden; where asked, the rest is made to sum to 1 again (a rest of 0 is a blank
    row); the keys of a group are added up; the queries of a group that see anything are averaged. It has places, padding,
    documents and labels of groups, and is made by :func:`merged`.

    Args:
        base: whose weights are taken.
        own: which query sees which key there.
        of_item: the batch item; the others are not there.
        queries, keys: the groups, which are single positions where nothing is merged.
        hidden: the keys that are hidden, ascending.
        renormalized: whether rows sum to 1 again.
        said: what was done, in words.
        asked: what was asked for, as :func:`merged` takes it.
    """

    base: Inputs
    own: Pattern
    _: KW_ONLY
    of_item: int
    queries: Groups
    keys: Groups
    hidden: tuple[int, ...] = ()
    renormalized: bool = False
    said: tuple[str, ...] = ()
    asked: Mapping[str, Any] = field(default_factory=dict, compare=False)
    _items: dict[tuple[torch.device, torch.dtype], AttentionItem] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def main(self) -> Tensor:
        return self.base.main

    @property
    def without_products(self) -> str:
        return f"{', '.join(self.said)}: these are of weights, and this needs q and k; leave the options of it out"

    @property
    def T(self) -> int:
        """Groups of queries."""
        return len(self.queries)

    @property
    def S(self) -> int:
        """Groups of keys."""
        return len(self.keys)

    @property
    def H_kv(self) -> int:
        return self.base.H_kv

    @property
    def result_dtype(self) -> torch.dtype:
        """What its numbers are rounded to."""
        return accumulation_dtype(self.dtype) if isinstance(self.base, AttentionCall) else self.dtype

    def item(
        self, batch: int = 0, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> AttentionItem:
        if batch != self.of_item:
            raise InputError(
                f"{self.source}: groups are those of batch item {self.of_item}, and item {batch} has others"
            )
        return AttentionItem(self, batch, device or self.device, dtype or self.dtype)

    def under(self, item: AttentionItem) -> AttentionItem:
        """The item whose weights are taken, on the device and in the dtype of one of these."""
        where = item.device, item.dtype
        if where not in self._items:
            self._items[where] = self.base.item(self.of_item, device=where[0], dtype=where[1])
        return self._items[where]


def merged(
    inputs: Inputs,
    batch: int,
    pattern: Pattern,
    *,
    merge: str | None = None,
    spans: Spans | None = None,
    query_spans: Spans | None = None,
    hide: Hide | None = None,
    renormalize: bool = False,
) -> MergedInputs:
    """A batch item of inputs with keys hidden, and its tokens seen as words or spans.

    Args:
        inputs: queries, keys and masks, or weights that were given.
        batch: the batch item.
        pattern: which query sees which key.
        merge, spans, query_spans: as :func:`attnviz.attention.groups.merge_of` takes them.
        hide: as :func:`attnviz.base.spans.hidden_of` takes it.
        renormalize: whether each row is made to sum to 1 again.

    Raises:
        InputError: what can't be: words where nothing says what is one, spans that overlap, nothing left to see.
    """
    asked = {"merge": merge, "spans": spans, "query_spans": query_spans, "hide": hide, "renormalize": renormalize}
    item = inputs.item(batch)
    hidden: tuple[int, ...] = ()
    if hide is not None:
        padding = (
            None if inputs.key_padding_mask is None else (~inputs.key_padding_mask[batch]).nonzero().flatten().tolist()
        )
        hidden = hidden_of(hide, item.S, item.key_tokens, padding, source=item.source)
    groups = merge_of(item, merge, spans, query_spans)
    said = [] if groups is None else [groups.said]
    said += [] if hide is None else [f"{count(len(hidden), 'key')} hidden"]
    said += ["renormalized"] if renormalize else []
    common: dict[str, Any] = {
        "of_item": batch,
        "hidden": hidden,
        "renormalized": renormalize,
        "said": tuple(said),
        "asked": {name: value for name, value in asked.items() if value is not None and value is not False},
        "source": inputs.source,
        "layer": inputs.layer,
    }
    fields = _as_they_are(item) if groups is None else _of_groups(item, groups)
    queries, keys = (single(item.T), single(item.S)) if groups is None else (groups.queries, groups.keys)
    found = MergedInputs(inputs, pattern, queries=queries, keys=keys, **common, **fields)
    return replace(found, pattern=MergedPattern(found))


def cropped(inputs: Inputs, batch: int, pattern: Pattern, queries: range, keys: range) -> MergedInputs:
    """Some queries of a batch item over some keys, all others left out of sight: weights stay what they are.

    Args:
        inputs: queries, keys and masks, weights that were given, or what is merged of these.
        batch: the batch item.
        pattern: which query sees which key.
        queries, keys: indices, of groups where tokens are seen as one.
    """
    whole = inputs if isinstance(inputs, MergedInputs) else merged(inputs, batch, pattern)
    item, B = whole.item(batch), whole.B
    q, k = slice(queries.start, queries.stop), slice(keys.start, keys.stop)
    t, s = torch.arange(item.T), torch.arange(item.S)

    def each(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.expand(B, *values.shape)

    there: dict[str, Tensor | None] = {
        "key_padding_mask": None if item.key_padding is None else item.key_padding.cpu()[k],
        "query_padding_mask": torch.ones(len(t), dtype=torch.bool)[q]
        if item.query_padding is None
        else item.query_padding.cpu()[q],
        "global_mask": None if whole.global_mask is None else whole.global_mask[batch].cpu()[k],
        "query_positions": None if item.cross else item.query_position(t)[q],
        "key_positions": None if item.cross else item.key_position(s)[k],
        "documents": None if item.documents is None else torch.from_numpy(item.documents[1])[k],
        "query_documents": None if item.documents is None else torch.from_numpy(item.documents[0])[q],
    }
    own: dict[str, Any] = {name: each(values) for name, values in there.items()}
    for prefix, tokens, part in (("", item.key_tokens, keys), ("query_", item.query_tokens, queries)):
        few = None if tokens is None else tokens.at(part)
        own[f"{prefix}tokens"] = None if few is None else [few.raw] * B
        own[f"{prefix}word_ids"] = None if few is None or few.word_ids is None else [few.word_ids] * B
        own[f"{prefix}special_tokens"] = None if few is None else [sorted(few.special)] * B
    parts = ((queries, item.T, "queries"), (keys, item.S, "keys"))
    said = [f"{noun} {part.start} to {part.stop - 1}" for part, size, noun in parts if len(part) < size]
    found = replace(
        whole,
        queries=whole.queries[queries],
        keys=whole.keys[keys],
        said=(*whole.said, *said),
        **own,
    )
    return replace(found, pattern=MergedPattern(found))


def _as_they_are(item: AttentionItem) -> dict[str, Any]:
    """Places, padding and labels of positions that are merged to nothing."""
    names = (
        *("global_mask", "key_padding_mask", "query_padding_mask", "tokens", "query_tokens", "token_form", "word_ids"),
        *("query_word_ids", "special_tokens", "query_special_tokens", "cross", "query_positions", "key_positions"),
        *("documents", "query_documents"),
    )
    return {name: getattr(item.inputs, name) for name in names}


def _of_groups(item: AttentionItem, groups: Merge) -> dict[str, Any]:
    """Places, padding and labels of groups."""
    inputs, B = item.inputs, item.inputs.B
    exists, asks = item.key_padding, item.query_padding
    ranks, documents = ranks_of(item, groups), documents_of(item, groups)

    def each(values: Tensor | None) -> Tensor | None:
        """The same for every batch item, of which but one is read."""
        return None if values is None else values.expand(B, *values.shape)

    def listed(values: Sequence[Any] | None) -> list[Sequence[Any]] | None:
        return None if values is None else [values] * B

    masks = {
        "global_mask": None
        if inputs.global_mask is None
        else any_of(inputs.global_mask[item.batch].cpu().numpy(), groups.keys),
        "key_padding_mask": None if exists is None else any_of(exists.cpu().numpy(), groups.keys),
        "query_padding_mask": torch.ones(len(groups.queries), dtype=torch.bool)
        if asks is None
        else any_of(asks.cpu().numpy(), groups.queries),
    }
    none: dict[str, Tensor | None] = {"query_positions": None, "key_positions": None}
    places = none if ranks is None else _named(ranks, "positions")
    of = {"query_documents": None, "key_documents": None} if documents is None else _named(documents, "documents")
    places["documents"], places["query_documents"] = of["key_documents"], of["query_documents"]
    return {
        **{name: each(values) for name, values in {**masks, **places}.items()},
        "tokens": listed(groups.keys.labels),
        "query_tokens": listed(groups.queries.labels),
        "special_tokens": listed(groups.keys.special),
        "query_special_tokens": listed(groups.queries.special),
        "cross": ranks is None,
    }


def _named(pair: tuple[Positions, Positions], noun: str) -> dict[str, Tensor | None]:
    return {f"{whose}_{noun}": torch.from_numpy(values) for whose, values in zip(("query", "key"), pair, strict=True)}


@dataclass(frozen=True, eq=False)
class MergedPattern(Pattern):
    """Which group of queries sees which group of keys: where some query sees some key that is not hidden."""

    inputs: MergedInputs
    head: int | None = None

    def of_head(self, head: int) -> Pattern:
        own, base = self.inputs.own.of_head(head), self.inputs.base
        if own == self.inputs.own and getattr(base, "bias", None) is None:
            return self
        return MergedPattern(replace(self.inputs, own=own), head)

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        assert isinstance(item, AttentionItem)
        rows, row = t.unique(return_inverse=True)
        columns, column = s.unique(return_inverse=True)
        found = self._pairs(rows.cpu().numpy(), columns.cpu().numpy(), self.inputs.under(item))
        seen: Tensor = torch.from_numpy(found).to(t.device)[row, column]
        return seen

    def _pairs(
        self, rows: Positions, columns: Positions, item: AttentionItem
    ) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        """Whether each of some groups of queries sees each of some groups of keys."""
        keys, cuts = _members(self.inputs.keys, columns)
        s = torch.from_numpy(keys)
        kept = ~np.isin(keys, self.inputs.hidden)
        if item.key_padding is not None:
            kept &= item.key_padding.cpu().numpy()[keys]
        found = np.zeros((len(rows), len(columns)), dtype=bool)
        for n, group in enumerate(rows):
            queries, _ = _members(self.inputs.queries, np.asarray([group]))
            for part in torch.from_numpy(queries).split(max(1, _PAIRS // len(keys))):
                seen = (
                    self.inputs.own.visible(part[:, None], s[None], item).expand(len(part), len(s)).cpu().numpy() & kept
                )
                if item.query_padding is not None:
                    seen = seen & item.query_padding.cpu()[part].numpy()[:, None]
                if self.head is not None and not item.given and item.bias_hides(self.head):
                    bias = item.bias(self.head)
                    assert bias is not None
                    seen = seen & (bias[part.to(bias.device)][:, s.to(bias.device)] > -torch.inf).cpu().numpy()
                found[n] |= np.logical_or.reduceat(seen.any(0), cuts)
        return found

    def reach(self, item: Item) -> Reach:
        assert isinstance(item, AttentionItem)
        own = self.inputs.own
        reach = own.reach(self.inputs.under(item))
        if reach.band or reach.keys is None or own.global_queries:
            return Reach(band_exact=False)
        edges, keys = np.asarray(self.inputs.keys.edges), reach.keys.cpu().numpy()
        inside = keys[(keys >= edges[0]) & (keys < edges[-1])]
        groups = np.unique(np.searchsorted(edges, inside, side="right") - 1)
        return Reach(band=False, keys=torch.from_numpy(groups).to(item.device), keys_exact=False)

    def __str__(self) -> str:
        return ", ".join([str(self.inputs.own), *self.inputs.said])


def _members(groups: Groups, chosen: Positions) -> tuple[Positions, Positions]:
    """The indices of some groups, and where each group's begin among them."""
    edges = np.asarray(groups.edges)
    lengths = edges[chosen + 1] - edges[chosen]
    cuts = np.cumsum(lengths) - lengths
    return np.repeat(edges[chosen] - cuts, lengths) + np.arange(int(lengths.sum())), cuts
