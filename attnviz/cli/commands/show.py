"""``attnviz show``: heatmaps in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnviz.base.errors import InputError
from attnviz.cli.choice import PatternChoice
from attnviz.cli.derived import Derive
from attnviz.cli.groups import command
from attnviz.cli.options import (
    VALUES,
    Compute,
    Heads,
    Item,
    Region,
    Seen,
    Values,
    check_choice,
    request_of,
    tell_left_out,
)
from attnviz.cli.source import Source
from attnviz.plots.look import Scale

if TYPE_CHECKING:
    from rich.console import Console

    from attnviz.engine.request import Request

COLORS = {"auto": None, "truecolor": "truecolor", "256": "256", "16": "standard", "none": None}
"""What ``--color`` names, and what rich calls it."""


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz show dump.safetensors --head 3 --norm log")
    def show(
        source: Source,
        head: Heads = "0",
        all_: Annotated[bool, typer.Option("--all", help="Every head, as a grid with one color scale.")] = False,
        batch: Item = "0",
        values: Values = "weights",
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        region: Region = Region(),  # noqa: B008 (frozen)
        seen: Seen = Seen(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        tags: Annotated[
            bool, typer.Option("--tags", help="Say what each head is in a word, with its score: sink, previous, …")
        ] = False,
        scale: Scale = Scale(),  # noqa: B008 (frozen)
        derive: Derive = Derive(),  # noqa: B008 (frozen)
        color: Annotated[
            str, typer.Option(help="auto (what the terminal has; NO_COLOR is heeded), truecolor, 256, 16 or none.")
        ] = "auto",
    ) -> None:
        """Show one head's heatmap in the terminal, or a grid of heads, as large as the window.

        Two cells a character where there is color, shades where there is none. A map of any length: where it is larger
        than the window, each cell holds the largest weight of its pairs (max), or their mass.
        """
        check_choice("--values", values, VALUES)
        region.check()
        check_choice("--color", color, tuple(COLORS))
        if all_ and head != "0":
            raise InputError(f"--head {head}: --all shows every head; give one of the two")
        from attnviz.cli.console import output
        from attnviz.cli.progress import rows_progress
        from attnviz.plots.kinds.heatmap import Heatmap
        from attnviz.show.scale.scaling import Scaling
        from attnviz.show.terminal.halfblocks import HeatmapPicture

        scaling = Scaling(**scale.ends)
        inputs, pattern, batch, left = derive.load(source, choice, compute, batch, values)
        heads = "all" if all_ or ("heads" in derive.hows and head == "0") else head
        of: dict[str, Any] = {"head": heads, "batch": batch, "region": region, "seen": seen}
        request = derive.heads(request_of(inputs, pattern, compute, **of, values=left))
        forced: dict[str, Any] = {}
        if color == "none":
            forced = {"no_color": True}
        elif color != "auto":
            forced = {"color_system": COLORS[color], "force_terminal": True, "no_color": False}
        console = output(80, **forced)
        height = console.height if console.file.isatty() else None
        with rows_progress(len(request.rows) * len(request.chosen), "show") as progress:
            parts = Heatmap(tags=tags).compute(_fitted(request, console, height), progress)
        tell_left_out(shown.left_out for shown in parts.maps)
        console.print(HeatmapPicture(parts.maps, scaling, height=height))


def _fitted(request: Request, console: Console, height: int | None) -> Request:
    """The same request, in no more cells than the window shows, with labels where these fit."""
    from attnviz.show.terminal.halfblocks import fitting_pixels

    painted = console.color_system is not None and not console.no_color
    shape: dict[str, Any] = {"color": painted and not console.options.ascii_only, "maps": len(request.chosen)}
    pixels = fitting_pixels(console.width, height, **shape)
    if request.inputs.tokens is not None:
        few = fitting_pixels(console.width, height, labels=True, **shape)
        assert isinstance(request.keys, range)
        pixels = few if max(len(request.rows), len(request.keys)) <= few else pixels
    return request.but(pixels=min(request.pixels, pixels))
