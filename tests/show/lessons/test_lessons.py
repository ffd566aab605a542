"""Lessons: the same numbers in both languages, whole Markdown whatever the tokens, the text that fits the numbers."""

from __future__ import annotations

import dataclasses
import re
import string
from dataclasses import replace

import pytest
import torch
from markdown_it import MarkdownIt
from rich.cells import cell_len
from rich.text import Text

import attnviz
from attnviz.attention.patterns import Full, longformer
from attnviz.show.lessons import LANGUAGES, lesson, number, number_short
from attnviz.show.lessons.terminal import broken

TOKENS = ["[CLS]", "注意", "a|b", "`x`", "``", " Ġthe", "", "  ", "*b*", "<i>", "\x1b[31m", "a\\|", "line\nbreak"]


def explanations() -> dict[str, attnviz.Explanation]:
    """One of each kind, so that every text is used."""
    plain = attnviz.synthesize(dtype="float64")
    wide = attnviz.synthesize(heads=4, kv_heads=2, tokens=20, head_dim=8, batch=2, dtype="float64")
    wide = replace(
        wide,
        v=wide.v[..., :6],
        q_global=wide.q.flip(2),
        k_global=wide.k.flip(2),
        softcap=3.0,
        bias=torch.ones(1, 1, 1),
        alibi_slopes=torch.ones(4),
        sinks=torch.ones(4),
    )
    # Weights spread over many keys by logits that are small even where they are not divided.
    even = attnviz.synthesize(tokens=64, head_dim=2, dtype="float64")
    return {
        "plain": attnviz.explain(plain, head=2, query=5),
        "modified": attnviz.explain(wide, query=3, pattern=longformer(1), batch=1),
        "scaled": attnviz.explain(replace(plain, scale=0.5, v=None)),
        "sink": attnviz.explain(replace(plain, sinks=torch.ones(8))),
        "one": attnviz.explain(attnviz.synthesize(head_dim=1)),
        "many": attnviz.explain(attnviz.synthesize(tokens=30), pattern=Full()),
        "faint": attnviz.explain(replace(plain, q=plain.q / 1e4)),
        "even": attnviz.explain(replace(even, q=even.q / 2), pattern=Full()),
    }


@pytest.fixture(scope="module")
def every() -> dict[str, attnviz.Explanation]:
    return explanations()


def names(text: str | tuple[str, ...]) -> list[set[str]]:
    """The ``{names}`` of each text."""
    texts = [text] if isinstance(text, str) else text
    return [{name for _, name, _, _ in string.Formatter().parse(part) if name} for part in texts]


TEXTS = [field.name for field in dataclasses.fields(LANGUAGES["en"]) if field.name != "figure_words"]


@pytest.mark.sweep(keep=29)
@pytest.mark.parametrize("field", TEXTS)
def test_both_languages_tell_the_same_numbers(field):
    english, japanese = (getattr(LANGUAGES[language], field) for language in ("en", "ja"))
    assert names(english) == names(japanese)


def test_every_text_is_used(every):
    from collections.abc import Callable

    class Watched:
        def __init__(self, words: object, seen: set[str]) -> None:
            self.words, self.seen = words, seen

        def __getattr__(self, name: str) -> object:
            self.seen.add(name)
            return getattr(self.words, name)

    from attnviz.show import lessons

    seen: set[str] = set()
    write: Callable[..., object] = lessons._Lesson
    for explanation in every.values():
        write(explanation, Watched(LANGUAGES["en"], seen), {"map": "map.png", "row": "row.png"}).markdown()
    assert seen | {"map_note", "row_note"} == {*TEXTS}  # titles of figures


@pytest.mark.parametrize("kind", ["plain", "modified", "scaled", "sink", "one", "many", "faint", "even"])
def test_both_languages_have_the_same_tables_and_code(every, kind):
    def bones(language: str) -> list[object]:
        found: list[object] = []
        for token in MarkdownIt().enable("table").parse(lesson(every[kind], language)):
            if token.type in ("heading_open", "tr_open", "td_open", "paragraph_open"):
                found.append((token.type, token.tag))
            elif token.type == "fence" and token.info == "python":
                found.append([line.partition("#")[0].rstrip() for line in token.content.splitlines()])
            elif token.type == "inline":
                found.append(sorted(re.findall(r"-?\d+\.\d{4}|\d+\.\d%", token.content)))
        return found

    assert bones("en") == bones("ja")


