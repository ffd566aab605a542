"""Maps made of others against loops in float64: the mean and the largest of layers and heads, rollout, norm-weighted."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import attnviz
from attnviz import AttentionInputs, AttentionWeights, InputError
from attnviz.attention.patterns import Causal, Full, GlobalKeys, Local, Masked, longformer
from attnviz.engine.request import ask
from attnviz.maps.reasons import reason_map
from tests import reference
from tests.strategies import Call, calls, given_calls, normal, rules


@st.composite
def layers(draw: st.DrawFn) -> list[Call]:
    """Layers that agree in sizes and places, each with its own numbers, pattern and what its heads hide."""
    first = draw(calls())
    found = [first]
    for n in range(draw(st.integers(0, 2))):
        inputs = first.inputs
        own = {name: normal(tuple(getattr(inputs, name).shape), 77 + n) for name in ("q", "k")}
        if draw(st.booleans()):
            hidden = torch.from_numpy(np.random.default_rng(n).random((inputs.B, inputs.H, inputs.T, 1)) < 0.3)
            own["bias"] = torch.where(hidden, -torch.inf, 0.0).double().expand(-1, -1, -1, inputs.S)
        rule = draw(rules(inputs.T, inputs.S, documents=inputs.documents is not None))
        found.append(Call(replace(inputs, **own), rule, first.batch))
    return found


def asked(calls: list[Call]) -> list[AttentionInputs]:
    return [replace(call.inputs, pattern=call.pattern) for call in calls]


def check_views(inputs, head: int, wanted: np.ndarray, seen: np.ndarray, batch: int, pixels: int, **how) -> None:
    """Rows, statistics, sides and pictures of one head are those of a map."""
    T, S = wanted.shape
    shown = np.where(seen, wanted, np.nan)
    every = attnviz.attention_map(inputs, head, batch=batch, pixels=64, every_key=True, **how)
    np.testing.assert_allclose(every.cells, shown, rtol=1e-11, atol=1e-11)
    request = ask(inputs, None, head, batch=batch, **how)
    rows = torch.tensor(sorted({0, T - 1, T // 2}))
    read = request.attention.rows(request.chosen[0]).read(rows).over(torch.arange(S), True)
    np.testing.assert_array_equal(read.seen.numpy(), seen[rows.numpy()])
    np.testing.assert_allclose(np.where(read.seen, read.values, np.nan), shown[rows.numpy()], rtol=1e-11, atol=1e-11)
    mass = attnviz.attention_map(inputs, head, batch=batch, pixels=pixels, every_key=True, reduce="mass", **how)
    expected = reference.picture(np.nan_to_num(wanted), seen, range(T), range(S), pixels, "mass")
    np.testing.assert_allclose(mass.cells, expected, rtol=1e-11, atol=1e-11)
    if not how.get("rollout"):
        most = attnviz.attention_map(inputs, head, batch=batch, pixels=pixels, every_key=True, **how)
        expected = reference.picture(wanted, seen, range(T), range(S), pixels, "max")
        np.testing.assert_allclose(most.cells, expected, rtol=1e-11, atol=1e-11)
    sees = seen.any(1)
    found = next(one for one in attnviz.head_statistics(inputs, heads=[head], batch=batch, **how))
    assert found.queries == int(sees.sum())
    if sees.any():
        assert found.max_weight == pytest.approx(
            float(shown[sees][:, :].max(axis=1, where=seen[sees], initial=-np.inf).mean())
        )
    sides = attnviz.marginals(inputs, head, batch=batch, **how)
    received = [shown[seen[:, s], s].mean() if seen[:, s].any() else math.nan for s in sides.keys]
    np.testing.assert_allclose(sides.received, received, rtol=1e-11, atol=1e-11)
    scores = attnviz.score(inputs, heads=[head], batch=batch, **how)
    columns = scores.positions.tolist()
    np.testing.assert_allclose(
        scores.weights[0].numpy(), np.where(sees[:, None], wanted, np.nan)[:, columns], atol=1e-11
    )


@given(calls=layers(), how=st.sampled_from(["mean", "max"]), pixels=st.integers(1, 8), data=st.data())
def test_layers_become_one_head_by_head(calls: list[Call], how: str, pixels: int, data: st.DataObject):
    head, batch = data.draw(st.integers(0, calls[0].inputs.H - 1)), calls[0].batch
    wanted, seen = reference.combined(
        [call.expected().weights[head] for call in calls], [call.visible(head) for call in calls], how
    )
    check_views(asked(calls), head, wanted, seen, batch, pixels, **{how: "layers"})


@settings(max_examples=15)
@given(calls=layers(), how=st.sampled_from(["mean", "max"]), pixels=st.integers(1, 8))
def test_heads_of_layers_become_one(calls: list[Call], how: str, pixels: int):
    H, batch = calls[0].inputs.H, calls[0].batch
    of_layers = [
        reference.combined([c.expected().weights[h] for c in calls], [c.visible(h) for c in calls], "mean")
        for h in range(H)
    ]
    wanted, seen = reference.combined(*map(list, zip(*of_layers, strict=True)), how)
    found = attnviz.combined_map(asked(calls), how, batch=batch, pixels=pixels, every_key=True, mean="layers")
    reduce = {"mean": "mass", "max": "max"}[how]
    expected = reference.picture(np.nan_to_num(wanted), seen, *map(range, wanted.shape), pixels, reduce)
    np.testing.assert_allclose(found.cells, expected, rtol=1e-11, atol=1e-11)


@given(one=given_calls(signed=True), how=st.sampled_from(["mean", "max"]), bare=st.booleans(), pixels=st.integers(1, 8))
def test_given_weights_of_any_sign_count_0_where_they_are_hidden(one, how, bare, pixels):
    """The largest of a negative weight and a key that is hidden elsewhere is 0; without a pattern every existing key is seen."""
    inputs, batch = replace(one.weights, weights=one.weights.weights.double()), one.call.batch
    seen = one.visible[0]
    if bare:
        inputs = replace(inputs, pattern=Full())
        padding = inputs.key_padding_mask
        exists = np.ones(inputs.S, dtype=bool) if padding is None else padding[batch].numpy()
        queries = inputs.item(batch).query_padding
        numbers = np.nan_to_num(inputs.weights[batch, 0].numpy())
        assume(bool((numbers[:, ~exists] == 0).all()))  # the rows that see nothing may hold anything
        blank = np.isnan(inputs.weights[batch, 0].numpy()).all(1) | (False if queries is None else ~queries.numpy())
        seen = exists[None] & ~blank[:, None]
    other = replace(inputs, weights=torch.where(torch.isnan(inputs.weights), torch.nan, -inputs.weights))
    values = [np.nan_to_num(part.weights[batch, 0].numpy()) for part in (inputs, other)]
    wanted, visible = reference.combined(values, [seen] * 2, how)
    for reduce in ("max", "mass"):
        what = {"batch": batch, "every_key": True, "pixels": pixels, "reduce": reduce, how: "layers"}
        found = attnviz.attention_map([inputs, other], 0, **what)
        expected = reference.picture(np.nan_to_num(wanted), visible, *map(range, wanted.shape), pixels, reduce)
        np.testing.assert_allclose(found.cells, expected, atol=1e-12)
        assert found.given


def test_rollout_of_given_weights_sees_no_padding():
    """Without a pattern every key that exists can be reached, and what is padding can't."""
    weights = torch.rand(2, 4, 4, dtype=torch.float64)
    exists = torch.tensor([[True, True, False, True]])
    weights = (weights * exists).masked_fill(~exists[0, :, None], torch.nan)
    layers = [AttentionWeights(weights[n : n + 1], key_padding_mask=exists) for n in range(2)]
    seen = np.broadcast_to((exists[0, None] & exists[0, :, None]).numpy(), (1, 4, 4))
    wanted, reached = reference.rollout([(np.nan_to_num(w[None].numpy()), seen) for w in weights], exists[0].tolist())
    found = attnviz.attention_map(layers, 0, rollout=True)
    np.testing.assert_allclose(found.cells, np.where(reached, wanted, np.nan), atol=1e-12)
    assert attnviz.head_statistics(layers, rollout=True)[0].queries == 3


