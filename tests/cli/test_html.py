"""``attnviz html``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import reference
from tests.cases import small
from tests.pages.decoding import Page


def layered(*numbers: int) -> Path:
    """A dump of several layers."""
    inputs = small(batch=1)
    tensors = {f"layers.{n}.{role}": getattr(inputs, role) * (1 + n / 10) for n in numbers for role in ("q", "k")}
    path = Path("layers.safetensors")
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    return path


def test_every_layer_and_head_by_default(run, folder):
    result = run("html", layered(0, 1, 11), "--pattern", "causal", "-o", "page.html")
    assert (result.code, result.out) == (0, "")
    assert result.err.startswith("attnviz: wrote page.html: 3 layers, 12 heads, ")
    page = Page(Path("page.html").read_text())
    assert [(layer["label"], layer["heads"]) for layer in page.layers] == [("0", 4), ("1", 4), ("11", 4)]
    inputs = small(batch=1)
    for layer, n in zip(page.layers, (0, 1, 11), strict=True):
        q, k = (tensor[0] * (1 + n / 10) for tensor in (inputs.q, inputs.k))
        expected = reference.attend(q, k, np.tril(np.ones((6, 6), dtype=bool)))
        np.testing.assert_allclose(page.weights(layer), expected.weights, rtol=0, atol=1e-3)


def test_layers_heads_and_items_of_ones_choice(run, folder, dump):
    path = layered(0, 1, 2, 5)
    assert run("html", path, "--pattern", "full", "--layer", "0-1,5", "--head", "1,3", "-o", "page.html").code == 0
    page = Page(Path("page.html").read_text())
    assert [(layer["label"], layer["head_labels"]) for layer in page.layers] == [(n, [1, 3]) for n in "015"]
    assert run("html", dump, "--batch", "1", "-o", "page.html").code == 0
    page = Page(Path("page.html").read_text())
    item = small()
    expected = reference.attend(item.q[1], item.k[1], reference.sees_globals(item.global_mask[1], 6))
    np.testing.assert_allclose(page.weights(page.layers[0]), expected.weights, rtol=0, atol=1e-3)


@pytest.mark.parametrize("queries", [range(2), range(2, 4), range(3, 6)])
@pytest.mark.parametrize("pattern", ["causal", "local"])
def test_a_part_of_the_queries_is_these_rows_over_every_key(run, folder, pattern, queries):
    chosen = ("--pattern", pattern, *(["--window", "1"] if pattern == "local" else []))
    part = ("--queries", f"{queries.start}:{queries.stop}")
    assert run("html", layered(0), *chosen, *part, "-o", "page.html").code == 0
    page, inputs = Page(Path("page.html").read_text()), small(batch=1)
    near = np.tril(np.ones((6, 6), dtype=bool))
    near = near if pattern == "causal" else near & ~np.tril(near, -2) | near.T & ~np.triu(near.T, 2)
    expected = reference.attend(inputs.q[0], inputs.k[0], near).weights[:, queries.start : queries.stop]
    np.testing.assert_allclose(page.weights(page.layers[0]), np.nan_to_num(expected), rtol=0, atol=1e-3)


def test_several_dumps_are_texts_of_one_page(run, folder, dump):
    first, other = layered(0, 1), Path("other/layers.safetensors")
    other.parent.mkdir()
    save_file({name: tensor[:, :, :5].clone() for name, tensor in load_file(first).items()}, other)
    result = run("html", first, dump, "--pattern", "causal", "-o", "page.html")
    assert (result.code, result.err.split(", ")[:2]) == (0, ["attnviz: wrote page.html: 3 layers", "12 heads"])
    page = Page(Path("page.html").read_text())
    assert [(layer["text"], layer["label"]) for layer in page.layers] == [
        ("layers", "0"),
        ("layers", "1"),
        (dump.stem, "0"),
    ]
    assert [layer["origin"]["command"].split()[0] for layer in page.layers] == [str(first), str(first), str(dump)]
    assert page.run["source"] == f"layers, {dump.stem}"

    assert run("html", first, other, "--layer", "1", "--pattern", "causal", "-o", "page.html").code == 0
    page = Page(Path("page.html").read_text())  # names that are alike are told apart by their folders
    assert [(layer["text"], page.weights(layer).shape) for layer in page.layers] == [
        (str(first), (4, 6, 6)),
        (str(other), (4, 5, 5)),
    ]
    result = run("html", first, other, first, "-o", "again.html")
    assert (result.code, result.err) == (2, f"attnviz: {first}: this file is given twice; name each once\n")
    assert not Path("again.html").exists()


def test_a_mask_of_ones_own(run, folder, dump):
    mask = torch.tensor(np.random.default_rng(0).random((6, 6)) < 0.5)
    save_file({"mask": mask}, "mask.safetensors")
    assert run("html", dump, "--mask-file", "mask.safetensors:mask", "-o", "page.html").code == 0
    page = Page(Path("page.html").read_text())
    (sees,) = page.visible(page.layers[0])
    np.testing.assert_array_equal(sees, mask.numpy())


def test_the_synthetic_case(run, folder):
    assert run("html", "-o", "page.html").code == 0
    assert Page(Path("page.html").read_text()).run["source"] == "synthetic"


def test_what_cannot_be_done_is_one_line(refused, dump):
    refused("html", dump, "-o", "page.png", says="unknown suffix '.png'; write one of .html, .htm")
    refused("html", dump, "-o", "missing/page.html", says="the directory missing does not exist")
    refused("html", dump, "-o", "page.html", "--most", "10kB", says="above --most 10.0 kB.*attnviz view")
    refused("html", dump, "-o", "page.html", "--most", "lots", says="--most 'lots'")
    refused("html", dump, "-o", "page.html", "--head", "4", says="head 4 is out of range")
    refused("html", dump, "-o", "page.html", "--batch", "2", says="batch item 2 is out of range")
    refused("html", dump, "-o", "page.html", "--batch", "all", says="one batch item is wanted")
    refused("html", dump, "-o", "page.html", "--layer", "3", says="the file has no layers")
    refused("html", layered(0, 1), "-o", "page.html", "--layer", "0,2", says="--layer 2 is out of range")
    refused("html", layered(0, 1), "-o", "page.html", "--layer", "3-1", says="3-1 is not a range of layers")


def test_nan_is_refused_and_nothing_is_written(refused, folder):
    q = small(batch=1).q.clone()
    q[0, 2, 3, 1] = torch.nan
    save_file({"q": q, "k": small(batch=1).k}, "bad.safetensors")
    refused("html", "bad.safetensors", "--pattern", "full", "-o", "page.html", says="q has 1 value that is NaN")
