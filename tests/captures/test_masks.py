"""What a kernel was told to hide, read from its mask: held to what the kernel itself then does."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import attnviz
from attnviz.attention.patterns import Masked
from attnviz.captures.masks import Mask, Step, block_mask, from_tensor, named, read
from tests.captures.families import FAMILIES, B, ids
from tests.captures.test_models import captured, weights

H, T = 4, 11


def own_mask(heads: int = 1) -> Tensor:
    """(B, heads, T, T) bool; every query sees itself."""
    mask = torch.rand(B, heads, T, T, generator=torch.Generator().manual_seed(0)) < 0.5
    return mask | torch.eye(T, dtype=torch.bool)


class Own(nn.Module):
    """Attention that someone wrote on torch's function."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("heads", [1, H])
def test_a_mask_of_each_head_is_kept_as_one(heads, added):
    x, mask = torch.randn(B, H, T, 8), own_mask(heads)
    given = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min) if added else mask
    with attnviz.capture(Own()) as run:
        output = run._model(x, given)
    inputs = run.inputs(0)
    assert isinstance(inputs.pattern, Masked)
    assert inputs.bias is None
    assert inputs.pattern.mask.equal(mask if heads > 1 else mask[:, 0])
    for b in range(B):
        context = weights(inputs, b).float() @ x[b]
        torch.testing.assert_close(context, output[b], atol=1e-5, rtol=0)


def test_numbers_that_a_mask_adds_besides_stay():
    mask = own_mask(H)
    bias = torch.randn(B, H, T, T)
    heard, left = from_tensor(bias.masked_fill(~mask, -1e4))
    assert heard.visible is not None
    assert heard.visible.equal(mask)
    assert left is not None
    assert left.equal(bias.masked_fill(~mask, 0))


def test_eager_adds_a_boolean_mask_as_it_is():
    """It hides nothing so: True adds 1."""
    model = FAMILIES["Llama"].build("eager")
    mask = own_mask()
    with torch.no_grad(), attnviz.capture(model) as run:
        own = model(ids(), attention_mask=mask, output_attentions=True).attentions
    for label, expected in enumerate(own):
        for b in range(B):
            torch.testing.assert_close(weights(run.inputs(label), b), expected[b].double(), atol=1e-5, rtol=0)


def test_a_mask_that_hides_a_whole_row_leaves_it_blank():
    mask = own_mask()
    mask[:, :, 3] = False
    run, _ = captured(FAMILIES["Llama"].build("sdpa"), {"input_ids": ids(), "attention_mask": mask})
    cells = attnviz.attention_map(run.inputs(0), 0).cells
    assert [bool(torch.from_numpy(row).isnan().all()) for row in cells] == [t == 3 for t in range(T)]


MODS = {
    "causal": lambda b, h, t, s: s <= t,
    "by head": lambda b, h, t, s: (s <= t) & (s >= t - 4 * (h + 1)),
    "by item": lambda b, h, t, s: (s <= t) | (s < 20 * b),
    "window": lambda b, h, t, s: (t - s).abs() <= 9,
}


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("heads", [None, H])
@pytest.mark.parametrize("name", MODS)
def test_a_block_mask_hides_what_flex_attention_hides(name, heads):
    """Of whole blocks, the ``mask_mod`` isn't asked."""
    length = 70
    if name == "by head" and heads is None:
        pytest.skip("flex_attention itself skips blocks by the first head then")
    mask = create_block_mask(MODS[name], B, heads, length, length, device="cpu", BLOCK_SIZE=16)
    shown = block_mask(mask, B, H, length, length)
    assert shown.shape[1] == (H if name == "by head" else 1) or heads
    q, k = torch.randn(2, B, H, length, 16)
    v = torch.eye(length).expand(B, H, -1, -1).contiguous()
    own = flex_attention(q, k, v, block_mask=mask)  # values of one at each key: its weights
    assert (own > 0).equal(shown.expand(B, H, -1, -1))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_pattern_is_read_from_the_mask_of_any_part_of_it(data):
    """One call or several, on a cache or not, with keys that a cache dropped: the same name, or the mask itself."""
    T = data.draw(st.integers(1, 12), "T")
    S = data.draw(st.integers(T, 20), "S")
    causal, window = data.draw(st.booleans()), data.draw(st.none() | st.integers(0, 6))
    t, s = torch.arange(T)[:, None] + S - T, torch.arange(S)
    visible = torch.ones(T, S, dtype=torch.bool)
    if causal:
        visible &= s <= t
    if window is not None:
        visible &= (s - t).abs() <= window
    if not causal and window is None:
        cuts = [0, T]
    else:
        cuts = sorted({0, T, *data.draw(st.lists(st.integers(0, T), max_size=3), "cuts")})
    steps = []
    for start, stop in pairwise(cuts):
        end = S if not causal else S - T + stop
        first = data.draw(st.integers(0, max(0, S - T + start - (window if window is not None else S))))
        part = visible[start:stop, first:end][None, None]
        steps.append(Step(Mask(part), start, stop - start, end - first, end))
    found = read(steps, S, cross=False, window=None if window is None else window + 1)
    inputs = attnviz.AttentionInputs(
        torch.zeros(1, 1, T, 1), torch.zeros(1, 1, S, 1), pattern=found.pattern, key_padding_mask=found.key_padding_mask
    )
    cells = attnviz.attention_map(inputs, 0).cells
    assert (~torch.from_numpy(cells).isnan()).equal(visible)
    if window is not None and causal:
        assert found.pattern == named(True, window)


def test_what_the_first_layer_lacks_it_is_not_given_by_the_next(tmp_path):
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Own(), Own()])

        def forward(self, x: Tensor, bias: Tensor) -> None:
            self.layers[0](x, None)
            self.layers[1](x, bias)

    bias = torch.randn(1, H, T, T)
    with attnviz.capture(Two(), out=tmp_path / "run.safetensors") as run:
        run._model(torch.randn(B, H, T, 8), bias)
    first, second = (attnviz.load(tmp_path / "run.safetensors", layer=layer).bias for layer in range(2))
    assert first is None
    assert second is not None
    assert second.equal(bias)
