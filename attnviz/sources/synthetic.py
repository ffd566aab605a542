"""Random inputs that are the same, to the bit, on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from attnviz.attention import AttentionInputs
from attnviz.devices import parse_dtype
from attnviz.errors import InputError

DEFAULT_SOURCE = "synthetic"


def synthesize(
    *,
    heads: int = 8,
    tokens: int = 10,
    head_dim: int = 64,
    global_positions: Sequence[int] = (0, 3, 7),
    batch: int = 1,
    kv_heads: int | None = None,
    dtype: str | torch.dtype = "float32",
    seed: int = 0,
) -> AttentionInputs:
    """Queries, keys and values of about standard normal numbers, with a global mask and token labels.

    Args:
        heads: H query heads.
        tokens: T = S positions.
        head_dim: D.
        global_positions: key positions that are global, the same for every batch item.
        batch: B.
        kv_heads: H_kv key heads, a divisor of ``heads``; None is as many as ``heads``.
        dtype: of q, k and v.
        seed: one seed, one set of tensors.

    Returns:
        Inputs with q (B, H, T, D), k and v (B, H_kv, T, D), global_mask (B, T) and labels ``t0``, ``t1``, ...

    Raises:
        InputError: a size below 1, heads that kv_heads does not divide, or a position out of range.

    >>> synthesize(heads=4, tokens=6, head_dim=8, global_positions=(0,)).q.shape
    torch.Size([1, 4, 6, 8])
    """
    kv_heads = heads if kv_heads is None else kv_heads
    sizes = {"heads": heads, "tokens": tokens, "head_dim": head_dim, "batch": batch, "kv_heads": kv_heads}
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"synthetic inputs: {name} is {size}, wanted at least 1")
    outside = [position for position in global_positions if not 0 <= position < tokens]
    if outside:
        raise InputError(f"synthetic inputs: global position {outside[0]} is out of range; there are {tokens} tokens")
    mask = torch.zeros(batch, tokens, dtype=torch.bool)
    mask[:, list(global_positions)] = True
    torch_dtype = parse_dtype(dtype)
    assert torch_dtype is not None

    def draw(stream: int, count: int) -> Tensor:
        return normal((batch, count, tokens, head_dim), seed, stream).to(torch_dtype)

    return AttentionInputs(
        draw(0, heads),
        draw(1, kv_heads),
        draw(2, kv_heads),
        global_mask=mask,
        tokens=[[f"t{position}" for position in range(tokens)]] * batch,
        source=DEFAULT_SOURCE,
    )


def normal(shape: tuple[int, ...], seed: int, stream: int) -> Tensor:
    """About standard normal float32 numbers, the same bits everywhere.

    Each is a sum of eight 16-bit integers of PCG64's raw stream, centered and scaled (Irwin-Hall, excess kurtosis
    -0.15). numpy and torch promise no such thing of their normal draws, whose logarithms differ in the last bit
    from one processor to another; sums of integers do not.
    """
    count = int(np.prod(shape))
    generator = np.random.PCG64(np.random.SeedSequence([seed, stream]))
    out = np.empty(count, dtype=np.float32)
    deviation = (8 * (2**32 - 1) / 12) ** 0.5
    block = 1 << 20  # numbers at a time: the raw integers take four times the memory of the result
    for start in range(0, count, block):
        size = min(block, count - start)
        words = generator.random_raw(2 * size).astype("<u8", copy=False).view("<u2").reshape(size, 8)
        out[start : start + size] = (words.sum(1, dtype=np.int64) - 4 * 65535) / deviation
    return torch.from_numpy(out.reshape(shape))
