"""The command line draws what the library draws: the same bytes, for every kind of figure."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import attnviz
from attnviz.compare.snapshots.files import write_snapshot
from attnviz.engine.request import Request
from attnviz.plots.kind import KINDS, drawn, figure_of
from attnviz.plots.kinds.heatmap import Heatmap
from attnviz.plots.kinds.strip import Strip
from attnviz.plots.look import Look
from attnviz.show.figures.style import house_style, save_figure
from attnviz.sources.files import write_tensors
from tests.cases import small

WORDS = [["[CLS]", "it", "was", "it", "late", "."]] * 2
LOOK = {"norm": "power", "dpi": 150}


@pytest.fixture
def sources(folder):
    """Two dumps of six words, ``a.npz`` and ``b.npz``, a run of two layers, and what a vision model saw."""
    attnviz.save("a.npz", replace(small(), tokens=WORDS))
    attnviz.save("b.npz", replace(small(seed=1), tokens=WORDS))
    tensors = {}
    for n, inputs in enumerate([small(), small(seed=1)]):
        tensors |= {f"layers.{n}.q": inputs.q, f"layers.{n}.k": inputs.k}
    write_tensors(folder / "run.npz", tensors, {})
    seen, picture = small(tokens=5), torch.arange(48, dtype=torch.uint8).reshape(4, 4, 3)
    write_snapshot(folder / "kept.json", attnviz.take_snapshot(attnviz.load("a.npz"), "causal"))
    write_tensors(folder / "seen.npz", {"q": seen.q, "k": seen.k, "picture": picture}, {"patches": [2, 2]})
    return folder


def inputs():
    return attnviz.load("a.npz")


CASES = {
    "one head": (
        ("plot", "a.npz", "--head", "1", "--pattern", "causal", "--annot"),
        lambda: attnviz.plot(inputs(), 1, "causal", annot=True, **LOOK),
    ),
    "its edges": (
        ("plot", "a.npz", "--head", "1", "--pattern", "local:window=1", "--causal", "--pattern-outline"),
        lambda: attnviz.plot(inputs(), 1, attnviz.Local(1) & attnviz.Causal(), pattern_outline=True, **LOOK),
    ),
    "a part of it": (
        (
            "plot",
            "a.npz",
            "--head",
            "1",
            "--pattern",
            "full",
            "--queries",
            "1:5",
            "--keys",
            "0:3",
            "--values",
            "logits",
        ),
        lambda: attnviz.plot(
            inputs(), 1, "full", queries=range(1, 5), keys=range(3), values="logits", norm="power", dpi=150
        ),
    ),
    "heads": (
        ("plot", "a.npz", "--head", "0-2", "--pattern", "full", "--title", "three", "--caption"),
        lambda: attnviz.plot_heads(inputs(), [0, 1, 2], "full", title="three", caption=True, **LOOK),
    ),
    "reduced": (
        ("plot", "a.npz", "--head", "0-2", "--pattern", "full", "--pixels", "3", "--reduce", "mass"),
        lambda: attnviz.plot_heads(inputs(), [0, 1, 2], "full", pixels=3, reduce="mass", **LOOK),
    ),
    "detail": (
        ("plot", "a.npz", "--head", "2", "--pattern", "full", "--detail"),
        lambda: attnviz.plot_detail(inputs(), 2, "full", **LOOK),
    ),
    "strip": (
        ("plot", "a.npz", "--head", "2", "--strip", "late"),
        lambda: attnviz.plot_strip(inputs(), 4, 2, **LOOK),
    ),
    "strips": (
        ("plot", "a.npz", "--head", "2,0", "--strip", "4", "--pattern", "full"),
        lambda: attnviz.plot_strip(inputs(), 4, [2, 0], "full", **LOOK),
    ),
    "comparison": (
        ("plot", "a.npz", "--head", "0,3", "--compare", "b.npz", "--pattern", "full", "--caption"),
        lambda: attnviz.plot_comparison(inputs(), attnviz.load("b.npz"), [0, 3], "full", caption=True, **LOOK),
    ),
    "mean": (
        ("plot", "a.npz", "--mean", "heads", "--pattern", "causal", "--head", "0-2"),
        lambda: drawn(Heatmap(mean="heads"), Request(inputs(), "causal", [0, 1, 2]), Look(**LOOK)),
    ),
    "a strip of the largest": (
        ("plot", "a.npz", "--max", "--strip", "1"),
        lambda: drawn(Strip(max="heads", query=1), Request(inputs()), Look(**LOOK)),
    ),
    "overview": (
        ("overview", "run.npz", "--pattern", "full", "--head", "1-3", "--each", "--caption"),
        lambda: attnviz.plot_overview("run.npz", "full", heads=[1, 2, 3], each=True, caption=True, **LOOK),
    ),
    "some layers": (
        ("overview", "run.npz", "--layer", "1,0", "--pattern", "causal", "--reduce", "mass"),
        lambda: attnviz.plot_overview("run.npz", "causal", layers=[1, 0], reduce="mass", **LOOK),
    ),
}


def saved(figure: object, name: str) -> np.ndarray:
    """The pixels of a figure's file, which also says how it was made."""
    assert isinstance(figure, Figure)
    save_figure(figure, name, dpi=150)
    return pixels(Path(name))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize("case", CASES)
