"""Weights over a picture, and the bar that says what their colors mean."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from attnviz.maps.map import AttentionMap
from attnviz.show.figures.overlay import overlays
from attnviz.show.figures.style import house_style


@pytest.mark.sweep(keep=4)
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("gray", [0, 90, 255])
@pytest.mark.parametrize("norm", ["linear", "log"])
def test_a_color_over_the_picture_is_the_one_on_the_bar(gray, norm, theme):
    values = np.array([[0.001, 0.1, 0.4, 0.9]])
    shown = AttentionMap(values, "weights", 0, range(1), range(4), None, ["a"] * 4, "full")
    with house_style(theme=theme):
        figure = overlays(np.full((40, 160, 3), gray, dtype=np.uint8), [shown], (1, 4), norm=norm)
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=figure.dpi)
        pixels = np.asarray(Image.open(buffer).convert("RGB")).astype(int)
    axes = {ax.get_label(): ax for ax in figure.axes}
    (bar,) = (one for one in axes["color bar"].collections if one.get_array() is not None)
    box = axes["panel 0"].get_window_extent()
    for n, value in enumerate(values[0]):
        x, y = box.x0 + (n + 0.5) * box.width / 4, box.y0 + box.height / 2
        there = pixels[round(len(pixels) - y), round(x)]
        assert abs(there - 255 * np.array(bar.cmap(bar.norm(value))[:3])).max() <= 3, value
