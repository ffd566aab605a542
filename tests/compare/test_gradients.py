"""Gradients, denominators and rows by lot: what else of a kernel is held against the exact formula."""

from __future__ import annotations

import pytest
import torch

from attnviz import AttentionInputs, InputError, assert_attention_close
from attnviz.attention.patterns import Causal, Full, Local, longformer
from attnviz.compare.gradients import gradients
from attnviz.compare.handed import Outputs
from attnviz.compare.kernel import Asked, check_kernel
from attnviz.compare.outputs import exact_attention
from attnviz.engine.visibility import HIDDEN

B, H, H_KV, T, S, D, D_V = 2, 4, 2, 10, 14, 8, 6


def call(pattern, dtype=torch.float64, **settings) -> tuple[AttentionInputs, torch.Tensor, dict[str, torch.Tensor]]:
    """Inputs, the gradient of their context, and what torch's autograd makes of it in float64."""
    draw = torch.Generator().manual_seed(3)
    shapes = ((B, H, T, D), (B, H_KV, S, D), (B, H_KV, S, D_V), (B, H, T, D_V))
    q, k, v, grad = (torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype) for shape in shapes)
    inputs = AttentionInputs(q, k, v, pattern=pattern, **settings)
    leaves = [tensor.double().requires_grad_() for tensor in (q, k, v)]
    wide = [leaves[0], *(tensor.repeat_interleave(H // H_KV, 1) for tensor in leaves[1:])]
    x = wide[0] @ wide[1].transpose(2, 3) * (settings.get("scale") or D**-0.5)
    cap = settings.get("softcap")
    x = x if cap is None else torch.tanh(x / cap) * cap
    seen = pattern.visible(torch.arange(T)[:, None], torch.arange(S)[None], inputs.item())
    made = torch.autograd.grad((x.masked_fill(~seen, HIDDEN).softmax(-1) @ wide[2] * grad.double()).sum(), leaves)
    return inputs, grad, dict(zip(("dq", "dk", "dv"), made, strict=True))


@pytest.mark.parametrize("pattern", [Full(), Causal(), Local(2)], ids=str)
@pytest.mark.parametrize("settings", [{}, {"softcap": 2.0}, {"scale": 0.7}], ids=str)
def test_streamed_gradients_are_those_of_autograd(pattern, settings):
    inputs, grad, right = call(pattern, **settings)
    report = check_kernel(Outputs(inputs, grad=grad, **right))
    assert report.within, report.message()
    assert {(head.what, head.head) for head in report.heads} == {
        *(("dq", h) for h in range(H)),
        *((name, h) for name in ("dk", "dv") for h in range(H_KV)),
    }
    own = gradients(exact_attention(inputs, 1), 3, grad[1, 3])
    torch.testing.assert_close(own.made["dq"], right["dq"][1, 3], atol=1e-12, rtol=1e-12)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["dq", "dk", "dv"])
def test_a_wrong_gradient_is_named_and_a_rounded_one_is_not(name, dtype):
    inputs, grad, right = call(Causal(), dtype)
    given = right[name].to(dtype)
    assert check_kernel(Outputs(inputs, grad=grad, **{name: given})).within
    given[1, 1, 5] *= 1.5
    report = check_kernel(Outputs(inputs, grad=grad, **{name: given}))
    (wrong,) = report.wrong
    assert (wrong.what, wrong.batch, wrong.head, wrong.rows_beyond) == (name, 1, 1, 1)
    assert f"the {name} (causal) is not that of the exact formula" in report.message()


def test_gradients_need_that_of_the_context():
    inputs, _, right = call(Full())
    with pytest.raises(InputError, match="give it too"):
        check_kernel(Outputs(inputs, dq=right["dq"]))
    mask = torch.arange(S) < 1
    wide = AttentionInputs(inputs.q, inputs.k, inputs.v, global_mask=mask.expand(B, S), pattern=longformer(2))
    with pytest.raises(InputError, match="global queries"):
        check_kernel(Outputs(wide, dq=right["dq"], grad=torch.ones(B, H, T, D_V)))


def test_the_fixture_takes_denominators_and_gradients_in_any_layout():
    inputs, grad, right = call(Causal(), torch.float32)
    q, k, v = inputs.q, inputs.k, inputs.v
    x = (q.double() @ k.double().repeat_interleave(2, 1).transpose(2, 3)) * D**-0.5
    seen = Causal().visible(torch.arange(T)[:, None], torch.arange(S)[None], inputs.item())
    total = torch.logsumexp(x.masked_fill(~seen, HIDDEN), -1).float()
    turned = {name: tensor.float().transpose(1, 2) for name, tensor in right.items()}
    how = {
        "v": v.transpose(1, 2),
        "grad": grad.transpose(1, 2),
        "pattern": "causal",
        "layout": "bthd",
        "lse": total,
        **turned,
    }
    assert_attention_close(None, q.transpose(1, 2), k.transpose(1, 2), **how)
    with pytest.raises(AssertionError, match=r"the lse \(causal\) is not that"):
        assert_attention_close(None, q.transpose(1, 2), k.transpose(1, 2), **{**how, "lse": total + 0.01})


@pytest.mark.parametrize("output", ["weights", "context"])
def test_some_rows_are_drawn_and_the_report_says_what_that_may_miss(output):
    inputs, _, _ = call(Full())
    exact = torch.softmax(inputs.q @ inputs.k.repeat_interleave(2, 1).transpose(2, 3) * D**-0.5, -1)
    exact = exact if output == "weights" else exact @ inputs.v.repeat_interleave(2, 1)
    report = check_kernel(Outputs(inputs, **{output: exact}), Asked(rows=4))
    assert report.within
    assert report.note.startswith(
        "4 of 10 queries of each head; missed is a fault in a share of them of 0.001 with probability 1, 0.01"
    )
    one = exact.clone()
    one[:, :, 3] *= 1.01  # in one row of ten: which four are drawn depends on the seed alone
    seen = {
        seed: not check_kernel(Outputs(inputs, **{output: one}), Asked(rows=4, seed=seed, explain=False)).within
        for seed in range(8)
    }
    assert set(seen.values()) == {True, False}
