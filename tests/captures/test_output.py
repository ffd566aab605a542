"""``w_o``: what projects the heads' context, against what the model's own layer makes of it, whatever that is called."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attnviz
from attnviz import AttentionInputs
from tests.captures.families import FAMILIES, transformers
from tests.captures.test_models import weights

PROJECTIONS = {
    "BERT": "encoder.layer.{}.attention.output.dense",
    "GPT-2": "h.{}.attn.c_proj",
    "Llama": "layers.{}.self_attn.o_proj",
    "T5": "encoder.block.{}.layer.0.SelfAttention.o",
    "BigBird": "encoder.layer.{}.attention.output.dense",
    "Longformer": "encoder.layer.{}.attention.output.dense",
}


def projected(inputs: Any) -> Tensor:
    """The context of all heads through ``w_o``, (B, T, d_model)."""
    made = [
        torch.einsum("htd,hdm->tm", attnviz.context(inputs, batch=b).nan_to_num().double(), inputs.w_o.double())
        for b in range(inputs.B)
    ]
    return torch.stack(made)


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("name", PROJECTIONS)
def test_the_models_own_output_follows_from_it(name):
    family = FAMILIES[name]
    model, own = family.build(), {}
    hooks = [
        model.get_submodule(PROJECTIONS[name].format(n)).register_forward_hook(
            lambda module, _, output, n=n: own.update({n: (output, getattr(module, "bias", None))})
        )
        for n in range(2)
    ]
    with torch.no_grad(), attnviz.capture(model) as run:
        model(**family.inputs("right"))
    assert len(hooks) == len(own) == 2
    for n, (output, bias) in own.items():
        inputs = run.inputs(n)
        expected = (output if bias is None else output - bias).double()
        made = projected(inputs)
        seen = torch.stack([weights(inputs, b).sum(-1).amax(0) > 0 for b in range(inputs.B)])  # (B, T)
        torch.testing.assert_close(made[seen], expected[:, : inputs.T][seen], atol=2e-5, rtol=1e-4)


class Attention(nn.Module):
    """Multiplies by itself or has torch do it; what stands between its context and its projection is said."""

    def __init__(self, between: nn.Module, out: nn.Module, *, own: bool) -> None:
        super().__init__()
        self.num_heads, self.own = 2, own
        self.of, self.between, self.out = nn.Linear(16, 48), between, out

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.of(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        context = (q @ k.mT).softmax(-1) @ v if self.own else F.scaled_dot_product_attention(q, k, v)
        made: Tensor = self.out(self.between(context.transpose(1, 2).flatten(2)))
        return made


class Added(nn.Module):
    """A layer beside which another adds: LoRA."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.more = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.base(x) + self.more(x)
        return made


KINDS: dict[str, tuple[nn.Module, nn.Module, bool]] = {
    "a linear layer": (nn.Identity(), nn.Linear(16, 16), True),
    "of another width": (nn.Identity(), nn.Linear(16, 24, bias=False), True),
    "after dropout, in a sequence": (nn.Dropout(0.5), nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.5)), True),
    "a transposed weight": (nn.Identity(), transformers.pytorch_utils.Conv1D(16, 16), True),
    "after a norm": (nn.LayerNorm(16), nn.Linear(16, 16), False),
    "with another beside it": (nn.Identity(), Added(), False),
    "none": (nn.Identity(), nn.Tanh(), False),
}


@pytest.mark.sweep(keep=4)
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_known_where_the_context_goes_straight_into_a_layer(kind, own, tmp_path):
    between, out, known = KINDS[kind]
    torch.manual_seed(0)
    for parameter in out.parameters():
        nn.init.normal_(parameter)
    model, path = Attention(between, out, own=own).eval(), tmp_path / "run.safetensors"
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        with attnviz.capture(model) as run:
            output = model(x)
        with attnviz.capture(model, out=path):
            model(x)
    for inputs in (run.inputs(0), attnviz.load(path, layer=0)):
        assert (inputs.w_o is not None) == known
        if known:
            bias = next((one.bias for one in out.modules() if getattr(one, "bias", None) is not None), 0.0)
            torch.testing.assert_close(projected(inputs), (output - bias).double(), atol=1e-5, rtol=1e-5)


def test_norms_of_a_captured_model_are_those_of_what_values_become():
    attention = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    x = torch.randn(1, 6, 16)
    with torch.no_grad(), attnviz.capture(attention) as run:
        _, own = attention(x, x, x, average_attn_weights=False)
    inputs = run.inputs(0)
    assert isinstance(inputs, AttentionInputs)
    with torch.no_grad():
        v = F.linear(x, attention.in_proj_weight[32:], attention.in_proj_bias[32:]).unflatten(-1, (2, 8))[
            0
        ]  # (S, H, D)
        parts = attention.out_proj.weight.unflatten(1, (2, 8))  # (d_model, H, D)
    for head in range(2):
        lengths = (v[:, head] @ parts[:, head].T).norm(dim=-1)
        shown = attnviz.attention_map(inputs, head, values="norms")
        torch.testing.assert_close(
            torch.from_numpy(shown.cells), (own[0, head] * lengths).double(), atol=1e-6, rtol=1e-5
        )
        assert shown.measured == "weight × ‖v w_o‖"


def test_rollout_of_a_captured_model():
    family = FAMILIES["Llama"]
    model = family.build()
    with torch.no_grad(), attnviz.capture(model) as run:
        own = model(**family.inputs("left"), output_attentions=True).attentions
    made = attnviz.attention_map([run.inputs(n) for n in run.layers], 0, rollout=True)
    eye = torch.eye(made.cells.shape[0], dtype=torch.float64)
    mean = [one[0].double().mean(0) for one in own]
    expected = (mean[1] + eye) / 2 @ ((mean[0] + eye) / 2)
    torch.testing.assert_close(torch.from_numpy(made.cells).nan_to_num(), expected, atol=1e-6, rtol=1e-5)
