"""The pattern in the terminal: letters, colors, and that it fits."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

import attnviz
from attnviz.attention.patterns import longformer
from attnviz.maps.reasons import reason_map
from attnviz.show.terminal.window import PatternPicture, cells_that_fit, reason_letters


def printed(picture: PatternPicture, **options: object) -> str:
    console = Console(file=io.StringIO(), width=80, **options)
    console.print(picture)
    return console.file.getvalue()


@pytest.mark.parametrize("head", [None, 3])
def test_color_adds_nothing_but_color(head):
    picture = PatternPicture(reason_map(attnviz.synthesize(), longformer(1), head=head))
    colored = printed(picture, force_terminal=True, color_system="truecolor")
    assert "\x1b[" in colored
    assert re.sub(r"\x1b\[[\d;]*m", "", colored) == printed(picture, no_color=True)


def test_a_higher_bar_is_a_larger_weight():
    shown = reason_map(attnviz.synthesize(), longformer(1), head=3)
    rows = printed(PatternPicture(shown)).splitlines()[2:12]
    bars = ["▁▂▃▄▅▆▇█".find(row[5:][2 * s + 1]) for row in rows for s in range(10)]
    seen = [bar for _, bar in sorted((w, bar) for w, bar in zip(shown.weights.ravel(), bars, strict=True) if w > 0)]
    assert seen == sorted(seen)
    assert seen[-1] == 7


@pytest.mark.parametrize("count", [3, 30])
def test_no_two_reasons_share_a_letter(count):
    letters = reason_letters([f"global thing {n}" for n in range(count)])
    assert len(set(letters.values())) == len(letters) == count + 1


@pytest.mark.parametrize(
    ("width", "height", "labels", "most"),
    [(80, None, False, 36), (80, 24, False, 16), (80, 40, False, 30), (80, 100, True, 31), (10, 5, False, 16)],
)
def test_a_picture_fits_the_terminal(width, height, labels, most):
    assert cells_that_fit(width, height, labels=labels) == most
