"""A text shaded by what one query sees, read back from matplotlib's own objects."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

import attnviz
from attnviz import InputError
from attnviz.attention.patterns import Causal, Full
from attnviz.show.figures.strip import strip, strips
from attnviz.show.figures.style import colormap
from attnviz.show.scale.colors import HIDDEN, is_dark
from tests import reference

WORDS = ["[CLS]", "the", "naïve", "cat", "$at", "it", "##self", "[SEP]"]


def inputs(tokens=WORDS, form="wordpiece") -> attnviz.AttentionInputs:
    made = attnviz.synthesize(heads=2, tokens=len(tokens), head_dim=4, dtype="float64")
    return replace(made, tokens=[tokens], token_form=form)


def row(query=5, head=0, tokens=WORDS, pattern=None, form="wordpiece"):
    return attnviz.attention_map(
        inputs(tokens, form), head, pattern or Full(), queries=range(query, query + 1), pixels=len(tokens)
    )


def words(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def lines(ax) -> list[list[str]]:
    """The texts of each line, in reading order."""
    found: dict[float, list[str]] = {}
    for text in ax.texts:
        found.setdefault(text.get_position()[1], []).append(text.get_text())
    return [found[y] for y in sorted(found)]


def test_each_token_is_shaded_by_its_weight():
    ax = strip(row())
    source = inputs()
    weights = reference.attend(source.q[0], source.k[0], np.ones((8, 8), dtype=bool)).weights[0, 5]
    colors = ax.collections[0].get_facecolor()
    np.testing.assert_allclose(colors, colormap(None, "weights")(weights / weights.max()), atol=0.02)


def test_letters_are_light_on_dark_shades():
    ax = strip(row())
    for text, (red, green, blue, _) in zip(ax.texts, ax.collections[0].get_facecolor(), strict=True):
        assert text.get_color() == ("white" if is_dark((red, green, blue)) else "black")


def test_tokens_that_are_not_visible_are_gray():
    ax = strip(row(query=3, pattern=Causal()))
    assert {text.get_color() for text in ax.texts[4:]} == {"0.55"}
    np.testing.assert_allclose(ax.collections[0].get_facecolor()[4:, :3], HIDDEN[0], atol=0.005)


def test_words_are_as_a_reader_expects_them():
    assert words(strip(row())) == ["[CLS]", "the", "naïve", "cat", "$at", "it", "self", "[SEP]"]
    gpt = ["The", "Ġcat", "Ċ", "Ġsat", "Ġ", "."]
    ax = strip(row(query=1, tokens=gpt, form="byte-level"))
    assert lines(ax) == [["The", "cat", "⏎"], ["sat", "␣", "."]]


def test_the_query_has_a_frame():
    ax = strip(row(query=5))
    (frame,) = [patch for patch in ax.patches if not patch.get_fill()]
    x, _ = ax.texts[5].get_position()
    assert frame.get_x() < x < frame.get_x() + frame.get_width()
    assert ax.get_title(loc="left") == "head 0 · what query 5 (it) sees"


@pytest.mark.parametrize("tokens", [["word"] * 300, ["東京", "に", "住む"] * 60, [f"{'x' * 70}"] * 5])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_boxes_hold_their_letters_and_stay_on_the_page(tokens):
    figure = strip(row(tokens=tokens, query=2)).get_figure()
    ax = figure.axes[0]
    figure.draw_without_rendering()
    boxes = [path.get_extents(ax.transData) for path in ax.collections[0].get_paths()]
    for text, box in zip(ax.texts, boxes, strict=True):
        extent = text.get_window_extent()
        assert extent.x0 >= box.x0 - 1
        assert extent.x1 <= box.x1 + 1
    ordered = sorted(boxes, key=lambda box: (-box.y0, box.x0))
    for before, after in itertools.pairwise(ordered):
        assert after.x0 >= before.x1 - 0.01 or after.y1 <= before.y0 + 0.01
    bar = figure.axes[1].get_window_extent()
    assert max(box.x1 for box in boxes) < bar.x0
    assert min(box.y0 for box in boxes) >= 0


def test_heads_share_a_scale_and_lines():
    figure = strips([row(head=0), row(head=1)])
    one, other, _ = figure.axes
    assert (one.get_title(loc="left"), other.get_title(loc="left")) == ("head 0", "head 1")
    source = inputs()
    weights = reference.attend(source.q[0], source.k[0], np.ones((8, 8), dtype=bool)).weights[:, 5]
    for ax, own in zip((one, other), weights, strict=True):
        expected = colormap(None, "weights")(own / weights.max())
        np.testing.assert_allclose(ax.collections[0].get_facecolor(), expected, atol=0.02)
    assert figure.get_suptitle() == "what query 5 (it) sees"


def test_it_draws_into_the_axes_given():
    ax = Figure(figsize=(3, 2)).add_subplot()
    assert strip(row(), ax, title="mine") is ax
    assert len(lines(ax)) > 1
    assert ax.get_title(loc="left") == "mine"


def test_without_labels_positions_stand_for_tokens():
    bare = replace(inputs(), tokens=None)
    ax = strip(attnviz.attention_map(bare, 0, Full(), queries=range(1, 2)))
    assert words(ax) == [str(n) for n in range(8)]


@pytest.mark.parametrize(
    ("shown", "says"),
    [
        (attnviz.attention_map(inputs(), 0, Full()), "the map has 8 queries"),
        (
            attnviz.attention_map(inputs(), 0, Full(), queries=range(1), pixels=4),
            "cells of this map stand for 2; make it with pixels=8",
        ),
    ],
)
def test_what_is_no_strip_is_refused(shown, says):
    with pytest.raises(InputError, match=says):
        strip(shown)


def test_too_many_tokens_in_all_are_refused():
    long = [row(tokens=["w"] * 2000, query=1)] * 3
    with pytest.raises(InputError, match="4,096 at most, and there are 2,000 of 3 heads"):
        strips(long)
