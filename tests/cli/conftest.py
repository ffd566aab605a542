"""The program, run in this process: quick, and through the same door as the console script."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import attnviz
from attnviz.cli.console import note
from attnviz.cli.main import main
from tests.cases import small


@dataclass(frozen=True)
class Result:
    """How a run of the program ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch, capsys) -> Run:
    """Runs ``attnviz`` with the given arguments."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["attnviz", *map(str, arguments)])
        note.cache_clear()  # each run is a program of its own, which says its notes anew
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
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
