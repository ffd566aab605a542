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


WORD = 4  # tokens of a word


def words_of(tokens: int) -> dict[str, range]:
    return {f"word {n}": range(n, n + WORD) for n in range(0, tokens, WORD)}


def words_and_hidden(inputs: attnviz.AttentionInputs) -> None:
    tokens = inputs.q.shape[2]
    attnviz.attention_map(inputs, 0, PATTERN, spans=words_of(tokens), hide=[0], reduce="mass", pixels=CELLS)


@benchmark
def merged_time() -> Iterator[Comparison]:
    (inputs, *_), tokens = layers(), TOKENS
    row = f"(T={tokens:,}, window {WINDOW}, {CELLS} x {CELLS} cells)"
    how = {"pixels": CELLS, "reduce": "mass"}
    spans = words_of(tokens)
    calls = {
        "tokens": lambda: attnviz.attention_map(inputs, 0, PATTERN, **how),
        "hidden": lambda: attnviz.attention_map(inputs, 0, PATTERN, hide=[0], **how),
        "words": lambda: attnviz.attention_map(inputs, 0, PATTERN, spans=spans, **how),
        "both": lambda: attnviz.attention_map(inputs, 0, PATTERN, spans=spans, hide=[0], **how),
        "renormalized": lambda: attnviz.attention_map(
            inputs, 0, PATTERN, spans=spans, hide=[0], renormalize=True, **how
        ),
    }
    seconds = in_turns(calls, repeats=2)
    each, words = "the map of tokens", "the map of words"
    yield Comparison(f"map, a key hidden, mass {row}", each, seconds["hidden"], seconds["tokens"], 1.5)
    yield Comparison(f"map, {tokens // WORD:,} words, mass {row}", each, seconds["words"], seconds["tokens"], None)
    yield Comparison(f"map, words and a key hidden, mass {row}", words, seconds["both"], seconds["words"], 1.5)
    yield Comparison(
        f"map, words, a key hidden, renormalized, mass {row}", words, seconds["renormalized"], seconds["words"], 1.5
    )


def prepared_words() -> attnviz.AttentionInputs:
    words_and_hidden(layers(1024)[0])
    return layers()[0]


@benchmark
def merged_memory() -> Iterator[Comparison]:
    name = f"map, {TOKENS // WORD:,} words and a key hidden (T={TOKENS:,}): peak extra memory"
    yield Comparison(name, "512 MiB", [peak_extra_bytes(prepared_words, words_and_hidden)], [512 * 2**20], 1.0, "bytes")
