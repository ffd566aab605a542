"""Blocks, masks and functions of pairs that somebody gives, and FlexAttention's own word for what it sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import attnviz
from attnviz import AttentionInputs, InputError
from attnviz.attention.names import pattern_of
from attnviz.attention.pairs import of_block_mask
from attnviz.attention.patterns import Blocks, Causal, GlobalKeys, Local, Masked, MaskMod
from tests.strategies import normal

flex = pytest.importorskip("torch.nn.attention.flex_attention")


def inputs_of(B: int, H: int, T: int, S: int, **given: object) -> AttentionInputs:
    q, k, v = normal((B, H, T, 4), 0), normal((B, H, S, 4), 1), normal((B, H, S, 4), 2)
    return AttentionInputs(q, k, v, **given)


def visible(inputs: AttentionInputs, pattern: object, head: int, batch: int) -> np.ndarray:
    return ~np.isnan(attnviz.attention_map(inputs, head, pattern, batch=batch).cells)


@given(data=st.data())
def test_blocks_of_each_head_and_item(data):
    B, H, T, S = (data.draw(st.integers(1, n)) for n in (2, 3, 9, 9))
    rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    shape = (data.draw(st.sampled_from([1, B])), data.draw(st.sampled_from([1, H])), -(-T // rows), -(-S // columns))
    matrix = torch.from_numpy(np.random.default_rng(data.draw(st.integers(0, 99))).random(shape) < 0.5)
    inputs = inputs_of(B, H, T, S)
    given_as = matrix[0] if shape[0] == 1 and data.draw(st.booleans()) else matrix
    pattern = Blocks(given_as, (rows, columns))
    scores = [attnviz.score(inputs, pattern, batch=batch) for batch in range(B)]
    for batch in range(B):
        for head in range(H):
            own = matrix[min(batch, shape[0] - 1), min(head, shape[1] - 1)].numpy()
            wanted = np.array([[own[t // rows, s // columns] for s in range(S)] for t in range(T)])
            np.testing.assert_array_equal(visible(inputs, pattern, head, batch), wanted)
            np.testing.assert_array_equal((scores[batch].values("logits")[head] > -np.inf).numpy(), wanted)
            (row,) = attnviz.head_statistics(inputs, pattern, heads=[head], batch=batch)
            assert row.queries == wanted.any(1).sum()


MODS = {
    "causal": lambda b, h, q, k: q >= k,
    "one a head": lambda b, h, q, k: (q - k).abs() <= h * 40,
    "one an item": lambda b, h, q, k: (q - k) * (1 - 2 * b) >= 0,
    "documents": lambda b, h, q, k: torch.arange(300)[q] // 70 == torch.arange(300)[k] // 70,
    "everything": lambda b, h, q, k: q >= -1,
}


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("name", MODS)
def test_a_mask_mod_and_its_block_mask_are_the_set_that_flexattention_sees(name):
    B, H, T = 2, 2, 300
    inputs, mod = inputs_of(B, H, T, T), MODS[name]
    wanted = flex.create_mask(mod, B, H, T, T, device="cpu").numpy()
    block_mask = flex.create_block_mask(mod, B, H, T, T, device="cpu", BLOCK_SIZE=64)
    for batch in range(B):
        for head in range(H):
            np.testing.assert_array_equal(visible(inputs, mod, head, batch), wanted[batch, head])
            np.testing.assert_array_equal(visible(inputs, block_mask, head, batch), wanted[batch, head])
            named = pattern_of(mod) & Causal() if name != "causal" else pattern_of(block_mask)
            np.testing.assert_array_equal(visible(inputs, named, head, batch), np.tril(wanted[batch, head]))


@pytest.mark.filterwarnings("ignore")
def test_context_is_flexattentions():
    inputs = inputs_of(2, 2, 200, 200)
    block_mask = flex.create_block_mask(MODS["one a head"], 2, 2, 200, 200, device="cpu")
    wanted = flex.flex_attention(inputs.q.float(), inputs.k.float(), inputs.v.float(), block_mask=block_mask)
    for batch in range(2):
        found = attnviz.context(inputs, block_mask, batch=batch)
        np.testing.assert_allclose(found.numpy(), wanted[batch].numpy(), atol=1e-5)


def test_inputs_take_what_flexattention_has():
    block_mask = flex.create_block_mask(MODS["causal"], None, None, 300, 300, device="cpu")
    assert isinstance(inputs_of(1, 1, 3, 3, pattern=MODS["causal"]).pattern, MaskMod)
    held = inputs_of(1, 1, 300, 300, pattern=block_mask)
    np.testing.assert_array_equal(visible(held, None, 0, 0), np.tri(300, dtype=bool))


def test_full_blocks_are_asked_nothing():
    asked: list[int] = []

    def causal(b, h, q, k):
        asked.append(int(torch.broadcast_tensors(q, k)[0].numel()))
        return q >= k

    block_mask = flex.create_block_mask(causal, None, None, 2048, 2048, device="cpu")
    asked.clear()
    pattern = of_block_mask(block_mask)
    attnviz.attention_map(inputs_of(1, 1, 2048, 2048), 0, pattern, pixels=64)
    assert 0 < sum(asked) <= 2048 * 2048  # no pair twice


@pytest.mark.parametrize(
    ("mod", "says"),
    [
        (lambda b, h, q, k: 1 / 0, "can't be read as a mask: ZeroDivisionError"),
        (lambda b, h, q, k: (q - k) * 1.0, "gives torch.float64|gives torch.float32"),
        (lambda b, h, q, k: True, "gives bool, wanted a bool tensor"),
        (lambda b, h, q: q >= 0, "can't be read as a mask"),
        (lambda b, h, q, k: torch.ones(2, 2, dtype=torch.bool)[q, k], "can't be read as a mask"),
    ],
)
def test_a_mask_mod_that_is_none(mod, says):
    with pytest.raises(InputError, match=says):
        attnviz.attention_map(inputs_of(1, 1, 5, 5), 0, mod)


BAD = {
    "of ints": (lambda: Blocks(torch.ones(2, 2)), "dtype bool and shape"),
    "of one dimension": (lambda: Blocks(torch.ones(2, dtype=torch.bool)), r"found bool, \(2,\)"),
    "of size 0": (lambda: Blocks(torch.ones(2, 2, dtype=torch.bool), 0), "size of blocks is 1 or more"),
    "of three sizes": (lambda: Blocks(torch.ones(2, 2, dtype=torch.bool), (1, 2, 3)), "two such numbers"),
    "another shape": (
        lambda: attnviz.attention_map(inputs_of(1, 1, 5, 7), 0, Blocks(torch.ones(2, 2, dtype=torch.bool), 3)),
        r"shape \(2, 2\); 5 queries and 7 keys in blocks of 3 x 3 want \(n_q, n_k\) = \(2, 3\)",
    ),
    "other heads": (
        lambda: attnviz.attention_map(inputs_of(1, 3, 4, 4), 0, Blocks(torch.ones(2, 2, 2, dtype=torch.bool), 2)),
        "before which come H = 3 or 1",
    ),
    "nothing": (lambda: pattern_of(3.5), "a pattern is given as float"),
    "a tensor": (lambda: pattern_of(torch.ones(2, 2)), r"Masked\(mask\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be(case):
    made, says = BAD[case]
    with pytest.raises(InputError, match=says):
        made()


# In dumps

EYE = torch.eye(3, dtype=torch.bool)
SAVED = {
    "blocks": Blocks(EYE, 2),
    "blocks of two sizes": Blocks(torch.ones(2, 3, dtype=torch.bool), (3, 2)),
    "blocks a head": Blocks(torch.stack([EYE, ~EYE]), 2),
    "a composition": Blocks(EYE, 2) & Causal() | Local(1) & Masked(torch.ones(6, 6, dtype=torch.bool).triu()),
    "with global": (Blocks(EYE, 2) | GlobalKeys()) & Causal(),
    "documents": pattern_of("documents & causal"),
    "a prefix": pattern_of("prefix:n=2"),
    "a prefix an item": pattern_of("prefix:n=2/4"),
    "chunks": pattern_of("chunked:size=2 & causal | documents"),
}


@pytest.mark.sweep(keep=8)
@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
@pytest.mark.parametrize("name", SAVED)
def test_a_dump_keeps_the_set(tmp_path, name, suffix):
    global_mask = torch.tensor([[True] + [False] * 5] * 2)
    documents = torch.tensor([[0, 0, 1, 1, 1, 2]])
    inputs = inputs_of(2, 2, 6, 6, pattern=SAVED[name], documents=documents, global_mask=global_mask)
    attnviz.save(tmp_path / f"dump{suffix}", inputs)
    read = attnviz.load(tmp_path / f"dump{suffix}")
    assert read.pattern == SAVED[name]
    for batch in range(2):
        for head in range(2):
            np.testing.assert_array_equal(visible(read, None, head, batch), visible(inputs, None, head, batch))


def test_a_function_of_pairs_cannot_be_saved(tmp_path):
    for pattern in (MODS["causal"], MaskMod(MODS["causal"]) & Causal()):
        with pytest.raises(InputError, match=r"can't be saved: MaskMod has no name.*pattern=Masked\(mask\)"):
            attnviz.save(tmp_path / "dump.npz", inputs_of(1, 1, 3, 3, pattern=pattern_of(pattern)))
    assert not list(tmp_path.iterdir())
