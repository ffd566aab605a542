"""Figures to PNG files, against seaborn on the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import attnviz
from attnviz.show.figures.heatmap import heads_grid as grid
from attnviz.show.figures.style import house_style, save_figure
from benchmarks.baselines import imshow_grid, seaborn_heatmap
from benchmarks.command_line import make_dump
from benchmarks.measure import Comparison, baseline, benchmark, in_turns, processes_in_turns
from benchmarks.measure import attnviz as command

HEAD = "3"
CASE = "one head of 4,096 x 64 to PNG"


@benchmark
def plot_head() -> Iterator[Comparison]:
    with TemporaryDirectory() as folder:
        dump, ours, theirs = (Path(folder) / name for name in ("dump.safetensors", "ours.png", "theirs.png"))
        make_dump(dump, heads=4, tokens=4096, positions="every:64")
        inputs = attnviz.load(dump)
        weights, rows, columns = seaborn_heatmap.weights_of(dump, int(HEAD))
        seconds = in_turns(
            {
                "ours": lambda: plot(inputs, int(HEAD), ours),
                "theirs": lambda: seaborn_heatmap.draw(weights, rows, columns, f"head {HEAD}", theirs),
            },
            repeats=15,
        )
        whole = processes_in_turns(
            {
                "ours": command("plot", dump, "--head", HEAD, "-o", ours),
                "theirs": baseline("seaborn_heatmap", dump, HEAD, theirs),
            },
            repeats=7,
        )
    yield Comparison(
        f"attnviz.plot and save: {CASE}", "seaborn.heatmap and savefig", seconds["ours"], seconds["theirs"], 1.0
    )
    yield Comparison(
        f"attnviz plot FILE: {CASE}",
        "plain script: torch, safetensors, einsum, softmax, seaborn.heatmap",
        whole["ours"],
        whole["theirs"],
        1.0,
    )


@benchmark
def heads_grid() -> Iterator[Comparison]:
    """A grid of maps that are computed already, against the plainest grid of the same maps."""
    maps = [
        attnviz.attention_map(attnviz.synthesize(heads=1, tokens=64, seed=n), 0, attnviz.Causal()) for n in range(144)
    ]
    maps = [replace(shown, head=n) for n, shown in enumerate(maps)]
    with TemporaryDirectory() as folder, house_style():
        ours, theirs = Path(folder) / "ours.png", Path(folder) / "theirs.png"
        size = grid(maps).get_size_inches()
        seconds = in_turns(
            {
                "ours": lambda: save_figure(grid(maps), ours),
                "theirs": lambda: imshow_grid.draw([shown.cells for shown in maps], tuple(size), theirs),
            },
            repeats=5,
        )
    name = "figures.heatmap.heads_grid and save: 144 heads of 64 x 64 to PNG"
    yield Comparison(name, "matplotlib: subplots, imshow and savefig", seconds["ours"], seconds["theirs"], 1.5)


def plot(inputs: attnviz.AttentionInputs, head: int, path: Path) -> None:
    """What ``attnviz plot`` does once the inputs are loaded: scores, figure, file."""
    with house_style():
        figure = attnviz.plot(inputs, head).get_figure(root=True)
        assert figure is not None
        save_figure(figure, path)
