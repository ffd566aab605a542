"""Tokens as a reader expects them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnviz.base.errors import InputError
from attnviz.base.labels import (
    FORMS,
    SPACE,
    Tokens,
    labels_of_both,
    missing_scripts,
    one_line,
    readable,
    same_label,
    spaced,
    word_ids,
)

LETTERS = st.text(st.characters(codec="utf-8"), max_size=8)


def gpt2(text: str | bytes) -> str:
    """The letters that GPT-2 writes for the bytes of a text, after ``bytes_to_unicode`` of its encoder.py."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters, n = {byte: chr(byte) for byte in own}, 0
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(256 + n)
            n += 1
    return "".join(letters[byte] for byte in (text.encode() if isinstance(text, str) else text))


def llama(text: bytes) -> list[str]:
    """The tokens that SentencePiece falls back to: a byte each."""
    return [f"<0x{byte:02X}>" for byte in text]


@pytest.mark.sweep
@given(LETTERS)
def test_byte_level_tokens_come_back(text):
    assert readable([gpt2(text)], "byte-level") == [text.replace(" ", SPACE)]


@given(LETTERS, st.data())
def test_a_text_cut_anywhere_comes_back_with_the_bytes_of_the_letters_cut(text, data):
    whole = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    for form, shown in (
        ("byte-level", readable([gpt2(piece) for piece in pieces], "byte-level", space=" ")),
        ("sentencepiece", ["".join(readable(llama(piece), "sentencepiece", space=" ")) for piece in pieces]),
    ):
        for piece, label in zip(pieces, shown, strict=True):
            assert bytes_of(label) == piece, form
            if form == "byte-level" and decodes(piece):  # whole letters are letters
                assert label == piece.decode()


def bytes_of(label: str) -> bytes:
    """The bytes that a label shows, those of parts of letters by their numbers."""
    parts = re.split(r"⟨([0-9A-F]{2})⟩", label)
    return b"".join(bytes.fromhex(part) if n % 2 else part.encode() for n, part in enumerate(parts))


def decodes(piece: bytes) -> bool:
    try:
        return bool(piece.decode())
    except UnicodeDecodeError:
        return False


@given(st.lists(LETTERS), st.sampled_from(["plain", "wordpiece"]))
def test_other_tokens_are_shown_as_they_are(tokens, form):
    assert readable(tokens, form) == tokens


@pytest.mark.parametrize(
    ("form", "tokens", "shown"),
    [
        ("byte-level", ["Ġthe", "Ċ", "ĉ"], ["␣the", "\n", "\t"]),
        ("byte-level", [gpt2("日")[:2], gpt2("日")[2:]], ["⟨E6⟩⟨97⟩", "⟨A5⟩"]),
        ("byte-level", ["<|endoftext|>", "東", "a b", "  "], ["<|endoftext|>", "東", "a␣b", "␣␣"]),
        ("sentencepiece", ["▁the", "▁▁", "s"], ["␣the", "␣␣", "s"]),
        ("sentencepiece", ["▁a", "<0x0A>", "<0x20>", "<0xE6>"], ["␣a", "\n", "␣", "⟨E6⟩"]),
        ("sentencepiece", ["<0xG0>", "Ġ"], ["<0xG0>", "Ġ"]),
        ("sentencepiece", ["\ud800"], ["⟨ED⟩⟨A0⟩⟨80⟩"]),
        ("wordpiece", ["##ing", "Ã©", "naïve", "[CLS]"], ["##ing", "Ã©", "naïve", "[CLS]"]),
        ("plain", ["Ġthe", "▁the", "<0x0A>", " is"], ["Ġthe", "▁the", "<0x0A>", " is"]),
        ("plain", [], []),
    ],
)
def test_marks_of_tokenizers(form, tokens, shown):
    assert readable(tokens, form) == shown


def test_special_tokens_stay_as_they_are():
    assert readable(["é", "é"], "byte-level", special=[0]) == ["é", "⟨E9⟩"]
    assert readable(["▁", "▁"], "sentencepiece", special=[1]) == [SPACE, "▁"]


def test_labels_of_some_positions_are_those_of_all():
    tokens = Tokens(["é", "Ġa", "é", "b"], "byte-level", special={2})
    whole = tokens.labels()
    assert whole == ["⟨E9⟩", "␣a", "é", "b"]
    assert tokens.labels([3, 2, 0]) == [whole[3], whole[2], whole[0]]
    assert tokens.at([2, 0, -1]).labels() == [whole[2], whole[0], ""]


# Words


def find(tokens: Tokens, text: str) -> range:
    return tokens.find(text, option="--strip", noun="query", source="run.npz")


