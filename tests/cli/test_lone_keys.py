"""A lone bright key is in the files that commands write: real inputs with needles, counted in the pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

import attnviz
from attnviz.attention.patterns import Local
from attnviz.cli.main import app
from tests import planted

COUNT = 8


@pytest.fixture
def dump(tmp_path):
    def write(T: int, heads: int, labels: int | None = None) -> str:
        from dataclasses import replace

        inputs = planted.planted_inputs(T, heads, COUNT)
        if labels is not None:
            inputs = replace(inputs, tokens=[[f"{n:x}".rjust(labels, "w") for n in range(T)]])
        path = tmp_path / "dump.safetensors"
        attnviz.save(path, inputs)
        return str(path)

    return write


def written(*arguments: str) -> None:
    result = CliRunner().invoke(app, [*arguments, "--pattern", "local", "--window", "4"])
    assert result.exit_code == 0, result.output


CASES = [
    # kind, heads, T, labels, width, suffix, spots, color bars
    ("plot", 4, 4096, None, "column", ".png", 4 * COUNT, 1),
    ("plot", 12, 2048, 14, None, ".png", 12 * COUNT, 1),
    ("plot", 1, 65536, None, "page", ".pdf", COUNT, 1),
    ("plot", 32, 1024, 1, "page", ".svg", 32 * COUNT, 1),
    ("plot --detail", 1, 8192, 14, "column", ".png", COUNT, 1),
    ("plot --max", 4, 4096, None, None, ".png", COUNT, 1),
    ("overview", 12, 4096, None, "page", ".png", 12 * COUNT, 1),
]


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(("kind", "heads", "T", "labels", "width", "suffix", "spots", "bars"), CASES)
def test_needles_are_counted_in_the_file(tmp_path, dump, kind, heads, T, labels, width, suffix, spots, bars):
    out = tmp_path / f"figure{suffix}"
    asked = [] if width is None else ["--width", width]
    written(*kind.split(), dump(T, heads, labels), "-o", str(out), *asked)
    picture = planted.rasterized(out, 150 if width is None else 300)
    if picture is None:
        pytest.skip(f"nothing here shows {suffix}")
    assert planted.seen(picture) == spots + bars


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("how", [{}, {"width": 3.25}, {"width": 6.75, "pixels": 300}])
def test_the_library_draws_them_too(how):
    """At the dots per inch that matplotlib saves with where nothing is said."""
    inputs = planted.planted_inputs(4096, 1, 40)
    file = io.BytesIO()
    attnviz.plot(inputs, 0, Local(4), **how).figure.savefig(file)
    with Image.open(file) as image:
        assert planted.seen(np.asarray(image.convert("RGB"))) == 40 + 1


def test_in_axes_of_any_size():
    inputs = planted.planted_inputs(4096, 1, COUNT)
    for side in (0.8, 2.0, 5.0):
        ax = Figure(figsize=(side, side), dpi=100).add_axes((0.02, 0.02, 0.96, 0.96))
        attnviz.plot(inputs, 0, Local(4), ax=ax)
        assert planted.seen(ax.images[0].make_image(None)[0][..., :3]) == COUNT
