"""Statistics as columns for other programs: data frames of pandas, polars and their like, Parquet, CSV and JSON."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

from attnviz.base.errors import InputError
from attnviz.base.words import json_text
from attnviz.base.writing import atomic

DECIMALS = 6

Columns = dict[str, list[Any]]
"""Columns of one length by name; None where there is no number."""


class HasColumns(Protocol):
    """What gives rows of a table: statistics of a head, of its queries or of its keys."""

    def columns(self) -> Columns:
        """Columns by name."""


def joined(parts: Iterable[Columns]) -> Columns:
    """The rows of several tables under one another; a column that one lacks is None there."""
    found: Columns = {}
    size = 0
    for part in parts:
        rows = len(next(iter(part.values()), []))
        for name in {**found, **part}:
            found.setdefault(name, [None] * size).extend(part.get(name, [None] * rows))
        size += rows
    return found


def frame(rows: Sequence[HasColumns] | Columns, backend: str = "pandas") -> Any:
    """Statistics as a data frame, a row a head, a query or a key.

    Args:
        rows: what :func:`attnviz.head_statistics`, :func:`attnviz.query_statistics` or :func:`attnviz.weight_received` gives,
            or columns by name.
        backend: ``pandas``, ``polars``, ``pyarrow``, ``modin`` or ``cudf``, whichever is installed.

    Raises:
        InputError: narwhals, or the backend, isn't installed.

    >>> import attnviz
    >>> table = frame(attnviz.head_statistics(attnviz.synthesize(heads=2), "causal"))
    >>> table.shape[0], [*table.columns][:4]
    (2, ['layer', 'head', 'queries', 'entropy'])
    """
    return _narwhals_frame(rows, backend).to_native()


def _narwhals_frame(rows: Sequence[HasColumns] | Columns, backend: Any) -> Any:
    try:
        import narwhals
    except ImportError as error:
        raise InputError("data frames need narwhals; pip install 'attnviz[frames]'") from error
    columns = rows if isinstance(rows, dict) else joined(row.columns() for row in rows)
    try:
        return narwhals.from_dict(_alike(columns), backend=backend)
    except ImportError as error:
        raise InputError(f"a frame of {backend} needs it installed; pip install {backend}") from error
    except (ValueError, AttributeError, AssertionError) as error:  # the last of narwhals 2.0
        raise InputError(
            f"backend {backend!r} is none that narwhals knows: pandas, polars, pyarrow, modin or cudf"
        ) from error


def _alike(columns: Columns) -> Columns:
    """Columns whose values are of one kind: numbers as floats where any is, labels of layers as text where any is."""
    found: Columns = {}
    for name, values in columns.items():
        kinds = {type(value) for value in values if value is not None}
        if kinds == {int, float}:
            found[name] = [None if value is None else float(value) for value in values]
        elif str in kinds and len(kinds) > 1:
            found[name] = [None if value is None else str(value) for value in values]
        else:
            found[name] = values
    return found


def write_parquet(path: Path, columns: Columns) -> None:
    """Writes columns as Parquet, by polars or pyarrow, whichever is installed.

    Raises:
        InputError: neither is, or the path can't be written.
    """
    for backend in ("polars", "pyarrow"):
        try:
            made = _narwhals_frame(columns, backend)
        except InputError:
            continue
        with atomic(path) as temporary:
            made.write_parquet(temporary)
        return
    raise InputError(
        f"{path}: Parquet is written by polars or pyarrow, and by narwhals; pip install 'attnviz[frames]' polars"
    )


def columns_csv(columns: Columns) -> str:
    """Columns as CSV, rounded to a fixed number of decimals; empty where there is no number."""
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow([f"{value + 0.0:.{DECIMALS}f}" if isinstance(value, float) else value for value in row])
    return stream.getvalue()


def columns_json(columns: Columns, kind: str, source: str, pattern: str) -> str:
    """Columns as one line of JSON, an object a row under ``kind``; ``docs/statistics.md`` gives the schema."""
    rows = [
        {
            name: round(value, DECIMALS) if isinstance(value, float) else value
            for name, value in zip(columns, row, strict=True)
        }
        for row in zip(*columns.values(), strict=True)
    ]
    document = {"schema": "attnviz.stats/2", "source": source, "pattern": pattern, "decimals": DECIMALS, kind: rows}
    return json_text(document) + "\n"
