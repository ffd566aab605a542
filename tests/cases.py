"""Small inputs that many tests start from."""

from __future__ import annotations

import numpy as np

import attnviz


def small(**changes: object) -> attnviz.AttentionInputs:
    """Two items, four query heads, two key heads, six tokens, globals at 0 and 3."""
    settings = {"heads": 4, "kv_heads": 2, "tokens": 6, "head_dim": 8, "batch": 2, "global_positions": (0, 3)}
    return attnviz.synthesize(**{**settings, **changes})


def arrays(**changes: object) -> dict[str, np.ndarray]:
    """q, k, v and a mask as one item, with some of them changed; None leaves one out."""
    inputs = small(batch=1)
    named = {
        "q": inputs.q[0].numpy(),  # (4, 6, 8)
        "k": inputs.k[0].numpy(),  # (2, 6, 8)
        "v": inputs.v[0].numpy(),
        "global_mask": inputs.global_mask[0].numpy(),
    }
    return {name: array for name, array in {**named, **changes}.items() if array is not None}
