"""Snapshots as files: read back as they were, the same bytes every time, and refused where they are damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import attnviz
from attnviz.attention.patterns import Causal
from attnviz.base.errors import InputError
from attnviz.compare.snapshots.comparing import compare_snapshots
from attnviz.compare.snapshots.files import read_snapshot, snapshot_text, write_snapshot
from attnviz.compare.snapshots.taking import take_snapshot
from tests.cases import small


@pytest.mark.parametrize("suffix", [".json", ".npz"])
@pytest.mark.parametrize("cells", [3, 32])
@pytest.mark.parametrize("pattern", [Causal(), None], ids=str)
def test_a_snapshot_is_read_back(tmp_path, suffix, cells, pattern):
    kept = take_snapshot(small(), pattern, cells=cells)
    path = tmp_path / f"kept{suffix}"
    write_snapshot(path, kept)
    read = read_snapshot(path)
    assert (read.settings, read.queries, read.keys) == (kept.settings, kept.queries, kept.keys)
    assert (read.query_tokens, read.key_tokens) == (kept.query_tokens, kept.key_tokens)
    for before, after in zip(kept.heads, read.heads, strict=True):
        assert before.cells.keys() == after.cells.keys()
        for name, cells_ in before.cells.items():
            np.testing.assert_allclose(after.cells[name], cells_, atol=1e-6)
    assert compare_snapshots(read, kept).within


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_how_many_queries_see_is_read_back(tmp_path, suffix):
    exists = torch.arange(6) > 0
    given = replace(small(global_positions=(3,)), key_padding_mask=exists.expand(2, 6))
    kept = take_snapshot(given, Causal(), cells=3)
    path = tmp_path / f"kept{suffix}"
    write_snapshot(path, kept)
    read = read_snapshot(path)
    assert [one.seeing for one in read.heads] == [one.seeing for one in kept.heads] == [(1, 2, 2)] * 4
    assert compare_snapshots(read, kept).within


def test_the_text_has_a_row_of_cells_a_line():
    text = snapshot_text(take_snapshot(small(), Causal(), heads=[0]))
    document = json.loads(text)
    assert document["heads"][0]["weights"][0] == [1, None, None, None, None, None]
    assert "        [1, null, null, null, null, null],\n" in text
    assert max(map(len, text.splitlines())) < 120


def test_the_text_is_the_same_for_every_number_of_threads():
    given = small(tokens=70, head_dim=32)
    texts = set()
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            texts.add(snapshot_text(take_snapshot(given, Causal(), heads=[0, 1])))
    finally:
        torch.set_num_threads(threads)
    assert len(texts) == 1


def test_last_bits_of_the_inputs_do_not_change_the_text():
    """The formula runs in float64: float32 inputs computed in another order still round to the same numbers."""
    given = small(dtype="float64")
    near = attnviz.AttentionInputs(given.q * (1 + 1e-15), given.k, global_mask=given.global_mask, tokens=given.tokens)
    assert snapshot_text(take_snapshot(near, Causal())) == snapshot_text(take_snapshot(given, Causal()))


def test_text_is_for_people(tmp_path):
    with pytest.raises(InputError, match=r"70 cells a side are too many to review.*write \.npz"):
        write_snapshot(tmp_path / "large.json", take_snapshot(small(tokens=70), Causal(), cells=70))
    assert list(tmp_path.iterdir()) == []
    write_snapshot(tmp_path / "large.npz", take_snapshot(small(tokens=70), Causal(), cells=70))


DAMAGED = {
    "nothing.json": "",
    "cut.json": '{"schema": "attnviz.snapshot/1", "settings": {',
    "list.json": "[]",
    "other.json": '{"schema": "attnviz.diff/1"}',
    "empty.json": '{"schema": "attnviz.snapshot/2"}',
    "later.json": '{"schema": "attnviz.snapshot/3"}',
    "deep.json": "[" * 100_000,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_line(tmp_path, name):
    path = tmp_path / name
    path.write_text(DAMAGED[name])
    with pytest.raises(InputError, match=f"{name}: is not.*write it again") as error:
        read_snapshot(path)
    assert "\n" not in str(error.value)


CHANGES = {
    "rows of several lengths": lambda d: d["heads"][0]["weights"][2].pop(),
    "cells that are words": lambda d: d["heads"][0]["weights"][2].__setitem__(0, "much"),
    "more cells than positions": lambda d: d.update(queries=[0, 2]),
    "no positions": lambda d: d.update(queries=[3, 3]),
    "positions that are words": lambda d: d.update(queries=["0", "6"]),
    "too few tokens": lambda d: d.update(query_tokens=["a"]),
    "tokens that are numbers": lambda d: d.update(query_tokens=[1, 2, 3, 4, 5, 6]),
    "values of another kind": lambda d: d["settings"].update(values="gradients"),
    "counts of other rows": lambda d: d["heads"][0].update(seeing=[1]),
    "no settings": lambda d: d.pop("settings"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_does_not_fit_is_refused(tmp_path, change):
    document = json.loads(snapshot_text(take_snapshot(small(), Causal(), heads=[0])))
    CHANGES[change](document)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="is not a snapshot"):
        read_snapshot(path)


def test_names_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match="there is no such file; make it with attnviz snapshot save"):
        read_snapshot(tmp_path / "nothing.json")
    with pytest.raises(InputError, match=r"unknown suffix '\.yaml'"):
        read_snapshot(Path("kept.yaml"))
    with pytest.raises(InputError, match=r"unknown suffix '\.yaml'"):
        write_snapshot(tmp_path / "kept.yaml", take_snapshot(small()))


def test_a_dump_is_no_snapshot(tmp_path):
    attnviz.save(tmp_path / "dump.npz", small())
    with pytest.raises(InputError, match="is not a snapshot"):
        read_snapshot(tmp_path / "dump.npz")


def test_arrays_of_no_snapshot_are_refused_without_a_word_beside(tmp_path, recwarn):
    path = tmp_path / "kept.npz"
    write_snapshot(path, take_snapshot(small(), Causal(), cells=3))
    with np.load(path) as kept:
        good = dict(kept)
    name = next(name for name in good if name != "attnviz")
    for odd in (good[name].astype(np.complex64), np.zeros(0), np.array("x"), None):
        np.savez(path, **{key: value for key, value in {**good, name: odd}.items() if value is not None})
        with pytest.raises(InputError):
            read_snapshot(path)
    assert not recwarn.list
