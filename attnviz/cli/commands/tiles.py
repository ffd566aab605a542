"""``attnviz tiles``: a map at every zoom, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnviz.base.errors import InputError
from attnviz.cli.groups import command
from attnviz.cli.options import Compute, Heads, Item, PatternChoice, Source


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz tiles dump.safetensors --head 0 --pattern causal -o tiles")
    def tiles(
        source: Source,
        out: Annotated[
            Path, typer.Option("--out", "-o", help="Directory to make; it must not exist yet.", show_default=False)
        ],
        head: Heads = "all",
        batch: Item = "0",
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        levels: Annotated[
            str | None,
            typer.Option(
                metavar="LEVELS", help="Levels to write: 0-3, all.  \\[default: those of one pass, to 2,048 cells]"
            ),
        ] = None,
        memory: Annotated[
            str | None, typer.Option(metavar="SIZE", help="Bound on memory beside the inputs: 512MiB, 2GiB.")
        ] = None,
    ) -> None:
        """Write a pyramid of 256 x 256 tiles: level 0 is the whole map, the last level has a cell a weight.

        Each tile is a file HEAD/REDUCTION/LEVEL/ROW-COLUMN.npy of float32, NaN where nothing is visible;
        pyramid.json says what there is. Levels finer than the one pass are made tile by tile.
        """
        import json

        import numpy as np

        from attnviz.base.selections import parse_bytes, parse_index, parse_indices
        from attnviz.base.words import count
        from attnviz.base.writing import atomic_directory
        from attnviz.cli.console import note
        from attnviz.cli.progress import rows_progress
        from attnviz.engine.reducer import REDUCTIONS
        from attnviz.maps.pyramid import TILE, Pyramid

        bound = None if memory is None else parse_bytes(memory)
        inputs = source.load(compute.dtype)
        item = parse_index(batch, inputs.B, option="--batch", noun="batch item")
        heads = parse_indices(head, inputs.H, option="--head", noun="head")
        pyramid = Pyramid.of(inputs, choice.choose(inputs.pattern), batch=item, device=compute.device, memory=bound)
        chosen = (
            tuple(range(pyramid.overview_level + 1))
            if levels is None
            else parse_indices(levels, pyramid.levels, option="--levels", noun="level")
        )
        grids = {level: pyramid.grid(level) for level in chosen}
        files = len(heads) * len(REDUCTIONS) * sum(rows * columns for rows, columns in grids.values())
        if files > 200_000:
            raise InputError(
                f"--levels {levels}: {files:,} tiles of 256 KiB are too many files; write fewer levels, "
                f"and take single tiles from attnviz.Pyramid"
            )
        with atomic_directory(out) as temporary:
            for each in heads:
                with rows_progress(inputs.T, f"head {each}") as progress:
                    pyramid.prepare(each, progress)
                for reduce in REDUCTIONS:
                    for level, (rows, columns) in grids.items():
                        folder = temporary / f"{each}" / reduce / f"{level}"
                        folder.mkdir(parents=True)
                        for row, column in np.ndindex(rows, columns):
                            tile = pyramid.tile(each, level, row, column, reduce=reduce)
                            np.save(folder / f"{row}-{column}.npy", tile)
            described = {
                "schema": "attnviz.tiles/1",
                "source": inputs.source,
                "pattern": str(pyramid.attention.pattern),
                "batch": item,
                "heads": list(heads),
                "reductions": list(REDUCTIONS),
                "queries": inputs.T,
                "keys": inputs.S,
                "tile": TILE,
                "levels": [
                    {"level": level, "cell": pyramid.cell(level), "rows": rows, "columns": columns}
                    for level, (rows, columns) in grids.items()
                ],
            }
            (temporary / "pyramid.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
        note(
            f"wrote {out}: {files:,} tiles of {count(len(heads), 'head')}, level{'s' * (len(chosen) > 1)} {', '.join(map(str, chosen))}"
        )
