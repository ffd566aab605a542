"""Which module of a model runs, and what it was given: hooks on every module, which change nothing."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from attnviz.captures.checking import Output
from attnviz.captures.doors.output import Awaited, per_head
from attnviz.captures.doors.projections import OUT, check_kind, projected_call, projected_output, projects
from attnviz.captures.doors.residual import Meeting, Reference, reference, same
from attnviz.captures.heard import Followed, Hear, Kept
from attnviz.captures.labels import crossing

_OTHER = ("key_value_states", "encoder_hidden_states", "context")
"""What transformers, diffusers and others call the other sequence, where a module is given one."""

_WRAPPERS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
"""What the names of modules contain that wrap another."""

NamedModules = Sequence[tuple[str, nn.Module]]
"""A model, and each of its parts, with their names."""

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
        given: the first numbers that it was given, as long as others keep them.
    """

    module: nn.Module
    name: str
    other: int | None
    kept: Kept | None
    named_cross: bool
    given: Reference

    def crosses(self, T: int, S: int) -> bool:
        """Whether ``T`` queries and ``S`` keys are of two sequences: its name says so, or it was given another one.

        Where as many queries see more keys than that has, the two sequences are joined to one.
        """
        return self.named_cross or (self.other is not None and not T == S > self.other)


@dataclass(frozen=True)
class _Known:
    """What is known of a module before it runs.

    Args:
        name: what it is called.
        crosses: whether that says that it attends to another sequence.
        signature: how it is called, where what it is given says something.
        projects: the names of its layers that project, where it multiplies by itself.
        layer: its place in a cache; None where it has none.
        reads_ids: whether it may be given token ids.
        is_norm: whether it has no part and no matrix: a norm, dropout.
    """

    name: str
    crosses: bool
    signature: inspect.Signature | None
    projects: tuple[str, ...]
    layer: int | None
    reads_ids: bool
    is_norm: bool

    @classmethod
    def of(cls, module: nn.Module, name: str, *, crosses: bool) -> _Known:
        """Of a module of this name."""
        own = projects(module)
        return cls(
            name,
            crosses,
            _signature(module, always=bool(own)),
            own,
            getattr(module, "layer_idx", None),
            hasattr(module, "get_input_embeddings"),
            not module._modules and all(one is None or one.ndim < 2 for one in module._parameters.values()),
        )


