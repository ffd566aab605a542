"""A map at every zoom as files: a directory of tiles, and what there is in JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from attnviz.base.errors import InputError
from attnviz.base.types import Progress
from attnviz.base.writing import atomic_directory
from attnviz.engine.reducer import REDUCTIONS
from attnviz.maps.pyramid import TILE, Pyramid

MOST_FILES = 200_000


def write_tiles(
    out: Path,
    pyramid: Pyramid,
    heads: Sequence[int],
    levels: Sequence[int],
    *,
    watch: Callable[[int, str], AbstractContextManager[Progress | None]] = lambda rows, title: nullcontext(),
) -> int:
    """Writes tiles as ``HEAD/REDUCTION/LEVEL/ROW-COLUMN.npy``, and ``pyramid.json``, whole or not at all.

    Args:
        out: the directory to make.
        pyramid: the maps.
        heads, levels: those to write.
        watch: shows the progress of a head's one pass.

    Returns:
        How many tiles there are.

    Raises:
        InputError: too many files; a directory that can't be made; as :meth:`attnviz.Pyramid.tile`.
    """
    grids = {level: pyramid.grid(level) for level in levels}
    files = len(heads) * len(REDUCTIONS) * sum(rows * columns for rows, columns in grids.values())
    if files > MOST_FILES:
        raise InputError(
            f"--levels {','.join(map(str, levels))}: {files:,} tiles of 256 KiB are too many files; write fewer levels, "
            f"and take single tiles from attnviz.Pyramid"
        )
    with atomic_directory(out) as temporary:
        for head in heads:
            with watch(pyramid.item.T, f"head {head}") as progress:
                pyramid.prepare(head, progress)
            _write_head(temporary / f"{head}", pyramid, head, grids)
        described = json.dumps(_described(pyramid, heads, grids), indent=1)
        (temporary / "pyramid.json").write_text(f"{described}\n", encoding="utf-8")
    return files


def _write_head(folder: Path, pyramid: Pyramid, head: int, grids: dict[int, tuple[int, int]]) -> None:
    """The tiles of one head."""
    for reduce in REDUCTIONS:
        for level, grid in grids.items():
            inside = folder / reduce / f"{level}"
            inside.mkdir(parents=True)
            for row, column in np.ndindex(*grid):
                np.save(inside / f"{row}-{column}.npy", pyramid.tile(head, level, row, column, reduce=reduce))


def _described(pyramid: Pyramid, heads: Sequence[int], grids: dict[int, tuple[int, int]]) -> dict[str, Any]:
    """What there is."""
    item = pyramid.item
    return {
        "schema": "attnviz.tiles/1",
        "source": item.inputs.source,
        "pattern": pyramid.attention.pattern_name,
        "batch": item.batch,
        "heads": list(heads),
        "reductions": list(REDUCTIONS),
        "queries": item.T,
        "keys": item.S,
        "tile": TILE,
        "levels": [
            {"level": level, "cell": pyramid.cell(level), "rows": rows, "columns": columns}
            for level, (rows, columns) in grids.items()
        ],
    }
