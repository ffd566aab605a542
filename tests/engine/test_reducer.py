"""Maps reduced while they stream: every path through the tiles gives the whole map, reduced, and its denominators."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attnviz
from attnviz import AttentionInputs, InputError
from attnviz.attention.patterns import Causal, Full, GlobalKeys, Local, longformer
from attnviz.base.bins import bin_edges
from attnviz.engine.head import RowScorer
from attnviz.engine.products import LINEAR, PLAIN, has_linear
from attnviz.engine.reducer import REDUCTIONS, reduce_block, reduce_map, row_groups
from attnviz.engine.tiles import TileSize
from tests import reference
from tests.cases import small
from tests.strategies import DTYPES, Call, calls, normal


def edges_of(T: int, S: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    return bin_edges(range(T), min(T, pixels)), bin_edges(range(S), min(S, pixels))


# Any call, in tiles of any size


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_both_reductions_of_tiny_tiles_are_those_of_the_whole_map(dtype, data):
    call = data.draw(calls(DTYPES[dtype], values=False))
    tile = TileSize(data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5)))
    pixels, head = data.draw(st.integers(1, 9)), data.draw(st.integers(0, call.inputs.H - 1))
    T, S = call.inputs.T, call.inputs.S
    item = call.inputs.item(call.batch)
    found = reduce_map(item, call.pattern, head, *edges_of(T, S, pixels), reductions=REDUCTIONS, tile=tile)
    weights, visible = call.expected().weights[head], call.visible(head)
    for reduce, cells in (("max", found.max), ("mass", found.mass)):
        expected = reference.picture(weights, visible, range(T), range(S), pixels, reduce)
        np.testing.assert_allclose(cells, expected, rtol=0, atol=4 * call.tolerance)
    close = 1e-11 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(found.log_sum_exp, call.log_sum_exp(head), rtol=close, atol=close)
    row_edges = edges_of(T, S, pixels)[0]
    assert found.counts.tolist() == np.add.reduceat(visible.any(1).astype(int), row_edges[:-1]).tolist()


@given(call=calls(values=False), data=st.data())
def test_a_part_of_a_map_with_known_denominators_is_that_part_of_the_whole(call, data):
    T, S = call.inputs.T, call.inputs.S
    tile = TileSize(data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5)))
    first, across = data.draw(st.integers(0, T - 1)), data.draw(st.integers(0, S - 1))
    rows, keys = (
        range(first, data.draw(st.integers(first + 1, T))),
        range(across, data.draw(st.integers(across + 1, S))),
    )
    item = call.inputs.item(call.batch)
    known = torch.from_numpy(call.log_sum_exp(0)[first : rows.stop])
    found = reduce_map(
        item,
        call.pattern,
        0,
        bin_edges(rows, len(rows)),
        bin_edges(keys, len(keys)),
        reductions=REDUCTIONS,
        tile=tile,
        denominators=torch.stack([known, torch.ones_like(known)], dim=1),
    )
    expected = reference.picture(call.expected().weights[0], call.visible(), rows, keys, 99, "max")
    np.testing.assert_allclose(found.max, expected, rtol=0, atol=1e-11)
    np.testing.assert_allclose(found.mass, expected, rtol=0, atol=1e-11)  # a cell a weight: both are the weight


@given(call=calls(values=False), data=st.data())
def test_rows_of_mass_sum_to_one_and_blank_rows_are_blank(call, data):
    T, S = call.inputs.T, call.inputs.S
    inputs = replace(call.inputs, sinks=None)  # a sink takes a share of its own
    edges = edges_of(T, S, data.draw(st.integers(1, 9)))
    found = reduce_map(inputs.item(call.batch), call.pattern, 0, *edges, reductions=("mass",), tile=TileSize(3, 2))
    sees = found.counts > 0
    np.testing.assert_allclose(np.nansum(found.mass[sees], axis=1), 1, rtol=1e-11)
    assert np.isnan(found.mass[~sees]).all()
    assert found.max is None


def test_a_sink_takes_its_share_of_the_mass():
    inputs = replace(small(batch=1, dtype="float64"), sinks=torch.full((4,), 2.0, dtype=torch.float64))
    call = Call(inputs, ("causal",), 0)
    edges = edges_of(6, 6, 6)
    found = reduce_map(inputs.item(0), Causal(), 0, *edges, reductions=("mass",))
    left = np.exp(2.0 - call.log_sum_exp(0))
    np.testing.assert_allclose(np.nansum(found.mass, axis=1), 1 - left, rtol=1e-12)
    assert left.min() > 0.01


# Softmax: the bound that costs nothing, and the running maximum where it is too high


@pytest.fixture
def softmaxes(monkeypatch) -> list[str]:
    """What each pass over a block's tiles subtracts from logits: ``bound`` or ``running``."""
    from attnviz.engine.tiles import BlockTiles

    passes: list[str] = []
    run = BlockTiles.run

    def spied(self):
        passes.append("running" if self.running else "bound")
        return run(self)

    monkeypatch.setattr(BlockTiles, "run", spied)
    return passes


