"""Figures of statistics: what their rows and columns are called."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from attnviz.show.figures.statistics import statistics_figure
from attnviz.show.figures.style import PAPERS, house_style


def names(layers: list[Any], heads: list[int], width: str | None) -> tuple[list[str], list[str], Any]:
    """What is written beside rows and below columns, and the Axes."""
    rows: Any = [
        SimpleNamespace(layer=layer, batch=0, head=head, entropy=0.5 + head) for layer in layers for head in heads
    ]
    with house_style(paper=width):
        ax = statistics_figure(rows, width=None if width is None else PAPERS[width])
        ax.figure.draw_without_rendering()
    found = [[text.get_text() for text in axis.get_ticklabels() if text.get_text()] for axis in (ax.yaxis, ax.xaxis)]
    return found[0], found[1], ax


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize("width", [None, *PAPERS])
@pytest.mark.parametrize("count", [1, 12, 144])
def test_rows_are_layers_and_columns_heads_by_their_own_numbers(count, width):
    layers, heads = [2, 5, 7], list(range(3, 3 + count))
    rows, columns, ax = names(layers, heads, width)
    assert rows == ["2", "5", "7"]
    assert columns == [f"{heads[n]}" for n in ax.get_xticks()]
    assert len(columns) == count or len(columns) > 6
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("head", "layer")
    np.testing.assert_allclose(ax.images[0].get_array()[0] - 0.5, heads)


def test_a_layer_without_a_name_has_none():
    rows, columns, ax = names([None], [4, 9], None)
    assert (rows, columns, ax.get_ylabel()) == ([], ["4", "9"], "")


def test_many_layers_have_as_many_names_as_there_is_room_for():
    rows, _, ax = names(list(range(144)), list(range(4)), "column")
    assert rows == [f"{n}" for n in ax.get_yticks()]
    assert 30 <= len(rows) < 144
