"""Two maps and their difference against whole maps in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import attnviz
from attnviz import InputError
from attnviz.attention.patterns import Causal, Full, GlobalKeys, Local, longformer
from tests import reference
from tests.cases import small
from tests.strategies import Call, calls, parts, rules

T = 9
PATTERNS = {
    "full": (Full(), ("full",)),
    "causal": (Causal(), ("causal",)),
    "local": (Local(2), ("local", 2, 1)),
    "longformer": (longformer(1), ("or", ("local", 1, 1), ("or", ("global",), ("global queries",)))),
    "global": (GlobalKeys(), ("global",)),
    "dilated": (Local(1, 2), ("local", 1, 2)),
}


def side(seed: int) -> attnviz.AttentionInputs:
    return attnviz.synthesize(heads=2, tokens=T, head_dim=4, seed=seed, dtype="float64", global_positions=(0, 5))


def whole(inputs, rule, head) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (0 where hidden), logits and what is visible, (T, T) each."""
    visible = reference.visible_to_all(rule, T, T, {0, 5})
    found = reference.attend(inputs.q[0], inputs.k[0], visible)
    return np.nan_to_num(found.weights[head]), found.logits[head], visible


@given(data=st.data())
def test_the_difference_is_that_of_the_whole_maps(data):
    (pattern_a, rule_a), (pattern_b, rule_b) = (PATTERNS[data.draw(st.sampled_from(sorted(PATTERNS)))] for _ in "ab")
    a, b = side(0), side(1)
    head, pixels = data.draw(st.integers(0, 1)), data.draw(st.integers(1, 10))
    first = data.draw(st.integers(0, T - 1))
    queries = range(first, data.draw(st.integers(first + 1, T)))
    values, reduce = data.draw(st.sampled_from([("weights", "max"), ("weights", "mass"), ("logits", "max")]))
    found = attnviz.compare_maps(
        a, b, head, pattern_a, pattern_b, values=values, reduce=reduce, pixels=pixels, queries=queries
    )
    columns = list(found.a.keys)
    assert columns == ([0, 5] if rule_a == rule_b == ("global",) else list(range(T)))
    one, other = whole(a, rule_a, head), whole(b, rule_b, head)
    if reduce == "mass":
        masses = [
            np.nan_to_num(reference.picture(weights, visible, queries, columns, pixels, "mass"))
            for weights, _, visible in (one, other)
        ]
        np.testing.assert_allclose(np.nan_to_num(found.difference.cells), masses[0] - masses[1], atol=1e-12)
        return
    index = 0 if values == "weights" else 1
    seen = one[2] | other[2] if values == "weights" else one[2] & other[2]
    with np.errstate(invalid="ignore"):
        apart = one[index] - other[index]
    above = reference.picture(apart, seen, queries, columns, pixels, "max")
    below = reference.picture(-apart, seen, queries, columns, pixels, "max")
    expected, cells = np.where(above >= below, above, -below), found.difference.cells
    # Of two keys that are as far apart, one each way (a query of two keys has no others), rounding says which is the one.
    tied = np.isclose(above, below)
    np.testing.assert_allclose(np.where(tied, abs(cells), cells), np.where(tied, abs(expected), expected), atol=1e-12)


@given(data=st.data())
def test_any_two_patterns_and_any_part_differ_as_the_whole_maps_do(data):
    """Rows of global queries by their own projections, queries that see nothing, and keys that are not shown among them."""
    call = data.draw(calls(values=False))
    other = Call(call.inputs, data.draw(rules(call.inputs.T, call.inputs.S)), call.batch)
    head = data.draw(st.integers(0, call.inputs.H - 1))
    values, reduce = data.draw(st.sampled_from([("weights", "max"), ("weights", "mass"), ("logits", "max")]))
    what = {"values": values, "reduce": reduce, "pixels": data.draw(st.integers(1, 9)), "batch": call.batch}
    what |= {"queries": data.draw(parts(call.inputs.T)), "keys": data.draw(parts(call.inputs.S))}
    try:
        found = attnviz.compare_maps(call.inputs, call.inputs, head, call.pattern, other.pattern, **what)
    except InputError as error:
        assert "no global key lies in" in str(error)  # noqa: PT017 (some draws)
        return
    expected = apart(call, other, head, found.a.queries, list(found.a.keys), values, reduce, what["pixels"])
    cells = found.difference.cells
    if reduce == "max":  # of two keys that are as far apart, one each way, rounding says which is the one
        tied = np.isclose(*both_ways(call, other, head, found.a.queries, list(found.a.keys), values, what["pixels"]))
        cells, expected = (np.where(tied, np.abs(one), one) for one in (cells, expected))
    np.testing.assert_allclose(cells, expected, rtol=1e-11, atol=1e-11)


