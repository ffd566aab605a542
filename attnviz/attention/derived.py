"""Maps derived from others, as inputs: the mean or the largest of layers or of heads, rollout, norm-weighted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.call import OF_TOKENS, Call
from attnviz.attention.inputs import Inputs
from attnviz.attention.item import AttentionItem
from attnviz.attention.names import pattern_of
from attnviz.attention.patterns import Both, Either, GlobalKeys, Pattern
from attnviz.attention.reduced import check_whole
from attnviz.base.errors import InputError
from attnviz.base.types import Label
from attnviz.base.words import ranges

HOWS = ("mean", "max")
"""How several maps become one."""

NORMS = ("norms", "norm-shares")
"""Weights times the length of what each key's value adds (arXiv:2004.10102): as they are, and as shares of their row."""

SomeInputs = Inputs | Sequence[Inputs]
"""The inputs of one layer, or of several."""


@dataclass(frozen=True)
class DerivedInputs(Inputs):
    """An attention that is made of others, of the same queries and keys; every view takes it as it takes any.

    Args:
        parts: what it is made of: a layer, or several from the first on.
        how: ``mean`` or ``max``, of the layers or, where ``heads`` are said, of these heads of the one part; ``rollout``,
            ``norms`` or ``norm-shares``.
        heads: the heads that are combined; None: each head of its layers.
        items: the batch item of each part, where items of one layer are combined; None: of each part the one that is read.
    """

    parts: tuple[Inputs, ...]
    how: str
    heads: tuple[int, ...] | None = None
    items: tuple[int, ...] | None = None

    @property
    def B(self) -> int:
        return 1 if self.items is not None else super().B

    @property
    def main(self) -> Tensor:
        return self.parts[0].main

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that holds what its parts are of."""
        return reduce(torch.promote_types, (part.dtype for part in self.parts))

    @property
    def without_products(self) -> str:
        return (
            "is made of several maps, or of weights and values, and this needs the q and k of one; ask it of one layer, without "
            "--mean, --max, --rollout or --values norms"
        )

    @property
    def H(self) -> int:
        return 1 if self.how == "rollout" or self.heads is not None else self.parts[0].H

    @property
    def S(self) -> int:
        return self.parts[0].S

    @property
    def H_kv(self) -> int:
        return self.H


def over_layers(layers: SomeInputs, how: str, pattern: Pattern | str | None = None) -> DerivedInputs:
    """The ``mean`` or the ``max`` of layers, head by head, or their ``rollout``.

    Args:
        layers: the inputs of each, the first layer first.
        how: which of the three.
        pattern: which query sees which key, in every layer; None is each layer's own.

    Raises:
        InputError: layers that don't agree in their sizes and in where queries and keys stand; rollout of another kind of
            attention than of a sequence to itself.
    """
    parts = [layers] if isinstance(layers, Inputs) else list(layers)
    if not parts:
        raise InputError(f"the {how} of no layers; give the inputs of one or more")
    for part in parts:
        check_whole(part)
    _check_together(parts, how)
    if how == "rollout":
        _check_square(parts)
    own = [_with_pattern(one, pattern) for one in parts]
    label = f"{how} of {layers_words([one.layer for one in parts])}"
    return _made(own, how, label, _union([_own_pattern(one) for one in own]))


def over_items(inputs: Inputs, how: str, items: Sequence[int], pattern: Pattern | str | None = None) -> DerivedInputs:
    """The ``mean`` or the ``max`` of some batch items, head by head, as an attention of one item: many inputs as one map.

    Args:
        inputs: those of one layer, or what is made of several.
        how: which of the two.
        items: the batch items.
        pattern: which query sees which key, in every item; None is the inputs' own.

    Raises:
        InputError: no items, or items whose queries and keys don't stand at the same places.
    """
    if not items:
        raise InputError(f"{inputs.source}: the {how} of no batch items; name one or more of {inputs.B}")
    own = _with_pattern(inputs, pattern)
    each = [own.item(batch, device=torch.device("cpu")) for batch in items]
    for batch, item in zip(items[1:], each[1:], strict=True):
        told = _apart(each[0], item)
        if told is not None:
            raise InputError(
                f"{inputs.source}: the {how} of batch items: {told} in item {items[0]} and in item {batch}; choose items that "
                f"agree with --batch"
            )
    said = f"{how} of {len(items)} batch items"
    layer = said if inputs.layer is None else f"{_layer_words(inputs.layer)}, {said}"
    made = _made([own] * len(items), how, layer, _own_pattern(own))
    several: dict[str, Any] = {name: _of_items(getattr(own, name), items) for name in (*_PLACES, *OF_TOKENS)}
    several |= {name: None if masks is None else _any_exists(masks) for name, masks in _masks(own, each, items).items()}
    return replace(made, source=f"{inputs.source}, {said}", items=tuple(items), **several)


_PLACES = ("query_positions", "key_positions", "documents", "query_documents")


def _layer_words(layer: Label) -> str:
    return f"{layer}" if isinstance(layer, str) and " " in layer else f"layer {layer}"


def _of_items(values: Any, items: Sequence[int]) -> Any:
    """What is said of every batch item, of one: as the first has it; of labels that are not the same, None."""
    if values is None:
        return None
    if isinstance(values, Tensor):
        return values[min(items[0], len(values) - 1)][None]
    first = list(values[items[0]])
    return [first] if all(list(values[item]) == first for item in items) else None


def _masks(own: Inputs, each: Sequence[AttentionItem], items: Sequence[int]) -> dict[str, list[Tensor | None] | None]:
    """What exists and is global in each batch item, (1, T) and (1, S) each."""
    keys = [None if item.key_padding is None else item.key_padding[None] for item in each]
    queries = [None if item.query_padding is None else item.query_padding[None] for item in each]
    globals_: list[Tensor | None] | None = None
    if own.global_mask is not None:
        globals_ = [own.global_mask[min(item, len(own.global_mask) - 1)][None] for item in items]
    no_queries = all(one is None for one in queries)
    there = [
        torch.ones(1, item.T, dtype=torch.bool) if one is None else one for one, item in zip(queries, each, strict=True)
    ]
    return {"key_padding_mask": keys, "query_padding_mask": None if no_queries else [*there], "global_mask": globals_}


def over_heads(inputs: Inputs, how: str, heads: Sequence[int], pattern: Pattern | str | None = None) -> DerivedInputs:
    """The ``mean`` or the ``max`` of some heads, as an attention of one head.

    Raises:
        InputError: no heads.
    """
    if not heads:
        raise InputError(f"{inputs.source}: the {how} of no heads; name one or more of {inputs.H}")
    check_whole(inputs)
    own = _with_pattern(inputs, pattern)
    found = _made([own], how, inputs.layer, _own_pattern(own), heads=tuple(heads))
    return replace(found, source=inputs.source)


def by_norms(inputs: Inputs, how: str, pattern: Pattern | str | None = None) -> DerivedInputs:
    """Weights times the length of the values that they are on, ``norms``, or each row's shares of that, ``norm-shares``.

    With the part of the output projection that is a head's, ``w_o``, it is the length of what a value becomes by it.

    Raises:
        InputError: the inputs have no values.
    """
    check_whole(inputs)
    base: Any = inputs
    while isinstance(base, DerivedInputs):
        base = base.parts[0]
    if base is not inputs or getattr(inputs, "v", None) is None:
        raise InputError(
            f"{inputs.source}: there is no v, of whose lengths --values {how} is made; give one (--v NAME)"
        )
    own = _with_pattern(inputs, pattern)
    return replace(_made([own], how, inputs.layer, _own_pattern(own)), source=inputs.source)


def layers_words(labels: Sequence[Label | None]) -> str:
    """Some layers, in words.

    >>> layers_words([0, 1, 2, 5]), layers_words([None, None]), layers_words(["cross.0"])
    ('layers 0-2,5', '2 layers', 'layer cross.0')
    """
    noun = "layer" if len(labels) == 1 else "layers"
    if None in labels:
        return f"{len(labels)} {noun}"
    numbers = [int(label) for label in labels if label is not None and f"{label}".isdecimal()]
    said = ranges(numbers) if len(numbers) == len(labels) else ",".join(map(str, labels))
    return f"{noun} {said}" if len(said) <= 24 else f"{len(labels)} {noun}"


def _made(
    parts: Sequence[Inputs], how: str, layer: Label | None, pattern: Pattern, heads: tuple[int, ...] | None = None
) -> DerivedInputs:
    """The derived inputs, with what all parts say of queries and keys."""
    first = parts[0]
    own: dict[str, Any] = {field.name: getattr(first, field.name) for field in fields(Call) if field.init}
    source = first.source if first.layer is None else first.source.removesuffix(f" layer {first.layer}")
    if len(parts) > 1:
        source = f"{source} {layer}"
    own |= {"source": source, "layer": layer, "pattern": pattern}
    own["key_padding_mask"] = _any_exists([one.key_padding_mask for one in parts])
    if not all(one.query_padding_mask is None for one in parts):
        own["query_padding_mask"] = _any_exists([_existing_queries(one) for one in parts])
    globals_ = [one.global_mask for one in parts if one.global_mask is not None]
    own["global_mask"] = _any_exists(globals_) if globals_ else None
    return DerivedInputs(tuple(parts), how, heads, **own)


def _with_pattern(inputs: Inputs, pattern: Pattern | str | None) -> Inputs:
    """The same under a pattern, where one is said."""
    wanted = pattern_of(pattern)
    if wanted is None or wanted is inputs.pattern:
        return inputs
    if isinstance(inputs, DerivedInputs):
        parts = tuple(_with_pattern(one, wanted) for one in inputs.parts)
        return replace(inputs, parts=parts, pattern=wanted)
    return replace(inputs, pattern=wanted)


def with_pattern(inputs: DerivedInputs, pattern: Pattern) -> DerivedInputs:
    """The same with a pattern for every part, unless it is the one that it has already."""
    found = _with_pattern(inputs, pattern)
    assert isinstance(found, DerivedInputs)
    return found


def _own_pattern(inputs: Inputs) -> Pattern:
    return inputs.pattern or GlobalKeys()


def _union(patterns: Sequence[Pattern]) -> Pattern:
    """What any of some patterns makes visible; those that are the same once."""
    found: list[Pattern] = []
    for pattern in patterns:
        if not any(_same(pattern, one) for one in found):
            found.append(pattern)
    union = found[0]
    for pattern in found[1:]:
        union = union | pattern
    return union


def _same(a: Pattern, b: Pattern) -> bool:
    """Whether two patterns are the same set, as far as that can be told from what they are made of."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Either | Both) and isinstance(b, Either | Both):
        return _same(a.left, b.left) and _same(a.right, b.right)
    for field in fields(a):  # type: ignore[arg-type]
        one, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, Tensor) or isinstance(other, Tensor):
            if not isinstance(one, Tensor) or not isinstance(other, Tensor) or not torch.equal(one, other):
                return False
        elif one is not other and not bool(one == other):
            return False
    return True


