"""No digit is shown that is not right: every number of every view is the formula's in float64, rounded."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page

from attnviz import AttentionInputs
from attnviz.attention.patterns import Pattern
from attnviz.pages import encoding
from attnviz.pages.description import PageLayer
from attnviz.pages.html import write_page
from tests.pages.conftest import Opener, serving
from tests.pages.test_browser import cases, go, places, reference, wait_for_text

_NUMBER = re.compile(r"(< )?([\d.]+(?:e-\d+)?|\u2212?[\d.]+)")


def is_right(text: str, truth: float) -> bool:
    """Whether a number as it is shown is this one, rounded to as many digits, or a bound on it."""
    text = text.replace("\u2212", "-")
    if text == "hidden" or not np.isfinite(truth):
        return text == "hidden" and not np.isfinite(truth)
    if text.startswith("< "):
        return truth < float(text[2:])
    unit = Decimal(10) ** Decimal(text).as_tuple().exponent  # type: ignore[operator]
    return abs(Decimal(text) - Decimal(truth)) <= unit / 2 * Decimal("1.000001")


def readings(page: Page, inputs: AttentionInputs, visible: np.ndarray, seed: int, pairs: int) -> list[str]:
    """What is wrong among the numbers that the map, the text and the query-key view show of some pairs."""
    exact = reference(inputs, visible)
    weights = np.where(np.isneginf(exact.logits), np.nan, exact.weights)
    where = places(inputs)
    drawn, wrong = np.random.default_rng(seed), []

    def check(said: str, text: str, truth: float) -> None:
        if not is_right(text, truth):
            wrong.append(f"{said}: {text} for {truth!r}")

    for _ in range(pairs):
        head, query, key = (int(drawn.integers(n)) for n in weights.shape)
        at = f"head={head}&query={query}&key={key}"
        t, s = where.queries[query], where.keys[key]
        go(page, f"view=map&{at}")
        value = r"\s*(hidden|(< )?[\d.e\u2212-]+)"
        wait_for_text(page, ".readout", rf"query {t}(?!\d).*key {s}(?!\d).*weight{value}\s*logit{value}")
        check(f"map {at}", page.locator(".readout [data-value=weight]").inner_text(), weights[head, query, key])
        check(
            f"map {at} logit", page.locator(".readout [data-value=logit]").inner_text(), exact.logits[head, query, key]
        )
        go(page, f"view=query-key&{at}")
        wait_for_text(page, ".qk-name", rf"query {t}(?!\d)|key {s}(?!\d)")
        page.wait_for_selector(".strongest b, .strongest .muted:has-text('none')")
        places_of = {s: i for i, s in enumerate(where.keys)}
        for text in page.locator(".strongest button").all_inner_texts():
            named, weight = text.split(maxsplit=1)
            check(f"strongest {at}", weight.split("\n")[-1].strip(), weights[head, query, places_of[int(named)]])
    return wrong


def shown(path: Path, inputs: AttentionInputs, pattern: Pattern, *, coarse: bool) -> Path:
    layer = PageLayer("0", inputs.item(), pattern, tuple(range(inputs.H)))
    with pytest.MonkeyPatch.context() as patched:
        if coarse:
            patched.setattr(encoding, "ROOM", 0)
        write_page(path, [layer], "run.npz")
    return path


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("coarse", [True, False], ids=["12 bits", "float32"])
def test_digits_of_a_page_are_right(tmp_path, opened: Opener, coarse: bool) -> None:
    inputs, pattern, visible = cases()["softcap, bias, ALiBi and sinks"]
    page = opened(shown(tmp_path / "page.html", inputs, pattern, coarse=coarse), "view=map").page
    assert readings(page, inputs, visible, 0, 4) == []


@pytest.mark.matrix
@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("source", ["12 bits", "float32", "live"])
def test_digits_of_every_kind_of_page_are_right(tmp_path, opened: Opener, name: str, source: str) -> None:
    """Ten kinds of attention, three sources, and about ten numbers for each of ten pairs."""
    inputs, pattern, visible = cases()[name]
    if source == "live":
        with serving(PageLayer("0", inputs.item(), pattern, tuple(range(inputs.H)))) as address:
            page = opened(address, "view=map", offline=False).page
            assert readings(page, inputs, visible, 1, 10) == []
            return
    page = opened(shown(tmp_path / "page.html", inputs, pattern, coarse=source == "12 bits"), "view=map").page
    assert readings(page, inputs, visible, 1, 10) == []
