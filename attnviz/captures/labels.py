"""What a model's layers are called: each by its own index in its own tower, in the model's words.

A *tower* is a stack of layers: the words before a module's index say which (``vision_model.encoder.layers.3.self_attn``), as far
as they tell it from the others. The main tower has no name: the text's, the encoder's, the only one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import nn

_STACK = re.compile(r"(layers?|(\w*_)?(blocks?|stages?|groups?)(_\w*)?|attentions|resblocks|h)")
"""Words for a list of layers, or a part of one: they tell no tower from another."""

_LAYERS = re.compile(r"(\w+?)_layers?")
"""A list of layers that is called after its tower: ``temporal_layers``."""

_ENDS = re.compile(r"_?(model|tower|transformer|module|encoder)$")
"""What the name of a tower ends with that says nothing."""

_SENSES = {"vision": ("vision", "visual", "image"), "audio": ("audio", "speech")}
"""What layers of pictures and of sound are called, and by which words they are known."""

_TEXT = ("text", "language", "llm")
_NO_ATTENTION = re.compile(r"output|norm|mask|bias|embed|rotary|dropout|processor|loss")
_CROSS = re.compile(r"cross|encoder_attn|encdec|enc_dec|multihead_attn", re.IGNORECASE)
"""What the names of modules that attend to another sequence contain."""


_ATTENTION = re.compile(r"self|cross|attention|attn|_|\.", re.IGNORECASE)
"""What the name of a layer's plain attention is made of."""


def named_cross(name: str) -> bool:
    """Whether a module of this name attends to another sequence."""
    return bool(_CROSS.search(name))


def crossing(names: Iterable[str]) -> set[str]:
    """Which modules attend to another sequence, by their names within their layers, or by that of a list of layers none of which
    is named so.

    >>> sorted(crossing(["cross_layers.0.attn", "cross_modal.0.self_attn", "cross_modal.0.crossattention"]))
    ['cross_layers.0.attn', 'cross_modal.0.crossattention']
    """
    places = {name: Place.of(name) for name in names if named_cross(name)}
    told = {place.template for place in places.values() if named_cross(place.suffix)}
    return {name for name, place in places.items() if named_cross(place.suffix) or place.template not in told}


@dataclass(frozen=True)
class Place:
    """Where a module stands, by its name.

    Args:
        words: what says which tower it is in.
        position: its name up to its last index.
        template: that with ``*`` for each index.
        indices: the indices.
        suffix: what it is called within its layer.
    """

    words: tuple[str, ...]
    position: str
    template: str
    indices: tuple[int, ...]
    suffix: str

    @classmethod
    def of(cls, name: str) -> Place:
        """The place of a name.

        >>> Place.of("vision_model.encoder.layers.3.self_attn").words
        ('vision_model', 'encoder')
        """
        parts = name.split(".")
        at = max((n for n, part in enumerate(parts) if part.isdecimal()), default=-1)
        before = parts[: at + 1] if at >= 0 else parts[:-1] if "att" in parts[-1].lower() else parts
        words = tuple(
            _LAYERS.sub(r"\1", part) if _LAYERS.fullmatch(part) else part
            for part in before
            if not part.isdecimal() and not _STACK.fullmatch(part)
        )
        return cls(
            words,
            ".".join(parts[: at + 1]),
            ".".join("*" if part.isdecimal() else part for part in parts[: at + 1]),
            tuple(int(part) for part in before if part.isdecimal()),
            ".".join(parts[at + 1 :]),
        )


@dataclass(eq=False)
class _Tower:
    """A stack of layers: the modules of attention in it, in the order of the model."""

    words: tuple[str, ...]
    places: list[Place] = field(default_factory=list)
    crosses: bool = False
    plain: dict[bool, str] = field(
        default_factory=dict
    )  # what the attention of a layer is called that has no word of its own


