"""Color scales, against plain arithmetic on the cells."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure

import attnviz
from attnviz.show.figures.bars import Bar
from attnviz.show.figures.heatmap import colorbar, draw, heads_grid, heatmap
from attnviz.show.figures.scales import ColorScale
from attnviz.show.scale.scaling import NORMS

NAN = float("nan")
CELLS = np.array([[0.5, NAN, 0.0], [0.25, 0.125, 1e-9], [1.0, 0.5, 0.03125]])
LOGITS = np.array([[3.0, NAN, -1.0], [0.5, -2.0, 0.0], [4.0, 1.0, -6.0]])


def shares(scale, cells: np.ndarray) -> np.ndarray:
    """Where on the palette each cell is, 0 to 1; NaN where it is blank."""
    return np.ma.filled(scale.norm(scale.cells(cells)).astype(float), np.nan)


def fit(values: str = "weights", cells: np.ndarray = CELLS, **options):
    return ColorScale(**options).fit_cells([cells], values)


def test_linear_weights_start_at_0():
    assert shares(fit(), CELLS) == pytest.approx(CELLS, nan_ok=True)


def test_power_is_the_square_root():
    assert shares(fit(norm="power"), CELLS) == pytest.approx(np.sqrt(CELLS), nan_ok=True)


def test_log_is_the_logarithm_down_to_a_millionth_of_the_top():
    scale = fit(norm="log")
    assert (scale.norm.vmin, scale.norm.vmax) == pytest.approx((1e-6, 1.0))
    drawn = shares(scale, CELLS)
    for value, share in zip(CELLS.flat, drawn.flat, strict=True):
        if value >= 1e-6:
            assert share == pytest.approx(1 + math.log10(value) / 6)
    assert (drawn[0, 2] < 0, drawn[1, 2] < 0, np.isnan(drawn[0, 1])) == (True, True, True)


def test_a_weight_of_0_is_drawn_and_no_weight_is_blank():
    scale = fit(norm="log")
    zero, blank = scale.cmap(scale.norm(scale.cells(CELLS)))[0, [2, 1]]
    assert tuple(zero) == tuple(scale.cmap(0.0))
    assert tuple(blank) == tuple(scale.cmap.get_bad())
    assert tuple(zero) != tuple(blank)


def test_a_log_scale_has_a_decade_at_the_least():
    scale = fit(cells=np.array([[0.5, 0.4]]), norm="log")
    assert (scale.norm.vmin, scale.norm.vmax) == pytest.approx((0.05, 0.5))


def test_rank_is_the_share_of_cells_below():
    visible = [value for value in CELLS.flat if not math.isnan(value)]
    most = sum(other < max(visible) for other in visible)
    drawn = shares(fit(norm="rank"), CELLS)
    for value, share in zip(CELLS.flat, drawn.flat, strict=True):
        if not math.isnan(value):
            assert share == pytest.approx(sum(other < value for other in visible) / most)


def test_ranks_are_told_in_real_units():
    ticks = fit(norm="rank", cells=np.array([[1.0, 2.0, 30.0, 400.0, 5000.0]])).ticks
    assert ticks == pytest.approx((1, 2, 30, 400, 5000))


def test_rows_are_relative_to_their_own_largest():
    expected = np.array([[1.0, NAN, 0.0], [1.0, 0.5, 4e-9], [1.0, 0.5, 0.03125]])
    assert shares(fit(norm="row"), CELLS) == pytest.approx(expected, nan_ok=True)


def test_rows_of_logits_are_distances_below_the_largest():
    scale = fit("logits", LOGITS, norm="row")
    expected = np.array([[0.0, NAN, -4.0], [0.0, -2.5, -0.5], [0.0, -3.0, -10.0]])
    assert np.ma.filled(scale.cells(LOGITS), np.nan) == pytest.approx(expected, nan_ok=True)
    assert (scale.norm.vmin, scale.norm.vmax) == (-10, 0)


def test_a_row_that_sees_nothing_stays_blank():
    cells = np.array([[NAN, NAN], [0.25, 0.75]])
    for values in ("weights", "logits"):
        assert np.isnan(shares(fit(values, cells, norm="row"), cells)[0]).all()


def test_logits_are_balanced_around_0():
    assert shares(fit("logits", LOGITS), LOGITS) == pytest.approx((LOGITS + 6) / 12, nan_ok=True)
    root = np.sign(LOGITS) * np.sqrt(np.abs(LOGITS) / 6)
    assert shares(fit("logits", LOGITS, norm="power"), LOGITS) == pytest.approx((root + 1) / 2, nan_ok=True)


def test_robust_weights_end_at_the_99th_percentile():
    cells = np.arange(1.0, 102.0).reshape(1, -1)  # 1 to 101: the 99th percentile is 100
    scale = fit(cells=cells, robust=True)
    assert (scale.norm.vmin, scale.norm.vmax, scale.extend) == (0, 100, "max")
    assert "99th percentile" in scale.note


def test_robust_logits_end_at_the_2nd_and_98th():
    cells = np.arange(-50.0, 51.0).reshape(1, -1)
    scale = fit("logits", cells, robust=True)
    assert (scale.norm.vmin, scale.norm.vmax, scale.extend) == (-48, 48, "both")


def test_a_sink_that_is_robust_leaves_the_rest_visible():
    cells = np.full((10, 1000), 1e-4)
    cells[:, 0] = 0.9
    assert shares(fit(cells=cells), cells)[0, 1] < 0.001
    assert shares(fit(cells=cells, robust=True), cells)[0, 1] == pytest.approx(1)


def test_differences_have_a_logarithm_to_both_sides():
    cells = np.array([[-0.1, 0.0, 0.1, 1e-3]])
    drawn = shares(fit("difference", cells, norm="log"), cells)[0]
    assert drawn[[0, 1, 2]] == pytest.approx([0, 0.5, 1])
    assert drawn[3] > 0.6


@pytest.mark.parametrize("vmax", [0.6, 5.0])
def test_arrows_say_that_there_is_more(vmax):
    assert fit(vmax=vmax).extend == ("max" if vmax < 1 else "neither")


@pytest.mark.parametrize(
    ("values", "options", "told"),
    [
        ("weights", {"norm": "cubic"}, "--norm 'cubic' is not one of linear, log, power, rank, row"),
        ("logits", {"norm": "log"}, "logits are logarithms of weights already"),
        ("weights", {"norm": "rank", "robust": True}, "leave --robust, --vmin and --vmax out"),
        ("weights", {"norm": "rank", "vmax": 1.0}, "leave --robust, --vmin and --vmax out"),
        ("weights", {"norm": "log", "vmin": 0.0}, "a log scale starts above 0"),
        ("weights", {"robust": True, "vmin": 0.0, "vmax": 1.0}, "--robust finds the ends"),
        ("weights", {"vmin": 2.0}, "--vmin must be below --vmax"),
        ("weights", {"cmap": "no such"}, "not a palette of matplotlib or seaborn"),
        ("weights", {"cmap": "Set2_r_x"}, "not a palette"),
    ],
)
def test_what_makes_no_scale_is_told(values, options, told):
    with pytest.raises(attnviz.InputError, match=told):
        fit(values, **options)


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("values", ["weights", "logits"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "cells", [np.full((2, 2), NAN), np.zeros((2, 2)), np.full((1, 1), 0.3)], ids=["blank", "zeros", "one"]
)
def test_maps_with_nothing_to_compare_are_drawn(values, norm, cells):
    if (values, norm) == ("logits", "log"):
        pytest.skip("an error, see above")
    shown = attnviz.AttentionMap(cells, values, 0, range(cells.shape[0]), range(cells.shape[1]))
    heatmap(shown, norm=norm).get_figure().draw_without_rendering()


@pytest.mark.parametrize("norm", NORMS)
def test_color_bars_have_unit_and_norm(norm):
    shown = attnviz.attention_map(attnviz.synthesize(), head=3)
    label = heatmap(shown, norm=norm).get_figure().axes[1].get_ylabel().replace("\n", " ")
    names = {"log": "log", "power": "square root", "rank": "by rank", "row": "share of its row's largest", "linear": ""}
    assert label.startswith("weight (softmax)")
    assert names[norm] in label


def test_panels_share_a_scale():
    inputs = attnviz.synthesize()
    maps = [attnviz.attention_map(inputs, head) for head in range(3)]
    images = [ax.images[0] for ax in heads_grid(maps, norm="rank").axes[:3]]
    assert len({id(image.norm) for image in images}) == 1


def test_a_figure_of_ones_own_takes_scale_and_bar():
    shown = attnviz.attention_map(attnviz.synthesize(), head=3)
    ax = Figure().add_subplot()
    scale = ColorScale(robust=True).fit([shown], "probability")
    assert colorbar(draw(shown, ax, scale), [ax], scale).ax.get_ylabel() == "probability"


@pytest.mark.parametrize("inches", [0.8, 1.2, 2.0, 4.0])
@pytest.mark.parametrize("reach", [0.0006, 0.7, 12345.0])
def test_ticks_that_are_left_out_of_a_narrow_bar_leave_even_steps_around_0(inches, reach):
    scale = fit("difference", np.array([[-reach, reach]]))
    figure = Figure(figsize=(6, 3))
    bar = Bar(figure, scale, blank=False)
    bar.lies((0.5, 0.0, inches, 2.0), 0.0, middle=False)
    low, high = bar.bar.ax.get_xlim()
    shown = [x for x in bar.bar.ax.get_xticks() if low <= x <= high]
    assert len(shown) >= 2 or shown[0] > 0
    assert np.ptp([*np.diff(shown)] or [0.0]) <= 1e-9 * reach
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in bar.bar.ax.get_xticklabels() if text.get_text()]
    assert all(a.x1 <= b.x0 for a, b in pairwise(boxes))
