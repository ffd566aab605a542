"""What the output of an attention is added to: the residual, and how long both are where they meet.

The residual is what the attention, or the norm before it, was given. Whatever stands on the way of what is added to it (a norm, a
scale of layers, a multiplier, the sum with an MLP beside it) has been at work by then: it is the lengths of the sum's own two parts.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from attnviz.captures.heard import Followed

_ADDS = frozenset(("add", "__add__", "__radd__", "__iadd__", "add_"))
_SCALES = frozenset(
    ("mul", "__mul__", "__rmul__", "multiply", "div", "__truediv__", "to", "float", "type_as", "view", "reshape")
)
"""What a residual may go through before the sum."""

_ENDS = frozenset(
    (
        *("linear", "matmul", "__matmul__", "bmm", "einsum", "baddbmm", "addmm", "conv1d", "conv2d", "addcmul"),
        *("sub", "__sub__", "__rsub__", "softmax"),
    )
)
"""After these, it is no output of the attention any more."""


Reference = Callable[[], Tensor | None]
"""Gives a tensor as long as others keep it."""


def reference(tensor: Tensor | None = None) -> Reference:
    """That of a tensor; of None, nothing."""
    return (lambda: None) if tensor is None else weakref.ref(tensor)


def same(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two tensors are the same numbers, in whatever shape."""
    if a is None or b is None:
        return False
    return a is b or (a.data_ptr() == b.data_ptr() and a.numel() == b.numel() and a.dtype == b.dtype)


class Meeting:
    """An attention's output on its way to the residual, torch function by torch function.

    Args:
        output: what was projected.
        sizes: batch items and queries.
        residuals: what it may be added to: what the attention was given, and the norms before it.
        followed: is told both lengths, (B, T, 2).
        batch_first: whether items come first in its memory.
    """

    def __init__(
        self,
        output: Tensor,
        sizes: Sequence[int],
        residuals: Sequence[Reference],
        followed: Followed,
        *,
        batch_first: bool,
    ) -> None:
        self.open = True
        self._sizes, self._batch_first, self._followed = sizes, batch_first, followed
        self._numel = output.numel()
        self._own: list[Reference] = [lambda: output]  # kept, as a view of it may be what goes on
        self._residuals = [*residuals]
        self._length: Tensor | None = None  # of the output, where it was added to something else already

    def run(self, run: Callable[..., Any], func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """Has a torch function run, and looks at it where it takes one of the two."""
        whole = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, Tensor) and arg.numel() == self._numel]
        own = [arg for arg in whole if _among(arg, self._own)]
        name = getattr(func, "__name__", "")
        others = [arg for arg in whole if not any(arg is one for one in own)]
        if own and name in _ADDS and others:
            self._add(own[0], others[0], scaled="alpha" in kwargs)
        elif own and name in _ENDS:
            self._close()
        result = run(func, args, kwargs)
        if not self.open or not isinstance(result, Tensor) or result.numel() != self._numel:
            return result
        if own:
            self._own.append(reference(result))
        elif len(others) == 1 and name in _SCALES and _among(others[0], self._residuals):
            self._residuals.append(reference(result))
        return result

    def _add(self, own: Tensor, other: Tensor, *, scaled: bool) -> None:
        if scaled:
            self._close()
            return
        if self._length is None:
            self._length = self._lengths(own, own)
        if _among(other, self._residuals):
            residual = self._lengths(other, own)
            if residual is not None and self._length is not None:
                self._followed.meet(torch.stack([residual, self._length], dim=-1))
            self._close()

    def _close(self) -> None:
        self.open = False
        self._own.clear()

    def _lengths(self, tensor: Tensor, own: Tensor) -> Tensor | None:
        """The lengths of its tokens, (B, T), which lie as in ``own``; None where these aren't those of the call."""
        B, T = self._sizes
        wide = tensor.detach()
        length: Tensor = torch.linalg.vector_norm(wide if wide.dtype == torch.float64 else wide.float(), dim=-1)
        if length.numel() != B * T or length.ndim > 2:
            return None
        if length.ndim == 1:
            return length.view(B, T) if self._batch_first else length.view(T, B).T
        items_first = length.shape == (B, T)
        if B == T:
            items_first = (own.stride(0) >= own.stride(1)) == self._batch_first
        return length if items_first else length.T if length.shape == (T, B) else None


def _among(tensor: Tensor, known: Iterable[Reference]) -> bool:
    return any(same(one(), tensor) for one in known)
