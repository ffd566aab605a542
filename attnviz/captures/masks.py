"""From the mask that a kernel was given to what it says: a named pattern and padded keys, or a mask of its own.

Libraries write the same visibility as a flag, a table of padding, a boolean or an additive matrix. Here all of them
become one :class:`Mask` a call, and the masks of a layer's calls one :class:`Visibility`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.additive import seen_and_added
from attnviz.attention.call import AttentionCall
from attnviz.attention.item import AttentionItem
from attnviz.attention.pairs import asked_by_head, listed_blocks
from attnviz.attention.patterns import Causal, Full, Local, Masked, Pattern
from attnviz.base.errors import InputError

_ROWS = 512  # query rows looked at together


@dataclass(frozen=True, eq=False)
class Mask:
    """What one attention call hid.

    Args:
        visible: (B | 1, H | 1, T | 1, S), True where the query sees the key; None: as the rest says.
        causal: whether a query sees only itself and what came before, the queries being the last T positions.
        window: how many keys to each side a query sees, besides itself; None is all.
        padding: (B, S), False where the key is padding; None: there is none.
    """

    visible: Tensor | None = None
    causal: bool = False
    window: int | None = None
    padding: Tensor | None = None

    def pattern(self) -> Pattern:
        """The pattern that ``causal`` and ``window`` say."""
        return named(self.causal, self.window)

    def part(self, T: int, S: int) -> Mask:
        """What it says of the first ``T`` queries and the first ``S`` keys."""
        visible, padding = self.visible, self.padding
        return Mask(
            None if visible is None else visible[..., :T, :S],
            self.causal,
            self.window,
            None if padding is None else padding[:, :S],
        )

    def of(self, items: Tensor) -> Mask:
        """What it says of some batch items, (n,)."""
        return Mask(_items(self.visible, items), self.causal, self.window, _items(self.padding, items))

    def changes(self, T: int, S: int) -> list[int]:
        """Some of the queries from which on it shows another number of keys more, or fewer, than it did."""
        if self.visible is None:
            return [] if self.window is None else [t for t in (self.window, self.window + 1) if t < T]
        if self.visible.shape[2] == 1 or T < 3:
            return []
        counts = self.visible[:, 0].sum(-1)  # (B | 1, T)
        found = (counts.diff(n=2) != 0).any(0).nonzero().flatten() + 2
        return found[torch.linspace(0, len(found) - 1, min(len(found), 4)).long().to(found.device)].tolist()

    def rows(self, rows: range, T: int, S: int) -> Tensor:
        """Visibility of some of the queries, (B | 1, H | 1, len(rows), S)."""
        if self.visible is not None:
            visible = self.visible
            return visible.expand(*visible.shape[:2], T, S)[:, :, rows.start : rows.stop]
        seen = _band(self.pattern(), rows, T, S, None if self.padding is None else self.padding.device)
        return seen if self.padding is None else seen & self.padding[:, None, None]


@dataclass(frozen=True)
class Visibility:
    """Which query sees which key, as :class:`~attnviz.AttentionInputs` takes it."""

    pattern: Pattern
    key_padding_mask: Tensor | None = None  # (B, S) bool


@dataclass(frozen=True)
class Step:
    """One call's part of a layer's map: its queries are rows ``start`` to ``start + T - 1``, its last key is ``end - 1``."""

    mask: Mask
    start: int
    T: int
    S: int
    end: int
    dropped: int = 0  # of its queries, the last, that were guesses which did not hold


def from_tensor(mask: Tensor) -> tuple[Mask, Tensor | None]:
    """A mask that a kernel broadcasts to (B, H, T, S): boolean, True where seen, or added to the scores.

    Returns:
        The mask, and what is left of an additive one as a bias, (B | 1, H | 1, T | 1, S), or None.
    """
    mask = mask.detach()
    while mask.ndim < 4:
        mask = mask.unsqueeze(0)
    visible, bias = (mask, None) if mask.dtype == torch.bool else seen_and_added(mask)
    if visible.shape[1] > 1 and bool((visible == visible[:, :1]).all()):
        visible = visible[:, :1]
    return Mask(visible), bias


def read(steps: Sequence[Step], S: int, *, cross: bool, window: int | None = None) -> Visibility:
    """What the masks of a layer's calls say together.

    Args:
        steps: the calls, in the order of their queries.
        S: the keys that the last of them saw.
        cross: whether keys are of another sequence than queries.
        window: the sliding window that the model names, itself included: its pattern is preferred where the mask
            agrees, so that a text shorter than the window is told from one without.

    Returns:
        A named pattern and the padding where they say exactly the same of every query that exists, else the mask.
    """
    only = steps[0].mask
    if len(steps) == 1 and only.visible is None:
        return Visibility(only.pattern(), _or_none(only.padding))
    whole = _Whole(steps, S, cross)
    for pattern in whole.candidates(window):
        # Of keys that the pattern itself hides from every query, nothing says that they are padding.
        padding = whole.exists | ~whole.reached(pattern)
        if whole.is_said_by(pattern, padding):
            return Visibility(pattern, _or_none(padding))
    return Visibility(Masked(whole.mask()))


def named(causal: bool, window: int | None) -> Pattern:
    """The pattern of a causal flag and a window to each side."""
    if window is None:
        return Causal() if causal else Full()
    return Local(window) & Causal() if causal else Local(window)


def block_mask(mask: Any, B: int, H: int, T: int, S: int) -> Tensor:
    """FlexAttention's ``BlockMask`` as (B | 1, H | 1, T, S) bool: its full blocks, and its partial ones by its ``mask_mod``.

    Raises:
        InputError: the ``mask_mod`` can't be read.
    """
    size = tuple(mask.BLOCK_SIZE)
    partial = _blocks_shown(mask.kv_num_blocks, mask.kv_indices, size, T, S)
    shown = partial & _of_mask_mod(mask.mask_mod, B, H, T, S, partial.device)
    if mask.full_kv_num_blocks is not None:
        shown = shown | _blocks_shown(mask.full_kv_num_blocks, mask.full_kv_indices, size, T, S)
    return shown


def _blocks_shown(counts: Tensor, indices: Tensor, size: tuple[int, int], T: int, S: int) -> Tensor:
    """Which pairs lie in the first ``counts`` blocks of each row of blocks, (B | 1, H | 1, T, S)."""
    blocks = listed_blocks(counts, indices)
    return blocks.repeat_interleave(size[0], -2)[..., :T, :].repeat_interleave(size[1], -1)[..., :S]


def _of_mask_mod(mask_mod: Callable[..., Tensor], B: int, H: int, T: int, S: int, device: torch.device) -> Tensor:
    """What a ``mask_mod`` says, (B, H, T, S), or (B, 1, T, S) where it doesn't look at the head."""
    b, t, s = (torch.arange(size, device=device) for size in (B, T, S))
    try:
        found = asked_by_head(lambda h: mask_mod(b[:, None, None, None], h, t[:, None], s), H, device).as_subclass(
            Tensor
        )
        return found.expand(B, found.shape[-3] if found.ndim > 2 else 1, T, S)
    except (RuntimeError, IndexError) as error:
        raise InputError(f"a mask_mod of FlexAttention can't be read as a mask: {error}") from error


