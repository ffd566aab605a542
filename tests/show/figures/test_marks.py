"""Marks of what a pixel can't show: where they stand, what they say, and that they cover nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from attnviz.maps.layers import OverviewRow
from attnviz.maps.map import AttentionMap
from attnviz.maps.marginals import Marginals
from attnviz.show.figures.detail import detail
from attnviz.show.figures.difference import difference_figure
from attnviz.show.figures.heatmap import heads_grid, heatmap
from attnviz.show.figures.marks import find_marks
from attnviz.show.figures.overview import overview_figure
from attnviz.show.figures.style import house_style
from attnviz.show.scale.scaling import NORMS
from attnviz.show.scale.sinks import find_row, row_note
from tests import planted


def long_map(T: int = 65536, cells: int = 256, *, sink: int | None = None, count: int = 4) -> AttentionMap:
    shown = planted.planted_map(T, cells, count)
    if sink is not None:
        shown.cells[:, sink] = 0.9
    return shown


def drawn(shown: AttentionMap, **look: object) -> dict[str, object]:
    """What is drawn of marks: by the label of its line, and the words."""
    with house_style():
        ax = heatmap(shown, **look)
    lines = {line.get_label(): line for line in ax.lines}
    return {"lines": lines, "words": [text.get_text() for text in ax.texts], "ax": ax}


def sink_map(share: float = 0.58) -> AttentionMap:
    cells = np.full((16, 16), (1 - share) / 15)
    cells[:, 0] = share
    words = ["[CLS]", *(f"w{n}" for n in range(1, 16))]
    return AttentionMap(cells, "weights", 0, range(16), range(16), words, words, "full")


@pytest.mark.parametrize("norm", NORMS)
def test_a_column_that_takes_most_is_named_with_its_share_under_every_norm(norm):
    found = drawn(sink_map(), norm=norm)
    assert found["words"] == ["[CLS] 58%"]
    assert found["lines"]["sink"].get_xydata().tolist() == [[0, 1]]


def test_of_a_map_reduced_by_max_it_is_the_share_of_rows():
    found = drawn(long_map(sink=0))
    assert found["words"] == ["keys 0–255 lead 98% of rows"]
    assert found["lines"]["sink"].get_xdata()[0] == pytest.approx(127.5)


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("norm", NORMS)
def test_lone_peaks_of_long_maps_have_rings(norm):
    for sink in (None, 0):
        found = drawn(long_map(sink=sink), norm=norm)
        ring = found["lines"]["peaks"]
        expected = [((x + 0.5) * 256 - 0.5, (y + 0.5) * 256 - 0.5) for y, x in planted.spots(256, 256, 4)]
        np.testing.assert_allclose(sorted(map(tuple, ring.get_xydata().tolist())), sorted(expected))
        assert ring.get_markerfacecolor() == "none"


def test_cells_that_are_seen_need_no_rings():
    assert "peaks" not in drawn(long_map(64, 64))["lines"]


def test_what_is_everywhere_is_no_peak():
    band = replace(long_map(), cells=np.eye(256, dtype=np.float32))
    many = replace(long_map(), cells=planted.cells(256, 256, 20))
    assert find_marks(band).peaks == find_marks(many).peaks == ()


def test_the_first_rows_of_a_causal_map_are_no_peaks_and_hide_none():
    weights = np.tri(256) / np.arange(1, 257)[:, None] * 0.5
    weights[200, 90] = 0.9
    cells = np.where(np.tri(256, dtype=bool), weights, np.nan)
    assert find_marks(replace(long_map(), cells=cells)).peaks == ((200, 90),)


@pytest.mark.parametrize("values", ["logits", "difference"])
def test_values_that_are_no_weights_have_no_marks(values):
    marks = find_marks(replace(long_map(sink=0), values=values))
    assert (marks.sink, marks.row, marks.peaks) == (None, None, ())


def test_marks_can_be_left_out():
    found = drawn(long_map(sink=0), marks=False)
    assert not found["lines"]
    assert not found["words"]
    with house_style():
        figure = heads_grid([long_map(sink=0)] * 3, marks=False)
    assert not any(ax.lines or ax.texts for ax in figure.axes if ax.get_label().startswith("panel"))


def row_map() -> AttentionMap:
    cells = np.full((16, 16), 0.02)
    cells[5] = 1 / 16
    words = [*(f"w{n}" for n in range(5)), "[CLS]", *(f"w{n}" for n in range(6, 16))]
    return AttentionMap(cells, "weights", 0, range(16), range(16), words, words, "full")


def test_a_row_from_which_most_keys_have_their_largest_weight_is_marked_in_the_margin():
    found = drawn(row_map())
    assert found["lines"]["row"].get_xydata().tolist() == [[1, 5]]
    assert row_note([row_map()]) == "100% of the keys have their largest weight from query 5 ([CLS])"
    assert find_row(sink_map()) is None


@given(st.integers(8, 40), st.integers(8, 40), st.integers(0, 2**32), st.booleans())
def test_rows_of_chance_are_not_marked(T, S, seed, causal):
    logits = np.random.default_rng(seed).normal(size=(T, S)) * 3
    if causal:
        logits[np.triu_indices(T, 1, S)] = -np.inf
    weights = np.exp(logits - logits.max(1, keepdims=True))
    cells = np.where(np.isinf(logits), np.nan, weights / weights.sum(1, keepdims=True))
    shown = AttentionMap(cells, "weights", 0, range(T), range(S), None, None, "full")
    row = find_row(shown)
    if row is not None:  # then it is so
        seen = np.isfinite(cells).sum(0) >= 8
        assert (np.nanargmax(cells[:, seen], axis=0) == row.row).mean() > 0.5


@pytest.mark.parametrize("kind", ["overview", "detail", "comparison"])
def test_marks_are_in_every_kind_of_map(kind):
    maps = [replace(sink_map(), head=head, cells=sink_map().cells.copy()) for head in range(2)]
    sides = Marginals(np.ones(16), np.ones(16), range(16), range(16))

    def drawing(marks: bool) -> Figure:
        if kind == "overview":
            return overview_figure([OverviewRow(n, tuple(maps)) for n in range(3)], marks=marks).figure
        if kind == "detail":
            return detail(maps[0], sides, marks=marks).figure
        apart = replace(maps[0], values="difference", cells=maps[0].cells * 0)
        return difference_figure([(maps[0], maps[1], apart)] * 2, marks=marks)

    with house_style():
        for marks, want in ((True, {"overview": 6, "detail": 1, "comparison": 4}[kind]), (False, 0)):
            figure = drawing(marks)
            axes = [*figure.axes, *(child for ax in figure.axes for child in ax.child_axes)]
            tips = [line for ax in axes for line in ax.lines if line.get_label() == "sink"]
            assert sum(len(line.get_xdata()) for line in tips) == want


def test_a_panel_of_an_overview_has_its_mark_over_its_column():
    maps = [replace(sink_map(), head=head) for head in range(2)]
    maps[1].cells[:] = np.roll(maps[1].cells, 8, axis=1)
    with house_style():
        ax = overview_figure([OverviewRow(0, tuple(maps)), OverviewRow(1, tuple(maps))]).figure.axes[0]
    (line,) = (line for line in ax.lines if line.get_label() == "sink")
    half = 0.5 - 1 / 24
    want = [(x - half + 2 * half * (column + 0.5) / 16, y - half) for y in range(2) for x, column in ((0, 0), (1, 8))]
    np.testing.assert_allclose(line.get_xydata(), want)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("heads", [1, 3, 12])
def test_marks_stand_between_the_title_and_the_map(heads):
    with house_style():
        maps = [replace(sink_map(), head=head) for head in range(heads)]
        figure = heads_grid(maps) if heads > 1 else heatmap(maps[0]).figure
        figure.draw_without_rendering()
    renderer = figure._get_renderer()
    for ax in figure.axes[:heads]:
        (words,) = ax.texts
        box = words.get_window_extent(renderer)
        assert box.y0 >= ax.get_window_extent().y1
        assert box.y1 <= ax.title.get_window_extent(renderer).y0 + 2
        assert box.x1 <= ax.get_window_extent().x1 + 1


def test_axes_that_are_given_keep_their_limits():
    ax = Figure().add_subplot()
    shown = long_map(sink=0)
    heatmap(shown, ax, marks=False)
    other = heatmap(shown, Figure().add_subplot())
    assert (ax.get_xlim(), ax.get_ylim()) == (other.get_xlim(), other.get_ylim())
    assert [line.get_label() for line in other.lines] == ["sink", "peaks"]
