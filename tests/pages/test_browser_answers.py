"""No answer stands under another question's name: late, reordered and failing answers, in a live page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np
import pytest
from playwright.sync_api import Error, Page, Route, expect

from attnviz import AttentionInputs
from attnviz.attention.patterns import Causal
from attnviz.pages.description import PageLayer
from tests.pages.conftest import Opener, serving
from tests.pages.test_browser import draw, go, grid
from tests.reference import attend

HEADS = 5


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    """(H, T, S) of the formula."""
    t, s = grid(24, 24)
    return attend(3 * draw(HEADS, 24, 8), draw(HEADS, 24, 8, seed=1), s <= t).weights


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    inputs = AttentionInputs(3 * draw(HEADS, 24, 8), draw(HEADS, 24, 8, seed=1))
    with serving(PageLayer("0", inputs.item(), Causal(), tuple(range(HEADS)))) as address:
        yield address


class Held:
    """Answers that are on their way until they are let go."""

    def __init__(self, page: Page, pattern: str) -> None:
        self.routes: list[Route] = []
        page.route(re.compile(pattern), lambda route: self.routes.append(route))

    def let_go(self, which: Callable[[str], bool] = lambda url: True) -> None:
        for route in [route for route in self.routes if which(route.request.url)]:
            self.routes.remove(route)
            with suppress(Error):  # the page waits for it no longer
                route.continue_()


NUMBER = re.compile(r"\d\.\d{2,4}|\d\.?\d*e-\d+")

SHOWN = {  # view: what of it holds numbers of a head
    "text": ".strongest b",
    "query-key": "[data-value=weight], .strongest b",
    "heads": ".strongest b",
    "map": "[data-value=weight], .strongest b",
}


def numbers(page: Page, selector: str) -> list[float]:
    said = [text for text in page.locator(selector).all_inner_texts() if NUMBER.fullmatch(text)]
    return [float(text) for text in said]


def are_of(found: list[float], row: np.ndarray) -> bool:
    return all(np.nanmin(np.abs(row - one)) <= 6e-5 + 6e-3 * min(one, 1e-3) for one in found)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("view", SHOWN)
def test_a_late_answer_is_never_shown_under_another_head(address, weights, opened: Opener, view: str) -> None:
    """Head 2's answers are held when head 3 is chosen, then head 4; head 4's come first, and head 2's and 3's late."""
    alone = "&heads=2" if view == "heads" else ""
    page = opened(address, f"view={view}&head=2&query=20&key=5{alone}", offline=False).page
    selector = SHOWN[view]
    expect(page.locator(".strongest b").first).to_be_visible()
    assert are_of(numbers(page, selector), np.append(weights[2, 20], weights[2, :, 5]))
    held = Held(page, r"/(weights|row|column|logits|vectors|tile|pass)/")
    for head in (3, 4):
        go(page, f"view={view}&head={head}&query=20&key=5" + (f"&heads={head}" if view == "heads" else ""))
        page.wait_for_function("head => location.hash.includes(`head=${head}`)", arg=head)
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert numbers(page, selector) == [], "a number of another head"
    held.let_go(lambda url: "/0/4/" in url)
    expect(page.locator(".strongest b").first).to_be_visible()
    held.let_go()
    page.unroute_all(behavior="ignoreErrors")
    page.wait_for_function(
        "selector => [...document.querySelectorAll(selector)].every(one => one.textContent !== '\\u2026')", arg=selector
    )
    found = numbers(page, selector)
    assert found
    assert are_of(found, np.append(weights[4, 20], weights[4, :, 5]))


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("view", SHOWN)
def test_where_answers_fail_nothing_old_is_shown_and_it_is_said(address, opened: Opener, view: str) -> None:
    alone = "&heads=2" if view == "heads" else ""
    it = opened(address, f"view={view}&head=2&query=20&key=5{alone}", offline=False)
    it.expected = "Failed to load resource"
    page = it.page
    expect(page.locator(".strongest b").first).to_be_visible()
    page.route(
        re.compile(r"/(weights|row|column|logits|vectors|tile)/"),
        lambda route: route.fulfill(status=422, content_type="application/json", body='{"error": "no such luck"}'),
    )
    go(page, f"view={view}&head=3&query=20&key=5" + ("&heads=3" if view == "heads" else ""))
    expect(page.get_by_role("alert")).to_have_text("no such luck")
    assert numbers(page, SHOWN[view]) == []
    page.unroute_all()
    go(page, f"view={view}&head=4&query=20&key=5" + ("&heads=4" if view == "heads" else ""))
    expect(page.locator(".strongest b").first).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_server_that_is_gone_is_said_and_numbers_come_again_with_it(address, weights, opened: Opener) -> None:
    it = opened(address, "view=query-key&head=2&query=20&key=5", offline=False)
    it.expected = "Failed to load resource"
    page = it.page
    expect(page.locator(".qk-view [data-value=weight]")).to_be_visible()
    page.context.set_offline(True)
    go(page, "view=query-key&head=3&query=20&key=5")
    expect(page.get_by_role("alert")).to_contain_text("is attnviz view still running?")
    assert numbers(page, SHOWN["query-key"]) == []
    page.context.set_offline(False)
    shown = page.locator(".qk-view [data-value=weight]")
    expect(shown).to_be_visible(timeout=15_000)
    assert are_of(numbers(page, SHOWN["query-key"]), weights[3, 20])
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.sweep
def test_a_file_that_changed_under_the_server_is_said(address, opened: Opener) -> None:
    page = opened(address, "view=text&head=2&query=20", offline=False).page
    page.route(re.compile("/alive$"), lambda route: route.fulfill(json={"changed": "run.npz has changed"}))
    expect(page.get_by_role("alert")).to_have_text("run.npz has changed", timeout=15_000)
