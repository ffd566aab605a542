"""What a snapshot keeps, against plain loops, and what a comparison calls a difference."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import attnviz
from attnviz.attention.patterns import Causal, Full, GlobalKeys, Local, longformer
from attnviz.base.errors import InputError
from attnviz.compare.rounding import Tolerance
from attnviz.compare.snapshots.comparing import compare_snapshots, difference_maps
from attnviz.compare.snapshots.snapshot import DIGITS
from attnviz.compare.snapshots.taking import locate, take_snapshot
from attnviz.show.figures.difference import difference_figure
from tests.cases import small
from tests.reference import attend

T = 10


def inputs(**changes: object) -> attnviz.AttentionInputs:
    return small(**{"tokens": T, "dtype": "float64", **changes})


def reference(given: attnviz.AttentionInputs, visible: np.ndarray, batch: int = 0) -> np.ndarray:
    """Weights (H, T, S), NaN where a key is hidden."""
    weights = attend(given.q[batch], given.k[batch], visible).weights
    return np.where(visible, weights, np.nan)


CAUSAL = np.tril(np.ones((T, T), dtype=bool))


def bins(size: int, count: int) -> list[range]:
    return [range(size * i // count, size * (i + 1) // count) for i in range(count)]


# What is kept


def test_a_short_map_is_kept_whole():
    given = inputs()
    found = take_snapshot(given, Causal(), batch=1)
    expected = reference(given, CAUSAL, 1)
    assert [one.head for one in found.heads] == [0, 1, 2, 3]
    for one in found.heads:
        assert list(one.cells) == ["weights"]
        np.testing.assert_allclose(one.cells["weights"], expected[one.head], atol=1e-12)
    assert found.query_tokens == found.key_tokens == given.tokens[1]


def test_a_longer_map_is_kept_as_max_and_mass():
    given = inputs()
    found = take_snapshot(given, Causal(), cells=4)
    whole = reference(given, CAUSAL)
    for one in found.heads:
        for i, rows in enumerate(bins(T, 4)):
            for j, keys in enumerate(bins(T, 4)):
                seen = [whole[one.head, t, s] for t in rows for s in keys if s <= t]
                most = max(seen) if seen else math.nan
                mass = math.fsum(seen) / len(rows) if seen else math.nan
                assert one.cells["max"][i, j] == pytest.approx(most, abs=1e-12, nan_ok=True)
                assert one.cells["mass"][i, j] == pytest.approx(mass, abs=1e-12, nan_ok=True)


def test_the_formula_runs_in_float64_whatever_the_inputs_are():
    given = inputs(dtype="bfloat16")
    expected = reference(given, CAUSAL)
    found = take_snapshot(given, Causal())
    np.testing.assert_allclose(found.heads[2].cells["weights"], expected[2], atol=1e-12)
    assert found.settings["dtype"] == "bfloat16"


def test_global_keys_have_a_column_each():
    found = take_snapshot(inputs())
    assert found.keys == (0, 3)
    assert found.key_tokens == ["t0", "t3"]
    assert found.heads[0].cells["weights"].shape == (T, 2)
    assert found.settings["global_keys"] == [0, 3]


def test_statistics_are_those_of_the_weights():
    given = inputs()
    whole = reference(given, CAUSAL)
    one = take_snapshot(given, Causal(), heads=[3], cells=3).heads[0]
    entropies = [-math.fsum(w * math.log(w) for w in row[~np.isnan(row)]) for row in whole[3]]
    assert one.statistics["entropy"] == pytest.approx(sum(entropies) / T, abs=1e-12)
    assert one.statistics["queries"] == T


def test_a_part_of_a_map():
    given = inputs()
    found = take_snapshot(given, Causal(), queries=range(4, 8), keys=range(2, 6))
    np.testing.assert_allclose(found.heads[1].cells["weights"], reference(given, CAUSAL)[1, 4:8, 2:6], atol=1e-12)
    assert (found.queries, found.keys, found.key_tokens) == (range(4, 8), range(2, 6), ["t2", "t3", "t4", "t5"])


def test_long_sequences_are_kept_without_their_tokens():
    found = take_snapshot(inputs(tokens=65), Causal(), heads=[0])
    assert found.query_tokens is None
    assert found.key_tokens is None


@pytest.mark.sweep(keep=7)
@pytest.mark.parametrize("cells", [4, 32])
@pytest.mark.parametrize("values", ["weights", "logits"])
@pytest.mark.parametrize(
    "pattern", [Causal(), Full(), GlobalKeys(), Local(2), Local(1, 2) | GlobalKeys(), longformer(1)], ids=str
)
def test_scores_give_the_snapshot_of_their_inputs(pattern, values, cells):
    given = inputs()
    ours = take_snapshot(given, pattern, values=values, cells=cells)
    theirs = take_snapshot(attnviz.score(given, pattern), values=values, cells=cells)
    assert compare_snapshots(ours, theirs).report() == ours_within(ours)


def ours_within(snapshot: attnviz.Snapshot) -> str:
    return f"within tolerance ({snapshot.tolerance}, for float64)"


def test_changed_scores_are_seen():
    """The numbers handed over are kept, not computed again."""
    given = inputs()
    result = attnviz.score(given, Local(2))
    result.weights[1, 5, 2] += 0.25
    found = compare_snapshots(take_snapshot(given, Local(2)), take_snapshot(result))
    (worst,) = found.cells
    assert (worst.head, list(worst.queries), list(worst.keys)) == (1, [5], [5])
    assert worst.b - worst.a == pytest.approx(0.25)


def test_a_tensor_of_weights_fits_the_snapshot_of_its_inputs():
    """A kernel's zeros do not say whether a key was hidden; nor does it know the pattern."""
    given = inputs()
    weights = torch.from_numpy(np.nan_to_num(reference(given, CAUSAL)))
    found = compare_snapshots(take_snapshot(given, Causal()), take_snapshot(weights, tokens=given.tokens[0]))
    assert found.within, found.report()
    weights[0, 2, 5] = 0.01  # from the future
    found = compare_snapshots(take_snapshot(given, Causal()), take_snapshot(weights, tokens=given.tokens[0]))
    assert "head 0, weights: 1 of 56 cells; the worst is query 2 't2' → key 5 't5', was not visible" in found.report()


