"""The sides of a map, read back from matplotlib's own objects."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

import attnviz
from attnviz.attention.patterns import Causal
from attnviz.show.figures.detail import detail
from tests import reference


@pytest.fixture(scope="module")
def inputs() -> attnviz.AttentionInputs:
    return attnviz.synthesize(heads=1, tokens=12, head_dim=4, dtype="float64")


def drawn(inputs, ax=None, pixels=1024, **look):
    shown = attnviz.attention_map(inputs, 0, Causal(), pixels=pixels)
    return detail(shown, attnviz.marginals(inputs, 0, Causal()), ax, **look)


def whole(inputs) -> np.ndarray:
    return reference.attend(inputs.q[0], inputs.k[0], np.tri(12, dtype=bool)).weights[0]


def test_bars_are_what_keys_receive_and_the_entropy_of_queries(inputs):
    ax = drawn(inputs)
    top, right = ax.child_axes
    weights = whole(inputs)
    received = weights.sum(0) / np.arange(12, 0, -1)
    entropy = -np.array([sum(w * np.log(w) for w in row if w > 0) for row in weights])
    for side, expected in ((top, received), (right, entropy)):
        values, edges, _ = side.patches[0].get_data()
        np.testing.assert_allclose(values, expected, atol=1e-12)
        np.testing.assert_allclose(edges, np.arange(13) - 0.5)
    assert (top.get_ylabel(), right.get_xlabel()) == ("weight\nreceived", "entropy\n(nats)")


def test_of_several_keys_the_band_is_from_the_least_to_the_most(inputs):
    top = drawn(inputs, pixels=4).child_axes[0]
    received = (whole(inputs).sum(0) / np.arange(12, 0, -1)).reshape(4, 3)
    band, line = (patch.get_data() for patch in top.patches)
    np.testing.assert_allclose(band.values, received.max(1), atol=1e-12)
    np.testing.assert_allclose(band.baseline, received.min(1), atol=1e-12)
    np.testing.assert_allclose(line.values, received.mean(1), atol=1e-12)
    np.testing.assert_allclose(band.edges, [-0.5, 2.5, 5.5, 8.5, 11.5])


def test_the_sides_stand_at_the_map(inputs):
    ax = drawn(inputs, caption="Below.")
    figure = ax.get_figure()
    figure.draw_without_rendering()
    own, top, right = (axes.get_window_extent() for axes in (ax, *ax.child_axes))
    assert (top.x0, top.x1) == pytest.approx((own.x0, own.x1))
    assert (right.y0, right.y1) == pytest.approx((own.y0, own.y1))
    assert top.y0 > own.y1
    assert right.x0 > own.x1
    bar = figure.axes[-1].get_window_extent()
    assert bar.x0 > right.x1
    assert ax.title.get_window_extent().y0 >= top.y1
    assert ax.child_axes[0].get_xlim() == ax.get_xlim()


def test_it_draws_into_the_axes_given_and_returns_them(inputs):
    ax = Figure().add_subplot()
    assert drawn(inputs, ax, title="mine") is ax
    assert ax.get_title() == "mine"
