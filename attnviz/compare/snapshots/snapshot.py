"""Snapshots: one attention call's maps, reduced, with statistics and settings, to be held against a later run's.

The formula runs in float64, whatever the dtype of the inputs, so that a snapshot says the same on every machine and
number of threads. How far a later run may be from it depends on the dtype of the inputs (:data:`TOLERANCES`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnviz.attention.inputs import AttentionInputs
from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.base.bins import bin_edges, of_bin
from attnviz.base.devices import dtype_name, parse_device
from attnviz.base.errors import InputError
from attnviz.base.labels import same_label
from attnviz.base.types import Cells
from attnviz.compare.heads import TOLERANCES, Tolerance
from attnviz.engine.blocks import Block
from attnviz.engine.reducer import reduce_block
from attnviz.engine.request import Request
from attnviz.engine.scores import AttentionScores
from attnviz.maps.map import AttentionMap, attention_map
from attnviz.measures.statistics import HeadStatistics, statistics_of, statistics_of_request

Source = AttentionInputs | AttentionMap | AttentionScores | Tensor

CELLS = 32
"""Cells along each side of a snapshot, at most; a map of no more positions is kept whole."""

MOST_TOKENS = 64
"""Sequences that are longer are kept without their tokens."""

DECIMALS = {"float64": 10, "float32": 6, "float16": 5, "bfloat16": 4}
"""Decimals of the numbers in a file: at least a tenth of the absolute tolerance."""

_BLOCK_CELLS = 1 << 20


@dataclass(frozen=True)
class HeadSnapshot:
    """One head: its statistics by name, where it has weights, and its cells by reduction."""

    head: int
    statistics: dict[str, float | None]
    cells: dict[str, Cells]
    """``weights`` or ``logits``, a value a cell; where the map is reduced ``max``, and ``mass`` of weights. (P, P')"""


@dataclass(frozen=True)
class Snapshot:
    """The maps of one batch item's heads in few cells, and what they were made of.

    Args:
        settings: ``values``, ``pattern``, ``dtype``, sizes, ``scale`` and the like, as JSON has them.
        queries: the query positions that the rows cover.
        keys: the key positions that the columns cover: a range, or the positions of the global keys.
        query_tokens, key_tokens: a label for each, where they are few and there are any.
        heads: the heads.
    """

    settings: dict[str, Any]
    queries: range
    keys: Sequence[int]
    query_tokens: Sequence[str] | None
    key_tokens: Sequence[str] | None
    heads: Sequence[HeadSnapshot]

    @property
    def tolerance(self) -> Tolerance:
        """How far apart numbers of this dtype may be; logits, which are not bound by 1, ten times as far."""
        allowed = TOLERANCES.get(str(self.settings.get("dtype")), TOLERANCES["float32"])
        factor = 10 if self.settings.get("values") == "logits" else 1
        return Tolerance(factor * allowed.atol, allowed.rtol)

    @property
    def decimals(self) -> int:
        """Decimals that its numbers have in a file."""
        return DECIMALS.get(str(self.settings.get("dtype")), DECIMALS["float32"])

    def maps(self, name: str, reduction: str) -> dict[int, AttentionMap]:
        """The map of each head, called ``name`` in place of its pattern."""
        return {
            one.head: AttentionMap(
                one.cells[reduction],
                str(self.settings["values"]),
                one.head,
                self.queries,
                self.keys,
                self.query_tokens,
                self.key_tokens,
                name,
                "mass" if reduction == "mass" else "max",
            )
            for one in self.heads
            if reduction in one.cells
        }


def take_snapshot(
    source: Source,
    pattern: Pattern | None = None,
    *,
    heads: Sequence[int] | None = None,
    batch: int = 0,
    values: str = "weights",
    cells: int = CELLS,
    queries: range | None = None,
    keys: range | None = None,
    tokens: Sequence[str] | None = None,
    device: str | torch.device | None = None,
    progress: Callable[[int], None] | None = None,
) -> Snapshot:
    """A snapshot of one batch item.

    Args:
        source: inputs, whose maps are computed in float64; or what something else computed: AttentionScores, an
            AttentionMap, or a tensor of weights or logits, (H, T, S) or (1, H, T, S).
        pattern: which query sees which key; None is the inputs' own, else the global keys.
        heads: the query heads; None is all.
        batch: the batch item.
        values: ``weights`` or ``logits``.
        cells: the most cells along each side.
        queries, keys: the positions to keep, of inputs; None is all.
        tokens: S labels, of a tensor, which has none.
        device: where to compute; None is where the inputs are.
        progress: called with the number of rows done, as they are.

    Raises:
        InputError: as :func:`attnviz.attention_map`; a setting that the source has no use for.

    >>> import attnviz
    >>> found = attnviz.take_snapshot(attnviz.synthesize(heads=2))
    >>> found.settings["pattern"], found.heads[1].cells["weights"].shape, round(found.heads[1].statistics["entropy"], 4)
    ('global', (10, 3), 0.8921)
    """
    if values not in ("weights", "logits"):
        raise InputError(f"values {values!r} is not one of weights, logits")
    if cells < 1:
        raise InputError(f"a snapshot has at least 1 cell a side; cells is {cells}")
    if not isinstance(source, AttentionInputs):
        for name, given in (("pattern", pattern), ("queries", queries), ("keys", keys)):
            if given is not None:
                raise InputError(f"{name}: a {type(source).__name__} is computed already; leave {name} out")
    if isinstance(source, AttentionInputs):
        return _of_inputs(source, pattern, heads, batch, values, cells, queries, keys, device, progress)
    if isinstance(source, AttentionMap):
        return _of_map(source, cells)
    if isinstance(source, AttentionScores):
        return _of_scores(source, heads, values, cells)
    if isinstance(source, Tensor):
        return _of_tensor(source, heads, values, cells, tokens)
    raise InputError(
        f"a snapshot is taken of AttentionInputs, AttentionScores, an AttentionMap or a tensor of weights, "
        f"not of {type(source).__name__}"
    )


def _of_inputs(
    inputs: AttentionInputs,
    pattern: Pattern | None,
    heads: Sequence[int] | None,
    batch: int,
    values: str,
    cells: int,
    queries: range | None,
    keys: range | None,
    device: str | torch.device | None,
    progress: Callable[[int], None] | None,
) -> Snapshot:
    where = inputs.q.device if device is None else parse_device(device)
    if where.type == "mps":  # has no float64
        where = torch.device("cpu")
    how: dict[str, Any] = {"batch": batch, "values": values, "device": where, "dtype": torch.float64}
    request = Request(inputs, pattern, heads, pixels=cells, queries=queries, keys=keys, **how)
    attention, edges = request.attention, request.edges()
    wanted = ("max", "mass") if values == "weights" else ("max",)
    of_weights = statistics_of_request(request, progress=progress)
    taken = []
    for head, described in zip(request.chosen, of_weights, strict=True):
        with torch.no_grad(), torch.autocast(where.type, enabled=False):
            found = attention.cells(head, *edges, reductions=wanted, values=values, progress=progress)
        assert found.max is not None
        whole = found.max.shape == (len(request.rows), len(request.columns))
        kept = {values: found.max} if whole else {"max": found.max}
        if not whole and found.mass is not None:
            kept["mass"] = found.mass
        taken.append(HeadSnapshot(head, _numbers(described), kept))
    few = len(request.rows) <= MOST_TOKENS and len(request.columns) <= MOST_TOKENS
    settings = _settings(attention.item, attention.pattern, values)
    return Snapshot(
        settings,
        request.rows,
        request.columns,
        attention.item.query_labels(request.rows) if few else None,
        attention.item.key_labels(request.columns) if few else None,
        taken,
    )


def _settings(item: AttentionItem, pattern: Pattern, values: str) -> dict[str, Any]:
    inputs, batch = item.inputs, item.batch
    settings: dict[str, Any] = {
        "source": "inputs",
        "values": values,
        "pattern": str(pattern),
        "dtype": dtype_name(inputs.q.dtype),
        "batch": batch,
        "heads": inputs.H,
        "kv_heads": inputs.H_kv,
        "queries": inputs.T,
        "keys": inputs.S,
        "head_dim": inputs.D,
        "scale": round(item.scale, 12),
    }
    if inputs.softcap is not None:
        settings["softcap"] = inputs.softcap
    if inputs.global_mask is not None:
        positions = inputs.global_mask[batch].nonzero().flatten().tolist()
        settings["global_keys"] = positions if len(positions) <= MOST_TOKENS else f"{len(positions)} positions"
    if inputs.key_padding_mask is not None:
        settings["padding"] = int((~inputs.key_padding_mask[batch]).sum())
    extras = [name for name in ("bias", "alibi_slopes", "sinks", "q_global") if getattr(inputs, name) is not None]
    return settings | ({"with": extras} if extras else {})


def _of_map(shown: AttentionMap, cells: int) -> Snapshot:
    rows, columns = shown.cells.shape
    values, name = shown.cells, shown.reduce if shown.reduced else shown.values
    if max(rows, columns) > cells:
        if shown.reduced and shown.reduce == "mass":
            raise InputError(
                f"the map has {rows} x {columns} cells of mass, which can't be reduced again; "
                f"make it with attention_map(..., pixels={cells}), or give cells={max(rows, columns)}"
            )
        edges = [bin_edges(range(size), min(size, cells)) for size in (rows, columns)]
        hidden = np.where(np.isnan(values), -np.inf, values)
        fewer = np.full((len(edges[0]) - 1, len(edges[1]) - 1), -np.inf)
        reduce_block(fewer, hidden, np.arange(rows), np.arange(columns), edges[0], edges[1])
        values, name = np.where(fewer > -np.inf, fewer, np.nan), "max"
    few = len(shown.queries) <= MOST_TOKENS and len(shown.keys) <= MOST_TOKENS
    settings = {
        "source": "map",
        "values": shown.values,
        "pattern": shown.pattern,
        "dtype": str(shown.cells.dtype) if str(shown.cells.dtype) in TOLERANCES else "float32",
    }
    return Snapshot(
        settings,
        shown.queries,
        shown.keys,
        shown.query_labels if few else None,
        shown.key_labels if few else None,
        [HeadSnapshot(shown.head, {}, {name: values.astype(np.float64)})],
    )


def _of_scores(result: AttentionScores, heads: Sequence[int] | None, values: str, cells: int) -> Snapshot:
    item = result.item
    if (result.scores if values == "logits" else result.weights) is None:
        raise InputError(
            f"{item.inputs.source}: the {values} of these scores were not computed; score(..., {values}=True)"
        )
    chosen = result.heads if heads is None else tuple(heads)
    for head in chosen:
        if head not in result.heads:
            raise InputError(f"{item.inputs.source}: head {head} is not among those of the scores, {result.heads}")
    shared_only = not result.offsets and not len(result.global_queries)
    keys: Sequence[int] = tuple(result.positions.tolist()) if shared_only else range(item.S)
    if tuple(keys) == tuple(range(item.S)):
        keys = range(item.S)
    few = max(item.T, len(keys)) <= MOST_TOKENS
    settings = _settings(item, result.pattern, values)
    taken = []
    for head in chosen:
        n = result.heads.index(head)
        described: dict[str, float | None] = {}
        if result.weights is not None:
            described = _numbers(statistics_of(_blocks(_rows_of_scores(result, n, "weights", keys), keys), head, item))
        taken.append(
            HeadSnapshot(
                head, described, _reduced(_rows_of_scores(result, n, values, keys), item.T, keys, cells, values)
            )
        )
    labels = (item.query_labels(range(item.T)), item.key_labels(keys)) if few else (None, None)
    return Snapshot(settings, range(item.T), keys, *labels, taken)


Rows = Iterator[tuple[Tensor, Tensor]]
"""Query positions (b,) and their values (b, n), NaN where a key is not visible."""


def _rows_of_scores(result: AttentionScores, n: int, name: str, keys: Sequence[int]) -> Rows:
    """The n-th head over ``keys``. Weights alone don't say which of their zeros are hidden keys: those stay 0."""
    item = result.item
    shared, offsets = result.positions.cpu(), torch.tensor(list(result.offsets), dtype=torch.int64)
    columns = torch.tensor(list(keys))

    def shown(numbers: Tensor, logits: Tensor | None) -> Tensor:
        hidden = torch.isnan(numbers) if logits is None else ~(logits > -torch.inf)
        return torch.where(hidden, torch.nan, numbers.double())

    size = max(16, _BLOCK_CELLS // item.S)
    logits = None if result.scores is None else result.scores[n]
    numbers = result.values(name)[n]
    apart = result.global_queries.cpu()
    for rows in torch.arange(item.T).split(size):
        rows = rows[~torch.isin(rows, apart)]
        given = shown(numbers[rows].cpu(), None if logits is None else logits[rows].cpu())  # (b, C1 + C2)
        whole = torch.full((len(rows), item.S), torch.nan, dtype=torch.float64)
        band = rows[:, None] + offsets  # (b, C2)
        inside = (band >= 0) & (band < item.S)
        at = torch.arange(len(rows))[:, None].expand_as(band)
        whole[at[inside], band[inside]] = given[:, len(shared) :][inside]
        # A shared key comes again in the band, hidden: its own column has the last word.
        own = given[:, : len(shared)]
        whole[:, shared] = torch.where(torch.isnan(own), whole[:, shared], own)
        yield rows, whole[:, columns]
    if len(apart):
        logits = None if result.global_scores is None else result.global_scores[n]
        numbers = result.global_values(name)[n]
        for start in range(0, len(apart), size):
            part = slice(start, start + size)
            yield apart[part], shown(numbers[part].cpu(), None if logits is None else logits[part].cpu())[:, columns]


def _of_tensor(
    tensor: Tensor, heads: Sequence[int] | None, values: str, cells: int, tokens: Sequence[str] | None
) -> Snapshot:
    shape = tuple(tensor.shape)
    if tensor.ndim == 4 and shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 3 or not tensor.is_floating_point() or 0 in shape:
        raise InputError(
            f"the tensor has shape {shape} and dtype {dtype_name(tensor.dtype)}; wanted weights or logits (H, T, S) of a "
            f"floating dtype, one batch item; to compute them, give q and k"
        )
    H, T, S = tensor.shape
    if tokens is not None and len(tokens) != S:
        raise InputError(f"tokens: {len(tokens)} labels are given, wanted S = {S}, one a key position")
    chosen = range(H) if heads is None else heads
    for head in chosen:
        if not 0 <= head < H:
            raise InputError(f"head {head} is out of range; the tensor has {H} (0 to {H - 1})")
    keys = range(S)
    size = max(16, _BLOCK_CELLS // S)

    def rows_of(head: int) -> Rows:
        for rows in torch.arange(T).split(size):
            numbers = tensor[head, rows].detach().cpu().double()
            yield rows, torch.where(numbers == -torch.inf, torch.nan, numbers)

    taken = []
    for head in chosen:
        described = _numbers(statistics_of(_blocks(rows_of(head), keys), head)) if values == "weights" else {}
        taken.append(HeadSnapshot(head, described, _reduced(rows_of(head), T, keys, cells, values)))
    settings: dict[str, Any] = {"source": "tensor", "values": values, "dtype": dtype_name(tensor.dtype)}
    settings |= {"heads": H, "queries": T, "keys": S}
    few = tokens is not None and max(T, S) <= MOST_TOKENS
    key_tokens = list(tokens) if tokens is not None and few else None
    query_tokens = key_tokens[S - T :] if key_tokens is not None and T <= S else None
    return Snapshot(settings, range(T), keys, query_tokens, key_tokens, taken)


def _blocks(rows: Rows, keys: Sequence[int]) -> Iterator[Block]:
    """Weights as statistics take them: 0 where a key is hidden, and NaN in every column of a query that sees none."""
    columns = torch.tensor(list(keys))
    for positions, numbers in rows:
        visible = (numbers > 0).sum(1)
        blank = torch.isnan(numbers).all(1)
        weights = torch.where(blank[:, None], numbers, numbers.nan_to_num(nan=0.0))
        yield Block(positions, columns, weights, visible, 0, seen=~torch.isnan(numbers))


def _reduced(rows: Rows, T: int, keys: Sequence[int], cells: int, values: str) -> dict[str, Cells]:
    """The cells of one head, by reduction."""
    row_edges = bin_edges(range(T), min(T, cells))
    column_edges = bin_edges(keys, min(len(keys), cells))
    columns = np.asarray(keys, dtype=np.int64)
    shape = (len(row_edges) - 1, len(column_edges) - 1)
    most, mass, counts = np.full(shape, -np.inf), np.zeros(shape), np.zeros(shape[0])
    first = np.flatnonzero(np.diff(np.searchsorted(column_edges, columns, side="right"), prepend=0))
    seen = np.zeros(shape, dtype=bool)
    for positions, numbers in rows:
        if not len(positions):
            continue
        block = numbers.numpy()
        hidden = np.isnan(block)
        reduce_block(most, np.where(hidden, -np.inf, block), positions.numpy(), columns, row_edges, column_edges)
        down = np.searchsorted(row_edges, positions.numpy(), side="right") - 1
        np.add.at(mass, down, np.add.reduceat(np.where(hidden, 0, block), first, axis=1))
        np.logical_or.at(seen, down, np.logical_or.reduceat(~hidden, first, axis=1))
        np.add.at(counts, down, ~hidden.all(1))
    most = np.where(most > -np.inf, most, np.nan)
    if shape == (T, len(keys)):
        return {values: most}
    if values == "logits":
        return {"max": most}
    return {"max": most, "mass": np.where(seen, mass / np.maximum(counts, 1)[:, None], np.nan)}


def _numbers(described: HeadStatistics) -> dict[str, float | None]:
    return {"queries": described.queries, **described.values}


@dataclass(frozen=True)
class CellDifference:
    """The cell of a head where two snapshots are furthest apart, beyond what they may be."""

    head: int
    reduction: str
    queries: range
    """The query positions of its row."""
    keys: Sequence[int]
    """The key positions of its column."""
    a: float
    """What was stored; NaN is not visible."""
    b: float
    """What is now."""
    allowed: float
    beyond: int
    """How many of the head's cells are beyond what they may be."""
    cells: int
    """How many cells of the head either side sees."""


@dataclass(frozen=True)
class StatisticDifference:
    """A statistic of a head that is not what it was."""

    head: int
    name: str
    a: float | None
    b: float | None


@dataclass(frozen=True)
class SnapshotDifference:
    """What sets a later snapshot apart from a stored one."""

    stored: Snapshot
    now: Snapshot
    tolerance: Tolerance
    settings: list[str]
    """A line for each setting that is not what it was."""
    cells: list[CellDifference]
    """The worst cell of each head and reduction with a cell beyond the tolerance, the worst first."""
    statistics: list[StatisticDifference]

    @property
    def within(self) -> bool:
        """Whether nothing is beyond the tolerance and every setting is as it was."""
        return not (self.settings or self.cells or self.statistics)

    def report(self, most: int = 6, *, where: tuple[int, int, float] | None = None) -> str:
        """What differs, a line each: settings, then heads with query, key, tokens and both values, then statistics.

        Args:
            most: how many heads and statistics to name; the rest is counted.
            where: the pair with the largest value of the worst cell: :func:`locate`.
        """
        dtype = self.stored.settings.get("dtype", "float32")
        if self.within:
            return f"within tolerance ({self.tolerance}, for {dtype})"
        lines = [f"BEYOND tolerance ({self.tolerance}, for {dtype})", *(f"  {line}" for line in self.settings)]
        for found in self.cells[:most]:
            lines.append(f"  {self._cell(found)}")
            if where is not None and found is self.cells[0]:
                lines.append(f"    the largest there is now query {where[0]} → key {where[1]}, {where[2]:.6g}")
        lines += _more(len(self.cells) - most, "map", "maps")
        changed: dict[int, list[StatisticDifference]] = {}
        for one in self.statistics:
            changed.setdefault(one.head, []).append(one)
        order = [found.head for found in self.cells]
        heads = sorted(changed, key=lambda head: order.index(head) if head in order else len(order))
        for head in heads[:most]:
            texts = [f"{one.name} was {_text(one.a)}, is {_text(one.b)}" for one in changed[head]]
            more = [f"{len(texts) - 3} more"] if len(texts) > 3 else []
            lines.append(f"  head {head}, statistics: {'; '.join(texts[:3] + more)}")
        lines += _more(len(heads) - most, "head's statistics", "heads' statistics")
        return "\n".join(lines)

    def _cell(self, found: CellDifference) -> str:
        stored = self.stored
        name = {"max": "max of weights", "mass": "mass"}.get(found.reduction, found.reduction)
        if stored.settings["values"] == "logits":
            name = {"max": "max of logits"}.get(found.reduction, found.reduction)
        query = _position("query", "queries", found.queries, stored.queries, stored.query_tokens)
        key = _position("key", "keys", found.keys, stored.keys, stored.key_tokens)
        was, now = ("not visible" if math.isnan(value) else f"{value:.6g}" for value in (found.a, found.b))
        apart = abs(found.a - found.b)
        how_far = "" if math.isnan(apart) else f": apart by {apart:.3g}, allowed {found.allowed:.3g}"
        return (
            f"head {found.head}, {name}: {found.beyond} of {found.cells} cells; the worst is {query} → {key}, "
            f"was {was}, is {now}{how_far}"
        )


def compare_snapshots(stored: Snapshot, now: Snapshot, tolerance: Tolerance | None = None) -> SnapshotDifference:
    """Holds a snapshot against the one that was stored.

    Args:
        stored: the reference, of which ``rtol`` is a part.
        now: the later one.
        tolerance: how far numbers may be apart; None is what the stored dtype allows.
    """
    allowed = stored.tolerance if tolerance is None else tolerance
    settings = _settings_apart(stored, now)
    cells: list[CellDifference] = []
    statistics: list[StatisticDifference] = []
    same_place = (stored.queries, tuple(stored.keys)) == (now.queries, tuple(now.keys))
    later = {one.head: one for one in now.heads}
    for before in stored.heads:
        after = later.get(before.head)
        if after is None or not same_place:
            continue
        for reduction, a in before.cells.items():
            b = after.cells.get(reduction)
            if b is not None and a.shape == b.shape:
                found = _worst(stored, before.head, reduction, a, b, allowed)
                cells += [] if found is None else [found]
        same_source = stored.settings.get("source") == now.settings.get("source")
        for name, value in before.statistics.items():
            other = after.statistics.get(name)
            if (value is None or other is None) and not same_source:
                continue
            if not _near(name, value, other, allowed, stored):
                statistics.append(StatisticDifference(before.head, name, value, other))
    # Blank on one side is worse than any number.
    cells.sort(key=lambda found: -abs(np.nan_to_num(found.a - found.b, nan=np.inf)))
    return SnapshotDifference(stored, now, allowed, settings, cells, statistics)


def _settings_apart(stored: Snapshot, now: Snapshot) -> list[str]:
    lines = []
    names = dict.fromkeys([*stored.settings, *now.settings])
    if stored.settings.get("source") != now.settings.get("source"):
        # A tensor knows neither pattern nor scale: what both know is compared.
        names = dict.fromkeys(name for name in stored.settings if name in now.settings and name != "source")
    for name in names:
        a, b = stored.settings.get(name), now.settings.get(name)
        if a != b:
            was, is_ = ("nothing" if value is None else value for value in (a, b))
            lines.append(f"{name.replace('_', ' ')} was {was}, is {is_}")
    a_heads, b_heads = ([one.head for one in side.heads] for side in (stored, now))
    if a_heads != b_heads:
        lines.append(f"the heads kept were {_listed(a_heads)}, are {_listed(b_heads)}")
    for name, was, is_ in (("queries", stored.queries, now.queries), ("keys", stored.keys, now.keys)):
        if tuple(was) != tuple(is_):
            lines.append(f"the {name} kept were {_span(was)}, are {_span(is_)}")
    shapes = [{name: cells.shape for one in side.heads for name, cells in one.cells.items()} for side in (stored, now)]
    if shapes[0] != shapes[1]:
        was, is_ = (", ".join(f"{n} {s[0]} x {s[1]}" for n, s in side.items()) for side in shapes)
        lines.append(f"the cells kept were {was}, are {is_}")
    for name, labels, later in (
        ("query", stored.query_tokens, now.query_tokens),
        ("key", stored.key_tokens, now.key_tokens),
    ):
        if labels is None or later is None:
            if labels is not later and "source" in names:
                lines.append(
                    f"{name} tokens were {'there' if labels else 'not there'}, are {'there' if later else 'not there'}"
                )
            continue
        wrong = [i for i, (a, b) in enumerate(zip(labels, later, strict=False)) if not same_label(a, b)]
        if wrong:
            more = "" if len(wrong) == 1 else f", and {len(wrong) - 1} more"
            lines.append(f"{name} token {wrong[0]} was {labels[wrong[0]]!r}, is {later[wrong[0]]!r}{more}")
    return lines


def _worst(
    stored: Snapshot, head: int, reduction: str, a: Cells, b: Cells, tolerance: Tolerance
) -> CellDifference | None:
    if stored.settings["values"] == "weights":
        # A tensor's 0 does not say whether the key was visible; the other side does.
        a, b = np.where(np.isnan(b) & (a == 0), np.nan, a), np.where(np.isnan(a) & (b == 0), np.nan, b)
    seen = ~(np.isnan(a) & np.isnan(b))
    allowed = tolerance.atol + tolerance.rtol * np.abs(np.nan_to_num(a))
    apart = np.abs(a - b)
    lost = seen & ~np.isfinite(apart)  # on one side only
    beyond = lost | (seen & (np.nan_to_num(apart) > allowed))
    if not beyond.any():
        return None
    far = np.where(lost, np.inf, np.where(beyond, np.nan_to_num(apart), -1))
    row, column = (int(i) for i in np.unravel_index(int(far.argmax()), far.shape))
    return CellDifference(
        head,
        reduction,
        of_bin(stored.queries, a.shape[0], row),
        of_bin(stored.keys, a.shape[1], column),
        float(a[row, column]),
        float(b[row, column]),
        float(allowed[row, column]),
        int(beyond.sum()),
        int(seen.sum()),
    )


def _near(name: str, a: float | None, b: float | None, tolerance: Tolerance, stored: Snapshot) -> bool:
    if a is None or b is None:
        return a is b
    # Sums over many keys: ten times what a cell may be apart, and a distance adds up tokens.
    atol = tolerance.atol * (len(stored.keys) if name == "distance" else 10)
    return abs(a - b) <= atol + 10 * tolerance.rtol * abs(a)


def _position(one: str, many: str, here: Sequence[int], whole: Sequence[int], tokens: Sequence[str] | None) -> str:
    if len(here) > 1:
        return f"{many} {_span(here)}"
    token = "" if tokens is None else f" {tokens[whole.index(here[0])]!r}"
    return f"{one} {here[0]}{token}"


def _span(positions: Sequence[int]) -> str:
    if isinstance(positions, range) or len(positions) > 8:
        return f"{positions[0]} to {positions[-1]}"
    return ", ".join(map(str, positions))


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:12])) + (f", … ({len(numbers)})" if len(numbers) > 12 else "")


