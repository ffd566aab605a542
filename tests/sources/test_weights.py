"""What people hold, made weights: outputs of transformers, generate's steps, caches, arrays of any library."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

import attnviz
from attnviz import AttentionWeights, InputError
from attnviz.maps.layers import Layers
from tests import planted

WORDS = ["the", "cat", "sat", "down", "."]


def softmax(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).softmax(-1)


@pytest.fixture(scope="module")
def gpt():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2, n_head=2, n_embd=16, vocab_size=50, n_positions=32, bos_token_id=0, eos_token_id=1, pad_token_id=2
    )
    return GPT2LMHeadModel._from_config(config, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def bart():
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(0)
    sizes = {"encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = BartConfig(vocab_size=50, d_model=16, max_position_embeddings=40, **sizes, **ids)
    return BartForConditionalGeneration._from_config(config, attn_implementation="eager").eval()


def test_a_models_own_attentions(gpt):
    outputs = gpt(torch.arange(5, 10)[None], output_attentions=True)
    given = attnviz.weights.from_outputs(outputs, tokens=WORDS, pattern="causal")
    assert [one.layer for one in given] == [0, 1]
    for one, attentions in zip(given, outputs.attentions, strict=True):
        shown = attnviz.attention_map(one, 1)
        wanted = attentions[0, 1].detach().double().masked_fill(~torch.ones(5, 5).tril().bool(), torch.nan)
        np.testing.assert_array_equal(shown.cells, wanted.numpy())
        assert shown.key_labels == WORDS


def test_each_kind_of_an_encoder_and_decoder(bart):
    outputs = bart(torch.arange(3, 8)[None], decoder_input_ids=torch.arange(3, 6)[None], output_attentions=True)
    with pytest.raises(InputError, match="hold attentions of encoder, decoder and cross; say which: kind='cross'"):
        attnviz.weights.from_outputs(outputs)
    for kind, field in (
        ("encoder", "encoder_attentions"),
        ("decoder", "decoder_attentions"),
        ("cross", "cross_attentions"),
    ):
        given = attnviz.weights.from_outputs(outputs, kind)
        assert [one.layer for one in given] == [f"{kind}.{n}" for n in range(len(outputs[field]))]
        assert all(torch.equal(one.weights, a) for one, a in zip(given, outputs[field], strict=True))
        assert all(one.cross == (kind == "cross") for one in given)
    with pytest.raises(InputError, match="hold no attentions of kind self; there are encoder"):
        attnviz.weights.from_outputs(outputs, "self")


def test_steps_of_generate_are_the_rows_of_one_call(gpt):
    how = {"max_new_tokens": 4, "do_sample": False, "output_attentions": True, "return_dict_in_generate": True}
    generated = gpt.generate(torch.arange(3, 7)[None], attention_mask=torch.ones(1, 4), min_new_tokens=4, **how)
    given = attnviz.weights.from_outputs(generated, tokens=[str(n) for n in generated.sequences[0].tolist()])
    whole = gpt(generated.sequences[:, :-1], output_attentions=True).attentions
    for one, attentions in zip(given, whole, strict=True):
        torch.testing.assert_close(one.weights, attentions, atol=1e-6, rtol=0)
        assert str(one.pattern) == "causal"
        assert len(one.tokens[0]) == one.S == 7


def test_steps_of_an_encoder_and_decoder(bart):
    how = {"max_new_tokens": 4, "min_new_tokens": 4, "output_attentions": True, "return_dict_in_generate": True}
    generated = bart.generate(torch.arange(3, 8)[None], num_beams=1, do_sample=False, **how)
    cross = attnviz.weights.from_outputs(generated, "cross")
    assert [(one.layer, tuple(one.weights.shape)) for one in cross] == [
        ("cross.0", (1, 2, 4, 5)),
        ("cross.1", (1, 2, 4, 5)),
    ]
    assert torch.equal(cross[1].weights[:, :, 2:3], generated.cross_attentions[2][1])
    assert attnviz.weights.from_outputs(generated, "encoder")[0].T == 5


def test_steps_of_a_beam_search_are_the_rows_of_the_sequences_that_won(gpt, bart):
    """Of two texts, one of which may end earlier, two sequences each: as one call of the model on each sequence has them."""
    how = {"max_new_tokens": 6, "num_beams": 4, "num_return_sequences": 2, "do_sample": False}
    how |= {"output_attentions": True, "return_dict_in_generate": True, "length_penalty": -3.0}
    prompts = torch.arange(3, 11).view(2, 4)
    found = gpt.generate(prompts, attention_mask=torch.ones(2, 4), eos_token_id=[*range(0, 50, 5)], **how)
    assert (found.beam_indices < 0).any()  # one has ended
    assert len({*found.beam_indices[0].tolist()}) > 1  # and beams have changed places
    given = attnviz.weights.from_outputs(found, tokens=[[str(n) for n in row] for row in found.sequences.tolist()])
    for item, (sequence, beams) in enumerate(zip(found.sequences, found.beam_indices, strict=True)):
        read = 4 + int((beams >= 0).sum()) - 1
        whole = gpt(sequence[None, :read], output_attentions=True).attentions
        for one, attentions in zip(given, whole, strict=True):
            shown = attnviz.attention_map(one, 1, batch=item).cells
            wanted = attentions[0, 1].detach().masked_fill(~torch.ones(read, read).tril().bool(), torch.nan)
            np.testing.assert_allclose(shown[:read, :read], wanted, atol=1e-6)
            assert np.isnan(shown[read:]).all()
    cross = bart.generate(torch.arange(3, 8)[None], **how | {"num_return_sequences": 1, "min_new_tokens": 5})
    given = attnviz.weights.from_outputs(cross, "cross")
    whole = bart(torch.arange(3, 8)[None], decoder_input_ids=cross.sequences[:, :-1], output_attentions=True)
    for one, attentions in zip(given, whole.cross_attentions, strict=True):
        torch.testing.assert_close(one.weights, attentions, atol=1e-6, rtol=0)


def test_beams_that_are_not_those_of_the_steps_are_refused():
    steps = [(torch.full((2, 1, 3, 3), 1 / 3),), (torch.full((2, 1, 1, 4), 0.25),)]
    for beams, said in (
        (torch.tensor([[0, 1, 1]]), "speaks of 3 steps, and 2 are given"),
        (torch.tensor([[0, 2]]), "beam 2 of step 1 is not there; layer 0 has 2"),
        (torch.tensor([0, 1]), r"has shape \(2,\), wanted whole numbers"),
    ):
        with pytest.raises(InputError, match=said):
            attnviz.weights.from_generate(steps, beam_indices=beams)


def test_steps_with_a_cache_that_drops_keys_are_refused():
    steps = ((softmax(1, 2, 3, 3),), (softmax(1, 2, 1, 3),))
    with pytest.raises(InputError, match=r"step 1 of layer 0 has shape \(1, 2, 1, 3\), wanted 4 keys"):
        attnviz.weights.from_generate(steps)


def test_no_attentions_say_how_to_get_them(gpt):
    for outputs in (SimpleNamespace(), SimpleNamespace(attentions=(None, None)), {"attentions": ()}):
        with pytest.raises(InputError, match="attn_implementation='eager'"):
            attnviz.weights.from_outputs(outputs)


def test_longformers_own_layout_is_refused():
    outputs = SimpleNamespace(attentions=(softmax(1, 2, 8, 5),), global_attentions=(softmax(1, 2, 8, 1),))
    with pytest.raises(InputError, match="of windows and global keys"):
        attnviz.weights.from_outputs(outputs)


def test_a_layer_without_attention_keeps_its_number():
    given = attnviz.weights.from_attentions((None, softmax(1, 2, 3, 3)))
    assert [one.layer for one in given] == [1]


def test_layers_in_a_list_keep_their_own_numbers():
    layers = attnviz.weights.from_cache({5: softmax(2, 3, 3), 7: softmax(2, 3, 3)})
    assert Layers(layers).labels == [5, 7]
    assert [inputs.layer for _, inputs in Layers(layers, [7])] == [7]
    assert Layers([layers[0], layers[0]]).labels == [0, 1]
    ax = attnviz.plot_overview(layers)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["5", "7"]


def test_the_arguments_of_bertviz():
    attention = tuple(softmax(1, 2, 5, 5, seed=n) for n in range(3))
    given = attnviz.weights.from_attentions(attention, WORDS)
    assert [one.layer for one in given] == [0, 1, 2]
    assert attnviz.plot_overview(given).get_title() == "3 layers, 6 heads, given"
    cross = attnviz.weights.from_attentions((softmax(1, 2, 3, 5),), WORDS, query_tokens=WORDS[:3], cross=True)
    assert attnviz.attention_map(cross[0], 0).query_labels == WORDS[:3]


@pytest.mark.parametrize("batched", [True, False])
def test_a_cache_of_transformer_lens(batched):
    cache: dict[str, Tensor] = {"hook_embed": torch.zeros(5, 4)}
    for n in (0, 10, 2):
        scores = torch.randn(2, 5, 5, dtype=torch.float64).masked_fill(~torch.ones(5, 5).tril().bool(), -torch.inf)
        cache[f"blocks.{n}.attn.hook_attn_scores"] = scores[None] if batched else scores
        cache[f"blocks.{n}.attn.hook_pattern"] = cache[f"blocks.{n}.attn.hook_attn_scores"].softmax(-1)
    given = attnviz.weights.from_cache(cache, WORDS, pattern="causal")
    assert [one.layer for one in given] == [0, 2, 10]
    shown = attnviz.attention_map(given[2], 1, values="logits")
    np.testing.assert_array_equal(
        np.nan_to_num(shown.cells, nan=-np.inf), cache["blocks.10.attn.hook_attn_scores"].view(2, 5, 5)[1]
    )
    with pytest.raises(InputError, match=r"no array is named x.\{layer\} with a number .*; there are hook_embed"):
        attnviz.weights.from_cache(cache, names="x.{layer}")


def test_a_cache_by_number():
    given = attnviz.weights.from_cache({3: softmax(2, 3, 3), 1: softmax(2, 3, 3)})
    assert [one.layer for one in given] == [1, 3]


HELD = {
    "outputs": lambda array: attnviz.weights.from_outputs(SimpleNamespace(attentions=(array[0][None], array[1][None]))),
    "a tuple": lambda array: attnviz.weights.from_attentions((array[0], array[1])),
    "steps": lambda array: attnviz.weights.from_generate(
        [[layer[None, :, :40, :40] for layer in array]]
        + [[layer[None, :, t : t + 1, : t + 1] for layer in array] for t in range(40, 64)]
    ),
    "a cache": lambda array: attnviz.weights.from_cache({f"blocks.{n}.attn.hook_pattern": array[n] for n in (0, 1)}),
    "an array": lambda array: attnviz.weights.from_array(array.numpy(), "lhts"),
    "an array of another library": lambda array: attnviz.weights.from_array(Foreign(array), "lhts"),
    "weights": lambda array: [AttentionWeights(array[:1]), AttentionWeights(array[1])],
}


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("name", HELD)
def test_from_an_object_to_numbers_and_to_a_picture(tmp_path, name):
    """Of two layers of two heads, the last head of the last layer has bright cells on dark ones, under the diagonal."""
    array = torch.full((2, 2, 64, 64), 0.02, dtype=torch.float64).tril()
    spots = [(10 * n + 8, 5 * n + 1) for n in range(5)]
    for t, s in spots:
        array[1, 1, t, s] = 1.0
    one = HELD[name](array)[1]
    cells = attnviz.attention_map(one, 1).cells
    np.testing.assert_array_equal(np.nan_to_num(cells), array[1, 1].numpy())
    ax = attnviz.plot(one, 1)
    ax.figure.savefig(tmp_path / "map.png", dpi=150)
    assert planted.seen(planted.opened(tmp_path / "map.png")) == len(spots) + 1  # and the color bar


class Foreign:
    """An array of another library, which speaks DLPack."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self.shape = tensor, tuple(tensor.shape)

    def __dlpack__(self, **options: object) -> object:
        return self._tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> object:
        return self._tensor.__dlpack_device__()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "hold",
    [
        lambda t: t,
        lambda t: (t.float() if t.dtype == torch.bfloat16 else t).numpy(),
        Foreign,
        lambda t: t.requires_grad_(),
    ],
)
def test_arrays_of_any_library(hold, dtype):
    tensor = softmax(2, 4, 5).to(dtype)
    one = AttentionWeights(hold(tensor.clone()))
    np.testing.assert_array_equal(attnviz.attention_map(one, 1).cells, tensor[1].double())


