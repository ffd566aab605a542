"""Scores against ``transformers.LongformerModel`` and ``LEDModel``, built from a config with random weights.

The model's softmax is joint: a query's window and the global keys together, our ``longformer(w)``. Rows of global
queries have projections of their own and stand in ``global_attentions``. The global keys' columns of the joint
softmax, renormalized, are the weights of our pattern of global keys alone.

Facts of the model that this relies on; each is asserted below against the installed release:

1. ``attentions[layer]`` is (B, H, T, G_max + 2w + 1), cut to T although the model pads T to a multiple of the
   attention window 2w (of the largest, where layers differ); its first G_max columns are the global keys in ascending
   order, then comes the window from t - w to t + w.
2. A global key is removed from the window part: it has weight there for no query, so that it counts once.
3. Rows of global queries are zero there (they use other projections, and stand in ``global_attentions``), as are
   rows of padded queries.
4. The columns of global slots that an item with fewer globals does not use carry no weight.
5. The projections ``query``, ``key`` and ``value`` give (T_padded, B, H * D), and the layer scales its queries in place
   after that: a hook clones. So do ``key_global`` and ``value_global``; ``query_global`` gives (G_max, B, H * D), the
   global queries of each item in ascending order, zeros projected for the slots that an item does not use.
6. In ``eval()`` there is no dropout between the softmax and what is returned: rows sum to one.
7. ``global_attentions[layer]`` is (B, H, T_padded, G_max), indexed [key position, global query]: its columns sum to one,
   padded keys have no weight, and its key axis keeps the padded length.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from torch import Tensor

import attnviz
from attnviz import AttentionInputs
from attnviz.attention.patterns import longformer

transformers = pytest.importorskip("transformers")

LAYERS, HEADS, HEAD_DIM, TOKENS = 2, 4, 8, 21
GLOBALS = ([0, 5, 6, 13, 20], [2, 9], [0])  # unequal G; neighbors, the first and the last token
LENGTHS = (21, 17, 11)  # the rest is padding
WINDOWS = ((4, 4), (8, 8), (16, 16), (16, 4))  # 2w of each layer; none divides 21. The model itself fails where w is 1
PROJECTIONS = ("query", "key", "value", "query_global", "key_global", "value_global")


MODELS = ("longformer", "led")


@dataclass(frozen=True)
class Run:
    """A forward pass, and what its projections gave: a tensor a layer, (B, H, T, D) unless it says otherwise."""

    windows: tuple[int, ...]  # 2w of each layer
    projected: dict[str, list[Tensor]]  # by the projection's name
    attentions: list[Tensor]  # (B, H, T, G_max + 2w + 1)
    global_attentions: list[Tensor]  # (B, H, T_padded, G_max)
    contexts: list[Tensor]  # (B, T, H * D), what a layer's attention gives before its output projection
    padded_length: int

    @property
    def queries(self) -> list[Tensor]:
        return self.projected["query"]

    @property
    def keys(self) -> list[Tensor]:
        return self.projected["key"]

    def inputs(self, layer: int) -> AttentionInputs:
        """A layer's call, as a user would dump it."""
        positions = torch.arange(TOKENS)
        q, k, v, q_global, k_global, v_global = (self.projected[name][layer] for name in PROJECTIONS)
        return AttentionInputs(
            q,
            k,
            v,
            q_global=q_global,
            k_global=k_global,
            v_global=v_global,
            global_mask=torch.stack([torch.isin(positions, torch.tensor(item)) for item in GLOBALS]),
            key_padding_mask=torch.stack([positions < length for length in LENGTHS]),
        )


def build(model: str, windows: tuple[int, ...]) -> tuple[torch.nn.Module, list[torch.nn.Module]]:
    """An encoder with random weights, and the attention of each of its layers."""
    # The default range, 0.02, makes all weights alike, and a test that says little.
    if model == "longformer":
        config = transformers.LongformerConfig(
            vocab_size=40,
            hidden_size=HEADS * HEAD_DIM,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=16,
            attention_window=list(windows),
            max_position_embeddings=64,
            pad_token_id=1,
            initializer_range=0.3,
        )
        longformer_ = transformers.LongformerModel(config).eval()
        return longformer_, [layer.attention.self for layer in longformer_.encoder.layer]
    config = transformers.LEDConfig(
        vocab_size=40,
        d_model=HEADS * HEAD_DIM,
        encoder_layers=LAYERS,
        decoder_layers=1,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        attention_window=list(windows),
        max_encoder_position_embeddings=64,
        pad_token_id=1,
        init_std=0.3,
    )
    encoder = transformers.LEDModel(config).eval().encoder
    return encoder, [layer.self_attn.longformer_self_attn for layer in encoder.layers]


