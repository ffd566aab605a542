"""Output files are whole or not there at all."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from attnviz.base.errors import InputError
from attnviz.base.writing import atomic, check_output, is_stdout


def write_half(path: Path, error: type[BaseException]) -> None:
    with atomic(path) as temporary:
        temporary.write_text("half")
        raise error


def test_a_block_that_ends_well_leaves_the_file_alone_in_its_folder(tmp_path):
    with atomic(tmp_path / "out.csv") as temporary:
        temporary.write_text("whole")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"out.csv": "whole"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_fails_leaves_nothing(tmp_path, error):
    with pytest.raises(error):
        write_half(tmp_path / "out.csv", error)
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_fails_leaves_an_older_file_as_it_was(tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("old")
    with pytest.raises(ValueError):  # noqa: PT011 (it is ours)
        write_half(out, ValueError)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"out.csv": "old"}


def test_nothing_is_seen_under_the_name_before_the_end(tmp_path):
    out = tmp_path / "out.csv"
    with atomic(out) as temporary:
        temporary.write_text("whole")
        assert not out.exists()


def test_a_file_keeps_its_permissions(tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("old")
    for mode in (0o600, 0o640, 0o444):
        out.chmod(mode)
        with atomic(out) as temporary:
            temporary.write_text("new")
        assert (out.read_text(), out.stat().st_mode & 0o777) == ("new", mode)


@pytest.mark.parametrize("target", ["there.csv", "gone.csv", "folder/there.csv"])
def test_a_link_leads_to_what_is_written(tmp_path, target):
    (tmp_path / "folder").mkdir()
    if "gone" not in target:
        (tmp_path / target).write_text("old")
    (tmp_path / "out.csv").symlink_to(target)
    with atomic(tmp_path / "out.csv") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "out.csv").is_symlink()
    assert (tmp_path / target).read_text() == "new"
    assert len([path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]) == 1


def test_a_pipe_gets_what_is_written_and_stays_one(tmp_path):
    pipe = tmp_path / "out.csv"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_text)
        with atomic(pipe) as temporary:
            temporary.write_text("whole")
        assert read.result(60) == "whole"
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here is always full")
def test_a_device_that_takes_nothing_is_told(tmp_path):
    (tmp_path / "out.csv").symlink_to("/dev/full")
    with (
        pytest.raises(InputError, match=r"out\.csv: cannot be written: No space left"),
        atomic(tmp_path / "out.csv") as temporary,
    ):
        temporary.write_text("whole")
    assert Path("/dev/full").is_char_device()


def test_a_link_that_leads_back_to_itself_is_refused_and_stays(tmp_path):
    one, other = tmp_path / "one.csv", tmp_path / "other.csv"
    one.symlink_to(other)
    other.symlink_to(one)
    for write in (lambda: check_output(one, [".csv"]), lambda: atomic(one).__enter__()):
        with pytest.raises(InputError, match=r"one\.csv: is a link that leads back to itself; name another file"):
            write()
    assert (one.is_symlink(), other.is_symlink()) == (True, True)


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="no /dev/stdout here")
def test_a_link_to_stdout_gets_what_is_written(tmp_path):
    link = tmp_path / "out.csv"
    link.symlink_to("/dev/stdout")
    write = f"from pathlib import Path; from attnviz.base.writing import atomic\nwith atomic(Path({str(link)!r})) as out: out.write_text('whole')"
    done = subprocess.run([sys.executable, "-c", write], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, link.is_symlink()) == ("whole", "", True)


def test_a_dash_is_stdout(tmp_path, capfdbinary):
    out = check_output(Path("-"), (".png", ".svg"))
    with atomic(out) as temporary:
        temporary.write_bytes(b"picture")
    assert capfdbinary.readouterr().out == b"picture"
    assert (out.suffix, str(out), is_stdout(out), is_stdout(Path("-.png"))) == (".png", "stdout", True, False)


def test_a_file_that_is_there_is_left_alone_where_a_new_one_is_wanted(tmp_path):
    (tmp_path / "run.npz").write_text("an hour's work")
    with pytest.raises(InputError, match=r"is there already; add --force"):
        check_output(tmp_path / "run.npz", (".npz",), new=True)
    assert check_output(tmp_path / "other.npz", (".npz",), new=True) == tmp_path / "other.npz"


def test_an_older_file_is_replaced(tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("old and longer")
    with atomic(out) as temporary:
        temporary.write_text("new")
    assert out.read_text() == "new"


def test_the_temporary_path_has_the_suffix_and_the_folder_of_the_output(tmp_path):
    with atomic(tmp_path / "out.safetensors") as temporary:
        assert (temporary.suffix, temporary.parent) == (".safetensors", tmp_path)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_new_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with atomic(tmp_path / "out.csv") as temporary:
            temporary.write_text("x")
    finally:
        os.umask(before)
    assert (tmp_path / "out.csv").stat().st_mode & 0o777 == mode


def test_a_full_disk_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match=r"out.csv: cannot be written: No space left"), atomic(tmp_path / "out.csv"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path_without_a_folder_is_in_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with atomic(Path("out.csv")) as temporary:
        temporary.write_text("x")
    assert (tmp_path / "out.csv").exists()


def test_an_output_may_replace_a_file_that_is_no_input(tmp_path):
    out, read = tmp_path / "out.npz", tmp_path / "in.npz"
    out.touch()
    read.touch()
    assert check_output(out, (".npz",), inputs=[read]) == out


def test_a_suffix_may_be_in_capitals(tmp_path):
    assert check_output(tmp_path / "OUT.NPZ", (".npz",))


def test_an_input_that_is_missing_does_not_matter_here(tmp_path):
    out = tmp_path / "out.npz"
    assert check_output(out, (".npz",), inputs=[tmp_path / "gone.npz", out]) == out


def test_an_output_that_is_an_input_is_refused(tmp_path):
    read, folder = tmp_path / "in.npz", tmp_path / "folder"
    read.touch()
    folder.mkdir()
    with pytest.raises(InputError, match=r"in\.npz: is an input of this command"):
        check_output(folder / ".." / "in.npz", (".npz",), inputs=[read])


def test_a_directory_that_is_not_there_is_told_before_the_work(tmp_path):
    with pytest.raises(InputError, match=r"the directory .*gone does not exist; make it first"):
        check_output(tmp_path / "gone" / "out.png", [".png"])
