"""A layer as a page holds it: quantized q and k, the softmax denominators that go with them, and small maps.

The page computes weights from the q and k it decodes. How finely these must be written is found by trying: the
weights as the page computes them are held against the engine's, all of them, and the coarsest codes that stay within
:data:`WITHIN` are taken; where there is :data:`ROOM`, finer ones. How far off they are is written too, so that the page
shows no digit that is not right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnviz.base.bins import bin_edges
from attnviz.base.errors import InputError
from attnviz.base.types import Cells, Positions, Progress
from attnviz.engine.blocks import Block
from attnviz.engine.reducer import REDUCTIONS, reduce_block
from attnviz.maps.marginals import Sides, SideSums
from attnviz.maps.pyramid import Overview, Pyramid
from attnviz.pages.blobs import Array, Chunk, dequantize, quantize
from attnviz.pages.description import Labels, PageLayer, Visible, describe, description, page_name, rounding
from attnviz.pages.statistics import head_numbers

WITHIN = 1e-3
"""How far a weight of the page may be from the engine's."""

ROOM = 6_000_000
"""Bytes of vectors up to which a page holds more than it must."""

_SHARES = 12  # layers that share the room, where it is not known how many there are

_NOTHING = -1000.0  # what stands for the logarithm of 0, which is visible: its exp is 0

_LEAST = 1e-37  # of float32: what is less has fewer digits

_MARGIN = 0.9  # the page's own rounding, in float32 and another order, has the rest
_CODES = ("q12", "q16", "f32")
_THUMBNAIL = 64
_LONG = 2048  # cells along a side beyond which the page does not reduce a map by itself
_MOST_PAIRS = 1 << 31  # 256 MiB of bits


@dataclass(frozen=True)
class _Vectors:
    """What the page decodes, and the blobs it decodes it from."""

    q: Tensor  # (H, T, D)
    k: Tensor  # (K, S, D)
    own_q: Tensor | None  # (H, R, D), of global queries
    own_k: Tensor | None  # (K, S, D)
    bias: Tensor | None  # (1 or H, T, S), 0 where it hides a key
    written: dict[str, Any]


class _TooCoarse(Exception):
    """Codes that put a weight too far from the engine's."""


class _Beside:
    """What a page holds of a layer's weights beside what makes them, taken in block by block, each once."""

    def __init__(self, layer: PageLayer, progress: Progress | None) -> None:
        self._layer, self._progress, self._rows = layer, progress, 0
        item, H = layer.item, len(layer.heads)
        self._sides: list[Sides] = []
        self._edges = _thumbnail_edges(item.T, item.S)
        self._small = np.full((H, *(len(edges) - 1 for edges in self._edges)), -np.inf, dtype=np.float32)
        self._numbers: list[dict[str, Any]] = []

    def head(self, n: int, look: Callable[[Block], None]) -> None:
        """Reads the page's head ``n`` once; ``look`` is given each block before it is taken in."""
        head, sides = self._layer.heads[n], SideSums(self._layer.item)

        def looked() -> Iterator[Block]:
            for block in self._layer.attention.blocks(head, sums=True):
                look(block)
                sides.add(block)
                self._reduce(n, block)
                yield block

        self._numbers.append(head_numbers(self._layer, head, self._went, blocks=looked()))
        self._sides.append(sides.made)

    def give_back(self) -> None:
        """Takes back the progress that was told: it all starts again."""
        self._went(-self._rows)

    def _went(self, rows: int) -> None:
        self._rows += rows
        if self._progress is not None:
            self._progress(rows)

    def _reduce(self, n: int, block: Block) -> None:
        """Takes a block into the thumbnail: shared keys and the span apart, as each ascends by itself."""
        hidden = (block.visible == 0)[:, None] if block.seen is None else ~block.seen
        values = block.values.masked_fill(hidden, -torch.inf).cpu().numpy()
        rows, keys = block.rows.cpu().numpy(), block.keys.cpu().numpy()
        for part in (slice(0, block.shared), slice(block.shared, None)):
            if len(rows) and len(keys[part]):
                reduce_block(self._small[n], values[:, part], rows, keys[part], *self._edges)

    def write(self, chunk: Chunk, thumbnails: Chunk) -> dict[str, Any]:
        """The layer's part of the description, once every head was read."""
        small = np.where(self._small == -np.inf, np.nan, self._small)
        return {
            **{name: chunk.floats(np.stack([getattr(one, name) for one in self._sides])) for name in Sides._fields},
            "thumbnails": thumbnails.cells(small, "u8map"),
            "statistics": {name: [one[name] for one in self._numbers] for name in self._numbers[0]},
        }


