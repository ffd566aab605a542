"""What becomes of the context of an attention's heads: the linear layer that it goes into, wherever that stands and whatever it is
called, and whether the rows of the context are tokens there or channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnviz.captures.doors.residual import Meeting, Reference
from attnviz.captures.heard import Followed

_COLUMNS = 32
"""Of what a layer gave, so many numbers of one token are held against its weight."""

_TOLERANCE = 4e-3
"""How far these may be off, in the lengths of both vectors: more than TF32 and half types cost, less than a transposed weight."""


def per_head(weight: Tensor, heads: int) -> Tensor:
    """An output projection, (d_model, H * D_v), by heads: (H, D_v, d_model)."""
    apart: Tensor = weight.detach().unflatten(1, (heads, -1))
    return apart.permute(1, 2, 0)


@dataclass(eq=False)
class Awaited:
    """A context that will go into a layer.

    Args:
        context: (B, H, T, D_v).
        followed: is told the projection, (H, D_v, d_model), None where it is none after all, or that rows are channels.
        depth: how many modules ran around the one that made it.
        residuals: what its projection may be added to.
    """

    context: Tensor
    followed: Followed
    depth: int
    residuals: Sequence[Reference] = ()
    found: nn.Module | None = None
    projected: Tensor | None = None  # what the layer gave, and any wrapper of it, until that is taken
    batch_first: bool = True  # whether items come first in it
    _last: Tensor | None = None  # what the layer gave for the last token

    def left(self, module: nn.Module, args: tuple[Any, ...], output: Any, depth: int) -> bool:
        """Looks at a module that has run, and says whether to go on."""
        given = [arg for arg in args if isinstance(arg, Tensor)]
        output = output[0] if isinstance(output, tuple) and output else output
        weight = getattr(module, "weight", None)
        if (
            given
            and self.found is None
            and isinstance(weight, Tensor)
            and self._goes_over(given[0], conv=weight.ndim > 2)
        ):
            self.followed.take_channels()
            return False
        if not given or not isinstance(output, Tensor) or not self._goes_into(given[0]):
            return self.found is None and depth > self.depth - 3
        if self.found is None:
            if isinstance(weight, Tensor) and weight.ndim == 2:
                self.found = module
                self.followed.project(self._projection(module, weight, given[0], output))
                self.projected, self.batch_first = output, self._is_batch_first(given[0])
        elif len(given) == 1 and self.found in module.modules() and not self._same(output):
            self.followed.project(None)  # a wrapper that adds to what its layer gives
            self.projected = output
        self._last = output.reshape(-1, output.shape[-1])[-1]
        return True

    def meeting(self, projected: Tensor) -> Meeting:
        """What it is projected to, on its way to the residual."""
        B, _, T, _ = self.context.shape
        return Meeting(projected, (B, T), self.residuals, self.followed, batch_first=self.batch_first)

    def _same(self, output: Tensor) -> bool:
        assert self._last is not None
        return torch.equal(output.reshape(-1, output.shape[-1])[-1], self._last)

    def _goes_into(self, given: Tensor) -> bool:
        """Whether a tensor is the context, heads joined, by the first token of all and the last."""
        B, H, T, D_v = self.context.shape
        if given.shape[-1] != H * D_v:
            return False
        if given.ndim == 3 and given.shape[0] == B and given.shape[1] > T:  # padded, to whole windows
            given = given[:, :T]
        if given.numel() != self.context.numel():
            return False
        rows = given.detach().reshape(-1, H, D_v)
        return all(_equal(rows[n], self.context[n, :, n]) for n in (0, -1))

    def _is_batch_first(self, given: Tensor) -> bool:
        """Whether the second of a context's rows is another token of the first item."""
        B, H, T, D_v = self.context.shape
        return B == 1 or T == 1 or _equal(given.detach().reshape(-1, H, D_v)[1], self.context[0, :, 1])

    def _goes_over(self, given: Tensor, *, conv: bool) -> bool:
        """Whether a tensor is the context with heads and rows joined, (B, D_v, H * T), or (B, H * T, ...) as a convolution takes
        it: rows are channels."""
        B, H, T, D_v = self.context.shape
        if given.shape[0] != B or given.numel() != self.context.numel() or given.ndim < 3:
            return False
        own = given.detach().flatten(2).transpose(1, 2) if conv else given.detach()
        if own.shape[1:] != (D_v, H * T) or self._goes_into(given):
            return False
        rows = own.unflatten(2, (H, T))
        return all(_equal(rows[n, n], self.context[n, :, :, n]) for n in (0, -1))

    def _projection(self, module: nn.Module, weight: Tensor, given: Tensor, output: Tensor) -> Tensor | None:
        """A layer's weight by heads, whichever way it lies; None where it isn't what makes its output."""
        if type(module) is nn.Linear:
            return per_head(weight, self.context.shape[1])
        width, made = given.shape[-1], output.shape[-1]
        x, y = given.detach().reshape(-1, width)[-1].float(), output.detach().reshape(-1, made)[-1].float()
        bias = getattr(module, "bias", None)
        y = y if not isinstance(bias, Tensor) else y - bias.detach().float()
        for own in (weight, weight.T):
            if own.shape != (made, width) or not own.is_floating_point():
                continue
            part = own.detach()[:_COLUMNS].float()
            size = torch.linalg.vector_norm(part, dim=1) * torch.linalg.vector_norm(x)
            if bool(((part @ x - y[:_COLUMNS]).abs() <= _TOLERANCE * size + 1e-6).all()):
                return per_head(own, self.context.shape[1])
        return None


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers; a model may make NaN of padding."""
    return torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())
