"""Patterns and score modifiers on the command line; context and stats: what they print and write."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

import attnviz
from attnviz.attention.pairs import of_block_mask
from attnviz.attention.patterns import (
    Blocks,
    Causal,
    Chunked,
    Documents,
    Full,
    GlobalKeys,
    Local,
    Masked,
    MaskMod,
    Prefix,
    longformer,
)
from attnviz.measures.statistics import STATISTICS
from attnviz.sources.files import open_tensors, write_tensors
from tests.cases import arrays, small


@pytest.fixture
def succeed(run):
    """Runs a command that must succeed."""

    def succeed(*arguments: object):
        result = run(*arguments)
        assert result.code == 0, result.err
        return result

    return succeed


def near(b, h, q_idx, kv_idx):
    return (q_idx - kv_idx).abs() <= h


OWN_CODE = """
from torch.nn.attention.flex_attention import create_block_mask

def near(b, h, q_idx, kv_idx):
    return (q_idx - kv_idx).abs() <= h

near_blocks = create_block_mask(near, None, 4, 6, 6, device="cpu", BLOCK_SIZE=2)
"""
NEAR_BLOCKS = create_block_mask(near, None, 4, 6, 6, device="cpu", BLOCK_SIZE=2)
BLOCKS = torch.tensor([[True, False], [False, True], [True, True]])
DOCUMENTS = torch.tensor([0, 0, 1, 1, 1, 1])
SEES = torch.eye(6).bool() | (torch.arange(6) == 2)
PATTERNS = {
    "global": ([], attnviz.attention.patterns.GlobalKeys()),
    "full": (["--pattern", "full"], Full()),
    "causal": (["--pattern", "causal"], Causal()),
    "local": (["--pattern", "local", "--window", "1"], Local(1)),
    "local 0": (["--pattern", "local", "--window", "0"], Local(0)),
    "dilation": (["--pattern", "local", "--window", "1", "--dilation", "2"], Local(1, 2)),
    "causal local": (["--pattern", "local", "--window", "2", "--causal"], Local(2) & Causal()),
    "longformer": (["--pattern", "local+global", "--window", "1"], longformer(1)),
    "causal global": (["--causal"], attnviz.attention.patterns.GlobalKeys() & Causal()),
    "mask": (["--mask-file", "sees.npy"], Masked(SEES)),
    "causal mask": (["--mask-file", "sees.npy", "--causal"], Masked(SEES) & Causal()),
    "documents": (["--documents", "2,4", "--pattern", "documents"], Documents()),
    "documents of a file": (
        ["--documents", "own.npz:documents", "--pattern", "documents", "--causal"],
        Documents() & Causal(),
    ),
    "prefix": (["--pattern", "prefix:n=3"], Prefix(3)),
    "chunks": (["--pattern", "chunked:size=4", "--causal"], Chunked(4) & Causal()),
    "composed": (["--pattern", "chunked:size=4 & causal | global"], Chunked(4) & Causal() | GlobalKeys()),
    "blocks": (["--blocks", "own.npz:blocks", "--block-size", "2/3"], Blocks(BLOCKS, (2, 3))),
    "causal blocks": (
        ["--blocks", "own.npz:blocks", "--block-size", "2/3", "--causal"],
        Blocks(BLOCKS, (2, 3)) & Causal(),
    ),
    "mask_mod": (["--mask-mod", "own.py:near"], MaskMod(near)),
    "block mask": (["--mask-mod", "own.py:near_blocks"], of_block_mask(NEAR_BLOCKS)),
}
PACKED = {"documents": DOCUMENTS, "documents of a file": DOCUMENTS}
pattern = pytest.mark.parametrize("name", PATTERNS)


@pytest.fixture
def sees(folder) -> None:
    np.save("sees.npy", SEES.numpy())
    np.savez("own.npz", blocks=BLOCKS.numpy(), documents=np.stack([DOCUMENTS.numpy()] * 2))
    Path("own.py").write_text(OWN_CODE)


def asked(name: str) -> attnviz.AttentionInputs:
    """The inputs that a pattern's options speak of."""
    return replace(small(), documents=PACKED[name].repeat(2, 1)) if name in PACKED else small()


