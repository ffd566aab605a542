"""``attnviz overview``: every head of every layer at a glance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnviz.cli.choice import PatternChoice
from attnviz.cli.derived import Derive
from attnviz.cli.groups import command
from attnviz.cli.options import (
    VALUES,
    Compute,
    Heads,
    Item,
    Kept,
    Part,
    Seen,
    Values,
    check_choice,
    request_of,
    tell_left_out,
)
from attnviz.cli.pictures import look_of_file, write_figure
from attnviz.cli.source import Source
from attnviz.plots.kinds.overview import Overview
from attnviz.plots.look import Look

if TYPE_CHECKING:
    from attnviz.base.types import Label
    from attnviz.engine.request import Request
    from attnviz.plots.kind import Parts


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz overview run.safetensors -o model.png", rare=("checkpoint",))
    def overview(
        source: Source,
        out: Annotated[Path, typer.Option("--out", "-o", help="Figure: .png, .pdf or .svg.", show_default=False)],
        head: Heads = "all",
        batch: Item = "0",
        values: Values = "weights",
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        part: Part = Part(),  # noqa: B008 (frozen)
        seen: Seen = Seen(),  # noqa: B008 (frozen)
        reduce: Annotated[str, typer.Option(help="What a cell of a panel holds: max or mass.")] = "max",
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        checkpoint: Kept = None,
        look: Look = Look(theme="light"),  # noqa: B008 (frozen)
        kind: Overview = Overview(),  # noqa: B008 (frozen)
    ) -> None:
        """Draw a whole model at a glance: layers down, heads across, a small map each.

        All layers of a dump, or those of --layer (0,2-4). Each panel is the exact map, reduced to as many cells as it
        has pixels; one layer is in memory at a time. Under torchrun, ranks share layers, heads and rows.
        """
        check_choice("--values", values, VALUES)
        check_choice("--reduce", reduce, ("max", "mass"))
        look = look_of_file(look, out)
        from attnviz.base.writing import PICTURES, check_output
        from attnviz.cli.progress import layers_progress
        from attnviz.engine.ranks import rank_device, ranks

        out = check_output(out, PICTURES, inputs=[*source.paths(), *choice.paths()])
        with ranks(compute.device) as world:  # before anything is read: a rank that cannot read stops the others
            count = len(source.layers())
            device = rank_device(compute.device)

            def asked(begin: layers_progress) -> Iterator[tuple[Label | None, Request]]:
                held = "logits" if values == "logits" else "weights"
                of: dict[str, Any] = {"head": head, "region": part, "seen": seen, "values": held, "reduce": reduce}
                of |= {"device": device, "ranks": world, "checkpoint": checkpoint}
                for label, inputs, pattern, item in Derive().each(source, choice, compute, batch, values):
                    request = request_of(inputs, pattern, compute, **of, batch=item)
                    begin.layer(len(request.rows) * len(request.chosen))
                    del inputs
                    yield label, request
                    del request  # before the next layer is read

            with layers_progress(count, "overview", watched=world.rank == 0) as progress:
                name = str(source.source or "inputs")
                parts = kind.compute(asked(progress), count, name, look, progress=progress)
            world.wait()
            if world.rank == 0:
                _write(out, kind, parts, look)


def _write(out: Path, kind: Overview, parts: Parts, look: Look) -> None:
    """Draws it, with notes on what was computed and on what the figure can't show."""
    from attnviz.cli.console import note
    from attnviz.show.figures.captions import caption as about_maps

    for line in parts.notes:
        note(line)
    tell_left_out(shown.left_out for shown in parts.maps)
    hint = None if kind.each else look.hint(parts.maps)
    if hint is not None:
        note(hint)
    words = about_maps(parts.spoken, look.fitted(parts.spoken), source=parts.source)
    write_figure(out, lambda: kind.draw(parts, look), look, words, kind="overview")
