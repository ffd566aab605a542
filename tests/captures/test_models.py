"""Capture against the models' own attention weights, family by family."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attnviz
from attnviz import AttentionInputs, InputError
from tests.captures.families import FAMILIES, B, Family, ids, padded, transformers

families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
sides = pytest.mark.parametrize("side", ["left", "right"])


def captured(model: nn.Module, given: dict[str, Any], **options: Any) -> tuple[attnviz.Run, Any]:
    with torch.no_grad(), attnviz.capture(model, **options) as run:
        output = model(**given)
    return run, output


@cache
def run_of(family: Family, side: str, attention: str) -> tuple[attnviz.Run, Any]:
    return captured(family.build(attention), family.inputs(side))


def weights(inputs: AttentionInputs, batch: int) -> Tensor:
    """What attnviz makes of captured inputs, every head, (H, T, S), 0 where a query doesn't see the key."""
    cells = [attnviz.attention_map(inputs, head, batch=batch).cells for head in range(inputs.H)]
    return torch.stack([torch.from_numpy(head) for head in cells]).nan_to_num()


def own_weights(family: Family, side: str) -> dict[int | str, Tensor]:
    """The model's own, by layer, (B, H, T, S)."""
    given = family.inputs(side)
    with torch.no_grad():
        output = family.build()(**given, output_attentions=True)
    names = {"attentions": "", "encoder_attentions": "", "decoder_attentions": "decoder", "cross_attentions": "cross"}
    found: dict[int | str, Tensor] = {}
    for name, kind in names.items():
        for number, layer in enumerate(output.get(name) or ()):
            if layer.shape[-1] != given.get("input_ids", layer).shape[-1] and "longformer" in family.model.lower():
                layer = dense(output, number, given, "")
            if family.model == "LEDModel" and not kind:
                layer = dense(output, number, given, "encoder_")
            found[f"{kind}.{number}" if kind else number] = layer
    return found


def dense(output: Any, number: int, given: dict[str, Tensor], prefix: str) -> Tensor:
    """Longformer's bands and global columns as a whole map, (B, H, T, S); see tests/engine/test_longformer.py."""
    banded = output[f"{prefix}attentions"][number]  # (B, H, T, G_max + 2w + 1)
    T, w = banded.shape[2], 2
    whole = torch.zeros(*banded.shape[:3], T)
    columns = banded.shape[-1] - (2 * w + 1)
    for t in range(T):
        for offset in range(-w, w + 1):
            if 0 <= t + offset < T:
                whole[:, :, t, t + offset] += banded[:, :, t, columns + offset + w]
    for b in range(len(banded)):
        marked = given.get("global_attention_mask", torch.zeros(B, T))[b]
        for slot, position in enumerate(marked.nonzero().flatten().tolist()):
            whole[b, :, :, position] += banded[b, :, :, slot]
            of_global = output[f"{prefix}global_attentions"][number][b]  # (H, S_padded, G_max)
            whole[b, :, position] = of_global[:, :T, slot]
    return whole


def exists(family: Family, side: str, label: int | str, length: int) -> Tensor:
    """Which queries are no padding, (B, T)."""
    given = family.inputs(side)
    name = "decoder_attention_mask" if isinstance(label, str) else "attention_mask"
    return given.get(name, torch.ones(B, length)).bool()


@pytest.mark.sweep(keep=3)
@families
@sides
def test_weights_of_a_capture_are_the_models_own(family, side):
    run, _ = run_of(family, side, "eager")
    own = own_weights(family, side)
    assert run.layers == list(own) or sorted(map(str, run.layers)) == sorted(map(str, own))
    for label, expected in own.items():
        inputs = run.inputs(label)
        real = exists(family, side, label, inputs.T)
        for b in range(B):
            torch.testing.assert_close(
                weights(inputs, b)[:, real[b]], expected[b][:, real[b]].double(), atol=1e-5, rtol=0
            )


@pytest.mark.sweep(keep=5)
@families
@sides
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_capture_leaves_the_output_as_it_is_to_the_last_bit(family, side, attention):
    if attention == "sdpa" and not family.sdpa:
        pytest.skip("no sdpa in this family")
    _, output = run_of(family, side, attention)
    with torch.no_grad():
        plain = family.build(attention)(**family.inputs(side))
    assert plain[0].equal(output[0])


