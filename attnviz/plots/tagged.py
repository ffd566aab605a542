"""Heads by what they do: named by their tags, and sorted by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from attnviz.base.errors import InputError

if TYPE_CHECKING:
    from attnviz.engine.request import Request
    from attnviz.maps.map import AttentionMap


def tagged(maps: Sequence[AttentionMap], request: Request) -> tuple[AttentionMap, ...]:
    """Maps of a request's heads with what each head is in a word, over the queries that are shown.

    Raises:
        InputError: a map of several heads, which is no head.
    """
    from attnviz.measures.statistics import statistics_of_request

    if any(shown.combined for shown in maps):
        raise InputError(
            "--tags: they are of single heads, and --mean and --max make one map of several; leave one out"
        )
    found = {row.head: row for row in statistics_of_request(request.but(values="weights"))}
    return tuple(replace(shown, tag=found[shown.head].tag, tag_score=found[shown.head].tag_score) for shown in maps)


def by_tags(maps: Sequence[AttentionMap]) -> tuple[AttentionMap, ...]:
    """Maps of one tag side by side, in the order in which tags are documented, and of each the clearest first."""
    from attnviz.measures.tags import TAGS

    order = {tag: place for place, tag in enumerate(TAGS)}
    return tuple(sorted(maps, key=lambda shown: (order.get(shown.tag or "", len(order)), -(shown.tag_score or 0.0))))


def tag_names(maps: Sequence[AttentionMap]) -> list[tuple[str, str]]:
    """What stands over each map, and in fewer letters: ``head 3 · sink 0.97`` and ``3 sink``."""
    from attnviz.base.words import in_place

    several = len({shown.layer for shown in maps}) > 1
    return [
        (
            in_place(shown.heads_name, shown.layer if several else None),
            f"{shown.layer}.{shown.head} {shown.tag}" if several else f"{shown.head} {shown.tag}",
        )
        for shown in maps
    ]
