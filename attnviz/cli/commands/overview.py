"""``attnviz overview``: every head of every layer at a glance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnviz.cli.look import Look
from attnviz.cli.options import Compute, Heads, PatternChoice, Source, Values, check_choice, command

if TYPE_CHECKING:
    from attnviz.attention.inputs import AttentionInputs


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz overview run.safetensors -o model.png")
    def overview(
        source: Source,
        out: Annotated[Path, typer.Option("--out", "-o", help="Figure: .png, .pdf or .svg.", show_default=False)],
        head: Heads = "all",
        batch: Annotated[str, typer.Option(metavar="B", help="Batch item.")] = "0",
        values: Values = "weights",
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        reduce: Annotated[str, typer.Option(help="What a cell of a panel holds: max or mass.")] = "max",
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        look: Look = Look(),  # noqa: B008 (frozen)
        each: Annotated[
            bool, typer.Option("--each", help="A color scale for each panel, in place of one for all.")
        ] = False,
    ) -> None:
        """Draw a whole model at a glance: layers down, heads across, a small map each.

        All layers of a dump, or those of --layer (0,2-4). Each panel is the exact map, reduced to as many cells as it
        has pixels; one layer is in memory at a time.
        """
        check_choice("--values", values, ("weights", "logits"))
        check_choice("--reduce", reduce, ("max", "mass"))
        look.check()
        from dataclasses import replace

        from attnviz.base.selections import parse_index, parse_indices
        from attnviz.base.types import Label
        from attnviz.base.words import count
        from attnviz.base.writing import check_output
        from attnviz.cli.console import note
        from attnviz.cli.progress import rows_progress
        from attnviz.maps.layers import OverviewRow, overview_rows
        from attnviz.show.figures.captions import caption
        from attnviz.show.figures.overview import overview_figure, panel_pixels
        from attnviz.show.figures.style import SUFFIXES, save_figure

        check_output(out, SUFFIXES, inputs=[*source.paths(), *choice.paths()])
        labels = source.layers()

        held = [replace(source, layer=labels[0]).load(compute.dtype)]  # the first, until it is its turn
        T, H = held[0].T, held[0].H

        def read() -> Iterator[tuple[Label | None, AttentionInputs]]:
            for label in labels:
                yield label, held.pop() if held else replace(source, layer=label).load(compute.dtype)

        across = len(parse_indices(head, H, option="--head", noun="head"))
        pixels = panel_pixels(len(labels), across, look.dots, look.inches)
        rows: list[OverviewRow] = []
        # As if all layers were as large as the first: most are.
        with rows_progress(T * across * len(labels), "overview") as progress:
            for label, inputs in read():
                rows += overview_rows(
                    [(label, inputs)],
                    choice.choose(inputs.pattern),
                    heads=parse_indices(head, inputs.H, option="--head", noun="head"),
                    batch=parse_index(batch, inputs.B, option="--batch", noun="batch item"),
                    values=values,
                    reduce=reduce,
                    pixels=pixels,
                    device=compute.device,
                    progress=progress,
                )
                del inputs  # before the next layer is read
        maps = [shown for row in rows for shown in row.maps]
        if not each:
            look.hint(maps)
        with look.drawing([]):
            words = None
            if look.caption:
                fitted = look.scale.fit(maps)
                if each:
                    fitted = replace(fitted, note=f"each panel has a {look.norm} color scale of its own")
                words = caption(maps, fitted, source=f"{source.source or 'inputs'}, {count(len(rows), 'layer')}")
            ax = overview_figure(
                rows, each=each, dpi=look.dots, title=look.title, caption=words, width=look.inches, **look.colors
            )
            figure = ax.get_figure(root=True)
            assert figure is not None
            save_figure(figure, out, dpi=look.dots, transparent=look.transparent)
        note(f"wrote {out}")