def apart(a: Call, b: Call, head: int, queries, keys, values: str, reduce: str, pixels: int) -> np.ndarray:
    """A - B of whole maps in cells; a query that one side leaves blank has no difference."""
    seen = [side.visible(head) for side in (a, b)]
    numbers = [getattr(side.expected(), values)[head] for side in (a, b)]
    shown = (queries, keys, pixels)
    if reduce == "mass":
        masses = [reference.picture(x, sees, *shown, "mass") for x, sees in zip(numbers, seen, strict=True)]
        bins = [
            queries[i * len(queries) // len(masses[0]) : (i + 1) * len(queries) // len(masses[0])]
            for i in range(len(masses[0]))
        ]
        blank = np.array([any(not sees[list(rows)].any() for sees in seen) for rows in bins])
        none = blank[:, None] | (np.isnan(masses[0]) & np.isnan(masses[1]))
        return np.where(none, np.nan, np.nan_to_num(masses[0]) - np.nan_to_num(masses[1]))
    above, below = both_ways(a, b, head, queries, keys, values, pixels)
    return np.where(above >= below, above, -below)


def both_ways(a: Call, b: Call, head: int, queries, keys, values: str, pixels: int) -> list[np.ndarray]:
    """The largest of A - B, and of B - A, in cells."""
    seen = [side.visible(head) for side in (a, b)]
    numbers = [getattr(side.expected(), values)[head] for side in (a, b)]
    both = seen[0] & seen[1]
    if values == "weights":
        both = (seen[0] | seen[1]) & seen[0].any(1)[:, None] & seen[1].any(1)[:, None]
    with np.errstate(invalid="ignore"):
        signed = numbers[0] - numbers[1]
    return [reference.picture(x, both, queries, keys, pixels, "max") for x in (signed, -signed)]


def test_a_row_that_sees_none_of_the_keys_shown_sees_others():
    """Its weight on them is 0: what the other side has there is the difference."""
    what = {"keys": range(7, T), "reduce": "max"}
    found = attnviz.compare_maps(side(0), side(0), 0, Full(), Causal(), **what)
    np.testing.assert_array_equal(found.difference.cells[0], found.a.cells[0])
    assert np.isnan(found.b.cells[0]).all()


def test_a_side_of_global_keys_alone_may_have_none_among_those_shown():
    found = attnviz.compare_maps(side(0), side(0), 0, GlobalKeys(), Full(), keys=range(1, 4))
    np.testing.assert_allclose(found.difference.cells, -found.b.cells)


def test_the_maps_are_those_of_each_side():
    found = attnviz.compare_maps(side(0), side(1), 1, Causal(), Full())
    np.testing.assert_array_equal(found.a.cells, attnviz.attention_map(side(0), 1, Causal()).cells)
    np.testing.assert_array_equal(found.b.cells, attnviz.attention_map(side(1), 1, Full()).cells)
    assert found.a.pattern == "synthetic, causal"


def test_global_keys_of_both_sides_are_columns_where_they_differ():
    other = attnviz.synthesize(heads=2, tokens=T, head_dim=4, seed=1, dtype="float64", global_positions=(2,))
    same = attnviz.compare_maps(side(0), side(1), 0)
    assert same.difference.cells.shape == (T, 2)
    found = attnviz.compare_maps(side(0), other, 0)
    assert found.difference.cells.shape == (T, T)
    np.testing.assert_array_equal(np.isfinite(found.difference.cells[0]).nonzero()[0], [0, 2, 5])
    np.testing.assert_allclose(found.difference.cells[:, 2], -1)


@pytest.mark.parametrize(
    ("b", "head", "says"),
    [
        (small(tokens=7), 0, "has 6 queries but .* has 7"),
        (small(heads=2), 3, "head 3 is out of range; there are 2"),
        (small(), 9, "head 9 is out of range"),
    ],
)
def test_what_cannot_be_compared_is_refused(b, head, says):
    with pytest.raises(InputError, match=says):
        attnviz.compare_maps(replace(small(), source="one"), b, head)


def test_tokens_that_differ_are_both_told():
    one, other = (replace(small(batch=1), tokens=[["it", "was", "so", word, ".", ""]]) for word in ("tired", "wide"))
    found = attnviz.compare_maps(one, other, 0, Full())
    assert found.difference.key_labels == ["it", "was", "so", "tired / wide", ".", ""]
    assert (found.a.key_labels[3], found.b.key_labels[3]) == ("tired", "wide")
    bare = attnviz.compare_maps(replace(one, tokens=None), other, 0, Full())
    assert bare.difference.key_labels[3] == "wide"
