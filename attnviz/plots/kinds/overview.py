"""A whole model at a glance: layers down, heads across, a small map each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from attnviz.base.errors import InputError
from attnviz.plots.kind import Parts
from attnviz.plots.look import Look
from attnviz.plots.said import said
from attnviz.plots.tagged import by_tags, tag_names, tagged

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from attnviz.base.types import Label, Progress
    from attnviz.engine.request import Request
    from attnviz.maps.layers import OverviewRow


@dataclass(frozen=True)
class Overview:
    """Every head of every layer. It is asked of several layers, and so no :class:`attnviz.plots.kind.Kind`."""

    each: bool = said(False, "A color scale for each panel, in place of one for all.")
    tags: bool = said(False, "Sort heads of all layers by what they do and name it: sink, previous, induction, …")

    def __post_init__(self) -> None:
        if self.each and self.tags:
            raise InputError("--tags draws all heads on one scale; leave --each out")

    def compute(
        self,
        layers: Iterable[tuple[Label | None, Request]],
        count: int,
        source: str,
        look: Look,
        ax: Axes | None = None,
        progress: Progress | None = None,
    ) -> Parts:
        """The small maps, in as many cells as each panel of the figure has room for.

        Args:
            layers: labels and what is asked of each layer; each is let go before the next is read.
            count: how many layers there are.
            source: where they come from, for captions.
            look: how the figure will look.
            ax: the Axes to draw into; None makes a figure.
            progress: called with the number of rows done, as they are.
        """
        from attnviz.base.words import count as counted
        from attnviz.maps.layers import overview_row
        from attnviz.plots.room import model, panels

        rows: list[OverviewRow] = []
        room = 0
        for label, request in layers:
            if self.tags:
                fitted = panels(request, count * len(request.chosen), look)
            else:
                room = room or model(count, len(request.chosen), look, ax)
                fitted = request.but(pixels=min(request.pixels, room))
            del request  # before the next layer is read
            row = overview_row(label, fitted, progress=progress)
            rows.append(replace(row, maps=tagged(row.maps, fitted)) if self.tags else row)
            del fitted
        maps = tuple(shown for row in rows for shown in row.maps)
        each = Counter(shown.tag for shown in maps).most_common() if self.tags else []
        notes = (f"tags: {', '.join(f'{number} {tag}' for tag, number in each)}",) if each else ()
        return Parts(maps, f"{source}, {counted(len(rows), 'layer')}", notes=notes, more={"rows": rows})

    def draw(self, parts: Parts, look: Look, ax: Axes | None = None) -> Axes | Figure:
        """Draws them, layers down and heads across; heads that are sorted by what they do as a grid."""
        from attnviz.show.figures.heatmap import heads_grid
        from attnviz.show.figures.overview import overview_figure

        if self.tags:
            if ax is not None:
                raise InputError("tags make a figure of their own; leave ax out")
            maps = by_tags(parts.maps)
            return heads_grid(maps, names=tag_names(maps), **look.words(maps, parts.source, marks=look.marks))
        scale = None
        if self.each and look.caption is True:
            scale = look.fitted(parts.maps)
            scale = replace(scale, note=f"each panel has a {look.norm} color scale of its own")
        words = look.words(parts.maps, parts.source, scale=scale)
        return overview_figure(parts.more["rows"], ax, each=self.each, dpi=look.dots, marks=look.marks, **words)
