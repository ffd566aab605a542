"""``torch.nn.attention.flex_attention``, called by a model itself, under whatever name its modules know it by, compiled or not."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import flex_attention as of_torch

from attnviz.attention.additive import seen_and_added
from attnviz.captures.calls import Call
from attnviz.captures.checking import Output
from attnviz.captures.doors.running import Frame, Running
from attnviz.captures.heard import Hear
from attnviz.captures.masks import Mask
from attnviz.captures.masks import block_mask as shown_by

_TRIED = (0.0, 1.0, -3.0)
"""Scores by which a ``score_mod`` is found to add to them."""


@contextmanager
def flex(running: Running, modules: Sequence[nn.Module], hear: Hear) -> Iterator[None]:
    """Wraps FlexAttention where a model's modules, and the files of their classes, have it."""
    own = of_torch.flex_attention
    signature = inspect.signature(own)
    put: list[tuple[MutableMapping[str, Any], str, Any]] = []

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(own)
        def heard(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or not running.stack or running.inside:
                return function(*args, **kwargs)
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            frame = running.frame()
            made = hear(frame.name, of_flex(frame, **given.arguments))
            with running.unheard():
                result = function(*args, **kwargs)
            made(Output(result[0] if isinstance(result, tuple) else result))
            return result

        return heard

    for names in _names(modules):
        for name, value in [(name, value) for name, value in names.items() if type(value) is FunctionType]:
            if own in (value, getattr(value, "_torchdynamo_orig_callable", None)):
                put.append((names, name, value))
                names[name] = wrapped(value)
    try:
        yield
    finally:
        for names, name, value in put:
            names[name] = value


def _names(modules: Sequence[nn.Module]) -> list[MutableMapping[str, Any]]:
    """Where a model's code finds its functions: its modules, and the files of their classes."""
    kinds = set(map(type, modules))
    files = {base.__module__ for kind in kinds for base in kind.__mro__ if not base.__module__.startswith("torch.")}
    found = [sys.modules[name].__dict__ for name in sorted(files) if name in sys.modules]
    return [of_torch.__dict__, *found, *(module.__dict__ for module in modules)]


def of_flex(
    frame: Frame,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Callable[..., Tensor] | None = None,
    block_mask: Any = None,
    scale: float | None = None,
    **_: Any,
) -> Call:
    """A call of FlexAttention.

    Args:
        frame: the module that makes it.
        query, key, value, score_mod, block_mask, scale: as torch has them. A ``score_mod`` that adds to scores is the call's bias;
            another has no place, and is told as unread.
    """
    B, H, T, _D = query.shape
    S = key.shape[2]
    added = None if score_mod is None else _added(score_mod, (B, H, T, S), query.device)
    seen, bias = (None, None) if added is None else seen_and_added(added)
    shown = None if block_mask is None else shown_by(block_mask, B, H, T, S)
    if seen is not None and not bool(seen.all()):
        shown = seen if shown is None else shown & seen
    return Call(
        query,
        key,
        value,
        Mask(shown),
        frame.crosses(T, S),
        kept=frame.kept,
        scale=scale,
        bias=bias,
        unread=("score_mod",) if score_mod is not None and added is None else (),
    )


def _added(score_mod: Callable[..., Tensor], sizes: tuple[int, int, int, int], device: torch.device) -> Tensor | None:
    """What a ``score_mod`` adds to any score, (B | 1, H | 1, T, S), -inf where it hides; None where it does something else."""
    places = torch.meshgrid(*(torch.arange(size, device=device) for size in sizes), indexing="ij")
    try:
        made = [score_mod(torch.full(sizes, score, device=device), *places).expand(sizes).float() for score in _TRIED]
    except (RuntimeError, IndexError, TypeError):
        return None
    bias = made[0]
    for score, other in zip(_TRIED[1:], made[1:], strict=True):
        if not torch.allclose(other - score, bias, rtol=1e-5, atol=1e-5):
            return None
    for dim in (0, 1):
        bias = bias[(slice(None),) * dim + (slice(1),)] if bool((bias == bias.narrow(dim, 0, 1)).all()) else bias
    return bias
