"""Parts of maps that are done, kept in a directory, so that a run that was killed goes on from there.

A part is known by all that it is made of: keys, masks, modifiers, pattern, bins, its own queries, and the release that made
it. What was made of anything else is never taken up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.base.errors import InputError, is_memory
from attnviz.base.types import Positions
from attnviz.base.writing import atomic
from attnviz.engine.plan import Plan
from attnviz.engine.reducer import Reduced, Wanted
from attnviz.version import __version__

_UNREAD = ("q", "k", "v", "w_o", "q_global", "k_global", "v_global")
"""Large fields of inputs: read a head at a time, and values not at all."""

_SAID = (
    "source",
    "layer",
    "pattern",
    "tokens",
    "query_tokens",
    "token_form",
    "word_ids",
    "query_word_ids",
    "special_tokens",
    "query_special_tokens",
)
"""Fields that say what the inputs are, and change no number of a map under the pattern that was asked for."""


@dataclass(frozen=True)
class Checkpoint:
    """A directory of parts of maps; other maps may have theirs in it too."""

    folder: Path

    def prepare(self) -> None:
        """Makes the directory. Raises InputError where that can't be."""
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be a directory of parts: {error.strerror}") from error

    def plan(self, key: str, made: Plan) -> Plan:
        """The plan that a run before this one followed; else that which was made, for those after it."""
        path = self.folder / f"{key}.json"
        with suppress(OSError, ValueError):
            before = Plan.read(path.read_text(encoding="utf-8"))
            if before.cuts[-1] == made.cuts[-1]:
                return before
        self.prepare()
        with atomic(path) as temporary:
            temporary.write_text(made.written(), encoding="utf-8")
        return made

    def load(self, key: str, plan: Plan, part: int, queries: str) -> Reduced | None:
        """A part that was done, of the queries with this digest; None where there is none, or none that can be read."""
        try:
            with np.load(self._path(key, part), allow_pickle=False) as file:
                if str(file["queries"]) != queries or str(file["plan"]) != plan.written():
                    return None
                cells = {name: file[name] for name in ("max", "mass") if name in file}
                return Reduced(
                    cells.get("max"), cells.get("mass"), file["counts"], torch.from_numpy(file["denominators"])
                )
        except Exception as error:  # a damaged file makes numpy and zipfile raise almost anything
            if is_memory(error):
                raise
            return None

    def save(self, key: str, plan: Plan, part: int, queries: str, made: Reduced) -> None:
        """Keeps a part: whole, or not at all."""
        cells = {name: cells for name in ("max", "mass") if (cells := getattr(made, name)) is not None}
        with atomic(self._path(key, part)) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                queries=np.array(queries),
                plan=np.array(plan.written()),
                counts=made.counts,
                denominators=made.denominators.numpy(),
                **cells,
            )

    def _path(self, key: str, part: int) -> Path:
        return self.folder / f"{key}-{part}.npz"


def key_of(item: AttentionItem, pattern: Pattern, head: int, edges: Sequence[Positions], wanted: Wanted) -> str:
    """What a map is made of, save its queries and the tile that the first run settles, in 32 letters.

    Raises:
        InputError: a pattern that is made of code, which can't be told from other code.
    """
    made = hashlib.sha256()
    released = (__version__, torch.__version__, item.device.type, str(item.dtype), item.sizes, item.batch, head)
    for value in (
        released,
        wanted.but(tile=None, progress=None),
        tuple(edges),
        pattern.of_head(head),
        type(item.inputs).__name__,
    ):
        take_in(made, value, item.source)
    for field in fields(item.inputs):
        if field.name not in (*_UNREAD, *_SAID) and not field.name.startswith("_"):
            take_in(made, (field.name, getattr(item.inputs, field.name)), item.source)
    take_in(made, item.key(head), item.source)
    if pattern.global_queries and item.products.k_global is not None:
        take_in(made, item.key(head, for_global=True), item.source)
    return made.hexdigest()[:32]


def queries_of(item: AttentionItem, pattern: Pattern, head: int, rows: range) -> str:
    """The queries of a part, told from others."""
    made = hashlib.sha256()
    take_in(made, item.query(head, rows), item.source)
    if pattern.global_queries and item.products.q_global is not None:
        take_in(made, item.query(head, rows, for_global=True), item.source)
    return made.hexdigest()


def take_in(made: Any, value: Any, source: str) -> None:
    """Takes a value into a digest: what it is, and all that is in it."""
    if isinstance(value, torch.Tensor):
        made.update(repr((str(value.dtype), tuple(value.shape))).encode())
        rows = value.detach()
        size = max(1, (1 << 24) // max(1, rows[:1].numel())) if rows.ndim else 1
        for part in rows.split(size) if rows.ndim else (rows[None],):
            made.update(part.contiguous().cpu().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, np.ndarray):
        take_in(made, torch.from_numpy(np.ascontiguousarray(value)), source)
    elif is_dataclass(value) and type(value).__module__.startswith("attnviz."):
        made.update(type(value).__qualname__.encode())
        for field in fields(value):
            if not field.name.startswith("_"):
                take_in(made, (field.name, getattr(value, field.name)), source)
    elif isinstance(value, (tuple, list)):
        made.update(f"{type(value).__name__} {len(value)}".encode())
        for one in value:
            take_in(made, one, source)
    elif isinstance(value, dict):
        take_in(made, sorted(value.items()), source)
    elif value is None or isinstance(value, (bool, int, float, str, range, torch.dtype, torch.device)):
        made.update(repr(value).encode())
    else:
        raise InputError(
            f"{source}: a pattern or a setting made of code ({type(value).__name__}) can't be told from another when a run goes "
            f"on; leave --checkpoint out"
        )
