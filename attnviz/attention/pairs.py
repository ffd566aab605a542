"""Patterns that somebody gives pair by pair, or block by block: masks, matrices of blocks, functions of pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.pattern import Item, Pattern
from attnviz.attention.reach import Reach, Table
from attnviz.base.errors import InputError, is_memory


@dataclass(frozen=True, eq=False)
class Blocks(Pattern):
    """A query sees the blocks of keys that a boolean matrix gives its own block of queries, by index.

    Args:
        matrix: bool, (n_q, n_k), (H, n_q, n_k) where heads differ, or (B, H, n_q, n_k); a size of 1 broadcasts.
        size: queries and keys to a block, (Q, K), or one number for both; the last block of each may be shorter.

    >>> import attnviz, torch
    >>> str(attnviz.Blocks(torch.eye(2, dtype=torch.bool), (5, 5)))
    'blocks of 5'
    """

    name = "blocks"
    reason = "block"
    matrix: Tensor
    size: int | tuple[int, int] = 128
    head: int | None = field(default=None, kw_only=True, metadata={"setting": False})

    def __post_init__(self) -> None:
        size = (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)
        if len(size) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in size):
            raise InputError(f"the size of blocks is 1 or more, or two such numbers, (Q, K); given {self.size}")
        object.__setattr__(self, "size", size)
        if self.matrix.dtype != torch.bool or self.matrix.ndim not in (2, 3, 4):
            raise InputError(
                f"a matrix of blocks has dtype bool and shape (n_q, n_k), (H, n_q, n_k) or (B, H, n_q, n_k); found "
                f"{str(self.matrix.dtype).removeprefix('torch.')}, {tuple(self.matrix.shape)}"
            )

    @property
    def _whole(self) -> Tensor:
        """(B | 1, H | 1, n_q, n_k)."""
        return self.matrix[(None,) * (4 - self.matrix.ndim)]

    def of_head(self, head: int) -> Pattern:
        return replace(self, head=head) if self._whole.shape[1] > 1 else self

    def _of(self, item: Item) -> Tensor:
        """The matrix of a batch item, (n_q, n_k): of heads that are asked together, what any of them sees."""
        heads = self._whole[min(item.batch, len(self._whole) - 1)]
        return heads.any(0) if self.head is None else heads[min(self.head, len(heads) - 1)]

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        (rows, columns), matrix = self._sizes, self._of(item).to(s.device)
        down, across = torch.div(t, rows, rounding_mode="floor"), torch.div(s, columns, rounding_mode="floor")
        return matrix[down.clamp(max=matrix.shape[0] - 1), across.clamp(max=matrix.shape[1] - 1)]

    def reach(self, item: Item) -> Reach:
        B, H, T, S = item.sizes
        (rows, columns), shape = self._sizes, tuple(self._whole.shape)
        wanted = (B, H, -(-T // rows), -(-S // columns))
        if shape[2:] != wanted[2:] or not all(n in (1, full) for n, full in zip(shape[:2], wanted[:2], strict=True)):
            raise InputError(
                f"{item.source}: the matrix of blocks has shape {tuple(self.matrix.shape)}; {T} queries and {S} keys in "
                f"blocks of {rows} x {columns} want (n_q, n_k) = {wanted[2:]}, before which come H = {H} or 1, and B = {B} or 1"
            )
        exact = self.head is not None or shape[1] == 1
        return Reach(band_exact=exact, table=Table(self._of(item).cpu().numpy(), rows, columns))

    @property
    def _sizes(self) -> tuple[int, int]:
        assert isinstance(self.size, tuple)
        return self.size

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Blocks) or (self.size, self.head) != (other.size, other.head):
            return False
        return torch.equal(self.matrix, other.matrix)

    def __hash__(self) -> int:
        return hash((tuple(self.matrix.shape), self.size, self.head))

    def __str__(self) -> str:
        rows, columns = self._sizes
        return f"blocks of {rows}" + (f" x {columns}" if columns != rows else "")


@dataclass(frozen=True, eq=False)
class Masked(Pattern):
    """A query sees what a boolean mask of the user's own says.

    Args:
        mask: bool, (T, S), (B, T, S) where batch items differ, or (B, H, T, S) where heads do; a size of 1 broadcasts.

    >>> import attnviz, torch
    >>> mask = torch.ones(10, 10, dtype=torch.bool).tril()
    >>> attnviz.score(attnviz.synthesize(), attnviz.Masked(mask), heads=[0]).weights[0, 0].count_nonzero().item()
    1
    """

    mask: Tensor
    head: int | None = None

    def __post_init__(self) -> None:
        if self.mask.dtype != torch.bool or self.mask.ndim not in (2, 3, 4):
            raise InputError(
                f"an attention mask has dtype bool and shape (T, S), (B, T, S) or (B, H, T, S); found "
                f"{str(self.mask.dtype).removeprefix('torch.')}, {tuple(self.mask.shape)}"
            )

    def of_head(self, head: int) -> Pattern:
        return replace(self, head=head) if self.mask.ndim == 4 and self.mask.shape[1] > 1 else self

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        mask = self.mask
        if mask.ndim > 2:
            mask = mask[min(item.batch, len(mask) - 1)]
        if mask.ndim > 2:  # of heads that are asked together: what any of them sees
            mask = mask.any(0) if self.head is None else mask[min(self.head, len(mask) - 1)]
        return mask.to(s.device)[t.clamp(max=mask.shape[0] - 1), s.clamp(max=mask.shape[1] - 1)]

    def reach(self, item: Item) -> Reach:
        shape, ndim = tuple(self.mask.shape), self.mask.ndim
        B, H, T, S = item.sizes
        wanted = {2: (T, S), 3: (B, T, S), 4: (B, H, T, S)}[ndim]
        if not all(size in (1, full) for size, full in zip(shape, wanted, strict=True)):
            letters = {2: "(T, S)", 3: "(B, T, S)", 4: "(B, H, T, S)"}[ndim]
            raise InputError(f"the attention mask has shape {shape}, wanted {letters} = {wanted} of {item.source}")
        return Reach(band_exact=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Masked) and self.head == other.head and torch.equal(self.mask, other.mask)

    def __hash__(self) -> int:
        return hash((tuple(self.mask.shape), self.head))

    def __str__(self) -> str:
        return "own mask"


class _Touched(Tensor):
    """A head's index that remembers whether anything was done with it."""

    touched = False

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.touched = True
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class MaskMod(Pattern):
    """A query sees what FlexAttention's ``mask_mod`` says: a function of the batch item, the head and the indices.

    Args:
        function: ``function(b, h, q_idx, kv_idx)``, bool, over index tensors that broadcast.
    """

    function: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    head: int | None = field(default=None, kw_only=True, metadata={"setting": False})
    reason = "mask_mod"

    def of_head(self, head: int) -> Pattern:
        return replace(self, head=head)

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        shape, heads = torch.broadcast_shapes(t.shape, s.shape), item.sizes[1]
        if self.head is not None:
            return self._said(item, torch.tensor(self.head, device=s.device), t, s).expand(shape)
        whole = asked_by_head(lambda h: self._said(item, h, t[None], s[None]), heads, s.device)
        return whole.any(0).expand(shape)  # of heads that are asked together: what any of them sees

    def _said(self, item: Item, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
        try:
            found = self.function(torch.tensor(item.batch, device=s.device), h, t, s)
        except Exception as error:  # whatever a function of the user's raises, said in one line
            if is_memory(error):
                raise
            said = str(error).partition("\n")[0]
            raise InputError(
                f"{item.source}: the mask_mod {self} can't be read as a mask: {type(error).__name__}: {said}"
            ) from error
        if not isinstance(found, Tensor) or found.dtype != torch.bool:
            kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"{item.source}: the mask_mod {self} gives {kind}, wanted a bool tensor: whether q_idx sees kv_idx"
            )
        return found.as_subclass(Tensor)

    def reach(self, item: Item) -> Reach:
        return Reach(band_exact=False)

    def __str__(self) -> str:
        return str(getattr(self.function, "__name__", "mask_mod"))


