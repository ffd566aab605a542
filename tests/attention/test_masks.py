"""Masks as libraries write them, a family: what they are of, how they are written, and where they are read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attnviz
from attnviz import AttentionInputs, InputError
from attnviz.attention.masks import with_mask
from attnviz.attention.patterns import Causal, Full, Masked
from attnviz.sources.arguments import inputs_of
from attnviz.sources.files import write_tensors
from tests import reference
from tests.strategies import normal

PAIRS = ("(T, S)", "(1, T, S)", "(B, T, S)", "(1, 1, T, S)", "(B, 1, T, S)", "(1, H, T, S)", "(B, H, T, S)")
PADDING = ("(B, S)", "(B, 1, S)", "(B, 1, 1, S)", "(1, 1, 1, S)")
WRITTEN = ("bool", "uint8", "int64", "added -inf", "added least", "added -1e4", "added half")


def shape_of(of: str, sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(1 if letter == "1" else sizes[letter] for letter in of.strip("()").split(", "))


def written(seen: Tensor, how: str) -> Tensor:
    """Flags as a library writes them."""
    kind, _, number = how.partition(" ")
    if kind != "added":
        return seen.to(getattr(torch, kind))
    dtype = torch.float16 if number == "half" else torch.float32
    hidden = {"-inf": -torch.inf, "-1e4": -1e4}.get(number, torch.finfo(dtype).min)
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, hidden)


@dataclass(frozen=True)
class Written:
    """A mask of some inputs, and what it is of."""

    sizes: dict[str, int]
    of: str
    seen: Tensor
    mask: Tensor

    @property
    def inputs(self) -> AttentionInputs:
        B, H, T, S = self.sizes.values()
        return AttentionInputs(normal((B, H, T, 2), 0), normal((B, H, S, 2), 1))

    def visible(self, batch: int, head: int) -> np.ndarray:
        """(T, S), in loops."""
        T, S = self.sizes["T"], self.sizes["S"]
        if self.of in PADDING:
            padding = self.seen.reshape(-1, S)[min(batch, len(self.seen) - 1)].tolist()
            return reference.visible_to_all(("full",), T, S, set(), padding)
        whole = self.seen[(None,) * (4 - self.seen.ndim)] if self.of != "(B, T, S)" else self.seen[:, None]
        own = whole[min(batch, len(whole) - 1), min(head, whole.shape[1] - 1)]
        return np.array([[bool(own[t, s]) for s in range(S)] for t in range(T)])

    def assert_read(self, inputs: AttentionInputs) -> None:
        for batch in range(self.sizes["B"]):
            for head in range(self.sizes["H"]):
                cells = attnviz.attention_map(inputs, head, batch=batch).cells
                np.testing.assert_array_equal(~np.isnan(cells), self.visible(batch, head))


@st.composite
def masks(draw: st.DrawFn, of: str) -> Written:
    """Sizes in which the shape means one thing."""
    sizes = {letter: draw(st.integers(1, 4)) for letter in "BHTS"}
    if of in PADDING:
        sizes["T"] += (
            1  # of one query, pairs and padding of that shape are the same, but for whether it is padding itself
        )
    if of in ("(T, S)", "(B, S)") and sizes["B"] == sizes["T"]:
        sizes["T"] += 1
    shape = shape_of(of, sizes)
    seen = torch.from_numpy(np.random.default_rng(draw(st.integers(0, 999))).random(shape) < 0.6)
    return Written(sizes, of, seen, written(seen, draw(st.sampled_from(WRITTEN))))


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("of", [*PAIRS, *PADDING])
@settings(max_examples=12)
@given(data=st.data())
def test_a_mask_is_what_its_shape_says(of, data):
    one = data.draw(masks(of))
    one.assert_read(with_mask(one.inputs, one.mask))


@pytest.mark.sweep(keep=6)
@pytest.mark.parametrize("how", WRITTEN)
@pytest.mark.parametrize("of", [*PAIRS, *PADDING])
def test_files_and_calls_read_masks_alike(tmp_path, of, how):
    sizes = {"B": 2, "H": 2, "T": 3, "S": 3}
    seen = torch.from_numpy(np.random.default_rng(0).random(shape_of(of, sizes)) < 0.6)
    one = Written(sizes, of, seen, written(seen, how))
    inputs = one.inputs
    write_tensors(
        tmp_path / "dump.safetensors", {"q": inputs.q, "k": inputs.k, "attention_mask": one.mask.contiguous()}
    )
    one.assert_read(attnviz.load(tmp_path / "dump.safetensors"))
    if (of, how) != ("(B, S)", "bool"):  # the global keys, in a call
        one.assert_read(inputs_of(inputs.q, inputs.k, one.mask))


def test_what_a_mask_adds_besides_is_a_bias():
    inputs = AttentionInputs(normal((2, 1, 3, 2), 0), normal((2, 1, 4, 2), 1))
    added = normal((3, 4), 2).masked_fill(torch.eye(3, 4, dtype=torch.bool), -torch.inf)
    read = with_mask(inputs, added)
    wanted = reference.attend(inputs.q[1], inputs.k[1], np.ones((3, 4)), bias=added.expand(1, 3, 4)).weights[0]
    np.testing.assert_allclose(np.nan_to_num(attnviz.attention_map(read, 0, batch=1).cells), wanted, atol=1e-12)
    of_keys = torch.tensor([[0.0, 0.5, -2.0, -torch.inf], [1.5, 0.0, 0.0, 0.0]])
    read = with_mask(inputs, of_keys)
    assert read.key_padding_mask.tolist() == [[True, True, True, False], [True] * 4]
    assert read.bias[:, 0, 0].tolist() == [[0.0, 0.5, -2.0, 0.0], [1.5, 0.0, 0.0, 0.0]]
    assert isinstance(read.pattern, Full)  # where nothing else says which keys are seen, all that exist are
    with pytest.raises(InputError, match="there is a bias too; give one bias"):
        with_mask(read, of_keys)


# Two meanings


def square(B: int) -> AttentionInputs:
    return AttentionInputs(normal((B, 1, B, 2), 0), normal((B, 1, 3, 2), 1))


def test_flags_that_may_be_of_pairs_or_of_padding_are_refused(tmp_path):
    for how in ("bool", "added -inf"):
        mask = written(torch.ones(3, 3, dtype=torch.bool).tril(), how)
        with pytest.raises(
            InputError, match=r"may be \(T, S\), which query sees .* or \(B, S\), which keys exist, as B = T"
        ):
            with_mask(square(3), mask)
    write_tensors(
        tmp_path / "dump.npz", {"q": square(3).q, "k": square(3).k, "attention_mask": torch.eye(3, dtype=torch.bool)}
    )
    with pytest.raises(InputError, match=r"dump.npz: attention_mask has shape \(3, 3\), which may be"):
        attnviz.load(tmp_path / "dump.npz")


def test_integers_of_that_shape_are_a_tokenizers_and_one_item_has_one_meaning():
    padding = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 1]])
    assert with_mask(square(3), padding).key_padding_mask.tolist() == padding.bool().tolist()
    assert isinstance(with_mask(square(1), torch.tensor([[True, True, False]])).pattern, Masked)


def test_a_dump_of_format_1_has_pairs(tmp_path):
    tensors = {"q": square(3).q, "k": square(3).k, "attention_mask": torch.eye(3, dtype=torch.bool)}
    write_tensors(tmp_path / "dump.npz", tensors, {"format": 1})
    read = attnviz.load(tmp_path / "dump.npz")
    np.testing.assert_array_equal(np.isnan(attnviz.attention_map(read, 0).cells), ~np.eye(3, dtype=bool))


@pytest.mark.parametrize("shape", [(3, 3), (1, 3), (3, 3, 3), (1, 1, 3), (3, 1, 1, 3), (1, 1, 3, 3)])
@pytest.mark.parametrize("extra", [{}, {"cross": True}])  # format 1 and format 2
def test_masks_of_ones_own_come_back_as_the_same_set(tmp_path, shape, extra):
    mask = torch.from_numpy(np.random.default_rng(1).random(shape) < 0.6)
    inputs = AttentionInputs(square(3).q, square(3).k, pattern=Masked(mask), **extra)
    attnviz.save(tmp_path / "dump.npz", inputs)
    read = attnviz.load(tmp_path / "dump.npz")
    for batch in range(3):
        cells = [attnviz.attention_map(each, 0, batch=batch).cells for each in (inputs, read)]
        np.testing.assert_array_equal(*cells)


def test_a_mask_limits_the_pattern_of_a_call():
    q = k = normal((1, 4, 2), 0)
    read = inputs_of(q, k, torch.tensor([[0, 1, 1, 1]]), pattern="causal")
    assert read.pattern == Causal()
    assert read.key_padding_mask.tolist() == [[False, True, True, True]]
    both = inputs_of(q, k, torch.ones(1, 1, 4, 4, dtype=torch.bool).triu(), pattern="causal")
    np.testing.assert_array_equal(~np.isnan(attnviz.attention_map(both, 0).cells), np.eye(4, dtype=bool))


BAD = {
    "another shape": (torch.ones(5, 6, dtype=torch.bool), r"mask has shape \(5, 6\), wanted \(T, S\) = \(3, 4\)"),
    "a rank more": (torch.ones(1, 1, 1, 3, 4, dtype=torch.bool), r"wanted \(T, S\)"),
    "heads of rank 3": (torch.ones(5, 3, 4, dtype=torch.bool), r"one a head is \(1, H, T, S\)"),
    "other numbers": (torch.full((3, 4), 2), "holds other numbers than 0 and 1"),
    "flags as floats": (torch.eye(3, 4), "holds 0 and 1 as float32"),
    "NaN": (torch.full((3, 4), torch.nan), r"has 12 values that are NaN or \+inf, first at index \(0, 0\)"),
    "+inf": (torch.full((3, 4), torch.inf), r"NaN or \+inf"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_mask(case):
    mask, says = BAD[case]
    with pytest.raises(InputError, match=says):
        with_mask(AttentionInputs(torch.ones(2, 5, 3, 2), torch.ones(2, 5, 4, 2)), mask)
