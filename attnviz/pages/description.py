"""What a page shows, in words and numbers: the JSON that ``web/FORMAT.md`` lays down, apart from what is in blobs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, overload

import torch
from torch import Tensor

from attnviz.attention.groups import merge_of
from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import GlobalKeys, GlobalQueries, Pattern
from attnviz.base.errors import InputError
from attnviz.engine.attention import Attention
from attnviz.engine.combined import as_given
from attnviz.engine.derived import Derived
from attnviz.engine.given import Given, GivenRows
from attnviz.engine.makers import attention_of
from attnviz.engine.merged import Merged, MergedRows
from attnviz.engine.request import Request
from attnviz.maps.pyramid import Pyramid
from attnviz.measures.statistics import STATISTICS
from attnviz.measures.tags import MIXED, TAGS
from attnviz.pages.origin import Origin
from attnviz.version import __version__

FORMAT = 3
"""The version of the page's format."""


_ROUNDING = 2.0**-23
"""Of a float32 number, relative."""


@dataclass(frozen=True)
class PageLayer:
    """One layer of a page.

    Args:
        label: what it is called: ``"5"``, ``"cross.5"``.
        item: the batch item.
        pattern: which query sees which key.
        heads: the query heads to show, at least one.
        called: what these heads are called, where that is not their own number.
        said: what the page says of the pattern; None is the attention's own name for it.
        text: which of several texts of the page it is of; None where there is one.
        origin: where it came from, where that is known.

    >>> import attnviz
    >>> layer = PageLayer("0", attnviz.synthesize().item(), attnviz.Causal(), (0, 3))
    >>> describe(layer, Labels())["heads"]
    2
    """

    label: str
    item: AttentionItem
    pattern: Pattern
    heads: tuple[int, ...]
    called: tuple[int, ...] | None = None
    said: str | None = None
    text: str | None = None
    origin: Origin | None = None

    @cached_property
    def attention(self) -> Attention:
        """What the page asks for weights and logits; of weights that were given, none below 0."""
        made = attention_of(self.item, self.pattern)
        if isinstance(made, Merged):
            return _UnsignedMerged(self.item, self.pattern, made.whole)
        return _Unsigned(self.item, self.pattern) if isinstance(made, Given) else made

    @property
    def kv_heads(self) -> tuple[int, ...]:
        """The key heads that the page holds: head ``i`` of the page's H reads ``kv_heads[i * K // H]``."""
        read = [self.item.kv_head(head) for head in self.heads]
        once = list(dict.fromkeys(read))
        grouped = [once[i * len(once) // len(read)] for i in range(len(read))]
        return tuple(once if grouped == read else read)  # heads picked at will: a key head for each

    @property
    def own_projections(self) -> bool:
        """Whether rows of global queries have queries and keys of their own."""
        return self.pattern.global_queries and not self.item.given and self.item.products.q_global is not None

    def of_heads(self, numbers: Tensor | None) -> list[float] | None:
        """One number a head of the page, from one a head of the layer, (H,)."""
        return None if numbers is None else [float(numbers[head]) for head in self.heads]


class _Unsigned(Given):
    """Given weights as a page shows them: one below 0, for which its colors and lines have no word, is an error."""

    def whole_rows(self, head: int, memory: int | None = None) -> GivenRows:
        return _UnsignedRows(self.item, self.pattern, head)


class _UnsignedRows(GivenRows):
    def block(self, rows: range | Tensor, *, weights: bool = True) -> tuple[Tensor, Tensor | None, Tensor]:
        return _none_below_0(self.item, self.head, super().block(rows, weights=weights), weights)


class _UnsignedMerged(Merged):
    """Words and spans of such weights, likewise."""

    def whole_rows(self, head: int, memory: int | None = None) -> MergedRows:
        return _UnsignedMergedRows(self, head, memory)


class _UnsignedMergedRows(MergedRows):
    def block(self, rows: range | Tensor, *, weights: bool = True) -> tuple[Tensor, Tensor | None, Tensor]:
        return _none_below_0(self.item, self.head, super().block(rows, weights=weights), weights)


def _none_below_0(item: AttentionItem, head: int, found: _Rows, weights: bool) -> _Rows:
    """Rows as they were read. Raises InputError for a weight below 0."""
    if weights and bool((found[0] < 0).any()):
        raise InputError(
            f"{item.source}: head {head} has weights below 0, which a page can't show; look at them with: attnviz plot"
        )
    return found


_Rows = tuple[Tensor, Tensor | None, Tensor]


def title_of(texts: Sequence[str]) -> str:
    """What a page of several texts is called."""
    return ", ".join(texts) if len(texts) <= 3 else f"{len(texts)} texts"


MOST_DERIVED = 1 << 28
"""Weights of a derived map that a page takes: 1 GiB of float32."""


def page_layer(request: Request, label: str) -> PageLayer:
    """The heads of a request as a page shows them: a map that is made of others by its weights, which are made here.

    Raises:
        InputError: more of them than a page takes.
    """
    item, attention = request.item, request.attention
    if not isinstance(attention, Derived):
        return PageLayer(label, item, attention.pattern, request.chosen)
    if item.T * item.S * len(request.chosen) > MOST_DERIVED:
        raise InputError(
            f"{item.source}: {len(request.chosen)} maps of {item.T:,} x {item.S:,} that are made of others are too many for a "
            f"page; take fewer heads (--head 0), or draw them: attnviz plot"
        )
    inputs, pattern = as_given(attention, request.chosen)
    of = inputs.item(device=item.device)
    named = [one for one in (attention.head_name(request.chosen[0]), attention.measured, attention.pattern_name) if one]
    whole = label if item.inputs.layer is None or " " not in str(item.inputs.layer) else str(item.inputs.layer)
    return PageLayer(whole, of, pattern, tuple(range(inputs.H)), request.chosen, ", ".join(named))


class Layers(Sequence[PageLayer]):
    """Layers that are read when they are asked for: the latest is kept, and let go before the next is read.

    Args:
        count: how many there are.
        read: gives the layer of an index.

    >>> import attnviz
    >>> layers = Layers(3, lambda index: PageLayer(str(index), attnviz.synthesize().item(), attnviz.Causal(), (0,)))
    >>> [layer.label for layer in layers], layers[1].label
    (['0', '1', '2'], '1')
    """

    def __init__(self, count: int, read: Callable[[int], PageLayer]) -> None:
        self._count, self._read = count, read
        self._latest: tuple[int, PageLayer] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> PageLayer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PageLayer]: ...
    def __getitem__(self, index: int | slice) -> PageLayer | Sequence[PageLayer]:
        if isinstance(index, slice):
            return [self[i] for i in range(self._count)[index]]
        index = range(self._count)[index]
        latest = self._latest
        if latest is None or latest[0] != index:
            self._latest = latest = None
            latest = self._latest = index, self._read(index)
        return latest[1]

    def __iter__(self) -> Iterator[PageLayer]:
        for index in range(self._count):
            yield self[index]  # nothing here holds it while the next is read


@dataclass
class Labels:
    """The lists of token labels, and of indices, of a page, each once."""

    lists: list[list[str]] = field(default_factory=list)
    numbers: list[list[int]] = field(default_factory=list)
    """Lists of indices that layers share: where words begin, which tokens are special."""
    _places: dict[tuple[str, ...], int] = field(default_factory=dict)
    _of_numbers: dict[tuple[int, ...], int] = field(default_factory=dict)

    def place(self, labels: Sequence[str] | None) -> int | None:
        """Where a list stands among :attr:`lists`; None where there are no labels."""
        if labels is None:
            return None
        key = tuple(labels)
        if key not in self._places:
            self._places[key] = len(self.lists)
            self.lists.append(list(labels))
        return self._places[key]

    def place_of(self, numbers: Sequence[int]) -> int:
        """Where a list of indices stands among :attr:`numbers`."""
        key = tuple(numbers)
        if key not in self._of_numbers:
            self._of_numbers[key] = len(self.numbers)
            self.numbers.append(list(numbers))
        return self._of_numbers[key]


def describe(layer: PageLayer, labels: Labels) -> dict[str, Any]:
    """A layer's part of the description that a page of any kind has."""
    item = layer.item
    names = layer.heads if layer.called is None else layer.called
    off = rounding(layer)
    numbered = names != tuple(range(len(names)))
    return {
        "label": layer.label,
        "heads": len(layer.heads),
        "head_labels": list(names) if numbered else None,
        "kv_heads": len(layer.kv_heads),
        "queries": item.T,
        "keys": item.S,
        "query_labels": labels.place(item.query_labels(range(item.T), space=" ")),
        "key_labels": labels.place(item.key_labels(range(item.S), space=" ")),
        "positions": _positions(item),
        "pattern": layer.said or layer.attention.pattern_name,
        "levels": Pyramid(layer.attention).levels,
        **_kept(layer),
        "accuracy": {"weights": None, "logs": off, "logits": off, "sides": off},
        **_formula(layer),
        **_rotary(layer, labels),
        **_seen_as_one(item, labels),
        **_groups(layer),
        **_global(layer, labels),
        **({} if layer.text is None else {"text": layer.text}),
        **({} if layer.origin is None else {"origin": layer.origin.said}),
    }


def _kept(layer: PageLayer) -> dict[str, Any]:
    """The finest level of a map that was reduced before."""
    return {} if layer.attention.finest is None else {"kept": Pyramid(layer.attention).overview_level}


def rounding(layer: PageLayer) -> list[float]:
    """How far float32 may put a logit of each head of the page, and the logarithm of a weight, from the formula's.

    A score is off by about a rounding of its largest term, which is no larger than the longest query times the longest
    key; ALiBi's distances come with the same rounding; exp, sum and division by two more. Measured, of up to 131,072 keys: 1.2 of
    the first and 1.8 of the others at most.
    """
    item = layer.item
    if item.given or item.compute_dtype == torch.float64:
        return [_ROUNDING] * len(layer.heads)
    made = []
    for head in layer.heads:
        read = (item.products.q[item.batch, head], item.products.k[item.batch, item.kv_head(head)])
        q, k = (one.float().norm(dim=-1).nan_to_num(0, 0, 0).amax() for one in read)
        largest = float(q * k) * item.scale
        if item.products.alibi_slopes is not None:
            largest += abs(float(item.products.alibi_slopes[head])) * max(item.T, item.S)
        made.append(_ROUNDING * (2 + 1.5 * largest))
    return made


def _formula(layer: PageLayer) -> dict[str, Any]:
    """What makes scores of q and k; of weights that were given there is neither, and their logarithms are a bias alone."""
    if layer.item.given:
        return {"given": True, "head_dim": 1, "scale": 1.0, "softcap": None, "sinks": None, "alibi": None}
    products = layer.item.products
    return {
        "head_dim": products.D,
        "scale": layer.item.scale,
        "softcap": products.softcap,
        "sinks": layer.of_heads(products.sinks),
        "alibi": layer.of_heads(products.alibi_slopes),
    }


def _rotary(layer: PageLayer, labels: Labels) -> dict[str, Any]:
    """The dimensions that were turned together, and how fast; absent where nothing says that any were."""
    rotary = None if layer.item.given else layer.item.products.rotary
    if rotary is None:
        return {}
    flat = [dimension for pair in rotary.pairs for dimension in pair]
    return {"rotary": {"pairs": labels.place_of(flat), "frequencies": list(rotary.frequencies)}}


def _seen_as_one(item: AttentionItem, labels: Labels) -> dict[str, int]:
    """The words and the special tokens that the page can see as one, and leave out; absent where nothing says them."""
    found: dict[str, int] = {}
    try:
        words = merge_of(item, "words", None)
    except InputError:
        words = None  # nothing says what a word is
    if words is not None:
        found = {"query_words": labels.place_of(words.queries.edges), "key_words": labels.place_of(words.keys.edges)}
    tokens = item.key_tokens
    special = [] if tokens is None else [n for n in sorted(tokens.special) if n < item.S]
    return found | ({"special_keys": labels.place_of(special)} if special else {})


def _groups(layer: PageLayer) -> dict[str, Any]:
    """Which of the layer's key heads each head reads, where they share them."""
    inputs = layer.item.inputs
    if layer.item.given or inputs.H_kv == inputs.H:
        return {}
    return {"key_heads": {"of": inputs.H_kv, "each": [layer.item.kv_head(head) for head in layer.heads]}}


def _global(layer: PageLayer, labels: Labels) -> dict[str, int]:
    """The global keys and queries, where the pattern has such."""
    item, reasons = layer.item, {reason for reason, _ in layer.pattern.reasons()}
    found = {}
    if GlobalKeys.reason in reasons:
        found["global_keys"] = labels.place_of(item.global_positions.tolist())
    if GlobalQueries.reason in reasons:
        found["global_queries"] = labels.place_of(item.global_queries.tolist())
    return found


def page_name(source: str, items: Iterable[int | None]) -> str:
    """What a page is called: its source and, where all its layers show the same one of several, the batch item."""
    named = set(items)
    return f"{source}, batch item {named.pop()}" if len(named) == 1 and None not in named else source


def _positions(item: AttentionItem) -> dict[str, int | list[int]] | None:
    """Where queries and keys stand; None where keys are of another sequence, and there is no order."""
    if item.cross:
        return None
    return {
        "queries": _steady(item.query_position(torch.arange(item.T))),
        "keys": _steady(item.key_position(torch.arange(item.S))),
    }


def _steady(positions: Tensor) -> int | list[int]:
    """The first position where the others follow it in steps of 1, else every one."""
    return int(positions[0]) if bool((positions.diff() == 1).all()) else positions.tolist()


def description(source: str, mode: str, layers: Sequence[dict[str, Any]], labels: Labels) -> dict[str, Any]:
    """The whole description.

    Args:
        source: what the page is called.
        mode: ``embedded`` or ``live``.
        layers: what :func:`describe` gives of each, with blobs where embedded.
        labels: what they collected.
    """
    return {
        "format": FORMAT,
        "program": f"attnviz {__version__}",
        "source": source,
        "mode": mode,
        "statistics": [{"name": one.name, "about": one.about, "unit": one.unit} for one in STATISTICS.values()],
        "tags": [*TAGS, MIXED],
        "labels": labels.lists,
        "numbers": labels.numbers,
        "layers": list(layers),
    }


def to_json(described: dict[str, Any]) -> str:
    """JSON that can stand inside a script element: no ``<``, so that no label can end the element; ASCII alone.

    >>> to_json({"labels": [["</script>"]]})
    '{"labels":[["\\\\u003c/script>"]]}'
    """
    return json.dumps(described, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


@dataclass(frozen=True)
class Visible:
    """Which query sees which key, as the page has it: a band with padding, or a bit for each pair.

    Args:
        layer: the layer.
        low, high: bounds of ``s - t``, of indices; None is open.
        band: whether the band and the padding say it all.
        heads: those whose bits are written: the first alone where all see alike.
    """

    layer: PageLayer
    low: int | None
    high: int | None
    band: bool
    heads: tuple[int, ...]

    @classmethod
    def of(cls, layer: PageLayer) -> Visible:
        """A layer's, as a band where its pattern promises one and no bias hides a key.

        Raises:
            InputError: the pattern does not fit the inputs; a bias that is not one.
        """
        item, heads = layer.item, layer.heads
        bias = None if item.given else item.products.bias
        reach = layer.pattern.reach(item)
        hides = bias is not None and any(item.bias_hides(head) for head in heads)
        first = layer.pattern.of_head(heads[0])
        apart = (hides and bias is not None and bias.shape[1] > 1) or any(
            layer.pattern.of_head(head) != first for head in heads[1:]
        )
        band = reach.plain and not hides and not layer.pattern.global_queries
        return cls(layer, reach.low, reach.high, band, heads if apart else heads[:1])

    def hidden(self, rows: Tensor, keys: Tensor, head: int) -> Tensor:
        """Which pairs the page hides from a head, (b, n) bool, for indices of queries (b,) and of keys (n,)."""
        item, t = self.layer.item, rows[:, None]
        if self.band:
            away = keys - t
            hidden = torch.zeros_like(away, dtype=torch.bool)
            if self.low is not None:
                hidden |= away < self.low
            if self.high is not None:
                hidden |= away > self.high
        else:
            hidden = ~self.layer.pattern.of_head(head).visible(t, keys[None], item)
        bias = None if item.given or not item.bias_hides(head) else item.bias(head)
        if bias is not None:
            hidden = hidden | (bias[t, keys] == -torch.inf)
        padded_keys, padded_rows = item.key_padding, item.query_padding
        if padded_keys is not None:
            hidden = hidden | ~padded_keys[keys]
        if padded_rows is not None:
            hidden = hidden | ~padded_rows[rows][:, None]
        return hidden
