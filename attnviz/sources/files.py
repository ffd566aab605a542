"""Files of named tensors: ``.safetensors``, ``.npz``, ``.npy``, ``.pt``; one small reader a format, one writer.

Opening a file reads its table of contents; a tensor is read when it is asked for. Nothing read from a file is
ever run: no pickles, save torch's own restricted kind (``weights_only=True``).
"""

from __future__ import annotations

import atexit
import json
import math
import os
import os.path
import re
import shutil
import sys
import tempfile
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attnviz.base.errors import InputError, close_to, is_memory
from attnviz.base.words import json_text
from attnviz.base.writing import atomic

if TYPE_CHECKING:
    from torch import Tensor

METADATA = "attnviz"
"""The name under which every format holds attnviz's own description of a file, as JSON."""


_NOT_NUMBERS = ("object", "str", "bytes", "void", "datetime", "timedelta")
"""How the names of numpy's other dtypes begin."""


@dataclass(frozen=True)
class TensorInfo:
    """What a file's table of contents says of one tensor."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Size of the data, in bytes."""
        digits = re.search(r"\d+", self.dtype)  # the first: float8_e4m3fn has 8 bits
        bits = 8 if self.dtype == "bool" else int(digits[0]) if digits else 0
        return math.prod(self.shape) * bits // 8

    @property
    def is_possible(self) -> bool:
        """Whether a tensor can have this shape: a header can say any numbers, of 400 digits and below 0."""
        return all(0 <= size <= sys.maxsize for size in self.shape) and self.bytes <= sys.maxsize


class TensorFile(ABC):
    """An opened file of named tensors."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def contents(self) -> Mapping[str, TensorInfo]:
        """Every tensor's shape and dtype, in the file's order."""
        with _reading(self.path):
            contents = self._contents()
            wrong = next((name for name, info in contents.items() if not info.is_possible), None)
            if wrong is not None:
                raise ValueError(f"{wrong} has a shape that no tensor has")
            return contents

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """What attnviz wrote beside the tensors (labels, scale, ...); empty for other files."""
        with _reading(self.path):
            text = self._metadata()
            metadata = {} if text is None else parsed_json(text)
        if not isinstance(metadata, dict):
            raise InputError(f"{self.path}: its {METADATA!r} metadata is not a JSON object; write the file again")
        return metadata

    def read(self, name: str) -> Tensor:
        """The tensor called ``name``, on the CPU.

        Raises:
            InputError: it is not there (says what is), or the file is damaged.
        """
        if name not in self.contents:
            raise InputError(f"{self.path}: there is no tensor {name!r}; {describe(self.contents)}")
        kind = self.contents[name].dtype
        if kind.startswith(_NOT_NUMBERS):
            raise InputError(f"{self.path}: {name} holds {kind}, not numbers; attnviz reads no pickles and no text")
        self._check_size(name)
        from attnviz.attention.arrays import as_tensor  # it imports torch

        with _reading(self.path):
            tensor = self._read(name)
        return as_tensor(tensor, f"{self.path}: {name}")

    def _check_size(self, name: str) -> None:
        """Raises InputError for a tensor that is small in the file and larger than this machine's memory."""
        from attnviz.base.devices import memory_of_machine  # it imports torch

        size, kept = self.contents[name].bytes, self.path.stat().st_size
        if size > max(kept, memory_of_machine()):
            raise InputError(
                f"{self.path}: {name} of shape {self.contents[name].shape} would take {size / 1e9:,.1f} GB, and the file "
                f"has {kept:,} bytes: it repeats one value, or was made to fill the memory; save what is to be seen"
            )

    @abstractmethod
    def _contents(self) -> Mapping[str, TensorInfo]: ...

    @abstractmethod
    def _metadata(self) -> str | None: ...

    @abstractmethod
    def _read(self, name: str) -> Tensor: ...


