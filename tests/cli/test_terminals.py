"""Any terminal: every command in every encoding and at every width, tokens of every script, in one process."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from unittest.mock import patch

import pytest
from rich.cells import cell_len

import attnviz
from attnviz.base.words import isolated
from attnviz.cli import main as program
from attnviz.cli.console import note
from attnviz.compare.snapshots.files import write_snapshot
from tests.cli.conftest import built

TOKENS = ["[CLS]", "سلام", "کتاب\u200cها", "东京", "שלום", "because", "👩\u200d🔬", "internationalization"]
ENCODINGS = ("cp1252", "cp932", "ascii", "latin-1")
WIDTHS = (40, 57, 80, 120, 200)
CAUSAL = ("--pattern", "causal", "--head", "0")

COMMANDS: dict[str, tuple[str, ...]] = {
    "score": ("score", "one.safetensors", *CAUSAL),
    "score of global keys": ("score", "one.safetensors", "--head", "0"),
    "score of a band": ("score", "one.safetensors", "--pattern", "local+global", "--window", "1", "--head", "0"),
    "stats": ("stats", "run.safetensors", "--pattern", "causal"),
    "stats, tags": ("stats", "run.safetensors", "--pattern", "causal", "--tags"),
    "stats by query": ("stats", "one.safetensors", *CAUSAL, "--by-query"),
    "stats by key": ("stats", "one.safetensors", *CAUSAL, "--keys-received"),
    "stats by window": ("stats", "one.safetensors", *CAUSAL, "--curve", "windows"),
    "stats of spans": ("stats", "one.safetensors", *CAUSAL, "--shares", "--spans", "سلام:0-3,b:4-7"),
    "show": ("show", "one.safetensors", *CAUSAL),
    "show all": ("show", "one.safetensors", "--pattern", "causal", "--all"),
    "pattern": ("pattern", "one.safetensors", *CAUSAL),
    "inspect": ("inspect", "run.safetensors"),
    "diff": ("diff", "one.safetensors", "two.safetensors", "--pattern", "causal"),
    "diff of logits": ("diff", "one.safetensors", "two.safetensors", "--pattern", "causal", "--values", "logits"),
    "snapshot that holds": ("snapshot", "check", "two.safetensors", "kept.json"),
    "snapshot that does not": ("snapshot", "check", "one.safetensors", "kept.json"),
    "explain": ("explain", "one.safetensors", "--pattern", "causal"),
    "explain in Japanese": ("explain", "one.safetensors", "--lang", "ja"),
    "help": ("--help",),
    "help of a command": ("score", "--help"),
    "an error": ("stats", "one.safetensors", "--merge", "words"),
    "an error with a word": ("explain", "one.safetensors", "--query", "سلامم"),
}
WRAPPED_BY_THE_TERMINAL = ("snapshot that does not", "diff", "diff of logits")
"""Whose lines of prose are as long as they are."""


@dataclass(frozen=True)
class Printed:
    """What a command wrote to stdout and stderr, in an encoding that it knows."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("terminals")
    made = [
        replace(attnviz.synthesize(heads=3, tokens=8, head_dim=8, batch=2, seed=seed), tokens=[TOKENS, TOKENS])
        for seed in range(3)
    ]
    for name, inputs in (("run", made), ("one", made[0]), ("two", made[1])):
        attnviz.save(place / f"{name}.safetensors", inputs)
    write_snapshot(place / "kept.json", attnviz.take_snapshot(made[1], "causal"))
    return place


def printed(monkeypatch, folder: Path, name: str, encoding: str, width: int) -> Printed:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", f"{width}")
    for variable in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(variable, raising=False)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2))
    note.cache_clear()
    argv, app = ["attnviz", *COMMANDS[name]], built(program.app)
    with (
        patch.object(sys, "stdout", out),
        patch.object(sys, "stderr", err),
        patch.object(sys, "argv", argv),
        patch.object(program, "app", app),
    ):
        with pytest.raises(SystemExit) as ended:
            program.main()
        sys.stdout.flush()
        sys.stderr.flush()
        written = [
            stream.buffer.getvalue().decode(encoding) for stream in (sys.stdout, sys.stderr)
        ]  # as the program made them
    return Printed(int(ended.value.code or 0), *written)


