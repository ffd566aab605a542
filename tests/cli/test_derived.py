"""Derived maps on the command line: from a dump of several layers to numbers, each held against the library and float64 loops."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import attnviz
from tests import reference
from tests.cases import small
from tests.strategies import normal


@pytest.fixture
def run_dump(folder):
    """Three causal layers of two items, four heads and six tokens, with values and output projections: ``run.npz``."""
    found = [
        replace(
            small(seed=seed, dtype="float64"),
            layer=seed,
            pattern=attnviz.Causal(),
            v=normal((2, 2, 6, 3), seed),
            w_o=normal((4, 3, 5), seed),
        )
        for seed in range(3)
    ]
    attnviz.save("run.npz", found)
    return found


def whole(inputs, batch: int = 0) -> np.ndarray:
    return reference.attend(inputs.q[batch], inputs.k[batch], np.tri(6, dtype=bool)).weights


def mean_of_layers(found) -> np.ndarray:
    return np.mean([whole(one) for one in found], axis=0)


SEEN = np.tri(6, dtype=bool)


def rows(text: str) -> np.ndarray:
    """(H, T, S) of a CSV of weights, NaN where there is no row."""
    numbers = [
        (int(r["head"]), int(r["query"]), int(r["key"]), float(r["weight"])) for r in csv.DictReader(io.StringIO(text))
    ]
    found = np.full((1 + max(n[0] for n in numbers), 6, 6), np.nan)
    for h, t, s, value in numbers:
        found[h, t, s] = value
    return found


def test_score_prints_each_kind(run, run_dump):
    shown = np.where(SEEN, mean_of_layers(run_dump), np.nan)
    np.testing.assert_allclose(
        rows(run("score", "run.npz", "--mean", "layers", "--format", "csv").out), shown, atol=1e-6
    )
    both = rows(run("score", "run.npz", "--mean", "layers", "--max", "heads", "--head", "1-3", "--format", "csv").out)
    np.testing.assert_allclose(both[0], shown[1:].max(axis=0), atol=1e-6)
    seen = np.broadcast_to(SEEN, (4, 6, 6))
    wanted, _ = reference.rollout([(whole(one), seen) for one in run_dump], [True] * 6)
    found = rows(run("score", "run.npz", "--rollout", "--format", "csv").out)[0]
    np.testing.assert_allclose(found, np.where(SEEN, wanted, np.nan), atol=1e-6)
    one = run_dump[1]
    wanted, _ = reference.by_norms(whole(one)[2], SEEN, one.v[0, 1], one.w_o[2], shares=True)
    printed = run("score", "run.npz", "--layer", "1", "--values", "norm-shares", "--format", "csv")
    np.testing.assert_allclose(rows(printed.out)[2], np.where(SEEN, wanted, np.nan), atol=1e-6)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(
    ("options", "how"),
    [
        (("--mean", "layers", "--head", "1"), {"mean": "layers", "head": 1}),
        (("--rollout",), {"rollout": True, "head": 0}),
        (("--layer", "1", "--values", "norms", "--head", "3"), {"values": "norms", "head": 3, "layers": [1]}),
        (("--values", "norms", "--max", "layers", "--head", "3"), {"values": "norms", "max": "layers", "head": 3}),
    ],
    ids=" ".join,
)
def test_every_command_has_the_map_of_the_library(run, run_dump, options, how):
    """Pictures' numbers, the figure with its sides, statistics and a snapshot, all of one map."""
    how = dict(how)
    head, layers = how.pop("head"), [run_dump[n] for n in how.pop("layers", range(3))]
    inputs = layers if len(layers) > 1 else layers[0]
    map_ = attnviz.attention_map(inputs, head, every_key=True, **how)
    assert run("plot", "run.npz", *options, "-o", "map.npz", "-o", "map.svg").code == 0
    np.testing.assert_allclose(np.load("map.npz")["cells"][0], map_.cells, atol=1e-6)
    title = map_.name.replace("3 layers", "layers 0-2")
    drawn = Path("map.svg").read_text()
    assert all(part in drawn for part in title.split(", "))
    assert run("plot", "run.npz", *options, "--detail", "-o", "detail.png").code == 0
    assert title.split(",")[0] in run("show", "run.npz", *options, "--color", "none").out
    (stats,) = json.loads(run("stats", "run.npz", *options, "--format", "json").out)["heads"]
    (wanted,) = attnviz.head_statistics(inputs, heads=[head], **how)
    assert stats["max_weight"] == pytest.approx(wanted.max_weight)
    assert stats["max_logit"] is None
    assert run("snapshot", "save", "run.npz", "kept.json", *options).code == 0
    checked = tuple(option for n, option in enumerate(options) if "--head" not in options[max(n - 1, 0) : n + 1])
    assert run("snapshot", "check", "run.npz", "kept.json", *checked).code == 0
    assert run("snapshot", "check", "run.npz", "kept.json", "--layer", "0").code == 1
    assert run("tiles", "run.npz", *options, "-o", "tiles").code == 0
    assert run("html", "run.npz", *options, "-o", "page.html").code == 0


