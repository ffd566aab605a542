"""Global scores of a dump as JSON: ``python plain_scores.py dump.safetensors``."""

import json
import sys
from typing import Any

import torch
from safetensors import safe_open


def document(path: str) -> dict[str, Any]:
    """What ``attnviz score PATH --format json`` prints."""
    with safe_open(path, framework="pt") as file:
        q, k = file.get_tensor("q")[0], file.get_tensor("k")[0]
        positions = file.get_tensor("global_mask")[0].nonzero().flatten()
        tokens = json.loads(file.metadata()["attnviz"])["tokens"][0]
    scale = q.shape[-1] ** -0.5
    scores = torch.einsum("htd,hgd->htg", q, k[:, positions]) * scale
    weights = scores.softmax(-1)
    pairs = zip(rounded(scores), rounded(weights), strict=True)
    return {
        "schema": "attnviz.scores/2",
        "source": path,
        "pattern": "global",
        "scale": scale,
        "dtype": "float32",
        "decimals": 6,
        "items": [
            {
                "batch": 0,
                "queries": q.shape[1],
                "positions": positions.tolist(),
                "query_tokens": tokens,
                "position_tokens": [tokens[position] for position in positions],
                "heads": [{"head": head, "scores": s, "weights": w} for head, (s, w) in enumerate(pairs)],
            }
        ],
    }


def rounded(tensor: torch.Tensor) -> list[Any]:
    return tensor.double().round(decimals=6).tolist()


if __name__ == "__main__":
    print(json.dumps(document(sys.argv[1]), ensure_ascii=False, separators=(",", ":")))
