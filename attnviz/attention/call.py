"""What goes into one attention call: its tensors, settings and labels, and their sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor

from attnviz.attention.pattern import Pattern
from attnviz.attention.rotary import Rotary

OF_TOKENS = ("tokens", "query_tokens", "word_ids", "query_word_ids", "special_tokens", "query_special_tokens")
"""Fields that say something of the tokens of each batch item."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """What any attention has, whether it is computed or given: masks, places and labels; nothing is checked here."""

    global_mask: Tensor | None = None  # (B, S) bool
    key_padding_mask: Tensor | None = None  # (B, S) bool
    query_padding_mask: Tensor | None = None  # (B, T) bool
    tokens: Sequence[Sequence[str]] | None = None
    query_tokens: Sequence[Sequence[str]] | None = None
    token_form: str = "plain"
    word_ids: Sequence[Sequence[int | None]] | None = None
    query_word_ids: Sequence[Sequence[int | None]] | None = None
    special_tokens: Sequence[Sequence[int]] | None = None
    query_special_tokens: Sequence[Sequence[int]] | None = None
    cross: bool = False
    query_positions: Tensor | None = None  # (B | 1, T) int64
    key_positions: Tensor | None = None  # (B | 1, S) int64
    documents: Tensor | None = None  # (B | 1, S) int64
    query_documents: Tensor | None = None  # (B | 1, T) int64
    pattern: Pattern | None = None
    source: str = "inputs"
    layer: int | str | None = None
    # The largest magnitude in each head that was checked for NaN and Inf.
    _largest: dict[tuple[str, int, int, range | None], float] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    # Which of them hold NaN or Inf in padding, and are read with 0 there.
    _blanked: set[tuple[str, int, int, range | None]] = field(
        default_factory=set, init=False, repr=False, compare=False
    )

    @property
    def main(self) -> Tensor:
        """The tensor that says how many batch items, heads and queries there are, (B, H, T, ...), its device and dtype."""
        raise NotImplementedError

    @property
    def without_products(self) -> str:
        """What an error says where q and k are asked for, and there are none."""
        return "holds weights that were given, and this needs q and k, which they were computed from"

    # Sizes, by the letters of the spec.
    @property
    def B(self) -> int:
        """Batch items."""
        return self.main.shape[0]

    @property
    def H(self) -> int:
        """Query heads."""
        return self.main.shape[1]

    @property
    def T(self) -> int:
        """Query positions."""
        return self.main.shape[2]

    @property
    def S(self) -> int:
        """Key positions."""
        raise NotImplementedError

    @property
    def H_kv(self) -> int:
        """Key heads."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.main.device

    @property
    def dtype(self) -> torch.dtype:
        """What its tensors are of."""
        return self.main.dtype


@dataclass(frozen=True)
class AttentionCall(Call):
    """The fields of :class:`attnviz.AttentionInputs`, whose docstring says what each is; nothing is checked here."""

    q: Tensor  # (B, H, T, D)
    k: Tensor  # (B, H_kv, S, D)
    v: Tensor | None = None  # (B, H_kv, S, D_v)
    _: KW_ONLY
    w_o: Tensor | None = None  # (H, D_v, d_model)
    residual_norms: Tensor | None = None  # (B, T, 2)
    q_global: Tensor | None = None  # (B, H, T, D)
    k_global: Tensor | None = None  # (B, H_kv, S, D)
    v_global: Tensor | None = None  # (B, H_kv, S, D_v)
    scale: float | None = None
    softcap: float | None = None
    bias: Tensor | None = None  # (B | 1, H | 1, T | 1, S | 1)
    alibi_slopes: Tensor | None = None  # (H,)
    sinks: Tensor | None = None  # (H,)
    rotary: Rotary | None = None

    @property
    def main(self) -> Tensor:
        """Queries."""
        return self.q

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


@dataclass(frozen=True)
class GivenCall(Call):
    """The fields of :class:`attnviz.AttentionWeights`, whose docstring says what each is; nothing is checked here."""

    weights: Tensor  # (B, H, T, S)
    _: KW_ONLY
    source: str = "weights"
    logits: Tensor | None = None  # (B, H, T, S)
    v: Tensor | None = None  # (B, H_kv, S, D_v)
    w_o: Tensor | None = None  # (H, D_v, d_model)
    residual_norms: Tensor | None = None  # (B, T, 2)

    @property
    def main(self) -> Tensor:
        """The weights."""
        return self.weights

    @property
    def S(self) -> int:
        """Key positions."""
        return self.weights.shape[3]

    @property
    def H_kv(self) -> int:
        """Heads of v; without v, those of the weights."""
        return self.H if self.v is None else self.v.shape[1]
