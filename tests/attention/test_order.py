"""Documents, prefixes and chunks: the sets they are, and that rows of many blocks have no seams."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import attnviz
from attnviz import AttentionInputs, InputError
from attnviz.attention.names import named_pattern
from attnviz.attention.patterns import Causal, Chunked, Documents, GlobalKeys, Local, Pattern, Prefix
from attnviz.maps.reasons import reason_map
from tests import reference
from tests.strategies import Call, longformer_rule, normal


def packed(*lengths: int, T: int | None = None, heads: int = 1, **given: object) -> AttentionInputs:
    """Texts of these lengths in one row, the queries the last T of it."""
    S = sum(lengths)
    numbers = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    q, k = normal((1, heads, T or S, 4), 0), normal((1, heads, S, 4), 1)
    return AttentionInputs(q, k, documents=numbers, **given)


def sees(inputs: AttentionInputs, pattern: Pattern | str) -> list[set[int]]:
    """The keys that each query gives weight to."""
    cells = attnviz.attention_map(inputs, 0, pattern).cells
    return [set(np.flatnonzero(~np.isnan(row)).tolist()) for row in cells]


def anew(*lengths: int) -> torch.Tensor:
    return torch.cat([torch.arange(length) for length in lengths])


# By hand


def test_a_query_sees_its_own_document():
    assert sees(packed(2, 3), "documents") == [{0, 1}, {0, 1}, {2, 3, 4}, {2, 3, 4}, {2, 3, 4}]


@pytest.mark.parametrize("places", [None, anew(2, 3), anew(2, 3) + 7], ids=["in a row", "anew", "anew and shifted"])
def test_patterns_of_order_stay_within_a_document(places):
    inputs = packed(2, 3, key_positions=places)
    assert sees(inputs, Causal()) == [{0}, {0, 1}, {2}, {2, 3}, {2, 3, 4}]
    assert sees(inputs, Local(1)) == [{0, 1}, {0, 1}, {2, 3}, {2, 3, 4}, {3, 4}]


def test_a_prefix_and_a_chunk_are_each_documents_own_where_positions_start_anew():
    inputs = packed(3, 3, key_positions=anew(3, 3))
    assert sees(inputs, Prefix(2)) == [{0, 1}, {0, 1}, {0, 1, 2}, {3, 4}, {3, 4}, {3, 4, 5}]
    assert sees(inputs, Chunked(2)) == [{0, 1}, {0, 1}, {2}, {3, 4}, {3, 4}, {5}]
    in_a_row = packed(3, 3)
    assert sees(in_a_row, Prefix(2)) == [{0, 1}, {0, 1}, {0, 1, 2}, {3}, {3, 4}, {3, 4, 5}]
    assert sees(in_a_row, Chunked(2)) == [{0, 1}, {0, 1}, {2}, {3}, {4, 5}, {4, 5}]


def test_queries_are_the_last_of_the_documents():
    assert sees(packed(2, 3, T=2), "documents") == [{2, 3, 4}, {2, 3, 4}]
    assert sees(packed(2, 1, T=5), "documents") == [set(), set(), {0, 1}, {0, 1}, {2}]  # two before every key: in none


def test_queries_are_of_the_documents_that_are_named():
    inputs = packed(2, 3, T=2, query_documents=torch.tensor([0, 9]))
    assert sees(inputs, "documents") == [{0, 1}, set()]


def test_documents_need_not_be_runs():
    inputs = AttentionInputs(normal((1, 4, 2), 0), normal((1, 4, 2), 1), documents=torch.tensor([5, 3, 5, 3]))
    assert sees(inputs, "documents & causal") == [{0}, {1}, {0, 2}, {1, 3}]


def test_a_prefix_may_be_one_an_item():
    q, k = normal((2, 1, 3, 2), 0), normal((2, 1, 3, 2), 1)
    for pattern in (Prefix((0, 3)), "prefix:n=0/3"):
        cells = [attnviz.attention_map(AttentionInputs(q, k), 0, pattern, batch=batch).cells for batch in (0, 1)]
        assert [(~np.isnan(one)).sum(1).tolist() for one in cells] == [[1, 2, 3], [3, 3, 3]]


def test_the_first_key_of_each_document_is_its_sink():
    inputs = AttentionInputs(torch.zeros(1, 4, 2), torch.zeros(1, 4, 2), documents=torch.tensor([0, 0, 1, 1]))
    (row,) = attnviz.head_statistics(inputs, "documents & causal")
    assert row.sink_mass == pytest.approx((1 + 1 / 2 + 1 + 1 / 2) / 4)
    assert row.previous_mass == pytest.approx(1 / 2)  # of queries 1 and 3 alone, which have a key before


def test_reasons_are_those_of_the_parts():
    inputs = packed(3, 3, key_positions=anew(3, 3))
    assert reason_map(inputs, Documents()).counts == {"document": 18}
    assert reason_map(inputs, Documents() & Causal()).counts == {"causal": 12}
    assert reason_map(inputs, Prefix(2)).counts == {"prefix": 2, "causal": 2, "several": 10}
    assert reason_map(inputs, Chunked(2) & Causal()).counts == {"chunk": 8}


# Every block of rows

MANY = (40, 1, 70, 64, 25)
RULES = {
    "documents": ("documents",),
    "packed and causal": ("and", ("documents",), ("causal",)),
    "a window": ("local", 5, 1),
    "a window in steps": ("local", 20, 3),
    "a prefix": ("prefix", 9),
    "chunks": ("and", ("chunked", 30), ("causal",)),
    "chunks and a sink": ("or", ("and", ("chunked", 30), ("causal",)), ("global",)),
    "blocks": ("blocks", (np.arange(35).reshape(5, 7) % 3 == 0).tolist(), 48, 30),
    "blocks and causal": ("and", ("blocks", (np.arange(35).reshape(5, 7) % 3 > 0).tolist(), 48, 30), ("causal",)),
    "blocks or a window": ("or", ("blocks", (np.arange(35).reshape(5, 7) % 5 == 0).tolist(), 48, 30), ("local", 3, 1)),
    "blocks of two sizes": (
        "or",
        ("blocks", (np.arange(35).reshape(5, 7) % 5 == 0).tolist(), 48, 30),
        ("and", ("blocks", (np.arange(16).reshape(4, 4) % 3 > 0).tolist(), 50, 50), ("chunked", 64)),
    ),
    "longformer": longformer_rule(3),
}
PLACES = {
    "in a row": {},
    "anew": {"key_positions": anew(*MANY)},
    "of their own": {
        "key_positions": anew(*MANY) + 2,
        "query_positions": torch.arange(200) % 50,
        "query_documents": torch.arange(200) // 50,
    },
}


SEAMS = [
    pytest.param(rule, places, marks=() if (n + m) % 3 == 0 else pytest.mark.matrix)
    for n, rule in enumerate(RULES)
    for m, places in enumerate(PLACES)
]


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize(("rule", "places"), SEAMS)
def test_rows_of_many_blocks_have_no_seams(monkeypatch, rule, places):
    monkeypatch.setattr("attnviz.engine.blocks.BLOCK_CELLS", 1)  # the smallest blocks there are, 64 rows
    monkeypatch.setattr("attnviz.maps.reasons._BLOCK_ROWS", 60)
    mask = torch.zeros(200, dtype=torch.bool)
    mask[[0, 90]] = True
    padding = torch.ones(200, dtype=torch.bool)
    padding[180:] = False
    inputs = packed(*MANY, global_mask=mask, key_padding_mask=padding, **PLACES[places])
    call = Call(inputs, RULES[rule], 0)
    visible = call.visible()
    logits = np.where(visible, (inputs.q[0, 0] @ inputs.k[0, 0].T / 2).numpy(), -np.inf)
    with np.errstate(invalid="ignore"):
        weights = np.exp(logits - logits.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
    for reduce in ("max", "mass"):
        found = attnviz.attention_map(inputs, 0, call.pattern, reduce=reduce).cells
        np.testing.assert_allclose(found, np.where(visible, weights, np.nan), atol=1e-12, equal_nan=True)
    shown = reason_map(inputs, call.pattern)
    np.testing.assert_array_equal(shown.cells != 0, visible)
    assert shown.visible == visible.sum()
    (row,) = attnviz.head_statistics(inputs, call.pattern)
    wanted = reference.statistics(np.nan_to_num(weights), visible, call.globals_, call.first_keys, call.places)
    for name in ("entropy", "max_weight", "sink_mass", "distance", "previous_mass"):
        assert getattr(row, name) == pytest.approx(wanted[name], abs=1e-11), name
    scores = attnviz.score(inputs, call.pattern)
    seen = (scores.values("logits")[0] > -np.inf).sum(1)
    apart = scores.global_queries.tolist()
    expected = visible.sum(1)
    assert seen[[t for t in range(200) if t not in apart]].tolist() == np.delete(expected, apart).tolist()


def test_what_is_computed_follows_what_is_visible():
    """Of 50 documents of 40 tokens, and of as many chunks, a query's columns are those of one."""
    inputs = packed(*[40] * 50)
    for pattern in (Documents(), Chunked(40), Documents() & Causal(), Chunked(40) & Causal() & Documents()):
        assert attnviz.score(inputs, pattern).values("weights").shape[2] <= 79
        reach = pattern.reach(inputs.item())
        assert sum(len(span) for n in range(0, 2000, 40) for span in reach.spans(range(n, n + 40), 2000)) == 2000


