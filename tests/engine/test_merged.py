"""Words, spans and what is left out: every view of a derived attention against loops in float64."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attnviz
from attnviz import AttentionInputs, AttentionWeights, InputError
from attnviz.attention.groups import merge_of
from attnviz.attention.inputs import Inputs
from attnviz.attention.patterns import Causal, Chunked, GlobalKeys, Local
from attnviz.engine.blocks import HeadRows, blocks
from attnviz.engine.merged import _Kept
from attnviz.engine.request import Request
from attnviz.engine.tiles import TileSize
from attnviz.maps.map import map_of
from tests import reference
from tests.reference import Places
from tests.strategies import DTYPES, calls, given_calls, normal, parts


@dataclass(frozen=True)
class Derived:
    """What is asked of some inputs, and what the reference says of it."""

    inputs: Inputs
    batch: int
    asked: dict[str, Any]
    values: list[np.ndarray]  # of each head, (T', S')
    seen: list[np.ndarray]
    left_out: list[float | None]
    places: Places | None
    padding: list[bool]
    globals_: set[int] | None
    tolerance: float


@st.composite
def partitions(draw: st.DrawFn, size: int) -> list[list[int]]:
    """0 to ``size`` - 1 cut into runs."""
    cuts = sorted(draw(st.sets(st.integers(1, size - 1)))) if size > 1 else []
    return [list(range(a, b)) for a, b in zip([0, *cuts], [*cuts, size], strict=True)]


@st.composite
def derived(draw: st.DrawFn, *, signed: bool = False) -> Derived:
    if draw(st.booleans()):
        one = draw(given_calls(signed=signed))
        call, inputs, visible = one.call, one.weights, list(one.visible)
        numbers, tolerance = list(one.numbers), {torch.float16: 1e-3, torch.bfloat16: 1e-3, torch.float32: 1e-5}
        close = tolerance.get(one.weights.dtype, 1e-11)
    else:
        call = draw(calls(DTYPES[draw(st.sampled_from([*DTYPES]))], values=False))
        inputs = replace(call.inputs, pattern=call.pattern)
        numbers, visible = list(call.expected().weights), [call.visible(head) for head in range(inputs.H)]
        close = call.tolerance * 10
    asked: dict[str, Any] = {}
    keys = [[s] for s in range(inputs.S)]
    if draw(st.booleans()):
        keys = draw(partitions(inputs.S))
        asked["spans"] = {f"span {n}": range(run[0], run[-1] + 1) for n, run in enumerate(keys)}
    queries = reference.query_groups(call.places, keys) if "spans" in asked else [[t] for t in range(inputs.T)]
    hidden = draw(st.sets(st.integers(0, inputs.S - 1), max_size=inputs.S - 1))
    if hidden:
        asked["hide"] = sorted(hidden)
    asked["renormalize"] = draw(st.booleans())
    if len(asked) == 1 and not asked["renormalize"]:
        asked["renormalize"] = True
    found = [
        reference.merged(np.nan_to_num(one), seen, hidden, asked["renormalize"], queries, keys)
        for one, seen in zip(numbers, visible, strict=True)
    ]
    left = []
    for one, seen in zip(numbers, visible, strict=True):
        rows = [math.fsum(one[t, s] for s in hidden if seen[t, s]) for t in range(inputs.T) if seen[t].any()]
        left.append(math.fsum(rows) / len(rows) if rows and hidden else None)
    mask = inputs.key_padding_mask
    exists = [mask is None or bool(mask[call.batch, s]) for s in range(inputs.S)]
    places = reference.group_places(call.places, queries, keys) if "spans" in asked else call.places
    globals_ = None
    if inputs.global_mask is not None:
        globals_ = {n for n, run in enumerate(keys) if any(inputs.global_mask[call.batch, s] for s in run)}
    padding = [any(exists[s] for s in run) for run in keys]
    return Derived(
        inputs, call.batch, asked, [v for v, _ in found], [s for _, s in found], left, places, padding, globals_, close
    )


def alike(found: np.ndarray, wanted: np.ndarray, tolerance: float, scale: float = 1.0) -> None:
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * scale)


@given(derived(signed=True), st.data())
def test_maps_are_the_groups_reduced(one: Derived, data: st.DataObject):
    head = data.draw(st.integers(0, one.inputs.H - 1))
    values, seen = one.values[head], one.seen[head]
    queries, keys = data.draw(parts(len(values))), data.draw(parts(len(values[0])))
    pixels, reduce = data.draw(st.integers(1, 8)), data.draw(st.sampled_from(["max", "mass"]))
    region = {"queries": queries, "keys": keys, "pixels": pixels, "reduce": reduce}
    request = Request(one.inputs, heads=head, batch=one.batch, every_key=True, **one.asked, **region)
    cells = map_of(request).cells
    rows, columns = queries or range(len(values)), keys or range(len(values[0]))
    wanted = reference.picture(values, seen, rows, columns, pixels, reduce)
    # A small rest, of weights of both signs, is as far off as what was taken from it.
    alike(cells, wanted, one.tolerance, 1 + np.abs(np.nan_to_num(values)).max() ** 2)
    left = request.attention.left_out(head)
    assert (
        left is None if one.left_out[head] is None else left == pytest.approx(one.left_out[head], abs=one.tolerance * 5)
    )


@given(derived())
def test_statistics_count_groups(one: Derived):
    rows = attnviz.head_statistics(one.inputs, batch=one.batch, **one.asked)
    for found in rows:
        values, seen = np.nan_to_num(one.values[found.head]), one.seen[found.head]
        sees = seen.any(1)
        assert found.queries == sees.sum()
        places = one.places or Places.of(*values.shape)
        first = [
            min(
                (s for s in range(len(values[0])) if one.padding[s] and places.together(t, s)),
                key=lambda s: places.keys[s],
                default=None,
            )
            for t in range(len(values))
        ]
        wanted = reference.statistics(values, seen, one.globals_, first, places)
        for name in ("entropy", "entropy_share", "max_weight", "global_mass", "sink_mass"):
            # Groups that have no order may have documents, each with a first key of its own, of which ``places`` says nothing.
            if name != "sink_mass" or one.places is not None or one.inputs.documents is None:
                check(found, name, wanted[name], one)
        for name in ("distance", "diagonal_mass", "previous_mass", "local_mass"):
            check(found, name, None if one.places is None else wanted[name], one)


def check(found: Any, name: str, wanted: float | None, one: Derived) -> None:
    number = getattr(found, name)
    if wanted is None:
        assert number is None, name
    else:
        assert number == pytest.approx(wanted, rel=one.tolerance, abs=one.tolerance * 20), name


@settings(max_examples=12)
@given(derived())
def test_scores_sides_tiles_and_received_weight_are_those_of_groups(one: Derived):
    batch, asked = one.batch, one.asked
    result = attnviz.score(one.inputs, batch=batch, **asked)
    columns = result.positions.tolist()
    for head in range(one.inputs.H):
        values, seen = one.values[head], one.seen[head]
        blank = ~seen.any(1)
        alike(
            result.weights[head].double().numpy(), np.where(blank[:, None], np.nan, values)[:, columns], one.tolerance
        )
        shown = np.where(seen, values, np.nan)
        pyramid = attnviz.Pyramid.of(one.inputs, batch=batch, **asked)
        alike(pyramid.tile(head, 0, 0, 0)[: len(values), : len(values[0])], shown, max(one.tolerance, 1e-6))
        sides = attnviz.marginals(one.inputs, head, batch=batch, **asked)
        count = seen.sum(0)
        received = np.where(count > 0, np.nan_to_num(shown).sum(0) / np.maximum(count, 1), np.nan)
        alike(sides.received, received[list(sides.keys)], one.tolerance * 5)


@settings(max_examples=8)
@given(derived())
def test_a_page_and_a_snapshot_know_nothing_of_it(one: Derived):
    from attnviz.pages.description import PageLayer, Visible

    request = Request(one.inputs, batch=one.batch, **one.asked)
    layer = PageLayer("0", request.item, request.pattern, request.chosen)
    sees = Visible.of(layer)
    rows, keys = torch.arange(request.item.T), torch.arange(request.item.S)
    for head in range(one.inputs.H):
        hidden = sees.hidden(rows, keys, head).numpy()
        some = one.seen[head].any(1)  # a rest of 0 is blank by what its weights are, and not by what may be seen
        np.testing.assert_array_equal(~hidden[some], one.seen[head][some])
    taken = attnviz.take_snapshot(one.inputs, batch=one.batch, cells=8, **one.asked)
    for head, kept in zip(range(one.inputs.H), taken.heads, strict=True):
        wanted = np.where(one.seen[head], one.values[head], np.nan)[:, list(taken.keys)]
        alike(kept.cells["weights"], wanted, one.tolerance * 10)


@settings(max_examples=15)
@given(derived(signed=True), st.data())
def test_a_part_alone_is_that_part_of_the_whole(one: Derived, data: st.DataObject):
    head = data.draw(st.integers(0, one.inputs.H - 1))
    values, seen = one.values[head], one.seen[head]
    queries = data.draw(parts(len(values))) or range(len(values))
    keys = data.draw(parts(len(values[0]))) or range(len(values[0]))
    part = Request(one.inputs, heads=head, batch=one.batch, queries=queries, keys=keys, every_key=True, **one.asked)
    alone = part.cropped()
    assert (len(queries), len(keys)) == (alone.item.T, alone.item.S)
    shown = np.where(seen, values, np.nan)[queries.start : queries.stop, keys.start : keys.stop]
    scale = 1 + np.abs(np.nan_to_num(values)).max() ** 2
    alike(map_of(alone).cells, shown, one.tolerance, scale)
    labels = part.item.query_labels(queries)
    assert labels is None or alone.item.query_labels(range(len(queries))) == labels
    assert alone.item.key_labels(range(len(keys))) == part.item.key_labels(keys)
    if not part.item.cross:
        places = part.item.query_position(torch.tensor([*queries])), part.item.key_position(torch.tensor([*keys]))
        found = alone.item.query_position(torch.arange(len(queries))), alone.item.key_position(torch.arange(len(keys)))
        assert all(torch.equal(a, b) for a, b in zip(places, found, strict=True))


def test_what_is_made_of_heads_and_layers_is_merged_after_that():
    from attnviz.engine.request import ask

    layers = [
        AttentionInputs(normal((2, 8, 4), seed), normal((2, 8, 4), seed + 9), normal((2, 8, 3), seed + 5))
        for seed in (0, 1)
    ]
    asked = {"spans": "a:0-2,b:3-6", "hide": [0, 4], "renormalize": True}
    groups = [range(3), range(3, 7), range(7, 8)]
    weights = [attnviz.score(one, "causal").weights.nan_to_num().numpy() for one in layers]
    seen = np.tril(np.ones((8, 8), dtype=bool))
    made = {
        "mean of heads": (layers[0], {"mean": "heads"}, weights[0].mean(0)),
        "max of heads": (layers[0], {"max": "heads"}, weights[0].max(0)),
        "mean of layers": (layers, {"mean": "layers"}, (weights[0][0] + weights[1][0]) / 2),
        "norms": (
            layers[0],
            {"values": "norms"},
            weights[0][0] * layers[0].v[0, 0].norm(dim=1).numpy(),
        ),
    }
    for name, (inputs, how, numbers) in made.items():
        request = ask(inputs, "causal", [0] if "heads" not in name else None, **how, **asked)
        values, there = reference.merged(numbers, seen, {0, 4}, True, groups, groups)
        alike(map_of(request).cells, np.where(there, values, np.nan), 1e-9)


# Words


def of_words(**given: Any) -> AttentionInputs:
    tokens = ["[CLS]", "un", "##friend", "##ly", "cats", "[SEP]"]
    return AttentionInputs(
        normal((2, 6, 4), 0),
        normal((2, 6, 4), 1),
        tokens=[tokens],
        token_form="wordpiece",
        special_tokens=[[0, 5]],
        **given,
    )


def test_words_of_special_tokens_are_special_and_no_others():
    found = merge_of(of_words().item(), "words", None)
    assert (found.keys.special, found.queries.special) == ((0, 3), (0, 3))
    later = replace(of_words(), q=normal((1, 2, 3, 4), 2))  # the last three queries: ##ly, cats, [SEP]
    assert merge_of(later.item(), "words", None).queries.special == (2,)


def words(tokens: Sequence[str], form: str, **given: Any) -> list[str]:
    n = len(tokens)
    inputs = AttentionInputs(
        normal((1, n, 2), 0), normal((1, n, 2), 1), tokens=[list(tokens)], token_form=form, **given
    )
    return list(attnviz.attention_map(inputs, 0, "full", merge="words").key_labels)


@pytest.mark.parametrize(
    ("tokens", "form", "wanted"),
    [
        (["The", "Ġun", "friend", "ly", "Ġcat", "."], "byte-level", ["The", "unfriendly", "cat", "."]),
        (
            ["▁The", "▁un", "friend", "ly", "▁cat", "<0xE6>", "<0x9D>", "<0xB1>"],
            "sentencepiece",
            ["The", "unfriendly", "cat東"],
        ),
        (["un", "##friend", "##ly", "cat"], "wordpiece", ["unfriendly", "cat"]),
        (["The", " un", "friendly", " cat"], "plain", ["The", "unfriendly", "cat"]),
        (["Ġa", "Ċ", "b"], "byte-level", ["a", "\n", "b"]),
    ],
)
def test_words_are_read_from_the_marks_of_a_form(tokens, form, wanted):
    assert words(tokens, form) == wanted


def test_word_ids_say_more_than_marks_and_start_anew_in_a_second_sequence():
    ids = [[None, 0, 0, None, 0, 1, None]]
    tokens = ["[CLS]", "New", "York", "[SEP]", "New", "cats", "[SEP]"]
    assert words(tokens, "wordpiece", word_ids=ids) == ["[CLS]", "NewYork", "[SEP]", "New", "cats", "[SEP]"]


def test_a_word_never_lies_in_two_documents():
    assert words(["Ġun", "friend", "ly"], "byte-level", documents=torch.tensor([0, 0, 1])) == ["unfriend", "ly"]


def test_the_row_of_a_word_is_the_mean_of_its_tokens_and_its_column_their_sum():
    inputs = of_words()
    whole = attnviz.score(inputs, "causal").weights.numpy()
    shown = attnviz.attention_map(inputs, 1, "causal", merge="words")
    assert shown.query_labels == ["[CLS]", "unfriendly", "cats", "[SEP]"]
    np.testing.assert_allclose(shown.cells[1, 1], np.tril(whole[1])[1:4, 1:4].sum(1).mean(), rtol=1e-9)
    np.testing.assert_allclose(np.nansum(shown.cells, 1), 1)


def test_nothing_that_says_what_a_word_is_is_an_error():
    with pytest.raises(InputError, match="no word_ids"):
        words(["The", "cat"], "plain")
    with pytest.raises(InputError, match="there are no tokens"):
        attnviz.attention_map(AttentionInputs(normal((1, 3, 2), 0), normal((1, 3, 2), 1)), 0, "full", merge="words")


def test_words_of_two_languages_are_merged_each_by_its_own():
    inputs = AttentionInputs(
        normal((1, 3, 2), 0),
        normal((1, 4, 2), 1),
        cross=True,
        tokens=[["the", "cat", "##s", "sat"]],
        query_tokens=[["die", "Kat", "##zen"]],
        token_form="wordpiece",
    )
    shown = attnviz.attention_map(inputs, 0, "full", merge="words")
    assert (shown.query_labels, shown.key_labels) == (["die", "Katzen"], ["the", "cats", "sat"])
    whole = attnviz.score(inputs, "full").weights[0].numpy()
    np.testing.assert_allclose(shown.cells[1, 1], whole[1:, 1:3].sum(1).mean())


# Spans


@given(st.integers(0, 2**31), st.integers(1, 7), st.integers(1, 7), st.data())
def test_queries_of_another_sequence_have_spans_of_their_own(seed: int, T: int, S: int, data: st.DataObject):
    exists = data.draw(st.lists(st.booleans(), min_size=S, max_size=S).filter(any))
    inputs = AttentionInputs(
        normal((2, T, 3), seed),
        normal((2, S, 3), seed + 1),
        key_padding_mask=torch.tensor(exists),
        cross=True,
        tokens=[[f"k{s}" for s in range(S)]],
        query_tokens=[[f"q{t}" for t in range(T)]],
        pattern=attnviz.Full(),
    )
    queries, keys = data.draw(partitions(T)), data.draw(st.none() | partitions(S))

    def named(groups: list[list[int]], text: bool) -> Any:
        if text:
            return ",".join(f"run {n}:{run[0]}-{run[-1]}" for n, run in enumerate(groups))
        return {f"run {n}": range(run[0], run[-1] + 1) for n, run in enumerate(groups)}

    asked: dict[str, Any] = {"query_spans": named(queries, data.draw(st.booleans()))}
    asked |= {} if keys is None else {"spans": named(keys, data.draw(st.booleans()))}
    shown = attnviz.attention_map(inputs, 1, every_key=True, **asked)
    visible = np.broadcast_to(np.array(exists), (T, S))
    weights = reference.attend(inputs.q[0], inputs.k[0], visible).weights[1]
    singles = [[s] for s in range(S)]
    wanted, seen = reference.merged(np.nan_to_num(weights), visible, set(), False, queries, keys or singles)
    alike(shown.cells, np.where(seen, wanted, np.nan), 1e-12)
    assert list(shown.query_labels) == [f"run {n}" for n in range(len(queries))]
    assert list(shown.key_labels) == (
        [f"k{s}" for s in range(S)] if keys is None else [f"run {n}" for n in range(len(keys))]
    )
    assert attnviz.head_statistics(inputs, heads=[1], **asked)[0].distance is None  # there is no order


def test_what_no_span_has_is_a_span_of_its_own():
    inputs = attnviz.synthesize(tokens=10)
    shown = attnviz.attention_map(inputs, 0, "causal", spans="system:1-3,answer:7-9")
    assert shown.key_labels == ["0", "system", "4-6", "answer"]
    np.testing.assert_allclose(np.nansum(shown.cells, 1), 1, rtol=1e-6)


def test_spans_end_with_a_token():
    tokens = ["the", "cat", ".", "it", "sat", ".", "now"]
    inputs = AttentionInputs(normal((1, 7, 2), 0), normal((1, 7, 2), 1), tokens=[tokens])
    shown = attnviz.attention_map(inputs, 0, "full", spans="sep:.")
    assert shown.key_labels == ["1 the cat .", "2 it sat .", "3 now"]
    assert attnviz.attention_map(of_words(), 0, "full", spans="sep:special").cells.shape == (2, 2)


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ("", "is no span"),
        ("system", "is no span"),
        ("system:", "is no span"),
        ("system:0:3", "is no span"),
        (":0-3", "is no span"),
        ("a:3-1", "runs backwards"),
        ("a:0-10", "beyond the 10 positions"),
        ("a:0-3,b:3-5", "share position 3"),
        ("a:0-3,a:4-5", "called 'a'"),
        ("1-9:0,x:0", "share position 0"),
        ("sep:nowhere", "is no token"),
        ("sep:", "is no token"),
        ({}, "names no span"),
        ({"a": (3, 3)}, "one position or more"),
        ({"a": range(0, 4, 2)}, "one position or more"),
        ({"a": range(4, 12)}, "beyond the 10 positions"),
    ],
)
def test_spans_that_cannot_be_are_an_error(spans, said):
    with pytest.raises(InputError, match=said):
        attnviz.attention_map(attnviz.synthesize(tokens=10), 0, "causal", spans=spans)


# What is hidden


@pytest.mark.parametrize(
    ("hide", "wanted"),
    [
        ("special", (0, 5)),
        ("special,4", (0, 4, 5)),
        ("1-2", (1, 2)),
        ("cats", (4,)),
        ("ly", (3,)),
        ([0, "cats"], (0, 4)),
        ("padding", (5,)),
    ],
)
def test_keys_are_hidden_by_what_they_are(hide, wanted):
    padding = torch.tensor([True, True, True, True, True, hide != "padding"])
    request = Request(of_words(key_padding_mask=padding), "full", hide=hide)
    assert request.attention.hidden == wanted


@pytest.mark.parametrize(
    ("hide", "said"),
    [
        ("", "is no key's token"),
        ("dogs", "is no key's token"),
        ("6", "is no position"),
        ("3-1", "is no position"),
        ("padding", "which keys are padding"),
        ("0-5", "leaves none"),
        ([], "names nothing"),
    ],
)
def test_what_is_not_there_cannot_be_hidden(hide, said):
    with pytest.raises(InputError, match=said):
        attnviz.attention_map(of_words(), 0, "full", hide=hide)


def test_a_comma_is_a_token_too():
    inputs = AttentionInputs(normal((1, 3, 2), 0), normal((1, 3, 2), 1), tokens=[["a", ",", "b"]])
    assert Request(inputs, "full", hide=",").attention.hidden == (1,)
    with pytest.raises(InputError, match="names no special tokens"):
        Request(inputs, "full", hide="special")


def test_what_is_left_of_an_overwhelming_sink_is_still_there():
    k = torch.tensor([[[900.0, 0.0], [0.0, 1.0], [0.0, 2.0]]], dtype=torch.float32)
    inputs = AttentionInputs(torch.ones(1, 3, 2), k, scale=1.0)
    shown = attnviz.attention_map(inputs, 0, "full", hide=[0], renormalize=True).cells
    np.testing.assert_allclose(shown[0, 1:], np.exp([1, 2]) / np.exp([1, 2]).sum(), rtol=1e-5)
    assert np.isnan(shown[:, 0]).all()


def test_a_rest_of_0_is_a_blank_row():
    given = AttentionWeights(torch.tensor([[[1.0, 0.0], [0.5, 0.5]]]))
    shown = attnviz.attention_map(given, 0, hide=[0], renormalize=True).cells
    np.testing.assert_array_equal(shown, [[np.nan, np.nan], [np.nan, 1.0]])
    kept = attnviz.attention_map(given, 0, hide=[0]).cells
    np.testing.assert_array_equal(kept, [[np.nan, 0.0], [np.nan, 0.5]])


def test_logits_are_not_added_up():
    with pytest.raises(InputError, match="logits don't add up"):
        attnviz.attention_map(of_words(), 0, "full", merge="words", values="logits")
    with pytest.raises(InputError, match="choose one"):
        attnviz.attention_map(of_words(), 0, "full", merge="words", spans="a:0-1")
    with pytest.raises(InputError, match="not one of words"):
        attnviz.attention_map(of_words(), 0, "full", merge="letters")


def test_nothing_of_the_size_of_the_map_is_made(monkeypatch):
    monkeypatch.setattr("attnviz.engine.merged._CELLS", 1 << 16)
    monkeypatch.setattr("attnviz.engine.tiles.TileSize.fitting", lambda *args, **given: TileSize(64, 1024))
    n = 1200  # a map of 11 MB
    tokens = ["Ġa" if i % 3 else "b" for i in range(n)]
    vectors = normal((1, n, 4), 0).float()
    inputs = AttentionInputs(vectors, vectors, tokens=[tokens], token_form="byte-level")
    for more in ({}, {"hide": [0]}):
        tracemalloc.start()
        attnviz.attention_map(inputs, 0, "causal", merge="words", pixels=16, **more)
        assert tracemalloc.get_traced_memory()[1] < 4e6
        tracemalloc.stop()


@pytest.mark.parametrize("other", [Causal(), Local(1), GlobalKeys(), Chunked(3)], ids=str)
@pytest.mark.parametrize("how", ["and", "or", "or after"])
def test_keys_that_no_query_sees_are_hidden_in_any_composition(other, how):
    inputs = attnviz.synthesize(heads=1, tokens=9, global_positions=(0, 4))
    kept = _Kept((0, 3, 7))
    pattern = {"and": other & kept, "or": (Causal() & kept) | other, "or after": other | (Local(2) & kept)}[how]
    item = inputs.item(0)
    t, s = torch.arange(9)[:, None], torch.arange(9)[None]
    visible = pattern.visible(t, s, item)
    found = HeadRows(item, pattern, 0).read(range(9), weights=False)
    seen = found.over(torch.arange(9), False).seen
    plain = [row for row in range(9) if row not in HeadRows(item, pattern, 0).apart.tolist()]
    assert seen[plain].equal(visible[plain])
    for block in blocks(item, pattern, 0):
        assert block.over_all(9)[1].equal(visible[block.rows])
