"""What ``attnviz explain`` teaches, as files in ``__snapshots__/test_lesson_snapshots/``."""

from __future__ import annotations

import pytest
import torch

TOKENS = ["[CLS]", "The", " Ġthe", "注意", "a|b", "`x`", "", "長いトークンは切り詰める", "*b*", "<i>"]


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_a_lesson(attnviz_says, dump, snapshot_of, lang):
    arguments = ("--head", "2", "--token", "5", "--key", "1", "--lang", lang, "--format", "markdown")
    assert attnviz_says("explain", dump(), *arguments) == snapshot_of("md")


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("lang", ["en", "ja"])
def test_a_lesson_in_the_terminal(attnviz_says, dump, snapshot_of, lang, width):
    arguments = ("--head", "2", "--token", "5", "--key", "1", "--lang", lang)
    assert attnviz_says("explain", dump(), *arguments, width=width) == snapshot_of("txt")


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_every_step_that_a_model_can_add(attnviz_says, dump, snapshot_of, lang):
    made = dump(heads=4, kv_heads=2, tokens=10, head_dim=16, batch=2)
    import attnviz

    inputs = attnviz.load(made)
    changes = {name: getattr(inputs, name[0]).flip(2).contiguous() for name in ("q_global", "k_global", "v_global")}
    changes |= {
        "tokens": [TOKENS, TOKENS],
        "softcap": 3.0,
        "bias": torch.linspace(-1, 1, 400, dtype=torch.float64).reshape(4, 10, 10),
        "alibi_slopes": torch.tensor([0.5, 0.25, 0.125, 0.0625]),
        "sinks": torch.tensor([0.0, 0.5, 1.0, 1.5]),
    }
    name = dump(heads=4, kv_heads=2, tokens=10, head_dim=16, batch=2, changes=changes)
    arguments = ("--pattern", "local+global", "--window", "2", "--batch", "1", "--head", "3", "--token", "3")
    assert attnviz_says("explain", name, *arguments, "--key", "7", "--lang", lang) == snapshot_of("txt")


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_many_keys_a_scale_of_its_own_and_no_values(attnviz_says, dump, snapshot_of, lang):
    name = dump(heads=1, tokens=64, head_dim=8, changes={"v": None, "tokens": None})
    arguments = ("--pattern", "causal", "--scale", "0.2", "--key", "3", "--lang", lang, "--format", "markdown")
    assert attnviz_says("explain", name, *arguments) == snapshot_of("md")
