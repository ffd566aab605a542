"""The engine against the formula in float64 loops, and what it says of inputs it can't use."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import attnviz
from attnviz import AttentionInputs, InputError
from tests.reference import attend, sees_globals

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
TOLERANCE = {"float16": 1e-5, "bfloat16": 1e-5, "float32": 1e-6, "float64": 1e-12}
"""Of the weights, as the specification has it; the reference takes the inputs as already rounded."""


@dataclass(frozen=True)
class Case:
    """One call of the engine, and which of its inputs make sense together."""

    inputs: AttentionInputs
    batch: int
    heads: list[int] | None

    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """Logits and weights of the reference over the global keys alone, (n, T, G)."""
        inputs, b = self.inputs, self.batch
        assert inputs.global_mask is not None
        globals_ = inputs.global_mask[b].numpy()
        padding = None if inputs.key_padding_mask is None else inputs.key_padding_mask[b].numpy()
        visible = sees_globals(globals_, inputs.q.shape[2], padding)
        whole = attend(inputs.q[b], inputs.k[b], visible, scale=inputs.scale)
        heads = list(range(inputs.q.shape[1])) if self.heads is None else self.heads
        return whole.logits[heads][:, :, globals_], whole.weights[heads][:, :, globals_]


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@st.composite
def cases(draw: st.DrawFn, dtype: torch.dtype) -> Case:
    B, H_kv, group = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    T, D = draw(st.integers(1, 6)), draw(st.integers(1, 16))
    S = draw(st.just(T) | st.integers(1, 9))
    H, seed = H_kv * group, draw(st.integers(0, 2**32 - 1))
    rows = st.lists(st.booleans(), min_size=S, max_size=S)
    global_mask = torch.tensor([draw(rows.filter(any)) for _ in range(B)])
    padding = draw(st.none() | st.lists(rows, min_size=B, max_size=B))
    q, k = normal((B, H, T, D), seed), normal((B, H_kv, S, D), seed + 1)
    inputs = AttentionInputs(
        q.to(dtype),
        k.to(dtype),
        global_mask=global_mask,
        # Global keys exist; whether others do is free.
        key_padding_mask=None if padding is None else torch.tensor(padding) | global_mask,
        scale=draw(st.none() | st.floats(0.01, 1.0)),
    )
    heads = draw(st.none() | st.lists(st.integers(0, H - 1), min_size=1, max_size=H, unique=True))
    return Case(inputs, draw(st.integers(0, B - 1)), heads)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_weights_are_the_formula_in_float64(dtype, data):
    case = data.draw(cases(DTYPES[dtype]))
    _, weights = case.expected()
    found = attnviz.score(case.inputs, batch=case.batch, heads=case.heads).weights
    np.testing.assert_allclose(found.double().numpy(), weights, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_logits_are_the_formula_in_float64(dtype, data):
    case = data.draw(cases(DTYPES[dtype]))
    logits, _ = case.expected()
    found = attnviz.score(case.inputs, batch=case.batch, heads=case.heads).scores
    close = 1e-12 if dtype == "float64" else 5e-6
    np.testing.assert_allclose(found.double().numpy(), logits, rtol=close, atol=close)


@given(case=cases(torch.float32))
def test_weights_of_a_query_that_exists_sum_to_one(case):
    weights = attnviz.score(case.inputs, batch=case.batch).weights
    sums = weights.sum(-1)
    seen = ~torch.isnan(sums)
    torch.testing.assert_close(sums[seen], torch.ones_like(sums[seen]))


@given(case=cases(torch.float32))
def test_positions_are_the_global_keys_of_the_item_ascending(case):
    positions = attnviz.score(case.inputs, batch=case.batch).positions
    assert positions.tolist() == [s for s, flag in enumerate(case.inputs.global_mask[case.batch].tolist()) if flag]


@given(case=cases(torch.bfloat16))
def test_either_of_logits_and_weights_alone_gives_the_same_numbers_as_both(case):
    both = attnviz.score(case.inputs, batch=case.batch)
    logits = attnviz.score(case.inputs, batch=case.batch, weights=False)
    weights = attnviz.score(case.inputs, batch=case.batch, logits=False)
    assert logits.weights is None
    assert weights.scores is None
    assert torch.equal(logits.scores, both.scores)
    assert torch.equal(weights.weights.nan_to_num(-1), both.weights.nan_to_num(-1))


@given(data=st.data())
def test_the_inputs_are_left_as_they_were(data):
    case = data.draw(cases(DTYPES[data.draw(st.sampled_from(sorted(DTYPES)))]))
    tensors = (case.inputs.q, case.inputs.k, case.inputs.global_mask)
    before = [tensor.clone() for tensor in tensors]
    attnviz.score(case.inputs, batch=case.batch)
    assert all(torch.equal(old, new) for old, new in zip(before, tensors, strict=True))


@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        ("float16", torch.float32),
        ("bfloat16", torch.float32),
        ("float32", torch.float32),
        ("float64", torch.float64),
    ],
)
def test_half_types_give_float32_and_others_their_own_dtype(dtype, result):
    found = attnviz.score(attnviz.synthesize(dtype=dtype))
    assert (found.scores.dtype, found.weights.dtype) == (result, result)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_accumulate_in_float32(dtype):
    # 4,096 ones: a sum in bfloat16 would stop at 256, and one in float16 at 2,048.
    ones = torch.ones(1, 2, 4096, dtype=DTYPES[dtype])
    inputs = AttentionInputs(ones, ones, global_mask=torch.tensor([True, True]), scale=1.0)
    assert attnviz.score(inputs).scores.unique().tolist() == [4096.0]


def test_a_query_head_reads_the_key_head_of_its_own_group():
    q = torch.ones(4, 1, 1)  # H = 4
    k = torch.tensor([[[10.0]], [[20.0]]])  # H_kv = 2: h // 2 gives 10, 10, 20, 20; h % 2 would alternate
    scores = attnviz.score(AttentionInputs(q, k, global_mask=torch.tensor([True]), scale=1.0)).scores
    assert scores.flatten().tolist() == [10.0, 10.0, 20.0, 20.0]


def test_heads_come_in_the_order_asked_for():
    inputs = attnviz.synthesize(heads=6)
    whole, some = attnviz.score(inputs), attnviz.score(inputs, heads=[4, 0, 5])
    assert some.heads == (4, 0, 5)
    assert torch.equal(some.weights, whole.weights[[4, 0, 5]])


def test_unequal_numbers_of_globals_leave_no_padding_in_a_result():
    mask = torch.tensor([[True, False, True, True], [False, True, False, False]])
    inputs = AttentionInputs(normal((2, 2, 4, 8), 0), normal((2, 2, 4, 8), 1), global_mask=mask)
    shapes = [tuple(attnviz.score(inputs, batch=b).weights.shape) for b in range(2)]
    assert shapes == [(2, 4, 3), (2, 4, 1)]


def test_a_padded_query_has_no_weights():
    exists = torch.tensor([True, True, True, False])
    inputs = AttentionInputs(
        normal((1, 4, 8), 0),
        normal((1, 4, 8), 1),
        global_mask=torch.tensor([True, False, True, False]),
        key_padding_mask=exists,
    )
    blank = attnviz.score(inputs).weights.isnan().all(-1)
    assert blank.tolist() == [[False, False, False, True]]


def test_a_sequence_of_several_row_blocks_has_no_seams(monkeypatch):
    monkeypatch.setattr("attnviz.engine.blocks.BLOCK_CELLS", 1)  # the smallest blocks there are, 64 rows
    q, k = normal((1, 1003, 2), 0), normal((1, 5, 2), 1)
    mask = torch.tensor([False, True, False, True, False])
    result = attnviz.score(AttentionInputs(q, k, global_mask=mask))
    expected = attend(q, k, sees_globals(mask.numpy(), q.shape[1]))
    np.testing.assert_allclose(result.scores.numpy(), expected.logits[:, :, mask], rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.weights.numpy(), expected.weights[:, :, mask], rtol=0, atol=1e-12)


def test_large_logits_do_not_overflow():
    q = torch.full((1, 2, 4), 200.0)
    k = torch.stack([torch.full((4,), 200.0), torch.full((4,), -200.0)]).unsqueeze(0)
    weights = attnviz.score(AttentionInputs(q, k, global_mask=torch.tensor([True, True]))).weights
    assert weights.tolist() == [[[1.0, 0.0], [1.0, 0.0]]]


def test_rounding_to_a_dtype_equals_inputs_that_were_rounded():
    inputs = attnviz.synthesize(dtype="float32")
    rounded = replace(inputs, q=inputs.q.half(), k=inputs.k.half(), v=None)
    assert torch.equal(attnviz.score(inputs, dtype="float16").weights, attnviz.score(rounded).weights)
    assert not torch.equal(attnviz.score(inputs, dtype="float16").weights, attnviz.score(inputs).weights)


def test_autocast_around_a_call_changes_nothing():
    inputs = attnviz.synthesize()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = attnviz.score(inputs)
    assert torch.equal(inside.scores, attnviz.score(inputs).scores)


def test_inputs_that_require_grad_give_results_that_do_not():
    inputs = attnviz.synthesize()
    result = attnviz.score(replace(inputs, q=inputs.q.clone().requires_grad_()))
    assert not result.weights.requires_grad


def test_a_result_says_which_values_it_holds():
    result = attnviz.score(attnviz.synthesize())
    assert result.values("logits") is result.scores
    assert result.values("weights") is result.weights


# Inputs that can't be used.


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["q", "k"])
def test_nan_and_inf_are_named_with_their_count_and_first_index(name, dtype, wrong):
    tensors = {"q": normal((2, 3, 4, 5), 0).to(DTYPES[dtype]), "k": normal((2, 3, 4, 5), 1).to(DTYPES[dtype])}
    tensors[name][1, 2, 3, 4] = wrong
    tensors[name][1, 2, 1, 2] = wrong
    inputs = AttentionInputs(**tensors, global_mask=torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(InputError, match=rf"{name} has 2 values that are NaN or Inf.*first at index \(1, 2, 1, 2\)"):
        attnviz.score(inputs, batch=1)


def test_one_nan_is_one_value():
    q = torch.ones(1, 2, 3)
    q[0, 1, 2] = float("nan")
    inputs = AttentionInputs(q, torch.ones(1, 2, 3), global_mask=torch.tensor([True, False]))
    with pytest.raises(InputError, match=r"q has 1 value that is NaN or Inf.*index \(0, 0, 1, 2\)"):
        attnviz.score(inputs)


def test_numbers_whose_sum_overflows_are_not_called_infinite():
    largest = torch.full((1, 2, 3), torch.finfo(torch.float32).max)
    inputs = AttentionInputs(largest, torch.zeros(1, 2, 3), global_mask=torch.tensor([True, False]))
    assert attnviz.score(inputs).scores.tolist() == [[[0.0], [0.0]]]


def test_rounding_that_overflows_names_the_dtype_it_overflowed():
    inputs = attnviz.synthesize()
    inputs.k[0, 0, 0, 0] = 1e6
    with pytest.raises(InputError, match=r"k as float16 has 1 value that is NaN or Inf.*\(0, 0, 0, 0\)"):
        attnviz.score(inputs, dtype="float16")


def test_a_mask_that_selects_nothing_names_the_item():
    mask = torch.tensor([[True, False], [False, False]])
    inputs = AttentionInputs(torch.ones(2, 1, 2, 3), torch.ones(2, 1, 2, 3), global_mask=mask)
    attnviz.score(inputs, batch=0)
    with pytest.raises(InputError, match=r"global_mask of batch item 1 selects nothing"):
        attnviz.score(inputs, batch=1)


def test_no_mask_at_all_says_how_to_give_one():
    with pytest.raises(InputError, match=r"no global_mask.*--mask NAME.*--global 0,3,7"):
        attnviz.score(AttentionInputs(torch.ones(1, 2, 3), torch.ones(1, 2, 3)))


@pytest.mark.parametrize(
    ("batch", "said"), [(2, r"batch item 2 is out of range; there are 2 \(0 to 1\)"), (-1, "batch item -1")]
)
def test_a_batch_item_that_is_not_there_is_named(batch, said):
    with pytest.raises(InputError, match=said):
        attnviz.score(attnviz.synthesize(batch=2), batch=batch)


@pytest.mark.parametrize("head", [8, -1])
def test_a_head_that_is_not_there_is_named(head):
    with pytest.raises(InputError, match=rf"head {head} is out of range; there are 8 \(0 to 7\)"):
        attnviz.score(attnviz.synthesize(), heads=[0, head])


def test_scores_that_would_overflow_are_an_error_that_says_how_large_they_are():
    q = torch.full((1, 2, 3, 8), 1e20)
    inputs = attnviz.AttentionInputs(q, q, global_mask=torch.ones(3, dtype=torch.bool), source="large.npz")
    with pytest.raises(attnviz.InputError, match=r"large.npz: scores of head 0 overflow float32: q reaches 1e\+20"):
        attnviz.score(inputs)
    assert torch.isfinite(attnviz.score(inputs, dtype="float64").weights).all()


def test_a_scale_that_would_overflow_is_an_error():
    inputs = replace(attnviz.synthesize(heads=1), scale=1e39)
    with pytest.raises(attnviz.InputError, match=r"overflow float32: .* the scale is 1e\+39"):
        attnviz.score(inputs)
