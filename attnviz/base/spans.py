"""Spans of positions and what is hidden, as people write them: ``system:0-40,document 1:41-900``, ``special,0-3,the``."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from attnviz.base.errors import InputError
from attnviz.base.labels import Tokens, one_line
from attnviz.base.runs import repeated

SEPARATOR = "sep:"
"""What stands before a token that ends a span."""

_SPAN = re.compile(r"\s*(?P<name>.*\S)\s*:\s*(?P<first>\d+)\s*(?:-\s*(?P<last>\d+)\s*)?", re.DOTALL)
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_BEGINNING = 20  # letters of a span's own text that its label shows


@dataclass(frozen=True)
class Span:
    """A run of positions that has a name."""

    name: str
    positions: range


Spans = str | Mapping[str, range | Sequence[int]] | Sequence[Span]
"""Spans as they are asked for: text, names with their positions, or spans."""

Hide = str | Iterable[int | str]
"""What is hidden, as it is asked for: text, or positions and words."""


def spans_of(
    given: Spans, size: int, tokens: Tokens | None, *, source: str, option: str = "--spans"
) -> tuple[Span, ...]:
    """The spans of 0 to ``size`` - 1, in their order; what no span has is a span of its own, called by its positions.

    Args:
        given: ``"system:0-40,document 1:41-900"``, where both ends belong to a range; ``"sep:."``, spans that end with a token;
            or a mapping from names to ``range(0, 41)`` or ``(0, 41)``, from the first to before the last.
        size: how many positions there are.
        tokens: what they are, where that is known.
        source: what the inputs are called, for the error.
        option: ``--spans`` or ``--query-spans``, likewise.

    Raises:
        InputError: malformed, empty, beyond ``size``, of one name, or spans that share a position; no such token.

    >>> [(one.name, one.positions) for one in spans_of("system:0-2,text:4-5", 8, None, source="x")]
    [('system', range(0, 3)), ('3', range(3, 4)), ('text', range(4, 6)), ('6-7', range(6, 8))]
    """
    if isinstance(given, str) and given.strip().startswith(SEPARATOR):
        return _separated(given, tokens, source, option)
    named = _parsed(given, option) if isinstance(given, str) else _listed(given)
    if not named:
        raise InputError(f"{option} {given!r}: names no span; write them like system:0-40,document 1:41-900")
    named.sort(key=lambda span: span.positions.start)
    found: list[Span] = []
    done = 0
    for span in named:
        first, stop = span.positions.start, span.positions.stop
        if stop > size:
            raise InputError(
                f"{option}: {_said(span)} goes beyond the {size} positions of {source}, 0 to {size - 1}; write an end "
                f"below {size}"
            )
        if first < done:
            raise InputError(
                f"{option}: {_said(found[-1])} and {_said(span)} share position {first}; let one end before it"
            )
        if first > done:
            found.append(_between(done, first))
        found.append(span)
        done = stop
    if done < size:
        found.append(_between(done, size))
    if twice := repeated(span.name for span in found):
        raise InputError(f"{option}: two spans are called {twice[0]!r}; give each a name of its own")
    return tuple(found)


def hidden_of(
    given: Hide, size: int, tokens: Tokens | None, padding: Collection[int] | None, *, source: str
) -> tuple[int, ...]:
    """The keys that are left out, ascending.

    Args:
        given: ``special``, ``padding``, positions (``0,3-5``) and tokens (``the``, every one of that text), with commas
            between; or these one by one.
        size: how many keys there are.
        tokens: what they are, where that is known.
        padding: the keys that are padding; None is not known.
        source: what the inputs are called, for the error.

    Raises:
        InputError: a position beyond ``size``, a token that is not there; special tokens or padding that nothing tells of;
            nothing is left.

    >>> hidden_of("0,the", 4, Tokens(["the", "cat", "the", "end"]), None, source="x")
    (0, 2)
    """
    parts = given.split(",") if isinstance(given, str) else list(given)
    if isinstance(given, str) and tokens is not None and tokens.every(given.strip()):
        parts = [given.strip()]  # a comma is a token too
    found: set[int] = set()
    for part in parts:
        found.update(_hidden(part, size, tokens, padding, source))
    if not parts:
        raise InputError("--hide: names nothing; write special, padding, positions (0,3-5) or tokens")
    if len(found) == size:
        raise InputError(f"--hide {_text(given)}: leaves none of the {size} keys of {source}; hide fewer")
    return tuple(sorted(found))


def _hidden(
    part: int | str, size: int, tokens: Tokens | None, padding: Collection[int] | None, source: str
) -> Collection[int]:
    text = str(part).strip()
    match = _RANGE.fullmatch(text)
    if match:
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < size:
            raise InputError(
                f"--hide {text}: is no position or range of keys, 0 to {size - 1}, of {source}; write 0,3-5"
            )
        return range(first, last + 1)
    if text == "padding":
        if padding is None:
            raise InputError(
                f"--hide padding: {source} doesn't say which keys are padding; name the tensor that does (--padding NAME)"
            )
        return padding
    if tokens is None:
        raise InputError(f"--hide {text!r}: {source} has no tokens; name keys by their positions, like 0,3-5")
    if text == "special":
        if not tokens.special:
            raise InputError(f"--hide special: {source} names no special tokens; name them by text or position")
        return [position for position in tokens.special if position < size]
    positions = tokens.every(text) if text else []
    if not positions:
        raise InputError(f"--hide {text!r}: is no key's token in {source}; write special, padding, positions or tokens")
    return positions


def _text(given: Hide) -> str:
    return given if isinstance(given, str) else ",".join(map(str, given))


def _parsed(text: str, option: str) -> list[Span]:
    found = []
    for part in text.split(","):
        match = _SPAN.fullmatch(part)
        if not match or re.search(r":\s*\d*$", match["name"]):
            raise InputError(
                f"{option} {text!r}: {part.strip()!r} is no span; write NAME:FIRST-LAST, both ends of it, like "
                f"system:0-40,document 1:41-900, or sep:TOKEN"
            )
        first, last = int(match["first"]), int(match["last"] or match["first"])
        if last < first:
            raise InputError(
                f"{option} {text!r}: {part.strip()!r} runs backwards; write {match['name']}:{last}-{first}"
            )
        found.append(Span(match["name"], range(first, last + 1)))
    return found


def _listed(given: Mapping[str, range | Sequence[int]] | Sequence[Span]) -> list[Span]:
    pairs = given.items() if isinstance(given, Mapping) else [(span.name, span.positions) for span in given]
    found = []
    for name, ends in pairs:
        positions = ends if isinstance(ends, range) else range(*ends) if len(ends) == 2 else range(0)
        if not str(name).strip() or positions.step != 1 or not 0 <= positions.start < positions.stop:
            raise InputError(
                f"spans: {name!r} is of {ends}; wanted a name, and range(first, stop) or (first, stop) of one position or more"
            )
        found.append(Span(str(name), positions))
    return found


def _separated(text: str, tokens: Tokens | None, source: str, option: str) -> tuple[Span, ...]:
    """Spans that end with a token, each called by its number and its beginning."""
    wanted = text.strip().removeprefix(SEPARATOR)
    if tokens is None:
        raise InputError(
            f"{option} {text!r}: {source} has no tokens; give positions, like system:0-40,document 1:41-900"
        )
    ends = set(tokens.special) if wanted == "special" else set(tokens.every(wanted)) if wanted.strip() else set()
    if not ends:
        raise InputError(
            f"{option} {text!r}: {wanted!r} is no token in {source}; name one that ends a span, or special"
        )
    stops = sorted({*(end + 1 for end in ends), len(tokens.raw)})
    found = []
    for number, (first, stop) in enumerate(zip([0, *stops], stops, strict=False), 1):
        found.append(Span(f"{number} {_beginning(tokens, range(first, stop))}".strip(), range(first, stop)))
    return tuple(found)


def _beginning(tokens: Tokens, span: range) -> str:
    """The first letters of a span's text."""
    few = tokens.at(span[:_BEGINNING])
    words = few.words() or [range(n, n + 1) for n in range(len(few.raw))]
    text = one_line(" ".join(few.text(word) for word in words))
    return text if len(text) <= _BEGINNING and len(span) <= _BEGINNING else f"{text[: _BEGINNING - 1].rstrip()}…"


def _between(first: int, stop: int) -> Span:
    """A span that nobody named."""
    return Span(f"{first}" if stop == first + 1 else f"{first}-{stop - 1}", range(first, stop))


def _said(span: Span) -> str:
    return f"{span.name!r} ({span.positions.start}-{span.positions.stop - 1})"
