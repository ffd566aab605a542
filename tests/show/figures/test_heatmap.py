"""Heatmaps as matplotlib draws them: sizes, settings, labels, files."""

from __future__ import annotations

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import attnviz
from attnviz.show.figures.heatmap import heads_grid, heatmap
from attnviz.show.figures.layout import label_text
from attnviz.show.figures.style import PAPERS, colormap, house_style, save_figure
from attnviz.show.scale.colors import is_dark


def some_map(tokens: list[str] | None = None, head: int = 0, T: int = 6) -> attnviz.AttentionMap:
    inputs = attnviz.synthesize(heads=head + 1, tokens=T, head_dim=4, global_positions=(0,))
    if tokens is not None:
        inputs = replace(inputs, tokens=[tokens])
    return attnviz.attention_map(inputs, head, attnviz.Full())


def tick_texts(axis) -> list[str]:
    return [axis.get_major_formatter()(at, None) for at in axis.get_majorticklocs()]


def test_it_draws_into_the_axes_given():
    ax = Figure().add_subplot()
    assert heatmap(some_map(), ax) is ax


def test_settings_of_the_user_are_honored():
    with mpl.rc_context({"axes.titlesize": 23, "figure.facecolor": "0.1", "axes.facecolor": "0.1"}):
        ax = heatmap(some_map())
        assert ax.title.get_fontsize() == 23
        assert ax.get_figure().get_facecolor()[:3] == (0.1, 0.1, 0.1)
        assert is_dark(colormap(None, "weights").get_bad()[:3])
    assert not is_dark(colormap(None, "weights").get_bad()[:3])


def test_seaborn_themes_are_honored():
    seaborn = pytest.importorskip("seaborn")
    with mpl.rc_context():
        seaborn.set_theme(style="dark", font_scale=2)
        assert heatmap(some_map()).title.get_fontsize() == 24


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("paper", ["column", "page"])
@pytest.mark.parametrize("heads", [1, 12, 144])
def test_papers_have_their_width_and_nothing_is_cut_off(paper, heads):
    with house_style(paper=paper):
        maps = [replace(some_map(), head=head) for head in range(heads)]
        draw = heads_grid if heads > 1 else lambda maps, **look: heatmap(maps[0], **look).get_figure()
        figure = draw(maps, width=PAPERS[paper], caption="what this is " * 20)
        figure.draw_without_rendering()
        taken, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert width == PAPERS[paper]
    assert (taken.x0 >= 0, taken.y0 >= 0, taken.x1 <= width, taken.y1 <= height) == (True, True, True, True)


def test_every_column_of_a_grid_has_its_keys_below():
    maps = [replace(some_map(), head=head) for head in range(5)]
    figure = heads_grid(maps)
    panels = [ax for ax in figure.axes if ax.images and ax.get_title().startswith("head")]
    lowest = {round(ax.get_position().x0, 2): ax for ax in panels}  # the last of each column
    assert len(panels) == 5
    assert all(ax.xaxis.get_visible() == (ax in lowest.values()) for ax in panels)
    assert [text.get_text() for text in figure.texts if text.get_text() in ("key", "query")] == ["key", "query"]


@pytest.mark.sweep
def test_titles_of_many_heads_do_not_touch():
    with house_style(paper="page"):
        figure = heads_grid([replace(some_map(), head=head) for head in range(144)], width=PAPERS["page"])
        figure.draw_without_rendering()
        boxes = [ax.title.get_window_extent() for ax in figure.axes if ax.get_title()]
    assert len(boxes) == 144
    assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[n + 1 :])


def test_the_theme_is_dark():
    with house_style(theme="dark"):
        figure = heatmap(some_map()).get_figure()
        assert is_dark(figure.get_facecolor()[:3])
        assert not is_dark(mpl.colors.to_rgb(mpl.rcParams["text.color"]))


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ("the", "5  the"),
        ("a\nb\tc", "5  a⏎b⇥c"),
        ("$x$", r"5  \$x\$"),
        ("\x07", "5  �"),
        ("a" * 30, "5  " + "a" * 13 + "…"),
        ("שלום", "\u200e5  שלום"),
        ("سلام", "\u200e5  سلام"),
    ],
)
def test_labels(token, text):
    assert label_text(5, token) == text


def test_labels_of_an_axis_are_the_maps():
    ax = heatmap(some_map(["The", "␣caf", "é", "\n", "␣a", "b"]))
    assert tick_texts(ax.yaxis) == ["0  The", "1  ␣caf", "2  é", "3  ⏎", "4  ␣a", "5  b"]


def test_a_token_from_the_right_stays_behind_its_position():
    if mpl.__version_info__[:2] < (3, 11):
        pytest.skip("matplotlib before 3.11 draws letters from left to right")
    tokens = ["אבג", "b", "c", "d", "e", "f"]
    drawn = []
    for text in (label_text(0, tokens[0]), label_text(0, tokens[0][::-1])):
        figure = Figure(figsize=(2, 0.5), dpi=100)
        figure.text(0.1, 0.5, text)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        drawn.append(np.asarray(canvas.buffer_rgba())[..., 0] < 128)
    positions = [np.flatnonzero(one.any(0))[:5].tolist() for one in drawn]  # the 0 comes first, in both
    assert positions[0] == positions[1]
    assert (drawn[0] != drawn[1]).any()


def test_fonts_are_embedded_and_svg_has_text(tmp_path):
    with house_style():
        figure = heatmap(some_map(["naïve", "b", "c", "d", "e", "f"])).get_figure()
        for suffix in ("pdf", "svg"):
            save_figure(figure, tmp_path / f"map.{suffix}")
    pdf = (tmp_path / "map.pdf").read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/Type0" in pdf  # type 42 in a CID font: text that can be searched, not type 3 outlines
    assert b"/Type3" not in pdf
    assert "0  naïve</text>" in (tmp_path / "map.svg").read_text(encoding="utf-8")
