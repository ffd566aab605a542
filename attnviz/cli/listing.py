"""How ``attnviz stats`` gives its rows: in which order, and to a file, a figure or the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnviz.base.errors import InputError
from attnviz.cli.console import data
from attnviz.cli.options import check_choice
from attnviz.cli.pictures import look_of_file, write_figure
from attnviz.plots.look import COLORS, Look

if TYPE_CHECKING:
    from attnviz.measures.statistics import HeadStatistics
    from attnviz.show.frames import Columns

_DATA = (".json", ".csv", ".parquet")

_JOINED = (".csv", ".parquet")
"""Data that several dumps share: tables, in which a column says of which a row is."""

_DRAWN = ("heads", "distance", "windows")
"""The kinds of rows that have a figure."""

_SORTED = {
    "keys": ("sum", "mean", "largest"),
    "shares": ("weight",),
    "distance": ("mass", "weight"),
    "windows": ("mass",),
}
"""The columns that rows are sorted by, where they are none of the statistics."""


@dataclass(frozen=True)
class Listing:
    """Order and output: how rows are sorted, what is told of them, and where they go."""

    sort: Annotated[str | None, typer.Option(help="Statistic to sort by, largest first: {statistics}.")] = None
    ascending: Annotated[bool, typer.Option("--ascending", help="Smallest first.")] = False
    tags: Annotated[
        bool, typer.Option("--tags", help="Each head's tag too, and its score: sink, previous, induction, …")
    ] = False
    format: Annotated[str, typer.Option(help="table, json or csv.")] = "table"
    statistic: Annotated[
        str,
        typer.Option(
            metavar="STATISTIC",
            help="Statistic that the figure shows; or FILE.py:NAME of your own: runs that file.",
        ),
    ] = "entropy"
    by_layer: Annotated[
        bool, typer.Option("--by-layer", help="The figure has layers across and a line a head, and their mean.")
    ] = False
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Figure (.png, .pdf, .svg) of layers x heads, or with --curve or --by-layer of lines; or data (.json, .csv, .parquet).",
        ),
    ] = None

    @property
    def drawn(self) -> Path | None:
        """The figure, where one is asked for."""
        return None if self.out is None or self.out.suffix.lower() in _DATA else self.out

    def named(self, statistic: str) -> Listing:
        """The same with the name that a statistic is known by. Raises InputError for one that is not there, or that nothing shows."""
        from attnviz.measures.statistics import STATISTICS

        check_choice("--statistic", statistic, tuple(STATISTICS))
        own = statistic != self.statistic
        if statistic != "entropy" and not own and self.drawn is None:
            raise InputError(
                f"--statistic {statistic}: it says what a figure shows; name one with -o (.png, .pdf, .svg)"
            )
        return replace(self, statistic=statistic)

    def checked(self, kind: str, inputs: Sequence[Path]) -> Listing:
        """The same for rows of a kind, with a file that can be written. Raises InputError for what has no use for each other."""
        from attnviz.base.writing import PICTURES, check_output
        from attnviz.measures.statistics import STATISTICS

        heads, out = kind == "heads", self.out
        if self.sort is not None:
            check_choice("--sort", self.sort, _SORTED.get(kind, tuple(STATISTICS)))
        elif self.ascending:
            raise InputError("--ascending: it turns --sort around, and no --sort is given")
        if self.tags and not heads:
            raise InputError(f"--tags: they are of heads, and a row is of {kind}; leave it out")
        if out is not None:
            out = check_output(out, (*PICTURES, *_DATA) if kind in _DRAWN else _DATA, inputs=inputs)
        if self.by_layer and (not heads or replace(self, out=out).drawn is None):
            raise InputError("--by-layer: it draws a statistic of heads; name a figure with -o, and no other rows")
        return replace(self, out=out)

    def look_of(self, look: Look, kind: str) -> Look:
        """How the figure looks, checked."""
        unused = ("marks",) if kind == "heads" and not self.by_layer else COLORS
        return look_of_file(look, self.drawn, unused=unused)

    def together(self, count: int) -> bool:
        """Whether ``count`` dumps become one table. Raises InputError for a file that is of one dump."""
        if count == 1 or (self.out is None and self.format != "csv"):
            return False
        if self.out is not None and self.out.suffix.lower() not in _JOINED:
            raise InputError(
                f"-o {self.out}: it is of one dump, and {count} are given; take {' or '.join(_JOINED)}, or one dump"
            )
        return True


@dataclass(frozen=True)
class Answer:
    """Rows of one dump, and how they are given."""

    listing: Listing
    look: Look
    kind: str
    found: list[Any]
    title: str
    pattern: str

    def give(self) -> None:
        """Writes and prints them."""
        if self.kind == "heads":
            self._give_heads()
        else:
            self._give_rows()

    def table(self) -> Columns:
        """The rows as columns, and before them the name of the dump."""
        columns = _columns(self.found, self.kind)
        left = () if self.listing.tags or self.kind != "heads" else ("tag", "tag_score")
        columns = {name: column for name, column in columns.items() if name not in left}
        return {"source": [self.title] * len(next(iter(columns.values()))), **columns}

    def _give_heads(self) -> None:
        """A row a head."""
        from attnviz.base.writing import is_stdout

        sort, tags = self.listing.sort, self.listing.tags
        heads: list[HeadStatistics] = self.found
        if sort is not None:
            values = [getattr(one, sort) for one in heads]
            heads = [heads[n] for n in _order(values, ascending=self.listing.ascending)]
        if self.listing.drawn is not None:
            _draw_heads(self.listing, heads, self.title, self.pattern, self.look)
        elif self.listing.out is not None:
            _write_heads(self.listing.out, heads, self.title, self.pattern, tags=tags)
        if not is_stdout(self.listing.out):
            _print_heads(heads, self.listing.format, self.title, self.pattern, tags=tags)

    def _give_rows(self) -> None:
        """A row a query, a key, a pair of spans, a distance or a window."""
        from attnviz.base.writing import is_stdout

        said = (self.kind, self.title, self.pattern)
        columns = _sorted(_columns(self.found, self.kind), self.listing)
        if self.listing.drawn is not None:
            _draw_curves(self.listing.drawn, self.found, *said, self.look)
        elif self.listing.out is not None:
            _write_rows(self.listing.out, columns, *said)
        if is_stdout(self.listing.out):
            return
        if self.kind == "shares" and self.listing.sort is None and self.listing.format == "table":
            columns = _columns(self.found, "shares in percent")
        _print_rows(columns, *said, self.listing.format)


def give_table(answers: Sequence[Answer], title: str) -> None:
    """Writes or prints the rows of several dumps as one table."""
    from attnviz.show.frames import joined

    listing, kind = answers[0].listing, answers[0].kind
    columns = _sorted(joined([one.table() for one in answers]), listing)
    if listing.out is None:
        _print_rows(columns, kind, title, "", listing.format)
    else:
        _write_rows(listing.out, columns, kind, title, "")


def _columns(found: Sequence[Any], kind: str) -> Columns:
    """All rows as columns."""
    from attnviz.show.frames import joined

    of_curves = {"distance": "by_distance", "windows": "by_window", "shares in percent": "by_key"}
    return joined(getattr(one, of_curves.get(kind, "columns"))() for one in found)


def _sorted(columns: Columns, listing: Listing) -> Columns:
    """Rows in the order that is asked for."""
    if listing.sort is None:
        return columns
    order = _order(columns.get(listing.sort, []), ascending=listing.ascending)
    return {name: [column[n] for n in order] for name, column in columns.items()}


def _order(values: Sequence[Any], *, ascending: bool) -> list[int]:
    """The places of values, sorted; those without a number come last either way."""
    known = [n for n, value in enumerate(values) if value is not None]
    known.sort(key=lambda n: values[n], reverse=not ascending)
    return [*known, *(n for n, value in enumerate(values) if value is None)]


def _draw_heads(listing: Listing, found: list[HeadStatistics], title: str, named: str, look: Look) -> None:
    """A figure of one statistic."""
    from attnviz.plots.heads import plot_statistics
    from attnviz.show.figures.statistics import statistics_words

    assert listing.drawn is not None
    statistic, lines = listing.statistic, listing.by_layer
    words = statistics_words(found, statistic, source=title, pattern=named)
    how: dict[str, Any] = {"title": look.title, "width": look.width, **({} if lines else look.colors)}
    how["caption"] = words if look.caption is True else look.caption or None
    kind = "stats by layer" if lines else "stats"
    write_figure(
        listing.drawn, lambda: plot_statistics(found, statistic, by_layer=lines, **how), look, words, kind=kind
    )


def _write_heads(out: Path, found: list[HeadStatistics], title: str, named: str, *, tags: bool) -> None:
    """All statistics of heads, as data."""
    from attnviz.cli.console import note
    from attnviz.show import exports, frames

    suffix = out.suffix.lower()
    if suffix == ".parquet":
        frames.write_parquet(out, _columns(found, "heads"))
    elif suffix == ".json":
        exports.write_text(out, exports.statistics_json(found, title, named, tags=tags))
    else:
        exports.write_text(out, exports.statistics_csv(found, tags=tags))
    note(f"wrote {out}")


def _print_heads(found: list[HeadStatistics], format: str, title: str, named: str, *, tags: bool) -> None:
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
