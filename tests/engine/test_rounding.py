"""How far off numbers may be: the bound of the documentation, over dtypes, sizes of logits and every road to a weight."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import attnviz
from attnviz import AttentionInputs, Causal, Full, InputError, Local, Pyramid, longformer
from attnviz.attention.patterns import Pattern
from attnviz.engine.makers import attention_of
from tests.strategies import normal

U, C = 2.0**-24, 8
"""A weight w is off by at most ``w (exp(C U (L + 2)) - 1)``, L the largest ``sum |q_i k_i| scale`` of its row; one below 1e-20 may read as 0."""

T, D = 40, 8
PATTERNS: dict[str, Pattern] = {"full": Full(), "causal": Causal(), "local": Local(3), "longformer": longformer(2)}


def of_score(inputs: AttentionInputs, pattern: Pattern) -> np.ndarray:
    result = attnviz.score(inputs, pattern)
    found = np.zeros((T, T))
    for t in range(T):
        for n, s in enumerate(result.key_positions(t)):
            if s is not None and float(result.scores[0, t, n]) > -math.inf:
                found[t, s] = result.weights[0, t, n]
    if len(result.global_queries):
        found[result.global_queries] = result.global_weights[0]
    return found


def of_map(inputs: AttentionInputs, pattern: Pattern) -> np.ndarray:
    return attnviz.attention_map(inputs, 0, pattern).cells


def of_rectangle(inputs: AttentionInputs, pattern: Pattern) -> np.ndarray:
    pyramid = Pyramid.of(inputs, pattern)
    pyramid.prepare(0)
    return pyramid.rectangle(0, range(T), range(T))


def of_tile(inputs: AttentionInputs, pattern: Pattern) -> np.ndarray:
    return Pyramid.of(inputs, pattern).tile(0, 0, 0, 0)[:T, :T]


ROADS = {"score": of_score, "map": of_map, "rectangle": of_rectangle, "tile": of_tile}


def exact(inputs: AttentionInputs, pattern: Pattern) -> tuple[np.ndarray, np.ndarray]:
    """Weights in float64 on the inputs as they are rounded, and each row's L."""
    wide = AttentionInputs(inputs.q.double(), inputs.k.double(), global_mask=inputs.global_mask)
    weights = attnviz.attention_map(wide, 0, pattern).cells
    q, k = (tensor[0, 0].double().abs().numpy() for tensor in (inputs.q, inputs.k))
    return np.nan_to_num(weights), (q @ k.T / math.sqrt(D)).max(1)


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@given(data=st.data())
def test_a_weight_is_off_by_no_more_than_the_bound(road, dtype, data):
    size = 10.0 ** data.draw(
        st.floats(-2, 4 if dtype == "float16" else 18)
    )  # of the queries: logits are up to 10 times it
    seed, name = data.draw(st.integers(0, 999)), data.draw(st.sampled_from(sorted(PATTERNS)))
    q, k = normal((1, T, D), seed) * size, normal((1, T, D), seed + 1)
    mask = torch.arange(T) % 9 == 0
    inputs = AttentionInputs(q.to(getattr(torch, dtype)), k.to(getattr(torch, dtype)), global_mask=mask)
    weights, L = exact(inputs, PATTERNS[name])
    found = np.nan_to_num(ROADS[road](inputs, PATTERNS[name]).astype(np.float64), nan=0.0, posinf=9, neginf=9)
    bound = np.minimum(weights * np.expm1(np.minimum(C * U * (L + 2), 100))[:, None], 1) + 1e-20
    assert (np.abs(found - weights) <= bound).all()
    assert found.max() <= 1 + 4 * U


