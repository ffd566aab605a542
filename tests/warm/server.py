"""Imports what is heavy, then forks for each client; see the package."""

from __future__ import annotations

import atexit
import gc
import io
import json
import os
import pkgutil
import resource
import runpy
import selectors
import signal
import socket
import sys
import threading
import types
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NoReturn, TextIO

LATE = {
    *("PWD", "OLDPWD", "SHLVL", "_", "PATH", "HOME", "TMPDIR", "PYTEST_CURRENT_TEST"),
    *("COLUMNS", "LINES", "TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"),
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("TORCHINDUCTOR_CACHE_DIR", "TOKENIZERS_PARALLELISM"),  # set by transformers in processes of tests
    *("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"),  # set by scikit-learn, which transformers' generate imports
    *("PYTHONPATH", "MPLBACKEND"),  # see Request.take_place
}
"""Names in the environment that programs read when they run, not while they start and import."""

STARTED_WITH = dict(os.environ)

STARTED_FOR = sys.argv[2] if len(sys.argv) > 2 else ""
"""The ``PYTHONPATH`` that whoever started this had: it says whose attnviz is imported."""

HEAVY = (
    *("torch", "torch.distributed", "numpy", "safetensors.torch"),
    *("matplotlib.figure", "matplotlib.backends.backend_mixed", "matplotlib.backends.backend_agg", "matplotlib.style"),
    *(f"PIL.{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Png", "Ppm")),
    *(
        "typer.core",
        "typer._adapters",
        "rich._emoji_codes",
        "rich.markdown",
        "rich.markup",
        "rich.progress",
        "rich.table",
    ),
)

MODELS = ("transformers.models.bert.modeling_bert",)
"""Likewise, once a model is captured."""


PROGRAM = ("base", "attention", "engine", "sources", "maps", "measures", "compare", "show", "plots", "cli")
"""Parts of attnviz that forks which run its program need not import again; what none of them sees of its start is the
same whenever it is imported. Any other program finds none of them."""


def import_all(names: Iterable[str]) -> None:
    """Imports what there is of these: other versions may not have it."""
    for name in names:
        with suppress(ImportError):
            import_module(name)


def import_program(path: str) -> None:
    """Imports these, from where ``PYTHONPATH`` leads."""
    before = list(sys.path)
    sys.path[1:1] = filter(None, path.split(os.pathsep))
    for part in PROGRAM:
        package = import_module(f"attnviz.{part}")
        import_all(module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."))
    sys.path[:] = before


@dataclass
class Request:
    """What a client was started as."""

    arguments: list[str]
    folder: str
    environment: dict[str, str]
    umask: int
    ignored: list[int]
    limits: list[tuple[int, tuple[int, int]]]
    closed: list[int]
    streams: list[int]

    @classmethod
    def read(cls, client: socket.socket) -> Request:
        message, streams, _, _ = socket.recv_fds(client, 1 << 16, 3)
        while len(message) < 8 + int.from_bytes(message[:8], "big"):
            message += client.recv(1 << 16)
        return cls(**json.loads(message[8:]), streams=streams)

    @property
    def can_be_warm(self) -> bool:
        """Whether a fork of this process can be what was asked for."""
        first = self.arguments[0] if self.arguments else "-"
        differing = {name for name, _ in self.environment.items() ^ STARTED_WITH.items()}
        return (first in ("-c", "-m") or not first.startswith("-")) and differing <= LATE

    @property
    def is_attnviz(self) -> bool:
        """Whether it is the program whose modules are there."""
        named = self.arguments[:2] == ["-m", "attnviz"] or Path((self.arguments or ["-"])[0]).name == "attnviz"
        return named and self.environment.get("PYTHONPATH", "") == STARTED_FOR

    def take_place(self) -> None:
        """Gives this process what the client was started with."""
        for number, stream in enumerate(self.streams):
            os.dup2(stream, number)
            os.close(stream)
        for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
            like = None if number in self.closed else stream_like(getattr(sys, name), number, mode)
            setattr(sys, name, like)
            setattr(sys, f"__{name}__", like)
        for number in self.closed:
            os.close(number)
        os.chdir(self.folder)
        os.umask(self.umask)
        for number in self.ignored:
            signal.signal(number, signal.SIG_IGN)
        for limit, values in self.limits:
            resource.setrlimit(limit, values)
        os.environ.clear()
        os.environ.update(self.environment)
        sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        if backend := os.environ.get("MPLBACKEND"):
            sys.modules["matplotlib"].rcParams["backend"] = backend
        sys.modules["numpy"].random.seed()  # random of the standard library sees to it itself
        if not self.is_attnviz:
            for name in [name for name in sys.modules if name.partition(".")[0] == "attnviz"]:
                del sys.modules[name]

    def run(self) -> None:
        """Runs the program, as an interpreter runs its main module."""
        first, *rest = self.arguments
        if first == "-c":
            sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(rest[0], "<string>", "exec"), vars(main))
        elif first == "-m":
            sys.argv, sys.path[0] = rest, str(Path.cwd())
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = self.arguments, str(Path(first).resolve().parent)
            runpy.run_path(first, run_name="__main__")


