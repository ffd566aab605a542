"""The page in a notebook's cell holds what the file holds."""

from __future__ import annotations

import json
import sys
import weakref

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import attnviz
from attnviz import InputError
from attnviz.pages import widget as module
from attnviz.pages.frontend import asset
from tests import reference
from tests.cases import small
from tests.pages.decoding import Page


def decoded(widget: object) -> Page:
    """The page that the widget's traits, as they are sent, hold."""
    state = widget.get_state(("run", "chunks"))
    page = Page.__new__(Page)
    page.run, page.chunks = json.loads(state["run"]), dict(enumerate(state["chunks"]))
    return page


def test_inputs_of_one_layer():
    inputs = small()
    page = decoded(attnviz.view(inputs, attnviz.Causal(), heads=[2], batch=1))
    (layer,) = page.layers
    assert (page.run["mode"], page.run["source"], layer["head_labels"]) == (
        "embedded",
        "synthetic, batch item 1",
        [2],
    )
    expected = reference.attend(inputs.q[1], inputs.k[1], np.tril(np.ones((6, 6), dtype=bool)))
    np.testing.assert_allclose(page.weights(layer)[0], expected.weights[2], rtol=0, atol=1e-3)


def test_layers_of_a_dump(tmp_path):
    tensors = {f"layers.{n}.{role}": getattr(small(), role) for n in (0, 3, 12) for role in ("q", "k")}
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "dump.safetensors")
    for path in (tmp_path / "dump.safetensors", str(tmp_path / "dump.safetensors")):
        page = decoded(attnviz.view(path, attnviz.Full()))
        assert [layer["label"] for layer in page.layers] == ["0", "3", "12"]
        assert page.run["source"] == f"{path}, batch item 0"
    page = decoded(attnviz.view(path, attnviz.Full(), layers=[12]))
    assert [layer["label"] for layer in page.layers] == ["12"]
    with pytest.raises(InputError, match="--layer 5 is out of range"):
        attnviz.view(path, attnviz.Full(), layers=[5])


def test_a_layer_is_let_go_before_the_next_is_read(tmp_path, monkeypatch):
    tensors = {f"layers.{n}.{role}": getattr(small(), role).clone() for n in (0, 3, 12) for role in ("q", "k")}
    save_file(tensors, tmp_path / "dump.safetensors")
    read: list[weakref.ref[attnviz.AttentionInputs]] = []

    def load(path, *, layer):
        assert all(inputs() is None for inputs in read)
        inputs = attnviz.load(path, layer=layer)
        read.append(weakref.ref(inputs))
        return inputs

    monkeypatch.setattr("attnviz.pages.asked.load", load)
    attnviz.view(tmp_path / "dump.safetensors", attnviz.Full())
    assert len(read) == 3


def test_a_dump_of_one_layer_has_its_own_pattern(tmp_path):
    inputs = small(batch=1)
    attnviz.save(tmp_path / "one.npz", attnviz.AttentionInputs(inputs.q, inputs.k, pattern=attnviz.Causal()))
    (layer,) = decoded(attnviz.view(tmp_path / "one.npz")).layers
    assert (layer["label"], layer["pattern"]) == ("0", "causal")


def test_a_captured_run():
    attention = torch.nn.MultiheadAttention(16, 2, batch_first=True).eval()
    x = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), attnviz.capture(attention) as run:
        _, weights = attention(x, x, x, average_attn_weights=False)
    page = decoded(attnviz.view(run, layers=[0]))
    assert page.run["source"] == "MultiheadAttention"
    np.testing.assert_allclose(page.weights(page.layers[0]), weights[0].numpy(), rtol=0, atol=1e-3)
    assert decoded(attnviz.view(run)).run == page.run


def test_the_front_end_is_the_built_one():
    widget = attnviz.view(small(), attnviz.Full(), height=300)
    assert (widget.height, widget._esm, widget._css) == (300, asset("widget.js"), asset("attnviz.css"))
    assert "export" in asset("widget.js")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"heads": [4]}, "head 4 is out of range"),
        ({"heads": []}, "heads is empty"),
        ({"layers": []}, "layers is empty"),
        ({"layers": [0]}, "these are inputs of one"),
        ({"batch": 2}, "batch item 2 is out of range"),
    ],
)
def test_what_is_not_there_is_told(options, says):
    with pytest.raises(InputError, match=says):
        attnviz.view(small(), **options)


def test_what_is_no_run_is_told():
    with pytest.raises(InputError, match="view takes a run, the inputs of a layer or a dump's name, not int"):
        attnviz.view(3)


def test_what_is_too_large_for_a_cell_is_refused(monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    with pytest.raises(InputError, match=r"bytes of a notebook, and 100 are the most.*attnviz view"):
        attnviz.view(small())


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    module._widget_class.cache_clear()
    with pytest.raises(InputError, match=r"pip install 'attnviz\[notebook\]'"):
        attnviz.view(small())


def test_a_page_of_one_map_of_layers_and_heads():
    """What is made of others is shown by its weights, under the names of what it is."""
    inputs = [attnviz.synthesize(heads=3, seed=seed) for seed in range(2)]
    how = {"mean": "layers", "max": "heads"}
    (layer,) = json.loads(attnviz.view(inputs, "causal", heads=[0, 2], **how).run)["layers"]
    assert (layer["label"], layer["heads"], layer["given"]) == ("mean of 2 layers", 1, True)
    assert layer["pattern"] == "max of heads 0, 2, causal"
    first, second = json.loads(attnviz.view(inputs, "causal", heads=[0, 2], values="norms").run)["layers"]
    assert (first["label"], second["label"], first["head_labels"]) == ("0", "1", [0, 2])
    assert first["pattern"] == "weight × ‖v‖, causal"
