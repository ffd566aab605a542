"""``attnviz audit``: where two runs of a model part first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnviz.cli.console import data
from attnviz.cli.groups import command
from attnviz.cli.options import check_choice

if TYPE_CHECKING:
    from attnviz.compare.audit import Audit

_SUFFIXES = (".md", ".json")


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz audit eager.safetensors flash.safetensors -o audit.md")
    def audit(
        a: Annotated[Path, typer.Argument(help="Dump of the first run.", show_default=False)],
        b: Annotated[Path, typer.Argument(help="Dump of the other run.", show_default=False)],
        batch: Annotated[
            int | None, typer.Option(metavar="B", help="Batch item.  \\[default: all]", min=0, show_default=False)
        ] = None,
        format: Annotated[str, typer.Option(help="text, markdown or json.")] = "text",
        out: Annotated[
            Path | None, typer.Option("--out", "-o", help="Write the report too: .md or .json, for a pull request.")
        ] = None,
    ) -> None:
        """Hold two runs of a model against each other, layer by layer: another attention, dtype, version or machine.

        Says where they part first, by how much against what rounding costs, in which heads, and which mistake turns the one
        into the other. Ends with 0 where they are the same but for rounding, with 1 where they part, with 2 on bad input.
        """
        check_choice("--format", format, ("text", "markdown", "json"))
        from attnviz.base.writing import atomic, check_output
        from attnviz.cli.console import note
        from attnviz.compare.audit import audit as audited
        from attnviz.show.exports import audit_json

        if out is not None:
            out = check_output(out, _SUFFIXES, inputs=[a, b])
        found = audited(a, b, batch=batch)
        if out is not None:
            text = audit_json(found) if out.suffix.lower() == ".json" else found.markdown()
            with atomic(out) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="\n")
            note(f"wrote {out}")
        if format == "text":
            _print(found)
        else:
            data(audit_json(found) if format == "json" else found.markdown())
        raise typer.Exit(0 if found.within else 1)


def _print(found: Audit) -> None:
    from attnviz.cli.console import output

    console = output()
    for n, line in enumerate(found.verdict()):
        style = ("green" if found.within else "bold red") if not n else None
        console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)
