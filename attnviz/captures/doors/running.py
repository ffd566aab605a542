"""Which module of a model runs, and what it was given: hooks on every module, which change nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from attnviz.captures.checking import Output
from attnviz.captures.doors.output import Awaited, per_head
from attnviz.captures.doors.projections import OUT, check_kind, projected_call, projected_output, projects
from attnviz.captures.heard import Followed, Hear, Kept
from attnviz.captures.labels import crossing

_OTHER = ("key_value_states", "encoder_hidden_states", "context")
"""What transformers, diffusers and others call the other sequence, where a module is given one."""

_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What the names of modules contain that wrap another."""

Ids = Callable[[str, Tensor], None]
"""What is done with token ids: (the name of the module they go into, (B, T) ids)."""


@dataclass(frozen=True)
class Frame:
    """A module that runs.

    Args:
        module, name: which.
        other: how long the other sequence is that it was given; None where it was given none.
        kept: what its cache held as it began, where it has one.
        named_cross: whether its name says that it attends to another sequence.
    """

    module: nn.Module
    name: str
    other: int | None
    kept: Kept | None
    named_cross: bool

    def crosses(self, T: int, S: int) -> bool:
        """Whether ``T`` queries and ``S`` keys are of two sequences: its name says so, or it was given another one.

        Where as many queries see more keys than that has, the two sequences are joined to one.
        """
        return self.named_cross or (self.other is not None and not T == S > self.other)


class Running:
    """Which module of the model is running, and what the hand-written ones among them have projected so far."""

    hear: Hear
    """What is done with a call."""

    def __init__(self, model: nn.Module, ids: Ids, begin: Callable[[], None]) -> None:
        self.names = {id(module): own_name(name) for name, module in model.named_modules()}
        self._crossing = crossing(self.names.values())
        self.stack: list[Frame] = []
        self.inside = False  # within an attention function that was heard already
        self._model, self._ids, self._begin = model, ids, begin
        self._projected: dict[int, dict[str, Tensor]] = {}
        self._given: dict[int, dict[str, Any]] = {}
        self._awaited: Awaited | None = None  # a context on its way to what projects it
        self._length = 0  # positions before Longformer pads them
        hooked = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
        self._signatures = {id(module): _signature(module) for module in hooked}
        self._hooks = []
        for module in hooked:
            self._hooks.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            self._hooks.append(module.register_forward_hook(self._leave, always_call=True))

    def frame(self, module: nn.Module | None = None) -> Frame:
        """The module that runs innermost; ``module``: that one, which runs or whose part does."""
        for frame in reversed(self.stack):
            if module is None or frame.module is module:
                return frame
        name = "" if module is None else self.names[id(module)]
        return Frame(module or self._model, name, None, None, name in self._crossing)

    @property
    def buffers(self) -> Iterator[Tensor]:
        """The numbers that the model holds beside its parameters."""
        return self._model.buffers()

    @property
    def projecting(self) -> bool:
        """Whether a module runs whose projections are heard."""
        return bool(self._projected)

    def expect(self, output: Output, heads: int, followed: Followed | None) -> None:
        """Tells what becomes of a call's context, as soon as it has."""
        self._awaited = None
        if followed is None:
            return
        if output.projection is not None:
            followed.project(per_head(output.projection[0], heads))
        elif output.context is not None:
            self._awaited = Awaited(output.context.detach(), followed, len(self.stack))

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Hears no call that is made while the block runs: it is part of one that was heard, or attnviz's own."""
        self.inside, outer = True, self.inside
        try:
            yield
        finally:
            self.inside = outer

    def remove(self) -> None:
        """Takes the hooks away."""
        for hook in self._hooks:
            hook.remove()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module is self._model:
            self.stack.clear()  # of what an error left
            self._awaited = None
            self._begin()
        name, signature = self.names[id(module)], self._signatures[id(module)]
        given: dict[str, Any] = {} if signature is None else signature.bind(*args, **kwargs).arguments
        own = next(iter(given.values()), None)  # self-attention can be given its own sequence as the other one
        others = [given.get(other) for other in _OTHER]
        other = next(
            (one.shape[1] for one in others if isinstance(one, Tensor) and one.ndim > 2 and one is not own), None
        )
        if other is None and self.stack and self.stack[-1].other is not None and _is_bare(module):
            other = self.stack[-1].other  # a part of what projected for it
        kept = _kept(module, (*args, *kwargs.values()))
        self.stack.append(Frame(module, name, other, kept, name in self._crossing))
        if hasattr(module, "get_input_embeddings"):
            self._note_ids(name, args, kwargs)
        check_kind(module, type(self._model).__name__)
        if projects(module):
            self._projected[id(module)], self._given[id(module)] = {}, given

    def _note_ids(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        token_ids = kwargs.get("input_ids", args[0] if args else None)
        embedded = kwargs.get("inputs_embeds")
        if isinstance(token_ids, Tensor) and token_ids.ndim == 2 and not token_ids.is_floating_point():
            self._length = token_ids.shape[1]
            self._ids(name, token_ids)
        elif isinstance(embedded, Tensor):
            self._length = embedded.shape[1]

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        frame = self.stack.pop() if self.stack and self.stack[-1].module is module else None
        if output is None:  # it failed
            return
        if self._awaited is not None and not self._awaited.left(module, args, output, len(self.stack)):
            self._awaited = None
        projected = self._projected.pop(id(module), None)
        if projected is not None and frame is not None:
            given = self._given.pop(id(module))
            call = projected_call(module, projected, given, frame.crosses(0, 0), frame.kept, self._length)
            self.hear(frame.name, call)(projected_output(module, call, projected, output))
        parent = self.stack[-1].module if self.stack else None
        if parent is not None and id(parent) in self._projected and isinstance(output, Tensor):
            name = self.names[id(module)].rpartition(".")[2]
            if name in projects(parent):
                self._projected[id(parent)][name] = output.detach().clone()  # the model scales it in place
            if name == OUT and isinstance(args[0], Tensor):
                self._projected[id(parent)][name] = args[0].detach()


def own_name(name: str) -> str:
    """A module's name without what ``torch.compile`` and wrappers of many devices put around modules."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _signature(module: nn.Module) -> inspect.Signature | None:
    """How a module is called, where what it is given says something."""
    own = module.forward
    if "forward" in module.__dict__ or not hasattr(own, "__func__"):
        signature = inspect.signature(own)
    else:
        signature = _of_class(own.__func__)
    return signature if projects(module) or any(name in signature.parameters for name in _OTHER) else None


@lru_cache(maxsize=1024)
def _of_class(forward: Callable[..., Any]) -> inspect.Signature:
    """The signature of a method, without the module itself; classes have many modules."""
    signature = inspect.signature(forward)
    return signature.replace(parameters=[*signature.parameters.values()][1:])


def _is_bare(module: nn.Module) -> bool:
    """Whether a module has no parameters, so that what it multiplies was projected by the one around it."""
    return next(module.parameters(), None) is None


def _kept(module: nn.Module, given: tuple[Any, ...]) -> Kept | None:
    """What a module's cache holds, where it is given one of transformers'."""
    layer = getattr(module, "layer_idx", None)
    cache = next((value for value in given if hasattr(value, "get_mask_sizes")), None)
    if layer is None or cache is None:
        return None
    try:
        _, first = cache.get_mask_sizes(1, layer)
        return Kept(int(cache.get_seq_length(layer)), int(first))
    except (AttributeError, IndexError, NotImplementedError, TypeError, ValueError):  # a layer without keys: Mamba's
        return None
