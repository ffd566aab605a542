"""One head's global weights as a heatmap: ``python seaborn_heatmap.py dump.safetensors 3 out.png``."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from safetensors import safe_open


def weights_of(path: str | Path, head: int) -> tuple[np.ndarray, list[str], list[str]]:
    """The weights (T, G), and the labels of rows and columns."""
    with safe_open(path, framework="pt") as file:
        q, k = file.get_slice("q")[0, head], file.get_slice("k")[0, head]  # (T, D)
        positions = file.get_tensor("global_mask")[0].nonzero().flatten()
        tokens = json.loads(file.metadata()["attnviz"])["tokens"][0]
    scores = torch.einsum("td,gd->tg", q, k[positions]) / q.shape[-1] ** 0.5
    labels = [f"{position}  {token}" for position, token in enumerate(tokens)]
    return scores.softmax(-1).numpy(), labels, [labels[position] for position in positions]


def draw(weights: np.ndarray, rows: list[str], columns: list[str], title: str, path: str | Path) -> None:
    """A figure as large as the one ``attnviz plot`` makes; seaborn thins the labels."""
    figure, ax = plt.subplots(figsize=(8.75, 8.25))
    frame = pd.DataFrame(weights, index=rows, columns=columns)
    sns.heatmap(frame, ax=ax, vmin=0, cmap="rocket", cbar_kws={"label": "weight (softmax)"})
    ax.set(title=title, xlabel="global key", ylabel="query")
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    plt.switch_backend("agg")
    draw(*weights_of(sys.argv[1], int(sys.argv[2])), f"head {sys.argv[2]}", sys.argv[3])
