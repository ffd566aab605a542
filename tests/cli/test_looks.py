"""``plot``: color scales, themes, papers and captions, as options."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from PIL import Image

import attnviz
from attnviz.compare.snapshots.files import write_snapshot


@pytest.fixture
def dump(tmp_path):
    path = tmp_path / "dump.safetensors"
    attnviz.save(path, attnviz.synthesize(heads=2, tokens=24, head_dim=32, structure=("sink",)))
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
    for words in ("head 1. Pattern: full", "24 queries × 24 keys", "Linear scale from 0 to"):
        assert words in written


def test_a_figure_higher_than_a_sheet_is_told(run, tmp_path):
    attnviz.save(tmp_path / "many.safetensors", attnviz.synthesize(heads=90, tokens=12, head_dim=4))
    out = ("--dpi", "30", "-o", tmp_path / "map.png")
    result = run("plot", tmp_path / "many.safetensors", "--pattern", "full", "--width", "column", *out)
    assert "in high, more than a sheet of paper; --width page or fewer heads make it lower" in result.err


@pytest.mark.sweep
def test_plot_imports_no_seaborn_for_its_own_palettes(dump, tmp_path):
    program = (
        "import sys\n"
        "from attnviz.cli.main import app\n"
        f"app(['plot', {str(dump)!r}, '-o', {str(tmp_path / 'map.png')!r}], standalone_mode=False)\n"
        "print(*(name for name in ('seaborn', 'scipy', 'pandas') if name in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("cmap", ["rocket", "viridis"])
def test_palettes_of_seaborn_are_there_still(run, dump, tmp_path, cmap):
    assert run("plot", dump, "--cmap", cmap, "-o", tmp_path / "map.png").code == 0


FIGURES = {
    "plot": ["plot", "DUMP", "--pattern", "causal"],
    "plot --detail": ["plot", "DUMP", "--pattern", "causal", "--head", "0", "--detail"],
    "plot --strip": ["plot", "DUMP", "--pattern", "causal", "--strip", "20"],
    "plot --compare": ["plot", "DUMP", "--pattern", "causal", "--head", "0", "--compare", "DUMP"],
    "plot --arcs": ["plot", "DUMP", "--pattern", "causal", "--head", "0", "--arcs"],
    "stats --by-layer": ["stats", "DUMP", "--pattern", "causal", "--by-layer", "--statistic", "sink_mass"],
    "overview": ["overview", "DUMP", "--pattern", "causal"],
    "pattern": ["pattern", "DUMP", "--pattern", "causal"],
    "pattern --story": ["pattern", "--story"],
    "stats": ["stats", "DUMP", "--pattern", "causal"],
    "diff": ["diff", "DUMP", "--pattern", "causal", "--b-dtype", "float16", "--atol", "0.1"],
    "snapshot check": ["snapshot", "check", "DUMP", "KEPT", "--pattern", "causal"],
}
CAPTIONS = {
    "plot --detail": ["Above the map: the mean weight on each key", "Gray is not visible."],
    "plot --compare": ["A − B on a linear scale from"],
    "diff": ["A − B on a linear scale from", "Gray is not visible."],
    "snapshot check": ["stored − now on a linear scale from", "Pattern: causal."],
}
"""What only captions of some figures say."""
NO_LEGEND = ("overview", "stats", "stats --by-layer", "plot --strip", "plot --detail", "plot", "plot --arcs")
LOOK = ["--width", "column", "--theme", "dark", "--dpi", "100", "--title", "costs $5 and $6", "--caption"]


def command_of(name: str, dump) -> list[str]:
    kept = dump.with_name("kept.json")
    if "KEPT" in FIGURES[name] and not kept.exists():
        other = attnviz.synthesize(heads=2, tokens=24, head_dim=32, seed=1)
        write_snapshot(kept, attnviz.take_snapshot(other, "causal"))
    return [{"DUMP": str(dump), "KEPT": str(kept)}.get(word, word) for word in FIGURES[name]]


def check_look(run, dump, path, name: str) -> None:
    """Draws a figure, and looks at its size, its page and its words, and at what it says of itself."""
    assert run(*command_of(name, dump), *LOOK, "-o", path).code == (name == "snapshot check")  # 1: it differs
    if path.suffix == ".png":
        with Image.open(path) as image:
            assert image.width == 325
            assert max(image.convert("RGB").getpixel((1, 1))) < 40
    if path.suffix == ".svg":
        text = path.read_text(encoding="utf-8")
        (wide,) = re.findall(r'<svg[^>]* width="([\d.]+)pt"', text, flags=re.DOTALL)
        assert float(wide) == pytest.approx(234, abs=0.5)
        assert "fill: #16181d" in text
        written = " ".join(" ".join(re.findall(r">([^<>]*)</(?:text|tspan)>", text)).split())
        assert "costs $5 and $6" in written
        assert "attern" in written  # of the caption
        for words in CAPTIONS.get(name, ()):
            assert words in written
        assert "not visible" in written or name in NO_LEGEND
    told = run("inspect", path)
    assert told.code == 0
    assert f"a figure of attnviz {name.partition(' ')[0]}" in " ".join(told.out.split())
    assert "width: column" in told.out
    assert "causal" in told.out or name == "pattern --story"
    asked = json.loads(run("inspect", path, "--format", "json").out)
    assert (asked["schema"], asked["width"], asked["dpi"]) == ("attnviz.figure/1", "column", 100)
    assert asked["shows"]


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize(
    ("name", "suffix"),
    [*((name, "svg") for name in FIGURES), ("plot", "png"), ("stats", "png"), ("pattern --story", "pdf")],
)
def test_every_figure_takes_the_same_look_and_says_how_it_was_made(run, dump, tmp_path, name, suffix):
    check_look(run, dump, tmp_path / f"map.{suffix}", name)


@pytest.mark.matrix
@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_in_every_file(run, dump, tmp_path, name, suffix):
    check_look(run, dump, tmp_path / f"map.{suffix}", name)


def test_the_figures_of_a_lesson_take_the_same_look(run, dump, tmp_path):
    assert run("explain", dump, "--pattern", "causal", *LOOK, "-o", tmp_path / "lesson.md").code == 0
    for name in ("map", "row"):
        file = tmp_path / f"lesson-{name}.png"
        with Image.open(file) as image:
            assert image.width == 325
            assert max(image.convert("RGB").getpixel((1, 1))) < 40
        told = json.loads(run("inspect", file, "--format", "json").out)
        assert (told["kind"], told["width"], told["dpi"], told["theme"]) == ("explain", "column", 100, "dark")
    assert (tmp_path / "lesson.md").read_text().startswith("# costs $5 and $6\n")


@pytest.mark.parametrize("name", ["pattern", "stats", "diff", "snapshot check"])
def test_a_look_needs_a_figure(run, dump, name):
    result = run(*command_of(name, dump), "--theme", "dark")
    assert (result.code, result.err) == (2, "attnviz: --theme dark: it says how a figure looks; name one with -o\n")


def test_marks_can_be_left_out(run, dump, tmp_path):
    command = ["plot", dump, "--head", "0", "--pattern", "full", "-o", tmp_path / "map.svg"]
    for more, marked in (([], True), (["--no-marks"], False)):
        assert run(*command, *more).code == 0
        assert (re.search(r">t0 \d+%</text>", (tmp_path / "map.svg").read_text()) is not None) == marked
