"""Maps over several processes: a rank takes a part of the rows when it has none, rank 0 puts the picture together.

Parts are cut where blocks of rows end in a single process too, so that the picture has the same bits however many
ranks make it. A rank reads the queries of its parts only. Started by ``torchrun --nproc-per-node N -m attnviz ...``.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import count
from textwrap import shorten
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.base.errors import InputError
from attnviz.base.types import Positions, Progress
from attnviz.engine.attention import Attention, Rows
from attnviz.engine.blocks import Block
from attnviz.engine.checkpoint import Checkpoint, key_of, queries_of, take_in
from attnviz.engine.plan import Plan, Whole, numbers, rows_of_parts
from attnviz.engine.reducer import Reduced, Wanted


class RankError(RuntimeError):
    """Another rank stopped before the work was done."""


class Channel(Protocol):
    """How ranks talk."""

    def ticket(self, name: str) -> int:
        """How often this was called with a name, by any rank, before."""

    def send(self, tensor: torch.Tensor, to: int) -> None:
        """Sends a tensor to a rank, and returns before it is there."""

    def receive(self, tensor: torch.Tensor, source: int) -> None:
        """Fills a tensor with the next that a rank sent here."""

    def arrived(self) -> None:
        """Returns when all is there that was sent from here."""

    def wait(self) -> None:
        """Returns when every rank has come here, and all has arrived."""


class Processes:
    """The processes that ``torchrun`` started, as PyTorch has them talk. Raises RankError where one of them is gone."""

    def __init__(self, device: torch.device) -> None:
        """``device``: where tensors travel from and to."""
        self._store, self._where = _get_default_store(), device
        self._sent: list[tuple[torch.Tensor, Any]] = []

    def ticket(self, name: str) -> int:
        with _heard():
            return int(self._store.add(f"attnviz/{name}", 1)) - 1

    def send(self, tensor: torch.Tensor, to: int) -> None:
        self._sent = [(kept, work) for kept, work in self._sent if not work.is_completed()]
        moved = tensor.contiguous().to(self._where)
        with _heard():
            self._sent.append((moved, dist.isend(moved, to)))

    def receive(self, tensor: torch.Tensor, source: int) -> None:
        incoming = tensor if tensor.device == self._where and tensor.is_contiguous() else None
        incoming = torch.empty_like(tensor, device=self._where) if incoming is None else incoming
        with _heard():
            dist.recv(incoming, source)
        if incoming is not tensor:
            tensor.copy_(incoming)

    def arrived(self) -> None:
        with _heard():
            for _, work in self._sent:
                work.wait()
        self._sent = []

    def wait(self) -> None:
        self.arrived()
        with _heard():
            dist.barrier()


@contextmanager
def _heard() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RankError(
            f"another rank stopped before the work was done; nothing was written ({_first(error)})"
        ) from error


@dataclass(frozen=True)
class Ranks:
    """This process among those that make one picture; one alone has nobody to talk to."""

    rank: int
    size: int
    channel: Channel | None = None
    _maps: Iterator[int] = field(default_factory=count, repr=False, compare=False)

    def reduce_map(
        self,
        attention: Attention,
        head: int,
        row_edges: Positions,
        column_edges: Positions,
        wanted: Wanted,
        *,
        checkpoint: Checkpoint | None = None,
    ) -> Reduced:
        """As :meth:`attnviz.engine.attention.Attention.reduced`, in parts; the whole of it on rank 0, parts on others.

        Args:
            attention, head, row_edges, column_edges, wanted: as there; progress is told as far as this rank knows it.
            checkpoint: where parts are kept, and those of a run before this one are found.

        Raises:
            RankError: another rank stopped.
        """
        making = _Making(self, attention, head, row_edges, column_edges, checkpoint, wanted)
        alone, name, channel = count(), f"map {next(self._maps)}", self.channel
        for part in making.parts(lambda: next(alone) if channel is None else channel.ticket(name), wanted.progress):
            making.make(part)
        return making.gathered()

    def wait(self) -> None:
        """Returns when every rank has come here: those without a part too, before rank 0 writes.

        Raises:
            RankError: another rank stopped.
        """
        if self.channel is not None:
            self.channel.wait()


class _Making:
    """One map while this rank makes parts of it."""

    def __init__(
        self,
        ranks: Ranks,
        attention: Attention,
        head: int,
        row_edges: Positions,
        column_edges: Positions,
        checkpoint: Checkpoint | None,
        wanted: Wanted,
    ) -> None:
        self.ranks, self.attention, self.head, self.checkpoint = ranks, attention, head, checkpoint
        self.edges, self.wanted = (row_edges, column_edges), wanted.but(progress=None)
        item, pattern = attention.item, attention.pattern
        self.key = key_of(item, pattern, head, self.edges, wanted) if checkpoint is not None else ""
        self.plan = self._agreed()
        # Rank 0 has the whole of it; others keep their own parts until they are sent.
        columns = len(column_edges) - 1
        self.whole = Whole(self.plan, row_edges, columns, wanted.reductions) if ranks.rank == 0 else None
        self.own: dict[int, Reduced] = {}

    def _agreed(self) -> Plan:
        """What rank 0 plans, which the others hear, who tell it what they have read.

        Raises:
            InputError: a rank has read something else than rank 0.
        """
        channel, item = self.ranks.channel, self.attention.item
        if channel is None:
            return self._planned()
        own = _bytes(digest(item, self.attention.pattern, self.head))
        if self.ranks.rank == 0:
            plan, others = self._planned(), range(1, self.ranks.size)
            said = _bytes(plan.written().encode())
            for other in others:
                for one in (own, torch.tensor([len(said)]), said):
                    channel.send(one, other)
            heard = {other: torch.empty_like(own) for other in others}
            for other, theirs in heard.items():
                channel.receive(theirs, other)
            apart = [other for other, theirs in heard.items() if not torch.equal(theirs, own)]
            if apart:
                channel.arrived()
                raise _apart(item, apart[0])
            return plan
        channel.send(own, 0)
        first, length = torch.empty_like(own), torch.empty(1, dtype=torch.int64)
        channel.receive(first, 0)
        channel.receive(length, 0)
        said = torch.empty(int(length), dtype=torch.uint8)
        channel.receive(said, 0)
        if not torch.equal(first, own):
            channel.arrived()
            raise _apart(item, self.ranks.rank)
        return Plan.read(said.numpy().tobytes())

    def _planned(self) -> Plan:
        item, pattern = self.attention.item, self.attention.pattern
        tile = self.wanted.tile_of(item, *self.edges, pattern)
        made = Plan.of(item, pattern, self.edges[0], tile, ranks=self.ranks.size)
        return made if self.checkpoint is None else self.checkpoint.plan(self.key, made)

    def parts(self, ticket: Callable[[], int], progress: Progress | None) -> Iterator[int]:
        """The parts that this rank is to make, one after another, when it comes to them.

        What is done already, or taken by another rank, counts as done.
        """
        rows, told = rows_of_parts(self.plan, self.edges[0]), 0

        def tell(until: int) -> None:
            nonlocal told
            if progress is not None and until > told:
                progress(sum(rows[told:until]))
                told = until

        while (part := ticket()) < len(self.plan):
            tell(part)
            yield part
            tell(part + 1)
        tell(len(rows))

    def make(self, part: int) -> None:
        """Makes a part, or takes that of a run before this one."""
        edges, queries = self.plan.edges(part, self.edges[0]), ""
        made = None
        if self.checkpoint is not None:
            rows = range(int(edges[0]), int(edges[-1]))
            queries = queries_of(self.attention.item, self.attention.pattern, self.head, rows)
            made = self.checkpoint.load(self.key, self.plan, part, queries)
        if made is None or not made.is_of(edges, self.edges[1], self.wanted.reductions):
            # The tile is that of the whole picture: a smaller part must not get larger tiles.
            made = self.attention.reduced(self.head, edges, self.edges[1], self.wanted.but(tile=self.plan.tile))
            if self.checkpoint is not None:
                self.checkpoint.save(self.key, self.plan, part, queries, made)
        if self.whole is None:
            self.own[part] = made
        else:
            self.whole.put(part, made)

    def gathered(self) -> Reduced:
        """The whole map on rank 0; the others send it their parts, and have nothing to show."""
        channel = self.ranks.channel
        if self.whole is None:
            assert channel is not None
            own = torch.zeros(len(self.plan), dtype=torch.int64)
            own[list(self.own)] = 1
            channel.send(own, 0)
            for _, made in sorted(self.own.items()):
                for values in numbers(made):
                    channel.send(values, 0)
            return _nothing(self.edges, self.wanted.reductions)
        for other in range(1, self.ranks.size):
            assert channel is not None
            theirs = torch.empty(len(self.plan), dtype=torch.int64)
            channel.receive(theirs, other)
            for part in theirs.nonzero()[:, 0].tolist():
                for place in self.whole.arrays(part):
                    channel.receive(place, other)
                self.whole.missing.discard(part)
        return self.whole.result()


def _bytes(said: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(said), dtype=torch.uint8)


def _nothing(edges: tuple[Positions, Positions], reductions: Sequence[str]) -> Reduced:
    """What a rank has to show whose parts are on their way to rank 0: blank cells."""
    rows, columns = (len(one) - 1 for one in edges)
    blank = {name: np.full((rows, columns), np.nan) for name in reductions}
    queries = int(edges[0][-1] - edges[0][0])
    softmaxes = torch.full((queries, 2), torch.nan, dtype=torch.float64)
    return Reduced(blank.get("max"), blank.get("mass"), np.zeros(rows, dtype=np.int64), softmaxes)


def _apart(item: AttentionItem, rank: int) -> InputError:
    return InputError(
        f"{item.source}: rank {rank} has read other inputs than rank 0; give every rank the same file and the same options"
    )


class Shared(Attention):
    """An attention whose cells are made in parts, by several ranks together, or in several runs."""

    def __init__(self, alone: Attention, ranks: Ranks, checkpoint: Checkpoint | None = None) -> None:
        self.item, self.pattern, self._alone, self._ranks = alone.item, alone.pattern, alone, ranks
        self._checkpoint = checkpoint
        self.softmaxed = alone.softmaxed

    @property
    def pattern_name(self) -> str:
        return self._alone.pattern_name

    @property
    def given(self) -> bool:
        return self._alone.given

    @property
    def measured(self) -> str | None:
        return self._alone.measured

    def head_name(self, head: int) -> str | None:
        return self._alone.head_name(head)

    @property
    def finest(self) -> int | None:
        return self._alone.finest

    def edges(self, rows: range, columns: Sequence[int], down: int, across: int) -> tuple[Positions, Positions]:
        return self._alone.edges(rows, columns, down, across)

    def columns(self, keys: range | None = None) -> Sequence[int]:
        return self._alone.columns(keys)

    @property
    def knows_hidden(self) -> bool:
        return self._alone.knows_hidden

    @property
    def caveat(self) -> str | None:
        return self._alone.caveat

    def left_out(self, head: int, queries: range | None = None) -> float | None:
        return self._alone.left_out(head, queries)

    @property
    def name(self) -> str:
        return self._alone.name

    def rows(self, head: int, queries: range | None = None) -> Rows:
        return self._alone.rows(head, queries)

    def blocks(
        self, head: int, *, queries: range | None = None, weights: bool = True, sums: bool = False
    ) -> Iterator[Block]:
        return self._alone.blocks(head, queries=queries, weights=weights, sums=sums)

    def reduced(self, head: int, row_edges: Positions, column_edges: Positions, wanted: Wanted) -> Reduced:
        made = self._alone, head, row_edges, column_edges, wanted
        return self._ranks.reduce_map(*made, checkpoint=self._checkpoint)


@contextmanager
def ranks(device: str) -> Iterator[Ranks]:
    """This process among those that ``torchrun`` started; one alone where it did not.

    Args:
        device: the device asked for; ranks on CUDA talk by nccl, others by gloo.

    Raises:
        InputError: the processes do not find each other.
        RankError: another rank stopped.
    """
    said = os.environ.get("WORLD_SIZE") or "1"
    if not re.fullmatch("[1-9][0-9]{0,8}", said):
        raise InputError(f"WORLD_SIZE {said[:20]!r} is no number of ranks; unset it, or start with torchrun")
    size = int(said)
    if size == 1:
        yield Ranks(0, 1)
        return
    on_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    try:
        dist.init_process_group("nccl" if on_cuda else "gloo")
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{size} ranks were to work together and do not find each other: {_first(error)}") from error
    try:
        where = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
        world = Ranks(dist.get_rank(), size, Processes(where))
        yield world
        world.wait()  # nobody leaves before rank 0 has written
    finally:
        dist.destroy_process_group()


def digest(item: AttentionItem, pattern: Pattern, head: int) -> bytes:
    """32 bytes that say what a head's map is made of: sizes, settings, masks, keys, and rows of queries or weights."""
    inputs, rows = item.inputs, sorted({0, item.T // 2, item.T - 1})
    made = hashlib.sha256(repr((item.sizes, item.batch, head, str(pattern), str(item.dtype))).encode())
    for name in ("scale", "softcap", "cross"):
        made.update(repr(getattr(inputs, name, None)).encode())
    for part in getattr(inputs, "parts", ()):  # of a map that is made of others
        made.update(digest(part.item(item.batch, device=item.device), pattern, min(head, part.H - 1)))
    for one in fields(inputs):
        value = getattr(inputs, one.name)
        if not isinstance(value, torch.Tensor):
            continue
        if one.name in ("q", "weights", "logits"):  # each rank reads but its share of these
            value = value[item.batch, head, rows]
        elif one.name == "k":
            value = value[item.batch, item.kv_head(head)]
        elif value.ndim > 3:  # projections of global queries, values and biases are large
            value = value[..., :1, :]
        take_in(made, value, item.source)
    return made.digest()


def rank_device(device: str) -> str:
    """The device of this rank: with ``auto`` or ``cuda``, each rank of a machine has a GPU of its own."""
    local = os.environ.get("LOCAL_RANK")
    if local is None or device not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    return f"cuda:{int(local) % torch.cuda.device_count()}"


def _first(error: Exception) -> str:
    """The first words of an error: gloo's begin with a file of PyTorch's own and end with advice that helps nobody."""
    line = (str(error) or type(error).__name__).splitlines()[0]
    return shorten(re.sub(r"^\[.*?\] *", "", line), 100, placeholder="…")
