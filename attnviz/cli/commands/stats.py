"""``attnviz stats``: what each head does, in numbers: head by head, query by query, key by key, or by distance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnviz.base.errors import InputError
from attnviz.cli.choice import PatternChoice
from attnviz.cli.console import data
from attnviz.cli.derived import NORMS, Derive, Weighed
from attnviz.cli.groups import command
from attnviz.cli.options import Compute, Heads, Item, Part, Seen, check_choice, request_of, tell_left_out
from attnviz.cli.pictures import PLAIN, look_of_file, write_figure
from attnviz.cli.source import More, Source, paths_of
from attnviz.plots.look import COLORS, Look

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from attnviz.attention.inputs import Inputs
    from attnviz.attention.patterns import Pattern
    from attnviz.base.types import Label
    from attnviz.measures.statistics import HeadStatistics
    from attnviz.show.frames import Columns

_DATA = (".json", ".csv", ".parquet")

_JOINED = (".csv", ".parquet")
"""Data that several dumps share: tables, in which a column says of which a row is."""

_DRAWN = ("heads", "distance", "windows")
"""The kinds of rows that have a figure."""


@dataclass(frozen=True)
class Rows:
    """What a row of the table is, where it is no head."""

    by_query: Annotated[bool, typer.Option("--by-query", help="A row a query: its own statistics.")] = False
    keys_received: Annotated[
        bool,
        typer.Option(
            "--keys-received",
            help="A row a key: the weight it receives; sum, mean over queries that can see it, largest.",
        ),
    ] = False
    shares: Annotated[
        bool,
        typer.Option(
            "--shares",
            help="A row a pair of spans or words (--spans, --merge): the share of its weight that one gives to the other.",
        ),
    ] = False
    curve: Annotated[
        str | None,
        typer.Option(
            help="A row a distance or a window: weight by distance, or inside windows of powers of two and the first 4 keys."
        ),
    ] = None

    def kind(self) -> str:
        """``heads``, ``queries``, ``keys``, ``shares``, ``distance`` or ``windows``. Raises InputError where more than one is asked for."""
        if self.curve is not None:
            check_choice("--curve", self.curve, ("distance", "windows"))
        asked = {
            "--by-query": self.by_query,
            "--keys-received": self.keys_received,
            "--shares": self.shares,
            "--curve": self.curve,
        }
        given = [option for option, value in asked.items() if value]
        if len(given) > 1:
            raise InputError(f"{given[0]} and {given[1]}: each says what a row is; give one")
        kinds = {"queries": self.by_query, "keys": self.keys_received, "shares": self.shares}
        return self.curve or next((kind for kind, asked in kinds.items() if asked), "heads")


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""

    @command(app, example="attnviz stats dump.safetensors --pattern causal --sort entropy")
    def stats(
        source: Source,
        more: More = None,
        *,
        head: Heads = "all",
        batch: Item = "0",
        part: Part = Part(),  # noqa: B008 (frozen)
        rows: Rows = Rows(),
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        seen: Seen = Seen(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        derive: Derive = Derive(),  # noqa: B008 (frozen)
        values: Weighed = "weights",
        sort: Annotated[str | None, typer.Option(help="Statistic to sort by, largest first: {statistics}.")] = None,
        ascending: Annotated[bool, typer.Option("--ascending", help="Smallest first.")] = False,
        tags: Annotated[
            bool, typer.Option("--tags", help="Each head's tag too, and its score: sink, previous, induction, …")
        ] = False,
        format: Annotated[str, typer.Option(help="table, json or csv.")] = "table",
        statistic: Annotated[
            str,
            typer.Option(
                help="Statistic that the figure shows; or FILE.py:NAME, one of your own: runs that file, your own code."
            ),
        ] = "entropy",
        by_layer: Annotated[
            bool, typer.Option("--by-layer", help="The figure has layers across and a line a head, and their mean.")
        ] = False,
        out: Annotated[
            Path | None,
            typer.Option(
                "--out",
                "-o",
                help="Figure (.png, .pdf, .svg) of layers x heads, or with --curve or --by-layer of lines; or data (.json, .csv, .parquet).",
            ),
        ] = None,
        look: Look = PLAIN,
    ) -> None:
        """Print entropy, global mass, sink, distance and more: a row a head, of every layer of a dump.

        Each number is a mean over the queries that see a key; --sort lists them. Of several dumps each has its table; as
        csv or parquet they are one, with a column that says of which dump a row is.
        """
        check_choice("--format", format, ("table", "json", "csv"))
        check_choice("--values", values, ("weights", *NORMS))
        kind = rows.kind()
        _check_part(kind, part, seen)
        with _own_statistic(statistic) as shown:
            _check(sort, ascending, shown, out, kind, own=shown != statistic)
            sources = source.with_more(more)
            inputs = [*paths_of(sources), *choice.paths()]
            ask = _Asked(kind, sort, ascending, format, out, look, tags, by_layer, source.title).checked(inputs)
            together = ask.together(len(sources))
            given = []
            for one in sources:  # whatever is wrong with one of them is said before anything is printed
                layers = derive.each(one, choice, compute, batch, values)
                found, patterns = _computed(kind, layers, derive, compute, head, part, seen)
                given.append((one.title, found, " | ".join(dict.fromkeys(patterns))))  # layers may have their own
            if together:
                ask.give_table([ask.table(found, title) for title, found, _ in given])
                return
            for number, (title, found, named) in enumerate(given):
                if number and format == "table":
                    data("\n")
                replace(ask, title=title).give(found, shown, named)


@dataclass(frozen=True)
class _Asked:
    """What rows are of, in which order they are, and where they go."""

    kind: str
    sort: str | None
    ascending: bool
    format: str
    out: Path | None
    look: Look
    tags: bool
    by_layer: bool
    title: str

    @property
    def drawn(self) -> Path | None:
        """The figure, where one is asked for."""
        return None if self.out is None or self.out.suffix.lower() in _DATA else self.out

    def checked(self, inputs: Sequence[Path]) -> _Asked:
        """The same with a file that can be written, and a look that it has. Raises InputError."""
        from attnviz.base.writing import PICTURES, check_output

        heads, out = self.kind == "heads", self.out
        if self.tags and not heads:
            raise InputError(f"--tags: they are of heads, and a row is of {self.kind}; leave it out")
        if out is not None:
            out = check_output(out, (*PICTURES, *_DATA) if self.kind in _DRAWN else _DATA, inputs=inputs)
        found = replace(self, out=out)
        if self.by_layer and (not heads or found.drawn is None):
            raise InputError("--by-layer: it draws a statistic of heads; name a figure with -o, and no other rows")
        unused = ("marks",) if heads and not self.by_layer else COLORS
        return replace(found, look=look_of_file(self.look, found.drawn, unused=unused))

    def together(self, count: int) -> bool:
        """Whether ``count`` dumps become one table. Raises InputError for a file that is of one dump."""
        if count == 1 or (self.out is None and self.format != "csv"):
            return False
        if self.out is not None and self.out.suffix.lower() not in _JOINED:
            raise InputError(
                f"-o {self.out}: it is of one dump, and {count} are given; take {' or '.join(_JOINED)}, or one dump"
            )
        return True

    def table(self, found: Sequence[Any], title: str) -> Columns:
        """The rows of one dump of several, with its name."""
        columns = _columns(found, self.kind)
        left = () if self.tags or self.kind != "heads" else ("tag", "tag_score")
        columns = {name: column for name, column in columns.items() if name not in left}
        return {"source": [title] * len(next(iter(columns.values()))), **columns}

    def give_table(self, tables: Sequence[Columns]) -> None:
        """Writes or prints the rows of several dumps."""
        from attnviz.show.frames import joined

        columns = _sorted(joined(tables), self.sort, ascending=self.ascending)
        if self.out is None:
            _print_rows(columns, self.kind, self.title, "", self.format)
        else:
            _write_rows(self.out, columns, self.kind, self.title, "")

    def give(self, found: list[Any], statistic: str, named: str) -> None:
        """Writes and prints the rows of one dump."""
        if self.kind == "heads":
            self.give_heads(found, statistic, named)
        else:
            self.give_rows(found, named)

    def give_heads(self, found: list[HeadStatistics], statistic: str, named: str) -> None:
        """Writes and prints a row a head."""
        from attnviz.base.writing import is_stdout

        ordered = found if self.sort is None else _in_order(found, self.sort, ascending=self.ascending)
        if self.out is not None:
            how: dict[str, Any] = {"tags": self.tags, "lines": self.by_layer}
            _write(self.out, ordered, statistic, self.title, named, self.look, **how)
        if not is_stdout(self.out):
            _print(ordered, self.format, self.title, named, tags=self.tags)

    def give_rows(self, found: Sequence[Any], named: str) -> None:
        """Writes and prints a row a query, a key, a pair of spans, a distance or a window."""
        from attnviz.base.writing import is_stdout

        columns = _sorted(_columns(found, self.kind), self.sort, ascending=self.ascending)
        if self.drawn is not None:
            _draw_curves(self.drawn, [*found], self.kind, self.title, named, self.look)
        elif self.out is not None:
            _write_rows(self.out, columns, self.kind, self.title, named)
        if is_stdout(self.out):
            return
        wide = self.kind == "shares" and self.sort is None and self.format == "table"
        _print_rows(
            _columns(found, "shares in percent") if wide else columns, self.kind, self.title, named, self.format
        )


@contextmanager
def _own_statistic(text: str) -> Iterator[str]:
    """The statistic's name, while one of the user's own, out of their file, is known by it."""
    from attnviz.base.owncode import OwnName
    from attnviz.measures.statistic import own_statistic
    from attnviz.measures.statistics import STATISTICS

    if ".py:" not in text:
        yield text
        return
    before = dict(STATISTICS)
    try:
        own = OwnName.parse(text, "--statistic")
        yield own_statistic(own.load(), own.name, f"--statistic {text}", before)
    finally:
        STATISTICS.clear()
        STATISTICS.update(before)


def _check(sort: str | None, ascending: bool, statistic: str, out: Path | None, kind: str, *, own: bool) -> None:
    """Raises InputError for options that name no statistic, or have no use for each other."""
    from attnviz.measures.statistics import STATISTICS

    if sort is not None:
        columns = {
            "keys": ("sum", "mean", "largest"),
            "shares": ("weight",),
            "distance": ("mass", "weight"),
            "windows": ("mass",),
        }
        check_choice("--sort", sort, columns.get(kind, tuple(STATISTICS)))
    elif ascending:
        raise InputError("--ascending: it turns --sort around, and no --sort is given")
    check_choice("--statistic", statistic, tuple(STATISTICS))
    if statistic != "entropy" and not own and (out is None or out.suffix.lower() in _DATA):
        raise InputError(f"--statistic {statistic}: it says what a figure shows; name one with -o (.png, .pdf, .svg)")


def _check_part(kind: str, part: Part, seen: Seen) -> None:
    """Raises InputError for options that rows of a kind have no use for."""
    if part.keys is not None and kind not in ("keys", "shares"):
        raise InputError(
            f"--keys {part.keys}: statistics are of queries over all the keys they see; take --keys-received or --shares, or "
            f"choose --queries"
        )
    if kind == "shares" and not {"merge", "spans", "query_spans"} & {*seen.asked()}:
        raise InputError("--shares: they are of spans or words, and none are asked for; add --spans or --merge words")


def _computed(
    kind: str,
    layers: Iterator[tuple[Label | None, Inputs, Pattern, str]],
    derive: Derive,
    compute: Compute,
    head: str,
    part: Part,
    seen: Seen,
) -> tuple[list[Any], list[str]]:
    """The statistics of every head, one layer in memory at a time, and the pattern of each layer."""
    from attnviz.cli.console import note
    from attnviz.cli.progress import rows_progress

    compute_rows = _computing(kind)
    found: list[Any] = []
    patterns: list[str] = []
    caveats: dict[str, None] = {}
    left_out: list[float | None] = []
    for label, inputs, pattern, item in layers:
        of: dict[str, Any] = {"head": head, "batch": item, "region": part, "seen": seen}
        request = derive.heads(request_of(inputs, pattern, compute, **of, every_key=True))
        measured = request.attention.measured
        patterns.append(request.attention.pattern_name + ("" if measured is None else f", {measured}"))
        caveats |= {} if request.attention.caveat is None else {request.attention.caveat: None}
        size = len(request.rows) * len(request.chosen)
        with rows_progress(size, "stats" if label is None else f"layer {label}") as progress:
            found += compute_rows(request, progress=progress)
        if seen.hide is not None and kind != "heads":  # whose rows say it
            left_out += [request.attention.left_out(one, request.rows) for one in request.chosen]
        del inputs, request  # before the next layer is read
    for said in caveats:
        note(said)
    tell_left_out(left_out or [one.left_out for one in found if kind == "heads"])
    return found, patterns


def _computing(kind: str) -> Callable[..., list[Any]]:
    """What computes rows of a kind, of a request."""
    from attnviz.measures.curves import curves_of
    from attnviz.measures.rows import by_key, by_query
    from attnviz.measures.shares import shares_of
    from attnviz.measures.statistics import statistics_of_request

    known: dict[str, Callable[..., list[Any]]] = {
        "heads": statistics_of_request,
        "queries": by_query,
        "keys": by_key,
        "shares": shares_of,
        "distance": curves_of,
        "windows": curves_of,
    }
    return known[kind]


def _columns(found: Sequence[Any], kind: str) -> Columns:
    """All rows as columns."""
    from attnviz.show.frames import joined

    of_curves = {"distance": "by_distance", "windows": "by_window", "shares in percent": "by_key"}
    return joined(getattr(one, of_curves.get(kind, "columns"))() for one in found)


def _sorted(columns: Columns, sort: str | None, *, ascending: bool) -> Columns:
    """Rows by a column; those without a number come last either way."""
    if sort is None:
        return columns
    values = columns.get(sort, [])
    known = sorted(
        (n for n, value in enumerate(values) if value is not None), key=lambda n: values[n], reverse=not ascending
    )
    order = [*known, *(n for n, value in enumerate(values) if value is None)]
    return {name: [column[n] for n in order] for name, column in columns.items()}


def _in_order(rows: list[HeadStatistics], sort: str, *, ascending: bool) -> list[HeadStatistics]:
    """Rows by a statistic; heads without it come last either way."""
    known = [row for row in rows if getattr(row, sort) is not None]
    known.sort(key=lambda row: getattr(row, sort), reverse=not ascending)
    return known + [row for row in rows if getattr(row, sort) is None]


def _write(
    out: Path,
    found: list[HeadStatistics],
    statistic: str,
    title: str,
    named: str,
    look: Look,
    *,
    tags: bool,
    lines: bool,
) -> None:
    """A figure of one statistic, or all of them as data."""
    from attnviz.cli.console import note
    from attnviz.plots.heads import plot_statistics
    from attnviz.show import exports, frames
    from attnviz.show.figures.statistics import statistics_words

    suffix = out.suffix.lower()
    if suffix == ".parquet":
        frames.write_parquet(out, _columns(found, "heads"))
    elif suffix == ".json":
        exports.write_text(out, exports.statistics_json(found, title, named, tags=tags))
    elif suffix == ".csv":
        exports.write_text(out, exports.statistics_csv(found, tags=tags))
    else:
        words = statistics_words(found, statistic, source=title, pattern=named)
        how: dict[str, Any] = {"title": look.title, "width": look.width, **({} if lines else look.colors)}
        how["caption"] = words if look.caption is True else look.caption or None
        kind = "stats by layer" if lines else "stats"
        write_figure(out, lambda: plot_statistics(found, statistic, by_layer=lines, **how), look, words, kind=kind)
        return
    note(f"wrote {out}")


def _print(found: list[HeadStatistics], format: str, title: str, named: str, *, tags: bool) -> None:
    """All statistics of heads, as a table or as data."""
    from attnviz.cli.console import output
    from attnviz.show import exports
    from attnviz.show.terminal.tables import statistics_table

    if format == "json":
        data(exports.statistics_json(found, title, named, tags=tags))
    elif format == "csv":
        data(exports.statistics_csv(found, tags=tags))
    else:
        console = output()
        said = title if found[0].batch is None else f"{title}, batch item {found[0].batch}"
        console.print(statistics_table(found, f"{said} · {named}", console.width, tags=tags))


def _draw_curves(out: Path, found: list[Any], kind: str, title: str, named: str, look: Look) -> None:
    """A figure of lines, one a head."""
    from attnviz.plots.heads import plot_curves
    from attnviz.show.figures.curves import curves_words

    words = curves_words(found, kind, source=title, pattern=named)
    said = words if look.caption is True else look.caption or None
    how: dict[str, Any] = {"title": look.title, "caption": said, "width": look.width}
    write_figure(out, lambda: plot_curves(found, kind, **how), look, words, kind=f"stats {kind}")


def _write_rows(out: Path, columns: Columns, kind: str, title: str, named: str) -> None:
    """Rows of queries, keys, distances or windows, as data."""
    from attnviz.cli.console import note
    from attnviz.show import exports, frames

    suffix = out.suffix.lower()
    if suffix == ".parquet":
        frames.write_parquet(out, columns)
    else:
        of_json = suffix == ".json"
        exports.write_text(
            out, frames.columns_json(columns, kind, title, named) if of_json else frames.columns_csv(columns)
        )
    note(f"wrote {out}")


def _print_rows(columns: Columns, kind: str, title: str, named: str, format: str) -> None:
    """Rows of queries, keys, distances or windows, as a table or as data."""
    from attnviz.cli.console import output
    from attnviz.show import frames
    from attnviz.show.terminal.tables import columns_table

    if format == "json":
        data(frames.columns_json(columns, kind, title, named))
    elif format == "csv":
        data(frames.columns_csv(columns))
    else:
        console = output()
        console.print(columns_table(columns, f"{title} · {named} · {kind}", console.width))
