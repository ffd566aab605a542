"""What figures say in words."""

from __future__ import annotations

import numpy as np
import pytest

from attnviz.maps.map import AttentionMap
from attnviz.show.figures.captions import caption, find_sink, sink_note, visibility_hint
from attnviz.show.figures.scales import ColorScale


def sink_map(
    share: float = 0.8, columns: int = 20, *, head: int = 0, column: int = 3, **fields: object
) -> AttentionMap:
    cells = np.full((10, columns), (1 - share) / (columns - 1))
    cells[:, column] = share
    positions = {"queries": range(10), "keys": range(columns), "key_labels": [f"w{n}" for n in range(columns)]}
    return AttentionMap(cells, "weights", head, **{**positions, **fields})


def test_a_key_with_most_of_the_weight_is_named():
    assert sink_note([sink_map()]) == "key 3 (w3) takes 80% of the weight shown"
    assert sink_note([sink_map(0.9999)]) == "key 3 (w3) takes over 99% of the weight shown"
    assert find_sink(sink_map()).share == pytest.approx(0.8)


@pytest.mark.parametrize(("share", "keys"), [(0.5, 20), (0.4, 20), (0.9, 3)])
def test_half_of_it_is_not_most_nor_is_one_of_three(share, keys):
    assert find_sink(sink_map(share, keys, column=0)) is None


def test_a_key_that_one_query_alone_looks_at_is_none():
    cells = np.full((10, 20), 1e-6) + np.eye(10, 20) * 1e-5
    cells[4, 3] = 0.9
    assert find_sink(AttentionMap(cells, "weights", 0, range(10), range(20))) is None


def test_logits_have_no_sinks():
    shown = sink_map()
    assert find_sink(AttentionMap(shown.cells, "logits", 0, shown.queries, shown.keys)) is None


def test_cells_of_mass_are_summed():
    coarse = sink_map(queries=range(100), keys=range(2000), key_labels=None, reduce="mass", column=0)
    assert sink_note([coarse]) == "keys 0 to 99 take 80% of the weight shown"


def test_cells_of_the_largest_weight_are_counted_not_summed():
    cells = np.full((10, 20), 0.01)
    cells[:7, 2] = 0.02
    cells[7:, 5] = 0.99
    coarse = AttentionMap(cells, "weights", 0, range(100), range(2000), reduce="max")
    assert sink_note([coarse]) == "the largest weight of 70% of the rows is at keys 200 to 299"


def test_no_column_leads_where_all_are_even():
    uniform = AttentionMap(np.full((10, 20), 1e-3), "weights", 0, range(100), range(2000), reduce="max")
    assert find_sink(uniform) is None
    cells = np.where(np.tri(20, dtype=bool), 1e-3, np.nan)
    assert find_sink(AttentionMap(cells, "weights", 0, range(2000), range(2000), reduce="max")) is None


def test_heads_are_told_in_one_line():
    heads = [sink_map(0.3), sink_map(0.7, head=1), sink_map(0.9, head=2, column=0)]
    expected = "in 2 of 3 heads one column stands out; in head 2, key 0 (w0) takes 90% of the weight shown"
    assert sink_note(heads) == expected


def test_heads_of_several_layers_are_told_by_their_layer():
    heads = [sink_map(0.3, layer=0), sink_map(0.9, layer=4, head=2, column=0), sink_map(0.3, layer="cross.5")]
    assert "; in layer 4, head 2, key 0 (w0) takes" in sink_note(heads)


def test_what_one_query_sees_most_is_no_sink():
    shown = sink_map()
    one = AttentionMap(shown.cells[:1], "weights", 0, range(4, 5), shown.keys)
    assert find_sink(one) is None
    assert "Weights of 1 query × 20 keys." in caption([one], ColorScale().fit([one]))


def test_the_hint_names_what_would_help():
    few, many = sink_map(columns=20), sink_map(columns=1000)
    assert visibility_hint([few], ColorScale()).endswith("; --norm log shows more of the rest")
    assert visibility_hint([many], ColorScale()).endswith("; --norm log or --robust shows more of the rest")


@pytest.mark.parametrize("asked", [{"norm": "log"}, {"robust": True}, {"vmax": 0.1}])
def test_who_has_chosen_a_scale_is_told_nothing(asked):
    assert visibility_hint([sink_map()], ColorScale(**asked)) is None


def test_a_map_that_is_nearly_dark_is_told():
    cells = np.full((100, 100), 0.001)
    cells[0, 0] = 1.0
    dark = AttentionMap(cells, "weights", 0, range(100), range(100))
    assert "below 5% of the largest, 1, and nearly dark; --norm log or --robust" in visibility_hint(
        [dark], ColorScale()
    )
    cells[:, :10] = 0.3
    assert visibility_hint([dark], ColorScale()) is None


def test_a_few_bright_cells_among_many_are_told():
    cells = np.full((100, 100), 0.002)
    cells[::2, ::2] = 0.0072  # 24% of the largest: dark, but not as good as black
    cells[3, 7] = 0.03
    shown = AttentionMap(cells, "weights", 0, range(800), range(800))
    hint = visibility_hint([shown], ColorScale())
    assert hint == (
        "99% of the cells are below 24% of the largest, 0.03, and nearly dark; --norm log or --robust shows them"
    )
    cells[::2, ::2] = 0.009
    assert visibility_hint([shown], ColorScale()) is None


def test_where_a_log_scale_would_be_dark_too_ranks_are_named():
    cells = np.full((100, 100), 1e-9)
    cells[0, 0] = 1.0
    dark = AttentionMap(cells, "weights", 0, range(100), range(100))
    assert "--norm rank" in visibility_hint([dark], ColorScale())


def test_a_caption_says_all_that_one_has_to_know():
    shown = sink_map(queries=range(40), keys=range(80), key_labels=None, pattern="causal", reduce="mass")
    scale = ColorScale(norm="log").fit([shown])
    assert caption([shown], scale, source="run.npz layer 2") == (
        "run.npz layer 2, head 0. Pattern: causal. Weights of 40 queries × 80 keys, 1 cell = 4 × 4 (mass: their mass). "
        "Log scale from 0.0105 to 0.8. Keys 12 to 15 take 80% of the weight shown."
    )


def test_a_map_of_one_key_is_told_to_say_nothing():
    shown = AttentionMap(np.ones((4, 1)), "weights", 0, range(4), [2], pattern="global")
    hint = visibility_hint([shown] * 8, ColorScale())
    assert hint == "there is one key, so that every weight is 1 under the pattern global; choose another with --pattern"
    more = AttentionMap(np.full((4, 2), 0.5), "weights", 0, range(4), [2, 3], pattern="global")
    assert visibility_hint([more], ColorScale()) is None
