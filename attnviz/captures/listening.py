"""Hearing what goes into a model's attention, whatever kernel runs, without a change to the model or its output.

Four doors, each narrow:

- the attention functions of Hugging Face transformers: every model of its registry asks it for the function to call,
  which is wrapped as it is handed out;
- ``torch.nn.functional.scaled_dot_product_attention``, by a ``TorchFunctionMode``;
- ``torch.nn.functional.multi_head_attention_forward``, where ``nn.MultiheadAttention`` computes, likewise: what goes
  in is projected a second time, as the model itself may never show its q and k;
- models that multiply by themselves (Longformer, LED, BigBird): hooks on the layers that project q, k and v.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attnviz.base.errors import InputError
from attnviz.captures.calls import Call, Hear
from attnviz.captures.masks import Mask, block_mask, from_tensor

TRIED = (
    "transformers' attention functions, torch's scaled_dot_product_attention and nn.MultiheadAttention, "
    "and the projections of Longformer, LED and BigBird"
)
"""The doors, for the error of a model that uses none."""

_CROSS = ("cross", "encoder_attn", "encdec", "enc_dec", "multihead_attn")
"""What the names of modules that attend to another sequence contain."""

_PROJECTIONS = {
    "LEDDecoderAttention": ("q_proj", "k_proj", "v_proj"),
    "BigBirdSelfAttention": ("query", "key", "value"),
}
"""Classes that compute attention by themselves, and the layers that project q, k and v."""

_LONGFORMER = ("query", "key", "value", "query_global", "key_global", "value_global")

Ids = Callable[[str, Tensor], None]
"""What is done with token ids: (the name of the module they go into, (B, T) ids)."""


@contextmanager
def listening(model: nn.Module, hear: Hear, *, ids: Ids, begin: Callable[[], None]) -> Iterator[None]:
    """Reports every attention call that ``model`` makes while the block runs.

    Args:
        model: any module.
        hear: called with each call.
        ids: called with the token ids that go into each of its parts that takes some.
        begin: called as a forward pass of the whole model begins.

    Raises:
        InputError: inside the block, where a call can't be put into words.
    """
    with ExitStack() as stack:
        running = _Running(model, hear, ids, begin)
        stack.callback(running.remove)
        stack.enter_context(_registry(running, hear))
        stack.enter_context(_Functions(running, hear))
        yield


class _Running:
    """Which module of the model is running, and what the hand-written ones among them have projected so far."""

    def __init__(self, model: nn.Module, hear: Hear, ids: Ids, begin: Callable[[], None]) -> None:
        self.names = {id(module): name for name, module in model.named_modules()}
        self.stack: list[nn.Module] = []
        self.inside = False  # within an attention function that was heard already
        self._model, self._hear, self._ids, self._begin = model, hear, ids, begin
        self._projected: dict[int, dict[str, Tensor]] = {}
        self._given: dict[int, dict[str, Any]] = {}
        self._past: dict[int, int] = {}
        self._length = 0  # positions before Longformer pads them
        self._hooks = []
        for module in model.modules():
            self._hooks.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            self._hooks.append(module.register_forward_hook(self._leave, always_call=True))

    def name(self) -> str:
        """The name of the module that runs."""
        return self.names[id(self.stack[-1])] if self.stack else ""

    def remove(self) -> None:
        """Takes the hooks away."""
        for hook in self._hooks:
            hook.remove()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module is self._model:
            self.stack.clear()  # of what an error left
            self._begin()
        self.stack.append(module)
        if hasattr(module, "get_input_embeddings"):
            token_ids = kwargs.get("input_ids", args[0] if args else None)
            embedded = kwargs.get("inputs_embeds")
            if isinstance(token_ids, Tensor) and token_ids.ndim == 2 and not token_ids.is_floating_point():
                self._length = token_ids.shape[1]
                self._ids(self.names[id(module)], token_ids)
            elif isinstance(embedded, Tensor):
                self._length = embedded.shape[1]
        kind = type(module).__name__
        if kind == "BigBirdBlockSparseAttention":
            raise InputError(
                f"{type(self._model).__name__}: BigBird's block-sparse attention counts keys of its random blocks more "
                f"than once, so that its weights are no softmax over keys; load it with attention_type='original_full'"
            )
        if kind in _PROJECTIONS or _is_longformer(module):
            self._projected[id(module)] = {}
            self._given[id(module)] = given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
            cache = given.get("cache", given.get("past_key_values"))
            layer = getattr(module, "layer_idx", None)
            self._past[id(module)] = 0 if cache is None or layer is None else int(cache.get_seq_length(layer))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.stack and self.stack[-1] is module:
            self.stack.pop()
        if output is None:  # it failed
            return
        projected = self._projected.pop(id(module), None)
        if projected is not None:
            given = self._given.pop(id(module))
            call = _longformer(module, projected, given, self._length) if _is_longformer(module) else None
            self._hear(
                self.names[id(module)],
                call or _projections(module, projected, given, self._past[id(module)], self.names[id(module)]),
            )
        parent = self.stack[-1] if self.stack else None
        if parent is not None and id(parent) in self._projected and isinstance(output, Tensor):
            name = self.names[id(module)].rpartition(".")[2]
            if name in _LONGFORMER or name in _PROJECTIONS.get(type(parent).__name__, ()):
                self._projected[id(parent)][name] = output.detach().clone()  # the model scales it in place


@contextmanager
def _registry(running: _Running, hear: Hear) -> Iterator[None]:
    """Wraps the attention functions that transformers hands out, where transformers is there."""
    try:
        from transformers.modeling_utils import AttentionInterface
    except ImportError:  # a model of plain torch
        yield
        return
    hand_out = AttentionInterface.get_interface

    def get_interface(registry: Any, implementation: str, default: Callable[..., Any]) -> Callable[..., Any]:
        function = hand_out(registry, implementation, default)

        @functools.wraps(function)
        def heard(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
            name = running.names.get(id(module))
            if name is None:  # of another model
                return function(module, query, key, value, *args, **kwargs)
            mask = args[0] if args else kwargs.get("attention_mask")
            hear(name, _of_function(module, name, implementation, query, key, value, mask, kwargs))
            running.inside, outer = True, running.inside
            try:
                return function(module, query, key, value, *args, **kwargs)
            finally:
                running.inside = outer

        return heard

    setattr(AttentionInterface, "get_interface", get_interface)  # noqa: B010 (a method to mypy)
    try:
        yield
    finally:
        setattr(AttentionInterface, "get_interface", hand_out)  # noqa: B010


def _of_function(
    module: nn.Module, name: str, implementation: str, q: Tensor, k: Tensor, v: Tensor, mask: Any, given: dict[str, Any]
) -> Call:
    """A call of one of transformers' attention functions: q (B, H, T, D), k and v (B, H_kv, S, D)."""
    (B, H, T, _), S = q.shape, k.shape[2]
    cross = is_cross(name)
    window = given.get("sliding_window")
    is_causal = given.get("is_causal")
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    bias = given.get("position_bias")
    if bias is not None and not bool(bias.any()):
        bias = None
    # The eager functions hide what their mask hides and nothing else; the others add causality where there is none.
    causal = bool(is_causal) and implementation != "eager" and T > 1
    if mask is None:
        if causal and implementation == "sdpa" and S > T:  # an empty cache of fixed size: the rest isn't there yet
            k, v = k[:, :, :T], v[:, :, :T]
        heard = Mask(causal=causal, window=window - 1 if window and implementation.startswith("flash") else None)
    elif not isinstance(mask, Tensor):
        heard = Mask(block_mask(mask, B, T, S))
    elif mask.ndim == 2:
        heard = Mask(None, causal, window - 1 if window else None, mask[:, -S:].bool())
    else:
        heard, of_mask = from_tensor(mask, B, H)
        if of_mask is not None:
            bias = of_mask if bias is None else bias + of_mask
        if not cross and S > T:
            k, v, heard = _filled(k, v, heard)
    return Call(
        q,
        k,
        v,
        heard,
        cross,
        scale=given.get("scaling"),
        softcap=given.get("softcap"),
        sinks=given.get("s_aux"),
        bias=None if bias is None else bias[..., : k.shape[2]].detach(),
        window=window,
    )


