"""Arrays of any library as tensors: numpy's, JAX's, and whatever else speaks DLPack."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from attnviz.base.errors import InputError


def as_tensor(array: Any, name: str) -> Tensor:
    """``array`` as a tensor, in its own memory where that is possible.

    Args:
        array: a tensor, a numpy array, one of a library that speaks DLPack (JAX, CuPy, TensorFlow), or nested lists.
        name: what errors call it.

    Raises:
        InputError: it is none of these.

    >>> as_tensor(np.eye(2, dtype=np.float32), "weights").shape, as_tensor([[0.5, 0.5]], "weights").dtype
    (torch.Size([2, 2]), torch.float32)
    """
    if isinstance(array, Tensor):
        return plain(array, name).detach()
    if isinstance(array, np.ndarray):
        return from_numpy(array, name)
    if hasattr(array, "__dlpack__"):
        try:
            return from_dlpack(array)
        except (BufferError, RuntimeError, TypeError, ValueError):  # a layout or device that DLPack can't hand over
            return from_numpy(np.asarray(array), name)
    try:
        found = np.asarray(array)
    except ValueError as error:
        raise InputError(f"{name}: a {type(array).__name__} is no array of one shape: {error}") from error
    # A list of Python's numbers is of no precision of its own.
    return from_numpy(
        found.astype(np.float32) if found.dtype == np.float64 and isinstance(array, list | tuple) else found, name
    )


def plain(tensor: Tensor, name: str) -> Tensor:
    """A tensor whose numbers lie in memory, each by itself: of a quantized one the numbers that it stands for.

    Raises:
        InputError: it is sparse, nested, of another library's layout or without data.

    >>> plain(torch.ones(2, 2, dtype=torch.complex64).conj(), "x").is_conj()
    False
    """
    if tensor.is_meta:
        raise InputError(f"{name} is on the meta device and has no numbers; save it from the device that computed it")
    if tensor.is_nested or tensor.layout != torch.strided:
        kind = "nested" if tensor.is_nested else " ".join(str(tensor.layout).removeprefix("torch.").split("_")).strip()
        dense = "padded with to_padded_tensor" if tensor.is_nested else "dense, with to_dense()"
        raise InputError(f"{name} is a {kind} tensor; save it {dense}")
    return tensor.dequantize() if tensor.is_quantized else tensor.resolve_conj().resolve_neg()


def from_numpy(array: np.ndarray[Any, Any], name: str) -> Tensor:
    """A numpy array as a tensor, in its memory.

    Raises:
        InputError: it holds no numbers that torch knows.
    """
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    if array.dtype.name == "bfloat16":  # ml_dtypes', which numpy has no word for
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of memory that can't be written, which nobody does
            return torch.from_numpy(array)
    except TypeError as error:
        raise InputError(f"{name}: holds {array.dtype.name}, not numbers; wanted an array of numbers") from error
