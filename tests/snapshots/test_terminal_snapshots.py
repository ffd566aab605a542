"""``attnviz show`` in every number of colors, as files in ``__snapshots__/test_terminal_snapshots/``.

Escape codes are written as ``⎋``, so that the files are text.
"""

from __future__ import annotations

import pytest
import torch

TOKENS = ["[CLS]", "Ġthe", "猫", "sat", "注意", "supercalifragilistic", "[PAD]", "[SEP]"]
SYSTEMS = ["truecolor", "256", "16", "none"]


@pytest.fixture
def sentence(dump):
    exists = torch.arange(8) != 6
    changes = {"tokens": [TOKENS], "token_form": "byte-level", "key_padding_mask": exists[None]}
    return dump(heads=4, tokens=8, head_dim=8, global_positions=(0, 7), changes=changes)


@pytest.fixture
def shown(attnviz_says, monkeypatch):
    def run(*options: str, width: int = 60) -> str:
        return attnviz_says("show", *options, width=width).replace("\x1b", "⎋")

    return run


@pytest.mark.parametrize("color", SYSTEMS)
def test_one_head(shown, sentence, snapshot_of, color):
    assert shown(sentence, "--head", "3", "--pattern", "causal", "--color", color) == snapshot_of("txt")


@pytest.mark.parametrize("color", SYSTEMS)
def test_logits(shown, sentence, snapshot_of, color):
    options = ["--head", "1", "--pattern", "full", "--values", "logits", "--color", color]
    assert shown(sentence, *options) == snapshot_of("txt")


def test_a_grid(shown, sentence, snapshot_of):
    assert shown(sentence, "--all", "--pattern", "full", "--norm", "power") == snapshot_of("txt")


def test_a_long_map(shown, dump, snapshot_of):
    name = dump(heads=1, tokens=300, head_dim=8, global_positions=(0, 100, 200))
    assert shown(name, "--pattern", "local+global", "--window", "20", "--norm", "rank") == snapshot_of("txt")
