"""The numbers of a page's heads: every statistic of ``attnviz stats``, and what each head is in a word."""

from __future__ import annotations

import math
from typing import Any

import torch

from attnviz.base.types import Progress
from attnviz.measures.statistics import HeadStatistics, statistics_of
from attnviz.pages.description import PageLayer


def head_numbers(layer: PageLayer, head: int, progress: Progress | None = None) -> dict[str, Any]:
    """One head's statistics by name, its tag and the statistic that gave it: numbers, and None where there is none.

    Args:
        layer: the layer.
        head: what the layer calls the head.
        progress: called with the number of query rows done.

    >>> import attnviz
    >>> layer = PageLayer("0", attnviz.synthesize(heads=1).item(), attnviz.Local(0), (0,))
    >>> numbers = head_numbers(layer, 0)
    >>> numbers["diagonal_mass"], numbers["tag"], numbers["tag_score"]
    (1.0, 'self', 1.0)
    """
    item = layer.item
    with torch.no_grad(), torch.autocast(item.device.type, enabled=False):
        found: HeadStatistics = statistics_of(layer.attention.blocks(head, sums=True), head, item, progress=progress)
    values = {name: one if one is not None and math.isfinite(one) else None for name, one in found.values.items()}
    return {**values, "tag": found.tag, "tag_score": found.tag_score}


def layer_numbers(layer: PageLayer, progress: Progress | None = None) -> dict[str, list[Any]]:
    """The same of every head of a layer, a list each, in the order of the page."""
    each = [head_numbers(layer, head, progress) for head in layer.heads]
    return {name: [one[name] for one in each] for name in each[0]}
