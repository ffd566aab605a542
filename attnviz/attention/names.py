"""Patterns by name, as the command line says them, and as a dump keeps them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import reduce
from operator import and_, or_
from typing import Any

from torch import Tensor

from attnviz.attention.pairs import is_block_mask, of_block_mask
from attnviz.attention.patterns import PATTERNS, Both, Causal, Either, Local, Masked, MaskMod, Pattern, longformer
from attnviz.base.errors import InputError, not_one_of

NAMES = ("global", "full", "causal", "local", "local+global")
"""The patterns that a window, a dilation and a causal flag settle; others are named with their settings."""

_LOCAL = ("local", "local+global")


def known_names() -> list[str]:
    """Every name that ``--pattern`` takes: :data:`NAMES`, and each pattern class with a name of its own."""
    return [*NAMES, *(name for name in PATTERNS if name not in NAMES)]


def named_pattern(
    name: str, *, window: int | None = None, dilation: int | None = None, causal: bool = False
) -> Pattern:
    """The pattern called ``name``.

    Args:
        name: one of :func:`known_names`, with settings of its own after a colon: ``strided:stride=4``; or several, joined by
            ``&`` and ``|``: ``documents & causal``.
        window: keys to each side, for the local patterns, which need it.
        dilation: steps of the window, for the local patterns; None is 1.
        causal: whether to hide what comes after the query.

    Raises:
        InputError: no such name, or a setting that the pattern has no use for.

    >>> str(named_pattern("local+global", window=4, causal=True))
    'local, window 4 + global + global queries, causal'
    >>> named_pattern("local:window=4,dilation=2")
    Local(window=4, dilation=2)
    """
    if re.search("[&|]", name):
        for setting, given in (("window", window), ("dilation", dilation)):
            if given is not None:
                raise InputError(
                    f"--{setting} {given}: of patterns that are composed, write it with its own: local:window={given}"
                )
        pattern = composed_pattern(name)
        return pattern & Causal() if causal else pattern
    name, settings = _parsed(name)
    if name not in known_names():
        raise not_one_of("--pattern", name, known_names())
    for setting, given in (("window", window), ("dilation", dilation)):
        if given is None:
            continue
        if name not in _LOCAL:
            raise InputError(
                f"--{setting} {given}: the {name} pattern has no window; choose --pattern local or local+global"
            )
        if setting in settings:
            raise InputError(f"--{setting} {given}: --pattern says {setting}={settings[setting]} already; give one")
        settings[setting] = given
    if name in _LOCAL and "window" not in settings:
        raise InputError(f"--pattern {name} needs --window: how many keys a query sees to each side")
    if name == "causal" and causal:
        raise InputError("--causal: the causal pattern is causal already; leave --causal out")
    pattern = _made(Local if name in _LOCAL else PATTERNS[name], settings, f"--pattern {name}")
    if name == "local+global":
        assert isinstance(pattern, Local)
        pattern = longformer(pattern.window, pattern.dilation)
    return pattern & Causal() if causal else pattern


def windowed(pattern: Pattern | str | None, window: int | None) -> Pattern | None:
    """A pattern as a call gives it, a local one by name with its window.

    Raises:
        InputError: a window, and no name that it belongs to.

    >>> str(windowed("local", 2)), windowed(None, None)
    ('local, window 2', None)
    """
    if isinstance(pattern, str):
        return named_pattern(pattern, window=window)
    if window is not None:
        raise InputError(f"window {window}: it belongs to a local pattern by name; add pattern='local'")
    return pattern


def pattern_of(pattern: object) -> Pattern | None:
    """A pattern given as one, by its name, or as FlexAttention has it: a ``BlockMask`` or a ``mask_mod``.

    Raises:
        InputError: none of these.
    """
    if pattern is None or isinstance(pattern, Pattern):
        return pattern
    if isinstance(pattern, str):
        return named_pattern(pattern)
    if is_block_mask(pattern):
        return of_block_mask(pattern)
    if isinstance(pattern, type) and issubclass(pattern, Pattern):
        try:
            return pattern()
        except TypeError as error:
            wanted = ", ".join(f"{setting}=…" for setting in settings_of(pattern))
            raise InputError(
                f"the pattern {pattern.__name__} is given without its settings; write {pattern.__name__}({wanted})"
            ) from error
    if callable(pattern):
        return MaskMod(pattern)
    raise InputError(
        f"a pattern is given as {type(pattern).__name__}; wanted a pattern (Masked(mask) for a mask of your own), its name, "
        f"a BlockMask or a mask_mod"
    )


def composed_pattern(text: str) -> Pattern:
    """The pattern that names joined by ``&`` and ``|`` say, ``&`` before ``|``.

    >>> composed_pattern("documents & causal | global")
    Either(left=Both(left=Documents(), right=Causal()), right=GlobalKeys())
    """
    either = [reduce(and_, map(named_pattern, part.split("&"))) for part in text.split("|")]
    return reduce(or_, either)


def description(pattern: Pattern, masks: list[Tensor]) -> dict[str, Any]:
    """What a dump's metadata says of a pattern: :func:`described` makes the same set of it again.

    Args:
        pattern: the pattern; any composition of patterns with a name, and of masks.
        masks: the masks it holds are added here; the metadata speaks of them by their index.

    Raises:
        InputError: a part of it has no name, or settings that JSON doesn't hold.
    """
    plain = _plain(pattern)
    if plain is not None:
        return plain
    if isinstance(pattern, Either | Both):
        parts = [description(side, masks) for side in (pattern.left, pattern.right)]
        return {"any" if isinstance(pattern, Either) else "all": parts}
    if isinstance(pattern, Masked):
        masks.append(pattern.mask)
        return {"mask": len(masks) - 1}
    name = type(pattern).name
    if name is None or PATTERNS.get(name) is not type(pattern):
        raise InputError(
            f"the pattern {pattern} can't be saved: {type(pattern).__name__} has no name; give its class one "
            f"(name = ...), or save the inputs with pattern=Masked(mask)"
        )
    return {"name": name, **{setting: _plainly(pattern, setting, masks) for setting in settings_of(type(pattern))}}


def _plainly(pattern: Pattern, setting: str, masks: list[Tensor]) -> Any:
    """A setting as JSON has it: plain, a list of plain ones, or the index of a tensor, which is added to ``masks``."""
    value = getattr(pattern, setting)
    if isinstance(value, Tensor):
        masks.append(value)
        return {"mask": len(masks) - 1}
    each = value if isinstance(value, tuple | list) else [value]
    if not all(isinstance(one, bool | int | float | str | None) for one in each):
        raise InputError(
            f"the pattern {pattern} can't be saved: its {setting} is a {type(value).__name__}, no plain number or text"
        )
    return [*value] if isinstance(value, tuple) else value


def settings_of(kind: type[Pattern]) -> list[str]:
    """The settings of a kind of pattern: its fields, but those that say which head it is asked for."""
    return [one.name for one in fields(kind) if one.init and one.metadata.get("setting", True)]  # type: ignore[arg-type]


def described(said: object, masks: Sequence[Tensor] = ()) -> Pattern:
    """The pattern that a dump's metadata describes.

    Raises:
        InputError: nothing that :func:`description` writes.
    """
    if not isinstance(said, Mapping):
        raise InputError(f"a pattern is described as {said!r}, wanted an object with a name")
    for word, pair in (("any", Either), ("all", Both)):
        if word in said:
            parts = said[word]
            if not isinstance(parts, list) or len(parts) != 2:
                raise InputError(f"a pattern is described as {said!r}, wanted two parts of {word!r}")
            return pair(described(parts[0], masks), described(parts[1], masks))
    if "mask" in said:
        return Masked(_kept(said["mask"], masks))
    name, settings = said.get("name"), {key: value for key, value in said.items() if key != "name"}
    for setting, value in settings.items():
        if isinstance(value, Mapping) and "mask" in value:
            settings[setting] = _kept(value["mask"], masks)
    if name in NAMES and set(settings) <= {"window", "dilation", "causal"}:
        return named_pattern(**said)
    if not isinstance(name, str) or name not in PATTERNS:
        raise not_one_of("the pattern", name, known_names())
    return _made(PATTERNS[name], settings, f"the pattern {name!r}")


def _kept(index: object, masks: Sequence[Tensor]) -> Tensor:
    if not isinstance(index, int) or not 0 <= index < len(masks):
        raise InputError(f"a pattern is described by mask {index!r}, and the file holds {len(masks)}")
    return masks[index]


def _plain(pattern: Pattern) -> dict[str, Any] | None:
    """What format 1 has for it: a name with a window, a dilation and a causal flag; None where that doesn't say it."""
    causal = isinstance(pattern, Both) and pattern.right == Causal()
    base = pattern.left if isinstance(pattern, Both) and causal else pattern
    flags: dict[str, Any] = {"causal": True} if causal else {}
    for name in NAMES:
        settings: dict[str, Any] = {}
        if name in _LOCAL:
            own = next((part for part in parts_of(base) if isinstance(part, Local)), None)
            if own is None:
                continue
            settings = {"window": own.window} | ({"dilation": own.dilation} if own.dilation != 1 else {})
        if not (name == "causal" and causal) and named_pattern(name, **settings) == base:
            return {"name": name, **flags, **settings}
    return None


