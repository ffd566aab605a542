"""The page in a browser with the network cut: every view, its numbers against loops in float64, its manners."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import axe_playwright_python
import numpy as np
import pytest
import torch
from playwright.sync_api import Page, expect

from attnviz import AttentionInputs
from attnviz.attention.patterns import Causal, Full, GlobalKeys, Local, Pattern, longformer
from attnviz.pages.description import PageLayer
from attnviz.pages.html import write_page
from tests.pages.conftest import Opener
from tests.reference import Attention, Places, attend

VIEWS = ["heads", "model", "map", "text", "query-key"]

HOSTILE = [
    "<script>document.title='broken'</script>",
    "<img src=x onerror=\"document.title='broken'\">",
    "\"quotes' & &amp; `ticks`",
    "</script><script>document.title='broken'</script>",
    "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}\N{PARTY POPPER}",
    "שלום עולם",
    "line\nbreak",
    "\u202egnol",
    "",
    "   ",
    "a token that is very much longer than any place there is for it",
    "\x00\x1b[31m\u2028${1}{{7*7}}",
]

WEIGHT = 1e-3 + 6e-5  # the format's promise, and half of the last digit shown


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def write(path: Path, inputs: AttentionInputs, pattern: Pattern, *, layers: int = 1, source: str = "run.npz") -> Path:
    heads = tuple(range(inputs.H))
    write_page(path, [PageLayer(str(i), inputs.item(), pattern, heads) for i in range(layers)], source)
    return path


def reference(inputs: AttentionInputs, visible: np.ndarray) -> Attention:
    def first(tensor: torch.Tensor | None) -> Any:
        return None if tensor is None else tensor[0]

    return attend(
        first(inputs.q),
        first(inputs.k),
        visible,
        softcap=inputs.softcap,
        bias=first(inputs.bias),
        alibi_slopes=inputs.alibi_slopes,
        sinks=inputs.sinks,
        places=places(inputs),
    )


def places(inputs: AttentionInputs) -> Places:
    queries, keys = (None if at is None else at[0].tolist() for at in (inputs.query_positions, inputs.key_positions))
    return Places.of(inputs.T, inputs.S, queries, keys)


def grid(T: int, S: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(T)[:, None], np.arange(S)[None, :]


@pytest.fixture(scope="module")
def sentence(tmp_path_factory) -> Path:
    """Two layers of four heads over twelve labeled tokens."""
    tokens = ["The", " animal", " did", " not", " cross", " the", " street", ":", " it", " was", " tired", "."]
    inputs = AttentionInputs(3 * draw(4, 12, 8), draw(4, 12, 8, seed=1), tokens=[tokens])
    return write(tmp_path_factory.mktemp("page") / "sentence.html", inputs, Causal(), layers=2)


def go(page: Page, fragment: str) -> None:
    page.evaluate("fragment => { location.hash = fragment; }", fragment)


def number(text: str) -> float:
    return math.nan if text == "hidden" else float(text.removeprefix("< ").replace("\u2212", "-"))


def wait_for_text(page: Page, selector: str, pattern: str) -> None:
    """Waits until all elements of a selector say so, and looks every frame: ``expect`` looks after 0.1 s, then later."""
    page.wait_for_function(
        """([selector, pattern]) => {
            const all = [...document.querySelectorAll(selector)];
            return all.length && all.every(one => new RegExp(pattern).test(one.textContent.replace(/\\s+/g, ' ').trim()));
        }""",
        arg=[selector, pattern],
    )


def read_pair(page: Page, query: int, key: int) -> tuple[float, float]:
    """Weight and logit of the crosshair, once they are those of the query and key at these positions."""
    number_ = r"\s*(hidden|[\d.e\u2212-]+)"
    wait_for_text(page, ".readout", rf"query {query}(?!\d).*key {key}(?!\d).*weight{number_}\s*logit{number_}")
    readout = page.locator(".readout")
    weight, logit = (readout.locator(f"[data-value={name}]").inner_text() for name in ("weight", "logit"))
    return number(weight), number(logit)


def same(found: float, wanted: float, within: float) -> bool:
    return math.isnan(found) if math.isnan(wanted) else abs(found - wanted) <= within


# Numbers


def cases() -> dict[str, tuple[AttentionInputs, Pattern, np.ndarray]]:
    t, s = grid(20, 20)
    square = np.ones((20, 20), dtype=bool)
    padding = torch.arange(20) < 15
    late = grid(8, 20)
    hides = torch.from_numpy(np.stack([square & (s % 3 == 0), square & (t > 9)]))
    return {
        "full": (AttentionInputs(2 * draw(2, 20, 8), draw(2, 20, 8, seed=1)), Full(), square),
        "causal, the last queries of more keys": (
            AttentionInputs(draw(2, 8, 8), draw(2, 20, 8, seed=1)),
            Causal(),
            late[1] <= late[0] + 12,
        ),
        "window": (AttentionInputs(draw(2, 20, 8), draw(2, 20, 8, seed=1)), Local(3), abs(t - s) <= 3),
        "two query heads to a key head": (AttentionInputs(draw(4, 20, 8), draw(2, 20, 8, seed=1)), Full(), square),
        "padding": (
            AttentionInputs(draw(2, 20, 8), draw(2, 20, 8, seed=1), key_padding_mask=padding),
            Causal(),
            (s <= t) & (s < 15) & (t < 15),
        ),
        "softcap, bias, ALiBi and sinks": (
            AttentionInputs(
                4 * draw(2, 20, 8),
                draw(2, 20, 8, seed=1),
                softcap=2.0,
                bias=draw(2, 20, 20, seed=2),
                alibi_slopes=torch.tensor([0.5, 0.1]),
                sinks=torch.tensor([0.3, -1.0]),
            ),
            Causal(),
            s <= t,
        ),
        "global keys": (
            AttentionInputs(draw(2, 20, 8), draw(2, 20, 8, seed=1), global_mask=torch.arange(20) % 7 == 0),
            GlobalKeys(),
            (s % 7 == 0) & (t >= 0),
        ),
        "a decode step in a window": (
            AttentionInputs(draw(2, 1, 8), draw(2, 64, 8, seed=1)),
            Local(3) & Causal(),
            np.arange(64)[None] >= 60,
        ),
        "ALiBi in a ring buffer": (
            AttentionInputs(
                draw(2, 3, 8),
                draw(2, 20, 8, seed=1),
                alibi_slopes=torch.tensor([0.5, 0.1]),
                query_positions=torch.tensor([23, 31, 32]),
                key_positions=torch.tensor([*range(20, 33), *range(13, 20)]),
            ),
            Local(9) & Causal(),
            np.array([[0 <= t - s <= 9 for s in (*range(20, 33), *range(13, 20))] for t in (23, 31, 32)]),
        ),
        "a bias that hides keys of one head, and all of a query's": (
            AttentionInputs(
                draw(2, 20, 8), draw(2, 20, 8, seed=1), bias=torch.zeros(2, 20, 20).masked_fill(hides, -torch.inf)
            ),
            Full(),
            square,
        ),
    }


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("name", cases())
def test_weights_and_logits_are_those_of_the_formula(tmp_path, opened: Opener, name: str) -> None:
    inputs, pattern, visible = cases()[name]
    wanted = reference(inputs, visible)
    page = opened(write(tmp_path / "page.html", inputs, pattern), "view=map").page
    drawn = np.random.default_rng(0)
    for head in range(inputs.H):
        for _ in range(6):
            query, key = int(drawn.integers(inputs.T)), int(drawn.integers(inputs.S))
            go(page, f"view=map&head={head}&query={query}&key={key}")
            weight, logit = read_pair(page, places(inputs).queries[query], places(inputs).keys[key])
            hidden = bool(np.isneginf(wanted.logits[head, query, key]))
            assert same(weight, math.nan if hidden else wanted.weights[head, query, key], WEIGHT), (head, query, key)
            assert same(logit, math.nan if hidden else wanted.logits[head, query, key], 2e-2), (head, query, key)


@pytest.mark.sweep
def test_rows_of_global_queries_have_their_own_projections(tmp_path, opened: Opener) -> None:
    q, k, q_global, k_global = (draw(2, 20, 8, seed=seed) for seed in range(4))
    inputs = AttentionInputs(q, k, q_global=q_global, k_global=k_global, global_mask=torch.arange(20) % 9 == 0)
    t, s = grid(20, 20)
    near = attend(q, k, (abs(t - s) <= 2) | (s % 9 == 0))
    far = attend(q_global, k_global, np.ones((20, 20), dtype=bool))
    page = opened(write(tmp_path / "page.html", inputs, longformer(2)), "view=map").page
    for query, key, wanted in [(9, 4, far), (9, 9, far), (0, 19, far), (5, 9, near), (5, 6, near), (11, 18, near)]:
        go(page, f"view=map&head=1&query={query}&key={key}")
        assert same(read_pair(page, query, key)[0], wanted.weights[1, query, key], WEIGHT)
        go(page, f"view=query-key&head=1&query={query}&key={key}")
        shown = page.locator(".qk-view [data-value=logit]")
        expect(page.locator(".qk-name").first).to_have_text(f"query {query}")
        expect(shown).to_have_text(re.compile(f"{wanted.logits[1, query, key]:.2f}"[:-1].replace("-", "\u2212")))


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A head of 300 tokens: its map is longer than one tile, so that cells hold 2 x 2 weights. And its weights."""
    inputs = AttentionInputs(3 * draw(1, 300, 4), draw(1, 300, 4, seed=1))
    t, s = grid(300, 300)
    path = write(tmp_path_factory.mktemp("page") / "long.html", inputs, Causal())
    return path, reference(inputs, s <= t).weights[0]


