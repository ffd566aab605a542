"""Models of other packages, each against its own weights: timm, diffusers, open_clip, x-transformers, PEFT, TransformerLens.

Those of the extra ``models`` run with ``make families``; what is missing is skipped. timm and open_clip bring torchvision, which
must be built for the torch there is, and TransformerLens much that it doesn't need here: they run where they are installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attnviz
from attnviz.base.errors import Note
from tests.captures.test_models import weights

TOLERANCE = 1e-5
pytestmark = pytest.mark.families


def package(name: str) -> Any:
    """A package, or a skipped test."""
    try:
        return pytest.importorskip(name, exc_type=ImportError)
    except RuntimeError as error:  # torchvision of another build of torch
        pytest.skip(f"{name}: {error}")


def captured(model: nn.Module, *given: Any, fused: bool = False, **named: Any) -> tuple[attnviz.Run, Any]:
    """A run, and the output, the same to the last bit as without; ``fused``: but for torch's fused layers, which run plain."""
    with torch.no_grad():
        alone = model(*given, **named)
        with attnviz.capture(model) as run:
            output = model(*given, **named)
    for a, b in zip(tensors_in(alone), tensors_in(output), strict=True):
        torch.testing.assert_close(a, b, **({} if fused else {"atol": 0, "rtol": 0}))
    assert not run.notes
    return run, output


def tensors_in(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for one in output.values():
            yield from tensors_in(one)
    elif isinstance(output, list | tuple):
        for one in output:
            yield from tensors_in(one)


def check(run: attnviz.Run, own: dict[attnviz.Label, Tensor]) -> None:
    """That each layer has the weights that the model has, (B, H, T, S), and none is without."""
    assert sorted(map(str, run.layers)) == sorted(map(str, own))
    for label, expected in own.items():
        inputs = run.inputs(label)
        for b in range(len(expected)):
            torch.testing.assert_close(weights(inputs, b), expected[b].double(), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "cait_xxs24_224", "swinv2_tiny_window8_256"])
def test_timm(name, fused):
    timm = package("timm")
    torch.manual_seed(0)
    sizes: dict[str, dict[str, Any]] = {
        "vit_tiny_patch16_224": {"img_size": 32, "depth": 2},
        "cait_xxs24_224": {"img_size": 32, "depth": 2},
        "swinv2_tiny_window8_256": {"img_size": 64, "depths": (1, 1), "num_heads": (2, 4), "embed_dim": 16},
    }
    model = timm.create_model(name, pretrained=False, num_classes=4, **sizes[name]).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    picture = torch.randn(2, 3, sizes[name]["img_size"], sizes[name]["img_size"])
    run, _ = captured(model, picture)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    own: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, args: own.append(args[0]))
        for called, module in model.named_modules()
        if called.endswith("attn.attn_drop")
    ]
    with torch.no_grad():
        model(picture)
    assert len(hooks) == len(own) == len(run.layers)
    check(run, dict(enumerate(own)))


@pytest.mark.parametrize("fused", [True, False])
def test_timm_over_channels(fused):
    timm = package("timm")
    torch.manual_seed(0)
    model = timm.create_model("xcit_nano_12_p16_224", pretrained=False, num_classes=4, img_size=32, depth=2).eval()
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    with torch.no_grad(), pytest.warns(Note, match="layers 0, 1 attend over channels"), attnviz.capture(model) as run:
        model(torch.randn(2, 3, 32, 32))
    assert list(run.inputs(0).tokens[0])[:2] == ["channel 0", "channel 1"]


def test_diffusers_unet():
    diffusers = package("diffusers")
    torch.manual_seed(0)
    model = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=24,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    ).eval()
    shown = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    given = (torch.randn(2, 4, 8, 8), 3, torch.randn(2, 5, 24))
    run, _ = captured(model, *given, encoder_attention_mask=shown)
    own = diffusers_weights(model, lambda: model(*given, encoder_attention_mask=shown))
    blocks = [
        "down_blocks.1.attentions.0",
        "up_blocks.0.attentions.0",
        "up_blocks.0.attentions.1",
        "mid_block.attentions.0",
    ]
    whose = {f"{block}.transformer_blocks.0": n for n, block in enumerate(blocks)}
    expected: dict[attnviz.Label, Tensor] = {
        whose[n.removesuffix(".attn1")]: w for n, w in own.items() if n.endswith("1")
    }
    expected |= {f"cross.{whose[n.removesuffix('.attn2')]}": w for n, w in own.items() if n.endswith("2")}
    check(run, expected)
    assert run.inputs("cross.0").cross
    assert not run.inputs(0).cross


