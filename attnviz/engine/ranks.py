"""One map over several processes: each rank reduces a share of the query rows, rank 0 puts the picture together.

Shares are cut where blocks of rows end in a single process too, so that the picture has the same bits however many
ranks make it. A rank reads the queries of its share only. Started by ``torchrun --nproc-per-node N -m attnviz ...``.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from textwrap import shorten
from typing import Any

import torch
import torch.distributed as dist

from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.base.errors import InputError
from attnviz.base.types import Positions
from attnviz.engine.attention import Attention, Rows
from attnviz.engine.blocks import Block
from attnviz.engine.reducer import Reduced, row_groups
from attnviz.engine.tiles import TileSize


class RankError(RuntimeError):
    """Another rank stopped before the work was done."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that make one picture."""

    rank: int
    size: int

    def reduce_map(
        self, attention: Attention, head: int, row_edges: Positions, column_edges: Positions, **options: Any
    ) -> Reduced:
        """As :meth:`attnviz.engine.attention.Attention.cells`, over all ranks; the whole of it on rank 0, a share on others.

        Raises:
            RankError: another rank stopped.
        """
        reductions = tuple(options.get("reductions", ("max",)))
        item, pattern = attention.item, attention.pattern
        shape = (len(row_edges) - 1, len(column_edges) - 1)
        memory = options.get("memory")
        tile = TileSize.fitting(item, shape, reductions=len(reductions), memory=memory, pattern=pattern)
        cuts = shares(item, pattern, row_edges, tile.rows, self.size)
        first, last = cuts[self.rank], cuts[self.rank + 1]
        own = None
        if first < last:
            edges = row_edges[first : last + 1]
            # The tile is that of the whole picture: a smaller share must not get larger tiles.
            own = attention.cells(head, edges, column_edges, **{**options, "tile": tile})
        try:
            self._agree(digest(item, pattern, head), item)
            return self._gathered(item, own, cuts, row_edges, shape, reductions)
        except RuntimeError as error:
            raise RankError(
                f"another rank stopped before the map was done; nothing was written ({_first(error)})"
            ) from error

    def wait(self) -> None:
        """Returns when every rank has come here: those without a share too, before rank 0 writes.

        Raises:
            RankError: another rank stopped.
        """
        if self.size == 1:
            return
        try:
            dist.barrier()
        except RuntimeError as error:
            raise RankError(f"another rank stopped before the work was done ({_first(error)})") from error

    def _agree(self, own: bytes, item: AttentionItem) -> None:
        """Raises InputError, on every rank, where one has read something else than the first."""
        where = item.device if dist.get_backend() == "nccl" else torch.device("cpu")
        mine = torch.frombuffer(bytearray(own), dtype=torch.uint8).to(where)
        every = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(every, mine)
        apart = [rank for rank, one in enumerate(every) if not torch.equal(one, every[0])]
        if apart:
            raise InputError(
                f"{item.source}: rank {apart[0]} has read other inputs than rank 0; give every rank the same file and the "
                f"same options"
            )

    def _gathered(
        self,
        item: AttentionItem,
        own: Reduced | None,
        cuts: list[int],
        row_edges: Positions,
        shape: tuple[int, int],
        reductions: tuple[str, ...],
    ) -> Reduced:
        where = item.device if dist.get_backend() == "nccl" else torch.device("cpu")

        def gather(name: str, whole: torch.Tensor, bounds: Sequence[int]) -> torch.Tensor:
            """Fills ``whole`` on rank 0 with every rank's rows, those from bounds[r] to bounds[r + 1]."""
            if self.rank:
                if own is not None:
                    dist.send(torch.as_tensor(getattr(own, name)).contiguous().to(where), 0)
                return whole
            for rank in range(self.size):
                if bounds[rank] == bounds[rank + 1]:
                    continue
                target = whole[bounds[rank] : bounds[rank + 1]]
                if rank == 0:
                    assert own is not None
                    target.copy_(torch.as_tensor(getattr(own, name)))
                else:
                    incoming = torch.empty_like(target, device=where)
                    dist.recv(incoming, rank)
                    target.copy_(incoming)
            return whole

        cells = {name: gather(name, torch.empty(shape, dtype=torch.float64), cuts).numpy() for name in reductions}
        counts = gather("counts", torch.empty(shape[0], dtype=torch.int64), cuts).numpy()
        rows = [int(row_edges[cut]) - int(row_edges[0]) for cut in cuts]
        softmaxes = gather("denominators", torch.empty(rows[-1], 2, dtype=torch.float64), rows)
        return Reduced(cells.get("max"), cells.get("mass"), counts, softmaxes)


class Shared(Attention):
    """An attention whose cells several ranks make together, each a share of the rows."""

    def __init__(self, alone: Attention, ranks: Ranks) -> None:
        self.item, self.pattern, self._alone, self._ranks = alone.item, alone.pattern, alone, ranks
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
        self, head: int, *, queries: range | None = None, weights: bool = True, largest: bool = False
    ) -> Iterator[Block]:
        return self._alone.blocks(head, queries=queries, weights=weights, largest=largest)

    def cells(self, head: int, row_edges: Positions, column_edges: Positions, **options: Any) -> Reduced:
        return self._ranks.reduce_map(self._alone, head, row_edges, column_edges, **options)


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
        world = Ranks(dist.get_rank(), size)
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
    for field in fields(inputs):
        value = getattr(inputs, field.name)
        if not isinstance(value, torch.Tensor):
            continue
        if field.name in ("q", "weights", "logits"):  # each rank reads but its share of these
            value = value[item.batch, head, rows]
        elif field.name == "k":
            value = value[item.batch, item.kv_head(head)]
        elif value.ndim > 3:  # projections of global queries, values and biases are large
            value = value[..., :1, :]
        made.update(value.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return made.digest()


def rank_device(device: str) -> str:
    """The device of this rank: with ``auto`` or ``cuda``, each rank of a machine has a GPU of its own."""
    local = os.environ.get("LOCAL_RANK")
    if local is None or device not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    return f"cuda:{int(local) % torch.cuda.device_count()}"


def shares(item: AttentionItem, pattern: Pattern, row_edges: Positions, rows: int, size: int) -> list[int]:
    """Where to cut rows of cells into ``size`` shares of about the same work: ``size + 1`` indices of ``row_edges``.

    Cuts lie between groups of rows, as :func:`attnviz.engine.reducer.row_groups` makes them.
    """
    reach = pattern.reach(item)
    shared = 0 if reach.keys is None else len(reach.keys)
    work, ends = [0], [0]
    for group in row_groups(row_edges, rows * reach.step):
        work.append(work[-1] + len(group) * (sum(map(len, reach.spans(group, item.S))) + shared))
        ends.append(group.stop)
    index = {int(edge): n for n, edge in enumerate(row_edges)}
    places = [(done, index[end]) for done, end in zip(work[1:], ends[1:], strict=True) if end in index]
    cuts = [0]
    for rank in range(1, size):
        wanted = work[-1] * rank / size
        cuts.append(max(cuts[-1], min(places, key=lambda place: abs(place[0] - wanted))[1]))
    return [*cuts, len(row_edges) - 1]


def _first(error: Exception) -> str:
    """The first words of an error: gloo's begin with a file of PyTorch's own and end with advice that helps nobody."""
    line = (str(error) or type(error).__name__).splitlines()[0]
    return shorten(re.sub(r"^\[.*?\] *", "", line), 100, placeholder="…")