def hover(page: Page, dx: float = 0, dy: float = 0) -> dict[str, str]:
    """What the tooltip says of the middle of the map, or beside it, when it has its number."""
    box = page.locator(".map-frame").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2 + dx, box["y"] + box["height"] / 2 + dy)
    tooltip = page.locator(".tooltip")
    wait_for_text(page, ".tooltip [data-value]", "[^\u2026]")
    names, values = (tooltip.locator(tag).all_inner_texts() for tag in ("dt", "dd"))
    return dict(zip(names, values, strict=True))


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("reduce", ["max", "mass"])
def test_a_cell_of_several_weights_is_reduced(long, opened: Opener, reduce: str) -> None:
    path, weights = long
    page = opened(path, f"view=map&reduce={reduce}&x=100&y=200&zoom=-1", width=360, height=640).page
    expect(page.locator(".legend")).to_contain_text("2 \u00d7 2")
    for dx, dy in [(0, 0), (-30, 10), (20, 33)]:
        tip = hover(page, dx, dy)
        t, s = (int(tip[axis].split("\u2013")[0]) for axis in ("queries", "keys"))
        assert t % 2 == 0
        assert tip["queries"] == f"{t}\u2013{t + 1}"
        cell = weights[t : t + 2, s : s + 2]
        wanted = cell.max() if reduce == "max" else cell.sum(axis=1).mean()
        assert abs(number(tip["largest weight" if reduce == "max" else "mass"]) - wanted) <= 2 * WEIGHT