@pytest.mark.sweep(keep=7)
@families
@sides
def test_capture_under_sdpa_is_that_under_eager(family, side):
    if not family.sdpa:
        pytest.skip("no sdpa in this family")
    eager, _ = run_of(family, side, "eager")
    sdpa, _ = run_of(family, side, "sdpa")
    assert eager.layers == sdpa.layers
    for label in eager.layers:
        one, other = eager.inputs(label), sdpa.inputs(label)
        assert str(one.pattern) == str(other.pattern)
        for name in ("scale", "softcap"):
            assert getattr(one, name) == getattr(other, name)
        for name in ("bias", "sinks", "key_padding_mask", "query_padding_mask"):
            a, b = getattr(one, name), getattr(other, name)
            assert (a is None) == (b is None)
            assert a is None or a.equal(b)
        # The kernels round differently, and what they give padding differs altogether.
        queries, keys = (exists(family, side, label, length) for length in (one.T, one.S))
        if str(label).startswith("cross"):
            keys = family.inputs(side).get("attention_mask", torch.ones(B, one.S)).bool()
        for name, real in (("q", queries), ("k", keys), ("v", keys)):
            a, b = (getattr(inputs, name).transpose(1, 2)[real] for inputs in (one, other))
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@families
def test_the_pattern_is_named(family):
    run, _ = run_of(family, "right", "eager")
    assert {label: str(run.inputs(label).pattern) for label in family.patterns} == family.patterns


@pytest.mark.sweep(keep=2)
@families
@sides
def test_a_dump_holds_all_that_was_captured(family, side, tmp_path):
    """Written afterwards or layer by layer as the model runs, and read back without an option."""
    run, _ = run_of(family, side, "eager")
    run.save(tmp_path / "saved.safetensors")
    streamed, _ = captured(family.build(), family.inputs(side), out=tmp_path / "streamed.safetensors")
    assert streamed.layers == run.layers
    for name in ("saved", "streamed"):
        for label in run.layers:
            read, kept = attnviz.load(tmp_path / f"{name}.safetensors", layer=label), run.inputs(label)
            assert str(read.pattern) == str(kept.pattern)
            for role in ("q", "k", "v", "q_global", "k_global", "v_global", "bias", "sinks"):
                a, b = getattr(read, role), getattr(kept, role)
                assert (a is None) == (b is None)
                assert a is None or a.equal(b)
            assert (read.scale, read.softcap) == (kept.scale, kept.softcap)
            for b in range(B):
                torch.testing.assert_close(weights(read, b), weights(kept, b), atol=1e-6, rtol=0)


class Tokenizer:
    """As much of a tokenizer as labels need."""

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"Ġ{id}" for id in ids]


def labels(ids: Tensor) -> list[list[str]]:
    return [[f"Ġ{id}" for id in row] for row in ids.tolist()]


def test_labels_are_the_tokens_of_queries_and_of_keys():
    family = FAMILIES["BART"]
    given = family.inputs("right")
    run, _ = captured(family.build(), given, tokenizer=Tokenizer())
    source, target = labels(given["input_ids"]), labels(given["decoder_input_ids"])
    assert run.inputs(0).tokens == source
    assert run.inputs(0, "decoder").tokens == target
    assert run.inputs(0, "cross").tokens == source
    assert run.inputs(0, "cross").query_tokens == target


