"""Snapshots as files that a reviewer reads: JSON with a row of cells a line, or .npz where they are large."""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attnviz.base.errors import InputError
from attnviz.base.types import Cells
from attnviz.base.words import json_text
from attnviz.base.writing import atomic
from attnviz.compare.rounding import Tolerance
from attnviz.compare.snapshots.snapshot import VERSION, HeadSnapshot, Snapshot
from attnviz.sources.files import METADATA, TensorFile, open_tensors, parsed_json, write_tensors

SCHEMAS = {f"attnviz.snapshot/{version}": version for version in range(1, VERSION + 1)}
SUFFIXES = (".json", ".npz")
MOST_CELLS = 64
"""Cells a side beyond which nobody reviews text."""

_BEGIN = re.compile(r'\s*\{\s*"schema":\s*"attnviz\.snapshot/')

_LARGEST = float(np.finfo(np.float32).max)

_MOST_BYTES = 64 << 20  # of a JSON file: it is read whole


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Writes a snapshot, whole or not at all; the format is the suffix's.

    Raises:
        InputError: an unknown suffix, too many cells for text, or a path that cannot be written.
    """
    if path.suffix.lower() == ".npz":
        tensors = {
            f"head.{one.head}.{name}": torch.from_numpy(np.ascontiguousarray(cells))
            for one in snapshot.heads
            for name, cells in one.cells.items()
        }
        # JSON text, so that the key order and the numbers of the two formats are one.
        write_tensors(path, tensors, _described(snapshot, cells=False))
        return
    text = snapshot_text(snapshot)
    if path.suffix.lower() != ".json":
        raise InputError(f"{path}: unknown suffix {path.suffix!r}; write one of {', '.join(SUFFIXES)}")
    largest = max((max(cells.shape) for one in snapshot.heads for cells in one.cells.values()), default=0)
    if largest > MOST_CELLS:
        raise InputError(
            f"{path}: {largest} cells a side are too many to review as text, the most is {MOST_CELLS}; "
            f"write .npz, or keep fewer cells"
        )
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def snapshot_text(snapshot: Snapshot) -> str:
    """The JSON of a snapshot: a setting, a statistic or a row of cells a line, numbers rounded to its digits."""
    return _lines(_described(snapshot, cells=True)) + "\n"


def read_snapshot(path: Path) -> Snapshot:
    """The snapshot in a file.

    Raises:
        InputError: there is no such file, or it is no snapshot.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: unknown suffix {path.suffix!r}; a snapshot is {' or '.join(SUFFIXES)}")
    arrays: dict[str, Cells] | None = None
    if path.suffix.lower() == ".npz":
        file = open_tensors(path)
        arrays = {name: _numbers(file, name) for name in file.contents if name != METADATA}
        document: Any = dict(file.metadata)
    else:
        try:
            document = parsed_json(_text(path))
        except FileNotFoundError as error:
            raise InputError(f"{path}: there is no such file; make it with attnviz snapshot save") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: is not JSON: {error}; write it again (attnviz snapshot save)") from error
    try:
        return _snapshot(document, arrays)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        schema = document.get("schema") if isinstance(document, dict) else None
        found = f"its schema is {schema!r}" if schema not in list(SCHEMAS) else f"{type(error).__name__}: {error}"
        raise InputError(
            f"{path}: is not a snapshot ({found}), wanted schema {list(SCHEMAS)[-1]!r}; write it again (attnviz snapshot save)"
        ) from error


def _numbers(file: TensorFile, name: str) -> Cells:
    found = file.read(name)
    if found.is_complex():
        raise InputError(
            f"{file.path}: {name} holds complex numbers, which no snapshot has; write it again (attnviz snapshot save)"
        )
    return found.double().numpy()


def is_snapshot(path: Path) -> bool:
    """Whether a file is a snapshot, damaged or not: whether it says so where a snapshot says it."""
    try:
        if path.suffix.lower() == ".npz":
            return open_tensors(path).metadata.get("schema") in list(SCHEMAS)
        with path.open(encoding="utf-8") as file:
            return bool(_BEGIN.match(file.read(100)))
    except (InputError, OSError, ValueError):
        return False


def _text(path: Path) -> str:
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise InputError(f"{path}: is no file but a pipe, a device or a directory; a snapshot is a file")
    if state.st_size > _MOST_BYTES:
        raise InputError(f"{path}: has {state.st_size:,} bytes, which is no snapshot's size; large ones are .npz")
    return path.read_text(encoding="utf-8")


