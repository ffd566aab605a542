"""A short text, an arc for each weight."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from attnviz.base.errors import InputError
from attnviz.plots.kind import Parts
from attnviz.plots.kinds.heatmap import OfHeads
from attnviz.plots.look import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from attnviz.base.types import Progress
    from attnviz.engine.request import Request


@dataclass(frozen=True)
class Arcs(OfHeads):
    """A short text, an arc from each token to those that it sees: back above the text, forward below it."""

    name: ClassVar[str] = "arcs"

    def asked(self, request: Request) -> Request:
        from attnviz.show.figures.arcs import check_arc_tokens

        if self.panels(request) > 1:
            raise InputError(
                f"--arcs shows one head, {len(request.chosen)} are asked for; choose it with --head, or take their --mean"
            )
        request = request.but(every_key=True)
        check_arc_tokens(len(request.rows), len(request.columns))
        return request.but(pixels=max(len(request.rows), len(request.columns)))

    def fitted(self, request: Request, look: Look, ax: Axes | None = None) -> Request:
        return request  # a text has a cell for each pair

    def compute(self, request: Request, progress: Progress | None = None) -> Parts:
        import numpy as np

        parts, item = self.maps(request, progress), request.item
        first = request.columns[0]
        own = None
        if not item.cross:
            at = [int(item.keys_of_queries[query]) - first for query in request.rows]
            own = [n if 0 <= n < len(request.columns) else -1 for n in at]
        said = "An arc leads from a token to each that it sees, above the text to earlier ones, below it to later ones"
        said = "A line leads from each query, above, to the keys that it sees" if own is None else said
        notes = parts.notes
        if own is not None and -1 in own:
            notes += (
                f"--arcs: {own.count(-1)} of {len(own)} queries stand at none of the keys shown, and have no arcs",
            )
        # What is not visible has no arc, and no color that captions would speak of.
        told = tuple(
            replace(shown, cells=np.where(np.isnan(shown.cells), np.nanmin(shown.cells, initial=1), shown.cells))
            for shown in parts.maps
        )
        return replace(parts, told=told, notes=notes, said=(said,), more={"own": own})

    def draw(self, parts: Parts, look: Look, ax: Axes | None = None) -> Axes:
        from attnviz.show.figures.arcs import arcs

        if ax is not None:
            raise InputError("--arcs makes a figure of its own, as high as its arcs; leave ax out")
        return arcs(parts.maps[0], parts.more["own"], **self.words(parts, look))
