"""Help in 80 columns, the value or option that was meant, and what a shell completes."""

from __future__ import annotations

import re

import numpy as np
import pytest
import typer
from typer.main import get_command

from attnviz.cli import help
from attnviz.cli.completion import completed
from attnviz.cli.main import app


def commands():
    """Every command by what a user types."""
    found = {}
    for name, command in get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        found |= {f"{name} {of}": one for of, one in inner.items()} if inner else {name: command}
    return found


COMMANDS = commands()


@pytest.fixture(scope="module", params=COMMANDS)
def command(request):
    """The words of a command, and the command."""
    return request.param.split(), COMMANDS[request.param]


def visible(command):
    return [param for param in command.params if not getattr(param, "hidden", False)]


@pytest.mark.sweep(keep=5)
def test_help_fits_80_columns_names_every_option_and_no_type(command, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    words, whole = command
    said = run(*words, "--help").out
    assert max(map(len, said.splitlines())) <= 80
    assert not re.search(r"<(bool|str|int|float|path|list)", said)
    typed = set(re.findall(r"(?<![\w-])--[\w-]+", said))
    for param in visible(whole):
        assert param.param_type_name == "argument" or set(param.opts) & typed, param.name
    assert len(said.splitlines()) <= 130


@pytest.mark.sweep(keep=5)
def test_what_is_the_commands_own_comes_first_and_what_all_share_last(command, run):
    words, _ = command
    said = run(*words, "--help").out
    titles = re.findall(r"^╭─ (.+?) ─", said, flags=re.MULTILINE)
    assert len(titles) == len(set(titles))
    assert titles[:2] == [title for title in ("Arguments", "Options") if title in titles]
    last = [title for title in titles if title.startswith(("Where q", "Where sizes", "Where in what", "Where and in"))]
    assert titles[len(titles) - len(last) :] == last


def test_help_all_explains_what_help_only_names(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    short, whole = (" ".join(run("plot", option).out.split()) for option in ("--help", "--help-all"))
    assert "--softcap" in short
    assert "before masks (Gemma 2)" not in short
    assert "--softcap X" in whole
    assert "before masks (Gemma 2)" in whole
    assert "attnviz plot --help-all" in short
    assert "--help-all  explains" not in whole


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("plot --nrom log -o a.png", "No such option: --nrom; did you mean --norm"),
        ("plot --norm lgo -o a.png", "--norm 'lgo' is not one of linear, log, power, rank, row; did you mean log?"),
        ("score --pattern causl", "did you mean causal?"),
        ("score --values weihgts", "did you mean weights?"),
        ("stats --sort entropi", "did you mean entropy?"),
        ("scroe", "No such command 'scroe'. Did you mean 'score'?"),
        ("plot --theme drak -o a.png", "did you mean dark?"),
        ("plot", "Missing option '--out' / '-o'; as in: attnviz plot dump.safetensors"),
        ("score dump.safetensor", "there is no such file; did you mean dump.safetensors?"),
    ],
)
def test_an_error_names_what_was_meant(dump, run, typed, says):
    result = run(*typed.split())
    assert (result.code, result.out) == (2, "")
    assert says in result.err.replace(" option '--nrom'.", " option: --nrom").splitlines()[-1]


def test_without_global_keys_a_pattern_is_what_to_type(run, folder):
    tensor = np.zeros((1, 2, 4, 8), np.float32)
    np.savez("qk.npz", q=tensor, k=tensor)
    result = run("score", "qk.npz")
    assert "there is no global_mask; name one (--mask NAME)" in result.err
    assert "--pattern causal" in result.err
    assert run("score", "qk.npz", "--pattern", "causal").code == 0


def offered(name, option, incomplete="", **given):
    """What a shell offers for an option's value."""
    command = COMMANDS[name]
    param = next(param for param in command.params if option in param.opts)
    with command.make_context(name, [*given.get("words", ()), option], resilient_parsing=True) as ctx:
        return [item.value for item in param.shell_complete(ctx, incomplete)]


