"""Two maps of each head on one color scale, and their difference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from attnviz.plots.differences import Differences
from attnviz.plots.kind import Kind, Parts, Reader
from attnviz.plots.look import Look
from attnviz.plots.said import said

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from attnviz.attention.inputs import Inputs
    from attnviz.attention.patterns import Pattern
    from attnviz.base.types import Progress
    from attnviz.engine.request import Request


@dataclass(frozen=True)
class Compare(Kind):
    """Another dump: A, B and A - B side by side."""

    name: ClassVar[str] = "compare"
    passes: ClassVar[int] = 3
    alone: ClassVar[bool] = True
    numbers: ClassVar[bool] = False

    b: Inputs | Path = said(
        None, "Another dump: A, B and A - B side by side.", option="compare", type=Path, metavar="B"
    )
    b_layer: str | None = said(
        None,
        "B: another layer.",
        type=str,
        metavar="N",
        refused="--b-layer {value}: it is the layer of B; name B with --compare",
    )
    b_pattern: Pattern | str | None = None  # None is b's own, else the global keys

    def reading(self, reader: Reader) -> Compare:
        if not isinstance(self.b, Path):
            return self
        b, pattern = reader.other(self.b, self.b_layer)
        return replace(self, b=b, b_pattern=pattern)

    def asked(self, request: Request) -> Request:
        from attnviz.compare.maps import check_sizes

        assert not isinstance(self.b, Path)
        check_sizes(request.inputs, request.of(self.b, self.b_pattern).inputs)
        return request

    def fitted(self, request: Request, look: Look, ax: Axes | None = None) -> Request:
        from attnviz.plots.room import comparison

        return comparison(request, look)

    def compute(self, request: Request, progress: Progress | None = None) -> Parts:
        from attnviz.compare.maps import compared

        assert not isinstance(self.b, Path)
        b = request.of(self.b, self.b_pattern)
        found = [compared(request.but(heads=head), b.but(heads=head), progress=progress) for head in request.chosen]
        a_maps = tuple(replace(shown.a, pattern=str(request.pattern)) for shown in found)
        differ = any(bool(((cells := shown.difference.cells) < 0).any() or (cells > 0).any()) for shown in found)
        notes = () if differ else ("A and B are the same here: A − B is 0 everywhere",)
        source = f"A {found[0].a.pattern}; B {found[0].b.pattern}"
        sides = tuple(side for shown in found for side in (shown.a, shown.b))
        return Parts(sides, source, a_maps, notes, more={"comparisons": found})

    def spoken(self, parts: Parts, look: Look) -> Parts:
        return replace(parts, said=(*parts.said, self._differences(parts).between(look)))

    def draw(self, parts: Parts, look: Look, ax: Axes | None = None) -> Figure:
        return self._differences(parts).draw(look)

    def _differences(self, parts: Parts) -> Differences:
        return Differences(parts.more["comparisons"], parts.spoken, parts.source)
