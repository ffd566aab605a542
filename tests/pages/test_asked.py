"""``attnviz.page`` and ``attnviz.view``: what they are asked, several texts, where a layer came from, and the state."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import attnviz
from attnviz import Causal, InputError, Local
from attnviz.pages.fragment import Places
from tests import reference
from tests.cases import small
from tests.pages.decoding import Page


def causal(inputs, batch=0):
    q, k = inputs.q[batch], inputs.k[batch]
    return reference.attend(q, k, np.tril(np.ones((q.shape[1], k.shape[1]), dtype=bool)))


def test_page_writes_what_html_writes(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    attnviz.save("dump.npz", small())
    assert attnviz.page("python.html", "dump.npz", "causal", heads=[1, 3], batch=1) == Path("python.html")
    assert run("html", "dump.npz", "--pattern", "causal", "--head", "1,3", "--batch", "1", "-o", "shell.html").code == 0
    python, shell = (Page(Path(f"{name}.html").read_text()) for name in ("python", "shell"))
    for page in (python, shell):
        page.run["layers"][0].pop("origin")
    assert python.run == shell.run
    assert python.chunks == shell.chunks


def test_texts_by_name_and_batch_items(tmp_path):
    one, other = small(), small(seed=5)
    path = attnviz.page(tmp_path / "page.html", {"one": one, "other": [other, other]}, Causal(), batch=(0, 1))
    page = Page(path.read_text())
    assert [(layer["text"], layer["label"]) for layer in page.layers] == [
        ("one, batch item 0", "0"),
        ("one, batch item 1", "0"),
        ("other, batch item 0", "0"),
        ("other, batch item 0", "1"),
        ("other, batch item 1", "0"),
        ("other, batch item 1", "1"),
    ]
    assert page.run["source"] == "one, other"
    for layer, (inputs, batch) in zip(
        page.layers, ((one, 0), (one, 1), (other, 0), (other, 0), (other, 1)), strict=False
    ):
        np.testing.assert_allclose(page.weights(layer), causal(inputs, batch).weights, rtol=0, atol=1e-3)


def test_given_weights_and_their_batch_items(tmp_path):
    weights = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).tril()
    page = Page(attnviz.page(tmp_path / "page.html", attnviz.AttentionWeights(weights), batch=[1, 0]).read_text())
    assert [layer["text"] for layer in page.layers] == ["batch item 1", "batch item 0"]
    for layer, batch in zip(page.layers, (1, 0), strict=True):
        shown = np.nan_to_num(page.weights(layer))
        np.testing.assert_allclose(shown, weights[batch].numpy(), rtol=0, atol=1e-3)


def test_statistics_are_those_of_the_package_and_of_the_reference(tmp_path):
    inputs = small()
    page = Page(attnviz.page(tmp_path / "page.html", inputs, Causal(), batch=1, heads=[2, 0]).read_text())
    (layer,) = page.layers
    weights = causal(inputs, 1).weights
    for place, head in enumerate((2, 0)):
        row = attnviz.head_statistics(inputs, Causal(), heads=[head], batch=1)[0]
        assert {name: numbers[place] for name, numbers in layer["statistics"].items()} == {
            **row.values,
            "tag": row.tag,
            "tag_score": row.tag_score,
        }
        rows = weights[head]
        entropy = -np.sum(np.where(rows > 0, rows * np.log(np.where(rows > 0, rows, 1)), 0), axis=1).mean()
        assert layer["statistics"]["entropy"][place] == pytest.approx(entropy, abs=1e-5)
    assert [one["name"] for one in page.run["statistics"]] == list(row.values)
    assert set(layer["statistics"]["tag"]) <= set(page.run["tags"])


@pytest.mark.sweep(keep=4)
@pytest.mark.parametrize(
    "pattern", [None, "causal", Causal(), Local(2, 2) | attnviz.GlobalKeys(), "local:window=2 & causal"]
)
@pytest.mark.parametrize("options", [{}, {"batch": 1, "hide": [0, 3], "renormalize": True}, {"mean": "heads"}])
def test_the_command_and_the_python_of_a_layer_make_its_map_again(tmp_path, monkeypatch, run, pattern, options):
    """Run as they are, they give the numbers that the page has: the page's weights are within 1e-3 of the engine's."""
    monkeypatch.chdir(tmp_path)
    attnviz.save("two layers.npz", [small(seed=seed) for seed in (0, 1)])
    page = Page(attnviz.page("page.html", "two layers.npz", pattern, layers=[1], **options).read_text())
    (layer,) = page.layers
    origin = layer["origin"]
    words = ["--head", "2"] if origin["head"] else []
    assert run("plot", *shlex.split(origin["command"]), *words, "-o", "map.npz").code == 0
    with np.load("map.npz") as saved:
        command = saved["cells"][0]
    head = ["head=2"] if origin["head"] else []
    called = ", ".join([origin["inputs"], *head, *filter(None, [origin["options"]])])
    python = eval(f"attnviz.attention_map({called})")
    np.testing.assert_allclose(command, python.cells, rtol=0, atol=1e-6)
    shown = page.weights(layer)[2 if origin["head"] else 0]
    there = shown[:, list(python.keys)] if command.shape != shown.shape else shown
    np.testing.assert_allclose(np.nan_to_num(command), np.nan_to_num(there), rtol=0, atol=1e-3)


def test_what_no_words_say_has_no_command(tmp_path):
    inputs = small()
    for pattern, shown in ((attnviz.Masked(torch.ones(6, 6, dtype=torch.bool)), inputs), (Causal(), inputs)):
        (layer,) = Page(attnviz.page(tmp_path / "page.html", shown, pattern).read_text()).layers
        assert layer["origin"]["command"] is None
    assert layer["origin"]["inputs"] == "inputs"
    assert layer["origin"]["options"] == "pattern='causal'"


def test_the_widgets_state_is_read_and_set():
    widget = attnviz.view(
        {"a": small(), "b": [small(seed=1), small(seed=2)]}, view="map", text="b", layer=1, head=2, query=3
    )
    assert (widget.fragment, widget.text, widget.layer) == ("view=map&layer=2&head=2&query=3", "b", "1")
    heard = []
    widget.observe(lambda change: heard.append(change["new"]), "head")
    widget.fragment = "view=heads&layer=0&head=1&key=4&reduce=mass"  # what the page writes
    assert (widget.view, widget.text, widget.layer, widget.head, widget.query, widget.key) == (
        "heads",
        "a",
        "0",
        1,
        None,
        4,
    )
    widget.head = 3
    widget.key = None
    assert heard == [1, 3]
    assert widget.fragment == "view=heads&layer=0&head=3&reduce=mass"
    for name, value, says in (
        ("head", 9, "head 9 is not in layer 0"),
        ("view", "picture", "view 'picture' is not one of"),
        ("query", 6, "query 6 is out of range; there are 6"),
        ("layer", 7, "layer 7 is not in the page; there are 0"),
        ("text", "c", "text 'c' is not in the page; there are a, b"),
    ):
        before = getattr(widget, name)
        with pytest.raises(InputError, match=says):
            setattr(widget, name, value)
        assert getattr(widget, name) == before
    assert widget.fragment == "view=heads&layer=0&head=3&reduce=mass"


def test_a_fragment_from_anywhere_is_read():
    layers = json.loads(attnviz.view(small()).run)["layers"]
    for fragment in (
        "",
        "#",
        "view=&layer=-9&head=1e9",
        "layer=999999999999999999999",
        "query=%ff&key=-1",
        "&&=&head=\u0663",
    ):
        named = Places(layers).named(fragment)
        assert named["head"] in (None, 0, 1, 2, 3)
        assert named["key"] in (None, 0)


def test_an_array_of_weights_is_a_page(tmp_path):
    weights = torch.softmax(torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(1)), -1)
    (layer,) = Page(attnviz.page(tmp_path / "page.html", weights).read_text()).layers
    assert layer["heads"] == 2


@pytest.mark.parametrize(
    ("shown", "options", "says"),
    [
        ({}, {}, "no texts are given"),
        (small(), {"batch": []}, "batch is empty"),
        (small(), {"layers": [0]}, "these are inputs of one"),
        (3, {}, "page takes a run, the inputs of a layer or a dump's name, not int"),
        (small(), {"most": "1kB"}, "above --most 1.0 kB"),
        (small(), {"most": 0}, "most is 0"),
    ],
)
def test_what_is_not_there_is_told(tmp_path, shown, options, says):
    with pytest.raises(InputError, match=says):
        attnviz.page(tmp_path / "page.html", shown, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cells", [256, 1024])
def test_maps_that_were_reduced_as_the_model_ran(tmp_path, cells):
    """A page of them holds their cells, whether these are of several weights or of one."""
    attention = torch.nn.MultiheadAttention(16, 2, batch_first=True).eval()
    x = torch.randn(1, 300, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), attnviz.capture(attention, maps=cells, out=tmp_path / "maps.safetensors"):
        _, weights = attention(x, x, x, average_attn_weights=False)
    page = Page(attnviz.page(tmp_path / "page.html", tmp_path / "maps.safetensors").read_text())
    (layer,) = page.layers
    size = 2 if cells == 256 else 1
    assert layer["kept"] == layer["overview"]["level"] == layer["levels"] - size
    found = page.array(layer["overview"]["max"])
    exact = weights[0].reshape(2, 300 // size, size, 300 // size, size).amax((2, 4)).numpy()
    for head, off in enumerate(layer["accuracy"]["weights"]):
        np.testing.assert_allclose(found[head], exact[head], rtol=0, atol=off + 1e-6)
