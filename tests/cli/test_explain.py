"""``attnviz explain``: its options, and what each misuse says."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import attnviz
from attnviz.show.lessons import lesson
from tests.cases import arrays, small


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_markdown_is_the_lesson_on_stdout_and_nothing_else(run, dump, lang):
    arguments = ("--head", 2, "--query", 5, "--key", 2, "--batch", 1)
    result = run("explain", dump, *arguments, "--lang", lang, "--format", "markdown")
    found = attnviz.explain(attnviz.load(dump), head=2, query=5, key=2, batch=1)
    assert (result.code, result.out, result.err) == (0, lesson(found, lang), "")


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("lang", ["en", "ja"])
def test_the_terminal_shows_it_within_its_width(run, dump, monkeypatch, width, lang):
    from rich.cells import cell_len

    monkeypatch.setenv("COLUMNS", f"{width}")
    result = run("explain", dump, "--lang", lang)
    assert result.code == 0
    assert max(map(cell_len, result.out.splitlines())) <= width
    assert "…" not in result.out
    assert "**" not in result.out


def test_without_a_source_it_explains_the_synthetic_case(run):
    result = run("explain", "--head", 2, "--query", 5, "--key", 1)
    assert result.code == 0
    assert "no SOURCE" in result.err
    assert 'head 2, query 5 "t5", Global #1 (position 0 "t0")' in result.out


def test_a_pattern_with_a_band_takes_a_position(run, dump):
    result = run("explain", dump, "--pattern", "local+global", "--window", 1, "--query", 5, "--key", 4)
    assert result.code == 0
    assert 'key 4 "t4"' in result.out


def test_the_dtype_rounds_the_inputs_first(run, dump):
    result = run("explain", dump, "--dtype", "float16", "--format", "markdown")
    assert "Computed in float32" in result.out
    assert result.out != run("explain", dump, "--format", "markdown").out


def test_a_file_without_v_ends_with_the_weights(run, folder):
    np.savez(folder / "dump.npz", **arrays(v=None))
    result = run("explain", "dump.npz")
    assert result.code == 0
    assert "has no v" in result.out


@pytest.mark.sweep(keep=6)
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--head", 4], r"dump.safetensors: head 4 is out of range; there are 4 \(0 to 3\)"),
        (["--head", -1], r"head -1 is out of range"),
        (["--head", "0,1"], r"'--head'.*integer.*see attnviz explain --help"),
        (["--batch", 2], r"batch item 2 is out of range; there are 2 \(0 to 1\)"),
        (["--batch", "all"], r"'--batch'.*integer"),
        (["--query", 6], r"query 6 is out of range; there are 6 \(0 to 5; --query\)"),
        (["--query", "the"], r"--query 'the' is no query's token in .*; name one by its position, 0 to 5"),
        (["--key", 3], r"key 3 is out of range; global keys are counted from 1, and there are 2: Global #1 to #2 \(--key\)"),
        (["--key", 0], r"key 0 is out of range; global keys are counted from 1"),
        (["--key", "first"], r"--key 'first' is no key's token in .*; name one by its position, 0 to 5"),
        (["--pattern", "full", "--key", 6], r"key 6 is out of range; under the pattern full a key is a position, 0 to 5"),
        (["--causal", "--query", 2, "--key", 2], r"query 2 does not see Global #2 \(position 3\) under .*; it sees 1 "),
        (["--pattern", "local", "--window", 1, "--query", 5, "--key", 0], r"it sees 4, 5 \(--key\)"),
        (["--pattern", "causal", "--global", "0", "--query", 0, "--key", 1], r"query 0 does not see key position 1"),
        (["--causal", "--global", "3", "--query", 1], r"query 1 sees no key: the pattern global, causal shows it none"),
        (["--pattern", "local"], r"--pattern local needs --window"),
        (["--lang", "fr"], r"--lang 'fr' is not one of en, ja"),
        (["--format", "html"], r"--format 'html' is not one of terminal, markdown"),
        (["--device", "tpu"], r"--device 'tpu' is not a device"),
        (["--dtype", "int8"], r"--dtype 'int8' is not one of"),
        (["--scale", -1], r"scale is -1.0, wanted a finite number above 0"),
    ],
)  # fmt: skip
def test_a_misuse_is_one_line(run, dump, arguments, says):
    result = run("explain", dump, *arguments)
    assert (result.code, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert re.search(says, line), line


def test_a_padded_query_is_refused(run, folder):
    import torch

    exists = torch.arange(6) < 5
    inputs = small()
    attnviz.save("padded.npz", attnviz.AttentionInputs(inputs.q, inputs.k, global_mask=inputs.global_mask,
                                                       key_padding_mask=exists.repeat(2, 1)))  # fmt: skip
    result = run("explain", "padded.npz", "--query", 5)
    assert (result.code, result.out) == (2, "")
    assert "padded.npz: query 5 sees no key: it is padding; choose another query (--query)" in result.err


def test_help_shows_an_example(run):
    result = run("explain", "--help")
    assert result.code == 0
    assert "attnviz explain dump.safetensors --head 2 --query 5 --key 1" in " ".join(result.out.split())


def test_a_lesson_is_written_with_its_figures(run, dump):
    from PIL import Image

    from attnviz.show.figures.about import read_about

    options = ("--head", 2, "--lang", "ja", "--pattern", "causal")
    result = run("explain", dump, *options, "-o", "lesson one.md", "--dpi", 60, "--title", "A *lesson*")
    assert (result.code, result.out) == (0, "")
    assert "wrote lesson one-map.png, lesson one-row.png, lesson one.md" in result.err
    text = Path("lesson one.md").read_text()
    assert text.startswith("# A \\*lesson\\*\n")
    assert re.findall(r"!\[.+\]\((.+)\)", text) == ["lesson%20one-map.png", "lesson%20one-row.png"]
    for name in ("map", "row"):
        file = Path(f"lesson one-{name}.png")
        assert read_about(file).settings["kind"] == "explain"
        assert "クエリ" in read_about(file).words
        with Image.open(file) as picture:
            assert round(picture.info["dpi"][0]) == 60


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_page_of_a_lesson_needs_nothing_else(run, dump, theme):
    tokens = [["<b>", "&", "|", "`", "$x$", "#"]] * 2
    attnviz.save("odd.safetensors", replace(attnviz.load(dump), tokens=tokens))
    result = run("explain", "odd.safetensors", "--pattern", "full", "--theme", theme, "-o", "lesson.html", "--caption")
    assert result.code == 0, result.err
    page = Path("lesson.html").read_text()
    assert page.count('<img src="data:image/svg+xml;base64,') == 2
    assert not re.search(r"(src|href)=\"(?!data:image)", page)
    assert "<script" not in page
    assert "<b>" not in page
    svg = [base64.b64decode(one).decode() for one in re.findall(r"base64,([\w+/=]+)", page)]
    assert all("<svg " in one for one in svg)
    assert [re.search(r'alt="(.*?)"', one)[1] != "" for one in re.findall(r"<img [^>]*>", page)] == [True, True]


def test_a_figure_of_a_lesson_speaks_its_language(run, dump):
    run("explain", dump, "--lang", "ja", "--pattern", "causal", "-o", "lesson.html")
    svg = "".join(
        base64.b64decode(one).decode() for one in re.findall(r"base64,([\w+/=]+)", Path("lesson.html").read_text())
    )
    for word in ("キー", "クエリ", "重み（softmax）", "見えない"):
        assert f">{word}</text>" in svg
    assert not re.search(r">(key|query|weight \(softmax\)|not visible)</text>", svg)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-o", "lesson.pdf"], r"unknown suffix '.pdf'"),
        (["--theme", "dark"], r"--theme dark: it says how a figure looks; name one with -o"),
        (["-o", "no/lesson.md"], r"no"),
        (["-o", "dump.safetensors"], r"unknown suffix"),
    ],
)
def test_a_lesson_that_cannot_be_written(refused, dump, options, says):
    refused("explain", dump, *options, says=says)
