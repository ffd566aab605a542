"""What is done with any view, in one browser and one page: found, compared, left out, counted and taken away."""

from __future__ import annotations

import csv
import io
import re
import shlex
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import axe_playwright_python
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

import attnviz
from tests.pages.test_browser import go, number, wait_for_text
from tests.reference import attend

TOKENS = [
    "[CLS]",
    "the",
    "un",
    "##friend",
    "##ly",
    "dog",
    "saw",
    "it",
    ".",
    "[SEP]",
    "it",
    "ran",
    ",",
    "it",
    "said",
    "[SEP]",
]
T = len(TOKENS)
SPECIAL = [0, 9, 15]
WEIGHT = 1e-3 + 6e-5  # the format's promise, and half of the last digit shown


def layer(number: int) -> attnviz.AttentionInputs:
    made = attnviz.synthesize(heads=4, tokens=T, seed=number, head_dim=8)
    return replace(
        made,
        q=2 * made.q,
        tokens=[TOKENS],
        token_form="wordpiece",
        special_tokens=[SPECIAL],
        global_mask=None,
        layer=number,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A dump of two layers, and its page."""
    folder = tmp_path_factory.mktemp("tools")
    attnviz.save(folder / "a dump.npz", [layer(0), layer(1)])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        attnviz.page("page.html", "a dump.npz", "full")
    return folder


@pytest.fixture(scope="module")
def page(chromium: Browser, folder: Path) -> Iterator[Page]:
    """The page, opened once; no test may make it complain."""
    context = chromium.new_context(viewport={"width": 1280, "height": 860}, accept_downloads=True, offline=True)
    context.set_default_timeout(20_000)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.goto((folder / "page.html").as_uri())
    yield page
    context.close()
    assert complaints == []


@cache
def weights(of: int, head: int) -> np.ndarray:
    inputs = layer(of)
    return attend(inputs.q[0], inputs.k[0], np.ones((T, T), dtype=bool)).weights[head]


def menu(page: Page) -> None:
    if not page.locator(".take-menu").is_visible():
        page.get_by_role("button", name="Save").click()


def copied(page: Page, name: str) -> str:
    """What a button of the menu copies; it is shown there too."""
    menu(page)
    page.get_by_role("button", name=name).click()
    shown = page.locator(".take-copied textarea")
    expect(shown).to_have_value(re.compile("^attnviz " if name.endswith("command") else "^(import|from) "))
    return shown.input_value()


def saved(page: Page, name: str) -> bytes:
    menu(page)
    with page.expect_download() as download:
        page.locator(".take-menu").get_by_role("button", name=name, exact=True).click()
    return Path(download.value.path()).read_bytes()


def table(page: Page) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(saved(page, "CSV").decode())))


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("fragment", "part"),
    [
        ("view=map&layer=1&head=2", (range(T), range(T))),
        ("view=map&layer=1&head=2&x=5&y=4&zoom=6", None),
        ("view=map&layer=1&head=2&reduce=mass&scale=log&strength=relative", (range(T), range(T))),
        ("view=heads&layer=1&head=2&heads=1,2&first=3&count=5", (range(3, 8), range(3, 8))),
    ],
)
def test_the_numbers_that_are_seen_the_csv_and_the_copied_command_agree(page, folder, monkeypatch, run, fragment, part):
    monkeypatch.chdir(folder)
    go(page, fragment)
    command = copied(page, "Copy as command")
    program, kind, *words = shlex.split(command)
    assert (program, kind, words[-2:]) == ("attnviz", "plot", ["-o", "attention.png"])
    assert run(kind, *words[:-1], "map.npz").code == 0
    with np.load("map.npz") as made:
        cells, rows, columns = made["cells"], made["row_edges"][:-1], made["column_edges"][:-1]
        heads = made["heads"].tolist()
    if part is not None:
        assert (rows.tolist(), columns.tolist()) == (list(part[0]), list(part[1]))
    seen = table(page)
    assert len(seen) == len(heads) * len(rows) * len(columns)
    for row in seen:
        head, query, key = (int(row[name]) for name in ("head", "query", "key"))
        made = cells[heads.index(head), rows.tolist().index(query), columns.tolist().index(key)]
        assert abs(float(row["weight"]) - made) <= float(row["within"]) + 1e-7
        assert float(row["within"]) <= 1e-3
        assert abs(float(row["weight"]) - weights(1, head)[query, key]) <= 1e-3
        assert (row["layer"], row["query_token"], row["key_token"]) == ("1", TOKENS[query], TOKENS[key])


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(
    ("fragment", "kind"),
    [
        ("view=map&head=1&theme=dark", "plot"),
        ("view=map&head=1&strength=robust", "plot"),
        ("view=heads&heads=0,3", "plot"),
        ("view=text&head=1&query=7", "plot"),
        ("view=text&head=1", "plot"),
        ("view=model", "overview"),
        ("view=query-key&head=2&query=7&key=5", "explain"),
        ("view=map&head=1&out=special,punctuation&again=1&words=1", "plot"),
    ],
)
def test_what_is_copied_of_every_view_runs(page, folder, monkeypatch, run, fragment, kind):
    import matplotlib.pyplot as plt

    monkeypatch.chdir(folder)
    go(page, fragment)
    words = shlex.split(copied(page, "Copy as command"))
    assert words[:2] == ["attnviz", kind]
    result = run(*words[1:])
    assert (result.code, bool(result.out or Path("attention.png").exists())) == (0, True)
    if kind == "explain":
        row = next(line for line in result.out.splitlines() if "weight" in line.lower())
        assert row
    python = copied(page, "Copy as Python")
    exec(python, {})
    plt.close("all")


def test_no_words_are_copied_of_what_no_command_makes(page):
    """Colors by row: a picture of them can be saved, and its cells have the row's own color scale."""
    go(page, "view=map&layer=0&head=1&strength=row")
    menu(page)
    for name in ("Copy as command", "Copy as Python"):
        expect(page.get_by_role("button", name=name)).to_be_disabled()
    drawing = ElementTree.fromstring(saved(page, "SVG"))
    name = "{http://www.w3.org/2000/svg}"
    cells = {
        one.find(f"{name}title").text: one.get("fill")
        for one in drawing.iter(f"{name}rect")
        if one.find(f"{name}title") is not None
    }
    assert len(cells) == T * T
    darkest = [said for said, fill in cells.items() if fill == "rgb(21 22 75)"]
    assert len(darkest) == T  # of each row its largest


@pytest.mark.sweep
def test_pictures_have_the_legend_and_are_what_they_say(page):
    for view, says in (
        ("map&head=1", "not visible"),
        ("heads&query=5", "head 1"),
        ("text&query=5", "weight"),
        ("model", "largest weight in a cell"),
        ("query-key&query=5&key=2", "raises the score"),
    ):
        go(page, f"view={view}")
        drawn = ElementTree.fromstring(saved(page, "SVG"))
        texts = ["".join(one.itertext()) for one in drawn.iter("{http://www.w3.org/2000/svg}text")]
        assert any(says in text for text in texts), view
        assert "a dump.npz" in texts[0]
        png = saved(page, "PNG")
        assert png[:8] == b"\x89PNG\r\n\x1a\n"
        width = int.from_bytes(png[16:20], "big")
        assert abs(width - 2 * float(drawn.attrib["width"])) <= 2


def test_a_cell_of_the_svg_says_its_weight(page):
    go(page, "view=map&layer=1&head=2")
    drawn = ElementTree.fromstring(saved(page, "SVG"))
    said = [one.text or "" for one in drawn.iter("{http://www.w3.org/2000/svg}title")]
    found = {
        tuple(map(int, re.findall(r"(\d+)(?= \u2192|:)", text))): float(text.split(": ")[1])
        for text in said
        if "\u2192" in text
    }
    assert len(found) == T * T
    for (query, key), weight in found.items():
        assert abs(weight - weights(1, 2)[query, key]) <= 1e-3


def test_a_word_is_found_marked_and_gone_to(page):
    go(page, "view=heads")
    page.keyboard.press("/")
    field = page.get_by_label("Find a token, a word or a position")
    expect(field).to_be_focused()
    field.fill("it")
    expect(page.locator(".find-count")).to_have_text("3 found")
    expect(page.locator(".heads-column.query .found")).to_have_count(3)
    expect(page.locator(".heads-column.key .found")).to_have_count(3)
    field.press("Enter")
    expect(page.locator(".find-count")).to_have_text("1 of 3")
    expect(page.locator('.heads-column.query [aria-pressed="true"]')).to_have_attribute("data-position", "7")
    field.blur()
    page.keyboard.press("n")
    expect(page.locator('.heads-column.query [aria-pressed="true"]')).to_have_attribute("data-position", "10")
    page.keyboard.press("N")
    expect(page.locator('.heads-column.query [aria-pressed="true"]')).to_have_attribute("data-position", "7")
    field.fill("unfriendly")  # of three tokens
    expect(page.locator(".heads-column.key .found")).to_have_count(3)
    page.get_by_role("group", name="What is found").get_by_role("button", name="key").click()
    page.get_by_role("button", name="Next match").click()
    expect(page.locator('.heads-column.key [aria-pressed="true"]')).to_have_attribute("data-position", "2")
    assert "find=unfriendly" in page.url
    field.fill("xylophone")
    expect(page.locator(".find-count")).to_have_text("none")
    field.press("Escape")
    expect(page.locator(".found")).to_have_count(0)


def test_keys_go_to_heads_layers_and_views_and_are_listed(page):
    page.evaluate("document.activeElement.blur()")
    go(page, "view=map&layer=0&head=3")
    for key, says in (
        ("]", "layer 0 · head 0"),
        ("[", "layer 0 · head 3"),
        ("}", "layer 1 · head 3"),
        ("{", "layer 0 · head 3"),
    ):
        page.keyboard.press(key)
        expect(page.locator(".status")).to_contain_text(says)
    page.keyboard.press("4")
    expect(page.get_by_role("tab", name="Text")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys of the keyboard")
    for said in ("next head", "previous layer", "next match", "find a word", "the map view"):
        expect(dialog).to_contain_text(said)
    page.keyboard.press("]")  # the list is open: nothing moves
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator(".status")).to_contain_text("layer 0 · head 3")
    page.get_by_label("Find a token, a word or a position").fill("]")  # typed, not a key
    expect(page.locator(".status")).to_contain_text("layer 0 · head 3")


def test_the_layers_heads_stand_beside_the_map(page):
    go(page, "view=map&layer=1&head=2")
    strip = page.get_by_role("group", name="Heads of this layer")
    expect(strip.get_by_role("button")).to_have_count(4)
    expect(strip.locator('[aria-current="true"]')).to_have_attribute("data-stop", "2")
    strip.get_by_role("button").nth(3).click()
    expect(page.locator(".status")).to_contain_text("layer 1 · head 3")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(page.locator(".status")).to_contain_text("layer 1 · head 2")


def test_heads_are_colored_sorted_and_grouped_by_their_numbers(page):
    rows = [row for number in range(2) for row in attnviz.head_statistics(layer(number), "full", layer=number)]
    go(page, "view=model&stat=entropy&rank=most")
    wait_for_text(page, ".ranked .number-chip", r"\d")
    wanted = sorted(rows, key=lambda row: -(row.entropy or 0))
    names = page.locator(".ranked-name").all_inner_texts()
    assert names == [f"{row.layer}.{row.head}" for row in wanted]
    chips = page.locator(".number-chip").all_inner_texts()
    np.testing.assert_allclose([float(chip) for chip in chips], [row.entropy for row in wanted], rtol=5e-4)
    go(page, "view=model&rank=role")
    tags = {row.tag for row in rows}
    expect(page.locator(".ranked h2")).to_have_count(len(tags))
    role = rows[0].tag
    go(page, f"view=model&stat=distance&role={role}")
    expect(page.locator(".not-of-role")).to_have_count(sum(row.tag != role for row in rows))
    page.locator('[role="gridcell"]').nth(5).hover()
    row = rows[5]
    numbers = page.locator(".numbers-row")
    expect(numbers).to_contain_text(f"layer 1, head {row.head}")
    expect(numbers).to_contain_text(row.tag)
    shown = {
        one.locator("dt").inner_text(): number(one.locator("dd").inner_text().split()[0])
        for one in numbers.locator("dl > div").all()
    }
    for name, value in row.values.items():
        if value is not None:
            assert shown[name.replace("_", " ")] == pytest.approx(value, rel=1e-3, abs=1e-4)


def test_thumbnails_of_scores_go_to_both_sides_of_0(page):
    """And numbers of the heads' weights don't stand beside maps that are made of them."""
    go(page, "view=model&logits=1&stat=entropy&role=sink")
    wait_for_text(page, ".thumb-top", r"\d")
    expect(page.locator(".legend figcaption")).to_have_text(re.compile("score farthest from 0 in a cell, as a share"))
    expect(page.locator(".legend-ticks span").first).to_have_text("\u22121")
    expect(page.locator(".number-chip, .not-of-role")).to_have_count(0)
    for at, said in enumerate(page.locator(".thumb-top").all_inner_texts()):
        inputs = layer(at // 4)
        scores = attend(inputs.q[0], inputs.k[0], np.ones((T, T), dtype=bool)).logits[at % 4]
        most = scores.flat[np.abs(scores).argmax()]
        assert number(said) == pytest.approx(most, abs=2e-2)
        pixels = (
            page.locator(".thumb canvas")
            .nth(at)
            .evaluate("canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]")
        )
        red_less_blue = np.reshape(pixels, (T, T, 4)).astype(float)[..., 0] - np.reshape(pixels, (T, T, 4))[..., 2]
        clear = np.abs(scores) > 0.2 * abs(most)
        assert (np.sign(red_less_blue[clear]) == np.sign(scores[clear])).all()
    rows = table(page)
    assert [number(row["farthest_score"]) for row in rows] == [
        pytest.approx(number(said), abs=6e-4) for said in page.locator(".thumb-top").all_inner_texts()
    ]


def readouts(page: Page, query: int, key: int) -> list[float]:
    wait_for_text(page, ".readout", rf"query {query}(?!\d).*key {key}(?!\d).*(weight|difference) [\u2212\d.e]")
    return [number(one.inner_text()) for one in page.locator(".readout [data-value=weight]").all()]


@pytest.mark.sweep
def test_two_heads_side_by_side_and_their_difference(page):
    a, b = weights(0, 1), weights(1, 3)
    go(page, "view=map&layer=0&head=1&with=1.3&query=7&key=5")
    expect(page.locator(".pane")).to_have_count(2)
    left, right = readouts(page, 7, 5)
    assert abs(left - a[7, 5]) <= WEIGHT
    assert abs(right - b[7, 5]) <= WEIGHT
    page.locator(".pane").nth(1).locator(".map-frame").press("ArrowRight")  # one crosshair
    left, right = readouts(page, 7, 6)
    assert abs(left - a[7, 6]) <= WEIGHT
    assert abs(right - b[7, 6]) <= WEIGHT
    rows = table(page)
    assert {row["head"] for row in rows} == {"1", "3"}
    for row in rows:
        whole = a if row["head"] == "1" else b
        assert abs(float(row["weight"]) - whole[int(row["query"]), int(row["key"])]) <= 1e-3
    page.locator(".pane").nth(0).get_by_role("button", name="Zoom in").click()  # one zoom
    expect(page).to_have_url(re.compile("zoom="))
    page.get_by_role("button", name="difference").click()
    expect(page.locator(".pane")).to_have_count(1)
    (shown,) = readouts(page, 7, 6)
    assert abs(shown - (a[7, 6] - b[7, 6])) <= 2 * WEIGHT
    difference = a - b
    for row in table(page):
        query, key = int(row["query"]), int(row["key"])
        assert abs(float(row["difference"]) - difference[query, key]) <= float(row["within"])
    go(page, "view=text&layer=0&head=1&with=1.3&how=difference&query=7")
    strongest = page.locator(".strongest button").first
    best = int(np.abs(difference[7]).argmax())
    expect(strongest).to_contain_text(f"{best}")
    assert abs(number(strongest.locator("b").inner_text()) - difference[7, best]) <= 2 * WEIGHT
    go(page, "view=heads&layer=0&head=1&with=1.3&query=7")
    expect(page.locator(".pane canvas")).to_have_count(2)
    page.get_by_role("button", name="swap").click()
    expect(page.locator(".pane-title").first).to_have_text("layer 1, head 3")
    page.get_by_role("button", name="compare").click()
    expect(page.locator(".pane")).to_have_count(0)


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(
    ("fragment", "how"),
    [
        ("out=special", {"hide": SPECIAL}),
        ("out=first,punctuation&again=1", {"hide": [0, 8, 12], "renormalize": True}),
        ("words=1", {"merge": "words"}),
        ("together=mean-heads&out=special", {"mean": "heads", "hide": SPECIAL}),
        ("together=max-layers", {"max": "layers"}),
        ("logits=1", {"values": "logits"}),
        ("out=special&words=1&again=1", {"hide": SPECIAL, "merge": "words", "renormalize": True}),
    ],
)
def test_what_is_left_out_and_seen_as_one_is_what_the_package_makes(page, fragment, how):
    go(page, f"view=map&layer=1&head=2&{fragment}&query=7&key=5")
    words = shlex.split(copied(page, "Copy as command"))
    inputs = [layer(0), layer(1)] if "layers" in how.values() else layer(1)
    made = attnviz.attention_map(inputs, None if "heads" in how.values() else 2, "full", dtype="float64", **how)
    wanted = {(t, s): cell for t, row in enumerate(made.cells) for s, cell in enumerate(row) if not np.isnan(cell)}
    rows = table(page)
    assert {(int(row["query"]), int(row["key"])) for row in rows} == set(wanted)
    for row in rows:
        shown = float(row["score" if "logits" in fragment else "weight"])
        assert abs(shown - wanted[int(row["query"]), int(row["key"])]) <= float(row["within"]) + 1e-6
        assert float(row["within"]) <= 4e-3
    for option in how:
        assert f"--{option}" in words
    if "hide" in how and len(how) == 1:
        share = weights(1, 2)[:, SPECIAL].sum(1).mean()
        wait_for_text(page, "[data-role=left-out]", r"\d %")
        shown = float(page.locator("[data-role=left-out]").inner_text().split("%")[0])
        assert abs(shown - 100 * share) <= 0.2


def test_every_key_of_a_query_dimension_by_dimension(page):
    go(page, "view=query-key&layer=1&head=2&query=7")
    table = page.locator(".neurons tbody tr")
    expect(table).to_have_count(T)
    inputs, exact = layer(1), weights(1, 2)[7]
    scores = inputs.k[0, 2].double() @ inputs.q[0, 2, 7].double() / 8**0.5
    for key, row in enumerate(table.all()):
        name, _, score, weight = row.locator("th, td").all_inner_texts()
        assert name.startswith(f"{key} \u201c{TOKENS[key]}")
        assert abs(number(score) - float(scores[key])) <= 2e-3
        if not weight.strip().startswith("<"):
            assert abs(number(weight.strip()) - exact[key]) <= WEIGHT
    best = int(exact.argmax())
    expect(page.locator(".neurons tr.chosen th")).to_have_text(re.compile(rf"^{best} "))
    assert f"--key {best}" in copied(page, "Copy as command")  # of the pair that is seen, though nobody pinned its key
    page.locator(".neurons tbody button").nth(5).click()
    expect(page).to_have_url(re.compile("key=5"))


def test_from_sentence_to_sentence(page):
    go(page, "view=map&layer=1&head=2")
    page.get_by_label("sentences").select_option("0.1")
    rows = table(page)
    whole = weights(1, 2)
    assert {int(row["query"]) for row in rows} == set(range(1, 9))
    assert {int(row["key"]) for row in rows} == set(range(10, 15))
    for row in rows:
        assert abs(float(row["weight"]) - whole[int(row["query"]), int(row["key"])]) <= float(row["within"]) + 1e-6


@pytest.mark.matrix
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_in_the_tools(page, dark):
    """One page for all: what is compared, sorted, left out and opened, in the colors of a theme."""
    page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text())
    theme = "dark" if dark else "light"
    for fragment in (
        "view=map&head=1&with=1.3&query=7&key=5",
        "view=text&head=1&with=1.3&how=difference&query=7&out=special",
        "view=heads&with=1.3&words=1&find=it",
        "view=query-key&with=1.3&query=7&key=5",
        "view=model&stat=entropy&rank=role",
        "view=model&stat=distance&role=mixed",
    ):
        go(page, f"{fragment}&theme={theme}")
        expect(page.locator("main")).not_to_be_empty()
        menu(page)
        found = page.evaluate("axe.run()")
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]] == [], fragment
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Keys of the keyboard").click()
    assert page.evaluate("axe.run()")["violations"] == []
    page.keyboard.press("Escape")


@pytest.mark.sweep
def test_several_texts_are_chosen_by_name(chromium, tmp_path):
    path = attnviz.page(tmp_path / "texts.html", {"one": [layer(0), layer(1)], "other": layer(1)}, "full")
    page = chromium.new_page()
    page.goto(path.as_uri() + "#view=map&layer=1&head=2&query=7&key=5")
    assert abs(readouts(page, 7, 5)[0] - weights(1, 2)[7, 5]) <= WEIGHT
    assert page.locator(".controls .stepper").first.locator("option").all_inner_texts() == ["0", "1"]
    page.locator(".text-picker").select_option("other")
    expect(page.locator(".status")).to_contain_text("layer 1 · head 2")
    assert page.locator(".controls .stepper").first.locator("option").all_inner_texts() == ["1"]
    page.get_by_role("tab", name="Model").click()
    expect(page.locator(".thumb")).to_have_count(4)
    go(page, "view=map&layer=1&head=2&with=2.2&how=difference&query=7&key=5")  # the same of two runs
    expect(page.locator(".pane-title")).to_have_text("one, layer 1, head 2 minus other, layer 1, head 2")
    wait_for_text(page, ".readout", r"difference < 0\.00\d")  # as near to 0 as the page knows
    page.close()