def test_the_loops_run_and_give_the_dot_product(every):
    explanation = every["plain"]
    _, code, _ = re.findall(
        r"```python\n(.*?)```", lesson(explanation), flags=re.DOTALL
    )  # the formula, its loops, and the whole of it
    inputs = attnviz.synthesize(dtype="float64")
    k_g = inputs.k[0][:, inputs.global_mask[0]]
    values = {"q": inputs.q[0].numpy(), "k_g": k_g.numpy(), "dot": torch.zeros(8, 10, 3, dtype=torch.float64).numpy()}
    exec(code, values)
    assert values["dot"][2, 5, explanation.key.number - 1] == pytest.approx(explanation.dot)
    assert values["dot"] == pytest.approx(torch.einsum("htd,hgd->htg", inputs.q[0], k_g).numpy())


@pytest.mark.parametrize("language", ["en", "ja"])
def test_any_token_leaves_the_tables_whole(language):
    n = len(TOKENS)
    inputs = attnviz.synthesize(tokens=n, head_dim=4, global_positions=range(1, n))
    text = lesson(attnviz.explain(replace(inputs, tokens=[TOKENS])), language)
    cells: list[int] = []
    for token in MarkdownIt().enable("table").parse(text):
        if token.type == "table_close":
            assert len({*cells}) == 1
        cells = [] if token.type == "table_open" else [*cells, 0] if token.type == "tr_open" else cells
        if token.type in ("td_open", "th_open"):
            cells[-1] += 1
        for child in token.children or []:
            assert child.type in ("text", "code_inline", "strong_open", "strong_close", "softbreak")
    shown = [
        child.content
        for token in MarkdownIt().enable("table").parse(text)
        for child in token.children or []
        if child.type == "code_inline"
    ]
    for token in ("注意", "a|b", "`x`", "``", "∅", "␣␣", "*b*", "<i>", "�[31m", "a\\|", "line⏎break"):
        assert token in shown


def test_the_verdict_on_the_gradient_is_what_was_measured(every):
    plain = every["plain"]

    def verdict(divided: float, not_divided: float) -> str:
        one, other = plain.measures
        measures = (replace(one, gradient=divided), replace(other, gradient=not_divided))
        return lesson(replace(plain, measures=measures))

    assert "makes the gradient 3 times as large" in verdict(0.3, 0.1)
    assert "makes the gradient smaller, 0.5 times the size" in verdict(0.1, 0.2)
    assert "hardly changes the gradient" in verdict(0.2, 0.2)
    assert "Here the division" not in verdict(0.0, 0.0)


def test_the_variance_of_independent_numbers_is_spoken_of_only_where_a_logit_is_the_scaled_dot_product(every):
    said = {kind: "If the numbers in q and k were independent" in lesson(found) for kind, found in every.items()}
    assert said == {
        "plain": True,
        "modified": False,
        "scaled": False,
        "sink": True,
        "one": False,
        "many": True,
        "faint": True,
        "even": True,
    }


def test_many_keys_are_the_largest_weights_and_the_rest_in_one_row(every):
    found = attnviz.explain(attnviz.synthesize(tokens=200, dtype="float64"), pattern=Full(), query=100, key=7)
    text = lesson(found)
    rows = re.findall(
        r"^\| \**(\d+|other \d+|sum)\** \|.*\| \**([\d.e-]+)\** \|$", text.split("## 5.")[1].split("## 6.")[0], re.M
    )
    assert [name for name, _ in rows][-2:] == ["other 188", "sum"]
    assert "7" in [name for name, _ in rows]
    assert sum(float(weight) for _, weight in rows[:-1]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0000"),
        (-0.0, "0.0000"),
        (1.23456, "1.2346"),
        (0.00005, "0.0001"),
        (0.000012345, "1.23e-05"),
        (-123456.0, "-123456.0000"),
        (1234567.0, "1.23e+06"),
    ],
)
def test_numbers_keep_what_they_say(value, text):
    assert number(value) == text


def test_short_numbers():
    assert [number_short(value) for value in (8.0, 0.125, 5.656854, 11.3137085)] == ["8", "0.125", "5.6569", "11.314"]


