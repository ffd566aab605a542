"""Where everything of a figure stands: computed from the sizes of its letters, in inches, and never relaxed.

A :class:`Sheet` is a grid of panels of one size, with room for what is written around them. Only its last row may be
short; the color bar takes the room that is left there, or else stands beside the panels.
"""

from __future__ import annotations

import math
import re
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, MaxNLocator

from attnviz.base.labels import one_line
from attnviz.base.words import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

LINE = 1.2
"""Of a line of text, in heights of its letters."""

SMALLEST = 4.5
"""Points of labels, where smaller ones leave each cell its own; below, labels are thinned."""

_SCREEN = 100.0  # dots per inch at which letters are measured
STEPS: tuple[int, ...] = tuple(factor * 10**power for power in range(10) for factor in (1, 2, 5))
"""From label to label, where there is no room for all."""

_MOST_THINNED = 20  # labels on an axis that cannot show them all: more say no more, and take longer to draw
_TICK = 5.5 / 72  # inches of a tick and its pad
EDGE = 0.06
"""Inches at the border of a figure."""


def points(name: str) -> float:
    """The size in points of what a setting names, such as ``axes.titlesize``."""
    settings: dict[Any, Any] = mpl.rcParams
    return float(FontProperties(size=settings[name]).get_size_in_points())


def line(name: str, count: float = 1) -> float:
    """Inches of lines of text of the size that a setting names."""
    return count * LINE * points(name) / 72


def title_pad() -> float:
    """Points from a panel up to its title's base that keep a long one above the last numbers of axes and color bar."""
    return 0.3 * points("axes.titlesize") + 0.5 * points("ytick.labelsize")


def width_of(text: str, size: float) -> float:
    """Inches across of a text of a size in points, in the present fonts, where it is widest: on a screen."""
    up = math.ceil(round(10 * size, 6)) / 10  # letters have whole pixels: a little larger may be a fifth wider
    return max(_inches(part, up, tuple(mpl.rcParams["font.family"])) for part in text.split("\n"))


@lru_cache(maxsize=65536)
def _inches(text: str, size: float, family: tuple[str, ...]) -> float:
    font = FontProperties(family=list(family), size=size)
    plain = printable(text.replace(r"\$", "$")) or " "  # as it is drawn
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that no font has, which is told where they are drawn
        return float(_renderer().get_text_width_height_descent(plain, font, False)[0]) / _SCREEN


@cache
def _renderer() -> Any:
    from matplotlib.backends.backend_agg import RendererAgg

    make: Any = RendererAgg  # untyped
    return make(1, 1, _SCREEN)


def wrapped(text: str, inches: float, size: float) -> list[str]:
    """A text in lines of so many inches at the most; a word that is longer is broken after a separator, where it has one
    in time (``a_long_name.`` / ``safetensors``), else between letters.
    """
    lines = [""]
    for word in text.replace("\n", " \n ").split(" "):
        if word == "\n":
            lines.append("")
            continue
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if width_of(longer, size) <= inches:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for part in _SEPARATED.findall(word):
            whole = width_of(part, size) <= inches
            if lines[-1] and (not whole or width_of(lines[-1] + part, size) > inches):
                lines.append("")
            for piece in [part] if whole else part:
                if lines[-1] and width_of(lines[-1] + piece, size) > inches:
                    lines.append("")
                lines[-1] += piece
    return lines


def size_for(text: str, inches: float, setting: str) -> float:
    """Points of a text to wrap: what a setting names, or so few, down to :data:`SMALLEST`, that no part of a word is broken."""
    size = points(setting)
    widest = max((width_of(part, size) for word in text.split() for part in _SEPARATED.findall(word)), default=0.0)
    return size if widest <= inches else max(SMALLEST, 0.99 * size * inches / widest)


_SEPARATED = re.compile(r"[^-_./\\:,;=]+[-_./\\:,;=]*|[-_./\\:,;=]+")


def caption_lines(text: str | None, inches: float) -> list[str]:
    """A caption in lines that fit a figure ``inches`` across; none where there is no caption."""
    # With room to spare: at few dots per inch letters are wider.
    return [] if text is None else wrapped(text, 0.94 * (inches - 2 * EDGE), points("figure.labelsize"))


def is_strip(size: tuple[int, int]) -> bool:
    """Whether a map is so long one way that its pairs can't be drawn as squares."""
    return not 1 / 3 <= size[0] / size[1] <= 3