@pytest.fixture(scope="module")
def longer(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A head of 2,500 tokens, whose page has an overview of its map; and its weights."""
    inputs = AttentionInputs(3 * draw(1, 2500, 4), draw(1, 2500, 4, seed=1))
    t, s = grid(2500, 2500)
    q, k = (tensor[0, 0].double().numpy() for tensor in (inputs.q, inputs.k))
    shares = np.where(s <= t, np.exp(q @ k.T / 2), 0)
    path = write(tmp_path_factory.mktemp("page") / "longer.html", inputs, Causal())
    return path, shares / shares.sum(axis=1, keepdims=True)


@pytest.mark.sweep
@pytest.mark.parametrize("reduce", ["max", "mass"])
def test_a_map_longer_than_its_overview(longer, opened: Opener, reduce: str) -> None:
    path, shares = longer
    page = opened(path, f"view=map&reduce={reduce}").page
    sizes = set()
    for zoom in (-3.3, -2, -1, 0.4):  # the overview halved, itself, and finer than it
        go(page, f"view=map&reduce={reduce}&x=1000&y=1500&zoom={zoom}")
        size = 2 ** -round(max(zoom, -3))
        sizes.add(size)
        expect(page.locator(".legend")).to_contain_text(
            f"{size} \u00d7 {size}" if size > 1 else ("weight", "mass")[reduce == "mass"]
        )
        tip = hover(page, -20, 20)
        first = (tip.get("queries") or tip["query"], tip.get("keys") or tip["key"])
        t0, s0 = (int(text.replace(",", "").split("\u2013")[0]) for text in first)
        cell = shares[t0 : t0 + size, s0 : s0 + size]
        wanted = cell.max() if reduce == "max" else cell.sum(axis=1).mean()
        found = number(list(tip.values())[2])
        assert abs(found - wanted) <= WEIGHT * (1 if reduce == "max" else size), (zoom, t0, s0)
    assert sizes == {8, 4, 2, 1}


def test_the_tooltip_of_a_single_weight_names_it(sentence, opened: Opener) -> None:
    page = opened(sentence, "view=map&layer=1&head=2&x=6.5&y=8.5&zoom=6").page
    tip = hover(page, dx=-64 * 3)
    t, s = grid(12, 12)
    wanted = attend(3 * draw(4, 12, 8), draw(4, 12, 8, seed=1), s <= t)
    assert (tip["query"].split(), tip["key"].split()) == (["8", "it"], ["3", "not"])
    assert abs(number(tip["weight"]) - wanted.weights[2, 8, 3]) <= WEIGHT
    assert abs(number(tip["logit"]) - wanted.logits[2, 8, 3]) <= 2e-2
    assert hover(page, dx=64 * 4)["weight"] == "hidden"  # key 10 comes after query 8


def test_the_tooltip_keeps_up_with_a_map_that_moves_under_the_pointer(long, opened: Opener) -> None:
    path, weights = long
    page = opened(path, "view=map&x=100&y=200&zoom=-1", width=360, height=640).page
    assert "queries" in hover(page)
    page.mouse.wheel(0, -700)
    names = page.locator(".tooltip dt")
    expect(names.first).to_have_text("query")
    expect(page.locator(".tooltip [data-value=weight]")).not_to_have_text("\u2026")
    query, key = (int(text) for text in page.locator(".tooltip dd").all_inner_texts()[:2])
    assert abs(number(page.locator(".tooltip [data-value=weight]").inner_text()) - weights[query, key]) <= WEIGHT


def test_products_by_dimension_sum_to_the_logit(sentence, opened: Opener) -> None:
    page = opened(sentence, "view=query-key&head=1&query=7&key=2").page
    q, k = 3 * draw(4, 12, 8)[1, 7].double(), draw(4, 12, 8, seed=1)[1, 2].double()
    page.locator(".qk-table summary").click()
    rows = [row.locator("td").all_inner_texts() for row in page.locator(".qk-table tbody tr").all()]
    products = [number(row[2]) for row in rows]
    assert products == pytest.approx((q * k / math.sqrt(8)).tolist(), abs=2e-3)
    assert number(page.locator("[data-value=logit]").inner_text()) == pytest.approx(sum(products), abs=5e-3)
    page.get_by_role("button", name="by size").click()
    expect(page.locator(".qk-table tbody th").first).to_have_text(str(int(np.argmax(np.abs(products)))))


def read_text(page: Page, query: str, key: int) -> float:
    """What the text view says a query gives to a key, once it knows."""
    wait_for_text(page, "[data-role=text-readout]", rf"^{query}(?!\d).*key {key}(?!\d).*: [\d.e-]+$")
    return number(page.locator("[data-role=text-readout]").inner_text().split()[-1])


def test_a_decode_step_sees_the_keys_before_its_own_position(tmp_path, opened: Opener) -> None:
    """One query, the last of 64 tokens: 63 in every view; its address is index 0."""
    inputs, pattern, visible = cases()["a decode step in a window"]
    weights = reference(inputs, visible).weights[1, 0]
    page = opened(write(tmp_path / "page.html", inputs, pattern), "view=text&head=1&query=0").page
    keys = page.get_by_role("group", name="Keys", exact=True).locator(".text-token")
    expect(keys.locator("visible=true")).to_have_count(64)
    expect(page.locator(".text-token:not(.bare)")).to_have_text(["60", "61", "62", "63"])
    expect(page.get_by_role("group", name="Queries").locator(".text-token")).to_have_text("63")
    for key in range(60, 64):
        keys.nth(key).hover()
        assert abs(read_text(page, "query 63", key) - weights[key]) <= WEIGHT
    go(page, "view=query-key&head=1&query=0&key=61")
    expect(page.locator(".qk-name").first).to_have_text("query 63")
    strongest = page.locator(".strongest button span")
    expect(strongest).to_have_text([str(key) for key in np.argsort(-weights)[:4]])
    go(page, "view=heads&head=1&query=0")
    expect(page.get_by_role("group", name="Queries").locator(".number")).to_have_text("63")
    go(page, "view=map&head=1&query=0&key=62")
    field = page.get_by_label("query", exact=True)
    expect(field).to_have_value("63")
    assert abs(read_pair(page, 63, 62)[0] - weights[62]) <= WEIGHT


def test_positions_are_typed_and_indices_stand_in_the_address(tmp_path, opened: Opener) -> None:
    inputs, pattern, _ = cases()["ALiBi in a ring buffer"]
    page = opened(write(tmp_path / "page.html", inputs, pattern), "view=map").page
    for axis, typed, index in (("query", "31", 1), ("key", "14", 14)):
        field = page.get_by_label(axis, exact=True)
        field.fill(typed)
        field.press("Enter")
        expect(page).to_have_url(re.compile(rf"\b{axis}={index}\b"))
        expect(field).to_have_value(typed)


def test_text_is_shaded_by_the_weights_of_the_pinned_query(sentence, opened: Opener) -> None:
    it = opened(sentence, "view=text&head=3")
    page = it.page
    t, s = grid(12, 12)
    weights = attend(3 * draw(4, 12, 8), draw(4, 12, 8, seed=1), s <= t).weights[3]
    page.locator("[data-position='10']").click()
    for key in (0, 5, 9):
        page.locator(f"[data-position='{key}']").hover()
        assert abs(read_text(page, "query 10", key) - weights[10, key]) <= WEIGHT
    shades = page.locator(".text-token").evaluate_all(
        "tokens => tokens.map(token => getComputedStyle(token).backgroundColor.match(/[0-9.]+/g).slice(0, 3).map(Number))"
    )
    darkest = int(np.argmin([sum(color) for color in shades[:11]]))
    assert darkest == int(np.argmax(weights[10, :11]))
    expect(page.locator("[data-position='11']")).to_have_class(re.compile("bare"))
    page.get_by_role("button", name="what attends to it").click()
    page.locator("[data-position='4']").click()
    page.locator("[data-position='8']").hover()
    assert abs(read_text(page, "query 8", 4) - weights[8, 4]) <= WEIGHT


# Manners


@pytest.mark.sweep
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_view_opens_without_asking_anybody(sentence, opened: Opener, dark: bool) -> None:
    pages = {view: opened(sentence, f"view={view}", dark=dark) for view in VIEWS}  # they are idle together
    for view, it in pages.items():
        expect(it.page.get_by_role("tab", selected=True)).to_have_id(f"attnviz-tab-{view}")
        expect(it.page.locator(".app")).to_have_attribute("data-theme", "dark" if dark else "light")
    for it in pages.values():
        it.page.wait_for_load_state("networkidle")
        assert [url for url in it.requests if not url.startswith(("blob:", "data:"))] == [sentence.as_uri()]


@pytest.mark.sweep
def test_every_view_is_reached_by_clicks_and_back_leads_back(sentence, opened: Opener) -> None:
    page = opened(sentence).page
    expect(page.locator(".thumb canvas").last).to_have_attribute("width", "12")
    page.get_by_role("button", name="Layer 1, head 2: open its map").click()
    for name in ("Heads", "Text", "Query-key", "Model", "Map"):
        page.get_by_role("tab", name=name).click()
        expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
    assert "layer=1&head=2" in page.url
    for name in ("Model", "Query-key", "Text"):
        page.go_back()
        expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
    page.go_forward()
    expect(page.get_by_role("tab", name="Query-key")).to_have_attribute("aria-selected", "true")


@pytest.mark.sweep
def test_a_link_shows_what_its_sender_saw(sentence, opened: Opener) -> None:
    page = opened(sentence, "view=map").page
    page.get_by_role("button", name="log").click()
    page.get_by_role("button", name="mass").click()
    page.get_by_label("Next head").click()
    assert "zoom=" not in page.url  # the whole map is the whole map on any screen
    page.get_by_role("button", name="Zoom in").click()
    expect(page).to_have_url(re.compile("zoom="))
    hover(page, dx=-40, dy=60)
    page.mouse.down()
    page.mouse.up()
    expect(page.locator(".readout")).to_have_text(re.compile(r"weight\s*[\d.]"))
    expect(page).to_have_url(re.compile("query=.*zoom="))
    again = opened(sentence, page.url.split("#")[1]).page
    expect(again.locator(".readout")).to_have_text(page.locator(".readout").inner_text().replace("\n", ""))
    assert again.locator(".legend").inner_text() == page.locator(".legend").inner_text()
    for dx, dy in [(-200, -100), (9, 9), (200, 100)]:  # within cells, not between two
        hover(again, dx, dy)
        hover(page, dx, dy)
        expect(page.locator(".tooltip")).to_have_text(again.locator(".tooltip").text_content() or "")
    page.get_by_role("button", name="Show the whole map").click()
    expect(page).not_to_have_url(re.compile("zoom="))
    page.go_back()
    for dx, dy in [(-200, -100), (200, 100)]:
        hover(again, dx, dy)
        hover(page, dx, dy)
        expect(page.locator(".tooltip")).to_have_text(again.locator(".tooltip").text_content() or "")


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("view", ["heads", "text"])
def test_a_link_to_a_token_shows_it(long, opened: Opener, view: str) -> None:
    page = opened(long[0], f"view={view}&query=250", height=500).page
    pinned = page.locator('[data-position="250"][aria-pressed="true"]')
    expect(pinned).to_be_in_viewport()
    expect(pinned).to_have_count(1)


def test_a_fragment_of_nonsense_does_no_harm(sentence, opened: Opener) -> None:
    page = opened(
        sentence, "view=../../etc&layer=99&head=-1&zoom=1e999&x=NaN&heads=<b>&query=99999&count=-4&%E0%A4"
    ).page
    expect(page.get_by_role("tab", selected=True)).to_have_text("Model")


def test_the_map_is_used_with_the_keyboard_alone(sentence, opened: Opener) -> None:
    page = opened(sentence, "view=map&head=1&query=6&key=3").page
    page.get_by_role("application").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
    t, s = grid(12, 12)
    wanted = attend(3 * draw(4, 12, 8), draw(4, 12, 8, seed=1), s <= t).weights[1, 8, 2]
    assert abs(read_pair(page, 8, 2)[0] - wanted) <= WEIGHT
    expect(page.locator("[aria-live=polite]")).to_contain_text("query 8 \u201cit\u201d, key 2 \u201cdid\u201d: weight")
    page.keyboard.press("+")
    expect(page).to_have_url(re.compile("zoom="))
    page.keyboard.press("Escape")
    expect(page.locator(".readout")).to_contain_text("Click a cell")


def test_tabs_thumbnails_and_tokens_answer_to_arrows(sentence, opened: Opener) -> None:
    page = opened(sentence, "view=model").page
    focused = page.locator(":focus")
    page.get_by_role("tab", name="Model").focus()
    page.keyboard.press("ArrowLeft")
    expect(focused).to_have_text("Heads")
    expect(focused).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="Layer 0, head 0: open its map").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(focused).to_have_attribute("aria-label", "Layer 1, head 1: open its map")
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Map")).to_have_attribute("aria-selected", "true")
    go(page, "view=heads")
    page.locator(".heads-column.query button").first.focus()
    page.keyboard.press("ArrowDown")
    expect(focused).to_have_attribute("aria-label", "query 1 \u201canimal\u201d")
    expect(page.locator("[aria-live=polite]")).to_contain_text("Strongest: head")
    page.keyboard.press("Enter")
    expect(focused).to_have_attribute("aria-pressed", "true")


def test_heads_are_picked_and_left_out(sentence, opened: Opener) -> None:
    page = opened(sentence, "view=heads&query=9").page
    chips = page.get_by_role("group", name="Heads shown")
    canvas = page.locator(".heads-scroll canvas")

    def ink() -> list[int]:
        """How much of each head's color there is on the canvas, in opaque pixels."""
        return canvas.evaluate(
            """canvas => {
                const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
                const colors = [[0, 0x80, 0xc8], [0xe0, 0x7b, 0], [0, 0x9e, 0x73], [0xd4, 0x51, 0x9f]];
                const found = [0, 0, 0, 0];
                for (let i = 0; i < data.length; i += 4) {
                    if (data[i + 3] < 40) continue;
                    colors.forEach(([r, g, b], c) => {
                        if (Math.abs(data[i] - r) + Math.abs(data[i + 1] - g) + Math.abs(data[i + 2] - b) < 24) found[c]++;
                    });
                }
                return found;
            }"""
        )

    chips.get_by_role("button", name="none").click()
    expect(page.locator(".heads-whole")).to_contain_text("Pick a head")
    assert sum(ink()) == 0
    chips.get_by_role("button", name="Head 2").click()
    expect(page.locator(".heads-top .legend")).to_contain_text("weight, 0 to 1")
    only = ink()
    assert only[2] > 50
    assert only[0] == only[1] == only[3] == 0
    assert "heads=2" in page.url


def test_hostile_labels_are_text_and_nothing_else(tmp_path, opened: Opener) -> None:
    inputs = AttentionInputs(draw(2, 12, 8), draw(2, 12, 8, seed=1), tokens=[HOSTILE])
    path = write(tmp_path / "page.html", inputs, Full(), source="<script>document.title='broken'</script>.npz")
    it = opened(path)
    page = it.page
    title = page.title()
    for view in VIEWS:
        go(page, f"view={view}&query=3&key=0&head=1")
        expect(page.get_by_role("tab", selected=True)).to_have_id(f"attnviz-tab-{view}")
        assert page.locator("#attnviz script, #attnviz img, #attnviz style").count() == 0
    go(page, "view=text")
    shown = page.locator(".text-token bdi")
    expect(shown).to_have_count(12)
    texts = [text.strip() for text in shown.all_text_contents()]
    assert texts[:6] == [token.strip() for token in HOSTILE[:6]]
    assert texts[6] == "line\u21b5break"
    assert texts[7] == "[U+202E]gnol"
    assert texts[8] == "\u2423"
    assert texts[9] == "\u2423\u2423\u2423"
    assert "[U+2028]${1}{{7*7}}" in texts[11]
    assert page.title() == title
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(
    ("width", "dark"),
    [
        pytest.param(1280, False, id="desk"),
        pytest.param(360, True, id="dark phone"),
        pytest.param(1280, True, id="dark desk", marks=pytest.mark.matrix),
        pytest.param(360, False, id="phone", marks=pytest.mark.matrix),
        pytest.param(3840, False, id="wall", marks=pytest.mark.matrix),
    ],
)
def test_axe_finds_nothing(sentence, opened: Opener, view: str, width: int, dark: bool) -> None:
    page = opened(sentence, f"view={view}&query=8&key=3", width=width, dark=dark).page
    expect(page.locator("main")).not_to_be_empty()
    expect(page.locator(".pass")).to_have_count(0)
    page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text())
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")
    assert len(found["passes"]) > 15  # it did look
    assert [(one["id"], one["nodes"]) for one in found["violations"]] == []


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("view", VIEWS)
def test_nothing_sticks_out_of_a_phone(sentence, opened: Opener, view: str) -> None:
    page = opened(sentence, f"view={view}&query=8&key=3", width=360, height=740).page
    expect(page.locator("main")).not_to_be_empty()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate("document.documentElement.scrollHeight") == 740
    outside = page.locator(".bar button, .controls button, .controls input, .controls select").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect()).filter(box => box.left < 0 || box.right > 360).length"
    )
    assert outside == 0
    box = page.get_by_role("tabpanel").bounding_box()
    assert box
    assert box["height"] > 300


