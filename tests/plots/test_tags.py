"""What a head is in a word, in figures, as its statistics have it."""

from __future__ import annotations

import pytest

import attnviz
from attnviz import AttentionInputs, InputError
from tests.strategies import normal


def looking_back(heads: int = 3, T: int = 24) -> AttentionInputs:
    """Head 0 looks at the query before, head 1 at itself, head 2 at nothing in particular."""
    import torch

    k = 30 * torch.eye(T).expand(heads, T, T).clone()
    q = k.clone()
    q[0] = q[0].roll(-1, 1)
    q[2] = normal((T, T), 0)
    return AttentionInputs(q.float(), k.float())


def said(inputs: AttentionInputs, **what: object) -> list[str]:
    rows = attnviz.head_statistics(inputs, "full", **what)
    return [row.tag + ("" if row.tag_score is None else f" {row.tag_score:.2f}") for row in rows]


def test_panels_are_named_by_the_tags_of_their_heads():
    inputs = looking_back()
    figure = attnviz.plot_heads(inputs, pattern="full", tags=True)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == [f"head {n} · {tag}" for n, tag in enumerate(said(inputs))]  # already in their order
    assert [title.split()[3] for title in titles] == ["previous", "self", "mixed"]
    assert attnviz.plot(inputs, 1, "full", tags=True).get_title() == titles[1]
    assert attnviz.plot(inputs, 1, "full").get_title() == "head 1"


def test_the_tags_of_words_are_of_words():
    inputs = looking_back()
    spans = {f"{n}": range(2 * n, 2 * n + 2) for n in range(12)}
    title = attnviz.plot(inputs, 0, "full", tags=True, spans=spans).get_title()
    assert title == f"head 0 · {said(inputs, spans=spans)[0]}"


def test_several_heads_as_one_have_no_tag():
    from attnviz.engine.request import Request
    from attnviz.plots.kinds.heatmap import Heatmap

    with pytest.raises(InputError, match="they are of single heads"):
        Heatmap(tags=True, mean="heads").compute(Request(looking_back(), "full"))
