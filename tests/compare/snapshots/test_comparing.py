"""Snapshots of inputs against a kernel's own weights, over every kind of call; and what a picture shows of a hidden key."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import attnviz
from attnviz import AttentionInputs
from attnviz.attention.patterns import Causal, Full
from attnviz.compare.snapshots.comparing import compare_snapshots, difference_maps
from attnviz.compare.snapshots.taking import take_snapshot
from tests.reference import attend
from tests.strategies import Call, calls, normal, rules

FILLS = {"0": 0.0, "NaN": math.nan, "uniform": None}
"""What libraries put in the row of a query that sees nothing."""


@st.composite
def kernels(draw: st.DrawFn) -> tuple[Call, torch.Tensor, str, int]:
    """A call, what a right kernel in float32 gives for it, of which values, and the cells of a snapshot."""
    call = draw(calls(torch.float32, values=False))
    if draw(st.booleans()):  # weights that float32 has no number for
        call = replace(call, inputs=replace(call.inputs, scale=40.0))
    values, fill = draw(st.sampled_from(["weights", "weights", "logits"])), draw(st.sampled_from(sorted(FILLS)))
    tensor = torch.from_numpy(getattr(call.expected(), values).copy()).float()
    put = FILLS[fill]
    for head in range(call.inputs.H):
        blank = ~torch.from_numpy(call.visible(head)).any(1)
        tensor[head, blank] = 1 / call.inputs.S if put is None else put
    return call, tensor, values, draw(st.integers(1, 9))


def both(call: Call, tensor: torch.Tensor, values: str, cells: int) -> tuple[attnviz.Snapshot, attnviz.Snapshot]:
    how = {"values": values, "cells": cells}
    return take_snapshot(call.inputs, call.pattern, batch=call.batch, **how), take_snapshot(tensor, **how)


def every_key(call: Call) -> bool:
    """A tensor has no way to say that its columns are global keys."""
    return isinstance(take_snapshot(call.inputs, call.pattern, batch=call.batch).keys, range)


@given(kernel=kernels())
def test_a_right_kernel_holds_on_either_side(kernel):
    if not every_key(kernel[0]):
        return
    ours, theirs = both(*kernel)
    for pair in ((ours, theirs), (theirs, ours)):
        found = compare_snapshots(*pair)
        assert found.within, found.report()


@given(kernel=kernels(), data=st.data())
def test_a_wrong_kernel_is_seen(kernel, data):
    """A weight that is another, on a visible key or a hidden one, and a row of NaN, where the queries of a row of cells see."""
    call, tensor, values, cells = kernel
    T, P = call.inputs.T, min(call.inputs.T, cells)
    bins = [range(i * T // P, (i + 1) * T // P) for i in range(P)]
    rows = [
        (head, t)
        for head in range(call.inputs.H)
        for rows in bins
        for t in rows
        if call.visible(head)[list(rows)].any(1).all()
    ]
    if not rows or not every_key(call):
        return
    head, query = data.draw(st.sampled_from(rows))
    key = data.draw(st.integers(0, call.inputs.S - 1) | st.none())
    if key is None:
        tensor[head, query] = math.nan
    elif values == "weights":
        tensor[head, query, key] += 0.3
    else:
        tensor[head, query, key] = 1e4
    ours, theirs = both(call, tensor, values, cells)
    for pair in ((ours, theirs), (theirs, ours)):
        found = compare_snapshots(*pair)
        assert {cell.head for cell in found.cells} == {head}
        assert all(query in cell.queries for cell in found.cells)


@pytest.mark.sweep(keep=4)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("cells", [4, 32])
def test_a_padded_sequence(side, fill, cells):
    exists = torch.arange(12) >= 3 if side == "left" else torch.arange(12) < 9
    q, k = normal((1, 2, 12, 4), 0), normal((1, 2, 12, 4), 1)
    inputs = AttentionInputs(q, k, key_padding_mask=exists[None])
    visible = np.tri(12, dtype=bool) & exists.numpy() & exists.numpy()[:, None]
    weights = torch.from_numpy(attend(q[0], k[0], visible).weights)
    put = FILLS[fill]
    weights[:, ~exists] = 1 / 12 if put is None else put
    found = compare_snapshots(take_snapshot(inputs, Causal(), cells=cells), take_snapshot(weights, cells=cells))
    assert found.within, found.report()
    weights[1, 5] = weights[1, 5].roll(1)
    found = compare_snapshots(take_snapshot(inputs, Causal(), cells=cells), take_snapshot(weights, cells=cells))
    assert {cell.head for cell in found.cells} == {1}


@given(call=calls(torch.float32, values=False))
def test_scores_without_logits_say_what_is_hidden_all_the_same(call):
    """Their pattern does: weights of 0 are of a hidden key, or of one too faint for float32."""
    call = replace(call, inputs=replace(call.inputs, scale=40.0))
    result = attnviz.score(call.inputs, call.pattern, batch=call.batch, logits=False)
    found = compare_snapshots(take_snapshot(call.inputs, call.pattern, batch=call.batch), take_snapshot(result))
    assert not found.cells
    assert not {"queries", "entropy_share"} & {one.name for one in found.statistics}


def test_a_key_that_is_hidden_now_is_seen_however_faint_it_was():
    inputs = AttentionInputs(torch.tensor([[[0.0], [1.0]]]), torch.tensor([[[0.0], [-900.0]]]), scale=1.0)
    found = compare_snapshots(take_snapshot(inputs, Full()), take_snapshot(inputs, Full() & Causal()))
    assert [(list(cell.queries), list(cell.keys)) for cell in found.cells] == [([0], [1])]


# Pictures


@given(call=calls(values=False), data=st.data())
def test_a_picture_shows_each_key_that_became_visible_or_hidden(call, data):
    other = Call(call.inputs, data.draw(rules(call.inputs.T, call.inputs.S)), call.batch)
    cells = data.draw(st.integers(1, 9))
    before, after = (take_snapshot(side.inputs, side.pattern, batch=call.batch, cells=cells) for side in (call, other))
    found = compare_snapshots(before, after)
    for stored, now, apart in difference_maps(found):
        none = np.isnan(stored.cells) & np.isnan(now.cells)
        expected = np.nan_to_num(stored.cells) - np.nan_to_num(now.cells)
        np.testing.assert_array_equal(apart.cells, np.where(none, np.nan, expected))
    for cell in found.cells:
        assert math.isnan(cell.a) or math.isnan(cell.b) or abs(cell.a - cell.b) > cell.allowed


def test_a_picture_is_blank_where_nothing_is_compared():
    """A kernel's uniform row of a query that sees nothing."""
    exists = torch.tensor([[False, True, True]])
    inputs = AttentionInputs(normal((1, 1, 3, 2), 0), normal((1, 1, 3, 2), 1), key_padding_mask=exists)
    weights = torch.full((1, 3, 3), 1 / 3).double()
    ((_, _, apart),) = difference_maps(compare_snapshots(take_snapshot(inputs, Full()), take_snapshot(weights)))
    assert np.isnan(apart.cells[0]).all()
    np.testing.assert_allclose(apart.cells[1:, 0], -1 / 3)  # padding, which the kernel looks at