def parts_of(pattern: Pattern) -> list[Pattern]:
    """The patterns that a composition is made of."""
    return [*parts_of(pattern.left), *parts_of(pattern.right)] if isinstance(pattern, Either | Both) else [pattern]


def _parsed(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the settings of ``NAME:key=value,key=value``."""
    name, colon, rest = text.partition(":")
    settings: dict[str, Any] = {}
    for part in rest.split(",") if colon else ():
        match = re.fullmatch(r"\s*(\w+)\s*=\s*([\w.+/-]+)\s*", part)
        if not match:
            raise InputError(f"--pattern {text!r}: {part!r} is no setting; write NAME:setting=value,setting=value")
        settings[match[1]] = _value(match[2])
    return name.strip(), settings


def _value(text: str) -> int | float | bool | str | tuple[Any, ...]:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if "/" in text:  # one number a batch item, or two sizes
        return tuple(_value(part) for part in text.split("/"))
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _made(kind: type[Pattern], settings: Mapping[str, Any], what: str) -> Pattern:
    """A pattern of its settings. Raises InputError for one it doesn't have, lacks, or has no use for."""
    known = settings_of(kind)
    unknown = [name for name in settings if name not in known]
    if unknown:
        there = f"its settings are {', '.join(known)}" if known else "it has none"
        raise InputError(f"{what}: {unknown[0]}={settings[unknown[0]]} is no setting of it; {there}")
    try:
        return kind(**settings)
    except TypeError as error:
        raise InputError(f"{what}: needs settings: {', '.join(known)} ({error})") from error
