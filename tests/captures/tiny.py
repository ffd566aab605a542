"""Tiny models of every family of the installed transformers, made from their config classes, and inputs that they take.

What a config calls a size is known by the last words of its name: heads, layers, widths. Grouped keys, sliding windows and every
kind of layer that a family has are on. Inputs are tried in turn, the likeliest first: text in a batch of two with padding, then
pictures, sound and what else a model's ``forward`` names.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from tests.captures import rare

B, T, S = 2, 11, 9
HEADS, GROUPS, WIDTH, VOCABULARY = 4, 2, 32, 64
IMAGE, QUERIES = 60, 6  # the token of a picture, and how many of them a resampler makes of one

_SIZES: tuple[tuple[str, int], ...] = (
    (r"(encoder|decoder)_num_key_value_heads", HEADS),
    (r"qk_head_dim", 2 * WIDTH // HEADS),
    (r"intra_bottleneck_size|true_hidden_size", WIDTH),
    (r"crop_size", 32),
    (r"latent_query_num", 6),
    (r"max_img_size", 32),
    (r"visual_prompt_size", 8),
    (r"frames_per_clip", 4),
    (r"(.*_)?num_key_value_heads|num_kv_heads|n_kv_heads|multi_query_group_num", GROUPS),
    (r"(.*_)?(num_attention_heads|attention_heads|num_heads|n_heads?|num_attn_heads|nhead|nheads)", HEADS),
    (
        (
            r"(.*_)?(num_hidden_layers|num_layers|n_layers?|encoder_layers|decoder_layers|depth|num_blocks|e_layers|d_layers"
            r"|num_hidden_groups|vision_layers)"
        ),
        2,
    ),
    (r"(.*_)?(head_dim|d_kv|attention_head_size|head_size|kv_channels|attention_dim_head)", WIDTH // HEADS),
    (
        (
            r"(.*_)?(intermediate_size|ffn_dim|d_ff|d_inner|mlp_dim|ffn_hidden_size|inner_dim|n_inner|feed_forward_dim"
            r"|dim_feedforward|ffn_size|moe_intermediate_size|feedforward_dim)"
        ),
        48,
    ),
    (
        (
            r"(.*_)?(hidden_size|d_model|n_embd|embed_dim|hidden_dim|model_dim|embedding_size|projection_dim|emb_dim|dim|width"
            r"|embedding_dim|out_hidden_size|encoder_hidden_dim|output_dim|feature_size|channels_?|conv_dim|fusion_hidden_size"
            r"|hidden_channels|pooler_hidden_size|output_hidden_size|mm_hidden_size|d_latents|text_dim|d_embed)"
        ),
        WIDTH,
    ),
    (r"(.*_)?vocab_size.*", VOCABULARY),
    (
        (
            r"(.*_)?(max_position_embeddings|max_seq_len|n_positions|max_sequence_length|n_ctx|max_source_positions"
            r"|max_target_positions|max_encoder_position_embeddings|max_decoder_position_embeddings)"
        ),
        128,
    ),
    (r"(.*_)?(num_local_experts|num_experts|n_routed_experts|moe_num_experts|num_routed_experts)", 4),
    (r"(.*_)?(num_experts_per_tok|moe_topk|top_k|moe_k|num_experts_per_token|n_group|topk_group)", 1),
    (r"(.*_)?q_lora_rank|kv_lora_rank", 16),
    (r"qk_nope_head_dim|v_head_dim", 8),
    (r"qk_rope_head_dim", 4),
    (r"qk_head_dim", 12),
    (r"image_size|img_size|input_size", 32),
    (r"patch_size", 8),
    (r"(.*_)?(sliding_window|window_size|local_attention|attention_window|window)", 4),
    (r"num_mel_bins|num_mels|feature_dim", 16),
    (r"num_queries|num_query_tokens|num_latents|num_object_queries", 6),
    (r"codebook_size|codebook_dim", 32),
    (r"upsample_groups", WIDTH),
    (r"(mamba_)?n_?groups|(.*_)?mamba_ngroups", 2),
)
_UNSAID: dict[str, int] = {
    **{"head_dim": WIDTH // HEADS, "vocab_size": VOCABULARY, "num_attention_heads": HEADS},
    **{"num_experts_per_tok": 1, "n_group": 1, "topk_group": 1, "n_routed_experts": 4, "n_shared_experts": 1},
    **{
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
    },
}
"""Sizes that some configs leave to a checkpoint."""

_LISTS: tuple[tuple[str, int], ...] = (
    (r"depths?|num_layers|layers_per|num_blocks|num_hidden_layers", 1),
    (r"heads|num_attention", 4),
    (r"hidden_sizes|dims?|widths|channels|intermediate|hidden|neck|feature_size", WIDTH),
    (r"image_size|input_size", 32),
    (r"^patch_size$", 8),
)
_DERIVED = ("layer_types", "mlp_layer_types", "block_types", "rope_theta")


def families() -> list[tuple[str, str]]:
    """The types of every family's plain model, with the model's class."""
    found = []
    for kind, names in MODEL_MAPPING_NAMES.items():
        if kind in CONFIG_MAPPING:
            found += [(kind, name) for name in (names if isinstance(names, tuple | list) else (names,))]
    return found


def tiny(config_class: Any) -> Any:
    """A config of a class with small sizes, and of the configs in it."""
    base = config_class()
    parts = {name: getattr(base, name, None) for name in getattr(config_class, "sub_configs", None) or {}}
    parts = {name: tiny(type(part)) for name, part in parts.items() if hasattr(part, "to_dict")}
    said = vars(base)
    given = {
        name: _small(name, value) for name, value in said.items() if not name.startswith("_") and name not in parts
    }
    given = {name: value for name, value in given.items() if value != said[name] and name not in _DERIVED}
    given |= {name: 0.2 for name in ("initializer_range", "init_std") if isinstance(said.get(name), float)}
    given |= _tokens(said) | parts | _of_kind(said, base) | rare.configs(base.model_type or config_class.__name__)
    try:
        return config_class(**given)
    except Exception as error:
        for name in list(given):  # what it doesn't take so
            if name in str(error):
                rest = {other: value for other, value in given.items() if other != name}
                try:
                    return config_class(**rest)
                except Exception:
                    continue
        raise


def _small(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple) and value and all(type(one) is int for one in value):
        for pattern, small in _LISTS:
            if re.search(pattern, name):
                return type(value)(min(one, small) for one in value)
        return value
    if type(value) is not int:
        return value
    small = next((size for pattern, size in _SIZES if re.fullmatch(pattern, name)), value)
    return small if value > small or value <= 0 else value


def _tokens(said: dict[str, Any]) -> dict[str, int]:
    """Numbers of special tokens within the vocabulary."""
    known = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    given = {}
    for name, value in said.items():
        if value is None and re.fullmatch(r"image_token_(id|index)", name):
            given[name] = IMAGE
        if type(value) is not int:
            continue
        if re.fullmatch(r".*(image|video|audio|vision|boi|eoi).*token_(id|index)|.*token_id_.*", name):
            given[name] = {"i": 60, "v": 61, "a": 62}.get(name[0], 59)
        elif name.endswith("_token_id") and value >= VOCABULARY:
            given[name] = known.get(name, 3)
    return given


def _of_kind(said: dict[str, Any], base: Any) -> dict[str, Any]:
    """What some kinds of config need besides, known by what they have."""
    given: dict[str, Any] = {}
    if "kv_lora_rank" in said:
        given |= {name: HEADS for name in ("num_key_value_heads", "num_attention_heads") if type(said.get(name)) is int}
    staged = all(isinstance(said.get(name), list | tuple) for name in ("depths", "num_heads"))
    if staged and type(said.get("embed_dim")) is int:  # Swin's
        given |= {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4]}
        given |= {
            name: size
            for name, size in (("window_size", 2), ("image_size", 32), ("patch_size", 4))
            if type(said.get(name)) is int
        }
    types = said.get("layer_types")
    if isinstance(types, list | tuple) and len({*types}) > 1:  # one layer of each type
        kinds = [*dict.fromkeys(types)]
        given |= {"layer_types": kinds, "num_hidden_layers": len(kinds)}
        experts = getattr(base, "mlp_layer_types", None)
        if isinstance(experts, list | tuple):
            given["mlp_layer_types"] = list(experts[-len(kinds) :])
    elif isinstance(types, list | tuple) and {*types} == {"linear_attention"}:
        given |= {"layer_types": ["linear_attention", "full_attention"], "num_hidden_layers": 2}
    elif types is None and "conv_L_cache" in said:
        given |= {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2}
    if isinstance(blocks := said.get("block_types"), list | tuple):
        given["num_hidden_layers"] = len(blocks)
    rope = said.get("rope_parameters")
    if (
        isinstance(rope, dict) and rope.get("rope_type") == "default"
    ):  # of time, rows and columns, where a model has these
        turned = int(WIDTH // HEADS * rope.get("partial_rotary_factor", 1.0)) // 2
        given["rope_parameters"] = {
            **rope,
            "mrope_section": [turned - turned // 2, turned // 4, turned // 2 - turned // 4],
        }
    given |= {name: size for name, size in _UNSAID.items() if said.get(name, 0) is None}
    if "fullatt_block_indexes" in said:  # windows of two merged patches a side
        given["window_size"] = 32
    if "merge_index" in said:  # two pictures, one above the other
        given["image_size"] = [64, 32]
    if said.get("num_kv_shared_layers"):
        given["num_kv_shared_layers"] = 0
    if said.get("vocabulary_map", 0) is None:
        given["vocabulary_map"] = {"<image>": IMAGE}
    if "dim_bbox" in said:  # a wave for each of eight numbers of a box
        given["hidden_size"] = 128
    if "attention_hidden_size" in said:  # of two sequences side by side
        given |= {"attention_hidden_size": 2 * WIDTH, "attention_head_dim": 2 * WIDTH // HEADS}
        given |= {"mamba_headdim": 8} if "mamba_headdim" in said else {}
    if "qk_head_dim" in said and said.get("head_dim") == said["qk_head_dim"]:
        given["head_dim"] = 2 * WIDTH // HEADS
    if "channel_shrink_ratio" in said:
        given["hidden_size"] = 48  # of six numbers of boxes
    if said.get("languages") and "default_language" in said:
        given["default_language"] = next(iter(said["languages"]))
    if said.get("num_key_value_heads", 0) is None:
        given["num_key_value_heads"] = GROUPS
    if "attn_layer_indices" in said:
        given["attn_layer_indices"] = [1]
    if "attn_layer_period" in said:
        given |= {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
    if "prediction_length" in said:
        given |= {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2]}
    if type(said.get("rotary_dim")) is int:
        given["rotary_dim"] = 4
    return given


def built(kind: str, name: str, attention: str) -> nn.Module:
    """A model with random weights, in ``eval``, in float32."""
    torch.manual_seed(0)
    model: nn.Module = getattr(transformers, name)._from_config(
        tiny(CONFIG_MAPPING[kind]), attn_implementation=attention
    )
    torch.manual_seed(1)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("sinks") or "relative" in parameter_name:  # zeros say nothing
            nn.init.normal_(parameter.data)
    return model.float().eval()


def fed(model: nn.Module) -> dict[str, Tensor]:
    """The first inputs that a model takes. Raises what it said of the first."""
    first: Exception | None = None
    for n, given in enumerate(_Inputs(model)):
        if n > 45:
            break
        try:
            with torch.no_grad():
                model(**given)
            return given
        except ImportError:
            raise
        except Exception as error:
            first = first or error
    assert first is not None
    raise first


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _ids(length: int) -> Tensor:
    return torch.randint(3, 50, (B, length), generator=torch.Generator().manual_seed(length))


class _Inputs:
    """Inputs that a model may take, the likeliest first."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.takes = model, inspect.signature(model.forward).parameters
        self.mask = torch.ones(B, T, dtype=torch.int64)
        self.mask[1, -4:] = 0
        self.text = self._taken(input_ids=_ids(T), attention_mask=self.mask)
        self.decoded = (
            self._taken(decoder_input_ids=_ids(S)) if getattr(model.config, "is_encoder_decoder", True) else {}
        )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from rare.inputs(self.model, self.text)
        main = self.model.main_input_name
        if main == "input_ids" and "bbox" not in self.takes:
            two = {"text_model", "vision_model"} <= {name for name, _ in self.model.named_children()}
            yield {**self.text, **self.decoded, **(self._taken(pixel_values=self._picture()) if two else {})}
        for kind, variants in (
            ("pixel_values", self._pictures),
            ("pixel_values_videos", self._videos),
            ("input_features", self._features),
            ("input_values", self._waves),
            ("bbox", self._boxes),
            ("past_values", self._series),
            ("grid_thw", self._patches),
            ("image_grid_thw", self._patches),
            ("pixel_position_ids", self._placed),
            ("spatial_shapes", self._naflex),
        ):
            if kind in self.takes:
                yield from variants()
        yield from self._rare()

    def _taken(self, **given: Any) -> dict[str, Any]:
        return {name: value for name, value in given.items() if name in self.takes}

    def _size(self, *names: str, default: int) -> int:
        config = self.model.config
        parts = (getattr(config, f"{part}_config", None) for part in ("vision", "audio", "encoder", "text"))
        for one in (config, *parts):
            for name in names:
                if type(found := getattr(one, name, None)) is int:
                    return int(found)
        return default

    def _picture(self, size: int | None = None) -> Tensor:
        side = self._size("image_size", "img_size", "crop_size", default=32) if size is None else size
        return _random(B, self._size("num_channels", "in_channels", "in_chans", default=3), side, side)

    def _video(self) -> Tensor:
        frames = self._size("num_frames", "frames_per_clip", default=2)
        return torch.stack([self._picture() + n for n in range(frames)], dim=1)

    def _pictures(self) -> Iterator[dict[str, Any]]:
        for pixels in (self._picture(), self._video()):
            yield {"pixel_values": pixels}
            yield {**self.text, "pixel_values": pixels}
            yield {**self.text, "pixel_values": pixels, **self.decoded}
            if "input_ids" in self.text and pixels.ndim == 4:
                seen = self.text["input_ids"].clone()
                seen[:, :QUERIES] = IMAGE
                asked = self._taken(qformer_input_ids=_ids(T))
                yield {**self.text, "input_ids": seen, "pixel_values": pixels, **asked, **self.decoded}
                first = (torch.arange(T) < QUERIES).expand(B, T)
                if "image_embeds_position_mask" in self.takes:
                    yield {**self.text, "pixel_values": pixels, "image_embeds_position_mask": first}
            if self.text and "image_attention_mask" in self.takes and pixels.ndim == 4:
                yield {**self.text, "pixel_values": pixels[:, None], "image_attention_mask": torch.ones(B, T, 1)}
        for size in (16, 32, 48, 64, 96, 224):
            yield {"pixel_values": self._picture(size)}
            yield {**self.text, "pixel_values": self._picture(size)}

    def _videos(self) -> Iterator[dict[str, Any]]:
        yield {"pixel_values_videos": self._video()}
        yield {**self.text, "pixel_values_videos": self._video()}

    def _features(self) -> Iterator[dict[str, Any]]:
        bins = self._size("num_mel_bins", "feature_size", "n_mels", "input_feat_per_channel", default=16)
        positions = self._size("max_source_positions", default=32)
        if "is_longer" in self.takes:
            long = torch.ones(B, 1, dtype=torch.bool)
            yield {**self.text, "input_features": _random(B, 4, 1024, bins), "is_longer": long}
            yield {**self.text, "input_features": _random(B, 1, 1024, bins), "is_longer": ~long}
        for length in (2 * positions, positions, 64, 3000, 96, 1024):
            there = torch.ones(B, length, dtype=torch.int64)
            for sound in (
                _random(B, bins, length),
                *(_random(B, length, size) for size in (bins, 160, WIDTH, 7 * bins)),
            ):
                yield {"input_features": sound, **self.decoded}
                yield {
                    "input_features": sound,
                    **self._taken(attention_mask=there, input_features_mask=there),
                    **self.decoded,
                }
                if self.text:
                    yield {**self.text, "input_features": sound, **self.decoded}

    def _waves(self) -> Iterator[dict[str, Any]]:
        bins = self._size("num_mel_bins", default=16)
        yield {"input_values": _random(B, 2000), **self.decoded}
        yield {"input_values": _random(B, 1, 2000)}
        yield {"input_values": _random(B, 3840), **self.decoded}
        if self.text:
            yield {**self.text, "input_values": _random(B, 1, 3840)}
        yield {"input_values": _random(B, self._size("max_length", default=64), bins)}
        yield {"input_values": _ids(T), **self.decoded}
        if "decoder_input_values" in self.takes:
            yield {"input_values": _random(B, T, WIDTH), "decoder_input_values": _random(B, S, WIDTH)}

    def _boxes(self) -> Iterator[dict[str, Any]]:
        whole = torch.randint(0, 10, (B, T, 4), generator=torch.Generator().manual_seed(0))
        whole[..., 2:] += 10
        for boxes in (whole, whole / 20):
            yield {**self.text, "bbox": boxes, **self.decoded}
            yield {**self.text, "bbox": boxes, "pixel_values": self._picture(), **self.decoded}

    def _series(self) -> Iterator[dict[str, Any]]:
        length = self._size("context_length", "seq_length", default=32)
        whole = {
            "past_values": _random(B, 10),
            "past_time_features": torch.zeros(B, 10, 0),
            "past_observed_mask": torch.ones(B, 10),
        }
        yield {**whole, "future_values": _random(B, 4), "future_time_features": torch.zeros(B, 4, 0)}
        yield {"past_values": _random(B, length, self._size("num_input_channels", default=1))}
        if "freq" in self.takes:
            none = torch.zeros(B, length, dtype=torch.int64)
            yield {"past_values": _random(B, length), "past_values_padding": none, "freq": none[:, :1]}
        yield {"past_values": _random(B, length)}
        yield {"past_values": list(_random(B, length))}

    def _patches(self) -> Iterator[dict[str, Any]]:
        side, frames = self._size("patch_size", default=8), self._size("temporal_patch_size", default=1)
        grid = torch.tensor([[1, 4, 4], [1, 4, 4]])
        for width in {3 * frames * side * side: 0, 3 * side * side: 0, 6 * side * side: 0}:
            yield self._taken(
                pixel_values=_random(32, width),
                hidden_states=_random(32, width),
                grid_thw=grid,
                image_grid_thw=grid,
                merge_sizes=torch.tensor([2, 2]),
            )
        yield self._taken(pixel_values=_random(32, 3, side, side), grid_thw=grid, image_grid_thw=grid)

    def _placed(self) -> Iterator[dict[str, Any]]:
        places = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"), dim=-1).reshape(1, 16, 2)
        width = 3 * self._size("patch_size", default=8) ** 2
        yield {"pixel_values": _random(B, 16, width).abs(), "pixel_position_ids": places.expand(B, 16, 2)}

    def _naflex(self) -> Iterator[dict[str, Any]]:
        there = torch.ones(B, 16, dtype=torch.int64)
        there[1, 12:] = 0
        shapes = {"spatial_shapes": torch.tensor([[4, 4], [4, 3]]), **self._taken(input_ids=_ids(T))}
        width = 3 * self._size("patch_size", default=8) ** 2
        for name in ("pixel_attention_mask", "attention_mask"):
            yield {"pixel_values": _random(B, 16, width), name: there, **shapes}

    def _rare(self) -> Iterator[dict[str, Any]]:
        width = self._size("hidden_size", "d_model", default=WIDTH)
        if "query_embeds" in self.takes:
            other = self._size("encoder_hidden_size", default=width)
            yield {"query_embeds": _random(B, 6, width), "encoder_hidden_states": _random(B, 7, other)}
        if "states" in self.takes:
            states, actions = self._size("state_dim", default=17), self._size("act_dim", default=4)
            given = {"states": _random(B, 5, states), "actions": _random(B, 5, actions), "rewards": _random(B, 5, 1)}
            yield {
                **given,
                "returns_to_go": _random(B, 5, 1),
                "timesteps": torch.arange(5).expand(B, 5),
                "attention_mask": torch.ones(B, 5),
            }
        if "prompt_pixel_values" in self.takes:
            yield {
                "pixel_values": self._picture(),
                "prompt_pixel_values": self._picture() + 1,
                "prompt_masks": self._picture() * 2,
            }
        if "visual_feats" in self.takes:
            feats = _random(B, 5, self._size("visual_feat_dim", default=WIDTH))
            yield {**self.text, "visual_feats": feats, "visual_pos": _random(B, 5, 4).abs()}
        if "inputs" in self.takes:
            yield {"inputs": _random(B, S, self._size("d_model", default=WIDTH))}
        yield self.text
        for name in ("inputs_embeds", "hidden_states"):
            if name in self.takes:
                yield {name: _random(B, T, width)}
