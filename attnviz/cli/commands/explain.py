"""``attnviz explain``: the formula taught on the user's own numbers."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from attnviz.cli.console import data
from attnviz.cli.groups import command
from attnviz.cli.options import Compute, PatternChoice, Source, check_choice


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz explain dump.safetensors --head 2 --token 5 --key 1")
    def explain(
        source: Source,
        batch: Annotated[int, typer.Option(metavar="B", help="Batch item.")] = 0,
        head: Annotated[int, typer.Option(metavar="H", help="Query head.")] = 0,
        token: Annotated[
            str | None, typer.Option(metavar="T", help="Query position, or its word.  \\[default: the middle one]")
        ] = None,
        key: Annotated[
            str | None,
            typer.Option(
                metavar="N",
                help="N of Global #N, counted from 1 as in tables; with a pattern other than global, a key "
                "position; or the key's word.  \\[default: the first visible]",
            ),
        ] = None,
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        lang: Annotated[str, typer.Option(help="en (English) or ja (Japanese, 日本語).")] = "en",
        format: Annotated[str, typer.Option(help="terminal, markdown or json.")] = "terminal",
    ) -> None:
        """Teach the formula, step by step, on one query and one key of your input."""
        check_choice("--lang", lang, ("en", "ja"))
        check_choice("--format", format, ("terminal", "markdown", "json"))
        from attnviz.measures.explanation import explain as compute_explanation
        from attnviz.show.lessons import lesson

        inputs, pattern = choice.on(source.load(compute.dtype, values=True))
        explanation = compute_explanation(
            inputs,
            head=head,
            query=_number_or_word(token),
            key=_number_or_word(key),
            pattern=pattern,
            batch=batch,
            device=compute.device,
        )
        if format == "json":
            from attnviz.show.exports import explanation_json

            data(explanation_json(explanation))
            return
        text = lesson(explanation, lang)
        if format == "markdown":
            data(text)
        else:
            from attnviz.cli.console import output
            from attnviz.show.lessons.terminal import LessonMarkdown

            output().print(LessonMarkdown(text))


def _number_or_word(text: str | None) -> int | str | None:
    return int(text) if text is not None and re.fullmatch(r"\s*-?\d+\s*", text) else text
