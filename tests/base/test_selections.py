"""Heads, items and positions as a user writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnviz.base.errors import InputError
from attnviz.base.selections import parse_index, parse_indices, parse_positions


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("3", (3,)),
        ("0,2-4", (0, 2, 3, 4)),
        ("2-2", (2,)),
        (" 1 , 0 ", (1, 0)),
        ("7", (7,)),
        ("all", tuple(range(8))),
        (" ALL ", tuple(range(8))),
    ],
)
def test_indices_come_in_the_order_written(text, indices):
    assert parse_indices(text, 8, option="--head", noun="head") == indices


@given(st.lists(st.integers(0, 30), min_size=1, unique=True))
def test_a_written_list_is_read_back(indices):
    assert parse_indices(",".join(map(str, indices)), 31, option="--head", noun="head") == tuple(indices)


@given(st.text(alphabet="0123456789-,: allevery"))
def test_any_text_is_read_or_refused_in_a_sentence(text):
    try:
        positions = parse_positions(text, 12)
    except InputError as error:
        said = str(error)
    else:
        assert positions == tuple(sorted(set(positions)))
        assert set(positions) <= set(range(12))
        return
    assert said.startswith("--global ")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'' is not a head"),
        ("a", "'a' is not a head; write heads like 0,2-4 or all"),
        ("1,", "'' is not a head"),
        ("-1", "'-1' is not a head"),
        ("1.0", "'1.0' is not a head"),
        ("8", r"head 8 is out of range; there are 8 \(0 to 7\)"),
        ("5-99999999999", "head 99999999999 is out of range"),
        ("4-2", "the range 4-2 runs backwards; write 2-4"),
        ("1,0-3", "head 1 is given more than once"),
    ],
)
def test_a_selection_that_is_wrong_says_how(text, says):
    with pytest.raises(InputError, match=rf"--head '{text}': .*{says}" if text else says):
        parse_indices(text, 8, option="--head", noun="head")


def test_one_index_is_one():
    assert parse_index("5", 8, option="--batch", noun="batch item") == 5
    with pytest.raises(InputError, match="one batch item is wanted here, 2 are given"):
        parse_index("5,6", 8, option="--batch", noun="batch item")


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        ("7,0,3", (0, 3, 7)),
        ("0-3,9", (0, 1, 2, 3, 9)),
        ("every:4", (0, 4, 8)),
        ("every:99", (0,)),
        ("random:10", tuple(range(10))),
    ],
)
def test_positions_are_ascending(text, positions):
    assert parse_positions(text, 10) == positions


@given(count=st.integers(1, 50), seed=st.integers(0, 2**64))
def test_random_positions_are_as_many_as_asked_for_and_all_different(count, seed):
    positions = parse_positions(f"random:{count}", 50, seed=seed)
    assert len(set(positions)) == len(positions) == count
    assert set(positions) <= set(range(50))


def test_random_positions_are_the_same_on_every_machine():
    assert parse_positions("random:5", 100) == RANDOM_5_OF_100
    assert parse_positions("random:5", 100, seed=1) != RANDOM_5_OF_100


RANDOM_5_OF_100 = (5, 22, 39, 74, 97)
