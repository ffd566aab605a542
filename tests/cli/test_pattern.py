"""``attnviz pattern``: its choices, and each misuse in one line with nothing written."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import attnviz
from tests.cases import small


def title(result) -> str:
    assert result.code == 0, result.err
    return result.out.splitlines()[0]


def test_without_options_it_is_local_and_global(run):
    assert title(run("pattern")) == "local, window 2 + global + global queries · queries 16 × keys 16"


def test_the_defaults_follow_the_number_of_tokens(run):
    for tokens in (1, 2, 40):
        window = max(1, tokens // 8)
        assert title(run("pattern", "--tokens", tokens)).startswith(f"local, window {window} + ")


def test_a_source_gives_sizes_mask_labels_and_weights(run, dump):
    result = run("pattern", dump, "--head", "2")
    assert title(result).startswith("batch item 0, head 2 · local, window 1 + global + global queries · queries 6 ×")
    assert "5 t5" in result.out
    assert "weight, a full bar is" in result.out


def test_head_none_leaves_the_weights_out(run, dump):
    result = run("pattern", dump, "--head", "none")
    assert title(result).startswith("batch item 0 · local, window 1")
    assert "weight" not in result.out


def test_the_pattern_of_the_dump_itself_comes_first(run, folder):
    from attnviz.sources.files import write_tensors

    inputs = small(batch=1)
    tensors = {"q": inputs.q, "k": inputs.k, "global_mask": inputs.global_mask}
    write_tensors(folder / "own.npz", tensors, {"pattern": {"name": "local", "window": 3}})
    assert title(run("pattern", "own.npz")).startswith("head 0 · local, window 3 ·")
    assert title(run("pattern", "own.npz", "--pattern", "causal")).startswith("head 0 · causal ·")


def test_a_mask_of_ones_own_gives_the_number_of_tokens(run, folder):
    np.save("mask.npy", np.tri(5, dtype=bool))
    result = run("pattern", "--mask-file", "mask.npy")
    assert title(result) == "own mask · queries 5 × keys 5"
    assert re.search(r"O own mask +15 pairs +60.00%", result.out)


def test_a_part_of_the_map(run):
    result = run("pattern", "--tokens", "100", "--queries", "50:60", "--keys", "40:70")
    assert title(result).endswith("queries 10 × keys 30")
    assert result.out.splitlines()[2].startswith("50 ")


def test_the_story_tells_three(run):
    titles = [line for line in run("pattern", "--story").out.splitlines() if "queries 16" in line]
    assert [line.split(" · ")[0] for line in titles] == [
        "global + global queries",
        "local, window 2",
        "local, window 2 + global + global queries",
    ]


def test_a_figure_says_where_it_is(run, folder):
    result = run("pattern", "-o", "pattern.svg")
    assert (result.code, result.out, result.err) == (0, "", "attnviz: wrote pattern.svg\n")
    assert "global query" in (folder / "pattern.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--global", "0,16"], r"--global '0,16': position 16 is out of range; there are 16 \(0 to 15\)"),
        (["--tokens", "4", "--global", "7"], "position 7 is out of range; there are 4"),
        (["--tokens", "0"], "--tokens"),
        (["--head", "0"], "--head 0: weights need q and k, and no SOURCE is given"),
        (["--k", "keys"], "--k keys: it speaks of a file, and no SOURCE is given"),
        (["--pattern", "everything"], "--pattern 'everything' is not one of"),
        (["--pattern", "full", "--window", "2"], "--window 2: the full pattern has no window"),
        (["--pattern", "global", "--dilation", "2"], "--dilation 2: the global pattern has no window"),
        (["--window", "-1"], "a window is 0 or more"),
        (["--pattern", "full", "--story"], "--story tells how local and global make local.global"),
        (["--title", "mine"], "--title mine: it says how a figure looks; name one with -o"),
        (["-o", "picture.jpg"], "picture.jpg: unknown suffix '.jpg'; write one of .png, .pdf, .svg"),
        (["-o", "nowhere/picture.png"], "nowhere/picture.png: the directory nowhere does not exist"),
        (["--queries", "3:99"], "--queries '3:99' is not a part of 0:16"),
        (["--batch", "1"], "--batch '1': batch item 1 is out of range"),
        (["--reduce", "sum"], "--reduce 'sum' is not one of max, mass"),
        (["dump.safetensors", "--tokens", "6"], "--tokens 6: SOURCE says how many tokens there are"),
        (["dump.safetensors", "--head", "4"], "--head '4': head 4 is out of range"),
        (["dump.safetensors", "--head", "0,1"], "--head '0,1': one head is wanted here"),
        (["dump.safetensors", "--global", "6"], "position 6 is out of range; there are 6"),
        (["--mask-file", "dump.safetensors:q"], r"has shape \(2, 4, 6, 8\), wanted \(T, S\)"),
        (["--mask-file", "dump.safetensors:global_mask"], r"mask has shape \(2, 6\), wanted \(T, S\) = \(2, 2\)"),
        (["oblong.npz"], "keys are of another sequence .cross., which has no order"),
        (["gone.npz"], "gone.npz: there is no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_drawn(run, dump, folder, arguments, says):
    mask = torch.arange(6) < 1
    attnviz.save(
        "oblong.npz", attnviz.AttentionInputs(torch.ones(1, 4, 2), torch.ones(1, 6, 2), global_mask=mask, cross=True)
    )
    before = sorted(folder.rglob("*"))
    result = run("pattern", *arguments)
    assert (result.code, result.out) == (2, "")
    assert re.fullmatch(rf"attnviz: .*{says}.*\n", result.err), result.err
    assert sorted(folder.rglob("*")) == before
