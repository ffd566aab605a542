"""A, B and A - B of heads, drawn one way wherever they are from: two dumps, a kernel, two snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from attnviz.plots.look import Look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from attnviz.compare.snapshots.difference import SnapshotDifference
    from attnviz.maps.map import AttentionMap


@dataclass(frozen=True)
class Differences:
    """Maps of two sides and what lies between them, ready to draw.

    Args:
        pictures: A, B and A - B of each head.
        told: the maps that captions tell of: A, as it is called.
        sides: what A and B are, as captions say it.
    """

    pictures: Sequence[tuple[AttentionMap, AttentionMap, AttentionMap]]
    told: Sequence[AttentionMap]
    sides: str

    def between(self, look: Look) -> str:
        """How A - B is drawn, as a caption says it."""
        from attnviz.show.figures.difference import difference_words

        return difference_words(self.pictures, look.scale, marks=look.marks)

    def words(self, look: Look) -> str:
        """What the figure shows, for those who can't see it."""
        from attnviz.show.figures.captions import caption

        return caption(self.told, look.fitted(self.told), source=self.sides, notes=[self.between(look)])

    def draw(self, look: Look) -> Figure:
        """Draws them, a row a head."""
        from attnviz.show.figures.difference import difference_figure

        words = look.words(self.told, self.sides, said=[self.between(look)], marks=look.marks)
        return difference_figure(self.pictures, **words)


def of_snapshots(found: SnapshotDifference, sides: str) -> Differences | None:
    """The heads in which two snapshots differ most; None where they have no cells in common."""
    from attnviz.compare.snapshots.comparing import difference_maps

    maps = difference_maps(found)
    pattern = f"{found.stored.settings.get('pattern')}"
    return Differences(maps, [replace(stored, pattern=pattern) for stored, *_ in maps], sides) if maps else None
