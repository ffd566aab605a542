"""Patterns: who may see whom and why, alone or with a head's weights; or the story of what local + global is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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

    def draw(self, maps: dict[str, ReasonMap], look: Look, source: str = "", ax: Axes | None = None) -> Axes | Figure:
        """Draws them, into ``ax`` where it is one, side by side where there are several."""
        from attnviz.show.figures.pattern import pattern_figure, story_figure

        caption = self.words(maps, source) if look.caption is True else look.caption or None
        how: dict[str, Any] = {"title": look.title, "caption": caption, "width": look.inches}
        if not self.story:
            return pattern_figure(maps[""], ax, **how)
        if ax is not None:
            raise InputError("a story is three pictures, in a figure of its own; leave ax out")
        return story_figure([*maps.values()], [*maps], **how)

    def words(self, maps: dict[str, ReasonMap], source: str) -> str:
        """What the figure shows, as a caption says it."""
        from attnviz.base.words import count
        from attnviz.maps.map import cell_words

        (first, *_), names = maps.values(), [shown.pattern for shown in maps.values()]
        sizes = f"{count(len(first.queries), 'query', 'queries')} × {count(len(first.keys), 'key')}"
        cells = f", {cell_words(first.cell_size)}" if first.reduced else ""
        weights = (
            f" Squares are weights of head {first.head}: the area of each is its share of the largest."
            if self.weights
            else ""
        )
        return f"{source}. Pattern: {'; '.join(names)}. {sizes}{cells}, colored by why the query sees the key; gray is not visible.{weights}"
