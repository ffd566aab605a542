"""Maps of any length: streamed and reduced, against the bare product of the same size and what people do now."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

import attnviz
from attnviz.attention import AttentionItem
from attnviz.patterns import Causal, Full, Pattern
from attnviz.reductions import bin_edges, reduce_map
from benchmarks.measure import Comparison, baseline, benchmark, in_turns, peak_extra_bytes, processes_in_turns
from benchmarks.measure import attnviz as program

CELLS = 1024
LONGEST = 131_072


def make_item(T: int) -> AttentionItem:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, T, 64, generator=generator) for _ in range(2))
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


def naive(item: AttentionItem) -> Tensor:
    """Einsum, softmax and pooling of the whole map."""
    scores = torch.einsum("td,sd->ts", item.query(0), item.key(0)) * item.scale
    weights = torch.softmax(scores, dim=-1)
    return torch.nn.functional.max_pool2d(weights[None, None], item.T // CELLS)


@benchmark
def map_time() -> Iterator[Comparison]:
    for T, repeats, target in ((8_192, 9, 2.0), (32_768, 2, 1.4)):
        yield from _against_product(T, repeats, target)


@benchmark
def longest_map() -> Iterator[Comparison]:
    yield from _against_product(LONGEST, 1, 1.4)


def _against_product(T: int, repeats: int, target: float) -> Iterator[Comparison]:
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


def longest_item() -> AttentionItem:
    streamed(make_item(2048), Full(), "max")
    item = make_item(LONGEST)
    item.query(0), item.key(0)  # looks for NaN once
    return item


def longest_causal(item: AttentionItem) -> object:
    return streamed(item, Causal(), "max")


@benchmark
def map_memory() -> Iterator[Comparison]:
    taken = peak_extra_bytes(longest_item, longest_causal)
    name = f"map, causal, max (T={LONGEST:,}): peak extra memory"
    yield Comparison(name, "512 MiB", [taken], [512 * 2**20], 1.0, "bytes")


@benchmark
def map_growth() -> Iterator[Comparison]:
    """Time over T: four times for twice the tokens."""
    sizes = (8_192, 16_384, 32_768)
    items = {T: make_item(T) for T in sizes}
    seconds = in_turns({f"{T}": lambda T=T: streamed(items[T], Full(), "max") for T in sizes}, 2)  # type: ignore[misc]
    for small, large in pairwise(sizes):
        yield Comparison(
            f"map, full, max (T={large:,})",
            f"the same at T={small:,}: quadratic is 4",
            seconds[f"{large}"],
            seconds[f"{small}"],
            None,
        )


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


def peak_of_process(command: list[str | Path]) -> int:
    """The most memory that a process held, in bytes."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return usage.ru_maxrss * 1024
