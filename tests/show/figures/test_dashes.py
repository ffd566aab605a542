"""What is below 0 is dashed, so that a gray print tells the sign too: in every kind, and in every cell that has room."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from PIL import Image

from attnviz.maps.layers import OverviewRow
from attnviz.maps.map import AttentionMap
from attnviz.maps.marginals import Marginals
from attnviz.plots.look import Look
from attnviz.show.figures.arcs import arcs
from attnviz.show.figures.captions import caption
from attnviz.show.figures.cells import CellImage, Pixels
from attnviz.show.figures.dashes import dashed
from attnviz.show.figures.detail import detail
from attnviz.show.figures.difference import difference_figure, difference_words
from attnviz.show.figures.heatmap import heads_grid, heatmap
from attnviz.show.figures.overlay import overlays
from attnviz.show.figures.overview import overview_figure
from attnviz.show.figures.scales import ColorScale
from attnviz.show.figures.statistics import statistics_figure
from attnviz.show.figures.strip import strip
from attnviz.show.figures.style import colormap, house_style, save_figure

TWOFOLD = ListedColormap([f"{1 - abs(n) / 8}" for n in range(-8, 9)])
"""In gray, the best palette that goes both ways: where two pictures differ, it is not by color."""


def values(T: int, S: int | None = None) -> np.ndarray:
    """To both sides of 0, none of them near it."""
    drawn = np.random.default_rng(T)
    shape = T, T if S is None else S
    return drawn.uniform(0.3, 1.0, shape) * drawn.choice([-1.0, 1.0], shape)


def a_map(cells: np.ndarray, of: str = "logits", **what: object) -> AttentionMap:
    T, S = cells.shape
    return AttentionMap(cells, of, 0, range(T), range(S), None, None, "full", **what)


def by_statistic(cells: np.ndarray) -> list:
    return [
        SimpleNamespace(layer=layer, batch=0, head=head, max_logit=float(value))
        for (layer, head), value in np.ndenumerate(cells)
    ]


def figure_of(found: object) -> Figure:
    return found.get_figure(root=True)  # type: ignore[attr-defined]


KINDS = {
    "heatmap": lambda cells, **look: heatmap(a_map(cells), **look),
    "given weights": lambda cells, **look: heatmap(a_map(cells, "weights", given=True), **look),
    "heads": lambda cells, **look: heads_grid([a_map(cells)] * 3, **look),
    "detail": lambda cells, **look: detail(
        a_map(cells), Marginals(np.ones(cells.shape[1]), np.ones(len(cells)), range(cells.shape[1]), range(len(cells))), **look
    ),
    "overview": lambda cells, **look: overview_figure([OverviewRow(0, (a_map(cells),))], **look),
    "overview, each": lambda cells, **look: overview_figure([OverviewRow(0, (a_map(cells),))], each=True, **look),
}  # fmt: skip
"""Kinds that ``--no-marks`` leaves without dashes."""

ALWAYS = {
    "strip": lambda cells: strip(a_map(cells[:1]), cmap=TWOFOLD),
    "arcs": lambda cells: arcs(a_map(cells), range(len(cells)), cmap=TWOFOLD),
    "overlay": lambda cells: overlays(
        np.full((64, 64, 3), 255, np.uint8), [a_map(cells, "logits")], cells.shape, cmap=TWOFOLD
    ),
    "statistics": lambda cells: statistics_figure(by_statistic(cells), "max_logit", cmap=TWOFOLD),
}


def drawn(figure: Figure, suffix: str = ".png") -> bytes:
    """A figure's file without its color bar and words: the cells alone."""
    for ax in figure.axes:
        ax.set_title("")
        if ax.get_label() == "color bar":
            ax.set_visible(False)
    stream = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "same", "pdf.compression": 0}):
        figure.savefig(stream, format=suffix[1:], dpi=100, metadata={"Date": None} if suffix == ".svg" else {})
    if suffix == ".svg":  # what cells say of themselves has the sign
        return re.sub(rb"<title>.*?</title>", b"", stream.getvalue())
    return np.asarray(Image.open(stream).convert("L")).tobytes()


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("T", [4, 20, 90])
@pytest.mark.parametrize("suffix", [".png", ".svg"])
@pytest.mark.parametrize("kind", KINDS)
def test_in_gray_what_is_below_0_is_told_from_what_is_above(kind, suffix, T):
    cells = values(T)
    if T > 64:  # cells too small for dashes of their own make regions
        cells = np.abs(cells) * np.sign(values(4))[np.ix_(np.arange(T) * 4 // T, np.arange(T) * 4 // T)]
    with house_style():
        draw = KINDS[kind]
        below, above = (drawn(figure_of(draw(sign * cells, cmap=TWOFOLD)), suffix) for sign in (-1, 1))
        assert below != above
        one, other = (drawn(figure_of(draw(sign * cells, cmap=TWOFOLD, marks=False)), suffix) for sign in (-1, 1))
        assert one == other


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("kind", ALWAYS)
def test_words_arcs_patches_and_statistics_are_dashed_too(kind):
    cells = values(20)
    if kind == "overlay":
        cells[0, 0] = 1.0
    with house_style():
        dashes, none = (drawn(figure_of(ALWAYS[kind](found))) for found in (-np.abs(cells), np.abs(cells)))
    assert dashes != none


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("T", [6, 30, 200])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_difference_is_dashed_where_it_is_below_0_alone(T, theme):
    x = np.linspace(-1, 1, T)
    apart = np.outer(x, x)
    a = a_map(np.abs(apart), "weights")
    with house_style(theme=theme):
        figure = difference_figure([(a, a, replace(a_map(apart, "difference"), pattern="A − B"))])
        plain = difference_figure([(a, a, replace(a_map(apart, "difference"), pattern="A − B"))], marks=False)
        images = [one.axes[2].images[0].make_image(None)[0][::-1, :, :3].astype(int) for one in (figure, plain)]
    where = np.abs(images[0] - images[1]).max(-1) > 0
    half = len(where) // 2, where.shape[1] // 2
    negative = where[: half[0], half[1] :].sum() + where[half[0] :, : half[1]].sum()
    assert negative == where.sum() > 0
    bars = [ax for ax in figure.axes if ax.get_label() == "color bar"]
    assert [len(ax.collections) > len(plain_ax.collections) for ax, plain_ax in zip(bars, [ax for ax in plain.axes if ax.get_label() == "color bar"], strict=True)] == [False, True]  # fmt: skip


@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    down=st.integers(5, 31),
    across=st.integers(5, 31),
    more=st.tuples(st.integers(0, 4), st.integers(0, 4)),
)
def test_each_cell_below_0_with_room_has_a_dash_within_itself(rows, columns, down, across, more):
    """At every size and place on the grid of pixels: no dash is lost, and none reaches into another cell."""
    cells = values(rows, columns)
    height, width = rows * down + more[0] % rows, columns * across + more[1] % columns
    pixels = Pixels(height, width, range(height), range(width), point=150 / 72)
    gray = lambda found: np.repeat(np.full(found.shape, 200, np.uint8)[..., None], 4, axis=-1)  # noqa: E731
    painted = pixels.paint(cells, gray, below=lambda found: found < 0)
    marked = (painted != 200).any(-1)
    owner = pixels.spread(np.arange(cells.size).reshape(cells.shape), cells)
    assert set(owner[marked].tolist()) == set(np.flatnonzero(cells.ravel() < 0).tolist())
    edge = np.zeros_like(marked)
    edge[1:] |= owner[1:] != owner[:-1]
    edge[:-1] |= owner[1:] != owner[:-1]
    assert not (marked & edge).any()  # a dash, and no stripe from cell to cell


@pytest.mark.parametrize("name", ["poles", "RdBu_r", "coolwarm", "seismic", "PuOr", "berlin"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_dash_stands_out_from_its_cell_in_gray(name, theme):
    with house_style(theme=theme):
        colors = colormap(name, "difference")(np.linspace(0, 0.45, 200), bytes=True)

    def light(found: np.ndarray) -> np.ndarray:
        """Relative luminance of the gray that a color is printed in."""
        gray = (found[:, :3] @ np.array([0.299, 0.587, 0.114])) / 255
        return np.where(gray <= 0.04045, gray / 12.92, ((gray + 0.055) / 1.055) ** 2.4)

    cell, dash = light(colors), light(dashed(colors))
    assert ((np.maximum(cell, dash) + 0.05) / (np.minimum(cell, dash) + 0.05)).min() >= 2.5


@pytest.mark.parametrize(
    ("of", "options", "wanted"),
    [
        ("logits", {}, True),
        ("logits", {"norm": "power"}, True),
        ("logits", {"norm": "rank"}, False),  # one palette, whose order is that of grays
        ("logits", {"norm": "row"}, False),  # all are below their row's largest
        ("logits", {"cmap": "viridis"}, False),
        ("logits", {"vmin": 0.0}, False),
        ("weights", {}, True),  # given ones, of which some are below 0
        ("difference", {"norm": "log"}, True),
    ],
)
def test_dashes_are_where_grays_do_not_tell_the_sign(of, options, wanted):
    cells = np.array([[-1.0, -0.2, 0.0], [0.5, 0.001, -0.001]])
    scale = ColorScale(**options).fit_cells([cells], of)
    assert scale.dashed == wanted
    assert scale.has_below([cells]) == wanted
    if wanted and not options:
        assert scale.below is not None
        assert scale.below(scale.cells(cells)).tolist() == [[True, True, False], [False, False, False]]
    assert not scale.marked(False).has_below([cells])


@pytest.mark.parametrize("cells", [np.array([[0.5, 0.25]]), np.array([[0.0, 0.0]]), np.array([[np.nan, np.nan]])])
def test_without_anything_below_0_no_caption_speaks_of_dashes(cells):
    for of in ("weights", "logits", "difference"):
        scale = ColorScale().fit_cells([cells], of)
        assert "ashed" not in caption([a_map(cells, of)], scale)


def test_captions_say_what_dashes_are_where_there_are_some():
    cells = values(4)
    shown = a_map(cells)
    assert "Dashed is below 0." in caption([shown], Look().fitted([shown]))
    assert "ashed" not in caption([shown], Look(marks=False).fitted([shown]))
    apart = [(shown, shown, a_map(cells, "difference"))]
    assert difference_words(apart, ColorScale()).endswith("dashed below 0")
    assert "ashed" not in difference_words(apart, ColorScale(), marks=False)


def test_numbers_have_a_sign_and_no_dash():
    cells = values(4)
    with house_style():
        numbered = heatmap(a_map(cells), annot=True)
    assert numbered.images[0].below is None


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("suffix", [".pdf", ".svg"])
def test_a_map_that_is_below_0_everywhere_is_written(tmp_path, suffix):
    with house_style():
        for T in (1, 70):
            ax = heatmap(a_map(-np.ones((T, T))))
            save_figure(figure_of(ax), tmp_path / f"figure{suffix}")
    assert isinstance(ax.images[0], CellImage)
    assert (tmp_path / f"figure{suffix}").stat().st_size > 0
