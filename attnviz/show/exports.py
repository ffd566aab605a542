"""Statistics, comparisons and maps as text and files for programs: JSON with versioned schemas, CSV, tensors.

JSON and CSV round to a fixed number of decimals, so that two runs can be compared by ``diff``.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attnviz.base.bins import bin_edges
from attnviz.base.errors import InputError
from attnviz.base.words import json_text
from attnviz.base.writing import atomic, atomic_directory
from attnviz.compare.audit import Audit
from attnviz.compare.heads import Difference
from attnviz.compare.report import Finding, Report
from attnviz.compare.snapshots.difference import SnapshotDifference
from attnviz.maps.map import AttentionMap
from attnviz.maps.reasons import ReasonMap
from attnviz.measures.explanation import Explanation
from attnviz.measures.statistics import STATISTICS, HeadStatistics
from attnviz.sources.files import write_tensors

DECIMALS = 6


def decimal(value: float | None) -> str:
    """A number with DECIMALS decimals; nothing where there is none.

    >>> decimal(-0.0), decimal(None)
    ('0.000000', '')
    """
    return "" if value is None or not math.isfinite(value) else f"{value + 0.0:.{DECIMALS}f}"


def statistics_json(rows: Sequence[HeadStatistics], source: str, pattern: str, *, tags: bool = False) -> str:
    """Statistics of heads as one line of JSON, rounded to DECIMALS; ``docs/statistics.md`` gives the schema."""
    document = {
        "schema": "attnviz.stats/2",
        "source": source,
        "pattern": pattern,
        "decimals": DECIMALS,
        "heads": [
            {
                name: round(value, DECIMALS) if isinstance(value, float) else value
                for name, value in _in_order(row, tags=tags, hidden=row.left_out is not None)
            }
            for row in rows
        ],
    }
    return json_text(document) + "\n"


def statistics_csv(rows: Sequence[HeadStatistics], *, tags: bool = False) -> str:
    """Statistics of heads, a row a head; empty where a head has none; ``tags``: with each head's tag and its score."""
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    hidden = any(row.left_out is not None for row in rows)
    writer.writerow(_names(tags=tags, hidden=hidden))
    for row in rows:
        numbers = (value for _, value in _in_order(row, tags=tags, hidden=hidden))
        writer.writerow([decimal(value) if isinstance(value, float) else value for value in numbers])
    return stream.getvalue()


_TAGS = ("tag", "tag_score")


def _names(*, tags: bool, hidden: bool) -> list[str]:
    """The columns of statistics; the share that is left out where keys are hidden."""
    return ["layer", "head", "queries", *STATISTICS, *(_TAGS if tags else ()), *(["left_out"] if hidden else [])]


def _in_order(row: HeadStatistics, *, tags: bool, hidden: bool) -> list[tuple[str, Any]]:
    return [(name, getattr(row, name)) for name in _names(tags=tags, hidden=hidden)]


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all. Raises InputError where it cannot be written."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def difference_json(found: Difference, findings: Sequence[Finding] = ()) -> str:
    """A comparison of two maps as one line of JSON; ``docs/diff.md`` gives the schema."""
    heads = []
    for head in found.heads:
        said = asdict(head)
        del said["wrong"]
        heads.append({**said, "within": head.within})
    return _diff_json(
        {
            "a": found.a,
            "b": found.b,
            "values": found.values,
            **{name: [part.start, part.stop - 1] for name, part in found.part.items()},
            "rule": found.rule.said,
            "top_k": found.top_k,
            "within": found.within,
            "heads": heads,
            "findings": [asdict(finding) for finding in findings],
        }
    )


def report_json(report: Report, a: str, b: str, values: str) -> str:
    """The check of a kernel's output as one line of JSON; ``docs/diff.md`` gives the schema."""
    said = report.said
    return _diff_json({"a": a, "b": b, "values": values, "rule": said.pop("rules")[values], **said})


