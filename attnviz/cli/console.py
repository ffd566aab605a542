"""What the command line says, and where: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@cache
def note(message: str) -> None:
    """A line for the person, on stderr; said once, however often it is true."""
    print(f"attnviz: {message}", file=sys.stderr)


def output() -> Console:
    """stdout, as wide as the terminal; $COLUMNS, else 100, where there is none."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console()
    columns = os.environ.get("COLUMNS", "")
    return Console(width=int(columns) if columns.isdecimal() and int(columns) > 0 else 100)
