"""Which operator multiplies, and what the process's switches for rounding do: nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import attnviz
from attnviz import AttentionInputs, Causal, Full, longformer
from attnviz.base.bins import bin_edges
from attnviz.engine import products
from attnviz.engine.products import LINEAR, PLAIN, Queries, has_linear, multiply, operator_for, rounds
from attnviz.engine.reducer import REDUCTIONS, reduce_map
from attnviz.engine.tiles import TileSize
from tests.strategies import DTYPES, calls, normal

CPU = torch.device("cpu")


def matmul(value: str) -> None:
    torch.set_float32_matmul_precision(value)


def backend(names: str, value: str) -> None:
    at = torch.backends
    for name in names.split(".")[:-1]:
        at = getattr(at, name)
    setattr(at, names.split(".")[-1], value)


SWITCHES = {
    **{f"set_float32_matmul_precision {value}": (matmul, value) for value in ("high", "medium")},
    **{
        f"{name} {value}": (lambda value, name=name: backend(name, value), value)
        for name in ("fp32_precision", "mkldnn.fp32_precision", "mkldnn.matmul.fp32_precision")
        for value in ("tf32", "bf16")
        if hasattr(torch.backends, "fp32_precision")
    },
    "cuda.matmul.allow_tf32": (lambda value: backend("cuda.matmul.allow_tf32", value), True),
}


def precisions() -> list[tuple[Any, str]]:
    """The switches that this PyTorch has, part by part, and how they stand."""
    names = ("cuda.matmul", "", "mkldnn", "mkldnn.matmul")
    parts = [
        reduce(lambda part, name: getattr(part, name, None), filter(None, at.split(".")), torch.backends)
        for at in names
    ]
    return [(part, part.fp32_precision) for part in parts if hasattr(part, "fp32_precision")]


@contextmanager
def switched(name: str) -> Iterator[None]:
    """One of the switches, turned on; all that it may have moved is put back."""
    before, highest = precisions(), torch.get_float32_matmul_precision()
    turn, value = SWITCHES[name]
    turn(value)
    try:
        yield
    finally:
        if not before:  # of a PyTorch that has the one switch alone
            torch.set_float32_matmul_precision(highest)
        for part, was in before:
            part.fp32_precision = was


def results() -> dict[str, torch.Tensor]:
    """What every road to a number gives, of one small attention."""
    q, k, v = (normal((2, 150, 16), seed).float() for seed in range(3))
    inputs = AttentionInputs(q, k, v, global_mask=torch.arange(150) % 40 == 0)
    found = {}
    for pattern in (Full(), Causal(), longformer(9)):
        scores = attnviz.score(inputs, pattern)
        found[f"score {pattern}"] = torch.nan_to_num(scores.weights)
        found[f"context {pattern}"] = attnviz.context(inputs, pattern)
        found[f"map {pattern}"] = torch.from_numpy(attnviz.attention_map(inputs, 1, pattern, pixels=20).cells)
        means = attnviz.head_statistics(inputs, pattern)[0]
        found[f"statistics {pattern}"] = torch.tensor([means.entropy, means.max_weight])
    return found


@pytest.fixture(scope="module")
def unswitched() -> dict[str, torch.Tensor]:
    return results()


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize("name", SWITCHES)
def test_no_switch_changes_a_result_or_is_changed(unswitched, name):
    with switched(name):
        said = precisions()
        rounding, found = rounds(CPU), results()
        assert precisions() == said
    for key, expected in unswitched.items():
        if rounding:  # another way, in float64
            np.testing.assert_allclose(found[key], expected, rtol=0, atol=1e-6)
        else:
            np.testing.assert_array_equal(found[key], expected, err_msg=key)


@pytest.mark.parametrize("operator", [PLAIN, LINEAR])
@given(data=st.data())
def test_a_product_that_would_round_is_made_in_float64(operator, data):
    b, n, D = (data.draw(st.integers(1, 40)) for _ in range(3))
    q, k = normal((b, D), data.draw(st.integers(0, 99))).float(), normal((n, D), 100).float()
    exact = k.double() @ q.double().T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "rounds", lambda device: True)
        patch.setattr(products, "_linear", lambda: pytest.fail("this one rounds"))
        made = Queries(q, operator=operator).exponents(k, 1.0, lambda: torch.empty(n, b))
        plain = multiply(k, q.T)
    for one in (made, plain):
        assert torch.equal(one, exact.float())


def test_a_processor_that_does_not_round_is_asked_once(monkeypatch):
    asked: list[None] = []
    monkeypatch.setattr(products, "_TRIED", {})
    monkeypatch.setattr(products, "_allowed", lambda device: "bf16")
    monkeypatch.setattr(products, "_rounds_now", lambda: asked.append(None) or False)
    assert [rounds(CPU) for _ in range(3)] == [False] * 3
    assert len(asked) == 1
    assert rounds(torch.device("meta")), "of other devices, what the process allows is believed"


def test_a_product_that_rounds_is_seen(monkeypatch):
    assert not products._rounds_now()
    rounded = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: rounded(a.bfloat16(), b.bfloat16()).float())
    assert products._rounds_now()


# The operator


needs_linear = pytest.mark.skipif(not has_linear(), reason="this build of PyTorch has no such operator")


@pytest.mark.sweep(keep=1)
@needs_linear
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@given(data=st.data())
def test_a_map_is_the_same_whichever_operator_multiplies(dtype, data):
    call = data.draw(calls(DTYPES[dtype], values=False))
    T, S, item = call.inputs.T, call.inputs.S, call.inputs.item(call.batch)
    edges = bin_edges(range(T), min(T, 5)), bin_edges(range(S), min(S, 5))
    made = [
        reduce_map(item, call.pattern, 0, *edges, reductions=REDUCTIONS, tile=TileSize(4, 3, operator))
        for operator in (PLAIN, LINEAR)
    ]
    for name in ("max", "mass", "log_sum_exp"):
        one, other = (getattr(found, name) for found in made)
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2 * call.tolerance)


@needs_linear
@given(data=st.data())
def test_what_becomes_of_logits_is_what_it_says(data):
    b, n, D = (data.draw(st.integers(1, 40)) for _ in range(3))
    q, k, less = normal((b, D), 1).float(), normal((n, D), 2).float(), normal((b,), 3).float()
    expected = (k.double() @ q.double().T * 0.3) * 1.5 - less.double()
    for operator in (PLAIN, LINEAR):
        queries = Queries(q, 1.5, less, operator)
        memory = torch.empty(n, b)
        both = queries.finished_(queries.logits(k, 0.3, torch.empty(n, b)))
        for made in (queries.exponents(k, 0.3, lambda memory=memory: memory), both):
            np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)
            assert made.is_contiguous()


def chosen(monkeypatch, *, times: dict[str, float], off: dict[str, float] | None = None) -> str:
    """Which operator is taken, where they take these times and are off by so much."""
    clock = [0.0]

    def exponents(self, keys, scale, memory):
        clock[0] += times[self.operator]
        return (keys.double() @ self.values.double().T * scale).float() + (off or {}).get(self.operator, 0)

    monkeypatch.setattr(Queries, "exponents", exponents)
    monkeypatch.setattr(products, "has_linear", lambda: True)
    monkeypatch.setattr(products.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(products, "_faster", products._faster.__wrapped__)
    return operator_for(CPU, torch.float32, 1 << 30)


@pytest.mark.parametrize(("linear", "operator"), [(0.5, LINEAR), (0.79, LINEAR), (0.9, PLAIN), (2.0, PLAIN)])
def test_the_other_operator_is_taken_where_it_is_clearly_faster(monkeypatch, linear, operator):
    assert chosen(monkeypatch, times={PLAIN: 1.0, LINEAR: linear}) == operator


def test_the_other_operator_is_not_taken_where_it_is_less_exact(monkeypatch):
    assert chosen(monkeypatch, times={PLAIN: 1.0, LINEAR: 0.1}, off={LINEAR: 1e-4}) == PLAIN


def test_small_maps_and_other_dtypes_are_not_tried(monkeypatch):
    monkeypatch.setattr(products, "_faster", lambda: pytest.fail("tried"))
    assert operator_for(CPU, torch.float32, 4096 * 4096) == PLAIN
    assert operator_for(CPU, torch.float64, 1 << 40) == PLAIN
    assert operator_for(torch.device("meta"), torch.float32, 1 << 40) == PLAIN


def test_two_runs_in_one_process_choose_the_same():
    assert operator_for(CPU, torch.float32, 1 << 30) == operator_for(CPU, torch.float32, 1 << 30)
