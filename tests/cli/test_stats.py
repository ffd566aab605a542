"""``attnviz stats``: rows of queries, keys and distances, tags, and a statistic of one's own."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

import attnviz
from attnviz.measures.statistics import STATISTICS
from tests.cases import small


@pytest.fixture
def table(run, dump):
    """Runs ``stats`` for its CSV, and gives the rows."""

    def table(*options: object) -> list[dict[str, str]]:
        result = run("stats", dump, "--pattern", "causal", "--batch", "1", "--format", "csv", *options)
        assert result.code == 0, result.err
        return list(csv.DictReader(io.StringIO(result.out)))

    return table


def test_queries_that_count(table):
    rows = table("--queries", "2:5", "--head", "1,3")
    wanted = attnviz.head_statistics(small(), "causal", batch=1, heads=[1, 3], queries=range(2, 5))
    assert [row["queries"] for row in rows] == ["3", "3"]
    assert [float(row["entropy"]) for row in rows] == pytest.approx([row.entropy for row in wanted], abs=1e-6)


def test_a_row_a_query(table):
    rows = table("--by-query", "--head", "1", "--sort", "entropy")
    (wanted,) = attnviz.query_statistics(small(), "causal", batch=1, heads=[1])
    assert [(row["head"], row["token"]) for row in rows] == [("1", f"t{row['query']}") for row in rows]
    found = {int(row["query"]): float(row["entropy"]) for row in rows}
    assert [found[t] for t in range(6)] == pytest.approx(wanted.values["entropy"], abs=1e-6)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert next(row for row in rows if row["query"] == "0")["previous_mass"] == ""


def test_a_row_a_key(table):
    rows = table("--keys-received", "--head", "2")
    (wanted,) = attnviz.weight_received(small(), "causal", batch=1, heads=[2])
    assert [int(row["queries"]) for row in rows] == wanted.queries.tolist() == [6, 5, 4, 3, 2, 1]
    for name in ("sum", "mean", "largest"):
        assert [float(row[name]) for row in rows] == pytest.approx(getattr(wanted, name), abs=1e-6)
    assert table("--keys-received", "--head", "2", "--sort", "sum", "--ascending")[0]["key"] == str(wanted.sum.argmin())


@pytest.mark.parametrize("curve", ["distance", "windows"])
def test_a_row_a_distance_or_a_window(table, curve):
    rows = table("--curve", curve, "--head", "0")
    (wanted,) = attnviz.head_curves(small(), "causal", batch=1, heads=[0])
    masses = wanted.mass if curve == "distance" else list(wanted.windows.values())
    assert [float(row["mass"]) for row in rows] == pytest.approx(masses, abs=1e-6)
    assert rows[-1]["mass"] == "1.000000" or curve == "distance"


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        ("--by-query", "queries"),
        ("--keys-received", "keys"),
        ("--curve=distance", "distance"),
        ("--curve=windows", "windows"),
    ],
)
def test_json_and_files_have_the_same_rows(run, dump, table, option, kind):
    rows = table(option)
    document = json.loads(run("stats", dump, "--pattern", "causal", "--batch", "1", option, "--format", "json").out)
    assert (document["schema"], document["pattern"]) == ("attnviz.stats/2", "causal")
    assert [f"{row['head']}" for row in document[kind]] == [row["head"] for row in rows]
    assert run("stats", dump, "--pattern", "causal", "--batch", "1", option, "-o", "rows.csv").code == 0
    assert list(csv.DictReader(Path("rows.csv").read_text().splitlines())) == rows
    assert f"causal · {kind}" in " ".join(run("stats", dump, "--pattern", "causal", option).out.split())


def test_tags_are_shown_where_they_are_asked_for(run, dump, table):
    wanted = attnviz.head_statistics(small(), "causal", batch=1)
    rows = table("--tags")
    assert [row["tag"] for row in rows] == [row.tag for row in wanted]
    assert "tag" not in table()[0]
    said = run("stats", dump, "--pattern", "causal", "--batch", "1", "--tags").out
    assert all(row.tag in said for row in wanted)


OWN = """
from attnviz.measures.statistic import statistic

def rare(block):
    "Weight on keys of odd index."
    return block.mass(block.keys % 2 == 1), block.all

@statistic(unit="tokens", how="max")
def seen(block):
    "The most keys that a query sees."
    return block.visible.double(), block.all

def wrong(block):
    return block.weights

def short(block):
    return block.zero[:1], block.all

def fails(block):
    return block.nothing

def entropy(block):
    return block.zero, block.all

