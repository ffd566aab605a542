"""Arrays as a page holds them: quantized, packed, compressed where that is smaller, one after another in chunks."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Blob = dict[str, Any]
"""Where an array lies and how it is written, as the page's JSON has it."""

ZERO = {"q12": 1 << 11, "q16": 1 << 15}
"""The code of 0; codes reach as far to both sides of it as there are bits for."""


@dataclass
class Chunk:
    """Bytes of a page that are decoded together.

    >>> chunk = Chunk(0)
    >>> chunk.floats(np.zeros((2, 3)))["shape"], len(chunk.data)
    ([2, 3], 11)
    """

    index: int
    data: bytearray = field(default_factory=bytearray)

    def floats(self, values: Array) -> Blob:
        """Values as ``f16`` where that is exact, else as ``f32``."""
        half = values.astype("<f2") if values.dtype == np.float16 else None
        return self._add("f32" if half is None else "f16", values.shape, values.astype("<f4") if half is None else half)

    def codes(self, dtype: str, codes: Array, steps: Array) -> Blob:
        """What :func:`quantize` made: codes (..., D) and a step for each row, (...)."""
        packed = pack12(codes) if dtype == "q12" else codes.astype("<u2")
        return self._add(dtype, codes.shape, packed) | {"steps": self.floats(steps)}

    def bits(self, shape: tuple[int, ...], packed: Array) -> Blob:
        """Flags that are packed already, least significant bit first."""
        return self._add("bits", shape, packed)

    def flags(self, values: Array) -> Blob:
        """Flags, bool of any shape."""
        return self.bits(values.shape, np.packbits(values, bitorder="little"))

    def cells(self, maps: Array, dtype: str) -> Blob:
        """Cells of maps, (H, P, P'), NaN where nothing is visible, as ``u8map`` or ``u16map``."""
        most, integer = (254, "u1") if dtype == "u8map" else (65534, "<u2")
        blank = np.isnan(maps)
        tops = np.where(blank, 0, maps).max(axis=(1, 2)).astype(np.float64)
        scaled = np.where(blank, 0, maps) * (most / np.where(tops > 0, tops, 1))[:, None, None]
        codes = np.where(blank, 0, np.rint(scaled) + 1).astype(integer)
        return self._add(dtype, maps.shape, codes) | {"tops": tops.tolist()}

    def _add(self, dtype: str, shape: tuple[int, ...], values: Array) -> Blob:
        raw = np.ascontiguousarray(values).tobytes()
        small = zlib.compress(raw, 6 if dtype in ("bits", "u8map") else 1)  # of noise, more work finds no more
        deflate = len(small) < 0.97 * len(raw)  # what hardly shrinks opens sooner as it is
        content = small if deflate else raw
        offset = len(self.data)
        self.data += content
        return {
            "chunk": self.index,
            "offset": offset,
            "length": len(content),
            "deflate": deflate,
            "dtype": dtype,
            "shape": list(shape),
        }


def quantize(values: Array, dtype: str) -> tuple[Array, Array]:
    """Symmetric codes of ``values``, (..., D), and the step of each row, (...) float32: value = (code - zero) * step.

    >>> codes, steps = quantize(np.array([[0.0, -2.0, 1.0]]), "q12")
    >>> codes.tolist()
    [[2048, 1, 3072]]
    """
    zero = ZERO[dtype]
    steps = (np.abs(values).max(axis=-1) / (zero - 1)).astype(np.float32)
    # A row of zeros, or of numbers too small for a step of their own, is zeros.
    codes = np.rint(values / np.where(steps > 0, steps, np.inf)[..., None]) + zero
    return codes.clip(1, 2 * zero - 1).astype(np.uint16), steps


def dequantize(codes: Array, steps: Array, dtype: str) -> Array:
    """The float32 values that the page reads from codes."""
    values: Array = (codes.astype(np.float32) - np.float32(ZERO[dtype])) * steps[..., None]
    return values


def pack12(codes: Array) -> Array:
    """Two codes of 12 bits in three bytes; an odd end is padded with the code of 0.

    >>> pack12(np.array([0xABC, 0x123])).tolist()
    [[188, 58, 18]]
    """
    flat = codes.reshape(-1)
    if len(flat) % 2:
        flat = np.append(flat, ZERO["q12"])
    a, b = flat[0::2].astype(np.uint16), flat[1::2].astype(np.uint16)
    packed = np.empty((len(a), 3), dtype=np.uint8)
    packed[:, 0] = a & 255
    packed[:, 1] = (a >> 8) | ((b & 15) << 4)
    packed[:, 2] = b >> 4
    return packed
