"""What a page decodes gives the weights of the formula, whatever goes into them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnviz import AttentionInputs, InputError
from attnviz.attention.patterns import Causal, Full, GlobalKeys, Local, Masked, Pattern, longformer
from attnviz.pages import encoding
from attnviz.pages.blobs import Chunk, dequantize, pack12, quantize
from attnviz.pages.description import Labels, PageLayer
from attnviz.pages.encoding import WITHIN, encode_layer, rows_of
from attnviz.pages.html import page
from tests import reference
from tests.cases import small
from tests.pages.decoding import Page, entropies
from tests.strategies import Call, calls, normal


def page_of(inputs: AttentionInputs, pattern: Pattern, *, batch: int = 0, heads: tuple[int, ...] | None = None) -> Page:
    layer = PageLayer("0", inputs.item(batch), pattern, heads or tuple(range(inputs.H)))
    return Page(b"".join(page([layer], "case")).decode())


@given(calls(dtype=torch.float64, values=False))
def test_weights_of_the_page_are_those_of_the_formula(call: Call):
    decoded = page_of(call.inputs, call.pattern, batch=call.batch)
    (layer,) = decoded.layers
    expected = call.expected()
    weights = decoded.weights(layer)
    np.testing.assert_array_equal(np.isnan(weights).any(-1), np.isnan(expected.weights).any(-1))
    np.testing.assert_allclose(weights, expected.weights, rtol=0, atol=WITHIN)
    np.testing.assert_array_equal(np.isneginf(decoded.logits(layer)), np.isneginf(expected.logits))


@st.composite
def heads_apart(draw: st.DrawFn) -> tuple[Call, torch.Tensor]:
    """A call, and what a mask of one's own lets each of its heads see, (H, T, S)."""
    call = draw(calls(values=False))
    inputs = call.inputs
    shape = tuple(draw(st.sampled_from([size, 1])) for size in (inputs.H, inputs.T, inputs.S))
    return call, normal(shape, draw(st.integers(0, 9))) > draw(st.sampled_from([-0.5, 0.5, 2.0]))


@given(heads_apart())
def test_each_head_hides_what_its_own_mask_hides(drawn: tuple[Call, torch.Tensor]):
    call, mask = drawn
    decoded = page_of(call.inputs, call.pattern & Masked(mask[None]), batch=call.batch)
    (layer,) = decoded.layers
    known = call.bias()
    hides = torch.zeros(call.inputs.H, call.inputs.T, call.inputs.S, dtype=torch.float64)
    hides = hides if known is None else hides + known
    said = replace(call, inputs=replace(call.inputs, bias=hides.masked_fill(~mask, -torch.inf)[None], layout="bhtd"))
    expected = said.expected()
    np.testing.assert_allclose(decoded.weights(layer), expected.weights, rtol=0, atol=WITHIN)
    np.testing.assert_array_equal(np.isneginf(decoded.logits(layer)), np.isneginf(expected.logits))
    shown = np.where(np.isneginf(expected.logits), np.nan, expected.weights)
    np.testing.assert_array_equal(np.isnan(decoded.array(layer["thumbnails"])), np.isnan(shown))


def test_heads_that_see_alike_share_their_bits():
    inputs = small(batch=1)
    hides = torch.zeros(4, 6, 6)
    hides[2, 3] = -torch.inf
    for bias, blobs in ((None, 1), (hides[2:3], 1), (hides, 4)):
        given = AttentionInputs(inputs.q, inputs.k, global_mask=inputs.global_mask, bias=bias)
        (layer,) = page_of(given, GlobalKeys()).layers
        assert len(layer["visible"]["blobs"]) == blobs
    (layer,) = page_of(AttentionInputs(inputs.q, inputs.k, bias=hides), Full(), heads=(0, 1)).layers
    assert layer["visible"]["kind"] == "band"


