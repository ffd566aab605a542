"""``attnviz view``: the interactive page with deep zoom, from a server on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from attnviz.cli.choice import PatternChoice
from attnviz.cli.derived import NORMS, Derive, Weighed
from attnviz.cli.groups import command
from attnviz.cli.options import Compute, Heads, Item, Part, Seen, check_choice
from attnviz.cli.source import More, Source, paths_of


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz view dump.safetensors --pattern causal")
    def view(
        source: Source,
        more: More = None,
        *,
        head: Heads = "all",
        batch: Item = "0",
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        part: Part = Part(),  # noqa: B008 (frozen)
        seen: Seen = Seen(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        derive: Derive = Derive(),  # noqa: B008 (frozen)
        values: Weighed = "weights",
        memory: Annotated[
            str | None,
            typer.Option(
                metavar="SIZE", help="Bound on the maps that are kept, and on each computation.  \\[default: 1GiB kept]"
            ),
        ] = None,
        port: Annotated[
            int,
            typer.Option(help="Port to serve at.  \\[default: one that is free]", min=0, max=65535, show_default=False),
        ] = 0,
        browser: Annotated[
            bool, typer.Option("--browser/--no-browser", help="Whether to open the page in a browser.")
        ] = True,
    ) -> None:
        """Look at every layer and head in a browser, from the whole map down to single weights, at any length.

        Serves the page to this machine alone, at an address with a secret in it, until Ctrl-C. The first look at a
        head makes one pass over its map; tiles are then made as you zoom.
        """
        import secrets
        import webbrowser
        from threading import Thread

        from attnviz.base.selections import parse_bytes
        from attnviz.cli.console import note
        from attnviz.cli.layers import page_layers, page_title
        from attnviz.cli.progress import rows_progress
        from attnviz.pages.server import HOST, listen, serve
        from attnviz.pages.viewer import Viewer

        bound = None if memory is None else parse_bytes(memory)
        sources = source.with_more(more)
        weighed = check_choice("--values", values, ("weights", *NORMS))
        layers = page_layers(sources, head, batch, choice, compute, part, seen, derive, weighed)
        files = [path for path in (*paths_of(sources), *choice.paths()) if path.is_file()]
        viewer = Viewer(layers, page_title(sources), memory=bound, files=files, watch=rows_progress)
        with listen(port) as listening:
            token = secrets.token_urlsafe(24)
            address = f"http://{HOST}:{listening.getsockname()[1]}/{token}/"
            print(address, flush=True)
            note("Ctrl-C ends it")
            if browser:
                # Beside the server: some browsers return only when they are closed.
                Thread(target=webbrowser.open, args=(address,), daemon=True).start()
            serve(viewer, listening, token)
