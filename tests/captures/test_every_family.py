"""Families of transformers, tiny and with random weights: exact, or refused with a reason."""

from __future__ import annotations

import warnings

import pytest

from tests.captures.every import families, found

MECHANISMS = {
    "an attention function of the registry, grouped keys": ("qwen3", "Qwen3Model"),
    "a softcap": ("gemma2", "Gemma2Model"),
    "latent keys": ("deepseek_v3", "DeepseekV3Model"),
    "two towers": ("clip", "CLIPModel"),
    "stages of windows": ("swin", "SwinModel"),
    "a shared layer": ("albert", "AlbertModel"),
    "two attentions in a layer, by its own softmax": ("timesformer", "TimesformerModel"),
    "products of its own": ("deberta-v2", "DebertaV2Model"),
    "three kinds of attention": ("bart", "BartModel"),
    "layers that attend among others": ("jamba", "JambaModel"),
}
"""A family of each mechanism, of those that other tests don't hold to the model's own weights."""

RIGHT = ("exact", "checked", "none", "not built", "refused", "partial, with a note")


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_family_of_each_mechanism_is_exact(mechanism):
    kind, name = MECHANISMS[mechanism]
    result = found(kind, name, "eager")
    assert (result.status, result.why) == ("exact", "")
    assert result.layers


@pytest.mark.families
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("kind", "name"), families())
def test_no_family_is_wrong_or_crashes_or_loses_layers_without_a_word(kind, name, attention):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = found(kind, name, attention)
    assert result.status in RIGHT, (result.status, result.why)
