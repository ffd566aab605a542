"""Capture: what it adds to a forward pass, and the memory of one layer's exact map of a long text."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import attnviz
from benchmarks.measure import Comparison, benchmark, in_turns, peak_extra_bytes

LONG = 8192


def small_llama(layers: int = 4) -> Any:
    """A Llama with random weights under sdpa: 8 heads of 64, 2 key heads."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=1000,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=LONG,
    )
    torch.manual_seed(0)
    return transformers.LlamaModel._from_config(config, attn_implementation="sdpa").eval()


def ids(length: int) -> torch.Tensor:
    return torch.randint(0, 1000, (1, length), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def forward(model: Any, length: int) -> Any:
    return model(ids(length), use_cache=False)[0]


@torch.no_grad()
def captured(model: Any, length: int, **options: Any) -> attnviz.Run:
    with attnviz.capture(model, **options) as run:
        model(ids(length), use_cache=False)
    return run


@benchmark
def capture_time() -> Iterator[Comparison]:
    model, length = small_llama(), 1024
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run.safetensors"
        captured(model, length, out=out)
        data = out.read_bytes()

        def write_bytes() -> None:  # in place of the last ones, once they are whole, as a capture does
            part = Path(folder) / "bytes.part"
            part.write_bytes(data)
            part.replace(Path(folder) / "bytes")

        def plain_and_write() -> None:
            forward(model, length)
            write_bytes()

        seconds = in_turns(
            {
                "plain": lambda: forward(model, length),
                "captured": lambda: captured(model, length),
                "plain and write": plain_and_write,
                "to a file": lambda: captured(model, length, out=out),
            },
            repeats=15,
        )
    size = f"Llama, 4 layers, T={length}, sdpa"
    yield Comparison(f"capture ({size})", "plain forward pass", seconds["captured"], seconds["plain"], 1.15)
    yield Comparison(
        f"capture to a file ({size})",
        f"plain forward pass, then writing the same {len(data) / 1e6:.0f} MB",
        seconds["to a file"],
        seconds["plain and write"],
        1.15,
    )


def prepare() -> Any:
    """The model, in a process whose threads and kernels have run once."""
    model = small_llama(layers=1)
    run = captured(model, 256)
    attnviz.attention_map(run.inputs(0), head=0)
    return model


def capture_and_map(model: Any) -> None:
    run = captured(model, LONG, layers=[0])
    attnviz.attention_map(run.inputs(0), head=0)


def square(size: int) -> torch.Tensor:
    return torch.ones(2, size, size)


def prepare_square() -> int:
    square(256)
    return LONG


@benchmark
def capture_memory() -> Iterator[Comparison]:
    yield Comparison(
        f"capture and exact map of a layer, peak memory (Llama, T={LONG}, sdpa)",
        "one head's T x T in float32, twice",
        [peak_extra_bytes(prepare, capture_and_map)],
        [peak_extra_bytes(prepare_square, square)],
        1.0,
        "bytes",
    )
