"""What a head is, in a word: a tag by documented thresholds of its statistics, and its score."""

from __future__ import annotations

from collections.abc import Mapping

TAGS: dict[str, tuple[str, float]] = {
    "induction": ("induction", 0.4),
    "duplicate": ("duplicate", 0.4),
    "previous": ("previous_mass", 0.4),
    "next": ("next_mass", 0.4),
    "self": ("diagonal_mass", 0.4),
    "sink": ("sink_mass", 0.5),
    "global": ("global_mass", 0.5),
    "local": ("local_mass", 0.7),
}
"""Each tag, its statistic and the least of it: a head has the first whose statistic is that much, and else is ``mixed``."""

MIXED = "mixed"


def tag_of(values: Mapping[str, float | None]) -> tuple[str, float | None]:
    """A head's tag, and its score: the statistic that gave it, None of ``mixed``.

    Args:
        values: statistics by name.

    >>> tag_of({"previous_mass": 0.9, "local_mass": 0.97, "sink_mass": 0.02})
    ('previous', 0.9)
    >>> tag_of({"previous_mass": 0.2, "local_mass": 0.5})
    ('mixed', None)
    """
    for tag, (name, least) in TAGS.items():
        value = values.get(name)
        if value is not None and value >= least:
            return tag, value
    return MIXED, None