def test_lists_and_arrays_that_torch_has_no_word_for():
    assert AttentionWeights([[[0.5, 0.5]]]).weights.dtype == torch.float32
    swapped = softmax(2, 4, 5).numpy().astype(">f4")
    assert torch.equal(AttentionWeights(swapped).weights[0], torch.from_numpy(swapped.astype("<f4")))
    backwards = softmax(2, 4, 5).numpy()[:, ::-1]
    np.testing.assert_array_equal(AttentionWeights(backwards).weights[0], backwards)
    with pytest.raises(InputError, match="is no array of one shape"):
        AttentionWeights([[[0.5, 0.5], [1.0]]])
    with pytest.raises(InputError, match="wanted one of float16"):
        AttentionWeights(np.ones((1, 2, 2), dtype=np.int64))


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("hts", (2, 3, 4)),
        ("bhts", (5, 2, 3, 4)),
        ("lhts", (5, 2, 3, 4)),
        ("lbhts", (5, 1, 2, 3, 4)),
        (None, (2, 3, 4)),
        (None, (5, 1, 2, 3, 4)),
    ],
)
def test_one_array_of_all(layout, shape):
    array = softmax(*shape).numpy()
    given = attnviz.weights.from_array(array, layout)
    layered = len(shape) == 5 or layout == "lhts"
    assert [one.layer for one in given] == ([*range(5)] if layered else [None])
    wanted = array[-1] if layered else array
    np.testing.assert_array_equal(given[-1].weights.reshape(wanted.shape), wanted)


def test_rank_4_is_never_guessed():
    with pytest.raises(InputError, match=r"may be \(L, H, T, S\) or \(B, H, T, S\); say which: --layout lhts"):
        attnviz.weights.from_array(softmax(5, 2, 3, 4))


def test_shapes_that_do_not_fit_are_refused():
    for what, says in (
        ({"logits": torch.zeros(1, 2, 3, 5)}, "logits have shape"),
        ({"v": torch.zeros(1, 2, 4, 8)}, "v has shape"),
        ({"tokens": WORDS}, "tokens of batch item 0 has 5 labels, wanted 3"),
    ):
        with pytest.raises(InputError, match=says):
            AttentionWeights(softmax(2, 3, 3), **what)
