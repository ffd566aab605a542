"""Files that version 1 wrote are read, and hold by version 1's definitions: ``version1/`` has them, as that version wrote them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import attnviz
from attnviz import AttentionInputs
from attnviz.attention.patterns import Causal, GlobalKeys, Local, Masked, Pattern, longformer
from attnviz.compare.snapshots.comparing import compare_snapshots
from attnviz.compare.snapshots.files import read_snapshot, snapshot_text
from attnviz.compare.snapshots.taking import locate, take_snapshot

WRITTEN = Path(__file__).parent / "version1"


def normal(*shape: int, seed: int) -> torch.Tensor:
    """The same numbers on every machine."""
    numbers = (torch.arange(torch.Size(shape).numel()) * 7919 + seed * 104729) % 1000
    return (numbers.double() / 250 - 2).view(shape)


def inputs(T: int, S: int, **settings: object) -> AttentionInputs:
    """Two heads of four numbers."""
    return AttentionInputs(normal(1, 2, T, 4, seed=1), normal(1, 2, S, 4, seed=2), **settings)


def there(*positions: int, of: int = 12) -> torch.Tensor:
    return torch.isin(torch.arange(of), torch.tensor(positions))[None]


EXISTS = ~there(0, 1)

CASES: dict[str, tuple[AttentionInputs, Pattern, int]] = {
    "window-of-a-decode-step": (inputs(1, 12), Local(3), 32),
    "causal-window-of-a-chunk": (inputs(5, 12), Local(3) & Causal(), 32),
    "dilated-window-and-globals": (inputs(5, 12, global_mask=there(2, 7)), Local(2, 2) | GlobalKeys(), 32),
    "padding-of-a-chunk": (inputs(5, 12, key_padding_mask=EXISTS), Causal(), 32),
    "padding": (inputs(12, 12, key_padding_mask=EXISTS), Causal(), 4),
    "longformer": (inputs(12, 12, global_mask=there(2, 7)), longformer(2), 4),
    "more-queries-than-keys": (inputs(12, 5), Local(3), 32),
}


def weights() -> torch.Tensor:
    """What a kernel gives for a causal chunk: its zeros are hidden keys, and version 1 took them for that."""
    given = inputs(5, 12)
    hidden = torch.arange(12) > torch.arange(5)[:, None] + 7
    return torch.softmax((given.q @ given.k.mT).masked_fill(hidden, -torch.inf), -1)[0]


@pytest.mark.parametrize("name", CASES)
def test_what_version_1_kept_of_inputs_still_holds(name):
    given, pattern, cells = CASES[name]
    stored = read_snapshot(WRITTEN / f"{name}.json")
    assert stored.version == 1
    found = compare_snapshots(stored, take_snapshot(given, pattern, cells=cells, version=1))
    assert found.within, found.report()
    assert found.note.startswith("of version 1, and compared by that version's definitions")


def test_what_version_1_kept_of_a_tensor_still_holds():
    found = compare_snapshots(read_snapshot(WRITTEN / "weights.json"), take_snapshot(weights(), version=1))
    assert found.within, found.report()


@pytest.mark.parametrize("name", CASES)
def test_a_change_is_seen(name):
    given, pattern, cells = CASES[name]
    later = AttentionInputs(
        given.q * 1.01, given.k, global_mask=given.global_mask, key_padding_mask=given.key_padding_mask
    )
    found = compare_snapshots(
        read_snapshot(WRITTEN / f"{name}.json"), take_snapshot(later, pattern, cells=cells, version=1)
    )
    assert found.cells
    assert found.statistics


@pytest.mark.parametrize("name", CASES)
def test_by_todays_definitions_it_says_what_it_leaves_out(name):
    given, pattern, cells = CASES[name]
    found = compare_snapshots(read_snapshot(WRITTEN / f"{name}.json"), take_snapshot(given, pattern, cells=cells))
    assert not {"distance", "diagonal_mass", "previous_mass"} & {one.name for one in found.statistics}
    assert (
        found.note
        == "of version 1, and held against version 2: statistics that mean something else now are not compared"
    )


def test_the_largest_pair_is_that_of_version_1():
    given, pattern, _ = CASES["more-queries-than-keys"]
    later = AttentionInputs(given.q * 2, given.k)
    stored, now = (take_snapshot(one, pattern, cells=2, version=1) for one in (given, later))
    worst = next(cell for cell in compare_snapshots(stored, now).cells if cell.reduction == "max")
    assert locate(later, pattern, worst, now)[2] == pytest.approx(worst.b)


@pytest.mark.parametrize("order", [lambda a, b: a | b, lambda a, b: b | a, lambda a, b: b | (b | a)])
def test_a_window_is_counted_from_the_index_wherever_in_a_composition_it_stands(order):
    given = inputs(5, 12, global_mask=there(9))
    near = (torch.arange(12) - torch.arange(5)[:, None]).abs() <= 1
    found = take_snapshot(given, order(Local(1), GlobalKeys()), cells=32, version=1)
    wanted = take_snapshot(given, Masked(near | there(9)), cells=32, version=1)
    for a, b in zip(found.heads, wanted.heads, strict=True):
        assert a.cells.keys() == b.cells.keys() != set()
        for name, cells in a.cells.items():
            np.testing.assert_allclose(cells, b.cells[name], rtol=1e-5)


def test_a_file_of_version_1_is_written_as_one():
    path = WRITTEN / "longformer.json"
    assert snapshot_text(read_snapshot(path)) == path.read_text()


def test_todays_are_version_2():
    assert '"schema": "attnviz.snapshot/2"' in snapshot_text(take_snapshot(attnviz.synthesize(heads=1)))
