"""What a query sees of a picture, or the patches of a picture see, over that picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from attnviz.base.errors import InputError, not_one_of
from attnviz.plots.kind import Parts, Reader
from attnviz.plots.kinds.heatmap import OfHeads
from attnviz.plots.look import Look
from attnviz.plots.said import said

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from attnviz.base.patches import Patches, PatchSpec
    from attnviz.base.types import Progress
    from attnviz.engine.request import Request

_SIDES = ("keys", "queries")
_MOST_BEFORE = 16  # tokens before the patches of a vision model: its class token, and registers


@dataclass(frozen=True)
class Overlay(OfHeads):
    """Lay what the class token sees, or the query of --queries, over the picture it looks at.

    Several queries are averaged; where there is no class token, all patches are. ``grid="queries"`` lays what each patch gives
    to the key of ``keys`` over the picture.
    """

    name: ClassVar[str] = "overlay"
    unused: ClassVar[Mapping[str, str]] = {"values": "--overlay shows weights; leave --values out"}

    picture: Path | Tensor | None = said(
        None, "The picture that the patches are of, PNG or JPEG.  \\[default: the dump's]", type=Path, metavar="FILE"
    )
    patches: PatchSpec | None = said(
        None,
        "How patches lie among the keys: 24x24, the last of them; 5:24x24, from 5 on; 5:2x2*24x24,2309:24x24, tiles and a "
        "thumbnail; +1 after it, a token ends each row.  \\[default: the dump's]",
        type=str,
        metavar="GRID",
    )
    grid: str = said("keys", "What the patches are: keys, or queries of the key of --keys.")
    each: bool = said(False, "A picture for each query of --queries, in place of their mean.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid not in _SIDES:
            raise not_one_of("--grid", self.grid, _SIDES)
        if self.each and self.grid == "queries":
            raise InputError("--each: it is of queries, and with --grid queries these are the patches; leave it out")

    def reading(self, reader: Reader) -> Overlay:
        path = self.picture if isinstance(self.picture, Path) else None
        picture, patches = reader.picture(path, needed=self.patches is None)
        return replace(self, picture=picture, patches=self.patches or patches)

    def asked(self, request: Request) -> Request:
        from attnviz.attention.merged import MergedInputs

        made = request.inputs
        if isinstance(made, MergedInputs) and (made.T, made.S) != (made.base.T, made.base.S):
            raise InputError("--overlay shows single patches; leave --merge and --spans out")
        patches = self.laid(request)
        shown = request.but(every_key=True, reduce="mass")
        if self.grid == "queries":
            keys = request.keys
            assert keys is not None
            if len(keys) == request.inputs.S > 1:
                raise InputError("--overlay --grid queries shows what the patches give to a key; name it with --keys")
            return shown.but(queries=patches.span, shape=(len(patches.span), 1))
        if len(request.keys or ()) < request.inputs.S:
            raise InputError("--overlay shows the weights of all patches; leave --keys out")
        queries = self.queries(request, patches)
        rows = len(queries) if self.each else 1
        return shown.but(queries=queries, keys=patches.span, shape=(rows, len(patches.span)))

    def laid(self, request: Request) -> Patches:
        """The patches among the positions of the side they are on."""
        from attnviz.base.patches import Patches

        assert self.patches is not None
        size = request.inputs.S if self.grid == "keys" else request.inputs.T
        return Patches.of(self.patches, size, source=request.inputs.source, noun=self.grid)

    def queries(self, request: Request, patches: Patches) -> range:
        """The queries that are averaged, or shown each."""
        inputs, first = request.inputs, patches.span.start
        if len(request.rows) < inputs.T or inputs.T == 1:
            return request.rows
        if self.each:
            raise InputError("--each: a picture for each of all queries is too many; name some with --queries A:B")
        after = inputs.S - patches.span.stop
        if inputs.cross or inputs.T != inputs.S or after or first > _MOST_BEFORE:
            raise InputError(f"{inputs.source}: its queries are no patches; name one, or several, with --queries")
        return range(1) if first else patches.span

    def fitted(self, request: Request, look: Look, ax: Axes | None = None) -> Request:
        return request  # a cell a patch

    def compute(self, request: Request, progress: Progress | None = None) -> Parts:
        if not self.each:
            return replace(self.maps(request, progress), more=self._about(request))
        each = [request.but(queries=request.rows[n : n + 1]) for n in range(len(request.rows))]
        found = [self.maps(one, progress) for one in each]
        return replace(
            found[0], maps=tuple(shown for parts in found for shown in parts.maps), more=self._about(request)
        )

    def _about(self, request: Request) -> dict[str, Any]:
        """The patches, and what is said of what they show."""
        rows, count = request.rows, len(request.rows)
        item, keys = request.item, request.keys
        assert keys is not None
        if self.grid == "queries":
            name = _name(item.key_labels(keys), keys, "key")
            told = f"what each patch gives to {name}"
        elif self.each:
            told = f"what each of {count} queries sees"
        elif count > 1:
            told = f"what {count} queries see, on average"
        else:
            told = f"what {_name(item.query_labels(rows), rows, 'query')} sees"
        return {"patches": self.laid(request), "told": told}

    def draw(self, parts: Parts, look: Look, ax: Axes | None = None) -> Figure:
        import numpy as np

        from attnviz.show.figures.overlay import overlays

        patches = parts.more["patches"]
        one = (1, patches.shape[0] * patches.shape[1]) if len(patches.grids) == 1 else None  # of keys, which have names
        laid = tuple(
            shown if shown.cells.shape == one else replace(shown, cells=patches.laid(shown.cells.ravel()))
            for shown in parts.maps
        )
        picture = self.picture
        assert not isinstance(picture, Path)
        page = np.full((16 * patches.shape[0], 16 * patches.shape[1], 3), 255, dtype=np.uint8)
        drawn = page if picture is None else picture.numpy()
        words = look.words(parts.spoken, parts.source, scale=look.fitted(laid))
        heads = {shown.heads_name for shown in laid}
        titles = [_panel(shown, several=len(heads) > 1) for shown in laid] if self.each else None
        return overlays(drawn, laid, patches.shape, told=parts.more["told"], titles=titles, **words)


def _name(labels: Any, positions: range, noun: str) -> str:
    """What a query or key is called, or how many there are."""
    if len(positions) > 1:
        return f"{noun}s {positions.start} to {positions.stop - 1}"
    from attnviz.base.labels import position_said

    return position_said(noun, positions.start, labels[0] if labels else None)


def _panel(shown: Any, *, several: bool) -> str:
    """What a query's own picture is called; of which head, where there are several."""
    query = _name(shown.query_labels, shown.queries, "query")
    return f"{shown.heads_name}, {query}" if several else query