@pytest.mark.parametrize("width", [20, 37, 80])
@pytest.mark.parametrize("language", ["en", "ja"])
def test_paragraphs_break_within_the_width_and_lose_nothing(every, width, language):
    for paragraph in lesson(every["modified"], language).split("\n\n"):
        if paragraph.startswith(("#", "|", "```")):
            continue
        lines = broken(Text(paragraph), width).plain.split("\n")
        assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", paragraph)
        for line in lines:
            assert cell_len(line) <= width or " " not in line.strip()
            assert not line.startswith(tuple("、。）」"))
            assert not line.endswith(tuple("（「"))


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize(("pattern", "kv_heads"), [("global", 4), ("full", 4), ("global", 2)])
def test_the_formula_of_a_lesson_runs_and_gives_its_dot_product(language, pattern, kv_heads):
    inputs = attnviz.synthesize(heads=4, kv_heads=kv_heads, tokens=6, head_dim=8, global_positions=(0, 3))
    explanation = attnviz.explain(inputs, head=2, query=4, pattern=pattern)
    text = attnviz.show.lessons.lesson(explanation, language)
    formula = re.search(r"^dot = (torch\.einsum\(.*\))$", text, flags=re.MULTILINE)[1]
    k = inputs.k[0]
    dots = eval(formula, {"torch": torch, "q": inputs.q[0], "k": k, "k_g": k[:, inputs.global_mask[0]]})
    index = explanation.key.position if explanation.key.number is None else explanation.key.number - 1
    assert float(dots[2, 4, index]) == pytest.approx(sum(term.product for term in explanation.terms), rel=1e-5)
    assert "attnviz pattern --story" in text.splitlines()[-1]


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_whole_of_it_runs_as_it_stands_and_prints_what_is_said(every, language, capsys):
    text = lesson(every["many"], language)
    code = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[-1]
    exec(code, {})
    printed = capsys.readouterr().out
    assert printed == "torch.Size([8, 10, 3]) True torch.Size([8, 10, 64])\n"
    assert f"```text\n{printed}```" in text.split(code)[1]


