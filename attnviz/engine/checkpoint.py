"""Parts of maps that are done, kept in a directory, so that a run that was killed goes on from there.

A part is known by all that it is made of: keys, masks, modifiers, pattern, bins, its own queries, and the release that made
it. What was made of anything else is never taken up.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from attnviz.attention.item import AttentionItem
from attnviz.attention.patterns import Pattern
from attnviz.base.errors import InputError, is_memory
from attnviz.base.types import Positions
from attnviz.base.writing import atomic
from attnviz.engine.identity import Identity, take_made_of, take_rows
from attnviz.engine.plan import Plan
from attnviz.engine.reducer import Reduced, Wanted
from attnviz.version import __version__


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
    """What a map is made of, save its rows and the tile that the first run settles, in 32 letters.

    Raises:
        InputError: a pattern that is made of code, which can't be told from other code.
    """
    identity = Identity(item.source)
    identity.take(__version__, torch.__version__, item.device.type, wanted.but(tile=None, progress=None), tuple(edges))
    take_made_of(identity, item, pattern, (head,))
    return identity.bytes.hex()[:32]


def queries_of(item: AttentionItem, pattern: Pattern, head: int, rows: range) -> str:
    """The queries of a part, told from others."""
    identity = Identity(item.source)
    take_rows(identity, item, pattern, head, rows)
    return identity.bytes.hex()
