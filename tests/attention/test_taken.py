"""What people hand over in place of inputs works, or says what to type."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import attnviz
from attnviz.attention.taken import is_array, taken

GENERATOR = torch.Generator().manual_seed(0)
q, k, v = torch.randn(3, 4, 10, 8, generator=GENERATOR)  # (H, T, D) each
WEIGHTS = torch.softmax(q @ k.mT, -1)
INPUTS = attnviz.AttentionInputs(q, k, v, pattern="full")

FORMS = {
    "tensor": lambda tensor: tensor,
    "numpy": lambda tensor: tensor.numpy(),
    "list": lambda tensor: tensor.tolist(),
}
form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@form
def test_q_and_k_are_inputs_in_which_every_query_sees_every_key(form):
    arrays = [form(one) for one in (q, k, v)]
    expected = attnviz.score(INPUTS).weights
    for found in (
        attnviz.score(*arrays[:2]),
        attnviz.score(*arrays),
        attnviz.score(q=arrays[0], k=arrays[1]),
    ):
        assert torch.equal(found.weights, expected)
    assert torch.equal(attnviz.context(*arrays), attnviz.context(INPUTS))
    assert attnviz.head_statistics(*arrays[:2]) == attnviz.head_statistics(
        attnviz.AttentionInputs(q, k, pattern="full")
    )
    assert (
        attnviz.explain(*arrays[:2], head=1, query=2, key=3).dot == attnviz.explain(INPUTS, head=1, query=2, key=3).dot
    )
    assert attnviz.plot(*arrays[:2], head=2).get_title() == "head 2"
    cells = [attnviz.take_snapshot(*of).heads[1].cells["weights"] for of in (arrays, [INPUTS])]
    assert np.array_equal(*cells)


@form
def test_what_comes_after_arrays_is_what_comes_after_inputs(form):
    found = attnviz.score(form(q), form(k), "causal", heads=[1])
    assert torch.equal(found.weights, attnviz.score(INPUTS, "causal", heads=[1]).weights)
    assert attnviz.plot(form(q), form(k), 3, "causal").get_title() == "head 3"


@pytest.mark.sweep(keep=1)
@form
@pytest.mark.parametrize("rank", [2, 3])
def test_an_array_that_can_be_nothing_else_is_weights(form, rank):
    array = WEIGHTS if rank == 3 else WEIGHTS[0]
    assert torch.equal(taken(form(array)).weights[0], WEIGHTS if rank == 3 else WEIGHTS[:1])
    rows = attnviz.head_statistics(form(array))
    for head, row in enumerate(rows):
        entropy = -(WEIGHTS[head] * WEIGHTS[head].log()).sum(-1).mean().item()
        assert row.entropy == pytest.approx(entropy, rel=1e-5)
    assert "given" in attnviz.plot(form(array)).get_title()
    assert attnviz.plot_comparison(form(array), form(array)).axes


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**16), st.booleans())
def test_q_is_never_taken_for_weights(heads, queries, size, seed, positive):
    """Nor is any array with a number below 0, or a row that sums to more than 1."""
    array = torch.randn(heads, queries, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    array = array.abs() if positive else array
    if bool((array >= 0).all()) and bool((array.sum(-1) <= 1.01).all()):
        return
    with pytest.raises(attnviz.InputError, match="whose rows are no weights"):
        taken(array)


REFUSED = {
    "rank 4": (WEIGHTS[None], r"may be \(B, H, T, S\) or \(L, H, T, S\); say which"),
    "integers": (torch.ones(2, 3, 3, dtype=torch.int64), "is no attention weights"),
    "a vector": (torch.ones(3), "is no attention weights"),
    "a file": ("dump.safetensors", r"attnviz.load\('dump.safetensors'\)"),
    "a dict": ({"q": q, "k": k}, r"a dict of q, k: pass attnviz.AttentionInputs\(\*\*it\)"),
    "arrays, one a layer": ((WEIGHTS, WEIGHTS), "attnviz.weights.from_attentions"),
    "nothing of the kind": (3, "inputs are given as int; wanted attnviz.AttentionInputs"),
}


@pytest.mark.parametrize(("given", "says"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize(
    "function", [attnviz.plot, attnviz.score, attnviz.head_statistics], ids=lambda one: one.__name__
)
def test_what_is_no_inputs_says_what_to_type(function, given, says):
    with pytest.raises(attnviz.InputError, match=says):
        function(given)


def test_layers_may_come_one_after_another():
    layers = (attnviz.synthesize(seed=seed) for seed in range(2))
    assert attnviz.plot_overview(layers).get_title() == "2 layers, 16 heads"
    assert attnviz.plot_overview([WEIGHTS, WEIGHTS]).get_title() == "2 layers, 8 heads, given"
    assert attnviz.plot((attnviz.synthesize(seed=seed) for seed in range(2)), mean="layers")


@pytest.mark.parametrize("head", [np.int64(1), torch.tensor(1), 1])
def test_a_head_is_a_number_of_any_library(head):
    assert attnviz.plot(INPUTS, head).get_title() == "head 1"


def test_heads_may_be_all_a_range_or_an_array():
    for heads in ("all", range(4), np.arange(4), (n for n in range(4))):
        assert attnviz.score(INPUTS, heads=heads).heads == (0, 1, 2, 3)
    with pytest.raises(attnviz.InputError, match="heads are given as '0'; write a number"):
        attnviz.plot(INPUTS, "0")


def test_a_part_is_a_range_or_a_slice():
    assert attnviz.attention_map(INPUTS, 0, queries=slice(2, 5)).queries == range(2, 5)
    assert attnviz.attention_map(INPUTS, 0, keys=slice(None, 5)).keys == range(5)
    for other in ((2, 5), [2, 3, 4], 3):
        with pytest.raises(attnviz.InputError, match=r"write range\(first, end\)"):
            attnviz.plot(INPUTS, queries=other)


def test_a_pattern_may_be_its_class_where_it_has_no_settings():
    found = attnviz.score(INPUTS, attnviz.Causal).weights
    assert torch.equal(found, attnviz.score(INPUTS, attnviz.Causal()).weights)
    with pytest.raises(attnviz.InputError, match=r"given without its settings; write Local\(window=…"):
        attnviz.score(INPUTS, attnviz.Local)


@form
def test_masks_positions_and_labels_are_arrays_of_any_library(form):
    given = {
        "global_mask": torch.arange(10) == 3,
        "key_padding_mask": torch.arange(10) < 8,
        "documents": torch.arange(10) // 5,
        "query_positions": torch.arange(10),
    }
    same = {name: form(array) for name, array in given.items()}
    found = attnviz.AttentionInputs(form(q), form(k), tokens=np.array(list("abcdefghij")), **same)
    expected = attnviz.AttentionInputs(q, k, **given)
    torch.testing.assert_close(
        attnviz.score(found).weights, attnviz.score(expected).weights, rtol=0, atol=0, equal_nan=True
    )
    assert found.tokens == [list("abcdefghij")]


def test_arrays_may_come_with_their_tokens():
    tokens = list("abcdefghij")
    for arrays in ((WEIGHTS,), (q, k)):
        assert list(attnviz.attention_map(*arrays, 0, tokens=tokens).query_labels) == tokens
    with pytest.raises(TypeError, match="tokens"):
        attnviz.attention_map(INPUTS, 0, tokens=tokens)


def test_an_option_that_is_none_is_told_with_the_nearest():
    with pytest.raises(TypeError, match="there is no option 'nrom'; did you mean norm"):
        attnviz.plot(INPUTS, nrom="log")
    with pytest.raises(attnviz.InputError, match="heatmap draws an AttentionMap"):
        attnviz.heatmap(WEIGHTS[0])


@pytest.mark.parametrize(
    ("name", "says"),
    [("causal", "pattern='causal'"), ("layer", "load(path, layer=...)"), ("mask", "attnviz.with_mask")],
)
def test_what_the_command_line_calls_an_option_says_what_to_pass(name, says):
    with pytest.raises(TypeError, match=f"there is no option '{name}'; pass .*{re.escape(says)}"):
        attnviz.plot(torch.eye(3), **{name: 1})


def test_a_name_that_is_none_knows_where_it_was_looked_for():
    """So that Python says which name was meant."""
    with pytest.raises(AttributeError) as raised:
        attnviz.Casual  # noqa: B018
    assert (raised.value.name, raised.value.obj) == ("Casual", attnviz)


def test_arrays_are_told_from_lists_of_heads():
    assert is_array(torch.ones(2))
    assert is_array([[0.5, 0.5]])
    assert not is_array([0, 1])
    assert not is_array("all")
    assert not is_array([[attnviz.synthesize()]])


def test_layers_are_saved_one_after_another(tmp_path):
    attnviz.save(tmp_path / "two.npz", (attnviz.synthesize(seed=seed) for seed in range(2)))
    assert attnviz.load(tmp_path / "two.npz", layer=1).H == 8


SAID = {
    "global_mask": np.eye(10, dtype=bool)[3],
    "key_padding_mask": np.arange(10) < 7,
    "scale": 0.3,
    "softcap": 2.0,
    "sinks": np.ones(4, dtype=np.float32),
    "alibi_slopes": np.ones(4, dtype=np.float32),
    "tokens": [str(n) for n in range(10)],
}


@pytest.mark.parametrize("name", SAID)
def test_what_inputs_are_told_by_name_arrays_are_told_too(name):
    said = {name: SAID[name]}
    pattern = {} if name == "global_mask" else {"pattern": "full"}
    inputs = attnviz.AttentionInputs(q, k, v, **said, **pattern)
    same = {"rtol": 0, "atol": 0, "equal_nan": True}
    torch.testing.assert_close(attnviz.score(q, k, v, **said).weights, attnviz.score(inputs).weights, **same)
    torch.testing.assert_close(attnviz.context(q, k, v, **said), attnviz.context(inputs), **same)


def test_arrays_have_the_layout_that_is_named():
    turned = [one.transpose(0, 1).contiguous()[None] for one in (q, k)]
    assert torch.equal(attnviz.score(*turned, layout="bthd").weights, attnviz.score(q, k).weights)


def test_weights_are_told_by_name_what_they_are_of():
    exists = torch.arange(10) < 7
    weights = torch.softmax((q @ k.mT).masked_fill(~exists, -torch.inf), -1)
    found = attnviz.head_statistics(weights, key_padding_mask=exists[None])
    assert found == attnviz.head_statistics(attnviz.AttentionWeights(weights, key_padding_mask=exists[None]))


def test_a_data_frame_is_an_array_and_a_number_of_numpy_is_none():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(WEIGHTS[0].numpy())
    assert torch.equal(taken(frame).weights, WEIGHTS[:1][None])
    assert not is_array(np.int64(3))
    assert not is_array(np.float32(0.5))


@pytest.mark.parametrize(
    "function",
    [attnviz.score, attnviz.head_statistics, attnviz.query_statistics, attnviz.attention_map, attnviz.context],
)
@pytest.mark.parametrize(
    ("option", "says"),
    [("paterrn", "did you mean pattern?"), ("causal", "pass pattern='causal'"), ("window", "attnviz.Local(window)")],
)
def test_an_option_that_is_none_is_told_by_functions_that_count_too(function, option, says):
    head = {"head": 0} if function is attnviz.attention_map else {}
    with pytest.raises(TypeError, match=rf"there is no option '{option}'.*{re.escape(says)}"):
        function(q, k, **head, **{option: True})


def test_counts_are_asked_for_where_inputs_are_given_to_what_draws_counts():
    for what in ((q, k), (INPUTS,), (WEIGHTS,)):
        with pytest.raises(attnviz.InputError, match=re.escape("plot_statistics(attnviz.head_statistics(inputs))")):
            attnviz.plot_statistics(*what)
        with pytest.raises(attnviz.InputError, match=re.escape("plot_curves(attnviz.head_curves(inputs))")):
            attnviz.plot_curves(*what)


def test_a_file_that_does_not_come_first_is_asked_for(tmp_path):
    for write, name in ((attnviz.save, "x.npz"), (attnviz.page, "x.html")):
        with pytest.raises(attnviz.InputError, match=r"a file's name comes first.*AttentionInputs"):
            write(INPUTS, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_layers_of_batch_items_say_what_makes_layers_of_them():
    with pytest.raises(attnviz.InputError, match=r"3 arrays.*attnviz\.weights\.from_attentions"):
        attnviz.plot_overview(tuple(WEIGHTS[None] for _ in range(3)))


def test_a_pattern_alone_and_whole_numbers_say_what_to_pass():
    for name in ("causal", "local:window=2"):
        with pytest.raises(attnviz.InputError, match=rf"inputs, pattern='{name}'"):
            attnviz.plot_pattern(name)
    with pytest.raises(attnviz.InputError, match=r"torch\.int64.*floating point"):
        attnviz.plot(np.eye(4, dtype=np.int64))


def test_a_figure_of_a_lesson_takes_arrays():
    drawn = attnviz.plot_lesson(q, k, pattern="causal", tokens=[f"w{n}" for n in range(10)])
    assert "w9" in {label.get_text().split()[-1] for label in drawn.axes[0].get_yticklabels()}


def test_values_in_the_place_of_a_mask_are_asked_for_by_name():
    out = attnviz.context(q, k, v, pattern="causal")
    with pytest.raises(attnviz.InputError, match=r"shape of values; v goes by name: \(actual, q, k, v=v\)"):
        attnviz.assert_attention_close(out, q, k, v, pattern="causal")
    attnviz.assert_attention_close(out, q, k, v=v, pattern="causal")