def snapshot_check_json(found: SnapshotDifference, file: str, where: tuple[int, int, float] | None = None) -> str:
    """The check of a snapshot as one line of JSON; ``docs/snapshots.md`` gives the schema.

    Args:
        found: what sets the later snapshot apart.
        file: that of the stored one.
        where: the pair with the largest value of the worst cell.
    """
    cells = [{**asdict(cell), "queries": _ends(cell.queries), "keys": _ends(cell.keys)} for cell in found.cells]
    largest = None if where is None else dict(zip(("query", "key", "value"), where, strict=True))
    return _line(
        {
            "schema": "attnviz.snapshot-check/1",
            "snapshot": file,
            "within": found.within,
            "rule": found.tolerance.said,
            "dtype": found.stored.dtype,
            "note": found.note,
            "settings": found.settings,
            "cells": cells,
            "largest": largest,
            "statistics": [asdict(one) for one in found.statistics],
        }
    )


def audit_json(found: Audit) -> str:
    """An audit of two runs as one line of JSON; ``docs/checking.md`` gives the schema."""
    return _line(found.said)


def explanation_json(found: Explanation) -> str:
    """An explanation as one line of JSON; ``docs/explain.md`` gives the schema."""
    return _line({"schema": "attnviz.explain/1", **asdict(found)})


def reasons_json(maps: Mapping[str, ReasonMap], source: str) -> str:
    """Patterns, a picture each, as one line of JSON; ``docs/patterns.md`` gives the schema.

    Args:
        maps: the pictures by their title.
        source: where the inputs come from.
    """
    pictures = [
        {
            "title": title,
            "pattern": shown.pattern,
            "layer": shown.layer,
            "batch": shown.batch,
            "queries": [shown.queries.start, shown.queries.stop],
            "keys": [shown.keys.start, shown.keys.stop],
            "reasons": shown.reasons,
            "pairs": [
                {"reasons": [name for bit, name in enumerate(shown.reasons) if bits >> bit & 1], "count": count}
                for bits, count in sorted(shown.pairs.items())
            ],
            "cells": shown.cells.tolist(),
        }
        for title, shown in maps.items()
    ]
    return _line({"schema": "attnviz.pattern/1", "source": source, "pictures": pictures})


def _ends(positions: Sequence[int]) -> list[int]:
    return [positions[0], positions[-1]]


def _diff_json(document: dict[str, Any]) -> str:
    return _line({"schema": "attnviz.diff/2", **document})


def _line(document: dict[str, Any]) -> str:
    """A document as one line of JSON, numbers of 7 digits; what is no number is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.6e}") if math.isfinite(value) else None
        if isinstance(value, (list, tuple)):
            return [plain(part) for part in value]
        return {name: plain(part) for name, part in value.items()} if isinstance(value, dict) else value

    return json_text(plain(document)) + "\n"


def write_maps(path: Path, maps: Sequence[AttentionMap], source: str) -> None:
    """Writes reduced maps: ``cells`` (n heads, P, P') float32 and the positions they cover, as .npz or .zarr.

    Raises:
        InputError: zarr is not installed, or the path cannot be written.
    """
    first = maps[0]
    rows, columns = first.cells.shape
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "cells": np.stack([shown.cells for shown in maps]).astype(np.float32),
        "heads": np.array([head for shown in maps for head in shown.heads or (shown.head,)]),
        "row_edges": bin_edges(first.queries, rows),
        "column_edges": bin_edges(first.keys, columns),
    }
    described: dict[str, Any] = {
        "kind": "attnviz.map/1",
        "source": source,
        "pattern": first.pattern,
        "values": first.values,
        "reduce": first.reduce,
    }
    if first.combined is not None:
        described["combined"] = first.combined
    if first.measured is not None:
        described["measured"] = first.measured
    if path.suffix.lower() == ".npz":
        write_tensors(path, {name: torch.from_numpy(array) for name, array in arrays.items()}, described)
        return
    zarr = require_zarr(path)
    with atomic_directory(path) as temporary:
        group = zarr.open_group(temporary, mode="w", attributes=described)
        for name, array in arrays.items():
            group.create_array(name, data=array)


def require_zarr(path: Path) -> Any:
    """The zarr package, which writing ``path`` needs. Raises InputError where it is not installed."""
    try:
        import zarr
    except ImportError as error:
        raise InputError(f"{path}: .zarr needs the package zarr: pip install 'attnviz[zarr]', or write .npz") from error
    return zarr