@dataclass(frozen=True, eq=False)
class _Whole:
    """The masks of a layer's calls as one map: what they show, and what of it is padding."""

    steps: Sequence[Step]
    S: int
    cross: bool
    T: int = field(init=False)
    exists: Tensor = field(init=False)  # (B | 1, S): which keys are no padding, as far as the masks say
    existing: Tensor | None = field(init=False)  # (B | 1, T): which queries; None: all

    def __post_init__(self) -> None:
        T = self.steps[-1].start + self.steps[-1].T
        object.__setattr__(self, "T", T)
        object.__setattr__(self, "exists", self._exists())
        object.__setattr__(self, "existing", None if self.cross else self._existing())

    def candidates(self, window: int | None) -> Iterator[Pattern]:
        """Patterns that may say it all, the likeliest first."""
        if self.cross:
            yield Full()
            return
        low, high = self._distances()
        causal = high <= 0
        if window is not None:
            yield named(causal, window - 1)
            if not causal:
                yield named(causal, window)
        yield named(causal, None)
        yield named(causal, max(-low, high, 0))

    def reached(self, pattern: Pattern) -> Tensor:
        """Which keys some query sees by a pattern, (S,)."""
        reached = torch.zeros(self.S, dtype=torch.bool, device=self.exists.device)
        for rows in _blocks(self.T):
            reached |= _band(pattern, rows, self.T, self.S, reached.device).flatten(0, 2).any(0)
        return reached

    def is_said_by(self, pattern: Pattern, padding: Tensor) -> bool:
        """Whether a pattern, and padding (B | 1, S), say the same of every query that exists."""
        for rows, visible in self._rows():
            expected = _band(pattern, rows, self.T, self.S, visible.device) & padding[:, None, None]
            different = visible != expected
            if self.existing is not None:
                different = different & self.existing[:, None, rows.start : rows.stop, None]
            if bool(different.any()):
                return False
        return True

    def mask(self) -> Tensor:
        """All of it, (T, S), or (B, T, S) where batch items differ, or (B | 1, H, T, S) where heads do."""
        parts = [rows for _, rows in self._rows()]
        shape = [max(part.shape[n] for part in parts) for n in (0, 1)]
        whole = torch.cat([part.expand(*shape, -1, -1) for part in parts], dim=2)
        whole = whole[:1] if bool((whole == whole[:1]).all()) else whole
        if whole.shape[1] > 1:
            return whole
        return whole[0, 0] if len(whole) == 1 else whole[:, 0]

    def _rows(self) -> Iterator[tuple[range, Tensor]]:
        """Blocks of query rows over all S keys: (rows, (B | 1, H | 1, len(rows), S))."""
        for step in self.steps:
            for rows in _blocks(step.T):
                seen = step.mask.rows(rows, step.T, step.S)
                first = step.end - step.S
                if (first, step.S) != (0, self.S):
                    wide = seen.new_zeros((*seen.shape[:3], self.S))
                    wide[..., first : step.end] = seen
                    seen = wide
                yield range(step.start + rows.start, step.start + rows.stop), seen

    def _exists(self) -> Tensor:
        """Keys that some query sees; where each query has its key, those that see themselves."""
        itself = self.T == self.S and not self.cross
        found, seen = [], None
        for rows, visible in self._rows():
            if itself:
                found.append(visible[..., rows.start : rows.stop].diagonal(dim1=2, dim2=3).any(1))
            else:
                some = visible.flatten(1, 2).any(1)
                seen = some if seen is None else seen | some
        if not itself:
            assert seen is not None
            return seen
        return torch.cat([part.expand(max(map(len, found)), -1) for part in found], dim=1)

    def _existing(self) -> Tensor | None:
        at = _item(self.T, self.S).key_at(torch.arange(self.T)).to(self.exists.device)
        return (self.exists[:, at.clamp(min=0)] | (at < 0)) if bool((at >= 0).any()) else None

    def _distances(self) -> tuple[int, int]:
        """The least and the greatest ``p(s) - p(t)`` that some existing query sees."""
        low, high, item = 0, -self.S, _item(self.T, self.S)
        for rows, visible in self._rows():
            if self.existing is not None:
                visible = visible & self.existing[:, None, rows.start : rows.stop, None]
            seen = visible.flatten(0, 1).any(0)  # (rows, S)
            if not bool(seen.any()):
                continue
            t, s = _places(rows, self.S, seen.device)
            distance = (item.key_position(s) - item.query_position(t)).expand_as(seen)[seen]
            low, high = min(low, int(distance.min())), max(high, int(distance.max()))
        return low, high


