"""Maps of any length from the command line: zoom, memory, data, tiles, progress, and stopping."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import attnviz
from attnviz.attention.patterns import Causal
from attnviz.cli.progress import rows_progress
from attnviz.engine.head import RowScorer
from attnviz.maps.pyramid import Pyramid
from attnviz.sources.files import open_tensors
from tests import warm

T = 700
PATIENCE = 120  # seconds


@pytest.fixture
def long(folder) -> Path:
    """A dump of two heads and 700 tokens, global tokens at 0, 3 and 7: ``long.safetensors``."""
    attnviz.save("long.safetensors", attnviz.synthesize(heads=2, tokens=T, head_dim=8))
    return Path("long.safetensors")


@pytest.fixture
def succeed(run):
    """Runs a command that must succeed."""

    def succeed(*arguments: object):
        result = run(*arguments)
        assert result.code == 0, result.err
        assert result.out == ""
        return result

    return succeed


def cells(path: str) -> np.ndarray:
    with np.load(path) as data:
        return data["cells"]


def weights(head: int) -> np.ndarray:
    """(T, T) causal weights, NaN where hidden."""
    result = attnviz.score(attnviz.load("long.safetensors"), Causal(), heads=[head])
    return np.where(result.scores[0] == -torch.inf, np.nan, result.weights[0])


# Data beside the picture


def test_several_outputs_come_from_one_pass(succeed, long, monkeypatch):
    rows: list[int] = []
    tile = RowScorer.tile
    monkeypatch.setattr(RowScorer, "tile", lambda self, q, r, keys: rows.append(len(r)) or tile(self, q, r, keys))
    result = succeed(
        "plot", long, "--head", 1, "--pattern", "causal", "-o", "map.png", "-o", "map.npz", "--out", "map.svg"
    )
    assert sum(rows) == T
    assert result.err.endswith("attnviz: wrote map.png\nattnviz: wrote map.npz\nattnviz: wrote map.svg\n")
    assert Path("map.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in Path("map.svg").read_text()


def test_a_map_as_npz_holds_the_cells_and_where_they_are(succeed, long):
    succeed("plot", long, "--pattern", "causal", "--pixels", 90, "--queries", "100:650", "-o", "map.npz")
    assert open_tensors(Path("map.npz")).metadata == {
        "kind": "attnviz.map/1",
        "source": "long.safetensors",
        "pattern": "causal",
        "values": "weights",
        "reduce": "max",
    }
    with np.load("map.npz") as data:
        rows, columns = data["row_edges"], data["column_edges"]
        assert data["heads"].tolist() == [0, 1]
        assert (data["cells"].shape, data["cells"].dtype) == ((2, 90, 90), np.float32)
        assert (rows[0], rows[-1], columns[0], columns[-1]) == (100, 650, 0, T)
        for head in (0, 1):
            whole = weights(head)
            for i, j in [(0, 0), (40, 20), (89, 75), (0, 89)]:
                part = whole[rows[i] : rows[i + 1], columns[j] : columns[j + 1]]
                expected = np.nan if np.isnan(part).all() else np.nanmax(part)
                np.testing.assert_allclose(data["cells"][head, i, j], expected, rtol=1e-4)


def test_a_map_as_zarr_is_the_same_as_npz(succeed, long):
    zarr = pytest.importorskip("zarr")
    options = ["--pattern", "causal", "--pixels", 50, "--reduce", "mass"]
    succeed("plot", long, *options, "-o", "map.npz", "-o", "map.zarr")
    group = zarr.open_group("map.zarr", mode="r")
    with np.load("map.npz") as data:
        for name in ("cells", "heads", "row_edges", "column_edges"):
            np.testing.assert_array_equal(group[name][:], data[name])
        assert dict(group.attrs) == json.loads(str(data["attnviz"]))
    assert group.attrs["kind"] == "attnviz.map/1"
    np.testing.assert_allclose(np.nansum(group["cells"][:], axis=2), 1, rtol=1e-5)


def test_an_output_that_exists_as_a_directory_is_refused_before_the_work(refused, long, monkeypatch):
    monkeypatch.setattr(RowScorer, "tile", None)  # no work
    Path("map.zarr").mkdir()
    Path("map.zarr/kept").touch()
    refused("plot", long, "-o", "map.png", "-o", "map.zarr", says="map.zarr: exists already; name a directory that")
    refused("plot", long, "-o", "nowhere/map.zarr", says="the directory nowhere does not exist")


def test_zarr_where_it_is_not_installed(refused, long, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    refused("plot", long, "-o", "map.zarr", says=r"pip install 'attnviz\[zarr\]', or write .npz")


# Zoom


@pytest.mark.parametrize(
    ("queries", "keys", "rows", "columns"),
    [
        ("600:640", "0:20", slice(600, 640), slice(0, 20)),
        (":5", "0:5", slice(0, 5), slice(0, 5)),
        ("690:", "680:", slice(690, T), slice(680, T)),
        ("350:351", ":", slice(350, 351), slice(0, T)),
    ],
)
@pytest.mark.parametrize("reduce", ["max", "mass"])
def test_a_zoom_is_that_part_of_the_map_at_full_resolution(succeed, long, queries, keys, rows, columns, reduce):
    options = ["--pattern", "causal", "--head", 1, "--reduce", reduce]
    succeed("plot", long, *options, "--queries", queries, "--keys", keys, "-o", "map.npz")
    np.testing.assert_allclose(cells("map.npz")[0], weights(1)[rows, columns], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("option", ["--queries", "--keys"])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("5", "write A:B, positions A to B-1, like 0:128"),
        ("1:2:3", "write A:B"),
        ("-3:9", "write A:B"),
        ("a:b", "write A:B"),
        ("", "write A:B"),
        ("9:9", "is not a part of 0:700; write A:B with A < B <= 700"),
        ("9:3", "is not a part of 0:700"),
        ("0:701", "is not a part of 0:700"),
        ("700:", "is not a part of 0:700"),
    ],
)
def test_a_range_that_is_none(refused, long, option, text, says):
    refused("plot", long, f"{option}={text}", "-o", "map.png", says=f"^attnviz: {option} '{text}':? .*{says}")


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("option", ["--queries", "--keys"])
def test_a_part_in_which_nothing_is_visible_is_told(succeed, long, option):
    where = ("--queries", "0:50", "--keys", "100:200")
    assert (
        "nothing is visible in what is shown" in succeed("plot", long, "--pattern", "causal", *where, "-o", "m.png").err
    )
    one = where[:2] if option == "--queries" else where[2:]
    assert "nothing is" not in succeed("plot", long, "--pattern", "causal", *one, "-o", "m.png").err


def test_data_beside_a_figure_says_that_it_has_no_more_cells(succeed, long):
    options = ("--head", "0", "--pattern", "full", "--pixels", "650")
    both = succeed("plot", long, *options, "--dpi", "40", "-o", "m.png", "-o", "m.npz")
    with np.load("m.npz") as arrays:
        cells = arrays["cells"].shape[1]
    assert cells < 650
    assert f"m.npz: {cells} cells a side, which is what the figure has room for; alone it has 650" in both.err
    alone = succeed("plot", long, *options, "-o", "m.npz")
    with np.load("m.npz") as arrays:
        assert arrays["cells"].shape[1] == 650
    assert "cells a side" not in alone.err


# Memory


def test_a_bound_on_memory_gives_the_same_map_in_smaller_tiles(succeed, long, monkeypatch):
    made: list[int] = []
    tile = RowScorer.tile
    monkeypatch.setattr(
        RowScorer, "tile", lambda self, q, r, keys: made.append(4 * len(r) * len(keys)) or tile(self, q, r, keys)
    )
    options = ["--pattern", "causal", "--pixels", 64]
    succeed("plot", long, *options, "-o", "free.npz")
    free = max(made)
    made.clear()
    succeed("plot", long, *options, "--memory", "160kB", "-o", "bound.npz")
    assert max(made) < 160_000 < free
    np.testing.assert_allclose(cells("bound.npz"), cells("free.npz"), rtol=1e-5, atol=1e-7)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("command", [["plot", "--pixels", 64, "-o", "map.npz"], ["tiles", "-o", "tiles"]])
def test_too_little_memory_says_the_least_that_works_and_that_works(refused, succeed, folder, command):
    attnviz.save("dump.safetensors", attnviz.synthesize(heads=1, tokens=300, head_dim=8))  # the least is slow
    said = refused(
        *command, "dump.safetensors", "--pattern", "full", "--memory", "1kB", says="--memory 1,000 bytes is too small"
    )
    least = re.search(r"the least that works is ([\d,]+)", said)[1].replace(",", "")
    refused(*command, "dump.safetensors", "--pattern", "full", "--memory", int(least) - 1, says="too small for one row")
    succeed(*command, "dump.safetensors", "--pattern", "full", "--memory", least)


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "0.5", "2 GiBs", "1e9", "GiB", "12XB"])
@pytest.mark.parametrize("command", ["plot", "tiles"])
def test_a_bound_that_is_no_amount(refused, long, command, text):
    refused(
        command, long, f"--memory={text}", "-o", "map.npz", says="--memory .*: write an amount of memory like 512MiB"
    )


def test_the_least_of_tiles_names_no_option_that_tiles_has_not(refused, long):
    refused("tiles", long, "-o", "tiles", "--memory", "1KB", says=r"the least that works is [\d,]+$")


def test_a_device_without_memory_left_says_which_bound_to_lower(refused, long, monkeypatch):
    def full(self, q, rows, keys):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(RowScorer, "tile", full)
    says = r"cpu: out of memory with tiles of 768 x 2048; no --memory was given: give one"
    refused("plot", long, "-o", "map.npz", says=says)
    refused("tiles", long, "-o", "tiles", "--memory", "1GB", says="--memory was 1,000,000,000 bytes: lower it")


# Tiles


def test_tiles_are_those_of_the_pyramid(succeed, long):
    result = succeed("tiles", long, "--pattern", "causal", "--levels", "all", "-o", "tiles")
    assert result.err == "attnviz: wrote tiles: 56 tiles of 2 heads, levels 0, 1, 2\n"
    described = json.loads(Path("tiles/pyramid.json").read_text())
    assert described == {
        "schema": "attnviz.tiles/1",
        "source": "long.safetensors",
        "pattern": "causal",
        "batch": 0,
        "heads": [0, 1],
        "reductions": ["max", "mass"],
        "queries": T,
        "keys": T,
        "tile": 256,
        "levels": [
            {"level": 0, "cell": 4, "rows": 1, "columns": 1},
            {"level": 1, "cell": 2, "rows": 2, "columns": 2},
            {"level": 2, "cell": 1, "rows": 3, "columns": 3},
        ],
    }
    pyramid = Pyramid.of(attnviz.load(long), Causal())
    files = {str(path) for path in Path("tiles").rglob("*.npy")}
    for head in described["heads"]:
        for reduce in described["reductions"]:
            for level in described["levels"]:
                for row, column in np.ndindex(level["rows"], level["columns"]):
                    name = f"tiles/{head}/{reduce}/{level['level']}/{row}-{column}.npy"
                    files.remove(name)
                    tile = pyramid.tile(head, level["level"], row, column, reduce=reduce)
                    np.testing.assert_array_equal(np.load(name), tile)
    assert not files


def test_levels_to_write_can_be_chosen(succeed, long):
    succeed("tiles", long, "--head", 1, "--levels", "0,2", "-o", "tiles")
    assert sorted(path.name for path in Path("tiles/1/max").iterdir()) == ["0", "2"]
    assert [level["level"] for level in json.loads(Path("tiles/pyramid.json").read_text())["levels"]] == [0, 2]


def test_an_empty_directory_is_filled(succeed, long):
    Path("tiles").mkdir()
    succeed("tiles", long, "-o", "tiles", "--levels", 0)
    assert Path("tiles/pyramid.json").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--levels", "3"], r"--levels '3': level 3 is out of range; there are 3 \(0 to 2\)"),
        (["--levels", "low"], "--levels 'low': 'low' is not a level"),
        (["--head", "2"], "--head '2': head 2 is out of range"),
        (["-o", "nowhere/tiles"], "the directory nowhere does not exist"),
        (["-o", "long.safetensors"], "long.safetensors: exists already"),
    ],
)
def test_tiles_that_cannot_be_written(refused, long, arguments, says):
    refused("tiles", long, *(["-o", "tiles"] if "-o" not in arguments else []), *arguments, says=says)


def test_a_directory_with_something_in_it_is_left_alone(refused, long):
    Path("tiles").mkdir()
    Path("tiles/mine").write_text("kept")
    refused("tiles", long, "-o", "tiles", says="tiles: exists already; name a directory that does not, or remove it")


def test_too_many_tiles_are_refused_before_the_work(refused, folder):
    q, k = torch.zeros(1, 100_000, 1), torch.zeros(1, 100_000, 1)
    attnviz.save("endless.safetensors", attnviz.AttentionInputs(q, k, global_mask=torch.arange(100_000) == 0))
    says = "408,332 tiles of 256 KiB are too many files; write fewer levels, and take single tiles from attnviz.Pyramid"
    refused("tiles", "endless.safetensors", "--levels", "all", "-o", "tiles", says=says)


# Watching, and stopping


@pytest.fixture
def heavy(folder) -> Path:
    """A dump that takes a minute or more: ``heavy.safetensors``."""
    attnviz.save("heavy.safetensors", attnviz.synthesize(heads=100, kv_heads=1, tokens=16_384, head_dim=4))
    return Path("heavy.safetensors")


def on_a_terminal(*arguments: object) -> tuple[subprocess.Popen[str], int]:
    """Starts ``attnviz`` with a terminal for stderr, and gives the end that a person would look at."""
    screen, terminal = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(Path(attnviz.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [warm.python(), "-m", "attnviz", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        env={**environment, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(terminal)
    return process, screen


def read_until(screen: int, wanted: str) -> str:
    """What the terminal shows until it shows ``wanted``, or until the program has ended."""
    seen = ""
    while not re.search(wanted, seen):
        assert select.select([screen], [], [], PATIENCE)[0], seen
        try:
            part = os.read(screen, 1 << 16).decode(errors="replace")
        except OSError:  # the other end is closed
            break
        seen += re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", part)
    return seen


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", [["plot", "-o", "map.npz", "-o", "map.png"], ["tiles", "-o", "tiles"]])
def test_a_signal_stops_with_one_line_and_leaves_nothing(heavy, command, how):
    before = sorted(Path().iterdir())
    process, screen = on_a_terminal(*command, heavy, "--pattern", "full")
    try:
        shown = read_until(screen, r"tokens/s.*\d:\d\d:\d\d")
        title, rows = ("head 0", 16_384) if command[0] == "tiles" else ("plot", 1_638_400)
        assert re.search(rf"{title} .*\d+/{rows} [\d,]+ tokens/s \d:\d\d:\d\d", shown), shown
        process.send_signal(how)
        said = read_until(screen, "(?!)")  # all of it
        out, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        os.close(screen)
    assert process.returncode == 128 + how
    assert out == ""
    assert said.rstrip().splitlines()[-1].strip() == "attnviz: stopped; no file is half-written"
    assert "Traceback" not in said
    assert sorted(Path().iterdir()) == before


def test_no_bar_where_nobody_watches(capsys):
    with rows_progress(10, "plot") as progress:
        assert progress is None
    assert capsys.readouterr() == ("", "")


def test_a_file_is_not_written_in_parts(succeed, long, monkeypatch):
    """What is beside the output while it is written is gone after."""
    succeed("plot", long, "-o", "map.npz")
    kept = Path("map.npz").read_bytes()

    def stopped(stream, **arrays):
        stream.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr("attnviz.sources.files.np.savez", stopped)
    monkeypatch.setattr(sys, "argv", ["attnviz", "plot", str(long), "--head", "1", "-o", "map.npz"])
    with pytest.raises(SystemExit) as ended:
        attnviz.cli.main.main()
    assert ended.value.code == 130
    assert Path("map.npz").read_bytes() == kept
    assert sorted(path.name for path in Path().iterdir()) == ["long.safetensors", "map.npz"]


# synth --structure


def test_planted_structure_is_in_the_dump(succeed, folder):
    options = ["--heads", 1, "--tokens", 300, "--head-dim", 32, "--structure", "sink, needle"]
    succeed("synth", "planted.safetensors", *options)
    inputs = attnviz.load("planted.safetensors")
    made = attnviz.synthesize(heads=1, tokens=300, head_dim=32, structure=("sink", "needle"))
    assert torch.equal(inputs.q, made.q)
    assert torch.equal(inputs.k, made.k)
    assert attnviz.score(inputs, Causal()).weights[0, 225, 100] > 0.99


@pytest.mark.parametrize(
    ("structure", "says"),
    [
        ("", "structure '' is not one of sink, local, induction, needle"),
        ("sink,stripes", "structure 'stripes' is not one of"),
        ("sink,sink", "given more than once"),
    ],
)
def test_a_structure_that_is_none(refused, folder, structure, says):
    refused("synth", "planted.npz", f"--structure={structure}", says=says)
