"""``attnviz view``: one real server, and what it is not asked to do."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np
import pytest

import attnviz
from attnviz import Causal, Pyramid
from tests import warm
from tests.cases import small
from tests.coroutines import run as run_coroutine

PROGRAM = warm.program("attnviz")


@dataclass
class Server:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    address: str
    inputs: attnviz.AttentionInputs

    @property
    def port(self) -> int:
        return httpx2.URL(self.address).port


def start(path: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    command = [PROGRAM, "view", path, "--pattern", "causal", "--no-browser", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    return process, process.stdout.readline().strip()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    inputs = small(batch=1, tokens=3000, head_dim=16)  # finer levels than the one pass keeps are made on demand
    path = tmp_path_factory.mktemp("view") / "dump.safetensors"
    attnviz.save(path, inputs)
    process, address = start(path)
    try:
        yield Server(process, address, inputs)
    finally:
        process.kill()
        process.communicate()


def test_the_address_is_of_this_machine_and_hard_to_guess(server):
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32,}/", server.address)


@pytest.mark.sweep
def test_two_hundred_tiles_at_once_are_the_pyramids(server):
    pyramid = Pyramid.of(server.inputs, Causal())
    finest = pyramid.levels - 1
    rows, columns = pyramid.grid(finest)
    tiles = [(h, finest, n % rows, n // rows % columns) for n in range(90) for h in (0, 1)]
    tiles += [(h, level, 0, 0) for h in (0, 1) for level in range(finest) for _ in range(5)]

    async def ask() -> list[httpx2.Response]:
        limits = httpx2.Limits(max_connections=200)
        async with httpx2.AsyncClient(base_url=server.address, limits=limits, timeout=120) as client:
            wanted = [client.get(f"tile/0/{h}/{level}/{r}/{c}/max") for h, level, r, c in tiles]
            return await asyncio.gather(*wanted)

    answers = run_coroutine(ask())
    assert len(answers) >= 200
    for (h, level, r, c), answer in zip(tiles, answers, strict=True):
        assert answer.status_code == 200
        found = np.frombuffer(answer.content, "<f4").reshape(256, 256)
        np.testing.assert_allclose(found, pyramid.tile(h, level, r, c), rtol=1e-5, atol=1e-7)


def test_clients_that_leave_do_no_harm(server):
    """Sockets closed before the answer, halfway through it, and halfway through the request."""
    path = httpx2.URL(server.address).path
    for n in range(60):
        with socket.create_connection(("127.0.0.1", server.port)) as leaving:
            request = f"GET {path}tile/0/2/4/{n % 12}/0/mass HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode()
            leaving.sendall(request[: len(request) // 2] if n % 3 == 2 else request)
            if n % 3 == 1:
                leaving.recv(100)
    with httpx2.Client(base_url=server.address, timeout=60) as client:
        assert client.get("tile/0/2/0/0/0/max").status_code == 200
        assert client.get("pass/map/0/2").json() == {"rows": 3000, "done": 3000}
    assert server.process.poll() is None


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("run.json", {}, 200),
        ("tile/0/0/0/0/1/max", {}, 404),
        ("tile/0/0/x/0/0/max", {}, 404),
        ("tile/0/99999999999/0/0/0/max", {}, 404),
        ("weights/0/0/0/3000/0/3000", {}, 422),
        ("run.json", {"host": "evil.example"}, 403),
        ("run.json", {"origin": "http://evil.example"}, 403),
        ("/run.json", {}, 403),
        ("/wrong/run.json", {}, 403),
        ("/", {}, 403),
    ],
)
def test_what_is_answered_and_what_is_not(server, path, headers, status):
    address = server.address + path if not path.startswith("/") else f"http://127.0.0.1:{server.port}{path}"
    answer = httpx2.get(address, headers=headers, timeout=60)
    assert answer.status_code == status
    assert status == 200 or list(answer.json()) == ["error"]


def test_paths_that_climb_lead_nowhere(server):
    """As bytes on the wire: a client would take the dots away."""
    path = httpx2.URL(server.address).path
    for climb in ("../../../../../../etc/passwd", "..%2f..%2f..%2fetc/passwd", "/etc/passwd", "file:///etc/passwd"):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            host = f"Host: 127.0.0.1:{server.port}\r\nConnection: close\r\n\r\n"
            raw.sendall(f"GET {path}{climb} HTTP/1.1\r\n{host}".encode())
            answer = b"".join(iter(lambda: raw.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 404")
        assert b"root:" not in answer


def test_nothing_but_the_loopback_interface_is_listened_on(server):
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", server.port)).close()


def test_ctrl_c_ends_it_quietly_in_the_middle_of_a_pass(tmp_path):
    path = tmp_path / "dump.safetensors"
    attnviz.save(path, attnviz.synthesize(heads=1, tokens=40_000, head_dim=64))  # seconds of a pass
    process, address = start(path)
    try:
        answer = httpx2.get(f"{address}pass/map/0/0", timeout=60)
        assert answer.json()["rows"] == 40_000
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "", "attnviz: Ctrl-C ends it\n")


def test_a_browser_opens_where_one_is_wanted(run, dump, monkeypatch):
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("attnviz.pages.server.serve", lambda viewer, listening, token: viewer.close())
    result = run("view", dump, "--pattern", "causal", "--no-browser")
    assert (result.code, opened) == (0, [])
    monkeypatch.setattr("threading.Thread.start", lambda self: self.run())
    result = run("view", dump, "--pattern", "causal")
    assert opened == [result.out.strip()]


def test_what_cannot_be_done_is_one_line(refused, dump):
    refused("view", dump, "--no-browser", "--head", "9", says="head 9 is out of range")
    refused("view", dump, "--no-browser", "--port", "99999", says="65535")
    refused("view", dump, "--no-browser", "--memory", "much", says="--memory 'much'")
    refused(
        "view", dump, "--no-browser", "--memory", "3", says="--memory 3 bytes is too small for one row of a picture"
    )
    refused("view", "missing.safetensors", "--no-browser", says="missing.safetensors")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(
            "view", dump, "--no-browser", "--port", port, says=f"--port {port}: Address already in use; choose another"
        )


def test_without_the_extra_it_says_what_to_install(refused, dump, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "attnviz.pages.server", raising=False)
    refused("view", dump, says=r"attnviz view needs uvicorn, which is not installed: pip install 'attnviz\[view\]'")