@pytest.mark.parametrize("saved", [False, True])
def test_layers_know_their_label_and_what_their_tokens_are(tmp_path, saved):
    class Pieces(Tokenizer):
        all_special_ids = (3,)

        def convert_tokens_to_string(self, tokens: list[str]) -> str:
            return "".join(tokens).replace("Ġ", " ").replace("Ã©", "é")

    family = FAMILIES["BART"]
    run, _ = captured(family.build(), family.inputs("right"), tokenizer=Pieces())
    if saved:
        run.save(tmp_path / "run.safetensors")
    for label in (0, "decoder.1", "cross.0"):
        inputs = attnviz.load(tmp_path / "run.safetensors", layer=label) if saved else run.inputs(label)
        assert (inputs.layer, inputs.token_form) == (label, "byte-level")
        for tokens, words, special in zip(inputs.tokens, inputs.word_ids, inputs.special_tokens, strict=True):
            assert special == [n for n, token in enumerate(tokens) if token == "Ġ3"]
            assert [n for n, word in enumerate(words) if word is None] == special
        assert (inputs.query_word_ids is None) == (inputs.query_tokens is None) == (label != "cross.0")
        assert inputs.item().key_labels([1])[0].startswith("␣" if 1 not in inputs.special_tokens[0] else "Ġ")


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("name", ["Llama", "Mistral", "Qwen3", "Gemma 2", "gpt-oss"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_steps_of_a_generate_make_one_growing_map(name, attention):
    family = FAMILIES[name]
    if attention == "sdpa" and not family.sdpa:
        pytest.skip("no sdpa in this family")
    config = family.config()
    torch.manual_seed(0)
    causal = getattr(transformers, family.model.replace("Model", "ForCausalLM"))._from_config(
        config, attn_implementation=attention
    )
    causal.eval()
    given = {"input_ids": ids(), "attention_mask": padded("left")}
    with attnviz.capture(causal, tokenizer=Tokenizer()) as run:
        whole = causal.generate(**given, max_new_tokens=5, do_sample=False, pad_token_id=0, eos_token_id=None)
    seen = whole[:, :-1]  # of the last token there is no query yet
    mask = torch.cat([given["attention_mask"], torch.ones(B, 4, dtype=torch.int64)], dim=1)
    again, _ = captured(causal, {"input_ids": seen, "attention_mask": mask, "use_cache": False})
    for label in again.layers:
        grown, at_once = run.inputs(label), again.inputs(label)
        assert grown.q.shape == at_once.q.shape
        assert str(grown.pattern) == str(at_once.pattern)
        assert grown.tokens == labels(seen)
        for b in range(B):
            torch.testing.assert_close(weights(grown, b), weights(at_once, b), atol=1e-5, rtol=0)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("name", ["T5", "BART", "LED"])
def test_a_generate_with_two_sequences_grows_the_decoder_and_the_cross_attention(name):
    family = FAMILIES[name]
    torch.manual_seed(0)
    model = getattr(transformers, family.model.replace("Model", "ForConditionalGeneration"))
    model = model._from_config(family.config()).eval()
    given = {k: v for k, v in family.inputs("right").items() if k != "decoder_input_ids"}
    with attnviz.capture(model, tokenizer=Tokenizer()) as run:
        whole = model.generate(**given, max_new_tokens=5, do_sample=False, num_beams=1, eos_token_id=None)
    seen = whole[:, :-1]
    again, _ = captured(model, {**given, "decoder_input_ids": seen, "use_cache": False}, tokenizer=Tokenizer())
    assert run.layers == again.layers
    for label in again.layers:
        grown, at_once = run.inputs(label), again.inputs(label)
        assert (grown.T, grown.S) == (at_once.T, at_once.S)
        assert str(grown.pattern) == str(at_once.pattern)
        assert (grown.tokens, grown.query_tokens) == (at_once.tokens, at_once.query_tokens)
        for b in range(B):
            torch.testing.assert_close(weights(grown, b), weights(at_once, b), atol=1e-5, rtol=0)


def test_a_cache_of_fixed_size_makes_the_same_map():
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM._from_config(FAMILIES["Llama"].config()).eval()
    runs = []
    for options in ({}, {"cache_implementation": "static"}):
        with attnviz.capture(model) as run:
            model.generate(ids()[:1], max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0, **options)
        runs.append(run.inputs(1))
    assert runs[0].q.shape == runs[1].q.shape
    assert runs[0].k.shape == runs[1].k.shape
    torch.testing.assert_close(weights(runs[0], 0), weights(runs[1], 0), atol=1e-5, rtol=0)


def test_a_pass_that_starts_anew_replaces_the_last():
    model = FAMILIES["Llama"].build()
    with torch.no_grad(), attnviz.capture(model) as run:
        model(ids(7), use_cache=False)
        model(ids(), use_cache=False)
    assert run.inputs(0).T == 11


def test_a_mask_of_ones_own_is_kept():
    model = FAMILIES["Llama"].build("sdpa")
    own = torch.rand(B, 1, 11, 11, generator=torch.Generator().manual_seed(0)) < 0.5
    own |= torch.eye(11, dtype=torch.bool)
    run, _ = captured(model, {"input_ids": ids(), "attention_mask": own})
    inputs = run.inputs(0)
    assert str(inputs.pattern) == "own mask"
    for b in range(B):
        assert (weights(inputs, b) > 0).equal(own[b].expand(4, -1, -1))


@pytest.mark.parametrize("options", [{"need_weights": True}, {"need_weights": False}])
@pytest.mark.parametrize("batch_first", [True, False])
def test_plain_multihead_attention(options, batch_first):
    torch.manual_seed(0)
    mha = nn.MultiheadAttention(16, 4, batch_first=batch_first).eval()
    x = torch.randn(2, 6, 16)
    x = x if batch_first else x.transpose(0, 1)
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    with torch.no_grad():
        _, own = mha(x, x, x, key_padding_mask=padding, average_attn_weights=False)
        with attnviz.capture(mha) as run:
            mha(x, x, x, key_padding_mask=padding, **options)
    inputs = run.inputs(0)
    for b in range(2):
        real = ~padding[b]
        torch.testing.assert_close(weights(inputs, b)[:, real], own[b][:, real].double(), atol=1e-5, rtol=0)


def test_a_transformer_of_plain_torch():
    torch.manual_seed(0)
    model = nn.Transformer(16, 2, 2, 2, 24, batch_first=True).eval()
    source, target = torch.randn(1, 6, 16), torch.randn(1, 5, 16)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    with torch.no_grad(), attnviz.capture(model) as run:
        model(source, target, tgt_mask=mask, tgt_is_causal=True)
    assert run.layers == [0, 1, "decoder.0", "cross.0", "decoder.1", "cross.1"]
    assert str(run.inputs("decoder.0").pattern) == "causal"
    assert run.inputs(1, "cross").k.shape == (1, 2, 6, 8)


class Own(nn.Module):
    """Attention that someone wrote on torch's function."""

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x, is_causal=causal)


def test_a_model_that_calls_scaled_dot_product_attention():
    model = nn.Sequential(Own(), Own())
    with attnviz.capture(model) as run:
        model(torch.randn(1, 2, 5, 8))
    assert run.layers == [0, 1]
    assert str(run.inputs(0).pattern) == "full"


def test_only_the_layers_asked_for():
    run, _ = captured(FAMILIES["BART"].build(), FAMILIES["BART"].inputs("right"), layers=[1])
    assert run.layers == [1, "decoder.1", "cross.1"]
    run, _ = captured(FAMILIES["BART"].build(), FAMILIES["BART"].inputs("right"), layers=["cross.0"])
    assert run.layers == ["cross.0"]


def test_a_shared_layer_that_runs_again_is_a_further_call_of_it(tmp_path):
    config = transformers.AlbertConfig(
        vocab_size=50,
        hidden_size=32,
        embedding_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=40,
    )
    run, _ = captured(transformers.AlbertModel(config).eval(), {"input_ids": ids()})
    assert run.layers == [0, "0.calls.2", "0.calls.3"]
    run.save(tmp_path / "run.safetensors")
    for label in run.layers:
        read = attnviz.load(tmp_path / "run.safetensors", layer=label)
        assert read.layer == label
        assert read.q.equal(run.inputs(label).q)


def test_after_capture_the_model_is_as_before():
    model = FAMILIES["BERT"].build()
    before = transformers.AttentionInterface.get_interface
    captured(model, FAMILIES["BERT"].inputs("right"))
    assert transformers.AttentionInterface.get_interface is before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_another_models_attention_is_not_heard():
    one, other = FAMILIES["BERT"].build(), FAMILIES["Llama"].build()
    with torch.no_grad(), attnviz.capture(one) as run:
        other(ids())
        one(ids(7))
    assert run.inputs(0).T == 7


def test_a_run_draws_itself():
    run, _ = run_of(FAMILIES["BERT"], "right", "eager")
    assert run.plot(1, head=2).get_title() == "layer 1, batch item 0, head 2"
    assert len(run.plot(0).axes) >= 4


def test_a_layer_that_was_not_captured():
    run, _ = run_of(FAMILIES["BERT"], "right", "eager")
    with pytest.raises(InputError, match="BertModel: layer 7 was not captured; captured are 0, 1"):
        run.inputs(7)


def test_no_layer_of_those_asked_for():
    with pytest.raises(InputError, match=r"none of the layers 5 is there; the model ran layers 0, 1"):
        captured(FAMILIES["BERT"].build(), FAMILIES["BERT"].inputs("right"), layers=[5])


def test_a_model_that_did_not_run():
    with (
        pytest.raises(InputError, match="BertModel: the model did not run inside the block"),
        attnviz.capture(FAMILIES["BERT"].build()),
    ):
        pass


def test_a_model_whose_attention_cannot_be_captured(tmp_path):
    class Mixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1, keepdim=True).expand_as(x)

    with pytest.raises(InputError, match=r"Mixed: its attention can't be captured; .*scaled_dot_product_attention"):
        captured(Mixed(), {"x": torch.randn(1, 4, 8)}, out=tmp_path / "run.safetensors")
    assert not list(tmp_path.iterdir())


def test_block_sparse_bigbird_is_refused():
    config = FAMILIES["BigBird"].config()
    config.attention_type, config.block_size, config.num_random_blocks = "block_sparse", 2, 1
    with pytest.raises(InputError, match="original_full"):
        captured(transformers.BigBirdModel(config).eval(), {"input_ids": ids(40)})


def test_steps_do_not_go_into_a_file_as_they_run(tmp_path):
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM._from_config(FAMILIES["Llama"].config()).eval()
    with pytest.raises(InputError, match="ran twice"), attnviz.capture(model, out=tmp_path / "run.safetensors"):
        model.generate(ids()[:1], max_new_tokens=3, eos_token_id=None, pad_token_id=0)
    assert not list(tmp_path.iterdir())
