"""``assert_attention_close``: right kernels pass in every dtype, wrong ones are named to the pair."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from attnviz import AttentionInputs, assert_attention_close
from attnviz.attention.patterns import Causal, Masked
from attnviz.base.errors import InputError
from tests.reference import attend

B, H, T, D = 2, 3, 12, 8
TOKENS = [f"w{i}" for i in range(T)]


def qkv(dtype: torch.dtype = torch.float64, *, kv_heads: int = H, keys: int = T) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(6)
    sizes = ((B, H, T, D), (B, kv_heads, keys, D), (B, kv_heads, keys, D + 1))
    return tuple(torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes)


CAUSAL = torch.ones(T, T, dtype=torch.bool).tril()


def exact(q, k, v=None, visible=CAUSAL, **settings) -> torch.Tensor:
    """Weights (B, H, T, S), or the context (B, H, T, D_v), by plain loops."""
    items = [attend(q[b], k[b], visible, v=None if v is None else v[b], **settings) for b in range(B)]
    return torch.stack([torch.from_numpy(item.weights if v is None else item.context) for item in items])


def failure(*arguments, **options) -> str:
    with pytest.raises(AssertionError) as error:
        assert_attention_close(*arguments, **options)
    return str(error.value)


# Right kernels


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_what_the_loops_give_is_close_in_every_dtype(dtype):
    q, k, v = qkv(dtype)
    assert_attention_close(exact(q, k).to(dtype), q, k, pattern="causal")
    assert_attention_close(exact(q, k, v).to(dtype), q, k, v=v, pattern="causal")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_torchs_own_kernel_is_close(dtype):
    q, k, v = qkv(dtype)
    assert_attention_close(scaled_dot_product_attention(q, k, v, is_causal=True), q, k, v=v, pattern=Causal())
    assert_attention_close(scaled_dot_product_attention(q, k, v), q, k, v=v)


def test_grouped_heads_scale_and_bias():
    q, k, v = qkv(kv_heads=1)
    bias = torch.linspace(-1, 1, H * T * T, dtype=torch.float64).view(H, T, T)
    settings = {"scale": 0.7, "bias": bias}
    assert_attention_close(exact(q, k, v, **settings), q, k, v=v, pattern="causal", **settings)
    assert_attention_close(exact(q, k, **settings), q, k, pattern="causal", **settings)


def test_another_layout():
    q, k, v = qkv()
    out = exact(q, k, v)
    swapped = [tensor.transpose(1, 2) for tensor in (out, q, k, v)]
    assert_attention_close(*swapped[:3], v=swapped[3], pattern="causal", layout="bthd")


def test_a_batch_of_one_may_leave_it_out():
    q, k, v = qkv()
    assert_attention_close(exact(q, k, v)[1], q[1], k[1], v=v[1], pattern="causal")


def test_a_mask_of_pairs_and_a_mask_of_global_keys():
    q, k, v = qkv()
    assert_attention_close(exact(q, k, v), q, k, CAUSAL, v)
    mask = torch.arange(T) % 4 == 1
    weights = exact(q, k, visible=mask.expand(T, T))
    assert_attention_close(weights, q, k, mask.expand(B, T))
    assert_attention_close(weights[..., mask], q, k, mask.expand(B, T))  # (B, H, T, G)


def test_a_query_that_sees_nothing_may_be_anything():
    q, k, v = qkv()
    visible = CAUSAL.clone()
    visible[3] = False
    blank = exact(q, k, v, visible)
    assert blank[:, :, 3].isnan().all()
    assert_attention_close(blank, q, k, visible, v)
    assert_attention_close(blank.nan_to_num(), q, k, visible, v)
    assert_attention_close(blank.nan_to_num(nan=0.3), q, k, visible, v)
    for fill in (0.0, math.nan, 1 / T):
        assert_attention_close(exact(q, k, None, visible).nan_to_num(nan=fill), q, k, visible)


def test_padded_queries_are_left_out():
    """A kernel computes something for them, and nobody reads it."""
    q, k, v = qkv()
    there = torch.arange(T) < 9
    visible = there.expand(T, T)
    assert_attention_close(exact(q, k, v, visible), q, k, v=v, key_padding_mask=there.expand(B, T))
    assert_attention_close(exact(q, k, None, visible), q, k, key_padding_mask=there.expand(B, T))


def test_logits():
    q, k, _ = qkv()
    logits = torch.stack([torch.from_numpy(attend(q[b], k[b], CAUSAL).logits) for b in range(B)])
    assert_attention_close(logits, q, k, pattern="causal", values="logits")
    logits[1, 0, 4, 2] += 1e-3
    assert "batch 1, head 0: 1 of 78 pairs; the worst is query 4 → key 2" in failure(
        logits, q, k, pattern="causal", values="logits"
    )


@pytest.mark.sweep
def test_a_long_context_makes_no_map():
    """8,192 x 8,192 weights would be 512 MiB of float64; no operation makes an eighth of that."""
    T, there = 8192, 8000  # padded keys: not the way through torch's own kernel
    q, k, v = torch.randn(3, 1, T, 4)
    out = scaled_dot_product_attention(q, k[:, :there], v[:, :there])
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            nonlocal largest
            made = function(*arguments, **(keywords or {}))
            for tensor in made if isinstance(made, (tuple, list)) else (made,):
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.untyped_storage().nbytes())
            return made

    with Watch():
        assert_attention_close(out, q, k, v=v, key_padding_mask=torch.arange(T) < there)
    assert 0 < largest < T * T


# Wrong kernels


def test_a_wrong_weight_is_named():
    q, k, _ = qkv()
    weights = exact(q, k)
    right = float(weights[1, 2, 7, 3])
    weights[1, 2, 7, 3] += 0.01
    said = failure(weights, q, k, pattern="causal", tokens=[TOKENS] * B)
    assert said.splitlines()[0] == (
        "the weights (causal) are not those of the exact formula: beyond atol 1e-09, rtol 1e-09, for float64"
    )
    numbers = f"actual {right + 0.01:.7g}, exact {right:.7g}: apart by 0.01, allowed {1e-9 + 1e-9 * right:.3g}"
    where = "  batch 1, head 2: 1 of 78 pairs; the worst is query 7 'w7' → key 3 'w3', "
    assert said.splitlines()[1:] == [where + numbers]


def test_a_wrong_context_is_named():
    q, k, v = qkv()
    out = exact(q, k, v)
    out[0, 1, 5, 4] += 0.01
    said = failure(out, q, k, v=v, pattern="causal", tokens=[TOKENS] * B)
    weights = exact(q, k)[0, 1, 5]
    most = int(weights.argmax())
    assert "  batch 0, head 1: 1 of 108 elements, of 1 of 12 queries; the worst is query 5 'w5', dim 4, actual" in said
    assert f"it sees 6 keys, 0 to 5, key {most} 'w{most}' most ({float(weights[most]):.3g})" in said


def test_a_query_of_nan_is_beyond():
    q, k, v = qkv()
    out = exact(q, k, v)
    out[0, 1, 5] = torch.nan
    assert "9 of 108 elements, of 1 of 12 queries; the worst is query 5, dim 0, actual nan" in failure(
        out, q, k, v=v, pattern="causal"
    )


def test_heads_beyond_six_are_counted():
    q = k = torch.eye(4, dtype=torch.float64).expand(1, 9, 4, 4)
    said = failure(torch.zeros(1, 9, 4, 4, dtype=torch.float64), q, k)
    assert said.count("batch 0, head") == 6
    assert "  and 3 more heads" in said.splitlines()


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("with_context", [False, True])
@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ({"scale": 1.0}, "a scale of 1"),
        ({"scale": 1 / D}, "the scale twice"),
        ({"visible": torch.ones(T, T, dtype=torch.bool)}, "pattern='full'"),
    ],
)
def test_the_usual_mistakes_are_told(mistake, says, with_context):
    q, k, v = qkv()
    v = v if with_context else None
    said = failure(exact(q, k, v, **mistake), q, k, v=v, pattern="causal")
    assert f"it is what the formula gives with {says}" in said.splitlines()[-1]


def test_a_causal_mask_aligned_to_the_first_key_is_told():
    q, k, v = qkv(keys=T + 4)
    visible = torch.ones(T, T + 4, dtype=torch.bool).tril()
    said = failure(exact(q, k, v, visible), q, k, v=v, pattern="causal")
    assert said.endswith("it is what the formula gives with a causal mask aligned to the first key, not to the last")


def test_scores_in_place_of_weights_are_told():
    q, k, _ = qkv()
    logits = q @ k.transpose(2, 3) / D**0.5
    assert failure(logits, q, k).endswith("it is what the formula gives with scores before softmax")


def test_a_tolerance_of_ones_own():
    q, k, _ = qkv()
    weights = exact(q, k)
    weights[0, 0, 0, 0] += 0.01
    assert_attention_close(weights, q, k, pattern="causal", atol=0.02)
    assert "beyond atol 0.001, rtol 0, " in failure(weights, q, k, pattern="causal", atol=1e-3, rtol=0)


# What can't be


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"actual": torch.ones(B, H, T + 1, T)}, r"actual has shape \(2, 3, 13, 12\), wanted \(B, H, T, S\)"),
        ({"actual": torch.ones(H, T, T)}, r"actual has shape \(3, 12, 12\)"),
        ({"actual": torch.ones(B, H, T, T, dtype=torch.int64)}, "actual has dtype int64"),
        ({"v": qkv()[2], "actual": torch.ones(B, H, T, T)}, r"wanted \(B, H, T, D_v\) = \(2, 3, 12, 9\)"),
        ({"actual": torch.ones(B, H, T, D)}, "has 8 columns"),
        ({"values": "probabilities"}, "values 'probabilities' is not one of"),
        ({"pattern": "windowed"}, "windowed"),
        ({"window": 3}, "add pattern='local'"),
        ({"mask": torch.ones(T, T)}, "mask holds 0 and 1 as float32.*give what is added as bias"),
        (
            {"mask": torch.ones(5, dtype=torch.bool)},
            r"mask has shape \(5,\), wanted \(T, S\) = \(12, 12\)",
        ),
    ],
)
def test_what_cannot_be_compared(change, says):
    q, k, _ = qkv()
    given = {"actual": torch.ones(B, H, T, T), "q": q, "k": k, **change}
    with pytest.raises(InputError, match=says):
        assert_attention_close(**given)


def test_a_mask_of_two_meanings_is_refused():
    q = k = torch.ones(4, 1, 4, 8)
    mask = torch.ones(4, 4, dtype=torch.bool)
    with pytest.raises(InputError, match=re.escape("may be (T, S) or (B, S)")):
        assert_attention_close(torch.ones(4, 1, 4, 4), q, k, mask)
    assert_attention_close(torch.full((4, 1, 4, 4), 0.25), q, k, pattern=Masked(mask))


def test_inputs_stand_in_the_place_of_their_tensors():
    q, k, v = qkv()
    inputs = AttentionInputs(q, k, v)
    for actual in (exact(q, k), exact(q, k, v)):
        assert_attention_close(actual, inputs, pattern="causal")
        assert_attention_close(actual, replace(inputs, pattern=Causal()))
        assert "it is what the formula gives" in failure(actual, inputs, pattern="full")
    assert "the weights" in failure(exact(q, k).flip(1), inputs, pattern="causal")
    assert "the context" in failure(exact(q, k, v).flip(1), inputs, pattern="causal")


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        (("inputs", "k"), {}, "k beside AttentionInputs, which hold them; leave out one"),
        (("inputs",), {"scale": 2.0}, "scale beside AttentionInputs, which hold them; leave out one"),
        (("q",), {}, "k is missing; give q and k, or AttentionInputs in the place of both"),
        (("inputs",), {"window": 2}, "window 2: it belongs to a local pattern by name; add pattern='local'"),
        (("square",), {}, f"may be weights or the context, v being {T} wide"),
    ],
)
def test_inputs_beside_what_they_hold(arguments, options, says):
    q, k, v = qkv()
    given = {"q": q, "k": k, "inputs": AttentionInputs(q, k, v)}
    given["square"] = AttentionInputs(q, k, torch.ones(B, H, T, T, dtype=q.dtype))
    with pytest.raises(InputError, match=re.escape(says)):
        assert_attention_close(exact(q, k), *(given[name] for name in arguments), **options)
