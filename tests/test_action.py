"""The GitHub Action: its own steps, run as a runner of GitHub's runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import attnviz
from tests.cases import small

ROOT = Path(__file__).parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"] if "name" in step}


def run(name: str, folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """A step of the action, in a folder, its inputs in the place of expressions."""
    step = STEPS[name]
    given = {key: one.get("default", "") for key, one in ACTION["inputs"].items()} | inputs
    env = {key: value for key, value in os.environ.items() if not key.startswith("GITHUB")}
    env |= {"GITHUB_ACTION_PATH": str(ROOT), "GITHUB_STEP_SUMMARY": str(folder / "summary.md"), "COLUMNS": "100"}
    env["PATH"] = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), env["PATH"]])
    for key, value in step.get("env", {}).items():
        env[key] = value.replace("${{ inputs.", "").replace(" }}", "")
        env[key] = given[env[key]]
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    """A checkout with a dump, a right and a wrong kernel's context."""
    import torch

    inputs = small()
    attnviz.save(tmp_path / "a dump.safetensors", inputs)
    context = torch.stack([attnviz.context(inputs, "causal", batch=b) for b in range(inputs.B)])
    torch.save({"context": context}, tmp_path / "right.pt")
    scaled = replace(inputs, scale=1.0)
    torch.save(
        {"context": torch.stack([attnviz.context(scaled, "causal", batch=b) for b in range(2)])}, tmp_path / "wrong.pt"
    )
    return tmp_path


def test_it_installs_its_own_checkout(folder):
    (folder / "bin").mkdir()
    pip = folder / "bin" / "pip"
    pip.write_text('#!/bin/sh\necho "$@" > pip.txt\n')
    pip.chmod(0o755)
    assert run("Install attnviz", folder).returncode == 0
    assert (folder / "pip.txt").read_text().split() == ["install", "--quiet", str(ROOT)]


@pytest.mark.sweep
def test_checks_are_run_told_and_kept(folder):
    lines = [f"diff 'a dump.safetensors' {name}.pt:context --pattern causal" for name in ("right", "wrong")]
    done = run("Check", folder, check="\n".join(lines) + "\n\n")
    assert done.returncode == 1, done.stderr
    assert "it is what the formula gives with a scale of 1" in done.stdout
    summary = (folder / "summary.md").read_text()
    assert f"#### `attnviz {lines[0]}` holds\n" in summary
    assert f"#### `attnviz {lines[1]}` **does not hold** (exit code 1)\n" in summary
    assert "a scale of 1" in (folder / "attention" / "check-2.txt").read_text()


def test_a_check_is_words_and_no_shell(folder):
    done = run("Check", folder, check="inspect nothing$(touch hacked).npz; touch hacked", pictures="other")
    assert done.returncode == 2
    assert not (folder / "hacked").exists()
    assert (folder / "other" / "check-1.txt").exists()


def test_other_actions_are_of_a_version(folder):
    uses = [step["uses"] for step in ACTION["runs"]["steps"] if "uses" in step]
    assert uses == ["actions/setup-python@v5", "actions/upload-artifact@v4"]
    assert set(ACTION["inputs"]) == {"check", "pictures", "python-version"}
