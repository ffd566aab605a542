"""The words and numbers of a page."""

from __future__ import annotations

import json

import attnviz
from attnviz.attention.patterns import Causal
from attnviz.pages.description import Labels, PageLayer, describe, description, to_json
from tests.cases import small

HOSTILE = ["</script><script>alert(1)</script>", "<!--", "]]>", "\"'&", "👩‍👩‍👧", "\u202eRTL", "a\nb\u2028c", "\ud800"]


def test_hostile_labels_survive_and_cannot_end_a_script_element():
    labels = Labels()
    labels.place(HOSTILE)
    text = to_json(description("</title><b>", "embedded", [], labels))
    assert "<" not in text
    assert text.isascii()
    assert json.loads(text)["labels"] == [HOSTILE]
    assert json.loads(text)["source"] == "</title><b>"


def test_lists_of_labels_are_kept_once():
    labels = Labels()
    tokens = labels.place(["a", "b"])
    assert (tokens, labels.place(["b"]), labels.place(("a", "b")), labels.place(None)) == (0, 1, 0, None)
    assert labels.lists == [["a", "b"], ["b"]]


def test_a_layer_is_described_by_its_sizes_and_settings():
    inputs = attnviz.AttentionInputs(**{**vars_of(small()), "softcap": 30.0, "scale": 0.5})
    labels = Labels()
    found = describe(PageLayer("cross.5", inputs.item(1), Causal(), (0, 1, 2, 3)), labels)
    assert found == {
        "label": "cross.5",
        "heads": 4,
        "head_labels": None,
        "kv_heads": 2,
        "queries": 6,
        "keys": 6,
        "head_dim": 8,
        "query_labels": 0,
        "key_labels": 0,
        "pattern": "causal",
        "scale": 0.5,
        "softcap": 30.0,
        "sinks": None,
        "alibi": None,
        "levels": 1,
    }
    assert labels.lists == [list(inputs.tokens[1])]


def vars_of(inputs: attnviz.AttentionInputs) -> dict[str, object]:
    return {name: getattr(inputs, name) for name in ("q", "k", "tokens")}
