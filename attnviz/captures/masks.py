"""From the mask that a kernel was given to what it says: a named pattern and padded keys, or a mask of its own.

Libraries write the same visibility as a flag, a table of padding, a boolean or an additive matrix. Here all of them
become one :class:`Mask` a call, and the masks of a layer's calls one :class:`Visibility`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attnviz.attention.patterns import Causal, Full, Local, Masked, Pattern
from attnviz.base.errors import InputError

_HIDDEN = -1e4  # what models add to hide a key is this or less: 10000, or the least finite number, or infinity
_ROWS = 512  # query rows looked at together


@dataclass(frozen=True, eq=False)
class Mask:
    """What one attention call hid.

    Args:
        visible: (B | 1, T, S), True where the query sees the key; None: as the rest says.
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

    def rows(self, rows: range, T: int, S: int) -> Tensor:
        """Visibility of some of the queries, (B | 1, len(rows), S)."""
        if self.visible is not None:
            return self.visible[:, rows.start : rows.stop, :S]
        seen = _band(rows, T, S, self.causal, self.window, None if self.padding is None else self.padding.device)[None]
        return seen if self.padding is None else seen & self.padding[:, None, :]


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


def from_tensor(mask: Tensor, B: int, H: int) -> tuple[Mask, Tensor | None]:
    """A mask that a kernel broadcasts to (B, H, T, S): boolean, True where seen, or added to the scores.

    Returns:
        The mask, and what is left of an additive one as a bias, (B | 1, H | 1, T, S), or None.
    """
    mask = mask.detach()
    while mask.ndim < 4:
        mask = mask.unsqueeze(0)
    visible = mask if mask.dtype == torch.bool else mask > _HIDDEN
    bias = None
    if mask.dtype != torch.bool and bool(((mask != 0) & visible).any()):
        bias = mask.masked_fill(~visible, 0)
    if visible.shape[1] > 1 and not bool((visible == visible[:, :1]).all()):
        # Heads that see different keys: no pattern says that, a bias does.
        least = torch.finfo(torch.float32).min
        bias = torch.zeros_like(visible, dtype=torch.float32) if bias is None else bias
        bias, visible = bias.masked_fill(~visible, least), visible.any(1, keepdim=True)
    return Mask(visible[:, 0]), bias


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
    T = steps[-1].start + steps[-1].T
    offset = S - T
    seen, itself = _first_look(steps, S)
    exists = itself if not cross and offset == 0 else seen
    existing = None if cross or offset < 0 else exists[:, offset:]  # which queries exist, (B, T)
    low, high = _offsets(steps, S, existing)
    for causal, width in _candidates(low, high, cross, window):
        reached = torch.zeros(S, dtype=torch.bool, device=seen.device)
        for rows in _blocks(T):
            reached |= _band(rows, T, S, causal, width, seen.device).any(0)
        # Of keys that the pattern itself hides from every query, nothing says that they are padding.
        padding = exists | ~reached
        if _same(steps, S, causal, width, padding, existing):
            return Visibility(named(causal, width), _or_none(padding))
    whole = torch.cat([rows for _, rows in _rows(steps, S)], dim=1)  # (B, T, S)
    return Visibility(Masked(whole[0] if bool((whole == whole[:1]).all()) else whole))


def named(causal: bool, window: int | None) -> Pattern:
    """The pattern of a causal flag and a window to each side."""
    if window is None:
        return Causal() if causal else Full()
    return Local(window) & Causal() if causal else Local(window)


def block_mask(mask: object, B: int, T: int, S: int) -> Tensor:
    """FlexAttention's ``BlockMask`` as (B | 1, T, S) bool. Raises InputError where it differs between heads."""
    mask_mod: Callable[..., Tensor] = mask.mask_mod  # type: ignore[attr-defined]
    device = mask.kv_num_blocks.device  # type: ignore[attr-defined]
    b, t, s = (torch.arange(size, device=device) for size in (B, T, S))
    head = torch.zeros((), dtype=torch.int64, device=device)
    try:
        return mask_mod(b[:, None, None], head, t[:, None], s).expand(B, T, S)
    except (RuntimeError, IndexError) as error:
        raise InputError(f"a mask_mod of FlexAttention can't be read as a mask: {error}") from error


