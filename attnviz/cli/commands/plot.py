"""``attnviz plot``: heatmaps to a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnviz.base.errors import InputError
from attnviz.cli.choice import PatternChoice
from attnviz.cli.derived import Derive
from attnviz.cli.groups import command
from attnviz.cli.kinds import KindChoice, SourceReader, paths
from attnviz.cli.options import (
    VALUES,
    Compute,
    Heads,
    Item,
    Kept,
    Region,
    Seen,
    Values,
    check_choice,
    request_of,
    tell_left_out,
)
from attnviz.cli.source import Source
from attnviz.plots.look import Look

if TYPE_CHECKING:
    from attnviz.engine.request import Request
    from attnviz.plots.kind import Kind, Parts


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz plot dump.safetensors --head all -o heads.png", rare=("checkpoint", "verify"))
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
        batch: Item = "0",
        values: Values = "weights",
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        region: Region = Region(),  # noqa: B008 (frozen)
        seen: Seen = Seen(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        checkpoint: Kept = None,
        verify: Annotated[
            int | None,
            typer.Option(metavar="N", help="Hold N sampled rows, and two rows of cells, against float64.", min=1),
        ] = None,
        look: Look = Look(theme="light"),  # noqa: B008 (frozen)
        derive: Derive = Derive(),  # noqa: B008 (frozen)
        kind: KindChoice = KindChoice(),  # noqa: B008 (made by the options)
    ) -> None:
        """Draw one head's heatmap, or a grid of heads with one color scale; or figures of other kinds.

        A map of any length: where it is larger than the picture, each cell holds the largest weight of its pairs
        (max), or their mass. Under torchrun, ranks share heads and rows.
        """
        check_choice("--values", values, VALUES)
        region.check()
        look = look.for_file()
        look.check()
        drawn: Kind = derive.of_kind(kind)  # type: ignore[arg-type]
        _check_used(drawn, {"queries": region.queries, "keys": region.keys, "values": values})
        out = _check_outputs(drawn, out, [*source.paths(), *choice.paths(), *paths(drawn)])
        from attnviz.base.writing import PICTURES
        from attnviz.cli.progress import rows_progress
        from attnviz.engine.ranks import rank_device, ranks

        figures = [path for path in out if path.suffix.lower() in PICTURES]

        with ranks(compute.device) as world:  # before anything is read: a rank that cannot read stops the others
            if world.size > 1 and drawn.alone:
                raise InputError(f"{drawn.title} runs in one process; start attnviz without torchrun")
            inputs, pattern, item, left = derive.load(source, choice, compute, batch, values)
            device = rank_device(compute.device)
            more: dict[str, Any] = {"values": left, "device": device, "ranks": world, "checkpoint": checkpoint}
            of: dict[str, Any] = {"head": head, "batch": item, "region": region, "seen": seen}
            request = request_of(inputs, pattern, compute, **of, **more)
            drawn = drawn.reading(SourceReader(source, choice, compute, derive, batch, values))
            request = drawn.asked(request)
            fitted = drawn.fitted(request, look) if figures else request
            if len(figures) < len(out):
                _tell_cells(request, fitted, next(path for path in out if path not in figures))
            rows = len(request.rows) * len(request.chosen) * drawn.passes
            with rows_progress(rows, "plot", watched=world.rank == 0) as progress:
                parts = drawn.compute(fitted, progress)
            if verify is not None and world.rank == 0:
                _verify(fitted, parts, verify)
            world.wait()
            if world.rank == 0:
                _tell(drawn, parts, look, figures)
                for path in out:
                    _write(path, drawn, parts, look)


def _tell(drawn: Kind, parts: Parts, look: Look, figures: Sequence[Path]) -> None:
    """Notes on what was computed, and on what its ``figures`` can't show."""
    from attnviz.cli.console import note

    for line in parts.notes:
        note(line)
    tell_left_out(shown.left_out for shown in parts.maps)
    if figures and parts.blank:
        note("nothing is visible in what is shown: no query of it sees a key of it")
    hint = look.hint(parts.spoken) if figures and drawn.hints else None
    if hint is not None:
        note(hint)


def _verify(request: Request, parts: Parts, rows: int) -> None:
    """Says how far the maps are from float64. Raises RuntimeError where rounding does not explain it."""
    from attnviz.cli.console import note
    from attnviz.maps.verify import verify

    for shown in parts.maps:
        found = verify(request, shown, rows)
        if not found.holds:
            raise RuntimeError(f"{shown.name} is not what float64 gives: {found}")
        note(f"{shown.name}: {found}")


def _check_used(kind: Kind, given: dict[str, str | None]) -> None:
    """Raises InputError for options of the request that a kind has no use for."""
    for option, said in kind.unused.items():
        if given[option] not in (None, "weights"):
            raise InputError(said.format(value=getattr(kind, "query", "")))


def _check_outputs(kind: Kind, out: Sequence[Path], inputs: Sequence[Path]) -> list[Path]:
    """The outputs. Raises InputError for one that can't be written, or not of this kind."""
    from attnviz.base.writing import PICTURES, check_new_directory, check_output
    from attnviz.show.exports import require_zarr

    checked: list[Path] = []
    for path in out:
        suffix = path.suffix.lower()
        if suffix in (".npz", ".zarr") and not kind.numbers:
            raise InputError(f"{path}: {kind.title} makes a figure (.png, .pdf, .svg); write a map of each side")
        checked.append(check_output(path, (*PICTURES, ".npz", ".zarr"), inputs=inputs))
        if suffix == ".zarr":
            check_new_directory(path)
            require_zarr(path)
    return checked


def _tell_cells(request: Request, fitted: Request, path: Path) -> None:
    """Says where a file of numbers has fewer cells than it would have without a figure beside it."""
    from attnviz.cli.console import note

    assert isinstance(request.keys, range)
    asked = min(request.pixels, max(len(request.rows), len(request.keys)))
    if fitted.pixels < asked:
        note(f"{path}: {fitted.pixels} cells a side, which is what the figure has room for; alone it has {asked}")


def _write(path: Path, kind: Kind, parts: Parts, look: Look) -> None:
    """A figure, or the maps as numbers."""
    from attnviz.cli.console import note
    from attnviz.cli.pictures import write_figure
    from attnviz.show.exports import write_maps
    from attnviz.show.figures.captions import caption as about_maps

    if path.suffix.lower() in (".npz", ".zarr"):
        write_maps(path, parts.maps, parts.source)
        note(f"wrote {path}")
        return
    said = kind.spoken(parts, look).said
    words = about_maps(parts.spoken, kind.scale(parts, look), source=parts.source, notes=said)
    name = kind.name or "heatmap"
    write_figure(path, lambda: kind.draw(parts, look), look, words, kind=f"plot {name}", letters=parts.labels)
