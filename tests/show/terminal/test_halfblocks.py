"""Heatmaps in the terminal: each cell the color of its value, the picture no larger than the window."""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
import pytest
from rich.cells import cell_len
from rich.color import Color
from rich.console import Console
from rich.text import Text

import attnviz
from attnviz.attention.patterns import Causal, Full
from attnviz.maps.map import AttentionMap
from attnviz.show.figures.style import colormap, house_style
from attnviz.show.scale.colors import diverging, sequential
from attnviz.show.scale.scaling import Scaling
from attnviz.show.terminal import halfblocks
from attnviz.show.terminal.halfblocks import HeatmapPicture, fitting_pixels

HIDDEN = (78, 78, 78)


def printed(picture: HeatmapPicture, width: int = 80, *, encoding: str = "utf-8", **options: object) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    console = Console(file=stream, width=width, **options)
    console.print(picture)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


def in_color(picture: HeatmapPicture, width: int = 80, system: str = "truecolor") -> str:
    return printed(picture, width, force_terminal=True, color_system=system, no_color=False)


def map_of(cells: object, **changes: object) -> AttentionMap:
    cells = np.asarray(cells, dtype=float)
    sizes = {"queries": range(cells.shape[0]), "keys": range(cells.shape[1])}
    return AttentionMap(cells, **{"values": "weights", "head": 3, "pattern": "full", **sizes, **changes})


def pixels(line: str, skip: int) -> list[tuple[tuple[int, ...] | None, tuple[int, ...] | None]]:
    """The color of the upper and of the lower half of each character behind the first ``skip``."""
    found = []
    text = Text.from_ansi(line)
    for segment in text.render(Console(color_system="truecolor")):
        style = segment.style
        for letter in segment.text.rstrip("\n"):
            color, back = (
                None if one is None or one.is_default else tuple(one.get_truecolor())
                for one in ((style.color, style.bgcolor) if style else (None, None))
            )
            found.append({"▀": (color, back), "█": (color, color), " ": (back, back)}.get(letter, (None, None)))
    return found[skip:]


def near(one: tuple[int, ...], share: float, palette: str) -> bool:
    with house_style(theme="dark"):
        expected = [255 * channel for channel in colormap(palette, "weights")(float(share))[:3]]
    return max(abs(a - b) for a, b in zip(one, expected, strict=True)) <= 4


# Colors


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(("palette", "name"), [(sequential, "ink"), (diverging, "poles")])
def test_palettes_are_those_of_figures(palette, name):
    for share in np.linspace(0, 1, 256):
        assert near(tuple(255 * channel for channel in palette(float(share))), float(share), name)


def luminance(number: int) -> float:
    channels = [channel / 255 for channel in Color.from_ansi(number).get_truecolor()]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_ramps_of_few_colors_only_rise():
    ramp = [luminance(number) for number in halfblocks._SEQUENTIAL_OF_256]
    assert ramp == sorted(ramp)
    whole = halfblocks._DIVERGING_OF_256
    middle = whole.index(231)
    for side in (whole[: middle + 1], whole[: middle - 1 : -1]):
        ramp = [luminance(number) for number in side]
        assert ramp == sorted(ramp)
    assert len(whole) % 2 == 1  # 0 has a color of its own


# Cells


def test_two_cells_a_character():
    cells = np.array([[0.0, 0.5, 1.0], [0.25, math.nan, 0.75], [1.0, 0.0, 0.125]])
    shown = map_of(np.repeat(cells, 20, axis=0)[:, :3])  # 60 rows: no line each in 24 lines
    lines = in_color(HeatmapPicture(shown, height=40)).splitlines()
    first = pixels(lines[2], 4)
    assert [near(up, share, "ink") for (up, _), share in zip(first, [0, 0.5, 1], strict=True)] == [True] * 3


