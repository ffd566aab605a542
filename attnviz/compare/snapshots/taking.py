"""Takes snapshots: of inputs, whose maps are computed, or of what something else computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, cast

import numpy as np
import torch
from torch import Tensor

from attnviz.attention.derived import NORMS, DerivedInputs
from attnviz.attention.inputs import Inputs
from attnviz.attention.item import AttentionItem
from attnviz.attention.merged import MergedInputs
from attnviz.attention.patterns import Pattern
from attnviz.attention.reduced import ReducedMaps
from attnviz.attention.taken import TakesArrays, is_array, with_arrays
from attnviz.base.bins import bin_edges
from attnviz.base.devices import dtype_name, parse_device
from attnviz.base.errors import InputError, not_one_of
from attnviz.base.spans import Hide, Spans
from attnviz.base.types import Cells, Positions, Progress
from attnviz.compare.rounding import ORDER, Rounding, Rule, Sizes, Tolerance, rule_of
from attnviz.compare.sides import BLOCK_CELLS, Given, Scored, Side
from attnviz.compare.snapshots import version1
from attnviz.compare.snapshots.difference import CellDifference
from attnviz.compare.snapshots.snapshot import CELLS, MOST_TOKENS, VERSION, HeadSnapshot, Snapshot
from attnviz.engine.attention import Attention
from attnviz.engine.blocks import Block, stepped
from attnviz.engine.reducer import reduce_block
from attnviz.engine.request import GROUPED, Request, ask
from attnviz.engine.scores import AttentionScores
from attnviz.maps.map import AttentionMap, map_of
from attnviz.measures.statistics import kept_statistics, statistics_of

Source = Inputs | AttentionMap | AttentionScores | Tensor
_Rest = ParamSpec("_Rest")


def _takes_arrays(
    function: Callable[Concatenate[Source | Sequence[Inputs], _Rest], Snapshot],
) -> TakesArrays[Source | Sequence[Inputs], _Rest, Snapshot]:
    """Arrays of q, k and v are inputs here too; one alone is what something else computed, logits perhaps."""

    @wraps(function)
    def taking(*args: Any, **given: Any) -> Snapshot:
        if not args or (len(args) > 1 and is_array(args[1])):
            args, given = with_arrays(args, given)
        return function(*args, **given)

    return cast("TakesArrays[Source | Sequence[Inputs], _Rest, Snapshot]", taking)


@_takes_arrays
def take_snapshot(
    source: Source | Sequence[Inputs],
    pattern: Pattern | str | None = None,
    *,
    heads: Sequence[int] | None = None,
    mean: str | None = None,
    max: str | None = None,
    rollout: bool = False,
    batch: int = 0,
    values: str = "weights",
    cells: int = CELLS,
    merge: str | None = None,
    spans: Spans | None = None,
    query_spans: Spans | None = None,
    hide: Hide | None = None,
    renormalize: bool = False,
    queries: range | None = None,
    keys: range | None = None,
    tokens: Sequence[str] | None = None,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    version: int = VERSION,
) -> Snapshot:
    """A snapshot of one batch item.

    Args:
        source: inputs, whose maps are computed in float64; or what something else computed: AttentionScores, an
            AttentionMap, or a tensor of weights or logits, (H, T, S) or (1, H, T, S). Two or three arrays are q, k and v.
        pattern: which query sees which key; None is the inputs' own, else the global keys.
        heads: the query heads; None is all.
        mean, max, rollout: of inputs, of several layers too: one map of them, as in :func:`attnviz.attention_map`.
        batch: the batch item.
        values: ``weights`` or ``logits``; of inputs ``norms`` or ``norm-shares`` too.
        cells: the most cells along each side.
        merge, spans, query_spans, hide, renormalize: words, spans and what is left out, as :func:`attnviz.attention_map` takes them.
        queries, keys: the positions to keep, of inputs; None is all.
        tokens: S labels, of a tensor, which has none.
        device: where to compute; None is where the inputs are.
        progress: called with the number of rows done, as they are.
        version: by which definitions to make the numbers: those of the snapshot that this is to be held against.

    Raises:
        InputError: as :func:`attnviz.attention_map`; a setting that the source has no use for.

    >>> import attnviz
    >>> found = attnviz.take_snapshot(attnviz.synthesize(heads=2))
    >>> found.settings["pattern"], found.heads[1].cells["weights"].shape, round(found.heads[1].statistics["entropy"], 4)
    ('global', (10, 3), 0.8921)
    """
    known = ("weights", "logits", *NORMS)
    if values not in known:
        raise not_one_of("values", values, known)
    if cells < 1:
        raise InputError(f"a snapshot has at least 1 cell a side; cells is {cells}")
    if isinstance(source, Inputs) or (isinstance(source, Sequence) and source and isinstance(source[0], Inputs)):
        first = source if isinstance(source, Inputs) else source[0]
        where = first.device if device is None else parse_device(device)
        what: dict[str, Any] = {"batch": batch, "values": values, "queries": queries, "keys": keys, "pixels": cells}
        what |= {"merge": merge, "spans": spans, "query_spans": query_spans, "hide": hide, "renormalize": renormalize}
        # MPS has no float64.
        what |= {"device": "cpu" if where.type == "mps" else where, "dtype": torch.float64}
        what |= {"mean": mean, "max": max, "rollout": rollout}
        return _of_request(ask(source, pattern, heads, **what), version, progress)
    own = {
        "pattern": pattern,
        "merge": merge,
        "spans": spans,
        "query_spans": query_spans,
        "hide": hide,
        "queries": queries,
        "keys": keys,
    }
    for name, given in {**own, "renormalize": renormalize or None}.items():
        if given is not None:
            raise InputError(f"{name}: a {type(source).__name__} is computed already; leave {name} out")
    if isinstance(source, AttentionMap):
        return _of_map(source, cells, version)
    if isinstance(source, AttentionScores):
        return _of_scores(source, heads, values, cells, version)
    if isinstance(source, Tensor):
        return _of_tensor(source, heads, values, cells, tokens, version)
    raise InputError(
        f"a snapshot is taken of AttentionInputs, AttentionWeights, AttentionScores, an AttentionMap or a tensor of weights, "
        f"not of {type(source).__name__}"
    )


def _of_request(request: Request, version: int, progress: Progress | None) -> Snapshot:
    asked = version1.request_of(request) if version == 1 else request
    attention, rows, columns = asked.attention, asked.rows, asked.columns
    wanted = ("max", "mass") if asked.values == "weights" else ("max",)
    taken = []
    for head in asked.chosen:
        with torch.no_grad(), torch.autocast(attention.item.device.type, enabled=False):
            described = _known(attention, head) or _statistics(
                _told(attention.blocks(head, sums=True), progress), head, attention.item, version
            )
            found = attention.cells(head, *asked.edges(), reductions=wanted, values=asked.values, progress=progress)
        assert found.max is not None
        cells = {"max": found.max} if found.mass is None else {"max": found.max, "mass": found.mass}
        taken.append(_head(head, described, cells, found.counts, (rows, columns), asked.values))
    few = max(len(rows), len(columns)) <= MOST_TOKENS
    labels = (attention.item.query_labels(rows), attention.item.key_labels(columns)) if few else (None, None)
    settings = _settings(attention.item, asked.pattern, asked.values)  # type: ignore[arg-type]
    item = attention.item
    if isinstance(item.inputs, DerivedInputs):
        of_layers = item.inputs.layer if isinstance(item.inputs.layer, str) and " " in item.inputs.layer else None
        said = (of_layers, attention.head_name(asked.chosen[0]), attention.measured)
        settings |= {"source": "derived", "derived": ", ".join(one for one in said if one)}
    if item.given:
        rule = _rule_of_cells(taken, settings, item.S, version)
    else:
        rule = _rule_of_item(item, asked.chosen, asked.values, version)
    return Snapshot(settings, rows, columns, *labels, taken, version, rule)


def _rule_of_item(item: AttentionItem, heads: Iterable[int], values: str, version: int) -> Tolerance | None:
    """How far a later run may be: what rounding costs logits as large as these queries and keys make them."""
    reach = 0.0
    for head in heads:
        sizes = Sizes.of(item, head)
        largest = float(sizes.reach.max()) if len(sizes.reach) else 0.0
        bias = item.bias(head)
        if bias is not None:
            largest += float(bias[torch.isfinite(bias)].abs().max()) if bool(torch.isfinite(bias).any()) else 0.0
        reach = max(reach, largest * (2 if sizes.modified else 1))
    return _rule(dtype_name(item.inputs.dtype), values, reach, item.products.D, item.S, version)


def _rule(dtype: str, values: str, reach: float, D: int, keys: int, version: int) -> Tolerance | None:
    if version == 1:
        return None
    rule: Rule = rule_of(dtype)
    return rule.of_cells(values, reach, D, keys) if isinstance(rule, Rounding) else rule


def _rule_of_cells(
    heads: Sequence[HeadSnapshot], settings: dict[str, Any], keys: int, version: int
) -> Tolerance | None:
    """That of what something else computed: how large its logits were is guessed from its weights."""
    numbers = [np.abs(grid[np.isfinite(grid)]) for one in heads for grid in one.cells.values()]
    every = np.concatenate([part.ravel() for part in numbers]) if numbers else np.zeros(0)
    if settings["values"] == "weights":
        every = np.abs(np.log(every[every > 0]))
    return _rule(settings["dtype"], settings["values"], float(every.max(initial=1.0)), 64, keys, version)


def _told(blocks: Iterable[Block], progress: Progress | None) -> Iterator[Block]:
    for block in blocks:
        yield block
        if progress is not None:
            progress(len(block.rows))


def _known(attention: Attention, head: int) -> dict[str, float | None] | None:
    """Statistics that were made with a reduced map."""
    found = kept_statistics(attention, head)
    return None if found is None else {"queries": found.queries, **found.values}


def _statistics(
    weights: Iterable[Block], head: int, item: AttentionItem | None, version: int
) -> dict[str, float | None]:
    """Statistics by name, and how many queries see a key."""
    found = version1.statistics(weights, head, item) if version == 1 else statistics_of(weights, head, item)
    return {"queries": found.queries, **found.values}


def _head(
    head: int,
    described: dict[str, float | None],
    cells: dict[str, Cells],
    seeing: Positions,
    shown: tuple[range, Sequence[int]],
    values: str,
) -> HeadSnapshot:
    """What is kept of a head: a map that isn't reduced by the name of its values, and who sees where that isn't all."""
    queries, keys = shown
    if cells["max"].shape == (len(queries), len(keys)):
        return HeadSnapshot(head, described, {values: cells["max"]})
    every = np.diff(bin_edges(queries, len(cells["max"])))
    return HeadSnapshot(head, described, cells, None if (seeing == every).all() else tuple(seeing.tolist()))


def _settings(item: AttentionItem, pattern: Pattern, values: str) -> dict[str, Any]:
    inputs, batch = item.inputs, item.batch
    derived: dict[str, Any] = {}
    if isinstance(inputs, MergedInputs):
        pattern, derived = inputs.own, {name: _plain(value) for name, value in inputs.asked.items()}
    settings: dict[str, Any] = {
        "source": "maps" if isinstance(inputs, ReducedMaps) else "weights" if item.given else "inputs",
        "values": values,
        "pattern": str(pattern),
        **derived,
        "dtype": dtype_name(inputs.dtype),
        "batch": batch,
        "heads": inputs.H,
        **({} if item.given else {"kv_heads": inputs.H_kv}),
        "queries": inputs.T,
        "keys": inputs.S,
    }
    if not item.given:
        settings |= {"head_dim": item.products.D, "scale": round(item.scale, 12)}
        if item.products.softcap is not None:
            settings["softcap"] = item.products.softcap
    if inputs.global_mask is not None:
        positions = inputs.global_mask[batch].nonzero().flatten().tolist()
        settings["global_keys"] = positions if len(positions) <= MOST_TOKENS else f"{len(positions)} positions"
    if inputs.key_padding_mask is not None:
        settings["padding"] = int((~inputs.key_padding_mask[batch]).sum())
    extras = [name for name in ("bias", "alibi_slopes", "sinks", "q_global") if getattr(inputs, name, None) is not None]
    return settings | ({"with": extras} if extras else {})


def _plain(value: Any) -> Any:
    """What was asked of spans and hidden keys, as JSON holds it, and as it can be asked again."""
    if isinstance(value, Mapping):
        return {
            name: [ends[0], ends[-1] + 1] if isinstance(ends, range) else list(ends) for name, ends in value.items()
        }
    return value if isinstance(value, str | bool) else list(value)


def _of_map(shown: AttentionMap, cells: int, version: int) -> Snapshot:
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
    kept = [HeadSnapshot(shown.head, {}, {name: values.astype(np.float64)})]
    settings = {
        "source": "map",
        "values": shown.values,
        "pattern": shown.pattern,
        "dtype": str(shown.cells.dtype) if str(shown.cells.dtype) in ORDER else "float32",
    }
    return Snapshot(
        settings,
        shown.queries,
        shown.keys,
        shown.query_labels if few else None,
        shown.key_labels if few else None,
        kept,
        version,
        _rule_of_cells(kept, settings, len(shown.keys), version),
    )


def _of_scores(result: AttentionScores, heads: Sequence[int] | None, values: str, cells: int, version: int) -> Snapshot:
    item = result.item
    if (result.scores if values == "logits" else result.weights) is None:
        raise InputError(
            f"{item.inputs.source}: the {values} of these scores were not computed; score(..., {values}=True)"
        )
    chosen = result.heads if heads is None else tuple(heads)
    for head in chosen:
        if head not in result.heads:
            raise InputError(f"{item.inputs.source}: head {head} is not among those of the scores, {result.heads}")
    shared_only = not result.offsets and not result.pattern.global_queries
    keys: Sequence[int] = tuple(result.positions.tolist()) if shared_only else range(item.S)
    if tuple(keys) == tuple(range(item.S)):
        keys = range(item.S)
    side, weighed = Scored(result), result.weights is not None
    taken = [_of_side(side, head, keys, cells, values, version, weighed=weighed) for head in chosen]
    few = max(item.T, len(keys)) <= MOST_TOKENS
    labels = (item.query_labels(range(item.T)), item.key_labels(keys)) if few else (None, None)
    settings = _settings(item, result.pattern, values)
    rule = _rule_of_item(item, chosen, values, version)
    return Snapshot(settings, range(item.T), keys, *labels, taken, version, rule)


def _of_tensor(
    tensor: Tensor,
    heads: Sequence[int] | None,
    values: str,
    cells: int,
    tokens: Sequence[str] | None,
    version: int,
) -> Snapshot:
    side = Given(tensor, name="the tensor")
    H, T, S = side.H, side.T, side.S
    if tokens is not None and len(tokens) != S:
        raise InputError(f"tokens: {len(tokens)} labels are given, wanted S = {S}, one a key position")
    chosen = range(H) if heads is None else heads
    for head in chosen:
        if not 0 <= head < H:
            raise InputError(f"head {head} is out of range; the tensor has {H} (0 to {H - 1})")
    weighed = values == "weights"
    taken = [_of_side(side, head, range(S), cells, values, version, weighed=weighed) for head in chosen]
    settings: dict[str, Any] = {"source": "tensor", "values": values, "dtype": dtype_name(tensor.dtype)}
    settings |= {"heads": H, "queries": T, "keys": S}
    key_tokens = list(tokens) if tokens is not None and max(T, S) <= MOST_TOKENS else None
    query_tokens = key_tokens[S - T :] if key_tokens is not None and T <= S else None
    rule = _rule_of_cells(taken, settings, S, version)
    return Snapshot(settings, range(T), range(S), query_tokens, key_tokens, taken, version, rule)


def _of_side(
    side: Side, head: int, keys: Sequence[int], cells: int, values: str, version: int, *, weighed: bool
) -> HeadSnapshot:
    """A head of what something else computed; ``weighed``: whether there are weights, for the statistics."""
    described: dict[str, float | None] = {}
    if weighed:
        blocks = _blocks(side, _numbers(side, head, keys, "weights"), keys, version)
        described = _statistics(blocks, head, side.item, version)
    found, seeing = _reduced(_numbers(side, head, keys, values), side.T, keys, cells)
    if values == "logits":
        found = {"max": found["max"]}
    return _head(head, described, found, seeing, (range(side.T), keys), values)


def _numbers(side: Side, head: int, keys: Sequence[int], values: str) -> Iterator[tuple[range, Tensor]]:
    """Queries, and their values over ``keys``, (b, n), NaN where a key is not visible. A tensor's 0 may be, and stays."""
    rows_of_head, columns = side.rows(head), torch.tensor(list(keys))
    for rows in stepped(range(side.T), max(16, BLOCK_CELLS // side.S)):
        found = rows_of_head.read(rows, weights=values == "weights").over(torch.arange(side.S), values == "weights")
        hidden = ~found.seen if side.knows_hidden else found.values == -torch.inf
        yield rows, torch.where(hidden, torch.nan, found.values)[:, columns]


def _blocks(side: Side, numbers: Iterable[tuple[range, Tensor]], keys: Sequence[int], version: int) -> Iterator[Block]:
    """Weights as statistics take them: 0 where a key is hidden, and NaN in every column of a query that sees none."""
    columns = torch.tensor(list(keys))
    # Where nothing says where queries stand, they are the last of the positions.
    first = 0 if side.item is not None or version == 1 else side.S - side.T
    for rows, values in numbers:
        seen = ~torch.isnan(values)
        visible = (values > 0 if version == 1 else seen).sum(1)
        weights = torch.where((~seen).all(1, keepdim=True), values, values.nan_to_num(nan=0.0))
        yield Block(torch.arange(first + rows.start, first + rows.stop), columns, weights, visible, 0, seen=seen)


def _reduced(
    numbers: Iterable[tuple[range, Tensor]], T: int, keys: Sequence[int], cells: int
) -> tuple[dict[str, Cells], Positions]:
    """The cells of one head, by reduction, and how many queries of each row of them see a key."""
    row_edges, column_edges = bin_edges(range(T), min(T, cells)), bin_edges(keys, min(len(keys), cells))
    columns = np.asarray(keys, dtype=np.int64)
    shape = (len(row_edges) - 1, len(column_edges) - 1)
    most, mass, counts = np.full(shape, -np.inf), np.zeros(shape), np.zeros(shape[0], dtype=np.int64)
    first = np.flatnonzero(np.diff(np.searchsorted(column_edges, columns, side="right"), prepend=0))
    seen = np.zeros(shape, dtype=bool)
    for rows, values in numbers:
        block, positions = values.numpy(), np.asarray(rows)
        hidden = np.isnan(block)
        reduce_block(most, np.where(hidden, -np.inf, block), positions, columns, row_edges, column_edges)
        down = np.searchsorted(row_edges, positions, side="right") - 1
        np.add.at(mass, down, np.add.reduceat(np.where(hidden, 0, block), first, axis=1))
        np.logical_or.at(seen, down, np.logical_or.reduceat(~hidden, first, axis=1))
        np.add.at(counts, down, ~hidden.all(1))
    mass = np.where(seen, mass / np.maximum(counts, 1)[:, None], np.nan)
    return {"max": np.where(most > -np.inf, most, np.nan), "mass": mass}, counts


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
    if isinstance(source, Inputs):
        what: dict[str, Any] = {name: snapshot.settings[name] for name in ("batch", "values")}
        what |= {"queries": found.queries, "keys": found.keys, "pixels": max(len(found.queries), len(found.keys))}
        what |= {name: snapshot.settings[name] for name in GROUPED if name in snapshot.settings}
        what["device"] = "cpu" if source.device.type == "mps" else source.device
        request = Request(source, pattern, found.head, dtype=torch.float64, **what)
        shown = map_of(version1.request_of(request) if snapshot.version == 1 else request).cells
    elif isinstance(source, Tensor):
        whole = source[0] if source.ndim == 4 else source
        rows, keys = found.queries, found.keys
        shown = whole[found.head, rows.start : rows.stop, keys.start : keys.stop].detach().cpu().double().numpy()
    else:
        return None
    largest = np.where(np.isnan(shown), -np.inf, shown)
    row, column = (int(i) for i in np.unravel_index(int(largest.argmax()), largest.shape))
    return found.queries[row], found.keys[column], float(largest[row, column])