@dataclass(frozen=True)
class Ticks:
    """What is written along an axis.

    Args:
        locator, formatter: where, and what.
        size: points of the letters.
        upright: whether labels are turned, below a map.
        room: inches that they take beside the map.
        beyond: inches that the first or the last of them may reach past the map's ends.
    """

    locator: Locator
    formatter: FuncFormatter
    size: float
    upright: bool
    room: float
    beyond: float


def ticks_of(positions: Sequence[int], labels: Sequence[str] | None, inches: float, *, horizontal: bool) -> Ticks:
    """Ticks at tokens: each has its label where letters of 4.5 points leave room, else round steps; positions alone
    get round numbers.

    Args:
        positions, labels: of the axis.
        inches: its length.
        horizontal: whether it is below the map.
    """
    size = points("xtick.labelsize" if horizontal else "ytick.labelsize")
    if labels is None and isinstance(positions, range):
        start = positions.start
        widest = width_of(f"{positions[-1]}", size)
        each = 1.6 * widest if horizontal else 3 * LINE * size / 72
        locator = MaxNLocator(
            nbins=max(1, min(10, int(inches / each))), integer=True, steps=[1, 2, 5, 10], min_n_ticks=1
        )
        formatter = FuncFormatter(lambda x, _: f"{round(x) + start}" if float(x).is_integer() else "")
        return Ticks(locator, formatter, size, False, _TICK + (LINE * size / 72 if horizontal else widest), widest / 2)
    count = len(positions)

    def text(n: int) -> str:
        return f"{positions[n]}" if labels is None else label_text(positions[n], labels[n])

    cell = inches * 72 / count
    if SMALLEST <= cell / LINE < size:
        size = cell / LINE
    stride = _stride(count, inches * 72 / (size * LINE * 0.999))
    at = range(0, count, stride)
    widest = max((width_of(text(n), size) for n in at), default=0.0)
    # Words that are thinned would reach into the next panel, were they not turned.
    upright = horizontal and (widest * 72 + 3 > stride * cell or (stride > 1 and labels is not None))
    across = LINE * size / 72 if horizontal and not upright else widest
    formatter = FuncFormatter(lambda x, _: text(round(x)) if 0 <= round(x) < count else "")
    beyond = max(0.0, (widest if horizontal and not upright else LINE * size / 72) / 2 - cell / 144)
    return Ticks(FixedLocator(list(at)), formatter, size, upright, _TICK + across, beyond)


def label_axis(axis: Axis, positions: Sequence[int], labels: Sequence[str] | None) -> None:
    """Ticks of an axis of given Axes: :func:`ticks_of` its length."""
    figure = axis.axes.get_figure(root=True)
    assert figure is not None
    box, horizontal = axis.axes.get_position(), axis is axis.axes.xaxis
    inches = box.width * figure.get_figwidth() if horizontal else box.height * figure.get_figheight()
    ticks = ticks_of(positions, labels, float(inches), horizontal=horizontal)
    axis.set_major_locator(ticks.locator)
    axis.set_major_formatter(ticks.formatter)
    axis.set_tick_params(labelbottom=True, labelleft=True, labelsize=ticks.size)
    if horizontal:
        axis.set_tick_params(rotation=90 if ticks.upright else 0)


def _stride(count: int, room: float) -> int:
    """The least round step (1, 2, 5, 10, ...) that leaves each label its line, and a thinned axis at most 20."""
    need = count / max(room, 1)
    if need > 1:
        need = max(need, count / _MOST_THINNED)
    return next(step for step in STEPS if step >= need)


@lru_cache(maxsize=65536)
def label_text(position: int, token: str) -> str:
    """``5  the``: a position and its token on one line, not too long, as matplotlib draws it.

    Its dollars are no mathematics, and the position stays in front of tokens that run from right to left, which
    matplotlib 3.11 and newer put in order.
    """
    plain = one_line(token)
    plain = plain if len(plain) <= 14 else plain[:13] + "…"
    text = f"{position}  " + plain.replace("$", r"\$")
    from_right = any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in plain)
    return _LEFT_TO_RIGHT + text if from_right else text


_LEFT_TO_RIGHT = "\u200e"


