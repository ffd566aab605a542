"""A window is never shown as the whole: strongest keys wherever they are, shares outside, what keys receive of all."""

from __future__ import annotations

import math
import re
import threading
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Page, expect

from attnviz import AttentionInputs, Pyramid
from attnviz.attention.patterns import Causal
from attnviz.pages import viewer
from attnviz.pages.description import PageLayer
from attnviz.pages.html import write_page
from tests.pages.conftest import Opener, serving
from tests.pages.test_browser import draw, go, grid, number, wait_for_text

T = 1024


def sinking(tokens: int, key: int, share: float, seed: int = 0) -> AttentionInputs:
    """Late queries give about ``share`` to one key, and the rest evenly but for noise."""
    k = 0.01 * draw(1, tokens, 4, seed=seed)
    k[0, key] = torch.tensor([1.0, 0, 0, 0])
    q = 0.01 * draw(1, tokens, 4, seed=seed + 1)
    q[0, :, 0] = 2 * math.log(share / (1 - share) * tokens)
    return AttentionInputs(q, k)


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A page of 1,024 tokens whose late queries look at key 5, and its weights."""
    inputs = sinking(T, 5, 0.97)
    path = tmp_path_factory.mktemp("page") / "long.html"
    write_page(path, [PageLayer("0", inputs.item(), Causal(), (0,))], "run.npz")
    q, k = (one[0, 0].double().numpy() for one in (inputs.q, inputs.k))
    t, s = grid(T, T)
    shares = np.where(s <= t, np.exp(q @ k.T / 2), 0)
    return path, shares / shares.sum(axis=1, keepdims=True)


def strongest(page: Page) -> list[tuple[int, float]]:
    """What the list of the strongest says: keys and weights."""
    expect(page.locator(".strongest b").first).to_be_visible()
    texts = page.locator(".strongest button").all_inner_texts()
    return [(int(parts[0]), number(parts[1])) for parts in (text.split() for text in texts)]


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("view", ["text", "heads"])
def test_a_window_says_what_it_leaves_out_and_leads_there(long, opened: Opener, view: str) -> None:
    path, weights = long
    page = opened(path, f"view={view}&query=900").page
    expect(page.locator('[data-position="5"]')).to_have_count(0)  # the window is around query 900
    found = strongest(page)
    assert found[0] == (5, pytest.approx(weights[900, 5], abs=6e-5))
    wanted = np.sort(weights[900])[::-1][: len(found)]
    np.testing.assert_allclose([weight for _, weight in found], wanted, rtol=6e-3, atol=6e-5)
    said = page.locator("[data-role=outside]")
    first, end = (
        int(text.replace(",", "")) for text in re.findall(r"keys ([\d,]+)\u2013([\d,]+)", said.inner_text())[0]
    )
    outside = 1 - weights[900, first : end + 1].sum()
    assert float(re.findall(r"[\d.]+", said.inner_text())[0]) == pytest.approx(100 * outside, abs=0.06)
    if view == "text":
        shades = page.locator(".text-token:not(.bare)").evaluate_all(
            "tokens => tokens.map(token => getComputedStyle(token).backgroundColor.match(/[0-9.]+/g).slice(0, 3).map(Number))"
        )
        assert min(min(color) for color in shades) > 240  # weights of 2e-5 are as good as white
    page.locator(".strongest button").first.click()
    key = page.get_by_role("group", name="Keys", exact=True).locator('[data-position="5"]')
    expect(key).to_be_visible()
    expect(page).to_have_url(re.compile(r"\bkeys=0\b"))
    expect(page.get_by_role("group", name="Queries").locator("[aria-pressed=true]")).to_have_count(1)  # still pinned
    if view == "text":
        key.hover()
        wait_for_text(page, "[data-role=text-readout]", r"query 900.*key 5: [\d.]+$")


def test_what_keys_receive_is_of_all_queries(long, opened: Opener) -> None:
    path, weights = long
    page = opened(path, "view=text").page
    expect(page.locator(".legend figcaption")).to_contain_text("from all 1,024 queries")
    causal = np.tri(T, dtype=bool)
    received = np.where(causal, weights, 0).sum(0) / causal.sum(0)
    expect(page.locator(".legend-largest")).to_have_text(re.compile(r"largest 0\.\d+"))
    largest = number(page.locator(".legend-largest").inner_text().split()[-1])
    assert largest == pytest.approx(received.max(), abs=6e-5)
    darkest = page.locator(".text-token").evaluate_all(
        """tokens => tokens.map(token => getComputedStyle(token).backgroundColor.match(/[0-9.]+/g).slice(0, 3))
            .map(color => color.reduce((sum, part) => sum + Number(part), 0))"""
    )
    assert int(np.argmin(darkest)) == int(np.argmax(received))


def test_at_131072_tokens_a_link_from_anywhere_to_anywhere_is_shown(opened: Opener) -> None:
    """No view but the map could: its whole row is one question, and needs no pass."""
    inputs = sinking(131_072, 34_466, 0.6)
    q, k = (one[0, 0].double().numpy() for one in (inputs.q, inputs.k))
    row = np.exp(q[100_000] @ k[:100_001].T / 2)
    row /= row.sum()
    with serving(PageLayer("0", inputs.item(), Causal(), (0,))) as address:
        page = opened(address, "view=text&query=100000", offline=False).page
        for view in ("text", "heads", "query-key"):
            go(page, f"view={view}&query=100000")
            key, weight = strongest(page)[0]
            assert key == 34_466
            assert weight == pytest.approx(row[34_466], abs=6e-5)
        assert page.locator(".pass").count() == 0


LONG = 2500  # more than a map is made of whole


@pytest.fixture(scope="module")
def two_heads() -> tuple[AttentionInputs, np.ndarray]:
    inputs = AttentionInputs(3 * draw(2, LONG, 4), draw(2, LONG, 4, seed=1))
    q, k = (one[0].double().numpy() for one in (inputs.q, inputs.k))
    shares = np.where(np.tri(LONG, dtype=bool), np.exp(q @ k.transpose(0, 2, 1) / 2), 0)
    return inputs, shares / shares.sum(axis=-1, keepdims=True)


@pytest.mark.sweep
@pytest.mark.parametrize("live", [False, pytest.param(True, marks=pytest.mark.matrix)], ids=["file", "server"])
def test_what_is_made_of_long_maps_is_what_the_formula_makes(tmp_path, two_heads, opened: Opener, live: bool) -> None:
    """Keys left out, heads as one, and a difference: single weights, cells of the whole map, and the share."""
    inputs, weights = two_heads
    layer = PageLayer("0", inputs.item(), Causal(), (0, 1))
    with ExitStack() as stack:
        if live:
            where: Path | str = stack.enter_context(serving(layer))
        else:
            where = tmp_path / "page.html"
            write_page(where, [layer], "run.npz")
        page = opened(where, "view=map&head=1&out=first&query=2000&key=7", offline=not live).page
        without = weights[1].copy()
        without[:, 0] = 0
        share = weights[1][:, 0].mean()
        for fragment, truth in {
            "head=1&out=first": without,
            "head=1&out=first&again=1": without[1:] / without[1:].sum(1, keepdims=True),
            "head=0&together=mean-heads": weights.mean(0),
            "head=0&with=0.1&how=difference": weights[0] - weights[1],
        }.items():
            rows = LONG - len(truth)  # the first query sees nothing but the first key
            query, key = 2000, int(np.abs(truth[2000 - rows]).argmax())
            go(page, f"view=map&{fragment}&query={query}&key={key}&scale=linear")
            wait_for_text(page, ".readout", rf"query 2000.*key {key}(?!\d).*(weight|difference) [\u2212\d.e]")
            shown = number(page.locator(".readout [data-value=weight]").first.inner_text())
            assert shown == pytest.approx(truth[2000 - rows, key], abs=2e-3), fragment
            largest = page.locator(".legend-largest")
            expect(largest).to_have_text(re.compile(r"largest (weight|difference) [\u2212\d]"))
            farthest = truth.flat[np.abs(truth).argmax()]
            assert number(largest.inner_text().split()[-1]) == pytest.approx(farthest, abs=2e-3), fragment
        go(page, "view=map&head=1&out=first")
        left = page.locator("[data-role=left-out]")
        expect(left).to_have_text(re.compile(r"[\d.]+ % of the weight"))
        assert float(left.inner_text().split()[0]) == pytest.approx(100 * share, abs=0.5)


def test_a_map_is_there_in_few_cells_while_a_pass_over_it_goes_on(opened: Opener, monkeypatch) -> None:
    inputs = AttentionInputs(draw(1, 300, 4), draw(1, 300, 4, seed=1))
    go_on, prepare = threading.Event(), Pyramid.prepare
    monkeypatch.setattr(Pyramid, "prepare", lambda *args, **options: go_on.wait(30) and prepare(*args, **options))
    monkeypatch.setattr(viewer, "_CHEAP_CELLS", 0)
    with serving(PageLayer("0", inputs.item(), Causal(), (0,))) as address:
        page = opened(address, "view=map", offline=False).page
        expect(page.locator(".map-coarse-said")).to_have_text("so far in few cells, of 64 of 300 queries")
        coarse = page.locator(".map-coarse")
        expect(coarse).to_have_attribute("width", "64")
        first = coarse.evaluate("made => [...made.getContext('2d').getImageData(0, 0, 2, 1).data]")
        assert first[:3] != first[4:7]  # the first of the queries sees the first keys alone
        go_on.set()
        expect(coarse).to_have_count(0)
        expect(page.locator(".map-leaflet canvas").first).to_be_visible()
