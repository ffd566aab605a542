"""Tables at every width of a terminal: no header and no number is cut, and what is left out is said."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

import attnviz
from attnviz.compare.heads import compare
from attnviz.compare.sides import Exact
from attnviz.engine.request import Request
from attnviz.measures.statistics import STATISTICS
from attnviz.show.terminal.tables import columns_table, contents_table, difference_table, score_table, statistics_table
from attnviz.sources.files import TensorInfo

WIDTHS = st.integers(40, 200)
INPUTS = attnviz.synthesize(heads=3, tokens=24)
ROWS = attnviz.head_statistics(INPUTS, "causal")
FOUND = compare(*(Exact(Request(attnviz.synthesize(heads=3, tokens=24, seed=seed), "full")) for seed in range(2)))


def lines(table: Table, width: int) -> list[str]:
    """What a terminal of this width shows of it, with no line wider."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    found = console.file.getvalue().split("\n")  # type: ignore[attr-defined]
    assert max(map(cell_len, found)) <= width
    return found


def header(shown: list[str]) -> list[str]:
    """What stands over each column, its lines joined."""
    top, bottom = (next(n for n, line in enumerate(shown) if line.startswith(start)) for start in "╭├")
    cells = [line.strip().strip("│").split("│") for line in shown[top + 1 : bottom]]
    return [" ".join(part.strip() for part in column if part.strip()) for column in zip(*cells, strict=True)]


def numbers(shown: list[str]) -> Iterator[str]:
    for line in shown:
        if line.lstrip().startswith("│"):
            yield from (cell.strip() for cell in line.strip().strip("│").split("│"))


@given(
    width=WIDTHS,
    layer=st.sampled_from([None, "0", "decoder.11", "single_transformer_blocks.12"]),
    tags=st.booleans(),
    values=st.lists(st.floats(-1e6, 1e6, allow_nan=False) | st.none(), min_size=3, max_size=3),
    heads=st.integers(0, 100_000),
)
def test_statistics_have_whole_headers_and_numbers_or_are_said_to_be_left_out(width, layer, tags, values, heads):
    rows = [
        replace(row, layer=layer, head=heads + n, values=row.values | {"max_logit": value, "entropy": value})
        for n, (row, value) in enumerate(zip(ROWS, values, strict=True))
    ]
    shown = lines(statistics_table(rows, "title", width, tags=tags), width)
    assert "…" not in "".join(shown)
    names = header(shown)
    assert (
        names[: len(names)] == [*(["layer"] if layer else []), "head", *(["tag"] if tags else []), *NAMES][: len(names)]
    )
    kept = len(names) - 1 - (layer is not None) - tags
    assert kept >= 1
    told = " ".join(shown).replace("\n", " ")
    for name in [*STATISTICS][kept:]:
        assert name in told
    text = re.sub("[█▏▎▍▌▋▊▉▁▂▃▄▅▆▇ ]", " ", " ".join(numbers(shown)))
    for row in rows:
        assert f" {row.head} " in f" {text} "


NAMES = [
    "entropy (nats)",
    "entropy (share)",
    "max weight",
    "global mass",
    "sink mass",
    "distance (tokens)",
    "diagonal mass",
    "previous mass",
    "next mass",
    "local mass",
    "duplicate",
    "induction",
    "max (logit)",
    "mean q (norm)",
    "max q (norm)",
    "mean k (norm)",
    "max k (norm)",
]


@given(
    width=WIDTHS, values=st.sampled_from(["weights", "logits"]), name=st.sampled_from(["a", "a/long/path.safetensors"])
)
def test_differences_have_whole_headers_or_are_said_to_be_left_out(width, values, name):
    found = replace(FOUND, values=values, a=name)
    shown = lines(difference_table(found, width), width)
    assert "…" not in "".join(shown)
    names, wanted = header(shown), ["max |A−B|", "mean |A−B|", "top-5 agrees", "beyond tolerance"]
    told = " ".join(line.strip() for line in shown)
    assert names[0] == "head"
    for one in [*wanted, *(["total variation", "JS div. (nats)"] if values == "weights" else [])]:
        assert one.replace("5", str(found.top_k)) in (names if one in names else told)


@given(
    width=WIDTHS,
    columns=st.dictionaries(
        st.sampled_from(["query", "token", "entropy", "max_weight", "received_largest", "distance", "weight_by_distance"]),
        st.lists(st.floats(-1e9, 1e9) | st.integers(0, 10**9), min_size=2, max_size=2),
        min_size=1,
    ),
)  # fmt: skip
def test_columns_have_whole_headers_or_are_said_to_be_left_out(width, columns):
    shown = lines(columns_table(columns, "title", width), width)
    names = header(shown)
    assert names == [*columns][: len(names)]
    for name in [*columns][len(names) :]:
        assert name in " ".join(shown)


@pytest.mark.parametrize("width", [40, 47, 60, 80, 100, 200])
@pytest.mark.parametrize("values", ["weights", "logits"])
def test_scores_have_whole_headers_at_every_width(width, values):
    result = attnviz.score(INPUTS)
    shown = lines(score_table(result, 0, values=values, width=width), width)
    names = header(shown)
    assert names[0] == "query"
    assert all(re.fullmatch(r"Global #\d+ \(pos \d+\).*|…", name) for name in names[1:])


@given(width=WIDTHS, names=st.lists(st.sampled_from(["layers.0.q", "global_mask", "cross.layers.11.query_padding_mask"]), min_size=1, unique=True))  # fmt: skip
def test_contents_have_whole_headers_and_every_name(width, names):
    contents = {name: TensorInfo((1, 128, 131072, 128), "bfloat16") for name in names}
    shown = lines(contents_table("a.safetensors", 10**9, contents, lambda name: None, width), width)
    assert header(shown) == ["tensor", "shape", "dtype", "size", "role"]
