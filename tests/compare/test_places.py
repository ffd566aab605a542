"""Where differences lie, in words: planted where it is known beforehand, taken in blocks of any size."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from attnviz.compare.heads import compare
from attnviz.compare.places import Places
from attnviz.compare.sides import Given
from tests.cases import small

T, S = 48, 64
QUERIES, KEYS = torch.arange(T)[:, None], torch.arange(S)
FAR = (QUERIES + S - T - KEYS).abs()
"""How far each pair is apart: the queries are the last positions."""


def said(beyond: Tensor, apart: Tensor | None = None, *, block: int = 7) -> tuple[str, ...]:
    """What is said of pairs (T, S) that differ, by how much; by 1 where nothing else is given."""
    places = Places(T, S, None)
    for first, stop in pairwise([*range(0, T, block), T]):
        rows = torch.arange(first, stop)
        size = torch.ones(len(rows), S, dtype=torch.float64) if apart is None else apart[rows]
        places.add(rows, torch.arange(S), size, beyond[rows])
    return places.described()


@pytest.mark.parametrize("block", [1, 7, T])
@pytest.mark.parametrize("distances", [(0,), (1,), (5,), (2, 9)])
def test_what_lies_at_a_distance_to_either_side_is_there(distances, block):
    there = torch.isin(FAR, torch.tensor(distances))
    assert said(there, block=block) == (f"at |p(t) - p(s)| = {' and '.join(map(str, distances))}",)


@pytest.mark.parametrize(("rest", "named"), [(0.3, True), (0.49, True), (0.51, False), (1.0, False)])
def test_what_moved_less_than_half_as_much_does_not_stand_out(rest, named):
    apart = torch.where(FAR == 3, 1.0, rest).double()
    assert ("at |p(t) - p(s)| = 3" in said(torch.ones(T, S, dtype=torch.bool), apart)) is named


@pytest.mark.parametrize("lost", [torch.nan, torch.inf])
def test_a_pair_without_a_number_stands_out_of_any(lost):
    apart = torch.where(KEYS == 11, lost, 1e30).expand(T, S).double()
    assert said(torch.ones(T, S, dtype=torch.bool), apart) == ("key 11",)


@pytest.mark.parametrize("keys", [(0,), (5,), (2, 40), (1, 2, 3), (0, 7, 9, 63)])
def test_what_lies_in_columns_is_there(keys):
    there = torch.isin(KEYS, torch.tensor(keys)).expand(T, S)
    assert said(there) == (f"key{'s' * (len(keys) > 1)} {', '.join(map(str, keys))}",)


ROWS = {
    "query 7": [7],
    "queries 3 to 9": range(3, 10),
    "queries 0 to 46": range(47),
    "the first query of each 16": range(0, T, 16),
    "the last query of each 16": range(15, T, 16),
    "the last 3 queries of each 16": [row for row in range(T) if row % 16 > 12],
    "the first 2 queries of each 16": [row for row in range(T) if row % 16 < 2],
    "queries 3 to 4 of each 16": [row for row in range(T) if row % 16 in (3, 4)],
    "": range(T),
    " ": [1, 5, 6, 30],
}


@pytest.mark.parametrize("words", ROWS)
def test_what_lies_in_rows_is_there(words):
    there = torch.isin(QUERIES, torch.tensor(list(ROWS[words]))).expand(T, S)
    assert said(there) == ((words,) if words.strip() else ())


def test_nothing_is_nowhere_and_without_an_order_there_are_no_distances():
    assert said(torch.zeros(T, S, dtype=torch.bool)) == ()
    places = Places(6, 6, replace(small(batch=1), cross=True).item())
    places.add(torch.arange(6), torch.arange(6), torch.ones(6, 6), torch.eye(6, dtype=torch.bool))
    assert not places.distances


@pytest.mark.parametrize("lost", [False, True])
def test_a_head_says_where_it_differs(lost):
    weights = torch.full((1, T, S), 1 / S, dtype=torch.float64)
    other = weights.clone()
    other[..., 9] = torch.nan if lost else 0.5
    sides = (Given(tensor, None, None, name) for tensor, name in ((weights, "A"), (other, "B")))
    (head,) = compare(*sides, values="weights").heads
    assert head.where == ("key 9",)
