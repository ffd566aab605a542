"""The colors of reasons, for figures and terminals: those of Okabe and Ito, which color-blind readers tell apart.

https://jfly.uni-koeln.de/color/

And the palettes of values, for figures and for terminals, which do without matplotlib.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Rgb = tuple[float, float, float]  # 0 to 1

WHITE: Rgb = (1.0, 1.0, 1.0)
BLACK: Rgb = (0.0, 0.0, 0.0)
HIDDEN: Rgb = (0.94, 0.94, 0.94)

DARK_PAGE = "#16181d"
"""The background of the dark theme, which is the 0 of palettes on it."""

_OWN = {"window": 0x0072B2, "global key": 0xE69F00, "global query": 0x009E73, "several": 0x3C3C3C}
_SPARE = (0x56B4E9, 0xCC79A7, 0xD55E00, 0xF0E442)

_TINTS = {
    False: {"window": 0xB9D1DF, "global key": 0xD4B46B, "global query": 0x5BA591, "several": 0x7F7F7F},
    True: {"window": 0x153F57, "global key": 0x836624, "global query": 0x0B5C46, "several": 0x858585},
}
_SPARE_TINTS = {
    False: (0xC3DAE8, 0xC4A1B4, 0xD68F57, 0xEDE8A1),
    True: (0x364D59, 0x795368, 0xA86632, 0x333117),
}

_HIDDEN_ON_DARK: Rgb = (38 / 255, 40 / 255, 46 / 255)

_INK = (
    0xFFFFFF, 0xF6EDE1, 0xEDD8BF, 0xE4C19C, 0xDFAA7B, 0xDE9461, 0xDE7D50, 0xDD6748, 0xD75248,
    0xCD3F4C, 0xBE2F52, 0xAB2259, 0x921B5E, 0x75185F, 0x57185C, 0x371856, 0x15164B,
)  # fmt: skip
_INK_ON_DARK = (
    0x16181D, 0x1E2334, 0x2C2E4D, 0x453966, 0x644079, 0x864584, 0xA74788, 0xC64A85, 0xDE517D,
    0xF05F74, 0xFA726E, 0xFF866B, 0xFF9B6E, 0xFFB076, 0xFFC686, 0xFCDBA1, 0xFBEDC4,
)  # fmt: skip
_POLES = (
    0x1D2559, 0x1E2E6C, 0x1D387E, 0x1B438F, 0x1B4E9E, 0x1E5BAC, 0x2169B8, 0x2577C5, 0x2C85D0,
    0x3995D9, 0x51A4DD, 0x6EB3DF, 0x8AC2E2, 0xA6D1E8, 0xC3E0EF, 0xE0F0F6, 0xFFFFFF, 0xFAE9E3,
    0xF6D3C8, 0xF2BDAF, 0xEEA898, 0xEC9181, 0xEB796A, 0xE66157, 0xDC4E4A, 0xCC3F41, 0xBD3039,
    0xAD2132, 0x9E112B, 0x8E0325, 0x7C0121, 0x69061D, 0x560B1A,
)  # fmt: skip
_POLES_ON_DARK = (
    0xC6EBF9, 0xB1E2F8, 0x9CD7F6, 0x88CCF3, 0x75C0EE, 0x60B4E9, 0x48A7E4, 0x2F99DC, 0x1E8BD1,
    0x227CC1, 0x2B6DB0, 0x2E5D9C, 0x294F87, 0x25416D, 0x24334F, 0x1E2635, 0x16181D, 0x332020,
    0x492928, 0x62302D, 0x7B3731, 0x943F33, 0xAB4735, 0xBF5238, 0xCF603D, 0xDB7047, 0xE58055,
    0xEC9164, 0xF3A274, 0xF8B285, 0xFBC298, 0xFCD2AD, 0xFDE1C5,
)  # fmt: skip

INK, POLES = "ink", "poles"
"""Our palettes, each for light pages and for dark ones: from 0, and to both sides of 0."""


def palette(name: str, *, dark: bool) -> list[Rgb]:
    """The colors of ``ink`` or ``poles``, at equal steps of a scale.

    0 is the page, and the top of the scale is what stands out from it most: the darkest ink on white, the brightest
    light on :data:`DARK_PAGE`. Steps of ``ink`` are even to the eye (CIEDE2000), lightness goes one way, so that a
    gray print and color-blind readers see the same order, and what is above half of the scale is told from
    :func:`hidden` by 3:1 or more.
    """
    light, other = {INK: (_INK, _INK_ON_DARK), POLES: (_POLES, _POLES_ON_DARK)}[name]
    return [_rgb(code) for code in (other if dark else light)]


def hidden(*, dark: bool) -> Rgb:
    """The color of what is not visible, beside our palettes: no value's, and near to the page."""
    return _HIDDEN_ON_DARK if dark else HIDDEN


def sequential(share: float) -> Rgb:
    """The color at a share of a scale, 0 to 1, on a dark page: terminals are dark."""
    return _between(_INK_ON_DARK, share)


def diverging(share: float) -> Rgb:
    """The color at a share of a scale that goes both ways from its middle, likewise: blue, the page, red."""
    return _between(_POLES_ON_DARK, share)


def _between(codes: Sequence[int], share: float) -> Rgb:
    index, rest = divmod(share * (len(codes) - 1), 1)
    first = min(int(index), len(codes) - 2)
    return mix(_rgb(codes[first]), _rgb(codes[first + 1]), rest if first == int(index) else 1.0)


def reason_colors(reasons: Iterable[str], *, dark: bool = False) -> dict[str, Rgb]:
    """A color for each reason: always the same for those we know, a spare one for any other.

    On a ``dark`` page, what is several is light.
    """
    found = _colors_of(reasons, _OWN, _SPARE)
    return {name: mix(color, WHITE, 0.75 if dark and name == "several" else 0.0) for name, color in found.items()}


def reason_tints(reasons: Iterable[str], *, dark: bool = False) -> dict[str, Rgb]:
    """Likewise a color to mark weights on: in gray too, and with a color deficiency, each is told from the others and
    from :func:`hidden`, as each has a lightness of its own.
    """
    return _colors_of(reasons, _TINTS[dark], _SPARE_TINTS[dark])


def weight_ink(color: Rgb, *, dark: bool = False) -> Rgb:
    """What a weight is marked with on a tint of ``color``: all but black, on a ``dark`` page all but white."""
    return mix(color, WHITE, 0.85) if dark else mix(color, BLACK, 0.75)


def _colors_of(reasons: Iterable[str], own: Mapping[str, int], spare: Sequence[int]) -> dict[str, Rgb]:
    colors: dict[str, Rgb] = {}
    strangers = 0
    for reason in reasons:
        if reason in own:
            colors[reason] = _rgb(own[reason])
        elif reason not in colors:
            again, place = divmod(strangers, len(spare))
            colors[reason] = mix(_rgb(spare[place]), BLACK, 1 - 0.7**again)  # a darker round of the same
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
