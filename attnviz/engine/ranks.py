"""Maps over several processes: a rank that has nothing to do takes the next rows of a head, rank 0 puts the pictures together.

Parts of the rows of all heads of a layer are one queue. At the next layer ranks meet, to see that all have read the same.

Parts are cut where blocks of rows end in a single process too, so that the picture has the same bits however many
ranks make it. A rank reads the queries of its parts only. Started by ``torchrun --nproc-per-node N -m attnviz ...``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from textwrap import shorten
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from attnviz.attention.item import AttentionItem
from attnviz.base.errors import InputError
from attnviz.base.types import Positions, Progress
from attnviz.engine.attention import Attention, Rows
from attnviz.engine.blocks import Block
from attnviz.engine.checkpoint import Checkpoint, key_of, queries_of
from attnviz.engine.identity import read_alike
from attnviz.engine.plan import PARTS_A_RANK, Plan, Whole, numbers, rows_of_parts
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
        """As :meth:`attnviz.engine.attention.Attention.reduced`, in parts; the whole of it on rank 0, blank cells on others.

        Args:
            attention, head, row_edges, column_edges, wanted: as there; progress is told as far as this rank knows it.
            checkpoint: where parts are kept, and those of a run before this one are found.

        Raises:
            RankError: another rank stopped.
        """
        made = attention, (head,), row_edges, column_edges, wanted
        return self.reduce_maps(*made, checkpoint=checkpoint, sums=True)[0]

    def reduce_maps(
        self,
        attention: Attention,
        heads: Sequence[int],
        row_edges: Positions,
        column_edges: Positions,
        wanted: Wanted,
        *,
        checkpoint: Checkpoint | None = None,
        sums: bool = False,
    ) -> list[Reduced]:
        """As :meth:`attnviz.engine.attention.Attention.cells_of`: parts of several heads are one queue.

        Args:
            attention, heads, row_edges, column_edges, wanted: as there.
            checkpoint: as :meth:`reduce_map` has it.
            sums: whether maps have their denominators.

        Raises:
            RankError: another rank stopped.
        """
        making = _Making(self, attention, heads, (row_edges, column_edges), wanted, checkpoint, sums=sums)
        alone, name, channel = count(), f"maps {next(self._maps)}", self.channel
        for part in making.parts(lambda: next(alone) if channel is None else channel.ticket(name), wanted.progress):
            making.make(part)
        return making.maps.gathered()

    def wait(self) -> None:
        """Returns when every rank has come here: those without a part too, before rank 0 writes.

        Raises:
            RankError: another rank stopped.
        """
        if self.channel is not None:
            self.channel.wait()


class _Making:
    """The maps of heads while this rank makes parts of them."""

    def __init__(
        self,
        ranks: Ranks,
        attention: Attention,
        heads: Sequence[int],
        edges: tuple[Positions, Positions],
        wanted: Wanted,
        checkpoint: Checkpoint | None,
        *,
        sums: bool,
    ) -> None:
        self.ranks, self.attention, self.heads, self.checkpoint = ranks, attention, heads, checkpoint
        self.edges, self.wanted = edges, wanted.but(progress=None)
        item, pattern = attention.item, attention.pattern
        self.keys = [key_of(item, pattern, head, edges, wanted) for head in heads] if checkpoint is not None else []
        self.maps = _Maps(ranks, self._agreed(), edges, wanted.reductions, sums=sums)

    def _agreed(self) -> list[Plan]:
        """What rank 0 plans of each head, which the others hear, who tell it what they have read.

        Raises:
            InputError: a rank has read something else than rank 0.
        """
        channel, item = self.ranks.channel, self.attention.item
        if channel is None:
            return self._planned()
        own = _bytes(read_alike(item, self.attention.pattern, self.heads))
        if self.ranks.rank == 0:
            plans, others = self._planned(), range(1, self.ranks.size)
            said = _bytes(json.dumps([plan.written() for plan in plans]).encode())
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
            return plans
        channel.send(own, 0)
        first, length = torch.empty_like(own), torch.empty(1, dtype=torch.int64)
        channel.receive(first, 0)
        channel.receive(length, 0)
        said = torch.empty(int(length), dtype=torch.uint8)
        channel.receive(said, 0)
        if not torch.equal(first, own):
            channel.arrived()
            raise _apart(item, self.ranks.rank)
        return [Plan.read(text) for text in json.loads(said.numpy().tobytes())]

    def _planned(self) -> list[Plan]:
        item, pattern = self.attention.item, self.attention.pattern
        tile = self.wanted.tile_of(item, *self.edges, pattern)
        shared = {"ranks": self.ranks.size, "heads": len(self.heads)}
        made = [Plan.of(item, pattern.of_head(head), self.edges[0], tile, **shared) for head in self.heads]
        if self.checkpoint is None:
            return made
        return [self.checkpoint.plan(key, plan) for key, plan in zip(self.keys, made, strict=True)]

    def parts(self, ticket: Callable[[], int], progress: Progress | None) -> Iterator[int]:
        """The parts that this rank is to make, one after another, when it comes to them.

        What is done already, or taken by another rank, counts as done.
        """
        rows, told = [rows for plan in self.maps.plans for rows in rows_of_parts(plan, self.edges[0])], 0

        def tell(until: int) -> None:
            nonlocal told
            if progress is not None and until > told:
                progress(sum(rows[told:until]))
                told = until

        while (part := ticket()) < len(rows):
            tell(part)
            yield part
            tell(part + 1)
        tell(len(rows))

    def make(self, part: int) -> None:
        """Makes a part of all, or takes that of a run before this one."""
        n, of_head = self.maps.places[part]
        plan, head = self.maps.plans[n], self.heads[n]
        edges, queries = plan.edges(of_head, self.edges[0]), ""
        made = None
        if self.checkpoint is not None:
            rows = range(int(edges[0]), int(edges[-1]))
            queries = queries_of(self.attention.item, self.attention.pattern, head, rows)
            made = self.checkpoint.load(self.keys[n], plan, of_head, queries)
        if made is None or not made.is_of(edges, self.edges[1], self.wanted.reductions):
            # The tile is that of the whole picture: a smaller part must not get larger tiles.
            made = self.attention.reduced(head, edges, self.edges[1], self.wanted.but(tile=plan.tile))
            if self.checkpoint is not None:
                self.checkpoint.save(self.keys[n], plan, of_head, queries, made)
        self.maps.put(part, made)


class _Maps:
    """Maps whose parts come in: on rank 0 the whole of them; others keep their own parts until they are sent."""

    def __init__(
        self,
        ranks: Ranks,
        plans: Sequence[Plan],
        edges: tuple[Positions, Positions],
        reductions: Sequence[str],
        *,
        sums: bool,
    ) -> None:
        self.ranks, self.plans, self.edges, self.reductions, self.sums = ranks, plans, edges, reductions, sums
        self.places = [(n, part) for n, plan in enumerate(plans) for part in range(len(plan))]
        columns = len(edges[1]) - 1
        self.wholes = [Whole(plan, edges[0], columns, reductions, sums=sums) for plan in plans if ranks.rank == 0]
        self.own: dict[int, Reduced] = {}
        self.settled = 0  # heads whose parts have changed hands

    def put(self, part: int, made: Reduced) -> None:
        """Takes a part in that this rank made; of heads that are behind, parts change hands."""
        made = made if self.sums else made.alone()
        if self.ranks.rank:
            self.own[part] = made
            self._send(self.places[part][0])
        else:
            n, of_head = self.places[part]
            self.wholes[n].put(of_head, made)
            # So far behind that hardly anyone is still at it: a rank that has gone is noticed before the end.
            self._receive(self.places[max(0, part - PARTS_A_RANK * self.ranks.size)][0])

    def _send(self, until: int) -> None:
        """Sends rank 0 this rank's parts of the heads before ``until``: which there are, and their numbers."""
        channel = self.ranks.channel
        while channel is not None and self.settled < until:
            parts = [part for part, (n, _) in enumerate(self.places) if n == self.settled]
            channel.send(torch.tensor([part in self.own for part in parts], dtype=torch.int64), 0)
            for part in parts:
                for values in numbers(self.own.pop(part)) if part in self.own else ():
                    channel.send(values, 0)
            self.settled += 1

    def _receive(self, until: int) -> None:
        """Takes in the others' parts of the heads before ``until``."""
        channel = self.ranks.channel
        while channel is not None and self.settled < until:
            whole = self.wholes[self.settled]
            for other in range(1, self.ranks.size):
                theirs = torch.empty(len(whole.plan), dtype=torch.int64)
                channel.receive(theirs, other)
                for part in theirs.nonzero()[:, 0].tolist():
                    for place in whole.arrays(part):
                        channel.receive(place, other)
                    whole.missing.discard(part)
            self.settled += 1

    def gathered(self) -> list[Reduced]:
        """The maps on rank 0; the others send it their parts, and have nothing to show."""
        if self.ranks.rank:
            self._send(len(self.plans))
            return [_nothing(self.edges, self.reductions, sums=self.sums) for _ in self.plans]
        self._receive(len(self.plans))
        return [whole.result() for whole in self.wholes]


def _bytes(said: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(said), dtype=torch.uint8)


def _nothing(edges: tuple[Positions, Positions], reductions: Sequence[str], *, sums: bool) -> Reduced:
    """What a rank has to show whose parts are on their way to rank 0: blank cells."""
    rows, columns = (len(one) - 1 for one in edges)
    blank = {name: np.full((rows, columns), np.nan) for name in reductions}
    queries = int(edges[0][-1] - edges[0][0]) if sums else 0
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

    def cells_of(
        self, heads: Sequence[int], row_edges: Positions, column_edges: Positions, **wanted: Any
    ) -> list[Reduced]:
        made = self._alone, heads, row_edges, column_edges, Wanted(**wanted)
        return self._ranks.reduce_maps(*made, checkpoint=self._checkpoint)

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
