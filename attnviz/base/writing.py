"""Output files that are whole or not there at all."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attnviz.base.errors import InputError
from attnviz.base.words import printable

PICTURES = (".png", ".pdf", ".svg")
"""What figures are written as."""


class Stdout(type(Path())):  # type: ignore[misc]
    """Stands for stdout where a file's path is wanted: ``-``, with the suffix that says the format."""

    def __str__(self) -> str:
        return "stdout"


def as_path(path: str | Path) -> Path:
    """A path of what may be a name; stdout stays stdout. Raises InputError for what is no name of a file."""
    if not isinstance(path, str | os.PathLike):
        raise InputError(
            f"a file's name comes first, then what it is to hold; what came first is of type {type(path).__name__}"
        )
    return path if isinstance(path, Path) else Path(path)


def is_stdout(path: Path | None) -> bool:
    """Whether an output is stdout, which then is no place for anything else."""
    return isinstance(path, Stdout)


def free_bytes(path: Path) -> int | None:
    """Bytes that the disk of an output has room for; None where it is no file."""
    target = Path(os.path.realpath(path))
    try:
        if isinstance(path, Stdout) or (target.exists() and not target.is_file()) or not target.parent.is_dir():
            return None
    except OSError:  # a name that can't be: whoever writes says so
        return None
    return shutil.disk_usage(target.parent).free


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it when the block ends well and removed when it does not.

    A file that is there keeps its permissions, and a link to it stays one. To a pipe, a device or stdout, what was
    written is copied when the block has ended well.

    Raises:
        InputError: the folder is missing or cannot be written.
    """
    target, state = _target(path)
    streamed = isinstance(path, Stdout) or (state is not None and not stat.S_ISREG(state.st_mode))
    try:
        # The suffix stays: libraries choose the format by it.
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem}.", suffix=path.suffix, dir=None if streamed else target.parent
        )
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if streamed:
            _copy(temporary, target)
        else:
            temporary.chmod(0o666 & ~_umask() if state is None else stat.S_IMODE(state.st_mode))
            temporary.replace(target)
    except BrokenPipeError:
        raise  # nobody reads: no fault of the path
    except OSError as error:
        if isinstance(path, Stdout):
            raise  # as what is printed says it
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _target(path: Path) -> tuple[Path, os.stat_result | None]:
    """Where links lead, and what is there."""
    if isinstance(path, Stdout):
        return path, None
    target = _led(path)
    if os.path.isdir(target):  # noqa: PTH112
        raise InputError(f"{path}: is a directory; name a file to write")
    _check_parent(target)
    return target, target.stat() if os.path.exists(target) else None  # noqa: PTH110


def _led(path: Path) -> Path:
    """Where links lead. Raises InputError for one that leads back to itself."""
    # os.path, as pathlib raises for a name that is too long to exist.
    target = Path(os.path.realpath(path)) if os.path.islink(path) else path  # noqa: PTH114
    if os.path.exists(path) and not os.path.exists(target):  # noqa: PTH110
        return path  # /dev/stdout is a link to what has no name
    if os.path.islink(target):  # noqa: PTH114
        raise InputError(f"{path}: is a link that leads back to itself; name another file")
    return target


def _copy(written: Path, target: Path) -> None:
    """Copies a file to what is no file."""
    with written.open("rb") as source:
        if isinstance(target, Stdout):
            sys.stdout.flush()
            binary = None if sys.stdout.isatty() else getattr(sys.stdout, "buffer", None)
            if binary is None:  # a terminal, to which only text goes: see check_output
                sys.stdout.writelines(printable(line.decode(errors="replace")) for line in source)
                sys.stdout.flush()
                return
            shutil.copyfileobj(source, binary)
            binary.flush()
        else:
            with target.open("wb", buffering=0) as stream:
                shutil.copyfileobj(source, stream)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A temporary directory beside ``path``, renamed to it when the block ends well and removed when it does not.

    Raises:
        InputError: there is something at ``path`` that is not an empty directory, or it cannot be written.
    """
    check_new_directory(path)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent))
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_new_directory(path: Path) -> None:
    """Raises InputError where a directory cannot be made: something is there that is not an empty directory."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: exists already; name a directory that does not, or remove it first")
    _check_parent(path)


def _is_on_stdin(path: Path) -> bool:
    """Whether it is this file that comes in on stdin."""
    try:
        given = os.fstat(0)
    except OSError:  # it is closed
        return False
    return stat.S_ISREG(given.st_mode) and os.path.samestat(given, path.stat())


def _check_parent(path: Path) -> None:
    if not os.path.isdir(path.parent):  # noqa: PTH112
        wrong = "is not a directory" if os.path.exists(path.parent) else "does not exist; make it first"  # noqa: PTH110
        raise InputError(f"{path}: the directory {path.parent} {wrong}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_output(path: Path, suffixes: Iterable[str], *, inputs: Iterable[Path] = (), new: bool = False) -> Path:
    """``path``, when it may be written: a known suffix, a directory that is there, and not a file that was read.

    Commands ask before their work, so that a long one doesn't end with a mistyped name.

    Args:
        path: where to write; ``-`` is stdout, in the first of the formats.
        suffixes: of the formats that are written.
        inputs: the files that are read.
        new: whether a file that is there is to be left alone.

    Raises:
        InputError: an unknown suffix, no such directory, the output is an input, or is there and should not be.
    """
    known = tuple(suffixes)
    if str(path) == "-":
        if sys.stdout.isatty() and known[0] not in (".csv", ".json", ".html"):
            raise InputError(f"-: stdout is a terminal, which shows no {known[0]}; send it on: -o - > FILE{known[0]}")
        return Stdout(f"-{known[0]}")
    if path.suffix.lower() not in known:
        raise InputError(f"{path}: unknown suffix {path.suffix!r}; write one of {', '.join(known)}")
    _check_parent(_led(path))
    read = (one for one in inputs if os.path.exists(one))  # noqa: PTH110
    if os.path.exists(path) and (_is_on_stdin(path) or any(path.samefile(one) for one in read)):  # noqa: PTH110
        raise InputError(f"{path}: is an input of this command and would be overwritten; name another output")
    if new and os.path.isfile(path):  # noqa: PTH113
        raise InputError(f"{path}: is there already; add --force to write over it, or name another file")
    return path
