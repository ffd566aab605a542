"""Packed sequences and paged keys: each sequence a batch item, with the weights it has by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import attnviz
from attnviz import AttentionInputs, InputError
from attnviz.sources.files import write_tensors
from tests import reference
from tests.strategies import normal

H, H_KV, D = 4, 2, 3


def sequences(counts: list[tuple[int, int]], seed: int = 0) -> list[dict[str, Tensor]]:
    """q (T, H, D), k and v (S, H_kv, D) of each."""
    sizes = {"q": H, "k": H_KV, "v": H_KV}
    return [
        {
            name: normal((n[name != "q"], heads, D), seed + 10 * item + place)
            for place, (name, heads) in enumerate(sizes.items())
        }
        for item, n in enumerate(counts)
    ]


def ends(counts: list[int]) -> Tensor:
    return torch.tensor([0, *np.cumsum(counts)], dtype=torch.int32)


def packed(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    held = {name: torch.cat([part[name] for part in parts]) for name in "qkv"}
    held |= {f"cu_seqlens_{name}": ends([len(part[name]) for part in parts]) for name in "qk"}
    return held


def paged(parts: list[dict[str, Tensor]], size: int, seed: int = 0) -> dict[str, Tensor]:
    """Keys in blocks of a cache, in any order, what is beyond a sequence's last key left as it was."""
    rng = np.random.default_rng(seed)
    needed = [-(-len(part["k"]) // size) for part in parts]
    order = rng.permutation(sum(needed) + 3).tolist()
    table = torch.full((len(parts), max([1, *needed])), -1, dtype=torch.int32)
    held = {name: normal((len(order), size, H_KV, D), 99) for name in "kv"}
    for item, part in enumerate(parts):
        for n in range(needed[item]):
            table[item, n] = block = order.pop()
            for name in "kv":
                rows = part[name][n * size : (n + 1) * size]
                held[name][block, : len(rows)] = rows
    return held | {"block_table": table, "cache_seqlens": torch.tensor([len(part["k"]) for part in parts])}


def check(inputs: Any, parts: list[dict[str, Tensor]]) -> None:
    """Each item has the causal weights and the context of its sequence alone, and nothing of padding."""
    assert len(parts) == inputs.B
    for item, part in enumerate(parts):
        q, k, v = (part[name].transpose(0, 1) for name in "qkv")
        T, S = q.shape[1], k.shape[1]
        weights = attnviz.score(inputs, "causal", batch=item).weights
        context = attnviz.context(inputs, "causal", batch=item)
        assert bool(torch.isnan(weights[:, T:]).all())
        assert not bool(weights[:, :T, S:].nan_to_num().any())
        if not T or not S:
            continue
        wanted = reference.attend(q, k, reference.visible_to_all(("causal",), T, S, set()), v=v)
        np.testing.assert_allclose(weights[:, :T, :S], wanted.weights, atol=1e-12)
        np.testing.assert_allclose(context[:, :T], wanted.context, atol=1e-12)


counts = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=4).filter(
    lambda pairs: any(t for t, _ in pairs) and any(s for _, s in pairs)
)


@given(counts, st.booleans())
def test_packed_sequences_are_items(tmp_path_factory, pairs, heads_first):
    parts = sequences(pairs)
    held = packed(parts)
    if heads_first:
        held |= {name: held[name].transpose(0, 1).contiguous() for name in "qkv"}
    path = tmp_path_factory.mktemp("packed") / "dump.safetensors"
    write_tensors(path, held)
    check(attnviz.load(path, layout="htd" if heads_first else None), parts)


@given(counts, st.integers(1, 4), st.booleans())
def test_paged_keys_are_those_of_their_sequences(tmp_path_factory, pairs, size, packed_q):
    pairs = pairs if packed_q else [(max(t for t, _ in pairs), s) for _, s in pairs]
    parts = sequences(pairs)
    held = paged(parts, size)
    if packed_q:
        held |= {"q": torch.cat([part["q"] for part in parts]), "cu_seqlens_q": ends([t for t, _ in pairs])}
    else:
        held["q"] = torch.stack([part["q"] for part in parts])
    path = tmp_path_factory.mktemp("paged") / "dump.npz"
    write_tensors(path, held)
    check(attnviz.load(path, layout=None if packed_q else "bthd"), parts)


def test_names_and_labels_of_packed_sequences(tmp_path):
    parts = sequences([(2, 2), (4, 4)])
    held = packed(parts)
    cuts = held.pop("cu_seqlens_q")
    del held["cu_seqlens_k"]
    write_tensors(tmp_path / "dump.npz", held | {"lengths": cuts}, {"tokens": [["a", "b"], ["c", "d", "e", "f"]]})
    inputs = attnviz.load(tmp_path / "dump.npz", names={"cu_seqlens_q": "lengths"})
    check(inputs, parts)
    assert inputs.tokens == [["a", "b", "", ""], ["c", "d", "e", "f"]]
    assert isinstance(inputs, AttentionInputs)
    attnviz.save(tmp_path / "again.npz", inputs)
    check(attnviz.load(tmp_path / "again.npz"), parts)


@pytest.mark.parametrize("name", ["cu_seqlens", "attn.cu_seqlens_q_padded"])
def test_packed_sequences_are_never_read_as_one(tmp_path, name):
    held = packed(sequences([(2, 2), (4, 4)]))
    del held["cu_seqlens_k"]
    held[name] = held.pop("cu_seqlens_q")
    write_tensors(tmp_path / "dump.npz", held)
    with pytest.raises(
        InputError, match=rf"holds {name}, so q and k are of several sequences, packed; say so: --cu-seqlens-q"
    ):
        attnviz.load(tmp_path / "dump.npz")
    assert attnviz.load(tmp_path / "dump.npz", names={"cu_seqlens_q": name}).B == 2


@pytest.mark.parametrize(
    ("changes", "layout", "says"),
    [
        (
            {"cu_seqlens_q": torch.tensor([0, 2, 5])},
            None,
            r"cu_seqlens_q is \[0, 2, 5\], wanted B \+ 1 ascending numbers from 0 to the 6",
        ),
        ({"cu_seqlens_q": torch.tensor([0, 4, 2, 6])}, None, "ascending"),
        ({"cu_seqlens_q": torch.tensor([0.0, 2.0, 6.0])}, None, "wanted whole numbers of rank 1"),
        ({"cu_seqlens_k": torch.tensor([0, 6])}, None, "2 sequences of queries and 1 of keys"),
        ({"cu_seqlens_q": None}, None, "cu_seqlens_k is given without cu_seqlens_q"),
        ({"bias": torch.zeros(H, 6, 6)}, None, "bias stands beside cu_seqlens_q"),
        ({"block_table": torch.zeros(2, 1, dtype=torch.int64)}, None, "block_table and cache_seqlens go together"),
        ({"q": torch.zeros(1, 6, H, D, dtype=torch.float64)}, None, r"packed sequences are \(tokens, H, D\)"),
        ({}, "bthd", r"packed sequences are \(tokens, H, D\)"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(tmp_path, changes, layout, says):
    held = packed(sequences([(2, 2), (4, 4)])) | changes
    write_tensors(tmp_path / "dump.npz", {name: tensor for name, tensor in held.items() if tensor is not None})
    with pytest.raises(InputError, match=says):
        attnviz.load(tmp_path / "dump.npz", layout=layout)


def test_a_table_that_names_no_block_is_refused(tmp_path):
    parts = sequences([(2, 3), (2, 2)])
    held = paged(parts, 2) | {"q": torch.stack([part["q"] for part in parts])}
    held["block_table"][0, 1] = 77
    write_tensors(tmp_path / "dump.npz", held)
    with pytest.raises(InputError, match=r"batch item 0 has 3 keys in blocks \[\d, 77\]; k has 6 blocks of 2"):
        attnviz.load(tmp_path / "dump.npz", layout="bthd")
