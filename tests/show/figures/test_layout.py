"""Where things stand in figures: nothing overlaps, nothing is cut off, squares are square, gaps are equal."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import cache
from itertools import product
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text

from attnviz.maps.layers import OverviewRow
from attnviz.maps.map import AttentionMap
from attnviz.maps.marginals import Marginals
from attnviz.maps.reasons import ReasonMap
from attnviz.measures.curves import HeadCurves
from attnviz.show.figures.arcs import arcs
from attnviz.show.figures.cells import PixelImage
from attnviz.show.figures.curves import curves_figure
from attnviz.show.figures.detail import detail
from attnviz.show.figures.difference import difference_figure
from attnviz.show.figures.heatmap import grid_columns, heads_grid, heatmap
from attnviz.show.figures.layout import grow, ticks_of, width_of, wrapped
from attnviz.show.figures.lines import lines_figure
from attnviz.show.figures.overlay import overlays
from attnviz.show.figures.overview import overview_figure
from attnviz.show.figures.pattern import pattern_figure, story_figure
from attnviz.show.figures.statistics import statistics_figure
from attnviz.show.figures.strip import strip, strips
from attnviz.show.figures.style import PAPERS, house_style
from tests import planted

LABELS = {
    "none": None,
    "short": ["a", "of", "[CLS]", "."],
    "long": ["internationali", "zations", "$x_1$", "w" * 30],
    "ja": ["東京", "は", "眠い猫", "。"],
    "ar": ["سلام", "في", "كتاب", "،"],
    "bpe": ["Ġthe", "Ċ", "##ing", "▁on"],
}
FACTORS = {
    "kind": [
        "heads",
        "detail",
        "difference",
        "overview",
        "strip",
        "overlay",
        "pattern",
        "story",
        "statistics",
        "arcs",
        "lines",
        "curves",
    ],
    "T": [3, 10, 16, 64, 500, 4096, 65536],
    "heads": [1, 2, 3, 8, 12, 32, 144],
    "labels": list(LABELS),
    "width": [None, "column", "page"],
    "values": ["weights", "logits"],
    "pattern": ["full", "causal"],
}


BARS = ("color bar", "not visible")

LONG = "A title of a figure, with $5 in it, that is longer than most figures are wide, and goes on"


def a_map(T: int, head: int, labels: str, values: str, pattern: str, S: int | None = None) -> AttentionMap:
    """A map that nobody computed, in few cells: what is written around it is what matters here."""
    S = S or T
    cells = np.random.default_rng(head).random((min(T, 64), min(S, 64)))
    if (pattern, values) == ("full", "weights") and min(cells.shape) > 8:
        cells *= 0.02
        cells[:, 1] = cells[1] = 0.9  # a column and a row that are marked
    if pattern == "causal":
        cells[np.triu_indices(len(cells), 1, cells.shape[1])] = np.nan
        cells[0, 0] = 1.0  # the first query sees one key: the color bar has a tick at its very end
    return AttentionMap(
        cells, values, head, range(T), range(S), labels_of(labels, T), labels_of(labels, S), pattern, layer=11
    )


@cache
def labels_of(labels: str, size: int) -> list[str] | None:
    own = LABELS[labels]
    return None if own is None else [own[n % len(own)] for n in range(size)]


def drawn(kind: str, T: int, heads: int, labels: str, width: str | None, values: str, pattern: str) -> Figure:
    maps = [a_map(T, head, labels, values, pattern) for head in range(heads)]
    look: dict[str, Any] = {
        "width": None if width is None else PAPERS[width],
        "caption": "run.safetensors layer 11. Costs $5, and $6 more. " * 3,
    }
    if kind == "overview":
        rows = [
            OverviewRow(f"cross.{n}" if labels == "long" else n, tuple(replace(one, layer=n) for one in maps))
            for n in range(1 if heads == 3 else 5)
        ]
        return overview_figure(
            rows, dpi=100 if width is None else 300, title=LONG if labels == "long" else None, **look
        ).figure
    if kind in ("strip", "overlay"):
        tokens = min(T, 100 if kind == "strip" else 64)
        ones = [
            replace(
                one,
                cells=np.linspace(0, 1, tokens)[None],
                queries=range(2, 3),
                keys=range(tokens),
                query_labels=one.query_labels and one.query_labels[2:3],
                key_labels=one.key_labels and one.key_labels[:tokens],
            )
            for one in maps[:8]
        ]
        if kind == "overlay":
            side = math.isqrt(tokens)
            ones = [replace(one, cells=one.cells[:, : side**2], keys=range(side**2)) for one in ones]
            return overlays(np.zeros((60, 60, 3), np.uint8), ones, (side, side), **look)
        return strip(ones[0], **look).figure if heads == 1 else strips(ones, **look)
    if kind in ("pattern", "story"):
        first = maps[0]
        bits = np.where(np.isnan(first.cells), 0, np.where(first.cells > 0.5, 3, 1))
        counts = {n: int((bits == n).sum()) for n in (0, 1, 3)}
        more = (first.queries, first.keys, first.query_labels, first.key_labels, "local+global & causal, window 128")
        shown = ReasonMap(("window", "global key"), bits, counts, *more, weights=first.cells if heads > 2 else None)
        if kind == "pattern":
            return pattern_figure(shown, **look).figure
        return story_figure([shown] * 3, ["global", "local", "both: local + global"], title=LONG, **look)
    if kind in ("statistics", "lines"):
        found: Any = [
            SimpleNamespace(layer=layer, batch=0, head=head, entropy=0.1234 * head)
            for layer in range({3: 1, 10: 2}.get(T, 12))
            for head in range(heads)
        ]
        draw = statistics_figure if kind == "statistics" else lines_figure
        return draw(found, title=LONG, **look).figure
    if kind == "curves":
        weight = np.linspace(1, 1e-4 if values == "logits" else 0.2, min(T, 500))
        ones = [
            HeadCurves(head, weight, weight, {1 << n: 1 - 0.5**n for n in range(1, 8)}, layer=layer)
            for layer in range({3: 1, 10: 2}.get(T, 12))
            for head in range(min(heads, 32))
        ]
        found = curves_figure(ones, "distance" if pattern == "causal" else "windows", title=LONG, **look)
        return found if isinstance(found, Figure) else found.figure
    if kind == "arcs":
        tokens = min(T, 24 if width == "column" else 64)
        (one,) = (a_map(tokens, head, labels, values, pattern) for head in range(1))
        own = None if heads == 2 else range(tokens)
        return arcs(one, own, title=LONG if labels == "long" else None, **look).figure
    if kind == "detail":
        sides = Marginals(np.ones(T), np.ones(T), range(T), range(T))
        return detail(maps[0], sides, title=LONG if values == "logits" else None, **look).figure
    if kind == "difference":
        rows = [
            (
                replace(shown, pattern="a_long_name_of_a_file.safetensors layer 11, local+global"),
                replace(shown, pattern="b.safetensors layer 11, causal"),
                replace(shown, values="difference", pattern="A − B", key_labels=both),
            )
            for shown, both in ((shown, of_both(shown.key_labels)) for shown in maps[:2])
        ]
        return difference_figure(rows, title=LONG, **look)
    return heatmap(maps[0], title=LONG, **look).figure if heads == 1 else heads_grid(maps, **look)


def of_both(labels: Any) -> list[str] | None:
    """What a difference calls keys of which one side has another token."""
    return None if labels is None else [f"{one} / {other}" for one, other in zip(labels, reversed(labels), strict=True)]


def written(figure: Figure) -> tuple[list[str], np.ndarray]:
    """Every text that is drawn, whoever draws it, and their boxes, (N, 4): left, lower, right and upper end in pixels."""
    found: list[str] = []
    boxes: list[np.ndarray] = [np.empty(0)]

    def draw(text: Text, renderer: Any) -> None:
        if text.get_visible() and text.get_text():
            found.append(text.get_text())
            boxes.append(text.get_window_extent(renderer).extents)

    with mock.patch.object(Text, "draw", draw), mock.patch.object(PixelImage, "draw"):  # cells push no text
        figure.draw_without_rendering()
    return found, np.concatenate(boxes).reshape(-1, 4)


def shared(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How far each of some boxes reaches into each of others, (N, M, 2): across and down, below 0 where apart."""
    return np.minimum(some[:, None, 2:], others[None, :, 2:]) - np.maximum(some[:, None, :2], others[None, :, :2])


