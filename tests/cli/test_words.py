"""Words, spans and what is left out, on the command line: every view takes them, and every wrong one is one line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

import attnviz
from attnviz import AttentionInputs
from tests.strategies import normal

TOKENS = ["[CLS]", "un", "##friend", "##ly", "cats", "sleep", "[SEP]"]


@pytest.fixture
def text(tmp_path, monkeypatch):
    """A dump of words of several tokens."""
    monkeypatch.chdir(tmp_path)
    n = len(TOKENS)
    inputs = AttentionInputs(
        normal((2, n, 4), 0).float(),
        normal((2, n, 4), 1).float(),
        tokens=[TOKENS],
        token_form="wordpiece",
        special_tokens=[[0, n - 1]],
    )
    attnviz.save("text.safetensors", inputs)
    attnviz.save("layers.safetensors", [inputs, inputs])
    return inputs


def test_the_command_line_and_the_library_see_the_same(run, text):
    options = ("--pattern", "causal", "--head", "1", "--merge", "words", "--hide", "special", "--renormalize")
    run("plot", "text.safetensors", *options, "-o", "map.npz")
    shown = attnviz.attention_map(text, 1, "causal", merge="words", hide="special", renormalize=True)
    with np.load("map.npz") as file:
        found = next(file[name] for name in file.files if file[name].shape[-2:] == (5, 5))
    np.testing.assert_allclose(found.squeeze(), shown.cells, rtol=1e-5)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(
    "command",
    [
        ("plot", "text.safetensors", "-o", "a.png"),
        ("plot", "text.safetensors", "--mean", "-o", "a.svg"),
        ("plot", "layers.safetensors", "--rollout", "-o", "a.svg"),
        ("stats", "layers.safetensors", "--mean", "heads,layers"),
        ("score", "layers.safetensors", "--max", "layers"),
        ("html", "layers.safetensors", "--mean", "layers", "-o", "a.html"),
        ("plot", "text.safetensors", "--detail", "--head", "0", "-o", "a.png"),
        ("plot", "text.safetensors", "--strip", "cats", "--head", "0", "-o", "a.png"),
        ("plot", "text.safetensors", "--compare", "text.safetensors", "-o", "a.png"),
        ("plot", "text.safetensors", "--pattern-outline", "-o", "a.png"),
        ("show", "text.safetensors"),
        ("overview", "layers.safetensors", "-o", "a.png"),
        ("stats", "text.safetensors"),
        ("stats", "text.safetensors", "--by-query"),
        ("stats", "text.safetensors", "--keys-received"),
        ("stats", "text.safetensors", "--shares"),
        ("stats", "text.safetensors", "--curve", "windows"),
        ("score", "text.safetensors"),
        ("score", "text.safetensors", "-o", "scores.npz"),
        ("diff", "text.safetensors", "layers.safetensors", "--layer", "0"),
        ("tiles", "text.safetensors", "-o", "tiles"),
        ("html", "text.safetensors", "-o", "a.html"),
    ],
    ids=lambda command: "-".join(part.strip("-") for part in command if ".saf" not in part and part != "-o"),
)
def test_every_view_takes_words_and_says_what_is_left_out(run, text, command):
    if command[0] == "diff":
        command = ("diff", "layers.safetensors", "--layer", "0", "--b-layer", "1")
    found = run(*command, "--pattern", "causal", "--merge", "words", "--hide", "special")
    assert found.code == 0, found.err
    if command[0] != "diff":
        assert "of a head's weight is on hidden keys" in found.err or "of the weight is on hidden keys" in found.err


@pytest.mark.parametrize("curve", ["distance", "windows"])
def test_curves_are_drawn(run, refused, text, curve):
    found = run(
        "stats", "layers.safetensors", "--pattern", "causal", "--curve", curve, "-o", "curve.svg", "--merge", "words"
    )
    assert (found.code, "wrote curve.svg" in found.err) == (0, True)
    refused("stats", "text.safetensors", "--curve", curve, "-o", "a.png", "--norm", "log", says="no use for it")


@pytest.mark.parametrize("merge", [(), ("--merge", "words")])
def test_pages_and_tiles_of_a_part(run, text, merge):
    options = ("--pattern", "causal", "--queries", "1:3", "--keys", "0:2", *merge)
    assert run("html", "text.safetensors", *options, "-o", "a.html").code == 0
    assert run("tiles", "text.safetensors", *options, "-o", "tiles").code == 0
    about = json.loads(Path("tiles/pyramid.json").read_text())
    assert (about["queries"], about["keys"]) == (2, 2)
    assert about["pattern"].endswith("queries 1 to 2, keys 0 to 1")
    what = {"merge": "words"} if merge else {}
    wanted = attnviz.attention_map(text, 1, "causal", queries=range(1, 3), keys=range(2), **what).cells
    np.testing.assert_allclose(np.load("tiles/1/max/0/0-0.npy")[:2, :2], wanted, rtol=1e-6)


def test_shares_are_a_table_of_spans(run, text):
    asked = (
        "stats",
        "text.safetensors",
        "--pattern",
        "causal",
        "--head",
        "0",
        "--spans",
        "word:1-3,end:4-6",
        "--shares",
    )
    rows = list(csv.DictReader(io.StringIO(run(*asked, "--format", "csv").out)))
    whole = attnviz.score(text, "causal", heads=[0]).weights[0].numpy()
    by_pair = {(row["query_token"], row["key_token"]): float(row["weight"]) for row in rows}
    assert by_pair["end", "word"] == pytest.approx(whole[4:, 1:4].sum(1).mean(), abs=1e-6)
    assert ("word", "end") not in by_pair
    assert "%" in run(*asked).out
    some = run(*asked, "--queries", "end", "--keys", "word", "--format", "csv").out.splitlines()
    assert len(some) == 2


def test_queries_and_keys_are_those_that_are_seen(run, text):
    found = json.loads(
        run(
            "score",
            "text.safetensors",
            "--pattern",
            "causal",
            "--merge",
            "words",
            "--queries",
            "cats",
            "--format",
            "json",
        ).out
    )
    assert found["items"][0]["query_tokens"] == ["cats"]


def test_a_snapshot_remembers_what_was_seen(run, text):
    options = ("--pattern", "causal", "--spans", "word:1-3", "--hide", "special,1")
    run("snapshot", "save", "text.safetensors", "kept.json", *options)
    assert run("snapshot", "check", "text.safetensors", "kept.json").code == 0
    assert json.loads(Path("kept.json").read_text())["settings"]["spans"] == "word:1-3"


@pytest.mark.sweep(keep=8)
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--merge", "letters"), "not one of words"),
        (("--merge", "words", "--spans", "a:0-1"), "choose one"),
        (("--spans", "a"), "is no span"),
        (("--query-spans", "a:0-1"), "--spans is of both"),
        (("--merge", "words", "--query-spans", "a:0-1"), "choose one"),
        (("--spans", "a:0-9"), "beyond the 7 positions"),
        (("--spans", "a:0-3,b:3-4"), "share position 3"),
        (("--spans", "sep:zebra"), "is no token"),
        (("--hide", "zebra"), "is no key's token"),
        (("--hide", "9"), "is no position"),
        (("--hide", "padding"), "--padding NAME"),
        (("--hide", "0-6"), "leaves none"),
        (("--spans", "a:0-3", "--queries", "9:12"), "not a part of 0:2"),
        (("--merge", "words", "--keys", "zebra"), "is no key's token"),
    ],
)
@pytest.mark.parametrize("command", [("plot", "-o", "a.png"), ("stats", "--keys-received")], ids=["plot", "stats"])
def test_what_cannot_be_is_one_line(refused, text, command, options, says):
    name, *rest = command
    refused(name, "text.safetensors", "--pattern", "full", *rest, *options, says=says)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("plot", "text.safetensors", "--values", "logits", "--hide", "0", "-o", "a.png"), "logits don't add up"),
        (("score", "text.safetensors", "--values", "logits", "--merge", "words"), "logits don't add up"),
        (("stats", "text.safetensors", "--shares"), "add --spans or --merge words"),
        (("stats", "text.safetensors", "--keys", "0:2"), "--keys-received"),
        (("stats", "text.safetensors", "--shares", "--by-query", "--merge", "words"), "give one"),
        (("diff", "text.safetensors", "kernel.npz:weights", "--merge", "words"), "compared as it is"),
    ],
)
def test_what_has_no_use_for_it_says_so(refused, text, command, says):
    np.savez("kernel.npz", weights=np.zeros((2, 7, 7), dtype=np.float32))
    refused(*command, says=says)
