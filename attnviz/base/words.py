"""Numbers and names in sentences, and in JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from attnviz.base.runs import runs

_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def count(number: int, noun: str, plural: str | None = None) -> str:
    """``1 query``, ``1,024 queries``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def ranges(numbers: Sequence[int]) -> str:
    """Runs of numbers by their ends.

    >>> ranges([0, 1, 2, 3, 7])
    '0-3,7'
    """
    return ",".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs(numbers))


def in_place(what: str | None, layer: int | str | None = None, batch: int | None = None) -> str:
    """What, where anything is, and of which layer and batch item, where they are said.

    >>> in_place("head 3"), in_place("head 3", 2), in_place("head 3", "cross.0", 1), in_place(None, 2)
    ('head 3', 'layer 2, head 3', 'layer cross.0, batch item 1, head 3', 'layer 2')
    >>> in_place("head 3", "mean of layers 0-3")
    'mean of layers 0-3, head 3'
    """
    derived = isinstance(layer, str) and " " in layer  # of several: it says itself what it is
    of_layer = f"{layer}" if derived else f"layer {layer}"
    places = [of_layer] if layer is not None else []
    places += [f"batch item {batch}"] if batch is not None else []
    return ", ".join([*places, *([] if what is None else [what])])


def left_out_words(shares: Iterable[float | None]) -> str | None:
    """How much weight hidden keys take with them, of one head or several; None where none are hidden.

    >>> left_out_words([0.371]), left_out_words([0.12, None, 0.614]), left_out_words([None])
    ('37% of the weight is on hidden keys, and left out', "12% to 61% of a head's weight is on hidden keys, and left out", None)
    """
    known = sorted(share for share in shares if share is not None)
    if not known:
        return None
    ends = list(dict.fromkeys(percent(share) for share in (known[0], known[-1])))
    whose = "the weight" if len(known) == 1 else "a head's weight"
    return f"{' to '.join(ends)} of {whose} is on hidden keys, and left out"


def percent(share: float) -> str:
    """A share in percent: nothing but nothing is 0%, and nothing but all is 100%.

    >>> percent(0.371), percent(0.0004), percent(0.9996), percent(1.0)
    ('37%', '0.04%', '99.96%', '100%')
    """
    whole = f"{share:.0%}"
    return f"{100 * share:.4g}%" if (whole == "0%" and share) or (whole == "100%" and share != 1) else whole


def printable(text: str) -> str:
    """Text that can be shown: what a terminal would obey and XML can't hold is ``�``; line ends and tabs stay.

    Those are control characters, ends of lines in disguise, marks that turn the direction of what follows, and halves of letters. Names, metadata,
    tokens and errors pass here on their way to a terminal, a figure or a page.

    >>> printable("a\\x1b[31mb\\u202e\\n")
    'a�[31mb�\\n'
    """
    return _UNSHOWN.sub("�", text)


_LETTERS = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff"
_FROM_RIGHT = re.compile(f"[{_LETTERS}][{_LETTERS}\u0300-\u036f\u200c\u200d]*")
_ISOLATED = re.compile(f"\u2068({_FROM_RIGHT.pattern})\u2069")


def isolated(text: str) -> str:
    """Text whose words of Arabic, Hebrew and their like turn nothing around them: numbers and cells keep their places beside them.

    >>> isolated("3 \u05d0\u05d1 0.5") == "3 \u2068\u05d0\u05d1\u2069 0.5"
    True
    """
    return _FROM_RIGHT.sub("\u2068\\g<0>\u2069", bare(text))


def bare(text: str) -> str:
    """Text without what :func:`isolated` adds to it."""
    return _ISOLATED.sub("\\1", text)


def json_text(value: Any, *, spaced: bool = False, lenient: bool = False) -> str:
    """JSON on one line, its letters as they are but for those that a terminal would obey, which are spelled with escapes.

    >>> json_text({"tokens": ["caf\u00e9", "\x9b"], "scale": 1.0})
    '{"tokens":["caf\u00e9","\\\\u009b"],"scale":1.0}'

    Args:
        value: what is said.
        spaced: whether commas and colons have a space after them.
        lenient: whether a number that is not finite is null, as JSON has none.

    Raises:
        ValueError: a number that is not finite, where that is a fault of ours.
    """
    separators = (", ", ": ") if spaced else (",", ":")
    text = json.dumps(_finite(value) if lenient else value, ensure_ascii=False, allow_nan=False, separators=separators)
    return _UNSHOWN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return {name: _finite(one) for name, one in value.items()} if isinstance(value, dict) else value
