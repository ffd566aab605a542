"""Models that multiply by themselves: captured as the weights of their own softmax."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attnviz
from attnviz import AttentionWeights, InputError
from attnviz.base.errors import Note
from tests.captures.families import B, ids, padded, transformers
from tests.captures.test_models import captured, weights

_PLAIN: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
_RELATIVE: dict[str, Any] = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "Bloom": ("Bloom", {"vocab_size": 50, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "causal"),
    "MPT": ("Mpt", {"vocab_size": 50, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}, "causal"),
    "DeBERTa": ("Deberta", _PLAIN | _RELATIVE, "full"),
    "DeBERTa v2": ("DebertaV2", _PLAIN | _RELATIVE, "full"),
    "XLNet": ("XLNet", {"vocab_size": 50, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}, "own mask"),
    "MPNet": ("MPNet", _PLAIN, "full"),
    "GPT-Neo": (
        "GPTNeo",
        {
            **{"vocab_size": 50, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 4},
            **{"attention_types": [[["local", "global"], 1]], "max_position_embeddings": 64, "initializer_range": 0.3},
        },
        "local, window 3, causal",
    ),
}
models = pytest.mark.parametrize("name", MODELS)


def built(name: str, kind: str = "Model") -> nn.Module:
    family, settings, _ = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**settings, bos_token_id=1, eos_token_id=2)
    made: nn.Module = getattr(transformers, f"{family}{kind}")._from_config(config, attn_implementation="eager")
    return made.eval()


@pytest.mark.sweep(keep=2)
@models
def test_weights_are_the_models_own(name, tmp_path):
    model, given = built(name), {"input_ids": ids(), "attention_mask": padded("right")}
    with torch.no_grad():
        attentions = model(**given, output_attentions=True).attentions
    run, _ = captured(model, given)
    assert run.layers == [0, 1]
    assert run.notes == []
    assert str(run.inputs(0).pattern) == MODELS[name][2]
    run.save(tmp_path / "run.safetensors")
    for label in run.layers:
        for inputs in (run.inputs(label), attnviz.load(tmp_path / "run.safetensors", layer=label)):
            assert isinstance(inputs, AttentionWeights)
            assert inputs.v is not None
            for b in range(B):
                real = given["attention_mask"][b].bool()
                expected = attentions[label][b][:, real].double()
                torch.testing.assert_close(weights(inputs, b)[:, real], expected, atol=1e-6, rtol=0)
                logits = inputs.logits[b][:, real].double()
                torch.testing.assert_close(logits.softmax(-1), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["Bloom", "GPT-Neo"])
def test_the_steps_of_a_generate_make_one_growing_map(name):
    model = built(name, "ForCausalLM")
    with attnviz.capture(model) as run:
        text = model.generate(ids()[:1], max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0)
    again, _ = captured(model, {"input_ids": text[:, :-1], "use_cache": False})
    for label in again.layers:
        grown, at_once = run.inputs(label), again.inputs(label)
        assert grown.weights.shape == at_once.weights.shape
        assert str(grown.pattern) == str(at_once.pattern)
        torch.testing.assert_close(weights(grown, 0), weights(at_once, 0), atol=1e-5, rtol=0)


class Own(nn.Module):
    """Attention that someone wrote by hand, in one way or another."""

    num_heads = 4

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.softmax, self.dropout = how, nn.Softmax(dim=-1), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:  # (B, H, T, D)
        if self.how == "einsum":
            return torch.einsum("bhts,bhsd->bhtd", torch.einsum("bhtd,bhsd->bhts", x, x).softmax(-1), x)
        if self.how == "einsum, otherwise":
            y = x.transpose(1, 2)
            return torch.einsum("bnij,bjnd->bind", torch.einsum("bind,bjnd->bnij", y, y).softmax(-1), y).transpose(1, 2)
        scores = x @ x.transpose(2, 3)
        if self.how == "heads with batch items":
            flat = x.flatten(0, 1)
            return torch.bmm(torch.softmax(torch.bmm(flat, flat.transpose(1, 2)), dim=-1), flat).unflatten(0, (-1, 4))
        if self.how == "values first":
            return (x.transpose(2, 3) @ scores.softmax(-1).transpose(2, 3)).transpose(2, 3)
        if self.how == "a sink":
            return torch.cat([scores, x.sum(-1, keepdim=True)], -1).softmax(-1)[..., :-1] @ x
        if self.how == "zeroed":
            return self.softmax(scores).masked_fill(scores > 0, 0.0) @ x
        return self.dropout(self.softmax(scores).to(torch.float64)).float() @ x


@pytest.mark.parametrize(
    "how",
    ["einsum", "einsum, otherwise", "heads with batch items", "values first", "a sink", "zeroed", "another dtype"],
)
def test_weights_are_those_that_multiply_the_values(how):
    x = torch.randn(B, 4, 7, 8)
    run, context = captured(Own(how).eval(), {"x": x})
    inputs = run.inputs(0)
    assert run.notes == []
    assert (inputs.logits is None) == (how == "zeroed")
    torch.testing.assert_close(inputs.weights @ x, context, atol=1e-5, rtol=0)
    assert inputs.v is not None
    torch.testing.assert_close(inputs.v, x)


def test_weights_are_those_before_dropout():
    x = torch.randn(B, 4, 7, 8)
    with pytest.warns(Note, match="dropout is on"):
        run, _ = captured(Own("another dtype").train(), {"x": x})
    torch.testing.assert_close(run.inputs(0).weights.float(), (x @ x.transpose(2, 3)).softmax(-1))


class Routed(nn.Module):
    """Attention, and a router beside it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.attention, self.router, self.how = Own("einsum"), nn.Linear(8, 3), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "router":
            return self.attention(x) * self.router(x).softmax(-1).amax(-1, keepdim=True)
        points = (x @ x.transpose(2, 3)).softmax(-1)  # weights that choose, as deformable attention's do
        return self.attention(x) * points.topk(2).values.sum(-1, keepdim=True)


