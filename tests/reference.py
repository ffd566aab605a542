"""The formula in plain loops and float64, for one batch item. Shares no code with the package, on purpose.

Slow and obvious: every number is a sum over the letters of `spec.md`, so that where the engine and this file
differ, a reader can see which of them is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Attention:
    """What one attention call gives, in float64."""

    logits: np.ndarray  # (H, T, S), -inf where a query does not see a key
    weights: np.ndarray  # (H, T, S), 0 where a query does not see a key, NaN in the row of one that sees nothing
    context: np.ndarray | None  # (H, T, D_v), NaN likewise


@dataclass(frozen=True)
class Places:
    """Where each query and key stands in its sequence, and in which packed document."""

    queries: Sequence[int]  # (T,)
    keys: Sequence[int]  # (S,)
    query_documents: Sequence[int | None] | None = None  # (T,), None where a query is in none
    key_documents: Sequence[int] | None = None  # (S,), None where there are no documents

    @classmethod
    def of(
        cls,
        T: int,
        S: int,
        queries: Sequence[int] | None = None,
        keys: Sequence[int] | None = None,
        query_documents: Sequence[int] | None = None,
        key_documents: Sequence[int] | None = None,
    ) -> Places:
        """What is given or, by default, keys in order and queries at the last T of them, in the documents of these keys."""
        keys = list(range(S)) if keys is None else list(keys)
        if queries is None:
            queries = [keys[t + S - T] if t + S - T >= 0 else t + S - T for t in range(T)]
        own: Sequence[int | None] | None = query_documents
        if key_documents is not None and own is None:
            own = []
            for t in range(T):
                last = t + S - T  # of the last T keys, the query's own
                if last < 0 or keys[last] != queries[t]:
                    last = next((s for s in range(S) if keys[s] == queries[t]), -1)
                own.append(key_documents[last] if last >= 0 else None)
        return cls(list(queries), keys, own, key_documents)

    def together(self, t: int, s: int) -> bool:
        """Whether a query and a key are of one document."""
        if self.key_documents is None:
            return True
        assert self.query_documents is not None
        return self.query_documents[t] is not None and self.query_documents[t] == self.key_documents[s]

    def key_before(self, t: int, before: int) -> int | None:
        """The key that stands so many positions before a query, in its document."""
        wanted = self.queries[t] - before
        return next((s for s, own in enumerate(self.keys) if own == wanted and self.together(t, s)), None)

    def precedes(self, r: int, s: int) -> bool:
        """Whether key ``r`` stands one position before key ``s``, in its document."""
        documents = self.key_documents
        return self.keys[r] == self.keys[s] - 1 and (documents is None or documents[r] == documents[s])

    def own_key(self, t: int) -> int | None:
        """The key that stands where a query does."""
        return self._own_keys[t]

    @cached_property
    def _own_keys(self) -> list[int | None]:
        return [self.key_before(t, 0) for t in range(len(self.queries))]


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
    places: Places | None = None,
) -> Attention:
    """Logits, weights and context of every head over the keys that ``visible`` lets each query see; a bias of -inf hides."""
    q, k, visible = _float64(q), _float64(k), np.asarray(visible, dtype=bool)
    v = None if v is None else _float64(v)
    bias = None if bias is None else _float64(bias)
    (H, T, D), (H_kv, S, _) = q.shape, k.shape
    scale = 1 / math.sqrt(D) if scale is None else scale
    places = Places.of(T, S) if places is None else places

    logits = np.full((H, T, S), -math.inf)
    weights = np.zeros((H, T, S))
    context = None if v is None else np.zeros((H, T, v.shape[2]))
    for h in range(H):
        kv = h // (H // H_kv)
        for t in range(T):
            seen = [s for s in range(S) if visible[t, s] and (bias is None or bias[h, t, s] > -math.inf)]
            for s in seen:
                logit = math.fsum(float(q[h, t, d]) * float(k[kv, s, d]) for d in range(D)) * scale
                if softcap is not None:
                    logit = softcap * math.tanh(logit / softcap)
                if bias is not None:
                    logit += float(bias[h, t, s])
                if alibi_slopes is not None:
                    logit -= float(alibi_slopes[h]) * abs(places.queries[t] - places.keys[s])
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
    """(T, S): which query sees which key in the ``global`` pattern; a query whose own key is padding sees nothing."""
    global_mask = np.asarray(global_mask, dtype=bool)
    S = len(global_mask)
    exists = np.ones(S, dtype=bool) if padding is None else np.asarray(padding, dtype=bool)
    visible = np.zeros((T, S), dtype=bool)
    for t in range(T):
        if t + S - T >= 0 and not exists[t + S - T]:
            continue
        for s in range(S):
            visible[t, s] = bool(global_mask[s]) and bool(exists[s])
    return visible


# Which query sees which key. A rule is a tuple: ("global",), ("full",), ("causal",), ("local", window, dilation),
# ("documents",), ("prefix", n), ("chunked", size), ("blocks", (n_q, n_k) bool, Q, K), ("global queries",),
# ("mask", (T, S) bool), ("mask_mod", (T, S) bool), ("or", rule, rule), ("and", rule, rule).
Rule = tuple[Any, ...]


def sees(rule: Rule, t: int, s: int, places: Places, globals_: set[int]) -> bool:
    """Whether query ``t`` sees key ``s``, by the words of the specification."""
    match rule:
        case ("global",):
            return s in globals_
        case ("full",):
            return True
        case ("causal",):
            return places.together(t, s) and places.keys[s] <= places.queries[t]
        case ("local", window, dilation):
            apart = abs(places.keys[s] - places.queries[t])
            return places.together(t, s) and apart <= window * dilation and apart % dilation == 0
        case ("documents",):
            return places.together(t, s)
        case ("prefix", n):
            return places.together(t, s) and (places.keys[s] < n or places.keys[s] <= places.queries[t])
        case ("chunked", size):
            own, of_key = math.floor(places.queries[t] / size), math.floor(places.keys[s] / size)
            return places.together(t, s) and own == of_key
        case ("blocks", matrix, rows, columns):
            return bool(matrix[t // rows][s // columns])
        case ("global queries",):
            return places.own_key(t) in globals_
        case ("mask", mask) | ("mask_mod", mask):
            return bool(mask[t][s])
        case ("or", left, right):
            return sees(left, t, s, places, globals_) or sees(right, t, s, places, globals_)
        case ("and", left, right):
            return sees(left, t, s, places, globals_) and sees(right, t, s, places, globals_)
    raise ValueError(rule)


def visible_to_all(
    rule: Rule,
    T: int,
    S: int,
    globals_: set[int],
    padding: Any = None,  # (S,) bool, True where the key exists
    query_padding: Any = None,  # (T,) bool, likewise
    places: Places | None = None,
) -> np.ndarray:
    """(T, S): which query sees which key; padding hides keys, and queries: their own or, without, that of their keys."""
    exists = [True] * S if padding is None else [bool(flag) for flag in padding]
    places = Places.of(T, S) if places is None else places
    visible = np.zeros((T, S), dtype=bool)
    for t in range(T):
        own = places.own_key(t)
        there = (own is None or exists[own]) if query_padding is None else bool(query_padding[t])
        for s in range(S):
            visible[t, s] = there and exists[s] and sees(rule, t, s, places, globals_)
    return visible


def splice(attention: Attention, of_global: Attention, rows: Sequence[int]) -> Attention:
    """The rows of global queries from ``of_global``, the rest from ``attention``."""

    def spliced(ours: np.ndarray | None, theirs: np.ndarray | None) -> np.ndarray | None:
        if ours is None or theirs is None:
            return None
        whole = ours.copy()
        whole[:, list(rows)] = theirs[:, list(rows)]
        return whole

    logits, weights = spliced(attention.logits, of_global.logits), spliced(attention.weights, of_global.weights)
    assert logits is not None
    assert weights is not None
    return Attention(logits, weights, spliced(attention.context, of_global.context))


def statistics(
    weights: np.ndarray,  # (T, S) of one head
    visible: np.ndarray,  # (T, S) bool
    globals_: set[int] | None,
    first: Sequence[int | None],  # (T,) the first key of each query's document that is not padding
    places: Places | None = None,
    *,
    tokens: tuple[Sequence[str | None], Sequence[str]]
    | None = None,  # of queries, None where one has none, and of keys
    logits: np.ndarray | None = None,  # (T, S)
    q: np.ndarray | None = None,  # (T, D), as each query scores
    k: np.ndarray | None = None,  # (S, D)
    padding: Any = None,  # (S,) bool, True where the key exists
) -> dict[str, float | None]:
    """Means, or the largest, over the queries that see a key, or the key a number is of; None where there is no such query."""
    T, S = weights.shape
    exists = [True] * S if padding is None else [bool(flag) for flag in padding]
    places = Places.of(T, S) if places is None else places
    rows: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        rows.setdefault(name, []).append(value)

    for t in range(T):
        keys = [s for s in range(S) if visible[t, s]]
        if not keys:
            continue
        row = {s: float(weights[t, s]) for s in keys}
        entropy = -math.fsum(w * math.log(w) for w in row.values() if w > 0)
        note("entropy", entropy)
        if len(keys) > 1:
            note("entropy_share", entropy / math.log(len(keys)))
        note("max_weight", max(row.values()))
        if globals_ is not None:
            note("global_mass", math.fsum(w for s, w in row.items() if s in globals_))
        sink = first[t]
        note("sink_mass", 0.0 if sink is None else row.get(sink, 0.0))
        note("distance", math.fsum(w * abs(places.queries[t] - places.keys[s]) for s, w in row.items()))
        for name, before in (("diagonal_mass", 0), ("previous_mass", 1), ("next_mass", -1)):
            key = places.key_before(t, before)
            if key in row:
                note(name, row[key])
        near = [w for s, w in row.items() if places.together(t, s) and abs(places.queries[t] - places.keys[s]) <= NEAR]
        note("local_mass", math.fsum(near))
        if tokens is not None and tokens[0][t] is not None:
            duplicates, after = [], []
            for s, w in row.items():
                if not places.together(t, s):
                    continue
                if places.keys[s] < places.queries[t] and tokens[1][s] == tokens[0][t]:
                    duplicates.append(w)
                before = next(
                    (r for r in range(S) if exists[r] and places.precedes(r, s)),
                    None,
                )
                if places.keys[s] <= places.queries[t] and before is not None and tokens[1][before] == tokens[0][t]:
                    after.append(w)
            if duplicates:
                note("duplicate", math.fsum(duplicates))
            if after:
                note("induction", math.fsum(after))
        if logits is not None:
            note("max_logit", max(float(logits[t, s]) for s in keys))
        if q is not None:
            length = math.sqrt(math.fsum(float(x) ** 2 for x in q[t]))
            note("mean_q_norm", length)
            note("max_q_norm", length)
    for s in range(S) if k is not None else ():
        if exists[s]:
            length = math.sqrt(math.fsum(float(x) ** 2 for x in k[s]))
            note("mean_k_norm", length)
            note("max_k_norm", length)
    largest = {name: max(rows[name]) for name in ("max_logit", "max_q_norm", "max_k_norm") if name in rows}
    return {name: math.fsum(rows[name]) / len(rows[name]) if name in rows else None for name in STATISTICS} | largest


NEAR = 4  # positions to each side, of local_mass
STATISTICS = (
    "entropy",
    "entropy_share",
    "max_weight",
    "global_mass",
    "sink_mass",
    "distance",
    "diagonal_mass",
    "previous_mass",
    "next_mass",
    "local_mass",
    "duplicate",
    "induction",
    "max_logit",
    "mean_q_norm",
    "max_q_norm",
    "mean_k_norm",
    "max_k_norm",
)


def merged(
    weights: np.ndarray,  # (T, S) of one head
    visible: np.ndarray,  # (T, S) bool
    hidden: set[int],
    renormalize: bool,
    queries: Sequence[Sequence[int]],  # the members of each group
    keys: Sequence[Sequence[int]],
) -> tuple[np.ndarray, np.ndarray]:
    """Groups of queries over groups of keys: their weights, 0 where none is seen, NaN where a group sees nothing; and what is seen."""
    values, seen = np.zeros((len(queries), len(keys))), np.zeros((len(queries), len(keys)), dtype=bool)
    for i, members in enumerate(queries):
        rows: list[dict[int, float]] = []
        for t in members:
            row = {s: float(weights[t, s]) for s in range(weights.shape[1]) if visible[t, s] and s not in hidden}
            rest = math.fsum(row.values())
            if renormalize:
                row = {} if rest == 0 else {s: weight / rest for s, weight in row.items()}
            if row:
                rows.append(row)
        for j, group in enumerate(keys):
            seen[i, j] = any(s in row for row in rows for s in group)
            if rows:
                values[i, j] = math.fsum(row.get(s, 0.0) for row in rows for s in group) / len(rows)
            else:
                values[i, j] = math.nan
    return values, seen


def query_groups(places: Places, keys: Sequence[Sequence[int]]) -> list[list[int]]:
    """Runs of queries whose own keys are of one group; a query without a key is a group by itself."""
    found: list[list[int]] = []
    before: int | None = None
    for t in range(len(places.queries)):
        own = places.own_key(t)
        group = None if own is None else next(g for g, members in enumerate(keys) if own in members)
        if group is not None and group == before:
            found[-1].append(t)
        else:
            found.append([t])
        before = group
    return found


def group_places(places: Places, queries: Sequence[Sequence[int]], keys: Sequence[Sequence[int]]) -> Places | None:
    """Where groups stand, counted in groups of their document; None where there is no order among them."""
    owners: list[set[int]] = [
        set() if places.key_documents is None else {places.key_documents[s] for s in g} for g in keys
    ]
    asking = [set() if places.query_documents is None else {places.query_documents[t] for t in g} for g in queries]
    whole = places.key_documents is None or all(len(one) == 1 for one in [*owners, *asking])
    first = [min(places.keys[s] for s in group) for group in keys]
    if whole:
        ranks = [
            sum(owners[h] == owners[g] and first[h] < first[g] for h in range(len(keys))) for g in range(len(keys))
        ]
    else:
        ranks = list(range(len(keys)))
    own = [places.own_key(group[0]) for group in queries]
    lost = [i for i, s in enumerate(own) if s is None]
    if any(places.queries[queries[i][0]] > min(first) for i in lost):
        return None
    stand = [
        lost.index(i) - len(lost) if s is None else ranks[next(g for g, group in enumerate(keys) if s in group)]
        for i, s in enumerate(own)
    ]
    if not whole or places.key_documents is None:
        return Places(stand, ranks)
    return Places(stand, ranks, [one.copy().pop() for one in asking], [one.copy().pop() for one in owners])


def combined(
    maps: Sequence[np.ndarray],  # (T, S) weights of each member; NaN, or anything, in rows that see nothing
    visible: Sequence[np.ndarray],  # (T, S) bool
    how: str,  # "mean" or "max"
) -> tuple[np.ndarray, np.ndarray]:
    """One map of several, and what any of them sees: a hidden key counts 0, and a row that is blank in one is left out."""
    T, S = maps[0].shape
    found, seen = np.full((T, S), math.nan), np.zeros((T, S), dtype=bool)
    for t in range(T):
        members = [n for n in range(len(maps)) if visible[n][t].any()]
        for s in range(S):
            values = [float(maps[n][t, s]) if visible[n][t, s] else 0.0 for n in members]
            seen[t, s] = any(visible[n][t, s] for n in members)
            if values:
                found[t, s] = math.fsum(values) / len(values) if how == "mean" else max(values)
    return found, seen


def rollout(
    layers: Sequence[
        tuple[np.ndarray, np.ndarray]
    ],  # weights (H, T, T) and what is visible, (H, T, T) bool, first to last
    exists: Sequence[bool],  # (T,)
    stays: Sequence[Sequence[float]] | None = None,  # of each layer, the share of the identity, (T,); None is 1/2
) -> tuple[np.ndarray, np.ndarray]:
    """arXiv:2005.00928: the product of ``A / 2 + I / 2`` over the layers, the last one first, and what can be reached by it.

    ``A`` is the mean of the heads, a row that is blank in all of them that of the identity; rows of padding are blank.
    """
    T = len(exists)
    product, reached = np.eye(T), np.eye(T, dtype=bool)
    for (weights, visible), own in reversed([*zip(layers, stays or [[0.5] * T] * len(layers), strict=True)]):
        mean, seen = combined([*weights], [*visible], "mean")
        made, ways = np.zeros((T, T)), np.zeros((T, T), dtype=bool)
        for t in range(T):
            for s in range(T):
                blank = not seen[t].any()
                made[t, s] = float(t == s) if blank else float(mean[t, s]) * (1 - own[t]) + float(t == s) * own[t]
                ways[t, s] = t == s or seen[t, s]
        product = np.array(
            [[math.fsum(product[t, m] * made[m, s] for m in range(T)) for s in range(T)] for t in range(T)]
        )
        reached = np.array([[any(reached[t, m] and ways[m, s] for m in range(T)) for s in range(T)] for t in range(T)])
    for t in range(T):
        if not exists[t]:
            product[t], reached[t] = math.nan, False
    return product, reached


def by_norms(
    weights: np.ndarray,  # (T, S)
    visible: np.ndarray,  # (T, S) bool
    v: Any,  # (S, D_v)
    w_o: Any = None,  # (D_v, d_model)
    *,
    shares: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """arXiv:2004.10102: weights times the length of the value, projected where ``w_o`` is given; or its shares of a row."""
    v, (T, S) = _float64(v), weights.shape
    added = (
        v
        if w_o is None
        else np.array(
            [
                [math.fsum(v[s, d] * float(w_o[d, m]) for d in range(v.shape[1])) for m in range(w_o.shape[1])]
                for s in range(S)
            ]
        )
    )
    lengths = [math.sqrt(math.fsum(x * x for x in added[s])) for s in range(S)]
    found, seen = np.full((T, S), math.nan), visible.copy()
    for t in range(T):
        if not visible[t].any():
            continue
        row = [float(weights[t, s]) * lengths[s] if visible[t, s] else 0.0 for s in range(S)]
        total = math.fsum(row) if shares else 1.0
        if total == 0:
            seen[t] = False
            continue
        found[t] = [value / total for value in row]
    return found, seen


def picture(
    values: np.ndarray,  # (T, S) weights or logits of one head
    visible: np.ndarray,  # (T, S) bool
    rows: Sequence[int],  # query positions to show
    columns: Sequence[int],  # key positions to show
    pixels: int,
    reduce: str,  # "max" or "mass"
) -> np.ndarray:
    """At most ``pixels`` x ``pixels`` cells, each standing for its queries and keys; NaN where nothing is visible."""

    def bins(positions: Sequence[int]) -> list[Sequence[int]]:
        size, count = len(positions), min(len(positions), pixels)
        return [positions[n * size // count : (n + 1) * size // count] for n in range(count)]

    return binned(values, visible, bins(rows), bins(columns), reduce)


def binned(
    values: np.ndarray,  # (T, S) weights or logits of one head
    visible: np.ndarray,  # (T, S) bool
    rows: Sequence[Sequence[int]],  # the queries of each row of cells
    columns: Sequence[Sequence[int]],  # the keys of each column of cells
    reduce: str,  # "max" or "mass"
) -> np.ndarray:
    """A cell for each bin of queries and of keys; NaN where nothing is visible."""
    cells = np.full((len(rows), len(columns)), math.nan)
    for i, ts in enumerate(rows):
        for j, ss in enumerate(columns):
            pairs = [(t, s) for t in ts for s in ss if visible[t, s]]
            if not pairs:
                continue
            if reduce == "max":
                cells[i, j] = max(float(values[t, s]) for t, s in pairs)
            else:
                counted = [t for t in ts if visible[t].any()]
                cells[i, j] = math.fsum(float(values[t, s]) for t, s in pairs) / len(counted)
    return cells


def _float64(tensor: Any) -> np.ndarray:
    """Exact: every float16, bfloat16 and float32 number is a float64 number."""
    return np.asarray(tensor.detach().cpu().double().numpy() if hasattr(tensor, "detach") else tensor, dtype=np.float64)
