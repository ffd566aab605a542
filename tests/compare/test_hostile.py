"""What tries to make a wrong kernel pass, or a right one fail."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from attnviz import InputError, assert_attention_close
from attnviz.attention.inputs import AttentionInputs
from attnviz.attention.patterns import Causal, Full
from attnviz.compare.handed import Outputs
from attnviz.compare.kernel import Asked, check_kernel

B, H, T, D = 2, 4, 12, 8
HALVES = [torch.float32, torch.float16, torch.bfloat16]


def drawn(dtype: torch.dtype = torch.float32, *, keys: int = T, kv_heads: int = H, seed: int = 0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = ((B, H, T, D), (B, kv_heads, keys, D), (B, kv_heads, keys, D))
    return [torch.randn(shape, generator=draw).to(dtype) for shape in shapes]


def is_red(out: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **how: object) -> bool:
    report = check_kernel(Outputs(AttentionInputs(q, k, v, pattern=Full(), **how), context=out), Asked(explain=False))
    return not report.within


# Wrong ones


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_channel_of_large_values_excuses_no_other(dtype):
    """Language models have them: beside values of 1,000, zeros in all other channels are within rounding of the largest."""
    for seed in range(3):
        q, k, v = drawn(dtype, seed=seed)
        v[..., 3] *= 1000
        out = sdpa(q, k, v)
        assert not is_red(out, q, k, v)
        others = torch.arange(D) != 3
        assert is_red(out.masked_fill(others, 0.0), q, k, v)


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float64, *HALVES], ids=str)
def test_values_of_any_size_are_held_to_their_size(dtype, size):
    if dtype == torch.float16 and size != 1.0:
        size = 0.01 if size < 1 else 100.0
    q, k, v = drawn(dtype)
    v = (v.double() * size).to(dtype)
    out = sdpa(q, k, v)
    assert not is_red(out, q, k, v)
    assert is_red(torch.zeros_like(out), q, k, v)
    assert is_red(out * 1.25, q, k, v)


@pytest.mark.parametrize(("how", "named"), [({"rtol": 1.0}, "rtol 1"), ({"rtol": 0.9, "atol": 0.5}, "atol 0.5")])
@pytest.mark.parametrize("of_context", [True, False])
def test_a_relative_tolerance_that_zeros_would_meet_is_refused(how, named, of_context):
    q, k, v = drawn()
    zeros, of = (torch.zeros_like(q), {"v": v}) if of_context else (torch.zeros(B, H, T, T), {})
    with pytest.raises(InputError, match=rf"--{named}: the largest exact .* zeros would pass"):
        assert_attention_close(zeros, q, k, pattern="full", **of, **how)


@pytest.mark.parametrize("output", ["weights", "context", "lse"])
def test_where_no_query_sees_a_key_nothing_agrees(output):
    """An inverted full mask hides all, and any kernel would pass."""
    q, k, v = drawn()
    given = {"weights": torch.rand(B, H, T, T), "context": torch.rand_like(q), "lse": torch.rand(B, H, T)}[output]
    nothing = torch.zeros(T, T, dtype=torch.bool)
    actual, of = (None, {"lse": given}) if output == "lse" else (given, {"v": v} if output == "context" else {})
    with pytest.raises(InputError, match=f"so no {output} is compared; is the mask inverted"):
        assert_attention_close(actual, q, k, nothing, **of)


def test_the_same_weight_for_every_key_is_named():
    q, k, v = drawn()
    with pytest.raises(AssertionError, match="the same weight for each key that is seen: are q and k read"):
        assert_attention_close(v.mean(2, keepdim=True).expand_as(q), q, k, v=v)


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize("fill", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [(0, 0, 3, 2), (0, 0, 3), (0, 0)], ids=str)
def test_what_is_no_number_is_red(where, fill):
    q, k, v = drawn()
    out = sdpa(q, k, v)
    out[where] = fill
    assert is_red(out, q, k, v)
    weights = (q @ k.transpose(2, 3) * D**-0.5).softmax(-1)
    weights[where] = fill
    inputs = AttentionInputs(q, k, pattern=Full())
    assert not check_kernel(Outputs(inputs, weights=weights), Asked(explain=False)).within


# Right ones


PADDING = {
    "on the right": [[1] * T, [1] * 7 + [0] * 5],
    "on the left": [[1] * T, [0] * 5 + [1] * 7],
    "here and there": [[1, 0] * (T // 2), [1] * T],
    "all of an item": [[1] * T, [0] * T],
}


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("where", PADDING)
def test_padding_of_any_kind_whatever_stands_in_it(where, dtype):
    """Masks of booleans and of finite numbers; NaN in padded keys, anything in the rows of padded queries."""
    q, k, v = drawn(dtype)
    there = torch.tensor(PADDING[where], dtype=torch.bool)
    seen = there[:, None, None] & torch.ones(T, T, dtype=torch.bool).tril()
    added = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    hidden = ~there[:, None, :, None]
    for mask in (seen, added):
        out = sdpa(q, k, v, attn_mask=mask).masked_fill(hidden, 777.0)
        lost = [tensor.masked_fill(hidden, math.nan) for tensor in (k, v)]
        assert_attention_close(out, q, lost[0], v=lost[1], pattern="causal", key_padding_mask=there)
    if where in ("on the left", "here and there"):  # causal queries see no padding on the right
        inputs = AttentionInputs(q, k, v, pattern=Causal(), key_padding_mask=there)
        assert not check_kernel(Outputs(inputs, context=sdpa(q, k, v, is_causal=True)), Asked(explain=False)).within


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_weights_that_underflow_are_right(dtype):
    """Far keys of steep slopes, and keys beside a far larger one, are 0 in any kernel."""
    q, k, v = drawn(dtype)
    slopes = torch.tensor([8.0, 30.0, 100.0, 1.0])
    far = (torch.arange(T) - torch.arange(T)[:, None]).abs()
    weights = (q.float() @ k.float().transpose(2, 3) * D**-0.5 - slopes[:, None, None] * far).softmax(-1).to(dtype)
    assert_attention_close(weights, q, k, pattern="full", alibi_slopes=slopes)
    assert_attention_close(weights @ v, q, k, v=v, pattern="full", alibi_slopes=slopes)
    steep = (q * 20).to(dtype)
    assert_attention_close((steep @ k.transpose(2, 3) * D**-0.5).softmax(-1), steep, k, pattern="full")


def test_logits_beyond_float16_are_right_where_the_kernel_holds_them():
    q, k, v = drawn(torch.float16)
    q, k = q * 3000, k * 30
    wide = [tensor.double() for tensor in (q, k, v)]
    assert not is_red(sdpa(*wide).half(), q, k, v)
    assert is_red((q @ k.transpose(2, 3) * D**-0.5).softmax(-1) @ v, q, k, v)  # inf - inf
