"""The inputs of one attention call: queries, keys, values, masks and labels, checked once, here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnviz.base.devices import DTYPES, accumulation_dtype, dtype_name
from attnviz.base.errors import InputError

if TYPE_CHECKING:
    from attnviz.attention.patterns import Pattern

LAYOUTS = ("bhtd", "bthd", "htd", "thd")


@dataclass(frozen=True)
class AttentionInputs:
    """What goes into one attention call, for a batch.

    Shapes use B batch, H query heads, H_kv key heads (a divisor of H: grouped-query attention), T query
    positions, S key positions, D head_dim. Tensors of rank 3 (masks of rank 1) are one batch item and gain a
    batch dimension of 1. Nothing is copied. Shapes, dtypes and masks are checked on construction; each head
    is checked for NaN and Inf when it is first used.

    Args:
        q: queries, (B, H, T, D), a floating dtype.
        k: keys, (B, H_kv, S, D), the dtype of ``q``.
        v: values, (B, H_kv, S, D_v), optional.
        global_mask: (B, S) bool, True where the key position is a global token.
        key_padding_mask: (B, S) bool, True where the key exists.
        query_padding_mask: (B, T) bool, True where the query exists; None: where T = S, as ``key_padding_mask``.
        q_global, k_global, v_global: Longformer's separate projections for global queries, as q, k, v.
        tokens: B sequences of S labels, one a key position.
        query_tokens: B sequences of T labels, where the queries are not the last T key positions.
        scale: factor on the dot products; None is 1 / sqrt(D).
        softcap: c, where scores become ``c * tanh(score / c)`` before masks and softmax (Gemma 2).
        bias: added to the scores before softmax; (H, T, S) or (B, H, T, S), sizes of 1 broadcast.
        alibi_slopes: (H,); ``-slope * |t + S - T - s|`` is added to the scores (ALiBi, arXiv:2108.12409).
        sinks: (H,) logits that take part in each softmax's denominator and in nothing else (gpt-oss).
        pattern: which query sees which key where a call names no other; None is the global keys.
        source: what errors and titles call these inputs.
        layout: the order of the dimensions given: ``bhtd``, ``bthd``, ``htd`` or ``thd``.

    Raises:
        InputError: a shape, dtype or mask is not as above.

    >>> inputs = AttentionInputs(torch.ones(2, 4, 8), torch.ones(2, 4, 8), global_mask=torch.arange(4) == 1)
    >>> inputs.q.shape, inputs.global_mask.shape
    (torch.Size([1, 2, 4, 8]), torch.Size([1, 4]))
    """

    q: Tensor  # (B, H, T, D)
    k: Tensor  # (B, H_kv, S, D)
    v: Tensor | None = None  # (B, H_kv, S, D_v)
    _: KW_ONLY
    global_mask: Tensor | None = None  # (B, S) bool
    key_padding_mask: Tensor | None = None  # (B, S) bool
    query_padding_mask: Tensor | None = None  # (B, T) bool
    q_global: Tensor | None = None  # (B, H, T, D)
    k_global: Tensor | None = None  # (B, H_kv, S, D)
    v_global: Tensor | None = None  # (B, H_kv, S, D_v)
    tokens: Sequence[Sequence[str]] | None = None
    query_tokens: Sequence[Sequence[str]] | None = None
    scale: float | None = None
    softcap: float | None = None
    bias: Tensor | None = None  # (B | 1, H | 1, T | 1, S | 1)
    alibi_slopes: Tensor | None = None  # (H,)
    sinks: Tensor | None = None  # (H,)
    pattern: Pattern | None = None
    source: str = "inputs"
    layout: InitVar[str] = "bhtd"
    # The largest magnitude in each head that was checked for NaN and Inf.
    _largest: dict[tuple[str, int, int, range | None], float] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self, layout: str) -> None:
        if layout not in LAYOUTS:
            raise InputError(f"{self.source}: layout {layout!r} is not one of {', '.join(LAYOUTS)}")
        for name in ("q", "k", "v", "q_global", "k_global", "v_global"):
            tensor = getattr(self, name)
            if tensor is not None:
                object.__setattr__(self, name, self._as_bhtd(name, tensor, layout))
        self._check_projections()
        for name in ("global_mask", "key_padding_mask", "query_padding_mask"):
            mask = getattr(self, name)
            if mask is not None:
                object.__setattr__(self, name, self._checked_mask(name, mask))
        self._check_globals_exist()
        self._check_labels("tokens", self.tokens, self.S)
        self._check_labels("query_tokens", self.query_tokens, self.T)
        self._check_modifiers()

    # Sizes, by the letters of the spec.
    @property
    def B(self) -> int:
        """Batch items."""
        return self.q.shape[0]

    @property
    def H(self) -> int:
        """Query heads."""
        return self.q.shape[1]

    @property
    def T(self) -> int:
        """Query positions."""
        return self.q.shape[2]

    @property
    def S(self) -> int:
        """Key positions."""
        return self.k.shape[2]

    @property
    def D(self) -> int:
        """head_dim."""
        return self.q.shape[3]

    @property
    def H_kv(self) -> int:
        """Key heads."""
        return self.k.shape[1]

    def item(
        self, batch: int = 0, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> AttentionItem:
        """Batch item ``batch``, its arithmetic on ``device`` and its inputs rounded to ``dtype`` first.

        Raises:
            InputError: there is no such item.
        """
        if not 0 <= batch < self.B:
            raise InputError(
                f"{self.source}: batch item {batch} is out of range; there are {self.B} (0 to {self.B - 1})"
            )
        return AttentionItem(self, batch, device or self.q.device, dtype or self.q.dtype)

    def _repr_html_(self) -> str:
        from attnviz.show.notebook import inputs_html  # tables are floors above, and only a notebook asks for one

        return inputs_html(self)

    def _as_bhtd(self, name: str, tensor: Tensor, layout: str) -> Tensor:
        shape = tuple(tensor.shape)
        if not tensor.is_floating_point() or tensor.dtype not in DTYPES.values():
            raise InputError(
                f"{self.source}: {name} has dtype {dtype_name(tensor.dtype)}, wanted one of {', '.join(DTYPES)}; "
                f"convert it before saving"
            )
        if tensor.ndim not in (3, 4) or (len(layout) == 3 and tensor.ndim != 3):
            wanted = "3" if len(layout) == 3 else "4, or 3 for one batch item"
            raise InputError(
                f"{self.source}: {name} has rank {tensor.ndim}, shape {shape}; layout {layout} wants rank {wanted}"
            )
        if 0 in shape:
            raise InputError(f"{self.source}: {name} is empty, shape {shape}; every size must be at least 1")
        if tensor.ndim == 3:
            tensor = tensor.unsqueeze(0)
        return tensor.transpose(1, 2) if layout in ("bthd", "thd") else tensor

    def _check_projections(self) -> None:
        q, k = self.q, self.k
        shapes = f"shapes as (B, H, T, D): q {tuple(q.shape)}, k {tuple(k.shape)}"
        if k.shape[3] != q.shape[3]:
            raise InputError(
                f"{self.source}: k has head_dim {k.shape[3]} but q has {q.shape[3]}; both come from the same layer? {shapes}"
            )
        if k.shape[0] != q.shape[0]:
            raise InputError(f"{self.source}: k has {k.shape[0]} batch items but q has {q.shape[0]}; {shapes}")
        if q.shape[1] % k.shape[1]:
            raise InputError(
                f"{self.source}: q has {q.shape[1]} heads, which is not a multiple of the {k.shape[1]} heads of k; "
                f"is the layout right (--layout)? {shapes}"
            )
        if self.v is not None and self.v.shape[:3] != k.shape[:3]:
            raise InputError(
                f"{self.source}: v has shape {tuple(self.v.shape)}, wanted (B, H_kv, S, ...) = {tuple(k.shape[:3])} as k has"
            )
        for name, like in (("q_global", q), ("k_global", k), ("v_global", self.v)):
            tensor = getattr(self, name)
            if tensor is None:
                continue
            if like is None:
                raise InputError(f"{self.source}: {name} is given without v; give both")
            if tensor.shape != like.shape:
                raise InputError(
                    f"{self.source}: {name} has shape {tuple(tensor.shape)}, wanted {tuple(like.shape)} as "
                    f"{name.removesuffix('_global')} has"
                )
        for name in ("k", "v", "q_global", "k_global", "v_global"):
            tensor = getattr(self, name)
            if tensor is not None and tensor.dtype != q.dtype:
                raise InputError(
                    f"{self.source}: {name} is {dtype_name(tensor.dtype)} but q is {dtype_name(q.dtype)}; "
                    f"convert both to one dtype (--dtype does)"
                )
            if tensor is not None and tensor.device != q.device:
                raise InputError(
                    f"{self.source}: {name} is on {tensor.device} but q is on {q.device}; move both to one"
                )
        if (self.q_global is None) != (self.k_global is None):
            there, missing = ("q_global", "k_global") if self.k_global is None else ("k_global", "q_global")
            raise InputError(f"{self.source}: {there} is given without {missing}; global queries use both or neither")

    def _checked_mask(self, name: str, mask: Tensor) -> Tensor:
        if mask.dtype != torch.bool:
            raise InputError(
                f"{self.source}: {name} has dtype {dtype_name(mask.dtype)}, wanted bool; save it as `{name}.bool()`"
            )
        if mask.ndim == 1:
            mask = mask.unsqueeze(0)
        side, length = ("query", self.T) if name == "query_padding_mask" else ("key", self.S)
        wanted = (self.B, length)
        if tuple(mask.shape) != wanted:
            letters = "(B, T)" if side == "query" else "(B, S)"
            raise InputError(
                f"{self.source}: {name} has shape {tuple(mask.shape)}, wanted {letters} = {wanted}, one flag a {side} position"
            )
        return mask

    def _check_globals_exist(self) -> None:
        if self.global_mask is None or self.key_padding_mask is None:
            return
        wrong = (self.global_mask & ~self.key_padding_mask.to(self.global_mask.device)).nonzero()
        if len(wrong):
            batch, position = wrong[0].tolist()
            raise InputError(
                f"{self.source}: position {position} of batch item {batch} is padding (key_padding_mask) but "
                f"global_mask makes it a global token; a padded position can't be global"
            )

    def _check_labels(self, name: str, labels: Sequence[Sequence[str]] | None, length: int) -> None:
        if labels is None:
            return
        if len(labels) != self.B or any(isinstance(item, str) for item in labels):
            raise InputError(f"{self.source}: {name} must be {self.B} lists of strings, one a batch item")
        for batch, item in enumerate(labels):
            if len(item) != length:
                raise InputError(f"{self.source}: {name} of batch item {batch} has {len(item)} labels, wanted {length}")

    def _check_modifiers(self) -> None:
        for name in ("scale", "softcap"):
            number = getattr(self, name)
            if number is not None and not (math.isfinite(number) and number > 0):
                raise InputError(f"{self.source}: {name} is {number}, wanted a finite number above 0")
        for name in ("alibi_slopes", "sinks"):
            vector = getattr(self, name)
            if vector is not None and (tuple(vector.shape) != (self.H,) or not vector.is_floating_point()):
                raise InputError(
                    f"{self.source}: {name} has shape {tuple(vector.shape)} and dtype {dtype_name(vector.dtype)}, "
                    f"wanted (H,) = ({self.H},) of a floating dtype, one number a query head"
                )
            if vector is not None:
                self._require_finite(name, vector)
        if self.bias is not None:
            bias = self.bias.unsqueeze(0) if self.bias.ndim == 3 else self.bias
            wanted = (self.B, self.H, self.T, self.S)
            fits = bias.ndim == 4 and all(size in (1, full) for size, full in zip(bias.shape, wanted, strict=True))
            if not fits or not bias.is_floating_point():
                raise InputError(
                    f"{self.source}: bias has shape {tuple(self.bias.shape)} and dtype {dtype_name(self.bias.dtype)}, "
                    f"wanted (H, T, S) = {wanted[1:]} or (B, H, T, S) of a floating dtype, where 1 broadcasts"
                )
            object.__setattr__(self, "bias", bias)

    def _require_finite(
        self, name: str, tensor: Tensor, prefix: tuple[int, ...] = (), rows: range | None = None
    ) -> float:
        """The largest magnitude in ``tensor``, read in one pass without a temporary; InputError where it is not finite."""
        largest = max(abs(float(end)) for end in torch.aminmax(tensor))
        if not math.isfinite(largest):
            wrong = ~torch.isfinite(tensor)
            count = int(wrong.sum())
            inside = wrong.nonzero()[0].tolist()
            if rows is not None:
                inside[0] += rows.start
            first = (*prefix, *inside)
            where = f" in {name}{list(prefix)}" if prefix else ""
            plural = "value that is" if count == 1 else "values that are"
            raise InputError(
                f"{self.source}: {name} has {count} {plural} NaN or Inf{where}, first at index {first}; "
                f"fix what wrote the tensor"
            )
        return largest


@dataclass(frozen=True)
class AttentionItem:
    """One batch item of :class:`AttentionInputs`, read a head at a time onto ``device`` as ``dtype``."""

    inputs: AttentionInputs
    batch: int
    device: torch.device
    dtype: torch.dtype

    @property
    def T(self) -> int:
        """Query positions."""
        return self.inputs.T

    @property
    def S(self) -> int:
        """Key positions."""
        return self.inputs.S

    @property
    def scale(self) -> float:
        """The factor on the dot products."""
        return 1 / math.sqrt(self.inputs.D) if self.inputs.scale is None else self.inputs.scale

    @property
    def compute_dtype(self) -> torch.dtype:
        """What products, sums and softmax run in: float32 for half types, else the dtype of the inputs."""
        return accumulation_dtype(self.dtype)

    def kv_head(self, head: int) -> int:
        """The key head that query head ``head`` reads: ``h // (H / H_kv)``."""
        return head // (self.inputs.H // self.inputs.H_kv)

    def query(self, head: int, rows: range | None = None, *, for_global: bool = False) -> Tensor:
        """Queries of ``head``, (T, D); ``rows``: those positions alone; ``for_global``: as global queries project them."""
        name = "q_global" if for_global and self.inputs.q_global is not None else "q"
        return self._head(name, head, range(self.T) if rows is None else rows)

    def key(self, head: int, *, for_global: bool = False) -> Tensor:
        """Keys that query head ``head`` reads, (S, D)."""
        name = "k_global" if for_global and self.inputs.k_global is not None else "k"
        return self._head(name, self.kv_head(head))

    def value(self, head: int, *, for_global: bool = False) -> Tensor:
        """Values that query head ``head`` reads, (S, D_v).

        Raises:
            InputError: the inputs have no v.
        """
        if self.inputs.v is None:
            raise InputError(f"{self.inputs.source}: there is no v, which the context needs; give one (--v NAME)")
        name = "v_global" if for_global and self.inputs.v_global is not None else "v"
        return self._head(name, self.kv_head(head))

    def check_products(self, head: int, rows: range, *, for_global: bool = False) -> None:
        """Raises InputError where the dot products of a head's queries and keys could overflow."""
        q, k = (
            f"{name}_global" if for_global and getattr(self.inputs, f"{name}_global") is not None else name
            for name in ("q", "k")
        )
        largest = self.inputs._largest
        most_q = largest[q, self.batch, head, rows]
        most_k = largest[k, self.batch, self.kv_head(head), None]
        if self.inputs.D * most_q * most_k * max(self.scale, 1.0) > torch.finfo(self.compute_dtype).max:
            raise InputError(
                f"{self.inputs.source}: scores of head {head} overflow {dtype_name(self.compute_dtype)}: "
                f"{q} reaches {most_q:.3g}, {k} {most_k:.3g}, and the scale is {self.scale:.3g}; "
                f"use --dtype float64 or a smaller --scale"
            )

    def bias(self, head: int) -> Tensor | None:
        """What is added to the scores of query head ``head``, (T, S); None where nothing is.

        Raises:
            InputError: NaN or Inf in it; what hides keys is a pattern, not a bias.
        """
        whole = self.inputs.bias
        if whole is None:
            return None
        place = (min(self.batch, whole.shape[0] - 1), min(head, whole.shape[1] - 1))
        bias: Tensor = whole[place]
        seen = ("bias", *place, None)
        if seen not in self.inputs._largest:
            self.inputs._largest[seen] = self.inputs._require_finite("bias", bias, place)
        return bias.to(self.device).expand(self.T, self.S)

    @cached_property
    def global_positions(self) -> Tensor:
        """Positions of the global keys, ascending, (G,).

        Raises:
            InputError: there is no global mask, or it selects nothing for this item.
        """
        source = self.inputs.source
        if self.inputs.global_mask is None:
            raise InputError(
                f"{source}: there is no global_mask; name one (--mask NAME) or give positions (--global 0,3,7)"
            )
        positions = self.inputs.global_mask[self.batch].nonzero().flatten()
        if not len(positions):
            raise InputError(
                f"{source}: global_mask of batch item {self.batch} selects nothing (no True among {self.S} positions); "
                f"give positions (--global 0,3,7)"
            )
        return positions.to(self.device)

    @property
    def key_padding(self) -> Tensor | None:
        """(S,) bool, True where the key exists; None where every key does."""
        mask = self.inputs.key_padding_mask
        if mask is None or bool(mask[self.batch].all()):
            return None
        return mask[self.batch].to(self.device)

    @property
    def query_padding(self) -> Tensor | None:
        """(T,) bool, True where the query exists, by default the key padding of self-attention; None where all do."""
        mask = self.inputs.query_padding_mask
        if mask is not None:
            return None if bool(mask[self.batch].all()) else mask[self.batch].to(self.device)
        return self.key_padding if self.T == self.S else None

    def key_labels(self, positions: Sequence[int]) -> list[str] | None:
        """The tokens at key positions, where there are labels."""
        tokens = self.inputs.tokens
        return None if tokens is None else [tokens[self.batch][position] for position in positions]

    def query_labels(self, positions: Sequence[int]) -> list[str] | None:
        """The tokens at query positions; without labels of their own, queries are the last T keys."""
        tokens, offset = self.inputs.query_tokens, self.S - self.T
        if tokens is not None:
            return [tokens[self.batch][position] for position in positions]
        return self.key_labels([position + offset for position in positions]) if offset >= 0 else None

    def _head(self, name: str, head: int, rows: range | None = None) -> Tensor:
        tensor: Tensor = getattr(self.inputs, name)[self.batch, head]
        if rows is not None:
            tensor = tensor[rows.start : rows.stop]
        seen = (name, self.batch, head, rows)
        if seen not in self.inputs._largest:
            self.inputs._largest[seen] = self.inputs._require_finite(name, tensor, (self.batch, head), rows)
        rounded = tensor.to(device=self.device, dtype=self.dtype)
        if rounded.dtype != tensor.dtype and torch.finfo(rounded.dtype).max < torch.finfo(tensor.dtype).max:
            self.inputs._require_finite(f"{name} as {dtype_name(self.dtype)}", rounded, (self.batch, head), rows)
        return rounded
