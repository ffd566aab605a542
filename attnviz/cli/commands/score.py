"""``attnviz score``: scores and weights as tables and as data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnviz.cli.console import data
from attnviz.cli.groups import command
from attnviz.cli.options import (
    Batch,
    Compute,
    Derived,
    Heads,
    Part,
    PatternChoice,
    Source,
    Values,
    check_choice,
    request_of,
    tell_left_out,
)

if TYPE_CHECKING:
    from attnviz.attention.inputs import Inputs
    from attnviz.attention.patterns import Pattern
    from attnviz.engine.scores import AttentionScores


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz score dump.safetensors --head 0,2-4 --values logits")
    def score(
        source: Source,
        batch: Batch = "0",
        head: Heads = "all",
        values: Values = "weights",
        queries: Annotated[
            str | None, typer.Option(metavar="A:B", help="Query positions A to B-1 only, or those of a word.")
        ] = None,
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        derived: Derived = Derived(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        format: Annotated[str, typer.Option(help="table, json, csv or markdown.")] = "table",
        rows: Annotated[int, typer.Option(help="Most rows of a table; the middle is left out beyond.", min=2)] = 20,
        out: Annotated[
            Path | None,
            typer.Option("--out", "-o", help="Write all scores and weights: .safetensors, .npz, .csv or .json."),
        ] = None,
    ) -> None:
        """Print the scores of each head, or their softmax, and write them to a file."""
        check_choice("--values", values, ("weights", "logits"))
        check_choice("--format", format, ("table", "json", "csv", "markdown"))
        from attnviz.base.writing import check_output, is_stdout
        from attnviz.cli.console import note
        from attnviz.show import exports

        if out is not None:
            out = check_output(out, exports.SUFFIXES, inputs=[*source.paths(), *choice.paths()])
        inputs = source.load(compute.dtype)
        if values == "logits":
            derived.refuse(
                "words, spans and hidden keys are of weights, and logits don't add up; take --values weights"
            )
            _check_logits(inputs)
        # Logits also tell which keys a query does not see; of the global keys it sees all.
        wanted = ("weights", "logits") if out is not None or format in ("json", "csv") else (values,)
        results = _computed(*choice.on(inputs), compute, head, batch, queries, derived, wanted)
        if out is not None:
            exports.write_results(out, results)
            note(f"wrote {out}")
        if is_stdout(out):
            return
        if format == "json":
            data(exports.to_json(results))
        elif format == "csv":
            data(exports.to_csv(results))
        elif format == "markdown":
            texts = [exports.to_markdown(result, h, values=values) for result in results for h in result.heads]
            data("\n".join(texts))
        else:
            _print(results, values, rows)


def _check_logits(inputs: Inputs) -> None:
    """Raises InputError where there are none."""
    item = inputs.item()
    if item.given and getattr(inputs, "logits", None) is None:
        from attnviz.engine.given import no_logits

        raise no_logits(item)


def _computed(
    inputs: Inputs,
    pattern: Pattern,
    compute: Compute,
    head: str,
    batch: str,
    queries: str | None,
    derived: Derived,
    wanted: Sequence[str],
) -> list[AttentionScores]:
    """The scores of each batch item."""
    from attnviz.attention.patterns import GlobalKeys
    from attnviz.base.selections import parse_indices
    from attnviz.engine.scores import scores_of

    heads = parse_indices(head, inputs.H, option="--head", noun="head")
    both = not isinstance(pattern, GlobalKeys)
    of = {"logits": both or "logits" in wanted, "weights": both or "weights" in wanted}
    found = []
    for item in parse_indices(batch, inputs.B, option="--batch", noun="batch item"):
        part: dict[str, Any] = {"head": head, "batch": f"{item}", "region": Part(queries=queries), "derived": derived}
        request = request_of(inputs, pattern, compute, **part)
        tell_left_out(request.attention.left_out(one, request.rows) for one in heads)
        found.append(scores_of(request, **of))
    return found


def _print(results: Sequence[AttentionScores], values: str, rows: int) -> None:
    """A table for each head, and one more for its global queries where there are some."""
    from attnviz.cli.console import output
    from attnviz.show.terminal.tables import score_table

    console = output()
    for result in results:
        for h in result.heads:
            for apart in (False, True) if len(result.global_queries) else (False,):
                console.print(score_table(result, h, values=values, rows=rows, width=console.width, of_global=apart))
                console.print()