def weights_of(document: dict) -> list[np.ndarray]:
    """A head's weights as (T, S) from JSON, 0 where a key is not visible."""
    (item,) = document["items"]
    found = []
    for head in item["heads"]:
        whole = np.zeros((6, 6))
        apart = item.get("global_queries", [])
        for t in range(6):
            if t in apart:
                whole[t] = np.array(head["global_weights"][apart.index(t)], dtype=float)
                continue
            keys = [*item["positions"], *(t + offset for offset in item.get("offsets", []))]
            for s, weight in zip(keys, head["weights"][t], strict=True):
                if weight is not None:
                    whole[t, s] += weight
        found.append(whole)
    return found


def expected_weights(inputs: attnviz.AttentionInputs, chosen: attnviz.attention.patterns.Pattern) -> list[np.ndarray]:
    # A mask that shows nothing gives the map of global keys, too, a column a key.
    whole = chosen | Masked(torch.zeros(6, 6, dtype=torch.bool))
    maps = (attnviz.attention_map(inputs, head, whole).cells for head in range(inputs.H))
    return [np.nan_to_num(cells) for cells in maps]


@pytest.mark.sweep(keep=5)
@pattern
def test_score_as_json_holds_the_weights_of_the_pattern(succeed, dump, sees, name):
    options, chosen = PATTERNS[name]
    document = json.loads(succeed("score", dump, *options, "--format", "json").out)
    assert document["pattern"] == str(chosen)
    for found, expected in zip(weights_of(document), expected_weights(asked(name), chosen), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1.1e-6)


@pytest.mark.sweep(keep=6)
@pattern
def test_score_as_csv_has_a_row_a_visible_pair(succeed, dump, sees, name):
    options, chosen = PATTERNS[name]
    rows = list(csv.DictReader(io.StringIO(succeed("score", dump, *options, "--format", "csv").out)))
    found = np.zeros((4, 6, 6))
    for row in rows:
        at = int(row["head"]), int(row["query"]), int(row["key"])
        assert found[at] == 0  # each key once
        found[at] = float(row["weight"])
        assert row["key_token"] == f"t{row['key']}"
    np.testing.assert_allclose(found, expected_weights(asked(name), chosen), rtol=0, atol=1.1e-6)
    item, places = asked(name).item(0), (torch.arange(6)[:, None], torch.arange(6)[None])
    assert len(rows) == sum(int(chosen.of_head(head).visible(*places, item).sum()) for head in range(4))


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_score_writes_offsets_and_rows_of_global_queries(succeed, dump, suffix):
    options = ["--pattern", "local+global", "--window", "1", "--dilation", "2"]
    succeed("score", dump, *options, "--head", "1", "--out", f"out{suffix}")
    file = open_tensors(Path(f"out{suffix}"))
    expected = attnviz.score(small(), longformer(1, 2), heads=[1])
    assert file.read("positions").tolist() == [0, 3]
    assert file.read("offsets").tolist() == [-2, 0, 2]
    assert file.read("global_queries").tolist() == [0, 3]
    for tensor in ("scores", "weights", "global_scores", "global_weights"):
        torch.testing.assert_close(file.read(tensor), getattr(expected, tensor), equal_nan=True)
    assert file.metadata["pattern"] == "local, window 1, dilation 2 + global + global queries"


@pytest.mark.sweep(keep=6)
@pattern
def test_a_table_a_head_and_one_for_global_queries(succeed, dump, sees, name):
    options, chosen = PATTERNS[name]
    out = succeed("score", dump, *options, "--head", "2").out
    assert f"head 2 · weights · {chosen} · queries 6" in " ".join(out.split())
    assert ("global queries 2 × keys 6" in " ".join(out.split())) == chosen.global_queries


