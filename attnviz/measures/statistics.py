"""What a head does, in numbers: entropy, where its weight goes, how far it looks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attnviz.attention.inputs import AttentionInputs, AttentionItem
from attnviz.attention.patterns import GlobalKeys, Pattern
from attnviz.base.devices import parse_device, parse_dtype
from attnviz.engine.scores import Block, blocks, check_heads

STATISTICS: dict[str, str] = {
    "entropy": "entropy of the weights, in nats",
    "entropy_share": "entropy as a share of log |visible keys|, its most; queries that see one key are left out",
    "max_weight": "the largest weight",
    "global_mass": "weight on global keys",
    "sink_mass": "weight on the item's first key position that is not padding",
    "distance": "mean |t - s| by weight, in tokens",
    "diagonal_mass": "weight on the query's own position",
    "previous_mass": "weight on the position before the query's",
}
"""Each statistic and what it is, a mean over the queries that see a key."""


@dataclass(frozen=True)
class HeadStatistics:
    """One head's statistics: means over the queries that see a key; None where there is no such query, or no mask."""

    head: int
    queries: int
    """How many queries see a key."""
    entropy: float | None
    entropy_share: float | None
    max_weight: float | None
    global_mass: float | None
    sink_mass: float | None
    distance: float | None
    diagonal_mass: float | None
    previous_mass: float | None
    layer: int | str | None = None


def head_statistics(
    inputs: AttentionInputs,
    pattern: Pattern | None = None,
    *,
    batch: int = 0,
    heads: Sequence[int] | None = None,
    layer: int | str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[HeadStatistics]:
    """The statistics of each head of a batch item, in one pass over blocks of rows.

    Args:
        inputs: queries, keys and masks.
        pattern: which query sees which key; None is the inputs' own, else the global keys.
        batch: the batch item.
        heads: the query heads, in the order wanted; None is all of them.
        layer: what to call the layer in the results.
        device, dtype: as in :func:`attnviz.score`.
        progress: called with the number of rows done, as they are.

    Raises:
        InputError: as :func:`attnviz.score`.

    >>> import attnviz
    >>> from attnviz.attention.patterns import Local
    >>> attnviz.head_statistics(attnviz.synthesize(heads=1), Local(0))[0].diagonal_mass
    1.0
    """
    pattern = pattern or inputs.pattern or GlobalKeys()
    where = inputs.q.device if device is None else parse_device(device)
    item = inputs.item(batch, device=where, dtype=parse_dtype(dtype))
    with torch.no_grad(), torch.autocast(item.device.type, enabled=False):
        return [_of_head(item, pattern, head, layer, progress) for head in check_heads(inputs, heads)]


def _of_head(
    item: AttentionItem, pattern: Pattern, head: int, layer: int | str | None, progress: Callable[[int], None] | None
) -> HeadStatistics:
    return statistics_of(blocks(item, pattern, head), head, item, layer=layer, progress=progress)


def statistics_of(
    weights: Iterable[Block],
    head: int,
    item: AttentionItem | None = None,
    *,
    layer: int | str | None = None,
    progress: Callable[[int], None] | None = None,
) -> HeadStatistics:
    """The statistics of one head whose weights come block by block, every query once.

    Args:
        weights: blocks of weights.
        head: the head's index.
        item: says which keys are global and which are padding; None: neither.
        layer, progress: as in :func:`head_statistics`.
    """
    mask = None if item is None else item.inputs.global_mask
    is_global = None if item is None or mask is None else mask[item.batch].to(item.device)
    padding = None if item is None else item.key_padding
    first = 0 if padding is None else int(padding.int().argmax())
    sums = dict.fromkeys(STATISTICS, 0.0)
    queries = choosers = 0  # queries that see a key; those that see several
    for block in weights:
        for name, values in _of_queries(block, is_global, first).items():
            sums[name] += float(values.sum(dtype=torch.float64))
        queries += int((block.visible > 0).sum())
        choosers += int((block.visible > 1).sum())
        if progress is not None:
            progress(len(block.rows))

    def mean(name: str) -> float | None:
        count = choosers if name == "entropy_share" else queries
        return sums[name] / count if count and not (name == "global_mass" and is_global is None) else None

    return HeadStatistics(head, queries, **{name: mean(name) for name in STATISTICS}, layer=layer)


def _of_queries(block: Block, is_global: Tensor | None, first: int) -> dict[str, Tensor]:
    """Each statistic of each query of a block that sees a key, (b,) each."""
    weights, rows, keys, visible = block.values, block.rows, block.keys, block.visible
    sees = visible > 0
    if not bool(sees.all()):
        weights, rows, visible = weights[sees], rows[sees], visible[sees]
    zero = weights.new_zeros(len(rows))
    if not weights.numel():
        return dict.fromkeys(STATISTICS, zero)

    def mass(where: Tensor) -> Tensor:
        return weights[:, where].sum(1)

    column = keys.new_full((int(max(keys.amax(), rows.amax())) + 1,), -1)  # of each key position
    column[keys[block.shared :]] = torch.arange(block.shared, len(keys), device=keys.device)
    column[keys[: block.shared]] = torch.arange(block.shared, device=keys.device)  # hidden where it comes again

    def at(positions: Tensor) -> Tensor:
        """Each query's weight on one key position of its own."""
        found = torch.where(positions >= 0, column[positions.clamp(min=0)], -1)
        return torch.where(found >= 0, weights.gather(1, found.clamp(min=0)[:, None])[:, 0], zero)

    entropy = torch.special.entr(weights).sum(1)
    share = torch.where(visible > 1, entropy / visible.to(entropy.dtype).log(), zero)
    return {
        "entropy": entropy,
        "entropy_share": share,
        "max_weight": weights.amax(1),
        "global_mass": zero if is_global is None else mass(is_global[keys]),
        "sink_mass": mass(keys == first),
        "distance": _distance(weights, rows, keys),
        "diagonal_mass": at(rows),
        "previous_mass": at(rows - 1),
    }


def _distance(weights: Tensor, rows: Tensor, keys: Tensor) -> Tensor:
    """The sum of weight times |t - s| over the keys of each query, (b,).

    Keys before every row of the block, or behind every row, are as far from a row as from the block's nearest row
    and that row's own way on top: two matrix-vector products, where nothing cancels. Only the keys among the rows
    need a distance each.
    """
    low, high = rows.amin(), rows.amax()
    before, behind = keys < low, keys > high
    among = ~(before | behind)
    far = torch.where(before, low - keys, torch.where(behind, keys - high, 0)).to(weights.dtype)
    sides = torch.stack([far, before.to(far.dtype), behind.to(far.dtype)], dim=1)  # (n, 3)
    whole = weights @ sides  # (b, 3)
    total = whole[:, 0] + whole[:, 1] * (rows - low) + whole[:, 2] * (high - rows)
    if bool(among.any()):
        total += (weights[:, among] * (rows[:, None] - keys[among]).abs()).sum(1)
    return total