def check_texts(figure: Figure) -> tuple[list[str], np.ndarray]:
    """What :func:`written` gives: all of it lies within the figure, and no text over another."""
    texts, places = written(figure)
    assert texts
    beyond = np.maximum(-places[:, :2], places[:, 2:] - figure.get_size_inches() * figure.dpi).max(1) > 0.5
    assert not beyond.any(), [texts[n] for n in np.flatnonzero(beyond)]
    over = np.triu((shared(places, places) > 1).all(-1), 1)  # letters' boxes have empty edges
    assert not over.any(), [(texts[one], texts[other]) for one, other in np.argwhere(over)]
    return texts, places


def check(figure: Figure, kind: str, T: int, *, tokens: bool) -> None:
    square = kind not in ("overview", "strip", "statistics", "lines", "curves")
    texts, places = check_texts(figure)
    panels = [ax for ax in figure.axes if ax.get_label().startswith(("panel", "overview", "strip"))]
    boxes = np.reshape([ax.get_window_extent().extents for ax in panels], (-1, 4))
    wide, tall = (boxes[:, 2:] - boxes[:, :2]).T
    if square:
        assert wide == pytest.approx(tall, rel=1e-6)  # T keys and T queries
    assert wide == pytest.approx(wide[:1].repeat(len(wide)), rel=1e-6)
    if kind not in ("strip", "statistics", "lines", "curves"):
        over = (shared(places, boxes) > (1, 1.5)).all(-1).any(1)
        assert not over.any(), [texts[n] for n in np.flatnonzero(over)]
    bars = [one.get_window_extent().extents for one in (*figure.axes, *figure.patches) if one.get_label() in BARS]
    over = (shared(places, np.reshape(bars, (-1, 4))) > 1).all(-1).any(1)
    assert not over.any(), [texts[n] for n in np.flatnonzero(over)]
    for starts in boxes[:, :2].T:
        steps = np.diff(np.unique(starts.round(3)))
        assert steps.max(initial=0) - steps.min(initial=np.inf) < 0.01 or len(steps) < 2  # equal gaps
    if (
        kind in ("heads", "detail", "difference")
        and T == 16
        and tokens
        and wide.max() / figure.dpi * 72 >= 16 * 4.6 * 1.2
    ):
        lowest = [ax for ax in panels if ax.yaxis.get_visible() and ax.get_label() == "panel 0"]
        for ax in lowest:
            assert len(ax.yaxis.get_majorticklocs()) == 16  # every token has its label