@dataclass(frozen=True)
class _Checked:
    """What holding a page's weights against the engine's gave."""

    log_sum_exp: Tensor  # (H, T) the page's softmax denominators
    beside: _Beside
    accuracy: dict[str, list[float]]  # how far weights, their logarithms and logits are off, a head each


def encode_layer(
    layer: PageLayer,
    chunk: Chunk,
    thumbnails: Chunk,
    labels: Labels,
    progress: Progress | None = None,
    *,
    room: int = 0,
) -> dict[str, Any]:
    """The layer's part of an embedded page's description.

    Args:
        layer: the layer.
        chunk: takes its arrays.
        thumbnails: takes its small maps, which the page shows before all else.
        labels: collects its tokens.
        progress: called with the number of query rows done; :func:`rows_of` says how many there are.
        room: bytes that the vectors may take though fewer would do.

    Raises:
        InputError: what the engine refuses; scores that no codes carry; a mask too large for a page.

    >>> import attnviz
    >>> layer = PageLayer("0", attnviz.synthesize(heads=2, tokens=20).item(), attnviz.Causal(), (0, 1))
    >>> described = encode_layer(layer, Chunk(1), Chunk(0), Labels())
    >>> described["q"]["dtype"], described["thumbnails"]["shape"]
    ('q12', [2, 20, 20])
    """
    if layer.attention.finest is not None:
        return _encode_kept(layer, chunk, thumbnails, labels, progress)
    check_size(layer)
    sees = Visible.of(layer)
    if layer.item.given:
        return _encode_given(layer, sees, chunk, thumbnails, labels, progress, room)
    with torch.no_grad(), torch.autocast(layer.item.device.type, enabled=False):
        for codes in _CODES[_finest(layer, room) :]:
            trial = Chunk(chunk.index, bytearray(chunk.data))
            vectors = _vectors(layer, codes, trial)
            found = _checked(layer, sees, vectors, progress)
            if found is not None:
                break
        else:
            raise InputError(
                f"{layer.item.inputs.source}: scores are so large that float32 does not carry weights to {WITHIN}; "
                f"use a smaller --scale, or look at them with: attnviz view"
            )
        chunk.data = trial.data
        described = describe(layer, labels) | vectors.written | {"accuracy": found.accuracy}
        described["log_sum_exp"] = chunk.floats(found.log_sum_exp.cpu().numpy())
        described["visible"] = _visible(sees, chunk)
        described["overview"] = _overview(layer, chunk, progress) if _is_long(layer) else None
    return described | found.beside.write(chunk, thumbnails)


def _encode_kept(
    layer: PageLayer, chunk: Chunk, thumbnails: Chunk, labels: Labels, progress: Progress | None
) -> dict[str, Any]:
    """As :func:`encode_layer`, of maps that were reduced before: their finest cells, and no query and no key."""
    pyramid = Pyramid(layer.attention)
    made = [pyramid.prepare(head, progress) for head in layer.heads]
    size = 2 ** (pyramid.levels - 1 - pyramid.overview_level)
    log_sum_exp = np.full(
        (len(made), layer.item.T), np.nan, dtype=np.float32
    )  # says how many queries of a row see anything
    for n, overview in enumerate(made):
        for row, count in enumerate(overview.counts.tolist()):
            log_sum_exp[n, row * size : row * size + count] = 0
    described = describe(layer, labels)
    described["log_sum_exp"] = chunk.floats(log_sum_exp)
    maps = {name: np.stack([overview.halved(0, name)[0] for overview in made]) for name in REDUCTIONS}
    whole = {name: chunk.cells(cells, "u16map") for name, cells in maps.items()}
    described["overview"] = {"level": pyramid.overview_level, **whole}
    tops = whole["max"]["tops"]
    described["accuracy"] = {
        "weights": [top / 131_068 + 1e-7 for top in tops],
        "logs": [1e9 for _ in tops],  # of a small weight, nothing is known but how far it is
        "logits": [0.0 for _ in tops],
        "sides": [0.0 for _ in tops],
    }
    described["thumbnails"] = thumbnails.cells(np.stack([thumbnail_of(overview) for overview in made]), "u8map")
    return described