class SafetensorsFile(TensorFile):
    """``.safetensors``: a JSON header, then the data, which is mapped and read where it is touched."""

    def _contents(self) -> Mapping[str, TensorInfo]:
        contents = {}
        with self._opened("numpy") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                part = file.get_slice(name)
                code = part.get_dtype()
                spelled = code.replace("F", "float").replace("U", "uI").replace("I", "int").replace("C", "complex")
                contents[name] = TensorInfo(
                    tuple(part.get_shape()), {"BF16": "bfloat16", "BOOL": "bool"}.get(code, spelled)
                )
        return contents

    def _metadata(self) -> str | None:
        with self._opened("numpy") as file:
            return (file.metadata() or {}).get(METADATA)

    def _read(self, name: str) -> Tensor:
        with self._opened("pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor

    @contextmanager
    def _opened(self, framework: str) -> Iterator[Any]:
        from safetensors import safe_open

        with _in_utf8(self.path) as path, safe_open(path, framework=framework) as file:
            yield file


class NpzFile(TensorFile):
    """``.npz``: a zip of ``.npy`` arrays; never one that needs a pickle."""

    def _contents(self) -> Mapping[str, TensorInfo]:
        contents = {}
        with zipfile.ZipFile(self.path) as archive:
            for member in archive.namelist():
                name = member.removesuffix(".npy")
                with archive.open(member) as stream:
                    info = _npy_info(stream)
                if name != METADATA:
                    contents[name] = info
        return contents

    def _metadata(self) -> str | None:
        with np.load(self.path, allow_pickle=False) as archive:
            return str(archive[METADATA]) if METADATA in archive.files else None

    def _read(self, name: str) -> Tensor:
        from attnviz.attention.arrays import from_numpy  # it imports torch

        with np.load(self.path, allow_pickle=False) as archive:
            return from_numpy(archive[name], f"{self.path}: {name}")


class NpyFile(TensorFile):
    """``.npy``: one array, called by the file's stem; mapped, not read."""

    def _contents(self) -> Mapping[str, TensorInfo]:
        with self.path.open("rb") as stream:
            info = _npy_info(stream)
            expected = stream.tell() + (0 if info.dtype.startswith(_NOT_NUMBERS) else info.bytes)
        if self.path.stat().st_size < expected:
            raise ValueError(f"truncated: {self.path.stat().st_size} bytes of {expected}")
        return {self.path.stem: info}

    def _metadata(self) -> str | None:
        return None

    def _read(self, name: str) -> Tensor:
        from attnviz.attention.arrays import from_numpy

        return from_numpy(np.load(self.path, allow_pickle=False, mmap_mode="c"), f"{self.path}: {name}")


class TorchFile(TensorFile):
    """``.pt`` and ``.pth``: a dict of tensors that ``torch.save`` wrote, loaded with ``weights_only=True``.

    Those of a tuple or a list are called by their index: ``0``, ``1``, …; those within an entry by both names:
    ``attentions.0``.
    """

    @cached_property
    def _loaded(self) -> dict[str, Any]:
        import torch

        try:
            with warnings.catch_warnings(), _in_utf8(self.path) as path:
                warnings.simplefilter("ignore")  # of the pickle's protocol: what matters is an error
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except Exception as error:
            if is_memory(error):
                raise
            # torch says at length how to load it all the same. A class or function by name is code; what else its
            # restricted unpickler stumbles over is damage.
            named = re.search(r"GLOBAL (\S+)", str(error))
            if named:
                raise InputError(
                    f"{self.path}: holds a pickled {named[1]} besides plain tensors; that could run code, so it was "
                    f"not loaded; save a dict of tensors"
                ) from error
            if "weights_only" in str(error):
                raise ValueError("its pickle cannot be read") from error
            raise
        if isinstance(loaded, torch.Tensor):
            return {self.path.stem: loaded}
        several = (list, tuple, dict)
        whole = isinstance(loaded, list | tuple) and all(isinstance(one, (torch.Tensor, *several)) for one in loaded)
        if not isinstance(loaded, dict) and not (whole and loaded):
            raise InputError(
                f"{self.path}: holds a {type(loaded).__name__}, wanted a dict of tensors, or a tuple or list of them"
            )
        return dict(_entries(loaded))

    def _contents(self) -> Mapping[str, TensorInfo]:
        import torch

        return {
            name: TensorInfo(tuple(value.shape), str(value.dtype).removeprefix("torch."))
            for name, value in self._loaded.items()
            if isinstance(value, torch.Tensor)
        }

    def _metadata(self) -> str | None:
        text = self._loaded.get(METADATA)
        return text if isinstance(text, str) else None

    def _read(self, name: str) -> Tensor:
        tensor: Tensor = self._loaded[name]
        return tensor


def _entries(whole: Any) -> Iterator[tuple[str, Any]]:
    """What a dict, a tuple or a list holds, by name; each of those within it is gone into once, whoever refers to it."""
    known, waiting = {id(whole)}, [("", whole)]
    while waiting:
        before, one = waiting.pop()
        for name, value in one.items() if isinstance(one, dict) else enumerate(one):
            if not isinstance(value, list | tuple | dict):
                yield f"{before}{name}", value
            elif id(value) not in known:
                known.add(id(value))
                waiting.append((f"{before}{name}.", value))


_FORMATS: dict[str, type[TensorFile]] = {
    ".safetensors": SafetensorsFile,
    ".npz": NpzFile,
    ".npy": NpyFile,
    ".pt": TorchFile,
    ".pth": TorchFile,
}

READABLE = tuple(_FORMATS)
WRITABLE = (".safetensors", ".npz", ".pt", ".pth")


_opened: ContextVar[dict[tuple[Path, int, int], TensorFile] | None] = ContextVar("opened", default=None)


@contextmanager
def opened_once() -> Iterator[None]:
    """While the block runs, a file is opened once: its table of contents is read once, however often it is asked for."""
    token = _opened.set({})
    try:
        yield
    finally:
        _opened.reset(token)


_MOST_NEIGHBORS = 10_000
"""Files of a folder among which one is looked for whose name is close: what a person may have meant."""


def _neighbor(path: Path) -> str:
    """What to say of the file that was meant, where there is one of nearly this name."""
    try:
        names = [other.name for other in islice(path.parent.iterdir(), _MOST_NEIGHBORS)]
    except OSError:
        return ""
    return close_to(path.name, (name for name in names if Path(name).suffix.lower() in _FORMATS))


def open_tensors(path: Path) -> TensorFile:
    """The file at ``path``, by its suffix; its table of contents is read.

    Raises:
        InputError: missing, a directory, of an unknown suffix, empty or damaged.
    """
    # os.path, as pathlib raises for a name that is too long to exist.
    if os.path.isdir(path):  # noqa: PTH112
        raise InputError(f"{path}: is a directory; name a file ({', '.join(READABLE)})")
    if not os.path.exists(path):  # noqa: PTH110
        raise InputError(f"{path}: there is no such file{_neighbor(path)}")
    if path.suffix.lower() not in _FORMATS:
        raise InputError(f"{path}: unknown suffix {path.suffix!r}; attnviz reads {', '.join(READABLE)}")
    state = path.stat()
    if state.st_size == 0:
        raise InputError(f"{path}: is empty (0 bytes); was it written to the end?")
    known = _opened.get()
    key = (path, state.st_mtime_ns, state.st_size)
    if known is not None and key in known:
        return known[key]
    file = _FORMATS[path.suffix.lower()](path)
    _ = file.contents
    if known is not None:
        known[key] = file
    return file


@cache
def spooled() -> Path:
    """The file that is on stdin, in a temporary folder that goes when the program ends; its format is seen by its begin.

    Raises:
        InputError: stdin is a terminal or cannot be read.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("-: stdin is a terminal; send a file: attnviz score - < dump.safetensors")
    begin = sys.stdin.buffer.read(_BEGIN)
    if begin and not _known_by(begin):  # what comes may never end
        raise InputError(f"-: stdin is no file of tensors ({', '.join(READABLE)})")
    folder = tempfile.TemporaryDirectory(prefix="attnviz-")
    atexit.register(folder.cleanup)
    path = Path(folder.name, "stdin")
    with path.open("wb") as file:
        file.write(begin)
        shutil.copyfileobj(sys.stdin.buffer, file)
    suffix = _known_by(begin) or ".safetensors"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            suffix = ".npz" if all(name.endswith(".npy") for name in archive.namelist()) else ".pt"
    path = path.rename(path.with_suffix(suffix))
    _SPOOLED.add(path)
    return path


_SPOOLED: set[Path] = set()

_BEGIN = 9
"""Bytes by which a format is known."""


def _known_by(begin: bytes) -> str | None:
    """The suffix of a file that begins so; of an archive, whose list is at its end, that of torch's. None of no format."""
    for letters, suffix in (
        (b"\x93NUMPY", ".npy"),
        (b"PK", ".pt"),
        (b"\x80", ".pt"),
    ):  # the last is a pickle, as torch wrote once
        if begin.startswith(letters):
            return suffix
    return ".safetensors" if begin[8:9] == b"{" else None  # after how long its header is


def is_spooled(path: Path) -> bool:
    """Whether a file was on stdin: nobody can name it again."""
    return path in _SPOOLED


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Writes named tensors, with ``metadata`` as JSON beside them; the format is the suffix's.

    Raises:
        InputError: an unknown suffix, a dtype the format cannot hold, or a path that cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        raise InputError(f"{path}: unknown suffix {path.suffix!r}; write one of {', '.join(WRITABLE)}")
    texts = {} if metadata is None else {METADATA: json_text(metadata, spaced=True)}
    ready: dict[str, Tensor] = {}
    memories: set[int] = set()
    for name, tensor in tensors.items():
        whole = tensor.detach().cpu().contiguous()
        memory = whole.untyped_storage().data_ptr()
        # Two tensors in one memory are written as two: .safetensors refuses them otherwise.
        ready[name] = whole.clone() if memory in memories else whole
        memories.add(memory)
    if suffix == ".npz":
        halves = [name for name, tensor in ready.items() if str(tensor.dtype) == "torch.bfloat16"]
        if halves:
            raise InputError(f"{path}: .npz has no bfloat16, the dtype of {halves[0]}; write .safetensors or .pt")
    with atomic(path) as temporary:
        if suffix == ".npz":
            arrays = {**{name: tensor.numpy() for name, tensor in ready.items()}, **texts}
            with temporary.open("wb") as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]
            return
        try:
            if suffix == ".safetensors":
                from safetensors.torch import save_file

                save_file(ready, temporary, metadata=texts or None)
            else:
                import torch

                torch.save({**ready, **texts}, temporary)
        except Exception as error:  # of their own kinds where a disk is full, and not OSError
            if is_memory(error):
                raise
            reason = str(error).splitlines()[0]
            raise InputError(f"{path}: cannot be written (is the disk full?): {reason}") from error