@pytest.mark.parametrize("kind", ["plain", "modified", "scaled", "sink", "one", "many"])
def test_every_letter_of_a_shape_is_said_and_what_it_counts(every, kind):
    text = lesson(every[kind])
    said = dict(re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", text, flags=re.MULTILINE))
    shapes = re.findall(r"\| \(([A-Z]\w*(?:, \w+)*),?\) = \(([\d, ]+?),?\) \|", text)
    assert len(shapes) >= 4
    for letters, sizes in shapes:
        assert [said[letter] for letter in letters.split(", ")] == sizes.split(", ")


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize(("tokens", "heads"), [(1, 1), (1, 2), (2, 1)])
def test_one_of_a_thing_is_said_in_the_singular(tokens, heads, language):
    inputs = attnviz.synthesize(tokens=tokens, heads=heads, head_dim=1, global_positions=[0])
    for pattern in ("global", "full"):
        text = lesson(attnviz.explain(inputs, pattern=pattern), language)
        assert not re.search(r"(?<![\d.,])1 (head|query head|key|global key|dot product|number|logit|component)s", text)


@pytest.mark.parametrize("kind", ["plain", "modified", "scaled", "sink", "one", "many", "faint"])
def test_the_formulas_of_a_row_give_its_numbers(every, kind):
    e, text = every[kind], lesson(every[kind])
    logits = torch.tensor([key.logit for key in e.keys] + [e.sink] * (e.sink is not None), dtype=torch.float64)
    at = next(n for n, key in enumerate(e.keys) if key == e.key)
    weight = re.search(r"^weight = (.*)$", text, flags=re.MULTILINE)[1]
    named = {"exp": torch.exp, "logit": logits, "max": float(logits.max()), "sum": torch.sum}
    assert float(eval(weight, named)[at]) == pytest.approx(e.key.weight, rel=1e-5)
    if e.context is None:
        return
    context = re.search(r"^context\[.*?\] = (.*)$", text, flags=re.MULTILINE)[1]
    kept = [n if e.G is not None else key.position for n, key in enumerate(e.keys)]
    width = max(kept) + 1
    weights, values = torch.zeros(e.H, e.T, width), torch.zeros(e.H_kv, width, len(e.key.value), dtype=torch.float64)
    for n, key in zip(kept, e.keys, strict=True):
        weights[e.head, e.query, n] = key.weight
        values[e.kv_head, n] = torch.tensor(key.value)
    names = {"weight": weights, "v": values, "v_g": values, "visible": lambda query: kept}
    for d, value in enumerate(e.context[: len(e.key.value)]):
        assert float(eval(context, {**names, "d": d})) == pytest.approx(value, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("kind", ["plain", "modified", "many", "faint"])
def test_the_dot_product_is_two_lengths_and_a_cosine(every, kind):
    e = every[kind]
    q, k = (torch.tensor([getattr(term, name) for term in e.terms], dtype=torch.float64) for name in "qk")
    cosine = torch.nn.functional.cosine_similarity(q, k, dim=0)
    wanted = [float(q.norm()), float(k.norm()), float(cosine), e.dot]
    assert f"{' × '.join(map(number, wanted[:3]))} = {number(e.dot)}" in lesson(e)
    zero = [replace(term, q=0.0, product=0.0) for term in e.terms]
    assert "cosine" not in lesson(replace(e, terms=tuple(zero), dot=0.0))


def test_columns_that_are_left_out_of_the_table_are_dots(every):
    inputs = attnviz.synthesize(tokens=30, head_dim=4)
    for key, heads in ((0, "0 1 … 29"), (9, "0 … 8 9 10 … 29"), (2, "0 1 2 3 … 29"), (29, "0 … 28 29")):
        text = lesson(attnviz.explain(inputs, key=key, pattern=Full()))
        rows = [line.strip("| ").split(" | ") for line in text.split("### ")[1].splitlines() if line.startswith("|")]
        assert rows[0] == heads.split()
        assert {len(row) for row in rows[2:]} == {len(rows[0]) + 2}
        assert {cell for row in rows[2:] for head, cell in zip(rows[0], row[2:], strict=True) if head == "…"} <= {
            "…",
            "⋮",
        }


@pytest.mark.parametrize("kind", ["plain", "modified", "sink", "many"])
def test_the_formula_is_taken_apart_letter_by_letter(every, kind):
    text = lesson(every[kind])
    equation = re.search(r'einsum\("(.*?)"', text)[1]
    inputs, output = equation.split("->")
    q, k = inputs.split(",")
    rows = re.findall(r"^\| `(\w)` \| .* \| (.*) \| (.*) \| (.*) \| (.*) \|$", text, flags=re.MULTILINE)
    assert [letter for letter, *_ in rows] == [*dict.fromkeys(q[:-1] + k[1] + "d")]
    for letter, *stands, role in rows:
        assert [cell.strip() == f"`{letter}`" for cell in stands] == [letter in where for where in (q, k, output)]
        assert ("summed" in role) == (letter not in output)


def test_a_distance_is_that_of_positions(every):
    inputs = attnviz.synthesize(tokens=6, head_dim=4, dtype="float64")
    places = torch.tensor([[0, 10, 20, 30, 40, 50]])
    inputs = replace(inputs, alibi_slopes=torch.ones(8), query_positions=places, key_positions=places)
    text = lesson(attnviz.explain(inputs, query=4, key=1, pattern=Full()))
    assert "- 1 * 30`" in text


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("kind", ["plain", "modified", "many"])
def test_every_token_that_is_spoken_of_is_in_quotes(every, language, kind):
    text = lesson(every[kind], language)
    prose = re.sub(
        r"```.*?```", "", "\n".join(line for line in text.splitlines() if not line.startswith("|")), flags=re.S
    )
    left, right = ('"', '"') if language == "en" else ("「", "」")
    spoken = re.findall(r"(.)`t\d+`(.)", prose)
    assert spoken
    assert {*spoken} == {(left, right)}


def test_japanese_says_of_what_each_row_is():
    words = LANGUAGES["ja"]
    for text in (words.queries, words.keys, words.values, words.scores, words.global_keys, words.global_values):
        assert re.search(r"(クエリ|キー|バリュー|ロジット)$", text)
    whole = repr(words)
    assert "グローバルの" not in whole
    assert "グローバルキー" not in whole
