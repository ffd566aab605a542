"""Sizes and inputs of families that the rules of :mod:`tests.captures.tiny` don't make, by their model types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn


def _resnet(*stages: int) -> Any:
    """A backbone of convolutions, and which of its four stages it gives."""
    return transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=[f"stage{stage}" for stage in stages],
    )


def configs(kind: str) -> dict[str, Any]:
    """What a config of a model type takes besides."""
    if kind in ("detr", "conditional_detr", "dab-detr", "table-transformer"):
        return {"backbone_config": _resnet(4)}
    if kind in ("maskformer", "mask2former", "oneformer"):
        return {"backbone_config": _resnet(1, 2, 3, 4)}
    if kind == "deformable_detr":
        return {"backbone_config": _resnet(2, 3, 4)}
    return _CONFIGS.get(kind, {})


_CONFIGS: dict[str, dict[str, Any]] = {
    "align": {"projection_dim": 64},
    "apertus1p5": {"image_token_offset": 16, "audio_token_offset": 48},
    "autoformer": {"label_length": 4},
    "bailing_hybrid": {"n_group": 1, "topk_group": 1, "num_local_experts": 4, "num_experts_per_tok": 1},
    "bridgetower": {"hidden_size": 128, "num_attention_heads": 4},
    "bridgetower_vision_model": {"hidden_size": 128},
    "bridgetower_text_model": {"hidden_size": 128},
    "clap_audio_model": {"spec_size": 64, "num_mel_bins": 16, "window_size": 2},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "cvt": {
        "embed_dim": (16, 32, 32),
        "num_heads": (1, 2, 4),
        "depth": (1, 2, 3),
    },
    "depth_pro": {"patch_size": 32, "intermediate_hook_ids": (1, 0), "intermediate_feature_dims": (32, 32)},
    "diffusion_gemma_text": {
        "num_experts": 4,
        "top_k_experts": 1,
        "moe_intermediate_size": 16,
        "global_head_dim": 8,
    },
    "ernie4_5_vl_moe_text": {
        "moe_k": 1,
        "moe_num_experts": 4,
        "moe_intermediate_size": [16, 16],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
    },
    "fastspeech2_conformer_hifigan": {"model_in_dim": 16},
    "FunAsrNanoAdaptorConfig": {"intermediate_size": 8},
    "patchtsmixer": {
        "context_length": 32,
        "patch_length": 8,
        "patch_stride": 8,
        "self_attn": True,
        "self_attn_heads": 4,
    },
    "qwen2_5_omni_thinker": {"vision_start_token_id": 57, "vision_end_token_id": 56},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 57, "vision_end_token_id": 56},
    "reformer": {"axial_pos_embds_dim": (16, 16), "axial_pos_shape": (8, 8), "max_position_embeddings": 64},
    "swin2sr": {"window_size": 2, "image_size": 32, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]},
    "sam_vision_model": {"output_channels": 32, "num_pos_feats": 16},
    "sam_hq_vision_model": {"output_channels": 32, "num_pos_feats": 16},
    "sam_prompt_encoder": {"image_embedding_size": 4},
    "sam_hq_prompt_encoder": {"image_embedding_size": 4},
    "timm_wrapper": {
        "architecture": "vit_tiny_patch16_224",
        "model_args": {"img_size": 32, "depth": 2, "embed_dim": 32, "num_heads": 4},
    },
    "t5gemma2_text": {"dropout_rate": 0.0},
    "DbrxAttentionConfig": {"rope_theta": 10000.0, "clip_qkv": 8.0},
    "glm5_next_text": {"qk_rope_head_dim": 0, "head_dim": 0, "index_topk": 4, "index_kpool": 2},
    "granite_speech5_encoder": {"num_key_value_heads": None, "context_size": 8, "head_dim": 8},
    "hiera": {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 4), "image_size": (64, 64)},
    "csm": {"num_codebooks": 4},
    "csm_depth_decoder_model": {"num_codebooks": 4, "backbone_hidden_size": 32},
    "dots3_note_text": {"n_routed_experts": 4, "index_topk": 4, "shared_experts_intermediate_size": 16},
}


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def inputs(model: nn.Module, text: dict[str, Tensor]) -> list[dict[str, Any]]:
    """What a model of a type takes, the likeliest first."""
    kind = getattr(model.config, "model_type", "")
    make = _INPUTS.get(kind)
    return [] if make is None else [make(text)]


def text_ids(length: int) -> Tensor:
    """Token ids of a batch."""
    return torch.randint(3, 50, (B, length), generator=torch.Generator().manual_seed(length))


B = 2
GRID = torch.tensor([[1, 4, 4], [1, 4, 4]])
_INPUTS: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "clap": lambda text: {**text, "input_features": _random(B, 1, 256, 16), "is_longer": torch.zeros(B, 1).bool()},
    "clap_audio_model": lambda text: {"input_features": _random(B, 1, 256, 16), "is_longer": torch.zeros(B, 1).bool()},
    "gemma3n_audio": lambda text: {
        "audio_mel": _random(B, 64, 128),
        "audio_mel_mask": torch.zeros(B, 64).bool(),
    },
    "inkling2_vision": lambda text: {"pixel_values": _random(32, 16, 16, 3), "image_grid_thw": GRID},
    "minicpm_ocr_vision": lambda text: {"pixel_values": _random(1, 3, 8, 256), "target_sizes": GRID[:, 1:]},
    "minicpmv4_7_vision": lambda text: {"pixel_values": _random(1, 3, 8, 256), "target_sizes": GRID[:, 1:]},
    "mimi_decoder": lambda text: {"latents": _random(B, 32, 6)},
    "muse_glimmer_assistant": lambda text: {
        "noise_embeds": _random(B, 4, 32),
        "context_hidden_states": _random(B, 6, 160),
    },
    "qwen3_asr_encoder": lambda text: {
        "input_features": _random(B, 16, 208),
        "input_features_mask": torch.ones(B, 208, dtype=torch.int64),
    },
    "oneformer": lambda text: {"pixel_values": _random(B, 3, 32, 32), "task_inputs": text_ids(7)},
    "xcodec": lambda text: {"input_values": _random(B, 1, 3200)},
    "xcodec2": lambda text: {"input_values": _random(B, 1, 3200), "input_features": _random(B, 10, 160)},
    "neucodec": lambda text: {"input_values": _random(B, 1, 3200), "input_features": _random(B, 10, 160)},
    "mimi": lambda text: {"input_values": _random(B, 1, 3840)},
    "vits": lambda text: {"input_ids": text["input_ids"] % 30 + 1},
    "dory": lambda text: {"input_ids": text["input_ids"]},
    "clvp": lambda text: {**text, "input_features": _random(B, 32, 20)},
}
