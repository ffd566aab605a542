"""A kernel's map, the exact one and the difference, of the heads that are wrong."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from torch import Tensor

from attnviz.compare.gradients import OF_KEYS
from attnviz.compare.handed import Outputs
from attnviz.compare.heads import compare
from attnviz.compare.kernel import exact_rows, sides_of
from attnviz.compare.report import HeadCheck, Report
from attnviz.show.figures.about import About
from attnviz.show.figures.cells import CellImage, most_cells
from attnviz.show.figures.dashes import dash_bar
from attnviz.show.figures.difference import comparison_inches, difference_figure
from attnviz.show.figures.scales import ColorScale
from attnviz.show.figures.style import house_style, save_figure

_MOST = 4
"""Heads of a picture."""

_KIND = {"kind": "check of a kernel"}


def write_kernel_difference(path: Path, outputs: Outputs, report: Report) -> bool:
    """Draws what a kernel gave, what is exact, and the difference, of the heads that are furthest off.

    A map where weights or logits are wrong, else the rows of the first output that is: queries by dimensions.

    Args:
        path: a .png, .pdf or .svg.
        outputs: what the kernel gave.
        report: what was found of it.

    Returns:
        Whether there was something to draw: something that is wrong.
    """
    wrong = [head for head in report.wrong if head.what in ("weights", "logits")] or report.wrong
    if not wrong:
        return False
    what, batch = wrong[0].what, wrong[0].batch
    heads = [head.head for head in wrong if (head.what, head.batch) == (what, batch)][:_MOST]
    if what not in ("weights", "logits"):
        with house_style():
            save_figure(rows_figure(outputs, report), path, about=About(rows_words(report), _KIND))
        return True
    kernel, exact = sides_of(outputs, what, batch)
    pixels = most_cells(comparison_inches((exact.T, exact.S)), 150)
    found = compare(kernel, exact, heads=heads, values=what, rule=report.rules[what], pixels=pixels)
    with house_style(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that no font here has are boxes, and no test's failure
        words = f"{what.capitalize()} that a kernel gave, the exact ones, and the difference: heads {', '.join(map(str, heads))}."
        save_figure(difference_figure(found.pictures), path, about=About(words, _KIND))
    return True


def _rows_of(outputs: Outputs, head: HeadCheck, report: Report) -> tuple[Tensor, Tensor]:
    """What a kernel gave of a head, and the exact rows, (n, C) each; rows that see nothing are compared with nothing."""
    exact = exact_rows(outputs, head, report.rules[head.what])
    given = outputs.given()[head.what][head.batch, head.head].detach().cpu().double().reshape(exact.shape)
    return torch.where(exact.isnan(), torch.nan, given), exact


def _drawn(report: Report) -> list[HeadCheck]:
    """The heads that rows are drawn of: those that are furthest off, of the first output that is wrong."""
    heads = report.wrong or report.heads
    return [head for head in heads if (head.what, head.batch) == (heads[0].what, heads[0].batch)][:_MOST]


def rows_words(report: Report) -> str:
    """What a figure of rows shows."""
    heads = _drawn(report)
    listed = ", ".join(str(head.head) for head in heads)
    return f"{heads[0].what} that a kernel gave, the exact one, and the difference: batch item {heads[0].batch}, heads {listed}."


def rows_figure(outputs: Outputs, report: Report) -> Figure:
    """Draws rows that a kernel gave, exact ones and the difference, a row of panels a head: queries by dimensions.

    Args:
        outputs: a context, denominators or gradients. Where there are more rows than a panel has room for, the number of a cell
            that is furthest from 0 is shown.
        report: what was found of them.
    """
    drawn = _drawn(report)
    what, heads = drawn[0].what, [head.head for head in drawn]
    pairs = [_rows_of(outputs, head, report) for head in drawn]
    noun = "key" if what in OF_KEYS else "query"
    figure = Figure(figsize=(_PANEL[0] * 3, 0.6 + _PANEL[1] * len(pairs)), layout="constrained")
    axes = figure.subplots(len(pairs), 3, squeeze=False, sharex=True, sharey=True)
    apart = [given - exact for given, exact in pairs]
    scales = [
        ColorScale().fit_cells([numbers.numpy() for numbers in tensors], "difference")
        for tensors in ([exact for _, exact in pairs], apart)
    ]
    for row, (given, exact) in enumerate(pairs):
        for column, numbers in enumerate((given, exact, apart[row])):
            ax, scale = axes[row, column], scales[column == 2]
            extent = (-0.5, numbers.shape[1] - 0.5, len(numbers) - 0.5, -0.5)
            how: dict[str, Any] = {"cmap": scale.cmap, "norm": scale.norm, "below": scale.below, "both_ways": True}
            image = CellImage(ax, _cells(numbers), extent, **how)
            if row == 0:
                ax.set_title((f"{what} of the kernel", f"exact {what}", "difference")[column])
            if column != 1 and row == len(pairs) - 1:
                under = axes[:, :2] if column == 0 else axes[:, 2]
                bar = figure.colorbar(image, ax=under, location="bottom", shrink=_BAR)
                dash_bar(bar.ax, scale, _BAR * _PANEL[0] * (2 if column == 0 else 1), lying=True)
        axes[row, 0].set_ylabel(f"head {heads[row]}\n{noun}")
        axes[row, 0].yaxis.set_major_locator(MaxNLocator(integer=True))
    for ax in axes[-1]:
        ax.set_xlabel("" if what == "lse" else "dim")
        ax.xaxis.set_major_locator(NullLocator() if what == "lse" else MaxNLocator(integer=True))
    return figure


_PANEL = 2.6, 2.2
"""Inches of a panel of rows."""

_BAR = 0.6
"""Of the panels' width, a color bar's."""

_CELLS = 256
"""Rows and columns of a panel, at most."""


def _cells(numbers: Tensor) -> np.ndarray:
    """Numbers, (n, C), as no more cells than there is room for: the one of each cell that is furthest from 0."""
    for dim in (0, 1):
        size = -(-numbers.shape[dim] // _CELLS)
        parts = numbers.split(size, dim)
        numbers = torch.cat([_furthest(part, dim) for part in parts], dim)
    return numbers.numpy()


def _furthest(part: Tensor, dim: int) -> Tensor:
    index = part.abs().nan_to_num(nan=-1.0).argmax(dim, keepdim=True)
    return part.gather(dim, index)
