"""Random inputs that are the same, to the bit, on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from attnviz.attention.inputs import AttentionInputs
from attnviz.base.devices import memory_of_machine, parse_dtype
from attnviz.base.errors import InputError, not_one_of
from attnviz.base.runs import repeated

DEFAULT_SOURCE = "synthetic"

STRUCTURES = {
    "sink": "every query attends to key 0",
    "local": "every query attends to keys near its own position",
    "induction": "queries of the second half attend to the token behind their like in the first half",
    "needle": "one query, at three quarters, attends to one key, at one third",
}
"""What :func:`synthesize` can plant, as real heads show it."""


def synthesize(
    *,
    heads: int = 8,
    tokens: int = 10,
    head_dim: int = 64,
    global_positions: Sequence[int] | None = None,
    structure: Sequence[str] = (),
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
        global_positions: key positions that are global, the same for every batch item; None is 0, 3 and 7, as far
            as there are so many tokens.
        structure: what to plant in every head, of :data:`STRUCTURES`.
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
    if heads % kv_heads:
        raise InputError(
            f"synthetic inputs: q has {heads} heads, which is not a multiple of the {kv_heads} heads of k; --heads is to be "
            f"one of --kv-heads"
        )
    if 4 * batch * (heads + 2 * kv_heads) * tokens * head_dim > memory_of_machine():
        raise InputError(
            "synthetic inputs: q, k and v of these sizes take more memory than there is; take fewer tokens or heads"
        )
    if global_positions is None:
        global_positions = [position for position in (0, 3, 7) if position < tokens]
    outside = [position for position in global_positions if not 0 <= position < tokens]
    if outside:
        raise InputError(f"synthetic inputs: global position {outside[0]} is out of range; there are {tokens} tokens")
    mask = torch.zeros(batch, tokens, dtype=torch.bool)
    mask[:, list(global_positions)] = True
    torch_dtype = parse_dtype(dtype)
    assert torch_dtype is not None

    q, k, v = (
        normal((batch, count, tokens, head_dim), seed, stream)
        for stream, count in enumerate((heads, kv_heads, kv_heads))
    )
    if structure:
        plant(q, k, structure, seed)
    return AttentionInputs(
        q.to(torch_dtype),
        k.to(torch_dtype),
        v.to(torch_dtype),
        global_mask=mask,
        tokens=[[f"t{position}" for position in range(tokens)]] * batch,
        source=DEFAULT_SOURCE,
    )


def plant(q: Tensor, k: Tensor, structure: Sequence[str], seed: int) -> None:
    """Turns random q (B, H, T, D) and k (B, H_kv, T, D) into ones whose maps show what ``structure`` names, in place.

    The sink and the needle have a dimension each. The rest hold a code of signs for every key's position; a query
    that carries the code of a position scores high with the keys near it and, in so many dimensions, with no others.
    For ``local`` it carries its own, for ``induction`` that of the token to copy. A tenth of the random numbers stays.

    Raises:
        InputError: an unknown structure, one given twice, or too few dimensions or tokens to hold them.
    """
    for name in structure:
        if name not in STRUCTURES:
            raise not_one_of("structure", name, STRUCTURES)
    if twice := repeated(structure):
        raise InputError(f"structure {twice[0]!r} is given more than once; name each once")
    B, H, T, D = q.shape
    H_kv = k.shape[1]
    n, group = D - 2, H // H_kv
    if n < 30 or T < 8:
        raise InputError(f"structure needs a head_dim of 32 or more and 8 tokens or more; given {D} and {T}")
    peak = 40 * D**0.5  # the dot product of a planted pair: a logit of 40 when the scale is 1 / sqrt(D)
    for tensor in (q, k):
        tensor.mul_(0.1)
        tensor[..., :2] = 0
    if "sink" in structure:
        q[..., 0] = k[..., 0, 0] = peak**0.5
    if "needle" in structure:
        q[:, :, 3 * T // 4, 1] = k[:, :, T // 3, 1] = (2 * peak) ** 0.5  # above all that chance adds
    # Each sign holds for 16 positions, and they turn one after another: near positions share most of them.
    turn = (torch.arange(T)[:, None] + torch.arange(n) * 16 // n) // 16  # (T, n)
    signs = _signs((B, H_kv, int(turn.max()) + 1, n), seed, 3)
    signs = signs.gather(2, turn.expand(B, H_kv, T, n))
    own, strength, half = signs.repeat_interleave(group, dim=1), (peak / n) ** 0.5, T // 2  # own (B, H, T, n)
    copied = own[..., 1 : 1 + T - half, :]
    k[..., 2:] += strength * signs
    if "local" in structure:
        q[..., 2:] += strength * own
    if "induction" in structure:
        q[..., half:, 2:] += strength * copied
    if {"sink", "local", "induction"} <= set(structure):
        # Where two codes agree by chance both their keys score higher by as much; so shall the sink, to stay their like.
        q[..., half:, 0] *= 1 + (own[..., half:, :] * copied).sum(-1) / n


def _signs(shape: tuple[int, ...], seed: int, stream: int) -> Tensor:
    """Random -1 and 1, float32, the same everywhere."""
    count = int(np.prod(shape))
    words = np.random.PCG64(np.random.SeedSequence([seed, stream])).random_raw(-(-count // 64))
    bits = np.unpackbits(words.astype("<u8", copy=False).view(np.uint8), bitorder="little")[:count]
    return torch.from_numpy(bits.astype(np.float32) * 2 - 1).reshape(shape)


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
