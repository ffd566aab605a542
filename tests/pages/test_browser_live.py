"""`attnviz view` in a browser: the page with its server, and without it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import expect

from attnviz import synthesize
from attnviz.sources.saving import save
from tests import warm
from tests.pages.conftest import Opener
from tests.pages.test_browser import go, grid, hover, number, read_pair


@pytest.fixture(scope="module")
def inputs():
    """Longer than the overview of one pass, so that there are tiles of every kind; small enough for a loop."""
    return synthesize(heads=2, tokens=2100, head_dim=4)


@pytest.fixture(scope="module")
def dump(inputs, tmp_path_factory):
    path = tmp_path_factory.mktemp("live") / "run.safetensors"
    save(path, inputs)
    return path


@pytest.fixture
def served(dump) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a server of the dump, and its process."""
    command = [warm.python(), "-m", "attnviz", "view", str(dump), "--pattern", "causal", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout
        address = server.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        yield address, server
        server.terminate()


def weights_of(inputs, head: int, first: int, end: int) -> np.ndarray:
    """Some rows of a causal head's weights, (end - first, T), by the formula."""
    q, k = inputs.q[0, head].double().numpy(), inputs.k[0, head].double().numpy()
    logits = q[first:end] @ k.T / np.sqrt(q.shape[1])
    t, s = grid(*logits.shape)
    shares = np.where(s <= t + first, np.exp(logits), 0)
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.mark.sweep
def test_the_map_from_the_whole_to_a_weight(inputs, served, opened: Opener) -> None:
    address, _ = served
    it = opened(address, "view=map&head=1", offline=False)
    page = it.page
    expect(page.locator(".map-leaflet canvas").first).to_be_visible()
    tip = hover(page, -60, 60)
    t, s = (int(tip[axis].replace(",", "").split("\u2013")[0]) for axis in ("queries", "keys"))
    size = int(re.search(r"\d+", page.locator(".legend figcaption").inner_text()).group(0))  # type: ignore[union-attr]
    assert size > 1
    wanted = weights_of(inputs, 1, t, t + size)[:, s : s + size].max()
    assert number(tip["largest weight"]) == pytest.approx(wanted, abs=6e-5, rel=6e-3)

    page.mouse.down()  # the crosshair comes to the largest weight of the cell
    page.mouse.up()
    at = np.unravel_index(int(weights_of(inputs, 1, t, t + size)[:, s : s + size].argmax()), (size, size))
    query, key = t + int(at[0]), s + int(at[1])
    weight, logit = read_pair(page, query, key)
    assert weight == pytest.approx(wanted, abs=6e-5, rel=6e-3)
    q, k = inputs.q[0, 1, query].double(), inputs.k[0, 1, key].double()
    assert logit == pytest.approx(float(q @ k) / 2, abs=1e-3)

    go(page, f"view=map&head=1&x={key + 0.5}&y={query + 0.5}&zoom=5&query={query}&key={key}")
    tip = hover(page)
    assert tip["query"].split()[0].replace(",", "") == str(query)
    assert number(tip["weight"]) == pytest.approx(wanted, abs=6e-5, rel=6e-3)
    assert all(url.startswith((address, "blob:")) for url in it.requests)


@pytest.mark.sweep
def test_every_view_has_its_numbers(inputs, served, opened: Opener) -> None:
    page = opened(served[0], "view=model", offline=False).page
    expect(page.locator(".thumb canvas").first).to_have_attribute("width", "64")
    row = weights_of(inputs, 0, 40, 41)[0]
    go(page, "view=text&query=40")
    page.locator("[data-position='12']").hover()
    said = page.locator("[data-role=text-readout]")
    expect(said).to_have_text(re.compile(r"query 40\b.*: [\d.e-]+$"))
    assert number(said.inner_text().split()[-1]) == pytest.approx(row[12], abs=6e-5, rel=6e-3)
    go(page, "view=query-key&query=40&key=12")
    shown = page.locator(".qk-view [data-value=weight]")
    expect(shown).to_be_visible()
    assert number(shown.inner_text()) == pytest.approx(row[12], abs=6e-5, rel=6e-3)
    go(page, "view=heads&query=40")
    expect(page.locator(".heads-top .legend")).to_contain_text("weight, 0 to 1")


@pytest.mark.sweep
def test_a_server_that_has_ended_is_named(served, opened: Opener) -> None:
    address, server = served
    it = opened(address, "view=query-key", offline=False)
    expect(it.page.locator(".qk-view [data-value=weight]")).to_be_visible()
    expect(it.page.locator(".neurons tbody tr").first).to_be_visible()  # all it asks for is there
    server.terminate()
    server.wait()
    it.expected = "ERR_CONNECTION_REFUSED"
    it.page.get_by_label("Next head").click()
    expect(it.page.get_by_role("alert")).to_contain_text("is attnviz view still running?")
