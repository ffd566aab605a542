"""Two maps of one head and what lies between them, ready to draw, at any length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attnviz.attention.derived import SomeInputs
from attnviz.attention.inputs import Inputs
from attnviz.attention.patterns import Pattern
from attnviz.attention.taken import Array
from attnviz.base.errors import InputError
from attnviz.base.labels import labels_of_both
from attnviz.base.types import Cells, Progress
from attnviz.compare.heads import furthest, signed_cells
from attnviz.compare.sides import Exact, check_groups
from attnviz.engine.differences import Weighed, furthest_apart, serves
from attnviz.engine.reducer import Reduced
from attnviz.engine.request import Request, ask, asks
from attnviz.maps.map import AttentionMap, cells_of, map_with, reduced_of


class Comparison(NamedTuple):
    """Two maps of the same queries and keys, and A - B."""

    a: AttentionMap
    b: AttentionMap
    difference: AttentionMap


@asks("batch", "values", "reduce", "pixels", "queries", "keys", "device", "dtype", "memory", arrays=False)
def compare_maps(
    a: SomeInputs | Array,
    b: SomeInputs | Array,
    head: int,
    pattern: Pattern | str | None = None,
    b_pattern: Pattern | str | None = None,
    *,
    progress: Progress | None = None,
    **what: Any,
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
        what: as in :func:`attnviz.attention_map`.
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
    one, other = ask(a, pattern, head, **what), ask(b, b_pattern or pattern, head, **what)
    check_sizes(one.inputs, other.inputs)
    return compared(one, other, progress=progress)


def check_sizes(a: Inputs, b: Inputs) -> None:
    """Raises InputError for inputs of different sizes, or whose words are not of the same tokens."""
    check_groups(a, b)
    for name, left, right in (("queries", a.T, b.T), ("keys", a.S, b.S)):
        if left != right:
            raise InputError(
                f"{a.source} has {left} {name} but {b.source} has {right}; maps of one size can be compared"
            )


def _same_columns(a: Request, b: Request) -> tuple[Request, Request]:
    """Both over every key, unless both have columns of shared keys alone, and of the same ones."""

    def columns(side: Request) -> Sequence[int] | None:
        try:
            return side.columns
        except InputError:  # none of its shared keys is among those to show, but the other side's may be
            return None

    found = columns(a), columns(b)
    if found[0] == found[1]:
        return a, b
    return a.but(every_key=True), b.but(every_key=True)


def compared(a: Request, b: Request, *, progress: Progress | None = None) -> Comparison:
    """The first head of two requests of the same region."""
    a, b = _same_columns(a, b)
    reduced = [reduced_of(side, side.chosen[0], progress=progress) for side in (a, b)]
    one, other = (map_with(side, side.chosen[0], cells_of(found)) for side, found in zip((a, b), reduced, strict=True))
    if one.reduced and a.reduce == "max":
        cells = _signed(a, b, reduced, progress)
    else:
        blank = (reduced[0].counts == 0) | (reduced[1].counts == 0)
        cells = minus(one.cells, other.cells, a.values, blank)
    return Comparison(
        replace(one, pattern=f"{a.inputs.source}, {a.attention.pattern_name}"),
        replace(other, pattern=f"{b.inputs.source}, {b.attention.pattern_name}"),
        replace(
            one,
            cells=cells,
            values="difference",
            pattern="A − B",
            layer=one.layer if one.layer == other.layer else None,
            query_labels=labels_of_both(one.query_labels, other.query_labels),
            key_labels=labels_of_both(one.key_labels, other.key_labels),
        ),
    )


def _signed(a: Request, b: Request, reduced: Sequence[Reduced], progress: Progress | None) -> Cells:
    """Of each cell's pairs the difference that is furthest from 0: a tile at a time where that can be, else pair by pair."""
    head = a.chosen[0]
    one, other = (
        Weighed(side.attention, side.chosen[0], found.denominators) for side, found in zip((a, b), reduced, strict=True)
    )
    if a.values == "weights" and serves(one, other):
        return furthest(*furthest_apart(one, other, *a.edges(), memory=a.memory, progress=progress))
    return signed_cells(Exact(a), Exact(b), head, *a.edges(), values=a.values, progress=progress)


def minus(a: Cells, b: Cells, values: str, blank: NDArray[np.bool_]) -> Cells:
    """A - B, NaN where there is none: weights on a key that one side alone sees are compared with 0.

    Args:
        a, b: (P, P') cells, NaN where nothing is visible.
        values: ``weights`` or ``logits``; a logit that one side alone has is not compared.
        blank: (P,) the rows of cells whose queries see no key at all on one side.
    """
    if values == "logits":
        return a - b
    found: Cells = np.nan_to_num(a) - np.nan_to_num(b)
    return np.where(blank[:, None] | (np.isnan(a) & np.isnan(b)), np.nan, found)
