"""Results as text and files for programs: JSON with a versioned schema, CSV, Markdown, tensors.

JSON and CSV round to a fixed number of decimals, so that two runs can be compared by ``diff``. What a query does
not see is ``null`` in JSON and empty in CSV.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnviz.base.bins import bin_edges
from attnviz.base.devices import dtype_name
from attnviz.base.errors import InputError
from attnviz.base.writing import atomic, atomic_directory
from attnviz.compare.audit import Audit
from attnviz.compare.heads import Difference
from attnviz.compare.report import Finding, Report
from attnviz.compare.snapshots.difference import SnapshotDifference
from attnviz.engine.scores import AttentionScores
from attnviz.maps.map import AttentionMap
from attnviz.measures.statistics import STATISTICS, HeadStatistics
from attnviz.show.terminal.tables import column_names, head_title, query_labels
from attnviz.sources.files import write_tensors

SCHEMA = "attnviz.scores/2"
DECIMALS = 6
SUFFIXES = (".safetensors", ".npz", ".csv", ".json")


def to_json(results: Sequence[AttentionScores]) -> str:
    """Scores and weights as one line of JSON and a newline; ``docs/formats.md`` gives the schema."""
    first = results[0]
    document = {
        "schema": SCHEMA,
        "source": first.item.inputs.source,
        "pattern": first.pattern_name,
        "scale": None if first.item.given else round(first.item.scale, 12),
        "dtype": dtype_name(first.item.dtype),
        "decimals": DECIMALS,
        "items": [_item(result) for result in results],
    }
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def _item(result: AttentionScores) -> dict[str, Any]:
    item = result.item
    positions = result.positions.tolist()
    described: dict[str, Any] = {
        "batch": item.batch,
        "queries": len(result.rows),
        "positions": positions,
    }
    if result.offsets:
        described["offsets"] = list(result.offsets)
    if len(result.rows) < item.T:
        described["first_query"] = result.rows.start
    labels = item.query_labels(result.rows)
    if labels is not None:
        described["query_tokens"] = labels
        described["position_tokens"] = item.key_labels(positions)
    if len(result.global_queries):
        described["global_queries"] = result.global_queries.tolist()
    described["heads"] = [
        {"head": head, **{name: _rounded(_seen(result, name, tensor, n)) for name, tensor in _named(result)}}
        for n, head in enumerate(result.heads)
    ]
    return described


def _named(result: AttentionScores) -> list[tuple[str, Tensor]]:
    """The result's tensors by the names that files give them."""
    named = (
        ("scores", result.scores),
        ("weights", result.weights),
        ("global_scores", result.global_scores),
        ("global_weights", result.global_weights),
    )
    return [(name, tensor) for name, tensor in named if tensor is not None]


def _seen(result: AttentionScores, name: str, tensor: Tensor, n: int) -> Tensor:
    """One head's numbers, with NaN for the weights of keys that are not visible, where the logits tell."""
    logits = {"weights": result.scores, "global_weights": result.global_scores}.get(name)
    if logits is None and name == "weights" and result.visible is not None:
        return tensor[n].masked_fill(~result.visible[n], math.nan)
    return tensor[n] if logits is None else tensor[n].masked_fill(logits[n] == -math.inf, math.nan)


def _rounded(tensor: Tensor) -> list[Any]:
    """Nested lists rounded to DECIMALS, with None for what is not finite."""
    array = np.round(tensor.detach().cpu().double().numpy(), DECIMALS)
    array += 0.0  # -0.0 becomes 0.0
    finite = np.isfinite(array)
    if not finite.all():
        array = array.astype(object)
        array[~finite] = None
    nested: list[Any] = array.tolist()
    return nested


def to_csv(results: Sequence[AttentionScores]) -> str:
    """A row a (batch, head, query, key): positions, tokens where there are any, score and weight."""
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["batch", "head", "query", "query_token", "key", "key_token", "score", "weight"])
    for result in results:
        writer.writerows(_csv_rows(result))
    return stream.getvalue()