@cache
def forward(windows: tuple[int, ...], name: str = "longformer") -> Run:
    torch.manual_seed(windows[0])
    model, layers = build(name, windows)
    ids = torch.randint(4, 40, (len(GLOBALS), TOKENS))
    attention_mask, global_attention_mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for b, (positions, length) in enumerate(zip(GLOBALS, LENGTHS, strict=True)):
        attention_mask[b, :length] = 1
        global_attention_mask[b, positions] = 1

    flat: dict[str, list[Tensor]] = {name: [] for name in PROJECTIONS}
    contexts: list[Tensor] = []
    for layer in layers:
        for projection, outputs in flat.items():
            getattr(layer, projection).register_forward_hook(
                lambda module, args, output, outputs=outputs: outputs.append(output.clone())
            )
        layer.register_forward_hook(lambda module, args, output: contexts.append(output[0].clone()))
    with torch.no_grad():
        output = model(
            input_ids=ids,
            attention_mask=attention_mask,
            global_attention_mask=global_attention_mask,
            output_attentions=True,
        )

    def heads(flat: Tensor) -> Tensor:  # (T_padded, B, H * D) -> (B, H, T, D)
        return flat.unflatten(-1, (HEADS, HEAD_DIM)).permute(1, 2, 0, 3)[:, :, :TOKENS]

    def spread(flat: Tensor) -> Tensor:  # (G_max, B, H * D) -> (B, H, T, D), zero where no global query is
        assert flat.shape[0] == max(map(len, GLOBALS))
        whole = flat.new_zeros(TOKENS, *flat.shape[1:])
        for b, positions in enumerate(GLOBALS):
            whole[positions, b] = flat[: len(positions), b]
        return heads(whole)

    return Run(
        windows,
        {
            projection: [(spread if projection == "query_global" else heads)(tensor) for tensor in outputs]
            for projection, outputs in flat.items()
        },
        list(output.attentions),
        list(output.global_attentions),
        contexts,
        flat["query"][0].shape[0],
    )


def global_rows(b: int) -> Tensor:
    return torch.isin(torch.arange(TOKENS), torch.tensor(GLOBALS[b]))


def ordinary_rows(b: int) -> Tensor:
    """Queries that exist and are not global."""
    return ~global_rows(b) & (torch.arange(TOKENS) < LENGTHS[b])


@pytest.fixture(
    params=[(windows, model) for model in MODELS for windows in WINDOWS],
    ids=lambda param: f"{param[1]}-{'-'.join(map(str, param[0]))}",
)
def run(request) -> Run:
    return forward(*request.param)


def test_attentions_are_global_columns_then_a_window(run):
    G = max(map(len, GLOBALS))
    assert [tuple(a.shape) for a in run.attentions] == [
        (len(GLOBALS), HEADS, TOKENS, G + window + 1) for window in run.windows
    ]


