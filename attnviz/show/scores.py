"""Scores as text and files for programs: JSON with a versioned schema, CSV, Markdown, tensors.

All are written in pieces, a part of a head at a time, so that scores that are computed as they are read
(:class:`~attnviz.engine.scores.ScoreStream`) are never in memory whole. What a query does not see is ``null`` in JSON and
empty in CSV.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnviz.base.devices import dtype_name
from attnviz.base.errors import InputError
from attnviz.base.words import json_text
from attnviz.base.writing import atomic, free_bytes
from attnviz.engine.scores import AttentionScores, ScoreStream
from attnviz.show.exports import DECIMALS, decimal
from attnviz.show.terminal.tables import column_names, head_title, number_text, query_labels
from attnviz.sources.streams import Parts, write_parts

SCHEMA = "attnviz.scores/2"
SUFFIXES = (".safetensors", ".npz", ".csv", ".json")

Results = Sequence[AttentionScores | ScoreStream]
"""Scores of some batch items, computed or still to be."""

_TENSORS = ("scores", "weights", "global_scores", "global_weights")


def to_json(results: Results) -> str:
    """Scores and weights as one line of JSON and a newline; ``docs/formats.md`` gives the schema."""
    return "".join(json_pieces(results))


def json_pieces(results: Results) -> Iterator[str]:
    """The pieces of :func:`to_json`."""
    first = results[0].frame
    document = {
        "schema": SCHEMA,
        "source": first.item.inputs.source,
        "pattern": first.pattern_name,
        "scale": None if first.item.given else round(first.item.scale, 12),
        **({} if first.measured is None else {"measured": first.measured}),
        "dtype": dtype_name(first.item.dtype),
        "decimals": DECIMALS,
    }
    yield _line(document)[:-1] + ',"items":['
    for n, result in enumerate(results):
        yield ("," if n else "") + _line(_item(result.frame))[:-1] + ',"heads":['
        for place, head in enumerate(result.frame.heads):
            yield ("," if place else "") + f'{{"head":{head}'
            for name in _names(result.frame):
                yield f',"{name}":['
                first_rows = True
                for part in result.parts(head):
                    rows = _line(_rounded(_shown(part, name)))[1:-1]
                    yield rows if first_rows or not rows else "," + rows
                    first_rows &= not rows
                yield "]"
            yield "}"
        yield "]}"
    yield "]}\n"


def _line(document: Any) -> str:
    return json_text(document)


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
        described["first_query"] = result.rows[0]
    labels = item.query_labels(result.rows)
    if labels is not None:
        described["query_tokens"] = labels
        described["position_tokens"] = item.key_labels(positions)
    if len(result.global_queries):
        described["global_queries"] = result.global_queries.tolist()
    return described


def _names(result: AttentionScores) -> list[str]:
    """The tensors there are, by the names that files give them."""
    return [name for name in _TENSORS if getattr(result, name) is not None]


def _shown(part: AttentionScores, name: str) -> Tensor:
    """One head's numbers as they are shown."""
    return part.shown("weights" if "weights" in name else "logits", of_global=name.startswith("global_"))[0]


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


def to_csv(results: Results) -> str:
    """A row a (batch, head, query, key): positions, tokens where there are any, score and weight."""
    return "".join(csv_pieces(results))


def csv_pieces(results: Results) -> Iterator[str]:
    """The pieces of :func:`to_csv`."""
    yield "batch,head,query,query_token,key,key_token,score,weight\n"
    for result in results:
        for head in result.frame.heads:
            for part in result.parts(head):
                stream = StringIO()
                csv.writer(stream, lineterminator="\n").writerows(_csv_rows(part))
                yield stream.getvalue()


def _csv_rows(result: AttentionScores) -> Iterable[list[Any]]:
    item, head = result.item, result.heads[0]
    query_tokens = item.query_labels(result.rows)
    key_tokens = item.key_labels(range(item.S))
    rows_apart = {query: r for r, query in enumerate(result.global_queries.tolist())}
    numbers = {name: _shown(result, name) for name in _names(result)}
    plain, apart = ([numbers.get(of + name) for name in ("scores", "weights")] for of in ("", "global_"))
    for row, query in enumerate(result.rows):
        token = "" if query_tokens is None else query_tokens[row]
        keys: Sequence[int | None] = range(item.S) if query in rows_apart else result.key_positions(query)
        which, at = (apart, rows_apart[query]) if query in rows_apart else (plain, row)
        scores, weights = ([None] * len(keys) if one is None else one[at].tolist() for one in which)
        for key, score, weight in zip(keys, scores, weights, strict=True):
            if key is None or not math.isfinite(weight if score is None else score):
                continue
            key_token = "" if key_tokens is None else key_tokens[key]
            yield [item.batch, head, query, token, key, key_token, decimal(score), decimal(weight)]


