"""From inputs to a picture in one call: that each call draws what its parts give."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
import seaborn
from matplotlib.figure import Figure

import attnviz
from attnviz import InputError
from attnviz.attention.patterns import Causal, Local
from attnviz.show.figures.outline import edges
from tests.cases import small


def test_outlines_of_the_part_that_is_shown():
    ax = attnviz.plot(small(), 0, Local(1), queries=range(1, 5), keys=range(2, 6), pattern_outline=True)
    visible = abs(np.subtract.outer(np.arange(1, 5), np.arange(2, 6))) <= 1
    ends = np.array(ax.collections[0].get_segments())
    np.testing.assert_allclose(np.sort(ends.ravel()), np.sort(edges(visible).ravel() - 0.5))


def test_a_map_of_global_keys_has_no_edge_to_draw():
    with pytest.raises(InputError, match="the keys of the global pattern alone"):
        attnviz.plot(small(), pattern_outline=True)


def test_a_strip_has_every_word_also_those_that_are_not_seen():
    ax = attnviz.plot_strip(small(), query=4)
    assert len(ax.texts) == 6
    assert sum(text.get_color() == "0.55" for text in ax.texts) == 4


def test_a_comparison_has_a_row_a_head():
    figure = attnviz.plot_comparison(small(), small(seed=1), pattern=Causal(), norm="row")
    assert [ax.get_label().split()[0] for ax in figure.axes] == 12 * ["panel"] + ["color", "color"]
    a, b = (attnviz.attention_map(small(seed=seed), 2, Causal()).cells for seed in (0, 1))
    drawn = figure.axes[8].images[0].get_array()
    np.testing.assert_allclose(drawn.filled(np.nan), a - b, atol=1e-12)


DRAWN = {
    "plot": lambda: attnviz.plot(small(), pattern=Causal()).figure,
    "detail": lambda: attnviz.plot_detail(small(), pattern=Causal()).figure,
    "heads": lambda: attnviz.plot_heads(small(), pattern=Causal()),
    "strip": lambda: attnviz.plot_strip(small(), query=4).figure,
    "strips": lambda: attnviz.plot_strip(small(), query=4, heads=[0, 1]),
    "comparison": lambda: attnviz.plot_comparison(small(), small(), heads=[0]),
    "overview": lambda: attnviz.plot_overview([small(), small()]).figure,
}


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("name", DRAWN)
def test_settings_of_matplotlib_and_seaborn_are_honored_and_left_alone(name):
    with mpl.rc_context():
        seaborn.set_theme(style="darkgrid", font_scale=0.7)
        mpl.rcParams["figure.facecolor"] = "#ffeedd"
        mpl.rcParams["axes.labelcolor"] = "#123456"
        before = dict(mpl.rcParams)
        figure = DRAWN[name]()
        figure.draw_without_rendering()
        assert dict(mpl.rcParams) == before
    assert isinstance(figure, Figure)
    assert mpl.colors.to_hex(figure.get_facecolor()) == "#ffeedd"
    labels = [ax.yaxis.label for ax in figure.axes if ax.get_ylabel()]
    assert labels
    assert {mpl.colors.to_hex(label.get_color()) for label in labels} == {"#123456"}


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("name", sorted(set(DRAWN) - {"strip", "strips"}))
def test_no_grid_of_a_style_lies_over_cells(name):
    with mpl.rc_context():
        seaborn.set_theme(style="whitegrid")
        figure = DRAWN[name]()
        figure.draw_without_rendering()
    maps = [ax for ax in figure.axes if ax.images]
    assert maps
    assert not any(line.get_visible() for ax in maps for line in (*ax.get_xgridlines(), *ax.get_ygridlines()))
