"""What people write first, as types see it: `make lint` holds it against them, strictly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import attnviz


def arrays() -> None:
    q, k, v = torch.randn(3, 4, 10, 8)
    weights = torch.softmax(q @ k.mT, -1)
    attnviz.plot(q, k, pattern="causal", caption=True)
    attnviz.plot(q.numpy(), k.numpy(), 2)
    attnviz.plot(q, k, global_mask=torch.ones(10, dtype=torch.bool)).set_title("mine")
    attnviz.plot(weights)
    attnviz.plot(weights.numpy(), head=1)
    attnviz.plot([[0.5, 0.5], [0.1, 0.9]])
    attnviz.plot_heads(q, k, heads=[0, 1], pattern="causal").savefig("heads.png")
    attnviz.plot_strip(q, k, query="3", tokens=[f"{n}" for n in range(10)])
    attnviz.plot_comparison(weights, weights)
    attnviz.plot_lesson(q, k, pattern="causal")
    attnviz.score(q, k, v, pattern="causal").values("weights").sum()
    attnviz.score(q=q, k=k)
    attnviz.explain(q, k, pattern="causal").key.weight.as_integer_ratio()
    out = attnviz.context(q, k, v, pattern="causal")
    attnviz.assert_attention_close(out, q, k, v=v, pattern="causal")
    attnviz.take_snapshot(q, k, pattern="causal")


def inputs() -> float | None:
    q, k, v = torch.randn(3, 4, 10, 8)
    one = attnviz.AttentionInputs(q, k, v, tokens=[[f"{n}" for n in range(10)]])
    attnviz.save("one.safetensors", one)
    again = attnviz.load(Path("one.safetensors"), layer=0)
    attnviz.page("one.html", again)
    cells: np.ndarray = attnviz.attention_map(again, 0, attnviz.Causal() & attnviz.Local(3)).cells
    rows = attnviz.head_statistics(again, "causal", heads=(head for head in range(2)))
    attnviz.plot_statistics(rows, "entropy").set_title(f"{cells.shape}")
    attnviz.plot_overview([one, one], pattern="full")
    attnviz.plot_pattern(inputs=one, pattern="causal")
    attnviz.take_snapshot(one, "causal").maps("weights", "max")[0]
    return rows[0].entropy
