"""Patterns, context and statistics: against the bare products over the same band, and torch's own attention."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import attnviz
from attnviz.attention.patterns import Full, Local
from benchmarks.measure import Comparison, benchmark, in_turns, peak_extra_bytes

WINDOW = 256


def make_inputs(H: int, T: int, D: int = 64) -> attnviz.AttentionInputs:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, H, T, D, generator=generator) for _ in range(3))
    return attnviz.AttentionInputs(q, k, v)


def local_inputs() -> attnviz.AttentionInputs:
    attnviz.score(make_inputs(1, 1024), Local(WINDOW), logits=False)
    return make_inputs(12, 65_536)


def local_weights(inputs: attnviz.AttentionInputs) -> Tensor:
    weights = attnviz.score(inputs, Local(WINDOW), logits=False).weights
    assert weights is not None
    return weights


def band_products(inputs: attnviz.AttentionInputs) -> Tensor:
    """The products that cover the band, as Longformer's own code cuts it: w queries against 3 w keys, (H, n, w, 3 w)."""
    H, T, D, w = inputs.H, inputs.T, inputs.D, WINDOW
    n = T // w
    q = inputs.q[0].view(H, n, w, D)
    k = torch.nn.functional.pad(inputs.k[0], (0, 0, w, w))  # (H, T + 2 w, D)
    k = k.as_strided((H, n, 3 * w, D), (k.stride(0), w * D, D, 1))
    out = torch.empty(H, n, w, 3 * w)
    for head in range(H):
        torch.bmm(q[head], k[head].transpose(1, 2), out=out[head])
    return out


@benchmark
def local_time() -> Iterator[Comparison]:
    inputs = local_inputs()
    calls = {"ours": lambda: local_weights(inputs), "bare": lambda: band_products(inputs)}
    seconds = in_turns(calls, repeats=3)
    name = "local weights (H=12, T=65,536, D=64, window 256)"
    yield Comparison(name, "the bare batched products over the same band", seconds["ours"], seconds["bare"], 2.0)


@benchmark
def local_memory() -> Iterator[Comparison]:
    band = 12 * 65_536 * (2 * WINDOW + 1) * 4
    name = "local weights: peak extra memory"
    yield Comparison(name, "the band itself", [peak_extra_bytes(local_inputs, local_weights)], [band], 1.2, "bytes")


@benchmark
def full_context() -> Iterator[Comparison]:
    inputs = make_inputs(8, 4096)
    q, k, v = inputs.q, inputs.k, inputs.v
    assert v is not None
    calls = {
        "ours": lambda: attnviz.context(inputs, Full()),
        "torch": lambda: scaled_dot_product_attention(q, k, v),
    }
    seconds = in_turns(calls, repeats=5)
    yield Comparison(
        "context, full (H=8, T=4,096, D=64)", "scaled_dot_product_attention", seconds["ours"], seconds["torch"], 1.5
    )


def statistics_inputs() -> attnviz.AttentionInputs:
    attnviz.head_statistics(make_inputs(1, 512), Full())
    return make_inputs(1, 16_384)


def all_statistics(inputs: attnviz.AttentionInputs) -> object:
    return attnviz.head_statistics(inputs, Full())


@benchmark
def statistics_memory() -> Iterator[Comparison]:
    taken = peak_extra_bytes(statistics_inputs, all_statistics)
    name = "stats, full (T=16,384, one head): peak extra memory"
    yield Comparison(name, "256 MiB", [taken], [256 * 2**20], 1.0, "bytes")
