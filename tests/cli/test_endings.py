"""How the program ends: every error is one line and a code; any stdout and stderr will do."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import attnviz
from attnviz.base.errors import InputError
from attnviz.cli import main as program
from attnviz.cli.endings import NO_MEMORY, ending
from attnviz.engine.ranks import RankError
from tests import warm
from tests.cases import small

PROGRAM = [warm.python(), "-m", "attnviz"]
RESULTS = {  # what each command is asked, and what it writes where it writes a file
    "score": ["-o", "out.csv"],
    "stats": ["-o", "out.json"],
    "diff": ["--b-causal", "-o", "out.png"],
    "pattern": ["-o", "out.svg"],
    "plot": ["-o", "out.pdf"],
    "overview": ["-o", "out.png"],
    "context": ["-o", "out.npz"],
    "html": ["-o", "out.html"],
    "snapshot save": ["out.json"],
}


@pytest.mark.parametrize(
    ("error", "says", "code"),
    [
        (InputError("k is odd"), "k is odd", 2),
        (KeyboardInterrupt(), "stopped", 130),
        (SystemExit(128 + signal.SIGTERM), "stopped", 143),
        (SystemExit(128 + signal.SIGHUP), "stopped", 129),
        (MemoryError(), NO_MEMORY, 2),
        (RuntimeError("[enforce fail] can't allocate memory: you tried"), NO_MEMORY, 2),
        (ImportError("libtorch.so: failed to map segment from shared object"), NO_MEMORY, 2),
        (OSError(28, "No space left on device"), "the output cannot be written: No space left on device", 2),
        (PermissionError(13, "Permission denied", "x.npz"), "x.npz: cannot be used: Permission denied", 2),
        (RankError("another rank stopped"), "another rank stopped", 2),
        *(
            (error("odd"), "a defect of attnviz, please report it", 70)
            for error in (ZeroDivisionError, KeyError, RuntimeError)
        ),
    ],
)
def test_an_error_ends_as_a_line(error, says, code):
    line, found = ending(error)
    assert found == code
    assert line is not None
    assert line.startswith(says)


def test_what_a_library_makes_of_short_memory_is_short_memory():
    made = ValueError("uncompilable regex")
    made.__cause__ = MemoryError()
    assert ending(made) == (NO_MEMORY, 2)


def test_an_error_that_cannot_be_told_ends_as_a_line_too():
    class Mute(RuntimeError):
        def __str__(self) -> str:
            raise ValueError("no words")

    line, code = ending(Mute())
    assert code == 70
    assert line is not None
    assert line.startswith("a defect of attnviz, please report it (ValueError: no words at test_endings.py:")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("show", "a.npz", "b.npz"), "too many arguments: b.npz; show takes SOURCE"),
        (("score", "a.npz", "b.npz", "c"), "too many arguments: b.npz c; score takes SOURCE"),
        (("plot", "a.npz", "b.npz", "-o", "x.png"), "too many arguments: b.npz; plot takes SOURCE, and another file by --compare FILE"),
        (("audit", "a", "b", "c"), "too many arguments: c; audit takes A and B"),
    ],
)  # fmt: skip
def test_an_argument_too_many_is_told_with_what_is_taken(run, words, says):
    result = run(*words)
    assert (result.code, result.out, result.err) == (2, "", f"attnviz: {says} (see attnviz {words[0]} --help)\n")


def test_a_defect_says_how_to_see_all_of_it(run, monkeypatch):
    def defect(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(program, "app", defect)
    result = run("score", "--head", "3")
    assert (result.code, result.out) == (70, "")
    assert re.fullmatch(
        r"attnviz: a defect of attnviz, please report it \(ZeroDivisionError: division by zero at test_endings\.py:\d+\); "
        r"all of it: attnviz --debug score --head 3\n",
        result.err,
    )
    assert "Traceback" in run("--debug", "score").err


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("command", RESULTS)
def test_the_file_is_written_though_stdout_and_stderr_are_full(tmp_path, command):
    name, out = ends_with_file(tmp_path, command, PROGRAM, "> /dev/full 2> /dev/full")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, out])


@pytest.mark.sweep
@pytest.mark.parametrize("command", ["score", "plot"])
def test_the_file_is_written_though_stdout_and_stderr_are_closed(tmp_path, command):
    ends_with_file(tmp_path, command, [sys.executable, "-m", "attnviz"], ">&- 2>&-")


def ends_with_file(folder: Path, command: str, program: list[str], streams: str) -> tuple[str, str]:
    """Runs a command in a shell with these streams; the input's name, and the output's, which is there."""
    attnviz.save(folder / "d.npz", small(batch=1))
    arguments = [*command.split(), "d.npz", *RESULTS[command]]
    subprocess.run(["sh", "-c", f'"$@" {streams}', "sh", *program, *arguments], cwd=folder, timeout=120, check=False)
    assert (folder / arguments[-1]).stat().st_size > 0
    return "d.npz", arguments[-1]


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp932", "latin-1", "utf-16"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["score", "d.npz"],
        ["stats", "d.npz"],
        ["explain", "d.npz", "--lang", "ja"],
        ["show", "d.npz"],
        ["pattern", "d.npz"],
        ["inspect", "d.npz"],
        ["diff", "d.npz", "--b-causal"],
        ["plot", "--help"],
        ["score", "é→.npz"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_any_encoding_of_stdout_will_do(foreign, encoding, arguments):
    code, out, err = foreign(encoding, *arguments)
    assert code == {"diff": 1}.get(arguments[0], 2 if "→" in arguments[1] else 0)
    assert len(out) > 100 or code == 2
    assert "Traceback" not in err


@pytest.fixture
def foreign(folder, monkeypatch) -> Callable[..., tuple[int, str, str]]:
    """Runs the program with streams of an encoding; the code, and what was written, decoded by it."""
    inputs = small(batch=1, tokens=4)
    attnviz.save("d.npz", replace(inputs, tokens=[["é", "日本", "→", "🙂"]]))

    def run(encoding: str, *arguments: str) -> tuple[int, str, str]:
        out, err = io.BytesIO(), io.BytesIO()
        monkeypatch.setattr(sys, "argv", ["attnviz", *arguments])
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding, write_through=True))
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(err, encoding, write_through=True))
        with pytest.raises(SystemExit) as end:
            program.main()
        said = out.getvalue().decode("utf-8" if "--format" in arguments else encoding)
        return int(str(end.value.code)), said, err.getvalue().decode(encoding)

    return run


def test_data_is_utf_8_whatever_the_encoding(foreign):
    for format in ("json", "csv", "markdown"):
        said = [foreign(encoding, "score", "d.npz", "--format", format)[1] for encoding in ("ascii", "cp932", "utf-8")]
        assert said[0] == said[1] == said[2]
        assert "日本" in said[0]


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("after", [0.3, 0.6, 1.0])
def test_an_interrupt_in_the_first_second(after):
    """While the program imports what it needs, as a real program."""
    begun = "import sys; from attnviz.__main__ import run; print('begun', flush=True); sys.argv[1:] = ['score']; run()"
    with subprocess.Popen(
        [sys.executable, "-c", begun], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"  # before it the interpreter itself starts, which is not ours
        time.sleep(after)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    assert process.returncode in (0, 130)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_program_that_is_told_to_end_says_so(number):
    code = f"import os, sys; from attnviz.cli import main; sys.argv = ['attnviz', 'score']; main.app = lambda *a, **k: os.kill(os.getpid(), {int(number)}); main.main()"
    done = subprocess.run([warm.python(), "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (128 + number, "attnviz: stopped; no file is half-written\n")


def test_a_name_that_is_not_utf_8(folder):
    attnviz.save("d.npz", small(batch=1))
    os.rename(b"d.npz", b"d\xff.npz")  # noqa: PTH104 (bytes)
    done = subprocess.run([*PROGRAM, "stats", b"d\xff.npz"], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    done = subprocess.run([*PROGRAM, "stats", b"e\xff.npz"], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr.decode()) == (
        2,
        "attnviz: e\N{REPLACEMENT CHARACTER}.npz: there is no such file; did you mean d\N{REPLACEMENT CHARACTER}.npz?\n",
    )


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(
    ("name", "value"),
    [*(("MPLBACKEND", value) for value in ("", "x")), ("HOME", "/nowhere"), ("TERM", "x"), ("LC_ALL", "nothing")],
)
def test_an_odd_environment(tmp_path, name, value):
    python = sys.executable if (name, value) in (("MPLBACKEND", "x"), ("LC_ALL", "nothing")) else warm.python()
    done = subprocess.run(
        [python, "-m", "attnviz", "plot", "--head", "0", "-o", "x.png"],
        cwd=tmp_path,
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode in (0, 2), done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "x.png").exists() == (done.returncode == 0)


FORKING = """
import json, os, sys
from contextlib import suppress
from attnviz.cli import main as program
given = json.loads(sys.argv[1])
sys.argv = ["attnviz", "plot", "--head", "0", "-o", "first.png"]
with suppress(SystemExit):
    program.main()  # imports all that the others then have
codes = []
for n, (name, value) in enumerate(given):
    child = os.fork()
    if not child:
        os.environ[name] = value
        sys.argv = ["attnviz", "plot", "--head", "0", "-o", f"{n}.png"]
        program.main()
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


@pytest.mark.sweep
def test_odd_numbers_in_the_environment(tmp_path):
    """What is read as the program runs: one process, which has imported it, forks for each."""
    ranks = [(name, value) for name in ("WORLD_SIZE", "RANK") for value in ("", "x", "-1", "9" * 30)]
    given = [*ranks, *(("COLUMNS", value) for value in ("", "-1", "1", "9" * 30))]
    done = subprocess.run(
        [warm.python(), "-c", FORKING, json.dumps(given)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert "Traceback" not in done.stderr
    codes = json.loads(done.stdout)
    assert len(codes) == len(given)
    for n, code in enumerate(codes):
        assert code in (0, 2), (given[n], done.stderr)
        assert (tmp_path / f"{n}.png").exists() == (code == 0)
