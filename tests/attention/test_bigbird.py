"""BigBird's random blocks, taken through a mask of one's own, against ``transformers.BigBirdModel``.

Facts of the model that this relies on: it draws random blocks in training only (in ``eval()`` every random block is
block 0, which is global already, so that its keys count twice); each head has its own; ``attentions`` are (B, H, T, T)
and hold the softmax over the first and the last block (global), a block to each side, and the random blocks.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import attnviz
from attnviz import AttentionInputs
from attnviz.attention.patterns import Full, Masked

transformers = pytest.importorskip("transformers")

HEADS, HEAD_DIM, BLOCK, BLOCKS, RANDOM = 2, 8, 4, 12, 2
TOKENS = BLOCK * BLOCKS


@cache
def forward() -> tuple[AttentionInputs, Tensor, np.ndarray]:
    """One layer's inputs, its attentions (H, T, T), and which random blocks each head's block sees."""
    config = transformers.BigBirdConfig(
        vocab_size=40,
        hidden_size=HEADS * HEAD_DIM,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        intermediate_size=16,
        max_position_embeddings=TOKENS,
        block_size=BLOCK,
        num_random_blocks=RANDOM,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.3,
        attention_type="block_sparse",
    )
    torch.manual_seed(0)
    model = transformers.BigBirdModel(config).train()  # for the random blocks; there is no dropout
    attention = model.encoder.layer[0].attention.self
    drawn, projected = [], {}
    draw = attention._bigbird_block_rand_mask_with_head
    attention._bigbird_block_rand_mask_with_head = lambda *args, **named: (
        drawn.append(draw(*args, **named)) or drawn[-1]
    )
    for name in ("query", "key"):
        getattr(attention, name).register_forward_hook(
            lambda module, args, output, name=name: projected.update({name: output.detach().clone()})
        )
    with torch.no_grad():
        output = model(input_ids=torch.randint(4, 40, (1, TOKENS)), output_attentions=True)

    def heads(flat: Tensor) -> Tensor:  # (B, T, H * D) -> (B, H, T, D)
        return flat.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2)

    inputs = AttentionInputs(heads(projected["query"]), heads(projected["key"]))
    return inputs, output.attentions[0][0], np.stack(drawn[0])  # (H, BLOCKS - 2, RANDOM)


def mask_of(head: int) -> Tensor:
    """Which query sees which key, (T, T)."""
    random = forward()[2][head]
    blocks = torch.zeros(BLOCKS, BLOCKS, dtype=torch.bool)
    blocks[0], blocks[-1], blocks[:, 0], blocks[:, -1] = True, True, True, True
    for i in range(1, BLOCKS - 1):
        blocks[i, i - 1 : i + 2] = True
        blocks[i, random[i - 1]] = True
    return blocks.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)


def test_random_blocks_are_none_of_the_others():
    # A block drawn that is global or in the window would count its keys twice.
    for head in range(HEADS):
        for i, blocks in enumerate(forward()[2][head], 1):
            assert len({*blocks.tolist(), i - 1, i, i + 1, 0, BLOCKS - 1}) == RANDOM + len(
                {i - 1, i, i + 1, 0, BLOCKS - 1}
            )


@pytest.mark.parametrize("head", range(HEADS))
def test_attentions_are_ours_under_the_mask(head):
    inputs, attentions, _ = forward()
    ours = attnviz.score(inputs, Masked(mask_of(head)), heads=[head]).weights[0]
    torch.testing.assert_close(ours, attentions[head], rtol=0, atol=1e-5)


def test_the_random_blocks_matter():
    inputs, attentions, _ = forward()
    for other in (Masked(mask_of(1)), Full()):
        assert (attnviz.score(inputs, other, heads=[0]).weights[0] - attentions[0]).abs().max() > 0.01


@pytest.mark.parametrize("head", range(HEADS))
def test_attentions_are_ours_through_a_mask_file(tmp_path, head, monkeypatch):
    import sys

    from attnviz.cli.main import main

    inputs, attentions, _ = forward()
    attnviz.save(tmp_path / "dump.npz", inputs)
    np.savez(tmp_path / "mask.npz", sees=mask_of(head).numpy(), other=np.ones(3))
    np.save(tmp_path / "model.npy", attentions.numpy())
    monkeypatch.chdir(tmp_path)
    options = ["--mask-file", "mask.npz:sees", "--head", str(head)]
    for arguments in (
        ["score", "dump.npz", *options, "--out", "ours.npz"],
        ["diff", "dump.npz", "model.npy:model", *options, "--atol", "1e-5"],
    ):
        monkeypatch.setattr(sys, "argv", ["attnviz", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
    with np.load(Path("ours.npz")) as ours:
        np.testing.assert_allclose(ours["weights"][0], attentions[head], rtol=0, atol=1e-5)