def test_logits_of_a_tensor():
    given = inputs()
    logits = torch.from_numpy(attend(given.q[0], given.k[0], CAUSAL).logits)
    found = compare_snapshots(take_snapshot(given, Causal(), values="logits"), take_snapshot(logits, values="logits"))
    assert found.within, found.report()


def test_a_map_is_reduced_further():
    given = inputs()
    shown = attnviz.attention_map(given, 2, Causal())
    found = take_snapshot(shown, cells=4)
    expected = take_snapshot(given, Causal(), heads=[2], cells=4)
    np.testing.assert_allclose(found.heads[0].cells["max"], expected.heads[0].cells["max"], atol=1e-12)
    assert found.settings == {"source": "map", "values": "weights", "pattern": "causal", "dtype": "float64"}


def test_mass_is_not_reduced_again():
    shown = attnviz.attention_map(inputs(), 2, Causal(), reduce="mass", pixels=8)
    with pytest.raises(InputError, match=r"8 x 8 cells of mass.*pixels=4"):
        take_snapshot(shown, cells=4)


# What differs


def moved(by: float, **changes: object) -> tuple[attnviz.Snapshot, attnviz.Snapshot]:
    given = inputs(**changes)
    weights = torch.from_numpy(np.nan_to_num(reference(given, CAUSAL))).to(given.q.dtype)
    later = weights.clone()
    later[2, 7, 4] += by
    return take_snapshot(weights), take_snapshot(later)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_the_tolerance_is_the_cells_own_by_what_the_dtype_and_the_logits_cost(dtype):
    stored = moved(0.0, dtype=dtype)[0]
    weight, rule = stored.heads[2].cells["weights"][7, 4], stored.rule
    allowed = rule.atol + rule.rtol * weight

    def later(by: float) -> attnviz.Snapshot:
        cells = stored.heads[2].cells["weights"].copy()
        cells[7, 4] += by
        heads = [one if one.head != 2 else replace(one, cells={"weights": cells}) for one in stored.heads]
        return replace(stored, heads=heads)

    assert compare_snapshots(stored, later(allowed / 4)).within
    found = compare_snapshots(stored, later(1.01 * allowed))
    assert [(c.head, list(c.queries), list(c.keys), c.beyond) for c in found.cells] == [(2, [7], [4], 1)]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_inputs_that_have_nothing_to_do_with_it_do_not_hold_at_any_length(dtype):
    """Weights of 512 keys are all below what was allowed of a bfloat16, 0.01."""
    draw = torch.Generator().manual_seed(0)
    one, other = (
        attnviz.AttentionInputs(
            *torch.randn(2, 1, 2, 512, 16, generator=draw, dtype=torch.float64).to(getattr(torch, dtype))
        )
        for _ in range(2)
    )
    found = compare_snapshots(take_snapshot(one, Full()), take_snapshot(other, Full()))
    assert {(c.head, c.reduction) for c in found.cells} == {(h, r) for h in range(2) for r in ("max", "mass")}
    assert all(c.beyond > c.cells / 4 for c in found.cells if c.reduction == "max")


def test_a_tolerance_of_ones_own():
    pair = moved(0.01)
    assert not compare_snapshots(*pair).within
    assert compare_snapshots(*pair, Tolerance(0.02, 0.0)).within


@pytest.mark.parametrize("dtype", list(DIGITS))
def test_numbers_of_a_file_are_well_within_the_tolerance(dtype):
    stored = take_snapshot(inputs(dtype=dtype), Causal())
    assert 10.0 ** -DIGITS[dtype] <= stored.rule.rtol / 4