def test_layers_of_several_dtypes_are_of_the_one_that_holds_them():
    first, other = (attnviz.synthesize(heads=1, tokens=5, dtype=dtype) for dtype in ("float16", "float64"))
    found = attnviz.attention_map([first, other], 0, Causal(), mean="layers").cells
    each = [attnviz.attention_map(one, 0, Causal(), dtype="float64").cells for one in (first, other)]
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-7)


def test_heads_with_masks_of_their_own_are_one_map_in_every_number():
    visible = torch.tensor([[[1, 0, 0], [1, 1, 0], [0, 0, 0]], [[1, 0, 1], [0, 0, 0], [0, 0, 0]]], dtype=torch.bool)
    inputs = replace(attnviz.synthesize(heads=2, tokens=3, dtype="float64"), pattern=Masked(visible[None]))
    each = [reference.attend(inputs.q[0], inputs.k[0], visible[head].numpy()).weights[head] for head in range(2)]
    wanted, seen = reference.combined(each, [*visible.numpy()], "mean")
    request = ask(inputs, None, mean="heads")
    assert (request.chosen, request.inputs.H) == ((0,), 1)
    np.testing.assert_allclose(
        attnviz.score(inputs, mean="heads").weights[0], np.where(seen.any(1)[:, None], np.nan_to_num(wanted), np.nan)
    )
    (found,) = attnviz.head_statistics(inputs, mean="heads")
    assert found.queries == 2
    assert found.max_weight == pytest.approx(np.nanmax(wanted[:2], axis=1).mean())
    (received,) = attnviz.weight_received(inputs, mean="heads")
    assert received.queries.tolist() == [2, 1, 1]
    np.testing.assert_allclose(received.sum, np.nansum(wanted, axis=0))


