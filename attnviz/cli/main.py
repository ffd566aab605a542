"""The ``attnviz`` program: its commands, and how errors end it."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from typing import Annotated

import typer

from attnviz.cli import streams
from attnviz.cli.commands import (
    audit,
    capture,
    context,
    diff,
    explain,
    html,
    inspect,
    overview,
    pattern,
    plot,
    score,
    show,
    snapshot,
    stats,
    synth,
    tiles,
    view,
)
from attnviz.cli.console import quiet, say, saying_notes
from attnviz.cli.endings import end_on_signals, ending
from attnviz.cli.groups import Program
from attnviz.version import __version__

app = typer.Typer(
    name="attnviz",
    cls=Program,
    help="See and check attention: exact scores, heatmaps and tables of q, k and v.",
    epilog="Example:  attnviz plot --head 3 -o heads.png",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for module in (
    score,
    plot,
    show,
    overview,
    tiles,
    html,
    view,
    pattern,
    context,
    stats,
    diff,
    snapshot,
    audit,
    explain,
    capture,
    synth,
    inspect,
):
    module.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"attnviz {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of whatever ends a command.")] = False,
) -> None:
    pass


def main() -> None:
    """Runs the program. What a user did wrong is one line on stderr and exit code 2, never a traceback."""
    # Importing torch and matplotlib makes 100,000s of objects that stay: looking for garbage among them again and
    # again is a tenth of a short command's time.
    gc.set_threshold(1_000_000)
    sys.set_int_max_str_digits(0)  # a number of 5,000 digits is refused for what it says, like any other
    os.environ.pop("MPLBACKEND", None)  # figures are files here; matplotlib fails on a name that it doesn't know
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a rank that is gone is said in a line, not in a C++ stack
    end_on_signals()
    streams.prepare()
    message, code = _run(sys.argv[1:] or ["--help"])
    if message is not None:
        say(message)
    sys.exit(code)


def _run(arguments: list[str]) -> tuple[str | None, int]:
    """What to say at the end, if anything, and the exit code."""
    try:
        quiet(False)
        with saying_notes():
            code = app(arguments, prog_name="attnviz", standalone_mode=False)
        sys.stdout.flush()  # here, where an output that is full or gone can still be told
    except BaseException as error:  # whatever it is, it ends as one line
        if "--debug" in arguments[:1]:
            traceback.print_exc()
        streams.settle()
        return ending(error)
    if not isinstance(code, int):
        return None, 0
    # Commands return 1 for "there is a difference"; typer gives the codes of its own endings back.
    return (None, 1) if code == 1 else ending(SystemExit(code))
