"""``attnviz html``: the interactive page, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnviz.cli.choice import PatternChoice
from attnviz.cli.derived import NORMS, Derive, Weighed
from attnviz.cli.groups import command
from attnviz.cli.options import Compute, Heads, Item, Part, Seen, check_choice, tell_left_out
from attnviz.cli.source import More, Source, paths_of

if TYPE_CHECKING:
    from attnviz.pages.description import PageLayer


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz html run.safetensors -o attention.html")
    def html(
        source: Source,
        more: More = None,
        *,
        out: Annotated[Path, typer.Option("--out", "-o", help="File to write (.html).", show_default=False)],
        head: Heads = "all",
        batch: Item = "0",
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        part: Part = Part(),  # noqa: B008 (frozen)
        seen: Seen = Seen(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        derive: Derive = Derive(),  # noqa: B008 (frozen)
        values: Weighed = "weights",
        most: Annotated[str, typer.Option(metavar="SIZE", help="Largest file to write: 200MB, 1GiB.")] = "200MB",
    ) -> None:
        """Write an interactive page of every layer and head, as one file that opens anywhere, offline.

        Views: heads (tokens and lines), model (layers x heads), map (zoom), text and query-key. Weights are computed
        in the page, each within 1e-3 of the engine's. One layer is in memory at a time.
        """

        from attnviz.base.selections import parse_bytes
        from attnviz.base.words import count
        from attnviz.base.writing import check_output
        from attnviz.cli.console import note
        from attnviz.cli.layers import page_layers, page_title
        from attnviz.cli.progress import layers_progress
        from attnviz.pages.encoding import rows_of
        from attnviz.pages.html import write_page

        bound = parse_bytes(most, option="--most")
        sources = source.with_more(more)
        out = check_output(out, (".html", ".htm"), inputs=[*paths_of(sources), *choice.paths()])
        heads: dict[tuple[str | None, str], int] = {}  # of each text and layer
        left_out: list[float | None] = []

        def told(layer: PageLayer) -> None:
            heads[layer.text, layer.label] = len(layer.heads)
            progress.layer(rows_of(layer))
            left_out.extend(layer.attention.left_out(head) for head in layer.heads)

        weighed = check_choice("--values", values, ("weights", *NORMS))
        layers = page_layers(sources, head, batch, choice, compute, part, seen, derive, weighed, told)
        with layers_progress(len(layers), "html") as progress:
            size = write_page(out, layers, page_title(sources), most=bound, progress=progress)
        tell_left_out(left_out)
        note(f"wrote {out}: {count(len(heads), 'layer')}, {count(sum(heads.values()), 'head')}, {size / 1e6:,.1f} MB")
