"""Files written as their tensors come, or parts of tensors, so that no more than one of them is in memory.

The format of ``.safetensors`` puts a JSON header, padded with spaces as one likes, before the data. Space for it is kept at the start
and filled in at the end.
"""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

import numpy as np

from attnviz.base.errors import InputError
from attnviz.base.words import json_text
from attnviz.base.writing import atomic
from attnviz.sources.files import METADATA

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "uint8": "U8",
    "bool": "BOOL",
}


@dataclass(frozen=True)
class Parts:
    """A tensor that is written in parts.

    Args:
        shape: of all of it.
        dtype: of its numbers.
        parts: makes the parts, whose numbers follow each other.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    parts: Callable[[], Iterable[Tensor]]

    @classmethod
    def of(cls, tensor: Tensor) -> Parts:
        """A tensor in one part."""
        return cls(tuple(tensor.shape), tensor.dtype, lambda: [tensor])

    @property
    def bytes(self) -> int:
        """What all of it takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def data(self) -> Iterator[memoryview]:
        """The bytes of the parts."""
        import torch

        for part in self.parts():
            whole = part.detach().cpu().contiguous().reshape(-1)
            yield whole.view(torch.uint8).numpy().data


def write_parts(path: Path, tensors: Mapping[str, Parts], metadata: Mapping[str, Any]) -> None:
    """Writes tensors in parts, with ``metadata`` as attnviz's own: ``.safetensors`` or ``.npz``.

    Raises:
        InputError: an unknown suffix, or a path that cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in (".safetensors", ".npz"):
        raise InputError(f"{path}: unknown suffix {path.suffix!r}; write .safetensors or .npz")
    with atomic(path) as temporary:
        if suffix == ".npz":
            _write_npz(temporary, tensors, metadata)
            return
        stream = TensorStream(temporary)
        try:
            for name, parts in tensors.items():
                stream.add_parts(name, parts)
            stream.close(metadata)
        finally:
            stream.abandon()


def _write_npz(path: Path, tensors: Mapping[str, Parts], metadata: Mapping[str, Any]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:

        def member(name: str) -> IO[bytes]:
            return archive.open(f"{name}.npy", "w", force_zip64=True)

        for name, parts in tensors.items():
            described = {"descr": _NUMPY[_name(parts.dtype)], "fortran_order": False, "shape": parts.shape}
            with member(name) as stream:
                np.lib.format.write_array_header_1_0(stream, described)
                for data in parts.data():
                    stream.write(data)
        with member(METADATA) as stream:
            np.lib.format.write_array(stream, np.array(json_text(metadata, spaced=True)))


_NUMPY = {"float32": "<f4", "float64": "<f8", "int64": "<i8"}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class TensorStream:
    """Tensors going into a file one after another.

    Args:
        path: the file, created or written over.
        reserve: bytes to keep for the header; where that turns out too few, the data is moved once, at the end.
    """

    def __init__(self, path: Path, *, reserve: int = 4096) -> None:
        self.path = path
        self._start = 8 + reserve + -reserve % 8
        self._header: dict[str, Any] = {}
        self._size = 0
        self._stream: BinaryIO = path.open("wb")
        self._stream.seek(self._start)

    def add(self, name: str, tensor: Tensor) -> None:
        """Writes a tensor."""
        self.add_parts(name, Parts.of(tensor))

    def add_parts(self, name: str, parts: Parts) -> None:
        """Writes a tensor part by part."""
        self._header[name] = {
            "dtype": _CODES[_name(parts.dtype)],
            "shape": list(parts.shape),
            "data_offsets": [self._size, self._size + parts.bytes],
        }
        for data in parts.data():
            self._stream.write(data)
        self._size += parts.bytes

    def close(self, metadata: Mapping[str, Any]) -> None:
        """Writes the header, with ``metadata`` as attnviz's own."""
        text = json.dumps({"__metadata__": {METADATA: json_text(metadata, spaced=True)}, **self._header})
        header = text.encode()
        if len(header) <= self._start - 8:
            self._stream.seek(0)
            self._stream.write(_padded(header, self._start - 8))
            self._stream.close()
            return
        self._stream.close()
        moved = self.path.with_name(self.path.name + ".data")
        self.path.replace(moved)
        try:
            with moved.open("rb") as source, self.path.open("wb") as target:
                target.write(_padded(header, len(header) + -len(header) % 8))
                source.seek(self._start)
                shutil.copyfileobj(source, target, 1 << 24)
        finally:
            moved.unlink()

    def abandon(self) -> None:
        """Closes the file as it is."""
        self._stream.close()


def _padded(header: bytes, size: int) -> bytes:
    return size.to_bytes(8, "little") + header.ljust(size)
