"""What a live page asks for, computed once however many ask, off the event loop, and kept while there is room.

Each head's one pass runs in a thread for passes, tiles and rectangles in another: torch uses every core from each. A
job that nobody waits for any more is dropped; a pass under way ends soon after nobody asks for it. A layer is there while it is the latest that
was asked for, or a job is at it; what passes over its heads kept stays when it goes.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch

from attnviz.base.bins import bin_edges
from attnviz.base.errors import InputError
from attnviz.base.types import Cells, Progress
from attnviz.maps.marginals import sides_of
from attnviz.maps.pyramid import Overview, Pyramid
from attnviz.pages.description import Labels, PageLayer, describe, description, page_name
from attnviz.pages.encoding import thumbnail_of
from attnviz.pages.statistics import head_numbers

Key = tuple[Any, ...]
Watch = Callable[[int, str], AbstractContextManager[Progress | None]]
"""Shows the progress of a pass: from its query rows and its title to what is called with the rows done."""

KEPT_BYTES = 1 << 30
"""How much is kept where nobody asks for another bound."""

MOST_RECTANGLE = 1 << 22
"""The most weights of a rectangle of single ones: 16 MiB."""

MOST_KEYS = 64
"""The most keys whose vectors are asked for at once."""

PATIENCE = 2.5
"""Seconds that a pass goes on when nobody asks for it any more; a page that waits asks four times a second."""

LONG_WORK = ("map", "sides")
"""What a page waits for in passes: the cells of a map, and the numbers at its sides."""

_CHEAP_CELLS = 30_000_000  # weights of a pass that takes less than a second
_LONG_CELLS = 10 * _CHEAP_CELLS  # weights of a pass for statistics that nobody waits minutes for
_THUMBNAIL = 64


class OutOfRange(InputError):
    """A layer, head, tile or position that is not there."""


class Stopped(Exception):
    """The viewer is closing."""


class Unwanted(Exception):
    """Nobody waits for a pass any more."""


@dataclass(frozen=True)
class Thumbnail:
    """The largest weights of a head in few cells, of some of the queries at first where all would take long."""

    cells: Cells
    queries: int  # how many it was made of


@dataclass
class _Job:
    running: Future[Any]
    future: asyncio.Future[Any]  # the same, for the event loop
    waiting: int = 0
    asked: float = -math.inf  # when its progress was last asked for

    @property
    def wanted(self) -> bool:
        """Whether anybody waits, here or by asking how far it is."""
        return bool(self.waiting) or time.monotonic() - self.asked < PATIENCE


@dataclass(eq=False)
class _Open:
    """A layer that was read."""

    layer: PageLayer
    pyramid: Pyramid


class Viewer:
    """The layers of a live page.

    >>> import asyncio, attnviz
    >>> layer = PageLayer("0", attnviz.synthesize(heads=1, tokens=300).item(), attnviz.Causal(), (0,))
    >>> viewer = Viewer([layer], "synthetic")
    >>> asyncio.run(viewer.tile(0, 0, 1, 0, 1, "max")).shape
    (256, 256)
    >>> viewer.close()
    """

    def __init__(
        self,
        layers: Sequence[PageLayer],
        source: str,
        *,
        memory: int | None = None,
        files: Sequence[Path] = (),
        watch: Watch = lambda rows, title: nullcontext(),
    ) -> None:
        """Checks every layer; nothing is computed yet.

        Args:
            layers: at least one; each is read once here, and again when it is asked for after another was. Those of
                :class:`~attnviz.pages.description.Layers` are in memory only then.
            source: what the page is called.
            memory: bytes that kept maps may take, and each computation; None is :data:`KEPT_BYTES` and no bound.
            files: what the layers are read from: where one changes, what is shown is no longer what is in it.
            watch: shows the progress of a pass.

        Raises:
            InputError: a pattern that does not fit its layer; too little memory for a head's one pass.
        """
        self.layers, self._memory = layers, memory
        self._files = {path: _stamp(path) for path in files}
        self._overviews: list[dict[int, Overview]] = [{} for _ in range(len(layers))]
        self._read = WeakValueDictionary[int, _Open]()
        self._latest: _Open | None = None
        labels, described, items = Labels(), [], []
        for number in range(len(layers)):
            opened = self._open(number)
            opened.layer.pattern.reach(opened.layer.item)
            opened.pyramid.check_memory()
            described.append(describe(opened.layer, labels))
            items.append(opened.layer.item.batch_shown)
            del opened
        self.description = description(page_name(source, items), "live", described, labels)
        self._watch = watch
        self._passes = ThreadPoolExecutor(1, "pass")
        self._tiles = ThreadPoolExecutor(1, "tile")
        self._reads = ThreadPoolExecutor(1, "read")
        self._jobs: dict[Key, _Job] = {}
        self._failed: dict[Key, InputError] = {}  # what the engine refuses, it refuses every time
        self._done: dict[Key, int] = {}
        self._kept = Kept(KEPT_BYTES if memory is None else memory)
        self._small = asyncio.Lock()  # one thumbnail's pass at a time, so that a map waits for one at most
        self._stopping = False

    # What a page asks for. `layer` and `head` are indices among the page's.

    async def tile(self, layer: int, head: int, level: int, row: int, column: int, reduce: str) -> Cells:
        """A tile as :meth:`attnviz.Pyramid.tile` has it; the first of a head waits for its pass.

        Raises:
            OutOfRange: there is no such tile.
            InputError: what the engine refuses.
        """
        opened, number = await self._head(layer, head)
        pyramid = opened.pyramid
        if reduce not in ("max", "mass"):
            raise OutOfRange(f"reduce {reduce!r} is not one of max, mass")
        if not 0 <= level < pyramid.levels:
            raise OutOfRange(f"level {level} is out of range; there are {pyramid.levels}")
        rows, columns = pyramid.grid(level)
        if not (0 <= row < rows and 0 <= column < columns):
            raise OutOfRange(f"tile ({row}, {column}) is outside level {level}, which has {rows} x {columns} tiles")
        key = ("tile", layer, head, level, row, column, reduce)
        if key in self._kept:
            kept: Cells = self._kept.get(key)
            return kept
        async with self._prepared(layer, head, opened):
            made: Cells = await self._kept_or(key, lambda: pyramid.tile(number, level, row, column, reduce=reduce))
            return made

    async def progress(self, layer: int, head: int, what: str = "map") -> tuple[int, int]:
        """Query rows in all and done of long work on a head, which is begun where it was not.

        Args:
            layer, head: which.
            what: one of :data:`LONG_WORK`.

        Raises:
            OutOfRange: there is no such head, or work.
            InputError: why it failed.
        """
        if what not in LONG_WORK:
            raise OutOfRange(f"{what[:20]!r} is not one of {', '.join(LONG_WORK)}")
        opened, number = await self._head(layer, head)
        rows = opened.pyramid.item.T
        there = opened.pyramid.prepared(number) is not None if what == "map" else (what, layer, head) in self._kept
        if there:
            return rows, rows
        job = self._begin_pass(layer, head, opened) if what == "map" else self._begin_sides(layer, head, opened)
        job.asked = time.monotonic()
        # All rows are done a moment before what they made is there.
        return rows, min(self._done.get((what, layer, head), 0), rows - 1)

    async def sides(self, layer: int, head: int) -> Cells:
        """What :func:`attnviz.maps.marginals.sides_of` gives, one after another: (S + T + T,) float32.

        Raises:
            OutOfRange: there is no such head.
            InputError: what the engine refuses.
        """
        opened, _ = await self._head(layer, head)
        key = ("sides", layer, head)
        if key not in self._kept:
            await self._wait(key, self._begin_sides(layer, head, opened))
        kept: Cells = self._kept.get(key)
        return kept

    async def row(self, layer: int, head: int, query: int) -> Cells:
        """The weights of one query on every key, (S,) float32, NaN where it does not see the key.

        Raises:
            OutOfRange: there is no such query.
        """
        opened, _ = await self._head(layer, head)
        _check_index("query", query, opened.layer.item.T)
        row: Cells = (await self._part(layer, head, range(query, query + 1), range(opened.layer.item.S)))[0]
        return row

    async def column(self, layer: int, head: int, key: int) -> Cells:
        """The weights of every query on one key, (T,) float32. After the head's pass it costs T products, else a pass.

        Raises:
            OutOfRange: there is no such key.
        """
        opened, _ = await self._head(layer, head)
        _check_index("key", key, opened.layer.item.S)
        return (await self._part(layer, head, range(opened.layer.item.T), range(key, key + 1)))[:, 0]

    async def rectangle(self, layer: int, head: int, queries: range, keys: range, values: str) -> Cells:
        """Single weights or logits, as :meth:`attnviz.Pyramid.rectangle` has them.

        Raises:
            OutOfRange: positions that are not there.
            InputError: more than :data:`MOST_RECTANGLE`.
        """
        opened, _ = await self._head(layer, head)
        item = opened.layer.item
        for name, part, size in (("queries", queries, item.T), ("keys", keys, item.S)):
            if not 0 <= part.start < part.stop <= size:
                raise OutOfRange(f"{name} {part.start} to {part.stop} are not a part of 0 to {size}")
        if len(queries) * len(keys) > MOST_RECTANGLE:
            raise InputError(
                f"{len(queries):,} x {len(keys):,} numbers are asked for at once; the most is {MOST_RECTANGLE:,} in all"
            )
        return await self._part(layer, head, queries, keys, values)

    async def vectors(self, layer: int, head: int, query: int, keys: Sequence[int]) -> Cells:
        """A query's vector and those of some keys as their scores use them, (1 + len(keys), D) float32.

        Raises:
            OutOfRange: positions that are not there.
            InputError: more than :data:`MOST_KEYS` keys.
        """
        if len(keys) > MOST_KEYS:
            raise InputError(f"{len(keys)} keys are asked for at once; the most is {MOST_KEYS}")
        opened, number = await self._head(layer, head)
        item = opened.layer.item
        _check_index("query", query, item.T)
        for key in keys:
            _check_index("key", key, item.S)
        _ = item.products  # raises for weights that were given

        def read() -> Cells:
            own = opened.layer.own_projections and query in item.global_queries.tolist()
            q = item.query(number, range(query, query + 1), for_global=own)[0]
            k = item.key(number, for_global=own)[list(keys)]
            return torch.cat([q[None], k]).float().cpu().numpy()

        found: Cells = await self._kept_or(("vectors", layer, head, query, *keys), read)
        return found

    async def thumbnail(self, layer: int, head: int) -> Thumbnail:
        """The largest weights of a head in at most 64 x 64 cells.

        Where all queries need a long pass that was not made yet, a cell is of one query: the middle one of its row.

        Raises:
            OutOfRange: there is no such head.
        """
        opened, number = await self._head(layer, head)
        pyramid = opened.pyramid
        key = ("thumbnail", layer, head)
        kept: Thumbnail | None = self._kept.get(key)
        if kept is not None:
            return kept
        made = pyramid.prepared(number) is not None
        if not made and opened.layer.attention.finest is None and _cells(opened.layer) > _CHEAP_CELLS:
            coarse: Thumbnail = await self._kept_or(
                ("coarse", layer, head), lambda: _coarse(opened.layer, number), lambda found: found.cells.nbytes
            )
            return coarse
        async with nullcontext() if made else self._small, self._prepared(layer, head, opened):
            overview = pyramid.prepared(number)
            assert overview is not None
            small = Thumbnail(thumbnail_of(overview), pyramid.item.T)
            self._kept.put(key, small, small.cells.nbytes)
            return small

    async def statistics(self, layer: int, head: int) -> dict[str, Any] | None:
        """The head's numbers, as :func:`~attnviz.pages.statistics.head_numbers` has them; None where they need a long pass.

        Raises:
            OutOfRange: there is no such head.
        """
        opened, number = await self._head(layer, head)
        key = ("statistics", layer, head)
        kept: dict[str, Any] | None = self._kept.get(key)
        if kept is not None or _cells(opened.layer) > _LONG_CELLS:
            return kept

        def progress(rows: int) -> None:
            if self._stopping:
                raise Stopped

        def work() -> dict[str, Any]:
            return head_numbers(opened.layer, number, progress)

        job = self._job(key, self._passes, work, lambda made: self._kept.put(key, made, 1000))
        found: dict[str, Any] = await self._wait(key, job)
        return found

    def changed(self) -> str | None:
        """What to say where a file is no longer the one that was opened; None where all are."""
        for path, stamp in self._files.items():
            now = _stamp(path)
            if now != stamp:
                how = "is gone" if now is None else "has changed"
                return f"{path.name} {how} since attnviz view opened it: end it and start it again"
        return None

    def stop(self) -> None:
        """Ends a pass at its next block, and begins no other."""
        self._stopping = True

    def close(self) -> None:
        """Ends all work, and waits for what is at it."""
        self.stop()
        for pool in (self._passes, self._tiles, self._reads):
            pool.shutdown(wait=True, cancel_futures=True)

    # How it is computed once.

    async def _head(self, layer: int, head: int) -> tuple[_Open, int]:
        """A layer, read where it was let go, and what it calls a head of the page."""
        described = self.description["layers"]
        if not 0 <= layer < len(described):
            raise OutOfRange(f"layer {layer} is out of range; there are {len(described)}")
        heads = described[layer]["heads"]
        if not 0 <= head < heads:
            raise OutOfRange(f"head {head} is out of range; there are {heads}")
        opened = self._read.get(layer)
        if opened is None:
            job = self._job(("layer", layer), self._reads, lambda: self._open(layer), lambda opened: None)
            opened = await self._wait(("layer", layer), job)
        self._latest = opened
        assert opened is not None
        return opened, opened.layer.heads[head]

    def _open(self, layer: int) -> _Open:
        changed = self.changed()
        if changed is not None:
            raise InputError(changed)
        self._latest = None  # let go before the next is read
        page_layer = self.layers[layer]
        opened = _Open(page_layer, Pyramid(page_layer.attention, self._memory, self._overviews[layer]))
        self._read[layer] = self._latest = opened
        return opened

    async def _part(self, layer: int, head: int, queries: range, keys: range, values: str = "weights") -> Cells:
        """A part of a head's map, (queries, keys)."""
        opened, number = await self._head(layer, head)
        key = (values, layer, head, queries, keys)
        found: Cells = await self._kept_or(key, lambda: opened.pyramid.rectangle(number, queries, keys, values=values))
        return found

    @asynccontextmanager
    async def _prepared(self, layer: int, head: int, opened: _Open) -> AsyncIterator[None]:
        """A block in which what a head's pass kept is there."""
        pyramid, number = opened.pyramid, opened.layer.heads[head]
        key = ("map", layer, head)
        with self._kept.pinned(key):
            if pyramid.prepared(number) is None:
                await self._wait(key, self._begin_pass(layer, head, opened))
            else:
                self._kept.get(key)  # it was used
            yield

    def _begin_pass(self, layer: int, head: int, opened: _Open) -> _Job:
        pyramid, number = opened.pyramid, opened.layer.heads[head]

        key = ("map", layer, head)

        def keep(overview: Overview) -> None:
            self._kept.put(key, overview, overview.nbytes, lambda: self._overviews[layer].pop(number, None))

        return self._long(key, opened, partial(pyramid.prepare, number), keep)

    def _begin_sides(self, layer: int, head: int, opened: _Open) -> _Job:
        number, key = opened.layer.heads[head], ("sides", layer, head)

        def work(progress: Progress) -> Cells:
            return np.concatenate(sides_of(opened.layer.attention, number, progress=progress)).astype(np.float32)

        return self._long(key, opened, work, lambda sides: self._kept.put(key, sides, sides.nbytes))

    def _long(self, key: Key, opened: _Open, make: Callable[[Progress], Any], keep: Callable[[Any], None]) -> _Job:
        """A pass over a head: the one in work, or a new one. It ends when nobody waits or asks for it any more."""
        rows, number = opened.pyramid.item.T, opened.layer.heads[key[-1]]
        self._done.setdefault(key, 0)

        def work() -> Any:
            title = f"layer {opened.layer.label}, head {number}" if len(self.layers) > 1 else f"head {number}"
            self._done[key] = 0
            job = self._jobs[key]
            with self._watch(rows, title) as shown:

                def progress(done: int) -> None:
                    if self._stopping:
                        raise Stopped
                    if not job.wanted:
                        raise Unwanted
                    self._done[key] += done
                    if shown is not None:
                        shown(done)

                progress(0)
                return make(progress)

        return self._job(key, self._passes, work, keep)

    async def _kept_or(
        self, key: Key, work: Callable[[], Any], size: Callable[[Any], int] = lambda cells: int(cells.nbytes)
    ) -> Any:
        if key in self._kept:
            return self._kept.get(key)
        job = self._job(key, self._tiles, work, lambda made: self._kept.put(key, made, size(made)))
        return await self._wait(key, job)

    def _job(self, key: Key, pool: ThreadPoolExecutor, work: Callable[[], Any], keep: Callable[[Any], None]) -> _Job:
        """The job of this key: the one in work, or a new one."""
        if key in self._failed:
            raise self._failed[key]
        if key in self._jobs:
            return self._jobs[key]
        if self._stopping:
            raise Stopped
        told = Event()  # work may look its job up
        running = pool.submit(lambda: told.wait() and work())
        job = _Job(running, asyncio.wrap_future(running))
        self._jobs[key] = job
        told.set()

        def finished(future: asyncio.Future[Any]) -> None:
            if self._jobs.get(key) is job:
                del self._jobs[key]
            if future.cancelled():
                return
            error = future.exception()
            if error is None:
                keep(future.result())
            elif isinstance(error, InputError):
                self._failed[key] = error

        job.future.add_done_callback(finished)
        return job

    async def _wait(self, key: Key, job: _Job) -> Any:
        job.waiting += 1
        try:
            return await asyncio.shield(job.future)
        finally:
            job.waiting -= 1
            # One that runs already goes on for a while, and what it makes is kept. One that doesn't is out of the way
            # at once, so that who asks next begins it anew.
            if not job.wanted and job.running.cancel() and self._jobs.get(key) is job:
                del self._jobs[key]


