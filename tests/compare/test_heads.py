"""How far two maps are apart: differences known beforehand, and any two patterns against whole maps."""

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
from attnviz import AttentionInputs, InputError
from attnviz.attention.patterns import Causal, Full, GlobalKeys, Local, Pattern, longformer
from attnviz.compare.heads import Cell, Difference, HeadDifference, compare
from attnviz.compare.sides import Exact, Given
from attnviz.engine.request import Request
from tests.cases import small
from tests.strategies import Call, calls, longformer_rule, normal, parts, rules


def exact(inputs: AttentionInputs, pattern: Pattern, **what: object) -> Exact:
    """The exact side of some inputs."""
    return Exact(Request(inputs, pattern, **what))


def plain(rows: object, name: str = "A") -> Given:
    """One head's rows, or (H, T, S), as a kernel gives them."""
    tensor = torch.as_tensor(rows, dtype=torch.float64)
    return Given(tensor if tensor.ndim == 3 else tensor[None], None, None, name)


def differ(a: object, b: object, *, values: str = "weights", **options: object) -> HeadDifference:
    (head,) = compare(plain(a), plain(b, "B"), values=values, **options).heads
    return head


# Closed forms


def test_equal_maps_are_0_apart():
    head = differ([[0.5, 0.5], [0.25, 0.75]], [[0.5, 0.5], [0.25, 0.75]], atol=0, rtol=0)
    assert (head.max_abs, head.mean_abs, head.total_variation, head.js_divergence) == (0, 0, 0, 0)
    assert (head.top_k_agreement, head.beyond, head.pairs) == (1, 0, 4)


@given(st.sampled_from((torch.float32, torch.bfloat16, torch.float64)).flatmap(calls))
def test_an_attention_differs_from_itself_by_nothing(call):
    sides = [exact(call.inputs, call.pattern, batch=call.batch) for _ in range(2)]
    for head in compare(*sides).heads:
        assert (head.max_abs, head.mean_abs, head.beyond, head.rows_beyond) == (0, 0, 0, 0)
        assert (head.total_variation or 0, head.js_divergence or 0) == (0, 0)


def test_maps_on_keys_of_their_own_are_as_far_apart_as_can_be():
    head = differ([[1.0, 0.0]], [[0.0, 1.0]])
    assert head.max_abs == 1
    assert head.total_variation == pytest.approx(1)
    assert head.js_divergence == pytest.approx(math.log(2))
    assert differ([[1.0, 0.0]], [[0.0, 1.0]], top_k=1).top_k_agreement == 0


def test_total_variation_and_divergence_by_hand_averaged_over_queries():
    a, b = [[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], [[0.25, 0.5, 0.25], [0.2, 0.3, 0.5]]
    head = differ(a, b)
    assert head.total_variation == pytest.approx(0.25 / 2)
    js = (0.5 * math.log(0.5 / 0.375) + 0.25 * math.log(0.25 / 0.375) + 0.25 * math.log(0.25 / 0.125)) / 2
    assert head.js_divergence == pytest.approx(js / 2)
    assert head.mean_abs == pytest.approx(0.5 / 6)
    assert (head.worst.query, head.worst.key, head.beyond, head.pairs) == (0, 0, 2, 6)


def _shifted(cell: Cell | None, part: tuple[range, range]) -> Cell | None:
    return None if cell is None else replace(cell, query=cell.query - part[0].start, key=cell.key - part[1].start)


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 20), st.data())
def test_a_part_is_compared_as_if_there_were_nothing_else(seed, T, S, data):
    rows, columns = data.draw(parts(T)) or range(T), data.draw(parts(S)) or range(S)
    a, b = (torch.softmax(normal((2, T, S), seed + n), -1) for n in range(2))
    how = {"atol": 0.01, "rtol": 0.1, "top_k": 2}
    found = compare(plain(a), plain(b), queries=rows, keys=columns, pixels=50, **how)
    few = [plain(one[:, rows.start : rows.stop, columns.start : columns.stop]) for one in (a, b)]
    wanted = compare(*few, pixels=50, **how)
    for one, other in zip(found.heads, wanted.heads, strict=True):
        for name in ("max_abs", "mean_abs", "total_variation", "js_divergence"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-12)
        assert (one.beyond, one.pairs, one.top_k_agreement) == (other.beyond, other.pairs, other.top_k_agreement)
        assert _shifted(one.worst, (rows, columns)) == other.worst
        assert _shifted(one.first, (rows, columns)) == other.first
    for one, other in zip(found.pictures, wanted.pictures, strict=True):
        assert all(np.array_equal(x.cells, y.cells, equal_nan=True) for x, y in zip(one, other, strict=True))
        assert (one[0].queries, one[0].keys) == (rows, columns)
    assert found.part == {"queries": rows, "keys": columns}


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 70), st.integers(1, 5), st.floats(1e-4, 0.5))
def test_one_changed_weight_is_the_worst_cell(seed, H, T, S, change):
    draw = np.random.default_rng(seed)
    a = torch.softmax(normal((H, T, S), seed), -1)
    h, t, s = (int(draw.integers(size)) for size in (H, T, S))
    b = a.clone()
    b[h, t, s] += change
    found = compare(plain(a), plain(b), atol=1e-5, rtol=0)
    assert not found.within
    for head in found.heads:
        if head.head != h:
            assert (head.beyond, head.max_abs) == (0, 0)
            continue
        assert (head.beyond, head.worst.query, head.worst.key) == (1, t, s)
        assert (head.worst.a, head.worst.b) == (float(a[h, t, s]), float(b[h, t, s]))
        assert head.max_abs == pytest.approx(change)


