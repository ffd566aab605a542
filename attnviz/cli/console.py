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

if TYPE_CHECKING:
    from rich.console import Console


@cache
def note(message: str) -> None:
    """A line for the person, on stderr; said once, however often it is true."""
    print(f"attnviz: {message}", file=sys.stderr)


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

    if sys.stdout.isatty():
        return Console(**options)
    given = os.environ.get("COLUMNS", "")
    return Console(width=int(given) if given.isdecimal() and int(given) > 0 else columns, **options)


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
