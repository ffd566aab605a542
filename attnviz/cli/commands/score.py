"""``attnviz score``: scores and weights as tables and as data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnviz.cli.choice import PatternChoice
from attnviz.cli.derived import Derive
from attnviz.cli.groups import command
from attnviz.cli.options import (
    VALUES,
    Batch,
    Compute,
    Heads,
    Part,
    Seen,
    Values,
    check_choice,
    request_of,
    tell_left_out,
)
from attnviz.cli.source import Source

if TYPE_CHECKING:
    from attnviz.attention.inputs import Inputs
    from attnviz.attention.patterns import Pattern
    from attnviz.engine.scores import ScoreStream


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz score dump.safetensors --head 0,2-4 --values logits")
    def score(
        source: Source,
        batch: Batch = "0",
        head: Heads = "all",
        values: Values = "weights",
        part: Part = Part(),  # noqa: B008 (frozen)
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        seen: Seen = Seen(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        derive: Derive = Derive(),  # noqa: B008 (frozen)
        format: Annotated[str, typer.Option(help="table, json, csv or markdown.")] = "table",
        rows: Annotated[int, typer.Option(help="Most rows of a table; the middle is left out beyond.", min=2)] = 20,
        out: Annotated[
            Path | None,
            typer.Option("--out", "-o", help="Write all scores and weights: .safetensors, .npz, .csv or .json."),
        ] = None,
    ) -> None:
        """Print the scores of each head, or their softmax, and write them to a file."""
        check_choice("--values", values, VALUES)
        check_choice("--format", format, ("table", "json", "csv", "markdown"))
        from attnviz.base.writing import Stdout, check_output, is_stdout
        from attnviz.cli.console import note
        from attnviz.show import scores as written

        if out is not None:
            out = check_output(out, written.SUFFIXES, inputs=[*source.paths(), *choice.paths()])
        inputs, pattern, batch, values = derive.load(source, choice, compute, batch, values)
        if values == "logits":
            seen.refuse("words, spans and hidden keys are of weights, and logits don't add up; take --values weights")
            _check_logits(inputs)
        # Logits also tell which keys a query does not see; of the global keys it sees all.
        wanted = ("weights", "logits") if out is not None or format in ("json", "csv") else (values,)
        results = _computed(inputs, pattern, compute, derive, head, batch, part, seen, wanted)
        if out is not None or format in ("json", "csv"):
            _say_size(results, out)
        if out is not None:
            written.write_results(out, results)
            note(f"wrote {out}")
        if is_stdout(out):
            return
        if format in ("json", "csv"):
            written.write_results(Stdout(f"-.{format}"), results)
        elif format == "markdown":
            heads = [(result, h) for result in results for h in result.frame.heads]
            tables = (
                chain(["\n"] * (n > 0), written.markdown_pieces(*one, values=values)) for n, one in enumerate(heads)
            )
            written.write_pieces(Stdout("-.md"), chain.from_iterable(tables))
        else:
            _print(results, values, rows)


_LARGE = 100_000_000
"""Bytes of numbers from which on it is said how many there are to be."""


def _say_size(results: Sequence[ScoreStream], out: Path | None) -> None:
    """Says how much is going to be made, where that is much."""
    from attnviz.cli.console import note
    from attnviz.show.scores import size_of

    size, frame = size_of(results), results[0].frame
    if size > _LARGE:
        columns = len(frame.positions) + len(frame.offsets)
        where = "on stdout" if out is None else f"in {out}"
        text = "" if out is not None and out.suffix.lower() in (".npz", ".safetensors") else ", and more as text"
        note(
            f"{len(frame.heads)} heads x {len(frame.rows):,} queries x {columns:,} keys are {size / 1e9:,.1f} GB of numbers "
            f"{where}{text}"
        )


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
    derive: Derive,
    head: str,
    batch: str,
    part: Part,
    seen: Seen,
    wanted: Sequence[str],
) -> list[ScoreStream]:
    """The scores of each batch item, still to be computed."""
    from attnviz.attention.patterns import GlobalKeys
    from attnviz.base.selections import parse_indices
    from attnviz.engine.scores import ScoreStream

    both = not isinstance(pattern, GlobalKeys)
    found = []
    for item in parse_indices(batch, inputs.B, option="--batch", noun="batch item"):
        what: dict[str, Any] = {"head": head, "batch": f"{item}", "region": part, "seen": seen}
        request = derive.heads(request_of(inputs, pattern, compute, **what))
        tell_left_out(request.attention.left_out(one, request.rows) for one in request.chosen)
        found.append(ScoreStream(request, logits=both or "logits" in wanted, weights=both or "weights" in wanted))
    return found


def _print(results: Sequence[ScoreStream], values: str, rows: int) -> None:
    """A table for each head, and one more for its global queries where there are some."""
    from attnviz.cli.console import output
    from attnviz.show.terminal.tables import ends, score_table

    console, tables = output(), []
    for stream in results:
        of_global = stream.frame.global_queries.tolist()
        for h in stream.frame.heads:
            for apart in (False, True) if len(of_global) else (False,):
                queries = of_global if apart else stream.frame.rows
                shown = [queries[row] for row in ends(len(queries), rows) if row is not None]
                some = stream.some(h, shown)  # of rows that are left out, nothing is computed
                tables.append(
                    score_table(
                        some, h, values=values, rows=rows, width=console.width, of_global=apart, total=len(queries)
                    )
                )
    for table in tables:  # once all of them are right
        console.print(table)
        console.print()
