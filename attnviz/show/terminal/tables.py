"""rich tables of scores: the formula's own picture, a row a query and a column a key."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.color import Color
from rich.filesize import decimal
from rich.markup import escape
from rich.style import Style
from rich.table import Table
from rich.text import Text
from torch import Tensor

from attnviz.base.labels import one_line
from attnviz.base.words import in_place
from attnviz.compare.heads import Difference
from attnviz.engine.scores import AttentionScores
from attnviz.measures.statistics import STATISTICS, HeadStatistics, Statistic
from attnviz.show.scale.colors import diverging, is_dark, sequential
from attnviz.sources.files import TensorInfo
from attnviz.sources.naming import LAYER

_LABEL_CELLS = 14
_WORST = 14  # characters of where two maps are furthest apart, at the least


def score_table(
    scores: AttentionScores,
    head: int,
    *,
    values: str = "weights",
    rows: int = 20,
    width: int = 80,
    of_global: bool = False,
    total: int | None = None,
) -> Table:
    """One head's table: query tokens down, keys across, cells colored by value; ``·`` is a key that is not visible.

    Args:
        scores: logits and weights.
        head: a query head among ``scores.heads``.
        values: ``weights`` or ``logits``.
        rows: the most rows to show; the middle is left out beyond that, and a line says so.
        width: the most terminal cells across; middle columns are left out beyond that.
        of_global: show the rows of global queries, over every key, rather than the rest.
        total: the rows there are, where ``scores`` has no more than the :func:`ends` of them.
    """
    tensor = scores.shown(values, of_global=of_global)[scores.heads.index(head)]
    queries: Sequence[int] = scores.global_queries.tolist() if of_global else scores.rows
    tokens: Sequence[int] = range(scores.item.S) if of_global else scores.positions.tolist()
    R, C = total or len(tensor), tensor.shape[1]
    what = f"{'global queries' if of_global else 'queries'} {total or len(queries)} × keys {C}"
    table = Table(
        title=f"{head_title(scores, head)} · {values} · {scores.pattern_name} · {what}",
        title_justify="left",
        header_style="bold",
        box=box.ROUNDED,
    )
    shown_rows = ends(R, rows)
    kept_rows = list(range(len(tensor))) if total else [row for row in shown_rows if row is not None]
    labels = query_labels(scores, [queries[row] for row in kept_rows])
    room = width - max((cell_len(label) for label in labels), default=5) - 4
    names = (None if of_global else column_names(scores)) or [f"pos {position}" for position in range(C)]
    headers, cell_width = _headers(names, scores.item.key_labels(tokens), room)
    fitting = max(2, room // (cell_width + 3))
    shown_columns = ends(C, fitting if fitting >= C else fitting - 1)

    table.add_column("query", no_wrap=True)
    for column in shown_columns:
        if column is None:
            table.add_column("…", justify="center", no_wrap=True)
        else:
            table.add_column(Text(headers[column]), justify="right", no_wrap=True, min_width=cell_width)
    _add_rows(table, shown_rows, shown_columns, labels, tensor[kept_rows], values)
    notes = _left_out(shown_rows, R, "rows", "--rows shows more")
    notes += _left_out(shown_columns, C, "columns", "a wider terminal shows more")
    if len(scores.global_queries) and not of_global:
        notes.append("rows of global queries are in the table below")
    if notes:
        table.caption, table.caption_justify = "; ".join(notes), "left"
    return table


def _add_rows(
    table: Table,
    rows: Sequence[int | None],
    columns: Sequence[int | None],
    labels: Sequence[str],
    numbers: Tensor,
    values: str,
) -> None:
    """Adds the rows that are shown, dots where some are left out; ``labels`` and ``numbers`` are of the rows there are."""
    color = cell_style(values, _extent(numbers))
    lines = iter(zip(labels, numbers.tolist(), strict=True))
    for row in rows:
        if row is None:
            table.add_row(Text("⋮", style="dim"), *(Text("⋮", style="dim") for _ in columns))
            continue
        label, of_row = next(lines)
        cells = [Text("…", style="dim") if c is None else number_cell(of_row[c], color) for c in columns]
        table.add_row(Text(label), *cells)


def _left_out(shown: Sequence[int | None], total: int, noun: str, more: str) -> list[str]:
    """What to say where the middle is left out."""
    if None not in shown:
        return []
    return [f"{total - len([i for i in shown if i is not None]):,} of {total:,} {noun} left out in the middle ({more})"]


def contents_table(
    title: str, size: int, contents: Mapping[str, TensorInfo], role_of: Callable[[str], str | None], width: int = 100
) -> Table:
    """The tensors of a file: name, shape, dtype, size and role; layers that are alike in one row."""
    table = Table(
        title=f"{escape(title)} · {decimal(size)}", title_justify="left", header_style="bold", box=box.ROUNDED
    )
    table.padding = (0, int(width >= 60))
    for name, justify in (
        ("tensor", "left"),
        ("shape", "left"),
        ("dtype", "left"),
        ("size", "right"),
        ("role", "left"),
    ):
        table.add_column(name, justify=justify, overflow="fold", min_width=len(name))  # type: ignore[arg-type]
    for name, info, count in _alike(contents):
        each = decimal(info.bytes) if count == 1 else f"{count} × {decimal(info.bytes)}"
        role = role_of(name if count == 1 else name.partition("–")[0] + name[name.rindex(".") :])
        table.add_row(Text(name), str(info.shape), Text(info.dtype), each, role or "–")
    return table


def _alike(contents: Mapping[str, TensorInfo]) -> list[tuple[str, TensorInfo, int]]:
    """Tensors with how many there are of each: those of layers in a row that have the same tensors are one."""
    layers: dict[tuple[str, int], dict[str, TensorInfo]] = {}
    others: list[tuple[str, TensorInfo, int]] = []
    for name, info in contents.items():
        match = LAYER.fullmatch(name)
        if match is None or match["call"] is not None:
            others.append((name, info, 1))
        else:
            layers.setdefault((match["group"] or "", int(match["number"])), {})[match["role"]] = info
    found: list[tuple[str, TensorInfo, int]] = []
    runs: list[list[tuple[str, int]]] = []
    for place in sorted(layers):
        last = runs[-1][-1] if runs else None
        follows = last is not None and place == (last[0], last[1] + 1)
        if follows and last is not None and _looks(layers[place]) == _looks(layers[last]):
            runs[-1].append(place)
        else:
            runs.append([place])
    for run in runs:
        (group, first), (_, end) = run[0], run[-1]
        where = f"{group}.layers." if group else "layers."
        numbers = f"{first}" if len(run) == 1 else f"{first}–{end}"
        found += [(f"{where}{numbers}.{role}", info, len(run)) for role, info in sorted(layers[run[0]].items())]
    return [*others, *found]


def _looks(tensors: Mapping[str, TensorInfo]) -> list[tuple[str, tuple[int, ...], str]]:
    return sorted((role, tuple(info.shape), info.dtype) for role, info in tensors.items())


def head_title(scores: AttentionScores, head: int) -> str:
    """``layer 2, batch item 1, head 3``."""
    return in_place(scores.head_name(head), scores.item.inputs.layer, scores.item.batch_shown)


def query_labels(scores: AttentionScores, queries: Sequence[int]) -> list[str]:
    """``5 the``: a position and its token, where there is one."""
    tokens = scores.item.query_labels(queries)
    if tokens is None:
        return [f"{query}" for query in queries]
    return [f"{query} {short(token)}" for query, token in zip(queries, tokens, strict=True)]


def column_names(scores: AttentionScores) -> list[str]:
    """A name for each column: ``Global #1 (pos 3)`` for shared keys, ``t-2`` for the band."""
    numbers = scores.numbers
    shared = [
        f"pos {position}" if numbers is None else f"Global #{numbers[position]} (pos {position})"
        for position in scores.positions.tolist()
    ]
    return shared + [f"t{offset:+d}" if offset else "t" for offset in scores.offsets]


