"""A, B and A - B of heads, drawn one way wherever they are from: two dumps, a kernel, two snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnviz.base.errors import InputError
from attnviz.compare.snapshots.snapshot import Snapshot
from attnviz.plots.look import COLORS, Look
from attnviz.plots.taking import looks

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


@looks("title", "caption", "width", "dpi", *COLORS)
def plot_snapshot(
    stored: Snapshot | str | Path,
    now: Snapshot | str | Path,
    *,
    atol: float | None = None,
    rtol: float | None = None,
    **look: Any,
) -> Figure:
    """Draws what sets a snapshot apart from the stored one: stored, now and the difference, of the heads that differ most.

    Args:
        stored: the snapshot that was kept, or its file.
        now: the later one, as :func:`attnviz.take_snapshot` makes it, or its file.
        atol, rtol: how far apart cells may be; None is what the stored one says.
        look: how it looks.

    Returns:
        The figure: a row a head, of four at the most.

    Raises:
        InputError: a file that is no snapshot; two that have no cells in common.

    >>> import attnviz
    >>> stored, now = (attnviz.take_snapshot(attnviz.synthesize(seed=seed), "causal", heads=[3]) for seed in (0, 1))
    >>> [panel.get_title() for panel in attnviz.plot_snapshot(stored, now).axes[:3]]
    ['A\\nstored', 'B\\nnow', 'stored − now']
    """
    from attnviz.compare.rounding import explicit
    from attnviz.compare.snapshots.comparing import compare_snapshots
    from attnviz.compare.snapshots.files import read_snapshot
    from attnviz.show.figures.style import showing

    names = [None if isinstance(side, Snapshot) else f"{side}" for side in (stored, now)]
    a, b = (side if isinstance(side, Snapshot) else read_snapshot(Path(side)) for side in (stored, now))
    sides = f"A {names[0] or 'stored'}; B {names[1] or 'now'}"
    found = of_snapshots(compare_snapshots(a, b, explicit(atol, rtol)), sides)
    if found is None:
        raise InputError(
            f"{sides}: they have no cells in common; are they of the same heads, queries, keys and values?"
        )
    return showing(found.draw(Look(**look)))