def describe(contents: Mapping[str, TensorInfo]) -> str:
    """``the file holds q (1, 8, 10, 64), ...``: what there is, for an error."""
    if not contents:
        return "the file holds no tensors"
    named = [f"{name} {info.shape}" for name, info in contents.items()]
    return f"the file holds {', '.join(named[:12])}" + (f" and {len(named) - 12} more" if len(named) > 12 else "")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns whatever a format's library says of a damaged file into one line that names the file."""
    try:
        yield
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # a damaged file makes these libraries raise almost anything
        if is_memory(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{path}: is not a readable {path.suffix} file (damaged, truncated or of another format): {reason}"
        ) from error


@contextmanager
def _in_utf8(path: Path) -> Iterator[Path]:
    """A file by a name that is UTF-8, as libraries that are not Python's want it: where its own is not, that of a link."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory(prefix="attnviz-") as folder:
            link = Path(folder, f"file{path.suffix.lower()}")
            link.symlink_to(path.absolute())
            yield link
        return
    yield path


def parsed_json(text: str) -> Any:
    """JSON of a file that anyone may have written: an integer that no machine holds is a float.

    Raises:
        ValueError: it is no JSON, or is nested too deeply.

    >>> parsed_json('{"scale": 1e2, "layers": [12]}'), parsed_json("9" * 400)
    ({'scale': 100.0, 'layers': [12]}, inf)
    """
    try:
        return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 19 else float(digits))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _npy_info(stream: Any) -> TensorInfo:
    """The header of a ``.npy`` stream."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return TensorInfo(tuple(shape), dtype.name)
