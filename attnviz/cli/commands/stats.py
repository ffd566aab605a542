"""``attnviz stats``: what each head does, in numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnviz.base.errors import InputError
from attnviz.cli.console import data
from attnviz.cli.groups import command
from attnviz.cli.options import Compute, Heads, Item, PatternChoice, Source, check_choice, request_of
from attnviz.cli.pictures import PLAIN, look_of_file, write_figure
from attnviz.plots.look import Look

if TYPE_CHECKING:
    from attnviz.measures.statistics import HeadStatistics

_PICTURES, _DATA = (".png", ".pdf", ".svg"), (".json", ".csv")


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz stats dump.safetensors --pattern causal --sort entropy")
    def stats(
        source: Source,
        head: Heads = "all",
        batch: Item = "0",
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        sort: Annotated[str | None, typer.Option(help="Statistic to sort by, largest first: {statistics}.")] = None,
        ascending: Annotated[bool, typer.Option("--ascending", help="Smallest first.")] = False,
        format: Annotated[str, typer.Option(help="table, json or csv.")] = "table",
        statistic: Annotated[str, typer.Option(help="Statistic that the figure shows.")] = "entropy",
        out: Annotated[
            Path | None,
            typer.Option("--out", "-o", help="Figure of layers x heads (.png, .pdf, .svg), or data (.json, .csv)."),
        ] = None,
        look: Look = PLAIN,
    ) -> None:
        """Print entropy, global mass, sink, distance and more: a row a head, of every layer of a dump.

        Each number is a mean over the queries that see a key. The statistics: {statistics}.
        """
        check_choice("--format", format, ("table", "json", "csv"))
        from attnviz.base.writing import check_output, is_stdout

        _check(sort, ascending, statistic, out)
        if out is not None:
            out = check_output(out, (*_PICTURES, *_DATA), inputs=[*source.paths(), *choice.paths()])
        drawn = None if out is None or out.suffix.lower() in _DATA else out
        look = look_of_file(look, drawn, unused=("marks",))
        found, patterns = _computed(source, choice, compute, head, batch)
        found = found if sort is None else _in_order(found, sort, ascending=ascending)
        named = " | ".join(dict.fromkeys(patterns))  # layers may have patterns of their own
        if out is not None:
            _write(out, found, statistic, source.title, named, look)
        if not is_stdout(out):
            _print(found, format, source.title, named)


def _check(sort: str | None, ascending: bool, statistic: str, out: Path | None) -> None:
    """Raises InputError for options that name no statistic, or have no use for each other."""
    from attnviz.measures.statistics import STATISTICS

    if sort is not None:
        check_choice("--sort", sort, tuple(STATISTICS))
    elif ascending:
        raise InputError("--ascending: it turns --sort around, and no --sort is given")
    check_choice("--statistic", statistic, tuple(STATISTICS))
    if statistic != "entropy" and (out is None or out.suffix.lower() in _DATA):
        raise InputError(f"--statistic {statistic}: it says what a figure shows; name one with -o (.png, .pdf, .svg)")


def _computed(
    source: Source, choice: PatternChoice, compute: Compute, head: str, batch: str
) -> tuple[list[HeadStatistics], list[str]]:
    """The statistics of every head, one layer in memory at a time, and the pattern of each layer."""
    from attnviz.cli.console import note
    from attnviz.cli.progress import rows_progress
    from attnviz.measures.statistics import statistics_of_request

    found: list[HeadStatistics] = []
    patterns: list[str] = []
    caveats: dict[str, None] = {}
    for label, inputs in source.each(compute.dtype):
        inputs, pattern = choice.on(inputs)
        request = request_of(inputs, pattern, compute, head=head, batch=batch)
        patterns.append(request.attention.pattern_name)
        caveats |= {} if request.attention.caveat is None else {request.attention.caveat: None}
        with rows_progress(inputs.T * len(request.chosen), "stats" if label is None else f"layer {label}") as progress:
            found += statistics_of_request(request, progress=progress)
        del inputs, request  # before the next layer is read
    for said in caveats:
        note(said)
    return found, patterns


def _in_order(rows: list[HeadStatistics], sort: str, *, ascending: bool) -> list[HeadStatistics]:
    """Rows by a statistic; heads without it come last either way."""
    known = [row for row in rows if getattr(row, sort) is not None]
    known.sort(key=lambda row: getattr(row, sort), reverse=not ascending)
    return known + [row for row in rows if getattr(row, sort) is None]


def _write(out: Path, found: list[HeadStatistics], statistic: str, title: str, named: str, look: Look) -> None:
    """A figure of one statistic, or all of them as data."""
    from attnviz.cli.console import note
    from attnviz.show import exports
    from attnviz.show.figures.statistics import statistics_figure, statistics_words

    suffix = out.suffix.lower()
    if suffix in _DATA:
        of_json = suffix == ".json"
        exports.write_text(
            out, exports.statistics_json(found, title, named) if of_json else exports.statistics_csv(found)
        )
        note(f"wrote {out}")
        return
    words = statistics_words(found, statistic, source=title, pattern=named)
    said = words if look.caption is True else look.caption or None
    how: dict[str, Any] = {"title": look.title, "caption": said, "width": look.inches, **look.colors}
    write_figure(out, lambda: statistics_figure(found, statistic, **how), look, words, kind="stats")


def _print(found: list[HeadStatistics], format: str, title: str, named: str) -> None:
    """All statistics, as a table or as data."""
    from attnviz.cli.console import output
    from attnviz.show import exports
    from attnviz.show.terminal.tables import statistics_table

    if format == "json":
        data(exports.statistics_json(found, title, named))
    elif format == "csv":
        data(exports.statistics_csv(found))
    else:
        console = output()
        said = title if found[0].batch is None else f"{title}, batch item {found[0].batch}"
        console.print(statistics_table(found, f"{said} · {named}", console.width))
