"""``attnviz plot``: heatmaps to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from attnviz.cli.options import Compute, Heads, PatternChoice, Region, Source, Values, check_choice, command


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz plot dump.safetensors --head all -o heads.png")
    def plot(
        source: Source,
        out: Annotated[
            Path, typer.Option("--out", "-o", help="File to write: .png, .pdf or .svg.", show_default=False)
        ],
        head: Heads = "all",
        batch: Annotated[str, typer.Option(metavar="B", help="Batch item.")] = "0",
        values: Values = "weights",
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        region: Region = Region(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        cmap: Annotated[
            str | None, typer.Option(help="Palette of matplotlib or seaborn.  \\[default: rocket; vlag for logits]")
        ] = None,
        vmin: Annotated[float | None, typer.Option(help="Low end of the color scale.")] = None,
        vmax: Annotated[float | None, typer.Option(help="High end of the color scale.")] = None,
        annot: Annotated[bool, typer.Option("--annot", help="Write the values into the cells of a small map.")] = False,
        title: Annotated[str | None, typer.Option(help="Title of the figure.")] = None,
        dpi: Annotated[int, typer.Option(help="Dots per inch of a PNG.", min=20, max=2400)] = 150,
        transparent: Annotated[bool, typer.Option("--transparent", help="No background.")] = False,
    ) -> None:
        """Draw one head's heatmap, or a grid of heads with one color scale."""
        check_choice("--values", values, ("weights", "logits"))
        from attnviz.cli.console import note
        from attnviz.selections import parse_index, parse_indices
        from attnviz.writing import check_output

        check_output(out, (".png", ".pdf", ".svg"), inputs=[*source.paths(), *choice.paths()])
        inputs = source.load(compute.dtype)
        item = parse_index(batch, inputs.B, option="--batch", noun="batch item")
        heads = parse_indices(head, inputs.H, option="--head", noun="head")

        from attnviz.figures.heatmap import most_pixels
        from attnviz.figures.style import house_style, save_figure
        from attnviz.plotting import plot as plot_head
        from attnviz.plotting import plot_heads

        what: dict[str, Any] = {"batch": item, "values": values, "device": compute.device}
        what |= {"reduce": region.reduce, "pixels": min(region.pixels, most_pixels(len(heads), dpi))}
        what |= region.ranges(inputs)
        pattern = choice.choose(inputs.pattern)
        look: dict[str, Any] = {"cmap": cmap, "vmin": vmin, "vmax": vmax, "annot": annot, "title": title}
        with house_style():
            if len(heads) == 1:
                figure = plot_head(inputs, heads[0], pattern, **what, **look).get_figure(root=True)
                assert figure is not None
            else:
                figure = plot_heads(inputs, heads, pattern, **what, **look)
            save_figure(figure, out, dpi=dpi, transparent=transparent)
        note(f"wrote {out}")
