"""The program, run in this process: quick, and through the same door as the console script."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import typer

import attnviz
from attnviz.cli import main as program
from attnviz.cli.console import note
from tests.cases import small


@dataclass(frozen=True)
class Result:
    """How a run of the program ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


_APP = program.app


@cache
def built(app: typer.Typer) -> Any:
    """The program's commands, which typer makes anew for each run: two thirds of what a short one takes."""
    return typer.main.get_command(app)


@pytest.fixture
def run(monkeypatch, capsys) -> Run:
    """Runs ``attnviz`` with the given arguments."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["attnviz", *map(str, arguments)])
        note.cache_clear()  # each run is a program of its own, which says its notes anew
        capsys.readouterr()
        app = program.app
        with pytest.raises(SystemExit) as exit_, patch.object(program, "app", built(app) if app is _APP else app):
            program.main()
        captured = capsys.readouterr()
        code = exit_.value.code
        assert isinstance(code, int)
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder that is the current one, so that tests can write paths as a user does."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def dump(folder) -> Path:
    """A dump of two items, four query heads, two key heads, six tokens: ``dump.safetensors``."""
    attnviz.save("dump.safetensors", small())
    return Path("dump.safetensors")


@pytest.fixture
def refused(run, folder) -> Callable[..., str]:
    """Runs a command that must be refused, and returns the line it says."""

    def refused(*arguments: object, says: str) -> str:
        before = sorted(folder.rglob("*"))
        contents = {path: path.read_bytes() for path in before if path.is_file()}
        result = run(*arguments)
        assert result.code == 2
        assert result.out == ""
        lines = result.err.splitlines()
        assert len(lines) == 1, result.err
        assert lines[0].startswith("attnviz: ")
        assert re.search(says, lines[0]), lines[0]
        assert "Traceback" not in lines[0]
        # No output, no temporary file, no changed input.
        assert sorted(folder.rglob("*")) == before
        assert {path: path.read_bytes() for path in contents} == contents
        return lines[0]

    return refused
