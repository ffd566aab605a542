"""Patterns: who may see whom and why, alone or with a head's weights; or the story of what local + global is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnviz.base.errors import InputError
from attnviz.plots.look import Look
from attnviz.plots.said import said

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from attnviz.attention.patterns import Pattern
    from attnviz.engine.request import Request
    from attnviz.maps.reasons import ReasonMap


@dataclass(frozen=True)
class Reasons:
    """Which query may see which key, each cell colored by why."""

    story: bool = said(False, "Three pictures: global, local, both.")
    weights: bool = False  # of the request's first head, drawn along

    def patterns(self, request: Request) -> dict[str, Pattern]:
        """What is drawn, by the title that each has."""
        whole = request.attention.pattern
        if not self.story:
            return {"": whole}
        parts = dict(whole.reasons())
        if set(parts) != {"window", "global key", "global query"}:
            raise InputError("--story tells how local and global make local+global; leave --pattern out")
        return {
            "global": parts["global key"] | parts["global query"],
            "local": parts["window"],
            "both: local + global": whole,
        }

    def fitted(self, request: Request, look: Look) -> Request:
        """The same request, in no more cells than the figure has room for."""
        from attnviz.plots.room import reasons

        return reasons(request, len(self.patterns(request)), look)

    def compute(self, request: Request) -> dict[str, ReasonMap]:
        """The reasons of each picture, by its title."""
        from attnviz.maps.reasons import reasons_of

        request = request.but(every_key=True)
        return {
            title: reasons_of(request.but(pattern=pattern), weights=self.weights)
            for title, pattern in self.patterns(request).items()
        }

    def draw(self, maps: dict[str, ReasonMap], look: Look) -> Axes | Figure:
        """Draws them, side by side where there are several."""
        from attnviz.show.figures.pattern import pattern_figure, story_figure

        if self.story:
            return story_figure([*maps.values()], [*maps], title=look.title)
        return pattern_figure(maps[""], title=look.title)
