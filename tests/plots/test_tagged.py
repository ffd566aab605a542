"""Grids and overviews of heads that are sorted by what they do, and named by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import attnviz
from attnviz.engine.request import Request
from attnviz.measures.tags import MIXED, TAGS
from attnviz.plots.kinds.overview import Overview
from attnviz.plots.look import Look


def inputs_of(kinds: list[str], T: int = 24) -> attnviz.AttentionWeights:
    """Given weights of heads that do what they are called."""
    weights = torch.zeros(1, len(kinds), T, T, dtype=torch.float64)
    rows = torch.arange(T)
    for head, kind in enumerate(kinds):
        weights[0, head] = 0.3 / T
        at = {"sink": rows * 0, "previous": (rows - 1).clamp(0), "self": rows, "next": (rows + 1).clamp(max=T - 1)}
        if kind in at:
            weights[0, head, rows, at[kind]] += 0.7
    return attnviz.AttentionWeights(weights)


def test_heads_of_one_tag_are_side_by_side_and_named():
    figure = attnviz.plot_heads(inputs_of(["none", "sink", "previous", "self", "sink"]), tags=True)
    names = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert [name.split(" · ")[0] for name in names] == ["head 2", "head 3", "head 1", "head 4", "head 0"]
    said = [name.split(" · ")[1].split()[0] for name in names]
    assert said == ["previous", "self", "sink", "sink", "mixed"]
    assert said == sorted(said, key=[*TAGS, MIXED].index)
    assert float(names[0].split()[-1]) > 0.7


def test_each_panel_is_the_map_that_its_name_says():
    inputs = inputs_of(["none", "sink", "previous"])
    figure = attnviz.plot_heads(inputs, tags=True)
    for ax in figure.axes[:3]:
        head = int(ax.get_title().split()[1])
        np.testing.assert_allclose(ax.images[0].get_array(), inputs.weights[0, head], rtol=1e-6)


def test_heads_of_all_layers_are_sorted_together():
    layers = [inputs_of(["sink", "none"]), inputs_of(["previous", "sink"])]
    kind, look = Overview(tags=True), Look()
    asked = ((n, Request(inputs)) for n, inputs in enumerate(layers))
    figure = kind.draw(kind.compute(asked, 2, "run", look), look)
    names = [ax.get_title().partition(" · ")[0] for ax in figure.axes if ax.get_title()]
    assert names[0] == "layer 1, head 0"
    assert sorted(names[1:3]) == ["layer 0, head 0", "layer 1, head 1"]
    assert names[3] == "layer 0, head 1"


def test_tags_are_of_single_heads_on_one_scale():
    with pytest.raises(attnviz.InputError, match="leave --each out"):
        Overview(each=True, tags=True)
