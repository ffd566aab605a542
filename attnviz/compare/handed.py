"""What a kernel handed over: weights, contexts, denominators, gradients, in the layouts that kernels have them in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from attnviz.attention.inputs import AttentionInputs, Inputs
from attnviz.attention.names import windowed
from attnviz.base.errors import InputError, not_one_of
from attnviz.compare.gradients import GRADIENTS
from attnviz.sources.arguments import inputs_of
from attnviz.sources.packed import PACKED, side_by_side, unpacked


@dataclass(frozen=True)
class Outputs:
    """What a kernel gave, each (B, H, ...), and the inputs that it was given, with the pattern it should have.

    Args:
        inputs: what it was given: queries and keys or, where a context alone is checked, weights with values.
        weights, logits: (B, H, T, S), or (B, H, T, G) over the global keys.
        context: (B, H, T, D_v).
        lse: (B, H, T), the logarithm of each query's sum of exponentials.
        grad: (B, H, T, D_v), the gradient of the context that gradients are of.
        dq, dk, dv: gradients, as q, k and v.
    """

    inputs: Inputs
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
    q: Tensor | AttentionInputs,
    k: Tensor | None = None,
    mask: Tensor | None = None,
    v: Tensor | None = None,
    *,
    values: str = "weights",
    given: dict[str, Tensor | None] | None = None,
    layout: str = "bhtd",
    **call: Any,
) -> Outputs:
    """What a kernel gave, out of the arguments of :func:`assert_attention_close`; ``given``: what it gave beside ``actual``."""
    if values not in ("weights", "logits"):
        raise not_one_of("values", values, ("weights", "logits"))
    if isinstance(q, AttentionInputs):
        return _of_inputs(actual, q, values, given or {}, {"k": k, "mask": mask, "v": v, **call}, layout)
    if k is None:
        raise InputError("k is missing; give q and k, or AttentionInputs in the place of both")
    if (
        v is None
        and mask is not None
        and mask.is_floating_point()
        and mask.shape[:-1] == k.shape[:-1]
        and mask.shape[-1] not in k.shape[:-1]
    ):
        raise InputError(f"the mask {tuple(mask.shape)} has the shape of values; v goes by name: (actual, q, k, v=v)")
    named = {values if v is None else "context": actual, **(given or {})}
    packing = {role: call.pop(role, None) for role in PACKED}
    said = {role: tensor for role, tensor in packing.items() if tensor is not None}
    tensors: dict[str, Any] = {name: tensor for name, tensor in (("q", q), ("k", k), ("v", v)) if tensor is not None}
    order = layout
    if said:
        tensors |= said
        order = unpacked("inputs", tensors, {}, _packed_order(layout, said)) or "bhtd"
    beside = {name: tensor for name, tensor in tensors.items() if name not in ("q", "k", "v")}
    inputs = inputs_of(tensors["q"], tensors["k"], mask, tensors.get("v"), layout=order, **beside, **call)
    return Outputs(inputs, **{name: laid_out(name, tensor, inputs, layout, said) for name, tensor in named.items()})


def _of_inputs(
    actual: Tensor | None,
    inputs: AttentionInputs,
    values: str,
    given: dict[str, Tensor | None],
    call: dict[str, Any],
    layout: str,
) -> Outputs:
    """What a kernel gave for inputs that were put together before; ``call``: a pattern of another name, and nothing else."""
    pattern, window = call.pop("pattern", None), call.pop("window", None)
    if beside := [name for name, value in call.items() if value is not None]:
        raise InputError(f"{inputs.source}: {', '.join(beside)} beside AttentionInputs, which hold them; leave out one")
    pattern = windowed(pattern, window)
    inputs = inputs if pattern is None else replace(inputs, pattern=pattern)
    named = {_held(actual, inputs, values): actual, **given}
    return Outputs(inputs, **{name: laid_out(name, tensor, inputs, layout) for name, tensor in named.items()})


def _held(actual: Tensor | None, inputs: AttentionInputs, values: str) -> str:
    """What a tensor is, by its size: inputs with v may be checked by weights too."""
    if actual is None or inputs.v is None or values != "weights" or not actual.ndim:
        return values
    globals_ = [] if inputs.global_mask is None else inputs.global_mask.sum(-1).tolist()
    columns, width = {inputs.S, *globals_}, inputs.v.shape[-1]
    if actual.shape[-1] == width and width in columns:
        raise InputError(
            f"{inputs.source}: a tensor of shape {tuple(actual.shape)} may be weights or the context, v being {width} wide; "
            f"give q, k and v=v for a context, q and k for weights"
        )
    return "context" if actual.shape[-1] == width else values


def laid_out(
    name: str,
    tensor: Tensor | None,
    inputs: Inputs,
    layout: str = "bhtd",
    packing: dict[str, Tensor] | None = None,
) -> Tensor | None:
    """An output as (B, H, ...), of the inputs' shape.

    Args:
        name: ``weights``, ``logits``, ``context``, ``lse``, ``grad``, ``dq``, ``dk`` or ``dv``.
        tensor: what the kernel gave, in the layout that it has its inputs in.
        inputs: these, as batch items.
        layout: ``bhtd``, or another order of dimensions.
        packing: what says which sequence each token is of, where they are packed or in pages.

    Raises:
        InputError: a tensor of another shape.
    """
    if packing:
        tensor = _side_by_side(name, tensor, packing, _packed_order(layout, packing))
        layout = "bhtd" if "cu_seqlens_q" in packing else layout
    return as_bhtd(name, tensor, inputs, layout)


def _packed_order(layout: str, packing: dict[str, Tensor]) -> str | None:
    """The order of dimensions of packed tensors, (tokens, H, D) where nothing says another."""
    return None if layout == "bhtd" and "cu_seqlens_q" in packing else layout


def _side_by_side(name: str, tensor: Tensor | None, said: dict[str, Tensor], order: str | None) -> Tensor | None:
    """An output of sequences that are packed, as batch items."""
    if tensor is None or ("cu_seqlens_q" not in said and name not in ("dk", "dv")):
        return tensor
    role = "cu_seqlens_q"
    if name in ("dk", "dv"):
        if "block_table" in said:
            raise InputError(f"{name}: gradients of keys in pages are not checked; leave it out")
        role = "cu_seqlens_k" if "cu_seqlens_k" in said else role
    if name in ("weights", "logits"):
        return tensor
    if name != "lse":
        return side_by_side("inputs", name, tensor, said[role], role, order)
    if tensor.ndim != 2:
        raise InputError(f"lse has shape {tuple(tensor.shape)}, wanted (H, tokens) beside {role}")
    return side_by_side("inputs", name, tensor.T[..., None], said[role], role)[..., 0]


def as_bhtd(name: str, tensor: Tensor | None, inputs: Inputs, layout: str = "bhtd") -> Tensor | None:
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
    name: str, tensor: Tensor, inputs: Inputs, shape: tuple[int, ...] | None = None, layout: str = "bhtd"
) -> None:
    """Raises InputError for a tensor that isn't (B, H, ...)."""
    rows = (inputs.B, inputs.H, inputs.T)
    v = getattr(inputs, "v", None)
    D_v = () if v is None else (v.shape[-1],)
    wanted, letters = {
        "weights": (rows, "(B, H, T, S)"),
        "logits": (rows, "(B, H, T, S)"),
        "context": ((*rows, *D_v), "(B, H, T, D_v)"),
        "grad": ((*rows, *D_v), "(B, H, T, D_v)"),
        "lse": (rows, "(B, H, T)"),
        "dq": ((*rows, getattr(inputs, "D", 0)), "(B, H, T, D)"),
        "dk": ((inputs.B, inputs.H_kv, inputs.S, getattr(inputs, "D", 0)), "(B, H_kv, S, D)"),
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