def to_markdown(result: AttentionScores | ScoreStream, head: int, *, values: str = "weights") -> str:
    """One head as a Markdown table, in full."""
    return "".join(markdown_pieces(result, head, values=values))


def markdown_pieces(result: AttentionScores | ScoreStream, head: int, *, values: str = "weights") -> Iterator[str]:
    """The pieces of :func:`to_markdown`."""
    frame = result.frame
    yield f"**{head_title(frame, head)} · {values}**\n\n"
    yield from _markdown_table(column_names(frame), result.parts(head), values, of_global=False)
    if len(frame.global_queries):
        yield f"\n**{head_title(frame, head)} · {values} of global queries**\n\n"
        every = [f"pos {position}" for position in range(frame.item.S)]
        yield from _markdown_table(every, result.parts(head), values, of_global=True)


def _markdown_table(
    columns: Sequence[str], parts: Iterable[AttentionScores], values: str, *, of_global: bool
) -> Iterator[str]:
    yield f"| {' | '.join(['query', *columns])} |\n|{'|'.join([':--', *('--:' for _ in columns)])}|\n"
    for part in parts:
        labels = query_labels(part, part.global_queries.tolist() if of_global else part.rows)
        for label, row in zip(labels, part.shown(values, of_global=of_global)[0].tolist(), strict=True):
            cells = [number_text(number) for number in row]
            yield "| " + " | ".join([label.replace("|", r"\|"), *cells]) + " |\n"


def size_of(results: Results) -> int:
    """Bytes of all numbers that there are, or are to be computed."""
    return sum(part.bytes for name, part in _parts(results).items())


def write_results(path: Path, results: Results) -> None:
    """Writes the full results; tensors get a ``.{b}`` suffix each when there are several batch items.

    Raises:
        InputError: an unknown suffix, a path that cannot be written, or more than the disk has room for.
    """
    suffix = path.suffix.lower()
    if suffix in (".csv", ".json"):
        write_pieces(path, csv_pieces(results) if suffix == ".csv" else json_pieces(results))
        return
    first, size, free = results[0].frame, size_of(results), free_bytes(path)
    if free is not None and size > free:
        raise InputError(
            f"{path}: would take {size / 1e9:,.1f} GB, and the disk has {free / 1e9:,.1f} GB free; take fewer heads (--head 0) "
            f"or a part of the queries (--queries 0:1000)"
        )
    metadata = {
        "kind": SCHEMA,
        "source": first.item.inputs.source,
        "pattern": first.pattern_name,
        "scale": None if first.item.given else first.item.scale,
        **({} if first.measured is None else {"measured": first.measured}),
        "heads": list(first.heads),
        "batch": [result.frame.item.batch for result in results],
    }
    write_parts(path, _parts(results), metadata)


def _parts(results: Results) -> dict[str, Parts]:
    """The tensors of a file, each as the parts it is written in."""
    found: dict[str, Parts] = {}
    for result in results:
        frame = result.frame
        mark = f".{frame.item.batch}" if len(results) > 1 else ""
        extra = {"positions": frame.positions}
        if len(frame.rows) < frame.item.T:
            extra["queries"] = torch.tensor(list(frame.rows))
        if frame.offsets:
            extra["offsets"] = torch.tensor(list(frame.offsets))
        if len(frame.global_queries):
            extra["global_queries"] = frame.global_queries
        found |= {name + mark: Parts.of(tensor) for name, tensor in extra.items()}
        for name in _names(frame):
            tensor = getattr(frame, name)
            shape = (len(frame.heads), *tensor.shape[1:])
            found[name + mark] = Parts(shape, tensor.dtype, partial(_rows, result, name))
    return found


def _rows(result: AttentionScores | ScoreStream, name: str) -> Iterator[Tensor]:
    for head in result.frame.heads:
        for part in result.parts(head):
            yield getattr(part, name)


def write_pieces(path: Path, pieces: Iterable[str]) -> None:
    """Writes text as it comes, whole or not at all. Raises InputError where it cannot be written."""
    with (
        atomic(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
    ):
        file.writelines(pieces)
