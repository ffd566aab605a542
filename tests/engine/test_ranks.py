"""One map over several ranks: the bits of one process, a share of the queries each, and no rank left waiting."""

from __future__ import annotations

import itertools
import os
import pty
import select
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event, get_ident
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attnviz
from attnviz import AttentionInputs
from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Causal, Full, GlobalKeys, Local, Masked, Pattern, longformer
from attnviz.base.bins import bin_edges
from attnviz.cli.main import main
from attnviz.engine.attention import Computed
from attnviz.engine.identity import read_alike
from attnviz.engine.plan import shares
from attnviz.engine.ranks import Ranks, rank_device
from attnviz.engine.reducer import REDUCTIONS, Wanted, reduce_map
from attnviz.engine.request import Request, ask
from attnviz.engine.tiles import TileSize
from attnviz.maps.map import map_of, maps_of
from attnviz.plots.kinds.heatmap import standing_out
from tests import warm
from tests.cases import small
from tests.ranks import PATIENCE, together
from tests.strategies import normal


def test_ranks_that_read_other_inputs_stop(tmp_path, start):
    attnviz.save(tmp_path / "a.npz", small(batch=1))
    other = small(batch=1)
    other.k[0, 0, 0, 0] += 1e-3
    attnviz.save(tmp_path / "b.npz", other)
    for rank, file in enumerate(("a.npz", "b.npz")):
        start(rank, 2, "plot", tmp_path / file, "--pattern", "full", "-o", tmp_path / f"{rank}.png")
    for process in start.started:
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 2
        assert "rank 1 has read other inputs than rank 0" in said
    assert not list(tmp_path.glob("*.png"))


