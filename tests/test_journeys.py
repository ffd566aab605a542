"""Five people who come, and where each gets within five commands.

Four have a page of their own, which tests/test_docs.py runs and compares: here it is counted, and that it ends in a
result. The fifth has Windows: no make, no checkout, only what pip installed, and a terminal of code page 1252.
"""

from __future__ import annotations

import io
import re
import sys

import pytest

from attnviz.cli import main as program
from attnviz.cli.console import note
from tests.test_docs import ROOT, blocks

MOST = 5

PAGES = {
    "kernel engineer": ("start-kernel.md", "it is what the formula gives with a window of 63, not 64"),
    "interpretability student": ("start-student.md", "![The sentence, shaded by what"),
    "long-context engineer": ("start-long.md", "│   0│2730│t2730│      1│1.0000│"),
    "teacher": ("start-teaching.md", "attnviz: wrote class.html"),
}

people = pytest.mark.parametrize(("name", "result"), PAGES.values(), ids=PAGES)


@people
def test_a_journey_ends_within_five_commands_in_its_result(name, result):
    path = ROOT / "docs" / name
    shown = [block for block in blocks(path) if block.run]
    commands = sum(
        1
        if block.language == "python"
        else len(re.findall(r"^(?:\$ )?(?:\w+=\S+ )?attnviz ", block.text, re.MULTILINE))
        for block in shown
    )
    assert 1 <= commands <= MOST
    assert result in path.read_text()


@people
def test_a_journey_is_one_of_readme_and_of_the_site(name, result):
    assert f"](docs/{name})" in (ROOT / "README.md").read_text()
    assert f": {name}\n" in (ROOT / "mkdocs.yml").read_text()


WINDOWS = [
    ("synth heads.npz --heads 2 --tokens 12", "", "wrote heads.npz"),
    ("inspect heads.npz", "token labels: yes", ""),
    ("score heads.npz --head 0", "Global #1", ""),
    ("plot heads.npz --pattern causal -o heads.png", "", "wrote heads.png"),
    ("html heads.npz -o heads.html", "", "wrote heads.html"),
]


def test_a_user_of_windows_ends_with_a_page(tmp_path, monkeypatch):
    assert len(WINDOWS) <= MOST
    monkeypatch.chdir(tmp_path)
    for command, out, err in WINDOWS:
        written = [io.BytesIO(), io.BytesIO()]
        for name, to in zip(("stdout", "stderr"), written, strict=True):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(to, encoding="cp1252"))
        monkeypatch.setattr(sys, "argv", ["attnviz", *command.split()])
        note.cache_clear()
        with pytest.raises(SystemExit) as ended:
            program.main()
        sys.stdout.flush()
        sys.stderr.flush()
        said = [to.getvalue().decode("cp1252") for to in written]
        assert ended.value.code == 0, said
        assert out in said[0]
        assert err in said[1]
    assert (tmp_path / "heads.html").read_text(encoding="utf-8").startswith("<!")
