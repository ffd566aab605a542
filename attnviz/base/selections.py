"""Positions and indices as people write them: ``0,3,7``, ``0-3,17``, ``every:512``, ``random:16``, ``all``."""

from __future__ import annotations

import re

from attnviz.base.errors import InputError
from attnviz.base.labels import Tokens
from attnviz.base.runs import repeated

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def parse_indices(text: str, size: int, *, option: str, noun: str) -> tuple[int, ...]:
    """Indices below ``size`` that ``text`` lists, in the order written.

    Args:
        text: ``"3"``, ``"0,2-4"`` (both ends belong to a range) or ``"all"``.
        size: how many there are.
        option: the option's name, for the error.
        noun: what is counted ("head", "position"), for the error.

    Raises:
        InputError: malformed, repeated or out of range.

    >>> parse_indices("0,2-4", 8, option="--head", noun="head")
    (0, 2, 3, 4)
    """
    if text.strip().lower() == "all":
        return tuple(range(size))
    indices: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if not match:
            raise InputError(f"{option} {text!r}: {part.strip()!r} is not a {noun}; write {noun}s like 0,2-4 or all")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(f"{option} {text!r}: the range {part.strip()} runs backwards; write {last}-{first}")
        if last >= size:
            raise InputError(f"{option} {text!r}: {noun} {last} is out of range; there are {size} (0 to {size - 1})")
        indices.extend(range(first, last + 1))
    if twice := repeated(indices):
        raise InputError(f"{option} {text!r}: {noun} {min(twice)} is given more than once; name each {noun} once")
    return tuple(indices)


def parse_index(text: str, size: int, *, option: str, noun: str) -> int:
    """The one index that ``text`` names. Raises InputError for more than one."""
    indices = parse_indices(text, size, option=option, noun=noun)
    if len(indices) != 1:
        raise InputError(f"{option} {text!r}: one {noun} is wanted here, {len(indices)} are given")
    return indices[0]


def parse_token(text: str, size: int, tokens: Tokens | None, *, option: str, noun: str, source: str) -> range:
    """The positions of one token, or of a word of several, that ``text`` names: by a number its position, else its text.

    Args:
        text: ``"5"``, or the token as a reader writes it (:meth:`attnviz.base.labels.Tokens.find`).
        size: how many positions there are.
        tokens: what they are, where that is known.
        option: the option's name, for the error.
        noun: what the positions are, ``query`` or ``key``, for the error.
        source: what the inputs are called, for the error.

    Raises:
        InputError: no such position; no token or word of this text, or several; there are no tokens.

    >>> parse_token("cat", 3, Tokens(["the", "cat", "sat"]), option="--strip", noun="query", source="x.npz")
    range(1, 2)
    """
    if text.strip().isdecimal():
        position = parse_index(text, size, option=option, noun=noun)
        return range(position, position + 1)
    if tokens is None:
        raise InputError(f"{option} {text!r}: {source} has no tokens; name the {noun} by its position")
    return tokens.find(text, option=option, noun=noun, source=source)


def parse_range(
    text: str, size: int, tokens: Tokens | None = None, *, option: str, source: str = "the sequence"
) -> range:
    """The positions that ``A:B`` names, A to B - 1, either end may be left out; or those of a word.

    Args:
        text: ``"2:5"``, or a token or word as in :func:`parse_token`, where there are tokens.
        size: how many positions there are.
        tokens: what they are, where that is known.
        option: ``--queries`` or ``--keys``, for the error.
        source: what the inputs are called, for the error.

    Raises:
        InputError: malformed, empty or beyond ``size``; no token or word of this text, or several.

    >>> parse_range("2:5", 10, option="--queries")
    range(2, 5)
    """
    match = re.fullmatch(r"\s*(\d*)\s*:\s*(\d*)\s*", text)
    instead = f"write A:B, positions A to B-1, like 0:{min(size, 128)}"
    if not match and tokens is not None and not re.fullmatch(r"[\d\s:-]*", text):
        noun = {"--queries": "query", "--keys": "key"}[option]
        return tokens.find(text, option=option, noun=noun, source=source, instead=instead)
    if not match:
        raise InputError(f"{option} {text!r}: {instead}")
    first, stop = int(match[1] or 0), int(match[2] or size)
    if not first < stop <= size:
        raise InputError(f"{option} {text!r} is not a part of 0:{size}; write A:B with A < B <= {size}")
    return range(first, stop)


def checked_range(positions: range | slice | None, size: int, name: str, source: str) -> range:
    """``positions``, None meaning all. Raises InputError for what is not a part of 0 to ``size`` - 1."""
    if positions is None:
        return range(size)
    if isinstance(positions, slice):
        first, end = (
            edge if edge is not None else other for edge, other in ((positions.start, 0), (positions.stop, size))
        )
        positions = range(first, end, positions.step or 1)
    if not isinstance(positions, range):
        raise InputError(f"{source}: {name} are given as {positions!r}; write range(first, end), without the end")
    if positions.step != 1 or not 0 <= positions.start < positions.stop <= size:
        raise InputError(
            f"{source}: {name} {positions.start}:{positions.stop} is not a part of 0:{size}; write first:end with first < end"
        )
    return positions


def parse_bytes(text: str, *, option: str = "--memory") -> int:
    """A number of bytes as people write it: ``2GiB``, ``512M``, ``1.5 GB``, ``1000000``.

    Raises:
        InputError: malformed, or nothing.

    >>> parse_bytes("2GiB"), parse_bytes("1.5kB")
    (2147483648, 1500)
    """
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d+)?)\s*([kKMGT]?)(i?)[bB]?\s*", text)
    amount = (
        float(match[1]) * (1024 if match[3] else 1000) ** " kMGT".index(match[2].replace("K", "k") or " ")
        if match
        else 0
    )
    if amount < 1:
        raise InputError(f"{option} {text!r}: write an amount of memory like 512MiB, 2GiB or 1.5GB")
    return int(amount)


def parse_positions(text: str, size: int, *, option: str = "--global", seed: int = 0) -> tuple[int, ...]:
    """Key positions below ``size``, ascending: a list of positions and ranges, ``every:N`` or ``random:N``.

    ``every:N`` takes positions 0, N, 2N, ...; ``random:N`` draws N positions without replacement from a
    generator seeded with ``seed``, the same on every machine.

    Raises:
        InputError: malformed, repeated or out of range.

    >>> parse_positions("every:4", 10)
    (0, 4, 8)
    """
    rule, colon, count = text.strip().partition(":")
    if not colon:
        return tuple(sorted(parse_indices(text, size, option=option, noun="position")))
    if rule not in ("every", "random") or not count.isdecimal() or int(count) == 0:
        raise InputError(f"{option} {text!r}: write positions like 0,3,7 or 0-3,17, or every:512, or random:16")
    number = int(count)
    if rule == "every":
        return tuple(range(0, size, number))
    if number > size:
        raise InputError(f"{option} {text!r}: {number} positions are asked for but there are only {size}")
    import numpy as np

    # The raw stream of PCG64 is fixed by numpy's promise; its higher-level draws are not.
    raw = np.random.PCG64(np.random.SeedSequence([seed, 0x676C6F62])).random_raw(size)
    return tuple(sorted(int(position) for position in np.argsort(raw, kind="stable")[:number]))
