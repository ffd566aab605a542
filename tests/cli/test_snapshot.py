"""``attnviz snapshot save`` and ``check`` as a job in CI runs them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import attnviz
from tests.cases import small


@pytest.fixture
def kept(run, dump) -> Path:
    """``kept.json``, of ``dump.safetensors``, causal."""
    assert run("snapshot", "save", dump, "kept.json", "--pattern", "causal").code == 0
    return Path("kept.json")


def change(by: float = 0.5) -> None:
    inputs = small()
    k = inputs.k.clone()
    k[0, 1, 4] += by
    attnviz.save("changed.safetensors", replace(inputs, k=k))


def test_save_says_what_it_wrote(run, dump):
    result = run("snapshot", "save", dump, "kept.json", "--head", "1,3", "--pattern", "full")
    assert (result.code, result.out) == (0, "")
    assert result.err == "attnviz: wrote kept.json: 2 heads, full, 6 × 6 cells\n"
    document = json.loads(Path("kept.json").read_text())
    assert [head["head"] for head in document["heads"]] == [1, 3]


def test_what_holds_is_0(run, dump, kept):
    result = run("snapshot", "check", dump, kept, "-o", "difference.png")
    assert (result.code, result.err) == (0, "")
    assert result.out == "kept.json: within tolerance (atol 2e-08, rtol 1.5e-05, for float32)\n"
    assert not Path("difference.png").exists()


def test_what_changed_is_1_and_is_drawn(run, dump, kept):
    change()
    result = run("snapshot", "check", "changed.safetensors", kept, "-o", "difference.png")
    assert result.code == 1
    first, *rest = result.out.splitlines()
    assert first == "kept.json: BEYOND tolerance (atol 2e-08, rtol 1.5e-05, for float32)"
    assert {line.split(",")[0] for line in rest} == {"  head 2", "  head 3"}  # those that read key head 1
    assert "→ key 4 't4'" in rest[0]
    assert result.err == "attnviz: wrote difference.png\n"
    assert np.asarray(Image.open("difference.png")).std() > 0


def test_a_wider_tolerance_is_0_again(run, dump, kept):
    change()
    assert run("snapshot", "check", "changed.safetensors", kept, "--atol", "0.09", "--rtol", "0.9").code == 0


def test_a_tolerance_that_zeros_would_meet_is_refused(run, dump, kept):
    result = run("snapshot", "check", dump, kept, "--atol", "10")
    assert result.code == 2
    assert "--atol 10: the largest exact cell is 1" in result.err


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    "options",
    [
        ["--pattern", "local", "--window", "2", "--dilation", "2"],
        ["--pattern", "local+global", "--window", "1"],
        ["--pattern", "local", "--window", "1", "--causal"],
        ["--pattern", "global", "--causal"],
        [],
    ],
)
def test_the_pattern_is_the_snapshots_own(run, dump, options):
    assert run("snapshot", "save", dump, "kept.json", *options).code == 0
    assert run("snapshot", "check", dump, "kept.json").code == 0


def test_a_file_of_version_1_is_compared_by_its_definitions(run, dump):
    """previous_mass was a mean over every query, the first of which has none before it."""
    assert run("snapshot", "save", dump, "kept.json", "--pattern", "causal", "--head", "0").code == 0
    document = json.loads(Path("kept.json").read_text())
    document["schema"] = "attnviz.snapshot/1"
    path = Path("kept.json")
    path.write_text(json.dumps(document))
    result = run("snapshot", "check", dump, path)
    assert result.code == 1
    assert "previous_mass was" in result.out
    document["heads"][0]["statistics"]["previous_mass"] *= 5 / 6
    path.write_text(json.dumps(document))
    result = run("snapshot", "check", dump, path)
    assert result.code == 0, result.out
    assert result.err == (
        "attnviz: kept.json: of version 1, and compared by that version's definitions; write it again for today's "
        "(docs/snapshots.md)\n"
    )


def test_another_pattern_is_1(run, dump, kept):
    result = run("snapshot", "check", dump, kept, "--pattern", "full")
    assert result.code == 1
    assert "pattern was causal, is full" in result.out


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_what_is_kept_is_what_is_checked(run, dump, suffix):
    """Heads, batch item, values, part and cells are the snapshot's: check needs no options."""
    options = ["--head", "2", "--batch", "1", "--values", "logits", "--pattern", "full"]
    part = ["--queries", "1:6", "--keys", "2:5", "--cells", "2"]
    assert run("snapshot", "save", dump, f"kept{suffix}", *options, *part).code == 0
    result = run("snapshot", "check", dump, f"kept{suffix}")
    assert result.code == 0, result.out


def test_bad_input_is_2(refused, run, dump, kept):
    refused("snapshot", "save", dump, "kept.yaml", says="unknown suffix '.yaml'; write one of .json, .npz")
    refused("snapshot", "save", dump, dump, says="unknown suffix")
    refused("snapshot", "save", dump, "nowhere/kept.json", says="the directory nowhere does not exist")
    refused(
        "snapshot", "save", dump, "new.json", "--cells", "65", says="--cells 65: text that is reviewed has 64 at most"
    )
    refused("snapshot", "save", dump, "new.json", "--head", "4", says="head 4 is out of range")
    refused("snapshot", "save", dump, says="(?i)missing argument 'file'")
    refused("snapshot", says="Missing command")
    refused("snapshot", "check", dump, "nothing.json", says="nothing.json: there is no such file; make it with")
    refused("snapshot", "check", dump, dump, says="unknown suffix '.safetensors'; a snapshot is .json or .npz")
    refused("snapshot", "check", dump, kept, "-o", "kept.json", says="unknown suffix '.json'")
    refused("snapshot", "check", "nothing.safetensors", kept, says="nothing.safetensors: there is no such file")
    refused("snapshot", "check", dump, kept, "--atol", "-1", says="--atol")


def test_a_snapshot_of_another_dump_is_2(refused, run, dump, kept):
    attnviz.save("other.safetensors", small(heads=2, kv_heads=1))
    refused("snapshot", "check", "other.safetensors", kept, says="keeps head 3, and there are 2 .*another dump")


@pytest.mark.parametrize("command", ["save", "check"])
def test_the_help_has_an_example(run, command):
    result = run("snapshot", command, "--help")
    assert result.code == 0
    assert f"attnviz snapshot {command} dump.safetensors attention.json" in " ".join(result.out.split())


def test_json_for_programs(run, dump, kept):
    result = run("snapshot", "check", dump, kept, "--format", "json")
    found = json.loads(result.out)
    assert (result.code, found["schema"], found["within"], found["cells"]) == (0, "attnviz.snapshot-check/1", True, [])
    assert found["rule"] == {"atol": 2e-08, "rtol": 1.5e-05}
    change()
    result = run("snapshot", "check", "changed.safetensors", kept, "--format", "json")
    found = json.loads(result.out)
    assert (result.code, result.out.count("\n"), found["within"]) == (1, 1, False)
    assert {cell["head"] for cell in found["cells"]} == {2, 3}
    assert found["cells"][0]["keys"] == [4, 4]
    assert list(found) == [
        "schema",
        "snapshot",
        "within",
        "rule",
        "dtype",
        "note",
        "settings",
        "cells",
        "largest",
        "statistics",
    ]
