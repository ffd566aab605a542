"""What patterns, stats and diff print and draw, as files in ``__snapshots__/test_attention_snapshots/``."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import attnviz
from tests.snapshots.test_table_snapshots import readable

PATTERNS = {
    "causal": ("--pattern", "causal"),
    "local": ("--pattern", "local", "--window", "1", "--dilation", "2"),
    "longformer": ("--pattern", "local+global", "--window", "2"),
}


@pytest.fixture
def layers(tmp_path):
    """A dump of two layers, float64."""
    from safetensors.torch import save_file

    inputs = [attnviz.synthesize(seed=n, dtype="float64", heads=3, tokens=12, head_dim=8) for n in range(2)]
    tensors = {f"layers.{n}.{role}": getattr(i, role) for n, i in enumerate(inputs) for role in ("q", "k")}
    save_file({**tensors, "global_mask": inputs[0].global_mask}, tmp_path / "layers.safetensors")
    return "layers.safetensors"


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("name", PATTERNS)
def test_scores_of_a_pattern(attnviz_says, dump, snapshot_of, name, width):
    options = ("--head", "1", *PATTERNS[name])
    said = attnviz_says("score", dump(heads=2, tokens=8, head_dim=8), *options, width=width)
    assert max(map(len, said.splitlines())) <= width
    assert said == snapshot_of("txt")


def test_logits_of_a_pattern_and_a_padded_query(attnviz_says, dump, snapshot_of):
    exists = torch.arange(8) < 7
    name = dump(heads=1, tokens=8, head_dim=8, global_positions=(0, 3), changes={"key_padding_mask": exists[None]})
    assert attnviz_says("score", name, "--values", "logits", *PATTERNS["longformer"]) == snapshot_of("txt")


def test_json_of_a_pattern(attnviz_says, dump, snapshot_of):
    name = dump(heads=1, tokens=6, head_dim=8, global_positions=(0, 3))
    options = ("--pattern", "local+global", "--window", "1")
    assert readable(attnviz_says("score", name, *options, "--format", "json")) == snapshot_of("json")


@pytest.mark.parametrize("width", [80, 100, 160])
def test_stats(attnviz_says, layers, snapshot_of, width):
    said = attnviz_says("stats", layers, *PATTERNS["longformer"], "--sort", "entropy", width=width)
    assert max(map(len, said.splitlines())) <= width
    assert said == snapshot_of("txt")


def test_stats_as_json(attnviz_says, layers, snapshot_of):
    assert readable(attnviz_says("stats", layers, "--pattern", "causal", "--format", "json")) == snapshot_of("json")


def test_stats_as_csv(attnviz_says, layers, snapshot_of):
    assert attnviz_says("stats", layers, "--pattern", "causal", "--format", "csv") == snapshot_of("csv")


@pytest.fixture
def pair(dump, tmp_path):
    """A dump, and what a kernel that is wrong in one cell gives for it."""
    name = dump(heads=3, tokens=10, head_dim=8)
    weights = attnviz.score(attnviz.load(tmp_path / name), attnviz.attention.patterns.Causal()).weights.clone()
    weights[1, 7, 2] += 0.125
    torch.save({"weights": weights}, tmp_path / "kernel.pt")
    return name, "kernel.pt:weights"


# Within the tolerance, so that the program ends well; what is beyond is marked all the same.
@pytest.mark.parametrize("width", [80, 100])
def test_diff(attnviz_says, pair, snapshot_of, width):
    said = attnviz_says("diff", *pair, "--pattern", "causal", "--atol", "0.2", width=width)
    assert max(map(len, said.splitlines())) <= width
    assert said == snapshot_of("txt")


def test_diff_of_logits(attnviz_says, dump, snapshot_of):
    name = dump(heads=2, tokens=6, head_dim=8)
    options = ("--values", "logits", "--b-scale", "0.5", "--atol", "3", "--top-k", "1")
    assert attnviz_says("diff", name, *options, width=100) == snapshot_of("txt")


def test_diff_as_json(attnviz_says, pair, snapshot_of):
    options = ("--pattern", "causal", "--atol", "0.2", "--format", "json", "--head", "1")
    assert readable(attnviz_says("diff", *pair, *options)) == snapshot_of("json")


# Pictures


def test_stats_of_layers_and_heads(attnviz_says, layers, snapshot_of, tmp_path):
    attnviz_says("stats", layers, "--statistic", "global_mass", "--pattern", "causal", "-o", "picture.png")
    assert (tmp_path / "picture.png").read_bytes() == snapshot_of("png")


def test_diff_side_by_side(attnviz_says, pair, snapshot_of, tmp_path):
    attnviz_says("diff", *pair, "--pattern", "causal", "--atol", "0.2", "--head", "1,2", "-o", "picture.png")
    assert (tmp_path / "picture.png").read_bytes() == snapshot_of("png")


def test_a_padded_map_of_a_pattern(attnviz_says, dump, snapshot_of, tmp_path):
    inputs = attnviz.synthesize(dtype="float64", heads=1, tokens=24, head_dim=8)
    padded = replace(inputs, key_padding_mask=torch.arange(24)[None] < 20)
    attnviz.save(tmp_path / "padded.safetensors", padded)
    attnviz_says("plot", "padded.safetensors", *PATTERNS["longformer"], "--dpi", "80", "-o", "picture.png")
    assert (tmp_path / "picture.png").read_bytes() == snapshot_of("png")
