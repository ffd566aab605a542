"""More of a head: what stands at the sides of its map, colors by row and to a percentile, groups, global tokens, lengths."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, expect

from attnviz import AttentionInputs
from attnviz.attention.patterns import Pattern, longformer
from attnviz.pages import encoding
from attnviz.pages.description import PageLayer
from attnviz.pages.html import write_page
from tests.pages.conftest import Opener, serving
from tests.pages.decoding import entropies
from tests.pages.test_browser import cases, draw, go, grid, hover, places, reference, wait_for_text
from tests.pages.test_browser_digits import is_right

NAME = "softcap, bias, ALiBi and sinks"


def truth(inputs: AttentionInputs, visible: np.ndarray) -> np.ndarray:
    """(H, T, S), NaN where hidden."""
    exact = reference(inputs, visible)
    return np.where(np.isneginf(exact.logits), np.nan, exact.weights)


def written(path: Path, inputs: AttentionInputs, pattern: Pattern, *, coarse: bool = False) -> Path:
    with pytest.MonkeyPatch.context() as patched:
        if coarse:
            patched.setattr(encoding, "ROOM", 0)
        write_page(path, [PageLayer("0", inputs.item(), pattern, tuple(range(inputs.H)))], "run.npz")
    return path


def sides_are_right(page: Page, inputs: AttentionInputs, weights: np.ndarray, pairs: int = 4) -> None:
    drawn, where = np.random.default_rng(3), places(inputs)
    entropy = entropies(weights)
    with np.errstate(invalid="ignore"):
        received = np.nansum(weights, 1) / np.maximum((~np.isnan(weights)).sum(1), 1)
    seen = (~np.isnan(weights)).any(1)
    for _ in range(pairs):
        head, query, key = (int(drawn.integers(n)) for n in weights.shape)
        go(page, f"view=map&head={head}&query={query}&key={key}")
        wait_for_text(
            page,
            ".readout",
            rf"query {where.queries[query]}(?!\d).*key {where.keys[key]}(?!\d).*entropy of the query (\S+ nats|none)",
        )
        said = page.locator(".readout [data-value=received]").inner_text()
        assert is_right(said, received[head, key]) if seen[head, key] else "nothing" in said, (head, key)
        said = page.locator(".readout [data-value=entropy]").inner_text()
        finite = np.isfinite(entropy[head, query])
        assert is_right(said.removesuffix(" nats"), entropy[head, query]) if finite else said == "none", (head, query)


@pytest.mark.parametrize("coarse", [True, False], ids=["12 bits", "float32"])
def test_what_keys_receive_and_entropies_are_those_of_the_formula(tmp_path, opened: Opener, coarse: bool) -> None:
    inputs, pattern, visible = cases()[NAME]
    page = opened(written(tmp_path / "page.html", inputs, pattern, coarse=coarse), "view=map").page
    sides_are_right(page, inputs, truth(inputs, visible))


@pytest.mark.matrix
@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("live", [False, True], ids=["file", "server"])
def test_sides_of_every_kind_of_attention(tmp_path, opened: Opener, name: str, live: bool) -> None:
    inputs, pattern, visible = cases()[name]
    if live:
        with serving(PageLayer("0", inputs.item(), pattern, tuple(range(inputs.H)))) as address:
            sides_are_right(opened(address, "view=map", offline=False).page, inputs, truth(inputs, visible), 12)
        return
    page = opened(written(tmp_path / "page.html", inputs, pattern), "view=map").page
    sides_are_right(page, inputs, truth(inputs, visible), 12)


def lengths(page: Page, selector: str, down: bool) -> np.ndarray:
    """How far the bars of a canvas reach, in shares of the longest, a number for each pixel along the axis."""
    pixels = page.locator(selector).evaluate(
        "canvas => [canvas.width, canvas.height, [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]]"
    )
    width, height, data = pixels
    ink = np.reshape(data, (height, width, 4))[..., 3] > 100
    reach = ink.sum(1 if down else 0)
    return reach / max(1, reach.max())


@pytest.mark.sweep
def test_bars_stand_beside_their_rows_and_tooltips_say_their_numbers(tmp_path, opened: Opener) -> None:
    inputs, pattern, visible = cases()[NAME]
    weights = truth(inputs, visible)[1]
    page = opened(written(tmp_path / "page.html", inputs, pattern), "view=map&head=1&x=10&y=10&zoom=4.5").page
    expect(page.locator(".side-name-query")).to_contain_text("nats")
    tip = hover(page, -41, 41)
    t, s = int(tip["query"]), int(tip["key"])
    assert is_right(tip["entropy"].removesuffix(" nats"), entropies(weights)[t])
    assert is_right(tip["received"], np.nanmean(weights[:, s]))
    box, frame = (page.locator(one).bounding_box() for one in (".side-query", ".map-frame"))
    assert box
    assert frame
    assert (box["y"], box["height"]) == pytest.approx((frame["y"], frame["height"]), abs=1)
    reach = lengths(page, ".side-query", down=True)
    middle = frame["height"] / 2
    for row in range(6, 15):  # a row is 2 ** 4.5 pixels, and row 10 begins in the middle
        at = int(middle + (row + 0.5 - 10) * 2**4.5)
        assert reach[at] == pytest.approx(entropies(weights)[row] / np.nanmax(entropies(weights)), abs=0.04), row
    page.get_by_role("button", name="sides").click()
    expect(page.locator(".side")).to_have_count(0)
    page.wait_for_function("location.hash.includes('margins=0')")


def cell_color(page: Page, query: int, key: int) -> np.ndarray:
    """RGB in the middle of a cell, of a map whose view is around query 10 and key 10 at zoom 4.5."""
    picture = np.asarray(Image.open(io.BytesIO(page.locator(".map-leaflet").screenshot())).convert("RGB"))
    height, width = picture.shape[:2]
    return picture[int(height / 2 + (query + 0.5 - 10) * 2**4.5), int(width / 2 + (key + 0.5 - 10) * 2**4.5)]


def test_colors_by_row_and_to_a_percentile(tmp_path, opened: Opener) -> None:
    inputs, pattern, visible = cases()[NAME]
    weights = truth(inputs, visible)[0]
    where = "view=map&head=0&x=10&y=10&zoom=4.5"
    page = opened(written(tmp_path / "page.html", inputs, pattern), f"{where}&strength=row").page
    expect(page.locator(".legend figcaption")).to_have_text("weight, as a share of the row\u2019s largest")
    expect(page.locator(".map-leaflet canvas").first).to_be_visible()
    for query in (6, 9, 12):  # each row's largest has the darkest color
        np.testing.assert_allclose(
            cell_color(page, query, int(np.nanargmax(weights[query]))), [0x15, 0x16, 0x4B], atol=2
        )
    go(page, f"{where}&strength=robust")
    robust = np.percentile(weights[~np.isnan(weights)], 99)
    expect(page.locator(".legend-ticks span").last).to_have_text(f"\u2265 {float(f'{robust:.2g}'):g}")
    page.get_by_role("button", name="mass", exact=True).click()
    expect(page.get_by_role("button", name="by row")).to_have_count(0)  # masses have no largest of a row
    go(page, "view=heads&heads=0&strength=robust")  # of the lines of the head that is shown
    expect(page.locator(".legend-ticks span").last).to_have_text(f"\u2265 {float(f'{robust:.2g}'):g}")


def test_no_command_makes_colors_by_row_and_the_menu_says_so(longformer_page, opened: Opener) -> None:
    page = opened(longformer_page[0], "view=map&strength=row").page
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".take-why")).to_have_text("No command and no Python makes colors by row.")
    expect(page.get_by_role("button", name="Copy as command")).to_be_disabled()


@pytest.fixture(scope="module")
def longformer_page(tmp_path_factory) -> tuple[Path, np.ndarray, AttentionInputs]:
    """Four heads of two key heads, every thirteenth token global; and the weights."""
    inputs = AttentionInputs(2 * draw(4, 40, 8), draw(2, 40, 8, seed=1), global_mask=torch.arange(40) % 13 == 0)
    t, s = grid(40, 40)
    visible = (abs(t - s) <= 3) | (s % 13 == 0) | (t % 13 == 0)
    path = written(tmp_path_factory.mktemp("page") / "page.html", inputs, longformer(3))
    return path, truth(inputs, visible), inputs


def test_the_heads_view_says_what_keys_receive_of_all_queries(longformer_page, opened: Opener) -> None:
    path, weights, _ = longformer_page
    page = opened(path, "view=heads&heads=1,2&first=20&count=8").page  # a window of eight
    received = np.nanmean(weights, 1)
    for head in (1, 2):
        listed = page.get_by_role("group", name=f"The keys that receive most, head {head}")
        expect(listed.get_by_role("button")).to_have_count(4)
        for text, key in zip(
            listed.get_by_role("button").all_inner_texts(), np.argsort(-received[head])[:4], strict=True
        ):
            said = text.split()
            assert int(said[0]) == key
            assert is_right(said[1], received[head, key])
    page.get_by_role("group", name="The keys that receive most, head 1").get_by_role("button").first.click()
    expect(page.locator(f'.heads-column.key [data-position="{int(np.argmax(received[1]))}"]')).to_be_in_viewport()


def test_groups_of_heads_and_global_tokens_are_marked(longformer_page, opened: Opener) -> None:
    path, _, _ = longformer_page
    page = opened(path, "view=heads&count=40").page
    expect(page.locator(".heads-column.key .global")).to_have_count(4)
    expect(page.locator(".heads-column.query .global")).to_have_count(4)
    expect(page.locator(".chip.begins-group")).to_have_text("2")
    expect(page.get_by_role("button", name="Head 3")).to_have_attribute("title", re.compile("reads key head 1 of 2"))
    go(page, "view=text&query=5")
    expect(page.locator(".text-token.global")).to_have_text(["0", "13", "26", "39"])
    expect(page.locator(".legend-global")).to_be_visible()
    go(page, "view=model")
    expect(page.locator('[role="gridcell"].begins-group')).to_have_count(1)
    expect(page.locator(".thumb").nth(1)).to_have_attribute(
        "title", re.compile("head 1, reads key head 0 of 2: largest")
    )


def test_a_score_is_lengths_and_an_angle(longformer_page, opened: Opener) -> None:
    path, _, inputs = longformer_page
    page = opened(path, "view=query-key&head=3&query=9&key=11").page
    q, k = inputs.q[0, 3, 9].double().numpy(), inputs.k[0, 1, 11].double().numpy()
    wanted = {"query-norm": np.linalg.norm(q), "key-norm": np.linalg.norm(k)}
    wanted["cosine"] = q @ k / wanted["query-norm"] / wanted["key-norm"]
    for name, value in wanted.items():
        assert is_right(page.locator(f"[data-value={name}]").inner_text(), value), name


def test_by_row_a_keys_column_is_of_shares_of_each_querys_largest(longformer_page, opened: Opener) -> None:
    path, weights, _ = longformer_page
    page = opened(path, "view=text&head=2&flow=receives&key=13&strength=row").page
    expect(page.locator(".legend figcaption")).to_contain_text("as a share of the query\u2019s largest")
    shares = weights[2, :, 13] / np.nanmax(weights[2], axis=1)
    dark = page.locator(".text-token").evaluate_all(
        "all => all.map(one => getComputedStyle(one).backgroundColor.match(/[0-9.]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0))"
    )
    assert np.argsort(dark)[:3].tolist() == np.argsort(-shares)[:3].tolist()
    assert (
        np.argsort(-shares)[:3] != np.argsort(-weights[2, :, 13])[:3]
    ).any()  # which is another order than the weights'


def test_what_goes_to_both_sides_of_0_has_no_sides(longformer_page, opened: Opener) -> None:
    page = opened(longformer_page[0], "view=map&head=1&with=0.2&how=difference&query=9&key=9").page
    expect(page.locator(".readout [data-value=weight]")).to_be_visible()
    expect(page.locator(".side, [data-value=entropy]")).to_have_count(0)
    expect(page.get_by_role("button", name="sides", exact=True)).to_have_count(0)
    go(page, "view=heads&logits=1&heads=1")
    expect(page.locator(".legend figcaption")).to_have_text("size of the score; red: above 0, blue: below")
    expect(page.locator(".heads-titles")).not_to_contain_text("bars")


def test_bars_beside_keys_are_what_they_receive(longformer_page, opened: Opener) -> None:
    path, weights, _ = longformer_page
    page = opened(path, "view=heads&heads=1&first=0&count=12", width=1280, height=800).page
    expect(page.locator(".heads-titles")).to_contain_text("bars are what it receives")
    received = np.nanmean(weights[1], axis=0)[:12]
    alphas = page.locator(".heads-scroll canvas").evaluate(
        """canvas => {
            const context = canvas.getContext('2d');
            const tokens = [...document.querySelectorAll('.heads-column.key .heads-token')];
            const own = canvas.getBoundingClientRect();
            return tokens.map(token => {
                const box = token.getBoundingClientRect();
                const at = [box.left - own.left + 5, box.top + box.height / 2 - own.top].map(one => one * devicePixelRatio);
                return context.getImageData(at[0], at[1], 1, 1).data[3] / 255;
            });
        }"""
    )
    np.testing.assert_allclose(alphas, received, atol=0.012)
