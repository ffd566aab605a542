"""How the program ends: every error is one line and a code; any stdout and stderr will do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
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


@pytest.mark.parametrize("command", RESULTS)
@pytest.mark.parametrize("stream", ["closed", "full"])
def test_the_file_is_written_though_nobody_hears(tmp_path, command, stream):
    attnviz.save(tmp_path / "d.npz", small(batch=1))
    target = ">&- 2>&-" if stream == "closed" else "> /dev/full 2> /dev/full"
    name, *arguments = [*command.split(), "d.npz", *RESULTS[command]]
    subprocess.run(["sh", "-c", f'"$@" {target}', "sh", *PROGRAM, name, *arguments], cwd=tmp_path, timeout=120)
    out = tmp_path / arguments[-1]
    assert out.stat().st_size > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["d.npz", out.name])


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp932", "latin-1", "utf-16"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["score", "d.npz"],
        ["score", "d.npz", "--format", "markdown"],
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
def test_any_encoding_of_stdout_will_do(tmp_path, encoding, arguments):
    inputs = small(batch=1, tokens=4)
    attnviz.save(tmp_path / "d.npz", attnviz.AttentionInputs(**{**vars(inputs), "tokens": [["é", "日本", "→", "🙂"]]}))
    done = run_with_encoding(encoding, arguments, tmp_path)
    assert done.returncode == {"diff": 1, "é": 2}.get(arguments[1][0] if arguments[1][0] == "é" else arguments[0], 0)
    assert b"Traceback" not in done.stderr
    done.stdout.decode(encoding)
    if arguments[0] != "score" or "é" not in arguments[1]:
        assert len(done.stdout) > 100


def run_with_encoding(encoding: str, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[bytes]:
    code = (
        f"import sys; sys.stdout.reconfigure(encoding={encoding!r}, errors='strict'); "
        f"sys.stderr.reconfigure(encoding={encoding!r}, errors='strict'); sys.argv = ['attnviz', *sys.argv[1:]]; "
        "from attnviz.cli.main import main; main()"
    )
    return subprocess.run([warm.python(), "-c", code, *arguments], cwd=folder, capture_output=True, timeout=120)


def test_data_is_utf_8_whatever_the_encoding(tmp_path):
    inputs = small(batch=1, tokens=4)
    attnviz.save(tmp_path / "d.npz", attnviz.AttentionInputs(**{**vars(inputs), "tokens": [["é", "日本", "→", "🙂"]]}))
    for format in ("json", "csv"):
        said = [
            run_with_encoding(e, ["score", "d.npz", "--format", format], tmp_path).stdout for e in ("ascii", "utf-8")
        ]
        assert said[0] == said[1]
        assert "日本" in said[0].decode()


@pytest.mark.parametrize("after", [0.15, 0.4, 0.8])
def test_an_interrupt_in_the_first_second(after):
    """As a real program: what matters is what it imports first."""
    with subprocess.Popen(
        [sys.executable, "-m", "attnviz", "score", "--format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        time.sleep(after)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    assert process.returncode in (0, 130, -signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_program_that_is_told_to_end_says_so(number):
    code = f"import os, sys; from attnviz.cli import main; sys.argv = ['attnviz', 'score']; main.app = lambda *a, **k: os.kill(os.getpid(), {int(number)}); main.main()"
    done = subprocess.run([warm.python(), "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (128 + number, "attnviz: stopped; no file is half-written\n")


CONTROL = "\x1b[31mred\x07\u202e\x9b"


def test_no_control_character_reaches_a_terminal_or_an_svg(run, folder):
    """From tokens, names, titles, file names, errors: every command, told by what it writes."""
    inputs = small(batch=1, tokens=4)
    name = f"d{CONTROL}.npz"
    attnviz.save(name, attnviz.AttentionInputs(**{**vars(inputs), "tokens": [[CONTROL, "b", "\u2028", "d"]]}))
    commands = [
        ["score", name], ["score", name, "--format", "markdown"], ["stats", name], ["explain", name], ["show", name], ["pattern", name],
        ["inspect", name], ["diff", name, "--b-causal"], ["score", f"no{CONTROL}"], ["score", name, "--head", CONTROL],
        ["score", name, f"--{CONTROL}"], [CONTROL], ["plot", name, "-o", "a.svg", "--title", CONTROL],
        ["plot", name, "-o", "b.svg", "--strip", "b"], ["overview", name, "-o", "c.svg"], ["pattern", name, "-o", "d.svg"],
        ["stats", name, "-o", "e.svg"], ["diff", name, "--b-causal", "-o", "f.svg"], ["html", name, "-o", "g.html"],
        ["snapshot", "save", name, "s.json"], ["snapshot", "check", name, "s.json"],
    ]  # fmt: skip
    for arguments in commands:
        result = run(*arguments)
        assert result.code in (0, 1, 2), result.err
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", result.out + result.err), arguments
    for picture in folder.glob("*.svg"):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", picture.read_text()), picture


def test_a_name_that_is_not_utf_8(folder):
    attnviz.save("d.npz", small(batch=1))
    os.rename(b"d.npz", b"d\xff.npz")  # noqa: PTH104 (bytes)
    done = subprocess.run([*PROGRAM, "stats", b"d\xff.npz"], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    done = subprocess.run([*PROGRAM, "stats", b"e\xff.npz"], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr.decode()) == (
        2,
        "attnviz: e\N{REPLACEMENT CHARACTER}.npz: there is no such file\n",
    )


@pytest.mark.parametrize(
    "name", ["MPLBACKEND", "WORLD_SIZE", "HOME", "COLUMNS", "TERM", "LC_ALL", "OMP_NUM_THREADS", "RANK"]
)
@pytest.mark.parametrize("value", ["", "x", "-1", "9" * 30, "module://nothing"])
def test_an_odd_environment(tmp_path, name, value):
    environment = {**os.environ, name: value}
    done = subprocess.run(
        [*PROGRAM, "plot", "-o", "x.png"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode in (0, 2)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "x.png").exists() == (done.returncode == 0)
