"""Pictures under weights, on the command line: from a dump made by hand, over a picture of one's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import attnviz
from attnviz import AttentionInputs
from attnviz.sources.files import write_tensors
from attnviz.sources.saving import tensors_of
from tests.strategies import normal


def seen(T: int, S: int) -> AttentionInputs:
    return AttentionInputs(normal((2, T, 4), 0), normal((2, S, 4), 1))


@pytest.fixture
def by_hand(tmp_path, monkeypatch) -> Path:
    """A dump with tokens and nothing of a picture, and a picture."""
    monkeypatch.chdir(tmp_path)
    inputs = replace(seen(8, 8), tokens=[["a", "cat", *["<image>"] * 4, "what", "?"]])
    attnviz.save("vlm.safetensors", inputs)
    Image.new("RGB", (20, 12), "teal").save("cat.png")
    return tmp_path


def test_a_dump_made_by_hand_is_laid_over_a_picture_of_ones_own(run, by_hand):
    options = ("--overlay", "--pattern", "full", "--patches", "2:2x2", "-o", "figure.svg", "--caption")
    assert run("plot", "vlm.safetensors", *options, "--picture", "cat.png", "--queries", "what", "--mean").code == 0
    assert run("plot", "vlm.safetensors", *options, "--queries", "6:8", "--each").code == 0  # on a blank page


def test_metadata_say_how_patches_lie(run, by_hand):
    tensors = tensors_of(seen(5, 5)) | {"picture": torch.zeros(8, 8, 3, dtype=torch.uint8)}
    write_tensors(Path("seen.safetensors"), tensors, {"format": 1, "patches": "1:2x2"})
    assert run("plot", "seen.safetensors", "--overlay", "--pattern", "full", "-o", "figure.png").code == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "say how patches lie"),
        (("--patches", "3x3"), "fewer than the picture's 3 x 3 patches"),
        (("--patches", "two"), "is no grid of patches"),
        (("--patches", "2:2x2"), "its queries are no patches"),
        (("--patches", "2:2x2", "--queries", "0:2", "--keys", "2:4"), "leave --keys out"),
        (("--patches", "2:2x2", "--grid", "pixels"), "not one of keys, queries"),
        (("--patches", "2:2x2", "--each"), "name some with --queries"),
        (("--patches", "2:2x2", "--grid", "queries"), "name it with --keys"),
        (("--patches", "2:2x2", "--queries", "0:1", "--picture", "gone.png"), "there is no such file"),
        (("--patches", "2:2x2", "--queries", "0:1", "--picture", "vlm.safetensors"), "not a picture"),
        (("--patches", "2:2x2", "--queries", "0:1", "--spans", "a:0-3"), "single patches"),
        (("--patches", "2:2x2", "--values", "logits"), "leave --values out"),
    ],
)
def test_what_cannot_be_laid_is_one_line(run, by_hand, options, says):
    result = run("plot", "vlm.safetensors", "--overlay", "--pattern", "full", *options, "-o", "figure.png")
    assert (result.code, len(result.err.splitlines())) == (2, 1)
    assert says in result.err
    assert not Path("figure.png").exists()