@pytest.mark.parametrize("stray", [torch.nan, torch.inf, 3e38])
def test_what_stands_in_padding_does_not_reach_the_file(stray):
    inputs = small(batch=1)
    exists = torch.tensor([True] * 4 + [False] * 2)
    q, k = inputs.q.clone(), inputs.k.clone()
    q[..., 4:, :] = stray
    k[..., 4:, :] = stray
    padded = AttentionInputs(q, k, key_padding_mask=exists, bias=torch.zeros(6, 6).fill_diagonal_(-torch.inf)[None])
    decoded = page_of(padded, Causal())
    (layer,) = decoded.layers
    for name in ("q", "k", "bias"):
        assert np.isfinite(decoded.array(layer[name])).all()
        assert np.abs(decoded.array(layer[name])).max() < 100
    seen = np.tril(np.ones((6, 6), dtype=bool), -1) & exists.numpy() & exists.numpy()[:, None]
    expected = reference.attend(inputs.q[0], inputs.k[0], seen)
    np.testing.assert_allclose(decoded.weights(layer), expected.weights, rtol=0, atol=WITHIN)


def test_keys_of_another_sequence_have_no_order():
    inputs = AttentionInputs(normal((1, 2, 5, 3), 0), normal((1, 2, 5, 3), 1), cross=True)
    decoded = page_of(inputs, Full())
    (layer,) = decoded.layers
    assert layer["positions"] is None
    expected = reference.attend(inputs.q[0], inputs.k[0], np.ones((5, 5), dtype=bool))
    np.testing.assert_allclose(decoded.weights(layer), expected.weights, rtol=0, atol=WITHIN)


@given(st.sampled_from([torch.float16, torch.bfloat16]).flatmap(lambda dtype: calls(dtype=dtype, values=False)))
def test_half_types_are_taken_as_they_are_rounded(call: Call):
    decoded = page_of(call.inputs, call.pattern, batch=call.batch)
    np.testing.assert_allclose(decoded.weights(decoded.layers[0]), call.expected().weights, rtol=0, atol=WITHIN)


@given(calls(dtype=torch.float32, values=False))
def test_thumbnails_are_the_map_itself_where_it_is_small(call: Call):
    decoded = page_of(call.inputs, call.pattern, batch=call.batch)
    (layer,) = decoded.layers
    expected = call.expected()
    shown = np.where(np.isneginf(expected.logits), np.nan, expected.weights)
    tops = np.nan_to_num(shown).max(axis=(1, 2), keepdims=True)
    found = decoded.array(layer["thumbnails"])
    np.testing.assert_array_equal(np.isnan(found), np.isnan(shown))
    assert (np.abs(found - shown) <= tops / 500 + 1e-6)[~np.isnan(shown)].all()


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize("heads", [(0,), (3,), (0, 2), (1, 3), (2, 3), (3, 0), (0, 1, 2, 3), (0, 1, 2), (1, 2)])
def test_heads_picked_at_will_keep_their_own_keys_and_numbers(heads):
    inputs = small(batch=1)
    whole = page_of(inputs, Causal())
    some = page_of(inputs, Causal(), heads=heads)
    (layer,) = some.layers
    assert (layer["head_labels"] or list(range(len(heads)))) == list(heads)
    np.testing.assert_allclose(some.weights(layer), whole.weights(whole.layers[0])[list(heads)], rtol=0, atol=1e-12)


def test_numbers_of_heads_are_those_of_the_heads_shown():
    inputs = AttentionInputs(
        normal((1, 4, 5, 3), 0),
        normal((1, 4, 5, 3), 1),
        sinks=torch.arange(4.0),
        alibi_slopes=torch.arange(4.0) / 8,
        bias=normal((4, 5, 5), 2),
    )
    expected = reference.attend(
        inputs.q[0],
        inputs.k[0],
        np.ones((5, 5), dtype=bool),
        bias=inputs.bias[0],
        sinks=[0, 1, 2, 3],
        alibi_slopes=[0, 0.125, 0.25, 0.375],
    )
    decoded = page_of(inputs, Full(), heads=(3, 1))
    np.testing.assert_allclose(decoded.weights(decoded.layers[0]), expected.weights[[3, 1]], rtol=0, atol=WITHIN)


@pytest.mark.parametrize(("size", "dtype"), [(1.0, "q12"), (4.0, "q16"), (60.0, "f32")])
def test_the_coarsest_codes_that_are_near_enough_are_taken(monkeypatch, size, dtype):
    """Larger scores need finer codes."""
    monkeypatch.setattr(encoding, "ROOM", 0)
    q, k = (normal((1, 2, 300, 16), seed) * size for seed in (0, 1))
    decoded = page_of(AttentionInputs(q, k), Full())
    (layer,) = decoded.layers
    assert (layer["q"]["dtype"], layer["k"]["dtype"]) == (dtype, dtype)
    logits = np.einsum("htd,hsd->hts", q[0].numpy(), k[0].numpy()) / 4
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(decoded.weights(layer), weights / weights.sum(-1, keepdims=True), rtol=0, atol=WITHIN)


