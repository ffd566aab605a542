"""FlexAttention that a model calls by itself, beside sdpa: captured as what it computes, or refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import flex_attention as of_torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import attnviz
from attnviz import InputError
from attnviz.base.errors import Note
from tests.captures.test_models import weights

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile", "ignore:return_lse is")

B, H, T, D = 2, 4, 10, 8
compiled = torch.compile(flex_attention, backend="eager")
SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625])


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    """Without a compiler, which takes seconds a call."""
    monkeypatch.setattr(of_torch, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


class Attention(nn.Module):
    """Its output is its weights: values of one at each key."""

    def __init__(self, function: Callable[..., Any], keys: int = H, **options: Any) -> None:
        super().__init__()
        self.function, self.keys, self.options = function, keys, options
        self.q, self.k = nn.Linear(H * D, H * D), nn.Linear(H * D, keys * D)

    def forward(self, x: Tensor) -> Tensor:
        q, k = (of(x).unflatten(-1, (-1, D)).transpose(1, 2) for of in (self.q, self.k))
        v = torch.eye(T).expand(B, self.keys, T, T)
        own: Tensor = self.function(q, k, v, **self.options)
        return own


class Model(nn.Module):
    def __init__(self, *layers: Attention) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [layer(x) for layer in self.layers]


def by_name(*args: Any, **kwargs: Any) -> Tensor:
    made: Tensor = flex_attention(*args, **kwargs)
    return made


def causal(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return q >= k


def of_heads(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return ((q - k).abs() < 3) | (b * h == 1)


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("full", {}),
    "another scale": ("full", {"scale": 0.1}),
    "a block mask": ("causal", {"block_mask": create_block_mask(causal, None, None, T, T, device="cpu", BLOCK_SIZE=4)}),
    "a mask a head": ("own mask", {"block_mask": create_block_mask(of_heads, B, H, T, T, device="cpu", BLOCK_SIZE=16)}),
    "a score that hides": ("causal", {"score_mod": lambda s, b, h, q, k: torch.where(q >= k, s, -torch.inf)}),
    "a score that adds": ("full", {"score_mod": lambda s, b, h, q, k: s - SLOPES[h] * (q - k).abs()}),
    "both": (
        "causal",
        {
            "score_mod": lambda s, b, h, q, k: torch.where(q >= k, s + b - 0.3 * k, -torch.inf),
            "block_mask": create_block_mask(causal, None, None, T, T, device="cpu", BLOCK_SIZE=4),
        },
    ),
    "grouped": ("full", {"enable_gqa": True, "keys": 2}),
    "with its log-sum-exp": ("full", {"return_lse": True}),
}


def run_of(model: nn.Module) -> tuple[attnviz.Run, Any]:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(B, T, H * D)
    with torch.no_grad():
        alone = model.eval()(x)
        with attnviz.capture(model) as run:
            output = model(x)
    for a, b in zip(alone, output, strict=True):
        for one, other in zip(a if isinstance(a, tuple) else (a,), b if isinstance(b, tuple) else (b,), strict=True):
            assert one.equal(other)
    return run, output


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize("kind", KINDS)
def test_what_it_computes_beside_sdpa(kind):
    pattern, options = KINDS[kind]
    run, output = run_of(Model(Attention(flex_attention, **options), Attention(F.scaled_dot_product_attention)))
    assert run.layers == [0, 1]
    assert not run.notes
    assert str(run.inputs(0).pattern) == pattern
    for label, own in enumerate(output):
        for b in range(B):
            expected = (own[0] if isinstance(own, tuple) else own)[b]
            torch.testing.assert_close(weights(run.inputs(label), b), expected.double(), atol=1e-6, rtol=0)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("function", [by_name, compiled])
def test_under_whatever_name(function):
    here = inspect.getmodule(Model).__dict__
    before = here["flex_attention"], here["compiled"]
    run, _ = run_of(Model(Attention(function, **KINDS["a block mask"][1])))
    assert [str(run.inputs(label).pattern) for label in run.layers] == ["causal"]
    assert (here["flex_attention"], here["compiled"]) == before


def test_a_score_that_it_has_no_place_for_is_refused_by_name():
    capped = Attention(flex_attention, score_mod=lambda s, b, h, q, k: torch.tanh(s))
    with pytest.raises(InputError, match="its function was given score_mod, which attnviz doesn't know"):
        run_of(Model(capped))
    with pytest.warns(Note, match="layer 0 was refused"):
        run, _ = run_of(Model(capped, Attention(F.scaled_dot_product_attention)))
    assert run.layers == [1]
