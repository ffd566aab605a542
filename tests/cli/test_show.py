"""``attnviz show``: what it takes, what it refuses, and that a pipe gets plain text."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import attnviz
from tests.cases import small


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def test_a_pipe_gets_80_columns_of_plain_text(run, dump):
    attnviz.save("long.safetensors", small(tokens=500))
    result = run("show", "long.safetensors", "--head", "3", "--pattern", "full")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert "\x1b" not in result.out
    assert lines[0] == "batch item 0, head 3 · weights · full · queries 500 ↓ × keys 500 →"
    assert 70 < max(map(len, lines)) <= 80
    assert re.fullmatch(r"1 cell ≈ 13.9 × 13.9 pairs, the largest of its pairs", lines[-1])


def test_the_darkest_cell_is_the_largest_weight(run, dump):
    weights = attnviz.score(small(), attnviz.Full(), heads=[2], logits=False).weights[0].numpy()
    rows = run("show", dump, "--head", "2", "--pattern", "full").out.splitlines()[3:9]
    wide = (len(rows[0]) - 5) // 6
    dark = [[row[5:][j * wide] for j in range(6)] for row in rows]
    largest = np.unravel_index(weights.argmax(), weights.shape)
    assert dark[largest[0]][largest[1]] == "█"


@pytest.mark.parametrize("options", [["--all"], ["--head", "all"], ["--head", "0-3"]])
def test_a_grid_of_heads(run, dump, options):
    out = run("show", dump, *options).out
    assert out.startswith("batch item 0, 4 heads · weights · global · queries 6 ↓ × global keys 2 →\n")
    assert re.findall(r"head \d", out) == ["head 0", "head 1", "head 2", "head 3"]


def test_colors_can_be_asked_for(run, dump):
    systems = {"truecolor": r"\x1b\[38;2;\d+;\d+;\d+;48;2;", "256": r"\x1b\[38;5;\d+;48;5;", "16": r"\x1b\[\d\d;\d+m"}
    for color, code in systems.items():
        assert re.search(code, run("show", dump, "--color", color).out), color
    assert "\x1b[38" not in run("show", dump, "--color", "none").out


def test_no_color_is_heeded(run, dump, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in run("show", dump).out
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[34]8", run("show", dump).out)
    assert "█" in run("show", dump).out


def test_norms_and_parts(run, dump):
    out = run("show", dump, "--pattern", "causal", "--queries", "2:6", "--keys", "0:3", "--norm", "log").out
    assert "queries 4 ↓ × keys 3 →" in out
    assert "weight (softmax), log" in out
    assert "blank: not visible" not in out  # keys 0 to 2 are before every query
    assert "logit (before softmax)" in run("show", dump, "--values", "logits").out
    assert "the mass of its pairs" in run("show", dump, "--pixels", "2", "--reduce", "mass").out


def test_the_columns_that_are_given_are_taken(run, dump, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    attnviz.save("long.safetensors", small(tokens=500))
    out = run("show", "long.safetensors", "--pattern", "full").out
    assert max(len(line) for line in out.splitlines()[1:-1]) <= 40


@pytest.mark.sweep
def test_an_encoding_without_blocks(dump):
    done = subprocess.run(
        [Path(sys.executable).parent / "attnviz", "show", f"{dump}", "--pattern", "causal"],
        capture_output=True,
        timeout=120,
        env={"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert b"@" in done.stdout


def test_no_matplotlib_is_imported():
    code = (
        "import sys; from typer.testing import CliRunner; from attnviz.cli.main import app; "
        "assert CliRunner().invoke(app, ['show']).exit_code == 0; print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr


def test_bad_input(refused, run, dump):
    refused("show", dump, "--head", "9", says="head 9 is out of range; there are 4")
    refused("show", dump, "--head", "2", "--all", says="--head 2: --all shows every head; give one of the two")
    refused("show", dump, "--norm", "cubic", says="--norm 'cubic' is not one of linear, log, power, rank, row")
    refused("show", dump, "--norm", "log", "--values", "logits", says="logits are logarithms of weights already")
    refused("show", dump, "--color", "blue", says="--color 'blue' is not one of auto, truecolor, 256, 16, none")
    refused("show", dump, "--values", "scores", says="--values 'scores'")
    refused("show", dump, "--reduce", "mean", says="--reduce 'mean' is not one of max, mass")
    refused("show", dump, "--vmin", "2", "--vmax", "1", says="--vmin must be below --vmax")
    refused("show", dump, "--keys", "9:12", says="--keys '9:12' is not a part of 0:6")
    refused("show", "nothing.npz", says="nothing.npz: there is no such file")
