"""Tokens as people read them, in every command that prints, draws or looks up one; and titles that say what is shown."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
import torch

import attnviz
from attnviz.base.labels import word_ids
from attnviz.compare.heads import compare
from attnviz.compare.sides import Exact
from attnviz.engine.request import Request
from attnviz.sources.files import write_tensors
from attnviz.sources.saving import dump_metadata, layer_metadata, tensors_of
from tests.cases import small

RAW = {
    "byte-level": ["ĠThe", "Ġcaf", "Ã©", "Ġis", "Ġæ", "Ĺ¥", "Ċ", "."],
    "sentencepiece": ["▁The", "▁caf", "é", "▁is", "▁<0xE6>", "<0xA5>", "<0x0A>", "."],
    "wordpiece": ["[CLS]", "the", "caf", "##é", "is", "日", "[SEP]", "."],
    "plain": ["The", " café", "Ġ", " is", "▁", "<0x0A>", "##", "."],
}
NEVER = {"byte-level": "ĠÃĊĹ", "sentencepiece": "▁", "wordpiece": "", "plain": ""}
WORD = {"byte-level": "café", "sentencepiece": "café", "wordpiece": "café", "plain": "café"}


@pytest.fixture(params=RAW)
def form(request, folder):
    """The form of the tokens of two layers in ``run.safetensors``."""
    name = request.param
    write_run({"tokens": [RAW[name]], "token_form": name, "word_ids": [word_ids(RAW[name], name)]})
    return name


def write_run(changes: dict[str, object], batch: int = 1) -> None:
    tensors, layers = {}, {}
    for n in range(2):
        inputs = replace(small(batch=batch, tokens=8, seed=n), **changes)
        tensors |= {f"layers.{n}.{role}": tensor for role, tensor in tensors_of(inputs).items()}
        layers[str(n)] = layer_metadata(inputs)
    write_tensors(Path("run.safetensors"), tensors, dump_metadata({}, {}, layers))


COMMANDS = [
    "score --head 0",
    "score --head 0 --format json",
    "score --head 0 --format csv",
    "score --head 0 --format markdown",
    "score --head 0 --pattern local+global --window 1",
    "show --pattern full --color none",
    "pattern --pattern causal",
    "explain --pattern full",
    "explain --pattern full --format markdown",
    "diff --b-scale 0.1 --pattern full",
]


@pytest.mark.sweep(keep=10)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_printed_is_readable(run, form, command):
    name, *options = command.split()
    result = run(name, "run.safetensors", "--layer", "0", *options)
    assert result.code in (0, 1), result.err
    bars = "▁" if name == "pattern" else ""  # of weights
    assert not set(result.out) & set(NEVER[form]) - set(bars)
    if command.startswith("score"):
        assert {"byte-level": "␣caf", "sentencepiece": "␣caf", "wordpiece": "##é", "plain": " café"}[form] in result.out


DRAWN = {
    "plot --head 0 --pattern full": ["␣caf", "⟨", "⏎"],
    "plot --head 0 --strip is": ["caf", "(is)"],
    "plot --head 0,1 --strip is": ["caf", "(is)"],
    "plot --head 0 --pattern full --detail": ["␣caf"],
    "plot --head 0 --compare run.safetensors --b-layer 1": ["␣The"],
    "pattern --pattern causal": ["␣caf"],
    "diff --b-scale 0.1 --pattern full --head 0": ["␣caf"],
}


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize("command", DRAWN)
@pytest.mark.parametrize("form", ["byte-level", "sentencepiece"], indirect=True)
def test_what_is_drawn_is_readable(run, form, command, plain_svg):
    name, *options = command.split()
    result = run(name, "run.safetensors", "--layer", "0", *options, "-o", "figure.svg")
    assert result.code in (0, 1), result.err
    said = plain_svg()
    assert not set(said) & set(NEVER[form])
    assert all(part in said for part in DRAWN[command])


@pytest.fixture
def plain_svg():
    def read() -> str:
        return unescape(" ".join(re.findall(r">([^<>\n]+)</", Path("figure.svg").read_text(encoding="utf-8"))))

    return read


@pytest.mark.parametrize("form", ["byte-level", "sentencepiece"], indirect=True)
def test_pages_have_readable_tokens(run, form):
    assert run("html", "run.safetensors", "-o", "page.html").code == 0
    page = Path("page.html").read_text(encoding="utf-8")
    labels = json.loads(re.search(r'"labels":(\[\[.*?\]\])', page)[1])
    assert labels[0][:4] == [" The", " caf", "é", " is"]


def test_snapshots_have_readable_tokens_and_know_those_of_before(run, form):
    take = ["--layer", "0", "--pattern", "full"]
    assert run("snapshot", "save", "run.safetensors", "now.json", *take).code == 0
    text = Path("now.json").read_text(encoding="utf-8")
    assert not set(text) & set(NEVER[form])
    stored = json.loads(text)
    before = [token.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n") for token in RAW[form]]
    for tokens in (before, RAW[form]):  # as capture and save wrote them
        stored["query_tokens"] = stored["key_tokens"] = tokens
        Path("before.json").write_text(json.dumps(stored), encoding="utf-8")
        result = run("snapshot", "check", "run.safetensors", "before.json", *take)
        assert result.code == 0, result.out + result.err


# Looked up


@pytest.mark.sweep(keep=4)
@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["plot", "--strip", "{word}", "--head", "1"], None),
        (["plot", "--queries", "{word}", "--pattern", "full"], None),
        (["plot", "--keys", "{word}", "--pattern", "full"], None),
        (["pattern", "--queries", "{word}", "--pattern", "full"], None),
    ],
)
def test_figures_take_a_word(run, form, command, says):
    name, *options = [part.format(word=WORD[form]) for part in command]
    assert run(name, "run.safetensors", "--layer", "1", *options, "-o", "figure.svg").code == 0


@pytest.mark.sweep(keep=1)
def test_explain_takes_words(run, form):
    result = run("explain", "run.safetensors", "--layer", "1", "--pattern", "full", "--query", "is", "--key", "café")
    query = RAW[form].index(next(token for token in RAW[form] if token.strip("Ġ▁ ") == "is"))
    key = {"plain": 1, "wordpiece": 3}.get(form, 2)
    assert re.search(rf"head 0, query {query} \W*is\W*, key {key} ", " ".join(result.out.split())), result.out
    bad = run("explain", "run.safetensors", "--layer", "1", "--pattern", "full", "--query", "dog")
    assert (bad.code, bad.err.count("\n")) == (2, 1)
    assert "--query 'dog' is no query's token in run.safetensors layer 1; name one by its position, 0 to 7" in bad.err


def test_a_key_that_is_not_seen_is_told(run, form):
    result = run("explain", "run.safetensors", "--layer", "0", "--query", "is", "--key", ".")
    assert result.code == 2
    assert "does not see '.' (position 7) under the pattern global; it sees" in result.err


def test_a_word_that_is_there_twice_lists_its_places(run, folder):
    write_run({"tokens": [["a", "the", "b", "the", "c", "d", "e", "the"]]})
    for option, noun in (("--queries", "queries"), ("--keys", "keys")):
        result = run("show", "run.safetensors", "--layer", "0", option, "the", "--pattern", "full")
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert f"{option} 'the' is the token of {noun} 1, 3, 7; write A:B, positions A to B-1, like 0:8" in result.err


def test_a_word_where_there_are_no_tokens(run, folder):
    write_run({"tokens": None})
    result = run("plot", "run.safetensors", "--layer", "0", "--strip", "the", "-o", "x.png")
    assert (result.code, "has no tokens; name the query by its position" in result.err) == (2, True)
    result = run("plot", "run.safetensors", "--layer", "0", "--queries", "the", "-o", "x.png")
    assert (result.code, "--queries 'the': write A:B" in result.err) == (2, True)


# What is shown


@pytest.mark.sweep(keep=1)
def test_the_library_titles_a_layer_as_the_command_line_does(run, form, plain_svg):
    run("plot", "run.safetensors", "--layer", "1", "--head", "2", "-o", "figure.svg")
    title = attnviz.plot(attnviz.load("run.safetensors", layer=1), 2).get_title()
    assert title == "layer 1, head 2"
    assert title in plain_svg()
    figure = attnviz.plot_heads(attnviz.load("run.safetensors", layer="1"))
    assert figure.get_suptitle() == "layer 1, 4 heads"


NAMED = {
    "plot --head 2 --pattern full -o figure.svg": "layer 1, batch item 1, head 2",
    "plot --head 0,2 --pattern full -o figure.svg": "layer 1, batch item 1, 2 heads",
    "plot --mean --pattern full -o figure.svg": "layer 1, batch item 1, mean of heads 0, 1, 2, 3",
    "plot --head 2 --strip t3 -o figure.svg": "layer 1, batch item 1, head 2 · what query 3 (t3) sees",
    "plot --head 2 --pattern full --caption -o figure.svg": "run.safetensors layer 1, batch item 1, head 2",
    "pattern --head 2 --pattern full -o figure.svg": "layer 1, batch item 1, head 2 · full",
    "pattern --head 2 --pattern full": "layer 1, batch item 1, head 2 · full",
    "show --head 2 --pattern full": "layer 1, batch item 1, head 2 · weights · full",
    "score --head 2": "layer 1, batch item 1, head 2 · weights",
    "score --head 2 --format markdown": "**layer 1, batch item 1, head 2 · weights**",
    "stats": "run.safetensors, batch item 1 · global",
    "stats -o figure.svg": "batch item 1, entropy",
    "overview --pattern full -o figure.svg": "batch item 1, 1 layer, 4 heads",
    "html -o page.html": "<title>run.safetensors, batch item 1 ·",
    "diff --b-scale 0.5 --pattern full": "layer 1 (full, float32, cpu, batch item 1)",
}


@pytest.mark.sweep(keep=4)
@pytest.mark.parametrize("command", NAMED)
def test_batch_items_and_layers_are_named(run, folder, command, plain_svg):
    write_run({}, batch=2)
    name, *options = command.split()
    result = run(name, "run.safetensors", "--layer", "1", "--batch", "1", *options)
    assert result.code in (0, 1), result.err
    said = plain_svg() if options[-1:] == ["figure.svg"] else result.out
    said = Path("page.html").read_text(encoding="utf-8") if options[-1:] == ["page.html"] else said
    assert NAMED[command] in " ".join(said.split())


def test_the_only_batch_item_is_not_named(run, folder):
    write_run({})
    assert "batch item" not in run("score", "run.safetensors", "--layer", "1").out


def test_both_sides_of_a_difference_have_their_own_tokens(run, folder, plain_svg):
    words = ["the", "cat", "was", "tired", "a", "b", "c", "d"]
    for name, third in (("a", "tired"), ("b", "wide")):
        inputs = small(batch=1, tokens=8)
        tokens = [*words[:3], third, *words[4:]]
        attnviz.save(f"{name}.npz", replace(inputs, tokens=[tokens], scale=0.1 if name == "b" else None))
    result = run("diff", "a.npz", "b.npz", "--pattern", "full", "-o", "figure.svg")
    assert result.code == 1
    assert "3  tired / wide" in plain_svg()
    sides = [Exact(Request(attnviz.load(f"{name}.npz"))) for name in "ab"]
    a, b, between = compare(*sides, pixels=8).pictures[0]
    assert (a.key_labels[3], b.key_labels[3], between.key_labels[3]) == ("tired", "wide", "tired / wide")


def test_an_overlay_of_a_mean_says_of_which_heads(run, folder, plain_svg):
    inputs = small(batch=1, tokens=5, global_positions=(0,))
    tensors = {f"layers.3.{role}": tensor for role, tensor in tensors_of(inputs).items()}
    tensors["picture"] = torch.zeros(8, 8, 3, dtype=torch.uint8)
    write_tensors(Path("picture.safetensors"), tensors, {"format": 1, "patches": [2, 2]})
    options = ["picture.safetensors", "--layer", "3", "--overlay", "--pattern", "full", "-o", "figure.svg"]
    assert run("plot", *options, "--mean", "--head", "0,2").code == 0
    assert "mean of heads 0, 2" in plain_svg()
    assert "layer 3, what query 0 sees" in plain_svg()
