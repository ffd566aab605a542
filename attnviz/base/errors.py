"""The one kind of error a user can cause, and the one kind of warning."""

from __future__ import annotations


class InputError(ValueError):
    """Something a user gave cannot be used: what was found, what was wanted, how to fix it.

    The message is one line. The command line prints it and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class Note(UserWarning):
    """Something that a person should know of a result; the command line says it in a line on stderr."""
