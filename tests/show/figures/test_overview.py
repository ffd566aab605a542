"""What an overview draws, read back from its one image as it is painted, against whole maps in float64."""

from __future__ import annotations

import weakref
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure

import attnviz
from attnviz import InputError
from attnviz.attention.patterns import Causal
from attnviz.maps.layers import Layers, OverviewRow, overview_rows
from attnviz.show.figures.cells import hatch_colors
from attnviz.show.figures.overview import overview_figure, panel_pixels
from attnviz.show.figures.style import colormap
from tests import reference


def model(layers: int = 3, heads: int = 2, tokens: int = 6) -> list[attnviz.AttentionInputs]:
    return [
        attnviz.synthesize(heads=heads, tokens=tokens, head_dim=4, seed=seed, dtype="float64", global_positions=(0, 3))
        for seed in range(layers)
    ]


def weights(inputs: attnviz.AttentionInputs) -> np.ndarray:
    """(H, T, S) under the causal pattern, NaN where hidden."""
    T = inputs.T
    visible = np.tri(T, dtype=bool)
    found = reference.attend(inputs.q[0], inputs.k[0], visible).weights
    return np.where(visible, found, np.nan)


def panel(ax, layer: int, head: int, shape: tuple[int, int]) -> np.ndarray:
    """The colors at the middles of a panel's cells, (P, P', 4), read by the coordinates of the Axes."""
    image = ax.images[0]
    colors = image.make_image(None)[0][::-1]  # from the uppermost row of pixels down
    left, right, bottom, top = image.get_extent()
    middles = [(np.arange(size) + 0.5) / size - 0.5 for size in shape]
    inside = 11 / 12  # of a slot, the rest is gap
    rows = ((layer + middles[0] * inside - top) / (bottom - top) * colors.shape[0]).astype(int)
    columns = ((head + middles[1] * inside - left) / (right - left) * colors.shape[1]).astype(int)
    found = colors[np.ix_(rows, columns)].copy()
    blank = colormap(None, "weights").get_bad()
    for over in hatch_colors(blank):  # stripes and edges lie on what is not visible alone
        found[(found == over).all(-1)] = np.rint(255 * np.asarray(blank))
    return found


def colors_of(values: np.ndarray, top: float) -> np.ndarray:
    return colormap(None, "weights")(np.ma.masked_invalid(values / top), bytes=True)


def near(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((abs(one.astype(int) - other.astype(int)) <= 3).all())


def test_each_panel_is_its_head_on_one_scale():
    layers = model()
    ax = attnviz.plot_overview(layers, Causal())
    top = max(np.nanmax(weights(inputs)) for inputs in layers)
    for layer, inputs in enumerate(layers):
        for head in range(2):
            assert near(panel(ax, layer, head, (6, 6)), colors_of(weights(inputs)[head], top))


def test_or_each_on_its_own():
    layers = model()
    ax = attnviz.plot_overview(layers, Causal(), each=True)
    for layer, inputs in enumerate(layers):
        for head, own in enumerate(weights(inputs)):
            assert near(panel(ax, layer, head, (6, 6)), colors_of(own, np.nanmax(own)))
    assert "each panel by its own" in ax.get_figure().axes[1].get_ylabel()


@pytest.mark.sweep
def test_a_panel_smaller_than_its_map_holds_the_largest_of_each_cell():
    layers = model(layers=1, heads=1, tokens=64)
    rows = overview_rows(Layers(layers), Causal(), pixels=8)
    whole = weights(layers[0])[0]
    expected = reference.picture(whole, np.isfinite(whole), range(64), range(64), 8, "max")
    np.testing.assert_allclose(rows[0].maps[0].cells, expected, rtol=1e-12)
    ax = overview_figure(rows)
    assert near(panel(ax, 0, 0, (8, 8)), colors_of(expected, np.nanmax(expected)))
    assert ax.get_xlabel() == "head   (1 cell = 8 × 8, max)"


def test_chosen_layers_and_heads_keep_their_names():
    ax = attnviz.plot_overview(model(layers=4, heads=5), layers=[3, 1], heads=[4, 2])
    figure = ax.get_figure()
    figure.draw_without_rendering()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["3", "1"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["2", "4"]


def test_layers_may_have_different_heads_and_sizes():
    layers = [*model(layers=1, heads=2), *model(layers=1, heads=3, tokens=9)]
    ax = attnviz.plot_overview(layers)
    assert ax.get_title() == "2 layers, 5 heads"
    empty = panel(ax, 0, 2, (1, 1))
    assert (empty[..., 3] == 0).all()  # the page shows


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (24, 16), (48, 40), (96, 96), (2, 600)])
def test_panels_are_whole_pixels_and_labels_never_touch(layers, heads):
    one = attnviz.attention_map(model(layers=1)[0], 0)
    rows = [OverviewRow(n, tuple(replace(one, head=h) for h in range(heads))) for n in range(layers)]
    ax = overview_figure(rows, dpi=150)
    figure = ax.get_figure()
    assert panel_pixels(layers, heads, 150) >= 8
    box = ax.get_window_extent()
    drawn = ax.images[0].make_image(None)[0].shape
    assert (round(box.height), round(box.width)) == drawn[:2]
    assert box.x0 == pytest.approx(round(box.x0), abs=1e-6)
    assert box.y0 == pytest.approx(round(box.y0), abs=1e-6)
    figure.draw_without_rendering()
    for labels, side in ((ax.get_xticklabels(), "x"), (ax.get_yticklabels(), "y")):
        spans = sorted(
            (getattr(e, f"{side}0"), getattr(e, f"{side}1")) for e in (label.get_window_extent() for label in labels)
        )
        assert all(before[1] < after[0] for before, after in pairwise(spans))
    taken, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert (taken.x0 >= 0, taken.y0 >= 0, taken.x1 <= width, taken.y1 <= height) == (True,) * 4


