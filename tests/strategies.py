"""Attention calls of every kind, drawn by hypothesis, each with what the reference says of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from attnviz import AttentionInputs, AttentionWeights
from attnviz.attention.patterns import (
    Blocks,
    Causal,
    Chunked,
    Documents,
    Full,
    GlobalKeys,
    GlobalQueries,
    Local,
    Masked,
    MaskMod,
    Pattern,
    Prefix,
)
from tests import reference
from tests.reference import Places, Rule

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
TOLERANCE = {torch.float16: 1e-5, torch.bfloat16: 1e-5, torch.float32: 1e-6, torch.float64: 1e-12}
"""Of the weights, as the specification has it; the reference takes the inputs as already rounded."""


@dataclass(frozen=True)
class Call:
    """One batch item of some inputs under a pattern."""

    inputs: AttentionInputs
    rule: Rule
    batch: int

    @property
    def pattern(self) -> Pattern:
        """The engine's pattern for the rule."""
        return pattern_of(self.rule)

    @property
    def globals_(self) -> set[int]:
        mask = self.inputs.global_mask
        return set() if mask is None else {s for s, flag in enumerate(mask[self.batch].tolist()) if flag}

    @property
    def has_global_queries(self) -> bool:
        return "global queries" in str(self.rule)

    @property
    def tolerance(self) -> float:
        return TOLERANCE[self.inputs.q.dtype]

    @property
    def tokens(self) -> tuple[list[str | None], list[str]] | None:
        """The tokens of queries, None where one has none, and of keys."""
        inputs, places = self.inputs, self.places
        if inputs.tokens is None:
            return None
        keys = list(inputs.tokens[self.batch])
        if inputs.query_tokens is not None:
            return list(inputs.query_tokens[self.batch]), keys
        at = [places.own_key(t) for t in range(inputs.T)]
        return [None if s is None else keys[s] for s in at], keys

    def statistics(self) -> list[dict[str, float | None]]:
        """What the reference says of every head."""
        inputs, b, whole = self.inputs, self.batch, self.expected()
        own = set(self.global_queries) if self.has_global_queries and inputs.q_global is not None else set()
        padding = None if inputs.key_padding_mask is None else inputs.key_padding_mask[b].tolist()
        found = []
        for head, weights in enumerate(whole.weights):
            q = inputs.q[b, head].double().numpy().copy()
            for t in own:
                q[t] = inputs.q_global[b, head, t].double().numpy()
            found.append(
                reference.statistics(
                    weights,
                    self.visible(head),
                    None if inputs.global_mask is None else self.globals_,
                    self.first_keys,
                    self.places,
                    tokens=self.tokens,
                    logits=whole.logits[head],
                    q=q,
                    k=inputs.k[b, head // (inputs.H // inputs.H_kv)].double().numpy(),
                    padding=padding,
                )
            )
        return found

    def log_sum_exp(self, head: int) -> np.ndarray:
        """(T,) log of the sum of exp over the visible keys and the sink; NaN where a query sees nothing."""
        sinks, logits = self.inputs.sinks, self.expected().logits[head]
        extra = [] if sinks is None else [float(sinks[head])]
        found = np.full(len(logits), np.nan)
        for t, row in enumerate(logits):
            seen = [float(x) for x in row if x > -math.inf]
            if seen:
                peak = max(seen + extra)
                found[t] = peak + math.log(math.fsum(math.exp(x - peak) for x in seen + extra))
        return found

    @property
    def places(self) -> Places:
        """Where the item's queries and keys stand."""
        inputs = self.inputs
        given = (inputs.query_positions, inputs.key_positions, inputs.query_documents, inputs.documents)
        own = (None if numbers is None else numbers[self.batch].tolist() for numbers in given)
        return Places.of(inputs.T, inputs.S, *own)

    @property
    def global_queries(self) -> list[int]:
        """The queries whose own key is global."""
        return [t for t in range(self.inputs.T) if self.places.own_key(t) in self.globals_]

    @property
    def first_keys(self) -> list[int | None]:
        """The key that exists and stands first in the document of each query."""
        mask, places = self.inputs.key_padding_mask, self.places
        exists = [s for s in range(self.inputs.S) if mask is None or bool(mask[self.batch, s])]
        return [
            min((s for s in exists if places.together(t, s)), key=lambda s: places.keys[s], default=None)
            for t in range(self.inputs.T)
        ]

    def visible(self, head: int = 0) -> np.ndarray:
        """(T, S) bool: what a head sees; heads differ in what their bias hides."""
        inputs = self.inputs
        padding, queries = (
            None if mask is None else mask[self.batch].tolist()
            for mask in (inputs.key_padding_mask, inputs.query_padding_mask)
        )
        seen = reference.visible_to_all(self.rule, inputs.T, inputs.S, self.globals_, padding, queries, self.places)
        bias = self.bias()
        return seen if bias is None else seen & (bias[head] > -torch.inf).numpy()

    def bias(self) -> Tensor | None:
        """(H, T, S)."""
        inputs, bias = self.inputs, self.inputs.bias
        return None if bias is None else bias[min(self.batch, len(bias) - 1)].expand(inputs.H, inputs.T, inputs.S)

    def expected(self) -> reference.Attention:
        """What the reference computes, with global queries by their own projections where there are such."""
        inputs, b = self.inputs, self.batch
        modifiers: dict[str, Any] = {
            "scale": inputs.scale,
            "softcap": inputs.softcap,
            "bias": self.bias(),
            "alibi_slopes": None if inputs.alibi_slopes is None else inputs.alibi_slopes.tolist(),
            "sinks": None if inputs.sinks is None else inputs.sinks.tolist(),
            "places": self.places,
        }
        padding, queries = (
            None if mask is None else mask[b].tolist() for mask in (inputs.key_padding_mask, inputs.query_padding_mask)
        )
        visible = reference.visible_to_all(self.rule, inputs.T, inputs.S, self.globals_, padding, queries, self.places)

        def attend(names: tuple[str, str, str]) -> reference.Attention:
            q, k, v = (None if tensor is None else tensor[b] for tensor in (getattr(inputs, n) for n in names))
            return reference.attend(q, k, visible, v=v, **modifiers)

        plain = attend(("q", "k", "v"))
        if not self.has_global_queries:
            return plain
        has = inputs.q_global is not None
        names = ("q_global", "k_global") if has else ("q", "k")
        return reference.splice(
            plain, attend((*names, "v_global" if inputs.v_global is not None else "v")), self.global_queries
        )


def pattern_of(rule: Rule) -> Pattern:
    """The pattern that a rule of the reference describes."""
    match rule:
        case ("global",):
            return GlobalKeys()
        case ("full",):
            return Full()
        case ("causal",):
            return Causal()
        case ("local", window, dilation):
            return Local(window, dilation)
        case ("documents",):
            return Documents()
        case ("prefix", n):
            return Prefix(n)
        case ("chunked", size):
            return Chunked(size)
        case ("blocks", matrix, rows, columns):
            return Blocks(torch.tensor(matrix, dtype=torch.bool), (rows, columns))
        case ("mask_mod", mask):
            whole = torch.tensor(mask, dtype=torch.bool)
            return MaskMod(lambda b, h, q_idx, kv_idx: whole[q_idx, kv_idx])
        case ("global queries",):
            return GlobalQueries()
        case ("mask", mask):
            return Masked(torch.tensor(mask, dtype=torch.bool))
        case ("or", left, right):
            return pattern_of(left) | pattern_of(right)
        case ("and", left, right):
            return pattern_of(left) & pattern_of(right)
    raise ValueError(rule)


def longformer_rule(window: int, dilation: int = 1) -> Rule:
    return ("or", ("or", ("local", window, dilation), ("global",)), ("global queries",))


def windows() -> st.SearchStrategy[Rule]:
    return st.tuples(st.just("local"), st.integers(0, 4), st.integers(1, 4))


@cache
def flags(size: int) -> st.SearchStrategy[list[bool]]:
    """So many bits, by one draw: drawn one by one they take longer than what they test."""
    count = -(-size // 8)
    return st.binary(min_size=count, max_size=count).map(
        lambda drawn: np.unpackbits(np.frombuffer(drawn, np.uint8))[:size].astype(bool).tolist()
    )


@cache
def matrices(rows: int, columns: int) -> st.SearchStrategy[list[list[bool]]]:
    return flags(rows * columns).map(lambda flat: [flat[r * columns : (r + 1) * columns] for r in range(rows)])


@cache
def of_blocks(T: int, S: int, rows: int, columns: int) -> st.SearchStrategy[Rule]:
    matrix = matrices(-(-T // rows), -(-S // columns))
    return st.tuples(st.just("blocks"), matrix, st.just(rows), st.just(columns))


@cache
def rules(T: int, S: int, *, documents: bool = False) -> st.SearchStrategy[Rule]:
    """The patterns of the specification and, as often, compositions of any."""
    plain = st.sampled_from([("global",), ("full",), ("causal",), *([("documents",)] * 2 if documents else [])])
    plain |= (
        windows() | st.tuples(st.just("prefix"), st.integers(0, 9)) | st.tuples(st.just("chunked"), st.integers(1, 5))
    )
    plain |= st.builds(lambda *sizes: sizes, st.integers(1, 4), st.integers(1, 4)).flatmap(
        lambda sizes: of_blocks(T, S, *sizes)
    )
    named: st.SearchStrategy[Rule] = plain
    leaves = plain | st.tuples(st.sampled_from(["mask", "mask_mod"]), matrices(T, S))
    named |= st.builds(longformer_rule, st.integers(0, 3), st.integers(1, 3))
    leaves |= st.just(("global queries",))
    named |= st.tuples(st.just("and"), named, st.just(("causal",)))
    composed = st.recursive(
        leaves, lambda rule: st.tuples(st.sampled_from(["or", "or", "and"]), rule, rule), max_leaves=4
    )
    return named | composed


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@st.composite
def calls(draw: st.DrawFn, dtype: torch.dtype = torch.float64, *, values: bool = True) -> Call:
    B, H_kv, group = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    T, D = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    S = draw(st.just(T) | st.integers(1, 8))
    H, seed = H_kv * group, draw(st.integers(0, 2**32 - 10))
    global_mask = torch.tensor([draw(flags(S).filter(any)) for _ in range(B)])
    padding = draw(st.none() | matrices(B, S))

    def tensor(heads: int, length: int, place: int) -> Tensor:
        return normal((B, heads, length, D), seed + place).to(dtype)

    of_global: dict[str, Tensor] = {}
    if draw(st.booleans()):
        of_global = {"q_global": tensor(H, T, 3), "k_global": tensor(H_kv, S, 4)}
    if values and draw(st.booleans()):
        of_global["v_global"] = tensor(H_kv, S, 5)
    query_padding = draw(st.none() | matrices(B, T))
    inputs = AttentionInputs(
        tensor(H, T, 0),
        tensor(H_kv, S, 1),
        tensor(H_kv, S, 2) if values else None,
        global_mask=global_mask,
        # Global keys exist; whether others do is free.
        key_padding_mask=None if padding is None else torch.tensor(padding) | global_mask,
        query_padding_mask=None if query_padding is None else torch.tensor(query_padding),
        **of_global,
        **draw(positions(B, T, S)),
        **draw(modifiers(B, H, T, S, seed)),
        **draw(words(B, T, S)),
    )
    packed = inputs.documents is not None
    return Call(inputs, draw(rules(T, S, documents=packed)), draw(st.integers(0, B - 1)))


@st.composite
def positions(draw: st.DrawFn, B: int, T: int, S: int) -> dict[str, Tensor]:
    """Where queries and keys stand, in documents or without."""
    found = draw(documents(B, T, S)) if draw(st.sampled_from([False, False, True])) else {}
    if "key_positions" in found:
        return found
    return found | draw(positions_alone(B, T, S))


@st.composite
def documents(draw: st.DrawFn, B: int, T: int, S: int) -> dict[str, Tensor]:
    """Packed documents: runs of keys or scattered, positions anew in each or not, queries of their own documents or not."""
    rows, found, in_runs = draw(st.sampled_from([1, B])), {}, draw(st.sampled_from([True, True, False]))
    numbers = [draw(st.lists(st.integers(0, 2), min_size=S, max_size=S)) for _ in range(rows)]
    numbers = [sorted(row) if in_runs else row for row in numbers]
    found["documents"] = torch.tensor(numbers)
    if draw(st.sampled_from([False, False, True])):
        own = st.lists(st.integers(0, 3), min_size=T, max_size=T)
        found["query_documents"] = torch.tensor([draw(own) for _ in range(rows)])
    if draw(st.booleans()):  # anew in each
        shift = draw(st.integers(-2, 3))
        places = [[row[:s].count(number) + shift for s, number in enumerate(row)] for row in numbers]
        found["key_positions"] = torch.tensor(places)
        if T > S or ("query_documents" in found and draw(st.booleans())):
            own = st.lists(st.integers(-3, 8), min_size=T, max_size=T)
            found["query_positions"] = torch.tensor([draw(own) for _ in range(rows)])
            named = st.lists(st.integers(0, 3), min_size=T, max_size=T)
            found["query_documents"] = torch.tensor([draw(named) for _ in range(rows)])
    return found


@st.composite
def positions_alone(draw: st.DrawFn, B: int, T: int, S: int) -> dict[str, Tensor]:
    """Where queries and keys stand: by default, shifted, with gaps, in any order; one row for all items or one each."""
    kind = draw(st.sampled_from(["default", "default", "default", "shifted", "anywhere"]))
    if kind == "default":
        return {}
    rows = draw(st.sampled_from([1, B]))
    if kind == "shifted":
        shift = [draw(st.integers(-3, 12)) for _ in range(2)]
        return {
            "query_positions": torch.arange(T) + shift[0],
            "key_positions": torch.arange(S) + shift[1],
        }
    place = st.integers(-4, 12)
    keys = st.lists(place, min_size=S, max_size=S, unique=True)
    found = {"key_positions": torch.tensor([draw(keys) for _ in range(rows)])}
    if T > S or draw(st.booleans()):
        queries = st.lists(place, min_size=T, max_size=T)
        found["query_positions"] = torch.tensor([draw(queries) for _ in range(rows)])
    return found


@st.composite
def modifiers(draw: st.DrawFn, B: int, H: int, T: int, S: int, seed: int) -> dict[str, Any]:
    """Each modifier is there half the time, on its own or with others; a bias in any shape that broadcasts."""
    given: dict[str, Any] = {}
    if draw(st.booleans()):
        given["scale"] = draw(st.floats(0.01, 0.7))
    if draw(st.booleans()):
        given["softcap"] = draw(st.floats(0.3, 20.0))
    if draw(st.booleans()):
        whole = (B, H, T, S)[draw(st.integers(0, 1)) :]
        shape = tuple(draw(st.sampled_from([size, 1])) for size in whole)
        given["bias"] = normal(shape, seed + 6)
        if draw(st.booleans()):  # what hides keys, a head's own among them
            given["bias"] = given["bias"].masked_fill(given["bias"] > 0.7, -torch.inf)
    if draw(st.booleans()):
        given["alibi_slopes"] = normal((H,), seed + 7).abs()
    if draw(st.booleans()):
        given["sinks"] = normal((H,), seed + 8)
    return given


@st.composite
def words(draw: st.DrawFn, B: int, T: int, S: int) -> dict[str, Any]:
    """Tokens, a few of which come again and again; those of queries of their own, or none at all."""
    token = st.sampled_from(["a", "b", "c"])
    kind = draw(st.sampled_from(["none", "keys", "both"]))
    found = {}
    for name, size in {"keys": {"tokens": S}, "both": {"tokens": S, "query_tokens": T}}.get(kind, {}).items():
        found[name] = [draw(st.lists(token, min_size=size, max_size=size)) for _ in range(B)]
    return found


def parts(size: int) -> st.SearchStrategy[range | None]:
    """All of some positions, or a run of them."""
    cut = st.lists(st.integers(0, size), min_size=2, max_size=2, unique=True).map(sorted)
    return st.none() | cut.map(lambda ends: range(*ends))


@dataclass(frozen=True)
class GivenCall:
    """Weights under a rule, some of their rows blank, and what queries see."""

    weights: AttentionWeights
    call: Call
    visible: np.ndarray  # (H, T, S) bool

    @property
    def numbers(self) -> np.ndarray:
        """(H, T, S) float64."""
        return self.weights.weights[self.call.batch].double().numpy()


@st.composite
def given_calls(draw: st.DrawFn, *, signed: bool = False) -> GivenCall:
    """Any places, padding and pattern; weights that sum to 1, to less, to anything or, ``signed``, have any sign."""
    call = draw(calls(values=False))
    inputs, seed = call.inputs, draw(st.integers(0, 2**31))
    numbers = normal((inputs.B, inputs.H, inputs.T, inputs.S), seed)
    numbers = numbers if signed else numbers.abs()
    numbers = numbers / numbers.abs().sum(-1, keepdim=True) * draw(st.sampled_from([0.5, 1.0, 3.0]))
    numbers = numbers.to(DTYPES[draw(st.sampled_from([*DTYPES]))])
    seen = torch.stack([torch.from_numpy(_visible(call, item)) for item in range(inputs.B)])[:, None].expand(
        numbers.shape
    )
    sees = seen.any(3)
    blank = torch.from_numpy(np.random.default_rng(seed).random(tuple(sees.shape)) < 0.1)
    numbers = numbers.masked_fill(~seen & sees[..., None], 0)  # in rows that see nothing, anything may stand
    numbers = numbers.masked_fill(blank[..., None], math.nan)
    weights = AttentionWeights(
        numbers,
        global_mask=inputs.global_mask,
        key_padding_mask=inputs.key_padding_mask,
        query_padding_mask=inputs.query_padding_mask,
        query_positions=inputs.query_positions,
        key_positions=inputs.key_positions,
        documents=inputs.documents,
        query_documents=inputs.query_documents,
        pattern=call.pattern,
    )
    return GivenCall(weights, call, (seen & ~blank[..., None])[call.batch].numpy())


def _visible(call: Call, item: int) -> np.ndarray:
    one = Call(call.inputs, call.rule, item)
    padding, queries = (
        None if mask is None else mask[item].tolist()
        for mask in (call.inputs.key_padding_mask, call.inputs.query_padding_mask)
    )
    return reference.visible_to_all(call.rule, call.inputs.T, call.inputs.S, one.globals_, padding, queries, one.places)
