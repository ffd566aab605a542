"""Weights that were given: every view of them against loops in float64, and the rules of what may stand in a row."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import attnviz
from attnviz import AttentionWeights, InputError
from attnviz.attention.patterns import Causal, Full
from attnviz.maps.combined import combined_map
from tests import reference
from tests.strategies import GivenCall, given_calls, normal, parts

EXACT = {"float16": 1e-3, "bfloat16": 1e-3, "float32": 1e-5, "float64": 1e-12}
"""What sums over a row may be off by; single weights not at all."""


def close(found: np.ndarray, wanted: np.ndarray, dtype: torch.dtype) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=EXACT[str(dtype).removeprefix("torch.")])


@given(given_calls(signed=True), st.data())
def test_maps_are_the_weights_reduced(one: GivenCall, data: st.DataObject):
    item, batch, dtype = one.weights.item(one.call.batch), one.call.batch, one.weights.dtype
    head = data.draw(st.integers(0, one.weights.H - 1))
    queries, keys = data.draw(parts(item.T)), data.draw(parts(item.S))
    pixels, reduce = data.draw(st.integers(1, 8)), data.draw(st.sampled_from(["max", "mass"]))
    region = {"queries": queries, "keys": keys, "pixels": pixels, "reduce": reduce, "every_key": True}
    shown = attnviz.attention_map(one.weights, head, batch=batch, **region)
    rows, columns = queries or range(item.T), keys or range(item.S)
    wanted = reference.picture(one.numbers[head], one.visible[head], rows, columns, pixels, reduce)
    close(shown.cells, wanted, dtype)
    assert shown.given
    assert shown.name.endswith("given")


@given(given_calls())
def test_statistics_and_sides_are_those_of_the_weights(one: GivenCall):
    batch, call, dtype = one.call.batch, one.call, one.weights.dtype
    for found in attnviz.head_statistics(one.weights, batch=batch):
        numbers, seen = one.numbers[found.head], one.visible[found.head]
        wanted = reference.statistics(np.nan_to_num(numbers), seen, call.globals_, call.first_keys, call.places)
        for name, number in wanted.items():
            if number is None:
                assert getattr(found, name) is None
            else:
                scale = 1 + abs(number)
                assert getattr(found, name) == pytest.approx(number, abs=EXACT[str(dtype)[6:]] * scale), name
        sides = attnviz.marginals(one.weights, found.head, batch=batch)
        received = [
            numbers[seen[:, s], s].sum() / seen[:, s].sum() if seen[:, s].any() else math.nan for s in sides.keys
        ]
        close(sides.received, np.array(received), dtype)
        entropy = [
            -math.fsum(w * math.log(w) for w in numbers[t, seen[t]] if w > 0) if seen[t].any() else math.nan
            for t in sides.queries
        ]
        close(sides.entropy, np.array(entropy), dtype)


@given(given_calls(signed=True), st.integers(1, 8))
def test_a_pyramid_and_the_mean_of_heads_are_those_of_the_weights(one: GivenCall, pixels: int):
    batch, dtype = one.call.batch, one.weights.dtype
    pyramid = attnviz.Pyramid.of(one.weights, batch=batch)
    T, S = one.numbers.shape[1:]
    for head in range(one.weights.H):
        wanted = np.where(one.visible[head], one.numbers[head], np.nan)
        close(pyramid.tile(head, 0, 0, 0)[:T, :S], wanted, torch.float32)
        close(pyramid.rectangle(head, range(T), range(S)), wanted, torch.float32)
    shown = combined_map(one.weights, "mean", batch=batch, pixels=max(T, S), every_key=True)
    seen = one.visible.any(2).sum(0)[:, None]  # heads in which each query sees a key
    mean = np.where(one.visible, one.numbers, 0).sum(0) / np.maximum(seen, 1)
    close(shown.cells, np.where(one.visible.any(0), mean, np.nan), dtype)


@given(given_calls(signed=True))
def test_scores_and_contexts_are_of_the_rows(one: GivenCall):
    from dataclasses import replace

    batch = one.call.batch
    result = attnviz.score(one.weights, batch=batch)
    assert result.scores is None
    columns = result.positions.tolist()
    wanted = np.where(one.visible.any(2, keepdims=True), one.numbers, np.nan)
    np.testing.assert_array_equal(result.weights.double().numpy(), wanted[:, :, columns])
    np.testing.assert_array_equal(result.visible.numpy(), one.visible[:, :, columns])
    v = normal((one.weights.B, 1, one.weights.S, 3), 5)
    found = attnviz.context(replace(one.weights, v=v.to(one.weights.dtype)), batch=batch).double().numpy()
    values = v.to(one.weights.dtype).double()[batch, 0].numpy()
    whole = np.where(one.visible, one.numbers, 0) @ values
    close(found, np.where(one.visible.any(2, keepdims=True), whole, np.nan), one.weights.dtype)


def test_logits_that_came_along_are_shown_and_hide_where_they_are_infinite():
    logits = normal((2, 5, 7), 3).masked_fill(normal((2, 5, 7), 4) > 1, -torch.inf)
    one = AttentionWeights(logits.softmax(-1), logits=logits)
    cells = attnviz.attention_map(one, 1, values="logits").cells
    np.testing.assert_allclose(cells, logits[1].masked_fill(logits[1] == -torch.inf, torch.nan).numpy())
    assert torch.equal(attnviz.score(one).scores, logits)
    for head, (found, rows) in enumerate(zip(attnviz.head_statistics(one), attnviz.query_statistics(one), strict=True)):
        np.testing.assert_allclose(rows.values["max_logit"], logits[head].amax(1).numpy())
        assert found.max_logit == float(logits[head].max())
    assert attnviz.head_statistics(AttentionWeights(logits.softmax(-1)))[0].max_logit is None


# What may stand in a row


def rows(*numbers: list[float]) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)  # one head


def test_a_row_wholly_nan_is_blank():
    one = AttentionWeights(rows([0.5, 0.5], [math.nan, math.nan]))
    assert np.isnan(attnviz.attention_map(one, 0).cells).tolist() == [[False, False], [True, True]]
    assert attnviz.head_statistics(one)[0].queries == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_with_a_part_that_is_no_number_is_an_error(bad):
    one = AttentionWeights(rows([0.5, 0.5], [0.5, bad]), source="mine")
    with pytest.raises(InputError, match=r"mine: weights has 1 of 2 values .* first at index \(0, 0, 1, 1\)"):
        attnviz.attention_map(one, 0)


def test_weights_on_hidden_pairs_are_counted_over_the_head():
    one = AttentionWeights(torch.full((3, 4, 4), 0.25), pattern=Causal())
    with pytest.raises(
        InputError, match=r"6 weights are not 0 on pairs that the pattern causal hides, first at index \(0, 2, 0, 1\)"
    ):
        attnviz.attention_map(one, 2)
    padded = AttentionWeights(torch.full((1, 4, 4), 0.25), key_padding_mask=torch.arange(4) > 0)
    with pytest.raises(InputError, match=r"3 weights are not 0 on pairs that padding .* first at index \(0, 0, 1, 0\)"):
        attnviz.score(padded)


def test_rows_of_padding_may_hold_anything():
    weights = torch.full((1, 3, 3), 1 / 3).tril()
    weights[0, 0] = 7.0
    one = AttentionWeights(
        weights / weights.sum(-1, keepdim=True), pattern=Causal(), query_padding_mask=torch.arange(3) > 0
    )
    assert np.isnan(attnviz.attention_map(one, 0).cells[0]).all()


def test_a_row_with_a_negative_weight_has_no_entropy():
    one = AttentionWeights(rows([0.5, 0.5], [1.5, -0.5]))
    found = attnviz.head_statistics(one)[0]
    assert found.entropy == pytest.approx(math.log(2))
    assert found.entropy_share == pytest.approx(1)
    assert np.isnan(attnviz.marginals(one, 0).entropy).tolist() == [False, True]
    negative = attnviz.head_statistics(AttentionWeights(rows([1.5, -0.5])))[0]
    assert (negative.entropy, negative.entropy_share) == (None, None)
    assert negative.max_weight == 1.5


def test_nothing_is_normalized():
    one = AttentionWeights(rows([0.1, 0.1], [2.0, 3.0]))
    assert attnviz.attention_map(one, 0, reduce="mass", pixels=1).cells.tolist() == [[pytest.approx(2.6)]]


def test_without_a_pattern_it_is_said_what_depends_on_one():
    one = AttentionWeights(rows([0.5, 0.5]))
    plain = attnviz.Pyramid.of(one).attention
    assert "every key counts as visible" in str(plain.caveat)
    assert not plain.knows_hidden
    with_one = attnviz.Pyramid.of(one, Causal()).attention
    assert (with_one.caveat, with_one.knows_hidden, with_one.pattern_name) == (None, True, "given, causal")


@pytest.mark.parametrize("ask", [attnviz.explain, lambda one: attnviz.attention_map(one, 0, values="logits")])
def test_what_needs_more_says_so_in_a_line(ask):
    with pytest.raises(
        InputError, match=r"mine: holds weights that were given, (and this needs q and k|without logits)"
    ) as error:
        ask(AttentionWeights(rows([0.5, 0.5]), source="mine"))
    assert "\n" not in str(error.value)


def test_they_are_taken_where_inputs_are_compared_and_kept():
    inputs = attnviz.synthesize(heads=2, tokens=6)
    computed = attnviz.score(inputs, Full(), logits=False).weights
    given_ = AttentionWeights(computed)
    assert float(np.abs(attnviz.compare_maps(given_, inputs, 1, Full()).difference.cells).max()) < 1e-6
    snapshot = attnviz.take_snapshot(given_)
    np.testing.assert_allclose(snapshot.heads[1].cells["weights"], computed[1].numpy())
    assert snapshot.settings["source"] == "weights"