def _any_exists(masks: Sequence[Tensor | None]) -> Tensor | None:
    """What exists in any of them; None is all."""
    there = [mask for mask in masks if mask is not None]
    if len(there) < len(masks):
        return None
    whole = there[0]
    for mask in there[1:]:
        whole = whole | mask.to(whole.device)
    return whole


def _existing_queries(inputs: Inputs) -> Tensor | None:
    """The queries that exist, (B, T); None is all."""
    rows = []
    for batch in range(inputs.B):
        exists = inputs.item(batch, device=torch.device("cpu")).query_padding
        rows.append(torch.ones(inputs.T, dtype=torch.bool) if exists is None else exists)
    return None if all(bool(row.all()) for row in rows) else torch.stack(rows)


def _check_together(parts: Sequence[Inputs], how: str) -> None:
    """Raises InputError for layers of which there is no one map."""
    first = parts[0]
    sizes: dict[str, Callable[[Inputs], Any]] = {
        "batch items": lambda one: one.B,
        "queries": lambda one: one.T,
        "keys": lambda one: one.S,
        "heads": lambda one: one.H if how != "rollout" else 0,
    }
    for other in parts[1:]:
        for noun, size in sizes.items():
            if size(other) != size(first):
                raise InputError(
                    f"the {how} of layers: {_called(first)} has {size(first)} {noun} and {_called(other)} has {size(other)}; "
                    f"choose layers of one size with --layer"
                )
        if other.cross != first.cross:
            kinds = ["another sequence (cross)" if one.cross else "the queries' own sequence" for one in (first, other)]
            raise InputError(
                f"the {how} of layers: the keys of {_called(first)} are of {kinds[0]} and those of {_called(other)} of "
                f"{kinds[1]}; choose layers of one kind with --layer"
            )
        for batch in range(first.B):
            told = _apart(*(one.item(batch, device=torch.device("cpu")) for one in (first, other)))
            if told is not None:
                raise InputError(
                    f"the {how} of layers: {told} in {_called(first)} and in {_called(other)} (batch item {batch}); choose "
                    f"layers that agree with --layer"
                )


