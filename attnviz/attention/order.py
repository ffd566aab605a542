"""Patterns that speak of where queries and keys stand: before, near, in the same document, prefix or chunk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attnviz.attention.pattern import Item, Pattern
from attnviz.attention.reach import Reach
from attnviz.base.errors import InputError
from attnviz.base.types import Positions


def _near(item: Item, low: int | None, high: int | None, step: int = 1) -> Reach:
    """The keys that stand ``low`` to ``high`` positions after each query, in its own document; None is any."""
    offset, within = item.offset, _within(item)
    if offset is not None:
        first, last = (None if end is None else offset + end for end in (low, high))
        return Reach(first, last, step, offset if step > 1 else 0) & within
    own = item.own_keys
    if own is None:
        return Reach(band_exact=False) & within
    nearest = None if low is None else own + low
    stop = None if high is None else own + high + 1
    return _bounded(item, nearest, stop, exact=step == 1) & within


def _bounded(item: Item, first: Positions | None, stop: Positions | None, *, exact: bool = True) -> Reach:
    """The keys from ``first`` to ``stop`` - 1 of each query's own, (T,)."""
    S = item.sizes[3]
    first, stop = (None if bounds is None else bounds.clip(0, S) for bounds in (first, stop))
    return Reach(band_exact=exact, first=first, stop=stop)


def _within(item: Item) -> Reach:
    """The keys of each query's document; all, where there are no documents."""
    bounds = item.document_bounds
    return Reach() if bounds is None else Reach(band_exact=bounds[2], first=bounds[0], stop=bounds[1])


def _together(seen: Tensor, t: Tensor, s: Tensor, item: Item) -> Tensor:
    """What of ``seen`` lies within one document: patterns of order never reach into another."""
    together = item.together(t, s)
    return seen if together is None else seen & together


@dataclass(frozen=True)
class Causal(Pattern):
    """A query sees itself and what came before: ``p(s) <= p(t)``, by default ``s <= t + S - T``.

    >>> import attnviz
    >>> str(attnviz.Causal()), str(attnviz.Local(2) & attnviz.Causal())
    ('causal', 'local, window 2, causal')
    """

    name = "causal"
    limits = True

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        return _together(item.key_position(s) <= item.query_position(t), t, s, item)

    def reach(self, item: Item) -> Reach:
        return _near(item, None, 0)

    def __str__(self) -> str:
        return "causal"


@dataclass(frozen=True)
class Local(Pattern):
    """A query sees ``window`` keys to each side of its position, ``|p(s) - p(t)| <= window * dilation``, in steps of ``dilation``.

    >>> import attnviz
    >>> str(attnviz.Local(64, dilation=2) | attnviz.GlobalKeys())
    'local, window 64, dilation 2 + global'
    """

    name = "local"
    window: int
    dilation: int = 1
    reason = "window"

    def __post_init__(self) -> None:
        if self.window < 0 or self.dilation < 1:
            raise InputError(f"a window is 0 or more and a dilation 1 or more; given {self.window} and {self.dilation}")
        if self.window * self.dilation >= 2**62:  # beyond what positions are counted in
            raise InputError(
                f"a window of {self.window} keys in steps of {self.dilation} is too wide; all is --pattern full"
            )

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        distance = item.key_position(s) - item.query_position(t)
        near = (distance.abs() <= self.window * self.dilation) & (distance % self.dilation == 0)
        return _together(near, t, s, item)

    def reach(self, item: Item) -> Reach:
        width = self.window * self.dilation
        return _near(item, -width, width, self.dilation)

    def __str__(self) -> str:
        return f"local, window {self.window}" + (f", dilation {self.dilation}" if self.dilation > 1 else "")


@dataclass(frozen=True)
class Documents(Pattern):
    """A query sees its own document: several of them packed into one row, as the inputs' ``documents`` say.

    >>> import attnviz
    >>> inputs = attnviz.AttentionInputs([[[1.0]] * 4], [[[1.0]] * 4], documents=[0, 0, 1, 1], pattern=attnviz.Documents())
    >>> attnviz.score(inputs).weights.sum().item()
    4.0
    """

    name = "documents"
    limits = True
    reason = "document"

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        together = item.together(t, s)
        if together is None:
            raise _no_documents(item)
        return together

    def reach(self, item: Item) -> Reach:
        if item.document_bounds is None:
            raise _no_documents(item)
        return _within(item)

    def __str__(self) -> str:
        return "documents"