def test_a_figure_is_the_librarys(run, sources, case):
    arguments, library = CASES[case]
    result = run(*arguments, "--norm", "power", "-o", "command.png")
    assert result.code == 0, result.err
    with house_style(letters="[CLS]"):
        of_library = saved(figure_of(library()), "library.png")
    np.testing.assert_array_equal(pixels(sources / "command.png"), of_library)


def rows(of: Any = attnviz.head_statistics) -> list[Any]:
    """What is counted of each head of each layer of the run."""
    return [row for label in (0, 1) for row in of(replace(attnviz.load("run.npz", layer=label), layer=label), "causal")]


OTHERS = {
    "overlay": (
        ("plot", "seen.npz", "--overlay", "--pattern", "full"),
        lambda: attnviz.plot_overlay(attnviz.load("seen.npz"), None, "full", picture="seen.npz", dpi=150),
    ),
    "arcs": (
        ("plot", "a.npz", "--head", "1", "--arcs", "--pattern", "causal", "--caption"),
        lambda: attnviz.plot_arcs(inputs(), 1, "causal", caption=True, dpi=150),
    ),
    "pattern": (
        ("pattern", "a.npz", "--head", "2", "--pattern", "local+global:window=1", "--caption"),
        lambda: attnviz.plot_pattern(inputs(), "local+global:window=1", 2, caption=True, dpi=150),
    ),
    "story": (
        ("pattern", "a.npz", "--head", "none", "--pattern", "local+global:window=1", "--story"),
        lambda: attnviz.plot_pattern(inputs(), "local+global:window=1", story=True, dpi=150),
    ),
    "statistics": (
        ("stats", "run.npz", "--layer", "all", "--pattern", "causal", "--statistic", "max_weight", "--cmap", "magma"),
        lambda: attnviz.plot_statistics(rows(), "max_weight", cmap="magma"),
    ),
    "by layer": (
        ("stats", "run.npz", "--layer", "all", "--pattern", "causal", "--by-layer", "--title", "mine"),
        lambda: attnviz.plot_statistics(rows(), by_layer=True, title="mine"),
    ),
    "curves": (
        ("stats", "run.npz", "--layer", "all", "--pattern", "causal", "--curve", "distance"),
        lambda: attnviz.plot_curves(rows(attnviz.head_curves), "distance"),
    ),
    "what sets a snapshot apart": (
        ("snapshot", "check", "b.npz", "kept.json", "--pattern", "causal", "--caption"),
        lambda: attnviz.plot_snapshot(
            "kept.json", attnviz.take_snapshot(attnviz.load("b.npz"), "causal"), caption=True, dpi=150
        ),
    ),
    "windows": (
        ("stats", "a.npz", "--pattern", "causal", "--curve", "windows"),
        lambda: attnviz.plot_curves(attnviz.head_curves(inputs(), "causal")),
    ),
}


@pytest.mark.sweep(keep=4)
@pytest.mark.parametrize("case", OTHERS)
def test_other_figures_are_the_librarys(run, sources, case):
    arguments, library = OTHERS[case]
    result = run(*arguments, "-o", "command.png")
    assert result.code == (1 if "check" in arguments else 0), result.err
    with house_style(letters="[CLS]"):
        found = saved(figure_of(library()), "library.png")
    np.testing.assert_array_equal(pixels(sources / "command.png"), found)


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("figure", ["map", "row"])
def test_figures_of_a_lesson_are_the_librarys(run, sources, figure):
    pair = ("--query", "4", "--key", "1", "--head", "1", "--pattern", "causal")
    assert run("explain", "a.npz", *pair, "--lang", "ja", "-o", "lesson.md").code == 0
    with house_style(letters="重クあ"):
        how = {"head": 1, "query": 4, "key": 1, "pattern": "causal", "language": "ja", "dpi": 150}
        found = saved(attnviz.plot_lesson(inputs(), figure, **how), "library.png")
    np.testing.assert_array_equal(pixels(sources / f"lesson-{figure}.png"), found)