def _more(count: int, one: str, many: str) -> list[str]:
    return [] if count <= 0 else [f"  and {count} more {one if count == 1 else many}"]


def _text(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


def locate(
    source: Source, pattern: Pattern | None, found: CellDifference, snapshot: Snapshot
) -> tuple[int, int, float] | None:
    """The pair that holds the largest value of a reduced cell now: query, key and value.

    Args:
        source, pattern: what the later snapshot was taken of.
        found: the cell.
        snapshot: the later snapshot, which says the batch item and the values.

    Returns:
        None where the cell is one pair, where nothing in it is visible, or where the source has no more to say.
    """
    if found.reduction != "max" or math.isnan(found.b) or not isinstance(found.keys, range):
        return None
    if isinstance(source, AttentionInputs):
        device = "cpu" if source.q.device.type == "mps" else source.q.device
        shown = attention_map(
            source,
            found.head,
            pattern,
            batch=int(snapshot.settings["batch"]),
            values=str(snapshot.settings["values"]),
            pixels=max(len(found.queries), len(found.keys)),
            queries=found.queries,
            keys=found.keys,
            device=device,
            dtype=torch.float64,
        ).cells
    elif isinstance(source, Tensor):
        whole = source[0] if source.ndim == 4 else source
        rows, keys = found.queries, found.keys
        shown = whole[found.head, rows.start : rows.stop, keys.start : keys.stop].detach().cpu().double().numpy()
    else:
        return None
    largest = np.where(np.isnan(shown), -np.inf, shown)
    row, column = (int(i) for i in np.unravel_index(int(largest.argmax()), largest.shape))
    return found.queries[row], found.keys[column], float(largest[row, column])


def difference_maps(found: SnapshotDifference, most: int = 4) -> list[tuple[AttentionMap, AttentionMap, AttentionMap]]:
    """Stored, now and stored − now of the heads that differ most, as :func:`difference_figure` draws them.

    Args:
        found: what sets two snapshots apart.
        most: how many heads.

    Returns:
        A row a head; none where the two have no cells in common.
    """
    common = [name for name in _reductions(found.stored) if name in _reductions(found.now)]
    if not common or (found.stored.queries, tuple(found.stored.keys)) != (found.now.queries, tuple(found.now.keys)):
        return []
    reduction = found.cells[0].reduction if found.cells else common[0]
    before, after = found.stored.maps("stored", reduction), found.now.maps("now", reduction)
    order = dict.fromkeys([each.head for each in found.cells] + [each.head for each in found.statistics])
    heads = [head for head in order or before if head in before and head in after]
    rows = []
    for head in heads[:most]:
        a, b = before[head], after[head]
        if a.cells.shape != b.cells.shape:
            return []
        rows.append((a, b, replace(a, cells=a.cells - b.cells, values="difference", pattern="stored − now")))
    return rows


def _reductions(side: Snapshot) -> list[str]:
    return list(dict.fromkeys(name for one in side.heads for name in one.cells))