FOUR_BY_THREE = TileSize(4, 3)


def checked(inputs: AttentionInputs, rule: tuple, *, pixels: int = 7, tile: TileSize = FOUR_BY_THREE) -> None:
    """Compares both reductions with the reference."""
    call, T, S = Call(inputs, rule, 0), inputs.T, inputs.S
    found = reduce_map(inputs.item(0), call.pattern, 0, *edges_of(T, S, pixels), reductions=REDUCTIONS, tile=tile)
    for reduce, cells in (("max", found.max), ("mass", found.mass)):
        expected = reference.picture(call.expected().weights[0], call.visible(), range(T), range(S), pixels, reduce)
        np.testing.assert_allclose(cells, expected, rtol=0, atol=1e-6 if inputs.q.dtype == torch.float32 else 1e-11)
    np.testing.assert_allclose(found.log_sum_exp, call.log_sum_exp(0), rtol=1e-5, atol=1e-5)


def long_orthogonal_key(dtype: torch.dtype, size: float, at: int = 5) -> AttentionInputs:
    """Ordinary attention, and one key of length ``size`` at right angles to every query: |q| |k| says nothing."""
    q, k = normal((1, 12, 4), 0), normal((1, 12, 4), 1)
    q[..., 3] = 0
    k[0, at] = torch.tensor([0.0, 0.0, 0.0, size])
    return AttentionInputs(q.to(dtype), k.to(dtype))