@pytest.mark.parametrize("name", ["dilation", "longformer", "causal mask"])
def test_plot_draws_the_pattern(succeed, dump, sees, name):
    succeed("plot", dump, *PATTERNS[name][0], "--head", "0", "-o", "x.svg")
    assert Path("x.svg").stat().st_size


@pytest.mark.sweep(keep=6)
@pattern
def test_context_writes_the_librarys(succeed, dump, sees, name):
    options, chosen = PATTERNS[name]
    result = succeed("context", dump, *options, "--head", "3,1", "-o", "c.safetensors")
    file = open_tensors(Path("c.safetensors"))
    expected = torch.stack([attnviz.context(asked(name), chosen, batch=b, heads=[3, 1]) for b in range(2)])
    torch.testing.assert_close(file.read("context"), expected, equal_nan=True)
    assert file.metadata["pattern"] == str(chosen)
    assert (file.metadata["heads"], file.metadata["batch"]) == ([3, 1], [0, 1])
    assert result.err == "attnviz: wrote c.safetensors: context (2, 2, 6, 8)\n"
    assert result.out == ""


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".pth"])
def test_context_writes_the_format_of_its_suffix(succeed, dump, suffix):
    succeed("context", dump, "--batch", "1", "-o", f"c{suffix}")
    expected = attnviz.context(small(), batch=1)
    torch.testing.assert_close(open_tensors(Path(f"c{suffix}")).read("context")[0], expected)


def test_a_dumps_own_pattern_is_used_unless_another_is_asked_for(succeed, folder):
    tensors = {role: torch.from_numpy(array) for role, array in arrays().items()}
    metadata = {"format": 1, "pattern": {"name": "local", "window": 1, "causal": True}}
    write_tensors(Path("dump.safetensors"), tensors, metadata)

    def name(*options: str) -> str:
        return json.loads(succeed("score", "dump.safetensors", *options, "--format", "json").out)["pattern"]

    assert name() == "local, window 1, causal"
    assert name("--pattern", "full") == "full"
    assert name("--causal") == "local, window 1, causal, causal"


MODIFIERS = {
    "scale": (["--scale", "0.1"], {"scale": 0.1}),
    "softcap": (["--softcap", "0.5"], {"softcap": 0.5}),
    "bias": (["--bias", "extra.npz:bias"], {"bias": np.random.default_rng(1).normal(size=(4, 6, 6))}),
    "alibi": (["--alibi", "extra.npz:alibi_slopes"], {"alibi_slopes": np.array([1.0, 0.5, 0.25, 0.125])}),
    "sinks": (["--sinks", "extra.npz:sinks"], {"sinks": np.array([1.0, 0.0, -1.0, 3.0])}),
}


@pytest.mark.parametrize("name", MODIFIERS)
def test_a_modifier_is_an_option_and_a_part_of_the_dump(succeed, folder, name):
    options, given = MODIFIERS[name]
    given = {key: torch.from_numpy(n) if isinstance(n, np.ndarray) else n for key, n in given.items()}
    np.savez("dump.npz", **arrays())
    np.savez("extra.npz", **{key: n.numpy() for key, n in given.items() if isinstance(n, torch.Tensor)})
    modified = replace(small(batch=1), **given)
    attnviz.save("modified.safetensors", modified)
    expected = expected_weights(modified, Full())
    plain = expected_weights(small(batch=1), Full())
    for arguments in (["dump.npz", *options], ["modified.safetensors"]):
        document = json.loads(succeed("score", *arguments, "--pattern", "full", "--format", "json").out)
        np.testing.assert_allclose(weights_of(document), expected, rtol=0, atol=1.1e-6)
        assert np.abs(np.array(weights_of(document)) - plain).max() > 1e-3
    assert attnviz.load("modified.safetensors").softcap == given.get("softcap")


