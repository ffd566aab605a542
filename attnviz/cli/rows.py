"""What a row of ``attnviz stats`` is: a head, a query, a key, a pair of spans, a distance or a window; and its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnviz.base.errors import InputError
from attnviz.cli.derived import Derive
from attnviz.cli.options import Compute, Part, Seen, check_choice, request_of, tell_left_out

if TYPE_CHECKING:
    from collections.abc import Callable

    from attnviz.attention.inputs import Inputs
    from attnviz.attention.patterns import Pattern
    from attnviz.base.types import Label


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


def check_part(kind: str, part: Part, seen: Seen) -> None:
    """Raises InputError for options that rows of a kind have no use for."""
    if part.keys is not None and kind not in ("keys", "shares"):
        raise InputError(
            f"--keys {part.keys}: statistics are of queries over all the keys they see; take --keys-received or --shares, or "
            f"choose --queries"
        )
    if kind == "shares" and not {"merge", "spans", "query_spans"} & {*seen.asked()}:
        raise InputError("--shares: they are of spans or words, and none are asked for; add --spans or --merge words")


@contextmanager
def own_statistic_named(text: str) -> Iterator[str]:
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


def computed(
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
