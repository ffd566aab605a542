"""The words and numbers of a page."""

from __future__ import annotations

import json
import weakref

import pytest
import torch

import attnviz
from attnviz.attention.patterns import Causal, Full, GlobalKeys, longformer
from attnviz.pages.description import Labels, Layers, PageLayer, describe, description, to_json
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
    q, k = (one[1].norm(dim=-1).amax(-1) for one in (inputs.q, inputs.k))
    terms = [float(q[head] * k[head // 2]) * 0.5 for head in range(4)]  # as large as any
    rounded = pytest.approx([2**-23 * (2 + 1.5 * term) for term in terms])
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
        "positions": {"queries": 0, "keys": 0},
        "pattern": "causal",
        "scale": 0.5,
        "softcap": 30.0,
        "sinks": None,
        "alibi": None,
        "levels": 1,
        "accuracy": {"weights": None, "logs": rounded, "logits": rounded, "sides": rounded},
        "key_heads": {"of": 2, "each": [0, 0, 1, 1]},
    }
    assert labels.lists == [list(inputs.tokens[1])]


@pytest.mark.parametrize(
    ("given", "queries", "keys"),
    [
        ({}, 2, 0),
        ({"T": 9}, -3, 0),
        ({"query_positions": torch.tensor([7, 3, 3, 9])}, [7, 3, 3, 9], 0),
        ({"key_positions": torch.tensor([4, 5, 6, 7, 8, 9])}, 6, 4),
        ({"key_positions": torch.tensor([4, 5, 6, 0, 1, 2])}, [6, 0, 1, 2], [4, 5, 6, 0, 1, 2]),
    ],
    ids=["the last of the keys", "more queries than keys", "their own", "shifted keys", "keys that jump"],
)
def test_positions_are_those_of_the_item(given, queries, keys):
    given = dict(given)
    inputs = attnviz.AttentionInputs(torch.zeros(1, given.pop("T", 4), 2), torch.zeros(1, 6, 2), **given)
    found = describe(PageLayer("0", inputs.item(), Full(), (0,)), Labels())
    assert found["positions"] == {"queries": queries, "keys": keys}


@pytest.mark.parametrize(
    ("pattern", "keys", "queries"),
    [
        (GlobalKeys(), [0, 3], None),
        (longformer(1), [0, 3], [0, 3]),
        (Causal(), None, None),
        (Full(), None, None),
        (Causal() & longformer(1), [0, 3], [0, 3]),
    ],
    ids=str,
)
def test_global_tokens_are_those_of_the_pattern(pattern, keys, queries):
    inputs = attnviz.AttentionInputs(
        torch.zeros(4, 6, 2), torch.zeros(2, 6, 2), global_mask=torch.tensor([1, 0, 0, 1, 0, 0]).bool()
    )
    labels = Labels()
    found = describe(PageLayer("0", inputs.item(), pattern, (3, 1)), labels)
    named = [None if name not in found else labels.numbers[found[name]] for name in ("global_keys", "global_queries")]
    assert found["key_heads"] == {"of": 2, "each": [1, 0]}
    assert named == [keys, queries]


def test_keys_of_another_sequence_have_no_positions():
    inputs = attnviz.AttentionInputs(torch.zeros(1, 4, 2), torch.zeros(1, 4, 2), cross=True)
    assert describe(PageLayer("0", inputs.item(), Full(), (0,)), Labels())["positions"] is None


def test_layers_are_let_go_before_the_next_is_read():
    read: list[weakref.ref[PageLayer]] = []

    def one(index: int) -> PageLayer:
        assert all(layer() is None for layer in read)
        layer = PageLayer(str(index), small().item(), Full(), (0,))
        read.append(weakref.ref(layer))
        return layer

    layers = Layers(3, one)
    asked = [0, 1, 2, 1, 1, 0, -1]
    assert [layers[i].label for i in asked] == ["0", "1", "2", "1", "1", "0", "2"]
    assert len(read) == 6
    labels = []
    for layer in layers:
        labels.append(layer.label)
        del layer
    assert labels == ["0", "1", "2"]


def vars_of(inputs: attnviz.AttentionInputs) -> dict[str, object]:
    return {name: getattr(inputs, name) for name in ("q", "k", "tokens")}
