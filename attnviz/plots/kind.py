"""A kind of figure: what it needs, what it computes, and how it draws that.

A new kind is a file in :mod:`attnviz.plots.kinds` with a class that has a ``name``: ``attnviz plot --NAME`` draws it, and
its fields are options there. Nothing heavy is imported before one works, as ``attnviz plot --help`` lists them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from attnviz.plots.look import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from attnviz.attention.inputs import Inputs
    from attnviz.attention.patterns import Pattern
    from attnviz.base.patches import PatchSpec
    from attnviz.base.types import Progress
    from attnviz.engine.request import Request
    from attnviz.maps.map import AttentionMap
    from attnviz.show.figures.scales import FittedScale

KINDS: dict[str, type[Kind]] = {}
"""The kinds that have a name, by it."""


@dataclass(frozen=True)
class Parts:
    """What a kind computed, ready to draw.

    Args:
        maps: what is drawn, and what a file of numbers holds.
        source: where it comes from, for captions.
        told: the maps that captions and hints tell of; None is all.
        notes: lines for the person who asked.
        said: further sentences of captions, without their periods.
        more: what else the kind draws.
    """

    maps: tuple[AttentionMap, ...]
    source: str
    told: tuple[AttentionMap, ...] | None = None
    notes: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def spoken(self) -> tuple[AttentionMap, ...]:
        """The maps that captions and hints tell of."""
        return self.maps if self.told is None else self.told

    @property
    def labels(self) -> set[str]:
        """Every label that is drawn."""
        found: set[str] = set()
        seen: set[int] = set()
        for own in (labels for shown in self.maps for labels in (shown.query_labels, shown.key_labels)):
            if own is not None and id(own) not in seen:
                seen.add(id(own))
                found.update(own)
        return found

    @property
    def blank(self) -> bool:
        """Whether nothing is visible in any of them."""
        from numpy import isnan

        return all(bool(isnan(shown.cells).all()) for shown in self.maps)


class Reader(Protocol):
    """What reads what a kind needs beside the request, as the request's own inputs were read."""

    def other(self, path: Path, layer: str | None) -> tuple[Inputs, Pattern]:
        """Another file's inputs, and their pattern."""

    def picture(self, path: Path | None, *, needed: bool) -> tuple[Tensor | None, PatchSpec | None]:
        """The picture that a vision model looked at, (height, width, 3), and how its patches lie, where that is known.

        Args:
            path: a picture's own file; None is the source's.
            needed: whether it is an error where nothing says how patches lie.
        """


class Kind(ABC):
    """A kind of figure. A subclass is a frozen dataclass; its fields by :func:`attnviz.plots.said.said` are options."""

    name: ClassVar[str | None] = None
    """What ``attnviz plot`` calls it: ``--NAME``, which is a flag where no field is the option of this name."""

    passes: ClassVar[int] = 1
    """How often each row of queries goes by."""

    alone: ClassVar[bool] = False
    """Whether it is made in one process, and not by several ranks."""

    numbers: ClassVar[bool] = True
    """Whether its maps can be written as numbers."""

    hints: ClassVar[bool] = True
    """Whether a scale that leaves most of a map dark is worth a word."""

    unused: ClassVar[Mapping[str, str]] = {}
    """Options of the request that it has no use for, ``queries``, ``keys`` or ``values``, and what to say of each."""

    def __init_subclass__(cls) -> None:
        if cls.__dict__.get("name") is not None:
            KINDS[cls.__dict__["name"]] = cls

    def reading(self, reader: Reader) -> Kind:
        """The same with what it needs beside the request."""
        return self

    def asked(self, request: Request) -> Request:
        """What it needs of a request. Raises InputError for what it can't draw."""
        return request

    def fitted(self, request: Request, look: Look, ax: Axes | None = None) -> Request:
        """The same request, in no more cells than its figure, or ``ax``, has room for."""
        from attnviz.plots.room import panels

        return panels(request, len(request.chosen), look, ax)

    @abstractmethod
    def compute(self, request: Request, progress: Progress | None = None) -> Parts:
        """What is drawn."""

    def spoken(self, parts: Parts, look: Look) -> Parts:
        """The parts with what captions say of how they are drawn."""
        return parts

    def scale(self, parts: Parts, look: Look) -> FittedScale:
        """The color scale that captions tell of."""
        return look.fitted(parts.spoken)

    def words(self, parts: Parts, look: Look) -> dict[str, Any]:
        """Title, caption, width and colors, as keyword arguments of figures."""
        scale = self.scale(parts, look) if look.caption is True else None
        return look.words(parts.spoken, parts.source, scale=scale, said=parts.said)

    @abstractmethod
    def draw(self, parts: Parts, look: Look, ax: Axes | None = None) -> Axes | Figure:
        """Draws it, into ``ax`` where it is one map, else into a figure of its own."""

    @property
    def title(self) -> str:
        """What messages call it: its option."""
        return f"--{self.name}"


def drawn(
    kind: Kind, request: Request, look: Look | None = None, *, ax: Axes | None = None, progress: Progress | None = None
) -> Axes | Figure:
    """A figure of a kind, from what is asked and how it looks.

    >>> import attnviz
    >>> from attnviz.engine.request import Request
    >>> from attnviz.plots.kinds.heatmap import Heatmap
    >>> drawn(Heatmap(), Request(attnviz.synthesize(), heads=3), Look(cmap="viridis")).get_title()
    'head 3'
    """
    from attnviz.show.figures.style import showing

    look = look or Look()
    request = kind.fitted(kind.asked(request), look, ax)
    found = kind.draw(kind.compute(request, progress), look, ax)
    return found if ax is not None else showing(found)


def figure_of(found: Axes | Figure) -> Figure:
    """The figure that Axes are part of; a figure is its own."""
    figure: Figure | None = found.get_figure(root=True)
    assert figure is not None
    return figure