def asked_by_head(said: Callable[[Tensor], Tensor], heads: int, device: torch.device) -> Tensor:
    """What a function of the head's index says, of all heads, or of one where it doesn't look at the head.

    Args:
        said: takes head indices, (n, 1, 1), and gives (n, T, S), or what broadcasts to it.
        heads: how many there are.
        device: where the indices are.
    """

    class Head(_Touched):
        pass

    shown = said(torch.zeros((1, 1, 1), dtype=torch.int64, device=device).as_subclass(Head))
    if not Head.touched:
        return shown
    return said(torch.arange(heads, device=device)[:, None, None])


def of_block_mask(mask: Any) -> Pattern:
    """FlexAttention's ``BlockMask`` as a pattern: its full blocks, and its partial ones by its ``mask_mod``.

    >>> from torch.nn.attention.flex_attention import create_block_mask
    >>> causal = create_block_mask(lambda b, h, q, k: q >= k, None, None, 300, 300, device="cpu")
    >>> str(of_block_mask(causal))
    'blocks of 128 + blocks of 128, <lambda>'
    """
    rows, columns = mask.BLOCK_SIZE
    size = int(rows), int(columns)
    partial = Blocks(listed_blocks(mask.kv_num_blocks, mask.kv_indices), size) & MaskMod(mask.mask_mod)
    if mask.full_kv_num_blocks is None:
        return partial
    return Blocks(listed_blocks(mask.full_kv_num_blocks, mask.full_kv_indices), size) | partial


def listed_blocks(counts: Tensor, indices: Tensor) -> Tensor:
    """Which blocks are among the first ``counts`` of each row's ``indices``, (B | 1, H | 1, n_q, n_k) bool."""
    listed = torch.arange(indices.shape[-1], device=indices.device) < counts[..., None]
    return torch.zeros_like(listed).scatter(-1, indices.long(), listed)


def is_block_mask(value: object) -> bool:
    """Whether something is FlexAttention's ``BlockMask``, by what it has."""
    return all(hasattr(value, name) for name in ("kv_num_blocks", "kv_indices", "mask_mod", "BLOCK_SIZE"))
