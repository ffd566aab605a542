"""``attnviz stats``: what each head does, in numbers: head by head, query by query, key by key, or by distance."""

from __future__ import annotations

import typer

from attnviz.cli.choice import PatternChoice
from attnviz.cli.console import data
from attnviz.cli.derived import NORMS, Derive, Weighed
from attnviz.cli.groups import command
from attnviz.cli.listing import Answer, Listing, give_table
from attnviz.cli.options import Compute, Heads, Item, Part, Seen, check_choice
from attnviz.cli.pictures import PLAIN
from attnviz.cli.rows import Rows, check_part, computed, own_statistic_named
from attnviz.cli.source import More, Source, paths_of
from attnviz.plots.look import Look


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
        rows: Rows = Rows(),  # noqa: B008 (frozen)
        choice: PatternChoice = PatternChoice(),  # noqa: B008 (frozen)
        seen: Seen = Seen(),  # noqa: B008 (frozen)
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        derive: Derive = Derive(),  # noqa: B008 (frozen)
        values: Weighed = "weights",
        listing: Listing = Listing(),  # noqa: B008 (frozen)
        look: Look = PLAIN,
    ) -> None:
        """Print entropy, global mass, sink, distance and more: a row a head, of every layer of a dump.

        Each number is a mean over the queries that see a key; --sort lists them. Of several dumps each has its table; as
        csv or parquet they are one, with a column that says of which dump a row is.
        """
        check_choice("--format", listing.format, ("table", "json", "csv"))
        check_choice("--values", values, ("weights", *NORMS))
        kind = rows.kind()
        check_part(kind, part, seen)
        with own_statistic_named(listing.statistic) as statistic:
            sources = source.with_more(more)
            listing = listing.named(statistic).checked(kind, [*paths_of(sources), *choice.paths()])
            look = listing.look_of(look, kind)
            together = listing.together(len(sources))
            answers = []
            for one in sources:  # whatever is wrong with one of them is said before anything is printed
                layers = derive.each(one, choice, compute, batch, values)
                found, patterns = computed(kind, layers, derive, compute, head, part, seen)
                named = " | ".join(dict.fromkeys(patterns))  # layers may have their own
                answers.append(Answer(listing, look, kind, found, one.title, named))
            if together:
                give_table(answers, source.title)
                return
            for number, answer in enumerate(answers):
                if number and listing.format == "table":
                    data("\n")
                answer.give()