def thumbnail_of(overview: Overview) -> Cells:
    """The largest of an overview's cells in at most 64 x 64."""
    rows, columns = (bin_edges(range(n), min(n, _THUMBNAIL))[:-1] for n in overview.max.shape)
    small: Cells = np.fmax.reduceat(np.fmax.reduceat(overview.max, rows, axis=0), columns, axis=1)
    return small


def _finest(layer: PageLayer, room: int) -> int:
    """Which of the codes is the first whose vectors fit into the room, the finest before the others; else the coarsest."""
    numbers = (len(layer.heads) * layer.item.T + len(layer.kv_heads) * layer.item.S) * layer.item.products.D
    if numbers * (2 if layer.item.dtype == torch.float16 else 4) <= room:
        return _CODES.index("f32")
    return _CODES.index("q16") if numbers * 2 <= room else 0


def _encode_given(
    layer: PageLayer,
    sees: Visible,
    chunk: Chunk,
    thumbnails: Chunk,
    labels: Labels,
    progress: Progress | None,
    room: int,
) -> dict[str, Any]:
    """As :func:`encode_layer`, of weights that were given: their logarithms are a bias on products of 0."""
    item, heads = layer.item, layer.heads
    bias = torch.zeros(len(heads), item.T, item.S)
    log_sum_exp = torch.full((len(heads), item.T), torch.nan)
    worst, off = [0.0] * len(heads), [0.0] * len(heads)
    beside = _Beside(layer, progress)

    def look(n: int, block: Block) -> None:
        there = block.visible > 0
        weights = torch.where(there[:, None], block.over_all(item.S)[0], 0)
        logs = torch.where(weights > 0, weights.log(), _NOTHING).cpu()
        worst[n] = max(worst[n], float((logs.half().exp() - weights.cpu()).abs().amax()))
        off[n] = max(off[n], float((logs.half().float() - logs).abs().amax()))
        bias[n, block.rows.cpu()] = logs.float()
        log_sum_exp[n, block.rows.cpu()] = torch.where(there, 0.0, torch.nan).cpu()

    with torch.no_grad(), torch.autocast(item.device.type, enabled=False):
        for n in range(len(heads)):
            beside.head(n, partial(look, n))
        half = max(worst) <= _MARGIN * WITHIN and item.T * item.S * len(heads) * 4 > room
        described = describe(layer, labels)
        described["q"] = chunk.floats(np.zeros((len(heads), item.T, 1), dtype=np.float32))
        described["k"] = chunk.floats(np.zeros((len(layer.kv_heads), item.S, 1), dtype=np.float32))
        described |= {"bias": chunk.floats((bias.half() if half else bias).numpy()), "global": None}
        described["log_sum_exp"] = chunk.floats(log_sum_exp.numpy())
        if half:
            described["accuracy"] |= {"weights": worst, "logs": off, "logits": off}
        described["visible"] = _visible(sees, chunk)
        described["overview"] = _overview(layer, chunk, progress) if _is_long(layer) else None
    return described | beside.write(chunk, thumbnails)


