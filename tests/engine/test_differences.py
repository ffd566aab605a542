"""Differences of two maps a tile at a time, against the same pair by pair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnviz import AttentionInputs, Causal, Full, Local, longformer
from attnviz.attention.patterns import Pattern
from attnviz.base.bins import bin_edges
from attnviz.compare.heads import signed_cells
from attnviz.compare.sides import Exact
from attnviz.engine.differences import Weighed, furthest_apart, serves
from attnviz.engine.request import Request
from attnviz.engine.tiles import TileSize
from tests.strategies import normal

BANDS: dict[str, Pattern] = {"full": Full(), "causal": Causal(), "local": Local(3), "causal local": Local(5) & Causal()}


def weighed(request: Request, *edges: np.ndarray) -> Weighed:
    return Weighed(request.attention, 0, request.attention.cells(0, *edges).denominators)


def inputs_of(T: int, S: int, seed: int, dtype: torch.dtype, size: float = 1.0, **extra) -> AttentionInputs:
    q, k = normal((1, 1, T, 4), seed) * size, normal((1, 1, S, 4), seed + 1)
    return AttentionInputs(q.to(dtype), k.to(dtype), **extra)


@settings(max_examples=30)
@given(data=st.data())
def test_tiles_find_what_pairs_find(data):
    T, S, seed = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40)), data.draw(st.integers(0, 999))
    dtype = data.draw(st.sampled_from([torch.float16, torch.float32, torch.float64]))
    pattern, size = BANDS[data.draw(st.sampled_from(sorted(BANDS)))], data.draw(st.sampled_from([0.1, 1.0, 80.0]))
    extra = data.draw(st.sampled_from([{}, {"softcap": 3.0}, {"sinks": torch.tensor([0.5])}]))
    rows, columns = (bin_edges(range(n), data.draw(st.integers(1, n))) for n in (T, S))
    a, b = (Request(inputs_of(T, S, seed + n, dtype, size, **extra), pattern, 0) for n in (0, 5))
    one, other = weighed(a, rows, columns), weighed(b, rows, columns)
    assert serves(one, other)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TileSize, "fitting", lambda *_, **__: TileSize(5, 7))
        above, below = furthest_apart(one, other, rows, columns)
    expected = signed_cells(Exact(a), Exact(b), 0, rows, columns)
    # Logits of several hundred are off by some of their own units in the last place, and weights by as much of themselves.
    atol = 1e-12 if dtype == torch.float64 else 2e-6 if size <= 1 else 1e-4
    np.testing.assert_array_equal(np.isfinite(above), np.isfinite(expected))
    np.testing.assert_allclose(
        np.maximum(above, below), np.where(np.isnan(expected), -np.inf, abs(expected)), atol=atol
    )
    signed = np.where(above >= below, above, -below)
    tied = ~np.isfinite(above) | np.isclose(above, below, rtol=0, atol=4 * atol)
    np.testing.assert_allclose(signed[~tied], expected[~tied], atol=atol)


@pytest.mark.parametrize("pattern", BANDS.values(), ids=BANDS)
def test_an_attention_is_nowhere_apart_from_itself(pattern):
    request = Request(inputs_of(33, 33, 0, torch.float32, 30.0), pattern, 0)
    edges = bin_edges(range(33), 6)
    above, below = furthest_apart(*[weighed(request, edges, edges)] * 2, edges, edges)
    assert not above[np.isfinite(above)].any()
    assert not below[np.isfinite(below)].any()


def test_what_two_numbers_do_not_say_is_left_to_pairs():
    edges, plain = bin_edges(range(6), 3), inputs_of(6, 6, 0, torch.float32, global_mask=torch.arange(6)[None] < 2)
    padding, hidden = torch.arange(6)[None] < 5, torch.zeros(1, 6, 6).index_fill(2, torch.tensor([1]), -torch.inf)
    served = weighed(Request(plain, Causal(), 0), edges, edges)
    assert serves(served, served)
    others = {
        "another band": Request(plain, Full(), 0),
        "shared keys": Request(plain, longformer(1), 0),
        "padded keys": Request(replace(plain, key_padding_mask=padding), Causal(), 0),
        "padded queries": Request(replace(plain, query_padding_mask=padding), Causal(), 0),
        "a bias that hides": Request(replace(plain, bias=hidden), Causal(), 0),
        "another dtype": Request(inputs_of(6, 6, 0, torch.float64), Causal(), 0),
    }
    for why, request in others.items():
        assert not serves(served, weighed(request, edges, edges)), why
