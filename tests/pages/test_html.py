"""One file that holds all of a page and asks nobody for anything."""

from __future__ import annotations

import re
import weakref
from html.parser import HTMLParser
from pathlib import Path

import pytest

import attnviz
from attnviz import InputError
from attnviz.attention.patterns import Causal, Full
from attnviz.pages import frontend
from attnviz.pages.description import PageLayer
from attnviz.pages.html import EMBEDDED_POLICY, write_page
from tests.cases import small
from tests.pages.decoding import Page
from tests.pages.test_description import HOSTILE


def layers(*labels: str, **changes: object) -> list[PageLayer]:
    inputs = small(batch=1, **changes)
    return [PageLayer(label, inputs.item(), Causal(), (0, 1, 2, 3)) for label in labels]


class Elements(HTMLParser):
    """The tags of a file in order, with their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.title = ""
        self._in_title = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in_title = tag == "title"

    def handle_endtag(self, tag):
        self._in_title = False

    def handle_data(self, data):
        self.title += data if self._in_title else ""


def test_a_page_holds_its_layers_each_in_a_chunk_of_its_own(tmp_path):
    path = tmp_path / "page.html"
    size = write_page(path, layers("0", "7"), "dump.safetensors")
    assert size == path.stat().st_size
    page = Page(path.read_text())
    assert (page.run["format"], page.run["mode"], page.run["source"]) == (3, "embedded", "dump.safetensors")
    assert page.run["program"] == f"attnviz {attnviz.__version__}"
    assert [layer["label"] for layer in page.layers] == ["0", "7"]
    assert [layer["thumbnails"]["chunk"] for layer in page.layers] == [0, 0]
    assert [layer["q"]["chunk"] for layer in page.layers] == [1, 2]
    assert len(page.run["labels"]) == 1


def test_a_layer_is_let_go_before_the_next_is_read(tmp_path):
    read: list[weakref.ref[PageLayer]] = []

    def one_by_one():
        for label in "abc":
            assert all(layer() is None for layer in read)
            (layer,) = layers(label)
            read.append(weakref.ref(layer))
            yield layer
            del layer

    write_page(tmp_path / "page.html", one_by_one(), "x")
    write_page(tmp_path / "held.html", layers(*"abc"), "x")
    assert (tmp_path / "page.html").read_bytes() == (tmp_path / "held.html").read_bytes()


def test_its_elements_are_those_of_the_format_and_none_names_a_host(tmp_path):
    path = tmp_path / "page.html"
    write_page(path, layers("0"), "x")
    text = path.read_text()
    elements = Elements(text)
    assert [tag for tag, _ in elements.tags] == [
        *("html", "head", "meta", "meta", "meta", "title", "style", "body", "div"),
        *["script"] * 4,
    ]
    assert text.startswith("<!doctype html>")
    ids = [attributes.get("id") for tag, attributes in elements.tags if tag in ("div", "script")]
    assert ids == ["attnviz", "attnviz-chunk-1", "attnviz-chunk-0", "attnviz-run", None]
    assert not any({"src", "href"} & set(attributes) for _, attributes in elements.tags)
    (policy,) = (a["content"] for _, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == EMBEDDED_POLICY
    assert "default-src 'none'" in policy
    assert not re.search(r"https?:|\*", policy)


def test_the_front_end_cannot_end_its_elements():
    assert "</script" not in frontend.asset("attnviz.js").lower()
    assert "<!--" not in frontend.asset("attnviz.js")
    assert "</style" not in frontend.asset("attnviz.css").lower()


def test_hostile_labels_and_names_are_text_and_no_elements(tmp_path):
    inputs = attnviz.AttentionInputs(small(batch=1).q, small(batch=1).k, tokens=[HOSTILE[:6]])
    path = tmp_path / "page.html"
    name = "</title><script>alert(2)</script> & \udcff"
    write_page(path, [PageLayer(HOSTILE[0], inputs.item(), Full(), (0,))], name)
    text = path.read_bytes().decode()
    elements = Elements(text)
    assert [tag for tag, _ in elements.tags].count("script") == 4
    assert elements.title.startswith("</title><script>alert(2)</script> & ")
    page = Page(text)
    assert page.run["labels"] == [HOSTILE[:6]]
    assert page.layers[0]["label"] == HOSTILE[0]
    assert page.run["source"] == name


def test_a_page_that_would_be_too_large_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("attnviz.pages.html.page", None)
    with pytest.raises(
        InputError, match=r"page.html: would be at least \d+ bytes, above --most 500 bytes.*--head.*attnviz view"
    ):
        write_page(tmp_path / "page.html", layers("0"), "x", most=500)


def test_layers_that_come_one_by_one_are_refused_where_they_are_too_many(tmp_path, monkeypatch):
    """Each before any work on it."""
    one = write_page(tmp_path / "one.html", layers("a"), "x")
    monkeypatch.setattr("attnviz.pages.html.least_bytes", lambda layer: one)
    given = iter(layers(*"abc"))
    with pytest.raises(InputError, match="would be at least"):
        write_page(tmp_path / "page.html", given, "x", most=2 * one)
    assert [layer.label for layer in given] == ["c"]
    assert [path.name for path in tmp_path.iterdir()] == ["one.html"]


def test_a_page_that_grows_too_large_leaves_nothing(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("what was there")
    with pytest.raises(InputError, match="would be more than"):
        write_page(path, layers("0"), "x", most=3000)
    assert path.read_text() == "what was there"
    assert list(tmp_path.iterdir()) == [path]


def test_a_layer_that_no_browser_opens_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("attnviz.pages.html._MOST_CHUNK", 100)
    with pytest.raises(InputError, match="a browser opens 100"):
        write_page(tmp_path / "page.html", layers("0"), "x")


def test_an_installation_without_the_page_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(frontend, "files", lambda package: tmp_path)
    frontend.asset.cache_clear()
    try:
        with pytest.raises(InputError, match="installed without its page"):
            frontend.asset("attnviz.js")
    finally:
        frontend.asset.cache_clear()


def test_the_wheel_has_the_page():
    """hatch packs all that git keeps under attnviz/: the built front end must be there, and not ignored."""
    root = Path(__file__).parents[2]
    assert {"attnviz.js", "attnviz.css", "widget.js"} <= {
        path.name for path in (root / "attnviz/pages/assets").iterdir()
    }
    assert "assets" not in (root / ".gitignore").read_text()
