"""The documentation tells the truth: what it says to run runs, and prints what it shows.

Pages are run from a copy of the repository's examples, their blocks in order:

    ```console        lines after "$ " are commands, the lines below each are what it prints (stdout and stderr);
                      a line "..." stands for lines left out
    ```sh             commands alone
    ```python         a program, or with ">>>" a session whose answers are compared
    ```sh not-run     what can't be run here (make, pip), whatever the language
    ```text, json, yaml, csv    is only read

Numbers may differ by one in the last digit shown, as processors do; all else is compared letter by letter. A picture
that a page makes where the repository has one must show the same. `make snapshots` rewrites what `console` blocks
show, and the pictures.
"""

from __future__ import annotations

import doctest
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image
from typer.main import get_command

import attnviz
from attnviz.cli.main import app
from tests import warm

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "examples/README.md"]
RUN, READ = {"console", "sh", "python"}, {"text", "json", "yaml", "csv"}
NUMBER = re.compile(r"-?\d+\.\d+(?:e[+-]\d+)?")

SLOW = {"capture", "derived", "diff", "figures", "maps", "patterns", "scales", "snapshots", "statistics"}
"""Pages of many figures, half of what all of them take: `make docs` and `make sweep` run them."""

page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
run_page = pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.sweep if path.stem in SLOW else ()) for path in PAGES],
    ids=lambda path: str(path.relative_to(ROOT)),
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, whether it is run, its text, and the lines of the page it fills."""

    language: str
    run: bool
    text: str
    first: int  # the index of its first line, the fence apart
    last: int

    @property
    def steps(self) -> Iterator[tuple[str, str | None]]:
        """Each command, and what the page says it prints."""
        if self.language == "sh":
            yield self.text, None
            return
        assert self.text.startswith("$ "), f"line {self.first + 1}: a console block starts with '$ '"
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, output = re.fullmatch(r"((?:[^\n]*\\\n)*[^\n]*\n)(.*)", part, flags=re.DOTALL).groups()
            yield command, output


def blocks(path: Path) -> list[Block]:
    fences = (token for token in MarkdownIt().parse(path.read_text()) if token.type == "fence")
    found = []
    for fence in fences:
        language, _, mark = fence.info.strip().partition(" ")
        assert language in RUN | READ, f"{path.name} line {fence.map[0] + 1}: what is a {language!r} block?"
        assert mark in ("", "not-run"), f"{path.name} line {fence.map[0] + 1}: what does {mark!r} mean?"
        run = language in RUN and not mark
        found.append(Block(language, run, fence.content, fence.map[0] + 1, fence.map[1] - 1))
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a page's blocks run in: a copy of what pages speak of, named as in the repository."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "docs" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", warm.path())
    for name, value in {"COLUMNS": "80", "NO_COLOR": "1", "MPLBACKEND": "agg"}.items():
        monkeypatch.setenv(name, value)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(command: str) -> str:
    """What a shell command prints, the space at line ends apart."""
    done = subprocess.run(
        ["bash", "-euc", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout
    return "".join(line.rstrip() + "\n" for line in done.stdout.splitlines())


def same_text(shown: str, printed: str) -> bool:
    """Whether text is the same, numbers within one of their last digit, and ``...`` lines standing for any."""
    pattern, numbers = "", []
    for line in shown.rstrip("\n").split("\n"):
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
            continue
        parts = NUMBER.split(line.rstrip())
        numbers += NUMBER.findall(line)
        pattern += f"({NUMBER.pattern})".join(map(re.escape, parts)) + r"\n"
    match = re.fullmatch(pattern, printed.rstrip("\n") + "\n")
    return match is not None and all(map(same_number, numbers, match.groups()))


def same_number(shown: str, printed: str) -> bool:
    decimals = len(shown.partition(".")[2].partition("e")[0])
    return len(printed.partition(".")[2].partition("e")[0]) == decimals and (
        abs(float(shown) - float(printed)) <= 1.01 * 10.0**-decimals * max(1, 10 ** int(shown.partition("e")[2] or 0))
    )


class SameText(doctest.OutputChecker):
    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(want, got, optionflags) or same_text(want, got)


def run_python(block: Block, names: dict[str, object], path: Path) -> None:
    if ">>>" not in block.text:
        exec(compile("\n" * block.first + block.text, path.name, "exec"), names)
        return
    test = doctest.DocTestParser().get_doctest(block.text, names, path.name, path.name, block.first)
    said: list[str] = []
    failed, _ = doctest.DocTestRunner(SameText(), optionflags=doctest.ELLIPSIS).run(
        test, out=said.append, clear_globs=False
    )
    assert not failed, "".join(said)
    names |= test.globs


def same_picture(one: Path, other: Path) -> bool:
    pictures = [np.asarray(Image.open(path).convert("RGB")).astype(int) for path in (one, other)]
    return pictures[0].shape == pictures[1].shape and bool((abs(pictures[0] - pictures[1]) <= 8).all())


@run_page
def test_a_page_runs_and_prints_what_it_shows(path, folder, request):
    update = request.config.getoption("update_snapshots", default=False)
    names: dict[str, object] = {"__name__": "__main__"}
    lines = path.read_text().split("\n")
    rewritten: list[tuple[Block, str]] = []
    for block in blocks(path):
        if not block.run:
            continue
        if block.language == "python":
            run_python(block, names, path)
            continue
        now = ""
        for command, output in block.steps:
            printed = run(command)
            if output is None:
                continue
            same = same_text(output, printed)
            assert same or update, f"{path.name} line {block.first + 1}: $ {command}printed\n{printed}not\n{output}"
            now += f"$ {command}{output if same else printed}"
        rewritten.append((block, now))
    if update:
        for block, now in reversed(rewritten):
            if block.language == "console":
                lines[block.first : block.last] = now.rstrip("\n").split("\n")
        path.write_text("\n".join(lines))
    for picture in (folder / "docs" / "images").glob("*.png"):
        kept = ROOT / picture.relative_to(folder)
        if update and not (kept.exists() and same_picture(picture, kept)):
            shutil.copyfile(picture, kept)
        assert kept.exists(), f"{path.name} makes {kept.name}, which is not in docs/images"
        assert same_picture(picture, kept), f"{kept.name} is not what {path.name} makes now: make snapshots, and look"


@page
def test_links_lead_somewhere(path):
    text = path.read_text()
    targets = re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r'(?:src|href)="([^"#]+)"', text)
    missing = [t for t in targets if "://" not in t and not (path.parent / t).exists()]
    assert not missing


@page
def test_yaml_is_yaml(path):
    for block in blocks(path):
        if block.language == "yaml":
            assert yaml.safe_load(block.text)


def test_every_page_is_in_the_list_of_pages():
    listed = re.findall(r"\]\(([\w.-]+\.md)\)", (ROOT / "docs/README.md").read_text())
    assert sorted(listed) == sorted(path.name for path in ROOT.glob("docs/*.md") if path.name != "README.md")


def test_the_readme_lists_the_commands():
    rows = re.findall(r"^\| `attnviz (\w+)[^`]*` \|", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert rows == list(get_command(app).commands)


def test_help_tells_the_defaults(folder):
    """Square brackets are markup to rich, which swallows what it doesn't know."""
    said = " ".join(run("attnviz score --help").replace("│", " ").split())  # wherever its lines break
    assert "[default: bhtd]" in said
    assert "[default: 1/sqrt(D)]" in said


