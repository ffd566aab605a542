"""``attnviz pattern``: who may see whom and why, in the terminal or as a figure."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnviz.base.errors import InputError
from attnviz.cli.options import Compute, PatternChoice, Region, Source, check_choice, command

if TYPE_CHECKING:
    from attnviz.attention.inputs import AttentionInputs
    from attnviz.attention.patterns import Pattern

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
            help="global, full, causal, local or local+global.  \\[default: the dump's own, else local+global]"
        ),
    ] = None
    window: Annotated[
        int | None,
        typer.Option(help="Keys to each side of a query, for local patterns.  \\[default: an eighth of the keys]"),
    ] = None

    def choose(self, own: Pattern | None = None, *, keys: int = DEFAULT_TOKENS) -> Pattern:
        choice = self
        if self.mask_file is None and self.pattern is None and (own is None or self.given()):
            choice = replace(choice, pattern="local+global")
        if choice.pattern in ("local", "local+global") and self.window is None:
            choice = replace(choice, window=max(1, keys // 8))
        return PatternChoice.choose(choice, own)

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
        batch: Annotated[str, typer.Option(metavar="B", help="Batch item.")] = "0",
        choice: Shown = Shown(),
        story: Annotated[bool, typer.Option("--story", help="Three pictures: global, local, both.")] = False,
        region: Region = Region(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        out: Annotated[
            Path | None,
            typer.Option("--out", "-o", help="Figure to write in place of the terminal's: .png, .pdf or .svg."),
        ] = None,
        title: Annotated[str | None, typer.Option(help="Title of the figure.")] = None,
        dpi: Annotated[int, typer.Option(help="Dots per inch of a PNG.", min=20, max=2400)] = 150,
    ) -> None:
        """Show which query may see which key, each cell colored by why; of SOURCE, with the weights over it."""
        check_choice("--reduce", region.reduce, ("max", "mass"))
        from attnviz.base.selections import parse_index
        from attnviz.base.writing import check_output
        from attnviz.maps.reasons import reason_map

        if out is not None:
            check_output(out, (".png", ".pdf", ".svg"), inputs=source.paths())
        elif title is not None:
            raise InputError(f"--title {title}: it is written above a figure; name one with -o")
        if source.paths():
            if tokens is not None:
                raise InputError(f"--tokens {tokens}: SOURCE says how many tokens there are; give one of the two")
            inputs = source.load(compute.dtype)
            chosen = None if head == "none" else parse_index(head or "0", inputs.H, option="--head", noun="head")
        else:
            if head not in (None, "none"):
                raise InputError(f"--head {head}: weights need q and k, and no SOURCE is given; name one")
            inputs, chosen = _bare(source, tokens or choice.mask_rows() or DEFAULT_TOKENS), None
        shown = choice.choose(inputs.pattern, keys=inputs.S)
        patterns = _story(shown) if story else {"": shown}

        what: dict[str, Any] = {"head": chosen, "reduce": region.reduce, "device": compute.device}
        item = parse_index(batch, inputs.B, option="--batch", noun="batch item")
        what |= {"batch": item, **region.ranges(inputs, item)}
        if out is None:
            from attnviz.cli.console import output
            from attnviz.show.terminal.window import PatternPicture, cells_that_fit

            console = output()
            height = console.height if console.is_terminal else None
            fitting = cells_that_fit(console.width, height, labels=inputs.tokens is not None)
            pictures = [
                PatternPicture(reason_map(inputs, each, pixels=min(region.pixels, fitting), **what))
                for each in patterns.values()
            ]
            for picture in pictures:
                console.print(picture)
                console.print()
            return
        from attnviz.cli.console import drawing, note
        from attnviz.show.figures.cells import most_cells
        from attnviz.show.figures.pattern import most_inches, pattern_figure, story_figure
        from attnviz.show.figures.style import save_figure

        pixels = min(region.pixels, most_cells([most_inches(len(patterns))], dpi))
        maps = [reason_map(inputs, each, pixels=pixels, **what) for each in patterns.values()]
        with drawing():
            if story:
                figure = story_figure(maps, list(patterns), title=title)
            else:
                drawn = pattern_figure(maps[0], title=title).get_figure(root=True)
                assert drawn is not None
                figure = drawn
            save_figure(figure, out, dpi=dpi)
        note(f"wrote {out}")


def _bare(source: Source, tokens: int) -> AttentionInputs:
    """Sizes and a global mask alone, for a pattern without a SOURCE."""
    from attnviz.base.selections import parse_positions
    from attnviz.sources.synthetic import synthesize

    for field in fields(source):
        value = getattr(source, field.name)
        if value is not None and field.name != "global_":
            option = field.name.replace("_", "-")
            raise InputError(f"--{option} {value}: it speaks of a file, and no SOURCE is given; name one")
    middle = sorted({0, (tokens - 1) // 2})
    positions = middle if source.global_ is None else parse_positions(source.global_, tokens)
    inputs = synthesize(heads=1, head_dim=1, tokens=tokens, global_positions=positions)
    return replace(inputs, tokens=None, source=f"--tokens {tokens}")


def _story(shown: Pattern) -> dict[str, Pattern]:
    """What local + global is made of, and the whole."""
    parts = dict(shown.reasons())
    if set(parts) != {"window", "global key", "global query"}:
        raise InputError("--story tells how local and global make local+global; leave --pattern out")
    return {
        "global": parts["global key"] | parts["global query"],
        "local": parts["window"],
        "both: local + global": shown,
    }
