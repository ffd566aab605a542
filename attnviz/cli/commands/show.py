"""``attnviz show``: heatmaps in the terminal."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from attnviz.base.errors import InputError
from attnviz.cli.look import ScaleChoice
from attnviz.cli.options import Compute, Heads, PatternChoice, Region, Source, Values, check_choice, command

COLORS = {"auto": None, "truecolor": "truecolor", "256": "256", "16": "standard", "none": None}
"""What ``--color`` names, and what rich calls it."""


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz show dump.safetensors --head 3 --norm log")
    def show(
        source: Source,
        head: Heads = "0",
        all_: Annotated[bool, typer.Option("--all", help="Every head, as a grid with one color scale.")] = False,
        batch: Annotated[str, typer.Option(metavar="B", help="Batch item.")] = "0",
        values: Values = "weights",
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        region: Region = Region(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        scale: ScaleChoice = ScaleChoice(),  # noqa: B008 (frozen)
        color: Annotated[
            str, typer.Option(help="auto (what the terminal has; NO_COLOR is heeded), truecolor, 256, 16 or none.")
        ] = "auto",
    ) -> None:
        """Show one head's heatmap in the terminal, or a grid of heads, as large as the window.

        Two cells a character where there is color, shades where there is none. A map of any length: where it is larger
        than the window, each cell holds the largest weight of its pairs (max), or their mass.
        """
        check_choice("--values", values, ("weights", "logits"))
        check_choice("--reduce", region.reduce, ("max", "mass"))
        check_choice("--color", color, tuple(COLORS))
        if all_ and head != "0":
            raise InputError(f"--head {head}: --all shows every head; give one of the two")
        memory = region.bound()
        from attnviz.cli.console import output
        from attnviz.cli.progress import rows_progress
        from attnviz.show.scale.scaling import Scaling

        scaling = Scaling(scale.norm, scale.robust, scale.vmin, scale.vmax)

        from attnviz.base.selections import parse_index, parse_indices
        from attnviz.maps.map import attention_map
        from attnviz.show.terminal.halfblocks import HeatmapPicture, fitting_pixels

        inputs = source.load(compute.dtype)
        item = parse_index(batch, inputs.B, option="--batch", noun="batch item")
        heads = parse_indices("all" if all_ else head, inputs.H, option="--head", noun="head")
        pattern = choice.choose(inputs.pattern)
        positions: dict[str, Any] = region.ranges(inputs, item)
        forced: dict[str, Any] = {}
        if color == "none":
            forced = {"no_color": True}
        elif color != "auto":
            forced = {"color_system": COLORS[color], "force_terminal": True, "no_color": False}
        console = output(80, **forced)
        height = console.height if console.file.isatty() else None
        painted = console.color_system is not None and not console.no_color
        shape: dict[str, Any] = {"color": painted and not console.options.ascii_only, "maps": len(heads)}
        pixels = fitting_pixels(console.width, height, **shape)
        if inputs.tokens is not None:
            few = fitting_pixels(console.width, height, labels=True, **shape)
            longest = max(len(positions["queries"] or range(inputs.T)), len(positions["keys"] or range(inputs.S)))
            pixels = few if longest <= few else pixels
        rows = len(positions["queries"] or range(inputs.T))
        with rows_progress(rows * len(heads), "show") as progress:
            maps = [
                attention_map(
                    inputs,
                    each,
                    pattern,
                    batch=item,
                    values=values,
                    reduce=region.reduce,
                    pixels=min(region.pixels, pixels),
                    device=compute.device,
                    memory=memory,
                    progress=progress,
                    **positions,
                )
                for each in heads
            ]
        console.print(HeatmapPicture(maps, scaling, height=height))