def test_layers_that_differ_in_global_tokens_and_in_padding_are_seen_as_a_whole():
    """Global is what is global in any of them, and what exists in any exists."""
    first = replace(attnviz.synthesize(heads=1, tokens=5, dtype="float64"), tokens=None)
    masks = [torch.tensor([[True, False, False, True, False]]), torch.tensor([[False, True, False, False, False]])]
    layers = [replace(first, global_mask=masks[0]), replace(first, global_mask=masks[1])]
    found = attnviz.attention_map(layers, 0, GlobalKeys(), mean="layers")
    each = [attnviz.attention_map(one, 0, GlobalKeys(), every_key=True).cells for one in layers]
    assert list(found.keys) == [0, 1, 3]
    np.testing.assert_allclose(found.cells, np.nan_to_num(np.stack(each)).mean(0)[:, [0, 1, 3]])
    assert attnviz.head_statistics(layers, GlobalKeys(), mean="layers")[0].global_mass == pytest.approx(1)
    padded = [replace(first, key_padding_mask=torch.tensor([[True] * 4 + [False]])), replace(first)]
    found = attnviz.attention_map(padded, 0, Full(), mean="layers").cells
    each = [np.nan_to_num(attnviz.attention_map(one, 0, Full()).cells) for one in padded]
    np.testing.assert_allclose(found[:4], (each[0] + each[1])[:4] / 2)
    np.testing.assert_allclose(found[4], each[1][4])  # a query that is padding in one layer is left out of it


