"""Kernels that take sequences end to end, or keys in pages: each sequence is held against its own formula."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from attnviz import InputError, assert_attention_close
from attnviz.attention.patterns import Causal

QUERIES, KEYS = [5, 1, 9], [5, 7, 12]
H, H_KV, D = 4, 2, 8


def cu(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int()


def drawn(total: int, heads: int, seed: int) -> torch.Tensor:
    return torch.randn(total, heads, D, generator=torch.Generator().manual_seed(seed))


def context(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    """One sequence, (t, H, D): its queries are the last of its keys."""
    t, s = len(q), len(k)
    mask = torch.ones(t, s, dtype=torch.bool).tril(s - t) if causal else None
    q, k, v = (x.transpose(0, 1) for x in (q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)))
    return scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask)[0].transpose(0, 1)


@pytest.fixture
def call() -> dict[str, torch.Tensor]:
    return {"q": drawn(sum(QUERIES), H, 0), "k": drawn(sum(KEYS), H_KV, 1), "v": drawn(sum(KEYS), H_KV, 2)}


def outputs(call: dict[str, torch.Tensor], causal: bool) -> list[torch.Tensor]:
    parts = zip(*(call[name].split(n) for name, n in (("q", QUERIES), ("k", KEYS), ("v", KEYS))), strict=True)
    return [context(*part, causal) for part in parts]


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("causal", [True, False])
def test_sequences_end_to_end(call, causal):
    out = torch.cat(outputs(call, causal))
    how = {"cu_seqlens_q": cu(QUERIES), "cu_seqlens_k": cu(KEYS), "pattern": "causal" if causal else "full"}
    assert_attention_close(out, **call, **how)
    if not causal:
        return
    out[5, 2, 3] += 0.1  # the one query of the second sequence
    with pytest.raises(AssertionError, match=r"batch 1, head 2: 1 of 8 elements.*query 0, dim 3"):
        assert_attention_close(out, **call, **how)


def test_a_mask_that_is_not_told_apart_by_sequences_is_named(call):
    first = [
        context(q, k, v, False)
        for q, k, v in zip(*(call[n].split(x) for n, x in (("q", QUERIES), ("k", KEYS), ("v", KEYS))), strict=True)
    ]
    with pytest.raises(AssertionError, match="pattern='full': is the mask left out"):
        assert_attention_close(
            torch.cat(first), **call, cu_seqlens_q=cu(QUERIES), cu_seqlens_k=cu(KEYS), pattern=Causal()
        )


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("packed", [True, False])
def test_keys_in_pages(call, packed):
    size, table = 4, torch.tensor([[7, 2, -1], [5, 0, -1], [1, 6, 3]])
    pages = {name: torch.full((8, size, H_KV, D), 99.0) for name in "kv"}
    for b, (k, v) in enumerate(zip(call["k"].split(KEYS), call["v"].split(KEYS), strict=True)):
        for name, part in (("k", k), ("v", v)):
            for n, page in enumerate(part.split(size)):
                pages[name][table[b, n], : len(page)] = page
    how = {"block_table": table, "cache_seqlens": torch.tensor(KEYS), "pattern": "causal"}
    if packed:
        out, q = torch.cat(outputs(call, True)), call["q"]
        how["cu_seqlens_q"] = cu(QUERIES)
    else:  # a decode step: the last query of each
        q = torch.stack([part[-1:] for part in call["q"].split(QUERIES)])  # (B, 1, H, D)
        out, how["layout"] = torch.stack([part[-1:] for part in outputs(call, True)]), "bthd"
    assert_attention_close(out, q, pages["k"], v=pages["v"], **how)
    swapped = table[:, [1, 0, 2]]
    with pytest.raises(AssertionError):
        assert_attention_close(out, q, pages["k"], v=pages["v"], **{**how, "block_table": swapped})


def test_what_cannot_be(call):
    out = torch.cat(outputs(call, False))
    with pytest.raises(InputError, match="cu_seqlens_q is"):
        assert_attention_close(out, **call, cu_seqlens_q=cu([5, 2, 9]), cu_seqlens_k=cu(KEYS))
    with pytest.raises(InputError, match="cu_seqlens_k is"):
        assert_attention_close(out, **call, cu_seqlens_q=cu(QUERIES), cu_seqlens_k=torch.tensor([3, 1]))
    with pytest.raises(InputError, match="block_table and cache_seqlens go together"):
        assert_attention_close(out, **call, block_table=torch.zeros(3, 1, dtype=torch.int64))
    table = {"block_table": torch.zeros(3, 3, dtype=torch.int64), "cache_seqlens": torch.tensor(KEYS)}
    pages, grad = torch.ones(8, 4, H_KV, D), torch.ones_like(call["q"])
    how = {"cu_seqlens_q": cu(QUERIES), "dk": pages, "grad": grad, **table}
    with pytest.raises(InputError, match="gradients of keys in pages"):
        assert_attention_close(None, call["q"], pages, v=pages, **how)
