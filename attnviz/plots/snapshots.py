"""Two snapshots drawn beside each other, for the library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnviz.base.errors import InputError
from attnviz.plots.differences import of_snapshots
from attnviz.plots.look import COLORS, Look
from attnviz.plots.taking import looks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from attnviz.compare.snapshots.snapshot import Snapshot


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

    names = [f"{side}" if isinstance(side, str | Path) else None for side in (stored, now)]
    a, b = (read_snapshot(Path(side)) if isinstance(side, str | Path) else side for side in (stored, now))
    sides = f"A {names[0] or 'stored'}; B {names[1] or 'now'}"
    found = of_snapshots(compare_snapshots(a, b, explicit(atol, rtol)), sides)
    if found is None:
        raise InputError(
            f"{sides}: they have no cells in common; are they of the same heads, queries, keys and values?"
        )
    return showing(found.draw(Look(**look)))