def test_the_worst_cell_of_equal_maps_is_one_that_is_seen():
    head = differ([[0.0, 1.0]], [[0.0, 1.0]])
    assert (head.worst.query, head.worst.key) == (0, 1)


@pytest.mark.parametrize(("atol", "rtol", "within"), [(0.011, 0, True), (0.009, 0, False), (0, 0.021, True)])
def test_the_tolerance_is_atol_plus_rtol_times_b(atol, rtol, within):
    a, b = [[0.51, 0.49]], [[0.5, 0.49]]
    assert compare(plain(a), plain(b), atol=atol, rtol=rtol).within == within


def test_the_tolerance_is_relative_to_b_and_not_to_a():
    one, two = plain([[0.5, 0.06]]), plain([[0.5, 0.1]])
    assert not compare(two, one, atol=0, rtol=0.5).within
    assert compare(one, two, atol=0, rtol=0.5).within


@pytest.mark.parametrize("tolerance", [{"atol": math.nan}, {"rtol": math.nan}, {"atol": math.inf}, {"rtol": -1.0}])
def test_a_tolerance_that_nothing_or_all_would_meet_is_refused(tolerance):
    with pytest.raises(InputError, match=r"--[ar]tol \S+: a tolerance is a finite number, 0 or more"):
        compare(plain([[1.0]]), plain([[1.0]]), **tolerance)


# What one side sees and the other doesn't


def test_a_weight_on_a_hidden_key_counts_as_its_whole_weight():
    inputs = AttentionInputs(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4))
    (head,) = compare(exact(inputs, Full()), exact(inputs, Causal())).heads
    assert (head.beyond, head.pairs, head.max_abs) == (2, 4, 0.5)  # query 0: 1/2 against 1, and 1/2 against none
    assert head.total_variation == pytest.approx(0.25)


@pytest.mark.parametrize("values", ["weights", "logits"])
def test_a_query_that_one_side_leaves_blank_is_beyond_any_tolerance(values):
    blank = math.nan if values == "weights" else -math.inf
    head = differ([[0.5, 0.5], [blank, blank]], [[0.5, 0.5], [0.5, 0.5]], values=values, atol=100)
    assert (head.beyond, head.max_abs, head.worst.query) == (2, math.inf, 1)
    assert head.top_k_agreement == 0.5
    assert head.mean_abs == 0  # of the pairs that have numbers


@pytest.mark.parametrize("values", ["weights", "logits"])
def test_a_query_that_both_sides_leave_blank_is_left_out(values):
    rows = [[0.5, 0.5], [math.nan, math.nan]]
    head = differ(rows, rows, values=values)
    assert (head.beyond, head.pairs, head.top_k_agreement) == (0, 2, 1)