def test_a_key_hidden_in_one_layer_counts_0_there():
    hidden = torch.tensor([[[[-0.5, 0.0], [0.2, 0.4]]]])
    whole = [AttentionWeights(hidden, pattern=Causal()), AttentionWeights(torch.full((1, 1, 2, 2), -0.25))]
    largest = attnviz.attention_map(whole, 0, max="layers").cells
    assert largest.tolist() == pytest.approx(np.array([[-0.25, 0.0], [0.2, 0.4]]))
    np.testing.assert_allclose(
        attnviz.attention_map(whole, 0, mean="layers").cells, [[-0.375, -0.125], [-0.025, 0.075]]
    )


def squares(calls: list[Call]) -> bool:
    inputs = calls[0].inputs
    item = inputs.item(calls[0].batch)
    index = torch.arange(inputs.T)
    return (
        inputs.T == inputs.S
        and all(
            torch.equal(inputs.item(b).query_position(index), inputs.item(b).key_position(index))
            for b in range(inputs.B)
        )
        and item is not None
    )


@pytest.mark.sweep
@given(calls=layers().filter(squares), pixels=st.integers(1, 8))
def test_rollout_is_the_product_of_the_layers(calls: list[Call], pixels: int):
    call, batch = calls[0], calls[0].batch
    whole = [(one.expected().weights, np.stack([one.visible(head) for head in range(one.inputs.H)])) for one in calls]
    padding = call.inputs.item(batch).query_padding
    exists = [True] * call.inputs.T if padding is None else padding.tolist()
    wanted, seen = reference.rollout(whole, exists)
    check_views(asked(calls), 0, wanted, seen, batch, pixels, rollout=True)
    sums = np.nansum(wanted, axis=1)
    if all(one.inputs.sinks is None for one in calls):
        np.testing.assert_allclose(sums, exists)


