"""Heatmaps in the terminal: two cells a character in half blocks, or a character or two a cell where there is no color.

A half block is about as high as wide, so a square map is a square. Colors are those of figures; a terminal of 16
colors has seven of them, one without color has shades, and one without Unicode has letters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from attnviz.base.types import Cells
from attnviz.maps.map import AttentionMap, cell_words, grid_name
from attnviz.show.scale.colors import diverging, sequential
from attnviz.show.scale.scaling import LABELS, FittedScaling, Scaling
from attnviz.show.scale.sinks import find_sink, percent, row_note
from attnviz.show.terminal.tables import short

_TOKEN_CELLS = 10
_COLUMN_TOKEN_CELLS = 8
_OTHER_LINES = 8  # title, two of the axis, a blank, two of the legend, a note, the next prompt
_BAR = 32
_LEAST_PANEL = 8  # cells a side of a head in a grid; where the window has less, the grid runs on
_FEWEST = 4

_HIDDEN = Color.from_rgb(78, 78, 78)  # on no palette, and neither a light nor a dark background
_HIDDEN_OF_256, _HIDDEN_OF_16 = 239, 8
# Where there are not colors enough to mix: ramps by hand, each color brighter than the one before it, or nearer to
# white the nearer it is to the middle. The nearest of 256 colors to each of a palette's would jump back and forth.
_SEQUENTIAL_OF_256 = (16, 17, 53, 54, 90, 125, 161, 167, 203, 209, 215, 222, 229)
_DIVERGING_OF_256 = (17, 18, 24, 25, 68, 74, 110, 153, 189, 231, 224, 217, 210, 203, 167, 160, 124, 88, 52)
_SEQUENTIAL_OF_16 = (0, 4, 5, 13, 3, 11, 15)
_DIVERGING_OF_16 = (4, 12, 14, 15, 13, 9, 1)

_SHADES = "·░▒▓█"
_LETTERS = ".:-=+*#%@"

_ASCII = str.maketrans(
    {
        "·": "-",
        "×": "x",
        "≈": "~",
        "…": "~",
        "−": "-",
        "≤": "<",
        "≥": ">",
        "⏎": "/",
        "␣": "_",
        "⇥": "\\",
        "→": ">",
        "↓": "v",
        "▼": "v",
        "–": "-",
    }
)


def fitting_pixels(width: int, height: int | None, *, labels: bool = False, color: bool = True, maps: int = 1) -> int:
    """The most cells along a side of a map that a terminal shows at once.

    Args:
        width: characters across.
        height: lines; None is any number.
        labels: whether tokens stand beside the rows.
        color: whether there is color: two cells a character, else one in two characters.
        maps: how many maps stand in a grid.

    >>> fitting_pixels(80, 24), fitting_pixels(80, 24, color=False), fitting_pixels(200, 60, maps=12)
    (32, 16, 34)
    """
    across, down = (1, 2) if color else (0.5, 1)
    if maps > 1:
        return _grid(width, height, maps, across, down)[1]
    columns = int((width - _margin(labels)) * across)
    rows = columns if height is None else (height - _OTHER_LINES) * down
    return max(_FEWEST, int(min(columns, rows)))


class HeatmapPicture:
    """Maps that rich prints as heatmaps, on one color scale: one with axes, several as a grid.

    A map of more cells than there is room for is reduced again, by the rule that made it; make it as large as
    :func:`fitting_pixels` says, and it is exact.

    Args:
        maps: one map, or several of the same values.
        scaling: from values to colors; None is linear.
        height: lines that there are; None is the terminal's, and any number where there is no terminal.

    >>> import attnviz
    >>> from rich.console import Console
    >>> shown = attnviz.attention_map(attnviz.synthesize(tokens=4), head=1)
    >>> Console(width=60, no_color=True).print(HeatmapPicture(shown))  # doctest: +NORMALIZE_WHITESPACE
    head 1 · weights · global · queries 4 ↓ × global keys 2 →
    ...
    """

    def __init__(
        self, maps: AttentionMap | Sequence[AttentionMap], scaling: Scaling | None = None, *, height: int | None = None
    ) -> None:
        self.maps = [maps] if isinstance(maps, AttentionMap) else list(maps)
        self.scaling = scaling or Scaling()
        self.height = height
        self.fitted: FittedScaling = self.scaling.fit_values([shown.cells for shown in self.maps], self.maps[0].values)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # Color that is asked for does not make a pipe a window.
        height = console.height if self.height is None and console.file.isatty() else self.height
        brush = _brush(console, options, signed=self.fitted.signed and self.fitted.norm != "rank")
        draw = _alone if len(self.maps) == 1 else _side_by_side
        lines, drawn = draw(self, brush, options.max_width, height)
        for line in [*lines, Text(), *_legend(self.fitted, drawn, brush, options.max_width)]:
            line.no_wrap, line.overflow = True, "ellipsis" if line.style == "bold" else "crop"
            if brush.color is None:  # where there is color, spaces are cells
                line.rstrip()
            yield _plain(line) if options.ascii_only else line


# How cells become characters


@dataclass(frozen=True)
class _Brush:
    """Paints rows of shares, NaN for what is hidden.

    Args:
        color: the color of a share; None where there is no color, and then shades do.
        half: whether a character holds two cells, one above the other.
        letters: from the least to the greatest, where there is no color.
    """

    color: Callable[[float], Color] | None
    half: bool
    letters: str = ""

    @property
    def across(self) -> float:
        """Cells to a character, of cells as high as wide."""
        return 1 if self.half else 0.5

    @property
    def down(self) -> int:
        """Cells to a line."""
        return 2 if self.half else 1

    def lines(self, shares: Cells, width: int, *, whole: bool) -> list[Text]:
        """Lines of a map, each cell ``width`` characters wide; ``whole``: and a line high."""
        if whole or not self.half:
            return [self.row(row, row, width) for row in shares]
        blank = np.full((len(shares) % 2, shares.shape[1]), -1.0)  # nothing at all, not even hidden
        padded = np.concatenate([shares, blank])
        return [self.row(padded[i], padded[i + 1], width) for i in range(0, len(padded), 2)]

    def row(self, upper: Cells, lower: Cells, width: int) -> Text:
        line = Text()
        for above, below in zip(map(float, upper), map(float, lower), strict=True):
            line.append_text(self.cell(above, below, width))
        return line

    def cell(self, above: float, below: float, width: int = 1) -> Text:
        if self.color is None:
            return Text(self._shade(above, width))
        top = self.color(above)
        if below == -1:
            return Text("▀" * width, style=Style(color=top))
        bottom = self.color(below)
        if top == bottom:  # a block, as spaces at a line's end get lost on the way
            return Text(("█" if self.half else " ") * width, style=Style(color=top, bgcolor=top))
        return Text("▀" * width, style=Style(color=top, bgcolor=bottom))

    def _shade(self, share: float, width: int) -> str:
        if math.isnan(share):
            return " " * width
        if self.letters == _LETTERS or width % 2:
            return self.letters[round(share * (len(self.letters) - 1))] * width
        level = round(share * 2 * (len(self.letters) - 1))  # between two shades, one of each
        pair = self.letters[level // 2] + self.letters[(level + 1) // 2]
        return (pair * width)[:width]


def _brush(console: Console, options: ConsoleOptions, *, signed: bool) -> _Brush:
    if console.no_color or console.color_system is None:
        return _Brush(None, False, _LETTERS if options.ascii_only else _SHADES)
    half = not options.ascii_only
    ramps = {
        "256": (_HIDDEN_OF_256, _DIVERGING_OF_256 if signed else _SEQUENTIAL_OF_256),
        "standard": (_HIDDEN_OF_16, _DIVERGING_OF_16 if signed else _SEQUENTIAL_OF_16),
    }
    system = "standard" if console.color_system == "windows" else console.color_system
    if system in ramps:
        hidden, numbers = ramps[system]
        ramp = [Color.from_ansi(number) for number in numbers]

        def of_few(share: float) -> Color:
            return Color.from_ansi(hidden) if math.isnan(share) else ramp[round(share * (len(ramp) - 1))]

        return _Brush(of_few, half)
    palette = diverging if signed else sequential

    def of_many(share: float) -> Color:
        if math.isnan(share):
            return _HIDDEN
        red, green, blue = (round(255 * channel) for channel in palette(share))
        return Color.from_rgb(red, green, blue)

    return _Brush(of_many, half)


# One map, with axes


def _alone(
    picture: HeatmapPicture, brush: _Brush, width: int, height: int | None
) -> tuple[list[Text], list[AttentionMap]]:
    shown = picture.maps[0]
    margin = _margin(shown.query_labels is not None and not shown.reduced, shown.queries[-1])
    columns = max(1, int((width - margin) * brush.across)) if not brush.half else max(1, width - margin)
    lines = None if height is None else max(2, height - _OTHER_LINES)
    shown = _fewer(shown, None if lines is None else lines * brush.down, columns)
    shares = picture.fitted.shares(shown.cells)
    whole = not brush.half or lines is None or len(shares) <= lines
    # A line a query where there is room, else two; and columns as wide as their labels, where those fit.
    labels = _row_labels(shown)
    names = _column_names(shown)
    widest = max((cell_len(text) for name in names for text in name), default=0) + 1
    square = 2 if whole else 1
    room = (width - cell_len(labels[0]) - 1) // shares.shape[1]
    wide = max(1, min(room, max(square, widest if whole and not shown.reduced else square)))
    painted = brush.lines(shares, wide, whole=whole)
    kept = labels if len(painted) == len(labels) else _thinned(labels[::2], 2)
    blank = " " * cell_len(labels[0])
    rows = [Text(label + " ").append_text(line) for label, line in zip(kept, painted, strict=True)]
    title = f"{shown.name} · {shown.values} · {shown.pattern} · {_sizes(shown)}"
    return [Text(title, style="bold"), *(Text(f"{blank} {line}") for line in _ticks(names, wide)), *rows], [shown]


def _sizes(shown: AttentionMap) -> str:
    noun = "keys" if isinstance(shown.keys, range) else "global keys"
    return f"queries {len(shown.queries)} ↓ × {noun} {len(shown.keys)} →"


def _margin(labels: bool, last: int = 0) -> int:
    """Characters beside the rows, up to the position ``last``."""
    return max(8, len(f"{last}") + 2) + (_TOKEN_CELLS if labels else 0)


def _fewer(shown: AttentionMap, rows: int | None, columns: int) -> AttentionMap:
    """The map in at most so many cells, by the rule that made it: the largest, or the mass."""
    from dataclasses import replace

    cells = shown.cells
    P, P_ = cells.shape
    rows = P if rows is None else min(P, rows)
    columns = min(P_, columns)
    if (rows, columns) == (P, P_):
        return shown
    down, across = (np.arange(bins) * size // bins for bins, size in ((rows, P), (columns, P_)))
    hidden = np.isnan(cells)
    if shown.reduced and shown.reduce == "mass":
        summed = np.add.reduceat(np.where(hidden, 0, cells), across, axis=1)
        seeing = np.add.reduceat((~hidden).any(1).astype(float), down)
        fewer = np.add.reduceat(summed, down, axis=0) / np.maximum(seeing, 1)[:, None]
    else:
        most = np.maximum.reduceat(np.where(hidden, -np.inf, cells), across, axis=1)
        fewer = np.maximum.reduceat(most, down, axis=0)
    seen = np.logical_or.reduceat(np.logical_or.reduceat(~hidden, across, axis=1), down, axis=0)
    return replace(shown, cells=np.where(seen, fewer, np.nan))


def _row_labels(shown: AttentionMap) -> list[str]:
    """The first query of each row and, where a row is one query, its token; all of one width."""
    rows = shown.cells.shape[0]
    firsts = [shown.queries[i * len(shown.queries) // rows] for i in range(rows)]
    digits = len(f"{firsts[-1]}")
    if shown.query_labels is None or len(shown.queries) != rows:
        return _thinned([f"{first:>{max(digits, 3)}}" for first in firsts], 1 if rows <= 32 else 2)
    tokens = [short(token, _TOKEN_CELLS) for token in shown.query_labels]
    width = max(map(cell_len, tokens))
    return [f"{first:>{digits}} {set_cell_size(token, width)}" for first, token in zip(firsts, tokens, strict=True)]


def _thinned(labels: Sequence[str], step: int) -> list[str]:
    return [label if i % step == 0 else " " * cell_len(label) for i, label in enumerate(labels)]


def _column_names(shown: AttentionMap) -> list[tuple[str, ...]]:
    """What stands over each column: the first key and, where a column is one key, its token."""
    columns = shown.cells.shape[1]
    firsts = [f"{shown.keys[j * len(shown.keys) // columns]}" for j in range(columns)]
    if shown.key_labels is None or len(shown.keys) != columns:
        return [(first,) for first in firsts]
    tokens = [short(token, _COLUMN_TOKEN_CELLS) for token in shown.key_labels]
    return list(zip(firsts, tokens, strict=True))


def _ticks(names: Sequence[tuple[str, ...]], width: int) -> list[str]:
    """Lines of labels over columns of ``width`` characters, thinned by round steps so that no two touch."""

    def fits(step: int) -> bool:
        gap = 2 if width == 1 else 1  # dense labels read as one
        return all(max(map(cell_len, names[i])) + gap <= step * width for i in range(0, len(names), step))

    steps = (step * 10**power for power in range(10) for step in (1, 2, 5))
    stride = next(step for step in steps if fits(step) or step >= len(names))
    lines = []
    for part in range(len(names[0])):
        line = ""
        for i in range(0, len(names), stride):
            line = set_cell_size(line, i * width) + names[i][part]
        lines.append(line)
    return lines


# Several maps, a panel each


def _grid(width: int, height: int | None, count: int, across: float, down: int) -> tuple[int, int]:
    """Panels beside each other, and the most cells a side that each has room for."""

    def cells(columns: int) -> int:
        wide = (width + 1) // columns - 1
        rows = math.ceil(count / columns)
        lines = (height - 6) // rows - 1 if height is not None else wide
        return int(min(wide * across, lines * down))

    best = max(range(1, count + 1), key=lambda columns: (min(cells(columns), 64), -columns))
    if cells(best) >= _LEAST_PANEL and height is not None:
        return best, cells(best)
    # As many as there is width for; the lines run on.
    wanted = 16 if height is None else _LEAST_PANEL
    columns = max(1, min(count, int((width + 1) // (wanted / across + 1))))
    return columns, max(1, int(((width + 1) // columns - 1) * across)) if height is None else wanted


def _side_by_side(
    picture: HeatmapPicture, brush: _Brush, width: int, height: int | None
) -> tuple[list[Text], list[AttentionMap]]:
    columns, cells = _grid(width, height, len(picture.maps), brush.across, brush.down)
    maps = [_fewer(shown, cells, cells) for shown in picture.maps]
    first = maps[0]
    rows, across = first.cells.shape
    most = max(1, (width + 1) // columns - 1)
    # Few keys are drawn wider, and few queries a line each, where that leaves the grid as it is.
    lines = math.ceil(len(maps) / columns)
    whole = not brush.half or height is None or (rows + 1) * lines + 6 <= height
    wide = max(1, min(most // across, 2 if whole else 1)) if across > 3 else max(1, min(most // across, 4))
    panel = max(wide * across, min(most, max(cell_len(shown.heads_name) for shown in maps)))
    columns = max(columns, min(len(maps), (width + 1) // (panel + 1)))  # small maps leave room for more
    title = f"{grid_name(maps)} · {first.values} · {first.pattern} · {_sizes(first)}"
    out = [Text(title, style="bold")]
    for start in range(0, len(maps), columns):
        beside = maps[start : start + columns]
        names = Text(" ".join(set_cell_size(_heading(shown, panel), panel) for shown in beside))
        painted = [brush.lines(picture.fitted.shares(shown.cells), wide, whole=whole) for shown in beside]
        out.append(names)
        for parts in zip(*painted, strict=True):
            line = Text()
            for part in parts:
                line.append_text(part).append(" " * (panel - part.cell_len + 1))
            out.append(line)
    return out, maps


def _heading(shown: AttentionMap, width: int) -> str:
    """What stands over a panel: the head and, of a column that takes most, its share; as much as there is room for."""
    sink = find_sink(shown)
    long = shown.heads_name if sink is None else f"{shown.heads_name} ▼{percent(sink.share)}"
    return next((text for text in (long, shown.heads_name) if cell_len(text) <= width), f"{shown.head}")


# What the colors mean


def _legend(fitted: FittedScaling, maps: Sequence[AttentionMap], brush: _Brush, width: int) -> Iterable[Text]:
    first = maps[0]
    size = min(_BAR, max(8, width // 3))
    bar = Text()
    for share in np.linspace(0, 1, size).tolist():
        bar.append_text(brush.cell(share, share))
    label = LABELS.get(first.values, first.values) + fitted.suffix
    yield bar.append(f"  {label}")
    ends = [f"{fitted.value_at(share):.3g}" for share in (0, 0.5, 1)]
    ends[0] = ("≤ " if fitted.extend in ("min", "both") else "") + ends[0]
    ends[2] = ("≥ " if fitted.extend in ("max", "both") else "") + ends[2]
    room = size - len(ends[0]) - len(ends[2])
    middle = ends[1].center(room) if len(ends[1]) + 2 <= room else " " * max(1, room)
    values = Text(ends[0] + middle + ends[2])
    if any(np.isnan(shown.cells).any() for shown in maps):
        blank = Text("blank:") if brush.color is None else brush.cell(math.nan, math.nan, 2)
        values.append("  ").append_text(blank).append(" not visible")
    sink = find_sink(first) if len(maps) == 1 else None
    if sink is not None:
        values.append(
            f"  ▼ {sink.short} {'' if sink.exact else 'leads '}{percent(sink.share)}{'' if sink.exact else ' of rows'}"
        )
    row = row_note(maps) if len(maps) == 1 else None
    yield values
    if row is not None:
        yield Text(f"◀ {row}")
    if first.reduced:
        what = "the largest of its pairs" if first.reduce == "max" else "the mass of its pairs"
        yield Text(f"{cell_words(first.cell_size)} pairs, {what}")


def _plain(line: Text) -> Text:
    """A line for a terminal that knows no letters but ASCII."""
    plain = line.plain.translate(_ASCII)
    # A letter that is two characters wide leaves two marks, so that what follows stays where it is.
    letters = [letter if letter.isascii() else "?" * cell_len(letter) for letter in plain]
    if all(len(letter) == 1 for letter in letters):
        line.plain = "".join(letters)
        return line
    return Text("".join(letters), no_wrap=True, overflow="crop")
