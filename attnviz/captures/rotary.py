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

PRODUCTS = frozenset((torch.mul, torch.multiply, Tensor.mul, Tensor.multiply))
"""What multiplies, as it is heard."""

_PLAIN = frozenset((Tensor, Parameter))
"""Tensors that are of no kind of their own."""

_MOST = 8
"""Products before a call that are looked at: of q and of k two each, or four where halves are multiplied apart."""

_ROWS = 4
"""Queries that are held against the kernel's."""

_TYPICAL = 64
"""Positions of which some that say what is typical are enough."""

_TURNS = 0.1
"""Radians: where nothing turns by more, every layout fits."""

_TOLD = 1e-3
"""How far off, as a share of itself, a frequency may be that is said."""


@dataclass(frozen=True, eq=False)
class _Product:
    """A vector of each head and position by a factor of each position.

    Args:
        vector: that of some positions of a batch item, (H, rows, n).
        by: the factor as it was given, which broadcasts to (B, H, T, n) or (B, T, H, n).
        axis: which of these dimensions are positions.
    """

    vector: Tensor
    by: Tensor
    axis: int

    @property
    def sizes(self) -> tuple[int, int]:
        """T and n."""
        return self.by.shape[self.axis - 4], self.by.shape[-1]

    @property
    def factor(self) -> Tensor:
        """That of a batch item, (T, n)."""
        return self.by.detach()[(None,) * (4 - self.by.ndim)][0].select(2 - self.axis, 0)


@dataclass(frozen=True, eq=False)
class _Way:
    """A way in which products can be of one rotation.

    Args:
        layout: which dimensions are a pair.
        products: a complex vector by phasors; or a vector by its cosines and itself turned by its sines; or two parts, each by its own.
        in_parts: whether the last.
    """

    layout: str
    products: tuple[_Product, ...]
    in_parts: bool = False

    @property
    def vectors(self) -> Tensor:
        """What was turned, (H, rows, n) complex."""
        one, *others = (product.vector for product in self.products)
        if one.is_complex():
            return one
        real, imaginary = (one, *others) if self.in_parts else _parts(one, self.layout)
        return torch.complex(real.float(), imaginary.float())

    def phasors(self, rows: slice = slice(None)) -> Tensor:
        """By what, of some positions, (rows, n) complex."""
        cosines, *sines = (one.factor[rows] for one in self.products)
        if cosines.is_complex():
            return cosines
        real, imaginary = (one if self.in_parts else _parts(one, self.layout)[0] for one in (cosines, *sines))
        return torch.complex(real.float(), imaginary.float())


@dataclass(frozen=True, eq=False)
class _Turned:
    """How a call's queries or keys were turned.

    Args:
        way: by which products.
        first: the first dimension that turns.
        some: phasors of some positions, (rows, n).
    """

    way: _Way
    first: int
    some: Tensor

    def like(self, other: _Turned) -> bool:
        """Whether others were turned so."""
        if (self.way.layout, self.first) != (other.way.layout, other.first):
            return False
        return _equal(self.way.phasors(), other.way.phasors())


class _Known:
    """A turning that was found, by numbers that a model mostly gives to all of its layers.

    Args:
        turned: what was found.
        rotary: what is said of it.
    """

    def __init__(self, turned: _Turned, rotary: Rotary | None) -> None:
        self.turned, self.rotary = turned, rotary
        self._phasors: list[complex] = turned.some[-1].tolist()
        way = turned.way  # of a vector and itself turned, the second says nothing more
        self._factors = way.products if way.in_parts else way.products[:1]
        self._places = [_place(one.by, one.axis) for one in self._factors]
        self.vectors: list[list[float | complex]] = []  # of the latest products by these, at one position of one head

    def heard(self, vector: Tensor, by: Tensor, axis: int) -> bool:
        """Takes in a product of a vector, where it is by these."""
        if _place(by, axis) not in self._places:
            return False
        at = _rows(by.shape[axis - 4]).stop - 1
        self.vectors.append(vector.detach()[(0, at, 0) if axis == 1 else (0, 0, at)].tolist())
        return True

    def gives(self, seen: Tensor, T: int) -> bool:
        """Whether one of these, turned, is what the kernel saw, (B, H, S, D), of the last ``T`` positions."""
        row: list[float] = seen.detach()[0, 0, _rows(T).stop - 1 - T].tolist()
        n, each, layout = len(self._phasors), len(self._factors), self.turned.way.layout
        there = _pairs(row[self.turned.first : self.turned.first + 2 * n], layout)
        near = _near(seen.dtype) * max(map(abs, row))
        if len(there) != n:
            return False
        for place in range(0, len(self.vectors) - each + 1, each):
            one, *others = self.vectors[place : place + each]
            vector = [*map(complex, one, *others)] if others or len(one) == n else _pairs(one, layout)
            made = [x * by for x, by in zip(vector, self._phasors, strict=True)]
            size = sum((x.conjugate() * y).real for x, y in zip(made, there, strict=True))
            size /= sum(abs(x) ** 2 for x in made) or 1.0
            if size > 0 and all(abs(y - size * x) <= near for x, y in zip(made, there, strict=True)):
                return True
        return False


