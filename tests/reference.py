"""The formula in plain loops and float64, for one batch item. Shares no code with the package, on purpose.

Slow and obvious: every number is a sum over the letters of `spec.md`, so that where the engine and this file
differ, a reader can see which of them is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Attention:
    """What one attention call gives, in float64."""

    logits: np.ndarray  # (H, T, S), -inf where a query does not see a key
    weights: np.ndarray  # (H, T, S), 0 where a query does not see a key, NaN in the row of one that sees nothing
    context: np.ndarray | None  # (H, T, D_v), NaN likewise


def attend(
    q: Any,  # (H, T, D)
    k: Any,  # (H_kv, S, D)
    visible: Any,  # (T, S) bool
    *,
    scale: float | None = None,
    v: Any = None,  # (H_kv, S, D_v)
    softcap: float | None = None,
    bias: Any = None,  # (H, T, S)
    alibi_slopes: Sequence[float] | None = None,  # (H,)
    sinks: Sequence[float] | None = None,  # (H,)
) -> Attention:
    """Logits, weights and context of every head over the keys that ``visible`` lets each query see."""
    q, k, visible = _float64(q), _float64(k), np.asarray(visible, dtype=bool)
    v = None if v is None else _float64(v)
    bias = None if bias is None else _float64(bias)
    (H, T, D), (H_kv, S, _) = q.shape, k.shape
    scale = 1 / math.sqrt(D) if scale is None else scale

    logits = np.full((H, T, S), -math.inf)
    weights = np.zeros((H, T, S))
    context = None if v is None else np.zeros((H, T, v.shape[2]))
    for h in range(H):
        kv = h // (H // H_kv)
        for t in range(T):
            seen = [s for s in range(S) if visible[t, s]]
            for s in seen:
                logit = math.fsum(float(q[h, t, d]) * float(k[kv, s, d]) for d in range(D)) * scale
                if softcap is not None:
                    logit = softcap * math.tanh(logit / softcap)
                if bias is not None:
                    logit += float(bias[h, t, s])
                if alibi_slopes is not None:
                    logit -= float(alibi_slopes[h]) * abs(t + S - T - s)
                logits[h, t, s] = logit
            if not seen:
                weights[h, t] = math.nan
                if context is not None:
                    context[h, t] = math.nan
                continue
            terms = [logits[h, t, s] for s in seen]
            extra = [] if sinks is None else [float(sinks[h])]
            peak = max(terms + extra)
            total = math.fsum(math.exp(term - peak) for term in terms + extra)
            for s, term in zip(seen, terms, strict=True):
                weights[h, t, s] = math.exp(term - peak) / total
            if context is not None and v is not None:
                for d in range(v.shape[2]):
                    context[h, t, d] = math.fsum(weights[h, t, s] * float(v[kv, s, d]) for s in seen)
    return Attention(logits, weights, context)


def sees_globals(
    global_mask: Any,  # (S,) bool
    T: int,
    padding: Any = None,  # (S,) bool, True where the key exists
) -> np.ndarray:
    """(T, S): which query sees which key in the ``global`` pattern; a padded query of self-attention sees nothing."""
    global_mask = np.asarray(global_mask, dtype=bool)
    S = len(global_mask)
    exists = np.ones(S, dtype=bool) if padding is None else np.asarray(padding, dtype=bool)
    visible = np.zeros((T, S), dtype=bool)
    for t in range(T):
        if T == S and not exists[t]:
            continue
        for s in range(S):
            visible[t, s] = bool(global_mask[s]) and bool(exists[s])
    return visible


def _float64(tensor: Any) -> np.ndarray:
    """Exact: every float16, bfloat16 and float32 number is a float64 number."""
    return np.asarray(tensor.detach().cpu().double().numpy() if hasattr(tensor, "detach") else tensor, dtype=np.float64)
