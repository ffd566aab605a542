"""Each kind of figure as one would write it with matplotlib alone, of the same computed numbers, in the same size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

Size = tuple[float, float]
Labels = Sequence[str] | None


def _map(ax: Axes, cells: np.ndarray, labels: Labels, **how: Any) -> Any:
    image = ax.imshow(cells, **how)
    if labels is not None:
        ax.set_xticks(range(len(labels)), labels, rotation=90, fontsize=6)
        ax.set_yticks(range(len(labels)), labels, fontsize=6)
    return image


def heatmap(cells: np.ndarray, labels: Labels, size: Size, every: int | None = None) -> Figure:
    """A map with its color bar; ``every``: how far apart positions are that have a tick."""
    figure = Figure(figsize=size)
    ax = figure.add_subplot()
    if every is not None:
        ax.set(xticks=range(0, cells.shape[1], every), yticks=range(0, len(cells), every))
    figure.colorbar(_map(ax, cells, labels, cmap="magma_r"), ax=ax, label="weight")
    ax.set(title="head 0", xlabel="key", ylabel="query")
    return figure


def heads(maps: Sequence[np.ndarray], labels: Labels, size: Size) -> Figure:
    """A grid of maps on one color scale."""
    figure = Figure(figsize=size)
    axes = figure.subplots(-(-len(maps) // 4), 4, sharex=True, sharey=True)
    top = max(float(np.nanmax(cells)) for cells in maps)
    for n, (ax, cells) in enumerate(zip(axes.flat, maps, strict=False)):
        image = _map(ax, cells, labels, cmap="magma_r", vmin=0, vmax=top)
        ax.set_title(f"head {n}")
    figure.colorbar(image, ax=axes, label="weight")
    return figure


def detail(cells: np.ndarray, received: np.ndarray, entropy: np.ndarray, labels: Labels, size: Size) -> Figure:
    """A map with bars above it and beside it."""
    figure = Figure(figsize=size)
    axes = figure.subplots(2, 2, sharex="col", sharey="row", height_ratios=(1, 6), width_ratios=(6, 1))
    axes[0, 1].axis("off")
    figure.colorbar(_map(axes[1, 0], cells, labels, cmap="magma_r", aspect="auto"), ax=axes, label="weight")
    axes[0, 0].bar(range(len(received)), received)
    axes[1, 1].barh(range(len(entropy)), entropy)
    axes[0, 0].set(title="head 0", ylabel="received")
    axes[1, 1].set_xlabel("entropy")
    return figure


def comparison(a: np.ndarray, b: np.ndarray, labels: Labels, size: Size) -> Figure:
    """Two maps and their difference, with two color bars."""
    figure = Figure(figsize=size)
    axes = figure.subplots(1, 3)
    top = float(max(np.nanmax(a), np.nanmax(b)))
    for ax, cells, name in zip(axes, (a, b), ("A", "B"), strict=False):
        image = _map(ax, cells, labels, cmap="magma_r", vmin=0, vmax=top)
        ax.set_title(name)
    most = float(np.nanmax(np.abs(a - b)))
    apart = _map(axes[2], a - b, labels, cmap="RdBu_r", vmin=-most, vmax=most)
    axes[2].set_title("A - B")
    figure.colorbar(image, ax=axes[:2], orientation="horizontal", label="weight")
    figure.colorbar(apart, ax=axes[2], orientation="horizontal", label="A - B")
    return figure


def strip(words: Sequence[str], weights: np.ndarray, size: Size) -> Figure:
    """Words in lines, each with a box of its color."""
    import matplotlib as mpl

    figure = Figure(figsize=size)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.axis("off")
    cmap, top, x, y = mpl.colormaps["magma_r"], float(np.nanmax(weights)), 0.01, 0.95
    for word, weight in zip(words, weights, strict=True):
        color = cmap(weight / top) if np.isfinite(weight) else "0.94"
        ax.text(x, y, word, fontsize=8, bbox={"facecolor": color, "edgecolor": "none", "pad": 1})
        x += 0.014 * (len(word) + 1)
        if x > 0.85:
            x, y = 0.01, y - 0.06
    figure.colorbar(mpl.cm.ScalarMappable(mpl.colors.Normalize(0, top), cmap), ax=ax, fraction=0.03)
    return figure


def overlay(picture: np.ndarray, weights: Sequence[np.ndarray], size: Size) -> Figure:
    """Weights over a picture, a head each."""
    figure = Figure(figsize=size)
    axes = figure.subplots(-(-len(weights) // 4), 4)
    top = max(float(cells.max()) for cells in weights)
    for n, (ax, cells) in enumerate(zip(axes.flat, weights, strict=False)):
        ax.imshow(picture)
        extent = (0, picture.shape[1], picture.shape[0], 0)
        image = ax.imshow(cells, extent=extent, alpha=0.6, cmap="magma_r", vmin=0, vmax=top)
        ax.set(title=f"head {n}", xticks=[], yticks=[])
    figure.colorbar(image, ax=axes)
    return figure


def overview(rows: Sequence[Sequence[np.ndarray]], size: Size) -> Figure:
    """A panel a head, a row a layer."""
    figure = Figure(figsize=size)
    axes = figure.subplots(len(rows), len(rows[0]))
    for row, line in zip(rows, axes, strict=True):
        for cells, ax in zip(row, line, strict=True):
            image = ax.imshow(cells, cmap="magma_r", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=axes)
    return figure


COLORS = np.array([(0.94, 0.94, 0.94), (0, 0.45, 0.7), (0.9, 0.62, 0), (0, 0.62, 0.45), (0.24, 0.24, 0.24)])
NAMES = ("not visible", "window", "global key", "global query", "several")


def _reasons(ax: Axes, kinds: np.ndarray, labels: Labels) -> None:
    _map(ax, COLORS[kinds], labels)
    T, S = kinds.shape
    ax.hlines(np.arange(T + 1) - 0.5, -0.5, S - 0.5, color="white")
    ax.vlines(np.arange(S + 1) - 0.5, -0.5, T - 0.5, color="white")


def _legend(ax: Axes) -> None:
    handles = [Patch(color=color, label=name) for name, color in zip(NAMES, COLORS, strict=True)]
    ax.legend(handles=handles, bbox_to_anchor=(1.02, 1), loc="upper left")


def pattern(kinds: np.ndarray, labels: Labels, size: Size) -> Figure:
    """A color for each reason, with a legend."""
    figure = Figure(figsize=size)
    ax = figure.add_subplot()
    _reasons(ax, kinds, labels)
    _legend(ax)
    ax.set(title="pattern", xlabel="key", ylabel="query")
    return figure


def weighed(kinds: np.ndarray, weights: np.ndarray, labels: Labels, size: Size) -> Figure:
    """Likewise, with a square for each weight."""
    figure = pattern(kinds, labels, size)
    rows, columns = np.nonzero(weights > 0)
    area = 100 * weights[rows, columns] / weights[rows, columns].max()
    figure.axes[0].scatter(columns, rows, s=area, marker="s", color="black")
    return figure


def story(pictures: Sequence[np.ndarray], labels: Labels, size: Size) -> Figure:
    """Several of them side by side."""
    figure = Figure(figsize=size)
    axes = figure.subplots(1, len(pictures))
    for ax, kinds in zip(axes, pictures, strict=True):
        _reasons(ax, kinds, labels)
        ax.set_title("part")
    _legend(axes[-1])
    return figure


def statistics(cells: np.ndarray, size: Size) -> Figure:
    """Layers x heads with a number in each cell."""
    figure = Figure(figsize=size)
    ax = figure.add_subplot()
    figure.colorbar(ax.imshow(cells, cmap="magma_r", aspect="auto"), ax=ax, label="nats")
    for (row, column), value in np.ndenumerate(cells):
        ax.text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=6)
    ax.set(title="entropy", xlabel="head", ylabel="layer", xticks=range(cells.shape[1]), yticks=range(cells.shape[0]))
    return figure


def lines(cells: np.ndarray, size: Size) -> Figure:
    """A line a head, by layer, and their mean."""
    figure = Figure(figsize=size)
    ax = figure.add_subplot()
    ax.plot(cells, color="C1", alpha=0.6, marker="o", markersize=2)
    ax.plot(cells.mean(1), color="black", linewidth=2, marker="o", label="mean of heads")
    ax.legend()
    ax.set(title="entropy", xlabel="layer", ylabel="entropy, nats")
    return figure


def curves(layers: Sequence[Sequence[np.ndarray]], size: Size) -> Figure:
    """A line a head, a panel a layer."""
    figure = Figure(figsize=size)
    axes = figure.subplots(1, len(layers), sharex=True, sharey=True)
    for n, (ax, found) in enumerate(zip(axes, layers, strict=True)):
        for head, weight in enumerate(found):
            ax.plot(weight, label=f"head {head}", marker="o", markersize=2)
        ax.set(title=f"layer {n}", xlabel="distance")
        ax.set_xscale("symlog", base=2)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=6)
    return figure


def arcs(words: Sequence[str], cells: np.ndarray, size: Size) -> Figure:
    """A line of words, and a curve for each weight, one patch each."""
    from matplotlib.patches import FancyArrowPatch

    figure = Figure(figsize=size)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.axis("off")
    ax.set(xlim=(-1, len(words)), ylim=(-1, len(words) / 2))
    for n, word in enumerate(words):
        ax.text(n, -0.2, word, ha="center", va="top", rotation=90)
    for (query, key), weight in np.ndenumerate(cells):
        if weight > 0 and query != key:
            bend = {"arrowstyle": "-", "connectionstyle": "arc3,rad=0.5", "linewidth": 3 * float(weight)}
            ax.add_patch(FancyArrowPatch((query, 0), (key, 0), **bend))
    return figure


def bars(names: Sequence[str], weights: Sequence[float], size: Size) -> Figure:
    """A bar a key, with its number."""
    figure = Figure(figsize=size)
    ax = figure.add_subplot()
    ax.bar_label(ax.barh(names, weights), fmt="%.3f")
    ax.invert_yaxis()
    ax.set(title="weights of a query", xlabel="weight")
    return figure
