"""What turned a model's queries and keys: of the products that it made just before, those by a cosine and a sine of each position
that give the very queries and keys which its kernel saw."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from attnviz.attention.rotary import LAYOUTS, Rotary

PRODUCTS = (torch.mul, torch.multiply, Tensor.mul, Tensor.multiply)
"""What multiplies, as it is heard."""

_MOST = 8
"""Products before a call that are looked at: of q and of k two each, or four where halves are multiplied apart."""

_ROWS = 4
"""Queries that are held against the kernel's."""

_TURNS = 0.1
"""Radians: where nothing turns by more, every layout fits."""

_TOLD = 1e-3
"""How far off, as a share of itself, a frequency may be that is said."""


@dataclass(frozen=True)
class _Product:
    """A vector of each head and position by a factor of each position, of a batch item: both (..., n)."""

    vector: Tensor  # (H, rows, n), of some positions
    factor: Tensor  # (T, n)


class Turning:
    """The latest products of a model that may have turned its queries and keys."""

    def __init__(self) -> None:
        self._products: deque[_Product] = deque(maxlen=_MOST)

    def heard(self, args: Sequence[Any]) -> None:
        """Takes in what was multiplied, where that may be a vector of each head and position and a factor of each position."""
        if len(args) != 2 or not all(_is_plain(one) for one in args):
            return
        vector, factor = args if args[0].numel() >= args[1].numel() else args[::-1]
        if vector.ndim != 4 or not 1 < factor.ndim <= 4 or not vector.dtype.is_floating_point | vector.is_complex():
            return
        factor = factor.detach()[(None,) * (4 - factor.ndim)]
        for axis in (1, 2):  # of positions
            if factor.shape[axis] == vector.shape[axis] > 1 and factor.shape[3] == vector.shape[3]:
                rows = _rows(vector.shape[axis]).to(vector.device)
                x, by = vector.detach()[0].index_select(axis - 1, rows), factor[0].select(2 - axis, 0)
                x = x if axis == 2 else x.transpose(0, 1)
                self._products.append(_Product(*((x, by) if x.is_complex() else (x.float(), by.float()))))

    def of(self, q: Tensor, k: Tensor, known: Iterable[Tensor]) -> Rotary | None:
        """How a call's queries (B, H, T, D) and keys were turned, where that is seen and is the same; forgets the products.

        Args:
            q, k: what the kernel saw.
            known: the model's buffers, some of which may be frequencies, known better than a cosine tells them.
        """
        products = [*self._products]
        self._products.clear()
        T = q.shape[2]
        if not products or k.shape[2] < T:
            return None
        turned, of_keys = (_turned(products, one) for one in (q, k[:, :, -T:]))
        if turned is None or of_keys is None or turned[:2] != of_keys[:2] or not turned[2].equal(of_keys[2]):
            return None
        layout, first, phasors = turned
        frequencies = _frequencies(phasors, known)
        return None if frequencies is None else Rotary(layout, frequencies, first)


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor whose parts can be looked at: of no kind of its own, and not empty."""
    return (
        type(value) in (Tensor, Parameter)
        and value.layout == torch.strided
        and not value.is_nested
        and value.numel() > 0
    )


def _rows(T: int) -> Tensor:
    """The positions whose vectors are looked at: some, the first and the last among them."""
    return torch.arange(_ROWS) * (T - 1) // (_ROWS - 1)


def _turned(products: list[_Product], seen: Tensor) -> tuple[str, int, Tensor] | None:
    """The layout, the first dimension that turns and the phasors (T, n) of what gives ``seen``, (B, H, T, D)."""
    _, H, T, D = seen.shape
    rows = _rows(T).to(seen.device)
    held = seen[0, :, rows].float()  # (H, rows, D)
    near = 4 * max(torch.finfo(seen.dtype).eps, torch.finfo(torch.float32).eps) * float(held.abs().amax())
    for layout, vectors, phasors in _candidates([one for one in products if len(one.factor) == T]):
        made = torch.view_as_real(vectors * phasors[rows])  # (H or 1, rows, n, 2)
        flat = made.flatten(-2) if layout == "interleaved" else made.transpose(-1, -2).flatten(-2)
        if flat.shape[-1] > D or len(flat) not in (1, H) or not float(phasors[rows].angle().abs().amax()) > _TURNS:
            continue
        for first in {0, D - flat.shape[-1]}:
            there = held[..., first : first + flat.shape[-1]]
            size = (there * flat).sum(-1, keepdim=True) / (flat * flat).sum(
                -1, keepdim=True
            )  # of what was normed since
            if bool(((there - size * flat).abs() <= near).all()) and bool((size > 0).all()):
                return layout, first, phasors
    return None


def _candidates(products: list[_Product]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each way in which products can be of one rotation: its layout, complex vectors (H, rows, n) and phasors (T, n)."""
    for place, one in enumerate(products):
        if one.vector.is_complex():
            yield "interleaved", one.vector, one.factor
            continue
        for other in products[place + 1 : place + 4]:
            if other.vector.shape != one.vector.shape or other.vector.is_complex():
                continue
            for layout in LAYOUTS:
                if one.factor.shape[1] % 2 == 0:  # a vector by its cosines, itself turned by its sines
                    cosine, sine = (_parts(by, layout)[0] for by in (one.factor, other.factor))
                    yield layout, torch.complex(*_parts(one.vector, layout)), torch.complex(cosine, sine)
                # its two parts, each by its own
                yield layout, torch.complex(one.vector, other.vector), torch.complex(one.factor, other.factor)


