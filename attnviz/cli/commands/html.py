"""``attnviz html``: the interactive page, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnviz.cli.options import Compute, Heads, PatternChoice, Source, command


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz html run.safetensors -o attention.html")
    def html(
        source: Source,
        out: Annotated[Path, typer.Option("--out", "-o", help="File to write (.html).", show_default=False)],
        head: Heads = "all",
        batch: Annotated[str, typer.Option(metavar="B", help="Batch item.")] = "0",
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        most: Annotated[str, typer.Option(metavar="SIZE", help="Largest file to write: 200MB, 1GiB.")] = "200MB",
    ) -> None:
        """Write an interactive page of every layer and head, as one file that opens anywhere, offline.

        Views: heads (tokens and lines), model (layers x heads), map (zoom), text and query-key. Weights are computed
        in the page, each within 1e-3 of the engine's. --layer takes several, too: 0,2-4.
        """
        from rich.filesize import decimal

        from attnviz.base.selections import parse_bytes
        from attnviz.base.writing import check_output
        from attnviz.cli.console import note
        from attnviz.cli.layers import page_layers, title
        from attnviz.cli.progress import rows_progress
        from attnviz.pages.encoding import rows_of
        from attnviz.pages.html import write_page

        bound = parse_bytes(most, option="--most")
        check_output(out, (".html", ".htm"), inputs=[*source.paths(), *choice.paths()])
        layers = page_layers(source, head, batch, choice, compute)
        with rows_progress(sum(map(rows_of, layers)), "html") as progress:
            size = write_page(out, layers, title(source), most=bound, progress=progress)
        heads = sum(len(layer.heads) for layer in layers)
        note(
            f"wrote {out}: {len(layers)} {_plural('layer', len(layers))}, {heads} {_plural('head', heads)}, {decimal(size)}"
        )


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"