def test_a_page_has_the_weights_of_the_map(run_dump):
    """What a page of a derived map encodes: its weights, what is hidden, and the numbers of its heads."""
    from attnviz.engine.request import ask
    from attnviz.pages.description import Labels, describe, page_layer

    layer = page_layer(ask(run_dump, None, [1, 3], mean="layers", batch=1), "0")
    described = describe(layer, Labels())
    assert (described["label"], described["head_labels"]) == ("mean of layers 0-2", [1, 3])
    assert described["pattern"] == "causal"
    weights = layer.item.inputs.weights[0].numpy()
    np.testing.assert_allclose(weights, np.mean([whole(one, 1) for one in run_dump], axis=0)[[1, 3]], atol=1e-12)
    assert torch.equal(
        layer.pattern.of_head(1).visible(torch.arange(6)[:, None], torch.arange(6)[None], layer.item),
        torch.tensor(SEEN),
    )


def test_two_runs_are_compared_layers_as_one(run, run_dump):
    attnviz.save("other.npz", [replace(one, q=one.q * 2) for one in run_dump])
    result = run("plot", "run.npz", "--mean", "layers", "--head", "0", "--compare", "other.npz", "-o", "both.png")
    assert result.code == 0, result.err
    found = attnviz.compare_maps(run_dump, [replace(one, q=one.q * 2) for one in run_dump], 0, mean="layers")
    other = np.mean([whole(replace(one, q=one.q * 2))[0] for one in run_dump], axis=0)
    np.testing.assert_allclose(found.difference.cells[SEEN], (mean_of_layers(run_dump)[0] - other)[SEEN], atol=1e-12)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            "plot run.npz --rollout --head 2 -o x.png",
            "--head 2: --rollout is of the mean of all heads; leave --head out",
        ),
        ("plot run.npz --rollout --mean -o x.png", "--rollout: it makes one map .* leave --mean out"),
        (
            "plot run.npz --rollout --values norm-shares -o x.png",
            "--values norm-shares: --rollout follows weights or norms",
        ),
        ("plot run.npz --rollout --values norms -o x.png", "rollout by norms weighs a layer against its residual"),
        ("plot run.npz --rollout --pixels 3 -o x.png", "choose --reduce mass, or few queries with --queries A:B"),
        (
            "plot run.npz --mean=depth -o x.png",
            "--mean 'depth' is not heads, layers, items, or some of these with commas",
        ),
        ("plot run.npz --mean layers --max layers -o x.png", "two ways to make one map of the layers"),
        ("score run.npz --mean layers --values logits --format csv", "has no logits; take --values weights"),
        ("stats run.npz --values logits", "--values 'logits' is not one of weights, norms, norm-shares"),
        ("stats run.npz --mean layers --layer 0,7", "--layer 7 is out of range"),
    ],
)
def test_what_has_no_answer_is_said_in_a_line(refused, run_dump, command, says):
    refused(*command.split(), says=says)


@pytest.mark.parametrize("over", ["items", "heads,items"])
def test_many_inputs_become_one_map(run, dump, over):
    inputs = attnviz.load(dump)
    maps = [[attnviz.attention_map(inputs, h, "causal", batch=b).cells for h in range(4)] for b in range(2)]
    cells = np.mean([own[1] for own in maps] if over == "items" else maps, axis=0)
    wanted = cells if over == "items" else cells.mean(0)
    options = ("--pattern", "causal", "--batch", "all", *(("--head", "1") if over == "items" else ()))
    bare = ("--mean", "items") if over == "items" else ("--mean",)  # heads too, where nothing else is said
    assert run("plot", dump, *options, *bare, "-o", "mean.npz").code == 0
    with np.load("mean.npz") as file:
        np.testing.assert_allclose(file["cells"].squeeze(), wanted, rtol=1e-5, atol=1e-7)
    shown = run("show", dump, *options, *bare, "--color", "none")
    assert (shown.code, "mean of 2 batch items" in shown.out) == (0, True)
    for command in (("stats",), ("score",)):
        assert run(*command, dump, *options, "--mean", over).code == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--mean", "items"), "--mean items: it is of several batch items; name them: --batch all"),
        (("--batch", "0,5", "--mean"), "batch item 5 is out of range"),
        (("--batch", "all"), "one batch item is wanted here, 2 are given"),
        (("--batch", "all", "--mean", "tokens"), r"--mean 'tokens' is not heads|No such|too many arguments"),
    ],
)
def test_many_inputs_that_cannot_be_one(refused, dump, options, says):
    refused("plot", dump, "--pattern", "causal", *options, "-o", "x.png", says=says)


def test_both_sides_of_a_comparison_are_made_of_their_items(run, dump):
    items = ("--pattern", "causal", "--batch", "all", "--mean", "items")
    result = run("plot", dump, "--compare", dump, *items, "--head", "1", "-o", "x.png")
    assert result.code == 0, result.err
    assert "A and B are the same here" in result.err


@pytest.mark.parametrize("command", ["save", "check"])
def test_a_snapshot_of_many_items_is_refused(run, refused, dump, command):
    assert run("snapshot", "save", dump, "s.json", "--pattern", "causal").code == 0
    said = "--mean items: a snapshot holds one batch item; choose it with --batch, and leave items out"
    refused("snapshot", command, dump, "s.json", "--pattern", "causal", "--mean", "items", says=said)


def test_the_command_of_a_page_of_many_items_names_them(run, dump):
    assert run("html", dump, "--pattern", "causal", "--batch", "0,1", "--mean", "items", "-o", "x.html").code == 0
    page = Path("x.html").read_text(encoding="utf-8")
    assert '--mean items --batch 0,1"' in page
