"""A map with its sides: the attention each key receives, and the entropy of each query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from attnviz.base.errors import InputError
from attnviz.plots.kind import Parts
from attnviz.plots.kinds.heatmap import OverMaps
from attnviz.plots.look import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from attnviz.base.types import Progress
    from attnviz.engine.request import Request


@dataclass(frozen=True)
class Detail(OverMaps):
    """With what each key receives above, and each query's entropy beside."""

    name: ClassVar[str] = "detail"
    passes: ClassVar[int] = 2
    alone: ClassVar[bool] = True

    def asked(self, request: Request) -> Request:
        if len(request.chosen) > 1:
            raise InputError(f"--detail shows one head, {len(request.chosen)} are asked for; choose it with --head")
        return OverMaps.asked(self, request)

    def compute(self, request: Request, progress: Progress | None = None) -> Parts:
        from attnviz.maps.map import map_of
        from attnviz.maps.marginals import marginals_of

        shown = map_of(request, progress=progress)
        sides = marginals_of(request, progress=progress)
        caveat = request.attention.caveat
        notes = () if caveat is None else (caveat,)
        said = (
            "Above the map: the mean weight on each key, of the queries that see it",
            "Beside it: the entropy of each query in nats, up to the log of the keys",
        )
        parts = Parts((shown,), request.inputs.source, notes=notes, said=said, more={"sides": sides})
        return self.outlined(parts, request)

    def draw(self, parts: Parts, look: Look, ax: Axes | None = None) -> Axes:
        from attnviz.show.figures.detail import detail

        words = self.words(parts, look) | {"marks": look.marks and not self.pattern_outline}
        found = detail(parts.maps[0], parts.more["sides"], ax, annot=self.annot, **words)
        self.draw_outlines(parts, found, given=ax is not None)
        return found