def _called(inputs: Inputs) -> str:
    return inputs.source if inputs.layer is None else f"layer {inputs.layer}"


def _apart(a: AttentionItem, b: AttentionItem) -> str | None:
    """What is not the same of where queries and keys stand."""
    if a.cross:
        return None
    for noun, size, of in (
        ("queries", a.T, AttentionItem.query_position),
        ("keys", a.S, AttentionItem.key_position),
    ):
        index = torch.arange(size)
        if not torch.equal(of(a, index), of(b, index)):
            return f"{noun} stand at different positions"
    if (a.documents is None) != (b.documents is None) or (
        a.documents is not None
        and b.documents is not None
        and not all((one == other).all() for one, other in zip(a.documents, b.documents, strict=True))
    ):
        return "packed documents are not the same"
    return None


def _check_square(parts: Sequence[Inputs]) -> None:
    """Raises InputError where layers are not of a sequence that attends to itself."""
    for one in parts:
        if one.cross or one.T != one.S:
            has = "keys of another sequence" if one.cross else f"{one.T} queries and {one.S} keys"
            raise InputError(
                f"rollout: it follows a sequence that attends to itself through all layers, and {_called(one)} has {has}; "
                f"choose layers of self-attention with --layer"
            )
        for batch in range(one.B):
            item, index = one.item(batch, device=torch.device("cpu")), torch.arange(one.T)
            if not torch.equal(item.query_position(index), item.key_position(index)):
                raise InputError(
                    f"rollout: it follows a sequence that attends to itself, and in {_called(one)} query and key of one index "
                    f"stand at different positions; rollout needs the whole sequence as queries"
                )