@dataclass(frozen=True)
class Around:
    """Inches around a grid of panels, and between them.

    Args:
        left, right, top, bottom: around the grid, labels and titles of the grid included.
        above: each panel, for its own title.
        gap: between two panels of a row, and between two rows beside ``above``.
    """

    left: float
    right: float
    top: float
    bottom: float
    above: float = 0.0
    gap: float = 0.1


@dataclass(frozen=True)
class Sheet:
    """A grid of panels in a figure, all places in inches from its lower left corner.

    Args:
        count, columns: how many panels there are, and how many of them beside each other.
        panel: width and height of each.
        around: what is around them.
    """

    count: int
    columns: int
    panel: tuple[float, float]
    around: Around

    @property
    def rows(self) -> int:
        return math.ceil(self.count / self.columns)

    @property
    def size(self) -> tuple[float, float]:
        """Inches of the figure."""
        wide, tall = self.inner
        return self.around.left + wide + self.around.right, self.around.bottom + tall + self.around.top

    @property
    def inner(self) -> tuple[float, float]:
        """Inches of all panels together."""
        (width, height), gap = self.panel, self.around.gap
        wide = self.columns * width + (self.columns - 1) * gap
        tall = self.rows * (height + self.around.above) + (self.rows - 1) * gap
        return wide, tall

    def box(self, n: int) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of a panel."""
        row, column = divmod(n, self.columns)
        (width, height), gap = self.panel, self.around.gap
        left = self.around.left + column * (width + gap)
        top = self.around.bottom + self.inner[1] - row * (height + self.around.above + gap)
        return left, top - self.around.above - height, width, height

    @property
    def empty(self) -> tuple[float, float, float, float] | None:
        """The room beside a last row that is short."""
        there = self.count - (self.rows - 1) * self.columns
        if there == self.columns or self.rows == 1:
            return None
        left, bottom, width, height = self.box(self.count - 1)
        start = left + width + self.around.gap
        return start, bottom, self.around.left + self.inner[0] - start, height + self.around.above

    def with_room(self, above: Sequence[str], below: Sequence[str]) -> Sheet:
        """The same with room for the lines of a title and of a caption."""
        top = line("figure.titlesize", len(above)) + 0.06 if above else 0.0
        bottom = line("figure.labelsize", len(below)) + 0.08 if below else 0.0
        around = replace(self.around, top=self.around.top + top, bottom=self.around.bottom + bottom)
        return replace(self, around=around)

    def is_left(self, n: int) -> bool:
        return n % self.columns == 0

    def is_lowest(self, n: int) -> bool:
        """Whether no panel is below it."""
        return n + self.columns >= self.count


def fitted_to(width: float | None, sheet: Callable[[float | None], Sheet]) -> Sheet:
    """The sheet whose figure is ``width`` inches across, of what makes one of the width of a panel; None is its own."""
    if width is None:
        return sheet(None)
    found = sheet(None)
    for _ in range(3):  # labels may change with the panels' size
        columns = found.columns
        rest = found.size[0] - columns * found.panel[0]
        found = sheet(max((width - rest) / columns, 0.05))
    rest = width - found.size[0]  # what rounding and other labels leave
    if rest < 0:
        found = sheet(max(found.panel[0] + rest / found.columns, 0.05))
        rest = width - found.size[0]
    return replace(found, around=replace(found.around, right=found.around.right + max(rest, 0)))


def place(ax: Axes, box: tuple[float, float, float, float], size: tuple[float, float]) -> None:
    """Puts Axes where a box in inches is, in a figure of this size."""
    ax.set_position((box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1]))


def write(figure: Figure, x: float, y: float, text: str, setting: str, **how: Any) -> Any:
    """Writes a text at a place in inches, in the size that a setting names; its dollars are dollars."""
    width, height = figure.get_size_inches()
    return figure.text(x / width, y / height, text, fontsize=points(setting), parse_math=False, **how)


def grow(figure: Figure, *, above: float = 0.0, below: float = 0.0) -> None:
    """Makes a figure higher; all that is in it keeps its size and its place among the rest."""
    width, height = (float(side) for side in figure.get_size_inches())
    tall = height + above + below
    for ax in figure.axes:
        box = ax.get_position(original=True)
        ax.set_position((box.x0, (box.y0 * height + below) / tall, box.width, box.height * height / tall))
    for text in figure.texts:
        x, y = text.get_position()
        text.set_position((x, (y * height + below) / tall))
    figure.set_size_inches(width, tall)
