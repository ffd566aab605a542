"""The program, run in this process on what nobody sane would give it, and what counts as a fault of it."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import typer

from attnviz.cli import main as program
from attnviz.cli.console import note

PATIENCE = 60.0
"""Seconds that a case of a few numbers may take, on a machine that is busy with others."""

COMPARING = ("diff", "audit", "check")
"""The commands that end with 1 where there is a difference."""

OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Letters that a terminal obeys."""


@dataclass(frozen=True)
class Case:
    """What the program is given."""

    arguments: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def out(self) -> str | None:
        """The file or folder that is to be written, if any."""
        given = [value for option, value in zip(self.arguments, self.arguments[1:], strict=False) if option == "-o"]
        return given[-1] if given and given[-1] != "-" else None

    def speaks_of(self, *words: str) -> bool:
        """Whether an argument or a file has one of these words in it."""
        there = [*(one.encode(errors="replace") for one in self.arguments), *self.files.values()]
        return any(word.encode() in one for word in words for one in there)


@dataclass(frozen=True)
class Ended:
    """How it ended."""

    code: object
    out: str
    err: str
    made: frozenset[str]
    lost: frozenset[str]


class TooLong(BaseException):
    """No case of a few numbers takes so long."""


def run(case: Case, folder: Path) -> Ended:
    """Runs a case in a folder of its own."""
    for name, content in case.files.items():
        (folder / name).write_bytes(content)
    note.cache_clear()
    out, err = io.BytesIO(), io.StringIO()
    stdout = io.TextIOWrapper(out, "utf-8", write_through=True)
    here, arguments = Path.cwd(), sys.argv
    os.chdir(folder)
    sys.argv = ["attnviz", *case.arguments]
    code: object = None
    try:
        with (
            redirect_stdout(stdout),
            redirect_stderr(err),
            warnings.catch_warnings(),
            patience(),
            patch.object(program, "app", _built()),
        ):
            warnings.simplefilter("default")
            program.main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        err.write(traceback.format_exc())
    finally:
        os.chdir(here)
        sys.argv = arguments
    there = {path.name for path in folder.iterdir()}
    lost = {
        name for name, content in case.files.items() if name not in there or (folder / name).read_bytes() != content
    }
    said = out.getvalue().decode("utf-8", "replace")
    return Ended(code, said, err.getvalue(), frozenset(there - set(case.files)), frozenset(lost))


@cache
def _built() -> Any:
    """The program's commands, which typer makes anew for each run: most of what a case would take."""
    return typer.main.get_command(program.app)


@contextmanager
def patience(seconds: float = PATIENCE) -> Iterator[None]:
    """Ends the block where it takes longer."""

    def end(_: int, frame: FrameType | None) -> None:
        raise TooLong(f"{seconds} seconds")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fault(case: Case, ended: Ended) -> str | None:
    """What is wrong with how a case ended; None where nothing is."""
    return next(filter(None, (look(case, ended) for look in LOOKS)), None)


def _code(case: Case, ended: Ended) -> str | None:
    fine = (0, 1, 2) if {*COMPARING} & {*case.arguments[:2]} else (0, 2)
    if ended.code not in fine:
        return f"exit code {ended.code!r}: {ended.err.strip()[-300:]}"
    return "a traceback" if "Traceback" in ended.err else None


def _said(case: Case, ended: Ended) -> str | None:
    lines = ended.err.splitlines()
    strange = [line for line in lines if not line.startswith("attnviz: ")]
    if strange:
        return f"a line of stderr that is not ours: {strange[0][:300]}"
    if ended.code == 2 and not lines:
        return "nothing is said of what was refused"
    if ended.code == 2 and ended.out:
        return "something was written to stdout before it was refused"
    data = "csv" in case.arguments  # to a pipe, data is as it was given
    out = (
        re.sub("\x1b\\[[0-9;]*m", "", ended.out) if "--color" in case.arguments else ended.out
    )  # colors were asked for
    obeyed = OBEYED.search(ended.err) or (None if data else OBEYED.search(out))
    return f"a letter that terminals obey: {obeyed[0]!r}" if obeyed else None


def _files(case: Case, ended: Ended) -> str | None:
    if ended.lost - {case.out}:
        return f"an input was changed: {sorted(ended.lost)}"
    wanted = {Path(name).name for name in (case.out, *case.arguments[1:4]) if name}
    if ended.code == 2 and ended.made:
        return f"refused, and yet there is {sorted(ended.made)}"
    if ended.made - wanted:
        return f"what nobody asked for: {sorted(ended.made - wanted)}"
    asked = case.out and "check" not in case.arguments  # where nothing differs, there is no picture of it
    if (
        ended.code == 0
        and asked
        and case.out not in ended.made | set(case.files)
        and not {"-h", "--help"} & {*case.arguments}
    ):
        return f"{case.out} was not written"
    return None


def _numbers(case: Case, ended: Ended) -> str | None:
    if ended.code != 0 or "json" not in case.arguments or not ended.out.startswith("{"):
        return None

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    try:
        document = json.loads(ended.out, parse_constant=refuse)
    except ValueError as error:
        return f"no JSON: {error}"
    if not str(document.get("schema", "")).startswith("attnviz.scores/") or case.speaks_of("weights"):
        return None
    return next(filter(None, (_sums(head, case) for item in document["items"] for head in item["heads"])), None)


def _sums(head: Mapping[str, Any], case: Case) -> str | None:
    """Rows of weights sum to 1, and to no more than 1 where sinks take a part."""
    for name in ("weights", "global_weights"):
        for row in head.get(name) or ():
            there = [weight for weight in row if weight is not None]
            total, slack = math.fsum(there), 1e-6 * len(row) + 1e-5
            least = 0 if case.speaks_of("sinks") else 1
            if there and not least - slack <= total <= 1 + slack:
                return f"a row of {name} of head {head['head']} sums to {total}"
            if any(not 0 <= weight <= 1 + slack for weight in there):
                return f"{name} of head {head['head']} are not from 0 to 1"
    return None


def _table(case: Case, ended: Ended) -> str | None:
    if ended.code != 0 or {"json", "csv", "inspect", "--help"} & {*case.arguments}:
        return None
    found = re.search(r"(?<![\w\"'-])-?(nan|inf)(?![\w\"'-])", ended.out)
    return f"{found[0]} is shown" if found else None


LOOKS: tuple[Callable[[Case, Ended], str | None], ...] = (_code, _said, _files, _numbers, _table)
