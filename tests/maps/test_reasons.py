"""Which reasons a pair has, against loops that share no code with the package; and that patterns name their own."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import attnviz
from attnviz.attention.names import named_pattern
from attnviz.attention.patterns import Causal, Full, GlobalKeys, GlobalQueries, Local, Masked, Pattern, longformer
from attnviz.attention.reach import Reach
from attnviz.base.errors import InputError
from attnviz.maps.reasons import reason_map

# What each reason means, written out: whether query t sees key s, given the case.
MEANING = {
    "window": lambda t, s, case: (
        abs(s - case.own(t)) <= case.window * case.dilation and (s - case.own(t)) % case.dilation == 0
    ),
    "global key": lambda t, s, case: s in case.globals_,
    "global query": lambda t, s, case: case.own(t) in case.globals_,
    "full": lambda t, s, case: True,
    "causal": lambda t, s, case: s <= case.own(t),
    "own mask": lambda t, s, case: bool(case.mask[t, s]),
}


@dataclass(frozen=True)
class Case:
    """Sizes and masks, and a pattern over them with the reasons it should have."""

    T: int
    S: int
    globals_: tuple[int, ...]
    padding: np.ndarray  # (S,) bool
    mask: np.ndarray  # (T, S) bool
    window: int
    dilation: int
    parts: tuple[str, ...]
    causal: str  # no, left or right: whether, and on which side, the pattern is limited

    @property
    def inputs(self) -> attnviz.AttentionInputs:
        global_mask = torch.zeros(self.S, dtype=torch.bool)
        global_mask[list(self.globals_)] = True
        q, k = torch.randn(1, self.T, 2), torch.randn(1, self.S, 2)
        return attnviz.AttentionInputs(
            q, k, global_mask=global_mask, key_padding_mask=torch.from_numpy(self.padding.copy())
        )

    @property
    def pattern(self) -> Pattern:
        leaves = {
            "window": Local(self.window, self.dilation),
            "global key": GlobalKeys(),
            "global query": GlobalQueries(),
            "full": Full(),
            "causal": Causal(),
            "own mask": Masked(torch.from_numpy(self.mask.copy())),
        }
        pattern = leaves[self.parts[0]]
        for part in self.parts[1:]:
            pattern = pattern | leaves[part]
        return {"no": pattern, "left": Causal() & pattern, "right": pattern & Causal()}[self.causal]

    def own(self, t: int) -> int:
        """The key that stands where query t does; below 0 where there is none."""
        return t + self.S - self.T

    def reasons(self, t: int, s: int) -> int:
        """The bits of the reasons that query t has for key s."""
        hidden = not self.padding[s] or (self.own(t) >= 0 and not self.padding[self.own(t)])
        late = self.causal != "no" and not MEANING["causal"](t, s, self)
        if hidden or late:
            return 0
        return sum(1 << i for i, part in enumerate(self.parts) if MEANING[part](t, s, self))


@st.composite
def cases(draw) -> Case:
    T = draw(st.integers(1, 9))
    S = T if draw(st.booleans()) else draw(st.integers(1, 9))
    globals_ = tuple(sorted(draw(st.sets(st.integers(0, S - 1), min_size=1))))
    exists = draw(st.lists(st.booleans(), min_size=S, max_size=S)) if draw(st.booleans()) else [True] * S
    padding = np.array([s in globals_ or exists[s] for s in range(S)])
    mask = np.array(draw(st.lists(st.booleans(), min_size=T * S, max_size=T * S))).reshape(T, S)
    parts = tuple(draw(st.permutations(list(MEANING)))[: draw(st.integers(1, len(MEANING)))])
    window, dilation = draw(st.integers(0, 4)), draw(st.integers(1, 3))
    return Case(T, S, globals_, padding, mask, window, dilation, parts, draw(st.sampled_from(["no", "left", "right"])))


@given(cases(), st.data())
def test_every_pair_has_the_reasons_that_loops_give(case, data):
    rows = data.draw(st.sampled_from([1, 2, 3, 256]))  # the rows of a block: small ones have edges on all sides
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attnviz.maps.reasons._BLOCK_ROWS", rows)
        check_reasons(case, data)


def check_reasons(case, data):
    first, top = sorted(data.draw(st.tuples(*[st.integers(0, case.T - 1)] * 2)))
    left, right = sorted(data.draw(st.tuples(*[st.integers(0, case.S - 1)] * 2)))
    queries, keys = range(first, top + 1), range(left, right + 1)
    P = data.draw(st.integers(1, 10))
    shown = reason_map(case.inputs, case.pattern, pixels=P, queries=queries, keys=keys)

    pairs = Counter(case.reasons(t, s) for t in queries for s in keys)
    rows, columns = min(len(queries), P), min(len(keys), P)
    cells = np.zeros((rows, columns), dtype=int)
    for i in range(rows):
        for j in range(columns):
            for t in queries[i * len(queries) // rows : (i + 1) * len(queries) // rows]:
                for s in keys[j * len(keys) // columns : (j + 1) * len(keys) // columns]:
                    cells[i, j] |= case.reasons(t, s)
    assert shown.reasons == case.parts
    assert shown.cells.tolist() == cells.tolist()
    assert shown.pairs == pairs


def test_a_long_map_goes_through_in_blocks_as_a_short_one_does(monkeypatch):
    inputs = attnviz.synthesize(heads=1, tokens=50, head_dim=2, global_positions=(0, 17, 49))
    whole = reason_map(inputs, longformer(3, 2) & Causal(), pixels=7)
    monkeypatch.setattr("attnviz.maps.reasons._BLOCK_PAIRS", 150)  # 3 queries
    monkeypatch.setattr("attnviz.maps.reasons._BLOCK_ROWS", 8)
    blocks = reason_map(inputs, longformer(3, 2) & Causal(), pixels=7)
    assert blocks.cells.tolist() == whole.cells.tolist()
    assert blocks.pairs == whole.pairs


def test_nothing_of_the_size_of_a_long_map_is_made():
    T = 4096
    inputs = attnviz.synthesize(heads=1, tokens=T, head_dim=1, global_positions=range(0, T, 512))
    tracemalloc.start()
    shown = reason_map(inputs, longformer(16), pixels=64)
    _, peak = tracemalloc.get_traced_memory()  # numpy's share
    tracemalloc.stop()
    assert peak < T * T  # a byte a pair
    assert shown.cells.shape == (64, 64)
    assert sum(shown.pairs.values()) == T * T


# The reasons that patterns give


@pytest.mark.parametrize(
    ("pattern", "reasons"),
    [
        (Local(2), ["window"]),
        (longformer(2), ["window", "global key", "global query"]),
        (longformer(2) & Causal(), ["window", "global key", "global query"]),
        (Causal() & longformer(2), ["window", "global key", "global query"]),
        (Causal() | GlobalKeys(), ["causal", "global key"]),
        (Causal() & Causal(), ["causal"]),
        (Full() & Causal(), ["full"]),
        (Local(2) | Local(4, 2) | GlobalKeys(), ["window", "global key"]),
    ],
    ids=str,
)
def test_a_pattern_names_its_reasons(pattern, reasons):
    assert [reason for reason, _ in pattern.reasons()] == reasons


def test_a_pair_seen_by_two_windows_has_one_reason():
    shown = reason_map(attnviz.synthesize(), Local(1) | Local(2))
    assert shown.counts == {"window": 44}


@dataclass(frozen=True)
class Stripes(Pattern):
    """A pattern that the package has never heard of: every third key."""

    def visible(self, t, s, item):
        return (s % 3 == 0).expand(torch.broadcast_shapes(t.shape, s.shape))

    def reach(self, item):
        return Reach(band_exact=False)

    def __str__(self):
        return "stripes"


def test_a_new_pattern_appears_under_its_own_name_everywhere():
    from rich.console import Console

    from attnviz.show.figures.pattern import pattern_figure
    from attnviz.show.terminal.window import PatternPicture

    shown = reason_map(attnviz.synthesize(tokens=6, global_positions=(0,)), Stripes() | Local(0), head=0)
    assert shown.counts == {"stripes": 10, "window": 4, "several": 2}
    console = Console(width=80)
    with console.capture() as capture:
        console.print(PatternPicture(replace(shown, weights=None)))
    assert "4 t4  S · · S W ·" in capture.get()
    assert "S stripes" in capture.get()
    legend = pattern_figure(shown).get_legend()
    assert [text.get_text().split("\n")[0] for text in legend.get_texts()][:3] == ["stripes", "window", "several"]


# Weights over them


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["global", "full", "local", "local+global"])
@pytest.mark.parametrize("pixels", [10, 4])
def test_weights_stand_exactly_where_there_is_a_reason(name, causal, pixels):
    inputs = attnviz.synthesize(dtype="float64")
    pattern = named_pattern(name, window=1 if name.startswith("local") else None, causal=causal)
    shown = reason_map(inputs, pattern, head=3, pixels=pixels)
    assert (np.isfinite(shown.weights) == (shown.cells != 0)).all()
    if pixels == 10:
        assert np.nansum(shown.weights, 1) == pytest.approx(1)


def test_the_weights_of_global_keys_stand_in_their_columns():
    inputs = attnviz.synthesize(dtype="float64")
    shown = reason_map(inputs, GlobalKeys(), head=3)
    expected = attnviz.score(inputs, heads=[3]).weights[0].numpy()
    assert shown.weights[:, [0, 3, 7]] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pixels": 0}, "pixels is 0"),
        ({"queries": range(5, 99)}, "queries 5:99 is not a part of 0:10"),
        ({"keys": range(3, 3)}, "keys 3:3 is not a part of 0:10"),
        ({"batch": 1}, "batch item 1 is out of range"),
        ({"head": 8}, "head 8 is out of range"),
    ],
)
def test_what_cannot_be_mapped(options, says):
    with pytest.raises(InputError, match=says):
        reason_map(attnviz.synthesize(), longformer(1), **options)
