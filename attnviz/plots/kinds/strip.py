"""A text, each token shaded by the weight that one query gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from attnviz.plots.kind import Parts
from attnviz.plots.kinds.heatmap import OfHeads
from attnviz.plots.look import Look
from attnviz.plots.said import said

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from attnviz.base.types import Progress
    from attnviz.engine.request import Request


@dataclass(frozen=True)
class Strip(OfHeads):
    """The text, shaded by what one query sees."""

    name: ClassVar[str] = "strip"
    hints: ClassVar[bool] = False  # one word that takes most is what a strip is for
    unused: ClassVar[Mapping[str, str]] = {"queries": "--strip {value} names the query; leave --queries out"}

    query: int | str = said(
        None,
        "The text, shaded by what one query sees: a position, or its word.",
        option="strip",
        type=str,
        metavar="QUERY",
    )

    def asked(self, request: Request) -> Request:
        from attnviz.show.figures.strip import check_tokens

        request = request.but(queries=self.found(request), pixels=request.inputs.S, every_key=True)
        check_tokens(len(request.columns), self.panels(request))
        return request

    def found(self, request: Request) -> range:
        """The one query."""
        from attnviz.base.selections import parse_token

        inputs, tokens = request.inputs, request.item.query_tokens
        found = parse_token(str(self.query), inputs.T, tokens, option="--strip", noun="query", source=inputs.source)
        return found[-1:]  # the token with which the word has been read

    def fitted(self, request: Request, look: Look, ax: Axes | None = None) -> Request:
        return request  # a text has a cell for each token

    def compute(self, request: Request, progress: Progress | None = None) -> Parts:
        return self.maps(request, progress)

    def draw(self, parts: Parts, look: Look, ax: Axes | None = None) -> Axes | Figure:
        from attnviz.show.figures.strip import strip, strips

        words = self.words(parts, look)
        return strips(parts.maps, **words) if len(parts.maps) > 1 else strip(parts.maps[0], ax, **words)
