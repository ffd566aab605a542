"""``attnviz explain``: the formula taught on the user's own numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnviz.cli.choice import PatternChoice
from attnviz.cli.console import data
from attnviz.cli.groups import command
from attnviz.cli.options import Compute, check_choice
from attnviz.cli.pictures import PLAIN, look_of_file
from attnviz.cli.source import Source
from attnviz.plots.look import Look

if TYPE_CHECKING:
    from attnviz.engine.request import Request
    from attnviz.measures.explanation import Explanation


Query = Annotated[
    str | None,
    typer.Option(
        "--query",
        "--token",
        metavar="T",
        help="Query position, or its word.  \\[default: that of the largest weight]",
    ),
]

Key = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="N of Global #N, counted from 1 as in tables; with a pattern other than global, a key "
        "position; or the key's word.  \\[default: that of the largest weight]",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz explain dump.safetensors --head 2 --query 5 --key 1")
    def explain(
        source: Source,
        batch: Annotated[int, typer.Option(metavar="B", help="Batch item.")] = 0,
        head: Annotated[int, typer.Option(metavar="H", help="Query head.")] = 0,
        query: Query = None,
        key: Key = None,
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        lang: Annotated[str, typer.Option(help="en (English) or ja (Japanese, 日本語).")] = "en",
        format: Annotated[str, typer.Option(help="terminal, markdown or json.")] = "terminal",
        out: Annotated[
            Path | None,
            typer.Option("--out", "-o", help="Write the lesson with its figures: .md (PNG files beside it) or .html."),
        ] = None,
        look: Look = PLAIN,
    ) -> None:
        """Teach the formula, step by step, on one query and one key of your input.

        By default on the pair with the head's largest weight, of the queries that see several keys.
        """
        look = look_of_file(look, out)
        check_choice("--lang", lang, ("en", "ja"))
        check_choice("--format", format, ("terminal", "markdown", "json"))
        from attnviz.measures.explanation import explain as compute_explanation

        if out is not None:
            out = _checked(out, [*source.paths(), *choice.paths()])
        inputs, pattern = choice.on(source.load(compute.dtype, values=True))
        explanation = compute_explanation(
            inputs,
            head=head,
            query=_number_or_word(query),
            key=_number_or_word(key),
            pattern=pattern,
            batch=batch,
            device=compute.device,
        )
        if out is not None:
            from attnviz.engine.request import Request

            request = Request(inputs, pattern, head, batch=batch, device=compute.device)
            _write(out, request, explanation, look, lang)
        if out is None or format == "json":
            _print(explanation, format, lang)


def _print(explanation: Explanation, format: str, lang: str) -> None:
    """The lesson on the terminal, or as data."""
    from attnviz.show.lessons import lesson

    if format == "json":
        from attnviz.show.exports import explanation_json

        data(explanation_json(explanation))
    elif format == "markdown":
        data(lesson(explanation, lang))
    else:
        from attnviz.cli.console import output, spelled
        from attnviz.show.lessons.terminal import LessonMarkdown

        console = output()
        console.print(LessonMarkdown(spelled(lesson(explanation, lang), console.encoding)))


def _checked(out: Path, inputs: list[Path]) -> Path:
    """The file of a lesson, where it and its figures can be written."""
    from attnviz.base.writing import check_output
    from attnviz.plots.lesson import SUFFIXES, figure_files

    out = check_output(out, SUFFIXES, inputs=inputs)
    if out.suffix.lower() == ".md":
        for file in figure_files(out).values():
            check_output(file, (".png",), inputs=inputs)
    return out


def _write(out: Path, request: Request, explanation: Explanation, look: Look, lang: str) -> None:
    from attnviz.cli.console import drawing, note
    from attnviz.plots.lesson import Lesson

    made = Lesson.of(request, explanation, look, lang)
    with drawing(theme=look.theme or "light", paper=look.paper, letters=made.letters):
        files = list(made.write(out, look))
    note(f"wrote {', '.join(map(str, files))}")


def _number_or_word(text: str | None) -> int | str | None:
    return int(text) if text is not None and re.fullmatch(r"\s*-?\d+\s*", text) else text