def test_the_library_page_lists_the_public_names():
    text = (ROOT / "docs/library.md").read_text()
    assert sorted(re.findall(r"^\| `(?:attnviz\.)?(\w+)", text, flags=re.MULTILINE)) == sorted(attnviz.__all__)


def test_the_formats_page_lists_every_role_setting_and_suffix():
    from attnviz.show.scores import SUFFIXES
    from attnviz.sources.files import READABLE
    from attnviz.sources.roles import ROLES, SETTINGS

    text = (ROOT / "docs/formats.md").read_text()
    first_cells = re.findall(r"^\| (`[^|]+) \|", text, flags=re.MULTILINE)
    cells = re.findall(r"`([^`]+)`", " ".join(first_cells))
    assert {*ROLES, *SETTINGS} <= set(cells)
    assert {*READABLE, *SUFFIXES} <= set(cells)


def test_both_formula_pages_show_the_same_code():
    english, japanese = (blocks(ROOT / "docs" / f"formula{language}.md") for language in ("", ".ja"))
    assert [(block.language, block.text) for block in english if block.run] == [
        (block.language, block.text) for block in japanese if block.run
    ]


def test_the_comparison_sees_a_changed_digit():
    shown = "│ 0 t0 │ 0.0230 │ 0.2670 │\n...\nend\n"
    assert same_text(shown, "│ 0 t0 │ 0.0231 │ 0.2670 │\nmore\nand more\nend\n")
    for other in ("0.0250", "0.023", "0.02300", "-0.0230"):
        assert not same_text(shown, f"│ 0 t0 │ {other} │ 0.2670 │\nmore\nend\n")
    assert not same_text(shown, "│ 0 t0 │ 0.0230 │ 0.2670 │\nmore\nend.\n")


def test_the_example_dump_is_what_its_page_makes(tmp_path):
    """To the bit: `synth` makes the same tensors on every machine."""
    kept = attnviz.load(ROOT / "examples/dump.safetensors")
    made = attnviz.synthesize(head_dim=16)
    for role in ("q", "k", "v", "global_mask"):
        assert getattr(kept, role).equal(getattr(made, role))
    assert kept.tokens == made.tokens