@pytest.mark.parametrize("rule", [("full",), ("causal",), ("local", 3, 1), ("local", 2, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [1e3, 1e6])
def test_a_bound_far_above_every_logit_gives_way_to_the_running_maximum(softmaxes, rule, dtype, size):
    checked(long_orthogonal_key(dtype, size), rule)
    assert "running" in softmaxes


def test_the_bound_serves_where_it_is_near(softmaxes):
    checked(small(batch=1, tokens=20), ("full",))
    checked(small(batch=1, tokens=20), ("causal",))
    assert set(softmaxes) == {"bound"}


def test_a_block_whose_bound_is_too_high_is_given_up_after_one_tile(softmaxes, monkeypatch):
    tiles: list[int] = []
    tile = RowScorer.tile
    monkeypatch.setattr(
        RowScorer, "tile", lambda self, q, rows, keys: tiles.append(len(keys)) or tile(self, q, rows, keys)
    )
    checked(long_orthogonal_key(torch.float32, 1e6, at=11), ("full",), tile=TileSize(12, 3))
    assert softmaxes == ["bound", "running"]
    assert tiles == [3] + [3] * 4


def test_blocks_before_and_after_one_whose_bound_is_too_high_keep_theirs(softmaxes):
    q, k = normal((1, 12, 4), 0), normal((1, 12, 4), 1)
    q[..., 3], k[0, 5] = 0, torch.tensor([0.0, 0.0, 0.0, 15.0])
    q[0, 4:8] *= 30
    inputs = AttentionInputs(q, k)
    checked(inputs, ("full",), pixels=3, tile=TileSize(4, 3))
    assert softmaxes == ["bound", "bound", "running", "bound"]


@pytest.mark.parametrize("given", ["bias", "falling slope"])
def test_what_may_exceed_the_bound_runs_without_it(softmaxes, given):
    changes = (
        {"bias": torch.full((1, 1, 1, 20), 500.0)} if given == "bias" else {"alibi_slopes": torch.full((4,), -50.0)}
    )
    checked(replace(small(batch=1, tokens=20, dtype="float64"), **changes), ("causal",))
    assert set(softmaxes) == {"running"}


@given(call=calls(values=False), data=st.data())
def test_the_bound_is_not_below_any_logit(call, data):
    head = data.draw(st.integers(0, call.inputs.H - 1))
    item = call.inputs.item(call.batch)
    scorer = RowScorer(item, Full(), Full().reach(item), head)
    bound = scorer.bound(scorer.query(range(item.T)))
    logits = scorer.logits(range(item.T), torch.empty(item.T, item.S, dtype=torch.float64))
    assert bound is None or bool((logits.amax(1) <= bound).all())
    assert (bound is None) == (call.inputs.bias is not None)


@given(call=calls(values=False))
def test_with_and_without_the_bound_a_map_is_the_same(call):
    edges, item = edges_of(call.inputs.T, call.inputs.S, 5), call.inputs.item(call.batch)
    options = {"reductions": REDUCTIONS, "tile": TileSize(3, 2)}
    usual = reduce_map(item, call.pattern, 0, *edges, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowScorer, "bound", lambda self, q: None)
        other = reduce_map(item, call.pattern, 0, *edges, **options)
    for name in ("max", "mass", "log_sum_exp"):
        np.testing.assert_allclose(getattr(usual, name), getattr(other, name), rtol=1e-11, atol=1e-12)


# Where rows are cut


@given(data=st.data())
def test_groups_of_rows_are_whole_bins_or_parts_of_one(data):
    T = data.draw(st.integers(1, 60))
    edges, size = bin_edges(range(T), data.draw(st.integers(1, T))), data.draw(st.integers(1, 20))
    groups = list(row_groups(edges, size))
    assert [t for group in groups for t in group] == list(range(T))
    for group in groups:
        inside = [edge for edge in edges.tolist() if group.start < edge < group.stop]
        assert 1 <= len(group) <= size
        assert not inside or {group.start, group.stop} <= set(edges.tolist())


@given(data=st.data())
def test_groups_of_a_share_of_whole_groups_are_those_of_the_whole(data):
    T = data.draw(st.integers(1, 60))
    edges, size = bin_edges(range(T), data.draw(st.integers(1, T))), data.draw(st.integers(1, 20))
    groups = list(row_groups(edges, size))
    cuts = [group.stop for group in groups if group.stop in edges]
    cut = data.draw(st.sampled_from(cuts))
    parts = [edges[edges <= cut], edges[edges >= cut]]
    assert [group for part in parts if len(part) > 1 for group in row_groups(part, size)] == groups


# Where keys are cut


@given(data=st.data())
def test_tiles_are_even_runs_of_keys_of_whole_bins_where_bins_are_small(data):
    T, size = data.draw(st.integers(1, 400)), data.draw(st.integers(8, 64))
    edges = bin_edges(range(T), data.draw(st.integers(1, T)))
    made: list[range] = []
    tile = RowScorer.tile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowScorer, "tile", lambda self, q, rows, keys: made.append(keys) or tile(self, q, rows, keys))
        reduce_map(
            small(batch=1, tokens=T, global_positions=(0,)).item(0),
            Full(),
            0,
            edges[[0, -1]],
            edges,
            tile=TileSize(T, size),
        )
    assert [key for keys in made for key in keys] == list(range(T))
    assert len(made) == -(-T // size)
    assert max(map(len, made)) <= size + size // 8
    if np.diff(edges).max() <= size // 8:
        assert {keys.stop for keys in made} <= set(edges.tolist())


# A bound on memory


def test_tiles_fit_the_bound_and_grow_with_it():
    item = small(batch=1, tokens=5000, head_dim=2).item(0)
    sizes = [TileSize.fitting(item, (100, 100), memory=memory) for memory in (300_000, 1 << 20, 1 << 22, None)]
    areas = [tile.rows * tile.keys for tile in sizes]
    assert areas == sorted(set(areas))
    for tile, memory in zip(sizes, (300_000, 1 << 20, 1 << 22), strict=False):
        assert tile.rows * tile.keys * item.compute_dtype.itemsize < memory


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("memory", [200_000, 1_000_000])
def test_no_tile_made_is_larger_than_the_bound_allows(monkeypatch, memory):
    inputs = small(batch=1, tokens=3000, head_dim=4)
    made: list[int] = []
    tile = RowScorer.tile
    monkeypatch.setattr(
        RowScorer, "tile", lambda self, q, rows, keys: made.append(len(rows) * len(keys)) or tile(self, q, rows, keys)
    )
    whole = attnviz.attention_map(inputs, 0, Causal(), pixels=50)
    largest = max(made)
    made.clear()
    bounded = attnviz.attention_map(inputs, 0, Causal(), pixels=50, memory=memory)
    assert 4 * max(made) < memory < 4 * largest
    np.testing.assert_allclose(bounded.cells, whole.cells, rtol=1e-5, atol=1e-6)


@given(data=st.data())
def test_the_least_bound_that_an_error_names_works_and_one_byte_less_does_not(data):
    item = small(batch=1, tokens=data.draw(st.integers(1, 300)), head_dim=2, global_positions=(0,)).item(0)
    cells = (data.draw(st.integers(1, 2000)), data.draw(st.integers(1, 2000)))
    reductions = data.draw(st.integers(1, 2))
    with pytest.raises(InputError, match="too small for one row") as refused:
        TileSize.fitting(item, cells, reductions=reductions, memory=1)
    least = int(str(refused.value).split("least that works is ")[1].split(", or")[0].replace(",", ""))
    assert TileSize.fitting(item, cells, reductions=reductions, memory=least).rows == 1
    with pytest.raises(InputError, match="too small"):
        TileSize.fitting(item, cells, reductions=reductions, memory=least - 1)


def test_a_device_that_runs_out_of_memory_says_which_bound_to_lower(monkeypatch):
    def full(self, q, rows, keys):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(RowScorer, "tile", full)
    inputs = small(batch=1)
    with pytest.raises(
        InputError, match=r"cpu: out of memory with tiles of 768 x 2048; no --memory was given: give one"
    ):
        attnviz.attention_map(inputs, 0, Full())
    with pytest.raises(InputError, match=r"--memory was 1,000,000 bytes: lower it$"):
        attnviz.attention_map(inputs, 0, Full(), memory=1_000_000)


# Parts


def test_progress_counts_every_query_once():
    for pattern in (Full(), Causal(), Local(3), Local(2, 4), longformer(3), GlobalKeys()):
        done: list[int] = []
        attnviz.attention_map(small(batch=1, tokens=1700), 0, pattern, pixels=30, progress=done.append)
        assert sum(done) == 1700
        assert len(done) > 1


@given(data=st.data())
def test_blocks_of_values_fall_into_the_cells_that_hold_their_positions(data):
    T, S = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    row_edges, column_edges = edges_of(T, S, data.draw(st.integers(1, 12)))
    values = normal((T, S), data.draw(st.integers(0, 999))).numpy()
    cells = np.full((len(row_edges) - 1, len(column_edges) - 1), -np.inf)
    cut = data.draw(st.integers(0, T))
    for rows in (np.arange(cut), np.arange(cut, T)):
        if len(rows):
            reduce_block(cells, values[rows], rows, np.arange(S), row_edges, column_edges)
    expected = reference.picture(values, np.ones((T, S), dtype=bool), range(T), range(S), 12, "max")
    whole = [[values[a:b, c:d].max() for c, d in pairwise(column_edges)] for a, b in pairwise(row_edges)]
    np.testing.assert_array_equal(cells, whole)
    assert cells.shape != expected.shape or np.array_equal(cells, expected)


# What a picture must not lose, by every road through the tiles


def ends_of(edges: np.ndarray) -> list[int]:
    """The first and the last position of every bin."""
    return sorted({int(at) for edge in pairwise(edges) for at in (edge[0], edge[1] - 1)})


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("operator", [PLAIN, LINEAR] if has_linear() else [PLAIN])
@pytest.mark.parametrize("name", ["full", "causal", "window"])
@settings(max_examples=10)
@given(data=st.data())
def test_a_lone_bright_weight_is_in_its_cell_wherever_it_is(name, operator, data):
    T = data.draw(st.integers(2, 90))
    edges = bin_edges(range(T), data.draw(st.integers(1, T)))
    t, s = data.draw(st.sampled_from(ends_of(edges))), data.draw(st.sampled_from(ends_of(edges)))
    if name != "full":
        t, s = max(t, s), min(t, s)
    size = data.draw(st.sampled_from([3.0, 20.0, 300.0]))  # with and without a subtracted peak
    q, k = torch.zeros(1, T, 4), torch.zeros(1, T, 4)
    q[0, t, 0], k[0, s, 0] = size, 2 * size
    pattern = {"full": Full(), "causal": Causal(), "window": Local(max(1, t - s)) & Causal()}[name]
    tile = TileSize(data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40)), operator)
    found = reduce_map(AttentionInputs(q, k).item(), pattern, 0, edges, edges, reductions=REDUCTIONS, tile=tile)
    others = {"full": T, "causal": t + 1, "window": min(t, max(1, t - s)) + 1}[name] - 1
    bright = 1 / (1 + others * math.exp(-(size**2)))
    row, column = (int(np.searchsorted(edges, at, side="right")) - 1 for at in (t, s))
    assert found.max[row, column] >= bright - 1e-6
    if name == "full":  # the rows that first see few keys have bright weights too
        assert found.max[row, column] == pytest.approx(bright, abs=1e-6)
        assert np.sort(found.max, axis=None)[:-1].max(initial=0) <= 1 / T + 1e-6
    assert found.mass[row, column] >= (bright - 1e-6) / found.counts[row]


