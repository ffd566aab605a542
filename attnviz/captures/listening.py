"""Hearing what goes into a model's attention, whatever kernel runs, without a change to the model or its output.

Six doors, each narrow, in :mod:`attnviz.captures.doors`:

- the attention functions of Hugging Face transformers: every model of its registry asks it for the function to call,
  which is wrapped as it is handed out;
- ``torch.nn.functional.scaled_dot_product_attention``, by a ``TorchFunctionMode``;
- ``torch.nn.attention.flex_attention``, where a model calls it by itself;
- ``torch.nn.functional.multi_head_attention_forward``, where ``nn.MultiheadAttention`` computes, likewise;
- Longformer, LED and BigBird: hooks on the layers that project q, k and v;
- models that multiply by themselves: their softmax, its logits, its weights and what these multiply.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attnviz.captures.calls import Call
from attnviz.captures.checking import Output
from attnviz.captures.doors.flex import flex
from attnviz.captures.doors.mha import mha_output, of_mha
from attnviz.captures.doors.registry import generating, registry
from attnviz.captures.doors.running import Ids, NamedModules, Running
from attnviz.captures.doors.sdpa import of_sdpa, sdpa_output
from attnviz.captures.doors.softmax import Softmaxes
from attnviz.captures.heard import Hear, Take
from attnviz.captures.rotary import PRODUCTS, Turning

TRIED = (
    "transformers' attention functions, torch's scaled_dot_product_attention, flex_attention and nn.MultiheadAttention, "
    "the projections of Longformer, LED and BigBird, and softmax between two products"
)
"""The doors, for the error of a model that uses none."""


@contextmanager
def listening(
    named: NamedModules,
    take: Take,
    *,
    ids: Ids,
    begin: Callable[[], None],
    reorder: Callable[[Tensor], None],
    chose: Callable[[Tensor], None],
) -> Iterator[Softmaxes]:
    """Reports every attention call that a model makes while the block runs.

    Args:
        named: any module, and its parts.
        take: called with each call.
        ids: called with the token ids that go into each of its parts that takes some.
        begin: called as a forward pass of the whole model begins.
        reorder: called with the item that each of the next pass's goes on from, (B,), where a cache is reordered.
        chose: called with the sequences that the model's ``generate`` gave, (n, T).

    Raises:
        InputError: inside the block, where a call can't be put into words.
    """
    with ExitStack() as stack:
        model, modules = named[0][1], [module for _, module in named]
        if any(map(_is_compiled, modules)):  # a graph runs no hooks and asks no registry
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        running = Running(named, ids, begin)
        turning = Turning()
        hear = running.hear = _quietly(running, take, turning)
        stack.callback(running.remove)
        stack.enter_context(registry(running, hear))
        stack.enter_context(flex(running, modules, hear))
        stack.enter_context(generating(model, reorder, chose))
        functions = stack.enter_context(_Functions(running, hear, turning))
        yield functions.softmaxes


def _quietly(running: Running, take: Take, turning: Turning) -> Hear:
    """Hears calls without hearing what is computed meanwhile, and then what projects their context."""

    def heard(module: str, call: Any) -> Callable[[Output], None]:
        with running.apart():
            if isinstance(call, Call) and call.k is not None:
                call = replace(call, rotary=turning.of(call.q, call.k, running.buffers))
            made = take(module, call)

        def finish(output: Output) -> None:
            with running.apart():
                followed = made(output)
                running.expect(output, call.sizes[1], followed)

        return finish

    return heard


def _is_compiled(module: nn.Module) -> bool:
    return type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None


class _Functions(TorchFunctionMode):
    """torch's own attention functions, wherever they are called from."""

    def __init__(self, running: Running, hear: Hear, turning: Turning) -> None:
        super().__init__()
        self._running, self._hear, self._turning = running, hear, turning
        self.softmaxes = Softmaxes(running, hear)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        running = self._running
        if running.inside or not running.stack or getattr(func, "__name__", "") == "__get__":  # an attribute
            return func(*args, **kwargs)
        if func in PRODUCTS:
            self._turning.heard(args)
        if func not in _OF_TORCH:
            return self._look(func, args, kwargs)
        frame = running.frame()
        if func is F.scaled_dot_product_attention:
            made = self._hear(frame.name, of_sdpa(frame.crosses, *args, **kwargs))
            output = func(*args, **kwargs)
            made(sdpa_output(output, *args, **kwargs))
            return output
        given = inspect.signature(func).bind(*args, **kwargs)
        given.apply_defaults()
        made = self._hear(frame.name, of_mha(given.arguments))
        output = func(*args, **kwargs)
        made(mha_output(output[0], given.arguments))
        return output

    def _look(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """Runs another function, which may be a part of an attention, or what its output is added to the residual by."""
        run = _as_it_is if self._running.projecting else self.softmaxes.run
        meeting = self._running.meeting
        if meeting is None or not meeting.open:
            return run(func, args, kwargs)
        return meeting.run(run, func, args, kwargs)


def _as_it_is(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


_OF_TORCH = (F.scaled_dot_product_attention, F.multi_head_attention_forward)
