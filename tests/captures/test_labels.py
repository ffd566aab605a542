"""What layers are called: the module's own index in its own tower, in the model's words."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import attnviz
from attnviz.base.errors import Note
from attnviz.captures.labels import Labels
from attnviz.sources.naming import known, layers_of, order_of, prefix_of, split
from tests.captures.families import transformers
from tests.captures.test_models import captured


class Attention(nn.Module):
    """What modules of attention are recognized by."""


def labels(*names: str) -> list[str | int]:
    """The labels of modules of attention by these names; those that are called cross attend to another sequence."""
    made = Labels((name, Attention()) for name in names)
    found = [made.of(name, cross="cross" in name or "attn2" in name or "encoder_attn" in name) for name in names]
    return [f"{group}.{number}" if group else number for group, number in found]


TOWERS = {
    "one stack": (["encoder.layer.0.attention.self", "encoder.layer.1.attention.self"], [0, 1]),
    "a stack of which some layers attend": (["layers.3.self_attn", "layers.7.self_attn"], [3, 7]),
    "an encoder and a decoder": (
        [
            *("encoder.layers.0.self_attn", "encoder.layers.1.self_attn"),
            *("decoder.layers.0.self_attn", "decoder.layers.0.encoder_attn"),
            *("decoder.layers.1.self_attn", "decoder.layers.1.encoder_attn"),
        ],
        [0, 1, "decoder.0", "cross.0", "decoder.1", "cross.1"],
    ),
    "sublayers (T5)": (
        [
            *("encoder.block.0.layer.0.SelfAttention", "encoder.block.1.layer.0.SelfAttention"),
            *("decoder.block.0.layer.0.SelfAttention", "decoder.block.0.layer.1.cross"),
            *("decoder.block.1.layer.0.SelfAttention", "decoder.block.1.layer.1.cross"),
        ],
        [0, 1, "decoder.0", "cross.0", "decoder.1", "cross.1"],
    ),
    "text and pictures (CLIP)": (
        [
            *("text_model.encoder.layers.0.self_attn", "text_model.encoder.layers.1.self_attn"),
            *("vision_model.encoder.layers.0.self_attn", "vision_model.encoder.layers.1.self_attn"),
        ],
        [0, 1, "vision.0", "vision.1"],
    ),
    "pictures first (Qwen-VL)": (
        ["visual.blocks.0.attn", "visual.blocks.1.attn", "language_model.layers.0.self_attn"],
        ["vision.0", "vision.1", 0],
    ),
    "three towers (BLIP-2)": (
        [
            *("vision_model.encoder.layers.0.self_attn", "qformer.encoder.layer.0.attention.attention"),
            *("qformer.encoder.layer.0.crossattention.attention", "language_model.decoder.layers.0.self_attn"),
        ],
        ["vision.0", "qformer.0", "cross.0", 0],
    ),
    "a picture and two stacks of text (Florence-2)": (
        [
            *("vision_tower.blocks.0.attn", "language_model.encoder.layers.0.self_attn"),
            *("language_model.decoder.layers.0.self_attn", "language_model.decoder.layers.0.encoder_attn"),
        ],
        ["vision.0", 0, "decoder.0", "cross.0"],
    ),
    "stages (Swin)": (
        [
            *("encoder.layers.0.blocks.0.attention.self", "encoder.layers.0.blocks.1.attention.self"),
            *("encoder.layers.1.blocks.0.attention.self", "encoder.layers.1.blocks.1.attention.self"),
        ],
        [0, 1, 2, 3],
    ),
    "down, middle and up (UNet)": (
        [
            *(
                "down_blocks.0.attentions.0.transformer_blocks.0.attn1",
                "down_blocks.0.attentions.0.transformer_blocks.0.attn2",
            ),
            *(
                "down_blocks.1.attentions.0.transformer_blocks.0.attn1",
                "down_blocks.1.attentions.0.transformer_blocks.0.attn2",
            ),
            *(
                "up_blocks.0.attentions.0.transformer_blocks.0.attn1",
                "up_blocks.0.attentions.0.transformer_blocks.0.attn2",
            ),
            *("mid_block.attentions.0.transformer_blocks.0.attn1", "mid_block.attentions.0.transformer_blocks.0.attn2"),
        ],
        [0, "cross.0", 1, "cross.1", 2, "cross.2", 3, "cross.3"],
    ),
    "two in a layer (TimeSformer)": (
        [
            *("encoder.layer.0.attention.attention", "encoder.layer.0.temporal_attention.attention"),
            *("encoder.layer.1.attention.attention", "encoder.layer.1.temporal_attention.attention"),
        ],
        [0, "temporal.0", 1, "temporal.1"],
    ),
    "sound and text": (
        ["audio_tower.layers.0.self_attn", "language_model.layers.0.self_attn", "language_model.layers.1.self_attn"],
        ["audio.0", 0, 1],
    ),
    "lists called after their towers (LXMERT)": (
        ["encoder.layer.0.attention.self", "encoder.layer.1.attention.self", "encoder.r_layers.0.attention.self"],
        [0, 1, "r.0"],
    ),
    "time and space (VideoPrism)": (
        ["spatial_layers.0.attention", "spatial_layers.1.attention", "temporal_layers.0.attention"],
        [0, 1, "temporal.0"],
    ),
    "a module of its own": ([""], [0]),
}


@pytest.mark.parametrize("kind", TOWERS)
def test_layers_are_called_as_the_model_calls_them(kind):
    names, expected = TOWERS[kind]
    assert labels(*names) == expected


@pytest.mark.parametrize("kind", TOWERS)
def test_what_a_layer_is_called_does_not_depend_on_what_ran_before(kind):
    names, expected = TOWERS[kind]
    made = Labels((name, Attention()) for name in names)
    for name, label in reversed([*zip(names, expected, strict=True)]):
        group, number = made.of(name, cross=str(label).startswith("cross"))
        assert label == (f"{group}.{number}" if group else number)


def test_labels_and_names_of_tensors_are_each_others():
    for label in (0, 12, "cross.3", "vision.1.calls.2", "0.calls.3"):
        assert layers_of([f"{prefix_of(label)}q"]) == [label]
        group, number, call = split(label)
        assert str(label).startswith(f"{group}.{number}" if group else str(number))
        assert (call > 1) == ("calls" in str(label))


def test_the_order_is_encoder_others_decoder_cross():
    mixed = ["cross.0", "decoder.1", 1, "vision.0", "0.calls.2", 0, "decoder.0"]
    assert sorted(mixed, key=order_of) == [0, "0.calls.2", 1, "vision.0", "decoder.0", "decoder.1", "cross.0"]


def test_text_is_another_name_for_the_main_tower(tmp_path):
    assert known("text.5", [5, "vision.5"]) == 5
    assert known("text.5", [5, "text.5"]) == "text.5"
    config = transformers.CLIPConfig(
        text_config={
            "vocab_size": 50,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "eos_token_id": 2,
        },
        vision_config={
            "image_size": 12,
            "patch_size": 4,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
        },
    )
    model = transformers.CLIPModel(config).eval()
    given = {"input_ids": torch.randint(3, 50, (1, 7)), "pixel_values": torch.randn(1, 3, 12, 12)}
    run, _ = captured(model, given)
    assert sorted(run.layers, key=order_of) == [0, 1, "vision.0", "vision.1", "vision.2"]
    run.save(tmp_path / "run.safetensors")
    for inputs in (run.inputs("text.1"), attnviz.load(tmp_path / "run.safetensors", layer="text.1")):
        assert inputs.q.equal(run.inputs(1).q)
    chosen, _ = captured(model, given, layers=["text.1"])
    assert chosen.layers == [1]


class Twice(nn.Module):
    """A model that shows a picture of two to one tower."""

    def __init__(self) -> None:
        super().__init__()
        self.vision, self.text = nn.ModuleList([Own(), Own()]), nn.ModuleList([Own()])

    def forward(self, x: Tensor) -> Tensor:
        for picture in (x, x + 1):
            for layer in self.vision:
                picture = layer(picture)
        return self.text[0](x + picture)


class Own(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


def test_a_module_that_runs_again_in_a_pass_is_a_further_call_of_its_layer(tmp_path):
    x = torch.randn(1, 2, 5, 8)
    run, _ = captured(Twice(), {"x": x})
    assert run.layers == ["vision.0", "vision.1", "vision.0.calls.2", "vision.1.calls.2", 0]
    assert run.inputs("vision.0").q.equal(x)
    assert run.inputs("vision.0.calls.2").q.equal(x + 1)
    run.save(tmp_path / "run.safetensors")
    assert layers_of(attnviz.sources.files.open_tensors(tmp_path / "run.safetensors").contents) == [
        0,
        *("vision.0", "vision.0.calls.2", "vision.1", "vision.1.calls.2"),
    ]
    assert attnviz.load(tmp_path / "run.safetensors", layer="vision.0.calls.2").q.equal(x + 1)


def test_a_second_pass_is_no_further_call():
    model = Twice()
    with attnviz.capture(model) as run:
        model(torch.randn(1, 2, 5, 8))
        model(torch.randn(1, 2, 6, 8))
    assert {str(label) for label in run.layers} == {"vision.0", "vision.1", "vision.0.calls.2", "vision.1.calls.2", "0"}
    assert run.inputs(0).T == 6


def test_the_sense_names_its_layers_before_the_head_that_pools_them():
    names = ["text_model.encoder.layers.0.self_attn", "vision_model.head.attention"]
    names += [f"vision_model.encoder.layers.{n}.self_attn" for n in range(2)]
    assert labels(*names) == [0, "head.0", "vision.0", "vision.1"]


def test_a_part_of_a_list_called_cross_is_cross_where_it_says_so_itself():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn, self.cross_attention = Own(), Own()

        def forward(self, x: Tensor, other: Tensor) -> Tensor:
            return self.cross_attention(self.self_attn(x, x), other)

    class Own(Attention):
        def forward(self, x: Tensor, other: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, other, other)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cross_modal = nn.ModuleList([Both(), Both()])

        def forward(self, x: Tensor, other: Tensor) -> Tensor:
            for layer in self.cross_modal:
                x = layer(x, other)
            return x

    run, _ = captured(Model(), {"x": torch.randn(1, 2, 5, 4), "other": torch.randn(1, 2, 5, 4)})
    assert run.layers == [0, "cross.0", 1, "cross.1"]
    assert [run.inputs(layer).cross for layer in run.layers] == [False, True, False, True]


def test_self_attention_that_is_given_itself_as_the_other_sequence_is_none():
    class Own(Attention):
        def forward(self, x: Tensor, context: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, context, context)

    x, y = torch.randn(2, 1, 5, 4)
    for context, cross in ((x, False), (y, True)):
        run, _ = captured(Own(), {"x": x, "context": context})
        assert run.inputs(run.layers[0]).cross is cross


def test_attention_around_attention_has_a_name_of_its_own():
    """An adapter that attends to a prompt of its own, around a layer of the model's."""

    class Inner(Attention):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    class Around(Attention):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.prompt = Inner(), nn.Parameter(torch.randn(1, 2, 3, 4))

        def forward(self, x: Tensor) -> Tensor:
            weights = (x @ self.prompt.expand(len(x), -1, -1, -1).transpose(2, 3)).softmax(-1)
            return self.model(x) + weights @ self.prompt

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.ModuleDict({"self_attn": Around()}) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer["self_attn"](x)
            return x

    run, _ = captured(Model(), {"x": torch.randn(1, 2, 5, 4)})
    stacks = {label: run._layers[label].stack for label in run.layers}
    assert {stacks[label] for label in (0, 1)} in (
        {f"layers.{n}.self_attn{end}" for n in (0, 1)} for end in ("", ".model")
    )
    assert len(run.layers) == 4
    for label, stack in stacks.items():
        assert str(label).rpartition(".")[2] == stack.split(".")[1]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("tokens", [4, 6])
