"""What sets a snapshot apart from the stored one: stored, now and the difference, of the heads that differ most."""

from __future__ import annotations

import warnings
from pathlib import Path

from attnviz.figures.difference import difference_figure
from attnviz.figures.style import house_style, save_figure
from attnviz.snapshots import SnapshotDifference, difference_maps


def write_difference(path: Path, found: SnapshotDifference) -> bool:
    """Draws what differs into a file.

    Args:
        path: a .png, .pdf or .svg.
        found: the comparison.

    Returns:
        Whether there was something to draw: not where the two have no cells in common.

    Raises:
        InputError: an unknown suffix, or a path that cannot be written.
    """
    maps = difference_maps(found)
    if not maps:
        return False
    with house_style(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that no font here has are boxes, and no test's failure
        save_figure(difference_figure(maps), path)
    return True
