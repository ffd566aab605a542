"""Rows packed from documents, chunks and blocks, 131,072 tokens long: against the same attention one part after another."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

import attnviz
from attnviz.attention.patterns import Blocks, Causal, Chunked, Documents, Pattern, Prefix
from benchmarks.measure import Comparison, benchmark, in_turns, peak_extra_bytes

TOKENS, DOCUMENTS, CHUNK, BLOCK, QUERIES = 131_072, 64, 2048, 128, 4096


def lengths() -> list[int]:
    """Of 64 documents, from short to long, that fill the row."""
    generator = torch.Generator().manual_seed(0)
    cuts = torch.sort(torch.randperm(TOKENS - 1, generator=generator)[: DOCUMENTS - 1] + 1).values.tolist()
    return [stop - start for start, stop in zip([0, *cuts], [*cuts, TOKENS], strict=True)]


def packed() -> attnviz.AttentionInputs:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, TOKENS, 64, generator=generator) for _ in range(2))
    sizes = torch.tensor(lengths())
    anew = torch.cat([torch.arange(size) for size in sizes.tolist()])
    return attnviz.AttentionInputs(
        q, k, documents=torch.arange(len(sizes)).repeat_interleave(sizes), key_positions=anew
    )


def parts(inputs: attnviz.AttentionInputs, sizes: list[int]) -> list[attnviz.AttentionInputs]:
    """The same, each part by itself."""
    return [
        attnviz.AttentionInputs(q, k)
        for q, k in zip(inputs.q[0].split(sizes, 1), inputs.k[0].split(sizes, 1), strict=True)
    ]


def mapped(inputs: attnviz.AttentionInputs, pattern: Pattern) -> object:
    return attnviz.attention_map(inputs, 0, pattern, reduce="mass")


def sparse() -> Blocks:
    """A diagonal, a first column, and four blocks more in each row of blocks."""
    n = TOKENS // BLOCK
    matrix = torch.rand(n, n, generator=torch.Generator().manual_seed(0)) < 4 / n
    matrix |= torch.eye(n, dtype=torch.bool)
    matrix[:, 0] = True
    return Blocks(matrix, BLOCK)


def bare_blocks(inputs: attnviz.AttentionInputs, pattern: Blocks) -> None:
    """The products of the same blocks, a row of blocks at a time."""
    q, k = inputs.q[0, 0], inputs.k[0, 0].view(-1, BLOCK, 64)
    for row, seen in enumerate(pattern.matrix):
        keys = k[seen].flatten(0, 1)
        torch.softmax(q[row * BLOCK : (row + 1) * BLOCK] @ keys.T, dim=1)


@benchmark
def packed_time() -> Iterator[Comparison]:
    inputs = packed()
    causal = Documents() & Causal()
    alone, chunks = parts(inputs, lengths()), parts(inputs, [CHUNK] * (TOKENS // CHUNK))
    bare = attnviz.AttentionInputs(inputs.q, inputs.k)
    few = attnviz.AttentionInputs(inputs.q[:, :, -QUERIES:], inputs.k)  # every key is seen: the last queries alone
    calls = {
        "packed": lambda: mapped(inputs, causal),
        "alone": lambda: [mapped(one, Causal()) for one in alone],
        "statistics": lambda: attnviz.head_statistics(inputs, causal),
        "statistics alone": lambda: [attnviz.head_statistics(one, Causal()) for one in alone],
        "chunked": lambda: mapped(bare, Chunked(CHUNK) & Causal()),
        "chunks": lambda: [mapped(one, Causal()) for one in chunks],
        "blocks": lambda: mapped(bare, sparse()),
        "bare blocks": lambda: bare_blocks(bare, sparse()),
        "prefix": lambda: mapped(few, Prefix(CHUNK)),
        "causal": lambda: mapped(few, Causal()),
    }
    seconds = in_turns(calls, repeats=3)
    row = f"(T={TOKENS:,}, {DOCUMENTS} documents)"
    each = "each document by itself"
    yield Comparison(f"map, packed and causal, mass {row}", each, seconds["packed"], seconds["alone"], 2.0)
    yield Comparison(f"stats, packed and causal {row}", each, seconds["statistics"], seconds["statistics alone"], 2.0)
    name = f"map, chunks of {CHUNK:,} and causal, mass (T={TOKENS:,})"
    yield Comparison(name, "each chunk by itself", seconds["chunked"], seconds["chunks"], 2.0)
    name = f"map, blocks of {BLOCK}, about 6 a row, mass (T={TOKENS:,})"
    yield Comparison(name, "products and softmax of the same blocks", seconds["blocks"], seconds["bare blocks"], None)
    name = f"map, prefix of {CHUNK:,}, mass ({QUERIES:,} queries, S={TOKENS:,})"
    yield Comparison(name, "causal", seconds["prefix"], seconds["causal"], 1.2)


def prepared() -> attnviz.AttentionInputs:
    inputs = packed()
    mapped(attnviz.synthesize(heads=1, tokens=512), Causal())
    inputs.item().query(0), inputs.item().key(0)  # looks for NaN once
    return inputs


@benchmark
def packed_memory() -> Iterator[Comparison]:
    pattern = Documents() & Causal()
    taken = peak_extra_bytes(prepared, partial(mapped, pattern=pattern))
    name = f"map, packed and causal (T={TOKENS:,}, {DOCUMENTS} documents): peak extra memory"
    yield Comparison(name, "256 MiB", [taken], [256 * 2**20], 1.0, "bytes")
