"""Maps held against float64: what is right holds, and what is not is found."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attnviz
from attnviz import AttentionInputs, InputError
from attnviz.engine.request import ask
from attnviz.maps.map import AttentionMap, map_of
from attnviz.maps.verify import ExactRows, sampled, verify
from tests.cases import small
from tests.strategies import calls, normal


@given(call=calls(values=False), data=st.data())
def test_exact_rows_are_those_of_the_reference(call, data):
    head = data.draw(st.integers(0, call.inputs.H - 1))
    first = data.draw(st.integers(0, call.inputs.T - 1))
    rows = range(first, data.draw(st.integers(first + 1, call.inputs.T)))
    logits = ExactRows(call.inputs.item(call.batch), call.pattern, head).logits(rows)
    np.testing.assert_allclose(logits, call.expected().logits[head][rows.start : rows.stop], rtol=1e-12, atol=1e-12)


@given(call=calls(values=False), data=st.data())
def test_exact_cells_are_the_same_in_runs_of_keys_of_any_length(call, data):
    item, head = call.inputs.item(call.batch), data.draw(st.integers(0, call.inputs.H - 1))
    first = data.draw(st.integers(0, item.S - 1))
    edges = np.array(sorted(data.draw(st.sets(st.integers(first, item.S), min_size=2))) if first < item.S else [0, 1])
    logits = call.expected().logits[head]
    with patch("attnviz.maps.verify._CELLS", data.draw(st.integers(1, 40 * item.products.D))):
        made = {how: ExactRows(item, call.pattern, head).cells(range(item.T), edges, how) for how in ("max", "mass")}
    sink = item.sink(head)
    for row, own in enumerate(np.asarray(logits)):
        seen = own > -np.inf
        total = np.exp(own[seen]).sum() + (0 if sink is None else np.exp(sink))
        for how, of in (("max", np.max), ("mass", np.sum)):
            cells, log_sums = made[how][0][row], made[how][1][row]
            assert np.isnan(log_sums) if not seen.any() else log_sums == pytest.approx(np.log(total), rel=1e-12)
            for cell, start, stop in zip(cells, edges[:-1], edges[1:], strict=True):
                there = own[start:stop][seen[start:stop]]
                wanted = of(np.exp(there)) / total if len(there) else np.nan
                assert cell == pytest.approx(wanted, rel=1e-9, nan_ok=True)


@settings(max_examples=12)
@given(call=calls(values=False), data=st.data())
def test_a_map_of_any_call_holds(call, data):
    head, reduce = data.draw(st.integers(0, call.inputs.H - 1)), data.draw(st.sampled_from(["max", "mass"]))
    pixels, rows = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 20))
    request = ask(call.inputs, call.pattern, head, batch=call.batch, reduce=reduce, pixels=pixels)
    found = verify(request, map_of(request), rows)
    assert found.holds, str(found)
    assert min(rows, call.inputs.T) <= found.rows <= max(rows, call.inputs.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduce", ["max", "mass"])
def test_a_longer_map_holds_within_what_it_says(dtype, reduce):
    q, k = (normal((1, 3000, 16), seed).to(dtype) for seed in range(2))
    request = ask(AttentionInputs(q, k), "causal", 0, reduce=reduce, pixels=50)
    found = verify(request, map_of(request), 100)
    assert found.holds
    assert found.rows == 100
    assert 0 < found.cells < found.tolerance < 1e-4
    assert str(found).startswith("100 rows against float64: log-sum-exp within ")


@pytest.fixture
def asked():
    q, k = (normal((1, 400, 8), seed).float() for seed in range(2))
    request = ask(AttentionInputs(q, k), "causal", 0, pixels=4)
    return request, map_of(request)


def spoiled(shown: AttentionMap, at: tuple[int, int], value: float) -> AttentionMap:
    cells = shown.cells.copy()
    cells[at] = value
    return replace(shown, cells=cells)


@pytest.mark.parametrize("value", [0.0, np.nan, 2.0])
def test_a_wrong_cell_is_found(asked, value):
    request, shown = asked
    found = verify(request, replace(shown, cells=np.where(np.isnan(shown.cells), np.nan, value)), 40)
    assert not found.holds


def test_a_cell_below_one_of_its_weights_is_found(asked):
    request, shown = asked
    for row in range(4):  # whichever rows of cells are made whole
        found = verify(request, spoiled(shown, (row, 0), 1e-9), 400)
        assert found.above > 1e-3
        assert not found.holds


def test_logits_several_heads_and_other_bins_are_refused(asked):
    request, shown = asked
    for other in (
        replace(shown, values="logits"),
        replace(shown, combined="mean"),
        replace(shown, cells=shown.cells[:2]),
    ):
        with pytest.raises(InputError, match="leave --verify out"):
            verify(request, other, 5)
    given_weights = ask(attnviz.AttentionWeights(torch.full((1, 4, 4), 0.25)), None, 0)
    with pytest.raises(InputError, match="leave --verify out"):
        verify(given_weights, map_of(given_weights), 5)


@given(data=st.data())
def test_samples_are_of_the_size_asked_for_and_have_both_ends(data):
    first = data.draw(st.integers(0, 50))
    queries = range(first, first + data.draw(st.integers(1, 3000)))
    rows = data.draw(st.integers(1, 2000))
    found = [t for run in sampled(queries, rows, np.random.default_rng(0)) for t in run]
    assert found == sorted(set(found))
    assert set(found) <= set(queries)
    assert len(found) == min(rows, len(queries))
    assert found[0] == queries[0]
    assert rows == 1 or found[-1] == queries[-1] or rows <= 16
    if rows > 16:
        assert found[-1] == queries[-1]


def test_plot_says_what_it_found_and_ends_where_it_does_not_hold(tmp_path, capsys, monkeypatch):
    from attnviz.cli.main import main

    attnviz.save(tmp_path / "dump.npz", small(batch=1, tokens=50))
    arguments = ["plot", "dump.npz", "--head", "0,2", "--pattern", "causal", "-o", "map.npz", "--verify", "9"]
    monkeypatch.chdir(tmp_path)

    def run() -> tuple[int, list[str]]:
        monkeypatch.setattr("sys.argv", ["attnviz", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(str(ended.value.code or 0)), capsys.readouterr().err.splitlines()

    code, said = run()
    assert code == 0
    assert [line[:39] for line in said[:2]] == [
        "attnviz: head 0: 9 rows against float64",
        "attnviz: head 2: 9 rows against float64",
    ]
    (tmp_path / "map.npz").unlink()
    monkeypatch.setattr("attnviz.maps.verify.Verified.holds", False)
    code, said = run()
    assert code == 70
    assert "head 0 is not what float64 gives" in said[0]
    assert not (tmp_path / "map.npz").exists()