@pytest.mark.parametrize("fault", [math.nan, math.inf])
@pytest.mark.parametrize("values", ["weights", "logits"])
def test_a_fault_of_a_kernel_is_beyond_any_tolerance_wherever_it_is(values, fault):
    """Where the exact map sees a key, and where it doesn't."""
    hidden = 0.0 if values == "weights" else -math.inf
    for t, s in ((1, 0), (0, 1)):
        exact = [[1.0, hidden], [0.5, 0.5]]
        kernel = [list(row) for row in exact]
        kernel[t][s] = fault
        for a, b in ((kernel, exact), (exact, kernel)):
            head = differ(a, b, values=values, atol=100, rtol=100)
            assert (head.beyond, head.max_abs, head.worst.query, head.worst.key) == (1, math.inf, t, s)


def test_logits_of_minus_infinity_are_hidden_on_both_sides_or_beyond():
    hidden = -math.inf
    assert differ([[1.0, hidden]], [[1.0, hidden]], values="logits").pairs == 1
    head = differ([[1.0, 5.0]], [[1.0, hidden]], values="logits", atol=100)
    assert (head.beyond, head.worst.key, head.worst.b) == (1, 1, hidden)


def test_a_logit_of_0_is_a_logit():
    head = differ([[0.0, 0.0]], [[0.0, -math.inf]], values="logits", atol=100)
    assert (head.pairs, head.beyond, head.worst.key) == (2, 1, 1)


def test_logits_have_no_divergence():
    head = differ([[1.0, 2.0]], [[1.5, 2.0]], values="logits")
    assert (head.total_variation, head.js_divergence, head.max_abs) == (None, None, 0.5)


# Top keys


@pytest.mark.parametrize(
    ("a", "b", "k", "agree"),
    [
        ([0.4, 0.3, 0.2, 0.1], [0.3, 0.4, 0.2, 0.1], 2, True),  # the same two, in another order
        ([0.4, 0.3, 0.2, 0.1], [0.3, 0.4, 0.2, 0.1], 1, False),
        ([0.4, 0.3, 0.2, 0.1], [0.4, 0.2, 0.3, 0.1], 2, False),
        ([0.4, 0.3, 0.3, 0.0], [0.4, 0.3, 0.3, 0.0], 2, True),  # a tie is no disagreement
        ([0.4, 0.3, 0.3, 0.0], [0.4, 0.300001, 0.299999, 0.0], 2, True),
        ([0.4, 0.299999, 0.300001, 0.0], [0.4, 0.300001, 0.299999, 0.0], 2, True),
        ([0.25, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25], 3, True),
        ([0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], 4, True),  # all of them
        ([0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], 9, True),
    ],
)
def test_the_top_keys_of_a_query_agree(a, b, k, agree):
    assert differ([a], [b], top_k=k, atol=1e-5).top_k_agreement == agree


def test_a_top_key_that_the_other_side_does_not_see_disagrees():
    assert differ([[1.0, 2.0]], [[1.0, -math.inf]], values="logits", top_k=5).top_k_agreement == 0


def test_agreement_is_a_share_of_queries():
    a = torch.eye(4)
    b = a.clone()
    b[2] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert differ(a, b, top_k=1).top_k_agreement == 0.75


# Sides


@given(call=calls(values=False), data=st.data())
def test_two_patterns_of_the_same_inputs_differ_as_their_whole_maps_do(call, data):
    other = Call(call.inputs, data.draw(rules(call.inputs.T, call.inputs.S)), call.batch)
    head = data.draw(st.integers(0, call.inputs.H - 1))
    a, b = (side.expected().weights[head] for side in (call, other))
    sees_a, sees_b = call.visible(head), other.visible(head)
    sides = (exact(side.inputs, side.pattern, batch=side.batch) for side in (call, other))
    (found,) = compare(*sides, heads=[head], atol=1e-9, rtol=0).heads
    seen = sees_a | sees_b
    lost = seen & (np.isnan(a) | np.isnan(b))
    both = seen & ~lost
    apart = np.abs(np.where(both, a - b, 0))
    assert found.pairs == seen.sum()
    assert found.beyond == lost.sum() + (apart > 1e-9).sum()
    rows = both.any(1)
    tv = apart[rows].sum() / 2 / max(rows.sum(), 1)
    assert found.total_variation == pytest.approx(tv, abs=1e-9)
    assert found.max_abs == (math.inf if lost.any() else pytest.approx(apart.max(), abs=1e-9))
    if seen.any():
        t, s = found.worst.query, found.worst.key
        assert lost[t, s] if lost.any() else apart[t, s] == pytest.approx(apart.max(), abs=1e-9)