@pytest.mark.parametrize("name", ["documents", "prefix:n=3", "chunked:size=2 & causal", "documents & causal | global"])
def test_names_say_the_patterns(name):
    made = {
        "documents": Documents(),
        "prefix:n=3": Prefix(3),
        "chunked:size=2 & causal": Chunked(2) & Causal(),
        "documents & causal | global": Documents() & Causal() | GlobalKeys(),
    }
    assert named_pattern(name) == made[name]


# What can't be

BAD = {
    "no documents": (
        lambda: attnviz.attention_map(AttentionInputs(*[torch.ones(1, 3, 2)] * 2), 0, "documents"),
        "--doc",
    ),
    "another shape": (lambda: packed(2, 2, query_documents=torch.zeros(3)), "query_documents has dtype float32"),
    "too few": (lambda: packed(2, 2, query_documents=torch.zeros(3, dtype=torch.int64)), r"wanted \(B, T\) = \(1, 4\)"),
    "queries alone": (
        lambda: AttentionInputs(*[torch.ones(1, 2, 2)] * 2, query_documents=torch.tensor([0, 1])),
        "query_documents are given without documents",
    ),
    "twice in one": (
        lambda: packed(3, 2, key_positions=torch.tensor([0, 1, 1, 0, 1])),
        "1 twice, at keys 1 and 2 of a doc",
    ),
    "twice without": (
        lambda: AttentionInputs(*[torch.ones(1, 4, 2)] * 2, key_positions=anew(2, 2)),
        "where documents are packed, give documents too",
    ),
    "of several": (
        lambda: attnviz.attention_map(
            packed(2, 2, T=1, key_positions=anew(2, 2), query_positions=torch.tensor([0])), 0, "causal"
        ),
        "query 0 of batch item 0 stands at position 0, as keys of several documents do",
    ),
    "cross": (lambda: attnviz.attention_map(packed(2, 2, cross=True), 0, "documents"), "give query_documents too"),
    "chunks of none": (lambda: Chunked(0), "a chunk has 1 or more"),
    "a prefix below 0": (lambda: Prefix(-1), "a prefix is of 0 or more"),
    "a prefix an item": (lambda: attnviz.attention_map(packed(2, 2), 0, Prefix((1, 2))), "2 numbers, one a batch item"),
    "chunks across": (
        lambda: attnviz.attention_map(AttentionInputs(*[torch.ones(1, 3, 2)] * 2, cross=True), 0, Chunked(2)),
        "which has no order",
    ),
    "a window beside": (lambda: named_pattern("documents & local", window=3), "local:window=3"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be(case):
    made, says = BAD[case]
    with pytest.raises(InputError, match=says):
        made()


def test_lengths_that_are_given_are_documents():
    from attnviz.sources.dumps import documents_of

    assert documents_of("2,0,1", 3).tolist() == [0, 0, 2]
    with pytest.raises(InputError, match="--documents 2,2 are 4 tokens in all, and there are 3 keys"):
        documents_of("2,2", 3)
