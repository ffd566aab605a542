"""Adding is one place: a pattern, a statistic and a kind of figure that are made here work everywhere, by their name."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from typer.main import get_command

import attnviz
from attnviz.attention.patterns import PATTERNS, Pattern
from attnviz.attention.reach import Reach
from attnviz.engine.request import Request
from attnviz.measures.statistics import STATISTICS, QueryBlock, Values, head_statistics, statistic
from attnviz.plots.kind import KINDS, Kind, Parts, drawn
from attnviz.plots.said import said
from tests.cases import small
from tests.cli.conftest import built, folder, run  # noqa: F401 (fixtures)
from tests.reference import attend

STRIDE = np.equal.outer(np.arange(6) % 3, np.arange(6) % 3)


@pytest.fixture(autouse=True)
def strided() -> Iterator[type[Pattern]]:
    """A pattern: a class with a name."""

    @dataclass(frozen=True)
    class Strided(Pattern):
        """Each query sees the keys a whole number of strides away."""

        name = "strided"
        stride: int = 2

        def visible(self, t, s, item):
            return (t - s) % self.stride == 0

        def reach(self, item):
            return Reach(step=self.stride)

        def __str__(self) -> str:
            return f"strided by {self.stride}"

    yield Strided
    del PATTERNS["strided"]


@pytest.fixture(autouse=True)
def echo() -> Iterator[None]:
    """A statistic: a function."""

    @statistic()
    def echo(block: QueryBlock) -> Values:
        """Weight on the key three places before the query, over the queries that see it."""
        own = block.rows - 3
        return block.at(own), block.sees_key(own)

    yield
    del STATISTICS["echo"]


@pytest.fixture(autouse=True)
def profile() -> Iterator[type[Kind]]:
    """A kind of figure: a class with a name."""

    @dataclass(frozen=True)
    class Profile(Kind):
        """The mean weight by key, as a line."""

        name: ClassVar[str] = "profile"
        color: str = said("black", "Color of the line.")

        def compute(self, request, progress=None):
            from attnviz.maps.map import map_of

            return Parts((map_of(request, progress=progress),), request.inputs.source)

        def draw(self, parts, look, ax=None):
            from matplotlib.figure import Figure

            ax = Figure().add_subplot() if ax is None else ax
            ax.plot(np.nanmean(parts.maps[0].cells, axis=0), color=self.color)
            ax.set_title(look.title or parts.maps[0].name)
            return ax

    yield Profile
    del KINDS["profile"]


@pytest.fixture(autouse=True)
def anew(strided, echo, profile) -> Iterator[None]:
    """The command line's options are made of what there is."""
    built.cache_clear()
    yield
    built.cache_clear()


@pytest.fixture
def dump(folder):  # noqa: F811 (a fixture)
    attnviz.save("dump.npz", replace(small(), pattern=PATTERNS["strided"](3)))
    return "dump.npz"


def expected(head: int) -> np.ndarray:
    inputs = small()
    return attend(inputs.q[0], inputs.k[0], STRIDE).weights[head]


NAMED = ("--pattern", "strided:stride=3")


def test_a_dump_keeps_the_pattern(dump, strided):
    assert attnviz.load(dump).pattern == strided(3)


def test_the_library_takes_it_by_name(dump):
    np.testing.assert_allclose(
        np.nan_to_num(attnviz.attention_map(small(), 1, "strided:stride=3").cells), expected(1), atol=1e-6
    )
    assert head_statistics(small(), "strided:stride=3", heads=[1])[0].echo == pytest.approx(
        np.diagonal(expected(1), -3).mean(), abs=1e-6
    )


