"""How snapshots are made and compared.

Each is a file of its own that a reviewer can read: ``.txt``, ``.md``, ``.csv`` and ``.json`` for text, ``.png`` for
pictures. `make snapshots` rewrites them all.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import structural_similarity
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.image import PNGImageSnapshotExtension
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from typer.testing import CliRunner

import attnviz
from attnviz.cli.main import app

SEED = 0  # of every case: change it to see the snapshots fail (see CONTRIBUTING.md)

TOLERANCE = 8
"""Steps of 255 that a channel of a pixel may differ by.

A weight whose last bit depends on the processor moves its cell by one color of the palette's 256, some 3 steps. A
weight changed by 0.05 moves it by 15 colors, some 30 steps (``test_a_changed_value_fails`` holds us to that).
"""


class PixelExtension(PNGImageSnapshotExtension):
    """PNG snapshots, equal when they have the same size and each pixel the same color within ``TOLERANCE``."""

    def matches(self, *, serialized_data: bytes, snapshot_data: bytes) -> bool:
        return not self._differences(serialized_data, snapshot_data)

    def diff_lines(self, serialized_data: bytes, snapshot_data: bytes) -> Iterator[str]:
        yield self._differences(serialized_data, snapshot_data)

    def _differences(self, received: bytes, expected: bytes) -> str:
        one, other = pixels(received), pixels(expected)
        if one.shape != other.shape:
            (height, width), (high, wide) = one.shape[:2], other.shape[:2]
            return f"the picture is {width} x {height} pixels, the snapshot {wide} x {high}"
        apart = np.abs(one - other).max(-1)  # (height, width)
        if apart.max(initial=0) <= TOLERANCE:
            return ""
        y, x = np.unravel_index(apart.argmax(), apart.shape)
        count = int((apart > TOLERANCE).sum())
        return f"{count} pixels differ by more than {TOLERANCE} of 255; the most by {apart.max()}, at x={x} y={y}"


LIKENESS = 0.99
"""Structural similarity below which two pictures look different (1 is the same), over windows of 7 x 7 pixels.

One cell of 24 x 24 that changes its color by a fifth of the palette is enough (``test_a_changed_cell_is_seen``).
"""


class LikenessExtension(PixelExtension):
    """PNG snapshots, equal when a reader sees no difference: in no part of the picture is the structure another."""

    def _differences(self, received: bytes, expected: bytes) -> str:
        one, other = pixels(received), pixels(expected)
        if one.shape != other.shape:
            return super()._differences(received, expected)
        _, windows = structural_similarity(one, other, channel_axis=-1, data_range=255, full=True)
        tiles = windows.mean(-1)
        height, width = (size // 16 * 16 for size in tiles.shape)
        parts = tiles[:height, :width].reshape(height // 16, 16, width // 16, 16).mean((1, 3))
        worst = float(parts.min())
        if worst >= LIKENESS:
            return ""
        y, x = np.unravel_index(parts.argmin(), parts.shape)
        return f"the likeness is {worst:.3f}, wanted {LIKENESS}, in the 16 x 16 pixels at x={16 * x} y={16 * y}"


def pixels(png: bytes) -> np.ndarray:
    """The picture's pixels, (height, width, RGBA)."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGBA")).astype(np.int16)


def text_extension(suffix: str) -> type[SingleFileSnapshotExtension]:
    return type(
        f"{suffix.title()}Extension",
        (SingleFileSnapshotExtension,),
        {"file_extension": suffix, "_write_mode": WriteMode.TEXT},
    )


EXTENSIONS = {"png": PixelExtension, "look": LikenessExtension} | {
    suffix: text_extension(suffix) for suffix in ("txt", "md", "csv", "json")
}


@pytest.fixture
def snapshot_of(snapshot: SnapshotAssertion) -> Callable[[str], SnapshotAssertion]:
    """The snapshot with a suffix: ``assert text == snapshot_of("txt")``."""
    return lambda suffix: snapshot.use_extension(EXTENSIONS[suffix])


@pytest.fixture
def attnviz_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command in a folder of its own and gives its stdout: no color, a fixed width, no space at line ends."""
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, width: int = 80) -> str:
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": f"{width}", "NO_COLOR": "1"})
        assert result.exit_code == 0, result.output
        return "".join(line.rstrip() + "\n" for line in result.stdout.splitlines())

    return run


@pytest.fixture
def dump(tmp_path: Path) -> Callable[..., str]:
    """Writes a synthetic dump into the folder of ``attnviz_says`` and gives its name.

    float64, so that a processor that sums in another order changes no digit and no color.
    """

    def write(name: str = "dump.safetensors", *, changes: dict[str, object] | None = None, **sizes: object) -> str:
        from dataclasses import replace

        inputs = attnviz.synthesize(**{"seed": SEED, "dtype": "float64", **sizes})
        attnviz.save(tmp_path / name, replace(inputs, **(changes or {})))
        return name

    return write


@pytest.fixture
def likeness_extension() -> LikenessExtension:
    return LikenessExtension()


@pytest.fixture
def pixel_extension() -> PixelExtension:
    return PixelExtension()
