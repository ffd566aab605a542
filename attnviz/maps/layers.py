"""A whole model in small maps: a row a layer, a map a head, one layer in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from attnviz.attention.inputs import Inputs
from attnviz.attention.patterns import Pattern
from attnviz.attention.taken import is_array, taken, taken_layers
from attnviz.base.errors import InputError
from attnviz.base.types import Label, Progress
from attnviz.engine.request import Request, ask, asks
from attnviz.maps.map import AttentionMap, maps_of
from attnviz.sources.dumps import load
from attnviz.sources.naming import layers_there


@runtime_checkable
class Captured(Protocol):
    """What :func:`attnviz.capture` gives, as far as its layers go."""

    @property
    def layers(self) -> Sequence[Label]:
        """The layers captured."""

    def inputs(self, layer: Label) -> Inputs:
        """What went into a layer's attention."""


@dataclass(frozen=True)
class OverviewRow:
    """One layer of an overview: its label, None where there is one without, and the maps of its heads."""

    layer: Label | None
    maps: tuple[AttentionMap, ...]


class Layers:
    """The layers of a model, each read when it is wanted and forgotten after.

    Args:
        source: a dump's path, what :func:`attnviz.capture` gave, or inputs: of one layer, or of several in order.
        chosen: the labels wanted, in the order wanted; None is all.

    Raises:
        InputError: a label that is not there.
    """

    def __init__(
        self,
        source: str | Path | Captured | Inputs | Sequence[Inputs],
        chosen: Sequence[Label] | None = None,
    ) -> None:
        self.name, self._read, there = _opened(source)
        for label in chosen or ():
            if label not in there:
                listed = ", ".join(map(str, there[:12])) + (", …" if len(there) > 12 else "")
                raise InputError(
                    f"{self.name}: there is no layer {label!r}; there are {'none' if there == [None] else listed}"
                )
        self.labels: list[Label | None] = list(there if chosen is None else chosen)

    def __iter__(self) -> Iterator[tuple[Label | None, Inputs]]:
        for label in self.labels:
            yield label, self._read(label)

    def __len__(self) -> int:
        return len(self.labels)


def _opened(
    source: str | Path | Captured | Inputs | Sequence[Inputs],
) -> tuple[str, Callable[[Label | None], Inputs], Sequence[Label | None]]:
    """A source's name, what reads a layer of it, and the labels of its layers."""
    if isinstance(source, Inputs) or is_array(source):
        alone = taken(source)
        assert isinstance(alone, Inputs)
        return alone.source, lambda label: alone, [None]
    if isinstance(source, Captured):
        run = source

        def of_run(label: Label | None) -> Inputs:
            assert label is not None
            return run.inputs(label)

        return "the captured run", of_run, run.layers
    if isinstance(source, (str, Path)):
        path = Path(source)
        return f"{path}", lambda label: load(path, layer=label), layers_there(path, {})
    several = taken_layers(source)
    if not several:
        raise InputError("an overview of no layers; give the inputs of one or more")

    labels: list[Label] = [n if one.layer is None else one.layer for n, one in enumerate(several)]
    if len({*labels}) < len(labels):  # of one layer, under several settings
        labels = [*range(len(several))]
    by_label: dict[Label, Inputs] = dict(zip(labels, several, strict=True))

    def of_list(label: Label | None) -> Inputs:
        assert label is not None
        return by_label[label]

    return several[0].source, of_list, labels


@asks("batch", "values", "reduce", "device", "dtype", "memory", "checkpoint", derived=False)
def overview_rows(
    layers: Iterable[tuple[Label | None, Inputs]],
    pattern: Pattern | str | None = None,
    *,
    heads: Iterable[int] | None = None,
    pixels: int = 64,
    progress: Progress | None = None,
    **what: Any,
) -> list[OverviewRow]:
    """Small maps of every head of every layer, exact, in one pass over each layer.

    Args:
        layers: labels and inputs, such as :class:`Layers`; each is let go before the next is read.
        pattern: which query sees which key; None is each layer's own, else the global keys.
        heads: the query heads of each layer; None is all.
        pixels: the most cells along each side of a map.
        progress, what: as in :func:`attnviz.attention_map`.

    Raises:
        InputError: as :func:`attnviz.attention_map`.
    """
    rows, chosen = [], None if heads is None else tuple(heads)
    for label, inputs in layers:
        request = ask(inputs, pattern, chosen, pixels=pixels, **what)
        del inputs
        rows.append(overview_row(label, request, progress=progress))
        del request  # before the next layer is read
    return rows


def overview_row(label: Label | None, request: Request, *, progress: Progress | None = None) -> OverviewRow:
    """Small maps of the heads of a request, which are those of a layer."""
    if request.inputs.layer is None and label is not None:  # of a list, whose order says it
        request = request.but(inputs=replace(request.inputs, layer=label))
    return OverviewRow(label, maps_of(request, progress=progress))
