"""`explain`: every number against the formula in float64, from :mod:`tests.reference` and plain numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import attnviz
from attnviz.attention.patterns import Causal, Full, GlobalKeys, Local, Masked, Pattern, longformer
from attnviz.base.errors import InputError
from attnviz.measures.explanation import COMPONENTS, Explanation
from tests.reference import Attention, attend
from tests.strategies import calls

HEADS, TOKENS, D = 4, 12, 8
GLOBAL = (1, 4, 9)
EXISTS = torch.arange(TOKENS) < 11


def case(dtype: str = "float32", **changes: object) -> attnviz.AttentionInputs:
    inputs = attnviz.synthesize(
        heads=HEADS, kv_heads=2, tokens=TOKENS, head_dim=D, batch=2, global_positions=GLOBAL, dtype=dtype
    )
    return replace(inputs, **changes)


def separate_projections(inputs: attnviz.AttentionInputs) -> dict[str, torch.Tensor]:
    return {f"{name}_global": getattr(inputs, name).flip(2).contiguous() for name in ("q", "k", "v")}


def modifiers() -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    return {
        "softcap": 2.0,
        "bias": torch.randn(HEADS, TOKENS, TOKENS, generator=generator),
        "alibi_slopes": torch.tensor([0.1, 0.2, 0.3, 0.4]),
        "sinks": torch.tensor([0.5, -0.5, 1.0, 3.0]),
    }


def visible(inputs: attnviz.AttentionInputs, pattern: Pattern, batch: int) -> np.ndarray:
    """(T, S): which query sees which key, from the definitions, rows of global queries as of others."""
    sees = {
        "global": lambda t, s: s in GLOBAL,
        "global, causal": lambda t, s: s in GLOBAL and s <= t,
        "full": lambda t, s: True,
        "causal": lambda t, s: s <= t,
        "local, window 2": lambda t, s: abs(s - t) <= 2,
        "local, window 2, dilation 2": lambda t, s: abs(s - t) <= 4 and (s - t) % 2 == 0,
        "local, window 1 + global + global queries": lambda t, s: abs(s - t) <= 1 or s in GLOBAL or t in GLOBAL,
        "own mask": lambda t, s: (t + s) % 3 == 0,
    }[str(pattern)]
    exists = torch.ones(TOKENS, dtype=bool) if inputs.key_padding_mask is None else inputs.key_padding_mask[batch]
    return np.array(
        [[bool(exists[t] and exists[s]) and sees(t, s) for s in range(TOKENS)] for t in range(TOKENS)], dtype=bool
    )


@dataclass(frozen=True)
class Want:
    """What a batch item gives in float64, rows of global queries by their own projections."""

    logits: np.ndarray  # (H, T, S)
    weights: np.ndarray  # (H, T, S)
    context: np.ndarray  # (H, T, D_v)
    q: np.ndarray  # (H, T, D)
    k: np.ndarray  # (T, H_kv, S, D), as each query reads it


def want(inputs: attnviz.AttentionInputs, pattern: Pattern, batch: int, scale: float | None = None) -> Want:
    def call(suffix: str) -> Attention:
        q, k, v = (getattr(inputs, name + suffix)[batch] for name in "qkv")
        return attend(
            q,
            k,
            visible(inputs, pattern, batch),
            v=v,
            scale=inputs.scale if scale is None else scale,
            softcap=inputs.softcap,
            bias=None if inputs.bias is None else inputs.bias[0],
            alibi_slopes=inputs.alibi_slopes,
            sinks=inputs.sinks,
        )

    plain = call("")
    results = [plain.logits, plain.weights, plain.context, inputs.q[batch].double().numpy()]
    k = np.repeat(inputs.k[batch].double().numpy()[None], TOKENS, axis=0)
    if pattern.global_queries and inputs.q_global is not None:
        apart = call("_global")
        others = [apart.logits, apart.weights, apart.context, inputs.q_global[batch].double().numpy()]
        for result, other in zip(results, others, strict=True):
            result[:, list(GLOBAL)] = other[:, list(GLOBAL)]
        k[list(GLOBAL)] = inputs.k_global[batch].double().numpy()
    return Want(*results, k)


def check(found: Explanation, inputs: attnviz.AttentionInputs, pattern: Pattern, tolerance: float = 2e-6) -> None:
    """Every number of an explanation against the reference."""
    b, h, t, s = found.batch, found.head, found.query, found.key.position
    wanted = want(inputs, pattern, b)
    close = {"rel": tolerance, "abs": tolerance}
    seen = np.flatnonzero(np.isfinite(wanted.logits[h, t])).tolist()

    assert [key.position for key in found.keys] == seen
    logits = wanted.logits[h, t, seen]
    assert [key.logit for key in found.keys] == pytest.approx(logits, **close)
    assert [key.weight for key in found.keys] == pytest.approx(wanted.weights[h, t, seen], **close)
    sink = None if inputs.sinks is None else float(inputs.sinks[h])
    peak = max([*logits, *([] if sink is None else [sink])])
    assert found.sink == sink
    assert found.peak == pytest.approx(peak, **close)
    assert [key.shifted for key in found.keys] == pytest.approx(logits - peak, **close)
    assert [key.exp for key in found.keys] == pytest.approx(np.exp(logits - peak), **close)
    assert found.total == pytest.approx(
        np.exp(logits - peak).sum() + (0 if sink is None else math.exp(sink - peak)), **close
    )
    assert found.context == pytest.approx(wanted.context[h, t], **close)

    q, k = wanted.q[h, t], wanted.k[t, found.kv_head, s]
    assert found.kv_head == h // 2
    assert sorted(term.dimension for term in found.terms) == list(range(D))
    assert [abs(term.product) for term in found.terms] == sorted(abs(q * k), reverse=True)
    for term in found.terms:
        assert (term.q, term.k, term.product) == (q[term.dimension], k[term.dimension], (q * k)[term.dimension])
    assert found.dot == pytest.approx(float(q @ k), abs=1e-12)
    assert found.steps[-1].result == pytest.approx(wanted.logits[h, t, s], abs=1e-12)
    assert found.key == found.keys[seen.index(s)]

    for measure in found.measures:
        check_measure(measure, want(inputs, pattern, b, measure.scale), h, tolerance)


def check_measure(measure: attnviz.measures.explanation.Measure, wanted: Want, h: int, tolerance: float) -> None:
    logits, weights = wanted.logits[h], wanted.weights[h]
    seen = np.isfinite(logits)
    close = {"rel": 50 * tolerance, "abs": tolerance}
    assert measure.pairs == seen.sum()
    assert measure.variance == pytest.approx(logits[seen].var(), **close)
    entropies, shares, gradients = [], [], []
    for row, sees in zip(weights, seen, strict=True):
        if not sees.any():
            continue
        w = row[sees]
        entropies.append(-sum(x * math.log(x) for x in w if x > 0))
        if len(w) > 1:
            shares.append(entropies[-1] / math.log(len(w)))
        gradients.append(np.linalg.norm(np.diag(w) - np.outer(w, w)))
    assert measure.entropy == pytest.approx(np.mean(entropies), **close)
    assert measure.entropy_share == (pytest.approx(np.mean(shares), **close) if shares else None)
    assert measure.gradient == pytest.approx(np.mean(gradients), **close)


PATTERNS = [
    GlobalKeys(),
    GlobalKeys() & Causal(),
    Full(),
    Causal(),
    Local(2),
    Local(2, 2),
    longformer(1),
    Masked((torch.arange(TOKENS)[:, None] + torch.arange(TOKENS)) % 3 == 0),
]


@pytest.mark.sweep(keep=4)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("modified", [False, True], ids=["plain", "modified"])
def test_every_number_of_every_pattern(pattern, modified):
    inputs = case(**(modifiers() if modified else {}))
    inputs = replace(inputs, **separate_projections(inputs))
    for query in (4, 10):  # a global token, another
        check(attnviz.explain(inputs, head=3, query=query, pattern=pattern, batch=1), inputs, pattern)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("batch", [0, 1])
def test_every_dtype(dtype, batch):
    inputs = case(dtype)
    found = attnviz.explain(inputs, head=2, query=5, key=2, batch=batch)
    assert found.dtype == ("float64" if dtype == "float64" else "float32")
    check(found, inputs, GlobalKeys(), 1e-12 if dtype == "float64" else 2e-6)


def test_inputs_are_rounded_to_the_dtype_asked_for():
    found = attnviz.explain(case(), dtype="bfloat16", query=5)
    check(found, case("bfloat16"), GlobalKeys())


def test_padding_is_left_out():
    inputs = case(key_padding_mask=torch.stack([EXISTS, EXISTS]))
    found = attnviz.explain(inputs, pattern=Full())
    assert len(found.keys) == 11
    check(found, inputs, Full())


def test_a_scale_of_the_inputs_own_is_compared_with_none_and_with_the_textbook():
    inputs = case(scale=0.2)
    found = attnviz.explain(inputs, query=5)
    assert [measure.scale for measure in found.measures] == [0.2, 1, pytest.approx(1 / math.sqrt(D))]
    assert not found.textbook
    check(found, inputs, GlobalKeys())


def test_a_scale_that_a_file_rounded_is_the_textbook_scale():
    found = attnviz.explain(case(scale=float(torch.tensor(1 / math.sqrt(D)))), query=5)
    assert found.textbook
    assert len(found.measures) == 2


def test_a_head_of_one_dimension_has_nothing_to_compare():
    assert len(attnviz.explain(attnviz.synthesize(head_dim=1)).measures) == 1


def test_measures_are_those_of_the_statistics():
    (statistics,) = attnviz.head_statistics(case(), Causal(), heads=[1])
    measure = attnviz.explain(case(), head=1, pattern=Causal()).measures[0]
    assert measure.entropy == pytest.approx(statistics.entropy, rel=1e-6)
    assert measure.entropy_share == pytest.approx(statistics.entropy_share, rel=1e-6)


def test_the_gradient_is_the_size_of_what_autograd_finds():
    found = attnviz.explain(attnviz.synthesize(tokens=1, global_positions=(0,), dtype="float64"))
    assert found.measures[0].gradient == 0  # one key: nothing can move
    inputs = case("float64")
    found = attnviz.explain(inputs, query=5)
    logits = attnviz.score(inputs, heads=[0]).scores[0]  # (T, G)
    sizes = [torch.autograd.functional.jacobian(lambda row: row.softmax(0), row).norm().item() for row in logits]
    assert found.measures[0].gradient == pytest.approx(np.mean(sizes), abs=1e-12)


def test_many_blocks_of_rows_join_into_one_variance():
    inputs = attnviz.synthesize(heads=1, tokens=3000, head_dim=4, global_positions=(0,), dtype="float64")
    inputs = replace(inputs, k=inputs.k + 3)  # a mean that is far from 0
    measure = attnviz.explain(inputs, pattern=Full()).measures[0]
    logits = inputs.q[0, 0] @ inputs.k[0, 0].T / 2
    assert measure.pairs == 3000**2
    assert measure.variance == pytest.approx(float(logits.var(correction=0)), rel=1e-12)


def test_keys_of_the_global_pattern_are_counted_from_one():
    found = attnviz.explain(case(), query=5, key=2)
    assert (found.key.number, found.key.position, found.positions) == (2, GLOBAL[1], GLOBAL)


def test_keys_of_other_patterns_are_positions():
    found = attnviz.explain(case(), query=5, key=4, pattern=longformer(1))
    assert (found.key.number, found.key.position, found.positions) == (None, 4, None)


@given(calls(values=False), st.data())
def test_the_pair_that_nobody_names_is_the_strongest(call, data):
    inputs, head = call.inputs, data.draw(st.integers(0, call.inputs.H - 1))
    weights, seen = np.nan_to_num(call.expected().weights[head]), call.visible(head)
    asked = {"head": head, "pattern": call.pattern, "batch": call.batch}
    if not seen.any():
        with pytest.raises(InputError, match="sees no key"):
            attnviz.explain(inputs, **asked)
        return
    among = seen & (seen.sum(1) > 1)[:, None] if (seen.sum(1) > 1).any() else seen
    found = attnviz.explain(inputs, **asked)
    assert among[found.query, found.key.position]
    assert weights[found.query, found.key.position] >= weights[among].max() - call.tolerance
    query = data.draw(st.sampled_from([t for t in range(inputs.T) if seen[t].any()]))
    of_query = attnviz.explain(inputs, query=query, **asked)
    assert (of_query.query, seen[query, of_query.key.position]) == (query, True)
    assert weights[query, of_query.key.position] >= weights[query].max() - call.tolerance
    key = data.draw(st.sampled_from([s for s in range(inputs.S) if seen[:, s].any()]))
    number = key if of_query.positions is None else of_query.positions.index(key) + 1
    of_key = attnviz.explain(inputs, key=number, **asked)
    several = (among[:, key] if among[:, key].any() else seen[:, key]).nonzero()[0]
    assert (of_key.key.position, of_key.query in several) == (key, True)
    assert weights[of_key.query, key] >= weights[several, key].max() - call.tolerance


@given(calls(), st.data())
def test_an_excerpt_holds_the_logits_of_the_reference(call, data):
    head = data.draw(st.integers(0, call.inputs.H - 1))
    seen = call.visible(head)
    if not seen.any():
        return
    found = attnviz.explain(call.inputs, head=head, pattern=call.pattern, batch=call.batch)
    some, wanted = found.excerpt, np.where(seen, call.expected().logits[head], -np.inf)
    assert found.query in some.queries
    assert found.key.position in some.keys
    np.testing.assert_allclose(np.array(some.logits), wanted[np.ix_(some.queries, some.keys)], rtol=0, atol=1e-11)


def test_the_table_and_the_row_say_the_same_logits_however_large():
    inputs = attnviz.synthesize(tokens=40, head_dim=24)
    found = attnviz.explain(replace(inputs, q=inputs.q * 3000), pattern=Causal(), query=30)
    row = dict(zip(found.excerpt.keys, found.excerpt.logits[found.excerpt.queries.index(30)], strict=True))
    seen = {key.position: key.logit for key in found.keys}
    assert row == {key: seen.get(key, -math.inf) for key in row}


def test_tokens_are_those_of_the_query_and_of_the_keys():
    found = attnviz.explain(case(), query=5)
    assert found.query_token == "t5"
    assert [key.token for key in found.keys] == ["t1", "t4", "t9"]
    found = attnviz.explain(case(tokens=None), query=5)
    assert (found.query_token, found.key.token) == (None, None)


def test_without_v_there_is_no_context():
    found = attnviz.explain(case(v=None), query=5)
    assert (found.context, found.D_v, found.key.value) == (None, None, ())


def test_the_first_numbers_of_each_value_are_kept():
    inputs = case()
    found = attnviz.explain(inputs, head=3, query=5)
    for key in found.keys:
        assert list(key.value) == inputs.v[0, 1, key.position, :COMPONENTS].tolist()


def test_the_pattern_of_the_inputs_is_taken():
    assert attnviz.explain(case(pattern=Local(2)), query=5).pattern == "local, window 2"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"head": 4}, r"^synthetic: head 4 is out of range; there are 4 \(0 to 3\)"),
        ({"batch": 2}, r"^synthetic: batch item 2 is out of range; there are 2 \(0 to 1\)"),
        ({"query": 12}, r"^synthetic: query 12 is out of range; there are 12 \(0 to 11; --query\)"),
        ({"query": -1}, r"query -1 is out of range"),
        ({"key": 0}, r"key 0 is out of range; global keys are counted from 1, and there are 3: Global #1 to #3"),
        ({"key": 4}, r"key 4 is out of range; global keys are counted from 1"),
        ({"key": 12, "pattern": Full()}, r"key 12 is out of range; under the pattern full a key is a position, 0 to 11"),
        ({"key": -1, "pattern": Full()}, r"key -1 is out of range"),
        (
            {"query": 5, "key": 8, "pattern": Local(2)},
            r"query 5 does not see key position 8 under the pattern local, window 2; it sees 3, 4, 5, 6, 7 \(--key\)",
        ),
        (
            {"query": 5, "key": 3, "pattern": GlobalKeys() & Causal()},
            r"query 5 does not see Global #3 \(position 9\) under the pattern global, causal; it sees 1, 2 \(--key\)",
        ),
        (
            {"query": 10, "key": 11, "pattern": Causal()},
            r"it sees 0, 1, 2, 3, 4, 5, 6, 7 and 3 more",
        ),
        ({"query": 0, "pattern": GlobalKeys() & Causal()}, r"query 0 sees no key: the pattern global, causal shows it none"),
    ],
)  # fmt: skip
def test_bad_input(settings, says):
    with pytest.raises(InputError, match=says):
        attnviz.explain(case(), **settings)


def test_a_padded_query_and_a_padded_key_are_refused():
    inputs = case(key_padding_mask=torch.stack([EXISTS, EXISTS]))
    with pytest.raises(InputError, match="query 11 sees no key: it is padding; choose another query"):
        attnviz.explain(inputs, query=11, pattern=Full())
    with pytest.raises(InputError, match="query 5 does not see key position 11"):
        attnviz.explain(inputs, query=5, key=11, pattern=Full())


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_what_is_no_number_is_refused(name):
    inputs = case()
    getattr(inputs, name)[0, 0, 3, 1] = math.nan
    with pytest.raises(InputError, match=rf"{name} has 1 value that is NaN or Inf .*\(0, 0, 3, 1\)"):
        attnviz.explain(inputs, query=5)
