"""The one kind of error a user can cause, and the one kind of warning."""

from __future__ import annotations

import errno
import re

_NO_MEMORY = re.compile(
    "can't allocate memory|cannot allocate memory|unable to allocate|failed to map segment|bad_alloc|out of memory"
    # What the interpreter makes of C code that fails and does not say why, which is how an allocation fails in it.
    "|error return without exception set|without setting an exception",
    re.IGNORECASE,
)


class InputError(ValueError):
    """Something a user gave cannot be used: what was found, what was wanted, how to fix it.

    The message is one line. The command line prints it and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


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
