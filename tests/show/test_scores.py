"""Results for programs: what a JSON, CSV, Markdown or tensor file says is what the engine computed."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import attnviz
from attnviz import AttentionInputs, InputError
from attnviz.attention.patterns import Causal, Full, Local, longformer
from attnviz.engine.request import Request
from attnviz.engine.scores import AttentionScores, ScoreStream
from attnviz.show.exports import DECIMALS
from attnviz.show.scores import to_csv, to_json, to_markdown, write_results
from attnviz.show.terminal.tables import score_table
from attnviz.sources.files import open_tensors
from tests.cases import small
from tests.strategies import calls, parts

HALF = 0.5 * 10**-DECIMALS + 1e-12
"""Half a unit of the last decimal: as near as a rounded number can be."""


@pytest.fixture
def results() -> list[AttentionScores]:
    """Both items, heads 3 and 1, of inputs with unequal G and a padded query."""
    inputs = small()
    globals_ = torch.tensor([[True, False, False, True, False, False], [False, True, False, False, False, False]])
    exists = torch.tensor([[True] * 5 + [False], [True] * 6])
    inputs = replace(inputs, global_mask=globals_, key_padding_mask=exists)
    return [attnviz.score(inputs, batch=b, heads=[3, 1]) for b in range(2)]


def test_json_is_one_line_of_a_versioned_schema(results):
    text = to_json(results)
    document = json.loads(text)
    assert text.endswith("}\n")
    assert text.count("\n") == 1
    assert list(document) == ["schema", "source", "pattern", "scale", "dtype", "decimals", "items"]
    assert (document["schema"], document["decimals"]) == ("attnviz.scores/2", 6)
    assert (document["source"], document["pattern"], document["dtype"]) == ("synthetic", "global", "float32")
    assert document["scale"] == pytest.approx(1 / math.sqrt(8), abs=1e-12)


def test_json_describes_each_item(results):
    first, second = json.loads(to_json(results))["items"]
    assert list(first) == ["batch", "queries", "positions", "query_tokens", "position_tokens", "heads"]
    assert (first["batch"], first["queries"], first["positions"]) == (0, 6, [0, 3])
    assert (second["batch"], second["queries"], second["positions"]) == (1, 6, [1])
    assert (first["query_tokens"][2], first["position_tokens"]) == ("t2", ["t0", "t3"])
    assert [head["head"] for head in first["heads"]] == [3, 1]


@pytest.mark.parametrize("name", ["scores", "weights"])
def test_json_holds_the_engines_numbers_to_six_decimals(results, name):
    for item, result in zip(json.loads(to_json(results))["items"], results, strict=True):
        for head, tensor in zip(item["heads"], getattr(result, name), strict=True):
            found = np.array(head[name], dtype=float)  # None becomes NaN
            exact = torch.where(torch.isfinite(tensor), tensor, torch.nan).double().numpy()
            np.testing.assert_allclose(found, exact, rtol=0, atol=HALF, equal_nan=True)


def test_json_says_null_where_a_query_sees_nothing(results):
    item = json.loads(to_json(results))["items"][0]
    assert [item["heads"][0][name][5] for name in ("scores", "weights")] == [[None, None]] * 2


def test_json_never_says_minus_zero():
    q = torch.full((1, 2, 1), -1e-9)
    inputs = AttentionInputs(q, torch.ones(1, 2, 1), global_mask=torch.tensor([True, True]))
    text = to_json([attnviz.score(inputs)])
    assert '"scores":[[0.0,0.0],[0.0,0.0]]' in text


def test_json_leaves_labels_out_where_there_are_none():
    inputs = replace(small(), tokens=None)
    item = json.loads(to_json([attnviz.score(inputs)]))["items"][0]
    assert not {"query_tokens", "position_tokens"} & set(item)


def test_json_keeps_the_letters_of_every_script():
    inputs = replace(small(batch=1, tokens=4), tokens=[["日本", "naïve", '"', "\n"]])
    text = to_json([attnviz.score(inputs)])
    assert "日本" in text
    assert json.loads(text)["items"][0]["query_tokens"] == ["日本", "naïve", '"', "\n"]


@given(seed=st.integers(0, 1000))
def test_json_of_the_same_inputs_is_the_same_text(seed):
    inputs = small(seed=seed)
    assert to_json([attnviz.score(inputs)]) == to_json([attnviz.score(inputs)])


def rows_of(results: list[AttentionScores]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(results))))


def test_csv_has_a_row_a_visible_pair(results):
    rows = rows_of(results)
    assert list(rows[0]) == ["batch", "head", "query", "query_token", "key", "key_token", "score", "weight"]
    seen = [(int(row["batch"]), int(row["head"]), int(row["query"]), int(row["key"])) for row in rows]
    assert seen == [
        (b, head, t, s)
        for b, keys, queries in ((0, (0, 3), range(5)), (1, (1,), range(6)))
        for head in (3, 1)
        for t in queries
        for s in keys
    ]


def test_csv_holds_the_engines_numbers_and_labels(results):
    for row in rows_of(results):
        result = results[int(row["batch"])]
        column = result.positions.tolist().index(int(row["key"]))
        place = result.heads.index(int(row["head"])), int(row["query"]), column
        assert float(row["score"]) == pytest.approx(float(result.scores[place]), abs=HALF)
        assert float(row["weight"]) == pytest.approx(float(result.weights[place]), abs=HALF)
        assert (row["query_token"], row["key_token"]) == (f"t{row['query']}", f"t{row['key']}")


def test_csv_quotes_what_needs_it():
    labels = ["a,b", 'say "x"', "two\nlines", "="]
    inputs = replace(small(batch=1, tokens=4), tokens=[labels])
    rows = rows_of([attnviz.score(inputs, heads=[0])])
    assert [row["query_token"] for row in rows[::2]] == labels


def test_markdown_is_a_table_of_one_head_in_full(results):
    lines = to_markdown(results[1], 1, values="logits").splitlines()
    assert lines[:4] == ["**batch item 1, head 1 · logits**", "", "| query | Global #1 (pos 1) |", "|:--|--:|"]
    numbers = [float(line.split("|")[2]) for line in lines[4:]]
    np.testing.assert_allclose(numbers, results[1].scores[1, :, 0].numpy(), rtol=0, atol=0.5e-4 + 1e-9)


def test_markdown_leaves_a_query_that_sees_nothing_blank(results):
    assert to_markdown(results[0], 3).splitlines()[-1] == "| 5 t5 |  |  |"


def test_markdown_escapes_bars_in_tokens():
    inputs = replace(small(batch=1, tokens=4), tokens=[["|", "a|b", "c", "d"]])
    lines = to_markdown(attnviz.score(inputs), 0).splitlines()
    assert lines[5].startswith(r"| 1 a\|b |")


def shown(result: AttentionScores, values: str) -> dict[str, np.ndarray]:
    """What each export says of the first head over every key, (T, S): its number, NaN of a hidden key, inf of a blank row."""
    (T, S), head = (len(result.rows), result.item.S), result.heads[0]
    found = {name: np.full((T, S), np.nan) for name in ("json", "csv", "markdown", "table")}
    document = json.loads(to_json([result]))["items"][0]["heads"][0]
    key = "weights" if values == "weights" else "scores"
    of_global = result.global_queries.tolist()
    texts = {"markdown": markdown_numbers(result, values), "table": table_numbers(result, values)}
    for row, query in enumerate(result.rows):
        apart = query in of_global
        at = of_global.index(query) if apart else row
        keys = range(S) if apart else result.key_positions(query)
        said = {name: [number_of(cell) for cell in tables[apart][at]] for name, tables in texts.items()}
        said["json"] = [math.nan if cell is None else cell for cell in document["global_" * apart + key][at]]
        for name, numbers in said.items():
            if name != "json" and "" in texts[name][apart][at]:  # blank: in a row that sees nothing, everywhere
                assert {*texts[name][apart][at]} == {""}
            for s, number in zip(keys, numbers, strict=True):
                assert s is not None or math.isnan(number)
                if not math.isnan(number):
                    found[name][row, s] = number
            if np.isnan(numbers).all():
                assert name == "json" or {*texts[name][apart][at]} <= {""}
                found[name][row] = np.inf
    written = csv.DictReader(io.StringIO(to_csv([replace(result, heads=(head,))])))
    for line in written:
        found["csv"][int(line["query"]) - result.rows[0], int(line["key"])] = float(line[key.removesuffix("s")])
    found["csv"][np.isnan(found["csv"]).all(1)] = np.inf
    return found


def number_of(cell: str) -> float:
    return math.nan if cell in ("·", "") else float(cell)


def markdown_numbers(result: AttentionScores, values: str) -> list[list[list[str]]]:
    """The cells of the tables of plain and of global queries."""
    tables: list[list[list[str]]] = []
    for line in to_markdown(result, result.heads[0], values=values).splitlines():
        if line.startswith("| query"):
            tables.append([])
        elif line.startswith("| "):
            tables[-1].append([cell.strip() for cell in line.strip("|").split("|")][1:])
    return tables


def table_numbers(result: AttentionScores, values: str) -> list[list[list[str]]]:
    tables = []
    for of_global in (False, True)[: 1 + bool(len(result.global_queries))]:
        table = score_table(result, result.heads[0], values=values, width=100_000, rows=100, of_global=of_global)
        columns = [[str(cell) for cell in column.cells] for column in table.columns[1:]]
        tables.append([*map(list, zip(*columns, strict=True))])
    return tables


@given(call=calls(values=False), data=st.data())
def test_what_is_hidden_is_said_alike_by_every_export(call, data):
    values = data.draw(st.sampled_from(["weights", "logits"]))
    head = data.draw(st.integers(0, call.inputs.H - 1))
    asked = {"queries": data.draw(parts(call.inputs.T)), "keys": data.draw(parts(call.inputs.S))}
    alone = data.draw(st.booleans())
    kept = {"logits": values == "logits", "weights": values == "weights"} if alone else {}
    how = {"batch": call.batch, **asked}
    columns = Request(call.inputs, call.pattern, batch=call.batch).columns
    if asked["keys"] is not None and not {*columns} & {*asked["keys"]}:
        with pytest.raises(InputError, match="no global key lies in keys"):
            attnviz.score(call.inputs, call.pattern, **how)
        return
    result = attnviz.score(call.inputs, call.pattern, heads=[head], **how, **kept)
    whole = call.expected()
    rows, keys = (
        part or range(size) for part, size in zip(asked.values(), (call.inputs.T, call.inputs.S), strict=True)
    )
    wanted = np.full((len(rows), call.inputs.S), np.nan)
    wanted[:, keys] = (whole.weights if values == "weights" else whole.logits)[head][rows][:, keys]
    wanted[~call.visible(head)[rows]] = np.nan
    wanted[np.isnan(wanted).all(1)] = np.inf
    for name, found in shown(result, values).items():
        assert_allclose(found, wanted, rtol=0, atol=1e-4 if name in ("markdown", "table") else 2e-6, err_msg=name)


TENSORS = [".safetensors", ".npz"]


@pytest.mark.parametrize("suffix", TENSORS)
def test_tensors_of_one_item_have_bare_names(tmp_path, results, suffix):
    write_results(tmp_path / f"out{suffix}", results[:1])
    file = open_tensors(tmp_path / f"out{suffix}")
    assert set(file.contents) == {"scores", "weights", "positions"}
    assert file.read("positions").tolist() == [0, 3]
    assert file.read("scores").shape == (2, 6, 2)
    for name in ("scores", "weights"):
        assert torch.equal(file.read(name).nan_to_num(), getattr(results[0], name).nan_to_num())


@pytest.mark.parametrize("suffix", TENSORS)
def test_tensors_of_several_items_carry_their_numbers(tmp_path, results, suffix):
    write_results(tmp_path / f"out{suffix}", results)
    file = open_tensors(tmp_path / f"out{suffix}")
    assert set(file.contents) == {f"{name}.{b}" for name in ("scores", "weights", "positions") for b in (0, 1)}
    assert file.read("scores.1").shape == (2, 6, 1)
    assert file.read("positions.1").tolist() == [1]
    assert torch.equal(file.read("weights.1"), results[1].weights)


@pytest.mark.parametrize("suffix", TENSORS)
def test_tensors_say_what_they_are(tmp_path, results, suffix):
    write_results(tmp_path / f"out{suffix}", results)
    assert open_tensors(tmp_path / f"out{suffix}").metadata == {
        "kind": "attnviz.scores/2",
        "source": "synthetic",
        "pattern": "global",
        "scale": 1 / math.sqrt(8),
        "heads": [3, 1],
        "batch": [0, 1],
    }


@pytest.mark.parametrize(("suffix", "text"), [(".json", to_json), (".csv", to_csv)])
def test_a_text_file_is_what_would_be_printed(tmp_path, results, suffix, text):
    write_results(tmp_path / f"out{suffix}", results)
    assert (tmp_path / f"out{suffix}").read_bytes() == text(results).encode()


@pytest.mark.parametrize("suffix", [".txt", ".npy", ".md"])
def test_another_suffix_is_refused(tmp_path, results, suffix):
    with pytest.raises(InputError, match="unknown suffix"):
        write_results(tmp_path / f"out{suffix}", results)
    assert list(Path(tmp_path).iterdir()) == []


INPUTS = {
    "global": (small(tokens=200), None),
    "causal": (small(tokens=200), Causal()),
    "a window with gaps": (small(tokens=200), Local(3, 2)),
    "global queries": (small(tokens=200), longformer(5) & Causal()),
    "given": (attnviz.AttentionWeights(attnviz.score(small(tokens=150), Full()).weights[None]), None),
    "some queries": (small(tokens=200), Local(4)),
}


@pytest.mark.sweep(keep=7)
@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".csv", ".json", ".md"])
@pytest.mark.parametrize("kind", INPUTS)
def test_what_is_computed_as_it_is_written_is_the_same(tmp_path, monkeypatch, kind, suffix):
    monkeypatch.setattr("attnviz.engine.blocks.BLOCK_CELLS", 1)  # the fewest rows that go through together
    inputs, pattern = INPUTS[kind]
    queries = range(30, 170) if kind == "some queries" else None
    items = range(inputs.B if kind == "global" else 1)
    heads = (2, 0)
    whole = [attnviz.score(inputs, pattern, batch=b, heads=heads, queries=queries) for b in items]
    streams = [ScoreStream(Request(inputs, pattern, heads, batch=b, queries=queries), most=1) for b in items]
    assert sum(1 for _ in streams[0].parts(0)) > 1
    if suffix == ".md":
        assert to_markdown(streams[0], 2) == to_markdown(whole[0], 2)
        return
    for name, results in (("whole", whole), ("streamed", streams)):
        write_results(tmp_path / f"{name}{suffix}", results)
    one, other = (tmp_path / f"{name}{suffix}" for name in ("whole", "streamed"))
    assert one.read_bytes() == other.read_bytes()
    if suffix == ".npz":  # numpy's own reader, and its kind of header
        assert {*np.load(one).files} == {*open_tensors(one).contents, "attnviz"}


def test_a_file_larger_than_the_disk_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr("attnviz.show.scores.free_bytes", lambda path: 10_000)
    monkeypatch.delattr(ScoreStream, "parts")
    with pytest.raises(InputError, match=r"would take 0\.0 GB, and the disk has 0\.0 GB free; take fewer heads"):
        write_results(tmp_path / "out.npz", [ScoreStream(Request(small(tokens=200), Causal(), (0,)))])
    assert not list(tmp_path.iterdir())
