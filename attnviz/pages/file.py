"""The page as a file, from Python: ``attnviz.page``, what ``attnviz html`` is on the command line."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from attnviz.attention.patterns import Pattern
from attnviz.base.errors import InputError
from attnviz.base.selections import parse_bytes
from attnviz.base.spans import Hide, Spans
from attnviz.base.types import Label, Progress
from attnviz.base.writing import as_path, check_output
from attnviz.pages.asked import Shown, asked
from attnviz.pages.html import MOST_BYTES, write_page


def page(
    path: str | Path,
    shown: Shown | Mapping[str, Shown],
    pattern: Pattern | str | None = None,
    *,
    layers: Collection[Label] | None = None,
    heads: Collection[int] | None = None,
    batch: int | Sequence[int] = 0,
    merge: str | None = None,
    spans: Spans | None = None,
    hide: Hide | None = None,
    renormalize: bool = False,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    mean: str | None = None,
    max: str | None = None,
    rollout: bool = False,
    values: str = "weights",
    most: int | str = MOST_BYTES,
    progress: Progress | None = None,
) -> Path:
    """Writes the interactive page of every layer and head, as one file that opens anywhere, offline.

    Args:
        path: the file to write, ``.html``.
        shown: what :func:`attnviz.capture` gave, the inputs of one layer or of several, weights that were given, or a dump;
            or several texts of these by name, among which the page lets choose: ``{"one": run_1, "other": run_2}``.
        pattern: which query sees which key, as a pattern or by name; None is each layer's own, else the global keys.
        layers: which layers of a run or a dump, as numbers or labels; None is all.
        heads: the query heads; None is all.
        batch: the batch item, or several, which the page names.
        merge, spans, hide, renormalize: words, spans and what is left out, as :func:`attnviz.attention_map` takes them.
        device, dtype: as in :func:`attnviz.score`.
        mean, max, rollout, values: one map of the layers or heads, or what else is made of weights, as in
            :func:`attnviz.attention_map`.
        most: the largest file to write, in bytes or as text: ``"1GB"``.
        progress: called with the number of query rows done.

    Returns:
        The file's path.

    Raises:
        InputError: no such layer, head or item; a file that would be larger, or can't be written.

    >>> import attnviz, pathlib, tempfile
    >>> texts = {"one": attnviz.synthesize(heads=2, tokens=20), "other": attnviz.synthesize(heads=2, tokens=30)}
    >>> attnviz.page(pathlib.Path(tempfile.mkdtemp()) / "page.html", texts, "causal").name
    'page.html'
    """
    inputs = [
        Path(one) for one in (shown.values() if isinstance(shown, Mapping) else [shown]) if isinstance(one, str | Path)
    ]
    out = check_output(as_path(path), (".html", ".htm"), inputs=inputs)
    bound = parse_bytes(most, option="most") if isinstance(most, str) else most
    if bound < 1:
        raise InputError(f"most is {most}; give the bytes that the file may have, or text like '1GB'")
    options: dict[str, Any] = {
        "merge": merge,
        "spans": spans,
        "hide": hide,
        "renormalize": renormalize,
        "device": device,
        "dtype": dtype,
    }
    derived: dict[str, Any] = {"mean": mean, "max": max, "rollout": rollout, "values": values}
    source, read = asked(shown, pattern, layers=layers, heads=heads, batch=batch, **options, **derived)
    write_page(out, read, source, most=bound, progress=progress)
    return out
