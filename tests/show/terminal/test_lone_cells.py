"""A lone bright cell is on the screen, whatever the map, the window and the positions beside it."""

from __future__ import annotations

import io
from itertools import product

import numpy as np
import pytest
from rich.console import Console
from skimage.measure import label

from attnviz.maps.map import AttentionMap
from attnviz.show.scale.colors import sequential
from attnviz.show.terminal.halfblocks import HeatmapPicture
from tests.planted import pairwise_cover

TOP = tuple(round(255 * channel) for channel in sequential(1.0))


def spots(maps: list[AttentionMap], width: int, height: int | None) -> int:
    """How many spots of the brightest color are above the legend; a character is two cells."""
    console = Console(
        file=io.StringIO(), force_terminal=True, color_system="truecolor", width=width, legacy_windows=False
    )
    rows: list[list[bool]] = []
    for line in console.render_lines(HeatmapPicture(maps, height=height), pad=False):
        if not "".join(part.text for part in line).strip():
            break  # the legend follows
        halves: tuple[list[bool], list[bool]] = ([], [])
        for part in line:
            colors = (part.style.color, part.style.bgcolor) if part.style else (None, None)
            bright = [
                color is not None and color.triplet is not None and tuple(color.triplet) == TOP for color in colors
            ]
            for letter in part.text:
                halves[0].append(letter in "▀█" and bright[0])
                halves[1].append(letter in "▀█" and bright[1])
        rows += halves
    wide = max(map(len, rows))
    return int(label(np.array([row + [False] * (wide - len(row)) for row in rows]), connectivity=1).max())


FACTORS = {
    "size": [(1, 300), (10, 10), (300, 60), (1000, 1000)],
    "first": [0, 999_990, 12_345_678],
    "labels": [None, 14],
    "window": [(40, None), (80, 24), (200, 50)],
    "heads": [1, 4, 32],
}


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(tuple(FACTORS), [*pairwise_cover(FACTORS), *pairwise_cover(FACTORS | {"heads": [1, 4]})])
def test_a_lone_cell_of_each_head_is_seen(size, first, labels, window, heads):
    check(*size, first, labels, *window, heads)


@pytest.mark.matrix
@pytest.mark.parametrize(tuple(FACTORS), list(product(*FACTORS.values())))
def test_the_whole_matrix(size, first, labels, window, heads):
    check(*size, first, labels, *window, heads)


def check(T: int, S: int, first: int, labels: int | None, width: int, height: int | None, heads: int) -> None:
    """Plants a cell in each head and counts the spots."""
    rng = np.random.default_rng(T + S + heads)
    tokens = None if labels is None else "w" * labels
    maps = []
    for head in range(heads):
        cells = np.full((T, S), 0.02)
        cells[rng.integers(T), rng.choice([0, S - 1, rng.integers(S)])] = 1
        where = range(first, first + T), range(first, first + S)
        names = [None if tokens is None else [tokens] * len(positions) for positions in where]
        maps.append(AttentionMap(cells, "weights", head, *where, *names))
    assert spots(maps, width, height) == heads