def number_cell(value: float, style: _CellStyle) -> Text:
    """A number on its color, as :func:`number_text` has it."""
    text = number_text(value)
    return Text(text, style=style(value) if math.isfinite(value) else "dim")


def number_text(value: float) -> str:
    """A number of a table: ``·`` of a key that is not visible, -inf, and blank in the row of a query that sees none, NaN.

    >>> [number_text(value) for value in (0.5, -0.0, -math.inf, math.nan)]
    ['0.5000', '0.0000', '·', '']
    """
    return "" if math.isnan(value) else "·" if math.isinf(value) else f"{value + 0.0:.4f}"


def short(token: str, cells: int = _LABEL_CELLS) -> str:
    """A token on one line, cut to ``cells`` terminal cells."""
    plain = one_line(token)
    return plain if cell_len(plain) <= cells else set_cell_size(plain, cells - 1).rstrip() + "…"


class _CellStyle:
    """The style of a cell for a value: a color behind it, black or white on top."""

    def __init__(self, values: str, low: float, high: float) -> None:
        if values == "logits" or low < 0:
            reach = max(abs(low), abs(high)) or 1.0
            self.low, self.high, self.palette = -reach, reach, diverging
        else:
            self.low, self.high, self.palette = 0.0, high or 1.0, sequential

    def __call__(self, value: float) -> Style:
        color = self.palette(min(max((value - self.low) / (self.high - self.low), 0.0), 1.0))
        red, green, blue = (round(255 * channel) for channel in color)
        return Style(bgcolor=Color.from_rgb(red, green, blue), color="white" if is_dark(color) else "black")


