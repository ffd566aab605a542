"""What a block of rows says of itself, against its own logits."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnviz import AttentionInputs, Causal, Full, Local
from attnviz.engine.blocks import blocks
from attnviz.engine.tiles import Shelf
from attnviz.engine.visibility import HIDDEN
from tests.strategies import Call, calls, normal

BANDS = [Full(), Causal(), Local(3), Local(2) & Causal(), Local(400)]


def assert_told(item, pattern, head: int) -> None:
    for block in blocks(item, pattern, head, weights=False):
        sees = block.values > HIDDEN
        assert torch.equal(torch.ones_like(sees) if block.seen is None else block.seen, sees)
        assert torch.equal(block.visible, sees.sum(1))
        assert torch.equal(block.seeing, sees.sum(0))


@settings(max_examples=20)
@given(T=st.integers(1, 200), S=st.integers(1, 200), pattern=st.sampled_from(BANDS))
def test_what_a_band_shows_is_what_its_logits_show(T, S, pattern):
    assert_told(AttentionInputs(normal((1, 1, T, 2), 0), normal((1, 1, S, 2), 1)).item(), pattern, 0)


@settings(max_examples=20)
@given(call=calls(values=False))
def test_what_any_pattern_shows_is_what_its_logits_show(call: Call):
    assert_told(call.inputs.item(call.batch), call.pattern, 0)


@settings(max_examples=20)
@given(call=calls(values=False))
def test_sums_are_those_of_logits_and_weights_and_change_no_weight(call: Call):
    item = call.inputs.item(call.batch)
    ways = (blocks(item, call.pattern, 0), blocks(item, call.pattern, 0, weights=False))
    kept = [[block.values.clone() for block in way] for way in ways]
    for block, weights, logits in zip(blocks(item, call.pattern, 0, sums=True), *kept, strict=True):
        sees = block.visible > 0
        torch.testing.assert_close(block.values, weights, rtol=0, atol=0, equal_nan=True)
        if block.sums is not None:
            torch.testing.assert_close(block.sums.largest[sees], logits[sees].amax(1), rtol=0, atol=0)
            torch.testing.assert_close(block.sums.top[sees], weights[sees].amax(1), rtol=0, atol=0)
        torch.testing.assert_close(block.entropies[sees], torch.special.entr(weights[sees]).sum(1), rtol=0, atol=1e-12)


def test_memory_of_tiles_is_used_again_and_never_twice_at_once():
    shelf = Shelf(torch.empty(0))
    for sizes in ([(3, 4), (5, 4)], [(3, 4), (5, 4), (7, 4)], [(1, 40), (2, 4)], [(3, 4)] * 9):
        shelf.clear()
        pieces = [shelf.take(*size).fill_(n) for n, size in enumerate(sizes)]
        assert [tuple(piece.shape) for piece in pieces] == sizes
        assert [piece.unique().tolist() for piece in pieces] == [[n] for n in range(len(sizes))]
    before = [shelf.take(3, 4).data_ptr() for _ in (shelf.clear(), None)]
    assert before == [shelf.take(3, 4).data_ptr() for _ in (shelf.clear(), None)]
