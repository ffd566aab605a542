"""Every path to the cells of a map against the formula in float64 loops, where it is hardest: a lone bright weight at an edge of
bins, logits of 80 either way, rows that see nothing; and the same bits from another run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnviz import AttentionInputs, AttentionWeights, Pyramid
from attnviz.base.bins import bin_edges
from attnviz.engine.attention import Computed
from attnviz.engine.head import RowScorer
from attnviz.engine.products import LINEAR, PLAIN, has_linear
from attnviz.engine.reducer import REDUCTIONS, Reduced, Wanted, reduce_map
from attnviz.engine.request import Request
from attnviz.engine.tiles import TileSize
from attnviz.maps.map import map_of
from tests import reference
from tests.ranks import together
from tests.reference import Rule
from tests.strategies import Call, normal

U = 2.0**-24
Numbers = dict[str, np.ndarray]


@dataclass(frozen=True)
class Problem:
    """A call of one head, into how many cells a side its map goes, and the tile that it is made with."""

    call: Call
    pixels: int
    tile: TileSize

    @property
    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        T, S = self.call.inputs.T, self.call.inputs.S
        return bin_edges(range(T), min(T, self.pixels)), bin_edges(range(S), min(S, self.pixels))

    @property
    def L(self) -> float:
        """The largest ``sum |q_i k_i| scale``, of which the documentation's bound is."""
        q, k = (tensor[0, 0].double().abs() for tensor in (self.call.inputs.q, self.call.inputs.k))
        return float((q @ k.T).max()) / math.sqrt(q.shape[1])

    def wanted(self) -> Numbers:
        """Cells, and the logarithm of each query's denominator."""
        weights = self.call.expected().weights[0]
        return self.cells(weights, self.call.visible()) | {"log_sum_exp": self.call.log_sum_exp(0)}

    def cells(self, values: np.ndarray, visible: np.ndarray, pixels: int | None = None) -> Numbers:
        """Values of pairs as cells."""
        T, S = values.shape
        at = range(T), range(S), pixels or self.pixels
        return {reduce: reference.picture(values, visible, *at, reduce) for reduce in REDUCTIONS}


RULES: dict[str, Rule] = {
    "full": ("full",),
    "causal": ("causal",),
    "window": ("local", 2, 1),
    "causal window": ("and", ("local", 3, 1), ("causal",)),
    "dilated": ("local", 2, 2),
    "longformer": ("or", ("or", ("local", 1, 1), ("global",)), ("global queries",)),
    "documents": ("and", ("documents",), ("causal",)),
}


@st.composite
def problems(draw: st.DrawFn, rules: tuple[str, ...] = tuple(RULES), dtype: torch.dtype = torch.float32) -> Problem:
    T, pixels, seed = draw(st.integers(2, 16)), draw(st.integers(1, 9)), draw(st.integers(0, 9999))
    rule = draw(st.sampled_from(rules))
    q, k = normal((1, 1, T, 4), seed).to(dtype), normal((1, 1, T, 4), seed + 1).to(dtype)
    hard = draw(st.sampled_from(["lone", "eighty", "ordinary"]))
    if hard == "lone":
        edges = bin_edges(range(T), min(T, pixels))
        ends = sorted({int(at) for edge in pairwise(edges) for at in (edge[0], edge[1] - 1)})
        q[..., 0], k[..., 0] = 0, 0
        q[0, 0, draw(st.sampled_from(ends)), 0] = k[0, 0, draw(st.sampled_from(ends)), 0] = draw(
            st.sampled_from([3.0, 20.0])
        )
    elif hard == "eighty":
        q, k = (torch.sign(one) * 4 * math.sqrt(2.5) for one in (q, k))  # each logit is 0, 40 or 80, either way
        q, k = (torch.where(torch.arange(4) == 0, one, one.abs()).to(dtype) for one in (q, k))
    more: dict[str, torch.Tensor] = {"global_mask": (torch.arange(T) % 5 == 1)[None]}
    if draw(st.booleans()):
        more["query_padding_mask"] = torch.tensor([draw(st.lists(st.booleans(), min_size=T, max_size=T))])
    if rule == "documents":
        more["documents"] = torch.tensor([sorted(draw(st.lists(st.integers(0, 2), min_size=T, max_size=T)))])
    tile = TileSize(draw(st.integers(1, 20)), draw(st.integers(1, 20)))
    return Problem(Call(AttentionInputs(q, k, **more), RULES[rule], 0), pixels, tile)


def assert_near(found: Numbers, wanted: Numbers, L: float) -> None:
    """Within the bound of the documentation: of cells as of weights, since none is negative."""
    assert found.keys() == wanted.keys()
    for name, numbers in found.items():
        if name == "log_sum_exp":
            np.testing.assert_allclose(numbers, wanted[name], rtol=4 * U, atol=8 * U * (L + 2), err_msg=name)
        else:
            rtol = math.expm1(8 * U * (L + 2)) + 8 * U
            np.testing.assert_allclose(numbers, wanted[name], rtol=rtol, atol=1e-18, err_msg=name)


def numbers(made: Reduced) -> Numbers:
    assert made.max is not None
    assert made.mass is not None
    return {"max": made.max, "mass": made.mass, "log_sum_exp": made.log_sum_exp.numpy()}


def by_tiles(problem: Problem) -> Numbers:
    item = problem.call.inputs.item()
    return numbers(reduce_map(item, problem.call.pattern, 0, *problem.edges, reductions=REDUCTIONS, tile=problem.tile))


def by_the_other_operator(problem: Problem) -> Numbers:
    return by_tiles(replace(problem, tile=replace(problem.tile, operator=LINEAR if has_linear() else PLAIN)))


