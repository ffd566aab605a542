"""The pytest plugin in a project of its own: what passes, what fails and how, what is written and what is left over."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

# pytester forgets what an inner run imports, and torch cannot be imported twice: all of it is here before.
import attnviz.compare.kernel
import attnviz.compare.snapshots.files
import attnviz.show.figures.snapshot

pytest_plugins = ["pytester"]

LAYER = """
import os

import pytest
import torch

import attnviz
from attnviz.attention.patterns import Causal


def layer(**sizes):
    inputs = attnviz.synthesize(**{"heads": 4, "tokens": 6, "head_dim": 8, "dtype": "float64", **sizes})
    inputs.k[0, 2, 3] += float(os.environ.get("CHANGE", "0"))
    return inputs

"""

ONE = """
def test_layer(attention_snapshot):
    attention_snapshot(layer(), pattern=Causal())
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch):
    """Runs pytest on a test file of the given body, in this process, and gives the result."""
    monkeypatch.delenv("CHANGE", raising=False)
    monkeypatch.setenv("COLUMNS", "80")

    def run(body: str | None = None, *options: str, file: str = "test_model") -> pytest.RunResult:
        if body is not None:
            pytester.makepyfile(**{file: LAYER + body})
        # Plugins of this suite's own that a project need not have.
        return pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:cacheprovider", *options)

    return run


def stored(pytester: pytest.Pytester) -> list[str]:
    folder = pytester.path / "__attention__"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def errors(result: pytest.RunResult) -> str:
    """The message of a failure, as pytest shows it."""
    return "\n".join(line[1:].strip() for line in result.outlines if line.startswith("E "))


def test_loading_the_plugin_imports_nothing_of_weight():
    code = (
        "import sys, attnviz.testing.plugin; "
        "print([name for name in ('torch', 'numpy', 'matplotlib', 'rich', 'typer') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


# Write, hold, fail


def test_a_missing_snapshot_fails_and_says_how_to_write_it(project, pytester):
    result = project(ONE)
    result.assert_outcomes(failed=1)
    assert errors(result) == (
        "AssertionError: there is no attention snapshot __attention__/test_model/test_layer.json yet; write it with\n"
        "pytest --attention-update 'test_model.py::test_layer'"
    )
    assert stored(pytester) == []


def test_update_writes_it_and_then_it_holds(project, pytester):
    result = project(ONE, "--attention-update")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*attention snapshots*", "1 snapshot written", "  __attention__/test_model/test_layer.json"]
    )
    document = json.loads((pytester.path / "__attention__/test_model/test_layer.json").read_text())
    assert document["settings"]["pattern"] == "causal"
    result = project()
    result.assert_outcomes(passed=1)
    assert "attention snapshots" not in result.stdout.str()


def test_a_change_fails_and_names_where(project, pytester, monkeypatch, snapshot: SnapshotAssertion):
    project(ONE, "--attention-update")
    monkeypatch.setenv("CHANGE", "0.5")
    result = project(None, "--attention-pictures", "pictures")
    result.assert_outcomes(failed=1)
    said = errors(result).replace(str(pytester.path), "PROJECT")
    text = type("Text", (SingleFileSnapshotExtension,), {"file_extension": "txt", "_write_mode": WriteMode.TEXT})
    assert said + "\n" == snapshot.use_extension(text)
    assert re.search(r"head 2, weights: \d+ of 21 cells; the worst is query \d 't\d' → key 3 't3', was", said)
    picture = pytester.path / "pictures" / "test_model.test_layer.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_a_folder_the_picture_is_in_pytests_own(project, pytester, monkeypatch):
    project(ONE, "--attention-update")
    monkeypatch.setenv("CHANGE", "0.5")
    said = errors(project())
    picture = Path(re.search(r"picture: (.+)", said)[1])
    assert picture.exists()
    assert picture.parent.name.startswith("attention")


