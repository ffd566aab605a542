"""Pictures, as files in ``__snapshots__/test_figure_snapshots/``, and that they are the same bytes every time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import attnviz
from attnviz.show.figures.heatmap import heatmap
from attnviz.show.figures.style import house_style, save_figure

SNAPSHOTS = Path(__file__).parent / "__snapshots__" / "test_figure_snapshots"


@pytest.fixture
def picture(attnviz_says, dump, tmp_path):
    """The PNG that ``attnviz plot`` makes of a synthetic case, 80 dots an inch."""

    def draw(*options: str, **case: object) -> bytes:
        attnviz_says("plot", dump(**case), "--dpi", "80", "-o", "picture.png", *options)
        return (tmp_path / "picture.png").read_bytes()

    return draw


def test_one_head(picture, snapshot_of):
    assert picture("--head", "3") == snapshot_of("png")


def test_logits(picture, snapshot_of):
    assert picture("--head", "3", "--values", "logits") == snapshot_of("png")


def test_eight_heads(picture, snapshot_of):
    assert picture("--head", "all") == snapshot_of("png")


def test_values_in_the_cells(picture, snapshot_of):
    assert picture("--head", "0", "--annot") == snapshot_of("png")


def test_palette_limits_title_and_no_background(picture, snapshot_of):
    look = ("--cmap", "viridis", "--vmin", "0.1", "--vmax", "0.6", "--title", "layer 3, head 1", "--transparent")
    assert picture("--head", "1", *look) == snapshot_of("png")


def test_tokens_on_the_axes(picture, snapshot_of):
    sentence = ["[CLS]", "attention", "$looks$", "back", "at", "all", "of_it", ",", "naïvely", "and", "again", "[SEP]"]
    tokens = [word for n in range(5) for word in sentence]
    case = {"heads": 1, "tokens": 60, "global_positions": (0, 11, 12, 23, 24, 35, 36, 47, 48, 59)}
    assert picture("--head", "0", **case, changes={"tokens": [tokens]}) == snapshot_of("png")


def test_a_long_map(picture, snapshot_of):
    case = {"heads": 1, "tokens": 4096, "head_dim": 16, "global_positions": range(0, 4096, 64)}
    assert picture("--head", "0", **case) == snapshot_of("png")


# That the comparison sees what a reader would, and nothing else.


def drawn(tmp_path: Path, change: np.ndarray | float) -> bytes:
    """The case of ``test_one_head`` drawn by hand, with ``change`` added to its weights."""
    from dataclasses import replace

    shown = attnviz.attention_map(attnviz.synthesize(dtype="float64"), head=3)
    with house_style():
        figure = heatmap(replace(shown, cells=shown.cells + change)).get_figure(root=True)
        save_figure(figure, tmp_path / "drawn.png", dpi=80)
    return (tmp_path / "drawn.png").read_bytes()


def one_cell(change: float) -> np.ndarray:
    cells = np.zeros((10, 3))
    cells[5, 2] = change
    return cells


def test_the_last_bits_of_float32_do_not_matter(tmp_path, pixel_extension):
    expected = (SNAPSHOTS / "test_one_head.png").read_bytes()
    noise = np.random.default_rng(0).uniform(-3e-7, 3e-7, (10, 3))
    assert pixel_extension.matches(serialized_data=drawn(tmp_path, noise), snapshot_data=expected)


@pytest.mark.parametrize("change", [0.05, -0.05, 0.5, np.nan])
def test_a_changed_value_fails(tmp_path, pixel_extension, change):
    expected = (SNAPSHOTS / "test_one_head.png").read_bytes()
    changed = drawn(tmp_path, one_cell(change))
    assert not pixel_extension.matches(serialized_data=changed, snapshot_data=expected)
    assert "pixels differ" in "".join(pixel_extension.diff_lines(changed, expected))


def test_a_changed_size_fails(pixel_extension):
    one, other = ((SNAPSHOTS / f"test_{name}.png").read_bytes() for name in ("one_head", "eight_heads"))
    assert not pixel_extension.matches(serialized_data=one, snapshot_data=other)


# That the same input gives the same bytes.

SUFFIXES = ("png", "svg", "pdf")


def digests(folder: Path) -> dict[str, str]:
    return {suffix: hashlib.sha256((folder / f"heads.{suffix}").read_bytes()).hexdigest() for suffix in SUFFIXES}


def plot_all(attnviz_says, name: str) -> None:
    for suffix in SUFFIXES:
        attnviz_says("plot", name, "--values", "logits", "-o", f"heads.{suffix}")


def test_twice_in_a_row_gives_the_same_bytes(attnviz_says, dump, tmp_path):
    name = dump(heads=2)
    plot_all(attnviz_says, name)
    first = digests(tmp_path)
    plot_all(attnviz_says, name)
    assert digests(tmp_path) == first


@pytest.mark.sweep
def test_another_process_with_other_settings_gives_the_same_bytes(attnviz_says, dump, tmp_path):
    name = dump(heads=2)
    plot_all(attnviz_says, name)
    first = digests(tmp_path)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "matplotlibrc").write_text("font.size: 20\nsvg.fonttype: path\nsavefig.bbox: tight\n")
    settings = {"MPLBACKEND": "svg", "MATPLOTLIBRC": f"{elsewhere}", "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    program = (
        "from attnviz.cli.main import app\n"
        f"for suffix in {SUFFIXES}:\n"
        f"    app(['plot', '../{name}', '--values', 'logits', '-o', f'heads.{{suffix}}'], standalone_mode=False)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=elsewhere, env=os.environ | settings, check=True, timeout=120)
    assert digests(elsewhere) == first
