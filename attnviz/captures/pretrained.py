"""Models in folders, as Hugging Face transformers saves them, and what they are fed: a text, or a picture."""

from __future__ import annotations

import inspect
import logging as stdlogging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnviz.base.errors import InputError, is_memory

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model", "tekken.json")
_LENGTHS = ("max_position_embeddings", "max_encoder_position_embeddings")
_LAYERS = ("num_hidden_layers", "num_layers", "encoder_layers", "decoder_layers", "num_decoder_layers")


@dataclass(frozen=True)
class Pretrained:
    """A model, ready to run.

    Args:
        name: the folder, or the name on the hub.
        model: the model, in ``eval``, on its device.
    """

    name: str
    model: nn.Module

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    @property
    def layers(self) -> int:
        """How many layers the model has, of the kind that it has most of."""
        configs = [self.config, getattr(self.config, "text_config", None), getattr(self.config, "vision_config", None)]
        counts = [getattr(config, name, None) for config in configs for name in _LAYERS]
        return max((count for count in counts if isinstance(count, int)), default=0)

    def takes(self, name: str) -> bool:
        """Whether the model's ``forward`` has a parameter of this name."""
        return name in inspect.signature(self.model.forward).parameters

    def run(self, fed: Fed) -> None:
        """Runs the model.

        Raises:
            InputError: it doesn't take what it is fed, or its attention can't be captured.
        """
        try:
            self.model(**fed.inputs)
        except (TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
            if isinstance(error, InputError) or "out of memory" in str(error).lower():
                raise
            both = (
                self.takes("input_ids")
                and self.takes("pixel_values")
                and len({"input_ids", "pixel_values"} & {*fed.inputs}) == 1
            )
            hint = "; it takes a text with a picture: give --text and --image" if both else ""
            raise InputError(
                f"{self.name}: {type(self.model).__name__} does not run on {' and '.join(fed.inputs)}: {_first_sentence(error)}{hint}"
            ) from error


@dataclass(frozen=True)
class Fed:
    """What a model is fed.

    Args:
        inputs: the keyword arguments of the model's ``forward``.
        tokenizer: what labels the tokens, if any.
        picture: the picture as the model sees it, (height, width, 3) uint8, if any.
        patches: its rows and columns of patches.
    """

    inputs: dict[str, Any]
    tokenizer: Any = None
    picture: Tensor | None = None
    patches: tuple[int, int] | None = None
    notes: list[str] = field(default_factory=list)


def load_model(
    name: str, *, dtype: torch.dtype | None = None, device: torch.device | None = None, attention: str | None = None
) -> Pretrained:
    """The model of a folder, or of the hub where the network allows it, without the head of its task.

    Args:
        name: a folder with ``config.json`` and weights, or a name on the hub.
        dtype: of the weights; None is the folder's own.
        device: where it runs; None is the CPU.
        attention: the kernel: ``eager``, ``sdpa``, ``flash_attention_2``, ``flex_attention``; None is the model's choice.

    Raises:
        InputError: no transformers, no such folder, not a model, or a kernel that it doesn't have.
    """
    transformers = _transformers()
    _check_folder(name)
    try:
        config = transformers.AutoConfig.from_pretrained(name, **_NO_CODE)
        _check_kernel(name, config, attention)
        kind = transformers.AutoModel
        if type(config) not in kind._model_mapping:  # of two models, which has no class without a head
            kind = getattr(transformers, next(iter(config.architectures or ()), ""), kind)
        model = kind.from_pretrained(
            name, config=config, dtype="auto" if dtype is None else dtype, attn_implementation=attention, **_NO_CODE
        )
    except InputError:
        raise
    except Exception as error:  # transformers raises almost anything for what it can't load
        _check_own_code(name, "model", error)
        if attention is not None and ("attention" in str(error).lower() or attention in str(error)):
            raise InputError(f"{name}: --attn {attention}: {_first_sentence(error)}; try eager or sdpa") from error
        raise InputError(f"{name}: is not a model that transformers can load: {_first_sentence(error)}") from error
    return Pretrained(name, model.eval() if device is None else model.eval().to(device))


def feed_text(
    pretrained: Pretrained,
    text: str | Sequence[str],
    *,
    pair: str | None = None,
    target: str | None = None,
    global_positions: str | None = None,
    max_tokens: int | None = None,
) -> Fed:
    """A text, or several as a padded batch, as the model's tokens.

    Args:
        pretrained: the model.
        text: the text, or one a batch item.
        pair: a second text after it, for models that read two at once; the tokenizer says which token is whose.
        target: what the decoder of an encoder-decoder model reads; None is its start token alone.
        global_positions: Longformer's and LED's global tokens, as positions (``0``, ``0-3,17``, ``every:512``).
        max_tokens: cut each text to this many tokens; None cuts nothing.

    Raises:
        InputError: the model reads no text, there is no tokenizer, or a text is empty or too long.
    """
    texts = [text] if isinstance(text, str) else list(text)
    _check_reads_text(pretrained)
    for n, one in enumerate(texts):
        if not one.strip():
            which = "the text" if len(texts) == 1 else f"text {n + 1} of {len(texts)}"
            raise InputError(f"{which} is empty; give some with --text or --file")
    if pair is not None and len(texts) > 1:
        raise InputError(f"--pair: it is the second of one text, and {len(texts)} are given; give one --text")
    tokenizer = _tokenizer(pretrained.name)
    cut: dict[str, Any] = {} if max_tokens is None else {"truncation": True, "max_length": max_tokens}
    if len(texts) > 1:
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        cut["padding"] = True
    encoded = tokenizer(texts, [pair] if pair is not None else None, return_tensors="pt", verbose=False, **cut)
    inputs = {name: tensor for name, tensor in encoded.items() if pretrained.takes(name)}
    return _fed(pretrained, tokenizer, inputs, target=target, global_positions=global_positions)


def feed_ids(
    pretrained: Pretrained, ids: Sequence[int], *, target: str | None = None, global_positions: str | None = None
) -> Fed:
    """Token ids as they are; a tokenizer labels them, where there is one.

    Raises:
        InputError: the model reads no text, an id is not in its vocabulary, or there are too many.
    """
    import torch

    _check_reads_text(pretrained)
    rows = pretrained.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    for one in ids:
        if not 0 <= one < rows:
            raise InputError(f"--ids: {one} is not in the vocabulary, which has {rows} tokens (0 to {rows - 1})")
    try:
        tokenizer = _tokenizer(pretrained.name)
    except InputError:
        tokenizer = None
    return _fed(
        pretrained,
        tokenizer,
        {"input_ids": torch.tensor([list(ids)])},
        target=target,
        global_positions=global_positions,
    )


def feed_text_and_picture(pretrained: Pretrained, text: str, path: Path) -> Fed:
    """A text and a picture as the model's own processor puts them together, in its chat template where it has one.

    Raises:
        InputError: the model doesn't take both, there is no processor, or the file is no picture.
    """
    for name, what in (("input_ids", "text"), ("pixel_values", "pictures")):
        if not pretrained.takes(name):
            raise InputError(
                f"{pretrained.name}: {type(pretrained.model).__name__} takes no {what}; give --text or --image alone"
            )
    picture = _opened(path)
    try:
        processor = _transformers().AutoProcessor.from_pretrained(pretrained.name, **_NO_CODE)
    except Exception as error:
        _check_own_code(pretrained.name, "processor", error)
        raise InputError(
            f"{pretrained.name}: there is no processor of text and pictures; save it beside the model, with "
            f"processor.save_pretrained({pretrained.name!r}): {_first_sentence(error)}"
        ) from error
    prompt, image_token = text, getattr(processor, "image_token", None)
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": text}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    elif isinstance(image_token, str) and image_token not in text:
        prompt = f"{image_token} {text}"
    try:
        encoded = processor(text=[prompt], images=[picture], return_tensors="pt")
    except Exception as error:
        raise InputError(
            f"{pretrained.name}: its processor takes no text with a picture: {_first_sentence(error)}"
        ) from error
    dtype = next(pretrained.model.parameters()).dtype
    inputs = {name: tensor for name, tensor in encoded.items() if pretrained.takes(name)}
    inputs = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
    return _fed(pretrained, getattr(processor, "tokenizer", None), inputs)


def _check_reads_text(pretrained: Pretrained) -> None:
    main = pretrained.model.main_input_name
    if main == "input_ids" or pretrained.takes("input_ids"):
        return
    hint = "give a picture with --image" if main == "pixel_values" else "capture it in Python, with attnviz.capture"
    raise InputError(f"{pretrained.name}: {type(pretrained.model).__name__} takes {main}, not text; {hint}")


def _fed(
    pretrained: Pretrained,
    tokenizer: Any,
    inputs: dict[str, Any],
    *,
    target: str | None = None,
    global_positions: str | None = None,
) -> Fed:
    """Tokens with what else the model's ``forward`` needs of them."""
    import torch

    B, length = inputs["input_ids"].shape
    if not length:
        raise InputError("the text has no tokens; give a longer one")
    limit = _limit(pretrained, tokenizer)
    if limit is not None and length > limit:
        raise InputError(
            f"{pretrained.name}: the text has {length} tokens and the model takes {limit}; cut it with --max-tokens {limit}"
        )
    if global_positions is not None:
        from attnviz.base.selections import parse_positions

        if not pretrained.takes("global_attention_mask"):
            raise InputError(f"--global {global_positions}: {type(pretrained.model).__name__} has no global tokens")
        inputs["global_attention_mask"] = mask = torch.zeros_like(inputs["input_ids"])
        mask[:, list(parse_positions(global_positions, length))] = 1
        if "attention_mask" in inputs:
            mask *= inputs["attention_mask"]  # padding is no global token
    notes = []
    if getattr(pretrained.config, "is_encoder_decoder", False):
        if target is None:
            notes.append("no --target: the decoder reads its start token alone")
        decoded = [_start(pretrained.config, tokenizer)]
        if target is not None:
            if tokenizer is None:
                raise InputError(f"{pretrained.name}: --target: there is no tokenizer to read it with")
            decoded += tokenizer(text_target=target, add_special_tokens=False)["input_ids"]
        inputs["decoder_input_ids"] = torch.tensor([decoded]).expand(B, -1)
    elif target is not None:
        raise InputError(f"--target: {type(pretrained.model).__name__} has no decoder of its own; leave it out")
    if pretrained.takes("use_cache"):
        inputs["use_cache"] = False
    return Fed(_on_device(inputs, pretrained), tokenizer, notes=notes)


def _start(config: Any, tokenizer: Any) -> int:
    """The token that a decoder begins with."""
    named = [getattr(config, name, None) for name in ("decoder_start_token_id", "bos_token_id")]
    decoder = getattr(config, "decoder", None)  # a model of two
    named += [getattr(decoder, name, None) for name in ("decoder_start_token_id", "bos_token_id")]
    named += [getattr(tokenizer, name, None) for name in ("bos_token_id", "cls_token_id")]
    return next((int(one) for one in named if isinstance(one, int)), 0)


def feed_picture(pretrained: Pretrained, path: Path) -> Fed:
    """A picture as the model's pixels.

    Raises:
        InputError: the model takes no pictures, there is no processor for them, or the file is none.
    """
    import torch

    transformers = _transformers()
    if not pretrained.takes("pixel_values"):
        raise InputError(
            f"{pretrained.name}: {type(pretrained.model).__name__} takes {pretrained.model.main_input_name}, not pictures; "
            f"give a text with --text or --file"
        )
    picture = _opened(path)
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(pretrained.name, backend="pil", **_NO_CODE)
    except Exception as error:
        _check_own_code(pretrained.name, "image processor", error)
        raise InputError(
            f"{pretrained.name}: there is no image processor (preprocessor_config.json), which says how the model "
            f"wants its pictures: {_first_sentence(error)}"
        ) from error
    pixels = processor(images=picture, return_tensors="pt")["pixel_values"]  # (1, 3, height, width)
    mean, deviation = (torch.tensor(getattr(processor, name)).view(3, 1, 1) for name in ("image_mean", "image_std"))
    shown = pixels[0] * deviation + mean if processor.do_normalize else pixels[0]
    seen = (shown.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    patch = getattr(pretrained.config, "patch_size", None)
    patches = None
    if isinstance(patch, int):
        patches = (pixels.shape[2] // patch, pixels.shape[3] // patch)
    inputs = {"pixel_values": pixels.to(next(pretrained.model.parameters()).dtype)}
    return Fed(_on_device(inputs, pretrained), picture=seen, patches=patches)


def _opened(path: Path) -> Any:
    """A picture in a file, in red, green and blue."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise InputError("--image needs Pillow; install it with: pip install 'attnviz[hf]'") from error
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except FileNotFoundError as error:
        raise InputError(f"--image {path}: there is no such file") from error
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"--image {path}: is not a picture that Pillow reads: {_first_sentence(error)}") from error


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError("capture needs transformers; install it with: pip install 'attnviz[hf]'") from error
    logging: Any = transformers.utils.logging
    stdlogging.getLogger("huggingface_hub").setLevel(stdlogging.ERROR)  # says each of its tries
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return transformers


_NO_CODE: dict[str, Any] = {"trust_remote_code": False}
"""A model, a tokenizer and a processor are of transformers' own classes, or are refused: without it, one is asked on stdin."""


def _check_own_code(name: str, what: str, error: Exception) -> None:
    """Raises InputError where what could not be loaded is code, or a pickle that may be; ``error`` where memory is what failed."""
    if is_memory(error):
        raise error
    if "trust_remote_code" in str(error) or "custom code" in str(error):
        raise _own_code(name, what) from error
    if "weights_only" in str(error) or "Weights only" in str(error):
        raise InputError(
            f"{name}: its weights are a pickle that holds more than tensors and could run code, so it was not loaded; save the "
            f"model again, as .safetensors"
        ) from error


def _own_code(name: str, what: str) -> InputError:
    return InputError(
        f"{name}: its {what} is made by code of its own (auto_map), which is not run here; run it in Python, and capture it "
        f"there: with attnviz.capture(model)"
    )


def _check_kernel(name: str, config: Any, attention: str | None) -> None:
    """Raises InputError where a model's configuration names a kernel that would be fetched from the hub, which is code."""
    own = str(getattr(config, "_attn_implementation", None) or "")
    if attention is None and "/" in own:
        raise InputError(
            f"{name}: its config.json names {own} to be fetched and run; name a kernel yourself: --attn sdpa"
        )


def _check_folder(name: str) -> None:
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            found = ", ".join(sorted(path.name for path in folder.iterdir())[:3])
            raise InputError(f"{name}: is not a model folder: there is no config.json, only {found or 'nothing'}")
    elif folder.exists():
        raise InputError(f"{name}: is a file; name the model's folder, which holds config.json and the weights")
    elif name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise InputError(f"{name}: there is no such folder")


def _tokenizer(name: str) -> Any:
    folder = Path(name)
    missing = f"{name}: there is no tokenizer; save it beside the model, with tokenizer.save_pretrained({name!r})"
    if folder.is_dir() and not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise InputError(missing)
    transformers = _transformers()
    try:
        said = transformers.models.auto.tokenization_auto.get_tokenizer_config(name)
        if said.get("auto_map") and not hasattr(transformers, str(said.get("tokenizer_class"))):
            raise _own_code(name, "tokenizer")  # a class of transformers would stand in for it, and read other tokens
        return transformers.AutoTokenizer.from_pretrained(name, **_NO_CODE)
    except InputError:
        raise
    except Exception as error:
        _check_own_code(name, "tokenizer", error)
        raise InputError(f"{missing} ({_first_sentence(error)})") from error


def _limit(pretrained: Pretrained, tokenizer: Any) -> int | None:
    """The most tokens that the model has positions for; None where it has no end."""
    limits = [getattr(pretrained.config, name, None) for name in _LENGTHS]
    known = [limit for limit in limits if isinstance(limit, int) and limit > 0]
    if not known:
        return None
    told = getattr(tokenizer, "model_max_length", None)
    # Some models keep a few positions for themselves, which only the tokenizer knows.
    return min(*known, told) if isinstance(told, int) and told + 8 >= min(known) else min(known)


def _on_device(inputs: dict[str, Any], pretrained: Pretrained) -> dict[str, Any]:
    device = next(pretrained.model.parameters()).device
    return {name: value.to(device) if hasattr(value, "to") else value for name, value in inputs.items()}


def _first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    head = text.split(". ")[0]
    return head if len(head) <= 200 else head[:199] + "…"
