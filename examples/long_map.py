"""The exact map of 65,536 tokens, with a sink, a diagonal, an induction stripe and a lone needle that are all seen.

python examples/long_map.py [TOKENS [PICTURE]]
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import attnviz
from attnviz.base.bins import bin_edges
from attnviz.maps.map import cell_words


def main(tokens: int, picture: Path) -> None:
    inputs = attnviz.synthesize(heads=1, tokens=tokens, structure=("sink", "local", "induction", "needle"))
    shown = attnviz.attention_map(
        inputs, 0, attnviz.Causal(), pixels=256
    )  # 256 x 256 cells: the largest weight of each

    cells = np.nan_to_num(shown.cells)
    edges = bin_edges(range(tokens), len(cells))
    P, row = len(cells), np.arange(len(cells))

    def of(position: int) -> int:
        """The row of cells that holds a query, and the column that holds a key."""
        return int(np.searchsorted(edges, position, side="right")) - 1

    def beside(column: np.ndarray) -> np.ndarray:
        """The brightest of each row's cells within one of ``column``."""
        return np.max([cells[row, np.clip(column + step, 0, P - 1)] for step in (-1, 0, 1)], axis=0)

    structures = {
        "sink: every query, key 0": cells[:, 0],
        "local: every query, keys near it": beside(row),
        "induction: the second half, what followed half a map ago": beside(row - P // 2)[P // 2 :],
        "needle: one query, one key": cells[[of(3 * tokens // 4)], [of(tokens // 3)]],
    }
    print(f"{tokens} x {tokens} weights in {P} x {P} cells, {cell_words(shown.cell_size)}")
    for name, bright in structures.items():
        print(f"{name}: seen in {np.mean(bright > 0.01):.0%} of its rows, brightest {bright.max():.2f}")
    print(f"median cell: {np.median(shown.cells[~np.isnan(shown.cells)]):.0e}")

    figure, ax = plt.subplots(figsize=(7, 6), layout="constrained")
    attnviz.heatmap(shown, ax=ax)
    figure.savefig(picture, dpi=150)  # some pixels a cell: fewer than one would drop cells
    print(f"wrote {picture}")


if __name__ == "__main__":
    main(
        tokens=int(sys.argv[1]) if len(sys.argv) > 1 else 65_536,
        picture=Path(sys.argv[2]) if len(sys.argv) > 2 else Path("long_map.png"),
    )
