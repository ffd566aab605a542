"""What goes into a call: shapes, layouts, masks and labels are checked once, and nothing is copied."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from attnviz import AttentionInputs, AttentionWeights, InputError
from tests.cases import small

B, H, H_KV, T, S, D = 2, 4, 2, 5, 7, 3


def inputs(**changes: object) -> AttentionInputs:
    tensors: dict[str, object] = {"q": torch.ones(B, H, T, D), "k": torch.ones(B, H_KV, S, D)}
    return AttentionInputs(**{**tensors, **changes})


def test_sizes_have_the_letters_of_the_specification():
    found = inputs()
    assert (found.B, found.H, found.H_kv, found.T, found.S, found.D) == (B, H, H_KV, T, S, D)


def test_tensors_of_rank_3_are_one_batch_item():
    found = AttentionInputs(torch.ones(H, T, D), torch.ones(H_KV, S, D), global_mask=torch.ones(S, dtype=torch.bool))
    assert (found.q.shape, found.k.shape, found.global_mask.shape) == ((1, H, T, D), (1, H_KV, S, D), (1, S))


@pytest.mark.parametrize(
    ("layout", "order"), [("bhtd", (0, 1, 2, 3)), ("bthd", (0, 2, 1, 3)), ("htd", (1, 2, 3)), ("thd", (2, 1, 3))]
)
def test_every_layout_gives_the_same_inputs(layout, order):
    q, k = torch.randn(1, H, T, D), torch.randn(1, H_KV, S, D)

    def given(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.permute(order) if len(order) == 4 else tensor[0].permute([axis - 1 for axis in order])

    found = AttentionInputs(given(q), given(k), layout=layout)
    assert torch.equal(found.q, q)
    assert torch.equal(found.k, k)


def test_nothing_is_copied():
    q, k = torch.ones(T, H, D), torch.ones(S, H_KV, D)
    found = AttentionInputs(q, k, layout="thd")
    assert (found.q.data_ptr(), found.k.data_ptr()) == (q.data_ptr(), k.data_ptr())


@pytest.mark.parametrize(("head", "kv"), [(0, 0), (1, 0), (2, 1), (3, 1)])
def test_query_heads_share_key_heads_in_groups_of_neighbors(head, kv):
    assert inputs().item().kv_head(head) == kv


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"v": torch.ones(B, H_KV, S + 1, D)}, r"v has shape \(2, 2, 8, 3\), wanted .* \(2, 2, 7\) as k has"),
        ({"v": torch.ones(B, H_KV, S, D).double()}, "v is float64 but q is float32"),
        ({"k": torch.ones(B, 3, S, D)}, "q has 4 heads, which is not a multiple of the 3 heads of k"),
        ({"q_global": torch.ones(B, H, T, D)}, "q_global is given without k_global"),
        ({"k_global": torch.ones(B, H_KV, S, D)}, "k_global is given without q_global"),
        ({"q_global": torch.ones(B, H, T, 9)}, r"q_global has shape \(2, 4, 5, 9\), wanted \(2, 4, 5, 3\) as q has"),
        ({"v_global": torch.ones(B, H_KV, S, D)}, "v_global is given without v"),
        ({"scale": 0.0}, "scale is 0.0, wanted a finite number above 0"),
        ({"scale": float("inf")}, "scale is inf"),
        ({"softcap": -1.0}, "softcap is -1.0"),
        ({"sinks": torch.ones(H + 1)}, r"sinks has shape \(5,\) .*wanted \(H,\) = \(4,\)"),
        ({"alibi_slopes": torch.ones(H, dtype=torch.int64)}, "alibi_slopes has .*int64"),
        ({"alibi_slopes": torch.full((H,), float("nan"))}, "alibi_slopes has 4 values that are NaN or Inf"),
        ({"bias": torch.ones(H, T, S + 1)}, r"bias has shape \(4, 5, 8\).*wanted \(H, T, S\) = \(4, 5, 7\)"),
        ({"tokens": [["a"] * S]}, "tokens must be 2 lists of strings"),
        ({"tokens": ["a" * S] * B}, "tokens must be 2 lists of strings"),
        ({"tokens": [["a"] * S, ["a"]]}, "tokens of batch item 1 has 1 labels, wanted 7"),
        ({"query_tokens": [["a"] * S] * B}, "query_tokens of batch item 0 has 7 labels, wanted 5"),
        ({"layout": "dhtb"}, "layout 'dhtb' is not one of"),
    ],
)
def test_what_does_not_fit_is_refused(changes, says):
    with pytest.raises(InputError, match=says):
        inputs(**changes)


def test_an_error_is_one_line_that_names_the_source():
    with pytest.raises(InputError) as error:
        inputs(scale=0.0, source="a\nb.npz")
    assert str(error.value) == "a b.npz: scale is 0.0, wanted a finite number above 0"


def test_a_padded_position_cannot_be_global():
    globals_ = torch.zeros(B, S, dtype=torch.bool)
    globals_[1, 4] = True
    exists = torch.ones(B, S, dtype=torch.bool)
    exists[1, 4:] = False
    with pytest.raises(InputError, match="position 4 of batch item 1 is padding"):
        inputs(global_mask=globals_, key_padding_mask=exists)


def test_without_labels_of_their_own_queries_are_the_last_keys():
    item = inputs(tokens=[list("abcdefg")] * B).item()
    assert item.query_labels(range(T)) == list("cdefg")


def test_queries_can_have_labels_of_their_own():
    item = inputs(tokens=[list("abcdefg")] * B, query_tokens=[list("vwxyz")] * B).item()
    assert item.query_labels([0, 4]) == ["v", "z"]


def test_labels_are_read_in_the_form_of_their_tokenizer():
    tokens = [["Ġa", "Ã©", "Ġ", "Ċ", "b", "c", "d"]] * B
    item = inputs(tokens=tokens, token_form="byte-level").item()
    assert item.key_labels(range(4)) == ["␣a", "é", "␣", "\n"]
    assert item.key_labels([0], space=" ") == [" a"]
    assert item.query_labels([0, 1]) == ["␣", "\n"]
    assert inputs(tokens=tokens).item().key_labels([0, 1]) == ["Ġa", "Ã©"]


def test_words_and_special_tokens_of_queries_are_those_of_the_last_keys():
    words, special = [[None, 0, 0, 1, 2, 3, 3]] * B, [[0, 6]] * B
    item = inputs(tokens=[list("abcdefg")] * B, word_ids=words, special_tokens=special).item(1)
    assert (item.query_tokens.word_ids, set(item.query_tokens.special)) == ([0, 1, 2, 3, 3], {4})
    own = inputs(query_tokens=[list("vwxyz")] * B, query_word_ids=[[0] * T] * B).item(1)
    assert own.query_tokens.word_ids == [0] * T
    assert own.key_tokens is None


def test_only_one_of_several_batch_items_is_named():
    assert [inputs().item(n).batch_shown for n in range(B)] == [0, 1]
    assert small(batch=1).item().batch_shown is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"token_form": "bytes"},
            "inputs: token_form 'bytes' is not one of plain, byte-level, sentencepiece, wordpiece",
        ),
        ({"token_form": None}, "token_form None is not one of plain"),
        ({"word_ids": [[0] * S] * B}, "word_ids is given without tokens"),
        ({"query_special_tokens": [[]] * B}, "query_special_tokens is given without query_tokens"),
        ({"tokens": [["a"] * S] * B, "word_ids": [[0] * S]}, "word_ids must be 2 lists of integers, one a batch item"),
        ({"tokens": [["a"] * S] * B, "word_ids": 3}, "word_ids must be 2 lists of integers"),
        ({"tokens": [["a"] * S] * B, "word_ids": [[0]] * B}, "word_ids of batch item 0 are not 7 integers or None"),
        ({"tokens": [["a"] * S] * B, "word_ids": [["0"] * S] * B}, "word_ids of batch item 0 are not 7 integers"),
        ({"tokens": [["a"] * S] * B, "special_tokens": [[0], [S]]}, "special_tokens of batch item 1 .* 0 to 6"),
        ({"tokens": [["a"] * S] * B, "special_tokens": [[0], [None]]}, "special_tokens of batch item 1 are not pos"),
    ],
)
def test_what_is_said_of_tokens_is_checked(changes, says):
    with pytest.raises(InputError, match=says):
        inputs(**changes)


def test_a_nan_is_looked_for_only_in_the_heads_that_are_used():
    found = small()
    found.q[0, 3] = float("nan")
    found.item(0).query(2)
    with pytest.raises(InputError, match="q has 48 values"):
        found.item(0).query(3)


def odd_values(shape: tuple[int, ...]) -> dict[str, object]:
    """What may stand where a tensor of this shape is wanted, and is none of numbers in memory."""
    plain = torch.ones(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch calls deprecated, or in beta
        return {
            "sparse": plain.to_sparse(),
            "compressed": plain.reshape(-1, shape[-1]).to_sparse_csr(),
            "nested": torch.nested.nested_tensor([torch.ones(2, 2)]),
            "mkldnn": plain.to_mkldnn(),
            "meta": plain.to("meta"),
            "complex": plain.to(torch.complex64),
            "bits": torch.ones(shape, dtype=torch.uint8).view(torch.bits8),
            "beyond int64": torch.full(shape, -1).view(torch.uint64),
            "objects": np.zeros(shape, object),
            "text": "x",
            "class": type,
        }


PLACES = {
    **dict.fromkeys(("global_mask", "key_padding_mask", "key_positions", "documents"), (B, S)),
    **dict.fromkeys(("query_padding_mask", "query_positions", "query_documents"), (B, T)),
    **dict.fromkeys(("k", "v", "k_global", "v_global"), (B, H_KV, S, D)),
    **dict.fromkeys(("q", "q_global"), (B, H, T, D)),
    **{"bias": (H, T, S), "alibi_slopes": (H,), "sinks": (H,), "w_o": (H, D, 5)},
    **dict.fromkeys(("tokens", "query_tokens", "word_ids", "special_tokens"), (B, S)),
    **dict.fromkeys(("scale", "softcap", "cross"), (B, S)),
}
"""What inputs are made of, and the shape of each."""


@pytest.mark.parametrize("name", PLACES)
def test_what_is_no_tensor_of_numbers_is_refused_wherever_it_stands(name):
    beside = {"v": torch.ones(B, H_KV, S, D), "tokens": [["a"] * S] * B, "documents": torch.zeros(B, S).long()}
    beside |= {"k_global": torch.ones(B, H_KV, S, D)} if name == "q_global" else {}
    for kind, value in odd_values(PLACES[name]).items():
        with pytest.raises(InputError) as refused:
            inputs(**{**beside, name: value})
        assert name in str(refused.value) or kind == "text", (kind, str(refused.value))


@pytest.mark.parametrize("name", ["weights", "logits", "v", "w_o"])
def test_what_is_no_tensor_of_numbers_is_no_weights(name):
    shape = {"v": (B, H_KV, S, D), "w_o": (H, D, 5)}.get(name, (B, H, T, S))
    beside = {"weights": torch.ones(B, H, T, S), "v": torch.ones(B, H_KV, S, D)}
    for value in odd_values(shape).values():
        with pytest.raises(InputError, match=name):
            AttentionWeights(**{**beside, name: value})


@pytest.mark.parametrize("missing", ["q", "k"])
def test_inputs_without_queries_or_keys_are_refused(missing):
    with pytest.raises(InputError, match=f"inputs: {missing}: holds object, not numbers"):
        inputs(**{missing: None})


def test_whole_numbers_of_any_width_are_positions_and_documents():
    for kind in (torch.int8, torch.int16, torch.int32, torch.uint8, torch.uint16, torch.uint32, torch.uint64):
        found = inputs(key_positions=torch.arange(S).to(kind), documents=torch.zeros(S).to(kind))
        assert torch.equal(found.key_positions, torch.arange(S).expand(B, S)), kind


def test_a_tensor_keeps_its_history_and_a_quantized_one_is_what_it_stands_for():
    q = torch.ones(B, H, T, D, requires_grad=True)
    assert inputs(q=q).q.requires_grad
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.quantize_per_tensor(torch.ones(B, H, T, D), 0.5, 0, torch.qint8)
    assert torch.equal(inputs(q=quantized).q, torch.ones(B, H, T, D))


def test_a_scale_of_any_library_is_a_number():
    for scale in (torch.tensor(0.5), np.float32(0.5), 0.5):
        assert float(inputs(scale=scale).scale) == 0.5


def test_labels_may_be_arrays_of_strings():
    labels = [np.array(["a"] * S), ["b"] * S]
    assert inputs(tokens=labels).tokens[0][0] == "a"
    with pytest.raises(InputError, match="tokens must be 2 lists of strings"):
        inputs(tokens=torch.zeros(B, S).long())