def cell_style(values: str, extent: tuple[float, float]) -> _CellStyle:
    """The color scale of a table whose values run over ``extent``."""
    return _CellStyle(values, *extent)


def _extent(tensor: object) -> tuple[float, float]:
    import torch

    assert isinstance(tensor, torch.Tensor)
    finite = tensor[torch.isfinite(tensor)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)


def _headers(names: list[str], tokens: list[str] | None, room: int) -> tuple[list[str], int]:
    """Column headers and the width of a column: on one line where they all fit, else name over position."""
    lines = [] if tokens is None else [short(token) for token in tokens]

    def with_tokens(heads: list[str]) -> list[str]:
        return [f"{head}\n{lines[n]}" if n < len(lines) else head for n, head in enumerate(heads)]

    def width(heads: list[str]) -> int:
        return max(8, *(cell_len(line) for head in heads for line in head.split("\n"))) if heads else 8

    wide = with_tokens(names)
    if len(names) * (width(wide) + 3) <= room:
        return wide, width(wide)
    narrow = with_tokens([name.replace(" (", "\n(") for name in names])
    return narrow, width(narrow)


def ends(count: int, most: int) -> list[int | None]:
    """The indices of a list cut to its two ends, with None where the middle was.

    >>> ends(9, 5)
    [0, 1, 2, None, 7, 8]
    """
    if count <= most:
        return list(range(count))
    first = (most + 1) // 2
    return [*range(first), None, *range(count - (most - first), count)]