def _filled(k: Tensor, v: Tensor, mask: Mask) -> tuple[Tensor, Tensor, Mask]:
    """What is filled of a cache of fixed size: up to the last key that some query sees."""
    assert mask.visible is not None
    seen = mask.visible.flatten(0, 1).any(0).nonzero()
    end = int(seen[-1]) + 1 if len(seen) else k.shape[2]
    if end == k.shape[2]:
        return k, v, mask
    return k[:, :, :end], v[:, :, :end], Mask(mask.visible[..., :end])


class _Functions(TorchFunctionMode):
    """torch's own attention functions, wherever they are called from."""

    def __init__(self, running: _Running, hear: Hear) -> None:
        super().__init__()
        self._running, self._hear = running, hear

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._running.stack and not self._running.inside:
            if func is F.scaled_dot_product_attention:
                self._hear(self._running.name(), _of_sdpa(self._running.name(), *args, **kwargs))
            elif func is F.multi_head_attention_forward:
                given = inspect.signature(func).bind(*args, **kwargs)
                given.apply_defaults()
                self._hear(self._running.name(), _of_mha(given.arguments))
        return func(*args, **kwargs)


def _of_sdpa(
    name: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Call:
    q, k, v = (tensor.reshape(-1, *tensor.shape[-3:]) if tensor.ndim != 4 else tensor for tensor in (query, key, value))
    (B, H, T, _), S = q.shape, k.shape[2]
    bias = None
    if attn_mask is not None:
        mask, bias = from_tensor(attn_mask, B, H)
    elif is_causal and S > T:  # torch aligns the first query with the first key
        k, v, mask = k[:, :, :T], v[:, :, :T], Mask(causal=True)
    elif is_causal and S < T:
        mask = Mask(torch.ones(T, S, dtype=torch.bool, device=q.device).tril()[None])
    else:
        mask = Mask(causal=is_causal)
    return Call(q, k, v, mask, is_cross(name), scale=scale, bias=bias)


def _of_mha(given: dict[str, Any]) -> Call:
    """A call of ``multi_head_attention_forward``: query (T, B, E) or (T, E), masks True where hidden."""
    query, key, value, H = given["query"], given["key"], given["value"], given["num_heads"]
    cross = query is not key
    for name in ("bias_k", "bias_v", "static_k", "static_v"):
        if given[name] is not None:
            raise InputError(f"nn.MultiheadAttention with {name} adds keys that are no tokens; it can't be captured")
    if given["add_zero_attn"]:
        raise InputError("nn.MultiheadAttention with add_zero_attn adds a key that is no token; it can't be captured")
    if query.ndim == 2:
        query, key, value = (tensor.unsqueeze(1) for tensor in (query, key, value))
    weights = (
        (given["q_proj_weight"], given["k_proj_weight"], given["v_proj_weight"])
        if given["use_separate_proj_weight"]
        else given["in_proj_weight"].chunk(3)
    )
    biases = (None,) * 3 if given["in_proj_bias"] is None else given["in_proj_bias"].chunk(3)
    q, k, v = (
        # (L, B, E) -> (B, H, L, D)
        F.linear(tensor, weight, bias).unflatten(-1, (H, -1)).permute(1, 2, 0, 3)
        for tensor, weight, bias in zip((query, key, value), weights, biases, strict=True)
    )
    (B, _, T, _), S = q.shape, k.shape[2]
    mask, bias = Mask(causal=given["is_causal"] and given["attn_mask"] is None), None
    if given["attn_mask"] is not None:
        attn_mask = given["attn_mask"]
        attn_mask = attn_mask.logical_not() if attn_mask.dtype == torch.bool else attn_mask
        mask, bias = from_tensor(attn_mask.view(-1, H, T, S) if attn_mask.ndim == 3 else attn_mask, B, H)
    padding = given["key_padding_mask"]
    if padding is not None:
        exists = padding.logical_not() if padding.dtype == torch.bool else padding > -1e4
        exists = exists.view(B, S)
        mask = (
            Mask(mask.visible & exists[:, None]) if mask.visible is not None else Mask(None, mask.causal, None, exists)
        )
    return Call(q, k, v, mask, cross, bias=bias)


def _is_longformer(module: nn.Module) -> bool:
    return hasattr(module, "query_global") and hasattr(module, "one_sided_attn_window_size")


def _longformer(module: nn.Module, projected: dict[str, Tensor], given: dict[str, Any], length: int) -> Call:
    """What Longformer's and LED's encoders project, their padding to whole windows cut off again."""
    H: int = module.num_heads  # type: ignore[assignment]
    first = projected["query"]  # (T_padded, B, H * D)
    T = min(length, len(first)) or len(first)

    def heads(flat: Tensor) -> Tensor:  # (T_padded, B, H * D) -> (B, H, T, D)
        split: Tensor = flat[:T].unflatten(-1, (H, -1)).permute(1, 2, 0, 3)
        return split

    exists = given["attention_mask"][:, :T] >= 0  # (B, T): below 0 is hidden, above is global
    call = Call(
        heads(first),
        heads(projected["key"]),
        heads(projected["value"]),
        Mask(padding=exists),
        local=module.one_sided_attn_window_size,  # type: ignore[arg-type]
    )
    global_mask = given["is_index_global_attn"][:, :T]  # (B, T)
    if "query_global" not in projected or not bool(global_mask.any()):
        return call
    # Only global tokens are projected as global queries, (G_max, B, H * D): to their rows.
    slot, item = _slots(global_mask)
    q_global = torch.zeros_like(first)
    q_global[global_mask.nonzero(as_tuple=True)[1], item] = projected["query_global"][slot, item]
    return replace(
        call,
        global_mask=global_mask,
        q_global=heads(q_global),
        k_global=heads(projected["key_global"]),
        v_global=heads(projected["value_global"]),
    )


def _slots(global_mask: Tensor) -> tuple[Tensor, Tensor]:
    """For each global token, in order: its place among the globals of its item, and its item."""
    item, position = global_mask.nonzero(as_tuple=True)
    return (global_mask.cumsum(1) - 1)[item, position], item


def _projections(module: nn.Module, projected: dict[str, Tensor], given: dict[str, Any], past: int, name: str) -> Call:
    """What a hand-written attention projects: ``past`` keys more are in its cache."""
    heads = next(
        getattr(module, attribute) for attribute in ("num_heads", "num_attention_heads") if hasattr(module, attribute)
    )
    other = given.get("key_value_states", given.get("encoder_hidden_states"))
    cross = other is not None or is_cross(name)
    names = _PROJECTIONS[type(module).__name__]
    q, k, v = (
        None if flat is None else flat.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, H, T, D)
        for flat in map(projected.get, names)
    )
    assert q is not None
    mask = given.get("encoder_attention_mask") if "encoder_hidden_states" in given and cross else None
    mask = given.get("attention_mask") if mask is None else mask
    heard, bias = (Mask(), None) if mask is None else from_tensor(mask, q.shape[0], heads)
    return Call(q, k, v, heard, cross, past=0 if cross else past, bias=bias)


def is_cross(name: str) -> bool:
    """Whether a module of this name attends to another sequence."""
    return any(word in name.lower() for word in _CROSS)