def test_it_draws_into_the_axes_given():
    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.add_subplot()
    assert attnviz.plot_overview(model(), ax=ax, title="mine") is ax
    assert ax.get_title() == "mine"
    assert len(figure.axes) == 2


def test_a_layer_is_gone_when_the_next_is_read():
    before: list[weakref.ref] = []

    def layers():
        for label in range(4):
            assert not [ref for ref in before if ref() is not None]
            inputs = attnviz.synthesize(heads=2, tokens=6, head_dim=4, seed=label)
            before.append(weakref.ref(inputs))
            yield label, inputs
            del inputs

    assert len(overview_rows(layers(), Causal(), pixels=4)) == 4


def test_cells_are_never_dropped():
    """Axes too small for the maps: the largest of the cells that share a pixel is seen in each panel."""
    lone = np.zeros((60, 60))
    lone[37, 41] = 1.0
    rows = [
        OverviewRow(row.layer, tuple(replace(shown, cells=lone) for shown in row.maps))
        for row in overview_rows(Layers(model(tokens=64)), Causal(), pixels=60)
    ]
    ax = overview_figure(rows, Figure(figsize=(1, 1)).add_subplot())
    drawn = ax.images[0].make_image(None)[0]
    assert max(drawn.shape[:2]) < 2 * 60
    assert (drawn == colors_of(np.ones(1), 1)[0]).all(-1).sum() == 3 * 2


def test_a_part_that_is_looked_at_closely_is_that_part_of_the_whole():
    ax = attnviz.plot_overview(model(), Causal())
    whole = ax.images[0].make_image(None)[0]
    ax.set(xlim=(0.5, 1.5), ylim=(1.5, 0.5))  # layer 1, head 1, as large as all before
    part = ax.images[0].make_image(None)[0]
    assert part.shape == whole.shape
    cell = colors_of(weights(model()[1])[1], max(np.nanmax(weights(inputs)) for inputs in model()))
    for row, column in ((0, 0), (5, 2), (0, 5), (5, 5)):
        y, x = (
            int((0.5 + (at + 0.5 - 3) / 6 * 11 / 12) * size)
            for at, size in zip((row, column), part.shape[:2], strict=True)
        )
        assert near(part[::-1][y, x], cell[row, column])


@pytest.mark.parametrize(
    ("source", "layers", "says"),
    [([], None, "overview of no layers"), (model(), [3], "there is no layer 3; there are 0, 1, 2")],
)
def test_what_is_not_there_is_refused(source, layers, says):
    with pytest.raises(InputError, match=says):
        attnviz.plot_overview(source, layers=layers)
