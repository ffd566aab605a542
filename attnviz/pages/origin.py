"""Where a page's layer came from, as a command and as Python: what "copy as command" and "copy as Python" begin with."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from typing import Any

from attnviz.attention.names import pattern_of
from attnviz.attention.patterns import Both, Either, Pattern
from attnviz.base.errors import InputError


@dataclass(frozen=True)
class Origin:
    """What makes a layer's maps again.

    Args:
        command: the words that ``attnviz plot`` takes of it, but for heads and the part of the map; None where no command
            says it.
        inputs: the expression that gives its inputs, and ``options``, the keyword arguments that :func:`attnviz.plot` takes;
            None where nothing that can be written does.
        head: whether a head of the page is a head of these inputs, and not one map of several.
        first: the indices of the page's first query and key among those of the inputs.
        cropped: whether the page shows a part of the map, and not all of it.
    """

    command: tuple[str, ...] | None = None
    inputs: str | None = None
    options: str | None = ""
    head: bool = True
    first: tuple[int, int] = (0, 0)
    cropped: bool = False

    @property
    def said(self) -> dict[str, Any]:
        """As the page's description has it: text to put figure options after.

        >>> Origin(("my dump.npz", "--pattern", "causal"), "attnviz.load('my dump.npz')").said["command"]
        "'my dump.npz' --pattern causal"
        """
        python = None not in (self.inputs, self.options)
        return {
            "command": None if self.command is None else shlex.join(self.command),
            "inputs": self.inputs if python else None,
            "options": self.options if python else None,
            "head": self.head,
            "first": list(self.first),
            "cropped": self.cropped,
        }


def command_words(path: str | None, pattern: Pattern | str | None, **options: Any) -> tuple[str, ...] | None:
    """The words that name a dump, a pattern and options on the command line; None where no words name one.

    >>> command_words("dump.npz", "causal", layer=2, renormalize=True, hide=["special", 3], batch=None)
    ('dump.npz', '--pattern', 'causal', '--layer', '2', '--renormalize', '--hide', 'special,3')
    """
    name = pattern_words(pattern)
    if path is None or (pattern is not None and name is None):
        return None
    words = [path] + ([] if name is None else ["--pattern", name])
    for option, value in options.items():
        if value is None or value is False:
            continue
        words.append(f"--{option}")
        if value is not True:
            listed = value if isinstance(value, list | tuple) else [value]
            if not all(isinstance(one, str | int) for one in listed):
                return None
            words.append(",".join(map(str, listed)))
    return tuple(words)


ALL = object()
"""Every head, which is written as None."""


def python_options(pattern: Pattern | str | None, **options: Any) -> str | None:
    """Keyword arguments as they are written in Python; None where one of them can't be.

    >>> python_options("causal", batch=1, merge=None, mean="heads", head=ALL)
    "pattern='causal', batch=1, mean='heads', head=None"
    """
    written = [] if pattern is None else [_pattern(pattern)]
    for name, value in options.items():
        if value is None or value is False:
            continue
        value = None if value is ALL else value
        written.append(f"{name}={value!r}" if value is None or isinstance(value, str | int | float | list) else None)
    return None if None in written else ", ".join(one for one in written if one is not None)


def pattern_words(pattern: Pattern | str | None) -> str | None:
    """A pattern as ``--pattern`` takes it; None where no words say it.

    >>> from attnviz import Causal, GlobalKeys, Local
    >>> pattern_words(Local(2) & Causal() | GlobalKeys()), pattern_words(Local(2) & (Causal() | GlobalKeys()))
    ('local:window=2,dilation=1 & causal | global', None)
    """
    if pattern is None or isinstance(pattern, str):
        return pattern
    words = _words(pattern)
    return words if words is not None and _is_named(words, pattern) else None


def _words(pattern: Pattern) -> str | None:
    if isinstance(pattern, Both | Either):
        sides = [_words(pattern.left), _words(pattern.right)]
        join = " & " if isinstance(pattern, Both) else " | "
        return None if None in sides else join.join(filter(None, sides))
    if pattern.name is None:
        return None
    settings = ",".join(f"{field.name}={getattr(pattern, field.name)}" for field in fields(pattern))  # type: ignore[arg-type]
    return f"{pattern.name}:{settings}" if settings else pattern.name


def _is_named(words: str, pattern: Pattern) -> bool:
    """Whether these words are read as this pattern: ``&`` binds before ``|``, and a setting may have no words."""
    try:
        return bool(pattern_of(words) == pattern)
    except InputError:
        return False


def _pattern(pattern: Pattern | str) -> str | None:
    words = pattern_words(pattern)
    return None if words is None else f"pattern={words!r}"