def test_attention_over_channels_says_so(fused, tokens):
    """XCiT's, with as many tokens as a head has channels or another number; token by token nothing is said."""

    class Channels(Attention):
        def __init__(self, over: bool) -> None:
            super().__init__()
            self.over, self.proj = over, nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            q = x.unflatten(2, (2, 4)).permute(0, 2, 3, 1) if self.over else x.unflatten(2, (2, 4)).transpose(1, 2)
            if fused:
                made = nn.functional.scaled_dot_product_attention(q, q, q)
            else:
                made = (q @ q.transpose(-2, -1)).softmax(-1) @ q
            made = made.permute(0, 3, 1, 2) if self.over else made.transpose(1, 2)
            return self.proj(made.reshape(x.shape))

    x = torch.randn(2, tokens, 8)
    with pytest.warns(Note, match=r"layers 0 attend over channels"):
        run, _ = captured(Channels(True), {"x": x})
    assert (run.inputs(0).T, run.inputs(0).S, run.inputs(0).w_o) == (4, 4, None)
    assert list(run.inputs(0).tokens[0]) == [f"channel {n}" for n in range(4)]
    run, _ = captured(Channels(False), {"x": x})
    assert run.notes == []
    assert run.inputs(0).w_o is not None


def test_layers_that_are_not_called_attention_keep_their_place_before_those_that_are():
    """XCiT's: a layer over channels has a name of its own, and stands before those of the class token."""

    class Over(nn.Module):
        pass

    names = {"cls_attn_blocks.0.attn": Attention(), "cls_attn_blocks.1.attn": Attention()}
    made = Labels({"blocks.0.attn": Over(), "blocks.1.attn": Over(), **names}.items())
    found = [made.of(f"{stack}.{n}.attn", cross=False) for stack in ("blocks", "cls_attn_blocks") for n in (0, 1)]
    assert found == [("", 0), ("", 1), ("", 2), ("", 3)]


def test_one_head_in_front_of_a_convolution_attends_over_tokens():
    class Convolved(Attention):
        def __init__(self) -> None:
            super().__init__()
            self.proj = nn.Conv1d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:  # (B, channels, tokens)
            weights = (x.transpose(1, 2) @ x).softmax(-1)
            return self.proj(x @ weights.transpose(1, 2))

    run, _ = captured(Convolved(), {"x": torch.randn(2, 4, 6)})
    assert (run.notes, run.inputs(0).T) == ([], 6)