def _candidates(low: int, high: int, cross: bool, window: int | None) -> Iterator[tuple[bool, int | None]]:
    if cross:
        yield False, None
        return
    causal = high <= 0
    if window is not None:
        yield causal, window - 1
        if not causal:
            yield causal, window
    yield causal, None
    yield causal, max(-low, high, 0)


def _rows(steps: Sequence[Step], S: int) -> Iterator[tuple[range, Tensor]]:
    """Blocks of query rows over all S keys: (rows, (B | 1, len(rows), S))."""
    for step in steps:
        for rows in _blocks(step.T):
            seen = step.mask.rows(rows, step.T, step.S)
            first = step.end - step.S
            if (first, step.S) != (0, S):
                wide = seen.new_zeros((*seen.shape[:2], S))
                wide[:, :, first : step.end] = seen
                seen = wide
            yield range(step.start + rows.start, step.start + rows.stop), seen


def _first_look(steps: Sequence[Step], S: int) -> tuple[Tensor, Tensor]:
    """Which keys some query sees, and which positions see themselves: (B, S) bool each."""
    T = steps[-1].start + steps[-1].T
    seen, itself = None, []
    for rows, visible in _rows(steps, S):
        any_row = visible.any(1)
        seen = any_row if seen is None else seen | any_row
        if T == S:
            itself.append(visible[:, :, rows.start : rows.stop].diagonal(dim1=1, dim2=2))
    assert seen is not None
    if T != S:
        return seen, seen
    return seen, torch.cat([part.expand(len(seen), -1) for part in itself], dim=1)


def _offsets(steps: Sequence[Step], S: int, existing: Tensor | None) -> tuple[int, int]:
    """The least and the greatest ``key - query`` that some existing query sees."""
    T = steps[-1].start + steps[-1].T
    low, high = 0, -S
    for rows, visible in _rows(steps, S):
        if existing is not None:
            visible = visible & existing[:, rows.start : rows.stop, None]
        seen = visible.any(0)  # (rows, S)
        if not bool(seen.any()):
            continue
        distance = _distance(rows, T, S, seen.device).expand_as(seen)[seen]
        low, high = min(low, int(distance.min())), max(high, int(distance.max()))
    return low, high


def _same(
    steps: Sequence[Step], S: int, causal: bool, window: int | None, padding: Tensor, existing: Tensor | None
) -> bool:
    T = steps[-1].start + steps[-1].T
    for rows, visible in _rows(steps, S):
        expected = _band(rows, T, S, causal, window, visible.device)[None] & padding[:, None, :]
        different = visible != expected
        if existing is not None:
            different &= existing[:, rows.start : rows.stop, None]
        if bool(different.any()):
            return False
    return True


def _band(rows: range, T: int, S: int, causal: bool, window: int | None, device: torch.device | None) -> Tensor:
    distance = _distance(rows, T, S, device)
    seen = torch.ones(distance.shape, dtype=torch.bool, device=device)
    if causal:
        seen &= distance <= 0
    if window is not None:
        seen &= distance.abs() <= window
    return seen


def _distance(rows: range, T: int, S: int, device: torch.device | None) -> Tensor:
    """``key - query`` in positions of the keys, (len(rows), S)."""
    t = torch.arange(rows.start, rows.stop, device=device)[:, None] + (S - T)
    return torch.arange(S, device=device) - t


def _blocks(T: int) -> Iterator[range]:
    for start in range(0, T, _ROWS):
        yield range(start, min(start + _ROWS, T))


def _or_none(padding: Tensor | None) -> Tensor | None:
    return None if padding is None or bool(padding.all()) else padding
