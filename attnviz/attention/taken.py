"""What people hand over in place of inputs: arrays of weights, or of q, k and v; of what they mean nothing is guessed.

Two or three arrays are q, k and v, every query seeing every key where neither a pattern nor global keys are named. One is weights where it can be
nothing else: no number below 0, and each row a distribution or less.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from torch import Tensor

from attnviz.attention.arrays import as_tensor
from attnviz.attention.derived import SomeInputs
from attnviz.attention.given import AttentionWeights
from attnviz.attention.inputs import AttentionInputs, Inputs, as_labels
from attnviz.attention.names import known_names
from attnviz.attention.patterns import Full
from attnviz.base.devices import is_real
from attnviz.base.errors import InputError

_Function = TypeVar("_Function", bound=Callable[..., Any])

_OWN = frozenset({"pattern", "source", "layer"})
"""What a function takes by itself, or that arrays have no use for."""

_OF_ARRAYS = frozenset(inspect.signature(AttentionInputs).parameters) - {"q", "k", "v"} - _OWN
_OF_WEIGHTS = frozenset(inspect.signature(AttentionWeights).parameters) - {"weights"} - _OWN
"""What may be said by name beside arrays, as of inputs."""

_SLACK = 1e-2
"""How far above 1 a row of weights may sum, in half precision."""


def is_array(value: object) -> bool:
    """Whether something is an array of numbers, of any library, a data frame of them, or nested lists.

    >>> import torch
    >>> is_array(torch.ones(2)), is_array([[1.0]]), is_array([3]), is_array("causal")
    (True, True, False, False)
    """
    if isinstance(value, list) and value and isinstance(value[0], list):  # a flat list may be of heads
        return _numbers(value)
    if isinstance(value, np.generic):  # one number, a head perhaps
        return False
    return isinstance(value, Tensor | np.ndarray) or hasattr(value, "__dlpack__") or hasattr(value, "__array__")


def _numbers(value: Any) -> bool:
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, int | float)


def with_arrays(args: tuple[Any, ...], given: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, in which arrays of q, k and v that come first, or by name, are inputs, with what is said of them.

    >>> import torch
    >>> q = torch.ones(2, 4, 8)
    >>> (inputs, head), _ = with_arrays((q, q, 3), {})
    >>> inputs.H, str(inputs.pattern), head
    (2, 'full', 3)
    >>> (inputs,), rest = with_arrays((q, q), {"global_mask": torch.ones(1, 4, dtype=torch.bool), "pixels": 8})
    >>> inputs.global_mask.sum(), inputs.pattern, rest
    (tensor(4), None, {'pixels': 8})
    """
    what = dict(given)
    count = next((n for n, one in enumerate(args[:3]) if not is_array(one)), min(len(args), 3))
    arrays = dict(zip(("q", "k", "v"), args[:count], strict=False)) if count > 1 else {}
    if not args and {"q", "k"} <= what.keys():
        arrays = {name: what.pop(name) for name in ("q", "k", "v") if name in what}
    if arrays:
        said = {name: what.pop(name) for name in [*what] if name in _OF_ARRAYS}
        pattern = None if "global_mask" in said else Full()
        return (AttentionInputs(**arrays, **said, pattern=pattern), *args[count:]), what
    said = {name: what.pop(name) for name in [*what] if name in _OF_WEIGHTS} if count else {}
    if "tokens" in said:
        said["tokens"] = as_labels(said["tokens"])
    return ((replace(_given(args[0]), **said), *args[1:]) if said else args), what


def takes_arrays(function: _Function) -> _Function:
    """A function of inputs as one that also takes arrays in their place."""

    @wraps(function)
    def taking(*args: Any, **what: Any) -> Any:
        args, what = with_arrays(args, what)
        return function(*((taken(args[0]), *args[1:]) if args and is_array(args[0]) else args), **what)

    return cast("_Function", taking)


def taken(given: Any) -> SomeInputs:
    """Inputs, as they are or of what is given in their place.

    Raises:
        InputError: nothing that they can be made of, and what to type.

    >>> import torch
    >>> taken(torch.eye(3)).weights.shape
    torch.Size([1, 1, 3, 3])
    """
    if isinstance(given, Inputs):
        return given
    if is_array(given):
        return _given(given)
    if isinstance(given, Iterator):
        given = list(given)
    if isinstance(given, list | tuple) and given and all(isinstance(one, Inputs) for one in given):
        return given
    raise InputError(_instead(given))


def taken_layers(given: Iterable[Any]) -> list[Inputs]:
    """The layers of a model, each as inputs or as an array of its weights, (H, T, S).

    Raises:
        InputError: as :func:`taken`; arrays of several batch items.
    """
    each = list(given)
    if any(is_array(one) and as_tensor(one, "weights").ndim == 4 for one in each):
        raise InputError(_instead(each))
    return [cast("Inputs", taken(one)) for one in each]


def _given(given: Any) -> AttentionWeights:
    """An array as weights. Raises InputError where it may be something else."""
    array = as_tensor(given, "weights")
    shape = tuple(array.shape)
    if array.ndim == 4:
        raise InputError(
            f"an array of shape {shape} may be (B, H, T, S) or (L, H, T, S); say which: attnviz.AttentionWeights(array) is "
            f"of batch items, attnviz.weights.from_array(array, 'lhts') of layers"
        )
    if array.ndim in (2, 3) and not array.is_floating_point() and not array.is_complex():
        raise InputError(
            f"an array of {array.dtype} is no attention weights; as numbers of floating point, x * 1.0, it may be"
        )
    if array.ndim not in (2, 3) or not is_real(array):
        raise InputError(
            f"an array of shape {shape} and dtype {array.dtype} is no attention weights, (H, T, S); make inputs of it: "
            f"attnviz.AttentionInputs(q, k)"
        )
    rows = array.double().sum(-1)
    if bool((array < 0).any()) or bool((rows > 1 + _SLACK).any()) or not bool((rows > 0).any()):
        raise InputError(
            f"an array of shape {shape} whose rows are no weights (numbers below 0, or sums above 1): q and k go together, "
            f"(q, k) or attnviz.AttentionInputs(q, k); other numbers of pairs are attnviz.AttentionWeights(array)"
        )
    return AttentionWeights(array if array.ndim == 3 else array[None])


def _instead(given: Any) -> str:
    """What to type in place of what is no inputs."""
    if isinstance(given, str) and given.partition(":")[0] in known_names():
        return f"{given}: a pattern goes with inputs: (inputs, pattern={given!r})"
    if isinstance(given, str | Path):
        return f"{given}: a file's inputs are attnviz.load({str(given)!r}); pass these"
    if isinstance(given, Mapping):
        return f"a dict of {', '.join(map(str, list(given)[:4]))}: pass attnviz.AttentionInputs(**it), or attnviz.AttentionWeights"
    if isinstance(given, list | tuple) and given and is_array(given[0]):
        return f"{len(given)} arrays: of weights, one a layer, pass attnviz.weights.from_attentions(arrays)"
    if hasattr(given, "attentions"):
        return f"a {type(given).__name__}: pass attnviz.weights.from_outputs(it)"
    if hasattr(given, "inputs") and hasattr(given, "layers"):
        return f"a {type(given).__name__} has several layers: pass the inputs of one, run.inputs(0)"
    return f"inputs are given as {type(given).__name__}; wanted attnviz.AttentionInputs(q, k), or attnviz.AttentionWeights(array)"