def _items(tensor: Tensor | None, items: Tensor) -> Tensor | None:
    """Some batch items of a tensor; one that holds for all stays."""
    return tensor if tensor is None or len(tensor) == 1 else tensor[items.to(tensor.device)]


def _item(T: int, S: int) -> AttentionItem:
    """A batch item of these lengths, that says where queries and keys stand."""
    nothing = torch.zeros(())
    call = AttentionCall(nothing.expand(1, 1, T, 1), nothing.expand(1, 1, S, 1), source="a mask")
    return AttentionItem(call, 0, nothing.device, nothing.dtype)


def _band(pattern: Pattern, rows: range, T: int, S: int, device: torch.device | None) -> Tensor:
    """What a pattern shows to some of the queries, (1, 1, len(rows), S)."""
    return pattern.visible(*_places(rows, S, device), _item(T, S))[None, None]


def _places(rows: range, S: int, device: torch.device | None) -> tuple[Tensor, Tensor]:
    """Indices of queries, (len(rows), 1), and of keys, (1, S)."""
    return torch.arange(rows.start, rows.stop, device=device)[:, None], torch.arange(S, device=device)[None]


def _blocks(T: int) -> Iterator[range]:
    for start in range(0, T, _ROWS):
        yield range(start, min(start + _ROWS, T))


def _or_none(padding: Tensor | None) -> Tensor | None:
    return None if padding is None or bool(padding.all()) else padding