def test_a_changed_setting_is_a_difference():
    given = inputs()
    found = compare_snapshots(
        take_snapshot(given, Causal()), take_snapshot(replace(given, scale=0.5), Full(), heads=[0])
    )
    assert found.settings == [
        "pattern was causal, is full",
        f"scale was {round(8**-0.5, 12)}, is 0.5",
        "the heads kept were 0, 1, 2, 3, are 0",
    ]
    assert not found.within


def test_a_changed_token_is_a_difference():
    given = inputs()
    later = replace(given, tokens=[["t0", "other", *given.tokens[0][2:]], given.tokens[1]])
    found = compare_snapshots(take_snapshot(given, Causal()), take_snapshot(later, Causal()))
    assert found.settings == ["query token 1 was 't1', is 'other'", "key token 1 was 't1', is 'other'"]
    assert not found.within


def test_a_key_that_is_hidden_now_is_the_worst():
    given = inputs()
    found = compare_snapshots(take_snapshot(given, Full()), take_snapshot(given, Full() & Causal()))
    assert math.isnan(found.cells[0].b)
    assert "is not visible" in found.report()


def test_a_lone_statistic_is_a_difference():
    before = take_snapshot(inputs(), Causal(), heads=[1])
    one = before.heads[0]
    later = replace(before, heads=[replace(one, statistics={**one.statistics, "entropy": 0.5})])
    found = compare_snapshots(before, later)
    assert [(s.head, s.name, s.b) for s in found.statistics] == [(1, "entropy", 0.5)]
    assert not found.within


def test_a_reduced_cell_is_named_by_its_positions():
    given = inputs()
    k = given.k.clone()
    k[0, 1, 8] *= 3
    found = compare_snapshots(
        take_snapshot(given, Causal(), cells=5), take_snapshot(replace(given, k=k), Causal(), cells=5)
    )
    assert "queries 8 to 9 → keys 8 to 9" in found.report()


def test_the_largest_pair_of_a_reduced_cell_is_found():
    given = inputs()
    k = given.k.clone()
    k[0, 1, 8] *= 3
    later = replace(given, k=k)
    whole = reference(later, CAUSAL)
    weights = torch.from_numpy(np.nan_to_num(whole))
    for source, pattern in ((later, Causal()), (weights, None)):
        before, now = take_snapshot(given, Causal(), cells=5), take_snapshot(source, pattern, cells=5)
        found = compare_snapshots(before, now)
        worst = next(cell for cell in found.cells if cell.reduction == "max")
        query, key, value = locate(source, pattern, worst, now)
        part = whole[worst.head, worst.queries.start : worst.queries.stop, worst.keys.start : worst.keys.stop]
        assert whole[worst.head, query, key] == np.nanmax(part) == pytest.approx(value)
        assert (query in worst.queries, key in worst.keys) == (True, True)
    assert "    the largest there is now query 9 → key 8, 0.5" in found.report(where=(9, 8, 0.5))


def test_other_positions_have_no_cells_in_common():
    given = inputs()
    found = compare_snapshots(take_snapshot(given, Causal()), take_snapshot(given, Causal(), queries=range(5)))
    assert found.settings == ["the queries kept were 0 to 9, are 0 to 4", *found.settings[1:]]
    assert difference_maps(found) == []


def test_pictures_are_of_the_heads_that_differ():
    before, later = moved(0.25)
    ((a, b, apart),) = difference_maps(compare_snapshots(before, later))
    assert (a.head, a.pattern, b.pattern) == (2, "stored", "now")
    assert apart.cells[7, 4] == pytest.approx(-0.25)
    assert np.count_nonzero(np.nan_to_num(apart.cells)) == 1


def test_the_color_bar_of_a_picture_says_what_is_taken_from_what():
    figure = difference_figure(difference_maps(compare_snapshots(*moved(0.25))))
    assert "stored − now, weight" in [label for ax in figure.axes for label in (ax.get_xlabel(), ax.get_ylabel())]


# What can't be


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        (inputs(), {"cells": 0}, "at least 1 cell"),
        (inputs(), {"values": "scores"}, "values 'scores' is not one of weights, logits"),
        (inputs(), {"heads": [4]}, "head 4 is out of range"),
        (torch.ones(2, 3), {}, r"shape \(2, 3\)"),
        (torch.ones(2, 3, 3, dtype=torch.int64), {}, "int64"),
        (torch.ones(2, 3, 3), {"tokens": ["a"]}, "1 labels are given, wanted S = 3"),
        (torch.ones(2, 3, 3), {"pattern": Causal()}, "a Tensor is computed already; leave pattern out"),
        (torch.ones(2, 3, 3), {"heads": [2]}, r"head 2 is out of range; the tensor has 2 \(0 to 1\)"),
        ("dump.safetensors", {}, "not of str"),
        (attnviz.score(inputs(), logits=False), {"values": "logits"}, "logits of these scores were not computed"),
        (attnviz.score(inputs(), heads=[1]), {"heads": [0]}, "head 0 is not among"),
    ],
)
def test_what_cannot_be_a_snapshot(source, options, says):
    with pytest.raises(InputError, match=says):
        take_snapshot(source, **options)