@pytest.mark.sweep(keep=4)
@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: attnviz.plot_statistics([]), attnviz.InputError, "take them from attnviz.head_statistics"),
        (lambda: attnviz.plot_statistics(rows(), "entropi"), attnviz.InputError, "did you mean entropy"),
        (lambda: attnviz.plot_statistics(rows(), by_layer=True, cmap="ink"), attnviz.InputError, "lines have no color"),
        (lambda: attnviz.plot_statistics(rows(), marks=False), TypeError, "no option 'marks'"),
        (lambda: attnviz.plot_curves([]), attnviz.InputError, "take them from attnviz.head_curves"),
        (lambda: attnviz.plot_curves(rows(attnviz.head_curves), "far"), attnviz.InputError, "distance, windows"),
        (
            lambda: attnviz.plot_curves(rows(attnviz.head_curves), ax=Figure().add_subplot()),
            attnviz.InputError,
            "leave ax out",
        ),
        (lambda: attnviz.plot_overlay(inputs()), attnviz.InputError, "patches=\\(24, 24\\)"),
        (
            lambda: attnviz.plot_overlay(inputs(), picture=np.zeros((4, 4)), patches=(2, 2)),
            attnviz.InputError,
            r"wanted \(height, width, 3\) uint8",
        ),
        (
            lambda: attnviz.plot_pattern(inputs(), "local+global:window=1", story=True, ax=Figure().add_subplot()),
            attnviz.InputError,
            "leave ax out",
        ),
        (lambda: attnviz.plot_pattern(inputs(), "full", cmap="ink"), TypeError, "no option 'cmap'"),
        (lambda: attnviz.plot_lesson(inputs(), "mapp"), attnviz.InputError, "did you mean map"),
        (lambda: attnviz.plot_lesson(inputs(), language="fr"), attnviz.InputError, "en, ja"),
        (lambda: attnviz.plot_lesson(inputs(), pixels=3), TypeError, "no option 'pixels'"),
        (
            lambda: attnviz.plot_snapshot(
                *(attnviz.take_snapshot(inputs(), "causal", heads=[head]) for head in range(2))
            ),
            attnviz.InputError,
            "no cells in common",
        ),
    ],
)
def test_what_the_library_cannot_draw_is_said(sources, call, error, says):
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize("name", [name for name in attnviz.__all__ if name.split("_")[0] == "plot"])
def test_an_option_that_there_is_not_is_answered_with_the_one_that_was_meant(name):
    """One rule for every function that draws, whatever it takes."""
    parameters = inspect.signature(getattr(attnviz, name)).parameters.values()
    needed = [attnviz.synthesize() for one in parameters if one.default is inspect.Parameter.empty]
    with pytest.raises(TypeError, match=r"no option 'widht'; did you mean width\?"):
        getattr(attnviz, name)(*needed, widht=3)


@pytest.mark.parametrize("how", [(), ("--mean",), ("--strip", "3")], ids=str)
def test_a_map_as_numbers_is_the_librarys(run, sources, how):
    assert run("plot", "a.npz", "--head", "1,2", "--pattern", "causal", *how, "-o", "map.npz").code == 0
    if how == ("--mean",):
        expected = [attnviz.combined_map(inputs(), "mean", [1, 2], "causal")]
    else:
        part = {"queries": range(3, 4)} if how else {}
        expected = [attnviz.attention_map(inputs(), head, "causal", **part) for head in (1, 2)]
    with np.load("map.npz") as arrays:
        np.testing.assert_array_equal(arrays["cells"], np.stack([shown.cells for shown in expected]).astype(np.float32))


def test_every_kind_is_held_against_the_library():
    import attnviz.plots.kinds  # noqa: F401

    drawn_here = " ".join(" ".join(arguments) for arguments, _ in [*CASES.values(), *OTHERS.values()])
    assert [name for name in KINDS if f"--{name}" not in drawn_here and "test" not in KINDS[name].__module__] == []


def test_a_pattern_has_a_name_in_every_library_function():
    a, b = small(), small(seed=1)
    with mpl.rc_context():
        for found in (
            attnviz.plot(a, 0, "causal"),
            attnviz.plot_heads(a, [0, 1], "local:window=1"),
            attnviz.plot_detail(a, 0, "full"),
            attnviz.plot_strip(a, 3, 0, "causal"),
            attnviz.plot_comparison(a, b, [0], "full", "causal"),
            attnviz.plot_overview([a, b], "causal"),
        ):
            assert isinstance(figure_of(found), Figure)


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("command", ["score", "stats", "show", "context", "tiles", "overview", "html", "plot"])
def test_layers_are_named_alike_everywhere(run, refused, sources, command):
    files = {"context": "out.npz", "tiles": "out", "overview": "out.png", "html": "out.html", "plot": "out.png"}
    out = ("-o", files[command]) if command in files else ()
    pattern = ("--pattern", "full")
    if command == "context":  # which needs v: a layer is found first
        refused(command, "run.npz", "--layer", "0-1", *pattern, *out, says="one layer is wanted here, 2 are given")
        return
    several = command in ("stats", "overview", "html")
    if several:
        assert run(command, "run.npz", "--layer", "0-1", *pattern, *out).code == 0
        assert run(command, "run.npz", "--layer", "all", *pattern, *out).code == 0
    else:
        refused(
            command, "run.npz", "--layer", "0-1", *pattern, *out, says="--layer 0-1: one layer is wanted here, 2 are"
        )
        assert run(command, "run.npz", "--layer", "1-1", *pattern, *out).code == 0
    refused(command, "run.npz", "--layer", "1-0", *pattern, *out, says="--layer '1-0': 1-0 is not a range of layers")
    refused(command, "run.npz", "--layer", "0,0", *pattern, *out, says="layer 0 is given more than once")
