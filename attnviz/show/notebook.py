"""What a notebook shows of a result by itself: small, static HTML that holds all it needs."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

from attnviz.base.devices import dtype_name
from attnviz.base.words import ranges

if TYPE_CHECKING:
    from rich.console import RenderableType

    from attnviz.attention.derived import DerivedInputs
    from attnviz.attention.inputs import Inputs
    from attnviz.captures.run import Run
    from attnviz.engine.scores import AttentionScores
    from attnviz.maps.map import AttentionMap

_COLUMNS = 100


def map_html(shown: AttentionMap) -> str:
    """A map's heatmap, as a picture in the text."""
    from attnviz.show.figures.heatmap import heatmap
    from attnviz.show.figures.style import picture

    rows, columns = shown.cells.shape
    said = f"{shown.name}: {shown.values}, {shown.pattern}, {rows} x {columns} cells"
    content = base64.b64encode(picture(heatmap(shown))).decode()
    return f'<img alt="{escape(said)}" src="data:image/png;base64,{content}" style="max-width:100%">'


def scores_html(result: AttentionScores) -> str:
    """The tables of the first head, and how many there are."""
    from attnviz.show.terminal.tables import score_table

    values = "logits" if result.weights is None else "weights"
    parts = (False, True) if len(result.global_queries) else (False,)
    tables = [
        score_table(result, result.heads[0], values=values, rows=12, width=_COLUMNS, of_global=part) for part in parts
    ]
    more = len(result.heads) - 1
    return "".join(map(_rich_html, tables)) + (_note(f"and {more} more {_plural('head', more)}") if more else "")


def inputs_html(inputs: Inputs) -> str:
    """A table of the tensors, and what else there is."""
    from attnviz.sources.roles import SETTINGS
    from attnviz.sources.saving import tensors_of

    rows = [
        (role, " x ".join(map(str, tensor.shape)), dtype_name(tensor.dtype), str(tensor.device))
        for role, tensor in tensors_of(inputs).items()
    ]
    said = {name: getattr(inputs, name, None) for name in SETTINGS}
    settings = [f"{name} {value}" for name, value in said.items() if value is not None]
    pattern = "" if inputs.pattern is None else f"pattern {inputs.pattern}"
    return _table(inputs.source, ("tensor", "shape", "dtype", "device"), rows) + _note(
        " · ".join(part for part in (pattern, *settings) if part)
    )


def derived_html(inputs: DerivedInputs) -> str:
    """A table of what the map is made of."""
    rows = [
        (
            one.source if one.layer is None else f"{one.layer}",
            f"{one.H}",
            f"{one.T:,} x {one.S:,}",
            dtype_name(one.dtype),
            f"{one.pattern or 'global'}",
        )
        for one in inputs.parts
    ]
    of_heads = "" if inputs.heads is None else f" of heads {ranges(inputs.heads)}"
    return _table(inputs.source, ("layer", "heads", "queries x keys", "dtype", "pattern"), rows) + _note(
        f"{inputs.how}{of_heads}"
    )


def run_html(run: Run) -> str:
    """A table of the layers captured."""
    rows = []
    for label in run.layers:
        inputs = run.inputs(label)
        heads = f"{inputs.H}" if inputs.H_kv == inputs.H else f"{inputs.H} of {inputs.H_kv} keys"
        rows.append((f"{label}", heads, f"{inputs.T:,} x {inputs.S:,}", f"{inputs.D}", f"{inputs.pattern or 'global'}"))
    headings = ("layer", "heads", "queries x keys", "head_dim", "pattern")
    return _table(run.name, headings, rows) + _note("attnviz.view(run) shows them")


def _table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    caption = f'<caption style="text-align:left;font-weight:bold">{escape(title)}</caption>'
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _rich_html(shown: RenderableType) -> str:
    from rich.console import Console

    how: dict[str, Any] = {
        "force_terminal": True,
        "force_jupyter": False,
        "color_system": "truecolor",
    }  # shown by us alone
    console = Console(width=_COLUMNS, file=StringIO(), record=True, **how)
    console.print(shown)
    lines = console.export_html(inline_styles=True, code_format="{code}")
    return f'<pre style="line-height:1.2;overflow-x:auto">{lines.rstrip()}</pre>'


def _note(text: str) -> str:
    return f"<p><small>{escape(text)}</small></p>" if text else ""


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"
