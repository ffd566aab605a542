"""The benchmarks compare like with like, and measure what they say."""

from __future__ import annotations

import json
import math
from functools import partial

import pytest
import torch

import attnviz
from attnviz.cli.main import main
from attnviz.engine.reducer import has_triton
from benchmarks import global_scores, gpu
from benchmarks.baselines import plain_scores, seaborn_heatmap
from benchmarks.measure import Comparison, in_turns, peak_extra_bytes
from benchmarks.report import cells

MEBIBYTE = 1 << 20


@pytest.fixture
def dump(tmp_path):
    path = tmp_path / "dump.safetensors"
    attnviz.save(path, attnviz.synthesize(heads=3, tokens=7, head_dim=4, global_positions=(0, 5)))
    return path


def test_the_plain_script_prints_the_json_of_the_command(dump, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["attnviz", "score", str(dump), "--format", "json"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert json.loads(capsys.readouterr().out) == plain_scores.document(str(dump))


def test_the_plain_heatmap_shows_the_cells_of_ours(dump):
    weights, rows, columns = seaborn_heatmap.weights_of(dump, 2)
    shown = attnviz.attention_map(attnviz.load(dump), 2)
    torch.testing.assert_close(torch.from_numpy(weights), torch.from_numpy(shown.cells).float())
    assert (len(rows), columns) == (7, ["0  t0", "5  t5"])


@pytest.mark.parametrize("way", [global_scores.two_lines, global_scores.floor, global_scores.first_call])
def test_every_way_that_the_engine_is_compared_with_gives_its_weights(way):
    inputs = global_scores.make_inputs(H=2, T=9, D=4, G=3)
    torch.testing.assert_close(way(inputs), global_scores.engine(inputs))


def test_calls_take_turns_and_the_first_round_does_not_count():
    order: list[str] = []
    seconds = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [len(samples) for samples in seconds.values()] == [2, 2]


def test_a_target_is_met_when_both_ratios_are_within_it():
    assert Comparison("ours", "theirs", [1.0, 2.0, 2.0], [1.0, 2.0, 2.0], 1.0).met is True
    assert Comparison("ours", "theirs", [1.0, 3.0, 3.0], [1.0, 2.0, 2.0], 1.0).met is False
    assert Comparison("ours", "theirs", [9.0], [1.0], None).met is None


def test_a_row_of_the_table_gives_least_and_median():
    row = Comparison("ours", "theirs", [0.1, 0.3, 0.2], [0.2, 0.4, 0.3], 1.25)
    assert cells(row) == ("ours", "theirs", "100 / 200 ms", "200 / 300 ms", "0.50 / 0.67", "≤ 1.25", "yes")


def test_peak_memory_counts_the_call_and_not_what_was_there_before():
    size = 64 * MEBIBYTE
    extra = peak_extra_bytes(partial(b"x".ljust, size, b"x"), bytearray)  # a copy of what was there
    assert extra == pytest.approx(size, abs=2 * MEBIBYTE)  # the kernel counts pages in batches


@pytest.mark.parametrize("part", ["check", "tune", "table"])
def test_the_script_for_gpus_makes_a_row_of_every_table_on_a_processor(capsys, part):
    if part != "check" and (torch.cuda.is_available() or not has_triton()):
        pytest.skip("the kernel is timed, and needs Triton's interpreter")
    report = gpu.Report(math.inf, dry=True)
    for fill in gpu.PARTS[part]:
        fill(report)
    assert all(len(rows) == 1 for rows in report.found.values())
    assert len(report.found) == len(gpu.PARTS[part])
    printed = capsys.readouterr().out.splitlines()
    tables = [line for line in printed if line.startswith("|")]
    assert len(tables) == 3 * len(report.found)
    assert not [line for line in tables if "**" in line or "nan" in line], "what is off is in bold"
