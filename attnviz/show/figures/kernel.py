"""A kernel's map, the exact one and the difference, of the heads that are wrong."""

from __future__ import annotations

import warnings
from pathlib import Path

from attnviz.compare.handed import Outputs
from attnviz.compare.heads import compare
from attnviz.compare.kernel import sides_of
from attnviz.compare.report import Report
from attnviz.show.figures.about import About
from attnviz.show.figures.cells import most_cells
from attnviz.show.figures.difference import comparison_inches, difference_figure
from attnviz.show.figures.style import house_style, save_figure

_MOST = 4
"""Heads of a picture."""


def write_kernel_difference(path: Path, outputs: Outputs, report: Report) -> bool:
    """Draws what a kernel gave, what is exact, and the difference, of the heads that are furthest off.

    Args:
        path: a .png, .pdf or .svg.
        outputs: what the kernel gave.
        report: what was found of it.

    Returns:
        Whether there was something to draw: weights or logits that are wrong.
    """
    wrong = [head for head in report.wrong if head.what in ("weights", "logits")]
    if not wrong:
        return False
    what, batch = wrong[0].what, wrong[0].batch
    heads = [head.head for head in wrong if (head.what, head.batch) == (what, batch)][:_MOST]
    kernel, exact = sides_of(outputs, what, batch)
    pixels = most_cells(comparison_inches((exact.T, exact.S)), 150)
    found = compare(kernel, exact, heads=heads, values=what, rule=report.rules[what], pixels=pixels)
    with house_style(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that no font here has are boxes, and no test's failure
        words = f"{what.capitalize()} that a kernel gave, the exact ones, and the difference: heads {', '.join(map(str, heads))}."
        save_figure(difference_figure(found.pictures), path, about=About(words, {"kind": "check of a kernel"}))
    return True
