"""A lone bright cell is in the finished file, whatever the figure: cells are planted, and counted in the pixels."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from attnviz.maps.layers import OverviewRow
from attnviz.maps.map import AttentionMap
from attnviz.maps.marginals import Marginals
from attnviz.maps.reasons import ReasonMap
from attnviz.show.figures.cells import CellImage, Pixels, most_cells
from attnviz.show.figures.detail import detail
from attnviz.show.figures.difference import comparison_inches, difference_figure
from attnviz.show.figures.heatmap import heads_grid, heatmap, panel_inches
from attnviz.show.figures.outline import outline, outline_legend
from attnviz.show.figures.overlay import overlays
from attnviz.show.figures.overview import overview_figure, panel_pixels
from attnviz.show.figures.pattern import most_inches, pattern_figure, story_figure
from attnviz.show.figures.scales import ColorScale
from attnviz.show.figures.statistics import statistics_figure
from attnviz.show.figures.strip import strip, strips
from attnviz.show.figures.style import PAPERS, house_style, save_figure
from attnviz.show.figures.vectors import Words
from attnviz.show.notebook import map_html
from tests import planted

BRIGHT, ORANGE, RED = planted.BRIGHT, (230, 159, 0), (86, 11, 26)  # a global key's, and the last of poles
SCREEN = 96  # dots per inch at 100 %

# How cells share pixels


@st.composite
def grids(draw: Any) -> tuple[np.ndarray, Pixels]:
    rows, columns, height, width = (draw(st.integers(1, 40)) for _ in range(4))
    values = draw(st.permutations(range(rows * columns)))
    cells = np.array(values, dtype=float).reshape(rows, columns) - rows * columns // 2
    cells[draw(st.integers(0, rows - 1)) :, draw(st.integers(0, columns - 1)) :] = np.nan
    first, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    part = range(first, draw(st.integers(first + 1, height))), range(left, draw(st.integers(left + 1, width)))
    return cells, Pixels(height, width, *part)


@pytest.mark.sweep
@given(grids())
@settings(max_examples=200, deadline=None)
def test_a_pixel_shows_the_most_of_its_cells_and_no_cell_is_lost(drawn):
    cells, pixels = drawn
    groups = [min(count, size) for count, size in zip(cells.shape, (pixels.height, pixels.width), strict=True)]

    def members(count: int, groups: int, size: int, pixel: int) -> list[int]:
        """The cells of a pixel: those whose middle lies in the group at the pixel's middle."""
        group = next(g for g in range(groups) if (g + 1) * 2 * size >= (2 * pixel + 1) * groups)
        return [c for c in range(count) if group * 2 * count <= (2 * c + 1) * groups < (group + 1) * 2 * count]

    for most, choose, both_ways in ((np.nanmax, np.fmax, False), (lambda one: one[abs(one).argmax()], None, True)):
        assert choose is not None or both_ways
        found = pixels.paint(cells, lambda merged: merged, both_ways=both_ways)
        assert found.shape == (len(pixels.rows), len(pixels.columns))
        for (i, j), value in np.ndenumerate(found):
            down = members(cells.shape[0], groups[0], pixels.height, pixels.rows[i])
            across = members(cells.shape[1], groups[1], pixels.width, pixels.columns[j])
            mine = cells[np.ix_(down, across)].ravel()
            mine = mine[np.isfinite(mine)]
            if both_ways and len(mine):
                assert abs(value) == abs(most(mine))
            else:
                assert np.array_equal(value, most(mine) if len(mine) else np.nan, equal_nan=True)


@given(st.integers(1, 300), st.integers(1, 300))
@settings(max_examples=100, deadline=None)
def test_every_cell_is_there_and_edges_are_even(count, size):
    cells = np.arange(count, dtype=float)[None]
    pixels = Pixels(1, size, range(1), range(size))
    shown = pixels.paint(cells, lambda merged: merged)[0].astype(int)
    values, wide = np.unique(shown, return_counts=True)
    assert (np.diff(shown) >= 0).all()
    assert shown[-1] == count - 1
    if count <= size:
        assert (values == np.arange(count)).all()
    assert np.ptp(wide) <= 1
    assert np.ptp(np.diff(np.append(-1, values))) <= 1