def _csv_rows(result: AttentionScores) -> Iterable[list[Any]]:
    item = result.item
    query_tokens = item.query_labels(result.rows)
    key_tokens = item.key_labels(range(item.S))
    rows_apart = {query: r for r, query in enumerate(result.global_queries.tolist())}
    for n, head in enumerate(result.heads):
        visible = None if result.visible is None else result.visible[n].cpu().tolist()
        scores, weights = (None if t is None else t[n].cpu() for t in (result.scores, result.weights))
        apart = [None if t is None else t[n].cpu() for t in (result.global_scores, result.global_weights)]
        for row, query in enumerate(result.rows):
            if query in rows_apart:
                keys: Sequence[int | None] = range(item.S)
                pair = [None if t is None else t[rows_apart[query]] for t in apart]
            else:
                keys = result.key_positions(query)
                pair = [None if t is None else t[row] for t in (scores, weights)]
            score_row, weight_row = ([None] * len(keys) if t is None else t.double().tolist() for t in pair)
            token = "" if query_tokens is None else query_tokens[row]
            for column, (key, score, weight) in enumerate(zip(keys, score_row, weight_row, strict=True)):
                if key is None or (score is not None and math.isinf(score)):
                    continue  # not visible
                if visible is not None and not visible[row][column]:
                    continue
                key_token = "" if key_tokens is None else key_tokens[key]
                yield [item.batch, head, query, token, key, key_token, _number(score), _number(weight)]


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value + 0.0:.{DECIMALS}f}"


def to_markdown(result: AttentionScores, head: int, *, values: str = "weights") -> str:
    """One head as a Markdown table, in full."""
    tensor = result.values(values)[result.heads.index(head)].cpu().double()
    labels = query_labels(result, result.rows)
    lines = [
        f"**{head_title(result, head)} · {values}**",
        "",
        "| " + " | ".join(["query", *column_names(result)]) + " |",
        "|" + "|".join([":--", *("--:" for _ in range(tensor.shape[1]))]) + "|",
    ]
    for label, row in zip(labels, tensor.tolist(), strict=True):
        cells = ["" if not math.isfinite(number) else f"{number + 0.0:.4f}" for number in row]
        lines.append("| " + " | ".join([label.replace("|", r"\|"), *cells]) + " |")
    return "\n".join(lines) + "\n"


def write_results(path: Path, results: Sequence[AttentionScores]) -> None:
    """Writes the full results; tensors get a ``.{b}`` suffix each when there are several batch items.

    Raises:
        InputError: an unknown suffix, or a path that cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix in (".csv", ".json"):
        write_text(path, to_csv(results) if suffix == ".csv" else to_json(results))
        return
    tensors: dict[str, Tensor] = {}
    for result in results:
        mark = f".{result.item.batch}" if len(results) > 1 else ""
        extra = {"positions": result.positions}
        if len(result.rows) < result.item.T:
            extra["queries"] = torch.tensor(list(result.rows))
        if result.offsets:
            extra["offsets"] = torch.tensor(list(result.offsets))
        if len(result.global_queries):
            extra["global_queries"] = result.global_queries
        for name, tensor in [*_named(result), *extra.items()]:
            tensors[name + mark] = tensor
    first = results[0]
    metadata = {
        "kind": SCHEMA,
        "source": first.item.inputs.source,
        "pattern": first.pattern_name,
        "scale": None if first.item.given else first.item.scale,
        "heads": list(first.heads),
        "batch": [result.item.batch for result in results],
    }
    write_tensors(path, tensors, metadata)


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
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def statistics_csv(rows: Sequence[HeadStatistics], *, tags: bool = False) -> str:
    """Statistics of heads, a row a head; empty where a head has none; ``tags``: with each head's tag and its score."""
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    hidden = any(row.left_out is not None for row in rows)
    writer.writerow(_names(tags=tags, hidden=hidden))
    for row in rows:
        numbers = (value for _, value in _in_order(row, tags=tags, hidden=hidden))
        writer.writerow([_number(value) if isinstance(value, float) else value for value in numbers])
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

    return json.dumps(plain(document), ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


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
