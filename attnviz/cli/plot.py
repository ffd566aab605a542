"""``attnviz plot``: heatmaps to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnviz.cli.look import Look
from attnviz.cli.options import Compute, Heads, PatternChoice, Region, Source, Values, check_choice, command
from attnviz.cli.overlay import picture_query

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz plot dump.safetensors --head all -o heads.png")
    def plot(
        source: Source,
        out: Annotated[
            list[Path],
            typer.Option(
                "--out",
                "-o",
                help="Figure (.png, .pdf, .svg) or the reduced map itself (.npz, .zarr); may be given again.",
                show_default=False,
            ),
        ],
        head: Heads = "all",
        batch: Annotated[str, typer.Option(metavar="B", help="Batch item.")] = "0",
        values: Values = "weights",
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        region: Region = Region(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        look: Look = Look(),  # noqa: B008 (frozen)
        annot: Annotated[bool, typer.Option("--annot", help="Write the values into the cells of a small map.")] = False,
        overlay: Annotated[
            bool,
            typer.Option(
                "--overlay",
                help="Lay what the class token sees, or the query of --queries, over the picture it looks at.",
            ),
        ] = False,
    ) -> None:
        """Draw one head's heatmap, or a grid of heads with one color scale.

        A map of any length: where it is larger than the picture, each cell holds the largest weight of its pairs
        (max), or their mass. Under torchrun, ranks share the rows.
        """
        check_choice("--values", values, ("weights", "logits"))
        look.check()
        from attnviz.cli.console import note
        from attnviz.cli.progress import rows_progress
        from attnviz.exports import require_zarr, write_maps
        from attnviz.figures.style import SUFFIXES as FIGURES
        from attnviz.selections import parse_index, parse_indices
        from attnviz.writing import check_new_directory, check_output

        for path in out:
            check_output(path, (*FIGURES, ".npz", ".zarr"), inputs=[*source.paths(), *choice.paths()])
            if path.suffix.lower() == ".zarr":
                check_new_directory(path)
                require_zarr(path)
        memory = region.bound()

        from attnviz.distributed import rank_device, ranks
        from attnviz.figures.heatmap import heads_grid, heatmap, most_pixels
        from attnviz.figures.style import save_figure
        from attnviz.maps import attention_map

        with ranks(compute.device) as world:  # before anything is read: a rank that cannot read stops the others
            inputs = source.load(compute.dtype)
            item = parse_index(batch, inputs.B, option="--batch", noun="batch item")
            heads = parse_indices(head, inputs.H, option="--head", noun="head")
            pattern = choice.choose(inputs.pattern)
            pixels = region.pixels
            if any(path.suffix.lower() in FIGURES for path in out):
                pixels = min(pixels, most_pixels(len(heads), look.dots, look.inches))
            seen = picture_query(source.source, inputs, region, values) if overlay else None
            positions = region.ranges(inputs)
            queries, keys = (seen.queries, seen.keys) if seen is not None else (positions["queries"], positions["keys"])
            pixels = pixels if seen is None else len(seen.keys)
            rows = len(queries or range(inputs.T)) * len(heads) // world.size
            with rows_progress(rows, "plot", watched=world.rank == 0) as progress:
                maps = [
                    attention_map(
                        inputs,
                        each,
                        pattern,
                        batch=item,
                        values=values,
                        reduce=region.reduce,
                        pixels=pixels,
                        queries=queries,
                        keys=keys,
                        device=rank_device(compute.device),
                        memory=memory,
                        progress=progress,
                        reduce_with=world.reduce_map,
                    )
                    for each in heads
                ]
            world.wait()
            words: dict[str, Any] = {}
            if world.rank == 0 and any(path.suffix.lower() in FIGURES for path in out):
                look.hint(maps)
                words = {"title": look.title, "caption": look.words(maps, inputs.source), "width": look.inches}
            for path in out if world.rank == 0 else ():
                if path.suffix.lower() not in FIGURES:
                    write_maps(path, maps, inputs.source)
                else:
                    with look.drawing(maps):
                        figure: Figure | None
                        if seen is not None:
                            figure = seen.draw(maps, **words, **look.colors)
                        elif len(maps) > 1:
                            figure = heads_grid(maps, annot=annot, **words, **look.colors)
                        else:
                            figure = heatmap(maps[0], annot=annot, **words, **look.colors).get_figure(root=True)
                        assert figure is not None
                        look.check_height(figure)
                        save_figure(figure, path, dpi=look.dots, transparent=look.transparent)
                note(f"wrote {path}")
