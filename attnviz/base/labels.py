"""Tokens as a reader expects them: the marks of tokenizers turned back into spaces, line ends and letters.

Byte-level BPE (GPT-2, Llama 3, Qwen) writes each byte of UTF-8 as a printable letter: ``Ġ`` is a space, ``Ċ`` a line
end, ``Ã©`` the two bytes of ``é``. SentencePiece (Llama 2, T5, Gemma) writes ``▁`` for a space and ``<0x0A>`` for a
byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

SPACE = "␣"
"""What stands for a space that belongs to a token."""

_BYTE_MARKS = ("Ġ", "Ċ", "ĉ")  # space, line end, tab
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


def readable(tokens: Sequence[str]) -> list[str]:
    """Tokens as a reader expects them; those of no known tokenizer as they are.

    Args:
        tokens: of one tokenizer: whether ``Ã©`` is a letter or two bytes shows in the others.

    >>> readable(["The", "Ġcaf", "Ã©", "Ċ"])
    ['The', '␣caf', 'é', '\\n']
    >>> readable(["Ã©", "▁the", "<0x0A>"])
    ['Ã©', '␣the', '\\n']
    """
    if any(token.startswith(_BYTE_MARKS) for token in tokens):
        return [_of_bytes(token) for token in tokens]
    return [_of_pieces(token) for token in tokens]


def missing_scripts(letters: Iterable[str]) -> dict[str, str]:
    """The scripts of letters, each with a font that has it: for whoever has to install one.

    >>> missing_scripts("東 ก")
    {'CJK': 'Noto Sans CJK', 'Thai': 'Noto Sans Thai'}
    """
    import unicodedata

    fonts: dict[str, str] = {}
    for letter in letters:
        name = unicodedata.name(letter, "")
        first = name.split(" ")[0].capitalize()
        if letter.isspace():
            continue
        if first in ("Cjk", "Hiragana", "Katakana", "Hangul", "Fullwidth", "Ideographic", "Bopomofo"):
            fonts["CJK"] = "Noto Sans CJK"
        elif ord(letter) >= 0x1F000 and unicodedata.category(letter) in ("So", "Sk", "Cn"):
            fonts["emoji"] = "Symbola"  # matplotlib draws no font of color pictures
        elif unicodedata.category(letter).startswith("L") and ord(letter) > 0x24F and name:
            fonts[first] = f"Noto Sans {first}"
        else:
            fonts["symbols"] = "Symbola"
    return fonts


@cache
def _byte_of() -> dict[str, int]:
    """The byte that each letter of byte-level BPE stands for (``bytes_to_unicode`` of GPT-2)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in plain)
    return {chr(byte): byte for byte in plain} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


def _of_bytes(token: str) -> str:
    table = _byte_of()
    if any(letter not in table for letter in token):  # added to the vocabulary as it is
        return token
    text = bytes(table[letter] for letter in token).decode("utf-8", errors="surrogateescape")
    return "".join(_part(letter) for letter in text)


def _part(letter: str) -> str:
    """A letter; what is only a part of one, as its byte."""
    return f"⟨{ord(letter) - 0xDC00:02X}⟩" if 0xDC80 <= ord(letter) <= 0xDCFF else letter.replace(" ", SPACE)


def _of_pieces(token: str) -> str:
    byte = _BYTE_TOKEN.fullmatch(token)
    if byte:
        value = int(byte[1], 16)
        return chr(value).replace(" ", SPACE) if value < 0x80 else f"⟨{value:02X}⟩"
    return token.replace("▁", SPACE)