def statistics_table(rows: Sequence[HeadStatistics], title: str, width: int = 100, *, tags: bool = False) -> Table:
    """A row a head: each statistic as a number and, where there is room, a bar of its share of the column's most.

    ``tags``: with each head's tag first.
    """
    table = Table(title=escape(title), title_justify="left", header_style="bold", box=box.ROUNDED)
    table.padding = (0, int(width >= 90))
    labels = {"layer": [f"{row.layer}" for row in rows]} if any(row.layer is not None for row in rows) else {}
    labels["head"] = [f"{row.head}" for row in rows]
    if tags:
        labels["tag"] = [row.tag for row in rows]
    beside = 1 + 2 * table.padding[1]  # a border and what is left blank
    room = width - 1 - sum(max(4, *map(cell_len, (name, *texts))) + beside for name, texts in labels.items())
    names, bar = _fitting(rows, room, beside)
    out = [name for name in STATISTICS if name not in names]
    if out:
        many = f"{len(out)} of {len(STATISTICS)} statistics left out (a wider terminal shows more)"
        table.caption, table.caption_justify = f"{many}: {', '.join(out)}", "left"
    for name in labels:
        whole = name != "layer"  # whose names may be long
        table.add_column(
            name, justify="left" if name == "tag" else "right", no_wrap=whole, overflow="fold", min_width=4
        )
    for name in names:
        table.add_column(_header(STATISTICS[name]), justify="right", no_wrap=True)
    most = {name: max((getattr(row, name) or 0.0 for row in rows), default=0.0) for name in names}
    for row, *texts in zip(rows, *labels.values(), strict=True):
        table.add_row(*texts, *(_with_bar(getattr(row, name), most[name], bar) for name in names))
    return table


def _fitting(rows: Sequence[HeadStatistics], room: int, beside: int) -> tuple[list[str], int]:
    """The statistics that fit, and how long a bar each has room for: squeezed columns would cut headers and numbers."""
    names = list(STATISTICS)
    headers = {name: max(map(len, _header(STATISTICS[name]).split("\n"))) for name in names}
    numbers = {name: _widest(rows, name) for name in names}

    def taken(bar: int) -> int:
        more = bar + int(bar > 1)
        return sum(max(headers[name], numbers[name] + more) + beside for name in names)

    while len(names) > 1 and taken(0) > room:
        names.pop()
    # Shorter than 3 they don't tell lengths apart: one cell, filled from below.
    return names, next((bar for bar in (*range(8, 2, -1), 1) if taken(bar) <= room), 0)


def _header(one: Statistic) -> str:
    """A statistic's name in two lines: ``max`` over ``weight``, or with its unit where that is not said by its name.

    >>> _header(STATISTICS["entropy_share"]), _header(STATISTICS["max_weight"])
    ('entropy\\n(share)', 'max\\nweight')
    """
    if one.unit == "weight":
        return one.name.replace("_", "\n", 1).replace("_", " ")
    return f"{one.name.removesuffix(f'_{one.unit}').replace('_', ' ')}\n({one.unit})"


def _widest(rows: Sequence[HeadStatistics], name: str) -> int:
    """How many characters a column's numbers take."""
    values = [value for row in rows if (value := getattr(row, name)) is not None]
    return max((len(_number(value, max(values))) for value in values), default=1)


def _number(value: float, most: float) -> str:
    """A number with as many digits as suit its column's largest."""
    return f"{value:.{4 if most < 10 else 2 if most < 1000 else 1}f}"


def _with_bar(value: float | None, most: float, cells: int) -> Text:
    if value is None:
        return Text("–", style="dim")
    number = _number(value, most)
    if not cells:
        return Text(number)
    eighths = round(min(max(value / most, 0.0), 1.0) * cells * 8) if most > 0 else 0  # logits may be below 0
    if cells == 1:
        return Text.assemble((" ▁▂▃▄▅▆▇█"[eighths], "magenta"), number)
    whole, part = divmod(eighths, 8)
    drawn = "█" * whole + (" ▏▎▍▌▋▊▉"[part] if part else "")
    return Text.assemble((drawn.ljust(cells), "magenta"), " ", number)