class Turning:
    """The latest products of a model that may have turned its queries and keys."""

    def __init__(self) -> None:
        self._products: deque[_Product] = deque(maxlen=_MOST)
        self._known: deque[_Known] = deque(maxlen=4)  # windows can have frequencies of their own

    def heard(self, args: Sequence[Any]) -> None:
        """Takes in what was multiplied, where that may be a vector of each head and position and a factor of each position."""
        if len(args) != 2 or not all(type(one) in _PLAIN for one in args) or 4 not in (args[0].ndim, args[1].ndim):
            return
        if not all(map(_is_plain, args)):
            return
        vector, by = args if args[0].numel() >= args[1].numel() else args[::-1]
        if vector.ndim != 4 or not 1 < by.ndim <= 4 or not (vector.is_floating_point() or vector.is_complex()):
            return
        sizes = (*(1,) * (4 - by.ndim), *by.shape)
        for axis in (1, 2):  # of positions
            if not (sizes[axis] == vector.shape[axis] > 1 and sizes[3] == vector.shape[3]):
                continue
            if not any(known.heard(vector, by, axis) for known in self._known):
                x = vector.detach()[0] if axis == 2 else vector.detach()[0].transpose(0, 1)
                some = x[:, _rows(sizes[axis])].clone()  # a model may write into its own
                self._products.append(_Product(some, by, axis))

    def of(self, q: Tensor, k: Tensor, known: Iterable[Tensor]) -> Rotary | None:
        """How a call's queries (B, H, T, D) and keys were turned, where that is seen and is the same; forgets the products.

        Args:
            q, k: what the kernel saw.
            known: the model's buffers, some of which may be frequencies, known better than a cosine tells them.
        """
        try:
            if k.shape[2] < q.shape[2]:
                return None
            again = next((one for one in self._known if one.vectors), None)
            if again is not None and again.gives(q, q.shape[2]) and again.gives(k, q.shape[2]):
                return again.rotary
            return self._found(q, k, known)
        finally:
            self._products.clear()
            for one in self._known:
                one.vectors.clear()

    def _found(self, q: Tensor, k: Tensor, known: Iterable[Tensor]) -> Rotary | None:
        """How they were turned, found among the products."""
        T = q.shape[2]
        products = [one for one in self._products if one.sizes[0] == T]
        if not products:
            return None
        turned = _turned(_ways(products), q)  # most models turn q and then k
        of_keys = None if turned is None else _turned(_ways(products, backwards=True), k[:, :, -T:])
        if turned is None or of_keys is None or not of_keys.like(turned):
            return None
        frequencies = _frequencies(turned.way.phasors(), known)
        rotary = None if frequencies is None else Rotary(turned.way.layout, frequencies, turned.first)
        self._known.append(_Known(turned, rotary))
        return rotary


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is a tensor whose parts can be looked at."""
    return tensor.layout == torch.strided and not tensor.is_nested and tensor.numel() > 0


def _equal(a: Tensor, b: Tensor) -> bool:
    return (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device) and a.equal(b)


def _place(by: Tensor, axis: int) -> object:
    """Where a factor lies, and how often that was written to: what is the same there is the same."""
    version = object() if by.is_inference() else by._version
    return by.data_ptr(), by.dtype, by.shape, by.stride(), axis, version


def _near(dtype: torch.dtype) -> float:
    """How far apart the same vectors may be by rounding, in its largest number."""
    return 6 * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)


def _pairs(row: Sequence[float | complex], layout: str) -> list[complex]:
    """The pairs of a vector as complex numbers."""
    half = len(row) // 2
    return [*map(complex, row[:half], row[half:])] if layout == "halves" else [*map(complex, row[0::2], row[1::2])]


def _rows(T: int) -> slice:
    """The positions whose vectors are looked at: some, the first among them."""
    step = max(1, (T - 1) // (_ROWS - 1))
    return slice(0, step * (_ROWS - 1) + 1, step)


def _turned(ways: Iterable[_Way], seen: Tensor) -> _Turned | None:
    """Of some ways in which products can be of one rotation, that which gives what the kernel saw, (B, H, T, D)."""
    _, H, T, D = seen.shape
    rows = _rows(T)
    held = seen.detach()[0, :, rows].float()  # (H, rows, D)
    near = _near(seen.dtype) * float(held.abs().amax())
    for way in ways:
        some, vectors = way.phasors(rows), way.vectors
        n = some.shape[-1]
        if 2 * n > D or len(vectors) not in (1, H):
            continue
        made = vectors * some  # (H or 1, rows, n)
        for first in dict.fromkeys((0, D - 2 * n)):
            there = torch.complex(*_parts(held[..., first : first + 2 * n], way.layout))
            if _is_along(there, made, near) and float(some.angle().abs().amax()) > _TURNS:
                return _Turned(way, first, some)
    return None


def _is_along(there: Tensor, made: Tensor, near: float) -> bool:
    """Whether vectors are these, or in their direction: a model may norm what it turned."""
    size = torch.linalg.vecdot(made, there).real / torch.linalg.vecdot(made, made).real
    return bool((size > 0).all()) and bool(((there - size[..., None] * made).abs() <= near).all())


def _ways(products: Sequence[_Product], *, backwards: bool = False) -> Iterator[_Way]:
    """Each way in which products can be of one rotation."""
    places = range(len(products))
    for place in places[::-1] if backwards else places:
        one = products[place]
        if one.vector.is_complex():
            yield _Way("interleaved", (one,))
            continue
        for other in products[place + 1 : place + 4]:
            if (one.vector.shape, one.sizes) != (other.vector.shape, other.sizes) or other.vector.is_complex():
                continue
            for layout in LAYOUTS:
                if one.sizes[1] % 2 == 0:
                    yield _Way(layout, (one, other))
                yield _Way(layout, (one, other), in_parts=True)


def _parts(x: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """The first and the second of each pair."""
    half = x.shape[-1] // 2
    return (x[..., :half], x[..., half:]) if layout == "halves" else (x[..., 0::2], x[..., 1::2])


def _frequencies(phasors: Tensor, known: Iterable[Tensor]) -> list[float | None] | None:
    """The angles of pairs, in radians a position, of phasors (T, n); None where positions don't follow each other in steps of 1."""
    z = phasors.to(torch.complex128).cpu()
    z = z / z.abs().clamp_min(1e-12)
    steps = z[1:] * z[:-1].conj()
    some = steps[:: max(1, len(steps) // _TYPICAL)]
    typical = torch.complex(some.real.median(0).values, some.imag.median(0).values)
    run = _longest((steps - typical).abs().amax(1) < 0.1)
    if len(run) * 2 < len(steps):
        return None
    z, off = z[run.start : run.stop + 1], _rounding(phasors)
    for one in known:
        if one.shape == typical.shape and one.is_floating_point() and _turn_by(z, one.double().cpu(), off):
            exact: list[float | None] = one.double().tolist()
            return exact
    lag, found = 1, typical.angle()
    while True:
        turned = (z[lag:] * z[:-lag].conj()).sum(0).angle()
        found = (turned + 2 * torch.pi * ((found * lag - turned) / (2 * torch.pi)).round()) / lag
        if 2 * lag > len(run):
            break
        lag *= 2
    by = off / lag + 1e-6 * found.abs()
    return [_sure(f, within) for f, within in zip(found.tolist(), by.tolist(), strict=True)]


def _turn_by(z: Tensor, frequencies: Tensor, off: float) -> bool:
    """Whether phasors (T, n) of positions that follow each other turn by these, (n,), as far as they are off by rounding."""
    angles = torch.arange(len(z))[:, None] * frequencies
    within = 4 * (off + 1e-6 * angles.abs())  # angles far from 0 are rounded too
    return bool(((z - z[:1] * torch.polar(torch.ones_like(angles), angles)).abs() <= within).all())


def _sure(value: float, within: float) -> float | None:
    """The digits of a number that are sure; None where they are too few."""
    if not within <= _TOLD * abs(value):
        return None
    return float(f"{value:.{int(math.log10(abs(value) / within))}g}")


def _rounding(phasors: Tensor) -> float:
    """How far an angle may be off: by the rounding of what a model multiplied with."""
    parts = torch.view_as_real(phasors[:_TYPICAL])
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