@pytest.mark.parametrize("S", [5, 9])
@pytest.mark.parametrize("how", ["over queries", "over queries, hard", "transposed"])
def test_keys_that_queries_share_are_given_as_they_multiply_values(how, S):
    """Slot attention, GroupViT: a softmax over queries, and rows as shares of their sum."""
    used = []

    class Slots(nn.Module):
        def forward(self, q: Tensor, k: Tensor) -> Tensor:
            if how == "transposed":
                each = (k @ q.transpose(1, 2)).softmax(dim=-1).transpose(1, 2)  # (B, T, S)
            else:
                soft = (q @ k.transpose(1, 2)).softmax(dim=-2)
                each = soft
                if how.endswith("hard"):
                    each = (
                        torch.zeros_like(soft).scatter_(-2, soft.argmax(-2, keepdim=True), 1.0) - soft.detach() + soft
                    )
            used.append(each / (each.sum(-1, keepdim=True) + 1e-3))
            return used[-1] @ k

    run, _ = captured(Slots(), {"q": torch.randn(2, 5, 8), "k": torch.randn(2, S, 8)})
    assert run.notes == []
    torch.testing.assert_close(run.inputs(0).weights[:, 0], used[0])


def test_a_router_is_no_attention():
    with warnings.catch_warnings():
        warnings.simplefilter("error", Note)
        run, _ = captured(Routed("router"), {"x": torch.randn(B, 4, 7, 8)})
    assert run.layers == [0]
    assert run.notes == []


def test_what_was_not_heard_is_named():
    model = nn.Module()
    model.inner = Routed("points")
    model.forward = lambda x: model.inner(x)
    with pytest.warns(Note, match=r"Module: inner ran a softmax"):
        run, _ = captured(model, {"x": torch.randn(B, 4, 7, 8)})
    assert run.layers == [0]


def test_weights_that_multiply_two_kinds_of_values_are_whole():
    class Relative(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            weights = (x @ x.transpose(2, 3)).softmax(-1)
            return weights @ x + weights @ (x + 1)

    run, _ = captured(Relative(), {"x": torch.randn(B, 4, 7, 8)})
    assert (run.layers, run.notes) == ([0], [])


@pytest.mark.parametrize("streamed", [False, True])
def test_weights_that_multiply_values_in_parts_are_refused(streamed, tmp_path):
    class Parts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            weights = (x @ x.transpose(2, 3)).softmax(-1)
            return weights[..., :3] @ x[:, :, :3] + weights[..., 3:] @ x[:, :, 3:]

    with pytest.raises(InputError, match="its weights multiply values in parts"):
        captured(Parts(), {"x": torch.randn(B, 4, 7, 8)}, out=tmp_path / "run.safetensors" if streamed else None)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_the_models_are_refused(monkeypatch):
    from attnviz.captures.doors import softmax

    monkeypatch.setattr(softmax, "_bhts", lambda tensor, heads: tensor.flip(1) if tensor.shape[-1] == 7 else tensor)
    with pytest.raises(InputError, match=r"are .* apart"):
        captured(Own("einsum"), {"x": torch.randn(B, 4, 7, 8)})


def test_what_comes_to_lie_where_weights_lay_is_no_part_of_them():
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            weights = (x @ x.transpose(-2, -1)).softmax(-1).double()  # a copy that is gone once it has been used
            made = weights @ x.double()
            del weights
            for size in (31, 30, 24, 16, 8):
                torch.randn(2, 32, size, dtype=torch.float64) @ torch.randn(2, size, 4, dtype=torch.float64)
            return made

    run, _ = captured(Attention(), {"x": torch.randn(2, 32, 4)})
    assert run.layers == [0]
