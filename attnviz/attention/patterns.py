"""Which query sees which key: patterns as values that compose with ``|`` and ``&``.

A pattern says two things. ``visible(t, s, item)`` is its definition, elementwise. ``reach(item)`` bounds where
that can be True (a band of offsets and a set of key positions), so that the engine touches only those keys. The
engine, figures and tables know nothing else of a pattern: a new one is one small class here.

    Local(256) | GlobalKeys() | GlobalQueries()      Longformer, arXiv:2004.05150
    Local(256) & Causal()                            a causal sliding window, as in Mistral
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from attnviz.base.errors import InputError

if TYPE_CHECKING:
    from attnviz.attention.inputs import AttentionItem


@dataclass(frozen=True)
class Reach:
    """A bound on what a pattern makes visible: a band of offsets ``s - t``, and key positions every query may see.

    The band is ``low <= s - t <= high`` where ``step`` divides ``s - t``; None leaves a side open, and
    ``band=False`` is no band. ``band_exact`` and ``keys_exact`` promise that all of that part is visible, which
    saves the engine a mask.
    """

    low: int | None = None
    high: int | None = None
    step: int = 1
    band: bool = True
    band_exact: bool = True
    keys: Tensor | None = None  # (g,) ascending
    keys_exact: bool = True

    @property
    def open(self) -> bool:
        """Whether the band has an open side, so that it can hold any number of keys."""
        return self.band and (self.low is None or self.high is None)

    def offsets(self) -> range:
        """The band's offsets ``s - t``, ascending; the band must be closed."""
        if not self.band:
            return range(0)
        assert self.low is not None
        assert self.high is not None
        return range(-(-self.low // self.step) * self.step, self.high + 1, self.step)

    def span(self, rows: range, S: int) -> range:
        """The band's key positions for the query positions ``rows``, whose step is the band's, within 0 to S - 1."""
        if not self.band:
            return range(0, 0, self.step)
        start = rows[0] % self.step if self.low is None else rows[0] - (-self.low // self.step) * self.step
        stop = S if self.high is None else min(S, rows[-1] + self.high + 1)
        start = max(start, start % self.step)
        return range(start, max(start, stop), self.step)

    def hull(self) -> Reach:
        """A band in steps of 1 that holds this reach, its shared keys among the rest."""
        return self if self.step == 1 and self.keys is None else Reach(band_exact=False)

    def __or__(self, other: Reach) -> Reach:
        keys, keys_exact = _union(self.keys, other.keys), self.keys_exact and other.keys_exact
        if not (self.band and other.band):
            one = self if self.band else other
            return Reach(one.low, one.high, one.step, one.band, one.band_exact, keys, keys_exact)
        low = None if self.low is None or other.low is None else min(self.low, other.low)
        high = None if self.high is None or other.high is None else max(self.high, other.high)
        # The hull of two bands is all visible only where they touch, in the same steps.
        apart = any(
            a.high is not None and b.low is not None and b.low > a.high + 1 for a, b in ((self, other), (other, self))
        )
        same = self.step == other.step
        exact = self.band_exact and other.band_exact and same and not apart
        return Reach(low, high, self.step if same else 1, True, exact, keys, keys_exact)

    def __and__(self, other: Reach) -> Reach:
        keys = _union(self.keys, other.keys)
        if not (self.band and other.band):
            return Reach(band=False, keys=keys, keys_exact=False)
        low = max((bound for bound in (self.low, other.low) if bound is not None), default=None)
        high = min((bound for bound in (self.high, other.high) if bound is not None), default=None)
        step = max(self.step, other.step)
        exact = self.band_exact and other.band_exact and step % min(self.step, other.step) == 0
        return Reach(low, high, step, True, exact, keys, keys is None)


class Pattern(ABC):
    """A set of visible (query, key) pairs. Softmax of a query runs over exactly the keys it sees."""

    global_queries: bool = False
    """Whether global tokens, as queries, see by their own rule and with their own projections."""

    limits: bool = False
    """Whether it says what is hidden more than what is seen: in ``a & b`` the other side gives the reasons."""

    @property
    def reason(self) -> str:
        """Why a query sees a key by this pattern, in a word or two, for legends."""
        return str(self)

    def reasons(self) -> list[tuple[str, Pattern]]:
        """The parts whose union this pattern is, each with its reason; ``|`` has several, and ``&`` narrows each.

        >>> [reason for reason, _ in (longformer(4) & Causal()).reasons()]
        ['window', 'global key', 'global query']
        """
        return [(self.reason, self)]

    @abstractmethod
    def visible(self, t: Tensor, s: Tensor, item: AttentionItem) -> Tensor:
        """Whether query ``t`` sees key ``s``: bool, the broadcast shape of the two position tensors."""

    @abstractmethod
    def reach(self, item: AttentionItem) -> Reach:
        """Where :meth:`visible` can be True, rows of global queries apart. Raises InputError for unfit inputs."""

    def __or__(self, other: Pattern) -> Pattern:
        return Either(self, other)

    def __and__(self, other: Pattern) -> Pattern:
        return Both(self, other)


@dataclass(frozen=True)
class GlobalKeys(Pattern):
    """Every query sees the global keys."""

    reason = "global key"

    def visible(self, t: Tensor, s: Tensor, item: AttentionItem) -> Tensor:
        return torch.isin(s, item.global_positions.to(s.device)).expand(np.broadcast_shapes(t.shape, s.shape))

    def reach(self, item: AttentionItem) -> Reach:
        return Reach(band=False, keys=item.global_positions)

    def __str__(self) -> str:
        return "global"


@dataclass(frozen=True)
class GlobalQueries(Pattern):
    """Global tokens, as queries, see every key, by ``q_global`` and ``k_global`` where there are such."""

    reason = "global query"
    global_queries = True

    def visible(self, t: Tensor, s: Tensor, item: AttentionItem) -> Tensor:
        return torch.isin(t, item.global_positions.to(t.device)).expand(np.broadcast_shapes(t.shape, s.shape))

    def reach(self, item: AttentionItem) -> Reach:
        if item.T != item.S:
            raise InputError(
                f"{item.inputs.source}: global queries need self-attention (T = S), but T is {item.T} and S is {item.S}"
            )
        return Reach(band=False)

    def __str__(self) -> str:
        return "global queries"


@dataclass(frozen=True)
class Full(Pattern):
    """Every query sees every key."""

    def visible(self, t: Tensor, s: Tensor, item: AttentionItem) -> Tensor:
        return torch.ones(np.broadcast_shapes(t.shape, s.shape), dtype=torch.bool, device=s.device)

    def reach(self, item: AttentionItem) -> Reach:
        return Reach()

    def __str__(self) -> str:
        return "full"


@dataclass(frozen=True)
class Causal(Pattern):
    """A query sees itself and what came before: ``s <= t + S - T`` (the queries are the last T positions)."""

    limits = True

    def visible(self, t: Tensor, s: Tensor, item: AttentionItem) -> Tensor:
        return s <= t + (item.S - item.T)

    def reach(self, item: AttentionItem) -> Reach:
        return Reach(high=item.S - item.T)

    def __str__(self) -> str:
        return "causal"


@dataclass(frozen=True)
class Local(Pattern):
    """A query sees ``window`` keys to each side: ``|s - t| <= window * dilation`` in steps of ``dilation``."""

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

    def visible(self, t: Tensor, s: Tensor, item: AttentionItem) -> Tensor:
        offset = s - t
        return (offset.abs() <= self.window * self.dilation) & (offset % self.dilation == 0)

    def reach(self, item: AttentionItem) -> Reach:
        width = self.window * self.dilation
        return Reach(-width, width, self.dilation)

    def __str__(self) -> str:
        return f"local, window {self.window}" + (f", dilation {self.dilation}" if self.dilation > 1 else "")


@dataclass(frozen=True, eq=False)
class Masked(Pattern):
    """A query sees what a boolean mask of the user's own says: (T, S), or (B, T, S) where batch items differ."""

    mask: Tensor

    def __post_init__(self) -> None:
        if self.mask.dtype != torch.bool or self.mask.ndim not in (2, 3):
            raise InputError(
                f"an attention mask has dtype bool and shape (T, S) or (B, T, S); found {self.mask.dtype}, {tuple(self.mask.shape)}"
            )

    def visible(self, t: Tensor, s: Tensor, item: AttentionItem) -> Tensor:
        mask = self.mask if self.mask.ndim == 2 else self.mask[item.batch]
        return mask.to(s.device)[t, s]

    def reach(self, item: AttentionItem) -> Reach:
        wanted = (item.inputs.B, item.T, item.S)[-self.mask.ndim :]
        if tuple(self.mask.shape) != wanted:
            letters = "(T, S)" if self.mask.ndim == 2 else "(B, T, S)"
            raise InputError(
                f"the attention mask has shape {tuple(self.mask.shape)}, wanted {letters} = {wanted} of {item.inputs.source}"
            )
        return Reach(band_exact=False)

    def __str__(self) -> str:
        return "own mask"


@dataclass(frozen=True)
class _Pair(Pattern):
    left: Pattern
    right: Pattern

    @property
    def global_queries(self) -> bool:  # type: ignore[override]
        return self.left.global_queries or self.right.global_queries


@dataclass(frozen=True)
class Either(_Pair):
    """What either pattern makes visible, each key once; written ``left | right``."""

    def visible(self, t: Tensor, s: Tensor, item: AttentionItem) -> Tensor:
        return self.left.visible(t, s, item) | self.right.visible(t, s, item)

    def reach(self, item: AttentionItem) -> Reach:
        return self.left.reach(item) | self.right.reach(item)

    def reasons(self) -> list[tuple[str, Pattern]]:
        parts: dict[str, Pattern] = {}
        for reason, part in (*self.left.reasons(), *self.right.reasons()):
            parts[reason] = parts[reason] | part if reason in parts else part
        return list(parts.items())

    def __str__(self) -> str:
        return f"{self.left} + {self.right}"


@dataclass(frozen=True)
class Both(_Pair):
    """What both patterns make visible; written ``left & right``."""

    def visible(self, t: Tensor, s: Tensor, item: AttentionItem) -> Tensor:
        return self.left.visible(t, s, item) & self.right.visible(t, s, item)

    def reach(self, item: AttentionItem) -> Reach:
        return self.left.reach(item) & self.right.reach(item)

    def reasons(self) -> list[tuple[str, Pattern]]:
        seen, limit = (self.right, self.left) if self.left.limits else (self.left, self.right)
        return [(reason, part & limit) for reason, part in seen.reasons()]

    def __str__(self) -> str:
        return f"{self.left}, {self.right}"


def longformer(window: int, dilation: int = 1) -> Pattern:
    """Longformer's attention: a window, global keys and global queries in one joint softmax."""
    return Local(window, dilation) | GlobalKeys() | GlobalQueries()


NAMES = ("global", "full", "causal", "local", "local+global")
"""The patterns that have a name on the command line and in a dump's metadata."""


def named_pattern(
    name: str, *, window: int | None = None, dilation: int | None = None, causal: bool = False
) -> Pattern:
    """The pattern called ``name``.

    Args:
        name: one of :data:`NAMES`.
        window: keys to each side, for the local patterns, which need it.
        dilation: steps of the window, for the local patterns; None is 1.
        causal: whether to hide what comes after the query.

    Raises:
        InputError: no such name, or a setting that the pattern has no use for.

    >>> str(named_pattern("local+global", window=4, causal=True))
    'local, window 4 + global + global queries, causal'
    """
    if name not in NAMES:
        raise InputError(f"--pattern {name!r} is not one of {', '.join(NAMES)}")
    local = name.startswith("local")
    if local and window is None:
        raise InputError(f"--pattern {name} needs --window: how many keys a query sees to each side")
    for option, value in (("--window", window), ("--dilation", dilation)):
        if value is not None and not local:
            raise InputError(
                f"{option} {value}: the {name} pattern has no window; choose --pattern local or local+global"
            )
    if name == "causal" and causal:
        raise InputError("--causal: the causal pattern is causal already; leave --causal out")
    plain: dict[str, Pattern] = {"global": GlobalKeys(), "full": Full(), "causal": Causal()}
    if local:
        assert window is not None
        step = 1 if dilation is None else dilation
        pattern = Local(window, step) if name == "local" else longformer(window, step)
    else:
        pattern = plain[name]
    return pattern & Causal() if causal else pattern


def _union(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    union: Tensor = torch.unique(torch.cat([a, b]))
    return union
