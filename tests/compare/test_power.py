"""`make power`: every planted fault in every dtype, length and output, and right kernels over many seeds."""

from __future__ import annotations

import pytest
import torch

from attnviz import assert_attention_close
from tests.faulty import CASES, MISTAKES
from tests.power import DOCS, DTYPES, LENGTHS, SHAPES, plane, planted, red_cases, red_gradients, red_kernels, table

HALF = ("float32", "float16", "bfloat16")


def inputs(dtype: str, T: int, S: int, seed: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    spread = (1.0, 0.2, 5.0)[seed % 3]
    shapes = ((1, 1, T, 32), (1, 1, S, 32), (1, 1, S, 32))
    q, k, v = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes)
    return [tensor.to(DTYPES[dtype]) for tensor in (q * spread, k, v)]


@pytest.mark.power
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_fault_that_can_be_seen_is_red_and_the_docs_say_which_cannot(dtype):
    """The docs have those of bfloat16, which sees least; `python -m tests.power` writes them."""
    found = table(plane([dtype]))
    assert dtype != "bfloat16" or found in DOCS.read_text()


@pytest.mark.power
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_fault_is_named_in_every_case_dtype_and_output(mistake, dtype):
    T = 48
    for name in MISTAKES[mistake][0]:
        one = planted(mistake, name, dtype, T if "transposed" in mistake else 74, T)
        for output in ("weights", "context"):
            if one.visible(output, dtype):
                report = one.check(output, dtype, explain=True)
                named = {fault for finding in report.findings for fault in finding.faults}
                assert mistake.split(":")[0] in named, f"{name}, {output}: {report.message()}"


@pytest.mark.power
@pytest.mark.parametrize(
    ("T", "S", "seeds", "flex"),
    [(2048, 16_384, 7, 0), (1024, 1024, 1000, 23), (7, 1024, 100, 100), (128, 128, 1000, 1000), (16, 16, 1000, 1000)],
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_right_kernels_are_never_red(shape, dtype, T, S, seeds, flex):
    assert red_kernels(dtype, T, S, seeds, shapes=[shape], flex=flex) == []


@pytest.mark.power
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("T", "seeds"), [(16, 700), (128, 210), (512, 14)])
def test_right_gradients_are_never_red(dtype, T, seeds):
    assert red_gradients(dtype, T, seeds) == []


@pytest.mark.power
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("T", "seeds"), [(16, 100), (160, 12)])
def test_right_kernels_of_every_case_are_never_red(dtype, T, seeds):
    """Softcap, bias, ALiBi, sinks, padding and grouped heads among them."""
    assert red_cases(dtype, T, seeds) == []


def test_a_part_of_the_power_right_kernels_of_every_pattern():
    for dtype in HALF:
        assert red_kernels(dtype, 16, 16, 7, threads=(1,)) == []
        assert red_kernels(dtype, 16, 16, 7, threads=(1,), shapes=["causal window"], flex=1) == []
        assert red_gradients(dtype, 12, 7) == []
    assert red_cases("bfloat16", 16, 1) == []


@pytest.mark.sweep
def test_a_part_of_the_power_right_kernels_of_every_case():
    """In every pattern and modifier, in float32 and bfloat16, weights and contexts; `make power` has more of everything."""
    for n, name in enumerate(CASES):
        dtype = ("float32", "bfloat16")[n % 2]
        one = planted("scale: none", name, dtype, 40, 24)
        for output in ("weights", "context"):
            assert one.check(output, dtype, wrong=False).within
            assert not one.check(output, dtype).within


@pytest.mark.sweep
def test_the_part_of_the_power_at_length():
    """One key too many of 513 is red in a half type: the window's edge, at 16,384 keys."""
    one = planted("window of another size: +1", "window", "bfloat16", LENGTHS[-1], 4)
    assert one.visible("weights", "bfloat16")
    assert not one.check("weights", "bfloat16").within
    assert one.check("context", "bfloat16", wrong=False).within
    q, k, v = inputs("bfloat16", 4, LENGTHS[-1], 0)
    with pytest.raises(AssertionError):
        assert_attention_close(torch.zeros_like(q), q, k, v=v)
