"""``attnviz pattern``: who may see whom and why, in the terminal or as a figure."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnviz.base.errors import InputError
from attnviz.cli.choice import PatternChoice
from attnviz.cli.console import data
from attnviz.cli.groups import command
from attnviz.cli.options import Compute, Item, Region, check_choice, request_of
from attnviz.cli.pictures import PLAIN, look_of_file, write_figure
from attnviz.cli.source import Source
from attnviz.plots.kinds.pattern import Reasons
from attnviz.plots.look import COLORS, Look

if TYPE_CHECKING:
    from attnviz.attention.inputs import Inputs
    from attnviz.attention.patterns import Pattern
    from attnviz.engine.request import Request

DEFAULT_TOKENS = 16


@dataclass(frozen=True)
class Drawn(Source):
    """Where sizes, masks, labels and weights come from, where they come from a file at all."""

    source: Annotated[
        Path | None,
        typer.Argument(
            help="Dump to read: .safetensors, .npz, .npy, .pt or .pth. None: the pattern alone.", show_default=False
        ),
    ] = None


@dataclass(frozen=True)
class Shown(PatternChoice):
    """Which pattern to draw: local+global where nothing else is said, so that there is always a picture."""

    pattern: Annotated[
        str | None,
        typer.Option(
            help="{patterns}; settings after a colon: local:window=2.  \\[default: the dump's own, else local+global]"
        ),
    ] = None
    window: Annotated[
        int | None,
        typer.Option(help="Keys to each side of a query, for local patterns.  \\[default: an eighth of the keys]"),
    ] = None

    def on(self, inputs: Inputs) -> tuple[Inputs, Pattern]:
        choice: PatternChoice = self
        own = (self.mask_file, self.blocks, self.mask_mod, self.pattern)
        if own == (None,) * len(own) and (inputs.pattern is None or self.given()):
            choice = replace(choice, pattern="local+global")
        if choice.pattern in ("local", "local+global") and self.window is None:
            choice = replace(choice, window=max(1, inputs.S // 8))
        return PatternChoice.on(choice, inputs)

    def mask_rows(self) -> int | None:
        """How many queries the user's own mask has, where there is one."""
        from attnviz.sources.dumps import read_tensor

        if self.mask_file is None:
            return None
        shape = read_tensor(self.mask_file, option="--mask-file").shape  # (..., T, S)
        return shape[-2] if len(shape) > 1 else None


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz pattern --tokens 16 --global 0,7 --window 2 -o pattern.png")
    def pattern(
        source: Drawn,
        tokens: Annotated[
            int | None, typer.Option(help="Positions, where there is no SOURCE.  \\[default: 16]", min=1)
        ] = None,
        head: Annotated[
            str | None,
            typer.Option(metavar="N", help="Head of SOURCE whose weights to draw, or none.  \\[default: 0]"),
        ] = None,
        batch: Item = "0",
        choice: Shown = Shown(),
        kind: Reasons = Reasons(),  # noqa: B008 (frozen)
        region: Region = Region(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        out: Annotated[
            Path | None,
            typer.Option("--out", "-o", help="Figure to write in place of the terminal's: .png, .pdf or .svg."),
        ] = None,
        format: Annotated[str, typer.Option(help="terminal or json.")] = "terminal",
        look: Look = PLAIN,
    ) -> None:
        """Show which query may see which key, each cell colored by why; of SOURCE, with the weights over it."""
        check_choice("--format", format, ("terminal", "json"))
        region.check()
        from attnviz.base.selections import parse_index
        from attnviz.base.writing import PICTURES, check_output

        if out is not None:
            out = check_output(out, PICTURES, inputs=source.paths())
        look = look_of_file(look, out, unused=COLORS)
        inputs, weights = _inputs(
            source, tokens or choice.mask_rows() or source.document_tokens(), tokens, head, compute
        )
        inputs, shown = choice.on(inputs)
        one = "0" if head in (None, "none") else str(head)
        parse_index(one, inputs.H, option="--head", noun="head")
        request = request_of(inputs, shown, compute, head=one, batch=batch, region=region, every_key=True)
        drawn = replace(kind, weights=weights)
        if out is not None:
            _write(out, drawn, request, look)
        if format == "json":
            from attnviz.show.exports import reasons_json

            data(reasons_json(drawn.compute(request), request.inputs.source))
        elif out is None:
            _print(drawn, request)


def _inputs(
    source: Source, positions: int | None, tokens: int | None, head: str | None, compute: Compute
) -> tuple[Inputs, bool]:
    """What the pattern is of, and whether it has weights to draw.

    Args:
        source: a file, or none.
        positions: how many there are where there is no file; None is :data:`DEFAULT_TOKENS`.
        tokens, head: ``--tokens`` and ``--head``.
        compute: in what precision.
    """
    if source.paths():
        if tokens is not None:
            raise InputError(f"--tokens {tokens}: SOURCE says how many tokens there are; give one of the two")
        return source.load(compute.dtype), head != "none"
    if head not in (None, "none"):
        raise InputError(f"--head {head}: weights need q and k, and no SOURCE is given; name one")
    return _bare(source, positions or DEFAULT_TOKENS), False


def _print(kind: Reasons, request: Request) -> None:
    """The pattern in the terminal, in as many cells as fit there."""
    from attnviz.cli.console import output
    from attnviz.show.terminal.window import PatternPicture, cells_that_fit

    console = output()
    height = console.height if console.is_terminal else None
    fitting = cells_that_fit(console.width, height, labels=request.inputs.tokens is not None)
    for shown in kind.compute(request.but(pixels=min(request.pixels, fitting))).values():
        console.print(PatternPicture(shown))
        console.print()


def _write(out: Path, kind: Reasons, request: Request, look: Look) -> None:
    """The pattern as a figure."""
    maps = kind.compute(kind.fitted(request, look))
    source = request.inputs.source
    labels = {label for shown in maps.values() for own in (shown.query_labels, shown.key_labels) for label in own or ()}
    write_figure(
        out, lambda: kind.draw(maps, look, source), look, kind.words(maps, source), kind="pattern", letters=labels
    )


def _bare(source: Source, tokens: int) -> Inputs:
    """Sizes and a global mask alone, for a pattern without a SOURCE."""
    from attnviz.base.selections import parse_positions
    from attnviz.sources.dumps import documents_of
    from attnviz.sources.synthetic import synthesize

    for field in fields(source):
        value = getattr(source, field.name)
        if value is not None and field.name not in ("global_", "documents"):
            option = field.name.replace("_", "-")
            raise InputError(f"--{option} {value}: it speaks of a file, and no SOURCE is given; name one")
    middle = sorted({0, (tokens - 1) // 2})
    positions = middle if source.global_ is None else parse_positions(source.global_, tokens)
    inputs = synthesize(heads=1, head_dim=1, tokens=tokens, global_positions=positions)
    documents = (
        None if source.documents is None else documents_of(source.documents, tokens, source=f"--tokens {tokens}")
    )
    return replace(inputs, tokens=None, documents=documents, source=f"--tokens {tokens}")