class PageEncoder:
    """Layers as an embedded page holds them, each taken, written and let go before the next is asked for.

    >>> import attnviz
    >>> encoder = PageEncoder([PageLayer("0", attnviz.synthesize(heads=1).item(), attnviz.Causal(), (0,))], "x")
    >>> [chunk.index for chunk in encoder.chunks()], encoder.description["mode"]
    ([1, 0], 'embedded')
    """

    def __init__(self, layers: Iterable[PageLayer], source: str, progress: Progress | None = None) -> None:
        """Of some layers, which ``source`` names together; ``progress`` is called with the rows done."""
        self._room = ROOM // (len(layers) if isinstance(layers, Sized) else _SHARES)
        self.layers, self._source, self._progress = layers, source, progress
        self._labels, self._described, self._items = Labels(), list[dict[str, Any]](), set[int | None]()

    @property
    def source(self) -> str:
        """What the page is called, once its first chunk was made."""
        return page_name(self._source, self._items)

    def chunks(self) -> Iterator[Chunk]:
        """A chunk for each layer, from 1, then chunk 0, which has the thumbnails of all.

        Raises:
            InputError: as :func:`encode_layer`.
        """
        thumbnails = Chunk(0)
        for layer in self.layers:  # not enumerate, which holds one until it has the next
            chunk = Chunk(len(self._described) + 1)
            self._items.add(layer.item.batch_shown)
            self._described.append(
                encode_layer(layer, chunk, thumbnails, self._labels, self._progress, room=self._room)
            )
            del layer
            yield chunk
        yield thumbnails

    @property
    def description(self) -> dict[str, Any]:
        """What the page shows, once all chunks were made."""
        return description(self.source, "embedded", self._described, self._labels)


def rows_of(layer: PageLayer) -> int:
    """How many query rows :func:`encode_layer` goes through, as its progress counts them, where the first codes do."""
    return layer.item.T * len(layer.heads) * (2 if _is_long(layer) else 1)


def least_bytes(layer: PageLayer) -> int:
    """The least that a layer takes in a page, before any array is written, but for what compresses."""
    if layer.attention.finest is not None:
        return 0
    item, numbers = layer.item, len(layer.heads) * layer.item.T + len(layer.kv_heads) * layer.item.S
    head_dim: int = 1 if item.given else item.products.D
    return numbers * head_dim * 3 // 2 + len(layer.heads) * item.T * 4


def check_size(layer: PageLayer) -> None:
    """Raises InputError for a mask of more pairs than a page can hold."""
    if layer.attention.finest is not None:
        return
    item, sees = layer.item, Visible.of(layer)
    pairs = 0 if sees.band else item.T * item.S * len(sees.heads)
    if pairs > _MOST_PAIRS:
        heads = f" in {len(sees.heads)} heads" if len(sees.heads) > 1 else ""
        raise InputError(
            f"{item.inputs.source}: the pattern ({layer.pattern}) of {item.T:,} x {item.S:,} positions{heads} takes a "
            f"bit a pair in a page, {pairs // 8:,} bytes; look at it with: attnviz view"
        )


def _vectors(layer: PageLayer, codes: str, chunk: Chunk) -> _Vectors:
    """The layer's vectors as the page decodes them from ``codes``."""
    item = layer.item
    written: dict[str, Any] = {}

    def put(name: str, values: Tensor) -> Tensor:
        array = values.to(torch.float64 if values.dtype == torch.float64 else torch.float32).cpu().numpy()
        if codes == "f32":
            half = array.astype(np.float16) if item.dtype == torch.float16 else None
            written[name] = chunk.floats(array if half is None or not np.array_equal(half, array) else half)
            decoded = array.astype(np.float32)
        else:
            code, steps = quantize(array, codes)
            written[name], decoded = chunk.codes(codes, code, steps), dequantize(code, steps, codes)
        return torch.from_numpy(decoded).to(device=item.device, dtype=item.compute_dtype)

    heads = layer.heads
    of_kv = {item.kv_head(head): head for head in heads}  # a query head that reads each key head
    q = put("q", torch.stack([item.query(head) for head in heads]))
    k = put("k", torch.stack([item.key(of_kv[kv]) for kv in layer.kv_heads]))
    own_q = own_k = bias = None
    own: dict[str, Any] | None = None
    if layer.own_projections:
        rows = item.global_queries
        own_q = put("own_q", torch.stack([item.query(head, for_global=True)[rows] for head in heads]))
        own_k = put("own_k", torch.stack([item.key(of_kv[kv], for_global=True) for kv in layer.kv_heads]))
        own = {"rows": rows.tolist(), "q": written.pop("own_q"), "k": written.pop("own_k")}
    whole = item.products.bias
    if whole is not None:
        shared = whole.shape[1] == 1
        values = torch.stack([_finite(item.bias(head)) for head in (heads[:1] if shared else heads)])
        half = values.half()
        if codes != "f32" and half.to(values.dtype).equal(values):
            written["bias"], bias = chunk.floats(half.cpu().numpy()), values.to(item.compute_dtype)
        else:
            bias = put("bias", values)
    everything: dict[str, Any] = {"bias": None, **written, "global": own}
    return _Vectors(q, k, own_q, own_k, bias, everything)


