"""The colors of reasons, for figures and terminals: those of Okabe and Ito, which color-blind readers tell apart.

https://jfly.uni-koeln.de/color/
"""

from __future__ import annotations

from collections.abc import Iterable

Rgb = tuple[float, float, float]  # 0 to 1

WHITE: Rgb = (1.0, 1.0, 1.0)
BLACK: Rgb = (0.0, 0.0, 0.0)
HIDDEN: Rgb = (0.95, 0.95, 0.95)

_OWN = {"window": 0x0072B2, "global key": 0xE69F00, "global query": 0x009E73, "several": 0x3C3C3C}
_SPARE = (0x56B4E9, 0xCC79A7, 0xD55E00, 0xF0E442)


def reason_colors(reasons: Iterable[str]) -> dict[str, Rgb]:
    """A color for each reason: always the same for those we know, a spare one for any other."""
    colors: dict[str, Rgb] = {}
    strangers = 0
    for reason in reasons:
        if reason in _OWN:
            colors[reason] = _rgb(_OWN[reason])
        elif reason not in colors:
            again, spare = divmod(strangers, len(_SPARE))
            colors[reason] = mix(_rgb(_SPARE[spare]), BLACK, 1 - 0.7**again)  # a darker round of the same
            strangers += 1
    return colors


def mix(color: Rgb, other: Rgb, share: float) -> Rgb:
    """``color`` with ``share`` of ``other`` in it."""
    red, green, blue = (a + (b - a) * share for a, b in zip(color, other, strict=True))
    return red, green, blue


def is_dark(color: Rgb) -> bool:
    """Whether white is easier to read on it than black."""
    red, green, blue = color
    return 0.299 * red + 0.587 * green + 0.114 * blue < 0.5


def _rgb(code: int) -> Rgb:
    return (code >> 16) / 255, (code >> 8 & 0xFF) / 255, (code & 0xFF) / 255