def diffusers_weights(model: nn.Module, run: Callable[[], Any]) -> dict[str, Tensor]:
    """The weights that each attention of diffusers computes where it multiplies by itself, (B, H, T, S)."""
    from diffusers.models.attention_processor import Attention, AttnProcessor

    found: dict[str, Tensor] = {}
    model.set_attn_processor(AttnProcessor()) if hasattr(model, "set_attn_processor") else None
    for name, module in model.named_modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())
            own = module.get_attention_scores

            def kept(*args: Any, own: Any = own, name: str = name, heads: int = module.heads) -> Tensor:
                made: Tensor = own(*args)
                found[name] = made.unflatten(0, (-1, heads))
                return made

            module.get_attention_scores = kept
    with torch.no_grad():
        run()
    return found


def test_diffusers_dit():
    diffusers = package("diffusers")
    torch.manual_seed(0)
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        norm_num_groups=4,
        num_embeds_ada_norm=10,
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # its gates begin at 0
    given = {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "timestep": torch.tensor([3, 4]),
        "class_labels": torch.tensor([1, 2]),
    }
    run, _ = captured(model, **given)
    own = diffusers_weights(model, lambda: model(**given))
    check(run, {int(name.split(".")[1]): made for name, made in own.items()})


def test_diffusers_joint_attention_is_of_one_sequence():
    diffusers = package("diffusers")
    model = diffusers.SD3Transformer2DModel(
        sample_size=4,
        patch_size=1,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        out_channels=4,
    ).eval()
    run, _ = captured(
        model,
        hidden_states=torch.randn(1, 4, 4, 4),
        encoder_hidden_states=torch.randn(1, 6, 16),
        pooled_projections=torch.randn(1, 16),
        timestep=torch.tensor([1]),
    )
    assert run.layers == [0, 1]
    assert [(run.inputs(n).T, run.inputs(n).S, run.inputs(n).cross) for n in run.layers] == [(22, 22, False)] * 2


def test_open_clip():
    open_clip = package("open_clip")
    torch.manual_seed(0)
    model = open_clip.model.CLIP(
        embed_dim=16,
        vision_cfg={"layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 16},
        text_cfg={"context_length": 9, "vocab_size": 50, "width": 32, "heads": 4, "layers": 2},
    ).eval()
    given = (torch.randn(2, 3, 16, 16), torch.randint(1, 49, (2, 9)))
    run, _ = captured(model, *given, fused=True)
    own: dict[attnviz.Label, Tensor] = {}

    def weighed(module: nn.Module, args: Any, named: Any) -> None:
        if named.get("average_attn_weights", True):  # not the call made here
            name = names[module]
            label: attnviz.Label = int(name.split(".")[-2])
            label = f"vision.{label}" if name.startswith("visual") else label
            own[label] = module(*args, **{**named, "need_weights": True, "average_attn_weights": False})[1]

    names = {module: name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)}
    for module in names:
        module.register_forward_pre_hook(weighed, with_kwargs=True)
    with torch.no_grad():
        model(*given)
    check(run, own)


