"""What capture says of rotary embedding: held against queries of the same tokens elsewhere, which must have turned so."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

import attnviz
from attnviz.attention.rotary import Rotary
from attnviz.captures.rotary import Turning
from tests.captures.tiny import tiny

transformers = pytest.importorskip("transformers")

FAMILIES = {  # the layout, the first dimension that turns, how many of them and of how many
    "LlamaConfig": ("halves", 0, 8, 8),
    "GPTNeoXConfig": ("halves", 0, 2, 8),
    "GPTJConfig": ("interleaved", 0, 4, 8),
    "CohereConfig": ("interleaved", 0, 8, 8),
    "DeepseekV3Config": ("halves", 8, 8, 16),
    "Glm4Config": ("interleaved", 0, 4, 8),
    "Llama4TextConfig": ("interleaved", 0, 8, 8),
    "GptOssConfig": ("halves", 0, 8, 8),
}


def model(name: str, **given: Any) -> Any:
    torch.manual_seed(0)
    config = tiny(getattr(transformers, name))
    for key, value in given.items():
        setattr(config, key, value)
    return transformers.AutoModel.from_config(config).eval()


def captured(of: Any, ids: Tensor, **given: Any) -> attnviz.Run:
    with torch.no_grad(), attnviz.capture(of) as run:
        of(ids, **given)
    return run


def turned(q: Tensor, rotary: Rotary, by: Tensor) -> Tensor:
    """Queries (H, T, D) as they would be ``by`` (T,) positions farther, a pair at a time, in float64."""
    made = q.double().clone()
    for (a, b), frequency in zip(rotary.pairs, rotary.frequencies, strict=True):
        angle = by.double() * frequency
        made[..., a] = q[..., a].double() * angle.cos() - q[..., b].double() * angle.sin()
        made[..., b] = q[..., b].double() * angle.cos() + q[..., a].double() * angle.sin()
    return made


@pytest.mark.parametrize("name", FAMILIES)
def test_queries_farther_on_are_turned_by_what_capture_says_and_by_no_other_layout(name: str) -> None:
    of, ids = model(name), torch.arange(5, 16)[None]
    here = captured(of, ids).inputs(0)
    there = captured(of, ids, position_ids=torch.arange(11)[None] + 40).inputs(0)
    layout, first, dims, D = FAMILIES[name]
    rotary = here.rotary
    assert rotary is not None
    assert rotary == there.rotary
    assert (rotary.layout, rotary.first, 2 * len(rotary.frequencies), here.D) == (layout, first, dims, D)
    far = torch.full((11,), 40)
    for mine, moved in ((here.q, there.q), (here.k, there.k)):
        assert torch.allclose(turned(mine[0], rotary, far), moved[0].double(), atol=2e-5)
        if dims > 2:
            other = Rotary({"halves": "interleaved"}.get(layout, "halves"), rotary.frequencies, first)
            assert not torch.allclose(turned(mine[0], other, far), moved[0].double(), atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaled_frequencies_are_those_of_the_models_own_buffer(dtype: torch.dtype) -> None:
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}
    found = captured(model("LlamaConfig", rope_parameters=rope).to(dtype), torch.arange(5, 16)[None]).inputs(0).rotary
    assert found is not None
    assert found.frequencies == pytest.approx([10_000 ** (-i / 4) / 4 for i in range(4)], rel=5e-3)


def test_padding_on_the_left_and_the_steps_of_a_generate_change_nothing() -> None:
    of, ids = (
        transformers.AutoModelForCausalLM.from_config(tiny(transformers.LlamaConfig)).eval(),
        torch.arange(10, 32).reshape(2, 11),
    )
    there = torch.ones_like(ids)
    there[0, :4] = 0
    with torch.no_grad(), attnviz.capture(of) as run:
        of.generate(ids, attention_mask=there, max_new_tokens=3, do_sample=False)
    rotary = run.inputs(0).rotary
    assert rotary is not None
    assert rotary.layout == "halves"
    assert rotary.frequencies == pytest.approx([1, 0.1, 0.01, 0.001])


def test_a_model_or_layer_without_says_nothing_and_a_dump_keeps_what_each_layer_has(tmp_path: Any) -> None:
    ids = torch.arange(5, 16)[None]
    assert captured(model("BertConfig"), ids).inputs(0).rotary is None
    run = captured(model("SmolLM3Config", no_rope_layers=[1, 0]), ids)
    said = [run.inputs(layer).rotary for layer in (0, 1)]
    assert said[0] is not None
    assert said[1] is None
    run.save(tmp_path / "run.safetensors")
    assert [attnviz.load(tmp_path / "run.safetensors", layer=layer).rotary for layer in (0, 1)] == said


@pytest.mark.parametrize("ending", ["safetensors", "npz", "pt"])
def test_it_is_saved_with_inputs_and_read_back_the_same(ending: str, tmp_path: Any) -> None:
    q = torch.randn(2, 6, 10)
    rotary = Rotary("interleaved", [1.0, None, 1 / 3], first=4)
    attnviz.save(tmp_path / f"one.{ending}", attnviz.AttentionInputs(q, q, rotary=rotary))
    assert attnviz.load(tmp_path / f"one.{ending}").rotary == rotary


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("halves", "rotary: is 'halves', wanted"),
        ({"layout": "thirds", "frequencies": [1.0]}, "layout 'thirds' is not one of halves, interleaved"),
        ({"layout": "halves", "frequencies": []}, "frequencies is"),
        ({"layout": "halves", "frequencies": ["1"]}, "frequencies hold '1', wanted finite numbers"),
        ({"layout": "halves", "frequencies": [1.0], "first": -1}, "first is -1"),
        ({"layout": "halves", "frequencies": [1.0] * 6}, "rotary turns dimensions 0 to 11, and head_dim is 8"),
    ],
)
def test_what_no_version_writes_is_one_line_that_names_the_file(said: Any, error: str, tmp_path: Any) -> None:
    from safetensors.torch import save_file

    q = torch.randn(1, 2, 6, 8)
    metadata = {"format": 1, "layout": "bhtd", "rotary": said}
    save_file({"q": q, "k": q.clone()}, tmp_path / "bad.safetensors", {"attnviz": json.dumps(metadata)})
    with pytest.raises(attnviz.InputError, match=r"bad.safetensors.*rotary") as caught:
        attnviz.load(tmp_path / "bad.safetensors")
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", ["halves", "interleaved"])
def test_layers_that_are_given_the_same_factors_are_each_held_against_their_kernel(layout: str) -> None:
    torch.manual_seed(0)
    (H, T, D), turning = (2, 9, 8), Turning()
    said = [Rotary(layout, [1.0, 0.5, 0.1, 0.02]), Rotary(layout, [0.7, 0.4, 0.2, 0.05])]
    place = {dim: n for n, pair in enumerate(said[0].pairs) for dim in pair}
    factors = torch.stack(
        [torch.arange(T)[:, None] * torch.tensor([said[0].frequencies[place[d]] for d in range(D)])] * 2
    )
    cosines, sines = factors[0].cos()[None, None], factors[1].sin()[None, None]
    sign = torch.tensor([-1.0 if dim in {a for a, _ in said[0].pairs} else 1.0 for dim in range(D)])
    other = torch.tensor([b if d == a else a for d in range(D) for a, b in said[0].pairs if d in (a, b)])

    def layer() -> list[Tensor]:
        made = []
        for x in torch.randn(2, 1, H, T, D):
            turned_by = x[..., other] * sign
            turning.heard((x, cosines))
            turning.heard((turned_by, sines))
            made.append(x * cosines + turned_by * sines)
        return made

    def found(q: Tensor, k: Tensor) -> Rotary | None:
        return turning.of(q, k, [torch.tensor(one.frequencies) for one in said])

    for seen in (lambda q, k: (q, k), lambda q, k: (3 * q, k), lambda q, k: (q, torch.cat([k, k], 2))):
        assert _near(found(*seen(*layer())), said[0])
    for seen in (lambda q, k: (k.flip(2), k), lambda q, k: (q, torch.randn_like(k)), lambda q, k: (-q, k)):
        assert found(*seen(*layer())) is None
    angles = torch.arange(T)[:, None] * torch.tensor([said[1].frequencies[place[d]] for d in range(D)])
    cosines.copy_(angles.cos())
    sines.copy_(angles.sin())
    for _ in range(2):
        assert _near(found(*layer()), said[1])


def _near(found: Rotary | None, said: Rotary) -> bool:
    return found is not None and found.layout == said.layout and found.frequencies == pytest.approx(said.frequencies)


def test_products_of_other_kinds_are_passed_over() -> None:
    turning, x = Turning(), torch.ones(1, 2, 3, 4)
    nested = torch.nested.nested_tensor([torch.ones(2, 3, 4)], layout=torch.jagged)
    for one in (x[:0], x.int(), x[:, :, :1], x.to("meta"), x.to_sparse(), nested, 2):
        turning.heard((one, one))
        assert turning.of(x, x, []) is None
