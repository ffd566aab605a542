"""No letter that a terminal obeys reaches a terminal, a figure, a page or a report: from tokens, names, titles, errors."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load, save_file

import attnviz
from attnviz.sources.files import METADATA
from tests.cases import small
from tests.fuzz.drawn import leaves

HOSTILE = "\x1b[31mred\x07\u202e\x9b\u2028\udcff"  # the last is a byte that is no UTF-8, as Python has it in names and options
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
ONE, LAYERS, NAMED = f"d{HOSTILE}.npz", f"l{HOSTILE}.safetensors", "n.safetensors"

COMMANDS = [
    ["score", ONE],
    ["score", ONE, "--format", "json"],
    ["score", ONE, "--format", "markdown"],
    ["score", ONE, "-o", "a.json"],
    ["score", ONE, "--head", HOSTILE],
    ["score", ONE, f"--{HOSTILE}"],
    ["score", ONE, "--pattern", HOSTILE],
    ["score", f"no{HOSTILE}"],
    ["score", NAMED],
    [HOSTILE],
    ["stats", ONE],
    ["stats", LAYERS, "--format", "json"],
    ["stats", ONE, "--by-query"],
    ["stats", ONE, "--keys-received", "--format", "json"],
    ["stats", ONE, "-o", "b.svg", "--title", HOSTILE],
    ["stats", ONE, "-o", "c.json"],
    ["show", ONE],
    ["explain", ONE],
    ["explain", ONE, "--format", "markdown"],
    ["inspect", ONE],
    ["inspect", NAMED],
    ["inspect", NAMED, "--format", "json"],
    ["pattern", ONE],
    ["pattern", ONE, "-o", "d.svg", "--title", HOSTILE],
    ["plot", ONE, "-o", "e.svg", "--title", HOSTILE, "--caption"],
    ["plot", ONE, "-o", "f.svg", "--strip", "b"],
    ["plot", ONE, "--head", "0", "-o", "g.png", "--title", HOSTILE],
    ["plot", ONE, "--head", "0", "-o", "h.pdf", "--title", HOSTILE],
    ["inspect", "e.svg"],
    ["inspect", "g.png", "--format", "json"],
    ["inspect", "h.pdf"],
    ["overview", LAYERS, "-o", "i.svg", "--title", HOSTILE],
    ["tiles", ONE, "--head", "0", "-o", "tiles"],
    ["html", LAYERS, "-o", "j.html"],
    ["view", f"no{HOSTILE}"],
    ["context", ONE, "-o", f"k{HOSTILE}.npz"],
    ["diff", ONE, "--b-causal"],
    ["diff", ONE, "--b-causal", "--format", "json", "-o", "l.svg", "--title", HOSTILE],
    ["audit", LAYERS, LAYERS, "-o", "m.md"],
    ["audit", LAYERS, LAYERS, "--format", "markdown"],
    ["audit", LAYERS, LAYERS, "--format", "json"],
    ["snapshot", "save", ONE, f"n{HOSTILE}.json"],
    ["snapshot", "check", ONE, f"n{HOSTILE}.json"],
    ["snapshot", "check", ONE, f"n{HOSTILE}.json", "--pattern", "causal", "-o", "o.svg"],
    ["snapshot", "check", ONE, f"n{HOSTILE}.json", "--format", "json"],
    ["synth", f"p{HOSTILE}.npz"],
    ["capture", f"no{HOSTILE}", "--text", HOSTILE, "-o", "q.safetensors"],
]


@pytest.fixture
def hostile(folder) -> attnviz.AttentionInputs:
    """Inputs, and files of them, whose every text is hostile."""
    inputs = replace(small(batch=1, tokens=4), tokens=[[HOSTILE, "b", "\u2028", "d"]], source=HOSTILE)
    attnviz.save(ONE, inputs)
    attnviz.save(LAYERS, [replace(inputs, layer=f"x.{n}") for n in range(2)])
    tensors = {
        name.replace("x.", f"{HOSTILE[:-1]}."): tensor for name, tensor in load(Path(LAYERS).read_bytes()).items()
    }
    said = dict.fromkeys(("model", "source", HOSTILE), HOSTILE) | {"tokens": [[HOSTILE] * 4], "softcap": float("inf")}
    save_file(tensors, NAMED, metadata={METADATA: json.dumps({"format": 2, **said})})
    return inputs


def test_what_is_hostile_is_shown_and_not_obeyed(run, hostile, folder):
    for arguments in COMMANDS:
        result = run(*arguments)
        assert result.code in (0, 1, 2), result.err
        assert result.code != 2 or result.err.startswith("attnviz: ")
        assert not (found := OBEYED.search(result.out + result.err)), (arguments, found)
        if "json" in arguments and result.code == 0:
            assert repr(HOSTILE)[1:-1] in str(json.loads(result.out))  # nothing is lost
    files = {path.suffix: path for path in sorted(folder.iterdir())}
    assert {".svg", ".html", ".json", ".md", ".png", ".pdf"} <= set(files)
    for path in folder.rglob("*"):
        if path.suffix in (".svg", ".html", ".json", ".md"):
            assert not (found := OBEYED.search(path.read_text(encoding="utf-8"))), (path, found)
    assert not OBEYED.search("".join(Image.open(files[".png"]).text.values()))
    for letters in re.findall(rb"/(?:Title|Subject|Keywords) \((.*?)\)\s*/", files[".pdf"].read_bytes(), re.DOTALL):
        text = letters.decode("utf-16") if letters.startswith(b"\xfe\xff") else letters.decode("latin-1")
        assert not OBEYED.search(text), text


def test_every_command_is_tried():
    assert set(leaves()) <= {" ".join(arguments[:n]) for arguments in COMMANDS for n in (1, 2)}


def test_notebooks_show_it_and_do_not_obey(hostile):
    hostile = replace(hostile, layer=HOSTILE)
    shown = [hostile, attnviz.score(hostile), attnviz.attention_map(hostile, 0)]
    for value in shown:
        assert not OBEYED.search(value._repr_html_())
    assert not OBEYED.search(attnviz.explain(hostile)._repr_markdown_())
