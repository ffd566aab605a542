"""``attnviz overview``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import attnviz
from attnviz.sources.files import write_tensors


@pytest.fixture
def model(folder):
    """A dump of four layers of two heads: ``run.npz``."""
    tensors = {}
    for layer in range(4):
        inputs = attnviz.synthesize(heads=2, tokens=6, head_dim=4, seed=layer)
        tensors |= {f"layers.{layer}.q": inputs.q, f"layers.{layer}.k": inputs.k}
    tensors["global_mask"] = torch.arange(6).eq(0)[None]
    write_tensors(folder / "run.npz", tensors, {})
    return "run.npz"


def test_it_draws_every_layer(run, model, folder):
    result = run("overview", model, "--pattern", "causal", "-o", "model.png")
    assert (result.code, result.out) == (0, "")
    assert result.err.splitlines()[-1] == "attnviz: wrote model.png"
    assert np.asarray(Image.open("model.png")).shape[0] > 4 * 150


def test_a_sink_is_told_with_its_layer(run, folder):
    k = torch.zeros(1, 1, 20, 4)
    k[..., 2, 0] = 20  # key 2 takes all
    q = torch.zeros(1, 1, 20, 4)
    sink = q.clone()
    sink[..., 0] = 1
    tensors = {"layers.0.q": q, "layers.0.k": k, "layers.1.q": sink, "layers.1.k": k}
    write_tensors(folder / "run.npz", tensors, {})
    said = run("overview", "run.npz", "--pattern", "full", "-o", "model.svg", "--caption").err
    assert "attnviz: in 1 of 2 heads one column stands out; in layer 1, head 0, key 2 takes over 99%" in said


def test_some_layers_and_heads_make_a_smaller_figure(run, model):
    run("overview", model, "--pattern", "causal", "-o", "all.png")
    run("overview", model, "--pattern", "causal", "--layer", "1,3", "--head", "0", "-o", "some.png")
    heights = [Image.open(path).size[1] for path in ("all.png", "some.png")]
    assert heights[0] - heights[1] == 2 * 165


@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_other_formats(run, model, folder, suffix):
    assert run("overview", model, "--each", "--caption", "-o", f"model.{suffix}").code == 0
    assert (folder / f"model.{suffix}").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--layer", "7"), "run.npz: --layer 7 is out of range; the file holds layers 0, 1, 2, 3"),
        (("--head", "2"), "--head '2': head 2 is out of range"),
        (("--reduce", "mean"), "--reduce 'mean' is not one of max, mass"),
        (("--values", "logits", "--reduce", "mass"), "mass sums weights"),
        (("--norm", "cubic"), "--norm 'cubic' is not one of"),
        (("--batch", "1"), "--batch '1': batch item 1 is out of range"),
        (("-o", "model.npz"), r"model.npz: .*\.png"),
    ],
)
def test_bad_options_are_one_line(refused, model, options, says):
    refused("overview", model, "-o", "model.png", *options, says=says)