def _parts(x: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """The first and the second of each pair."""
    first, second = x.chunk(2, -1) if layout == "halves" else (x[..., 0::2], x[..., 1::2])
    return first.contiguous(), second.contiguous()


def _frequencies(phasors: Tensor, known: Iterable[Tensor]) -> list[float | None] | None:
    """The angles of pairs, in radians a position, of phasors (T, n); None where positions don't follow each other in steps of 1."""
    z = phasors.to(torch.complex128).cpu()
    z = z / z.abs().clamp_min(1e-12)
    steps = z[1:] * z[:-1].conj()
    typical = torch.complex(steps.real.median(0).values, steps.imag.median(0).values)
    run = _longest((steps - typical).abs().amax(1) < 0.1)
    if len(run) * 2 < len(steps):
        return None
    z, off = z[run.start : run.stop + 1], _rounding(phasors)
    lag, found = 1, typical.angle()
    while True:
        turned = (z[lag:] * z[:-lag].conj()).sum(0).angle()
        found = (turned + 2 * torch.pi * ((found * lag - turned) / (2 * torch.pi)).round()) / lag
        if 2 * lag > len(run):
            break
        lag *= 2
    by = off / lag + 1e-6 * found.abs()  # angles far from 0 are rounded too
    for one in known:
        if one.shape == found.shape and one.is_floating_point():
            exact = one.double().cpu()
            if bool(((exact - found).abs() <= 4 * by).all()):
                return [float(f) for f in exact]
    return [_sure(f, within) for f, within in zip(found.tolist(), by.tolist(), strict=True)]


def _sure(value: float, within: float) -> float | None:
    """The digits of a number that are sure; None where they are too few."""
    if not within <= _TOLD * abs(value):
        return None
    return float(f"{value:.{int(math.log10(abs(value) / within))}g}")


def _rounding(phasors: Tensor) -> float:
    """How far an angle may be off: by the rounding of what a model multiplied with."""
    parts = torch.view_as_real(phasors)
    for dtype in (torch.bfloat16, torch.float16):  # which may have been made float32 since
        if bool((parts.to(dtype).float() == parts).all()):
            return torch.finfo(dtype).eps
    return 4 * torch.finfo(torch.float32).eps


def _longest(flags: Tensor) -> range:
    """The longest run of flags that are set."""
    best, start = range(0), 0
    for n, flag in enumerate([*flags.tolist(), False]):
        if not flag:
            best = max(best, range(start, n), key=len)
            start = n + 1
    return best
