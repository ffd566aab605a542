"""Numbers in sentences."""

from __future__ import annotations


def count(number: int, noun: str, plural: str | None = None) -> str:
    """``1 query``, ``1,024 queries``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
