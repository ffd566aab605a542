"""The page in Firefox: each view opens without a complaint, its numbers are the formula's, clicks hit what they aim at."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from attnviz import AttentionInputs
from attnviz.attention.patterns import Causal
from tests.pages.firefox import Firefox, firefox, found
from tests.pages.test_browser import VIEWS, draw, grid, write
from tests.pages.test_browser_digits import is_right
from tests.reference import attend

pytestmark = [
    pytest.mark.matrix,
    pytest.mark.skipif(found() is None, reason="no firefox on the PATH: apt-get install firefox-esr"),
]

T = 24
QUERY, KEY, HEAD = 20, 5, 2


@pytest.fixture(scope="module")
def inputs() -> AttentionInputs:
    return AttentionInputs(3 * draw(4, T, 8), draw(2, T, 8, seed=1), tokens=[[f" word{i}" for i in range(T)]])


@pytest.fixture(scope="module")
def weights(inputs) -> np.ndarray:
    t, s = grid(T, T)
    exact = attend(inputs.q[0], inputs.k[0], s <= t)
    return np.where(np.isneginf(exact.logits), np.nan, exact.weights)


@pytest.fixture(scope="module")
def path(inputs, tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("page") / "page.html", inputs, Causal())


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Firefox]:
    with firefox(tmp_path_factory.mktemp("profile")) as started:
        yield started


def open_(browser: Firefox, path: Path, fragment: str) -> None:
    browser.ask("WebDriver:Navigate", {"url": "about:blank"})
    browser.ask("WebDriver:Navigate", {"url": f"{path.as_uri()}#{fragment}"})
    browser.wait("return document.querySelector('[role=tab][aria-selected=true]') !== null")


@pytest.mark.parametrize("view", VIEWS)
def test_numbers_of_a_view_are_the_formulas(browser, path, weights, view) -> None:
    open_(browser, path, f"view={view}&head={HEAD}&heads={HEAD}&query={QUERY}&key={KEY}")
    if view == "model":
        tops = browser.wait(
            "const all = [...document.querySelectorAll('.thumb-top')].map(one => one.textContent);"
            "return all.length === 4 && all.every(text => /\\d/.test(text)) && all"
        )
        assert all(is_right(text, np.nanmax(weights[head])) for head, text in enumerate(tops))
    else:
        found = browser.wait(
            "const all = [...document.querySelectorAll('.strongest button')].map(one => [...one.children].map(part => part.textContent));"
            "return all.length > 0 && all"
        )
        row, column = weights[HEAD, QUERY], weights[HEAD, :, KEY]
        for index, _, weight, *_ in found:
            near = (row[int(index)], column[int(index)]) if view == "map" else (row[int(index)],)
            assert any(is_right(weight, one) for one in near if not math.isnan(one)), (index, weight)
    if view == "map":
        said = "return document.querySelector('.readout [data-value=weight]')?.textContent.match(/[\\d.e-]+/)?.[0]"
        assert is_right(browser.wait(said), weights[HEAD, QUERY, KEY])
    if view == "query-key":
        said = "return document.querySelector('.qk-sum [data-value=weight]')?.textContent"
        assert is_right(browser.wait(said), weights[HEAD, QUERY, KEY])
    assert browser.run("return document.querySelectorAll('[role=alert]').length") == 0


@pytest.mark.parametrize(
    ("view", "thing"), [("heads", ".heads-column.query .heads-token"), ("text", ".text-token"), ("map", ".map-frame")]
)
def test_a_click_hits_what_it_aims_at(browser, path, view, thing) -> None:
    open_(browser, path, f"view={view}&head={HEAD}")
    nth = 0 if view == "map" else 7
    x, y = browser.wait(
        "const box = document.querySelectorAll(arguments[0])[arguments[1]]?.getBoundingClientRect();"
        "return box && box.width > 0 && [box.x + box.width * 0.45, box.y + box.height / 2]",
        thing,
        nth,
    )
    browser.wait("return document.fonts.status === 'loaded' && !document.querySelector('.pass')")
    browser.click(x, y)
    browser.wait("return /query=\\d/.test(location.hash)")
    if view == "map":
        top, bottom = browser.wait(
            "const box = document.querySelector('.cross-query')?.getBoundingClientRect(); return box && [box.top, box.bottom]"
        )
        assert top - 1 <= y <= bottom + 1
    else:
        pressed = "return document.querySelectorAll(arguments[0])[arguments[1]].getAttribute('aria-pressed')"
        assert browser.run(pressed, thing, nth) == "true"


def test_nothing_sticks_out_of_a_narrow_window(browser, path) -> None:
    browser.ask("WebDriver:SetWindowRect", {"width": 500, "height": 800})
    for view in VIEWS:
        open_(browser, path, f"view={view}&head={HEAD}&query={QUERY}&key={KEY}")
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth"), view
