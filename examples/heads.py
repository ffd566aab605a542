"""Which global token does each head favor? A line a head, and a figure of the most decided one.

python examples/heads.py [DUMP [PICTURE]]
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt

import attnviz


def main(dump: Path, picture: Path) -> None:
    inputs = attnviz.load(dump)
    result = attnviz.score(inputs)
    assert result.weights is not None
    mean = result.weights.mean(1)  # (H, G): each head's weight on each global key, averaged over the queries
    for head, weights in zip(result.heads, mean.tolist(), strict=True):
        shares = "  ".join(f"pos {p} {w:.2f}" for p, w in zip(result.positions.tolist(), weights, strict=True))
        print(f"head {head}  {shares}")

    decided = int(mean.amax(1).argmax())
    figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
    attnviz.plot(inputs, decided, ax=axes[0], annot=True)
    attnviz.plot(inputs, decided, ax=axes[1], values="logits", annot=True)
    figure.savefig(picture)
    print(f"head {decided} is the most decided: {picture}")


if __name__ == "__main__":
    here = Path(__file__).parent
    main(
        dump=Path(sys.argv[1]) if len(sys.argv) > 1 else here / "dump.safetensors",
        picture=Path(sys.argv[2]) if len(sys.argv) > 2 else Path("decided.png"),
    )