@pytest.mark.sweep
def test_the_switch_turns_the_page_dark_and_the_link_keeps_it(sentence, opened: Opener) -> None:
    page = opened(sentence, "view=map").page
    page.get_by_role("button", name="Switch to dark colors").click()
    expect(page.locator(".app")).to_have_attribute("data-theme", "dark")
    expect(page).to_have_url(re.compile("theme=dark"))
    again = opened(sentence, page.url.split("#")[1]).page
    expect(again.locator(".app")).to_have_attribute("data-theme", "dark")


def test_a_file_that_was_cut_short_says_so(sentence, tmp_path, opened: Opener) -> None:
    cut = tmp_path / "cut.html"
    cut.write_text(re.sub(r'(id="attnviz-chunk-1">)[^<]+', r"\1", sentence.read_text()))
    page = opened(cut, "view=query-key").page
    expect(page.get_by_role("alert")).to_have_text("the file has no chunk 1: it was cut short")


def test_a_host_that_allows_no_worker_gets_its_numbers_too(sentence, tmp_path, opened: Opener) -> None:
    strict = tmp_path / "strict.html"
    text = sentence.read_text()
    assert "worker-src blob:" in text
    strict.write_text(text.replace("worker-src blob:", "worker-src 'none'"))
    it = opened(strict, "view=map&head=1&query=8&key=2")
    it.expected = "worker"
    t, s = grid(12, 12)
    wanted = attend(3 * draw(4, 12, 8), draw(4, 12, 8, seed=1), s <= t).weights[1, 8, 2]
    assert abs(read_pair(it.page, 8, 2)[0] - wanted) <= WEIGHT
    assert any("worker" in said for said in it.complaints)  # it was refused one


def test_picked_heads_keep_their_numbers(tmp_path, opened: Opener) -> None:
    inputs = AttentionInputs(3 * draw(4, 12, 8), draw(4, 12, 8, seed=1))
    path = tmp_path / "page.html"
    write_page(path, [PageLayer(str(i), inputs.item(), Causal(), (1, 3)) for i in range(2)], "run.npz")
    page = opened(path, "view=model").page
    expect(page.get_by_role("columnheader")).to_have_text(["layer", "1", "3"])
    page.get_by_role("button", name="Layer 1, head 3: open its map").click()
    expect(page.locator(".status")).to_contain_text("layer 1 \u00b7 head 3")
    go(page, "view=map&head=1&query=8&key=2")
    t, s = grid(12, 12)
    wanted = attend(3 * draw(4, 12, 8), draw(4, 12, 8, seed=1), s <= t).weights[3, 8, 2]
    assert abs(read_pair(page, 8, 2)[0] - wanted) <= WEIGHT
