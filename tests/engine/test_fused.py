"""The map in one kernel, in Triton's interpreter where there is no GPU: against the reference, over what it serves."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnviz import AttentionInputs, Causal, Full, GlobalKeys, Local, longformer
from attnviz.attention.patterns import Pattern
from attnviz.base.bins import bin_edges
from attnviz.engine.reducer import Reduced, has_triton, reduce_fused
from tests import reference
from tests.reference import Rule
from tests.strategies import Call, normal, pattern_of

if not has_triton():
    pytest.skip("no Triton that the kernel is written for", allow_module_level=True)
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no GPU, and not Triton's interpreter", allow_module_level=True)

from attnviz.engine.fused import FusedMap, Launch  # after the interpreter is chosen

SMALL = Launch(16, 16, 4, 2)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
U = 2.0**-24
RULES: dict[str, Rule] = {
    "full": ("full",),
    "causal": ("causal",),
    "local": ("local", 3, 1),
    "wide": ("local", 20, 1),
    "causal local": ("and", ("local", 5, 1), ("causal",)),
}
PATTERNS = {name: pattern_of(rule) for name, rule in RULES.items()}
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def fused(inputs: AttentionInputs, pattern: Pattern, head: int, *edges: np.ndarray, **settings) -> Reduced:
    found = reduce_fused(
        inputs.item(device=torch.device(DEVICE)),
        pattern,
        head,
        *edges,
        **{"reductions": ("max", "mass"), "launch": SMALL, **settings},
    )
    assert found is not None
    return found


@dataclass(frozen=True)
class Exact:
    """What the reference, loops in float64, gives of the inputs as they are rounded."""

    max: np.ndarray
    mass: np.ndarray
    counts: np.ndarray
    log_sum_exp: np.ndarray


def exact(inputs: AttentionInputs, pattern: Pattern, head: int, *edges: np.ndarray) -> Exact:
    call = Call(inputs, RULES[next(name for name, one in PATTERNS.items() if one == pattern)], 0)
    bins = [[range(int(a), int(b)) for a, b in pairwise(of)] for of in edges]
    weights, visible = call.expected().weights[head], call.visible(head)
    counts = [int(visible[rows.start : rows.stop].any(1).sum()) for rows in bins[0]]
    cells = [reference.binned(weights, visible, *bins, reduce) for reduce in ("max", "mass")]
    queries = slice(int(edges[0][0]), int(edges[0][-1]))
    return Exact(*cells, np.array(counts), call.log_sum_exp(head)[queries])


def largest_logit(inputs: AttentionInputs) -> float:
    """``L`` of the documentation's bound, of the whole item."""
    q, k = inputs.q.double().abs(), inputs.k.double().abs().repeat_interleave(inputs.H // inputs.H_kv, 1)
    return float((q @ k.mT).max()) * (inputs.scale or inputs.D**-0.5)


def assert_same(found: Reduced, wanted: Exact, L: float) -> None:
    rtol = np.expm1(min(8 * U * (L + 2), 50.0)) + 16 * U
    for one, other in ((found.max, wanted.max), (found.mass, wanted.mass)):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=1e-20)
    np.testing.assert_array_equal(found.counts, wanted.counts)
    np.testing.assert_allclose(found.log_sum_exp, wanted.log_sum_exp, rtol=0, atol=8 * U * (L + 2))


@st.composite
def cuts(draw: st.DrawFn, n: int) -> np.ndarray:
    """Edges of bins over a part of n positions: even ones, or any."""
    first = draw(st.just(0) | st.integers(0, n - 1))
    last = draw(st.just(n) | st.integers(first + 1, n))
    if draw(st.booleans()):
        return bin_edges(range(first, last), draw(st.integers(1, last - first)))
    inner = draw(st.sets(st.integers(first + 1, last - 1), max_size=6)) if last - first > 1 else set()
    return np.array(sorted({first, last, *inner}))


@st.composite
def problems(draw: st.DrawFn) -> tuple[AttentionInputs, Pattern, int, np.ndarray, np.ndarray]:
    T, D, seed = draw(st.integers(1, 40)), draw(st.sampled_from([1, 5, 16, 24])), draw(st.integers(0, 9999))
    S = draw(st.just(T) | st.integers(1, 40))
    H, H_kv = draw(st.sampled_from([(1, 1), (2, 1), (2, 2)]))
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    size = draw(st.sampled_from([0.1, 1.0, 80.0]))
    extra: dict[str, torch.Tensor | float] = {}
    if draw(st.booleans()):
        extra["softcap"] = draw(st.sampled_from([0.5, 30.0]))
    if draw(st.booleans()):
        extra["sinks"] = normal((H,), seed + 2)
    if draw(st.booleans()):
        extra["scale"] = draw(st.floats(0.01, 2.0))
    for name, n in (("key_padding_mask", S), ("query_padding_mask", T)):
        if draw(st.booleans()):
            extra[name] = torch.tensor([draw(st.lists(st.booleans(), min_size=n, max_size=n))])
    q, k = normal((1, H, T, D), seed) * size, normal((1, H_kv, S, D), seed + 1)
    inputs = AttentionInputs(q.to(dtype), k.to(dtype), **extra)
    pattern = PATTERNS[draw(st.sampled_from(sorted(PATTERNS)))]
    return inputs, pattern, draw(st.integers(0, H - 1)), draw(cuts(T)), draw(cuts(S))


@given(problem=problems())
def test_cells_counts_and_denominators_are_those_of_the_whole_map(problem):
    assert_same(fused(*problem), exact(*problem), largest_logit(problem[0]))


