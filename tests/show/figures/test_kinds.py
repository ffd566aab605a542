"""What each kind of figure must say and keep, whatever its size: no ribbons, no noise drawn as a landscape, no color unnamed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import attnviz
from attnviz.attention.patterns import longformer
from attnviz.engine.request import Request
from attnviz.maps.layers import OverviewRow
from attnviz.maps.map import AttentionMap
from attnviz.maps.marginals import Marginals
from attnviz.maps.reasons import reasons_of
from attnviz.show.figures.arcs import arcs
from attnviz.show.figures.captions import caption, visibility_hint
from attnviz.show.figures.detail import detail
from attnviz.show.figures.difference import difference_figure
from attnviz.show.figures.heatmap import heads_grid, heatmap
from attnviz.show.figures.overview import overview_figure
from attnviz.show.figures.pattern import pattern_figure
from attnviz.show.figures.scales import ColorScale
from attnviz.show.figures.strip import strip
from attnviz.show.figures.style import house_style


def a_map(T: int, head: int = 0, *, sink: float | None = None) -> AttentionMap:
    cells = np.random.default_rng(head).dirichlet(np.ones(T), T)
    if sink is not None:
        cells *= 1 - sink
        cells[:, 0] += sink
    return AttentionMap(cells, "weights", head, range(T), range(T), None, None, "full")


@pytest.mark.parametrize("count", [1, 2, 7, 12, 32, 144])
def test_an_overview_of_one_layer_is_no_ribbon(count):
    maps = tuple(a_map(8, head) for head in range(count))
    with house_style():
        wide, tall = overview_figure([OverviewRow(0, maps)]).figure.get_size_inches()
    assert 0.4 < wide / tall < 2.6


@pytest.mark.parametrize("T", [3, 16, 64])
def test_noise_of_rounding_is_no_landscape_beside_a_map(T):
    """Rows that see one key each have an entropy of 0 but for rounding: it is drawn as 0, on an axis to log n."""
    shown = replace(a_map(T), cells=np.eye(T))
    noise = np.random.default_rng(0).random(T) * 1e-11
    with house_style():
        ax = detail(shown, Marginals(np.full(T, 1 / T), noise, range(T), range(T)))
    right = ax.child_axes[1]
    low, high = right.get_xlim()
    assert low == 0
    assert high == pytest.approx(np.log(T), rel=0.05)
    ax.figure.draw_without_rendering()
    assert not any("e" in label.get_text() for label in right.get_xticklabels())


@pytest.mark.parametrize("shown", [1, 3, 5])
def test_hints_count_the_heads_that_are_shown(shown):
    maps = [a_map(20, head, sink=0.8 if head else None) for head in range(shown)]
    hint = visibility_hint(maps, ColorScale())
    if shown == 1:
        assert hint is None or "heads" not in hint
    else:
        assert f"in {shown - 1} of {shown} heads" in str(hint)


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("tokens", [8, 16, 40, 300])
@pytest.mark.parametrize("weights", [False, True])
def test_every_color_of_a_pattern_with_one_global_key_is_named_and_counted(tokens, weights):
    inputs = attnviz.synthesize(heads=1, tokens=tokens, head_dim=4, global_positions=(0,))
    reasons = reasons_of(Request(inputs, longformer(max(1, tokens // 8)), 0, every_key=True), weights=weights)
    with house_style():
        legend = pattern_figure(reasons).get_legend()
    names = dict(text.get_text().split("\n") for text in legend.get_texts() if "\n" in text.get_text())
    assert {*names} == {*reasons.counts}
    total = sum(int(said.split(" of ")[0].replace(",", "")) for said in names.values())
    assert total == reasons.visible
    assert not any("(0.0%)" in said and not said.startswith("0 ") for said in names.values())


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("T", [3, 8, 16, 20])
def test_numbers_in_cells_are_no_wider_than_their_cells(T):
    with house_style():
        ax = heatmap(a_map(T), annot=True)
    ax.figure.draw_without_rendering()
    cell = ax.get_window_extent().width / T
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == T * T
    assert max(box.width for box in boxes) <= cell


def test_words_that_a_query_gives_nothing_are_no_ink():
    words = ["a", "rather", "internationalizations" * 3, "b"]
    cells = np.array([[0.0, 0.0, 0.2, 0.8]])
    shown = AttentionMap(cells, "weights", 0, range(1), range(4), ["a"], words, "full")
    with house_style():
        ax = strip(shown)
    ink = [sum(color[:3]) for color in ax.collections[0].get_facecolor()]
    assert ink[0] == ink[1] > ink[2] > ink[3]
    assert ink[0] > 2.9  # the page
    assert "internationalizations" * 3 in "".join(text.get_text() for text in ax.texts)


ODD = {
    "all 0": np.zeros((6, 6)),
    "one weight": np.ones((1, 1)),
    "a single 0": np.zeros((1, 1)),
    "all below 0": -np.ones((6, 6)),
    "to both sides": np.array([[-1.0, 0.5], [0.0, 1.0]]),
    "nothing visible": np.full((6, 6), np.nan),
    "a blank row": np.where(np.arange(6)[:, None] == 2, np.nan, 1 / 6 * np.ones((6, 6))),
    "a tiny one": np.full((3, 3), 1e-300),
    "one row": np.array([[0.25, 0.75, 0.0, 0.0]]),
    "one column": np.array([[1.0], [1.0], [1.0]]),
}


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("name", ODD)
def test_odd_maps_are_drawn_and_told_of_by_every_kind(name):
    cells = ODD[name]
    T, S = cells.shape
    shown = AttentionMap(cells, "weights", 0, range(T), range(S), None, None, "full", given=True)
    sides = Marginals(np.nan_to_num(cells).sum(0), np.zeros(T), range(S), range(T))
    apart = replace(shown, values="difference", pattern="A − B")
    with house_style():
        figures = [
            heatmap(shown).figure,
            heatmap(shown, annot=True).figure,
            heads_grid([shown] * 3),
            detail(shown, sides).figure,
            overview_figure([OverviewRow(0, (shown,))]).figure,
            overview_figure([OverviewRow(0, (shown,))], each=True).figure,
            difference_figure([(shown, shown, apart)]),
            *([strip(shown).figure] if T == 1 else []),
            *([arcs(shown, range(T)).figure] if T == S else []),
        ]
        for figure in figures:
            figure.draw_without_rendering()
    for norm in ("linear", "power", "rank", "row"):
        scale = ColorScale(norm=norm)
        assert caption([shown], scale.fit([shown])).endswith(".")
        hint = visibility_hint([shown, shown], scale)
        assert hint is None or "\n" not in hint
