"""Tests of an attention layer and of a kernel: `pytest examples/test_attention.py`."""

import torch

import attnviz
from attnviz.attention.patterns import Causal

DUMP = __file__.replace("test_attention.py", "dump.safetensors")


def kernel(q, k, v):
    """Causal attention a block of queries at a time, as a kernel of your own may do it."""
    out = torch.empty_like(q[..., :1]).expand(*q.shape[:-1], v.shape[-1]).clone()
    T = q.shape[-2]
    for start in range(0, T, 4):
        rows = torch.arange(start, min(start + 4, T))
        scores = q[..., rows, :] @ k.mT / q.shape[-1] ** 0.5
        hidden = torch.arange(T) > rows[:, None]
        out[..., rows, :] = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
    return out


def test_the_layer_attends_as_it_did(attention_snapshot):
    # In a project: attnviz.capture(model, text), or the q and k of a layer.
    attention_snapshot(attnviz.load(DUMP), heads=[0, 3])
    attention_snapshot(attnviz.load(DUMP), heads=[3], pattern=Causal(), name="causal")


def test_the_kernel_computes_the_formula(assert_attention_close):
    inputs = attnviz.load(DUMP)
    out = kernel(inputs.q, inputs.k, inputs.v)
    assert_attention_close(out, inputs.q, inputs.k, v=inputs.v, pattern="causal")


def test_the_kernel_computes_the_formula_in_bfloat16(assert_attention_close):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 128, 32).bfloat16()  # (B, H, T, D) each
    assert_attention_close(kernel(q, k, v), q, k, v=v, pattern="causal")
