"""Maps for pictures: the weights or logits of one head, exact, in no more cells than a picture can show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from attnviz.attention.inputs import AttentionInputs, AttentionItem
from attnviz.attention.patterns import GlobalKeys, Pattern
from attnviz.base.devices import parse_device, parse_dtype
from attnviz.base.errors import InputError
from attnviz.engine.reducer import REDUCTIONS, Cells, Progress, Reduced, bin_edges, reduce_map
from attnviz.engine.scores import check_heads


@dataclass(frozen=True)
class AttentionMap:
    """One head's map, ready to draw.

    Args:
        cells: (P, P') values, NaN where no query of the cell sees a key of it.
        values: ``weights`` or ``logits``.
        head: the query head.
        queries: the query positions that the rows cover.
        keys: the key positions that the columns cover: a range, or the positions of the global keys.
        query_labels: a label for each query of ``queries``, where there are labels.
        key_labels: a label for each key of ``keys``, where there are labels.
        pattern: the pattern's name.
        reduce: how a cell stands for its values, ``max`` or ``mass``.
        combined: ``mean`` or ``max`` where this is a map of several heads; None is one head.
        heads: the query heads that were combined.
        layer: the layer, of a dump that has several.
    """

    cells: Cells
    values: str
    head: int
    queries: range
    keys: Sequence[int]
    query_labels: Sequence[str] | None = None
    key_labels: Sequence[str] | None = None
    pattern: str = "global"
    reduce: str = "max"
    combined: str | None = None
    heads: tuple[int, ...] = ()
    layer: int | str | None = None

    @property
    def name(self) -> str:
        """:attr:`heads_name`, and of which layer: ``layer 2, head 3``, ``layer 2, max of 12 heads``."""
        return self.heads_name if self.layer is None else f"layer {self.layer}, {self.heads_name}"

    @property
    def heads_name(self) -> str:
        """Which head this is, or of which heads: ``head 3``, ``max of 12 heads``."""
        if self.combined is None:
            return f"head {self.head}"
        listed = ", ".join(map(str, self.heads))
        return f"{self.combined} of " + (f"heads {listed}" if len(self.heads) <= 4 else f"{len(self.heads)} heads")

    @property
    def cell_size(self) -> tuple[float, float]:
        """Queries and keys to a cell, on average where the bins are not all of one size."""
        rows, columns = self.cells.shape
        return len(self.queries) / rows, len(self.keys) / columns

    @property
    def reduced(self) -> bool:
        """Whether a cell stands for several values."""
        return self.cell_size != (1, 1)

    def _repr_html_(self) -> str:
        from attnviz.show.notebook import map_html  # drawing is a floor above, and only a notebook asks for it

        return map_html(self)


def attention_map(
    inputs: AttentionInputs,
    head: int,
    pattern: Pattern | None = None,
    *,
    batch: int = 0,
    values: str = "weights",
    reduce: str = "max",
    pixels: int = 1024,
    queries: range | None = None,
    keys: range | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
    reduce_with: Callable[..., Reduced] = reduce_map,
) -> AttentionMap:
    """The map of one head, exact, in at most ``pixels`` x ``pixels`` cells.

    Args:
        inputs: queries, keys and masks.
        head: the query head.
        pattern: which query sees which key; None is the inputs' own, else the global keys. A pattern of shared
            keys alone has a column for each of them, other patterns a column for each key position.
        batch: the batch item.
        values: ``weights`` or ``logits``.
        reduce: what a cell holds where the map is larger than the picture: ``max`` or ``mass``.
        pixels: the most cells along each side.
        queries, keys: the positions to show; softmax still runs over every visible key. None is all.
        device, dtype: as in :func:`attnviz.score`.
        memory: bytes that the picture and the tiles of the map in work may take, beside the inputs; None is no bound.
        progress: called with the number of rows done, as they are.
        reduce_with: what reduces the map, in place of :func:`attnviz.engine.reducer.reduce_map`: several ranks together.

    Raises:
        InputError: as :func:`attnviz.score`; positions out of range; ``mass`` of logits; too little memory.

    >>> import attnviz
    >>> attnviz.attention_map(attnviz.synthesize(), head=3).cells.shape
    (10, 3)
    """
    check_heads(inputs, [head])
    if reduce not in REDUCTIONS:
        raise InputError(f"reduce {reduce!r} is not one of {', '.join(REDUCTIONS)}")
    if reduce == "mass" and values == "logits":
        raise InputError("mass sums weights, and logits are not weights; choose max, or values weights")
    if pixels < 1:
        raise InputError(f"a picture has at least 1 cell a side; pixels is {pixels}")
    pattern = pattern or inputs.pattern or GlobalKeys()
    where = inputs.q.device if device is None else parse_device(device)
    item = inputs.item(batch, device=where, dtype=parse_dtype(dtype))
    queries = checked_range(queries, item.T, "queries", inputs.source)
    with torch.no_grad(), torch.autocast(item.device.type, enabled=False):
        shown = shown_keys(item, pattern, keys)
        reduced = reduce_with(
            item,
            pattern,
            head,
            bin_edges(queries, min(len(queries), pixels)),
            bin_edges(shown, min(len(shown), pixels)),
            reductions=(reduce,),
            values=values,
            memory=memory,
            progress=progress,
        )
    cells = reduced.max if reduce == "max" else reduced.mass
    assert cells is not None
    return AttentionMap(
        cells,
        values,
        head,
        queries,
        shown,
        item.query_labels(queries),
        item.key_labels(shown),
        str(pattern),
        reduce,
    )


def shown_keys(item: AttentionItem, pattern: Pattern, keys: range | None) -> Sequence[int]:
    """The key positions that are columns of a map: of a pattern of shared keys alone those among them, else all.

    Args:
        item, pattern: whose map it is.
        keys: the positions to show; None is all.

    Raises:
        InputError: positions out of range, or none that the pattern shares.
    """
    inside, source = checked_range(keys, item.S, "keys", item.inputs.source), item.inputs.source
    reach = pattern.reach(item)
    if reach.band or reach.keys is None or pattern.global_queries:
        return inside
    shown = tuple(position for position in reach.keys.tolist() if position in inside)
    if not shown:
        raise InputError(f"{source}: no global key lies in keys {inside.start}:{inside.stop}; widen it")
    return shown


def checked_range(positions: range | None, size: int, name: str, source: str) -> range:
    """``positions``, None meaning all. Raises InputError for what is not a part of 0 to ``size`` - 1."""
    if positions is None:
        return range(size)
    if positions.step != 1 or not 0 <= positions.start < positions.stop <= size:
        raise InputError(
            f"{source}: {name} {positions.start}:{positions.stop} is not a part of 0:{size}; write first:end with first < end"
        )
    return positions


def grid_name(maps: Sequence[AttentionMap]) -> str:
    """How many heads these are, and of which layer where it is one: ``12 heads``, ``layer 2, 12 heads``."""
    layer = maps[0].layer
    one = layer is not None and all(shown.layer == layer for shown in maps)
    return (f"layer {layer}, " if one else "") + f"{len(maps)} heads"


def cell_words(size: tuple[float, float]) -> str:
    """How many queries and keys a cell stands for, ``1 cell = ...``; about how many where not all bins are of one size.

    >>> cell_words((128, 4)), cell_words((8.0078, 9.765625))
    ('1 cell = 128 × 4', '1 cell ≈ 8.01 × 9.77')
    """
    even = all(float(count).is_integer() for count in size)
    counts = (f"{count:.0f}" if float(count).is_integer() or count >= 100 else f"{count:.3g}" for count in size)
    return f"1 cell {'=' if even else '≈'} {' × '.join(counts)}"
