"""The colors of reasons, for figures and terminals: those of Okabe and Ito, which color-blind readers tell apart.

https://jfly.uni-koeln.de/color/

And palettes for terminals, which do without matplotlib: its magma, and its RdBu_r, which is ColorBrewer's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Rgb = tuple[float, float, float]  # 0 to 1

WHITE: Rgb = (1.0, 1.0, 1.0)
BLACK: Rgb = (0.0, 0.0, 0.0)
HIDDEN: Rgb = (0.95, 0.95, 0.95)

_OWN = {"window": 0x0072B2, "global key": 0xE69F00, "global query": 0x009E73, "several": 0x3C3C3C}
_SPARE = (0x56B4E9, 0xCC79A7, 0xD55E00, 0xF0E442)


_MAGMA = (
    0x000004, 0x0A0822, 0x1D1147, 0x36106B, 0x51127C, 0x6A1C81, 0x832681, 0x9C2E7F, 0xB73779,
    0xD0416F, 0xE75263, 0xF56B5C, 0xFC8961, 0xFEA772, 0xFEC488, 0xFDE2A3, 0xFCFDBF,
)  # fmt: skip
_BLUE_TO_RED = (
    0x053061, 0x2166AC, 0x4393C3, 0x92C5DE, 0xD1E5F0, 0xF7F7F7, 0xFDDBC7, 0xF4A582, 0xD6604D, 0xB2182B, 0x67001F
)  # fmt: skip


def sequential(share: float) -> Rgb:
    """The color at a share of a scale, 0 to 1: magma, within 3 of 255 of matplotlib's."""
    return _between(_MAGMA, share)


def diverging(share: float) -> Rgb:
    """The color at a share of a scale that goes both ways from its middle: blue, white, red."""
    return _between(_BLUE_TO_RED, share)


def _between(codes: Sequence[int], share: float) -> Rgb:
    index, rest = divmod(share * (len(codes) - 1), 1)
    first = min(int(index), len(codes) - 2)
    return mix(_rgb(codes[first]), _rgb(codes[first + 1]), rest if first == int(index) else 1.0)


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
