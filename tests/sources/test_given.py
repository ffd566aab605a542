"""Files of weights: by role, bare arrays by layout, an array a layer by template; several layers saved at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import attnviz
from attnviz import AttentionWeights, Causal, InputError, Masked
from attnviz.maps.layers import Layers
from attnviz.sources.files import TensorFile, write_tensors
from attnviz.sources.naming import layers_there
from tests.cases import small

SUFFIXES = [".safetensors", ".npz", ".pt"]


def softmax(*shape: int) -> np.ndarray:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape)).softmax(-1).numpy()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("pattern", [None, Causal(), Causal() & Masked(torch.ones(5, 5, dtype=torch.bool))])
def test_weights_come_back_whole(tmp_path, suffix, pattern):
    weights = torch.from_numpy(softmax(2, 3, 5, 5)).tril()
    one = AttentionWeights(
        weights,
        logits=weights.log(),
        v=torch.ones(2, 1, 5, 2, dtype=torch.float64),
        tokens=[list("abcde")] * 2,
        key_padding_mask=torch.ones(2, 5, dtype=torch.bool),
        pattern=pattern,
    )
    attnviz.save(tmp_path / f"dump{suffix}", one)
    back = attnviz.load(tmp_path / f"dump{suffix}")
    assert isinstance(back, AttentionWeights)
    for name in ("weights", "logits", "v", "key_padding_mask"):
        assert torch.equal(getattr(back, name), getattr(one, name)), name
    assert (back.tokens, str(back.pattern)) == (one.tokens, str(one.pattern))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_several_layers_are_saved_at_once(tmp_path, suffix):
    path = tmp_path / f"run{suffix}"
    layers = [
        AttentionWeights(softmax(2, 4, 4), layer=7),
        AttentionWeights(softmax(1, 4, 6), layer="cross.1", cross=True),
    ]
    attnviz.save(path, [*layers, replace(small(batch=1), layer=9)])
    assert Layers(path).labels == [7, 9, "cross.1"]
    assert torch.equal(attnviz.load(path, layer="cross.1").weights, layers[1].weights)
    assert attnviz.load(path, layer="cross.1").cross
    assert torch.equal(attnviz.load(path, layer=9).q, small(batch=1).q)
    with pytest.raises(InputError, match="two layers are called 7"):
        attnviz.save(path, [layers[0], layers[0]])
    with pytest.raises(InputError, match="there are no layers to save"):
        attnviz.save(path, [])


@pytest.mark.parametrize(
    ("layout", "shape", "layers"),
    [
        ("hts", (2, 4, 5), None),
        (None, (2, 4, 5), None),
        ("bhts", (3, 2, 4, 5), None),
        ("lhts", (3, 2, 4, 5), 3),
        ("lbhts", (3, 2, 2, 4, 5), 3),
        (None, (3, 2, 2, 4, 5), 3),
    ],
)
def test_a_bare_array_is_read_by_its_layout(tmp_path, layout, shape, layers):
    array = softmax(*shape)
    np.save(tmp_path / "a.npy", array)
    names = {"weights": "a"}
    there = layers_there(tmp_path / "a.npy", names, layout)
    assert there == ([None] if layers is None else [*range(layers)])
    for layer in there:
        one = attnviz.load(tmp_path / "a.npy", names=names, layout=layout, layer=layer)
        wanted = array if layer is None else array[layer]
        np.testing.assert_array_equal(one.weights.reshape(wanted.shape), wanted)


def test_a_layer_of_a_mapped_array_is_a_view_of_it(tmp_path):
    array = softmax(3, 2, 4, 5)
    np.save(tmp_path / "a.npy", array)
    one = attnviz.load(tmp_path / "a.npy", names={"weights": "a"}, layout="lhts", layer=1)
    assert one.weights.untyped_storage().nbytes() == array.nbytes
    assert one.weights.storage_offset() == array[0].size


@pytest.mark.parametrize(
    ("names", "layout", "layer", "says"),
    [
        ({"weights": "a"}, None, None, r"may be \(L, H, T, S\) or \(B, H, T, S\); say which: --layout lhts"),
        ({"weights": "a"}, "lhts", None, r"holds 3 layers \(0, 1, 2\); choose one with --layer"),
        ({"weights": "a"}, "lhts", 3, "--layer 3 is out of range; the file holds layers 0, 1, 2"),
        ({"weights": "a"}, "hts", None, r"has shape \(3, 2, 4, 4\), wanted weights \(H, T, S\) by --layout hts"),
        ({"weights": "a", "k": "a"}, "lhts", 0, "--k a: --weights gives weights that were computed already"),
        ({"q": "a", "k": "a"}, None, None, "its rows sum to 1: it holds attention weights; --weights a shows them"),
        ({"q": "a", "k": "a"}, "lhts", None, "--layout lhts: it is of weights"),
        ({"logits": "a"}, None, None, "logits stand beside weights"),
        ({}, None, None, r"no tensor 'q'.*are they attention weights\? --weights a --layout lhts \(layers\) or bhts"),
        ({"weights": "b"}, "bhts", None, "there is no tensor 'b'"),
        (
            {"weights": "b.{layer}"},
            None,
            None,
            r"nothing is named b.\{layer\} with a number for \{layer\}; there are a",
        ),
    ],
)
def test_what_is_not_said_is_never_guessed(tmp_path, names, layout, layer, says):
    np.save(tmp_path / "a.npy", softmax(3, 2, 4, 4))
    with pytest.raises(InputError, match=says):
        attnviz.load(tmp_path / "a.npy", names=names, layout=layout, layer=layer)


def test_a_foreign_files_weights_of_rank_4_need_a_layout(tmp_path):
    array = softmax(3, 2, 4, 4)
    np.savez(tmp_path / "a.npz", weights=array)
    with pytest.raises(InputError, match="say which: --layout lhts"):
        attnviz.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(attnviz.load(tmp_path / "a.npz", layout="lhts", layer=2).weights[0], array[2])
    assert attnviz.load(tmp_path / "a.npz", layout="bhts").B == 3


@pytest.mark.parametrize(
    ("suffix", "template"), [(".pt", "{layer}"), (".npz", "arr_{layer}"), (".safetensors", "h.{layer}.w")]
)
def test_an_array_a_layer_is_named_by_a_template(tmp_path, suffix, template):
    path = tmp_path / f"held{suffix}"
    arrays = [torch.from_numpy(softmax(n + 1, 2, 4, 4)) for n in range(11)]
    if suffix == ".pt":
        torch.save(tuple(arrays), path)
    else:
        write_tensors(path, {template.replace("{layer}", str(n)): array for n, array in enumerate(arrays)})
    names = {"weights": template}
    assert layers_there(path, names) == [*range(11)]
    for n in (0, 1, 10):
        assert torch.equal(attnviz.load(path, names=names, layer=n).weights, arrays[n])
    with pytest.raises(
        InputError, match=rf"an array a layer\? --weights '{template}'".replace("{", r"\{").replace("}", r"\}")
    ):
        attnviz.load(path)


def test_a_file_a_layer_is_named_by_a_template(tmp_path):
    arrays = [softmax(2, 4, 4) * n for n in range(1, 4)]
    for n, array in enumerate(arrays):
        np.save(tmp_path / f"layer_{n}.npy", array)
    names = {"weights": f"{tmp_path}/layer_{{layer}}.npy"}
    assert layers_there(None, names) == [0, 1, 2]
    np.testing.assert_array_equal(attnviz.load(names=names, layer=2).weights[0], arrays[2])
    with pytest.raises(InputError, match="holds 3 layers"):
        attnviz.load(names=names)
    with pytest.raises(InputError, match=r"nothing is named x_\{layer\}.npy .*; there are layer_0.npy"):
        layers_there(None, {"weights": f"{tmp_path}/x_{{layer}}.npy"})


def test_queries_and_keys_of_another_tools_names(tmp_path):
    inputs = small(batch=1)
    held = {}
    for n in range(3):
        held[f"blocks.{n}.attn.hook_q"] = (inputs.q + n).transpose(1, 2)
        held[f"blocks.{n}.attn.hook_k"] = inputs.k.transpose(1, 2)
    write_tensors(tmp_path / "cache.safetensors", held)
    names = {"q": "blocks.{layer}.attn.hook_q", "k": "blocks.{layer}.attn.hook_k"}
    assert layers_there(tmp_path / "cache.safetensors", names) == [0, 1, 2]
    found = attnviz.load(tmp_path / "cache.safetensors", names=names, layout="bthd", layer=2)
    assert torch.equal(found.q, inputs.q + 2)
    assert found.layer == 2
    with pytest.raises(InputError, match="holds 3 layers"):
        attnviz.load(tmp_path / "cache.safetensors", names=names, layout="bthd")
    names["k"] = "blocks.{layer}.attn.hook_z"
    with pytest.raises(InputError, match="nothing is named blocks"):
        attnviz.load(tmp_path / "cache.safetensors", names=names, layer=0)


def test_only_weights_are_read_of_weights(tmp_path, monkeypatch):
    one = AttentionWeights(softmax(2, 4, 4), v=torch.ones(1, 2, 4, 2, dtype=torch.float64))
    attnviz.save(tmp_path / "dump.npz", one)
    read: list[str] = []
    original = TensorFile.read
    monkeypatch.setattr(TensorFile, "read", lambda self, name: (read.append(name), original(self, name))[1])
    attnviz.load(tmp_path / "dump.npz", values=False)
    assert read == ["weights"]


def test_weights_that_score_wrote_are_read_where_every_key_is_a_column(tmp_path):
    from attnviz.show.scores import write_results

    inputs = small(batch=1)
    write_results(tmp_path / "causal.npz", [attnviz.score(inputs, Causal())])
    assert attnviz.load(tmp_path / "causal.npz").H == 4
    write_results(tmp_path / "global.npz", [attnviz.score(inputs)])
    with pytest.raises(InputError, match="whose columns are not all keys"):
        attnviz.load(tmp_path / "global.npz")


def test_settings_of_the_formula_are_refused(tmp_path):
    attnviz.save(tmp_path / "dump.npz", AttentionWeights(softmax(2, 4, 4)))
    with pytest.raises(InputError, match=r"--scale 2.0: weights that were given are shown as they are"):
        attnviz.load(tmp_path / "dump.npz", settings={"scale": 2.0})
