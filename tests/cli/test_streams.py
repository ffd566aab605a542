"""How the program ends where its output cannot be written, or nobody reads it: as a process, as a user sees it."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path

import pytest

from tests import warm

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