BYTES = ["The", "Ġtoken", "ization", "Ġof", "Ġ" + gpt2("日")[:2], gpt2("日")[2:], "Ġis", "Ġof", "th", "is", "Ċ"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The", range(1)),
        ("tokenization", range(1, 3)),
        (" tokenization", range(1, 3)),
        ("␣token", range(1, 2)),
        (" token", range(1, 2)),
        ("ization", range(2, 3)),
        ("日", range(4, 6)),
        ("is", range(6, 7)),
        ("\n", range(10, 11)),
    ],
)
def test_a_word_is_found_by_its_text(text, found):
    words = word_ids(BYTES, "byte-level")
    assert words == [0, 1, 1, 2, 3, 3, 4, 5, 5, 5, 6]
    assert find(Tokens(BYTES, "byte-level", words), text) == found


def test_pieces_are_found_with_and_without_their_mark():
    pieces = ["[CLS]", "un", "##friend", "##ly", "friend", "##ly", "[SEP]"]
    tokens = Tokens(pieces, "wordpiece", word_ids(pieces, "wordpiece", [0, 6]), [0, 6])
    assert tokens.word_ids == [None, 0, 0, 0, 1, 1, None]
    assert find(tokens, "unfriendly") == range(1, 4)
    assert find(tokens, "friendly") == range(4, 6)
    assert find(tokens, "##friend") == range(2, 3)
    assert find(tokens, "[CLS]") == range(1)
    with pytest.raises(
        InputError, match=re.escape("--strip 'ly' is the token of queries 3, 5; name one by its position")
    ):
        find(tokens, "ly")
    with pytest.raises(InputError, match=r"is no query's token in run.npz; name one by its position, 0 to 6"):
        find(tokens, "cat")


def test_a_word_that_is_there_twice_is_named_by_its_positions():
    tokens = Tokens(["Ġun", "do", "Ġun", "do"], "byte-level", [0, 0, 1, 1])
    with pytest.raises(
        InputError, match=re.escape("is the token of queries 0-1, 2-3; name one by its position, 0 to 3")
    ):
        find(tokens, "undo")
    tokens = Tokens(["the"] * 20)
    with pytest.raises(InputError, match=r"queries 0, 1, .*, 11, …; name one"):
        find(tokens, "the")


def test_tokens_without_word_ids_are_found_one_by_one():
    assert find(Tokens(["a", " is", "b"]), "is") == range(1, 2)
    assert find(Tokens(["▁un", "do"], "sentencepiece"), "un") == range(1)
    with pytest.raises(InputError, match="is no query's token"):
        find(Tokens(["▁un", "do"], "sentencepiece"), "undo")


@given(st.lists(st.text("ab é日", min_size=1, max_size=3), min_size=1, max_size=6), st.sampled_from(FORMS))
def test_every_label_finds_its_token_or_is_told_all_places(texts, form):
    raw = {
        "byte-level": [gpt2(text) for text in texts],
        "sentencepiece": [text.replace(" ", "▁") for text in texts],
    }.get(form, texts)
    tokens = Tokens(raw, form)
    for n, label in enumerate(tokens.labels()):
        assert n in places(tokens, label)


def places(tokens: Tokens, text: str) -> set[int]:
    """Where a text is found, or said to be."""
    try:
        return set(find(tokens, text))
    except InputError as error:
        listed = re.search(r"the token of queries ([\d, ]+);", str(error))
        return set() if listed is None else set(map(int, listed[1].split(", ")))


def test_where_words_begin():
    assert spaced(["The", "␣cat", "␣", "s"], "byte-level") == [(False, "The"), (True, "cat"), (True, "␣"), (False, "s")]
    assert spaced(["##", "a", "##b"], "wordpiece") == [(False, "##"), (True, "a"), (False, "b")]
    assert spaced(["a", "##b", "␣c"], "plain") == [(True, "a"), (True, "##b"), (True, "␣c")]
    assert spaced(["a", "b", " c"], "plain") == [(False, "a"), (False, "b"), (True, "c")]


# Beside other labels


def test_labels_of_two_sides():
    assert labels_of_both(None, ["a"]) == labels_of_both(["a"], None) == ["a"]
    assert labels_of_both(None, None) is None


@given(LETTERS)
def test_a_label_of_before_is_that_of_now(text):
    raw = gpt2(text)
    before = raw.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n")  # what was written before forms were
    (now,) = readable([raw], "byte-level")
    assert same_label(before, now)
    assert same_label(raw, now)
    pieces = text.replace(" ", "▁")
    before = pieces.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n")
    assert same_label(before, readable([pieces], "sentencepiece")[0])


def test_other_labels_differ():
    assert not same_label("the", "␣the")
    assert not same_label("cafÃ©", "cafe")


def test_one_line():
    assert one_line("a\r\n\tb\x07\ud800") == "a␍⏎⇥b��"


def test_scripts_name_a_font_each():
    assert missing_scripts("東の한😀ภशم\ue000") == {
        "CJK": "Noto Sans CJK",
        "emoji": "Symbola",
        "Thai": "Noto Sans Thai",
        "Devanagari": "Noto Sans Devanagari",
        "Arabic": "Noto Sans Arabic",
        "symbols": "Symbola",
    }
