"""``attnviz stats``: what each head does, in numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnviz.base.errors import InputError
from attnviz.cli.options import Compute, Heads, PatternChoice, Source, check_choice, command


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz stats dump.safetensors --pattern causal --sort entropy")
    def stats(
        source: Source,
        head: Heads = "all",
        batch: Annotated[str, typer.Option(metavar="B", help="Batch item.")] = "0",
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        sort: Annotated[str | None, typer.Option(help="Statistic to sort by, largest first.")] = None,
        ascending: Annotated[bool, typer.Option("--ascending", help="Smallest first.")] = False,
        format: Annotated[str, typer.Option(help="table, json or csv.")] = "table",
        statistic: Annotated[str, typer.Option(help="Statistic that the figure shows.")] = "entropy",
        out: Annotated[
            Path | None,
            typer.Option("--out", "-o", help="Figure of layers x heads (.png, .pdf, .svg), or data (.json, .csv)."),
        ] = None,
    ) -> None:
        """Print entropy, global mass, sink, distance and more: a row a head, of every layer of a dump.

        Each number is a mean over the queries that see a key. The statistics: entropy, entropy_share, max_weight,
        global_mass, sink_mass, distance, diagonal_mass, previous_mass.
        """
        check_choice("--format", format, ("table", "json", "csv"))
        from dataclasses import replace

        from attnviz.base.selections import parse_index, parse_indices
        from attnviz.base.writing import check_output
        from attnviz.cli.console import note
        from attnviz.cli.progress import rows_progress
        from attnviz.measures.statistics import STATISTICS, HeadStatistics, head_statistics
        from attnviz.show import exports

        if sort is not None:
            check_choice("--sort", sort, tuple(STATISTICS))
        elif ascending:
            raise InputError("--ascending: it turns --sort around, and no --sort is given")
        check_choice("--statistic", statistic, tuple(STATISTICS))
        if statistic != "entropy" and (out is None or out.suffix.lower() in (".json", ".csv")):
            raise InputError(
                f"--statistic {statistic}: it says what a figure shows; name one with -o (.png, .pdf, .svg)"
            )
        if out is not None:
            check_output(out, (".png", ".pdf", ".svg", ".json", ".csv"), inputs=[*source.paths(), *choice.paths()])

        found: list[HeadStatistics] = []
        patterns: list[str] = []
        for label in source.layers():
            inputs = replace(source, layer=label).load(compute.dtype)
            item = parse_index(batch, inputs.B, option="--batch", noun="batch item")
            heads = parse_indices(head, inputs.H, option="--head", noun="head")
            pattern = choice.choose(inputs.pattern)
            patterns.append(str(pattern))
            with rows_progress(inputs.T * len(heads), "stats" if label is None else f"layer {label}") as progress:
                found += head_statistics(
                    inputs,
                    pattern,
                    batch=item,
                    heads=heads,
                    device=compute.device,
                    progress=progress,
                )
        if sort is not None:
            # Heads without the statistic come last either way.
            key = sort
            known = [row for row in found if getattr(row, key) is not None]
            known.sort(key=lambda row: getattr(row, key), reverse=not ascending)
            found = known + [row for row in found if getattr(row, key) is None]
        title = str(source.source) if source.source is not None else "inputs" if source.paths() else "synthetic"
        said = title if found[0].batch is None else f"{title}, batch item {found[0].batch}"
        named = " | ".join(dict.fromkeys(patterns))  # layers may have patterns of their own
        if out is not None and out.suffix.lower() in (".json", ".csv"):
            text = exports.statistics_json(found, title, named) if out.suffix.lower() == ".json" else None
            exports.write_text(out, text or exports.statistics_csv(found))
        elif out is not None:
            from attnviz.cli.console import drawing
            from attnviz.show.figures.statistics import statistics_figure
            from attnviz.show.figures.style import save_figure

            with drawing():
                figure = statistics_figure(found, statistic).get_figure(root=True)
                assert figure is not None
                save_figure(figure, out)
        if out is not None:
            note(f"wrote {out}")
        if format == "json":
            typer.echo(exports.statistics_json(found, title, named), nl=False)
        elif format == "csv":
            typer.echo(exports.statistics_csv(found), nl=False)
        else:
            from attnviz.cli.console import output
            from attnviz.show.terminal.tables import statistics_table

            console = output()
            console.print(statistics_table(found, f"{said} · {named}", console.width))
