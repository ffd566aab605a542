"""The global scores against ``transformers.LongformerModel``, built from a config with random weights.

The model's softmax is joint: a query's window and the global keys together. Over the global keys alone it is, up to
the share of the window, ours: their columns of the joint softmax, renormalised, are our weights.

Facts of the model that this relies on; each is asserted below against the installed release:

1. ``attentions[layer]`` is (B, H, T, G_max + 2w + 1), cut to T although the model pads T to a multiple of the
   attention window 2w; its first G_max columns are the global keys in ascending order, then comes the window from
   t - w to t + w.
2. A global key is removed from the window part: it has weight there for no query, so that it counts once.
3. Rows of global queries are zero there (they use other projections, and stand in ``global_attentions``), as are
   rows of padded queries.
4. The columns of global slots that an item with fewer globals does not use carry no weight.
5. The projections ``query`` and ``key`` give (T_padded, B, H * D), and the layer scales its queries in place after
   that: a hook clones.
6. In ``eval()`` there is no dropout between the softmax and what is returned: rows sum to one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor

import attnviz
from attnviz import AttentionInputs

transformers = pytest.importorskip("transformers")

LAYERS, HEADS, HEAD_DIM, TOKENS = 2, 4, 8, 21
GLOBALS = ([0, 5, 6, 13, 20], [2, 9], [0])  # unequal G; neighbors, the first and the last token
LENGTHS = (21, 17, 11)  # the rest is padding
WINDOWS = (4, 8, 16)  # 2w; none divides 21. The model itself fails where w is 1


@dataclass(frozen=True)
class Run:
    """A forward pass, and what its projections gave."""

    window: int
    queries: list[Tensor]  # a layer, (B, H, T, D)
    keys: list[Tensor]
    attentions: list[Tensor]
    padded_length: int


@cache
def forward(window: int) -> Run:
    config = transformers.LongformerConfig(
        vocab_size=40,
        hidden_size=HEADS * HEAD_DIM,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=16,
        attention_window=window,
        max_position_embeddings=64,
        pad_token_id=1,
        initializer_range=0.3,  # the default, 0.02, makes all weights alike, and a test that says little
    )
    torch.manual_seed(window)
    model = transformers.LongformerModel(config).eval()
    ids = torch.randint(4, 40, (len(GLOBALS), TOKENS))
    attention_mask, global_attention_mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for b, (positions, length) in enumerate(zip(GLOBALS, LENGTHS, strict=True)):
        attention_mask[b, :length] = 1
        global_attention_mask[b, positions] = 1

    projected: dict[str, list[Tensor]] = {"query": [], "key": []}
    for layer in model.encoder.layer:
        for name, outputs in projected.items():
            getattr(layer.attention.self, name).register_forward_hook(
                lambda module, args, output, outputs=outputs: outputs.append(output.clone())
            )
    with torch.no_grad():
        output = model(
            input_ids=ids,
            attention_mask=attention_mask,
            global_attention_mask=global_attention_mask,
            output_attentions=True,
        )

    def heads(flat: Tensor) -> Tensor:  # (T_padded, B, H * D) -> (B, H, T, D)
        return flat.unflatten(-1, (HEADS, HEAD_DIM)).permute(1, 2, 0, 3)[:, :, :TOKENS]

    return Run(
        window,
        [heads(flat) for flat in projected["query"]],
        [heads(flat) for flat in projected["key"]],
        list(output.attentions),
        projected["query"][0].shape[0],
    )


def global_rows(b: int) -> Tensor:
    return torch.isin(torch.arange(TOKENS), torch.tensor(GLOBALS[b]))


def ordinary_rows(b: int) -> Tensor:
    """Queries that exist and are not global."""
    return ~global_rows(b) & (torch.arange(TOKENS) < LENGTHS[b])


@pytest.fixture(params=WINDOWS, ids=lambda window: f"window{window}")
def run(request) -> Run:
    return forward(request.param)


def test_attentions_are_global_columns_then_a_window(run):
    columns = max(map(len, GLOBALS)) + run.window + 1
    assert [tuple(a.shape) for a in run.attentions] == [(len(GLOBALS), HEADS, TOKENS, columns)] * LAYERS


def test_the_model_pads_the_sequence_and_cuts_what_it_returns(run):
    assert run.padded_length == -(-TOKENS // run.window) * run.window > TOKENS


def test_the_model_gives_global_keys_no_weight_in_the_window(run):
    half, first = run.window // 2, max(map(len, GLOBALS))
    for attention in run.attentions:
        for b, positions in enumerate(GLOBALS):
            inside = [
                attention[b, :, t, first + s - t + half]
                for s in positions
                for t in range(max(0, s - half), min(TOKENS, s + half + 1))
            ]
            assert not torch.stack(inside).any()


def test_the_model_zeroes_rows_of_global_and_padded_queries(run):
    for attention in run.attentions:
        for b in range(len(GLOBALS)):
            assert not attention[b, :, ~ordinary_rows(b)].any()


def test_the_model_gives_unused_global_slots_no_weight(run):
    for attention in run.attentions:
        for b, positions in enumerate(GLOBALS):
            assert not attention[b, :, :, len(positions) : max(map(len, GLOBALS))].any()


def test_the_models_rows_sum_to_one(run):
    for attention in run.attentions:
        for b in range(len(GLOBALS)):
            sums = attention[b][:, ordinary_rows(b)].sum(-1)
            torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-6)


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("b", range(len(GLOBALS)))
def test_global_columns_of_the_joint_softmax_renormalised_are_our_weights(run, layer, b):
    ours = weights_of(run, layer, b)[:, ordinary_rows(b)]  # (H, rows, G)
    joint = run.attentions[layer][b][:, ordinary_rows(b), : len(GLOBALS[b])]
    torch.testing.assert_close(ours, joint / joint.sum(-1, keepdim=True), rtol=0, atol=2e-6)


def test_the_weights_compared_are_far_from_uniform(run):
    # Else the comparison above would pass for nearly any q and k.
    ours = weights_of(run, 0, 0)
    assert (ours - 1 / len(GLOBALS[0])).abs().mean() > 0.05


def weights_of(run: Run, layer: int, b: int) -> Tensor:
    positions = torch.arange(TOKENS)
    mask = torch.stack([torch.isin(positions, torch.tensor(item)) for item in GLOBALS])
    exists = torch.stack([positions < length for length in LENGTHS])
    inputs = AttentionInputs(run.queries[layer], run.keys[layer], global_mask=mask, key_padding_mask=exists)
    return attnviz.score(inputs, batch=b).weights