def _described(snapshot: Snapshot, *, cells: bool) -> dict[str, Any]:
    def number(value: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return None
        if snapshot.rule is None:
            rounded = round(float(value), snapshot.digits) + 0.0  # never -0.0
        else:
            rounded = float(f"{value:.{snapshot.digits}g}") + 0.0
        return int(rounded) if rounded == int(rounded) else rounded

    document: dict[str, Any] = {"schema": f"attnviz.snapshot/{snapshot.version}", "settings": snapshot.settings}
    if snapshot.rule is None:
        document["decimals"] = snapshot.digits
    else:
        document |= {"rule": snapshot.rule.said, "digits": snapshot.digits}
    document["queries"] = [snapshot.queries.start, snapshot.queries.stop]
    keys = snapshot.keys
    document |= {"keys": [keys.start, keys.stop]} if isinstance(keys, range) else {"global_keys": list(keys)}
    for name, tokens in (("query_tokens", snapshot.query_tokens), ("key_tokens", snapshot.key_tokens)):
        if tokens is not None:
            document[name] = list(tokens)
    document["heads"] = [
        {
            "head": one.head,
            "statistics": {name: number(value) for name, value in one.statistics.items()},
            **({} if one.seeing is None else {"seeing": list(one.seeing)}),
            **(
                {name: [[number(value) for value in row] for row in grid.tolist()] for name, grid in one.cells.items()}
                if cells
                else {"cells": list(one.cells)}
            ),
        }
        for one in snapshot.heads
    ]
    return document


def _snapshot(document: Any, arrays: dict[str, Cells] | None) -> Snapshot:
    version = SCHEMAS[document["schema"]]
    queries = range(*map(_whole, document["queries"]))
    keys: Sequence[int] = (
        range(*map(_whole, document["keys"])) if "keys" in document else tuple(map(_whole, document["global_keys"]))
    )
    if not queries or not keys:
        raise ValueError("it covers no positions")
    heads = []
    for one in document["heads"]:
        head = _whole(one["head"])
        if arrays is None:
            grids = {name: _grid(value) for name, value in one.items() if name not in ("head", "statistics", "seeing")}
        else:
            grids = {name: arrays[f"head.{head}.{name}"] for name in one["cells"]}
        for name, grid in grids.items():
            if grid.ndim != 2 or not 0 < grid.shape[0] <= len(queries) or not 0 < grid.shape[1] <= len(keys):
                raise ValueError(f"{name} of head {head} has shape {grid.shape}")
        numbers = {name: None if value is None else float(value) for name, value in one["statistics"].items()}
        heads.append(HeadSnapshot(head, numbers, grids, _counts(one.get("seeing"), grids)))
    settings = dict(document["settings"])
    if settings["values"] not in ("weights", "logits"):
        raise ValueError(f"values {settings['values']!r}")
    tokens = [_texts(document.get(name), len(at)) for name, at in (("query_tokens", queries), ("key_tokens", keys))]
    rule = None if version == 1 else _rule(document.get("rule"))
    return Snapshot(settings, queries, keys, tokens[0], tokens[1], heads, version, rule)


def _rule(value: Any) -> Tolerance | None:
    if value is None:
        return None
    numbers = float(value["atol"]), float(value["rtol"])
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError(f"rule {value!r}")
    return Tolerance(*numbers)


def _counts(value: Any, grids: dict[str, Cells]) -> tuple[int, ...] | None:
    if value is None:
        return None
    if any(len(grid) != len(value) for grid in grids.values()):
        raise ValueError(f"{len(value)} counts of queries for each row of cells")
    return tuple(map(_whole, value))


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is no position")
    return value


def _grid(rows: Any) -> Cells:
    cells = np.array([[math.nan if value is None else float(value) for value in row] for row in rows], dtype=np.float64)
    if np.nanmax(np.abs(cells), initial=0) > _LARGEST:
        raise ValueError(f"a cell of {np.nanmax(np.abs(cells)):g}, which no weight or logit is")
    return cells


def _texts(value: Any, count: int) -> list[str] | None:
    if value is None:
        return None
    if len(value) != count or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{len(value)} tokens for {count} positions")
    return list(value)


def _lines(value: Any, depth: int = 0) -> str:
    """JSON with an entry a line, down to lists of plain values, which stay on one."""
    plain = not isinstance(value, (dict, list)) or (
        isinstance(value, list) and not any(isinstance(one, (dict, list)) for one in value)
    )
    if plain or not value:
        return json_text(value, spaced=True)
    inside, outside = "  " * (depth + 1), "  " * depth
    if isinstance(value, dict):
        entries = [f"{json_text(key)}: {_lines(one, depth + 1)}" for key, one in value.items()]
    else:
        entries = [_lines(one, depth + 1) for one in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return opening + "\n" + ",\n".join(inside + entry for entry in entries) + f"\n{outside}{closing}"
