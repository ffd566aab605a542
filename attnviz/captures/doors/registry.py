"""The attention functions of Hugging Face transformers, wrapped as its registry hands them out."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attnviz.base.errors import InputError
from attnviz.captures.calls import Call, Layer
from attnviz.captures.checking import DROPOUT, Output, difference
from attnviz.captures.doors.running import Frame, Running
from attnviz.captures.heard import Hear
from attnviz.captures.masks import Mask, block_mask, from_tensor
from attnviz.captures.weighed import Weighed

_ADDING = ("eager", "flex_attention")
"""Functions that add the tensor they are given as a mask, whatever its dtype, and hide nothing beside it."""

_READ = frozenset(
    (
        *("attention_mask", "scaling", "softcap", "s_aux", "sliding_window", "is_causal", "position_bias"),
        *("dropout", "training", "output_attentions", "use_cache"),  # which change no weight, or are looked at apart
    )
)
"""What a function may be given that a capture has a place for."""


@contextmanager
def registry(running: Running, hear: Hear) -> Iterator[None]:
    """Wraps the attention functions that transformers hands out, where transformers is there."""
    try:
        from transformers.modeling_utils import AttentionInterface
    except ImportError:  # a model of plain torch
        yield
        return
    if not hasattr(AttentionInterface, "get_interface"):
        raise InputError(
            "transformers is too old to be heard, as it hands out no function; pip install 'transformers>=5.6'"
        )
    hand_out = AttentionInterface.get_interface
    follows: dict[str, bool] = {}  # by module, where that isn't sure: whether what it computes follows from q and k

    def get_interface(registry: Any, implementation: str | None, default: Callable[..., Any]) -> Callable[..., Any]:
        function = hand_out(registry, implementation, default)  # type: ignore[arg-type] # as it is called, with none
        own = str(getattr(function, "__module__", "")).startswith("transformers.")
        kind = implementation or "eager"  # a config that was given none, of a part that was made by itself

        @functools.wraps(function)
        def heard(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
            if id(module) not in running.names:  # of another model
                return function(module, query, key, value, *args, **kwargs)
            with running.apart():
                frame = running.frame(module)
                given = _bound(function, args, kwargs)
                unread = _unread(function, given)
                call = of_function(frame, kind, query, key, value, given.get("attention_mask"), given)
                call = replace(call, unread=unread)
                made = hear(frame.name, call) if own and not unread else None
            with running.unheard():
                result = function(module, query, key, value, *args, **kwargs)
            with running.apart():
                output = _output(result, query, value, given, module)
                if made is None and follows.setdefault(frame.name, _follows(call, output)):
                    made = hear(frame.name, call)
                (made or hear(frame.name, _weighed(call, result, output) or call))(output)
            return result

        return heard

    setattr(AttentionInterface, "get_interface", get_interface)  # noqa: B010 (a method to mypy)
    try:
        yield
    finally:
        setattr(AttentionInterface, "get_interface", hand_out)  # noqa: B010


@contextmanager
def generating(model: nn.Module, reorder: Callable[[Tensor], None], chose: Callable[[Tensor], None]) -> Iterator[None]:
    """Reports how a beam search reorders the caches of transformers, and the sequences that a model's ``generate`` gives."""
    try:
        from transformers import GenerationMixin, cache_utils
    except ImportError:
        yield
        return
    own = {kind: kind.reorder_cache for kind in (cache_utils.Cache, cache_utils.EncoderDecoderCache)}
    inside = False

    def told(reorder_cache: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(reorder_cache)
        def heard(cache: Any, beam_idx: Tensor) -> Any:
            nonlocal inside
            outer, inside = inside, True
            try:
                if not outer:  # a cache of two reorders both
                    reorder(beam_idx)
                return reorder_cache(cache, beam_idx)
            finally:
                inside = outer

        return heard

    generate = GenerationMixin.generate

    @functools.wraps(generate)
    def given(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = generate(self, *args, **kwargs)
        sequences = getattr(result, "sequences", result)
        if self is model and isinstance(sequences, Tensor):
            chose(sequences)
        return result

    setattr(GenerationMixin, "generate", given)  # noqa: B010
    for kind, function in own.items():
        setattr(kind, "reorder_cache", told(function))  # noqa: B010 (a method to mypy)
    try:
        yield
    finally:
        setattr(GenerationMixin, "generate", generate)  # noqa: B010
        for kind, function in own.items():
            setattr(kind, "reorder_cache", function)  # noqa: B010


def _bound(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a function was given besides the module, q, k and v, by name."""
    if not args:
        return kwargs
    names = ["attention_mask", *(one.name for one in _parameters(function)[5:])]  # whatever a function calls its mask
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _unread(function: Callable[..., Any], given: dict[str, Any]) -> tuple[str, ...]:
    """The arguments that a function has a name for, was given, and that a capture has no place for."""
    unknown = [name for name, value in given.items() if name not in _READ and value is not None and value is not False]
    if not unknown:
        return ()
    named = [one.name for one in _parameters(function)[4:] if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
    return tuple(name for name in named if name in unknown)


@functools.lru_cache(maxsize=64)
def _parameters(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    """What a function takes, in order."""
    return tuple(inspect.signature(function).parameters.values())


def _follows(call: Call, output: Output) -> bool:
    """Whether a call's output follows from what is known of it."""
    alone = Layer("", 0, "")
    alone.add(call, 1, copy=False)
    alone.made(output)
    found = difference(alone.inputs(source="this call"), alone.checks) if output.unchecked is None else None
    return found is not None and found.holds


def _weighed(call: Call, result: Any, output: Output) -> Weighed | None:
    """A call by the weights that its function gave beside the context; None where it gave none, or these were dropped out."""
    weights = result[1] if isinstance(result, tuple) and len(result) > 1 else None
    B, H, T = call.sizes
    if not isinstance(weights, Tensor) or weights.ndim != 4 or weights.shape[:3] != (B, H, T) or output.unchecked:
        return None
    assert call.k is not None
    own = weights[..., : call.k.shape[2]]
    return Weighed(own, None, call.v, call.cross, call.kept, mask=call.mask, unread=call.unread)


def _output(result: Any, q: Tensor, v: Tensor, given: dict[str, Any], module: nn.Module) -> Output:
    """What a function gave: (B, T, H, D_v), by the registry's own convention."""
    unchecked = DROPOUT if given.get("dropout") and module.training else None
    context = result[0] if isinstance(result, tuple) else result
    B, H, T, D_v = (*q.shape[:3], v.shape[3])
    if not isinstance(context, Tensor) or context.numel() != B * H * T * D_v:
        return Output(unchecked=unchecked or "its output has another shape")
    if context.shape == (B, H, T, D_v) and H != T:
        return Output(context, unchecked=unchecked)
    return Output(context.reshape(B, T, H, D_v).transpose(1, 2), unchecked=unchecked)


def of_function(
    frame: Frame, implementation: str, q: Tensor, k: Tensor, v: Tensor, mask: Any, given: dict[str, Any]
) -> Call:
    """A call of one of transformers' attention functions: q (B, H, T, D), k and v (B, H_kv, S, D)."""
    T, S = q.shape[2], k.shape[2]
    cross = frame.crosses(T, S)
    heard, added = _heard(frame, implementation, q, S, mask, given)
    filled = S
    if mask is None and heard.causal and implementation == "sdpa":  # a cache of fixed size: the rest isn't there yet
        filled = min(S, T)
    elif heard.visible is not None and not cross and S > T:
        filled = _filled(heard.visible, frame.kept.past + T - frame.kept.first if frame.kept else T, S)
    k, v, heard = k[:, :, :filled], v[:, :, :filled], heard.part(T, filled)
    biases = [bias for bias in (given.get("position_bias"), added) if bias is not None and bool(bias.any())]
    bias = sum(biases[1:], biases[0]) if biases else None
    return Call(
        q,
        k,
        v,
        heard,
        cross,
        kept=None if cross else frame.kept,
        scale=given.get("scaling"),
        softcap=given.get("softcap"),
        sinks=given.get("s_aux"),
        bias=None if bias is None else bias[..., :filled].detach(),
        window=given.get("sliding_window"),
    )


def _heard(
    frame: Frame, implementation: str, q: Tensor, S: int, mask: Any, given: dict[str, Any]
) -> tuple[Mask, Tensor | None]:
    """What the function hides, and what it adds to the scores."""
    B, H, T, _ = q.shape
    window = given.get("sliding_window")
    width = window - 1 if window else None
    is_causal = given.get("is_causal")
    if is_causal is None:
        is_causal = getattr(frame.module, "is_causal", True)
    causal = bool(is_causal) and implementation not in _ADDING and T > 1
    if mask is None:
        return Mask(causal=causal, window=width if implementation.startswith("flash") else None), None
    if not isinstance(mask, Tensor):
        return Mask(block_mask(mask, B, H, T, S)), None
    if (mask.ndim == 2 and mask.shape != (T, S)) or implementation.startswith("flash"):
        return Mask(causal=causal, window=width, padding=mask[:, -S:].bool()), None
    if implementation in _ADDING:
        mask = mask.to(q.dtype) if mask.dtype == torch.bool else mask
        mask = mask[:, :1] if implementation == "flex_attention" else mask  # it reads that of the first head alone
    return from_tensor(mask[..., :S])


def _filled(visible: Tensor, known: int, S: int) -> int:
    """How much of a cache of fixed size is filled: what its length says, and every key that some query sees."""
    seen = visible.flatten(0, 2).any(0).nonzero()
    return min(S, max(known, int(seen[-1]) + 1 if len(seen) else S))