def test_the_model_pads_the_sequence_and_cuts_what_it_returns(run):
    window = max(run.windows)
    assert run.padded_length == -(-TOKENS // window) * window > TOKENS


def test_global_attentions_are_keys_then_global_queries_and_keep_the_padded_length(run):
    shape = (len(GLOBALS), HEADS, run.padded_length, max(map(len, GLOBALS)))
    assert [tuple(a.shape) for a in run.global_attentions] == [shape] * LAYERS
    for attention in run.global_attentions:
        for b, positions in enumerate(GLOBALS):
            columns = attention[b, :, :, : len(positions)]
            torch.testing.assert_close(columns.sum(1), torch.ones(HEADS, len(positions)), rtol=0, atol=1e-6)
            assert not columns[:, LENGTHS[b] :].any()  # padded keys


def test_the_model_gives_global_keys_no_weight_in_the_window(run):
    first = max(map(len, GLOBALS))
    for attention, window in zip(run.attentions, run.windows, strict=True):
        half = window // 2
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


@pytest.mark.sweep(keep=14)
@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("b", range(len(GLOBALS)))
def test_global_columns_of_the_joint_softmax_renormalized_are_our_weights(run, layer, b):
    ours = weights_of(run, layer, b)[:, ordinary_rows(b)]  # (H, rows, G)
    joint = run.attentions[layer][b][:, ordinary_rows(b), : len(GLOBALS[b])]
    torch.testing.assert_close(ours, joint / joint.sum(-1, keepdim=True), rtol=0, atol=2e-6)


@pytest.mark.sweep(keep=2)
def test_the_weights_compared_are_far_from_uniform(run):
    # Else the comparison above would pass for nearly any q and k.
    ours = weights_of(run, 0, 0)
    assert (ours - 1 / len(GLOBALS[0])).abs().mean() > 0.05


def weights_of(run: Run, layer: int, b: int) -> Tensor:
    """Over the global keys alone, (H, T, G)."""
    return attnviz.score(run.inputs(layer), batch=b).weights


# Local + global, in one joint softmax


@pytest.mark.sweep(keep=4)
@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("b", range(len(GLOBALS)))
def test_attentions_are_ours_over_global_keys_and_window(run, layer, b):
    w, G_max = run.windows[layer] // 2, max(map(len, GLOBALS))
    ours = attnviz.score(run.inputs(layer), longformer(w), batch=b)
    theirs = run.attentions[layer][b]  # (H, T, G_max + 2w + 1)
    for t in ordinary_rows(b).nonzero().flatten().tolist():
        mine = dense(ours, t)
        expected = torch.zeros(HEADS, TOKENS)
        expected[:, GLOBALS[b]] = theirs[:, t, : len(GLOBALS[b])]
        for offset in range(-w, w + 1):
            weights = theirs[:, t, G_max + w + offset]
            if 0 <= t + offset < TOKENS and t + offset not in GLOBALS[b]:
                expected[:, t + offset] += weights
            else:
                assert not weights.any()
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)


@pytest.mark.sweep(keep=14)
@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("b", range(len(GLOBALS)))
def test_global_attentions_are_ours_of_global_queries(run, layer, b):
    ours = attnviz.score(run.inputs(layer), longformer(run.windows[layer] // 2), batch=b)
    assert ours.global_queries.tolist() == GLOBALS[b]
    theirs = run.global_attentions[layer][b, :, :TOKENS, : len(GLOBALS[b])]  # (H, T, G)
    torch.testing.assert_close(ours.global_weights, theirs.transpose(1, 2), rtol=0, atol=1e-5)


@pytest.mark.sweep(keep=14)
@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("b", range(len(GLOBALS)))
def test_the_context_is_the_models(run, layer, b):
    ours = attnviz.context(run.inputs(layer), longformer(run.windows[layer] // 2), batch=b)  # (H, T, D)
    exists = torch.arange(TOKENS) < LENGTHS[b]
    theirs = run.contexts[layer][b, :TOKENS].unflatten(-1, (HEADS, HEAD_DIM)).transpose(0, 1)
    torch.testing.assert_close(ours[:, exists], theirs[:, exists], rtol=0, atol=1e-5)
    assert ours[:, ~exists].isnan().all()


def test_the_global_projections_matter(run):
    # Else the comparisons above would pass with the plain ones.
    inputs = run.inputs(0)
    plain = replace(inputs, q_global=None, k_global=None)
    window = longformer(run.windows[0] // 2)
    with_, without = (attnviz.score(each, window).global_weights for each in (inputs, plain))
    assert (with_ - without).abs().max() > 0.05


def test_a_window_that_is_one_off_is_seen(run):
    w = run.windows[0] // 2
    mine, wider = (attnviz.score(run.inputs(0), longformer(width)) for width in (w, w + 1))
    t = int(ordinary_rows(0).nonzero()[-1])
    assert (dense(mine, t) - dense(wider, t)).abs().max() > 1e-3


def dense(result: attnviz.AttentionScores, t: int) -> Tensor:
    """One query's weights over all key positions, (H, S)."""
    row = torch.zeros(len(result.heads), result.item.S)
    for column, s in enumerate(result.key_positions(t)):
        if s is not None:
            row[:, s] += result.weights[:, t, column]
    return row