@settings(max_examples=8)
@given(problem=problems(), reduce=st.sampled_from(["max", "mass"]))
def test_either_reduction_alone_has_the_same_bits_and_so_has_another_run(problem, reduce):
    both, alone = fused(*problem), fused(*problem, reductions=(reduce,))
    np.testing.assert_array_equal(getattr(alone, reduce), getattr(both, reduce))
    torch.testing.assert_close(alone.denominators, both.denominators, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=8)
@given(problem=problems())
def test_a_part_with_known_denominators_is_that_part_of_the_whole(problem):
    whole = exact(*problem)
    sums = torch.from_numpy(whole.log_sum_exp)
    known = torch.stack([sums, torch.ones_like(sums)], dim=1)
    found = fused(*problem, denominators=known)
    assert found.denominators is known
    assert_same(found, whole, largest_logit(problem[0]))
    assert not (np.nan_to_num(found.max) > 1).any()


@settings(max_examples=5)
@given(problem=problems(), chunk=st.sampled_from([16, 32]))
def test_queries_in_chunks_have_the_bits_of_queries_at_once(problem, chunk):
    inputs, *rest = problem
    # Products of few bits are exact in any order: the interpreter's, numpy's, depends on where a row stands.
    few = {name: (getattr(inputs, name) * 2).round().clamp(-16, 16) / 2 for name in ("q", "k")}
    problem = (replace(inputs, **few), *rest)
    whole = fused(*problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FusedMap, "_chunk", lambda self, memory, shape: chunk)
        parts = fused(*problem)
    np.testing.assert_array_equal(parts.max, whole.max)
    np.testing.assert_allclose(parts.mass, whole.mass, rtol=4 * U)
    torch.testing.assert_close(parts.denominators, whole.denominators, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("cells", [1, 3, 5, 8, 64])
@pytest.mark.parametrize("at", [0, 7, 8, 31, 32, 62, 63])
def test_a_lone_bright_key_stands_in_its_own_cell(cells, at):
    q, k = torch.ones(1, 1, 64, 16), torch.zeros(1, 1, 64, 16)
    k[0, 0, at] = 20.0
    edges = bin_edges(range(64), cells)
    found = fused(AttentionInputs(q.half(), k.half()), Full(), 0, edges, edges)
    column = np.searchsorted(edges, at, side="right") - 1
    np.testing.assert_allclose(found.max[:, column], 1)
    np.testing.assert_allclose(found.mass[:, column], 1)
    assert np.delete(found.max, column, axis=1).max(initial=0) < 1e-20


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_logits_of_80_either_way(dtype, name):
    sign = torch.where(torch.arange(40) % 3 == 0, -1.0, 1.0)
    q, k = torch.full((1, 1, 40, 16), 4.0) * sign[:, None], torch.full((1, 1, 40, 16), 5.0) * sign.flip(0)[:, None]
    inputs = AttentionInputs(q.to(DTYPES[dtype]), k.to(DTYPES[dtype]))  # each logit is 80 or -80
    edges = bin_edges(range(40), 7)
    assert_same(fused(inputs, PATTERNS[name], 0, edges, edges), exact(inputs, PATTERNS[name], 0, edges, edges), 80.0)


def test_queries_that_see_nothing_are_blank():
    q, k = normal((1, 1, 20, 8), 0).float(), normal((1, 1, 20, 8), 1).float()
    hidden = AttentionInputs(q, k, key_padding_mask=torch.arange(20)[None] >= 10)
    edges = bin_edges(range(20), 4)
    found = fused(hidden, Causal(), 0, edges, edges)
    assert np.isnan(found.max[:2]).all()
    assert np.isnan(found.mass[:2]).all()
    np.testing.assert_array_equal(found.counts, [0, 0, 5, 5])
    assert bool(torch.isnan(found.denominators[:10]).all())
    none = fused(AttentionInputs(q, k, key_padding_mask=torch.zeros(1, 20, dtype=torch.bool)), Full(), 0, edges, edges)
    assert np.isnan(none.max).all()


@pytest.mark.parametrize(
    ("pattern", "settings", "why"),
    [
        (longformer(2), {"global_mask": torch.arange(12)[None] == 3}, "not one band"),
        (GlobalKeys(), {"global_mask": torch.arange(12)[None] == 3}, "not one band"),
        (Local(2, 2), {}, "not one band"),
        (Full(), {"bias": torch.zeros(1, 1, 12, 12)}, "there is a bias"),
        (Full(), {"alibi_slopes": torch.ones(1)}, "there are slopes"),
        (Causal(), {"key_positions": torch.arange(12) * 2, "query_positions": torch.arange(12) * 2}, "not one band"),
    ],
)
def test_what_it_cannot_make_it_leaves_and_says_why(pattern, settings, why, caplog):
    caplog.set_level("INFO", "attnviz")
    inputs = AttentionInputs(torch.ones(1, 1, 12, 4), torch.ones(1, 1, 12, 4), **settings)
    edges = bin_edges(range(12), 3)
    assert reduce_fused(inputs.item(), pattern, 0, edges, edges) is None
    assert re.search(f"^head 0: not by the fused kernel: .*{why}$", caplog.messages[-1])
    half = AttentionInputs(torch.ones(1, 1, 12, 4), torch.ones(1, 1, 12, 4))
    assert reduce_fused(half.item(dtype=torch.float64), Full(), 0, edges, edges) is None
    assert reduce_fused(half.item(), Full(), 0, edges, edges, values="logits") is None
    assert reduce_fused(half.item(), Full(), 0, edges, edges, memory=100) is None
