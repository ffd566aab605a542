"""Arcs: one for each pair that is seen, back above the text and forward below it, the strongest on top and thickest."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PathCollection

import attnviz
from attnviz import AttentionInputs, InputError
from attnviz.engine.request import Request
from attnviz.plots.kind import drawn
from attnviz.plots.kinds.arcs import Arcs
from attnviz.plots.look import Look
from tests.strategies import calls, normal


def ends(ax) -> list[tuple[float, float, float]]:
    """Where each arc begins, ends and peaks, in tokens from the left and in inches, in the order of drawing."""
    (found,) = (one for one in ax.collections if isinstance(one, PathCollection))
    return [(path.vertices[0, 0], path.vertices[-1, 0], path.vertices[:, 1]) for path in found.get_paths()], found


@given(calls(values=False), st.data())
def test_every_pair_that_is_seen_has_an_arc(call, data):
    head = data.draw(st.integers(0, call.inputs.H - 1))
    request = Request(call.inputs, call.pattern, head, batch=call.batch)
    ax = drawn(Arcs(), request)
    seen, places = call.visible(head), call.places
    own = [places.own_key(t) for t in range(call.inputs.T)]
    pairs = [(own[t], s) for t, s in np.argwhere(seen) if own[t] is not None]
    arcs, found = ends(ax)
    at = [text.get_position()[0] for text in ax.texts]
    rings = sum(a == b for a, b in pairs)
    there = sorted((at.index(a), at.index(b)) for a, b, y in arcs if len(y) == 4)
    assert there == sorted((a, b) for a, b in pairs if a != b)
    assert len(arcs) - len(there) == rings
    for a, b, y in arcs:
        if len(y) == 4:
            assert (y[1] > y[0]) == (b < a)  # back above, forward below
    assert (np.diff(found.get_linewidths()) >= -1e-9).all()


def test_queries_of_another_text_have_a_row_of_their_own():
    inputs = AttentionInputs(
        normal((1, 3, 4), 0), normal((1, 5, 4), 1), cross=True, tokens=[list("abcde")], query_tokens=[["x", "y", "z"]]
    )
    ax = drawn(Arcs(), Request(inputs, "full", 0))
    assert [text.get_text() for text in ax.texts] == ["x", "y", "z", *"abcde"]
    arcs, _ = ends(ax)
    assert len(arcs) == 15
    assert all(y[0] > y[-1] for _, _, y in arcs)


def test_a_part_and_words_and_a_mean_have_arcs():
    inputs = replace(
        attnviz.synthesize(heads=2, tokens=6), tokens=[["a", "##b", "c", "d", "##e", "f"]], token_form="wordpiece"
    )
    words = drawn(Arcs(mean=True), Request(inputs, "causal", merge="words"))
    assert [text.get_text() for text in words.texts] == ["ab", "c", "de", "f"]
    part = drawn(Arcs(), Request(inputs, "causal", 0, queries=range(4, 6), keys=range(2, 6)))
    arcs, _ = ends(part)
    assert len(arcs) == 3 + 4


def test_what_has_no_arcs_is_refused():
    long = attnviz.synthesize(heads=2, tokens=80)
    with pytest.raises(InputError, match="arcs of 80 tokens are a tangle, 64 are the most"):
        drawn(Arcs(), Request(long, "causal", 0))
    with pytest.raises(InputError, match="--arcs shows one head, 2 are asked for"):
        drawn(Arcs(), Request(attnviz.synthesize(heads=2), "causal"))
    with pytest.raises(InputError, match="64 tokens are too many for letters in"):
        drawn(Arcs(), Request(attnviz.synthesize(heads=1, tokens=64), "causal", 0), Look(width="column"))


def test_nothing_visible_draws_the_text_alone():
    mask = torch.zeros(4, 4, dtype=torch.bool)
    inputs = AttentionInputs(normal((1, 4, 3), 0), normal((1, 4, 3), 1), pattern=attnviz.Masked(mask))
    ax = drawn(Arcs(), Request(inputs, None, 0))
    assert ends(ax)[0] == []
    assert len(ax.texts) == 4


@pytest.mark.parametrize("width", [None, "column"])
def test_one_long_token_turns_no_others(width):
    words = [*"abcd", "internationalizations"]
    inputs = replace(attnviz.synthesize(heads=1, tokens=5), tokens=[words])
    ax = drawn(Arcs(), Request(inputs, "full", 0), Look(width=width))
    assert {text.get_rotation() for text in ax.texts} == {0.0}
    ends = [text.get_window_extent() for text in ax.texts]
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(ends))