def _checked(layer: PageLayer, sees: Visible, vectors: _Vectors, progress: Progress | None) -> _Checked | None:
    """The page's weights held against the engine's; None where they are not near enough."""
    item, heads = layer.item, len(layer.heads)
    log_sum_exp = torch.full((heads, item.T), torch.nan, device=item.device)
    sinks = layer.of_heads(item.products.sinks)
    own_place = torch.full((item.T,), -1, device=item.device)
    if layer.own_projections:
        own_place[item.global_queries] = torch.arange(len(item.global_queries), device=item.device)
    off = [_Off() for _ in layer.heads]
    beside = _Beside(layer, progress)

    def look(n: int, block: Block) -> None:
        logits = _page_logits(layer, sees, vectors, n, block, own_place)
        total = torch.logsumexp(logits, -1)
        blank = total == -torch.inf
        if sinks is not None:
            total = torch.logaddexp(total, torch.tensor(sinks[n], dtype=total.dtype))
        total = total.masked_fill_(blank, torch.nan).float()
        log_sum_exp[n, block.rows] = total
        exact = torch.where(block.visible[:, None] > 0, block.values, 0)
        if not off[n].add(logits, total, exact, None if block.sums is None else block.sums.largest):
            raise _TooCoarse

    try:
        for n in range(heads):
            beside.head(n, partial(look, n))
    except _TooCoarse:
        beside.give_back()
        return None
    engine = rounding(layer)
    rounded = [2 * one for one in engine]  # of the engine, and of the page
    accuracy = {
        "weights": [one.weights + float32 for one, float32 in zip(off, rounded, strict=True)],
        "logs": [one.logs + float32 for one, float32 in zip(off, rounded, strict=True)],
        "logits": [one.logs + one.totals + float32 for one, float32 in zip(off, rounded, strict=True)],
        "sides": engine,
    }
    return _Checked(log_sum_exp, beside, accuracy)


@dataclass
class _Off:
    """How far a head's numbers are off, at most."""

    weights: float = 0.0
    logs: float = 0.0  # logarithms of weights
    totals: float = 0.0  # logarithms of softmax denominators

    def add(self, logits: Tensor, total: Tensor, exact: Tensor, largest: Tensor | None) -> bool:
        """Looks at a block: the page's logits (b, n) and denominators (b,), the engine's weights and largest logits.

        Gives whether the weights are near enough.
        """
        if not logits.numel():
            return True
        logs = logits - total[:, None]
        self.weights = max(self.weights, float((logs.exp().nan_to_num_(0.0) - exact).abs_().amax()))
        if not self.weights <= _MARGIN * WITHIN:
            return False
        told = (exact > _LEAST) & (logits > -torch.inf)
        apart = torch.where(told, logs - exact.log(), 0).abs_()
        self.logs = max(self.logs, float(apart.amax()))
        if largest is not None:
            there = exact.amax(1)
            totals = torch.where(there > 0, total - (largest - there.log()), 0)
            self.totals = max(self.totals, float(totals.abs().amax()))
        return True