class Labels:
    """The labels of a model's layers.

    >>> class CrossAttention(nn.Module):
    ...     pass
    >>> model = nn.Module()
    >>> model.decoder = nn.ModuleList([CrossAttention(), CrossAttention()])
    >>> Labels((name, module) for name, module in model.named_modules()).of("decoder.1", cross=True)
    ('cross', 1)
    """

    def __init__(self, modules: Iterable[tuple[str, nn.Module]]) -> None:
        """``modules``: all of a model, with their names."""
        self._towers: dict[tuple[str, ...], _Tower] = {}
        self._known: dict[tuple[str, bool], tuple[str, int]] = {}
        self._heard: set[type[nn.Module] | None] = set()  # classes of modules that attend
        named = list(modules)
        self._kinds = {name: type(module) for name, module in named}
        self._order = {name: n for n, name in enumerate(self._kinds)}
        self._crossing = crossing(self._kinds)
        for name in _attentions(named):
            self._add(name)
        self._names = self._named()

    def of(self, name: str, *, cross: bool) -> tuple[str, int]:
        """The group and the number of the layer that a module is.

        Args:
            name: the module's.
            cross: whether it attends to another sequence.
        """
        if (name, cross) not in self._known:
            place, kind = Place.of(name), self._kinds.get(name)
            tower = self._towers.get(place.words)
            self._heard.add(kind)
            if tower is None or place not in tower.places:  # not called attention: nor are others of its class
                for other in [other for other, own in self._kinds.items() if own is kind] or [name]:
                    self._add(other)
                tower = self._towers[place.words]
                self._names = {**self._named(), **self._names}
            self._known[name, cross] = self._free(
                place, self._group(tower, place, cross), self._number(tower, place, cross)
            )
        return self._known[name, cross]

    def _free(self, place: Place, group: str, number: int) -> tuple[str, int]:
        """The same; where another module is called so, with a word of its own, or the next number."""
        taken = {*self._known.values()}
        tries = [group, *(f"{word}_{group}".rstrip("_") for word in map(_clean, reversed(place.words)))]
        numbers = [other for own, other in taken if own == group]
        return next(
            ((one, number) for one in tries if (one, number) not in taken), (group, max(numbers, default=number) + 1)
        )

    def _add(self, name: str) -> _Tower:
        place = Place.of(name)
        tower = self._towers.setdefault(place.words, _Tower(place.words))
        inner = f"{place.suffix}."  # parts of what attends are none themselves
        tower.places = [
            one
            for one in tower.places
            if one.position != place.position or not one.suffix.startswith(inner) or self._attends(one)
        ]
        tower.places.append(place)
        tower.places.sort(key=lambda one: self._order.get(f"{one.position}.{one.suffix}".strip("."), len(self._order)))
        tower.crosses = tower.crosses or name in self._crossing
        return tower

    def _attends(self, place: Place) -> bool:
        """Whether a module of its class was heard."""
        return self._kinds.get(f"{place.position}.{place.suffix}") in self._heard

    def _named(self) -> dict[tuple[str, ...], str]:
        """What each tower is called; the main one nothing."""
        towers = [*self._towers]
        shared = set.intersection(*(set(words) for words in towers)) if towers else set()
        own = {words: [word for word in words if word not in shared] for words in towers}
        main = _main(own)
        names: dict[tuple[str, ...], str] = {}
        for words, told in own.items():
            if words == main or not told:
                names[words] = "" if words == main or main is None else "_".join(words) or "other"
                continue
            others = [other for other in own if other != words]
            first, last = _clean(told[0]), _clean(told[-1])
            tries = [first, last, "_".join(dict.fromkeys(map(_clean, told))), "_".join(told)]
            same = [other for other in others if own[other] and _clean(own[other][0]) == first]
            alone = [not same or (first in _SENSES and all(self._outnumbers(words, other) for other in same))]
            alone += [not any(_clean(part[-1]) == last for part in (own[o] for o in others) if part), True, True]
            fits = (name for name, only in zip(tries, alone, strict=True) if only and name not in names.values())
            names[words] = next(fits, "_".join(words))
        return names

    def _outnumbers(self, words: tuple[str, ...], other: tuple[str, ...]) -> bool:
        """Whether a tower has more layers than another: a head that pools what it gives, say."""
        return len(self._towers[words].places) > len(self._towers[other].places)

    def _group(self, tower: _Tower, place: Place, cross: bool) -> str:
        group = name = self._names.get(tower.words, "")
        if cross:
            several = any(one.crosses for one in self._towers.values() if one is not tower)
            group = f"{name}_cross" if several and name not in ("", "decoder") else "cross"
            if not named_cross(place.suffix):  # by what it was given
                return group
        alike = [one.suffix for one in tower.places if one.position == place.position and _alike(one, place)]
        first = min(alike, key=lambda suffix: bool(_ATTENTION.sub("", suffix)), default=place.suffix)
        first = tower.plain.get(cross, first) if tower.plain.get(cross) in alike else first
        if first == place.suffix:
            tower.plain.setdefault(cross, first)
        if first == place.suffix:
            return group
        # Two in one layer: the second by its own word.
        own = [word for word in place.suffix.split(".") if word not in first.split(".")]
        word = (
            _clean(re.sub(r"_?(cross)?_?(attention|attn)$", "", own[0])) or own[0]
            if own
            else place.suffix.replace(".", "_")
        )
        return f"{word}_{group}" if cross else f"{name}_{word}" if name else word

    def _number(self, tower: _Tower, place: Place, cross: bool) -> int:
        if not place.indices:
            return 0
        alike = [one for one in tower.places if one.template == place.template and one.suffix == place.suffix]
        varying = [n for n in range(len(place.indices)) if len({one.indices[n] for one in alike}) > 1]
        templates = {one.template for one in tower.places if one.suffix == place.suffix}
        if len(varying) <= 1 and len({re.sub(r"\.\*$", "", one) for one in templates}) == 1:
            return place.indices[varying[0] if varying else 0]
        if len(varying) <= 1 and len(place.indices) > 1 and len(templates) == 1:
            return place.indices[varying[0] if varying else 0]
        positions = [*dict.fromkeys(one.position for one in tower.places if _alike(one, place))]
        return positions.index(place.position)


def _alike(one: Place, other: Place) -> bool:
    """Whether two modules can be of one sequence of layers: both attend to another sequence, or neither."""
    return named_cross(one.suffix) == named_cross(other.suffix)


def _main(own: dict[tuple[str, ...], list[str]]) -> tuple[str, ...] | None:
    """The tower that has no name: text's, and an encoder's before a decoder's."""

    def rank(words: tuple[str, ...]) -> tuple[bool, bool, bool]:
        said = [word.lower() for word in own[words]]
        sense = any(sign in word for word in said for signs in _SENSES.values() for sign in signs)
        text = any(sign in word for word in said for sign in _TEXT)
        return sense, not text, any(word == "decoder" for word in said)

    return min(own, key=rank, default=None)


def _clean(word: str) -> str:
    for name, signs in _SENSES.items():
        if any(sign in word.lower() for sign in signs):
            return name
    return _ENDS.sub("", word) or word


def _attentions(modules: Iterable[tuple[str, nn.Module]]) -> list[str]:
    """The names of the innermost modules whose class is called attention."""
    found = []
    for name, module in modules:
        kind = type(module).__name__.lower()
        if "att" in kind and not _NO_ATTENTION.search(kind):
            found.append(name)
    return [
        name
        for name in found
        if not any(other.startswith(f"{name}." if name else "") for other in found if other != name)
    ]
