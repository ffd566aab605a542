"""Models that multiply by themselves: their softmax, what goes into it and what its weights multiply.

A softmax is attention where its logits are a product of two activations and its weights multiply values; a router's logits come
from a layer of parameters, and its weights choose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnviz.captures.checking import DROPOUT, Output
from attnviz.captures.doors.running import Frame, Running
from attnviz.captures.heard import Hear
from attnviz.captures.weighed import Weighed

_SOFTMAX = frozenset((F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax))
_PRODUCTS = frozenset(("matmul", "__matmul__", "__rmatmul__", "bmm", "einsum", "baddbmm"))
_SAME = frozenset(
    (
        *("to", "type", "type_as", "float", "half", "bfloat16", "double", "contiguous", "clone", "detach", "reshape"),
        *("view", "unsqueeze", "squeeze", "transpose", "permute", "flatten", "unflatten", "expand", "chunk", "split"),
    )
)
"""Functions whose result holds the same numbers."""

_DROPOUT = frozenset(("dropout", "dropout_", "dropout1d", "dropout2d", "feature_dropout"))
_HEADS = (
    "num_heads",
    "num_attention_heads",
    "n_heads",
    "n_head",
    "nhead",
    "heads",
    "num_attn_heads",
    "attention_heads",
)
"""What modules call how many heads they have."""


@dataclass(eq=False)
class _Open:
    """A softmax whose weights haven't been used yet."""

    frame: Frame
    logits: Tensor | None
    weights: Tensor
    product: bool  # whether its logits are a product of two activations
    storages: dict[int, Tensor] = field(default_factory=dict)  # alive, so that nothing else comes to lie there
    dropped: bool = False
    mixed: bool = False  # whether the weights became others, maybe in another order of dimensions
    heard: bool = False