def test_the_traceback_ends_in_the_test(project):
    assert "pytest_plugin.py" not in project(ONE).stdout.str()


def test_a_change_is_updated_and_what_holds_is_left_alone(project, pytester, monkeypatch):
    body = (
        ONE
        + """
def test_other(attention_snapshot):
    attention_snapshot(layer(heads=2, tokens=3), pattern=Causal())  # without the changed key
"""
    )
    body = body.replace("heads=2, tokens=3", "seed=9, heads=3, tokens=4")
    project(body, "--attention-update")
    folder = pytester.path / "__attention__/test_model"
    # As good as it was, but not the same bytes: an update has no reason to touch it.
    other = folder / "test_other.json"
    other.write_text(other.read_text().replace("\n", " "))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    project(None, "--attention-update")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    monkeypatch.setenv("CHANGE", "0.5")
    project(None, "--attention-update")
    changed = [path.name for path in folder.iterdir() if path.read_bytes() != before[path]]
    assert sorted(changed) == ["test_layer.json", "test_other.json"]
    project().assert_outcomes(passed=2)


def test_a_damaged_snapshot_is_told_and_can_be_updated(project, pytester):
    project(ONE, "--attention-update")
    path = pytester.path / "__attention__/test_model/test_layer.json"
    path.write_text("{")
    assert "test_layer.json: is not JSON" in errors(project())
    project(None, "--attention-update").assert_outcomes(passed=1)
    project().assert_outcomes(passed=1)


def test_a_tolerance_of_ones_own(project, monkeypatch):
    body = ONE.replace("pattern=Causal()", "pattern=Causal(), atol=0.09, rtol=0.9")
    project(body, "--attention-update")
    monkeypatch.setenv("CHANGE", "0.5")
    project().assert_outcomes(passed=1)


@pytest.mark.sweep
def test_a_reduced_map_names_the_pair_too(project, monkeypatch):
    project(ONE.replace("layer()", "layer(tokens=40)").replace("Causal()", "Causal(), cells=8"), "--attention-update")
    monkeypatch.setenv("CHANGE", "2")
    said = errors(project())
    assert re.search(r"queries \d+ to \d+ → keys 0 to 4, was .*\nthe largest there is now query \d+ → key 3, ", said)


@pytest.mark.sweep
def test_pixels_are_compared_where_they_are_asked_for(project, pytester):
    body = ONE.replace("pattern=Causal()", "pattern=Causal(), picture=True")
    project(body, "--attention-update").assert_outcomes(passed=1)
    project().assert_outcomes(passed=1)
    picture = pytester.path / "__attention__/test_model/test_layer.png"
    kept = picture.read_bytes()
    picture.write_bytes(attnviz.show.figures.snapshot.draw_snapshot(attnviz.take_snapshot(attnviz.synthesize())))
    said = errors(project())
    assert re.search(
        r"the picture __attention__/test_model/test_layer.png has \d+ x \d+ pixels, and is drawn with", said
    )
    assert "test_model.test_layer.now.png" in said
    project(None, "--attention-update").assert_outcomes(passed=1)
    assert picture.read_bytes() == kept
    with Image.open(io.BytesIO(kept)) as opened:  # as it was drawn before figures said which look they have
        opened.resize((8, 8)).save(picture)
    result = project()
    result.assert_outcomes(passed=1, warnings=1)
    said = result.stdout.str()
    assert "test_layer.png has look 1, and figures have look 2 now: it is not compared; draw it anew with" in said
    project(None, "--attention-update").assert_outcomes(passed=1)
    assert picture.read_bytes() == kept
    picture.unlink()
    assert "test_layer.png is not there yet; write it with" in errors(project())


# Names


