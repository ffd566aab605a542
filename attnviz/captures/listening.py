"""Hearing what goes into a model's attention, whatever kernel runs, without a change to the model or its output.

Four doors, each narrow, in :mod:`attnviz.captures.doors`:

- the attention functions of Hugging Face transformers: every model of its registry asks it for the function to call,
  which is wrapped as it is handed out;
- ``torch.nn.functional.scaled_dot_product_attention``, by a ``TorchFunctionMode``;
- ``torch.nn.functional.multi_head_attention_forward``, where ``nn.MultiheadAttention`` computes, likewise;
- models that multiply by themselves (Longformer, LED, BigBird): hooks on the layers that project q, k and v.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from attnviz.captures.calls import Hear
from attnviz.captures.doors.mha import mha_output, of_mha
from attnviz.captures.doors.registry import registry
from attnviz.captures.doors.running import Ids, Running
from attnviz.captures.doors.sdpa import of_sdpa, sdpa_output

TRIED = (
    "transformers' attention functions, torch's scaled_dot_product_attention and nn.MultiheadAttention, "
    "and the projections of Longformer, LED and BigBird"
)
"""The doors, for the error of a model that uses none."""


@contextmanager
def listening(model: nn.Module, hear: Hear, *, ids: Ids, begin: Callable[[], None]) -> Iterator[None]:
    """Reports every attention call that ``model`` makes while the block runs.

    Args:
        model: any module.
        hear: called with each call.
        ids: called with the token ids that go into each of its parts that takes some.
        begin: called as a forward pass of the whole model begins.

    Raises:
        InputError: inside the block, where a call can't be put into words.
    """
    with ExitStack() as stack:
        running = Running(model, hear, ids, begin)
        stack.callback(running.remove)
        stack.enter_context(registry(running, hear))
        stack.enter_context(_Functions(running, hear))
        yield


class _Functions(TorchFunctionMode):
    """torch's own attention functions, wherever they are called from."""

    def __init__(self, running: Running, hear: Hear) -> None:
        super().__init__()
        self._running, self._hear = running, hear

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        running = self._running
        if not running.stack or running.inside or func not in _OF_TORCH:
            return func(*args, **kwargs)
        frame = running.frame()
        if func is F.scaled_dot_product_attention:
            made = self._hear(frame.name, of_sdpa(frame.cross, *args, **kwargs))
            output = func(*args, **kwargs)
            made(sdpa_output(output, *args, **kwargs))
            return output
        given = inspect.signature(func).bind(*args, **kwargs)
        given.apply_defaults()
        made = self._hear(frame.name, of_mha(given.arguments))
        output = func(*args, **kwargs)
        made(mha_output(output[0], given.arguments))
        return output


_OF_TORCH = (F.scaled_dot_product_attention, F.multi_head_attention_forward)
