"""Tokens as a reader expects them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnviz.base.labels import SPACE, missing_scripts, readable


def gpt2(text: str) -> str:
    """The letters that GPT-2 writes for the bytes of a text, after ``bytes_to_unicode`` of its encoder.py."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters, n = {byte: chr(byte) for byte in own}, 0
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(256 + n)
            n += 1
    return "".join(letters[byte] for byte in text.encode())


@given(st.text(st.characters(codec="utf-8"), max_size=8))
def test_byte_level_tokens_come_back(text):
    assert readable(["Ġa", gpt2(text)])[1] == text.replace(" ", SPACE)


@pytest.mark.parametrize(
    ("tokens", "shown"),
    [
        (["Ġthe", "Ċ", "ĉ"], ["␣the", "\n", "\t"]),
        (["Ġa", gpt2("日")[:2], gpt2("日")[2:]], ["␣a", "⟨E6⟩⟨97⟩", "⟨A5⟩"]),
        (["Ġa", "<|endoftext|>", "東"], ["␣a", "<|endoftext|>", "東"]),
        (["▁the", "▁▁", "s"], ["␣the", "␣␣", "s"]),
        (["▁a", "<0x0A>", "<0x20>", "<0xE6>"], ["␣a", "\n", "␣", "⟨E6⟩"]),
        (["##ing", "Ã©", "naïve", "[CLS]"], ["##ing", "Ã©", "naïve", "[CLS]"]),
        ([], []),
    ],
)
def test_marks_of_tokenizers(tokens, shown):
    assert readable(tokens) == shown


def test_scripts_name_a_font_each():
    assert missing_scripts("東の한😀ภशم\ue000") == {
        "CJK": "Noto Sans CJK",
        "emoji": "Symbola",
        "Thai": "Noto Sans Thai",
        "Devanagari": "Noto Sans Devanagari",
        "Arabic": "Noto Sans Arabic",
        "symbols": "Symbola",
    }