@settings(max_examples=10)
@given(calls=layers().filter(squares), pixels=st.integers(1, 8))
def test_rollout_by_norms_weighs_each_layer_against_its_residual(calls: list[Call], pixels: int):
    whole, stays, inputs = [], [], []
    batch = calls[0].batch
    for n, call in enumerate(calls):
        H, T, S, group = call.inputs.H, call.inputs.T, call.inputs.S, call.inputs.H // call.inputs.H_kv
        each = np.zeros((H, T, S))
        seen = np.zeros((H, T, S), dtype=bool)
        for head in range(H):
            of = [("v", range(T))]
            if call.has_global_queries and call.inputs.v_global is not None:
                of.append(("v_global", call.global_queries))
            for name, rows in of:
                own = (
                    call.expected().weights[head],
                    call.visible(head),
                    getattr(call.inputs, name)[batch, head // group],
                )
                made, shown = reference.by_norms(*own, None, shares=False)
                each[head][list(rows)], seen[head][list(rows)] = np.nan_to_num(made)[list(rows)], shown[list(rows)]
        sums = each.sum((0, 2))
        shares = np.divide(each.sum(0), sums[:, None], out=np.zeros((T, S)), where=sums[:, None] > 0)
        whole.append((shares[None], (seen.any(0) & (sums > 0)[:, None])[None]))
        lengths = normal((call.inputs.B, T, 2), 20 + n).abs()
        lengths[:, 0] = 0
        stays.append([1.0 if not sum(row) else row[0] / sum(row) for row in lengths[batch].tolist()])
        inputs.append(replace(call.inputs, residual_norms=lengths, pattern=call.pattern))
    padding = calls[0].inputs.item(batch).query_padding
    exists = [True] * calls[0].inputs.T if padding is None else padding.tolist()
    wanted, seen = reference.rollout(whole, exists, stays)
    check_views(inputs, 0, wanted, seen, batch, pixels, rollout=True, values="norms")


def test_rollout_by_norms_says_what_it_needs():
    inputs = attnviz.synthesize(heads=2, tokens=3)
    with pytest.raises(
        InputError, match=r"rollout by norms .* residual_norms, \(B, T, 2\), .* leave --values norms out"
    ):
        attnviz.attention_map([inputs], 0, "causal", rollout=True, values="norms")
    broken = replace(inputs, residual_norms=torch.tensor([[[1.0, 2.0], [torch.nan, 1.0], [1.0, 1.0]]]))
    with pytest.raises(InputError, match="residual_norms of query 1 are NaN or Inf"):
        attnviz.attention_map([broken], 0, "causal", rollout=True, values="norms")
    with pytest.raises(InputError, match=r"residual_norms have shape \(3, 3\) .* wanted \(B, T, 2\) = \(1, 3, 2\)"):
        replace(inputs, residual_norms=torch.ones(3, 3))
    with pytest.raises(InputError, match=r"a number below 0, first at index \(0, 1, 0\)"):
        replace(inputs, residual_norms=torch.tensor([[1.0, 2.0], [-1.0, 1.0], [1.0, 1.0]]))


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("cells", [1, 20, 10_000])
def test_rollout_is_the_same_however_many_rows_go_down_together(monkeypatch, cells):
    inputs = [attnviz.synthesize(heads=2, tokens=20, head_dim=4, seed=seed, dtype="float64") for seed in range(3)]
    whole = attnviz.attention_map(inputs, 0, longformer(2), rollout=True).cells
    monkeypatch.setattr("attnviz.engine.rollout._VECTOR_CELLS", cells)
    np.testing.assert_allclose(attnviz.attention_map(inputs, 0, longformer(2), rollout=True).cells, whole)
    mass = attnviz.attention_map(inputs, 0, longformer(2), rollout=True, reduce="mass", pixels=3)
    expected = reference.picture(np.nan_to_num(whole), ~np.isnan(whole), range(20), range(20), 3, "mass")
    np.testing.assert_allclose(mass.cells, expected)


def test_chosen_queries_of_a_rollout_read_no_row_that_they_never_reach(monkeypatch):
    """A window of 1 through 3 layers reaches 3 positions to each side."""
    from attnviz.engine.blocks import HeadRows

    read, inner = set(), HeadRows.read

    def noting(self, rows, **how):
        read.update(rows.tolist() if isinstance(rows, torch.Tensor) else rows)
        return inner(self, rows, **how)

    monkeypatch.setattr(HeadRows, "read", noting)
    inputs = [attnviz.synthesize(heads=1, tokens=200, seed=seed) for seed in range(3)]
    found = attnviz.attention_map(inputs, 0, Local(1), rollout=True, queries=range(100, 101), pixels=200)
    assert np.flatnonzero(~np.isnan(found.cells[0])).tolist() == [*range(97, 104)]
    assert read == {*range(98, 103)}


@given(call=calls(), shares=st.booleans(), projected=st.booleans(), pixels=st.integers(1, 8), data=st.data())
def test_norms_are_weights_times_the_lengths_of_values(call: Call, shares, projected, pixels, data: st.DataObject):
    inputs, batch = call.inputs, call.batch
    head = data.draw(st.integers(0, inputs.H - 1))
    kv = head // (inputs.H // inputs.H_kv)
    w_o = normal((inputs.H, inputs.v.shape[3], 3), 5) if projected else None
    own = None if w_o is None else w_o[head]
    whole, seen = call.expected().weights[head], call.visible(head)
    wanted, shown = reference.by_norms(whole, seen, inputs.v[batch, kv], own, shares=shares)
    if call.has_global_queries and inputs.v_global is not None:
        of_global = reference.by_norms(whole, seen, inputs.v_global[batch, kv], own, shares=shares)
        for t in call.global_queries:
            wanted[t], shown[t] = of_global[0][t], of_global[1][t]
    how = {"values": "norm-shares" if shares else "norms"}
    check_views(replace(inputs, w_o=w_o, pattern=call.pattern), head, wanted, shown, batch, pixels, **how)


def test_norms_of_given_weights_and_of_a_mean_of_layers():
    weights, v = torch.rand(1, 2, 3, 4, dtype=torch.float64), normal((1, 1, 4, 2), 3)
    given = [AttentionWeights(weights, v=v), AttentionWeights(weights.flip(2), v=2 * v)]
    lengths = v[0, 0].norm(dim=1)
    found = attnviz.attention_map(given[0], 1, values="norms")
    np.testing.assert_allclose(found.cells, weights[0, 1] * lengths)
    assert found.name == "head 1, weight × ‖v‖, given"
    mean = attnviz.attention_map(given, 1, values="norms", mean="layers")
    np.testing.assert_allclose(mean.cells, (weights[0, 1] + 2 * weights[0, 1].flip(0)) / 2 * lengths)
    assert mean.name == "mean of 2 layers, head 1, weight × ‖v‖, given"
    with pytest.raises(
        InputError, match="head 0 holds negative weights, which have no shares of a row; take --values norms"
    ):
        attnviz.attention_map(replace(given[0], weights=-weights), 0, values="norm-shares")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokens": 9}, "layer 0 has 8 queries and layer 1 has 9"),
        ({"heads": 3}, "layer 0 has 2 heads and layer 1 has 3"),
        ({"query_positions": torch.arange(8) + 1}, "queries stand at different positions in layer 0 and in layer 1"),
        ({"key_positions": torch.arange(8).flip(0)}, "queries stand at different positions"),
        ({"cross": True}, "the keys of layer 0 are of the queries' own sequence and those of layer 1 of another"),
        ({"documents": torch.tensor([0] * 4 + [1] * 4)}, "packed documents are not the same"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_layers_that_are_not_of_one_map_are_refused(changes, said):
    first = replace(attnviz.synthesize(heads=2, tokens=8), layer=0)
    sizes = {name: changes[name] for name in ("tokens", "heads") if name in changes}
    other = attnviz.synthesize(**{"heads": 2, "tokens": 8, **sizes})
    other = replace(other, layer=1, tokens=None, **{name: changes[name] for name in changes if name not in sizes})
    with pytest.raises(InputError, match=f"(?s)the mean of layers: .*{said}"):
        attnviz.attention_map([replace(first, tokens=None), other], 0, Full(), mean="layers")


def test_the_reasons_of_a_derived_map_are_those_of_its_parts():
    """Each by its own pattern; of given weights without one, what is not 0 in the map."""
    inputs = [
        replace(attnviz.synthesize(heads=2, tokens=6, seed=n), pattern=own)
        for n, own in enumerate([Local(0), GlobalKeys()])
    ]
    found = reason_map(inputs, mean="layers")
    assert found.counts == {"window": 4, "global key": 10, "several": 2}  # global tokens at 0 and 3
    weights = [
        AttentionWeights(torch.diag(torch.tensor([1.0, 0, 0]))[None]),
        AttentionWeights(torch.tensor([[[0.0, 1, 0]] * 3])),
    ]
    assert reason_map(weights, mean="layers").counts == {"weight": 4}


def test_what_a_derived_map_has_no_answer_to_is_said_in_a_line():
    inputs = [attnviz.synthesize(heads=2, tokens=20, seed=seed) for seed in range(2)]
    for refused, said in {
        lambda: attnviz.attention_map(inputs, 0): "2 layers are given, and one map is asked for",
        lambda: attnviz.attention_map(inputs, 0, Full(), rollout=True, pixels=4): "choose --reduce mass",
        lambda: attnviz.attention_map(inputs, 0, rollout=True, mean="layers"): "leave --mean out",
        lambda: attnviz.attention_map(
            inputs, 0, rollout=True, values="norm-shares"
        ): "rollout follows weights or norms",
        lambda: attnviz.attention_map(inputs, 0, mean="layers", max="layers"): "one map of the layers; choose one",
        lambda: attnviz.attention_map(inputs, 0, mean="depth"): "is not heads, layers",
        lambda: attnviz.attention_map(inputs, 0, rollout=True, values="logits"): "has no logits",
        lambda: attnviz.score(inputs, mean="layers", weights=False): "has no logits",
        lambda: attnviz.explain(ask(inputs, mean="layers").inputs, head=0, query=1, key=0): "needs the q and k of one",
        lambda: attnviz.attention_map(replace(inputs[0], v=None), 0, values="norms"): "there is no v",
        lambda: attnviz.save("x.npz", ask(inputs, mean="layers").inputs): "can't be saved as inputs",
        lambda: attnviz.attention_map(
            AttentionInputs(torch.ones(1, 2, 4), torch.ones(1, 3, 4)), 0, Full(), rollout=True
        ): ("has 2 queries and 3 keys"),
        lambda: replace(inputs[0], w_o=torch.ones(2, 3, 4)): r"w_o has shape \(2, 3, 4\), wanted \(H, D_v, d_model\)",
    }.items():
        with pytest.raises(InputError, match=said) as raised:
            refused()
        assert "\n" not in str(raised.value)


def test_one_pattern_for_all_layers_or_each_its_own():
    inputs = [
        replace(attnviz.synthesize(heads=1, seed=seed), pattern=own) for seed, own in enumerate([Causal(), Local(1)])
    ]
    own, shared = (
        attnviz.attention_map(inputs, 0, mean="layers"),
        attnviz.attention_map(inputs, 0, GlobalKeys(), mean="layers"),
    )
    assert (own.pattern, shared.pattern, shared.cells.shape) == ("causal + local, window 1", "global", (10, 3))
    each = [attnviz.attention_map(one, 0).cells for one in inputs]
    np.testing.assert_allclose(
        own.cells, np.where(np.isnan(each).all(0), np.nan, np.nansum(each, axis=0) / 2), atol=1e-6
    )


def test_a_small_model_as_published_code_has_it():
    """BERT's own attentions: rollout by the joint attention of Abnar and Zuidema, norms by the transformed vectors of Kobayashi et al.

    Their definitions are written anew here: ``joint[l] = normalized(A[l] + I) @ joint[l - 1]``, and of head h, query i and
    key j the length of ``A[i, j] * (x[j] W_v[h] + b_v[h]) W_o[h]``.
    """
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=24, num_hidden_layers=3, num_attention_heads=4, intermediate_size=32,
        max_position_embeddings=16, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertModel(config).double().eval()
    tokens, there = torch.arange(9)[None] + 3, torch.tensor([[1] * 7 + [0] * 2])
    with torch.no_grad():
        for weight in model.parameters():  # far from uniform
            weight.mul_(3 if weight.ndim > 1 else 1)
        out = model(tokens, attention_mask=there, output_attentions=True, output_hidden_states=True)
    mask = there.bool()
    given = [AttentionWeights(a.masked_fill(~mask[:, None, None], 0), key_padding_mask=mask) for a in out.attentions]

    joint = torch.eye(9, dtype=torch.float64)
    for attention in out.attentions:
        added = attention[0].mean(0) + torch.eye(9, dtype=torch.float64)
        joint = (added / added.sum(-1, keepdim=True)) @ joint
    found = attnviz.attention_map(given, 0, rollout=True).cells
    np.testing.assert_allclose(found[:7, :7], joint[:7, :7], atol=1e-12)
    assert np.isnan(found[7:]).all()

    for n, layer in enumerate(model.encoder.layer):
        own, dense = layer.attention.self, layer.attention.output.dense.weight  # (d_model, H * D)
        with torch.no_grad():
            v = own.value(out.hidden_states[n]).view(1, 9, 4, 6).transpose(1, 2)
            w_o = dense.T.reshape(4, 6, 24)
            transformed = torch.einsum("bhij,bhjd,hdm->bhijm", out.attentions[n], v, w_o)
        with_values = replace(given[n], v=v, w_o=w_o)
        for head in range(4):
            norms = attnviz.attention_map(with_values, head, values="norms").cells
            np.testing.assert_allclose(norms[:7, :7], transformed[0, head].norm(dim=-1)[:7, :7], atol=1e-12)


def test_layers_of_several_steps_are_read_in_blocks_that_fit(monkeypatch):
    """Windows of two dilations have no step in common: such rows are read over every key, few at a time."""
    from attnviz.engine.combined import CombinedRows

    read, inner = [], CombinedRows.read
    monkeypatch.setattr(
        CombinedRows, "read", lambda self, rows, **how: (read.append(len(rows)), inner(self, rows, **how))[1]
    )
    monkeypatch.setattr("attnviz.engine.combined._BLOCK_CELLS", 1 << 14)
    inputs = [
        replace(attnviz.synthesize(heads=1, tokens=600, head_dim=4, seed=n), pattern=Local(3, dilation))
        for n, dilation in enumerate([2, 3])
    ]
    found = attnviz.attention_map(inputs, 0, mean="layers", pixels=600).cells
    assert max(read) <= (1 << 14) // 600
    each = [attnviz.attention_map(one, 0, pixels=600).cells for one in inputs]
    np.testing.assert_allclose(found, np.where(np.isnan(each).all(0), np.nan, np.nansum(each, axis=0) / 2), atol=1e-6)


@pytest.mark.parametrize("how", [{"mean": "layers"}, {"rollout": True, "reduce": "mass"}], ids=str)
def test_a_bound_on_memory_makes_blocks_smaller_or_is_refused(how):
    inputs = [attnviz.synthesize(heads=1, tokens=300, head_dim=4, seed=n, dtype="float64") for n in range(2)]
    whole = attnviz.attention_map(inputs, 0, Causal(), pixels=10, **how).cells
    np.testing.assert_allclose(attnviz.attention_map(inputs, 0, Causal(), pixels=10, memory=50_000, **how).cells, whole)
    with pytest.raises(InputError, match="too small for one row"):
        attnviz.attention_map(inputs, 0, Causal(), pixels=10, memory=500, **how)


@given(call=calls(), how=st.sampled_from(["mean", "max"]), pixels=st.integers(1, 8), data=st.data())
def test_batch_items_become_one_head_by_head(call: Call, how: str, pixels: int, data: st.DataObject):
    head = data.draw(st.integers(0, call.inputs.H - 1))
    inputs = replace(call.inputs, pattern=call.pattern)
    each = [replace(call, batch=batch) for batch in range(inputs.B)]
    wanted, seen = reference.combined(
        [one.expected().weights[head] for one in each], [one.visible(head) for one in each], how
    )
    places = {(tuple(one.places.queries), tuple(one.places.keys)) for one in each}
    documents = {str((one.places.query_documents, one.places.key_documents)) for one in each}
    if len(places) > 1 or len(documents) > 1:
        with pytest.raises(InputError, match=r"batch items: .* in item 0 and in item 1; choose items that agree"):
            ask(inputs, heads=head, **{how: "items"})
        return
    check_views(inputs, head, wanted, seen, 0, pixels, **{how: "items"})


def test_labels_of_many_texts_are_those_that_they_share():
    tokens = [["<s>", "a"], ["<s>", "a"], ["<s>", "b"]]
    inputs = AttentionInputs(normal((3, 1, 2, 2), 0), normal((3, 1, 2, 2), 1), tokens=tokens, pattern=Full())
    assert attnviz.attention_map(inputs, 0, mean="items").key_labels is None
    alike = replace(inputs, q=inputs.q[:2], k=inputs.k[:2], tokens=tokens[:2])
    shown = attnviz.attention_map(alike, 0, mean="items")
    assert (shown.key_labels, shown.name) == (["<s>", "a"], "mean of 2 batch items, head 0")
