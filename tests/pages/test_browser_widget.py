"""The page in a notebook's cell: what anywidget does with the widget, done in a page of our own."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

import attnviz
from attnviz import Causal
from tests.pages.conftest import Opener
from tests.pages.test_browser import WEIGHT, draw, grid, read_pair
from tests.reference import attend

HOST = """<!doctype html><style>%s</style><div id="cell"></div><script type="module">
const bytes = text => { const all = Uint8Array.from(atob(text), letter => letter.charCodeAt(0)); return new DataView(all.buffer); };
const traits = { run: %s, chunks: %s.map(bytes), height: %d, fragment: "" };
const { default: widget } = await import(URL.createObjectURL(new Blob([%s], { type: "text/javascript" })));
const heard = new Set();
const model = {
  get: name => traits[name],
  set: (name, value) => { traits[name] = value; heard.forEach(tell => tell()); },
  save_changes: () => { window.saved = traits.fragment; },
  on: (event, tell) => heard.add(tell),
  off: (event, tell) => heard.delete(tell),
};
window.leave = widget.render({ model, el: document.getElementById("cell") });
window.python = fragment => model.set("fragment", fragment);
</script>"""


def script_text(value: object) -> str:
    return json.dumps(value).replace("</", "<\\/").replace("<!--", "<\\!--")


def written(folder: Path, host: str, widget: Any) -> Path:
    """A notebook's page whose cells have a widget."""
    chunks = [base64.b64encode(chunk).decode() for chunk in widget.chunks]
    parts = (widget._css, script_text(widget.run), script_text(chunks), widget.height, script_text(widget._esm))
    path = folder / "notebook.html"
    path.write_text(host % parts)
    return path


def test_a_cell_that_is_not_tall_has_its_tools_behind_a_button(tmp_path, opened: Opener) -> None:
    inputs = attnviz.AttentionInputs(draw(2, 12, 8), draw(2, 12, 8, seed=1))
    widget = attnviz.view(inputs, Causal(), height=400)
    host = written(tmp_path, HOST, widget)
    page = opened(host).page
    page.get_by_role("tab", name="Heads").click()
    tools = page.get_by_role("group", name="Tools of every view")
    expect(tools).to_have_count(0)
    scroll = page.locator(".heads-scroll").bounding_box()
    assert scroll is not None
    assert scroll["height"] >= 190
    page.get_by_role("button", name="Tools").click()
    expect(tools).to_be_visible()


@pytest.mark.sweep
def test_a_cell_holds_the_page_and_leaves_the_notebook_alone(tmp_path, opened: Opener) -> None:
    inputs = attnviz.AttentionInputs(draw(2, 12, 8), draw(2, 12, 8, seed=1))
    widget = attnviz.view(inputs, Causal(), height=500)
    host = written(tmp_path, HOST, widget)
    it = opened(host, "the-notebooks-own")
    page = it.page
    expect(page.get_by_role("tab", name="Model")).to_have_attribute("aria-selected", "true")
    page.get_by_role("button", name="Layer 0, head 1: open its map").click()
    page.get_by_label("query").last.fill("7")
    page.get_by_label("query").last.press("Enter")
    page.get_by_label("key", exact=True).last.fill("3")
    page.get_by_label("key", exact=True).last.press("Enter")
    t, s = grid(12, 12)
    wanted = attend(draw(2, 12, 8), draw(2, 12, 8, seed=1), s <= t).weights[1, 7, 3]
    assert abs(read_pair(page, 7, 3)[0] - wanted) <= WEIGHT
    # What is looked at goes to Python, and what Python sets is looked at.
    page.wait_for_function("window.saved?.includes('query=7') && window.saved.includes('key=3')")
    widget.fragment = page.evaluate("window.saved")
    assert (widget.view, widget.head, widget.query, widget.key) == ("map", 1, 7, 3)
    widget.query = 9
    page.evaluate("fragment => python(fragment)", widget.fragment)
    wanted = attend(draw(2, 12, 8), draw(2, 12, 8, seed=1), s <= t).weights[1, 9, 3]
    assert abs(read_pair(page, 9, 3)[0] - wanted) <= WEIGHT
    box = page.locator("#cell .app").bounding_box()
    assert box
    assert box["height"] == 500
    assert page.url.endswith("#the-notebooks-own")
    page.evaluate("leave()")
    expect(page.locator("#cell .app")).to_have_count(0)


NOTEBOOK = (
    HOST.replace(
        "<!doctype html>", '<!doctype html><body data-jp-theme-light="false"><div style="height: 700px"></div>'
    )
    .replace('<div id="cell"></div>', '<div id="cell"></div><div id="cell2"></div><div style="height: 1500px"></div>')
    .replace(
        "</script>",
        "traits.run = traits.run; widget.render({ model: { get: name => traits[name] }, el: document.getElementById('cell2') });</script>",
    )
)


def test_two_cells_of_a_dark_notebook(tmp_path, opened: Opener) -> None:
    """They go with its theme, their ids differ, and a wheel over a map scrolls the notebook until the map is in use."""
    inputs = attnviz.AttentionInputs(draw(2, 12, 8), draw(2, 12, 8, seed=1))
    widget = attnviz.view(inputs, Causal(), height=500)
    host = written(tmp_path, NOTEBOOK, widget)
    page = opened(host).page
    expect(page.locator(".app")).to_have_count(2)
    expect(page.locator("#cell .app")).to_have_attribute("data-theme", "dark")
    page.evaluate("document.body.dataset.jpThemeLight = 'true'")
    expect(page.locator("#cell .app")).to_have_attribute("data-theme", "light")
    ids = page.locator("[id]").evaluate_all("all => all.map(one => one.id)")
    assert len(ids) == len(set(ids))
    page.locator("#cell").get_by_role("tab", name="Map").click()
    frame = page.locator("#cell .map-frame")
    expect(frame.locator("canvas").first).to_be_visible()
    frame.hover()
    before, label = page.evaluate("scrollY"), page.locator("#cell .legend").inner_text()
    page.mouse.wheel(0, 120)
    page.wait_for_function("before => scrollY > before", arg=before)
    frame.click()
    frame.hover()
    before = page.evaluate("scrollY")
    zoom = "document.querySelector('#cell .cross-query').getBoundingClientRect().height"
    height = page.evaluate(zoom)
    page.mouse.wheel(0, 300)
    page.wait_for_function(f"height => {zoom} < height", arg=height)
    assert page.evaluate("scrollY") == before
    assert label == page.locator("#cell .legend").inner_text()
