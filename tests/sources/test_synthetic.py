"""Synthetic inputs: the same bits everywhere, and about normal."""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import pytest
import torch

import attnviz
from attnviz import InputError
from attnviz.attention.patterns import Causal
from attnviz.sources.synthetic import normal

# SHA-256 of the bytes of q, k and v, the first 16 digits. These must never change: dumps that people regenerate from
# a seed, and pictures that they compare, depend on them.
PINNED = {
    "float16": ("73abf5b58a6372a9", "98167e2f6ce2fe99", "c9a59087049739d7"),
    "bfloat16": ("cff332dddda2463e", "03ce3c0de45bcb91", "30aff43050cfc835"),
    "float32": ("f0f39a87520efc8c", "1e1198af6ca788d1", "7e100d77fe1befd2"),
    "float64": ("5f18bdfb2508f4a5", "9da2737dc5e40f56", "9bb43731bd717407"),
}


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("dtype", PINNED)
def test_a_seed_gives_the_bytes_it_always_gave(dtype):
    inputs = attnviz.synthesize(
        heads=4, kv_heads=2, tokens=7, head_dim=8, batch=2, global_positions=(0, 2), dtype=dtype, seed=3
    )
    assert (digest(inputs.q), digest(inputs.k), digest(inputs.v)) == PINNED[dtype]


def test_another_seed_gives_other_tensors():
    assert digest(attnviz.synthesize(seed=1).q) != digest(attnviz.synthesize(seed=2).q)


def test_q_k_and_v_have_nothing_to_do_with_each_other():
    inputs = attnviz.synthesize(heads=16, tokens=500)
    together = torch.stack([inputs.q.flatten(), inputs.k.flatten(), inputs.v.flatten()])
    correlation = torch.corrcoef(together) - torch.eye(3)
    assert correlation.abs().max() < 0.01


def test_numbers_are_about_standard_normal():
    numbers = normal((400_000,), seed=0, stream=0).double()
    assert abs(numbers.mean()) < 0.005
    assert abs(numbers.std() - 1) < 0.005
    assert abs((numbers**3).mean()) < 0.02  # as likely below 0 as above
    assert abs((numbers**4).mean() - 3 + 0.15) < 0.05  # eight terms: excess kurtosis -6/5/8
    assert abs((numbers.abs() < 1).double().mean() - 0.6827) < 0.01


def test_a_longer_tensor_begins_like_a_shorter_one():
    # Numbers are drawn in blocks of 2**20: the seam must not show.
    whole = normal(((1 << 20) + 5,), seed=0, stream=0)
    assert torch.equal(whole[:9], normal((9,), seed=0, stream=0))
    assert len(whole[-7:].unique()) == 7


def test_shapes_masks_and_labels_are_those_asked_for():
    inputs = attnviz.synthesize(
        heads=6, kv_heads=2, tokens=5, head_dim=3, batch=2, global_positions=(1, 4), dtype="float16"
    )
    assert (inputs.q.shape, inputs.k.shape, inputs.v.shape) == ((2, 6, 5, 3), (2, 2, 5, 3), (2, 2, 5, 3))
    assert inputs.q.dtype == torch.float16
    assert inputs.global_mask.tolist() == [[False, True, False, False, True]] * 2
    assert inputs.tokens == [["t0", "t1", "t2", "t3", "t4"]] * 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"heads": 0}, "heads is 0, wanted at least 1"),
        *(({name: 10**400}, "more memory than there is") for name in ("heads", "tokens", "head_dim", "batch")),
        ({"batch": -1}, "batch is -1"),
        ({"kv_heads": 3}, "8 heads, which is not a multiple of the 3 heads"),
        ({"global_positions": (0, 10)}, "global position 10 is out of range; there are 10 tokens"),
        ({"global_positions": (-1,)}, "global position -1 is out of range"),
        ({"dtype": "int8"}, "'int8' is not one of"),
    ],
)
def test_what_cannot_be_is_refused(changes, says):
    with pytest.raises(InputError, match=says):
        attnviz.synthesize(**changes)


