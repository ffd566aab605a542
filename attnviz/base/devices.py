"""Where the arithmetic runs: the device and dtype a user names."""

from __future__ import annotations

import os
import re
import sys
from functools import cache

import torch

from attnviz.base.errors import InputError, not_one_of

DTYPES: dict[str, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}

WHOLE = (
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
)
"""The dtypes of whole numbers; torch has others, of packed bits, which nothing computes with."""


@cache  # which asks the kernel for a page of text
def memory_of_machine() -> int:
    """Bytes of memory that this machine has; where it doesn't say, as many as there can be."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize


def parse_device(name: str | torch.device) -> torch.device:
    """The torch device that ``name`` asks for.

    Args:
        name: ``auto`` (CUDA, then MPS, then CPU, the first there is), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        InputError: not a device, or one that this machine does not have.
    """
    if isinstance(name, torch.device):
        return name
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", name):
        raise InputError(f"--device {name!r} is not a device; choose auto, cpu, cuda, cuda:N or mps")
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    if name == "mps" and not has_mps:
        raise InputError("--device mps: this machine has no MPS device that torch can use; choose cpu or auto")
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = int(name.partition(":")[2] or 0)
        if index >= count:
            found = f"only {count}" if count else "none"
            raise InputError(f"--device {name}: torch {torch.__version__} finds {found} here; choose cpu or auto")
    return torch.device(name)


def is_real(tensor: torch.Tensor) -> bool:
    """Whether a tensor's numbers can be computed with: of one of :data:`DTYPES`, not of 8 bits, whole or complex.

    >>> is_real(torch.zeros(1)), is_real(torch.zeros(1, dtype=torch.float8_e4m3fn)), is_real(torch.zeros(1, dtype=torch.int64))
    (True, False, False)
    """
    return tensor.dtype in DTYPES.values()


def whole(tensor: torch.Tensor) -> torch.Tensor | None:
    """A tensor's whole numbers as int64; None where they are none, flags, packed bits, or beyond int64.

    >>> whole(torch.tensor([3], dtype=torch.uint16)), whole(torch.tensor([True])), whole(torch.tensor([-1]).view(torch.uint64))
    (tensor([3]), None, None)
    """
    if tensor.dtype not in WHOLE:
        return None
    numbers = tensor.to(torch.int64)
    return None if tensor.dtype == torch.uint64 and bool((numbers < 0).any()) else numbers


def parse_dtype(name: str | torch.dtype | None) -> torch.dtype | None:
    """The dtype that ``name`` asks for; None stays None (the dtype of the inputs)."""
    if name is None or isinstance(name, torch.dtype):
        return name
    if name not in DTYPES:
        raise not_one_of("--dtype", name, DTYPES)
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums run in: float32 for half types, else the dtype itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
