"""``attnviz plot``: heatmaps to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from attnviz.base.errors import InputError
from attnviz.cli.kinds import Kind, drawn
from attnviz.cli.look import Look
from attnviz.cli.options import Compute, Heads, PatternChoice, Region, Source, Values, check_choice, command
from attnviz.cli.overlay import picture_query


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
        kind: Kind = Kind(),  # noqa: B008 (frozen)
        annot: Annotated[bool, typer.Option("--annot", help="Write the values into the cells of a small map.")] = False,
        overlay: Annotated[
            bool,
            typer.Option(
                "--overlay",
                help="Lay what the class token sees, or the query of --queries, over the picture it looks at.",
            ),
        ] = False,
    ) -> None:
        """Draw one head's heatmap, or a grid of heads with one color scale; or figures of other kinds.

        A map of any length: where it is larger than the picture, each cell holds the largest weight of its pairs
        (max), or their mass. Under torchrun, ranks share the rows.
        """
        check_choice("--values", values, ("weights", "logits"))
        check_choice("--reduce", region.reduce, ("max", "mass"))
        look.check()
        kind.check(out, overlay=overlay, annot=annot, queries=region.queries)
        from dataclasses import replace

        from attnviz.base.selections import parse_index, parse_indices
        from attnviz.base.writing import check_new_directory, check_output
        from attnviz.cli.console import note
        from attnviz.cli.progress import rows_progress
        from attnviz.show.exports import require_zarr, write_maps
        from attnviz.show.figures.style import SUFFIXES as FIGURES

        for path in out:
            check_output(path, (*FIGURES, ".npz", ".zarr"), inputs=[*source.paths(), *choice.paths(), *kind.paths()])
            if path.suffix.lower() == ".zarr":
                check_new_directory(path)
                require_zarr(path)
        figures = [path for path in out if path.suffix.lower() in FIGURES]
        data = [path for path in out if path not in figures]
        memory = region.bound()

        from numpy import isnan, nan_to_num

        from attnviz.compare.maps import compare_maps
        from attnviz.engine.ranks import rank_device, ranks
        from attnviz.engine.request import Request
        from attnviz.maps.marginals import marginals
        from attnviz.maps.reasons import reason_map
        from attnviz.show.figures.cells import most_cells
        from attnviz.show.figures.difference import comparison_inches
        from attnviz.show.figures.heatmap import panel_inches
        from attnviz.show.figures.strip import check_tokens
        from attnviz.show.figures.style import save_figure

        with ranks(compute.device) as world:  # before anything is read: a rank that cannot read stops the others
            inputs = source.load(compute.dtype)
            item = parse_index(batch, inputs.B, option="--batch", noun="batch item")
            heads = parse_indices(head, inputs.H, option="--head", noun="head")
            kind.check_heads(heads)
            if world.size > 1 and (kind.detail or kind.compare):
                raise InputError("--detail and --compare run in one process; start attnviz without torchrun")
            pattern = choice.choose(inputs.pattern)
            seen = picture_query(source.source, inputs, region, values, item) if overlay else None
            positions = region.ranges(inputs, item)
            queries, keys = (seen.queries, seen.keys) if seen is not None else (positions["queries"], positions["keys"])
            size = len(queries or range(inputs.T)), len(keys or range(inputs.S))
            pixels, asked = region.pixels, min(region.pixels, max(size))
            if figures:
                one = comparison_inches(size, look.inches) if kind.compare else None
                panel = one or panel_inches(size, 1 if kind.how else len(heads), look.inches)
                pixels = min(pixels, most_cells(panel, look.dots))
            if data and pixels < asked and seen is None:
                note(f"{data[0]}: {pixels} cells a side, which is what the figure has room for; alone it has {asked}")
            pixels = pixels if seen is None else len(seen.keys)
            if kind.strip is not None:
                queries, pixels = kind.query(inputs, item), inputs.S
            columns = Request(inputs, pattern, batch=item, keys=keys).columns
            kind.check_outline(columns, pattern)
            every = False
            if kind.strip is not None:
                if not isinstance(columns, range):  # a text has its other words too, which are not seen
                    every, columns = True, keys or range(inputs.S)
                check_tokens(len(columns), 1 if kind.how else len(heads))
            what: dict[str, Any] = {
                "batch": item,
                "pixels": pixels,
                "queries": queries,
                "keys": keys,
                "every_key": every,
                "device": rank_device(compute.device),
            }
            streamed: dict[str, Any] = {"values": values, "memory": memory, "ranks": world}
            rows = len(queries or range(inputs.T)) * len(heads) // world.size
            passes = 3 if kind.compare else 2 if kind.detail else 1
            extra: dict[str, Any] = {"strip": kind.strip is not None}
            with rows_progress(rows * passes, "plot", watched=world.rank == 0) as progress:
                streamed["progress"] = progress
                if kind.compare:
                    other = kind.other(source, compute.dtype)
                    b_pattern = choice.choose(other.pattern)
                    extra["comparisons"] = [
                        compare_maps(inputs, other, each, pattern, b_pattern, reduce=region.reduce, **what, **streamed)
                        for each in heads
                    ]
                    maps = [side for shown in extra["comparisons"] for side in shown[:2]]
                    same = not any(nan_to_num(shown.difference.cells).any() for shown in extra["comparisons"])
                else:
                    maps = kind.maps(inputs, heads, pattern, region.reduce, **what, **streamed)
                if kind.detail:
                    del what["pixels"]
                    extra["sides"] = marginals(inputs, heads[0], pattern, progress=progress, **what)
                if kind.pattern_outline:
                    finest = max(maps[0].cells.shape)
                    reasons = reason_map(inputs, pattern, pixels=finest, batch=item, queries=queries, keys=keys)
                    extra["reasons"] = reasons
                    if (reasons.cells == reasons.cells[0, 0]).all():
                        note(f"--pattern-outline: the {pattern} pattern has no edge in what is shown")
            world.wait()
            if kind.compare and same:
                note("A and B are the same here: A − B is 0 everywhere")
            words: dict[str, Any] = {}
            if world.rank == 0 and figures:
                of = f"A {maps[0].pattern}; B {maps[1].pattern}" if kind.compare else inputs.source
                told = [replace(shown, pattern=str(pattern)) for shown in maps[::2]] if kind.compare else maps
                if all(isnan(shown.cells).all() for shown in maps):
                    note("nothing is visible in what is shown: no query of it sees a key of it")
                if kind.strip is None:  # one word that takes most is what a strip is for
                    look.hint(told)
                words = {"title": look.title, "caption": look.words(told, of), "width": look.inches}
            for path in out if world.rank == 0 else ():
                if path in data:
                    write_maps(path, maps, inputs.source)
                else:
                    with look.drawing(maps):
                        if seen is not None:
                            figure = seen.draw(maps, **words, **look.colors)
                        else:
                            figure = drawn(maps, **extra, annot=annot, **words, **look.colors)
                        look.check_height(figure)
                        save_figure(figure, path, dpi=look.dots, transparent=look.transparent)
                note(f"wrote {path}")
