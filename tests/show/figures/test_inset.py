"""What stands out of a long map, at full resolution in print: where it is, what it shows, and that it covers nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import attnviz
from attnviz.engine.request import Request
from attnviz.plots.kind import drawn, figure_of
from attnviz.plots.kinds.heatmap import Heatmap, standing_out
from attnviz.plots.look import Look
from attnviz.show.figures.style import PAPERS, house_style
from tests.show.figures.test_layout import LABELS, check_texts


def needle(T: int, query: int, key: int, labels: str = "none") -> attnviz.AttentionInputs:
    """Inputs of even weights, but for one query that sees one key."""
    q, k = torch.zeros(1, 1, T, 2), torch.zeros(1, 1, T, 2)
    q[0, 0, query, 0], k[0, 0, key, 0] = 40.0, 40.0
    words = LABELS[labels]
    return attnviz.AttentionInputs(q, k, tokens=None if words is None else [[words[n % len(words)] for n in range(T)]])


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(("query", "key"), [(1500, 300), (2047, 0), (900, 895), (400, 3)])
@pytest.mark.parametrize("pattern", ["causal", "full"])
def test_it_is_the_part_around_the_highest_lone_peak_at_full_resolution(query, key, pattern):
    request = Request(needle(2048, query, key), pattern, 0, pixels=256)
    shown = attnviz.attention_map(request.inputs, 0, pattern, pixels=256)
    part = standing_out(request, shown)
    assert part is not None
    assert not part.reduced
    assert part.cells.shape == (24, 24)
    assert (query in part.queries, key in part.keys) == (True, True)
    whole = attnviz.attention_map(request.inputs, 0, pattern, pixels=2048)
    rows, columns = part.queries, part.keys
    np.testing.assert_allclose(part.cells, whole.cells[rows.start : rows.stop, columns.start : columns.stop], rtol=1e-6)


def test_maps_without_a_lone_peak_or_with_a_cell_each_have_none():
    even = needle(2048, 0, 0)
    even = replace(even, q=even.q * 0)
    for inputs, pixels in ((even, 256), (needle(200, 100, 3), 256)):
        shown = attnviz.attention_map(inputs, 0, "causal", pixels=pixels)
        assert standing_out(Request(inputs, "causal", 0, pixels=pixels), shown) is None


@pytest.mark.sweep(keep=1)
@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize(
    ("width", "pattern", "labels"),
    [("column", "causal", "long"), ("column", "full", "none"), ("page", "full", "ar"), ("page", "causal", "ja")],
)
def test_it_is_in_print_and_covers_neither_the_peak_nor_words(width, pattern, labels):
    query, key = 1500, 300
    with house_style(paper=width):
        ax = drawn(Heatmap(), Request(needle(2048, query, key, labels), pattern, 0), Look(width=width, caption=True))
        figure = figure_of(ax)
        figure.draw_without_rendering()
    assert figure.get_figwidth() == pytest.approx(PAPERS[width])
    (inset,) = ax.child_axes
    box, peak = inset.get_window_extent(), ax.transData.transform((key, query))
    assert not box.contains(*peak)
    (where,) = ax.patches
    assert where.get_x() < key < where.get_x() + where.get_width()
    assert where.get_y() < query < where.get_y() + where.get_height()
    (image,) = inset.images
    row, column = np.unravel_index(np.nanargmax(image.get_array()), image.get_array().shape)
    assert (row, column) == (query - round(where.get_y() + 0.5), key - round(where.get_x() + 0.5))
    texts, _ = check_texts(figure)
    assert any("Inset: queries 1488–1511 × keys 288–311, a cell each." in " ".join(text.split()) for text in texts)


def test_on_a_screen_there_is_none():
    ax = drawn(Heatmap(), Request(needle(2048, 1500, 300), "causal", 0), Look())
    assert not ax.child_axes