class Running:
    """Which module of the model is running, and what the hand-written ones among them have projected so far."""

    hear: Hear
    """What is done with a call."""

    def __init__(self, named: NamedModules, ids: Ids, begin: Callable[[], None]) -> None:
        self.names = {id(module): name for name, module in named}
        self._crossing = crossing(self.names.values())
        self.stack: list[Frame] = []
        self.inside = False  # within an attention function that was heard already
        self._model, self._ids, self._begin = named[0][1], ids, begin
        self._projected: dict[int, dict[str, Tensor]] = {}
        self._given: dict[int, dict[str, Any]] = {}
        self._awaited: Awaited | None = None  # a context on its way to what projects it
        self.meeting: Meeting | None = None  # what was projected, on its way to the residual
        self._normed: deque[tuple[Reference, Reference]] = deque(maxlen=4)  # what the last norms gave, and were given
        self._length = 0  # positions before Longformer pads them
        self._known: dict[int, _Known] = {}
        self._hooks = []
        for name, module in named:
            if isinstance(module, torch.jit.ScriptModule):
                continue
            self._known[id(module)] = _Known.of(module, name, crosses=name in self._crossing)
            self._hooks.append(module.register_forward_pre_hook(self._enters, with_kwargs=True))
            self._hooks.append(module.register_forward_hook(self._leaves, always_call=True))

    def frame(self, module: nn.Module | None = None) -> Frame:
        """The module that runs innermost; ``module``: that one, which runs or whose part does."""
        for frame in reversed(self.stack):
            if module is None or frame.module is module:
                return frame
        name = "" if module is None else self.names[id(module)]
        return Frame(module or self._model, name, None, None, name in self._crossing, reference())

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
        self._awaited = self.meeting = None
        if followed is None:
            return
        residuals = self._residuals()
        if output.projection is not None:
            followed.project(per_head(output.projection[0], heads))
            if output.context is not None:
                first = output.context.stride(0) >= output.context.stride(1)
                self.meeting = Meeting(output.context, output.context.shape[:2], residuals, followed, batch_first=first)
        elif output.context is not None:
            self._awaited = Awaited(output.context.detach(), followed, len(self.stack), residuals)

    def _residuals(self) -> list[Reference]:
        """What the modules that run were given, and what the norms before these were."""
        found = [frame.given for frame in self.stack]
        for made, given in reversed(self._normed):
            if any(same(made(), one()) for one in found):
                found.append(given)
        return found

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Does attnviz's own work: no call is heard, and no mode of torch's functions looks on."""
        with self.unheard(), torch._C.DisableTorchFunction():
            yield

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Hears no call that is made while the block runs: it is part of one that was heard."""
        self.inside, outer = True, self.inside
        try:
            yield
        finally:
            self.inside = outer

    def remove(self) -> None:
        """Takes the hooks away."""
        for hook in self._hooks:
            hook.remove()

    def _enters(self, *given: Any) -> None:
        with torch._C.DisableTorchFunction():
            self._enter(*given)

    def _leaves(self, *given: Any) -> None:
        with torch._C.DisableTorchFunction():
            self._leave(*given)

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module is self._model:
            self.stack.clear()  # of what an error left
            self._awaited = self.meeting = None
            self._begin()
        known = self._known[id(module)]
        given = {} if known.signature is None else known.signature.bind(*args, **kwargs).arguments
        other = _other(given) if given else None
        if other is None and self.stack and self.stack[-1].other is not None and _is_bare(module):
            other = self.stack[-1].other  # a part of what projected for it
        values = (*args, *kwargs.values())
        kept = None if known.layer is None else _kept(known.layer, values)
        self.stack.append(Frame(module, known.name, other, kept, known.crosses, reference(_numbers(values))))
        if known.reads_ids:
            self._note_ids(known.name, args, kwargs)
        check_kind(module, type(self._model).__name__)
        if known.projects:
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
        if frame is not None and isinstance(output, Tensor) and self._known[id(module)].is_norm:
            self._normed.append((reference(output), frame.given))
        if self._awaited is not None:
            self._follow(self._awaited, module, args, output)
        projected = self._projected.pop(id(module), None)
        if projected is not None and frame is not None:
            given = self._given.pop(id(module))
            call = projected_call(module, projected, given, frame.crosses(0, 0), frame.kept, self._length)
            self.hear(frame.name, call)(projected_output(module, call, projected, output))
        parent = self.stack[-1].module if self.stack else None
        if parent is not None and id(parent) in self._projected and isinstance(output, Tensor):
            name = self.names[id(module)].rpartition(".")[2]
            if name in self._known[id(parent)].projects:
                self._projected[id(parent)][name] = output.detach().clone()  # the model scales it in place
            if name == OUT and isinstance(args[0], Tensor):
                self._projected[id(parent)][name] = args[0].detach()

    def _follow(self, awaited: Awaited, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Follows a context through a module that has run, and what it is projected to from there on."""
        going = awaited.left(module, args, output, len(self.stack))
        projected, awaited.projected = awaited.projected, None
        if projected is not None:
            self.meeting = awaited.meeting(projected)
        self._awaited = awaited if going else None


def named_modules(model: nn.Module) -> NamedModules:
    """A model and its parts; names without what ``torch.compile`` and wrappers of many devices put around modules."""
    return [(_own_name(name), module) for name, module in model.named_modules()]


def _own_name(name: str) -> str:
    parts = name.split(".")
    return name if _WRAPPERS.isdisjoint(parts) else ".".join(part for part in parts if part not in _WRAPPERS)


def _signature(module: nn.Module, *, always: bool) -> inspect.Signature | None:
    """How a module is called, where what it is given says something, or ``always``."""
    own = module.forward
    if "forward" in module.__dict__ or not hasattr(own, "__func__"):
        signature = inspect.signature(own)
    else:
        signature = _of_class(own.__func__)
    return signature if always or any(name in signature.parameters for name in _OTHER) else None


@lru_cache(maxsize=1024)
def _of_class(forward: Callable[..., Any]) -> inspect.Signature:
    """The signature of a method, without the module itself; classes have many modules."""
    signature = inspect.signature(forward)
    return signature.replace(parameters=[*signature.parameters.values()][1:])


def _is_bare(module: nn.Module) -> bool:
    """Whether a module has no parameters, so that what it multiplies was projected by the one around it."""
    return next(module.parameters(), None) is None


def _other(given: dict[str, Any]) -> int | None:
    """How long the other sequence is that a module is given; None where it is given none."""
    own = next(iter(given.values()), None)  # self-attention can be given its own sequence as the other one
    for name in _OTHER:
        one = given.get(name)
        if isinstance(one, Tensor) and one.ndim > 2 and one is not own:
            return one.shape[1]
    return None


def _numbers(given: tuple[Any, ...]) -> Tensor | None:
    """The first numbers that a module is given."""
    return next((one for one in given if isinstance(one, Tensor) and one.is_floating_point()), None)


def _kept(layer: int, given: tuple[Any, ...]) -> Kept | None:
    """What the cache of a layer holds, where a module is given one of transformers'."""
    cache = next((value for value in given if hasattr(value, "get_mask_sizes")), None)
    if cache is None:
        return None
    try:
        _, first = cache.get_mask_sizes(1, layer)
        return Kept(int(cache.get_seq_length(layer)), int(first))
    except (AttributeError, IndexError, NotImplementedError, TypeError, ValueError):  # a layer without keys: Mamba's
        return None
