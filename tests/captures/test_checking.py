"""The self-check: what a capture says of a layer is held against what the model itself made of it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attnviz
from attnviz import InputError
from attnviz.base.errors import Note
from attnviz.captures.calls import Call
from attnviz.captures.doors import registry
from attnviz.captures.masks import Mask
from tests.captures.families import FAMILIES, B, ids, transformers
from tests.captures.test_models import captured, weights

FAULTS: dict[str, tuple[str, Callable[[Call], Call]]] = {
    "a wrong scale": ("Llama", lambda call: replace(call, scale=call.scale * 1.2)),
    "a softcap that was dropped": ("Gemma 2", lambda call: replace(call, softcap=None)),
    "sinks that were dropped": ("gpt-oss", lambda call: replace(call, sinks=None)),
    "a bias that was dropped": ("T5", lambda call: replace(call, bias=None)),
    "the sinks of other heads": ("gpt-oss", lambda call: replace(call, sinks=call.sinks.flip(0))),
    "a causal mask read as full": ("Llama", lambda call: replace(call, mask=Mask())),
    "a full mask read as causal": ("BERT", lambda call: replace(call, mask=Mask(causal=True))),
    "padding that was not seen": ("BERT", lambda call: replace(call, mask=Mask())),
    "a window that is one too wide": ("Mistral", lambda call: replace(call, mask=Mask(causal=True, window=4))),
    "keys of another head group": ("Llama", lambda call: replace(call, k=call.k.flip(1))),
    "queries of other heads": ("BERT", lambda call: replace(call, q=call.q.roll(1, dims=1))),
    "values of another item": ("BERT", lambda call: replace(call, v=call.v.flip(0))),
}


def planted(monkeypatch: pytest.MonkeyPatch, fault: Callable[[Call], Call]) -> None:
    right = registry.of_function
    monkeypatch.setattr(registry, "of_function", lambda *args: fault(right(*args)))


def fed(model: nn.Module, given: dict[str, Any]) -> attnviz.Run:
    """A capture that says nothing, or a test fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Note)
        return captured(model, given)[0]


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FAULTS)
def test_each_planted_fault_is_caught(monkeypatch, name, dtype):
    family, fault = FAULTS[name]
    if dtype != torch.float32 and name == "a wrong scale":
        fault = lambda call: replace(call, scale=call.scale * 3)  # noqa: E731 (half types round by as much as 1.2)
    planted(monkeypatch, fault)
    both = r"are [\d.e+-]+ apart .* and rounding to \w+ explains [\d.e+-]+"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", Note)
        try:
            captured(FAMILIES[family].build().to(dtype), FAMILIES[family].inputs("right"))
        except InputError as error:
            said.append(error)
    assert any(re.search(both, str(getattr(one, "message", one))) for one in said)


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["BERT", "GPT-2", "Mistral", "Gemma 2", "gpt-oss", "T5", "Longformer", "BigBird"])
def test_no_right_capture_is_refused(name, dtype):
    """Float32 is that of every other test."""
    family = FAMILIES[name]
    if name == "gpt-oss" and dtype == torch.float64:
        pytest.skip("its experts have no product in float64")
    for attention in ("eager", "sdpa") if family.sdpa else ("eager",):
        assert fed(family.build(attention).to(dtype), family.inputs("right")).notes == []


def test_a_layer_that_is_refused_is_named_and_the_others_stay(monkeypatch, tmp_path):
    right, seen = registry.of_function, []

    def second(*args: Any) -> Call:
        seen.append(args)
        return right(*args) if len(seen) % 2 else replace(right(*args), scale=3.0)

    monkeypatch.setattr(registry, "of_function", second)
    model, given = FAMILIES["BERT"].build(), FAMILIES["BERT"].inputs("right")
    with pytest.warns(Note, match=r"BertModel: layer 1 was refused: its context and the model's own are"):
        run, _ = captured(model, given, out=tmp_path / "run.safetensors")
    with pytest.warns(Note, match="layer 1 was refused"):
        kept, _ = captured(model, given)
    for one in (run, kept):
        assert one.layers == [0]
        with pytest.raises(InputError, match="layer 1 was refused: its context"):
            one.inputs(1)


