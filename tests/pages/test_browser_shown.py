"""What views show: strengths on one scale, what a score is made of, something telling at first, long models by themselves."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Page, expect

from attnviz import AttentionInputs
from attnviz.attention.patterns import Causal, Full, Pattern
from attnviz.pages.description import PageLayer
from attnviz.pages.html import write_page
from tests.pages.conftest import Opener, serving
from tests.pages.test_browser import draw, go, number, reference


def write(path: Path, inputs: AttentionInputs, pattern: Pattern) -> Path:
    write_page(path, [PageLayer("0", inputs.item(), pattern, tuple(range(inputs.H)))], "run.npz")
    return path


def lightness(page: Page, selector: str) -> list[float]:
    """Of each background, 0 to 255."""
    return page.locator(selector).evaluate_all(
        "all => all.map(one => getComputedStyle(one).backgroundColor.match(/[0-9.]+/g).slice(0, 3)"
        ".reduce((sum, part) => sum + Number(part) / 3, 0))"
    )


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    """Head 0 is uniform; head 1 links query 17 to key 4, and all else is even but for the first key."""
    q, k = torch.zeros(2, 24, 8), torch.zeros(2, 24, 8)
    q[1, :, 0] = k[1, 0, 0] = 4
    q[1, 17, 1], k[1, 4, 1] = 10, 10
    return write(tmp_path_factory.mktemp("page") / "heads.html", AttentionInputs(q, k), Full())


@pytest.mark.sweep
def test_a_uniform_head_is_pale_unless_its_largest_is_asked_for(heads, opened: Opener) -> None:
    page = opened(heads, "view=text&head=0&query=17").page
    expect(page.locator(".legend-largest")).to_have_text("largest 0.0417")
    assert min(lightness(page, ".text-token")) > 235
    page.get_by_role("button", name="to largest").click()
    expect(page.locator(".legend-ticks span").last).to_have_text("0.042")
    assert max(lightness(page, ".text-token:not(.bare)")) < 60
    go(page, "view=text&head=1&query=17")
    strongest = page.locator(".strongest button").first
    expect(strongest).to_contain_text("4")
    assert int(np.argmin(lightness(page, ".text-token"))) == 4


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_0_is_the_page_and_what_is_not_visible_is_explained(heads, opened: Opener, dark: bool) -> None:
    page = opened(heads, "view=map&head=1", dark=dark).page
    expect(page.locator(".map-leaflet canvas").first).to_be_visible()
    expect(page.locator(".legend-hidden")).to_have_text("not visible")
    corner = page.locator(".map-leaflet canvas").first.evaluate(
        "canvas => [...canvas.getContext('2d').getImageData(canvas.width / 2, 5, 1, 1).data]"
    )
    assert np.abs(np.subtract(corner[:3], [22, 24, 29] if dark else [255, 255, 255])).max() <= 14
    for view in ("heads", "model", "text"):
        go(page, f"view={view}&head=1&query=17")
        expect(page.locator(".legend figcaption")).to_contain_text("weight")
    go(page, "view=query-key&head=1&query=17&key=4")
    expect(page.locator(".qk-strips-key")).to_contain_text("their largest")


def test_nothing_chosen_opens_on_what_says_something(heads, opened: Opener) -> None:
    page = opened(heads).page  # the head with the clearest link
    expect(page.locator(".thumb[aria-current]")).to_have_attribute("aria-label", "Layer 0, head 1: open its map")
    page.get_by_role("tab", name="Query-key").click()
    expect(page.locator(".qk-name")).to_have_text(["query 17", "key 4"])  # its strongest, neither own nor first
    go(page, "view=query-key&head=1&query=5")
    expect(page.locator(".qk-name")).to_have_text(["query 5", "key 0"])
    go(page, "view=query-key&head=1&key=4")
    expect(page.locator(".qk-name")).to_have_text(["query 17", "key 4"])


def test_a_score_is_the_sum_of_all_that_makes_it(tmp_path, opened: Opener) -> None:
    inputs = AttentionInputs(
        2 * draw(4, 20, 8),
        draw(2, 20, 8, seed=1),
        bias=draw(4, 20, 20, seed=2),
        alibi_slopes=torch.tensor([0.5, 0.1, 0.2, 0.3]),
        sinks=torch.tensor([0.3, -1.0, 2.0, 0.5]),
    )
    wanted = reference(inputs, np.tri(20, dtype=bool))
    page = opened(write(tmp_path / "page.html", inputs, Causal()), "view=query-key&head=2&query=15&key=6").page
    weight = page.locator(".qk-sum [data-value=weight]")
    expect(weight).to_be_visible()
    terms = page.locator(".qk-term").all_inner_texts()
    values = {name: number(value) for value, name in (term.split("\n") for term in terms if "%" not in term)}
    q, k = inputs.q[0, 2, 15].double(), inputs.k[0, 1, 6].double()
    bias = float(inputs.bias[0, 2, 15, 6])
    assert values["sum of 8 products"] == pytest.approx(float(q @ k) / math.sqrt(8), abs=6e-4)
    assert values["bias"] == pytest.approx(bias, abs=6e-4)
    assert values["ALiBi: \u22120.2 \u00d7 distance 9"] == pytest.approx(-1.8, abs=6e-4)
    assert values["logit"] == pytest.approx(wanted.logits[2, 15, 6], abs=6e-4)
    denominator = np.log(np.exp(wanted.logits[2, 15][:16]).sum() + math.exp(2.0))
    assert values["log of the denominator, with the sink"] == pytest.approx(denominator, abs=6e-4)
    assert number(weight.inner_text()) == pytest.approx(wanted.weights[2, 15, 6], abs=6e-5)
    share = next(term for term in terms if "%" in term)
    assert "the sink 2.000 takes of the denominator" in share
    assert float(share.split(" ")[0]) == pytest.approx(100 * math.exp(2.0 - denominator), abs=0.06)
    expect(page.locator(".qk-shared")).to_have_text("head 2 reads key head 1 of 2")


@pytest.mark.sweep
def test_a_long_head_fills_the_model_view_by_itself_some_queries_first(opened: Opener) -> None:
    """And all of them when they are asked for."""
    inputs = AttentionInputs(3 * draw(1, 5500, 2), draw(1, 5500, 2, seed=1))
    with serving(PageLayer("0", inputs.item(), Full(), (0,))) as address:
        it = opened(address, "view=model", offline=False)
        top = it.page.locator(".thumb-top")
        expect(top).to_contain_text("\u2265 ")
        assert not [url for url in it.requests if "/pass/" in url]
        some = number(top.inner_text().removeprefix("\u2265 "))
        it.page.get_by_role("button", name="all heads, all queries").click()
        expect(top).not_to_contain_text("\u2265", timeout=20_000)
        logits = (inputs.q[0, 0] @ inputs.k[0, 0].T).numpy() / np.float32(math.sqrt(2))
        largest = (1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1)).max()
        assert number(top.inner_text()) == pytest.approx(largest, abs=6e-5)
        assert some <= largest
