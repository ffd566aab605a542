"""What notebooks show of results: static, self-contained, and escaped."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import attnviz
from attnviz.engine.request import ask
from tests.cases import small

HOSTILE = ["<script>alert(1)</script>", "</td><img src=x onerror=alert(1)>", "\"'&", "👩‍👩‍👧", "\u202eRTL", "a\nb"]


class Read(HTMLParser):
    """The tags of some HTML, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def hostile() -> attnviz.AttentionInputs:
    inputs = small(batch=1)
    return attnviz.AttentionInputs(
        inputs.q, inputs.k, global_mask=inputs.global_mask, tokens=[HOSTILE], source="<b>dump</b>"
    )


def test_a_map_is_a_picture_that_says_what_it_is():
    shown = attnviz.attention_map(hostile(), 3, attnviz.Causal())
    ((tag, attributes),) = Read(shown._repr_html_()).tags
    assert tag == "img"
    assert attributes["alt"] == "head 3: weights, causal, 6 x 6 cells"
    kind, _, content = attributes["src"].partition(",")
    assert kind == "data:image/png;base64"
    picture = np.asarray(Image.open(BytesIO(base64.b64decode(content))).convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


def test_scores_are_the_table_of_a_head():
    result = attnviz.score(hostile())
    read = Read(result._repr_html_())
    assert {tag for tag, _ in read.tags} == {"pre", "span", "p", "small"}
    assert f"{float(result.weights[0, 2, 1]):.4f}" in read.text
    assert "and 3 more heads" in read.text
    assert "onerror" not in "".join(f"{attributes}" for _, attributes in read.tags)


def test_scores_of_one_head_without_weights_are_its_logits():
    result = attnviz.score(small(batch=1), heads=[1], weights=False)
    text = Read(result._repr_html_()).text
    assert f"{float(result.scores[0, 2, 1]):.4f}" in text
    assert "more head" not in text


def test_rows_of_global_queries_have_a_table_too():
    result = attnviz.score(small(batch=1), attnviz.longformer(1))
    text = Read(result._repr_html_()).text
    assert f"{float(result.global_weights[0, 1, 4]):.4f}" in text


def test_inputs_are_a_list_of_their_tensors():
    inputs = small()
    read = Read(attnviz.AttentionInputs(inputs.q, inputs.k, scale=0.25, pattern=attnviz.Causal())._repr_html_())
    for said in ("q", "2 x 4 x 6 x 8", "2 x 2 x 6 x 8", "float32", "cpu", "pattern causal · scale 0.25"):
        assert said in read.text
    assert "<b>" not in hostile()._repr_html_()


def test_a_run_is_a_list_of_its_layers():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.MultiheadAttention(16, 2, batch_first=True) for _ in range(2))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x, x, x)[0]
            return x

    model = Two().eval()
    with torch.no_grad(), attnviz.capture(model) as run:
        model(torch.randn(1, 5, 16))
    read = Read(run._repr_html_())
    assert [tag for tag, _ in read.tags].count("tr") == 3
    for said in ("Two", "5 x 5", "full", "head_dim"):
        assert said in read.text


def test_an_explanation_is_its_lesson():
    from attnviz.show.lessons import lesson

    explanation = attnviz.explain(small(batch=1), head=2, query=4)
    assert explanation._repr_markdown_() == lesson(explanation)


@pytest.mark.parametrize(
    "shown", [small(), attnviz.score(small()), attnviz.attention_map(small(), 0)], ids=lambda s: type(s).__name__
)
def test_nothing_is_fetched(shown):
    for _, attributes in Read(shown._repr_html_()).tags:
        assert attributes.get("src", "data:").startswith("data:")
        assert "href" not in attributes


def kinds_of_figures() -> dict[str, object]:
    inputs = attnviz.synthesize(heads=2, tokens=8, head_dim=4)
    return {
        "plot": attnviz.plot(inputs),
        "plot_heads": attnviz.plot_heads(inputs),
        "plot_detail": attnviz.plot_detail(inputs),
        "plot_strip": attnviz.plot_strip(inputs, query=3),
        "plot_comparison": attnviz.plot_comparison(inputs, inputs),
        "plot_overview": attnviz.plot_overview([inputs]),
    }


def test_every_figure_shows_itself_as_a_picture():
    formatters = pytest.importorskip("IPython.core.formatters")
    for name, found in kinds_of_figures().items():
        data, _ = formatters.DisplayFormatter().format(found)
        with Image.open(BytesIO(data["image/png"])) as image:
            assert min(image.size) > 50, name


def test_axes_of_ones_own_are_left_to_their_figure():
    ax = Figure().add_subplot()
    assert attnviz.plot(attnviz.synthesize(heads=1, tokens=8, head_dim=4), ax=ax) is ax
    assert not hasattr(ax, "_repr_png_")


def test_inputs_made_of_others_list_what_they_are_made_of():
    layers = [attnviz.synthesize(heads=2, tokens=6, seed=seed) for seed in range(2)]
    shown = ask(layers, "causal", mean="layers").inputs._repr_html_()
    assert shown.count("<tr>") == 3
    assert "mean of 2 layers" in shown
    assert "6 x 6" in shown
