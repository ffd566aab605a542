"""Pictures in the terminal: who may see whom and why, two characters a cell, readable without color too."""

from __future__ import annotations

import math
import string
from collections.abc import Iterable, Sequence

from rich.cells import cell_len, set_cell_size
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from attnviz.maps.map import cell_words
from attnviz.maps.reasons import SEVERAL, ReasonMap
from attnviz.show.scale.colors import BLACK, WHITE, Rgb, is_dark, mix, reason_colors
from attnviz.show.terminal.tables import short

_BARS = " ▁▂▃▄▅▆▇█"
_TOKEN_CELLS = 10
_OTHER_LINES = 10  # around the cells: title, key positions, legend, the next prompt
_FEWEST = 16


def cells_that_fit(width: int, height: int | None, *, labels: bool) -> int:
    """The most cells along a side of a :class:`PatternPicture` that a terminal shows at once, 16 at the least.

    Args:
        width: terminal cells across.
        height: lines; None is any number.
        labels: whether tokens stand beside the rows.
    """
    across = (width - 8 - (_TOKEN_CELLS if labels else 0)) // 2
    return max(_FEWEST, across if height is None else min(across, height - _OTHER_LINES))


class PatternPicture:
    """A :class:`~attnviz.maps.reasons.ReasonMap` that rich prints: queries down, keys across, a letter a reason.

    Where there are weights, a bar beside the letter is as high as the weight.
    """

    def __init__(self, shown: ReasonMap) -> None:
        self.shown = shown
        self.letters = reason_letters(shown.reasons)
        self.colors = reason_colors([*shown.reasons, SEVERAL])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self.shown
        columns = shown.cells.shape[1]
        yield Text(f"{shown.name} · queries {len(shown.queries)} × keys {len(shown.keys)}", style="bold")
        labels = self._row_labels()
        margin = cell_len(labels[0])
        yield _line(" " * margin + " ", Text(_ticks([_first(shown.keys, columns, j) for j in range(columns)])))
        for label, kinds, weights in zip(labels, shown.kinds.tolist(), self._shares(), strict=True):
            cells = Text()
            for kind, share in zip(kinds, weights, strict=True):
                cells.append_text(self._cell(kind, share))
            yield _line(label + " ", cells)
        yield Text()
        yield from self._legend()

    def _row_labels(self) -> list[str]:
        """The first position of each row and, where a row is one query, its token; all of one width."""
        shown, rows = self.shown, self.shown.cells.shape[0]
        firsts = [_first(shown.queries, rows, i) for i in range(rows)]
        digits = len(f"{firsts[-1]}")
        if shown.query_labels is None or len(shown.queries) != rows:
            return [f"{first:>{digits}}" for first in firsts]
        tokens = [short(label, _TOKEN_CELLS) for label in shown.query_labels]
        width = max(map(cell_len, tokens))
        return [f"{first:>{digits}} {set_cell_size(token, width)}" for first, token in zip(firsts, tokens, strict=True)]

    def _shares(self) -> list[list[float | None]]:
        """Each cell's weight as a share of the largest; None where there is none."""
        shown = self.shown
        if shown.weights is None:
            return [[None] * shown.cells.shape[1]] * shown.cells.shape[0]
        most = shown.most_weight or 1.0
        return [[None if math.isnan(w) else w / most for w in row] for row in shown.weights.tolist()]

    def _cell(self, kind: int, share: float | None) -> Text:
        if kind < 0:
            return Text(" ·", style="bright_black")
        reasons = [*self.shown.reasons, SEVERAL]
        color, letter = self.colors[reasons[kind]], self.letters[reasons[kind]]
        if self.shown.weights is None:
            return Text(f" {letter}", style=_style(color, WHITE if is_dark(color) else BLACK))
        bar = _BARS[0 if share is None else math.ceil(share * (len(_BARS) - 1))]
        return Text(letter + bar, style=_style(mix(color, WHITE, 0.7), mix(color, BLACK, 0.35)))

    def _legend(self) -> Iterable[Text]:
        shown = self.shown
        hidden = "not visible"
        counts = shown.counts
        width = max(map(len, [*counts, hidden]))
        digits = len(f"{shown.total:,}")
        kinds = [*shown.reasons, SEVERAL]
        for reason, count in counts.items():
            yield self._cell(kinds.index(reason), None) + _count(reason, width, count, digits, shown.total)
        yield self._cell(-1, None) + _count(hidden, width, shown.total - shown.visible, digits, shown.total)
        if shown.weights is not None:
            yield Text(f"{_BARS[1]}{_BARS[-1]} weight, a full bar is {shown.most_weight:.4f}")
        if shown.reduced:
            of_weights = "" if shown.weights is None else f" and the {shown.reduce} of its weights"
            yield Text(f"{cell_words(shown.cell_size)} pairs, with every reason of any of them{of_weights}")


def reason_letters(reasons: Sequence[str]) -> dict[str, str]:
    """A letter for each reason, no two the same: an initial where one is free; ``*`` for several.

    >>> reason_letters(["window", "global key", "global query"])
    {'window': 'W', 'global key': 'G', 'global query': 'Q', 'several': '*'}
    """
    letters: dict[str, str] = {}
    for reason in reasons:
        initials = [word[0].upper() for word in reason.split()]
        free = (a for a in (*initials, *string.ascii_uppercase, *string.digits) if a not in letters.values())
        letters[reason] = next(letter for letter in free if letter.isalnum())
    return {**letters, SEVERAL: "*"}


def _first(positions: range, bins: int, index: int) -> int:
    """The first position of a bin."""
    return positions.start + index * len(positions) // bins


def _ticks(positions: Sequence[int]) -> str:
    """Numbers above columns of two characters, each ending over its column, thinned so that no two touch."""
    width = max(len(f"{position}") for position in positions) + 1
    stride = next(
        step for power in range(10) for step in (10**power, 2 * 10**power, 5 * 10**power) if 2 * step >= width
    )
    line = ""
    for index in range(0, len(positions), stride):
        line = line.ljust(2 * index) + f"{positions[index]:>2}"
    return line


def _count(name: str, width: int, count: int, digits: int, total: int) -> Text:
    pairs = "pair " if count == 1 else "pairs"
    return Text(f" {name:<{width}}  {count:>{digits},} {pairs}  {count / total:7.2%}")


def _line(label: str, cells: Text) -> Text:
    line = Text(label, style="", no_wrap=True, overflow="crop")
    return line.append_text(cells)


def _style(background: Rgb, ink: Rgb) -> Style:
    return Style(color=_color(ink), bgcolor=_color(background))


def _color(color: Rgb) -> Color:
    red, green, blue = (round(255 * channel) for channel in color)
    return Color.from_rgb(red, green, blue)
