"""Capture of models that go on from a cache: second turns, chunks, guesses; held to the model's own weights of the whole."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attnviz
from attnviz import AttentionInputs
from tests.captures.families import FAMILIES, B, ids, transformers
from tests.captures.test_models import Tokenizer, labels, weights

LENGTH = 13
"""Tokens in all."""

CACHES: dict[str, Callable[[Any], Any]] = {
    "every key": lambda config: transformers.DynamicCache(),
    "sliding": lambda config: transformers.DynamicCache(config=config),
    "fixed": lambda config: transformers.StaticCache(config=config, max_cache_len=24),
}
KERNELS = [
    (name, attention)
    for name in ("Llama", "Mistral", "Qwen3", "Gemma 2", "Gemma 3", "gpt-oss")
    for attention in (["eager", "sdpa"] if FAMILIES[name].sdpa else ["eager"])
]

kernels = pytest.mark.parametrize(("name", "attention"), KERNELS)
caches = pytest.mark.parametrize("kind", CACHES)
PADDING = 3
"""Positions of padding before the last item's tokens."""


@cache
def built(name: str, attention: str = "eager") -> nn.Module:
    return FAMILIES[name].build(attention)


def places(length: int) -> dict[str, Tensor]:
    """Which positions exist and where they stand, (B, length)."""
    mask = torch.ones(B, length, dtype=torch.int64)
    mask[-1, :PADDING] = 0
    return {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


def fed(model: nn.Module, chunk: range, kept: Any) -> None:
    """Feeds some of the tokens to a model that has seen those before."""
    given = places(chunk.stop)
    given["position_ids"] = given["position_ids"][:, chunk.start :]
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    model(ids(LENGTH)[:, chunk.start : chunk.stop], **given, **{name: kept})


@cache
def own_weights(name: str) -> list[Tensor]:
    """The model's own, of all tokens at once, by layer, (B, H, T, S)."""
    with torch.no_grad():
        given = {"input_ids": ids(LENGTH), **places(LENGTH), "use_cache": False}
        return list(built(name)(**given, output_attentions=True).attentions)


def check(inputs: AttentionInputs, own: Tensor, padding: int = PADDING) -> None:
    """That captured inputs have the weights of the last of the queries, and stand where these do."""
    (length, T), S = (own.shape[2], inputs.T), inputs.S
    for b in range(len(own)):
        item = inputs.item(b)
        assert item.query_position(torch.arange(T)).tolist() == list(range(length - T, length))
        assert item.key_position(torch.arange(S)).tolist() == list(range(length - S, length))
        rows = torch.arange(length - T, length)
        real = rows >= (padding if b == len(own) - 1 else 0)
        expected = own[b][:, rows][:, real].double()
        torch.testing.assert_close(
            expected[..., : length - S].sum(-1), torch.zeros(own.shape[1], int(real.sum())).double()
        )
        torch.testing.assert_close(weights(inputs, b)[:, real], expected[..., length - S :], atol=1e-5, rtol=0)


def windows(name: str, label: int) -> str:
    return FAMILIES[name].patterns.get(str(label), "causal")


@pytest.mark.sweep(keep=4)
@kernels
@caches
@pytest.mark.parametrize("length", [1, 5])
def test_a_turn_on_a_cache_that_was_filled_before(name, attention, kind, length):
    model = built(name, attention)
    past = CACHES[kind](model.config)
    with torch.no_grad():
        fed(model, range(LENGTH - length), past)
        with attnviz.capture(model, tokenizer=Tokenizer()) as run:
            fed(model, range(LENGTH - length, LENGTH), past)
    for label, own in enumerate(own_weights(name)):
        inputs = run.inputs(label)
        assert length == inputs.T
        assert inputs.tokens is None
        assert inputs.query_tokens == labels(ids(LENGTH)[:, -length:])
        check(inputs, own)


@pytest.mark.sweep(keep=3)
@kernels
@caches
@pytest.mark.parametrize("chunks", [(0, 3, 4, 13), (5, 9, 11, 13)])
def test_chunks_make_one_map(name, attention, kind, chunks):
    model = built(name, attention)
    past = CACHES[kind](model.config)
    with torch.no_grad():
        if chunks[0]:
            fed(model, range(chunks[0]), past)
        with attnviz.capture(model, tokenizer=Tokenizer()) as run:
            for start, stop in pairwise(chunks):
                fed(model, range(start, stop), past)
    for label, own in enumerate(own_weights(name)):
        inputs = run.inputs(label)
        assert LENGTH - chunks[0] == inputs.T
        if not chunks[0]:
            assert str(inputs.pattern) == windows(name, label)
            assert inputs.tokens == labels(ids(LENGTH))
        check(inputs, own)


@pytest.mark.sweep(keep=2)
@kernels
@pytest.mark.parametrize(
    "options",
    [
        {"prompt_lookup_num_tokens": 3},
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 4},
        {},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_a_generate_makes_the_map_of_all_it_read(name, attention, options):
    family = FAMILIES[name]
    kind = getattr(transformers, re.sub("(Text)?Model$", "ForCausalLM", family.model))
    model = kind._from_config(family.config(), attn_implementation=attention).eval()
    model.model.load_state_dict(built(name).state_dict())
    prompt = torch.tensor([[3, 4, 5, 6, 3, 4, 5, 6, 3, 4, 5]])
    with attnviz.capture(model, tokenizer=Tokenizer()) as run:
        text = model.generate(prompt, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0, **options)
    read = text[:, :-1]  # of the last token there is no query yet
    with torch.no_grad():
        attentions = built(name)(read, use_cache=False, output_attentions=True).attentions
    for label, own in enumerate(attentions):
        inputs = run.inputs(label)
        assert inputs.T == inputs.S == read.shape[1]
        assert inputs.tokens == labels(read)
        assert str(inputs.pattern) == windows(name, label)
        check(inputs, own, padding=0)
