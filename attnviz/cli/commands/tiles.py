"""``attnviz tiles``: a map at every zoom, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from attnviz.cli.choice import PatternChoice
from attnviz.cli.derived import NORMS, Derive, Weighed
from attnviz.cli.groups import command
from attnviz.cli.options import Compute, Heads, Item, Part, Seen, check_choice, request_of, tell_left_out
from attnviz.cli.source import Source


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
        part: Part = Part(),  # noqa: B008 (frozen)
        seen: Seen = Seen(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        derive: Derive = Derive(),  # noqa: B008 (frozen)
        values: Weighed = "weights",
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
        from attnviz.base.selections import parse_bytes, parse_indices
        from attnviz.base.words import count
        from attnviz.cli.console import note
        from attnviz.cli.progress import rows_progress
        from attnviz.maps.pyramid import Pyramid
        from attnviz.show.tiles import write_tiles

        bound = None if memory is None else parse_bytes(memory)
        weighed = check_choice("--values", values, ("weights", *NORMS))
        inputs, pattern, batch, _ = derive.load(source, choice, compute, batch, weighed)
        of: dict[str, Any] = {"head": head, "batch": batch, "seen": seen, "memory": bound, "region": part}
        request = derive.heads(request_of(inputs, pattern, compute, **of)).cropped()
        pyramid, heads = Pyramid(request.attention, bound), request.chosen
        chosen = tuple(range(pyramid.overview_level + 1))
        if levels is not None:
            chosen = parse_indices(levels, pyramid.levels, option="--levels", noun="level")
        files = write_tiles(out, pyramid, heads, chosen, watch=rows_progress)
        tell_left_out(request.attention.left_out(head) for head in heads)
        named = f"level{'s' * (len(chosen) > 1)} {', '.join(map(str, chosen))}"
        note(f"wrote {out}: {files:,} tiles of {count(len(heads), 'head')}, {named}")
