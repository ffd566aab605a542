"""The ``attnviz`` program: its commands, and how errors end it."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import Annotated, Any

import typer

from attnviz.base.errors import InputError
from attnviz.cli.commands import (
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
from attnviz.cli.console import saying_notes
from attnviz.version import __version__

READER_LEFT = 128 + 13
"""The exit code of a program whose output nobody reads any more: that of SIGPIPE, as shells write it."""

TERMINATED = 128 + 15
"""The exit code of a program that was asked to end: that of SIGTERM."""

STOPPED = "stopped; no file is half-written"

NO_MEMORY = "this needs more memory than there is; take fewer heads (--head 0) or a narrower pattern (--window)"

# click's UsageError, by the one road to it that is public in every typer (newer ones carry click inside).
UsageError: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="attnviz",
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
) -> None:
    pass


def main() -> None:
    """Runs the program. What a user did wrong is one line on stderr and exit code 2, never a traceback."""
    # Importing torch and matplotlib makes 100,000s of objects that stay: looking for garbage among them again and
    # again is a tenth of a short command's time.
    gc.set_threshold(1_000_000)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        with saying_notes():
            code = app(sys.argv[1:] or ["--help"], prog_name="attnviz", standalone_mode=False)
        sys.stdout.flush()  # here, where an output that is full or gone can still be told
    except SystemExit as end:
        # typer and rich end with 1 where a reader such as `head` has left, and 1 is how diff says "beyond".
        code = READER_LEFT if end.code == 1 else end.code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush of a program that ends
        code = READER_LEFT
    except InputError as error:
        _fail(str(error), 2)
    except UsageError as error:
        message = error.format_message().removesuffix(".")
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "attnviz"
        _fail(f"{' '.join(message.split())} (see {command} --help)", 2)
    except (typer.Abort, KeyboardInterrupt):
        _fail(STOPPED, 130)
    except MemoryError:
        _fail(NO_MEMORY, 2)
    except OSError as error:
        if error.filename is not None:
            raise  # a file's error that nothing has put into words: a defect of ours
        _fail(f"the output cannot be written: {error.strerror or error}", 2)
    except RuntimeError as error:
        # Names and words, as the modules of these errors import torch, which --help must not.
        if type(error).__name__ == "RankError":
            _fail(str(error), 1)
        if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
            _fail(NO_MEMORY, 2)
        raise
    if code in (130, TERMINATED):  # 130 is how newer typers end a KeyboardInterrupt
        _fail(STOPPED, code)
    sys.exit(code if isinstance(code, int) else 0)


def _terminated(*_: object) -> None:
    # As an exception, which removes temporary files on its way out.
    raise SystemExit(TERMINATED)


def _fail(message: str, code: int) -> None:
    print(f"attnviz: {message}", file=sys.stderr)
    sys.exit(code)