def test_the_check_is_off_by_an_option_only(monkeypatch):
    planted(monkeypatch, lambda call: replace(call, scale=3.0))
    run, _ = captured(FAMILIES["BERT"].build(), FAMILIES["BERT"].inputs("right"), check=False)
    assert run.layers == [0, 1]


def test_the_steps_of_a_generate_are_checked(monkeypatch):
    """The prompt, and of the steps every 64th: a fault of these alone is found."""
    planted(
        monkeypatch,
        lambda call: replace(call, bias=torch.randn(1, 4, 1, call.k.shape[2])) if call.q.shape[2] == 1 else call,
    )
    model = transformers.LlamaForCausalLM._from_config(FAMILIES["Llama"].config()).eval()
    with pytest.raises(InputError, match=r"query 7[0-9]"), attnviz.capture(model):
        model.generate(ids()[:1], max_new_tokens=66, do_sample=False, eos_token_id=None, pad_token_id=0)


def test_dropout_is_before_what_is_captured_and_a_note_says_what_was_not_checked():
    model = FAMILIES["BERT"].build().train()
    with pytest.warns(Note, match=r"layers 0, 1 were not held against .*: dropout is on; model.eval\(\) turns it off"):
        run, _ = captured(model, FAMILIES["BERT"].inputs("right"))
    assert run.layers == [0, 1]


def own_function(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **given: Any) -> Any:
    """A softmax with one key more, whose logit depends on the query."""
    scores = query @ key.transpose(2, 3) * given["scaling"]
    scores = torch.cat([scores, given["more"]], -1).softmax(-1)[..., :-1]
    return (scores @ value).transpose(1, 2).contiguous(), None


def with_name(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, more: Any = None, **given: Any
) -> Any:
    return own_function(module, query, key, value, attention_mask, more=more, **given)


class OwnAttention(nn.Module):
    """A module that asks the registry for a function and gives it what no capture knows."""

    is_causal = False

    def forward(self, x: Tensor) -> Tensor:
        function = transformers.AttentionInterface().get_interface("with_name", None)
        return function(self, x, x, x, None, scaling=0.3, more=x.sum(-1, keepdim=True))[0]


@pytest.mark.parametrize("check", [True, False])
def test_an_argument_that_is_not_known_is_refused_by_name(check):
    transformers.AttentionInterface.register("with_name", with_name)
    model = OwnAttention()
    with pytest.raises(InputError, match="its function was given more, which attnviz doesn't know"):
        captured(model, {"x": torch.randn(B, 4, 7, 8)}, check=check)


