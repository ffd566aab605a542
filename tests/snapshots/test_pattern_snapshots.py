"""``attnviz pattern`` in the terminal and as figures, as files in ``__snapshots__/test_pattern_snapshots/``."""

from __future__ import annotations

import hashlib

import pytest
import torch

PLAIN = ["[CLS]", "who", "may", "see", "whom", "and", "[PAD]", "[SEP]"]
HARD = ["[CLS]", "who", "may", "see", "注意", "\x1b[31mred", "supercalifragilistic", "[SEP]"]


@pytest.fixture
def sentence(dump):
    """Writes a dump of eight tokens, the last but one padded, globals at both ends."""

    def write(tokens: list[str]) -> str:
        exists = torch.arange(8) != 6
        changes = {"tokens": [tokens], "key_padding_mask": exists[None]}
        return dump(heads=2, tokens=8, head_dim=8, global_positions=(0, 7), changes=changes)

    return write


@pytest.fixture
def figure(attnviz_says, tmp_path):
    """The PNG that ``attnviz pattern`` makes, 80 dots an inch."""

    def draw(*options: str) -> bytes:
        attnviz_says("pattern", *options, "--dpi", "80", "-o", "picture.png")
        return (tmp_path / "picture.png").read_bytes()

    return draw


# Terminal


def test_the_picture_without_any_option(attnviz_says, snapshot_of):
    assert attnviz_says("pattern") == snapshot_of("txt")


def test_a_dilated_causal_window(attnviz_says, snapshot_of):
    options = ("--pattern", "local", "--window", "2", "--dilation", "2", "--causal", "--tokens", "12")
    assert attnviz_says("pattern", *options) == snapshot_of("txt")


def test_weights_beside_the_reasons(attnviz_says, sentence, snapshot_of):
    assert attnviz_says("pattern", sentence(HARD), "--window", "1", "--head", "1") == snapshot_of("txt")


def test_a_pattern_longer_than_the_terminal(attnviz_says, snapshot_of):
    said = attnviz_says("pattern", "--tokens", "4096", "--global", "every:1024", "--window", "256", width=72)
    assert max(map(len, said.splitlines())) <= 72
    assert said == snapshot_of("txt")


def test_the_story_in_the_terminal(attnviz_says, snapshot_of):
    assert attnviz_says("pattern", "--story", "--tokens", "8", "--window", "1") == snapshot_of("txt")


# Figures


def test_the_figure_without_any_option(figure, snapshot_of):
    assert figure() == snapshot_of("png")


def test_the_story(figure, snapshot_of):
    assert figure("--story", "--title", "Longformer's attention") == snapshot_of("png")


def test_weights_as_squares(figure, sentence, snapshot_of):
    assert figure(sentence(PLAIN), "--window", "1", "--head", "1") == snapshot_of("png")


def test_weights_as_shades(figure, dump, snapshot_of):
    name = dump(heads=1, tokens=300, head_dim=8, global_positions=(0, 100))
    assert figure(name, "--window", "40", "--causal") == snapshot_of("png")


def test_every_format_is_the_same_bytes_twice(attnviz_says, sentence, tmp_path):
    name = sentence(PLAIN)

    def digests() -> list[str]:
        for suffix in ("png", "svg", "pdf"):
            attnviz_says("pattern", name, "--story", "-o", f"story.{suffix}")
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(tmp_path.glob("story.*"))]

    assert digests() == digests()