def test_the_shell_completes_values_patterns_and_statistics():
    assert offered("plot", "--norm") == ["linear", "log", "power", "rank", "row"]
    assert offered("plot", "--pattern", "lo") == ["local", "local+global"]
    assert offered("stats", "--sort", "entropy_") == ["entropy_share"]
    assert offered("stats", "--statistic", "entropy_") == ["entropy_share"]
    assert offered("plot", "--mean") == ["heads", "layers", "items"]
    assert offered("score", "--format") == ["table", "json", "csv", "markdown"]
    assert offered("explain", "--lang") == ["en", "ja"]
    assert offered("plot", "--title") == []


def test_the_shell_completes_what_is_in_the_file(folder):
    tensor = np.zeros((1, 1, 2, 2), np.float32)
    np.savez("two.npz", **{f"layers.{n}.{role}": tensor for n in (0, 3, 10) for role in "qk"})
    assert offered("plot", "--layer", words=["two.npz"]) == ["0", "3", "10", "all"]
    assert offered("plot", "--layer", "1", words=["two.npz"]) == ["10"]
    assert offered("score", "--q", "layers.3", words=["two.npz"]) == ["layers.3.q", "layers.3.k"]
    (folder / "bad.safetensors").write_bytes(b"\xff" * 9)
    for nothing in ("bad.safetensors", "there.is.none.npz"):
        assert offered("plot", "--layer", words=[nothing]) == []


LISTED = [
    (name, param)
    for name in ("score", "plot", "show", "stats", "diff", "explain", "synth", "audit")
    for param in COMMANDS[name].params
    if param.param_type_name == "option" and help.choices(param)
]


def test_help_lists_values_where_there_are_a_few():
    options = {max(param.opts, key=len) for _, param in LISTED}
    assert {
        "--norm",
        "--theme",
        "--values",
        "--format",
        "--reduce",
        "--dtype",
        "--device",
        "--width",
        "--mean",
        "--structure",
    } <= options


@pytest.mark.sweep(keep=14)
@pytest.mark.parametrize(("name", "param"), LISTED, ids=lambda part: part if isinstance(part, str) else part.name)
def test_every_value_that_is_offered_is_one_that_is_taken(name, param, run, dump):
    """What a value that is none is told lists the same values."""
    option = max(param.opts, key=len)
    where = {
        "plot": ["-o", "a.png"],
        "synth": ["b.npz"],
        "diff": ["dump.safetensors", "-o", "a.png"],
        "stats": ["-o", "a.png"],
        "audit": ["dump.safetensors"],
        "explain": ["-o", "a.html"],
    }
    first = [] if name == "synth" else ["dump.safetensors"]
    result = run(name, *first, *where.get(name, []), option, "xyzzy")
    assert result.code == 2
    for value in help.choices(param):
        assert re.search(rf"(?<![\w-]){re.escape(value)}(?![\w-])", result.err), (value, result.err)


def test_an_option_that_has_its_own_completion_keeps_it():
    from typing import Annotated

    own = Annotated[str, typer.Option(help="a, b or c.", autocompletion=lambda: ["own"])]
    assert completed(own) is own


def test_quiet_says_nothing_but_what_goes_wrong(run, dump):
    said = run("plot", dump, "-o", "a.png")
    quiet = run("plot", dump, "-o", "b.png", "--quiet")
    assert "wrote a.png" in said.err
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    assert "wrote c.png" in run("plot", dump, "-o", "c.png").err  # the next run speaks again
    assert "did you mean" in run("plot", dump, "-o", "d.png", "--quiet", "--norm", "lgo").err


def test_verbose_says_how_maps_are_made(run, dump):
    said = run("plot", dump, "-o", "a.png", "--head", "1", "--verbose")
    assert re.search(r"^attnviz: head 1: in tiles of \d+ queries x \d+ keys on cpu$", said.err, re.MULTILINE), said.err
    assert "tiles" not in run("plot", dump, "-o", "b.png", "--head", "1").err
    assert run("plot", dump, "-o", "c.png", "--verbose", "--quiet").err == ""
