"""Every kind of figure from what is computed to a PNG file, against a plain matplotlib script of the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np

import attnviz
from attnviz.engine.request import Request
from attnviz.maps.layers import OverviewRow
from attnviz.maps.reasons import reasons_of
from attnviz.plots.kind import figure_of
from attnviz.show.figures.arcs import arcs
from attnviz.show.figures.curves import curves_figure
from attnviz.show.figures.detail import detail
from attnviz.show.figures.difference import difference_figure
from attnviz.show.figures.heatmap import heads_grid, heatmap
from attnviz.show.figures.lesson import row_figure
from attnviz.show.figures.lines import lines_figure
from attnviz.show.figures.overlay import overlays
from attnviz.show.figures.overview import overview_figure
from attnviz.show.figures.pattern import pattern_figure, story_figure
from attnviz.show.figures.statistics import statistics_figure
from attnviz.show.figures.strip import strip
from attnviz.show.figures.style import house_style, save_figure
from benchmarks.baselines import plain_figures as plain
from benchmarks.measure import Comparison, benchmark, in_turns

TARGET = 1.15
T, LONG = 32, 512

Drawing = tuple[Callable[[], Any], Callable[[tuple[float, float]], Any]]


def drawings() -> dict[str, Drawing]:
    """What draws each kind, ours and the plain script's, from numbers that are there."""
    words = [f"word{n}" for n in range(T)]
    inputs = replace(attnviz.synthesize(heads=12, tokens=T), tokens=[words])
    maps = [attnviz.attention_map(inputs, head, "causal") for head in range(12)]
    other = attnviz.attention_map(replace(attnviz.synthesize(seed=1, heads=12, tokens=T), tokens=[words]), 0, "causal")
    long = attnviz.attention_map(attnviz.synthesize(heads=1, tokens=LONG), 0, "causal", pixels=LONG)
    sides = attnviz.marginals(inputs, 0, "causal")
    apart = replace(maps[0], cells=maps[0].cells - other.cells, values="difference")
    row = replace(maps[0], cells=maps[0].cells[-1:], queries=range(T - 1, T), query_labels=words[-1:])
    layers = [OverviewRow(n, tuple(maps)) for n in range(12)]
    reasons = reasons_of(Request(inputs, attnviz.longformer(2), 0, every_key=True), weights=False)
    weighed = reasons_of(Request(inputs, attnviz.longformer(2), 0, every_key=True), weights=True)
    kinds = np.minimum(reasons.kinds + 1, 4)
    numbers: Any = [
        SimpleNamespace(layer=layer, batch=None, head=head, entropy=1 + head / 12 + layer / 40)
        for layer in range(12)
        for head in range(12)
    ]
    table = np.array([one.entropy for one in numbers]).reshape(12, 12)
    found = [replace(one, layer=n) for n in range(3) for one in attnviz.head_curves(inputs, "causal")]
    curves = [[one.weight for one in found if one.layer == n] for n in range(3)]
    picture = np.full((224, 224, 3), 120, np.uint8)
    over = [replace(one, cells=one.cells[-1:, :16], keys=range(16), queries=range(1)) for one in maps]
    laid = [one.cells.reshape(4, 4) for one in over]
    told = attnviz.explain(inputs, head=3, query=T - 1, pattern="causal")
    names, weights = [f"{key.position} {key.token}" for key in told.keys], [key.weight for key in told.keys]
    return {
        "heatmap, 32 tokens": (lambda: heatmap(maps[0]), lambda size: plain.heatmap(maps[0].cells, words, size)),
        "heatmap, 512 cells": (lambda: heatmap(long), lambda size: plain.heatmap(long.cells, None, size, 50)),
        "heads, 12": (lambda: heads_grid(maps), lambda size: plain.heads([one.cells for one in maps], words, size)),
        "detail": (
            lambda: detail(maps[0], sides),
            lambda size: plain.detail(maps[0].cells, sides.received, sides.entropy, words, size),
        ),
        "comparison": (
            lambda: difference_figure([(maps[0], other, apart)]),
            lambda size: plain.comparison(maps[0].cells, other.cells, words, size),
        ),
        "strip": (lambda: strip(row), lambda size: plain.strip(words, row.cells[0], size)),
        "overlay, 12 heads": (
            lambda: overlays(picture, over, (4, 4)),
            lambda size: plain.overlay(picture, laid, size),
        ),
        "overview, 12 x 12": (
            lambda: overview_figure(layers),
            lambda size: plain.overview([[one.cells for one in maps]] * 12, size),
        ),
        "pattern": (lambda: pattern_figure(reasons), lambda size: plain.pattern(kinds, words, size)),
        "pattern with weights": (lambda: pattern_figure(weighed), lambda size: plain.weighed(kinds, weighed.weights, words, size)),
        "story": (
            lambda: story_figure([reasons] * 3, ["global", "local", "both"]),
            lambda size: plain.story([kinds] * 3, words, size),
        ),
        "statistics": (lambda: statistics_figure(numbers), lambda size: plain.statistics(table, size)),
        "statistics by layer": (lambda: lines_figure(numbers), lambda size: plain.lines(table, size)),
        "curves": (lambda: curves_figure(found, "distance"), lambda size: plain.curves(curves, size)),
        "arcs": (lambda: arcs(maps[0], range(T)), lambda size: plain.arcs(words, maps[0].cells, size)),
        "bars of a lesson": (
            lambda: row_figure(told, told.keys, {}, title="weights of a query"),
            lambda size: plain.bars(names, weights, size),
        ),
    }  # fmt: skip


@benchmark
def kinds_of_figures() -> Iterator[Comparison]:
    """Drawing and writing alone: imports are the same, and the numbers are there."""
    with TemporaryDirectory() as folder, house_style():
        ours, theirs = Path(folder) / "ours.png", Path(folder) / "theirs.png"
        for name, (draw, draw_plain) in drawings().items():
            size = tuple(float(side) for side in figure_of(draw()).get_size_inches())
            seconds = in_turns(
                {
                    "ours": lambda draw=draw: save_figure(figure_of(draw()), ours, dpi=150),
                    "theirs": lambda draw=draw_plain, size=size: draw(size).savefig(theirs, dpi=150),
                },
                repeats=7,
            )
            yield Comparison(
                f"{name}, drawn and saved as PNG",
                "plain matplotlib: the same numbers, size and dots per inch",
                seconds["ours"],
                seconds["theirs"],
                TARGET,
            )