@given(call=calls(values=False))
def test_a_map_is_within_no_tolerance_at_all_of_itself(call):
    side = exact(call.inputs, call.pattern, batch=call.batch)
    found = compare(side, side, atol=0, rtol=0)
    assert found.within
    assert all(head.top_k_agreement == 1 for head in found.heads)


@given(call=calls(values=False), name=st.sampled_from(["weights", "logits"]))
def test_the_reference_stands_as_a_kernel_on_either_side(call, name):
    whole = call.expected()
    tensor = torch.from_numpy(whole.weights if name == "weights" else whole.logits)
    side = exact(call.inputs, call.pattern, batch=call.batch, values=name)
    kernel = Given(tensor, None, side.S, "kernel")
    for pair in ((side, kernel), (kernel, side)):
        found = compare(*pair, values=name, atol=1e-9, rtol=1e-9)
        assert found.within
        assert sum(head.pairs for head in found.heads) >= (name == "logits") * sum(
            call.visible(h).sum() for h in range(call.inputs.H)
        )


@given(
    call=calls(values=False), name=st.sampled_from(["weights", "logits"]), fill=st.sampled_from([0.0, math.nan, 0.25])
)
def test_what_a_kernel_writes_for_a_query_that_sees_nothing_is_compared_with_nothing(call, name, fill):
    whole = call.expected()
    tensor = torch.from_numpy((whole.weights if name == "weights" else whole.logits).copy())
    for head in range(call.inputs.H):
        tensor[head, ~torch.from_numpy(call.visible(head)).any(1)] = fill
    side, kernel = exact(call.inputs, call.pattern, batch=call.batch), Given(tensor, name="kernel")
    for pair in ((side, kernel), (kernel, side)):
        assert compare(*pair, values=name, atol=1e-9, rtol=1e-9).within


@given(call=calls(values=False), data=st.data())
def test_a_wrong_kernel_is_seen_in_any_row_that_sees_a_key(call, data):
    weights = torch.from_numpy(call.expected().weights.copy())
    rows = [(h, t) for h in range(call.inputs.H) for t in np.flatnonzero(call.visible(h).any(1))]
    if not rows:
        return
    (head, query), key = data.draw(st.sampled_from(rows)), data.draw(st.integers(0, call.inputs.S - 1))
    weights[head, query, key] += 0.01
    found = compare(Given(weights, name="kernel"), exact(call.inputs, call.pattern, batch=call.batch), atol=1e-9)
    (wrong,) = [one for one in found.heads if one.beyond]
    assert (wrong.head, wrong.beyond, wrong.worst.query, wrong.worst.key) == (head, 1, query, key)
    for others in (range(key), range(key + 1, call.inputs.S)):  # by what rounding costs in whole rows
        side = exact(call.inputs, call.pattern, batch=call.batch)
        assert not others or compare(Given(weights, name="kernel"), side, keys=others).within


def test_a_kernel_may_give_the_global_keys_alone():
    inputs = small(batch=1)
    side = exact(inputs, GlobalKeys())
    kernel = Given(attnviz.score(inputs).weights, [0, 3], 6, "kernel")
    assert compare(kernel, side).within
    wrong = Given(attnviz.score(inputs).weights, [0, 4], 6, "kernel")
    assert not compare(wrong, side).within


@pytest.mark.parametrize(
    "rule", [("causal",), ("local", 3, 1), ("local", 3, 4), longformer_rule(3), longformer_rule(2, 3)]
)
def test_a_sequence_of_many_blocks_has_no_seams(monkeypatch, rule):
    monkeypatch.setattr("attnviz.compare.sides.BLOCK_CELLS", 1)  # blocks of 16 rows
    mask = torch.zeros(100, dtype=torch.bool)
    mask[[0, 15, 16, 17, 50, 99]] = True
    inputs = AttentionInputs(normal((1, 100, 2), 0), normal((1, 100, 2), 1), global_mask=mask)
    call = Call(inputs, rule, 0)
    kernel = plain(call.expected().weights)
    assert compare(kernel, exact(inputs, call.pattern), atol=1e-12, rtol=0).within
    kernel.tensor[0, 57, 57] += 1e-6
    (head,) = compare(kernel, exact(inputs, call.pattern), atol=1e-7, rtol=0).heads
    assert (head.beyond, head.worst.query, head.worst.key) == (1, 57, 57)