def by_a_running_maximum(problem: Problem) -> Numbers:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowScorer, "bound", lambda self, q: None)
        return by_tiles(problem)


def by_ranks(problem: Problem) -> Numbers:
    made = Computed(problem.call.inputs.item(), problem.call.pattern), 0, *problem.edges
    return numbers(together(2, lambda rank: rank.reduce_map(*made, Wanted(REDUCTIONS, tile=problem.tile)))[0])


def by_single_weights(problem: Problem, read: Callable[[Pyramid, int, str], np.ndarray]) -> Numbers:
    """Cells of what is read as single weights."""
    T, S = problem.call.inputs.T, problem.call.inputs.S
    pyramid = Pyramid.of(problem.call.inputs, problem.call.pattern)
    pyramid.prepare(0)
    each = [read(pyramid, T, reduce)[:T, :S].astype(np.float64) for reduce in REDUCTIONS]
    np.testing.assert_array_equal(each[0], each[1])
    return problem.cells(each[0], ~np.isnan(each[0]))


def by_tiles_of_a_pyramid(problem: Problem) -> Numbers:
    return by_single_weights(problem, lambda pyramid, T, reduce: pyramid.tile(0, 0, 0, 0, reduce=reduce))


def by_rectangles(problem: Problem) -> Numbers:
    """With the denominators of the whole, from rows and keys cut anywhere."""

    def read(pyramid: Pyramid, T: int, reduce: str) -> np.ndarray:
        at = min(problem.tile.rows, T - 1), min(problem.tile.keys, T - 1)
        (up, down), (left, right) = ((range(cut), range(cut, T)) for cut in at)
        return np.block([[pyramid.rectangle(0, rows, keys) for keys in (left, right)] for rows in (up, down)])

    return by_single_weights(problem, read)


def cells_of(inputs: AttentionInputs | AttentionWeights, problem: Problem, **asked: object) -> Numbers:
    of = {"heads": 0, "pixels": problem.pixels, "every_key": True, **asked}
    pattern = None if isinstance(inputs, AttentionWeights) else problem.call.pattern
    return {reduce: map_of(Request(inputs, pattern, reduce=reduce, **of)).cells for reduce in REDUCTIONS}


def given_weights(problem: Problem) -> AttentionWeights:
    """The weights of the reference as float32, a row that sees nothing blank."""
    weights = torch.from_numpy(problem.call.expected().weights).float()[None]
    return AttentionWeights(weights, pattern=problem.call.pattern, **masks(problem.call.inputs))


def masks(inputs: AttentionInputs) -> dict[str, torch.Tensor | None]:
    return {name: getattr(inputs, name) for name in ("global_mask", "query_padding_mask", "documents")}


def of_given(problem: Problem) -> Numbers:
    weights, visible = given_weights(problem).weights[0, 0].double().numpy(), problem.call.visible()
    return problem.cells(weights, visible)


def runs_of(problem: Problem) -> list[list[int]]:
    """Positions in runs of the tile's rows, which are drawn."""
    T, size = problem.call.inputs.T, problem.tile.rows
    return [list(range(start, min(T, start + size))) for start in range(0, T, size)]


def by_words(problem: Problem) -> Numbers:
    spans = {f"run {n}": range(run[0], run[-1] + 1) for n, run in enumerate(runs_of(problem))}
    return cells_of(problem.call.inputs, problem, spans=spans)


def of_words(problem: Problem) -> Numbers:
    whole, runs = problem.call.expected(), runs_of(problem)
    queries = reference.query_groups(problem.call.places, runs)
    return problem.cells(*reference.merged(whole.weights[0], problem.call.visible(), set(), False, queries, runs))


def by_hidden_keys(problem: Problem) -> Numbers:
    return cells_of(problem.call.inputs, problem, hide=[0])


def of_hidden_keys(problem: Problem) -> Numbers:
    whole, each = problem.call.expected(), [[t] for t in range(problem.call.inputs.T)]
    return problem.cells(*reference.merged(whole.weights[0], problem.call.visible(), {0}, False, each, each))


def cells_wanted(problem: Problem) -> Numbers:
    wanted = problem.wanted()
    return {reduce: wanted[reduce] for reduce in REDUCTIONS}


PATHS: dict[str, tuple[Callable[[Problem], Numbers], Callable[[Problem], Numbers], st.SearchStrategy[Problem]]] = {
    "tiles": (by_tiles, Problem.wanted, problems()),
    "the other operator": (by_the_other_operator, Problem.wanted, problems()),
    "a running maximum": (by_a_running_maximum, Problem.wanted, problems()),
    "bfloat16": (by_tiles, Problem.wanted, problems(dtype=torch.bfloat16)),
    "windows": (by_tiles, Problem.wanted, problems(("window", "causal window", "dilated"))),
    "documents": (by_tiles, Problem.wanted, problems(("documents",))),
    "ranks": (by_ranks, Problem.wanted, problems()),
    "tiles of a pyramid": (by_tiles_of_a_pyramid, cells_wanted, problems()),
    "rectangles": (by_rectangles, cells_wanted, problems()),
    "given weights": (lambda one: cells_of(given_weights(one), one), of_given, problems()),
    "words": (by_words, of_words, problems()),
    "hidden keys": (by_hidden_keys, of_hidden_keys, problems()),
}


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=settings.default.max_examples // 2)
@given(data=st.data())
def test_cells_are_the_formula_and_another_run_gives_the_same_bits(path, data):
    make, want, drawn = PATHS[path]
    problem = data.draw(drawn)
    found = make(problem)
    assert_near(found, want(problem), problem.L)
    for name, again in make(problem).items():
        np.testing.assert_array_equal(again, found[name], err_msg=name)