number = 3
"""


def test_a_statistic_of_ones_own(run, dump, table):
    Path("my.py").write_text(OWN)
    before = list(STATISTICS)
    rows = table("--statistic", "my.py:rare", "--sort", "rare", "--head", "0,1")
    cells = [attnviz.attention_map(small(), head, "causal", batch=1).cells for head in (0, 1)]
    wanted = sorted((float(np.nan_to_num(one)[:, 1::2].sum(1).mean()) for one in cells), reverse=True)
    assert [float(row["rare"]) for row in rows] == pytest.approx(wanted, abs=2e-6)
    assert table("--statistic", "my.py:seen")[0]["seen"] == "6.000000"
    assert "rare" in table("--statistic", "my.py:rare", "--by-query")[0]
    assert run("stats", dump, "--statistic", "my.py:rare", "-o", "rare.png").code == 0
    assert list(STATISTICS) == before


BAD = {
    "two kinds of rows": (["--by-query", "--keys-received"], "--by-query and --keys-received: each says what a row is"),
    "another curve": (["--curve", "area"], "--curve 'area' is not one of distance, windows"),
    "tags of keys": (["--keys-received", "--tags"], "--tags: they are of heads, and a row is of keys"),
    "a figure of keys": (["--keys-received", "-o", "x.png"], r"x.png.*\.json.*\.csv.*\.parquet"),
    "sorted by none": (["--keys-received", "--sort", "entropy"], "--sort 'entropy' is not one of sum, mean, largest"),
    "no such queries": (["--queries", "4:99"], "4:99"),
    "no such file": (["--statistic", "gone.py:rare"], "--statistic gone.py:rare: there is no file gone.py"),
    "no such name": (["--statistic", "my.py:gone"], "defines no gone; it has statistic, rare, seen, wrong"),
    "no function": (["--statistic", "my.py:number"], "number is a int, wanted a function of a block of queries"),
    "a name that is taken": (["--statistic", "my.py:entropy"], "there is a statistic entropy already"),
    "no pair": (["--statistic", "my.py:wrong"], "gives Tensor, wanted two tensors"),
    "another shape": (["--statistic", "my.py:short"], r"gives shapes \(1,\) and \(6,\), wanted \(6,\) of values"),
    "one that fails": (["--statistic", "my.py:fails"], "fails with AttributeError: .*nothing"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be(refused, dump, case):
    Path("my.py").write_text(OWN)
    options, says = BAD[case]
    refused("stats", dump, *options, says=says)


def test_a_file_that_fails(refused, dump):
    Path("broken.py").write_text("1 / 0")
    refused(
        "stats", dump, "--statistic", "broken.py:rare", says="the file fails with ZeroDivisionError: division by zero"
    )


def test_several_dumps_have_a_table_each_or_one_with_their_names(run, folder, dump):
    other = Path("other.npz")
    run("synth", other, "--heads", "2", "--tokens", "5")
    alone = [run("stats", path, "--head", "0,1", "--format", "json").out for path in (dump, other)]
    both = run("stats", dump, other, "--head", "0,1", "--format", "json")
    assert (both.code, both.out) == (0, "".join(alone))
    tables = [run("stats", path, "--head", "0,1").out for path in (dump, other)]
    assert run("stats", dump, other, "--head", "0,1").out == "\n".join(tables)

    rows = list(csv.DictReader(run("stats", dump, other, "--head", "0,1", "--format", "csv").out.splitlines()))
    apart = [run("stats", path, "--head", "0,1", "--format", "csv").out.splitlines() for path in (dump, other)]
    wanted = [row for lines in apart for row in csv.DictReader(lines)]
    assert [row.pop("source") for row in rows] == [str(dump)] * 2 + [str(other)] * 2
    assert rows == wanted
    ordered = run("stats", dump, other, "--head", "0,1", "--format", "csv", "--sort", "entropy").out.splitlines()
    values = [float(row["entropy"]) for row in csv.DictReader(ordered)]
    assert values == sorted(values, reverse=True)

    assert run("stats", dump, other, "--by-query", "-o", "rows.csv").code == 0
    assert {row["source"] for row in csv.DictReader(Path("rows.csv").read_text().splitlines())} == {
        str(dump),
        str(other),
    }
    missing = run("stats", dump, "missing.npz")  # told before anything is printed
    assert (missing.code, missing.out, missing.err) == (2, "", "attnviz: missing.npz: there is no such file\n")
    for file in ("figure.png", "rows.json"):
        result = run("stats", dump, other, "-o", file)
        assert (
            result.err
            == f"attnviz: -o {file}: it is of one dump, and 2 are given; take .csv or .parquet, or one dump\n"
        )
        assert (result.code, Path(file).exists()) == (2, False)