def difference_table(
    found: Difference,
    width: int = 100,
    query_tokens: Sequence[str] | None = None,
    key_tokens: Sequence[str] | None = None,
) -> Table:
    """A row a head: how far A and B are apart, and where most."""
    part = [f"{name} {one.start} to {one.stop - 1}" for name, one in found.part.items()]
    title = escape(f"A: {found.a}\nB: {found.b}\n{', '.join([found.values, *part])}")
    table = Table(title=title, title_justify="left", header_style="bold")
    table.box, table.padding = box.ROUNDED, (0, int(width >= 100))
    weights = found.values == "weights"
    table.add_column("head", justify="right", min_width=4)
    headers = ["max\n|A−B|", "mean\n|A−B|", *(["total\nvariation", "JS div.\n(nats)"] if weights else [])]
    headers += [f"top-{found.top_k}\nagrees", "beyond\ntolerance"]
    # Numbers that don't fit are left out, the least telling first, and none is cut.
    beside, room = 1 + 2 * int(width >= 100), width - 1 - _WORST
    room -= 4 + beside
    wide = {header: max(8, *map(len, header.split("\n"))) + beside for header in headers}
    kept = list(headers)
    for header in [*headers[3:4], *headers[2:3], headers[1], headers[-2]] if weights else [headers[1], headers[-2]]:
        if sum(wide[one] for one in kept) > room:
            kept.remove(header)
    if len(kept) < len(headers):
        out = ", ".join(header.replace("\n", " ") for header in headers if header not in kept)
        table.caption = (
            f"{len(headers) - len(kept)} of {len(headers)} columns left out (a wider terminal shows more): {out}"
        )
        table.caption_justify = "left"
    for header in kept:
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("worst: query → key, A, B", overflow="fold")

    def place(position: int, tokens: Sequence[str] | None) -> str:
        return f"{position}" if tokens is None else f"{position} {short(tokens[position])}"

    for row in found.heads:
        divergences = [row.total_variation, row.js_divergence] if weights else []
        worst = "–"
        if row.worst is not None:
            where = f"{place(row.worst.query, query_tokens)} → {place(row.worst.key, key_tokens)}"
            worst = f"{where}, {row.worst.a:.6g}, {row.worst.b:.6g}"
        beyond = Text(f"{row.beyond:,}", style="green" if row.within else "bold red")
        if row.rows_beyond and not row.beyond:  # as distributions alone
            beyond.append(f"\n{row.rows_beyond:,} rows")
        numbers = [f"{value:.2e}" for value in (row.max_abs, row.mean_abs, *divergences) if value is not None]
        shown: list[str | Text] = [*numbers, f"{row.top_k_agreement:.1%}", beyond]
        cells = dict(zip(headers, shown, strict=True))
        table.add_row(f"{row.head}", *(cells[header] for header in kept), Text(worst))
    return table


def columns_table(columns: Mapping[str, Sequence[Any]], title: str, width: int = 100, *, most: int = 40) -> Table:
    """Columns of numbers and labels, a row a query, a key or a distance: the first and last rows of many.

    Args:
        columns: columns of one length by name; one whose values are all None is left out.
        title: what is above.
        width: characters across; columns that don't fit are left out, the last first.
        most: the most rows.
    """
    table = Table(title=escape(title), title_justify="left", header_style="bold", box=box.ROUNDED)
    table.padding = (0, int(width >= 90))
    given = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    cells = {name: [_cell(value) for value in values] for name, values in given.items()}
    wide = {name: max(len(name), *map(len, values)) + 1 + 2 * int(width >= 90) for name, values in cells.items()}
    names = [*wide]
    while len(names) > 3 and sum(wide[name] for name in names) + 1 > width:
        names.pop()
    out = ", ".join(name for name in wide if name not in names)
    notes = [f"{len(wide) - len(names)} of {len(wide)} columns left out: {out}"] if out else []
    for name in names:
        table.add_column(name, justify="left" if name == "token" else "right", no_wrap=True)
    count = len(next(iter(cells.values()), []))
    shown = [*range(count)] if count <= most else [*range(most - most // 4), *range(count - most // 4, count)]
    for before, n in zip([-1, *shown], shown, strict=False):
        if n - before > 1:
            table.add_row(*["…"] * len(names))
        table.add_row(*(Text(cells[name][n]) for name in names))
    notes += [f"{count - len(shown):,} of {count:,} rows left out (-o FILE.csv has all)"] if count > most else []
    if notes:
        table.caption, table.caption_justify = "; ".join(notes), "left"
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else f"{value}"