@given(data=st.data())
def test_a_digest_tells_inputs_apart(data):
    inputs = small(batch=1, tokens=5)
    whole = read_alike(inputs.item(), Causal(), [1])
    assert read_alike(small(batch=1, tokens=5).item(), Causal(), [1]) == whole
    assert read_alike(inputs.item(), Full(), [1]) != whole
    name = data.draw(st.sampled_from(["k", "global_mask", "scale"]))
    changed = getattr(inputs, name)
    if name == "k":
        changed = changed.clone()
        changed[0, inputs.item().kv_head(1), data.draw(st.integers(0, 4)), 0] += 1
    changed = ~changed if name == "global_mask" else 0.5 if name == "scale" else changed
    assert read_alike(replace(inputs, **{name: changed}).item(), Causal(), [1]) != whole


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    root = str(Path(attnviz.__file__).parents[1])
    return {**kept, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", **more}


@pytest.fixture
def alone(monkeypatch):
    """Runs ``attnviz`` in one process: this one."""

    def alone(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["attnviz", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0

    return alone


@pytest.fixture
def start():
    """Starts one rank by hand, and ends those that a failed test leaves behind."""
    started: list[subprocess.Popen[str]] = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(rank: int, size: int, *arguments: object, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        process = subprocess.Popen(
            [warm.python(), "-m", "attnviz", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment(**place, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)),
        )
        started.append(process)
        return process

    start.started = started
    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ends(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """The exit code of a rank, and what it said on stderr."""
    out, err = process.communicate(timeout=PATIENCE)
    assert out == ""
    return process.returncode, err.splitlines()


# The bits of one process


@pytest.mark.sweep
def test_a_picture_and_its_data_have_the_same_bits_from_torchrun(tmp_path, alone):
    dump = tmp_path / "dump.safetensors"
    attnviz.save(dump, small(batch=1, heads=2, kv_heads=1, tokens=1237, global_positions=(0, 700, 1236)))
    options = ["--pattern", "local+global", "--window", 30, "--pixels", 91, "--reduce", "mass"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "attnviz"]
    one, two = outputs(tmp_path, "one"), outputs(tmp_path, "two")
    alone("plot", dump, *options, *one)
    arguments = [*command, "plot", dump, *options, *two]
    subprocess.run([str(a) for a in arguments], check=True, timeout=PATIENCE, env=environment())
    assert_same_files(tmp_path)


@pytest.mark.sweep
def test_a_whole_model_has_the_same_bits_from_three_ranks(tmp_path, alone, start):
    dump, kept = tmp_path / "run.npz", tmp_path / "parts"
    layers = [attnviz.synthesize(seed=seed, heads=2, kv_heads=1, tokens=600) for seed in range(2)]
    np.savez(dump, **{f"layers.{n}.{name}": getattr(one, name) for n, one in enumerate(layers) for name in "qk"})
    options = [dump, "--pattern", "causal", "--checkpoint", kept]
    three = [start(rank, 3, "overview", *options, "-o", tmp_path / "three.png") for rank in range(3)]
    assert [ends(process)[0] for process in three] == [0, 0, 0]
    assert list(kept.iterdir())
    alone("overview", *options, "-o", tmp_path / "again.png")
    alone("overview", *options[:-2], "-o", tmp_path / "one.png")
    assert len({(tmp_path / f"{name}.png").read_bytes() for name in ("one", "three", "again")}) == 1


@pytest.mark.sweep
def test_three_ranks_of_a_ragged_causal_map_give_the_bits_of_one(tmp_path, alone, start):
    dump = tmp_path / "dump.safetensors"
    attnviz.save(dump, small(batch=1, tokens=1237))
    one, three = outputs(tmp_path, "one"), outputs(tmp_path, "three")
    options = ["--head", 1, "--pattern", "causal", "--memory", "100MB"]  # 1,024 cells of one or two rows each
    alone("plot", dump, *options, *one)
    for code, said in [ends(process) for process in [start(r, 3, "plot", dump, *options, *three) for r in range(3)]]:
        assert code == 0, said
    assert_same_files(tmp_path)


def outputs(folder: Path, name: str) -> list[object]:
    (folder / name).mkdir()
    return ["-o", folder / name / "map.png", "-o", folder / name / "map.npz"]


def assert_same_files(folder: Path) -> None:
    one, other = (sorted(path.iterdir()) for path in sorted(folder.iterdir()) if path.is_dir())
    assert [path.name for path in one] == [path.name for path in other] == ["map.npz", "map.png"]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


PATTERNS: dict[str, Pattern] = {
    "full": Full(),
    "causal": Causal(),
    "local": Local(30),
    "dilation": Local(7, 3),
    "global": GlobalKeys(),
    "longformer": longformer(9),
    "causal longformer": longformer(9) & Causal(),
}


def hard(T: int, seed: int) -> AttentionInputs:
    """Inputs whose softmax takes the bound in some blocks and the running maximum in others, in no order."""
    q, k = normal((1, T, 4), seed).float(), normal((1, T, 4), seed + 1).float()
    q[..., 3], k[..., 3] = 0, 0
    k[0, T // 3, 3] = 15
    strong = torch.from_numpy(np.random.default_rng(seed).random(-(-T // 16)) < 0.5).repeat_interleave(16)[:T]
    q[0, strong] *= 30
    return AttentionInputs(q, k, global_mask=torch.arange(T) % 29 == 0)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("name", PATTERNS)
@settings(max_examples=12)
@given(data=st.data())
def test_shares_put_together_have_the_bits_of_the_whole(name, data):
    T, pattern = data.draw(st.integers(1, 200)), PATTERNS[name]
    item = hard(T, data.draw(st.integers(0, 99))).item(0)
    rows = bin_edges(range(T), min(T, data.draw(st.integers(1, 90))))
    columns = bin_edges(range(T), min(T, data.draw(st.integers(1, 90))))
    tile = TileSize(data.draw(st.sampled_from([4, 16, 64])), data.draw(st.sampled_from([16, 64])))
    size = data.draw(st.integers(2, 4))
    cuts = shares(item, pattern, rows, tile.rows, size)
    assert (cuts[0], cuts[-1], len(cuts)) == (0, len(rows) - 1, size + 1)
    assert cuts == sorted(cuts)
    whole = reduce_map(item, pattern, 0, rows, columns, reductions=REDUCTIONS, tile=tile)
    parts = [
        reduce_map(item, pattern, 0, rows[first : last + 1], columns, reductions=REDUCTIONS, tile=tile)
        for first, last in itertools.pairwise(cuts)
        if first < last
    ]
    for field in ("max", "mass", "counts"):
        np.testing.assert_array_equal(np.concatenate([getattr(part, field) for part in parts]), getattr(whole, field))
    np.testing.assert_array_equal(torch.cat([part.denominators for part in parts]), whole.denominators)


@pytest.fixture
def world():
    """Makes a map by ranks that are threads of this process."""

    def world(size: int):
        def run(item: AttentionItem, pattern: Pattern, *arguments, **options):
            asked = (Computed(item, pattern), *arguments, Wanted(**options))
            return together(size, lambda rank: rank.reduce_map(*asked))[0]

        return run

    return world


# One queue of layers, heads and rows


LAYERS = [small(batch=1, heads=heads, kv_heads=1, tokens=tokens) for heads, tokens in ((3, 150), (2, 97))]


def overview(ranks: Ranks | None, **more: Any) -> list[Any]:
    """The cells of every head of two layers, in parts of a few rows."""
    asked = [Request(layer, Causal(), pixels=20, memory=30_000, ranks=ranks, **more) for layer in LAYERS]
    return [shown.cells for request in asked for shown in maps_of(request)]


@pytest.fixture
def made(monkeypatch) -> list[tuple[int, int, range]]:
    """The parts that are made: of how many queries the map is, its head, and the rows."""
    parts: list[tuple[int, int, range]] = []
    reduced = Computed.reduced

    def watched(self, head, rows, *rest):
        parts.append((self.item.T, head, range(int(rows[0]), int(rows[-1]))))
        return reduced(self, head, rows, *rest)

    monkeypatch.setattr(Computed, "reduced", watched)
    return parts


@pytest.mark.parametrize("size", [2, 3])
def test_layers_and_heads_of_several_ranks_have_the_bits_of_one(size, tmp_path, made):
    alone = overview(None)
    made.clear()
    together(size, lambda rank: overview(rank, checkpoint=tmp_path))
    assert len(made) > len(alone) == 5, "heads are made in parts"
    rows = sorted((T, head, t) for T, head, part in made for t in part)
    assert rows == sorted((layer.T, head, t) for layer in LAYERS for head in range(layer.H) for t in range(layer.T))
    made.clear()
    # Any number of ranks goes on from what these left, and makes nothing again.
    for found in (
        overview(None, checkpoint=tmp_path),
        together(5 - size, lambda rank: overview(rank, checkpoint=tmp_path))[0],
    ):
        assert not made
        for cells, expected in zip(found, alone, strict=True):
            np.testing.assert_array_equal(cells, expected)


def test_a_rank_goes_on_to_other_heads_while_another_is_at_its_part(monkeypatch):
    at_work, last_head = Event(), Event()
    slow: list[int] = []
    reduced = Computed.reduced

    def watched(self, head, *rest):
        if get_ident() not in slow:
            assert at_work.wait(PATIENCE)
        elif not at_work.is_set():
            at_work.set()
            assert last_head.wait(PATIENCE), "the other rank waits for this one, and there is work"
        found = reduced(self, head, *rest)
        if head == LAYERS[0].H - 1:
            last_head.set()
        return found

    def work(rank: Ranks) -> list[Any]:
        slow.extend([get_ident()] * rank.rank)
        return overview(rank)

    expected = overview(None)
    monkeypatch.setattr(Computed, "reduced", watched)
    for found, cells in zip(together(2, work)[0], expected, strict=True):
        np.testing.assert_array_equal(found, cells)


def test_what_rank_0_adds_to_a_figure_waits_for_nobody():
    inputs = attnviz.synthesize(heads=1, kv_heads=1, tokens=200)
    inputs.q[..., 0], inputs.k[..., 0] = 0, 0
    inputs.q[0, 0, 150, 0] = inputs.k[0, 0, 70, 0] = 30
    request = Request(inputs, Full(), pixels=50)
    shown = map_of(request)
    nobody: Any = object()
    part = standing_out(request.but(ranks=Ranks(0, 2, nobody)), shown)
    assert part is not None
    assert 150 in part.queries
    assert 70 in part.keys


def test_what_is_made_of_others_is_told_from_others():
    def identity(request: Request) -> bytes:
        return read_alike(request.item, request.attention.pattern, request.chosen)

    layers = [small(batch=1), small(batch=1, seed=5)]
    other = [layers[0], replace(layers[1], k=layers[1].k + (torch.arange(6) == 3)[:, None])]
    values = [layers[0], replace(layers[1], v=layers[1].v + 1)]
    for asked in ({"mean": "layers"}, {"rollout": True}, {"max": "heads,layers"}, {"mean": "layers", "hide": "0"}):
        assert identity(ask(layers, Causal(), **asked)) == identity(ask(layers, Causal(), **asked)), asked
        assert identity(ask(layers, Causal(), **asked)) != identity(ask(other, Causal(), **asked)), asked
    norms = {"mean": "layers", "values": "norms"}
    assert identity(ask(layers, Causal(), **norms)) != identity(ask(values, Causal(), **norms))
    alone = {"inputs": layers[1], "pattern": Causal(), "hide": "0"}
    assert identity(Request(**alone)) != identity(Request(**{**alone, "inputs": other[1]}))
    masks = [Masked(torch.ones(6, 6).tril(n).bool()) for n in (0, 1)]
    assert len({read_alike(layers[0].item(), mask, [0]) for mask in masks}) == 2


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("memory", [None, 180_000])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_rank_0_gets_the_whole_whatever_the_bound_on_memory(world, memory, size):
    item = hard(2500, 1).item(0)
    edges = bin_edges(range(2500), 70)
    options = {"reductions": ("max",), "memory": memory}
    whole = reduce_map(item, Causal(), 0, edges, edges, **options)
    found = world(size)(item, Causal(), 0, edges, edges, **options)
    np.testing.assert_array_equal(found.max, whole.max)
    np.testing.assert_array_equal(found.counts, whole.counts)
    np.testing.assert_array_equal(found.denominators, whole.denominators)


def test_more_ranks_than_queries(world):
    item, edges = hard(2, 0).item(0), bin_edges(range(2), 2)
    found, whole = (reduce(item, Full(), 0, edges, edges) for reduce in (world(5), reduce_map))
    np.testing.assert_array_equal(found.max, whole.max)


@pytest.mark.parametrize("pattern", [Full(), Causal(), longformer(9)], ids=str)
def test_no_rank_reads_all_queries(world, monkeypatch, pattern):
    read: list[range] = []
    query = AttentionItem.query

    def spied(self, head, rows=None, **options):
        read.append(range(self.T) if rows is None else rows)
        return query(self, head, rows, **options)

    monkeypatch.setattr(AttentionItem, "query", spied)
    edges = bin_edges(range(3000), 300)
    world(3)(hard(3000, 2).item(0), pattern, 0, edges, edges)
    parts = sorted({(rows.start, rows.stop) for rows in read})
    assert len(parts) >= 3
    assert [stop for _, stop in parts] == [start for start, _ in parts[1:]] + [3000]
    assert max(stop - start for start, stop in parts) < 2000


def test_shares_are_of_about_the_same_work():
    q = torch.zeros(1, 20_000, 1)
    item = AttentionInputs(q, q).item(0)
    edges = bin_edges(range(20_000), 1000)
    even = edges[shares(item, Full(), edges, 256, 4)]
    np.testing.assert_allclose(even, [0, 5000, 10_000, 15_000, 20_000], atol=256)
    causal = edges[shares(item, Causal(), edges, 256, 4)]  # work grows with the square of the row
    np.testing.assert_allclose(causal, [0, 10_000, 14_142, 17_321, 20_000], atol=256)


def test_each_rank_of_a_machine_has_a_device_of_its_own(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert rank_device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [rank_device(name) for name in ("auto", "cuda", "cuda:0", "cpu")] == ["cuda:1", "cuda:1", "cuda:0", "cpu"]


# A rank that stops


@pytest.mark.parametrize("bad", [0, 1])
def test_a_rank_that_cannot_read_its_file_stops_the_others(tmp_path, start, bad):
    dump = tmp_path / "dump.safetensors"
    attnviz.save(dump, small(batch=1, tokens=600))
    before = sorted(tmp_path.iterdir())
    processes = [
        start(rank, 2, "plot", tmp_path / "missing.safetensors" if rank == bad else dump, "-o", tmp_path / "map.png")
        for rank in range(2)
    ]
    found = [ends(process) for process in processes]
    assert found[bad] == (
        2,
        [f"attnviz: {tmp_path}/missing.safetensors: there is no such file; did you mean dump.safetensors?"],
    )
    code, said = found[1 - bad]
    assert len(said) == 1, said
    # The other has gone while this one waits for its part or, sooner, while they still shake hands.
    late, soon = "another rank stopped before the", "2 ranks were to work together and do not find each other"
    assert said[0].startswith((f"attnviz: {late}", f"attnviz: {soon}"))
    assert code == 2
    assert sorted(tmp_path.iterdir()) == before


def test_a_rank_that_is_killed_stops_the_others(tmp_path, start):
    dump = tmp_path / "dump.safetensors"
    attnviz.save(dump, attnviz.synthesize(heads=300, kv_heads=1, tokens=4096, head_dim=8))  # much work, if it were let
    before = sorted(tmp_path.iterdir())
    screen, terminal = pty.openpty()  # rank 0 believes that a person watches, and shows when the ranks are at work
    arguments = ("plot", dump, "--pattern", "full", "-o", tmp_path / "map.npz")
    ranks = [start(rank, 3, *arguments, stderr=terminal if rank == 0 else subprocess.PIPE) for rank in range(3)]
    os.close(terminal)
    at_work = Event()
    with ThreadPoolExecutor(1) as pool:
        seen = pool.submit(all_of, screen, at_work)  # a terminal that nobody reads stops who writes to it
        assert at_work.wait(PATIENCE), "rank 0 did not start"
        ranks[1].kill()
        shown = seen.result(PATIENCE)
    code, said = ends(ranks[2])
    assert code == 2, said
    assert len(said) == 1, said
    assert said[0].startswith("attnviz: another rank stopped before the")
    assert len(said[0]) < 200, said  # gloo's own words are long, and begin with a file of its own
    assert ".cc" not in said[0]
    assert b"attnviz: another rank stopped before the" in shown
    assert ranks[0].wait(PATIENCE) == 2
    assert sorted(tmp_path.iterdir()) == before


def all_of(screen: int, at_work: Event) -> bytes:
    """What comes on a terminal until the program on it has ended; tells when it shows how fast it works."""
    shown = b""
    while select.select([screen], [], [], PATIENCE)[0]:
        try:
            part = os.read(screen, 1 << 16)
        except OSError:  # how Linux tells that nobody holds the other end any more
            break
        if not part:
            break
        shown += part
        if b"tokens/s" in shown:
            at_work.set()
    os.close(screen)
    return shown