def _page_logits(layer: PageLayer, sees: Visible, vectors: _Vectors, n: int, block: Block, own_place: Tensor) -> Tensor:
    """Logits of a block as the page computes them, (b, n); a key that comes twice is hidden the second time."""
    item, inputs, rows, keys = layer.item, layer.item.products, block.rows, block.keys
    kv = n * len(layer.kv_heads) // len(layer.heads)
    if block.for_global and vectors.own_q is not None and vectors.own_k is not None:
        q, k = vectors.own_q[n, own_place[rows]], vectors.own_k[kv, keys]
    else:
        q, k = vectors.q[n, rows], vectors.k[kv, keys]
    logits = (q @ k.T).mul_(item.scale)
    if inputs.softcap is not None:
        logits.div_(inputs.softcap).tanh_().mul_(inputs.softcap)
    if vectors.bias is not None:
        logits += vectors.bias[min(n, len(vectors.bias) - 1)][rows[:, None], keys]
    if inputs.alibi_slopes is not None:
        slope = float(inputs.alibi_slopes[layer.heads[n]])
        distance = item.query_position(rows)[:, None] - item.key_position(keys)
        logits -= slope * distance.abs().to(logits.dtype)
    logits.masked_fill_(sees.hidden(rows, keys, layer.heads[n]), -torch.inf)
    if block.shared:
        logits[:, block.shared :].masked_fill_(torch.isin(keys[block.shared :], keys[: block.shared]), -torch.inf)
    return logits


def _visible(sees: Visible, chunk: Chunk) -> dict[str, Any]:
    item = sees.layer.item
    if sees.band:
        keys, queries = item.key_padding, item.query_padding
        return {
            "kind": "band",
            "low": sees.low,
            "high": sees.high,
            "keys": None if keys is None else chunk.flags(keys.cpu().numpy()),
            "queries": None if queries is None else chunk.flags(queries.cpu().numpy()),
        }
    blobs = [chunk.bits((item.T, item.S), np.concatenate([*_packed_rows(sees, head)])) for head in sees.heads]
    return {"kind": "bits", "blobs": blobs}


def _packed_rows(sees: Visible, head: int) -> Iterator[Array]:
    """The bits of all pairs of a head, some rows at a time: eights of rows, so that each part is whole bytes."""
    item = sees.layer.item
    keys = torch.arange(item.S, device=item.device)
    size = 8 * max(1, (1 << 21) // (8 * item.S))
    for start in range(0, item.T, size):
        rows = torch.arange(start, min(start + size, item.T), device=item.device)
        yield np.packbits(~sees.hidden(rows, keys, head).cpu().numpy(), bitorder="little")


def _overview(layer: PageLayer, chunk: Chunk, progress: Progress | None) -> dict[str, Any]:
    """Both reductions of each head, from the engine's one pass."""
    pyramid = Pyramid(layer.attention)
    # As coarse as lets the page compute a tile of the next finer level, of 1,024 x 1,024 weights, at once.
    level = min(pyramid.overview_level, pyramid.levels - 1 - 3)
    coarser = pyramid.overview_level - level
    maps: dict[str, list[Cells]] = {name: [] for name in REDUCTIONS}
    for head in layer.heads:
        overview = pyramid.prepare(head, progress)
        for name in REDUCTIONS:
            maps[name].append(overview.halved(coarser, name)[0])
        pyramid.forget(head)
    return {"level": level} | {name: chunk.cells(np.stack(cells), "u16map") for name, cells in maps.items()}


def _thumbnail_edges(T: int, S: int) -> tuple[Positions, Positions]:
    """The bins of queries and keys of a thumbnail."""
    return bin_edges(range(T), min(T, _THUMBNAIL)), bin_edges(range(S), min(S, _THUMBNAIL))


def _is_long(layer: PageLayer) -> bool:
    return max(layer.item.T, layer.item.S) > _LONG


def _finite(bias: Tensor | None) -> Tensor:
    """A bias without what it hides, which the page has among the bits."""
    assert bias is not None
    return bias.masked_fill(bias == -torch.inf, 0)
