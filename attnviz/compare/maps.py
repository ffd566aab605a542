"""Two maps of one head and what lies between them, ready to draw, at any length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from attnviz.attention.inputs import AttentionInputs
from attnviz.attention.patterns import GlobalKeys, Pattern
from attnviz.base.errors import InputError
from attnviz.compare.heads import Computed, signed_cells
from attnviz.engine.reducer import Cells, Progress, Reduced, bin_edges, reduce_map
from attnviz.engine.scores import check_heads
from attnviz.maps.map import AttentionMap, attention_map
from attnviz.maps.reasons import EveryKey


class Comparison(NamedTuple):
    """Two maps of the same queries and keys, and A - B."""

    a: AttentionMap
    b: AttentionMap
    difference: AttentionMap


def compare_maps(
    a: AttentionInputs,
    b: AttentionInputs,
    head: int,
    pattern: Pattern | None = None,
    b_pattern: Pattern | None = None,
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
) -> Comparison:
    """The maps of one head of two inputs, and their difference, exact, in at most ``pixels`` cells a side.

    A cell of the difference holds, of its pairs, the one furthest from 0 where ``reduce`` is ``max``, and the
    difference of the two masses where it is ``mass``. A key that one side alone sees has weight 0 on the other; a
    logit that one side alone has is not compared.

    Args:
        a, b: inputs of the same numbers of queries and keys.
        head: the query head, of both.
        pattern: which query sees which key; None is each side's own, else the global keys.
        b_pattern: the pattern of ``b``; None is ``pattern``.
        batch, values, reduce, pixels, queries, keys, device, dtype, memory, reduce_with: as in
            :func:`attnviz.attention_map`.
        progress: called with the number of rows done, as they are: those of ``a``, of ``b`` and, where cells stand
            for several pairs, of both again.

    Raises:
        InputError: as :func:`attnviz.attention_map`; inputs of different sizes.

    >>> import attnviz
    >>> one = attnviz.synthesize()
    >>> found = compare_maps(one, one, head=3)
    >>> float(abs(found.difference.cells).max())
    0.0
    """
    for name, left, right in (("queries", a.T, b.T), ("keys", a.S, b.S)):
        if left != right:
            raise InputError(
                f"{a.source} has {left} {name} but {b.source} has {right}; maps of one size can be compared"
            )
    for inputs in (a, b):
        check_heads(inputs, [head])
    pattern_a = pattern or a.pattern or GlobalKeys()
    pattern_b = b_pattern or pattern or b.pattern or GlobalKeys()
    what: dict[str, Any] = {"batch": batch, "device": device, "dtype": dtype}
    drawn: dict[str, Any] = {
        **what,
        "values": values,
        "reduce": reduce,
        "pixels": pixels,
        "queries": queries,
        "keys": keys,
        "memory": memory,
        "progress": progress,
        "reduce_with": reduce_with,
    }
    one = attention_map(a, head, pattern_a, **drawn)
    other = attention_map(b, head, pattern_b, **drawn)
    if list(one.keys) != list(other.keys):  # columns of global keys alone, and not of the same ones
        one = attention_map(a, head, EveryKey(pattern_a), **drawn)
        other = attention_map(b, head, EveryKey(pattern_b), **drawn)
    if one.reduced and reduce == "max":
        sides = (
            Computed(a, pattern_a, values=values, **what),
            Computed(b, pattern_b, values=values, **what),
        )
        rows, columns = one.cells.shape
        edges = bin_edges(one.queries, rows), bin_edges(one.keys, columns)
        cells = signed_cells(*sides, head, *edges, values=values, progress=progress)
    else:
        cells = _difference(one.cells, other.cells, values)
    return Comparison(
        replace(one, pattern=f"{a.source}, {pattern_a}"),
        replace(other, pattern=f"{b.source}, {pattern_b}"),
        replace(
            one,
            cells=cells,
            values="difference",
            pattern="A − B",
            query_labels=_both(one.query_labels, other.query_labels),
            key_labels=_both(one.key_labels, other.key_labels),
        ),
    )


def _both(a: Sequence[str] | None, b: Sequence[str] | None) -> Sequence[str] | None:
    """The labels of both sides: ``tired / wide`` where they are not the same."""
    if a is None or b is None:
        return b if a is None else a
    return [one if one == other else f"{one} / {other}" for one, other in zip(a, b, strict=True)]


def _difference(a: Cells, b: Cells, values: str) -> Cells:
    """A - B, NaN where there is none: weights on a key that one side alone sees are compared with 0."""
    if values == "logits":
        return a - b
    blank = np.isnan(a).all(1, keepdims=True) | np.isnan(b).all(1, keepdims=True)  # one side's query sees nothing
    found: Cells = np.nan_to_num(a) - np.nan_to_num(b)
    return np.where(blank | (np.isnan(a) & np.isnan(b)), np.nan, found)