class Softmaxes:
    """What a model's own softmaxes are given and what becomes of their weights, torch function by torch function."""

    def __init__(self, running: Running, hear: Hear) -> None:
        self.unheard: dict[str, None] = {}
        """The modules that ran a softmax over keys that was not captured, in order."""
        self.parted: set[str] = set()
        """The modules whose weights multiply values in parts, of which one alone was captured."""
        self._running, self._hear = running, hear
        self._open: list[_Open] = []
        self._products: dict[int, set[int]] = {}  # by module, sizes of products of activations

    def run(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """Runs a torch function, and looks at it where it is a softmax, a product, or changes weights."""
        if func in _SOFTMAX:
            return self._softmax(func, args, kwargs)
        name = getattr(func, "__name__", "")
        if name in _PRODUCTS:
            return self._product(func, name, args, kwargs)
        result = func(*args, **kwargs)
        if self._open:
            self._change(name, args, kwargs, result)
        return result

    def finish(self) -> None:
        """Names the modules whose weights went nowhere that can be followed."""
        for one in self._open:
            self._forget(one)
        self._open.clear()

    def _softmax(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Tensor:
        logits: Tensor = args[0] if args else kwargs["input"]
        kept = logits.detach()
        result: Tensor = func(*args, **kwargs)
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if not isinstance(dim, int) or logits.ndim < 2 or result.shape != logits.shape:
            return result
        frame = self._frame()
        made = self._products.get(id(frame.module), set())
        rows = logits.numel() // max(1, logits.shape[-1])
        product = not made.isdisjoint((logits.numel(), logits.numel() - rows))  # with one more for a sink
        over = dim % logits.ndim - logits.ndim
        if over < -1 and product:  # over queries, which share each key among them; or over what is neither
            self.unheard[frame.name] = None
        if (product and over >= -2) or (
            over == -1 and logits.ndim > 2 and "att" in type(frame.module).__name__.lower()
        ):
            self._leave_open()
            logits_of_keys = kept if over == -1 else None
            one = _Open(frame, logits_of_keys, result, product, {_storage(result): result}, mixed=over < -1)
            self._open.append(one)
        return result

    def _leave_open(self) -> None:
        """Forgets softmaxes of modules that run no more."""
        running = {id(frame) for frame in self._running.stack}
        for one in [one for one in self._open if one.heard or id(one.frame) not in running]:
            self._forget(one)
            self._open.remove(one)

    def _forget(self, one: _Open) -> None:
        if not one.heard:
            self.unheard[one.frame.name] = None

    def _change(self, name: str, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        """Follows weights through what a model does to them before it uses them."""
        for one in self._open:
            given = [*args, *kwargs.values()]
            if not any(isinstance(arg, Tensor) and _storage(arg) in one.storages for arg in given):
                continue
            if name in _DROPOUT:
                one.dropped = one.dropped or _drops(args, kwargs)
            elif (name.endswith("_") and not name.endswith("__")) or name == "__setitem__":
                one.logits = None
            elif name not in _SAME and isinstance(result, Tensor) and _replaces(result, one):
                one.logits, one.weights, one.storages, one.mixed = None, result, {}, True
            if isinstance(result, Tensor) and result.numel() == one.weights.numel() and result.is_floating_point():
                one.storages[_storage(result)] = result

    def _product(self, func: Callable[..., Any], name: str, args: Any, kwargs: dict[str, Any]) -> Tensor:
        tensors = [arg for arg in (*_flat(args), *kwargs.values()) if isinstance(arg, Tensor)]
        operands = tensors[1:] if name == "baddbmm" else tensors
        used = self._used(operands)
        result: Tensor = func(*args, **kwargs)
        if used is not None and len(operands) == 2:
            self._heard(used, name, args, operands, result)
        elif len(operands) > 1 and not any(isinstance(operand, nn.Parameter) for operand in operands):
            for frame in self._frames():
                self._products.setdefault(id(frame.module), set()).add(result.numel())
        return result

    def _used(self, operands: list[Tensor]) -> _Open | None:
        """The softmax whose weights are one of the operands."""
        for one in reversed(self._open):
            own = next((operand for operand in operands if _storage(operand) in one.storages), None)
            if own is not None:
                if not one.heard:
                    return one
                if (own.numel(), own.storage_offset()) != (one.weights.numel(), one.weights.storage_offset()):
                    self.parted.add(one.frame.name)  # beside the part that was heard
                return None
        return None

    def _heard(self, used: _Open, name: str, args: Any, operands: list[Tensor], result: Tensor) -> None:
        """Reports weights that multiply values."""
        first = _storage(operands[0]) in used.storages
        own, v = operands if first else operands[::-1]
        context: Tensor | None = result
        if name == "einsum":
            own, v, context = _of_einsum(args[0], own, v, result, first=first)
        elif not first:  # (..., D, S) @ (..., S, T)
            own, v, context = own.transpose(-2, -1), v.transpose(-2, -1), result.transpose(-2, -1)
        plain = own.shape[-2:] == used.weights.shape[-2:] and (used.dropped or not used.mixed)
        weights = used.weights if plain else own
        if weights.shape[-1] != v.shape[-1 if v.ndim < 2 else -2]:
            return
        heads = _heads(used.frame.module)
        whole = _bhts(weights, heads)
        logits = None
        if used.logits is not None and used.logits.shape[:-1] == weights.shape[:-1]:
            logits = _bhts(used.logits[..., : weights.shape[-1]], heads)
        values = _like(v, own, heads)
        made = None if context is None else _like(context, own, heads)
        used.heard, used.weights, used.storages = True, weights, {_storage(own): own}
        call = Weighed(whole, logits, values, used.frame.crosses(*whole.shape[2:]), used.frame.kept)
        unchecked = (
            DROPOUT if used.dropped else None if made is not None and values is not None else "its values are not known"
        )
        self._hear(used.frame.name, call)(Output(made, unchecked=unchecked))

    def _frame(self) -> Frame:
        return next(self._frames())

    def _frames(self) -> Iterator[Frame]:
        """The module that runs and the one around it, layers of torch without parameters left out."""
        found = [
            frame
            for frame in reversed(self._running.stack)
            if not (
                type(frame.module).__module__.startswith("torch.nn")
                and not any(True for _ in frame.module.parameters())
            )
        ]
        return iter((found or self._running.stack[-1:])[:2])


def _storage(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (NotImplementedError, RuntimeError):
        return id(tensor)


def _replaces(result: Tensor, one: _Open) -> bool:
    """Whether a tensor is what weights became."""
    alike = result.numel() == one.weights.numel() and result.is_floating_point()
    return alike and _storage(result) not in one.storages


def _flat(args: Any) -> list[Any]:
    return [part for arg in args for part in (arg if isinstance(arg, list | tuple) else [arg])]


def _drops(args: Any, kwargs: dict[str, Any]) -> bool:
    p = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
    training = kwargs.get("training", args[2] if len(args) > 2 else True)
    return bool(training) and bool(p)


def _heads(module: nn.Module) -> int | None:
    """How many heads a module says it has."""
    for owner in (module, getattr(module, "config", None), getattr(module, "cfg", None)):
        for name in _HEADS:
            found = getattr(owner, name, None)
            if isinstance(found, int) and found > 0:
                return found
    return None


def _bhts(tensor: Tensor, heads: int | None) -> Tensor:
    """Weights, or values beside them, as (B, H, n, m).

    Args:
        tensor: (..., n, m): heads may be a dimension of their own, or along with batch items.
        heads: how many heads there are; None: the dimension before the last two is heads.
    """
    leading = tensor.shape[:-2]
    if len(leading) == 0:
        return tensor[None, None]
    if len(leading) == 1:
        split = heads if heads and leading[0] % heads == 0 else 1
        apart: Tensor = tensor.unflatten(0, (-1, split))
        return apart
    if heads is not None and leading[-1] != heads and heads in leading:
        tensor = tensor.movedim(max(n for n, size in enumerate(leading) if size == heads), len(leading) - 1)
    whole: Tensor = tensor.flatten(0, tensor.ndim - 4)
    return whole


def _like(values: Tensor, weights: Tensor, heads: int | None) -> Tensor | None:
    """Values or a context, (..., n, D), in the dimensions that weights have; None where they can't be."""
    leading = weights.shape[:-2]
    try:
        return _bhts(values.expand(*leading, *values.shape[-2:]), heads)
    except RuntimeError:
        return None


def _of_einsum(
    equation: Any, own: Tensor, v: Tensor, result: Tensor, *, first: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Weights, values and context of an einsum, as a batched product has them."""
    if not isinstance(equation, str) or "->" not in equation or "." in equation:
        return own, v, None
    inputs, _, out = equation.replace(" ", "").partition("->")
    parts = inputs.split(",")
    of_own, of_v = parts if first else parts[::-1]
    shared = [letter for letter in of_own if letter in of_v and letter not in out]
    new = [letter for letter in of_v if letter not in of_own]
    if len(shared) != 1 or len(new) != 1 or of_own[-1] != shared[0]:
        return own, v, None
    leading = list(of_own[:-2])
    values, context = [*leading, shared[0], new[0]], [*leading, of_own[-2], new[0]]
    return own, _arranged(v, of_v, values), _arranged(result, out, context)


def _arranged(tensor: Tensor, letters: str, wanted: list[str]) -> Tensor:
    """A tensor's dimensions in the order wanted, those that it hasn't as 1."""
    there = [letter for letter in wanted if letter in letters]
    tensor = tensor.permute([letters.index(letter) for letter in there])
    for n, letter in enumerate(wanted):
        if letter not in there:
            tensor = tensor.unsqueeze(n)
    return tensor