@pytest.mark.parametrize("height", [12, 24, 100])
def test_each_cell_has_the_color_of_its_value(height):
    shown = attnviz.attention_map(attnviz.synthesize(tokens=12), 2, Causal())
    shown = map_of(shown.cells)  # without tokens
    lines = in_color(HeatmapPicture(shown, height=height)).splitlines()
    whole = height - 8 >= 12
    expected = shown.cells / np.nanmax(shown.cells)
    if height == 12:  # room for 4 lines: 8 rows of cells
        starts = [i * 12 // 8 for i in range(8)] + [12]
        expected = np.stack([np.fmax.reduce(expected[a:b]) for a, b in itertools.pairwise(starts)])
    painted = [pixels(line, 4) for line in lines[2 : 2 + (len(expected) if whole else len(expected) // 2)]]
    for i, row in enumerate(expected):
        wide = len(painted[0]) // 12
        for j, share in enumerate(row):
            upper, lower = painted[i if whole else i // 2][j * wide]
            color = upper if whole or i % 2 == 0 else lower
            assert color is not None
            assert color == HIDDEN if math.isnan(share) else near(color, share, "ink")


def test_logits_are_drawn_in_two_directions():
    lines = in_color(HeatmapPicture(map_of([[-2.0, 0.0, 1.0]], values="logits"))).splitlines()
    colors = pixels(lines[2], 4)
    wide = len(colors) // 3
    assert [near(colors[j * wide][0], share, "poles") for j, share in enumerate((0, 0.5, 0.75))] == [True] * 3


def test_the_scale_is_the_one_asked_for():
    shown = map_of([[0.0, 0.25, 1.0]])
    colors = pixels(in_color(HeatmapPicture(shown, Scaling("power"))).splitlines()[2], 4)
    assert near(colors[len(colors) // 3][0], 0.5, "ink")


@pytest.mark.parametrize(("system", "hidden"), [("256", 239), ("standard", 8)])
def test_few_colors_keep_the_order(system, hidden):
    """A larger value never has a darker color."""
    ramp = halfblocks._SEQUENTIAL_OF_256 if system == "256" else halfblocks._SEQUENTIAL_OF_16
    shown = map_of([[*np.linspace(0, 1, 30), math.nan]])
    line = in_color(HeatmapPicture(shown), system=system).splitlines()[2]
    numbers = []
    for segment in Text.from_ansi(line).render(Console()):
        if segment.style and segment.style.color is not None:
            numbers += [segment.style.color.number] * len(segment.text.strip("\n"))
    assert numbers[-1] == hidden
    places = [ramp.index(number) for number in numbers[:-2]]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (0, len(ramp) - 1)


# Without color


@pytest.mark.parametrize(("encoding", "letters"), [("utf-8", "·░▒▓█"), ("ascii", ".:-=+*#%@")])
def test_without_color_darker_shades_are_larger_values(encoding, letters):
    shown = map_of([[*np.linspace(0, 1, 12), math.nan]])
    text = printed(HeatmapPicture(shown), encoding=encoding, no_color=True)
    row = text.splitlines()[2][4:]
    places = [letters.index(letter) for letter in row]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (0, len(letters) - 1)
    assert "blank: not visible" in text


def test_a_pipe_has_no_escape_codes():
    assert "\x1b" not in printed(HeatmapPicture(map_of([[0.5, 1.0]])))


def test_letters_that_the_encoding_lacks_keep_their_room():
    shown = map_of(np.eye(2), query_labels=["猫", "é"], key_labels=["猫", "é"])
    unicode = printed(HeatmapPicture(shown), no_color=True).splitlines()
    ascii_ = printed(HeatmapPicture(shown), encoding="ascii", no_color=True).splitlines()
    assert ascii_[0] == "head 3 - weights - full - queries 2 v x keys 2 >"
    assert [cell_len(line) for line in ascii_[:5]] == [cell_len(line) for line in unicode[:5]]
    assert ascii_[3].startswith("0 ??")


# Room


@pytest.mark.sweep(keep=7)
@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (40, 16), (120, None)])
@pytest.mark.parametrize("tokens", [3, 16, 40, 700])
@pytest.mark.parametrize("heads", [1, 4, 12])
def test_a_picture_fits_the_window(width, height, tokens, heads, color):
    inputs = attnviz.synthesize(heads=heads, tokens=tokens, head_dim=4)
    cells = fitting_pixels(width, height, color=color, maps=heads, labels=tokens == 16)
    maps = [attnviz.attention_map(inputs, head, Full(), pixels=cells) for head in range(heads)]
    picture = HeatmapPicture(maps, height=height)
    text = in_color(picture, width) if color else printed(picture, width, no_color=True)
    lines = [Text.from_ansi(line).plain for line in text.splitlines()]
    assert max(map(cell_len, lines)) <= width
    small = (width, height) == (40, 16) or (heads == 12 and height == 24 and not color)
    if height is not None and not (heads > 1 and small):  # where a head has no room for 8 cells, the grid runs on
        assert len(lines) < height
    assert lines[-1].startswith("1 cell ") == (cells < tokens)


def test_the_same_cells_that_fit_are_drawn():
    """What is reduced for the window is not reduced again."""
    inputs = attnviz.synthesize(heads=1, tokens=500, head_dim=4)
    cells = fitting_pixels(80, 24)
    shown = attnviz.attention_map(inputs, 0, Full(), pixels=cells)
    assert halfblocks._alone(HeatmapPicture(shown), halfblocks._Brush(lambda _: Color.from_ansi(1), True), 80, 24)[
        1
    ] == [shown]


def test_a_map_that_is_too_large_is_reduced_by_its_own_rule():
    inputs = attnviz.synthesize(heads=1, tokens=64, head_dim=4)
    for reduce in ("max", "mass"):
        large = attnviz.attention_map(inputs, 0, Causal(), reduce=reduce, pixels=32)
        small = attnviz.attention_map(inputs, 0, Causal(), reduce=reduce, pixels=8)
        np.testing.assert_allclose(halfblocks._fewer(large, 8, 8).cells, small.cells, atol=1e-6)


# Labels


def test_tokens_stand_beside_their_rows_and_over_their_columns():
    tokens = ["[CLS]", "猫", "␣sat", "on", "supercalifragilistic"]
    shown = map_of(np.eye(5), query_labels=tokens, key_labels=tokens)
    lines = printed(HeatmapPicture(shown), no_color=True).splitlines()
    assert lines[2].split() == ["[CLS]", "猫", "␣sat", "on", "superca…"]
    assert [line.split()[1] for line in lines[3:8]] == ["[CLS]", "猫", "␣sat", "on", "supercali…"]
    for j, line in enumerate(lines[3:8]):  # the diagonal is under its token
        left = cell_len(line[: line.index("█")])
        label = lines[2].split()[j]
        assert left == cell_len(lines[2][: lines[2].index(label)])


def test_labels_over_columns_do_not_touch():
    names = [(f"{i}", "token") for i in range(0, 3000, 37)]
    for width in (1, 2, 5, 7):
        positions, tokens = halfblocks._ticks(names, width)
        first = positions.split()
        assert first[0] == "0"
        assert len(tokens.split()) == len(first)
        assert all(f"{int(a)}" == a for a in first)


def test_the_legend_says_the_ends_and_what_lies_beyond():
    shown = map_of([[*np.linspace(0, 0.1, 300), 1.0]])
    text = printed(HeatmapPicture(shown, Scaling(robust=True)), width=60, no_color=True)
    assert "weight (softmax)" in text
    assert "≥ 0.0993" in text  # the 99th percentile


@pytest.mark.parametrize("width", range(24, 120, 7))
def test_the_numbers_of_the_legend_stand_apart(width):
    shown = map_of([[0.002786, 0.0279, 0.0123]])
    below = printed(HeatmapPicture(shown, Scaling("log")), width=width, no_color=True).splitlines()[-1]
    assert below.split()[0] == "0.00279"
    assert below.split()[-1] == "0.0279"
    assert len(below.split()) in (2, 3)


# A column that takes most


def sink_cells(share: float = 0.6, size: int = 10) -> np.ndarray:
    cells = np.full((size, size), (1 - share) / (size - 1))
    cells[:, 2] = share
    return cells


def test_a_column_that_takes_most_is_named_with_its_share():
    shown = map_of(sink_cells(), key_labels=["a", "b", "[CLS]", *"defghij"])
    assert "▼ [CLS] 60%" in printed(HeatmapPicture(shown), no_color=True)
    assert "v [CLS] 60%" in printed(HeatmapPicture(shown), no_color=True, encoding="ascii")
    assert "▼" not in printed(HeatmapPicture(map_of(np.full((10, 10), 0.1))), no_color=True)


def test_in_a_grid_each_head_has_its_own():
    maps = [map_of(sink_cells(share), head=head) for head, share in enumerate((0.6, 0.1, 0.75))]
    text = printed(HeatmapPicture(maps), 80, no_color=True)
    assert "head 0 ▼60%" in text
    assert "head 1 " in text
    assert "head 1 ▼" not in text
    assert "head 2 ▼75%" in text
