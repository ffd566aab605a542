"""Palettes, as eyes and printers see them: contrast, evenness and order, computed and not looked at."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from attnviz.show.figures.style import colormap, house_style
from attnviz.show.scale.colors import INK, POLES, hidden, palette, reason_colors, reason_tints, weight_ink

# Of linear RGB, at full severity: Machado, Oliveira, Fernandes, "A Physiologically-based Model for Simulation of Color
# Vision Deficiency", 2009.
DEFICIENCIES = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
EYES = ("color", "gray", *DEFICIENCIES)
PAGES = {False: (1.0, 1.0, 1.0), True: (0x16 / 255, 0x18 / 255, 0x1D / 255)}
SHARES = np.linspace(0, 1, 257)


def linear(color: object) -> np.ndarray:
    color = np.asarray(color, dtype=float)
    return np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)


def luminance(color: object, eye: str) -> np.ndarray:
    """Relative luminance, 0 to 1, of (..., 3) colors: as they are, printed in gray, or seen with a deficiency."""
    color = np.asarray(color, dtype=float)
    if eye == "gray":
        return linear(color @ (0.299, 0.587, 0.114))
    seen = linear(color)
    if eye in DEFICIENCIES:
        seen = np.clip(seen @ np.transpose(DEFICIENCIES[eye]), 0, 1)
    return seen @ (0.2126, 0.7152, 0.0722)


def contrast(one: object, other: object, eye: str) -> np.ndarray:
    """That of WCAG 2: 1 to 21."""
    one, other = luminance(one, eye), luminance(other, eye)
    return (np.maximum(one, other) + 0.05) / (np.minimum(one, other) + 0.05)


def arms(name: str, dark: bool) -> list[np.ndarray]:
    """The colors from 0 on, (257, 3): one way, or each of both."""
    with house_style(theme="dark" if dark else "light"):
        cmap = colormap(name, "weights")
    ways = [SHARES] if name == INK else [0.5 - SHARES / 2, 0.5 + SHARES / 2]
    return [cmap(way)[:, :3] for way in ways]


every = pytest.mark.parametrize("name", [INK, POLES])
on_both = pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
in_every_eye = pytest.mark.parametrize("eye", EYES)


@every
@on_both
def test_zero_is_the_page(name, dark):
    for arm in arms(name, dark):
        assert abs(255 * (arm[0] - PAGES[dark])).max() <= 2  # 0 of poles lies between two of its 256 colors


@every
@on_both
@in_every_eye
def test_the_top_stands_out_from_the_page(name, dark, eye):
    for arm in arms(name, dark):
        assert contrast(arm[-1], PAGES[dark], eye) >= 10


@every
@on_both
@in_every_eye
def test_what_is_above_half_is_told_from_what_is_hidden(name, dark, eye):
    for arm in arms(name, dark):
        assert contrast(arm[129:], hidden(dark=dark), eye).min() >= 3


@every
@on_both
@in_every_eye
def test_more_weight_is_more_ink(name, dark, eye):
    for arm in arms(name, dark):
        steps = np.diff(luminance(arm, eye)[::4])
        assert ((steps > 0) if dark else (steps < 0)).all()


@on_both
def test_steps_of_ink_are_even(dark):
    (arm,) = arms(INK, dark)
    lab = rgb2lab(arm[::16][None])[0]
    steps = deltaE_ciede2000(lab[:-1], lab[1:])
    assert steps.min() > 0.85 * steps.mean()
    assert steps.max() < 1.15 * steps.mean()


@on_both
def test_what_is_hidden_is_no_value_and_is_seen_on_the_page(dark):
    blank = np.array(hidden(dark=dark))
    assert np.ptp(blank) < 0.05  # gray: no color of a palette beyond its first
    assert 1.05 < contrast(blank, PAGES[dark], "color") < 1.3
    for name in (INK, POLES):
        for arm in arms(name, dark):
            lab = rgb2lab(np.stack([*arm[8:], blank])[None])[0]
            assert deltaE_ciede2000(lab[:-1], lab[-1:]).min() > 2


@every
@on_both
def test_figures_have_the_colors_of_the_palette(name, dark):
    with house_style(theme="dark" if dark else "light"):
        cmap = colormap(name, "weights")
        turned = colormap(f"{name}_r", "weights")
    colors = palette(name, dark=dark)
    shares = np.linspace(0, 1, len(colors))
    np.testing.assert_allclose(cmap(shares)[:, :3], colors, atol=0.012)
    np.testing.assert_allclose(turned(1 - shares)[:, :3], colors, atol=0.012)
    assert tuple(cmap.get_bad()[:3]) == pytest.approx(hidden(dark=dark))


def test_palettes_of_matplotlib_are_there_still():
    import matplotlib as mpl

    np.testing.assert_array_equal(colormap("magma", "weights")(SHARES), mpl.colormaps["magma"](SHARES))


KNOWN = ("window", "global key", "global query", "several")


@on_both
@in_every_eye
def test_reasons_are_told_from_each_other_and_from_what_is_hidden_under_weights_too(dark, eye):
    strangers = [f"reason {n}" for n in range(4)]
    for colors, least in ((reason_colors(KNOWN, dark=dark), 1.2), (reason_tints(KNOWN, dark=dark), 1.18)):
        for one, other in combinations([*colors.values(), hidden(dark=dark)], 2):
            assert contrast(one, other, eye) >= least
    tints = reason_tints([*KNOWN, *strangers], dark=dark)
    for one, other in combinations([*tints.values(), hidden(dark=dark)], 2):
        assert contrast(one, other, eye) >= 1.08
    for (name, tint), color in zip(tints.items(), reason_colors([*KNOWN, *strangers], dark=dark).values(), strict=True):
        ink = weight_ink(color, dark=dark)
        assert contrast(ink, tint, eye) >= 3, name
        assert contrast(ink, hidden(dark=dark), eye) >= 8, name
