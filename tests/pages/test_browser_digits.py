"""No digit is shown that is not right: every number of every view is the formula's in float64, rounded."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Page, expect

from attnviz import AttentionInputs
from attnviz.attention.patterns import Causal, Pattern
from attnviz.attention.rotary import Rotary
from attnviz.pages import encoding
from attnviz.pages.description import PageLayer
from attnviz.pages.html import write_page
from tests.pages.conftest import Opener, serving
from tests.pages.test_browser import cases, go, places, reference, wait_for_text
from tests.reference import Attention

_NUMBER = re.compile(r"(< )?([\d.]+(?:e-\d+)?|\u2212?[\d.]+)")


def is_right(text: str, truth: float) -> bool:
    """Whether a number as it is shown is this one, rounded to as many digits, or a bound on it."""
    text = text.replace("\u2212", "-")
    if text.startswith("\u2248 "):  # no digit is sure
        return abs(float(text[2:]) - truth) < 0.1 * max(1, abs(truth))
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
        wrong += of_products(page, inputs, exact, (head, query, key))
    return wrong


def of_products(page: Page, inputs: AttentionInputs, exact: Attention, at: tuple[int, int, int]) -> list[str]:
    """What is wrong among the numbers of the query-key view: of one score, and of each key of the query."""
    head, query, key = at
    t, s = places(inputs).queries[query], places(inputs).keys[key]
    q = inputs.q[0, head].double().numpy()
    k = inputs.k[0, head * inputs.k.shape[1] // inputs.H].double().numpy()
    scale = 1 / math.sqrt(inputs.q.shape[-1])
    wait_for_text(page, ".qk-term", r".")
    said = {name: value for value, name in (text.split("\n") for text in page.locator(".qk-term").all_inner_texts())}
    truth = {f"sum of {inputs.q.shape[-1]} products": q[query] @ k[key] * scale}
    if np.isfinite(exact.logits[head, query, key]):
        truth["logit"] = exact.logits[head, query, key]
        row = exact.logits[head, query]
        sink = -np.inf if inputs.sinks is None else float(inputs.sinks[head])
        total = np.log(np.exp(row).sum() + np.exp(sink))
        truth |= {name: total for name in said if "denominator" in name and "%" not in said[name]}
        truth |= {"weight: exp of that": exact.weights[head, query, key]}
        if inputs.bias is not None:
            truth["bias"] = float(inputs.bias[0, head, query, key])
    wrong = [
        f"{at} {name}: {said.get(name)} for {value!r}"
        for name, value in truth.items()
        if not is_right(said.get(name, "0.000"), value)
    ]
    page.evaluate("document.querySelector('.qk-table').open = true")
    products = q[query] * k[key] * scale
    for d, row in enumerate(page.locator(".qk-table tbody tr").all()):
        truths = (q[query, d], k[key, d], products[d], products[: d + 1].sum())
        for shown, value in zip(row.locator("td").all_inner_texts(), truths, strict=True):
            if not is_right(shown, value):
                wrong.append(f"{at} dimension {d}: {shown} for {value!r}")
    keys = {name: index for index, name in enumerate(places(inputs).keys)}
    for row in page.locator(".neurons tbody tr").all():
        name, _, total, weight = (cell.strip() for cell in row.locator("th, td").all_inner_texts())
        of = keys[int(name.split()[0])]
        for shown, value in ((total, q[query] @ k[of] * scale), (weight, exact.weights[head, query, of])):
            if not is_right(shown, value):
                wrong.append(f"{at} key {of} of query {t} (chosen {s}): {shown} for {value!r}")
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


@pytest.mark.parametrize("layout", ["halves", "interleaved"])
def test_pairs_that_rotary_embedding_turns_are_sums_of_two_products(tmp_path, opened: Opener, layout: str) -> None:
    """Of 10 dimensions 6 turn, from the third on; the 4 others stand apart. Held against sums in float64."""
    q, k = (torch.randn(2, 9, 10, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    rotary = Rotary(layout, [1.0, 0.02, None], first=2)
    pairs = {"halves": [(2, 5), (3, 6), (4, 7)], "interleaved": [(2, 3), (4, 5), (6, 7)]}[layout]
    inputs = AttentionInputs(q, k, rotary=rotary)
    path = shown(tmp_path / "page.html", inputs, Causal(), coarse=False)
    page = opened(path, "view=query-key&head=1&query=7&key=3&pairs=1").page
    page.locator(".qk-table summary").click()
    rows = [row.locator("th, td").all_inner_texts() for row in page.locator(".qk-table tbody tr").all()]
    products = (q[1, 7].double() * k[1, 3].double() / math.sqrt(10)).numpy()
    names = [f"{a}, {b}" for a, b in pairs] + ["0", "1", "8", "9"]
    parts = [products[a] + products[b] for a, b in pairs] + [products[d] for d in (0, 1, 8, 9)]
    assert [row[0] for row in rows] == names
    assert [row[1] for row in rows] == ["6.28 tokens", "314 tokens", "too long to be told", *["does not turn"] * 4]
    assert [row[4] for row in rows if not is_right(row[4], parts[names.index(row[0])])] == []
    assert [row[5] for n, row in enumerate(rows) if not is_right(row[5], sum(parts[: n + 1]))] == []
    lengths = [math.hypot(*(float(q[1, 7, d]) for d in pair)) for pair in pairs]
    assert [row[2] for row, length in zip(rows, lengths, strict=False) if not is_right(row[2], length)] == []
    page.get_by_role("button", name="by size").click()
    largest = names[max(range(7), key=lambda n: abs(parts[n]))]
    expect(page.locator(".qk-table tbody th").first).to_have_text(largest)
    page.get_by_role("button", name="by pair").click()
    expect(page.locator(".qk-table tbody tr")).to_have_count(10)


def test_a_layer_without_rotary_embedding_offers_no_pairs(tmp_path, opened: Opener) -> None:
    q = torch.randn(1, 6, 4)
    page = opened(
        shown(tmp_path / "page.html", AttentionInputs(q, q), Causal(), coarse=False), "view=query-key&pairs=1"
    ).page
    expect(page.locator(".qk-table summary")).to_have_text("All 4 products as a table")
    expect(page.get_by_role("button", name="by pair")).to_have_count(0)