def test_names_of_files(project, pytester):
    project(
        """
def test_several(attention_snapshot):
    attention_snapshot(layer())
    attention_snapshot(layer(), name="again")
    attention_snapshot(layer())

@pytest.mark.parametrize("kind", ["full", "a/b: c"])
def test_kinds(attention_snapshot, kind):
    attention_snapshot(layer())

class TestModel:
    def test_inside(self, attention_snapshot):
        attention_snapshot(layer(), suffix=".npz")
""",
        "--attention-update",
    ).assert_outcomes(passed=4)
    names = stored(pytester)
    odd = next(name for name in names if "_b_" in name)
    assert re.fullmatch(r"test_model/test_kinds\[a_b__c\]-[0-9a-f]{8}\.json", odd)
    assert sorted({*names} - {odd}) == [
        "test_model/TestModel.test_inside.npz",
        "test_model/test_kinds[full].json",
        "test_model/test_several.3.json",
        "test_model/test_several.again.json",
        "test_model/test_several.json",
    ]
    project().assert_outcomes(passed=4)


def test_a_name_used_twice_is_told(project):
    body = """
def test_twice(attention_snapshot):
    attention_snapshot(layer(), name="a")
    attention_snapshot(layer(), name="a")
"""
    assert "the name 'a' is used twice in this test; give each its own" in errors(project(body, "--attention-update"))


# What may be handed over


def test_inputs_scores_maps_tensors_and_q_k(project):
    body = """
def test_all(attention_snapshot):
    inputs = layer()
    attention_snapshot(inputs, name="inputs", pattern=Causal())
    attention_snapshot(attnviz.score(inputs, Causal()), name="scores")
    attention_snapshot(attnviz.attention_map(inputs, 2, Causal()), name="map")
    attention_snapshot(attnviz.score(inputs, Causal()).weights, name="weights", tokens=inputs.tokens[0])
    attention_snapshot(inputs.q, inputs.k, name="qk", pattern="causal")
    attention_snapshot(inputs.q, inputs.k, torch.ones(6, 6, dtype=torch.bool).tril(), name="mask", scale=0.3)
"""
    project(body, "--attention-update").assert_outcomes(passed=1)
    project().assert_outcomes(passed=1)


def test_settings_belong_to_q_and_k(project):
    body = """
def test_wrong(attention_snapshot):
    attention_snapshot(layer(), scale=0.3)
"""
    assert "scale: it belongs to q and k" in errors(project(body))


# Left over


TWO = (
    ONE
    + """
def test_long(attention_snapshot):
    attention_snapshot(layer(tokens=40), cells=8)
"""
)


def test_what_no_test_uses_is_told_and_removed_by_an_update(project, pytester):
    project(TWO, "--attention-update")
    result = project(ONE)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["1 snapshot that no test uses; --attention-update removes", "  __attention__/test_model/test_long.json"]
    )
    assert len(stored(pytester)) == 2
    result = project(None, "--attention-update")
    result.stdout.fnmatch_lines(["1 snapshot that no test uses removed"])
    assert stored(pytester) == ["test_model/test_layer.json"]


@pytest.mark.parametrize(
    "options", [["-k", "layer"], ["test_model.py::test_layer"], ["--deselect", "test_model.py::test_long"]]
)
def test_a_part_of_the_tests_leaves_the_rest_alone(project, pytester, options):
    project(TWO, "--attention-update")
    result = project(None, "--attention-update", *options)
    result.assert_outcomes(passed=1, deselected=0 if "::test_layer" in options[0] else 1)
    assert len(stored(pytester)) == 2
    assert "no test uses" not in result.stdout.str()


@pytest.mark.parametrize("line", ["pytest.skip('not here')", "raise ValueError"])
def test_a_test_that_did_not_get_there_keeps_its_snapshots(project, pytester, line):
    project(TWO, "--attention-update")
    project(
        TWO.replace("attention_snapshot(layer(tokens", f"{line}\n    attention_snapshot(layer(tokens"),
        "--attention-update",
    )
    assert len(stored(pytester)) == 2


