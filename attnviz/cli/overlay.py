"""The picture under ``attnviz plot --overlay``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnviz.base.errors import InputError
from attnviz.cli.options import Region

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from attnviz.attention.inputs import AttentionInputs
    from attnviz.maps.map import AttentionMap


@dataclass(frozen=True)
class PictureQuery:
    """One query of a vision model, the patches that it may see, and the picture they are cut from."""

    picture: Tensor  # (height, width, 3)
    patches: tuple[int, int]
    queries: range
    keys: range

    def draw(self, maps: Sequence[AttentionMap], **look: Any) -> Figure:
        """The heads' weights over the picture."""
        from attnviz.show.figures.overlay import overlays

        return overlays(self.picture.numpy(), maps, self.patches, **look)


def picture_query(
    source: Path | None, inputs: AttentionInputs, region: Region, values: str, batch: int = 0
) -> PictureQuery:
    """What ``--overlay`` shows.

    Raises:
        InputError: there is no picture, or more than one query, or options that make no sense here.
    """
    from attnviz.sources.dumps import picture_of

    if source is None:
        raise InputError("--overlay needs a dump with a picture; make one with: attnviz capture MODEL --image FILE")
    if values != "weights" or region.keys is not None:
        raise InputError("--overlay shows the weights of all patches; leave --values and --keys out")
    picture, (rows, columns) = picture_of(source)
    first = inputs.S - rows * columns
    if first < 0:
        raise InputError(f"{inputs.source}: has {inputs.S} keys, fewer than the picture's {rows} x {columns} patches")
    queries = region.ranges(inputs, batch)["queries"]
    if queries is None and not first:
        raise InputError(f"{inputs.source}: has no class token; choose a patch as the query with --queries A:B")
    queries = queries or range(1)
    if len(queries) != 1:
        raise InputError(f"--overlay shows one query; --queries {region.queries} names {len(queries)}")
    return PictureQuery(picture, (rows, columns), queries, range(first, inputs.S))
