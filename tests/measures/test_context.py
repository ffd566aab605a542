"""Context against the reference, against torch's ``scaled_dot_product_attention`` and against ``flex_attention``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

import attnviz
from attnviz import AttentionInputs, InputError
from attnviz.attention.patterns import Causal, Full, GlobalKeys, Local, Masked, Pattern, longformer
from tests.cases import small
from tests.strategies import DTYPES, Call, calls, longformer_rule, normal


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_the_context_of_any_pattern_is_the_references(dtype, data):
    call = data.draw(calls(DTYPES[dtype]))
    found = attnviz.context(call.inputs, call.pattern, batch=call.batch).double().numpy()
    # Weights within the tolerance, times values of a few units, summed over a few keys.
    np.testing.assert_allclose(found, call.expected().context, rtol=0, atol=40 * call.tolerance)


def test_a_context_of_many_blocks_has_no_seams(monkeypatch):
    monkeypatch.setattr("attnviz.engine.blocks.BLOCK_CELLS", 1)
    T = 150
    mask = torch.zeros(T, dtype=torch.bool)
    mask[[0, 64, 149]] = True
    inputs = AttentionInputs(*(normal((1, T, 2), n) for n in range(3)), global_mask=mask)
    for rule in (longformer_rule(3, 2), ("local", 5, 1), ("and", ("local", 3, 1), ("causal",))):
        expected = Call(inputs, rule, 0).expected().context
        np.testing.assert_allclose(attnviz.context(inputs, Call(inputs, rule, 0).pattern), expected, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["causal", "full", "documents & causal", "global-queries | full", "full & causal", "chunked:size=3"]
)
def test_what_torchs_kernel_serves_is_no_more_than_it_can(name):
    mask = torch.tensor([True, False, False, True, False, False])
    given = {
        "documents": torch.tensor([0, 0, 1, 1, 1, 2]),
        "q_global": normal((1, 6, 4), 5),
        "k_global": normal((1, 6, 4), 6),
    }
    inputs = AttentionInputs(*(normal((1, 6, 4), n) for n in range(3)), global_mask=mask, **given)
    rules = {
        "causal": ("causal",),
        "full": ("full",),
        "documents & causal": ("and", ("documents",), ("causal",)),
        "global-queries | full": ("or", ("global queries",), ("full",)),
        "full & causal": ("and", ("full",), ("causal",)),
        "chunked:size=3": ("chunked", 3),
    }
    np.testing.assert_allclose(
        attnviz.context(inputs, name), Call(inputs, rules[name], 0).expected().context, atol=1e-12
    )


def test_a_query_far_from_every_key_has_no_context(monkeypatch):
    monkeypatch.setattr("attnviz.engine.blocks.BLOCK_CELLS", 1)  # whole blocks see nothing
    q, k = normal((1, 200, 4), 0), normal((1, 5, 4), 1)
    found = attnviz.context(AttentionInputs(q, k, k), Local(1))
    blank = found.isnan().all(-1)[0].tolist()
    assert blank == [t < 194 for t in range(200)]  # the last five queries stand at the five keys


# scaled_dot_product_attention


def batched(inputs: AttentionInputs, pattern: Pattern) -> Tensor:
    return torch.stack([attnviz.context(inputs, pattern, batch=b) for b in range(inputs.B)])


def tensors(T: int, S: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Two items, four query heads, two key heads."""
    shapes = ((2, 4, T, 8), (2, 2, S, 8), (2, 2, S, 8))
    q, k, v = (normal(shape, n).to(dtype) for n, shape in enumerate(shapes))
    return q, k, v


