"""How the program ends where its output cannot be written, or nobody reads it: as a process, as a user sees it."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import attnviz
from attnviz.sources.files import spooled
from tests import warm
from tests.cases import small

PROGRAM = [warm.python(), "-m", "attnviz"]


def ends(*arguments: str, **options) -> tuple[int, list[str]]:
    """The exit code and the lines on stderr, without the note on the synthetic case."""
    done = subprocess.run([*PROGRAM, *arguments], stderr=subprocess.PIPE, text=True, timeout=120, **options)
    return done.returncode, [line for line in done.stderr.splitlines() if "no SOURCE" not in line]


@pytest.mark.sweep(keep=1)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here is always full")
@pytest.mark.parametrize("arguments", [["score"], ["score", "--format", "json"], ["--version"]])
def test_a_full_disk_behind_stdout(arguments):
    with open("/dev/full", "w") as full:  # noqa: PTH123 (a device)
        code, lines = ends(*arguments, stdout=full)
    assert (code, lines) == (2, ["attnviz: the output cannot be written: No space left on device"])


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("arguments", [["score"], ["score", "--format", "csv"], ["diff", "--b-pattern", "full"]])
def test_a_reader_that_left_is_no_error_and_no_difference(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    code, lines = ends(*arguments, stdout=writer)
    os.close(writer)
    assert (code, lines) == (141, [])


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
def test_a_file_that_the_disk_has_no_room_for(tmp_path, suffix):
    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    out = tmp_path / f"out{suffix}"
    code, lines = ends("synth", str(out), "--tokens", "200", preexec_fn=little_room, stdout=subprocess.DEVNULL)
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith(f"attnviz: {out}: cannot be written")
    assert list(tmp_path.iterdir()) == []


def test_tensors_that_no_memory_holds(refused):
    refused("synth", "x.npz", "--heads", "99999999", "--tokens", "99999999", says="more memory than there is")


class Endless(io.RawIOBase):
    """What is read of a device that never ends: more than a little is a failure."""

    taken = 0

    def readable(self) -> bool:
        return True

    def readinto(self, room) -> int:
        self.taken += len(room)
        assert self.taken < 1 << 20, "it is read on and on"
        room[:] = bytes(len(room))
        return len(room)


@pytest.fixture
def given(monkeypatch) -> Iterator[Callable[[io.RawIOBase | bytes | None], None]]:
    """Gives the program a stdin."""

    def give(content: io.RawIOBase | bytes | None) -> None:
        spooled.cache_clear()
        stream = io.BufferedReader(content) if isinstance(content, io.RawIOBase) else io.BytesIO(content or b"")
        monkeypatch.setattr(sys, "stdin", None if content is None else io.TextIOWrapper(stream))

    yield give
    spooled.cache_clear()


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
def test_a_dump_on_stdin_is_known_by_its_begin(run, folder, given, suffix):
    attnviz.save(f"d{suffix}", small(batch=1))
    plain = run("score", f"d{suffix}", "--format", "json")
    given(Path(f"d{suffix}").read_bytes())
    piped = run("score", "-", "--format", "json")
    assert (piped.code, json.loads(piped.out)["items"]) == (0, json.loads(plain.out)["items"])


@pytest.mark.parametrize(
    "command", [["score", "-"], ["inspect", "-"], ["capture", "no", "--file", "-", "-o", "x.safetensors"]]
)
def test_a_stdin_that_is_closed_never_ends_or_is_no_dump_is_refused(refused, folder, given, command, monkeypatch):
    monkeypatch.setattr("attnviz.cli.commands.capture._MOST_TEXT", 1 << 16)
    for content in (None, Endless(), b"", b"no dump"):
        given(content)
        if command[0] != "capture" or not isinstance(content, bytes):
            refused(*command, says="--file -: " if command[0] == "capture" else "")


def test_a_text_that_never_ends_is_refused(refused, folder):
    refused("capture", "no", "--file", "/dev/zero", "-o", "x.safetensors", says="which no model reads")


def test_an_output_that_is_on_stdin_is_not_overwritten(folder):
    attnviz.save("d.npz", small(batch=1))
    before = Path("d.npz").read_bytes()
    with Path("d.npz").open("rb") as file:
        code, lines = ends("score", "-", "-o", "d.npz", stdin=file, stdout=subprocess.DEVNULL)
    assert (code, lines) == (
        2,
        ["attnviz: d.npz: is an input of this command and would be overwritten; name another output"],
    )
    assert Path("d.npz").read_bytes() == before
    with open(os.devnull) as nothing:  # noqa: PTH123 (a device)
        Path("null.csv").symlink_to(os.devnull)
        assert ends("score", "d.npz", "-o", "null.csv", stdin=nothing, stdout=subprocess.DEVNULL)[0] == 0
