"""What options are where nobody types them: by the environment, and by ``pyproject.toml``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def settings(folder):
    """Writes ``[tool.attnviz]`` of a ``pyproject.toml`` here."""

    def write(text: str) -> None:
        Path("pyproject.toml").write_text(f"[project]\nname = 'x'\n[tool.attnviz]\n{text}")

    return write


def heads(result):
    """Which heads a run's JSON has."""
    assert result.code == 0, result.err
    return [head["head"] for head in json.loads(result.out)["items"][0]["heads"]]


def test_what_is_typed_comes_before_the_environment_before_the_file(run, dump, settings, monkeypatch):
    asked = ("score", dump, "--format", "json")
    assert heads(run(*asked)) == [0, 1, 2, 3]
    settings("head = 1")
    assert heads(run(*asked)) == [1]
    monkeypatch.setenv("ATTNVIZ_HEAD", "2")
    assert heads(run(*asked)) == [2]
    assert heads(run(*asked, "--head", "3")) == [3]
    monkeypatch.setenv("ATTNVIZ_HEAD", "")  # undoes what the file says
    assert heads(run(*asked)) == [0, 1, 2, 3]


def test_what_is_said_of_one_command_comes_before_what_is_said_of_all(run, dump, settings, monkeypatch):
    settings("head = 1\n[tool.attnviz.score]\nhead = 2\nformat = 'json'\n[tool.attnviz.snapshot.save]\ncells = 8")
    assert heads(run("score", dump)) == [2]
    monkeypatch.setenv("ATTNVIZ_HEAD", "0")
    assert heads(run("score", dump)) == [0]
    monkeypatch.setenv("ATTNVIZ_SCORE_HEAD", "3")
    assert heads(run("score", dump)) == [3]
    assert run("snapshot", "save", dump, "s.json").code == 0


def test_the_nearest_file_above_is_read(run, dump, settings, monkeypatch):
    settings("format = 'json'\nhead = 1")
    below = Path("a/b")
    below.mkdir(parents=True)
    (below / "pyproject.toml").write_text("[project]\nname = 'nothing of ours'\n")
    monkeypatch.chdir(below)
    assert heads(run("score", f"../../{dump}")) == [1]


def test_a_flag_is_yes_or_no(run, dump, settings):
    settings("causal = true\nformat = 'json'\nhead = 0")
    assert '"pattern":"global, causal"' in run("score", dump).out
    settings("causal = false\nformat = 'json'\nhead = 0")
    assert '"pattern":"global"' in run("score", dump).out


def test_a_default_that_a_command_has_no_use_for_is_let_be(run, dump, settings):
    settings("theme = 'dark'\nannot = true\nnorm = 'log'")
    assert run("stats", dump).code == 0  # a table has no theme
    assert run("plot", dump, "--detail", "--head", 0, "-o", "a.png").code == 0  # and this figure no numbers in cells
    typed = run("stats", dump, "--theme", "dark")
    assert "--theme dark: it says how a figure looks" in typed.err


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("haed = 1", "pyproject.toml [tool.attnviz] haed: no command has an option of this name; did you mean head?"),
        ("[tool.attnviz.scor]\nhead = 1", "[tool.attnviz.scor]: there is no command scor; did you mean score?"),
        ("[tool.attnviz.score]\npixels = 9", "pixels: attnviz score has no option of this name"),
        ("head = [1]", "head = [1]: write it as text, in quotes"),
        ("head = 9", "head 9 is out of range; there are 4 (0 to 3) (--head is from"),
        ("head = ", "it is no TOML"),
        ("help = true", "help: no command has an option of this name"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(run, dump, settings, said, says):
    settings(said)
    result = run("score", dump)
    assert (result.code, result.out) == (2, "")
    assert says in result.err


def test_a_variable_that_is_no_option_is_told_and_so_is_a_value_that_is_none(run, dump, monkeypatch):
    monkeypatch.setenv("ATTNVIZ_NROM", "log")
    assert "ATTNVIZ_NROM: no command has an option of this name; did you mean ATTNVIZ_NORM?" in run("score", dump).err
    monkeypatch.delenv("ATTNVIZ_NROM")
    monkeypatch.setenv("ATTNVIZ_NORM", "lgo")
    assert "did you mean log? (--norm is from ATTNVIZ_NORM)" in run("plot", dump, "-o", "a.png").err


def test_help_tells_the_default_that_is_yours(run, settings):
    settings("norm = 'log'")
    assert "[default: log, by your settings]" in " ".join(run("plot", "--help").out.replace("│", " ").split())


def test_help_is_there_whatever_settings_say(run, settings):
    settings("haed = 1")
    assert run("plot", "--help").code == 0
    assert run("plot", "-o", "a.png").code == 2
