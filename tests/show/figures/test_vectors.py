"""Cells of PDFs and SVGs: rectangles that say what they are, without a seam, or one pixel of a picture each."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from attnviz.maps.layers import OverviewRow
from attnviz.maps.map import AttentionMap
from attnviz.maps.reasons import ReasonMap
from attnviz.show.figures.captions import cell_said, number_said
from attnviz.show.figures.cells import CellImage
from attnviz.show.figures.heatmap import heads_grid, heatmap
from attnviz.show.figures.overview import overview_figure
from attnviz.show.figures.pattern import pattern_figure
from attnviz.show.figures.statistics import statistics_figure
from attnviz.show.figures.strip import strip
from attnviz.show.figures.style import house_style, save_figure
from attnviz.show.figures.vectors import MOST_OF_A_FIGURE, opened
from tests import planted

SVG = "{http://www.w3.org/2000/svg}"
WORDS = ["it", "was", "too", "tired"]


def a_map(T: int = 4, words: list[str] | None = None, **what: object) -> AttentionMap:
    cells = np.random.default_rng(0).random((T, T))
    cells[np.triu_indices(T, 1)] = np.nan
    labels = None if words is None else (words * T)[:T]
    return AttentionMap(cells, "weights", 0, range(T), range(T), labels, labels, **what)


def written(figure: Figure, tmp_path) -> ElementTree.Element:
    with house_style():
        save_figure(figure, tmp_path / "figure.svg")
    return ElementTree.parse(tmp_path / "figure.svg").getroot()


def titles(root: ElementTree.Element) -> list[str]:
    return [title.text or "" for title in root.iterfind(f".//{SVG}rect/{SVG}title")]


def test_a_cell_of_an_svg_says_what_it_is(tmp_path):
    shown = a_map(words=WORDS)
    shown.cells[3, 0] = 0.6148
    said = titles(written(heatmap(shown).figure, tmp_path))
    assert len(said) == 16
    assert said[12] == "tired → it 0.61"
    assert said[1] == "it → was not visible"
    assert said == [cell_said(shown, *divmod(n, 4)) for n in range(16)]


def test_every_kind_says_what_its_cells_are(tmp_path):
    shown = a_map(words=WORDS)
    reasons = ReasonMap(("window",), np.eye(4, dtype=int), {1: 4, 0: 12}, range(4), range(4), WORDS, WORDS)
    one = replace(shown, queries=range(3, 4), cells=shown.cells[3:], query_labels=WORDS[3:])
    rows = [OverviewRow(layer, (replace(shown, layer=layer),)) for layer in range(2)]
    with house_style():
        found = {
            "grid": titles(written(heads_grid([shown, replace(shown, head=1)]), tmp_path)),
            "overview": titles(written(overview_figure(rows).figure, tmp_path)),
            "pattern": titles(written(pattern_figure(reasons).figure, tmp_path)),
            "strip": titles(written(strip(one).figure, tmp_path)),
        }
    assert {name: len(said) for name, said in found.items()} == {"grid": 32, "overview": 32, "pattern": 16, "strip": 4}
    assert found["overview"][16] == "layer 1, head 0: it → it 0.64"
    assert found["pattern"][:2] == ["it → it window", "it → was not visible"]
    assert found["strip"][3] == "tired → tired 0.18"


def test_a_statistic_says_of_whom_it_is(tmp_path):
    from types import SimpleNamespace

    rows = [SimpleNamespace(layer=n, batch=0, head=head, entropy=0.5 + n) for n in range(2) for head in range(2)]
    with house_style():
        said = titles(written(statistics_figure(rows).figure, tmp_path))  # type: ignore[arg-type]
    assert said == ["layer 0, head 0 0.50", "layer 0, head 1 0.50", "layer 1, head 0 1.50", "layer 1, head 1 1.50"]


def test_cells_of_several_pairs_say_which(tmp_path):
    shown = replace(a_map(4), queries=range(10, 22), keys=range(8))
    shown.cells[1, 0] = 0.29
    assert titles(written(heatmap(shown).figure, tmp_path))[4] == "queries 13–15 → keys 0–1 0.29"


@given(st.lists(st.text(st.characters(), max_size=8), min_size=1, max_size=20))
def test_no_token_is_markup_or_control(tmp_path_factory, tokens):
    ax = Figure(figsize=(1, 1)).add_axes((0, 0, 1, 1))
    ax.axis("off")
    shown = a_map(len(tokens), tokens)
    CellImage(ax, shown.cells, names=partial(cell_said, shown))
    root = written(ax.figure, tmp_path_factory.getbasetemp())  # which parses
    said = titles(root)
    assert len(said) == len(tokens) ** 2
    assert not any(re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", one) for one in said)
    assert not list(root.iterfind(f".//{SVG}rect/{SVG}title/*"))


def test_markup_in_a_token_is_text(tmp_path):
    token = "</title><script>alert('&')</script>\x1b[31m"
    root = written(heatmap(a_map(2, [token, "b"])).figure, tmp_path)
    assert titles(root)[0].startswith("</title><script>alert('&')</script>�[31m → ")
    assert root.find(f".//{SVG}script") is None


@pytest.mark.parametrize(("value", "said"), [(0.6148, "0.61"), (1.0, "1.00"), (0.00123, "0.0012"), (-12.345, "-12.35"), (0.0, "0"), (np.nan, "not visible")])  # fmt: skip
def test_a_number_has_few_digits(value, said):
    assert number_said(value) == said


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(("T", "pictures"), [(1, 0), (64, 0), (65, 1), (400, 1)])
@pytest.mark.parametrize("suffix", ["svg", "pdf"])
def test_to_64_cells_a_side_there_are_rectangles_and_then_pixels(tmp_path, T, pictures, suffix):
    with house_style():
        save_figure(heatmap(a_map(T)).figure, tmp_path / f"figure.{suffix}")
    found = planted.embedded(tmp_path / f"figure.{suffix}")
    if found is not None:
        assert [one.shape for one in found] == [(T, T, 3)] * pictures  # a pixel a cell, and the color bar in vectors


def test_a_figure_of_more_rectangles_than_a_browser_opens_has_pixels(tmp_path, monkeypatch):
    assert MOST_OF_A_FIGURE == 32 * 64 * 64
    monkeypatch.setattr("attnviz.show.figures.cells.MOST_OF_A_FIGURE", 3 * 64)
    for maps, pictures in ((3, 0), (4, 4)):
        figure = Figure(figsize=(2, 2))
        for ax in figure.subplots(1, maps):
            CellImage(ax, np.zeros((8, 8)))
        save_figure(figure, tmp_path / "figure.svg")
        assert (tmp_path / "figure.svg").read_text().count("<image") == pictures


@pytest.mark.parametrize("suffix", [".svg", ".pdf"])
def test_between_rectangles_no_seam_shows_the_page(tmp_path, suffix):
    figure = Figure(figsize=(1.37, 1.37))
    ax = figure.add_axes((0, 0, 1, 1))
    CellImage(ax, np.full((37, 41), 1.0), cmap="gray_r", norm=None, clim=(0, 1))
    ax.axis("off")
    save_figure(figure, tmp_path / f"figure{suffix}")
    for dpi in (72, 96, 113, 150):
        picture = planted.rasterized(tmp_path / f"figure{suffix}", dpi)
        if picture is not None:
            assert picture[2:-2, 2:-2].max() <= 8, dpi


def test_rectangles_stand_where_the_cells_do_whichever_way_axes_go(tmp_path):
    for turned in (False, True):
        figure = Figure(figsize=(2, 2))
        ax = figure.add_axes((0, 0, 1, 1))
        image = CellImage(ax, np.arange(12.0).reshape(3, 4), names=lambda row, column: f"{row} {column}")
        if turned:
            ax.invert_xaxis()
            ax.invert_yaxis()
        root = written(figure, tmp_path)
        for rect in root.iterfind(f".//{SVG}rect[{SVG}title]"):
            row, column = map(int, (rect.findtext(f"{SVG}title") or "").split())
            x, y = ax.transData.transform((column, row)) / figure.dpi * 72
            left, top, wide, high = (float(rect.get(name) or 0) for name in ("x", "y", "width", "height"))
            assert left <= x <= left + wide
            assert top <= 144 - y <= top + high
            assert rect.get("fill") == "#" + bytes(image.to_rgba(4 * row + column, bytes=True)[:3]).hex()


def test_zoomed_there_is_nothing_beyond_the_axes(tmp_path):
    figure = Figure(figsize=(2, 2))
    ax = figure.add_axes((0.25, 0.25, 0.5, 0.5))
    CellImage(ax, np.full((9, 9), np.nan), hatch=True, names=lambda row, column: f"{row} {column}")
    ax.set(xlim=(2.1, 5.3), ylim=(6.2, 1.8))
    root = written(figure, tmp_path)
    assert len(titles(root)) == 4 * 5
    for rect in root.iterfind(f".//{SVG}rect[{SVG}title]"):
        left, wide = float(rect.get("x") or 0), float(rect.get("width") or 0)
        assert 36 - 1e-3 <= left <= left + wide <= 108 + 1e-3


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32))
def test_a_region_is_what_rectangles_within_it_cover(rows, columns, down, across, seed):
    mask = np.random.default_rng(seed).random((rows, columns)) < 0.7
    want = np.zeros_like(mask)
    for y in range(rows - down + 1):
        for x in range(columns - across + 1):
            if mask[y : y + down, x : x + across].all():
                want[y : y + down, x : x + across] = True
    assert (opened(mask, down, across) == want).all()


def test_regions_that_are_not_visible_are_hatched_and_lone_cells_are_not(tmp_path):
    plain = a_map(8)
    plain.cells[:] = 0.5
    paths = {}
    for name, hidden in (("none", []), ("region", [(0, 6), (0, 7), (1, 6), (1, 7)])):
        cells = plain.cells.copy()
        for place in hidden:
            cells[place] = np.nan
        root = written(heatmap(replace(plain, cells=cells), scale=False).figure, tmp_path)
        paths[name] = len(list(root.iterfind(f".//{SVG}g[@id='cells_1']/{SVG}path")))
    assert paths["none"] == 0
    assert paths["region"] == 2  # stripes, and the border


def test_an_artist_that_is_rasterized_stays_a_picture(tmp_path):
    figure = Figure(figsize=(1, 1))
    CellImage(figure.add_axes((0, 0, 1, 1)), np.eye(4)).set_rasterized(True)
    root = written(figure, tmp_path)
    assert root.find(f".//{SVG}image") is not None
    assert not list(root.iterfind(f".//{SVG}g[@id='cells_1']/{SVG}rect"))
