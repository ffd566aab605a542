"""``attnviz plot``: heatmaps to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnviz.cli.options import Compute, Heads, Source, Values, check_choice, command


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
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        cmap: Annotated[
            str | None, typer.Option(help="Palette of matplotlib or seaborn.  [default: rocket; vlag for logits]")
        ] = None,
        vmin: Annotated[float | None, typer.Option(help="Low end of the color scale.")] = None,
        vmax: Annotated[float | None, typer.Option(help="High end of the color scale.")] = None,
        annot: Annotated[bool, typer.Option("--annot", help="Write the values into the cells of a small map.")] = False,
        title: Annotated[str | None, typer.Option(help="Title of the figure.")] = None,
        dpi: Annotated[int, typer.Option(help="Dots per inch of a PNG.", min=20, max=2400)] = 150,
        pixels: Annotated[int, typer.Option(help="Most cells along each side; larger maps are reduced.", min=1)] = 1024,
        transparent: Annotated[bool, typer.Option("--transparent", help="No background.")] = False,
    ) -> None:
        """Draw one head's heatmap, or a grid of heads with one color scale."""
        check_choice("--values", values, ("weights", "logits"))
        from attnviz.cli.console import note
        from attnviz.selections import parse_index, parse_indices
        from attnviz.writing import check_output

        check_output(out, (".png", ".pdf", ".svg"), inputs=source.paths())
        inputs = source.load(compute.dtype)
        item = parse_index(batch, inputs.B, option="--batch", noun="batch item")
        heads = parse_indices(head, inputs.H, option="--head", noun="head")

        from attnviz.figures.heatmap import heads_grid, heatmap, most_pixels
        from attnviz.figures.style import house_style, save_figure
        from attnviz.maps import global_map
        from attnviz.scores import score

        scores = score(
            inputs,
            batch=item,
            heads=heads,
            logits=values == "logits",
            weights=values == "weights",
            device=compute.device,
        )
        pixels = min(pixels, most_pixels(len(heads), dpi))
        maps = [global_map(scores, h, values=values, pixels=pixels) for h in heads]
        with house_style():
            if len(maps) == 1:
                ax = heatmap(maps[0], cmap=cmap, vmin=vmin, vmax=vmax, annot=annot, title=title)
                figure = ax.get_figure(root=True)
                assert figure is not None
            else:
                figure = heads_grid(maps, cmap=cmap, vmin=vmin, vmax=vmax, annot=annot, title=title)
            save_figure(figure, out, dpi=dpi, transparent=transparent)
        note(f"wrote {out}")
