"""Maps made of several layers, 131,072 tokens long in a window: against the maps of the layers one by one."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import attnviz
from attnviz.attention.patterns import Causal, Local
from benchmarks.measure import Comparison, benchmark, in_turns, peak_extra_bytes

TOKENS, LAYERS, WINDOW, CELLS = 131_072, 3, 128, 512
PATTERN = Local(WINDOW) & Causal()


def layers(tokens: int = TOKENS) -> list[attnviz.AttentionInputs]:
    generator = torch.Generator().manual_seed(0)
    return [
        attnviz.AttentionInputs(*(torch.randn(1, 1, tokens, 64, generator=generator) for _ in range(3)))
        for _ in range(LAYERS)
    ]


def one_by_one(inputs: list[attnviz.AttentionInputs], reduce: str) -> None:
    for one in inputs:
        attnviz.attention_map(one, 0, PATTERN, reduce=reduce, pixels=CELLS)


@benchmark
def derived_time() -> Iterator[Comparison]:
    inputs = layers()
    row = f"(T={TOKENS:,}, window {WINDOW}, {CELLS} x {CELLS} cells)"
    how = {"pixels": CELLS, "reduce": "mass"}
    calls = {
        "each": lambda: one_by_one(inputs, "mass"),
        "mean": lambda: attnviz.attention_map(inputs, 0, PATTERN, mean="layers", **how),
        "largest of mean": lambda: attnviz.attention_map(inputs, 0, PATTERN, mean="layers", pixels=CELLS),
        "rollout": lambda: attnviz.attention_map(inputs, 0, PATTERN, rollout=True, **how),
        "norms": lambda: attnviz.attention_map(inputs[0], 0, PATTERN, values="norms", **how),
    }
    seconds = in_turns(calls, repeats=2)
    each = f"the maps of {LAYERS} layers, one by one"
    yield Comparison(f"map, mean of {LAYERS} layers, mass {row}", each, seconds["mean"], seconds["each"], 1.2)
    yield Comparison(
        f"map, mean of {LAYERS} layers, max {row}", each, seconds["largest of mean"], seconds["each"], None
    )
    yield Comparison(f"map, rollout of {LAYERS} layers, mass {row}", each, seconds["rollout"], seconds["each"], None)
    yield Comparison(f"map, norms of one layer, mass {row}", each, seconds["norms"], seconds["each"], None)


def prepared() -> list[attnviz.AttentionInputs]:
    rollout(layers(1024))
    return layers()


def rollout(inputs: list[attnviz.AttentionInputs]) -> None:
    attnviz.attention_map(inputs, 0, PATTERN, rollout=True, reduce="mass", pixels=CELLS)


@benchmark
def derived_memory() -> Iterator[Comparison]:
    name = f"map, rollout of {LAYERS} layers (T={TOKENS:,}): peak extra memory"
    yield Comparison(name, "512 MiB", [peak_extra_bytes(prepared, rollout)], [512 * 2**20], 1.0, "bytes")
