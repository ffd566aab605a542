"""What the figures of patterns draw, read back from matplotlib's own objects."""

from __future__ import annotations

import itertools
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import attnviz
from attnviz.attention.patterns import GlobalKeys, Local, longformer
from attnviz.engine.request import Request
from attnviz.maps.reasons import SEVERAL, ReasonMap, reason_map, reasons_of
from attnviz.show.figures.pattern import _pairs, pattern_figure, story_figure
from attnviz.show.figures.style import house_style
from attnviz.show.scale.colors import HIDDEN, reason_colors


@pytest.fixture(scope="module")
def inputs() -> attnviz.AttentionInputs:
    return attnviz.synthesize()


def legend(ax) -> list[str]:
    return [text.get_text().split("\n")[0] for text in ax.get_legend().get_texts()]


def test_it_draws_into_the_axes_given_and_returns_them(inputs):
    ax = Figure().add_subplot()
    assert pattern_figure(reason_map(inputs, longformer(1)), ax, title="mine") is ax
    assert ax.get_title() == "mine"


def test_each_cell_has_the_color_of_its_reason(inputs):
    shown = reason_map(inputs, longformer(1))
    drawn = pattern_figure(shown).images[0].get_array()
    colors = reason_colors([*shown.reasons, SEVERAL])
    for (t, s), name in {(1, 2): "window", (9, 0): "global key", (0, 9): "global query", (3, 4): SEVERAL}.items():
        assert tuple(drawn[t, s]) == pytest.approx(colors[name])
    assert tuple(drawn[9, 4]) == pytest.approx(HIDDEN)


def test_the_legend_names_what_is_there_and_stands_outside(inputs):
    ax = pattern_figure(reason_map(inputs, Local(1) | GlobalKeys()))
    assert legend(ax) == ["window", "global key", SEVERAL, "not visible"]
    figure = ax.get_figure()
    figure.draw_without_rendering()
    assert ax.get_legend().get_window_extent().x0 > ax.get_window_extent().x1
    assert legend(pattern_figure(reason_map(inputs, Local(1)))) == ["window", "not visible"]


@pytest.mark.parametrize("head", [None, 3])
def test_nothing_is_cut_off_and_pairs_are_square(inputs, head):
    maps = [reason_map(inputs, pattern, head=head) for pattern in (Local(1), longformer(1))]
    for figure in (pattern_figure(maps[1]).get_figure(), story_figure(maps, ["one", "other"], title="both")):
        taken, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert (taken.x0 > 0, taken.y0 > 0) == (True, True)
        assert (taken.x1 < width, taken.y1 < height) == (True, True)
        box = figure.axes[0].get_window_extent()
        assert box.width == pytest.approx(box.height)


def test_the_area_of_a_square_is_the_weight(inputs):
    shown = reason_map(inputs, longformer(1), head=3)
    ax = pattern_figure(shown)
    areas = [float(np.prod(np.ptp(path.vertices, axis=0))) for path in ax.collections[0].get_paths()]
    weights = shown.weights[shown.weights > 0]
    assert areas == pytest.approx(list(0.92**2 * weights / weights.max()))


def test_a_fine_map_shades_its_cells(inputs):
    long = attnviz.synthesize(heads=1, tokens=100, head_dim=4, global_positions=(0,))
    shown = reason_map(long, Local(3), head=0)
    ax = pattern_figure(shown)
    assert not ax.collections
    drawn = ax.images[0].get_array()
    lightness = drawn[shown.weights > 0].sum(-1)
    order = np.argsort(shown.weights[shown.weights > 0])
    assert (np.diff(lightness[order]) <= 1e-12).all()


def test_a_reason_keeps_its_color_whatever_stands_beside_it():
    assert reason_colors(["stripes", "window"])["window"] == reason_colors(["window"])["window"]
    many = reason_colors([f"reason {n}" for n in range(12)])
    assert len(set(many.values())) == 12


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_parts_are_told_from_each_other_and_from_what_is_hidden_on_both_pages(theme):
    inputs = attnviz.synthesize(heads=1, tokens=12, head_dim=4, global_positions=(0, 6))
    with house_style(theme=theme):
        drawn = np.array(pattern_figure(reason_map(inputs, longformer(2))).images[0].get_array()).reshape(-1, 3)
        page = to_rgb(mpl.rcParams["axes.facecolor"])
    kinds = np.unique(drawn.round(4), axis=0)
    assert len(kinds) == 5
    for one, other in itertools.combinations([*kinds, page], 2):
        assert np.abs(np.subtract(one, other)).max() > 0.05


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("width", [3.25, 6.75])
@pytest.mark.parametrize("labels", [False, True])
def test_a_width_is_kept_and_nothing_is_cut_off(width, labels):
    inputs = attnviz.synthesize(heads=1, tokens=12, head_dim=4, global_positions=(0, 6))
    inputs = inputs if labels else replace(inputs, tokens=None)
    maps = [reasons_of(Request(inputs, longformer(2), 0), weights=labels)] * 3
    with house_style(paper="column"):
        figures = [pattern_figure(maps[0], width=width, caption="What this is. " * 9).figure]
        if width > 5:
            figures.append(story_figure(maps, ["a", "b", "c"], width=width, caption="What this is. " * 9))
        for figure in figures:
            figure.draw_without_rendering()
            taken, (wide, tall) = figure.get_tightbbox(), figure.get_size_inches()
            assert wide == width
            assert (taken.x0 >= 0, taken.y0 >= 0, taken.x1 <= wide, taken.y1 <= tall) == (True,) * 4
            box = figure.axes[0].get_window_extent()
            assert box.width == pytest.approx(box.height, rel=0.02)


@pytest.mark.parametrize(
    ("count", "total", "said"),
    [(1, 4, "25.0%"), (0, 4, "0.0%"), (130_300, 65536**2, "0.0030%"), (1, 10**6, "0.00010%"), (4, 4, "100.0%")],
)
def test_a_few_pairs_are_not_none(count, total, said):
    assert _pairs(count, total) == f"{count:,} of {total:,} pairs ({said})"


@pytest.mark.parametrize("hidden", [False, True])
def test_a_legend_names_what_is_not_visible_where_something_is(hidden):
    cells = np.array([[1, 0 if hidden else 1], [1, 1]])
    ax = pattern_figure(ReasonMap(("window",), cells, {0: int(hidden), 1: 4 - hidden}, range(2), range(2)))
    assert ("not visible" in [text.get_text() for text in ax.get_legend().get_texts()]) == hidden
