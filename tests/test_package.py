"""What is installed, and with what: the metadata, the lowest versions, the licenses, the workflows."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import attnviz

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
WANTED = re.compile(r"([\w-]+)(?:\[.*\])?>=([\d.]+)")


def floors():
    """The lowest versions that pyproject.toml allows, of attnviz and of its extras for users."""
    lines = [
        *PROJECT["dependencies"],
        *(line for name in ("zarr", "hf", "view", "notebook", "frames") for line in EXTRAS[name]),
    ]
    return {match[1]: match[2] for line in lines if (match := WANTED.fullmatch(line))}


def test_the_lowest_versions_are_those_that_are_allowed():
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / ".ci/lowest.txt").read_text(), flags=re.MULTILINE))

    def padded(version):
        return tuple(int(part) for part in (version + ".0.0").split(".")[:3])

    assert {name: padded(version) for name, version in pinned.items()} == {
        name: padded(version) for name, version in floors().items()
    }


def test_a_tool_of_the_tests_asks_for_no_more_than_users_do():
    asked = {match[1]: match[2] for line in EXTRAS["test"] if (match := WANTED.fullmatch(line))}
    assert {name: version for name, version in asked.items() if name in floors()} == {
        name: floors()[name] for name in asked if name in floors()
    }


def test_all_is_every_extra_for_users():
    (line,) = EXTRAS["all"]
    assert set(re.search(r"\[(.*)\]", line)[1].split(",")) == {"zarr", "hf", "view", "notebook", "frames"}


def test_hints_name_extras_that_pip_can_install():
    hints = {
        name
        for path in (ROOT / "attnviz").rglob("*.py")
        for name in re.findall(r"attnviz\[([\w,]+)\]", path.read_text())
    }
    assert hints
    assert {name for names in hints for name in names.split(",")} <= set(EXTRAS)


def test_the_licenses_of_what_the_page_holds_are_shipped():
    notice = (ROOT / "attnviz/pages/assets/attnviz.js").read_text()[:600]
    texts = {path.stem: path.read_text() for path in ROOT.glob("licenses/*.txt")}
    dependencies = re.findall(
        r'"(\w+)": "[\d.]+"',
        re.search(r'"dependencies": {(.*?)}', (ROOT / "web/package.json").read_text(), flags=re.DOTALL)[1],
    )
    assert sorted(texts) == sorted(dependencies)
    for name, text in texts.items():
        assert name.capitalize() in notice
        assert "Copyright (c)" in text
        assert "WITHOUT WARRANTY OF ANY KIND" in text or "DISCLAIMED" in text
    assert {"LICENSE", "licenses/*.txt"} == set(PROJECT["license-files"])


def test_there_is_one_address_and_one_version():
    home = PROJECT["urls"]["Homepage"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["repository-code"] == home
    assert citation["version"] == attnviz.__version__
    for name in ("docs/install.md", "mkdocs.yml", "examples/README.md"):
        for address in re.findall(
            r"https://(?:github\.com|colab\.research\.google\.com/github)/(attnviz/\w+)", (ROOT / name).read_text()
        ):
            assert home.endswith(address), name


def test_the_site_has_every_page():
    said = (ROOT / "mkdocs.yml").read_text()
    listed = re.findall(r": ([\w.-]+\.md)$", said, flags=re.MULTILINE)
    assert len(listed) == len(set(listed))
    pages = {path.name for path in ROOT.glob("docs/*.md")} - {"README.md"}
    assert pages == set(listed) - {"index.md", "all.md", "heads.md", "examples.md", "changelog.md", "contributing.md"}


def test_the_workflows_run_what_make_has():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for path in sorted((ROOT / ".github/workflows").glob("*.yml")):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            for command in (step["run"] for step in job["steps"] if "run" in step):
                assert set(re.findall(r"make (?:\w+= )?([\w-]+)", command)) <= targets, command


def test_git_has_every_file_that_a_release_is_checked_for():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not tracked:
        pytest.skip("no checkout")
    said = (ROOT / ".ci/release.py").read_text()
    names = re.findall(r'"([\w./-]+)"', re.search(r"IN_BOTH = \((.*?)\)", said, flags=re.DOTALL)[1])
    assert names
    assert set(names) <= set(tracked)
