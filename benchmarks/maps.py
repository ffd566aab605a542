"""Maps of any length: streamed and reduced, against the bare product of the same size and what people do now."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

import attnviz
from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Causal, Full, Pattern
from attnviz.base.bins import bin_edges
from attnviz.engine.products import Queries
from attnviz.engine.reducer import reduce_map
from attnviz.engine.tiles import TileSize
from benchmarks.measure import Comparison, baseline, benchmark, in_turns, peak_extra_bytes, processes_in_turns
from benchmarks.measure import attnviz as program

CELLS = 1024
LONGEST = 131_072


def make_item(T: int, D: int = 64) -> AttentionItem:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, T, D, generator=generator) for _ in range(2))
    return attnviz.AttentionInputs(q, k).item()


def streamed(item: AttentionItem, pattern: Pattern, reduce: str) -> object:
    edges = bin_edges(range(item.T), CELLS)
    return reduce_map(item, pattern, 0, edges, edges, reductions=(reduce,))


class Product:
    """The bare product of the same flops: into one reused map where it fits, else 1,024 rows of it at a time."""

    def __init__(self, item: AttentionItem) -> None:
        self.q, self.k = item.query(0), item.key(0)
        self.rows = item.T if item.T <= 32_768 else 1024
        self.out = torch.empty(self.rows, item.T)

    def __call__(self) -> Tensor:
        for start in range(0, len(self.q), self.rows):
            torch.mm(self.q[start : start + self.rows], self.k.T, out=self.out)
        return self.out


class Tiles:
    """The product alone, a tile at a time into memory that is used again, by the operator that maps take; causal: what is visible."""

    def __init__(self, item: AttentionItem, *, causal: bool) -> None:
        self.q, self.k, self.causal = item.query(0), item.key(0), causal
        self.tile = TileSize.fitting(item, (CELLS, CELLS))
        self.out = torch.empty(self.tile.keys * self.tile.rows)

    def __call__(self) -> Tensor:
        for rows in self.q.split(self.tile.rows):
            queries = Queries(rows, operator=self.tile.operator)
            first = rows.storage_offset() // rows.shape[1]
            keys = self.k[: first + len(rows)] if self.causal else self.k
            for part in keys.split(self.tile.keys):
                room = self.out[: len(part) * len(rows)].view(len(part), len(rows))
                queries.exponents(part, 0.125, lambda room=room: room)  # type: ignore[misc]
        return self.out


def naive(item: AttentionItem) -> Tensor:
    """Einsum, softmax and pooling of the whole map."""
    scores = torch.einsum("td,sd->ts", item.query(0), item.key(0)) * item.scale
    weights = torch.softmax(scores, dim=-1)
    return torch.nn.functional.max_pool2d(weights[None, None], item.T // CELLS)


@benchmark
def map_time() -> Iterator[Comparison]:
    # 10,000 is no multiple of 1,024: cells of uneven size. The bare product of 8,192 is a slow one for its size.
    for T, repeats, target in ((8_192, 15, 2.0), (10_000, 15, None), (32_768, 5, 1.4)):
        yield from _against_product(T, repeats, target)


@benchmark
def longest_map() -> Iterator[Comparison]:
    yield from _against_product(LONGEST, 1, 1.4)


def _against_product(T: int, repeats: int, target: float | None) -> Iterator[Comparison]:
    item = make_item(T)
    product = Product(item)
    calls = {
        "max": lambda: streamed(item, Full(), "max"),
        "mass": lambda: streamed(item, Full(), "mass"),
        "causal": lambda: streamed(item, Causal(), "max"),
        "product": product,
    }
    if T == 8_192:
        calls["naive"] = lambda: naive(item)
    seconds = in_turns(calls, repeats)
    bare = "the bare product q @ k.T"
    for reduce in ("max", "mass"):
        name = f"map, full, {reduce} (T={T:,}, one head, 1,024 x 1,024 cells)"
        yield Comparison(name, bare, seconds[reduce], seconds["product"], target)
    yield Comparison(f"map, causal, max (T={T:,})", "the same map, full", seconds["causal"], seconds["max"], 0.55)
    if "naive" in seconds:
        yield Comparison(
            f"map, full, max (T={T:,})",
            "einsum, softmax, max_pool2d of the whole map",
            seconds["max"],
            seconds["naive"],
            None,
        )


def prepared_item(T: int) -> AttentionItem:
    streamed(make_item(2048), Full(), "max")
    item = make_item(T)
    item.query(0), item.key(0)  # looks for NaN once
    return item


def longest_causal(item: AttentionItem) -> object:
    return streamed(item, Causal(), "max")


@benchmark
def map_memory() -> Iterator[Comparison]:
    taken = peak_extra_bytes(partial(prepared_item, LONGEST), longest_causal)
    name = f"map, causal, max (T={LONGEST:,}): peak extra memory"
    yield Comparison(name, "512 MiB", [taken], [512 * 2**20], 1.0, "bytes")


@benchmark
def map_against_tiles() -> Iterator[Comparison]:
    """Maps against the tiled product, D = 64 and 128: what exp, sums and bins add to it."""
    for D, target in ((64, 1.85), (128, 1.5)):
        item = make_item(32_768, D)
        for pattern in (Full(), Causal()):
            calls = {reduce: partial(streamed, item, pattern, reduce) for reduce in ("max", "mass")}
            seconds = in_turns({**calls, "tiles": Tiles(item, causal=isinstance(pattern, Causal))}, 3)
            for reduce in calls:
                name = f"map, {pattern}, {reduce} (T=32,768, D={D})"
                yield Comparison(name, "the product of the same tiles", seconds[reduce], seconds["tiles"], target)


SIZES = (8_192, 16_384, 32_768, 65_536, LONGEST)


@benchmark
def map_growth() -> Iterator[Comparison]:
    """Time and memory over T: four times the time, and no more memory than the longer inputs, for twice the tokens."""
    seconds, taken = {}, {}
    for T in SIZES:
        item = make_item(T)
        seconds[T] = in_turns({"full": lambda item=item: streamed(item, Full(), "max")}, 1)["full"]  # type: ignore[misc]
        taken[T] = [peak_extra_bytes(partial(prepared_item, T), longest_causal)]
    for small, large in pairwise(SIZES):
        name, against = f"map, full, max (T={large:,})", f"the same at T={small:,}"
        yield Comparison(name, f"{against}: quadratic is 4", seconds[large], seconds[small], None)
    for small, large in pairwise(SIZES):
        name, against = f"map, causal, max (T={large:,}): peak extra memory", f"the same at T={small:,}"
        yield Comparison(name, f"{against}: flat is 1", taken[large], taken[small], None, "bytes")


@benchmark
def map_against_seaborn() -> Iterator[Comparison]:
    """Whole process against whole process, at T = 8,192."""
    with tempfile.TemporaryDirectory() as folder:
        dump, ours, theirs = (Path(folder) / name for name in ("dump.safetensors", "ours.png", "theirs.png"))
        attnviz.save(dump, attnviz.synthesize(heads=1, tokens=8_192))
        commands = {
            "ours": program("plot", dump, "--pattern", "full", "-o", ours),
            "theirs": baseline("seaborn_map", dump, theirs),
        }
        seconds = processes_in_turns(commands, repeats=1)
        memory = {name: peak_of_process(command) for name, command in commands.items()}
    name = "attnviz plot --pattern full (T=8,192), whole process"
    yield Comparison(name, "einsum, softmax, seaborn.heatmap", seconds["ours"], seconds["theirs"], 1 / 15)
    yield Comparison(f"{name}: peak memory", "the same", [memory["ours"]], [memory["theirs"]], 1 / 8, "bytes")


_LAUNCHER = """\
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_of_process(command: list[str | Path]) -> int:
    """The most memory that a process held, in bytes.

    A small launcher starts it: a process counts what it held before exec, as a copy of the one that started it.
    """
    launched = subprocess.run([sys.executable, "-c", _LAUNCHER, *command], check=True, capture_output=True)
    return int(launched.stdout) * (1 if sys.platform == "darwin" else 1024)
