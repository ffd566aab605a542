"""Maps for pictures: the weights or logits of one head, exact, in no more cells than a picture can show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from attnviz.attention.derived import SomeInputs
from attnviz.attention.patterns import Pattern
from attnviz.base.registry import shown
from attnviz.base.types import Cells, Progress
from attnviz.base.words import in_place, percent
from attnviz.engine.reducer import Reduced
from attnviz.engine.request import Request, ask, asks


@dataclass(frozen=True)
class AttentionMap:
    """One head's map, ready to draw.

    Args:
        cells: (P, P') values, NaN where no query of the cell sees a key of it.
        values: ``weights`` or ``logits``.
        head: the query head.
        queries: the query positions that the rows cover.
        keys: the key positions that the columns cover: a range, or the positions of the global keys.
        query_labels: a label for each query of ``queries``, as a reader expects it, where there are labels.
        key_labels: a label for each key of ``keys``, likewise.
        pattern: the pattern's name.
        reduce: how a cell stands for its values, ``max`` or ``mass``.
        combined: ``mean`` or ``max`` where this is a map of several heads; None is one head.
        heads: the query heads that were combined.
        layer: the layer, of a model of several.
        batch: the batch item, of several.
        token_form: how the tokenizer writes the tokens that the labels are of: it says where a word begins.
        given: whether the weights were given, and not computed.
        called: what it is of, where that is no head by its number: ``all heads``.
        measured: what the values are, where they are not weights alone: ``weight × ‖v‖``.
        tag: what the head is in a word, where that was asked for; ``tag_score``, the statistic that says so, None of ``mixed``.
        left_out: the share of the weight that lies on keys which were hidden, the mean over queries; None where none were.

    >>> import attnviz
    >>> shown = attnviz.attention_map(attnviz.synthesize(), head=3, pattern="causal")
    >>> shown.cells.shape, shown.queries, shown.pattern
    ((10, 10), range(0, 10), 'causal')
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
    batch: int | None = None
    token_form: str = "plain"
    given: bool = False
    called: str | None = None
    measured: str | None = None
    left_out: float | None = None
    tag: str | None = None
    tag_score: float | None = None

    @property
    def name(self) -> str:
        """:attr:`heads_name`, of which layer and batch item: ``layer 2, head 3``, ``layer 2, max of 12 heads``; what it measures, whether it was given, and what is left out."""
        said = f", {self.measured}" if self.measured else ""
        said += ", given" if self.given else ""
        said += "" if self.left_out is None else f", {percent(self.left_out)} left out"
        return in_place(self.heads_name, self.layer, self.batch) + said

    @property
    def heads_name(self) -> str:
        """Which head this is, or of which heads: ``head 3``, ``max of 12 heads``; with its tag, ``head 3 · previous 0.91``."""
        if self.combined is None:
            return (self.called or f"head {self.head}") + (f" · {self.tagged}" if self.tag else "")
        listed = ", ".join(map(str, self.heads))
        return f"{self.combined} of " + (f"heads {listed}" if len(self.heads) <= 4 else f"{len(self.heads)} heads")

    @property
    def tagged(self) -> str:
        """The head's tag and its score: ``previous 0.91``."""
        return f"{self.tag}" + ("" if self.tag_score is None else f" {self.tag_score:.2f}")

    @property
    def size(self) -> tuple[int, int]:
        """How many queries and keys it shows."""
        return len(self.queries), len(self.keys)

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
        return shown(self)


@asks()
def attention_map(
    inputs: SomeInputs,
    head: int,
    pattern: Pattern | str | None = None,
    *,
    progress: Progress | None = None,
    **what: Any,
) -> AttentionMap:
    """The map of one head, exact, in at most ``pixels`` x ``pixels`` cells.

    Args:
        inputs: queries, keys and masks.
        head: the query head.
        pattern: which query sees which key; None is the inputs' own, else the global keys. A pattern of shared
            keys alone has a column for each of them, other patterns a column for each key position.
        progress: called with the number of rows done, as they are.
        what: fields of :class:`attnviz.engine.request.Request`: ``batch``, ``values``, ``reduce``, ``pixels``,
            ``queries``, ``keys``, ``every_key``, ``device``, ``dtype``, ``memory``, ``ranks``, ``checkpoint``.

    Raises:
        InputError: as :func:`attnviz.score`; positions out of range; ``mass`` of logits; too little memory.

    >>> import attnviz
    >>> attnviz.attention_map(attnviz.synthesize(), head=3).cells.shape
    (10, 3)
    """
    return map_of(ask(inputs, pattern, head, **what), progress=progress)


def map_of(request: Request, head: int | None = None, *, progress: Progress | None = None) -> AttentionMap:
    """The map of a head of a request; None is its first."""
    head = request.chosen[0] if head is None else head
    return map_with(request, head, cells_of(reduced_of(request, head, progress=progress)))


def maps_of(request: Request, *, progress: Progress | None = None) -> tuple[AttentionMap, ...]:
    """The maps of all heads of a request."""
    with _exact(request):
        made = request.attention.cells_of(request.chosen, *request.edges(), **_wanted(request, progress))
    each = zip(request.chosen, made, strict=True)
    return tuple(map_with(request, head, cells_of(reduced)) for head, reduced in each)


def reduced_of(request: Request, head: int, *, progress: Progress | None = None) -> Reduced:
    """The cells of a head of a request, and which queries they are of."""
    with _exact(request):
        return request.attention.cells(head, *request.edges(), **_wanted(request, progress))


def _wanted(request: Request, progress: Progress | None) -> dict[str, Any]:
    """What a request asks of cells."""
    asked = {"reductions": (request.reduce,), "values": request.values, "memory": request.memory}
    return asked | {"progress": progress}


@contextmanager
def _exact(request: Request) -> Iterator[None]:
    """Nothing is remembered for gradients, and no product is of a half type, whatever the caller has turned on."""
    with torch.no_grad(), torch.autocast(request.item.device.type, enabled=False):
        yield


def cells_of(reduced: Reduced) -> Cells:
    """The cells of the one reduction that a request asks for."""
    cells = reduced.max if reduced.mass is None else reduced.mass
    assert cells is not None
    return cells


def map_with(request: Request, head: int, cells: Cells) -> AttentionMap:
    """Cells of a request, with what a picture says of them."""
    return AttentionMap(
        cells,
        request.values,
        head,
        request.rows,
        request.columns,
        request.item.query_labels(request.rows),
        request.item.key_labels(request.columns),
        str(request.pattern),
        request.reduce,
        layer=request.item.inputs.layer,
        batch=request.item.batch_shown,
        token_form=request.item.inputs.token_form,
        given=request.attention.given,
        called=request.attention.head_name(head),
        measured=request.attention.measured,
        left_out=request.attention.left_out(head, request.rows),
    )


def grid_name(maps: Sequence[AttentionMap]) -> str:
    """How many heads these are, and of which layer and batch item where it is one: ``layer 2, 12 heads``."""
    measured = {shown.measured for shown in maps}
    said = f", {maps[0].measured}" if len(measured) == 1 and maps[0].measured else ""
    given = said + (", given" if all(shown.given for shown in maps) else "")
    return in_place(f"{len(maps)} heads", *place_of(maps)) + given


def place_of(maps: Sequence[AttentionMap]) -> tuple[int | str | None, int | None]:
    """The layer and the batch item of maps, None where there is none to say or they have not the same."""
    layers, items = {shown.layer for shown in maps}, {shown.batch for shown in maps}
    return layers.pop() if len(layers) == 1 else None, items.pop() if len(items) == 1 else None


def cell_words(size: tuple[float, float]) -> str:
    """How many queries and keys a cell stands for, ``1 cell = ...``; about how many where not all bins are of one size.

    >>> cell_words((128, 4)), cell_words((8.0078, 9.765625))
    ('1 cell = 128 × 4', '1 cell ≈ 8.01 × 9.77')
    """
    even = all(float(count).is_integer() for count in size)
    counts = (f"{count:.0f}" if float(count).is_integer() or count >= 100 else f"{count:.3g}" for count in size)
    return f"1 cell {'=' if even else '≈'} {' × '.join(counts)}"