def test_scores_are_those_of_the_pattern(run, dump):  # noqa: F811
    result = run("score", dump, "--head", "1", "--format", "csv")
    assert result.code == 0, result.err
    found = np.zeros((6, 6))
    for row in csv.DictReader(result.out.splitlines()):
        found[int(row["query"]), int(row["key"])] = float(row["weight"])
    np.testing.assert_allclose(found, expected(1), atol=2e-6)
    assert run("score", dump, "--head", "1", "--format", "csv", *NAMED).out == result.out


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("suffix", ["png", "svg", "npz"])
def test_a_map_of_it_is_drawn(run, dump, suffix):  # noqa: F811
    assert run("plot", dump, *NAMED, "--head", "1", "-o", f"map.{suffix}").code == 0
    if suffix == "npz":
        with np.load("map.npz") as arrays:
            np.testing.assert_allclose(np.nan_to_num(arrays["cells"][0]), expected(1), atol=1e-6)


def test_the_pattern_itself_is_shown(run, dump):  # noqa: F811
    assert "12 pairs" in run("pattern", dump, *NAMED).out
    assert run("pattern", "--tokens", "6", *NAMED, "-o", "pattern.png").code == 0


def test_a_statistic_is_in_tables_data_and_figures(run, dump):  # noqa: F811
    row = json.loads(run("stats", dump, "--head", "1", "--format", "json").out)["heads"][0]
    assert row["echo"] == pytest.approx(np.diagonal(expected(1), -3).mean(), abs=2e-6)
    assert "echo" in run("stats", dump, "--format", "csv").out.splitlines()[0].split(",")
    ordered = json.loads(run("stats", dump, "--sort", "echo", "--format", "json").out)["heads"]
    assert [one["echo"] for one in ordered] == sorted((one["echo"] for one in ordered), reverse=True)
    assert run("stats", dump, "--statistic", "echo", "-o", "stats.png").code == 0


def test_a_statistic_is_a_column_of_the_table(dump):
    from rich.console import Console

    from attnviz.show.terminal.tables import statistics_table

    console = Console(width=200, record=True, file=StringIO())
    console.print(statistics_table(head_statistics(small(), "strided"), "title", 200))
    assert "echo" in console.export_text()


def test_a_snapshot_keeps_both(run, dump):  # noqa: F811
    assert run("snapshot", "save", dump, "kept.json", *NAMED).code == 0
    kept = json.loads(Path("kept.json").read_text())
    assert "strided by 3" in json.dumps(kept)
    assert "echo" in json.dumps(kept)
    assert run("snapshot", "check", dump, "kept.json").code == 0


def test_a_page_holds_the_pattern(run, dump):  # noqa: F811
    assert run("html", dump, *NAMED, "-o", "page.html").code == 0
    assert "strided by 3" in Path("page.html").read_text()


def test_a_kind_is_drawn_by_its_option_and_in_the_library(run, dump, profile):  # noqa: F811
    assert run("plot", dump, "--profile", "--color", "red", "--head", "1", "-o", "profile.png").code == 0
    ax = drawn(profile(color="red"), Request(attnviz.load(dump), heads=1))
    np.testing.assert_allclose(
        ax.lines[0].get_ydata(), np.nanmean(np.where(STRIDE, expected(1), np.nan), axis=0), atol=1e-6
    )
    refused = run("plot", dump, "--detail", "--color", "red", "--head", "1", "-o", "profile.png")
    assert (refused.code, refused.err) == (2, "attnviz: --color red: --detail has no use for it; leave it out\n")
    two = run("plot", dump, "--detail", "--profile", "--head", "1", "-o", "profile.png")
    assert "--detail and --profile are figures of two kinds" in two.err


def test_help_and_manual_list_them(run):  # noqa: F811
    from attnviz.cli.main import app
    from attnviz.cli.manual import manual

    plot = get_command(app).commands["plot"]
    assert {"profile", "color"} <= {param.name for param in plot.params}
    plot.fill()
    assert "strided" in next(param.help for param in plot.params if param.name == "pattern")
    page = manual()
    for told in ("`--profile`", "`--color`", "strided;", "max_k_norm, echo"):
        assert told in page, told
    assert "echo" in " ".join(run("stats", "--help").out.split())
