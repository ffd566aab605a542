"""The engine: global weights of a long sequence, against the formula as written and the least a CPU must do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

import attnviz
from benchmarks.measure import Comparison, benchmark, in_turns, peak_extra_bytes


def two_lines(inputs: attnviz.AttentionInputs) -> Tensor:
    """The formula as one writes it: three fresh tensors, (H, T, G)."""
    assert inputs.global_mask is not None
    q, k_global = inputs.q[0], inputs.k[0][:, inputs.global_mask[0]]  # (H, T, D), (H, G, D)
    scores = torch.einsum("htd,hgd->htg", q, k_global) / math.sqrt(inputs.D)
    return torch.softmax(scores, dim=-1)


def floor(inputs: attnviz.AttentionInputs) -> Tensor:
    """One product into fresh memory, softmax in place, (H, T, G)."""
    assert inputs.global_mask is not None
    k_global = inputs.k[0][:, inputs.global_mask[0]] / math.sqrt(inputs.D)  # (H, G, D)
    weights = torch.empty(inputs.H, inputs.T, k_global.shape[1])
    torch.bmm(inputs.q[0], k_global.transpose(1, 2), out=weights)
    return torch.softmax(weights, dim=-1, out=weights)


def engine(inputs: attnviz.AttentionInputs) -> Tensor:
    weights = attnviz.score(inputs, logits=False).weights
    assert weights is not None
    return weights


def first_call(inputs: attnviz.AttentionInputs) -> Tensor:
    """The first call on inputs also looks for NaN and Inf in q and k, once."""
    return engine(replace(inputs))


def make_inputs(H: int = 12, T: int = 65_536, D: int = 64, G: int = 64) -> attnviz.AttentionInputs:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, H, T, D, generator=generator) for _ in range(2))
    mask = torch.zeros(1, T, dtype=torch.bool)
    mask[0, torch.randperm(T, generator=generator)[:G]] = True
    return attnviz.AttentionInputs(q, k, global_mask=mask)


def prepare() -> attnviz.AttentionInputs:
    """The inputs, in a process whose threads and kernels have run once."""
    engine(make_inputs(H=2, T=1024))
    return make_inputs()


@benchmark
def engine_time() -> Iterator[Comparison]:
    inputs = make_inputs()
    ways = {"ours": engine, "first": first_call, "two lines": two_lines, "floor": floor}
    seconds = in_turns({name: lambda way=way: way(inputs) for name, way in ways.items()}, repeats=15)  # type: ignore[misc]
    name = "engine, weights (H=12, T=65,536, D=64, G=64, float32)"
    lines, least = (
        "the formula's two lines: einsum / sqrt(D), softmax",
        "floor: bmm into a fresh output, softmax in place",
    )
    yield Comparison(name, lines, seconds["ours"], seconds["two lines"], 0.6)
    yield Comparison(name, least, seconds["ours"], seconds["floor"], 1.2)
    yield Comparison(f"{name}, first call: with the check for NaN", lines, seconds["first"], seconds["two lines"], None)


@benchmark
def engine_memory() -> Iterator[Comparison]:
    output = 12 * 65_536 * 64 * 4
    name = "engine, weights: peak extra memory, first call"
    yield Comparison(name, "the output itself", [peak_extra_bytes(prepare, engine)], [output], 1.05, "bytes")
