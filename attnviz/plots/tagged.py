"""Heads by what they do: sorted by their tags, and named by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attnviz.base.types import Label
    from attnviz.engine.request import Request
    from attnviz.maps.map import AttentionMap

Tags = Mapping[tuple["Label | None", int], tuple[str, float | None]]
"""The tag and the score of heads, by layer and head."""


def tags_of(request: Request, layer: Label | None = None) -> dict[tuple[Label | None, int], tuple[str, float | None]]:
    """The tags of a request's heads, over its queries."""
    from attnviz.measures.statistics import statistics_of_request

    found = statistics_of_request(request.but(values="weights"))
    return {(layer, row.head): (row.tag, row.tag_score) for row in found}


def by_tags(maps: Sequence[AttentionMap], tags: Tags) -> list[AttentionMap]:
    """Maps of one tag side by side, in the order in which tags are documented, and of each the clearest first."""
    from attnviz.measures.tags import TAGS

    order = {tag: place for place, tag in enumerate(TAGS)}

    def key(shown: AttentionMap) -> tuple[int, float]:
        tag, score = tags[shown.layer, shown.head]
        return order.get(tag, len(order)), -(score or 0.0)

    return sorted(maps, key=key)


def tag_names(maps: Sequence[AttentionMap], tags: Tags) -> list[tuple[str, str]]:
    """What stands over each map, and in fewer letters: ``head 3 · sink 0.97`` and ``3 sink``."""
    from attnviz.base.words import in_place

    several = len({shown.layer for shown in maps}) > 1
    found = []
    for shown in maps:
        tag, score = tags[shown.layer, shown.head]
        name = in_place(shown.heads_name, shown.layer if several else None)
        said = tag if score is None else f"{tag} {score:.2f}"
        found.append((f"{name} · {said}", f"{shown.layer}.{shown.head} {tag}" if several else f"{shown.head} {tag}"))
    return found