def _no_documents(item: Item) -> InputError:
    return InputError(
        f"{item.source}: there are no documents; name which one each key is of (--documents NAME) or give their lengths "
        f"(--documents 6,10)"
    )


@dataclass(frozen=True)
class Prefix(Pattern):
    """A query sees the first ``n`` positions, and what came before itself: ``p(s) < n`` or ``p(s) <= p(t)``.

    Args:
        n: how many, or one for each batch item.

    >>> import attnviz
    >>> str(attnviz.Prefix(3))
    'prefix of 3'
    """

    name = "prefix"
    n: int | tuple[int, ...]

    def __post_init__(self) -> None:
        each = self.n if isinstance(self.n, list | tuple) else (self.n,)
        if not each or not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**53 for n in each):
            raise InputError(f"a prefix is of 0 or more positions, one number or one a batch item; given {self.n}")
        if isinstance(self.n, list):
            object.__setattr__(self, "n", tuple(self.n))

    def of(self, item: Item) -> int:
        """The prefix of a batch item. Raises InputError where there is none for it."""
        if isinstance(self.n, int):
            return self.n
        if len(self.n) != item.sizes[0]:
            raise InputError(
                f"{item.source}: the prefix pattern has {len(self.n)} numbers, one a batch item, and there are "
                f"{item.sizes[0]} items"
            )
        return self.n[item.batch]

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        return _InPrefix(self).visible(t, s, item) | Causal().visible(t, s, item)

    def reach(self, item: Item) -> Reach:
        _ = item.offset  # raises where there is no order
        own, n, within = item.own_keys, self.of(item), _within(item)
        if own is None:
            return Reach(band_exact=False) & within
        ahead = np.maximum(n - _positions(item), 1)  # how far the last visible key + 1 is from the query's own
        return _bounded(item, None, own + ahead) & within

    def reasons(self) -> list[tuple[str, Pattern]]:
        return [("prefix", _InPrefix(self)), *Causal().reasons()]

    def __str__(self) -> str:
        return f"prefix of {self.n if isinstance(self.n, int) else '/'.join(map(str, self.n))}"


@dataclass(frozen=True)
class _InPrefix(Pattern):
    """The first positions alone, those of a :class:`Prefix`."""

    whole: Prefix
    reason = "prefix"

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        inside = item.key_position(s) < self.whole.of(item)
        return _together(inside.expand(np.broadcast_shapes(t.shape, s.shape)), t, s, item)

    def reach(self, item: Item) -> Reach:
        own, within = item.own_keys, _within(item)
        if own is None:
            return Reach(band_exact=False) & within
        return _bounded(item, None, own + (self.whole.of(item) - _positions(item))) & within


@dataclass(frozen=True)
class Chunked(Pattern):
    """A query sees the positions of its own chunk of ``size``: ``p(s) // size == p(t) // size``; with causal, Llama 4's.

    >>> import attnviz
    >>> str(attnviz.Chunked(8192) & attnviz.Causal())
    'chunks of 8192, causal'
    """

    name = "chunked"
    size: int
    reason = "chunk"

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or isinstance(self.size, bool) or not 1 <= self.size < 2**53:
            raise InputError(f"a chunk has 1 or more positions; given {self.size}")

    def visible(self, t: Tensor, s: Tensor, item: Item) -> Tensor:
        own, of_key = (
            torch.div(positions, self.size, rounding_mode="floor")
            for positions in (item.query_position(t), item.key_position(s))
        )
        return _together(own == of_key, t, s, item)

    def reach(self, item: Item) -> Reach:
        _ = item.offset  # raises where there is no order
        own, within = item.own_keys, _within(item)
        if own is None:
            return Reach(band_exact=False) & within
        first = own - _positions(item) % self.size
        return _bounded(item, first, first + self.size) & within

    def __str__(self) -> str:
        return f"chunks of {self.size}"


def _positions(item: Item) -> Positions:
    """Where each query stands, (T,)."""
    found: Positions = item.query_position(torch.arange(item.sizes[2])).cpu().numpy()
    return found
