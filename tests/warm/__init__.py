"""Python that starts warm: processes of their own for tests, without the seconds in which each imports torch.

    subprocess.run([warm.python(), "-m", "attnviz", "score"])
    subprocess.run("attnviz score | head -1", shell=True, env=os.environ | {"PATH": warm.path()})

`python`, `attnviz` and `pytest` in a folder of stand-ins start `client.py`, a bare interpreter. It hands over all that
a process is started with: arguments, folder, environment, limits, standard streams. `server.py`, one for each process
of tests, has imported what is heavy, and attnviz for forks that run its program: all others have nothing of it. It
forks, the child runs the program with all that as its own, and the client ends as the child did. Signals that reach
the client reach the child.

What was decided before the fork is out of the child's hands. So a program is started for real where it is asked for
other than by `-c`, `-m` or a file, or in an environment that differs from the server's by more than the names of
`server.LATE`. Tests of what a program imports, or of its memory, start it by `sys.executable`.
"""

from __future__ import annotations

import atexit
import os
import shlex
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from tests.warm.server import LATE

HERE = Path(__file__).parent
REAL = Path(sys.executable).parent
ENVIRONMENT = dict(os.environ)
"""What this process was started in, before any library set names of its own."""


def python() -> str:
    """The stand-in for ``sys.executable``."""
    return program("python")


def program(name: str) -> str:
    """The stand-in for a program beside ``sys.executable``."""
    return str(_folder() / name)


def path() -> str:
    """``PATH`` with the stand-ins first."""
    return os.pathsep.join([str(_folder()), str(REAL), os.environ["PATH"]])


@cache
def _folder() -> Path:
    """Starts this process's server, and writes its stand-ins."""
    if sys.platform != "linux":  # macOS has no pidfd, and its libraries no peace with fork
        return REAL
    kept = tempfile.TemporaryDirectory(prefix="warm-")
    folder = Path(kept.name)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(100)  # from now on clients can connect, and wait for the server's imports
        server = subprocess.Popen(
            [sys.executable, HERE / "server.py", str(listener.fileno()), ENVIRONMENT.get("PYTHONPATH", "")],
            stdin=subprocess.PIPE,  # the server lives as long as the other end, however this process ends
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            env={name: value for name, value in ENVIRONMENT.items() if name not in LATE},
        )
    for name in ("python", "attnviz", "pytest"):
        real = [sys.executable] if name == "python" else [sys.executable, str(REAL / name)]
        client = [sys.executable, "-IS", str(HERE / "client.py"), str(folder / "socket"), *real]
        (folder / name).write_text(f'#!/bin/sh\nexec {shlex.join(client)} "$@"\n')
        (folder / name).chmod(0o755)

    def end() -> None:
        server.communicate()
        kept.cleanup()

    atexit.register(end)
    return folder
