"""A map at every zoom: each level is the whole map reduced to its cells, wherever its tiles come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import attnviz
from attnviz import AttentionInputs, InputError, Pyramid
from attnviz.attention.patterns import Causal, Full, GlobalKeys, Local, Pattern, longformer
from attnviz.engine.head import RowScorer
from attnviz.engine.reducer import REDUCTIONS
from attnviz.maps.pyramid import TILE, halve
from tests.cases import small
from tests.strategies import normal

PATTERNS: dict[str, Pattern] = {
    "full": Full(),
    "causal": Causal(),
    "local": Local(40),
    "dilation": Local(9, 5),
    "global": GlobalKeys(),
    "longformer": longformer(20),
    "causal longformer": longformer(20) & Causal(),
}


def whole_map(inputs: AttentionInputs, pattern: Pattern, head: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (T, S) in float64, 0 where hidden, and which are visible; by the formula, all at once."""
    item = inputs.item(0)
    q, k = (inputs.q[0, head].double(), inputs.k[0, head // (inputs.H // inputs.H_kv)].double())
    t, s = torch.arange(inputs.T)[:, None], torch.arange(inputs.S)[None]
    visible = pattern.visible(t, s, item)
    if inputs.key_padding_mask is not None:
        exists = inputs.key_padding_mask[0]
        visible = visible & exists & (exists[:, None] if inputs.T == inputs.S else True)
    logits = (q @ k.T * item.scale).masked_fill(~visible, -torch.inf)
    return torch.softmax(logits, -1).nan_to_num().numpy(), visible.numpy()


def level_of(weights: np.ndarray, visible: np.ndarray, size: int, reduce: str) -> np.ndarray:
    """The whole map in cells of size x size."""
    rows, columns = (np.arange(0, n, size) for n in weights.shape)
    seen = np.logical_or.reduceat(np.logical_or.reduceat(visible, rows, 0), columns, 1)
    if reduce == "max":
        cells = np.maximum.reduceat(np.maximum.reduceat(weights, rows, 0), columns, 1)
    else:
        counts = np.add.reduceat(visible.any(1).astype(int), rows)
        cells = np.add.reduceat(np.add.reduceat(weights, rows, 0), columns, 1) / np.maximum(counts, 1)[:, None]
    return np.where(seen, cells, np.nan)


def stitched(pyramid: Pyramid, head: int, level: int, reduce: str) -> np.ndarray:
    rows, columns = pyramid.grid(level)
    return np.block([[pyramid.tile(head, level, r, c, reduce=reduce) for c in range(columns)] for r in range(rows)])


def check_every_level(inputs: AttentionInputs, pattern: Pattern, head: int = 0) -> None:
    pyramid = Pyramid.of(inputs, pattern)
    weights, visible = whole_map(inputs, pattern, head)
    for reduce in REDUCTIONS:
        for level in range(pyramid.levels):
            found = stitched(pyramid, head, level, reduce)
            expected = level_of(weights, visible, pyramid.cell(level), reduce)
            P, C = expected.shape
            assert found.dtype == np.float32
            np.testing.assert_allclose(found[:P, :C], expected, rtol=1e-5, atol=1e-6)
            assert np.isnan(found[P:]).all()
            assert np.isnan(found[:, C:]).all()


@pytest.fixture
def narrow(monkeypatch) -> None:
    """The one pass keeps no more than a tile's cells, so that finer levels are made when asked for."""
    monkeypatch.setattr("attnviz.maps.pyramid.OVERVIEW", TILE)


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("name", PATTERNS)
def test_every_level_is_the_whole_map_reduced(narrow, name):
    inputs = small(batch=1, tokens=700, global_positions=(0, 3, 350, 699))
    pyramid = Pyramid.of(inputs, PATTERNS[name])
    assert (pyramid.levels, pyramid.overview_level) == (3, 0)
    check_every_level(inputs, PATTERNS[name], head=3)


@pytest.mark.parametrize("name", ["causal", "longformer"])
def test_coarse_levels_come_from_the_one_pass(name, monkeypatch):
    inputs = small(batch=1, tokens=700, global_positions=(0, 699))
    assert Pyramid.of(inputs).overview_level == 2
    check_every_level(inputs, PATTERNS[name])
    pyramid = Pyramid.of(inputs, PATTERNS[name])
    pyramid.prepare(0)
    monkeypatch.setattr(RowScorer, "tile", None)  # nothing is computed again
    for level in range(3):
        stitched(pyramid, 0, level, "mass")


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(("T", "S"), [(300, 700), (700, 300), (1, 513), (513, 1)])
@pytest.mark.parametrize("pattern", [Full(), Causal()], ids=str)
def test_maps_that_are_not_square(narrow, T, S, pattern):
    check_every_level(AttentionInputs(normal((1, T, 3), 0).float(), normal((1, S, 3), 1).float()), pattern)


def test_queries_that_see_nothing_are_blank_at_every_level(narrow):
    padding = torch.arange(600) < 411
    q, k = (normal((1, 600, 3), seed).float() for seed in (0, 1))
    inputs = AttentionInputs(q, k, key_padding_mask=padding)
    check_every_level(inputs, Full())
    check_every_level(inputs, Causal())


@pytest.mark.sweep(keep=4)
@pytest.mark.parametrize("overview", [TILE, 2048])
@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize(("t", "s"), [(0, 0), (1023, 257), (511, 1023), (1036, 1036)])
def test_a_lone_bright_weight_is_at_its_cell_at_every_level(monkeypatch, overview, reduce, t, s):
    monkeypatch.setattr("attnviz.maps.pyramid.OVERVIEW", overview)
    T = 1037
    q, k = torch.zeros(1, T, 2), torch.zeros(1, T, 2)
    q[0, t, 0] = k[0, s, 0] = 20.0
    pyramid = Pyramid.of(AttentionInputs(q, k), Full())
    assert pyramid.levels == 4
    for level in range(4):
        size = pyramid.cell(level)
        cells = stitched(pyramid, 0, level, reduce)
        row, column = t // size, s // size
        assert np.unravel_index(np.nanargmax(cells), cells.shape) == (row, column)
        in_cell = min(size, T - row * size)  # the queries that share the cell
        expected = 1 if reduce == "max" else (1 + (in_cell - 1) * min(size, T - column * size) / T) / in_cell
        assert cells[row, column] == pytest.approx(expected, rel=1e-4)
        if reduce == "max":
            cells[row, column] = 0
            assert np.nanmax(cells) == pytest.approx(1 / T, rel=1e-4)


def test_a_tile_computes_only_the_rows_and_keys_it_shows(narrow, monkeypatch):
    inputs = small(batch=1, tokens=6000, head_dim=4)
    pyramid = Pyramid.of(inputs, Full())
    last = pyramid.levels - 1
    pyramid.prepare(0)
    rows_seen, keys_seen, read = set(), [], []
    tile, query = RowScorer.tile, attnviz.attention.inputs.AttentionItem.query

    def spied(self, q, rows, keys):
        rows_seen.update(rows)
        keys_seen.append((keys[0], keys[-1]))
        return tile(self, q, rows, keys)

    def spied_query(self, head, rows=None, **options):
        read.append(rows)
        return query(self, head, rows, **options)

    monkeypatch.setattr(RowScorer, "tile", spied)
    monkeypatch.setattr(attnviz.attention.inputs.AttentionItem, "query", spied_query)
    pyramid.tile(0, last, 2, 9)
    assert rows_seen == set(range(512, 768))
    assert read == [range(512, 768)]
    assert set(keys_seen) == {(2304, 2559)}


def test_one_pass_serves_every_tile_of_a_head(narrow, monkeypatch):
    pyramid = Pyramid.of(small(batch=1, tokens=700), Causal())
    done: list[int] = []
    overview = pyramid.prepare(1, progress=done.append)
    assert sum(done) == 700
    pyramid.tile(1, 2, 0, 0)
    assert pyramid.prepare(1, progress=done.append) is overview
    assert sum(done) == 700


def test_a_bound_on_memory_holds_for_tiles_too(narrow):
    inputs = small(batch=1, tokens=700)
    free, bound = Pyramid.of(inputs, Causal()), Pyramid.of(inputs, Causal(), memory=4_000_000)
    for level in range(3):
        one, other = stitched(free, 0, level, "max"), stitched(bound, 0, level, "max")
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=r"--memory 1,000 bytes is too small"):
        Pyramid.of(inputs, Causal(), memory=1_000).tile(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("tokens", "levels"), [(1, 1), (256, 1), (257, 2), (512, 2), (513, 3), (1024, 3), (1025, 4), (131_072, 10)]
)
def test_levels_halve_from_the_whole_map_in_one_tile_to_a_cell_a_weight(tokens, levels):
    q = torch.zeros(1, tokens, 1)
    pyramid = Pyramid.of(AttentionInputs(q, q), Full())
    assert pyramid.levels == levels
    assert pyramid.grid(0) == (1, 1)
    assert pyramid.cell(levels - 1) == 1
    assert [pyramid.cell(level) for level in range(levels)] == [2 ** (levels - 1 - level) for level in range(levels)]
    assert pyramid.grid(levels - 1) == (-(-tokens // TILE),) * 2


@pytest.mark.parametrize(
    ("tile", "says"),
    [
        ((4, 0, 0, 0), r"head 4 is out of range; there are 4 \(0 to 3\)"),
        ((-1, 0, 0, 0), "head -1 is out of range"),
        ((0, 3, 0, 0), r"level 3 is out of range; there are 3 \(0 to 2\)"),
        ((0, -1, 0, 0), "level -1 is out of range"),
        ((0, 1, 2, 0), r"tile \(2, 0\) is outside level 1, which has 2 x 2 tiles"),
        ((0, 2, 0, 3), r"tile \(0, 3\) is outside level 2, which has 3 x 3 tiles"),
        ((0, 2, -1, 0), r"tile \(-1, 0\) is outside level 2"),
    ],
)
def test_a_tile_that_is_not_there(tile, says):
    with pytest.raises(InputError, match=says):
        Pyramid.of(small(batch=1, tokens=700), Full()).tile(*tile)


def test_an_unknown_reduction():
    with pytest.raises(InputError, match="reduce 'mean' is not one of max, mass"):
        Pyramid.of(small(batch=1), Full()).tile(0, 0, 0, 0, reduce="mean")


# Halving


def test_halving_keeps_the_largest_and_an_odd_end_stands_alone():
    cells, counts = np.array([[1.0, 5, 2], [3, 4, np.nan], [np.nan, np.nan, 7]]), np.array([2, 2, 1])
    halved, together = halve(cells, counts, "max")
    np.testing.assert_array_equal(halved, [[5, 2], [np.nan, 7]])
    assert together.tolist() == [4, 1]


def test_halving_mass_weighs_rows_by_the_queries_they_stand_for():
    cells, counts = np.array([[0.5, 0.5], [0.0, 1.0], [np.nan, np.nan]]), np.array([1, 3, 0])
    halved, together = halve(cells, counts, "mass")
    np.testing.assert_array_equal(halved, [[1.0], [np.nan]])
    assert together.tolist() == [4, 0]
    np.testing.assert_array_equal(halve(np.array([[0.25], [0.75]]), np.array([1, 3]), "mass")[0], [[0.625]])