@pytest.mark.parametrize("operator", [PLAIN, LINEAR] if has_linear() else [PLAIN])
@pytest.mark.parametrize("rule", [("full",), ("causal",), ("local", 3, 1)], ids=str)
def test_logits_of_80_either_way_and_rows_that_see_nothing(rule, operator):
    inputs = AttentionInputs(normal((1, 40, 4), 0).float(), normal((1, 40, 4), 1).float())
    logits = (inputs.q[0, 0] @ inputs.k[0, 0].T / 2).abs().max()
    at = torch.arange(40)
    inputs = replace(inputs, q=inputs.q * (80 / logits), query_padding_mask=((at < 5) | (at > 20))[None])
    call, edges = Call(inputs, rule, 0), edges_of(40, 40, 7)
    found = reduce_map(inputs.item(), call.pattern, 0, *edges, reductions=REDUCTIONS, tile=TileSize(16, 5, operator))
    for reduce, cells in (("max", found.max), ("mass", found.mass)):
        expected = reference.picture(call.expected().weights[0], call.visible(), range(40), range(40), 7, reduce)
        np.testing.assert_allclose(cells, expected, rtol=0, atol=5e-5)  # 8 u L of a weight
    assert np.isnan(found.log_sum_exp[5:21]).all()
    np.testing.assert_allclose(found.log_sum_exp, call.log_sum_exp(0), rtol=1e-6, atol=5e-5)


