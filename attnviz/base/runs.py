"""Numbers in runs of neighbors, and what is there more than once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import TypeVar

Item = TypeVar("Item", bound=Hashable)


def repeated(items: Iterable[Item]) -> list[Item]:
    """What is there more than once, in the order in which it comes.

    >>> repeated("abcba"), repeated(range(3))
    (['a', 'b'], [])
    """
    return [item for item, times in Counter(items).items() if times > 1]


def runs(numbers: Iterable[int], step: int = 1) -> list[range]:
    """Numbers as ranges, in the order they come in: a number that is ``step`` above the last goes on with its run.

    >>> runs([0, 1, 2, 3, 7]), runs([1, 3, 5, 9], step=2), runs([])
    ([range(0, 4), range(7, 8)], [range(1, 7, 2), range(9, 11, 2)], [])
    """
    if isinstance(numbers, range) and numbers.step == step:
        return [numbers] if numbers else []
    found: list[range] = []
    for number in numbers:
        if found and found[-1][-1] + step == number:
            found[-1] = range(found[-1].start, number + step, step)
        else:
            found.append(range(number, number + step, step))
    return found
