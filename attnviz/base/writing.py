"""Output files that are whole or not there at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attnviz.base.errors import InputError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it when the block ends well and removed when it does not.

    Raises:
        InputError: the folder is missing or cannot be written.
    """
    # os.path, as pathlib raises for a name that is too long to exist.
    if os.path.isdir(path):  # noqa: PTH112
        raise InputError(f"{path}: is a directory; name a file to write")
    _check_parent(path)
    try:
        # The suffix stays: libraries choose the format by it.
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


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


def _check_parent(path: Path) -> None:
    if not os.path.isdir(path.parent):  # noqa: PTH112
        wrong = "is not a directory" if os.path.exists(path.parent) else "does not exist; make it first"  # noqa: PTH110
        raise InputError(f"{path}: the directory {path.parent} {wrong}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_output(path: Path, suffixes: Iterable[str], *, inputs: Iterable[Path] = ()) -> Path:
    """``path``, when it may be written: a known suffix, a directory that is there, and not a file that was read.

    Commands ask before their work, so that a long one doesn't end with a mistyped name.

    Raises:
        InputError: an unknown suffix, no such directory, or the output is an input.
    """
    known = tuple(suffixes)
    if path.suffix.lower() not in known:
        raise InputError(f"{path}: unknown suffix {path.suffix!r}; write one of {', '.join(known)}")
    _check_parent(path)
    for read in inputs:
        if os.path.exists(path) and os.path.exists(read) and path.samefile(read):  # noqa: PTH110
            raise InputError(f"{path}: is an input of this command and would be overwritten; name another output")
    return path
