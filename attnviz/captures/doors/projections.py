"""Models that multiply by themselves (Longformer, LED, BigBird): what their layers of projections give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attnviz.base.errors import InputError
from attnviz.captures.calls import Call
from attnviz.captures.checking import DROPOUT, Output
from attnviz.captures.heard import Kept
from attnviz.captures.masks import Mask, from_tensor

PROJECTIONS = {
    "LEDDecoderAttention": ("q_proj", "k_proj", "v_proj"),
    "BigBirdSelfAttention": ("query", "key", "value"),
}
"""Classes that compute attention by themselves, and the layers that project q, k and v."""

OUT = "out_proj"
"""The layer that projects the context of all heads, where the module has it: what goes in is the context."""

_LONGFORMER = ("query", "key", "value", "query_global", "key_global", "value_global")


def projects(module: nn.Module) -> tuple[str, ...]:
    """The names of a module's layers that project, where it multiplies by itself; else none."""
    return _LONGFORMER if _is_longformer(module) else PROJECTIONS.get(type(module).__name__, ())


def check_kind(module: nn.Module, model: str) -> None:
    """Raises InputError for attention whose weights are no softmax over keys."""
    if type(module).__name__ == "BigBirdBlockSparseAttention":
        raise InputError(
            f"{model}: BigBird's block-sparse attention counts keys of its random blocks more than once, so that its "
            f"weights are no softmax over keys; load it with attention_type='original_full'"
        )


def projected_call(
    module: nn.Module, projected: dict[str, Tensor], given: dict[str, Any], cross: bool, kept: Kept | None, length: int
) -> Call:
    """The call that a module made with what its layers projected.

    Args:
        module: one that :func:`projects`.
        projected: what its layers gave, by their names.
        given: its arguments.
        cross: whether its keys are of another sequence.
        kept: what its cache held before.
        length: positions before Longformer pads them.
    """
    if _is_longformer(module):
        return _longformer(module, projected, given, length)
    return _projections(module, projected, given, cross, kept)


def projected_output(module: nn.Module, call: Call, projected: dict[str, Tensor], output: Any) -> Output:
    """What a module that :func:`projects` made of its call: (B, T, H * D), before its layer OUT where it has one."""
    context = projected.get(OUT, output[0] if isinstance(output, tuple) else output)
    if getattr(module, "training", False) and _dropout(module):
        return Output(unchecked=DROPOUT)
    if not isinstance(context, Tensor) or context.ndim != 3:
        return Output(unchecked="its output has another shape")
    _, H, T, _ = call.q.shape
    return Output(context[:, :T].unflatten(2, (H, -1)).transpose(1, 2))


def _dropout(module: nn.Module) -> bool:
    rate = getattr(module, "dropout", 0.0)
    return bool(getattr(rate, "p", rate))


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


def _projections(
    module: nn.Module, projected: dict[str, Tensor], given: dict[str, Any], cross: bool, kept: Kept | None
) -> Call:
    """What a hand-written attention projects; the keys of its cache were projected before."""
    heads = next(
        getattr(module, attribute) for attribute in ("num_heads", "num_attention_heads") if hasattr(module, attribute)
    )
    q, k, v = (
        None if flat is None else flat.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, H, T, D)
        for flat in map(projected.get, PROJECTIONS[type(module).__name__])
    )
    assert q is not None
    mask = given.get("encoder_attention_mask") if "encoder_hidden_states" in given and cross else None
    mask = given.get("attention_mask") if mask is None else mask
    heard, bias = (Mask(), None) if mask is None else from_tensor(mask)
    return Call(q, k, v, heard, cross, past=0 if cross or kept is None else kept.past, bias=bias)
