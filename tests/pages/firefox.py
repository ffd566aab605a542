"""Debian's Firefox, driven through Marionette, which it holds itself: no driver has to be installed beside it."""

from __future__ import annotations

import itertools
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("firefox-esr", "firefox")


def found() -> str | None:
    """Where Firefox is; None where there is none."""
    return next((path for path in map(shutil.which, PROGRAMS) if path is not None), None)


class Firefox:
    """One window. A message is its length, a colon and JSON: ``[0, id, command, parameters]``, answered in order."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._ids = connection, itertools.count(1)
        self._read()  # its greeting
        self.ask("WebDriver:NewSession", {"capabilities": {"alwaysMatch": {"acceptInsecureCerts": True}}})

    def ask(self, command: str, parameters: dict[str, Any] | None = None) -> Any:
        """What a command of WebDriver answers. Raises RuntimeError for what Firefox refuses."""
        message = json.dumps([0, next(self._ids), command, parameters or {}])
        self._connection.sendall(f"{len(message)}:{message}".encode())
        _, _, error, value = self._read()
        if error:
            raise RuntimeError(f"{command}: {error['message']}")
        return value

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns, which runs in the page."""
        return self.ask("WebDriver:ExecuteScript", {"script": script, "args": list(arguments)})["value"]

    def wait(self, script: str, *arguments: Any, seconds: float = 20) -> Any:
        """What a script returns, once that is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(script, *arguments)):
            assert time.monotonic() < end, f"this stays {value!r}: {script}"
            time.sleep(0.05)
        return value

    def click(self, x: float, y: float) -> None:
        """Moves the pointer to a point of the window, and clicks."""
        moves = {"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)}
        presses = [{"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp")]
        pointer = {"type": "pointer", "id": "mouse", "actions": [moves, *presses]}
        self.ask("WebDriver:PerformActions", {"actions": [pointer]})

    def _read(self) -> Any:
        length = b""
        while not length.endswith(b":"):
            length += self._some(1)
        return json.loads(self._some(int(length[:-1])))

    def _some(self, size: int) -> bytes:
        parts = b""
        while len(parts) < size:
            part = self._connection.recv(size - len(parts))
            assert part, "Firefox has ended"
            parts += part
        return parts


@contextmanager
def firefox(profile: Path) -> Iterator[Firefox]:
    """A Firefox without a window, with a profile of its own and the network cut."""
    program = found()
    assert program is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "marionette.port": port,
        "network.proxy.type": 1,  # to a place where nobody answers
        "network.proxy.http": "127.0.0.1",
        "network.proxy.http_port": 9,
        "network.proxy.ssl": "127.0.0.1",
        "network.proxy.ssl_port": 9,
        "app.update.enabled": False,
        "datareporting.policy.dataSubmissionEnabled": False,
    }
    lines = (f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in settings.items())
    (profile / "user.js").write_text("\n".join(lines))
    command = [program, "--headless", "--marionette", "--no-remote", "--profile", str(profile)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with _connected(port, running) as connection:
            yield Firefox(connection)
    finally:
        running.terminate()
        running.wait(20)


def _connected(port: int, running: subprocess.Popen[bytes]) -> socket.socket:
    for _ in range(600):
        assert running.poll() is None, "Firefox ended at once"
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=60)
        except OSError:
            time.sleep(0.1)
    raise AssertionError("Firefox does not listen")