@pytest.mark.parametrize("options", [["-x"], ["--maxfail", "1"]])
def test_a_run_that_stops_early_removes_nothing(pytester, options):
    body = TWO + "\ndef test_last(attention_snapshot):\n    attention_snapshot(layer(tokens=5))\n"
    pytester.makepyfile(test_model=LAYER + body)
    pytester.runpytest_inprocess("-p", "no:cacheprovider", "--attention-update")
    assert len(stored(pytester)) == 3
    pytester.makepyfile(
        test_model=LAYER
        + body.replace("def test_long(attention_snapshot):", "def test_long(attention_snapshot):\n    raise ValueError")
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--attention-update", *options)
    assert len(stored(pytester)) == 3
    assert "no test uses" not in result.stdout.str()


def test_what_a_person_put_beside_them_is_left_alone(project, pytester):
    project(TWO, "--attention-update")
    folder = pytester.path / "__attention__" / "test_model"
    (folder / "notes.json").write_text('{"mine": 1}')
    (folder / "list.json").write_text("[1]")
    (folder / "diagram.png").write_bytes(b"not ours")
    np.savez(folder / "data.npz", x=np.zeros(3))
    result = project(ONE, "--attention-update")
    result.stdout.fnmatch_lines(["1 snapshot that no test uses removed"])
    assert {path.name for path in folder.iterdir()} == {
        *("test_layer.json", "notes.json", "list.json", "diagram.png", "data.npz")
    }


@pytest.mark.sweep
def test_with_xdist_the_account_is_the_same(project, pytester, monkeypatch):
    pytester.makepyfile(test_model=LAYER + TWO)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # each process would import what others' plugins need
    options = ["-n", "1", "-p", "xdist", "-p", "attnviz.testing.plugin", "-p", "no:cacheprovider"]
    result = pytester.runpytest_subprocess(*options, "--attention-update")
    result.stdout.fnmatch_lines(["2 snapshots written"])
    pytester.makepyfile(test_model=LAYER + ONE)
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["1 snapshot that no test uses; --attention-update removes"])


# The other fixture


def test_assert_attention_close(project, pytester):
    body = """
def kernel(q, k):
    hidden = torch.ones(6, 6, dtype=torch.bool).triu(1)
    return (q @ k.mT / 8**0.5).masked_fill(hidden, -torch.inf).softmax(-1)

def test_right(assert_attention_close):
    inputs = layer()
    assert_attention_close(kernel(inputs.q, inputs.k), inputs.q, inputs.k, pattern="causal")

def test_wrong(assert_attention_close):
    inputs = layer()
    assert_attention_close(kernel(inputs.q, inputs.k), inputs.q, inputs.k)

def test_wrong_context(assert_attention_close):
    inputs = layer()
    assert_attention_close(inputs.q * 0, inputs.q, inputs.k, v=inputs.q)
"""
    result = project(body, "-k", "not context")
    result.assert_outcomes(passed=1, failed=1, deselected=1)
    assert "the weights (full) are not those of the exact formula" in errors(result)
    *_, named, picture = errors(result).splitlines()
    assert named == "it is what the formula gives with pattern='causal'"
    assert Path(picture.removeprefix("picture: ")).name == "test_wrong.kernel.png"
    project(None, "--attention-pictures", "drawn")
    drawn = {path.name: path.stat().st_size for path in (pytester.path / "drawn").iterdir()}
    assert drawn.keys() == {"test_wrong.kernel.png", "test_wrong_context.kernel.png"}
    assert all(drawn.values())


def test_two_runs_that_part(project):
    body = """
def test_same(assert_runs_agree):
    assert_runs_agree({0: layer()}, {0: layer()})

def test_apart(assert_runs_agree):
    from dataclasses import replace
    assert_runs_agree({0: layer()}, {0: replace(layer(), scale=1.0)})
"""
    result = project(body)
    result.assert_outcomes(passed=1, failed=1)
    assert "the runs part at layer 0" in errors(result)
    assert "closeness.py" not in result.stdout.str()
