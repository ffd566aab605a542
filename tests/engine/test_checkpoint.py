"""Parts of maps that are kept: a run that was stopped goes on, to the bits of one that was not, and takes up nothing else."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attnviz
from attnviz import AttentionInputs, Causal, Full, InputError, Local, longformer
from attnviz.attention.patterns import Blocks, Masked, MaskMod, Pattern
from attnviz.base.bins import bin_edges
from attnviz.engine.attention import Attention, Computed
from attnviz.engine.checkpoint import Checkpoint, key_of, queries_of
from attnviz.engine.plan import Plan, Whole, pairs
from attnviz.engine.ranks import Ranks, Shared
from attnviz.engine.reducer import REDUCTIONS, Reduced, Wanted, reduce_map
from attnviz.engine.tiles import TileSize
from tests.strategies import normal

T = 300
PATTERNS: dict[str, Pattern] = {"full": Full(), "causal": Causal(), "local": Local(7, 2), "longformer": longformer(9)}


def inputs(**changes: object) -> AttentionInputs:
    q, k = normal((2, T, 8), 0).float(), normal((1, T, 8), 1).float()
    return replace(AttentionInputs(q, k, global_mask=torch.arange(T) % 29 == 0), **changes)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr("attnviz.engine.plan.PART_PAIRS", 2_500)


EDGES = bin_edges(range(T), 40)
OPTIONS = {"reductions": REDUCTIONS, "tile": TileSize(16, 64)}


def made(attention: Attention, head: int = 1, **options: object) -> Reduced:
    return attention.cells(head, EDGES, EDGES, **{**OPTIONS, **options})


def kept(folder: Path, pattern: Pattern, own: AttentionInputs | None = None) -> Attention:
    return Shared(Computed((own or inputs()).item(), pattern), Ranks(0, 1), Checkpoint(folder))


def assert_same(found: Reduced, expected: Reduced) -> None:
    for name in ("max", "mass", "counts", "denominators"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


class Killed(BaseException):
    """What ends a process."""


@pytest.fixture
def computed(monkeypatch) -> list[range]:
    """The parts that are computed, by their rows; one part after the others it ends with Killed, where ``killed`` says so."""
    parts: list[range] = []
    reduced = Computed.reduced

    def spied(self, head, rows, columns, wanted):
        if len(parts) == spied.until:
            raise Killed
        parts.append(range(int(rows[0]), int(rows[-1])))
        return reduced(self, head, rows, columns, wanted)

    spied.until = None
    monkeypatch.setattr(Computed, "reduced", spied)
    parts_ = Parts(parts)
    parts_.kill_after = lambda n: setattr(spied, "until", n)
    return parts_


class Parts(list):
    def __init__(self, parts):
        self.parts = parts

    def __len__(self):
        return len(self.parts)

    def taken(self):
        found, self.parts[:] = list(self.parts), []
        return found


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("name", PATTERNS)
def test_a_run_that_is_killed_anywhere_goes_on_to_the_bits_of_one_that_was_not(tmp_path, computed, name):
    pattern = PATTERNS[name]
    expected = reduce_map(inputs().item(), pattern, 1, EDGES, EDGES, **OPTIONS)
    computed.kill_after(None)
    whole = made(kept(tmp_path / "whole", pattern))
    every = computed.taken()
    assert len(every) > 1
    assert_same(whole, expected)
    for until in {0, 1, len(every) - 1}:
        folder = tmp_path / f"{until}"
        computed.kill_after(until)
        with pytest.raises(Killed):
            made(kept(folder, pattern))
        first = computed.taken()
        computed.kill_after(None)
        assert_same(made(kept(folder, pattern)), expected)
        assert first + computed.taken() == every, "what was done is not done again"
    assert_same(made(kept(folder, pattern)), expected)
    assert not computed.taken()


def test_progress_of_a_run_that_goes_on_counts_every_row_once(tmp_path, computed):
    computed.kill_after(2)
    with pytest.raises(Killed):
        made(kept(tmp_path, Full()))
    computed.kill_after(None)
    done: list[int] = []
    computed.taken()
    made(kept(tmp_path, Full()), progress=done.append)
    assert sum(done) == T
    assert done[0] == len(range(*[int(EDGES[0]), int(done[0])]))


OTHER_INPUTS = {
    "a key": {"k": inputs().k + (torch.arange(T) == 7)[:, None]},
    "a query": {"q": inputs().q + (torch.arange(T) == T // 3)[:, None]},
    "scale": {"scale": 0.5},
    "softcap": {"softcap": 3.0},
    "sinks": {"sinks": torch.tensor([0.0, 1.0])},
    "slopes": {"alibi_slopes": torch.tensor([0.0, 0.1])},
    "bias": {"bias": torch.full((1, 1, 1, T), 0.0).index_fill(3, torch.tensor([5]), 2.0)},
    "padding": {"key_padding_mask": (torch.arange(T) < T - 3)[None]},
    "documents": {"documents": (torch.arange(T) // 100)[None], "query_documents": (torch.arange(T) // 100)[None]},
    "positions": {"query_positions": (torch.arange(T) + 1)[None], "key_positions": torch.arange(T)[None]},
    "global tokens": {"global_mask": (torch.arange(T) == 3)[None]},
    "global queries": {"q_global": inputs().q + 1, "k_global": inputs().k},
    "precision": {"q": inputs().q.double(), "k": inputs().k.double()},
}


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize("name", OTHER_INPUTS)
def test_parts_of_other_inputs_are_not_taken_up(tmp_path, computed, name):
    pattern, other = longformer(9) & Causal(), inputs(**OTHER_INPUTS[name])
    made(kept(tmp_path, pattern))
    every = computed.taken()
    found = made(kept(tmp_path, pattern, other))
    again = computed.taken()
    if name == "a query":
        assert again == [part for part in every if T // 3 in part]
    else:
        assert [t for part in again for t in part] == list(range(T))
    assert_same(found, reduce_map(other.item(), pattern, 1, EDGES, EDGES, **OPTIONS))


def test_parts_of_another_head_pattern_picture_or_reduction_are_not_taken_up(tmp_path):
    item = inputs().item()
    asked = {"pattern": Causal(), "head": 1, "edges": (EDGES, EDGES), "wanted": Wanted()}
    others: list[dict[str, object]] = [
        {"pattern": Full()},
        {"pattern": Local(7)},
        {"pattern": Local(8)},
        {"pattern": Causal() & Local(8)},
        {"pattern": Masked(torch.ones(T, T, dtype=torch.bool))},
        {"pattern": Masked(torch.ones(T, T, dtype=torch.bool).tril())},
        {"pattern": Blocks(torch.ones(3, 3, dtype=torch.bool))},
        {"pattern": Blocks(torch.eye(3, dtype=torch.bool))},
        {"edges": (EDGES, EDGES[:-1])},
        {"edges": (EDGES[:-1], EDGES)},
        {"wanted": Wanted(memory=1 << 20)},
        {"wanted": Wanted(reductions=("mass",))},
        {"wanted": Wanted(values="logits")},
        {"head": 0},
        {},
    ]
    keys = [key_of(item, **{**asked, **other}) for other in others]
    assert len(set(keys)) == len(others)
    assert key_of(inputs().item(), **asked) == keys[-1], "the same in another run"


def test_queries_of_a_part_are_told_from_others():
    item, other = inputs().item(), inputs(q=inputs().q + (torch.arange(T) == 50)[:, None]).item()
    for rows, same in ((range(50), True), (range(50, 51), False), (range(40, 60), False), (range(51, T), True)):
        assert (queries_of(item, Full(), 0, rows) == queries_of(other, Full(), 0, rows)) is same


def test_what_is_made_of_code_is_refused(tmp_path):
    @dataclass(frozen=True)
    class Mine(Causal):
        pass

    for pattern in (MaskMod(lambda b, h, q, k: q >= k), Causal() & MaskMod(lambda b, h, q, k: q >= k), Mine()):
        with pytest.raises(InputError, match=r"made of code .* leave --checkpoint out"):
            made(kept(tmp_path, pattern))


def test_a_damaged_part_is_made_again(tmp_path, computed):
    expected = made(kept(tmp_path, Full()))
    every = computed.taken()
    files = sorted(tmp_path.glob("*.npz"))
    files[0].write_bytes(files[0].read_bytes()[:100])
    files[1].write_bytes(b"")
    assert_same(made(kept(tmp_path, Full())), expected)
    assert len(computed.taken()) == 2
    next(tmp_path.glob("*.json")).write_text("{")
    assert_same(made(kept(tmp_path, Full())), expected)
    assert len(every) == len(files)


PLANS = [
    *("", "3", "null", "[]", "{}", "[" * 5000, '{"tile": 1, "cuts": [0, 40]}', "\ud800"),
    *({"cuts": cuts} for cuts in ([], [0], "x", [0, 39], [0, 80], [0, -5, 40], [0, 9, 3, 40], [0, 0, 40], [1, 40])),
    *({"cuts": cuts} for cuts in (None, {}, [0.5, 40], [0, 10**400], [[0], [40]], [False, 40])),
    *({"tile": {"rows": 16, "keys": 64, "operator": "addmm"} | {name: size}} for name in ("rows", "keys") for size in (0, -1, None, "x", [], 2.5, 1e308, True)),
    *({"tile": {"rows": 16, "keys": 64} | more} for more in ({"operator": "x"}, {"operator": None}, {"more": 1})),
]  # fmt: skip
"""What no plan is, as text or as what is changed of one."""


def test_a_plan_that_is_none_is_made_anew(tmp_path):
    good, file = Plan(TileSize(16, 64), (0, 7, 40)), tmp_path / "key.json"
    other = Plan(TileSize(8, 64, "linear"), (0, 9, 30, 40))
    file.write_text(other.written())
    assert Checkpoint(tmp_path).plan("key", good) == other
    for plan in PLANS:
        text = plan if isinstance(plan, str) else json.dumps(json.loads(good.written()) | plan)
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        assert Checkpoint(tmp_path).plan("key", good) == good, text[:80]
        assert file.read_text() == good.written()


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("name", ["counts", "max", "mass", "denominators"])
def test_a_part_of_other_numbers_than_were_asked_for_is_made_again(tmp_path, name):
    expected = made(kept(tmp_path, Full()))
    file = min(tmp_path.glob("*.npz"))
    with np.load(file) as part:
        good = dict(part)
    own = good[name]
    for other in (
        own[:1],
        own[..., None],
        own[:0],
        np.array(3.0),
        own.astype("U9"),
        np.array([{}], dtype=object),
        None,
    ):
        np.savez(file, **{key: value for key, value in {**good, name: other}.items() if value is not None})
        assert_same(made(kept(tmp_path, Full())), expected)


def test_a_run_goes_on_with_the_tile_and_the_operator_of_the_one_before(tmp_path, computed):
    first = made(kept(tmp_path, Full()))
    computed.taken()
    assert_same(made(kept(tmp_path, Full()), tile=TileSize(64, 16)), first)
    assert not computed.taken()


def test_what_is_given_or_derived_has_no_parts(tmp_path):
    weights = attnviz.AttentionWeights(torch.full((1, 4, 4), 0.25))
    for asked in ({"inputs": weights}, {"inputs": inputs(), "mean": "heads"}):
        with pytest.raises(InputError, match="leave --checkpoint out"):
            attnviz.attention_map(**asked, head=0, checkpoint=tmp_path)


def test_a_place_that_is_no_directory_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "no" / "where"):
        with pytest.raises(InputError, match=r"cannot be a directory of parts"):
            attnviz.attention_map(inputs(), 0, Full(), checkpoint=folder)


# Plans


@pytest.mark.sweep
@settings(max_examples=12)
@given(data=st.data())
def test_parts_are_whole_groups_of_rows_and_put_together_they_are_the_map(data):
    name = data.draw(st.sampled_from(sorted(PATTERNS)))
    size, columns = data.draw(st.integers(1, T)), bin_edges(range(T), data.draw(st.integers(1, 50)))
    rows, item, ranks = bin_edges(range(T), size), inputs().item(), data.draw(st.integers(1, 5))
    tile = TileSize(data.draw(st.sampled_from([4, 16, 64])), 32)
    plan = Plan.of(item, PATTERNS[name], rows, tile, ranks=ranks)
    assert Plan.read(plan.written()) == plan
    assert plan.cuts[0] == 0
    assert plan.cuts[-1] == len(rows) - 1
    assert all(first < last for first, last in itertools.pairwise(plan.cuts))
    whole = Whole(plan, rows, len(columns) - 1, REDUCTIONS)
    for part in data.draw(st.permutations(range(len(plan)))):
        options = {"reductions": REDUCTIONS, "tile": tile}
        whole.put(part, reduce_map(item, PATTERNS[name], 0, plan.edges(part, rows), columns, **options))
    expected = reduce_map(item, PATTERNS[name], 0, rows, columns, reductions=REDUCTIONS, tile=tile)
    assert_same(whole.result(), expected)


def test_pairs_are_those_that_blocks_of_rows_have():
    assert pairs(inputs().item(), Full(), EDGES, 16) == T * T
    assert T * T / 2 < pairs(inputs().item(), Causal(), EDGES, 16) < T * T / 2 + 16 * T
