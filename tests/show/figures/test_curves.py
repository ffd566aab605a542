"""Curves of heads: the lines are the numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

import attnviz
from attnviz.show.figures.curves import curves_figure, points_of


def curves(layers: int = 1):
    inputs = attnviz.synthesize(heads=3, tokens=40)
    return [one for n in range(layers) for one in attnviz.head_curves(replace(inputs, layer=n), "causal")]


@pytest.mark.parametrize("kind", ["distance", "windows"])
def test_a_line_is_a_head_and_the_last_their_mean(kind):
    found = curves()
    ax = curves_figure(found, kind, Figure().add_subplot())
    *heads, mean = ax.get_lines()
    numbers = [one.weight if kind == "distance" else np.array([*one.windows.values()]) for one in found]
    for line, y in zip(heads, numbers, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), y)
    np.testing.assert_allclose(mean.get_ydata(), np.mean(numbers, axis=0))
    x = np.arange(40) if kind == "distance" else [1, 2, 4, 8, 16, 32, 64]
    np.testing.assert_array_equal(heads[0].get_xdata(), x)


def test_a_panel_is_a_layer():
    figure = curves_figure(curves(3), "windows")
    panels = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title() for ax in panels] == ["layer 0", "layer 1", "layer 2"]
    assert all(len(ax.get_lines()) == 4 for ax in panels)


def test_a_long_curve_has_as_many_points_as_a_line_shows_and_keeps_its_sum():
    one = attnviz.head_curves(attnviz.synthesize(heads=1, tokens=3000), "causal")[0]
    x, y = points_of(one, "distance")
    assert len(x) <= 400
    np.testing.assert_array_equal(y[:64], one.weight[:64])
    cuts = np.searchsorted(np.arange(3000), x)
    assert np.all(np.diff(cuts) > 0)


def test_keys_that_are_never_seen_have_no_point():
    found = attnviz.head_curves(attnviz.synthesize(heads=1, tokens=12), attnviz.Local(2, 2))[0]
    np.testing.assert_array_equal(points_of(found, "distance")[0], [0, 2, 4])
