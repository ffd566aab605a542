"""stdout and stderr as the program needs them: any encoding, closed, full, or with nobody who reads.

Results go to stdout, and what cannot be written there is an error. Everything else goes to stderr, and what cannot be
written there is let go: a picture is not worth less because nobody heard a note. Letters that an encoding lacks are
spelled with those it has.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
import unicodedata
from contextlib import suppress

SPELLED = {
    **dict.fromkeys("–—−‐‑", "-"),
    **dict.fromkeys("‘’", "'"),
    **dict.fromkeys("“”「」", '"'),
    **{"…": "...", "·": "|", "×": "x", "→": "->", "←": "<-", "≤": "<=", "≥": ">=", "±": "+-", "√": "sqrt", "Σ": "sum"},
    **{"•": "*", "ⓘ": "i", "Δ": "d", "\N{REPLACEMENT CHARACTER}": "?", "▲": "^", "▼": "v", "\N{NO-BREAK SPACE}": " "},
    **dict.fromkeys("─━╌═╴╶╸╺", "-"),
    **dict.fromkeys("│┃║", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╯╰╞╡╪┏┓┗┛┡┩╇╈┳┻╋┠┨", "+"),
    **dict.fromkeys("█▓", "#"),
    **dict.fromkeys("▀▄▌▐▒", "="),
    "░": ".",
}
"""What stands for letters of ours where an encoding lacks them."""


def spell(error: UnicodeError) -> tuple[str | bytes, int]:
    """What stands for the letters that an encoding lacks: an error handler of codecs.

    >>> "a → é…".encode("ascii", "attnviz")
    b'a -> e...'
    """
    assert isinstance(error, UnicodeEncodeError)
    return "".join(_spelled(letter, error.encoding) for letter in error.object[error.start : error.end]), error.end


def _spelled(letter: str, encoding: str) -> str:
    plain = SPELLED.get(letter)
    if plain is None:
        plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    try:
        plain.encode(encoding)
    except UnicodeError:  # of an encoding without the letters of ASCII
        return "?"
    if plain or unicodedata.category(letter) in (
        "Mn",
        "Me",
        "Cf",
    ):  # a mark on a letter, or one that joins two, has no room
        return plain
    return "?" * _room(letter)


def in_its_room(text: str, encoding: str) -> str:
    """Text that is laid out, its letters spelled with as many as they have room for: what a table cuts ends in one period."""
    try:
        text.encode(encoding)
    except UnicodeError:
        return "".join(
            letter if _has(letter, encoding) else _spelled(letter, encoding)[: _room(letter)] for letter in text
        )
    return text


def _has(letter: str, encoding: str) -> bool:
    try:
        letter.encode(encoding)
    except UnicodeError:
        return False
    return True


def _room(letter: str) -> int:
    """How many cells a letter takes."""
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


codecs.register_error("attnviz", spell)


class Unheard(io.TextIOWrapper):
    """A stream whose text is let go where it cannot be written."""

    def write(self, text: str) -> int:
        """As of any stream, but it does not fail."""
        with suppress(OSError, ValueError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """As of any stream, but it does not fail."""
        with suppress(OSError, ValueError):
            super().flush()


class Closed(io.RawIOBase):
    """A stream that was closed before the program began: nothing can be written to it."""

    def writable(self) -> bool:
        """It seems so, so that writing is what fails."""
        return True

    def write(self, _: object) -> int:
        """Fails."""
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def prepare() -> None:
    """Makes of this process's streams what every command can write to."""
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(Closed(), "utf-8", write_through=True)
    elif type(sys.stdout) is io.TextIOWrapper:
        sys.stdout.reconfigure(errors="attnviz")
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.BytesIO(), "utf-8")
    elif type(sys.stderr) is io.TextIOWrapper:
        encoding, lines, at_once = sys.stderr.encoding, sys.stderr.line_buffering, sys.stderr.write_through
        sys.stderr = Unheard(sys.stderr.detach(), encoding, "attnviz", line_buffering=lines, write_through=at_once)


def settle() -> None:
    """Writes what is still to be written to stdout, or lets it go where that fails: the end of Python would tell it anew."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
