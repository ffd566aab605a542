"""What a kernel handed over: weights, contexts, denominators, gradients, in the layouts that kernels have them in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attnviz.attention.inputs import AttentionInputs
from attnviz.base.errors import InputError
from attnviz.compare.gradients import GRADIENTS
from attnviz.sources.arguments import inputs_of
from attnviz.sources.packed import Packed, calls_of


@dataclass(frozen=True)
class Outputs:
    """What a kernel gave, each (B, H, ...), and the inputs that it was given, with the pattern it should have.

    Args:
        inputs: what it was given.
        weights, logits: (B, H, T, S), or (B, H, T, G) over the global keys.
        context: (B, H, T, D_v).
        lse: (B, H, T), the logarithm of each query's sum of exponentials.
        grad: (B, H, T, D_v), the gradient of the context that gradients are of.
        dq, dk, dv: gradients, as q, k and v.
    """

    inputs: AttentionInputs
    weights: Tensor | None = None
    logits: Tensor | None = None
    context: Tensor | None = None
    lse: Tensor | None = None
    grad: Tensor | None = None
    dq: Tensor | None = None
    dk: Tensor | None = None
    dv: Tensor | None = None

    def given(self) -> dict[str, Tensor]:
        """What there is, by name."""
        named = {name: getattr(self, name) for name in ("weights", "logits", "context", "lse", *GRADIENTS)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


def outputs_of(
    actual: Tensor | None,
    q: Tensor,
    k: Tensor,
    mask: Tensor | None = None,
    v: Tensor | None = None,
    *,
    values: str = "weights",
    given: dict[str, Tensor | None] | None = None,
    layout: str = "bhtd",
    cu_seqlens: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    block_table: Tensor | None = None,
    cache_seqlens: Tensor | None = None,
    **call: Any,
) -> Outputs:
    """What a kernel gave, out of the arguments of :func:`assert_attention_close`; ``given``: what it gave beside ``actual``."""
    if values not in ("weights", "logits"):
        raise InputError(f"values {values!r} is not one of weights, logits")
    named = {values if v is None else "context": actual, **(given or {})}
    if cu_seqlens is None and block_table is None:
        inputs = inputs_of(q, k, mask, v, layout=layout, **call)
        return Outputs(inputs, **{name: as_bhtd(name, tensor, inputs, layout) for name, tensor in named.items()})
    turned = q.transpose(1, 2) if layout == "bthd" and cu_seqlens is None else q
    packing = {"cu_seqlens_k": cu_seqlens_k, "block_table": block_table, "cache_seqlens": cache_seqlens}
    fields, queries, keys = calls_of(turned, k, v, cu_seqlens=cu_seqlens, **packing)
    inputs = inputs_of(fields.pop("q"), fields.pop("k"), mask, fields.pop("v"), **fields, **call)
    whole = {name: _unpacked(name, tensor, queries, keys) for name, tensor in named.items()}
    own = layout if queries is None else "bhtd"
    return Outputs(inputs, **{name: as_bhtd(name, tensor, inputs, own) for name, tensor in whole.items()})


def _unpacked(name: str, tensor: Tensor | None, queries: Packed | None, keys: Packed | None) -> Tensor | None:
    """An output of sequences end to end, side by side."""
    if name in ("dk", "dv"):
        if tensor is not None and keys is None:
            raise InputError(f"{name}: gradients of keys in pages are not checked; leave it out")
        return None if tensor is None or keys is None else keys.unpacked(tensor, name)
    if tensor is None or queries is None or name in ("weights", "logits"):
        return tensor
    return queries.unpacked(tensor.T if name == "lse" else tensor, name)


def as_bhtd(name: str, tensor: Tensor | None, inputs: AttentionInputs, layout: str = "bhtd") -> Tensor | None:
    """An output as (B, H, ...), of the inputs' shape. Raises InputError for one that isn't."""
    if tensor is None:
        return None
    shape = tuple(tensor.shape)
    if name == "lse":
        tensor = tensor.unsqueeze(0) if tensor.ndim == 2 and inputs.B == 1 else tensor
    else:
        if layout in ("bthd", "thd") and name not in ("weights", "logits") and tensor.ndim >= 3:
            tensor = tensor.transpose(-3, -2)
        tensor = tensor.unsqueeze(0) if tensor.ndim == 3 and inputs.B == 1 else tensor
    check_shape(name, tensor, inputs, shape, layout)
    return tensor.detach()


def check_shape(
    name: str, tensor: Tensor, inputs: AttentionInputs, shape: tuple[int, ...] | None = None, layout: str = "bhtd"
) -> None:
    """Raises InputError for a tensor that isn't (B, H, ...)."""
    rows = (inputs.B, inputs.H, inputs.T)
    D_v = () if inputs.v is None else (inputs.v.shape[-1],)
    wanted, letters = {
        "weights": (rows, "(B, H, T, S)"),
        "logits": (rows, "(B, H, T, S)"),
        "context": ((*rows, *D_v), "(B, H, T, D_v)"),
        "grad": ((*rows, *D_v), "(B, H, T, D_v)"),
        "lse": (rows, "(B, H, T)"),
        "dq": ((*rows, inputs.D), "(B, H, T, D)"),
        "dk": ((inputs.B, inputs.H_kv, inputs.S, inputs.D), "(B, H_kv, S, D)"),
        "dv": ((inputs.B, inputs.H_kv, inputs.S, *D_v), "(B, H_kv, S, D_v)"),
    }[name]
    dims = 3 if name == "lse" else 4
    if tensor.ndim == dims and tuple(tensor.shape[: len(wanted)]) == wanted:
        return
    full = (*wanted, inputs.S) if name in ("weights", "logits") else wanted
    hint = "; for a context give v" if name in ("weights", "logits") and tensor.ndim == 4 else ""
    called = "actual" if name in ("weights", "logits", "context") else name
    raise InputError(
        f"{called} has shape {tuple(tensor.shape) if shape is None else shape}, wanted {letters} = {full} in layout {layout}{hint}"
    )
