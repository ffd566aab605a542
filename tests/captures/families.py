"""Small models of the families that capture is held to: random weights, from a config, the same on every run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")

B, T, S = 2, 11, 9
"""Batch items; tokens; tokens of the other sequence, where there are two."""

# The usual initializer_range, 0.02, makes all weights alike, and a test that says little.
_PLAIN: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_PLAIN, "num_key_value_heads": 2, "head_dim": 8}
_BART: dict[str, Any] = {
    "vocab_size": 50,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "init_std": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}


@dataclass(frozen=True, eq=False)
class Family:
    """A model of a family, what it is fed, and where it keeps its own weights."""

    name: str
    config: Callable[[], Any]
    model: str
    inputs: Callable[[str], dict[str, Tensor]]
    patterns: dict[str, str]  # of some layers
    sdpa: bool = True

    def build(self, attention: str = "eager") -> nn.Module:
        """The model, in ``eval``."""
        torch.manual_seed(0)
        model: nn.Module = getattr(transformers, self.model)._from_config(self.config(), attn_implementation=attention)
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if name.endswith(("sinks", "relative_attention_bias.weight")):
                nn.init.normal_(parameter)
        return model.eval()


def ids(length: int = T) -> Tensor:
    """Token ids, (B, length)."""
    return torch.randint(3, 50, (B, length), generator=torch.Generator().manual_seed(length))


def padded(side: str, length: int = T) -> Tensor:
    """An attention mask whose last item is padded on a side, (B, length)."""
    mask = torch.ones(B, length, dtype=torch.int64)
    mask[-1, slice(0, 4) if side == "left" else slice(length - 4, length)] = 0
    return mask


def text(side: str) -> dict[str, Tensor]:
    return {"input_ids": ids(), "attention_mask": padded(side)}


def two_texts(side: str, length: int = S) -> dict[str, Tensor]:
    return {
        "input_ids": ids(length),
        "attention_mask": padded(side, length),
        "decoder_input_ids": ids(T),
    }


def globals_among(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """With global tokens, more in the first item than in the last."""
    mask = torch.zeros_like(given["input_ids"])
    mask[0, [0, 3, 5]] = 1
    mask[1, 4] = 1
    return {**given, "global_attention_mask": mask}


def picture(side: str) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(B, 3, 12, 12, generator=torch.Generator().manual_seed(0))}


def sound(side: str) -> dict[str, Tensor]:
    features = torch.randn(B, 8, 2 * S, generator=torch.Generator().manual_seed(0))
    return {"input_features": features, "decoder_input_ids": ids(T), "decoder_attention_mask": padded(side)}


def _config(name: str, **settings: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, name)(**settings)


_WINDOW = "local, window 3, causal"

FAMILIES = {
    family.name: family
    for family in (
        Family("BERT", _config("BertConfig", **_PLAIN), "BertModel", text, {"0": "full"}),
        Family(
            "GPT-2",
            _config(
                "GPT2Config",
                vocab_size=50,
                n_embd=32,
                n_layer=2,
                n_head=4,
                n_positions=64,
                initializer_range=0.3,
                bos_token_id=1,
                eos_token_id=2,
            ),
            "GPT2Model",
            text,
            {"0": "causal"},
        ),
        Family("Llama", _config("LlamaConfig", **_GROUPED), "LlamaModel", text, {"0": "causal"}),
        Family(
            "Mistral",
            _config("MistralConfig", **_GROUPED, sliding_window=4),
            "MistralModel",
            text,
            {"0": _WINDOW, "1": _WINDOW},
        ),
        Family(
            "Qwen3",
            _config("Qwen3Config", **_GROUPED, use_sliding_window=True, sliding_window=4, max_window_layers=1),
            "Qwen3Model",
            text,
            {"0": "causal", "1": _WINDOW},
        ),
        Family(
            "Gemma 2",
            _config(
                "Gemma2Config",
                **_GROUPED,
                sliding_window=4,
                attn_logit_softcapping=2.0,
                query_pre_attn_scalar=7,
            ),
            "Gemma2Model",
            text,
            {"0": _WINDOW, "1": "causal"},
            sdpa=False,
        ),
        Family(
            "Gemma 3",
            _config(
                "Gemma3TextConfig",
                **_GROUPED,
                sliding_window=4,
                query_pre_attn_scalar=7,
                layer_types=["sliding_attention", "full_attention"],
            ),
            "Gemma3TextModel",
            text,
            {"0": _WINDOW, "1": "causal"},
        ),
        Family(
            "gpt-oss",
            _config(
                "GptOssConfig",
                **_GROUPED,
                sliding_window=4,
                num_local_experts=2,
                num_experts_per_tok=1,
                rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            ),
            "GptOssModel",
            text,
            {"0": _WINDOW, "1": "causal"},
            sdpa=False,
        ),
        Family(
            "ModernBERT",
            _config("ModernBertConfig", **_PLAIN, local_attention=6, global_attn_every_n_layers=2),
            "ModernBertModel",
            text,
            {"0": "full", "1": "local, window 3"},
        ),
        Family(
            "T5",
            _config(
                "T5Config",
                vocab_size=50,
                d_model=32,
                d_kv=8,
                d_ff=40,
                num_layers=2,
                num_heads=4,
                initializer_factor=1.0,
                decoder_start_token_id=0,
            ),
            "T5Model",
            two_texts,
            {"0": "full", "decoder.0": "causal", "cross.0": "full"},
        ),
        Family(
            "BART",
            _config("BartConfig", **_BART, max_position_embeddings=64),
            "BartModel",
            two_texts,
            {"0": "full", "decoder.1": "causal", "cross.1": "full"},
        ),
        Family(
            # Both texts of one length: padding of the one says nothing of the other.
            "BART, as long as its source",
            _config("BartConfig", **_BART, max_position_embeddings=64),
            "BartModel",
            lambda side: two_texts(side, T),
            {"cross.0": "full"},
        ),
        Family(
            "Whisper",
            _config("WhisperConfig", **_BART, num_mel_bins=8, max_source_positions=S, max_target_positions=64),
            "WhisperModel",
            sound,
            {"0": "full", "decoder.0": "causal", "cross.0": "full"},
        ),
        Family(
            "ViT",
            _config(
                "ViTConfig",
                **{k: v for k, v in _PLAIN.items() if k.startswith(("hidden", "num", "intermediate", "init"))},
                image_size=12,
                patch_size=4,
            ),
            "ViTModel",
            picture,
            {"0": "full"},
        ),
        Family(
            "Longformer",
            _config("LongformerConfig", **_PLAIN, attention_window=4, sep_token_id=2),
            "LongformerModel",
            lambda side: globals_among(text("right")),
            {"0": "local, window 2 + global + global queries"},
            sdpa=False,
        ),
        Family(
            "Longformer without globals",
            _config("LongformerConfig", **_PLAIN, attention_window=4, sep_token_id=2),
            "LongformerModel",
            lambda side: text("right"),
            {"0": "local, window 2"},
            sdpa=False,
        ),
        Family(
            "LED",
            _config(
                "LEDConfig",
                **_BART,
                attention_window=4,
                max_encoder_position_embeddings=64,
                max_decoder_position_embeddings=64,
            ),
            "LEDModel",
            lambda side: globals_among(two_texts("right")),
            {"0": "local, window 2 + global + global queries", "decoder.0": "causal", "cross.0": "full"},
            sdpa=False,
        ),
        Family(
            "BigBird",
            _config("BigBirdConfig", **_PLAIN, attention_type="original_full", sep_token_id=2),
            "BigBirdModel",
            text,
            {"0": "full"},
            sdpa=False,
        ),
    )
}
