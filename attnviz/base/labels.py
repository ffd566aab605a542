"""Tokens as a reader expects them: one place that knows how tokenizers write spaces, bytes and parts of words.

A tokenizer writes its tokens in one of a few forms (:data:`FORMS`). Byte-level BPE (GPT-2, Llama 3, Qwen) writes each
byte of UTF-8 as a printable letter: ``Ġ`` is a space, ``Ċ`` a line end, ``Ã©`` the two bytes of ``é``. SentencePiece
(Llama 2, T5, Gemma) writes ``▁`` for a space and ``<0x0A>`` for a byte. WordPiece (BERT) writes ``##`` before what
goes on with a word. The form is said beside the tokens; it is never guessed from them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from attnviz.base.errors import InputError
from attnviz.base.words import printable

FORMS = ("plain", "byte-level", "sentencepiece", "wordpiece")
"""How a tokenizer writes its tokens; ``plain`` tokens are text already."""

SPACE = "␣"
"""What stands for a space that belongs to a token."""

CONTINUES = "##"
"""What WordPiece writes before a token that goes on with a word."""

_SPACED = "spaced"  # plain tokens that bring spaces of their own

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


def readable(
    tokens: Sequence[str], form: str = "plain", *, special: Collection[int] = (), space: str = SPACE
) -> list[str]:
    """Tokens as a reader expects them, each by itself; a byte that is only a part of a letter is ``⟨E6⟩``.

    Args:
        tokens: as the tokenizer has them.
        form: the form that they are in, one of :data:`FORMS`.
        special: indices of tokens that are outside of the form (``<|endoftext|>``), which stay as they are.
        space: what stands for a space that belongs to a token; a plain token's own spaces stay.

    >>> readable(["The", "Ġcaf", "Ã©", "Ċ"], "byte-level")
    ['The', '␣caf', 'é', '\\n']
    >>> readable(["▁the", "<0x0A>", "<0xE6>"], "sentencepiece")
    ['␣the', '\\n', '⟨E6⟩']
    >>> readable(["Ã©", "Ġcaf", "▁the"])
    ['Ã©', 'Ġcaf', '▁the']
    """
    if form in ("plain", "wordpiece"):
        return list(tokens)
    if not special:
        return [_text(token, form, space) for token in tokens]
    return [token if n in special else _text(token, form, space) for n, token in enumerate(tokens)]


@dataclass(frozen=True)
class Tokens:
    """The tokens of one sequence as its tokenizer has them, and what it says of them.

    Args:
        raw: the tokens.
        form: the form that they are in, one of :data:`FORMS`.
        word_ids: for each the number of its word, None where it is of none (special tokens); None is not known.
        special: positions of special tokens.

    >>> tokens = Tokens(["[CLS]", "un", "##friend", "##ly", "cats"], "wordpiece", [None, 0, 0, 0, 1], [0])
    >>> tokens.find("unfriendly", option="--strip", noun="query", source="run.npz")
    range(1, 4)
    """

    raw: Sequence[str]
    form: str = "plain"
    word_ids: Sequence[int | None] | None = None
    special: Collection[int] = ()

    def labels(self, positions: Sequence[int] | None = None, *, space: str = SPACE) -> list[str]:
        """The tokens at ``positions``, or all, as a reader expects them; ``space`` as in :func:`readable`."""
        at = range(len(self.raw)) if positions is None else positions
        special = [n for n, position in enumerate(at) if position in self.special] if self.special else ()
        return readable([self.raw[position] for position in at], self.form, special=special, space=space)

    def at(self, positions: Sequence[int]) -> Tokens:
        """Those at ``positions``, in that order; an empty one where a position is negative."""
        words = None if self.word_ids is None else [None if n < 0 else self.word_ids[n] for n in positions]
        special = frozenset(place for place, n in enumerate(positions) if n in self.special) if self.special else ()
        return Tokens(["" if n < 0 else self.raw[n] for n in positions], self.form, words, special)

    def find(self, text: str, *, option: str, noun: str, source: str, instead: str | None = None) -> range:
        """The positions of the token, or of the tokens of the word, that ``text`` is.

        A word is looked for first, where it is known which tokens make one; then a token, with or without its mark of
        a space or of a continued word. Text that begins with such a mark is that token alone.

        Args:
            text: as a reader writes it: ``is``, ``␣is``, ``##ing``, ``tokenization``.
            option: the option's name, for the error.
            noun: what the positions are, ``query`` or ``key``, for the error.
            source: what the inputs are called, for the error.
            instead: what to write where the text names none, or several; None is a position.

        Raises:
            InputError: there is none, or several.
        """
        found = self._exactly(text) or self._words(text) or self._tokens(text)
        if len(found) == 1:
            return found[0]
        nouns = {"query": "queries"}.get(noun, f"{noun}s")
        listed = [f"{span.start}" if len(span) == 1 else f"{span.start}-{span.stop - 1}" for span in found]
        places = ", ".join(listed[:12]) + (", …" if len(listed) > 12 else "")
        what = f"is the token of {nouns} {places}" if found else f"is no {noun}'s token in {source}"
        instead = instead or f"name one by its position, 0 to {len(self.raw) - 1}"
        raise InputError(f"{option} {text!r} {what}; {instead}")

    def every(self, text: str) -> list[int]:
        """The positions of all tokens of this text, with or without its mark of a space or of a continued word.

        >>> Tokens(["Ġthe", "Ġcat", "the", "."], "byte-level").every("the")
        [0, 2]
        """
        found = self._exactly(text) or self._tokens(text)
        return [span.start for span in found]

    def words(self) -> list[range] | None:
        """The runs of tokens that are a word each, by their word ids or else by the marks of their form, every token in one.

        A token of no word is a run by itself. None where neither says what is a word.

        >>> Tokens(["[CLS]", "un", "##friendly", "cats"], "wordpiece", special=[0]).words()
        [range(0, 1), range(1, 3), range(3, 4)]
        """
        ids = self.word_ids
        if ids is None:
            spaced = self.form == "plain" and any(token.startswith(" ") for token in self.raw)
            if self.form == "plain" and not spaced:
                return None
            ids = word_ids(self.raw, _SPACED if spaced else self.form, self.special)
        starts = [n for n, word in enumerate(ids) if not n or word is None or word != ids[n - 1]]
        return [range(start, stop) for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True)]

    def text(self, span: range) -> str:
        """The text of several tokens that are a word, without spaces around it; of one that is all space, its label.

        >>> Tokens(["Ġun", "friend", "ly"], "byte-level").text(range(3))
        'unfriendly'
        """
        joined = self._joined(span)
        return joined.strip() or "".join(self.labels(span))

    def _exactly(self, text: str) -> list[range]:
        marked = text.replace(" ", SPACE) if self.form in ("byte-level", "sentencepiece") else text
        if not marked.startswith((SPACE, " ", CONTINUES)):
            return []
        return [range(n, n + 1) for n, label in enumerate(self.labels()) if label == marked]

    def _words(self, text: str) -> list[range]:
        if self.word_ids is None:
            return []
        spans: list[range] = []
        before: int | None = None
        for n, word in enumerate(self.word_ids):
            spans.append(range(spans.pop().start, n + 1) if word is not None and word == before else range(n, n + 1))
            before = word
        wanted = text.strip()
        # Joining is the slow part: only where the first token fits.
        starts = [_bare(label, self.form) for label in self.labels()]
        return [
            span
            for span in spans
            if wanted and _may_begin(wanted, starts[span.start]) and self._joined(span).strip() == wanted
        ]

    def _tokens(self, text: str) -> list[range]:
        wanted = _bare(text, self.form)
        return [range(n, n + 1) for n, label in enumerate(self.labels()) if _bare(label, self.form) == wanted]

    def _joined(self, span: range) -> str:
        """The text of several tokens, whole letters where they make some, without marks."""
        if len(span) == 1 and span[0] in self.special:
            return self.raw[span[0]]
        raw = [self.raw[n] for n in span]
        if self.form in ("byte-level", "sentencepiece"):
            return _shown(b"".join(_bytes(token, self.form) for token in raw))
        return "".join(token.removeprefix(CONTINUES) if self.form == "wordpiece" else token for token in raw)


def spaced(labels: Sequence[str], form: str) -> list[tuple[bool, str]]:
    """Whether there is a space before each label in its text, and the label without the mark that says so.

    Args:
        labels: of tokens in reading order, as :func:`readable` gives them.
        form: the form that the tokens were in. Plain tokens are words, unless they bring spaces of their own.

    >>> spaced(["The", "␣cat", "s"], "byte-level"), spaced(["cat", "##s"], "wordpiece")
    ([(False, 'The'), (True, 'cat'), (False, 's')], [(True, 'cat'), (False, 's')])
    """
    if form == "wordpiece":
        return [(not label.startswith(CONTINUES), label.removeprefix(CONTINUES) or label) for label in labels]
    if form == "plain":
        own = any(label.startswith(" ") for label in labels)
        return [(label.startswith(" ") or not own, label.removeprefix(" ") if own else label) for label in labels]
    return [(label.startswith(SPACE), label.removeprefix(SPACE) or label) for label in labels]


def word_ids(tokens: Sequence[str], form: str, special: Collection[int] = ()) -> list[int | None]:
    """The number of each token's word, from 0; None for special tokens.

    A word begins where there is a space, after a line end or a special token, and where letters and digits give way to
    other signs or the other way around; of WordPiece, at each token without ``##``.

    >>> word_ids(["The", "Ġun", "friendly", "Ġcat", "."], "byte-level")
    [0, 1, 1, 2, 3]
    """
    found: list[int | None] = []
    number, before = -1, ""  # the text of the token before; nothing after a special one
    for n, token in enumerate(tokens):
        if n in special:
            found.append(None)
            before = ""
            continue
        text = token if form in ("plain", _SPACED, "wordpiece") else _text(token, form, " ")
        number += not _goes_on(before, text, form)
        found.append(number)
        before = text
    return found


def _goes_on(before: str, text: str, form: str) -> bool:
    if not before or not text or form == "plain":
        return False
    if form == "wordpiece":
        return text.startswith(CONTINUES)
    if text[0].isspace():
        return False
    return before == " " or (not before[-1].isspace() and _in_words(before[-1]) == _in_words(text[0]))


def _in_words(letter: str) -> bool:
    """Whether a letter is one of words and numbers; brackets of a part of a letter count as such."""
    return unicodedata.category(letter)[0] in "LMN" or letter in "⟨⟩"


def one_line(label: str) -> str:
    """A label on one line: marks for line ends and tabs, and for what can't be shown.

    >>> one_line("a\\nb\\x00")
    'a⏎b�'
    """
    plain = label.replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍").replace("\u2028", "⏎").replace("\u2029", "⏎")
    return printable(plain)


def position_said(noun: str, position: int, label: str | None) -> str:
    """A position and its token, where it has one, as titles and notes have them.

    >>> position_said("query", 8, "it"), position_said("key", 0, None)
    ('query 8 (it)', 'key 0')
    """
    return f"{noun} {position}" if label is None else f"{noun} {position} ({one_line(label).strip(SPACE) or SPACE})"


def quoted(label: str) -> str:
    """A label on one line in quotes, its letters as they are, those that join two among them.

    >>> print(quoted("a\\nb"), quoted("it's"))
    'a⏎b' "it's"
    """
    plain = one_line(label)
    return f'"{plain}"' if "'" in plain and '"' not in plain else f"'{plain}'"


def labels_of_both(a: Sequence[str] | None, b: Sequence[str] | None) -> Sequence[str] | None:
    """The labels of two sides: ``tired / wide`` where they are not the same; of one alone where the other has none.

    >>> labels_of_both(["too", "tired"], ["too", "wide"])
    ['too', 'tired / wide']
    """
    if a is None or b is None:
        return b if a is None else a
    return [one if one == other else f"{one} / {other}" for one, other in zip(a, b, strict=True)]


def same_label(a: str, b: str) -> bool:
    """Whether two labels are of one token, one of them perhaps as attnviz wrote labels before it read their form.

    Then a token stood there as the tokenizer has it, or with ``Ġ``, ``▁`` and ``Ċ`` alone made into spaces and a line
    end.

    >>> same_label("␣café", " cafÃ©"), same_label("␣café", "Ġcafé"), same_label("␣the", "␣a")
    (True, True, False)
    """
    return a == b or not _readings(a).isdisjoint(_readings(b))


def _readings(label: str) -> set[str]:
    """What a label may say: as it is, and read by each form, also where its spaces are read already."""
    raw = label.replace(" ", "Ġ").replace("\n", "Ċ").replace(SPACE, "Ġ")
    pieces = label.replace(" ", "▁").replace(SPACE, "▁")
    return {
        label,
        pieces.replace("▁", SPACE),
        *readable([raw, label], "byte-level"),
        *readable([pieces], "sentencepiece"),
    }


def missing_scripts(letters: Iterable[str]) -> dict[str, str]:
    """The scripts of letters, each with a font that has it: for whoever has to install one.

    >>> missing_scripts("東 ก")
    {'CJK': 'Noto Sans CJK', 'Thai': 'Noto Sans Thai'}
    """
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


@lru_cache(maxsize=1 << 16)  # a long text has few tokens, many times each
def _text(token: str, form: str, space: str) -> str:
    """A token as a reader expects it, of a form that has to be read."""
    return _shown(_bytes(token, form)).replace(" ", space)


def _bytes(token: str, form: str) -> bytes:
    """The UTF-8 that a token stands for, or a part of it."""
    if form == "byte-level":
        table = _byte_of()
        if all(letter in table for letter in token):
            return bytes(table[letter] for letter in token)
        return token.encode("utf-8", "surrogatepass")  # added to the vocabulary as it is
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode("utf-8", "surrogatepass")


def _shown(text: bytes) -> str:
    """UTF-8 as text, with each byte that is no whole letter by its number."""
    letters = text.decode("utf-8", errors="surrogateescape")
    return "".join(f"⟨{ord(one) - 0xDC00:02X}⟩" if 0xDC80 <= ord(one) <= 0xDCFF else one for one in letters)


def _bare(label: str, form: str) -> str:
    """A label without the marks before and after it."""
    return label.removeprefix(CONTINUES if form == "wordpiece" else "").strip(SPACE + " ")


def _may_begin(text: str, start: str) -> bool:
    """Whether a text may begin with a token, which may be a part of its first letter."""
    return text.startswith(start) or "⟨" in start