def test_longformers_projections_are_named_like_the_rest(succeed, folder):
    inputs = replace(small(batch=1), q_global=small(seed=5, batch=1).q, k_global=small(seed=6, batch=1).k)
    np.savez("dump.npz", **arrays())
    np.savez("global.npz", qg=inputs.q_global.numpy(), kg=inputs.k_global.numpy())
    options = ["--q-global", "global.npz:qg", "--k-global", "global.npz:kg", "--pattern", "local+global"]
    document = json.loads(succeed("score", "dump.npz", *options, "--window", "1", "--format", "json").out)
    expected = attnviz.score(inputs, longformer(1)).global_weights
    found = [head["global_weights"] for head in document["items"][0]["heads"]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1.1e-6)


def test_a_query_that_sees_nothing_is_null_and_has_no_row(succeed, folder):
    attnviz.save("dump.npz", replace(small(batch=1), key_padding_mask=torch.arange(6)[None] < 4))
    options = ["dump.npz", "--pattern", "local", "--window", "1", "--head", "0"]
    head = json.loads(succeed("score", *options, "--format", "json").out)["items"][0]["heads"][0]
    assert head["weights"][4] == head["weights"][5] == [None, None, None]
    assert head["weights"][0][0] is None  # off the sequence
    rows = list(csv.DictReader(io.StringIO(succeed("score", *options, "--format", "csv").out)))
    assert {int(row["query"]) for row in rows} == {0, 1, 2, 3}
    assert {int(row["key"]) for row in rows} == {0, 1, 2, 3}


# stats


def rows_of(result) -> list[dict]:
    document = json.loads(result.out)
    assert document["schema"] == "attnviz.stats/2"
    return document["heads"]


@pytest.fixture
def layered(folder) -> Path:
    """Layers 0 and 3, the second of other queries."""
    named = {f"layers.{layer}.{n}": a for layer in (0, 3) for n, a in arrays().items()}
    named["layers.3.q"] = small(batch=1, seed=9).q[0].numpy()
    np.savez("layers.npz", **named)
    return Path("layers.npz")


@pytest.mark.sweep(keep=6)
@pattern
def test_stats_are_the_librarys(succeed, dump, sees, name):
    options, chosen = PATTERNS[name]
    result = succeed("stats", dump, *options, "--batch", "1", "--head", "2,0", "--format", "json")
    assert json.loads(result.out)["pattern"] == str(chosen)
    expected = attnviz.head_statistics(asked(name), chosen, batch=1, heads=[2, 0])
    for found, wanted in zip(rows_of(result), expected, strict=True):
        assert list(found) == ["layer", "head", "queries", *STATISTICS]
        assert found["layer"] is None
        for key, value in found.items():
            assert value == pytest.approx(getattr(wanted, key), abs=2e-6), key


def test_stats_of_every_layer_or_one(succeed, layered):
    whole = rows_of(succeed("stats", layered, "--format", "json"))
    assert [(row["layer"], row["head"]) for row in whole] == [(layer, h) for layer in (0, 3) for h in range(4)]
    assert rows_of(succeed("stats", layered, "--layer", "3", "--format", "json")) == whole[4:]
    assert whole[0]["entropy"] != whole[4]["entropy"]


@pytest.mark.sweep(keep=4)
@pytest.mark.parametrize("statistic", STATISTICS)
def test_stats_are_sorted_by_any_statistic(succeed, layered, statistic):
    words = {"tokens": [["a", "b", "a", "c", "a", "b"]]}  # some of which come again
    write_tensors(Path("worded.npz"), {n: torch.from_numpy(a) for n, a in np.load(layered).items()}, words)
    options = ["worded.npz", "--pattern", "full", "--format", "json", "--sort", statistic]
    down, up = rows_of(succeed("stats", *options)), rows_of(succeed("stats", *options, "--ascending"))
    numbers = [row[statistic] for row in down]
    assert numbers == sorted(numbers, reverse=True)
    assert len(set(numbers)) > 1
    assert [row[statistic] for row in up] == numbers[::-1]


