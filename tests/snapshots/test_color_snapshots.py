"""What norms, themes and papers look like, compared by structural similarity: what a reader sees, not single bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import attnviz
from attnviz.show.figures.heatmap import heatmap
from attnviz.show.figures.style import house_style, save_figure

SENTENCE = ["The", "Ġcaf", "Ã©", "Ġis", "Ġopen", "Ċ"]


@pytest.fixture
def picture(attnviz_says, dump, tmp_path):
    """The PNG of 24 tokens, 80 dots an inch, of one head or more."""

    def draw(*options: str, heads: str = "1") -> bytes:
        case = {"heads": 4, "tokens": 24, "head_dim": 16}
        name = dump(**case, changes={"tokens": [SENTENCE * 4], "token_form": "byte-level"})
        attnviz_says("plot", name, "--pattern", "causal", "--head", heads, "--dpi", "80", "-o", "picture.png", *options)
        return (tmp_path / "picture.png").read_bytes()

    return draw


@pytest.mark.parametrize("norm", ["log", "power", "rank", "row"])
def test_norms(picture, snapshot_of, norm):
    assert picture("--norm", norm, "--caption") == snapshot_of("look")


def test_robust(picture, snapshot_of):
    assert picture("--robust", "--caption") == snapshot_of("look")


def test_logits_by_row(picture, snapshot_of):
    assert picture("--values", "logits", "--norm", "row") == snapshot_of("look")


def test_dark(picture, snapshot_of):
    assert picture("--theme", "dark", "--caption") == snapshot_of("look")


def test_a_column_of_a_paper(picture, snapshot_of):
    assert picture("--width", "column", "--norm", "log", "--caption", heads="all") == snapshot_of("look")


# That the comparison sees what a reader would, and nothing else.


def drawn(path: Path, change: float = 0.0, noise: float = 0.0) -> bytes:
    inputs = attnviz.synthesize(heads=1, tokens=24, head_dim=16, dtype="float64")
    shown = attnviz.attention_map(inputs, 0, attnviz.Full())
    cells = shown.cells + np.random.default_rng(0).uniform(-noise, noise, shown.cells.shape)
    cells[12, 7] += change
    with house_style():
        save_figure(heatmap(replace(shown, cells=cells), vmax=0.5).get_figure(root=True), path, dpi=80)
    return path.read_bytes()


def test_noise_that_nobody_sees_does_not_matter(tmp_path, likeness_extension):
    plain, noisy = drawn(tmp_path / "a.png"), drawn(tmp_path / "b.png", noise=1e-6)
    assert likeness_extension.matches(serialized_data=noisy, snapshot_data=plain)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("change", [0.1, 0.4, np.nan])
def test_a_changed_cell_is_seen(tmp_path, likeness_extension, change):
    plain, changed = drawn(tmp_path / "a.png"), drawn(tmp_path / "b.png", change)
    assert not likeness_extension.matches(serialized_data=changed, snapshot_data=plain)
    assert "the likeness is" in "".join(likeness_extension.diff_lines(changed, plain))