FEWER = FACTORS | {"T": [3, 16, 500, 65536], "heads": [1, 3, 8, 32], "labels": ["none", "long", "ja", "ar"]}


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize(
    tuple(FACTORS), [*planted.pairwise_cover(FEWER), ("heads", 64, 144, "bpe", "page", "weights", "causal")]
)
def test_nothing_overlaps_and_squares_are_square(kind, T, heads, labels, width, values, pattern):
    with house_style(paper=width):
        figure = drawn(kind, T, heads, labels, width, values, pattern)
        check(figure, kind, T, tokens=labels != "none")
    assert width is None or figure.get_figwidth() == pytest.approx(PAPERS[width])


MOST_HEADS = {"heads": 144, "overview": 144, "statistics": 144, "lines": 144, "curves": 32, "difference": 2}
MOST_HEADS |= {"strip": 8, "overlay": 8}
LOOKS = [("weights", "causal"), ("logits", "full")]


@pytest.mark.matrix
@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize(("kind", "labels", "width"), list(product(FACTORS["kind"], LABELS, FACTORS["width"])))
def test_the_whole_matrix(kind, labels, width):
    if kind in ("statistics", "lines", "curves") and labels != "none":
        pytest.skip("figures of heads, without tokens")
    for n, (T, heads) in enumerate(product(FACTORS["T"], FACTORS["heads"])):
        if heads > MOST_HEADS.get(kind, 3):
            continue
        other = n + [*LABELS].index(labels) + FACTORS["width"].index(width)
        for look in LOOKS if heads <= 12 else [LOOKS[other % 2]]:  # of many heads each with half of the lengths
            with house_style(paper=width):
                check(drawn(kind, T, heads, labels, width, *look), kind, T, tokens=labels != "none")


