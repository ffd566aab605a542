"""``residual_norms``: the lengths of what an attention's output is added to and of what is added, against the model's own tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attnviz
from attnviz import InputError
from tests.captures.families import transformers
from tests.captures.tiny import built, families, fed

ADDED = {
    "bert": "encoder.layer.{}.attention.output.dense",  # post-norm
    "gpt2": "h.{}.attn.c_proj",  # pre-norm
    "gptj": "h.{}.attn.out_proj",  # an MLP beside it
    "gpt_neox": "layers.{}.attention.dense",
    "falcon": "h.{}.self_attention.dense",
    "llama": "layers.{}.self_attn.o_proj",
    "gemma2": "layers.{}.post_attention_layernorm",  # a norm after it
    "granite": "layers.{}.self_attn.o_proj",  # scaled
    "dinov2": "layers.{}.layer_scale1",
    "t5": "encoder.block.{}.layer.0.SelfAttention.o",
    "bloom": "h.{}.self_attention.dense",
}
"""Whose output is what is added, by the layer's number."""


def lengths(tensor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(tensor.double(), dim=-1)


@pytest.mark.sweep(keep=4)
@pytest.mark.parametrize("kind", ADDED)
def test_they_are_those_of_the_models_own_hidden_states(kind):
    model = built(kind, dict(families())[kind], "eager")
    given = fed(model)
    model, added = model.double().eval(), {}
    given = {
        name: one.double() if torch.is_floating_point(one) else one
        for name, one in given.items()
        if isinstance(one, Tensor)
    }
    for n in range(2):
        model.get_submodule(ADDED[kind].format(n)).register_forward_hook(lambda m, _, out, n=n: added.update({n: out}))
    with torch.no_grad(), attnviz.capture(model) as run:
        output = model(**given, output_hidden_states=True)
    states = getattr(output, "hidden_states", None) or output.encoder_hidden_states
    times = getattr(model.config, "residual_multiplier", 1.0)
    for n in range(2):
        expected = torch.stack([lengths(states[n]), lengths(added[n] * times)], dim=-1)
        torch.testing.assert_close(run.inputs(n).residual_norms, expected, atol=1e-9, rtol=1e-9, equal_nan=True)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_items_and_tokens_are_told_apart_where_there_are_as_many(batch_first, norm_first):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, norm_first=norm_first).double().eval()
    x = torch.randn(3, 3, 8, dtype=torch.float64)
    with torch.no_grad(), attnviz.capture(layer) as run:
        layer(x)
    given = layer.norm1(x) if norm_first else x
    added = layer.self_attn(given, given, given)[0].detach()
    expected = torch.stack([lengths(x), lengths(added)], dim=-1)
    found = run.inputs(run.layers[0]).residual_norms
    torch.testing.assert_close(found, expected if batch_first else expected.transpose(0, 1))


class Block(nn.Module):
    """An attention, and what becomes of its output."""

    def __init__(self, then: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.norm, self.qkv, self.out, self.mlp = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 8)
        self.drop, self.then = nn.Dropout(0.5), then

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return self.then(self, x, self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))


KNOWN: dict[str, tuple[Any, float, float]] = {
    "plain": (lambda m, x, y: x + y, 1, 1),
    "in place": (lambda m, x, y: y.add_(x), 1, 1),
    "by a function": (lambda m, x, y: torch.add(y, x), 1, 1),
    "scaled residual": (lambda m, x, y: x * 3 + y * 2, 3, 2),
    "an MLP beside it, dropped": (lambda m, x, y: m.drop(m.mlp(m.norm(x))) + y + x, 1, 1),
    "flat": (lambda m, x, y: (x.view(-1, 8) + y.view(-1, 8)).view(x.shape), 1, 1),
    "to another dtype and back": (lambda m, x, y: x + y.float().to(y.dtype), 1, 1),
}
UNKNOWN: dict[str, Any] = {
    "no residual": lambda m, x, y: y,
    "another layer": lambda m, x, y: x + m.mlp(y),
    "added to an MLP": lambda m, x, y: y + m.mlp(x),
    "scaled in the sum": lambda m, x, y: torch.add(x, y, alpha=2),
    "subtracted": lambda m, x, y: x - y,
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_added_is_followed_to_the_residual(name):
    then, of_residual, of_added = KNOWN[name]
    block, x, made = Block(then).eval(), torch.randn(2, 5, 8), []
    block.out.register_forward_hook(lambda module, _, output: made.append(output.clone()))
    with torch.no_grad(), attnviz.capture(block) as run:
        block(x)
    expected = torch.stack([lengths(x) * of_residual, lengths(made[0]) * of_added], dim=-1)
    torch.testing.assert_close(run.inputs(0).residual_norms.double(), expected)


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_goes_elsewhere_has_none(name):
    with torch.no_grad(), attnviz.capture(Block(UNKNOWN[name]).eval()) as run:
        run._model(torch.randn(2, 5, 8))
    assert run.inputs(0).residual_norms is None
    with pytest.raises(InputError, match=r"Block layer 0: rollout by norms .* which capture keeps where it sees them"):
        attnviz.attention_map(run.inputs(0), 0, rollout=True, values="norms")


def test_steps_of_a_generate_have_those_of_one_pass(tmp_path):
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad(), attnviz.capture(model) as run:
        ids = model.generate(torch.tensor([[5, 6, 7], [8, 9, 3]]), max_new_tokens=4, do_sample=False, pad_token_id=0)
    with torch.no_grad(), attnviz.capture(model, out=tmp_path / "whole.safetensors"):
        model(ids[:, :-1])
    for layer in range(2):
        whole = attnviz.load(tmp_path / "whole.safetensors", layer=layer)
        torch.testing.assert_close(run.inputs(layer).residual_norms, whole.residual_norms)
        assert whole.residual_norms.shape == (2, 6, 2)
    found = attnviz.attention_map([run.inputs(0), run.inputs(1)], 0, rollout=True, values="norms")
    torch.testing.assert_close(torch.from_numpy(found.cells).nansum(1), torch.ones(6, dtype=torch.float64))
