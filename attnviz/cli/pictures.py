"""Figures that commands write: as they are asked to look, with what they show and how they were made in the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from attnviz.base.errors import InputError
from attnviz.cli import defaults
from attnviz.plots.look import Look
from attnviz.plots.said import option_name, options

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLAIN = Look(theme="light")
"""How figures look where nothing is said."""


def look_of_file(look: Look, out: Path | None, *, unused: Iterable[str] = ()) -> Look:
    """A look, checked, with the dots per inch of a file.

    Args:
        look: what was asked for.
        out: the figure; None is no figure.
        unused: fields that this figure has no use for.

    Raises:
        InputError: a look is asked for and no figure is written; one that can't be; a field that has no use.
    """
    for name in options(Look):
        value = getattr(look, name.name)
        if value == getattr(PLAIN, name.name) or defaults.used(option_name(name)):
            continue
        said = option_name(name) + ("" if isinstance(value, bool) else f" {value}")
        if out is None:
            raise InputError(f"{said}: it says how a figure looks; name one with -o")
        if name.name in unused:
            raise InputError(f"{said}: this figure has no use for it; leave it out")
    look = look.for_file()
    look.check()
    return look


def write_figure(
    out: Path,
    draw: Callable[[], Axes | Figure],
    look: Look,
    words: str,
    *,
    kind: str,
    letters: Iterable[str] = (),
) -> None:
    """Draws a figure in the house style and writes it.

    Args:
        out: the file.
        draw: draws it.
        look: how it looks.
        words: what it shows, for those who can't see it.
        kind: what made it.
        letters: what is written in it.
    """
    from attnviz.cli.console import drawing, note
    from attnviz.plots.kind import figure_of
    from attnviz.show.figures.about import About
    from attnviz.show.figures.style import save_figure

    with drawing(theme=look.theme or "light", paper=look.paper, letters=set().union(look.title or "", *letters)):
        figure = figure_of(draw())
        high = look.too_high(figure)
        if high is not None:
            note(high)
        # Where its files lay is no part of a figure, whose bytes are the same elsewhere.
        about = About(re.sub(r"\S*/", "", words), {"kind": kind, **look.said})
        save_figure(figure, out, dpi=look.dots, transparent=look.transparent, about=about)
    note(f"wrote {out}")
