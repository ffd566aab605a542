"""Pages of weights that were given, embedded and live: the weights as they are, and nothing of q and k."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from playwright.sync_api import expect

import attnviz
from attnviz import AttentionWeights, InputError
from attnviz.attention.item import AttentionItem
from attnviz.pages.description import PageLayer
from attnviz.pages.encoding import WITHIN
from attnviz.pages.html import page, write_page
from attnviz.pages.viewer import Viewer
from tests.coroutines import run as run_coroutine
from tests.pages.conftest import Opener
from tests.pages.decoding import Page
from tests.strategies import GivenCall, given_calls


def layer_of(weights: AttentionWeights, batch: int = 0) -> PageLayer:
    return PageLayer("0", weights.item(batch), weights.pattern, tuple(range(weights.H)))


@given(given_calls())
def test_weights_of_the_page_are_those_that_were_given(one: GivenCall):
    decoded = Page(b"".join(page([layer_of(one.weights, one.call.batch)], "case")).decode())
    (layer,) = decoded.layers
    assert layer["given"]
    found = decoded.weights(layer)
    sees = one.visible.any(2, keepdims=True)
    wanted = np.where(sees, np.where(one.visible, one.numbers, 0), np.nan)
    np.testing.assert_array_equal(np.isnan(found).any(-1), ~sees[..., 0])
    np.testing.assert_allclose(np.where(sees, found, np.nan), wanted, rtol=0, atol=WITHIN)


def test_weights_below_0_are_refused_by_a_page(tmp_path):
    weights = AttentionWeights(torch.tensor([[[0.5, -0.5]]]), source="mine")
    with pytest.raises(InputError, match="mine: head 0 has weights below 0"):
        write_page(tmp_path / "page.html", [layer_of(weights)], "mine")
    viewer = Viewer([layer_of(weights)], "mine")
    try:
        for ask in (viewer.rectangle(0, 0, range(1), range(2), "weights"), viewer.tile(0, 0, 0, 0, 0, "max")):
            with pytest.raises(InputError, match="mine: head 0 has weights below 0"):
                run_coroutine(ask)
    finally:
        viewer.close()


def test_a_live_page_reads_given_weights_once(monkeypatch):
    """The look at their signs is no pass of its own."""
    read: list[int] = []
    inner = AttentionItem.given_rows

    def counted(self, name, head, rows):
        read.append(len(rows))
        return inner(self, name, head, rows)

    monkeypatch.setattr(AttentionItem, "given_rows", counted)
    viewer = Viewer([layer_of(AttentionWeights(torch.rand(1, 6, 6)))], "mine")
    try:
        run_coroutine(viewer.tile(0, 0, 0, 0, 0, "max"))
    finally:
        viewer.close()
    assert sum(read) == 6


def test_a_live_page_has_weights_and_refuses_the_rest():
    weights = AttentionWeights(torch.rand(2, 6, 6), source="mine")
    viewer = Viewer([layer_of(weights)], "mine")
    try:
        assert viewer.description["layers"][0]["given"]
        found = run_coroutine(viewer.rectangle(0, 1, range(6), range(6), "weights"))
        np.testing.assert_array_equal(found, weights.weights[0, 1].numpy())
        for ask in (viewer.vectors(0, 0, 1, [1]), viewer.rectangle(0, 0, range(2), range(2), "logits")):
            with pytest.raises(InputError, match="holds weights that were given"):
                run_coroutine(ask)
    finally:
        viewer.close()


def test_a_notebooks_page_takes_a_list_of_layers():
    pytest.importorskip("anywidget")
    layers = attnviz.weights.from_attentions([torch.eye(4).expand(1, 2, 4, 4)] * 3)
    assert '"label":"2"' in attnviz.view(layers).run
    assert '"label":"1"' in attnviz.view(layers, layers=[1]).run


@pytest.mark.sweep
def test_the_page_says_that_they_were_given(tmp_path, opened: Opener):
    weights = AttentionWeights(torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(0)))
    write_page(tmp_path / "page.html", [layer_of(weights)], "mine")
    shown = opened(tmp_path / "page.html", "view=map&query=3&key=2").page
    readout = shown.locator(".readout")
    expect(readout).to_have_text(re.compile(r"query 3.*key 2.*weight\s*[\d.]+\s*given, not computed"))
    assert float(readout.locator("[data-value=weight]").inner_text()) == pytest.approx(
        float(weights.weights[0, 0, 3, 2]), abs=WITHIN + 6e-5
    )
    shown.evaluate("location.hash = 'view=query-key&query=3&key=2'")
    expect(shown.get_by_text("These weights were given")).to_be_visible()