@pytest.mark.parametrize("size", [1.0, 40.0], ids=["nothing subtracted", "a peak subtracted"])
@given(data=st.data())
@settings(max_examples=10)
def test_two_runs_give_the_same_bits(size, data):
    T, seed = data.draw(st.integers(1, 400)), data.draw(st.integers(0, 99))
    q, k = normal((1, T, 8), seed).float() * size, normal((1, T, 8), seed + 1).float()
    edges, pattern = edges_of(T, T, 20), data.draw(st.sampled_from([Full(), Causal(), longformer(3)]))
    mask = torch.arange(T) % 7 == 0
    made = [
        reduce_map(AttentionInputs(q, k, global_mask=mask).item(), pattern, 0, *edges, reductions=REDUCTIONS)
        for _ in range(2)
    ]
    for name in ("max", "mass", "denominators"):
        np.testing.assert_array_equal(*(getattr(one, name) for one in made))


def test_where_no_power_can_vanish_nothing_is_subtracted():
    for size, raw in ((1.0, True), (200.0, False)):
        item = AttentionInputs(normal((1, 30, 4), 0).float() * size, normal((1, 30, 4), 1).float()).item()
        found = reduce_map(item, Full(), 0, *edges_of(30, 30, 30))
        assert bool((found.denominators[:, 0] == 0).all()) is raw


@pytest.mark.parametrize("sink", [-200.0, 0.0, 60.0, 200.0])
@pytest.mark.parametrize("size", [1.0, 200.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_sink_of_any_size_beside_logits_of_any_size(dtype, size, sink):
    q, k = (normal((1, 20, 4), seed).to(dtype) for seed in range(2))
    inputs = AttentionInputs(q * size, k, sinks=torch.tensor([sink], dtype=dtype))
    call, edges = Call(inputs, ("causal",), 0), edges_of(20, 20, 20)
    found = reduce_map(inputs.item(), Causal(), 0, *edges, tile=TileSize(7, 6))
    expected = reference.picture(call.expected().weights[0], call.visible(), range(20), range(20), 20, "max")
    np.testing.assert_allclose(found.max, expected, rtol=1e-4 if dtype == torch.float32 else 1e-11, atol=1e-30)