# Planted structure

ALL = ("sink", "local", "induction", "needle")
P = 128  # cells of the maps below, of 16 positions each
# As PINNED above, of every structure in 40 tokens.
PLANTED = ("453c4fb4597aa0e9", "c16f679c7b73570a", "e3c882f34fee6109")


@cache
def planted(*structure: str) -> np.ndarray:
    """(P, P) cells of the largest weights of a causal map of 2,048 tokens."""
    inputs = attnviz.synthesize(heads=1, tokens=16 * P, structure=structure)
    return np.nan_to_num(attnviz.attention_map(inputs, 0, Causal(), pixels=P).cells)


def places(name: str) -> np.ndarray:
    """(P, P) bool: the cells where a structure is, and the neighbors that its pairs may reach over into."""
    row, column = np.indices((P, P))
    return {
        "sink": column == 0,
        "local": (row - column >= 0) & (row - column <= 1),
        "induction": (row >= P // 2) & (abs(row - P // 2 - column) <= 1),
        "needle": (row == 3 * P // 4) & (column == 16 * P // 3 // 16),
    }[name]


def along(name: str, cells: np.ndarray) -> np.ndarray:
    """The brightest cell of a structure in each row of cells that has it."""
    there = places(name)
    return np.where(there, cells, 0).max(1)[there.any(1)]


@pytest.mark.parametrize("name", ALL)
def test_a_structure_planted_alone_is_all_there_is(name):
    cells = planted(name)
    assert along(name, cells).min() > 0.1
    rows = places(name).any(1)
    assert np.where(places(name), 0, cells)[rows].max() < 0.5 * along(name, cells).min()


@pytest.mark.parametrize("name", ["sink", "local", "induction"])
def test_structures_planted_together_are_all_seen(name):
    bright = along(name, planted(*ALL))
    assert np.median(bright) > 0.3
    assert (bright > 0.02).mean() > 0.8


def test_a_needle_is_a_lone_cell_with_a_weight_near_1():
    cells = planted(*ALL)
    assert cells[places("needle")] == pytest.approx([1], abs=0.01)
    elsewhere = ~np.logical_or.reduce([places(name) for name in ALL])
    assert cells[elsewhere].max() < 0.01


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("tokens", [32, 500, 2048])
def test_a_needle_is_found_whatever_else_is_planted(tokens):
    for seed in range(5):
        inputs = attnviz.synthesize(heads=4, kv_heads=2, tokens=tokens, structure=ALL, seed=seed)
        weights = attnviz.score(inputs, Causal()).weights
        assert weights[:, 3 * tokens // 4, tokens // 3].min() > 0.99


def test_planted_structure_is_in_every_head_and_item():
    inputs = attnviz.synthesize(heads=4, kv_heads=2, tokens=64, batch=2, structure=("sink",))
    for item in range(2):
        assert attnviz.score(inputs, Causal(), batch=item).weights[:, :, 0].min() > 0.9


def test_planted_structure_has_the_bytes_it_always_had():
    inputs = attnviz.synthesize(heads=4, kv_heads=2, tokens=40, head_dim=32, structure=ALL, seed=3)
    assert (digest(inputs.q), digest(inputs.k), digest(inputs.v)) == PLANTED


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"structure": ("sinks",)}, "structure 'sinks' is not one of sink, local, induction, needle"),
        ({"structure": ("",)}, "structure '' is not one of"),
        ({"structure": ("sink", "local", "sink")}, "structure 'sink' is given more than once"),
        ({"structure": ("sink",), "head_dim": 31}, "a head_dim of 32 or more and 8 tokens or more; given 31 and 10"),
        ({"structure": ("sink",), "tokens": 7, "global_positions": (0,)}, "given 64 and 7"),
    ],
)
def test_a_structure_that_cannot_be_planted_is_refused(changes, says):
    with pytest.raises(InputError, match=says):
        attnviz.synthesize(**changes)
