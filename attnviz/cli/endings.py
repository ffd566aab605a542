"""How the program ends: whatever was raised is one line on stderr and an exit code, never a traceback.

==== ==========================================================================
code what it says
==== ==========================================================================
0    done
1    of ``diff``, ``snapshot check`` and ``audit``: there is a difference, and nothing else
2    something given cannot be used
70   a defect of attnviz
129… 128 and a signal's number: it was told to end, or nobody reads its output
==== ==========================================================================
"""

from __future__ import annotations

import re
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import typer

from attnviz.base.errors import InputError, is_memory
from attnviz.cli.defaults import origins

BAD_INPUT = 2

DEFECT = 70
"""EX_SOFTWARE of sysexits.h."""

READER_LEFT = 128 + 13
"""The exit code of a program whose output nobody reads any more: that of SIGPIPE, as shells write it."""

STOPPED = "stopped; no file is half-written"

NO_MEMORY = "this needs more memory than there is; take fewer heads (--head 0) or a narrower pattern (--window)"

# click's UsageError, by the one road to it that is public in every typer (newer ones carry click inside).
UsageError: Any = typer.BadParameter.__mro__[1]


def ending(error: BaseException) -> tuple[str | None, int]:
    """The line to say, if any, and the exit code.

    >>> ending(InputError("k has head_dim 64 but q has 80"))
    ('k has head_dim 64 but q has 80', 2)
    >>> ending(KeyboardInterrupt())
    ('stopped; no file is half-written', 130)
    """
    try:
        return _ending(error)
    except Exception as other:  # an error that can't be told, or a fault in telling it
        return _defect(other), DEFECT


def _ending(error: BaseException) -> tuple[str | None, int]:
    if isinstance(error, SystemExit):
        return _exit(error.code)
    if isinstance(error, typer.Abort | KeyboardInterrupt):
        return STOPPED, 128 + signal.SIGINT
    if isinstance(error, InputError):
        return origins(str(error)), BAD_INPUT
    if isinstance(error, UsageError):
        return _usage(error), BAD_INPUT
    if isinstance(error, BrokenPipeError):
        return None, READER_LEFT
    if is_memory(error):
        return NO_MEMORY, BAD_INPUT
    if isinstance(error, OSError):
        named = "the output cannot be written" if error.filename is None else f"{error.filename}: cannot be used"
        return f"{named}: {error.strerror or error}", BAD_INPUT
    # By name, as the module of this error imports torch, which --help must not.
    if type(error).__name__ == "RankError":
        return str(error), BAD_INPUT
    return _defect(error), DEFECT


def _exit(code: object) -> tuple[str | None, int]:
    if code in (128 + signal.SIGINT, *(128 + number for number in TELLING)):
        return STOPPED, int(str(code))  # 130 is how newer typers end a KeyboardInterrupt
    if code == 1:
        # typer and rich end with 1 where a reader such as `head` has left, and 1 is how diff says "beyond".
        return None, READER_LEFT
    return (None, code) if isinstance(code, int) else (None if code is None else str(code), 0 if code is None else 2)


TELLING = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
"""The signals by which a program is told to end, beside an interrupt."""


def end_on_signals() -> None:
    """Has the program end by an exception where it is told to end, which removes temporary files on its way out."""
    for number in TELLING:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, _told)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _told(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _usage(error: Any) -> str:
    message = " ".join(error.format_message().removesuffix(".").split())
    near = getattr(error, "possibilities", None)
    if near:  # of an option that is none; click lists them by the alphabet
        message = f"{error.message}; did you mean {' or '.join(near)}?"
    context = getattr(error, "ctx", None)
    extra = _EXTRA.fullmatch(message)
    if extra and context:
        message = _too_many(context.command, extra[1])
    example = getattr(getattr(context, "command", None), "epilog", None)
    if type(error).__name__ == "MissingParameter" and example:
        message = f"{message}; as in: {example.partition(':')[2].strip()}"
    return f"{message} (see {context.command_path if context else 'attnviz'} --help)"


_EXTRA = re.compile(r"Got unexpected extra arguments?(?:\(s\))? \((.+)\)")


def _too_many(command: Any, extra: str) -> str:
    """That a command takes no further arguments, and what does."""
    taken = [param.name.upper() for param in command.params if param.param_type_name == "argument"]
    message = f"too many arguments: {extra}; {command.name} takes {' and '.join(taken) or 'options alone'}"
    compares = any("--compare" in param.opts for param in command.params)
    return f"{message}, and another file by --compare FILE" if compares else message


def _defect(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    arguments = " ".join(sys.argv[1:])
    what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return f"a defect of attnviz, please report it ({what}{where}); all of it: attnviz --debug {arguments}"