def test_the_bound_is_not_idle():
    """An eighth of it is exceeded: what the test above allows is near what is there."""
    q, k = normal((1, T, D), 0).float() * 4, normal((1, T, D), 1).float()
    inputs = AttentionInputs(q, k)
    weights, L = exact(inputs, Full())
    apart = np.abs(of_map(inputs, Full()) - weights)
    assert (apart > weights * np.expm1(C / 8 * U * L)[:, None]).any()


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("size", [1e9, 1e20, 1e36])
def test_logits_of_any_size_give_weights(road, size):
    """Two keys alike share the weight, however large the logits; none of them is NaN or above 1."""
    q, k = torch.full((1, T, D), math.sqrt(size)), torch.full((1, T, D), math.sqrt(size))
    k[:, 2:] = -k[:, 2:]
    found = ROADS[road](AttentionInputs(q, k, global_mask=torch.arange(T) < 2), Full())
    np.testing.assert_allclose(found[:, :2], 0.5)
    np.testing.assert_array_equal(found[:, 2:], 0)


OUTSIDE = {
    "q and k": {"q": torch.full((1, T, D), 1e19), "k": torch.full((1, T, D), 3e18), "scale": 1.0},
    "bias": {"bias": torch.full((1, 1, T, T), 3e38)},
    "a bias of float64": {"bias": torch.full((1, 1, T, T), 1e300, dtype=torch.float64)},
    "sinks": {"sinks": torch.full((1,), 1e300, dtype=torch.float64)},
    "slopes": {"alibi_slopes": torch.full((1,), 1e38)},
    "softcap": {"softcap": 1e300},
    "a softcap that is 0 in float32": {"softcap": 1e-60},
}


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("name", OUTSIDE)
def test_what_float32_cannot_hold_is_refused(road, name):
    settings = {"q": torch.ones(1, T, D), "k": torch.ones(1, T, D), **OUTSIDE[name]}
    with pytest.raises(InputError, match=r"overflow float32|beyond what float32 can hold; use --dtype float64"):
        ROADS[road](AttentionInputs(**settings), Full())
    # In float64 all of these have an answer.
    wide = {n: v.double() if isinstance(v, torch.Tensor) else v for n, v in settings.items()}
    assert np.isfinite(ROADS[road](AttentionInputs(**wide), Full())).all()


@pytest.mark.parametrize("road", ROADS)
def test_what_stands_in_padding_is_nothing(road):
    q, k = normal((1, T, D), 0).float(), normal((1, T, D), 1).float()
    exists = torch.arange(T) < 30
    clean = ROADS[road](AttentionInputs(q, k, key_padding_mask=exists), Full())
    for garbage in (math.nan, math.inf, 3e38):
        dirty = [tensor.masked_fill(~exists[:, None], garbage) for tensor in (q, k)]
        found = ROADS[road](AttentionInputs(*dirty, key_padding_mask=exists), Full())
        np.testing.assert_allclose(found, clean, rtol=1e-5)
    with pytest.raises(InputError, match="NaN or Inf"):
        ROADS[road](AttentionInputs(q.masked_fill(~exists[:, None], math.inf), k), Full())


@pytest.mark.parametrize("peak", [14.0, 16.8, 17.5])
@pytest.mark.parametrize("S", [300, 16_384, 131_072])
@pytest.mark.parametrize("sink", [None, 0.0])
def test_many_small_weights_beside_a_peak_are_no_farther_off(S: int, peak: float, sink: float | None) -> None:
    """Added up one after another, each of them is rounded the same way, by up to half of itself."""
    k = torch.zeros(1, 1, S, 1)
    k[..., 0, 0] = peak
    sinks = None if sink is None else torch.tensor([sink])
    inputs = AttentionInputs(torch.ones(1, 1, 1, 1), k, scale=1.0, cross=True, sinks=sinks)
    logits = np.concatenate([[peak], np.zeros(S - 1)]).astype(np.float32).astype(np.float64)
    powers = np.exp(logits - peak)
    total = math.fsum(powers) + (0 if sink is None else math.exp(sink - peak))
    bound = math.expm1(C * U * (peak + 2))
    attention = attention_of(inputs.item(), Full())
    for sums in (False, True):
        (block,) = attention.blocks(0, sums=sums)
        found = block.values[0].double().numpy()
        assert np.abs(found / (powers / total) - 1).max() <= bound
    entropy = -math.fsum(powers / total * np.log(powers / total))
    assert float(block.entropies[0]) == pytest.approx(entropy, rel=bound * 2, abs=bound)
