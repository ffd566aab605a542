"""Maps of several heads against the mean and the maximum of whole maps in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import attnviz
from attnviz import InputError
from attnviz.attention.patterns import Causal
from tests import reference
from tests.cases import small
from tests.strategies import Call, calls, parts


@given(data=st.data())
def test_it_is_the_picture_of_the_combined_whole_maps(data):
    call = data.draw(calls(values=False))
    how = data.draw(st.sampled_from(["mean", "max"]))
    heads = data.draw(st.lists(st.integers(0, call.inputs.H - 1), min_size=1, unique=True))
    pixels = data.draw(st.integers(1, 9))
    shown = {"queries": data.draw(parts(call.inputs.T)), "keys": data.draw(parts(call.inputs.S))}
    try:
        found = attnviz.combined_map(call.inputs, how, heads, call.pattern, batch=call.batch, pixels=pixels, **shown)
    except InputError as error:
        assert "no global key lies in" in str(error)  # noqa: PT017 (some draws)
        return
    weights, visible = combined(call, heads, how)
    reduce = {"mean": "mass", "max": "max"}[how]
    expected = reference.picture(weights, visible, found.queries, list(found.keys), pixels, reduce)
    np.testing.assert_allclose(found.cells, expected, rtol=1e-11, atol=1e-11)
    assert (found.combined, found.heads) == (how, tuple(heads))


def combined(call: Call, heads: list[int], how: str) -> tuple[np.ndarray, np.ndarray]:
    """The mean or the largest of whole maps, query by query over the heads where it sees a key; what any of them sees."""
    whole, seen = call.expected().weights, {head: call.visible(head) for head in heads}
    found = np.full(whole.shape[1:], math.nan)
    for t in range(len(found)):
        rows = [whole[head, t] for head in heads if seen[head][t].any()]
        for s in range(found.shape[1]) if rows else ():
            column = [float(row[s]) for row in rows]
            found[t, s] = math.fsum(column) / len(column) if how == "mean" else max(column)
    return found, np.any([*seen.values()], axis=0)


@pytest.mark.parametrize("most", [1, 7, 2048])
def test_heads_with_masks_of_their_own(monkeypatch, most):
    """Many rows of cells whose queries see in one head and not in the other."""
    monkeypatch.setattr("attnviz.engine.combined._MOST_QUERIES", most)
    q, k = (torch.randn(1, 3, 50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (0, 1))
    hidden = torch.zeros(1, 3, 50, 1, dtype=torch.float64)
    hidden[0, 0, ::3], hidden[0, 1, 10:20], hidden[0, :, 30] = -torch.inf, -torch.inf, -torch.inf
    call = Call(attnviz.AttentionInputs(q, k, bias=hidden.expand(1, 3, 50, 50).clone()), ("causal",), 0)
    found = attnviz.combined_map(call.inputs, "mean", pattern=Causal(), pixels=8)
    expected = reference.picture(*combined(call, [0, 1, 2], "mean"), range(50), range(50), 8, "mass")
    np.testing.assert_allclose(found.cells, expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(np.nansum(found.cells, axis=1), 1)


@pytest.mark.parametrize("how", ["mean", "max"])
def test_logits_that_are_not_reduced(how):
    found = attnviz.combined_map(small(dtype="float64"), how, [1, 2], Causal(), values="logits")
    q, k = small(dtype="float64").q[0], small(dtype="float64").k[0]
    logits = reference.attend(q, k, np.tri(6, dtype=bool)).logits[[1, 2]]
    expected = logits.mean(axis=0) if how == "mean" else logits.max(axis=0)
    np.testing.assert_allclose(found.cells, np.where(np.isfinite(expected), expected, np.nan), rtol=1e-11)


def test_a_mean_of_sums_still_sums_to_1():
    inputs = attnviz.synthesize(heads=3, tokens=50, head_dim=4)
    found = attnviz.combined_map(inputs, "mean", pattern=Causal(), pixels=7)
    assert found.reduce == "mass"
    np.testing.assert_allclose(np.nansum(found.cells, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("how", "options", "says"),
    [
        ("mean", {"reduce": "max"}, r"--mean with --reduce max: .* 2 x 2 weights.*choose --reduce mass"),
        ("max", {"reduce": "mass"}, r"--max with --reduce mass: .*choose --reduce max"),
        ("mean", {"values": "logits"}, r"--mean of logits: .*--queries and --keys, or take --values weights"),
        ("sum", {}, r"'sum'; write one of mean, max"),
        ("mean", {"heads": []}, "the mean of no heads; name one or more of 4"),
        ("mean", {"heads": [4]}, "head 4 is out of range"),
    ],
)
def test_what_would_be_a_wrong_number_is_refused(how, options, says):
    heads = options.pop("heads", None)
    with pytest.raises(InputError, match=says):
        attnviz.combined_map(small(), how, heads, Causal(), pixels=3, **options)


def test_its_name_says_which_heads():
    inputs = attnviz.synthesize(heads=8)
    assert attnviz.combined_map(inputs, "mean", [0, 3]).name == "mean of heads 0, 3"
    assert attnviz.combined_map(inputs, "max").name == "max of 8 heads"
    assert attnviz.attention_map(inputs, 5).name == "head 5"


def test_a_written_map_names_every_head(tmp_path):
    from attnviz.show.exports import write_maps

    write_maps(tmp_path / "map.npz", [attnviz.combined_map(small(), "mean")], "here")
    with np.load(tmp_path / "map.npz") as arrays:
        assert arrays["heads"].tolist() == [0, 1, 2, 3]
        assert arrays["cells"].shape == (1, 6, 2)