@pytest.mark.parametrize(("room", "dtype"), [(38_399, "q12"), (38_400, "q16"), (76_799, "q16"), (76_800, "f32")])
def test_where_there_is_room_codes_are_finer(monkeypatch, room, dtype):
    """Two heads of 300 tokens have 19,200 numbers."""
    monkeypatch.setattr(encoding, "ROOM", room)
    q, k = (normal((1, 2, 300, 16), seed) for seed in (0, 1))
    assert page_of(AttentionInputs(q, k), Full()).layers[0]["k"]["dtype"] == dtype


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("room", [0, 1 << 30], ids=["coarse", "fine"])
@given(calls(dtype=torch.float32, values=False))
def test_numbers_are_within_what_the_page_says_of_them(room, call):
    """Weights, their logarithms and logits against the formula in float64; and what stands at the sides."""
    shown = PageLayer("0", call.inputs.item(call.batch), call.pattern, tuple(range(call.inputs.H)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(encoding, "ROOM", room)
        decoded = Page(b"".join(page([shown], "case")).decode())
    (layer,) = decoded.layers
    expected, found = call.expected(), decoded.weights(layer)
    off = {name: np.array(numbers)[:, None, None] for name, numbers in layer["accuracy"].items()}
    seen = ~np.isneginf(expected.logits)
    wanted = np.where(seen, expected.weights, 0)
    logits, exact = (np.where(seen, values, 0) for values in (decoded.logits(layer), expected.logits))
    assert (abs(logits - exact) <= off["logits"] + 1e-7).all()
    assert (abs(np.nan_to_num(found) - wanted) <= off["weights"] + 1e-7).all()
    told = seen & (wanted > 1e-30) & (found > 0)
    apart = np.log(found, where=told, out=np.zeros_like(wanted)) - np.log(wanted, where=told, out=np.zeros_like(wanted))
    assert (abs(apart) <= off["logs"] + 1e-7).all()
    means = np.where(seen.any(1), wanted.sum(1) / np.maximum(seen.sum(1), 1), np.nan)
    np.testing.assert_allclose(decoded.array(layer["received"]), means, rtol=1e-5, atol=1e-7)
    there = np.where(seen, expected.weights, np.nan)
    np.testing.assert_allclose(decoded.array(layer["entropy"]), entropies(there), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(decoded.array(layer["largest"]), np.fmax.reduce(there, axis=2), rtol=1e-5, atol=1e-7)


def test_scores_that_float32_does_not_carry_are_refused():
    q = torch.full((1, 1, 4, 2), 1e9, dtype=torch.float64)
    k = torch.tensor([[1.0, 1.0], [1.0, 1.0 + 1e-9], [1.0, 1.0 + 2e-9], [1.0, 1.0]], dtype=torch.float64)
    with pytest.raises(InputError, match="float32 does not carry"):
        page_of(AttentionInputs(q, k[None]), Full())


@pytest.mark.parametrize("values", [normal((3, 5, 7), 0).numpy(), np.zeros((2, 3)), np.full((1, 1), -1e-44)])
@pytest.mark.parametrize("dtype", ["q12", "q16"])
def test_codes_are_within_half_a_step(values, dtype):
    codes, steps = quantize(values, dtype)
    decoded = dequantize(codes, steps, dtype)
    most = np.abs(values).max(-1, keepdims=True)
    assert (np.abs(decoded - values) <= most * (0.501 / ((1 << int(dtype[1:]) - 1) - 1)) + 1e-43).all()
    assert codes.min() >= 1


def test_an_odd_end_is_padded_with_the_code_of_zero():
    assert pack12(np.array([1, 2, 3])).tolist() == [[1, 32, 0], [3, 0, 128]]


def test_what_shrinks_is_compressed_and_what_does_not_is_left():
    chunk = Chunk(0)
    assert chunk.floats(np.zeros(10_000))["deflate"] is True
    noise = np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8)
    assert chunk.bits((32_000,), noise) | {"deflate": False, "length": 4000} == chunk.bits((32_000,), noise) | {
        "offset": len(chunk.data) - 8000
    }


@pytest.mark.parametrize(
    ("pattern", "kind", "bounds"),
    [
        (Full(), "band", (None, None)),
        (Causal(), "band", (None, 0)),
        (Local(2), "band", (-2, 2)),
        (Local(2) & Causal(), "band", (-2, 0)),
        (Local(2, 2), "bits", None),
        (GlobalKeys(), "bits", None),
        (longformer(1), "bits", None),
        (Masked(torch.eye(6, dtype=torch.bool)), "bits", None),
    ],
    ids=str,
)
def test_a_band_is_written_as_its_bounds(pattern, kind, bounds):
    (layer,) = page_of(small(batch=1), pattern).layers
    assert layer["visible"]["kind"] == kind
    if bounds is not None:
        assert (layer["visible"]["low"], layer["visible"]["high"]) == bounds


def test_bias_of_a_half_type_is_kept_as_it_is():
    bias = normal((1, 1, 6, 6), 4).half()
    inputs = AttentionInputs(normal((1, 2, 6, 3), 0).half(), normal((1, 2, 6, 3), 1).half(), bias=bias)
    decoded = page_of(inputs, Full())
    (layer,) = decoded.layers
    assert layer["bias"]["dtype"] == "f16"
    assert layer["bias"]["shape"] == [1, 6, 6]
    np.testing.assert_array_equal(decoded.array(layer["bias"])[0], bias[0, 0].double().numpy())


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("pattern", [Causal(), longformer(30)], ids=str)
def test_long_maps_bring_an_overview_of_both_reductions(pattern):
    inputs = small(batch=1, heads=1, kv_heads=1, tokens=2100, head_dim=4, global_positions=(0, 2000))
    decoded = page_of(inputs, pattern)
    (layer,) = decoded.layers
    size = 1 << layer["levels"] - 1 - layer["overview"]["level"]
    weights, visible = np.nan_to_num(decoded.weights(layer)[0]), decoded.visible(layer)[0]
    edges = np.arange(0, 2100, size)
    seen = np.logical_or.reduceat(np.logical_or.reduceat(visible, edges, 0), edges, 1)
    sums = np.add.reduceat(np.add.reduceat(weights, edges, 0), edges, 1)
    expected = {
        "max": np.maximum.reduceat(np.maximum.reduceat(weights, edges, 0), edges, 1),
        "mass": sums / np.diff(edges, append=2100)[:, None],
    }
    for name, cells in expected.items():
        found = decoded.array(layer["overview"][name])[0]
        np.testing.assert_array_equal(np.isnan(found), ~seen)
        np.testing.assert_allclose(np.nan_to_num(found), np.where(seen, cells, 0), rtol=0, atol=WITHIN)
    small_map = decoded.array(layer["thumbnails"])[0]
    assert small_map.shape == (64, 64)
    bins = np.arange(64) * 2100 // 64
    biggest = np.maximum.reduceat(np.maximum.reduceat(weights, bins, 0), bins, 1)
    np.testing.assert_allclose(np.nan_to_num(small_map), biggest, rtol=0, atol=biggest.max() / 500 + WITHIN)


def test_a_page_needs_no_overview_of_a_short_map():
    assert page_of(small(batch=1), Causal()).layers[0]["overview"] is None


@pytest.mark.parametrize("size", [1.0, 60.0])
def test_progress_ends_at_all_rows(size):
    """Also where coarse codes were tried in vain."""
    q, k = (normal((1, 2, 300, 16), seed) * size for seed in (0, 1))
    layer = PageLayer("0", AttentionInputs(q, k).item(), Full(), (0, 1))
    done: list[int] = []
    json.dumps(encode_layer(layer, Chunk(1), Chunk(0), Labels(), done.append))
    assert sum(done) == rows_of(layer) == 600


def test_a_mask_of_too_many_pairs_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr("attnviz.pages.encoding._MOST_PAIRS", 35)
    with pytest.raises(InputError, match=r"a bit a pair.*attnviz view"):
        page_of(small(batch=1), GlobalKeys())
    page_of(small(batch=1), Causal())
