"""Statistics of heads: closed forms a reader can check, and any pattern against the reference."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import attnviz
from attnviz import AttentionInputs
from attnviz.attention.patterns import Causal, Full, GlobalKeys, Local, longformer
from attnviz.measures.statistics import STATISTICS, HeadStatistics
from tests.cases import small
from tests.strategies import DTYPES, Call, calls, longformer_rule, normal


def expected(call: Call) -> list[dict[str, float | None]]:
    return call.statistics()


def assert_alike(found: list[HeadStatistics], wanted: list[dict[str, float | None]], atol: float) -> None:
    assert len(found) == len(wanted)
    for row, numbers in zip(found, wanted, strict=True):
        for name in STATISTICS:
            if numbers[name] is None:
                assert getattr(row, name) is None
            else:
                assert getattr(row, name) == pytest.approx(numbers[name], rel=atol, abs=atol), name


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_statistics_of_any_pattern_are_the_references(dtype, data):
    call = data.draw(calls(DTYPES[dtype], values=False))
    found = attnviz.head_statistics(call.inputs, call.pattern, batch=call.batch)
    assert [row.queries for row in found] == [int(call.visible(row.head).any(1).sum()) for row in found]
    assert_alike(found, expected(call), 20 * call.tolerance)


def test_a_sequence_of_many_blocks_has_no_seams(monkeypatch):
    monkeypatch.setattr("attnviz.engine.blocks.BLOCK_CELLS", 1)  # the smallest blocks there are, 64 rows
    T = 150
    mask = torch.zeros(T, dtype=torch.bool)
    mask[[1, 64, 149]] = True
    padding = torch.arange(T) > 0
    inputs = AttentionInputs(normal((1, T, 2), 0), normal((1, T, 2), 1), global_mask=mask, key_padding_mask=padding)
    for rule in (longformer_rule(3, 2), ("local", 5, 1), ("causal",), ("full",), ("and", ("global",), ("causal",))):
        call = Call(inputs, rule, 0)
        assert_alike(attnviz.head_statistics(inputs, call.pattern), expected(call), 1e-11)


# Closed forms


def uniform(T: int, **given: object) -> AttentionInputs:
    """A head that weighs every key it sees alike."""
    return AttentionInputs(torch.zeros(1, T, 4).double(), torch.zeros(1, T, 4).double(), **given)


def looking_at(targets: list[int], T: int) -> AttentionInputs:
    """A head whose query ``t`` gives all its weight to key ``targets[t]``."""
    k = torch.eye(T).double()
    return AttentionInputs((1e4 * k[targets])[None], k[None])


def only(found: list[HeadStatistics]) -> HeadStatistics:
    (row,) = found
    return row


@pytest.mark.parametrize("n", [2, 3, 10, 1000])
def test_uniform_attention_has_the_entropy_log_n(n):
    row = only(attnviz.head_statistics(uniform(n), Full()))
    assert row.entropy == pytest.approx(math.log(n), rel=1e-12)
    assert row.entropy_share == pytest.approx(1, rel=1e-12)
    assert row.max_weight == pytest.approx(1 / n, rel=1e-12)
    assert row.sink_mass == pytest.approx(1 / n, rel=1e-12)
    assert row.diagonal_mass == pytest.approx(1 / n, rel=1e-12)
    # Each of n - 1 queries gives 1/n to the one before; the first has none before it, and is not counted.
    assert row.previous_mass == pytest.approx(1 / n, rel=1e-12)
    # The mean of |t - s| over a square of n by n.
    assert row.distance == pytest.approx((n * n - 1) / (3 * n), rel=1e-12)


def test_uniform_causal_attention():
    n = 50
    row = only(attnviz.head_statistics(uniform(n), Causal()))
    assert row.entropy == pytest.approx(np.mean([math.log(m) for m in range(1, n + 1)]), rel=1e-12)
    assert row.entropy_share == pytest.approx(1, rel=1e-12)  # the first query sees one key: left out, not counted as 0
    assert row.sink_mass == pytest.approx(np.mean([1 / m for m in range(1, n + 1)]), rel=1e-12)
    assert row.distance == pytest.approx(np.mean([(m - 1) / 2 for m in range(1, n + 1)]), rel=1e-12)


def test_an_identity_map_has_distance_0():
    row = only(attnviz.head_statistics(looking_at(list(range(9)), 9), Full()))
    assert (row.distance, row.diagonal_mass, row.entropy, row.max_weight) == (0, 1, 0, 1)
    assert row.previous_mass == 0


def test_a_head_that_looks_at_the_previous_token():
    row = only(attnviz.head_statistics(looking_at([0, *range(8)], 9), Causal()))
    assert row.previous_mass == 1  # of the eight queries that have a key before them
    assert row.distance == pytest.approx(8 / 9)
    assert row.diagonal_mass == pytest.approx(1 / 9)


def test_a_head_that_looks_at_the_first_token_is_a_sink():
    row = only(attnviz.head_statistics(looking_at([0] * 9, 9), Full()))
    assert row.sink_mass == 1
    assert row.distance == pytest.approx(4)


def test_the_sink_is_the_first_key_that_is_not_padding():
    inputs = replace(looking_at([2] * 9, 9), key_padding_mask=torch.arange(9)[None] >= 2)
    row = only(attnviz.head_statistics(inputs, Full()))
    assert (row.sink_mass, row.queries) == (1, 7)


def test_global_mass_is_the_weight_on_global_keys():
    inputs = uniform(8, global_mask=torch.arange(8) < 2)
    assert only(attnviz.head_statistics(inputs, Full())).global_mass == pytest.approx(1 / 4)
    assert only(attnviz.head_statistics(inputs, GlobalKeys())).global_mass == pytest.approx(1)
    # Query 5 sees the globals 0, 1 and its window 4, 5, 6.
    by_hand = [1, 1, 2 / 4, 2 / 5, 2 / 5, 2 / 5, 2 / 5, 2 / 4]
    by_hand[:2] = [2 / 8, 2 / 8]  # global queries see everything
    assert only(attnviz.head_statistics(inputs, longformer(1))).global_mass == pytest.approx(np.mean(by_hand))


def test_without_a_global_mask_there_is_no_global_mass():
    assert only(attnviz.head_statistics(uniform(4), Full())).global_mass is None


def test_where_every_query_sees_one_key_there_is_no_share_of_entropy():
    row = only(attnviz.head_statistics(uniform(4), Local(0)))
    assert (row.entropy, row.entropy_share, row.queries) == (0, None, 4)


def test_a_head_whose_queries_see_nothing_has_no_statistics():
    inputs = uniform(3, key_padding_mask=torch.zeros(1, 3, dtype=torch.bool))
    row = only(attnviz.head_statistics(inputs, Full()))
    assert row == HeadStatistics(0, 0, dict.fromkeys(STATISTICS))


def test_padded_queries_are_left_out():
    inputs = normal((1, 9, 4), 0), normal((1, 9, 4), 1)
    padded = AttentionInputs(*inputs, key_padding_mask=torch.arange(9) < 6)
    cut = AttentionInputs(*(tensor[:, :6] for tensor in inputs))
    assert_alike(
        attnviz.head_statistics(padded, Full()),
        [row.values for row in attnviz.head_statistics(cut, Full())],
        1e-12,
    )


def test_a_learned_sink_takes_weight_from_the_keys():
    row = only(attnviz.head_statistics(uniform(3, sinks=torch.tensor([0.0])), Full()))
    assert row.max_weight == pytest.approx(1 / 4)
    assert row.entropy == pytest.approx(3 / 4 * math.log(4))


# The call


def test_heads_layer_and_batch_item_are_the_ones_asked_for():
    inputs = small()
    found = attnviz.head_statistics(inputs, Full(), batch=1, heads=[3, 1], layer=7)
    assert [(row.layer, row.head) for row in found] == [(7, 3), (7, 1)]
    alone = AttentionInputs(inputs.q[1], inputs.k[1], global_mask=inputs.global_mask[1])
    whole = attnviz.head_statistics(alone, Full())
    assert [row.entropy for row in found] == pytest.approx([whole[3].entropy, whole[1].entropy])


def test_progress_counts_every_row_of_every_head():
    rows: list[int] = []
    attnviz.head_statistics(small(), longformer(1), heads=[0, 1], progress=rows.append)
    assert sum(rows) == 2 * 6


def test_distances_are_exact_far_from_the_diagonal():
    # float32 weights, T of a thousand: the distance of a query to a key is an integer, and none is lost.
    T = 1000
    k = torch.eye(2).repeat(T // 2, 1)[None]  # even keys, odd keys
    q = torch.tensor([[1e4, -1e4]]).expand(1, T, 2)
    row = only(attnviz.head_statistics(AttentionInputs(q, k), Full()))
    distances: Tensor = (torch.arange(T)[:, None] - torch.arange(0, T, 2)).abs().double()
    assert row.distance == pytest.approx(float(distances.mean()), rel=1e-6)