def check(found: Printed, name: str, width: int, *, unicode: bool) -> None:
    assert found.code == (
        2 if name.startswith("an error") else name in ("diff", "diff of logits", "snapshot that does not")
    )
    assert "Traceback" not in found.err + found.out
    assert ("attnviz: " in found.err) or not name.startswith("an error")
    for line in found.out.splitlines():
        if not unicode and name.startswith("help"):  # which cuts by three periods
            break
        assert cell_len(line) <= width or (name in WRAPPED_BY_THE_TERMINAL and not re.match(r"[│|+╭├╰]", line)), line
        assert not re.search(r"\d…|…\d", line), line  # a number that is cut
    if unicode:
        bare = found.out.replace("\u2068", "").replace("\u2069", "")
        assert isolated(bare) == found.out  # each word from right to left, and nothing else, by itself
    else:
        assert not re.search("[\u2066-\u2069]", found.out)


@pytest.mark.sweep(keep=6)
@pytest.mark.parametrize(("name", "width"), [(name, WIDTHS[n % 5]) for n, name in enumerate(COMMANDS)])
def test_at_a_width(monkeypatch, folder, name, width):
    check(printed(monkeypatch, folder, name, "utf-8", width), name, width, unicode=True)


@pytest.mark.sweep(keep=6)
@pytest.mark.parametrize(("name", "encoding"), [(name, ENCODINGS[n % 4]) for n, name in enumerate(COMMANDS)])
def test_in_an_encoding(monkeypatch, folder, name, encoding):
    check(printed(monkeypatch, folder, name, encoding, 80), name, 80, unicode=False)


@pytest.mark.matrix
@pytest.mark.parametrize(("name", "width"), list(product(COMMANDS, range(40, 201, 7))))
def test_at_every_width(monkeypatch, folder, name, width):
    check(printed(monkeypatch, folder, name, "utf-8", width), name, width, unicode=True)


@pytest.mark.matrix
@pytest.mark.parametrize(("name", "encoding", "width"), list(product(COMMANDS, ENCODINGS, WIDTHS)))
def test_in_every_encoding(monkeypatch, folder, name, encoding, width):
    check(printed(monkeypatch, folder, name, encoding, width), name, width, unicode=False)


@pytest.mark.sweep(keep=4)
@pytest.mark.parametrize("name", ["stats", "stats, tags", "stats by query", "stats by key", "diff", "stats of spans"])
@pytest.mark.parametrize("width", [40, 62, 90])
def test_a_column_that_is_left_out_is_named(monkeypatch, folder, name, width):
    def columns(text: str) -> list[str]:
        """What stands above each column."""
        lines = text.splitlines()
        top = next(n for n, line in enumerate(lines) if line.startswith("╭"))
        end = next(n for n, line in enumerate(lines) if line.startswith("├"))
        heads = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines[top + 1 : end]]
        return [" ".join(filter(None, parts)) for parts in zip(*heads, strict=True)]

    whole = columns(printed(monkeypatch, folder, name, "utf-8", 400).out)
    found = printed(monkeypatch, folder, name, "utf-8", width).out
    few = columns(found)
    said = " ".join(found.split("left out", 1)[1].split()) if "left out" in found else ""
    for column in whole:
        plain = re.sub(r" \(.*\)", "", column)
        assert column in few or plain.replace(" ", "_") in said.replace(" ", "_") or column.startswith("worst"), column


def test_joiners_survive(monkeypatch, folder):
    for name in ("score", "explain", "snapshot that does not"):
        assert "کتاب\u200cها" in printed(monkeypatch, folder, name, "utf-8", 200).out.replace("\u2068", "").replace(
            "\u2069", ""
        )
    assert "👩\u200d🔬" in printed(monkeypatch, folder, "score", "utf-8", 200).out
