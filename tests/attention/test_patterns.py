"""Every pattern and modifier against the reference: scores, blocks, and what a pattern says of itself."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import attnviz
from attnviz import AttentionInputs, AttentionScores, InputError
from attnviz.attention.names import description, named_pattern
from attnviz.attention.patterns import Causal, Full, GlobalKeys, GlobalQueries, Local, Masked, longformer
from attnviz.engine.blocks import blocks
from tests import reference
from tests.cases import small
from tests.strategies import DTYPES, Call, calls, given_calls, longformer_rule, normal


def whole(result: AttentionScores, n: int, name: str) -> np.ndarray:
    """One head's numbers as (T, S), wherever their columns are; what no column holds is NaN.

    Holds that no key has two visible columns in a row.
    """
    item = result.item
    found = np.full((item.T, item.S), np.nan)
    values, logits = result.values(name)[n], result.values("logits")[n]
    apart = result.global_queries.tolist()
    for t in range(item.T):
        if t in apart:
            found[t] = result.global_values(name)[n, apart.index(t)].double()
            continue
        keys = result.key_positions(t)
        shown = [s for s, logit in zip(keys, logits[t].tolist(), strict=True) if logit > -np.inf]
        assert None not in shown
        assert len(shown) == len(set(shown)), f"query {t} counts a key twice: {shown}"
        for s, value, logit in zip(keys, values[t].tolist(), logits[t].tolist(), strict=True):
            if s is not None and (logit > -np.inf or np.isnan(found[t, s])):
                found[t, s] = value
    return found


def assert_scores_are_the_references(call: Call) -> None:
    expected = call.expected()
    result = attnviz.score(call.inputs, call.pattern, batch=call.batch)
    logit_close = 1e-12 if call.inputs.q.dtype == torch.float64 else 1e-5
    for h in range(call.inputs.H):
        visible, weights, logits = call.visible(h), whole(result, h, "weights"), whole(result, h, "logits")
        seen = logits > -np.inf
        np.testing.assert_array_equal(seen, visible)
        np.testing.assert_allclose(logits[seen], expected.logits[h][seen], rtol=logit_close, atol=logit_close)
        np.testing.assert_allclose(weights[seen], expected.weights[h][seen], rtol=0, atol=call.tolerance)
        assert not weights[~seen & visible.any(1)[:, None] & ~np.isnan(weights)].any()


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_scores_of_any_pattern_are_the_references(dtype, data):
    assert_scores_are_the_references(data.draw(calls(DTYPES[dtype], values=False)))


@given(call=calls(values=False))
def test_weights_alone_and_logits_alone_are_the_same_as_both(call):
    both = attnviz.score(call.inputs, call.pattern, batch=call.batch)
    weights = attnviz.score(call.inputs, call.pattern, batch=call.batch, logits=False)
    logits = attnviz.score(call.inputs, call.pattern, batch=call.batch, weights=False)
    for one, other in (
        (weights.weights, both.weights),
        (logits.scores, both.scores),
        (weights.global_weights, both.global_weights),
        (logits.global_scores, both.global_scores),
    ):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))


@given(call=calls(values=False), data=st.data())
def test_blocks_give_every_query_once_and_the_references_numbers(call, data):
    first = data.draw(st.integers(0, call.inputs.T - 1))
    queries = range(first, data.draw(st.integers(first + 1, call.inputs.T)))
    item, head = call.inputs.item(call.batch), data.draw(st.integers(0, call.inputs.H - 1))
    expected, visible = call.expected(), call.visible(head)
    for name, values in (("weights", expected.weights[head]), ("logits", expected.logits[head])):
        rows: list[int] = []
        for block in blocks(item, call.pattern, head, queries=queries, weights=name == "weights"):
            assert block.visible.tolist() == visible[block.rows.numpy()].sum(1).tolist()
            found = np.full((len(block.rows), item.S), 0.0 if name == "weights" else -np.inf)
            for j, s in enumerate(block.keys.tolist()):
                column = block.values[:, j].double().numpy()
                # A shared key may come again, hidden.
                found[:, s] = found[:, s] + column if name == "weights" else np.maximum(found[:, s], column)
            at = block.rows.numpy()
            sees = visible[at].any(1)
            np.testing.assert_allclose(found[sees], values[at][sees], rtol=0, atol=1e-11)
            rows += block.rows.tolist()
        assert sorted(rows) == list(queries)


@given(call=calls(values=False))
def test_the_reach_of_a_pattern_bounds_what_it_makes_visible(call):
    item = call.inputs.item(call.batch)
    reach = call.pattern.reach(item)
    visible = reference.visible_to_all(call.rule, item.T, item.S, call.globals_, places=call.places)
    offsets = None if not reach.band or reach.open else reach.offsets()
    padding = call.inputs.key_padding_mask
    exists = {s for s in range(item.S) if padding is None or bool(padding[call.batch, s])}
    for t in range(item.T):
        if call.has_global_queries and t in call.global_queries:
            continue
        inside = {
            s
            for s in range(item.S)
            if reach.band
            and (reach.low is None or s - t >= reach.low)
            and (reach.high is None or s - t <= reach.high)
            and (s - t - reach.phase) % reach.step == 0
            and (reach.first is None or s >= reach.first[t])
            and (reach.stop is None or s < reach.stop[t])
            and (reach.table is None or reach.table.blocks[t // reach.table.queries, s // reach.table.keys])
        }
        assert offsets is None or {s - t for s in inside} <= set(offsets)
        spans = [s for span in reach.spans(range(t, t + 1), item.S) for s in span]
        assert inside <= set(spans)
        assert spans == sorted({*spans})
        keys = set() if reach.keys is None else set(reach.keys.tolist())
        seen = {s for s in range(item.S) if visible[t, s]}
        assert seen & exists <= inside | keys
        if reach.band and reach.band_exact:
            assert (inside & exists) - keys <= seen
        if reach.keys is not None and reach.keys_exact:
            assert keys <= seen


@given(call=calls(values=False))
def test_visible_is_the_definition_elementwise(call):
    item = call.inputs.item(call.batch)
    t, s = torch.arange(item.T)[:, None], torch.arange(item.S)[None, :]
    found = call.pattern.visible(t, s, item)
    assert found.dtype == torch.bool
    expected = reference.visible_to_all(call.rule, item.T, item.S, call.globals_, places=call.places)
    np.testing.assert_array_equal(found.numpy(), expected)


# Each pattern by hand, where a reader can see the set.

SETS = {
    "global": (GlobalKeys(), 6, 6, {0: {1, 4}, 5: {1, 4}}),
    "full": (Full(), 3, 5, {0: {0, 1, 2, 3, 4}}),
    "causal": (Causal(), 5, 5, {0: {0}, 2: {0, 1, 2}, 4: {0, 1, 2, 3, 4}}),
    "causal, S > T": (Causal(), 2, 5, {0: {0, 1, 2, 3}, 1: {0, 1, 2, 3, 4}}),
    "causal, S < T": (Causal(), 5, 2, {0: set(), 2: set(), 3: {0}, 4: {0, 1}}),
    "local": (Local(1), 6, 6, {0: {0, 1}, 3: {2, 3, 4}, 5: {4, 5}}),
    "local 0": (Local(0), 4, 4, {0: {0}, 3: {3}}),
    "dilation": (Local(2, 2), 9, 9, {0: {0, 2, 4}, 4: {0, 2, 4, 6, 8}, 7: {3, 5, 7}}),
    "local, S < T": (Local(1), 6, 3, {1: set(), 2: {0}, 3: {0, 1}, 4: {0, 1, 2}, 5: {1, 2}}),
    "local, S > T": (Local(1), 2, 5, {0: {2, 3, 4}, 1: {3, 4}}),
    "a decode step": (Local(3) & Causal(), 1, 64, {0: {60, 61, 62, 63}}),
    "causal local": (Local(2) & Causal(), 6, 6, {0: {0}, 4: {2, 3, 4}}),
    "longformer": (longformer(1), 6, 6, {0: {0, 1, 4}, 2: {1, 2, 3, 4}, 4: {0, 1, 2, 3, 4, 5}}),
    "longformer & causal": (longformer(1) & Causal(), 6, 6, {0: {0}, 3: {1, 2, 3}, 4: {0, 1, 2, 3, 4}}),
    "two windows": (Local(1) | Local(1, 3), 9, 9, {4: {1, 3, 4, 5, 7}}),
    "global or causal": (GlobalKeys() | Causal(), 6, 6, {0: {0, 1, 4}, 3: {0, 1, 2, 3, 4}}),
    "mask": (Masked(torch.eye(4).bool()), 4, 4, {0: {0}, 3: {3}}),
}


@pytest.mark.parametrize("name", SETS)
def test_a_query_sees_just_these_keys(name):
    pattern, T, S, sets = SETS[name]
    mask = torch.zeros(S, dtype=torch.bool)
    mask[[s for s in (1, 4) if s < S]] = True
    inputs = AttentionInputs(normal((1, T, 4), 0), normal((1, S, 4), 1), global_mask=mask)
    weights = whole(attnviz.score(inputs, pattern), 0, "weights")
    for t, expected in sets.items():
        assert {s for s in range(S) if weights[t, s] > 0} == expected


def test_a_sequence_of_many_blocks_has_no_seams(monkeypatch):
    monkeypatch.setattr("attnviz.engine.blocks.BLOCK_CELLS", 1)  # the smallest blocks there are, 64 rows
    T = 200
    mask = torch.zeros(T, dtype=torch.bool)
    mask[[0, 63, 64, 130, 199]] = True
    padding = torch.arange(T) != 65
    inputs = AttentionInputs(
        normal((1, T, 2), 0),
        normal((1, T, 2), 1),
        normal((1, T, 2), 2),
        global_mask=mask,
        key_padding_mask=padding,
        q_global=normal((1, T, 2), 3),
        k_global=normal((1, T, 2), 4),
    )
    for rule in (longformer_rule(3), longformer_rule(5, 3), ("local", 7, 2), ("causal",)):
        assert_scores_are_the_references(Call(inputs, rule, 0))


# Global queries


def test_rows_of_global_queries_stand_apart_and_use_their_own_projections():
    inputs = small(batch=1, dtype="float64")
    apart = AttentionInputs(
        inputs.q, inputs.k, global_mask=inputs.global_mask, q_global=inputs.q * 2, k_global=inputs.k - 1
    )
    result = attnviz.score(apart, longformer(1))
    assert result.global_queries.tolist() == [0, 3]
    assert tuple(result.global_weights.shape) == (4, 2, 6)
    assert result.weights[:, [0, 3]].isnan().all()
    full = attnviz.score(AttentionInputs(inputs.q * 2, inputs.k - 1), Full())
    torch.testing.assert_close(result.global_weights, full.weights[:, [0, 3]])


def test_without_projections_of_their_own_global_queries_use_the_plain_ones():
    inputs = small(batch=1, dtype="float64")
    result = attnviz.score(inputs, longformer(1))
    torch.testing.assert_close(result.global_weights, attnviz.score(inputs, Full()).weights[:, [0, 3]])


def test_a_query_is_global_where_the_key_at_its_position_is():
    q, k = torch.ones(1, 2, 3), torch.ones(1, 4, 3)
    last = AttentionInputs(q, k, global_mask=torch.arange(4) == 3)
    assert attnviz.score(last, longformer(1)).global_queries.tolist() == [1]
    before = AttentionInputs(q, k, global_mask=torch.arange(4) == 1)
    assert attnviz.score(before, longformer(1)).global_queries.tolist() == []


@pytest.mark.parametrize("pattern", [Causal(), Local(1), GlobalQueries(), Full() & Causal(), GlobalKeys() | Local(2)])
def test_keys_of_another_sequence_have_no_order(pattern):
    inputs = AttentionInputs(torch.ones(1, 4, 3), torch.ones(1, 4, 3), global_mask=torch.arange(4) == 1, cross=True)
    with pytest.raises(InputError, match=r"inputs: keys are of another sequence \(cross\), which has no order"):
        attnviz.score(inputs, pattern)
    for fits in (Full(), GlobalKeys(), Masked(torch.ones(4, 4, dtype=torch.bool))):
        attnviz.score(inputs, fits)


def test_a_ring_buffer_is_the_sequence_that_it_holds():
    """A cache of five keys that has turned round: keys stand in any order, and what is seen is what stands near."""
    q, k = normal((1, 2, 4), 0), normal((1, 5, 4), 1)
    order = torch.tensor([3, 4, 0, 1, 2])  # the key in each place of the ring
    whole = AttentionInputs(q, k, query_positions=torch.tensor([13, 14]), key_positions=torch.arange(10, 15))
    ring = AttentionInputs(q, k[:, order], query_positions=torch.tensor([13, 14]), key_positions=10 + order)
    plain = AttentionInputs(q, k)
    for pattern in (Causal(), Local(2), Local(1, 2), Local(1) & Causal()):
        expected = attnviz.attention_map(plain, 0, pattern).cells
        np.testing.assert_allclose(attnviz.attention_map(whole, 0, pattern).cells, expected, atol=1e-12)
        np.testing.assert_allclose(attnviz.attention_map(ring, 0, pattern).cells, expected[:, order], atol=1e-12)
        one, other = (attnviz.head_statistics(inputs, pattern)[0].values for inputs in (plain, ring))
        assert all(other[name] == (value if value is None else pytest.approx(value)) for name, value in one.items())


# Columns


def test_columns_are_the_shared_keys_then_a_window():
    result = attnviz.score(small(batch=1, tokens=20), longformer(2, 3))
    assert result.positions.tolist() == [0, 3]
    assert list(result.offsets) == [-6, -3, 0, 3, 6]
    assert result.key_positions(4) == [0, 3, None, 1, 4, 7, 10]
    assert tuple(result.weights.shape) == (4, 20, 7)


def test_a_band_wider_than_the_sequence_has_a_column_a_key():
    result = attnviz.score(small(batch=1), longformer(3))
    assert result.positions.tolist() == list(range(6))
    assert list(result.offsets) == []


def test_a_shared_key_inside_the_window_is_hidden_there():
    result = attnviz.score(small(batch=1, tokens=20), longformer(2))
    offset = {o: 2 + n for n, o in enumerate(result.offsets)}
    assert result.scores[0, 4, offset[-1]] == -torch.inf  # key 3, which is global
    assert result.weights[0, 4, offset[-1]] == 0
    assert result.scores[0, 4, 1] > -torch.inf


# Modifiers by hand


def logits_of(**modifiers: object) -> list[float]:
    """Logits of one query (q = 2) at position 2 over keys 1, 2, 3 with D = 1."""
    q, k = torch.full((1, 3, 1), 2.0), torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1)
    inputs = AttentionInputs(q.double(), k.double(), **modifiers)
    return attnviz.score(inputs, Full()).scores[0, 2].tolist()


def test_scale_softcap_bias_and_slopes_come_in_the_order_models_apply_them():
    modifiers = {
        "scale": 0.5,
        "softcap": 2.0,
        "bias": torch.tensor([10.0, 20.0, 30.0]).view(1, 1, 3),
        "alibi_slopes": torch.tensor([0.25]),
    }
    expected = [2 * np.tanh(n / 2) + 10 * n - 0.25 * (3 - n) for n in (1, 2, 3)]
    assert logits_of(**modifiers) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("modifier", "expected"),
    [
        ({}, [2, 4, 6]),
        ({"scale": 0.5}, [1, 2, 3]),
        ({"softcap": 3.0}, [3 * np.tanh(n / 3) for n in (2, 4, 6)]),
        ({"bias": torch.full((1, 1, 1), 5.0)}, [7, 9, 11]),
        ({"alibi_slopes": torch.tensor([1.0])}, [0, 3, 6]),
        ({"sinks": torch.tensor([7.0])}, [2, 4, 6]),
    ],
)
def test_a_modifier_alone(modifier, expected):
    assert logits_of(**modifier) == pytest.approx(expected, rel=1e-12)


def test_a_sink_takes_weight_and_gives_none():
    inputs = AttentionInputs(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), sinks=torch.tensor([0.0, -1e4]))
    weights = attnviz.score(inputs, Full()).weights
    torch.testing.assert_close(weights[0], torch.full((3, 3), 1 / 4))  # three keys and the sink, alike
    torch.testing.assert_close(weights[1], torch.full((3, 3), 1 / 3))


def test_a_sink_larger_than_every_logit_does_not_overflow():
    inputs = AttentionInputs(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4), sinks=torch.tensor([1e4]))
    assert attnviz.score(inputs, Full()).weights.tolist() == [[[0.0, 0.0], [0.0, 0.0]]]


def test_alibi_measures_from_the_end_where_queries_are_the_last_positions():
    inputs = AttentionInputs(torch.zeros(1, 2, 1), torch.zeros(1, 4, 1), alibi_slopes=torch.tensor([1.0]))
    logits = attnviz.score(inputs, Causal()).scores[0]
    assert logits.tolist() == [[-2.0, -1.0, 0.0, -torch.inf], [-3.0, -2.0, -1.0, 0.0]]


# Names


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        (GlobalKeys(), "global"),
        (Full(), "full"),
        (Causal(), "causal"),
        (Local(4), "local, window 4"),
        (Local(4, 2), "local, window 4, dilation 2"),
        (longformer(2), "local, window 2 + global + global queries"),
        (Local(4) & Causal(), "local, window 4, causal"),
        (Masked(torch.eye(2).bool()), "own mask"),
    ],
)
def test_a_pattern_says_its_name(pattern, name):
    assert str(pattern) == name


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"name": "global"}, GlobalKeys()),
        ({"name": "full"}, Full()),
        ({"name": "causal"}, Causal()),
        ({"name": "full", "causal": True}, Full() & Causal()),
        ({"name": "local", "window": 3}, Local(3)),
        ({"name": "local", "window": 0, "dilation": 2, "causal": True}, Local(0, 2) & Causal()),
        ({"name": "local+global", "window": 3}, Local(3) | GlobalKeys() | GlobalQueries()),
    ],
)
def test_a_name_gives_a_pattern(settings, pattern):
    assert named_pattern(**settings) == pattern


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"name": "sliding"}, "'sliding' is not one of global, full, causal, local, local.global"),
        ({"name": "local"}, "--pattern local needs --window"),
        ({"name": "local+global"}, "needs --window"),
        ({"name": "full", "window": 0}, "--window 0: the full pattern has no window"),
        ({"name": "global", "dilation": 2}, "--dilation 2: the global pattern has no window"),
        ({"name": "causal", "causal": True}, "the causal pattern is causal already"),
        ({"name": "local", "window": -1}, "a window is 0 or more and a dilation 1 or more; given -1 and 1"),
        (
            {"name": "local", "window": 1, "dilation": 0},
            "a window is 0 or more and a dilation 1 or more; given 1 and 0",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_named(settings, says):
    with pytest.raises(InputError, match=says):
        named_pattern(**settings)


def test_a_mask_of_another_size_is_named():
    with pytest.raises(InputError, match=r"the attention mask has shape \(6, 5\), wanted \(T, S\) = \(6, 6\)"):
        attnviz.score(small(), Masked(torch.ones(6, 5, dtype=torch.bool)))


@pytest.mark.parametrize("mask", [torch.ones(6, 6), torch.ones(6, dtype=torch.bool), torch.ones(1, 1, 1, 6, 6).bool()])
def test_a_mask_of_another_kind_is_named(mask):
    with pytest.raises(InputError, match=r"an attention mask has dtype bool and shape \(T, S\).*; found"):
        Masked(mask)


def test_inputs_can_carry_their_own_pattern():
    from dataclasses import replace

    inputs = replace(small(batch=1), pattern=Local(1))
    assert str(attnviz.score(inputs).pattern) == "local, window 1"
    assert str(attnviz.score(inputs, Full()).pattern) == "full"


@given(data=st.data())
def test_scores_of_some_queries_are_their_rows_of_all(data):
    call = data.draw(calls(values=False))
    given = data.draw(st.booleans()) and data.draw(given_calls())
    inputs, pattern, batch = (
        (given.weights, None, given.call.batch) if given else (call.inputs, call.pattern, call.batch)
    )
    T = inputs.T
    queries = data.draw(st.integers(0, T - 1).flatmap(lambda a: st.integers(a + 1, T).map(lambda b: range(a, b))))
    try:
        whole = attnviz.score(inputs, pattern, batch=batch)
    except InputError:
        with pytest.raises(InputError):
            attnviz.score(inputs, pattern, batch=batch, queries=queries)
        return
    part = attnviz.score(inputs, pattern, batch=batch, queries=queries)
    assert part.rows == queries
    for name in ("scores", "weights"):
        one, all_of = getattr(part, name), getattr(whole, name)
        if all_of is not None:
            torch.testing.assert_close(one, all_of[:, queries.start : queries.stop], equal_nan=True)
    kept = [n for n, query in enumerate(whole.global_queries.tolist()) if query in queries]
    assert part.global_queries.tolist() == whole.global_queries[kept].tolist()
    if whole.global_weights is not None:
        torch.testing.assert_close(part.global_weights, whole.global_weights[:, kept], equal_nan=True)


def test_a_class_made_of_another_leaves_it_its_name():
    class Mine(Causal):
        pass

    assert type(named_pattern("causal")) is Causal
    with pytest.raises(InputError, match="Mine has no name"):
        description(Mine(), [])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("true", True),
        ("False", False),
        ("2/3", (2, 3)),
        ("true/1", (True, 1)),
        ("word", "word"),
    ],
)
def test_a_setting_is_read_as_what_it_is(text, value):
    with pytest.raises(InputError, match=re.escape(f"x={value} is no setting of it; it has none")):
        named_pattern(f"full:x={text}")
