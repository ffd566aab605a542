"""The one kind of error a user can cause, and the one kind of warning."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable

_NO_MEMORY = re.compile(
    "can't allocate memory|cannot allocate memory|unable to allocate|failed to map segment|bad_alloc|out of memory"
    # What the interpreter makes of C code that fails and does not say why, which is how an allocation fails in it.
    "|error return without exception set|without setting an exception",
    re.IGNORECASE,
)


class InputError(ValueError):
    """Something a user gave cannot be used: what was found, what was wanted, how to fix it.

    The message is one line. The command line prints it and exits with code 2.

    >>> import attnviz
    >>> try:
    ...     attnviz.load("nothing.npz")
    ... except attnviz.InputError as error:
    ...     print(error)
    nothing.npz: there is no such file
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def close_to(given: str, choices: Iterable[str]) -> str:
    """What to say of the choice that was meant, as far as one is near; else nothing.

    >>> close_to("lgo", ["linear", "log"]), close_to("xyz", ["linear", "log"])
    ('; did you mean log?', '')
    """
    from difflib import get_close_matches

    written = {choice.lower(): choice for choice in choices}
    near = get_close_matches(given.lower(), written, n=1)
    return f"; did you mean {written[near[0]]}?" if near else ""


def not_one_of(what: str, given: object, choices: Iterable[str]) -> InputError:
    """The error of a value that is none of those there are, with the nearest.

    >>> print(not_one_of("--norm", "lgo", ["linear", "log"]))
    --norm 'lgo' is not one of linear, log; did you mean log?
    """
    choices = [str(choice) for choice in choices]
    return InputError(f"{what} {given!r} is not one of {', '.join(choices)}{close_to(str(given), choices)}")


class Note(UserWarning):
    """Something that a person should know of a result; the command line says it in a line on stderr."""


def is_memory(error: BaseException) -> bool:
    """Whether what failed is memory, of whatever kind the library makes of it: no damage, and no fault of ours.

    Who turns any error of a library into a line about a file lets these through.

    >>> is_memory(OSError(12, "Cannot allocate memory")), is_memory(OSError(2, "No such file or directory"))
    (True, False)
    >>> is_memory(SystemError("error return without exception set"))
    True
    """
    if isinstance(error, InputError):
        return False
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if getattr(error, "errno", None) == errno.ENOMEM or _NO_MEMORY.search(str(error)) is not None:
        return True
    before = error.__cause__ or error.__context__
    return before is not None and is_memory(before)