@pytest.mark.parametrize("width", [None, *PAPERS.values()])
def test_only_the_last_row_of_a_grid_may_be_short(width):
    for count, size in product(range(1, 145), ((16, 16), (40, 4))):
        columns = grid_columns(size, count, width)
        rows = -(-count // columns)
        assert 0 < count - (rows - 1) * columns <= columns
        assert columns == -(-count // rows)  # and it is no shorter than it must be


@pytest.mark.parametrize(("heads", "width"), [(2, "column"), (3, "column"), (2, "page"), (3, "page"), (4, "page")])
def test_few_heads_in_print_stand_side_by_side(heads, width):
    assert grid_columns((64, 64), heads, PAPERS[width]) == heads


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    ("heads", "width"), [(1, None), (12, None), (1, "column"), (1, "page"), (4, "page"), (8, "page"), (12, "page")]
)
def test_each_of_sixteen_tokens_has_its_label(heads, width):
    with house_style(paper=width):
        figure = drawn("heads", 16, heads, "short", width, "weights", "causal")
    first = next(ax for ax in figure.axes if ax.get_label() == "panel 0")
    assert len(first.yaxis.get_majorticklocs()) == 16
    last = next(ax for ax in figure.axes if ax.get_label() == f"panel {heads - 1}")
    assert len(last.xaxis.get_majorticklocs()) == 16


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("heads", [5, 7, 11, 23])
def test_the_color_bar_takes_the_room_that_a_short_row_leaves(heads):
    with house_style():
        figure = drawn("heads", 500, heads, "none", None, "weights", "causal")
    panels = [ax.get_position() for ax in figure.axes if ax.get_label().startswith("panel")]
    (bar,) = (ax.get_position() for ax in figure.axes if ax.get_label() == "color bar")
    assert len({round(box.y0, 6) for box in panels}) > 1
    assert bar.x0 > panels[-1].x1
    assert bar.x1 <= max(box.x1 for box in panels)
    assert panels[-1].y0 <= bar.y0 < panels[-1].y1


def test_what_is_not_visible_is_named_once():
    with house_style():
        for pattern, count in (("causal", 1), ("full", 0)):
            figure = drawn("heads", 64, 8, "none", None, "weights", pattern)
            assert sum(" ".join(text.get_text().split()) == "not visible" for text in figure.texts) == count


def test_axes_are_named_once():
    with house_style():
        figure = drawn("heads", 64, 8, "none", None, "weights", "full")
    assert sorted(text.get_text() for text in figure.texts if text.get_text() in ("key", "query")) == ["key", "query"]
    assert not any(ax.get_ylabel() for ax in figure.axes if ax.get_label().startswith("panel"))


@pytest.mark.parametrize(("size", "square"), [((10, 10), True), ((16, 6), True), ((4, 12), True), ((10, 3), False)])
def test_pairs_are_squares_but_in_slivers(size, square):
    ax = heatmap(a_map(size[0], 0, "none", "weights", "full", size[1]))
    ax.figure.draw_without_rendering()
    box = ax.get_window_extent()
    assert (box.width / size[1] == pytest.approx(box.height / size[0], rel=1e-3)) == square


def test_a_dollar_is_a_dollar():
    ax = heatmap(a_map(4, 0, "long", "weights", "full"), title="costs $5 and $6", caption="$7, $8")
    figure = ax.figure
    figure.draw_without_rendering()
    texts = [ax.title, *(text for text in figure.texts if "$7" in text.get_text())]
    assert len(texts) == 2
    assert not any(text.get_parse_math() for text in texts)


def test_a_figure_that_grows_keeps_what_is_in_it():
    with house_style():
        figure = drawn("heads", 64, 5, "none", None, "weights", "causal")
        before = [ax.get_window_extent().bounds for ax in figure.axes]
        figure.draw_without_rendering()
        texts = [text.get_window_extent().bounds for text in figure.texts]
        grow(figure, above=0.5, below=0.25)
        figure.draw_without_rendering()
    down = 0.25 * figure.dpi
    for (x, y, wide, tall), ax in zip(before, figure.axes, strict=True):
        assert ax.get_window_extent().bounds == pytest.approx((x, y + down, wide, tall))
    for (x, y, *_), text in zip(texts, figure.texts, strict=True):
        assert text.get_window_extent().bounds[:2] == pytest.approx((x, y + down), abs=1.01)


def test_lines_are_as_wide_as_they_may_be():
    text = "a word, a/very/long/path/to/a/file/that/never/ends.safetensors and more"
    for inches in (0.3, 0.7, 2.0, 9.0):
        lines = wrapped(text, inches, 8)
        assert all(width_of(line, 8) <= inches for line in lines)
        assert "".join("".join(lines).split()) == "".join(text.split())
    assert wrapped("one\ntwo", 5, 8) == ["one", "two"]


@given(
    st.lists(st.text("abcdefgh", min_size=1, max_size=12), min_size=1, max_size=8),
    st.sampled_from(["_", "-", ".", "/", "::", ", "]),
    st.floats(1.0, 6.0),
)
def test_a_long_name_is_broken_after_separators(parts, separator, inches):
    text = separator.join(parts)
    lines = wrapped(text, inches, 10)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(width_of(one, 10) <= inches for one in lines)
    if max(width_of(part + separator, 10) for part in parts) <= inches:
        assert all(one.endswith(separator.strip()) for one in lines[:-1])


@pytest.mark.parametrize("width", PAPERS)
def test_no_word_of_a_side_is_broken_in_print(width):
    with house_style(paper=width):
        figure = drawn("difference", 16, 2, "short", width, "weights", "full")
    for ax in figure.axes[:2]:
        words = re.split(r"[ ,.\n]", ax.get_title())
        assert {"safetensors", "layer"} < {*words}, words


def test_labels_that_are_left_out_take_no_room():
    words = [f"w{n}" for n in range(40)]
    long = [word if n % 5 else "w" for n, word in enumerate(["internationalization"] * 40)]
    one, other = (ticks_of(range(40), labels, 2.0, horizontal=True) for labels in (words, long))
    assert list(one.locator.locs) == list(other.locator.locs) == list(range(0, 40, 5))
    assert other.room <= one.room


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_long_title_over_a_small_map_is_whole_and_every_tick_has_its_number(size):
    shown = a_map(size, 0, "none", "weights", "full")
    with house_style():
        ax = heatmap(shown, title=LONG)
        check(ax.figure, "heads", size, tokens=False)
    assert "".join(ax.get_title().split()) == "".join(LONG.split())
    for axis in (ax.xaxis, ax.yaxis):
        low, high = sorted(axis.get_view_interval())
        assert all(float(at).is_integer() for at in axis.get_majorticklocs() if low <= at <= high)
