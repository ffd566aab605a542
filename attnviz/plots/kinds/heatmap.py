"""Heatmaps: of one head, of one map of several heads, or a grid of heads with one color scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from attnviz.base.errors import InputError
from attnviz.plots.kind import Kind, Parts, figure_of
from attnviz.plots.look import Look
from attnviz.plots.said import said
from attnviz.plots.tagged import by_tags, tag_names, tagged

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from attnviz.base.types import Progress
    from attnviz.engine.request import Request
    from attnviz.maps.map import AttentionMap
    from attnviz.maps.reasons import ReasonMap
    from attnviz.show.figures.scales import FittedScale


@dataclass(frozen=True)
class OfHeads(Kind):
    """A kind that draws a map of each head, or one of all of them."""

    mean: bool = False
    max: bool = False

    def __post_init__(self) -> None:
        if self.mean and self.max:
            raise InputError("--mean and --max are two ways to make one map of the heads; choose one")

    @property
    def how(self) -> str | None:
        """How heads are combined, if they are."""
        return "mean" if self.mean else "max" if self.max else None

    def panels(self, request: Request) -> int:
        """How many maps there are."""
        return 1 if self.how else len(request.chosen)

    def fitted(self, request: Request, look: Look, ax: Axes | None = None) -> Request:
        from attnviz.plots.room import panels

        return panels(request, self.panels(request), look, ax)

    def maps(self, request: Request, progress: Progress | None) -> Parts:
        """A map of each head, or one of all of them."""
        from attnviz.maps.combined import HOWS, combined
        from attnviz.maps.map import maps_of

        source = request.inputs.source
        if self.how is None:
            return Parts(maps_of(request, progress=progress), source)
        # max is what a request reduces by where nothing else was said, and no mean is exact with it.
        unsaid = request.reduce == "max" and request.values == "weights"
        shown = combined(request.but(reduce=HOWS[self.how]) if unsaid else request, self.how, progress=progress)
        notes: tuple[str, ...] = ()
        if self.mean and unsaid and shown.reduced:
            notes = ("--mean: cells hold mass (--reduce mass); a mean of the largest weights would not be exact",)
        return Parts((shown,), source, notes=notes)


@dataclass(frozen=True)
class OverMaps(Kind):
    """A kind that writes and draws over maps."""

    annot: bool = said(
        False,
        "Write the values into the cells of a small map.",
        refused="--annot writes into the cells of a map; leave {kind} out",
    )
    pattern_outline: bool = said(
        False,
        "Draw the edges of the pattern over the map.",
        refused="--pattern-outline is drawn over maps; leave {kind} out",
    )
    tags: bool = said(
        False,
        "Say what each head is in a word, with its score (sink, previous, induction, …), and sort heads by it.",
        refused="--tags are of the heads of maps; leave {kind} out",
    )

    def asked(self, request: Request) -> Request:
        if self.pattern_outline and not isinstance(request.columns, range):
            raise InputError(
                f"--pattern-outline: the columns are the keys of the {request.pattern} pattern alone, all visible; choose "
                f"another pattern, such as --pattern local+global --window 2"
            )
        return request

    def scale(self, parts: Parts, look: Look) -> FittedScale:
        unmarked = self.annot or self.pattern_outline  # numbers have a sign, and outlines marks of their own
        return super().scale(parts, look).marked(not unmarked)

    def outlined(self, parts: Parts, request: Request) -> Parts:
        """The parts of maps, with their tags and the reasons whose edges are drawn over them where these are asked for."""
        from attnviz.maps.reasons import reasons_of

        if self.tags:
            parts = replace(parts, maps=tagged(parts.maps, request))
        if not self.pattern_outline:
            return parts
        reasons = reasons_of(request.but(pixels=max(parts.maps[0].cells.shape), every_key=True))
        notes = parts.notes
        if (reasons.cells == reasons.cells[0, 0]).all():
            notes += (f"--pattern-outline: the {request.pattern} pattern has no edge in what is shown",)
        return replace(parts, notes=notes, more={**parts.more, "reasons": reasons})

    def draw_outlines(self, parts: Parts, found: Axes | Figure, *, given: bool = False) -> None:
        """The edges of the pattern over each map; ``given``: over Axes of somebody else's figure, whose size stays."""
        from attnviz.show.figures.outline import outline, outline_legend

        reasons: ReasonMap | None = parts.more.get("reasons")
        if reasons is None:
            return
        if given:
            outline(reasons, found, legend=True)  # type: ignore[arg-type]
            return
        figure = figure_of(found)
        for ax in figure.axes[: len(parts.maps)]:
            outline(reasons, ax)
        outline_legend(reasons, figure)


_AROUND = 12
"""Queries and keys before and after what stands out, that an inset shows."""


def standing_out(request: Request, shown: AttentionMap) -> AttentionMap | None:
    """The part of a reduced map around its highest lone peak, a cell for each pair; None where there is none."""
    from numpy import nanargmax

    from attnviz.maps.map import map_of
    from attnviz.show.figures.marks import find_marks

    if not shown.reduced or shown.reduce != "max" or not isinstance(shown.keys, range):
        return None
    if shown.size != (len(request.rows), len(request.columns)):  # of words or spans, which stand for several
        return None
    peaks = find_marks(shown).peaks
    if not peaks:
        return None

    def pairs(queries: range, keys: range) -> AttentionMap:
        return map_of(request.but(queries=queries, keys=keys, pixels=max(len(queries), len(keys))), shown.head)

    request = request.alone()  # who draws is, and it is a small part
    (T, S), (rows, columns) = shown.size, shown.cells.shape
    row, column = max(peaks, key=lambda place: shown.cells[place])
    queries, keys = shown.queries, shown.keys
    of = pairs(
        queries[row * T // rows : (row + 1) * T // rows], keys[column * S // columns : (column + 1) * S // columns]
    )
    y, x = divmod(int(nanargmax(of.cells)), of.cells.shape[1])
    return pairs(_near(of.queries[y], queries), _near(of.keys[x], keys))


def _near(position: int, within: range) -> range:
    """Positions around one, as many at the ends."""
    start = max(within.start, min(position - _AROUND, within.stop - 2 * _AROUND))
    return range(start, min(within.stop, start + 2 * _AROUND))


@dataclass(frozen=True)
class Heatmap(OfHeads, OverMaps):
    """A head's heatmap, or a grid of heads with one color scale."""

    def compute(self, request: Request, progress: Progress | None = None) -> Parts:
        parts = self.maps(request, progress)
        if len(parts.maps) == 1 and self.how is None:
            parts = replace(parts, more={**parts.more, "part": partial(standing_out, request, parts.maps[0])})
        found = self.outlined(parts, request)
        return replace(found, maps=by_tags(found.maps)) if self.tags else found

    def draw(self, parts: Parts, look: Look, ax: Axes | None = None) -> Axes | Figure:
        from attnviz.show.figures.heatmap import heads_grid, heatmap
        from attnviz.show.figures.inset import inset_said

        words = self.words(parts, look) | {"marks": look.marks and not self.pattern_outline}
        if len(parts.maps) > 1:
            names = tag_names(parts.maps) if self.tags else None
            found: Axes | Figure = heads_grid(parts.maps, annot=self.annot, names=names, **words)
        else:
            if look.paper is not None and ax is None:
                words["part"] = parts.more["part"]() if "part" in parts.more else None
                if words["part"] is not None and look.caption is True:
                    words["caption"] += f" {inset_said(words['part']).capitalize()}."
            found = heatmap(parts.maps[0], ax, annot=self.annot, **words)
        self.draw_outlines(parts, found, given=ax is not None)
        return found
