"""The numbers of a page's heads: every statistic of ``attnviz stats``, and what each head is in a word."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from attnviz.base.types import Progress
from attnviz.engine.blocks import Block
from attnviz.measures.statistics import HeadStatistics, statistics_of
from attnviz.pages.description import PageLayer


def head_numbers(
    layer: PageLayer, head: int, progress: Progress | None = None, *, blocks: Iterable[Block] | None = None
) -> dict[str, Any]:
    """One head's statistics by name, its tag and the statistic that gave it: numbers, and None where there is none.

    Args:
        layer: the layer.
        head: what the layer calls the head.
        progress: called with the number of query rows done.
        blocks: its weights with each query's largest logit, block by block; None reads them.

    >>> import attnviz
    >>> layer = PageLayer("0", attnviz.synthesize(heads=1).item(), attnviz.Local(0), (0,))
    >>> numbers = head_numbers(layer, 0)
    >>> numbers["diagonal_mass"], numbers["tag"], numbers["tag_score"]
    (1.0, 'self', 1.0)
    """
    item = layer.item
    with torch.no_grad(), torch.autocast(item.device.type, enabled=False):
        read = layer.attention.blocks(head, sums=True) if blocks is None else blocks
        found: HeadStatistics = statistics_of(read, head, item, progress=progress)
    values = {name: one if one is not None and math.isfinite(one) else None for name, one in found.values.items()}
    return {**values, "tag": found.tag, "tag_score": found.tag_score}
