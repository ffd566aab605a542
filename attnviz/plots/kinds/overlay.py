"""What one query of a vision model sees, over the picture that it looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from attnviz.base.errors import InputError
from attnviz.plots.kind import Parts, Reader
from attnviz.plots.kinds.heatmap import OfHeads
from attnviz.plots.look import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from attnviz.base.types import Progress
    from attnviz.engine.request import Request

_WHOLE = "--overlay shows the weights of all patches; leave --values and --keys out"


@dataclass(frozen=True)
class Overlay(OfHeads):
    """Lay what the class token sees, or the query of --queries, over the picture it looks at."""

    name: ClassVar[str] = "overlay"
    unused: ClassVar[Mapping[str, str]] = {"values": _WHOLE, "keys": _WHOLE}

    picture: Tensor | None = None  # (height, width, 3)
    patches: tuple[int, int] = (0, 0)

    def reading(self, reader: Reader) -> Overlay:
        picture, patches = reader.picture()
        return replace(self, picture=picture, patches=patches)

    def asked(self, request: Request) -> Request:
        (rows, columns), S, source = self.patches, request.inputs.S, request.inputs.source
        first = S - rows * columns
        if first < 0:
            raise InputError(f"{source}: has {S} keys, fewer than the picture's {rows} x {columns} patches")
        queries = request.rows
        if len(queries) == request.inputs.T > 1:  # none is named
            if not first:
                raise InputError(f"{source}: has no class token; choose a patch as the query with --queries A:B")
            queries = range(1)
        if len(queries) != 1:
            raise InputError(
                f"--overlay shows one query; --queries {queries.start}:{queries.stop} names {len(queries)}"
            )
        keys = range(first, S)
        return request.but(queries=queries, keys=keys, pixels=len(keys), every_key=True)

    def fitted(self, request: Request, look: Look, ax: Axes | None = None) -> Request:
        return request  # a cell a patch

    def compute(self, request: Request, progress: Progress | None = None) -> Parts:
        return self.maps(request, progress)

    def draw(self, parts: Parts, look: Look, ax: Axes | None = None) -> Figure:
        from attnviz.show.figures.overlay import overlays

        assert self.picture is not None
        return overlays(self.picture.numpy(), parts.maps, self.patches, **parts.words(look))