def tempered(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, dropout: float = 0.0, **given: Any
) -> Any:
    """What its arguments don't say, and the weights beside the context."""
    group = query.shape[1] // key.shape[1]
    key, value = (one.repeat_interleave(group, 1) for one in (key, value))
    scores = query @ key.transpose(2, 3) * 3
    scores = scores if attention_mask is None else scores + attention_mask
    weights = nn.functional.dropout(scores.softmax(-1), dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def with_tempered(**settings: Any) -> Any:
    transformers.AttentionInterface.register("tempered", tempered)
    transformers.AttentionMaskInterface.register("tempered", transformers.masking_utils.eager_mask)
    config = FAMILIES["Llama"].config()
    config.update(settings)
    return transformers.LlamaForCausalLM._from_config(config, attn_implementation="tempered").eval()


def test_the_weights_that_a_function_gives_are_shown_where_q_and_k_do_not_say_them():
    model = with_tempered()
    given = ids()
    exists = torch.ones_like(given)
    exists[1, :3] = 0
    with torch.no_grad():
        own = model(given, attention_mask=exists, output_attentions=True).attentions
        with attnviz.capture(model) as run:
            model(given, attention_mask=exists)
        with attnviz.capture(model) as steps:
            made = model.generate(given, attention_mask=exists, max_new_tokens=3, do_sample=False, pad_token_id=0)
        exists = torch.nn.functional.pad(exists, (0, 2), value=1)
        whole = model(made[:, :-1], attention_mask=exists, output_attentions=True).attentions
    assert run.weights_only == steps.weights_only == [0, 1]
    for found, wanted in ((run, own), (steps, whole)):
        for layer in found.layers:
            inputs = found.inputs(layer)
            assert str(inputs.pattern) == "causal"
            for b in range(B):
                seen = exists[b, : inputs.T].bool()
                torch.testing.assert_close(
                    weights(inputs, b)[:, seen].float(), wanted[layer][b][:, seen], atol=1e-4, rtol=1e-3
                )


def test_weights_that_were_dropped_out_are_not_taken_for_those_before():
    model = with_tempered(attention_dropout=0.5).train()
    with pytest.warns(Note, match="dropout is on"):
        run, _ = captured(model, {"input_ids": ids()})
    assert run.weights_only == []


def test_a_config_that_names_no_attention_runs_the_models_own():
    class Own(nn.Module):
        is_causal = False

        def forward(self, x: Tensor) -> Tensor:
            function = transformers.AttentionInterface().get_interface(None, own_function)
            return function(self, x, x, x, None, scaling=0.3, more=torch.full_like(x[..., :1], -torch.inf))[0]

    run, _ = captured(Own(), {"x": torch.randn(B, 4, 7, 8)})
    assert run.layers == [0]


@pytest.mark.sweep(keep=5)
@pytest.mark.parametrize("shape", [(B, 1, 1, 7), (1, 7), (B, 4, 1, 7), (4, 1, 7), (B, 1, 7, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("kind", ["bool", "hides", "adds"])
def test_masks_that_broadcast(shape, kind, tmp_path):
    class Own(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)

    seen = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.7
    seen[..., 0] = True
    added = torch.randn(shape)
    mask = {"bool": seen, "hides": torch.zeros(shape).masked_fill(~seen, -torch.inf), "adds": added}[kind]
    x = torch.randn(B, 4, 7, 8)
    run, context = captured(Own(), {"x": x, "mask": mask})
    run.save(tmp_path / "run.safetensors")
    for inputs in (run.inputs(0), attnviz.load(tmp_path / "run.safetensors", layer=0)):
        for b in range(B):
            own = weights(inputs, b).float()
            there = own.sum(-1) > 0  # a key that no query sees is padding, and so is the query of its position
            torch.testing.assert_close((own @ x[b])[there], context[b][there], atol=1e-5, rtol=0)
            assert bool(there.any())


@pytest.mark.parametrize("how", ["around", "in place", "a layer"])
def test_a_compiled_model_runs_as_it_would_uncompiled(how):
    model = FAMILIES["Llama"].build("sdpa")
    plain, _ = captured(model, FAMILIES["Llama"].inputs("right"))
    if how == "around":
        model = torch.compile(model, backend="eager")
    elif how == "in place":
        model.compile(backend="eager")
    else:
        model.layers[0] = torch.compile(model.layers[0], backend="eager")
    run, _ = captured(model, FAMILIES["Llama"].inputs("right"))
    assert run.layers == plain.layers == [0, 1]
    assert run.inputs(1).q.equal(plain.inputs(1).q)


@pytest.mark.parametrize("made", [torch.jit.script, lambda part: torch.jit.trace(part, torch.randn(1, 4, 5, 8))])
def test_a_scripted_part_runs_as_it_does(made):
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = made(nn.Sequential(nn.Linear(8, 8), nn.ReLU()))

        def forward(self, x: Tensor) -> Tensor:
            x = self.part(x)
            return nn.functional.scaled_dot_product_attention(x, x, x)

    run, _ = captured(Own(), {"x": torch.randn(1, 4, 5, 8)})
    assert run.layers == [0]
