"""Statistics query by query and key by key, curves by distance, tags and frames: against loops over the reference's weights."""

from __future__ import annotations

import math
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import attnviz
from attnviz import AttentionInputs, InputError
from attnviz.attention.patterns import Causal, Full
from attnviz.measures.curves import FIRST
from attnviz.measures.statistics import STATISTICS
from attnviz.measures.tags import TAGS, tag_of
from attnviz.show.frames import columns_csv, frame, joined, write_parquet
from tests import reference
from tests.cases import small
from tests.strategies import Call, calls, normal, parts


@st.composite
def asked(draw: st.DrawFn) -> tuple[Call, range]:
    """A call and the queries that are asked of it."""
    call = draw(calls(values=False))
    part = draw(parts(call.inputs.T))
    return call, range(call.inputs.T) if part is None or not len(part) else part


def of_rows(call: Call, head: int, queries: range) -> dict[str, float | None]:
    """What the reference says of some queries of a head."""
    visible = call.visible(head).copy()
    visible[[t for t in range(call.inputs.T) if t not in queries]] = False
    whole, inputs, b = call.expected(), call.inputs, call.batch
    q = inputs.q[b, head].double().numpy().copy()
    for t in call.global_queries if call.has_global_queries and inputs.q_global is not None else ():
        q[t] = inputs.q_global[b, head, t].double().numpy()
    return reference.statistics(
        whole.weights[head],
        visible,
        None if inputs.global_mask is None else call.globals_,
        call.first_keys,
        call.places,
        tokens=call.tokens,
        logits=whole.logits[head],
        q=q,
        k=inputs.k[b, head // (inputs.H // inputs.H_kv)].double().numpy(),
        padding=None if inputs.key_padding_mask is None else inputs.key_padding_mask[b].tolist(),
    )


@given(one=asked())
def test_statistics_of_some_queries_and_of_each(one):
    call, queries = one
    found = attnviz.head_statistics(call.inputs, call.pattern, batch=call.batch, queries=queries)
    each = attnviz.query_statistics(call.inputs, call.pattern, batch=call.batch, queries=queries)
    for head in range(call.inputs.H):
        wanted = of_rows(call, head, queries)
        for name in STATISTICS:
            assert (found[head].values[name] is None) == (wanted[name] is None), name
            assert wanted[name] is None or found[head].values[name] == pytest.approx(wanted[name], abs=1e-10), name
        assert each[head].queries.tolist() == list(queries)
        for t in queries:
            own = of_rows(call, head, range(t, t + 1))
            for name, column in each[head].values.items():
                value = column[t - queries.start]
                if own[name] is None:
                    assert math.isnan(value), name
                else:
                    assert value == pytest.approx(own[name], abs=1e-10), name


@given(one=asked())
def test_what_each_key_receives(one):
    call, queries = one
    found = attnviz.weight_received(call.inputs, call.pattern, batch=call.batch, queries=queries)
    for head, received in enumerate(found):
        weights, visible = call.expected().weights[head], call.visible(head)
        for s in range(call.inputs.S):
            own = [float(weights[t, s]) for t in queries if visible[t, s]]
            assert received.queries[s] == len(own)
            assert received.sum[s] == pytest.approx(math.fsum(own), abs=1e-10)
            if own:
                assert received.mean[s] == pytest.approx(math.fsum(own) / len(own), abs=1e-10)
                assert received.largest[s] == pytest.approx(max(own), abs=1e-10)
        rows = received.columns()
        assert [value is None for value in rows["mean"]] == (received.queries == 0).tolist()


@given(one=asked())
def test_curves_are_sums_over_pairs(one):
    call, queries = one
    places = call.places
    found = attnviz.head_curves(call.inputs, call.pattern, batch=call.batch, queries=queries)
    for head, curve in enumerate(found):
        weights, visible = call.expected().weights[head], call.visible(head)
        seeing = [t for t in queries if visible[t].any()]
        pairs = [(t, s) for t in seeing for s in range(call.inputs.S) if visible[t, s]]
        away = {(t, s): abs(places.queries[t] - places.keys[s]) for t, s in pairs}
        for distance, (mass, weight) in enumerate(zip(curve.mass, curve.weight, strict=True)):
            own = [float(weights[pair]) for pair in pairs if away[pair] == distance]
            assert mass == pytest.approx(math.fsum(own) / max(len(seeing), 1), abs=1e-10)
            assert math.isnan(weight) == (not own)
            assert not own or weight == pytest.approx(math.fsum(own) / len(own), abs=1e-10)
        for window, kept in curve.windows.items():
            own = [float(weights[t, s]) for t, s in pairs if away[t, s] <= window or s in first_keys(call, t)]
            assert kept == pytest.approx(math.fsum(own) / len(seeing), abs=1e-10)
        assert [*curve.windows] == [2**n for n in range(len(curve.windows))]


def first_keys(call: Call, t: int) -> set[int]:
    """The first four keys that exist, of a query's document."""
    mask = call.inputs.key_padding_mask
    exists = [s for s in range(call.inputs.S) if mask is None or bool(mask[call.batch, s])]
    if call.inputs.documents is not None:
        exists = [s for s in exists if call.places.together(t, s)]
    return {*sorted(exists, key=lambda s: call.places.keys[s])[:FIRST]}


# Roles, by hand


def looking(weights: list[list[float]], tokens: str) -> AttentionInputs:
    """A head of these weights, in logits added to nothing."""
    n = len(weights)
    logs = torch.tensor(weights).double().log()
    return AttentionInputs(
        torch.zeros(1, n, 2).double(),
        torch.zeros(1, n, 2).double(),
        bias=logs[None],
        tokens=[list(tokens)],
        pattern=Full(),
    )


def test_an_induction_head_looks_after_what_came_before():
    #                 a    b    c    a    b     the second a looks at b, the second b at c
    rows = [[1.0, 0, 0, 0, 0], [0, 1.0, 0, 0, 0], [0, 0, 1.0, 0, 0], [0, 0.9, 0, 0.1, 0], [0, 0, 0.8, 0.2, 0]]
    (row,) = attnviz.head_statistics(looking([[max(w, 1e-30) for w in own] for own in rows], "abcab"))
    assert row.induction == pytest.approx((0.9 + 0.8) / 2)
    assert row.duplicate == pytest.approx(0, abs=1e-9)
    assert (row.tag, row.tag_score) == ("induction", pytest.approx(0.85))


def test_a_token_that_comes_everywhere_is_listed_in_parts(monkeypatch):
    monkeypatch.setattr("attnviz.measures.tokens._PAIRS", 7)
    inputs = AttentionInputs(normal((1, 40, 2), 0), normal((1, 40, 2), 1), tokens=[["a"] * 40])
    (row,) = attnviz.head_statistics(inputs, Causal())
    weights = np.nan_to_num(attnviz.attention_map(inputs, 0, Causal()).cells)
    assert row.duplicate == pytest.approx(np.tril(weights, -1).sum(1)[1:].mean())
    assert row.induction == pytest.approx(weights[:, 1:].sum(1)[1:].mean())


def test_roles_need_tokens():
    (row,) = attnviz.head_statistics(AttentionInputs(normal((1, 4, 2), 0), normal((1, 4, 2), 1)), Causal())
    assert (row.duplicate, row.induction) == (None, None)


# Tags


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_is_given_from_its_threshold_on(tag):
    name, least = TAGS[tag]
    assert tag_of({name: least}) == (tag, least)
    assert tag_of({name: least - 1e-9}) == ("mixed", None)
    assert tag_of({name: None}) == ("mixed", None)


def test_the_docs_have_the_thresholds():
    text = (Path(__file__).parents[2] / "docs/statistics.md").read_text()
    told = {
        tag: (name, float(least))
        for tag, name, least in re.findall(r"^\| `(\w+)` \| `(\w+)` \| ([\d.]+) \|", text, re.M)
    }
    assert list(told.items()) == list(TAGS.items())


# Frames


def test_a_frame_has_a_row_a_head_and_a_column_a_statistic():
    pandas = pytest.importorskip("pandas")
    rows = attnviz.head_statistics(small(), "causal", batch=1)
    table = frame(rows)
    assert isinstance(table, pandas.DataFrame)
    assert [*table.columns] == ["layer", "head", "queries", *STATISTICS, "tag", "tag_score"]
    assert table["entropy"].tolist() == [row.entropy for row in rows]
    assert table["duplicate"].isna().all()
    assert table["tag"].tolist() == [row.tag for row in rows]


def test_frames_of_queries_keys_and_layers_of_several_kinds():
    pytest.importorskip("pandas")
    assert len(frame(attnviz.query_statistics(small(), "causal", heads=[0, 2]))) == 12
    assert frame(attnviz.weight_received(small(), "causal", heads=[1]))["sum"].sum() == pytest.approx(6)
    layers = [row for layer in (0, "cross.1") for row in attnviz.head_statistics(small(), layer=layer, heads=[0])]
    assert frame(layers)["layer"].tolist() == ["0", "cross.1"]


def test_a_backend_that_is_none():
    with pytest.raises(InputError, match="backend 'excel' is none that narwhals knows"):
        frame(attnviz.head_statistics(small()), "excel")


@pytest.mark.parametrize("backend", ["polars", "pyarrow"])
def test_frames_of_other_backends(backend):
    pytest.importorskip(backend)
    assert frame(attnviz.head_statistics(small()), backend).shape[0] == 4


THERE = [backend for backend in ("polars", "pyarrow") if find_spec(backend)]


def test_parquet_holds_the_columns(tmp_path):
    columns = joined(row.columns() for row in attnviz.head_statistics(small()))
    if not THERE:
        with pytest.raises(InputError, match="polars or pyarrow"):
            write_parquet(tmp_path / "stats.parquet", columns)
        return
    write_parquet(tmp_path / "stats.parquet", columns)
    narwhals = pytest.importorskip("narwhals")
    table = narwhals.read_parquet(tmp_path / "stats.parquet", backend=THERE[0])
    assert table["head"].to_list() == [0, 1, 2, 3]
    assert table["entropy"].to_list() == pytest.approx(columns["entropy"])


def test_csv_leaves_empty_what_is_not_there():
    assert columns_csv({"layer": [None, 3], "mass": [0.5, None]}) == "layer,mass\n,0.500000\n3,\n"
