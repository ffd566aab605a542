"""The sides of a map against sums over whole maps in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import attnviz
from attnviz import InputError
from attnviz.attention.patterns import Causal
from attnviz.maps.marginals import of_cells
from tests.cases import small
from tests.strategies import DTYPES, calls


def expected(weights: np.ndarray, visible: np.ndarray, queries: range, keys: list[int]) -> tuple[list, list]:
    """Received and entropy in plain loops."""
    received = []
    for s in keys:
        given = [float(weights[t, s]) for t in queries if visible[t, s]]
        received.append(math.fsum(given) / len(given) if given else math.nan)
    entropy = []
    for t in queries:
        row = [float(w) for w, there in zip(weights[t], visible[t], strict=True) if there]
        entropy.append(-math.fsum(w * math.log(w) for w in row if w > 0) if row else math.nan)
    return received, entropy


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_they_are_what_the_whole_map_gives(dtype, data):
    call = data.draw(calls(DTYPES[dtype], values=False))
    first = data.draw(st.integers(0, call.inputs.T - 1))
    queries = range(first, data.draw(st.integers(first + 1, call.inputs.T)))
    head = data.draw(st.integers(0, call.inputs.H - 1))
    found = attnviz.marginals(call.inputs, head, call.pattern, batch=call.batch, queries=queries)
    received, entropy = expected(call.expected().weights[head], call.visible(head), queries, list(found.keys))
    np.testing.assert_allclose(found.received, received, rtol=0, atol=4 * call.tolerance)
    np.testing.assert_allclose(found.entropy, entropy, rtol=0, atol=40 * call.tolerance)


def test_their_keys_are_those_of_the_map():
    for pattern in (None, Causal()):
        shown = attnviz.attention_map(small(), 0, pattern, queries=range(2, 5))
        sides = attnviz.marginals(small(), 0, pattern, queries=range(2, 5))
        assert (sides.queries, list(sides.keys)) == (shown.queries, list(shown.keys))


def test_long_maps_are_as_exact_as_short_ones():
    """A causal map of many blocks: key s is seen by T - s queries."""
    T = 3000
    inputs = attnviz.synthesize(heads=1, tokens=T, head_dim=4, dtype="float64")
    done: list[int] = []
    sides = attnviz.marginals(inputs, 0, Causal(), progress=done.append)
    weights = attnviz.score(inputs, Causal()).weights[0].numpy()
    np.testing.assert_allclose(sides.received, weights.sum(0) / np.arange(T, 0, -1), rtol=1e-9)
    assert sum(done) == T
    assert len(done) > 1


def test_cells_have_the_least_the_mean_and_the_most_of_their_numbers():
    numbers = np.array([3.0, 1.0, np.nan, 5.0, np.nan, np.nan, 2.0])
    found = of_cells(numbers, 3)  # 3 1 | nan 5 | nan nan 2
    np.testing.assert_array_equal(found, [[1, 5, 2], [2, 5, 2], [3, 5, 2]])
    np.testing.assert_array_equal(of_cells(numbers, 7)[1], numbers)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"head": 4}, "head 4 is out of range"),
        ({"head": 0, "queries": range(3, 9)}, "queries 3:9 is not a part of 0:6"),
        ({"head": 0, "keys": range(1, 3)}, "no global key lies in keys 1:3"),
    ],
)
def test_what_is_not_there_is_refused(options, says):
    with pytest.raises(InputError, match=says):
        attnviz.marginals(small(), **options)