@pytest.mark.parametrize("order", [[], ["--ascending"]])
def test_heads_without_the_statistic_come_last(succeed, layered, order):
    # With a window of 0, every query sees one key: there is no share of entropy.
    np.savez("mixed.npz", **{**np.load(layered), "layers.0.key_padding_mask": np.arange(6) < 1})
    options = ["mixed.npz", "--global", "0", "--pattern", "causal", "--sort", "entropy_share", *order]
    found = rows_of(succeed("stats", *options, "--format", "json"))
    assert [row["entropy_share"] is None for row in found] == [False] * 4 + [True] * 4


@pytest.mark.parametrize("width", [30, 50, 60])
def test_stats_of_a_narrow_terminal_leave_columns_out_rather_than_cut_numbers(succeed, layered, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    said = succeed("stats", layered).out
    assert "…" not in said
    assert "head" in said
    assert "statistics left out" in " ".join(said.split())


def test_stats_as_csv(succeed, layered):
    rows = list(csv.DictReader(io.StringIO(succeed("stats", layered, "--format", "csv").out)))
    expected = rows_of(succeed("stats", layered, "--format", "json"))
    assert len(rows) == len(expected) == 8
    for row, wanted in zip(rows, expected, strict=True):
        assert int(row["layer"]) == wanted["layer"]
        assert float(row["distance"]) == pytest.approx(wanted["distance"], abs=1e-9)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_stats_draws_layers_by_heads(succeed, layered, suffix):
    result = succeed("stats", layered, "--statistic", "sink_mass", "-o", f"x{suffix}")
    assert Path(f"x{suffix}").stat().st_size
    assert "entropy" in result.out  # the table all the same
    if suffix == ".svg":
        assert ">sink mass<" in Path("x.svg").read_text()


@pytest.mark.parametrize("format", ["json", "csv"])
def test_stats_writes_what_it_prints(succeed, dump, format):
    printed = succeed("stats", dump, "--format", format, "-o", f"x.{format}").out
    assert Path(f"x.{format}").read_text() == printed


def test_stats_says_where_its_inputs_come_from(succeed, folder):
    named = arrays()
    np.savez("q.npz", q=named["q"])
    np.savez("k.npz", k=named["k"])

    def source(*arguments: str) -> str:
        return json.loads(succeed("stats", *arguments, "--format", "json").out)["source"]

    assert source() == "synthetic"
    assert source("--q", "q.npz:q", "--k", "k.npz:k", "--pattern", "full") == "inputs"
    assert source("q.npz", "--k", "k.npz:k", "--pattern", "full") == "q.npz"


def test_layers_of_different_patterns_are_all_named(succeed, layered):
    with np.load(layered) as file:
        tensors = {name: torch.from_numpy(file[name]) for name in file.files}
    own = {"3": {"pattern": {"name": "local", "window": 1}}, "0": {"pattern": {"name": "full"}}}
    write_tensors(Path("own.npz"), tensors, {"format": 1, "layers": own})
    result = succeed("stats", "own.npz", "--format", "json")
    assert json.loads(result.out)["pattern"] == "full | local, window 1"
    assert rows_of(result)[4]["distance"] <= 1 < rows_of(result)[0]["distance"]


def test_stats_prints_a_files_name_as_it_is(succeed, folder):
    attnviz.save("[red]x[b].npz", small())
    assert "[red]x[b].npz, batch item 0 · global" in succeed("stats", "[red]x[b].npz").out


def test_stats_without_a_source_says_so(succeed):
    assert "no SOURCE: using the built-in synthetic case" in succeed("stats").err


@pytest.mark.parametrize(
    ("where", "says"), [(["-o", "out.npz"], "in out.npz"), (["--format", "json"], "on stdout, and more as text")]
)
def test_score_says_how_much_it_would_make_before_it_makes_it(run, dump, monkeypatch, where, says):
    monkeypatch.setattr("attnviz.cli.commands.score._LARGE", 1)
    lines = run("score", dump, "--pattern", "causal", *where).err.splitlines()
    assert lines[0] == f"attnviz: 4 heads x 6 queries x 6 keys are 0.0 GB of numbers {says}"
