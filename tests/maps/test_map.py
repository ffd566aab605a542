"""Maps reduced to the cells of a picture against a picture made from the whole map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import attnviz
from attnviz import AttentionInputs, InputError
from attnviz.attention.patterns import Causal, Full, GlobalKeys, Local, longformer
from attnviz.base.bins import bin_edges
from attnviz.engine.reducer import reduce_map
from attnviz.engine.tiles import TileSize
from tests import reference
from tests.cases import small
from tests.strategies import DTYPES, Call, calls, longformer_rule, normal


def shared_only(rule: tuple) -> bool:
    """Whether a pattern is of global keys alone, so that only they are columns of its map."""
    match rule:
        case ("global",):
            return True
        case ("or", left, right):
            return shared_only(left) and shared_only(right)
        case ("and", left, right):
            return shared_only(left) or shared_only(right)
    return False


@st.composite
def parts(draw: st.DrawFn, size: int) -> range:
    first = draw(st.integers(0, size - 1))
    return range(first, draw(st.integers(first + 1, size)))


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_a_map_of_any_pattern_is_the_reduced_whole_map(dtype, data):
    call = data.draw(calls(DTYPES[dtype], values=False))
    only_shared = shared_only(call.rule) and not call.has_global_queries
    columns = sorted(call.globals_) if only_shared else list(range(call.inputs.S))
    queries = data.draw(st.none() | parts(call.inputs.T))
    keys = data.draw(st.none() | parts(call.inputs.S))
    rows = list(range(call.inputs.T)) if queries is None else list(queries)
    columns = columns if keys is None else [s for s in columns if s in keys]
    reduce, values = data.draw(st.sampled_from([("max", "weights"), ("mass", "weights"), ("max", "logits")]))
    pixels, head = data.draw(st.integers(1, 9)), data.draw(st.integers(0, call.inputs.H - 1))
    options = {"batch": call.batch, "reduce": reduce, "values": values, "pixels": pixels}
    if not columns:
        with pytest.raises(InputError, match="no global key lies in keys"):
            attnviz.attention_map(call.inputs, head, call.pattern, queries=queries, keys=keys, **options)
        return
    found = attnviz.attention_map(call.inputs, head, call.pattern, queries=queries, keys=keys, **options)
    whole = call.expected()
    numbers = (whole.weights if values == "weights" else whole.logits)[head]
    expected = reference.picture(numbers, call.visible(head), rows, columns, pixels, reduce)
    close = 4 * call.tolerance if values == "weights" else 1e-5 if dtype != "float64" else 1e-11
    np.testing.assert_allclose(found.cells, expected, rtol=close, atol=close)
    assert (list(found.queries), list(found.keys)) == (rows, columns)


@given(call=calls(values=False), data=st.data())
def test_tiles_of_any_size_leave_no_seam(call, data):
    tile = TileSize(data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5)))
    pixels = data.draw(st.integers(1, 9))
    T, S = call.inputs.T, call.inputs.S
    edges = (bin_edges(range(T), min(T, pixels)), bin_edges(range(S), min(S, pixels)))
    item = call.inputs.item(call.batch)
    found = reduce_map(item, call.pattern, 0, *edges, reductions=("max", "mass"), tile=tile)
    weights, visible = call.expected().weights[0], call.visible()
    for reduce, cells in (("max", found.max), ("mass", found.mass)):
        expected = reference.picture(weights, visible, range(T), range(S), pixels, reduce)
        np.testing.assert_allclose(cells, expected, rtol=0, atol=1e-11)


LONG = {
    "global": ("global",),
    "full": ("full",),
    "causal": ("causal",),
    "local": ("local", 20, 1),
    "dilation": ("local", 9, 4),
    "longformer": longformer_rule(11),
    "causal longformer": ("and", longformer_rule(7, 2), ("causal",)),
}


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("reduce", ["max", "mass"])
def test_a_map_of_several_blocks_and_ragged_bins(name, reduce):
    T = 333  # a prime times nine: no number of cells divides it but 3, 9, 37, 111
    mask = torch.zeros(T, dtype=torch.bool)
    mask[[0, 100, 101, 255, 256, 332]] = True
    padding = torch.arange(T) != 257
    inputs = AttentionInputs(normal((1, T, 1), 0), normal((1, T, 1), 1), global_mask=mask, key_padding_mask=padding)
    call = Call(inputs, LONG[name], 0)
    columns = [0, 100, 101, 255, 256, 332] if name == "global" else range(T)
    expected = reference.picture(call.expected().weights[0], call.visible(), range(T), columns, 40, reduce)
    found = attnviz.attention_map(inputs, 0, call.pattern, reduce=reduce, pixels=40)
    np.testing.assert_allclose(found.cells, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("reduce", ["max", "mass"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logits_far_below_their_bound_and_far_above_zero(reduce, dtype):
    # |q| |k| is 10,000 while no logit is near it, then a key that takes all: exp must neither vanish nor overflow.
    q = torch.zeros(1, 6, 4)
    k = torch.zeros(1, 6, 4)
    q[..., 0], k[..., 1] = 100.0, 100.0
    k[:, :, 0] = torch.tensor([0.0, 0.01, 0.02, -0.01, 3.0, 0.0])
    q[:, 4:, 0] = -100.0
    inputs = AttentionInputs(q.to(DTYPES[dtype]), k.to(DTYPES[dtype]), scale=1.0)
    call = Call(inputs, ("causal",), 0)
    expected = reference.picture(call.expected().weights[0], call.visible(), range(6), range(6), 4, reduce)
    found = attnviz.attention_map(inputs, 0, Causal(), reduce=reduce, pixels=4)
    np.testing.assert_allclose(found.cells, expected, rtol=0, atol=1e-6 if dtype == "float32" else 1e-12)


# What the two reductions mean


def test_a_lone_bright_key_never_vanishes():
    k = torch.zeros(1, 1000, 2)
    k[0, 567, 0] = 100.0
    q = torch.zeros(1, 1000, 2)
    q[0, 123, 0] = 100.0
    found = attnviz.attention_map(AttentionInputs(q, k), 0, Full(), pixels=10)
    assert found.cells[1, 5] == pytest.approx(1)
    assert np.delete(found.cells.ravel(), 15).max() < 0.01


@pytest.mark.parametrize("pattern", [Full(), Causal(), Local(30), longformer(5), GlobalKeys()], ids=str)
def test_rows_of_a_picture_of_mass_sum_to_one(pattern):
    inputs = small(batch=1, tokens=137, dtype="float64")
    cells = attnviz.attention_map(inputs, 1, pattern, reduce="mass", pixels=11).cells
    np.testing.assert_allclose(np.nansum(cells, axis=1), 1, rtol=1e-12)


def test_queries_that_see_nothing_do_not_thin_the_mass_of_their_cell():
    inputs = replace(small(batch=1, tokens=8, dtype="float64"), key_padding_mask=torch.arange(8)[None] < 5)
    cells = attnviz.attention_map(inputs, 0, Full(), reduce="mass", pixels=4).cells
    np.testing.assert_allclose(
        np.nansum(cells[:3], axis=1), 1
    )  # the third row: one query that exists, one that doesn't
    assert np.isnan(cells[3]).all()
    assert np.isnan(cells[:, 3]).all()


def test_cells_that_no_query_sees_are_blank():
    cells = attnviz.attention_map(small(batch=1, tokens=12), 0, Local(1) & Causal(), pixels=4).cells
    blank = np.isnan(cells)
    assert blank.tolist() == [[not 0 <= i - j <= 1 for j in range(4)] for i in range(4)]


# Bins


@pytest.mark.parametrize(
    ("positions", "bins", "edges"),
    [
        (range(10), 5, [0, 2, 4, 6, 8, 10]),
        (range(10), 3, [0, 3, 6, 10]),
        (range(7), 4, [0, 1, 3, 5, 7]),
        (range(5, 12), 2, [5, 8, 12]),
        ((2, 3, 11), 3, [2, 3, 11, 12]),
        ((2, 3, 11, 40), 2, [2, 11, 41]),
    ],
)
def test_bin_i_covers_floor_i_T_over_P_to_the_next(positions, bins, edges):
    assert bin_edges(positions, bins).tolist() == edges


@pytest.mark.parametrize(("tokens", "pixels", "shape"), [(10, 4, (4, 4)), (10, 10, (10, 10)), (3, 8, (3, 3))])
def test_a_picture_has_no_more_cells_than_positions(tokens, pixels, shape):
    inputs = small(batch=1, tokens=tokens, global_positions=(0,))
    found = attnviz.attention_map(inputs, 0, Full(), pixels=pixels)
    assert found.cells.shape == shape
    assert found.reduced == (tokens > pixels)
    assert found.cell_size == (tokens / shape[0], tokens / shape[1])


# The call


def test_labels_are_those_of_the_positions_shown():
    found = attnviz.attention_map(small(batch=1), 0, Full(), queries=range(2, 4), keys=range(1, 5))
    assert found.query_labels == ["t2", "t3"]
    assert found.key_labels == ["t1", "t2", "t3", "t4"]
    assert attnviz.attention_map(small(batch=1), 0).key_labels == ["t0", "t3"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"reduce": "mean"}, "reduce 'mean' is not one of max, mass"),
        ({"reduce": "mass", "values": "logits"}, "mass sums weights, and logits are not weights"),
        ({"pixels": 0}, "pixels is 0"),
        ({"queries": range(3, 9)}, "queries 3:9 is not a part of 0:6"),
        ({"keys": range(2, 2)}, "keys 2:2 is not a part of 0:6"),
        ({"keys": range(4, 6)}, "no global key lies in keys 4:6; widen it"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(options, says):
    with pytest.raises(InputError, match=says):
        attnviz.attention_map(small(), 0, **options)