@pytest.mark.parametrize(("T", "S"), [(7, 7), (3, 8), (9, 4)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_full_is_sdpa(T, S, scale):
    q, k, v = tensors(T, S)
    expected = scaled_dot_product_attention(q, k, v, enable_gqa=True, scale=scale)
    torch.testing.assert_close(batched(AttentionInputs(q, k, v, scale=scale), Full()), expected)


def test_causal_is_sdpa():
    q, k, v = tensors(70, 70)
    expected = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(batched(AttentionInputs(q, k, v), Causal()), expected)


@pytest.mark.parametrize(("T", "S"), [(3, 8), (8, 8)])
def test_causal_is_sdpa_with_a_mask_that_ends_with_the_last_query(T, S):
    q, k, v = tensors(T, S)
    mask = torch.arange(S) <= torch.arange(T)[:, None] + S - T
    expected = scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(batched(AttentionInputs(q, k, v), Causal()), expected)


offset = torch.arange(12) - torch.arange(12)[:, None]  # s - t
is_global = torch.isin(torch.arange(12), torch.tensor([0, 7, 11]))
MASKS = {
    "local": (Local(2), offset.abs() <= 2),
    "dilation": (Local(2, 3), (offset.abs() <= 6) & (offset % 3 == 0)),
    "causal local": (Local(3) & Causal(), (offset <= 0) & (offset >= -3)),
    "global": (GlobalKeys(), is_global.expand(12, 12)),
    "longformer": (longformer(2), (offset.abs() <= 2) | is_global | is_global[:, None]),
    "causal longformer": (
        longformer(2) & Causal(),
        ((offset.abs() <= 2) | is_global | is_global[:, None]) & (offset <= 0),
    ),
    "own mask": (Masked((offset * 5 % 7 < 4) | (offset == 0)), (offset * 5 % 7 < 4) | (offset == 0)),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_pattern_is_sdpa_with_its_boolean_mask(name):
    pattern, mask = MASKS[name]
    q, k, v = tensors(12, 12)
    inputs = AttentionInputs(q, k, v, global_mask=is_global.expand(2, 12))
    expected = scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    found = batched(inputs, pattern)
    sees = mask.any(1)
    torch.testing.assert_close(found[:, :, sees], expected[:, :, sees])
    assert found[:, :, ~sees].isnan().all()


def test_padding_is_sdpa_with_the_padded_keys_masked():
    q, k, v = tensors(6, 6)
    exists = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    found = batched(AttentionInputs(q, k, v, key_padding_mask=exists), Full())
    expected = scaled_dot_product_attention(q, k, v, attn_mask=exists[:, None, None], enable_gqa=True)
    torch.testing.assert_close(found[0, :, :4], expected[0, :, :4])
    torch.testing.assert_close(found[1], expected[1])
    assert found[0, :, 4:].isnan().all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_give_the_float32_context_of_the_rounded_inputs(dtype):
    q, k, v = tensors(9, 9, DTYPES[dtype])
    found = batched(AttentionInputs(q, k, v), Full())
    expected = scaled_dot_product_attention(q.double(), k.double(), v.double(), enable_gqa=True)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


# flex_attention, in eager mode: score modifiers written the way its users write them


def flex(q: Tensor, k: Tensor, v: Tensor, score_mod: object) -> Tensor:
    # Eager mode warns that it is slow.
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return flex_attention(q, k, v, score_mod=score_mod, enable_gqa=True)


BIAS = normal((4, 12, 12), 9)
SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625], dtype=torch.float64)
MODIFIERS = {
    "bias": ({"bias": BIAS}, lambda score, b, h, t, s: score + BIAS[h, t, s]),
    "softcap": ({"softcap": 0.8}, lambda score, b, h, t, s: 0.8 * torch.tanh(score / 0.8)),
    "alibi": ({"alibi_slopes": SLOPES}, lambda score, b, h, t, s: score - SLOPES[h] * (t - s).abs()),
    "all": (
        {"bias": BIAS, "softcap": 0.8, "alibi_slopes": SLOPES},
        lambda score, b, h, t, s: 0.8 * torch.tanh(score / 0.8) + BIAS[h, t, s] - SLOPES[h] * (t - s).abs(),
    ),
}


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize("name", MODIFIERS)
@pytest.mark.parametrize("pattern", ["full", "causal", "local"])
def test_a_modifier_is_flex_attentions(name, pattern):
    given, score_mod = MODIFIERS[name]
    q, k, v = tensors(12, 12)
    patterns = {
        "full": (Full(), lambda t, s: t >= 0),
        "causal": (Causal(), lambda t, s: s <= t),
        "local": (Local(2), lambda t, s: (s - t).abs() <= 2),
    }
    ours, sees = patterns[pattern]

    def modified(score: Tensor, b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return torch.where(sees(t, s), score_mod(score, b, h, t, s), -torch.inf)

    expected = flex(q, k, v, modified)
    torch.testing.assert_close(batched(AttentionInputs(q, k, v, **given), ours), expected)
    assert not torch.allclose(batched(AttentionInputs(q, k, v), ours), expected, atol=1e-3)


# The call


def test_heads_come_in_the_order_asked_for():
    inputs = small(dtype="float64")
    whole = attnviz.context(inputs, longformer(1), batch=1)
    torch.testing.assert_close(attnviz.context(inputs, longformer(1), batch=1, heads=[3, 0]), whole[[3, 0]])


def test_values_may_have_another_size_than_keys():
    q, k, _ = tensors(5, 5)
    v = normal((2, 2, 5, 3), 8)
    expected = scaled_dot_product_attention(q, k, v, enable_gqa=True)
    assert tuple(attnviz.context(AttentionInputs(q, k, v), Full()).shape) == (4, 5, 3)
    torch.testing.assert_close(batched(AttentionInputs(q, k, v), Full()), expected)


def test_without_values_there_is_no_context():
    inputs = AttentionInputs(torch.ones(1, 2, 3), torch.ones(1, 2, 3))
    with pytest.raises(InputError, match=r"there is no v, which the context needs; give one \(--v NAME\)"):
        attnviz.context(inputs, Full())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("pattern", [Full(), Local(1)])
def test_nan_in_the_values_is_named(wrong, pattern):
    v = torch.ones(1, 4, 3)
    v[0, 2, 1] = wrong
    with pytest.raises(InputError, match=r"v has 1 value that is NaN or Inf.*first at index \(0, 0, 2, 1\)"):
        attnviz.context(AttentionInputs(torch.ones(1, 4, 3), torch.ones(1, 4, 3), v), pattern)
