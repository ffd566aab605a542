"""What sets a snapshot apart from the stored one: stored, now and the difference, of the heads that differ most."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from attnviz.base.words import in_place
from attnviz.compare.snapshots.comparing import difference_maps
from attnviz.compare.snapshots.difference import SnapshotDifference
from attnviz.compare.snapshots.files import SUFFIXES, is_snapshot
from attnviz.compare.snapshots.snapshot import Snapshot
from attnviz.maps.map import AttentionMap
from attnviz.show.figures.about import About
from attnviz.show.figures.difference import difference_figure
from attnviz.show.figures.heatmap import heads_grid
from attnviz.show.figures.style import LOOK, house_style, save_figure

WRITTEN_BY = "attnviz snapshot"
"""What the picture of a snapshot says that it was made by."""

_LOOK = "attnviz look"  # where a picture says how it looks


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
    with _drawing():
        save_figure(difference_figure(maps), path, about=About(words_of(maps), {"kind": "snapshot"}))
    return True


def words_of(maps: Sequence[tuple[AttentionMap, ...]]) -> str:
    """What a figure of differences shows, for those who can't see it."""
    heads = ", ".join(in_place(stored.heads_name, stored.layer, stored.batch) for stored, *_ in maps)
    return f"{maps[0][0].values.capitalize()} that differ from a stored snapshot, what they are now, and the difference: {heads}."


def draw_snapshot(snapshot: Snapshot) -> bytes:
    """The PNG of a snapshot's heads on one color scale, the same for the same numbers under one matplotlib."""
    reduction = next(iter(snapshot.heads[0].cells))
    maps = list(snapshot.maps(str(snapshot.settings.get("pattern", "")), reduction).values())
    stream = io.BytesIO()
    with _drawing():
        told = {"Software": WRITTEN_BY, _LOOK: f"{LOOK}"}
        heads_grid(maps).savefig(stream, format="png", dpi=100, metadata=told)
    return stream.getvalue()


def other_look(stored: bytes) -> str | None:
    """Which look a stored picture has, where it is not today's: then a comparison would say nothing of the numbers."""
    try:
        with Image.open(io.BytesIO(stored)) as picture:
            told = picture.info.get(_LOOK)
    except OSError:
        return None  # no picture, which is said elsewhere
    if told == f"{LOOK}":
        return None
    return f"look {told or 1}, and figures have look {LOOK} now"


def is_picture(path: Path) -> bool:
    """Whether a file is the picture of a snapshot: it says so, or lies beside its numbers, as those before did."""
    try:
        with Image.open(path) as picture:
            told = picture.info.get("Software") == WRITTEN_BY
    except (OSError, ValueError, SyntaxError):
        return False
    return told or any(is_snapshot(path.with_suffix(suffix)) for suffix in SUFFIXES)


def pixels_apart(stored: bytes, now: bytes) -> str | None:
    """What sets two PNGs apart, where a channel of a pixel differs by more than 8 of 255; None where nothing does."""
    try:
        one, other = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int) for png in (stored, now))
    except OSError:
        return "is not a readable picture"
    if one.shape != other.shape:
        (height, width), (high, wide) = one.shape[:2], other.shape[:2]
        return f"has {width} x {height} pixels, and is drawn with {wide} x {high} now"
    apart = np.abs(one - other).max(-1)
    count = int((apart > _PIXEL_STEPS).sum())
    return f"differs in {count} pixels by more than {_PIXEL_STEPS} of 255, the most by {apart.max()}" if count else None


_PIXEL_STEPS = 8  # a last bit moves a cell by one color of the palette's 256, some 3 steps


@contextmanager
def _drawing() -> Iterator[None]:
    with house_style(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that no font here has are boxes, and no test's failure
        yield