def test_another_dtype_is_a_little_apart():
    inputs = small(batch=1)
    found = compare(exact(inputs, Full()), exact(inputs, Full(), dtype="bfloat16"))
    assert not found.within
    assert all(1e-5 < head.max_abs < 0.05 for head in found.heads)
    assert compare(exact(inputs, Full()), exact(inputs, Full(), dtype="bfloat16"), atol=0.05).within


def test_pictures_are_the_two_maps_and_what_lies_between():
    inputs = small(batch=1, tokens=30, dtype="float64")
    pair = exact(inputs, longformer(2)), exact(inputs, Full())
    a, b, apart = compare(*pair, heads=[1], pixels=30).pictures[0]
    for shown, pattern in ((a, longformer(2)), (b, Full())):
        np.testing.assert_allclose(shown.cells, attnviz.attention_map(inputs, 1, pattern).cells, atol=1e-12)
    np.testing.assert_allclose(apart.cells, np.nan_to_num(a.cells) - b.cells, atol=1e-12)
    assert (a.values, apart.values) == ("weights", "difference")


def test_a_cell_of_the_difference_is_the_one_furthest_from_0():
    a: Tensor = torch.full((1, 4, 4), 0.25).double()
    b = a.clone()
    b[0, 0, 0] += 0.1
    b[0, 1, 1] -= 0.2
    b[0, 2, 3] += 0.3
    (pictures,) = compare(plain(a), plain(b), pixels=2).pictures
    np.testing.assert_allclose(pictures[2].cells, [[0.2, 0], [0, -0.3]], atol=1e-12)


@pytest.mark.parametrize(
    ("b", "says"),
    [
        (torch.ones(2, 3, 4), r"A has 1 heads but B has 2; as \(H, T, S\): \(1, 3, 4\) and \(2, 3, 4\)"),
        (torch.ones(1, 5, 4), "A has 3 queries but B has 5"),
        (torch.ones(1, 3, 5), "A has 4 keys but B has 5"),
    ],
)
def test_maps_of_different_sizes_are_refused(b, says):
    with pytest.raises(InputError, match=says):
        compare(plain(torch.ones(1, 3, 4)), plain(b, name="B"))


@pytest.mark.parametrize("tensor", [torch.ones(3, 4), torch.ones(2, 1, 3, 4), torch.ones(1, 3, 4, dtype=torch.int64)])
def test_a_tensor_that_is_no_map_is_refused(tensor):
    with pytest.raises(InputError, match=r"kernel: has shape .* wanted weights or scores \(H, T, S\)"):
        Given(tensor, None, None, "kernel")


def test_a_tensor_of_other_columns_says_which_would_do():
    with pytest.raises(
        InputError, match=r"has 3 columns.*wanted 6, a key position each or 2, the pattern's global keys"
    ):
        Given(torch.ones(1, 6, 3), [0, 3], 6, "kernel")


def test_a_head_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"head 1 is out of range; there are 1 \(0 to 0\)"):
        compare(plain([[1.0]]), plain([[1.0]]), heads=[1])


def test_within_is_of_every_head():
    found: Difference = compare(plain(torch.ones(2, 1, 1)), plain(torch.tensor([[[1.0]], [[0.5]]])))
    assert [head.beyond for head in found.heads] == [0, 1]
    assert not found.within


def test_local_maps_of_different_dilation():
    inputs = small(batch=1, tokens=40, dtype="float64")
    found = compare(exact(inputs, Local(3)), exact(inputs, Local(2, 2)))
    whole = [attnviz.attention_map(inputs, 0, pattern).cells for pattern in (Local(3), Local(2, 2))]
    apart = np.abs(np.nan_to_num(whole[0]) - np.nan_to_num(whole[1]))
    assert found.heads[0].max_abs == pytest.approx(apart.max(), rel=1e-9)