class Kept:
    """Values by key, the least recently used forgotten when they are more than ``most`` bytes.

    >>> kept = Kept(10)
    >>> for number in range(3):
    ...     kept.put((number,), number, 5)
    >>> (0,) in kept, (2,) in kept
    (False, True)
    """

    def __init__(self, most: int) -> None:
        self.most, self.bytes = most, 0
        self._values: OrderedDict[Key, tuple[Any, int, Callable[[], object] | None]] = OrderedDict()
        self._pins: Counter[Key] = Counter()

    def __contains__(self, key: Key) -> bool:
        return key in self._values

    def get(self, key: Key) -> Any:
        """The value, which is now the most recently used; None where it is not there."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: Key, value: Any, size: int, forget: Callable[[], object] | None = None) -> None:
        """Keeps a value of ``size`` bytes; ``forget`` is called when it is dropped."""
        if key in self._values:
            self.bytes -= self._values.pop(key)[1]
        self._values[key] = (value, size, forget)
        self.bytes += size
        self._fit()

    @contextmanager
    def pinned(self, key: Key) -> Iterator[None]:
        """A block in which the value is not dropped."""
        self._pins[key] += 1
        try:
            yield
        finally:
            self._pins[key] -= 1
            if not self._pins[key]:
                del self._pins[key]
                self._fit()

    def _fit(self) -> None:
        newest = next(reversed(self._values), None)
        for key in list(self._values):
            if self.bytes <= self.most:
                return
            if key == newest or key in self._pins:
                continue
            _, size, forget = self._values.pop(key)
            self.bytes -= size
            if forget is not None:
                forget()


def _cells(layer: PageLayer) -> int:
    """How many weights a pass over one head computes, about."""
    reach, item = layer.pattern.reach(layer.item), layer.item
    across = 0 if reach.keys is None else len(reach.keys)
    if reach.band:
        across += reach.width(item.T, item.S)
    return item.T * min(across, item.S)


def _coarse(layer: PageLayer, head: int) -> Thumbnail:
    """One query of each row of the thumbnail, over all keys."""
    item = layer.item
    edges, columns = (bin_edges(range(n), min(n, _THUMBNAIL)) for n in (item.T, item.S))
    rows = torch.as_tensor((edges[:-1] + edges[1:]) // 2)
    found = layer.attention.rows(head).read(rows)
    values = np.where(found.seen.numpy(), found.values.numpy(), np.nan).astype(np.float32)
    whole = np.full((len(rows), item.S), np.nan, dtype=np.float32)
    whole[:, found.keys.numpy()] = values
    return Thumbnail(np.fmax.reduceat(whole, columns[:-1], axis=1), len(rows))


def _check_index(name: str, index: int, size: int) -> None:
    if not 0 <= index < size:
        raise OutOfRange(f"{name} {index} is out of range; there are {size}")


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file's content; None where there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
