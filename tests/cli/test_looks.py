"""``plot``: color scales, themes, papers and captions, as options."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from PIL import Image

import attnviz


@pytest.fixture
def dump(tmp_path):
    path = tmp_path / "dump.safetensors"
    attnviz.save(path, attnviz.synthesize(heads=2, tokens=40, head_dim=32, structure=("sink",)))
    return path


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--norm", "cubic"], "--norm 'cubic' is not one of linear, log, power, rank, row"),
        (["--norm", "log", "--values", "logits"], "--norm log: logits are logarithms of weights already"),
        (["--norm", "rank", "--robust"], "leave --robust, --vmin and --vmax out"),
        (["--theme", "blue"], "--theme 'blue' is not one of light, dark"),
        (["--width", "3in"], "--width '3in' is not one of column, page"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_one_line(run, dump, tmp_path, options, told):
    result = run("plot", dump, "-o", tmp_path / "map.png", *options)
    assert (result.code, result.out) == (2, "")
    assert told in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / "map.png").exists()


@pytest.mark.parametrize(("width", "pixels"), [("column", 975), ("page", 2025)])
def test_a_paper_has_its_width_at_300_dots(run, dump, tmp_path, width, pixels):
    assert run("plot", dump, "--width", width, "-o", tmp_path / "map.png").code == 0
    with Image.open(tmp_path / "map.png") as image:
        assert image.width == pixels


def test_the_dark_theme_is_dark(run, dump, tmp_path):
    assert run("plot", dump, "--theme", "dark", "-o", tmp_path / "map.png").code == 0
    with Image.open(tmp_path / "map.png") as image:
        assert max(image.convert("RGB").getpixel((2, 2))) < 40


def test_a_sink_is_told_and_what_helps(run, dump, tmp_path):
    plain = run("plot", dump, "--head", "0", "--pattern", "full", "-o", tmp_path / "map.png")
    lines = [line for line in plain.err.splitlines() if "takes" in line]
    assert len(lines) == 1
    assert lines[0].startswith("attnviz: key 0 (t0) takes ")
    assert "; --norm rank shows more of the rest" in lines[0]
    asked = run("plot", dump, "--head", "0", "--pattern", "full", "--norm", "log", "-o", tmp_path / "map.png")
    assert "takes" not in asked.err


def test_a_map_kept_as_numbers_needs_no_hint(run, dump, tmp_path):
    assert "takes" not in run("plot", dump, "--pattern", "full", "-o", tmp_path / "map.npz").err


def test_the_caption_is_text_under_the_figure(run, dump, tmp_path):
    assert run("plot", dump, "--head", "1", "--pattern", "full", "--caption", "-o", tmp_path / "map.svg").code == 0
    text = (tmp_path / "map.svg").read_text(encoding="utf-8")
    written = " ".join(" ".join(re.findall(r">([^<>]*)</(?:text|tspan)>", text)).split())  # lines break where paths end
    for words in ("head 1. Pattern: full", "40 queries × 40 keys", "Linear scale from 0 to"):
        assert words in written


def test_a_figure_higher_than_a_sheet_is_told(run, tmp_path):
    attnviz.save(tmp_path / "many.safetensors", attnviz.synthesize(heads=90, tokens=12, head_dim=4))
    result = run(
        "plot", tmp_path / "many.safetensors", "--pattern", "full", "--width", "column", "--dpi", "30",
        "-o", tmp_path / "map.png",
    )  # fmt: skip
    assert "in high, more than a sheet of paper; --width page or fewer heads make it lower" in result.err


def test_plot_imports_no_seaborn_for_its_own_palettes(dump, tmp_path):
    program = (
        "import sys\n"
        "from attnviz.cli.main import app\n"
        f"app(['plot', {str(dump)!r}, '-o', {str(tmp_path / 'map.png')!r}], standalone_mode=False)\n"
        "print(*(name for name in ('seaborn', 'scipy', 'pandas') if name in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("cmap", ["rocket", "vlag", "viridis"])
def test_palettes_of_seaborn_are_there_still(run, dump, tmp_path, cmap):
    assert run("plot", dump, "--cmap", cmap, "-o", tmp_path / "map.png").code == 0
