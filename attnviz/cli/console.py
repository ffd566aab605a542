"""What the command line says, and where: results on stdout, everything else on stderr."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from attnviz.base.errors import Note
from attnviz.base.words import bare, isolated, printable
from attnviz.cli.streams import in_its_room

if TYPE_CHECKING:
    from rich.console import Console


_MOST_LETTERS = 2000  # of a line on stderr: names and options can be as long as anyone makes them


def say(message: str) -> None:
    """A line for the person, on stderr."""
    line = printable(" ".join(message.split()))
    line = line if len(line) <= _MOST_LETTERS else f"{line[: _MOST_LETTERS - 300]} … {line[-300:]}"
    print(f"attnviz: {line}", file=sys.stderr)


_quiet = False


def quiet(wanted: bool) -> None:
    """Whether notes are left unsaid from here on; what goes wrong is always said."""
    global _quiet
    _quiet = wanted


def is_quiet() -> bool:
    """Whether a person asked for nothing on stderr but what goes wrong."""
    return _quiet


class _Said(logging.Handler):
    """Says what the library logs."""

    def emit(self, record: logging.LogRecord) -> None:
        if not _quiet:
            say(record.getMessage())


def verbose(wanted: bool) -> None:
    """Whether it is said from here on how things are made, which the library logs."""
    log = logging.getLogger("attnviz")
    log.handlers = [one for one in log.handlers if not isinstance(one, _Said)] + [_Said()] * wanted
    log.setLevel(logging.INFO if wanted else logging.NOTSET)


@cache
def note(message: str) -> None:
    """As :func:`say`; said once, however often it is true, and not at all with ``--quiet``."""
    if not _quiet:
        say(message)


@contextmanager
def saying_notes() -> Iterator[None]:
    """While the block runs, what the library notes is said as :func:`note` says it; other warnings stay as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", Note)
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, Note):
                note(str(message))
            else:
                shown(message, category, *rest, **more)

        warnings.showwarning = show
        yield


def output(columns: int = 100, **options: Any) -> Console:
    """stdout, as wide as the terminal; where there is none $COLUMNS, else ``columns``.

    Args:
        columns: characters across.
        options: of rich's Console.
    """
    from rich.console import Console
    from rich.segment import Segment

    class Output(Console):
        """What is shown has no letters that a terminal obeys but those that rich adds for its colors."""

        def render(self, *what: Any, **how: Any) -> Iterator[Segment]:
            for segment in super().render(*what, **how):
                yield (
                    segment if segment.control else Segment(self._placed(printable(bare(segment.text))), segment.style)
                )

        def print(self, *objects: Any, **how: Any) -> None:
            """As any console's; letters that the encoding lacks are spelled before they are laid out."""
            if not self.encoding.startswith("utf"):
                objects = tuple(spelled(one, self.encoding) for one in objects)
            super().print(*objects, **how)

        def _placed(self, text: str) -> str:
            """Text of letters that stand where they were laid out, in an encoding that can say so or not."""
            return isolated(text) if self.encoding.startswith("utf") else in_its_room(text, self.encoding)

    given = os.environ.get("COLUMNS", "")
    if not sys.stdout.isatty() and "width" not in options:
        options["width"] = int(given) if re.fullmatch("[1-9][0-9]{0,4}", given) else columns
    return Output(**options)


def spelled(shown: Any, encoding: str) -> Any:
    """What is printed, in letters that an encoding has; what lays out its letters itself stays as it is."""
    from rich.table import Table
    from rich.text import Text

    def plain(text: str) -> str:
        return text.encode(encoding, "attnviz").decode(encoding)

    if isinstance(shown, str):
        return plain(shown)
    if isinstance(shown, Text):
        made = shown.copy()
        text = plain(shown.plain)
        if len(text) != len(shown.plain):
            return Text(text, shown.style, justify=shown.justify, overflow=shown.overflow, no_wrap=shown.no_wrap)
        made.plain = text
        return made
    if isinstance(shown, Table):
        shown.title, shown.caption = spelled(shown.title, encoding), spelled(shown.caption, encoding)
        for column in shown.columns:
            column.header = spelled(column.header, encoding)
            column._cells = [spelled(cell, encoding) for cell in column._cells]
    return shown


def data(text: str) -> None:
    """Writes JSON, CSV or Markdown to stdout: to a file or pipe in UTF-8, whatever the encoding of terminals is."""
    binary = None if sys.stdout.isatty() else getattr(sys.stdout, "buffer", None)
    if binary is None:
        sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
        return
    sys.stdout.flush()
    binary.write(text.encode(errors="backslashreplace"))
    binary.flush()


@contextmanager
def drawing(*, theme: str = "light", paper: str | None = None, letters: Iterable[str] = ()) -> Iterator[None]:
    """The house style for a figure; letters that no font here has are told in one line, not a warning each.

    Args:
        theme, paper, letters: as in :func:`attnviz.show.figures.style.house_style`.
    """
    from attnviz.base.labels import missing_scripts
    from attnviz.show.figures.style import house_style

    finder = logging.getLogger("matplotlib.font_manager")  # says that a font has no such weight, a line each time
    level = finder.level
    finder.setLevel(logging.ERROR)
    try:
        with house_style(theme=theme, paper=paper, letters=letters), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        finder.setLevel(level)
    missing: set[str] = set()
    for warning in caught:
        glyph = re.match(r"Glyph (\d+) ", str(warning.message))
        if glyph:
            missing.add(chr(int(glyph[1])))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if missing:
        shown = "".join(sorted(missing)[:12]) + ("…" if len(missing) > 12 else "")
        scripts = missing_scripts(missing)
        fonts = ", ".join(dict.fromkeys(scripts.values()))
        note(f"no font here has {shown} ({', '.join(scripts)}): drawn as boxes; install {fonts}")
