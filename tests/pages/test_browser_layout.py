"""Nothing moves under the pointer, paper shows what the screen does, and double clicks and Escape are alike everywhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from attnviz import AttentionInputs
from attnviz.attention.patterns import Causal
from attnviz.pages.description import PageLayer
from attnviz.pages.html import write_page
from tests.pages.conftest import Opener
from tests.pages.test_browser import draw, go

WORDS = ["The", " animal", " did", " not", " cross", " the", " street", ":", " it", " was", " unquestionably", "."]
CLICKED = {  # view: what is clicked, one of many
    "heads": ".heads-column.query .heads-token",
    "text": ".text-token",
    "map": ".map-frame",
}


@pytest.fixture(scope="module")
def sentence(tmp_path_factory) -> Path:
    """Forty tokens, a few of them long."""
    tokens = [WORDS[i % len(WORDS)] for i in range(40)]
    inputs = AttentionInputs(3 * draw(3, 40, 8), draw(3, 40, 8, seed=1), tokens=[tokens])
    path = tmp_path_factory.mktemp("page") / "sentence.html"
    layers = [PageLayer(str(i), inputs.item(), Causal(), (0, 1, 2)) for i in range(2)]
    write_page(path, layers, "run.npz")
    return path


def boxes(page: Page, selector: str) -> list[list[float]]:
    return page.locator(selector).evaluate_all(
        "all => all.map(one => one.getBoundingClientRect()).map(box => [box.x, box.y, box.width, box.height])"
    )


WIDTHS = [320, 390, 760, 1024, 1440, 3840]


def covering() -> list[tuple[int, str]]:
    """Each view and each width with one of the other; all of them are in the matrix."""
    views = list(CLICKED)
    return [(width, views[i % len(views)]) for i, width in enumerate(WIDTHS)]


def clicks_hit_what_they_aim_at(page: Page, view: str) -> None:
    things = page.locator(CLICKED[view])
    expect(things.first).to_be_visible()
    page.wait_for_function("!document.querySelector('.thumb') && document.fonts.status === 'loaded'")
    for nth in (0, 7, 11):
        before = boxes(page, CLICKED[view])
        thing = things.nth(0 if view == "map" else nth)
        box = thing.bounding_box()
        assert box
        at = (box["x"] + box["width"] * (0.45 + nth / 100 if view == "map" else 0.5), box["y"] + box["height"] / 2)
        page.mouse.move(*at)
        page.mouse.down()
        assert boxes(page, CLICKED[view]) == before, "something moved as the button went down"
        page.mouse.up()
        expect(page).to_have_url(re.compile(r"\bquery=\d"))
        assert boxes(page, CLICKED[view]) == before, "something moved after the click"
        if view != "map":
            expect(thing).to_have_attribute("aria-pressed", "true")
            continue
        cross = page.locator(".cross-query").bounding_box()  # the crosshair is where the click was
        assert cross
        assert cross["y"] - 1 <= at[1] <= cross["y"] + cross["height"] + 1


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(("width", "view"), covering())
def test_clicks_hit_what_they_aim_at(sentence, opened: Opener, width: int, view: str) -> None:
    page = opened(sentence, f"view={view}&layer=1&head=2", width=width, height=800).page
    clicks_hit_what_they_aim_at(page, view)
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.matrix
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("view", CLICKED)
def test_clicks_hit_what_they_aim_at_in_every_view_at_every_width(
    sentence, opened: Opener, width: int, view: str
) -> None:
    test_clicks_hit_what_they_aim_at(sentence, opened, width, view)


@pytest.mark.matrix
@pytest.mark.parametrize("width", WIDTHS)
def test_thumbnails_keys_and_switches_are_hit_at_every_width(sentence, opened: Opener, width: int) -> None:
    page = opened(sentence, "view=model", width=width, height=800).page

    def press(thing: Locator) -> None:
        thing.scroll_into_view_if_needed()
        box = thing.bounding_box()
        assert box
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        assert thing.bounding_box() == box, "it moved as the button went down"
        page.mouse.up()

    for layer, head in ((0, 0), (1, 2)):
        go(page, "view=model")
        expect(page.locator(".thumb-top").last).to_have_text(re.compile(r"\d"))
        press(page.get_by_role("button", name=f"Layer {layer}, head {head}: open its map"))
        expect(page).to_have_url(re.compile(rf"view=map&layer={layer}&head={head}\b"))
    for view, name in (
        ("map", "by row"),
        ("map", "sides"),
        ("text", "to 99 %"),
        ("heads", "by row"),
        ("query-key", "by size"),
    ):
        go(page, f"view={view}&layer=1&head=2&query=9&key=3")
        expect(page.locator(".strongest b").first).to_be_attached()
        switch = page.get_by_role("button", name=name, exact=True)
        was = switch.get_attribute("aria-pressed")
        press(switch)
        expect(switch).to_have_attribute("aria-pressed", "false" if was == "true" else "true")
    for view in ("text", "heads", "query-key"):
        go(page, f"view={view}&layer=1&head=2&heads=2&query=9&key=3")
        key = page.locator(".strongest button").nth(2)
        expect(key).to_be_visible()
        index = key.locator("span").first.inner_text()
        press(key)
        sought = {
            "query-key": ".strongest [aria-pressed=true]",
            "text": ".text-token.sought",
            "heads": ".heads-column.key .sought",
        }
        expect(page.locator(sought[view])).to_contain_text(WORDS[int(index) % len(WORDS)].strip())


@pytest.mark.sweep
def test_escape_lets_go_and_a_double_click_takes_nothing_back_in_every_view(sentence, opened: Opener) -> None:
    page = opened(sentence, "view=text&layer=1&head=2").page
    for view, selector in CLICKED.items():
        go(page, f"view={view}&layer=1&head=2")
        thing = page.locator(selector).nth(0 if view == "map" else 9)
        thing.dblclick()
        expect(page).to_have_url(re.compile(r"\bquery=\d"))
        page.go_back()
        expect(page).not_to_have_url(re.compile(r"\bquery=\d"))  # one step
        page.go_forward()
        expect(page).to_have_url(re.compile(r"\bquery=\d"))
        page.keyboard.press("Escape")
        expect(page).not_to_have_url(re.compile(r"\bquery=\d"))
    go(page, "view=query-key&layer=1&head=2&query=9&key=3")
    page.get_by_label("Previous head").focus()
    page.keyboard.press("Escape")
    expect(page).not_to_have_url(re.compile(r"\bquery=\d"))
    go(page, "view=model")
    page.get_by_role("button", name="Layer 1, head 1: open its map").dblclick()
    expect(page.get_by_role("tab", selected=True)).to_have_text("Map")
    expect(page.locator(".readout")).to_contain_text("Click a cell")  # the second click chose nothing


def test_a_map_that_is_left_while_it_zooms_ends_without_a_complaint(sentence, opened: Opener) -> None:
    page = opened(sentence, "view=map&layer=1&head=2").page
    began = page.locator(
        ".map-leaflet"
    ).evaluate(  # within the page: the zoom's quarter of a second is short for a test
        """async (map) => {
            const { left, top, width, height } = map.getBoundingClientRect();
            const at = { clientX: left + width / 2, clientY: top + height / 2, bubbles: true };
            map.dispatchEvent(new MouseEvent("dblclick", at));
            const began = () => map.querySelectorAll(".leaflet-zoom-anim").length;
            for (let frame = 0; frame < 9 && began() === 0; frame++) await new Promise(requestAnimationFrame);
            const found = began();
            location.hash = "view=text&layer=1&head=2";
            return found;
        }"""
    )
    assert began == 1
    expect(page.locator(".text-view")).to_be_visible()
    page.wait_for_timeout(300)  # the zoom would end


@pytest.mark.sweep
def test_paper_shows_what_the_screen_does(sentence, opened: Opener) -> None:
    """Axes stay with their cells, shades are kept, and no control is printed."""
    page = opened(sentence, "view=map&layer=1&head=2&query=20&key=10", width=1440, height=900).page
    expect(page.locator(".map-leaflet canvas").first).to_be_visible()
    before = boxes(page, ".map-leaflet, .axis, .cross")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    shrunk = 700 / page.locator(".app").evaluate("app => app.offsetWidth")
    after = boxes(page, ".map-leaflet, .axis, .cross")
    for screen, paper in zip(before, after, strict=True):
        assert paper[2:] == pytest.approx([screen[2] * shrunk, screen[3] * shrunk], abs=2)
        apart = [screen[0] - before[0][0], screen[1] - before[0][1]]
        assert [paper[0] - after[0][0], paper[1] - after[0][1]] == pytest.approx([one * shrunk for one in apart], abs=2)
    expect(page.locator(".controls")).to_be_hidden()
    expect(page.locator(".legend")).to_be_visible()
    for view in ("text", "model", "query-key", "heads"):
        page.emulate_media(media="screen")
        go(page, f"view={view}&layer=1&head=2&query=20&key=10")
        expect(page.get_by_role("tab", selected=True)).to_have_id(f"attnviz-tab-{view}")
        page.emulate_media(media="print")
        assert page.locator(".app").evaluate("app => getComputedStyle(app).printColorAdjust") == "exact"
        if view != "heads":
            assert page.locator(".view").evaluate("view => view.scrollHeight <= view.clientHeight + 1")  # none is cut
