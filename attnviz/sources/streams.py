"""A ``.safetensors`` file written as its tensors come, so that no more than one of them is in memory.

The format puts a JSON header, padded with spaces as one likes, before the data. Space for it is kept at the start
and filled in at the end.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from attnviz.sources.files import METADATA

if TYPE_CHECKING:
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
        import torch

        tensor = tensor.detach().cpu().contiguous()
        size = math.prod(tensor.shape) * tensor.element_size()
        self._header[name] = {
            "dtype": _CODES[str(tensor.dtype).removeprefix("torch.")],
            "shape": list(tensor.shape),
            "data_offsets": [self._size, self._size + size],
        }
        self._stream.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
        self._size += size

    def close(self, metadata: Mapping[str, Any]) -> None:
        """Writes the header, with ``metadata`` as attnviz's own."""
        text = json.dumps({"__metadata__": {METADATA: json.dumps(metadata, ensure_ascii=False)}, **self._header})
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
