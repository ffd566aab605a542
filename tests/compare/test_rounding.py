"""What rounding costs: right kernels of every kind are within it, and zeros never are, at any length."""

from __future__ import annotations

import re

import pytest
import torch

from attnviz import AttentionInputs, InputError, assert_attention_close
from attnviz.attention.patterns import Full
from attnviz.compare.heads import compare
from attnviz.compare.rounding import FIXED, Rounding, Sizes, check_can_fail, explicit, rule_of
from attnviz.compare.sides import Exact, Given
from attnviz.engine.request import Request
from tests.kernels import CONTEXTS, WEIGHTS

DTYPES = {name: getattr(torch, name) for name in ("float64", "float32", "float16", "bfloat16")}


def draw(dtype: str, T: int, S: int, seed: int = 0, spread: float = 1.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((1, 2, T, 16), (1, 2, S, 16), (1, 2, S, 16))
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return [tensor.to(DTYPES[dtype]) for tensor in (q * spread, k, v)]


@pytest.mark.sweep(keep=8)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", CONTEXTS)
def test_a_right_context_is_within(kernel, dtype):
    if dtype == "float64" and kernel in ("sdpa flash", "flex", "scaled first"):
        pytest.skip("it computes in float32")
    # Uncompiled, FlexAttention takes seconds: `make power` has all of it.
    for seed, spread, causal in ((0, 1.0, True), (1, 6.0, False))[: 1 if kernel == "flex" else 2]:
        q, k, v = draw(dtype, 48, 48, seed, spread)
        out = CONTEXTS[kernel](q, k, v, causal)
        assert_attention_close(out, q, k, v=v, pattern="causal" if causal else "full")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", WEIGHTS)
def test_right_weights_are_within(kernel, dtype):
    if kernel == "float32 softmax" and dtype == "float64":
        pytest.skip("it is no float64 kernel")
    for seed, spread, causal in ((0, 1.0, True), (1, 6.0, False)):
        q, k, _ = draw(dtype, 48, 48, seed, spread)
        assert_attention_close(WEIGHTS[kernel](q, k, causal), q, k, pattern="causal" if causal else "full")


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(("dtype", "S"), [*((dtype, 512) for dtype in DTYPES), ("bfloat16", 16), ("bfloat16", 16_384)])
def test_zeros_are_red_at_any_length(dtype, S):
    """Of 512 keys every weight is below 0.01, which was allowed of a bfloat16."""
    q, k, v = draw(dtype, 2, S)
    for zeros, of in ((torch.zeros(1, 2, 2, S), {}), (torch.zeros(1, 2, 2, 16), {"v": v})):
        with pytest.raises(AssertionError, match="zeros: are these rows not written"):
            assert_attention_close(zeros.to(q.dtype), q, k, pattern="full", **of)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rows_that_err_to_one_side_are_red_as_distributions(dtype):
    """Each weight may be off by its bound; half of them up and half of them down by most of it is no rounding."""
    q, k, _ = draw(dtype, 4, 512)
    inputs, rule = AttentionInputs(q, k, pattern=Full()), rule_of(dtype)
    exact = Exact(Request(inputs, dtype=torch.float64))
    weights = []
    for head in range(2):
        logits = exact.rows(head).read(range(4), weights=False).values
        right = torch.softmax(logits, -1)
        allowed, rows = rule.of_weights(right, rule.of_logits(logits, Sizes.of(exact.attention.item, head)), 512)
        assert bool((rows < 0.8 * allowed.sum(1) / 2).all())
        weights.append(right + torch.where(torch.arange(512) % 2 == 0, 0.9, -0.9) * allowed)
    found = compare(Given(torch.stack(weights)), exact, rule=rule)
    assert not found.within
    assert [(head.beyond, head.rows_beyond) for head in found.heads] == [(0, 4)] * 2


def test_the_rule_is_that_of_the_coarsest_dtype():
    assert rule_of("float64", "float64") == FIXED
    assert rule_of("float32", "float64") == Rounding("float32")
    assert rule_of("bfloat16", "float16") == Rounding("bfloat16")
    with pytest.raises(InputError, match="int8"):
        rule_of("int8")


def test_a_tolerance_of_ones_own_is_kept_and_what_is_not_given_is_0():
    assert explicit(None, None) is None
    assert (explicit(0.1, None).atol, explicit(0.1, None).rtol, explicit(None, 0.1).atol) == (0.1, 0.0, 0.0)


@pytest.mark.parametrize("of_context", [True, False])
def test_a_tolerance_that_zeros_would_meet_is_refused(of_context):
    q, k, v = draw("float32", 8, 512)
    zeros, of = (torch.zeros(1, 2, 8, 16), {"v": v}) if of_context else (torch.zeros(1, 2, 8, 512), {})
    with pytest.raises(InputError, match=r"--atol 5: the largest exact (context|weight) is .*zeros would pass"):
        assert_attention_close(zeros, q, k, pattern="full", atol=5.0, **of)
    check_can_fail(Rounding("float32"), 1e-9, "weight")


@pytest.mark.sweep
def test_both_numbers_of_a_wrong_context_are_in_the_message():
    q, k, v = draw("bfloat16", 32, 32)
    out = CONTEXTS["plain"](q, k, v, False)
    out[0, 1, 3, 2] += 1
    with pytest.raises(AssertionError) as error:
        assert_attention_close(out, q, k, v=v)
    said = str(error.value)
    assert "query 3, dim 2, actual" in said
    assert re.search(r"apart by (1|0\.99)\d*, allowed 0\.0", said)
    assert "the plain computation in bfloat16 is off by 0.0" in said


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_product_that_was_capped_or_added_to_rounds_as_the_large_number_it_was(dtype):
    """A kernel that rounds its products before a cap or a bias, whose sum is near 0, is off by half a unit of the product."""
    product = torch.tensor([[100.3, -77.7, 63.1]], dtype=torch.float64)
    rounded = product.to(DTYPES[dtype]).double()
    bias = -product
    error = rule_of(dtype).of_logits(product + bias, Sizes(product.abs().amax(1, keepdim=True), 10**6, True))
    assert bool(((rounded + bias).abs() <= error).all())
