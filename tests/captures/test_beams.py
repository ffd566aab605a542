"""Capture of generations that change their minds: beams that change places, guesses of another model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import attnviz
from attnviz.base.errors import Note
from tests.captures.families import FAMILIES, B, ids, padded, transformers
from tests.captures.test_models import Tokenizer, captured, labels, weights
from tests.captures.test_softmax import built as by_itself


def causal(name: str) -> Any:
    torch.manual_seed(0)
    if name == "Bloom":
        return by_itself(name, "ForCausalLM")
    family = FAMILIES[name]
    kind = getattr(transformers, {"GPT-2": "GPT2LMHeadModel"}.get(name, family.model.replace("Model", "ForCausalLM")))
    made = kind._from_config(family.config(), attn_implementation="eager").eval()
    made.generation_config.eos_token_id = None
    return made


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("name", ["Llama", "Mistral", "GPT-2", "Bloom"])
@pytest.mark.parametrize("returned", [1, 2])
def test_the_beams_that_a_search_gives_have_the_rows_that_they_came_from(name, returned):
    model = causal(name)
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with attnviz.capture(model, tokenizer=Tokenizer()) as run:
        found = model.generate(ids(), **settings, num_beams=3, num_return_sequences=returned)
    assert run.notes == []
    again, _ = captured(model, {"input_ids": found[:, :-1], "use_cache": False})
    for label in again.layers:
        assert run.inputs(label).tokens == labels(found[:, :-1])
        for b in range(len(found)):
            torch.testing.assert_close(
                weights(run.inputs(label), b), weights(again.inputs(label), b), atol=1e-5, rtol=0
            )


def test_beams_of_several_texts_and_of_two_sequences():
    family = FAMILIES["BART"]
    torch.manual_seed(0)
    model = transformers.BartForConditionalGeneration._from_config(family.config()).eval()
    model.generation_config.eos_token_id = model.generation_config.forced_eos_token_id = None
    given = {"input_ids": ids(9), "attention_mask": padded("right", 9)}
    with attnviz.capture(model, tokenizer=Tokenizer()) as run:
        found = model.generate(**given, max_new_tokens=5, num_beams=2, do_sample=False, eos_token_id=None)
    again, _ = captured(model, {**given, "decoder_input_ids": found[:, :-1], "use_cache": False})
    for label in again.layers:
        for b in range(B):
            torch.testing.assert_close(
                weights(run.inputs(label), b), weights(again.inputs(label), b), atol=1e-5, rtol=0
            )


def test_a_search_whose_winner_ended_early_says_that_the_items_are_its_last_beams():
    model = causal("Llama")
    given = {"max_new_tokens": 6, "num_beams": 3, "do_sample": False, "pad_token_id": 0, "early_stopping": False}
    likeliest = model.generate(ids()[:1], **given)
    end = int(likeliest[0, ids().shape[1] + 2])  # the third token of what it would write

    def run() -> attnviz.Run:
        with attnviz.capture(model) as run:
            model.generate(ids()[:1], **given, eos_token_id=end, length_penalty=-9.0)
        return run

    with pytest.warns(Note, match="the beams that the search gave are not among its last"):
        assert run().inputs(0).B == 3


def test_candidates_of_another_model_that_were_rejected_leave_the_map():
    model, assistant = causal("Llama"), causal("Llama")
    with torch.no_grad():
        for parameter in assistant.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    with attnviz.capture(model, tokenizer=Tokenizer()) as run:
        text = model.generate(
            ids()[:1], max_new_tokens=8, do_sample=False, assistant_model=assistant, eos_token_id=None, pad_token_id=0
        )
    again, _ = captured(model, {"input_ids": text[:, :-1], "use_cache": False})
    for label in again.layers:
        inputs = run.inputs(label)
        assert inputs.tokens == labels(text[:, :-1])
        torch.testing.assert_close(weights(inputs, 0), weights(again.inputs(label), 0), atol=1e-5, rtol=0)
