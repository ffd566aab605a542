"""What figures' files say of themselves, read back from each kind of file."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from PIL import Image

import attnviz
from attnviz.base.writing import PICTURES
from attnviz.show.figures.about import About, read_about
from attnviz.show.figures.style import save_figure

WORDS = [
    "run.safetensors layer 2, head 3. Pattern: full.",
    r"A (nested (one)), a back\slash, <tags> & 'quotes' " + '"two"',
    "猫は「眠い」 − 10 queries × 3 keys ≈ 😀",
    "lines\nof words",
]


@pytest.mark.parametrize("suffix", PICTURES)
@pytest.mark.parametrize("words", WORDS)
def test_words_and_settings_come_back(tmp_path, suffix, words):
    about = About(words, {"kind": "plot heatmap", "norm": "log", "title": words, "vmax": 0.5})
    path = tmp_path / f"figure{suffix}"
    save_figure(Figure(figsize=(1, 1)), path, about=about)
    assert read_about(path) == about


@pytest.mark.parametrize("words", WORDS)
def test_an_svg_says_the_words_to_readers_of_pages(tmp_path, words):
    save_figure(Figure(figsize=(1, 1)), tmp_path / "figure.svg", about=About(words + "<script>\x1b"))
    root = ElementTree.parse(tmp_path / "figure.svg").getroot()
    said = " ".join(words.split()) + "<script>�"
    assert (root.get("role"), root.get("aria-label")) == ("img", said)
    assert (root[0].tag, root[0].text) == ("{http://www.w3.org/2000/svg}desc", said)


@pytest.mark.parametrize("suffix", PICTURES)
def test_the_same_words_are_the_same_bytes(tmp_path, suffix):
    for name in ("a", "b"):
        save_figure(Figure(figsize=(1, 1)), tmp_path / f"{name}{suffix}", about=About("words", {"kind": "plot"}))
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", PICTURES)
def test_figures_of_others_say_nothing(tmp_path, suffix):
    path = tmp_path / f"figure{suffix}"
    Figure(figsize=(1, 1)).savefig(path)
    with pytest.raises(attnviz.InputError, match="doesn't say how it was made"):
        read_about(path)


@pytest.mark.parametrize("suffix", PICTURES)
def test_what_is_no_figure_is_told(tmp_path, suffix):
    path = tmp_path / f"figure{suffix}"
    with pytest.raises(attnviz.InputError, match="cannot be read"):
        read_about(path)
    path.write_bytes(b"")
    with pytest.raises(attnviz.InputError, match=r"figure\."):
        read_about(path)


def test_a_png_is_still_a_picture(tmp_path):
    save_figure(Figure(figsize=(1, 1)), tmp_path / "a.png", dpi=50, about=About("words"))
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (50, 50)