def end_with(program: Callable[[], None]) -> NoReturn:
    """Runs a program and ends as an interpreter does, but for taking all that was imported apart: a second's work."""
    code: object = 0
    try:
        program()
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    if not isinstance(code, int | None):
        if sys.stderr:
            print(code, file=sys.stderr)
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        code = 120
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    os._exit((code or 0) & 0xFF)


def stream_like(stream: TextIO, number: int, mode: str) -> TextIO:
    """A standard stream, as an interpreter opens it."""
    at_once = stream.write_through  # by PYTHONUNBUFFERED
    raw = io.FileIO(number, mode, closefd=False)
    raw.name = stream.name
    opened = io.BufferedReader(raw) if mode == "r" else raw if at_once else io.BufferedWriter(raw)
    by_line = not at_once and (number == 2 or os.isatty(number))
    newline = "\n" if mode == "w" else None
    return io.TextIOWrapper(opened, stream.encoding, stream.errors, newline, by_line, at_once)


@dataclass
class Running:
    """A program at work: the connection of its client, its process, and the descriptor that tells its end."""

    client: socket.socket
    process: int
    end: int


class Server:
    """Stands between clients and the programs that it forks for them."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.events = selectors.DefaultSelector()
        self.events.register(listener, selectors.EVENT_READ)
        self.events.register(0, selectors.EVENT_READ)  # closed when whoever started the server is gone
        self.running: list[Running] = []

    def serve(self) -> Request:
        """Serves until it is no longer wanted. Returns in the forks alone, each with what it is to be."""
        while True:
            [(key, _), *_] = self.events.select()  # one at a time, as what follows may make the others void
            if key.fileobj is self.listener:
                if request := self.start():
                    return request
            elif key.fd == 0:
                for running in self.running:
                    os.kill(running.process, signal.SIGKILL)
                sys.exit()
            elif key.fileobj is key.data.client:
                self.signal(key.data)
            else:
                self.finish(key.data)

    def start(self) -> Request | None:
        """Forks for the next client; the request, in the fork."""
        client, _ = self.listener.accept()
        request = Request.read(client)
        process = 0
        if request.is_attnviz and "capture" in request.arguments:
            import_all(MODELS)
        if not request.can_be_warm:
            client.send(b"real")
        elif process := os.fork():
            running = Running(client, process, os.pidfd_open(process))
            self.running.append(running)
            self.events.register(client, selectors.EVENT_READ, running)
            self.events.register(running.end, selectors.EVENT_READ, running)
        else:
            self.listener.close()
            self.events.close()
            for other in self.running:
                other.client.close()
                os.close(other.end)
            client.close()
            request.take_place()
            return request
        for stream in request.streams:
            os.close(stream)
        return None

    def signal(self, running: Running) -> None:
        """Passes on what the client was sent. A client that is gone was killed, which could not be passed on."""
        numbers = running.client.recv(64)
        for number in numbers or [signal.SIGKILL]:
            os.kill(running.process, number)
        if not numbers:
            self.finish(running)

    def finish(self, running: Running) -> None:
        """Tells the client how the program ended."""
        _, status = os.waitpid(running.process, 0)
        with suppress(BrokenPipeError):
            running.client.send(str(os.waitstatus_to_exitcode(status)).encode())
        for opened in (running.client, running.end):
            self.events.unregister(opened)
        running.client.close()
        os.close(running.end)
        self.running.remove(running)


if __name__ == "__main__":
    import_all(HEAVY)
    import_program(STARTED_FOR)
    for number in (signal.SIGHUP, signal.SIGQUIT):  # nohup and & of a shell have them ignored
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.freeze()  # a fork need not look at, and so copy, what is there already
    end_with(Server(socket.socket(fileno=int(sys.argv[1]))).serve().run)
