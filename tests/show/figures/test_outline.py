"""The edges of patterns, against a walk around every cell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib.colors import to_rgb

import attnviz
from attnviz.attention.patterns import Causal, Local, longformer
from attnviz.maps.reasons import reason_map
from attnviz.show.figures.heatmap import heatmap
from attnviz.show.figures.outline import edges, outline
from attnviz.show.scale.colors import reason_colors


def walked(mask: np.ndarray) -> set[tuple[float, float, float, float]]:
    """Each border between neighbors of which one is in the mask, a cell long: x0, y0, x1, y1."""
    rows, columns = mask.shape
    found = set()
    for i in range(rows):
        for j in range(columns):
            if j + 1 < columns and mask[i, j] != mask[i, j + 1]:
                found.add((j + 1, i, j + 1, i + 1))
            if i + 1 < rows and mask[i, j] != mask[i + 1, j]:
                found.add((j, i + 1, j + 1, i + 1))
    return found


@given(arrays.arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))))
def test_edges_are_all_borders_each_once(mask):
    pieces = []
    for (x0, y0), (x1, y1) in edges(mask).tolist():
        assert x0 == x1 or y0 == y1
        steps = int(x1 - x0 + y1 - y0)
        dx, dy = (x1 > x0, y1 > y0)
        pieces += [(x0 + n * dx, y0 + n * dy, x0 + (n + 1) * dx, y0 + (n + 1) * dy) for n in range(steps)]
    assert len(pieces) == len(set(pieces))
    assert set(pieces) == walked(mask)


def test_they_are_few():
    """A causal map of 1,000 has a step a row, and a block of 10 x 10 cells four lines."""
    assert len(edges(np.tri(1000, dtype=bool))) == 2 * 999
    mask = np.zeros((30, 30), dtype=bool)
    mask[5:15, 5:15] = True
    assert len(edges(mask)) == 4


def drawn(pattern, tokens=12, pixels=1024):
    inputs = attnviz.synthesize(heads=1, tokens=tokens, head_dim=4, global_positions=(0, tokens // 2))
    shown = attnviz.attention_map(inputs, 0, pattern, pixels=pixels)
    reasons = reason_map(inputs, pattern, pixels=pixels)
    ax = heatmap(shown)
    assert outline(reasons, ax) is ax
    return ax, reasons


def test_each_part_has_its_color_and_lies_on_the_borders_of_cells():
    ax, reasons = drawn(Local(2))
    (lines,) = ax.collections
    assert tuple(lines.get_colors()[0][:3]) == pytest.approx(to_rgb(reason_colors(["window"])["window"]))
    ends = np.array(lines.get_segments())
    visible = abs(np.subtract.outer(np.arange(12), np.arange(12))) <= 2
    assert len(ends) == len(edges(visible))
    np.testing.assert_allclose(np.sort(ends.ravel()), np.sort(edges(visible).ravel() - 0.5))
    assert reasons.reasons == ("window",)


def test_cells_of_several_pairs_have_their_borders_at_the_positions_between():
    ax, _ = drawn(Causal(), tokens=40, pixels=10)
    corners = {float(x) for x in np.array(ax.collections[0].get_segments()).ravel()}
    assert corners == {4 * n - 0.5 for n in range(11)}


def test_a_thin_global_key_is_marked_at_the_edge_and_not_covered():
    ax, reasons = drawn(longformer(50), tokens=2000)
    lines = dict(zip(reasons.reasons, ax.collections, strict=True))
    assert len(lines["window"].get_segments()) > 100
    assert not lines["global key"].get_segments()
    tips = [line.get_xdata().tolist() for line in ax.lines]
    cell = 2000 / reasons.cells.shape[1]
    np.testing.assert_allclose(tips[0], [0.5 * cell - 0.5, (1000 // cell + 0.5) * cell - 0.5], atol=cell)
    assert len(ax.lines) == 2  # keys above, queries to the right


def test_nothing_moves_the_axes():
    inputs = attnviz.synthesize(heads=1, tokens=12, head_dim=4)
    ax = heatmap(attnviz.attention_map(inputs, 0, longformer(2)))
    before = ax.get_xlim(), ax.get_ylim()
    outline(reason_map(inputs, longformer(2)), ax, legend=True)
    assert (ax.get_xlim(), ax.get_ylim()) == before
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["window", "global key", "global query"]
