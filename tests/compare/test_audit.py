"""Two runs of a model: the layer where they part first, and what explains it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import attnviz
from attnviz import AttentionInputs, InputError
from attnviz.attention.patterns import Causal, Full, Local
from attnviz.compare.audit import assert_runs_agree, audit


def run(dtype: torch.dtype = torch.float32, noise: float = 0.0, layers: int = 4) -> dict[int, AttentionInputs]:
    """A run: layers of queries, keys and values, each off by some roundings of its size."""
    draw, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)

    def tensor(heads: int) -> torch.Tensor:
        made = torch.randn(1, heads, 20, 8, generator=draw, dtype=torch.float64)
        return (made * (1 + noise * torch.randn(made.shape, generator=other, dtype=torch.float64))).to(dtype)

    return {n: AttentionInputs(tensor(4), tensor(2), tensor(2), pattern=Causal()) for n in range(layers)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_runs_that_differ_by_rounding_agree(dtype):
    found = audit(run(dtype), run(dtype, noise=2 * torch.finfo(dtype).eps / 2))
    assert found.within, found.verdict()
    assert_runs_agree(run(dtype), run(dtype))


def test_the_first_layer_that_parts_is_named_and_those_after_it_are_not():
    one, other = run(), run()
    for layer in (2, 3):
        other[layer] = replace(other[layer], q=other[layer].q * 1.001)
    found = audit(one, other)
    assert (found.first.layer, [layer.within for layer in found.layers]) == ("2", [True, True, False, False])
    assert found.first.tensors["q"] == pytest.approx(1e-3, rel=1e-3)
    assert found.first.tensors["k"] == 0
    assert found.verdict()[0].startswith("the runs part at layer 2: q by 0.001, allowed 1.2e-06")
    with pytest.raises(AssertionError, match="the runs part at layer 2"):
        assert_runs_agree(one, other)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(
    ("change", "line", "fault"),
    [
        ({"scale": 1.0}, "the scale is 0.353553, and 1", "scale"),
        ({"pattern": Full()}, "the pattern is causal, and full", "mask left out"),
        ({"pattern": Local(3) & Causal()}, "the pattern is causal, and local, window 3, causal", None),
    ],
)
def test_a_setting_is_told_and_what_it_does_is_named(change, line, fault):
    one, other = run(), run()
    other[1] = replace(other[1], **change)
    found = audit(one, other)
    assert (found.first.layer, found.first.settings) == ("1", (line,))
    assert fault is None or fault in found.first.findings[0].faults
    assert len([head for head in found.first.heads if not head.within]) == 4


def test_heads_in_the_wrong_order_are_named():
    one, other = run(layers=1), run(layers=1)
    other[0] = replace(other[0], q=other[0].q.flip(1), k=other[0].k.flip(1))
    found = audit(one, other)
    assert "heads swapped" in found.first.findings[0].faults
    assert "heads in reverse" in "\n".join(found.verdict())


def test_two_dumps_and_a_report_for_a_pull_request(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, other = run(), run()
    other[3] = replace(other[3], scale=1.0)
    attnviz.save("a.safetensors", one[0])
    attnviz.save("b.safetensors", replace(one[0], scale=1.0))
    found = audit("a.safetensors", "b.safetensors")
    text = found.markdown()
    assert text.startswith("### Attention: a.safetensors against b.safetensors\n")
    assert "| 0 | 0.0e+00 | 0.0e+00 | 0.0e+00 | " in text
    assert "first to part" in text
    assert "a scale of 1" in text


def test_runs_of_other_models_are_refused():
    small = {0: AttentionInputs(*torch.ones(2, 1, 2, 20, 8))}
    with pytest.raises(InputError, match=r"layer 0: .* has 4 heads but .* has 2; is it another model"):
        audit(run(), small)
    with pytest.raises(InputError, match="have no layer in common: 0, 1 and 7"):
        audit(run(layers=2), {7: run()[0]})


def test_a_layer_that_one_run_alone_has_is_told():
    found = audit(run(layers=3), run(layers=2))
    assert (found.within, found.missing, found.verdict()) == (False, ("2",), ["layer 2 is in one run alone"])


def batched(**changes) -> AttentionInputs:
    """Two items, the first keys of the second of which are padding."""
    draw = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(2, heads, 20, 8, generator=draw) for heads in (4, 2, 2))
    there = torch.arange(20)[None] >= torch.tensor([[0], [6]])
    return replace(AttentionInputs(q, k, v, pattern=Causal(), key_padding_mask=there), **changes)


def test_every_batch_item_is_held_and_the_one_that_parts_is_named():
    one = batched()
    q = one.q.clone()
    q[1] = q[1].flip(0)
    found = audit({0: one}, {0: batched(q=q)})
    assert {(head.batch, head.head) for head in found.first.heads if not head.within} == {(1, h) for h in range(4)}
    assert "4 of 8 heads of 2 batch items; batch item 1, head" in "\n".join(found.verdict())
    assert audit({0: one}, {0: batched(q=q)}, batch=0).within
    with pytest.raises(InputError, match=r"--batch 2: inputs has 2 batch items \(0 to 1\)"):
        audit({0: one}, {0: one}, batch=2)


@pytest.mark.parametrize("fill", [float("nan"), 100.0])
def test_what_stands_in_padding_is_no_difference(fill):
    """A padded query sees nothing, and every library makes other numbers of that."""
    one = batched()
    gone = ~one.key_padding_mask[:, None, :, None]
    changes = {name: getattr(one, name).masked_fill(gone, fill) for name in "qkv"}
    assert audit({0: one}, {0: batched(**changes)}).within


def test_runs_of_other_lengths_are_refused_with_what_to_look_at():
    short = {n: replace(inputs, q=inputs.q[:, :, :12], k=inputs.k[:, :, :12], v=None) for n, inputs in run().items()}
    with pytest.raises(InputError, match=r"has 20 queries but .* has 12; were both runs given the same tokens"):
        audit(run(), short)
