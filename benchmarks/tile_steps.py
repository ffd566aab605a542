"""What was tried for one tile of a long map, 768 queries by 2,048 keys: each step the way it is done, against another."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.measure import Comparison, benchmark, in_turns

ROWS, KEYS, BINS = 768, 2048, 256
REPEATS = 50


@benchmark
def tile_steps() -> Iterator[Comparison]:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(ROWS, 64, generator=generator), torch.randn(KEYS, 64, generator=generator)
    bound = torch.full((ROWS,), 10.0)
    logits, out = k @ q.T / 8 - bound, torch.empty(KEYS, ROWS)
    half_q, half_k = q.bfloat16(), k.bfloat16()
    hidden = logits.masked_fill(torch.ones(KEYS, ROWS, dtype=torch.bool).triu(), -math.inf)
    pool = torch.eye(BINS).repeat_interleave(KEYS // BINS, dim=1)  # (bins, keys)

    def power(x: Tensor) -> Tensor:
        torch.add(bound, x, alpha=1 / math.log(2), out=out)
        return out.exp2_()

    def in_place() -> tuple[Tensor, Tensor]:
        torch.mm(k, q.T, out=out)
        out.sub_(bound).exp2_()
        return out.unflatten(0, (BINS, -1)).amax(1), out.sum(0)

    def plain(q: Tensor, k: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.exp2(k @ q.T - bound)
        return weights.unflatten(0, (BINS, -1)).amax(1), weights.sum(0)

    # The way kept, then the other.
    steps: dict[tuple[str, str], tuple[Callable[[], object], Callable[[], object]]] = {
        ("exp as a power of two", "exp"): (lambda: power(logits), lambda: torch.sub(logits, bound, out=out).exp_()),
        ("exp as a power of two, half hidden", "exp"): (
            lambda: power(hidden),
            lambda: torch.sub(hidden, bound, out=out).exp_(),
        ),
        ("the bound of Cauchy and Schwarz", "the row maximum as a pass"): (
            lambda: torch.linalg.vector_norm(q, dim=1),
            lambda: logits.amax(0),
        ),
        ("sum over bins of keys", "as a matrix product"): (
            lambda: logits.unflatten(0, (BINS, -1)).sum(1),
            lambda: pool @ logits,
        ),
        ("float32 product", "bfloat16 product, then float32"): (
            lambda: torch.mm(k, q.T, out=out),
            lambda: torch.mm(half_k, half_q.T).float(),
        ),
        ("all in place", "new tensors for each step"): (in_place, lambda: plain(q, k, bound)),
    }
    if shutil.which("g++"):
        compiled = torch.compile(plain)
        steps["all in place", "torch.compile of the same"] = (in_place, lambda: compiled(q, k, bound))
    for (ours, theirs), (kept, other) in steps.items():
        seconds = in_turns({"ours": kept, "theirs": other}, REPEATS)
        yield Comparison(f"one tile: {ours}", theirs, seconds["ours"], seconds["theirs"], None)