# Every norm and value


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize("norm", ["linear", "log", "power", "rank", "row"])
@pytest.mark.parametrize("values", ["weights", "logits", "difference"])
@pytest.mark.parametrize("sign", [1, -1])
def test_what_stands_out_has_the_end_of_the_palette_under_each_norm(norm, values, sign):
    if (norm, values) == ("log", "logits"):
        pytest.skip("logits have no log scale")
    if sign < 0 and values != "difference":
        pytest.skip("what is low does not stand out")
    cells = planted.cells(1024, 1024, 8) * sign
    fitted = ColorScale(norm=norm).fit_cells([cells], values)
    ax = Figure(figsize=(1, 1), dpi=100).add_axes((0.003, 0.004, 0.99, 0.99))
    image = CellImage(ax, fitted.cells(cells), cmap=fitted.cmap, norm=fitted.norm, both_ways=values == "difference")
    drawn = image.make_image(None)[0]
    end = np.array(fitted.cmap(1.0 if sign > 0 else 0.0, bytes=True))
    if norm == "row":  # each row of cells has an end of its own
        places = [
            (row * len(drawn) // 1024, column * len(drawn) // 1024) for row, column in planted.spots(1024, 1024, 8)
        ]
        assert all((drawn[::-1][row, column] == end).all() for row, column in places)
    else:
        assert planted.label((drawn == end).all(-1)).max() == 8


def test_a_window_that_is_resized_or_zoomed_shows_the_same_cells():
    ax = Figure(figsize=(2, 2), dpi=100).add_subplot()
    image = CellImage(ax, planted.cells(1000, 1000, 8))
    for inches, limits, want in (((2, 2), (0, 1000), 8), ((0.7, 3), (0, 1000), 8), ((1, 1), (0, 500), 4)):
        ax.figure.set_size_inches(inches)
        ax.set(xlim=(limits[0] - 0.5, limits[1] - 0.5), ylim=(999.5, -0.5))
        assert planted.seen(image.make_image(None)[0][..., :3], tuple(image.cmap(1.0, bytes=True))[:3], 5) == want
        ax.invert_xaxis()
        ax.invert_yaxis()
        assert planted.seen(image.make_image(None)[0][..., :3], tuple(image.cmap(1.0, bytes=True))[:3], 5) == want


def test_where_there_is_room_a_cell_lies_between_its_coordinates():
    ax = Figure(figsize=(3, 3), dpi=100).add_axes((0.1, 0.1, 0.8, 0.8))
    image = CellImage(ax, np.arange(12.0).reshape(3, 4))
    drawn = image.make_image(None)[0]
    for (row, column), value in np.ndenumerate(np.arange(12.0).reshape(3, 4)):
        x, y = ax.transData.transform((column, row)) - ax.bbox.min
        assert tuple(drawn[int(y), int(x)]) == image.to_rgba(value, bytes=True)


# What is not visible


@given(grids())
@settings(max_examples=100, deadline=None)
def test_hatches_lie_on_regions_of_what_is_not_visible_and_cover_nothing_else(drawn):
    cells, pixels = drawn
    blank, stripe, edge = 255, 1, 2
    cells = np.where(np.isnan(cells), np.nan, 100.0)
    hatch = np.array(stripe, dtype=np.uint8), np.array(edge, dtype=np.uint8)

    def colors(merged: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(merged), blank, 100).astype(np.uint8)

    plain, found = pixels.paint(cells, colors), pixels.paint(cells, colors, hatch=hatch)
    hidden, changed = plain == blank, found != plain
    assert not changed[~hidden].any()
    region = np.zeros_like(hidden)
    for i, j in np.ndindex(*(max(0, side - 3) for side in hidden.shape)):
        if hidden[i : i + 4, j : j + 4].all():
            region[i : i + 4, j : j + 4] = True
    assert not changed[~region].any()
    assert (found[region] != blank).any() or not region.any()
    for i, j in np.argwhere(region):  # and where they end there is an edge
        beside = plain[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2]
        assert (beside != blank).any() == (found[i, j] == edge)


# Every kind of figure, in every file


class Case:
    """What varies of a figure; its methods draw it, and say how many cells were planted."""

    def __init__(self, T: int, heads: int, labels: int | None, width: str | None) -> None:
        self.T, self.heads = T, heads
        self.labels = None if labels is None else [f"{n:x}".rjust(labels, "w")[-labels:] for n in range(T)]
        self.width = None if width is None else PAPERS[width]
        self.dpi = 150 if width is None else 300
        self.size = (T, T)

    def maps(self, inches: tuple[float, float], heads: int, count: int = 4) -> list[Any]:
        pixels = min(1024, most_cells(inches, self.dpi))
        self.count = 2 if self.T < 8 else count
        return [planted.planted_map(self.T, pixels, self.count, head, self.labels) for head in range(heads)]

    def several(self) -> tuple[Figure, int]:
        maps = self.maps(panel_inches(self.size, self.heads, self.width), self.heads)
        figure = heatmap(maps[0], width=self.width).figure if self.heads == 1 else heads_grid(maps, width=self.width)
        return figure, self.count * self.heads

    def detail(self) -> tuple[Figure, int]:
        (shown,) = self.maps(panel_inches(self.size, 1, self.width), 1)
        sides = Marginals(np.ones(self.T), np.ones(self.T), range(self.T), range(self.T))
        return detail(shown, sides, width=self.width).figure, self.count

    def outline(self) -> tuple[Figure, int]:
        self.heads = min(self.heads, 4)
        figure, want = self.several()
        band = np.eye(min(self.T, 400), dtype=int)
        reasons = ReasonMap(("window",), band, {}, range(self.T), range(self.T))
        for ax in figure.axes[: self.heads]:
            outline(reasons, ax)
        outline_legend(reasons, figure)
        return figure, want

    def comparison(self) -> tuple[Figure, int]:
        heads = min(self.heads, 2)
        maps = self.maps(comparison_inches(self.size, self.width), heads)
        dark = [replace(shown, cells=np.minimum(shown.cells, 0.02)) for shown in maps]
        apart = [replace(a, cells=a.cells - b.cells, values="difference") for a, b in zip(maps, dark, strict=True)]
        return difference_figure(list(zip(maps, dark, apart, strict=True)), width=self.width), self.count * heads

    def overview(self) -> tuple[Figure, int]:
        pixels = panel_pixels(3, self.heads, self.dpi, self.width)
        maps = self.maps((pixels / self.dpi,) * 2, self.heads, count=2)
        rows = [OverviewRow(layer, tuple(maps)) for layer in range(3)]
        return overview_figure(rows, width=self.width, dpi=self.dpi).figure, 3 * self.heads * self.count

    def overlay(self) -> tuple[Figure, int]:
        side = min(64, self.T)
        maps = self.maps((1, 1), min(self.heads, 4))
        maps = [
            replace(
                shown, cells=planted.cells(side, side, self.count).reshape(1, -1), queries=range(1), query_labels=None
            )
            for shown in maps
        ]
        picture = np.zeros((128, 128, 3), dtype=np.uint8)
        return overlays(picture, maps, (side, side), width=self.width), self.count * len(maps)

    def strip(self) -> tuple[Figure, int]:
        """Of short tokens, few of which are bright."""
        tokens, heads = min(self.T, 200), min(self.heads, 3)
        self.count = 2 if tokens < 8 else 4
        rows = [planted.cells(1, tokens, 1) for _ in range(heads)]
        for row in rows:
            row[:] = 0.02
            row[0, [column for _, column in planted.spots(tokens, tokens, self.count)]] = 1.0
        words = ["ab"] * tokens if self.labels is None else self.labels[:tokens]
        maps = [
            AttentionMap(row, "weights", head, range(1), range(tokens), ["q"], words) for head, row in enumerate(rows)
        ]
        figure = strip(maps[0], width=self.width).figure if heads == 1 else strips(maps, width=self.width)
        return figure, heads * self.count

    def pattern(self, *, weights: bool = False, story: bool = False) -> tuple[Figure, int]:
        """Of the width of no paper: lone global keys in a window, or lone weights where nothing else is visible."""
        shown = self.maps((most_inches(3 if story else 1),) * 2, 1)[0]
        bright = shown.cells == 1
        bits = np.where(bright, 2, 0 if weights else np.where(np.isnan(shown.cells), 0, 1))
        reasons = ReasonMap(
            ("window", "global key"),
            bits,
            {0: 1, 1: 1, 2: 1},
            range(self.T),
            range(self.T),
            self.labels,
            self.labels,
            weights=np.where(bright, 1.0, np.nan) if weights else None,
        )
        figure = story_figure([reasons] * 3, ["a", "b", "c"]) if story else pattern_figure(reasons).figure
        return figure, self.count * (3 if story else 1)


KINDS = {
    "heads": (Case.several, BRIGHT),
    "detail": (Case.detail, BRIGHT),
    "outline": (Case.outline, BRIGHT),
    "comparison": (Case.comparison, BRIGHT),
    "difference": (Case.comparison, RED),
    "overview": (Case.overview, BRIGHT),
    "overlay": (Case.overlay, tuple(0.95 * channel + 0.05 * 115 for channel in BRIGHT)),
    "strip": (Case.strip, BRIGHT),
    "pattern": (Case.pattern, ORANGE),
    "pattern with weights": (lambda case: case.pattern(weights=True), tuple(0.25 * channel for channel in ORANGE)),
    "story": (lambda case: case.pattern(story=True), ORANGE),
}
FACTORS = {
    "kind": list(KINDS),
    "heads": [1, 4, 12, 32],
    "width": [None, "column", "page"],
    "labels": [None, 1, 14],
    "T": [3, 60, 4096, 65536],
    "suffix": [".png", ".pdf", ".svg"],
}


def check(tmp_path, kind, heads, width, labels, T, *suffixes) -> None:
    """Counts the planted cells in the file: in the pictures it embeds, and as a viewer shows it."""
    draw, color = KINDS[kind]
    case = Case(T, heads, labels, width)
    with house_style(paper=width):
        figure, want = draw(case)
        for suffix in suffixes:
            file = tmp_path / f"figure{suffix}"
            save_figure(figure, file, dpi=case.dpi)
            picture = planted.rasterized(file, case.dpi)
            if picture is not None:
                assert planted.seen(planted.within(picture, panels(figure)), color, least=0.25) == want, suffix
            if suffix == ".png":
                continue
            apart = kind in ("heads", "detail") or (kind == "overview" and width is None)  # on a screen too
            picture = planted.rasterized(file, SCREEN) if apart else None
            if picture is not None:
                assert planted.glimmers(planted.within(picture, panels(figure))) == want, suffix
            pictures = planted.embedded(file)
            if pictures is None or kind in (
                "overlay",
                "pattern with weights",
            ):  # whose ink is laid over another picture
                continue
            # Whose maps are of few cells, or are more than a file bears.
            many = heads >= 12 and kind == "overview"
            if (T <= 64 and not many) or kind == "strip":
                assert pictures == [], suffix  # of rectangles alone
            elif pictures or not many:
                assert sum(planted.seen(one, color, 5) for one in pictures) == want, suffix
                assert max(max(one.shape) for one in pictures) <= min(T, 1024), suffix  # a pixel a cell


def panels(figure: Figure) -> list[Any]:
    """Where maps are: left, bottom, right and top as shares of the figure."""
    boxes = [
        ax.get_window_extent()
        for ax in figure.axes
        if ax.images or any(isinstance(one, Words) for one in ax.collections)
    ]
    return [box.transformed(figure.transFigure.inverted()).extents for box in boxes]


@pytest.mark.parametrize(
    tuple(FACTORS), list(planted.pairwise_cover(FACTORS | {"heads": [1, 4, 9], "T": [3, 60, 4096]}))
)
def test_lone_cells_are_counted_in_the_finished_file(tmp_path, kind, heads, width, labels, T, suffix):
    check(tmp_path, kind, heads, width, labels, T, suffix)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(
    ("kind", "heads", "width", "labels", "T", "suffix"),
    [
        ("heads", 1, None, None, 65536, ".pdf"),
        ("heads", 12, "column", None, 60, ".pdf"),
        ("outline", 4, "column", 14, 60, ".svg"),
    ],
)
def test_no_line_around_what_is_hidden_lies_over_a_cell(tmp_path, kind, heads, width, labels, T, suffix):
    """One of the cells that are planted is beside the hidden part, and smaller than the line is wide."""
    check(tmp_path, kind, heads, width, labels, T, suffix)


@pytest.mark.matrix
@pytest.mark.parametrize(tuple(FACTORS)[:-1], list(product(*list(FACTORS.values())[:-1])))
def test_the_whole_matrix(tmp_path, kind, heads, width, labels, T):
    if labels == 1:
        pytest.skip("as without labels, or with long ones")
    if heads > 1 and kind in ("detail", "pattern", "pattern with weights", "story"):
        pytest.skip("a figure of one head")
    if heads > 4 and kind in ("comparison", "difference", "outline", "overlay", "strip"):
        pytest.skip("as of four heads")
    if labels and kind in ("overview", "overlay"):
        pytest.skip("without labels")
    check(tmp_path, kind, heads, width, labels, T, *FACTORS["suffix"])


def test_in_a_notebook():
    shown = planted.planted_map(65536, 1024, 8)
    png = base64.b64decode(map_html(shown).split("base64,")[1].split('"')[0])
    assert planted.seen(planted.opened(io.BytesIO(png))) == 8 + 1  # and the color bar


def test_in_the_picture_of_a_snapshot():
    from attnviz.show.figures.snapshot import draw_snapshot

    maps = {head: planted.planted_map(4096, 512, 8, head) for head in range(4)}
    heads = [SimpleNamespace(cells={"max": shown.cells}) for shown in maps.values()]
    snapshot: Any = SimpleNamespace(heads=heads, settings={}, maps=lambda *_: maps)
    assert planted.seen(planted.opened(io.BytesIO(draw_snapshot(snapshot)))) == 4 * 8 + 1


@pytest.mark.sweep
def test_in_a_figure_of_statistics(tmp_path):
    lone = planted.spots(300, 300, 8)
    found: Any = [
        SimpleNamespace(layer=layer, batch=0, head=head, entropy=1.0 if (layer, head) in lone else 0.02)
        for layer in range(300)
        for head in range(300)
    ]
    with house_style():
        figure = statistics_figure(found).figure
        save_figure(figure, tmp_path / "heads.png", dpi=30)
    assert planted.seen(planted.within(planted.opened(tmp_path / "heads.png"), panels(figure))) == 8
