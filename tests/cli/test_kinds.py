"""The kinds of figures that ``attnviz plot`` makes beside plain heatmaps."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from PIL import Image

import attnviz
from attnviz.sources.files import write_tensors
from tests import reference
from tests.cases import small

WORDS = [["[CLS]", "it", "was", "it", "late", "."]] * 2


@pytest.fixture
def words(folder):
    """Two dumps of a text of six words: ``a.npz`` and ``b.npz``, and one of seven tokens: ``long.npz``."""
    attnviz.save("a.npz", replace(small(), tokens=WORDS))
    attnviz.save("b.npz", replace(small(seed=1), tokens=WORDS))
    attnviz.save("long.npz", small(tokens=7))
    return folder


def said(svg) -> str:
    """The texts of an SVG, in which text is text."""
    return unescape(" ".join(re.findall(r">([^<>\n]+)</", svg.read_text())))


@pytest.mark.parametrize("how", ["mean", "max"])
def test_one_map_of_the_heads_has_their_values(run, words, how):
    result = run("plot", "a.npz", "--pattern", "causal", f"--{how}", "--head", "0,2", "-o", "map.npz", "-o", "map.png")
    assert result.code == 0, result.err
    inputs = small()
    whole = reference.attend(inputs.q[0], inputs.k[0], np.tri(6, dtype=bool)).weights[[0, 2]]
    expected = getattr(whole, how)(axis=0)
    with np.load("map.npz") as arrays:
        np.testing.assert_allclose(np.nan_to_num(arrays["cells"][0]), expected, atol=1e-6)
        assert arrays["heads"].tolist() == [0, 2]


def test_a_mean_that_is_reduced_says_that_it_holds_mass(run, words):
    result = run("plot", "a.npz", "--pattern", "full", "--mean", "--pixels", "3", "-o", "map.npz")
    assert "attnviz: --mean: cells hold mass (--reduce mass)" in result.err
    with np.load("map.npz") as arrays:
        np.testing.assert_allclose(arrays["cells"][0].sum(axis=1), 1, rtol=1e-6)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(
    ("options", "shows"),
    [
        (("--head", "1", "--detail"), ["head 1", "entropy", "received"]),
        (("--head", "1", "--pattern-outline", "--pattern", "local+global", "--window", "1"), ["window", "global key"]),
        (("--pattern-outline", "--pattern", "causal"), ["4 heads", "causal"]),
        (("--compare", "b.npz", "--head", "0"), ["a.npz, global", "b.npz, global", "A − B"]),
        (("--strip", "late", "--head", "3"), ["head 3 · what query 4 (late) sees", "[CLS]"]),
        (("--strip", "4"), ["what query 4 (late) sees", "head 3"]),
        (
            ("--strip", "4", "--mean", "--caption"),
            ["mean of heads 0, 1, 2, 3 · what query 4 (late) sees", "Pattern: global.", "was"],
        ),
    ],
)
def test_each_says_what_it_is(run, words, options, shows):
    result = run("plot", "a.npz", *options, "-o", "out.svg")
    assert result.code == 0, result.err
    text = said(words / "out.svg")
    for part in shows:
        assert part in text


def test_sides_make_a_larger_figure(run, words):
    run("plot", "a.npz", "--head", "1", "-o", "plain.png")
    run("plot", "a.npz", "--head", "1", "--detail", "-o", "detail.png")
    plain, detail = (Image.open(name).size for name in ("plain.png", "detail.png"))
    assert detail > plain


@pytest.fixture
def layered(words):
    """Two layers, the same as ``a.npz`` and ``b.npz``: ``run.npz``."""
    tensors = {}
    for n, inputs in enumerate([small(), small(seed=1)]):
        tensors |= {f"layers.{n}.q": inputs.q, f"layers.{n}.k": inputs.k}
    write_tensors(words / "run.npz", tensors, {})
    return "run.npz"


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(
    ("options", "shows"),
    [
        (("--head", "1"), ["layer 1, batch item 0, head 1"]),
        ((), ["layer 1, batch item 0, 4 heads", "head 3"]),
        (("--mean",), ["layer 1, batch item 0, mean of heads 0, 1, 2, 3"]),
        (("--strip", "2"), ["layer 1, batch item 0, head 3"]),
    ],
)
def test_a_figure_names_its_layer(run, words, layered, options, shows):
    result = run("plot", layered, "--layer", "1", "--pattern", "full", *options, "-o", "out.svg")
    assert result.code == 0, result.err
    text = said(words / "out.svg")
    for part in shows:
        assert part in text


def test_a_layer_in_the_terminal_is_named(run, layered):
    options = ("--layer", "1", "--pattern", "full")
    assert run("show", layered, *options).out.startswith("layer 1, batch item 0, head 0 · ")
    assert run("show", layered, *options, "--all").out.startswith("layer 1, batch item 0, 4 heads · ")


def test_an_outline_of_a_pattern_without_edges_says_so(run, words):
    result = run("plot", "a.npz", "--pattern", "full", "--pattern-outline", "-o", "out.png")
    assert "attnviz: --pattern-outline: the full pattern has no edge in what is shown" in result.err
    result = run("plot", "a.npz", "--pattern", "causal", "--pattern-outline", "-o", "out.png")
    assert "no edge" not in result.err


def test_a_layer_is_compared_with_a_dump_that_has_none(run, layered):
    options = ("--layer", "0", "--pattern", "full", "--head", "0", "-o", "out.png")
    same = run("plot", layered, "--compare", "a.npz", *options)
    assert (same.code, same.err.count("A and B are the same here: A − B is 0 everywhere")) == (0, 1), same.err
    other = run("plot", layered, "--compare", "b.npz", *options)
    assert (other.code, "the same" in other.err) == (0, False), other.err


@pytest.mark.parametrize(
    ("a", "says"),
    [
        (("run.npz", "--layer", "0", "--b-layer", "7"), "run.npz: --b-layer 7 is out of range"),
        (("a.npz",), r"run.npz: holds 2 layers \(0, 1\); choose one with --b-layer"),
    ],
)
def test_a_wrong_layer_of_b_is_told_by_its_own_option(refused, layered, a, says):
    refused("plot", *a, "--compare", layered, "--pattern", "full", "--head", "0", "-o", "out.png", says=says)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--detail",), "--detail shows one head, 4 are asked for; choose it with --head"),
        (("--detail", "--strip", "1", "--head", "0"), "--detail and --strip are figures of two kinds; choose one"),
        (("--mean", "--max"), "--mean and --max are two ways"),
        (("--mean", "--compare", "b.npz"), "--compare shows single heads; leave --mean out"),
        (
            ("--mean", "--pattern", "full", "--values", "logits", "--pixels", "2"),
            "--mean of logits: .*--values weights",
        ),
        (
            ("--max", "--pattern", "full", "--reduce", "mass", "--pixels", "2"),
            "--max with --reduce mass: .*--reduce max",
        ),
        (("--b-layer", "3"), "--b-layer 3: it is the layer of B; name B with --compare"),
        (("--pattern-outline",), "--pattern-outline: the columns are the keys of the global pattern alone"),
        (("--pattern-outline", "--strip", "1"), "drawn over maps; leave --strip out"),
        (("--annot", "--strip", "1"), "--annot writes into the cells of a map; leave --strip out"),
        (("--strip", "1", "--queries", "0:2"), "--strip 1 names the query; leave --queries out"),
        (("--strip", "6"), "--strip '6': query 6 is out of range; there are 6"),
        (("--strip", "it"), "--strip 'it' is the token of queries 1, 3; name one by its position, 0 to 5"),
        (("--strip", "early"), "--strip 'early' is no query's token in a.npz; name one by its position, 0 to 5"),
        (("--compare", "c.npz"), "c.npz"),
        (("--compare", "long.npz", "--head", "0"), "a.npz has 6 queries but long.npz has 7"),
        (("--compare", "b.npz", "-o", "out.npz"), "out.npz: --compare makes a figure"),
        (("--compare", "b.npz", "-o", "b.npz"), "b.npz"),
    ],
)
def test_bad_options_are_one_line(refused, words, options, says):
    refused("plot", "a.npz", *options, *(() if "-o" in options else ("-o", "out.png")), says=says)


def test_more_tokens_than_anyone_reads_are_refused(refused, folder):
    attnviz.save("long.npz", attnviz.synthesize(heads=1, tokens=5000, head_dim=2))
    refused("plot", "long.npz", "--pattern", "full", "--strip", "3", "-o", "out.png", says="4,096 at most.* 5,000")