def test_open_clip_coca():
    package("open_clip")
    from open_clip.coca_model import CoCa

    torch.manual_seed(0)
    sizes = {"context_length": 9, "vocab_size": 50, "width": 32, "heads": 4, "layers": 2}
    model = CoCa(
        embed_dim=32,
        multimodal_cfg=sizes,
        text_cfg={**sizes, "embed_cls": True, "output_tokens": True},
        vision_cfg={
            **{"layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 16},
            **{"attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
        },
    ).eval()
    for parameter in model.parameters():  # some begin as whatever was there
        torch.nn.init.normal_(parameter, std=0.2)
    run, _ = captured(model, torch.randn(2, 3, 16, 16), torch.randint(1, 49, (2, 9)), fused=True)
    stacks = {label: run._layers[label].stack for label in run.layers}
    assert [stacks[label] for label in (0, 1)] == [f"text.transformer.resblocks.{n}.attn" for n in (0, 1)]
    assert [stacks[label] for label in ("cross.0", "cross.1")] == [f"text_decoder.cross_attn.{n}.attn" for n in (0, 1)]
    assert len(run.layers) == 9


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "flash": {"attn_flash": True},
    "rotary, grouped": {"rotary_pos_emb": True, "attn_kv_heads": 2},
    "flash, grouped": {"attn_flash": True, "attn_kv_heads": 2},
    "alibi": {"alibi_pos_bias": True},
    "flash, alibi": {"attn_flash": True, "alibi_pos_bias": True},
    "heads talk before": {"attn_pre_talking_heads": True},
    "heads talk after": {"attn_post_talking_heads": True},
    "memory": {"attn_num_mem_kv": 2},
    "softcap": {"attn_softclamp_logits": True},
    "the largest alone": {"attn_sparse_topk": 2},
}


@pytest.mark.parametrize("kind", KINDS)
def test_x_transformers(kind):
    package("x_transformers")
    from x_transformers import Decoder, TransformerWrapper

    torch.manual_seed(0)
    options = {"dim": 32, "depth": 2, "heads": 4, "attn_dim_head": 8}
    model = TransformerWrapper(num_tokens=40, max_seq_len=16, attn_layers=Decoder(**options, **KINDS[kind])).eval()
    plain = TransformerWrapper(
        num_tokens=40, max_seq_len=16, attn_layers=Decoder(**options, **KINDS[kind] | {"attn_flash": False})
    ).eval()
    plain.load_state_dict(model.state_dict())
    ids = torch.randint(0, 40, (2, 9))
    run, _ = captured(model, ids)
    with torch.no_grad():
        _, own = plain(ids, return_attn=True)
    check(run, dict(zip([0, 2], own, strict=True)))  # every second layer is no attention


def test_x_transformers_of_two_sequences():
    package("x_transformers")
    from x_transformers import XTransformer

    sizes = {"num_tokens": 40, "depth": 1, "heads": 4, "max_seq_len": 16}
    both = {f"{part}_{name}": value for part in ("enc", "dec") for name, value in sizes.items()}
    model = XTransformer(dim=32, **both).eval()
    run, _ = captured(model, torch.randint(0, 40, (2, 9)), torch.randint(0, 40, (2, 9)))
    assert run.layers == [0, "decoder.0", "cross.1"]
    assert [run.inputs(label).cross for label in run.layers] == [False, False, True]


@pytest.mark.parametrize("kind", ["LoraConfig", "IA3Config", "PromptTuningConfig", "PrefixTuningConfig"])
def test_peft(kind):
    peft = package("peft")
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        initializer_range=0.3,
        attn_implementation="eager",
    )
    model = transformers.LlamaForCausalLM(config)
    more = {"num_virtual_tokens": 3} if "Tuning" in kind else {}
    model = peft.get_peft_model(model, getattr(peft, kind)(task_type="CAUSAL_LM", **more)).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    run, output = captured(model, input_ids=torch.randint(0, 40, (2, 9)), output_attentions=True)
    check(run, dict(enumerate(output.attentions)))


def test_peft_adaption_prompt():
    """A prompt that each layer attends to beside its own attention, whose labels stay the model's."""
    peft = package("peft")
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    model = transformers.LlamaForCausalLM(config)
    model = peft.get_peft_model(
        model, peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=4, adapter_layers=2)
    ).eval()
    run, _ = captured(model, input_ids=torch.randint(0, 40, (2, 9)))
    stacks = {label: run._layers[label].stack.rpartition("layers.")[2] for label in run.layers}
    assert stacks == {n: f"{n}.self_attn.model" for n in (0, 1)} | {f"self_attn.{n}": f"{n}.self_attn" for n in (0, 1)}


@pytest.mark.parametrize("positions", ["standard", "rotary"])
def test_transformer_lens(positions):
    package("transformer_lens")
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    torch.manual_seed(0)
    config = TransformerBridgeConfig(
        n_layers=2,
        d_model=32,
        n_ctx=16,
        d_head=8,
        n_heads=4,
        d_vocab=40,
        d_mlp=48,
        act_fn="relu",
        positional_embedding_type=positions,
    )
    model = TransformerBridge.boot_native(config).eval()
    ids = torch.randint(0, 40, (2, 9))
    run, _ = captured(model, ids)
    with torch.no_grad():
        _, cache = model.run_with_cache(ids)
    check(run, {n: cache[f"blocks.{n}.attn.hook_pattern"] for n in range(2)})
